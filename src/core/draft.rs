//! A frame that is being made for a state: records, events and effects in the order they take
//! effect, over the state as it will be.
//!
//! What it deliberately does not do: check. Whatever is added was admitted.

use std::sync::Arc;

use bytes::Bytes;

use super::{Context, NewRecord, RunState, inbox::Inbox, outbox::settled_by};
use crate::{
    format::{
        frame::{FLAG_CLOSES, Frame, FrameBuilder, FramePlace},
        wire::RecordFields,
    },
    proto::{
        Event, Kind, RunClosed, RunStatus, StatusChanged, StreamKind, event,
        storage::v1::{Effects, InputsAcked, StreamOpened, outbox_entry},
    },
    record::{Index, StreamNo},
};

/// A frame that is being made.
pub(super) struct Draft<'a> {
    pub(super) state: &'a RunState,
    place: FramePlace,
    builder: FrameBuilder,
    pub(super) effects: Effects,
    /// Streams with records in the frame: index of the first one, and of the next.
    spans: Vec<(StreamNo, Index, Index)>,
    /// Input streams as they will be, of those that matter.
    inboxes: Vec<(StreamNo, Inbox)>,
    /// Waits that are pending, as they will be.
    pub(super) pending: Vec<Arc<str>>,
    /// Status as it will be.
    pub(super) status: RunStatus,
    /// Metadata as it will be.
    pub(super) metadata: Bytes,
}

impl<'a> Draft<'a> {
    /// An empty frame with room for about `capacity` bytes of records.
    pub(super) fn new(state: &'a RunState, context: &Context, capacity: usize) -> Self {
        Self {
            state,
            place: state.next_place(0, context),
            builder: FrameBuilder::new(capacity),
            effects: context.effects(),
            spans: Vec::new(),
            inboxes: Vec::new(),
            pending: state.pending_waits().map(|wait| wait.id().into()).collect(),
            status: state.life.status,
            metadata: state.metadata.clone(),
        }
    }

    /// Time of the frame, milliseconds since the Unix epoch.
    pub(super) fn time_ms(&self) -> u64 {
        self.place.time_ms
    }

    /// Number of records so far.
    pub(super) fn count(&self) -> u32 {
        self.builder.count()
    }

    /// Streams with records in the frame: index of the first, and of the one after the last.
    pub(super) fn spans(&self) -> &[(StreamNo, Index, Index)] {
        &self.spans
    }

    /// The stream with this name, if there is one.
    pub(super) fn stream_no(&self, name: &str) -> Option<StreamNo> {
        let opened = self.effects.streams_opened.iter().find(|opened| opened.name == name);
        self.state.stream_no(name).or(opened.map(|opened| StreamNo(opened.stream)))
    }

    /// The stream with this name, opened if there is none.
    pub(super) fn open(&mut self, name: &str, kind: StreamKind) -> StreamNo {
        if let Some(stream) = self.stream_no(name) {
            return stream;
        }
        let stream = (self.state.streams.len() + self.effects.streams_opened.len()) as u32;
        let opened = StreamOpened { stream, name: name.into(), kind: kind.into() };
        self.effects.streams_opened.push(opened);
        StreamNo(stream)
    }

    /// Next index of a stream.
    pub(super) fn tail(&self, stream: StreamNo) -> Index {
        let span = self.spans.iter().find(|(known, ..)| *known == stream);
        let known = || self.state.streams.get(stream.0 as usize);
        span.map(|span| span.2).or_else(|| known().map(|known| known.tail)).unwrap_or(Index::ZERO)
    }

    /// First index of a stream that is kept.
    fn trim(&self, stream: StreamNo) -> Index {
        self.state.streams.get(stream.0 as usize).map_or(Index::ZERO, |known| known.trim)
    }

    fn next_index(&mut self, stream: StreamNo) -> Index {
        let index = self.tail(stream);
        match self.spans.iter_mut().find(|(known, ..)| *known == stream) {
            Some(span) => span.2 = index + 1,
            None => self.spans.push((stream, index, index + 1)),
        }
        index
    }

