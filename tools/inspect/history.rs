//! `history`: what a run was at any seq or time, what changed between two, and which of its records changed it.
//!
//! JSON: without `--at`, one object a change: `change` with `seq`, `time_ms`, `what`. With it, `state` with `seq` (the
//! run's tail then), `time_ms` and `state`; with `--diff` as well `difference` with `from_seq`, `to_seq` and `changes`, each
//! with `path`, `before`, `after` (left out where there is none).

use braidlog::{
    RunInfo,
    core::{At, RunState},
    format::wire,
    offline::{Item, RunLog},
    present::{RunLine, StreamPart, event_text, moment::Moment, utc::utc},
    proto::event,
    record::Seq,
};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// What a run was at a moment, what changed between two, and when
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Name of the run
    run: String,
    /// When the records below this seq had been written
    #[arg(long, value_name = "SEQ", conflicts_with = "at_time")]
    at: Option<u64>,
    /// At this time: 2026-11-23T19:11 (UTC) or 2h-ago
    #[arg(long, value_name = "TIME")]
    at_time: Option<Moment>,
    /// Show what changed from there to this seq
    #[arg(long, value_name = "SEQ")]
    diff: Option<u64>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Change { seq: u64, time_ms: u64, what: String },
    State { seq: u64, time_ms: u64, state: Value },
    Difference { from_seq: u64, to_seq: u64, changes: Vec<Change> },
}

