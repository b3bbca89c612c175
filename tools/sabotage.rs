//! `braidlog-sabotage`: plants one bug after the other and demands that the tests notice.
//!
//! ```text
//! cargo run --features sabotage --bin braidlog-sabotage [NAME...]
//! ```
//!
//! Each bug of [`Bug::ALL`], or each one named, is planted in test processes of its own: those
//! levels run that could notice it, one after the other, until one fails as a test fails. At the
//! end a table is printed, and the exit status is 1 if a bug was not caught, or if a level failed
//! that has no bug in it.
//!
//! What it deliberately does not do: count a test that does not end as one that failed.

#![allow(clippy::disallowed_methods, reason = "it starts the tests, and takes their time")]

mod levels;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    sync::{
        Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use braidlog::sabotage::Bug;

use self::levels::{Build, Running, Tests};

/// How long a level may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Bugs that are tried at a time.
const AT_ONCE: usize = 2;

/// Tests that can be run by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Power is cut at every operation, three crashes deep.
    PowerCut,
    /// The same for turns, inputs, waits and leases.
    Turns,
    /// Sectors zeroed, blocks and files cut short and moved, bits flipped here and there, in the
    /// journal and its like.
    Damage,
    /// Every bit of a small store flipped.
    Flips,
    /// The same for packs.
    Packs,
    /// Every sync fails.
    Faults,
    /// Random commands against a model of a run.
    Model,
    /// Every order of the few commands that could lose a wake-up.
    Wakeups,
    /// The state machine, command by command.
    Core,
    /// Whole stores with their threads, under a scheduler.
    Interleavings,
    /// The whole server and its clients over a simulated network.
    Network,
}

/// The tests of levels that are built as everything is.
const COMMON: Build<'_> = Build {
    names: &["crash", "model", "core", "network"],
    args: &["--all-features"],
    rustflags: None,
};
/// How [`Level::Interleavings`] is built.
const SCHEDULED: Build<'_> = Build {
    names: &["interleavings"],
    args: &["--no-default-features", "--features", "sabotage", "--target-dir", "target/shuttle"],
    rustflags: Some("--cfg shuttle"),
};

impl Level {
    /// The test binary, and which of its tests.
    fn tests(self) -> (&'static str, &'static str) {
        match self {
            Self::PowerCut => ("crash", "power_cut::"),
            Self::Turns => ("crash", "turns::"),
            Self::Damage => ("crash", "damage::"),
            Self::Flips => ("crash", "damage::every_flipped_bit"),
            Self::Packs => ("crash", "packs::"),
            Self::Faults => ("crash", "faults::every_failing_sync"),
            Self::Model => ("model", "random_commands"),
            Self::Wakeups => ("model", "wakeups::"),
            Self::Core => ("core", ""),
            Self::Interleavings => ("interleavings", ""),
            Self::Network => ("network", "nobody_is_told"),
        }
    }

    /// Levels that could notice a bug, the likeliest first.
    fn against(bug: Bug) -> &'static [Self] {
        match bug {
            Bug::IgnoreHeaderCrc
            | Bug::IgnorePayloadCrc
            | Bug::IgnorePrevCrc
            | Bug::IgnoreFileSeq
            | Bug::IgnoreTrailer
            | Bug::IgnoreNextSlot
            | Bug::IgnoreLaterBlock
            | Bug::IgnoreCleanMark
            | Bug::IgnoreUnlistedSlot
            | Bug::IgnoreFrameCrc
            | Bug::DamagedIsTorn
            | Bug::SameSalt
            | Bug::NoMask => &[Self::Damage, Self::Flips, Self::PowerCut],
            Bug::IgnorePackBlockCrc | Bug::IgnorePackIndexCrc | Bug::TrustPackWrites => {
                &[Self::Packs]
            }
            Bug::RetryFailedSync | Bug::GoOnAfterFailure => &[Self::Faults],
            Bug::IgnoreFrameChain => &[Self::Core, Self::Model, Self::Damage],
            Bug::IgnoreLease
            | Bug::TrimOwedInputs
            | Bug::FloorPassesOwed
            | Bug::ClosedBeforeDuplicate
            | Bug::IgnoreContentOfRepetition
            | Bug::ProducerOutsideFrame => &[Self::Model, Self::Core],
            Bug::WaitWithoutCheck => &[Self::Model, Self::Wakeups],
            Bug::TurnInTwoFrames => &[Self::Turns],
            Bug::CloseWithoutWake
            | Bug::ListenAfterLook
            | Bug::KeepMemoryOfRefused
            | Bug::ReleaseWithoutWake
            | Bug::ForgetEnd
            | Bug::TellBeforeNote
            | Bug::WakeBeforeEnd
            | Bug::ForgetBeforeShelf => &[Self::Interleavings],
            Bug::AckOutOfTurn | Bug::ResendAsNew | Bug::RepeatUnnumbered | Bug::SkipOnResume => {
                &[Self::Network]
            }
            _ => &[Self::PowerCut, Self::Turns],
        }
    }
}

