//! Every order of the few commands between which a wake-up could be lost.
//!
//! All sequences of them up to a length are taken, as a tree: a command that changes nothing ends
//! its branch, for what could follow follows the shorter sequence, too. After each step the run is
//! built anew from its frames and from its snapshot, and goes on from there.

use std::collections::BTreeSet;

use braidlog::{
    core::{
        Ack, CancelRun, Claim, ClaimFrom, Close, Commit, Context, Create, Decision, Delivery,
        NewRecord, NewRun, Refusal, Release, ReleaseTo, RunState, Send, Then,
    },
    format::{frame::Frame, wire},
    proto::{
        InputWait, Outcome, RunSpec, RunStatus, TokenWait, WaitCreated, WaitResult, WaitSettled,
        event, wait_created,
    },
    record::{Index, RunNo, RunUid},
};

use super::driver::check_no_wake_up_is_lost;

const BEGIN_MS: u64 = 1_700_000_000_000;
/// When the wait that has a deadline times out.
const DEADLINE_MS: u64 = BEGIN_MS + 100;
/// Commands of a sequence for inputs, and of one for tokens.
const INPUT_STEPS: usize = 7;
const TOKEN_STEPS: usize = 8;

/// A run with what was said in its log of waits.
#[derive(Clone)]
struct Run {
    state: RunState,
    settled: Vec<WaitSettled>,
    /// What no crash takes.
    durable: Option<Box<Run>>,
}

impl Run {
    fn create(run_id: &str, task: &str, no: u8, max_duration_ms: u64) -> Self {
        let spec = RunSpec { max_duration_ms, ..RunSpec::default() };
        let (namespace, run_id, task) = ("ns".into(), run_id.into(), task.into());
        let create = Create { namespace, run_id, task, spec, ..Create::default() };
        let new = NewRun { run_no: RunNo(u64::from(no)), run_uid: RunUid([no; 16]) };
        let (state, _, _) = RunState::create(&create, new, BEGIN_MS).expect("created");
        let run = Self { state, settled: Vec::new(), durable: None };
        run.synced()
    }

    fn synced(mut self) -> Self {
        self.durable = None;
        Self { durable: Some(Box::new(self.clone())), ..self }
    }

    fn crashed(self) -> Self {
        self.durable.expect("a durable state").synced()
    }

    /// The run after a command; none if it changed nothing.
    fn after<R>(
        &self,
        command: impl FnOnce(&mut RunState) -> Option<Result<Decision<R>, Refusal>>,
    ) -> Option<(Self, R)> {
        let mut run = self.clone();
        let decision = command(&mut run.state)?;
        let Ok(Decision::Accepted { frame, answer, .. }) = decision else { return None };
        let frame = Frame::decode(frame.bytes()).expect("sound");
        let mut replayed = self.state.clone();
        replayed.replay(&frame).expect("fits");
        assert_eq!(replayed, run.state, "built anew from frames");
        let read = RunState::from_bytes(run.state.to_bytes()).expect("a state");
        assert_eq!(read, run.state, "built anew from a snapshot");
        run.state = read;
        for record in wire::decode_all(frame.records()) {
            let event = record.expect("sound").event.and_then(|event| event.event);
            if let Some(event::Event::WaitSettled(settled)) = event {
                run.settled.push(settled);
            }
        }
        run.check();
        Some((run, answer))
    }

    /// A wait is settled at most once, and then it is known how.
    fn check(&self) {
        check_no_wake_up_is_lost(&self.state);
        let mut seen = BTreeSet::new();
        for settled in &self.settled {
            assert!(seen.insert(&settled.wait_id), "settled twice: {settled:?}");
        }
        for wait in &self.state.waits {
            let said = self.settled.iter().find(|settled| settled.wait_id == wait.id());
            assert_eq!(wait.settled.as_ref(), said, "the wait {}", wait.id());
        }
    }

