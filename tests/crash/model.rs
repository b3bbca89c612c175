//! What a store must hold, worked out from the commands alone.
//!
//! A name is the list of the accepted commands on its runs, in order of submission: a run that was
//! deleted, or has vanished because it had expired, makes room for another. The first `sure` of the
//! commands were acknowledged, or shown to a reader, or rested upon by an answer: they must be there
//! for ever, exactly so. Those behind may be lost at a crash, but only from the end.
//!
//! What it deliberately does not do: share any code with the state machine under test.

use std::sync::Arc;

use braidlog::{Error, Outcome, Record, Refusal, RunUid};
use bytes::Bytes;

/// Name of an idempotent producer, its epoch and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub id: u8,
    pub epoch: u64,
    pub seq: u64,
}

/// A batch to append to stream `s<n>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub stream: u8,
    pub bodies: Arc<[Bytes]>,
    pub producer: Option<Numbers>,
    pub expected_index: Option<u64>,
    pub create: bool,
}

/// A command on one run.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Create,
    Append(Batch),
    CloseStream(u8),
    Close(Outcome),
    Trim(u8, u64),
    Delete,
}

/// An accepted command, or what else changed a run.
#[derive(Debug, Clone)]
pub struct Op {
    pub what: What,
    /// Which of the runs of its name it belongs to, from 1.
    pub generation: usize,
    pub stream_no: u32,
    pub first_seq: u64,
    pub first_index: u64,
    pub count: u64,
    /// When it was decided.
    pub time_ms: u64,
}

#[derive(Debug, Clone)]
pub enum What {
    Create,
    Append(Batch),
    CloseStream(u8),
    Close(Outcome),
    Trim(u8, u64),
    Delete,
    /// The run had expired, and was given up.
    Vanish,
}

/// Milliseconds for which a deleted run is told to be deleted.
const DELETED_TOLD_MS: u64 = 24 * 60 * 60 * 1_000;

/// What a name says of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Absent,
    Deleted,
    There,
}

/// A stream that was opened; `$run` is not among these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub name: u8,
    pub trim: u64,
    pub tail: u64,
    pub closed: bool,
}

/// A run that was deleted.
#[derive(Debug, Clone, Copy)]
struct Buried {
    generation: usize,
    deleted_ms: u64,
    /// The command that did it.
    op: usize,
}

/// A run after some of its commands.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub tail: u64,
    pub events: u64,
    pub streams: Vec<Stream>,
    pub outcome: Option<Outcome>,
    pub bytes: u64,
    /// Which of the runs of its name was the last; 0 if there never was one.
    pub generation: usize,
    /// Which of them this is: an earlier one that was deleted, if the last one has vanished.
    pub shown: usize,
    /// The last that was deleted.
    buried: Option<Buried>,
    pub deleted_ms: Option<u64>,
    exists: bool,
    ended_ms: u64,
    updated_ms: u64,
    producers: Vec<(Numbers, Vec<usize>)>,
    ops: usize,
    /// The commands of the runs before it.
    pub begin: usize,
}

