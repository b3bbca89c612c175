//! A part of the runs, behind one lock: their states, their published logs, and the ring.
//!
//! A run belongs to one shard for ever. All of its commands take the shard's lock, are decided by
//! its state machine, and are queued for commit before the lock is released: that is what orders
//! them. The lock is a plain mutex: no await and no I/O happens under it.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::{
    agenda::Pending,
    keys::is_key,
    published::{NewFrame, Published},
    request::{RunInfo, RunKey},
};
use crate::{
    core::{Facts, Inbox, RunState, StreamState, Wait},
    format::{frame::Frame, segment::JournalPoint},
    index::{Change, Row},
    journal::FrameAt,
    record::{RunNo, Seq, VSHARDS, name_hash},
    recovery::{RecoveredFrame, RecoveredRun},
    segment::Packs,
};

/// Runs of some vshards: those that are not at rest, and those used last.
pub(super) struct Shard {
    /// Their numbers are the store's own, nobody can choose them: a cheap hash does.
    runs: HashMap<RunNo, Run, RandomState>,
    names: HashMap<RunKey, RunNo>,
    /// Next run counter of each vshard that has runs here.
    counters: HashMap<u64, u64>,
    /// Run counter where a vshard goes on that has none here.
    counter_first: u64,
    /// Runs with frames in no segment, by the journal block of the oldest.
    unflushed: BTreeSet<(u64, RunNo)>,
    /// Runs that are being looked for in packs; who else wants one waits.
    sought: HashMap<RunKey, watch::Sender<()>>,
    /// Runs that are being given up: as good as gone.
    doomed: HashSet<RunNo>,
    /// Runs in the order in which they are looked at for leaving memory.
    clock: VecDeque<RunNo>,
    /// What the runs take in memory, about.
    weight: usize,
    weight_max: usize,
    ring: Ring,
}

/// A run: what is decided, and what is visible of it.
pub(super) struct Run {
    pub(super) name_hash: u64,
    /// Runs ahead of the disk.
    pub(super) state: RunState,
    /// What readers see.
    pub(super) published: Published,
    /// Frames that are decided and not yet durable.
    pub(super) in_flight: u32,
    /// Whether recovery has to be told by the next frame where the earlier ones are.
    pub(super) is_away: bool,
    /// What is pending of the run, as the agenda has it.
    pub(super) noted: Option<Pending>,
    /// When the run's worker last gave a sign, on the clock that never goes back.
    pub(super) heard: Duration,
    /// Bytes of durable frames in no segment.
    pub(super) unflushed_bytes: u64,
    /// Used since it was last looked at for leaving memory.
    is_used: bool,
    weight: usize,
}

/// What has followed from making a frame visible.
pub(super) struct Publication {
    /// Journal block of the run's frame before.
    pub(super) before: u64,
    /// Bytes that the frame counts in what waits for segments.
    pub(super) bytes: u64,
    /// What it changes for the index, and in the number of runs.
    pub(super) change: Option<(Change, i64)>,
    /// What wakes the run's readers, if it may have any.
    pub(super) readers: Option<watch::Sender<()>>,
}

/// Recent frames, oldest first, within a budget.
#[derive(Default)]
struct Ring {
    /// Run and number in it; frames of runs that left memory are gone already.
    frames: VecDeque<(RunNo, u64)>,
    bytes: usize,
    bytes_max: usize,
}

/// Milliseconds for which a deleted run is remembered as such.
pub(super) const DELETED_REMEMBERED_MS: u64 = 24 * 60 * 60 * 1_000;

/// What a run takes in memory besides what is counted: its entry in maps, its names.
const RUN_WEIGHT: usize = 1_200;
const STREAM_WEIGHT: usize = 200;
const PRODUCER_WEIGHT: usize = 4_800;
const REQUEST_WEIGHT: usize = 200;
const WAIT_WEIGHT: usize = 400;
/// And a frame besides its bytes.
pub(super) const FRAME_WEIGHT: usize = 96;
/// What everybody relies on who has the number of a run.
const IN_USE: &str = "a run in use stays in memory";
/// Runs that are looked at, at most, to make room for one.
const LOOKS_MAX: usize = 16;

fn weigh_stream(stream: &StreamState) -> usize {
    STREAM_WEIGHT + stream.inbox.as_ref().map_or(0, Inbox::weight)
}

fn weigh_wait(wait: &Wait) -> usize {
    WAIT_WEIGHT + wait.settled.as_ref().map_or(0, |settled| settled.value.len())
}

/// Where a run is.
pub(super) enum Whereabouts {
    /// In memory.
    Here(RunNo),
    /// Nowhere.
    Absent,
    /// Somebody else looks for it; tells when that has ended.
    Sought(watch::Receiver<()>),
    /// Maybe in packs: the caller has to look.
    Unknown,
}

