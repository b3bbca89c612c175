//! What a run is to its callers, as lists and sets: slow, and short enough to be read against the
//! promises.
//!
//! A record is an item of one list; acked is a set of indices; what was applied before is a list
//! of everything that ever was, cut where the documented limits cut it. Commands and answers are
//! those of the state machine, their meaning is written down here a second time.
//!
//! What it deliberately does not do: bytes, checksums, limits of sizes.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use super::document::{Document, to_proto};

mod checks;
mod decisions;
mod turn;
use braidlog::{
    core::{
        Ack, Append, Appended, Cancel, CancelRun, Canceled, Claim, ClaimFrom, Claimed, Close,
        CloseStream, Closed, Commit, Committed, Context, Create, Delete, Deleted, Delivery, Ending,
        Lease, NewRecord, Operation, Producer, Refusal, Release, ReleaseTo, Reschedule, Send, Sent,
        StreamAppend, StreamEnd, Then, Trim, Wait,
    },
    proto::{
        CancelRequested, Event, InputWait, Kind, MetadataChanged, Outcome, Record, RunAbandoned,
        RunClaimed, RunClosed, RunCreated, RunError, RunReleased, RunRescheduled, RunSpec,
        RunStatus, RunUpdated, StatusChanged, StreamClosed, StreamKind, TagsAdded, WaitResult,
        WaitSettled, event,
        storage::v1::{MetadataOperations, OutboxEntry, Waiter, outbox_entry},
        wait_created,
    },
    record::{
        ACKED_RANGES_MAX, ATTEMPTS_DEFAULT, CONSUMERS_MAX, INPUTS_OWED_MAX, Index, LATE_MS,
        LEASE_TERM_MS, METADATA_BYTES_MAX, PRODUCER_APPENDS_REMEMBERED, REQUESTS_REMEMBERED,
        RunUid, SENT_REMEMBERED, Seq, StreamNo, TAGS_PER_RUN_MAX, WAITS_MAX, WAITS_REMEMBERED,
    },
};

/// How a command is decided: refused, or one of these.
pub(crate) type Verdict<R> = Result<Done<R>, Refusal>;

/// What became of a command that was not refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Done<R> {
    /// It changed the run.
    Accepted(R),
    /// It had been applied before, or changes nothing.
    Duplicate(R),
}

/// Everything that is known of a run.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) run_uid: RunUid,
    pub(crate) spec: Rc<RunSpec>,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    pub(crate) deleted_ms: Option<u64>,
    /// Number of frames.
    pub(crate) frames: u64,
    /// The log.
    pub(crate) log: Vec<Rc<Record>>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) producers: Vec<ProducerModel>,
    /// Every commit with a request id, oldest first.
    pub(crate) requests: Vec<(Arc<str>, Rc<Content>, Committed)>,
    pub(crate) tags: Vec<Arc<str>>,
    pub(crate) usage: RunUpdated,
    pub(crate) metadata: Document,
    pub(crate) metadata_seq: u64,
    /// Where the run stands while it is open.
    pub(crate) status: RunStatus,
    pub(crate) delay_until_ms: u64,
    pub(crate) queued_ms: u64,
    pub(crate) started_ms: u64,
    pub(crate) epoch: u64,
    pub(crate) attempt: u32,
    /// Whether the next claim goes on with the attempt.
    pub(crate) resumes: bool,
    pub(crate) lease: Option<Lease>,
    pub(crate) cancel: Option<Cancel>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) outbox_next: u64,
    pub(crate) outbox: Vec<OutboxEntry>,
    pub(crate) delivered: Vec<(RunUid, u64)>,
    pub(crate) ending: Option<Ending>,
}

/// A stream of a run.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) name: Arc<str>,
    pub(crate) kind: StreamKind,
    pub(crate) trim: u64,
    pub(crate) tail: u64,
    pub(crate) closed: bool,
    /// What each consumer has acked, in order of their first ack.
    pub(crate) acked: Vec<(Arc<str>, BTreeSet<u64>)>,
    /// Every message with an id: index, and what was sent.
    pub(crate) sent: Vec<(u64, Rc<NewRecord>)>,
}

