//! A run's state as one message, and back.
//!
//! A snapshot says everything its frames said: the state made from it goes on exactly as the one
//! it was made of. It is compact, since there is one for every run at rest: what producers
//! appended last is a table whose columns hold only what is unlikely.
//!
//! Making a state refuses what no run can be, so that damage that a checksum did not see does not
//! turn into panics far from here. It does not check names, which were checked when they came to
//! be, and it cannot check chains and CRCs.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;

use super::{
    AppliedRequest, Cancel, Committed, Consumer, Inbox, Lease, Life, Wait,
    create::check_tags,
    inbox::SentMessage,
    replay::{decode_retention, expect_number},
    state::{Appended, Ending, ProducerState, Remembered, RunState, StreamState},
};
use crate::{
    format::{
        Damage,
        frame::{Chain, FRAME_HEADER_BYTES},
    },
    proto::{
        CancelRequested, Outcome, RunClosed, RunSpec, RunStatus, RunUpdated, StreamKind,
        storage::v1::{
            ConsumerSnapshot, Delivered, EndingSnapshot, InboxSnapshot, LifeSnapshot, OutboxEntry,
            ProducerSnapshot, RequestSnapshot, RunSnapshot, StreamSnapshot, WaitSnapshot,
        },
    },
    record::{
        Index, PRODUCER_APPENDS_REMEMBERED, PRODUCERS_PER_RUN_MAX, RUN_STREAM_NAME, RunNo, RunUid,
        STREAMS_PER_RUN_MAX, Seq, StreamNo,
    },
};

impl RunState {
    /// The state as it is stored: an encoded [`RunSnapshot`].
    pub fn to_bytes(&self) -> Bytes {
        self.to_snapshot().encode_to_vec().into()
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// [`Damage::Message`] if it does not decode, or is of no run that can be.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Damage> {
        let snapshot = RunSnapshot::decode(bytes).map_err(|_| unsound("state of a run"))?;
        Self::from_snapshot(snapshot)
    }

    /// All of the state. Bodies are shared, not copied.
    pub fn to_snapshot(&self) -> RunSnapshot {
        let producer = |producer: &ProducerState| producer_snapshot(producer, self.created_ms);
        RunSnapshot {
            namespace: self.namespace.as_ref().into(),
            run_id: self.run_id.as_ref().into(),
            run_uid: self.run_uid.0.to_vec().into(),
            run_no: self.run_no.0,
            task: self.task.as_ref().into(),
            tags: self.tags.iter().map(|tag| tag.as_ref().into()).collect(),
            batch_id: self.batch.as_ref().into(),
            retention: self.retention.map(Into::into),
            created_ms: self.created_ms,
            updated_after_ms: self.updated_ms - self.created_ms,
            tail: self.tail.0,
            chain: self.chain.0,
            records_chain: (self.records_chain != self.chain).then_some(self.records_chain.0),
            frames: self.frames,
            bytes: self.bytes,
            streams: self.streams.iter().map(stream_snapshot).collect(),
            producers: self.producers.iter().map(producer).collect(),
            ending: self.ending.as_ref().map(ending_snapshot),
            deleted_ms: self.deleted_ms,
            spec: (self.spec != RunSpec::default()).then(|| self.spec.clone()),
            life: (self.life != Life::plain(self.created_ms)).then(|| life_snapshot(&self.life)),
            metadata: self.metadata.clone(),
            metadata_seq: self.metadata_seq.0,
            requests: self.requests.iter().map(request_snapshot).collect(),
            waits: self.waits.iter().map(wait_snapshot).collect(),
            outbox_next: self.outbox_next,
            outbox: self.outbox.iter().cloned().collect(),
            delivered: self.delivered.iter().map(delivered_snapshot).collect(),
            waiters: self.waiters.clone(),
            usage: (self.usage != RunUpdated::default()).then(|| self.usage.clone()),
        }
    }

