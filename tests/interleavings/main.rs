//! Interleavings: whole stores with all their threads, on a simulated disk, under a scheduler that
//! decides at every lock, wait and disk operation which thread goes on.
//!
//! A test is a small scene that is played under many schedules: half of them random, half with a
//! few changes of priority at random places, which finds bugs that need a thread to be overtaken
//! for long. Whoever waits for ever is found: all threads wait, or no more is done in many steps.
//! The schedules come from a seed; a failure prints the command that repeats it.
//!
//! A build of its own, because locks and threads are replaced in it:
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --target-dir target/shuttle --no-default-features \
//!     --features sabotage --test interleavings
//! ```
//!
//! `BRAIDLOG_SCHEDULES` says how many schedules of each scene, `BRAIDLOG_TEST_SEED` which.

#![cfg(shuttle)]
#![allow(unreachable_pub, reason = "a test exports nothing")]

mod disk;
mod endings;
mod explore;
mod inputs;
mod memory;
#[path = "../support/planted.rs"]
mod planted;
mod readers;
mod scene;
