//! The index as the store uses it: stored if there is a database, and safe to have around.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Once},
    time::Duration,
};

use super::{
    Change, Found, IndexError, IndexOptions, Scan, SecondaryIndex, check_count, guard::Guard,
};

/// What the guard's thread owns.
#[cfg(not(feature = "sled"))]
type Stored = super::MemoryIndex;
#[cfg(feature = "sled")]
type Stored = super::tree::SledIndex;

/// An index that neither panics nor hangs, whatever its database does.
///
/// A clone is the same index: one thread brings it up to date, others scan; calls are answered in
/// turn. After a failure the stored index is set aside, so that it is not opened again. Whoever
/// opens an index after every failure should wait longer each time: a database that hung keeps its
/// memory.
///
/// When the last clone is dropped the index is closed in the background; [`GuardedIndex::close`]
/// waits for that. One that was not closed may come back as it was a little earlier.
#[derive(Clone)]
pub struct GuardedIndex {
    shared: Arc<Shared>,
}

struct Shared {
    guard: Guard<Stored>,
    timeout: Duration,
    set_aside: Box<dyn Fn() + Send + Sync>,
    once: Once,
}

/// What an index holds when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All runs as of a block. Apply what came since, or build it anew if that is not known.
    Usable {
        /// Exclusive end of the blocks that are in the index. Never 0.
        applied_block: u64,
    },
    /// Nothing. Put every run, at block 0, and the last ones at the block they are true for. Do
    /// not scan before that.
    Empty,
}

/// An index that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The index.
    pub index: GuardedIndex,
    /// What it holds.
    pub state: State,
    /// Why the index that was there is not used; none if there was none, or if it is this one.
    pub discarded: Option<IndexError>,
}

impl GuardedIndex {
    /// Opens the index of a directory that is its own, or starts an empty one there.
    ///
    /// What is there is used only if all of it adds up to what was written. That is read through
    /// once: seconds for some million runs. Call it from a thread that may wait.
    ///
    /// # Errors
    /// If not even an empty index can be started.
    #[cfg(feature = "sled")]
    pub fn open(dir: &Path, options: &IndexOptions) -> Result<Opened, IndexError> {
        super::generation::open(dir, options)
    }

    /// Starts an empty index in memory: there is no database.
    ///
    /// # Errors
    /// If its thread cannot be started.
    #[cfg(not(feature = "sled"))]
    pub fn open(_dir: &Path, options: &IndexOptions) -> Result<Opened, IndexError> {
        let guard = Guard::start(options.open_timeout, || Ok(Stored::new()))?;
        let index = Self::new(guard, options.call_timeout, || {});
        Ok(Opened { index, state: State::Empty, discarded: None })
    }

    /// An index that is set aside by this function should it fail.
    pub(super) fn new(
        guard: Guard<Stored>,
        timeout: Duration,
        set_aside: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared { guard, timeout, set_aside: Box::new(set_aside), once: Once::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Writes everything to disk and ends the use of this index and of its clones.
    ///
    /// # Errors
    /// The first failure. The index is checked when it is opened the next time, as always.
    pub fn close(self) -> Result<(), IndexError> {
        self.shared.guard.close(self.shared.timeout)
    }

    /// Why the index is not used any more, if so.
    pub fn failure(&self) -> Option<IndexError> {
        self.shared.guard.failure().cloned()
    }

    fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&mut Stored) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let Shared { guard, timeout, set_aside, once } = &*self.shared;
        guard.call(operation, *timeout, body).inspect_err(|error| {
            if !matches!(error, IndexError::Closed) {
                once.call_once(set_aside);
            }
        })
    }
}

impl fmt::Debug for GuardedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedIndex").field("failure", &self.failure()).finish_non_exhaustive()
    }
}

impl SecondaryIndex for GuardedIndex {
    fn apply(&mut self, changes: &[Change], applied_block: u64) -> Result<(), IndexError> {
        check_count(changes)?;
        let changes = changes.to_vec();
        self.call("changing", move |index| index.apply(&changes, applied_block))
    }

    fn scan(&self, scan: &Scan) -> Result<Found, IndexError> {
        let scan = scan.clone();
        self.call("reading", move |index| index.scan(&scan))
    }

    fn applied_block(&self) -> Result<u64, IndexError> {
        self.call("reading", |index| index.applied_block())
    }

    fn len(&self) -> Result<u64, IndexError> {
        self.call("reading", |index| index.len())
    }

    fn bytes_on_disk(&self) -> Result<u64, IndexError> {
        self.call("measuring", |index| index.bytes_on_disk())
    }
}

#[cfg(feature = "sled")]
#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::index::Unsound;

    fn options() -> IndexOptions {
        IndexOptions::new([1; 16])
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect()
    }

    /// Opens an index that is usable, has it fail, and opens it again.
    fn demand_another_after(fail: impl FnOnce(&GuardedIndex)) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = GuardedIndex::open(dir.path(), &options()).unwrap().index;
        index.apply(&[], 1).unwrap();
        fail(&index);
        let failure = index.failure().unwrap().to_string();
        assert_eq!(index.apply(&[], 2).unwrap_err().to_string(), failure);
        assert_eq!(names(dir.path()), ["gen-000001.bad"]);
        let again = GuardedIndex::open(dir.path(), &options()).unwrap();
        assert_eq!(again.state, State::Empty);
        assert!(matches!(again.discarded, Some(IndexError::Unsound(Unsound::SetAside))));
        assert_eq!(names(dir.path()), ["gen-000002"]);
    }

    #[test]
    fn an_index_that_panicked_is_not_opened_again() {
        demand_another_after(|index| {
            index.call("breaking", |_| -> Result<(), _> { panic!("planted") }).unwrap_err();
        });
    }

    #[test]
    fn an_index_that_hung_is_not_opened_again() {
        demand_another_after(|index| {
            let slow = |_: &mut Stored| {
                thread::sleep(Duration::from_secs(1));
                Ok(())
            };
            let call = index.shared.guard.call("sleeping", Duration::from_millis(10), slow);
            assert!(matches!(call, Err(IndexError::TimedOut { .. })));
            index.len().unwrap_err();
        });
    }

    #[test]
    fn an_index_that_was_closed_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = GuardedIndex::open(dir.path(), &options()).unwrap().index;
        index.apply(&[], 1).unwrap();
        let other = index.clone();
        index.close().unwrap();
        assert!(matches!(other.len(), Err(IndexError::Closed)));
        let again = GuardedIndex::open(dir.path(), &options()).unwrap();
        assert_eq!(again.state, State::Usable { applied_block: 1 });
        assert!(again.discarded.is_none());
    }
}
