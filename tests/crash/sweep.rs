//! Sweeps: rounds of random trials, as many as are asked for, on all cores, and what is told when
//! one of them fails.
//!
//! What it deliberately does not do: share anything between rounds. A round is a matter of its seed
//! and its number alone, so that it can be repeated without those before it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

/// Where a sweep is, to be told if it fails.
pub struct Place {
    /// The tests that sweep.
    pub tests: &'static str,
    pub seed: u64,
    pub round: u64,
    /// Of a trial in its round.
    pub trial: u64,
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tests, seed, round, trial, what } = self;
        writeln!(f, "seed {seed}, round {round}, trial {trial}: {what}")?;
        write!(
            f,
            "repeat with: BRAIDLOG_SEED={seed} BRAIDLOG_AT={round}:{trial} cargo test \
             --no-default-features --features sim --test crash {tests}"
        )
    }
}

/// Whether a round has failed: others need not be finished.
static FAILED: AtomicBool = AtomicBool::new(false);

impl Drop for Place {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{self}");
            FAILED.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether a round has failed, on any thread.
pub fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

pub fn add(total: &AtomicU64, n: u64) {
    total.fetch_add(n, Ordering::Relaxed);
}

/// One round of a sweep.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub seed: u64,
    pub number: u64,
    /// The only trial to make.
    pub only: Option<u64>,
}

/// How far to sweep, and from which seed.
pub struct Sweep {
    pub seed: u64,
    /// Trials, at least.
    pub wanted: u64,
    /// The only trial of the only round, as `BRAIDLOG_AT` has it.
    only: Option<(u64, u64)>,
}

impl Sweep {
    /// As far as the environment says.
    pub fn new(amount: &str, default: u64) -> Self {
        let (seed, wanted) = (number("BRAIDLOG_SEED", 20_240_229), number(amount, default));
        let only = std::env::var("BRAIDLOG_AT").ok().map(|text| {
            let parts = text
                .split_once(':')
                .and_then(|(round, trial)| Some((round.parse().ok()?, trial.parse().ok()?)));
            parts.expect("BRAIDLOG_AT is round:trial")
        });
        Self { seed, wanted, only }
    }

    /// Makes rounds until the trials are as many as are wanted. Returns what each thread counted;
    /// nothing if there was but one trial to make.
    pub fn run<T: Default + Send + Sync>(
        &self,
        trials: impl Fn(&T) -> &AtomicU64 + Sync,
        make: impl Fn(&T, Round) + Sync,
    ) -> Option<Vec<T>> {
        let seed = self.seed;
        if let Some((number, trial)) = self.only {
            make(&T::default(), Round { seed, number, only: Some(trial) });
            return None;
        }
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let totals: Vec<T> = (0..threads).map(|_| T::default()).collect();
        thread::scope(|scope| {
            for (totals, thread) in totals.iter().zip(0..) {
                let (trials, make) = (&trials, &make);
                // Each stops by its own count, so that the same seed always does the same.
                scope.spawn(move || {
                    let mut number = thread;
                    while trials(totals).load(Ordering::Relaxed) < self.wanted.div_ceil(threads)
                        && !has_failed()
                    {
                        make(totals, Round { seed, number, only: None });
                        number += threads;
                    }
                });
            }
        });
        Some(totals)
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}
