//! W8: everything at the same time, for long: appends at a steady pace to thousands of runs, a tail
//! on each, inputs sent, taken and acked, while the store copies and compresses behind them.
//!
//! Time is cut into windows, each a row of its own: what drifts, shows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use super::{
    Bench, appends,
    figures::{Latencies, Tally},
    place::{Kind, Place},
    report::Row,
    tails::Reader,
    writer::failed,
};
use crate::cli::failure::Failure;
use crate::{
    client::Client,
    core::{NewRecord, Send},
    engine::{InputConsumer, Query, RunKey, Start},
};

/// Windows that the time is cut into.
const WINDOWS: u32 = 10;
/// How long the bare service is measured, at most.
const WIRE_MAX: Duration = Duration::from_secs(60);
/// One run of so many is sent inputs.
const RUNS_PER_INPUT: usize = 10;
const INPUT_EVERY: Duration = Duration::from_secs(1);
const CALLS_PER_CONNECTION: usize = 1_000;

/// What happened since the last window.
struct Happened {
    latencies: Mutex<Latencies>,
    appended: AtomicU64,
    delivered: AtomicU64,
    answered: AtomicU64,
    over: AtomicBool,
}

impl Happened {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            latencies: Mutex::new(Latencies::new()),
            appended: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            over: AtomicBool::new(false),
        })
    }

    /// Appends, deliveries and answers since this was last called.
    fn taken(&self) -> [u64; 3] {
        let counts = [&self.appended, &self.delivered, &self.answered];
        counts.map(|count| count.swap(0, Ordering::Relaxed))
    }
}

/// Measures it over gRPC, and first what the wire does: the same appends to a service that keeps nothing
/// and has no tails.
pub(super) async fn measure(bench: &Bench) -> Result<Vec<Vec<Row>>, Failure> {
    let window = bench.args.mixed() / WINDOWS;
    let wire = measure_kind(bench, Kind::WireSession, 1, window.min(WIRE_MAX)).await?;
    let windows = measure_kind(bench, Kind::Session, WINDOWS, window).await?;
    Ok(wire.into_iter().chain(windows).map(|row| vec![row]).collect())
}

async fn measure_kind(
    bench: &Bench,
    kind: Kind,
    windows: u32,
    window: Duration,
) -> Result<Vec<Row>, Failure> {
    let (runs, per_second) = (bench.args.active, bench.args.per_run);
    let connections = runs.div_ceil(CALLS_PER_CONNECTION);
    let place = Place::start(kind, &bench.ground).await?;
    let clients = place.clients(connections)?;
    let happened = Happened::new();
    let mut tasks = JoinSet::new();
    let writers = place.writers(kind, runs, connections, 1).await?;
    let writers = appends::begun(bench, writers).await?;
    let period = Duration::from_secs(1) / per_second;
    for (n, mut writer) in writers.into_iter().enumerate() {
        // Each at a moment of its own: all at once would be another load.
        let moment = n as f64 / runs as f64;
        if let Some(client) = clients.get(n / CALLS_PER_CONNECTION) {
            let run = RunKey::new(place.name(n));
            tasks.spawn(follow(client.clone(), run.clone(), happened.clone()));
            if n % RUNS_PER_INPUT == 0 {
                let data = bench.bodies.clone().next();
                tasks.spawn(answer(client.clone(), run, data, moment, happened.clone()));
            }
        }
        let (happened, watch, mut bodies) =
            (happened.clone(), bench.watch.clone(), bench.bodies.clone());
        tasks.spawn(async move {
            let mut ticks = pace(period, moment).await;
            while !happened.over.load(Ordering::Relaxed) {
                ticks.tick().await;
                let begin = watch.now();
                writer.append(bodies.next()).await?;
                happened.latencies.lock().note(watch.now() - begin);
                happened.appended.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    let mut rows = Vec::new();
    for n in 1..=windows {
        let work = async {
            // The probe before it disturbed those of that time.
            happened.taken();
            *happened.latencies.lock() = Latencies::new();
            let begin = bench.watch.now();
            sleep(window).await;
            let latencies = std::mem::replace(&mut *happened.latencies.lock(), Latencies::new());
            let records = happened.appended.load(Ordering::Relaxed);
            Ok(Tally { records, took: bench.watch.now() - begin, latencies })
        };
        let sample = bench.sample(&place, work).await?;
        let [_, delivered, answered] = happened.taken();
        let load = format!("{runs} runs x {per_second}/s");
        let what = match kind {
            Kind::Session => format!(
                "{load} and their tails, window {n}: {delivered} delivered, {answered} inputs acked"
            ),
            _ => format!("{load}, appends alone"),
        };
        rows.push(Row { samples: vec![sample], ..Row::new("w8", &what, kind) });
        while let Some(ended) = tasks.try_join_next() {
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        }
    }
    happened.over.store(true, Ordering::Relaxed);
    tasks.abort_all();
    place.end(0).await?;
    Ok(rows)
}

/// One tick a period, at a share of it. Whoever misses one keeps its moment: those who had waited for
/// the same thing would come at once from then on.
async fn pace(period: Duration, moment: f64) -> Interval {
    sleep(period.mul_f64(moment)).await;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn follow(client: Client, run: RunKey, happened: Arc<Happened>) -> Result<(), Failure> {
    let query = Query::stream(run, "out").from(Start::Tail);
    let tail = client.tail(query).await.map_err(|error| failed(&error))?;
    let mut reader = Reader::Remote(Box::new(tail));
    while let Some(records) = reader.next().await? {
        happened.delivered.fetch_add(records.count, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends an input, takes and acks it, again and again.
async fn answer(
    client: Client,
    run: RunKey,
    data: bytes::Bytes,
    moment: f64,
    happened: Arc<Happened>,
) -> Result<(), Failure> {
    let consumer = InputConsumer::new(run.clone(), "inbox");
    let mut ticks = pace(INPUT_EVERY, moment).await;
    let work = async {
        while !happened.over.load(Ordering::Relaxed) {
            ticks.tick().await;
            let message = NewRecord::new(data.clone());
            let send = Send { run_uid: None, stream: "inbox".into(), message };
            client.send(&run, send).await?;
            let (term, wait) = (Duration::from_secs(30), Duration::from_secs(30));
            if let Some(input) = client.take(&consumer, term, wait).await? {
                let index = crate::record::Index(input.record.index);
                client.ack(&consumer, vec![(index, index + 1)]).await?;
                happened.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    work.await.map_err(|error| failed(&error))
}
