//! Sending to runs, and consuming what was sent.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert,
    generated::input_service_server::InputService,
    service::{Answer, failed, refused},
    steps::{After, Step, Steps},
    work::{patience, ranges},
};
use crate::{
    core::{DEFAULT_CONSUMER, NewRecord, Refusal, Send},
    engine::{self, InputConsumer, InputsEnd, Received, RunKey, Store},
    error::Error,
    proto::{self, *},
    record::{CLAIM_TERM_DEFAULT_MS, CLAIM_TERM_MS, CLAIMS_DEFAULT, Index},
};

/// Sends and consumes.
#[derive(Clone)]
pub(super) struct Inputs {
    pub(super) store: Store,
    /// Cancelled when calls that wait are to end.
    pub(super) drain: CancellationToken,
}

#[tonic::async_trait]
impl InputService for Inputs {
    async fn send(&self, request: Request<SendRequest>) -> Answer<SendResponse> {
        let request = request.into_inner();
        let run = RunKey::new(request.run_id);
        let send = Send {
            run_uid: convert::run_uid(&request.run_uid).map_err(refused)?,
            stream: request.stream.into(),
            message: NewRecord {
                data: request.data,
                headers: request.headers,
                id: request.message_id,
                client_time_ms: request.client_time_ms,
            },
        };
        let sent = self.store.send(&run, send).await.map_err(failed)?;
        Ok(Response::new(SendResponse {
            index: sent.index.0,
            seq: sent.seq.map(|seq| seq.0),
            deduplicated: sent.deduplicated,
            run_uid: convert::run_uid_bytes(sent.run_uid),
        }))
    }

    type ReceiveStream = Steps<Receiving>;

    async fn receive(&self, request: Request<ReceiveRequest>) -> Answer<Self::ReceiveStream> {
        let request = request.into_inner();
        let heartbeat = convert::heartbeat_of(request.heartbeat_ms).map_err(refused)?;
        let consumer = consumer(request.consumer).map_err(refused)?;
        let unacked_max = match request.max_unacked {
            0 => CLAIMS_DEFAULT,
            most => most as usize,
        };
        let receiver = self.store.receive(consumer, unacked_max).await.map_err(failed)?;
        let mut beat = interval(heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        Ok(Response::new(Steps::new(Receiving { receiver, beat, drain: self.drain.clone() })))
    }

    async fn take(&self, request: Request<TakeRequest>) -> Answer<TakeResponse> {
        let request = request.into_inner();
        let wait = patience(request.wait_ms).map_err(refused)?;
        let term = term(request.term_ms).map_err(refused)?;
        let consumer = consumer(request.consumer).map_err(refused)?;
        let patience = async {
            tokio::select! {
                () = sleep(wait) => {}
                () = self.drain.cancelled() => {}
            }
        };
        let taken = self.store.take(&consumer, term, patience).await.map_err(failed)?;
        if taken.is_none() && self.drain.is_cancelled() {
            return Err(failed(Error::ShuttingDown));
        }
        Ok(Response::new(TakeResponse { input: taken.map(input) }))
    }

    async fn peek(&self, request: Request<PeekRequest>) -> Answer<PeekResponse> {
        let consumer = consumer(request.into_inner().consumer).map_err(refused)?;
        let peeked = self.store.peek(&consumer).await.map_err(failed)?;
        Ok(Response::new(PeekResponse { input: peeked.map(input) }))
    }

    async fn ack(&self, request: Request<AckRequest>) -> Answer<AckResponse> {
        let request = request.into_inner();
        let consumer = consumer(request.consumer).map_err(refused)?;
        let acked = self.store.ack(&consumer, ranges(request.ranges)).await.map_err(failed)?;
        Ok(Response::new(AckResponse { floor: acked.floor.0, owed: acked.owed }))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Answer<ReleaseResponse> {
        let request = request.into_inner();
        let consumer = consumer(request.consumer).map_err(refused)?;
        let released = self.store.release(&consumer, Index(request.index)).await;
        Ok(Response::new(ReleaseResponse { was_claimed: released.map_err(failed)? }))
    }

    async fn extend(&self, request: Request<ExtendRequest>) -> Answer<ExtendResponse> {
        let request = request.into_inner();
        let term = term(request.term_ms).map_err(refused)?;
        let consumer = consumer(request.consumer).map_err(refused)?;
        let extended = self.store.extend(&consumer, Index(request.index), term).await;
        Ok(Response::new(ExtendResponse { was_claimed: extended.map_err(failed)? }))
    }
}

fn consumer(consumer: Option<proto::InputConsumer>) -> Result<InputConsumer, Refusal> {
    let consumer = consumer.ok_or_else(|| Refusal::invalid("consumer", "is missing"))?;
    let name = if consumer.consumer.is_empty() { DEFAULT_CONSUMER } else { &consumer.consumer };
    Ok(InputConsumer {
        run: RunKey::new(consumer.run_id),
        run_uid: convert::run_uid(&consumer.run_uid)?,
        stream: consumer.stream.into(),
        consumer: name.into(),
        lease_epoch: consumer.lease_epoch,
    })
}

fn term(term_ms: u64) -> Result<Duration, Refusal> {
    let term_ms = if term_ms == 0 { CLAIM_TERM_DEFAULT_MS } else { term_ms };
    if !CLAIM_TERM_MS.contains(&term_ms) {
        let (least, most) = (CLAIM_TERM_MS.start(), CLAIM_TERM_MS.end());
        let problem = format!("is {term_ms}: between {least} and {most} are taken");
        return Err(Refusal::invalid("term_ms", problem));
    }
    Ok(Duration::from_millis(term_ms))
}

fn input(input: engine::Input) -> Input {
    Input { record: Some(input.record), redelivery: input.redelivery }
}

/// A call that receives.
pub(super) struct Receiving {
    receiver: engine::Receiver,
    beat: Interval,
    drain: CancellationToken,
}

impl Step for Receiving {
    type Answer = ReceiveResponse;

    async fn next(&mut self) -> (Result<ReceiveResponse, Status>, After) {
        if self.drain.is_cancelled() {
            return (Err(failed(Error::ShuttingDown)), After::Nothing);
        }
        let received = tokio::select! {
            biased;
            received = self.receiver.next() => received,
            () = self.drain.cancelled() => Err(Error::ShuttingDown),
            _ = self.beat.tick() => Ok(Received::Inputs(Vec::new())),
        };
        self.beat.reset();
        match received {
            Ok(Received::Inputs(inputs)) => {
                let inputs = inputs.into_iter().map(input).collect();
                (Ok(ReceiveResponse { inputs, end: None }), After::More)
            }
            Ok(Received::End(end)) => {
                let reason = match end {
                    InputsEnd::Closed => InputsEndReason::Closed,
                    InputsEnd::Superseded => InputsEndReason::Superseded,
                };
                let end = Some(proto::InputsEnd { reason: reason.into() });
                (Ok(ReceiveResponse { inputs: Vec::new(), end }), After::Nothing)
            }
            Err(error) => (Err(failed(error)), After::Nothing),
        }
    }
}
