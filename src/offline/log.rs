//! One run's log, frame by frame, from wherever its frames are, with what is missing between them.

use std::{collections::VecDeque, sync::Arc};

use super::{directory::LookError, seen::FrameSeen, survey::Survey};
use crate::{
    core::{At, Fold, NoPast, Past, RunState, StreamSpan},
    error::{Corruption, Error},
    format::{
        Damage, file_name,
        frame::{Chain, Frame},
        segment::{JournalPoint, Part, PartStream, SegmentTail},
        wire,
    },
    platform::RelPath,
    record::{RunNo, Seq},
    recovery::{read_state, state_of},
    segment::{Blocks, Segment},
};

/// Bytes of blocks that are kept while a run is read.
pub(super) const BLOCKS_BYTES_MAX: usize = 32 << 20;

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
        /// The records of each stream among them, as far as it is known which they are; none if not.
        streams: Vec<StreamSpan>,
        /// Why, and where.
        cause: Error,
    },
}

/// One run's log.
pub struct RunLog<'a> {
    survey: &'a Survey,
    name_hash: Option<u64>,
    run_no: RunNo,
    segments: Vec<Segment>,
    frames: Vec<FrameSeen>,
    /// Frames of the journal that are damaged, and known to be of this run.
    damaged: Vec<DamagedSeen>,
    /// Why its segments cannot be known.
    broken: Option<Error>,
    blocks: Blocks,
    at: Reached,
    ready: VecDeque<Item>,
    /// Chain after the last frame given; none at the start and behind what is missing.
    chain: Option<Chain>,
    next_seq: Seq,
    /// The frame of the journal that was given last.
    last: Option<FrameSeen>,
    /// Where the log ends, if it is read further in a newer survey than the one it was opened in: as far
    /// as it went then.
    until: Option<Seq>,
}

/// A damaged frame, as it probably was.
struct DamagedSeen {
    end: JournalPoint,
    from: Seq,
    to: Seq,
    chain: Chain,
    streams: Vec<StreamSpan>,
    cause: Corruption,
}

/// What is read next.
#[derive(Clone, Copy)]
struct Reached {
    segment: usize,
    part: usize,
    frame: usize,
    damaged: usize,
}

impl Reached {
    const START: Self = Self { segment: 0, part: 0, frame: 0, damaged: 0 };
}

impl<'a> RunLog<'a> {
    /// The log of a run; without the hash of its name, what the journal has of it.
    ///
    /// # Errors
    /// [`LookError::Io`]. Damage is given with the items.
    pub fn open(
        survey: &'a Survey,
        name_hash: Option<u64>,
        run_no: RunNo,
    ) -> Result<Self, LookError> {
        let segments = match name_hash {
            Some(name_hash) => survey.shelf_with(name_hash).segments_of(name_hash, run_no),
            None => Ok(Vec::new()),
        };
        let (segments, broken) = match (segments, name_hash) {
            (Ok(segments), _) => (segments, None),
            (Err(error @ Error::Corrupt(_)), Some(name_hash)) => {
                (sound_segments(survey, name_hash, run_no)?, Some(error))
            }
            (Err(error), _) => return Err(error.into()),
        };
        let flushed = segments.last().map(|segment| segment.entry.head.flushed);
        let low = if broken.is_some() { 0 } else { survey.live.journal_low };
        let counts =
            |end: JournalPoint| low <= end.block_no && flushed.is_none_or(|flushed| flushed < end);
        let frames = survey.frames_of(run_no).iter().filter(|frame| counts(frame.end)).copied();
        let damaged = survey.damaged_frames_of(run_no).into_iter();
        let damaged = damaged.filter(|(_, damaged, _)| counts(damaged.end));
        let damaged = damaged.map(|(problem, damaged, frame)| DamagedSeen {
            end: damaged.end,
            from: frame.header.first_seq,
            to: frame.next_seq(),
            chain: frame.header.chain,
            streams: spans(frame),
            cause: Corruption {
                file: problem.file.as_str().into(),
                position: damaged.position,
                damage: problem.damage,
            },
        });
        Ok(Self {
            survey,
            name_hash,
            run_no,
            segments,
            frames: frames.collect(),
            damaged: damaged.collect(),
            broken,
            blocks: Blocks::new(BLOCKS_BYTES_MAX),
            at: Reached::START,
            ready: VecDeque::new(),
            chain: None,
            next_seq: Seq::ZERO,
            last: None,
            until: None,
        })
    }