impl State {
    pub fn of<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let mut state = Self::default();
        ops.into_iter().for_each(|op| state.apply(op));
        state
    }

    pub fn apply(&mut self, op: &Op) {
        if matches!(op.what, What::Create | What::Vanish) {
            let Self { ops, buried, .. } = *self;
            let (generation, shown) = (op.generation, op.generation);
            *self = Self { generation, shown, buried, ops, begin: ops, ..Self::default() };
        }
        self.tail += op.count;
        self.updated_ms = op.time_ms;
        match &op.what {
            What::Create => {
                self.events += 1;
                self.exists = true;
            }
            What::Delete => {
                let (generation, deleted_ms) = (op.generation, op.time_ms);
                self.buried = Some(Buried { generation, deleted_ms, op: self.ops });
                self.deleted_ms = Some(deleted_ms);
            }
            What::Vanish => {
                let Some(buried) = self.buried else { return self.ops += 1 };
                (self.exists, self.shown) = (true, buried.generation);
                self.deleted_ms = Some(buried.deleted_ms);
            }
            What::Append(batch) => self.apply_append(batch, op.count),
            What::CloseStream(name) => {
                self.events += 1;
                self.stream_mut(*name).closed = true;
            }
            What::Close(outcome) => {
                self.events += 1;
                self.outcome = Some(*outcome);
                self.ended_ms = op.time_ms;
            }
            What::Trim(name, trim) => self.stream_mut(*name).trim = *trim,
        }
        self.ops += 1;
    }

    fn apply_append(&mut self, batch: &Batch, count: u64) {
        self.bytes += batch.bodies.iter().map(|body| body.len() as u64).sum::<u64>();
        if self.stream(batch.stream).is_none() {
            self.streams.push(Stream { name: batch.stream, trim: 0, tail: 0, closed: false });
        }
        self.stream_mut(batch.stream).tail += count;
        let Some(numbers) = batch.producer else { return };
        match self.producers.iter_mut().find(|(known, _)| known.id == numbers.id) {
            Some((known, ops)) => {
                if known.epoch != numbers.epoch {
                    ops.clear();
                }
                *known = numbers;
                ops.push(self.ops);
            }
            None => self.producers.push((numbers, vec![self.ops])),
        }
    }

    pub fn presence(&self, now_ms: u64) -> Presence {
        match self.deleted_ms {
            _ if !self.exists => Presence::Absent,
            Some(deleted_ms) if deleted_ms + DELETED_TOLD_MS <= now_ms => Presence::Absent,
            Some(_) => Presence::Deleted,
            None => Presence::There,
        }
    }

    /// Whether the run was closed so long ago that it may have vanished.
    pub fn may_have_expired(&self, retention_ms: Option<u64>, now_ms: u64) -> bool {
        let age_ms = retention_ms.filter(|_| self.exists && self.outcome.is_some());
        age_ms.is_some_and(|age_ms| self.ended_ms + age_ms <= now_ms)
    }

    pub fn stream(&self, name: u8) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.name == name)
    }

    fn stream_mut(&mut self, name: u8) -> &mut Stream {
        self.streams.iter_mut().find(|stream| stream.name == name).expect("was opened")
    }

    /// Number of a stream in the run, whether it exists or would be opened next.
    fn stream_no(&self, name: u8) -> u32 {
        let at = self.streams.iter().position(|stream| stream.name == name);
        at.unwrap_or(self.streams.len()) as u32 + 1
    }

    /// What a producer sends next.
    pub fn next_numbers(&self, id: u8) -> Numbers {
        let known = self.producers.iter().find(|(known, _)| known.id == id);
        known.map_or(Numbers { id, epoch: 0, seq: 0 }, |(known, _)| Numbers {
            seq: known.seq + 1,
            ..*known
        })
    }

    /// The command that used these numbers before, if one did in this epoch.
    fn used(&self, numbers: Numbers) -> Option<usize> {
        let (known, ops) = self.producers.iter().find(|(known, _)| known.id == numbers.id)?;
        (known.epoch == numbers.epoch).then(|| ops.get(numbers.seq as usize).copied())?
    }
}

/// Why a command must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NoRun,
    Deleted,
    Replaced,
    NoStream,
    Closed,
    Index,
    Beyond,
    Epoch,
    Gap,
    EpochStart,
    Mismatch,
}

fn why(refusal: &Refusal) -> Why {
    match refusal {
        Refusal::RunNotFound => Why::NoRun,
        Refusal::RunDeleted => Why::Deleted,
        Refusal::RunReplaced { .. } => Why::Replaced,
        Refusal::DedupMismatch => Why::Mismatch,
        Refusal::StreamNotFound => Why::NoStream,
        Refusal::Closed { .. } => Why::Closed,
        Refusal::IndexMismatch { .. } => Why::Index,
        Refusal::BeyondTail { .. } => Why::Beyond,
        Refusal::StaleEpoch { .. } => Why::Epoch,
        Refusal::ProducerGap { .. } => Why::Gap,
        Refusal::BadEpochStart => Why::EpochStart,
        other => panic!("no command here can be refused like this: {other:?}"),
    }
}

/// What a store says, with what only it can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Created { uid: RunUid, created: bool },
    Appended { uid: RunUid, seq: u64, index: u64, count: u64, time_ms: u64, again: bool },
    StreamClosed { final_index: u64, again: bool },
    Closed { seq: u64, again: bool },
    Trimmed(u64),
    Deleted { deleted_ms: u64, again: bool },
}

/// What the model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prediction {
    /// The answer to this command, the first time or again.
    Op {
        op: usize,
        again: bool,
    },
    /// A trim that changes nothing.
    TrimmedAlready(u64),
    Refused(Why),
}

