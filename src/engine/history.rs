//! The earlier part of a run's log: what is in segments.
//!
//! Everything here blocks on the disk, and is asked for only when the frames known in memory do not
//! have the answer. What a history says is about records that never change; it can be asked again
//! at any time, whatever was flushed, rewritten or dropped meanwhile.

use super::{select::ChunkFrame, shared::Shared};
use crate::{
    error::{Corruption, Error},
    format::{
        Damage, file_name,
        frame::{Chain, Frame},
        segment::{Part, SegmentTail},
    },
    record::{Index, RunNo, Seq, StreamNo},
    segment::Segment,
};

/// Something that only segments know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Chain of the frame that holds the record before this seq.
    ChainAt(Seq),
    /// Where a reader of a stream meets this index.
    SeqOf(StreamNo, Index),
    /// First index of a stream from this seq on.
    IndexAt(StreamNo, Seq),
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// None if the record before is trimmed, and its frame gone.
    Chain(Option<Chain>),
    Seq(Seq),
    Index(Index),
    /// Segments hold no record of the stream from there on, up to this seq.
    NoneBefore(Seq),
}

/// The segments of a run, in run order.
pub(super) struct History {
    segments: Vec<Segment>,
}

/// Frames found from a position on.
pub(super) struct Stretch {
    pub(super) frames: Vec<ChunkFrame>,
    /// Position after them, and after what is not wanted behind them.
    pub(super) next: Seq,
    /// Chain of the frame that holds the record before `next`.
    pub(super) chain: Chain,
}

impl History {
    /// The segments of a run.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the directory of a pack cannot be read.
    pub(super) fn of(shared: &Shared, name_hash: u64, run_no: RunNo) -> Result<Self, Error> {
        let segments = shared.packs.shelf().segments_of(name_hash, run_no)?;
        Ok(Self { segments })
    }

