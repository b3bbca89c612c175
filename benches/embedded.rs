//! The store as a library: durable appends by one and by 64 writers, catch-up reads from memory
//! and from the journal, and the way from an append to a tail.
//!
//! `cargo bench --bench embedded`. Times of criterion are per append or per record as its
//! throughput says; the device probe is printed before each group.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use braidlog::{IfAbsent, Options, Query, RunKey, Start, Store, TailItem};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{batch, folder, probe, runtime, store};

/// Appends `total` batches from `writers` tasks, each with one append in flight on its own run.
async fn append_all(store: &Store, writers: u64, total: u64, records: usize) -> Duration {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|n| {
            let store = store.clone();
            let share = total / writers + u64::from(n < total % writers);
            tokio::spawn(async move {
                let run = RunKey::new(format!("run_{n}"));
                for _ in 0..share {
                    store.append(&run, batch(records), IfAbsent::Create).await.expect("appended");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("writer");
    }
    begin.elapsed()
}

fn appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (writers, records) in [(1, 1), (64, 1), (1, 100), (64, 100)] {
        probe("append");
        let (folder, runtime) = (folder(), runtime(1));
        let store = store(&folder);
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(format!("{writers} writers, {records} records"), |b| {
            b.iter_custom(|total| runtime.block_on(append_all(&store, writers, total, records)));
        });
        let stats = store.stats();
        println!("appends per commit: {:.1}", stats.frames as f64 / stats.commits as f64);
        runtime.block_on(store.close()).expect("closed");
    }
}

async fn read_all(store: &Store, run: &RunKey) -> u64 {
    let query = Query { stop_at_tail: true, ..Query::stream(run.clone(), "out") };
    let mut tail = store.tail(query).await.expect("tail");
    let mut count = 0;
    loop {
        match tail.next().await.expect("item") {
            TailItem::Records(records, _) => count += records.count,
            TailItem::End(..) => return count,
            _ => {}
        }
    }
}

fn catch_up(c: &mut Criterion) {
    const RECORDS: u64 = 1_000_000;
    let mut group = c.benchmark_group("catch-up of 1 M records");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    for (name, ring_bytes) in [("from the ring", 8 << 30), ("from the journal", 0)] {
        let (folder, runtime) = (folder(), runtime(1));
        let mut options = Options::new(folder.path().join("data"));
        options.ring_bytes = ring_bytes;
        let store = Store::open(options).expect("opens");
        let run = RunKey::new("run_0");
        runtime.block_on(append_all(&store, 1, RECORDS / 100, 100));
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(runtime.block_on(read_all(&store, &run)), RECORDS));
        });
        println!("frames read from disk: {}", store.stats().disk_reads);
    }
}

fn append_to_tail(c: &mut Criterion) {
    let mut group = c.benchmark_group("append to tail");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    probe("append to tail");
    let (folder, runtime) = (folder(), runtime(1));
    let store = Arc::new(store(&folder));
    let run = RunKey::new("run_0");
    group.bench_function("1 tail", |b| {
        b.iter_custom(|total| {
            runtime.block_on(async {
                store.append(&run, batch(1), IfAbsent::Create).await.expect("appended");
                let query = Query::stream(run.clone(), "out").from(Start::Tail);
                let mut tail = store.tail(query).await.expect("tail");
                let begin = Instant::now();
                for _ in 0..total {
                    let append = store.submit(&run, batch(1), IfAbsent::Refuse).await;
                    while !matches!(tail.next().await.expect("item"), TailItem::Records(..)) {}
                    append.expect("decided").await.expect("appended");
                }
                begin.elapsed()
            })
        });
    });
}

criterion_group!(benches, appends, catch_up, append_to_tail);
criterion_main!(benches);
