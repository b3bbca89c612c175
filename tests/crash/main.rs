//! What survives: a whole store on a simulated disk, cut, damaged and failing at every point.
//!
//! `power_cut` cuts the power at every operation, `damage` flips every bit, `corruption` damages at
//! random, `faults` fails every call, `turns` is about all that runs go through besides appends. All
//! of it is deterministic: a failure prints its seed and the command that repeats it.

#![allow(unreachable_pub, reason = "a test exports nothing")]

mod corruption;
mod damage;
mod faults;
mod life;
mod model;
mod packs;
#[path = "../support/planted.rs"]
mod planted;
mod power_cut;
mod standstill;
mod survey;
mod sweep;
mod turns;
mod watch;
mod workload;

/// A store that is opened and read allocates more than it computes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
