//! The whole server in a simulation: the gRPC services on a simulated network, the store on a
//! simulated disk, and time that passes only when it is told to.
//!
//! Writers append under producer numbers and repeat what they do not know the outcome of, by
//! themselves or by the client; sessions stream many batches at a time; tails follow and resume, from
//! cursors or from indexes, some of them slowly; inputs are sent, and consumers answer them under
//! leases. All of it is the client and the server as they are, on other connections. Meanwhile links
//! are cut, one way or both, and held up, clients die and come back, the server is told to stop or
//! killed, and its power is cut, also in the middle of an operation of its disk.
//!
//! At the end all is well again, and then everybody has to come to an end. Each log must explain all
//! that anybody was told; each tail has seen its log once, in order; each input has one answer. All
//! of it comes from a seed: the same seed gives the same trace, moment by moment.
//!
//! `BRAIDLOG_HISTORIES` says how many histories, `BRAIDLOG_TEST_SEED` where their seeds begin.

#![cfg(all(feature = "sim", feature = "grpc", feature = "client"))]
#![allow(clippy::disallowed_methods, reason = "a test is no part of what runs in simulation")]

mod callers;
#[path = "../kill/history.rs"]
mod calls;
mod chance;
mod history;
mod machine;
#[path = "../support/planted.rs"]
mod planted;
mod trace;
mod wire;

use std::{
    env,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use self::{history::play, trace::Tally};

/// Histories, unless said otherwise.
const HISTORIES: u64 = 12;
/// From the seed of a history to that of the next: far, so that those of neighbours differ.
const STRIDE: u64 = 1_000_003;
/// The seed of the one history that a process is to play.
const SEED: &str = "BRAIDLOG_HISTORY";

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Plays a history in a process of its own; the lines that it has printed, and whether it went well.
/// What a library counts for a whole process would be another number in the second history of one.
fn play_apart(seed: u64) -> Result<Vec<String>, String> {
    let mut command = Command::new(env::current_exe().expect("the path of the tests"));
    command.args(["--exact", "a_history_is_played_apart", "--ignored", "--nocapture"]);
    command.env(SEED, seed.to_string()).stdin(Stdio::null());
    let ended = command.output().expect("the tests start");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    match ended.status.success() {
        true => Ok(said.lines().map(str::to_owned).collect()),
        false => Err(format!(
            "{}\nrepeat with: BRAIDLOG_TEST_SEED={seed} BRAIDLOG_HISTORIES=1 cargo test \
             --all-features --test network nobody -- --nocapture",
            String::from_utf8_lossy(&ended.stderr)
        )),
    }
}

/// What follows such a word in a line.
fn told<'a>(lines: &'a [String], word: &str) -> &'a str {
    lines.iter().find_map(|line| line.strip_prefix(word)).expect("it is told")
}

/// Not a test: the process of a history, which the others start. By hand:
/// `BRAIDLOG_HISTORY=1 cargo test --all-features --test network -- --ignored --nocapture`
#[test]
#[ignore = "the others have it played"]
fn a_history_is_played_apart() {
    let Some(seed) = number(SEED) else { return };
    planted::plant();
    let trace = play(seed);
    // The name of the test may stand in the line that is written to.
    println!();
    trace.events.iter().for_each(|(ms, what)| println!("{ms} {what:?}"));
    println!("trace {:016x}\ncounts {}", trace.hash(), trace.tally());
    let problem = trace.problem();
    assert!(problem.is_none(), "{}", problem.unwrap_or_default());
}

#[test]
fn nobody_is_told_what_is_not_so_and_nobody_waits_for_ever() {
    let first = number("BRAIDLOG_TEST_SEED").unwrap_or(20_240_229);
    let histories = number("BRAIDLOG_HISTORIES").unwrap_or(HISTORIES);
    let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut tally = Tally::default();
        while !has_failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if histories <= at {
                break;
            }
            match play_apart(first.wrapping_add(at.wrapping_mul(STRIDE))) {
                Ok(lines) => tally.add(&Tally::parse(told(&lines, "counts "))),
                Err(problem) => {
                    has_failed.store(true, Ordering::Relaxed);
                    panic!("{problem}");
                }
            }
        }
        tally
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut all = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.add(&worker.join().expect("no history fails"));
        }
    });
    println!("level network: {all}, lost, doubled, reordered or wrong: 0, seed: {first}");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let seed = number("BRAIDLOG_TEST_SEED").unwrap_or(7);
    let [one, again, other] = [seed, seed, seed + 1].map(|seed| {
        let played = play_apart(seed);
        played.unwrap_or_else(|problem| panic!("{problem}"))
    });
    let is_event = |line: &&String| line.starts_with(|first: char| first.is_ascii_digit());
    let events = |lines: &[String]| lines.iter().filter(is_event).cloned().collect::<Vec<_>>();
    for (one, again) in events(&one).iter().zip(&events(&again)) {
        assert_eq!(one, again, "seed {seed}");
    }
    let hash = told(&one, "trace ");
    assert_eq!(hash, told(&again, "trace "), "seed {seed}");
    assert_ne!(hash, told(&other, "trace "), "seed {seed}");
    println!("seed {seed}: {} events, trace {hash} twice", events(&one).len());
}
