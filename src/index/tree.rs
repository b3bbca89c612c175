//! The index on sled: leaves in one tree, changed in one batch.
//!
//! Promises that a batch holds the leaves, the summary and the applied block together, and that
//! [`SledIndex::verify`] compares all that is stored with the summary.
//!
//! What it deliberately does not do: survive sled. It panics on damage, may hang, opens a
//! truncated file without a word, and ends a flush without a sync. [`super::guard`] is the only
//! way to this, and a crash takes it back to an earlier block or to one that is not sound.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, Range},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::{
    By, Change, Found, Hit, IndexError, IndexOptions, Position, Row, Scan, SecondaryIndex, Unsound,
    check_count,
    leaf::{self, Entry, Fill, KEY_BYTES, Key, ListId, Run, SUMMARY_KEY, Summary, Total},
};
use crate::platform::os;

/// Leaves that one step of verifying looks at, at most: so few that a step is never slow.
const VERIFY_STEP_LEAVES: usize = 10_000;
/// How often sled syncs its file, and looks for space to use again.
const FLUSH_EVERY_MS: u64 = 500;
/// How long another handle on the database may take to go away.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// An index in a directory.
#[derive(Debug)]
pub(super) struct SledIndex {
    tree: sled::Db,
    summary: Summary,
    verified: Verified,
}

/// How far the stored bytes were compared with the summary.
#[derive(Debug, Default)]
struct Verified {
    /// The key to go on behind.
    until: Option<sled::IVec>,
    total: Total,
}

/// What a step of verifying came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

fn failed(operation: &'static str) -> impl FnOnce(sled::Error) -> IndexError {
    move |error| IndexError::Io { operation, source: Arc::new(error.into()) }
}

fn open_tree(dir: &Path, options: &IndexOptions) -> Result<sled::Db, IndexError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(options.cache_bytes)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    config.open().map_err(failed("opening"))
}

impl SledIndex {
    /// A new index, without runs, in a directory without files.
    pub(super) fn create(dir: &Path, options: &IndexOptions) -> Result<Self, IndexError> {
        let tree = open_tree(dir, options)?;
        let summary = Summary::empty(options.store);
        tree.insert(SUMMARY_KEY, summary.encode()).map_err(failed("creating"))?;
        Ok(Self { tree, summary, verified: Verified::default() })
    }

    /// The index of a directory. It is used only after [`SledIndex::verify`] is done.
    pub(super) fn open(dir: &Path, options: &IndexOptions) -> Result<Self, IndexError> {
        // Jobs that sled left behind when it was closed hold its lock for a little longer.
        os::wait_unlocked(&dir.join("db"), LOCK_PATIENCE);
        let tree = open_tree(dir, options)?;
        let bytes = tree.get(SUMMARY_KEY).map_err(failed("opening"))?;
        let summary = bytes.and_then(|bytes| Summary::decode(&bytes));
        let summary = summary.ok_or(IndexError::Unsound(Unsound::NoSummary))?;
        let unsound = if summary.store != options.store {
            Some(Unsound::OtherStore)
        } else {
            (summary.applied_block == 0).then_some(Unsound::Unfinished)
        };
        match unsound {
            Some(unsound) => Err(IndexError::Unsound(unsound)),
            None => Ok(Self { tree, summary, verified: Verified::default() }),
        }
    }

    /// Adds up more leaves, and at the end compares them with the summary.
    pub(super) fn verify(&mut self) -> Result<Progress, IndexError> {
        let Verified { until, total } = &mut self.verified;
        let rows = match until.take() {
            Some(until) => {
                self.tree.range::<sled::IVec, _>((Bound::Excluded(until), Bound::Unbounded))
            }
            None => self.tree.iter(),
        };
        for row in rows.take(VERIFY_STEP_LEAVES) {
            let (key, leaf) = row.map_err(failed("verifying"))?;
            if key != SUMMARY_KEY {
                total.add(&key, &leaf);
            }
            *until = Some(key);
        }
        if until.is_some() {
            return Ok(Progress::More);
        }
        let (found, expected) = (total.leaves, self.summary.total.leaves);
        if *total == self.summary.total {
            return Ok(Progress::Done);
        }
        Err(IndexError::Unsound(Unsound::Sum { found, expected }))
    }

    /// The leaf that a position of a list belongs to, if it is there, and its key.
    fn leaf_of(
        &self,
        list: ListId,
        position: Position,
    ) -> Result<Option<(Key, sled::IVec)>, IndexError> {
        let keys = Key::first(list).encode()..=Key::new(list, position).encode();
        let Some(row) = self.tree.range(keys).next_back() else { return Ok(None) };
        let (key, leaf) = row.map_err(failed("reading"))?;
        let key = Key::decode(&key).ok_or(IndexError::Unsound(Unsound::Leaf))?;
        Ok(Some((key, leaf)))
    }

