//! A clock that its holder moves.
//!
//! What it deliberately does not do: let time pass by itself, or wake anybody when it does.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::platform::Clock;

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<Mutex<ClockHands>>);

#[derive(Debug)]
struct ClockHands {
    mono: Duration,
    /// What the wall clock showed when `mono` was `set_at`.
    wall_ms: u64,
    set_at: Duration,
}

impl SimClock {
    /// A clock showing `wall_ms`.
    pub fn new(wall_ms: u64) -> Self {
        let hands = ClockHands { mono: Duration::ZERO, wall_ms, set_at: Duration::ZERO };
        Self(Arc::new(Mutex::new(hands)))
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        self.0.lock().mono += by;
    }

    /// Sets the wall clock, in either direction; the monotonic one goes on.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        let mut hands = self.0.lock();
        hands.wall_ms = wall_ms;
        hands.set_at = hands.mono;
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let hands = self.0.lock();
        hands.wall_ms + (hands.mono - hands.set_at).as_millis() as u64
    }

    fn mono(&self) -> Duration {
        self.0.lock().mono
    }
}
