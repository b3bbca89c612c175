//! A call whose answers go on and on: connected when it is needed, and told from a dead one by its
//! heartbeats.
//!
//! What it deliberately does not do: know where to resume. Whoever owns it opens the call again.

use std::{future::Future, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Response, Status, Streaming};

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

/// Answers of one call after the other.
#[derive(Debug)]
pub(super) struct Live<M> {
    pub(super) client: Client,
    connection: Option<Connection<M>>,
    backoff: Backoff,
    /// Ticks when the connection has been silent for too long.
    silence: Interval,
}

#[derive(Debug)]
struct Connection<M> {
    generation: Generation,
    messages: Streaming<M>,
}

impl<M> Live<M> {
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
        call: impl Future<Output = Result<Response<Streaming<M>>, Status>>,
    ) -> Result<(), Error> {
        let opened = self.backoff.bound(call).await;
        let opened = opened.ok_or_else(|| Repeat::Read.timed_out())?;
        let answer = opened.map_err(|status| from_status(&status, Call::Read))?;
        self.silence.reset();
        self.connection = Some(Connection { generation, messages: answer.into_inner() });
        Ok(())
    }

    /// The next answer of the call that is open. Dropping the future loses none.
    pub(super) async fn message(&mut self) -> Result<M, Error> {
        let closed = || Error::Unavailable { message: "the call broke off without an end".into() };
        let connection = self.connection.as_mut().ok_or_else(closed)?;
        let message = tokio::select! {
            biased;
            message = connection.messages.message() => message,
            _ = self.silence.tick() => {
                self.client.link.replace(connection.generation);
                return Err(Error::Unavailable { message: "no heartbeat".into() });
            }
        };
        let message = message.map_err(|status| from_status(&status, Call::Read))?;
        let message = message.ok_or_else(closed)?;
        self.silence.reset();
        self.backoff.reset();
        Ok(message)
    }

    /// Gives up the call, and waits before the next attempt, if there may be one.
    pub(super) async fn recover(&mut self, error: Error) -> Result<(), Error> {
        self.connection = None;
        if is_passing(&error) && self.backoff.pause(&error).await {
            return Ok(());
        }
        self.backoff.reset();
        Err(error)
    }
}
