//! Appends that do not wait for each other, across broken connections.
//!
//! Batches go out over a lane of a session that the appenders of a client share ([`lanes`]), numbered
//! for an idempotent producer. A task of its own keeps every batch until it is acknowledged; after a
//! broken connection it sends those again, in order and under the same numbers, and the server answers
//! what it has already with the original positions. So each batch is in the log once, and behind those
//! submitted before it.
//!
//! [`lanes`]: super::lanes

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::Stream;
use tonic::{Response, Status, Streaming};

use super::{
    Client, convert,
    lanes::{Lane, LaneNo, Laned},
    link::Streams,
    retry::{Backoff, Repeat, random_id},
};
use crate::{
    core::{Append, Appended, NewRecord, Producer, Refusal},
    engine::{IfAbsent, RunKey},
    error::Error,
    grpc::status::{Call, from_status},
    proto::{
        AppendRecord, AppendSessionRequest, AppendSessionResponse, LaneEnd, SessionBatch,
        SessionClose, SessionOpen, append_session_request::Message,
    },
    record::{PRODUCER_APPENDS_REMEMBERED, RunUid},
    sabotage::{self, Bug},
};

/// The call that carries appenders.
#[derive(Debug)]
pub(super) struct Appends;

impl Laned for Appends {
    type Message = Message;
    type Request = AppendSessionRequest;
    type Answer = AppendSessionResponse;

    async fn call(
        mut streams: Streams,
        requests: impl Stream<Item = AppendSessionRequest> + Send + 'static,
    ) -> Result<Response<Streaming<AppendSessionResponse>>, Status> {
        streams.append_session(requests).await
    }

    fn on(lane: LaneNo, message: Message) -> AppendSessionRequest {
        AppendSessionRequest { message: Some(message), lane }
    }

    fn close() -> Message {
        Message::Close(SessionClose {})
    }

    fn lane(answer: &mut AppendSessionResponse) -> (LaneNo, Option<LaneEnd>) {
        (answer.lane, answer.ended.take())
    }

    fn is_heartbeat(_: &AppendSessionResponse) -> bool {
        false
    }
}

/// What an appender appends to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppenderOptions {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// What to do if the run does not exist.
    pub absent: IfAbsent,
    /// Name of the producer in the run; random if none is given.
    pub producer_id: Option<Arc<str>>,
    /// Epoch of the producer: higher than any that this producer has used.
    pub epoch: u64,
    /// Batches that may wait for their acknowledgement. Above 64, the positions of a batch that
    /// was acknowledged only after a broken connection may be forgotten; it is there all the same.
    pub in_flight_max: usize,
    /// Number of the lease under which this is done, if any.
    pub lease_epoch: Option<u64>,
}

impl AppenderOptions {
    /// A producer of its own on `stream`; the run must exist.
    pub fn new(stream: impl Into<Arc<str>>) -> Self {
        Self {
            stream: stream.into(),
            run_uid: None,
            absent: IfAbsent::Refuse,
            producer_id: None,
            epoch: 0,
            in_flight_max: PRODUCER_APPENDS_REMEMBERED,
            lease_epoch: None,
        }
    }
}

/// Appends batches to one stream, in order and each once. Made by [`Client::appender`].
///
/// The first refusal ends it: that batch and all behind it were not applied, and every later call
/// gives the same error. Dropping it gives up nothing that was submitted; [`finish`](Self::finish)
/// waits for it.
#[derive(Debug)]
pub struct Appender {
    stream: Arc<str>,
    producer_id: Arc<str>,
    room: Arc<Semaphore>,
    batches: mpsc::Sender<Batch>,
    failure: Arc<OnceLock<Error>>,
    driver: JoinHandle<Result<(), Error>>,
}

/// Tells when a batch is durable, and where. Dropping it does not take the batch back.
#[derive(Debug)]
#[must_use = "the batch is durable only when the receipt says so"]
pub struct Receipt(oneshot::Receiver<Result<Appended, Error>>);

impl Future for Receipt {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let never_told = || Error::OutcomeUnknown { cause: "the appender was stopped".into() };
        Pin::new(&mut self.0).poll(cx).map(|told| told.unwrap_or_else(|_| Err(never_told())))
    }
}

