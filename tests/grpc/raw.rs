//! Calls as any other gRPC client would make them: messages of the protocol, and statuses.

use braidlog::{
    Error,
    grpc::{
        codec::MessageCodec,
        status::{Call, DOMAIN, from_status},
    },
};
use prost::Message;
use std::collections::HashMap;
use tokio_stream::Stream;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

pub(crate) async fn connect(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).expect("url").connect().await.expect("connects")
}

/// A connection whose calls take so many bytes ahead of whoever reads them.
pub(crate) async fn connect_with_window(url: &str, bytes: u32) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("url");
    endpoint.initial_stream_window_size(bytes).connect().await.expect("connects")
}

async fn ready(channel: &Channel) -> Grpc<Channel> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    grpc
}

fn path(method: &str) -> PathAndQuery {
    format!("/braidlog.v1.{method}").parse().expect("path")
}

pub(crate) async fn unary<Q, A>(channel: &Channel, method: &str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let codec = MessageCodec::<Q, A>::default();
    let answer = ready(channel).await.unary(Request::new(request), path(method), codec).await;
    answer.map(|answer| answer.into_inner())
}

pub(crate) async fn server_streaming<Q, A>(
    channel: &Channel,
    method: &str,
    request: Q,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let codec = MessageCodec::<Q, A>::default();
    let mut grpc = ready(channel).await;
    let answer = grpc.server_streaming(Request::new(request), path(method), codec).await;
    answer.map(|answer| answer.into_inner())
}

pub(crate) async fn bidirectional<Q, A>(
    channel: &Channel,
    method: &str,
    requests: impl Stream<Item = Q> + Send + 'static,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let codec = MessageCodec::<Q, A>::default();
    let answer = ready(channel).await.streaming(Request::new(requests), path(method), codec).await;
    answer.map(|answer| answer.into_inner())
}

/// Everything a call answers, and how it ends.
pub(crate) async fn outcome<A>(mut answers: Streaming<A>) -> (Vec<A>, Result<(), Status>) {
    let mut found = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(answer)) => found.push(answer),
            Ok(None) => return (found, Ok(())),
            Err(status) => return (found, Err(status)),
        }
    }
}

/// What a status says to programs: code, reason and values.
pub(crate) fn reason(status: &Status) -> (Code, String, HashMap<String, String>) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(info.domain, DOMAIN);
    (status.code(), info.reason, info.metadata)
}

/// The refusal in a status, as text.
pub(crate) fn problem(status: &Status) -> String {
    match from_status(status, Call::Command) {
        Error::Refused(refusal) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}
