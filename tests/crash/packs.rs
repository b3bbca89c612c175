//! Damage of packs: a store starts whatever became of them, and every read gives what was written,
//! or says that it cannot and which file is to blame.

use braidlog::{
    Codec, Error, Index, ListRuns, Options, Query, Refusal, RunKey, Start, Store, TailItem,
    platform::sim::{self, Fate, Mode, SimClock, SimDisk, SimRng},
};

use super::{
    life::Life,
    model::Model,
    survey::{ready, run_key},
    workload::{Workload, smallest},
};

const RUNS: usize = 4;

/// A store whose runs lie in packs, and what is read from it while it is whole.
struct Packed {
    disk: SimDisk,
    options: Options,
    whole: Vec<Read>,
}

/// What is read of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Read {
    /// Its tail and its streams; none if there is no such run.
    exists: Option<(u64, u32)>,
    records: Vec<(u32, u64, u64, Vec<u8>)>,
}

/// How reading a damaged store went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Told {
    whole: u64,
    lost: u64,
}

impl Packed {
    fn new(seed: u64, codec: Codec) -> Self {
        let (disk, clock) = (SimDisk::new(), SimClock::new(1));
        let options = Options { codec, pack_bytes: 24 << 10, ..smallest() };
        let opening = Life::open(&disk, &clock, seed, &options, Model::new(RUNS));
        let mut life = opening.life.expect("opens");
        let mut workload = Workload::new(SimRng::new(seed));
        for turn in 0..40 {
            workload.submit_some(&life);
            life.settle();
            if turn % 8 == 7 {
                assert!(life.flush(), "it is copied");
            }
        }
        assert!(life.flush(), "it is copied");
        life.shut_down();
        disk.power_cut(Fate::new(Mode::KeepNone, 0));
        let mut packed = Self { disk, options, whole: Vec::new() };
        packed.whole = packed.open(&packed.disk.fork(), |store| {
            (0..RUNS).map(|run| read(store, run).expect("it is whole")).collect()
        });
        let records: usize = packed.whole.iter().map(|run| run.records.len()).sum();
        assert!(50 < records, "there is something to damage: {records} records");
        packed
    }

    fn open<T>(&self, disk: &SimDisk, look: impl FnOnce(&Store) -> T) -> T {
        let platform = sim::platform(disk, &SimClock::new(1), 2);
        let (store, _stepper) = Store::open_stepped(platform, self.options.clone())
            .expect("a store starts whatever became of its packs");
        look(&store)
    }

    fn packs(&self) -> Vec<(String, u64)> {
        let paths = self.disk.files().into_iter().filter(|path| path.ends_with(".pack"));
        let len = |path: &String| self.disk.read_file(path).expect("a file").len() as u64;
        paths.map(|path| (path.clone(), len(&path))).collect()
    }

    /// Opens a damaged copy and holds every answer to what was read before.
    fn damaged(&self, path: &str, damage: impl FnOnce(&SimDisk)) -> Told {
        let disk = self.disk.fork();
        damage(&disk);
        self.open(&disk, |store| self.check(store, path))
    }

    fn check(&self, store: &Store, path: &str) -> Told {
        let mut told = Told::default();
        for (run, whole) in self.whole.iter().enumerate() {
            match read(store, run) {
                Ok(found) => {
                    assert_eq!(found, *whole, "run {run} with damage in {path}");
                    told.whole += 1;
                }
                Err((found, error)) => {
                    demand_loss(&error, path);
                    assert!(whole.records.starts_with(&found.records), "no wrong record is given");
                    told.lost += 1;
                }
            }
            read_some(store, run, whole, path);
        }
        if told.lost == 0 {
            let expected = self.whole.iter().filter(|run| run.exists.is_some()).count();
            let listed = ready(store.list_runs(&ListRuns::default())).expect("runs are listed");
            assert_eq!(listed.runs.len(), expected);
        }
        told
    }
}

