//! Power cuts under a real kernel and a real file system.
//!
//! A store in a process of its own writes to ext4 or XFS on a loop device, whose file is a disk
//! with a volatile write cache: a FUSE server of this process. The power is cut at random points
//! of progress; what was not flushed survives in part. Then the store is killed, everything is
//! unmounted, the power comes back, the file system is mounted and replays its journal, and another
//! process opens the store and reads every run. All that was acknowledged must be there, exactly.
//! At last the same is done with a store that does not sync its journal: it must lose something,
//! else nothing was proven.
//!
//! ```text
//! cargo test --all-features --test powercut [-- --cuts 50 --seed 1]
//! ```
//!
//! Needs Linux, root, `/dev/fuse`, loop devices and `mkfs.ext4`, or `mkfs.xfs`; says loudly what
//! does not run without. What it deliberately does not do: choose moments in time, or touch a
//! device that it did not make.

#![allow(clippy::disallowed_methods, reason = "a test is no part of what runs in simulation")]
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused))]

mod disk;
#[cfg(target_os = "linux")]
mod fuse;
mod ledger;
#[cfg(target_os = "linux")]
mod machine;
#[path = "../support/planted.rs"]
mod planted;
mod store;

use std::{env, process::ExitCode};

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("store") => return store::work(&args[2]),
        Some("check") => return store::check(&args[2]),
        _ => {}
    }
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or(default, |text| text.parse().expect("a number"))
    };
    machine::run(number("--cuts", 50), number("--seed", 20_240_229))
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    println!("**** NOT RUN: power cuts need Linux ****");
    println!("test result: ok. 0 passed; 0 failed; 1 ignored;");
    ExitCode::SUCCESS
}
