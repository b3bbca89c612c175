//! At its limits the store refuses what it cannot take, keeps all it took, and goes on by itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use braidlog::{Delete, Error, IfAbsent, Index, Options, Query, Refusal, RunKey, Store, Trim};
use tempfile::TempDir;

use super::place::{Place, batch, close, create, key, noise, read_all, tiny, until};

#[tokio::test]
async fn what_comes_too_fast_is_refused_as_busy_and_nothing_is_lost() {
    let bytes_max = 64 << 10;
    let place = Place::with(|options| {
        (options.flush_bytes, options.unflushed_bytes_max) = (bytes_max / 2, bytes_max);
    });
    let store = place.store();
    let (mut busy, mut taken, mut most) = (0, 0u64, 0);
    let run = key("run");
    while busy < 20 {
        match store.append(&run, batch("out", [noise(taken, 10_000)]), IfAbsent::Create).await {
            Ok(_) => taken += 1,
            Err(Error::Busy { retry_after_ms }) => {
                busy += 1;
                assert!(0 < retry_after_ms);
                assert!(close_and_delete(store, busy).await, "ends are always taken");
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(other) => panic!("{other}"),
        }
        most = most.max(store.stats().flush_lag.bytes);
        assert!(taken < 10_000, "it was never too fast");
    }
    assert!(most < 2 * bytes_max, "{most} bytes wait");
    let records = read_all(store, Query::stream(run, "out")).await.expect("records");
    assert!(records.iter().map(|record| &record.data[..]).eq((0..taken).map(|n| noise(n, 10_000))));
}

/// Creates runs while there is room, and ends them at once.
async fn close_and_delete(store: &Store, n: u64) -> bool {
    let run = key(format!("ended {n}"));
    match store.create_run(create(&*run.run_id)).await {
        Ok(_) => {}
        Err(Error::Busy { .. }) => return true,
        Err(error) => panic!("{error}"),
    }
    close(store, &run).await;
    store.delete_run(&run, Delete::default()).await.is_ok()
}

/// A small file system of its own.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// A disk of so many MiB; none if this process may not mount one.
    fn mount(mib: u32) -> Option<Self> {
        let folder = TempDir::new().expect("folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { folder }),
            other => {
                println!("SKIPPED: a test of a full disk needs root, to mount one: {other:?}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Takes space until so much is left.
    fn fill(&self, left: u64) {
        use std::io::Write;
        let mut file = fs::File::options().create(true).append(true).open(self.ballast());
        let file = file.as_mut().expect("a file");
        let chunk = vec![1; 64 << 10];
        while left < free(self.folder.path()) {
            let len = (free(self.folder.path()) - left).min(chunk.len() as u64) as usize;
            // Somebody else may have taken the last of it.
            if file.write_all(&chunk[..len]).is_err() {
                return;
            }
        }
    }

    fn relieve(&self) {
        fs::remove_file(self.ballast()).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

/// Bytes that are free in a file system.
fn free(path: &Path) -> u64 {
    let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(path).output();
    let text = String::from_utf8(output.expect("stat").stdout).expect("text");
    let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    numbers[0] * numbers[1]
}

fn on(disk: &SmallDisk) -> Options {
    Options {
        journal_slots_max: 8,
        disk_reserve_bytes: 512 << 10,
        flush_bytes: 128 << 10,
        unflushed_bytes_max: 1 << 20,
        index_cache_bytes: 1 << 20,
        ..tiny(disk.folder.path().join("data"))
    }
}

/// Runs, and how many records of each were acknowledged.
#[derive(Default)]
struct Acked {
    runs: BTreeMap<RunKey, u64>,
}

impl Acked {
    /// Appends until there is no space; the error that says so.
    async fn append_until_full(&mut self, store: &Store) -> Error {
        let mut n = 0;
        loop {
            let run = key(format!("run {}", n % 20));
            let count = self.runs.entry(run.clone()).or_default();
            let body = noise(*count, 10_000);
            match store.append(&run, batch("out", [body]), IfAbsent::Create).await {
                Ok(_) => *count += 1,
                Err(Error::Busy { retry_after_ms }) => {
                    tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                }
                Err(error) => return error,
            }
            n += 1;
            assert!(n < 20_000, "the disk is never full");
        }
    }

    /// Demands that everything acknowledged is there, and nothing else.
    async fn demand(&self, store: &Store) {
        for (run, count) in &self.runs {
            let query = Query { allow_gap: true, ..Query::stream(run.clone(), "out") };
            let records = match read_all(store, query).await {
                Ok(records) => records,
                Err(Error::Refused(Refusal::RunNotFound)) if *count == 0 => continue,
                Err(error) => panic!("{error}"),
            };
            let kept = records.first().map_or(*count, |first| first.index);
            assert_eq!(kept + records.len() as u64, *count, "{}", run.run_id);
            for record in records {
                assert!(record.data == noise(record.index, 10_000));
            }
        }
    }

    /// Ends runs and gives up records; demands that this goes on.
    async fn end_some(&mut self, store: &Store, from: u64) {
        for n in from..from + 3 {
            let run = key(format!("run {n}"));
            let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(1) };
            store.trim(&run, trim).await.expect("trimmed");
            close(store, &run).await;
            let run = key(format!("run {}", n + 10));
            store.delete_run(&run, Delete::default()).await.expect("deleted");
            assert!(matches!(store.get_run(&run).await, Err(Error::Refused(Refusal::RunDeleted))));
            self.runs.remove(&run);
        }
    }
}

async fn demand_full(store: &Store) {
    let appended = store.append(&key("run 9"), batch("out", ["x"]), IfAbsent::Refuse).await;
    assert!(matches!(appended, Err(Error::DiskFull)), "{appended:?}");
    let created = store.create_run(create("new")).await;
    assert!(matches!(created, Err(Error::DiskFull)), "{created:?}");
}

/// Waits until appends are taken again.
async fn resumed(store: &Store, acked: &mut Acked) {
    let run = key("run 9");
    until("appends go on", async || {
        let body = noise(acked.runs[&run], 10_000);
        match store.append(&run, batch("out", [body]), IfAbsent::Refuse).await {
            Ok(_) => true,
            Err(Error::DiskFull | Error::Busy { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    *acked.runs.get_mut(&run).expect("a run") += 1;
    store.create_run(create("new")).await.expect("created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_ends_and_reads_go_on_and_appends_resume_when_there_is_space() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut acked = Acked::default();
    let store = Store::open(on(&disk)).expect("opens");
    // Room for some rounds of the journal and of packs.
    disk.fill(6 << 20);
    let error = acked.append_until_full(&store).await;
    assert!(matches!(error, Error::DiskFull), "{error}");
    demand_full(&store).await;
    acked.demand(&store).await;
    acked.end_some(&store, 0).await;
    acked.demand(&store).await;
    // Somebody else takes the very last of it.
    disk.fill(0);
    demand_full(&store).await;
    acked.end_some(&store, 3).await;
    acked.demand(&store).await;
    assert_eq!(super::place::list(&store, braidlog::ListRuns::default()).await.len(), 14);

    disk.relieve();
    resumed(&store, &mut acked).await;
    store.flush().await.expect("flushed");
    acked.demand(&store).await;
    store.close().await.expect("closed");
    drop(store);
    let store = Store::open(on(&disk)).expect("opens");
    acked.demand(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_started_on_a_full_disk_loses_nothing() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut acked = Acked::default();
    let store = Store::open(on(&disk)).expect("opens");
    disk.fill(4 << 20);
    acked.append_until_full(&store).await;
    store.close().await.expect("closed");
    drop(store);
    // With hardly any space it may be that a start is refused; it never harms.
    for left in [0, 100 << 10, 400 << 10] {
        disk.fill(left);
        match Store::open(on(&disk)) {
            Err(braidlog::OpenError::Io { .. }) => {}
            Err(error) => panic!("{error}"),
            Ok(store) => {
                acked.demand(&store).await;
                until("it is seen that the disk is full", async || {
                    let refused = store.create_run(create("new")).await;
                    matches!(refused, Err(Error::DiskFull))
                })
                .await;
                store.close().await.expect("closed");
            }
        }
        disk.relieve();
        disk.fill(900 << 10);
        let store = Store::open(on(&disk)).expect("opens below the reserve");
        acked.demand(&store).await;
        drop(store);
    }
    disk.relieve();
    let store = Store::open(on(&disk)).expect("opens");
    acked.demand(&store).await;
    resumed(&store, &mut acked).await;
    acked.demand(&store).await;
}
