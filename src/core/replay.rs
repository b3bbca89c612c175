//! Folding frames into a run's state: the only way a state changes.
//!
//! A frame is checked against the state before any of it is folded in: its chain must link, its
//! numbers must continue. A frame that does not fit leaves the state as it was and is reported as
//! damage, since every frame that was ever acknowledged fits.

use std::sync::Arc;

use prost::Message;

use super::{
    Decision, Retention, UnknownAtLimit,
    state::{Appended, Ending, ProducerState, Remembered, RunState, StreamState},
};
use crate::{
    format::{
        Damage,
        frame::{Chain, FLAG_CLOSES, FLAG_FIRST, FLAG_STUB, Frame},
        wire,
    },
    proto::{
        self, Event, Outcome, RunClosed, StreamKind, event,
        storage::v1::{Effects, ProducerAdvanced},
    },
    record::{Index, RunUid, Seq, StreamNo},
};

/// What a frame changes for readers of its run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The streams its records belong to, each once, in order of their first record.
    pub spans: Vec<StreamSpan>,
    /// Streams it opens, numbered on from those there were.
    pub opened: Vec<(Arc<str>, StreamKind)>,
    /// Streams it trims, and their first index that is kept.
    pub trimmed: Vec<(StreamNo, Index)>,
    /// Streams it closes by themselves.
    pub closed: Vec<StreamNo>,
    /// How it ends the run, if it does.
    pub outcome: Option<Outcome>,
    /// Whether it deletes the run.
    pub deleted: bool,
}

/// The records of one stream in a frame: dense in index, not necessarily side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSpan {
    /// The stream.
    pub stream: StreamNo,
    /// Index of its first record in the frame.
    pub first_index: Index,
    /// Number of its records in the frame.
    pub count: u32,
}

/// A frame, decoded and checked against the state it is about to be folded into.
struct Checked {
    effects: Effects,
    events: Vec<(Seq, event::Event)>,
    facts: Facts,
}

impl RunState {
    /// The state after a run's first frame.
    ///
    /// # Errors
    /// What does not hold; every frame that was acknowledged does.
    pub fn begin(frame: &Frame) -> Result<(Self, Facts), Damage> {
        let damage = Damage::Message { what: "first frame of a run" };
        if frame.header.flags & FLAG_FIRST == 0 {
            return Err(Damage::Chain);
        }
        let first = wire::skim(frame.records_slice())?;
        let created = match decode_event(frame, first.event.ok_or(damage)?)? {
            event::Event::RunCreated(created) => created,
            _ => return Err(damage),
        };
        let run_uid = RunUid::from_slice(&created.run_uid).ok_or(damage)?;
        let chain = Chain::start(run_uid);
        let mut state = Self {
            namespace: created.namespace.into(),
            run_id: created.run_id.into(),
            run_uid,
            run_no: frame.header.run_no,
            task: created.task.into(),
            tags: created.tags.into_iter().map(Arc::from).collect(),
            batch: created.batch_id.into(),
            retention: created.retention.map(decode_retention).transpose()?,
            created_ms: frame.header.time_ms,
            updated_ms: frame.header.time_ms,
            tail: Seq::ZERO,
            chain,
            records_chain: chain,
            streams: vec![StreamState::run()],
            producers: Vec::new(),
            frames: 0,
            bytes: 0,
            ending: None,
            deleted_ms: None,
        };
        let facts = state.replay(frame)?;
        Ok((state, facts))
    }

    /// Folds a frame in.
    ///
    /// # Errors
    /// What does not hold; the state is then unchanged.
    pub fn replay(&mut self, frame: &Frame) -> Result<Facts, Damage> {
        let Checked { effects, events, facts } = self.check(frame)?;
        self.fold(frame, effects.producer, events, &facts);
        Ok(facts)
    }

    /// Folds a frame in that was just made for this state.
    pub(super) fn accepted<R>(&mut self, frame: Frame, answer: R) -> Decision<R> {
        let facts = self.replay(&frame).expect("a frame just built replays");
        Decision::Accepted { frame, facts, answer }
    }