    /// Hash of the run's name, if that is known.
    pub(super) fn name_hash(&self) -> Option<u64> {
        self.name_hash
    }

    /// The log of the same run in the directory as it is later; none if it is gone from there.
    fn newer(&self) -> Result<Option<Self>, LookError> {
        let newer = self.survey.newer()?;
        match self.name_hash {
            Some(_) => Self::open(newer, self.name_hash, self.run_no).map(Some),
            None => newer.log_of(self.run_no),
        }
    }

    /// Goes on behind a frame whose chain and next seq are these, up to another seq; to be called before
    /// anything is read.
    pub(super) fn go_on(&mut self, chain: Option<Chain>, next_seq: Seq, until: Seq) {
        // The segment that ends there may hold changes without records behind it.
        self.skip_to(Seq(next_seq.0.saturating_sub(1)));
        (self.chain, self.next_seq, self.until) = (chain, next_seq, Some(until));
    }

    /// Reads on in the directory as it is now: a frame that comes next has left the journal.
    fn move_on(&mut self) -> Result<(), LookError> {
        let end = self.frames.last().map_or(self.next_seq, FrameSeen::next_seq);
        let until = self.until.unwrap_or(end);
        match self.newer()? {
            Some(mut newer) => {
                newer.go_on(self.chain, self.next_seq, until);
                *self = newer;
            }
            // It was deleted meanwhile.
            None => (self.at.frame, self.at.damaged) = (self.frames.len(), self.damaged.len()),
        }
        Ok(())
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
                return match self.newer().map_err(LookError::into_read)? {
                    Some(newer) => newer.state(),
                    None => Err(self.corruption(seen, Damage::Missing)),
                };
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

    /// The newest state of the run that anything sound tells: at the end of its log if nothing of it is
    /// missing, else at the end of its newest segment, or before what is missing first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn last_known_state(&self) -> Result<Option<RunState>, Error> {
        match self.state() {
            Ok(state) => return Ok(Some(state)),
            Err(Error::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        let mut state = self.packed_state()?.map(|(_, state)| state);
        for seen in &self.frames {
            let frame = match self.survey.read_frame(seen) {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(Error::Corrupt(_)) => break,
                Err(error) => return Err(error),
            };
            match &mut state {
                Some(state) => {
                    if state.replay(&frame).is_err() {
                        break;
                    }
                }
                None => match RunState::begin(&frame) {
                    Ok((begun, _)) => state = Some(begun),
                    Err(_) => break,
                },
            }
        }
        Ok(state)
    }

    /// The state at the end of the newest segment of which that can be told, if only as what a single
    /// wrong byte hides; and how many segments end there or before.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn packed_state(&self) -> Result<Option<(usize, RunState)>, Error> {
        for (n, segment) in self.segments.iter().enumerate().rev() {
            let state = match read_state(segment, &self.blocks) {
                Ok(found) => Some(found),
                Err(Error::Corrupt(_)) => {
                    probable_tail(segment).and_then(|tail| state_of(tail).ok())
                }
                Err(error) => return Err(error),
            };
            if let Some(state) = state {
                return Ok(Some((n + 1, state)));
            }
        }
        Ok(None)
    }

    /// Which of the segments the frame stands in that was given last, if it stands in one.
    pub(super) fn segment(&self) -> usize {
        self.at.segment
    }

    /// The run's state at a moment; none if it did not exist yet. Begins behind the newest segment
    /// that ends before the moment, so damage before that is no matter. Leaves the log at its end.
    ///
    /// # Errors
    /// [`LookError::Damaged`] if frames that it is made of are, or are trimmed and gone;
    /// [`LookError::Io`].
    pub fn state_at(&mut self, at: At) -> Result<Option<RunState>, LookError> {
        let mut past = Past::new(at);
        (self.at, self.chain, self.next_seq) = (Reached::START, None, Seq::ZERO);
        self.ready.clear();
        for (n, segment) in self.segments.iter().enumerate().rev() {
            if matches!(at, At::Seq(seq) if seq < segment.entry.head.end_seq) {
                continue;
            }
            // What is damaged is met below, if it is needed.
            if let Ok(state) = read_state(segment, &self.blocks)
                && at.has_reached(&state)
            {
                self.at.segment = n + 1;
                (self.chain, self.next_seq) = (Some(state.chain), state.tail);
                past = Past::from(at, state);
                break;
            }
        }
        while let Some(item) = self.next_item()? {
            let (frame, place) = match item {
                Item::Frame(frame, place) => (frame, place),
                Item::Missing { from, .. } if matches!(at, At::Seq(seq) if seq <= from) => break,
                Item::Missing { cause, .. } => return Err(cause.into()),
            };
            match past.fold(&frame) {
                Ok(Fold::More) => {}
                Ok(Fold::Reached) => break,
                Err(NoPast::Trimmed { first_seq }) => {
                    return Err(LookError::Trimmed { first_seq });
                }
                Err(NoPast::Damaged(damage)) => {
                    let (file, position) = (place.file.as_str().into(), place.position);
                    return Err(Error::Corrupt(Corruption { file, position, damage }).into());
                }
            }
        }
        Ok(past.found())
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
                let from = match &item {
                    Item::Frame(frame, _) => frame.header.first_seq,
                    Item::Missing { from, .. } => *from,
                };
                let is_behind = self.until.is_some_and(|until| until <= from);
                return Ok((!is_behind).then_some(item));
            }
            if self.at.segment < self.segments.len() {
                self.read_part()?;
            } else if self.is_damaged_next() {
                self.give_damaged();
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
        let tail = match segment.tail(&self.blocks) {
            // What a single wrong byte hides still tells which frames stand where.
            Err(error @ Error::Corrupt(_)) => {
                if let Some(tail) = probable_tail(&segment) {
                    return self.read_part_of(&segment, &tail);
                }
                return self.read_remains_of(&segment, error);
            }
            other => other?,
        };
        self.read_part_of(&segment, &tail)
    }

    /// Makes ready what the next block holds of a segment whose description is lost, or what is missing
    /// at its end.
    fn read_remains_of(&mut self, segment: &Segment, cause: Error) -> Result<(), LookError> {
        let remains = self.survey.remains(&segment.pack)?;
        match remains.frames(segment, self.at.part, &self.blocks)? {
            Some((position, frames)) => {
                self.at.part += 1;
                for frame in frames {
                    let file = file_name::pack(segment.pack.number());
                    self.give(frame, Where { file, position, is_packed: true }, |_| {
                        Some(cause.clone())
                    });
                }
            }
            None => {
                // At the least its changes without records are missing: the description is.
                let from = self.next_seq.max(segment.entry.head.first_seq);
                self.miss(from, segment.entry.head.end_seq, Vec::new(), cause);
                (self.at.segment, self.at.part) = (self.at.segment + 1, 0);
            }
        }
        Ok(())
    }

    fn read_part_of(&mut self, segment: &Segment, tail: &SegmentTail) -> Result<(), LookError> {
        let Some(part) = tail.parts.get(self.at.part) else {
            // Where the last frames of a log were lost, a segment without any says how far it went.
            let end_seq = segment.entry.head.end_seq;
            if self.next_seq < end_seq {
                let (found, expected) = (end_seq.0, self.next_seq.0);
                let damage = Damage::Numbering { what: "seq", found, expected };
                self.miss(self.next_seq, end_seq, Vec::new(), segment.damaged(damage));
            }
            (self.at.segment, self.at.part) = (self.at.segment + 1, 0);
            return Ok(());
        };
        self.at.part += 1;
        let position = if part.block == 0 { segment.entry.block } else { part.block };
        match segment.read(part, &self.blocks) {
            Ok(read) => {
                for frame in read.frames {
                    let file = file_name::pack(segment.pack.number());
                    self.give(frame, Where { file, position, is_packed: true }, |_| None);
                }
            }
            Err(error @ Error::Corrupt(_)) => {
                self.miss(part.first_seq, part.end_seq(), spans_of_part(part), error);
            }
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
                self.give(frame, Where { file, position, is_packed: false }, |log| {
                    log.damage_before(seen)
                });
                self.last = Some(*seen);
                return Ok(());
            }
            Ok(None) => return self.move_on(),
            Err(error @ Error::Corrupt(_)) => (error, seen.next_seq()),
            Err(error) => return Err(error.into()),
        };
        self.miss(seen.header.first_seq, next_seq, Vec::new(), error);
        Ok(())
    }

