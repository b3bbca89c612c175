//! Time and chance of a thread that simulates: the clock of the simulation, and a seed.
//!
//! The simulation gives the store its clock and its randomness. What libraries ask the system for by
//! themselves, keys of hash tables, pauses of clients, the date of an answer, comes through two calls
//! of the C library. On a thread that simulates, those are answered here; on all others, by the system.
//! Only so does the same seed give the same trace.
//!
//! What it deliberately does not do: anything on other systems than 64-bit Linux, where a seed may be
//! played a little differently from one time to the next.

#![allow(unsafe_code, reason = "the C library is replaced for a thread")]

use std::{cell::Cell, time::Duration};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Since the epoch, when a simulation begins.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// From here on this thread has the randomness of a seed.
pub(crate) fn simulate(seed: u64) {
    SEED.set(Some(seed));
    set_elapsed(Duration::ZERO);
}

/// How long the simulation of this thread has lasted.
pub(crate) fn set_elapsed(elapsed: Duration) {
    NOW.set(Some(EPOCH + elapsed));
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod replaced {
    use std::slice;

    use braidlog::platform::sim::SimRng;
    use rustix::{
        rand::GetRandomFlags,
        time::{ClockId, Timespec},
    };

    use super::{NOW, SEED};

    #[unsafe(no_mangle)]
    extern "C" fn getrandom(buffer: *mut u8, len: usize, flags: u32) -> isize {
        // SAFETY: the caller gives a buffer of this length, as it would to the C library.
        let bytes = unsafe { slice::from_raw_parts_mut(buffer, len) };
        // Nothing is asked for once in a process, to see that it can be.
        if bytes.is_empty() {
            return 0;
        }
        if let Some(seed) = SEED.get() {
            let mut rng = SimRng::new(seed);
            rng.fill(bytes);
            SEED.set(Some(rng.next_u64()));
            return len as isize;
        }
        let filled = rustix::rand::getrandom(bytes, GetRandomFlags::from_bits_retain(flags));
        filled.map_or(-1, |filled| filled as isize)
    }

    #[unsafe(no_mangle)]
    extern "C" fn clock_gettime(clock: i32, to: *mut Timespec) -> i32 {
        let time = match NOW.get() {
            Some(now) => {
                Timespec { tv_sec: now.as_secs() as i64, tv_nsec: now.subsec_nanos().into() }
            }
            None => rustix::time::clock_gettime(match clock {
                0 => ClockId::Realtime,
                _ => ClockId::Monotonic,
            }),
        };
        // SAFETY: the caller gives room for a time, as it would to the C library.
        unsafe { to.write(time) };
        0
    }
}

#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
mod tests {
    use std::{
        hash::{BuildHasher, RandomState},
        thread,
        time::{Instant, SystemTime},
    };

    use braidlog::platform::{Entropy, os::OsEntropy};

    use super::*;

    fn drawn(seed: u64) -> (u64, [u8; 16], Instant, SystemTime) {
        let thread = thread::spawn(move || {
            simulate(seed);
            let hash = RandomState::new().hash_one(1);
            let mut bytes = [0; 16];
            OsEntropy.fill(&mut bytes);
            (hash, bytes, Instant::now(), SystemTime::now())
        });
        thread.join().expect("no panic")
    }

    #[test]
    fn time_and_chance_are_those_of_the_seed_where_one_is_simulated() {
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1).0, drawn(2).0);
        assert_ne!(drawn(1).1, drawn(2).1);
        let (mut one, mut other) = ([0; 16], [0; 16]);
        OsEntropy.fill(&mut one);
        OsEntropy.fill(&mut other);
        assert_ne!(one, other);
        assert!(SystemTime::UNIX_EPOCH + EPOCH < SystemTime::now());
    }
}
