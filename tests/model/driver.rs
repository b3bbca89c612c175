//! Runs and their models side by side: the same commands, the same answers, the same state.
//!
//! Between any two commands a run is built anew from all of its frames, or from a snapshot and the
//! frames behind it, or loses frames that were not durable; its model then goes back, too. Runs
//! tell each other what is in their outboxes as a store does: in order, only what is durable, and
//! an entry is done with only when it is durable where it was taken in.

use std::{collections::BTreeMap, fmt::Debug};

use braidlog::{
    core::{Context, Create, Decision, Delivery, Facts, Limits, NewRun, Refusal, RunState},
    format::{frame::Frame, wire},
    proto::{RunStatus, StreamKind, wait_created},
    record::{Index, RunNo, RunUid, StreamNo},
};

use super::{
    commands::{self, Command, Commands, RUNS, Random},
    model::{Done, Model, Stream, Verdict, consumer_or_default},
};

/// When every sequence begins, milliseconds since the Unix epoch.
const BEGIN_MS: u64 = 1_700_000_000_000;
/// Steps of a sequence, at most.
const STEPS_MAX: u64 = 90;
/// One sequence in so many fills something to its limit.
const FLOOD_EVERY: u64 = 2_000;

/// What was done, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) refused: BTreeMap<String, u64>,
}

impl Totals {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for (refusal, count) in &other.refused {
            *self.refused.entry(refusal.clone()).or_default() += count;
        }
    }
}

/// A run, and what it should be.
struct Run {
    state: RunState,
    model: Model,
    frames: Vec<Frame>,
    /// Frames that no crash takes.
    durable: usize,
    /// What the run should be after the durable frames, and after each one since.
    past: Vec<Model>,
    /// A stored state, and how many frames it stands for.
    snapshot: Option<(usize, RunState)>,
}

/// Some runs that know each other.
pub(crate) struct World<'a> {
    runs: Vec<Run>,
    commands: Commands,
    /// Commands that were given, to be given again.
    given: Vec<(usize, Command)>,
    now_ms: u64,
    totals: &'a mut Totals,
    /// Whether every step is told.
    is_told: bool,
}

/// One sequence of random steps, from the first frame on.
pub(crate) fn live(seed: u64, sequence: u64, totals: &mut Totals, is_told: bool) {
    crate::planted::plant();
    let mut random = Random::new(seed ^ sequence.wrapping_mul(0xd134_2543_de82_ef95));
    let count = 1 + random.weighted(&[50, 25, 25]);
    let steps = 1 + random.below(STEPS_MAX);
    let runs = (0..count).map(|run| Run::create(&mut random, run, count)).collect();
    let commands = Commands::new(random);
    let given = Vec::new();
    let mut world = World { runs, commands, given, now_ms: BEGIN_MS, totals, is_told };
    world.totals.count("sequences");
    for _ in 0..steps {
        world.step();
    }
    world.tell_all();
    if sequence % FLOOD_EVERY == FLOOD_EVERY - 1 {
        world.flood(sequence / FLOOD_EVERY);
    }
}

impl Run {
    fn create(random: &mut Random, run: usize, runs: usize) -> Self {
        Self::begin(run, commands::create(random, run, runs, BEGIN_MS))
    }

    fn begin(run: usize, create: Create) -> Self {
        let run_uid = RunUid([run as u8 + 1; 16]);
        let new = NewRun { run_no: RunNo(run as u64 + 5), run_uid };
        let (state, frame, _) = RunState::create(&create, new, BEGIN_MS).expect("created");
        let model = Model::create(&create, run_uid, BEGIN_MS);
        check_records(&frame, &model, 0);
        check(&state, &model);
        let past = vec![model.clone()];
        Self { state, model, frames: vec![frame], durable: 1, past, snapshot: None }
    }

    fn sync(&mut self) {
        self.durable = self.frames.len();
        self.past.drain(..self.past.len() - 1);
    }

    /// Loses the newest frames, down to `kept`.
    fn crash(&mut self, kept: usize) {
        self.frames.truncate(kept);
        self.past.truncate(kept - self.durable + 1);
        self.model = self.past.last().expect("what is durable").clone();
        self.snapshot.take_if(|(frames, _)| kept < *frames);
    }

