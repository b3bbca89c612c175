//! Who works on a run: queued, handed to a worker under a lease, given back, abandoned, stopped.
//!
//! A lease is a number that grows by one each time. Whoever presents an older one is fenced: safety
//! comes from the number, not from time. That a worker was not heard of for its term is known
//! outside; the state machine is told so and decides what becomes of the run.

use std::sync::Arc;

use super::{
    Context, Decision, Refusal, RunState,
    command::{check_open, check_run},
    draft::Draft,
};
use crate::{
    proto::{
        self, CancelRequested, Outcome, RunAbandoned, RunClaimed, RunClosed, RunError, RunReleased,
        RunSpec, RunStatus, WaitSettled, event,
    },
    record::{
        ATTEMPTS_DEFAULT, ID_BYTES_MAX, LEASE_TERM_MS, RUN_ID_BYTES_MAX, RunUid, check_name,
        check_text,
    },
    sabotage::{self, Bug},
};

/// Where a run stands in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Status, while the run is open.
    pub status: RunStatus,
    /// Milliseconds since the Unix epoch when it is queued, if it is delayed.
    pub delay_until_ms: u64,
    /// Milliseconds since the Unix epoch when it was queued last; 0 if never.
    pub queued_ms: u64,
    /// Milliseconds since the Unix epoch when it began; 0 if it has not.
    pub started_ms: u64,
    /// Number of the newest lease; 0 if there was none.
    pub epoch: u64,
    /// Attempts so far.
    pub attempt: u32,
    /// Whether the next claim goes on with the attempt: the run was suspended.
    pub suspended: bool,
    /// Who has the run; none if nobody.
    pub lease: Option<Lease>,
    /// What was asked, once the run is to stop.
    pub cancel: Option<Cancel>,
}

/// A worker's hold on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name of the worker.
    pub worker: Arc<str>,
    /// Milliseconds without a sign of the worker after which the run is abandoned.
    pub term_ms: u64,
}

/// A run is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    /// Why, for people.
    pub reason: String,
    /// Milliseconds since the Unix epoch when that was asked.
    pub requested_ms: u64,
    /// Milliseconds since the Unix epoch when the run is closed if it has not ended.
    pub close_at_ms: u64,
}

/// Hands a run to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the worker, 1 to 128 bytes.
    pub worker: Arc<str>,
    /// Term of the lease in milliseconds.
    pub term_ms: u64,
    /// Which runs are handed out.
    pub from: ClaimFrom,
}

/// Which runs a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimFrom {
    /// One that is queued.
    Queue,
    /// Any that is open and that nobody has.
    Anywhere,
    /// Any that is open; whoever has it is fenced.
    Holder,
}

/// A run was handed to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Number of the lease.
    pub epoch: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Whether the attempt goes on that had suspended the run.
    pub resumed: bool,
    /// Term of the lease in milliseconds.
    pub term_ms: u64,
}

/// Gives a run back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Release {
    /// What is to become of it.
    pub next: ReleaseTo,
    /// Why the attempt failed, if it did.
    pub error: Option<RunError>,
}

/// What becomes of a run that is given back, unless it was asked to stop: then it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReleaseTo {
    /// Another attempt at once.
    #[default]
    Queue,
    /// Another attempt at this time, milliseconds since the Unix epoch.
    Delay(u64),
    /// The attempt goes on when what the run waits for has come; at once if there is nothing.
    Suspend,
}

/// Asks a run to stop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CancelRun {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Why, for people; at most 512 bytes.
    pub reason: String,
    /// Milliseconds that a worker has to end the run itself.
    pub grace_ms: u64,
}

/// A run was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canceled {
    /// Whether it is closed; otherwise its worker has time to end it.
    pub closed: bool,
    /// Whether that had been asked before.
    pub deduplicated: bool,
}

/// Puts the start of a run that nobody has yet at another time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reschedule {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Milliseconds since the Unix epoch.
    pub delay_until_ms: u64,
}

