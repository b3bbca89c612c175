//! Random damage of random stores, as much as is asked for: whatever is done to the bytes of any
//! file, what the store says is right, or names that file as damaged.
//!
//! `damage` and `packs` exhaust a few small stores. Here many are damaged at random: bits, bytes,
//! sectors, pages and whole files, zeroed, exchanged, put back to what they were earlier, cut
//! short. Each damaged copy is opened by the recovery that every start goes through; if it opens,
//! everything in it is read and held to the model.

use std::{
    iter,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use braidlog::{
    OpenError, Options, Store,
    platform::sim::{self, Fate, Mode, SECTOR, SimClock, SimDisk, SimRng},
};

use super::{
    damage::{Ended, Standing, batch, newest_block},
    life::{Heritage, Life},
    model::Model,
    survey::{is_to_blame, judge},
    sweep::{Place, Round, Sweep, add, has_failed},
    workload::{RUNS, Workload, options},
};

/// Damages of one store; another is made after them.
const EACH: u64 = 1_000;
const SECTOR_BYTES: u64 = SECTOR as u64;
const PAGE_SECTORS: u64 = 8;

/// What came of the damages.
#[derive(Debug, Default)]
struct Totals {
    corruptions: AtomicU64,
    stores: AtomicU64,
    /// By the kind of damage, and of the file.
    kinds: [AtomicU64; Kind::ALL.len()],
    files: [AtomicU64; FILES.len()],
    /// The store did not open, and named the file.
    refused: AtomicU64,
    /// It opened, and some reads named the file.
    told: AtomicU64,
    /// It opened and all of it was right.
    harmless: AtomicU64,
    /// It looked like the newest write, torn by a power cut, and that is what it was taken for.
    as_torn: AtomicU64,
}

/// Files by the beginnings of their paths.
const FILES: [&str; 5] = ["journal/", "MANIFEST-", "packs/", "STORE", "CURRENT"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bit,
    Bits,
    Byte,
    Zeros,
    Noise,
    /// Two sectors of a file change places.
    Exchanged,
    /// Sectors of any file of the store.
    Misplaced,
    /// Sectors as they were earlier.
    Stale,
    CutShort,
    Removed,
    /// The whole content of another file.
    Replaced,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Bit,
        Self::Bits,
        Self::Byte,
        Self::Zeros,
        Self::Noise,
        Self::Exchanged,
        Self::Misplaced,
        Self::Stale,
        Self::CutShort,
        Self::Removed,
        Self::Replaced,
    ];

    /// The cheap ones of which there are few are rare.
    fn random(rng: &mut SimRng) -> Self {
        match rng.below(64) {
            0..=19 => Self::Bit,
            20..=27 => Self::Bits,
            28..=33 => Self::Byte,
            34..=41 => Self::Zeros,
            42..=45 => Self::Noise,
            46..=50 => Self::Exchanged,
            51..=55 => Self::Misplaced,
            56..=60 => Self::Stale,
            61..=62 => Self::CutShort,
            _ if rng.chance(1, 4) => Self::Removed,
            _ => Self::Replaced,
        }
    }
}

/// A file of a store at rest.
struct Resting {
    path: String,
    bytes: Vec<u8>,
    /// What it held at an earlier moment; nothing if it was not there.
    earlier: Vec<u8>,
}

/// A store that ended, and what is in it.
struct Target {
    disk: SimDisk,
    options: Options,
    files: Vec<Resting>,
    model: Model,
    /// What is in it without its newest block.
    before_newest: Model,
    newest: Standing,
    ended: Ended,
}

impl Target {
    /// A store in which nothing is in doubt.
    fn random(rng: &mut SimRng) -> Self {
        loop {
            if let Some(target) = Self::attempt(rng) {
                return target;
            }
        }
    }