/// A field that is not the same in two states.
#[derive(Serialize)]
struct Change {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

pub(crate) fn run(context: &mut Context, args: &HistoryArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let mut log = context.find(&survey, &args.run)?;
    let now_ms = survey.platform().clock.wall_ms();
    let at = match (args.at, args.at_time) {
        (Some(seq), _) => Some(At::Seq(Seq(seq))),
        (None, time) => time.map(|time| At::Time(time.ms(now_ms))),
    };
    match (at, args.diff) {
        (None, None) => changes(context, &mut log)?,
        (None, Some(_)) => {
            return Err(Failure::usage("--diff needs --at or --at-time: where to begin"));
        }
        (Some(at), None) => {
            let state = state_at(&mut log, at)?;
            let (seq, time_ms) = (state.tail.0, state.updated_ms);
            let value = value_of(&state);
            if context.json {
                context.out.json(Line::State { seq, time_ms, state: value })?;
            } else {
                context.out.line(format!("{} at seq {seq}, {}", state.run_id, utc(time_ms)))?;
                for (path, value) in flat(&value) {
                    context.out.line(format!("{path:<28} {value}"))?;
                }
            }
        }
        (Some(at), Some(to)) => {
            let (from, to) = (state_at(&mut log, at)?, state_at(&mut log, At::Seq(Seq(to)))?);
            let changes = difference(&value_of(&from), &value_of(&to));
            let (from_seq, to_seq) = (from.tail.0, to.tail.0);
            if context.json {
                context.out.json(Line::Difference { from_seq, to_seq, changes })?;
            } else {
                context.out.line(format!("{} from seq {from_seq} to {to_seq}", to.run_id))?;
                let text = |value: &Option<Value>| {
                    value.as_ref().map_or_else(|| "(nothing)".to_owned(), Value::to_string)
                };
                for Change { path, before, after } in &changes {
                    let (before, after) = (text(before), text(after));
                    context.out.line(format!("{path:<28} {before} -> {after}"))?;
                }
            }
        }
    }
    context.out.flush()?;
    Ok(context.ended(&survey))
}

fn state_at(log: &mut RunLog<'_>, at: At) -> Result<RunState, Failure> {
    let tail = log.state().map(|state| state.tail);
    if let (At::Seq(seq), Ok(tail)) = (at, tail)
        && tail < seq
    {
        let message = format!("seq {seq} is beyond the end of the run, which is {tail}");
        return Err(Failure::nothing("BEYOND_TAIL", message));
    }
    let before = || Failure::nothing("BEFORE_CREATION", "the run did not exist yet at that moment");
    log.state_at(at)?.ok_or_else(before)
}

/// Events, as they come.
fn changes(context: &mut Context, log: &mut RunLog<'_>) -> Result<(), Failure> {
    while let Some(item) = log.next_item()? {
        let frame = match item {
            Item::Frame(frame, _) => frame,
            Item::Missing { from, to, cause, .. } => {
                context.note(&format!("! seq {from} to {to} cannot be read: {cause}"));
                continue;
            }
        };
        for record in wire::decode_all(frame.records()).map_while(Result::ok) {
            let event: Option<event::Event> = record.event.and_then(|event| event.event);
            let Some(event) = event else { continue };
            let (seq, time_ms, what) = (record.seq, record.time_ms, event_text(&event));
            match context.json {
                true => context.out.json(Line::Change { seq, time_ms, what })?,
                false => context.out.line(format!("{seq:>8}  {}  {what}", utc(time_ms)))?,
            }
        }
    }
    Ok(())
}

/// All of a state that has a name outside.
pub(crate) fn value_of(state: &RunState) -> Value {
    let info = RunInfo::of(state);
    // A plain value is always written.
    let mut value = serde_json::to_value(RunLine::listed(&info)).unwrap_or_default();
    let streams = state.streams.iter().enumerate().map(|(n, stream)| {
        let mut part = serde_json::to_value(StreamPart::of(n as u32, stream)).unwrap_or_default();
        if let (Some(inbox), Some(fields)) = (&stream.inbox, part.as_object_mut()) {
            let consumers = inbox.consumers().iter().map(|consumer| {
                let acked: Vec<_> =
                    consumer.acked.iter().map(|(from, to)| json!([from.0, to.0])).collect();
                let fields = json!({"floor": consumer.floor.0, "acked_above": acked});
                (consumer.name.to_string(), fields)
            });
            fields.insert("consumers".into(), Value::Object(consumers.collect()));
        }
        (stream.name.to_string(), part)
    });
    let producers = state.producers.iter().map(|producer| {
        let fields = json!({"epoch": producer.epoch, "next_seq": producer.next_seq});
        (producer.id.to_string(), fields)
    });
    let waits = state.waits.iter().map(|wait| {
        let created = event_text(&event::Event::WaitCreated(wait.created.clone()));
        let settled = wait.settled.clone();
        let settled = settled.map(|settled| event_text(&event::Event::WaitSettled(settled)));
        (wait.id().to_owned(), json!({"created": created, "settled": settled}))
    });
    let life = &state.life;
    let more = json!({
        "streams": Value::Object(streams.collect()),
        "producers": Value::Object(producers.collect()),
        "waits": Value::Object(waits.collect()),
        "lease": life.lease.as_ref().map(|lease| {
            json!({"worker": &*lease.worker, "term_ms": lease.term_ms})
        }),
        "lease_epoch": life.epoch,
        "outbox": state.outbox.len(),
        "outbox_next": state.outbox_next,
        "requests_remembered": state.requests.len(),
        "metadata": String::from_utf8_lossy(&state.metadata),
        "tail": state.tail.0,
        "frames": state.frames,
        "bytes": state.bytes,
        "chain": state.chain.0,
    });
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

/// Every leaf of a value with its path.
fn flat(value: &Value) -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    let path =
                        if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(&path, field, found);
                }
            }
            other => found.push((path.to_owned(), other.clone())),
        }
    }
    let mut found = Vec::new();
    walk("", value, &mut found);
    found
}

/// The leaves that differ, those that are gone first.
fn difference(before: &Value, after: &Value) -> Vec<Change> {
    let (before, after) = (flat(before), flat(after));
    let find = |leaves: &[(String, Value)], path: &str| {
        leaves.iter().find(|(found, _)| found == path).map(|(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(path, _)| find(&after, path).is_none());
    let gone = gone.map(|(path, value)| (path, Some(value.clone()), None));
    let there = after.iter().map(|(path, value)| (path, find(&before, path), Some(value.clone())));
    gone.chain(there)
        .filter(|(_, before, after)| before != after)
        .map(|(path, before, after)| Change { path: path.clone(), before, after })
        .collect()
}
