//! What callers ask of a store and what they get: plain values, shared with the remote client.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{
    core::{Cancel, Claimed, Committed, Create, DEFAULT_CONSUMER, Life, Retention, RunState, Wait},
    format::{Damage, cursor::Cursor, wire},
    proto::{Kind, Outcome, Record, RunError, RunSpec, RunStatus, RunUpdated, StreamKind},
    record::{Index, RunNo, RunUid, Seq, StreamNo},
};

/// Names a run: its tenant and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Name in the tenant.
    pub run_id: Arc<str>,
}

pub use crate::record::DEFAULT_NAMESPACE;

impl RunKey {
    /// A run of the default namespace.
    pub fn new(run_id: impl Into<Arc<str>>) -> Self {
        Self { namespace: DEFAULT_NAMESPACE.into(), run_id: run_id.into() }
    }
}

/// A run as of one position of its log.
#[derive(Debug, Clone, PartialEq)]
pub struct RunInfo {
    /// Name.
    pub run_id: Arc<str>,
    /// Identity.
    pub run_uid: RunUid,
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
    /// Milliseconds since the Unix epoch of the last change.
    pub updated_ms: u64,
    /// How and when it ended; none while it is open.
    pub ended: Option<RunEnd>,
    /// Next seq; the object reflects all records below it.
    pub tail: Seq,
    /// Number of streams, `$run` included.
    pub streams: u32,
    /// Bytes of the run's frames, as stored in the journal.
    pub bytes: u64,
    /// Where the run stands in its life.
    pub status: RunStatus,
    /// Who works on it, and what is to become of it.
    pub life: Life,
    /// What else was said when it was created.
    pub spec: RunSpec,
    /// The metadata document: JSON text, or empty.
    pub metadata: Bytes,
    /// Seq of the record that last changed the document.
    pub metadata_seq: Seq,
    /// What it took, as far as that was told.
    pub usage: RunUpdated,
    /// Waits, oldest first. Not in rows of lists.
    pub waits: Vec<Wait>,
    /// Names of the streams, `$run` first. Not in rows of lists.
    pub stream_names: Vec<Arc<str>>,
}

impl RunInfo {
    /// The run with this state.
    pub fn of(state: &RunState) -> Self {
        Self {
            run_id: state.run_id.clone(),
            run_uid: state.run_uid,
            task: state.task.clone(),
            tags: state.tags.clone(),
            batch: state.batch.clone(),
            retention: state.retention,
            created_ms: state.created_ms,
            updated_ms: state.updated_ms,
            ended: state.ending.as_ref().map(|ending| RunEnd {
                outcome: ending.outcome,
                completed_ms: ending.time_ms,
                output: ending.output.clone(),
                output_type: ending.output_type.clone(),
                error: ending.error.clone(),
            }),
            tail: state.tail,
            streams: state.streams.len() as u32,
            bytes: state.bytes,
            status: state.status(),
            life: Life { status: state.status(), ..state.life.clone() },
            spec: state.spec.clone(),
            metadata: state.metadata.clone(),
            metadata_seq: state.metadata_seq,
            usage: state.usage.clone(),
            waits: state.waits.clone(),
            stream_names: state.streams.iter().map(|stream| stream.name.clone()).collect(),
        }
    }

    /// The run without its bodies, which would make a page of runs arbitrarily large.
    pub(super) fn row(state: &RunState) -> Self {
        let mut row = Self::of(state);
        if let Some(end) = &mut row.ended {
            (end.output, end.error) = (Bytes::new(), None);
        }
        let spec = &mut row.spec;
        (spec.payload, spec.payload_type, spec.metadata) = Default::default();
        (spec.attributes, spec.idempotency_key) = Default::default();
        (spec.parent_run_id, spec.root_run_id) = Default::default();
        (row.metadata, row.waits, row.stream_names) = Default::default();
        if let Some(cancel) = &mut row.life.cancel {
            cancel.reason = String::new();
        }
        row
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEnd {
    /// Outcome.
    pub outcome: Outcome,
    /// Milliseconds since the Unix epoch.
    pub completed_ms: u64,
    /// What the run returned.
    pub output: Bytes,
    /// Media type of the output.
    pub output_type: String,
    /// Why it did not complete.
    pub error: Option<RunError>,
}

/// A run that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedRun {
    /// The run.
    pub run: RunInfo,
    /// Whether the call created it.
    pub created: bool,
}

/// A run that was closed.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedRun {
    /// The run as closed.
    pub run: RunInfo,
    /// Seq of the closing record.
    pub closed_seq: Seq,
    /// Whether it had been closed the same way before.
    pub deduplicated: bool,
}