    /// Answers a question about positions below the end of the last segment.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub(super) fn answer(&self, shared: &Shared, question: Question) -> Result<Answer, Error> {
        match question {
            Question::ChainAt(seq) => {
                let frame = self.frame_before(shared, seq)?;
                let is_known = !frame.is_stub() || frame.next_seq() == seq;
                Ok(Answer::Chain(is_known.then_some(frame.header.chain)))
            }
            Question::SeqOf(stream, index) => self.seq_of(shared, stream, index).map(Answer::Seq),
            Question::IndexAt(stream, seq) => self.index_at(shared, stream, seq),
        }
    }

    /// The wanted frames from `from` on, about `bytes_max` of them, and below `until`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] also if nothing holds `from`; [`Error::Io`].
    pub(super) fn read(
        &self,
        shared: &Shared,
        from: Seq,
        until: Seq,
        streams: Option<&[StreamNo]>,
        bytes_max: usize,
    ) -> Result<Stretch, Error> {
        let (segment, tail) = self.segment_with(shared, from)?;
        let mut frames = Vec::new();
        let (mut next, mut chain, mut bytes) = (from, None, 0);
        for part in &tail.parts {
            if part.end_seq() <= from {
                continue;
            }
            if until <= part.first_seq || bytes_max <= bytes {
                break;
            }
            // A part that reaches past the end is read also if nothing in it is wanted: the chain
            // at the end is that of one of its frames.
            let is_wanted = streams.is_none_or(|wanted| has_any(part, wanted));
            if !is_wanted && part.end_seq() <= until {
                next = part.end_seq();
                chain = None;
                continue;
            }
            for frame in segment.read(part, &shared.blocks)?.frames {
                if frame.next_seq() <= from || until <= frame.header.first_seq {
                    continue;
                }
                bytes += frame.bytes().len();
                next = frame.next_seq();
                chain = Some(frame.header.chain);
                frames.push(ChunkFrame { frame, only: part.only() });
            }
        }
        let behind = tail.parts.iter().find(|part| part.first_seq == next);
        let chain = match chain.or(behind.map(|part| part.records_chain)) {
            Some(chain) => chain,
            None => self.frame_before(shared, next)?.header.chain,
        };
        Ok(Stretch { frames, next, chain })
    }

    /// Takes the blocks with about `bytes_max` of the frames that are wanted from `from` on into the
    /// cache of blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn warm(
        &self,
        shared: &Shared,
        from: Seq,
        streams: Option<&[StreamNo]>,
        bytes_max: usize,
    ) -> Result<(), Error> {
        let (segment, tail) = self.segment_with(shared, from)?;
        let mut bytes = 0;
        for part in tail.parts.iter().filter(|part| from < part.end_seq()) {
            if bytes_max <= bytes {
                break;
            }
            if streams.is_none_or(|wanted| has_any(part, wanted)) {
                segment.block(part, &shared.blocks)?;
                bytes += part.len as usize;
            }
        }
        Ok(())
    }

    /// The frame, or stub, that holds the record before `seq`.
    fn frame_before(&self, shared: &Shared, seq: Seq) -> Result<Frame, Error> {
        let Some(before) = seq.0.checked_sub(1) else { return Err(self.missing(seq)) };
        let (segment, tail) = self.segment_with(shared, Seq(before))?;
        let part = part_with(&tail, Seq(before)).ok_or_else(|| self.missing(seq))?;
        let mut frames = segment.read(part, &shared.blocks)?.frames.into_iter();
        frames.find(|frame| before < frame.next_seq().0).ok_or_else(|| self.missing(seq))
    }

    fn seq_of(&self, shared: &Shared, stream: StreamNo, index: Index) -> Result<Seq, Error> {
        for segment in self.segments.iter().rev() {
            let tail = segment.tail(&shared.blocks)?;
            let with_stream = tail.parts.iter().rev().find_map(|part| {
                let found = part.streams.iter().find(|found| found.stream == stream)?;
                (found.first_index <= index).then_some((part, found))
            });
            let Some((part, found)) = with_stream else { continue };
            if found.first_index + u64::from(found.count) <= index {
                // Trimmed away between two parts: the next record of the stream is further on.
                return Ok(part.end_seq());
            }
            return Ok(match part.only() {
                Some(_) => part.first_seq + (index.0 - found.first_index.0),
                None => part.first_seq,
            });
        }
        Ok(Seq::ZERO)
    }

    fn index_at(&self, shared: &Shared, stream: StreamNo, seq: Seq) -> Result<Answer, Error> {
        let after = self.segments.partition_point(|segment| segment.entry.head.end_seq <= seq);
        for segment in &self.segments[after..] {
            let tail = segment.tail(&shared.blocks)?;
            for part in tail.parts.iter().filter(|part| seq < part.end_seq()) {
                let Some(found) = part.streams.iter().find(|found| found.stream == stream) else {
                    continue;
                };
                if part.only().is_some() || seq <= part.first_seq {
                    let into = seq.0.saturating_sub(part.first_seq.0);
                    return Ok(Answer::Index(found.first_index + into));
                }
                if let Some(index) = index_in(segment, part, stream, seq, shared)? {
                    return Ok(Answer::Index(index));
                }
            }
        }
        // What came before says nothing: it may be trimmed and gone.
        let end = self.segments.last().map(|segment| segment.entry.head.end_seq);
        end.filter(|&end| seq < end).map(Answer::NoneBefore).ok_or_else(|| self.missing(seq))
    }

    /// The segment that holds record `seq`.
    fn segment_with(&self, shared: &Shared, seq: Seq) -> Result<(&Segment, SegmentTail), Error> {
        let at = self.segments.partition_point(|segment| segment.entry.head.end_seq <= seq);
        let segment = self.segments.get(at).ok_or_else(|| self.missing(seq))?;
        if seq < segment.entry.head.first_seq {
            return Err(self.missing(seq));
        }
        Ok((segment, segment.tail(&shared.blocks)?))
    }

    /// No segment holds a record that was acknowledged.
    fn missing(&self, seq: Seq) -> Error {
        let damage = Damage::Numbering { what: "seq in segments", found: seq.0, expected: seq.0 };
        let number = self.segments.last().map_or(0, |segment| segment.pack.number());
        let file = file_name::pack(number).as_str().into();
        Error::Corrupt(Corruption { file, position: 0, damage })
    }
}

fn has_any(part: &Part, streams: &[StreamNo]) -> bool {
    part.streams.iter().any(|found| streams.contains(&found.stream))
}

fn part_with(tail: &SegmentTail, seq: Seq) -> Option<&Part> {
    tail.parts.iter().find(|part| part.first_seq <= seq && seq < part.end_seq())
}

/// First index of a stream from `seq` on in a part with records of several streams.
fn index_in(
    segment: &Segment,
    part: &Part,
    stream: StreamNo,
    seq: Seq,
    shared: &Shared,
) -> Result<Option<Index>, Error> {
    let frames = segment.read(part, &shared.blocks)?.frames;
    let records = frames.iter().filter(|frame| seq < frame.next_seq());
    Ok(records
        .flat_map(|frame| crate::format::wire::skim_all(frame.records_slice()))
        .filter_map(Result::ok)
        .find(|record| record.stream == stream && seq <= record.seq)
        .map(|record| record.index))
}