/// A producer, and all that it appended in its newest epoch.
#[derive(Debug, Clone)]
pub(crate) struct ProducerModel {
    pub(crate) id: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) applied: Vec<(Rc<Content>, Appended)>,
}

/// What makes one append or commit another than the next.
#[derive(Debug, PartialEq)]
pub(crate) enum Content {
    Append(Arc<str>, Vec<NewRecord>),
    Commit(Box<Commit>),
}

impl Stream {
    fn new(name: &str, kind: StreamKind) -> Self {
        let (acked, sent) = (Vec::new(), Vec::new());
        Self { name: name.into(), kind, trim: 0, tail: 0, closed: false, acked, sent }
    }

    pub(crate) fn has_acked(&self, consumer: &str, index: u64) -> bool {
        let known = self.acked.iter().find(|(name, _)| **name == *consumer);
        known.is_some_and(|(_, acked)| acked.contains(&index))
    }

    /// Inputs that the consumer has to consume yet: what is trimmed is nobody's to consume.
    pub(crate) fn owed(&self, consumer: &str) -> impl Iterator<Item = u64> {
        (self.trim..self.tail).filter(move |index| !self.has_acked(consumer, *index))
    }

    /// Everything below was acked by this consumer.
    pub(crate) fn floor_of(&self, acked: &BTreeSet<u64>) -> u64 {
        (0..self.tail).find(|index| !acked.contains(index)).unwrap_or(self.tail)
    }

    /// Everything below was acked by everybody who ever acked.
    pub(crate) fn floor(&self) -> u64 {
        self.acked.iter().map(|(_, acked)| self.floor_of(acked)).min().unwrap_or(0)
    }

    /// Acked ranges that do not touch, above what the consumer has acked from the first on.
    pub(crate) fn ranges_above_floor(&self, acked: &BTreeSet<u64>) -> usize {
        let floor = self.floor_of(acked);
        acked.iter().filter(|index| floor < **index && !acked.contains(&(**index - 1))).count()
    }

    /// Inputs that the consumer owes that owes most.
    pub(crate) fn backlog(&self) -> u64 {
        let owed = |acked: &BTreeSet<u64>| self.tail - acked.len() as u64;
        self.acked.iter().map(|(_, acked)| owed(acked)).max().unwrap_or(self.tail)
    }

    fn ack(&mut self, consumer: &str, from: u64, to: u64) {
        if self.acked.iter().all(|(name, _)| **name != *consumer) {
            // It comes too late for what is trimmed.
            self.acked.push((consumer.into(), (0..self.trim).collect()));
        }
        let known = self.acked.iter_mut().find(|(name, _)| **name == *consumer);
        known.expect("just added").1.extend(from..to);
    }

    fn remembered(&self, id: &str) -> Option<&(u64, Rc<NewRecord>)> {
        let newest = self.sent.len().saturating_sub(SENT_REMEMBERED);
        let is_kept = |at: usize, index: u64| newest <= at || self.floor() <= index;
        let mut kept = self.sent.iter().enumerate();
        kept.find(|(at, (index, sent))| *sent.id == *id && is_kept(*at, *index))
            .map(|(_, sent)| sent)
    }
}

pub(crate) fn consumer_or_default(consumer: &str) -> &str {
    if consumer.is_empty() { "default" } else { consumer }
}

fn invalid(field: &'static str) -> Refusal {
    Refusal::Invalid { field: field.into(), problem: "".into() }
}

fn limit<R>(which: &'static str, limit: usize) -> Result<R, Refusal> {
    Err(Refusal::Limit { which: which.into(), limit: limit as u64 })
}

fn demand(holds: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal()) }
}

