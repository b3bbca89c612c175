//! A store with its threads, and callers in threads of their own.

use std::{future::Future, sync::Arc};

use braidlog::{
    Append, Appended, Close, Create, Error, IfAbsent, InputConsumer, NewRecord, Options, Outcome,
    Query, Refusal, RunKey, Send, Start, Store, TailItem,
    platform::sim::{Fate, Mode, SimClock, SimDisk},
};
use shuttle::{future, thread};

use crate::disk::scheduled;

pub(crate) const STREAM: &str = "out";

/// A disk, and the store on it.
pub(crate) struct Scene {
    pub(crate) disk: SimDisk,
    clock: SimClock,
    seed: u64,
    options: Options,
    pub(crate) store: Store,
}

/// Options of a store of which everything is small: few appends change slots.
pub(crate) fn small() -> Options {
    let mut options = Options::new("/simulated");
    options.slot_bytes_first = 32 << 10;
    options.slot_bytes = 32 << 10;
    options.manifest_bytes = 32 << 10;
    options.journal_slots_max = 3;
    options.ring_bytes = 0;
    options.resident_bytes = 0;
    options.cache_bytes = 64 << 10;
    options.pack_bytes = 8 << 10;
    options.read_threads = 1;
    options
}

impl Scene {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let (disk, clock) = (SimDisk::new(), SimClock::new(1));
        let store = Store::open_on(scheduled(&disk, &clock, seed), options.clone()).expect("opens");
        Self { disk, clock, seed, options, store }
    }

    /// Has the power cut, of what was not synced nothing left, and opens the store again.
    pub(crate) fn after_power_cut(self) -> Self {
        let Self { disk, clock, seed, options, store } = self;
        let disk_after = disk.fork();
        drop(store);
        disk_after.power_cut(Fate::new(Mode::KeepNone, seed));
        let platform = scheduled(&disk_after, &clock, seed + 1);
        let store = Store::open_on(platform, options.clone()).expect("a cut is never fatal");
        Self { disk: disk_after, clock, seed, options, store }
    }

    /// A caller in a thread of its own.
    pub(crate) fn caller<F, T>(
        &self,
        call: impl FnOnce(Store) -> F + std::marker::Send + 'static,
    ) -> thread::JoinHandle<T>
    where
        F: Future<Output = T>,
        T: std::marker::Send + 'static,
    {
        let store = self.store.clone();
        thread::spawn(move || future::block_on(call(store)))
    }
}

pub(crate) fn run(future: impl Future<Output = ()>) {
    future::block_on(future);
}

pub(crate) fn key(name: &str) -> RunKey {
    RunKey::new(name.to_owned())
}

pub(crate) fn create(name: &str, task: &str) -> Create {
    let RunKey { namespace, run_id } = key(name);
    Create { namespace, run_id, task: task.into(), ..Create::default() }
}

/// A batch of one record with this text, and so many bytes more.
pub(crate) fn batch(text: &str, bytes: usize) -> Append {
    let records = vec![NewRecord::new(text.to_owned() + &"-".repeat(bytes))];
    Append { stream: STREAM.into(), records, ..Append::default() }
}

/// Appends, again if the store is busy.
pub(crate) async fn append(store: &Store, run: &RunKey, batch: Append) -> Result<Appended, Error> {
    loop {
        match store.append(run, batch.clone(), IfAbsent::Create).await {
            Err(Error::Busy { .. }) => future::yield_now().await,
            other => return other,
        }
    }
}

pub(crate) async fn send(store: &Store, run: &RunKey, text: String) -> Result<(), Error> {
    let message = NewRecord::new(text);
    store.send(run, Send { run_uid: None, stream: "in".into(), message }).await.map(drop)
}

/// Closes a run, again if the store is busy.
pub(crate) async fn close(store: &Store, run: &RunKey) -> Result<(), Error> {
    let close = Close { outcome: Outcome::Completed, ..Close::default() };
    loop {
        match store.close_run(run, close.clone()).await {
            Err(Error::Busy { .. }) => future::yield_now().await,
            other => return other.map(drop),
        }
    }
}

pub(crate) fn consumer(run: &str) -> InputConsumer {
    InputConsumer {
        run: key(run),
        run_uid: None,
        stream: "in".into(),
        consumer: "worker".into(),
        lease_epoch: None,
    }
}

fn texts(records: &braidlog::Records) -> Vec<String> {
    let records = records.decode().expect("records");
    let text = |data: &[u8]| String::from_utf8(data.to_vec()).expect("text");
    records.iter().map(|record| text(&record.data).trim_end_matches('-').to_owned()).collect()
}

/// Follows a run's stream to its end.
pub(crate) async fn follow(store: &Store, run: &RunKey) -> Result<Vec<String>, Error> {
    let mut tail = store.tail(Query::stream(run.clone(), STREAM)).await?;
    let mut seen = Vec::new();
    loop {
        match tail.next().await? {
            TailItem::Records(records, _) => seen.extend(texts(&records)),
            TailItem::End(..) => return Ok(seen),
            _ => {}
        }
    }
}

/// All of a run's stream that is there now.
pub(crate) async fn read(store: &Store, run: &RunKey) -> Result<Vec<String>, Error> {
    let (mut query, mut all) = (Query::stream(run.clone(), STREAM), Vec::new());
    loop {
        let page = match store.read(query.clone()).await {
            Err(Error::Refused(Refusal::StreamNotFound)) => return Ok(all),
            other => other?,
        };
        if page.records.is_empty() {
            return Ok(all);
        }
        all.extend(texts(&page.records));
        query.start = Start::Cursor(page.cursor.to_string());
    }
}

/// A name for what a caller does.
pub(crate) fn name(caller: usize, number: usize) -> String {
    format!("{caller}.{number}")
}

/// Whether an error says that the store ends.
pub(crate) fn is_end(error: &Error) -> bool {
    matches!(error, Error::ShuttingDown | Error::Stopped { .. } | Error::OutcomeUnknown { .. })
}

/// What a caller may share with others.
pub(crate) type Shared<T> = Arc<std::sync::Mutex<T>>;
