//! What `append` says while it works: which positions are acknowledged, and how far it is.
//!
//! As JSON, every acknowledgement is a line of its own. For people, acknowledgements that continue
//! each other become one range, printed when something else follows or a moment has passed.

use std::io::{self, IsTerminal, Write};

use super::{
    failure::{Exit, Failure},
    output::Output,
    present::{AckPart, Happening},
};
use crate::core::Appended;

/// Consecutive positions that were acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first_index: u64,
    first_seq: u64,
    count: u64,
    /// Whether an earlier command with the same producer and epoch had appended them.
    there_before: bool,
    positions_forgotten: bool,
}

impl Span {
    fn new(appended: &Appended, there_before: bool) -> Self {
        Self {
            first_index: appended.first_index.0,
            first_seq: appended.first_seq.0,
            count: u64::from(appended.count),
            there_before,
            positions_forgotten: appended.positions_forgotten,
        }
    }

    /// Both as one, if `next` continues this.
    fn joined(self, next: Self) -> Option<Self> {
        let continues = self.positions_forgotten
            || (self.first_index + self.count == next.first_index
                && self.first_seq + self.count == next.first_seq);
        let alike = self.there_before == next.there_before
            && self.positions_forgotten == next.positions_forgotten;
        (continues && alike).then_some(Self { count: self.count + next.count, ..self })
    }

    fn in_words(self) -> String {
        let (index, seq, count) = (self.first_index, self.first_seq, self.count);
        let before = if self.there_before { ", there before" } else { "" };
        if self.positions_forgotten {
            return format!("acked {count} lines at forgotten positions{before}");
        }
        format!("acked index {index}..{} seq {seq}..{}{before}", index + count, seq + count)
    }
}

/// Lines at the beginning of the input that were there before.
///
/// Behind the first that was not, an answer that was given before means only that a connection
/// broke.
#[derive(Debug, Clone, Copy)]
struct Before {
    count: u64,
    over: bool,
}

impl Before {
    /// Whether the next `count` lines belong to them.
    fn take(&mut self, deduplicated: bool, count: u64) -> bool {
        self.over |= !deduplicated;
        if !self.over {
            self.count += count;
        }
        !self.over
    }
}

/// Prints acknowledgements in the order of the input.
#[derive(Debug)]
pub(super) struct AckReport {
    /// None once nobody reads it any more.
    output: Option<Output>,
    as_json: bool,
    /// Acknowledged, but not printed yet.
    unprinted: Option<Span>,
    lines: u64,
    before: Before,
    /// Whether a line on the terminal tells how far it is, and has to be wiped.
    progress: bool,
}

impl AckReport {
    /// A report on standard output, with progress if standard error alone is a terminal. Lines can
    /// have been there before only if the producer has a name.
    pub(super) fn new(as_json: bool, named_producer: bool) -> Self {
        let progress = !as_json && io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self {
            output: Some(Output::new()),
            as_json,
            unprinted: None,
            lines: 0,
            before: Before { count: 0, over: !named_producer },
            progress,
        }
    }

    /// Takes an acknowledgement.
    pub(super) fn acked(&mut self, appended: &Appended) -> Result<(), Failure> {
        let count = u64::from(appended.count);
        self.lines += count;
        let there_before = self.before.take(appended.deduplicated, count);
        if self.as_json {
            let part = AckPart::new(appended, self.lines);
            return self.print(|output| output.json(Happening::Acked(part)));
        }
        let next = Span::new(appended, there_before);
        let joined = self.unprinted.map_or(Some(next), |span| span.joined(next));
        if joined.is_none() {
            self.print_span()?;
        }
        self.unprinted = Some(joined.unwrap_or(next));
        Ok(())
    }

    /// A moment has passed: prints what there is.
    pub(super) fn tick(&mut self) -> Result<(), Failure> {
        self.print_span()?;
        if self.progress {
            // Nothing depends on the progress being seen.
            let _ = write!(io::stderr(), "\r{} lines appended", self.lines);
        }
        Ok(())
    }

    /// Prints the rest.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.print_span()?;
        let (lines, before) = (self.lines, self.before.count);
        // As above; and the status tells that it went well.
        if self.progress {
            let _ = writeln!(io::stderr(), "\r{lines} lines appended");
        }
        if 0 < before {
            let _ = writeln!(
                io::stderr(),
                "braidlog: {before} of {lines} lines were there before: an earlier command had the \
                 same producer and epoch; for other lines take a higher --epoch"
            );
        }
        Ok(())
    }

    fn print_span(&mut self) -> Result<(), Failure> {
        let Some(span) = self.unprinted.take() else { return Ok(()) };
        self.print(|output| output.line(&span.in_words()))
    }

    /// Prints and flushes, for as long as somebody reads.
    fn print(
        &mut self,
        what: impl FnOnce(&mut Output) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Some(output) = &mut self.output else { return Ok(()) };
        match what(output).and_then(|()| output.flush()) {
            Err(gone) if gone.exit == Exit::Done => {
                self.output = None;
                Ok(())
            }
            printed => printed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Span = Span {
        first_index: 0,
        first_seq: 1,
        count: 5,
        there_before: false,
        positions_forgotten: false,
    };

    #[test]
    fn spans_join_only_if_one_continues_the_other() {
        let next = Span { first_index: 5, first_seq: 6, count: 2, ..FIRST };
        assert_eq!(FIRST.joined(next), Some(Span { count: 7, ..FIRST }));
        assert_eq!(FIRST.joined(Span { first_seq: 7, ..next }), None, "another stream wrote");
        assert_eq!(FIRST.joined(Span { there_before: true, ..next }), None);
        assert_eq!(next.joined(FIRST), None);
    }

    #[test]
    fn spans_say_where_lines_are_as_far_as_it_is_known() {
        assert_eq!(FIRST.in_words(), "acked index 0..5 seq 1..6");
        let before = Span { there_before: true, ..FIRST };
        assert_eq!(before.in_words(), "acked index 0..5 seq 1..6, there before");
        let forgotten = Span { positions_forgotten: true, first_index: 0, first_seq: 0, ..before };
        assert_eq!(forgotten.joined(forgotten).map(|span| span.count), Some(10));
        assert_eq!(forgotten.in_words(), "acked 5 lines at forgotten positions, there before");
    }
}
