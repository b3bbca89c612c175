//! A tail that outlives its connections.
//!
//! After a broken connection it resumes from the cursor of the last message it received, so that
//! what it hands out is what one unbroken tail would have: nothing twice, nothing left out, the
//! tail reached once, every stream named once. Heartbeats are taken in here; when they stop, the
//! connection is replaced.

use std::collections::VecDeque;

use super::{Client, convert, follow::Followed, live::Live};
use crate::{
    engine::{Bounds, End, Query, Start, StreamInfo, TailItem},
    error::Error,
    format::cursor::Cursor,
    grpc::encoded::TailResponse,
    record::{Seq, StreamNo},
    sabotage::{self, Bug},
};

/// Follows a run, or some of its streams, across broken connections. Made by [`Client::tail`].
#[derive(Debug)]
pub struct Tail {
    live: Live<Followed>,
    /// What is still to be read: starts behind the last message received.
    query: Query,
    /// Items received and not handed out.
    ready: VecDeque<TailItem>,
    /// Behind the last message received.
    received: Option<Cursor>,
    /// Behind the last item handed out.
    handed_out: Option<Cursor>,
    durable: Seq,
    named: Vec<StreamNo>,
    caught_up: bool,
}

impl Tail {
    pub(super) async fn open(client: Client, query: Query) -> Result<Self, Error> {
        let mut tail = Self::new(client, query);
        tail.begin().await?;
        Ok(tail)
    }

    fn new(client: Client, query: Query) -> Self {
        Self {
            live: Live::new(client),
            ready: VecDeque::new(),
            received: None,
            handed_out: None,
            durable: Seq::ZERO,
            named: Vec::new(),
            caught_up: false,
            query,
        }
    }

    /// Connects. A start that means another place later is settled by its first message.
    async fn begin(&mut self) -> Result<(), Error> {
        let is_relative = matches!(self.query.start, Start::Tail | Start::Last(_));
        loop {
            let begun = match is_relative {
                true => self.receive().await,
                false => self.connect().await,
            };
            match begun {
                Ok(()) => return Ok(()),
                Err(error) => self.live.recover(error).await?,
            }
        }
    }

    /// The next item. Waits at the tail, and for a server that is away. After [`TailItem::End`],
    /// and only then, nothing follows; it is then returned again and again.
    ///
    /// Dropping the future loses nothing: the next call continues where the last item ended.
    ///
    /// # Errors
    /// What the server refuses, such as [`Error::Corrupt`] or a history that has changed, and
    /// [`Error::Unavailable`] when it was away for longer than the retry policy allows. Another
    /// call tries again.
    pub async fn next(&mut self) -> Result<TailItem, Error> {
        loop {
            match self.ready.front() {
                Some(TailItem::End(end, cursor)) => {
                    self.handed_out = Some(*cursor);
                    return Ok(TailItem::End(*end, *cursor));
                }
                Some(_) => return Ok(self.hand_out()),
                None => {
                    if let Err(error) = self.receive().await {
                        self.live.recover(error).await?;
                    }
                }
            }
        }
    }

    /// Where to resume after the last item; none before the first.
    pub fn cursor(&self) -> Option<Cursor> {
        self.handed_out
    }

    /// Next seq of the run, as far as the server has told.
    pub fn durable_tail(&self) -> Seq {
        self.durable
    }

    fn hand_out(&mut self) -> TailItem {
        let item = self.ready.pop_front().expect("the caller has seen it");
        if let TailItem::Records(_, cursor)
        | TailItem::Gap(_, cursor)
        | TailItem::CaughtUp(cursor) = &item
        {
            self.handed_out = Some(*cursor);
        }
        item
    }

    /// Opens a call at the place that was reached, if there is none.
    async fn connect(&mut self) -> Result<(), Error> {
        if self.live.is_open() {
            return Ok(());
        }
        let mut query = self.query.clone();
        if let Some(cursor) = self.received {
            query.start = match sabotage::is(Bug::SkipOnResume) {
                true => Start::Seq(Seq(cursor.seq.0 + 1)),
                false => Start::Cursor(cursor.to_string()),
            };
            // Begun, it goes on: what was trimmed meanwhile is a gap, as it is to a tail whose
            // connection held.
            query.allow_gap = true;
        }
        let is_at_tail = self.is_at_tail();
        let client = &self.live.client;
        let request = convert::tail(query, client.options.heartbeat)?;
        if is_at_tail {
            let lane = client.tails.open(&client.link);
            self.live.begin(lane.generation(), Followed::together(lane, request));
            Ok(())
        } else {
            let (generation, streams) = client.link.streams();
            self.live.open(generation, Followed::alone(streams, request)).await
        }
    }

    /// Whether there is nothing to catch up with, but what a broken connection has left.
    fn is_at_tail(&self) -> bool {
        let begins_there = matches!(self.query.start, Start::Tail);
        !self.query.stop_at_tail && (self.caught_up || begins_there)
    }

    /// Receives a message and makes its items ready.
    async fn receive(&mut self) -> Result<(), Error> {
        if let Some(end) = self.reached_bound() {
            self.ready.push_back(end);
            return Ok(());
        }
        self.connect().await?;
        let message = self.live.message().await?;
        let was_at_tail = self.is_at_tail();
        self.take(message)?;
        if !was_at_tail && self.is_at_tail() {
            // It goes on together with the others.
            self.live.close();
        }
        Ok(())
    }

