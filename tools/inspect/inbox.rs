//! `inbox`: what a run was sent and has not acked, who has it, what it waits for; and why it is still there.
//!
//! JSON, one object a line: `consumer` with `stream`, `consumer` (`null`: nobody has acked anything), `floor`, `tail`,
//! `acked_above` (ranges), `owed`; `unacked` with the record as `records` shows it and `consumer`; `lease` with `epoch`,
//! `worker`, `term_ms`; `wait` with `wait_id`, `pending`, `created_at_ms`, `what`, `settled`; `outbox` with `number`,
//! `to_run`, `what`; `why` with `what` (`trim`, `expiry`, `space`) and `reason`, in words.
//!
//! What cannot be seen here: who works on an input right now. Claims end with a connection, and are in the
//! server's memory only. Nor for how long a lease still is: a term is measured by the server's clock.

use std::collections::HashMap;

use braidlog::{
    Index, Record,
    core::{DEFAULT_CONSUMER, RunState, StreamState},
    format::wire,
    offline::{Item, RunLog, Survey},
    present::{
        RecordPart, event_text,
        quantity::{duration, size},
        status_name,
        table::Table,
        utc::utc,
    },
    proto::{event, storage::v1::outbox_entry},
    record::Seq,
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    records::shortened,
};

/// Un-acked inputs, leases, waits and messages of a run, and why it is still there
#[derive(Debug, Args)]
pub(crate) struct InboxArgs {
    /// Name of the run
    run: String,
    /// Only why its records are not trimmed, and it is not given up
    #[arg(long)]
    why: bool,
    /// Un-acked records shown of each consumer, at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Consumer {
        stream: &'a str,
        consumer: Option<&'a str>,
        floor: u64,
        tail: u64,
        acked_above: Vec<(u64, u64)>,
        owed: u64,
    },
    Unacked {
        consumer: Option<&'a str>,
        #[serde(flatten)]
        record: Box<RecordPart<'a>>,
    },
    Lease {
        epoch: u64,
        worker: &'a str,
        term_ms: u64,
    },
    Wait {
        wait_id: &'a str,
        pending: bool,
        created_at_ms: u64,
        what: String,
        settled: Option<String>,
    },
    Outbox {
        number: u64,
        to_run: &'a str,
        what: String,
    },
    Why {
        what: &'static str,
        reason: String,
    },
}

/// What a consumer has of a stream.
struct Owes<'a> {
    stream: &'a StreamState,
    number: u32,
    name: Option<&'a str>,
    floor: Index,
    acked: Vec<(u64, u64)>,
    owed: u64,
}

impl Owes<'_> {
    fn is_owed(&self, index: u64) -> bool {
        let is_acked = |&(from, to): &(u64, u64)| from <= index && index < to;
        self.floor.0 <= index && !self.acked.iter().any(is_acked)
    }
}

pub(crate) fn run(context: &mut Context, args: &InboxArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let mut log = context.find(&survey, &args.run)?;
    let state = log.state()?;
    if !args.why {
        consumers(context, &mut log, &state, args.limit)?;
        rest(context, &state)?;
    }
    let why = why(&survey, &log, &state);
    if !context.json {
        context.out.line("why it is still there")?;
    }
    for (what, reason) in why {
        match context.json {
            true => context.out.json(Line::Why { what, reason })?,
            false => context.out.line(format!("  {what:<7} {reason}"))?,
        }
    }
    context.out.flush()?;
    Ok(context.ended(&survey))
}

fn owes(state: &RunState) -> Vec<Owes<'_>> {
    let mut found = Vec::new();
    for (n, stream) in state.streams.iter().enumerate() {
        let (Some(inbox), number) = (&stream.inbox, n as u32) else { continue };
        if inbox.consumers().is_empty() {
            let owed = stream.tail.0 - stream.trim.0;
            let (floor, acked) = (stream.trim, Vec::new());
            found.push(Owes { stream, number, name: None, floor, acked, owed });
        }
        found.extend(inbox.consumers().iter().map(|consumer| Owes {
            stream,
            number,
            name: Some(&consumer.name),
            floor: consumer.floor,
            acked: consumer.acked.iter().map(|(from, to)| (from.0, to.0)).collect(),
            owed: consumer.owed(stream.tail),
        }));
    }
    found
}

