//! A tail as a stream of messages: a loop around [`Tail::next`](engine::Tail::next) that is polled
//! when the connection can take more.
//!
//! There is no queue and no task: a subscriber that reads slowly is simply asked for less often,
//! and the store reads from disk for it later. Every message carries the cursor to resume from,
//! also the status that ends a tail when the server drains; only an `end` item is an end.

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    convert,
    encoded::TailResponse,
    status::to_status_with,
    steps::{After, Step, Steps},
};
use crate::{
    engine::{self, Store, TailItem},
    error::Error,
    format::cursor::Cursor,
    proto::TailRequest,
};

/// What the next message is made of.
pub(super) struct Follower {
    store: Store,
    tail: engine::Tail,
    beat: Interval,
}

impl Follower {
    /// Begins to follow what a request asks for.
    pub(super) async fn begin(store: Store, request: TailRequest) -> Result<Self, Error> {
        let (query, heartbeat) = convert::tail(request)?;
        let tail = store.tail(query).await?;
        let mut beat = interval(heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        Ok(Self { store, tail, beat })
    }

    /// The next message: an item, or that nothing has happened for a while. One with an `end` is the
    /// last. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<TailResponse, Error> {
        tokio::select! {
            biased;
            item = self.tail.next() => Ok(self.answer(item?)),
            _ = self.beat.tick() => Ok(self.heartbeat()),
        }
    }

    /// The next message if items are not wanted now.
    pub(super) async fn next_heartbeat(&mut self) -> TailResponse {
        self.beat.tick().await;
        self.heartbeat()
    }

    fn heartbeat(&self) -> TailResponse {
        let beat = convert::heartbeat(self.tail.durable_tail(), self.store.clock_ms());
        at(self.tail.cursor(), beat)
    }

    /// The status of a tail that cannot go on.
    pub(super) fn status(&self, error: &Error) -> Status {
        to_status_with(error, [("cursor", self.tail.cursor().to_string())])
    }

    fn answer(&mut self, item: TailItem) -> TailResponse {
        self.beat.reset();
        let cursor = item_cursor(&item).unwrap_or_else(|| self.tail.cursor());
        at(cursor, convert::tail_item(item, || self.tail.durable_tail()))
    }
}

fn item_cursor(item: &TailItem) -> Option<Cursor> {
    match item {
        TailItem::Streams(_) => None,
        TailItem::Records(_, cursor)
        | TailItem::Gap(_, cursor)
        | TailItem::CaughtUp(cursor)
        | TailItem::End(_, cursor) => Some(*cursor),
    }
}

fn at(cursor: Cursor, answer: TailResponse) -> TailResponse {
    TailResponse { cursor: cursor.to_string(), next_seq: cursor.seq.0, ..answer }
}

/// A tail of a call of its own.
pub(super) struct Lone {
    follower: Follower,
    drain: CancellationToken,
}

impl Lone {
    async fn message(&mut self) -> Result<TailResponse, Error> {
        if self.drain.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        tokio::select! {
            biased;
            message = self.follower.next() => message,
            () = self.drain.cancelled() => Err(Error::ShuttingDown),
        }
    }
}

impl Step for Lone {
    type Answer = TailResponse;

    async fn next(&mut self) -> (Result<TailResponse, Status>, After) {
        match self.message().await {
            Ok(answer) if answer.end.is_some() => (Ok(answer), After::Nothing),
            Ok(answer) => (Ok(answer), After::More),
            Err(error) => (Err(self.follower.status(&error)), After::Nothing),
        }
    }
}

/// The messages of a tail, until it ends or `drain` is cancelled.
pub(super) fn messages(follower: Follower, drain: CancellationToken) -> Steps<Lone> {
    Steps::new(Lone { follower, drain })
}