impl Shard {
    pub(super) fn new(ring_bytes_max: usize, weight_max: usize, counter_first: u64) -> Self {
        Self {
            runs: HashMap::default(),
            names: HashMap::new(),
            counters: HashMap::new(),
            counter_first,
            unflushed: BTreeSet::new(),
            sought: HashMap::new(),
            doomed: HashSet::new(),
            clock: VecDeque::new(),
            weight: 0,
            weight_max,
            ring: Ring { bytes_max: ring_bytes_max, ..Ring::default() },
        }
    }

    /// Takes in a run that recovery found; returns the bytes of its frames.
    pub(super) fn restore(&mut self, recovered: RecoveredRun) -> u64 {
        let RecoveredRun { before, state, frames } = recovered;
        let published = match &before {
            // The frames that follow say of which block they are.
            Some(before) => Published::at_rest(before, 0),
            None => Published::new(state.run_uid),
        };
        let run_no = state.run_no;
        self.insert(Run::new(state, published));
        let Self { runs, unflushed, weight, .. } = self;
        let run = runs.get_mut(&run_no).expect(IN_USE);
        let publish = |frame: &RecoveredFrame| {
            let new = NewFrame {
                at: frame.at,
                end: frame.end,
                first_seq: frame.first_seq,
                count: frame.count,
                chain: frame.chain,
                time_ms: frame.time_ms,
                facts: &frame.facts,
            };
            run.publish_place(&new, unflushed)
        };
        let bytes = frames.iter().map(publish).sum();
        run.weigh_again(weight);
        bytes
    }

    /// Adds a run.
    pub(super) fn insert(&mut self, run: Run) {
        // Before it is in: whoever adds a run is about to use it.
        self.make_room();
        let run_no = run.state.run_no;
        let counter = self.counters.entry(run_no.vshard()).or_insert(self.counter_first);
        *counter = (*counter).max(run_no.counter() + 1);
        // A name that was used again belongs to the newest run that has it.
        let named = self.names.entry(run.key()).or_insert(run_no);
        *named = run_no.max(*named);
        self.weight += run.weight;
        self.clock.push_back(run_no);
        self.runs.insert(run_no, run);
    }

    /// Number that a new run of this vshard gets.
    pub(super) fn next_run_no(&self, vshard: u64) -> RunNo {
        debug_assert!(vshard < VSHARDS);
        RunNo::new(self.counters.get(&vshard).copied().unwrap_or(self.counter_first), vshard)
    }

    pub(super) fn run(&mut self, run_no: RunNo) -> &mut Run {
        self.runs.get_mut(&run_no).expect(IN_USE)
    }

    /// Where a run is; if that has to be looked up, the caller holds the claim to do so. The packs
    /// are asked under the shard's lock: a run that has left it is in those of this moment.
    pub(super) fn whereabouts(&mut self, key: &RunKey, packs: &Packs) -> Whereabouts {
        if let Some(&run_no) = self.names.get(key) {
            self.run(run_no).is_used = true;
            return Whereabouts::Here(run_no);
        }
        if let Some(sought) = self.sought.get(key) {
            return Whereabouts::Sought(sought.subscribe());
        }
        if !packs.shelf().may_hold(name_hash(&key.namespace, &key.run_id)) {
            return Whereabouts::Absent;
        }
        self.sought.insert(key.clone(), watch::Sender::new(()));
        Whereabouts::Unknown
    }

    /// Adds a run that came back from a pack. It may be in memory without its name: as a run that
    /// was deleted, whose name went to another one that is gone since.
    pub(super) fn bring_in(&mut self, run: Run) -> RunNo {
        let run_no = run.state.run_no;
        match self.runs.contains_key(&run_no) {
            true => drop(self.names.insert(run.key(), run_no)),
            false => self.insert(run),
        }
        run_no
    }

    /// Whether somebody uses a run, or it has frames that are in no pack.
    pub(super) fn is_in_use(&self, run_no: RunNo) -> bool {
        self.runs.get(&run_no).is_some_and(|run| !run.is_at_rest())
    }

    /// Gives a run up, if nobody uses it: it leaves memory, and is not brought in again.
    pub(super) fn doom(&mut self, run_no: RunNo) -> bool {
        if self.is_in_use(run_no) {
            return false;
        }
        self.remove(run_no);
        self.doomed.insert(run_no);
        true
    }

    /// Ends what [`doom`](Self::doom) began, whatever has become of the run.
    pub(super) fn spare(&mut self, run_no: RunNo) {
        self.doomed.remove(&run_no);
    }

    /// Whether a run is being given up.
    pub(super) fn is_doomed(&self, run_no: RunNo) -> bool {
        self.doomed.contains(&run_no)
    }

    /// Ends a search that [`Whereabouts::Unknown`] began.
    pub(super) fn end_search(&mut self, key: &RunKey) {
        self.sought.remove(key);
    }

