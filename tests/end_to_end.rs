//! The promise of the log, held by real processes on a real disk: every line once, in order,
//! although the server is killed again and again.
//!
//! A text of a quarter of a million lines is piped through `braidlog append`. The server is killed
//! with SIGKILL at random points of progress, never at points of time, and started again on the
//! same directory and port. Meanwhile one tail follows through all of it, and another one is killed
//! as well and resumes from what its consumer has stored.
//!
//! The random points come from a seed that is printed; `BRAIDLOG_TEST_SEED` repeats one.

// A test is no part of what runs in simulation.
#![allow(clippy::disallowed_methods)]

#[path = "support/moments.rs"]
mod moments;
mod support;

use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    io::{BufRead, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use braidlog::platform::sim::SimRng;
use serde_json::Value;

use self::{
    moments::moments,
    support::{APART, KillOnPanic, Process, Server, Watchdog, braidlog},
};

/// How often the server is killed while lines are on their way.
const SERVER_KILLS: u64 = 20;
/// How often the second tail is killed.
const TAIL_KILLS: u64 = 8;
/// Lines the text has at least.
const LINES_MIN: usize = 200_000;
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(240);

const RUN: &str = "prose";
const STREAM: &str = "lines";

fn seed() -> u64 {
    let given = env::var("BRAIDLOG_TEST_SEED").ok();
    given.map_or_else(|| RandomState::new().hash_one(()), |seed| seed.parse().expect("a number"))
}

/// How far everybody is, for whoever wonders why it takes so long.
#[derive(Default)]
struct Progress {
    acked: AtomicU64,
    /// Batches that were applied, although the answer was lost with the server.
    repeated: AtomicU64,
    server_kills: AtomicU64,
    tailed_bytes: AtomicU64,
    consumed: AtomicU64,
    tail_kills: AtomicU64,
}

impl Progress {
    fn in_words(&self) -> String {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        format!(
            "{} lines acknowledged, {} batches at their repetition, server killed {} times, {} \
             bytes tailed, {} lines consumed by a tail that was killed {} times",
            get(&self.acked),
            get(&self.repeated),
            get(&self.server_kills),
            get(&self.tailed_bytes),
            get(&self.consumed),
            get(&self.tail_kills),
        )
    }
}

fn add(number: &AtomicU64, count: u64) {
    number.fetch_add(count, Ordering::Relaxed);
}

#[test]
fn no_line_is_lost_doubled_or_moved_while_the_server_is_killed_twenty_times() {
    let seed = seed();
    println!("repeat with: BRAIDLOG_TEST_SEED={seed} cargo test --all-features --test end_to_end");
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/prose.txt"));
    let text = text.expect("test data");
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    assert!(LINES_MIN <= lines.len());
    let progress = Arc::new(Progress::default());
    let told = progress.clone();
    let _watchdog = Watchdog::start(LIMIT, move || format!("{} (seed {seed})", told.in_words()));

    let folder = tempfile::tempdir().expect("folder");
    let data_dir = folder.path().join("data");
    let server = Server::start_at(&data_dir, APART);
    let url = server.url();
    server.run(&["run", "create", RUN]).clean();
    let mut random = SimRng::new(seed);
    let server_kills = moments(&mut random, SERVER_KILLS, lines.len() as u64);
    let tail_kills = moments(&mut random, TAIL_KILLS, lines.len() as u64);
    thread::scope(|scope| {
        let _kill = KillOnPanic;
        let through = scope.spawn(|| tail_through(&url, &text, &progress));
        let killed = scope.spawn(|| tail_killed(&url, &lines, &tail_kills, &progress));
        let mut course = Course { data_dir, server: Some(server), random, progress: &progress };
        course.append_all(&text, lines.len() as u64, &server_kills);
        let server = course.server.take().expect("running");
        let read = server.run(&["read", RUN, STREAM, "--from", "0"]).clean();
        demand_same(&read.stdout, &text);
        server.run(&["run", "close", RUN]).clean();
        // Panics there are panics here.
        through.join().expect("the tail that followed through");
        killed.join().expect("the tail that was killed");
    });
    println!("{}", progress.in_words());
}

/// A command that appends one line is no producer of its own; it must outlast a kill all the same.
#[test]
fn commands_that_append_one_line_each_outlast_kills() {
    const COMMANDS: u64 = 300;
    let seed = seed();
    println!("repeat with: BRAIDLOG_TEST_SEED={seed} cargo test --all-features --test end_to_end");
    let progress = Arc::new(Progress::default());
    let told = progress.clone();
    let _watchdog = Watchdog::start(LIMIT, move || format!("{} (seed {seed})", told.in_words()));
    let folder = tempfile::tempdir().expect("folder");
    let data_dir = folder.path().join("data");
    let server = Server::start_at(&data_dir, APART);
    let (url, mut random) = (server.url(), SimRng::new(seed));
    let kills = moments(&mut random, SERVER_KILLS, COMMANDS);
    let mut course = Course { data_dir, server: Some(server), random, progress: &progress };
    thread::scope(|scope| {
        let _kill = KillOnPanic;
        let appending = scope.spawn(|| {
            let _kill = KillOnPanic;
            for n in 0..COMMANDS {
                let args = ["append", RUN, STREAM, "--server", &url, "--patience", "60"];
                let mut command = Process::start(braidlog().args(args));
                writeln!(command.stdin(), "{n}").expect("pipe");
                command.end().clean();
                add(&progress.acked, 1);
            }
        });
        for kill_at in kills {
            while progress.acked.load(Ordering::Relaxed) < kill_at && !appending.is_finished() {
                thread::yield_now();
            }
            // Somewhere within a command.
            wait_busily(course.random.below(8_000));
            course.kill_and_restart();
        }
    });
    let read = course.server.take().expect("running").run(&["read", RUN, STREAM]).clean();
    let wanted: String = (0..COMMANDS).map(|n| format!("{n}\n")).collect();
    demand_same(&read.stdout, wanted.as_bytes());
}

/// Says where two texts differ instead of printing megabytes.
fn demand_same(found: &[u8], wanted: &[u8]) {
    let same = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let line = 1 + wanted[..same].iter().filter(|byte| **byte == b'\n').count();
    let (found_len, wanted_len) = (found.len(), wanted.len());
    assert!(
        found == wanted,
        "{found_len} bytes for {wanted_len}, different from line {line} on: {:?}",
        String::from_utf8_lossy(&found[same..found_len.min(same + 99)])
    );
}

/// Appending all lines while the server comes and goes.
struct Course<'a> {
    data_dir: PathBuf,
    /// None only while it is away.
    server: Option<Server>,
    random: SimRng,
    progress: &'a Progress,
}