/// The answer that a command must get.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub run: usize,
    prediction: Prediction,
    /// The commands of the run that the answer rests on.
    rests_on: usize,
    /// The commands of the run before it.
    before: usize,
}

impl Expected {
    /// Whether the command changed something, or repeats one that did.
    pub fn is_accepted(&self) -> bool {
        !matches!(self.prediction, Prediction::Refused(_))
    }
}

/// A name and its runs.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Identity of each of its runs, as far as it is known.
    pub uids: Vec<Option<RunUid>>,
    pub ops: Vec<Op>,
    /// So many of `ops` are there for ever.
    pub sure: usize,
    /// After all of `ops`.
    pub state: State,
}

/// How many commands of each run are sure.
pub type Known = Arc<[usize]>;

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub runs: Vec<Run>,
    /// How long a run is kept after it was closed.
    pub retention_ms: Option<u64>,
    /// The latest that the store has known it to be.
    pub seen_ms: u64,
}

/// What a run was found to hold after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    pub ops: usize,
    pub uid: Option<RunUid>,
    /// Whether the run has expired and is gone behind those commands.
    pub vanished: bool,
}

impl Model {
    pub fn new(runs: usize) -> Self {
        Self { runs: vec![Run::default(); runs], ..Self::default() }
    }

    pub fn known(&self) -> Known {
        self.runs.iter().map(|run| run.sure).collect()
    }

    /// The model as it was when only so much was sure.
    pub fn at(&self, known: &[usize]) -> Self {
        let mut model = self.clone();
        for (run, sure) in model.runs.iter_mut().zip(known) {
            // A run may have vanished behind what this model knows.
            run.sure = run.ops.len().min(*sure);
        }
        model
    }

    /// Works out what a command does, and does it.
    pub fn submit(
        &mut self,
        run: usize,
        request: &Request,
        run_uid: Option<RunUid>,
        now_ms: u64,
    ) -> Expected {
        self.seen_ms = self.seen_ms.max(now_ms);
        let before = self.runs[run].ops.len();
        let prediction = self.runs[run].decide(request, run_uid, now_ms);
        let rests_on = self.runs[run].ops.len();
        Expected { run, prediction, rests_on, before }
    }

    /// Takes back the last command of a run: it was never taken.
    pub fn take_back(&mut self, expected: &Expected) {
        let run = &mut self.runs[expected.run];
        assert!(run.sure <= expected.before, "what is sure is not taken back");
        run.truncate(expected.before);
    }

    /// Checks an answer; from now on everything it rests on is there for ever.
    pub fn answered(&mut self, expected: &Expected, answer: &Result<Answer, Error>) {
        let run = &mut self.runs[expected.run];
        match (expected.prediction, answer) {
            (Prediction::Refused(expected), Err(Error::Refused(refusal))) => {
                assert_eq!(why(refusal), expected, "refused for another reason");
            }
            (Prediction::TrimmedAlready(trim), Ok(Answer::Trimmed(found))) => {
                assert_eq!(*found, trim, "the trim that holds");
            }
            (Prediction::Op { op, again }, Ok(answer)) => run.check_answer(op, again, answer),
            (expected, found) => panic!("expected {expected:?}, was answered {found:?}"),
        }
        run.sure = run.sure.max(expected.rests_on);
    }

    /// Forgets what was not found after a crash; what was is there for ever.
    pub fn settle(&mut self, found: &[FoundRun]) {
        for (run, found) in self.runs.iter_mut().zip(found) {
            assert!(run.sure <= found.ops, "checked before");
            run.truncate(found.ops);
            if found.vanished {
                run.vanish();
            }
            run.sure = run.ops.len();
            if let Some(uid) = found.uid {
                run.learn_uid(run.state.shown, uid);
            }
        }
    }
}

impl Run {
    fn decide(&mut self, request: &Request, run_uid: Option<RunUid>, now_ms: u64) -> Prediction {
        let presence = self.state.presence(now_ms);
        let decided = match presence {
            Presence::There => self.decide_there(request, run_uid, now_ms),
            Presence::Absent | Presence::Deleted => {
                self.decide_gone(request, run_uid, presence == Presence::Deleted, now_ms)
            }
        };
        decided.unwrap_or_else(Prediction::Refused)
    }

