//! `records`: what a run's log holds.
//!
//! JSON, one object a line: `record` as `braidlog read --json` prints it, with `file` and `position` of the frame
//! (or of the compressed block that holds it, with `packed`) besides; `trimmed` for records that were given up
//! (`from_seq`, `to_seq`); `missing` for records that cannot be read (`from_seq`, `to_seq`, `problem`).

use std::{borrow::Cow, fmt::Write};

use braidlog::{
    Record,
    core::RunState,
    format::{frame::Frame, wire},
    offline::{Item, Where},
    present::{RecordPart, moment::Moment, utc::utc},
    record::Seq,
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    range::NumberRange,
};

/// The records of a run, or of one of its streams
#[derive(Debug, Args)]
pub(crate) struct RecordsArgs {
    /// Name of the run
    run: String,
    /// Only this stream
    stream: Option<String>,
    /// Only these indexes of the stream: A..B, A.., ..B or one
    #[arg(long, requires = "stream", value_name = "RANGE")]
    index: Option<NumberRange>,
    /// Only these seqs of the run
    #[arg(long, value_name = "RANGE")]
    seq: Option<NumberRange>,
    /// Only records from this time on: 2026-11-23T19:11 (UTC) or 2h-ago
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only records before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Records shown, at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// The last N of what is wanted
    #[arg(long, value_name = "N", conflicts_with = "limit")]
    last: Option<usize>,
    /// How to show them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also records that are trimmed and whose bytes are still there
    #[arg(long)]
    trimmed: bool,
    /// Say where each one is: file and offset
    #[arg(long = "where")]
    places: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line each, bodies shortened
    Text,
    /// A line each and the body as hex and text
    Hex,
    /// An object each, over many lines
    Json,
    /// An object each, one a line
    Ndjson,
}

/// A record, and where it is.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Record {
        #[serde(flatten)]
        record: Box<RecordPart<'a>>,
        file: &'a str,
        position: u64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        packed: bool,
    },
    Trimmed {
        from_seq: u64,
        to_seq: u64,
    },
    Missing {
        from_seq: u64,
        to_seq: u64,
        problem: String,
    },
}

/// What is wanted.
struct Wanted {
    stream: Option<u32>,
    index: NumberRange,
    seq: NumberRange,
    since_ms: u64,
    until_ms: u64,
    trimmed: bool,
}

/// What was found and is not shown yet.
enum Found {
    Record(Box<Record>, Where),
    Trimmed(Seq, Seq),
    Missing(Seq, Seq, String),
}

pub(crate) fn run(context: &mut Context, args: RecordsArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let mut log = context.find(&survey, &args.run)?;
    let state = log.state();
    let names = Names::of(state.as_ref().ok());
    let now_ms = survey.platform().clock.wall_ms();
    let wanted = Wanted {
        stream: names.number(args.stream.as_deref())?,
        index: args.index.unwrap_or(NumberRange::ALL),
        seq: args.seq.unwrap_or(NumberRange::ALL),
        since_ms: args.since.map_or(0, |moment| moment.ms(now_ms)),
        until_ms: args.until.map_or(u64::MAX, |moment| moment.ms(now_ms)),
        trimmed: args.trimmed,
    };
    let format = if context.json { Format::Ndjson } else { args.format };
    let show = Show { format, places: args.places, names: &names };
    log.skip_to(Seq(wanted.seq.from));
    let (mut shown, mut is_sound, mut last) = (0, true, std::collections::VecDeque::new());
    let limit = args.limit.unwrap_or(u64::MAX);
    'log: while let Some(item) = log.next_item()? {
        for found in names.select(item, &wanted, state.as_ref().ok())? {
            is_sound &= !matches!(found, Found::Missing(..));
            if let Some(count) = args.last {
                last.push_back(found);
                if count < last.len() {
                    last.pop_front();
                }
                continue;
            }
            if limit <= shown {
                break 'log;
            }
            shown += u64::from(matches!(found, Found::Record(..)));
            show.show(context, &found)?;
        }
    }
    for found in last {
        show.show(context, &found)?;
    }
    context.out.flush()?;
    match (is_sound, context.ended(&survey)) {
        (false, Exit::Ok) => Ok(Exit::Corrupt),
        (_, exit) => Ok(exit),
    }
}

/// Streams by number.
struct Names(Vec<String>);

impl Names {
    fn of(state: Option<&RunState>) -> Self {
        let streams = state.map_or(&[][..], |state| &state.streams);
        Self(streams.iter().map(|stream| stream.name.to_string()).collect())
    }

    fn number(&self, name: Option<&str>) -> Result<Option<u32>, Failure> {
        let Some(name) = name else { return Ok(None) };
        let known = self.0.iter().position(|known| known == name).map(|number| number as u32);
        // A run whose state is damaged has no names; its streams are known by their numbers.
        let number = known.or_else(|| name.strip_prefix('#')?.parse().ok());
        let missing = braidlog::offline::LookError::NoStream { name: name.to_owned() };
        number.map(Some).ok_or_else(|| missing.into())
    }

