//! `braidlog-torture`: the tests that kill, for as long as you like, on your machine and your disk.
//!
//! ```text
//! cargo run --all-features --bin braidlog-torture -- --seed 1 --seconds 600 --data-dir /mnt/disk
//! cargo run --all-features --bin braidlog-torture -- --level crash --level corruption --release
//! ```
//!
//! Round after round, each with its own seed: crashes of a simulated machine, damage of simulated
//! disks, kills of the real server with its data below `--data-dir`, histories of a simulated network
//! and, as root on Linux, power cuts under the real kernel; or some of these. Whatever was counted is printed as it comes, and
//! its sums at the end. The first failure ends it, with status 1 and the command that repeats it.
//!
//! What it deliberately does not do: leave out a level in silence, or clean up after a failure.

#![allow(clippy::disallowed_methods, reason = "it starts the tests, and takes their time")]

mod levels;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};

use self::levels::{Build, Running, Tests};

/// Kills stores, again and again, and looks whether anything is lost
#[derive(Debug, Parser)]
#[command(name = "braidlog-torture")]
struct Args {
    /// Where chance begins; the next round has the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long; a round that has begun is ended
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Folder on the disk that is to be tried
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Only this; may be given more than once
    #[arg(long, value_enum)]
    level: Vec<Level>,
    /// Crash points, and damages, of a round
    #[arg(long, default_value_t = 50_000)]
    trials: u64,
    /// Build the tests optimised: it takes longer until they start, and they are twice as fast
    #[arg(long)]
    release: bool,
}

/// What is done in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// The power of a simulated machine is cut at every operation
    Crash,
    /// Bits, sectors and files of simulated disks are damaged
    Corruption,
    /// The real server is killed and stopped
    Kill,
    /// Server and clients are cut off from each other, and die, in a simulation
    Network,
    /// The power of the real kernel's disk is cut
    PowerCut,
}

impl Level {
    /// The test binary and its arguments.
    fn test(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Crash => ("crash", &["power_cut::", "--nocapture"]),
            Self::Corruption => ("crash", &["corruption::", "--nocapture"]),
            Self::Kill => ("kill", &["--nocapture"]),
            Self::Network => ("network", &["nobody_is_told", "--nocapture"]),
            Self::PowerCut => ("powercut", &["--cuts", "20", "--seed"]),
        }
    }
}

/// What was counted, in the order in which it was first told.
#[derive(Default)]
struct Sums(Vec<(String, BTreeMap<String, u64>)>);

impl Sums {
    /// Adds up a line such as `level kill: SIGKILLs: 50, SIGSTOPs: 12, seed: 1`.
    fn add(&mut self, line: &str) {
        let told = line.strip_prefix("level ").and_then(|rest| rest.split_once(": "));
        let Some((level, counts)) = told else { return };
        let at = self.0.iter().position(|(known, _)| known == level).unwrap_or_else(|| {
            self.0.push((level.to_owned(), BTreeMap::new()));
            self.0.len() - 1
        });
        for (what, count) in counts.split(", ").filter_map(|count| count.rsplit_once(": ")) {
            if let Some(count) = count.parse::<u64>().ok().filter(|_| what != "seed") {
                *self.0[at].1.entry(what.to_owned()).or_default() += count;
            }
        }
    }

    fn print(&self) {
        for (level, counts) in &self.0 {
            let counts: Vec<_> = counts.iter().map(|(what, n)| format!("{what}: {n}")).collect();
            println!("sum of {level}: {}", counts.join(", "));
        }
    }
}

/// Whether a line of a test is worth to be seen.
fn tells(line: &str) -> bool {
    ["level ", "**** NOT RUN", "repeat with", "seed ", "not done"]
        .iter()
        .any(|start| line.starts_with(start))
        || line.contains("panicked at")
}

fn main() -> ExitCode {
    let args = Args::parse();
    let levels = if args.level.is_empty() { Level::value_variants() } else { &args.level[..] };
    let mut binaries: Vec<_> = levels.iter().map(|level| level.test().0).collect();
    binaries.dedup();
    let args_of_build: &[&str] =
        if args.release { &["--all-features", "--release"] } else { &["--all-features"] };
    let build = Build { names: &binaries, args: args_of_build, rustflags: None };
    let tests = Tests::build(&[build]);
    let (started, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let (mut rounds, mut sums) = (0, Sums::default());
    while rounds == 0 || started.elapsed() < limit {
        let seed = args.seed + rounds;
        println!("round {rounds}, seed {seed}, after {} s", started.elapsed().as_secs());
        for level in levels {
            let (name, arguments) = level.test();
            let mut command = Command::new(tests.path(name));
            command.args(arguments);
            command.env("BRAIDLOG_CRASH_POINTS", args.trials.to_string());
            command.env("BRAIDLOG_CORRUPTIONS", args.trials.to_string());
            command.env("BRAIDLOG_KILLS", "50");
            command.env("BRAIDLOG_HISTORIES", "50");
            if arguments.last() == Some(&"--seed") {
                command.arg(seed.to_string());
            }
            command.env("BRAIDLOG_SEED", seed.to_string());
            command.env("BRAIDLOG_TEST_SEED", seed.to_string());
            if let Some(folder) = &args.data_dir {
                command.env("TMPDIR", folder);
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut running = Running(command.spawn().expect("the tests start"));
            let said = running.0.stdout.take().zip(running.0.stderr.take()).map(|(out, err)| {
                let err = std::thread::spawn(move || std::io::read_to_string(err));
                let out = std::io::read_to_string(out).unwrap_or_default();
                out + &err.join().expect("no panic").unwrap_or_default()
            });
            for line in said.iter().flat_map(|said| said.lines()).filter(|line| tells(line)) {
                println!("  {line}");
                sums.add(line);
            }
            if !running.0.wait().expect("status").success() {
                println!("{level:?} FAILED; repeat with: {}", repeat(&args, seed, 0, &[*level]));
                return ExitCode::FAILURE;
            }
        }
        rounds += 1;
    }
    sums.print();
    println!(
        "{rounds} rounds, {} s, 0 failed; repeat with: {}",
        started.elapsed().as_secs(),
        repeat(&args, args.seed, args.seconds, levels)
    );
    ExitCode::SUCCESS
}

/// The command that does the same.
fn repeat(args: &Args, seed: u64, seconds: u64, levels: &[Level]) -> String {
    let mut command = format!(
        "cargo run --all-features --bin braidlog-torture -- --seed {seed} --seconds {seconds} \
         --trials {}",
        args.trials
    );
    if let Some(data_dir) = &args.data_dir {
        command.push_str(&format!(" --data-dir {}", data_dir.display()));
    }
    if args.release {
        command.push_str(" --release");
    }
    for level in levels.iter().filter_map(|level| level.to_possible_value()) {
        command.push_str(" --level ");
        command.push_str(level.get_name());
    }
    command
}
