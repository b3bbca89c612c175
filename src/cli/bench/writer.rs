//! One writer, whatever it writes to: batches go out, acknowledgements come back in order.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::{
    bodies::Bodies,
    figures::{Latencies, Tally},
    redis,
    stopwatch::Stopwatch,
    wire,
};
use crate::cli::failure::{Failure, Subject};
use crate::{
    client::{Appender, Client, Receipt},
    core::{Append, Appended, NewRecord},
    engine::{IfAbsent, RunKey, Store, Ticket},
    error::Error,
    proto::AppendRecord,
};

/// How much a writer has in flight, and how large its batches are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) batch: usize,
    pub(super) window: usize,
}

/// A writer of one run, or of one stream of Redis.
pub(super) enum Writer {
    /// To a store in this process.
    Embedded { store: Store, run: RunKey, waiting: VecDeque<Ticket<Appended>> },
    /// Over an append session.
    Session { appender: Appender, waiting: VecDeque<Receipt> },
    /// A call for each append.
    Unary { client: Client, run: RunKey },
    /// A session of the bare service.
    WireSession(wire::Session),
    /// Calls of the bare service.
    WireUnary { wire: wire::Wire, run: String },
    /// To Redis.
    Redis { connection: redis::Connection, key: String, waiting: VecDeque<usize> },
}

pub(super) fn failed(error: &Error) -> Failure {
    Failure::store(error, &Subject { server: "the server".into(), ..Subject::default() })
}

fn append(bodies: &mut Bodies, batch: usize) -> Append {
    Append { stream: "out".into(), records: records(bodies, batch), ..Append::default() }
}

fn records(bodies: &mut Bodies, batch: usize) -> Vec<NewRecord> {
    (0..batch).map(|_| NewRecord::new(bodies.next())).collect()
}

fn wire_record(data: Bytes) -> AppendRecord {
    AppendRecord { data, ..AppendRecord::default() }
}

impl Writer {
    /// Sends a batch; a call for each append has its answer when this returns.
    async fn submit(&mut self, bodies: &mut Bodies, batch: usize) -> Result<(), Failure> {
        match self {
            Self::Embedded { store, run, waiting } => {
                waiting.push_back(submit(store, run, bodies, batch).await?);
            }
            Self::Session { appender, waiting } => {
                let receipt = appender.submit(records(bodies, batch)).await;
                waiting.push_back(receipt.map_err(|error| failed(&error))?);
            }
            Self::Unary { client, run } => {
                let appended = client.append(run, append(bodies, batch), IfAbsent::Create).await;
                appended.map_err(|error| failed(&error))?;
            }
            Self::WireSession(session) => {
                let records = (0..batch).map(|_| wire_record(bodies.next())).collect();
                session.submit(records).await?;
            }
            Self::WireUnary { wire, run } => {
                wire::append(wire, run, wire_record(bodies.next())).await?;
            }
            Self::Redis { connection, key, waiting } => {
                for _ in 0..batch {
                    connection.put(&[b"XADD", key.as_bytes(), b"*", b"d", &bodies.next()]);
                }
                connection.send().await?;
                waiting.push_back(batch);
            }
        }
        Ok(())
    }

    /// Waits for the answer to the oldest batch that has none.
    async fn acknowledged(&mut self) -> Result<(), Failure> {
        match self {
            Self::Embedded { waiting, .. } => {
                let ticket = waiting.pop_front().expect("something is in flight");
                ticket.await.map(drop).map_err(|error| failed(&error))
            }
            Self::Session { waiting, .. } => {
                let receipt = waiting.pop_front().expect("something is in flight");
                receipt.await.map(drop).map_err(|error| failed(&error))
            }
            Self::Unary { .. } | Self::WireUnary { .. } => Ok(()),
            Self::WireSession(session) => session.acknowledged().await,
            Self::Redis { connection, waiting, .. } => {
                for _ in 0..waiting.pop_front().expect("something is in flight") {
                    connection.skip().await?;
                }
                Ok(())
            }
        }
    }

    /// Appends once: the run is there then, and the connection.
    pub(super) async fn begin(&mut self, bodies: &mut Bodies) -> Result<(), Failure> {
        self.submit(bodies, 1).await?;
        self.acknowledged().await
    }

    /// Appends one record and waits for it.
    pub(super) async fn append(&mut self, data: Bytes) -> Result<(), Failure> {
        let mut one = Bodies::of(data);
        self.submit(&mut one, 1).await?;
        self.acknowledged().await
    }

    /// Writes for so long, then waits for what is in flight.
    pub(super) async fn write(
        &mut self,
        bodies: &mut Bodies,
        load: Load,
        until: Until,
        watch: &Stopwatch,
    ) -> Result<Tally, Failure> {
        let (begin, mut sent) = (watch.now(), VecDeque::with_capacity(load.window));
        let mut tally = Tally { latencies: Latencies::new(), ..Tally::none() };
        let mut left = match until {
            Until::Records(records) => records.div_ceil(load.batch as u64),
            Until::After(_) => u64::MAX,
        };
        loop {
            while sent.len() < load.window && 0 < left {
                if let Until::After(time) = until
                    && time <= watch.now() - begin
                {
                    left = 0;
                    break;
                }
                left -= 1;
                sent.push_back(watch.now());
                self.submit(bodies, load.batch).await?;
            }
            let Some(at) = sent.pop_front() else { break };
            self.acknowledged().await?;
            tally.latencies.note(watch.now() - at);
            tally.records += load.batch as u64;
        }
        tally.took = watch.now() - begin;
        Ok(tally)
    }
}

/// When a writer has written enough.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    After(Duration),
    Records(u64),
}

/// Submits to a store, again and again while it has too much to do.
async fn submit(
    store: &Store,
    run: &RunKey,
    bodies: &mut Bodies,
    batch: usize,
) -> Result<Ticket<Appended>, Failure> {
    loop {
        match store.submit(run, append(bodies, batch), IfAbsent::Create).await {
            Ok(ticket) => return Ok(ticket),
            Err(Error::Busy { retry_after_ms }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(error) => return Err(failed(&error)),
        }
    }
}
