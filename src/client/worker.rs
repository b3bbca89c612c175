//! Working on runs: claim one, do it turn by turn, end it or give it back.
//!
//! What is promised to whoever writes a worker:
//!
//! * A [`Job`] keeps its lease by itself, by renewing it three times a term in the background.
//!   Dropping the job stops that: the run is abandoned when the term is over, and handed out again
//!   while it has attempts left. [`Job::give_back`] does so at once.
//! * [`Job::canceled`] resolves when somebody asks the run to stop, and when the run is not the
//!   job's any more. From then on, whatever a job that has lost its run does is refused
//!   ([`Refusal::Fenced`](crate::core::Refusal::Fenced), `Closed`): two workers never both write.
//! * What a [`Turn`] does is one step, and in the log once, however often it is sent: it has a
//!   request id of its own. The turn that ends a run, sent again, gets the first answer.
//! * [`Job::output`] streams records out without waiting, each in the log once and in order, across
//!   broken connections.
//! * Messages are delivered at least once and acked with the output they caused, in one turn: what
//!   a run does because of a message is in its log exactly once.
//!
//! What it deliberately does not do: run anything. A worker is a loop in the caller's program.
//!
//! ```no_run
//! use std::time::Duration;
//! use braidlog::client::{Client, Worker, WorkerOptions};
//!
//! # async fn work() -> Result<(), braidlog::Error> {
//! let client = Client::new("http://127.0.0.1:4480")?;
//! let worker = Worker::new(client, "worker-1", ["greet"], WorkerOptions::default());
//! loop {
//!     let Some(job) = worker.claim(Duration::from_secs(30)).await? else { continue };
//!     let name = String::from_utf8_lossy(&job.run().spec.payload);
//!     let turn = job.turn().append("out", format!("Hello, {name}"));
//!     turn.complete("greeted").await?;
//! }
//! # }
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    Appender, AppenderOptions, Client, Receiver, convert,
    keeper::{Held, Keeper, Stop},
    retry::Backoff,
    turn::Turn,
};
use crate::{
    core::{DEFAULT_CONSUMER, Release, Wait},
    engine::{
        Acked, AcquireLease, ClaimRun, ClaimedRun, DEFAULT_NAMESPACE, Input, InputConsumer,
        OwedInputs, RunInfo, RunKey,
    },
    error::Error,
    proto::RunStatus,
    record::{CLAIM_TERM_MS, ID_BYTES_MAX, Index, LEASE_TERM_DEFAULT_MS, name_hash},
};

/// How a worker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerOptions {
    /// How long a worker may be silent before its run is abandoned: 1 second to 10 minutes.
    pub term: Duration,
}

impl Default for WorkerOptions {
    /// A term of 30 seconds.
    fn default() -> Self {
        Self { term: Duration::from_millis(LEASE_TERM_DEFAULT_MS) }
    }
}

/// Claims runs of some tasks. Clones share the client.
#[derive(Debug, Clone)]
pub struct Worker {
    client: Client,
    name: Arc<str>,
    tasks: Vec<Arc<str>>,
    options: WorkerOptions,
}

impl Worker {
    /// A worker of this name, 1 to 128 bytes, that does these tasks.
    pub fn new<T: Into<Arc<str>>>(
        client: Client,
        name: impl Into<Arc<str>>,
        tasks: impl IntoIterator<Item = T>,
        options: WorkerOptions,
    ) -> Self {
        let tasks = tasks.into_iter().map(Into::into).collect();
        Self { client, name: name.into(), tasks, options }
    }