/// How a level ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed,
    NotInTime,
}

/// Runs a level, with or without a bug.
fn run(tests: &Tests, level: Level, bug: Option<Bug>) -> Ended {
    let (binary, filter) = level.tests();
    let mut command = Command::new(tests.path(binary));
    command.args([filter, "--test-threads", "1"]);
    if level == Level::Damage {
        command.args(["--skip", "every_flipped_bit"]);
    }
    command.env("BRAIDLOG_CRASH_POINTS", "10000").env("BRAIDLOG_SEQUENCES", "6000");
    command.env("BRAIDLOG_HISTORIES", "30");
    bug.map(|bug| command.env("BRAIDLOG_SABOTAGE", bug.name()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().expect("the tests start"));
    let stdout = BufReader::new(running.0.stdout.take().expect("piped"));
    let (failed, told) = mpsc::channel();
    // Ends with the process. One test that fails is enough.
    thread::spawn(move || {
        let mut lines = stdout.lines().map_while(Result::ok);
        if lines.any(|line| line.ends_with("... FAILED")) {
            let _ = failed.send(());
        }
    });
    match told.recv_timeout(LIMIT) {
        Ok(()) => Ended::Failed,
        Err(RecvTimeoutError::Timeout) => Ended::NotInTime,
        Err(RecvTimeoutError::Disconnected) => match running.0.wait().expect("status").success() {
            true => Ended::Passed,
            false => Ended::Failed,
        },
    }
}

/// What became of a bug.
struct Tried {
    bug: Bug,
    ended: Vec<(Level, Ended)>,
    took: Duration,
}

impl Tried {
    fn new(tests: &Tests, bug: Bug) -> Self {
        let started = Instant::now();
        let mut ended = Vec::new();
        for &level in Level::against(bug) {
            ended.push((level, run(tests, level, Some(bug))));
            if ended.last().is_some_and(|(_, ended)| *ended == Ended::Failed) {
                break;
            }
        }
        Self { bug, ended, took: started.elapsed() }
    }

    fn caught_by(&self) -> Option<Level> {
        self.ended.last().filter(|(_, ended)| *ended == Ended::Failed).map(|(level, _)| *level)
    }

    fn row(&self) -> String {
        let caught = match self.caught_by() {
            Some(level) => format!("{level:?}"),
            None => format!("NOT CAUGHT: {:?}", self.ended),
        };
        format!("| {:?} | {caught} | {:.1} |", self.bug, self.took.as_secs_f64())
    }
}

/// Does the same to many, a few at a time; results are in order.
fn each<T: Copy + Send + Sync, R: Send>(of: &[T], work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (next, done) = (Mutex::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = {
                        let mut next = next.lock().expect("not poisoned");
                        *next += 1;
                        *next - 1
                    };
                    let Some(&one) = of.get(at) else { return };
                    let result = work(one);
                    done.lock().expect("not poisoned").insert(at, result);
                }
            });
        }
    });
    done.into_inner().expect("not poisoned").into_values().collect()
}

fn main() -> ExitCode {
    let named: Vec<Bug> = env::args()
        .skip(1)
        .map(|name| Bug::named(&name).unwrap_or_else(|| panic!("no bug is named {name}")))
        .collect();
    let bugs = if named.is_empty() { Bug::ALL.to_vec() } else { named };
    let tests = Tests::build(&[COMMON, SCHEDULED]);
    let started = Instant::now();
    let mut levels: Vec<Level> =
        bugs.iter().flat_map(|bug| Level::against(*bug)).copied().collect();
    levels.sort();
    levels.dedup();
    let sound = each(&levels, |level| {
        let started = Instant::now();
        let ended = run(&tests, level, None);
        println!("without a bug, {level:?}: {ended:?}, {:.1} s", started.elapsed().as_secs_f64());
        ended
    });
    println!("\n| bug | caught by | seconds |\n|---|---|---|");
    let tried = each(&bugs, |bug| {
        let tried = Tried::new(&tests, bug);
        println!("{}", tried.row());
        tried
    });
    let caught = tried.iter().filter(|tried| tried.caught_by().is_some()).count();
    let failed = tried.len() - caught + sound.iter().filter(|e| **e != Ended::Passed).count();
    println!(
        "\nplanted bugs: {}, caught: {caught}; levels without a bug: {}, all {} s",
        tried.len(),
        levels.len(),
        started.elapsed().as_secs()
    );
    let passed = tried.len() + sound.len() - failed;
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; 0 ignored;");
    ExitCode::from(u8::from(0 < failed))
}