    fn commit(&self, commit: Commit, now_ms: u64) -> Option<Self> {
        let lease_epoch = self.state.life.lease.as_ref().map(|_| self.state.life.epoch);
        let commit = Commit { lease_epoch, ..commit };
        Some(self.after(|state| Some(state.commit(&commit, &Context::at(now_ms))))?.0)
    }

    /// Begins a wait, and suspends the run if somebody has it.
    fn wait(&self, wait: WaitCreated, now_ms: u64) -> Option<Self> {
        let release = Release { next: ReleaseTo::Suspend, error: None };
        let is_held = self.state.life.lease.is_some();
        let then = if is_held { Then::Release(release) } else { Then::GoOn };
        self.commit(Commit { waits: vec![wait], then, ..Commit::default() }, now_ms)
    }

    fn cancel_wait(&self, id: &str, now_ms: u64) -> Option<Self> {
        self.commit(Commit { cancel_waits: vec![id.into()], ..Commit::default() }, now_ms)
    }

    fn claim(&self, from: ClaimFrom, now_ms: u64) -> Option<Self> {
        let claim = Claim { run_uid: None, worker: "w".into(), term_ms: 30_000, from };
        let suspended = self.state.life.suspended;
        let (run, claimed) = self.after(|state| Some(state.claim(&claim, &Context::at(now_ms))))?;
        assert_eq!(claimed.resumed, suspended, "the attempt that suspended the run goes on");
        Some(run)
    }

    fn close(&self, outcome: Outcome, now_ms: u64) -> Option<Self> {
        let lease_epoch = self.state.life.lease.as_ref().map(|_| self.state.life.epoch);
        let output = "value".into();
        let close = Close { outcome, output, lease_epoch, ..Close::default() };
        Some(self.after(|state| Some(state.close(&close, &Context::at(now_ms))))?.0)
    }

    fn tick(&self, lapsed: Option<u64>, now_ms: u64) -> Option<Self> {
        Some(self.after(|state| state.tick(lapsed, &Context::at(now_ms)).map(Ok))?.0)
    }
}

// Inputs.