    /// Builds the state anew, from the snapshot if there is one.
    fn reopen(&mut self) {
        let begun = || (1, RunState::begin(&self.frames[0]).expect("begins").0);
        let (known, mut state) = self.snapshot.clone().unwrap_or_else(begun);
        for frame in &self.frames[known..] {
            let frame = Frame::decode(frame.bytes()).expect("sound");
            state.replay(&frame).expect("fits");
        }
        self.state = state;
        check(&self.state, &self.model);
    }

    /// Stores the state: what is read back is what was stored.
    fn store(&mut self) {
        let read = RunState::from_bytes(self.state.to_bytes()).expect("a state");
        assert_eq!(read, self.state, "read back");
        self.snapshot = Some((self.frames.len(), read));
    }

    /// Holds a decision to the expected one.
    fn decide<R: Debug + PartialEq>(
        &mut self,
        before: &RunState,
        found: Result<Decision<R>, Refusal>,
        expected: Verdict<R>,
    ) -> Result<Option<R>, Refusal> {
        match (found, expected) {
            (Ok(Decision::Accepted { frame, facts, answer }), Ok(Done::Accepted(expected))) => {
                assert_eq!(answer, expected, "the answer");
                check_records(&frame, &self.model, before.tail.0);
                check_facts(&facts, before, &self.state);
                self.frames.push(frame);
                self.past.push(self.model.clone());
                Ok(Some(answer))
            }
            (Ok(Decision::Duplicate(answer)), Ok(Done::Duplicate(expected))) => {
                assert_eq!(answer, expected, "the answer given again");
                assert_eq!(*before, self.state, "nothing is applied twice");
                Ok(None)
            }
            (Err(refusal), Err(expected)) => {
                assert_eq!(bare(&refusal), bare(&expected), "the refusal");
                assert_eq!(*before, self.state, "what is refused changes nothing");
                Err(refusal)
            }
            (found, expected) => panic!("{:?}, expected {expected:?}", found.map(answer_of)),
        }
    }
}

fn answer_of<R>(decision: Decision<R>) -> Done<R> {
    match decision {
        Decision::Accepted { answer, .. } => Done::Accepted(answer),
        Decision::Duplicate(answer) => Done::Duplicate(answer),
    }
}

/// A refusal without words for people, and without bytes, which the model does not count.
fn bare(refusal: &Refusal) -> Refusal {
    match refusal.clone() {
        Refusal::Invalid { field, .. } => Refusal::Invalid { field, problem: "".into() },
        Refusal::InputBacklog { inputs, .. } => Refusal::InputBacklog { inputs, bytes: 0 },
        refusal => refusal,
    }
}

