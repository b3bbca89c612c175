//! What a store must hold, worked out from the commands alone.
//!
//! A run is the list of its accepted commands, in order of submission. The first `sure` of them
//! were acknowledged, or shown to a reader, or rested upon by an answer: they must be there for
//! ever, exactly so. Those behind may be lost at a crash, but only from the end.
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
}

/// An accepted command.
#[derive(Debug, Clone)]
pub struct Op {
    pub what: What,
    pub stream_no: u32,
    pub first_seq: u64,
    pub first_index: u64,
    pub count: u64,
    /// Known once it was told or shown.
    pub time_ms: Option<u64>,
}

#[derive(Debug, Clone)]
pub enum What {
    Create,
    Append(Batch),
    CloseStream(u8),
    Close(Outcome),
    Trim(u8, u64),
}

/// A stream that was opened; `$run` is not among these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub name: u8,
    pub trim: u64,
    pub tail: u64,
    pub closed: bool,
}

/// A run after some of its commands.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub tail: u64,
    pub events: u64,
    pub streams: Vec<Stream>,
    pub outcome: Option<Outcome>,
    pub bytes: u64,
    producers: Vec<(Numbers, Vec<usize>)>,
    ops: usize,
}

impl State {
    pub fn of<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let mut state = Self::default();
        ops.into_iter().for_each(|op| state.apply(op));
        state
    }

    pub fn apply(&mut self, op: &Op) {
        self.tail += op.count;
        match &op.what {
            What::Create => self.events += 1,
            What::Append(batch) => self.apply_append(batch, op.count),
            What::CloseStream(name) => {
                self.events += 1;
                self.stream_mut(*name).closed = true;
            }
            What::Close(outcome) => {
                self.events += 1;
                self.outcome = Some(*outcome);
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
    NoStream,
    Closed,
    Index,
    Beyond,
    Epoch,
    Gap,
    EpochStart,
}

fn why(refusal: &Refusal) -> Why {
    match refusal {
        Refusal::RunNotFound => Why::NoRun,
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

#[derive(Debug, Clone, Default)]
pub struct Run {
    pub uid: Option<RunUid>,
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
}

/// What a run was found to hold after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    pub ops: usize,
    pub uid: Option<RunUid>,
    /// Time of each command that has records.
    pub times: Vec<Option<u64>>,
}

impl Model {
    pub fn new(runs: usize) -> Self {
        Self { runs: vec![Run::default(); runs] }
    }

    pub fn known(&self) -> Known {
        self.runs.iter().map(|run| run.sure).collect()
    }

    /// The model as it was when only so much was sure.
    pub fn at(&self, known: &[usize]) -> Self {
        let mut model = self.clone();
        model.runs.iter_mut().zip(known).for_each(|(run, sure)| run.sure = *sure);
        model
    }

    /// Works out what a command does, and does it.
    pub fn submit(&mut self, run: usize, request: &Request) -> Expected {
        let before = self.runs[run].ops.len();
        let prediction = self.runs[run].decide(request);
        let rests_on = self.runs[run].ops.len();
        Expected { run, prediction, rests_on, before }
    }

    /// Takes back the last command of a run: it was never taken.
    pub fn take_back(&mut self, expected: &Expected) {
        let run = &mut self.runs[expected.run];
        assert!(run.sure <= expected.before, "what is sure is not taken back");
        run.ops.truncate(expected.before);
        run.state = State::of(&run.ops);
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
            run.ops.truncate(found.ops);
            run.sure = found.ops;
            run.uid = found.uid;
            run.state = State::of(&run.ops);
            for (op, time_ms) in run.ops.iter_mut().zip(&found.times) {
                op.time_ms = op.time_ms.or(*time_ms);
            }
        }
    }
}

impl Run {
    fn decide(&mut self, request: &Request) -> Prediction {
        let exists = !self.ops.is_empty();
        let outcome = match request {
            Request::Create if exists => Ok(Prediction::Op { op: 0, again: true }),
            Request::Create => Ok(self.push(What::Create)),
            Request::Append(batch) if !exists => match batch.create {
                false => Err(Why::NoRun),
                true => check_numbers(&self.state, batch).map(|()| {
                    self.push(What::Create);
                    self.push(What::Append(batch.clone()))
                }),
            },
            _ if !exists => Err(Why::NoRun),
            Request::Append(batch) => self.decide_append(batch),
            Request::CloseStream(name) => self.decide_close_stream(*name),
            Request::Close(outcome) => match self.state.outcome {
                None => Ok(self.push(What::Close(*outcome))),
                Some(known) if known == *outcome => {
                    let closing = |op: &Op| matches!(op.what, What::Close(_));
                    let op = self.ops.iter().position(closing).expect("it is closed");
                    Ok(Prediction::Op { op, again: true })
                }
                Some(_) => Err(Why::Closed),
            },
            Request::Trim(name, trim) => self.decide_trim(*name, *trim),
        };
        outcome.unwrap_or_else(Prediction::Refused)
    }

    fn decide_append(&mut self, batch: &Batch) -> Result<Prediction, Why> {
        if let Some(numbers) = batch.producer {
            let next = self.state.next_numbers(numbers.id);
            if 0 < next.seq && numbers.epoch < next.epoch {
                return Err(Why::Epoch);
            }
            if let Some(op) = self.state.used(numbers) {
                return Ok(Prediction::Op { op, again: true });
            }
        }
        let stream = self.state.stream(batch.stream);
        if self.state.outcome.is_some() || stream.is_some_and(|stream| stream.closed) {
            return Err(Why::Closed);
        }
        check_numbers(&self.state, batch)?;
        Ok(self.push(What::Append(batch.clone())))
    }

    fn decide_close_stream(&mut self, name: u8) -> Result<Prediction, Why> {
        let Some(stream) = self.state.stream(name) else { return Err(Why::NoStream) };
        if stream.closed {
            let closing = |op: &Op| matches!(op.what, What::CloseStream(closed) if closed == name);
            let op = self.ops.iter().position(closing).expect("it is closed");
            return Ok(Prediction::Op { op, again: true });
        }
        match self.state.outcome {
            Some(_) => Err(Why::Closed),
            None => Ok(self.push(What::CloseStream(name))),
        }
    }

    fn decide_trim(&mut self, name: u8, trim: u64) -> Result<Prediction, Why> {
        let Some(stream) = self.state.stream(name) else { return Err(Why::NoStream) };
        if stream.tail < trim {
            return Err(Why::Beyond);
        }
        if trim <= stream.trim {
            return Ok(Prediction::TrimmedAlready(stream.trim));
        }
        Ok(self.push(What::Trim(name, trim)))
    }

    fn push(&mut self, what: What) -> Prediction {
        let (stream_no, first_index, count) = match &what {
            What::Append(batch) => {
                let tail = self.state.stream(batch.stream).map_or(0, |stream| stream.tail);
                (self.state.stream_no(batch.stream), tail, batch.bodies.len() as u64)
            }
            What::Trim(..) => (0, self.state.events, 0),
            What::Create | What::Close(_) | What::CloseStream(_) => (0, self.state.events, 1),
        };
        let first_seq = self.state.tail;
        let op = Op { what, stream_no, first_seq, first_index, count, time_ms: None };
        self.state.apply(&op);
        self.ops.push(op);
        Prediction::Op { op: self.ops.len() - 1, again: false }
    }

    fn check_answer(&mut self, op: usize, expected_again: bool, answer: &Answer) {
        let what = self.ops[op].what.clone();
        let (first_seq, first_index, len) =
            (self.ops[op].first_seq, self.ops[op].first_index, self.ops[op].count);
        match (what, *answer) {
            (What::Create, Answer::Created { uid, created }) => {
                assert_eq!(created, !expected_again);
                self.learn_uid(uid);
            }
            (What::Append(_), Answer::Appended { uid, seq, index, count, time_ms, again }) => {
                assert_eq!((seq, index, count), (first_seq, first_index, len), "positions");
                assert_eq!(again, expected_again, "whether it is told to be a repetition");
                self.learn_uid(uid);
                self.learn_time(op, time_ms);
            }
            (What::CloseStream(name), Answer::StreamClosed { final_index, again }) => {
                let tail = self.state.stream(name).expect("it is closed").tail;
                assert_eq!((final_index, again), (tail, expected_again));
            }
            (What::Close(_), Answer::Closed { seq, again }) => {
                assert_eq!((seq, again), (first_seq, expected_again));
            }
            (What::Trim(_, trim), Answer::Trimmed(found)) => assert_eq!(trim, found),
            (what, answer) => panic!("{what:?} was answered {answer:?}"),
        }
    }

    fn learn_uid(&mut self, uid: RunUid) {
        assert_eq!(*self.uid.get_or_insert(uid), uid, "a run has one identity");
    }

    fn learn_time(&mut self, op: usize, time_ms: u64) {
        let known = self.ops[op].time_ms.get_or_insert(time_ms);
        assert_eq!(*known, time_ms, "a record has one time");
    }

    /// The batches appended so far.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.ops.iter().filter_map(|op| match &op.what {
            What::Append(batch) => Some(batch),
            _ => None,
        })
    }

    /// The command whose records include this seq.
    pub fn op_at(&self, seq: u64) -> Option<usize> {
        let at = self.ops.partition_point(|op| op.first_seq + op.count <= seq);
        (at < self.ops.len()).then_some(at)
    }

    /// A reader was shown this record: it must be ours, and it and all before are there for ever.
    pub fn shown(&mut self, record: &Record) {
        let op = self.op_at(record.seq);
        let op = op.unwrap_or_else(|| panic!("a reader was shown an invented record: {record:?}"));
        check_record(&self.ops[op], record);
        self.learn_time(op, record.time_ms);
        self.sure = self.sure.max(op + 1);
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
pub fn check_record(op: &Op, record: &Record) {
    let n = record.seq.wrapping_sub(op.first_seq);
    assert!(n < op.count, "{record:?} is not of {op:?}");
    let found = (record.stream, record.index);
    assert_eq!(found, (op.stream_no, op.first_index + n), "place of seq {}", record.seq);
    if let Some(time_ms) = op.time_ms {
        assert_eq!(record.time_ms, time_ms, "time of seq {}", record.seq);
    }
    match &op.what {
        What::Append(batch) => {
            assert!(record.event.is_none(), "no event at seq {}", record.seq);
            assert!(record.data == batch.bodies[n as usize], "body of seq {}", record.seq);
        }
        _ => assert!(record.event.is_some() && record.data.is_empty(), "event: {record:?}"),
    }
}