    /// Decides a command on a run that is not there, or not any more.
    fn decide_gone(
        &mut self,
        request: &Request,
        run_uid: Option<RunUid>,
        is_deleted: bool,
        now_ms: u64,
    ) -> Result<Prediction, Why> {
        match request {
            Request::Create => Ok(self.push(What::Create, now_ms)),
            Request::Delete if is_deleted => {
                self.check_uid(run_uid)?;
                let op = self.state.buried.expect("it is deleted").op;
                Ok(Prediction::Op { op, again: true })
            }
            _ if is_deleted => Err(Why::Deleted),
            Request::Append(batch) if batch.create => {
                if run_uid.is_some() {
                    return Err(Why::Replaced);
                }
                check_numbers(&State::default(), batch)?;
                self.push(What::Create, now_ms);
                Ok(self.push(What::Append(batch.clone()), now_ms))
            }
            _ => Err(Why::NoRun),
        }
    }

    fn decide_there(
        &mut self,
        request: &Request,
        run_uid: Option<RunUid>,
        now_ms: u64,
    ) -> Result<Prediction, Why> {
        if *request == Request::Create {
            return Ok(Prediction::Op { op: self.state.begin, again: true });
        }
        self.check_uid(run_uid)?;
        match request {
            Request::Create => unreachable!("answered above"),
            Request::Append(batch) => self.decide_append(batch, now_ms),
            Request::CloseStream(name) => self.decide_close_stream(*name, now_ms),
            Request::Close(outcome) => match self.state.outcome {
                None => Ok(self.push(What::Close(*outcome), now_ms)),
                Some(known) if known == *outcome => {
                    let op = self.find(|what| matches!(what, What::Close(_)));
                    Ok(Prediction::Op { op, again: true })
                }
                Some(_) => Err(Why::Closed),
            },
            Request::Trim(name, trim) => self.decide_trim(*name, *trim, now_ms),
            Request::Delete => Ok(self.push(What::Delete, now_ms)),
        }
    }

    fn check_uid(&self, run_uid: Option<RunUid>) -> Result<(), Why> {
        match run_uid {
            // Of a run that is not known to exist nobody can know the identity.
            Some(wanted) if self.uid() != Some(wanted) => Err(Why::Replaced),
            _ => Ok(()),
        }
    }

    /// The command of the run that did something.
    fn find(&self, is_wanted: impl Fn(&What) -> bool) -> usize {
        let found = self.ops[self.state.begin..].iter().position(|op| is_wanted(&op.what));
        self.state.begin + found.expect("it was done")
    }

    fn decide_append(&mut self, batch: &Batch, now_ms: u64) -> Result<Prediction, Why> {
        if let Some(numbers) = batch.producer {
            let next = self.state.next_numbers(numbers.id);
            if 0 < next.seq && numbers.epoch < next.epoch {
                return Err(Why::Epoch);
            }
            if let Some(op) = self.state.used(numbers) {
                let What::Append(used) = &self.ops[op].what else { unreachable!("an append") };
                let is_same = used.stream == batch.stream && used.bodies == batch.bodies;
                return match is_same {
                    true => Ok(Prediction::Op { op, again: true }),
                    false => Err(Why::Mismatch),
                };
            }
        }
        let stream = self.state.stream(batch.stream);
        if self.state.outcome.is_some() || stream.is_some_and(|stream| stream.closed) {
            return Err(Why::Closed);
        }
        check_numbers(&self.state, batch)?;
        Ok(self.push(What::Append(batch.clone()), now_ms))
    }

    fn decide_close_stream(&mut self, name: u8, now_ms: u64) -> Result<Prediction, Why> {
        let Some(stream) = self.state.stream(name) else { return Err(Why::NoStream) };
        if stream.closed {
            let op = self.find(|what| matches!(what, What::CloseStream(closed) if *closed == name));
            return Ok(Prediction::Op { op, again: true });
        }
        match self.state.outcome {
            Some(_) => Err(Why::Closed),
            None => Ok(self.push(What::CloseStream(name), now_ms)),
        }
    }

    fn decide_trim(&mut self, name: u8, trim: u64, now_ms: u64) -> Result<Prediction, Why> {
        let Some(stream) = self.state.stream(name) else { return Err(Why::NoStream) };
        if stream.tail < trim {
            return Err(Why::Beyond);
        }
        if trim <= stream.trim {
            return Ok(Prediction::TrimmedAlready(stream.trim));
        }
        Ok(self.push(What::Trim(name, trim), now_ms))
    }

