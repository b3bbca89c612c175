//! Sending to runs, and consuming what was sent.
//!
//! A [`Receiver`] outlives its connections: it opens the call again, and the server delivers again
//! what was delivered and not acked, marked as a redelivery.

use std::time::Duration;

use tonic::{Response, Streaming};

use super::{
    Client, convert,
    convert::{run_id, run_uid_bytes, unexpected},
    link::{Inputs, Link},
    live::Live,
    retry::Repeat,
    work::ranges,
};
use crate::{
    core::{Refusal, Send, Sent},
    engine::{Acked, Input, InputConsumer, InputsEnd, Received, RunKey},
    error::Error,
    proto::{self, InputsEndReason, ReceiveRequest, ReceiveResponse},
    record::{Index, Seq, WAIT_CALL_MS_MAX},
};

fn inputs(link: &Link) -> Inputs {
    link.inputs().1
}

impl Client {
    /// Sends a message to a run. Sending it again with the same id changes nothing. Repeated only
    /// if it has an id, or was certainly not applied.
    ///
    /// # Errors
    /// As [`Store::send`](crate::engine::Store::send).
    pub async fn send(&self, run: &RunKey, send: Send) -> Result<Sent, Error> {
        let has_id = !send.message.id.is_empty();
        let repeat = if has_id { Repeat::Command } else { Repeat::UnlessSent };
        let request = proto::SendRequest {
            run_id: run_id(run)?,
            run_uid: run_uid_bytes(send.run_uid),
            stream: send.stream.as_ref().into(),
            data: send.message.data,
            headers: send.message.headers,
            message_id: send.message.id,
            client_time_ms: send.message.client_time_ms,
        };
        let call = |mut inputs: Inputs, request| async move { inputs.send(request).await };
        let answer = self.call(repeat, inputs, request, call).await?;
        Ok(Sent {
            run_uid: convert::run_uid(&answer.run_uid)?,
            seq: answer.seq.map(Seq),
            index: Index(answer.index),
            deduplicated: answer.deduplicated,
        })
    }

    /// Delivers every message that the consumer owes, then what comes, `unacked_max` of them
    /// without an ack, across broken connections. A receiver of the same consumer that began
    /// earlier ends.
    ///
    /// # Errors
    /// As [`Store::receive`](crate::engine::Store::receive).
    pub async fn receive(
        &self,
        consumer: InputConsumer,
        unacked_max: usize,
    ) -> Result<Receiver, Error> {
        // Zero has another meaning in the protocol.
        if unacked_max == 0 {
            return Err(Refusal::invalid("max_unacked", "is zero").into());
        }
        let request = ReceiveRequest {
            consumer: Some(to_consumer(&consumer)?),
            max_unacked: u32::try_from(unacked_max).unwrap_or(u32::MAX),
            heartbeat_ms: convert::heartbeat_ms(self.options.heartbeat),
        };
        let mut receiver = Receiver { live: Live::new(self.clone()), request, end: None };
        while let Err(error) = receiver.connect().await {
            receiver.live.recover(error).await?;
        }
        Ok(receiver)
    }

    /// Delivers one message and claims it for a term, waiting for one for so long. None if there is
    /// none in time.
    ///
    /// Repeated only if nothing was claimed. After [`Error::OutcomeUnknown`], a message that never
    /// arrived is delivered again when its term is over.
    ///
    /// # Errors
    /// As [`Store::take`](crate::engine::Store::take).
    pub async fn take(
        &self,
        consumer: &InputConsumer,
        term: Duration,
        wait: Duration,
    ) -> Result<Option<Input>, Error> {
        let mut left_ms = convert::millis(wait);
        loop {
            // One call waits only so long.
            let wait_ms = left_ms.min(WAIT_CALL_MS_MAX);
            left_ms -= wait_ms;
            let request = proto::TakeRequest {
                consumer: Some(to_consumer(consumer)?),
                wait_ms,
                term_ms: term_ms(term)?,
            };
            let call = |mut inputs: Inputs, request| async move { inputs.take(request).await };
            let answer = self.call(Repeat::UnlessSent, inputs, request, call).await?;
            match answer.input {
                Some(found) => return input(found).map(Some),
                None if left_ms == 0 => return Ok(None),
                None => {}
            }
        }
    }

    /// The first message that the consumer owes; claims nothing.
    ///
    /// # Errors
    /// As [`Store::peek`](crate::engine::Store::peek).
    pub async fn peek(&self, consumer: &InputConsumer) -> Result<Option<Input>, Error> {
        let request = proto::PeekRequest { consumer: Some(to_consumer(consumer)?) };
        let call = |mut inputs: Inputs, request| async move { inputs.peek(request).await };
        let answer = self.call(Repeat::Read, inputs, request, call).await?;
        answer.input.map(input).transpose()
    }