    /// Takes a queued run of one of the tasks, by priority, then by age. Waits for one for so long;
    /// none if there is none in time.
    ///
    /// A claim whose answer is lost is repeated: a run that was handed out and never arrived is
    /// abandoned when its term is over.
    ///
    /// # Errors
    /// As [`Client::claim`]; [`Error::OutcomeUnknown`] when repeating has taken too long.
    pub async fn claim(&self, wait: Duration) -> Result<Option<Job>, Error> {
        let claim = ClaimRun {
            namespace: DEFAULT_NAMESPACE.into(),
            tasks: self.tasks.clone(),
            worker: self.name.clone(),
            term_ms: convert::millis(self.options.term),
        };
        let mut backoff = Backoff::new(self.client.options.retry.clone());
        loop {
            match self.client.claim(&claim, wait).await {
                Ok(claimed) => return Ok(claimed.map(|claimed| Job::new(&self.client, claimed))),
                Err(error @ Error::OutcomeUnknown { .. }) => {
                    if !backoff.pause(&error).await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a known run, whether or not it is queued, if nobody has it.
    ///
    /// # Errors
    /// [`Refusal::LeaseHeld`](crate::core::Refusal::LeaseHeld) if another worker has it, and as
    /// [`Client::acquire_lease`].
    pub async fn acquire(&self, run: &RunKey) -> Result<Job, Error> {
        self.acquire_lease(run, false).await
    }

    /// Takes a known run, and fences whoever has it.
    ///
    /// # Errors
    /// As [`Client::acquire_lease`].
    pub async fn take_over(&self, run: &RunKey) -> Result<Job, Error> {
        self.acquire_lease(run, true).await
    }

    async fn acquire_lease(&self, run: &RunKey, takeover: bool) -> Result<Job, Error> {
        let acquire = AcquireLease {
            run: run.clone(),
            run_uid: None,
            worker: self.name.clone(),
            term_ms: convert::millis(self.options.term),
            takeover,
        };
        Ok(Job::new(&self.client, self.client.acquire_lease(&acquire).await?))
    }
}

/// A run that a worker has. Made by [`Worker::claim`].
///
/// Dropped without an end, its lease lapses: see the [module](self).
#[derive(Debug)]
pub struct Job {
    pub(super) held: Arc<Held>,
    claimed: ClaimedRun,
    /// Turns so far, for their request ids.
    turns: AtomicU64,
    /// How often an output was opened, by stream. A plain mutex: no await inside.
    outputs: Mutex<HashMap<Arc<str>, u64>>,
    _keeper: Keeper,
}

impl Job {
    fn new(client: &Client, claimed: ClaimedRun) -> Self {
        let run = RunKey::new(claimed.run.run_id.clone());
        let held = Held::new(client.clone(), run, claimed.run.run_uid, claimed.claimed.epoch);
        let held = Arc::new(held);
        let term = Duration::from_millis(claimed.claimed.term_ms);
        let keeper = Keeper::start(held.clone(), term, claimed.cursor);
        Self { held, claimed, turns: AtomicU64::new(0), outputs: Mutex::default(), _keeper: keeper }
    }

    /// The run as it was when it was claimed.
    pub fn run(&self) -> &RunInfo {
        &self.claimed.run
    }

    /// Names the run.
    pub fn key(&self) -> &RunKey {
        &self.held.run
    }

    /// Number of the lease.
    pub fn epoch(&self) -> u64 {
        self.held.epoch
    }

    /// Number of the attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.claimed.claimed.attempt
    }

    /// Whether the attempt goes on that had suspended the run.
    pub fn resumed(&self) -> bool {
        self.claimed.claimed.resumed
    }

    /// Waits of the run, oldest first, and what had become of them when it was claimed.
    pub fn waits(&self) -> &[Wait] {
        &self.claimed.run.waits
    }

    /// The wait of this name, as it stood when the run was claimed.
    pub fn wait(&self, wait_id: &str) -> Option<&Wait> {
        self.waits().iter().find(|wait| wait.id() == wait_id)
    }

    /// Input streams with messages that were owed when the run was claimed.
    pub fn owed(&self) -> &[OwedInputs] {
        &self.claimed.owed
    }

    /// Resolves when the job is to stop, and says why; never before. The future is independent of
    /// the job: it can be moved to another task.
    pub fn canceled(&self) -> impl Future<Output = Stop> + Send + use<> {
        let mut stop = self.held.subscribe();
        async move {
            let found = stop.wait_for(Option::is_some).await;
            // Without a job there is nothing to stop.
            found.ok().and_then(|stop| stop.clone()).unwrap_or(Stop::Finished)
        }
    }

    /// Why the job is to stop, if it is.
    pub fn stop(&self) -> Option<Stop> {
        self.held.stop()
    }

    /// Streams records out under the lease: each is in the log once, and in order.
    ///
    /// The producer is the stream's, its epoch that of the lease and of the opening: whoever opens
    /// the stream's output again, or claims the run after this, fences this one.
    ///
    /// # Errors
    /// As [`Client::appender`]. Whatever the server says comes with the first batch.
    pub fn output(&self, stream: impl Into<Arc<str>>) -> Result<Appender, Error> {
        let stream = stream.into();
        let opened = {
            let mut outputs = self.outputs.lock();
            let opened = outputs.entry(stream.clone()).or_default();
            *opened += 1;
            *opened
        };
        let options = AppenderOptions {
            run_uid: Some(self.held.run_uid),
            producer_id: Some(producer_id(&stream)),
            epoch: self.held.epoch << OPENINGS_BITS | opened,
            lease_epoch: Some(self.held.epoch),
            ..AppenderOptions::new(stream)
        };
        self.held.client.appender(&self.held.run, options)
    }

    /// Takes one message, waiting for one for so long; none if there is none in time. It is to be
    /// acked with [`Turn::ack`]. Until then, or for ten minutes, it is not given again.
    ///
    /// # Errors
    /// As [`Client::take`].
    pub async fn take(
        &self,
        stream: impl Into<Arc<str>>,
        wait: Duration,
    ) -> Result<Option<Input>, Error> {
        let term = Duration::from_millis(*CLAIM_TERM_MS.end());
        self.held.told(self.held.client.take(&self.consumer(stream), term, wait).await)
    }

    /// Receives messages as they come, `unacked_max` of them without an ack.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub async fn receive(
        &self,
        stream: impl Into<Arc<str>>,
        unacked_max: usize,
    ) -> Result<Receiver, Error> {
        let consumer = self.consumer(stream);
        self.held.told(self.held.client.receive(consumer, unacked_max).await)
    }

    /// Notes that a message was consumed, without anything else. [`Turn::ack`] does so in one step
    /// with what it caused.
    ///
    /// # Errors
    /// As [`Client::ack`].
    pub async fn ack(&self, stream: impl Into<Arc<str>>, input: &Input) -> Result<Acked, Error> {
        let index = Index(input.record.index);
        let acked = vec![(index, index + 1)];
        self.held.told(self.held.client.ack(&self.consumer(stream), acked).await)
    }

    /// Names the default consumer of a stream, under the lease.
    pub fn consumer(&self, stream: impl Into<Arc<str>>) -> InputConsumer {
        InputConsumer {
            run: self.held.run.clone(),
            run_uid: Some(self.held.run_uid),
            stream: stream.into(),
            consumer: DEFAULT_CONSUMER.into(),
            lease_epoch: Some(self.held.epoch),
        }
    }

    /// Begins a turn: a step that is done whole or not at all, and once.
    pub fn turn(&self) -> Turn<'_> {
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        Turn::new(self, format!("job-{}-{number}", self.held.epoch).into())
    }

    /// Gives the run back for another attempt at once, and tells where it stands then.
    ///
    /// # Errors
    /// As [`Client::commit`].
    pub async fn give_back(self) -> Result<RunStatus, Error> {
        Ok(self.turn().release(Release::default()).await?.status)
    }
}

/// Bits of a producer's epoch that count how often the output was opened under one lease.
const OPENINGS_BITS: u32 = 20;

/// Name of the producer of a stream: as many of them as streams, however often a run is claimed.
fn producer_id(stream: &str) -> Arc<str> {
    let readable = format!("job:{stream}");
    if readable.len() <= ID_BYTES_MAX {
        return readable.into();
    }
    format!("job#{:016x}", name_hash("", stream)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_of_streams_have_names_that_fit() {
        assert_eq!(&*producer_id("tokens"), "job:tokens");
        let (long, longer) = ("s".repeat(500), "s".repeat(501));
        assert!(producer_id(&long).len() <= ID_BYTES_MAX);
        assert_ne!(producer_id(&long), producer_id(&longer));
    }
}
