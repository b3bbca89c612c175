//! The secondary index: which runs, newest first, have this tag, batch, task or status.
//!
//! It is derived. Losing it loses nothing: it is built again from the runs. So it may forget
//! everything and say so; what it may not do is panic, hang, or leave out a run in silence.
//!
//! Promises:
//! * [`SecondaryIndex::apply`] is all or nothing, and repeating it changes nothing.
//! * A scan gives the runs of its list in order of [`Position`], newest first, each once, and says
//!   where to go on if there may be more.
//! * [`GuardedIndex`] keeps a panic or a hang of the database beneath to itself, and gives an index
//!   to be used only after every byte of it was compared with the sum of all it should hold.
//! * Every [`IndexError`] means the same to a caller: answer without the index, and open it again.
//!
//! What it deliberately does not do: hold anything that is not elsewhere, decide whether a run
//! *now* has what was asked for (a hit is as old as [`SecondaryIndex::applied_block`], and two
//! names may share a hash: check every hit against the run), or survive an error in place.
//!
//! Two implementations pass the same tests: [`MemoryIndex`], and one on sled (feature `sled`) that
//! is reached through [`GuardedIndex`] only.

use std::{io, ops::Range, sync::Arc, time::Duration};

mod guard;
mod guarded;
mod memory;

#[cfg(feature = "sled")]
mod generation;
#[cfg(feature = "sled")]
mod leaf;
#[cfg(feature = "sled")]
mod tree;

pub use guarded::{GuardedIndex, Opened, State};
pub use memory::MemoryIndex;

use crate::{
    core::RunState,
    record::{RunNo, name_hash},
};

/// Changes of one [`SecondaryIndex::apply`], at most: what they touch is held in memory at once.
pub const APPLY_CHANGES_MAX: usize = 1_000;
/// Rows that one scan looks at, at most, whatever its limit.
pub const SCAN_ROWS_MAX: usize = 10_000;
/// The status that has no list of its own, because most runs end in it: its runs are found by
/// looking through all. A list would cost every run an entry, to skip the few that are open or
/// failed; where those are many, the bound on a scan's work holds.
pub const STATUS_COMPLETED: u8 = 7;

/// What is indexed of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Namespace of the run. Fixed for its life.
    pub namespace: Arc<str>,
    /// Name of the run.
    pub run_id: Arc<str>,
    /// Number of the run. Fixed for its life, and never another run's.
    pub run_no: RunNo,
    /// Milliseconds since the Unix epoch of the creation. Fixed for its life.
    pub created_ms: u64,
    /// Number of the status, as in `RunStatus`.
    pub status: u8,
    /// Task, or empty.
    pub task: Arc<str>,
    /// Tags. Order and repetition do not matter.
    pub tags: Vec<Arc<str>>,
    /// Batch, or empty.
    pub batch: Arc<str>,
}

/// The label of runs that a run has started, among the tags. A tag may read the same: whoever lists
/// looks at the runs themselves.
pub fn parent_label(parent: &str) -> Arc<str> {
    format!("$parent:{:016x}", name_hash("", parent)).into()
}

impl Row {
    /// What is indexed of a run that stands like this.
    pub fn of(state: &RunState) -> Self {
        let parent = &state.spec.parent_run_id;
        let parent = (!parent.is_empty()).then(|| parent_label(parent));
        Self {
            namespace: state.namespace.clone(),
            run_id: state.run_id.clone(),
            run_no: state.run_no,
            created_ms: state.created_ms,
            status: state.status() as u8,
            task: state.task.clone(),
            tags: state.tags.iter().cloned().chain(parent).collect(),
            batch: state.batch.clone(),
        }
    }

    /// Where the run stands in every list that has it.
    pub fn position(&self) -> Position {
        Position { created_ms: self.created_ms, run_no: self.run_no }
    }

    /// The lists that have the run, each once. [`STATUS_COMPLETED`] has none.
    pub fn lists(&self) -> Vec<By> {
        let mut lists = vec![By::All];
        lists.extend(self.tags.iter().cloned().map(By::Tag));
        lists.extend((!self.batch.is_empty()).then(|| By::Batch(self.batch.clone())));
        lists.extend((!self.task.is_empty()).then(|| By::Task(self.task.clone())));
        lists.extend((self.status != STATUS_COMPLETED).then_some(By::Status(self.status)));
        lists.sort_unstable();
        lists.dedup();
        lists
    }
}

/// One step of keeping the index up with the runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The run is as in this row, whatever the index knew of it.
    Put(Row),
    /// The run is gone. Nothing happens if the index does not know it.
    Remove {
        /// Namespace of the run.
        namespace: Arc<str>,
        /// Creation and number of the run.
        position: Position,
    },
}

/// Creation, then number: the order of every list. A scan goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Milliseconds since the Unix epoch of the creation.
    pub created_ms: u64,
    /// Number of the run.
    pub run_no: RunNo,
}

/// The condition that chooses the list. Further ones are the caller's to check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// Every run of the namespace.
    All,
    /// Runs with this tag.
    Tag(Arc<str>),
    /// Runs of this batch.
    Batch(Arc<str>),
    /// Runs of this task.
    Task(Arc<str>),
    /// Runs with this status.
    Status(u8),
}

impl By {
    /// The list to look through, and the status to look for there.
    fn list(&self) -> (By, Option<u8>) {
        match self {
            Self::Status(STATUS_COMPLETED) => (Self::All, Some(STATUS_COMPLETED)),
            list => (list.clone(), None),
        }
    }
}

