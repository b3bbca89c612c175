//! What runs go through besides appends, cut at every operation: turns, messages, leases, waits,
//! keys, and what runs tell each other.
//!
//! Callers work on a family of runs of one store. Every turn has a number, which is its output and
//! goes into the metadata of its run, and of the parent if it is told; so whoever reads a log knows
//! what must be so. Power is cut at operations of the disk; then the store is opened again and left
//! alone until nothing is pending, and: what was answered is answered the same when it is asked
//! again; each turn is there whole or not at all; what is owed is what no turn in the log has acked;
//! parents know each turn that was told, once and in order; whoever waited for a token that has
//! ended waits no more. A failure prints the command that repeats it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use braidlog::{
    Ack, AcquireLease, ClaimRun, Close, Commit, Create, CreateToken, Error, Index, NewRecord,
    Operation, Outcome, Query, Record, Release, ReleaseTo, RunKey, RunSpec, Send, Start, Store,
    StreamAppend, Then,
    engine::{DEFAULT_NAMESPACE, Options, Progress, Stepper},
    platform::sim::{Fate, SimClock, SimDisk, SimRng, platform},
    proto::{InputWait, RunStatus, TokenWait, WaitCreated, event::Event, wait_created::Target},
};

const RUNS: u64 = 5;
const TOKENS: u64 = 3;
const KEYS: u64 = 2;
/// Histories of a run of the tests, and turns of callers in each.
const HISTORIES: u64 = 120;
const TURNS: u64 = 80;
/// One of so many operations of the disk is a point at which power is cut.
const SHARE: u64 = 6;

/// What was answered to a caller.
#[derive(Debug, Clone)]
enum Told {
    Turn { run: RunKey, commit: Box<Commit>, first_seq: u64, closes: Option<Outcome> },
    Sent { run: RunKey, send: Send, index: u64 },
    Created { run: RunKey },
    Keyed { create: Box<Create>, run_id: Arc<str> },
    Claimed { run: RunKey, epoch: u64 },
    Completed { token: RunKey, value: bytes::Bytes },
    Nothing,
}

type Asked = Pin<Box<dyn Future<Output = Result<Told, Error>>>>;

/// An open store, and who talks to it.
struct World {
    clock: SimClock,
    store: Store,
    stepper: Stepper,
    asked: Vec<Asked>,
    attending: Option<Pin<Box<dyn Future<Output = ()>>>>,
    told: Vec<Told>,
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn key(name: impl Into<Arc<str>>) -> RunKey {
    RunKey::new(name)
}

fn options(rng: &mut SimRng) -> Options {
    let mut options = super::workload::smallest();
    options.slot_bytes = 64 << 10;
    options.slot_bytes_first = 64 << 10;
    options.ring_bytes = if rng.chance(1, 2) { 0 } else { 64 << 10 };
    options.resident_bytes = if rng.chance(1, 2) { 0 } else { 1 << 20 };
    options.retention.age_ms = None;
    options
}

impl World {
    fn open(disk: &SimDisk, clock: &SimClock, seed: u64, options: &Options) -> Self {
        crate::planted::plant();
        let (store, stepper) = Store::open_stepped(platform(disk, clock, seed), options.clone())
            .unwrap_or_else(|error| panic!("a cut is never fatal: {error}"));
        let attending = Some(Box::pin(stepper.attend(true)) as Pin<Box<dyn Future<Output = ()>>>);
        let (asked, told) = (Vec::new(), Vec::new());
        Self { clock: clock.clone(), store, stepper, asked, attending, told }
    }

    /// Looks at the answers that are there.
    fn look(&mut self) {
        let told = &mut self.told;
        self.asked.retain_mut(|asked| match asked.as_mut().poll(&mut context()) {
            Poll::Pending => true,
            Poll::Ready(Ok(answer)) => {
                told.push(answer);
                false
            }
            Poll::Ready(Err(Error::Refused(_) | Error::Busy { .. })) => false,
            Poll::Ready(Err(error)) => panic!("nothing fails on a sound disk: {error}"),
        });
        if let Some(attending) = &mut self.attending
            && attending.as_mut().poll(&mut context()).is_ready()
        {
            self.attending = None;
        }
    }

    fn attend(&mut self) {
        if self.attending.is_none() {
            self.attending = Some(Box::pin(self.stepper.attend(false)));
        }
    }

