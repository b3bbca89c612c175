//! braidlog: a durable log-structured stream store.
//!
//! Every *run* (a background task, an agent's session) has one append-only log. Output chunks and
//! the events of the run's life are records of that log, each with a dense number. A record is
//! acknowledged, and visible, only when it is on disk. A reader resumes from a number or a cursor
//! and sees every record exactly once, in order, across restarts. Thousands of runs share one
//! group-committed journal, so a sync is paid per commit, not per run.
//!
//! This crate is the store as a library ([`Store`]), its gRPC services and client, and the
//! `braidlog` binary, which is both. An embedder takes `default-features = false`.
//!
//! ```
//! use braidlog::{Append, IfAbsent, NewRecord, Options, Query, RunKey, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let store = Store::open(Options::new(folder.path().join("data")))?;
//! let run = RunKey::new("run_42");
//! let append = Append {
//!     stream: "tokens".into(),
//!     records: vec![NewRecord::new("Hello"), NewRecord::new(", world")],
//!     ..Append::default()
//! };
//! let appended = store.append(&run, append, IfAbsent::Create).await?;
//! assert_eq!(appended.first_index.0, 0); // on disk when this line is reached
//!
//! let page = store.read(Query::stream(run, "tokens")).await?;
//! let text: Vec<u8> = page.records.decode()?.into_iter().flat_map(|record| record.data).collect();
//! assert_eq!(text, b"Hello, world");
//! store.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Words
//! | word | meaning |
//! |---|---|
//! | run | owns one *log*; has a name (`run_id`) and an identity (`run_uid`): a name used again is another run |
//! | record | one output chunk, input message, metadata change or lifecycle event |
//! | `seq` | dense position of a record in its run's log, from 0 |
//! | stream | a named sub-sequence of a run's log; stream 0 is `$run`: lifecycle and metadata |
//! | `index` | dense position of a record in its stream, from 0 |
//! | frame | one atomic append: unit of checksum, acknowledgement and transfer |
//! | commit block | one group commit in the journal: frames of many runs |
//! | slot | one fixed, zero-filled journal file |
//! | cursor | where a reader resumes, with proof of what it has seen |
//! | `trim <= durable <= tail` | exclusive ends: below `trim` gone; below `durable` on disk and visible; `tail` the next to assign |
//!
//! # Invariants
//! 1. Everything visible is durable: records, tails, lists, and refusals that depend on state.
//! 2. A `(run_uid, seq)` and a `(run_uid, stream, index)` never have two contents.
//! 3. A frame is there whole or not at all.
//! 4. The state of a run is the fold of its frames. There is no second implementation for recovery.
//! 5. A decoder returns what it found; it never repairs. Torn is cut, corrupt is refused.
//! 6. A failed sync ends the store. It is never retried.
//! 7. File names are built from integers; user text never becomes a path.
//! 8. Every queue, table and buffer has a limit and a behaviour at the limit.
//!
//! # Modules, lowest first
//! [`record`] names and limits · [`proto`] generated messages · [`platform`] the seam to the
//! operating system · [`format`](mod@format) bytes on disk · [`core`] the state machine of a run ·
//! [`error`] · [`index`] which runs have a tag, derived · [`journal`] blocks in slots · [`manifest`]
//! the live file set · [`segment`] packs of compressed frames · [`recovery`] plan,
//! then act · [`offline`] a directory looked at from outside · [`engine`] the store. Above it, by feature: `grpc`, `client`,
//! `present`, `config` and `cli`.
//! Each module names only those before it; `tests/tidy.rs` holds the code to that.

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
pub mod core;
pub mod engine;
pub mod error;
pub mod format;
#[cfg(feature = "rpc")]
pub mod grpc;
pub mod index;
pub mod journal;
pub mod manifest;
pub mod offline;
pub mod platform;
#[cfg(feature = "text")]
pub mod present;
pub mod proto;
pub mod record;
pub mod recovery;
#[cfg(feature = "sabotage")]
pub mod sabotage;
#[cfg(not(feature = "sabotage"))]
mod sabotage;
pub mod segment;

#[doc(inline)]
pub use crate::{
    core::{
        Ack, Action, Append, Appended, At, AtLimit, CancelRun, Claimed, Close, CloseStream, Commit,
        Committed, Create, Delete, Deleted, NewRecord, Operation, Producer, Refusal, Release,
        ReleaseTo, Reschedule, Retention, Send, Sent, StreamAppend, StreamEnd, Then, Trim, Wait,
    },
    engine::{
        Acked, AcquireLease, AddedItems, Batch, BatchItem, Bounds, CanceledRun, ClaimRun,
        ClaimedRun, ClosedRun, CommittedTurn, CompletedToken, CreateBatch, CreateToken,
        CreatedBatch, CreatedRun, CreatedToken, End, Gap, IfAbsent, Input, InputConsumer,
        InputsEnd, ListPosition, ListRuns, Options, OwedInputs, Page, Query, Received, Receiver,
        Records, Renewed, RunEnd, RunInfo, RunKey, RunPage, RunTail, Start, Stats, Store,
        StreamInfo, StreamList, Tail, TailItem, Ticket, TokenPage, WaitToken, Watch, WatchItem,
        WatchQuery, WatchRuns, WatchScope,
    },
    error::{Corruption, Error, OpenError},
    format::{compress::Codec, cursor::Cursor},
    proto::{Header, Kind, Outcome, Record, RunError, RunSpec, RunStatus, RunUpdated},
    record::{Index, RunUid, Seq, StreamNo},
};
