//! Makes journal slots ahead of need, so that no commit waits for zeros to be written.
//!
//! A full disk is waited for. Any other failure is final, as everywhere in the journal: a sync that
//! failed may succeed when it is repeated although the slot, or its name, is not on the disk.

use std::{io, time::Duration};

use parking_lot::{Condvar, Mutex};

use crate::{
    journal::{ReadySlot, prepare},
    platform::Vfs,
};

/// How long after a full disk the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The next slot: wanted, being made, or ready.
pub(super) struct Supply {
    slot_bytes: u64,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    wanted: Option<u32>,
    ready: Option<ReadySlot>,
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
}

impl Supply {
    pub(super) fn new(slot_bytes: u64) -> Self {
        Self { slot_bytes, state: Mutex::default(), wake: Condvar::new() }
    }

    /// Asks for a slot, unless one is ready or asked for already, or cannot be made.
    pub(super) fn want(&self, slot: u32) {
        let mut state = self.state.lock();
        if state.ready.is_none() && state.wanted.is_none() && state.failure.is_none() {
            state.wanted = Some(slot);
            self.wake.notify_all();
        }
    }

    /// Takes the slot that is ready, if it is.
    ///
    /// # Errors
    /// Why it cannot be made; the store must stop.
    pub(super) fn take_ready(&self) -> io::Result<Option<ReadySlot>> {
        let mut state = self.state.lock();
        match state.is_broken() {
            true => state.failure.take().map_or(Ok(None), Err),
            false => Ok(state.ready.take()),
        }
    }

    /// Bytes of the slot that is ready, or that will surely be; none if the disk is full.
    pub(super) fn bytes_ahead(&self) -> Option<u64> {
        let state = self.state.lock();
        match (&state.ready, state.is_full()) {
            (Some(ready), _) => Some(ready.size),
            (None, true) => Some(0),
            (None, false) => None,
        }
    }

    /// Waits until something changes, at most until the next attempt on a full disk.
    pub(super) fn wait(&self) -> SupplyState {
        let mut state = self.state.lock();
        if !state.is_settled() {
            self.wake.wait_for(&mut state, RETRY_AFTER);
        }
        match (state.is_settled(), state.is_full()) {
            (true, _) => SupplyState::Settled,
            (false, true) => SupplyState::DiskFull,
            (false, false) => SupplyState::Making,
        }
    }

    /// Makes the slot that is wanted; false if none is.
    pub(super) fn step(&self, vfs: &dyn Vfs) -> bool {
        let Some(slot) = self.state.lock().wanted else { return false };
        let made = prepare(vfs, slot, self.slot_bytes);
        let mut state = self.state.lock();
        match made {
            Ok(ready) => {
                *state = State { ready: Some(ready), closing: state.closing, ..State::default() };
            }
            Err(error) => {
                tracing::warn!(%error, slot, "could not make a journal slot");
                if !is_full(&error) {
                    state.wanted = None;
                }
                state.failure = Some(error);
            }
        }
        self.wake.notify_all();
        true
    }

    /// Makes slots until the store closes.
    pub(super) fn run(&self, vfs: &dyn Vfs) {
        loop {
            let mut state = self.state.lock();
            while state.wanted.is_none() && !state.closing {
                self.wake.wait(&mut state);
            }
            if state.failure.is_some() && !state.closing {
                self.wake.wait_for(&mut state, RETRY_AFTER);
            }
            if state.closing {
                return;
            }
            drop(state);
            self.step(vfs);
        }
    }

    /// Ends [`run`](Self::run).
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_all();
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.failure.as_ref().is_some_and(is_full)
    }

    fn is_broken(&self) -> bool {
        self.failure.is_some() && !self.is_full()
    }

    fn is_settled(&self) -> bool {
        self.ready.is_some() || self.is_broken()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
