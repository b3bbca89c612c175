//! A tail session: the tails of many runs over one call.
//!
//! One object takes what the client asks for and hands out what the lanes have, without a task or a
//! queue between: it is polled when the connection can take more. Of the lanes only those are looked
//! at for which something has happened, each for one message before the next. So a commit that a
//! thousand of them were waiting for wakes one task, and goes out in a few large writes.
//!
//! A lane is a tail of its own: it begins without the others waiting for it, says itself that it is
//! alive, and ends by itself. A client that gives it a window is sent that much of it and then, until
//! it has read some, only heartbeats; so what one of its readers leaves lying does not stand before
//! what another waits for.
//!
//! When the server stops, the session ends with a status and no lane with an end: every item says
//! where to resume.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::{stream::SelectAll, task::AtomicWaker};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming, codegen::tokio_stream::Stream};

use super::{
    edge,
    encoded::{TailResponse, TailSessionResponse},
    lane::{LANES_MAX, LaneNo, lane_end},
    status::to_status,
    steps::{After, Step, Steps},
    tail::Follower,
};
use crate::{
    core::Refusal,
    engine::Store,
    error::Error,
    proto::{TailOpen, TailRequest, TailSessionRequest, tail_session_request::Message},
};

/// Messages of lanes, after which the client is listened to although there are more; and messages of
/// the client, after which the lanes are looked at.
const MESSAGES_IN_TURN: u32 = 32;

