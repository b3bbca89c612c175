//! Sending to runs, and consuming what was sent: messages are delivered from the first that is
//! owed, each to one consumer at a time, until they are acked.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::sync::{Notify, watch};

use super::{
    admission::Purpose,
    claims::{DeskName, Holder, Offer, Turn, Wish},
    request::{Acked, Bounds, Input, InputConsumer, InputsEnd, Query, Received, RunKey, Start},
    shard::Run,
    shared::Shared,
    store::Store,
};
use crate::{
    core::{Ack, Commit, Refusal, Send, Sent},
    error::Error,
    proto::Record,
    record::{CLAIMS_MAX, ID_BYTES_MAX, Index, STREAM_NAME_BYTES_MAX, check_name},
};

/// Inputs that are delivered at once, at most.
const PAGE_INPUTS: usize = 100;
/// Bytes of inputs that are delivered at once, about.
const PAGE_BYTES: u64 = 1 << 20;

/// Delivers what a consumer owes, then what comes. What it has delivered and is not acked is given
/// back when it is dropped.
pub struct Receiver {
    store: Store,
    consumer: InputConsumer,
    desk: DeskName,
    holder: Holder,
    held_max: usize,
    wake: Arc<Notify>,
    end: Option<InputsEnd>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.store.shared.claims.end(&self.desk, self.holder);
    }
}

/// What to do with a run that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfEnded {
    GoOn,
    Refuse,
}

/// What a look at a consumer's inputs has found.
enum Look {
    Offer(Offer),
    /// Nothing; changes when there may be.
    Nothing(watch::Receiver<()>),
    End(InputsEnd),
}

/// Gives claims back that were not delivered.
struct Undelivered<'a> {
    shared: &'a Shared,
    desk: &'a DeskName,
    holder: Holder,
    from: Index,
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        self.shared.claims.give_back(self.desk, self.holder, self.from);
    }
}

impl InputConsumer {
    fn check(&self) -> Result<(), Refusal> {
        check_name(&self.stream, STREAM_NAME_BYTES_MAX)
            .map_err(|error| Refusal::name("stream", error))?;
        check_name(&self.consumer, ID_BYTES_MAX).map_err(|error| Refusal::name("consumer", error))
    }
}

impl Store {
    /// Sends a message to a run. Sending it again with the same id changes nothing.
    ///
    /// # Errors
    /// Those of [`RunState::send`](crate::core::RunState::send), and [`Refusal::RunNotFound`].
    pub async fn send(&self, run: &RunKey, send: Send) -> Result<Sent, Error> {
        send.check()?;
        let size = send.frame_bytes_max();
        let permit = self.permit(size).await?;
        let sent = self.shared.with_run(run, |shared, run| {
            shared.check_room(size, Purpose::Add)?;
            let decided = run.state.send(&send, &shared.context(run));
            Ok(shared.decided(run, decided, permit, |_, sent| sent))
        });
        sent.await?.await
    }

    /// Delivers every message that the consumer owes, then what comes, `unacked_max` of them
    /// without an ack. A receiver of the same consumer that began earlier ends.
    ///
    /// # Errors
    /// [`Refusal::Fenced`], [`Refusal::LeaseRequired`], [`Refusal::Closed`], and the usual ones.
    pub async fn receive(
        &self,
        consumer: InputConsumer,
        unacked_max: usize,
    ) -> Result<Receiver, Error> {
        if !(1..=CLAIMS_MAX).contains(&unacked_max) {
            return Err(Refusal::invalid("max_unacked", "is not between 1 and 4096").into());
        }
        let (desk, epoch) = self.desk(&consumer, IfEnded::GoOn).await?;
        let holder = self.shared.claims.holder();
        let wake = self.shared.claims.begin(&desk, epoch, holder);
        let (store, end) = (self.clone(), None);
        Ok(Receiver { store, consumer, desk, holder, held_max: unacked_max, wake, end })
    }

