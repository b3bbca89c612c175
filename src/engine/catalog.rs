//! Keeps the secondary index up with the runs, and answers from it: which runs, newest first.
//!
//! A change of what is indexed enters here when it is durable and visible, and is applied to the
//! index later, by a thread of its own; until then it is kept here, and answers are made of both.
//! So a list shows what was acknowledged before it was asked for, and no append waits for the index.
//!
//! The index may go away at any time: it fails, its directory is deleted. Then it is opened or
//! built again, from packs and from what is in memory, and meanwhile there is no answer from here.
//!
//! What it deliberately does not do: say what a run is like now. A hit is checked against its run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{collect::is_expired, keys::is_key, shard::Shard, shared::Shared};
use crate::{
    core::RunState,
    error::Error,
    format::{
        file_name,
        segment::{JournalPoint, SegmentHead},
    },
    index::{
        APPLY_CHANGES_MAX, By, Change, GuardedIndex, Hit, IndexError, IndexOptions, Opened,
        Position, Row, Scan, SecondaryIndex, State,
    },
    platform::{
        os,
        sync::{Condvar, Mutex},
    },
    record::RunNo,
    recovery::read_state,
    segment::{Segment, Shelf},
};

/// How long after a failure the index is opened again; doubled with every further one.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Times that it is doubled.
const DOUBLINGS_MAX: u32 = 8;
/// How long changes may gather before they are applied together: the database takes more space the
/// fewer there are at once.
const GATHER: Duration = Duration::from_millis(500);
/// Bytes that the index may take, and those for every run: beyond it, it is built anew, because the
/// database is slow to use space again.
const BYTES_MAX: u64 = 64 << 20;
const RUN_BYTES_MAX: u64 = 1_500;

/// What is waiting to be indexed, and the index.
#[derive(Default)]
pub(super) struct Catalog {
    state: Mutex<CatalogState>,
    wake: Condvar,
}

#[derive(Default)]
struct CatalogState {
    /// Whether anybody applies changes: if not, they are not kept.
    is_kept: bool,
    closing: bool,
    /// Changes that are durable and not in the index, the last of every run.
    pending: BTreeMap<Position, Change>,
    /// Those of them that are being applied.
    applying: BTreeMap<Position, Change>,
    /// Runs that they make, less those that they end.
    pending_runs: i64,
    applying_runs: i64,
    /// Runs in the index, without both.
    indexed_runs: u64,
    /// The index, once it has all runs.
    index: Option<GuardedIndex>,
}

/// Runs found, newest first.
pub(super) struct Listed {
    pub(super) hits: Vec<Hit>,
    /// Where to go on; none: there is nothing more.
    pub(super) next: Option<Position>,
}

/// The change that a run's state stands for.
pub(super) fn change_of(state: &RunState) -> Change {
    let row = Row::of(state);
    match state.deleted_ms {
        Some(_) => Change::Remove { namespace: row.namespace.clone(), position: row.position() },
        None => Change::Put(row),
    }
}

fn position_of(change: &Change) -> Position {
    match change {
        Change::Put(row) => row.position(),
        Change::Remove { position, .. } => *position,
    }
}

impl Catalog {
    /// Notes a change that is durable and visible, and how many runs there are more by it.
    pub(super) fn note(&self, change: Change, runs: i64) {
        let mut state = self.state.lock();
        if state.is_kept {
            state.pending_runs += runs;
            state.pending.insert(position_of(&change), change);
            if matches!(state.pending.len(), 1 | APPLY_CHANGES_MAX) {
                self.wake.notify_one();
            }
        }
    }

    /// Begins to keep changes: somebody will apply them.
    pub(super) fn keep(&self) {
        self.state.lock().is_kept = true;
    }

    /// Ends the thread that applies changes.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_all();
    }

    /// Number of runs, and bytes of the index; none without an index.
    pub(super) fn size(&self) -> Option<(u64, u64)> {
        let (index, runs) = {
            let state = self.state.lock();
            let waiting = state.pending_runs + state.applying_runs;
            (state.index.clone()?, state.indexed_runs.saturating_add_signed(waiting))
        };
        Some((runs, index.bytes_on_disk().unwrap_or(0)))
    }

    /// Looks through a list; none without an index. Blocks on the disk.
    pub(super) fn list(&self, scan: &Scan) -> Option<Listed> {
        // What waits is looked at before the index: what is applied meanwhile is then seen twice,
        // and not never.
        let (index, waiting) = {
            let state = self.state.lock();
            let all = state.applying.iter().chain(&state.pending);
            (state.index.clone()?, all.map(|(at, change)| (*at, change.clone())).collect())
        };
        match index.scan(scan) {
            Ok(found) => Some(merge(scan, found.hits, found.next, waiting)),
            Err(error) => {
                self.lose(&error);
                None
            }
        }
    }

    fn lose(&self, error: &IndexError) {
        tracing::warn!(%error, "the index of runs is built again");
        self.state.lock().index = None;
        self.wake.notify_all();
    }

    fn is_closing(&self) -> bool {
        self.state.lock().closing
    }
}

