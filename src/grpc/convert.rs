//! Requests as the store's values, and the store's values as answers.
//!
//! Only the shape is checked here: sixteen bytes are an identity, enums are known, numbers mean
//! what they say. Names, sizes and limits are the store's to check.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{encoded, page_token};
use crate::{
    core::{
        Append, Appended, Cancel, Close, CloseStream, Create, Delete, NewRecord, Producer, Refusal,
        Retention, Trim, Wait,
    },
    engine::{
        Bounds, CacheUse, End, Gap, IfAbsent, ListPosition, ListRuns, Page, Query, RunInfo, RunKey,
        RunPage, RunTail, Start, Stats, StreamInfo, StreamList, TailItem,
    },
    proto::{
        self, CancelRequested, EndReason, Outcome, RunLease, RunSpec, RunStatus, RunUpdated, start,
    },
    record::{Index, RunUid, Seq},
};

/// Rows of a page if none are asked for.
const PAGE_SIZE: usize = 100;
/// Time between heartbeats if none is asked for.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Milliseconds between heartbeats, at least.
const HEARTBEAT_MS_MIN: u32 = 100;

/// The identity a run must have, if one is given.
pub(super) fn run_uid(bytes: &Bytes) -> Result<Option<RunUid>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let problem = || format!("has {} bytes: an identity has 16, or is left out", bytes.len());
    RunUid::from_slice(bytes).map(Some).ok_or_else(|| Refusal::invalid("run_uid", problem()))
}

pub(super) fn create(request: proto::CreateRunRequest) -> Result<Create, Refusal> {
    let RunKey { namespace, run_id } = RunKey::new(request.run_id);
    let retention = request.retention.map(Retention::try_from).transpose();
    Ok(Create {
        namespace,
        run_id,
        task: request.task.into(),
        tags: names(request.tags),
        batch: request.batch_id.into(),
        retention: retention
            .map_err(|error| Refusal::invalid("retention.at_limit", error.to_string()))?,
        spec: request.spec.unwrap_or_default(),
    })
}

pub(super) fn list_runs(request: proto::ListRunsRequest) -> Result<ListRuns, Refusal> {
    Ok(ListRuns {
        prefix: request.prefix,
        tags: names(request.tags),
        batch: request.batch_id.into(),
        task: request.task.into(),
        parent: request.parent_run_id.into(),
        statuses: statuses(request.statuses)?,
        created: request.created_from_ms..request.created_to_ms.unwrap_or(u64::MAX),
        after: page_position(&request.page_token)?,
        page_size: page_size(request.page_size),
        ..ListRuns::default()
    })
}

/// Where a page begins.
pub(super) fn page_position(token: &str) -> Result<Option<ListPosition>, Refusal> {
    page_token::decode(token).map_err(|error| Refusal::invalid("page_token", error.to_string()))
}

/// Rows of a page.
pub(super) fn page_size(rows: u32) -> usize {
    if rows == 0 { PAGE_SIZE } else { rows as usize }
}

/// Statuses that are wanted.
pub(super) fn statuses(statuses: Vec<i32>) -> Result<Vec<RunStatus>, Refusal> {
    statuses.into_iter().map(run_status).collect()
}

fn run_status(status: i32) -> Result<RunStatus, Refusal> {
    match RunStatus::try_from(status) {
        Ok(RunStatus::Unspecified) | Err(_) => {
            Err(Refusal::invalid("statuses", format!("holds {status}, which is unknown")))
        }
        Ok(status) => Ok(status),
    }
}

pub(super) fn delete_run(request: proto::DeleteRunRequest) -> Result<(RunKey, Delete), Refusal> {
    let delete = Delete { run_uid: run_uid(&request.run_uid)? };
    Ok((RunKey::new(request.run_id), delete))
}

/// How a run ends.
pub(super) fn outcome(outcome: i32) -> Result<Outcome, Refusal> {
    let unknown = |_| Refusal::invalid("outcome", format!("{outcome} is unknown"));
    Outcome::try_from(outcome).map_err(unknown)
}

