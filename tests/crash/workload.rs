//! Random commands: what callers do to a store between two power cuts.

use std::sync::Arc;

use braidlog::{Codec, Options, Outcome, RunUid, platform::sim::SimRng};
use bytes::Bytes;

use super::{
    life::{Life, Point},
    model::{Batch, Model, Numbers, Request, Run},
};

/// Runs that callers write to.
pub const RUNS: u64 = 4;
/// Five of these fit the frame that fits the smallest slot.
const BODY_MAX: u64 = 3_900;
const STREAMS: u64 = 3;
const PRODUCERS: u64 = 2;
/// Fewer than the store remembers the positions of.
const APPENDS_PER_EPOCH_MAX: u64 = 60;

/// How long a closed run is kept, where that is not long.
const RETENTION_MS: u64 = 60 * 60 * 1_000;
/// Leaps of the clock: beyond the retention, and beyond the day for which a deletion is told. No
/// sum of them comes near that day.
pub const LEAPS_MS: [u64; 2] = [8_280_000, 90_000_000];

/// What callers of a history are like, and their randomness.
pub struct Workload {
    pub rng: SimRng,
    /// Largest body.
    body_max: u64,
    bodies_made: u64,
    /// Pages of the slot that is written to, for bodies that imitate what stands there.
    imitated: Vec<u8>,
}

/// Options of a small store: slots change and the manifest rotates within a few commits.
pub fn options(rng: &mut SimRng) -> Options {
    let mut options = smallest();
    options.slot_bytes_first += 4096 * rng.below(3);
    options.slot_bytes += 4096 * rng.below(5);
    options.ring_bytes = if rng.chance(1, 2) { 0 } else { 64 << 10 };
    options.journal_slots_max = 3 + rng.below(4) as u32;
    options.pack_bytes = 8 << (10 + rng.below(4));
    options.codec = [Codec::None, Codec::Lz4, Codec::Zstd][rng.below(3) as usize];
    // Everything is read from disk at every call, or once after each start.
    if rng.chance(3, 4) {
        options.resident_bytes = 64 << 10;
        options.cache_bytes = 256 << 10;
    }
    if rng.chance(2, 3) {
        options.retention.age_ms = Some(RETENTION_MS);
    }
    options
}

/// Options of the smallest store there can be; everything is read from disk.
pub fn smallest() -> Options {
    let mut options = Options::new("/simulated");
    options.slot_bytes_first = 32 << 10;
    options.slot_bytes = 32 << 10;
    options.manifest_bytes = 32 << 10;
    options.ring_bytes = 0;
    options.resident_bytes = 0;
    options.cache_bytes = 0;
    options
}

impl Workload {
    /// Callers with much to say: a few turns change slots and rotate the manifest.
    pub fn talkative(rng: SimRng) -> Self {
        Self { body_max: BODY_MAX, ..Self::new(rng) }
    }

    /// How many turns callers take in a life: more if they have much to say, so that the manifest
    /// rotates, too.
    pub fn turns(&mut self) -> u64 {
        match self.body_max {
            BODY_MAX => 4 + self.rng.below(50),
            _ => 4 + self.rng.below(24),
        }
    }

    pub fn new(mut rng: SimRng) -> Self {
        let body_max = [400, 2_000, BODY_MAX][rng.below(3) as usize];
        let bodies_made = rng.next_u64() >> 1;
        Self { rng, body_max, bodies_made, imitated: Vec::new() }
    }

    /// Submits a few commands, which will share a commit.
    pub fn submit_some(&mut self, life: &Life) {
        for _ in 0..=self.rng.below(3) {
            let run = self.rng.below(RUNS) as usize;
            let (request, run_uid) = life.with_model(|model| {
                let run = &model.runs[run];
                (self.request(run), self.run_uid(run))
            });
            life.submit_to(run, request, run_uid);
        }
    }

    /// A few commands, then no step, one, or all there are to take.
    pub fn take_turn(&mut self, life: &mut Life) {
        self.submit_some(life);
        match self.rng.below(8) {
            0 => {}
            1 => drop(life.step()),
            _ => drop(life.settle()),
        }
        match self.rng.below(12) {
            0 => {
                life.flush();
            }
            1 => (0..self.rng.below(4)).for_each(|_| {
                life.flush_step();
            }),
            _ => {}
        }
        match self.rng.below(16) {
            0 | 1 => (0..self.rng.below(6)).for_each(|_| {
                life.collect();
            }),
            2 if life.flush() => while life.collect() {},
            _ => {}
        }
        if self.rng.chance(1, 4) {
            life.rest(self.rng.below(RUNS) as usize, self.rng.chance(1, 2));
            life.follow_all();
        }
        if !life.is_waiting() && self.rng.chance(1, 6) {
            life.idle();
        }
    }

    /// Remembers what the disk holds, to imitate it in bodies.
    pub fn imitate(&mut self, points: &[Point]) {
        let Some(point) = points.last().filter(|_| self.rng.chance(1, 4)) else { return };
        let mut slots = point.disk.files().into_iter().filter(|path| path.starts_with("journal/"));
        let bytes =
            slots.next_back().and_then(|path| point.disk.read_file(&path)).unwrap_or_default();
        let page = self.rng.below(1 + bytes.len() as u64 / 4096) as usize * 4096;
        self.imitated = bytes.get(page..page + 64).unwrap_or_default().to_vec();
    }