fn by_the_store(outcome: Outcome, name: &str, message: &str) -> RunClosed {
    let error = RunError {
        r#type: "braidlog".into(),
        name: name.into(),
        message: message.into(),
        stack_trace: String::new(),
    };
    RunClosed { outcome: outcome.into(), error: Some(error), ..RunClosed::default() }
}

/// What a wait comes to when the run that it is for has ended this way.
fn settled_by_end(wait_id: &str, ending: &Ending) -> WaitSettled {
    let result = match ending.outcome {
        Outcome::Completed => WaitResult::Completed,
        Outcome::TimedOut | Outcome::Expired => WaitResult::TimedOut,
        _ => WaitResult::Canceled,
    };
    WaitSettled {
        wait_id: wait_id.into(),
        result: result.into(),
        index: None,
        value: ending.output.clone(),
        value_type: ending.output_type.clone(),
    }
}

/// When a wait settles by itself, and how.
fn due_of(wait: &Wait) -> Option<(u64, WaitResult)> {
    let deadline_ms = Some(wait.created.deadline_ms).filter(|deadline_ms| *deadline_ms != 0);
    let timeout = deadline_ms.map(|deadline_ms| (deadline_ms, WaitResult::TimedOut));
    let time = match &wait.created.target {
        Some(wait_created::Target::Time(time)) => Some((time.until_ms, WaitResult::Completed)),
        _ => None,
    };
    let due = match (time, timeout) {
        (Some(time), Some(timeout)) if timeout.0 < time.0 => Some(timeout),
        (time, timeout) => time.or(timeout),
    };
    due.filter(|_| wait.settled.is_none())
}

// What is asked of it.
impl Model {
    pub(crate) fn tail(&self) -> Seq {
        Seq(self.log.len() as u64)
    }

