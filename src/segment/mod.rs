//! Packs: the permanent home of frames, immutable files of compressed blocks.
//!
//! A [`PackWriter`] makes a pack, and a [`Prover`] reads it back before anybody may rely on it, both at a
//! [`Pace`]; a [`Pack`] is
//! one that is alive; [`Packs`] are all of them, and the only answer to where a run's earlier frames
//! are; [`Blocks`] keeps blocks that were read.
//!
//! Every CRC between disk and caller is checked on load: that of the block, and of each frame in
//! it. Damage costs exactly the range it hits.
//!
//! What it deliberately does not do: decide what is written, or when a pack is dropped; know what a
//! run's state holds.

mod blocks;
mod pace;
mod pack;
mod packs;
mod part;
mod proof;
mod writer;

pub use blocks::Blocks;
pub use pace::{Pace, Steady};
pub use pack::{Pack, Segment};
pub use packs::{Packs, Shelf, names_bytes, read_names};
pub use part::PartFrames;
pub use proof::Prover;
pub use writer::{NewFrame, NewSegment, PackWriter};