impl World<'_> {
    fn say(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{} {}", self.now_ms - BEGIN_MS, what());
        }
    }

    fn run(&mut self) -> usize {
        self.commands.random.below(self.runs.len() as u64) as usize
    }

    fn step(&mut self) {
        let run = self.run();
        match self.commands.random.weighted(&[64, 14, 6, 5, 3, 4, 4]) {
            0 => {
                self.pass_time(run);
                self.command(run);
            }
            1 => self.deliver(run),
            2 => self.deliver_again(run),
            3 => self.tell(run),
            4 => self.crash(run),
            5 => self.reopen(run),
            _ => {
                self.say(|| format!("run {run} is synced"));
                self.runs[run].sync();
            }
        }
    }

    /// A little mostly; to where something is due; beyond what a closed run takes. A clock may go
    /// back.
    fn pass_time(&mut self, run: usize) {
        let model = &self.runs[run].model;
        let due_ms = model.due_ms().map_or(self.now_ms, |due_ms| due_ms.min(self.now_ms + 1_000));
        let leap_ms = if model.has_ended() { 3_600_000 } else { 0 };
        let random = &mut self.commands.random;
        let now_ms = match random.weighted(&[60, 20, 4, 4]) {
            0 => self.now_ms + random.below(30),
            1 => due_ms + random.below(2) - random.below(2),
            2 => self.now_ms - random.below(30),
            _ => self.now_ms + leap_ms,
        };
        self.now_ms = now_ms.max(BEGIN_MS);
    }

    fn command(&mut self, run: usize) {
        let (run, command) = if !self.given.is_empty() && self.commands.random.chance(15) {
            let (run, command) = self.commands.random.pick(&self.given).clone();
            (run, self.commands.again(command))
        } else {
            (run, self.commands.command(&self.runs[run].model, self.now_ms))
        };
        let kept = self.runs[run].model.kept();
        let random = &mut self.commands.random;
        let records = if random.chance(10) { Some(kept + random.below(4)) } else { None };
        let limits = Limits { records, ..Limits::default() };
        self.give(run, &command, &Context { limits, ..Context::at(self.now_ms) });
        check(&self.runs[run].state, &self.runs[run].model);
        // Later it might say that something new had been told.
        if !matches!(command, Command::Told(_)) {
            self.given.push((run, command));
        }
    }

    /// Gives a command to a run and its model.
    fn give(&mut self, at: usize, command: &Command, context: &Context) {
        self.say(|| format!("run {at}, {:?}: {command:?}", context.limits.records));
        self.totals.count("commands");
        let run = &mut self.runs[at];
        let before = run.state.clone();
        let (state, model) = (&mut run.state, &mut run.model);
        /// Two of them, one after the other, without their answers.
        macro_rules! both {
            ($method:ident, $command:expr) => {{
                let found = state.$method($command, context);
                let expected = model.$method($command, context);
                run.decide(&before, found, expected).map(|answer| answer.is_some())
            }};
        }
        let decided = match command {
            Command::Append(append) => both!(append, append),
            Command::Commit(commit) => both!(commit, commit),
            Command::Send(send) => both!(send, send),
            Command::Claim(claim) => both!(claim, claim),
            Command::Cancel(cancel) => both!(cancel, cancel),
            Command::Reschedule(reschedule) => both!(reschedule, reschedule),
            Command::Close(close) => both!(close, close),
            Command::CloseStream(close) => both!(close_stream, close),
            Command::Trim(trim) => both!(trim, trim),
            Command::Delete(delete) => both!(delete, delete),
            Command::Tick(lapsed) => {
                let found = state.tick(*lapsed, context);
                let expected = model.tick(*lapsed, context);
                run.decide_maybe(&before, found, expected)
            }
            Command::Told(numbers) => {
                let found = state.told(numbers, context);
                let expected = model.told(numbers, context);
                run.decide_maybe(&before, found, expected)
            }
        };
        self.count(decided);
    }

    fn count(&mut self, decided: Result<bool, Refusal>) {
        match decided {
            Ok(true) => self.totals.count("accepted"),
            Ok(false) => self.totals.count("answered again"),
            Err(refusal) => {
                let name = format!("{refusal:?}");
                let name = name.split([' ', '(']).next().unwrap_or_default();
                *self.totals.refused.entry(name.into()).or_default() += 1;
            }
        }
    }

    /// Entries of a run's outbox that are for a run that there is, with that run. A run that is
    /// deleted has nothing to say.
    fn entries(&self, source: usize) -> Vec<(usize, Delivery)> {
        let Run { state, .. } = &self.runs[source];
        let delivery = |entry: &_| Delivery {
            source: RUNS[source].into(),
            source_uid: state.run_uid,
            entry: Clone::clone(entry),
        };
        let target = |name: &str| RUNS[..self.runs.len()].iter().position(|known| *known == name);
        let entries = state.outbox.iter().filter(|_| state.deleted_ms.is_none());
        entries.filter_map(|entry| Some((target(&entry.run_id)?, delivery(entry)))).collect()
    }

    /// Whether a run has taken an entry in, or never will.
    fn is_done(&self, target: usize, delivery: &Delivery) -> bool {
        let model = &self.runs[target].model;
        let has = |(uid, newest): &(RunUid, u64)| {
            *uid == delivery.source_uid && delivery.entry.number <= *newest
        };
        model.deleted_ms.is_some() || model.delivered.iter().any(has)
    }

    /// The oldest entry for some run that it has not taken in. What is told is durable.
    fn deliver(&mut self, source: usize) {
        self.runs[source].sync();
        let entries = self.entries(source);
        let new: Vec<_> =
            entries.iter().filter(|(run, entry)| !self.is_done(*run, entry)).collect();
        if new.is_empty() {
            return;
        }
        let target = self.commands.random.pick(&new).0;
        let (_, delivery) = new.iter().find(|(run, _)| *run == target).expect("just found");
        self.take_in(target, delivery);
    }

    /// An entry that was taken in, for nobody heard of that.
    fn deliver_again(&mut self, source: usize) {
        let entries = self.entries(source);
        let old: Vec<_> = entries.iter().filter(|(run, entry)| self.is_done(*run, entry)).collect();
        if !old.is_empty() {
            let (target, delivery) = *self.commands.random.pick(&old);
            self.totals.count("deliveries repeated");
            self.take_in(*target, delivery);
        }
    }

    fn take_in(&mut self, target: usize, delivery: &Delivery) {
        self.say(|| format!("to run {target}: {delivery:?}"));
        self.totals.count("deliveries");
        let context = Context::at(self.now_ms);
        let run = &mut self.runs[target];
        let before = run.state.clone();
        let found = run.state.deliver(delivery, &context);
        let expected = run.model.deliver(delivery, &context);
        let decided = run.decide(&before, found, expected).map(|answer| answer.is_some());
        check(&self.runs[target].state, &self.runs[target].model);
        self.count(decided);
    }

    /// Tells a run what became of some of its entries, once that is durable.
    fn tell(&mut self, source: usize) {
        let entries = self.entries(source);
        let mut done: Vec<u64> = Vec::new();
        for (target, delivery) in &entries {
            if self.is_done(*target, delivery) && self.commands.random.chance(70) {
                self.runs[*target].sync();
                done.push(delivery.entry.number);
            }
        }
        if done.is_empty() {
            return;
        }
        self.give(source, &Command::Told(done), &Context::at(self.now_ms));
        check(&self.runs[source].state, &self.runs[source].model);
    }

    fn crash(&mut self, at: usize) {
        let run = &mut self.runs[at];
        let lost = self.commands.random.below((run.frames.len() - run.durable) as u64 + 1);
        let kept = run.frames.len() - lost as usize;
        self.totals.count("crashes");
        *self.totals.counts.entry("frames lost").or_default() += lost;
        self.say(|| format!("run {at} loses {lost} frames"));
        self.runs[at].crash(kept);
        self.runs[at].reopen();
    }

    fn reopen(&mut self, at: usize) {
        self.say(|| format!("run {at} is opened anew"));
        let run = &mut self.runs[at];
        if self.commands.random.chance(50) {
            run.store();
            self.totals.count("snapshots");
        } else if self.commands.random.chance(50) {
            run.snapshot = None;
        }
        self.totals.count("reopens");
        run.reopen();
    }

    /// Commands up to a limit, and at it, to a run that is new.
    fn flood(&mut self, nth: u64) {
        self.say(|| format!("flood {nth}"));
        self.totals.count("floods");
        let (namespace, run_id) = ("ns".into(), RUNS[0].into());
        self.runs[0] = Run::begin(0, Create { namespace, run_id, ..Create::default() });
        let commands = commands::flood(nth, &self.runs[0].model);
        for command in commands {
            self.give(0, &command, &Context::at(self.now_ms));
            self.runs[0].sync();
        }
        let run = &mut self.runs[0];
        check(&run.state, &run.model);
        run.store();
        run.reopen();
    }

    /// Everything is told to everybody: then nobody waits for a run that has ended.
    fn tell_all(&mut self) {
        loop {
            let all = 0..self.runs.len();
            all.clone().for_each(|run| self.deliver(run));
            all.clone().for_each(|run| self.tell(run));
            if all.clone().all(|run| self.entries(run).is_empty()) {
                break;
            }
        }
        for Run { state, .. } in &self.runs {
            let is_over = state.ending.is_some() || state.deleted_ms.is_some();
            for wait in state.pending_waits().filter(|_| !is_over) {
                let Some(wait_created::Target::Token(token)) = &wait.created.target else {
                    continue;
                };
                let token = self.runs.iter().find(|run| *run.state.run_id == *token.token_id);
                let is_missed = token.is_some_and(|token| {
                    token.state.ending.is_some() && token.state.deleted_ms.is_none()
                });
                assert!(!is_missed, "a wait for a run that has ended: {wait:?}");
            }
        }
    }
}

