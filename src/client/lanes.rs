//! Sessions that the appenders of a client share, or its tails: a lane for each.
//!
//! One call carries the messages of many, so that a thousand runs cost the connection no more than
//! one, and what is ready at the same time goes out, and comes back, together. A session begins with
//! its first lane and ends with its last. When it breaks, every lane is told, and opens another in
//! the next session; what to send again, or where to go on, is its owner's business.
//!
//! Whoever sends much does not hold up the others: few bytes wait ahead of the connection, and room
//! for more is given in the order in which it was asked for. Whoever does not take what comes holds
//! nobody up either, and has to bound what it lets come; heartbeats do not pile up.
//!
//! What it deliberately does not do: repeat, number, or keep anything.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        watch,
    },
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Response, Status, Streaming};

use super::link::{Generation, Link, Streams};
use crate::proto::LaneEnd;

/// Messages that are handed to the connection ahead of what it has sent.
const SEND_AHEAD: usize = 64;
/// Bytes of records in those: a larger batch goes alone.
const SEND_AHEAD_BYTES: u32 = 256 << 10;
/// Lanes of a session: a quarter of what the server takes.
const LANES_MAX: usize = 1_024;

/// Number of a lane in its session.
pub(super) type LaneNo = u32;

/// A call that has lanes.
pub(super) trait Laned: fmt::Debug + Send + Sync + 'static {
    /// What is said on a lane.
    type Message: Send;
    /// What goes out: a message, and its lane.
    type Request: fmt::Debug + Send + 'static;
    /// What comes back.
    type Answer: fmt::Debug + Send + 'static;

    /// Makes the call.
    fn call(
        streams: Streams,
        requests: impl Stream<Item = Self::Request> + Send + 'static,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Answer>>, Status>> + Send;

    /// A message on a lane.
    fn on(lane: LaneNo, message: Self::Message) -> Self::Request;

    /// The message that a lane is not used any more.
    fn close() -> Self::Message;

    /// Whose answer it is, and what ends the lane if it does.
    fn lane(answer: &mut Self::Answer) -> (LaneNo, Option<LaneEnd>);

    /// Whether it only says that the server is there, and is left out while another waits.
    fn is_heartbeat(answer: &Self::Answer) -> bool;
}

/// What goes out, and the room that it takes until the connection has it.
type Sent<C> = (<C as Laned>::Request, Option<OwnedSemaphorePermit>);
type Told<C> = Result<<C as Laned>::Answer, Status>;

/// Where what comes for a lane waits for whoever takes it.
#[derive(Debug)]
struct Inbox<C: Laned> {
    // Boxed: a channel has room for a few dozen of what is sent through it, which are large.
    told: mpsc::UnboundedSender<Box<Told<C>>>,
    /// Whether a heartbeat waits.
    heartbeat: Arc<AtomicBool>,
}

impl<C: Laned> Inbox<C> {
    fn put(&self, told: Told<C>) {
        let is_heartbeat = told.as_ref().is_ok_and(C::is_heartbeat);
        if is_heartbeat && self.heartbeat.swap(true, Ordering::Relaxed) {
            return;
        }
        // Who has gone does not care any more.
        _ = self.told.send(Box::new(told));
    }
}

/// The session that new lanes are opened in.
#[derive(Debug)]
pub(super) struct Lanes<C: Laned> {
    // A plain mutex: no await inside. The session belongs to its lanes.
    current: Mutex<Weak<Session<C>>>,
}

impl<C: Laned> Default for Lanes<C> {
    fn default() -> Self {
        Self { current: Mutex::default() }
    }
}

/// A call, for as long as it has lanes.
#[derive(Debug)]
struct Session<C: Laned> {
    /// The connection it was begun on.
    generation: Generation,
    outgoing: mpsc::Sender<Sent<C>>,
    /// Bytes that may still be handed over.
    room: Arc<Semaphore>,
    /// Whether the server has taken the call; closed when it has ended.
    opened: watch::Receiver<bool>,
    /// Incoming that came.
    heard: Arc<AtomicU64>,
    table: Arc<Mutex<Table<C>>>,
}