    fn name(&self, number: u32) -> Cow<'_, str> {
        match self.0.get(number as usize) {
            Some(name) => name.as_str().into(),
            None => format!("#{number}").into(),
        }
    }

    fn select(
        &self,
        item: Item,
        wanted: &Wanted,
        state: Option<&RunState>,
    ) -> Result<Vec<Found>, Failure> {
        let (frame, at) = match item {
            Item::Frame(frame, at) => (frame, at),
            Item::Missing { from, to, cause, .. } => {
                let is_wanted = from.0 < wanted.seq.to && wanted.seq.from < to.0.max(from.0 + 1);
                let missing = Found::Missing(from, to, cause.to_string());
                return Ok(is_wanted.then_some(missing).into_iter().collect());
            }
        };
        if frame.is_stub() {
            let (from, to) = (frame.header.first_seq, frame.next_seq());
            let is_wanted = from.0 < wanted.seq.to && wanted.seq.from < to.0;
            return Ok(is_wanted.then_some(Found::Trimmed(from, to)).into_iter().collect());
        }
        Ok(records(&frame)
            .filter(|record| wanted.holds(record, state))
            .map(|record| Found::Record(Box::new(record), at.clone()))
            .collect())
    }
}

/// The records of a frame. They decode: the frame's CRC holds, and it was encoded by this code.
fn records(frame: &Frame) -> impl Iterator<Item = Record> {
    wire::decode_all(frame.records()).map_while(Result::ok)
}

impl Wanted {
    fn holds(&self, record: &Record, state: Option<&RunState>) -> bool {
        let trim = state.and_then(|state| state.streams.get(record.stream as usize));
        let is_trimmed = trim.is_some_and(|stream| record.index < stream.trim.0);
        self.stream.is_none_or(|stream| stream == record.stream)
            && self.index.holds(record.index)
            && self.seq.holds(record.seq)
            && self.since_ms <= record.time_ms
            && record.time_ms < self.until_ms
            && (self.trimmed || !is_trimmed)
    }
}

/// How records are shown.
struct Show<'a> {
    format: Format,
    places: bool,
    names: &'a Names,
}

impl Show<'_> {
    fn show(&self, context: &mut Context, found: &Found) -> Result<(), Failure> {
        match self.format {
            Format::Json | Format::Ndjson => self.json(context, found),
            Format::Text | Format::Hex => self.text(context, found),
        }
    }

    fn json(&self, context: &mut Context, found: &Found) -> Result<(), Failure> {
        let line = match found {
            Found::Record(record, at) => Line::Record {
                record: Box::new(RecordPart::new(record, self.names.name(record.stream), None)),
                file: at.file.as_str(),
                position: at.position,
                packed: at.is_packed,
            },
            Found::Trimmed(from, to) => Line::Trimmed { from_seq: from.0, to_seq: to.0 },
            Found::Missing(from, to, problem) => {
                Line::Missing { from_seq: from.0, to_seq: to.0, problem: problem.clone() }
            }
        };
        match self.format {
            Format::Json => context.out.pretty_json(line),
            _ => context.out.json(line),
        }
    }

    fn text(&self, context: &mut Context, found: &Found) -> Result<(), Failure> {
        let (record, at) = match found {
            Found::Record(record, at) => (record, at),
            Found::Trimmed(from, to) => {
                return context.out.line(format!("  seq {from}..{to} trimmed"));
            }
            Found::Missing(from, to, problem) => {
                let what = if from == to {
                    format!("changes at seq {from}")
                } else {
                    format!("seq {from}..{to}")
                };
                return context.out.line(format!("✗ {what} cannot be read: {problem}"));
            }
        };
        let mut line = format!(
            "{:>8}  {}[{}]  {}.{:03}Z  ",
            record.seq,
            self.names.name(record.stream),
            record.index,
            utc(record.time_ms).trim_end_matches('Z'),
            record.time_ms % 1_000,
        );
        match record.event.as_ref().and_then(|event| event.event.as_ref()) {
            Some(event) => line.push_str(&braidlog::present::event_text(event)),
            None if self.format == Format::Text => line.push_str(&shortened(&record.data)),
            None => drop(write!(line, "{} bytes", record.data.len())),
        }
        if self.places {
            let packed = if at.is_packed { "block " } else { "" };
            // Writing to a string does not fail.
            let _ = write!(line, "   {packed}{}@{:#x}", at.file, at.position);
        }
        context.out.line(line)?;
        if self.format == Format::Hex {
            for row in hex_rows(&record.data) {
                context.out.line(row)?;
            }
        }
        Ok(())
    }
}

/// Characters of a body that a line shows.
const BODY_CHARS: usize = 100;

/// A body on one line: text with its control characters told, or how many bytes there are.
pub(crate) fn shortened(data: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(data) else {
        let start: String = data.iter().take(16).map(|byte| format!("{byte:02x} ")).collect();
        return format!("{} bytes: {}…", data.len(), start.trim_end());
    };
    let mut line: String = text
        .chars()
        .take(BODY_CHARS)
        .flat_map(|c| -> Box<dyn Iterator<Item = char>> {
            match c.is_control() {
                true => Box::new(c.escape_default()),
                false => Box::new(std::iter::once(c)),
            }
        })
        .collect();
    if text.chars().nth(BODY_CHARS).is_some() {
        let _ = write!(line, "… ({} bytes)", data.len());
    }
    line
}

/// Bytes as `offset  hex  |text|`, sixteen a row.
pub(crate) fn hex_rows(data: &[u8]) -> impl Iterator<Item = String> {
    data.chunks(16).enumerate().map(|(n, row)| {
        let hex: String = row.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String = row
            .iter()
            .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { byte as char } else { '.' })
            .collect();
        format!("          {:08x}  {hex:<48} |{text}|", n * 16)
    })
}