    /// The state that a snapshot was made of.
    ///
    /// # Errors
    /// What cannot be; every snapshot that was made of a state can.
    pub fn from_snapshot(snapshot: RunSnapshot) -> Result<Self, Damage> {
        let run_uid = RunUid::from_slice(&snapshot.run_uid).ok_or(unsound("identity"))?;
        let created_ms = snapshot.created_ms;
        let updated_ms =
            created_ms.checked_add(snapshot.updated_after_ms).ok_or(unsound("time of a run"))?;
        let tail = Seq(snapshot.tail);
        let tags: Vec<Arc<str>> = snapshot.tags.into_iter().map(Arc::from).collect();
        check_tags(&tags).map_err(|_| unsound("tags"))?;
        check_frames(tail, snapshot.frames, snapshot.bytes)?;
        let producer = |producer| read_producer(producer, run_uid, created_ms, tail);
        let producers = read_named(snapshot.producers, PRODUCERS_PER_RUN_MAX, producer)?;
        let streams = read_streams(snapshot.streams, tail)?;
        Ok(Self {
            namespace: snapshot.namespace.into(),
            run_id: snapshot.run_id.into(),
            run_uid,
            run_no: RunNo(snapshot.run_no),
            task: snapshot.task.into(),
            tags,
            batch: snapshot.batch_id.into(),
            retention: snapshot.retention.map(decode_retention).transpose()?,
            created_ms,
            updated_ms,
            tail,
            chain: Chain(snapshot.chain),
            records_chain: Chain(snapshot.records_chain.unwrap_or(snapshot.chain)),
            streams,
            producers,
            frames: snapshot.frames,
            bytes: snapshot.bytes,
            ending: snapshot.ending.map(|ending| read_ending(ending, tail)).transpose()?,
            deleted_ms: snapshot.deleted_ms,
            spec: snapshot.spec.unwrap_or_default(),
            life: snapshot.life.map_or(Ok(Life::plain(created_ms)), read_life)?,
            metadata: snapshot.metadata,
            metadata_seq: Seq(snapshot.metadata_seq),
            usage: snapshot.usage.unwrap_or_default(),
            requests: read_requests(snapshot.requests, run_uid)?,
            waits: read_waits(snapshot.waits)?,
            outbox_next: snapshot.outbox_next,
            outbox: read_outbox(snapshot.outbox, snapshot.outbox_next)?,
            delivered: read_delivered(&snapshot.delivered)?,
            waiters: snapshot.waiters,
        })
    }
}

/// Part of a snapshot that cannot be.
fn unsound(what: &'static str) -> Damage {
    Damage::Message { what }
}

/// Every run has a record and a frame that created it, and no frame is less than its header.
fn check_frames(tail: Seq, frames: u64, bytes: u64) -> Result<(), Damage> {
    let bytes_min = frames.checked_mul(FRAME_HEADER_BYTES as u64);
    let is_sound = Seq::ZERO < tail && 0 < frames && bytes_min.is_some_and(|min| min <= bytes);
    if is_sound { Ok(()) } else { Err(unsound("frames of a run")) }
}

/// Something that has a name of its own in its run.
trait Named {
    fn name(&self) -> &Arc<str>;
}

