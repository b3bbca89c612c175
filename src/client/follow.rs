//! Where the messages of a tail come from: a call of its own while it catches up, and then a lane of
//! a session that the tails of the client share.
//!
//! Catching up is much data for one, which has a stream of the connection to itself; following is
//! little for many, which is cheapest together. A tail that is not read is sent no more than
//! [`WINDOW_BYTES`] and one message, and holds up nobody.

use tokio_stream::Stream;
use tonic::{Response, Status, Streaming};

use super::{
    lanes::{Lane, LaneNo, Laned},
    link::Streams,
    live::Answers,
};
use crate::{
    grpc::encoded::{TailResponse, TailSessionResponse},
    proto::{
        LaneEnd, TailClose, TailOpen, TailRead, TailRequest, TailSessionRequest,
        tail_session_request::Message,
    },
};

/// Bytes of records that may come on a lane before they are read.
const WINDOW_BYTES: u64 = 64 << 10;

/// The call that carries tails.
#[derive(Debug)]
pub(super) struct Tails;

impl Laned for Tails {
    type Message = Message;
    type Request = TailSessionRequest;
    type Answer = TailSessionResponse;

    async fn call(
        mut streams: Streams,
        requests: impl Stream<Item = TailSessionRequest> + Send + 'static,
    ) -> Result<Response<Streaming<TailSessionResponse>>, Status> {
        streams.tail_session(requests).await
    }

    fn on(lane: LaneNo, message: Message) -> TailSessionRequest {
        TailSessionRequest { message: Some(message), lane }
    }

    fn close() -> Message {
        Message::Close(TailClose {})
    }

    fn lane(answer: &mut TailSessionResponse) -> (LaneNo, Option<LaneEnd>) {
        (answer.lane, answer.ended.take())
    }

    fn is_heartbeat(answer: &TailSessionResponse) -> bool {
        answer.item.as_ref().is_some_and(|item| item.heartbeat.is_some())
    }
}

/// What a tail is told.
#[derive(Debug)]
pub(super) enum Followed {
    Alone(Box<Streaming<TailResponse>>),
    Together(Following),
}

/// A lane, and what is still to be said on it.
#[derive(Debug)]
pub(super) struct Following {
    lane: Lane<Tails>,
    open: Option<Box<TailOpen>>,
    /// Bytes that were read.
    read: u64,
}

impl Followed {
    /// Follows by a call of its own.
    pub(super) async fn alone(mut streams: Streams, request: TailRequest) -> Result<Self, Status> {
        Ok(Self::Alone(Box::new(streams.tail(request).await?.into_inner())))
    }

    /// Follows over a lane. What the server says to that comes with the first answer.
    pub(super) fn together(lane: Lane<Tails>, request: TailRequest) -> Self {
        let open = TailOpen { tail: Some(request), window_bytes: WINDOW_BYTES };
        Self::Together(Following { lane, open: Some(Box::new(open)), read: 0 })
    }
}

impl Answers for Followed {
    type Answer = TailResponse;

    async fn next(&mut self) -> Result<Option<TailResponse>, Status> {
        match self {
            Self::Alone(answers) => answers.message().await,
            Self::Together(following) => following.next().await.map(Some),
        }
    }

    /// As long as one tail of a session is told that the server is there, all know it.
    fn heard(&self) -> u64 {
        match self {
            Self::Alone(_) => 0,
            Self::Together(following) => following.lane.heard(),
        }
    }
}

impl Following {
    async fn next(&mut self) -> Result<TailResponse, Status> {
        loop {
            let has_to_say = self.open.is_some() || WINDOW_BYTES / 2 <= self.read;
            let (outgoing, answers) = self.lane.halves();
            tokio::select! {
                biased;
                slot = outgoing.reserve(0), if has_to_say => {
                    let message = match self.open.take() {
                        Some(open) => Message::Open(*open),
                        None => Message::Read(TailRead { bytes: std::mem::take(&mut self.read) }),
                    };
                    // If the session has ended, the answers say why.
                    if let Some(slot) = slot {
                        slot.send(message);
                    }
                }
                answer = answers.next() => {
                    let nothing = || Status::internal("a message of a lane that holds nothing");
                    let item = answer?.item.ok_or_else(nothing)?;
                    self.read += item.records.len() as u64;
                    return Ok(item);
                }
            }
        }
    }
}
