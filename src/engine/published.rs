//! What readers may know of a run: its durable frames, and nothing that is not on disk yet.
//!
//! A frame enters when the commit that holds it is synced. From then on its records are found by
//! seq, by stream and index, and its bytes are either in the ring of recent frames or read from
//! the journal.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use tokio::sync::watch;

use super::request::{RunTail, StreamInfo};
use crate::{
    core::Facts,
    format::{
        cursor::Cursor,
        frame::{Chain, Frame},
    },
    journal::FrameAt,
    proto::{Outcome, StreamKind},
    record::{Index, RunUid, Seq, StreamNo},
};

/// A durable frame with at least one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameEntry {
    pub(super) first_seq: Seq,
    pub(super) at: FrameAt,
    pub(super) chain: Chain,
    pub(super) count: u32,
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
    /// Where its records are: first index in a frame, and the frame's place in `frames`.
    spans: Vec<(Index, u32)>,
}

/// The durable log of a run.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) run_uid: RunUid,
    /// Exclusive end of what is visible.
    pub(super) durable: Seq,
    pub(super) outcome: Option<Outcome>,
    pub(super) streams: Vec<PublishedStream>,
    last_time_ms: u64,
    frames: Vec<FrameEntry>,
    /// The last frames of `frames`, in memory.
    recent: VecDeque<Frame>,
    /// Wakes the readers that wait at the tail; made when the first one comes.
    wake: Option<watch::Sender<()>>,
}

/// A frame that becomes visible.
pub(super) struct NewFrame<'a> {
    pub(super) at: FrameAt,
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

impl Published {
    pub(super) fn new(run_uid: RunUid) -> Self {
        let run = PublishedStream::new(crate::record::RUN_STREAM_NAME.into(), StreamKind::Run);
        Self {
            run_uid,
            durable: Seq::ZERO,
            outcome: None,
            streams: vec![run],
            last_time_ms: 0,
            frames: Vec::new(),
            recent: VecDeque::new(),
            wake: None,
        }
    }

    /// Whether the run's creation is durable.
    pub(super) fn exists(&self) -> bool {
        Seq::ZERO < self.durable
    }

    /// Makes a frame visible.
    pub(super) fn publish(&mut self, new: &NewFrame<'_>) {
        assert_eq!(new.first_seq, self.durable, "frames become durable in run order");
        for (name, kind) in &new.facts.opened {
            self.streams.push(PublishedStream::new(name.clone(), *kind));
        }
        if 0 < new.count {
            self.add_records(new);
        }
        for &(stream, trim) in &new.facts.trimmed {
            let stream = &mut self.streams[stream.0 as usize];
            stream.trim = stream.trim.max(trim);
        }
        for stream in &new.facts.closed {
            self.streams[stream.0 as usize].closed = true;
        }
        self.outcome = self.outcome.or(new.facts.outcome);
    }

    fn add_records(&mut self, new: &NewFrame<'_>) {
        let ordinal = self.frames.len() as u32;
        let spans = &new.facts.spans;
        for span in spans {
            let stream = &mut self.streams[span.stream.0 as usize];
            stream.spans.push((span.first_index, ordinal));
            stream.tail = span.first_index + u64::from(span.count);
        }
        self.frames.push(FrameEntry {
            first_seq: new.first_seq,
            at: new.at,
            chain: new.chain,
            count: new.count,
            only: (spans.len() == 1).then(|| spans[0].stream),
        });
        self.durable = new.first_seq + u64::from(new.count);
        self.last_time_ms = new.time_ms;
    }

    /// Keeps the bytes of the frame just published, if it has records.
    pub(super) fn remember(&mut self, frame: Frame) {
        self.recent.push_back(frame);
    }