    /// Makes a durable frame visible. The run's readers are the caller's to wake.
    pub(super) fn publish(
        &mut self,
        frame: Frame,
        at: FrameAt,
        end: JournalPoint,
        facts: &Facts,
    ) -> Publication {
        let header = frame.header;
        let new = NewFrame {
            at,
            end,
            first_seq: header.first_seq,
            count: header.count,
            chain: header.chain,
            time_ms: header.time_ms,
            facts,
        };
        let Self { runs, unflushed, weight, ring, .. } = self;
        let run = runs.get_mut(&header.run_no).expect(IN_USE);
        let before = run.published.changed_block;
        let bytes = run.publish_place(&new, unflushed);
        run.in_flight -= 1;
        run.published.remember(frame);
        run.weigh_again(weight);
        ring.frames.push_back((header.run_no, run.published.next_number() - 1));
        ring.bytes += at.len as usize;
        let is_first = header.first_seq == Seq::ZERO && 0 < header.count;
        let is_relabeled = facts.status.is_some() || facts.relabeled;
        let is_indexed = is_first || is_relabeled || facts.deleted;
        let change = is_indexed.then(|| run.change()).flatten();
        let change = change.map(|change| (change, i64::from(is_first) - i64::from(facts.deleted)));
        let readers = run.published.followers();
        self.shrink_ring();
        Publication { before, bytes, change, readers }
    }

    /// Gives up the bytes of the oldest frames while there are too many.
    fn shrink_ring(&mut self) {
        let Self { runs, weight, ring, .. } = self;
        while ring.bytes_max < ring.bytes {
            let Some((oldest, number)) = ring.frames.pop_front() else { break };
            let Some(run) = runs.get_mut(&oldest) else { continue };
            ring.bytes -= run.published.forget(number);
            run.weigh_again(weight);
        }
    }

    /// Notes that a run's frames below a number are in segments; returns their bytes.
    pub(super) fn flushed_to(&mut self, run_no: RunNo, number: u64) -> u64 {
        let Self { runs, unflushed, weight, .. } = self;
        let run = runs.get_mut(&run_no).expect(IN_USE);
        let before = run.published.oldest_unflushed().map(|frame| frame.end.block_no);
        run.published.flushed_to(number);
        let after = run.published.oldest_unflushed().map(|frame| frame.end.block_no);
        let left = run.published.unflushed_bytes(FRAME_WEIGHT as u64);
        let bytes = run.unflushed_bytes - left;
        run.unflushed_bytes = left;
        before.map(|block_no| unflushed.remove(&(block_no, run_no)));
        after.map(|block_no| unflushed.insert((block_no, run_no)));
        run.weigh_again(weight);
        bytes
    }

    /// Runs whose oldest frame in no segment lies in a journal block below `below`, by that block,
    /// from `from` on.
    pub(super) fn unflushed(
        &self,
        from: (u64, RunNo),
        below: u64,
    ) -> impl Iterator<Item = (u64, RunNo)> {
        self.unflushed.range(from..).copied().take_while(move |(block_no, _)| *block_no < below)
    }

    /// Journal block of the oldest frame in no segment.
    pub(super) fn oldest_unflushed(&self) -> Option<u64> {
        self.unflushed.first().map(|oldest| oldest.0)
    }

    /// Journal block and time of the oldest frame in no segment.
    pub(super) fn oldest_written(&self) -> Option<(u64, u64)> {
        let &(block_no, run_no) = self.unflushed.first()?;
        let frame = self.runs.get(&run_no)?.published.oldest_unflushed()?;
        Some((block_no, frame.time_ms))
    }

    /// Lets runs at rest leave memory while there are too many: those not used since they were
    /// last looked at. A packs' segment has all of them.
    fn make_room(&mut self) {
        for _ in 0..LOOKS_MAX {
            if self.weight <= self.weight_max {
                return;
            }
            let Some(run_no) = self.clock.pop_front() else { return };
            let Some(run) = self.runs.get_mut(&run_no) else { continue };
            if std::mem::take(&mut run.is_used) || !run.is_at_rest() {
                self.clock.push_back(run_no);
                continue;
            }
            self.remove(run_no);
        }
    }

    fn remove(&mut self, run_no: RunNo) {
        let Some(run) = self.runs.remove(&run_no) else { return };
        self.weight -= run.weight;
        self.ring.bytes -= run.published.recent_bytes();
        let key = run.key();
        if self.names.get(&key) == Some(&run_no) {
            self.names.remove(&key);
        }
    }

    /// Bytes of frames in memory.
    pub(super) fn ring_bytes(&self) -> usize {
        self.ring.bytes
    }

    /// Number of runs.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// A run, if it is in memory.
    pub(super) fn resident(&self, run_no: RunNo) -> Option<&Run> {
        self.runs.get(&run_no)
    }

