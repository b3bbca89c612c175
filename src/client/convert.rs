//! The store's values as requests, and answers as the store's values.
//!
//! The other direction of what the server does. An answer that does not have the shape the
//! protocol promises is [`Error::Unexpected`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    core::{
        Append, Appended, Cancel, Close, CloseStream, Create, Lease, Life, NewRecord, Producer,
        Refusal, Retention, Trim, Wait,
    },
    engine::{
        Bounds, CacheUse, ClosedRun, CreatedRun, DEFAULT_NAMESPACE, DiskUse, End, FlushLag, Gap,
        IfAbsent, JournalSlots, ListPosition, ListRuns, Page, Query, RunEnd, RunInfo, RunKey,
        RunPage, RunTail, Start, Stats, StreamInfo, StreamList,
    },
    error::Error,
    format::cursor::Cursor,
    grpc::{encoded, page_token},
    proto::{self, EndReason, Outcome, RunStatus, StreamKind, start},
    record::{Index, RunUid, Seq, StreamNo},
};

/// An answer that is not what the protocol promises.
pub(super) fn unexpected(message: impl Into<Arc<str>>) -> Error {
    Error::Unexpected { message: message.into() }
}

/// The run's id; its namespace is not sent.
pub(super) fn run_id(run: &RunKey) -> Result<String, Error> {
    check_namespace(&run.namespace)?;
    Ok(run.run_id.as_ref().into())
}

pub(super) fn check_namespace(namespace: &str) -> Result<(), Refusal> {
    match namespace {
        DEFAULT_NAMESPACE => Ok(()),
        _ => Err(Refusal::invalid("namespace", "comes from the credential: leave the default")),
    }
}

pub(super) fn run_uid_bytes(run_uid: Option<RunUid>) -> Bytes {
    run_uid.map(|run_uid| Bytes::copy_from_slice(&run_uid.0)).unwrap_or_default()
}

pub(super) fn create(create: Create) -> Result<proto::CreateRunRequest, Error> {
    check_namespace(&create.namespace)?;
    Ok(proto::CreateRunRequest {
        run_id: create.run_id.as_ref().into(),
        task: create.task.as_ref().into(),
        tags: names(&create.tags),
        batch_id: create.batch.as_ref().into(),
        retention: create.retention.map(Into::into),
        spec: (create.spec != proto::RunSpec::default()).then_some(create.spec),
    })
}

/// Rows of a page. Zero has another meaning in the protocol.
pub(super) fn page_size(rows: usize) -> Result<u32, Refusal> {
    match rows {
        0 => Err(Refusal::invalid("page_size", "is zero")),
        rows => Ok(u32::try_from(rows).unwrap_or(u32::MAX)),
    }
}

pub(super) fn list_runs(list: &ListRuns) -> Result<proto::ListRunsRequest, Error> {
    check_namespace(&list.namespace)?;
    Ok(proto::ListRunsRequest {
        page_size: page_size(list.page_size)?,
        page_token: page_token::encode(list.after),
        prefix: list.prefix.clone(),
        tags: names(&list.tags),
        batch_id: list.batch.as_ref().into(),
        task: list.task.as_ref().into(),
        parent_run_id: list.parent.as_ref().into(),
        statuses: list.statuses.iter().map(|&status| status.into()).collect(),
        created_from_ms: list.created.start,
        created_to_ms: Some(list.created.end),
    })
}

pub(super) fn close_run(run: &RunKey, close: Close) -> Result<proto::CloseRunRequest, Error> {
    Ok(proto::CloseRunRequest {
        run_id: run_id(run)?,
        run_uid: run_uid_bytes(close.run_uid),
        outcome: close.outcome.into(),
        output: close.output,
        output_type: close.output_type,
        error: close.error,
        expected_seq: close.expected_seq.map(|seq| seq.0),
        lease_epoch: close.lease_epoch,
    })
}

pub(super) fn close_stream(
    run: &RunKey,
    close: CloseStream,
) -> Result<proto::CloseStreamRequest, Error> {
    Ok(proto::CloseStreamRequest {
        run_id: run_id(run)?,
        run_uid: run_uid_bytes(close.run_uid),
        stream: close.stream.as_ref().into(),
    })
}

pub(super) fn trim(run: &RunKey, trim: Trim) -> Result<proto::TrimRequest, Error> {
    Ok(proto::TrimRequest {
        run_id: run_id(run)?,
        run_uid: run_uid_bytes(trim.run_uid),
        stream: trim.stream.as_ref().into(),
        trim: trim.trim.0,
    })
}