impl Course<'_> {
    /// Pipes the text through `append`, and kills the server when so many lines are acknowledged.
    fn append_all(&mut self, text: &[u8], lines: u64, kills: &[u64]) {
        let server = self.server.as_ref().expect("running");
        let args = ["append", RUN, STREAM, "--json", "--batch-lines", "100"];
        let mut append = server.spawn(&args);
        let (mut stdin, stdout) = (append.stdin(), append.stdout());
        let (mut acked, mut kills) = (0, kills.iter().copied().peekable());
        thread::scope(|scope| {
            let _kill = KillOnPanic;
            scope.spawn(move || stdin.write_all(text).expect("append reads all of its input"));
            for line in stdout.lines() {
                acked = self.after_ack(acked, &line.expect("pipe"));
                if kills.next_if(|at| *at <= acked).is_some() {
                    assert!(acked < lines && append.is_running(), "killed in the middle");
                    self.kill_and_restart();
                }
            }
        });
        let status = append.wait();
        assert_eq!((status.code(), append.stderr().as_str()), (Some(0), ""));
        assert_eq!((acked, kills.count()), (lines, 0));
    }

    /// Demands that an acknowledgement continues those before it; the lines acknowledged now.
    fn after_ack(&self, acked: u64, line: &str) -> u64 {
        let ack: Value = serde_json::from_str(line).expect(line);
        let (first, next) = (ack["first_index"].as_u64(), ack["next_index"].as_u64());
        assert_eq!((first, next), (Some(acked), ack["lines"].as_u64()), "{line}");
        add(&self.progress.repeated, u64::from(ack["deduplicated"] == true));
        let acked = next.expect("an index");
        self.progress.acked.store(acked, Ordering::Relaxed);
        acked
    }

    fn kill_and_restart(&mut self) {
        let mut server = self.server.take().expect("running");
        server.process().kill();
        add(&self.progress.server_kills, 1);
        // Now and then it does not even get through its recovery.
        while self.random.below(4) == 0 {
            let mut command = braidlog();
            command.args(["serve", "--listen", &server.address, "--data-dir"]).arg(&self.data_dir);
            let mut killed = Process::start(&mut command);
            wait_busily(self.random.below(20_000));
            killed.kill();
        }
        self.server = Some(Server::start_at(&self.data_dir, &server.address));
    }
}

