//! Records as JSON.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::json;

use super::{Bytes, EndPart, RetentionPart, hex};
use crate::{
    core::Retention,
    proto::{
        self, Event, Kind, MetadataChanged, Record, RunCreated, RunStatus, WaitCreated,
        WaitSettled, event, wait_created,
    },
};

/// A record.
#[derive(Debug, Serialize)]
pub struct RecordPart<'a> {
    stream: Cow<'a, str>,
    index: u64,
    seq: u64,
    time_ms: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    client_time_ms: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<EventPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// Set for a message that may have been seen before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redelivery: bool,
}

#[derive(Debug, Serialize)]
struct HeaderPart<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum EventPart<'a> {
    RunCreated {
        run_id: &'a str,
        run_uid: String,
        #[serde(skip_serializing_if = "str::is_empty")]
        task: &'a str,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        tags: &'a [String],
        #[serde(skip_serializing_if = "str::is_empty")]
        batch_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retention: Option<RetentionPart>,
    },
    RunClosed(EndPart<'a>),
    StreamClosed {
        stream: u32,
    },
    #[serde(untagged)]
    Other(serde_json::Value),
}

/// What happened, by the names of the protocol; what is empty is left out.
fn other(name: &str, fields: serde_json::Value) -> EventPart<'static> {
    let mut fields = fields;
    if let Some(fields) = fields.as_object_mut() {
        let is_empty = |value: &serde_json::Value| {
            value.is_null() || *value == json!("") || *value == json!(0) || *value == json!(false)
        };
        fields.retain(|_, value| !is_empty(value));
    }
    EventPart::Other(json!({ name: fields }))
}

/// A status, an action or a result by its short name.
pub(super) fn short(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

fn status(status: RunStatus) -> String {
    short(status.as_str_name(), "RUN_STATUS_")
}

fn metadata(changed: &MetadataChanged) -> EventPart<'static> {
    let operations = changed.operations.iter().map(|operation| {
        json!({
            "action": short(operation.action().as_str_name(), "METADATA_ACTION_"),
            "key": operation.key,
            "value": serde_json::from_slice(&operation.value).unwrap_or(serde_json::Value::Null),
        })
    });
    let operations: Vec<_> = operations.collect();
    let source = &changed.source_run_id;
    other("metadata_changed", json!({ "operations": operations, "source_run_id": source }))
}

/// What a wait is for.
pub(super) fn wait_target(created: &WaitCreated) -> serde_json::Value {
    match &created.target {
        Some(wait_created::Target::Input(input)) => json!({ "input": {
            "stream": input.stream, "consumer": input.consumer, "after": input.after,
            "ack": input.ack,
        } }),
        Some(wait_created::Target::Token(token)) => json!({ "token": token.token_id }),
        Some(wait_created::Target::Time(time)) => json!({ "until_ms": time.until_ms }),
        None => serde_json::Value::Null,
    }
}

fn wait(created: &WaitCreated) -> EventPart<'static> {
    let target = wait_target(created);
    let (wait_id, deadline_ms) = (&created.wait_id, created.deadline_ms);
    let fields = json!({ "wait_id": wait_id, "for": target, "deadline_ms": deadline_ms });
    other("wait_created", fields)
}

/// What became of a wait.
pub(super) fn settled(settled: &WaitSettled) -> serde_json::Value {
    let mut fields = serde_json::Map::new();
    fields.insert("wait_id".into(), settled.wait_id.as_str().into());
    let result = short(settled.result().as_str_name(), "WAIT_RESULT_");
    fields.insert("result".into(), result.into());
    // Index 0 is an index.
    fields.extend(settled.index.map(|index| ("index".to_owned(), index.into())));
    let value = Bytes::unless_empty(&settled.value);
    fields.extend(value.text.map(|text| ("value".to_owned(), text.into())));
    fields.extend(value.base64.map(|base64| ("value_base64".to_owned(), base64.into())));
    if !settled.value_type.is_empty() {
        fields.insert("value_type".into(), settled.value_type.as_str().into());
    }
    fields.into()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> RecordPart<'a> {
    /// A record of the stream with this name; the last of a piece with where to resume after it.
    pub fn new(record: &'a Record, stream: Cow<'a, str>, cursor: Option<String>) -> Self {
        let event = record.event.as_ref().and_then(|event: &Event| event.event.as_ref());
        // A chunk always has a body, an event never.
        let data = if event.is_some() { Bytes::default() } else { Bytes::new(&record.data) };
        Self {
            stream,
            index: record.index,
            seq: record.seq,
            time_ms: record.time_ms,
            kind: kind_name(record.kind()),
            id: &record.id,
            client_time_ms: record.client_time_ms,
            headers: record.headers.iter().map(HeaderPart::new).collect(),
            event: event.map(EventPart::new),
            data: data.text,
            data_base64: data.base64,
            cursor,
            redelivery: false,
        }
    }

    /// A message, and whether it may have been seen before.
    pub fn message(record: &'a Record, stream: &'a str, redelivery: bool) -> Self {
        Self { redelivery, ..Self::new(record, stream.into(), None) }
    }
}

impl<'a> HeaderPart<'a> {
    fn new(header: &'a proto::Header) -> Self {
        let value = Bytes::new(&header.value);
        Self { name: &header.name, value: value.text, value_base64: value.base64 }
    }
}

