//! The atomic turn: outputs, the consumption of the inputs that caused them, metadata, waits, and
//! what becomes of the run, in one frame.

use std::{collections::HashSet, sync::Arc};

use super::{
    Appended, Close, Context, Decision, NewRecord, Operation, Producer, Refusal, Release,
    ReleaseTo, RunState,
    append::{check_record, record_bytes_max},
    command::{check_open, check_run},
    digest::Digest,
    draft::Draft,
    inbox::DEFAULT_CONSUMER,
};
use crate::{
    format::frame::FRAME_HEADER_BYTES,
    proto::{
        InputWait, Kind, RunStatus, RunUpdated, StreamKind, TagsAdded, WaitCreated, event,
        storage::v1::{MetadataOperations, ProducerAdvanced, RequestApplied, outbox_entry},
        wait_created,
    },
    record::{
        ACKED_RANGES_MAX, APPEND_BYTES_MAX, APPEND_RECORDS_MAX, CONSUMERS_MAX, ID_BYTES_MAX, Index,
        METADATA_BYTES_MAX, OPERATIONS_MAX, RUN_ID_BYTES_MAX, RunUid, STREAM_NAME_BYTES_MAX,
        STREAMS_PER_RUN_MAX, Seq, StreamNo, TAGS_PER_RUN_MAX, WAITS_MAX, check_name,
    },
};

/// Everything that one turn does to a run: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Commit {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Number of the lease under which this is done, if any.
    pub lease_epoch: Option<u64>,
    /// Makes repeating it harmless, if given.
    pub producer: Option<Producer>,
    /// As `producer`, by an id; at most 128 bytes, or empty.
    pub request_id: Arc<str>,
    /// Seq the run's log must be at, if given.
    pub expected_seq: Option<Seq>,
    /// Outputs: 1,000 records with 1 MiB of data and headers in all.
    pub appends: Vec<StreamAppend>,
    /// Inputs that were consumed.
    pub acks: Vec<Ack>,
    /// Changes of the metadata document.
    pub metadata: Vec<Operation>,
    /// Changes for the parent's document; for the run's own if it has no parent.
    pub parent_metadata: Vec<Operation>,
    /// Changes for the root's document; for the run's own if it has no parent.
    pub root_metadata: Vec<Operation>,
    /// Labels to add.
    pub tags: Vec<Arc<str>>,
    /// What the run took, if that is told.
    pub update: Option<RunUpdated>,
    /// Waits to begin. A wait of a name that is known is left as it is.
    pub waits: Vec<WaitCreated>,
    /// Names of waits that nobody waits for any more.
    pub cancel_waits: Vec<Arc<str>>,
    /// What becomes of the run.
    pub then: Then,
}

/// Records for one stream.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamAppend {
    /// Name of the output stream; opened by its first record.
    pub stream: Arc<str>,
    /// The records.
    pub records: Vec<NewRecord>,
    /// Index the stream must be at, if given.
    pub expected_index: Option<Index>,
}

/// Inputs of a stream that a consumer has consumed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ack {
    /// Name of the input stream.
    pub stream: Arc<str>,
    /// Name of the consumer; empty is `default`.
    pub consumer: Arc<str>,
    /// Ranges: first index, and the index after the last.
    pub ranges: Vec<(Index, Index)>,
}

/// What becomes of a run at the end of a turn.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Then {
    /// It goes on.
    #[default]
    GoOn,
    /// Its worker gives it back.
    Release(Release),
    /// It ends. Identity, lease and expected seq are those of the commit.
    Close(Close),
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Identity of the run.
    pub run_uid: RunUid,
    /// Seq of the first record, or the tail if there is none.
    pub first_seq: Seq,
    /// Number of records, events counted.
    pub count: u32,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Streams with new records: index of the first, and how many.
    pub spans: Vec<(StreamNo, Index, u32)>,
    /// Whether an earlier commit with the same numbers or id is being answered.
    pub deduplicated: bool,
    /// Whether that earlier one is too old for its positions to be known.
    pub positions_forgotten: bool,
}