    /// None if callers still wait when they should have been answered, or the last one was refused:
    /// there was no slot to go on in.
    fn attempt(rng: &mut SimRng) -> Option<Self> {
        let (disk, clock, mut options) = (SimDisk::new(), SimClock::new(1), options(rng));
        options.retention.age_ms = None;
        let ended = [Ended::Abruptly, Ended::Marked, Ended::Clean][rng.below(3) as usize];
        let last = RUNS as usize;
        let opening = Life::open(&disk, &clock, rng.next_u64(), &options, Model::new(last + 1));
        let mut life = opening.life.expect("opens");
        let mut workload = Workload::new(SimRng::new(rng.next_u64()));
        let turns = 4 + rng.below(20);
        let earlier_at = rng.below(turns);
        let mut earlier = disk.fork();
        for turn in 0..turns {
            if turn == earlier_at {
                earlier = disk.fork();
            }
            workload.take_turn(&mut life);
        }
        life.settle();
        if life.is_waiting() {
            return None;
        }
        let Heritage { model: before_newest, .. } = life.heritage();
        life.submit(last, batch(0, &[b"the newest block is about this run and no other"]));
        life.settle();
        if ended == Ended::Marked {
            life.idle();
        }
        if life.is_waiting() {
            return None;
        }
        let (Heritage { model, .. }, _) = match ended {
            Ended::Clean => life.shut_down(),
            Ended::Marked | Ended::Abruptly => life.abandon(),
        };
        if model.runs[last].state.tail == before_newest.runs[last].state.tail {
            return None;
        }
        disk.power_cut(Fate::new(Mode::KeepNone, 0));
        let files = disk.files().into_iter().filter(|path| path != "LOCK");
        let files = files.map(|path| Resting {
            bytes: disk.read_file(&path).expect("it is there"),
            earlier: earlier.read_file(&path).unwrap_or_default(),
            path,
        });
        let files = files.filter(|file| !file.bytes.is_empty()).collect();
        let newest = newest_block(&disk);
        Some(Self { disk, options, files, model, before_newest, newest, ended })
    }

    /// A file: of each kind often, however few there are of it.
    fn pick(&self, rng: &mut SimRng) -> &Resting {
        let start = match rng.below(32) {
            0..=11 => FILES[0],
            12..=19 => FILES[1],
            20..=29 => FILES[2],
            30 => FILES[3],
            _ => FILES[4],
        };
        let of_kind: Vec<_> =
            self.files.iter().filter(|file| file.path.starts_with(start)).collect();
        match of_kind.len() {
            0 => &self.files[rng.below(self.files.len() as u64) as usize],
            n => of_kind[rng.below(n as u64) as usize],
        }
    }

    /// Damages a copy: what was done, and which bytes of the file may be others now. Nothing if
    /// none are.
    fn damage(
        &self,
        file: &Resting,
        kind: Kind,
        rng: &mut SimRng,
    ) -> Option<(SimDisk, Vec<Range<u64>>)> {
        let Resting { path, bytes, earlier } = file;
        let len = bytes.len() as u64;
        let disk = self.disk.fork();
        let byte = place(bytes, rng);
        // One sector, or some up to the end of its page: one block at most.
        let from = byte / SECTOR_BYTES * SECTOR_BYTES;
        let sectors = if rng.chance(1, 2) { 1 } else { 1 + rng.below(PAGE_SECTORS) };
        let page_end = (from + 1).next_multiple_of(PAGE_SECTORS * SECTOR_BYTES);
        let to = len.min(page_end).min(from + sectors * SECTOR_BYTES);
        let range = from as usize..to as usize;
        let put = |position: u64, new: &[u8]| {
            let new = &new[..new.len().min((len - position) as usize)];
            let old = &bytes[position as usize..position as usize + new.len()];
            disk.overwrite(path, position, new);
            (old != new).then_some(position..position + new.len() as u64)
        };
        let damaged = match kind {
            Kind::Bit => {
                disk.flip_bit(path, byte, rng.below(8) as u8);
                iter::once(byte..byte + 1).collect()
            }
            Kind::Bits => {
                let mut new = bytes[range.clone()].to_vec();
                for _ in 0..2 + rng.below(6) {
                    new[rng.below(to - from) as usize] ^= 1 << rng.below(8);
                }
                Vec::from_iter(put(from, &new))
            }
            Kind::Byte => Vec::from_iter(put(byte, &[rng.next_u64() as u8])),
            Kind::Zeros => Vec::from_iter(put(from, &vec![0; range.len()])),
            Kind::Noise => {
                let mut new = vec![0; range.len()];
                rng.fill(&mut new);
                Vec::from_iter(put(from, &new))
            }
            Kind::Exchanged => {
                let other = place(bytes, rng) / SECTOR_BYTES * SECTOR_BYTES;
                let sector = |at: u64| &bytes[at as usize..(at + SECTOR_BYTES).min(len) as usize];
                let one = put(from, sector(other));
                Vec::from_iter(one.into_iter().chain(put(other, sector(from))))
            }
            Kind::Misplaced => {
                let source = self.pick(rng);
                let at = (place(&source.bytes, rng) / SECTOR_BYTES * SECTOR_BYTES) as usize;
                let new = &source.bytes[at..source.bytes.len().min(at + range.len())];
                Vec::from_iter(put(from, new))
            }
            Kind::Stale => {
                let end = range.end.min(earlier.len());
                Vec::from_iter(put(from, earlier.get(range.start..end).unwrap_or_default()))
            }
            Kind::CutShort => {
                let end = if rng.chance(1, 2) { byte } else { from };
                disk.truncate(path, end);
                iter::once(end..len).collect()
            }
            Kind::Removed => {
                disk.remove(path);
                iter::once(0..len).collect()
            }
            Kind::Replaced => {
                let source = self.pick(rng);
                disk.write_file(path, &source.bytes);
                Vec::from_iter((source.bytes != *bytes).then_some(0..len))
            }
        };
        (!damaged.is_empty()).then_some((disk, damaged))
    }