impl Life {
    /// That of a run that was created with these words.
    pub(super) fn begin(task: &str, spec: &RunSpec, now_ms: u64) -> Self {
        let status = match () {
            () if spec.pending_version => RunStatus::PendingVersion,
            () if now_ms < spec.delay_until_ms => RunStatus::Delayed,
            // Nobody claims a run without a task: whoever made it is at work on it.
            () if task.is_empty() || task.starts_with('$') => RunStatus::Executing,
            () => RunStatus::Queued,
        };
        let at = |wanted: RunStatus| if status == wanted { now_ms } else { 0 };
        Self {
            status,
            delay_until_ms: spec.delay_until_ms,
            queued_ms: at(RunStatus::Queued),
            started_ms: at(RunStatus::Executing),
            epoch: 0,
            attempt: 0,
            suspended: false,
            lease: None,
            cancel: None,
        }
    }

    /// That of most runs that nobody claims.
    pub(super) fn plain(created_ms: u64) -> Self {
        Self::begin("", &RunSpec::default(), created_ms)
    }

    /// Whether the run waits for what it needs to go on, without a worker.
    pub(super) fn is_suspended(&self) -> bool {
        self.status == RunStatus::Waiting && self.lease.is_none()
    }

    pub(super) fn turn_to(&mut self, status: RunStatus, now_ms: u64) {
        self.status = status;
        match status {
            RunStatus::Queued => self.queued_ms = now_ms,
            RunStatus::Executing if self.started_ms == 0 => self.started_ms = now_ms,
            _ => {}
        }
    }
}

impl Claim {
    /// Row 1: names and sizes.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn check(&self) -> Result<(), Refusal> {
        check_name(&self.worker, ID_BYTES_MAX).map_err(|error| Refusal::name("worker", error))?;
        if !LEASE_TERM_MS.contains(&self.term_ms) {
            let (least, most) = (LEASE_TERM_MS.start(), LEASE_TERM_MS.end());
            let problem = format!("is {}: between {least} and {most} are taken", self.term_ms);
            return Err(Refusal::invalid("term_ms", problem));
        }
        Ok(())
    }
}

impl RunState {
    /// Row 7: a lease that is presented is the current one, and one is if it is `needed`. Once a
    /// run was claimed, what consumes or ends needs the lease.
    pub(super) fn check_lease(&self, presented: Option<u64>, needed: bool) -> Result<(), Refusal> {
        let current = self.life.epoch;
        match presented {
            Some(epoch) if epoch == current && self.life.lease.is_some() => Ok(()),
            Some(_) if sabotage::is(Bug::IgnoreLease) => Ok(()),
            Some(_) => Err(Refusal::Fenced { current }),
            None if needed && 0 < current => Err(Refusal::LeaseRequired { current }),
            None => Ok(()),
        }
    }

    /// The lease, if it is the one of this number.
    ///
    /// # Errors
    /// [`Refusal::Fenced`], [`Refusal::Closed`], [`Refusal::RunDeleted`].
    pub fn check_holder(&self, epoch: u64) -> Result<&Lease, Refusal> {
        check_run(self, None)?;
        check_open(self, None)?;
        self.check_lease(Some(epoch), true)?;
        self.life.lease.as_ref().ok_or(Refusal::Fenced { current: self.life.epoch })
    }

    /// Hands the run to a worker.
    ///
    /// # Errors
    /// [`Refusal::NotQueued`], [`Refusal::LeaseHeld`], and the usual ones.
    pub fn claim(
        &mut self,
        claim: &Claim,
        context: &Context,
    ) -> Result<Decision<Claimed>, Refusal> {
        claim.check()?;
        check_run(self, claim.run_uid)?;
        check_open(self, None)?;
        match (claim.from, &self.life.lease) {
            (ClaimFrom::Queue, _) if self.life.status != RunStatus::Queued => {
                return Err(Refusal::NotQueued { status: self.life.status });
            }
            (ClaimFrom::Anywhere, Some(lease)) => {
                let worker = lease.worker.clone();
                return Err(Refusal::LeaseHeld { epoch: self.life.epoch, worker });
            }
            _ => {}
        }
        let resumed = self.life.suspended;
        let claimed = Claimed {
            epoch: self.life.epoch + 1,
            attempt: self.life.attempt + u32::from(!resumed || self.life.attempt == 0),
            resumed,
            term_ms: claim.term_ms,
        };
        let mut draft = Draft::new(self, context, 128);
        draft.lifecycle(event::Event::RunClaimed(RunClaimed {
            epoch: claimed.epoch,
            worker: claim.worker.as_ref().into(),
            attempt: claimed.attempt,
            term_ms: claimed.term_ms,
            resumed,
        }));
        let frame = draft.finish();
        Ok(self.accepted(frame, claimed))
    }

