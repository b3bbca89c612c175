//! Damage of packs: a store starts whatever became of them, and every read gives what was written,
//! or says that it cannot and which file is to blame.

use braidlog::{
    Codec, Error, Options, Refusal, RunKey, Store,
    platform::sim::{self, Call, Fate, Fault, Mode, SimClock, SimDisk, SimRng, What},
};

use super::{
    life::{Heritage, Life},
    model::Model,
    survey::{judge, ready},
    workload::{Workload, smallest},
};

const RUNS: usize = 4;

/// A store whose runs lie in packs, and what is in it.
struct Packed {
    disk: SimDisk,
    options: Options,
    model: Model,
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
        let (Heritage { model, .. }, _) = life.shut_down();
        let packed = Self { disk, options, model };
        assert!(2 < packed.packs().len(), "there is something to damage");
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

    /// Opens a damaged copy. Number of names whose callers are told of it.
    fn damaged(&self, path: &str, damage: impl FnOnce(&SimDisk)) -> usize {
        let disk = self.disk.fork();
        damage(&disk);
        self.open(&disk, |store| self.check(store, path))
    }

    fn check(&self, store: &Store, path: &str) -> usize {
        let told = judge(store, &self.model, path);
        told.unwrap_or_else(|problem| panic!("with damage in {path}: {problem}")).len()
    }
}

#[test]
fn what_is_said_of_a_packs_names_is_not_needed_while_the_pack_is_there() {
    for packed in stores() {
        for (path, _) in packed.packs() {
            let names = path.replace(".pack", ".names");
            for byte in 0..packed.disk.read_file(&names).expect("a file").len() as u64 {
                let told = packed.damaged(&names, |disk| disk.flip_bit(&names, byte, 3));
                assert_eq!(told, 0);
            }
            assert_eq!(packed.damaged(&names, |disk| disk.remove(&names)), 0);
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
                lost += u64::from(0 < told);
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
                    assert_eq!(told, 0, "{path}, page {page}, byte {byte}");
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
                assert!(0 < told, "{path} has no runs in it");
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
                match ready(store.get_run(&unknown)).expect_err("cannot be known") {
                    Error::Corrupt(corruption) => assert_eq!(*corruption.file, *path),
                    other => panic!("{path} is gone, and what is told is: {other}"),
                }
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
        assert!(0 < told, "it is not taken for the right one");
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
            assert_eq!(packed.check(store, ""), 0, "it is whole again");
        });
    }
}

/// A store that copies everything into packs, on a disk of which one sync of their files does not do
/// what it says; and whether it says that all of it was copied.
fn copied(seed: u64, lying_sync: u64) -> (Packed, bool) {
    let (disk, clock) = (SimDisk::new(), SimClock::new(1));
    // Packs of several blocks, each of which is read back by itself.
    let options = Options { pack_bytes: 1 << 20, ..smallest() };
    let mut life = Life::open(&disk, &clock, seed, &options, Model::new(RUNS)).life.expect("opens");
    let mut workload = Workload::talkative(SimRng::new(seed));
    for _ in 0..120 {
        workload.submit_some(&life);
        life.settle();
    }
    disk.inject(Fault::new(Call::Sync, What::SyncLies).on("tmp/0000").nth(lying_sync));
    let is_done = life.flush();
    let (Heritage { model, .. }, _) = life.abandon();
    (Packed { disk, options, model }, is_done)
}

#[test]
fn a_pack_that_the_disk_says_it_has_and_has_not_is_given_up_before_anything_relies_on_it() {
    let (mut lies, mut given_up) = (0, 0);
    for seed in 1..=12 {
        for nth in 1.. {
            let (packed, is_done) = copied(seed, nth);
            if 0 < packed.disk.faults_left() {
                break;
            }
            lies += 1;
            given_up += u64::from(!is_done);
            packed.disk.power_cut(Fate::new(Mode::KeepAll, 1));
            assert_eq!(packed.damaged("", |_| {}), 0, "history {seed}, sync {nth}");
        }
    }
    println!("syncs that did nothing: {lies}, packs given up: {given_up}, records lost: 0");
    // What is not noticed is in the names, which nobody needs while the pack is there.
    assert!(24 < given_up && given_up < lies, "{given_up} of {lies}");
}