    /// Whether damage concerns the newest block and another: what proves that the other had been
    /// whole is then damaged with it.
    fn is_twofold(&self, path: &str, damaged: &[Range<u64>]) -> bool {
        1 < damaged.len() && self.is_newest(path, damaged)
    }

    fn is_newest(&self, path: &str, damaged: &[Range<u64>]) -> bool {
        let place = &self.newest.place;
        let touches = |damaged: &Range<u64>| damaged.start < place.end && place.start < damaged.end;
        self.newest.path == path && damaged.iter().any(touches)
    }

    /// Whether damage may make the newest block look like a write that the power cut tore: nothing
    /// follows it that proves that it was whole.
    fn is_doubtful(&self, path: &str, damaged: &[Range<u64>]) -> bool {
        self.ended == Ended::Abruptly && self.is_newest(path, damaged)
    }

    /// Opens a damaged copy and holds all it says to the model.
    fn check(&self, disk: &SimDisk, path: &str, damaged: &[Range<u64>], totals: &Totals) {
        let open = || {
            let platform = sim::platform(disk, &SimClock::new(1), 2);
            Store::open_stepped(platform, self.options.clone())
        };
        let (store, _stepper) = match open() {
            Ok(opened) => opened,
            Err(OpenError::Corrupt { corruption, .. }) => {
                assert!(is_to_blame(path, &corruption.file), "it is told that {corruption}");
                let names_it = *corruption.file == *path;
                let end = damaged.iter().map(|damaged| damaged.end).max();
                let is_behind = names_it && end.is_none_or(|end| end <= corruption.position);
                assert!(!is_behind, "it is told behind the damage: {corruption}");
                return add(&totals.refused, 1);
            }
            Err(other) => panic!("damage is told as such, and not as {other}"),
        };
        match judge(&store, &self.model, path) {
            Ok(told) => {
                let opened_and = if told.is_empty() { &totals.harmless } else { &totals.told };
                add(opened_and, 1);
            }
            Err(problem) if self.is_doubtful(path, damaged) => {
                let without = judge(&store, &self.before_newest, path);
                assert!(without.is_ok(), "{problem}; without the newest block: {without:?}");
                add(&totals.as_torn, 1);
            }
            Err(problem) => panic!("{problem}"),
        }
    }
}

