//! What waits to be copied out of the journal, and how much haste that has.
//!
//! Copying a round at once would take a processor from those who wait for an answer, for as long as the
//! round lasts. So whoever copies rests after every block of a pack, the less the more waits meanwhile:
//! it becomes as fast as what comes in. The fuller the journal, the less it rests, too; and not at all
//! while somebody waits for the round. Before it is outrun it makes haste: what it writes is then larger,
//! and takes less of the processors.
//!
//! What it deliberately does not do: know what is copied, or in which order.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    platform::sync::{
        Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    sabotage::{self, Bug},
};

/// How long whoever copies rests after a block of a pack, if nothing waits: ten times as long as 64 KiB
/// of frames take to be compressed. It copies 15 MiB a second then.
const REST_MAX: Duration = Duration::from_millis(4);
/// A shorter rest is not worth the call.
const REST_MIN: Duration = Duration::from_micros(100);
/// Share of what may wait from which on whoever copies makes haste: rests are half a millisecond there.
const HASTE_FROM: f64 = 0.875;

/// How much waits to be copied, and who waits for it.
#[derive(Default)]
pub(super) struct FlushQueue {
    bytes: AtomicU64,
    /// Of these, bytes that are in a pack which is not listed yet.
    written: AtomicU64,
    state: Mutex<QueueState>,
    wake: Condvar,
    /// Number of rounds that were asked for and done.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct QueueState {
    asked: u64,
    closing: bool,
}

impl FlushQueue {
    /// Notes frames that became visible.
    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes frames that were written into a pack.
    pub(super) fn note_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that a pack is listed into which so many bytes were written.
    pub(super) fn note_listed(&self, bytes: u64) {
        self.written.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes that the packs that were being written are given up.
    pub(super) fn note_given_up(&self) {
        self.written.store(0, Ordering::Relaxed);
    }

    /// Notes frames that were copied.
    pub(super) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of frames that wait to be copied.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of these, bytes that are in no pack, not even in one that is not listed yet.
    pub(super) fn unwritten(&self) -> u64 {
        self.bytes().saturating_sub(self.written.load(Ordering::Relaxed))
    }

    /// Whether so much waits to be copied that nothing more is taken.
    pub(super) fn is_crowded(&self, bytes_max: u64) -> bool {
        bytes_max < self.bytes()
    }

    /// Asks for a round; the receiver tells rounds done, the number is the one to wait for.
    pub(super) fn ask(&self) -> (u64, watch::Receiver<u64>) {
        let mut state = self.state.lock();
        state.asked += 1;
        self.wake.notify_all();
        (state.asked, self.rounds.subscribe())
    }

    /// Ends the flusher. Whoever waits for a round is woken: it may never be done.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_all();
        if !sabotage::is(Bug::CloseWithoutWake) {
            self.rounds.send_modify(|_| {});
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    pub(super) fn asked(&self) -> u64 {
        self.state.lock().asked
    }

    /// The last round that was asked for and is done.
    pub(super) fn answered(&self) -> u64 {
        *self.rounds.borrow()
    }

    /// Notes that the rounds are done that were asked for up to this one.
    pub(super) fn answer(&self, answered: u64) {
        self.rounds.send_replace(answered);
    }

    /// Rests for a moment: the shorter, the nearer what is still to be written into a pack is to
    /// `waiting_max` bytes, or the less room there is in the journal, of 1; and not at all while somebody
    /// waits for a round.
    pub(super) fn rest(&self, waiting_max: u64, room: f64) {
        let mut state = self.state.lock();
        let rest = self.rest_now(&state, waiting_max, room);
        if REST_MIN <= rest {
            self.wake.wait_for(&mut state, rest);
        }
    }

    fn rest_now(&self, state: &QueueState, waiting_max: u64, room: f64) -> Duration {
        if state.closing || self.answered() < state.asked {
            return Duration::ZERO;
        }
        let left = waiting_max.saturating_sub(self.unwritten());
        REST_MAX.mul_f64(room.min(left as f64 / waiting_max as f64))
    }

    /// Whether what comes in is about to outrun who copies it, when `waiting_max` bytes are urgent.
    pub(super) fn is_behind(&self, waiting_max: u64) -> bool {
        HASTE_FROM * waiting_max as f64 <= self.unwritten() as f64
    }

    /// Waits until a round may be due, which one is that was asked for after `answered`; false when
    /// the store closes.
    pub(super) fn wait(&self, answered: u64, limit: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.closing && state.asked <= answered {
            self.wake.wait_for(&mut state, limit);
        }
        !state.closing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(queue: &FlushQueue) -> Duration {
        rest_with_room(queue, 1.0)
    }

    fn rest_with_room(queue: &FlushQueue, room: f64) -> Duration {
        queue.rest_now(&queue.state.lock(), 100, room)
    }

    #[test]
    fn copying_rests_the_less_the_more_waits_and_never_while_somebody_does() {
        let queue = FlushQueue::default();
        assert_eq!(rest(&queue), REST_MAX);
        queue.add(50);
        assert_eq!(rest(&queue), REST_MAX / 2);
        assert_eq!(rest_with_room(&queue, 0.75), REST_MAX / 2);
        assert_eq!(rest_with_room(&queue, 0.25), REST_MAX / 4, "the journal fills");
        assert_eq!(rest_with_room(&queue, 0.0), Duration::ZERO);
        queue.add(50);
        assert_eq!(rest(&queue), Duration::ZERO);
        queue.add(1);
        assert_eq!(rest(&queue), Duration::ZERO, "more than that");
        queue.note_written(51);
        assert_eq!(rest(&queue), REST_MAX / 2, "what is in a pack does not wait");
        queue.note_given_up();
        assert_eq!(rest(&queue), Duration::ZERO, "the pack is not there any more");
        queue.note_written(51);
        queue.note_listed(51);
        queue.remove(51);
        assert_eq!(rest(&queue), REST_MAX / 2, "what is listed is copied");

        let (round, _told) = queue.ask();
        assert_eq!(rest(&queue), Duration::ZERO, "somebody waits for a round");
        queue.answer(round);
        assert_eq!(rest(&queue), REST_MAX / 2);
        queue.close();
        assert_eq!(rest(&queue), Duration::ZERO, "the store closes");
    }

    #[test]
    fn copying_is_behind_before_it_is_outrun() {
        let queue = FlushQueue::default();
        queue.add(87);
        let _told = queue.ask();
        assert!(!queue.is_behind(100), "whoever waits for a round has the time that it takes");
        queue.add(1);
        assert!(queue.is_behind(100));
        queue.note_written(1);
        assert!(!queue.is_behind(100), "what is in a pack does not wait");
    }
}
