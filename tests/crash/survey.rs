//! Reads everything that a store holds, through its readers, and holds it to the model.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use braidlog::{
    End, Error, Gap, Index, ListRuns, Query, Record, Refusal, RunKey, Seq, Start, Store, Tail,
    TailItem, platform::sim::SimRng,
};

use super::model::{FoundRun, Model, Op, Run, State, Stream, What, check_record};

/// A future that needs nobody else to go on.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing is in flight, and yet the answer has to wait"),
    }
}

pub fn run_key(run: usize) -> RunKey {
    RunKey::new(format!("run_{run}"))
}

pub fn stream_name(name: u8) -> String {
    format!("s{name}")
}

/// What was found, and how many records were compared.
pub struct Found {
    pub runs: Vec<FoundRun>,
    pub records: u64,
}

/// Checks a store in which nothing is in flight: all that is sure is there exactly once, what was
/// in doubt is there in order of submission up to some point and not behind, and nothing else is.
pub fn survey(store: &Store, model: &Model, rng: &mut SimRng) -> Found {
    let mut found = Found { runs: Vec::new(), records: 0 };
    for (number, run) in model.runs.iter().enumerate() {
        let run = Survey { store, run, key: run_key(number) }.check(rng, &mut found.records);
        found.runs.push(run);
    }
    let exists = |(n, run): (usize, &FoundRun)| (0 < run.ops).then(|| format!("run_{n}"));
    let expected: Vec<String> = found.runs.iter().enumerate().filter_map(exists).collect();
    let list = ListRuns { page_size: 1_000, ..ListRuns::default() };
    let listed = ready(store.list_runs(&list)).expect("runs are listed").runs;
    let mut listed: Vec<String> = listed.iter().map(|run| run.run_id.to_string()).collect();
    listed.sort();
    assert_eq!(listed, expected, "the runs there are");
    found
}

struct Survey<'a> {
    store: &'a Store,
    run: &'a Run,
    key: RunKey,
}

