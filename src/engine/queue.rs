//! Decided frames on their way to the disk, in the order of their decision.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    core::Facts,
    error::Error,
    format::{block::block_bytes, frame::Frame},
    platform::sync::{Condvar, Mutex},
    sabotage::{self, Bug},
};

/// Something that waits for the disk.
pub(super) struct Pending {
    pub(super) work: Work,
    /// Told when everything queued up to here is durable, or that it never will be.
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

/// What waits.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are frames")]
pub(super) enum Work {
    /// A frame to be written.
    Frame {
        frame: Frame,
        facts: Facts,
        /// Memory that the append was admitted with; returned when it is durable.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// Nothing to write: an answer that rests on what is queued before it.
    Barrier,
}

/// Decided frames in the order of their decision.
#[derive(Default)]
pub(super) struct CommitQueue {
    state: Mutex<QueueState>,
    wake: Condvar,
}

#[derive(Default)]
struct QueueState {
    items: VecDeque<Pending>,
    /// Disk bytes that the queued frames take at most, each in a block of its own.
    disk_bytes: u64,
    /// Bytes left in the slot that is written to.
    slot_remaining: u64,
    closing: bool,
    /// Why nothing is taken any more, once the committer has ended.
    ended: Option<Error>,
}

impl CommitQueue {
    /// Queues something. The caller holds the lock of the shard that decided it.
    pub(super) fn push(&self, pending: Pending) {
        let mut state = self.state.lock();
        if let Some(error) = state.ended.as_ref().filter(|_| !sabotage::is(Bug::PushAfterEnd)) {
            // Never written, and no reader will ever see the state it was decided by.
            return pending.answer(Err(error.clone()));
        }
        state.disk_bytes += pending.disk_bytes();
        state.items.push_back(pending);
        drop(state);
        self.wake.notify_one();
    }

    /// Whether a frame of so many bytes surely has a place in the slot that is written to, with so
    /// many bytes left behind it.
    pub(super) fn has_room(&self, frame_bytes: usize, kept: u64) -> bool {
        let state = self.state.lock();
        state.disk_bytes + block_bytes(frame_bytes) as u64 + kept <= state.slot_remaining
    }

    /// Notes how many bytes are left in the slot that is written to.
    pub(super) fn note_remaining(&self, bytes: u64) {
        self.state.lock().slot_remaining = bytes;
    }

    /// Asks the committer to drain, mark the log clean, and end.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_all();
    }

    /// Takes the next items whose frames fit a block of `payload_max` bytes.
    pub(super) fn take(&self, payload_max: usize) -> Taken {
        let mut state = self.state.lock();
        let mut taken = Taken { items: Vec::new(), payload_bytes: 0, next_frame: None };
        while let Some(item) = state.items.front() {
            let len = item.frame_bytes();
            if payload_max < taken.payload_bytes + len {
                taken.next_frame = Some(len);
                break;
            }
            taken.payload_bytes += len;
            let Some(item) = state.items.pop_front() else { break };
            state.disk_bytes -= item.disk_bytes();
            taken.items.push(item);
        }
        taken
    }

    /// Waits for something to do, at most so long if a limit is given.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Woken {
        let mut state = self.state.lock();
        loop {
            if !state.items.is_empty() {
                return Woken::Work;
            }
            if state.closing {
                state.ended = Some(Error::ShuttingDown);
                return Woken::Closing;
            }
            match limit {
                Some(limit) if self.wake.wait_for(&mut state, limit).timed_out() => {
                    return if state.items.is_empty() { Woken::Idle } else { Woken::Work };
                }
                Some(_) => {}
                None => self.wake.wait(&mut state),
            }
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Answers everything with `error`, now and from now on; the first error is kept.
    pub(super) fn end(&self, error: &Error) {
        let mut state = self.state.lock();
        state.ended.get_or_insert_with(|| error.clone());
        let items = std::mem::take(&mut state.items);
        drop(state);
        items.into_iter().for_each(|item| item.answer(Err(error.clone())));
    }
}

/// What was taken from the queue.
pub(super) struct Taken {
    pub(super) items: Vec<Pending>,
    pub(super) payload_bytes: usize,
    /// Bytes of the first frame that had to stay in the queue.
    pub(super) next_frame: Option<usize>,
}

/// Why a wait ended.
pub(super) enum Woken {
    Work,
    Idle,
    Closing,
}

impl Pending {
    fn frame_bytes(&self) -> usize {
        match &self.work {
            Work::Frame { frame, .. } => frame.bytes().len(),
            Work::Barrier => 0,
        }
    }

    fn disk_bytes(&self) -> u64 {
        match &self.work {
            Work::Frame { frame, .. } => block_bytes(frame.bytes().len()) as u64,
            Work::Barrier => 0,
        }
    }

    /// Gives the answer; nobody may be waiting for it any more.
    pub(super) fn answer(self, result: Result<(), Error>) {
        let _ = self.done.send(result);
    }
}
