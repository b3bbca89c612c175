//! How values are shown: as JSON to programs, as tables, times and sizes to people. Whatever prints,
//! the server's command line or a tool, shows the same thing the same way.
//!
//! # JSON
//! One object a line, each with `"v": 1`.
//!
//! Names are those of the protocol. Bytes are text where they are UTF-8, and base64 in a field of
//! the same name with `_base64` where they are not, so that nothing is lost. Fields that hold
//! nothing are left out; a field may be added within a version, never renamed or removed.

pub mod moment;
pub mod quantity;
mod record;
mod run;
mod stats;
pub mod table;
pub mod utc;
mod work;

use std::str;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

pub use self::{
    record::{RecordPart, event_text},
    run::{DeletedLine, RunLine, StreamPart, TrimmedLine, status_name, stream_kind_name},
    stats::StatsLine,
    work::{
        CanceledLine, ClaimedLine, WatchLine, acked, added, batch, committed, metadata, released,
        renewed, sent, stands, token, token_status_name,
    },
};
use crate::{
    core::{Appended, AtLimit, Retention},
    proto::{Outcome, RunError},
};

/// Version of all shapes.
const VERSION: u32 = 1;

/// A line: the version, then the fields of what it holds.
#[derive(Debug, Serialize)]
pub struct Line<T> {
    v: u32,
    #[serde(flatten)]
    fields: T,
}

impl<T> Line<T> {
    /// A line of the current version.
    pub fn new(fields: T) -> Self {
        Self { v: VERSION, fields }
    }
}

/// Something that happens while a command works.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Happening<'a> {
    /// A record was read.
    Record(&'a RecordPart<'a>),
    /// A stretch has been trimmed.
    Gap {
        /// Name of its stream, if it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<&'a str>,
        /// First index that is missing.
        from_index: u64,
        /// First index that is not.
        to_index: u64,
        /// Where to resume behind it.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<&'a str>,
    },
    /// The reader is at the tail for the first time.
    CaughtUp {
        /// Where to resume.
        cursor: &'a str,
    },
    /// Nothing follows.
    End {
        /// `closed`, `limit`, or `tail` for a reader that does not follow.
        reason: &'static str,
        /// How the run ended, if it is closed.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<String>,
        /// Where to resume; empty for messages, which know it themselves.
        #[serde(skip_serializing_if = "str::is_empty")]
        cursor: &'a str,
    },
    /// Lines are on disk.
    Acked(AckPart),
    /// The server answers calls.
    Ready {
        /// Address and port.
        listen: String,
        /// The data directory.
        data_dir: String,
    },
}

/// An acknowledgement. Positions that the server has forgotten are left out.
#[derive(Debug, Serialize)]
pub struct AckPart {
    count: u32,
    lines: u64,
    run_uid: String,
    #[serde(flatten)]
    positions: Option<AckPositions>,
    time_ms: u64,
    deduplicated: bool,
}

#[derive(Debug, Serialize)]
struct AckPositions {
    first_index: u64,
    next_index: u64,
    first_seq: u64,
    next_seq: u64,
}

impl AckPart {
    /// The shape of an acknowledgement; `lines` of the input are now appended.
    pub fn new(appended: &Appended, lines: u64) -> Self {
        let positions = (!appended.positions_forgotten).then(|| AckPositions {
            first_index: appended.first_index.0,
            next_index: appended.next_index().0,
            first_seq: appended.first_seq.0,
            next_seq: appended.next_seq().0,
        });
        Self {
            count: appended.count,
            lines,
            run_uid: appended.run_uid.to_string(),
            positions,
            time_ms: appended.time_ms,
            deduplicated: appended.deduplicated,
        }
    }
}

/// A failure, on standard error.
#[derive(Debug, Serialize)]
pub struct FailureLine<'a> {
    /// What went wrong.
    pub error: ErrorFields<'a>,
    /// The exit status.
    pub exit: u8,
}

/// What went wrong.
#[derive(Debug, Serialize)]
pub struct ErrorFields<'a> {
    /// For programs.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
}

/// Bytes as text or base64: exactly one of the two is set, or none for no bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bytes<'a> {
    text: Option<&'a str>,
    base64: Option<String>,
}

impl<'a> Bytes<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self { text: Some(text), base64: None },
            Err(_) => Self { text: None, base64: Some(STANDARD.encode(bytes)) },
        }
    }

    fn unless_empty(bytes: &'a [u8]) -> Self {
        if bytes.is_empty() { Self::default() } else { Self::new(bytes) }
    }
}

/// How a run ended.
#[derive(Debug, Serialize)]
struct EndPart<'a> {
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    output_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorPart<'a>>,
}

#[derive(Debug, Serialize)]
struct ErrorPart<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    stack_trace: &'a str,
}

impl<'a> EndPart<'a> {
    fn new(
        outcome: Outcome,
        output: &'a [u8],
        output_type: &'a str,
        error: Option<&'a RunError>,
    ) -> Self {
        let output = Bytes::unless_empty(output);
        let error = error.map(|error| ErrorPart {
            r#type: &error.r#type,
            name: &error.name,
            message: &error.message,
            stack_trace: &error.stack_trace,
        });
        Self {
            outcome: outcome_name(outcome),
            output: output.text,
            output_base64: output.base64,
            output_type,
            error,
        }
    }
}

/// What is kept of a run.
#[derive(Debug, Serialize)]
struct RetentionPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    at_limit: &'static str,
}

impl RetentionPart {
    fn new(retention: &Retention) -> Self {
        let Retention { age_ms, bytes, records, at_limit } = *retention;
        Self { age_ms, bytes, records, at_limit: at_limit_name(at_limit) }
    }
}

/// `reject` or `trim_oldest`.
pub fn at_limit_name(at_limit: AtLimit) -> &'static str {
    match at_limit {
        AtLimit::Reject => "reject",
        AtLimit::TrimOldest => "trim_oldest",
    }
}

/// `completed`, `timed_out`: the protocol's name without its prefix.
pub fn outcome_name(outcome: Outcome) -> String {
    outcome.as_str_name().trim_start_matches("OUTCOME_").to_ascii_lowercase()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
