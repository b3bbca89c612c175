//! The body of a tail, or of many in a session: one message after the other, without buffers that last.
//!
//! A tail lives for hours and mostly waits; what it holds must be small. Large pieces of records
//! go out as they are, shared with the store and with every other subscriber; small ones are put
//! together in a buffer that lasts until the connection has taken it. The next message is asked
//! for only when the one before has gone. So a subscriber that does not read holds one message of
//! about 256 KiB, and one that waits holds nothing.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use http_body::Frame;
use parking_lot::Mutex;
use prost::Message;
use tonic::{
    Code, Status,
    body::Body,
    codec::HEADER_SIZE,
    codegen::{http, tokio_stream::Stream},
};

use super::encoded::{NO_RECORDS, TailResponse, TailSessionResponse};
use crate::engine::Records;

/// Pieces from here on go out as they are; smaller ones together, until they are as large. The
/// size of an HTTP/2 frame, so that nothing is split that need not be.
const CHUNK_BYTES: usize = 16 << 10;

/// A message whose records go out as they are.
pub(super) trait Pieced: Message {
    /// Writes what comes before the records; gives the records, and what comes behind them.
    fn take_apart(self, head: &mut Vec<u8>) -> (Records, Vec<u8>);
}

impl Pieced for TailResponse {
    fn take_apart(self, _: &mut Vec<u8>) -> (Records, Vec<u8>) {
        let behind = Self { records: NO_RECORDS, ..self };
        (self.records, behind.encode_to_vec())
    }
}

impl Pieced for TailSessionResponse {
    fn take_apart(self, head: &mut Vec<u8>) -> (Records, Vec<u8>) {
        self.put_head(head);
        self.item.map_or((NO_RECORDS, Vec::new()), |item| item.take_apart(head))
    }
}

/// A stream of messages as a body, and a status at its end.
pub(super) struct TailBody<S> {
    messages: S,
    /// Written, and not taken by the connection.
    buffer: Vec<u8>,
    /// What is still to be written of the message that was begun.
    pieces: VecDeque<Bytes>,
    fields: Vec<u8>,
    /// Set when there are no more messages.
    last: Option<Status>,
    over: bool,
}

impl<S, M> TailBody<S>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    M: Pieced,
{
    /// The body of an answer.
    pub(super) fn new(messages: S) -> Self {
        Self {
            messages,
            buffer: Vec::new(),
            pieces: VecDeque::new(),
            fields: Vec::new(),
            last: None,
            over: false,
        }
    }

    /// Begins a message: its gRPC header (not compressed, and its length), records, other fields.
    fn begin(&mut self, message: M) {
        let len = message.encoded_len();
        self.buffer.reserve(HEADER_SIZE + len.min(CHUNK_BYTES));
        self.buffer.put_u8(0);
        self.buffer.put_u32(u32::try_from(len).expect("a message is far smaller than 4 GiB"));
        let records;
        (records, self.fields) = message.take_apart(&mut self.buffer);
        self.pieces = records.pieces.into();
    }

    /// Goes on with the message that was begun; gives what has become large enough to go out.
    fn write_on(&mut self) -> Option<Bytes> {
        while let Some(piece) = self.pieces.pop_front() {
            if piece.len() < CHUNK_BYTES {
                self.buffer.extend_from_slice(&piece);
            } else if self.buffer.is_empty() {
                return Some(piece);
            } else {
                self.pieces.push_front(piece);
                return Some(self.take_buffer());
            }
            if CHUNK_BYTES <= self.buffer.len() {
                return Some(self.take_buffer());
            }
        }
        self.pieces = VecDeque::new();
        self.buffer.extend_from_slice(&mem::take(&mut self.fields));
        (CHUNK_BYTES <= self.buffer.len()).then(|| self.take_buffer())
    }

    fn take_buffer(&mut self) -> Bytes {
        mem::take(&mut self.buffer).into()
    }