impl Run {
    /// As [`Run::decide`], for what never refuses.
    fn decide_maybe(
        &mut self,
        before: &RunState,
        found: Option<Decision<()>>,
        expected: Option<()>,
    ) -> Result<bool, Refusal> {
        let nothing = || Ok(Decision::Duplicate(()));
        let found = found.map_or_else(nothing, Ok);
        let expected = Ok(expected.map_or(Done::Duplicate(()), Done::Accepted));
        self.decide(before, found, expected).map(|answer| answer.is_some())
    }
}

/// The records of a frame are those that the model has from `from` on.
fn check_records(frame: &Frame, model: &Model, from: u64) {
    let records: Result<Vec<_>, _> = wire::decode_all(frame.records()).collect();
    let records = records.expect("sound");
    let expected = &model.log[from as usize..];
    assert_eq!(records.len(), expected.len(), "{records:?}, expected {expected:?}");
    for (record, expected) in records.iter().zip(expected) {
        assert_eq!(*record, **expected, "a record");
    }
}

/// What a frame is said to change for readers is what it changed.
fn check_facts(facts: &Facts, before: &RunState, after: &RunState) {
    let status = after.status();
    assert_eq!(facts.status, Some(status).filter(|_| before.status() != status), "status");
    let outcome = after.ending.as_ref().map(|ending| ending.outcome);
    assert_eq!(facts.outcome, outcome.filter(|_| before.ending.is_none()), "outcome");
    assert_eq!(facts.relabeled, before.tags != after.tags, "relabeled");
    assert_eq!(facts.deleted, after.deleted_ms.is_some(), "deleted");
    let records: u64 = facts.spans.iter().map(|span| u64::from(span.count)).sum();
    assert_eq!(records, after.tail.0 - before.tail.0, "spans");
    assert_eq!(facts.opened.len(), after.streams.len() - before.streams.len(), "opened");
    for (n, stream) in after.streams.iter().enumerate() {
        let (no, known) = (StreamNo(n as u32), before.streams.get(n));
        let trimmed = facts.trimmed.iter().any(|(trimmed, _)| *trimmed == no);
        assert_eq!(trimmed, known.is_some_and(|known| known.trim < stream.trim), "trimmed");
        assert_eq!(facts.closed.contains(&no), known.is_some_and(|k| k.closed != stream.closed));
    }
}

