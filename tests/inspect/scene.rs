//! Directories to be looked at: real ones, in memory.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    pin::pin,
    task::{Context, Waker},
};

use braidlog::{
    Append, Close, Create, Delete, IfAbsent, Index, NewRecord, Options, Outcome, Retention, RunKey,
    Send, Store, Trim,
    engine::Progress,
    format::{Damage, PAGE_BYTES, SECTOR_BYTES, frame::Frame, wire},
    offline::{Directory, Item, RunLog, Survey},
    platform::{Platform, read_only::ReadOnlyVfs, sim},
    record::RunNo,
};

/// A directory in memory, that can be damaged and looked at.
pub(crate) struct Scene {
    pub(crate) disk: sim::SimDisk,
    pub(crate) files: Files,
}

/// A record: its run, seq, stream and index.
pub(crate) type Place = (RunNo, u64, u32, u64);

/// Files by their paths.
type Files = BTreeMap<String, Vec<u8>>;

fn load(dir: &Path, at: &str, files: &mut Files) {
    for entry in fs::read_dir(dir).expect("folder") {
        let entry = entry.expect("entry");
        let name = format!("{at}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true if name == "index" => {}
            true => load(&entry.path(), &format!("{name}/"), files),
            false if name == "LOCK" => {}
            false => drop(files.insert(name, fs::read(entry.path()).expect("file"))),
        }
    }
}

impl Scene {
    /// The files of a directory.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut files = Files::new();
        load(dir, "", &mut files);
        Self::with(files)
    }

    /// What is on the disk of a store with which this was done, the same every time; ended in order,
    /// or not.
    fn after<W: Future<Output = ()>>(
        options: Options,
        work: impl FnOnce(Store) -> W,
        in_order: bool,
    ) -> Self {
        let disk = sim::SimDisk::new();
        let platform = sim::platform(&disk, &sim::SimClock::new(NOW_MS), 1);
        let (store, mut stepper) = Store::open_stepped(platform, options).expect("opens");
        let mut work = pin!(work(store));
        let mut context = Context::from_waker(Waker::noop());
        while work.as_mut().poll(&mut context).is_pending() {
            if stepper.step() != Progress::Worked {
                stepper.flush();
            }
        }
        if in_order {
            stepper.finish();
        }
        let paths = disk.files().into_iter().filter(|path| path != "LOCK");
        Self::with(paths.map(|path| (path.clone(), disk.read_file(&path).expect("file"))).collect())
    }

    fn with(files: Files) -> Self {
        let disk = sim::SimDisk::new();
        files.iter().for_each(|(path, bytes)| disk.write_file(path, bytes));
        Self { disk, files }
    }

    /// Another one with the same files.
    pub(crate) fn again(&self) -> Self {
        let disk = sim::SimDisk::new();
        self.files.iter().for_each(|(path, bytes)| disk.write_file(path, bytes));
        Self { disk, files: self.files.clone() }
    }

    /// The directory of format version 1 that is kept for ever.
    pub(crate) fn fixture() -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1"))
    }

    /// A directory as a store that is killed leaves it: several packs and slots, runs in both, masked
    /// blocks, frames without records, inputs, trims, deletions.
    pub(crate) fn killed() -> Self {
        Self::after(options(), write, false)
    }

    /// A directory of a store that was closed, with packs of many blocks: runs of several blocks, and
    /// small ones between them.
    pub(crate) fn packed() -> Self {
        let options = Options { slot_bytes_first: 1 << 20, slot_bytes: 1 << 20, ..options() };
        let write = async |store: Store| {
            let mut rng = sim::SimRng::new(5);
            for round in 0..12u64 {
                for run in 0..6u64 {
                    let mut body = vec![0; if run < 2 { 60_000 } else { 500 }];
                    rng.fill(&mut body);
                    let name = format!("run-{run}");
                    append(&store, &name, "out", &[body, vec![round as u8; 40]]).await;
                }
            }
            store.flush().await.expect("flushed");
        };
        Self::after(options, write, true)
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.write_file(path, bytes);
    }

    pub(crate) fn platform(&self) -> Platform {
        let platform = sim::platform(&self.disk, &sim::SimClock::new(1), 1);
        Platform { vfs: std::sync::Arc::new(ReadOnlyVfs::new(platform.vfs)), ..platform }
    }

    pub(crate) fn survey(&self) -> Survey {
        Directory::on(self.platform()).survey().expect("a store")
    }
}

/// When all of it was written.
const NOW_MS: u64 = 1_700_000_000_000;

