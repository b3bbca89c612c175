//! What readers may know of a run: its durable frames, and nothing that is not on disk yet.
//!
//! A frame enters when the commit that holds it is synced. Its place is known here until it has
//! been copied into a segment and its bytes have left the ring; everything before the first frame
//! that is known here is answered from segments.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use tokio::sync::watch;

use super::request::{RunTail, StreamInfo};
use crate::{
    core::{Facts, Refusal, RunState},
    format::{
        cursor::Cursor,
        frame::{Chain, Frame},
        segment::JournalPoint,
    },
    journal::FrameAt,
    proto::{Outcome, RunStatus, StreamKind},
    record::{Index, RunUid, Seq, StreamNo},
};

/// A durable frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameEntry {
    pub(super) first_seq: Seq,
    pub(super) at: FrameAt,
    /// The place in the journal behind it.
    pub(super) end: JournalPoint,
    pub(super) chain: Chain,
    pub(super) count: u32,
    pub(super) time_ms: u64,
    /// The stream of all its records, if they have one in common.
    pub(super) only: Option<StreamNo>,
}

impl FrameEntry {
    pub(super) fn next_seq(&self) -> Seq {
        self.first_seq + u64::from(self.count)
    }
}

/// A stream, as of the durable tail.
#[derive(Debug)]
pub(super) struct PublishedStream {
    pub(super) name: Arc<str>,
    pub(super) kind: StreamKind,
    pub(super) trim: Index,
    pub(super) tail: Index,
    closed: bool,
    /// Where its records are: first index in a frame, and the frame's number in the run.
    spans: VecDeque<(Index, u64)>,
}

/// The durable log of a run.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) run_uid: RunUid,
    /// Exclusive end of what is visible.
    pub(super) durable: Seq,
    pub(super) outcome: Option<Outcome>,
    /// Where the run stands.
    pub(super) status: RunStatus,
    /// Journal block of the newest frame.
    pub(super) changed_block: u64,
    deleted: bool,
    pub(super) streams: Vec<PublishedStream>,
    last_time_ms: u64,
    /// The frames known here, and the number of the first of them in the run.
    frames: VecDeque<FrameEntry>,
    first: u64,
    /// Chain of the last frame with records before them.
    chain_before: Chain,
    /// Frames below this number are in segments.
    flushed: u64,
    /// The last frames of `frames`, in memory.
    recent: VecDeque<Frame>,
    /// Wakes the readers that wait at the tail; made when the first one comes.
    wake: Option<watch::Sender<()>>,
}

/// A frame that becomes visible.
pub(super) struct NewFrame<'a> {
    pub(super) at: FrameAt,
    pub(super) end: JournalPoint,
    pub(super) first_seq: Seq,
    pub(super) count: u32,
    pub(super) chain: Chain,
    pub(super) time_ms: u64,
    pub(super) facts: &'a Facts,
}

/// Which frames a reader has to look at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// All of the run.
    All,
    /// Those with records of any of these streams.
    Streams(&'a [StreamNo]),
}

/// The answer is in segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Earlier;

impl Published {
    /// The log of a run about to be created.
    pub(super) fn new(run_uid: RunUid) -> Self {
        let run = PublishedStream::new(crate::record::RUN_STREAM_NAME.into(), StreamKind::Run);
        Self {
            run_uid,
            durable: Seq::ZERO,
            outcome: None,
            status: RunStatus::Executing,
            changed_block: 0,
            deleted: false,
            streams: vec![run],
            last_time_ms: 0,
            frames: VecDeque::new(),
            first: 0,
            chain_before: Chain::start(run_uid),
            flushed: 0,
            recent: VecDeque::new(),
            wake: None,
        }
    }

    /// The log of a run all of whose frames are in segments; the newest is of this journal block.
    pub(super) fn at_rest(state: &RunState, changed_block: u64) -> Self {
        let stream = |stream: &crate::core::StreamState| PublishedStream {
            trim: stream.trim,
            tail: stream.tail,
            closed: stream.closed,
            ..PublishedStream::new(stream.name.clone(), stream.kind)
        };
        Self {
            durable: state.tail,
            outcome: state.ending.as_ref().map(|ending| ending.outcome),
            status: state.status(),
            changed_block,
            deleted: state.deleted_ms.is_some(),
            streams: state.streams.iter().map(stream).collect(),
            last_time_ms: state.updated_ms,
            first: state.frames,
            chain_before: state.records_chain,
            flushed: state.frames,
            ..Self::new(state.run_uid)
        }
    }

    /// Whether the run's creation is durable.
    pub(super) fn exists(&self) -> bool {
        Seq::ZERO < self.durable
    }

