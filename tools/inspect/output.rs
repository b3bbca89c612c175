//! Standard output: buffered, and never a panic when its reader is gone.

use std::io::{self, BufWriter, Stdout, Write};

use braidlog::present::Line;
use serde::Serialize;

use crate::exit::Failure;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output(BufWriter<Stdout>);

impl Output {
    /// Takes standard output.
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes the fields of a value as one line of JSON, with the version.
    pub(crate) fn json(&mut self, fields: impl Serialize) -> Result<(), Failure> {
        // The only way a plain value fails to be written is the writer.
        serde_json::to_writer(&mut self.0, &Line::new(fields))
            .map_err(|error| Failure::output(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Writes the fields of a value as JSON over several lines, with the version.
    pub(crate) fn pretty_json(&mut self, fields: impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.0, &Line::new(fields))
            .map_err(|error| Failure::output(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Hands everything written so far to whoever reads.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|error| Failure::output(&error))
    }
}