/// Who is to be told what comes.
#[derive(Debug)]
struct Table<C: Laned> {
    // In order, so that the same events are told in the same order.
    lanes: BTreeMap<LaneNo, Inbox<C>>,
    next: LaneNo,
    /// Set when nothing more comes.
    over: Option<Status>,
}

impl<C: Laned> Default for Table<C> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), next: 1, over: None }
    }
}

impl<C: Laned> Lanes<C> {
    /// A lane of the session that is under way, or of a new one.
    pub(super) fn open(&self, link: &Link) -> Lane<C> {
        let (generation, streams) = link.streams();
        let mut current = self.current.lock();
        let joined = current.upgrade().filter(|session| session.generation == generation);
        if let Some(lane) = joined.and_then(Lane::join) {
            return lane;
        }
        let (outgoing, messages) = mpsc::channel(SEND_AHEAD);
        let (taken, opened) = watch::channel(false);
        let session = Arc::new(Session::new(generation, outgoing, opened));
        *current = Arc::downgrade(&session);
        let (heard, table) = (session.heard.clone(), session.table.clone());
        // Before the call is made, which may end at once.
        let lane = Lane::join(session).expect("a new session has room");
        tokio::spawn(carry(streams, messages, taken, heard, table));
        lane
    }
}

impl<C: Laned> Session<C> {
    fn new(
        generation: Generation,
        outgoing: mpsc::Sender<Sent<C>>,
        opened: watch::Receiver<bool>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(SEND_AHEAD_BYTES as usize));
        Self { generation, outgoing, room, opened, heard: Arc::default(), table: Arc::default() }
    }
}

/// Makes the call, and hands out what it answers until it ends.
async fn carry<C: Laned>(
    streams: Streams,
    messages: mpsc::Receiver<Sent<C>>,
    taken: watch::Sender<bool>,
    heard: Arc<AtomicU64>,
    table: Arc<Mutex<Table<C>>>,
) {
    let requests = ReceiverStream::new(messages).map(|(request, _room)| request);
    let status = match C::call(streams, requests).await {
        Err(status) => status,
        Ok(answers) => {
            taken.send_replace(true);
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => {
                        heard.fetch_add(1, Ordering::Relaxed);
                        table.lock().tell(answer);
                    }
                    Ok(None) => break Status::unavailable("the session has ended"),
                    Err(status) => break status,
                }
            }
        }
    };
    table.lock().end(&status);
}

impl<C: Laned> Table<C> {
    fn tell(&mut self, mut answer: C::Answer) {
        let (lane, end) = C::lane(&mut answer);
        if let Some(inbox) = self.lanes.get(&lane) {
            inbox.put(match end {
                Some(end) => Err(status_of(end)),
                None => Ok(answer),
            });
        }
    }

    fn end(&mut self, status: &Status) {
        self.over = Some(status.clone());
        for inbox in std::mem::take(&mut self.lanes).into_values() {
            inbox.put(Err(status.clone()));
        }
    }
}

fn status_of(end: LaneEnd) -> Status {
    Status::with_details(Code::from(end.code), end.message, end.details)
}

/// A way to append to one stream, or a tail. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Lane<C: Laned> {
    outgoing: Outgoing<C>,
    answers: Incoming<C>,
}

/// Where the messages of a lane go.
#[derive(Debug)]
pub(super) struct Outgoing<C: Laned> {
    session: Arc<Session<C>>,
    lane: LaneNo,
}

/// Where the answers of a lane come from.
#[derive(Debug)]
pub(super) struct Incoming<C: Laned> {
    told: mpsc::UnboundedReceiver<Box<Told<C>>>,
    heartbeat: Arc<AtomicBool>,
}

