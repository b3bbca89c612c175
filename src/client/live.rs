//! Answers that go on and on: connected when it is needed, and told from a dead one by its
//! heartbeats.
//!
//! What it deliberately does not do: know where to resume. Whoever owns it opens the call again.

use std::{future::Future, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Status, Streaming};

use super::{
    Client,
    link::Generation,
    retry::{Backoff, Repeat, is_passing},
};
use crate::{
    error::Error,
    grpc::status::{Call, from_status},
};

/// So many heartbeats may be missed.
const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Answers of a call.
pub(super) trait Answers: Send {
    type Answer;

    /// The next; none if the call has ended. Dropping the future loses none.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Answer>, Status>> + Send;

    /// A number that changes whenever the server is heard of by others that it would tell if it
    /// told this one.
    fn heard(&self) -> u64 {
        0
    }
}

impl<M: Send> Answers for Streaming<M> {
    type Answer = M;

    fn next(&mut self) -> impl Future<Output = Result<Option<M>, Status>> + Send {
        self.message()
    }
}

/// Answers of one call after the other.
#[derive(Debug)]
pub(super) struct Live<A> {
    pub(super) client: Client,
    connection: Option<Connection<A>>,
    backoff: Backoff,
    /// Ticks when the connection has been silent for too long.
    silence: Interval,
}

#[derive(Debug)]
struct Connection<A> {
    generation: Generation,
    answers: A,
    /// As of the last answer, or since it was silent for too long.
    heard: u64,
}

impl<A: Answers> Live<A> {
    pub(super) fn new(client: Client) -> Self {
        let heartbeat = client.options.heartbeat.max(Duration::from_millis(1));
        let mut silence = interval(heartbeat * HEARTBEATS_MISSED_MAX);
        silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let backoff = Backoff::new(client.options.retry.clone());
        Self { client, connection: None, backoff, silence }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Opens a call; `generation` is that of the connection it is made on.
    pub(super) async fn open(
        &mut self,
        generation: Generation,
        call: impl Future<Output = Result<A, Status>>,
    ) -> Result<(), Error> {
        let opened = self.backoff.bound(call).await;
        let opened = opened.ok_or_else(|| Repeat::Read.timed_out())?;
        self.begin(generation, opened.map_err(|status| from_status(&status, Call::Read))?);
        Ok(())
    }

    /// Goes on with the answers of a call that is open; `generation` is that of its connection.
    pub(super) fn begin(&mut self, generation: Generation, answers: A) {
        self.silence.reset();
        let heard = answers.heard();
        self.connection = Some(Connection { generation, answers, heard });
    }

    /// Ends the call that is open, if there is one.
    pub(super) fn close(&mut self) {
        self.connection = None;
    }

    /// The next answer of the call that is open. Dropping the future loses none.
    pub(super) async fn message(&mut self) -> Result<A::Answer, Error> {
        let closed = || Error::Unavailable { message: "the call broke off without an end".into() };
        let connection = self.connection.as_mut().ok_or_else(closed)?;
        let message = loop {
            tokio::select! {
                biased;
                message = connection.answers.next() => break message,
                _ = self.silence.tick() => {}
            }
            let heard = connection.answers.heard();
            if connection.heard == heard {
                self.client.link.replace(connection.generation);
                return Err(Error::Unavailable { message: "no heartbeat".into() });
            }
            connection.heard = heard;
        };
        connection.heard = connection.answers.heard();
        let message = message.map_err(|status| from_status(&status, Call::Read))?;
        let message = message.ok_or_else(closed)?;
        self.silence.reset();
        self.backoff.reset();
        Ok(message)
    }

    /// Gives up the call, and waits before the next attempt, if there may be one.
    pub(super) async fn recover(&mut self, error: Error) -> Result<(), Error> {
        self.close();
        if is_passing(&error) && self.backoff.pause(&error).await {
            return Ok(());
        }
        self.backoff.reset();
        Err(error)
    }
}
