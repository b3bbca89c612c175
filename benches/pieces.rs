//! The pieces of the hot paths by themselves: records as bytes, blocks of the journal, the state
//! machine, tails of one run, reads from packs, and their verification.
//!
//! `cargo bench --bench pieces`. The first three touch no disk: their times compare from day to day
//! on one machine. The others are through the store, on the disk of the target directory.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support;

use std::{
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use braidlog::{
    Append, Create, IfAbsent, Index, Kind, NewRecord, Options, Producer, Query, RunKey, RunUid,
    Seq, Start, Store, StreamNo, TailItem,
    core::{Context, Decision, NewRun, RunState},
    format::{
        block::{self, BlockDraft},
        frame::Frame,
        wire::{self, RecordFields},
    },
    offline::{Directory, VerifyHow},
    record::RunNo,
};
use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{RECORD_BYTES, batch, folder, runtime, store};

const NOW_MS: u64 = 1_795_478_833_021;

fn put_records(out: &mut BytesMut, count: u64, data: &[u8]) {
    for n in 0..count {
        let fields = RecordFields {
            stream: StreamNo(1),
            seq: Seq(1_000_000 + n),
            index: Index(1_000_000 + n),
            time_ms: NOW_MS,
            kind: Kind::Chunk,
            headers: &[],
            id: "",
            client_time_ms: 0,
            event: None,
            data,
        };
        wire::put_record(out, &fields);
    }
}

/// Records as they are stored and served: written, skimmed, decoded.
fn codec(c: &mut Criterion) {
    const RECORDS: u64 = 1_000;
    let (mut out, data) = (BytesMut::new(), [b'x'; RECORD_BYTES]);
    let mut group = c.benchmark_group("codec, 128-byte records");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("write", |b| {
        b.iter(|| {
            out.clear();
            put_records(&mut out, RECORDS, black_box(&data));
        });
    });
    let bytes = out.freeze();
    group.bench_function("skim", |b| {
        b.iter(|| wire::skim_all(black_box(&bytes)).filter(Result::is_ok).count());
    });
    group.bench_function("decode", |b| {
        b.iter(|| wire::decode_all(black_box(bytes.clone())).filter(Result::is_ok).count());
    });
}

fn run() -> (RunState, Frame) {
    let create =
        Create { namespace: "default".into(), run_id: "run_0".into(), ..Create::default() };
    let new = NewRun { run_no: RunNo(1), run_uid: RunUid([7; 16]) };
    let (state, frame, _) = RunState::create(&create, new, NOW_MS).expect("created");
    (state, frame)
}

fn append_to(state: &mut RunState, append: &Append) -> Frame {
    match state.append(append, &Context::at(NOW_MS)) {
        Ok(Decision::Accepted { frame, .. }) => frame,
        other => panic!("{other:?}"),
    }
}

/// What admits an append and folds its frame in, and what folds it in again after a restart.
fn state_machine(c: &mut Criterion) {
    let mut group = c.benchmark_group("state machine");
    for records in [1, 100] {
        group.throughput(Throughput::Elements(records as u64));
        let plain = batch(records);
        let (mut state, _) = run();
        group.bench_function(format!("append of {records}"), |b| {
            b.iter(|| append_to(&mut state, black_box(&plain)));
        });
        let (mut state, mut seq) = (run().0, 0);
        group.bench_function(format!("append of {records} by a producer"), |b| {
            b.iter(|| {
                let producer = Some(Producer { id: "p".into(), epoch: 0, seq });
                seq += 1;
                append_to(&mut state, black_box(&Append { producer, ..plain.clone() }))
            });
        });
        let before = run().0;
        let frame = append_to(&mut before.clone(), &plain);
        group.bench_function(format!("replay of {records}, and a copy of the state"), |b| {
            b.iter(|| before.clone().replay(black_box(&frame)).expect("it fits"));
        });
    }
}

/// What the committer does before it writes.
fn journal_block(c: &mut Criterion) {
    let draft = BlockDraft {
        salt: 3,
        file_seq: 1,
        block_no: 7,
        durable_block_no: 7,
        prev_crc: 9,
        clock_ms: NOW_MS,
        incarnation: 1,
        flags: 0,
    };
    let mut group = c.benchmark_group("journal block");
    for (frames, records) in [(1, 1), (64, 1), (64, 100)] {
        let (mut state, _) = run();
        let append = batch(records);
        let frames: Vec<Frame> = (0..frames).map(|_| append_to(&mut state, &append)).collect();
        let bytes: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{} frames of {records} records", frames.len()), |b| {
            b.iter(|| {
                let pieces = frames.iter().map(|frame| &frame.bytes()[..]);
                block::encode(black_box(&draft), pieces, &mut out)
            });
        });
    }
}

