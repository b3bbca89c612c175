//! The wire ceiling: the calls of a store, with the same messages, connections and calls in flight,
//! to a service that keeps nothing.
//!
//! Both sides are bare: the service is [`echo`](crate::grpc::echo), in a process of its own, and
//! here are the transport's own calls, without what a client adds to be safe.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use crate::cli::failure::{Exit, Failure};
use crate::{
    grpc::{codec::MessageCodec, encoded::TailResponse},
    proto::{
        AppendRecord, AppendRequest, AppendResponse, AppendSessionRequest, AppendSessionResponse,
        Bounds, SessionBatch, SessionOpen, TailRequest, append_session_request::Message,
    },
};

/// Bytes in flight on one call and on one connection, as the store's client has it.
const WINDOW_BYTES: (u32, u32) = (512 << 10, 1 << 30);
/// Messages that are handed to the connection ahead of what it has sent, as there.
const SEND_AHEAD: usize = 64;
/// Number of a lane that is as long as most.
const LANE: u32 = 16;

/// A connection.
pub(super) type Wire = Channel;

/// Connects with the settings of the store's client.
pub(super) fn connect(address: SocketAddr) -> Result<Wire, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| Failure::usage(error.to_string()))?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1);
    Ok(endpoint.connect_lazy())
}

fn failed(status: &Status) -> Failure {
    let message = format!("the bare service: {status}");
    Failure { exit: Exit::Failure, reason: "WIRE", message }
}

fn path(call: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(call)
}

async fn ready(wire: &Wire) -> Result<Grpc<Channel>, Failure> {
    let mut grpc = Grpc::new(wire.clone()).max_decoding_message_size(16 << 20);
    let made = grpc.ready().await;
    made.map_err(|error| failed(&Status::unavailable(error.to_string())))?;
    Ok(grpc)
}

/// One append, as a call of its own.
pub(super) async fn append(wire: &Wire, run: &str, body: AppendRecord) -> Result<(), Failure> {
    let request = AppendRequest {
        run_id: run.into(),
        stream: "out".into(),
        records: vec![body],
        create_run: true,
        ..AppendRequest::default()
    };
    let codec = MessageCodec::<AppendRequest, AppendResponse>::default();
    let path = path("/braidlog.v1.StreamService/Append");
    let answer = ready(wire).await?.unary(Request::new(request), path, codec).await;
    answer.map(drop).map_err(|status| failed(&status))
}

/// A session of appends.
pub(super) struct Session {
    outgoing: mpsc::Sender<AppendSessionRequest>,
    answers: Streaming<AppendSessionResponse>,
    seq: u64,
}

impl Session {
    pub(super) async fn open(wire: &Wire, run: &str) -> Result<Self, Failure> {
        let (outgoing, messages) = mpsc::channel(SEND_AHEAD);
        let open = SessionOpen {
            run_id: run.into(),
            create_run: true,
            stream: "out".into(),
            producer_id: "0123456789abcdef".into(),
            ..SessionOpen::default()
        };
        let open = AppendSessionRequest { message: Some(Message::Open(open)), lane: LANE };
        outgoing.try_send(open).expect("the channel has room for the first message");
        let codec = MessageCodec::<AppendSessionRequest, AppendSessionResponse>::default();
        let path = path("/braidlog.v1.StreamService/AppendSession");
        let messages = Request::new(ReceiverStream::new(messages));
        let answers = ready(wire).await?.streaming(messages, path, codec).await;
        let answers = answers.map_err(|status| failed(&status))?.into_inner();
        Ok(Self { outgoing, answers, seq: 0 })
    }

    pub(super) async fn submit(&mut self, records: Vec<AppendRecord>) -> Result<(), Failure> {
        let producer_seq = self.seq;
        self.seq += 1;
        let batch = SessionBatch { records, producer_seq, ..SessionBatch::default() };
        let message = AppendSessionRequest { message: Some(Message::Batch(batch)), lane: LANE };
        let gone = |_| failed(&Status::unavailable("the session ended"));
        self.outgoing.send(message).await.map_err(gone)
    }

    pub(super) async fn acknowledged(&mut self) -> Result<(), Failure> {
        match self.answers.message().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(failed(&Status::unavailable("the session ended"))),
            Err(status) => Err(failed(&status)),
        }
    }
}

/// Reads so many records of a tail.
pub(super) async fn read(wire: &Wire, records: u64) -> Result<u64, Failure> {
    let request = TailRequest {
        bounds: Some(Bounds { records, ..Bounds::default() }),
        ..TailRequest::default()
    };
    let codec = MessageCodec::<TailRequest, TailResponse>::default();
    let path = path("/braidlog.v1.StreamService/Tail");
    let tail = ready(wire).await?.server_streaming(Request::new(request), path, codec).await;
    let mut tail = tail.map_err(|status| failed(&status))?.into_inner();
    let mut count = 0;
    while let Some(message) = tail.message().await.map_err(|status| failed(&status))? {
        count += message.records.count;
    }
    Ok(count)
}