/// Puts what waits to be indexed in the place of what the index says of the same runs.
fn merge(
    scan: &Scan,
    mut hits: Vec<Hit>,
    next: Option<Position>,
    waiting: BTreeMap<Position, Change>,
) -> Listed {
    hits.retain(|hit| !waiting.contains_key(&hit.position));
    let wanted = |row: &Row| {
        let position = row.position();
        let is_had = match &scan.by {
            By::All => true,
            By::Tag(tag) => row.tags.contains(tag),
            By::Batch(batch) => row.batch == *batch,
            By::Task(task) => row.task == *task,
            By::Status(status) => row.status == *status,
        };
        is_had
            && row.namespace == scan.namespace
            && scan.created_ms.contains(&row.created_ms)
            && scan.after.is_none_or(|after| position < after)
            && next.is_none_or(|next| next <= position)
    };
    hits.extend(waiting.into_values().filter_map(|change| match change {
        Change::Put(row) if wanted(&row) => {
            Some(Hit { position: row.position(), run_id: row.run_id, status: row.status })
        }
        Change::Put(_) | Change::Remove { .. } => None,
    }));
    hits.sort_unstable_by_key(|hit| Reverse(hit.position));
    let limit = scan.limit.max(1);
    let next = match hits.len() > limit {
        true => Some(hits[limit - 1].position),
        false => next,
    };
    hits.truncate(limit);
    Listed { hits, next }
}

/// Applies changes to the index. Only one exists; a thread runs it.
pub(super) struct Indexer {
    shared: Arc<Shared>,
    failures: u32,
}

impl Indexer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, failures: 0 }
    }

    /// Opens or builds the index and keeps it up, until the store closes.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        while !shared.catalog.is_closing() {
            match self.open().and_then(|index| self.keep_up(index)) {
                Ok(()) => return,
                Err(error) => self.shared.catalog.lose(&error),
            }
            self.failures += 1;
            let wait = RETRY_AFTER * 2u32.pow(self.failures.min(DOUBLINGS_MAX));
            let mut state = shared.catalog.state.lock();
            if !state.closing {
                shared.catalog.wake.wait_for(&mut state, wait);
            }
        }
    }

    /// An index that has all runs, but for the changes that wait here.
    fn open(&self) -> Result<GuardedIndex, IndexError> {
        let Shared { options, store_uuid, .. } = &*self.shared;
        let index_options = IndexOptions {
            cache_bytes: options.index_cache_bytes,
            ..IndexOptions::new(*store_uuid)
        };
        let folder = options.data_dir.join(file_name::index().as_str());
        let mut opened = GuardedIndex::open(&folder, &index_options)?;
        if let Some(error) = opened.discarded.take() {
            tracing::warn!(%error, "the index of runs is not used");
        }
        if !self.is_worth_keeping(&opened)? {
            opened.index.close()?;
            os::remove_tree(&folder).map_err(|source| IndexError::Io {
                operation: "removing",
                source: Arc::new(source),
            })?;
            opened = GuardedIndex::open(&folder, &index_options)?;
        }
        let Opened { mut index, state, .. } = opened;
        let begun_at = self.shared.durable_block_no().max(1);
        // Memory is looked at before packs: a run that leaves it meanwhile is in one of them.
        let resident: Vec<_> = self.shared.shards().flat_map(Self::changes_in).collect();
        let from = match state {
            State::Usable { applied_block } => applied_block,
            State::Empty => 0,
        };
        let mut batch = Vec::with_capacity(APPLY_CHANGES_MAX);
        let mut applied = Ok(());
        let census = visit_packed(&self.shared, from, |_, state| {
            if !is_key(&state.run_id) {
                batch.push(change_of(&state));
            }
            if batch.len() == APPLY_CHANGES_MAX {
                applied = index.apply(&batch, from);
                batch.clear();
            }
            applied.is_ok() && !self.shared.catalog.is_closing()
        });
        applied?;
        if let Err(error) = census {
            // What is damaged answers for itself when it is asked for.
            tracing::warn!(%error, "some runs are not in the index");
        }
        index.apply(&batch, from)?;
        // After packs, which may have an older state of the same run.
        for changes in resident.chunks(APPLY_CHANGES_MAX) {
            index.apply(changes, from)?;
        }
        if self.shared.catalog.is_closing() {
            return Err(IndexError::Closed);
        }
        index.apply(&[], begun_at)?;
        let had: HashSet<_> = resident.iter().map(position_of).collect();
        let indexed_runs = index.len()?;
        let mut state = self.shared.catalog.state.lock();
        // What was being applied to an index that failed is applied to this one.
        for (at, change) in std::mem::take(&mut state.applying) {
            state.pending.entry(at).or_insert(change);
        }
        state.applying_runs = 0;
        let is_new = |(at, change): &(&Position, &Change)| {
            matches!(change, Change::Put(_)) && !had.contains(at)
        };
        state.pending_runs = state.pending.iter().filter(is_new).count() as i64;
        state.indexed_runs = indexed_runs;
        state.index = Some(index.clone());
        Ok(index)
    }

    /// Whether an index is one of this log, and not too large for what it holds.
    fn is_worth_keeping(&self, opened: &Opened) -> Result<bool, IndexError> {
        let State::Usable { applied_block } = opened.state else { return Ok(true) };
        let bytes_max = BYTES_MAX + opened.index.len()? * RUN_BYTES_MAX;
        Ok(applied_block <= self.shared.durable_block_no().max(1)
            && opened.index.bytes_on_disk()? <= bytes_max)
    }

    fn changes_in(shard: &Mutex<Shard>) -> Vec<Change> {
        shard.lock().runs().filter_map(|run| run.change()).collect()
    }

    /// Applies changes as they come, until the store closes.
    fn keep_up(&mut self, mut index: GuardedIndex) -> Result<(), IndexError> {
        let catalog = &self.shared.catalog;
        loop {
            let (changes, applied_block) = {
                let mut state = catalog.state.lock();
                while state.pending.is_empty() && !state.closing && state.index.is_some() {
                    catalog.wake.wait(&mut state);
                }
                if state.index.is_none() {
                    return Err(index.failure().unwrap_or(IndexError::Closed));
                }
                let is_growing = |state: &mut CatalogState| {
                    state.pending.len() < APPLY_CHANGES_MAX && !state.closing
                };
                catalog.wake.wait_while_for(&mut state, is_growing, GATHER);
                if state.pending.is_empty() && state.closing {
                    break;
                }
                // Every change of a block below this one was noted before.
                let applied_block = self.shared.durable_block_no();
                let keys: Vec<_> = state.pending.keys().copied().take(APPLY_CHANGES_MAX).collect();
                for key in keys {
                    let Some(change) = state.pending.remove(&key) else { continue };
                    state.applying.insert(key, change);
                }
                let changes: Vec<_> = state.applying.values().cloned().collect();
                state.applying_runs += std::mem::take(&mut state.pending_runs);
                // Behind what is left the index is not up yet.
                (changes, state.pending.is_empty().then_some(applied_block))
            };
            let block = match applied_block {
                Some(block) => block,
                None => index.applied_block()?,
            };
            index.apply(&changes, block.max(1))?;
            let indexed_runs = index.len()?;
            let mut state = catalog.state.lock();
            state.applying.clear();
            (state.applying_runs, state.indexed_runs) = (0, indexed_runs);
            drop(state);
            self.failures = 0;
        }
        catalog.state.lock().index = None;
        index.close()
    }
}