/// A question to the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Namespace of the runs.
    pub namespace: Arc<str>,
    /// The condition.
    pub by: By,
    /// When the runs were created, in milliseconds since the Unix epoch.
    pub created_ms: Range<u64>,
    /// Start behind this position, as [`Found::next`] gave it; none is at the newest.
    pub after: Option<Position>,
    /// Hits wanted, at most. None is taken for one.
    pub limit: usize,
}

impl Scan {
    /// Positions in question: from the first, inclusive, to the second, exclusive.
    fn positions(&self) -> Range<Position> {
        let first_of = |created_ms| Position { created_ms, run_no: RunNo(0) };
        let end = first_of(self.created_ms.end);
        first_of(self.created_ms.start)..self.after.map_or(end, |after| after.min(end))
    }
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Creation and number of the run.
    pub position: Position,
    /// Name of the run.
    pub run_id: Arc<str>,
    /// Number of its status.
    pub status: u8,
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Runs, newest first. May be fewer than asked for although there are more: see `next`.
    pub hits: Vec<Hit>,
    /// Where to go on: not everything was looked at. None: there is nothing more.
    pub next: Option<Position>,
}

impl Found {
    /// Takes from the rows of a list, newest first, what a scan wants of it.
    fn gather(
        scan: &Scan,
        status: Option<u8>,
        rows: impl Iterator<Item = Result<Hit, IndexError>>,
    ) -> Result<Self, IndexError> {
        let mut found = Self::default();
        let mut last = None;
        for (looked_at, row) in rows.enumerate() {
            if scan.limit.max(1) <= found.hits.len() || SCAN_ROWS_MAX <= looked_at {
                found.next = last;
                break;
            }
            let hit = row?;
            last = Some(hit.position);
            if status.is_none_or(|status| status == hit.status) {
                found.hits.push(hit);
            }
        }
        Ok(found)
    }
}

/// Lists of runs, kept up by changes.
// Whether there are no runs at all is a question that nobody has.
#[allow(clippy::len_without_is_empty)]
pub trait SecondaryIndex: Send {
    /// Makes the changes, one after the other, and notes that every block below `applied_block`
    /// is in the index; all of it or nothing.
    ///
    /// At 0 the index is being built. One that is closed then is discarded when it is opened.
    ///
    /// # Errors
    /// [`IndexError::TooManyChanges`] leaves the index as it was and in use.
    fn apply(&mut self, changes: &[Change], applied_block: u64) -> Result<(), IndexError>;
    /// The runs of a list, newest first.
    fn scan(&self, scan: &Scan) -> Result<Found, IndexError>;
    /// Exclusive end of the blocks that are in the index.
    fn applied_block(&self) -> Result<u64, IndexError>;
    /// How many runs the index has.
    fn len(&self) -> Result<u64, IndexError>;
    /// Bytes of its files.
    fn bytes_on_disk(&self) -> Result<u64, IndexError>;
}

/// Refuses more changes than one apply takes.
fn check_count(changes: &[Change]) -> Result<(), IndexError> {
    if changes.len() <= APPLY_CHANGES_MAX {
        return Ok(());
    }
    Err(IndexError::TooManyChanges { found: changes.len() })
}

/// How an index is opened.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Identity of the store: an index of another one is not used.
    pub store: [u8; 16],
    /// Bytes of the database's cache.
    pub cache_bytes: u64,
    /// How long opening the database may take.
    pub open_timeout: Duration,
    /// How long the index may go without finishing a call that waits.
    pub call_timeout: Duration,
}

impl IndexOptions {
    /// The usual options, for a store with this identity.
    pub fn new(store: [u8; 16]) -> Self {
        Self {
            store,
            cache_bytes: 32 << 20,
            open_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// Why there is no answer.
///
/// After every one but [`IndexError::TooManyChanges`] the index is not used again, and every later
/// call gives the first error. Answer without it, and open it again: it comes back as it was if it
/// is sound, else empty.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The caller asked for too much at once. The index goes on.
    #[error("{found} changes at once, {APPLY_CHANGES_MAX} at most are taken")]
    TooManyChanges {
        /// Changes given.
        found: usize,
    },
    /// The database took too long; it was left behind with its thread and its memory.
    #[error("{operation} the index took longer than {timeout:?}")]
    TimedOut {
        /// What it was doing.
        operation: &'static str,
        /// How long it had.
        timeout: Duration,
    },
    /// The database panicked; it was left behind with its memory.
    #[error("{operation} the index panicked: {message}")]
    Panicked {
        /// What it was doing.
        operation: &'static str,
        /// What it said.
        message: Arc<str>,
    },
    /// The database or the system failed.
    #[error("{operation} the index: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// What is stored is not what was stored.
    #[error("the index is not sound: {0}")]
    Unsound(Unsound),
    /// It was closed.
    #[error("the index is closed")]
    Closed,
}

/// What is wrong with a stored index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// It failed before and was set aside then.
    #[error("it was set aside after a failure")]
    SetAside,
    /// It says nothing of what it holds, or not in this version's words.
    #[error("it has no summary")]
    NoSummary,
    /// It belongs to another store.
    #[error("it belongs to another store")]
    OtherStore,
    /// It was not built to the end.
    #[error("it was not built to the end")]
    Unfinished,
    /// Leaves are missing, changed or left over.
    #[error("its leaves do not add up: {found} of {expected}")]
    Sum {
        /// Leaves there.
        found: u64,
        /// Leaves that should be there.
        expected: u64,
    },
    /// A leaf cannot be read.
    #[error("a leaf is malformed")]
    Leaf,
    /// A list names a run that is not there.
    #[error("a list names a run that is not there")]
    Run,
}
