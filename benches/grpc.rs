//! The store over gRPC on loopback, client and server in one process: unary appends, append
//! sessions, catch-up reads, and the way from an append to a tail.
//!
//! `cargo bench --bench grpc`. Times of criterion are per append or per record as its throughput
//! says; the device probe is printed before each group.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support;

use std::time::{Duration, Instant};

use braidlog::{
    IfAbsent, Query, RunKey, Start, Store, TailItem,
    client::{AppenderOptions, Client},
    grpc::server::serve,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{batch, folder, probe, runtime, store};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;

/// A server in a runtime of its own with one worker thread, and a runtime for clients.
struct Bench {
    url: String,
    store: Store,
    clients: Runtime,
    _server: Runtime,
    _folder: TempDir,
}

impl Bench {
    fn start() -> Self {
        let (folder, server, clients) = (folder(), runtime(1), runtime(1));
        let store = store(&folder);
        let listener = server.block_on(TcpListener::bind("127.0.0.1:0")).expect("listener");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        server.spawn(serve(listener, store.clone(), CancellationToken::new()));
        Self { url, store, clients, _server: server, _folder: folder }
    }

    fn client(&self) -> Client {
        let _inside = self.clients.enter();
        Client::new(&self.url).expect("client")
    }
}

async fn unary(clients: Vec<Client>, total: u64) -> Duration {
    let begin = Instant::now();
    let writers = clients.len() as u64;
    let tasks: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| {
            let share = total / writers + u64::from((n as u64) < total % writers);
            tokio::spawn(async move {
                let run = RunKey::new(format!("run_{n}"));
                for _ in 0..share {
                    client.append(&run, batch(1), IfAbsent::Create).await.expect("appended");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("writer");
    }
    begin.elapsed()
}

fn unary_appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("gRPC unary append");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::Elements(1));
    for writers in [1, 64] {
        probe("gRPC unary append");
        let bench = Bench::start();
        let clients: Vec<_> = (0..writers).map(|_| bench.client()).collect();
        group.bench_function(format!("{writers} writers on connections of their own"), |b| {
            b.iter_custom(|total| bench.clients.block_on(unary(clients.clone(), total)));
        });
    }
}

/// Appends `total` batches over `sessions` sessions on one connection.
async fn session(
    client: Client,
    sessions: u64,
    total: u64,
    records: usize,
    depth: usize,
) -> Duration {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..sessions)
        .map(|n| {
            let client = client.clone();
            let share = total / sessions + u64::from(n < total % sessions);
            tokio::spawn(async move {
                let run = RunKey::new(format!("run_{n}"));
                let mut options = AppenderOptions::new("out");
                options.absent = IfAbsent::Create;
                options.in_flight_max = depth;
                let mut appender = client.appender(&run, options).expect("appender");
                for _ in 0..share {
                    drop(appender.submit(batch(records).records).await.expect("submitted"));
                }
                appender.finish().await.expect("appended");
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("writer");
    }
    begin.elapsed()
}

fn session_appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("gRPC append session");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (sessions, records, depth) in
        [(1, 1, 1), (64, 1, 1), (1, 100, 64), (1, 1_000, 16), (64, 100, 16)]
    {
        probe("gRPC append session");
        let bench = Bench::start();
        let client = bench.client();
        group.throughput(Throughput::Elements(records as u64));
        let name = format!("{sessions} sessions, {records} records, {depth} in flight");
        group.bench_function(name, |b| {
            b.iter_custom(|total| {
                bench.clients.block_on(session(client.clone(), sessions, total, records, depth))
            });
        });
    }
}

fn catch_up(c: &mut Criterion) {
    const RECORDS: u64 = 1_000_000;
    let mut group = c.benchmark_group("gRPC catch-up of 1 M records");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    let bench = Bench::start();
    let run = RunKey::new("run_0");
    let client = bench.client();
    bench.clients.block_on(session(client.clone(), 1, RECORDS / 1_000, 1_000, 16));
    group.bench_function("with default options", |b| {
        b.iter(|| {
            bench.clients.block_on(async {
                let query = Query { stop_at_tail: true, ..Query::stream(run.clone(), "out") };
                let mut tail = client.tail(query).await.expect("tail");
                let mut count = 0;
                loop {
                    match tail.next().await.expect("item") {
                        TailItem::Records(records, _) => count += records.count,
                        TailItem::End(..) => break assert_eq!(count, RECORDS),
                        _ => {}
                    }
                }
            });
        });
    });
    println!("frames read from disk: {}", bench.store.stats().disk_reads);
}

fn append_to_tail(c: &mut Criterion) {
    let mut group = c.benchmark_group("gRPC append to tail");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    probe("gRPC append to tail");
    let bench = Bench::start();
    let (writer, reader) = (bench.client(), bench.client());
    let run = RunKey::new("run_0");
    group.bench_function("1 tail", |b| {
        b.iter_custom(|total| {
            bench.clients.block_on(async {
                writer.append(&run, batch(1), IfAbsent::Create).await.expect("appended");
                let query = Query::stream(run.clone(), "out").from(Start::Tail);
                let mut tail = reader.tail(query).await.expect("tail");
                let begin = Instant::now();
                for _ in 0..total {
                    let (writer, run) = (writer.clone(), run.clone());
                    let append = tokio::spawn(async move {
                        writer.append(&run, batch(1), IfAbsent::Refuse).await
                    });
                    while !matches!(tail.next().await.expect("item"), TailItem::Records(..)) {}
                    append.await.expect("writer").expect("appended");
                }
                begin.elapsed()
            })
        });
    });
}

criterion_group!(benches, unary_appends, session_appends, catch_up, append_to_tail);
criterion_main!(benches);