    /// Whether a damaged frame stands before the next sound one of the journal.
    fn is_damaged_next(&self) -> bool {
        self.damaged.get(self.at.damaged).is_some_and(|damaged| {
            self.frames.get(self.at.frame).is_none_or(|frame| damaged.end < frame.end)
        })
    }

    fn give_damaged(&mut self) {
        let damaged = &self.damaged[self.at.damaged];
        self.at.damaged += 1;
        if damaged.to <= self.next_seq && damaged.from < self.next_seq {
            // A copy of what was given already.
            return;
        }
        let DamagedSeen { from, to, chain, ref streams, ref cause, .. } = *damaged;
        let (streams, cause) = (streams.clone(), Error::Corrupt(cause.clone()));
        self.miss(from, to, streams, cause);
        self.chain = Some(chain);
    }

    /// What is damaged in the journal between the frame that was given last and this one.
    fn damage_before(&self, seen: &FrameSeen) -> Option<Error> {
        let order = |file_seq, position: u64| {
            let slots = &self.survey.slots;
            let slot = slots.iter().position(|slot| slot.listed.file_seq == file_seq);
            (slot.unwrap_or(slots.len()), position)
        };
        let from = self.last.map(|last| order(last.at.file_seq, u64::from(last.at.position)));
        let to = order(seen.at.file_seq, u64::from(seen.at.position));
        let problem = self.survey.problems.iter().find(|problem| {
            let slot = self.survey.slots.iter().find(|slot| slot.path == problem.file);
            slot.is_some_and(|slot| {
                let at = order(slot.listed.file_seq, problem.position);
                from.is_none_or(|from| from < at) && at < to
            })
        })?;
        let (file, position) = (problem.file.as_str().into(), problem.position);
        Some(Error::Corrupt(Corruption { file, position, damage: problem.damage }))
    }