pub(super) fn close_run(request: proto::CloseRunRequest) -> Result<(RunKey, Close), Refusal> {
    let close = Close {
        run_uid: run_uid(&request.run_uid)?,
        outcome: outcome(request.outcome)?,
        output: request.output,
        output_type: request.output_type,
        error: request.error,
        expected_seq: request.expected_seq.map(Seq),
        lease_epoch: request.lease_epoch,
    };
    Ok((RunKey::new(request.run_id), close))
}

pub(super) fn close_stream(
    request: proto::CloseStreamRequest,
) -> Result<(RunKey, CloseStream), Refusal> {
    let close = CloseStream { run_uid: run_uid(&request.run_uid)?, stream: request.stream.into() };
    Ok((RunKey::new(request.run_id), close))
}

pub(super) fn trim(request: proto::TrimRequest) -> Result<(RunKey, Trim), Refusal> {
    let trim = Trim {
        run_uid: run_uid(&request.run_uid)?,
        stream: request.stream.into(),
        trim: Index(request.trim),
    };
    Ok((RunKey::new(request.run_id), trim))
}

pub(super) fn if_absent(create_run: bool) -> IfAbsent {
    if create_run { IfAbsent::Create } else { IfAbsent::Refuse }
}

pub(super) fn append(request: proto::AppendRequest) -> Result<(RunKey, Append), Refusal> {
    let producer = request.producer.map(|producer| Producer {
        id: producer.id.into(),
        epoch: producer.epoch,
        seq: producer.seq,
    });
    let append = Append {
        run_uid: run_uid(&request.run_uid)?,
        stream: request.stream.into(),
        records: new_records(request.records),
        expected_seq: request.expected_seq.map(Seq),
        expected_index: request.expected_index.map(Index),
        producer,
        lease_epoch: request.lease_epoch,
    };
    Ok((RunKey::new(request.run_id), append))
}

pub(super) fn new_records(records: Vec<proto::AppendRecord>) -> Vec<NewRecord> {
    let record = |record: proto::AppendRecord| NewRecord {
        data: record.data,
        headers: record.headers,
        id: record.id,
        client_time_ms: record.client_time_ms,
    };
    records.into_iter().map(record).collect()
}

pub(super) fn read(request: proto::ReadRequest) -> Result<Query, Refusal> {
    let query = Query {
        run_uid: run_uid(&request.run_uid)?,
        streams: names(request.streams),
        bounds: bounds(request.bounds),
        ..Query::run(RunKey::new(request.run_id))
    };
    with_start(query, request.start)
}

/// How often to say that nothing happened.
pub(super) fn heartbeat_of(heartbeat_ms: u32) -> Result<Duration, Refusal> {
    match heartbeat_ms {
        0 => Ok(HEARTBEAT),
        HEARTBEAT_MS_MIN.. => Ok(Duration::from_millis(heartbeat_ms.into())),
        _ => {
            let problem = format!("is below {HEARTBEAT_MS_MIN}");
            Err(Refusal::invalid("heartbeat_ms", problem))
        }
    }
}

/// What to follow, and how often to say that nothing happened.
pub(super) fn tail(request: proto::TailRequest) -> Result<(Query, Duration), Refusal> {
    let heartbeat = heartbeat_of(request.heartbeat_ms)?;
    let query = Query {
        run_uid: run_uid(&request.run_uid)?,
        streams: names(request.streams),
        bounds: bounds(request.bounds),
        stop_at_tail: request.stop_at_tail,
        ..Query::run(RunKey::new(request.run_id))
    };
    Ok((with_start(query, request.start)?, heartbeat))
}

pub(super) fn names(names: Vec<String>) -> Vec<Arc<str>> {
    names.into_iter().map(Arc::from).collect()
}

fn with_start(query: Query, start: Option<proto::Start>) -> Result<Query, Refusal> {
    let Some(proto::Start { start, allow_gap, clamp, older_cursors }) = start else {
        return Ok(query);
    };
    let start = match start {
        None => Start::Beginning,
        Some(start::Start::Seq(seq)) => Start::Seq(Seq(seq)),
        Some(start::Start::Index(index)) => Start::Index(Index(index)),
        Some(start::Start::Cursor(cursor)) => Start::Cursor(cursor),
        Some(start::Start::Last(count)) => Start::Last(count),
        Some(start::Start::Tail(true)) => Start::Tail,
        Some(start::Start::Tail(false)) => {
            return Err(Refusal::invalid("start.tail", "is false: set it, or another start"));
        }
    };
    Ok(Query { start, allow_gap, clamp, older_cursors, ..query })
}

