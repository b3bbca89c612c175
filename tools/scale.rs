//! Measures whether costs stay flat from a thousand runs to a million, and prints the table.
//!
//! ```text
//! cargo run --release --bin braidlog-scale
//! cargo run --release --bin braidlog-scale -- --runs 100000 --bodies random --dir /mnt/disk
//! cargo run --release --bin braidlog-scale -- --one-run 1000000
//! ```
//! Every run has ten records of 128 bytes, each an append of its own that is waited for; 64 writers
//! work at a time. The rate is measured once with 1,000 runs in the store and once with all of
//! them. Then everything is copied into packs, the disk is measured, the process that did this is
//! killed while it appends on, and the store is opened again.
//!
//! With `--one-run`, one run gets so many records, is copied into packs, and is read back after a
//! restart: all of it, with nothing in any cache and once more, and from 100 random indices; each
//! record is compared with what was written. Beside it stands how fast its files are read as such.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock and the disk itself")]

use std::{
    collections::VecDeque,
    fs, io,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use braidlog::{
    Append, Error, IfAbsent, Index, NewRecord, Options, Query, RunKey, Start, Store, TailItem,
};
use clap::{Parser, ValueEnum};

/// As the server does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: u64 = 10;
const RECORD_BYTES: usize = 128;
const WRITERS: u64 = 64;
const RUNS_FEW: u64 = 1_000;
/// How long a rate is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Measures a store with a thousand and with a million runs.
#[derive(Debug, Clone, Parser)]
#[command(name = "braidlog-scale")]
struct Args {
    /// Runs to fill the store with.
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// What records hold.
    #[arg(long, value_enum, default_value_t = Bodies::Json)]
    bodies: Bodies,
    /// Where the data directory is made, and removed afterwards.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Measures one run of so many records instead.
    #[arg(long, value_name = "RECORDS")]
    one_run: Option<u64>,
    /// Fills the store, measures, then appends until it is killed; what the measurement starts.
    #[arg(long, hide = true)]
    fill: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bodies {
    /// Chunks as a model streams them.
    Json,
    /// Random bytes: nothing gets smaller.
    Random,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match (args.fill, args.one_run) {
        (true, _) => runtime.block_on(fill(&args)),
        (false, None) => runtime.block_on(measure(&args)),
        (false, Some(records)) => runtime.block_on(one_run(&args, records)),
    }
}

/// Writes one long run and reads it back after a restart.
async fn one_run(args: &Args, records: u64) -> io::Result<()> {
    let dir = data_dir(args);
    let _ = fs::remove_dir_all(&dir);
    let options = Options { resident_bytes: 0, ..options(args) };
    let store = Store::open(options.clone()).map_err(io::Error::other)?;
    let run = RunKey::new("one");
    let begin = Instant::now();
    let (mut written, mut tickets) = (0, VecDeque::new());
    while written < records {
        let end = records.min(written + 1_000);
        let bodies = (written..end).map(|n| NewRecord::new(long_body(args.bodies, n)));
        let append =
            Append { stream: "out".into(), records: bodies.collect(), ..Append::default() };
        match store.submit(&run, append, IfAbsent::Create).await {
            Ok(ticket) => tickets.push_back(ticket),
            Err(Error::Busy { retry_after_ms }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                continue;
            }
            Err(error) => panic!("an append failed: {error}"),
        }
        written = end;
        if 16 < tickets.len() {
            tickets.pop_front().expect("there is one").await.map_err(io::Error::other)?;
        }
    }
    for ticket in tickets {
        ticket.await.map_err(io::Error::other)?;
    }
    println!("{records} records written, durable: {:.2} M/s", rate(records, begin));
    store.flush().await.map_err(io::Error::other)?;
    store.close().await.map_err(io::Error::other)?;
    drop(store);

    let packs = drop_caches(&dir)?;
    let begin = Instant::now();
    let bytes: u64 = packs
        .iter()
        .map(|path| fs::read(path).map(|all| all.len() as u64))
        .sum::<io::Result<u64>>()?;
    println!("files: {} MiB, read as such, cold: {:.0} MiB/s", bytes >> 20, mib(bytes, begin));
    let begin = Instant::now();
    for path in &packs {
        fs::read(path)?;
    }
    println!("  warm: {:.0} MiB/s", mib(bytes, begin));

    drop_caches(&dir)?;
    let store = Store::open(options).map_err(io::Error::other)?;
    for label in ["cold", "block cache and page cache warm"] {
        let begin = Instant::now();
        assert_eq!(count(&store, &run).await, records);
        let took = begin.elapsed().as_secs_f64();
        println!(
            "read back from 0, {label}: {:.2} M records/s, {:.0} MiB/s of its files",
            records as f64 / took / 1e6,
            bytes as f64 / took / (1 << 20) as f64
        );
    }
    read_and_compare(args, &store, &run, 0, records).await;
    println!("all {records} records are what was written");
    let (mut random, begin) = (1, Instant::now());
    for _ in 0..100 {
        let from = step(&mut random) % records;
        read_and_compare(args, &store, &run, from, records.min(from + 1_000)).await;
    }
    println!("100 reads of 1,000 records from random indices: {:.2?} each", begin.elapsed() / 100);
    store.close().await.map_err(io::Error::other)?;
    fs::remove_dir_all(&dir)
}

/// Reads all of the run's stream as it is stored and counts its records.
async fn count(store: &Store, run: &RunKey) -> u64 {
    let query = Query { stop_at_tail: true, ..Query::stream(run.clone(), "out") };
    let mut tail = store.tail(query).await.expect("the run is there");
    let mut count = 0;
    loop {
        match tail.next().await.expect("the run is sound") {
            TailItem::Records(records, _) => count += records.count,
            TailItem::End(..) => return count,
            _ => {}
        }
    }
}

/// Reads a stretch of the run and compares every record with what was written.
async fn read_and_compare(args: &Args, store: &Store, run: &RunKey, from: u64, until: u64) {
    let mut query = Query::stream(run.clone(), "out").from(Start::Index(Index(from)));
    query.bounds.until_index = (until < u64::MAX).then_some(Index(until));
    query.stop_at_tail = true;
    let mut tail = store.tail(query).await.expect("the run is there");
    let mut next = from;
    loop {
        match tail.next().await.expect("the run is sound") {
            TailItem::Records(records, _) => {
                for record in records.decode().expect("sound") {
                    assert_eq!(record.index, next);
                    assert_eq!(record.data, long_body(args.bodies, next), "record {next}");
                    next += 1;
                }
            }
            TailItem::End(..) => break assert_eq!(next, until, "all of it"),
            _ => {}
        }
    }
}

fn long_body(bodies: Bodies, n: u64) -> Vec<u8> {
    let mut random = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    body_of(bodies, 7, n, &mut random)
}

fn rate(count: u64, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64() / 1e6
}

fn mib(bytes: u64, begin: Instant) -> f64 {
    bytes as f64 / begin.elapsed().as_secs_f64() / (1 << 20) as f64
}

/// Forgets the cached pages of all packs; returns their paths.
fn drop_caches(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let packs = fs::read_dir(dir.join("packs"))?.map(|entry| entry.map(|entry| entry.path()));
    let packs = packs.collect::<io::Result<Vec<_>>>()?;
    for path in &packs {
        let file = fs::File::open(path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(packs)
}

fn data_dir(args: &Args) -> PathBuf {
    args.dir.join("braidlog-scale-data")
}

/// Memory budgets of 768 MiB in all.
fn options(args: &Args) -> Options {
    Options {
        unflushed_bytes_max: 432 << 20,
        index_cache_bytes: 16 << 20,
        ..Options::new(data_dir(args))
    }
}

/// The measurement: fills in a process of its own, kills it, opens again.
async fn measure(args: &Args) -> io::Result<()> {
    let dir = data_dir(args);
    let _ = fs::remove_dir_all(&dir);
    println!("device probe, 4 KiB overwrite + fdatasync: p50 {:?}", probe(&args.dir)?);
    let options = options(args);
    println!("memory budgets: {} MiB in all", options.memory_bytes() >> 20);

    let bodies = args.bodies.to_possible_value().expect("none is hidden");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--fill", "--runs", &args.runs.to_string(), "--bodies", bodies.get_name()])
        .arg("--dir")
        .arg(&args.dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let told = io::BufRead::lines(io::BufReader::new(child.stdout.take().expect("piped")));
    for line in told {
        let line = line?;
        if line == "filled" {
            break;
        }
        println!("{line}");
    }
    std::thread::sleep(Duration::from_secs(2));
    child.kill()?;
    child.wait()?;

    let begin = Instant::now();
    let store = Store::open(options).map_err(io::Error::other)?;
    let run = key(args.runs / 2);
    let page = store.read(Query::run(run)).await.map_err(io::Error::other)?;
    println!("restart after SIGKILL to the first read served: {:.2?}", begin.elapsed());
    assert_eq!(page.records.count, RECORDS + 1, "the run and its records");
    let recovered = store.opened().recovered;
    println!("  frames in the journal: {}, runs of them: {}", recovered.frames, recovered.runs);
    println!("  resident after it: {} MiB", status("VmRSS:")? >> 10);
    store.close().await.map_err(io::Error::other)?;
    fs::remove_dir_all(&dir)
}

/// Fills the store and tells what that cost.
async fn fill(args: &Args) -> io::Result<()> {
    let store = Store::open(options(args)).map_err(io::Error::other)?;
    let filler = Arc::new(Filler {
        store: store.clone(),
        bodies: args.bodies,
        next: AtomicU64::new(0),
        end: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        busy: AtomicU64::new(0),
    });
    filler.fill_to(RUNS_FEW).await;
    store.flush().await.map_err(io::Error::other)?;
    let few = filler.rate().await;
    println!("appends/s with {RUNS_FEW} runs: {few:.0}");
    let begin = Instant::now();
    let from = filler.next.load(Ordering::Relaxed);
    filler.fill_to(args.runs).await;
    let runs = filler.next.load(Ordering::Relaxed);
    let rate = (runs - from) as f64 * RECORDS as f64 / begin.elapsed().as_secs_f64();
    println!("appends/s on the way to {runs} runs: {rate:.0}");
    let many = filler.rate().await;
    let runs = filler.next.load(Ordering::Relaxed);
    println!("appends/s with {runs} runs: {many:.0} ({:.0} % of the first)", many / few * 100.0);
    println!("refused as busy and repeated: {}", filler.busy.load(Ordering::Relaxed));
    println!("open files: {}", fs::read_dir("/proc/self/fd")?.count());
    let (resident, peak) = (status("VmRSS:")? >> 10, status("VmHWM:")? >> 10);
    println!("resident memory: {resident} MiB, at most {peak} MiB");
    let begin = Instant::now();
    store.flush().await.map_err(io::Error::other)?;
    println!("copied into packs: {:.1?} after the last append", begin.elapsed());
    let payload = runs * RECORDS * RECORD_BYTES as u64;
    let (journal, rest) = disk_bytes(&data_dir(args))?;
    let share = rest as f64 / payload as f64;
    println!("payload: {} MiB", payload >> 20);
    println!("disk: journal {} MiB, all else {} MiB = {share:.2} x", journal >> 20, rest >> 20);
    println!("filled");
    io::stdout().flush()?;
    filler.fill_to(u64::MAX).await;
    Ok(())
}

struct Filler {
    store: Store,
    bodies: Bodies,
    next: AtomicU64,
    end: AtomicU64,
    stop: AtomicBool,
    busy: AtomicU64,
}

impl Filler {
    /// Writes runs until there are so many.
    async fn fill_to(self: &Arc<Self>, runs: u64) {
        self.end.store(runs, Ordering::Relaxed);
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let filler = self.clone();
                tokio::spawn(async move { filler.write_runs().await })
            })
            .collect();
        for writer in writers {
            writer.await.expect("a writer");
        }
    }

    /// Appends for a while and tells how many a second.
    async fn rate(self: &Arc<Self>) -> f64 {
        let (begin, from) = (Instant::now(), self.next.load(Ordering::Relaxed));
        let filler = self.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(WINDOW).await;
            filler.stop.store(true, Ordering::Relaxed);
        });
        self.fill_to(u64::MAX).await;
        timer.await.expect("a timer");
        self.stop.store(false, Ordering::Relaxed);
        let written = self.next.load(Ordering::Relaxed) - from;
        (written * RECORDS) as f64 / begin.elapsed().as_secs_f64()
    }

    async fn write_runs(&self) {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let run = self.next.fetch_add(1, Ordering::Relaxed);
            if self.end.load(Ordering::Relaxed) <= run {
                self.next.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            random ^= run.wrapping_mul(0xff51_afd7_ed55_8ccd);
            for n in 0..RECORDS {
                self.append(run, self.body(run, n, &mut random)).await;
            }
        }
    }

    async fn append(&self, run: u64, body: Vec<u8>) {
        let append = Append {
            stream: "out".into(),
            records: vec![NewRecord::new(body)],
            ..Append::default()
        };
        loop {
            match self.store.append(&key(run), append.clone(), IfAbsent::Create).await {
                Ok(_) => return,
                Err(Error::Busy { retry_after_ms }) => {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                }
                Err(error) => panic!("an append failed: {error}"),
            }
        }
    }

    fn body(&self, run: u64, n: u64, random: &mut u64) -> Vec<u8> {
        body_of(self.bodies, run, n, random)
    }
}

fn body_of(bodies: Bodies, run: u64, n: u64, random: &mut u64) -> Vec<u8> {
    let mut body = match bodies {
        Bodies::Json => chunk(run, n, random),
        Bodies::Random => {
            std::iter::from_fn(|| Some(step(random).to_le_bytes())).take(16).flatten().collect()
        }
    };
    body.resize(RECORD_BYTES, b' ');
    body
}

/// A piece of text as a model's stream has it.
fn chunk(run: u64, n: u64, random: &mut u64) -> Vec<u8> {
    const WORDS: [&str; 32] = [
        "the", "answer", "to", "your", "question", "is", "that", "we", "first", "look", "at",
        "every", "file", "and", "then", "decide", "which", "of", "them", "has", "changed", "since",
        "last", "time", "because", "a", "test", "may", "fail", "when", "it", "runs",
    ];
    let mut text = String::new();
    while text.len() < 40 {
        text.push(' ');
        text.push_str(WORDS[(step(random) % 32) as usize]);
    }
    let id = run.wrapping_mul(0x2545_f491_4f6c_dd1d);
    format!("{{\"type\":\"text-delta\",\"id\":\"msg_{id:016x}\",\"n\":{n},\"delta\":\"{text}\"}}")
        .into_bytes()
}

/// The next number of xorshift64.
fn step(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn key(run: u64) -> RunKey {
    RunKey::new(format!("run_{:016x}", run.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Bytes of the journal, and of everything else.
fn disk_bytes(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut journal, mut rest) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let bytes = match meta.is_dir() {
            true => disk_bytes(&entry.path()).map(|(a, b)| a + b)?,
            false => meta.len(),
        };
        match entry.file_name() == "journal" {
            true => journal += bytes,
            false => rest += bytes,
        }
    }
    Ok((journal, rest))
}

/// A figure in KiB of this process.
fn status(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| io::Error::other(format!("no {name} in /proc/self/status")))
}

/// Median of 4 KiB overwrites of a zero-filled file, each with fdatasync.
fn probe(dir: &Path) -> io::Result<Duration> {
    let path = dir.join("braidlog-scale-probe");
    let mut file = fs::File::create(&path)?;
    file.write_all(&vec![0; 4 << 20])?;
    file.sync_all()?;
    let mut times = Vec::new();
    for n in 0..1_000 {
        let begin = Instant::now();
        file.write_all_at(&[1; 4_096], n * 4_096)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