/// A run that was asked to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct CanceledRun {
    /// The run.
    pub run: RunInfo,
    /// Whether it is closed; otherwise its worker has a while to end it.
    pub closed: bool,
    /// Whether that had been asked before.
    pub deduplicated: bool,
}

/// Asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRun {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Tasks that the worker does, at least one.
    pub tasks: Vec<Arc<str>>,
    /// Name of the worker, 1 to 128 bytes.
    pub worker: Arc<str>,
    /// Milliseconds without a sign of the worker after which the run is abandoned.
    pub term_ms: u64,
}

/// Asks for a known run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcquireLease {
    /// The run.
    pub run: RunKey,
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the worker, 1 to 128 bytes.
    pub worker: Arc<str>,
    /// Milliseconds without a sign of the worker after which the run is abandoned.
    pub term_ms: u64,
    /// Whether a holder is fenced.
    pub takeover: bool,
}

/// A run that was handed to a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedRun {
    /// The run, with its waits and what became of them.
    pub run: RunInfo,
    /// The lease.
    pub claimed: Claimed,
    /// Where a tail begins that sees what happens from now on.
    pub cursor: Cursor,
    /// Input streams with inputs that are owed.
    pub owed: Vec<OwedInputs>,
}

/// Inputs that a consumer of a stream has not acked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedInputs {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// Name of the consumer.
    pub consumer: Arc<str>,
    /// First index that is owed.
    pub floor: Index,
    /// How many are owed.
    pub owed: u64,
    /// Next index of the stream.
    pub tail: Index,
}

/// A lease that has its full term again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// What was asked, if the run is to stop.
    pub cancel: Option<Cancel>,
    /// Milliseconds of the term.
    pub term_ms: u64,
}

/// A turn that was committed, and how the run stands after it.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedTurn {
    /// Where the records are.
    pub committed: Committed,
    /// Where the run stands now.
    pub status: RunStatus,
    /// What was asked, if the run is to stop.
    pub cancel: Option<Cancel>,
    /// The metadata document now: JSON text, or empty.
    pub metadata: Bytes,
    /// Seq of the record that last changed the document.
    pub metadata_seq: Seq,
}

/// Names a consumer of an input stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputConsumer {
    /// The run.
    pub run: RunKey,
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the input stream; it need not exist yet.
    pub stream: Arc<str>,
    /// Name of the consumer.
    pub consumer: Arc<str>,
    /// Number of the lease; a run that was claimed once needs it.
    pub lease_epoch: Option<u64>,
}

impl InputConsumer {
    /// The default consumer of a stream, without a lease.
    pub fn new(run: RunKey, stream: impl Into<Arc<str>>) -> Self {
        let (stream, consumer) = (stream.into(), DEFAULT_CONSUMER.into());
        Self { run, run_uid: None, stream, consumer, lease_epoch: None }
    }
}

/// A message that is delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The record.
    pub record: Record,
    /// Whether it may have been seen before.
    pub redelivery: bool,
}

/// Messages as they are delivered.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// In the order of their indices, but for those delivered again.
    Inputs(Vec<Input>),
    /// Nothing will ever follow.
    End(InputsEnd),
}

/// Why no more messages follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputsEnd {
    /// The run has ended.
    Closed,
    /// A newer receiver of the same consumer goes on.
    Superseded,
}

/// What a consumer has consumed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// Everything below is acked.
    pub floor: Index,
    /// How many are owed.
    pub owed: u64,
}

