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
    encoded::{ReadResponse, TailResponse},
    generated::{
        admin_service_server::AdminService, run_service_server::RunService,
        stream_service_server::StreamService,
    },
    session::Session,
    status::to_status,
    tail::TailMessages,
};
use crate::{
    core::Refusal,
    engine::{RunKey, Store},
    error::Error,
    proto::*,
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

fn failed(error: Error) -> Status {
    to_status(&error)
}

fn refused(refusal: Refusal) -> Status {
    to_status(&refusal.into())
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RunService for Runs {
    async fn create_run(&self, request: Request<CreateRunRequest>) -> Answer<CreateRunResponse> {
        let create = convert::create(request.into_inner()).map_err(refused)?;
        let created = self.store.create_run(create).await.map_err(failed)?;
        let run = Some(convert::run(created.run));
        Ok(Response::new(CreateRunResponse { run, created: created.created }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        let run = RunKey::new(request.into_inner().run_id);
        let run = self.store.get_run(&run).await.map_err(failed)?;
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
        let (query, heartbeat) = convert::tail(request.into_inner()).map_err(refused)?;
        let tail = self.store.tail(query).await.map_err(failed)?;
        let messages = TailMessages::new(self.store.clone(), tail, heartbeat, self.drain.clone());
        let mut answer = Response::new(empty());
        answer.extensions_mut().insert(Handoff::new(Body::new(TailBody::new(messages))));
        Ok(answer)
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