/// Waits for a moment that is shorter than what a sleep can be trusted with.
fn wait_busily(micros: u64) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(micros) {
        thread::yield_now();
    }
}

/// A tail that runs from the first line to the end: what it prints is the text.
fn tail_through(url: &str, text: &[u8], progress: &Progress) {
    let _kill = KillOnPanic;
    let mut tail = Process::start(braidlog().args(["tail", RUN, STREAM, "--server", url]));
    let mut stdout = tail.stdout();
    let (mut found, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let len = stdout.read(&mut piece).expect("pipe");
        if len == 0 {
            break;
        }
        let at = found.len();
        found.extend_from_slice(&piece[..len]);
        add(&progress.tailed_bytes, len as u64);
        if text.get(at..at + len) != Some(&piece[..len]) {
            demand_same(&found, text);
        }
    }
    demand_same(&found, text);
    assert_eq!(tail.wait().code(), Some(0), "{}", tail.stderr());
    assert_eq!(tail.stderr(), format!("braidlog: run {RUN:?} is closed: completed\n"));
}

/// What a consumer keeps, in one step with what it makes of the lines.
#[derive(Default)]
struct Consumer {
    /// The last cursor seen: where to resume.
    cursor: Option<String>,
    /// Seq of the last record taken: it and all before it are skipped when they come again.
    seq: Option<u64>,
    /// Records taken.
    taken: usize,
    /// Whether the end was seen.
    ended: bool,
}

impl Consumer {
    fn consume(&mut self, line: &str, lines: &[&[u8]]) {
        let line: Value = serde_json::from_str(line).expect(line);
        if line["type"] == "record" && self.seq < line["seq"].as_u64() {
            assert_eq!(line["index"], self.taken, "the next line, and no other");
            let data = line["data"].as_str().expect("text");
            assert_eq!(format!("{data}\n").as_bytes(), lines[self.taken]);
            self.taken += 1;
            self.seq = line["seq"].as_u64();
        }
        if let Some(cursor) = line["cursor"].as_str() {
            self.cursor = Some(cursor.into());
        }
        self.ended = line["type"] == "end";
    }
}

/// A tail that is killed whenever so many lines were consumed, and resumes.
fn tail_killed(url: &str, lines: &[&[u8]], kills: &[u64], progress: &Progress) {
    let _kill = KillOnPanic;
    let mut consumer = Consumer::default();
    for kill_at in kills.iter().map(|at| *at as usize).chain([usize::MAX]) {
        let mut command = braidlog();
        // It may begin while the server is away, and is away again whenever it tries.
        command.args(["tail", RUN, STREAM, "--json", "--server", url, "--patience", "60"]);
        command.args(consumer.cursor.iter().flat_map(|cursor| ["--cursor", cursor]));
        let mut tail = Process::start(&mut command);
        let mut stdout = tail.stdout();
        let (mut line, mut is_killed) = (String::new(), false);
        // A line without its end was cut off by the kill.
        while stdout.read_line(&mut line).expect("pipe") != 0 && line.ends_with('\n') {
            consumer.consume(&line, lines);
            progress.consumed.store(consumer.taken as u64, Ordering::Relaxed);
            if kill_at <= consumer.taken && !is_killed {
                tail.kill();
                is_killed = true;
                add(&progress.tail_kills, 1);
                // Every second time what it had printed is consumed, else it is gone as well.
                if progress.tail_kills.load(Ordering::Relaxed).is_multiple_of(2) {
                    break;
                }
            }
            line.clear();
        }
        if !is_killed {
            assert_eq!(tail.wait().code(), Some(0), "{}", tail.stderr());
            assert_eq!(kill_at, usize::MAX, "only the last one lives to see the end");
        }
    }
    assert_eq!((consumer.taken, consumer.ended), (lines.len(), true));
    assert_eq!(progress.tail_kills.load(Ordering::Relaxed), TAIL_KILLS);
}
