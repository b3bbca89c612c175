//! `grep`: records whose body, header or event has a pattern in it.
//!
//! JSON, one object a match: `match` with `namespace`, `run_id` (or `run_no` alone if the run's name cannot be read) and
//! the record as `records` shows it.

use std::{borrow::Cow, collections::HashMap};

use braidlog::{
    Record,
    core::RunState,
    format::{frame::Frame, wire},
    offline::{RunName, Survey, Where},
    present::{RecordPart, event_text, utc::utc},
    record::RunNo,
};
use clap::Args;
use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    records::shortened,
};

/// Bytes of a compiled pattern, at most.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Records with a pattern in body, header or event; every byte looked at was checked
#[derive(Debug, Args)]
pub(crate) struct GrepArgs {
    /// A regular expression
    pattern: String,
    /// The pattern is text and no regular expression
    #[arg(short = 'F', long)]
    fixed: bool,
    /// Upper and lower case are the same
    #[arg(short = 'i', long)]
    ignore_case: bool,
    /// Only this run
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only streams of this name
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Matches shown, at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only say how many there are
    #[arg(short, long)]
    count: bool,
}

#[derive(Serialize)]
struct Match<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    run_no: u64,
    #[serde(flatten)]
    record: RecordPart<'a>,
    file: &'a str,
    position: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    packed: bool,
}

#[derive(Serialize)]
struct Count {
    r#type: &'static str,
    matches: u64,
}

/// What is known of a run that has matches.
struct Known {
    name: RunName,
    streams: Vec<String>,
    trims: Vec<u64>,
}

/// Looks for the pattern, and shows what it finds.
struct Search<'a> {
    survey: &'a Survey,
    pattern: Regex,
    stream: Option<String>,
    limit: u64,
    silent: bool,
    matches: u64,
    known: HashMap<RunNo, Option<Known>>,
}

pub(crate) fn run(context: &mut Context, args: GrepArgs) -> Result<Exit, Failure> {
    let pattern = if args.fixed { regex::escape(&args.pattern) } else { args.pattern };
    let pattern = RegexBuilder::new(&pattern)
        .case_insensitive(args.ignore_case)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| Failure::usage(format!("the pattern cannot be used: {error}")))?;
    let survey = context.survey()?;
    let mut search = Search {
        survey: &survey,
        pattern,
        stream: args.stream,
        limit: args.limit.unwrap_or(u64::MAX),
        silent: args.count,
        matches: 0,
        known: HashMap::new(),
    };
    let searched = match args.run {
        Some(run) => search.run(context, &run),
        None => search.all(context),
    };
    match searched {
        // The limit is reached.
        Err(Stop::Enough) => {}
        Err(Stop::Failed(failure)) => return Err(failure),
        Ok(()) => {}
    }
    if args.count {
        match context.json {
            true => context.out.json(Count { r#type: "count", matches: search.matches })?,
            false => context.out.line(search.matches.to_string())?,
        }
    }
    context.out.flush()?;
    Ok(context.ended(&survey))
}

/// Why a search ends early.
enum Stop {
    Enough,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Search<'_> {
    fn run(&mut self, context: &mut Context, run_id: &str) -> Result<(), Stop> {
        let mut log = context.find(self.survey, run_id)?;
        while let Some(item) = log.next_item()? {
            if let braidlog::offline::Item::Frame(frame, at) = item {
                self.look(context, &frame, &at)?;
            }
        }
        Ok(())
    }

    fn all(&mut self, context: &mut Context) -> Result<(), Stop> {
        let mut stop = None;
        let survey = self.survey;
        survey.each_frame(|frame, at| {
            if stop.is_none() {
                stop = self.look(context, frame, at).err();
            }
            Ok(stop.is_none())
        })?;
        stop.map_or(Ok(()), Err)
    }

    fn look(&mut self, context: &mut Context, frame: &Frame, at: &Where) -> Result<(), Stop> {
        for record in wire::decode_all(frame.records()).map_while(Result::ok) {
            if !self.matches(&record) {
                continue;
            }
            let run_no = frame.header.run_no;
            if !self.known.contains_key(&run_no) {
                let known = know(self.survey, run_no)?;
                self.known.insert(run_no, known);
            }
            let known = self.known.get(&run_no).and_then(Option::as_ref);
            let number = record.stream as usize;
            let is_trimmed = known
                .and_then(|known| known.trims.get(number))
                .is_some_and(|&trim| record.index < trim);
            let stream: Cow<'_, str> = match known.and_then(|known| known.streams.get(number)) {
                Some(name) => name.as_str().into(),
                None => format!("#{number}").into(),
            };
            if is_trimmed || self.stream.as_ref().is_some_and(|wanted| *wanted != *stream) {
                continue;
            }
            self.matches += 1;
            if !self.silent {
                show(context, run_no, known, stream, &record, at)?;
            }
            if self.limit <= self.matches {
                return Err(Stop::Enough);
            }
        }
        Ok(())
    }

    fn matches(&self, record: &Record) -> bool {
        self.pattern.is_match(&record.data)
            || record.headers.iter().any(|header| {
                self.pattern.is_match(header.name.as_bytes())
                    || self.pattern.is_match(&header.value)
            })
            || record
                .event
                .as_ref()
                .and_then(|event| event.event.as_ref())
                .is_some_and(|event| self.pattern.is_match(event_text(event).as_bytes()))
    }
}

fn know(survey: &Survey, run_no: RunNo) -> Result<Option<Known>, Failure> {
    let Some(log) = survey.log_of(run_no)? else { return Ok(None) };
    Ok(log.state().ok().map(|state: RunState| Known {
        name: RunName::of(&state),
        streams: state.streams.iter().map(|stream| stream.name.to_string()).collect(),
        trims: state.streams.iter().map(|stream| stream.trim.0).collect(),
    }))
}

fn show(
    context: &mut Context,
    run_no: RunNo,
    known: Option<&Known>,
    stream: Cow<'_, str>,
    record: &Record,
    at: &Where,
) -> Result<(), Failure> {
    if context.json {
        return context.out.json(Match {
            r#type: "match",
            namespace: known.map(|known| &*known.name.namespace),
            run_id: known.map(|known| &*known.name.run_id),
            run_no: run_no.0,
            record: RecordPart::new(record, stream, None),
            file: at.file.as_str(),
            position: at.position,
            packed: at.is_packed,
        });
    }
    let name = known.map_or_else(|| format!("#{}", run_no.0), |known| known.name.to_string());
    let body = match record.event.as_ref().and_then(|event| event.event.as_ref()) {
        Some(event) => event_text(event),
        None => shortened(&record.data),
    };
    context.out.line(format!(
        "{name}  {stream}[{}]  seq {}  {}  {body}",
        record.index,
        record.seq,
        utc(record.time_ms)
    ))
}
