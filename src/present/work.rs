//! What is asked of runs, sent to them and said of them while they are worked on, as JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    outcome_name,
    record::{settled, short, wait_target},
    run::RunPart,
};
use crate::{
    core::{Sent, Wait},
    engine::{
        Acked, AddedItems, Batch, CanceledRun, ClaimedRun, CommittedTurn, Renewed, RunInfo,
        WaitToken,
    },
    proto::{Outcome, RunStatus, RunUpdated},
    record::RunUid,
};

/// Adds a field, unless it holds nothing.
fn add(fields: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let value = value.into();
    let is_nothing = match &value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(_) => false,
    };
    if !is_nothing {
        fields.insert(name.into(), value);
    }
}

/// Adds bytes as text, or as base64 if they are none.
fn add_bytes(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => add(fields, name, text),
        Err(_) => add(fields, &format!("{name}_base64"), STANDARD.encode(bytes)),
    }
}

/// JSON text as JSON; nothing if there is none.
fn document(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or(Value::Null)
}

/// `executing`: where a run stands.
pub fn stands(status: RunStatus) -> String {
    short(status.as_str_name(), "RUN_STATUS_")
}

/// What there is to say of a run besides what every run has.
pub(super) fn details(run: &RunInfo) -> Map<String, Value> {
    let mut fields = Map::new();
    let (spec, life) = (&run.spec, &run.life);
    add_bytes(&mut fields, "payload", &spec.payload);
    for (name, text) in [
        ("payload_type", &spec.payload_type),
        ("parent_run_id", &spec.parent_run_id),
        ("root_run_id", &spec.root_run_id),
        ("idempotency_key", &spec.idempotency_key),
        // What it was told later holds.
        ("version", run.usage.version.as_ref().unwrap_or(&spec.version)),
    ] {
        add(&mut fields, name, text.as_str());
    }
    for (name, number) in [
        ("idempotency_expires_at_ms", spec.idempotency_expires_at_ms),
        ("delay_until_ms", life.delay_until_ms),
        ("ttl_ms", spec.ttl_ms),
        ("max_attempts", spec.max_attempts.into()),
        ("max_duration_ms", spec.max_duration_ms),
        ("depth", spec.depth.into()),
        ("queued_at_ms", life.queued_ms),
        ("started_at_ms", life.started_ms),
        ("attempt", life.attempt.into()),
    ] {
        add(&mut fields, name, number);
    }
    add(&mut fields, "priority", spec.priority);
    add(&mut fields, "is_test", spec.is_test);
    add(&mut fields, "suspended", life.suspended);
    if !spec.attributes.is_empty() {
        let mut attributes = Map::new();
        let mut names: Vec<_> = spec.attributes.iter().collect();
        names.sort();
        names.iter().for_each(|(name, value)| add_bytes(&mut attributes, name, value));
        add(&mut fields, "attributes", attributes);
    }
    if 0 < life.epoch {
        let mut lease = Map::new();
        lease.insert("epoch".into(), life.epoch.into());
        if let Some(held) = &life.lease {
            lease.insert("worker".into(), (&*held.worker).into());
            lease.insert("term_ms".into(), held.term_ms.into());
        }
        add(&mut fields, "lease", lease);
    }
    if let Some(cancel) = &life.cancel {
        let requested = json!({
            "reason": cancel.reason, "requested_at_ms": cancel.requested_ms,
            "close_at_ms": cancel.close_at_ms,
        });
        add(&mut fields, "cancel_requested", requested);
    }
    let usage = usage(&run.usage);
    if !usage.is_empty() {
        add(&mut fields, "usage", usage);
    }
    add(&mut fields, "metadata", document(&run.metadata));
    add(&mut fields, "metadata_seq", run.metadata_seq.0);
    add(&mut fields, "waits", run.waits.iter().map(wait).collect::<Vec<_>>());
    fields
}

