//! Random commands, and the numbers they are made of.
//!
//! Names are few, so that commands meet: a tag, a stream and a wait may have one name, an id is
//! used for another message, a command comes twice. Numbers are mostly those that fit the run as
//! it stands, and now and then beside them.

use std::{ops::Range, sync::Arc};

use braidlog::{
    core::{
        Ack, Append, CancelRun, Claim, ClaimFrom, Close, CloseStream, Commit, Create, Delete,
        NewRecord, Operation, Producer, Release, ReleaseTo, Reschedule, Send, StreamAppend, Then,
        Trim,
    },
    proto::{
        InputWait, Outcome, RunError, RunSpec, RunUpdated, StreamKind, TimeWait, TokenWait,
        WaitCreated, wait_created,
    },
    record::{
        ACKED_RANGES_MAX, CONSUMERS_MAX, INPUTS_OWED_MAX, Index, METADATA_BYTES_MAX,
        REQUESTS_REMEMBERED, RunUid, SENT_REMEMBERED, Seq, WAITS_MAX,
    },
};

use super::model::Model;

/// Runs that talk to each other, and one that there never is.
pub(crate) const RUNS: [&str; 4] = ["one", "two", "three", "missing"];
const STREAMS: [&str; 4] = ["a", "b", "c", "d"];
/// Names of tags, and some of them of waits.
const LABELS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
const CONSUMERS: [&str; 3] = ["", "b", "c"];
const REQUESTS: [&str; 4] = ["r", "s", "t", "a"];
const OUTCOMES: [Outcome; 5] =
    [Outcome::Completed, Outcome::Failed, Outcome::Canceled, Outcome::TimedOut, Outcome::Expired];
/// No run has it.
const STRANGER: RunUid = RunUid([99; 16]);

/// Numbers without pattern, the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether something happens that does so `percent` of the time.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// The position of one of these weights, by weight.
    pub(crate) fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        weights
            .iter()
            .position(|weight| {
                left < *weight || {
                    left -= weight;
                    false
                }
            })
            .unwrap_or(0)
    }

    fn between(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    fn name(&mut self, names: &[&str]) -> Arc<str> {
        (*self.pick(names)).into()
    }

    fn some<T>(&mut self, percent: u64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(percent).then(|| make(self))
    }

    fn few<T>(&mut self, percent: u64, most: u64, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        if !self.chance(percent) {
            return Vec::new();
        }
        (0..1 + self.below(most)).map(|_| make(self)).collect()
    }
}

/// What is given to one run.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Append(Append),
    Commit(Box<Commit>),
    Send(Send),
    Claim(Claim),
    Cancel(CancelRun),
    Reschedule(Reschedule),
    Tick(Option<u64>),
    Close(Close),
    CloseStream(CloseStream),
    Trim(Trim),
    Delete(Delete),
    Told(Vec<u64>),
}

