//! Makes journal slots ready ahead of need, so that no commit waits for zeros to be written; and not
//! faster than that takes, so that commits hardly wait behind them either.
//!
//! A slot that left the journal is zeroed over its own blocks and used again; a new one is made
//! only while there are fewer than the store may have. A full disk, and a journal that is full
//! because what it holds could not be copied out of it yet, are waited for. If nothing can be copied
//! before what was admitted has a place, slots more are made than there may be, one by one: admission
//! looks at the journal before a frame is queued, and many look at the same time. Any other failure is
//! final, as everywhere in the journal: a sync that failed may succeed when it is repeated although
//! the slot, or its name, is not on the disk.

use std::{io, time::Duration};

use crate::{
    journal::{ReadySlot, RetiredSlot, prepare, prepare_again},
    platform::{
        Vfs, is_full,
        sync::{Condvar, Mutex},
    },
};

/// How long whoever zeroes a slot rests after a piece of it, while there is time.
const REST: Duration = Duration::from_millis(4);
/// How long after a full disk, or a reader in a retired slot, the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The next slot: wanted, being made, or ready.
pub(super) struct Supply {
    slot_bytes: u64,
    slots_max: u32,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    wanted: bool,
    /// Share of the time for it that is over.
    pressing: f64,
    ready: Option<ReadySlot>,
    /// Slots that left the journal, oldest first.
    retired: Vec<RetiredSlot>,
    /// Files in the journal's directory that no life of the store has listed and kept.
    unlisted: Vec<u32>,
    /// Slots that are part of the journal.
    listed: u32,
    /// Number of the next file that is new.
    slot_new: u32,
    /// All slots there may be are part of the journal.
    starved: bool,
    /// One slot more may be made, although all there may be are part of the journal.
    overdrawn: bool,
    /// The manifest has no room for another slot, and the disk none for another manifest.
    unlistable: bool,
    failure: Option<io::Error>,
    closing: bool,
}

/// Where the next slot stands.
pub(super) enum SupplyState {
    /// It can be taken, or it is known why it never can be.
    Settled,
    /// It is being made, or was not asked for.
    Making,
    /// There is no space for it; it is tried again.
    DiskFull,
    /// It has to be freed first.
    JournalFull,
}

/// The slots of the journal, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SlotCounts {
    /// Part of the journal.
    pub(super) used: u32,
    /// Made, and not part of it.
    pub(super) free: u32,
    /// That there may be.
    pub(super) max: u32,
}

impl Supply {
    /// A supply for a journal of `listed` slots; `unlisted` are files that are none of them, and
    /// new files are numbered from `slot_new` on.
    pub(super) fn new(
        slot_bytes: u64,
        slots_max: u32,
        listed: u32,
        unlisted: Vec<u32>,
        slot_new: u32,
    ) -> Self {
        let state = State {
            wanted: false,
            pressing: 0.0,
            ready: None,
            retired: Vec::new(),
            unlisted,
            listed,
            slot_new,
            starved: false,
            overdrawn: false,
            unlistable: false,
            failure: None,
            closing: false,
        };
        Self { slot_bytes, slots_max, state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Asks for a slot, unless one is ready or asked for already, or cannot be made. `pressing` is 0 if
    /// there is all the time for that which there ever is, and 1 if it is needed now.
    pub(super) fn want(&self, pressing: f64) {
        let mut state = self.state.lock();
        state.pressing = pressing;
        if state.ready.is_none() && !state.wanted && state.failure.is_none() {
            state.wanted = true;
            // Known before the next command is admitted, not when the thread that makes slots has
            // looked: what is kept for ends would be taken by others until then.
            state.source(self.slots_max);
            self.wake.notify_all();
        }
    }

    /// Has a slot made that is one too many: what was admitted has no place, and nothing can be copied
    /// out of the journal before that has one.
    pub(super) fn overdraw(&self) {
        let mut state = self.state.lock();
        if state.starved {
            (state.starved, state.overdrawn) = (false, true);
            self.wake.notify_all();
        }
    }

    /// Takes in a slot that left the journal.
    pub(super) fn retire(&self, slot: RetiredSlot) {
        let mut state = self.state.lock();
        state.listed -= 1;
        state.retired.push(slot);
        state.starved = false;
        self.wake.notify_all();
    }

    /// Takes the slot that is ready, if it is; it is about to be part of the journal.
    ///
    /// # Errors
    /// Why it cannot be made; the store must stop.
    pub(super) fn take_ready(&self) -> io::Result<Option<ReadySlot>> {
        let mut state = self.state.lock();
        if state.is_broken() {
            return state.failure.take().map_or(Ok(None), Err);
        }
        state.listed += u32::from(state.ready.is_some());
        Ok(state.ready.take())
    }

    /// Notes whether a slot can be listed by the manifest.
    pub(super) fn note_listing(&self, can: bool) {
        self.state.lock().unlistable = !can;
    }

    /// Whether the next slot is ready or will surely be.
    pub(super) fn outlook(&self) -> SupplyState {
        self.state.lock().outlook()
    }

    /// The slots, in numbers.
    pub(super) fn counts(&self) -> SlotCounts {
        let state = self.state.lock();
        let free = state.retired.len() + usize::from(state.ready.is_some());
        SlotCounts { used: state.listed, free: free as u32, max: self.slots_max }
    }

    /// Bytes of the slots that are not part of the journal.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.state.lock();
        let retired: u64 = state.retired.iter().map(RetiredSlot::bytes).sum();
        retired + state.ready.as_ref().map_or(0, |ready| ready.size)
    }

    /// Waits until something changes, at most until the next attempt.
    pub(super) fn wait(&self) -> SupplyState {
        let mut state = self.state.lock();
        if !state.is_settled() {
            self.wake.wait_for(&mut state, RETRY_AFTER);
        }
        state.outlook()
    }

    /// Makes the slot that is wanted; false if none is, or none can be now.
    #[cfg(feature = "sim")]
    pub(super) fn step(&self, vfs: &dyn Vfs) -> bool {
        self.make(vfs, &|_| {})
    }

    fn make(&self, vfs: &dyn Vfs, rest: &dyn Fn(u64)) -> bool {
        let source = self.state.lock().source(self.slots_max);
        let Some(source) = source else { return false };
        let made = match source {
            Source::Retired(slot) => prepare_again(vfs, slot, rest),
            Source::File(slot) => prepare(vfs, slot, self.slot_bytes, rest),
        };
        let mut state = self.state.lock();
        match made {
            Ok(ready) => {
                match source {
                    Source::Retired(slot) => state.retired.retain(|known| known.slot() != slot),
                    Source::File(slot) => {
                        state.unlisted.retain(|known| *known != slot);
                        state.slot_new = state.slot_new.max(slot + 1);
                    }
                }
                (state.ready, state.wanted, state.failure) = (Some(ready), false, None);
                state.overdrawn = false;
            }
            Err(error) => {
                tracing::warn!(%error, "could not make a journal slot ready");
                state.wanted = is_full(&error);
                state.failure = Some(error);
            }
        }
        self.wake.notify_all();
        true
    }

    /// Lets commits have the device for a moment, if so many bytes of the next slot are zero in half of
    /// the time there is for them.
    fn rest(&self, zeroed: u64) {
        let mut state = self.state.lock();
        if state.has_time(zeroed as f64 / self.slot_bytes as f64) {
            self.wake.wait_for(&mut state, REST);
        }
    }

    /// Makes slots until the store closes. It does not hurry before that is due.
    pub(super) fn run(&self, vfs: &dyn Vfs) {
        loop {
            let mut state = self.state.lock();
            while !state.wanted && !state.closing {
                self.wake.wait(&mut state);
            }
            if state.closing {
                return;
            }
            drop(state);
            if !self.make(vfs, &|zeroed| self.rest(zeroed)) || self.state.lock().failure.is_some() {
                let mut state = self.state.lock();
                if !state.closing {
                    self.wake.wait_for(&mut state, RETRY_AFTER);
                }
            }
        }
    }

    /// Ends [`run`](Self::run).
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_all();
    }
}