    /// Gives a frame, and before it what is missing between it and the one before; `why` is asked for
    /// the damage that explains that.
    fn give(&mut self, frame: Frame, at: Where, why: impl Fn(&Self) -> Option<Error>) {
        let header = &frame.header;
        let is_linked = self.chain.is_none_or(|chain| {
            // What a stub stands for began somewhere behind the frame before.
            chain.link(header.crc) == header.chain || frame.is_stub()
        });
        let is_first = self.chain.is_none() && self.next_seq == header.first_seq;
        let is_of_before = self.until.is_some() && frame.next_seq() < self.next_seq;
        if is_of_before || (frame.next_seq() <= self.next_seq && !is_linked) {
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
            let cause = why(self).unwrap_or(Error::Corrupt(Corruption {
                file,
                position: at.position,
                damage,
            }));
            let already =
                self.ready.back().is_some_and(|item| matches!(item, Item::Missing { .. }));
            if !already {
                self.miss(self.next_seq, header.first_seq, Vec::new(), cause);
            }
        }
        (self.chain, self.next_seq) = (Some(header.chain), frame.next_seq());
        self.ready.push_back(Item::Frame(frame, at));
    }

    /// Gives what is missing, with all that is missing before it.
    fn miss(&mut self, from: Seq, to: Seq, streams: Vec<StreamSpan>, cause: Error) {
        if self.next_seq < from {
            let (from, to, cause) = (self.next_seq, from, cause.clone());
            self.ready.push_back(Item::Missing { from, to, streams: Vec::new(), cause });
        }
        self.ready.push_back(Item::Missing { from, to, streams, cause });
        (self.chain, self.next_seq) = (None, to);
    }
}

/// What stands behind a segment's frames in a block of which a single byte is wrong.
fn probable_tail(segment: &Segment) -> Option<SegmentTail> {
    let raw = segment.pack.mended_block(segment.entry.block, segment.entry.block_len)?;
    segment.tail_in(&raw).ok()
}

/// The records of a frame by stream.
fn spans(frame: &Frame) -> Vec<StreamSpan> {
    let mut spans: Vec<StreamSpan> = Vec::new();
    for record in wire::skim_all(frame.records_slice()).map_while(Result::ok) {
        match spans.iter_mut().find(|span| span.stream == record.stream) {
            Some(span) => span.count += 1,
            None => spans.push(StreamSpan {
                stream: record.stream,
                first_index: record.index,
                count: 1,
            }),
        }
    }
    spans
}

fn spans_of_part(part: &Part) -> Vec<StreamSpan> {
    let span = |found: &PartStream| StreamSpan {
        stream: found.stream,
        first_index: found.first_index,
        count: found.count,
    };
    part.streams.iter().map(span).collect()
}

/// The segments of a run that are known, where some packs cannot be opened or have lost their
/// directories.
fn sound_segments(
    survey: &Survey,
    name_hash: u64,
    run_no: RunNo,
) -> Result<Vec<Segment>, LookError> {
    let mut segments = Vec::new();
    for pack in survey.shelf_with(name_hash).packs() {
        let entries = survey.entries_of(pack, name_hash)?;
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
