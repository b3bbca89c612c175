//! A run's log across frames that are lost: for salvage, and for nothing else.
//!
//! What the lost frames changed is not known. What the next sound frame says by itself is taken: where
//! its records stand in the run and in their streams, which epoch its producer or lease is in. Streams
//! and producers that were opened in lost frames have no names any more, and get new ones.
//!
//! A store never serves a state that went over a bridge: it refuses a log whose chain does not hold.
//! It serves what was salvaged from there on, in a new directory.

use std::sync::Arc;

use super::state::{ProducerState, RunState, StreamState};
use crate::{
    format::{
        Damage,
        frame::{Chain, Frame},
        syndrome::prefix_of,
        wire,
    },
    proto::{StreamKind, event, storage::v1::Effects},
    record::{Index, PRODUCERS_PER_RUN_MAX, STREAMS_PER_RUN_MAX, StreamNo},
};

impl RunState {
    /// Folds in a frame that stands behind lost ones.
    ///
    /// # Errors
    /// What does not hold even so; the state is then unchanged.
    pub fn replay_behind_loss(&mut self, frame: &Frame) -> Result<(), Damage> {
        let mut state = self.clone();
        state.bridge(frame)?;
        state.replay(frame)?;
        *self = state;
        Ok(())
    }

    /// Makes the state one that this frame may follow.
    fn bridge(&mut self, frame: &Frame) -> Result<(), Damage> {
        let header = &frame.header;
        if header.first_seq < self.tail {
            let (found, expected) = (header.first_seq.0, self.tail.0);
            return Err(Damage::Numbering { what: "seq", found, expected });
        }
        self.tail = header.first_seq;
        self.chain = Chain(prefix_of(header.chain.0, header.crc.to_le_bytes()));
        self.records_chain = self.chain;
        let effects = frame.effects()?;
        self.bridge_streams(frame, &effects)?;
        self.bridge_producer(&effects)?;
        if let Some(entry) = effects.outbox_added.first() {
            self.outbox_next = entry.number;
        }
        Ok(())
    }

    fn bridge_streams(&mut self, frame: &Frame, effects: &Effects) -> Result<(), Damage> {
        let opened = effects.streams_opened.iter().map(|opened| opened.stream);
        if let Some(first) = opened.clone().min() {
            self.know_streams(first)?;
        }
        let is_opened = |stream: StreamNo| opened.clone().any(|opened| opened == stream.0);
        let mut reached = Vec::new();
        for record in wire::skim_all(frame.records_slice()) {
            let record = record?;
            if let Some(event) = record.event {
                self.bridge_event(frame, event);
            }
            if is_opened(record.stream) || reached.contains(&record.stream) {
                continue;
            }
            self.know_streams(record.stream.0 + 1)?;
            reached.push(record.stream);
            self.reach(record.stream, record.index);
        }
        for trimmed in &effects.streams_trimmed {
            self.know_streams(trimmed.stream + 1)?;
            self.reach(StreamNo(trimmed.stream), Index(trimmed.trim));
        }
        for acked in &effects.inputs_acked {
            if !is_opened(StreamNo(acked.stream)) {
                self.know_streams(acked.stream + 1)?;
            }
        }
        Ok(())
    }

    /// Sees to it that there are so many streams.
    fn know_streams(&mut self, count: u32) -> Result<(), Damage> {
        if STREAMS_PER_RUN_MAX < count as usize {
            return Err(Damage::Unknown { what: "stream", found: u64::from(count) });
        }
        for number in self.streams.len()..count as usize {
            let name = format!("lost-stream-{number}");
            self.streams.push(StreamState::new(name.into(), StreamKind::Output));
        }
        Ok(())
    }

    fn reach(&mut self, stream: StreamNo, index: Index) {
        let stream = &mut self.streams[stream.0 as usize];
        stream.tail = stream.tail.max(index);
    }

    /// A claim follows the epoch before it.
    fn bridge_event(&mut self, frame: &Frame, event: &[u8]) {
        if let Ok(event::Event::RunClaimed(claimed)) = super::replay::decode_event(frame, event)
            && let Some(before) = claimed.epoch.checked_sub(1)
        {
            self.life.epoch = before;
        }
    }

    fn bridge_producer(&mut self, effects: &Effects) -> Result<(), Damage> {
        let Some(advanced) = &effects.producer else { return Ok(()) };
        let number = advanced.r#ref as usize;
        if PRODUCERS_PER_RUN_MAX <= number {
            return Err(Damage::Unknown { what: "producer", found: number as u64 });
        }
        for lost in self.producers.len()..number {
            self.producers.push(ProducerState::new(Arc::from(format!("lost-producer-{lost}"))));
        }
        if advanced.seq == 0 {
            return Ok(());
        }
        match self.producers.get_mut(number) {
            Some(known) => {
                (known.epoch, known.next_seq) = (advanced.epoch, advanced.seq);
                known.recent.clear();
            }
            None => {
                let id = match advanced.id.is_empty() {
                    true => format!("lost-producer-{number}"),
                    false => advanced.id.clone(),
                };
                let known = ProducerState::new(id.into());
                self.producers.push(ProducerState {
                    epoch: advanced.epoch,
                    next_seq: advanced.seq,
                    ..known
                });
            }
        }
        Ok(())
    }
}
