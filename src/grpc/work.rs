//! Handing out runs, and turns of work.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::{
    convert,
    generated::work_service_server::WorkService,
    service::{Answer, failed, refused},
};
use crate::{
    core::{
        Ack, Close, Commit, Operation, Producer, Refusal, Release, ReleaseTo, StreamAppend, Then,
    },
    engine::{
        AcquireLease, ClaimRun, ClaimedRun, CommittedTurn, DEFAULT_NAMESPACE, OwedInputs, RunKey,
        Store,
    },
    error::Error,
    proto::{self, commit_request, release, *},
    record::{Index, LEASE_TERM_DEFAULT_MS, Seq, WAIT_CALL_MS_MAX},
};

/// Hands out runs, and takes turns of work.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) store: Store,
    /// Cancelled when calls that wait are to end.
    pub(super) drain: CancellationToken,
}

#[tonic::async_trait]
impl WorkService for Work {
    async fn claim_run(&self, request: Request<ClaimRunRequest>) -> Answer<ClaimRunResponse> {
        let request = request.into_inner();
        let wait = patience(request.wait_ms).map_err(refused)?;
        let claim = ClaimRun {
            namespace: DEFAULT_NAMESPACE.into(),
            tasks: convert::names(request.tasks),
            worker: request.worker.into(),
            term_ms: term_ms(request.term_ms),
        };
        let patience = async {
            tokio::select! {
                () = sleep(wait) => {}
                () = self.drain.cancelled() => {}
            }
        };
        let claimed = self.store.claim(&claim, patience).await.map_err(failed)?;
        if claimed.is_none() && self.drain.is_cancelled() {
            return Err(failed(Error::ShuttingDown));
        }
        Ok(Response::new(ClaimRunResponse { claimed: claimed.map(claimed_run) }))
    }