pub(super) fn append(
    run: &RunKey,
    append: Append,
    absent: IfAbsent,
) -> Result<proto::AppendRequest, Error> {
    Ok(proto::AppendRequest {
        run_id: run_id(run)?,
        run_uid: run_uid_bytes(append.run_uid),
        stream: append.stream.as_ref().into(),
        records: append_records(append.records),
        expected_seq: append.expected_seq.map(|seq| seq.0),
        expected_index: append.expected_index.map(|index| index.0),
        producer: append.producer.map(producer),
        create_run: absent == IfAbsent::Create,
        lease_epoch: append.lease_epoch,
    })
}

pub(super) fn producer(producer: Producer) -> proto::Producer {
    let Producer { id, epoch, seq } = producer;
    proto::Producer { id: id.as_ref().into(), epoch, seq }
}

pub(super) fn append_records(records: Vec<NewRecord>) -> Vec<proto::AppendRecord> {
    let record = |record: NewRecord| proto::AppendRecord {
        data: record.data,
        headers: record.headers,
        id: record.id,
        client_time_ms: record.client_time_ms,
    };
    records.into_iter().map(record).collect()
}

pub(super) fn read(query: Query) -> Result<proto::ReadRequest, Error> {
    Ok(proto::ReadRequest {
        run_id: run_id(&query.run)?,
        run_uid: run_uid_bytes(query.run_uid),
        streams: names(&query.streams),
        bounds: bounds(query.bounds)?,
        start: Some(start(query)),
    })
}

pub(super) fn tail(query: Query, heartbeat: Duration) -> Result<proto::TailRequest, Error> {
    Ok(proto::TailRequest {
        run_id: run_id(&query.run)?,
        run_uid: run_uid_bytes(query.run_uid),
        streams: names(&query.streams),
        bounds: bounds(query.bounds)?,
        stop_at_tail: query.stop_at_tail,
        heartbeat_ms: heartbeat_ms(heartbeat),
        start: Some(start(query)),
    })
}

/// Names as text.
pub(super) fn names(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(|name| name.as_ref().into()).collect()
}

fn start(query: Query) -> proto::Start {
    let start = match query.start {
        Start::Beginning => None,
        Start::Seq(seq) => Some(start::Start::Seq(seq.0)),
        Start::Index(index) => Some(start::Start::Index(index.0)),
        Start::Cursor(cursor) => Some(start::Start::Cursor(cursor)),
        Start::Last(count) => Some(start::Start::Last(count)),
        Start::Tail => Some(start::Start::Tail(true)),
    };
    let Query { allow_gap, clamp, older_cursors, .. } = query;
    proto::Start { start, allow_gap, clamp, older_cursors }
}

/// Zero has another meaning in the protocol.
fn bounds(bounds: Bounds) -> Result<Option<proto::Bounds>, Error> {
    let some = |field, bound| match bound {
        Some(0) => Err(Refusal::invalid(field, "is zero: leave it out for no bound")),
        bound => Ok(bound.unwrap_or(0)),
    };
    Ok(Some(proto::Bounds {
        records: some("bounds.records", bounds.records)?,
        bytes: some("bounds.bytes", bounds.bytes)?,
        until_seq: bounds.until_seq.map(|seq| seq.0),
        until_index: bounds.until_index.map(|index| index.0),
    }))
}

pub(super) fn run_uid(bytes: &Bytes) -> Result<RunUid, Error> {
    RunUid::from_slice(bytes).ok_or_else(|| unexpected("a run_uid that has not 16 bytes"))
}

pub(super) fn cursor(text: &str) -> Result<Cursor, Error> {
    Cursor::parse(text).map_err(|_| unexpected("a cursor that this version does not know"))
}

