//! The store: runs, their commands and readers over one journal.
//!
//! ```text
//! caller ──permit──▶ shard (lock: state machine decides, frame is encoded) ──▶ commit queue
//!    ▲                                                                              │
//!    └── answer ◀── visible to readers ◀── block written and synced ◀── committer ◀─┘
//! ```
//! * A record is visible, and its append acknowledged, only when it is on disk; a refusal that
//!   depends on state is given only when that state is.
//! * Readers pull at their own pace, from the ring of recent frames or from disk.
//! * A failed write or sync stops the store; it is opened again, never retried.
//!
//! What it deliberately does not do: know who is asking, or speak a protocol.

mod admission;
mod agenda;
mod attend;
mod catalog;
mod claims;
mod collect;
mod commit;
mod decide;
mod find;
mod flush;
mod flush_queue;
mod history;
mod hub;
mod inputs;
mod keys;
mod list;
mod open;
mod options;
mod past;
mod pool;
mod published;
mod queue;
mod read;
mod reader;
mod request;
mod rhythm;
#[cfg(all(test, feature = "sim"))]
mod scene;
mod select;
mod shard;
mod shared;
mod start;
mod stats;
#[cfg(feature = "sim")]
mod stepper;
mod store;
mod supply;
mod tail;
mod ticket;
mod tokens;
mod waiters;
mod watch;
mod work;

pub use commit::Progress;
pub use flush::Flushed;
pub use inputs::Receiver;
pub use open::Opened;
pub use options::Options;
pub use request::{
    Acked, AcquireLease, AddedItems, Batch, BatchItem, Bounds, CanceledRun, ClaimRun, ClaimedRun,
    ClosedRun, CommittedTurn, CompletedToken, CreateBatch, CreateToken, CreatedBatch, CreatedRun,
    CreatedToken, DEFAULT_NAMESPACE, End, Gap, Input, InputConsumer, InputsEnd, ListPosition,
    ListRuns, OwedInputs, Page, Query, Received, Records, Renewed, RunEnd, RunInfo, RunKey,
    RunPage, RunTail, Start, StreamInfo, StreamList, TailItem, TokenPage, WaitToken, WatchItem,
    WatchQuery, WatchRuns, WatchScope,
};
pub use stats::{CacheUse, DiskUse, FlushLag, JournalSlots, Stats};
#[cfg(feature = "sim")]
pub use stepper::Stepper;
pub use store::{IfAbsent, Store};
pub use tail::Tail;
pub use ticket::Ticket;
pub use watch::Watch;
