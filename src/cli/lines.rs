//! Cuts input into lines, and lines into batches: what `append` sends.
//!
//! A record is a line without its `\n`; a `\r` before it is part of the line. The last line may
//! lack its `\n` and is marked then. No byte is lost or invented: lines with their line ends are
//! the input again.
//!
//! What it deliberately does not do: read. Bytes come in pieces of any size, and where they are cut
//! changes nothing.

use bytes::{Buf, Bytes, BytesMut};

use super::records::NO_EOL;
use crate::{
    core::NewRecord,
    proto::Header,
    record::{APPEND_BYTES_MAX, RECORD_BYTES_MAX},
};

/// A line does not fit a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line_no} is longer than {limit} bytes, the most that fits a record")]
pub(super) struct LineTooLong {
    /// Number of the line, from 1.
    pub(super) line_no: u64,
    /// Bytes that would have fitted.
    pub(super) limit: usize,
}

/// Cuts bytes at `\n`.
#[derive(Debug, Default)]
pub(super) struct LineCutter {
    rest: BytesMut,
    /// Bytes of `rest` known to hold no `\n`.
    searched: usize,
    /// Lines cut so far.
    lines: u64,
}

impl LineCutter {
    /// Takes the next piece of input.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
    }

    /// The next line whose end has been seen, without it.
    ///
    /// # Errors
    /// [`LineTooLong`], as soon as it is certain. Nothing can be cut afterwards.
    pub(super) fn line(&mut self) -> Result<Option<NewRecord>, LineTooLong> {
        let found = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
        let len = found.map_or(self.rest.len(), |at| self.searched + at);
        self.check(len, RECORD_BYTES_MAX)?;
        if found.is_none() {
            self.searched = len;
            return Ok(None);
        }
        let line = self.rest.split_to(len).freeze();
        self.rest.advance(1);
        Ok(Some(self.cut(line)))
    }

    /// What is left when the input has ended: a last line without its `\n`, marked.
    ///
    /// # Errors
    /// [`LineTooLong`]; the mark counts.
    pub(super) fn last_line(&mut self) -> Result<Option<NewRecord>, LineTooLong> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.check(self.rest.len(), RECORD_BYTES_MAX - NO_EOL.0.len() - NO_EOL.1.len())?;
        let line = self.rest.split().freeze();
        let mark = Header { name: NO_EOL.0.into(), value: Bytes::from_static(NO_EOL.1) };
        Ok(Some(NewRecord { headers: vec![mark], ..self.cut(line) }))
    }

    fn check(&self, len: usize, limit: usize) -> Result<(), LineTooLong> {
        if limit < len {
            return Err(LineTooLong { line_no: self.lines + 1, limit });
        }
        Ok(())
    }

    fn cut(&mut self, line: Bytes) -> NewRecord {
        self.searched = 0;
        self.lines += 1;
        NewRecord::new(line)
    }
}

/// Records that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    records: Vec<NewRecord>,
    bytes: usize,
    records_max: usize,
}

impl Batch {
    /// An empty batch of at most so many records.
    pub(super) fn new(records_max: usize) -> Self {
        Self { records: Vec::new(), bytes: 0, records_max }
    }

    /// Takes a record, or gives it back if it must go into the next batch. An empty batch takes
    /// every record.
    pub(super) fn push(&mut self, record: NewRecord) -> Option<NewRecord> {
        let size = record.size();
        if self.is_full() || (!self.is_empty() && APPEND_BYTES_MAX < self.bytes + size) {
            return Some(record);
        }
        self.bytes += size;
        self.records.push(record);
        None
    }

    /// Whether no record fits any more, however small.
    pub(super) fn is_full(&self) -> bool {
        self.records_max <= self.records.len()
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records.
    pub(super) fn into_records(self) -> Vec<NewRecord> {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `input`, given in pieces of `size` bytes.
    fn cut(input: &[u8], size: usize) -> Vec<NewRecord> {
        let (mut cutter, mut records) = (LineCutter::default(), Vec::new());
        for piece in input.chunks(size) {
            cutter.push(piece);
            while let Some(record) = cutter.line().expect("short lines") {
                records.push(record);
            }
        }
        records.extend(cutter.last_line().expect("short line"));
        records
    }

    fn joined(records: &[NewRecord]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            bytes.extend_from_slice(&record.data);
            if record.headers.is_empty() {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn lines_joined_again_are_the_input_wherever_it_was_cut() {
        let inputs: [&[u8]; 9] =
            [b"", b"\n", b"\n\n", b"a", b"a\n", b"a\nb", b"\na\r\n\r\n", b"\xff\n\0", b"a\n\nb\n"];
        for input in inputs {
            let whole = cut(input, 99);
            for size in 1..6 {
                let records = cut(input, size);
                assert_eq!(joined(&records), input, "{input:?} in pieces of {size}");
                assert_eq!(records, whole, "{input:?} in pieces of {size}");
            }
        }
        assert_eq!(cut(b"a\n\nb\n", 99).len(), 3, "an empty line is a record");
        assert!(cut(b"a\nb", 99)[1].size() == 1 + 16, "the mark counts");
    }

    #[test]
    fn a_line_that_fits_no_record_is_refused_by_number() {
        let mut cutter = LineCutter::default();
        cutter.push(b"a\n");
        cutter.push(&vec![b'b'; RECORD_BYTES_MAX]);
        assert!(cutter.line().expect("a").is_some());
        assert_eq!(cutter.line(), Ok(None), "may still end here");
        let marked = LineTooLong { line_no: 2, limit: RECORD_BYTES_MAX - 16 };
        assert_eq!(cutter.last_line(), Err(marked));
        cutter.push(b"\n");
        assert_eq!(cutter.line().map(|line| line.map(|line| line.size())), Ok(Some(1 << 20)));

        cutter.push(&vec![b'c'; RECORD_BYTES_MAX + 1]);
        assert_eq!(cutter.line(), Err(LineTooLong { line_no: 3, limit: RECORD_BYTES_MAX }));
    }

    #[test]
    fn a_batch_takes_what_an_append_may_hold_and_not_more() {
        let mut batch = Batch::new(2);
        assert!(batch.is_empty());
        assert_eq!(batch.push(NewRecord::new("a")), None);
        assert_eq!(
            batch.push(NewRecord::new(vec![0; APPEND_BYTES_MAX])).map(|r| r.size()),
            Some(1 << 20)
        );
        assert_eq!(batch.push(NewRecord::new(vec![0; APPEND_BYTES_MAX - 1])), None);
        assert!(batch.is_full());
        assert!(batch.push(NewRecord::new("")).is_some());
        assert_eq!(batch.into_records().len(), 2);
    }
}
