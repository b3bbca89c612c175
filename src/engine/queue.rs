//! Decided frames on their way to the disk, in the order of their decision.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    rhythm::Rhythm,
    ticket::never_told,
    waiters::{Queued, Waiters},
};
use crate::{
    core::Facts,
    error::Error,
    format::{block::block_bytes, frame::Frame},
    platform::sync::{Condvar, Mutex},
};

/// Something that waits for the disk.
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
    waiters: Arc<Waiters>,
}

#[derive(Default)]
struct QueueState {
    items: VecDeque<Work>,
    /// Number of the first of them.
    first: u64,
    /// Disk bytes that the queued frames take at most, each in a block of its own.
    disk_bytes: u64,
    /// Bytes left in the slot that is written to.
    slot_remaining: u64,
    /// Items below which the committer, which waits for more, is not woken.
    enough: usize,
    closing: bool,
    /// Nothing is taken any more, and who waits knows why: the committer has ended.
    ended: bool,
}

impl CommitQueue {
    /// Queues something; tells when everything up to it is durable. The caller holds the lock of
    /// the shard that decided it.
    pub(super) fn push(&self, work: Work) -> Queued {
        let mut state = self.state.lock();
        let queued = self.waiters.queued(state.first + state.items.len() as u64);
        // What comes after the end is never written, and no reader will ever see the state it was
        // decided by.
        if !state.ended {
            state.disk_bytes += work.disk_bytes();
            state.items.push_back(work);
            let is_enough = state.enough <= state.items.len();
            drop(state);
            if is_enough {
                self.wake.notify_one();
            }
        }
        queued
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
        let mut taken = Taken { items: Vec::new(), payload_bytes: 0, next_frame: None, until: 0 };
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
        state.first += taken.items.len() as u64;
        taken.until = state.first;
        taken
    }

    /// Waits for something to do, at most so long if a limit is given.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Woken {
        let mut state = self.state.lock();
        if state.items.is_empty() {
            drop(state);
            self.waiters.wake_rest();
            state = self.state.lock();
        }
        loop {
            if !state.items.is_empty() {
                return Woken::Work;
            }
            if state.closing {
                state.ended = true;
                self.waiters.end(&Error::ShuttingDown);
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

    /// Waits until enough is there for a block, as its rhythm says.
    pub(super) fn gather(&self, rhythm: Rhythm) {
        let is_enough = |state: &QueueState| rhythm.enough <= state.items.len() || state.closing;
        if is_enough(&self.state.lock()) {
            return;
        }
        // Who is waited for may not know yet that it was answered.
        self.waiters.wake_rest();
        let mut state = self.state.lock();
        state.enough = rhythm.enough;
        self.wake.wait_while_for(&mut state, |state| !is_enough(state), rhythm.wait_max);
        state.enough = 0;
    }

    /// Whether anybody waits until what is queued is durable, to go on with something else.
    pub(super) fn has_barrier(&self) -> bool {
        self.state.lock().items.iter().any(|item| matches!(item, Work::Barrier))
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Answers everything that was taken before `until`.
    pub(super) fn settle(&self, until: u64) {
        self.waiters.settle(until);
    }

    /// Wakes everybody who was answered and is not awake yet.
    pub(super) fn wake_rest(&self) {
        self.waiters.wake_rest();
    }

    /// Answers everything that is not settled with `error`, now and from now on; the first error is
    /// kept.
    pub(super) fn end(&self, error: &Error) {
        let mut state = self.state.lock();
        state.ended = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.waiters.end(error);
        drop(items);
    }
}

impl Drop for CommitQueue {
    fn drop(&mut self) {
        self.waiters.end(&never_told());
    }
}

/// What was taken from the queue.
pub(super) struct Taken {
    pub(super) items: Vec<Work>,
    pub(super) payload_bytes: usize,
    /// Bytes of the first frame that had to stay in the queue.
    pub(super) next_frame: Option<usize>,
    /// Number after the last that was ever taken.
    pub(super) until: u64,
}

/// Why a wait ended.
pub(super) enum Woken {
    Work,
    Idle,
    Closing,
}

impl Work {
    fn frame_bytes(&self) -> usize {
        match self {
            Self::Frame { frame, .. } => frame.bytes().len(),
            Self::Barrier => 0,
        }
    }

    fn disk_bytes(&self) -> u64 {
        match self {
            Self::Frame { frame, .. } => block_bytes(frame.bytes().len()) as u64,
            Self::Barrier => 0,
        }
    }
}