/// A request that can be answered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRequest {
    /// Its id.
    pub id: Arc<str>,
    /// CRC-32 (IEEE) of what was asked, to tell a retry from a reused id.
    pub content_crc: u32,
    /// The answer.
    pub committed: Committed,
}

impl Ack {
    pub(super) fn consumer(&self) -> &str {
        if self.consumer.is_empty() { DEFAULT_CONSUMER } else { &self.consumer }
    }
}

impl Commit {
    /// Row 1: names and sizes.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        self.check_appends()?;
        if let Some(producer) = &self.producer {
            producer.check()?;
        }
        crate::record::check_text(&self.request_id, ID_BYTES_MAX)
            .map_err(|error| Refusal::name("request_id", error))?;
        if self.producer.is_some() && !self.request_id.is_empty() {
            return Err(Refusal::invalid("request_id", "is given besides a producer: choose one"));
        }
        for ack in &self.acks {
            check_name(&ack.stream, STREAM_NAME_BYTES_MAX)
                .map_err(|error| Refusal::name("acks.stream", error))?;
            check_name(ack.consumer(), ID_BYTES_MAX)
                .map_err(|error| Refusal::name("acks.consumer", error))?;
            Refusal::check_size("ack (ranges)", ack.ranges.len(), ACKED_RANGES_MAX)?;
            if ack.ranges.iter().any(|(from, to)| to <= from) {
                return Err(Refusal::invalid("acks.ranges", "holds an empty range"));
            }
        }
        let operations = [&self.metadata, &self.parent_metadata, &self.root_metadata];
        let count = operations.iter().map(|operations| operations.len()).sum();
        Refusal::check_size("commit (metadata operations)", count, OPERATIONS_MAX)?;
        for (n, operation) in operations.into_iter().flatten().enumerate() {
            operation
                .check(n)
                .map_err(|problem| Refusal::invalid("metadata", problem.to_string()))?;
        }
        super::create::check_tags(&self.tags)?;
        self.waits.iter().try_for_each(check_wait)?;
        if let Some(update) = &self.update {
            check_update(update)?;
        }
        match &self.then {
            Then::Close(close) => close.check(),
            _ => Ok(()),
        }
    }

    fn check_appends(&self) -> Result<(), Refusal> {
        let (mut count, mut bytes) = (0, 0);
        for (n, append) in self.appends.iter().enumerate() {
            check_name(&append.stream, STREAM_NAME_BYTES_MAX)
                .map_err(|error| Refusal::name("appends.stream", error))?;
            if append.records.is_empty() {
                return Err(Refusal::invalid("appends.records", "is empty"));
            }
            if self.appends[..n].iter().any(|before| before.stream == append.stream) {
                return Err(Refusal::invalid("appends.stream", "names a stream twice"));
            }
            append.records.iter().try_for_each(check_record)?;
            count += append.records.len();
            bytes += append.records.iter().map(NewRecord::size).sum::<usize>();
        }
        Refusal::check_size("commit (records)", count, APPEND_RECORDS_MAX)?;
        Refusal::check_size("commit (bytes of data and headers)", bytes, APPEND_BYTES_MAX)
    }

    /// Bytes of the frame that this becomes, at most.
    pub fn frame_bytes_max(&self) -> usize {
        let append = |append: &StreamAppend| {
            append.stream.len() + 32 + append.records.iter().map(record_bytes_max).sum::<usize>()
        };
        let operation = |operation: &Operation| operation.key.len() + operation.value.len() + 64;
        let ack = |ack: &Ack| ack.consumer.len() + 20 * ack.ranges.len() + 64;
        let close = match &self.then {
            Then::Close(close) => close.frame_bytes_max(),
            Then::Release(release) => release.error.as_ref().map_or(0, error_bytes) + 128,
            Then::GoOn => 0,
        };
        let operations = [&self.metadata, &self.parent_metadata, &self.root_metadata];
        FRAME_HEADER_BYTES
            + self.appends.iter().map(append).sum::<usize>()
            + operations.into_iter().flatten().map(operation).sum::<usize>()
            + self.acks.iter().map(ack).sum::<usize>()
            + self.tags.iter().map(|tag| tag.len() + 4).sum::<usize>()
            + self.waits.len() * (4 * STREAM_NAME_BYTES_MAX)
            + self.cancel_waits.len() * (ID_BYTES_MAX + 64)
            + close
            + 1_024
    }

    /// Whether it does nothing that a closed run refuses.
    fn is_late(&self) -> bool {
        self.appends.is_empty()
            && self.acks.is_empty()
            && self.waits.is_empty()
            && self.cancel_waits.is_empty()
            && self.then == Then::GoOn
    }

    /// Whether it consumes or ends something, for which a claimed run needs the lease.
    fn needs_lease(&self) -> bool {
        let acks = self.inputs_awaited().any(|input| input.ack) || !self.acks.is_empty();
        acks || self.then != Then::GoOn
    }

    /// The inputs that its waits are for.
    fn inputs_awaited(&self) -> impl Iterator<Item = &InputWait> {
        self.waits.iter().filter_map(|wait| match &wait.target {
            Some(wait_created::Target::Input(input)) => Some(input),
            _ => None,
        })
    }

    /// Of all that it does: what it demands of the run may be another when it is repeated.
    fn content_crc(&self) -> u32 {
        let mut digest = Digest::default();
        digest.number(self.appends.len() as u64);
        for append in &self.appends {
            digest.bytes(append.stream.as_bytes());
            digest.number(append.records.len() as u64);
            append.records.iter().for_each(|record| digest.record(record));
        }
        digest.number(self.acks.len() as u64);
        for ack in &self.acks {
            digest.bytes(ack.stream.as_bytes());
            digest.bytes(ack.consumer.as_bytes());
            digest.number(ack.ranges.len() as u64);
            ack.ranges.iter().for_each(|(from, to)| {
                digest.number(from.0);
                digest.number(to.0);
            });
        }
        for operations in [&self.metadata, &self.parent_metadata, &self.root_metadata] {
            digest.number(operations.len() as u64);
            for operation in operations {
                digest.number(operation.action as u64);
                digest.bytes(operation.key.as_bytes());
                digest.bytes(&operation.value);
            }
        }
        for names in [&self.tags, &self.cancel_waits] {
            digest.number(names.len() as u64);
            names.iter().for_each(|name| digest.bytes(name.as_bytes()));
        }
        digest.number(self.waits.len() as u64);
        self.waits.iter().for_each(|wait| digest.message(wait));
        digest.number(u64::from(self.update.is_some()));
        self.update.iter().for_each(|update| digest.message(update));
        match &self.then {
            Then::GoOn => digest.number(0),
            Then::Release(release) => {
                let (next, until_ms) = match release.next {
                    ReleaseTo::Queue => (1, 0),
                    ReleaseTo::Delay(until_ms) => (2, until_ms),
                    ReleaseTo::Suspend => (3, 0),
                };
                digest.number(next);
                digest.number(until_ms);
                release.error.iter().for_each(|error| digest.message(error));
            }
            Then::Close(close) => {
                digest.number(4);
                digest.message(&close.closed());
            }
        }
        digest.crc()
    }
}

