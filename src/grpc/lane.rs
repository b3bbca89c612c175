//! What comes in over an append session: messages of its lanes, admitted one after the other.
//!
//! A lane appends to one stream of one run. The first batch of a lane that is refused ends it, and
//! nothing behind it in the lane is admitted; lane 0 takes the session with it. What a client sends on
//! a lane that has ended, since it cannot know yet, is passed over.
//!
//! Lanes do not wait for each other's syncs, but their batches are decided in the order in which they
//! come: one whose run has to be read first holds up the others for as long as that takes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use tonic::{Status, Streaming};

use super::{convert, edge, status::to_status_with};
use crate::{
    core::{Append, Appended, Producer, Refusal},
    engine::{IfAbsent, RunKey, Store, Ticket},
    error::Error,
    proto::{
        AppendSessionRequest, LaneEnd, SessionBatch, SessionOpen, append_session_request::Message,
    },
    record::{Index, RunUid, Seq},
};

/// Number of a lane.
pub(super) type LaneNo = u32;

/// The lane whose end is that of the session.
pub(super) const MAIN: LaneNo = 0;
/// Lanes of a session, at most. Of an append session also those that ended and were not closed.
pub(super) const LANES_MAX: usize = 4_096;

/// What all batches of a lane have in common.
struct Target {
    run: RunKey,
    run_uid: Option<RunUid>,
    absent: IfAbsent,
    stream: Arc<str>,
    producer: Option<(Arc<str>, u64)>,
    lease_epoch: Option<u64>,
}

impl Target {
    fn new(open: SessionOpen) -> Result<Self, Refusal> {
        let producer = (!open.producer_id.is_empty())
            .then(|| (Arc::from(open.producer_id), open.producer_epoch));
        Ok(Self {
            run_uid: convert::run_uid(&open.run_uid)?,
            run: RunKey::new(open.run_id),
            absent: convert::if_absent(open.create_run),
            stream: open.stream.into(),
            lease_epoch: open.lease_epoch,
            producer,
        })
    }

    fn append(&self, batch: SessionBatch) -> Result<Append, Refusal> {
        if self.producer.is_none() && batch.producer_seq != 0 {
            let problem = "is given, but the session was opened without a producer";
            return Err(Refusal::invalid("producer_seq", problem));
        }
        let producer = self.producer.as_ref().map(|(id, epoch)| Producer {
            id: id.clone(),
            epoch: *epoch,
            seq: batch.producer_seq,
        });
        Ok(Append {
            run_uid: self.run_uid,
            stream: self.stream.clone(),
            records: convert::new_records(batch.records),
            expected_seq: batch.expected_seq.map(Seq),
            expected_index: batch.expected_index.map(Index),
            producer,
            lease_epoch: self.lease_epoch,
        })
    }
}

#[derive(Default)]
struct Lane {
    /// None if it has ended.
    target: Option<Target>,
    /// Batches that were admitted.
    admitted: u64,
}

/// A batch of a lane that has an answer, or will have one.
pub(super) struct Batch {
    pub(super) lane: LaneNo,
    /// Number of the batch in its lane.
    pub(super) ordinal: u64,
    pub(super) answer: Answer,
}

/// What a batch is answered with.
pub(super) enum Answer {
    /// It was admitted, or refused on its turn: the ticket tells.
    Ticket(Ticket<Appended>),
    /// It was refused for what it is.
    Refused(Error),
}

impl Batch {
    /// Whether nothing behind it in its lane may be applied.
    pub(super) fn ends_lane(&self) -> bool {
        match &self.answer {
            Answer::Ticket(ticket) => ticket.is_refused(),
            Answer::Refused(_) => true,
        }
    }
}

/// What became of reading on.
pub(super) enum Admission {
    Batch(Batch),
    /// Nothing more comes.
    HalfClosed,
    /// The request could not be read.
    Unreadable(Status),
}

/// The status of a session that ended with the batch `ordinal` of lane 0.
pub(super) fn status_at(error: &Error, ordinal: u64) -> Status {
    to_status_with(error, [("ordinal", ordinal.to_string())])
}

/// The end of a lane with the status that a call of its own would have had.
pub(super) fn lane_end(status: &Status) -> LaneEnd {
    LaneEnd {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: status.details().to_vec().into(),
    }
}

/// Reads messages and admits their batches.
pub(super) struct Reader {
    store: Store,
    messages: Streaming<AppendSessionRequest>,
    lanes: HashMap<LaneNo, Lane>,
}

impl Reader {
    pub(super) fn new(store: Store, messages: Streaming<AppendSessionRequest>) -> Self {
        Self { store, messages, lanes: HashMap::new() }
    }

    /// The next admission, and the reader back.
    pub(super) async fn step(mut self) -> (Self, Admission) {
        let admission = self.admit().await;
        (self, admission)
    }

    async fn admit(&mut self) -> Admission {
        loop {
            let AppendSessionRequest { lane, message } = match self.messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Admission::HalfClosed,
                Err(status) => return Admission::Unreadable(edge::with_reason(status)),
            };
            let admitted = match message {
                Some(Message::Open(open)) => self.open(lane, open).map(|()| None),
                Some(Message::Batch(batch)) => self.submit(lane, batch).await,
                Some(Message::Close(_)) => {
                    self.lanes.remove(&lane);
                    Ok(None)
                }
                None => {
                    Err(Refusal::invalid("message", "is neither open, nor batch, nor close").into())
                }
            };
            let answer = match admitted {
                Ok(None) => continue,
                Ok(Some(ticket)) => Answer::Ticket(ticket),
                Err(error) => Answer::Refused(error),
            };
            return Admission::Batch(self.note(lane, answer));
        }
    }

    fn open(&mut self, number: LaneNo, open: SessionOpen) -> Result<(), Error> {
        let count = self.lanes.len();
        match self.lanes.entry(number) {
            Entry::Occupied(_) => {
                Err(Refusal::invalid("open", "came before: it is sent once").into())
            }
            Entry::Vacant(_) if LANES_MAX <= count => {
                let limit = LANES_MAX as u64;
                Err(Refusal::Limit { which: "lanes per session".into(), limit }.into())
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Lane { target: Some(Target::new(open)?), admitted: 0 });
                Ok(())
            }
        }
    }

    /// Submits a batch; none if its lane has ended.
    async fn submit(
        &self,
        number: LaneNo,
        batch: SessionBatch,
    ) -> Result<Option<Ticket<Appended>>, Error> {
        let missing = || Refusal::invalid("open", "is missing: it comes before the first batch");
        let lane = self.lanes.get(&number).ok_or_else(missing)?;
        let Some(target) = &lane.target else { return Ok(None) };
        let append = target.append(batch)?;
        self.store.submit(&target.run, append, target.absent).await.map(Some)
    }

    /// Numbers a batch, and ends its lane if that is what it does.
    fn note(&mut self, number: LaneNo, answer: Answer) -> Batch {
        let known = self.lanes.len();
        let mut batch = Batch { lane: number, ordinal: 0, answer };
        let ends = batch.ends_lane();
        let lane = match self.lanes.entry(number) {
            Entry::Occupied(lane) => lane.into_mut(),
            // It ended before it was open; so many are not remembered.
            Entry::Vacant(_) if LANES_MAX <= known => return batch,
            Entry::Vacant(vacant) => vacant.insert(Lane::default()),
        };
        batch.ordinal = lane.admitted;
        lane.admitted += 1;
        if ends {
            lane.target = None;
        }
        batch
    }
}
