//! One run's log, frame by frame, from wherever its frames are, with what is missing between them.

use std::{collections::VecDeque, sync::Arc};

use super::{
    directory::LookError,
    survey::{FrameSeen, Survey},
};
use crate::{
    core::RunState,
    error::{Corruption, Error},
    format::{
        Damage, file_name,
        frame::{Chain, Frame},
    },
    platform::RelPath,
    record::{RunNo, Seq},
    recovery::read_state,
    segment::{Blocks, Segment},
};

/// Bytes of blocks that are kept while a run is read.
const BLOCKS_BYTES_MAX: usize = 32 << 20;

/// Where a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Where {
    /// The file.
    pub file: RelPath,
    /// Where the frame begins, or the compressed block that holds it.
    pub position: u64,
    /// Whether `position` is that of a block of a pack, which holds the frame compressed.
    pub is_packed: bool,
}

/// The next thing in a run's log.
#[derive(Debug, Clone)]
pub enum Item {
    /// A frame that follows what came before.
    Frame(Frame, Where),
    /// Frames that cannot be read, and what is known of them.
    Missing {
        /// Seq of the first record that is missing.
        from: Seq,
        /// Seq after the last; the same as `from` if only changes without records are.
        to: Seq,
        /// Why, and where.
        cause: Error,
    },
}

/// One run's log.
pub struct RunLog<'a> {
    survey: &'a Survey,
    run_no: RunNo,
    segments: Vec<Segment>,
    frames: Vec<FrameSeen>,
    /// Why its segments cannot be known.
    broken: Option<Error>,
    blocks: Blocks,
    at: At,
    ready: VecDeque<Item>,
    /// Chain after the last frame given; none at the start and behind what is missing.
    chain: Option<Chain>,
    next_seq: Seq,
}

/// What is read next.
#[derive(Clone, Copy)]
struct At {
    segment: usize,
    part: usize,
    frame: usize,
}

impl<'a> RunLog<'a> {
    /// The log of a run.
    ///
    /// # Errors
    /// [`LookError::Io`]. Damage is given with the items.
    pub fn open(survey: &'a Survey, name_hash: u64, run_no: RunNo) -> Result<Self, LookError> {
        let shelf = survey.packs_with(name_hash)?.shelf();
        let (segments, broken) = match shelf.segments_of(name_hash, run_no) {
            Ok(segments) => (segments, None),
            Err(error @ Error::Corrupt(_)) => {
                (sound_segments(survey, name_hash, run_no)?, Some(error))
            }
            Err(error) => return Err(error.into()),
        };
        let flushed = segments.last().map(|segment| segment.entry.head.flushed);
        let low = if broken.is_some() { 0 } else { survey.live.journal_low };
        let frames = survey
            .frames_of(run_no)
            .iter()
            .filter(|frame| {
                low <= frame.end.block_no && flushed.is_none_or(|flushed| flushed < frame.end)
            })
            .copied()
            .collect();
        Ok(Self {
            survey,
            run_no,
            segments,
            frames,
            broken,
            blocks: Blocks::new(BLOCKS_BYTES_MAX),
            at: At { segment: 0, part: 0, frame: 0 },
            ready: VecDeque::new(),
            chain: None,
            next_seq: Seq::ZERO,
        })
    }

    /// The run.
    pub fn run_no(&self) -> RunNo {
        self.run_no
    }

    /// Its segments, in run order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Its frames that are in the journal only, in run order.
    pub fn journal_frames(&self) -> &[FrameSeen] {
        &self.frames
    }

    /// Why some of its segments may not be known.
    pub fn broken(&self) -> Option<&Error> {
        self.broken.as_ref()
    }

    /// Blocks of packs that were read, for whoever reads more of them.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Goes to the stretch that holds a seq, without reading what comes before: the items that
    /// follow begin at or before it.
    pub fn skip_to(&mut self, seq: Seq) {
        while let Some(segment) = self.segments.get(self.at.segment)
            && segment.entry.head.end_seq <= seq
        {
            (self.at.segment, self.at.part) = (self.at.segment + 1, 0);
            (self.chain, self.next_seq) = (None, segment.entry.head.end_seq);
        }
    }

