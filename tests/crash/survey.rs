//! Reads everything that a store holds, through its readers, and holds it to the model.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::OnceLock,
    task::{Context, Poll, Waker},
};

use braidlog::{
    Append, Corruption, Create, Cursor, Delete, Deleted, End, Error, Gap, IfAbsent, Index,
    ListRuns, NewRecord, Query, Record, Refusal, RunInfo, RunKey, RunUid, Seq, Start, Store, Tail,
    TailItem, format::frame::Chain, platform::sim::SimRng, record::vshard_of,
};

use super::model::{
    FoundRun, Model, Op, Presence, Run, State, Stream, check_record, compare, trim_of,
};

/// A future that needs nobody else to go on.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing is in flight, and yet the answer has to wait"),
    }
}

/// Runs that share a vshard, so that each of them makes others leave memory; the rest do not.
const NEIGHBOURS: usize = 3;

/// The key of a run.
pub fn run_key(run: usize) -> RunKey {
    static KEYS: OnceLock<Vec<RunKey>> = OnceLock::new();
    let vshard = |key: &RunKey| vshard_of(&key.namespace, &key.run_id);
    let keys = KEYS.get_or_init(|| {
        (0..8)
            .map(|run| {
                let mut keys = (0..).map(|n| RunKey::new(format!("run_{run}_{n}")));
                let is_wanted = |key: &RunKey| (vshard(key) == 5) == (run < NEIGHBOURS);
                keys.find(is_wanted).expect("some name hashes there")
            })
            .collect()
    });
    keys[run].clone()
}

pub fn stream_name(name: u8) -> String {
    format!("s{name}")
}

/// What was found, and how many records were compared.
pub struct Found {
    pub runs: Vec<FoundRun>,
    pub records: u64,
    /// Runs that came back into memory, at least.
    pub came_back: u64,
}

/// Checks a store in which nothing is in flight: all that is sure is there exactly once, what was
/// in doubt is there in order of submission up to some point and not behind, and nothing else is.
/// A run that has expired is there like any other, or gone as a whole.
///
/// The whole of each run is read and compared; of every `ways_every` runs, one is also read in all
/// the other ways there are, which lead to the same bytes and take three times as long, and listed
/// by its name.
pub fn survey(store: &Store, model: &Model, rng: &mut SimRng, ways_every: u64) -> Found {
    let mut found = Found { runs: Vec::new(), records: 0, came_back: 0 };
    let mut there = Vec::new();
    let now_ms = store.clock_ms();
    let resident = store.stats().runs_resident;
    for (number, run) in model.runs.iter().enumerate() {
        let key = run_key(number);
        let seen_ms = model.seen_ms.max(now_ms);
        let retention_ms = model.retention_ms;
        let run = Survey { store, run, key, now_ms, seen_ms, retention_ms, ways_every };
        let is = run.check(rng, &mut found.records);
        there.push(is.uid.filter(|_| !is.vanished && !run.is_deleted(&is)));
        found.runs.push(is);
    }
    found.came_back = store.stats().runs_resident.saturating_sub(resident);
    check_listed(store, "", &there.iter().copied().flatten().collect());
    for (number, uid) in there.into_iter().enumerate() {
        if rng.chance(1, ways_every) {
            check_listed(store, &run_key(number).run_id, &uid.into_iter().collect());
        }
    }
    found
}

/// Checks that those runs, and no others, are listed as having names that begin so.
fn check_listed(store: &Store, prefix: &str, there: &BTreeSet<RunUid>) {
    let list = ListRuns { prefix: prefix.into(), page_size: 1_000, ..ListRuns::default() };
    let listed = ready(store.list_runs(&list)).expect("runs are listed").runs;
    let uids: BTreeSet<RunUid> = listed.iter().map(|run| run.run_uid).collect();
    assert!(uids == *there && uids.len() == listed.len(), "of {there:?} are listed: {listed:?}");
}

struct Survey<'a> {
    store: &'a Store,
    run: &'a Run,
    key: RunKey,
    now_ms: u64,
    seen_ms: u64,
    retention_ms: Option<u64>,
    ways_every: u64,
}