    /// Gives up the bytes of the oldest frame in memory.
    pub(super) fn forget_oldest(&mut self) {
        self.recent.pop_front();
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

    /// Chain of the frame that holds record `seq`-1; none if `seq` is beyond the durable tail.
    pub(super) fn chain_at(&self, seq: Seq) -> Option<Chain> {
        if self.durable < seq {
            return None;
        }
        match self.frames.partition_point(|frame| frame.first_seq < seq) {
            0 => Some(Chain::start(self.run_uid)),
            n => Some(self.frames[n - 1].chain),
        }
    }

    /// A cursor at `seq`, which is not beyond the durable tail.
    pub(super) fn cursor(&self, seq: Seq, stream: Option<StreamNo>) -> Cursor {
        let chain = self.chain_at(seq).expect("readers never pass the durable tail");
        let stream = stream.map(|stream| (stream, self.index_at(stream, seq)));
        Cursor { run_uid: self.run_uid, seq, chain, stream }
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

    /// Where the run ends.
    pub(super) fn run_tail(&self, stream: Option<StreamNo>) -> RunTail {
        RunTail {
            run_uid: self.run_uid,
            tail: self.durable,
            last_time_ms: self.last_time_ms,
            outcome: self.outcome,
            cursor: self.cursor(self.durable, stream),
            stream: stream.map(|stream| self.info(stream)),
        }
    }

    /// First index of a stream at or after `seq`, exact if a frame begins at `seq` or its records
    /// are all of this stream; otherwise that of the frame's first record of the stream.
    pub(super) fn index_at(&self, stream: StreamNo, seq: Seq) -> Index {
        let stream = &self.streams[stream.0 as usize];
        let holds_later =
            |&(_, ordinal): &(Index, u32)| self.frames[ordinal as usize].next_seq() <= seq;
        let Some(&(first, ordinal)) = stream.spans.get(stream.spans.partition_point(holds_later))
        else {
            return stream.tail;
        };
        let frame = &self.frames[ordinal as usize];
        match frame.only {
            Some(_) => first + seq.0.saturating_sub(frame.first_seq.0),
            None => first,
        }
    }

    /// A seq from which a reader of `stream` meets record `index` before any later one of the
    /// stream: that of the record itself, or of the frame that holds it among records of other
    /// streams. The tail if it has not been written.
    pub(super) fn seq_of(&self, stream: StreamNo, index: Index) -> Seq {
        let known = &self.streams[stream.0 as usize];
        if known.tail <= index {
            return self.durable;
        }
        let at = known.spans.partition_point(|&(first, _)| first <= index);
        let Some(&(first, ordinal)) = at.checked_sub(1).and_then(|at| known.spans.get(at)) else {
            return Seq::ZERO;
        };
        let frame = &self.frames[ordinal as usize];
        match frame.only {
            Some(_) => frame.first_seq + (index.0 - first.0),
            None => frame.first_seq,
        }
    }

    /// The frames a reader has to look at from `seq` on and below `until`, oldest first.
    pub(super) fn frames_from(
        &self,
        wanted: Wanted<'_>,
        seq: Seq,
        until: Seq,
    ) -> impl Iterator<Item = u32> {
        let range = self.ordinals(seq, until);
        let mut all = matches!(wanted, Wanted::All).then(|| range.clone());
        let mut heads = match wanted {
            Wanted::All => Vec::new(),
            Wanted::Streams(streams) => self.heads(streams, range.start),
        };
        std::iter::from_fn(move || match &mut all {
            Some(all) => all.next(),
            None => {
                let next = heads.iter().filter_map(|head| head.first()).map(|span| span.1).min()?;
                for head in &mut heads {
                    if head.first().is_some_and(|span| span.1 == next) {
                        *head = &head[1..];
                    }
                }
                (next < range.end).then_some(next)
            }
        })
    }

    /// The rest of each stream's spans, from frame `start` on.
    fn heads(&self, streams: &[StreamNo], start: u32) -> Vec<&[(Index, u32)]> {
        let rest = |stream: &StreamNo| {
            let spans = &self.streams[stream.0 as usize].spans;
            &spans[spans.partition_point(|&(_, ordinal)| ordinal < start)..]
        };
        streams.iter().map(rest).collect()
    }

    fn ordinals(&self, seq: Seq, until: Seq) -> Range<u32> {
        let start = self.frames.partition_point(|frame| frame.next_seq() <= seq);
        let end = self.frames.partition_point(|frame| frame.first_seq < until);
        start as u32..(end as u32).max(start as u32)
    }

    /// What is known of a frame.
    pub(super) fn entry(&self, ordinal: u32) -> &FrameEntry {
        &self.frames[ordinal as usize]
    }

    /// The frame itself, if it is in memory.
    pub(super) fn recent(&self, ordinal: u32) -> Option<&Frame> {
        let first_recent = self.frames.len() - self.recent.len();
        (ordinal as usize).checked_sub(first_recent).map(|at| &self.recent[at])
    }
}

impl PublishedStream {
    fn new(name: Arc<str>, kind: StreamKind) -> Self {
        let (trim, tail) = (Index::ZERO, Index::ZERO);
        Self { name, kind, trim, tail, closed: false, spans: Vec::new() }
    }
}