/// A batch until it is acknowledged.
#[derive(Debug)]
struct Batch {
    records: Vec<AppendRecord>,
    receipt: oneshot::Sender<Result<Appended, Error>>,
    /// Whether it was handed to a connection, and may have been applied.
    sent: bool,
    _room: OwnedSemaphorePermit,
}

impl Batch {
    /// Bytes of its bodies: headers are not worth counting, and batches ahead have a number, too.
    fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.data.len()).sum()
    }
}

impl Appender {
    pub(super) fn start(
        client: Client,
        run: &RunKey,
        options: AppenderOptions,
    ) -> Result<Self, Error> {
        if options.in_flight_max == 0 {
            return Err(Refusal::invalid("in_flight_max", "is zero").into());
        }
        let producer_id = options.producer_id.unwrap_or_else(random_id);
        let open = SessionOpen {
            run_id: convert::run_id(run)?,
            run_uid: convert::run_uid_bytes(options.run_uid),
            create_run: options.absent == IfAbsent::Create,
            stream: options.stream.as_ref().into(),
            producer_id: producer_id.as_ref().into(),
            producer_epoch: options.epoch,
            lease_epoch: options.lease_epoch,
        };
        // Every batch in the channel has its permit, so there is always room.
        let in_flight_max = options.in_flight_max.min(Semaphore::MAX_PERMITS);
        let (batches, submitted) = mpsc::channel(in_flight_max);
        let failure = Arc::new(OnceLock::new());
        let driver = Driver {
            backoff: Backoff::new(client.options.retry.clone()),
            client,
            open,
            submitted,
            waiting: VecDeque::new(),
            first_seq: 0,
            failure: failure.clone(),
        };
        Ok(Self {
            stream: options.stream,
            producer_id,
            room: Arc::new(Semaphore::new(in_flight_max)),
            batches,
            failure,
            driver: tokio::spawn(driver.drive()),
        })
    }

    /// Name of the producer.
    pub fn producer_id(&self) -> &str {
        &self.producer_id
    }

    /// Appends a batch and waits until it is durable.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and as [`Receipt`].
    pub async fn append(&mut self, records: Vec<NewRecord>) -> Result<Appended, Error> {
        self.submit(records).await?.await
    }

    /// Submits a batch. Waits while as many as allowed are not acknowledged.
    ///
    /// # Errors
    /// What can be refused without asking the server, which leaves the appender usable; and the
    /// error that has ended it.
    pub async fn submit(&mut self, records: Vec<NewRecord>) -> Result<Receipt, Error> {
        let records = self.checked(records)?;
        let room = self.room.clone().acquire_owned().await.map_err(|_| self.ended())?;
        let (receipt, told) = oneshot::channel();
        let batch = Batch { records, receipt, sent: false, _room: room };
        self.batches.send(batch).await.map_err(|_| self.ended())?;
        Ok(Receipt(told))
    }

    fn checked(&self, records: Vec<NewRecord>) -> Result<Vec<AppendRecord>, Refusal> {
        let producer = Producer { id: self.producer_id.clone(), epoch: 0, seq: 0 };
        let append = Append {
            stream: self.stream.clone(),
            records,
            producer: Some(producer),
            ..Append::default()
        };
        append.check()?;
        Ok(convert::append_records(append.records))
    }

    fn ended(&self) -> Error {
        let stopped = || Error::OutcomeUnknown { cause: "the appender was stopped".into() };
        self.failure.get().cloned().unwrap_or_else(stopped)
    }

    /// Waits until everything submitted is durable.
    ///
    /// # Errors
    /// The error that has ended the appender.
    pub async fn finish(self) -> Result<(), Error> {
        let Self { batches, driver, .. } = self;
        drop(batches);
        let stopped = |_| Err(Error::OutcomeUnknown { cause: "the appender was stopped".into() });
        driver.await.unwrap_or_else(stopped)
    }
}

/// Keeps batches until they are acknowledged, and a lane to send them over.
struct Driver {
    client: Client,
    open: SessionOpen,
    backoff: Backoff,
    submitted: mpsc::Receiver<Batch>,
    /// Batches not acknowledged, in order.
    waiting: VecDeque<Batch>,
    /// Producer seq of the first of them.
    first_seq: u64,
    failure: Arc<OnceLock<Error>>,
}