/// The messages of a session, and its status.
pub(super) struct TailSession {
    store: Store,
    /// None when the client has said all it wants to say.
    requests: Option<Streaming<TailSessionRequest>>,
    lanes: SelectAll<Steps<Lane>>,
    /// The lanes that have not ended.
    allowances: HashMap<LaneNo, Arc<Allowance>>,
    /// Messages that may still go out before the client is listened to.
    turn: u32,
    over: bool,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl TailSession {
    /// Serves a session until it ends or `drain` is cancelled.
    pub(super) fn new(
        store: Store,
        requests: Streaming<TailSessionRequest>,
        drain: CancellationToken,
    ) -> Self {
        Self {
            store,
            requests: Some(requests),
            lanes: SelectAll::new(),
            allowances: HashMap::new(),
            turn: 0,
            over: false,
            drain: Box::pin(drain.cancelled_owned()),
        }
    }

    /// The next message of a lane; pending also if there are none.
    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> Poll<TailSessionResponse> {
        loop {
            match Pin::new(&mut self.lanes).poll_next(cx) {
                // It was given up.
                Poll::Ready(Some(Ok(None))) => {}
                Poll::Ready(Some(Ok(Some(message)))) => {
                    if message.ended.is_some() || message.item.as_ref().is_some_and(is_last) {
                        self.allowances.remove(&message.lane);
                    }
                    return Poll::Ready(message);
                }
                Poll::Ready(Some(Err(status))) => unreachable!("a lane gives no status: {status}"),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Does what the client has asked for; gives what that is answered with at once.
    fn poll_requests(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<TailSessionResponse>, Status>> {
        let Some(requests) = &mut self.requests else { return Poll::Pending };
        match ready!(Pin::new(requests).poll_next(cx)) {
            None => self.requests = None,
            Some(Err(status)) => return Poll::Ready(Err(edge::with_reason(status))),
            Some(Ok(TailSessionRequest { lane, message })) => {
                if let Err(refusal) = self.take(lane, message) {
                    self.give_up(lane);
                    let ended = Some(lane_end(&to_status(&refusal.into())));
                    return Poll::Ready(Ok(Some(TailSessionResponse { lane, item: None, ended })));
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    fn take(&mut self, lane: LaneNo, message: Option<Message>) -> Result<(), Refusal> {
        match message {
            Some(Message::Open(open)) => self.open(lane, open)?,
            // One that has ended is not known any more, and its client need not know yet.
            Some(Message::Read(read)) => {
                if let Some(allowance) = self.allowances.get(&lane) {
                    allowance.extend(read.bytes);
                }
            }
            Some(Message::Close(_)) => self.give_up(lane),
            None => {
                let problem = "is neither open, nor read, nor close";
                return Err(Refusal::invalid("message", problem));
            }
        }
        Ok(())
    }

    fn give_up(&mut self, lane: LaneNo) {
        if let Some(allowance) = self.allowances.remove(&lane) {
            allowance.give_up();
        }
    }

    fn open(&mut self, number: LaneNo, open: TailOpen) -> Result<(), Refusal> {
        let count = self.allowances.len();
        let vacant = match self.allowances.entry(number) {
            Entry::Occupied(_) => {
                return Err(Refusal::invalid("open", "came before: it is sent once"));
            }
            Entry::Vacant(_) if LANES_MAX <= count => {
                let limit = LANES_MAX as u64;
                return Err(Refusal::Limit { which: "lanes per session".into(), limit });
            }
            Entry::Vacant(vacant) => vacant,
        };
        let request =
            open.tail.ok_or_else(|| Refusal::invalid("tail", "is missing: say what to follow"))?;
        let allowance = Arc::new(Allowance::new(open.window_bytes));
        vacant.insert(allowance.clone());
        let tail = Tail::New(self.store.clone(), Box::new(request));
        self.lanes.push(Steps::new(Lane { number, allowance, sent: 0, tail }));
        Ok(())
    }
}

fn is_last(item: &TailResponse) -> bool {
    item.end.is_some()
}

impl Stream for TailSession {
    type Item = Result<TailSessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut taken = 0;
        loop {
            if 0 < self.turn {
                self.turn -= 1;
                if let Poll::Ready(message) = self.poll_lanes(cx) {
                    return Poll::Ready(Some(Ok(message)));
                }
            }
            // Whoever was pending before may have something after a request.
            match self.poll_requests(cx) {
                Poll::Ready(Ok(None)) if taken < MESSAGES_IN_TURN => {
                    taken += 1;
                    continue;
                }
                // There may be more.
                Poll::Ready(Ok(None)) => cx.waker().wake_by_ref(),
                Poll::Ready(Ok(Some(message))) => return Poll::Ready(Some(Ok(message))),
                Poll::Ready(Err(status)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Pending => {}
            }
            if self.drain.as_mut().poll(cx).is_ready() {
                self.over = true;
                return Poll::Ready(Some(Err(to_status(&Error::ShuttingDown))));
            }
            self.turn = MESSAGES_IN_TURN;
            if let Poll::Ready(message) = self.poll_lanes(cx) {
                return Poll::Ready(Some(Ok(message)));
            }
            if self.requests.is_none() && self.lanes.is_empty() {
                self.over = true;
                return Poll::Ready(None);
            }
            return Poll::Pending;
        }
    }
}

/// How much of a lane may be sent, told by the session to the lane.
struct Allowance {
    /// Bytes since it began, or [`GIVEN_UP`].
    bytes: AtomicU64,
    lane: AtomicWaker,
}

/// What no number of bytes reaches.
const GIVEN_UP: u64 = u64::MAX;
/// As good as any number.
const UNBOUNDED: u64 = u64::MAX - 1;

impl Allowance {
    fn new(window_bytes: u64) -> Self {
        let bytes = if window_bytes == 0 { UNBOUNDED } else { window_bytes.min(UNBOUNDED) };
        Self { bytes: AtomicU64::new(bytes), lane: AtomicWaker::new() }
    }

    /// Only the session changes it.
    fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
        self.lane.wake();
    }

    fn extend(&self, bytes: u64) {
        self.set(self.bytes.load(Ordering::Relaxed).saturating_add(bytes).min(UNBOUNDED));
    }

    fn give_up(&self) {
        self.set(GIVEN_UP);
    }

    /// Bytes allowed; none if the lane was given up.
    fn now(&self) -> Option<u64> {
        let bytes = self.bytes.load(Ordering::Acquire);
        (bytes != GIVEN_UP).then_some(bytes)
    }

    /// Waits until it is not `bytes` any more.
    async fn changed(&self, bytes: u64) {
        poll_fn(|cx| {
            // Before the look, so that no change is missed.
            self.lane.register(cx.waker());
            if self.now() == Some(bytes) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

/// A tail of a session.
struct Lane {
    number: LaneNo,
    allowance: Arc<Allowance>,
    /// Bytes of records that were sent since it began.
    sent: u64,
    tail: Tail,
}

enum Tail {
    New(Store, Box<TailRequest>),
    Begun(Box<Follower>),
}

impl Step for Lane {
    /// None if the lane was given up.
    type Answer = Option<TailSessionResponse>;

    async fn next(&mut self) -> (Result<Self::Answer, Status>, After) {
        let lane = self.number;
        let (item, ended) = match self.message().await {
            None => return (Ok(None), After::Nothing),
            Some(Ok(item)) => (Some(item), None),
            Some(Err(status)) => (None, Some(lane_end(&status))),
        };
        let is_over = ended.is_some() || item.as_ref().is_some_and(is_last);
        let after = if is_over { After::Nothing } else { After::More };
        (Ok(Some(TailSessionResponse { lane, item, ended })), after)
    }
}

impl Lane {
    /// The next message, or the status of its end; none if the lane was given up.
    async fn message(&mut self) -> Option<Result<TailResponse, Status>> {
        loop {
            let allowed = self.allowance.now()?;
            let has_room = self.sent < allowed;
            let Self { allowance, tail, .. } = self;
            tokio::select! {
                biased;
                () = allowance.changed(allowed) => {}
                message = tail.next(has_room) => {
                    let bytes = message.as_ref().map_or(0, |item| item.records.len());
                    self.sent = self.sent.saturating_add(bytes as u64);
                    return Some(message);
                }
            }
        }
    }
}

impl Tail {
    async fn next(&mut self, has_room: bool) -> Result<TailResponse, Status> {
        if let Self::New(store, request) = self {
            let begun = Follower::begin(store.clone(), TailRequest::clone(request)).await;
            *self = Self::Begun(Box::new(begun.map_err(|error| to_status(&error))?));
        }
        let Self::Begun(follower) = self else { unreachable!("begun above") };
        match has_room {
            true => follower.next().await.map_err(|error| follower.status(&error)),
            false => Ok(follower.next_heartbeat().await),
        }
    }
}