/// Damage is told as such, and this file is named.
fn demand_loss(error: &Error, path: &str) {
    match error {
        Error::Corrupt(corruption) => assert_eq!(*corruption.file, *path),
        other => panic!("{path} is damaged, and what is told is: {other}"),
    }
}

/// Reads a run as a whole; what was read before the error, if there is one.
fn read(store: &Store, run: usize) -> Result<Read, (Read, Error)> {
    let mut found = Read::default();
    let key = run_key(run);
    match ready(store.get_run(&key)) {
        Ok(info) => found.exists = Some((info.tail.0, info.streams)),
        Err(Error::Refused(Refusal::RunNotFound)) => return Ok(found),
        Err(error) => return Err((found, error)),
    }
    let query = Query { stop_at_tail: true, allow_gap: true, ..Query::run(key) };
    read_to_end(store, query, &mut found.records).map_err(|error| (found.clone(), error))?;
    Ok(found)
}

fn read_to_end(
    store: &Store,
    query: Query,
    records: &mut Vec<(u32, u64, u64, Vec<u8>)>,
) -> Result<(), Error> {
    let mut tail = ready(store.tail(query))?;
    loop {
        match tail.try_next()?.expect("a reader that stops at the tail never waits") {
            TailItem::Records(found, _) => {
                let found = found.decode().expect("decodes");
                records.extend(
                    found.into_iter().map(|record| {
                        (record.stream, record.seq, record.index, record.data.to_vec())
                    }),
                );
            }
            TailItem::End(..) => return Ok(()),
            _ => {}
        }
    }
}

/// Reads every stream of a run from its middle.
fn read_some(store: &Store, run: usize, whole: &Read, path: &str) {
    for stream in 1..whole.exists.map_or(0, |(_, streams)| streams) {
        let Ok(list) = ready(store.list_streams(&run_key(run), None)) else { return };
        let info = &list.streams[stream as usize];
        let from = info.trim.0 + (info.tail.0 - info.trim.0) / 2;
        let query = Query::stream(run_key(run), info.name.clone());
        let query = Query { stop_at_tail: true, ..query.from(Start::Index(Index(from))) };
        let wanted = |record: &&(u32, u64, u64, Vec<u8>)| record.0 == stream && from <= record.2;
        let expected: Vec<_> = whole.records.iter().filter(wanted).cloned().collect();
        let mut found = Vec::new();
        match read_to_end(store, query, &mut found) {
            Ok(()) => assert_eq!(found, expected, "run {run}, stream {stream} from {from}"),
            Err(error) => {
                demand_loss(&error, path);
                assert!(expected.starts_with(&found), "no wrong record is given");
            }
        }
    }
}

#[test]
fn what_is_said_of_a_packs_names_is_not_needed_while_the_pack_is_there() {
    for packed in stores() {
        for (path, _) in packed.packs() {
            let names = path.replace(".pack", ".names");
            for byte in 0..packed.disk.read_file(&names).expect("a file").len() as u64 {
                let told = packed.damaged(&names, |disk| disk.flip_bit(&names, byte, 3));
                assert_eq!(told.lost, 0);
            }
            assert_eq!(packed.damaged(&names, |disk| disk.remove(&names)).lost, 0);
        }
    }
}

fn stores() -> impl Iterator<Item = Packed> {
    [Codec::None, Codec::Lz4, Codec::Zstd]
        .into_iter()
        .zip(1..)
        .map(|(codec, n)| Packed::new(n, codec))
}

#[test]
fn a_flipped_bit_in_a_pack_costs_the_reads_that_it_concerns_or_nothing() {
    let mut rng = SimRng::new(11);
    let (mut flips, mut lost) = (0, 0);
    for packed in stores() {
        for (path, len) in packed.packs() {
            for _ in 0..400 {
                let (byte, bit) = (rng.below(len), rng.below(8) as u8);
                let told = packed.damaged(&path, |disk| disk.flip_bit(&path, byte, bit));
                flips += 1;
                lost += u64::from(0 < told.lost);
            }
        }
    }
    println!("bits flipped in packs: {flips}, told as a loss of some runs: {lost}, silent: 0");
    assert!(0 < lost && lost < flips, "some bits matter, and some are made up for");
}