impl Driver {
    async fn drive(mut self) -> Result<(), Error> {
        // A connection is worth its trouble only if there is something to send.
        while self.has_work().await {
            match self.session().await {
                Ok(()) => return Ok(()),
                Err(error) if !Repeat::Command.may_follow(&error) => return Err(self.fail(error)),
                Err(error) if !self.backoff.pause(&error).await => return Err(self.fail(error)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Waits for a batch, if none waits; false if no more will come.
    async fn has_work(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.waiting.extend(self.submitted.recv().await);
        }
        !self.waiting.is_empty()
    }

    /// Gives every batch the error, as far as it concerns it, and refuses further ones.
    fn fail(&mut self, error: Error) -> Error {
        // Whoever finds the queue closed finds the reason.
        _ = self.failure.set(error.clone());
        self.submitted.close();
        while let Ok(batch) = self.submitted.try_recv() {
            self.waiting.push_back(batch);
        }
        for batch in self.waiting.drain(..) {
            let is_open = batch.sent && Repeat::Command.may_follow(&error);
            let told = match is_open {
                true => Error::OutcomeUnknown { cause: error.to_string().into() },
                false => error.clone(),
            };
            _ = batch.receipt.send(Err(told));
        }
        error
    }

    /// Sends what waits and what comes over one lane, until everything is acknowledged and no more
    /// comes.
    async fn session(&mut self) -> Result<(), Error> {
        if sabotage::is(Bug::ResendAsNew) && self.waiting.iter().any(|batch| batch.sent) {
            self.open.producer_epoch += 1;
            self.first_seq = 0;
        }
        let mut lane = self.client.appends.open(&self.client.link);
        let begun = self.backoff.bound(lane.begin(Message::Open(self.open.clone())));
        begun.await.ok_or_else(|| Repeat::Command.timed_out())?;
        self.exchange(&mut lane).await
    }

    async fn exchange(&mut self, lane: &mut Lane<Appends>) -> Result<(), Error> {
        let (mut sent, mut is_complete, mut is_gone) = (0, false, false);
        loop {
            if is_complete && self.waiting.is_empty() {
                return Ok(());
            }
            let unsent = sent < self.waiting.len();
            let bytes = self.waiting.get(sent).map_or(0, Batch::bytes);
            let (outgoing, answers) = lane.halves();
            tokio::select! {
                biased;
                answer = answers.next() => {
                    sent = self.acknowledge(answer.map_err(failed)?, sent)?;
                }
                slot = outgoing.reserve(bytes), if unsent && !is_gone => match slot {
                    Some(slot) => {
                        slot.send(Message::Batch(self.message(sent)));
                        sent += 1;
                    }
                    // The answers say why, behind what is acknowledged yet.
                    None => is_gone = true,
                },
                batch = self.submitted.recv(), if !unsent && !is_complete => match batch {
                    Some(batch) => self.waiting.push_back(batch),
                    None => is_complete = true,
                },
            }
        }
    }

    /// What is sent of a batch that waits.
    fn message(&mut self, at: usize) -> SessionBatch {
        let batch = &mut self.waiting[at];
        batch.sent = true;
        SessionBatch {
            records: batch.records.clone(),
            producer_seq: self.first_seq + at as u64,
            ..SessionBatch::default()
        }
    }

    /// Settles the first batch that waits, of those sent over this lane; how many are left.
    fn acknowledge(&mut self, message: AppendSessionResponse, sent: usize) -> Result<usize, Error> {
        let unasked = || convert::unexpected("an acknowledgement of nothing");
        let sent = sent.checked_sub(1).ok_or_else(unasked)?;
        let appended = convert::appended(message.appended.ok_or_else(unasked)?)?;
        let batch = self.waiting.pop_front().ok_or_else(unasked)?;
        self.first_seq += 1;
        // A later session must not write to another run of the same name.
        self.open.run_uid = convert::run_uid_bytes(Some(appended.run_uid));
        self.backoff.reset();
        // Nobody has to look at a receipt.
        _ = batch.receipt.send(Ok(appended));
        Ok(sent)
    }
}

fn failed(status: Status) -> Error {
    from_status(&status, Call::Command)
}
