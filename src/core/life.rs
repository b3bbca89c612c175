//! The life of a run and its streams after creation: close, trim, delete.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Context, Decision, Refusal, RunState,
    command::{check_open, check_run, check_run_uid},
    draft::Draft,
    inbox::Inbox,
};
use crate::{
    format::{
        frame::{Frame, FrameBuilder, FramePlace},
        wire::RecordFields,
    },
    proto::{
        Event, Kind, Outcome, RunClosed, RunError, StreamClosed, event,
        storage::v1::{Effects, StreamTrimmed},
    },
    record::{
        Index, OUTPUT_BYTES_MAX, RUN_ID_BYTES_MAX, RunUid, STREAM_NAME_BYTES_MAX, Seq, StreamNo,
        check_name, check_text,
    },
    sabotage::{self, Bug},
};

/// Closes a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Close {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it returned, at most 1 MiB.
    pub output: Bytes,
    /// Media type of the output.
    pub output_type: String,
    /// Why it did not complete; at most 1 MiB in total.
    pub error: Option<RunError>,
    /// Seq the run's log must be at, if given.
    pub expected_seq: Option<Seq>,
    /// Number of the lease under which this is done; a run that was claimed needs it.
    pub lease_epoch: Option<u64>,
}

/// The run is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Seq of the closing record.
    pub seq: Seq,
    /// Whether it had been closed the same way before.
    pub deduplicated: bool,
}

/// Closes one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseStream {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the stream.
    pub stream: Arc<str>,
}

/// The stream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// Index after its last record.
    pub final_index: Index,
    /// Whether it had been closed before.
    pub deduplicated: bool,
}

/// Gives up the records of a stream below an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the stream.
    pub stream: Arc<str>,
    /// First index to keep; at most the stream's tail.
    pub trim: Index,
}

/// Deletes a run with all it holds, open or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delete {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
}

/// The run is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Milliseconds since the Unix epoch of the deletion.
    pub deleted_ms: u64,
    /// Whether it had been deleted before.
    pub deduplicated: bool,
}

impl RunState {
    /// Admits a close, in the order of checks of the module [`core`](crate::core). Closing again with
    /// the same outcome gives the first answer.
    ///
    /// # Errors
    /// The first check that fails; the state is then unchanged.
    pub fn close(&mut self, close: &Close, context: &Context) -> Result<Decision<Closed>, Refusal> {
        close.check()?;
        check_run(self, close.run_uid)?;
        if let Some(ending) = &self.ending
            && ending.outcome == close.outcome
        {
            return Ok(Decision::Duplicate(Closed { seq: ending.seq, deduplicated: true }));
        }
        check_open(self, None)?;
        self.check_lease(close.lease_epoch, true)?;
        if close.expected_seq.is_some_and(|expected| expected != self.tail) {
            return Err(Refusal::SeqMismatch { tail: self.tail });
        }
        let mut draft = Draft::new(self, context, close.frame_bytes_max());
        draft.close(close.closed());
        let frame = draft.finish();
        let answer = Closed { seq: frame.header.first_seq, deduplicated: false };
        Ok(self.accepted(frame, answer))
    }

    /// Admits the close of one stream. Closing it again gives the first answer, also after the run
    /// was closed.
    ///
    /// # Errors
    /// The first check that fails; the state is then unchanged.
    pub fn close_stream(
        &mut self,
        close: &CloseStream,
        context: &Context,
    ) -> Result<Decision<StreamEnd>, Refusal> {
        let stream_no = self.named_stream(&close.stream, close.run_uid)?;
        let stream = self.stream(stream_no);
        let final_index = stream.tail;
        if stream.closed {
            return Ok(Decision::Duplicate(StreamEnd { final_index, deduplicated: true }));
        }
        check_open(self, Some(&close.stream))?;
        let event = event::Event::StreamClosed(StreamClosed { stream: stream_no.0 });
        let answer = StreamEnd { final_index, deduplicated: false };
        let mut draft = Draft::new(self, context, 64);
        draft.lifecycle(event);
        let frame = draft.finish();
        Ok(self.accepted(frame, answer))
    }