    fn request(&mut self, run: &Run) -> Request {
        let stream = self.rng.below(STREAMS) as u8;
        let tail = run.state.stream(stream).map_or(0, |stream| stream.tail);
        match self.rng.below(40) {
            0..=1 => Request::Create,
            2..=3 => Request::Trim(stream, self.rng.below(tail + 1)),
            4 => Request::Trim(stream, tail + self.rng.below(2)),
            5 => Request::CloseStream(stream),
            6 => Request::Close(Outcome::Completed),
            10 => Request::Delete,
            7 if run.state.outcome.is_some() => Request::Close(Outcome::Failed),
            8..=9 => self.repeat(run).unwrap_or(Request::Create),
            11..=24 => self.append(run, stream, true),
            _ => self.append(run, stream, false),
        }
    }

    /// The identity that a caller may know the run by: mostly none, sometimes an old one.
    fn run_uid(&mut self, run: &Run) -> Option<RunUid> {
        match self.rng.below(8) {
            0 => run.uid(),
            1 => {
                let pick = self.rng.below(run.uids.len().max(1) as u64) as usize;
                run.uids.get(pick).copied().flatten()
            }
            _ => None,
        }
    }

    /// A producer's batch of before, once more.
    fn repeat(&mut self, run: &Run) -> Option<Request> {
        let is_numbered = |request: &&Batch| request.producer.is_some();
        let batches: Vec<&Batch> = run.batches().filter(is_numbered).collect();
        let pick = self.rng.below(batches.len().max(1) as u64) as usize;
        batches.get(pick).map(|batch| Request::Append((*batch).clone()))
    }

    fn append(&mut self, run: &Run, stream: u8, numbered: bool) -> Request {
        let tail = run.state.stream(stream).map_or(0, |stream| stream.tail);
        let expected_index = match self.rng.below(12) {
            0 => Some(tail),
            1 => Some(tail + 1),
            _ => None,
        };
        let records = if self.rng.chance(1, 6) { 5 } else { 2 };
        let bodies = (0..=self.rng.below(records)).map(|_| self.body()).collect::<Arc<[Bytes]>>();
        let producer = numbered.then(|| self.numbers(run));
        let create = self.rng.chance(9, 10);
        Request::Append(Batch { stream, bodies, producer, expected_index, create })
    }

    fn numbers(&mut self, run: &Run) -> Numbers {
        let next = run.state.next_numbers(self.rng.below(PRODUCERS) as u8);
        match self.rng.below(40) {
            0 => Numbers { seq: next.seq + 1, ..next },
            1 => Numbers { epoch: next.epoch + 1, seq: 1, ..next },
            2 => Numbers { epoch: next.epoch + 1, seq: 0, ..next },
            _ if next.seq == APPENDS_PER_EPOCH_MAX => {
                Numbers { epoch: next.epoch + 1, seq: 0, ..next }
            }
            _ => next,
        }
    }

    /// A body unlike all others, but for those that are there to deceive: nothing, nothing but
    /// zeros, and images of block headers.
    fn body(&mut self) -> Bytes {
        self.bodies_made += 1;
        let len = match self.rng.below(4) {
            0 => self.rng.below(16),
            _ => self.rng.below(self.body_max),
        };
        match self.rng.below(40) {
            0 => Bytes::new(),
            1 => vec![0; len as usize].into(),
            2..=4 if !self.imitated.is_empty() => {
                let shift = self.rng.below(64) as usize;
                self.imitated.iter().copied().cycle().skip(shift).take(BODY_MAX as usize).collect()
            }
            5 => {
                // Zeros with something at either end: whole sectors of them between.
                let mut body = vec![0; len as usize + 16];
                body[..8].copy_from_slice(&self.bodies_made.to_le_bytes());
                body[len as usize + 8..].copy_from_slice(&self.bodies_made.to_le_bytes());
                body.into()
            }
            _ => {
                let mut body = vec![0; len as usize];
                SimRng::new(self.bodies_made).fill(&mut body);
                body.into()
            }
        }
    }
}

/// The batches without an answer, in the order their producers sent them.
pub fn in_order(mut unanswered: Vec<(usize, Batch)>) -> Vec<(usize, Batch)> {
    let order = |(run, batch): &(usize, Batch)| {
        let numbers = batch.producer.expect("only producers ask again");
        (*run, numbers.id, numbers.epoch, numbers.seq)
    };
    unanswered.sort_by_key(order);
    unanswered.dedup_by_key(|entry| order(entry));
    unanswered
}

/// Whether every producer batch is in its run at most once, and once if it was answered.
pub fn no_batch_is_doubled(model: &Model) {
    for run in &model.runs {
        let mut numbers: Vec<_> = run.batches().filter_map(|batch| batch.producer).collect();
        let all = numbers.len();
        numbers.sort_by_key(|numbers| (numbers.id, numbers.epoch, numbers.seq));
        numbers.dedup();
        assert_eq!(numbers.len(), all, "producer numbers are used once");
    }
}
