//! Sessions that the appenders of a client share: a lane for each.
//!
//! One call carries the messages of many appenders, so that a thousand runs cost the connection no
//! more than one, and what is ready at the same time goes out, and comes back, together. A session
//! begins with its first lane and ends with its last. When it breaks, every lane is told, and opens
//! another in the next session; which batches to send again is its owner's business.
//!
//! Whoever appends much does not hold up the others: few bytes wait ahead of the connection, and room
//! for more is given in the order in which it was asked for.
//!
//! What it deliberately does not do: repeat, number, or keep anything.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
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
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};

use super::link::{Generation, Link, Streams};
use crate::proto::{
    AppendSessionRequest, AppendSessionResponse, LaneEnd, SessionBatch, SessionClose, SessionOpen,
    append_session_request::Message,
};

/// Messages that are handed to the connection ahead of what it has sent.
const SEND_AHEAD: usize = 64;
/// Bytes of records in those: a larger batch goes alone.
const SEND_AHEAD_BYTES: u32 = 256 << 10;
/// Lanes of a session: a quarter of what the server takes.
const LANES_MAX: usize = 1_024;

type LaneNo = u32;
/// What goes out, and the room that it takes until the connection has it.
type Sent = (AppendSessionRequest, Option<OwnedSemaphorePermit>);
type Answer = Result<AppendSessionResponse, Status>;

/// The session that new lanes are opened in.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    // A plain mutex: no await inside. The session belongs to its lanes.
    current: Mutex<Weak<Session>>,
}

/// A call, for as long as it has lanes.
#[derive(Debug)]
struct Session {
    /// The connection it was begun on.
    generation: Generation,
    outgoing: mpsc::Sender<Sent>,
    /// Bytes that may still be handed over.
    room: Arc<Semaphore>,
    /// Whether the server has taken the call; closed when it has ended.
    opened: watch::Receiver<bool>,
    table: Arc<Mutex<Table>>,
}

/// Who is to be told what comes.
#[derive(Debug, Default)]
struct Table {
    // In order, so that the same events are told in the same order.
    lanes: BTreeMap<LaneNo, mpsc::UnboundedSender<Answer>>,
    next: LaneNo,
    /// Set when nothing more comes.
    over: Option<Status>,
}

impl Lanes {
    /// A lane of the session that is under way, or of a new one.
    pub(super) fn open(&self, link: &Link) -> Lane {
        let (generation, streams) = link.streams();
        let mut current = self.current.lock();
        let joined = current.upgrade().filter(|session| session.generation == generation);
        if let Some(lane) = joined.and_then(Lane::join) {
            return lane;
        }
        let session = Arc::new(Session::begin(generation, streams));
        *current = Arc::downgrade(&session);
        Lane::join(session).expect("a new session has room")
    }
}

impl Session {
    fn begin(generation: Generation, streams: Streams) -> Self {
        let (outgoing, messages) = mpsc::channel(SEND_AHEAD);
        let (taken, opened) = watch::channel(false);
        let table = Arc::new(Mutex::new(Table { next: 1, ..Table::default() }));
        tokio::spawn(carry(streams, messages, taken, table.clone()));
        let room = Arc::new(Semaphore::new(SEND_AHEAD_BYTES as usize));
        Self { generation, outgoing, room, opened, table }
    }
}

/// Makes the call, and hands out what it answers until it ends.
async fn carry(
    mut streams: Streams,
    messages: mpsc::Receiver<Sent>,
    taken: watch::Sender<bool>,
    table: Arc<Mutex<Table>>,
) {
    let messages = ReceiverStream::new(messages).map(|(message, _room)| message);
    let status = match streams.append_session(messages).await {
        Err(status) => status,
        Ok(answers) => {
            taken.send_replace(true);
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => table.lock().tell(answer),
                    Ok(None) => break Status::unavailable("the session has ended"),
                    Err(status) => break status,
                }
            }
        }
    };
    table.lock().end(&status);
}

impl Table {
    fn tell(&mut self, answer: AppendSessionResponse) {
        // A lane that is gone does not care any more.
        let Some(lane) = self.lanes.get(&answer.lane) else { return };
        let answer = match answer.ended {
            Some(end) => Err(status_of(end)),
            None => Ok(answer),
        };
        _ = lane.send(answer);
    }

    fn end(&mut self, status: &Status) {
        self.over = Some(status.clone());
        for lane in std::mem::take(&mut self.lanes).into_values() {
            _ = lane.send(Err(status.clone()));
        }
    }
}

fn status_of(end: LaneEnd) -> Status {
    Status::with_details(Code::from(end.code), end.message, end.details)
}

/// A way to append to one stream. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Lane {
    outgoing: Outgoing,
    answers: Answers,
}