fn options() -> Options {
    Options {
        slot_bytes_first: 32 << 10,
        slot_bytes: 32 << 10,
        manifest_bytes: 32 << 10,
        retention: Retention::default(),
        ..Options::new("simulated")
    }
}

async fn append(store: &Store, run: &str, stream: &str, bodies: &[Vec<u8>]) {
    let records = bodies.iter().map(|body| NewRecord::new(body.clone())).collect();
    let append = Append { stream: stream.into(), records, ..Append::default() };
    store.append(&RunKey::new(run), append, IfAbsent::Create).await.expect("appended");
}

async fn write(store: Store) {
    let store = &store;
    let noise = |n: u32, len: u32| -> Vec<u8> {
        (0..len).map(|m| ((m + n).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    };
    for round in 0..4u32 {
        for run in 0..6u32 {
            let name = format!("run-{run}");
            let bodies: Vec<_> = (0..=run % 3).map(|n| noise(n + run, 20 + 90 * run)).collect();
            append(store, &name, if round % 2 == 0 { "out" } else { "log" }, &bodies).await;
        }
        append(store, "zeros", "out", &[vec![0; 1_500], vec![0; 700]]).await;
        let message = NewRecord::new(noise(round, 60));
        let send = Send { run_uid: None, stream: "inbox".into(), message };
        store.send(&RunKey::new("run-1"), send).await.expect("sent");
        if round == 1 {
            let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(1) };
            store.trim(&RunKey::new("run-2"), trim).await.expect("trimmed");
            store.delete_run(&RunKey::new("run-5"), Delete::default()).await.expect("deleted");
            let create =
                Create { namespace: "default".into(), run_id: "run-5".into(), ..Create::default() };
            store.create_run(create).await.expect("again");
        }
        if round < 3 {
            store.flush().await.expect("flushed");
        }
    }
    let close = Close { outcome: Outcome::Completed, output: "done".into(), ..Close::default() };
    store.close_run(&RunKey::new("run-3"), close).await.expect("closed");
    append(store, "late", "out", &[noise(1, 3_000)]).await;
    append(store, "late", "out", &[noise(2, 30)]).await;
}

/// Every record that can be read and is not trimmed.
pub(crate) fn records(survey: &Survey) -> Vec<Place> {
    let mut places = Vec::new();
    survey
        .each_run(braidlog::offline::RunFilter::default(), |run| {
            let streams = run.state.as_ref().map_or(&[][..], |state| &state.streams);
            let is_kept = |place: &Place| {
                streams.get(place.2 as usize).is_none_or(|stream| stream.trim.0 <= place.3)
            };
            let mut log = RunLog::open(survey, run.name_hash, run.run_no)?;
            while let Some(item) = log.next_item()? {
                if let Item::Frame(frame, _) = item {
                    places.extend(places_of(&frame).filter(is_kept));
                }
            }
            Ok(())
        })
        .expect("readable");
    places.sort_unstable();
    places.dedup();
    places
}

/// The records of a frame.
pub(crate) fn places_of(frame: &Frame) -> impl Iterator<Item = Place> {
    let run_no = frame.header.run_no;
    let records: Vec<_> = wire::skim_all(frame.records_slice())
        .map(|record| record.expect("sound"))
        .map(|record| (run_no, record.seq.0, record.stream.0, record.index.0))
        .collect();
    records.into_iter()
}

/// What is wrong in words, for messages of tests.
pub(crate) fn said(damage: Option<Damage>) -> String {
    damage.map_or_else(|| "torn".to_owned(), |damage| damage.to_string())
}

/// A file with something in it that is not as it was, and where: cut off, a sector of zeros, bytes of
/// any kind, the beginning of another file, a length that promises much.
pub(crate) fn spoiled(rng: &mut sim::SimRng, bytes: &[u8], other: &[u8]) -> (Vec<u8>, usize) {
    let mut spoiled = bytes.to_vec();
    let at = rng.below(spoiled.len() as u64) as usize;
    match rng.below(5) {
        0 => spoiled.truncate(at),
        1 => {
            let from = at / SECTOR_BYTES * SECTOR_BYTES;
            let to = spoiled.len().min(from + SECTOR_BYTES);
            spoiled[from..to].fill(0);
        }
        2 => {
            let len = (rng.below(600) as usize).min(spoiled.len() - at);
            spoiled[at..at + len].iter_mut().for_each(|byte| *byte = rng.below(256) as u8);
        }
        3 => {
            let len = PAGE_BYTES.min(other.len()).min(spoiled.len());
            spoiled[..len].copy_from_slice(&other[..len]);
        }
        _ => {
            let end = spoiled.len().min(at + 4);
            spoiled[at..end].fill(0xff);
        }
    }
    (spoiled, at)
}