/// A wait token.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitToken {
    /// Its id.
    pub token_id: Arc<str>,
    /// Where it stands: executing while nobody has completed it.
    pub status: RunStatus,
    /// Milliseconds since the Unix epoch of the creation.
    pub created_ms: u64,
    /// Milliseconds since the Unix epoch when it times out; none if never.
    pub times_out_ms: Option<u64>,
    /// Milliseconds since the Unix epoch when it was completed, or timed out.
    pub completed_ms: Option<u64>,
    /// Its value. Not in lists.
    pub value: Bytes,
    /// Media type of the value.
    pub value_type: String,
    /// Labels, in the order given.
    pub tags: Vec<Arc<str>>,
    /// Key under which repeating the creation gives this token, or empty.
    pub idempotency_key: String,
    /// Milliseconds since the Unix epoch when the key is forgotten.
    pub idempotency_expires_at_ms: u64,
}

/// Asks for a wait token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateToken {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Its id; the store gives one if it is empty.
    pub token_id: Arc<str>,
    /// Milliseconds after which it times out; 0 if it does not.
    pub timeout_ms: u64,
    /// Labels: at most 10, each 1 to 128 bytes, none twice.
    pub tags: Vec<Arc<str>>,
    /// Key under which repeating the creation gives the same token, or empty.
    pub idempotency_key: String,
    /// Milliseconds since the Unix epoch when the key is forgotten; 0 is 30 days.
    pub idempotency_expires_at_ms: u64,
}

impl Default for CreateToken {
    /// One of the default namespace, with an id of the store's, that does not time out.
    fn default() -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.into(),
            token_id: "".into(),
            timeout_ms: 0,
            tags: Vec::new(),
            idempotency_key: String::new(),
            idempotency_expires_at_ms: 0,
        }
    }
}

/// A wait token that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedToken {
    /// The token.
    pub token: WaitToken,
    /// Whether the call created it.
    pub created: bool,
}

/// A wait token that has a value.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletedToken {
    /// The token, with the value that was first.
    pub token: WaitToken,
    /// Whether it had been completed before.
    pub deduplicated: bool,
}

/// A page of wait tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenPage {
    /// Tokens, newest created first.
    pub tokens: Vec<WaitToken>,
    /// What to pass as `after` for the next page; none on the last.
    pub next: Option<ListPosition>,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub batch_id: Arc<str>,
    /// Items so far.
    pub items: u64,
    /// Whether nothing more can be added.
    pub sealed: bool,
    /// Milliseconds since the Unix epoch of the creation.
    pub created_ms: u64,
    /// Milliseconds since the Unix epoch of the sealing.
    pub sealed_ms: Option<u64>,
    /// Runs that were announced; 0 if nobody said.
    pub run_count: u64,
    /// Labels of the batch.
    pub tags: Vec<Arc<str>>,
}

/// Asks for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateBatch {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Its id, as a run's, at most 128 bytes.
    pub batch_id: Arc<str>,
    /// Runs that will be added; 0 if nobody knows.
    pub run_count: u64,
    /// Labels: at most 10, each 1 to 128 bytes, none twice.
    pub tags: Vec<Arc<str>>,
    /// Key under which repeating the creation gives the same batch, or empty.
    pub idempotency_key: String,
    /// Milliseconds since the Unix epoch when the key is forgotten; 0 is 30 days.
    pub idempotency_expires_at_ms: u64,
}

impl CreateBatch {
    /// A batch of the default namespace.
    pub fn new(batch_id: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.into(),
            batch_id: batch_id.into(),
            run_count: 0,
            tags: Vec::new(),
            idempotency_key: String::new(),
            idempotency_expires_at_ms: 0,
        }
    }
}

/// A batch that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedBatch {
    /// The batch.
    pub batch: Batch,
    /// Whether the call created it.
    pub created: bool,
}

/// A run of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchItem {
    /// Number of the item in the batch.
    pub number: u64,
    /// The run; its batch becomes this one.
    pub run: Create,
}

/// Items that were added to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddedItems {
    /// Items that were new.
    pub accepted: u64,
    /// Items that had been added before.
    pub deduplicated: u64,
}

/// What is watched, and from where.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchQuery {
    /// Which runs.
    pub scope: WatchScope,
    /// Text of an earlier cursor: only what has changed since is given.
    pub cursor: Option<String>,
}

