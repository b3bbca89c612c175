//! Makes journal slots ahead of need, so that no commit waits for zeros to be written.

use std::{io, time::Duration};

use parking_lot::{Condvar, Mutex};

use crate::{
    journal::{ReadySlot, prepare},
    platform::Vfs,
};

/// How long after a failure the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Failures in a row, other than a full disk, after which the store stops.
const FAILURES_MAX: u32 = 3;

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
    failures: u32,
    closing: bool,
}

/// Where the next slot stands.
pub(super) enum SupplyState {
    /// It can be taken.
    Ready,
    /// It is being made, or was not asked for.
    Making,
    /// There is no space for it; it is tried again.
    DiskFull,
    /// It cannot be made.
    Broken(io::Error),
}

impl Supply {
    pub(super) fn new(slot_bytes: u64) -> Self {
        Self { slot_bytes, state: Mutex::default(), wake: Condvar::new() }
    }

    /// Asks for a slot, unless one is ready or asked for already.
    pub(super) fn want(&self, slot: u32) {
        let mut state = self.state.lock();
        if state.ready.is_none() && state.wanted.is_none() {
            state.wanted = Some(slot);
            self.wake.notify_all();
        }
    }

    /// Takes the slot that is ready.
    pub(super) fn take_ready(&self) -> Option<ReadySlot> {
        self.state.lock().ready.take()
    }

    /// Bytes of the slot that is ready, or that will surely be; none if the disk is full.
    pub(super) fn bytes_ahead(&self) -> Option<u64> {
        let state = self.state.lock();
        match (&state.ready, is_full(&state)) {
            (Some(ready), _) => Some(ready.size),
            (None, true) => Some(0),
            (None, false) => None,
        }
    }

    /// Waits until something changes, at most until the next attempt after a failure.
    pub(super) fn wait(&self) -> SupplyState {
        let mut state = self.state.lock();
        if state.ready.is_none() {
            self.wake.wait_for(&mut state, RETRY_AFTER);
        }
        if state.ready.is_some() {
            return SupplyState::Ready;
        }
        if is_full(&state) {
            return SupplyState::DiskFull;
        }
        match state.failures {
            FAILURES_MAX.. => state.failure.take().map_or(SupplyState::Making, SupplyState::Broken),
            _ => SupplyState::Making,
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
                state.failures += 1;
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

fn is_full(state: &State) -> bool {
    let full = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    state.failure.as_ref().is_some_and(full)
}
