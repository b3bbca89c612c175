//! Folding frames into a run's state: the only way a state changes.
//!
//! A frame is checked against the state before any of it is folded in: its chain must link, its
//! numbers must continue. A frame that does not fit leaves the state as it was and is reported as
//! damage, since every frame that was ever acknowledged fits.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    AppliedRequest, Cancel, Committed, Decision, Lease, Life, Retention, UnknownAtLimit, Wait,
    inbox::SentMessage,
    metadata,
    state::{Appended, Ending, ProducerState, Remembered, RunState, StreamState},
};
use crate::{
    format::{
        Damage,
        frame::{Chain, FLAG_CLOSES, FLAG_FIRST, FLAG_STUB, Frame},
        wire,
    },
    proto::{
        self, CancelRequested, Event, Outcome, RunClosed, RunStatus, RunUpdated, StreamKind,
        WaitSettled, event,
        storage::v1::{Delivered, Effects, ProducerAdvanced, RequestApplied},
    },
    record::{
        Index, REQUESTS_REMEMBERED, RunUid, SOURCES_REMEMBERED, Seq, StreamNo,
        WAIT_VALUE_BYTES_MAX, WAITS_REMEMBERED,
    },
    sabotage::{self, Bug},
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
    /// Where the run stands after it, if it moved.
    pub status: Option<RunStatus>,
    /// Whether it adds labels.
    pub relabeled: bool,
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
    /// Bytes of each record of an input stream.
    inputs: Vec<(StreamNo, u32)>,
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
        let spec = created.spec.unwrap_or_default();
        let life = Life::begin(&created.task, &spec, frame.header.time_ms);
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
            metadata: spec.metadata.clone(),
            metadata_seq: Seq::ZERO,
            usage: RunUpdated::default(),
            requests: VecDeque::new(),
            waits: Vec::new(),
            outbox_next: 0,
            outbox: VecDeque::new(),
            delivered: Vec::new(),
            waiters: Vec::new(),
            spec,
            life,
            deleted_ms: None,
        };
        let mut facts = state.replay(frame)?;
        facts.status = Some(state.status());
        Ok((state, facts))
    }

    /// Folds a frame in.
    ///
    /// # Errors
    /// What does not hold; the state is then unchanged.
    pub fn replay(&mut self, frame: &Frame) -> Result<Facts, Damage> {
        let Checked { effects, events, inputs, mut facts } = self.check(frame)?;
        let status = self.status();
        self.fold(frame, effects, events, &inputs, &facts);
        facts.status = Some(self.status()).filter(|after| *after != status);
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
        let is_linked =
            self.chain.link(header.crc) == header.chain || sabotage::is(Bug::IgnoreFrameChain);
        if header.run_no != self.run_no || !is_linked {
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
        let (mut facts, events, inputs) = self.check_records(frame, &effects)?;
        facts.opened =
            effects.streams_opened.iter().map(|s| (s.name.as_str().into(), s.kind())).collect();
        facts.trimmed =
            effects.streams_trimmed.iter().map(|t| (StreamNo(t.stream), Index(t.trim))).collect();
        for (_, event) in &events {
            match event {
                event::Event::StreamClosed(closed) => facts.closed.push(StreamNo(closed.stream)),
                event::Event::RunClosed(closed) => facts.outcome = Some(closed.outcome()),
                event::Event::TagsAdded(_) => facts.relabeled = true,
                event::Event::RunClaimed(claimed) => {
                    expect_number("lease", claimed.epoch, self.life.epoch + 1)?;
                }
                _ => {}
            }
        }
        facts.deleted = effects.deleted;
        self.check_ends(&facts)?;
        Ok(Checked { effects, events, inputs, facts })
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
        effects
            .streams_trimmed
            .iter()
            .try_for_each(|trimmed| expect_stream(trimmed.stream, known))?;
        for (n, entry) in effects.outbox_added.iter().enumerate() {
            expect_number("outbox entry", entry.number, self.outbox_next + n as u64)?;
        }
        for acked in &effects.inputs_acked {
            expect_stream(acked.stream, known + effects.streams_opened.len())?;
            if acked.from.len() != acked.to.len() {
                return Err(Damage::Message { what: "acked inputs" });
            }
        }
        Ok(())
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
    #[allow(clippy::type_complexity, reason = "three lists that are taken apart at once")]
    fn check_records(
        &self,
        frame: &Frame,
        effects: &Effects,
    ) -> Result<(Facts, Vec<(Seq, event::Event)>, Vec<(StreamNo, u32)>), Damage> {
        let mut facts = Facts::default();
        let (mut events, mut inputs) = (Vec::new(), Vec::new());
        let opened = effects.streams_opened.len();
        let mut seq = self.tail;
        for found in wire::skim_all(frame.records_slice()) {
            let found = found?;
            expect_number("seq", found.seq.0, seq.0)?;
            let expected = self.next_index(&mut facts, found.stream, opened)?;
            expect_number("index", found.index.0, expected.0)?;
            if self.is_input(found.stream, effects) {
                inputs.push((found.stream, found.len as u32));
            }
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
        Ok((facts, events, inputs))
    }

    fn is_input(&self, stream: StreamNo, effects: &Effects) -> bool {
        let at = stream.0 as usize;
        match self.streams.get(at) {
            Some(known) => known.kind == StreamKind::Input,
            None => effects
                .streams_opened
                .get(at - self.streams.len())
                .is_some_and(|opened| opened.kind() == StreamKind::Input),
        }
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
        effects: Effects,
        events: Vec<(Seq, event::Event)>,
        inputs: &[(StreamNo, u32)],
        facts: &Facts,
    ) {
        let header = &frame.header;
        for (name, kind) in &facts.opened {
            self.streams.push(StreamState::new(name.clone(), *kind));
        }
        if let Some(producer) = &effects.producer {
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
        for &(stream, bytes) in inputs {
            if let Some(inbox) = &mut self.streams[stream.0 as usize].inbox {
                inbox.add(bytes);
            }
        }
        self.fold_effects(frame, effects, inputs, facts);
        for (seq, event) in events {
            self.fold_event(seq, header.time_ms, event);
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

    fn fold_effects(
        &mut self,
        frame: &Frame,
        effects: Effects,
        inputs: &[(StreamNo, u32)],
        facts: &Facts,
    ) {
        if let (Some(sent), Some(&(no, _))) = (effects.input_sent, inputs.first()) {
            let stream = &mut self.streams[no.0 as usize];
            let index = Index(stream.tail.0 - 1);
            if let Some(inbox) = &mut stream.inbox {
                let (id, content_crc) = (sent.id.into(), sent.content_crc);
                inbox.remember(SentMessage { id, index, content_crc });
            }
        }
        for acked in effects.inputs_acked {
            let stream = &mut self.streams[acked.stream as usize];
            let (trim, tail) = (stream.trim, stream.tail);
            let Some(inbox) = &mut stream.inbox else { continue };
            for (from, to) in acked.from.iter().zip(&acked.to) {
                inbox.ack(&acked.consumer, Index(*from), Index(*to), trim, tail);
            }
        }
        if let Some(request) = effects.request {
            self.fold_request(frame, request, facts);
        }
        self.outbox_next += effects.outbox_added.len() as u64;
        self.outbox.extend(effects.outbox_added);
        self.outbox.retain(|entry| !effects.outbox_done.contains(&entry.number));
        self.waiters.extend(effects.waiters_added);
        if let Some(Delivered { source_uid, number }) = effects.delivered
            && let Some(source) = RunUid::from_slice(&source_uid)
        {
            self.delivered.retain(|(known, _)| *known != source);
            if self.delivered.len() == SOURCES_REMEMBERED {
                self.delivered.remove(0);
            }
            self.delivered.push((source, number));
        }
    }

    fn fold_request(&mut self, frame: &Frame, request: RequestApplied, facts: &Facts) {
        let span = |span: &StreamSpan| (span.stream, span.first_index, span.count);
        let committed = Committed {
            run_uid: self.run_uid,
            first_seq: frame.header.first_seq,
            count: frame.header.count,
            time_ms: frame.header.time_ms,
            spans: facts.spans.iter().map(span).collect(),
            deduplicated: false,
            positions_forgotten: false,
        };
        if self.requests.len() == REQUESTS_REMEMBERED {
            self.requests.pop_front();
        }
        let (id, content_crc) = (request.id.into(), request.content_crc);
        self.requests.push_back(AppliedRequest { id, content_crc, committed });
    }

    fn fold_event(&mut self, seq: Seq, now_ms: u64, event: event::Event) {
        let life = &mut self.life;
        match event {
            // The first frame made the state; the others were folded with the facts.
            event::Event::RunCreated(_) | event::Event::StreamClosed(_) => {}
            event::Event::TagsAdded(added) => {
                self.tags.extend(added.tags.into_iter().map(Arc::from));
            }
            event::Event::StatusChanged(changed) => life.turn_to(changed.status(), now_ms),
            event::Event::RunClaimed(claimed) => {
                let (worker, term_ms) = (claimed.worker.into(), claimed.term_ms);
                life.lease = Some(Lease { worker, term_ms });
                (life.epoch, life.attempt, life.suspended) =
                    (claimed.epoch, claimed.attempt, false);
                life.turn_to(RunStatus::Dequeued, now_ms);
            }
            event::Event::RunAbandoned(abandoned) => {
                life.lease = None;
                if abandoned.next() == RunStatus::Queued {
                    life.turn_to(RunStatus::Queued, now_ms);
                }
            }
            event::Event::RunReleased(released) => {
                life.lease = None;
                let next = released.next();
                life.suspended = released.suspends;
                life.delay_until_ms = released.delay_until_ms;
                life.turn_to(next, now_ms);
            }
            event::Event::CancelRequested(asked) => {
                let CancelRequested { reason, close_at_ms } = asked;
                life.cancel = Some(Cancel { reason, requested_ms: now_ms, close_at_ms });
            }
            event::Event::RunUpdated(updated) => self.fold_update(updated),
            event::Event::RunRescheduled(rescheduled) => {
                life.delay_until_ms = rescheduled.delay_until_ms;
                life.turn_to(RunStatus::Delayed, now_ms);
            }
            event::Event::MetadataChanged(changed) => {
                let operations = metadata::recorded(&changed.operations);
                self.metadata = metadata::apply(&self.metadata, &operations).document;
                self.metadata_seq = seq;
            }
            event::Event::WaitCreated(created) => {
                self.waits.push(Wait { created, created_ms: now_ms, settled: None, settled_ms: 0 })
            }
            event::Event::WaitSettled(settled) => self.fold_settled(settled, now_ms),
            event::Event::RunClosed(closed) => {
                life.lease = None;
                self.waiters.clear();
                self.ending = Some(Ending::of(seq, now_ms, closed));
            }
        }
    }

    fn fold_update(&mut self, updated: RunUpdated) {
        let known = &mut self.usage;
        known.usage_duration_ms = updated.usage_duration_ms.or(known.usage_duration_ms);
        known.cost_in_cents = updated.cost_in_cents.or(known.cost_in_cents);
        known.base_cost_in_cents = updated.base_cost_in_cents.or(known.base_cost_in_cents);
        known.version = updated.version.or(known.version.take());
    }

    fn fold_settled(&mut self, settled: WaitSettled, now_ms: u64) {
        let mut value_bytes = settled.value.len();
        for wait in self.waits.iter_mut().rev() {
            if wait.id() == settled.wait_id {
                (wait.settled, wait.settled_ms) = (Some(settled.clone()), now_ms);
            } else if let Some(other) = &mut wait.settled {
                value_bytes += other.value.len();
                if WAIT_VALUE_BYTES_MAX < value_bytes {
                    // The record that settled it has it.
                    other.value = Bytes::new();
                }
            }
        }
        let settled = self.waits.iter().filter(|wait| !wait.is_pending()).count();
        if WAITS_REMEMBERED < settled
            && let Some(oldest) = self.waits.iter().position(|wait| !wait.is_pending())
        {
            self.waits.remove(oldest);
        }
    }

    fn fold_producer(&mut self, frame: &Frame, producer: &ProducerAdvanced, facts: &Facts) {
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
pub(super) fn decode_event(frame: &Frame, event: &[u8]) -> Result<event::Event, Damage> {
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