    /// Adds a record of a stream.
    pub(super) fn record(&mut self, stream: StreamNo, kind: Kind, record: &NewRecord) -> Index {
        let index = self.next_index(stream);
        self.builder.record(&RecordFields {
            stream,
            seq: self.place.first_seq + u64::from(self.builder.count()),
            index,
            time_ms: self.place.time_ms,
            kind,
            headers: &record.headers,
            id: &record.id,
            client_time_ms: record.client_time_ms,
            event: None,
            data: &record.data,
        });
        index
    }

    /// Adds an event of stream 0.
    pub(super) fn event(&mut self, kind: Kind, event: event::Event) {
        let index = self.next_index(StreamNo::RUN);
        let event = Event { event: Some(event) };
        self.builder.record(&RecordFields {
            stream: StreamNo::RUN,
            seq: self.place.first_seq + u64::from(self.builder.count()),
            index,
            time_ms: self.place.time_ms,
            kind,
            headers: &[],
            id: "",
            client_time_ms: 0,
            event: Some(&event),
            data: &[],
        });
    }

    /// Adds an event of the run's life.
    pub(super) fn lifecycle(&mut self, event: event::Event) {
        self.event(Kind::Lifecycle, event);
    }

    /// Moves the run to another place in its life.
    pub(super) fn status(&mut self, status: RunStatus) {
        if self.status != status {
            self.status = status;
            let changed = StatusChanged { status: status.into() };
            self.lifecycle(event::Event::StatusChanged(changed));
        }
    }

    pub(super) fn inbox(&mut self, stream: StreamNo) -> &mut Inbox {
        let at = self.inboxes.iter().position(|(known, _)| *known == stream);
        let at = at.unwrap_or_else(|| {
            let known = self.state.streams.get(stream.0 as usize);
            let inbox = known.and_then(|known| known.inbox.clone()).unwrap_or_default();
            self.inboxes.push((stream, inbox));
            self.inboxes.len() - 1
        });
        &mut self.inboxes[at].1
    }

    /// The first input of a stream that a consumer owes, from `from` on.
    pub(super) fn next_owed(&mut self, name: &str, consumer: &str, from: Index) -> Option<Index> {
        let stream = self.stream_no(name)?;
        let (trim, tail) = (self.trim(stream), self.tail(stream));
        let next = self.inbox(stream).next_owed(consumer, from.max(trim));
        (next < tail).then_some(next)
    }

    /// Acks ranges of inputs: first index, and the index after the last.
    pub(super) fn ack(&mut self, name: &str, consumer: &str, ranges: &[(Index, Index)]) {
        let Some(stream) = self.stream_no(name) else { return };
        let (trim, tail) = (self.trim(stream), self.tail(stream));
        let inbox = self.inbox(stream);
        ranges.iter().for_each(|(from, to)| inbox.ack(consumer, *from, *to, trim, tail));
        self.effects.inputs_acked.push(InputsAcked {
            stream: stream.0,
            consumer: consumer.into(),
            from: ranges.iter().map(|(from, _)| from.0).collect(),
            to: ranges.iter().map(|(_, to)| to.0).collect(),
        });
    }

    /// Ends the run, and tells those who wait for it.
    pub(super) fn close(&mut self, closed: RunClosed) {
        self.place.flags |= FLAG_CLOSES;
        for waiter in &self.state.waiters {
            let settled =
                settled_by(&waiter.wait_id, closed.outcome(), &closed.output, &closed.output_type);
            self.tell(&waiter.run_id, |_| outbox_entry::Message::Settled(settled));
        }
        self.pending.clear();
        self.lifecycle(event::Event::RunClosed(closed));
    }

    /// The frame.
    pub(super) fn finish(self) -> Frame {
        self.builder.finish(&self.place, &self.effects)
    }
}