impl Named for StreamState {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Named for ProducerState {
    fn name(&self) -> &Arc<str> {
        &self.id
    }
}

/// Reads what must be few, each with a name of its own.
fn read_named<S, T: Named>(
    snapshots: Vec<S>,
    limit: usize,
    read: impl Fn(S) -> Result<T, Damage>,
) -> Result<Vec<T>, Damage> {
    if limit < snapshots.len() {
        let (len, available) = (snapshots.len() as u64, limit as u64);
        return Err(Damage::Length { len, available });
    }
    let found = snapshots.into_iter().map(read).collect::<Result<Vec<T>, _>>()?;
    let names: HashSet<&str> = found.iter().map(|named| &**named.name()).collect();
    if names.len() < found.len() || names.contains("") {
        return Err(unsound("names in a run"));
    }
    Ok(found)
}

fn stream_snapshot(stream: &StreamState) -> StreamSnapshot {
    StreamSnapshot {
        name: stream.name.as_ref().into(),
        kind: stream.kind.into(),
        trim: stream.trim.0,
        tail: stream.tail.0,
        closed: stream.closed,
        inbox: stream.inbox.as_ref().map(inbox_snapshot),
    }
}

fn inbox_snapshot(inbox: &Inbox) -> InboxSnapshot {
    let consumer = |consumer: &Consumer| ConsumerSnapshot {
        name: consumer.name.as_ref().into(),
        floor: consumer.floor.0,
        from: consumer.acked.iter().map(|(from, _)| from.0).collect(),
        to: consumer.acked.iter().map(|(_, to)| to.0).collect(),
    };
    InboxSnapshot {
        consumers: inbox.consumers.iter().map(consumer).collect(),
        sent_id: inbox.sent.iter().map(|sent| sent.id.as_ref().into()).collect(),
        sent_index: inbox.sent.iter().map(|sent| sent.index.0).collect(),
        sent_crc: inbox.sent.iter().map(|sent| sent.content_crc).collect(),
        bytes: inbox.bytes.iter().copied().collect(),
    }
}

fn read_inbox(snapshot: InboxSnapshot, tail: u64) -> Result<Inbox, Damage> {
    let damage = unsound("inbox");
    let InboxSnapshot { consumers, sent_id, sent_index, sent_crc, bytes } = snapshot;
    let is_table = sent_id.len() == sent_index.len() && sent_id.len() == sent_crc.len();
    if !is_table || sent_index.iter().any(|index| tail <= *index) || tail < bytes.len() as u64 {
        return Err(damage);
    }
    let sent = sent_id.into_iter().zip(sent_index).zip(sent_crc);
    let sent = sent.map(|((id, index), content_crc)| SentMessage {
        id: id.into(),
        index: Index(index),
        content_crc,
    });
    let consumer = |snapshot: ConsumerSnapshot| read_consumer(snapshot, tail).ok_or(damage);
    let consumers = consumers.into_iter().map(consumer).collect::<Result<Vec<_>, _>>()?;
    let inbox = Inbox { consumers, sent: sent.collect(), bytes: bytes.into() };
    let owed = tail - inbox.floor().0;
    if inbox.bytes.len() as u64 <= owed { Ok(inbox) } else { Err(damage) }
}

fn read_consumer(snapshot: ConsumerSnapshot, tail: u64) -> Option<Consumer> {
    let ConsumerSnapshot { name, floor, from, to } = snapshot;
    let mut end = floor;
    for (from, to) in from.iter().zip(&to) {
        if *from <= end || to <= from {
            return None;
        }
        end = *to;
    }
    let is_sound = from.len() == to.len() && end <= tail && !name.is_empty();
    let acked = from.into_iter().map(Index).zip(to.into_iter().map(Index)).collect();
    is_sound.then(|| Consumer { name: name.into(), floor: Index(floor), acked })
}

fn life_snapshot(life: &Life) -> LifeSnapshot {
    let cancel = life.cancel.as_ref();
    LifeSnapshot {
        status: life.status.into(),
        delay_until_ms: life.delay_until_ms,
        queued_ms: life.queued_ms,
        started_ms: life.started_ms,
        epoch: life.epoch,
        attempt: life.attempt,
        suspended: life.suspended,
        worker: life.lease.as_ref().map_or("", |lease| &lease.worker).into(),
        term_ms: life.lease.as_ref().map_or(0, |lease| lease.term_ms),
        cancel: cancel.map(|cancel| CancelRequested {
            reason: cancel.reason.clone(),
            close_at_ms: cancel.close_at_ms,
        }),
        cancel_requested_ms: cancel.map_or(0, |cancel| cancel.requested_ms),
    }
}

fn read_life(snapshot: LifeSnapshot) -> Result<Life, Damage> {
    let status = snapshot.status();
    let is_open = matches!(
        status,
        RunStatus::PendingVersion
            | RunStatus::Delayed
            | RunStatus::Queued
            | RunStatus::Dequeued
            | RunStatus::Executing
            | RunStatus::Waiting
    );
    let has_lease = 0 < snapshot.term_ms;
    if !is_open || has_lease && (snapshot.epoch == 0 || snapshot.worker.is_empty()) {
        return Err(unsound("life of a run"));
    }
    let worker: Arc<str> = snapshot.worker.into();
    let cancel = snapshot.cancel.map(|asked| Cancel {
        reason: asked.reason,
        requested_ms: snapshot.cancel_requested_ms,
        close_at_ms: asked.close_at_ms,
    });
    Ok(Life {
        status,
        delay_until_ms: snapshot.delay_until_ms,
        queued_ms: snapshot.queued_ms,
        started_ms: snapshot.started_ms,
        epoch: snapshot.epoch,
        attempt: snapshot.attempt,
        suspended: snapshot.suspended,
        lease: has_lease.then_some(Lease { worker, term_ms: snapshot.term_ms }),
        cancel,
    })
}

fn request_snapshot(request: &AppliedRequest) -> RequestSnapshot {
    let AppliedRequest { id, content_crc, committed } = request;
    RequestSnapshot {
        id: id.as_ref().into(),
        content_crc: *content_crc,
        first_seq: committed.first_seq.0,
        count: committed.count,
        time_ms: committed.time_ms,
        streams: committed.spans.iter().map(|(stream, ..)| stream.0).collect(),
        first_index: committed.spans.iter().map(|(_, first, _)| first.0).collect(),
        counts: committed.spans.iter().map(|(.., count)| *count).collect(),
    }
}

fn read_requests(
    snapshots: Vec<RequestSnapshot>,
    run_uid: RunUid,
) -> Result<VecDeque<AppliedRequest>, Damage> {
    let read = |snapshot: RequestSnapshot| {
        let RequestSnapshot { id, streams, first_index, counts, .. } = snapshot;
        if streams.len() != first_index.len() || streams.len() != counts.len() {
            return Err(unsound("request"));
        }
        let spans = streams.into_iter().zip(first_index).zip(counts);
        let spans = spans.map(|((stream, first), count)| (StreamNo(stream), Index(first), count));
        let committed = Committed {
            run_uid,
            first_seq: Seq(snapshot.first_seq),
            count: snapshot.count,
            time_ms: snapshot.time_ms,
            spans: spans.collect(),
            deduplicated: false,
            positions_forgotten: false,
        };
        Ok(AppliedRequest { id: id.into(), content_crc: snapshot.content_crc, committed })
    };
    snapshots.into_iter().map(read).collect()
}

fn wait_snapshot(wait: &Wait) -> WaitSnapshot {
    WaitSnapshot {
        created: Some(wait.created.clone()),
        created_ms: wait.created_ms,
        settled: wait.settled.clone(),
        settled_ms: wait.settled_ms,
    }
}

fn read_waits(snapshots: Vec<WaitSnapshot>) -> Result<Vec<Wait>, Damage> {
    let read = |snapshot: WaitSnapshot| {
        let created = snapshot.created.ok_or(unsound("wait"))?;
        let WaitSnapshot { created_ms, settled, settled_ms, .. } = snapshot;
        Ok(Wait { created, created_ms, settled, settled_ms })
    };
    snapshots.into_iter().map(read).collect()
}

fn read_outbox(
    entries: Vec<OutboxEntry>,
    outbox_next: u64,
) -> Result<VecDeque<OutboxEntry>, Damage> {
    let is_ascending = entries.windows(2).all(|pair| pair[0].number < pair[1].number);
    let is_below = entries.last().is_none_or(|last| last.number < outbox_next);
    if is_ascending && is_below { Ok(entries.into()) } else { Err(unsound("outbox")) }
}

fn delivered_snapshot(&(source, number): &(RunUid, u64)) -> Delivered {
    Delivered { source_uid: source.0.to_vec().into(), number }
}

fn read_delivered(delivered: &[Delivered]) -> Result<Vec<(RunUid, u64)>, Damage> {
    let read = |delivered: &Delivered| {
        let source = RunUid::from_slice(&delivered.source_uid).ok_or(unsound("sender"))?;
        Ok((source, delivered.number))
    };
    delivered.iter().map(read).collect()
}

/// `$run` and the others; every record of the run is in one of them.
fn read_streams(snapshots: Vec<StreamSnapshot>, tail: Seq) -> Result<Vec<StreamState>, Damage> {
    let streams = read_named(snapshots, STREAMS_PER_RUN_MAX, read_stream)?;
    for (n, stream) in streams.iter().enumerate() {
        let is_run = stream.kind == StreamKind::Run && *stream.name == *RUN_STREAM_NAME;
        let is_other = matches!(stream.kind, StreamKind::Output | StreamKind::Input);
        if (n == 0 && !is_run) || (n != 0 && !is_other) {
            return Err(unsound("kind of a stream"));
        }
    }
    if streams.is_empty() {
        return Err(unsound("stream 0"));
    }
    let records = streams.iter().try_fold(0u64, |sum, stream| sum.checked_add(stream.tail.0));
    expect_number("records", records.ok_or(unsound("tail of a stream"))?, tail.0)?;
    Ok(streams)
}

fn read_stream(snapshot: StreamSnapshot) -> Result<StreamState, Damage> {
    let kind = StreamKind::try_from(snapshot.kind).map_err(|_| unsound("kind of a stream"))?;
    if snapshot.tail < snapshot.trim {
        let (found, expected) = (snapshot.trim, snapshot.tail);
        return Err(Damage::Numbering { what: "trim", found, expected });
    }
    let inbox = match kind {
        StreamKind::Input => Some(read_inbox(snapshot.inbox.unwrap_or_default(), snapshot.tail)?),
        _ => None,
    };
    Ok(StreamState {
        name: snapshot.name.into(),
        kind,
        trim: Index(snapshot.trim),
        tail: Index(snapshot.tail),
        closed: snapshot.closed,
        inbox,
    })
}

/// What an append most likely is: behind the one before, at the same time.
struct Likely {
    first_seq: u64,
    first_index: u64,
    time_ms: u64,
}

impl Likely {
    fn first(created_ms: u64) -> Self {
        Self { first_seq: 0, first_index: 0, time_ms: created_ms }
    }