fn consumers(
    context: &mut Context,
    log: &mut RunLog<'_>,
    state: &RunState,
    limit: usize,
) -> Result<(), Failure> {
    let owes = owes(state);
    // The same record may be owed by several.
    let mut records: HashMap<(u32, u64), Record> = HashMap::new();
    let mut wanted: Vec<usize> = owes.iter().map(|_| limit).collect();
    while let Some(item) = log.next_item()? {
        let Item::Frame(frame, _) = item else { continue };
        for record in wire::decode_all(frame.records()).map_while(Result::ok) {
            let mut is_wanted = false;
            for (owes, wanted) in owes.iter().zip(&mut wanted) {
                if owes.number == record.stream && owes.is_owed(record.index) && 0 < *wanted {
                    (is_wanted, *wanted) = (true, *wanted - 1);
                }
            }
            if is_wanted {
                records.insert((record.stream, record.index), record);
            }
        }
    }
    let mut table = Table::new(["STREAM", "CONSUMER", ">FLOOR", "ACKED ABOVE", ">TAIL", ">OWED"]);
    for owes in &owes {
        if context.json {
            context.out.json(Line::Consumer {
                stream: &owes.stream.name,
                consumer: owes.name,
                floor: owes.floor.0,
                tail: owes.stream.tail.0,
                acked_above: owes.acked.clone(),
                owed: owes.owed,
            })?;
            continue;
        }
        let acked: Vec<_> = owes.acked.iter().map(|(from, to)| format!("{from}..{to}")).collect();
        table.row([
            owes.stream.name.to_string(),
            owes.name.unwrap_or("(nobody acked)").to_owned(),
            owes.floor.to_string(),
            acked.join(" "),
            owes.stream.tail.to_string(),
            owes.owed.to_string(),
        ]);
    }
    if !context.json {
        match owes.is_empty() {
            true => context.out.line("no input streams")?,
            false => context.out.bytes(table.take().as_bytes())?,
        }
    }
    for owes in &owes {
        let mut shown = 0;
        let indexes = (owes.floor.0..owes.stream.tail.0).filter(|index| owes.is_owed(*index));
        for index in indexes.take(limit) {
            let Some(record) = records.get(&(owes.number, index)) else { continue };
            shown += 1;
            let stream = &*owes.stream.name;
            if context.json {
                let record = Box::new(RecordPart::new(record, stream.into(), None));
                context.out.json(Line::Unacked { consumer: owes.name, record })?;
                continue;
            }
            let id =
                if record.id.is_empty() { String::new() } else { format!("  id {}", record.id) };
            context.out.line(format!(
                "un-acked  {stream}[{index}]  seq {}  {}  {}{id}  {}",
                record.seq,
                utc(record.time_ms),
                owes.name.unwrap_or(DEFAULT_CONSUMER),
                shortened(&record.data),
            ))?;
        }
        if shown < owes.owed {
            let more = owes.owed - shown;
            context.note(&format!("{more} more of {}; see more with --limit", owes.stream.name));
        }
    }
    if !context.json && !owes.is_empty() {
        context.out.line("claims    cannot be seen here: they are in the server's memory only")?;
    }
    Ok(())
}

/// Lease, waits, outbox.
fn rest(context: &mut Context, state: &RunState) -> Result<(), Failure> {
    let epoch = state.life.epoch;
    match (&state.life.lease, context.json) {
        (Some(lease), true) => {
            let (worker, term_ms) = (&*lease.worker, lease.term_ms);
            context.out.json(Line::Lease { epoch, worker, term_ms })?;
        }
        (Some(lease), false) => context.out.line(format!(
            "lease     epoch {epoch}, worker {}, term {}; how much of it is left only the server knows",
            lease.worker,
            duration(lease.term_ms)
        ))?,
        (None, true) => {}
        (None, false) => context.out.line(format!("lease     nobody has it (newest epoch {epoch})"))?,
    }
    for wait in &state.waits {
        let what = event_text(&event::Event::WaitCreated(wait.created.clone()));
        let settled = wait.settled.clone();
        let settled = settled.map(|settled| event_text(&event::Event::WaitSettled(settled)));
        let (wait_id, pending, created_at_ms) = (wait.id(), wait.is_pending(), wait.created_ms);
        if context.json {
            context.out.json(Line::Wait { wait_id, pending, created_at_ms, what, settled })?;
            continue;
        }
        let settled = settled.unwrap_or_else(|| "PENDING".into());
        let created = utc(created_at_ms);
        context.out.line(format!("wait      {wait_id}  since {created}  {what}  {settled}"))?;
    }
    for entry in &state.outbox {
        let (number, to_run) = (entry.number, &*entry.run_id);
        let what = match &entry.message {
            Some(outbox_entry::Message::Metadata(changes)) => {
                format!("{} changes of its metadata", changes.operations.len())
            }
            Some(outbox_entry::Message::Waits(_)) => "that this run waits for it".into(),
            Some(outbox_entry::Message::Settled(settled)) => {
                event_text(&event::Event::WaitSettled(settled.clone()))
            }
            None => String::new(),
        };
        match context.json {
            true => context.out.json(Line::Outbox { number, to_run, what })?,
            false => context.out.line(format!("to tell   {to_run}  #{number}  {what}"))?,
        }
    }
    Ok(())
}

