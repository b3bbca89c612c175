//! A tail as a stream of messages: a loop around [`Tail::next`](engine::Tail::next) that is polled
//! when the connection can take more.
//!
//! There is no queue and no task: a subscriber that reads slowly is simply asked for less often,
//! and the store reads from disk for it later. Every message carries the cursor to resume from,
//! also the status that ends a tail when the server drains; only an `end` item is an end.

use std::time::Duration;

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
};

/// What the next message is made of.
pub(super) struct Follower {
    store: Store,
    tail: engine::Tail,
    beat: Interval,
    drain: CancellationToken,
}

impl Step for Follower {
    type Answer = TailResponse;

    async fn next(&mut self) -> (Result<TailResponse, Status>, After) {
        match self.item().await {
            Ok(answer) if answer.end.is_some() => (Ok(answer), After::Nothing),
            Ok(answer) => (Ok(answer), After::More),
            Err(error) => (Err(self.status(&error)), After::Nothing),
        }
    }
}

impl Follower {
    async fn item(&mut self) -> Result<TailResponse, Error> {
        if self.drain.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        tokio::select! {
            biased;
            item = self.tail.next() => Ok(self.answer(item?)),
            () = self.drain.cancelled() => Err(Error::ShuttingDown),
            _ = self.beat.tick() => Ok(self.heartbeat()),
        }
    }

    fn answer(&mut self, item: TailItem) -> TailResponse {
        self.beat.reset();
        let cursor = item_cursor(&item).unwrap_or_else(|| self.tail.cursor());
        at(cursor, convert::tail_item(item, || self.tail.durable_tail()))
    }

    fn heartbeat(&self) -> TailResponse {
        let beat = convert::heartbeat(self.tail.durable_tail(), self.store.clock_ms());
        at(self.tail.cursor(), beat)
    }

    fn status(&self, error: &Error) -> Status {
        to_status_with(error, [("cursor", self.tail.cursor().to_string())])
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

/// The messages of a tail: follows `tail`, says every `heartbeat` that nothing happened, and ends
/// when `drain` is cancelled.
pub(super) fn messages(
    store: Store,
    tail: engine::Tail,
    heartbeat: Duration,
    drain: CancellationToken,
) -> Steps<Follower> {
    let mut beat = interval(heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.reset();
    Steps::new(Follower { store, tail, beat, drain })
}
