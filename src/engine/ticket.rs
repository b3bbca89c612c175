//! What a caller holds while its command waits for the disk.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::waiters::Queued;
use crate::{core::Refusal, error::Error};

/// A command that was decided and waits for the disk. Dropping it does not undo the command.
#[must_use = "the command is durable only when the ticket says so"]
pub struct Ticket<R> {
    /// None if nothing has to become durable first.
    pub(super) durable: Option<Queued>,
    pub(super) answer: Option<Result<R, Refusal>>,
}

impl<R> Ticket<R> {
    /// One that waits for nothing.
    pub(super) fn done(answer: R) -> Self {
        Self { durable: None, answer: Some(Ok(answer)) }
    }

    /// Whether the command was refused. The refusal itself waits until what it rests on is
    /// durable.
    pub fn is_refused(&self) -> bool {
        matches!(self.answer, Some(Err(_)))
    }

    /// The answer, if it is there already.
    pub fn try_take(&mut self) -> Option<Result<R, Error>> {
        let durable = match &self.durable {
            None => Ok(()),
            Some(queued) => queued.try_take()?,
        };
        self.finish(durable)
    }

    fn finish(&mut self, durable: Result<(), Error>) -> Option<Result<R, Error>> {
        self.durable = None;
        let answer = self.answer.take()?;
        Some(durable.and_then(|()| answer.map_err(Error::Refused)))
    }
}

pub(super) fn never_told() -> Error {
    Error::OutcomeUnknown { cause: "the store was dropped".into() }
}

impl<R: Unpin> Future for Ticket<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let durable = match &mut self.durable {
            None => Ok(()),
            Some(queued) => ready!(Pin::new(queued).poll(context)),
        };
        let answer = self.finish(durable);
        Poll::Ready(answer.expect("a ticket is not polled after it was answered"))
    }
}