    fn after(appended: &Appended) -> Self {
        Self {
            first_seq: appended.next_seq().0,
            first_index: appended.next_index().0,
            time_ms: appended.time_ms,
        }
    }
}

fn producer_snapshot(producer: &ProducerState, created_ms: u64) -> ProducerSnapshot {
    let mut snapshot = ProducerSnapshot {
        id: producer.id.as_ref().into(),
        epoch: producer.epoch,
        next_seq: producer.next_seq,
        ..ProducerSnapshot::default()
    };
    let gap = |found: u64, likely: u64| found.wrapping_sub(likely) as i64;
    let mut likely = Likely::first(created_ms);
    for Remembered { payload_crc, appended } in &producer.recent {
        snapshot.payload_crc.push(*payload_crc);
        snapshot.seq_gap.push(gap(appended.first_seq.0, likely.first_seq));
        snapshot.index_gap.push(gap(appended.first_index.0, likely.first_index));
        snapshot.more_records.push(i64::from(appended.count) - 1);
        snapshot.elapsed_ms.push(gap(appended.time_ms, likely.time_ms));
        likely = Likely::after(appended);
    }
    drop_zeros(&mut snapshot.seq_gap);
    drop_zeros(&mut snapshot.index_gap);
    drop_zeros(&mut snapshot.more_records);
    drop_zeros(&mut snapshot.elapsed_ms);
    snapshot
}

/// Leaves out the zeros at the end of a column.
fn drop_zeros(column: &mut Vec<i64>) {
    let len = column.iter().rposition(|&cell| cell != 0).map_or(0, |last| last + 1);
    column.truncate(len);
}

fn read_producer(
    snapshot: ProducerSnapshot,
    run_uid: RunUid,
    created_ms: u64,
    tail: Seq,
) -> Result<ProducerState, Damage> {
    let rows = snapshot.payload_crc.len();
    let columns =
        [&snapshot.seq_gap, &snapshot.index_gap, &snapshot.more_records, &snapshot.elapsed_ms];
    let fits = columns.iter().all(|column| column.len() <= rows);
    if !fits || PRODUCER_APPENDS_REMEMBERED < rows || snapshot.next_seq < rows as u64 {
        return Err(unsound("appends of a producer"));
    }
    let mut producer = ProducerState::new(snapshot.id.into());
    (producer.epoch, producer.next_seq) = (snapshot.epoch, snapshot.next_seq);
    let mut likely = Likely::first(created_ms);
    for (n, &payload_crc) in snapshot.payload_crc.iter().enumerate() {
        let cells = columns.map(|column| column.get(n).copied().unwrap_or(0));
        let appended = read_appended(cells, &likely, run_uid, tail)?;
        likely = Likely::after(&appended);
        producer.remember(Remembered { payload_crc, appended });
    }
    Ok(producer)
}

/// One row of the table of a producer's appends.
fn read_appended(
    [seq_gap, index_gap, more_records, elapsed_ms]: [i64; 4],
    likely: &Likely,
    run_uid: RunUid,
    tail: Seq,
) -> Result<Appended, Damage> {
    let count = more_records.checked_add(1).and_then(|count| u32::try_from(count).ok());
    let count = count.ok_or(unsound("count of an append"))?;
    let first_seq = likely.first_seq.wrapping_add_signed(seq_gap);
    let first_index = likely.first_index.wrapping_add_signed(index_gap);
    for first in [first_seq, first_index] {
        if tail.0.checked_sub(u64::from(count)).is_none_or(|last| last < first) {
            return Err(unsound("position of an append"));
        }
    }
    Ok(Appended {
        run_uid,
        first_seq: Seq(first_seq),
        first_index: Index(first_index),
        count,
        time_ms: likely.time_ms.wrapping_add_signed(elapsed_ms),
        deduplicated: false,
        positions_forgotten: false,
    })
}

fn ending_snapshot(ending: &Ending) -> EndingSnapshot {
    let closed = RunClosed {
        outcome: ending.outcome.into(),
        output: ending.output.clone(),
        output_type: ending.output_type.clone(),
        error: ending.error.clone(),
    };
    EndingSnapshot { seq: ending.seq.0, time_ms: ending.time_ms, closed: Some(closed) }
}

fn read_ending(snapshot: EndingSnapshot, tail: Seq) -> Result<Ending, Damage> {
    let closed = snapshot.closed.ok_or(unsound("end of a run"))?;
    if closed.outcome() == Outcome::Unspecified || tail.0 <= snapshot.seq {
        return Err(unsound("end of a run"));
    }
    Ok(Ending::of(Seq(snapshot.seq), snapshot.time_ms, closed))
}