/// Which runs' callers are told that this file is damaged, in a store in which nothing is in doubt.
/// Whatever is read is right, up to the place where that is told.
///
/// # Errors
/// What is wrong, or told of another file.
pub fn judge(store: &Store, model: &Model, path: &str) -> Result<BTreeSet<usize>, String> {
    let mut told = BTreeSet::new();
    // One that was never used, too.
    for (number, run) in model.runs.iter().chain([&Run::default()]).enumerate() {
        let judge = Judge { store, run, key: run_key(number), path };
        match judge.check() {
            Ok(()) => {}
            Err(Problem::Told) => drop(told.insert(number)),
            Err(Problem::Wrong(problem)) => return Err(format!("{:?}: {problem}", judge.key)),
        }
    }
    Ok(told)
}

/// Whether damage of one file may be told as that of another: of what leads to a manifest and of
/// what a manifest lists, other files tell that it cannot be right.
pub fn is_to_blame(damaged: &str, told: &str) -> bool {
    damaged == told || damaged.starts_with("MANIFEST-") || damaged == "CURRENT"
}

struct Judge<'a> {
    store: &'a Store,
    run: &'a Run,
    key: RunKey,
    path: &'a str,
}

enum Problem {
    /// The caller was told that the file is damaged.
    Told,
    Wrong(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Wrong(problem)
    }
}

impl Judge<'_> {
    /// What an error says.
    fn problem(&self, error: &Error) -> Problem {
        match error {
            Error::Corrupt(Corruption { file, .. }) if is_to_blame(self.path, file) => {
                Problem::Told
            }
            other => Problem::Wrong(other.to_string()),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        let expected = self.run.state.presence(self.store.clock_ms());
        let found = match ready(self.store.get_run(&self.key)) {
            Ok(info) => {
                let (state, uid) = (&self.run.state, self.run.uid());
                let told = (info.tail.0, info.ended.map(|end| end.outcome), Some(info.run_uid));
                if told != (state.tail, state.outcome, uid) {
                    return Err(Problem::Wrong(format!("described as {told:?}")));
                }
                Presence::There
            }
            Err(Error::Refused(Refusal::RunNotFound)) => Presence::Absent,
            Err(Error::Refused(Refusal::RunDeleted)) => Presence::Deleted,
            Err(error) => return Err(self.check_refused(&error)),
        };
        if found != expected {
            return Err(Problem::Wrong(format!("{found:?}, and not {expected:?}")));
        }
        if found != Presence::There {
            return Ok(());
        }
        let ops = &self.run.ops[self.run.state.begin..];
        let whole = self.check_read(Query::run(self.key.clone()), ops, 0);
        let half = self.run.state.tail / 2;
        let query = Query::run(self.key.clone()).from(Start::Seq(Seq(half)));
        let rest = self.check_read(query, ops, half);
        let streams = self.run.state.streams.iter().enumerate().map(|(n, stream)| {
            let query = Query::stream(self.key.clone(), stream_name(stream.name));
            let of_stream = |op: &&Op| op.stream_no == n as u32 + 1;
            let ops: Vec<Op> = ops.iter().filter(of_stream).cloned().collect();
            self.check_read(Query { allow_gap: true, ..query }, &ops, 0)
        });
        let mut all = [whole, rest].into_iter().chain(streams).collect::<Vec<_>>();
        all.sort_by_key(|read| matches!(read, Err(Problem::Told)));
        all.into_iter().collect()
    }

    /// A name that cannot be looked up is not used for another run either.
    fn check_refused(&self, error: &Error) -> Problem {
        let Problem::Told = self.problem(error) else { return self.problem(error) };
        let RunKey { namespace, run_id } = self.key.clone();
        let create = Create { namespace, run_id, ..Create::default() };
        let mut creating = pin!(self.store.create_run(create));
        let records = vec![NewRecord::new("body")];
        let append = Append { stream: "s0".into(), records, ..Append::default() };
        let mut appending = pin!(self.store.append(&self.key, append, IfAbsent::Create));
        let mut context = Context::from_waker(Waker::noop());
        let is_told = |answer: Poll<Option<Error>>| match answer {
            Poll::Ready(Some(error)) => matches!(self.problem(&error), Problem::Told),
            _ => false,
        };
        match is_told(creating.as_mut().poll(&mut context).map(Result::err))
            && is_told(appending.as_mut().poll(&mut context).map(Result::err))
        {
            true => Problem::Told,
            false => Problem::Wrong("a run was made in the place of a damaged one".into()),
        }
    }

    /// Everything from `from` on of these commands, or its first part and then the damage.
    fn check_read(&self, query: Query, ops: &[Op], from: u64) -> Result<(), Problem> {
        let query = Query { stop_at_tail: true, ..query };
        let mut tail = ready(self.store.tail(query)).map_err(|error| self.problem(&error))?;
        let kept = ops.iter().flat_map(|op| {
            let trim = trim_of(op, &self.run.state).unwrap_or(0).saturating_sub(op.first_index);
            (trim..op.count).map(move |n| (op, op.first_seq + n))
        });
        let mut kept = kept.filter(|(_, seq)| from <= *seq);
        loop {
            let item = tail.try_next().map_err(|error| self.problem(&error))?;
            match item.expect("a reader that stops at the tail never waits") {
                TailItem::Records(records, _) => {
                    for record in records.decode().map_err(|damage| damage.to_string())? {
                        let (op, seq) = kept.next().ok_or("a record that nobody wrote")?;
                        if seq != record.seq {
                            return Err(format!("seq {}, and not {seq}", record.seq).into());
                        }
                        compare(op, &record)?;
                    }
                }
                TailItem::End(..) => break,
                _ => {}
            }
        }
        match kept.next() {
            None => Ok(()),
            Some((_, seq)) => Err(format!("it ends before seq {seq}").into()),
        }
    }
}