    /// Asks the run to stop: at once if nobody has it, else its worker has time to end it.
    ///
    /// # Errors
    /// [`Refusal::Closed`] with another outcome than canceled, and the usual ones.
    pub fn cancel(
        &mut self,
        cancel: &CancelRun,
        context: &Context,
    ) -> Result<Decision<Canceled>, Refusal> {
        check_text(&cancel.reason, RUN_ID_BYTES_MAX)
            .map_err(|error| Refusal::name("reason", error))?;
        check_run(self, cancel.run_uid)?;
        let again = |closed| Ok(Decision::Duplicate(Canceled { closed, deduplicated: true }));
        match &self.ending {
            Some(ending) if ending.outcome == Outcome::Canceled => return again(true),
            None if self.life.cancel.is_some() && self.life.lease.is_some() => return again(false),
            _ => check_open(self, None)?,
        }
        let closed = self.life.lease.is_none();
        let mut draft = Draft::new(self, context, 128);
        let close_at_ms = draft.time_ms().saturating_add(cancel.grace_ms);
        let reason = cancel.reason.clone();
        draft.lifecycle(event::Event::CancelRequested(CancelRequested { reason, close_at_ms }));
        if closed {
            draft.close(ended(Outcome::Canceled, "canceled", &cancel.reason));
        }
        let frame = draft.finish();
        Ok(self.accepted(frame, Canceled { closed, deduplicated: false }))
    }

    /// Puts the start at another time.
    ///
    /// # Errors
    /// [`Refusal::NotQueued`] if the run has started, and the usual ones.
    pub fn reschedule(
        &mut self,
        reschedule: &Reschedule,
        context: &Context,
    ) -> Result<Decision<()>, Refusal> {
        check_run(self, reschedule.run_uid)?;
        check_open(self, None)?;
        let status = self.life.status;
        if !matches!(status, RunStatus::Delayed | RunStatus::Queued) {
            return Err(Refusal::NotQueued { status });
        }
        let delay_until_ms = reschedule.delay_until_ms;
        if status == RunStatus::Delayed && delay_until_ms == self.life.delay_until_ms {
            return Ok(Decision::Duplicate(()));
        }
        let mut draft = Draft::new(self, context, 64);
        let rescheduled = proto::RunRescheduled { delay_until_ms };
        draft.lifecycle(event::Event::RunRescheduled(rescheduled));
        let frame = draft.finish();
        Ok(self.accepted(frame, ()))
    }

    /// Whether something is to be done for the run without a caller: a time that comes, a worker to
    /// be given to or watched, something to tell.
    pub fn is_pending(&self) -> bool {
        self.deleted_ms.is_none()
            && (self.has_outbox()
                || self.ending.is_none()
                    && (self.life.lease.is_some()
                        || self.life.status == RunStatus::Queued
                        || self.due_ms().is_some()))
    }

    /// When time alone changes something, milliseconds since the Unix epoch. A lease is not
    /// counted: how long it lasts is known outside.
    pub fn due_ms(&self) -> Option<u64> {
        if self.ending.is_some() || self.deleted_ms.is_some() {
            return None;
        }
        let waits = self.waits.iter().filter_map(|wait| wait.due()).map(|(due_ms, _)| due_ms);
        [self.delay_due(), self.expiry_due(), self.duration_due(), self.cancel_due()]
            .into_iter()
            .flatten()
            .chain(waits)
            .min()
    }

    fn delay_due(&self) -> Option<u64> {
        (self.life.status == RunStatus::Delayed).then_some(self.life.delay_until_ms)
    }

    fn expiry_due(&self) -> Option<u64> {
        let is_new = self.life.status == RunStatus::Queued && self.life.attempt == 0;
        let ttl_ms = Some(self.spec.ttl_ms).filter(|ttl_ms| is_new && 0 < *ttl_ms)?;
        Some(self.life.queued_ms.saturating_add(ttl_ms))
    }

    fn duration_due(&self) -> Option<u64> {
        let limit_ms = Some(self.spec.max_duration_ms).filter(|limit_ms| 0 < *limit_ms)?;
        (0 < self.life.started_ms).then(|| self.life.started_ms.saturating_add(limit_ms))
    }

    fn cancel_due(&self) -> Option<u64> {
        self.life.cancel.as_ref().map(|cancel| cancel.close_at_ms)
    }

