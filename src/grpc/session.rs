//! An append session: batches are admitted as they come, and acknowledged in their order.
//!
//! One object reads, admits and acknowledges, without a task or queue between: it is polled by the
//! connection, so a client that does not take its acknowledgements is not read from either. Up to
//! [`IN_FLIGHT_MAX`] batches wait for the disk; their bytes are bounded by the store's permits.
//!
//! The first batch that is refused ends the session: nothing behind it is admitted, everything
//! before it is acknowledged, and then the status says why and, as `ordinal`, which it was.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio_util::sync::{CancellationToken, ReusableBoxFuture, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming, codegen::tokio_stream::Stream};

use super::{convert, edge, status::to_status_with};
use crate::{
    core::{Append, Appended, Producer, Refusal},
    engine::{IfAbsent, RunKey, Store, Ticket},
    error::Error,
    proto::{
        AppendSessionRequest, AppendSessionResponse, SessionBatch, SessionOpen,
        append_session_request::Message,
    },
    record::{Index, RunUid, Seq},
    sabotage::{self, Bug},
};

/// Batches of a session that wait for the disk, at most.
const IN_FLIGHT_MAX: usize = 1_024;

/// What all batches of a session have in common.
struct Target {
    run: RunKey,
    run_uid: Option<RunUid>,
    absent: IfAbsent,
    stream: Arc<str>,
    producer: Option<(Arc<str>, u64)>,
    lease_epoch: Option<u64>,
}

impl Target {
    fn new(open: SessionOpen) -> Result<Self, Refusal> {
        let producer = (!open.producer_id.is_empty())
            .then(|| (Arc::from(open.producer_id), open.producer_epoch));
        Ok(Self {
            run_uid: convert::run_uid(&open.run_uid)?,
            run: RunKey::new(open.run_id),
            absent: convert::if_absent(open.create_run),
            stream: open.stream.into(),
            lease_epoch: open.lease_epoch,
            producer,
        })
    }

    fn append(&self, batch: SessionBatch) -> Result<Append, Refusal> {
        if self.producer.is_none() && batch.producer_seq != 0 {
            let problem = "is given, but the session was opened without a producer";
            return Err(Refusal::invalid("producer_seq", problem));
        }
        let producer = self.producer.as_ref().map(|(id, epoch)| Producer {
            id: id.clone(),
            epoch: *epoch,
            seq: batch.producer_seq,
        });
        Ok(Append {
            run_uid: self.run_uid,
            stream: self.stream.clone(),
            records: convert::new_records(batch.records),
            expected_seq: batch.expected_seq.map(Seq),
            expected_index: batch.expected_index.map(Index),
            producer,
            lease_epoch: self.lease_epoch,
        })
    }
}

/// What became of reading on.
enum Admission {
    /// A batch was admitted, or refused on its turn: the ticket tells.
    Batch(Ticket<Appended>),
    /// Nothing more comes.
    HalfClosed,
    /// Nothing more is taken.
    Ended(Ending),
}

/// Why a session takes nothing more.
enum Ending {
    Error(Error),
    /// The request could not be read.
    Unreadable(Status),
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Self {
        Self::Error(refusal.into())
    }
}

impl Ending {
    fn status(&self, ordinal: u64) -> Status {
        match self {
            Self::Error(error) => to_status_with(error, [("ordinal", ordinal.to_string())]),
            Self::Unreadable(status) => edge::with_reason(status.clone()),
        }
    }
}

/// Reads messages and admits their batches.
struct Reader {
    store: Store,
    messages: Streaming<AppendSessionRequest>,
    target: Option<Target>,
}

impl Reader {
    /// The next admission, and the reader back.
    async fn step(mut self) -> (Self, Admission) {
        let admission = self.admit().await.unwrap_or_else(Admission::Ended);
        (self, admission)
    }

    async fn admit(&mut self) -> Result<Admission, Ending> {
        loop {
            let message = self.messages.message().await.map_err(Ending::Unreadable)?;
            match message.map(|message| message.message) {
                None => return Ok(Admission::HalfClosed),
                Some(Some(Message::Open(open))) => self.open(open)?,
                Some(Some(Message::Batch(batch))) => return self.submit(batch).await,
                Some(None) => {
                    return Err(Refusal::invalid("message", "is neither open nor batch").into());
                }
            }
        }
    }