    /// Refuses readers of a run that is deleted.
    pub(super) fn check_there(&self) -> Result<(), Refusal> {
        if self.deleted { Err(Refusal::RunDeleted) } else { Ok(()) }
    }

    /// Refuses readers of a run that is deleted, or of another one than they want.
    pub(super) fn check_run(&self, run_uid: Option<RunUid>) -> Result<(), Refusal> {
        self.check_there()?;
        match run_uid {
            Some(wanted) if wanted != self.run_uid => {
                Err(Refusal::RunReplaced { run_uid: self.run_uid })
            }
            _ => Ok(()),
        }
    }

    /// Makes a frame visible.
    pub(super) fn publish(&mut self, new: &NewFrame<'_>) {
        assert_eq!(new.first_seq, self.durable, "frames become durable in run order");
        for (name, kind) in &new.facts.opened {
            self.streams.push(PublishedStream::new(name.clone(), *kind));
        }
        let number = self.next_number();
        let spans = &new.facts.spans;
        for span in spans {
            let stream = &mut self.streams[span.stream.0 as usize];
            stream.spans.push_back((span.first_index, number));
            stream.tail = span.first_index + u64::from(span.count);
        }
        self.frames.push_back(FrameEntry {
            first_seq: new.first_seq,
            at: new.at,
            end: new.end,
            chain: new.chain,
            count: new.count,
            time_ms: new.time_ms,
            only: (spans.len() == 1).then(|| spans[0].stream),
        });
        self.changed_block = new.end.block_no;
        self.durable = new.first_seq + u64::from(new.count);
        if 0 < new.count {
            self.last_time_ms = new.time_ms;
        }
        for &(stream, trim) in &new.facts.trimmed {
            let stream = &mut self.streams[stream.0 as usize];
            stream.trim = stream.trim.max(trim);
        }
        for stream in &new.facts.closed {
            self.streams[stream.0 as usize].closed = true;
        }
        self.outcome = self.outcome.or(new.facts.outcome);
        self.status = new.facts.status.unwrap_or(self.status);
        self.deleted |= new.facts.deleted;
    }

    /// Number that the next frame gets: frames of the run that are durable.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// Keeps the bytes of the frame just published.
    pub(super) fn remember(&mut self, frame: Frame) {
        self.recent.push_back(frame);
    }

    /// Gives up the bytes of the oldest frame in memory, if it has this number; returns how many.
    pub(super) fn forget(&mut self, number: u64) -> usize {
        if number != self.next_number() - self.recent.len() as u64 {
            return 0;
        }
        let bytes = self.recent.pop_front().map_or(0, |frame| frame.bytes().len());
        self.forget_flushed();
        bytes
    }

