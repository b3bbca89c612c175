//! A service without a store: what the wire alone takes.
//!
//! It speaks the messages of `StreamService` over the same transport, with the same settings, as
//! `server`, and answers at once: every append as if it were applied, every tail with as many
//! prepared records as it asks for. A benchmark measures against it what the store adds.
//!
//! What it deliberately does not do: keep, check, or answer any other call.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

use super::{
    encoded::{ReadResponse, TailResponse, TailSessionResponse},
    generated::stream_service_server::{StreamService, StreamServiceServer},
    server::{REQUEST_BYTES_MAX, ServeError, transport},
};
use crate::{
    engine::Records,
    format::wire::{RecordFields, put_record},
    proto::{append_session_request::Message, *},
    record::{Index, Seq, StreamNo},
};

/// Records of one item of a tail.
pub const ITEM_RECORDS: u64 = 1_000;

/// Answers on `listener` for ever. Records of tails have bodies of `record_bytes`.
///
/// # Errors
/// What the transport could not do.
pub async fn serve(listener: TcpListener, record_bytes: usize) -> Result<(), ServeError> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let echo = StreamServiceServer::new(Echo { records: records(record_bytes) });
    let echo = echo.max_decoding_message_size(REQUEST_BYTES_MAX);
    Ok(transport().add_service(echo).serve_with_incoming(incoming).await?)
}

/// The records of an item, encoded as the store does.
fn records(record_bytes: usize) -> Bytes {
    let (mut out, data) = (BytesMut::new(), vec![b'x'; record_bytes]);
    for n in 0..ITEM_RECORDS {
        let fields = RecordFields {
            stream: StreamNo(1),
            seq: Seq(n),
            index: Index(n),
            time_ms: 1 << 40,
            kind: Kind::Unspecified,
            headers: &[],
            id: "",
            client_time_ms: 0,
            event: None,
            data: &data,
        };
        put_record(&mut out, &fields);
    }
    out.freeze()
}

fn applied(records: usize) -> AppendResponse {
    AppendResponse {
        first_seq: 1 << 20,
        first_index: 1 << 20,
        count: records as u32,
        next_seq: (1 << 20) + records as u64,
        next_index: (1 << 20) + records as u64,
        time_ms: 1 << 40,
        run_uid: Bytes::from_static(&[7; 16]),
        ..AppendResponse::default()
    }
}

/// The service.
#[derive(Debug)]
struct Echo {
    records: Bytes,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this server answers appends and tails only, and keeps nothing"))
}

#[tonic::async_trait]
impl StreamService for Echo {
    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        Ok(Response::new(applied(request.into_inner().records.len())))
    }

    type AppendSessionStream = Answers<AppendSessionResponse>;

    async fn append_session(
        &self,
        request: Request<Streaming<AppendSessionRequest>>,
    ) -> Result<Response<Self::AppendSessionStream>, Status> {
        let mut ordinal = 0;
        let answers = request.into_inner().filter_map(move |message| match message {
            Ok(AppendSessionRequest { message: Some(Message::Batch(batch)), lane }) => {
                let appended = Some(applied(batch.records.len()));
                let answer = AppendSessionResponse { ordinal, appended, lane, ended: None };
                ordinal += 1;
                Some(Ok(answer))
            }
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type TailStream = Answers<TailResponse>;

    async fn tail(
        &self,
        request: Request<TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let wanted = request.into_inner().bounds.map_or(0, |bounds| bounds.records);
        let (bytes, items) = (self.records.clone(), wanted.div_ceil(ITEM_RECORDS));
        let item = move |_| {
            let records = Records { pieces: vec![bytes.clone()], count: ITEM_RECORDS };
            Ok(TailResponse { records, cursor: "x".repeat(64), ..TailResponse::default() })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter((0..items).map(item)))))
    }

    type TailSessionStream = Answers<TailSessionResponse>;

    async fn tail_session(
        &self,
        _: Request<Streaming<TailSessionRequest>>,
    ) -> Result<Response<Self::TailSessionStream>, Status> {
        not_here()
    }

    async fn close_stream(
        &self,
        _: Request<CloseStreamRequest>,
    ) -> Result<Response<CloseStreamResponse>, Status> {
        not_here()
    }

    async fn trim(&self, _: Request<TrimRequest>) -> Result<Response<TrimResponse>, Status> {
        not_here()
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        not_here()
    }

    async fn check_tail(
        &self,
        _: Request<CheckTailRequest>,
    ) -> Result<Response<CheckTailResponse>, Status> {
        not_here()
    }

    async fn list_streams(
        &self,
        _: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        not_here()
    }
}