/// From an append until every one of a thousand tails of its run has it.
fn fan_out(c: &mut Criterion) {
    const TAILS: usize = 1_000;
    let (folder, runtime) = (folder(), runtime(1));
    let store = store(&folder);
    let run = RunKey::new("run_0");
    let (told, mut reached) = tokio::sync::mpsc::unbounded_channel();
    runtime.block_on(async {
        store.append(&run, batch(1), IfAbsent::Create).await.expect("appended");
        for _ in 0..TAILS {
            let query = Query::stream(run.clone(), "out").from(Start::Tail);
            let mut tail = store.tail(query).await.expect("tail");
            let told = told.clone();
            tokio::spawn(async move {
                while let Ok(item) = tail.next().await {
                    if let TailItem::Records(records, _) = item
                        && told.send(records.count).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    let mut group = c.benchmark_group("tail fan-out");
    group.sample_size(10).throughput(Throughput::Elements(TAILS as u64));
    group.bench_function(format!("one append to {TAILS} tails"), |b| {
        b.iter_custom(|total| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..total {
                    let begin = Instant::now();
                    store.append(&run, batch(1), IfAbsent::Refuse).await.expect("appended");
                    for _ in 0..TAILS {
                        assert_eq!(reached.recv().await, Some(1));
                    }
                    took += begin.elapsed();
                }
                took
            })
        });
    });
    drop(group);
    runtime.block_on(store.close()).expect("closed");
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

/// A run that is in packs only: its blocks decompressed each time, and kept in memory.
fn segment_read(c: &mut Criterion) {
    const RECORDS: u64 = 100_000;
    let mut group = c.benchmark_group("segment read");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    for (name, cache_bytes) in [("blocks decompressed", 0), ("blocks in the cache", 256 << 20)] {
        let (folder, runtime) = (folder(), runtime(1));
        let mut options = Options::new(folder.path().join("data"));
        (options.ring_bytes, options.cache_bytes) = (0, cache_bytes);
        let store = Store::open(options).expect("opens");
        let run = RunKey::new("run_0");
        runtime.block_on(async {
            for n in 0..RECORDS / 1_000 {
                let record = |m| NewRecord::new(format!("{{\"n\":{n},\"delta\":\"word {m}\"}}"));
                let records = (0..1_000).map(record).collect();
                let append = Append { stream: "out".into(), records, ..Append::default() };
                store.append(&run, append, IfAbsent::Create).await.expect("appended");
            }
            store.flush().await.expect("flushed");
        });
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(runtime.block_on(read_all(&store, &run)), RECORDS));
        });
        runtime.block_on(store.close()).expect("closed");
    }
}

/// A log line: no two are the same, and all of them are alike.
fn line(n: u64) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["token", "of", "the", "answer", "arrived", "after", "some", "milliseconds"];
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..12).map(|word| WORDS[(mixed >> (word * 5)) as usize % WORDS.len()]);
    format!("{n:08} {mixed:016x} {}", words.collect::<Vec<_>>().join(" ")).into_bytes()
}

/// What `braidlog-inspect verify` does with packs that are in the page cache, beside what it cannot do
/// without: every block read, its CRC checked, and decompressed. Both on two threads.
fn verification(c: &mut Criterion) {
    const RUNS: u64 = 64;
    const EACH: u64 = 25_000;
    let (folder, runtime) = (folder(), runtime(1));
    let store = store(&folder);
    runtime.block_on(async {
        for run in 0..RUNS {
            for from in (0..EACH).step_by(500) {
                let lines = (from..from + 500).map(|n| NewRecord::new(line(run * EACH + n)));
                let append =
                    Append { stream: "out".into(), records: lines.collect(), ..Append::default() };
                let key = RunKey::new(format!("run-{run}"));
                store.append(&key, append, IfAbsent::Create).await.expect("appended");
            }
        }
        store.flush().await.expect("flushed");
        store.close().await.expect("closes");
    });
    let directory = Directory::open(folder.path().join("data")).expect("there");
    let survey = directory.survey().expect("a store");
    let packs: Vec<_> = survey.packs.iter().filter_map(|seen| survey.pack(seen)).collect();
    let mut blocks = Vec::new();
    for pack in &packs {
        let walked = pack.walk(|position, len, _| {
            blocks.push((*pack, position, len));
            Ok(())
        });
        walked.expect("sound");
    }
    let raw_bytes: u64 = packs.iter().map(|pack| pack.footer().raw_bytes).sum();
    let mut group = c.benchmark_group("verify, raw bytes");
    group.throughput(Throughput::Bytes(raw_bytes)).sample_size(10);
    group.bench_function("blocks only: read, CRC, decompression", |b| {
        b.iter(|| {
            let next = AtomicUsize::new(0);
            let work = || {
                while let Some((pack, position, len)) = blocks.get(next.fetch_add(1, Relaxed)) {
                    black_box(pack.read_block(*position, *len).expect("sound"));
                }
            };
            thread::scope(|scope| {
                scope.spawn(work);
                work();
            });
        });
    });
    group.bench_function("all of it", |b| {
        let how = VerifyHow { jobs: 2, deep: false, rests: 0 };
        b.iter(|| {
            let found = survey.verify(how, &|_, _| {}).expect("readable");
            assert!(!found.is_corrupt(), "a store that was closed in order");
        });
    });
}

criterion_group!(benches, codec, state_machine, journal_block, fan_out, segment_read, verification);
criterion_main!(benches);
