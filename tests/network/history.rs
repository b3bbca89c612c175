//! One history: the hosts, and what goes wrong between them.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    panic,
    rc::Rc,
    sync::Once,
    thread,
    time::Duration,
};

use braidlog::platform::sim::SimRng;
use turmoil::Sim;

use crate::{
    callers::{CONSUMERS, Caller, IN_RUNS, SESSIONS, Stage, TAILS, WRITERS},
    chance,
    machine::Machine,
    trace::{Trace, What},
    wire::SERVER,
};

/// A step of the simulation.
const TICK: Duration = Duration::from_millis(2);
/// Things that go wrong in a history, and milliseconds between two of them, at most.
const TROUBLES: u64 = 14;
const CALM_MS: u64 = 1_200;
/// Milliseconds that something stays wrong, at most: mostly, and sometimes, which is longer than a
/// connection may be silent.
const SHORT_MS: u64 = 1_500;
const LONG_MS: u64 = 25_000;
/// How long those may take to come to an end to whom nothing happens any more.
const PATIENCE: Duration = Duration::from_secs(180);

thread_local! {
    /// Whether anything on this thread has panicked, also where it is caught.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// What is done to mend something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Mending {
    Start(String),
    Link(String),
}

struct History<'a> {
    rng: SimRng,
    machine: Machine,
    stage: Rc<Stage>,
    sim: Sim<'a>,
    /// Clients, all of which may die but the first.
    hosts: Vec<String>,
    /// What is to be mended, and when.
    due: BTreeMap<Mending, Duration>,
}

/// Plays the history of a seed to its end, on a thread of its own: nothing of another history is
/// left there.
pub(crate) fn play(seed: u64) -> Trace {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICKED.set(true);
            before(info);
        }));
    });
    let played = thread::Builder::new().name(format!("history-{seed}")).spawn(move || {
        chance::simulate(seed);
        History::new(seed).play()
    });
    played.expect("a thread").join().unwrap_or_else(|problem| panic::resume_unwind(problem))
}