fn bounds(bounds: Option<proto::Bounds>) -> Bounds {
    let bounds = bounds.unwrap_or_default();
    let unless_zero = |bound| (bound != 0).then_some(bound);
    Bounds {
        records: unless_zero(bounds.records),
        bytes: unless_zero(bounds.bytes),
        until_seq: bounds.until_seq.map(Seq),
        until_index: bounds.until_index.map(Index),
    }
}

pub(super) fn run(run: RunInfo) -> proto::Run {
    let completed_at_ms = run.ended.as_ref().map(|ended| ended.completed_ms);
    let (output, output_type, error) =
        run.ended.map(|ended| (ended.output, ended.output_type, ended.error)).unwrap_or_default();
    proto::Run {
        run_id: run.run_id.as_ref().into(),
        run_uid: run_uid_bytes(run.run_uid),
        task: run.task.as_ref().into(),
        status: run.status.into(),
        created_at_ms: run.created_ms,
        updated_at_ms: run.updated_ms,
        completed_at_ms,
        output,
        output_type,
        error,
        tail: run.tail.0,
        streams: run.streams,
        bytes: run.bytes,
        tags: run.tags.iter().map(|tag| tag.as_ref().into()).collect(),
        batch_id: run.batch.as_ref().into(),
        retention: run.retention.map(Into::into),
        spec: (run.spec != RunSpec::default()).then_some(run.spec),
        metadata: run.metadata,
        metadata_seq: run.metadata_seq.0,
        delay_until_ms: run.life.delay_until_ms,
        queued_at_ms: run.life.queued_ms,
        started_at_ms: run.life.started_ms,
        attempt: run.life.attempt,
        lease: (0 < run.life.epoch).then(|| RunLease {
            epoch: run.life.epoch,
            worker: run.life.lease.as_ref().map_or("", |lease| &lease.worker).into(),
            term_ms: run.life.lease.as_ref().map_or(0, |lease| lease.term_ms),
        }),
        cancel_requested_at_ms: run.life.cancel.as_ref().map_or(0, |asked| asked.requested_ms),
        cancel_requested: run.life.cancel.map(cancel_requested),
        usage: (run.usage != RunUpdated::default()).then_some(run.usage),
        suspended: run.life.suspended,
        waits: run.waits.into_iter().map(wait).collect(),
        stream_names: run.stream_names.iter().map(|name| name.as_ref().into()).collect(),
    }
}

fn wait(wait: Wait) -> proto::Wait {
    proto::Wait {
        created: Some(wait.created),
        created_at_ms: wait.created_ms,
        settled: wait.settled,
        settled_at_ms: wait.settled_ms,
    }
}

/// What was asked of a run that is to stop.
pub(super) fn cancel_requested(asked: Cancel) -> CancelRequested {
    CancelRequested { reason: asked.reason, close_at_ms: asked.close_at_ms }
}

pub(super) fn run_uid_bytes(run_uid: RunUid) -> Bytes {
    Bytes::copy_from_slice(&run_uid.0)
}

pub(super) fn run_page(page: RunPage) -> proto::ListRunsResponse {
    proto::ListRunsResponse {
        runs: page.runs.into_iter().map(run).collect(),
        next_page_token: page_token::encode(page.next),
    }
}

pub(super) fn appended(appended: &Appended) -> proto::AppendResponse {
    let known = !appended.positions_forgotten;
    proto::AppendResponse {
        first_seq: appended.first_seq.0,
        first_index: appended.first_index.0,
        count: appended.count,
        next_seq: if known { appended.next_seq().0 } else { 0 },
        next_index: if known { appended.next_index().0 } else { 0 },
        time_ms: appended.time_ms,
        deduplicated: appended.deduplicated,
        positions_forgotten: appended.positions_forgotten,
        run_uid: run_uid_bytes(appended.run_uid),
    }
}