/// Which runs are watched.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchScope {
    /// One run.
    Run {
        /// The run.
        run: RunKey,
        /// Identity the run must have, if given.
        run_uid: Option<RunUid>,
        /// Kinds of records that are given besides rows.
        kinds: Vec<Kind>,
    },
    /// Runs that pass every filter given; at least one.
    Runs(WatchRuns),
}

/// Runs that pass every filter given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRuns {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Runs that have all of these tags.
    pub tags: Vec<Arc<str>>,
    /// Runs of this batch; empty: of any or none.
    pub batch: Arc<str>,
    /// Runs of this task; empty: of any or none.
    pub task: Arc<str>,
    /// Runs in one of these; none: in any. One that is no longer is given once more.
    pub statuses: Vec<RunStatus>,
    /// Runs created then or later, milliseconds since the Unix epoch.
    pub created_from_ms: u64,
    /// Most rows to begin with, newest created first: 1 to 10,000.
    pub limit: usize,
}

/// An item of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchItem {
    /// A run as it is now.
    Row(Box<RunInfo>),
    /// A run that was deleted.
    Removed {
        /// Its name.
        run_id: Arc<str>,
        /// Its identity.
        run_uid: RunUid,
    },
    /// Records of the run, in run order.
    Records(Vec<Record>),
    /// Everything to begin with has been given.
    CaughtUp,
    /// Nothing will ever follow: how the run ended.
    End(Outcome),
}

/// Asks for a page of the runs that pass every filter, newest created first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRuns {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Only runs whose id starts with this.
    pub prefix: String,
    /// Only runs that have all of these tags.
    pub tags: Vec<Arc<str>>,
    /// Only runs of this batch; empty: of any or none.
    pub batch: Arc<str>,
    /// Only runs of this task; empty: of any or none.
    pub task: Arc<str>,
    /// Only runs that this one has started; empty: by any or none.
    pub parent: Arc<str>,
    /// Only runs in one of these; none: in any.
    pub statuses: Vec<RunStatus>,
    /// Only runs created then, in milliseconds since the Unix epoch.
    pub created: Range<u64>,
    /// Only runs behind this one; the last of the page before.
    pub after: Option<ListPosition>,
    /// Most rows wanted: 1 to 1,000.
    pub page_size: usize,
}

/// Where a run stands in a list: by its creation, then by its number. Lists begin with the
/// greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListPosition {
    /// Milliseconds since the Unix epoch of the creation.
    pub created_ms: u64,
    /// Number of the run.
    pub run_no: RunNo,
}

impl Default for ListRuns {
    /// The newest hundred runs of the default namespace.
    fn default() -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.into(),
            prefix: String::new(),
            tags: Vec::new(),
            batch: "".into(),
            task: "".into(),
            parent: "".into(),
            statuses: Vec::new(),
            created: 0..u64::MAX,
            after: None,
            page_size: 100,
        }
    }
}

/// A page of runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunPage {
    /// Runs, newest created first.
    pub runs: Vec<RunInfo>,
    /// What to pass as `after` for the next page; none on the last.
    pub next: Option<ListPosition>,
}

/// A stream of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Number within the run.
    pub stream: StreamNo,
    /// Name; `$run` for stream 0.
    pub name: Arc<str>,
    /// Output or input.
    pub kind: StreamKind,
    /// First index that is kept.
    pub trim: Index,
    /// Next index.
    pub tail: Index,
    /// Whether it is closed, alone or with its run.
    pub closed: bool,
}

/// Where a run ends now.
#[derive(Debug, Clone, PartialEq)]
pub struct RunTail {
    /// Identity of the run.
    pub run_uid: RunUid,
    /// Next seq.
    pub tail: Seq,
    /// Milliseconds since the Unix epoch of the last record.
    pub last_time_ms: u64,
    /// How the run ended; none while it is open.
    pub outcome: Option<Outcome>,
    /// Cursor at the tail.
    pub cursor: Cursor,
    /// The stream that was named, if any.
    pub stream: Option<StreamInfo>,
}