/// What becomes of a run at its creation.
pub(crate) fn create(random: &mut Random, run: usize, runs: usize, now_ms: u64) -> Create {
    let other = |random: &mut Random| {
        let known = &RUNS[..runs];
        let of = if random.chance(85) { known } else { &RUNS };
        let name = *random.pick(of);
        if name == RUNS[run] { String::new() } else { name.into() }
    };
    let parent_run_id = if random.chance(60) { other(random) } else { String::new() };
    let root_run_id = if random.chance(30) { other(random) } else { String::new() };
    let metadata = match random.weighted(&[90, 9, 1]) {
        0 => String::new(),
        1 => r#"{"a":{"b":1},"l":[1,"x"]}"#.into(),
        // Nearly as large as it may be.
        _ => format!(r#"{{"pad":"{}"}}"#, "x".repeat(METADATA_BYTES_MAX - 40)),
    };
    let spec = RunSpec {
        parent_run_id,
        root_run_id,
        metadata: metadata.into(),
        delay_until_ms: random.some(15, |random| now_ms + random.below(200)).unwrap_or(0),
        ttl_ms: random.some(7, |random| random.between(1..400)).unwrap_or(0),
        max_attempts: random.below(4) as u32,
        max_duration_ms: random.some(7, |random| random.between(1..900)).unwrap_or(0),
        pending_version: random.chance(8),
        ..RunSpec::default()
    };
    Create {
        namespace: "ns".into(),
        run_id: RUNS[run].into(),
        task: ["t", "", "$wait"][random.weighted(&[80, 10, 10])].into(),
        tags: if random.chance(10) { vec!["a".into()] } else { Vec::new() },
        spec,
        ..Create::default()
    }
}

/// Makes commands for runs as they stand.
pub(crate) struct Commands {
    pub(crate) random: Random,
    /// How often each sort of command comes; another each time.
    weights: [u64; 12],
    /// How often tags and consumers are so many that they pass their limits, in percent.
    crowd: u64,
    /// Bodies and ids are numbered, so that no two are the same by chance.
    made: u64,
}

impl Commands {
    pub(crate) fn new(mut random: Random) -> Self {
        let mut weights = [20, 50, 30, 14, 2, 4, 10, 2, 2, 5, 1, 1];
        for weight in &mut weights {
            *weight *= [1, 2, 2, 2, 8][random.below(5) as usize];
        }
        // A run that is deleted at once is a short story.
        weights[10] = 2 * u64::from(random.chance(15));
        weights[7] = weights[7].min(4);
        let crowd = if random.chance(15) { 70 } else { 3 };
        Self { random, weights, crowd, made: 0 }
    }

    /// A command for a run that stands so, now.
    pub(crate) fn command(&mut self, model: &Model, now_ms: u64) -> Command {
        let random = &mut self.random;
        let run_uid = random.some(12, |random| match random.chance(80) {
            true => model.run_uid,
            false => STRANGER,
        });
        match random.weighted(&self.weights) {
            0 => Command::Append(self.append(model, run_uid)),
            1 => Command::Commit(Box::new(self.commit(model, run_uid, now_ms))),
            2 => Command::Send(self.send(run_uid)),
            3 => Command::Claim(Claim {
                run_uid,
                worker: random.name(&["w", "v"]),
                term_ms: if random.chance(98) { 30_000 } else { 0 },
                from: [ClaimFrom::Queue, ClaimFrom::Anywhere, ClaimFrom::Holder]
                    [random.weighted(&[60, 25, 15])],
            }),
            4 => Command::Cancel(CancelRun {
                run_uid,
                reason: ["", "enough"][random.below(2) as usize].into(),
                grace_ms: random.below(150),
            }),
            5 => Command::Reschedule(Reschedule {
                run_uid,
                delay_until_ms: now_ms + random.below(200) - random.below(50),
            }),
            6 => Command::Tick(random.some(40, |random| stale(random, model.epoch))),
            7 => Command::Close(Close { run_uid, ..self.close(model) }),
            8 => Command::CloseStream(CloseStream { run_uid, stream: self.stream() }),
            9 => Command::Trim(Trim { run_uid, ..self.trim(model) }),
            10 => Command::Delete(Delete { run_uid }),
            _ => Command::Told(vec![model.outbox_next + random.below(3)]),
        }
    }

    /// A command for another time, now and then with something changed that one might not look at.
    pub(crate) fn again(&mut self, mut command: Command) -> Command {
        let random = &mut self.random;
        if let Command::Commit(commit) = &mut command
            && random.chance(25)
        {
            match random.below(4) {
                0 => {
                    std::mem::swap(&mut commit.tags, &mut commit.cancel_waits);
                    commit.tags.sort();
                    commit.tags.dedup();
                }
                1 => commit.waits.iter_mut().for_each(|wait| wait.deadline_ms += 1),
                2 => commit.update.iter_mut().for_each(|update| update.cost_in_cents = Some(9.0)),
                _ => {
                    if let Then::Release(release) = &mut commit.then {
                        release.next = ReleaseTo::Delay(1);
                    }
                }
            }
        }
        command
    }

    fn stream(&mut self) -> Arc<str> {
        if self.random.chance(2) { "$run".into() } else { self.random.name(&STREAMS) }
    }

    fn output(&mut self) -> Arc<str> {
        let random = &mut self.random;
        if random.chance(97) { random.name(&STREAMS[..2]) } else { random.name(&STREAMS[2..]) }
    }

    fn input(&mut self) -> Arc<str> {
        let random = &mut self.random;
        if random.chance(97) { random.name(&STREAMS[2..]) } else { random.name(&STREAMS[..2]) }
    }

    fn record(&mut self) -> NewRecord {
        self.made += 1;
        let id = self.random.some(20, |random| random.below(5).to_string());
        NewRecord { id: id.unwrap_or_default(), ..NewRecord::new(self.made.to_le_bytes().to_vec()) }
    }

    fn records(&mut self) -> Vec<NewRecord> {
        (0..1 + self.random.below(3)).map(|_| self.record()).collect()
    }

    fn lease(&mut self, model: &Model) -> Option<u64> {
        let held = if model.lease.is_some() { 85 } else { 8 };
        self.random.some(held, |random| stale(random, model.epoch))
    }

    fn expected_seq(&mut self, model: &Model) -> Option<Seq> {
        self.random.some(20, |random| Seq(near(random, model.tail().0)))
    }

    fn expected_index(&mut self, model: &Model, stream: &str) -> Option<Index> {
        let tail = model.stream(stream).map_or(0, |stream| stream.tail);
        self.random.some(15, |random| Index(near(random, tail)))
    }

    fn producer(&mut self, model: &Model) -> Option<Producer> {
        let id = self.random.name(&["p", "q"]);
        let known = model.producers.iter().find(|known| known.id == id);
        let (epoch, next) = known.map_or((1, 0), |known| (known.epoch, known.applied.len() as u64));
        self.random.some(30, |random| {
            let (epoch, seq) = match random.weighted(&[80, 8, 8, 4]) {
                0 => (epoch, next),
                1 => (epoch, near(random, next)),
                2 => (epoch + 1, random.below(10) / 9),
                _ => (epoch.saturating_sub(1), next),
            };
            Producer { id, epoch, seq }
        })
    }

    fn append(&mut self, model: &Model, run_uid: Option<RunUid>) -> Append {
        let stream = self.output();
        let records = if self.random.chance(99) { self.records() } else { Vec::new() };
        Append {
            run_uid,
            records,
            expected_seq: self.expected_seq(model),
            expected_index: self.expected_index(model, &stream),
            producer: self.producer(model),
            lease_epoch: self.lease(model),
            stream,
        }
    }

    fn send(&mut self, run_uid: Option<RunUid>) -> Send {
        let stream = self.input();
        let mut message = self.record();
        if self.random.chance(40) {
            // The body says what the id says: the same message may be sent by another command.
            let id = self.random.below(4);
            message = NewRecord { id: format!("m{id}"), ..NewRecord::new(vec![id as u8]) };
            if self.random.chance(10) {
                message.client_time_ms = 1;
            }
        }
        Send { run_uid, stream, message }
    }

    fn close(&mut self, model: &Model) -> Close {
        let lease_epoch =
            self.random.some(70, |random| stale(random, model.epoch)).filter(|_| model.epoch > 0);
        let expected_seq = self.expected_seq(model);
        let random = &mut self.random;
        let output = random.some(50, |random| vec![random.below(3) as u8]).unwrap_or_default();
        Close {
            run_uid: None,
            outcome: match random.chance(98) {
                true => OUTCOMES[random.weighted(&[50, 20, 10, 10, 10])],
                false => Outcome::Unspecified,
            },
            output: output.into(),
            output_type: ["", "text/plain"][random.below(2) as usize].into(),
            error: random.some(20, |_| RunError { name: "E".into(), ..RunError::default() }),
            expected_seq,
            lease_epoch,
        }
    }

    fn trim(&mut self, model: &Model) -> Trim {
        let stream = self.stream();
        let known = model.stream(&stream);
        let (tail, floor) = known.map_or((0, 0), |known| (known.tail, known.floor()));
        let is_input = known.is_some_and(|known| known.kind == StreamKind::Input);
        let near_to = if is_input { floor } else { self.random.below(tail + 1) };
        let trim = Index(near(&mut self.random, near_to));
        Trim { run_uid: None, stream, trim }
    }

    fn commit(&mut self, model: &Model, run_uid: Option<RunUid>, now_ms: u64) -> Commit {
        let mut commit = Commit {
            run_uid,
            lease_epoch: self.lease(model),
            producer: self.producer(model),
            expected_seq: self.expected_seq(model),
            ..Commit::default()
        };
        if self.random.chance(20) && (commit.producer.is_none() || self.random.chance(3)) {
            commit.request_id = self.random.name(&REQUESTS);
        }
        if self.random.chance(30) {
            let most = 1 + self.random.below(2);
            commit.appends = (0..most).map(|_| self.stream_append(model)).collect();
        }
        if self.random.chance(30) {
            let most = 1 + self.random.below(2);
            let acks = (0..most).map(|_| self.ack(model));
            commit.acks = acks.collect();
            let exists = |ack: &Ack| model.stream(&ack.stream).is_some();
            let is_careless = self.random.chance(5);
            commit.acks.retain(|ack| is_careless || exists(ack));
        }
        let random = &mut self.random;
        commit.metadata = random.few(15, 3, operation);
        commit.parent_metadata = random.few(15, 2, operation);
        commit.root_metadata = random.few(10, 2, operation);
        commit.tags = random.few(10.max(self.crowd), 3, |random| random.name(&LABELS));
        commit.tags.sort();
        commit.tags.dedup();
        let percent =
            if model.status == braidlog::proto::RunStatus::PendingVersion { 50 } else { 8 };
        commit.update = random.some(percent, |random| RunUpdated {
            usage_duration_ms: random.some(50, |random| random.below(3)),
            cost_in_cents: random.some(30, |random| random.below(3) as f64 / 2.0),
            base_cost_in_cents: random.some(20, |random| random.below(3) as f64),
            version: random.some(50, |random| format!("v{}", random.below(3))),
        });
        if self.random.chance(25) {
            let most = 1 + self.random.below(2);
            commit.waits = (0..most).map(|_| self.wait(model, now_ms)).collect();
        }
        commit.cancel_waits = self.random.few(8, 2, |random| random.name(&LABELS[..8]));
        commit.then = match self.random.weighted(&[70, 26, 4]) {
            0 => Then::GoOn,
            1 => Then::Release(release(&mut self.random, now_ms)),
            _ => Then::Close(Close { lease_epoch: None, expected_seq: None, ..self.close(model) }),
        };
        // Most of what needs the lease presents it.
        let held = model.lease.is_some() && commit.then != Then::GoOn;
        if held && commit.lease_epoch.is_none() && self.random.chance(80) {
            commit.lease_epoch = Some(model.epoch);
        }
        commit
    }

    fn stream_append(&mut self, model: &Model) -> StreamAppend {
        let stream = self.output();
        let expected_index = self.expected_index(model, &stream);
        StreamAppend { stream, records: self.records(), expected_index }
    }

    /// Mostly of what is there, in any order.
    fn ack(&mut self, model: &Model) -> Ack {
        let stream = self.input();
        let tail = model.stream(&stream).map_or(0, |stream| stream.tail);
        let random = &mut self.random;
        let consumer = match random.weighted(&[97 - self.crowd, self.crowd, 3]) {
            0 => random.name(&CONSUMERS),
            // Enough of them to pass their limit.
            1 => random.below(9).to_string().into(),
            _ => "default".into(),
        };
        let range = |random: &mut Random| {
            let from = random.below(tail.max(1));
            let to = from + 1 + random.below(2);
            let to = if random.chance(97) { to.min(tail.max(1)) } else { to };
            let from = if random.chance(99) { from.min(to - 1) } else { from };
            (Index(from), Index(to))
        };
        let ranges = (0..1 + random.below(2)).map(|_| range(random)).collect();
        Ack { stream, consumer, ranges }
    }

    fn wait(&mut self, model: &Model, now_ms: u64) -> WaitCreated {
        let stream = self.input();
        let tail = model.stream(&stream).map_or(0, |stream| stream.tail);
        let random = &mut self.random;
        let target = match random.weighted(&[60, 20, 20]) {
            0 => wait_created::Target::Input(InputWait {
                stream: stream.as_ref().into(),
                consumer: (*random.pick(&CONSUMERS)).into(),
                after: if random.chance(60) { 0 } else { near(random, tail) },
                ack: random.chance(50),
            }),
            1 => {
                let until_ms = now_ms + random.below(150) - random.below(30);
                wait_created::Target::Time(TimeWait { until_ms })
            }
            _ => wait_created::Target::Token(TokenWait { token_id: (*random.pick(&RUNS)).into() }),
        };
        WaitCreated {
            wait_id: (*random.pick(&LABELS[..8])).into(),
            target: Some(target),
            deadline_ms: random.some(40, |random| now_ms + random.below(150)).unwrap_or(0),
        }
    }
}

/// A number that mostly is this one.
fn near(random: &mut Random, number: u64) -> u64 {
    match random.weighted(&[70, 15, 15]) {
        0 => number,
        1 => number + 1,
        _ => number.saturating_sub(1),
    }
}

/// A number that is this one, or an older or newer one now and then.
fn stale(random: &mut Random, epoch: u64) -> u64 {
    match random.weighted(&[90, 8, 2]) {
        0 => epoch,
        1 => epoch.saturating_sub(1),
        _ => epoch + 1,
    }
}

fn release(random: &mut Random, now_ms: u64) -> Release {
    let next = match random.weighted(&[25, 15, 60]) {
        0 => ReleaseTo::Queue,
        1 => ReleaseTo::Delay(now_ms + random.below(150) - random.below(30)),
        _ => ReleaseTo::Suspend,
    };
    let error = random.some(20, |_| RunError { message: "broke".into(), ..RunError::default() });
    Release { next, error }
}

fn operation(random: &mut Random) -> Operation {
    let keys = ["a", "b", "n", "l", "$.a.b", "$.l[0]", "$.l[2]", "$.l.1", "$.n.x", "__proto__"];
    let key = *random.pick(&keys);
    let values = ["1", "1.0", "0.5", "\"x\"", "null", "[1]", "{\"b\":1}", "{\"b\":[1,1.0,2]}"];
    let value = *random.pick(&values);
    match random.below(6) {
        0 => Operation::set(key, value),
        1 => Operation::delete(key),
        2 => Operation::append(key, value),
        3 => Operation::remove(key, value),
        4 => Operation::increment(key, *random.pick(&["1", "-2", "0.5"])),
        _ => Operation::update(*random.pick(&[
            "{}",
            "{\"a\":{\"b\":2},\"l\":[1,1,\"x\"]}",
            "{\"prototype\":1}",
        ])),
    }
}

/// Commands that fill something to its limit, and go on at it.
pub(crate) fn flood(nth: u64, model: &Model) -> Vec<Command> {
    let send = |id: String, n: u64| {
        let message = NewRecord { id, ..NewRecord::new(n.to_le_bytes().to_vec()) };
        Command::Send(Send { run_uid: None, stream: "d".into(), message })
    };
    let commit = |commit: Commit| {
        let lease_epoch = model.lease.as_ref().map(|_| model.epoch);
        Command::Commit(Box::new(Commit { lease_epoch, ..commit }))
    };
    let ack = |ranges: Vec<(u64, u64)>| {
        let ranges = ranges.into_iter().map(|(from, to)| (Index(from), Index(to))).collect();
        let ack = Ack { stream: "d".into(), consumer: "".into(), ranges };
        commit(Commit { acks: vec![ack], ..Commit::default() })
    };
    let tail = model.stream("d").map_or(0, |stream| stream.tail);
    let request = |n: u64| {
        let update = Some(RunUpdated { usage_duration_ms: Some(n), ..RunUpdated::default() });
        commit(Commit { request_id: format!("x{n}").into(), update, ..Commit::default() })
    };
    let wait = |n: u64| {
        let time = TimeWait { until_ms: u64::MAX };
        let target = Some(wait_created::Target::Time(time));
        WaitCreated { wait_id: format!("x{n}"), target, deadline_ms: 0 }
    };
    let wait_for = |range: Range<u64>| {
        commit(Commit { waits: range.map(wait).collect(), ..Commit::default() })
    };
    let cancel = |range: Range<u64>| {
        let cancel_waits = range.map(|n| format!("x{n}").into()).collect();
        commit(Commit { cancel_waits, ..Commit::default() })
    };
    match nth % 5 {
        0 => {
            // Every second one, up to the limit and beyond; then one that brings two together.
            let ranges = ACKED_RANGES_MAX as u64;
            let apart =
                |range: Range<u64>| range.map(|n| (tail + 2 * n + 1, tail + 2 * n + 2)).collect();
            let sends = (0..2 * ranges + 4).map(|n| send(String::new(), n));
            let acks = [
                apart(0..ranges - 1),
                apart(ranges - 1..ranges),
                apart(ranges..ranges + 1),
                vec![(tail + 2, tail + 3)],
                apart(ranges..ranges + 1),
                vec![(0, tail + 2 * ranges)],
            ];
            let by = |n: usize| {
                let ranges = vec![(Index(tail), Index(tail + 1))];
                Ack { stream: "d".into(), consumer: n.to_string().into(), ranges }
            };
            let by_all = |consumers: Range<usize>| {
                commit(Commit { acks: consumers.map(by).collect(), ..Commit::default() })
            };
            // One of them has acked all of it.
            let consumers = [by_all(0..CONSUMERS_MAX), by_all(1..CONSUMERS_MAX), by_all(0..1)];
            sends.chain(acks.map(ack)).chain(consumers).collect()
        }
        1 => {
            let ids = SENT_REMEMBERED as u64 + 20;
            let named = |n: u64| send(format!("x{n}"), n);
            let sends = (0..ids).map(named);
            let again = |n: [u64; 4]| n.map(named);
            let consumed = ack(vec![(0, tail + ids)]);
            sends
                .chain(again([0, 1, 1, ids - 1]))
                .chain([consumed])
                .chain(again([20, 19, 21, 20]))
                .collect()
        }
        2 => {
            let many = REQUESTS_REMEMBERED as u64 + 5;
            (0..many).chain([many - 1, 6, 0, 4]).map(request).collect()
        }
        3 => {
            let many = WAITS_MAX as u64;
            let large = Operation::set("a", format!("\"{}\"", "x".repeat(METADATA_BYTES_MAX)));
            let waits = (0..many + 1).map(wait).collect();
            let steps = [
                commit(Commit { metadata: vec![large], waits, ..Commit::default() }),
                wait_for(0..many - 20),
                wait_for(many - 20..many + 20),
                wait_for(0..30),
                cancel(0..many),
                wait_for(many..many + 30),
                cancel(many..many + 30),
                wait_for(0..1),
            ];
            steps.into()
        }
        _ => {
            let most = INPUTS_OWED_MAX;
            let sends = (0..most + 2).map(|n| send(String::new(), n));
            sends.chain([ack(vec![(0, 1)]), send("late".into(), 0)]).collect()
        }
    }
}
