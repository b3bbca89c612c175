//! Answers that come one after the other, as a stream that is polled when the connection can take
//! more: no queue, no task.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::sync::ReusableBoxFuture;
use tonic::{Status, codegen::tokio_stream::Stream};

/// What gives answers.
pub(super) trait Step: Send + 'static {
    /// An answer.
    type Answer: Send + 'static;

    /// The next answer. Dropping the call loses none.
    fn next(&mut self) -> impl Future<Output = (Result<Self::Answer, Status>, After)> + Send;
}

/// Whether another answer can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    More,
    Nothing,
}

/// The answers of a [`Step`]; an error is the last.
pub(super) struct Steps<S: Step> {
    /// Never polled again once it has given its last answer.
    next: ReusableBoxFuture<'static, Taken<S>>,
    over: bool,
}

/// A step, its answer, and whether another can follow.
type Taken<S> = (S, Result<<S as Step>::Answer, Status>, After);

async fn take<S: Step>(mut step: S) -> Taken<S> {
    let (answer, after) = step.next().await;
    let after = if answer.is_err() { After::Nothing } else { after };
    (step, answer, after)
}

impl<S: Step> Steps<S> {
    pub(super) fn new(step: S) -> Self {
        Self { next: ReusableBoxFuture::new(take(step)), over: false }
    }
}

impl<S: Step> Stream for Steps<S> {
    type Item = Result<S::Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let (step, answer, after) = ready!(self.next.poll(cx));
        self.over = after == After::Nothing;
        if !self.over {
            self.next.set(take(step));
        }
        Poll::Ready(Some(answer))
    }
}