fn error_bytes(error: &crate::proto::RunError) -> usize {
    error.r#type.len() + error.name.len() + error.message.len() + error.stack_trace.len()
}

fn check_update(update: &RunUpdated) -> Result<(), Refusal> {
    for (field, cost) in [
        ("update.cost_in_cents", update.cost_in_cents),
        ("update.base_cost_in_cents", update.base_cost_in_cents),
    ] {
        if cost.is_some_and(|cost| !cost.is_finite()) {
            return Err(Refusal::invalid(field, "is not a number"));
        }
    }
    crate::record::check_text(update.version.as_deref().unwrap_or(""), ID_BYTES_MAX)
        .map_err(|error| Refusal::name("update.version", error))
}

fn check_wait(wait: &WaitCreated) -> Result<(), Refusal> {
    check_name(&wait.wait_id, ID_BYTES_MAX)
        .map_err(|error| Refusal::name("waits.wait_id", error))?;
    match &wait.target {
        None => Err(Refusal::invalid("waits.target", "is missing: say what the wait is for")),
        Some(wait_created::Target::Input(input)) => {
            check_name(&input.stream, STREAM_NAME_BYTES_MAX)
                .map_err(|error| Refusal::name("waits.input.stream", error))?;
            crate::record::check_text(&input.consumer, ID_BYTES_MAX)
                .map_err(|error| Refusal::name("waits.input.consumer", error))
        }
        Some(wait_created::Target::Token(token)) => check_name(&token.token_id, RUN_ID_BYTES_MAX)
            .map_err(|error| Refusal::name("waits.token.token_id", error)),
        Some(wait_created::Target::Time(_)) => Ok(()),
    }
}