    async fn acquire_lease(
        &self,
        request: Request<AcquireLeaseRequest>,
    ) -> Answer<AcquireLeaseResponse> {
        let request = request.into_inner();
        let acquire = AcquireLease {
            run_uid: convert::run_uid(&request.run_uid).map_err(refused)?,
            run: RunKey::new(request.run_id),
            worker: request.worker.into(),
            term_ms: term_ms(request.term_ms),
            takeover: request.takeover,
        };
        let claimed = self.store.acquire_lease(&acquire).await.map_err(failed)?;
        Ok(Response::new(AcquireLeaseResponse { claimed: Some(claimed_run(claimed)) }))
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Answer<RenewLeaseResponse> {
        let request = request.into_inner();
        let run = RunKey::new(request.run_id);
        let renewed = self.store.renew_lease(&run, request.lease_epoch).await.map_err(failed)?;
        let cancel_requested = renewed.cancel.map(convert::cancel_requested);
        Ok(Response::new(RenewLeaseResponse { cancel_requested, term_ms: renewed.term_ms }))
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Answer<ReleaseLeaseResponse> {
        let request = request.into_inner();
        let release = to_release(request.release.unwrap_or_default()).map_err(refused)?;
        let commit = Commit {
            lease_epoch: Some(request.lease_epoch),
            request_id: request.request_id.into(),
            then: Then::Release(release),
            ..Commit::default()
        };
        let run = RunKey::new(request.run_id);
        let turn = self.store.commit(&run, commit).await.map_err(failed)?;
        Ok(Response::new(ReleaseLeaseResponse { status: turn.status.into() }))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Answer<CommitResponse> {
        let (run, commit) = to_commit(request.into_inner()).map_err(refused)?;
        let turn = self.store.commit(&run, commit).await.map_err(failed)?;
        Ok(Response::new(committed(turn)))
    }
}

/// How long a call may wait.
pub(super) fn patience(wait_ms: u64) -> Result<Duration, Refusal> {
    if WAIT_CALL_MS_MAX < wait_ms {
        let problem = format!("is {wait_ms}: {WAIT_CALL_MS_MAX} at most");
        return Err(Refusal::invalid("wait_ms", problem));
    }
    Ok(Duration::from_millis(wait_ms))
}

fn term_ms(term_ms: u64) -> u64 {
    if term_ms == 0 { LEASE_TERM_DEFAULT_MS } else { term_ms }
}

fn claimed_run(claimed: ClaimedRun) -> proto::ClaimedRun {
    let ClaimedRun { run, claimed, cursor, owed } = claimed;
    proto::ClaimedRun {
        run: Some(convert::run(run)),
        lease_epoch: claimed.epoch,
        attempt: claimed.attempt,
        resumed: claimed.resumed,
        term_ms: claimed.term_ms,
        cursor: cursor.to_string(),
        owed: owed.into_iter().map(owed_inputs).collect(),
    }
}

fn owed_inputs(owed: OwedInputs) -> proto::OwedInputs {
    proto::OwedInputs {
        stream: owed.stream.as_ref().into(),
        consumer: owed.consumer.as_ref().into(),
        floor: owed.floor.0,
        owed: owed.owed,
        tail: owed.tail.0,
    }
}

fn to_release(release: proto::Release) -> Result<Release, Refusal> {
    let next = match release.next {
        None | Some(release::Next::Queue(true)) => ReleaseTo::Queue,
        Some(release::Next::DelayUntilMs(until_ms)) => ReleaseTo::Delay(until_ms),
        Some(release::Next::Suspend(true)) => ReleaseTo::Suspend,
        Some(release::Next::Queue(false) | release::Next::Suspend(false)) => {
            let problem = "is false: set it, or say what else is next";
            return Err(Refusal::invalid("release.next", problem));
        }
    };
    Ok(Release { next, error: release.error })
}

/// Operations on a metadata document.
pub(super) fn operations(operations: &[MetadataOperation]) -> Result<Vec<Operation>, Refusal> {
    let operation = |operation| {
        Operation::from_proto(operation)
            .ok_or_else(|| Refusal::invalid("metadata.action", "is missing, or unknown"))
    };
    operations.iter().map(operation).collect()
}

/// Ranges of indices.
pub(super) fn ranges(ranges: Vec<IndexRange>) -> Vec<(Index, Index)> {
    ranges.into_iter().map(|range| (Index(range.from), Index(range.to))).collect()
}

fn to_commit(request: CommitRequest) -> Result<(RunKey, Commit), Refusal> {
    let then = match request.then {
        None => Then::GoOn,
        Some(commit_request::Then::Release(release)) => Then::Release(to_release(release)?),
        Some(commit_request::Then::Close(close)) => Then::Close(Close {
            outcome: convert::outcome(close.outcome)?,
            output: close.output,
            output_type: close.output_type,
            error: close.error,
            ..Close::default()
        }),
    };
    let append = |append: CommitAppend| StreamAppend {
        stream: append.stream.into(),
        records: convert::new_records(append.records),
        expected_index: append.expected_index.map(Index),
    };
    let ack = |ack: InputAck| Ack {
        stream: ack.stream.into(),
        consumer: ack.consumer.into(),
        ranges: ranges(ack.ranges),
    };
    let producer = request.producer.map(|producer| Producer {
        id: producer.id.into(),
        epoch: producer.epoch,
        seq: producer.seq,
    });
    let commit = Commit {
        run_uid: convert::run_uid(&request.run_uid)?,
        lease_epoch: request.lease_epoch,
        producer,
        request_id: request.request_id.into(),
        expected_seq: request.expected_seq.map(Seq),
        appends: request.appends.into_iter().map(append).collect(),
        acks: request.acks.into_iter().map(ack).collect(),
        metadata: operations(&request.metadata)?,
        parent_metadata: operations(&request.parent_metadata)?,
        root_metadata: operations(&request.root_metadata)?,
        tags: convert::names(request.tags),
        update: request.update,
        waits: request.waits,
        cancel_waits: request.cancel_waits.into_iter().map(Arc::from).collect(),
        then,
    };
    Ok((RunKey::new(request.run_id), commit))
}

fn committed(turn: CommittedTurn) -> CommitResponse {
    let CommittedTurn { committed, status, cancel, metadata, metadata_seq } = turn;
    let span = |&(stream, first, count): &(crate::record::StreamNo, Index, u32)| CommitSpan {
        stream: stream.0,
        first_index: first.0,
        count,
    };
    CommitResponse {
        run_uid: convert::run_uid_bytes(committed.run_uid),
        first_seq: committed.first_seq.0,
        count: committed.count,
        time_ms: committed.time_ms,
        spans: committed.spans.iter().map(span).collect(),
        deduplicated: committed.deduplicated,
        positions_forgotten: committed.positions_forgotten,
        status: status.into(),
        cancel_requested: cancel.map(convert::cancel_requested),
        metadata,
        metadata_seq: metadata_seq.0,
    }
}