    fn push(&mut self, what: What, now_ms: u64) -> Prediction {
        let is_new = matches!(what, What::Create);
        let state = if is_new { &State::default() } else { &self.state };
        let (stream_no, first_index, count) = match &what {
            What::Append(batch) => {
                let tail = state.stream(batch.stream).map_or(0, |stream| stream.tail);
                (state.stream_no(batch.stream), tail, batch.bodies.len() as u64)
            }
            What::Trim(..) | What::Delete | What::Vanish => (0, state.events, 0),
            What::Create | What::Close(_) | What::CloseStream(_) => (0, state.events, 1),
        };
        let (first_seq, time_ms) = (state.tail, now_ms.max(state.updated_ms));
        let generation = self.state.generation + usize::from(is_new);
        let op = Op { what, generation, stream_no, first_seq, first_index, count, time_ms };
        if is_new {
            self.uids.push(None);
        }
        self.state.apply(&op);
        self.ops.push(op);
        Prediction::Op { op: self.ops.len() - 1, again: false }
    }

    /// The run has expired and is gone, for ever.
    pub fn vanish(&mut self) {
        self.push(What::Vanish, 0);
        self.sure = self.ops.len();
    }

    /// The state once the run has expired and is gone.
    pub fn vanished(&self, state: &State) -> State {
        let mut state = state.clone();
        let (generation, what) = (state.generation, What::Vanish);
        state.apply(&Op {
            what,
            generation,
            stream_no: 0,
            first_seq: 0,
            first_index: 0,
            count: 0,
            time_ms: 0,
        });
        state
    }

    fn truncate(&mut self, ops: usize) {
        self.ops.truncate(ops);
        self.state = State::of(&self.ops);
        self.uids.truncate(self.state.generation);
    }

    /// Identity of the run that the name shows, if it is known.
    pub fn uid(&self) -> Option<RunUid> {
        self.uid_of(&self.state)
    }

    /// As [`uid`](Self::uid), in an earlier state.
    pub fn uid_of(&self, state: &State) -> Option<RunUid> {
        state.shown.checked_sub(1).and_then(|n| self.uids[n])
    }

    /// Which of the runs are sure; none if the newest such is deleted or gone.
    pub fn sure_generation(&self) -> Option<usize> {
        let last = self.ops[..self.sure].last()?;
        let is_gone = matches!(last.what, What::Delete | What::Vanish);
        (!is_gone).then_some(last.generation)
    }

    /// The commands of one run.
    pub fn ops_of(&self, generation: usize) -> std::ops::Range<usize> {
        let start = self.ops.partition_point(|op| op.generation < generation);
        let len = self.ops[start..].partition_point(|op| op.generation <= generation);
        start..start + len
    }

    fn check_answer(&mut self, op: usize, expected_again: bool, answer: &Answer) {
        let what = self.ops[op].what.clone();
        let Op { generation, first_seq, first_index, count: len, time_ms: time, .. } = self.ops[op];
        match (what, *answer) {
            (What::Create, Answer::Created { uid, created }) => {
                assert_eq!(created, !expected_again);
                self.learn_uid(generation, uid);
            }
            (What::Append(_), Answer::Appended { uid, seq, index, count, time_ms, again }) => {
                assert_eq!((seq, index, count), (first_seq, first_index, len), "positions");
                assert_eq!(again, expected_again, "whether it is told to be a repetition");
                assert_eq!(time_ms, time, "a record has one time");
                self.learn_uid(generation, uid);
            }
            (What::CloseStream(name), Answer::StreamClosed { final_index, again }) => {
                let state = State::of(&self.ops[..=op]);
                let tail = state.stream(name).expect("it is closed").tail;
                assert_eq!((final_index, again), (tail, expected_again));
            }
            (What::Close(_), Answer::Closed { seq, again }) => {
                assert_eq!((seq, again), (first_seq, expected_again));
            }
            (What::Trim(_, trim), Answer::Trimmed(found)) => assert_eq!(trim, found),
            (What::Delete, Answer::Deleted { deleted_ms, again }) => {
                assert_eq!((deleted_ms, again), (time, expected_again));
            }
            (what, answer) => panic!("{what:?} was answered {answer:?}"),
        }
    }

    pub fn learn_uid(&mut self, generation: usize, uid: RunUid) {
        let known = *self.uids[generation - 1].get_or_insert(uid);
        assert_eq!(known, uid, "a run has one identity");
        let same = self.uids.iter().filter(|known| **known == Some(uid)).count();
        assert_eq!(same, 1, "another run has another identity");
    }

