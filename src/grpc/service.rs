//! The services: a conversion, one call of the store, a conversion.

use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::tokio_stream::{Empty, empty},
};

use super::{
    answer::{Handoff, TailBody},
    convert,
    encoded::{ReadResponse, TailResponse, TailSessionResponse},
    generated::{
        admin_service_server::AdminService, run_service_server::RunService,
        stream_service_server::StreamService,
    },
    session::Session,
    status::to_status,
    tail::{self, Follower},
    tails::TailSession,
    work::operations,
};
use crate::{
    core::{At, CancelRun, Commit, Refusal, Reschedule},
    engine::{RunKey, Store},
    error::Error,
    proto::*,
    record::{CANCEL_GRACE_DEFAULT_MS, Seq},
};

/// Creates, describes, closes and deletes runs.
#[derive(Clone)]
pub(super) struct Runs {
    pub(super) store: Store,
}

/// Appends, reads and follows.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) store: Store,
    /// Cancelled when live calls are to end.
    pub(super) drain: CancellationToken,
}

/// Tells how the store is doing.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) store: Store,
}

pub(super) fn failed(error: Error) -> Status {
    to_status(&error)
}

pub(super) fn refused(refusal: Refusal) -> Status {
    to_status(&refusal.into())
}

pub(super) type Answer<T> = Result<Response<T>, Status>;