impl<C: Laned> Lane<C> {
    /// Another lane of a session; none if it is over or full.
    fn join(session: Arc<Session<C>>) -> Option<Self> {
        let (sender, told) = mpsc::unbounded_channel();
        let heartbeat = Arc::<AtomicBool>::default();
        let lane = {
            let mut table = session.table.lock();
            if table.over.is_some() || LANES_MAX <= table.lanes.len() {
                return None;
            }
            let lane = table.next;
            table.next = lane.checked_add(1)?;
            table.lanes.insert(lane, Inbox { told: sender, heartbeat: heartbeat.clone() });
            lane
        };
        Some(Self { outgoing: Outgoing { session, lane }, answers: Incoming { told, heartbeat } })
    }

    /// The connection that the session was begun on.
    pub(super) fn generation(&self) -> Generation {
        self.outgoing.session.generation
    }

    /// Incoming that came on the session, of whatever lane.
    pub(super) fn heard(&self) -> u64 {
        self.outgoing.session.heard.load(Ordering::Relaxed)
    }

    /// Waits until the server has taken the call, and says what the lane is for. If the session ends
    /// before, the answers say why.
    pub(super) async fn begin(&self, open: C::Message) {
        let Outgoing { session, lane } = &self.outgoing;
        let mut opened = session.opened.clone();
        if opened.wait_for(|is_open| *is_open).await.is_ok() {
            _ = session.outgoing.send((C::on(*lane, open), None)).await;
        }
    }

    /// Both ways, to be waited for at the same time.
    pub(super) fn halves(&mut self) -> (&Outgoing<C>, &mut Incoming<C>) {
        (&self.outgoing, &mut self.answers)
    }
}

impl<C: Laned> Outgoing<C> {
    /// Waits until the connection takes a message with so many bytes of records; none if the session
    /// has ended.
    pub(super) async fn reserve(&self, bytes: usize) -> Option<Slot<'_, C>> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, SEND_AHEAD_BYTES);
        // First a place, which tells when the session has ended.
        let place = self.session.outgoing.reserve().await.ok()?;
        let room = tokio::select! {
            room = self.session.room.clone().acquire_many_owned(bytes) => room.ok()?,
            () = self.session.outgoing.closed() => return None,
        };
        Some(Slot { place, room, lane: self.lane })
    }
}

/// Room for one message.
pub(super) struct Slot<'a, C: Laned> {
    place: mpsc::Permit<'a, Sent<C>>,
    room: OwnedSemaphorePermit,
    lane: LaneNo,
}

impl<C: Laned> Slot<'_, C> {
    pub(super) fn send(self, message: C::Message) {
        self.place.send((C::on(self.lane, message), Some(self.room)));
    }
}

impl<C: Laned> Incoming<C> {
    /// The next answer. Dropping the future loses none.
    ///
    /// # Errors
    /// The status that the lane, or the session, has ended with.
    pub(super) async fn next(&mut self) -> Told<C> {
        match self.told.recv().await {
            Some(told) => {
                if told.as_ref().as_ref().is_ok_and(C::is_heartbeat) {
                    self.heartbeat.store(false, Ordering::Relaxed);
                }
                *told
            }
            None => Err(Status::unavailable("the session has ended")),
        }
    }
}

