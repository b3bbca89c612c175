//! The shared journal: slots of commit blocks, written, synced and scanned.
//!
//! A slot is a zero-filled file with a header page and commit blocks behind each other. Blocks are
//! numbered densely over the life of the store and chained by the CRC of their headers. Only one
//! block at a time is not known to be durable: the next is written after the sync of the one
//! before returned (depth 1).
//!
//! [`scan`] reads, [`BlockWriter`] writes, [`prepare`] makes zero-filled slots ahead of need,
//! [`FrameReader`] finds single frames again. The same blocks and code serve the manifest.
//!
//! What it deliberately does not do: decide which slots belong to the log (that is the manifest's),
//! know what a run is, retry anything, or own a thread.

mod frames;
mod prepare;
pub mod scan;
mod writer;

pub use frames::{FrameAt, FrameReader, MaskedBlock, RetiredSlot};
pub use prepare::{ReadySlot, prepare, prepare_again};
pub use writer::{BlockPlace, BlockWriter};