impl<'a> EventPart<'a> {
    fn new(event: &'a event::Event) -> Self {
        match event {
            event::Event::RunCreated(created) => Self::RunCreated {
                run_id: &created.run_id,
                run_uid: hex(&created.run_uid),
                task: &created.task,
                tags: &created.tags,
                batch_id: &created.batch_id,
                retention: retention(created),
            },
            event::Event::RunClosed(closed) => Self::RunClosed(EndPart::new(
                closed.outcome(),
                &closed.output,
                &closed.output_type,
                closed.error.as_ref(),
            )),
            event::Event::StreamClosed(closed) => Self::StreamClosed { stream: closed.stream },
            event::Event::StatusChanged(changed) => {
                other("status_changed", json!({ "status": status(changed.status()) }))
            }
            event::Event::RunClaimed(claimed) => other(
                "run_claimed",
                json!({
                    "epoch": claimed.epoch, "worker": claimed.worker, "attempt": claimed.attempt,
                    "term_ms": claimed.term_ms, "resumed": claimed.resumed,
                }),
            ),
            event::Event::RunAbandoned(abandoned) => other(
                "run_abandoned",
                json!({
                    "epoch": abandoned.epoch, "worker": abandoned.worker,
                    "next": status(abandoned.next()),
                }),
            ),
            event::Event::RunReleased(released) => other(
                "run_released",
                json!({
                    "epoch": released.epoch, "next": status(released.next()),
                    "delay_until_ms": released.delay_until_ms,
                    "error": released.error.as_ref().map(|error| &error.message),
                }),
            ),
            event::Event::CancelRequested(asked) => other(
                "cancel_requested",
                json!({
                    "reason": asked.reason, "close_at_ms": asked.close_at_ms,
                }),
            ),
            event::Event::TagsAdded(added) => other("tags_added", json!({ "tags": added.tags })),
            event::Event::RunUpdated(updated) => other(
                "run_updated",
                json!({
                    "usage_duration_ms": updated.usage_duration_ms,
                    "cost_in_cents": updated.cost_in_cents,
                    "base_cost_in_cents": updated.base_cost_in_cents,
                    "version": updated.version,
                }),
            ),
            event::Event::RunRescheduled(rescheduled) => {
                let delay_until_ms = rescheduled.delay_until_ms;
                other("run_rescheduled", json!({ "delay_until_ms": delay_until_ms }))
            }
            event::Event::MetadataChanged(changed) => metadata(changed),
            event::Event::WaitCreated(created) => wait(created),
            event::Event::WaitSettled(found) => {
                Self::Other(json!({ "wait_settled": settled(found) }))
            }
        }
    }
}

/// What happened, on one line for people: `run_closed {"outcome":"completed"}`.
pub fn event_text(event: &event::Event) -> String {
    // A plain value is always written.
    let value = serde_json::to_value(EventPart::new(event)).unwrap_or_default();
    let only = value.as_object().and_then(|fields| fields.iter().next());
    only.map_or_else(String::new, |(name, fields)| format!("{name} {fields}"))
}

/// What is kept of the run, as far as this version knows.
fn retention(created: &RunCreated) -> Option<RetentionPart> {
    let retention = Retention::try_from(created.retention?).ok()?;
    Some(RetentionPart::new(&retention))
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unspecified",
        Kind::Chunk => "chunk",
        Kind::Input => "input",
        Kind::Metadata => "metadata",
        Kind::Lifecycle => "lifecycle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        present::{Happening, Line},
        proto::{Outcome, RunError},
    };

    fn json(record: &Record, cursor: Option<&str>) -> String {
        let part = RecordPart::new(record, "log".into(), cursor.map(Into::into));
        let line = Line::new(Happening::Record(&part));
        serde_json::to_string(&line).expect("JSON")
    }

    #[test]
    fn a_record_is_an_object_without_empty_fields() {
        let record = Record {
            stream: 1,
            seq: 8,
            index: 7,
            time_ms: 6,
            kind: Kind::Chunk.into(),
            data: "ü\"".into(),
            ..Record::default()
        };
        assert_eq!(
            json(&record, Some("abc")),
            r#"{"v":1,"type":"record","stream":"log","index":7,"seq":8,"time_ms":6,"kind":"chunk","data":"ü\"","cursor":"abc"}"#
        );
        let empty = Record { data: "".into(), ..record };
        assert!(json(&empty, None).ends_with(r#""data":""}"#), "an empty body is a body");
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let header = proto::Header { name: "n".into(), value: vec![0xff].into() };
        let record = Record { data: vec![0xfe].into(), headers: vec![header], ..Record::default() };
        let json = json(&record, None);
        assert!(json.contains(r#""headers":[{"name":"n","value_base64":"/w=="}]"#), "{json}");
        assert!(json.ends_with(r#""data_base64":"/g=="}"#), "{json}");
    }

    #[test]
    fn events_say_what_happened() {
        let closed = proto::RunClosed {
            outcome: Outcome::TimedOut.into(),
            error: Some(RunError { message: "late".into(), ..RunError::default() }),
            ..proto::RunClosed::default()
        };
        let event = Event { event: Some(event::Event::RunClosed(closed)) };
        let record =
            Record { kind: Kind::Lifecycle.into(), event: Some(event), ..Record::default() };
        let json = json(&record, None);
        let expected =
            r#""event":{"run_closed":{"outcome":"timed_out","error":{"message":"late"}}}"#;
        assert!(json.contains(expected), "{json}");
        assert!(!json.contains("data"), "{json}");
    }
}