/// Why records are not trimmed, the run does not expire, and its space is not given back.
fn why(survey: &Survey, log: &RunLog<'_>, state: &RunState) -> Vec<(&'static str, String)> {
    let mut why = Vec::new();
    let is_open = state.ending.is_none();
    for owes in owes(state).iter().filter(|owes| is_open && 0 < owes.owed) {
        let first = (owes.floor.0..owes.stream.tail.0).find(|index| owes.is_owed(*index));
        let (stream, consumer) = (&owes.stream.name, owes.name);
        let who = consumer.map_or("nobody has acked anything of it".to_owned(), |consumer| {
            format!("the consumer {consumer} has not acked it")
        });
        why.push((
            "trim",
            format!(
                "{stream} cannot be trimmed beyond index {}: {who}, and an open run keeps what is owed",
                first.unwrap_or(owes.floor.0)
            ),
        ));
    }
    for stream in &state.streams[1..] {
        if stream.trim < stream.tail && stream.inbox.is_none() {
            let kept = stream.tail.0 - stream.trim.0;
            let reason = "nobody asked for that, nor does a limit of the run that trims the oldest";
            why.push(("trim", format!("{} keeps {kept} records: {reason}", stream.name)));
        }
    }
    why.push(("expiry", expiry(survey, log, state)));
    space(survey, log, state, &mut why);
    why
}

fn expiry(survey: &Survey, log: &RunLog<'_>, state: &RunState) -> String {
    if let Some(deleted_ms) = state.deleted_ms {
        return format!(
            "deleted at {}: its mark stays for a day, and as long as older segments of it are there",
            utc(deleted_ms)
        );
    }
    let Some(ending) = &state.ending else {
        let pending = state.pending_waits().count();
        let also =
            if pending == 0 { String::new() } else { format!(", with {pending} waits pending") };
        let status = status_name(&braidlog::RunInfo::of(state));
        return format!("the run is open ({status}{also}): an open run never expires");
    };
    let last = log.segments().last().map(|segment| segment.entry.head);
    match last.filter(|_| log.journal_frames().is_empty()) {
        None => {
            let own = state.retention.and_then(|kept| kept.age_ms);
            let own = own.map_or("what the server's settings say".into(), |age_ms| {
                format!(
                    "{} after its close, so from {} on",
                    duration(age_ms),
                    utc(ending.time_ms + age_ms)
                )
            });
            format!(
                "its end is not in a segment yet; then it expires by its own retention or its namespace's: {own}"
            )
        }
        Some(head) if head.expires_ms == 0 => {
            "kept forever: no age is set for it or its namespace".into()
        }
        Some(head) if survey.platform().clock.wall_ms() < head.expires_ms => {
            format!("closed at {}, kept until {}", utc(ending.time_ms), utc(head.expires_ms))
        }
        Some(head) => format!(
            "expired at {}: given up when half of its pack has expired, or a day later; not while somebody uses it",
            utc(head.expires_ms)
        ),
    }
}

fn space(
    survey: &Survey,
    log: &RunLog<'_>,
    state: &RunState,
    why: &mut Vec<(&'static str, String)>,
) {
    let (in_journal, segments) = (log.journal_frames(), log.segments());
    if let Some(first) = in_journal.first() {
        let bytes: u64 = in_journal.iter().map(|frame| u64::from(frame.at.len)).sum();
        why.push((
            "space",
            format!(
                "{} frames ({}) are in the journal only, from block {} on: its slots stay until the next flush has copied them",
                in_journal.len(),
                size(bytes),
                first.end.block_no
            ),
        ));
    }
    let raw: u64 = segments.iter().map(|segment| segment.entry.head.raw_bytes).sum();
    let trimmed: u64 = state.streams.iter().map(|stream| stream.trim.0).sum();
    if trimmed != 0 && raw != 0 {
        let kept = state.kept_bytes();
        why.push((
            "space",
            format!(
                "{trimmed} records are trimmed: about {} of {} in segments are kept. What is trimmed goes when the run is appended to and flushed again while that is half of it or less (and 16 KiB or more)",
                size(kept.min(raw)),
                size(raw)
            ),
        ));
    }
    for segment in segments {
        let number = segment.pack.number();
        if let Some(pack) = survey.live.packs.get(&number).filter(|pack| 0 < pack.dead_bytes) {
            let percent = pack.dead_bytes * 100 / pack.listed.raw_bytes.max(1);
            why.push((
                "space",
                format!(
                    "pack {number:016x}, which holds a segment of it, is {percent} % dead: written again from 50 % on, or after a day"
                ),
            ));
        }
    }
    let next = Seq(state.tail.0);
    if in_journal.is_empty() && trimmed == 0 && segments.len() < 2 {
        why.push((
            "space",
            format!("all {next} records are in use, in {} segments", segments.len()),
        ));
    }
}