impl<C: Laned> Drop for Outgoing<C> {
    fn drop(&mut self) {
        self.session.table.lock().lanes.remove(&self.lane);
        let close = (C::on(self.lane, C::close()), None);
        let outgoing = &self.session.outgoing;
        // The server keeps a lane until it is told. Without a runtime the connection ends as well.
        if let Err(TrySendError::Full(close)) = outgoing.try_send(close)
            && let Ok(runtime) = Handle::try_current()
        {
            let outgoing = outgoing.clone();
            runtime.spawn(async move { _ = outgoing.send(close).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context, task::Poll, task::Waker};

    use super::*;
    use crate::{
        client::{ClientOptions, appender::Appends, follow::Tails},
        grpc::encoded::{TailResponse, TailSessionResponse},
        proto::{Heartbeat, SessionBatch, append_session_request::Message},
    };

    fn batch() -> Message {
        Message::Batch(SessionBatch::default())
    }

    fn polled<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn few_bytes_wait_ahead_of_the_connection_and_room_for_more_is_given_in_turn() {
        let (outgoing, mut messages) = mpsc::channel(SEND_AHEAD);
        let (_taken, opened) = watch::channel(true);
        let session = Arc::new(Session::<Appends>::new(0, outgoing, opened));
        let busy = Lane::join(session.clone()).expect("room");
        let other = Lane::join(session).expect("room");

        let large = 4 * SEND_AHEAD_BYTES as usize;
        let slot = busy.outgoing.reserve(large).await.expect("a place");
        slot.send(batch());
        let mut again = pin!(busy.outgoing.reserve(large));
        let mut small = pin!(other.outgoing.reserve(1));
        assert!(polled(again.as_mut()).is_pending());
        assert!(polled(small.as_mut()).is_pending());

        drop(messages.recv().await);
        assert!(polled(small.as_mut()).is_pending(), "the other asked first");
        let Poll::Ready(Some(slot)) = polled(again) else { panic!("nobody is before it") };
        slot.send(batch());
        assert!(polled(small.as_mut()).is_pending());
        drop(messages.recv().await);
        let Poll::Ready(Some(slot)) = polled(small) else { panic!("behind one batch, not two") };
        slot.send(batch());
        assert_eq!(messages.recv().await.expect("it").0.lane, other.outgoing.lane);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told_that_the_session_has_ended() {
        let (outgoing, messages) = mpsc::channel(SEND_AHEAD);
        let (_taken, opened) = watch::channel(true);
        let session = Session::<Appends>::new(0, outgoing, opened);
        let _taken = session.room.clone().acquire_many_owned(SEND_AHEAD_BYTES).await;
        let lane = Lane::join(Arc::new(session)).expect("room");
        let mut waiting = pin!(lane.outgoing.reserve(1));
        assert!(polled(waiting.as_mut()).is_pending());
        drop(messages);
        assert!(matches!(polled(waiting), Poll::Ready(None)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_that_ends_at_once_is_told_to_its_lane() {
        let connect =
            |_| async { Err::<tokio::io::DuplexStream, _>(std::io::Error::other("away")) };
        let link = Link::over(connect, "http://away", &ClientOptions::default()).expect("link");
        let lanes = Lanes::<Appends>::default();
        for _ in 0..500 {
            let mut lane = lanes.open(&link);
            let answer = lane.halves().1.next().await;
            assert_eq!(answer.expect_err("nobody is there").code(), Code::Unavailable);
        }
    }
    #[tokio::test]
    async fn heartbeats_that_nobody_takes_do_not_pile_up_and_nothing_else_is_left_out() {
        let (outgoing, _messages) = mpsc::channel(SEND_AHEAD);
        let (_taken, opened) = watch::channel(true);
        let session = Arc::new(Session::<Tails>::new(0, outgoing, opened));
        let mut lane = Lane::join(session.clone()).expect("room");
        let no = lane.outgoing.lane;
        let item = |next_seq, heartbeat| TailResponse { next_seq, heartbeat, ..Default::default() };
        let tell = |item| {
            let answer = TailSessionResponse { lane: no, item: Some(item), ended: None };
            session.table.lock().tell(answer);
        };
        for round in 0..3 {
            for n in 0..100 {
                tell(item(n, Some(Heartbeat { tail: n, time_ms: 0 })));
            }
            tell(item(1_000, None));
            tell(item(2_000, None));
            tell(item(3_000, Some(Heartbeat::default())));
            let mut taken = Vec::new();
            while let Poll::Ready(told) = polled(pin!(lane.answers.next())) {
                taken.push(told.expect("an item").item.expect("an item").next_seq);
            }
            assert_eq!(taken, [0, 1_000, 2_000], "round {round}");
        }
    }
}