/// An answer whose messages are a body that was made already.
fn by_handoff<T>(body: Body) -> Response<Empty<T>> {
    let mut answer = Response::new(empty());
    answer.extensions_mut().insert(Handoff::new(body));
    answer
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn create_run(&self, request: Request<CreateRunRequest>) -> Answer<CreateRunResponse> {
        let create = convert::create(request.into_inner()).map_err(refused)?;
        let created = self.store.create_run(create).await.map_err(failed)?;
        let run = Some(convert::run(created.run));
        Ok(Response::new(CreateRunResponse { run, created: created.created }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        let GetRunRequest { run_id, at } = request.into_inner();
        let run = RunKey::new(run_id);
        let run = match at {
            None => self.store.get_run(&run).await,
            Some(get_run_request::At::AtSeq(seq)) => {
                self.store.get_run_at(&run, At::Seq(Seq(seq))).await
            }
            Some(get_run_request::At::AtTimeMs(time_ms)) => {
                self.store.get_run_at(&run, At::Time(time_ms)).await
            }
        };
        let run = run.map_err(failed)?;
        Ok(Response::new(GetRunResponse { run: Some(convert::run(run)) }))
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Answer<ListRunsResponse> {
        let list = convert::list_runs(request.into_inner()).map_err(refused)?;
        let page = self.store.list_runs(&list).await.map_err(failed)?;
        Ok(Response::new(convert::run_page(page)))
    }

    async fn close_run(&self, request: Request<CloseRunRequest>) -> Answer<CloseRunResponse> {
        let (run, close) = convert::close_run(request.into_inner()).map_err(refused)?;
        let closed = self.store.close_run(&run, close).await.map_err(failed)?;
        Ok(Response::new(CloseRunResponse {
            run: Some(convert::run(closed.run)),
            closed_seq: closed.closed_seq.0,
            deduplicated: closed.deduplicated,
        }))
    }

    async fn delete_run(&self, request: Request<DeleteRunRequest>) -> Answer<DeleteRunResponse> {
        let (run, delete) = convert::delete_run(request.into_inner()).map_err(refused)?;
        let deleted = self.store.delete_run(&run, delete).await.map_err(failed)?;
        Ok(Response::new(DeleteRunResponse {
            deleted_at_ms: deleted.deleted_ms,
            deduplicated: deleted.deduplicated,
        }))
    }

    async fn update_run(&self, request: Request<UpdateRunRequest>) -> Answer<UpdateRunResponse> {
        let request = request.into_inner();
        let operations = |given: &[MetadataOperation]| operations(given).map_err(refused);
        let commit = Commit {
            run_uid: convert::run_uid(&request.run_uid).map_err(refused)?,
            request_id: request.request_id.into(),
            metadata: operations(&request.metadata)?,
            parent_metadata: operations(&request.parent_metadata)?,
            root_metadata: operations(&request.root_metadata)?,
            tags: convert::names(request.tags),
            update: request.update,
            ..Commit::default()
        };
        let key = RunKey::new(request.run_id);
        let turn = self.store.commit(&key, commit).await.map_err(failed)?;
        let run = self.store.get_run(&key).await.map_err(failed)?;
        let deduplicated = turn.committed.deduplicated;
        Ok(Response::new(UpdateRunResponse { run: Some(convert::run(run)), deduplicated }))
    }

    async fn reschedule_run(
        &self,
        request: Request<RescheduleRunRequest>,
    ) -> Answer<RescheduleRunResponse> {
        let request = request.into_inner();
        let reschedule = Reschedule {
            run_uid: convert::run_uid(&request.run_uid).map_err(refused)?,
            delay_until_ms: request.delay_until_ms,
        };
        let key = RunKey::new(request.run_id);
        let run = self.store.reschedule_run(&key, reschedule).await.map_err(failed)?;
        Ok(Response::new(RescheduleRunResponse { run: Some(convert::run(run)) }))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Answer<CancelRunResponse> {
        let request = request.into_inner();
        let grace_ms = match request.grace_ms {
            0 => CANCEL_GRACE_DEFAULT_MS,
            grace_ms => grace_ms,
        };
        let run_uid = convert::run_uid(&request.run_uid).map_err(refused)?;
        let cancel = CancelRun { run_uid, reason: request.reason, grace_ms };
        let key = RunKey::new(request.run_id);
        let canceled = self.store.cancel_run(&key, cancel).await.map_err(failed)?;
        Ok(Response::new(CancelRunResponse {
            run: Some(convert::run(canceled.run)),
            closed: canceled.closed,
            deduplicated: canceled.deduplicated,
        }))
    }
}

#[tonic::async_trait]
impl StreamService for Streams {
    async fn append(&self, request: Request<AppendRequest>) -> Answer<AppendResponse> {
        let request = request.into_inner();
        let absent = convert::if_absent(request.create_run);
        let (run, append) = convert::append(request).map_err(refused)?;
        let appended = self.store.append(&run, append, absent).await.map_err(failed)?;
        Ok(Response::new(convert::appended(&appended)))
    }

    type AppendSessionStream = Session;

    async fn append_session(
        &self,
        request: Request<Streaming<AppendSessionRequest>>,
    ) -> Answer<Session> {
        let session = Session::new(self.store.clone(), request.into_inner(), self.drain.clone());
        Ok(Response::new(session))
    }

    async fn close_stream(
        &self,
        request: Request<CloseStreamRequest>,
    ) -> Answer<CloseStreamResponse> {
        let (run, close) = convert::close_stream(request.into_inner()).map_err(refused)?;
        let end = self.store.close_stream(&run, close).await.map_err(failed)?;
        let final_index = end.final_index.0;
        Ok(Response::new(CloseStreamResponse { final_index, deduplicated: end.deduplicated }))
    }

    async fn trim(&self, request: Request<TrimRequest>) -> Answer<TrimResponse> {
        let (run, trim) = convert::trim(request.into_inner()).map_err(refused)?;
        let trim = self.store.trim(&run, trim).await.map_err(failed)?;
        Ok(Response::new(TrimResponse { trim: trim.0 }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Answer<ReadResponse> {
        let query = convert::read(request.into_inner()).map_err(refused)?;
        let page = self.store.read(query).await.map_err(failed)?;
        Ok(Response::new(convert::page(page)))
    }

    /// Nothing: the messages travel as a [`Handoff`].
    type TailStream = Empty<Result<TailResponse, Status>>;

    async fn tail(&self, request: Request<TailRequest>) -> Answer<Self::TailStream> {
        let follower = Follower::begin(self.store.clone(), request.into_inner()).await;
        let messages = tail::messages(follower.map_err(failed)?, self.drain.clone());
        Ok(by_handoff(Body::new(TailBody::new(messages))))
    }

    /// Nothing: the messages travel as a [`Handoff`].
    type TailSessionStream = Empty<Result<TailSessionResponse, Status>>;

    async fn tail_session(
        &self,
        request: Request<Streaming<TailSessionRequest>>,
    ) -> Answer<Self::TailSessionStream> {
        let (store, drain) = (self.store.clone(), self.drain.clone());
        let session = TailSession::new(store, request.into_inner(), drain);
        Ok(by_handoff(Body::new(TailBody::new(session))))
    }

    async fn check_tail(&self, request: Request<CheckTailRequest>) -> Answer<CheckTailResponse> {
        let request = request.into_inner();
        let run_uid = convert::run_uid(&request.run_uid).map_err(refused)?;
        let stream = (!request.stream.is_empty()).then_some(request.stream.as_str());
        let run = RunKey::new(request.run_id);
        let tail = self.store.check_tail(&run, run_uid, stream).await.map_err(failed)?;
        Ok(Response::new(convert::run_tail(tail)))
    }

    async fn list_streams(
        &self,
        request: Request<ListStreamsRequest>,
    ) -> Answer<ListStreamsResponse> {
        let request = request.into_inner();
        let run_uid = convert::run_uid(&request.run_uid).map_err(refused)?;
        let run = RunKey::new(request.run_id);
        let list = self.store.list_streams(&run, run_uid).await.map_err(failed)?;
        Ok(Response::new(convert::stream_list(list)))
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Answer<GetStatsResponse> {
        Ok(Response::new(convert::stats(self.store.stats())))
    }
}