    /// The next bytes; none after the last message, and then `last` is set.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(chunk) = self.write_on() {
                return Poll::Ready(Some(chunk));
            }
            let message = match &self.last {
                None => Pin::new(&mut self.messages).poll_next(cx),
                Some(_) => Poll::Pending,
            };
            match message {
                Poll::Ready(Some(Ok(message))) => self.begin(message),
                Poll::Ready(Some(Err(status))) => self.last = Some(status),
                Poll::Ready(None) => self.last = Some(Status::new(Code::Ok, "")),
                // Messages that are ready together go out together, and do not wait for more.
                Poll::Pending if !self.buffer.is_empty() => {
                    return Poll::Ready(Some(self.take_buffer()));
                }
                Poll::Pending if self.last.is_some() => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S, M> http_body::Body for TailBody<S>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    M: Pieced,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = self.get_mut();
        if body.over {
            return Poll::Ready(None);
        }
        if let Some(chunk) = std::task::ready!(body.poll_chunk(cx)) {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        body.over = true;
        let status = body.last.take().unwrap_or_else(|| Status::new(Code::Ok, ""));
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

/// Carries a body past generated code that would wrap it in a buffer that lasts.
#[derive(Clone)]
pub(super) struct Handoff(Arc<Mutex<Option<Body>>>);

impl Handoff {
    /// Hands over a body.
    pub(super) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Takes it, once.
    pub(super) fn take(self) -> Body {
        self.0.lock().take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Body as _;
    use tonic::codegen::tokio_stream;

    use super::*;
    use crate::proto::{self, LaneEnd};

    /// Gives messages, and says how many were asked for.
    struct Messages<M> {
        left: VecDeque<Result<M, Status>>,
        asked: usize,
    }

    impl<M: Unpin> Stream for Messages<M> {
        type Item = Result<M, Status>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.asked += 1;
            self.left.pop_front().map_or(Poll::Pending, |message| Poll::Ready(Some(message)))
        }
    }

    /// A record of so many bytes, as a piece.
    fn piece(len: usize) -> Bytes {
        let record = proto::Record { data: vec![7; len].into(), ..Default::default() };
        proto::ReadResponse { records: vec![record], ..Default::default() }.encode_to_vec().into()
    }

    fn message(pieces: Vec<Bytes>) -> TailResponse {
        let records = Records { count: pieces.len() as u64, pieces };
        TailResponse { records, cursor: "cursor".into(), next_seq: 9, ..Default::default() }
    }

    /// The next chunk; none if the body waits.
    fn chunk<S, M>(body: &mut TailBody<S>) -> Option<Bytes>
    where
        S: Stream<Item = Result<M, Status>> + Unpin,
        M: Pieced,
    {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => Some(frame.into_data().expect("data")),
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => None,
        }
    }

    /// Whether the chunks of messages are what the messages are encoded to.
    fn assert_chunks_are<M: Pieced + Clone + Unpin + std::fmt::Debug>(messages: Vec<M>) {
        let left = messages.iter().cloned().map(Ok).collect();
        let mut body = TailBody::new(Messages { left, asked: 0 });
        let mut found = Vec::new();
        while let Some(chunk) = chunk(&mut body) {
            assert!(!chunk.is_empty());
            found.extend_from_slice(&chunk);
        }
        let mut expected = Vec::new();
        for message in &messages {
            expected.put_u8(0);
            expected.put_u32(u32::try_from(message.encoded_len()).expect("small"));
            message.encode(&mut expected).expect("encoded");
        }
        assert!(found == expected, "{messages:?}");
    }

    #[test]
    fn chunks_are_the_messages_whatever_the_pieces() {
        for sizes in
            [&[][..], &[1], &[100; 400], &[40_000, 10, 40_000], &[10, 20_000, 10, 9_000, 9_000]]
        {
            let message = || message(sizes.iter().map(|&len| piece(len)).collect());
            assert_chunks_are((0..3).map(|_| message()).collect());
            let of_lane = |lane| TailSessionResponse { lane, item: Some(message()), ended: None };
            let mut messages: Vec<_> = (0..3).map(of_lane).collect();
            let ended = LaneEnd { code: 5, message: "gone".into(), details: Bytes::new() };
            let ended = TailSessionResponse { lane: 7, item: None, ended: Some(ended) };
            messages.insert(1, ended);
            assert_chunks_are(messages);
        }
    }

    #[test]
    fn large_pieces_are_not_copied_and_the_next_message_is_not_asked_for_early() {
        let pieces = vec![piece(40_000), piece(50_000)];
        let left = [Ok(message(pieces.clone())), Ok(message(pieces.clone()))].into();
        let mut body = TailBody::new(Messages { left, asked: 0 });
        assert_eq!(chunk(&mut body).expect("header").len(), HEADER_SIZE);
        for piece in &pieces {
            assert_eq!(chunk(&mut body).expect("piece").as_ptr(), piece.as_ptr());
            assert_eq!(body.messages.asked, 1);
        }
    }

    #[test]
    fn what_waits_holds_nothing() {
        let left = [Ok(message(vec![piece(10); 5_000]))].into();
        let mut body = TailBody::new(Messages { left, asked: 0 });
        while chunk(&mut body).is_some() {}
        assert_eq!((body.buffer.capacity(), body.fields.capacity()), (0, 0));
        assert_eq!(body.pieces.capacity(), 0);
    }

    #[test]
    fn a_body_ends_with_its_status() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut status = |messages: Vec<Result<TailResponse, Status>>| {
            let mut body = TailBody::new(tokio_stream::iter(messages));
            loop {
                match Pin::new(&mut body).poll_frame(&mut cx) {
                    Poll::Ready(Some(Ok(frame))) if frame.is_data() => {}
                    Poll::Ready(Some(Ok(frame))) => {
                        assert!(matches!(
                            Pin::new(&mut body).poll_frame(&mut cx),
                            Poll::Ready(None)
                        ));
                        let trailers = frame.into_trailers().expect("trailers");
                        return Status::from_header_map(&trailers).expect("status").code();
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(status(vec![Ok(message(Vec::new()))]), Code::Ok);
        assert_eq!(status(vec![Ok(message(Vec::new())), Err(Status::aborted(""))]), Code::Aborted);
    }
}