    fn open(&mut self, open: SessionOpen) -> Result<(), Refusal> {
        if self.target.is_some() {
            return Err(Refusal::invalid("open", "came before: it is sent once"));
        }
        self.target = Some(Target::new(open)?);
        Ok(())
    }

    async fn submit(&self, batch: SessionBatch) -> Result<Admission, Ending> {
        let missing = || Refusal::invalid("open", "is missing: it comes before the first batch");
        let target = self.target.as_ref().ok_or_else(missing)?;
        let append = target.append(batch)?;
        let submitted = self.store.submit(&target.run, append, target.absent).await;
        submitted.map(Admission::Batch).map_err(Ending::Error)
    }
}

/// The acknowledgements of a session, and its status.
pub(super) struct Session {
    /// Never polled again once `ending` is set.
    reading: ReusableBoxFuture<'static, (Reader, Admission)>,
    in_flight: VecDeque<Ticket<Appended>>,
    /// Ordinal of the first batch in flight.
    acknowledged: u64,
    /// Set when nothing more is admitted; none in it is a clean end.
    ending: Option<Option<Ending>>,
    over: bool,
    /// Ready when the server stops. Asked only when there is nothing else to do: all sessions share
    /// the lock behind it.
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Session {
    /// Serves a session until it ends or `drain` is cancelled.
    pub(super) fn new(
        store: Store,
        messages: Streaming<AppendSessionRequest>,
        drain: CancellationToken,
    ) -> Self {
        let reader = Reader { store, messages, target: None };
        Self {
            reading: ReusableBoxFuture::new(reader.step()),
            in_flight: VecDeque::new(),
            acknowledged: 0,
            ending: None,
            over: false,
            drain: Box::pin(drain.cancelled_owned()),
        }
    }

    /// The acknowledgement of the first batch in flight, or the status that it ends the session
    /// with.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<Result<AppendSessionResponse, Status>> {
        if sabotage::is(Bug::AckOutOfTurn) {
            self.in_flight.rotate_left(self.in_flight.len().saturating_sub(1));
        }
        let Some(front) = self.in_flight.front_mut() else { return Poll::Pending };
        let outcome = ready!(Pin::new(front).poll(cx));
        self.in_flight.pop_front();
        let ordinal = self.acknowledged;
        self.acknowledged += 1;
        Poll::Ready(match outcome {
            Ok(appended) => {
                let appended = Some(convert::appended(&appended));
                Ok(AppendSessionResponse { ordinal, appended })
            }
            Err(error) => {
                self.over = true;
                Err(to_status_with(&error, [("ordinal", ordinal.to_string())]))
            }
        })
    }

    /// Admits whatever has come; true if that was anything.
    fn admit(&mut self, cx: &mut Context<'_>) -> bool {
        let mut admitted = false;
        while self.ending.is_none() && self.in_flight.len() < IN_FLIGHT_MAX {
            let Poll::Ready((reader, admission)) = self.reading.poll(cx) else { break };
            admitted = true;
            match admission {
                // Nothing behind a refused batch may be applied.
                Admission::Batch(ticket) if ticket.is_refused() => {
                    self.in_flight.push_back(ticket);
                    self.ending = Some(None);
                }
                Admission::Batch(ticket) => {
                    self.in_flight.push_back(ticket);
                    self.reading.set(reader.step());
                }
                Admission::HalfClosed => self.ending = Some(None),
                Admission::Ended(ending) => self.ending = Some(Some(ending)),
            }
        }
        admitted
    }

    fn finish(&mut self) -> Option<Result<AppendSessionResponse, Status>> {
        self.over = true;
        let ending = self.ending.take().flatten()?;
        Some(Err(ending.status(self.acknowledged)))
    }
}

impl Stream for Session {
    type Item = Result<AppendSessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            if let Poll::Ready(answer) = self.poll_front(cx) {
                return Poll::Ready(Some(answer));
            }
            if self.ending.is_some() && self.in_flight.is_empty() {
                return Poll::Ready(self.finish());
            }
            // A batch that was admitted just now must be polled once, to be woken for.
            if self.admit(cx) {
                continue;
            }
            if self.ending.is_some() || self.drain.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.ending = Some(Some(Ending::Error(Error::ShuttingDown)));
        }
    }
}