    pub(crate) fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.iter().find(|stream| *stream.name == *name)
    }

    fn tail_of(&self, name: &str) -> u64 {
        self.stream(name).map_or(0, |stream| stream.tail)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    pub(crate) fn status(&self) -> RunStatus {
        match self.ending.as_ref().map(|ending| ending.outcome) {
            None => self.status,
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

    /// Records of all streams but `$run` that are not trimmed.
    pub(crate) fn kept(&self) -> u64 {
        self.streams[1..].iter().map(|stream| stream.tail - stream.trim).sum()
    }

    pub(crate) fn remembered_requests(&self) -> &[(Arc<str>, Rc<Content>, Committed)] {
        &self.requests[self.requests.len().saturating_sub(REQUESTS_REMEMBERED)..]
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = &Wait> {
        self.waits.iter().filter(|wait| wait.settled.is_none())
    }

    fn is_suspended(&self) -> bool {
        self.status == RunStatus::Waiting && self.lease.is_none()
    }

    fn delay_due(&self) -> Option<u64> {
        (self.status == RunStatus::Delayed).then_some(self.delay_until_ms)
    }

    fn expiry_due(&self) -> Option<u64> {
        let may_expire = self.status == RunStatus::Queued && self.attempt == 0;
        (may_expire && self.spec.ttl_ms != 0).then(|| self.queued_ms + self.spec.ttl_ms)
    }

    fn duration_due(&self) -> Option<u64> {
        let is_limited = self.started_ms != 0 && self.spec.max_duration_ms != 0;
        is_limited.then(|| self.started_ms + self.spec.max_duration_ms)
    }

    fn cancel_due(&self) -> Option<u64> {
        self.cancel.as_ref().map(|cancel| cancel.close_at_ms)
    }

    pub(crate) fn due_ms(&self) -> Option<u64> {
        if self.has_ended() || self.deleted_ms.is_some() {
            return None;
        }
        let mut due: Vec<u64> =
            self.waits.iter().filter_map(due_of).map(|(due_ms, _)| due_ms).collect();
        due.extend(self.delay_due());
        due.extend(self.expiry_due());
        due.extend(self.duration_due());
        due.extend(self.cancel_due());
        due.into_iter().min()
    }

    /// The first input that settles a wait.
    pub(crate) fn awaited(&self, input: &InputWait) -> Option<u64> {
        let is_input = |stream: &&Stream| stream.kind == StreamKind::Input;
        let stream = self.stream(&input.stream).filter(is_input)?;
        stream.owed(consumer_or_default(&input.consumer)).find(|index| input.after <= *index)
    }
}

// How a run changes.
impl Model {
    pub(crate) fn create(create: &Create, run_uid: RunUid, now_ms: u64) -> Self {
        let spec = &create.spec;
        let mut model = Self {
            run_uid,
            spec: Rc::new(spec.clone()),
            created_ms: now_ms,
            updated_ms: now_ms,
            deleted_ms: None,
            frames: 1,
            log: Vec::new(),
            streams: vec![Stream::new("$run", StreamKind::Run)],
            producers: Vec::new(),
            requests: Vec::new(),
            tags: create.tags.clone(),
            usage: RunUpdated::default(),
            metadata: Document::parse(&spec.metadata),
            metadata_seq: 0,
            status: RunStatus::Queued,
            delay_until_ms: spec.delay_until_ms,
            queued_ms: 0,
            started_ms: 0,
            epoch: 0,
            attempt: 0,
            resumes: false,
            lease: None,
            cancel: None,
            waits: Vec::new(),
            waiters: Vec::new(),
            outbox_next: 0,
            outbox: Vec::new(),
            delivered: Vec::new(),
            ending: None,
        };
        let is_claimed_by_nobody = create.task.is_empty() || create.task.starts_with('$');
        let status = if spec.pending_version {
            RunStatus::PendingVersion
        } else if now_ms < spec.delay_until_ms {
            RunStatus::Delayed
        } else if is_claimed_by_nobody {
            RunStatus::Executing
        } else {
            RunStatus::Queued
        };
        model.stand(status);
        model.event(event::Event::RunCreated(RunCreated {
            namespace: create.namespace.as_ref().into(),
            run_id: create.run_id.as_ref().into(),
            run_uid: run_uid.0.to_vec().into(),
            task: create.task.as_ref().into(),
            tags: create.tags.iter().map(|tag| tag.as_ref().into()).collect(),
            batch_id: create.batch.as_ref().into(),
            retention: create.retention.map(Into::into),
            spec: (*spec != RunSpec::default()).then(|| spec.clone()),
        }));
        model
    }

    /// Begins a frame.
    fn frame(&mut self, now_ms: u64) {
        self.updated_ms = self.updated_ms.max(now_ms);
        self.frames += 1;
    }

    fn push(&mut self, stream: usize, record: Record) -> u64 {
        let index = self.streams[stream].tail;
        self.streams[stream].tail += 1;
        self.log.push(Rc::new(Record {
            stream: stream as u32,
            seq: self.log.len() as u64,
            index,
            time_ms: self.updated_ms,
            ..record
        }));
        index
    }

    fn event_of(&mut self, kind: Kind, event: event::Event) {
        let event = Some(Event { event: Some(event) });
        self.push(0, Record { kind: kind.into(), event, ..Record::default() });
    }

    fn event(&mut self, event: event::Event) {
        self.event_of(Kind::Lifecycle, event);
    }

    fn opened(&mut self, name: &str, kind: StreamKind) -> usize {
        let known = self.streams.iter().position(|stream| *stream.name == *name);
        known.unwrap_or_else(|| {
            self.streams.push(Stream::new(name, kind));
            self.streams.len() - 1
        })
    }

    fn write(&mut self, stream: usize, kind: Kind, record: &NewRecord) -> u64 {
        let NewRecord { data, headers, id, client_time_ms } = record.clone();
        let kind = kind.into();
        self.push(stream, Record { kind, data, headers, id, client_time_ms, ..Record::default() })
    }

    /// Where the run stands, and since when, without a word in the log.
    fn stand(&mut self, status: RunStatus) {
        self.status = status;
        if status == RunStatus::Queued {
            self.queued_ms = self.updated_ms;
        }
        if status == RunStatus::Executing && self.started_ms == 0 {
            self.started_ms = self.updated_ms;
        }
    }

    fn turn(&mut self, status: RunStatus) {
        self.event(event::Event::StatusChanged(StatusChanged { status: status.into() }));
        self.stand(status);
    }

    fn begin_work(&mut self, lease_epoch: Option<u64>) {
        if lease_epoch.is_some() && self.status == RunStatus::Dequeued {
            self.turn(RunStatus::Executing);
        }
    }

    fn tell(&mut self, run_id: &str, message: outbox_entry::Message) {
        let (number, run_id) = (self.outbox_next, run_id.into());
        self.outbox.push(OutboxEntry { number, run_id, message: Some(message) });
        self.outbox_next += 1;
    }

    fn settle(&mut self, id: &str, result: WaitResult, settled: WaitSettled) {
        let settled = WaitSettled { wait_id: id.into(), result: result.into(), ..settled };
        self.event(event::Event::WaitSettled(settled.clone()));
        let now_ms = self.updated_ms;
        let wait = self.waits.iter_mut().find(|wait| wait.id() == id).expect("a wait");
        assert!(wait.settled.is_none(), "first wins");
        (wait.settled, wait.settled_ms) = (Some(settled), now_ms);
        let is_settled = |wait: &Wait| wait.settled.is_some();
        if WAITS_REMEMBERED < self.waits.iter().filter(|wait| is_settled(wait)).count() {
            let oldest = self.waits.iter().position(is_settled).expect("one is");
            self.waits.remove(oldest);
        }
    }

    /// Settles waits for which there is an input.
    fn settle_by_inputs(&mut self, is_meant: impl Fn(&Wait) -> bool) {
        let meant = |wait: &&Wait| wait.settled.is_none() && is_meant(wait);
        let waits: Vec<Wait> = self.waits.iter().filter(meant).cloned().collect();
        for wait in waits {
            let Some(wait_created::Target::Input(input)) = &wait.created.target else { continue };
            let Some(index) = self.awaited(input) else { continue };
            let settled = WaitSettled { index: Some(index), ..WaitSettled::default() };
            self.settle(wait.id(), WaitResult::Completed, settled);
            if input.ack {
                let stream = self.opened(&input.stream, StreamKind::Input);
                let consumer = consumer_or_default(&input.consumer);
                self.streams[stream].ack(consumer, index, index + 1);
            }
        }
    }

    /// A suspended run that has nothing to wait for is queued.
    fn resume(&mut self) {
        if !self.has_ended() && self.is_suspended() && self.pending().next().is_none() {
            self.turn(RunStatus::Queued);
        }
    }

    fn end(&mut self, closed: RunClosed) {
        let ending = Ending {
            outcome: closed.outcome(),
            seq: self.tail(),
            time_ms: self.updated_ms,
            output: closed.output.clone(),
            output_type: closed.output_type.clone(),
            error: closed.error.clone(),
        };
        for waiter in std::mem::take(&mut self.waiters) {
            let settled = settled_by_end(&waiter.wait_id, &ending);
            self.tell(&waiter.run_id, outbox_entry::Message::Settled(settled));
        }
        self.event(event::Event::RunClosed(closed));
        self.lease = None;
        self.ending = Some(ending);
    }

    fn change_metadata(&mut self, operations: &[Operation], source: &str) {
        let mut document = self.metadata.clone();
        let applied = document.apply(operations);
        if applied.is_empty() || METADATA_BYTES_MAX < document.len() {
            return;
        }
        self.metadata = document;
        self.metadata_seq = self.log.len() as u64;
        let changed = MetadataChanged { operations: applied, source_run_id: source.into() };
        self.event_of(Kind::Metadata, event::Event::MetadataChanged(changed));
    }
}

fn closed_of(close: &Close) -> RunClosed {
    let (output, output_type) = (close.output.clone(), close.output_type.clone());
    RunClosed { outcome: close.outcome.into(), output, output_type, error: close.error.clone() }
}
