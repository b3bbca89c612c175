//! Standard output: buffered, flushed when told to, and never a panic when its reader is gone.

use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

use super::{failure::Failure, present::Line};

/// Standard output of a command that succeeds.
#[derive(Debug)]
pub(super) struct Output(BufWriter<Stdout>);

impl Output {
    /// Takes standard output.
    pub(super) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    /// Writes a line of text.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes the fields of a value as one line of JSON, with the version.
    pub(super) fn json(&mut self, fields: impl Serialize) -> Result<(), Failure> {
        // The only way a plain value fails to be written is the writer.
        serde_json::to_writer(&mut self.0, &Line::new(fields))
            .map_err(|error| Failure::output(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Hands everything written so far to whoever reads.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|error| Failure::output(&error))
    }
}
