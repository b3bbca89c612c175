//! Taking runs to work on, turns of work, and what others ask of runs.

use std::time::Duration;

use super::{
    Client, convert,
    convert::{run_id, unexpected},
    link::{Link, Runs, Work},
    retry::{Repeat, random_id},
};
use crate::{
    core::{
        Ack, CancelRun, Claimed, Close, Commit, Committed, Operation, Release, ReleaseTo,
        Reschedule, StreamAppend, Then,
    },
    engine::{
        AcquireLease, CanceledRun, ClaimRun, ClaimedRun, CommittedTurn, OwedInputs, Renewed,
        RunInfo, RunKey,
    },
    error::Error,
    proto::{self, RunStatus, commit_request, release},
    record::{Index, Seq, StreamNo, WAIT_CALL_MS_MAX},
};

impl Client {
    /// Hands a queued run of one of the tasks to a worker: by priority, then by age. Waits for one
    /// for so long; none if there is none in time.
    ///
    /// Repeated only if no run was handed out. After [`Error::OutcomeUnknown`], claim again: a run
    /// that was handed out and never arrived is handed out again when its term is over.
    ///
    /// # Errors
    /// As [`Store::claim`](crate::engine::Store::claim).
    pub async fn claim(
        &self,
        claim: &ClaimRun,
        wait: Duration,
    ) -> Result<Option<ClaimedRun>, Error> {
        convert::check_namespace(&claim.namespace)?;
        let mut left_ms = convert::millis(wait);
        loop {
            // One call waits only so long.
            let wait_ms = left_ms.min(WAIT_CALL_MS_MAX);
            left_ms -= wait_ms;
            let request = proto::ClaimRunRequest {
                tasks: convert::names(&claim.tasks),
                worker: claim.worker.as_ref().into(),
                term_ms: claim.term_ms,
                wait_ms,
            };
            let call = |mut work: Work, request| async move { work.claim_run(request).await };
            let answer = self.call(Repeat::UnlessSent, Link::work, request, call).await?;
            match answer.claimed {
                Some(claimed) => return claimed_run(Some(claimed)).map(Some),
                None if left_ms == 0 => return Ok(None),
                None => {}
            }
        }
    }

    /// Hands a known run to a worker, whether or not it is queued. Not repeated if it may have
    /// been applied: whoever asks again takes the run over from itself.
    ///
    /// # Errors
    /// As [`Store::acquire_lease`](crate::engine::Store::acquire_lease).
    pub async fn acquire_lease(&self, acquire: &AcquireLease) -> Result<ClaimedRun, Error> {
        let request = proto::AcquireLeaseRequest {
            run_id: run_id(&acquire.run)?,
            run_uid: convert::run_uid_bytes(acquire.run_uid),
            worker: acquire.worker.as_ref().into(),
            term_ms: acquire.term_ms,
            takeover: acquire.takeover,
        };
        let call = |mut work: Work, request| async move { work.acquire_lease(request).await };
        let answer = self.call(Repeat::UnlessSent, Link::work, request, call).await?;
        claimed_run(answer.claimed)
    }

    /// Says that a worker is alive: its lease has its full term again.
    ///
    /// # Errors
    /// As [`Store::renew_lease`](crate::engine::Store::renew_lease).
    pub async fn renew_lease(&self, run: &RunKey, epoch: u64) -> Result<Renewed, Error> {
        let request = proto::RenewLeaseRequest { run_id: run_id(run)?, lease_epoch: epoch };
        let call = |mut work: Work, request| async move { work.renew_lease(request).await };
        let answer = self.call(Repeat::Command, Link::work, request, call).await?;
        let cancel = convert::cancel(answer.cancel_requested, 0);
        Ok(Renewed { cancel, term_ms: answer.term_ms })
    }

    /// Gives a run back, and tells where it stands then. A commit that does nothing else, with a
    /// request id of its own: it may be repeated.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::engine::Store::commit).
    pub async fn release_lease(
        &self,
        run: &RunKey,
        epoch: u64,
        release: Release,
    ) -> Result<RunStatus, Error> {
        let commit = Commit {
            lease_epoch: Some(epoch),
            request_id: random_id(),
            then: Then::Release(release),
            ..Commit::default()
        };
        Ok(self.commit(run, commit).await?.status)
    }

    /// Does everything that a turn does, or nothing. Repeated only if it has producer numbers or a
    /// request id, or was certainly not applied.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::engine::Store::commit).
    pub async fn commit(&self, run: &RunKey, commit: Commit) -> Result<CommittedTurn, Error> {
        let has_key = commit.producer.is_some() || !commit.request_id.is_empty();
        let repeat = if has_key { Repeat::Command } else { Repeat::UnlessSent };
        let request = commit_request(run, commit)?;
        let call = |mut work: Work, request| async move { work.commit(request).await };
        committed(self.call(repeat, Link::work, request, call).await?)
    }

    /// Asks a run to stop: it is closed at once if nobody works on it; else its worker is told, and
    /// has a while to end it. A grace of 0 is 30 seconds.
    ///
    /// # Errors
    /// As [`Store::cancel_run`](crate::engine::Store::cancel_run).
    pub async fn cancel_run(&self, run: &RunKey, cancel: CancelRun) -> Result<CanceledRun, Error> {
        let request = proto::CancelRunRequest {
            run_id: run_id(run)?,
            run_uid: convert::run_uid_bytes(cancel.run_uid),
            reason: cancel.reason,
            grace_ms: cancel.grace_ms,
        };
        let call = |mut runs: Runs, request| async move { runs.cancel_run(request).await };
        let answer = self.runs(Repeat::Command, request, call).await?;
        Ok(CanceledRun {
            run: convert::run(answer.run)?,
            closed: answer.closed,
            deduplicated: answer.deduplicated,
        })
    }

