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
//! | 6 | run and stream open | `Closed` |
//! | 8 | `expected_seq`, `expected_index` are the tails | `SeqMismatch`, `IndexMismatch` |
//! | 9 | a new producer epoch starts at 0; no gap | `BadEpochStart`, `ProducerGap` |
//! | 12 | streams, producers; records and bytes kept | `Limit`, `Quota` |
//! | 13 | accept: seq, index and time assigned; one frame | |
//!
//! 3 before 4: a zombie learns that it is one. 4 before 6: the retry of a final append succeeds.
//! Deleting a deleted run is row 4, before which only its identity is checked.
//! Rows 5, 7, 10 and 11 of the protocol's table concern commands that do not exist yet.
//!
//! What it deliberately does not do: read files or clocks, draw random numbers, wait. What a
//! command is decided by besides the run's state is its [`Context`]; identities are arguments. It
//! also does not know what is durable: its state runs ahead of the disk, and whoever shows
//! anything of it waits until the frames behind it are synced.
//!
//! [`Frame`]: crate::format::frame::Frame

mod append;
mod command;
mod create;
mod life;
mod refusal;
mod replay;
mod retention;
mod snapshot;
mod state;

pub use append::{Append, NewRecord, Producer};
pub use command::{Context, Decision};
pub use create::{Create, NewRun};
pub use life::{Close, CloseStream, Closed, Delete, Deleted, StreamEnd, Trim};
pub use refusal::Refusal;
pub use replay::{Facts, StreamSpan};
pub use retention::{AtLimit, Limits, Retention, UnknownAtLimit};
pub use state::{Appended, Ending, ProducerState, Remembered, RunState, StreamState};
