//! Prints what readers get: bodies for pipes, or everything as JSON.
//!
//! A record is a line without its line end. [`NO_EOL`] marks one that had none, as the last line
//! of a file may: with it, what was appended comes out byte for byte.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use serde::Serialize;

use super::{
    failure::{Exit, Failure},
    output::Output,
    present::{Happening, RecordPart, outcome_name},
};
use crate::{
    engine::{End, Gap, Input, Records, StreamInfo},
    proto::{Header, Kind, Record},
};

/// Name and value of the header of a record whose line had no line end.
pub(super) const NO_EOL: (&str, &[u8]) = ("braidlog-eol", b"none");

/// How records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Each body and a line end.
    Lines,
    /// Bodies and nothing else.
    Raw,
    /// Each body as a line of base64.
    Base64,
    /// Each record as a line of JSON.
    Json,
}

/// Prints records in one format.
#[derive(Debug)]
pub(super) struct RecordPrinter {
    output: Output,
    format: Format,
    names: HashMap<u32, Arc<str>>,
}

impl RecordPrinter {
    /// Prints to standard output.
    pub(super) fn new(format: Format) -> Self {
        Self { output: Output::new(), format, names: HashMap::new() }
    }

    /// Learns the names of streams.
    pub(super) fn learn(&mut self, streams: &[StreamInfo]) {
        self.names.extend(streams.iter().map(|stream| (stream.stream.0, stream.name.clone())));
    }

    /// Learns the names of the streams of a run, `$run` first.
    pub(super) fn learn_names(&mut self, names: &[Arc<str>]) {
        self.names.extend((0..).zip(names.iter().cloned()));
    }

    /// Prints records of a watch, each as it is. As JSON, the last one carries `cursor`.
    pub(super) fn watched(&mut self, records: &[Record], cursor: &str) -> Result<(), Failure> {
        let Some((last, others)) = records.split_last() else { return Ok(()) };
        for record in others {
            self.record(record, None)?;
        }
        self.record(last, Some(cursor))
    }

    /// Prints something else than a record, as JSON.
    pub(super) fn json(&mut self, fields: impl Serialize) -> Result<(), Failure> {
        self.output.json(fields)
    }

    /// Prints something else than a record, for people.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.output.line(text)
    }

    /// Prints records. As JSON, the last one carries `cursor`: where to resume after it.
    pub(super) fn records(&mut self, records: &Records, cursor: &str) -> Result<(), Failure> {
        let records = records.decode().map_err(|damage| Failure {
            exit: Exit::Failure,
            reason: "UNEXPECTED",
            message: format!("the server sent a record that cannot be read: {damage}"),
        })?;
        self.watched(&records, cursor)
    }

    /// Prints a message of a stream.
    pub(super) fn message(&mut self, input: &Input, stream: &str) -> Result<(), Failure> {
        if self.format == Format::Json {
            let part = RecordPart::message(&input.record, stream, input.redelivery);
            return self.output.json(Happening::Record(&part));
        }
        self.record(&input.record, None)
    }

    /// Prints, as JSON only, why no message follows.
    pub(super) fn messages_end(&mut self, reason: &'static str) -> Result<(), Failure> {
        self.happened(Happening::End { reason, outcome: None, cursor: "" })
    }

    fn record(&mut self, record: &Record, cursor: Option<&str>) -> Result<(), Failure> {
        if self.format == Format::Json {
            let name = match self.names.get(&record.stream) {
                Some(name) => Cow::Borrowed(&**name),
                None => Cow::Owned(record.stream.to_string()),
            };
            let part = RecordPart::new(record, name, cursor.map(Into::into));
            return self.output.json(Happening::Record(&part));
        }
        if !matches!(record.kind(), Kind::Chunk | Kind::Input) {
            return Ok(());
        }
        match self.format {
            Format::Base64 => self.output.line(&STANDARD.encode(&record.data)),
            Format::Lines if !record.headers.iter().any(is_no_eol) => {
                self.output.bytes(&record.data)?;
                self.output.bytes(b"\n")
            }
            Format::Lines | Format::Raw | Format::Json => self.output.bytes(&record.data),
        }
    }

    /// Prints, as JSON only, that a stretch has been trimmed.
    pub(super) fn gap(&mut self, gap: &Gap, cursor: Option<&str>) -> Result<(), Failure> {
        let name = self.names.get(&gap.stream.0).cloned();
        let (from_index, to_index) = (gap.from.0, gap.to.0);
        self.happened(Happening::Gap { stream: name.as_deref(), from_index, to_index, cursor })
    }

    /// Prints, as JSON only, that the reader is at the tail for the first time.
    pub(super) fn caught_up(&mut self, cursor: &str) -> Result<(), Failure> {
        self.happened(Happening::CaughtUp { cursor })
    }

    /// Prints, as JSON only, why nothing follows. No end is the tail of a reader that does not
    /// follow.
    pub(super) fn end(&mut self, end: Option<End>, cursor: &str) -> Result<(), Failure> {
        let (reason, outcome) = match end {
            None => ("tail", None),
            Some(End::Limit) => ("limit", None),
            Some(End::Closed(outcome)) => ("closed", outcome.map(outcome_name)),
        };
        self.happened(Happening::End { reason, outcome, cursor })
    }

    fn happened(&mut self, what: Happening<'_>) -> Result<(), Failure> {
        if self.format == Format::Json { self.output.json(what) } else { Ok(()) }
    }

    /// Hands everything printed so far to whoever reads.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush()
    }
}

fn is_no_eol(header: &Header) -> bool {
    header.name == NO_EOL.0 && *header.value == *NO_EOL.1
}