fn usage(usage: &RunUpdated) -> Map<String, Value> {
    let mut fields = Map::new();
    // A zero that was told is no nothing.
    let mut told = |name: &str, value: Option<Value>| {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    told("usage_duration_ms", usage.usage_duration_ms.map(Into::into));
    told("cost_in_cents", usage.cost_in_cents.map(Into::into));
    told("base_cost_in_cents", usage.base_cost_in_cents.map(Into::into));
    fields
}

fn wait(wait: &Wait) -> Value {
    let mut fields = Map::new();
    add(&mut fields, "wait_id", wait.id());
    add(&mut fields, "for", wait_target(&wait.created));
    add(&mut fields, "deadline_ms", wait.created.deadline_ms);
    add(&mut fields, "created_at_ms", wait.created_ms);
    if let Some(result) = &wait.settled {
        add(&mut fields, "settled", settled(result));
        add(&mut fields, "settled_at_ms", wait.settled_ms);
    }
    fields.into()
}

/// A run that was asked to stop.
#[derive(Debug, Serialize)]
pub struct CanceledLine<'a> {
    closed: bool,
    deduplicated: bool,
    run: RunPart<'a>,
}

impl<'a> CanceledLine<'a> {
    /// The run, and whether it is closed.
    pub fn new(canceled: &'a CanceledRun) -> Self {
        let CanceledRun { run, closed, deduplicated } = canceled;
        Self { closed: *closed, deduplicated: *deduplicated, run: RunPart::new(run) }
    }
}

/// A run that was handed to a worker.
#[derive(Debug, Serialize)]
pub struct ClaimedLine<'a> {
    lease_epoch: u64,
    attempt: u32,
    resumed: bool,
    term_ms: u64,
    cursor: String,
    owed: Vec<Value>,
    run: RunPart<'a>,
}

impl<'a> ClaimedLine<'a> {
    /// The run, its lease, and what it owes.
    pub fn new(claimed: &'a ClaimedRun) -> Self {
        let owed = claimed.owed.iter().map(|owed| {
            json!({
                "stream": &*owed.stream, "consumer": &*owed.consumer, "floor": owed.floor.0,
                "owed": owed.owed, "tail": owed.tail.0,
            })
        });
        Self {
            lease_epoch: claimed.claimed.epoch,
            attempt: claimed.claimed.attempt,
            resumed: claimed.claimed.resumed,
            term_ms: claimed.claimed.term_ms,
            cursor: claimed.cursor.to_string(),
            owed: owed.collect(),
            run: RunPart::new(&claimed.run),
        }
    }
}

/// A lease that has its full term again.
pub fn renewed(run_id: &str, epoch: u64, renewed: &Renewed) -> Value {
    let mut line = json!({ "run_id": run_id, "lease_epoch": epoch, "term_ms": renewed.term_ms });
    if let Some(cancel) = &renewed.cancel {
        line["cancel_requested"] =
            json!({ "reason": cancel.reason, "close_at_ms": cancel.close_at_ms });
    }
    line
}

/// A lease that was given back.
pub fn released(run_id: &str, status: RunStatus) -> Value {
    json!({ "run_id": run_id, "status": stands(status) })
}

/// A turn that was committed.
pub fn committed(run_id: &str, turn: &CommittedTurn) -> Value {
    let CommittedTurn { committed, metadata, metadata_seq, cancel, .. } = turn;
    let mut line = Map::new();
    line.insert("run_id".into(), run_id.into());
    line.insert("run_uid".into(), committed.run_uid.to_string().into());
    if !committed.positions_forgotten {
        line.insert("first_seq".into(), committed.first_seq.0.into());
        line.insert("count".into(), committed.count.into());
        let span = |&(stream, first, count): &(
            crate::record::StreamNo,
            crate::record::Index,
            u32,
        )| {
            json!({ "stream": stream.0, "first_index": first.0, "count": count })
        };
        let spans: Vec<Value> = committed.spans.iter().map(span).collect();
        add(&mut line, "spans", spans);
    }
    line.insert("time_ms".into(), committed.time_ms.into());
    line.insert("deduplicated".into(), committed.deduplicated.into());
    line.insert("status".into(), stands(turn.status).into());
    add(&mut line, "metadata", document(metadata));
    add(&mut line, "metadata_seq", metadata_seq.0);
    if let Some(cancel) = cancel {
        let asked = json!({ "reason": cancel.reason, "close_at_ms": cancel.close_at_ms });
        add(&mut line, "cancel_requested", asked);
    }
    line.into()
}

/// A metadata document, and the seq of its last change.
pub fn metadata(run_id: &str, text: &[u8], seq: u64) -> Value {
    let found = match document(text) {
        Value::Null => json!({}),
        found => found,
    };
    json!({ "run_id": run_id, "metadata": found, "metadata_seq": seq })
}

