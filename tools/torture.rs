//! `braidlog-torture`: the tests that kill, for as long as you like, on your machine and your disk.
//!
//! ```text
//! cargo run --all-features --bin braidlog-torture -- --seed 1 --seconds 600 --data-dir /mnt/disk
//! ```
//!
//! Round after round, each with its own seed: crashes of a simulated machine, kills of the real
//! server with its data below `--data-dir`, and, as root on Linux, power cuts under the real
//! kernel. Whatever was counted is printed as it comes. The first failure ends it, with status 1
//! and the command that repeats the round.
//!
//! What it deliberately does not do: leave out a level in silence, or clean up after a failure.

#![allow(clippy::disallowed_methods, reason = "it starts the tests, and takes their time")]

mod levels;

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;

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
}

/// Levels of a round: a test binary and its arguments.
const LEVELS: [(&str, &[&str]); 3] = [
    ("crash", &["power_cut::", "--nocapture"]),
    ("kill", &["--nocapture"]),
    ("powercut", &["--cuts", "20", "--seed"]),
];

/// Whether a line of a test is worth to be seen.
fn tells(line: &str) -> bool {
    ["level ", "crash points:", "**** NOT RUN", "repeat with", "not done"]
        .iter()
        .any(|start| line.starts_with(start))
        || line.contains("panicked at")
}

fn main() -> ExitCode {
    let args = Args::parse();
    let tests = Tests::build(&[Build::common(&LEVELS.map(|(name, _)| name))]);
    let (started, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut rounds = 0;
    while rounds == 0 || started.elapsed() < limit {
        let seed = args.seed + rounds;
        println!("round {rounds}, seed {seed}, after {} s", started.elapsed().as_secs());
        for (name, arguments) in LEVELS {
            let mut command = Command::new(tests.path(name));
            command.args(arguments);
            command.env("BRAIDLOG_CRASH_POINTS", "50000").env("BRAIDLOG_KILLS", "50");
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
            }
            if !running.0.wait().expect("status").success() {
                println!(
                    "{name} FAILED; repeat with: cargo run --all-features --bin braidlog-torture \
                     -- --seed {seed} --seconds 0"
                );
                return ExitCode::FAILURE;
            }
        }
        rounds += 1;
    }
    println!(
        "{rounds} rounds, {} s, 0 failed; repeat with: cargo run --all-features --bin \
         braidlog-torture -- --seed {} --seconds {}",
        started.elapsed().as_secs(),
        args.seed,
        args.seconds
    );
    ExitCode::SUCCESS
}