pub(super) fn run(run: Option<proto::Run>) -> Result<RunInfo, Error> {
    let run = run.ok_or_else(|| unexpected("an answer without its run"))?;
    let outcome = outcome_of(status(run.status)?);
    let lease = run.lease.unwrap_or_default();
    let ended = outcome.map(|outcome| RunEnd {
        outcome,
        completed_ms: run.completed_at_ms.unwrap_or_default(),
        output: run.output,
        output_type: run.output_type,
        error: run.error,
    });
    Ok(RunInfo {
        run_id: run.run_id.into(),
        run_uid: run_uid(&run.run_uid)?,
        task: run.task.into(),
        tags: run.tags.into_iter().map(Arc::from).collect(),
        batch: run.batch_id.into(),
        retention: run
            .retention
            .map(Retention::try_from)
            .transpose()
            .map_err(|_| unexpected("an unknown policy at the limit"))?,
        created_ms: run.created_at_ms,
        updated_ms: run.updated_at_ms,
        ended,
        tail: Seq(run.tail),
        streams: run.streams,
        bytes: run.bytes,
        status: status(run.status)?,
        life: Life {
            status: status(run.status)?,
            delay_until_ms: run.delay_until_ms,
            queued_ms: run.queued_at_ms,
            started_ms: run.started_at_ms,
            epoch: lease.epoch,
            attempt: run.attempt,
            suspended: run.suspended,
            lease: (0 < lease.term_ms)
                .then(|| Lease { worker: lease.worker.into(), term_ms: lease.term_ms }),
            cancel: cancel(run.cancel_requested, run.cancel_requested_at_ms),
        },
        spec: run.spec.unwrap_or_default(),
        metadata: run.metadata,
        metadata_seq: Seq(run.metadata_seq),
        usage: run.usage.unwrap_or_default(),
        waits: run.waits.into_iter().map(wait).collect::<Result<_, _>>()?,
        stream_names: run.stream_names.into_iter().map(Arc::from).collect(),
    })
}

/// What was asked of a run that is to stop, and when.
pub(super) fn cancel(asked: Option<proto::CancelRequested>, requested_ms: u64) -> Option<Cancel> {
    asked.map(|asked| Cancel { reason: asked.reason, requested_ms, close_at_ms: asked.close_at_ms })
}

/// Milliseconds between heartbeats.
pub(super) fn heartbeat_ms(heartbeat: Duration) -> u32 {
    u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX)
}

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wait(wait: proto::Wait) -> Result<Wait, Error> {
    Ok(Wait {
        created: wait.created.ok_or_else(|| unexpected("a wait that is for nothing"))?,
        created_ms: wait.created_at_ms,
        settled: wait.settled,
        settled_ms: wait.settled_at_ms,
    })
}

pub(super) fn status(status: i32) -> Result<RunStatus, Error> {
    match RunStatus::try_from(status) {
        Ok(RunStatus::Unspecified) => Err(unexpected("a run without a status")),
        Ok(status) => Ok(status),
        Err(_) => Err(unexpected("an unknown status")),
    }
}

/// How a run ended, by its status; none while it is open.
fn outcome_of(status: RunStatus) -> Option<Outcome> {
    match status {
        RunStatus::Unspecified
        | RunStatus::PendingVersion
        | RunStatus::Delayed
        | RunStatus::Queued
        | RunStatus::Dequeued
        | RunStatus::Executing
        | RunStatus::Waiting => None,
        RunStatus::Completed => Some(Outcome::Completed),
        RunStatus::Failed => Some(Outcome::Failed),
        RunStatus::Canceled => Some(Outcome::Canceled),
        RunStatus::Crashed => Some(Outcome::Crashed),
        RunStatus::SystemFailure => Some(Outcome::SystemFailure),
        RunStatus::Expired => Some(Outcome::Expired),
        RunStatus::TimedOut => Some(Outcome::TimedOut),
    }
}

/// An outcome that may be missing.
pub(super) fn outcome(outcome: i32) -> Result<Option<Outcome>, Error> {
    match Outcome::try_from(outcome) {
        Ok(Outcome::Unspecified) => Ok(None),
        Ok(outcome) => Ok(Some(outcome)),
        Err(_) => Err(unexpected("an unknown outcome")),
    }
}

pub(super) fn created(answer: proto::CreateRunResponse) -> Result<CreatedRun, Error> {
    Ok(CreatedRun { run: run(answer.run)?, created: answer.created })
}

pub(super) fn closed(answer: proto::CloseRunResponse) -> Result<ClosedRun, Error> {
    Ok(ClosedRun {
        run: run(answer.run)?,
        closed_seq: Seq(answer.closed_seq),
        deduplicated: answer.deduplicated,
    })
}

/// Where the next page begins.
pub(super) fn next_page(token: &str) -> Result<Option<ListPosition>, Error> {
    page_token::decode(token)
        .map_err(|_| unexpected("a page token that this version does not know"))
}

