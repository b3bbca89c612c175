//! An append session: batches are admitted as they come, and acknowledged in their order.
//!
//! One object reads, admits and acknowledges, without a task or queue between: it is polled by the
//! connection, so a client that does not take its acknowledgements is not read from either. Up to
//! [`IN_FLIGHT_MAX`] batches wait for the disk; their bytes are bounded by the store's permits.
//! Batches become durable in the order of their decision, so those of all lanes wait in one queue,
//! and only the first of them is woken for.
//!
//! The first batch of a lane that is refused ends the lane behind the answers before it ([`lane`]).
//! With lane 0 the session ends: nothing more is admitted, what was is acknowledged, and then the
//! status says why and, as `ordinal`, which batch of lane 0 it was.
//!
//! [`lane`]: super::lane

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::sync::{CancellationToken, ReusableBoxFuture, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming, codegen::tokio_stream::Stream};

use super::{
    convert,
    lane::{Admission, Answer, Batch, MAIN, Reader, lane_end, status_at},
    status::to_status,
};
use crate::{
    engine::Store,
    error::Error,
    proto::{AppendSessionRequest, AppendSessionResponse},
    sabotage::{self, Bug},
};

/// Batches of a session that wait for the disk, at most.
const IN_FLIGHT_MAX: usize = 1_024;

/// Why a session takes nothing more, and ends when all is answered.
enum Ending {
    /// The client has said so, or a batch of lane 0 that is in flight was refused.
    Clean,
    ShuttingDown,
    /// The request could not be read.
    Unreadable(Status),
}

/// The acknowledgements of a session, and its status.
pub(super) struct Session {
    /// Never polled again once `ending` is set.
    reading: ReusableBoxFuture<'static, (Reader, Admission)>,
    in_flight: VecDeque<Batch>,
    /// Batches of lane 0 that were acknowledged.
    acknowledged: u64,
    /// Set when nothing more is admitted.
    ending: Option<Ending>,
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
        Self {
            reading: ReusableBoxFuture::new(Reader::new(store, messages).step()),
            in_flight: VecDeque::new(),
            acknowledged: 0,
            ending: None,
            over: false,
            drain: Box::pin(drain.cancelled_owned()),
        }
    }

    /// The answer to the first batch in flight, or the status that it ends the session with.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<Result<AppendSessionResponse, Status>> {
        if sabotage::is(Bug::AckOutOfTurn) {
            self.in_flight.rotate_left(self.in_flight.len().saturating_sub(1));
        }
        let Some(front) = self.in_flight.front_mut() else { return Poll::Pending };
        let outcome = match &mut front.answer {
            Answer::Ticket(ticket) => ready!(Pin::new(ticket).poll(cx)),
            Answer::Refused(error) => Err(error.clone()),
        };
        let Batch { lane, ordinal, .. } = *front;
        self.in_flight.pop_front();
        let answer = AppendSessionResponse { ordinal, lane, appended: None, ended: None };
        Poll::Ready(match outcome {
            Ok(appended) => {
                self.acknowledged += u64::from(lane == MAIN);
                Ok(AppendSessionResponse { appended: Some(convert::appended(&appended)), ..answer })
            }
            Err(error) if lane == MAIN => {
                self.over = true;
                Err(status_at(&error, ordinal))
            }
            Err(error) => {
                Ok(AppendSessionResponse { ended: Some(lane_end(&to_status(&error))), ..answer })
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
                Admission::Batch(batch) => {
                    // Nothing behind a refused batch may be applied.
                    match batch.lane == MAIN && batch.ends_lane() {
                        true => self.ending = Some(Ending::Clean),
                        false => self.reading.set(reader.step()),
                    }
                    self.in_flight.push_back(batch);
                }
                Admission::HalfClosed => self.ending = Some(Ending::Clean),
                Admission::Unreadable(status) => self.ending = Some(Ending::Unreadable(status)),
            }
        }
        admitted
    }

    fn finish(&mut self) -> Option<Result<AppendSessionResponse, Status>> {
        self.over = true;
        match self.ending.take()? {
            Ending::Clean => None,
            Ending::ShuttingDown => Some(Err(status_at(&Error::ShuttingDown, self.acknowledged))),
            Ending::Unreadable(status) => Some(Err(status)),
        }
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
            self.ending = Some(Ending::ShuttingDown);
        }
    }
}