    /// Admits a trim, of open and closed runs alike. Trims never go back: a lower one changes
    /// nothing and answers with the trim that holds.
    ///
    /// # Errors
    /// [`Refusal::BeyondTail`] if the index has not been written yet, and the usual ones.
    pub fn trim(&mut self, trim: &Trim, context: &Context) -> Result<Decision<Index>, Refusal> {
        let stream_no = self.named_stream(&trim.stream, trim.run_uid)?;
        let stream = self.stream(stream_no);
        if stream.tail < trim.trim {
            return Err(Refusal::BeyondTail { tail: stream.tail.0 });
        }
        if trim.trim <= stream.trim {
            return Ok(Decision::Duplicate(stream.trim));
        }
        // What is owed is kept while somebody may still ask for it.
        let floor = stream.inbox.as_ref().filter(|_| self.ending.is_none()).map(Inbox::floor);
        let owes = |floor: &Index| *floor < trim.trim && !sabotage::is(Bug::TrimOwedInputs);
        if let Some(floor) = floor.filter(owes) {
            return Err(Refusal::InputsOwed { floor });
        }
        let trimmed = StreamTrimmed { stream: stream_no.0, trim: trim.trim.0 };
        let effects = Effects { streams_trimmed: vec![trimmed], ..context.effects() };
        let frame = FrameBuilder::new(0).finish(&self.next_place(0, context), &effects);
        Ok(self.accepted(frame, trim.trim))
    }

    /// Admits a deletion, of open and closed runs alike. Deleting again gives the first answer;
    /// every other command of a deleted run is refused with [`Refusal::RunDeleted`].
    ///
    /// # Errors
    /// [`Refusal::RunReplaced`]; the state is then unchanged.
    pub fn delete(
        &mut self,
        delete: &Delete,
        context: &Context,
    ) -> Result<Decision<Deleted>, Refusal> {
        check_run_uid(self, delete.run_uid)?;
        if let Some(deleted_ms) = self.deleted_ms {
            return Ok(Decision::Duplicate(Deleted { deleted_ms, deduplicated: true }));
        }
        let effects = Effects { deleted: true, ..context.effects() };
        let place = self.next_place(0, context);
        let answer = Deleted { deleted_ms: place.time_ms, deduplicated: false };
        Ok(self.accepted(FrameBuilder::new(0).finish(&place, &effects), answer))
    }

    /// Rows 1 and 2 for commands on one stream that exists. `$run` is nobody's to close or trim.
    fn named_stream(&self, name: &str, run_uid: Option<RunUid>) -> Result<StreamNo, Refusal> {
        check_name(name, STREAM_NAME_BYTES_MAX).map_err(|error| Refusal::name("stream", error))?;
        check_run(self, run_uid)?;
        self.stream_no(name).ok_or(Refusal::StreamNotFound)
    }
}

impl Close {
    /// Bytes of the frame that this becomes, at most.
    pub fn frame_bytes_max(&self) -> usize {
        self.output.len() + self.output_type.len() + self.error_bytes() + 256
    }

    fn error_bytes(&self) -> usize {
        self.error.as_ref().map_or(0, |error| {
            error.r#type.len() + error.name.len() + error.message.len() + error.stack_trace.len()
        })
    }

    /// The record that this becomes.
    pub(super) fn closed(&self) -> RunClosed {
        RunClosed {
            outcome: self.outcome.into(),
            output: self.output.clone(),
            output_type: self.output_type.clone(),
            error: self.error.clone(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.outcome == Outcome::Unspecified {
            return Err(Refusal::invalid("outcome", "is missing: say how the run ended"));
        }
        Refusal::check_size("output (bytes)", self.output.len(), OUTPUT_BYTES_MAX)?;
        check_text(&self.output_type, RUN_ID_BYTES_MAX)
            .map_err(|error| Refusal::name("output_type", error))?;
        Refusal::check_size("error (bytes)", self.error_bytes(), OUTPUT_BYTES_MAX)
    }
}

/// A frame that holds one event of stream 0.
pub(super) fn lifecycle_frame(
    place: &FramePlace,
    index: Index,
    event: event::Event,
    effects: &Effects,
) -> Frame {
    let event = Event { event: Some(event) };
    let mut builder = FrameBuilder::new(128);
    builder.record(&RecordFields {
        stream: StreamNo::RUN,
        seq: place.first_seq,
        index,
        time_ms: place.time_ms,
        kind: Kind::Lifecycle,
        headers: &[],
        id: "",
        client_time_ms: 0,
        event: Some(&event),
        data: &[],
    });
    builder.finish(place, effects)
}