impl From<&str> for Problem {
    fn from(problem: &str) -> Self {
        Self::Wrong(problem.into())
    }
}

/// Whether a call was refused as one on a run that is not there.
fn is_refused<T>(answer: Result<T, Error>, wanted: &Refusal) -> bool {
    matches!(answer, Err(Error::Refused(refusal)) if refusal == *wanted)
}

impl Survey<'_> {
    fn check(&self, rng: &mut SimRng, records: &mut u64) -> FoundRun {
        match ready(self.store.get_run(&self.key)) {
            Ok(info) => self.check_there(&info, rng, records),
            Err(Error::Refused(Refusal::RunNotFound)) => self.check_absent(),
            Err(Error::Refused(Refusal::RunDeleted)) => self.check_deleted(),
            Err(other) => panic!("{:?} cannot be described: {other}", self.key),
        }
    }

    fn is_deleted(&self, found: &FoundRun) -> bool {
        State::of(&self.run.ops[..found.ops]).deleted_ms.is_some()
    }

    /// The states that the run may have been left in, by the commands that led there.
    fn states(&self) -> impl Iterator<Item = (usize, State)> {
        let sure = self.run.sure;
        let mut state = State::of(&self.run.ops[..sure]);
        let first = (sure, state.clone());
        let rest = self.run.ops[sure..].iter().enumerate().map(move |(n, op)| {
            state.apply(op);
            (sure + n + 1, state.clone())
        });
        std::iter::once(first).chain(rest)
    }

    /// As [`states`](Self::states), and after those from where it may have expired, without it.
    fn states_or_gone(&self) -> impl Iterator<Item = (usize, State, bool)> {
        let may_be_gone = |state: &State| state.may_have_expired(self.retention_ms, self.seen_ms);
        let gone = self.states().filter(move |(_, state)| may_be_gone(state));
        let gone = gone.map(|(ops, state)| (ops, self.run.vanished(&state), true));
        self.states().map(|(ops, state)| (ops, state, false)).chain(gone)
    }

    fn check_absent(&self) -> FoundRun {
        self.check_refused(&Refusal::RunNotFound);
        let is_absent = |state: &State| state.presence(self.now_ms) == Presence::Absent;
        let found = self.states_or_gone().find(|(_, state, _)| is_absent(state));
        let (key, run) = (&self.key, self.run);
        let (ops, _, vanished) =
            found.unwrap_or_else(|| panic!("{key:?} was acknowledged and is gone: {run:?}"));
        FoundRun { ops, uid: None, vanished }
    }

    fn check_deleted(&self) -> FoundRun {
        self.check_refused(&Refusal::RunDeleted);
        let delete = |run_uid| ready(self.store.delete_run(&self.key, Delete { run_uid }));
        let Err(Error::Refused(Refusal::RunReplaced { run_uid })) = delete(Some(RunUid([1; 16])))
        else {
            panic!("{:?} is deleted under an identity that nobody has", self.key)
        };
        let Ok(Deleted { deleted_ms, deduplicated: true }) = delete(Some(run_uid)) else {
            panic!("{:?} is deleted and was deleted again", self.key)
        };
        let found = self.states_or_gone().find(|(_, state, _)| {
            let is_same = self.run.uid_of(state).is_none_or(|known| known == run_uid);
            is_same && state.deleted_ms == Some(deleted_ms)
        });
        let (key, run) = (&self.key, self.run);
        let (ops, _, vanished) =
            found.unwrap_or_else(|| panic!("{key:?} was not deleted: {run:?}"));
        FoundRun { ops, uid: Some(run_uid), vanished }
    }

    /// Every call on the name is refused like this, also with what callers know from before.
    fn check_refused(&self, wanted: &Refusal) {
        let Self { store, key, .. } = self;
        assert!(is_refused(ready(store.list_streams(key, None)), wanted));
        assert!(is_refused(ready(store.check_tail(key, None, None)), wanted));
        assert!(is_refused(ready(store.read(Query::run(key.clone()))), wanted));
        for uid in self.run.uids.iter().copied().flatten() {
            assert!(is_refused(ready(store.check_tail(key, Some(uid), None)), wanted));
            assert!(is_refused(ready(store.read(self.first_cursor(uid))), wanted));
        }
    }

    /// A query from the first cursor of a run.
    fn first_cursor(&self, run_uid: RunUid) -> Query {
        let chain = Chain::start(run_uid);
        let cursor = Cursor { run_uid, seq: Seq::ZERO, chain, stream: None };
        Query::run(self.key.clone()).from(Start::Cursor(cursor.to_string()))
    }

    fn check_there(&self, info: &RunInfo, rng: &mut SimRng, records: &mut u64) -> FoundRun {
        let query = Query { stop_at_tail: true, ..Query::run(self.key.clone()) };
        let read = self.read(query).expect("a run is read from its beginning");
        let (ops, state) = self.find_state(info, &read);
        assert_eq!(info.ended.as_ref().map(|end| end.outcome), state.outcome, "how it ended");
        assert_eq!(info.tail.0, state.tail, "the tail that the run's object tells");
        let of_run = &self.run.ops[state.begin..ops];
        let closed = End::Closed(state.outcome);
        assert_eq!(read.end, if state.outcome.is_some() { closed } else { End::Limit });
        *records += read.records.len() as u64;
        if rng.chance(1, self.ways_every) {
            for (n, stream) in state.streams.iter().enumerate() {
                self.check_stream(n as u32 + 1, stream, of_run, rng, records);
            }
            self.check_part(of_run, &state, rng, records);
            self.check_resumed(&read, &state, rng, records);
            self.check_replaced(info.run_uid);
        }
        FoundRun { ops, uid: Some(info.run_uid), vanished: false }
    }

    /// Who knows an earlier run of the name is told that it is another one now.
    fn check_replaced(&self, run_uid: RunUid) {
        let replaced = Refusal::RunReplaced { run_uid };
        let older = |uid: &RunUid| *uid != run_uid;
        for uid in self.run.uids.iter().copied().flatten().filter(older) {
            let tail = ready(self.store.check_tail(&self.key, Some(uid), None));
            assert!(is_refused(tail, &replaced));
            assert!(is_refused(ready(self.store.read(self.first_cursor(uid))), &replaced));
        }
    }

    /// How many commands the name holds, by what its run tells of itself.
    fn find_state(&self, info: &RunInfo, read: &Read) -> (usize, State) {
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
        let is_like = |state: &State| {
            let ended = state.outcome.is_some();
            let same = |(found, stream): (&Stream, &Stream)| {
                *found == Stream { closed: stream.closed || ended, ..stream.clone() }
            };
            state.presence(self.now_ms) == Presence::There
                && state.tail == list.tail.0
                && state.outcome == tail.outcome
                && found.len() == state.streams.len()
                && found.iter().zip(&state.streams).all(same)
                && self.run.uid_of(state).is_none_or(|known| known == info.run_uid)
        };
        let mut like: Vec<_> = self.states().filter(|(_, state)| is_like(state)).collect();
        // Runs of one name may look alike; then the records tell.
        if 1 < like.len() {
            let holds = |(ops, state): &(usize, State)| {
                check_whole(&self.run.ops[state.begin..*ops], state, read).is_ok()
            };
            let at = like.iter().position(holds).unwrap_or(0);
            like.swap(0, at);
        }
        if let Some((ops, state)) = like.into_iter().next() {
            check_whole(&self.run.ops[state.begin..ops], &state, read)
                .unwrap_or_else(|problem| panic!("{:?}: {problem}", self.key));
            return (ops, state);
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
    fn check_part(&self, ops: &[Op], state: &State, rng: &mut SimRng, records: &mut u64) {
        let from = rng.below(state.tail + 1);
        let query = Query::run(self.key.clone()).from(Start::Seq(Seq(from)));
        let page = ready(self.store.read(query)).expect("a page");
        for record in page.records.decode().expect("decodes") {
            assert!(from <= record.seq, "before its start");
            let op = ops.partition_point(|op| op.first_seq + op.count <= record.seq);
            check_record(ops.get(op).expect("a record of ours"), &record);
            *records += 1;
        }
        let query = Query::run(self.key.clone()).from(Start::Seq(Seq(state.tail + 1)));
        let beyond = ready(self.store.read(query));
        assert!(matches!(beyond, Err(Error::Refused(Refusal::BeyondTail { .. }))), "{beyond:?}");
    }

    /// The rest of the run, from a cursor somewhere in it.
    fn check_resumed(&self, read: &Read, state: &State, rng: &mut SimRng, records: &mut u64) {
        let from = rng.below(state.tail + 1);
        let query = Query::run(self.key.clone()).from(Start::Seq(Seq(from)));
        let tail = ready(self.store.tail(query)).expect("a reader at a seq");
        let start = Start::Cursor(tail.cursor().to_string());
        let query = Query { stop_at_tail: true, ..Query::run(self.key.clone()).from(start) };
        let resumed = self.read(query).expect("a cursor of this run is resumed from");
        let kept = read.records.partition_point(|record| record.seq < from);
        assert!(resumed.records == read.records[kept..], "resumed from the cursor of {from}");
        *records += resumed.records.len() as u64;
    }

    fn read(&self, query: Query) -> Result<Read, Error> {
        let mut tail = ready(self.store.tail(query))?;
        read_to_end(&mut tail)
    }
}

/// Holds a whole run, read from its beginning, to its commands.
fn check_whole(ops: &[Op], state: &State, read: &Read) -> Result<(), String> {
    let mut found = read.records.iter();
    for op in ops {
        let trim = trim_of(op, state).unwrap_or(0);
        for n in (0..op.count).filter(|n| trim <= op.first_index + n) {
            let Some(record) = found.next() else {
                return Err(format!("record {n} of {op:?} is missing"));
            };
            compare(op, record)?;
        }
    }
    found.next().map_or(Ok(()), |record| Err(format!("a record that nobody wrote: {record:?}")))
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