    /// Notes durably that messages were consumed: ranges from the first index to the one after the
    /// last.
    ///
    /// # Errors
    /// As [`Store::ack`](crate::engine::Store::ack).
    pub async fn ack(
        &self,
        consumer: &InputConsumer,
        acked: Vec<(Index, Index)>,
    ) -> Result<Acked, Error> {
        let consumer = Some(to_consumer(consumer)?);
        let request = proto::AckRequest { consumer, ranges: ranges(acked) };
        let call = |mut inputs: Inputs, request| async move { inputs.ack(request).await };
        let answer = self.call(Repeat::Command, inputs, request, call).await?;
        Ok(Acked { floor: Index(answer.floor), owed: answer.owed })
    }

    /// Gives a message that was claimed back: it is delivered again. False if it was not claimed,
    /// also if an earlier attempt of this very call had given it back.
    ///
    /// # Errors
    /// As [`Store::release`](crate::engine::Store::release).
    pub async fn release(&self, consumer: &InputConsumer, index: Index) -> Result<bool, Error> {
        let consumer = Some(to_consumer(consumer)?);
        let request = proto::ReleaseRequest { consumer, index: index.0 };
        let call = |mut inputs: Inputs, request| async move { inputs.release(request).await };
        Ok(self.call(Repeat::Command, inputs, request, call).await?.was_claimed)
    }

    /// Gives the claim on a message that was taken another term from now on. False if it was not
    /// claimed: others may have it.
    ///
    /// # Errors
    /// As [`Store::extend`](crate::engine::Store::extend).
    pub async fn extend(
        &self,
        consumer: &InputConsumer,
        index: Index,
        term: Duration,
    ) -> Result<bool, Error> {
        let consumer = Some(to_consumer(consumer)?);
        let request = proto::ExtendRequest { consumer, index: index.0, term_ms: term_ms(term)? };
        let call = |mut inputs: Inputs, request| async move { inputs.extend(request).await };
        Ok(self.call(Repeat::Command, inputs, request, call).await?.was_claimed)
    }
}

/// Delivers what a consumer owes, then what comes, across broken connections. Made by
/// [`Client::receive`].
///
/// What it has delivered and is not acked is given back when it is dropped, and whenever its
/// connection breaks: it is then delivered again, marked as a redelivery.
#[derive(Debug)]
pub struct Receiver {
    live: Live<Streaming<ReceiveResponse>>,
    request: ReceiveRequest,
    end: Option<InputsEnd>,
}

impl Receiver {
    /// The next messages. Waits for some, and for a server that is away. After
    /// [`Received::End`], and only then, nothing follows; it is then returned again and again.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] once the run is handed to another worker, [`Refusal::RunDeleted`], and
    /// [`Error::Unavailable`] when the server was away for longer than the retry policy allows.
    /// Another call tries again.
    pub async fn next(&mut self) -> Result<Received, Error> {
        loop {
            if let Some(end) = self.end {
                return Ok(Received::End(end));
            }
            match self.message().await {
                Ok(Some(inputs)) => return Ok(Received::Inputs(inputs)),
                Ok(None) => {}
                Err(error) => self.live.recover(error).await?,
            }
        }
    }

    /// Messages, if the next answer holds some.
    async fn message(&mut self) -> Result<Option<Vec<Input>>, Error> {
        self.connect().await?;
        let ReceiveResponse { inputs, end } = self.live.message().await?;
        let inputs = inputs.into_iter().map(input).collect::<Result<Vec<_>, _>>()?;
        if let Some(end) = end {
            self.end = Some(match end.reason() {
                InputsEndReason::Closed => InputsEnd::Closed,
                InputsEndReason::Superseded => InputsEnd::Superseded,
                InputsEndReason::Unspecified => return Err(unexpected("an unknown end")),
            });
        }
        Ok((!inputs.is_empty()).then_some(inputs))
    }

    async fn connect(&mut self) -> Result<(), Error> {
        if self.live.is_open() {
            return Ok(());
        }
        let (generation, mut inputs) = self.live.client.link.inputs();
        let request = self.request.clone();
        self.live
            .open(
                generation,
                async move { inputs.receive(request).await.map(Response::into_inner) },
            )
            .await
    }
}

fn to_consumer(consumer: &InputConsumer) -> Result<proto::InputConsumer, Error> {
    // Empty has another meaning in the protocol.
    if consumer.consumer.is_empty() {
        return Err(Refusal::invalid("consumer", "is empty").into());
    }
    Ok(proto::InputConsumer {
        run_id: run_id(&consumer.run)?,
        run_uid: run_uid_bytes(consumer.run_uid),
        stream: consumer.stream.as_ref().into(),
        consumer: consumer.consumer.as_ref().into(),
        lease_epoch: consumer.lease_epoch,
    })
}

/// Zero has another meaning in the protocol.
fn term_ms(term: Duration) -> Result<u64, Refusal> {
    match convert::millis(term) {
        0 => Err(Refusal::invalid("term_ms", "is zero")),
        term_ms => Ok(term_ms),
    }
}

fn input(input: proto::Input) -> Result<Input, Error> {
    let record = input.record.ok_or_else(|| unexpected("a message without its record"))?;
    Ok(Input { record, redelivery: input.redelivery })
}