pub(super) fn run_page(answer: proto::ListRunsResponse) -> Result<RunPage, Error> {
    let next = next_page(&answer.next_page_token)?;
    let runs = answer.runs.into_iter().map(|found| run(Some(found)));
    Ok(RunPage { runs: runs.collect::<Result<_, _>>()?, next })
}

pub(super) fn appended(answer: proto::AppendResponse) -> Result<Appended, Error> {
    Ok(Appended {
        run_uid: run_uid(&answer.run_uid)?,
        first_seq: Seq(answer.first_seq),
        first_index: Index(answer.first_index),
        count: answer.count,
        time_ms: answer.time_ms,
        deduplicated: answer.deduplicated,
        positions_forgotten: answer.positions_forgotten,
    })
}

pub(super) fn run_tail(answer: proto::CheckTailResponse) -> Result<RunTail, Error> {
    Ok(RunTail {
        run_uid: run_uid(&answer.run_uid)?,
        tail: Seq(answer.tail),
        last_time_ms: answer.last_time_ms,
        outcome: outcome(answer.outcome)?,
        cursor: cursor(&answer.cursor)?,
        stream: answer.stream.map(stream).transpose()?,
    })
}

pub(super) fn stream_list(answer: proto::ListStreamsResponse) -> Result<StreamList, Error> {
    Ok(StreamList { streams: streams(answer.streams)?, tail: Seq(answer.tail) })
}

pub(super) fn streams(infos: Vec<proto::StreamInfo>) -> Result<Vec<StreamInfo>, Error> {
    infos.into_iter().map(stream).collect()
}

fn stream(info: proto::StreamInfo) -> Result<StreamInfo, Error> {
    Ok(StreamInfo {
        stream: StreamNo(info.stream),
        name: info.name.into(),
        kind: StreamKind::try_from(info.kind).map_err(|_| unexpected("an unknown stream kind"))?,
        trim: Index(info.trim),
        tail: Index(info.tail),
        closed: info.closed,
    })
}

pub(super) fn gap(gap: proto::Gap) -> Gap {
    Gap { stream: StreamNo(gap.stream), from: Index(gap.from_index), to: Index(gap.to_index) }
}

pub(super) fn end(end: proto::End) -> Result<End, Error> {
    match EndReason::try_from(end.reason) {
        Ok(EndReason::Closed) => Ok(End::Closed(outcome(end.outcome)?)),
        Ok(EndReason::Limit) => Ok(End::Limit),
        Ok(EndReason::Unspecified) | Err(_) => Err(unexpected("an unknown end")),
    }
}

pub(super) fn page(answer: encoded::ReadResponse) -> Result<Page, Error> {
    Ok(Page {
        records: answer.records,
        streams: streams(answer.streams)?,
        gaps: answer.gaps.into_iter().map(gap).collect(),
        cursor: cursor(&answer.cursor)?,
        tail: Seq(answer.tail),
        end: answer.end.map(end).transpose()?,
    })
}

/// What a server does not tell is zero.
pub(super) fn stats(answer: proto::GetStatsResponse) -> Stats {
    let cache = |cache: Option<proto::CacheUse>| {
        let cache = cache.unwrap_or_default();
        CacheUse { used_bytes: cache.used_bytes, max_bytes: cache.max_bytes }
    };
    let disk = answer.disk.unwrap_or_default();
    let slots = answer.journal_slots.unwrap_or_default();
    let lag = answer.flush_lag.unwrap_or_default();
    Stats {
        runs: answer.runs,
        runs_resident: answer.runs_resident,
        commits: answer.commits,
        frames: answer.frames,
        records: answer.records,
        bytes: answer.bytes,
        disk_reads: answer.disk_reads,
        disk: DiskUse {
            journal_bytes: disk.journal_bytes,
            pack_bytes: disk.pack_bytes,
            run_segment_bytes: disk.run_segment_bytes,
            index_bytes: disk.index_bytes,
            manifest_bytes: disk.manifest_bytes,
            live_bytes: disk.live_bytes,
            dead_bytes: disk.dead_bytes,
            free_bytes: disk.free_bytes,
            packs: disk.packs,
            packs_lost: disk.packs_lost,
        },
        journal_slots: JournalSlots {
            total: slots.total,
            used: slots.used,
            free: slots.free,
            max: slots.max,
        },
        flush_lag: FlushLag {
            blocks: lag.blocks,
            bytes: lag.bytes,
            oldest_age_ms: lag.oldest_age_ms,
        },
        frame_cache: cache(answer.frame_cache),
        block_cache: cache(answer.block_cache),
    }
}
