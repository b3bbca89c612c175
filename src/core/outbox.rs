//! What a run has to tell other runs: changes of a parent's metadata, that it waits for another,
//! that what others waited for has come.
//!
//! An entry is part of the frame that caused it, and stays until the other run has a frame that
//! says it took the entry in. Entries are numbered, and who is told remembers the newest number of
//! each sender: so each takes effect once, in order, whatever is repeated after a crash.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{
    Context, Decision, Operation, Refusal, RunState, command::check_run, draft::Draft, metadata,
};
use crate::{
    format::frame::{FRAME_HEADER_BYTES, FrameBuilder},
    proto::{
        Kind, MetadataChanged, Outcome, WaitResult, WaitSettled, event,
        storage::v1::{Delivered, Effects, OutboxEntry, Waiter, outbox_entry},
    },
    record::{LATE_MS, METADATA_BYTES_MAX, RUN_ID_BYTES_MAX, RunUid, WAITERS_MAX},
};

/// An entry of another run's outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Name of the run that sent it.
    pub source: Arc<str>,
    /// Identity of that run.
    pub source_uid: RunUid,
    /// The entry.
    pub entry: OutboxEntry,
}

impl Delivery {
    /// Bytes of the frame that this becomes, at most.
    pub fn frame_bytes_max(&self) -> usize {
        FRAME_HEADER_BYTES + self.entry.encoded_len() + 4 * RUN_ID_BYTES_MAX + 1_024
    }
}

impl RunState {
    /// Whether there is something to be told to other runs.
    pub fn has_outbox(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes in what another run has to tell. What comes too late, or for a wait that is settled,
    /// changes nothing but that it was taken in.
    ///
    /// # Errors
    /// [`Refusal::RunDeleted`].
    pub fn deliver(
        &mut self,
        delivery: &Delivery,
        context: &Context,
    ) -> Result<Decision<()>, Refusal> {
        check_run(self, None)?;
        let Delivery { source, source_uid, entry } = delivery;
        let known = self.delivered.iter().find(|(uid, _)| uid == source_uid);
        if known.is_some_and(|(_, newest)| entry.number <= *newest) {
            return Ok(Decision::Duplicate(()));
        }
        let mut draft = Draft::new(self, context, 256);
        let source_uid = source_uid.0.to_vec().into();
        draft.effects.delivered = Some(Delivered { source_uid, number: entry.number });
        match &entry.message {
            Some(outbox_entry::Message::Metadata(forwarded))
                if self.takes_late(draft.time_ms()) =>
            {
                let operations = metadata::recorded(&forwarded.operations);
                draft.change_metadata(&operations, source);
            }
            Some(outbox_entry::Message::Waits(wait_id)) => draft.add_waiter(source, wait_id),
            Some(outbox_entry::Message::Settled(settled)) if self.ending.is_none() => {
                draft.take_settled(settled);
            }
            _ => {}
        }
        let frame = draft.finish();
        Ok(self.accepted(frame, ()))
    }

    /// Bytes of what is to be told.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.iter().map(OutboxEntry::encoded_len).sum()
    }

    /// Notes entries that were taken in by those they were for.
    pub fn told(&mut self, numbers: &[u64], context: &Context) -> Option<Decision<()>> {
        let known = |number: &&u64| self.outbox.iter().any(|entry| entry.number == **number);
        let outbox_done: Vec<u64> = numbers.iter().filter(known).copied().collect();
        if outbox_done.is_empty() || self.deleted_ms.is_some() {
            return None;
        }
        let effects = Effects { outbox_done, ..context.effects() };
        let frame = FrameBuilder::new(0).finish(&self.next_place(0, context), &effects);
        Some(self.accepted(frame, ()))
    }

    /// Whether metadata and tags can still be changed: an hour after the end at most.
    pub(super) fn takes_late(&self, now_ms: u64) -> bool {
        self.ending.as_ref().is_none_or(|ending| now_ms <= ending.time_ms.saturating_add(LATE_MS))
    }
}

impl Draft<'_> {
    /// Adds something to be told to another run.
    pub(super) fn tell(
        &mut self,
        run_id: &str,
        message: impl FnOnce(&Self) -> outbox_entry::Message,
    ) {
        let number = self.state.outbox_next + self.effects.outbox_added.len() as u64;
        let message = Some(message(self));
        self.effects.outbox_added.push(OutboxEntry { number, run_id: run_id.into(), message });
    }

    /// Applies operations to the metadata; those that change nothing leave no trace.
    pub(super) fn change_metadata(&mut self, operations: &[Operation], source: &str) {
        let change = metadata::apply(&self.metadata, operations);
        if change.applied.is_empty() || METADATA_BYTES_MAX < change.document.len() {
            return;
        }
        self.metadata = change.document;
        let operations = change.applied.iter().map(|at| operations[*at].to_proto()).collect();
        let changed = MetadataChanged { operations, source_run_id: source.into() };
        self.event(Kind::Metadata, event::Event::MetadataChanged(changed));
    }

    /// Adds a run that waits for this one, or tells it at once if this one has ended.
    fn add_waiter(&mut self, source: &str, wait_id: &str) {
        let waiter = Waiter { run_id: source.into(), wait_id: wait_id.into() };
        match &self.state.ending {
            Some(ending) => {
                let settled =
                    settled_by(wait_id, ending.outcome, &ending.output, &ending.output_type);
                self.tell(source, |_| outbox_entry::Message::Settled(settled));
            }
            None if self.state.waiters.len() < WAITERS_MAX => {
                self.effects.waiters_added.push(waiter);
            }
            None => {
                let settled = WaitSettled {
                    wait_id: wait_id.into(),
                    result: WaitResult::Canceled.into(),
                    ..WaitSettled::default()
                };
                self.tell(source, |_| outbox_entry::Message::Settled(settled));
            }
        }
    }

    fn take_settled(&mut self, settled: &WaitSettled) {
        if self.pending.iter().any(|pending| **pending == *settled.wait_id) {
            self.settle(&settled.wait_id, settled.result(), settled.clone());
            self.resume_if_settled();
        }
    }
}

/// What those are told who waited for a run that ended this way.
pub(super) fn settled_by(
    wait_id: &str,
    outcome: Outcome,
    output: &Bytes,
    output_type: &str,
) -> WaitSettled {
    let result = match outcome {
        Outcome::Completed => WaitResult::Completed,
        Outcome::TimedOut | Outcome::Expired => WaitResult::TimedOut,
        _ => WaitResult::Canceled,
    };
    WaitSettled {
        wait_id: wait_id.into(),
        result: result.into(),
        index: None,
        value: output.clone(),
        value_type: output_type.into(),
    }
}
