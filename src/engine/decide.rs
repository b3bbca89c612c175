//! From a command to a ticket: a run is found, its state machine decides, the frame is queued.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    agenda::Pending as Noted, queue::Work, request::RunKey, shard::Run, shared::Shared,
    ticket::Ticket,
};
use crate::{
    core::{Context, Decision, Facts, Refusal},
    error::Error,
    format::frame::Frame,
    sabotage::{self, Bug},
};

/// Why the store stops if a command panics.
pub(super) const PANICKED: &str = "a command panicked while it was decided";

impl Shared {
    /// What a command on a run is decided by now.
    pub(super) fn context(&self, run: &Run) -> Context {
        Context {
            now_ms: self.now_ms(),
            home: run.home(),
            limits: self.options.retention_of(&run.state).limits(),
        }
    }

    /// Looks at a run under its shard's lock.
    pub(super) async fn with_run<T>(
        self: &Arc<Self>,
        key: &RunKey,
        look: impl FnOnce(&Self, &mut Run) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _stop = self.stop_on_panic(PANICKED);
        let (mut shard, found) = self.find(key).await?;
        look(self, shard.run(found.ok_or(Refusal::RunNotFound)?))
    }

    /// Turns a decision into a ticket, queueing the frame if there is one.
    pub(super) fn decided<R, T>(
        &self,
        run: &mut Run,
        decided: Result<Decision<R>, Refusal>,
        permit: Option<OwnedSemaphorePermit>,
        answer: impl FnOnce(&Run, R) -> T,
    ) -> Ticket<T> {
        match decided {
            Ok(Decision::Accepted { frame, facts, answer: accepted }) => {
                let answer = answer(run, accepted);
                self.enqueue(run, frame, facts, permit, answer)
            }
            Ok(Decision::Duplicate(duplicate)) => {
                let answer = answer(run, duplicate);
                match sabotage::is(Bug::DuplicateBeforeDurable) {
                    true => Ticket::done(answer),
                    false => self.settled(run, Ok(answer)),
                }
            }
            Err(refusal) => {
                if sabotage::is(Bug::KeepMemoryOfRefused) {
                    std::mem::forget(permit);
                }
                self.settled(run, Err(refusal))
            }
        }
    }

    /// Queues a frame for commit. The caller holds the shard's lock, so that frames are queued in
    /// the order of their decision.
    pub(super) fn enqueue<T>(
        &self,
        run: &mut Run,
        frame: Frame,
        facts: Facts,
        permit: Option<OwnedSemaphorePermit>,
        answer: T,
    ) -> Ticket<T> {
        run.in_flight += 1;
        run.is_away = false;
        self.note_pending(run);
        let durable = self.queue.push(Work::Frame { frame, facts, permit });
        Ticket { durable: Some(durable), answer: Some(Ok(answer)) }
    }

    /// Notes what a run has to be done for, if that is not what was noted before.
    pub(super) fn note_pending(&self, run: &mut Run) {
        let pending = Noted::of(&run.state);
        // What was in an outbox may be on its way: more of it has to be noted each time.
        let has_outbox = pending.as_ref().is_some_and(|pending| pending.has_outbox);
        if has_outbox || pending != run.noted {
            self.agenda.note(&run.state, self.platform.clock.mono());
            run.noted = pending;
        }
    }

    /// Notes a sign of the run's worker: its lease has its full term again.
    pub(super) fn hear(&self, run: &mut Run) {
        let Some(lease) = &run.state.life.lease else { return };
        let mono = self.platform.clock.mono();
        // The agenda has to know roughly: it is asked when a run has left memory and come back.
        let is_old = Duration::from_millis(lease.term_ms / 8) <= mono.saturating_sub(run.heard);
        run.heard = mono;
        if is_old {
            self.agenda.renew(run.state.run_no, mono);
        }
    }

    /// An answer that rests on the run's state as it is: given when that state is durable.
    pub(super) fn settled<T>(&self, run: &Run, answer: Result<T, Refusal>) -> Ticket<T> {
        let waits =
            0 < run.in_flight && !(answer.is_err() && sabotage::is(Bug::RefusalBeforeDurable));
        let durable = waits.then(|| self.barrier());
        Ticket { durable, answer: Some(answer) }
    }
}