impl RunState {
    /// Admits a commit, in the order of checks of the module [`core`](crate::core).
    ///
    /// # Errors
    /// The first check that fails; the state is then unchanged.
    pub fn commit(
        &mut self,
        commit: &Commit,
        context: &Context,
    ) -> Result<Decision<Committed>, Refusal> {
        commit.check()?;
        check_run(self, commit.run_uid)?;
        let content_crc = match commit.producer.is_some() || !commit.request_id.is_empty() {
            true => commit.content_crc(),
            false => 0,
        };
        if let Some(answer) = self.committed_before(commit, content_crc)? {
            return Ok(Decision::Duplicate(answer));
        }
        let now_ms = context.now_ms.max(self.updated_ms);
        if !commit.is_late() || !self.takes_late(now_ms) {
            check_open(self, commit.appends.first().map(|append| &*append.stream))?;
        }
        self.check_streams(commit)?;
        self.check_lease(commit.lease_epoch, commit.needs_lease())?;
        if matches!(commit.then, Then::Release(_)) && self.life.lease.is_none() {
            return Err(Refusal::LeaseRequired { current: self.life.epoch });
        }
        self.check_expected(commit)?;
        let advance = match &commit.producer {
            Some(producer) => Some(self.check_advance(producer, content_crc)?),
            None => None,
        };
        self.check_acks(commit)?;
        self.accept_commit(commit, advance, content_crc, context)
    }

    /// Rows 3 and 4.
    fn committed_before(
        &self,
        commit: &Commit,
        content_crc: u32,
    ) -> Result<Option<Committed>, Refusal> {
        if let Some(producer) = &commit.producer {
            let appended = self.repeated(producer, content_crc)?;
            return Ok(appended.map(|appended| self.committed_of(appended)));
        }
        if commit.request_id.is_empty() {
            return Ok(None);
        }
        let known = self.requests.iter().rev().find(|known| known.id == commit.request_id);
        match known {
            Some(known) if known.content_crc != content_crc => Err(Refusal::DedupMismatch),
            Some(known) => Ok(Some(Committed { deduplicated: true, ..known.committed.clone() })),
            None => Ok(None),
        }
    }

    fn committed_of(&self, appended: Appended) -> Committed {
        let Appended { run_uid, first_seq, count, time_ms, positions_forgotten, .. } = appended;
        Committed {
            run_uid,
            first_seq,
            count,
            time_ms,
            spans: Vec::new(),
            deduplicated: true,
            positions_forgotten,
        }
    }

    /// Row 6 for streams: each is open, and of the right kind.
    fn check_streams(&self, commit: &Commit) -> Result<(), Refusal> {
        for append in &commit.appends {
            let Some(no) = self.stream_no(&append.stream) else { continue };
            self.check_output(no)?;
        }
        for input in commit.inputs_awaited() {
            let is_opened = commit.appends.iter().any(|append| *append.stream == *input.stream);
            let known = self.stream_no(&input.stream).map(|no| self.stream(no));
            if is_opened || known.is_some_and(|stream| stream.kind != StreamKind::Input) {
                return Err(Refusal::invalid("waits.input.stream", "is not an input stream"));
            }
        }
        Ok(())
    }

    /// Row 8.
    fn check_expected(&self, commit: &Commit) -> Result<(), Refusal> {
        if commit.expected_seq.is_some_and(|expected| expected != self.tail) {
            return Err(Refusal::SeqMismatch { tail: self.tail });
        }
        for append in &commit.appends {
            let known = self.stream_no(&append.stream).map(|no| self.stream(no).tail);
            let tail = known.unwrap_or(Index::ZERO);
            if append.expected_index.is_some_and(|expected| expected != tail) {
                return Err(Refusal::IndexMismatch { tail });
            }
        }
        Ok(())
    }

