//! The same under Shuttle's scheduler, in the manner of `parking_lot`: no poison, and a wait that
//! borrows the guard.
//!
//! Time does not pass here. A wait with a limit may be over after any number of steps of the other
//! threads, however long its limit is: the scheduler decides that too.

use std::{
    ops::{Deref, DerefMut},
    sync::{LockResult, PoisonError},
    time::Duration,
};

use shuttle::{
    rand::{Rng, thread_rng},
    sync,
};
pub(crate) use shuttle::{
    sync::{atomic, mpsc},
    thread,
};

use self::atomic::{AtomicU64, Ordering};

/// Steps of others after which a wait with a limit is over, at most.
const PATIENCE_MAX: u32 = 8;

fn sound<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// A lock.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T: ?Sized>(sync::Mutex<T>);

/// A lock that is held.
pub(crate) struct MutexGuard<'a, T: ?Sized> {
    lock: &'a sync::Mutex<T>,
    /// None only inside of a wait.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { lock: &self.0, held: Some(sound(self.0.lock())) }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held outside of a wait")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held outside of a wait")
    }
}

/// A lock for many readers.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T: ?Sized>(sync::RwLock<T>);

impl<T: ?Sized> RwLock<T> {
    pub(crate) fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        sound(self.0.read())
    }

    pub(crate) fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        sound(self.0.write())
    }
}

/// What waits for a change under a lock.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    inner: sync::Condvar,
    /// Calls so far, for those who wait with a limit.
    calls: AtomicU64,
}

/// How a wait with a limit ended.
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held outside of a wait");
        guard.held = Some(sound(self.inner.wait(held)));
    }

    pub(crate) fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        _limit: Duration,
    ) -> WaitTimeoutResult {
        let before = self.calls.load(Ordering::SeqCst);
        drop(guard.held.take());
        let patience = thread_rng().gen_range(0..=PATIENCE_MAX);
        let is_called = (0..patience).any(|_| {
            thread::yield_now();
            self.calls.load(Ordering::SeqCst) != before
        });
        guard.held = Some(sound(guard.lock.lock()));
        WaitTimeoutResult(!is_called)
    }

    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        limit: Duration,
    ) -> WaitTimeoutResult {
        while condition(guard) {
            if self.wait_for(guard, limit).timed_out() {
                return WaitTimeoutResult(condition(guard));
            }
        }
        WaitTimeoutResult(false)
    }

    pub(crate) fn notify_one(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.notify_all();
    }
}