    /// Takes steps until an answer is there.
    fn drive<T>(&mut self, asked: impl Future<Output = T>) -> T {
        let mut asked = pin!(asked);
        for _ in 0..10_000 {
            if let Poll::Ready(answer) = asked.as_mut().poll(&mut context()) {
                return answer;
            }
            self.stepper.step();
        }
        panic!("no answer")
    }

    /// Goes on until nothing is pending that time does not bring.
    fn come_to_rest(&mut self) {
        if let Some(attending) = self.attending.take() {
            self.drive(attending);
        }
        for _ in 0..12 {
            let attending = self.stepper.attend(false);
            self.drive(attending);
            while self.stepper.step() == Progress::Worked {}
        }
    }

    fn log(&mut self, run: &RunKey) -> Vec<Record> {
        let (mut records, mut query) = (Vec::new(), Query::run(run.clone()));
        let store = self.store.clone();
        loop {
            let page = self.drive(store.read(query.clone())).expect("a page");
            if page.records.is_empty() {
                return records;
            }
            records.extend(page.records.decode().expect("records"));
            query.start = Start::Cursor(page.cursor.to_string());
        }
    }
}

/// What callers ask, at random.
struct Callers {
    rng: SimRng,
    next: u64,
}

impl Callers {
    fn run(&mut self) -> RunKey {
        key(format!("run-{}", self.rng.below(RUNS)))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Asks one thing.
    fn ask(&mut self, world: &mut World) {
        let store = world.store.clone();
        let asked: Asked = match self.rng.below(20) {
            0..=1 => {
                let create = self.create(world.store.clock_ms());
                Box::pin(async move {
                    let run = key(create.run_id.clone());
                    store.create_run(create).await.map(|_| Told::Created { run })
                })
            }
            2 => {
                let create = keyed(self.rng.below(KEYS), self.number());
                Box::pin(async move {
                    let created = store.create_run(create.clone()).await?;
                    Ok(Told::Keyed { create: Box::new(create), run_id: created.run.run_id })
                })
            }
            3 => {
                let token_id = format!("token-{}", self.rng.below(TOKENS)).into();
                let timeout_ms = self.rng.below(3) * 20_000;
                let create = CreateToken { token_id, timeout_ms, ..CreateToken::default() };
                Box::pin(
                    async move { store.create_wait_token(create).await.map(|_| Told::Nothing) },
                )
            }
            4 => {
                let token = key(format!("token-{}", self.rng.below(TOKENS)));
                let value: bytes::Bytes = format!("value {}", self.number()).into();
                Box::pin(async move {
                    let done = store.complete_wait_token(&token, value, String::new()).await?;
                    Ok(Told::Completed { token, value: done.token.value })
                })
            }
            5..=6 => {
                let claim = ClaimRun {
                    namespace: DEFAULT_NAMESPACE.into(),
                    tasks: vec!["work".into()],
                    worker: "w".into(),
                    term_ms: 20_000,
                };
                Box::pin(async move {
                    let claimed = store.try_claim(&claim).await?;
                    Ok(claimed.map_or(Told::Nothing, |claimed| Told::Claimed {
                        run: key(claimed.run.run_id),
                        epoch: claimed.claimed.epoch,
                    }))
                })
            }
            7..=10 => self.send(store),
            _ => self.turn(world, store),
        };
        world.asked.push(asked);
    }

    fn create(&mut self, now_ms: u64) -> Create {
        let run = self.run();
        let is_first = &*run.run_id == "run-0";
        let delay_until_ms = if self.rng.chance(1, 4) { now_ms + 10_000 } else { 0 };
        let parent_run_id = if is_first { String::new() } else { "run-0".into() };
        let spec =
            RunSpec { parent_run_id, delay_until_ms, max_attempts: 100, ..RunSpec::default() };
        let RunKey { namespace, run_id } = run;
        Create { namespace, run_id, task: "work".into(), spec, ..Create::default() }
    }

    fn send(&mut self, store: Store) -> Asked {
        let (run, n) = (self.run(), self.number());
        let message = NewRecord { id: format!("m{n}"), ..NewRecord::new(format!("input {n}")) };
        let send = Send { run_uid: None, stream: "in".into(), message };
        Box::pin(async move {
            let sent = store.send(&run, send.clone()).await?;
            Ok(Told::Sent { run, send, index: sent.index.0 })
        })
    }

    /// A turn: a number that is put out, acks, metadata here and above, waits, and what is next.
    fn turn(&mut self, world: &mut World, store: Store) -> Asked {
        let (run, n) = (self.run(), self.number());
        let (from, acks) = (self.rng.below(6), self.rng.chance(1, 2));
        let tells = self.rng.chance(1, 2);
        let now_ms = world.store.clock_ms();
        let wait_id = format!("wait-{n}");
        let target = match self.rng.below(6) {
            0 => Some(Target::Input(InputWait { stream: "in".into(), ..InputWait::default() })),
            1 => Some(Target::Token(TokenWait {
                token_id: format!("token-{}", self.rng.below(TOKENS)),
            })),
            _ => None,
        };
        let deadline_ms = if self.rng.chance(1, 2) { now_ms + 30_000 } else { 0 };
        let waits = target.map(|target| WaitCreated { wait_id, target: Some(target), deadline_ms });
        let next = [ReleaseTo::Queue, ReleaseTo::Suspend, ReleaseTo::Delay(now_ms + 5_000)];
        let next = next[self.rng.below(3) as usize];
        let then = match self.rng.below(12) {
            0..=2 => Then::Release(Release { next, error: None }),
            3 if n % 5 == 0 => Then::Close(Close {
                outcome: Outcome::Completed,
                output: format!("output {n}").into(),
                ..Close::default()
            }),
            _ => Then::GoOn,
        };
        Box::pin(async move {
            let info = store.get_run(&run).await?;
            let holds = info.life.lease.is_some();
            let said = format!("{n} {} {}", if acks { from } else { u64::MAX }, u8::from(tells));
            let ack = Ack {
                stream: "in".into(),
                consumer: "".into(),
                ranges: vec![(Index(from), Index(from + 1))],
            };
            let told = format!("from-{}", run.run_id);
            let is_below = tells && !info.spec.parent_run_id.is_empty();
            let commit = Commit {
                lease_epoch: holds.then_some(info.life.epoch),
                request_id: format!("turn-{n}").into(),
                appends: vec![StreamAppend {
                    stream: "out".into(),
                    records: vec![NewRecord::new(said)],
                    expected_index: None,
                }],
                acks: if acks { vec![ack] } else { Vec::new() },
                metadata: vec![Operation::append("turns", n.to_string())],
                parent_metadata: match is_below {
                    true => vec![Operation::append(told, n.to_string())],
                    false => Vec::new(),
                },
                waits: waits.into_iter().collect(),
                then,
                ..Commit::default()
            };
            let closes = match &commit.then {
                Then::Close(close) => Some(close.outcome),
                _ => None,
            };
            let first_seq = store.commit(&run, commit.clone()).await?.committed.first_seq.0;
            Ok(Told::Turn { run, commit: Box::new(commit), first_seq, closes })
        })
    }
}

fn keyed(number: u64, n: u64) -> Create {
    let spec = RunSpec {
        idempotency_key: format!("key-{number}"),
        idempotency_expires_at_ms: 4_000_000_000_000,
        ..RunSpec::default()
    };
    let namespace = DEFAULT_NAMESPACE.into();
    Create { namespace, run_id: format!("keyed-{n}").into(), spec, ..Create::default() }
}

/// Asks again for everything that was answered.
fn ask_again(world: &mut World, told: &[Told]) {
    let store = world.store.clone();
    let mut next = 1_000_000;
    for told in told {
        next += 1;
        match told {
            Told::Nothing => {}
            Told::Created { run } => drop(world.drive(store.get_run(run)).expect("it is there")),
            Told::Turn { run, commit, first_seq, closes } => {
                let again = world.drive(store.commit(run, Commit::clone(commit))).expect("known");
                assert!(again.committed.deduplicated, "{told:?}");
                assert_eq!(again.committed.first_seq.0, *first_seq, "{told:?}");
                if let Some(outcome) = closes {
                    let info = world.drive(store.get_run(run)).expect("it is there");
                    assert_eq!(info.ended.expect("closed").outcome, *outcome);
                }
            }
            Told::Sent { run, send, index } => {
                let again = world.drive(store.send(run, send.clone())).expect("known");
                assert!(again.deduplicated && again.index.0 == *index, "{told:?}");
            }
            Told::Keyed { create, run_id } => {
                let create =
                    Create { run_id: format!("again-{next}").into(), ..Create::clone(create) };
                let found = world.drive(store.create_run(create)).expect("found");
                assert!(!found.created && found.run.run_id == *run_id, "{told:?}");
            }
            Told::Claimed { run, epoch } => {
                let info = world.drive(store.get_run(run)).expect("it is there");
                assert!(*epoch <= info.life.epoch, "{told:?}");
            }
            Told::Completed { token, value } => {
                let again = store.complete_wait_token(token, "late".into(), String::new());
                let again = world.drive(again).expect("known");
                assert!(again.deduplicated && again.token.value == *value, "{told:?}");
            }
        }
    }
}

/// Holds the log of every run to what it says itself.
fn hold_to_logs(world: &mut World) {
    let store = world.store.clone();
    let mut told_by: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for n in 0..RUNS {
        let run = key(format!("run-{n}"));
        let Ok(info) = world.drive(store.get_run(&run)) else { continue };
        let log = world.log(&run);
        let (mut turns, mut acked, mut inputs) = (Vec::new(), BTreeSet::new(), 0);
        let (mut waits, mut settled) = (BTreeMap::new(), BTreeSet::new());
        let mut ends_at = u64::MAX;
        for record in &log {
            if record.data.starts_with(b"input ") {
                inputs += 1;
            } else if let Some(said) =
                std::str::from_utf8(&record.data).ok().filter(|s| !s.is_empty())
            {
                let numbers: Vec<u64> = said.split(' ').map(|n| n.parse().expect("one")).collect();
                turns.push(numbers[0]);
                acked.extend(Some(numbers[1]).filter(|index| *index != u64::MAX));
                if numbers[2] == 1 && n != 0 {
                    told_by.entry(format!("from-run-{n}")).or_default().push(numbers[0]);
                }
            }
            match record.event.clone().and_then(|event| event.event) {
                Some(Event::WaitCreated(wait)) => {
                    assert!(waits.insert(wait.wait_id.clone(), wait).is_none());
                }
                Some(Event::WaitSettled(wait)) => {
                    assert!(settled.insert(wait.wait_id.clone()), "settled twice: {wait:?}");
                }
                Some(Event::RunClosed(_)) => ends_at = record.seq,
                _ => {}
            }
        }
        let once: BTreeSet<u64> = turns.iter().copied().collect();
        assert_eq!(once.len(), turns.len(), "each turn once: {turns:?}");
        let document: serde_json::Value =
            serde_json::from_slice(&info.metadata).unwrap_or_default();
        let list = |key: &str| -> Vec<u64> {
            let list = document.get(key).and_then(|list| list.as_array());
            list.into_iter().flatten().map(|n| n.as_u64().expect("a number")).collect()
        };
        assert_eq!(list("turns"), turns, "a turn is there whole or not at all");
        if ends_at == u64::MAX {
            for (wait_id, wait) in waits.iter().filter(|(id, _)| !settled.contains(*id)) {
                let Some(Target::Token(token)) = &wait.target else { continue };
                let token = world.drive(store.get_run(&key(token.token_id.as_str())));
                let is_pending = token.is_ok_and(|token| token.ended.is_none());
                assert!(is_pending, "{wait_id} waits for what has ended, or is not there");
            }
            let acquire = AcquireLease {
                run: run.clone(),
                run_uid: None,
                worker: "check".into(),
                term_ms: 600_000,
                takeover: true,
            };
            let claimed = world.drive(store.acquire_lease(&acquire)).expect("open");
            let owed: u64 = claimed.owed.iter().map(|owed| owed.owed).sum();
            assert_eq!(owed, inputs - acked.len() as u64, "owed is what no turn has acked");
        }
    }
    let Ok(parent) = world.drive(store.get_run(&key("run-0"))) else { return };
    let document: serde_json::Value = serde_json::from_slice(&parent.metadata).unwrap_or_default();
    let is_late = parent.ended.is_some_and(|end| end.completed_ms + 3_600_000 < store.clock_ms());
    for (from, numbers) in told_by.iter().filter(|_| !is_late) {
        let list = document.get(from).and_then(|list| list.as_array());
        let heard: Vec<u64> =
            list.into_iter().flatten().map(|n| n.as_u64().expect("a number")).collect();
        assert_eq!(&heard, numbers, "{from}: each once, in order");
    }
}

/// Waits until what time brings has come: nothing that was pending is forgotten by a start.
fn let_time_pass(world: &mut World) {
    world.clock.advance(Duration::from_secs(700));
    world.come_to_rest();
    let store = world.store.clone();
    for n in 0..RUNS {
        let Ok(info) = world.drive(store.get_run(&key(format!("run-{n}")))) else { continue };
        let stands = matches!(info.status, RunStatus::Delayed | RunStatus::Dequeued);
        assert!(!stands, "{} stands still: {:?}", info.run_id, info.status);
        assert!(info.life.lease.is_none() || info.ended.is_some(), "{} is held", info.run_id);
    }
}

fn check(point: &SimDisk, clock: &SimClock, options: &Options, told: &[Told], seed: u64) {
    point.power_cut(Fate::random(seed));
    let clock = SimClock::new(clock.wall_ms());
    let mut world = World::open(point, &clock, seed, options);
    world.come_to_rest();
    ask_again(&mut world, told);
    hold_to_logs(&mut world);
    let_time_pass(&mut world);
}

trait WallClock {
    fn wall_ms(&self) -> u64;
}

impl WallClock for SimClock {
    fn wall_ms(&self) -> u64 {
        braidlog::platform::Clock::wall_ms(self)
    }
}

/// One history; the number of points at which power was cut, and of answers.
fn live(seed: u64, only: Option<u64>) -> (u64, u64) {
    let mut rng = SimRng::new(seed);
    let options = options(&mut rng);
    let (disk, clock) = (SimDisk::new(), SimClock::new(1_700_000_000_000));
    let mut world = World::open(&disk, &clock, rng.next_u64(), &options);
    let mut callers = Callers { rng: SimRng::new(rng.next_u64()), next: 0 };
    // Whoever tells a run that is not there yet tells nobody.
    let parent = Create {
        namespace: DEFAULT_NAMESPACE.into(),
        run_id: "run-0".into(),
        task: "work".into(),
        ..Create::default()
    };
    let store = world.store.clone();
    world.drive(store.create_run(parent)).expect("created");
    disk.record_crash_points();
    let mut points = 0;
    for _ in 0..TURNS {
        for _ in 0..=rng.below(4) {
            callers.ask(&mut world);
        }
        clock.advance(Duration::from_millis(rng.below(8_000)));
        if rng.chance(2, 3) {
            world.attend();
        }
        for _ in 0..=rng.below(4) {
            world.look();
            let before = world.told.clone();
            match rng.below(10) {
                0 => drop(world.stepper.flush()),
                1 => (0..rng.below(6)).for_each(|_| {
                    world.stepper.collect();
                }),
                _ => drop(world.stepper.step()),
            }
            for point in disk.take_crash_points() {
                if rng.below(SHARE) == 0 {
                    points += 1;
                    if only.is_none_or(|only| only == points) {
                        let _place = Place { seed, point: points };
                        check(&point, &clock, &options, &before, seed ^ points << 20);
                    }
                }
            }
        }
        world.look();
    }
    (points, world.told.len() as u64)
}

/// Tells how to repeat what failed.
struct Place {
    seed: u64,
    point: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, point } = self;
            eprintln!(
                "repeat with: BRAIDLOG_AT={seed}:{point} cargo test --no-default-features \
                 --features sim --test crash turns::"
            );
        }
    }
}

#[test]
fn what_was_answered_of_turns_inputs_leases_and_waits_survives_a_power_cut() {
    if let Ok(at) = env::var("BRAIDLOG_AT")
        && let Some((seed, point)) = at.split_once(':')
    {
        live(seed.parse().expect("a seed"), point.parse().ok());
        return;
    }
    let seed = env::var("BRAIDLOG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (mut points, mut answers) = (0, 0);
    for history in 0..HISTORIES {
        let lived = live(SimRng::new(seed << 16 | history).next_u64(), None);
        (points, answers) = (points + lived.0, answers + lived.1);
    }
    println!("turns: {HISTORIES} histories, {answers} answers, power cut at {points} points");
    assert!(HISTORIES < points, "there were points to look at");
}