/// Everything that can be seen of a run is as in its model, and what holds in every run holds.
fn check(state: &RunState, model: &Model) {
    assert_eq!(state.run_uid, model.run_uid);
    assert_eq!((state.tail, state.frames), (model.tail(), model.frames), "tail, frames");
    assert_eq!((state.created_ms, state.updated_ms), (model.created_ms, model.updated_ms));
    assert_eq!(state.deleted_ms, model.deleted_ms);
    check_life(state, model);
    assert_eq!(state.kept_records(), model.kept(), "kept");
    assert_eq!(state.streams.len(), model.streams.len(), "streams");
    for (stream, expected) in state.streams.iter().zip(&model.streams) {
        assert_eq!((&stream.name, stream.kind), (&expected.name, expected.kind));
        let (found, name) = ((stream.trim.0, stream.tail.0, stream.closed), &stream.name);
        assert_eq!(found, (expected.trim, expected.tail, expected.closed), "{name}");
        if let Some(inbox) = &stream.inbox {
            check_inbox(inbox, expected);
        }
        assert_eq!(stream.inbox.is_some(), stream.kind == StreamKind::Input);
    }
    assert_eq!(state.producers.len(), model.producers.len(), "producers");
    for (producer, expected) in state.producers.iter().zip(&model.producers) {
        let next = expected.applied.len() as u64;
        let found = (&producer.id, producer.epoch, producer.next_seq);
        assert_eq!(found, (&expected.id, expected.epoch, next), "producer");
    }
    let requests = model.remembered_requests();
    assert_eq!(state.requests.len(), requests.len(), "requests");
    for (request, (id, _, answer)) in state.requests.iter().zip(requests) {
        assert_eq!((&request.id, &request.committed), (id, answer));
    }
    assert_eq!(state.tags, model.tags);
    assert_eq!(state.usage, model.usage);
    assert!(model.metadata.is(&state.metadata), "{:?}: {:?}", state.metadata, model.metadata);
    assert_eq!(state.metadata_seq.0, model.metadata_seq, "metadata_seq");
    assert_eq!(state.waits, model.waits);
    assert_eq!(state.waiters, model.waiters);
    assert_eq!(state.outbox_next, model.outbox_next);
    assert!(state.outbox.iter().eq(&model.outbox), "{:?}: {:?}", state.outbox, model.outbox);
    assert_eq!(state.delivered, model.delivered);
    check_no_wake_up_is_lost(state);
}

