//! What every benchmark here needs: a store, a runtime, and the device's own speed beside it.
//!
//! Absolute times change with the machine's mood; ratios to the probe, taken in the same run, are
//! what to quote.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its part")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and the disk itself")]

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use braidlog::{Append, NewRecord, Options, Store};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Bytes of the records that are written.
pub const RECORD_BYTES: usize = 128;

/// A folder on the file system under test: the one of the target directory, not a tmpfs.
pub fn folder() -> TempDir {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(target).expect("folder");
    TempDir::new_in(target).expect("folder")
}

/// A store in a fresh folder.
pub fn store(folder: &TempDir) -> Store {
    Store::open(Options::new(folder.path().join("data"))).expect("opens")
}

/// One worker thread: on two cores, the other belongs to the committer.
pub fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("runtime")
}

/// A batch of small records.
pub fn batch(records: usize) -> Append {
    Append {
        stream: "out".into(),
        records: (0..records).map(|_| NewRecord::new(vec![b'x'; RECORD_BYTES])).collect(),
        ..Append::default()
    }
}

/// Times a 4 KiB overwrite of a zero-filled file with fdatasync: the floor of every durable write.
/// Prints and returns the median.
pub fn probe(label: &str) -> Duration {
    let folder = folder();
    let path = folder.path().join("probe");
    let mut file = fs::File::create(&path).expect("file");
    file.write_all(&vec![0; 16 << 20]).expect("zeros");
    file.sync_all().expect("sync");
    let block = [1; 4_096];
    let mut times: Vec<Duration> = (0..1_000)
        .map(|n| {
            let begin = Instant::now();
            file.write_all_at(&block, n * 4_096).expect("write");
            file.sync_data().expect("sync");
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!(
        "{label}: device probe, 4 KiB overwrite + fdatasync: p50 {median:?}, p99 {:?}",
        times[990]
    );
    median
}
