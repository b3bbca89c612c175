//! The real server, killed and stopped again and again, while many write to the same runs.
//!
//! Writers never repeat a call, so each knows of every append that it was applied, or that nobody
//! knows; tails follow every run through all of it. The server is killed with SIGKILL, or stopped
//! for a while with SIGSTOP, at random points of progress, and started again on the same directory
//! and port. At the end each run's log must explain everything that anybody was told:
//! [`history`] says how. Other runs are sent inputs, which consumers answer, each exactly once and
//! in order: [`inputs`]. Then the true logs are spoiled, and every spoiled one must be found out:
//! [`forgery`].
//!
//! `BRAIDLOG_KILLS` says how often, `BRAIDLOG_TEST_SEED` repeats the random points.

#![cfg(all(feature = "server", feature = "client"))]
#![allow(clippy::disallowed_methods, reason = "a test is no part of what runs in simulation")]

mod forgery;
mod history;
mod inputs;
#[path = "../support/mod.rs"]
mod support;

use std::{
    env,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use braidlog::{
    Append, Close, Create, Error, IfAbsent, NewRecord, Outcome, Query, RunKey, Start, TailItem,
    client::{Client, ClientOptions, RetryPolicy},
    platform::sim::SimRng,
};

use self::{
    forgery::Forgery,
    history::Call,
    inputs::{Counts, Deeds},
    support::{APART, KillOnPanic, Server, Watchdog, braidlog},
};

const RUNS: u64 = 4;
/// Writers, and tails, of each run.
const WRITERS: u64 = 8;
const TAILS: u64 = 4;
const STREAM: &str = "out";
/// Acknowledged appends between two kills, at most.
const BETWEEN: u64 = 400;
/// How long it may go without an append or a kill.
const LIMIT: Duration = Duration::from_secs(120);
/// Small slots, so that a start has little to prepare.
const SLOT_BYTES: &str = "4MiB";

/// Forgeries of each kind, of each log.
const FORGERIES: u64 = 5;

/// How far everybody is.
#[derive(Default)]
struct Progress {
    /// A clock that no two readings of are the same.
    clock: AtomicU64,
    acked: AtomicU64,
    unknown: AtomicU64,
    kills: AtomicU64,
    is_over: AtomicBool,
    inputs: Counts,
}

impl Progress {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

fn client(url: &str, deadline: Option<Duration>) -> Client {
    let (initial, max) = (Duration::from_millis(5), Duration::from_millis(50));
    let retry = RetryPolicy { deadline, initial, max };
    let heartbeat = Duration::from_millis(500);
    let options = ClientOptions { retry, heartbeat, ..ClientOptions::default() };
    Client::with_options(url, options).expect("url")
}

fn run_name(n: u64) -> RunKey {
    RunKey::new(format!("run-{n}"))
}

/// Appends until it is over, each batch once, whatever comes of it.
async fn write(url: String, run: u64, writer: u64, progress: Arc<Progress>) -> Vec<Call> {
    let client = client(&url, Some(Duration::ZERO));
    let (key, mut calls) = (run_name(run), Vec::new());
    for number in 0.. {
        if progress.is_over.load(Ordering::SeqCst) {
            break;
        }
        let bodies: Vec<String> =
            (0..1 + number % 3).map(|n| format!("{run}.{writer}.{number}.{n}")).collect();
        let records = bodies.iter().map(|body| NewRecord::new(body.clone())).collect();
        let append = Append { stream: STREAM.into(), records, ..Append::default() };
        let began = progress.now();
        let answer = client.append(&key, append, IfAbsent::Create).await;
        let ended = progress.now();
        let acked = match answer {
            Ok(appended) => Some((ended, appended.first_index.0)),
            Err(Error::Refused(refusal)) => panic!("nothing is wrong with it: {refusal}"),
            Err(_) => None,
        };
        let count = if acked.is_some() { &progress.acked } else { &progress.unknown };
        count.fetch_add(1, Ordering::SeqCst);
        if acked.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        calls.push(Call { bodies, began, acked });
    }
    calls
}

/// Follows a run to its end; what it has seen, which must be dense.
async fn follow(client: Client, run: u64) -> Vec<String> {
    let mut tail = client.tail(Query::stream(run_name(run), STREAM)).await.expect("a tail");
    let mut seen = Vec::new();
    loop {
        match tail.next().await.expect("an item") {
            TailItem::Records(records, _) => {
                for record in records.decode().expect("records") {
                    assert_eq!(record.index, seen.len() as u64, "a tail sees each once, in order");
                    seen.push(String::from_utf8(record.data.to_vec()).expect("text"));
                }
            }
            TailItem::End(..) => return seen,
            _ => {}
        }
    }
}

fn start(data_dir: &Path, address: &str) -> Server {
    let mut command = braidlog();
    command
        .args(["serve", "--listen", address, "--data-dir"])
        .env("BRAIDLOG_SLOT_BYTES", SLOT_BYTES);
    Server::from_command(command.arg(data_dir))
}

/// All records of a stream of a run.
async fn read(client: &Client, run: RunKey, stream: &str) -> Vec<String> {
    let (mut query, mut all) = (Query::stream(run, stream), Vec::new());
    loop {
        let page = client.read(query.clone()).await.expect("a page");
        if page.records.is_empty() {
            return all;
        }
        for record in page.records.decode().expect("records") {
            assert_eq!(record.index, all.len() as u64, "a read is dense");
            all.push(String::from_utf8(record.data.to_vec()).expect("text"));
        }
        query.start = Start::Cursor(page.cursor.to_string());
    }
}

#[test]
fn every_log_explains_all_that_anybody_was_told_although_the_server_is_killed_again_and_again() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let kills = number("BRAIDLOG_KILLS").unwrap_or(100);
    let seed = number("BRAIDLOG_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(()));
    println!(
        "repeat with: BRAIDLOG_TEST_SEED={seed} BRAIDLOG_KILLS={kills} \
         cargo test --all-features --test kill"
    );
    let progress = Arc::new(Progress::default());
    let told = progress.clone();
    let _watchdog = Watchdog::start(LIMIT, move || {
        let get = |number: &AtomicU64| number.load(Ordering::SeqCst);
        let (acked, kills) = (get(&told.acked), get(&told.kills));
        let answered = Counts::all(&told.inputs.answered);
        let is_over = told.is_over.load(Ordering::SeqCst);
        format!(
            "{acked} appends, {answered} inputs answered, {kills} kills, over: {is_over} (seed {seed})"
        )
    });
    let _all = KillOnPanic;
    let folder = tempfile::tempdir().expect("folder");
    let data_dir = folder.path().join("data");
    let mut server = start(&data_dir, APART);
    let (address, url) = (server.address.clone(), server.url());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let patient = runtime.block_on(async { client(&url, None) });
    runtime.block_on(async {
        for run in 0..RUNS {
            let RunKey { namespace, run_id } = run_name(run);
            patient
                .create_run(Create { namespace, run_id, ..Create::default() })
                .await
                .expect("created");
        }
    });
    let writers: Vec<_> = (0..RUNS * WRITERS)
        .map(|n| {
            let write = write(url.clone(), n % RUNS, n / RUNS, progress.clone());
            (n % RUNS, runtime.spawn(write))
        })
        .collect();
    let tails: Vec<_> = (0..RUNS * TAILS)
        .map(|n| (n % RUNS, runtime.spawn(follow(patient.clone(), n % RUNS))))
        .collect();
    runtime.block_on(inputs::create_all(&patient));
    let senders: Vec<_> = (0..inputs::RUNS)
        .map(|n| runtime.spawn(inputs::send(patient.clone(), n, progress.clone())))
        .collect();
    let consumers: Vec<_> = (0..inputs::CONSUMERS)
        .map(|n| {
            let consume = inputs::consume(patient.clone(), n, seed ^ n, progress.clone());
            runtime.spawn(consume)
        })
        .collect();
    let (mut random, mut stops) = (SimRng::new(seed), 0);
    for _ in 0..kills {
        let goal = progress.acked.load(Ordering::SeqCst) + 1 + random.below(BETWEEN);
        while progress.acked.load(Ordering::SeqCst) < goal {
            let ended = writers.iter().filter(|(_, writer)| writer.is_finished()).count()
                + tails.iter().filter(|(_, tail)| tail.is_finished()).count();
            assert_eq!(ended, 0, "writers and tails panicked, see above (seed {seed})");
            std::thread::sleep(Duration::from_millis(1));
        }
        if random.below(4) == 0 {
            server.process().signal("STOP");
            std::thread::sleep(Duration::from_millis(random.below(100)));
            // Some are killed while they are stopped.
            if random.below(2) == 0 {
                server.process().signal("CONT");
            }
            stops += 1;
        }
        server.process().kill();
        progress.kills.fetch_add(1, Ordering::SeqCst);
        server = start(&data_dir, &address);
    }
    progress.is_over.store(true, Ordering::SeqCst);
    let mut forged_logs = 0;
    let mut calls: Vec<Vec<Call>> = vec![Vec::new(); RUNS as usize];
    runtime.block_on(async {
        for (run, writer) in writers {
            calls[run as usize].extend(writer.await.expect("no panic"));
        }
        for (run, calls) in (0..RUNS).zip(&calls) {
            let close = Close { outcome: Outcome::Completed, ..Close::default() };
            patient.close_run(&run_name(run), close).await.expect("closed");
            let log = read(&patient, run_name(run), STREAM).await;
            let problem = history::problem(&log, calls);
            assert_eq!(problem, None, "run {run}, seed {seed}");
            for forgery in Forgery::ALL.repeat(FORGERIES as usize) {
                let forged = forgery.of(&log, calls, &mut random);
                assert!(history::problem(&forged, calls).is_some(), "{forgery:?}, seed {seed}");
                forged_logs += 1;
            }
        }
        for (run, tail) in tails {
            let log = read(&patient, run_name(run), STREAM).await;
            let seen = tail.await.expect("no panic");
            assert!(seen == log, "a tail of run {run} saw another log, seed {seed}");
        }
        for sender in senders {
            sender.await.expect("no panic");
        }
        let mut deeds = vec![Deeds::default(); inputs::RUNS as usize];
        for consumer in consumers {
            for (all, one) in deeds.iter_mut().zip(consumer.await.expect("no panic")) {
                all.answers.extend(one.answers);
                all.deliveries.extend(one.deliveries);
            }
        }
        for (run, deeds) in (0..inputs::RUNS).zip(&deeds) {
            let sent = progress.inputs.sent[run as usize].load(Ordering::SeqCst);
            let log = read(&patient, inputs::run_name(run), inputs::ANSWERS).await;
            let problem = inputs::problem(&log, sent, deeds);
            assert_eq!(problem, None, "inputs of run {run}, seed {seed}");
            for forgery in Forgery::ALL.repeat(FORGERIES as usize) {
                let forged = forgery.of(&log, &deeds.answers, &mut random);
                let problem = inputs::problem(&forged, sent, deeds);
                assert!(problem.is_some(), "{forgery:?} of answers, seed {seed}");
                forged_logs += 1;
            }
        }
    });
    let get = |number: &AtomicU64| number.load(Ordering::SeqCst);
    println!(
        "level kill: SIGKILLs: {kills}, SIGSTOPs: {stops}, appends acknowledged: {}, unknown: {}, \
         inputs answered: {}, consumers gone silent: {}, lost, doubled, reordered or wrong: 0; \
         forged logs: {forged_logs}, not found out: 0; seed: {seed}",
        get(&progress.acked),
        get(&progress.unknown),
        Counts::all(&progress.inputs.answered),
        get(&progress.inputs.silent)
    );
}