    /// Row 10: what is acked was sent. Acking it again changes nothing.
    fn check_acks(&self, commit: &Commit) -> Result<(), Refusal> {
        for ack in &commit.acks {
            let stream = self.stream_no(&ack.stream).map(|no| self.stream(no));
            let end = ack.ranges.iter().map(|(_, to)| *to).max().unwrap_or(Index::ZERO);
            let input = stream.filter(|stream| stream.inbox.is_some());
            let tail = input.map_or(Index::ZERO, |stream| stream.tail);
            if tail < end {
                let (stream, index) = (ack.stream.clone(), Index(end.0 - 1));
                return Err(Refusal::BadAck { stream, index });
            }
        }
        Ok(())
    }

    /// Row 12.
    fn check_counts(&self, commit: &Commit) -> Result<(), Refusal> {
        let is_new = |append: &&StreamAppend| self.stream_no(&append.stream).is_none();
        let streams = self.streams.len() + commit.appends.iter().filter(is_new).count();
        let is_new = |wait: &&WaitCreated| self.wait(&wait.wait_id).is_none();
        let ids: HashSet<&str> = commit.waits.iter().filter(is_new).map(|w| &*w.wait_id).collect();
        let waits = self.pending_waits().count() + ids.len();
        let is_new = |tag: &&Arc<str>| !self.tags.contains(tag);
        let tags = self.tags.len() + commit.tags.iter().filter(is_new).count();
        for (which, count, limit) in [
            ("streams per run", streams, STREAMS_PER_RUN_MAX),
            ("waits per run", waits, WAITS_MAX),
            ("tags per run", tags, TAGS_PER_RUN_MAX),
        ] {
            if limit < count {
                return Err(Refusal::Limit { which: which.into(), limit: limit as u64 });
            }
        }
        Ok(())
    }

    /// Rows 11 to 13.
    fn accept_commit(
        &mut self,
        commit: &Commit,
        advance: Option<ProducerAdvanced>,
        content_crc: u32,
        context: &Context,
    ) -> Result<Decision<Committed>, Refusal> {
        let mut draft = Draft::new(self, context, commit.frame_bytes_max().min(64 << 10));
        draft.effects.producer = advance;
        if !commit.request_id.is_empty() {
            let id = commit.request_id.as_ref().into();
            draft.effects.request = Some(RequestApplied { id, content_crc });
        }
        for append in &commit.appends {
            let stream = draft.open(&append.stream, StreamKind::Output);
            for record in &append.records {
                draft.record(stream, Kind::Chunk, record);
            }
        }
        draft.begin_work(commit.lease_epoch);
        for ack in &commit.acks {
            draft.ack(&ack.stream, ack.consumer(), &ack.ranges);
        }
        draft.change_all_metadata(commit)?;
        draft.check_consumers(commit)?;
        self.check_counts(commit)?;
        draft.label(commit);
        draft.wait_all(commit);
        match &commit.then {
            Then::GoOn => {}
            Then::Release(release) => draft.release(release),
            Then::Close(close) => draft.close(close.closed()),
        }
        if draft.is_empty() {
            // Nothing that leaves a trace: the run is as the commit wants it.
            let first_seq = self.tail;
            let (run_uid, time_ms) = (self.run_uid, self.updated_ms);
            return Ok(Decision::Duplicate(Committed {
                run_uid,
                first_seq,
                count: 0,
                time_ms,
                spans: Vec::new(),
                deduplicated: false,
                positions_forgotten: false,
            }));
        }
        let spans = draft.spans().iter();
        let spans =
            spans.map(|&(no, first, next)| (no, first, (next.0 - first.0) as u32)).collect();
        let frame = draft.finish();
        if !commit.appends.is_empty() {
            let records = commit.appends.iter().map(|append| append.records.len()).sum();
            self.check_quota(records, &frame, &context.limits)?;
        }
        let answer = Committed {
            run_uid: self.run_uid,
            first_seq: frame.header.first_seq,
            count: frame.header.count,
            time_ms: frame.header.time_ms,
            spans,
            deduplicated: false,
            positions_forgotten: false,
        };
        Ok(self.accepted(frame, answer))
    }
}