    /// Lets everything happen that is due, in one frame; nothing if nothing is. `lapsed` is the
    /// number of a lease whose worker was not heard of for its term.
    pub fn tick(&mut self, lapsed: Option<u64>, context: &Context) -> Option<Decision<()>> {
        let lapsed = lapsed.filter(|epoch| *epoch == self.life.epoch && self.life.lease.is_some());
        let now_ms = context.now_ms.max(self.updated_ms);
        let is_due = self.due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        if self.ending.is_some() || self.deleted_ms.is_some() || !is_due && lapsed.is_none() {
            return None;
        }
        let is_past = |due: Option<u64>| due.is_some_and(|due_ms| due_ms <= now_ms);
        let mut draft = Draft::new(self, context, 128);
        draft.settle_due(now_ms);
        let reason = self.life.cancel.as_ref().map_or("", |cancel| &cancel.reason);
        if is_past(self.cancel_due()) {
            draft.close(ended(Outcome::Canceled, "canceled", reason));
        } else if is_past(self.duration_due()) {
            draft.close(ended(Outcome::TimedOut, "timed_out", "the run took longer than allowed"));
        } else if is_past(self.expiry_due()) {
            draft.close(ended(Outcome::Expired, "expired", "nobody started the run in time"));
        } else {
            if is_past(self.delay_due()) {
                draft.status(RunStatus::Queued);
            }
            if let Some(epoch) = lapsed {
                draft.abandon(epoch);
            }
            draft.resume_if_settled();
        }
        let frame = draft.finish();
        Some(self.accepted(frame, ()))
    }

    fn attempts_max(&self) -> u32 {
        if self.spec.max_attempts == 0 { ATTEMPTS_DEFAULT } else { self.spec.max_attempts }
    }
}

/// How a run is closed by the store.
fn ended(outcome: Outcome, kind: &str, message: &str) -> RunClosed {
    let error = RunError {
        r#type: "braidlog".into(),
        name: kind.into(),
        message: message.into(),
        stack_trace: String::new(),
    };
    RunClosed { outcome: outcome.into(), error: Some(error), ..RunClosed::default() }
}

impl Draft<'_> {
    /// Settles every wait whose time has come.
    fn settle_due(&mut self, now_ms: u64) {
        for wait in &self.state.waits {
            if let Some((due_ms, result)) = wait.due()
                && due_ms <= now_ms
            {
                self.settle(wait.id(), result, WaitSettled::default());
            }
        }
    }

    /// The worker is gone: another attempt, or the end.
    fn abandon(&mut self, epoch: u64) {
        let Life { lease, attempt, cancel, .. } = &self.state.life;
        let worker = lease.as_ref().map_or("", |lease| &lease.worker).into();
        let is_last = self.state.attempts_max() <= *attempt;
        let next = match cancel {
            Some(_) => RunStatus::Canceled,
            None if is_last => RunStatus::Crashed,
            None => RunStatus::Queued,
        };
        let abandoned = RunAbandoned { epoch, worker, next: next.into() };
        self.lifecycle(event::Event::RunAbandoned(abandoned));
        self.status = next;
        match (next, cancel) {
            (RunStatus::Canceled, Some(cancel)) => {
                self.close(ended(Outcome::Canceled, "canceled", &cancel.reason));
            }
            (RunStatus::Crashed, _) => {
                self.close(ended(Outcome::Crashed, "crashed", "the worker died too often"));
            }
            _ => {}
        }
    }

    /// Gives the run back. One that is to stop ends with that.
    pub(super) fn release(&mut self, release: &Release) {
        if let Some(cancel) = &self.state.life.cancel {
            self.close(ended(Outcome::Canceled, "canceled", &cancel.reason));
            return;
        }
        let waits = !self.pending.is_empty();
        let (next, delay_until_ms) = match release.next {
            ReleaseTo::Delay(until_ms) if self.time_ms() < until_ms => {
                (RunStatus::Delayed, until_ms)
            }
            ReleaseTo::Suspend if waits => (RunStatus::Waiting, 0),
            _ => (RunStatus::Queued, 0),
        };
        self.status = next;
        self.lifecycle(event::Event::RunReleased(RunReleased {
            epoch: self.state.life.epoch,
            next: next.into(),
            delay_until_ms,
            error: release.error.clone(),
            suspends: release.next == ReleaseTo::Suspend,
        }));
    }
}