    /// The run's state after the last of its frames.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if frames that it is made of are damaged; [`Error::Io`].
    pub fn state(&self) -> Result<RunState, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let mut state = match self.segments.last() {
            Some(segment) => Some(read_state(segment, &self.blocks)?),
            None => None,
        };
        for seen in &self.frames {
            let Some(frame) = self.survey.read_frame(seen)? else {
                return Err(self.corruption(seen, Damage::Missing));
            };
            let folded = match &mut state {
                Some(state) => state.replay(&frame).map(drop),
                None => RunState::begin(&frame).map(|(begun, _)| state = Some(begun)),
            };
            folded.map_err(|damage| self.corruption(seen, damage))?;
        }
        state.ok_or_else(|| {
            let file = file_name::journal().as_str().into();
            Error::Corrupt(Corruption { file, position: 0, damage: Damage::Missing })
        })
    }

    fn corruption(&self, seen: &FrameSeen, damage: Damage) -> Error {
        let path = self.survey.slot_of(seen.at.file_seq).map(|slot| slot.path.as_str());
        let file = Arc::from(path.unwrap_or("journal"));
        Error::Corrupt(Corruption { file, position: u64::from(seen.at.position), damage })
    }

    /// The next item; none at the end.
    ///
    /// # Errors
    /// [`LookError::Io`].
    pub fn next_item(&mut self) -> Result<Option<Item>, LookError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            if self.at.segment < self.segments.len() {
                self.read_part()?;
            } else if let Some(seen) = self.frames.get(self.at.frame).copied() {
                self.at.frame += 1;
                self.read_journal(&seen)?;
            } else {
                return Ok(None);
            }
        }
    }

    /// Makes the frames of the next part of a segment ready.
    fn read_part(&mut self) -> Result<(), LookError> {
        let segment = self.segments[self.at.segment].clone();
        let head = segment.entry.head;
        let tail = match segment.tail(&self.blocks) {
            Err(error @ Error::Corrupt(_)) => {
                self.miss(head.first_seq, head.end_seq, error);
                (self.at.segment, self.at.part) = (self.at.segment + 1, 0);
                return Ok(());
            }
            other => other?,
        };
        let Some(part) = tail.parts.get(self.at.part) else {
            (self.at.segment, self.at.part) = (self.at.segment + 1, 0);
            return Ok(());
        };
        self.at.part += 1;
        let position = if part.block == 0 { segment.entry.block } else { part.block };
        match segment.read(part, &self.blocks) {
            Ok(read) => {
                for frame in read.frames {
                    let file = file_name::pack(segment.pack.number());
                    self.give(frame, Where { file, position, is_packed: true });
                }
            }
            Err(error @ Error::Corrupt(_)) => self.miss(part.first_seq, part.end_seq(), error),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn read_journal(&mut self, seen: &FrameSeen) -> Result<(), LookError> {
        let (error, next_seq) = match self.survey.read_frame(seen) {
            Ok(Some(frame)) => {
                let file = self.survey.slot_of(seen.at.file_seq).map(|slot| slot.path.clone());
                let file = file.unwrap_or_else(file_name::journal);
                let position = u64::from(seen.at.position);
                self.give(frame, Where { file, position, is_packed: false });
                return Ok(());
            }
            Ok(None) => (self.corruption(seen, Damage::Missing), seen.next_seq()),
            Err(error @ Error::Corrupt(_)) => (error, seen.next_seq()),
            Err(error) => return Err(error.into()),
        };
        self.miss(seen.header.first_seq, next_seq, error);
        Ok(())
    }

    /// Gives a frame, and before it what is missing between it and the one before.
    fn give(&mut self, frame: Frame, at: Where) {
        let header = &frame.header;
        let is_linked = self.chain.is_none_or(|chain| {
            // What a stub stands for began somewhere behind the frame before.
            chain.link(header.crc) == header.chain || frame.is_stub()
        });
        let is_first = self.chain.is_none() && self.next_seq == header.first_seq;
        if frame.next_seq() <= self.next_seq && !is_linked {
            // A copy of what was given already.
            return;
        }
        if !is_linked || (!is_first && self.next_seq < header.first_seq) {
            let damage = Damage::Numbering {
                what: "seq",
                found: header.first_seq.0,
                expected: self.next_seq.0,
            };
            let file = at.file.as_str().into();
            let cause = Error::Corrupt(Corruption { file, position: at.position, damage });
            let already =
                self.ready.back().is_some_and(|item| matches!(item, Item::Missing { .. }));
            if !already {
                self.miss(self.next_seq, header.first_seq, cause);
            }
        }
        (self.chain, self.next_seq) = (Some(header.chain), frame.next_seq());
        self.ready.push_back(Item::Frame(frame, at));
    }

    fn miss(&mut self, from: Seq, to: Seq, cause: Error) {
        self.ready.push_back(Item::Missing { from, to, cause });
        (self.chain, self.next_seq) = (None, to);
    }
}

/// The segments of a run in those packs whose directories can be read.
fn sound_segments(
    survey: &Survey,
    name_hash: u64,
    run_no: RunNo,
) -> Result<Vec<Segment>, LookError> {
    let mut segments = Vec::new();
    for seen in survey.packs.iter().filter(|seen| seen.lost.is_none()) {
        let pack = match survey.open_pack(seen) {
            Err(Error::Corrupt(_)) => continue,
            other => other?,
        };
        let Ok(entries) = pack.entries_of(name_hash) else { continue };
        let of_run = entries.into_iter().filter(|entry| entry.head.run_no == run_no);
        segments.extend(of_run.map(|entry| Segment { pack: pack.clone(), entry }));
    }
    segments.sort_by_key(|segment| segment.entry.head.flushed);
    let first = segments.iter().rposition(|segment| segment.entry.head.is_first);
    segments.drain(..first.unwrap_or(0));
    Ok(segments)
}

impl FrameSeen {
    /// Seq after the frame's last record.
    pub fn next_seq(&self) -> Seq {
        self.header.first_seq + u64::from(self.header.count)
    }
}
