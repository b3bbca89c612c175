//! The state machine of a run against a model of it: random commands to a few runs that know each
//! other, with crashes and restarts between any two steps; and every order of the few commands
//! that could lose a wake-up.
//!
//! `BRAIDLOG_SEQUENCES` says how many sequences, `BRAIDLOG_SEED` which. One that fails says how it
//! is repeated alone, and then tells its steps.

mod commands;
mod document;
mod driver;
mod model;
#[path = "../support/planted.rs"]
mod planted;
mod wakeups;

use std::{
    env, fmt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use driver::{Totals, live};

/// Threads that each take their share of the sequences.
const THREADS: u64 = 2;

/// Whether a sequence has failed: others need not be begun.
static FAILED: AtomicBool = AtomicBool::new(false);

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Which sequence it is, to be told if it fails.
struct Place {
    seed: u64,
    sequence: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, sequence } = self;
        write!(f, "repeat with: BRAIDLOG_SEED={seed} BRAIDLOG_AT={sequence} ")?;
        write!(f, "cargo test --test model random_commands")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{self}");
            FAILED.store(true, Ordering::Relaxed);
        }
    }
}

/// The steps of a sequence of which every order is taken, to be told if they fail.
struct Steps<'a, S: fmt::Debug>(&'a [S]);

impl<S: fmt::Debug> Drop for Steps<'_, S> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("after {:?}", self.0);
        }
    }
}

#[test]
fn random_commands_do_to_a_run_what_they_do_to_its_model() {
    let seed = number("BRAIDLOG_SEED").unwrap_or(20_240_229);
    let sequences = number("BRAIDLOG_SEQUENCES").unwrap_or(100_000);
    if let Some(sequence) = number("BRAIDLOG_AT") {
        return live(seed, sequence, &mut Totals::default(), true);
    }
    let mut totals: Vec<Totals> = (0..THREADS).map(|_| Totals::default()).collect();
    thread::scope(|scope| {
        for (totals, thread) in totals.iter_mut().zip(0..) {
            // Each has its own, so that the same seed always does the same.
            scope.spawn(move || {
                let mut own = (thread..sequences).step_by(THREADS as usize);
                own.by_ref().take_while(|_| !FAILED.load(Ordering::Relaxed)).for_each(|sequence| {
                    let _place = Place { seed, sequence };
                    live(seed, sequence, totals, false);
                });
            });
        }
    });
    let mut all = Totals::default();
    totals.iter().for_each(|totals| all.add(totals));
    println!("seed {seed}: {:?}", all.counts);
    println!("refused: {:?}", all.refused);
}