#[test]
fn what_describes_a_pack_is_made_again_when_it_is_damaged() {
    for packed in stores() {
        for (path, len) in packed.packs() {
            let bytes = packed.disk.read_file(&path).expect("a file");
            let header = 0..1;
            let footer = bytes.len() as u64 / 4_096 - 1;
            let index_at = u64::from_le_bytes(
                bytes[(footer * 4_096 + 48) as usize..][..8].try_into().expect("eight bytes"),
            ) / 4_096;
            for page in header.chain(index_at..len / 4_096) {
                for byte in [0, 20, 60, 100, 124] {
                    let at = page * 4_096 + byte;
                    let told = packed.damaged(&path, |disk| disk.flip_bit(&path, at, 4));
                    assert_eq!(told.lost, 0, "{path}, page {page}, byte {byte}");
                }
            }
        }
    }
}

#[test]
fn a_pack_that_is_cut_short_or_gone_is_told_as_a_loss_and_never_as_runs_that_are_not_there() {
    for packed in stores() {
        for (path, len) in packed.packs() {
            let cuts = (0..len).step_by(1_024).chain([1, len - 1]);
            for cut in cuts.map(Some).chain([None]) {
                let told = packed.damaged(&path, |disk| match cut {
                    Some(cut) => disk.truncate(&path, cut),
                    None => disk.remove(&path),
                });
                assert!(0 < told.lost, "{path} has no runs in it");
            }
            // What says which names it may hold is there: any other name is known to be free.
            let (disk, unknown) = (packed.disk.fork(), RunKey::new("nobody"));
            disk.remove(&path);
            packed.open(&disk, |store| {
                let told = ready(store.get_run(&unknown)).expect_err("there is none");
                assert!(matches!(told, Error::Refused(Refusal::RunNotFound)), "{told}");
            });
            // Without that, nothing is.
            disk.remove(&path.replace(".pack", ".names"));
            packed.open(&disk, |store| {
                demand_loss(&ready(store.get_run(&unknown)).expect_err("cannot be known"), &path);
            });
        }
    }
}

#[test]
fn a_zeroed_sector_of_a_pack_costs_the_reads_that_it_concerns_or_nothing() {
    for packed in stores() {
        for (path, len) in packed.packs() {
            for sector in 0..len / 512 {
                packed.damaged(&path, |disk| disk.zero_sector(&path, sector));
            }
        }
    }
}

#[test]
fn a_pack_in_the_place_of_another_is_refused() {
    let [one, other] = [1, 2].map(|seed| Packed::new(seed, Codec::Zstd));
    let read = |packed: &Packed, path: &str| packed.disk.read_file(path).expect("a pack");
    let paths = one.packs();
    let (path, _) = &paths[0];
    let stale = read(&other, &other.packs()[0].0);
    let mine = read(&one, &paths[1].0);
    for bytes in [stale, mine] {
        let told = one.damaged(path, |disk| disk.write_file(path, &bytes));
        assert!(0 < told.lost, "it is not taken for the right one");
    }
}

#[test]
fn damage_of_a_pack_while_the_store_is_open_costs_the_reads_that_it_concerns() {
    for packed in stores() {
        let mut rng = SimRng::new(5);
        let disk = packed.disk.fork();
        packed.open(&disk, |store| {
            for (path, len) in packed.packs() {
                for _ in 0..100 {
                    let (byte, bit) = (rng.below(len), rng.below(8) as u8);
                    disk.flip_bit(&path, byte, bit);
                    packed.check(store, &path);
                    disk.flip_bit(&path, byte, bit);
                }
            }
            assert_eq!(packed.check(store, "").lost, 0, "it is whole again");
        });
    }
}
