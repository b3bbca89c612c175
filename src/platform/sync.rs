//! What threads share and wait by: locks, condition variables, atomics, threads themselves.
//!
//! The engine takes them from here and from nowhere else. In every build they are those of
//! `parking_lot` and `std`, by another name. A build with `--cfg shuttle` replaces them by those of
//! [Shuttle], which runs all threads on one, decides at every lock, wait and atomic access who
//! goes on, and so reaches interleavings that a machine shows once in a year. That is a build for
//! `tests/interleavings` only: nothing of it works outside of a Shuttle test.
//!
//! What it deliberately does not do: replace the channels of `tokio::sync`. They hold no lock while
//! they wait, so that a scheduler which decides before and after each call sees all they can do.
//!
//! [Shuttle]: https://docs.rs/shuttle

#[cfg(not(shuttle))]
mod real {
    pub(crate) use std::{
        sync::{atomic, mpsc},
        thread,
    };

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
}

#[cfg(not(shuttle))]
pub(crate) use real::*;

#[cfg(shuttle)]
mod scheduled;
#[cfg(shuttle)]
pub(crate) use scheduled::*;
