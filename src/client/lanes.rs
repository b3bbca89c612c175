//! Sessions that the appenders of a client share: a lane for each.
//!
//! One call carries the messages of many appenders, so that a thousand runs cost the connection no
//! more than one, and what is ready at the same time goes out, and comes back, together. A session
//! begins with its first lane and ends with its last. When it breaks, every lane is told, and opens
//! another in the next session; which batches to send again is its owner's business.
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
        mpsc::{self, error::TrySendError},
        watch,
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::link::{Generation, Link, Streams};
use crate::proto::{
    AppendSessionRequest, AppendSessionResponse, LaneEnd, SessionBatch, SessionClose, SessionOpen,
    append_session_request::Message,
};

/// Messages that are handed to the connection ahead of what it has sent.
const SEND_AHEAD: usize = 64;
/// Lanes of a session: a quarter of what the server takes.
const LANES_MAX: usize = 1_024;

type LaneNo = u32;
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
    outgoing: mpsc::Sender<AppendSessionRequest>,
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
        Self { generation, outgoing, opened, table }
    }
}

/// Makes the call, and hands out what it answers until it ends.
async fn carry(
    mut streams: Streams,
    messages: mpsc::Receiver<AppendSessionRequest>,
    taken: watch::Sender<bool>,
    table: Arc<Mutex<Table>>,
) {
    let status = match streams.append_session(ReceiverStream::new(messages)).await {
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
            _ = session.outgoing.send(AppendSessionRequest { message, lane: *lane }).await;
        }
    }

    /// Both ways, to be waited for at the same time.
    pub(super) fn halves(&mut self) -> (&Outgoing, &mut Answers) {
        (&self.outgoing, &mut self.answers)
    }
}

impl Outgoing {
    /// Waits until the connection takes another batch; none if the session has ended.
    pub(super) async fn reserve(&self) -> Option<Slot<'_>> {
        let permit = self.session.outgoing.reserve().await.ok()?;
        Some(Slot { permit, lane: self.lane })
    }
}

/// Room for one batch.
pub(super) struct Slot<'a> {
    permit: mpsc::Permit<'a, AppendSessionRequest>,
    lane: LaneNo,
}

impl Slot<'_> {
    pub(super) fn send(self, batch: SessionBatch) {
        let message = Some(Message::Batch(batch));
        self.permit.send(AppendSessionRequest { message, lane: self.lane });
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
        let close = AppendSessionRequest { message, lane: self.lane };
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