/// Where the messages of a lane go.
#[derive(Debug)]
pub(super) struct Outgoing {
    session: Arc<Session>,
    lane: LaneNo,
}

/// Where the answers of a lane come from.
#[derive(Debug)]
pub(super) struct Answers(mpsc::UnboundedReceiver<Answer>);

impl Lane {
    /// Another lane of a session; none if it is over or full.
    fn join(session: Arc<Session>) -> Option<Self> {
        let (told, answers) = mpsc::unbounded_channel();
        let lane = {
            let mut table = session.table.lock();
            if table.over.is_some() || LANES_MAX <= table.lanes.len() {
                return None;
            }
            let lane = table.next;
            table.next = lane.checked_add(1)?;
            table.lanes.insert(lane, told);
            lane
        };
        Some(Self { outgoing: Outgoing { session, lane }, answers: Answers(answers) })
    }

    /// Waits until the server has taken the call, and says what the lane appends to. If the session
    /// ends before, the answers say why.
    pub(super) async fn begin(&self, open: SessionOpen) {
        let Outgoing { session, lane } = &self.outgoing;
        let mut opened = session.opened.clone();
        if opened.wait_for(|is_open| *is_open).await.is_ok() {
            let message = Some(Message::Open(open));
            let open = AppendSessionRequest { message, lane: *lane };
            _ = session.outgoing.send((open, None)).await;
        }
    }

    /// Both ways, to be waited for at the same time.
    pub(super) fn halves(&mut self) -> (&Outgoing, &mut Answers) {
        (&self.outgoing, &mut self.answers)
    }
}

impl Outgoing {
    /// Waits until the connection takes a batch with so many bytes of records; none if the session
    /// has ended.
    pub(super) async fn reserve(&self, bytes: usize) -> Option<Slot<'_>> {
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

/// Room for one batch.
pub(super) struct Slot<'a> {
    place: mpsc::Permit<'a, Sent>,
    room: OwnedSemaphorePermit,
    lane: LaneNo,
}

impl Slot<'_> {
    pub(super) fn send(self, batch: SessionBatch) {
        let message = Some(Message::Batch(batch));
        let message = AppendSessionRequest { message, lane: self.lane };
        self.place.send((message, Some(self.room)));
    }
}

impl Answers {
    /// The next answer.
    ///
    /// # Errors
    /// The status that the lane, or the session, has ended with.
    pub(super) async fn next(&mut self) -> Answer {
        let gone = || Err(Status::unavailable("the session has ended"));
        self.0.recv().await.unwrap_or_else(gone)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.session.table.lock().lanes.remove(&self.lane);
        let message = Some(Message::Close(SessionClose {}));
        let close = (AppendSessionRequest { message, lane: self.lane }, None);
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

    fn polled<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn few_bytes_wait_ahead_of_the_connection_and_room_for_more_is_given_in_turn() {
        let (outgoing, mut messages) = mpsc::channel(SEND_AHEAD);
        let (_taken, opened) = watch::channel(true);
        let room = Arc::new(Semaphore::new(SEND_AHEAD_BYTES as usize));
        let session = Session { generation: 0, outgoing, room, opened, table: Arc::default() };
        let session = Arc::new(session);
        let busy = Lane::join(session.clone()).expect("room");
        let other = Lane::join(session).expect("room");

        let large = 4 * SEND_AHEAD_BYTES as usize;
        let slot = busy.outgoing.reserve(large).await.expect("a place");
        slot.send(SessionBatch::default());
        let mut again = pin!(busy.outgoing.reserve(large));
        let mut small = pin!(other.outgoing.reserve(1));
        assert!(polled(again.as_mut()).is_pending());
        assert!(polled(small.as_mut()).is_pending());

        drop(messages.recv().await);
        assert!(polled(small.as_mut()).is_pending(), "the other asked first");
        let Poll::Ready(Some(slot)) = polled(again) else { panic!("nobody is before it") };
        slot.send(SessionBatch::default());
        assert!(polled(small.as_mut()).is_pending());
        drop(messages.recv().await);
        let Poll::Ready(Some(slot)) = polled(small) else { panic!("behind one batch, not two") };
        slot.send(SessionBatch::default());
        assert_eq!(messages.recv().await.expect("it").0.lane, other.outgoing.lane);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told_that_the_session_has_ended() {
        let (outgoing, messages) = mpsc::channel(SEND_AHEAD);
        let (_taken, opened) = watch::channel(true);
        let room = Arc::new(Semaphore::new(0));
        let session = Session { generation: 0, outgoing, room, opened, table: Arc::default() };
        let lane = Lane::join(Arc::new(session)).expect("room");
        let mut waiting = pin!(lane.outgoing.reserve(1));
        assert!(polled(waiting.as_mut()).is_pending());
        drop(messages);
        assert!(matches!(polled(waiting), Poll::Ready(None)));
    }
}