    /// Delivers one message and claims it for a term, waiting for one until `patience` is over.
    /// None if there is none in time; nothing is claimed then.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn take(
        &self,
        consumer: &InputConsumer,
        term: Duration,
        patience: impl Future<Output = ()>,
    ) -> Result<Option<Input>, Error> {
        let (desk, epoch) = self.desk(consumer, IfEnded::Refuse).await?;
        let shared = &self.shared;
        let (holder, wake) = (shared.claims.holder(), shared.claims.wake(&desk, epoch));
        let mut patience = pin!(patience);
        loop {
            let mut woken = pin!(wake.notified());
            woken.as_mut().enable();
            let until = shared.platform.clock.mono() + term;
            let wish = Wanted { holder, held_max: 1, until: Some(until), is_receiver: false };
            match self.look(consumer, &desk, &wish).await? {
                Look::Offer(offer) => {
                    return Ok(self.deliver(consumer, &desk, holder, offer).await?.pop());
                }
                // The run has ended meanwhile: the next look at it says how.
                Look::End(_) => drop(self.desk(consumer, IfEnded::Refuse).await?),
                Look::Nothing(mut changed) => {
                    let mut changed = pin!(changed.changed());
                    let goes_on = poll_fn(|context| {
                        let is_woken = woken.as_mut().poll(context).is_ready();
                        if is_woken || changed.as_mut().poll(context).is_ready() {
                            return Poll::Ready(true);
                        }
                        patience.as_mut().poll(context).map(|()| false)
                    });
                    if !goes_on.await {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The first message that a consumer owes, whoever works on it. Claims nothing.
    ///
    /// # Errors
    /// The usual ones.
    pub async fn peek(&self, consumer: &InputConsumer) -> Result<Option<Input>, Error> {
        consumer.check()?;
        let owed = self.shared.with_run(&consumer.run, |_, run| {
            run.published.check_run(consumer.run_uid)?;
            let Some(stream) = run.state.stream_no(&consumer.stream) else { return Ok(None) };
            let Some(inbox) = &run.state.stream(stream).inbox else {
                return Err(Refusal::invalid("stream", "is not an input stream").into());
            };
            let trim = run.state.stream(stream).trim;
            let first = inbox.next_owed(&consumer.consumer, trim);
            let visible = run.published.streams.get(stream.0 as usize);
            Ok(visible.filter(|visible| first < visible.tail).map(|_| first))
        });
        let Some(first) = owed.await? else { return Ok(None) };
        let records = self.records(consumer, first, first + 1).await?;
        let opened_ms = self.shared.opened_ms;
        Ok(records.into_iter().next().map(|record| {
            let redelivery = record.time_ms < opened_ms;
            Input { record, redelivery }
        }))
    }

    /// Notes durably that messages were consumed.
    ///
    /// # Errors
    /// Those of [`RunState::commit`](crate::core::RunState::commit).
    pub async fn ack(
        &self,
        consumer: &InputConsumer,
        ranges: Vec<(Index, Index)>,
    ) -> Result<Acked, Error> {
        let InputConsumer { run, run_uid, stream, consumer: name, lease_epoch } = consumer;
        let ack = Ack { stream: stream.clone(), consumer: name.clone(), ranges };
        let commit = Commit {
            run_uid: *run_uid,
            lease_epoch: *lease_epoch,
            acks: vec![ack],
            ..Commit::default()
        };
        commit.check()?;
        let acked = self.shared.with_run(run, |shared, run| {
            shared.check_room(commit.frame_bytes_max(), Purpose::End)?;
            let decided = run.state.commit(&commit, &shared.context(run));
            if decided.is_ok() && lease_epoch.is_some() {
                shared.hear(run);
            }
            Ok(shared.decided(run, decided, None, |run, _| acked(run, stream, name)))
        });
        acked.await?.await
    }

    /// Gives a message that was claimed back: it is delivered again. False if it was not claimed.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn release(&self, consumer: &InputConsumer, index: Index) -> Result<bool, Error> {
        let (desk, _) = self.desk(consumer, IfEnded::Refuse).await?;
        Ok(self.shared.claims.release(&desk, index))
    }

    /// Gives the claim on a message that was taken another term from now on. False if it was not
    /// claimed: others may have it.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn extend(
        &self,
        consumer: &InputConsumer,
        index: Index,
        term: Duration,
    ) -> Result<bool, Error> {
        let (desk, _) = self.desk(consumer, IfEnded::Refuse).await?;
        let now = self.shared.platform.clock.mono();
        Ok(self.shared.claims.extend(&desk, index, now, term))
    }

    /// Where a consumer's claims are, and the number of the run's lease; refused if the consumer
    /// may not have any.
    async fn desk(
        &self,
        consumer: &InputConsumer,
        ended: IfEnded,
    ) -> Result<(DeskName, u64), Error> {
        consumer.check()?;
        let InputConsumer { run_uid, lease_epoch, stream, .. } = consumer;
        let found = self.shared.with_run(&consumer.run, |shared, run| {
            let checked = run.state.check_consumer(*run_uid, *lease_epoch, stream);
            let checked = checked.and_then(|()| match ended {
                IfEnded::GoOn => Ok(()),
                IfEnded::Refuse => run.state.check_goes_on(),
            });
            let answer = checked.map(|()| (run.state.run_no, run.state.life.epoch));
            Ok(shared.settled(run, answer))
        });
        let (run_no, epoch) = found.await?.await?;
        let (stream, name) = (consumer.stream.clone(), consumer.consumer.clone());
        Ok((DeskName { run_no, stream, consumer: name }, epoch))
    }

    /// Looks whether there is something for a consumer, and claims it.
    async fn look(
        &self,
        consumer: &InputConsumer,
        desk: &DeskName,
        wanted: &Wanted,
    ) -> Result<Look, Error> {
        let look = self.shared.with_run(&consumer.run, |shared, run| {
            run.state.check_consumer(consumer.run_uid, consumer.lease_epoch, &consumer.stream)?;
            if run.state.run_no != desk.run_no {
                return Err(Refusal::RunReplaced { run_uid: run.state.run_uid }.into());
            }
            if run.state.ending.is_some() {
                return Ok(Look::End(InputsEnd::Closed));
            }
            let changed = run.published.subscribe();
            let stream = run.state.stream_no(&desk.stream);
            let visible = stream.and_then(|stream| run.published.streams.get(stream.0 as usize));
            let wish = Wish {
                holder: wanted.holder,
                is_receiver: wanted.is_receiver,
                epoch: run.state.life.epoch,
                inbox: stream.and_then(|stream| run.state.stream(stream).inbox.as_ref()),
                trim: stream.map_or(Index::ZERO, |stream| run.state.stream(stream).trim),
                tail: visible.map_or(Index::ZERO, |visible| visible.tail),
                held_max: wanted.held_max,
                offer_max: PAGE_INPUTS,
                now: shared.platform.clock.mono(),
                until: wanted.until,
            };
            Ok(match shared.claims.turn(desk, &wish) {
                Turn::Offer(offer) => Look::Offer(offer),
                Turn::Nothing => Look::Nothing(changed),
                Turn::Superseded => Look::End(InputsEnd::Superseded),
            })
        });
        look.await
    }

    /// Reads what was claimed; what is not delivered is given back.
    async fn deliver(
        &self,
        consumer: &InputConsumer,
        desk: &DeskName,
        holder: Holder,
        offer: Offer,
    ) -> Result<Vec<Input>, Error> {
        let Offer { from, to, delivered } = offer;
        let shared = &*self.shared;
        let mut undelivered = Undelivered { shared, desk, holder, from };
        let records = self.records(consumer, from, to).await?;
        let opened_ms = shared.opened_ms;
        let inputs = records.into_iter().map(|record| {
            let was_delivered = Index(record.index) < delivered;
            let redelivery = was_delivered || record.time_ms < opened_ms;
            Input { record, redelivery }
        });
        let inputs: Vec<Input> = inputs.collect();
        undelivered.from = from + inputs.len() as u64;
        if undelivered.from == to {
            std::mem::forget(undelivered);
        }
        Ok(inputs)
    }

    async fn records(
        &self,
        consumer: &InputConsumer,
        from: Index,
        to: Index,
    ) -> Result<Vec<Record>, Error> {
        let query = Query::stream(consumer.run.clone(), consumer.stream.clone());
        let bounds =
            Bounds { records: Some(to.0 - from.0), bytes: Some(PAGE_BYTES), ..Bounds::default() };
        let page = self.read(Query { bounds, ..query.from(Start::Index(from)) }).await?;
        Ok(page.records.decode().expect("records are checked when they are read"))
    }
}

/// What one who looks may have.
struct Wanted {
    holder: Holder,
    held_max: usize,
    until: Option<Duration>,
    is_receiver: bool,
}

impl Receiver {
    /// The next messages. Dropping the call loses none.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] once the run is handed to another worker, [`Refusal::RunDeleted`], and
    /// what reading can meet.
    pub async fn next(&mut self) -> Result<Received, Error> {
        if let Some(end) = self.end {
            return Ok(Received::End(end));
        }
        let wake = self.wake.clone();
        loop {
            let mut woken = pin!(wake.notified());
            woken.as_mut().enable();
            let wanted = Wanted {
                holder: self.holder,
                held_max: self.held_max,
                until: None,
                is_receiver: true,
            };
            match self.store.look(&self.consumer, &self.desk, &wanted).await? {
                Look::Offer(offer) => {
                    let (consumer, desk) = (&self.consumer, &self.desk);
                    let inputs = self.store.deliver(consumer, desk, self.holder, offer).await?;
                    return Ok(Received::Inputs(inputs));
                }
                Look::End(end) => {
                    self.end = Some(end);
                    return Ok(Received::End(end));
                }
                Look::Nothing(mut changed) => {
                    let mut changed = pin!(changed.changed());
                    poll_fn(|context| {
                        let is_woken = woken.as_mut().poll(context).is_ready();
                        match is_woken || changed.as_mut().poll(context).is_ready() {
                            true => Poll::Ready(()),
                            false => Poll::Pending,
                        }
                    })
                    .await;
                }
            }
        }
    }
}

fn acked(run: &Run, stream: &str, consumer: &str) -> Acked {
    let stream = run.state.stream_no(stream).map(|no| run.state.stream(no));
    let inbox = stream.and_then(|stream| Some((stream.tail, stream.inbox.as_ref()?)));
    let known = inbox.and_then(|(tail, inbox)| Some((tail, inbox.consumer(consumer)?)));
    known.map_or(Acked { floor: Index::ZERO, owed: 0 }, |(tail, known)| Acked {
        floor: known.floor,
        owed: known.owed(tail),
    })
}