/// What can happen to a run that waits for an input.
#[derive(Debug, Clone, Copy)]
enum InputStep {
    Send(&'static str),
    /// Waits, and acks what it was waiting for.
    Wait {
        ack: bool,
    },
    /// The time comes at which something is due.
    Timeout,
    Close,
    CancelRun,
    CancelWait(&'static str),
    /// Acks the first input that is owed.
    Ack,
    Claim(ClaimFrom),
    /// The worker is gone.
    Lapse,
}

const INPUT_ALPHABET: [InputStep; 13] = [
    InputStep::Send("a"),
    InputStep::Send("b"),
    InputStep::Wait { ack: false },
    InputStep::Wait { ack: true },
    InputStep::Timeout,
    InputStep::Close,
    InputStep::CancelRun,
    InputStep::CancelWait("plain"),
    InputStep::CancelWait("acking"),
    InputStep::Ack,
    InputStep::Claim(ClaimFrom::Queue),
    InputStep::Claim(ClaimFrom::Holder),
    InputStep::Lapse,
];

/// A run, and which inputs there are and are acked as far as a list and a set can say.
#[derive(Clone)]
struct Inputs {
    run: Run,
    now_ms: u64,
    sent: u64,
    acked: BTreeSet<u64>,
}

impl Inputs {
    fn first_owed(&self) -> Option<u64> {
        (0..self.sent).find(|index| !self.acked.contains(index))
    }

    /// What there is after a step; none if it changed nothing.
    fn after(&self, step: InputStep) -> Option<Self> {
        let mut next = self.clone();
        next.now_ms += 1;
        let (run, now_ms) = (&self.run, next.now_ms);
        next.run = match step {
            InputStep::Send(id) => {
                let message = NewRecord { id: id.into(), ..NewRecord::new(id) };
                let send = Send { run_uid: None, stream: "in".into(), message };
                next.sent += 1;
                run.after(|state| Some(state.send(&send, &Context::at(now_ms))))?.0
            }
            InputStep::Wait { ack } => {
                let (stream, consumer) = ("in".into(), "".into());
                let input = InputWait { stream, consumer, after: 0, ack };
                let target = Some(wait_created::Target::Input(input));
                let wait_id = if ack { "acking" } else { "plain" }.into();
                let deadline_ms = if ack { 0 } else { DEADLINE_MS };
                run.wait(WaitCreated { wait_id, target, deadline_ms }, now_ms)?
            }
            InputStep::Timeout => {
                next.now_ms = run.state.due_ms()?.max(now_ms);
                run.tick(None, next.now_ms)?
            }
            InputStep::Close => run.close(Outcome::Completed, now_ms)?,
            InputStep::CancelRun => {
                let cancel = CancelRun { grace_ms: 10, ..CancelRun::default() };
                run.after(|state| Some(state.cancel(&cancel, &Context::at(now_ms))))?.0
            }
            InputStep::CancelWait(id) => run.cancel_wait(id, now_ms)?,
            InputStep::Ack => {
                let index = self.first_owed()?;
                next.acked.insert(index);
                let ranges = vec![(Index(index), Index(index + 1))];
                let ack = Ack { stream: "in".into(), consumer: "".into(), ranges };
                run.commit(Commit { acks: vec![ack], ..Commit::default() }, now_ms)?
            }
            InputStep::Claim(from) => run.claim(from, now_ms)?,
            InputStep::Lapse => run.tick(Some(run.state.life.epoch), now_ms)?,
        };
        next.take_in(step, run.settled.len());
        Some(next)
    }

    /// Holds what was said of waits to the list and the set.
    fn take_in(&mut self, step: InputStep, known: usize) {
        for settled in self.run.settled.clone().split_off(known) {
            match settled.result() {
                WaitResult::Completed => {
                    assert_eq!(settled.index, self.first_owed(), "{settled:?}");
                    if settled.wait_id == "acking" {
                        self.acked.extend(settled.index);
                    }
                }
                WaitResult::TimedOut => {
                    assert!(DEADLINE_MS <= self.now_ms && settled.wait_id == "plain");
                    assert_eq!(self.first_owed(), None, "an input was there");
                }
                result => {
                    let is_asked =
                        matches!(step, InputStep::CancelWait(id) if id == settled.wait_id);
                    assert!(is_asked && result == WaitResult::Canceled, "{settled:?}");
                }
            }
        }
        let inbox = self.run.state.stream_no("in").map(|no| self.run.state.stream(no));
        let inbox = inbox.and_then(|stream| stream.inbox.as_ref());
        for index in 0..self.sent {
            let has_acked = inbox.is_some_and(|inbox| inbox.has_acked("default", Index(index)));
            assert_eq!(has_acked, self.acked.contains(&index), "whether {index} is acked");
        }
    }
}

fn every_input_sequence(node: &Inputs, path: &mut Vec<InputStep>, tried: &mut u64) {
    if path.len() == INPUT_STEPS {
        return;
    }
    for step in INPUT_ALPHABET {
        path.push(step);
        let place = super::Steps(path);
        *tried += 1;
        let next = node.after(step);
        drop(place);
        if let Some(next) = next {
            every_input_sequence(&next, path, tried);
        }
        path.pop();
    }
}

#[test]
fn a_wait_is_settled_exactly_once_whatever_the_order() {
    let run = Run::create("run", "task", 1, 0);
    let run = run.claim(ClaimFrom::Queue, BEGIN_MS).expect("claimed").synced();
    let node = Inputs { run, now_ms: BEGIN_MS, sent: 0, acked: BTreeSet::new() };
    let mut tried = 0;
    every_input_sequence(&node, &mut Vec::new(), &mut tried);
    println!("{tried} sequences of up to {INPUT_STEPS} steps");
}

// Tokens.

/// What can happen to a run that waits for a token, and to the token.
#[derive(Debug, Clone, Copy)]
enum TokenStep {
    CreateToken,
    Block,
    Complete,
    /// The token's own deadline.
    TimeoutToken,
    /// The deadline of the wait.
    Timeout,
    CancelWait,
    CloseWaiter,
    Claim,
    /// The oldest entry of an outbox is delivered, for the first time or again; by its sender.
    Deliver(usize),
    /// The sender hears that its oldest entry was taken in.
    Tell(usize),
    Crash(usize),
}

const WAITER: usize = 0;
const TOKEN: usize = 1;
const TOKEN_ALPHABET: [TokenStep; 14] = [
    TokenStep::CreateToken,
    TokenStep::Block,
    TokenStep::Complete,
    TokenStep::TimeoutToken,
    TokenStep::Timeout,
    TokenStep::CancelWait,
    TokenStep::CloseWaiter,
    TokenStep::Claim,
    TokenStep::Deliver(WAITER),
    TokenStep::Deliver(TOKEN),
    TokenStep::Tell(WAITER),
    TokenStep::Tell(TOKEN),
    TokenStep::Crash(WAITER),
    TokenStep::Crash(TOKEN),
];

/// A run that waits, and what it waits for once that was created.
#[derive(Clone)]
struct Pair {
    runs: [Option<Run>; 2],
    now_ms: u64,
}

impl Pair {
    fn run(&self, at: usize) -> Option<&Run> {
        self.runs[at].as_ref()
    }

    /// What there is after a step; none if it changed nothing.
    fn after(&self, step: TokenStep) -> Option<Self> {
        let mut next = self.clone();
        next.now_ms += 1;
        let now_ms = next.now_ms;
        let waiter = self.run(WAITER)?;
        let token = || self.run(TOKEN);
        match step {
            TokenStep::CreateToken if token().is_some() => return None,
            TokenStep::CreateToken => {
                next.runs[TOKEN] = Some(Run::create("token", "$wait", 2, 100));
            }
            TokenStep::Block => {
                let token = TokenWait { token_id: "token".into() };
                let target = Some(wait_created::Target::Token(token));
                let wait_id = "wait".into();
                let wait = WaitCreated { wait_id, target, deadline_ms: DEADLINE_MS };
                next.runs[WAITER] = Some(waiter.wait(wait, now_ms)?);
            }
            TokenStep::Complete => {
                next.runs[TOKEN] = Some(token()?.close(Outcome::Completed, now_ms)?);
            }
            TokenStep::TimeoutToken => {
                next.now_ms = token()?.state.due_ms()?.max(now_ms);
                next.runs[TOKEN] = Some(token()?.tick(None, next.now_ms)?);
            }
            TokenStep::Timeout => {
                next.now_ms = waiter.state.due_ms()?.max(now_ms);
                next.runs[WAITER] = Some(waiter.tick(None, next.now_ms)?);
            }
            TokenStep::CancelWait => {
                next.runs[WAITER] = Some(waiter.cancel_wait("wait", now_ms)?);
            }
            TokenStep::CloseWaiter => {
                next.runs[WAITER] = Some(waiter.close(Outcome::Failed, now_ms)?);
            }
            TokenStep::Claim => {
                next.runs[WAITER] = Some(waiter.claim(ClaimFrom::Queue, now_ms)?);
            }
            TokenStep::Deliver(source) => {
                let (taken, delivery) = (self.run(1 - source)?, self.oldest(source)?);
                let was_taken = self.has_taken(source)?;
                let context = Context::at(now_ms);
                let after = taken.after(|state| Some(state.deliver(&delivery, &context)));
                assert_eq!(after.is_none(), was_taken, "taken in once: {delivery:?}");
                next.runs[1 - source] = Some(after?.0);
                // Only what is durable is told.
                next.runs[source] = next.runs[source].take().map(Run::synced);
            }
            TokenStep::Tell(source) if !self.has_taken(source)? => return None,
            TokenStep::Tell(source) => {
                let number = self.oldest(source)?.entry.number;
                let context = Context::at(now_ms);
                let told = |state: &mut RunState| state.told(&[number], &context).map(Ok);
                next.runs[source] = Some(self.run(source)?.after(told)?.0);
                // It is heard only when that is durable.
                next.runs[1 - source] = next.runs[1 - source].take().map(Run::synced);
            }
            TokenStep::Crash(at) => {
                let run = self.run(at)?;
                let durable = run.durable.as_ref().expect("a durable state");
                if durable.state == run.state {
                    return None;
                }
                next.runs[at] = Some(run.clone().crashed());
            }
        }
        Some(next)
    }

    /// The oldest entry that a run has to tell.
    fn oldest(&self, source: usize) -> Option<Delivery> {
        let state = &self.run(source)?.state;
        let entry = state.outbox.front()?.clone();
        let (source, source_uid) = (state.run_id.clone(), state.run_uid);
        Some(Delivery { source, source_uid, entry })
    }

    /// Whether the oldest entry was taken in.
    fn has_taken(&self, source: usize) -> Option<bool> {
        let (taken, delivery) = (self.run(1 - source)?, self.oldest(source)?);
        let has = |(uid, newest): &(RunUid, u64)| {
            *uid == delivery.source_uid && delivery.entry.number <= *newest
        };
        Some(taken.state.delivered.iter().any(has))
    }

    /// When everything has been told, a wait for a token that has ended is settled, and as the
    /// token says unless it was settled before.
    fn check(&self) {
        let mut told = self.clone();
        for _ in 0..4 {
            for source in [WAITER, TOKEN] {
                told = told.after(TokenStep::Deliver(source)).unwrap_or(told);
                told = told.after(TokenStep::Tell(source)).unwrap_or(told);
            }
        }
        let Some((waiter, token)) = told.run(WAITER).zip(told.run(TOKEN)) else { return };
        for Run { state, .. } in [waiter, token] {
            assert!(!state.has_outbox(), "everything was told");
        }
        let (Some(wait), Some(ending)) = (waiter.state.wait("wait"), &token.state.ending) else {
            return;
        };
        match &wait.settled {
            None => assert!(waiter.state.ending.is_some(), "the end of the token was missed"),
            Some(settled) => {
                let expected = match ending.outcome {
                    Outcome::Completed => (WaitResult::Completed, "value"),
                    _ => (WaitResult::TimedOut, ""),
                };
                let found = (settled.result(), std::str::from_utf8(&settled.value).expect("text"));
                let by_itself = [(WaitResult::TimedOut, ""), (WaitResult::Canceled, "")];
                assert!(found == expected || by_itself.contains(&found), "{settled:?}");
                assert_ne!(waiter.state.status(), RunStatus::Waiting);
            }
        }
    }
}

fn every_token_sequence(node: &Pair, path: &mut Vec<TokenStep>, tried: &mut u64) {
    if path.len() == TOKEN_STEPS {
        return;
    }
    for step in TOKEN_ALPHABET {
        path.push(step);
        let place = super::Steps(path);
        *tried += 1;
        let next = node.after(step).inspect(Pair::check);
        drop(place);
        if let Some(next) = next {
            every_token_sequence(&next, path, tried);
        }
        path.pop();
    }
}

#[test]
fn block_and_complete_do_not_miss_each_other_in_any_order() {
    let run = Run::create("run", "task", 1, 0);
    let run = run.claim(ClaimFrom::Queue, BEGIN_MS).expect("claimed").synced();
    let node = Pair { runs: [Some(run), None], now_ms: BEGIN_MS };
    let mut tried = 0;
    every_token_sequence(&node, &mut Vec::new(), &mut tried);
    println!("{tried} sequences of up to {TOKEN_STEPS} steps");
}