fn check_life(state: &RunState, model: &Model) {
    let life = &state.life;
    assert_eq!(state.status(), model.status());
    assert_eq!((life.epoch, life.attempt), (model.epoch, model.attempt), "epoch, attempt");
    assert_eq!(life.lease, model.lease);
    assert_eq!(life.suspended, model.resumes, "suspended");
    assert_eq!(life.cancel, model.cancel);
    assert_eq!(life.delay_until_ms, model.delay_until_ms, "delay_until_ms");
    assert_eq!((life.queued_ms, life.started_ms), (model.queued_ms, model.started_ms), "since");
    assert_eq!(state.ending, model.ending);
    assert_eq!(state.due_ms(), model.due_ms(), "due");
}

fn check_inbox(inbox: &braidlog::core::Inbox, expected: &Stream) {
    let names = inbox.consumers().iter().map(|consumer| &consumer.name);
    assert!(names.eq(expected.acked.iter().map(|(name, _)| name)), "consumers");
    assert_eq!(inbox.floor().0, expected.floor(), "the floor of {}", expected.name);
    assert_eq!(inbox.backlog(Index(expected.tail)).0, expected.backlog(), "backlog");
    for (consumer, (name, acked)) in inbox.consumers().iter().zip(&expected.acked) {
        assert_eq!(consumer.floor.0, expected.floor_of(acked), "the floor of {name}");
        for index in 0..=expected.tail {
            let has_acked = inbox.has_acked(name, Index(index));
            assert_eq!(has_acked, acked.contains(&index), "whether {name} has acked {index}");
        }
        let is_apart = consumer.acked.windows(2).all(|pair| pair[0].1 < pair[1].0);
        assert!(is_apart && !consumer.has_acked(consumer.floor), "ranges are apart");
    }
}

/// No wait is pending for an input that is there, and no run is suspended for nothing.
pub(crate) fn check_no_wake_up_is_lost(state: &RunState) {
    if state.ending.is_some() || state.deleted_ms.is_some() {
        return;
    }
    for wait in state.pending_waits() {
        let Some(wait_created::Target::Input(input)) = &wait.created.target else { continue };
        let Some(no) = state.stream_no(&input.stream) else { continue };
        let stream = state.stream(no);
        let Some(inbox) = &stream.inbox else { continue };
        let consumer = consumer_or_default(&input.consumer);
        let mut owed = (input.after.max(stream.trim.0)..stream.tail.0)
            .filter(|index| !inbox.has_acked(consumer, Index(*index)));
        assert_eq!(owed.next(), None, "an input is there for {wait:?}");
    }
    if state.life.status == RunStatus::Waiting {
        assert!(state.life.lease.is_none(), "a run that waits is nobody's");
        assert!(state.pending_waits().next().is_some(), "suspended for nothing");
    }
}