    /// The end, if a connection broke between the last record wanted and the word of it.
    fn reached_bound(&self) -> Option<TailItem> {
        let cursor = self.received.filter(|_| !self.live.is_open())?;
        let Bounds { records, bytes, until_seq, until_index } = self.query.bounds;
        let is_reached = records == Some(0)
            || bytes == Some(0)
            || until_seq.is_some_and(|until| until <= cursor.seq)
            || until_index.zip(cursor.stream).is_some_and(|(until, (_, next))| until <= next);
        is_reached.then_some(TailItem::End(End::Limit, cursor))
    }

    fn take(&mut self, message: TailResponse) -> Result<(), Error> {
        let cursor = convert::cursor(&message.cursor)?;
        self.note_tail(cursor.seq.0);
        let streams = self.not_named(convert::streams(message.streams)?);
        if !streams.is_empty() {
            self.named.extend(streams.iter().map(|stream| stream.stream));
            self.ready.push_back(TailItem::Streams(streams));
        }
        if let Some(gap) = message.gap {
            self.ready.push_back(TailItem::Gap(convert::gap(gap), cursor));
        }
        if !message.records.is_empty() {
            self.charge(message.records.count, message.records.len() as u64);
            self.ready.push_back(TailItem::Records(message.records, cursor));
        }
        if let Some(caught_up) = message.caught_up {
            self.note_tail(caught_up.tail);
            if !std::mem::replace(&mut self.caught_up, true) {
                self.ready.push_back(TailItem::CaughtUp(cursor));
            }
        }
        if let Some(heartbeat) = message.heartbeat {
            self.note_tail(heartbeat.tail);
        }
        if let Some(end) = message.end {
            self.ready.push_back(TailItem::End(convert::end(end)?, cursor));
        }
        self.received = Some(cursor);
        if self.ready.is_empty() {
            self.handed_out = Some(cursor);
        }
        Ok(())
    }

    fn note_tail(&mut self, tail: u64) {
        self.durable = self.durable.max(Seq(tail));
    }

    fn not_named(&self, streams: Vec<StreamInfo>) -> Vec<StreamInfo> {
        streams.into_iter().filter(|stream| !self.named.contains(&stream.stream)).collect()
    }

    /// Counts what was received against the bounds, for the next connection.
    fn charge(&mut self, records: u64, bytes: u64) {
        let bounds = &mut self.query.bounds;
        for (bound, size) in [(&mut bounds.records, records), (&mut bounds.bytes, bytes)] {
            if let Some(left) = bound {
                *left = left.saturating_sub(size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{ClientOptions, RetryPolicy},
        engine::{Records, RunKey},
        format::frame::Chain,
        record::{Index, RunUid},
    };

    /// A server that nobody runs: whatever is right here needs no connection.
    fn tail(query: Query) -> Tail {
        let options = ClientOptions { retry: RetryPolicy::never(), ..ClientOptions::default() };
        let client = Client::with_options("http://127.0.0.1:1", options).expect("url");
        Tail::new(client, query)
    }

    fn cursor(seq: u64) -> Cursor {
        Cursor { run_uid: RunUid([1; 16]), seq: Seq(seq), chain: Chain(7), stream: None }
    }

    #[tokio::test]
    async fn an_end_that_a_broken_connection_swallowed_is_told_all_the_same() {
        let none = Bounds::default();
        for bounds in [
            Bounds { records: Some(2), ..none },
            Bounds { bytes: Some(3), ..none },
            Bounds { until_seq: Some(Seq(2)), ..none },
            Bounds { until_index: Some(Index(2)), ..none },
        ] {
            let mut tail = tail(Query { bounds, ..Query::run(RunKey::new("run")) });
            let piece = [0x0A, 0, 0x0A, 0].to_vec().into();
            let records = Records { pieces: vec![piece], count: 2 };
            let cursor = Cursor { stream: Some((StreamNo(1), Index(2))), ..cursor(2) };
            let message = TailResponse {
                records: records.clone(),
                cursor: cursor.to_string(),
                ..TailResponse::default()
            };
            tail.take(message).expect("taken");
            assert_eq!(tail.next().await.expect("item"), TailItem::Records(records, cursor));
            for _ in 0..2 {
                assert_eq!(tail.next().await.expect("item"), TailItem::End(End::Limit, cursor));
            }
        }
    }

    #[tokio::test]
    async fn a_cursor_moves_with_what_is_handed_out_and_not_before() {
        let mut tail = tail(Query::run(RunKey::new("run")));
        assert_eq!(tail.cursor(), None);
        for seq in [2, 4] {
            let piece = [0x0A, 0].to_vec().into();
            let records = Records { pieces: vec![piece], count: 1 };
            let cursor = cursor(seq).to_string();
            tail.take(TailResponse { records, cursor, ..TailResponse::default() }).expect("taken");
        }
        tail.next().await.expect("item");
        assert_eq!(tail.cursor(), Some(cursor(2)));
        let beat = |seq| TailResponse { cursor: cursor(seq).to_string(), ..Default::default() };
        tail.take(beat(6)).expect("taken");
        assert_eq!(tail.cursor(), Some(cursor(2)), "something is still to be handed out");
        tail.next().await.expect("item");
        tail.take(beat(8)).expect("taken");
        assert_eq!(tail.cursor(), Some(cursor(8)), "what was filtered is behind us");
    }
}