    /// Puts the start of a run that nobody has worked on at another time.
    ///
    /// # Errors
    /// As [`Store::reschedule_run`](crate::engine::Store::reschedule_run).
    pub async fn reschedule_run(
        &self,
        run: &RunKey,
        reschedule: Reschedule,
    ) -> Result<RunInfo, Error> {
        let request = proto::RescheduleRunRequest {
            run_id: run_id(run)?,
            run_uid: convert::run_uid_bytes(reschedule.run_uid),
            delay_until_ms: reschedule.delay_until_ms,
        };
        let call = |mut runs: Runs, request| async move { runs.reschedule_run(request).await };
        convert::run(self.runs(Repeat::Command, request, call).await?.run)
    }
}

fn claimed_run(claimed: Option<proto::ClaimedRun>) -> Result<ClaimedRun, Error> {
    let claimed = claimed.ok_or_else(|| unexpected("an answer without its run"))?;
    let owed = |owed: proto::OwedInputs| OwedInputs {
        stream: owed.stream.into(),
        consumer: owed.consumer.into(),
        floor: Index(owed.floor),
        owed: owed.owed,
        tail: Index(owed.tail),
    };
    Ok(ClaimedRun {
        run: convert::run(claimed.run)?,
        claimed: Claimed {
            epoch: claimed.lease_epoch,
            attempt: claimed.attempt,
            resumed: claimed.resumed,
            term_ms: claimed.term_ms,
        },
        cursor: convert::cursor(&claimed.cursor)?,
        owed: claimed.owed.into_iter().map(owed).collect(),
    })
}

fn commit_request(run: &RunKey, commit: Commit) -> Result<proto::CommitRequest, Error> {
    let then = match commit.then {
        Then::GoOn => None,
        Then::Release(release) => Some(commit_request::Then::Release(to_release(release))),
        Then::Close(close) => Some(commit_request::Then::Close(to_close(close))),
    };
    Ok(proto::CommitRequest {
        run_id: run_id(run)?,
        run_uid: convert::run_uid_bytes(commit.run_uid),
        lease_epoch: commit.lease_epoch,
        producer: commit.producer.map(convert::producer),
        request_id: commit.request_id.as_ref().into(),
        expected_seq: commit.expected_seq.map(|seq| seq.0),
        appends: commit.appends.into_iter().map(append).collect(),
        acks: commit.acks.into_iter().map(ack).collect(),
        metadata: operations(&commit.metadata),
        parent_metadata: operations(&commit.parent_metadata),
        root_metadata: operations(&commit.root_metadata),
        tags: convert::names(&commit.tags),
        update: commit.update,
        waits: commit.waits,
        cancel_waits: convert::names(&commit.cancel_waits),
        then,
    })
}

fn append(append: StreamAppend) -> proto::CommitAppend {
    proto::CommitAppend {
        stream: append.stream.as_ref().into(),
        records: convert::append_records(append.records),
        expected_index: append.expected_index.map(|index| index.0),
    }
}

fn ack(ack: Ack) -> proto::InputAck {
    proto::InputAck {
        stream: ack.stream.as_ref().into(),
        consumer: ack.consumer.as_ref().into(),
        ranges: ranges(ack.ranges),
    }
}

/// Ranges of indices.
pub(super) fn ranges(ranges: Vec<(Index, Index)>) -> Vec<proto::IndexRange> {
    ranges.into_iter().map(|(from, to)| proto::IndexRange { from: from.0, to: to.0 }).collect()
}

fn operations(operations: &[Operation]) -> Vec<proto::MetadataOperation> {
    operations.iter().map(Operation::to_proto).collect()
}

fn to_release(release: Release) -> proto::Release {
    let next = match release.next {
        ReleaseTo::Queue => release::Next::Queue(true),
        ReleaseTo::Delay(until_ms) => release::Next::DelayUntilMs(until_ms),
        ReleaseTo::Suspend => release::Next::Suspend(true),
    };
    proto::Release { next: Some(next), error: release.error }
}

fn to_close(close: Close) -> proto::CommitClose {
    let Close { outcome, output, output_type, error, .. } = close;
    proto::CommitClose { outcome: outcome.into(), output, output_type, error }
}

fn committed(answer: proto::CommitResponse) -> Result<CommittedTurn, Error> {
    let span =
        |span: proto::CommitSpan| (StreamNo(span.stream), Index(span.first_index), span.count);
    Ok(CommittedTurn {
        committed: Committed {
            run_uid: convert::run_uid(&answer.run_uid)?,
            first_seq: Seq(answer.first_seq),
            count: answer.count,
            time_ms: answer.time_ms,
            spans: answer.spans.into_iter().map(span).collect(),
            deduplicated: answer.deduplicated,
            positions_forgotten: answer.positions_forgotten,
        },
        status: convert::status(answer.status)?,
        cancel: convert::cancel(answer.cancel_requested, 0),
        metadata: answer.metadata,
        metadata_seq: Seq(answer.metadata_seq),
    })
}
