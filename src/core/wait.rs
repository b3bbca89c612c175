//! What a run waits for: an input, the end of a wait token, a time.
//!
//! A wait is made and settled by frames of its run, so a message that comes and a wait that begins
//! meet in one order: either the wait finds the message, or the message finds the wait.

use std::sync::Arc;

use super::{RunState, draft::Draft, inbox::DEFAULT_CONSUMER};
use crate::{
    proto::{
        InputWait, RunStatus, WaitCreated, WaitResult, WaitSettled, event,
        storage::v1::outbox_entry, wait_created,
    },
    record::Index,
    sabotage::{self, Bug},
};

/// A wait, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// What it is for.
    pub created: WaitCreated,
    /// Milliseconds since the Unix epoch of its creation.
    pub created_ms: u64,
    /// What became of it; none while it is pending.
    pub settled: Option<WaitSettled>,
    /// Milliseconds since the Unix epoch when it was settled, or 0.
    pub settled_ms: u64,
}

impl Wait {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.created.wait_id
    }

    /// Whether it is not settled.
    pub fn is_pending(&self) -> bool {
        self.settled.is_none()
    }

    /// When it settles by itself, and how: at its time, or its deadline.
    pub(super) fn due(&self) -> Option<(u64, WaitResult)> {
        if !self.is_pending() {
            return None;
        }
        let time = match &self.created.target {
            Some(wait_created::Target::Time(time)) => Some((time.until_ms, WaitResult::Completed)),
            _ => None,
        };
        let deadline_ms = self.created.deadline_ms;
        let deadline = (0 < deadline_ms).then_some((deadline_ms, WaitResult::TimedOut));
        time.into_iter().chain(deadline).min_by_key(|(due_ms, _)| *due_ms)
    }
}

impl RunState {
    /// The wait with this name.
    pub fn wait(&self, id: &str) -> Option<&Wait> {
        self.waits.iter().find(|wait| wait.id() == id)
    }

    /// Waits that are not settled.
    pub fn pending_waits(&self) -> impl Iterator<Item = &Wait> {
        self.waits.iter().filter(|wait| wait.is_pending())
    }
}

/// The consumer that a wait is for.
pub(super) fn consumer_of(consumer: &str) -> &str {
    if consumer.is_empty() { DEFAULT_CONSUMER } else { consumer }
}

impl Draft<'_> {
    /// Begins a wait, and settles it if what it is for is there already.
    pub(super) fn wait(&mut self, created: WaitCreated) {
        let id: Arc<str> = created.wait_id.as_str().into();
        let target = created.target.clone();
        self.lifecycle(event::Event::WaitCreated(created));
        self.pending.push(id.clone());
        match target {
            Some(_) if sabotage::is(Bug::WaitWithoutCheck) => {}
            Some(wait_created::Target::Input(input)) => {
                let consumer = consumer_of(&input.consumer);
                let Some(index) = self.next_owed(&input.stream, consumer, Index(input.after))
                else {
                    return;
                };
                self.settle_by_input(&id, &input, index);
            }
            Some(wait_created::Target::Time(time)) if time.until_ms <= self.time_ms() => {
                self.settle(&id, WaitResult::Completed, WaitSettled::default());
            }
            Some(wait_created::Target::Token(token)) => {
                self.tell(&token.token_id, |_| outbox_entry::Message::Waits(id.as_ref().into()));
            }
            _ => {}
        }
    }

    /// Settles a wait by an input, which is acked if the wait says so.
    pub(super) fn settle_by_input(&mut self, id: &str, input: &InputWait, index: Index) {
        let settled = WaitSettled { index: Some(index.0), ..WaitSettled::default() };
        self.settle(id, WaitResult::Completed, settled);
        if input.ack {
            let consumer = consumer_of(&input.consumer);
            self.ack(&input.stream, consumer, &[(index, index + 1)]);
        }
    }

    /// Settles a wait that is pending.
    pub(super) fn settle(&mut self, id: &str, result: WaitResult, settled: WaitSettled) {
        self.pending.retain(|pending| **pending != *id);
        let (wait_id, result) = (id.into(), result.into());
        let settled = WaitSettled { wait_id, result, ..settled };
        self.lifecycle(event::Event::WaitSettled(settled));
    }

    /// Queues a run that was suspended until all of its waits are settled, if they are.
    pub(super) fn resume_if_settled(&mut self) {
        if self.state.life.is_suspended() && self.pending.is_empty() {
            self.status(RunStatus::Queued);
        }
    }
}