    fn check(&self, frame: &Frame) -> Result<Checked, Damage> {
        let header = &frame.header;
        if self.deleted_ms.is_some() {
            return Err(Damage::Message { what: "frame of a deleted run" });
        }
        if header.run_no != self.run_no || self.chain.link(header.crc) != header.chain {
            return Err(Damage::Chain);
        }
        expect_number("seq", header.first_seq.0, self.tail.0)?;
        if (header.flags & FLAG_FIRST != 0) != (self.tail == Seq::ZERO) {
            return Err(Damage::Message { what: "first frame of a run" });
        }
        if header.flags & FLAG_STUB != 0 {
            return Err(Damage::Unknown { what: "stub in the journal", found: 0 });
        }
        let effects = frame.effects()?;
        self.check_effects(&effects)?;
        check_deletion(header.count, &effects)?;
        let (mut facts, events) = self.check_records(frame, effects.streams_opened.len())?;
        facts.opened =
            effects.streams_opened.iter().map(|s| (s.name.as_str().into(), s.kind())).collect();
        facts.trimmed =
            effects.streams_trimmed.iter().map(|t| (StreamNo(t.stream), Index(t.trim))).collect();
        for (_, event) in &events {
            match event {
                event::Event::RunCreated(_) => {}
                event::Event::StreamClosed(closed) => facts.closed.push(StreamNo(closed.stream)),
                event::Event::RunClosed(closed) => facts.outcome = Some(closed.outcome()),
            }
        }
        facts.deleted = effects.deleted;
        self.check_ends(&facts)?;
        Ok(Checked { effects, events, facts })
    }

    /// What is closed or trimmed exists and reaches so far; nothing but events follows the end.
    fn check_ends(&self, facts: &Facts) -> Result<(), Damage> {
        let known = self.streams.len() + facts.opened.len();
        facts.closed.iter().try_for_each(|stream| expect_stream(stream.0, known))?;
        for &(stream, trim) in &facts.trimmed {
            let tail = self.stream(stream).tail;
            if tail < trim {
                let (found, expected) = (trim.0, tail.0);
                return Err(Damage::Numbering { what: "trim", found, expected });
            }
        }
        let only_events = facts.spans.iter().all(|span| span.stream == StreamNo::RUN);
        let is_second_end = self.ending.is_some() && (facts.outcome.is_some() || !only_events);
        if is_second_end || facts.outcome == Some(Outcome::Unspecified) {
            return Err(Damage::Message { what: "closing frame" });
        }
        Ok(())
    }

    fn check_effects(&self, effects: &Effects) -> Result<(), Damage> {
        for (n, opened) in effects.streams_opened.iter().enumerate() {
            let expected = self.streams.len() + n;
            expect_number("stream", u64::from(opened.stream), expected as u64)?;
        }
        if let Some(producer) = &effects.producer {
            self.check_producer(producer)?;
        }
        let known = self.streams.len();
        effects.streams_trimmed.iter().try_for_each(|trimmed| expect_stream(trimmed.stream, known))
    }

