//! `streams`: the streams of a run.
//!
//! JSON, one object a stream: `stream` with `number`, `name`, `kind`, `trim`, `tail`, `closed`; what of it was
//! read: `records`, `bytes` (of the bodies), `first_at_ms`, `last_at_ms`; and `missing`, how many of its records
//! between `trim` and `tail` cannot be read.

use braidlog::{
    core::StreamState,
    format::wire,
    offline::Item,
    present::{quantity::size, stream_kind_name, table::Table, utc::utc},
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// The streams of a run, and what is in them
#[derive(Debug, Args)]
pub(crate) struct StreamsArgs {
    /// Name of the run
    run: String,
}

#[derive(Default)]
struct Content {
    records: u64,
    bytes: u64,
    first_ms: Option<u64>,
    last_ms: Option<u64>,
}

#[derive(Serialize)]
struct StreamRow<'a> {
    r#type: &'static str,
    number: usize,
    name: &'a str,
    kind: &'static str,
    trim: u64,
    tail: u64,
    closed: bool,
    records: u64,
    bytes: u64,
    first_at_ms: Option<u64>,
    last_at_ms: Option<u64>,
    missing: u64,
}

pub(crate) fn run(context: &mut Context, args: &StreamsArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let mut log = context.find(&survey, &args.run)?;
    let state = log.state()?;
    let mut contents: Vec<Content> = state.streams.iter().map(|_| Content::default()).collect();
    while let Some(item) = log.next_item()? {
        let Item::Frame(frame, _) = item else { continue };
        for record in wire::decode_all(frame.records()).map_while(Result::ok) {
            let number = record.stream as usize;
            let (Some(stream), Some(content)) =
                (state.streams.get(number), contents.get_mut(number))
            else {
                continue;
            };
            if record.index < stream.trim.0 {
                continue;
            }
            content.records += 1;
            content.bytes += record.data.len() as u64;
            content.first_ms.get_or_insert(record.time_ms);
            content.last_ms = Some(record.time_ms);
        }
    }
    let rows = state.streams.iter().zip(&contents).enumerate();
    let rows: Vec<_> = rows.map(|(n, (stream, content))| row(n, stream, content)).collect();
    let is_sound = rows.iter().all(|row| row.missing == 0);
    if context.json {
        for row in &rows {
            context.out.json(row)?;
        }
    } else {
        context.out.bytes(text(&rows).as_bytes())?;
    }
    context.out.flush()?;
    match (is_sound, context.ended(&survey)) {
        (false, Exit::Ok) => Ok(Exit::Corrupt),
        (_, exit) => Ok(exit),
    }
}

fn row<'a>(number: usize, stream: &'a StreamState, content: &Content) -> StreamRow<'a> {
    let expected = stream.tail.0 - stream.trim.0;
    StreamRow {
        r#type: "stream",
        number,
        name: &stream.name,
        kind: stream_kind_name(stream.kind),
        trim: stream.trim.0,
        tail: stream.tail.0,
        closed: stream.closed,
        records: content.records,
        bytes: content.bytes,
        first_at_ms: content.first_ms,
        last_at_ms: content.last_ms,
        missing: expected.saturating_sub(content.records),
    }
}

fn text(rows: &[StreamRow<'_>]) -> String {
    let mut table =
        Table::new([">NO", "STREAM", "KIND", ">TRIM", ">TAIL", ">BYTES", "FIRST", "LAST", ""]);
    let time = |ms: Option<u64>| ms.map_or_else(String::new, utc);
    for row in rows {
        let mut note = Vec::new();
        if row.closed {
            note.push("closed".to_owned());
        }
        if row.missing != 0 {
            note.push(format!("✗ {} cannot be read", row.missing));
        }
        table.row([
            row.number.to_string(),
            row.name.to_owned(),
            row.kind.to_owned(),
            row.trim.to_string(),
            row.tail.to_string(),
            size(row.bytes),
            time(row.first_at_ms),
            time(row.last_at_ms),
            note.join(", "),
        ]);
    }
    table.take()
}