    /// Bytes of frames in memory.
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent.iter().map(|frame| frame.bytes().len()).sum()
    }

    /// Notes that frames below a number are in segments now.
    pub(super) fn flushed_to(&mut self, number: u64) {
        assert!(self.flushed <= number && number <= self.next_number(), "flushed in run order");
        self.flushed = number;
        self.forget_flushed();
    }

    /// Forgets the places of frames that are in segments and not in memory.
    fn forget_flushed(&mut self) {
        let kept = self.flushed.min(self.next_number() - self.recent.len() as u64);
        while self.first < kept
            && let Some(frame) = self.frames.pop_front()
        {
            self.first += 1;
            if 0 < frame.count {
                self.chain_before = frame.chain;
            }
        }
        for stream in &mut self.streams {
            while stream.spans.front().is_some_and(|span| span.1 < self.first) {
                stream.spans.pop_front();
            }
        }
    }

    /// Whether every durable frame is in a segment.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushed == self.next_number()
    }

    /// The oldest frame that is in no segment yet.
    pub(super) fn oldest_unflushed(&self) -> Option<&FrameEntry> {
        self.frames.get((self.flushed - self.first) as usize)
    }

    /// Frames of these numbers until they are `bytes_max` bytes: places, and bytes of those in
    /// memory.
    pub(super) fn unflushed(
        &self,
        numbers: Range<u64>,
        bytes_max: u64,
    ) -> Vec<(FrameEntry, Option<Frame>)> {
        let mut bytes = 0;
        let frames = numbers.map(|number| (*self.entry(number), self.recent(number).cloned()));
        let mut is_before_end = |(entry, _): &(FrameEntry, Option<Frame>)| {
            let is_before = bytes < bytes_max;
            bytes += u64::from(entry.at.len);
            is_before
        };
        frames.take_while(|frame| is_before_end(frame)).collect()
    }

    /// Chain of the last frame with records before the first that is in no segment yet.
    pub(super) fn chain_before_unflushed(&self) -> Chain {
        let flushed = self.frames.range(..(self.flushed - self.first) as usize);
        flushed.rev().find(|frame| 0 < frame.count).map_or(self.chain_before, |frame| frame.chain)
    }

    /// Number of the first frame that is in no segment yet.
    pub(super) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Number of frames whose places are known.
    pub(super) fn frames_known(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of the frames in no segment, and `each` for every one of them.
    pub(super) fn unflushed_bytes(&self, each: u64) -> u64 {
        let unflushed = self.frames.range((self.flushed - self.first) as usize..);
        unflushed.map(|frame| u64::from(frame.at.len) + each).sum()
    }

    /// Whether anybody may be waiting for what comes next.
    pub(super) fn is_followed(&self) -> bool {
        self.wake.as_ref().is_some_and(|wake| 0 < wake.receiver_count())
    }

    /// What wakes all readers at the tail, if there may be any.
    pub(super) fn followers(&self) -> Option<watch::Sender<()>> {
        self.wake.as_ref().filter(|wake| 0 < wake.receiver_count()).cloned()
    }

    /// Wakes all readers at the tail.
    pub(super) fn wake_readers(&self) {
        if let Some(wake) = &self.wake {
            wake.send_replace(());
        }
    }

    /// A receiver that changes whenever something becomes visible.
    pub(super) fn subscribe(&mut self) -> watch::Receiver<()> {
        self.wake.get_or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// First seq that is answered from here.
    pub(super) fn first_seq(&self) -> Seq {
        self.frames.front().map_or(self.durable, |frame| frame.first_seq)
    }

    /// Chain of the frame that holds record `seq`-1, which is not beyond the durable tail.
    pub(super) fn chain_at(&self, seq: Seq) -> Result<Chain, Earlier> {
        if seq == Seq::ZERO {
            return Ok(Chain::start(self.run_uid));
        }
        if seq < self.first_seq() {
            return Err(Earlier);
        }
        // Of frames that begin at one seq the last has the records, if any of them has.
        let before = self.frames.partition_point(|frame| frame.first_seq < seq);
        let holds = self.frames.range(..before).rev().find(|frame| 0 < frame.count);
        Ok(holds.map_or(self.chain_before, |frame| frame.chain))
    }

    /// The stream with this name.
    pub(super) fn stream_no(&self, name: &str) -> Option<StreamNo> {
        let at = self.streams.iter().position(|stream| &*stream.name == name)?;
        Some(StreamNo(at as u32))
    }

    /// Whether nothing will ever follow in this stream.
    pub(super) fn is_ended(&self, stream: StreamNo) -> bool {
        self.outcome.is_some() || self.streams[stream.0 as usize].closed
    }

    /// Describes a stream.
    pub(super) fn info(&self, stream: StreamNo) -> StreamInfo {
        let known = &self.streams[stream.0 as usize];
        StreamInfo {
            stream,
            name: known.name.clone(),
            kind: known.kind,
            trim: known.trim,
            tail: known.tail,
            closed: self.is_ended(stream),
        }
    }

    /// Describes all streams.
    pub(super) fn infos(&self) -> Vec<StreamInfo> {
        (0..self.streams.len() as u32).map(|stream| self.info(StreamNo(stream))).collect()
    }

    /// A cursor at the durable tail.
    pub(super) fn tail_cursor(&self, stream: Option<StreamNo>) -> Cursor {
        let chain = self.frames.iter().rev().find(|frame| 0 < frame.count);
        Cursor {
            run_uid: self.run_uid,
            seq: self.durable,
            chain: chain.map_or(self.chain_before, |frame| frame.chain),
            stream: stream.map(|stream| (stream, self.streams[stream.0 as usize].tail)),
        }
    }

    /// Where the run ends.
    pub(super) fn run_tail(&self, stream: Option<StreamNo>) -> RunTail {
        RunTail {
            run_uid: self.run_uid,
            tail: self.durable,
            last_time_ms: self.last_time_ms,
            outcome: self.outcome,
            cursor: self.tail_cursor(stream),
            stream: stream.map(|stream| self.info(stream)),
        }
    }

    /// First index of a stream at or after `seq`, exact if a frame begins at `seq` or its records
    /// are all of this stream; otherwise that of the frame's first record of the stream.
    pub(super) fn index_at(&self, stream: StreamNo, seq: Seq) -> Result<Index, Earlier> {
        if seq == Seq::ZERO {
            return Ok(Index::ZERO);
        }
        if seq < self.first_seq() {
            return Err(Earlier);
        }
        let stream = &self.streams[stream.0 as usize];
        let ends_before = |&(_, number): &(Index, u64)| self.entry(number).next_seq() <= seq;
        let Some(&(first, number)) = stream.spans.get(stream.spans.partition_point(ends_before))
        else {
            return Ok(stream.tail);
        };
        let frame = self.entry(number);
        Ok(match frame.only {
            Some(_) => first + seq.0.saturating_sub(frame.first_seq.0),
            None => first,
        })
    }

    /// A seq from which a reader of `stream` meets record `index` before any later one of the
    /// stream: that of the record itself, or of the frame that holds it among records of other
    /// streams. The tail if it has not been written.
    pub(super) fn seq_of(&self, stream: StreamNo, index: Index) -> Result<Seq, Earlier> {
        let known = &self.streams[stream.0 as usize];
        if known.tail <= index {
            return Ok(self.durable);
        }
        if index == Index::ZERO {
            return Ok(Seq::ZERO);
        }
        let at = known.spans.partition_point(|&(first, _)| first <= index);
        let at = at.checked_sub(1).ok_or(Earlier)?;
        let (first, number) = known.spans[at];
        let frame = self.entry(number);
        Ok(match frame.only {
            Some(_) => frame.first_seq + (index.0 - first.0),
            None => frame.first_seq,
        })
    }

    /// The frames a reader has to look at from `seq` on and below `until`, oldest first, by number.
    /// `seq` is not below [`first_seq`](Self::first_seq).
    pub(super) fn frames_from(
        &self,
        wanted: Wanted<'_>,
        seq: Seq,
        until: Seq,
    ) -> impl Iterator<Item = u64> {
        let range = self.numbers(seq, until);
        let mut all = matches!(wanted, Wanted::All).then(|| range.clone());
        let mut heads = match wanted {
            Wanted::All => Vec::new(),
            Wanted::Streams(streams) => self.heads(streams, range.start),
        };
        std::iter::from_fn(move || match &mut all {
            Some(all) => all.find(|&number| 0 < self.entry(number).count),
            None => {
                let next = heads.iter_mut().filter_map(|head| head.peek()).map(|span| span.1);
                let next = next.min()?;
                for head in &mut heads {
                    head.next_if(|span| span.1 == next);
                }
                (next < range.end).then_some(next)
            }
        })
    }

    /// The rest of each stream's spans, from frame `start` on.
    fn heads(
        &self,
        streams: &[StreamNo],
        start: u64,
    ) -> Vec<std::iter::Peekable<impl Iterator<Item = &(Index, u64)>>> {
        let rest = |stream: &StreamNo| {
            let spans = &self.streams[stream.0 as usize].spans;
            spans.range(point_from_end(spans, |&(_, number)| number < start)..).peekable()
        };
        streams.iter().map(rest).collect()
    }

    fn numbers(&self, seq: Seq, until: Seq) -> Range<u64> {
        let start = point_from_end(&self.frames, |frame| frame.next_seq() <= seq) as u64;
        let end = point_from_end(&self.frames, |frame| frame.first_seq < until) as u64;
        self.first + start..self.first + end.max(start)
    }

    /// What is known of a frame.
    pub(super) fn entry(&self, number: u64) -> &FrameEntry {
        &self.frames[(number - self.first) as usize]
    }

    /// The frame itself, if it is in memory.
    pub(super) fn recent(&self, number: u64) -> Option<&Frame> {
        let first_recent = self.next_number() - self.recent.len() as u64;
        number.checked_sub(first_recent).map(|at| &self.recent[at as usize])
    }
}

/// What `partition_point` gives, with few looks if that is near the end: there most readers are, and
/// of thousands of runs each look is one into memory that no cache has.
fn point_from_end<T>(items: &VecDeque<T>, is_before: impl Fn(&T) -> bool) -> usize {
    let (mut low, mut high, mut step) = (0, items.len(), 1);
    while low < high {
        let at = high.saturating_sub(step).max(low);
        if is_before(&items[at]) {
            low = at + 1;
            break;
        }
        (high, step) = (at, 2 * step);
    }
    while low < high {
        let at = low + (high - low) / 2;
        match is_before(&items[at]) {
            true => low = at + 1,
            false => high = at,
        }
    }
    low
}

impl PublishedStream {
    fn new(name: Arc<str>, kind: StreamKind) -> Self {
        let (trim, tail) = (Index::ZERO, Index::ZERO);
        Self { name, kind, trim, tail, closed: false, spans: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_found_from_the_end_as_from_anywhere() {
        for len in 0..70_usize {
            let items: VecDeque<_> = (0..len).collect();
            for point in 0..=len {
                let looks = std::cell::Cell::new(0);
                let is_before = |&item: &usize| {
                    looks.set(looks.get() + 1);
                    item < point
                };
                assert_eq!(point_from_end(&items, is_before), point);
                let behind = len - point;
                let most = 2 * (usize::BITS - behind.leading_zeros()) + 2;
                assert!(looks.get() <= most, "{} looks, {behind} behind", looks.get());
            }
        }
    }
}
