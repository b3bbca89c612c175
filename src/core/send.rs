//! Sending to a run: a message is a record of an input stream, and stays until it is consumed.

use std::sync::Arc;

use super::{
    Context, Decision, NewRecord, Refusal, RunState,
    append::{check_record, record_bytes_max},
    command::{check_open, check_run},
    digest::Digest,
    draft::Draft,
    inbox::SentMessage,
};
use crate::{
    format::frame::FRAME_HEADER_BYTES,
    proto::{InputWait, Kind, StreamKind, storage::v1::InputSent, wait_created},
    record::{
        INPUT_BYTES_OWED_MAX, INPUTS_OWED_MAX, Index, RunUid, STREAM_NAME_BYTES_MAX,
        STREAMS_PER_RUN_MAX, Seq, check_name,
    },
};

/// A message to a run. Its id, if it has one, is that of the record: sending it again changes
/// nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Send {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the input stream; opened by its first message.
    pub stream: Arc<str>,
    /// The message, at most 1 MiB.
    pub message: NewRecord,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Identity of the run.
    pub run_uid: RunUid,
    /// Seq of the record; none if it was sent before.
    pub seq: Option<Seq>,
    /// Index in the stream.
    pub index: Index,
    /// Whether it had been sent before.
    pub deduplicated: bool,
}

impl Send {
    /// Row 1: names and sizes.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        check_name(&self.stream, STREAM_NAME_BYTES_MAX)
            .map_err(|error| Refusal::name("stream", error))?;
        check_record(&self.message)
    }

    /// Bytes of the frame that this becomes, at most.
    pub fn frame_bytes_max(&self) -> usize {
        FRAME_HEADER_BYTES + record_bytes_max(&self.message) + 2 * self.stream.len() + 16 * 1_024
    }

    fn content_crc(&self) -> u32 {
        let mut digest = Digest::default();
        digest.record(&self.message);
        digest.crc()
    }
}

impl RunState {
    /// Admits a message, in the order of checks of the module [`core`](crate::core). A wait that it
    /// is for is settled by the same frame.
    ///
    /// # Errors
    /// The first check that fails; the state is then unchanged.
    pub fn send(&mut self, send: &Send, context: &Context) -> Result<Decision<Sent>, Refusal> {
        send.check()?;
        check_run(self, send.run_uid)?;
        let run_uid = self.run_uid;
        let content_crc = send.content_crc();
        let known = self.stream_no(&send.stream).map(|no| self.stream(no));
        let inbox = known.and_then(|stream| stream.inbox.as_ref());
        if let Some(sent) = inbox.and_then(|inbox| inbox.sent(&send.message.id))
            && !send.message.id.is_empty()
        {
            let SentMessage { index, content_crc: before, .. } = *sent;
            return match before == content_crc {
                true => {
                    Ok(Decision::Duplicate(Sent { run_uid, seq: None, index, deduplicated: true }))
                }
                false => Err(Refusal::DedupMismatch),
            };
        }
        check_open(self, Some(&send.stream))?;
        self.check_input(send)?;
        let mut draft = Draft::new(self, context, send.message.size() + 128);
        let stream = draft.open(&send.stream, StreamKind::Input);
        let index = draft.record(stream, Kind::Input, &send.message);
        if !send.message.id.is_empty() {
            let id = send.message.id.clone();
            draft.effects.input_sent = Some(InputSent { id, content_crc });
        }
        draft.settle_inputs(&send.stream, index);
        let frame = draft.finish();
        self.check_quota(1, &frame, &context.limits)?;
        let answer =
            Sent { run_uid, seq: Some(frame.header.first_seq), index, deduplicated: false };
        Ok(self.accepted(frame, answer))
    }

    /// Rows 6, for the stream, and 12.
    fn check_input(&self, send: &Send) -> Result<(), Refusal> {
        let Some(no) = self.stream_no(&send.stream) else {
            let limit = STREAMS_PER_RUN_MAX as u64;
            return match (self.streams.len() as u64) < limit {
                true => Ok(()),
                false => Err(Refusal::Limit { which: "streams per run".into(), limit }),
            };
        };
        let stream = self.stream(no);
        if stream.closed {
            let final_index = Some(stream.tail);
            return Err(Refusal::Closed { outcome: None, final_seq: self.tail, final_index });
        }
        let Some(inbox) = &stream.inbox else {
            return Err(Refusal::invalid("stream", "is not an input stream"));
        };
        let (inputs, bytes) = inbox.backlog(stream.tail);
        if INPUTS_OWED_MAX <= inputs || INPUT_BYTES_OWED_MAX <= bytes {
            return Err(Refusal::InputBacklog { inputs, bytes });
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// Settles the waits that a new input is for, in the order in which they began.
    fn settle_inputs(&mut self, stream: &str, index: Index) {
        let state = self.state;
        for wait in state.pending_waits() {
            let Some(wait_created::Target::Input(input)) = &wait.created.target else { continue };
            let InputWait { stream: wanted, after, consumer, .. } = input;
            let from = Index(*after);
            let consumer = super::wait::consumer_of(consumer);
            if *wanted == *stream && self.next_owed(stream, consumer, from) == Some(index) {
                self.settle_by_input(wait.id(), input, index);
            }
        }
        self.resume_if_settled();
    }
}