/// The streams of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamList {
    /// Streams in order of their numbers, `$run` first.
    pub streams: Vec<StreamInfo>,
    /// Next seq of the run.
    pub tail: Seq,
}

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Start {
    /// At the first record there is: seq 0.
    #[default]
    Beginning,
    /// At a position in the run's log.
    Seq(Seq),
    /// At a position in the stream; only with one stream.
    Index(Index),
    /// Exactly behind an earlier answer, by its cursor's text.
    Cursor(String),
    /// At the last so many records of the run, or of the stream if exactly one is read.
    Last(u64),
    /// At whatever comes next.
    Tail,
}

/// What a reader reads up to; whichever comes first. None is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// So many records.
    pub records: Option<u64>,
    /// So many bytes of records, overrun by less than one record.
    pub bytes: Option<u64>,
    /// Below this seq.
    pub until_seq: Option<Seq>,
    /// Below this index; only with one stream.
    pub until_index: Option<Index>,
}

/// What to read.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The run.
    pub run: RunKey,
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Names of the streams; none is the whole run.
    pub streams: Vec<Arc<str>>,
    /// Where to begin.
    pub start: Start,
    /// A beginning below the trim becomes a gap instead of `Trimmed`.
    pub allow_gap: bool,
    /// A beginning beyond the tail starts at the tail instead of `BeyondTail`.
    pub clamp: bool,
    /// Earlier cursors of the same run, at most 8: if history has changed, the refusal names the
    /// greatest position that still fits.
    pub older_cursors: Vec<String>,
    /// Where to stop.
    pub bounds: Bounds,
    /// Ends at the tail of the moment the reading began instead of following. A page never
    /// follows.
    pub stop_at_tail: bool,
}

impl Query {
    /// A whole run from its first record.
    pub fn run(run: RunKey) -> Self {
        Self {
            run,
            run_uid: None,
            streams: Vec::new(),
            start: Start::Beginning,
            allow_gap: false,
            clamp: false,
            older_cursors: Vec::new(),
            bounds: Bounds::default(),
            stop_at_tail: false,
        }
    }

    /// One stream from its first record.
    pub fn stream(run: RunKey, stream: impl Into<Arc<str>>) -> Self {
        Self { streams: vec![stream.into()], ..Self::run(run) }
    }

    /// The same from another start.
    pub fn from(self, start: Start) -> Self {
        Self { start, ..self }
    }
}

/// Records in run order, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Encoded records: each piece is the field `records = 1` of an answer, any number of times.
    pub pieces: Vec<Bytes>,
    /// Number of records.
    pub count: u64,
}

impl Records {
    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Decodes the records; their bodies share the memory of the pieces.
    ///
    /// # Errors
    /// What does not decode; bytes are checked when they are read from disk, so this is a bug.
    pub fn decode(&self) -> Result<Vec<Record>, Damage> {
        self.pieces.iter().flat_map(|piece| wire::decode_all(piece.clone())).collect()
    }
}

/// A trimmed stretch of a stream that a reader came across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The stream.
    pub stream: StreamNo,
    /// First index that is missing.
    pub from: Index,
    /// First index that is not.
    pub to: Index,
}

/// Why a reader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The run, or every stream read, is closed: nothing will ever follow. The run's outcome, if
    /// it is closed.
    Closed(Option<Outcome>),
    /// A bound of the query was reached.
    Limit,
}

/// A page of records.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Records in run order.
    pub records: Records,
    /// The streams that were read.
    pub streams: Vec<StreamInfo>,
    /// Trimmed stretches met on the way.
    pub gaps: Vec<Gap>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Next seq of the run.
    pub tail: Seq,
    /// Set if nothing will ever follow the page.
    pub end: Option<End>,
}

/// An item of a tail.
#[derive(Debug, Clone, PartialEq)]
pub enum TailItem {
    /// Streams not named before in this tail that are read by it.
    Streams(Vec<StreamInfo>),
    /// Records in run order, and where to resume after them.
    Records(Records, Cursor),
    /// A trimmed stretch.
    Gap(Gap, Cursor),
    /// The reader is at the tail for the first time.
    CaughtUp(Cursor),
    /// The end.
    End(End, Cursor),
}
