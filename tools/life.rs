//! Measures what watching costs, and how soon the death of a worker is seen.
//!
//! ```text
//! cargo run --release --bin braidlog-life
//! cargo run --release --bin braidlog-life -- --runs 100000 --watchers 10000 --dir /mnt/disk
//! ```
//! A store gets so many runs, each with a tag of its own group, and so many watchers, each of one
//! group. Then runs of every group are changed, 64 at a time, without watchers and with them, and
//! every row that a watcher is given is counted: one for each change, and none for anybody else.
//! Then one run is changed that all of another set of watchers watch. At last workers claim runs
//! and fall silent; a viewer of each waits for the record that says so.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock and the disk itself")]

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use braidlog::{
    ClaimRun, Commit, Create, Kind, Operation, Options, RunKey, RunStatus, Store, Watch, WatchItem,
    WatchQuery, WatchRuns, WatchScope, engine::DEFAULT_NAMESPACE, proto::event::Event,
};
use clap::Parser;
use tokio::sync::mpsc;

/// As the server does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WRITERS: u64 = 64;

/// Measures watching.
#[derive(Debug, Clone, Parser)]
#[command(name = "braidlog-life")]
struct Args {
    /// Runs of the store.
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// Watchers, each of another tag.
    #[arg(long, default_value_t = 10_000)]
    watchers: u64,
    /// Changes that are measured.
    #[arg(long, default_value_t = 100_000)]
    changes: u64,
    /// Runs whose workers fall silent.
    #[arg(long, default_value_t = 200)]
    silent: u64,
    /// Term of their leases in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    term_ms: u64,
    /// Where the data directory is made, and removed afterwards.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let args = Args::parse();
    let data_dir = args.dir.join(format!("braidlog-life-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(&args, &data_dir));
    drop(runtime);
    fs::remove_dir_all(&data_dir)?;
    measured
}

async fn measure(args: &Args, data_dir: &PathBuf) -> Result<()> {
    let store = Store::open(Options::new(data_dir))?;
    let started = Instant::now();
    in_parallel(&store, args.runs, create, args).await?;
    row("runs created", args.runs, started.elapsed());

    let started = Instant::now();
    in_parallel(&store, args.changes, change, args).await?;
    let without = row("changes without watchers", args.changes, started.elapsed());

    let before = resident_bytes()?;
    let (rows, mut given) = mpsc::unbounded_channel();
    let caught_up = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut watchers = Vec::new();
    for n in 0..args.watchers {
        let watch = watch(&store, &format!("group-{n}")).await?;
        watchers.push(tokio::spawn(follow(watch, caught_up.clone(), rows.clone())));
    }
    until(|| caught_up.load(Ordering::Relaxed) == args.watchers).await;
    row("watchers caught up", args.watchers, started.elapsed());
    let each = (resident_bytes()?.saturating_sub(before)) / args.watchers;
    println!("{:<34} {each:>12} bytes", "resident, each watcher");
    while given.try_recv().is_ok() {}

    let started = Instant::now();
    in_parallel(&store, args.changes, change, args).await?;
    let with = row("changes with watchers", args.changes, started.elapsed());
    let ratio = with / without;
    println!("{:<34} {ratio:>12.2}", "rate with, by rate without");
    let cost_us = (1.0 / with - 1.0 / without) * 1e6;
    println!("{:<34} {cost_us:>12.2} us", "more time, each change");
    // A run is changed by one writer after the other; what was merged is counted once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut seen = 0_u64;
    while given.try_recv().is_ok() {
        seen += 1;
    }
    println!("{:<34} {seen:>12} of {} changes", "rows given", args.changes);
    assert!(seen <= args.changes, "no row for anybody whom a change does not concern");

    // One at a time: from the answer of the change to the row.
    let mut delays = Vec::new();
    for n in 0..1_000 {
        change(store.clone(), n, args.clone()).await?;
        let answered = Instant::now();
        let at = given.recv().await.ok_or("a watcher is gone")?;
        delays.push(at.saturating_duration_since(answered));
    }
    print_delays("answer of a change to its row", &mut delays);
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    drop(watchers);

    let caught_up = Arc::new(AtomicU64::new(0));
    let mut watchers = Vec::new();
    for _ in 0..args.watchers {
        let watch = watch(&store, "group-0").await?;
        watchers.push(tokio::spawn(follow(watch, caught_up.clone(), rows.clone())));
    }
    until(|| caught_up.load(Ordering::Relaxed) == args.watchers).await;
    while given.try_recv().is_ok() {}
    let started = Instant::now();
    change(store.clone(), 0, args.clone()).await?;
    for _ in 0..args.watchers {
        given.recv().await.ok_or("a watcher is gone")?;
    }
    row("one change to all watchers", args.watchers, started.elapsed());
    watchers.iter().for_each(tokio::task::JoinHandle::abort);

    let mut delays = silent_workers(&store, args).await?;
    print_delays("end of a lease to its record seen", &mut delays);
    store.close().await?;
    Ok(())
}

async fn create(store: Store, n: u64, args: Args) -> Result<()> {
    let create = Create {
        namespace: DEFAULT_NAMESPACE.into(),
        run_id: format!("run-{n}").into(),
        tags: vec![format!("group-{}", n % args.watchers).into()],
        ..Create::default()
    };
    again(|| store.create_run(create.clone())).await?;
    Ok(())
}

/// Changes the metadata of a run.
async fn change(store: Store, n: u64, args: Args) -> Result<()> {
    let commit = Commit { metadata: vec![Operation::increment("n", "1")], ..Commit::default() };
    let run = RunKey::new(format!("run-{}", n % args.runs));
    again(|| store.commit(&run, commit.clone())).await?;
    Ok(())
}

/// Repeats what is refused only for now.
async fn again<T, F>(mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = std::result::Result<T, braidlog::Error>>,
{
    loop {
        match call().await {
            Err(braidlog::Error::Busy { retry_after_ms }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            done => return Ok(done?),
        }
    }
}

async fn in_parallel<F>(
    store: &Store,
    count: u64,
    call: impl Fn(Store, u64, Args) -> F + Send + Copy + 'static,
    args: &Args,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, next, args) = (store.clone(), next.clone(), args.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if count <= n {
                        return Ok(());
                    }
                    call(store.clone(), n, args.clone()).await?;
                }
            })
        })
        .collect();
    for writer in writers {
        let done: Result<()> = writer.await?;
        done?;
    }
    Ok(())
}