/// A byte of a file: three times in four one near which something is written.
fn place(bytes: &[u8], rng: &mut SimRng) -> u64 {
    let mut byte = rng.below(bytes.len() as u64);
    for _ in 0..if rng.chance(1, 4) { 0 } else { 8 } {
        let from = byte as usize / SECTOR * SECTOR;
        let sector = &bytes[from..bytes.len().min(from + SECTOR)];
        if sector.iter().any(|byte| *byte != 0) {
            break;
        }
        byte = rng.below(bytes.len() as u64);
    }
    byte
}

/// Damages one store in many ways.
fn damage_one(totals: &Totals, round: Round) {
    let Round { seed, number, only } = round;
    let what = "the store itself".into();
    let mut place = Place { tests: "corruption::", seed, round: number, trial: 0, what };
    let seed = seed ^ number.wrapping_mul(0xd134_2543_de82_ef95);
    let target = Target::random(&mut SimRng::new(seed));
    add(&totals.stores, 1);
    while place.trial < EACH && !has_failed() {
        place.trial += 1;
        if only.is_some_and(|only| only != place.trial) {
            continue;
        }
        let mut rng = SimRng::new(seed ^ place.trial.wrapping_mul(0x9fb2_1c65_1e98_df25));
        let (file, kind) = (target.pick(&mut rng), Kind::random(&mut rng));
        // What changed nothing was no damage.
        let Some((disk, damaged)) = target.damage(file, kind, &mut rng) else { continue };
        if target.is_twofold(&file.path, &damaged) {
            continue;
        }
        place.what = format!("{kind:?} of {}, {damaged:?}, {:?}", file.path, target.ended);
        target.check(&disk, &file.path, &damaged, totals);
        add(&totals.corruptions, 1);
        add(&totals.kinds[Kind::ALL.iter().position(|of| *of == kind).expect("all")], 1);
        let file = FILES.iter().position(|start| file.path.starts_with(start));
        add(&totals.files[file.expect("files of a store")], 1);
    }
    place.what = "the store itself".into();
}

#[test]
fn what_was_once_answered_wrong_is_answered_right() {
    // A name that was used again after its run was deleted: the pack with both runs is damaged in its
    // directory and in a block, and the deleted run comes back from the journal.
    let found = [(7005, 40, 18), (7006, 50, 33)];
    let totals = Totals::default();
    for (seed, number, trial) in found {
        damage_one(&totals, Round { seed, number, only: Some(trial) });
    }
    let told = totals.told.load(Ordering::Relaxed);
    assert_eq!(told, found.len() as u64, "the store opens and tells of it");
}

#[test]
fn whatever_is_damaged_is_served_right_or_named() {
    let sweep = Sweep::new("BRAIDLOG_CORRUPTIONS", 20_000);
    let Some(totals) = sweep.run(|totals: &Totals| &totals.corruptions, damage_one) else { return };
    let total = |of: &dyn Fn(&Totals) -> &AtomicU64| -> u64 {
        totals.iter().map(|totals| of(totals).load(Ordering::Relaxed)).sum()
    };
    println!(
        "level corruption: corruptions: {}, refused at the start: {}, told by reads: {}, harmless: {}, \
         taken for a torn write: {}, wrong: 0, stores: {}, seed: {}",
        total(&|t| &t.corruptions),
        total(&|t| &t.refused),
        total(&|t| &t.told),
        total(&|t| &t.harmless),
        total(&|t| &t.as_torn),
        total(&|t| &t.stores),
        sweep.seed,
    );
    let kinds = Kind::ALL.iter().enumerate();
    let kinds = kinds.map(|(n, kind)| (format!("{kind:?}"), total(&|t| &t.kinds[n])));
    let files = FILES.iter().enumerate();
    let files = files.map(|(n, start)| ((*start).to_owned(), total(&|t| &t.files[n])));
    let all: Vec<_> = kinds.chain(files).collect();
    println!(
        "{}",
        all.iter().map(|(what, n)| format!("{what}: {n}")).collect::<Vec<_>>().join(", ")
    );
    for (what, n) in &all {
        assert!(sweep.wanted < 20_000 || 0 < *n, "no damage of {what}: the sweep is too tame");
    }
    assert!(sweep.wanted < 20_000 || 0 < total(&|t| &t.refused).min(total(&|t| &t.told)));
}
