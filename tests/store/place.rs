//! A data directory with a store on it, small in every way, and short words for what is done to it.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use braidlog::{
    Append, Close, Create, Delete, End, Error, IfAbsent, ListRuns, NewRecord, Options, Outcome,
    Query, Record, Refusal, Retention, RunInfo, RunKey, Start, Store, Tail, TailItem,
};
use tempfile::TempDir;

/// How long anything may take that takes a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Options that make everything happen early: small slots and packs, no memory to speak of. What is
/// in the journal is copied when it is asked for.
pub(crate) fn tiny(data_dir: impl Into<PathBuf>) -> Options {
    Options {
        slot_bytes_first: 256 << 10,
        slot_bytes: 256 << 10,
        manifest_bytes: 32 << 10,
        pack_bytes: 256 << 10,
        flush_after_ms: 24 * 60 * 60 * 1_000,
        resident_bytes: 0,
        cache_bytes: 0,
        ring_bytes: 0,
        retention: Retention::default(),
        ..Options::new(data_dir)
    }
}

/// A store on a directory of its own.
pub(crate) struct Place {
    /// Removed when the place is dropped.
    _folder: TempDir,
    pub(crate) options: Options,
    store: Option<Store>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A store whose options differ from the tiny ones.
    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = TempDir::new().expect("folder");
        let mut options = tiny(folder.path().join("data"));
        change(&mut options);
        let store = Some(Store::open(options.clone()).expect("opens"));
        Self { _folder: folder, options, store }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.close().await;
        self.open();
    }

    pub(crate) async fn close(&mut self) {
        let store = self.store.take().expect("open");
        store.close().await.expect("closed");
        // Blocks until its threads have ended.
        tokio::task::spawn_blocking(move || drop(store)).await.expect("dropped");
    }

    pub(crate) fn open(&mut self) {
        self.store = Some(Store::open(self.options.clone()).expect("opens"));
    }

    pub(crate) async fn flush(&self) {
        self.store().flush().await.expect("flushed");
    }

    /// Names and sizes of the files in a folder of the data directory.
    pub(crate) fn files(&self, folder: &str) -> BTreeMap<String, u64> {
        let entries = fs::read_dir(self.data_dir().join(folder)).expect("folder");
        let sizes = entries.filter_map(|entry| {
            let entry = entry.expect("entry");
            // It may be gone already.
            let bytes = entry.metadata().ok()?.len();
            Some((entry.file_name().into_string().expect("UTF-8"), bytes))
        });
        // What stands beside every pack is not counted.
        sizes.filter(|(name, _)| !name.ends_with(".names")).collect()
    }

    /// Bytes of the files in a folder of the data directory.
    pub(crate) fn bytes(&self, folder: &str) -> u64 {
        self.files(folder).values().sum()
    }

    /// Files below the data directory that this process has open.
    pub(crate) fn files_open(&self) -> usize {
        let entries = fs::read_dir("/proc/self/fd").expect("this system has /proc");
        let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(self.data_dir())).count()
    }
}

pub(crate) fn key(run: impl Into<Arc<str>>) -> RunKey {
    RunKey::new(run)
}

pub(crate) fn create(run: impl Into<Arc<str>>) -> Create {
    let RunKey { namespace, run_id } = key(run);
    Create { namespace, run_id, ..Create::default() }
}

/// An append of records with these bodies.
pub(crate) fn batch<B: Into<bytes::Bytes>>(
    stream: &str,
    bodies: impl IntoIterator<Item = B>,
) -> Append {
    let records = bodies.into_iter().map(NewRecord::new).collect();
    Append { stream: stream.into(), records, ..Append::default() }
}

/// Appends one record, again and again while the store is busy.
pub(crate) async fn append(store: &Store, run: &RunKey, append: Append) {
    let started = Instant::now();
    loop {
        match store.append(run, append.clone(), IfAbsent::Create).await {
            Ok(_) => return,
            Err(Error::Busy { retry_after_ms }) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn close(store: &Store, run: &RunKey) {
    let close = Close { outcome: Outcome::Completed, ..Close::default() };
    store.close_run(run, close).await.expect("closed");
}

pub(crate) async fn delete(store: &Store, run: &RunKey) {
    store.delete_run(run, Delete::default()).await.expect("deleted");
}

/// Bytes that no codec makes smaller, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(len).collect()
}

/// Numbers without pattern, the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// All records of a query up to the tail, page by page.
pub(crate) async fn read_all(store: &Store, query: Query) -> Result<Vec<Record>, Error> {
    let mut query = query;
    let mut records = Vec::new();
    loop {
        let page = store.read(query.clone()).await?;
        if page.records.is_empty() {
            return Ok(records);
        }
        records.extend(page.records.decode().expect("records"));
        query.start = Start::Cursor(page.cursor.to_string());
    }
}

/// All that a run has, the lifecycle included.
pub(crate) async fn read_run(store: &Store, run: &RunKey) -> Vec<Record> {
    read_all(store, Query::run(run.clone())).await.expect("the run")
}

/// Records of a tail until it has caught up for the first time, or ends.
pub(crate) async fn drain(tail: &mut Tail) -> Result<(Vec<Record>, Option<End>), Error> {
    let mut records = Vec::new();
    loop {
        match tail.next().await? {
            TailItem::Records(found, _) => records.extend(found.decode().expect("records")),
            TailItem::CaughtUp(_) => return Ok((records, None)),
            TailItem::End(end, _) => return Ok((records, Some(end))),
            TailItem::Streams(_) | TailItem::Gap(..) => {}
        }
    }
}

/// All pages of a list.
pub(crate) async fn list(store: &Store, list: ListRuns) -> Vec<RunInfo> {
    let (mut list, mut runs) = (list, Vec::new());
    loop {
        let page = store.list_runs(&list).await.expect("page");
        assert!(page.runs.len() <= list.page_size);
        runs.extend(page.runs);
        match page.next {
            Some(next) => list.after = Some(next),
            None => return runs,
        }
    }
}

/// The refusal that an error is.
#[track_caller]
pub(crate) fn refusal(error: Error) -> Refusal {
    match error {
        Error::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

/// Waits until something holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