impl History<'_> {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let mut builder = turmoil::Builder::new();
        builder
            .simulation_duration(Duration::MAX)
            .epoch(std::time::UNIX_EPOCH + chance::EPOCH)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(rng.below(3)))
            .max_message_latency(Duration::from_millis(4 + rng.below(60)))
            .tcp_capacity(256)
            .rng_seed(rng.next_u64());
        let (machine, sim) = (Machine::new(rng.next_u64()), builder.build());
        let (stage, hosts, due) = (Rc::default(), Vec::new(), BTreeMap::new());
        let mut history = Self { rng, machine, stage, sim, hosts, due };
        history.add_hosts();
        history
    }

    fn add_hosts(&mut self) {
        let machine = self.machine.clone();
        self.sim.host(SERVER, move || machine.clone().serve());
        let mut writers = BTreeSet::new();
        for (kind, n) in WRITERS.into_iter().zip(0..) {
            let caller = self.caller("writer", n);
            writers.insert(caller.name.to_string());
            self.sim.host(&*caller.name.clone(), move || caller.clone().write(n, kind));
        }
        for n in 0..SESSIONS {
            let caller = self.caller("session", n);
            writers.insert(caller.name.to_string());
            self.sim.host(&*caller.name.clone(), move || caller.clone().stream(n));
        }
        for (kind, n) in TAILS.into_iter().zip(0..) {
            let caller = self.caller("tail", n);
            self.sim.host(&*caller.name.clone(), move || caller.clone().follow(n, kind));
        }
        for n in 0..IN_RUNS {
            let caller = self.caller("sender", n);
            self.sim.host(&*caller.name.clone(), move || caller.clone().send(n));
        }
        for n in 0..CONSUMERS {
            let caller = self.caller("consumer", n);
            self.sim.host(&*caller.name.clone(), move || caller.clone().consume());
        }
        let (keeper, writers) = (self.caller("keeper", 0), Rc::new(writers));
        self.sim.host(&*keeper.name.clone(), move || keeper.clone().keep(writers.clone()));
    }

    fn caller(&mut self, what: &str, n: u64) -> Caller {
        let name = format!("{what}-{n}");
        self.hosts.push(name.clone());
        Caller::new(&self.stage, name, self.rng.next_u64())
    }

    fn play(mut self) -> Trace {
        let (mut troubles, mut next, mut calm_since) = (TROUBLES, Duration::ZERO, None);
        while self.stage.done.borrow().len() < self.hosts.len() {
            let stepped = self.sim.step();
            assert!(!PANICKED.get(), "something has panicked");
            stepped.unwrap_or_else(|error| panic!("a host fails: {error}"));
            self.machine.advance(TICK);
            let now = self.sim.elapsed();
            chance::set_elapsed(now);
            self.mend(now);
            if self.machine.has_lost_power() {
                self.crash("the power is cut in the middle of an operation");
            } else if self.machine.has_ended() {
                self.note(What::Stopped);
                self.end_process();
            }
            if let Some(since) = calm_since {
                assert!(now < since + PATIENCE, "{:?} never end", self.waiting());
            } else if next <= now && 0 < troubles {
                troubles -= 1;
                next = now + self.millis(CALM_MS);
                self.trouble();
            } else if next <= now && self.due.is_empty() {
                self.machine.keep_power();
                self.note(What::Calm);
                self.stage.is_calm.set(true);
                calm_since = Some(now);
            }
        }
        self.note_disk();
        let Self { stage, sim, .. } = self;
        drop(sim);
        stage.trace.take()
    }

    fn waiting(&self) -> Vec<&String> {
        let done = self.stage.done.borrow();
        self.hosts.iter().filter(|host| !done.contains(*host)).collect()
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(1 + self.rng.below(most))
    }

    fn note(&self, what: What) {
        self.stage.note(self.sim.elapsed(), what);
    }

    fn note_disk(&self) {
        let (ops, digest) = self.machine.digest();
        self.note(What::Disk { ops, digest });
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        let is_up = !self.due.contains_key(&Mending::Start(SERVER.into()));
        match self.rng.below(12) {
            0 if is_up => {
                self.note(What::Crash { how: "the process is killed" });
                self.end_process();
            }
            1 if is_up => self.crash("the power is cut"),
            2 | 3 if is_up => self.machine.cut_power_soon(&mut self.rng),
            4 if is_up => self.machine.shut_down(),
            5 | 6 => self.kill_client(),
            _ => self.break_link(),
        }
    }

    /// The process of the server is over; its kernel says so to everybody.
    fn end_process(&mut self) {
        self.sim.crash(SERVER);
        self.machine.kill();
        self.note_disk();
        self.mend_later(Mending::Start(SERVER.into()));
    }

    /// The power of the server is cut: nobody is told.
    fn crash(&mut self, how: &'static str) {
        self.note(What::Crash { how });
        let sound: Vec<_> = self.hosts.iter().filter(|host| self.is_linked(host)).collect();
        sound.iter().for_each(|host| self.sim.partition(SERVER, &***host));
        self.sim.crash(SERVER);
        sound.iter().for_each(|host| self.sim.repair(SERVER, &***host));
        self.machine.cut_power(&mut self.rng);
        self.note_disk();
        self.mend_later(Mending::Start(SERVER.into()));
    }

    fn is_linked(&self, host: &str) -> bool {
        !self.due.contains_key(&Mending::Link(host.to_owned()))
    }

    /// One of the clients; the first has to set the stage.
    fn any_client(&mut self) -> String {
        let pick = self.rng.below(self.hosts.len() as u64 - 1);
        self.hosts[pick as usize].clone()
    }

    /// A client dies; sometimes nobody is told.
    fn kill_client(&mut self) {
        let who = self.any_client();
        if self.stage.done.borrow().contains(&who)
            || self.due.contains_key(&Mending::Start(who.clone()))
        {
            return;
        }
        self.note(What::Death { who: who.clone() });
        let is_silent = self.is_linked(&who) && self.rng.chance(1, 2);
        if is_silent {
            self.sim.partition(SERVER, &*who);
        }
        self.sim.crash(&*who);
        if is_silent {
            self.sim.repair(SERVER, &*who);
        }
        self.mend_later(Mending::Start(who));
    }

    /// A link is cut, both ways or one, or held up: then nothing is lost, it only comes later.
    fn break_link(&mut self) {
        let who = self.any_client();
        if !self.is_linked(&who) {
            return;
        }
        let how = match self.rng.below(5) {
            0 => {
                self.sim.partition_oneway(SERVER, &*who);
                "nothing reaches it"
            }
            1 => {
                self.sim.partition_oneway(&*who, SERVER);
                "nothing comes from it"
            }
            2 => {
                self.sim.partition(SERVER, &*who);
                "cut"
            }
            _ => {
                self.sim.hold(SERVER, &*who);
                "held up"
            }
        };
        self.note(What::Broken { who: who.clone(), how });
        self.mend_later(Mending::Link(who));
    }

    fn mend_later(&mut self, mending: Mending) {
        let most = if self.rng.chance(1, 5) { LONG_MS } else { SHORT_MS };
        // A server is soon started again.
        let most = if mending == Mending::Start(SERVER.into()) { SHORT_MS } else { most };
        let when = self.sim.elapsed() + self.millis(most);
        let before = self.due.insert(mending, when);
        assert!(before.is_none(), "nothing breaks that is broken");
    }

    fn mend(&mut self, now: Duration) {
        let is_due = |when: &Duration| *when <= now;
        let due: Vec<_> =
            self.due.iter().filter(|(_, when)| is_due(when)).map(|(it, _)| it.clone()).collect();
        for mending in due {
            self.due.remove(&mending);
            match mending {
                Mending::Start(host) => {
                    self.sim.bounce(&*host);
                    self.note(What::Mended { who: host });
                }
                Mending::Link(host) => {
                    self.sim.release(SERVER, &*host);
                    self.sim.repair(SERVER, &*host);
                    self.note(What::Mended { who: host });
                }
            }
        }
    }
}
