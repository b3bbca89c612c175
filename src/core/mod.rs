//! The state machine of one run: everything that decides, and nothing that acts.
//!
//! [`RunState`] is the fold of a run's frames. A command is admitted by checking it against the
//! state in one fixed order and turning it into a [`Frame`]; that frame is then replayed, by the
//! same code that replays it after a crash. There is no second way to change a state, so what
//! recovery rebuilds is what was served.
//!
//! # Order of checks
//! The first check that fails decides.
//!
//! | # | check | refusal |
//! |---|---|---|
//! | 1 | names and sizes | `Invalid`, `TooLarge` |
//! | 2 | the run exists and is not deleted; `run_uid`, if given, is this one | `RunNotFound`, `RunDeleted`, `RunReplaced` |
//! | 3 | producer epoch not older than known | `StaleEpoch` |
//! | 4 | the same command applied before | **the original answer**, also when closed; other content: `DedupMismatch` |
//! | 6 | run and stream open; metadata and tags up to an hour after the end | `Closed` |
//! | 7 | lease current if given, given if needed | `Fenced`, `LeaseRequired` |
//! | 8 | `expected_seq`, `expected_index` are the tails | `SeqMismatch`, `IndexMismatch` |
//! | 9 | a new producer epoch starts at 0; no gap | `BadEpochStart`, `ProducerGap` |
//! | 10 | what is acked was sent | `BadAck` |
//! | 11 | metadata after the operations fits | `MetadataTooLarge` |
//! | 12 | streams, producers, waits, inputs owed; records and bytes kept | `Limit`, `InputBacklog`, `Quota` |
//! | 13 | accept: seq, index and time assigned; one frame | |
//!
//! 3 before 4: a zombie learns that it is one. 4 before 6: the retry of a final append succeeds.
//! Deleting a deleted run is row 4, before which only its identity is checked.
//! Row 5 of the protocol's table, single-use tokens, is for whoever checks credentials.
//!
//! What it deliberately does not do: read files or clocks, draw random numbers, wait. What a
//! command is decided by besides the run's state is its [`Context`]; identities are arguments. It
//! also does not know what is durable: its state runs ahead of the disk, and whoever shows
//! anything of it waits until the frames behind it are synced.
//!
//! [`Frame`]: crate::format::frame::Frame

mod append;
mod bridge;
mod command;
mod commit;
mod create;
mod digest;
mod draft;
mod inbox;
mod lease;
mod life;
pub mod metadata;
mod outbox;
mod past;
mod refusal;
mod replay;
mod retention;
mod send;
mod snapshot;
mod state;
mod wait;

pub use append::{Append, NewRecord, Producer};
pub use command::{Context, Decision};
pub use commit::{Ack, AppliedRequest, Commit, Committed, StreamAppend, Then};
pub use create::{Create, NewRun};
pub use inbox::{Consumer, DEFAULT_CONSUMER, Inbox};
pub use lease::{
    Cancel, CancelRun, Canceled, Claim, ClaimFrom, Claimed, Lease, Life, Release, ReleaseTo,
    Reschedule,
};
pub use life::{Close, CloseStream, Closed, Delete, Deleted, StreamEnd, Trim};
pub use metadata::{Action, Operation};
pub use outbox::Delivery;
pub use past::{At, Fold, NoPast, Past};
pub use refusal::Refusal;
pub use replay::{Facts, StreamSpan};
pub use retention::{AtLimit, Limits, Retention, UnknownAtLimit};
pub use send::{Send, Sent};
pub use state::{Appended, Ending, ProducerState, Remembered, RunState, StreamState};
pub use wait::Wait;