pub(super) fn run_tail(tail: RunTail) -> proto::CheckTailResponse {
    proto::CheckTailResponse {
        tail: tail.tail.0,
        last_time_ms: tail.last_time_ms,
        closed: tail.outcome.is_some(),
        outcome: tail.outcome.unwrap_or_default().into(),
        stream: tail.stream.map(stream),
        run_uid: run_uid_bytes(tail.run_uid),
        cursor: tail.cursor.to_string(),
    }
}

pub(super) fn stream_list(list: StreamList) -> proto::ListStreamsResponse {
    proto::ListStreamsResponse { streams: streams(list.streams), tail: list.tail.0 }
}

fn streams(infos: Vec<StreamInfo>) -> Vec<proto::StreamInfo> {
    infos.into_iter().map(stream).collect()
}

fn stream(info: StreamInfo) -> proto::StreamInfo {
    proto::StreamInfo {
        stream: info.stream.0,
        name: info.name.as_ref().into(),
        kind: info.kind.into(),
        trim: info.trim.0,
        tail: info.tail.0,
        closed: info.closed,
    }
}

fn gap(gap: Gap) -> proto::Gap {
    proto::Gap { stream: gap.stream.0, from_index: gap.from.0, to_index: gap.to.0 }
}

fn end(end: End) -> proto::End {
    let (reason, outcome) = match end {
        End::Closed(outcome) => (EndReason::Closed, outcome.unwrap_or_default()),
        End::Limit => (EndReason::Limit, Outcome::Unspecified),
    };
    proto::End { reason: reason.into(), outcome: outcome.into() }
}

pub(super) fn page(page: Page) -> encoded::ReadResponse {
    encoded::ReadResponse {
        records: page.records,
        streams: streams(page.streams),
        gaps: page.gaps.into_iter().map(gap).collect(),
        cursor: page.cursor.to_string(),
        next_seq: page.cursor.seq.0,
        tail: page.tail.0,
        end: page.end.map(end),
    }
}

/// An item of a tail, but for where to resume after it. `durable` is asked only if it is told.
pub(super) fn tail_item(item: TailItem, durable: impl Fn() -> Seq) -> encoded::TailResponse {
    let mut answer = encoded::TailResponse::default();
    match item {
        TailItem::Streams(infos) => answer.streams = streams(infos),
        TailItem::Records(records, _) => answer.records = records,
        TailItem::Gap(found, _) => answer.gap = Some(gap(found)),
        TailItem::CaughtUp(_) => answer.caught_up = Some(proto::CaughtUp { tail: durable().0 }),
        TailItem::End(found, _) => answer.end = Some(end(found)),
    }
    answer
}

/// That nothing happened for a while.
pub(super) fn heartbeat(durable: Seq, time_ms: u64) -> encoded::TailResponse {
    let heartbeat = proto::Heartbeat { tail: durable.0, time_ms };
    encoded::TailResponse { heartbeat: Some(heartbeat), ..Default::default() }
}

pub(super) fn stats(stats: Stats) -> proto::GetStatsResponse {
    let cache = |cache: CacheUse| {
        Some(proto::CacheUse { used_bytes: cache.used_bytes, max_bytes: cache.max_bytes })
    };
    let (disk, slots, lag) = (stats.disk, stats.journal_slots, stats.flush_lag);
    proto::GetStatsResponse {
        runs: stats.runs,
        runs_resident: stats.runs_resident,
        commits: stats.commits,
        frames: stats.frames,
        records: stats.records,
        bytes: stats.bytes,
        disk_reads: stats.disk_reads,
        disk: Some(proto::DiskUse {
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
        }),
        journal_slots: Some(proto::JournalSlots {
            total: slots.total,
            used: slots.used,
            free: slots.free,
            max: slots.max,
        }),
        flush_lag: Some(proto::FlushLag {
            blocks: lag.blocks,
            bytes: lag.bytes,
            oldest_age_ms: lag.oldest_age_ms,
        }),
        frame_cache: cache(stats.frame_cache),
        block_cache: cache(stats.block_cache),
    }
}