    /// How to divide a leaf. New runs come to the last one of a list.
    fn fill_of(&self, key: Key) -> Result<Fill, IndexError> {
        let behind = (Bound::Excluded(key.encode()), Bound::Included(Key::last(key.list).encode()));
        let next = self.tree.range::<[u8; KEY_BYTES], _>(behind).next().transpose();
        let is_last = next.map_err(failed("reading"))?.is_none();
        Ok(if is_last { Fill::Whole } else { Fill::Half })
    }

    /// The runs of a list at these positions, newest first.
    fn rows(&self, list: ListId, positions: Range<Position>) -> Rows {
        let keys = Key::first(list).encode()..Key::new(list, positions.end).encode();
        Rows { leaves: self.tree.range(keys), entries: Vec::new(), positions }
    }
}

/// Walks a list from its newest run down.
struct Rows {
    leaves: sled::Iter,
    /// What is left of the leaf.
    entries: Vec<Entry>,
    positions: Range<Position>,
}

impl Rows {
    fn leaf(&mut self) -> Option<Result<Vec<Entry>, IndexError>> {
        let leaf = self.leaves.next_back()?.map_err(failed("reading"));
        Some(leaf.and_then(|(_, leaf)| entries(&leaf)))
    }
}

impl Iterator for Rows {
    type Item = Result<Entry, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.entries.pop() {
                Some(entry) if entry.position < self.positions.start => return None,
                Some(entry) if entry.position < self.positions.end => return Some(Ok(entry)),
                Some(_) => {}
                None => match self.leaf()? {
                    Ok(entries) => self.entries = entries,
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}

fn entries(leaf: &[u8]) -> Result<Vec<Entry>, IndexError> {
    leaf::decode(leaf).ok_or(IndexError::Unsound(Unsound::Leaf))
}

fn hit(entry: &Entry) -> Result<Hit, IndexError> {
    let run = Run::decode(&entry.value).ok_or(IndexError::Unsound(Unsound::Leaf))?;
    Ok(Hit { position: entry.position, run_id: run.run_id.into(), status: run.status })
}

/// The list of all runs, read in order of position, with the leaf read last kept.
struct Runs<'a> {
    index: &'a SledIndex,
    list: ListId,
    leaf: Option<(Key, Vec<Entry>)>,
}

impl Runs<'_> {
    fn hit(&mut self, position: Position) -> Result<Hit, IndexError> {
        let found = self.index.leaf_of(self.list, position)?;
        let (key, bytes) = found.ok_or(IndexError::Unsound(Unsound::Run))?;
        if self.leaf.as_ref().is_none_or(|(kept, _)| *kept != key) {
            self.leaf = Some((key, entries(&bytes)?));
        }
        let entries = self.leaf.as_ref().map_or(&[][..], |(_, entries)| entries);
        let at = entries.binary_search_by_key(&position, |entry| entry.position);
        at.map_or(Err(IndexError::Unsound(Unsound::Run)), |at| hit(&entries[at]))
    }
}

impl SecondaryIndex for SledIndex {
    fn apply(&mut self, changes: &[Change], applied_block: u64) -> Result<(), IndexError> {
        check_count(changes)?;
        let mut edit = Edit { index: self, leaves: BTreeMap::new(), summary: self.summary };
        for change in changes {
            match change {
                Change::Put(row) => edit.put(row)?,
                Change::Remove { namespace, position } => edit.remove(namespace, *position)?,
            }
        }
        let (batch, summary) = edit.finish(applied_block)?;
        self.tree.apply_batch(batch).map_err(failed("changing"))?;
        // Also so that few writes are ever under way: when all of sled's threads have one in hand
        // while it waits for another of its own jobs, to cut the file, it waits for ever.
        self.tree.flush().map_err(failed("changing"))?;
        self.summary = summary;
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> Result<Found, IndexError> {
        let (by, status) = scan.by.list();
        let all = ListId::new(&scan.namespace, &By::All);
        let list = ListId::new(&scan.namespace, &by);
        let rows = self.rows(list, scan.positions());
        if list == all {
            return Found::gather(scan, status, rows.map(|entry| entry.and_then(|e| hit(&e))));
        }
        let mut runs = Runs { index: self, list: all, leaf: None };
        let hits = rows.map(|entry| entry.and_then(|entry| runs.hit(entry.position)));
        Found::gather(scan, status, hits)
    }

    fn applied_block(&self) -> Result<u64, IndexError> {
        Ok(self.summary.applied_block)
    }

    fn len(&self) -> Result<u64, IndexError> {
        Ok(self.summary.runs)
    }

    fn bytes_on_disk(&self) -> Result<u64, IndexError> {
        self.tree.size_on_disk().map_err(failed("measuring"))
    }
}

/// Leaves on their way from the tree to a batch.
struct Edit<'a> {
    index: &'a SledIndex,
    leaves: BTreeMap<Key, Staged>,
    summary: Summary,
}

