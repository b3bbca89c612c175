//! Handing runs to workers, and what workers and others do to them: claims, leases, turns, requests
//! to stop.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use super::{
    admission::Purpose,
    request::{
        AcquireLease, CanceledRun, ClaimRun, ClaimedRun, CommittedTurn, OwedInputs, Renewed,
        RunInfo, RunKey,
    },
    shard::Run,
    store::{EVENT_FRAME_BYTES_MAX, Store},
    ticket::Ticket,
};
use crate::{
    core::{
        CancelRun, Claim, ClaimFrom, Claimed, Commit, DEFAULT_CONSUMER, Refusal, Reschedule,
        RunState,
    },
    error::Error,
    format::cursor::Cursor,
    proto::StreamKind,
    sabotage::{self, Bug},
};

impl Store {
    /// Hands a queued run of one of the tasks to a worker, if there is one: by priority, then by
    /// age. For a moment after a start, those that only packs have are not known.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if no task is named, or the worker's name or the term cannot be used.
    pub async fn try_claim(&self, claim: &ClaimRun) -> Result<Option<ClaimedRun>, Error> {
        if claim.tasks.is_empty() {
            return Err(Refusal::invalid("tasks", "is empty: name what the worker does").into());
        }
        let one = Claim {
            run_uid: None,
            worker: claim.worker.clone(),
            term_ms: claim.term_ms,
            from: ClaimFrom::Queue,
        };
        one.check()?;
        while let Some(place) = self.shared.agenda.take_queued(&claim.namespace, &claim.tasks) {
            match self.hand_out(&place.key, &one).await {
                Ok(claimed) => return Ok(Some(claimed)),
                // It is not queued any more, and was noted as what it is.
                Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// As [`try_claim`](Self::try_claim), but waits for a run to be queued, until `patience` is
    /// over. Nothing is handed out once it is.
    ///
    /// # Errors
    /// As [`try_claim`](Self::try_claim).
    pub async fn claim(
        &self,
        claim: &ClaimRun,
        patience: impl Future<Output = ()>,
    ) -> Result<Option<ClaimedRun>, Error> {
        let mut patience = pin!(patience);
        let mut completed = pin!(self.shared.agenda.completed());
        let is_complete = poll_fn(|context| {
            if completed.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            patience.as_mut().poll(context).map(|()| false)
        });
        if !is_complete.await {
            return Ok(None);
        }
        let calls = self.shared.agenda.calls(&claim.namespace, &claim.tasks);
        loop {
            // Listened for before looking: what is queued meanwhile is not missed.
            let mut queued: Vec<_> = calls.iter().map(|call| Box::pin(call.notified())).collect();
            for queued in &mut queued {
                queued.as_mut().enable();
            }
            if let Some(claimed) = self.try_claim(claim).await? {
                return Ok(Some(claimed));
            }
            self.shared.check_open()?;
            let is_queued = poll_fn(|context| {
                if queued.iter_mut().any(|queued| queued.as_mut().poll(context).is_ready()) {
                    return Poll::Ready(true);
                }
                patience.as_mut().poll(context).map(|()| false)
            });
            if !is_queued.await {
                return Ok(None);
            }
        }
    }

    /// Hands a known run to a worker, whether or not it is queued.
    ///
    /// # Errors
    /// [`Refusal::LeaseHeld`] if another worker has it and it is not taken over, and those of
    /// [`RunState::claim`].
    pub async fn acquire_lease(&self, acquire: &AcquireLease) -> Result<ClaimedRun, Error> {
        let claim = Claim {
            run_uid: acquire.run_uid,
            worker: acquire.worker.clone(),
            term_ms: acquire.term_ms,
            from: if acquire.takeover { ClaimFrom::Holder } else { ClaimFrom::Anywhere },
        };
        self.hand_out(&acquire.run, &claim).await
    }

    async fn hand_out(&self, key: &RunKey, claim: &Claim) -> Result<ClaimedRun, Error> {
        let handed_out = self.shared.with_run(key, |shared, run| {
            shared.check_room(EVENT_FRAME_BYTES_MAX, Purpose::End)?;
            let decided = run.state.claim(claim, &shared.context(run));
            if decided.is_err() {
                // Its place in the queue was taken for this.
                shared.agenda.note(&run.state, shared.platform.clock.mono());
            }
            let ticket = shared.decided(run, decided, None, claimed_run);
            shared.hear(run);
            Ok(ticket)
        });
        handed_out.await?.await
    }

    /// Says that a worker is alive: its lease has its full term again. Leaves no record.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] if the lease is not the run's any more, [`Refusal::Closed`], and the
    /// usual ones.
    pub async fn renew_lease(&self, run: &RunKey, epoch: u64) -> Result<Renewed, Error> {
        let renewed = self.shared.with_run(run, |shared, run| {
            let answer = run.state.check_holder(epoch).map(|lease| Renewed {
                cancel: run.state.life.cancel.clone(),
                term_ms: lease.term_ms,
            });
            if answer.is_ok() {
                shared.hear(run);
            }
            Ok(shared.settled(run, answer))
        });
        renewed.await?.await
    }

    /// Does everything that a turn does, or nothing.
    ///
    /// # Errors
    /// Those of [`RunState::commit`], and [`Refusal::RunNotFound`]. After
    /// [`Error::OutcomeUnknown`], repeat with the same producer numbers or request id.
    pub async fn commit(&self, run: &RunKey, mut commit: Commit) -> Result<CommittedTurn, Error> {
        commit.check()?;
        if !commit.acks.is_empty() && sabotage::is(Bug::TurnInTwoFrames) {
            let Commit { run_uid, lease_epoch, expected_seq, .. } = commit;
            let appends = std::mem::take(&mut commit.appends);
            commit.expected_seq = None;
            let first = Commit { run_uid, lease_epoch, expected_seq, appends, ..Commit::default() };
            self.submit_turn(run, first).await?.await?;
        }
        self.submit_turn(run, commit).await?.await
    }

    /// Decides a turn.
    async fn submit_turn(
        &self,
        run: &RunKey,
        commit: Commit,
    ) -> Result<Ticket<CommittedTurn>, Error> {
        let size = commit.frame_bytes_max();
        let purpose = purpose_of(&commit);
        let permit = self.permit(size).await?;
        let committed = self.shared.with_run(run, |shared, run| {
            shared.check_room(size, purpose)?;
            let decided = run.state.commit(&commit, &shared.context(run));
            if decided.is_ok() && commit.lease_epoch.is_some() {
                shared.hear(run);
            }
            Ok(shared.decided(run, decided, permit, |run, committed| CommittedTurn {
                committed,
                status: run.state.status(),
                cancel: run.state.life.cancel.clone(),
                metadata: run.state.metadata.clone(),
                metadata_seq: run.state.metadata_seq,
            }))
        });
        committed.await
    }

    /// Asks a run to stop: it is closed at once if nobody works on it; else its worker is told, and
    /// has a while to end it.
    ///
    /// # Errors
    /// Those of [`RunState::cancel`], and [`Refusal::RunNotFound`].
    pub async fn cancel_run(&self, run: &RunKey, cancel: CancelRun) -> Result<CanceledRun, Error> {
        let canceled = self.shared.with_run(run, |shared, run| {
            shared.check_room(EVENT_FRAME_BYTES_MAX + 4 * cancel.reason.len(), Purpose::End)?;
            let decided = run.state.cancel(&cancel, &shared.context(run));
            Ok(shared.decided(run, decided, None, |run, canceled| CanceledRun {
                run: run.info(),
                closed: canceled.closed,
                deduplicated: canceled.deduplicated,
            }))
        });
        canceled.await?.await
    }

    /// Puts the start of a run that nobody has worked on at another time.
    ///
    /// # Errors
    /// Those of [`RunState::reschedule`], and [`Refusal::RunNotFound`].
    pub async fn reschedule_run(
        &self,
        run: &RunKey,
        reschedule: Reschedule,
    ) -> Result<RunInfo, Error> {
        let rescheduled = self.shared.with_run(run, |shared, run| {
            shared.check_room(EVENT_FRAME_BYTES_MAX, Purpose::Add)?;
            let decided = run.state.reschedule(&reschedule, &shared.context(run));
            Ok(shared.decided(run, decided, None, |run, ()| run.info()))
        });
        rescheduled.await?.await
    }
}

/// What a commit is for: one that adds nothing is possible on a full disk.
fn purpose_of(commit: &Commit) -> Purpose {
    let adds = !commit.appends.is_empty() || !commit.waits.is_empty() || !commit.tags.is_empty();
    let changes = [&commit.metadata, &commit.parent_metadata, &commit.root_metadata];
    let adds = adds || changes.iter().any(|operations| !operations.is_empty());
    if adds { Purpose::Add } else { Purpose::End }
}

fn claimed_run(run: &Run, claimed: Claimed) -> ClaimedRun {
    let RunState { run_uid, tail, records_chain, .. } = run.state;
    let cursor = Cursor { run_uid, seq: tail, chain: records_chain, stream: None };
    ClaimedRun { run: run.info(), claimed, cursor, owed: owed_inputs(&run.state) }
}

/// What is owed of every input stream, by consumer.
fn owed_inputs(state: &RunState) -> Vec<OwedInputs> {
    let inputs = state.streams.iter().filter(|stream| stream.kind == StreamKind::Input);
    let mut owed = Vec::new();
    for stream in inputs {
        let Some(inbox) = &stream.inbox else { continue };
        let mut add = |consumer: Arc<str>, floor, count| {
            if 0 < count {
                let (stream, tail) = (stream.name.clone(), stream.tail);
                owed.push(OwedInputs { stream, consumer, floor, owed: count, tail });
            }
        };
        for consumer in inbox.consumers() {
            add(consumer.name.clone(), consumer.floor, consumer.owed(stream.tail));
        }
        if inbox.consumers().is_empty() {
            add(DEFAULT_CONSUMER.into(), stream.trim, stream.tail.0 - stream.trim.0);
        }
    }
    owed
}
