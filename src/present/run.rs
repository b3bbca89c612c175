//! Runs and their streams as JSON.

use serde::Serialize;

use super::{EndPart, RetentionPart, work};
use crate::{
    core::{Deleted, StreamState},
    engine::{ClosedRun, CreatedRun, RunEnd, RunInfo, StreamInfo},
    proto::StreamKind,
    record::Index,
};

/// A run that was created, described, listed or closed.
#[derive(Debug, Serialize)]
pub struct RunLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    /// Set for a run that would be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deduplicated: Option<bool>,
    run: RunPart<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<Vec<StreamPart<'a>>>,
}

impl<'a> RunLine<'a> {
    /// The run alone.
    pub fn listed(run: &'a RunInfo) -> Self {
        let run = RunPart::new(run);
        Self {
            created: None,
            dry_run: None,
            closed_seq: None,
            deduplicated: None,
            run,
            streams: None,
        }
    }

    /// The run, and whether it is new.
    pub fn created(created: &'a CreatedRun) -> Self {
        Self { created: Some(created.created), ..Self::listed(&created.run) }
    }

    /// The run, which would be deleted.
    pub fn dry(run: &'a RunInfo) -> Self {
        Self { dry_run: Some(true), ..Self::listed(run) }
    }

    /// The run with its streams.
    pub fn described(run: &'a RunInfo, streams: &'a [StreamInfo]) -> Self {
        let streams = streams.iter().map(StreamPart::new).collect();
        Self { streams: Some(streams), ..Self::listed(run) }
    }

    /// The run, and where its log ends.
    pub fn closed(closed: &'a ClosedRun) -> Self {
        Self {
            closed_seq: Some(closed.closed_seq.0),
            deduplicated: Some(closed.deduplicated),
            ..Self::listed(&closed.run)
        }
    }
}

/// A run that was deleted.
#[derive(Debug, Serialize)]
pub struct DeletedLine<'a> {
    run_id: &'a str,
    deleted_at_ms: u64,
    deduplicated: bool,
}

impl<'a> DeletedLine<'a> {
    /// The run of this name.
    pub fn new(run_id: &'a str, deleted: &Deleted) -> Self {
        let Deleted { deleted_ms, deduplicated } = *deleted;
        Self { run_id, deleted_at_ms: deleted_ms, deduplicated }
    }
}

/// A stream that was trimmed.
#[derive(Debug, Serialize)]
pub struct TrimmedLine<'a> {
    run_id: &'a str,
    stream: &'a str,
    trim: u64,
}

impl<'a> TrimmedLine<'a> {
    /// The stream, and the first index that is kept.
    pub fn new(run_id: &'a str, stream: &'a str, trim: Index) -> Self {
        Self { run_id, stream, trim: trim.0 }
    }
}

/// A run.
#[derive(Debug, Serialize)]
pub struct RunPart<'a> {
    run_id: &'a str,
    run_uid: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    task: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    batch_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<RetentionPart>,
    status: String,
    created_at_ms: u64,
    updated_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndPart<'a>>,
    tail: u64,
    streams: u32,
    bytes: u64,
    #[serde(flatten)]
    details: serde_json::Map<String, serde_json::Value>,
}

/// A stream of a run.
#[derive(Debug, Serialize)]
pub struct StreamPart<'a> {
    stream: u32,
    name: &'a str,
    kind: &'static str,
    trim: u64,
    tail: u64,
    closed: bool,
}

impl<'a> RunPart<'a> {
    /// The run.
    pub(super) fn new(run: &'a RunInfo) -> Self {
        let end = |end: &'a RunEnd| {
            EndPart::new(end.outcome, &end.output, &end.output_type, end.error.as_ref())
        };
        Self {
            run_id: &run.run_id,
            run_uid: run.run_uid.to_string(),
            task: &run.task,
            tags: run.tags.iter().map(|tag| &**tag).collect(),
            batch_id: &run.batch,
            retention: run.retention.as_ref().map(RetentionPart::new),
            status: status_name(run),
            created_at_ms: run.created_ms,
            updated_at_ms: run.updated_ms,
            completed_at_ms: run.ended.as_ref().map(|end| end.completed_ms),
            end: run.ended.as_ref().map(end),
            tail: run.tail.0,
            streams: run.streams,
            bytes: run.bytes,
            details: work::details(run),
        }
    }
}

impl<'a> StreamPart<'a> {
    /// The stream with this number and state.
    pub fn of(number: u32, stream: &'a StreamState) -> Self {
        Self {
            stream: number,
            name: &stream.name,
            kind: stream_kind_name(stream.kind),
            trim: stream.trim.0,
            tail: stream.tail.0,
            closed: stream.closed,
        }
    }

    fn new(stream: &'a StreamInfo) -> Self {
        Self {
            stream: stream.stream.0,
            name: &stream.name,
            kind: stream_kind_name(stream.kind),
            trim: stream.trim.0,
            tail: stream.tail.0,
            closed: stream.closed,
        }
    }
}

/// Where a run stands.
pub fn status_name(run: &RunInfo) -> String {
    run.status.as_str_name().trim_start_matches("RUN_STATUS_").to_lowercase()
}

/// Whether a stream carries output or input.
pub fn stream_kind_name(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Unspecified => "unspecified",
        StreamKind::Run => "run",
        StreamKind::Output => "output",
        StreamKind::Input => "input",
    }
}