    /// The batches appended to the newest run so far.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.ops[self.state.begin..].iter().filter_map(|op| match &op.what {
            What::Append(batch) => Some(batch),
            _ => None,
        })
    }

    /// The command of a run whose records include this seq.
    pub fn op_at(&self, generation: usize, seq: u64) -> Option<usize> {
        let range = self.ops_of(generation);
        let ops = &self.ops[range.clone()];
        let at = ops.partition_point(|op| op.first_seq + op.count <= seq);
        (at < ops.len()).then_some(range.start + at)
    }

    /// A reader that had been shown everything below `next` was shown this record: it must be ours,
    /// and it and all before are there for ever.
    pub fn shown(&mut self, generation: usize, next: u64, record: &Record) {
        assert!(next <= record.seq, "a reader was shown seq {} again", record.seq);
        let op = self.op_at(generation, record.seq);
        let op = op.unwrap_or_else(|| panic!("a reader was shown an invented record: {record:?}"));
        check_record(&self.ops[op], record);
        self.check_skipped(generation, next, record.seq);
        self.sure = self.sure.max(op + 1);
    }

    /// A reader was told that the run is deleted.
    pub fn shown_deleted(&mut self, generation: usize) {
        let ops = &self.ops[self.ops_of(generation)];
        let deletion = ops.iter().position(|op| matches!(op.what, What::Delete));
        let deletion = deletion.expect("a reader was told that a run is deleted that nobody did");
        self.sure = self.sure.max(self.ops_of(generation).start + deletion + 1);
    }

    /// Seq up to which a reader of this run has surely seen everything once it waits.
    pub fn sure_tail(&self, generation: usize) -> u64 {
        let range = self.ops_of(generation);
        let last = self.ops[range.start..range.end.min(self.sure).max(range.start)].last();
        last.map_or(0, |op| op.first_seq + op.count)
    }

    /// What a reader was not shown has been trimmed.
    pub fn check_skipped(&self, generation: usize, from: u64, to: u64) {
        if to <= from {
            return;
        }
        let state = State::of(&self.ops[..self.ops_of(generation).end]);
        for seq in from..to {
            let op = self.op_at(generation, seq).expect("a record of ours");
            let op = &self.ops[op];
            let is_trimmed = trim_of(op, &state)
                .is_some_and(|trim| op.first_index + (seq - op.first_seq) < trim);
            assert!(is_trimmed, "a reader was not shown seq {seq}");
        }
    }
}

/// First index that is kept of the stream of a command.
pub fn trim_of(op: &Op, state: &State) -> Option<u64> {
    match &op.what {
        What::Append(batch) => state.stream(batch.stream).map(|stream| stream.trim),
        _ => None,
    }
}

fn check_numbers(state: &State, batch: &Batch) -> Result<(), Why> {
    let tail = state.stream(batch.stream).map_or(0, |stream| stream.tail);
    if batch.expected_index.is_some_and(|expected| expected != tail) {
        return Err(Why::Index);
    }
    let Some(numbers) = batch.producer else { return Ok(()) };
    let next = state.next_numbers(numbers.id);
    match numbers.seq {
        _ if 0 < next.seq && next.epoch == numbers.epoch => match numbers.seq == next.seq {
            true => Ok(()),
            false => Err(Why::Gap),
        },
        0 => Ok(()),
        _ => Err(Why::EpochStart),
    }
}

/// Compares a record with the command it must come from.
pub fn compare(op: &Op, record: &Record) -> Result<(), String> {
    let n = record.seq.wrapping_sub(op.first_seq);
    if op.count <= n {
        return Err(format!("{record:?} is not of {op:?}"));
    }
    let place = (record.stream, record.index, record.time_ms);
    let expected = (op.stream_no, op.first_index + n, op.time_ms);
    if place != expected {
        return Err(format!(
            "stream, index, time of seq {}: {place:?}, not {expected:?}",
            record.seq
        ));
    }
    let is_same = match &op.what {
        What::Append(batch) => record.event.is_none() && record.data == batch.bodies[n as usize],
        _ => record.event.is_some() && record.data.is_empty(),
    };
    if is_same { Ok(()) } else { Err(format!("content of seq {}: {record:?}", record.seq)) }
}

/// As [`compare`], for what can only be that command.
pub fn check_record(op: &Op, record: &Record) {
    compare(op, record).unwrap_or_else(|problem| panic!("{problem}"));
}