/// What a slot is made of.
#[derive(Clone, Copy)]
enum Source {
    /// A slot that left the journal.
    Retired(u32),
    /// A file of this number, made anew.
    File(u32),
}

impl State {
    /// What the slot that is wanted is to be made of; nothing if none is wanted, or if all there may
    /// be are part of the journal, which is noted.
    fn source(&mut self, slots_max: u32) -> Option<Source> {
        if !self.wanted {
            return None;
        }
        if let Some(free) = self.retired.iter().find(|slot| !slot.is_read()) {
            return Some(Source::Retired(free.slot()));
        }
        let files = self.listed + self.retired.len() as u32;
        self.starved = slots_max <= files && !self.overdrawn;
        if self.starved {
            return None;
        }
        Some(Source::File(self.unlisted.first().copied().unwrap_or(self.slot_new)))
    }

    /// Whether making a slot may rest of which this share is done.
    fn has_time(&self, done: f64) -> bool {
        !self.closing && 2.0 * self.pressing <= done && done < 1.0
    }

    fn outlook(&self) -> SupplyState {
        if self.is_settled() {
            SupplyState::Settled
        } else if self.is_full() {
            SupplyState::DiskFull
        } else if self.starved {
            SupplyState::JournalFull
        } else {
            SupplyState::Making
        }
    }

    fn is_full(&self) -> bool {
        self.unlistable || self.failure.as_ref().is_some_and(is_full)
    }

    fn is_broken(&self) -> bool {
        self.failure.as_ref().is_some_and(|error| !is_full(error))
    }

    fn is_settled(&self) -> bool {
        (self.ready.is_some() && !self.unlistable) || self.is_broken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn making_a_slot_rests_only_while_it_will_be_ready_in_half_of_the_time() {
        let supply = Supply::new(1 << 20, 3, 1, Vec::new(), 1);
        let has_time = |done| supply.state.lock().has_time(done);
        supply.want(0.0);
        assert!(has_time(0.01));
        supply.want(0.25);
        assert!(!has_time(0.49));
        assert!(has_time(0.5));
        assert!(!has_time(1.0), "the last piece is not synced yet");
        supply.want(1.0);
        assert!(!has_time(0.99), "it is needed now");
        supply.want(0.0);
        supply.close();
        assert!(!has_time(0.5));
    }

    #[test]
    fn that_the_journal_is_full_is_known_as_soon_as_a_slot_is_wanted() {
        for (listed, is_full) in [(2, false), (3, true)] {
            let supply = Supply::new(1 << 20, 3, listed, Vec::new(), listed);
            supply.want(0.0);
            assert_eq!(matches!(supply.outlook(), SupplyState::JournalFull), is_full);
        }
    }
}