    /// Numbers continue in an epoch, and start at 0 in a new and higher one.
    fn check_producer(&self, producer: &ProducerAdvanced) -> Result<(), Damage> {
        let Some(known) = self.producers.get(producer.r#ref as usize) else {
            let known = self.producers.len() as u64;
            expect_number("producer", u64::from(producer.r#ref), known)?;
            return expect_number("producer seq", producer.seq, 0);
        };
        if producer.epoch < known.epoch {
            let (found, expected) = (producer.epoch, known.epoch);
            return Err(Damage::Numbering { what: "producer epoch", found, expected });
        }
        let is_same_epoch = producer.epoch == known.epoch;
        expect_number("producer seq", producer.seq, if is_same_epoch { known.next_seq } else { 0 })
    }

    /// Walks the records: seqs dense in the run, indices dense in each stream.
    fn check_records(
        &self,
        frame: &Frame,
        opened: usize,
    ) -> Result<(Facts, Vec<(Seq, event::Event)>), Damage> {
        let mut facts = Facts::default();
        let mut events = Vec::new();
        let mut seq = self.tail;
        for found in wire::skim_all(frame.records_slice()) {
            let found = found?;
            expect_number("seq", found.seq.0, seq.0)?;
            let expected = self.next_index(&mut facts, found.stream, opened)?;
            expect_number("index", found.index.0, expected.0)?;
            if let Some(event) = found.event {
                let event = decode_event(frame, event)?;
                if matches!(event, event::Event::RunCreated(_)) && seq != Seq::ZERO {
                    return Err(Damage::Message { what: "creation of a run" });
                }
                events.push((seq, event));
            }
            seq = seq + 1;
        }
        expect_number("count", seq.0 - self.tail.0, u64::from(frame.header.count))?;
        let closes = events.iter().any(|(_, event)| matches!(event, event::Event::RunClosed(_)));
        if closes != (frame.header.flags & FLAG_CLOSES != 0) {
            return Err(Damage::Message { what: "closing frame" });
        }
        Ok((facts, events))
    }

    /// The index the next record of a stream must have, counted into `facts`.
    fn next_index(
        &self,
        facts: &mut Facts,
        stream: StreamNo,
        opened: usize,
    ) -> Result<Index, Damage> {
        if let Some(span) = facts.spans.iter_mut().find(|span| span.stream == stream) {
            span.count += 1;
            return Ok(span.first_index + u64::from(span.count - 1));
        }
        expect_stream(stream.0, self.streams.len() + opened)?;
        let first_index =
            self.streams.get(stream.0 as usize).map_or(Index::ZERO, |stream| stream.tail);
        facts.spans.push(StreamSpan { stream, first_index, count: 1 });
        Ok(first_index)
    }

    fn fold(
        &mut self,
        frame: &Frame,
        producer: Option<ProducerAdvanced>,
        events: Vec<(Seq, event::Event)>,
        facts: &Facts,
    ) {
        let header = &frame.header;
        for (name, kind) in &facts.opened {
            self.streams.push(StreamState::new(name.clone(), *kind));
        }
        if let Some(producer) = producer {
            self.fold_producer(frame, producer, facts);
        }
        for &(stream, trim) in &facts.trimmed {
            let stream = &mut self.streams[stream.0 as usize];
            stream.trim = stream.trim.max(trim);
        }
        for span in &facts.spans {
            self.streams[span.stream.0 as usize].tail = span.first_index + u64::from(span.count);
        }
        for stream in &facts.closed {
            self.streams[stream.0 as usize].closed = true;
        }
        for (seq, event) in events {
            if let event::Event::RunClosed(closed) = event {
                self.ending = Some(Ending::of(seq, header.time_ms, closed));
            }
        }
        self.tail = frame.next_seq();
        self.chain = header.chain;
        if 0 < header.count {
            self.records_chain = header.chain;
        }
        self.updated_ms = self.updated_ms.max(header.time_ms);
        self.deleted_ms = facts.deleted.then_some(header.time_ms);
        self.frames += 1;
        self.bytes += frame.bytes().len() as u64;
    }

    fn fold_producer(&mut self, frame: &Frame, producer: ProducerAdvanced, facts: &Facts) {
        let appended = Appended {
            run_uid: self.run_uid,
            first_seq: frame.header.first_seq,
            first_index: facts.spans.first().map_or(Index::ZERO, |span| span.first_index),
            count: frame.header.count,
            time_ms: frame.header.time_ms,
            deduplicated: false,
            positions_forgotten: false,
        };
        if producer.r#ref as usize == self.producers.len() {
            self.producers.push(ProducerState::new(Arc::from(producer.id.as_str())));
        }
        let known = &mut self.producers[producer.r#ref as usize];
        if known.epoch != producer.epoch {
            known.recent.clear();
        }
        known.epoch = producer.epoch;
        known.next_seq = producer.seq.saturating_add(1);
        known.remember(Remembered { payload_crc: producer.payload_crc, appended });
    }
}

impl Ending {
    pub(super) fn of(seq: Seq, time_ms: u64, closed: RunClosed) -> Self {
        Self {
            outcome: closed.outcome(),
            seq,
            time_ms,
            output: closed.output,
            output_type: closed.output_type,
            error: closed.error,
        }
    }
}

/// Decodes an event; its bodies share the frame's memory.
fn decode_event(frame: &Frame, event: &[u8]) -> Result<event::Event, Damage> {
    let damage = Damage::Message { what: "event" };
    let event = Event::decode(frame.bytes().slice_ref(event)).map_err(|_| damage)?;
    event.event.ok_or(damage)
}

/// A frame that deletes its run does nothing else.
fn check_deletion(count: u32, effects: &Effects) -> Result<(), Damage> {
    let alone = || Effects { deleted: true, home: effects.home, ..Effects::default() };
    if effects.deleted && (count != 0 || *effects != alone()) {
        return Err(Damage::Message { what: "deleting frame" });
    }
    Ok(())
}

/// Decodes what is kept of a run.
pub(super) fn decode_retention(retention: proto::Retention) -> Result<Retention, Damage> {
    let unknown = |error: UnknownAtLimit| Damage::Unknown {
        what: "policy at the limit",
        found: u64::from(error.found.unsigned_abs()),
    };
    retention.try_into().map_err(unknown)
}

pub(super) fn expect_number(what: &'static str, found: u64, expected: u64) -> Result<(), Damage> {
    if found == expected { Ok(()) } else { Err(Damage::Numbering { what, found, expected }) }
}

/// Demands one of the `known` streams.
fn expect_stream(stream: u32, known: usize) -> Result<(), Damage> {
    if (stream as usize) < known {
        return Ok(());
    }
    Err(Damage::Unknown { what: "stream", found: u64::from(stream) })
}