impl Survey<'_> {
    fn check(&self, rng: &mut SimRng, records: &mut u64) -> FoundRun {
        let info = match ready(self.store.get_run(&self.key)) {
            Ok(info) => info,
            Err(Error::Refused(Refusal::RunNotFound)) => {
                assert_eq!(self.run.sure, 0, "{:?} was acknowledged and is gone", self.key);
                return FoundRun { ops: 0, uid: None, times: Vec::new() };
            }
            Err(other) => panic!("{:?} cannot be described: {other}", self.key),
        };
        let (ops, state) = self.find_state();
        assert_eq!(info.ended.map(|end| end.outcome), state.outcome, "how the run ended");
        assert_eq!(info.tail.0, state.tail, "the tail that the run's object tells");
        let known = self.run.uid.filter(|_| 0 < self.run.sure);
        assert_eq!(known.unwrap_or(info.run_uid), info.run_uid, "identity of the run");
        let times = self.check_run(&self.run.ops[..ops], &state, records);
        for (n, stream) in state.streams.iter().enumerate() {
            self.check_stream(n as u32 + 1, stream, &self.run.ops[..ops], rng, records);
        }
        self.check_part(&state, rng, records);
        FoundRun { ops, uid: Some(info.run_uid), times }
    }

    /// How many commands the run holds, by what it tells of itself.
    fn find_state(&self) -> (usize, State) {
        let list = ready(self.store.list_streams(&self.key, None)).expect("streams are listed");
        let found: Vec<Stream> = list.streams[1..]
            .iter()
            .map(|info| Stream {
                name: info.name[1..].parse().expect("s<n>"),
                trim: info.trim.0,
                tail: info.tail.0,
                closed: info.closed,
            })
            .collect();
        let tail = ready(self.store.check_tail(&self.key, None, None)).expect("tail");
        assert_eq!(tail.tail, list.tail, "one tail");
        let mut state = State::of(&self.run.ops[..self.run.sure]);
        for op in self.run.sure.. {
            let ended = state.outcome.is_some();
            let same = |(found, stream): (&Stream, &Stream)| {
                *found == Stream { closed: stream.closed || ended, ..stream.clone() }
            };
            if state.tail == list.tail.0
                && state.outcome == tail.outcome
                && found.len() == state.streams.len()
                && found.iter().zip(&state.streams).all(same)
            {
                return (op, state);
            }
            let Some(next) = self.run.ops.get(op) else { break };
            state.apply(next);
        }
        let (key, sure, all) = (&self.key, self.run.sure, self.run.ops.len());
        panic!(
            "{key:?} holds none of its first {sure} to {all} commands:\nfound tail {:?}, {:?}, \
             {found:?}\nsure: {:?}\nall: {:?}",
            list.tail,
            tail.outcome,
            State::of(&self.run.ops[..sure]),
            self.run.state,
        );
    }

    /// The whole run, from its first record.
    fn check_run(&self, ops: &[Op], state: &State, records: &mut u64) -> Vec<Option<u64>> {
        let query = Query { stop_at_tail: true, ..Query::run(self.key.clone()) };
        let read = self.read(query).expect("a run is read from its beginning");
        let mut times = Vec::new();
        let (mut found, mut time_floor) = (read.records.iter().peekable(), 0);
        for op in ops {
            let trim = trim_of(op, state);
            let mut time = None;
            for n in (0..op.count).filter(|n| trim <= op.first_index + n) {
                let record = found.next();
                let record = record.unwrap_or_else(|| panic!("record {n} of {op:?} is missing"));
                check_record(op, record);
                assert_eq!(time.unwrap_or(record.time_ms), record.time_ms, "one time per batch");
                time = Some(record.time_ms);
                assert!(time_floor <= record.time_ms, "time never decreases in a run");
                time_floor = record.time_ms;
            }
            times.push(time);
        }
        assert_eq!(found.next(), None, "a record that nobody wrote");
        let closed = End::Closed(state.outcome);
        assert_eq!(read.end, if state.outcome.is_some() { closed } else { End::Limit });
        *records += read.records.len() as u64;
        times
    }

    /// One stream, from a random index.
    fn check_stream(
        &self,
        stream_no: u32,
        stream: &Stream,
        ops: &[Op],
        rng: &mut SimRng,
        records: &mut u64,
    ) {
        let from = rng.below(stream.tail + 1);
        let query = Query {
            allow_gap: rng.chance(1, 2),
            stop_at_tail: true,
            ..Query::stream(self.key.clone(), stream_name(stream.name))
                .from(Start::Index(Index(from)))
        };
        let allow_gap = query.allow_gap;
        let read = match self.read(query) {
            Ok(read) => read,
            Err(Error::Refused(Refusal::Trimmed { first_index, .. })) => {
                assert!(from < stream.trim && !allow_gap, "refused as trimmed: {stream:?}");
                return assert_eq!(first_index, Some(Index(stream.trim)));
            }
            Err(other) => panic!("{stream:?} cannot be read from {from}: {other}"),
        };
        assert!(allow_gap || stream.trim <= from, "a trimmed start was not refused");
        let first = from.max(stream.trim);
        let (found, mut expected) = (&read.records, first);
        for op in ops.iter().filter(|op| op.stream_no == stream_no) {
            while op.first_index <= expected && expected < op.first_index + op.count {
                let record = found.get((expected - first) as usize);
                check_record(op, record.unwrap_or_else(|| panic!("index {expected} is missing")));
                expected += 1;
            }
        }
        assert_eq!((expected, found.len() as u64), (stream.tail, stream.tail - first));
        let whole =
            Gap { stream: braidlog::StreamNo(stream_no), from: Index(from), to: Index(first) };
        let gap = (from < first && first < stream.tail).then_some(whole);
        if let Some(gap) = gap {
            assert_eq!(read.gaps, [gap], "what was trimmed is told as a gap");
        }
        *records += found.len() as u64;
    }

    /// A page of the whole run from a random seq.
    fn check_part(&self, state: &State, rng: &mut SimRng, records: &mut u64) {
        let from = rng.below(state.tail + 1);
        let query = Query::run(self.key.clone()).from(Start::Seq(Seq(from)));
        let page = ready(self.store.read(query)).expect("a page");
        for record in page.records.decode().expect("decodes") {
            assert!(from <= record.seq, "before its start");
            let op = self.run.op_at(record.seq).expect("a record of ours");
            check_record(&self.run.ops[op], &record);
            *records += 1;
        }
        let query = Query::run(self.key.clone()).from(Start::Seq(Seq(state.tail + 1)));
        let beyond = ready(self.store.read(query));
        assert!(matches!(beyond, Err(Error::Refused(Refusal::BeyondTail { .. }))), "{beyond:?}");
    }

    fn read(&self, query: Query) -> Result<Read, Error> {
        let mut tail = ready(self.store.tail(query))?;
        read_to_end(&mut tail)
    }
}

/// First index that is kept of the stream of a command.
fn trim_of(op: &Op, state: &State) -> u64 {
    match &op.what {
        What::Append(batch) => state.stream(batch.stream).map_or(0, |stream| stream.trim),
        _ => 0,
    }
}

struct Read {
    records: Vec<Record>,
    gaps: Vec<Gap>,
    end: End,
}

fn read_to_end(tail: &mut Tail) -> Result<Read, Error> {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match tail.try_next()?.expect("a reader that stops at the tail never waits") {
            TailItem::Records(found, _) => records.extend(found.decode().expect("decodes")),
            TailItem::Gap(gap, _) => gaps.push(gap),
            TailItem::Streams(_) | TailItem::CaughtUp(_) => {}
            TailItem::End(end, _) => return Ok(Read { records, gaps, end }),
        }
    }
}
