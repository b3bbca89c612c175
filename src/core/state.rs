//! What is known of a run: the fold of its frames.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{AppliedRequest, Inbox, Life, Retention, Wait};
use crate::{
    format::frame::Chain,
    proto::{
        Outcome, RunError, RunSpec, RunStatus, RunUpdated, StreamKind,
        storage::v1::{OutboxEntry, Waiter},
    },
    record::{Index, PRODUCER_APPENDS_REMEMBERED, RUN_STREAM_NAME, RunNo, RunUid, Seq, StreamNo},
};

/// State of a run. Fields change only by replaying a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Name.
    pub run_id: Arc<str>,
    /// Identity.
    pub run_uid: RunUid,
    /// Number in the store.
    pub run_no: RunNo,
    /// Task, or empty.
    pub task: Arc<str>,
    /// Labels, in the order given.
    pub tags: Vec<Arc<str>>,
    /// Batch the run belongs to, or empty.
    pub batch: Arc<str>,
    /// What is kept of the run; none is what its namespace says.
    pub retention: Option<Retention>,
    /// Milliseconds since the Unix epoch of the creation.
    pub created_ms: u64,
    /// Milliseconds since the Unix epoch of the last frame; never decreases.
    pub updated_ms: u64,
    /// Next seq.
    pub tail: Seq,
    /// Chain after the last frame.
    pub chain: Chain,
    /// Chain after the last frame that holds records: proof of a cursor at the tail.
    pub records_chain: Chain,
    /// Streams by number; `$run` is the first.
    pub streams: Vec<StreamState>,
    /// Idempotent producers by their reference number.
    pub producers: Vec<ProducerState>,
    /// Number of frames.
    pub frames: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    /// How it ended, once it is closed.
    pub ending: Option<Ending>,
    /// What else was said of it when it was created.
    pub spec: RunSpec,
    /// Where it stands in its life.
    pub life: Life,
    /// The metadata document: JSON text, or empty.
    pub metadata: Bytes,
    /// Seq of the record that last changed the document.
    pub metadata_seq: Seq,
    /// What it took, as far as that was told.
    pub usage: RunUpdated,
    /// Newest requests, oldest first.
    pub requests: VecDeque<AppliedRequest>,
    /// Waits, oldest first.
    pub waits: Vec<Wait>,
    /// Number of the next entry of the outbox.
    pub outbox_next: u64,
    /// What is still to be told to other runs, oldest first.
    pub outbox: VecDeque<OutboxEntry>,
    /// Newest entry taken in of other runs' outboxes.
    pub delivered: Vec<(RunUid, u64)>,
    /// Runs that wait for this one.
    pub waiters: Vec<Waiter>,
    /// Milliseconds since the Unix epoch of the deletion, once it is deleted: the last frame.
    pub deleted_ms: Option<u64>,
}

/// State of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Name.
    pub name: Arc<str>,
    /// Output, input, or `$run`.
    pub kind: StreamKind,
    /// First index that is kept. `trim <= tail`.
    pub trim: Index,
    /// Next index.
    pub tail: Index,
    /// Whether the stream was closed by itself.
    pub closed: bool,
    /// What of an input stream was consumed; none for other streams.
    pub inbox: Option<Inbox>,
}

/// State of an idempotent producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    /// Its id.
    pub id: Arc<str>,
    /// Newest epoch.
    pub epoch: u64,
    /// Number that comes next in the epoch.
    pub next_seq: u64,
    /// Its last appends in this epoch, oldest first: at most [`PRODUCER_APPENDS_REMEMBERED`].
    pub recent: VecDeque<Remembered>,
}

/// An append that can be answered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// CRC of what was appended.
    pub payload_crc: u32,
    /// The answer.
    pub appended: Appended,
}

/// Where an append's records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Identity of the run.
    pub run_uid: RunUid,
    /// Seq of the first record.
    pub first_seq: Seq,
    /// Index of the first record.
    pub first_index: Index,
    /// Number of records.
    pub count: u32,
    /// Server time of the records, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Whether an earlier append with the same producer numbers is being answered.
    pub deduplicated: bool,
    /// Whether that earlier append is too old for its positions to be known; they are 0 then.
    pub positions_forgotten: bool,
}

impl Appended {
    /// Seq after the last record.
    pub fn next_seq(&self) -> Seq {
        self.first_seq + u64::from(self.count)
    }

    /// Index after the last record.
    pub fn next_index(&self) -> Index {
        self.first_index + u64::from(self.count)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Outcome.
    pub outcome: Outcome,
    /// Seq of the closing record.
    pub seq: Seq,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What the run returned.
    pub output: Bytes,
    /// Media type of the output.
    pub output_type: String,
    /// Why it did not complete.
    pub error: Option<RunError>,
}

impl RunState {
    /// Where the run stands in its life.
    pub fn status(&self) -> RunStatus {
        match self.ending.as_ref().map(|ending| ending.outcome) {
            None => self.life.status,
            Some(Outcome::Unspecified) => RunStatus::Unspecified,
            Some(Outcome::Completed) => RunStatus::Completed,
            Some(Outcome::Failed) => RunStatus::Failed,
            Some(Outcome::Canceled) => RunStatus::Canceled,
            Some(Outcome::Crashed) => RunStatus::Crashed,
            Some(Outcome::SystemFailure) => RunStatus::SystemFailure,
            Some(Outcome::Expired) => RunStatus::Expired,
            Some(Outcome::TimedOut) => RunStatus::TimedOut,
        }
    }

    /// The stream with this name.
    pub fn stream_no(&self, name: &str) -> Option<StreamNo> {
        let at = self.streams.iter().position(|stream| &*stream.name == name)?;
        Some(StreamNo(at as u32))
    }

    /// The stream with this number.
    ///
    /// # Panics
    /// If there is none.
    pub fn stream(&self, stream: StreamNo) -> &StreamState {
        &self.streams[stream.0 as usize]
    }

    pub(super) fn producer(&self, id: &str) -> Option<(usize, &ProducerState)> {
        self.producers.iter().enumerate().find(|(_, producer)| &*producer.id == id)
    }
}

impl StreamState {
    /// `$run`, as every run has it.
    pub(super) fn run() -> Self {
        Self::new(RUN_STREAM_NAME.into(), StreamKind::Run)
    }

    pub(super) fn new(name: Arc<str>, kind: StreamKind) -> Self {
        let inbox = (kind == StreamKind::Input).then(Inbox::default);
        Self { name, kind, trim: Index::ZERO, tail: Index::ZERO, closed: false, inbox }
    }
}

impl ProducerState {
    pub(super) fn new(id: Arc<str>) -> Self {
        Self { id, epoch: 0, next_seq: 0, recent: VecDeque::new() }
    }

    /// The append with this number of the current epoch: known, forgotten, or yet to come.
    pub(super) fn remembered(&self, seq: u64) -> Memory<'_> {
        if self.next_seq <= seq {
            return Memory::Unseen;
        }
        let age = (self.next_seq - seq) as usize;
        match self.recent.len().checked_sub(age) {
            Some(at) => Memory::Known(&self.recent[at]),
            None => Memory::Forgotten,
        }
    }

    pub(super) fn remember(&mut self, append: Remembered) {
        if self.recent.len() == PRODUCER_APPENDS_REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(append);
    }
}

/// What is known of a producer's append.
pub(super) enum Memory<'a> {
    /// Not applied.
    Unseen,
    /// Applied; here is the answer.
    Known(&'a Remembered),
    /// Applied, too long ago for the answer.
    Forgotten,
}