impl Draft<'_> {
    /// The first write under a lease shows that its worker is at work.
    pub(super) fn begin_work(&mut self, lease_epoch: Option<u64>) {
        if lease_epoch.is_some() && self.state.life.status == RunStatus::Dequeued {
            self.status(RunStatus::Executing);
        }
    }

    fn change_all_metadata(&mut self, commit: &Commit) -> Result<(), Refusal> {
        let spec = &self.state.spec;
        let (parent, root) = (spec.parent_run_id.clone(), spec.root_run_id.clone());
        let root = if root.is_empty() { parent.clone() } else { root };
        for (target, operations) in [
            ("", &commit.metadata),
            (&*parent, &commit.parent_metadata),
            (&*root, &commit.root_metadata),
        ] {
            if operations.is_empty() {
                continue;
            }
            if target.is_empty() {
                self.check_document(operations)?;
                self.change_metadata(operations, "");
            } else {
                let operations = operations.iter().map(Operation::to_proto).collect();
                let forwarded = MetadataOperations { operations };
                self.tell(target, |_| outbox_entry::Message::Metadata(forwarded));
            }
        }
        Ok(())
    }

    /// Row 11.
    fn check_document(&self, operations: &[Operation]) -> Result<(), Refusal> {
        let size = super::metadata::apply(&self.metadata, operations).document.len();
        match size <= METADATA_BYTES_MAX {
            true => Ok(()),
            false => Err(Refusal::MetadataTooLarge {
                size: size as u64,
                limit: METADATA_BYTES_MAX as u64,
            }),
        }
    }

    /// Row 12 for what was acked.
    fn check_consumers(&mut self, commit: &Commit) -> Result<(), Refusal> {
        for ack in &commit.acks {
            let Some(stream) = self.stream_no(&ack.stream) else { continue };
            let inbox = self.inbox(stream);
            let ranges = inbox.consumer(ack.consumer()).map_or(0, |known| known.acked.len());
            for (which, count, limit) in [
                ("consumers of a stream", inbox.consumers().len(), CONSUMERS_MAX),
                ("acked ranges above the floor", ranges, ACKED_RANGES_MAX),
            ] {
                if limit < count {
                    return Err(Refusal::Limit { which: which.into(), limit: limit as u64 });
                }
            }
        }
        Ok(())
    }

    /// Tags and what the run took.
    fn label(&mut self, commit: &Commit) {
        let new = commit.tags.iter().filter(|tag| !self.state.tags.contains(tag));
        let tags: Vec<String> = new.map(|tag| tag.as_ref().into()).collect();
        if !tags.is_empty() {
            self.lifecycle(event::Event::TagsAdded(TagsAdded { tags }));
        }
        let Some(update) = &commit.update else { return };
        self.lifecycle(event::Event::RunUpdated(update.clone()));
        if update.version.is_some() && self.state.status() == RunStatus::PendingVersion {
            let is_delayed = self.time_ms() < self.state.spec.delay_until_ms;
            self.status(if is_delayed { RunStatus::Delayed } else { RunStatus::Queued });
        }
    }

    fn wait_all(&mut self, commit: &Commit) {
        for id in &commit.cancel_waits {
            if self.pending.contains(id) {
                let canceled = crate::proto::WaitResult::Canceled;
                self.settle(id, canceled, crate::proto::WaitSettled::default());
            }
        }
        for wait in &commit.waits {
            let is_known = self.state.wait(&wait.wait_id).is_some()
                || commit
                    .waits
                    .iter()
                    .take_while(|before| !std::ptr::eq(*before, wait))
                    .any(|before| before.wait_id == wait.wait_id);
            if !is_known {
                self.wait(wait.clone());
            }
        }
        if !commit.cancel_waits.is_empty() && commit.then == Then::GoOn {
            self.resume_if_settled();
        }
    }

    /// Whether the frame would say nothing.
    fn is_empty(&self) -> bool {
        let effects = &self.effects;
        self.count() == 0
            && effects.inputs_acked.is_empty()
            && effects.producer.is_none()
            && effects.request.is_none()
            && effects.outbox_added.is_empty()
    }
}