async fn watch(store: &Store, tag: &str) -> Result<Watch> {
    let runs = WatchRuns {
        namespace: DEFAULT_NAMESPACE.into(),
        tags: vec![tag.into()],
        batch: "".into(),
        task: "".into(),
        statuses: Vec::new(),
        created_from_ms: 0,
        limit: 1_000,
    };
    let query = WatchQuery { scope: WatchScope::Runs(runs), cursor: None };
    Ok(store.watch(query).await?)
}

/// Tells when rows are given, once the watcher has caught up.
async fn follow(mut watch: Watch, caught_up: Arc<AtomicU64>, rows: mpsc::UnboundedSender<Instant>) {
    while let Ok(item) = watch.next().await {
        match item {
            WatchItem::CaughtUp => {
                caught_up.fetch_add(1, Ordering::Relaxed);
            }
            WatchItem::Row(_) if rows.send(Instant::now()).is_err() => return,
            _ => {}
        }
    }
}

/// How long after the end of its term each silent worker was seen to be gone.
async fn silent_workers(store: &Store, args: &Args) -> Result<Vec<Duration>> {
    let mut viewers = Vec::new();
    for n in 0..args.silent {
        let create = Create {
            namespace: DEFAULT_NAMESPACE.into(),
            run_id: format!("silent-{n}").into(),
            task: "silent".into(),
            ..Create::default()
        };
        store.create_run(create).await?;
    }
    for n in 0..args.silent {
        let claim = ClaimRun {
            namespace: DEFAULT_NAMESPACE.into(),
            tasks: vec!["silent".into()],
            worker: format!("worker-{n}").into(),
            term_ms: args.term_ms,
        };
        let claimed = store.claim(&claim, std::future::pending()).await?.ok_or("no run")?;
        let lapses = Instant::now() + Duration::from_millis(args.term_ms);
        let run = RunKey::new(claimed.run.run_id);
        let kinds = vec![Kind::Lifecycle];
        let scope = WatchScope::Run { run, run_uid: None, kinds };
        let mut watch = store.watch(WatchQuery { scope, cursor: None }).await?;
        viewers.push(tokio::spawn(async move {
            loop {
                let WatchItem::Records(records) = watch.next().await? else { continue };
                let events = records.into_iter().filter_map(|record| record.event?.event);
                let mut abandoned = events.filter_map(|event| match event {
                    Event::RunAbandoned(abandoned) => Some(abandoned.next()),
                    _ => None,
                });
                if let Some(next) = abandoned.next() {
                    assert_eq!(next, RunStatus::Queued);
                    return Ok::<_, braidlog::Error>(lapses.elapsed());
                }
            }
        }));
    }
    let mut delays = Vec::new();
    for viewer in viewers {
        delays.push(viewer.await??);
    }
    Ok(delays)
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Prints a rate, and gives it.
fn row(what: &str, count: u64, took: Duration) -> f64 {
    let rate = count as f64 / took.as_secs_f64();
    println!("{what:<34} {count:>12} in {:>8.3} s: {rate:>10.0}/s", took.as_secs_f64());
    rate
}

fn print_delays(what: &str, delays: &mut [Duration]) {
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (half, most, max) = (at(0.5), at(0.99), at(1.0));
    println!("{what:<34} p50 {half:.3} ms, p99 {most:.3} ms, max {max:.3} ms");
}

/// Resident memory of this process.
fn resident_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1_024)
}