    /// All runs in memory, deleted ones too.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// Wakes every reader, to see that the store is closing.
    pub(super) fn wake_all(&self) {
        self.runs.values().for_each(|run| run.published.wake_readers());
    }
}

impl Run {
    /// A run with nothing in flight.
    pub(super) fn new(state: RunState, published: Published) -> Self {
        let name_hash = name_hash(&state.namespace, &state.run_id);
        let mut run = Self {
            name_hash,
            state,
            published,
            in_flight: 0,
            is_away: false,
            noted: None,
            heard: Duration::ZERO,
            unflushed_bytes: 0,
            is_used: true,
            weight: 0,
        };
        run.weight = run.weigh();
        run
    }

    /// A run all of whose frames are in segments; the newest is of this journal block.
    pub(super) fn at_rest(state: RunState, changed_block: u64) -> Self {
        let published = Published::at_rest(&state, changed_block);
        // That was noted before the run was at rest, or is when the store is opened.
        let noted = Pending::of(&state);
        Self { is_away: true, noted, ..Self::new(state, published) }
    }

    /// Whether segments have all that is known of it, and nobody waits for more.
    fn is_at_rest(&self) -> bool {
        self.published.next_number() == self.state.frames
            && self.published.is_flushed()
            && !self.published.is_followed()
    }

    /// Adds a durable frame to what readers see; returns what it counts in what waits for segments.
    fn publish_place(&mut self, new: &NewFrame<'_>, unflushed: &mut BTreeSet<(u64, RunNo)>) -> u64 {
        if self.published.is_flushed() {
            unflushed.insert((new.end.block_no, self.state.run_no));
        }
        self.published.publish(new);
        let bytes = u64::from(new.at.len) + FRAME_WEIGHT as u64;
        self.unflushed_bytes += bytes;
        bytes
    }

    /// Notes in the sum of all runs' weights what this one weighs now.
    fn weigh_again(&mut self, sum: &mut usize) {
        let weight = self.weigh();
        *sum = *sum - std::mem::replace(&mut self.weight, weight) + weight;
    }

    fn weigh(&self) -> usize {
        let RunState { namespace, run_id, task, spec, streams, producers, .. } = &self.state;
        let names = 2 * (namespace.len() + run_id.len()) + task.len();
        let output = self.state.ending.as_ref().map_or(0, |ending| ending.output.len());
        let attributes = spec.attributes.iter().map(|(name, value)| name.len() + value.len());
        let documents = spec.payload.len() + spec.metadata.len() + self.state.metadata.len();
        RUN_WEIGHT
            + names
            + output
            + documents
            + attributes.sum::<usize>()
            + streams.iter().map(weigh_stream).sum::<usize>()
            + producers.len() * PRODUCER_WEIGHT
            + self.state.requests.len() * REQUEST_WEIGHT
            + self.state.waits.iter().map(weigh_wait).sum::<usize>()
            + self.state.outbox_bytes()
            + self.published.frames_known() * FRAME_WEIGHT
    }

    /// What the next frame has to say about where the earlier ones are.
    pub(super) fn home(&self) -> Option<u64> {
        self.is_away.then_some(self.name_hash)
    }

    /// Whether it was deleted.
    pub(super) fn is_deleted(&self) -> bool {
        self.state.deleted_ms.is_some()
    }

    /// Whether it was deleted so long ago that it is as if it had never been.
    pub(super) fn is_forgotten(&self, now_ms: u64) -> bool {
        let is_long_ago = |deleted_ms: u64| deleted_ms + DELETED_REMEMBERED_MS <= now_ms;
        self.state.deleted_ms.is_some_and(is_long_ago)
    }

    fn key(&self) -> RunKey {
        let RunState { namespace, run_id, .. } = &self.state;
        RunKey { namespace: namespace.clone(), run_id: run_id.clone() }
    }

    /// Describes the run as decided; to be shown only when its frames in flight are durable.
    pub(super) fn info(&self) -> RunInfo {
        RunInfo::of(&self.state)
    }

    /// What is indexed of the run as far as it is durable; none before its creation is.
    pub(super) fn change(&self) -> Option<Change> {
        if !self.published.exists() || is_key(&self.state.run_id) {
            return None;
        }
        let row = Row { status: self.published.status as u8, ..Row::of(&self.state) };
        Some(match self.published.check_there() {
            Ok(()) => Change::Put(row),
            Err(_) => Change::Remove { namespace: row.namespace.clone(), position: row.position() },
        })
    }

    /// Journal block of the newest frame that is durable.
    pub(super) fn changed_block(&self) -> u64 {
        self.published.changed_block
    }

    /// Seq after the last record that is visible.
    pub(super) fn durable(&self) -> Seq {
        self.published.durable
    }
}