/// A leaf that changes may be made to.
struct Staged {
    /// What the tree has under its key.
    stored: Option<sled::IVec>,
    entries: Vec<Entry>,
    is_changed: bool,
}

impl Staged {
    fn find(&self, position: Position) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&position, |entry| entry.position)
    }

    fn put(&mut self, position: Position, value: Vec<u8>) {
        match self.find(position) {
            Ok(at) if self.entries[at].value == value => return,
            Ok(at) => self.entries[at].value = value,
            Err(at) => self.entries.insert(at, Entry { position, value }),
        }
        self.is_changed = true;
    }

    fn remove(&mut self, position: Position) -> Option<Vec<u8>> {
        let at = self.find(position).ok()?;
        self.is_changed = true;
        Some(self.entries.remove(at).value)
    }
}

impl Edit<'_> {
    fn leaf(&mut self, list: ListId, position: Position) -> Result<&mut Staged, IndexError> {
        let found = self.index.leaf_of(list, position)?;
        let key = found.as_ref().map_or(Key::first(list), |(key, _)| *key);
        // Leaves are divided only when the edit ends: until then, the tree's keys are all.
        match self.leaves.entry(key) {
            btree_map::Entry::Occupied(staged) => Ok(staged.into_mut()),
            btree_map::Entry::Vacant(place) => {
                let stored = found.map(|(_, bytes)| bytes);
                let entries = entries(stored.as_deref().unwrap_or_default())?;
                let staged = Staged { stored, entries, is_changed: false };
                Ok(place.insert(staged))
            }
        }
    }

    fn put(&mut self, row: &Row) -> Result<(), IndexError> {
        let value = Run::encode(row);
        let run = Run::decode(&value).ok_or(IndexError::Unsound(Unsound::Leaf))?;
        let after = run.lists(&row.namespace);
        let position = row.position();
        let before = match self.lists_of(&row.namespace, position)? {
            Some(before) => before,
            None => {
                self.summary.runs += 1;
                Vec::new()
            }
        };
        for list in before.iter().filter(|list| !after.contains(list)) {
            self.leaf(*list, position)?.remove(position);
        }
        for list in after.iter().filter(|list| !before.contains(list)) {
            self.leaf(*list, position)?.put(position, Vec::new());
        }
        let all = ListId::new(&row.namespace, &By::All);
        self.leaf(all, position)?.put(position, value);
        Ok(())
    }

    fn remove(&mut self, namespace: &str, position: Position) -> Result<(), IndexError> {
        let Some(lists) = self.lists_of(namespace, position)? else { return Ok(()) };
        for list in lists.into_iter().chain([ListId::new(namespace, &By::All)]) {
            self.leaf(list, position)?.remove(position);
        }
        self.summary.runs -= 1;
        Ok(())
    }

    /// The lists that have a run, other than that of all, if it is known.
    fn lists_of(
        &mut self,
        namespace: &str,
        position: Position,
    ) -> Result<Option<Vec<ListId>>, IndexError> {
        let leaf = self.leaf(ListId::new(namespace, &By::All), position)?;
        let Ok(at) = leaf.find(position) else { return Ok(None) };
        let run = Run::decode(&leaf.entries[at].value);
        run.map(|run| Some(run.lists(namespace))).ok_or(IndexError::Unsound(Unsound::Leaf))
    }

    /// The batch that makes the changes, and the summary it holds.
    fn finish(self, applied_block: u64) -> Result<(sled::Batch, Summary), IndexError> {
        let mut batch = sled::Batch::default();
        let mut summary = Summary { applied_block, ..self.summary };
        for (key, staged) in self.leaves.into_iter().filter(|(_, staged)| staged.is_changed) {
            if let Some(stored) = &staged.stored {
                summary.total.subtract(&key.encode(), stored);
            }
            let leaves = leaf::encode(key.list, &staged.entries, self.index.fill_of(key)?);
            if leaves.is_empty() && staged.stored.is_some() {
                batch.remove(&key.encode());
            }
            for (at, (first, bytes)) in leaves.into_iter().enumerate() {
                let from = if at == 0 { key.from } else { first };
                let key = Key::new(key.list, from).encode();
                summary.total.add(&key, &bytes);
                batch.insert(&key, bytes);
            }
        }
        batch.insert(SUMMARY_KEY, summary.encode());
        Ok((batch, summary))
    }
}