/// Where the last segment of a run is.
#[derive(Clone, Copy)]
struct Last {
    flushed: JournalPoint,
    pack: u64,
    entry: u32,
}

/// Visits every run that has not expired and has a segment whose frames come from block `from` of the
/// journal or later, with the state at the end of its last segment, in the order in which they stand in packs. Ends
/// when `visit` says false. Blocks on the disk.
///
/// # Errors
/// The first damage met; the other runs were visited.
pub(super) fn visit_packed(
    shared: &Shared,
    from: u64,
    mut visit: impl FnMut(&SegmentHead, RunState) -> bool,
) -> Result<(), Error> {
    let shelf = shared.packs.shelf();
    let mut damaged = shelf.check_complete();
    let mut places: Vec<Last> = last_segments(&shelf, from, &mut damaged).into_values().collect();
    places.sort_unstable_by_key(|last| (last.pack, last.entry));
    let mut segments: Vec<Segment> = Vec::with_capacity(places.len());
    for place in places {
        let Some(pack) = shelf.pack(place.pack) else { continue };
        match pack.entry_at(place.entry as usize) {
            Ok(entry) => segments.push(Segment { pack: pack.clone(), entry }),
            Err(error) => damaged = Err(error),
        }
    }
    segments.sort_by_key(|segment| (segment.pack.number(), segment.entry.block));
    let now_ms = shared.now_ms();
    for segment in segments.iter().filter(|segment| !is_expired(&segment.entry.head, now_ms)) {
        match read_state(segment, &shared.blocks) {
            Ok(state) => {
                if !visit(&segment.entry.head, state) {
                    return Ok(());
                }
            }
            Err(error) => damaged = Err(error),
        }
    }
    damaged
}

fn last_segments(
    shelf: &Shelf,
    from: u64,
    damaged: &mut Result<(), Error>,
) -> HashMap<RunNo, Last> {
    let mut lasts: HashMap<RunNo, Last> = HashMap::new();
    for pack in shelf.packs().filter(|pack| from <= pack.listed().flushed_block) {
        let entries = match pack.entries() {
            Ok(entries) => entries,
            Err(error) => {
                *damaged = Err(error);
                continue;
            }
        };
        for (n, entry) in entries.enumerate() {
            let Ok(entry) = entry else { continue };
            let flushed = entry.head.flushed;
            if flushed.block_no < from {
                continue;
            }
            let last = Last { flushed, pack: pack.number(), entry: n as u32 };
            let known = lasts.entry(entry.head.run_no).or_insert(last);
            if known.flushed < flushed {
                *known = last;
            }
        }
    }
    lasts
}