/// A message that was sent.
pub fn sent(sent: &Sent, message_id: &str) -> Value {
    let mut line = Map::new();
    line.insert("index".into(), sent.index.0.into());
    line.extend(sent.seq.map(|seq| ("seq".to_owned(), seq.0.into())));
    line.insert("message_id".into(), message_id.into());
    line.insert("run_uid".into(), sent.run_uid.to_string().into());
    line.insert("deduplicated".into(), sent.deduplicated.into());
    line.into()
}

/// What a consumer has consumed now.
pub fn acked(run_id: &str, stream: &str, consumer: &str, acked: &Acked) -> Value {
    json!({
        "run_id": run_id, "stream": stream, "consumer": consumer, "floor": acked.floor.0,
        "owed": acked.owed,
    })
}

/// `waiting`, `completed`, `timed_out` or `canceled`: where a wait token stands.
pub fn token_status_name(token: &WaitToken) -> String {
    match token.status {
        RunStatus::Executing => "waiting".into(),
        other => stands(other),
    }
}

/// A wait token, and what a call did with it.
pub fn token(token: &WaitToken, done: Option<(&str, bool)>) -> Value {
    let mut fields = Map::new();
    add(&mut fields, "token_id", &*token.token_id);
    add(&mut fields, "status", token_status_name(token));
    add(&mut fields, "created_at_ms", token.created_ms);
    add(&mut fields, "times_out_at_ms", token.times_out_ms);
    add(&mut fields, "completed_at_ms", token.completed_ms);
    add_bytes(&mut fields, "value", &token.value);
    add(&mut fields, "value_type", token.value_type.as_str());
    add(&mut fields, "tags", token.tags.iter().map(|tag| &**tag).collect::<Vec<_>>());
    add(&mut fields, "idempotency_key", token.idempotency_key.as_str());
    add(&mut fields, "idempotency_expires_at_ms", token.idempotency_expires_at_ms);
    let mut line = Map::new();
    line.extend(done.map(|(name, value)| (name.to_owned(), value.into())));
    line.insert("token".into(), fields.into());
    line.into()
}

/// A batch, and whether a call created it.
pub fn batch(batch: &Batch, created: Option<bool>) -> Value {
    let mut fields = Map::new();
    fields.insert("batch_id".into(), (&*batch.batch_id).into());
    fields.insert("items".into(), batch.items.into());
    fields.insert("sealed".into(), batch.sealed.into());
    add(&mut fields, "created_at_ms", batch.created_ms);
    add(&mut fields, "sealed_at_ms", batch.sealed_ms);
    add(&mut fields, "run_count", batch.run_count);
    add(&mut fields, "tags", batch.tags.iter().map(|tag| &**tag).collect::<Vec<_>>());
    let mut line = Map::new();
    line.extend(created.map(|created| ("created".to_owned(), created.into())));
    line.insert("batch".into(), fields.into());
    line.into()
}

/// Items that were added to a batch.
pub fn added(batch_id: &str, added: &AddedItems) -> Value {
    let AddedItems { accepted, deduplicated } = *added;
    json!({ "batch_id": batch_id, "accepted": accepted, "deduplicated": deduplicated })
}

/// An item of a watch that is no record.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchLine<'a> {
    /// A run as it is now.
    Row {
        /// The run.
        run: Box<RunPart<'a>>,
        /// Where to resume.
        cursor: &'a str,
    },
    /// A run that was deleted.
    Removed {
        /// Its name.
        run_id: &'a str,
        /// Its identity.
        run_uid: String,
        /// Where to resume.
        cursor: &'a str,
    },
    /// Nothing follows.
    End {
        /// How the run ended.
        outcome: String,
        /// Where to resume.
        cursor: &'a str,
    },
}

impl<'a> WatchLine<'a> {
    /// A run as it is now.
    pub fn row(run: &'a RunInfo, cursor: &'a str) -> Self {
        Self::Row { run: Box::new(RunPart::new(run)), cursor }
    }

    /// A run that was deleted.
    pub fn removed(run_id: &'a str, run_uid: RunUid, cursor: &'a str) -> Self {
        Self::Removed { run_id, run_uid: run_uid.to_string(), cursor }
    }

    /// How the run ended.
    pub fn end(outcome: Outcome, cursor: &'a str) -> Self {
        Self::End { outcome: outcome_name(outcome), cursor }
    }
}
