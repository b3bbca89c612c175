//! Damage of what was durable: every flipped bit, every zeroed sector, every file cut short or
//! gone. A store either refuses to open and says where, or serves all there was.

use std::{collections::BTreeSet, ops::Range};

use braidlog::{
    Error, OpenError, Options, Query, Store,
    format::{
        block::{self, BlockDraft},
        frame::Frame,
        slot::{self, SlotKind},
    },
    platform::sim::{self, Fate, Mode, SimClock, SimDisk, SimRng},
};

use super::{
    life::{Heritage, Life},
    model::{Batch, Model, Request},
    survey::{ready, run_key, survey},
    workload::{Workload, smallest},
};

const PAGE: u64 = 4_096;
const SECTOR: u64 = 512;

/// A directory of a store that ended, and what it holds.
struct Directory {
    disk: SimDisk,
    model: Model,
    options: Options,
}

/// How the store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// In order: the log says that nothing follows.
    Clean,
    /// After it had been idle: a mark follows the last block.
    Marked,
    /// Right after an answer: nothing follows the last block.
    Abruptly,
}

pub fn batch(stream: u8, bodies: &[&[u8]]) -> Request {
    let bodies = bodies.iter().map(|body| body.to_vec().into()).collect();
    Request::Append(Batch { stream, bodies, producer: None, expected_index: None, create: true })
}

impl Directory {
    /// Two runs with a few blocks: a small one, one of several pages, and one that is masked, since
    /// its body is full of zeros.
    fn small(ended: Ended) -> Self {
        Self::with(ended, |life, _| {
            for (run, request) in [
                (0, batch(0, &[b"one", b"two"])),
                (0, batch(1, &[&[b'x'; 5_000]])),
                (1, batch(0, &[&[0; 2_000]])),
            ] {
                life.submit(run, request);
                life.settle();
            }
        })
    }

    /// So many slots, full of what random callers wrote.
    fn of_slots(ended: Ended, slots: usize) -> Self {
        let mut workload = Workload::talkative(SimRng::new(slots as u64));
        Self::with(ended, |life, disk| {
            let in_use = |path: &String| {
                path.starts_with("journal/") && disk.read_file(path).is_some_and(|b| b[0] != 0)
            };
            while disk.files().iter().filter(|path| in_use(path)).count() < slots {
                // Nothing is copied into packs: it is the journal that is damaged here.
                workload.submit_some(life);
                life.settle();
                if workload.rng.chance(1, 6) {
                    life.idle();
                }
            }
        })
    }

    fn with(ended: Ended, work: impl FnOnce(&mut Life, &SimDisk)) -> Self {
        let (disk, options, clock) = (SimDisk::new(), smallest(), SimClock::new(1));
        let opening = Life::open(&disk, &clock, 1, &options, Model::new(4));
        let mut life = opening.life.expect("opens");
        work(&mut life, &disk);
        life.settle();
        if ended == Ended::Marked {
            life.idle();
        }
        let (Heritage { model, .. }, _) = match ended {
            Ended::Clean => life.shut_down(),
            Ended::Marked | Ended::Abruptly => life.abandon(),
        };
        disk.power_cut(Fate::new(Mode::KeepNone, 0));
        Self { disk, model, options }
    }

    fn files(&self) -> Vec<(String, u64)> {
        let len = |path: &String| self.disk.read_file(path).expect("a file").len() as u64;
        let paths = self.disk.files().into_iter().filter(|path| path != "LOCK");
        paths.map(|path| (path.clone(), len(&path))).collect()
    }

    /// The blocks of the log, with their numbers.
    fn blocks(&self) -> impl Iterator<Item = (u64, Standing)> {
        let slots = self.files().into_iter().filter(|(path, _)| path.starts_with("journal/"));
        slots.flat_map(|(path, _)| blocks(&self.disk, &path))
    }

    /// What comes of opening the store after some damage.
    fn damaged(&self, damage: impl FnOnce(&SimDisk)) -> Outcome {
        let disk = self.disk.fork();
        damage(&disk);
        let platform = sim::platform(&disk, &SimClock::new(1), 2);
        let (store, _stepper) = match Store::open_stepped(platform, self.options.clone()) {
            Ok(opened) => opened,
            Err(error) => return Outcome::refused(error),
        };
        let model = &self.model;
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            survey(&store, model, &mut SimRng::new(3), 1);
        }));
        if whole.is_ok() { Outcome::Whole } else { Outcome::Lost }
    }
}

/// What comes of opening a damaged store.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Everything is there.
    Whole,
    /// Something is missing or wrong, and nobody was told.
    Lost,
    /// It is refused because of this file and place.
    Refused { file: String, position: u64 },
}

impl Outcome {
    fn refused(error: OpenError) -> Self {
        match error {
            OpenError::Corrupt { corruption, .. } => {
                Self::Refused { file: corruption.file.to_string(), position: corruption.position }
            }
            other => panic!("damage is told as such, not as {other:?}"),
        }
    }

    /// Everything is there, or this file is named, and a place that is not behind the damage.
    fn is_safe(&self, path: &str, at: u64) -> bool {
        match self {
            Self::Whole => true,
            Self::Lost => false,
            Self::Refused { file, position } => file == path && *position <= at,
        }
    }
}

/// A block of the log: its file, and the bytes it takes there.
pub struct Standing {
    pub path: String,
    pub place: Range<u64>,
    is_mark: bool,
}

impl Standing {
    fn holds(&self, path: &str, byte: u64) -> bool {
        self.path == path && self.place.contains(&byte)
    }

    /// Whether this block, if it is the newest, looks torn without this sector.
    fn is_doubtful(&self, path: &str, sector: u64) -> bool {
        !self.is_mark && self.holds(path, sector * SECTOR)
    }

    fn refused(&self) -> Outcome {
        Outcome::Refused { file: self.path.clone(), position: self.place.start }
    }
}

/// The blocks of a slot, by number.
fn blocks(disk: &SimDisk, path: &str) -> Vec<(u64, Standing)> {
    let bytes = disk.read_file(path).expect("a slot");
    let Ok(slot) = slot::decode(&bytes, SlotKind::Journal) else { return Vec::new() };
    let (mut found, mut at) = (Vec::new(), slot::FIRST_BLOCK_AT);
    while let Some(header) = bytes.get(at..).and_then(|rest| block::header(rest, slot.salt)) {
        let place = at as u64..(at + header.disk_bytes()) as u64;
        let is_mark = header.frames == 0;
        found.push((header.block_no, Standing { path: path.to_owned(), place, is_mark }));
        at += header.disk_bytes();
    }
    found
}

/// The block that was written last.
pub fn newest_block(disk: &SimDisk) -> Standing {
    let slots = disk.files().into_iter().filter(|path| path.starts_with("journal/"));
    let newest = slots.flat_map(|path| blocks(disk, &path)).max_by_key(|(number, _)| *number);
    newest.expect("there are blocks").1
}

/// The bits to flip: every one of what was written, and of free space one in each byte.
fn bits(disk: &SimDisk, path: &str) -> impl Iterator<Item = u64> {
    let bytes = disk.read_file(path).expect("a file");
    let pages = bytes.chunks(PAGE as usize);
    let written = pages.map(|page| page.iter().any(|byte| *byte != 0)).collect::<Vec<_>>();
    let every_bit = std::env::var("BRAIDLOG_EVERY_BIT").is_ok();
    (0..bytes.len() as u64 * 8).filter(move |bit| {
        let byte = bit / 8;
        every_bit || written[(byte / PAGE) as usize] || bit % 8 == byte % 8
    })
}

fn for_each_ending(check: impl Fn(Ended) + Sync) {
    std::thread::scope(|scope| {
        for ended in [Ended::Abruptly, Ended::Marked, Ended::Clean] {
            let check = &check;
            scope.spawn(move || check(ended));
        }
    });
}

#[test]
fn every_flipped_bit_is_named_or_harmless() {
    for_each_ending(|ended| {
        let directory = Directory::small(ended);
        let log: Vec<Standing> = directory.blocks().map(|(_, block)| block).collect();
        let (mut flipped, mut refused) = (0, 0);
        for (path, _) in directory.files() {
            for bit in bits(&directory.disk, &path) {
                let outcome =
                    directory.damaged(|disk| disk.flip_bit(&path, bit / 8, (bit % 8) as u8));
                match log.iter().find(|block| block.holds(&path, bit / 8)) {
                    Some(block) => assert_eq!(outcome, block.refused(), "{path}, bit {bit}"),
                    None => assert!(outcome.is_safe(&path, bit / 8), "{path}, bit {bit}"),
                }
                flipped += 1;
                refused += u64::from(outcome != Outcome::Whole);
            }
        }
        println!("{ended:?}: bits flipped: {flipped}, refused by name: {refused}, silent: 0");
    });
}

#[test]
fn flipped_bits_anywhere_in_a_store_of_many_slots_are_named_or_harmless() {
    let mut rng = SimRng::new(7);
    for slots in 2..6 {
        let directory = Directory::of_slots(Ended::Abruptly, slots);
        let files = directory.files();
        for _ in 0..2_000 {
            let (path, len) = &files[rng.below(files.len() as u64) as usize];
            let (byte, bit) = (rng.below(*len), rng.below(8) as u8);
            let outcome = directory.damaged(|disk| disk.flip_bit(path, byte, bit));
            assert!(outcome.is_safe(path, byte), "{path}, byte {byte}, bit {bit}: {outcome:?}");
        }
    }
}

#[test]
fn one_copy_of_a_header_suffices_and_none_is_refused() {
    let directory = Directory::small(Ended::Marked);
    for (path, _) in directory.files().into_iter().filter(|(path, _)| path != "CURRENT") {
        let written = directory.disk.read_file(&path).expect("a file")[0] != 0;
        // `STORE` uses 52 bytes of each copy, slots and manifests 128.
        let len = if path == "STORE" { 52 } else { 128 };
        for byte in (0..len).filter(|_| written) {
            for flipped in [vec![0], vec![2_048], vec![0, 2_048]] {
                let damage = |disk: &SimDisk| {
                    flipped.iter().for_each(|copy| disk.flip_bit(&path, copy + byte, 3));
                };
                let expected = match flipped.len() {
                    1 => Outcome::Whole,
                    _ => Outcome::Refused { file: path.clone(), position: 0 },
                };
                assert_eq!(directory.damaged(damage), expected, "{path}, {byte}, {flipped:?}");
            }
        }
    }
}

#[test]
fn a_zeroed_sector_is_refused_unless_it_looks_like_the_write_the_power_cut_tore() {
    for_each_ending(|ended| {
        let (mut zeroed, mut silent) = (0, 0);
        for slots in [1, 2, 3, 7] {
            let directory = match slots {
                1 => Directory::small(ended),
                _ => Directory::of_slots(ended, slots),
            };
            let newest = directory.blocks().max_by_key(|(block_no, _)| *block_no);
            let (_, newest) = newest.expect("there are blocks");
            for (path, len) in directory.files() {
                for sector in 0..len.div_ceil(SECTOR) {
                    let outcome = directory.damaged(|disk| disk.zero_sector(&path, sector));
                    let told = match &outcome {
                        // That the manifest lost its newest edit is seen by the slot it listed.
                        Outcome::Refused { file, .. } => {
                            *file == path
                                || path.starts_with("MANIFEST") && file.starts_with("journal/")
                        }
                        Outcome::Whole => true,
                        Outcome::Lost => newest.is_doubtful(&path, sector),
                    };
                    assert!(told, "{ended:?}, {slots}: {path}, sector {sector}: {outcome:?}");
                    zeroed += 1;
                    silent += u64::from(outcome == Outcome::Lost);
                }
            }
        }
        println!("{ended:?}: sectors zeroed: {zeroed}, cut in silence: {silent}");
        assert_eq!(0 < silent, ended == Ended::Abruptly, "only the newest block, without a mark");
    });
}

#[test]
fn a_file_that_is_gone_or_cut_short_is_refused() {
    for_each_ending(|ended| {
        for slots in [1, 2, 7] {
            let directory = match slots {
                1 => Directory::small(ended),
                _ => Directory::of_slots(ended, slots),
            };
            for (path, len) in directory.files() {
                for cut in (0..len).step_by(256).chain(1..2).chain(len.saturating_sub(1)..len) {
                    let outcome = directory.damaged(|disk| disk.truncate(&path, cut));
                    assert!(outcome.is_safe(&path, cut), "{path} cut at {cut}: {outcome:?}");
                }
                let outcome = directory.damaged(|disk| disk.remove(&path));
                // Without `CURRENT`, the slots are seen not to be those of a new store.
                let is_safe = match path.as_str() {
                    "CURRENT" => matches!(outcome, Outcome::Refused { .. }),
                    _ => outcome.is_safe(&path, 0),
                };
                assert!(is_safe, "{path} removed: {outcome:?}");
            }
        }
    });
}

#[test]
fn a_block_or_a_file_that_stands_in_the_place_of_another_is_refused() {
    let directory = Directory::of_slots(Ended::Marked, 3);
    let log: Vec<_> = directory.blocks().map(|(_, block)| block).collect();
    let files = directory.files();
    for (from, to) in log.iter().flat_map(|from| log.iter().map(move |to| (from, to))) {
        // In the same slot every CRC of the block holds: only its number and its past tell.
        if from.place == to.place && from.path == to.path {
            continue;
        }
        let source = directory.disk.read_file(&from.path).expect("a slot");
        let misplaced = &source[from.place.start as usize..from.place.end as usize];
        if source.len() < to.place.start as usize + misplaced.len() {
            continue;
        }
        let outcome = directory.damaged(|disk| disk.overwrite(&to.path, to.place.start, misplaced));
        // The newest block is a mark: to lose it loses nothing, but it is noticed all the same.
        assert_eq!(outcome, to.refused(), "{:?} of {} at {:?}", from.place, from.path, to.place);
    }
    for ((from, _), (to, _)) in files.iter().flat_map(|from| files.iter().map(move |to| (from, to)))
    {
        let source = directory.disk.read_file(from).expect("a file");
        let outcome = directory.damaged(|disk| disk.write_file(to, &source));
        let spare = directory.disk.read_file(to).is_some_and(|bytes| bytes.iter().all(|b| *b == 0));
        match from == to || spare {
            true => {}
            false => assert!(matches!(outcome, Outcome::Refused { .. }), "{from} as {to}"),
        }
    }
}

#[test]
fn a_sound_block_of_another_use_number_or_past_is_refused() {
    for ended in [Ended::Abruptly, Ended::Marked, Ended::Clean] {
        let directory = Directory::small(ended);
        let (_, newest) = directory.blocks().max_by_key(|(number, _)| *number).expect("a block");
        let bytes = directory.disk.read_file(&newest.path).expect("a slot");
        let salt = slot::decode(&bytes, SlotKind::Journal).expect("a header").salt;
        let place = newest.place.start as usize..newest.place.end as usize;
        let header = block::header(&bytes[place.clone()], salt).expect("sound");
        let mut payload = bytes[place][block::BLOCK_HEADER_BYTES..].to_vec();
        payload.truncate(header.payload_len as usize);
        block::unmask(&mut payload, 0, &header);
        let own = BlockDraft {
            salt,
            file_seq: header.file_seq,
            block_no: header.block_no,
            durable_block_no: header.durable_block_no,
            prev_crc: header.prev_crc,
            clock_ms: header.clock_ms,
            incarnation: header.incarnation,
            flags: header.flags,
        };
        let frames: Vec<_> =
            Frame::split(payload.into()).map(|frame| frame.expect("one")).collect();
        let written_as = |draft: &BlockDraft| {
            let mut out = Vec::new();
            block::encode(draft, frames.iter().map(|frame| &frame.bytes()[..]), &mut out);
            directory.damaged(|disk| disk.overwrite(&newest.path, newest.place.start, &out))
        };
        assert_eq!(written_as(&own), Outcome::Whole, "the very block that stands there");
        for other in [
            BlockDraft { file_seq: own.file_seq + 1, ..own },
            BlockDraft { block_no: own.block_no + 1, ..own },
            BlockDraft { prev_crc: own.prev_crc ^ 1, ..own },
        ] {
            assert_eq!(written_as(&other), newest.refused(), "{other:?}");
        }
    }
}

#[test]
fn a_mark_proves_the_newest_block_also_where_it_fills_its_slot() {
    for (ended, blocks) in
        [Ended::Marked, Ended::Clean].into_iter().flat_map(|e| (1..9).map(move |n| (e, n)))
    {
        let directory = Directory::with(ended, |life, _| {
            (0..blocks).for_each(|_| {
                life.submit(0, batch(0, &[b"one page"]));
                life.settle();
            });
        });
        let written = directory.blocks().filter(|(_, block)| !block.is_mark);
        let (_, newest) = written.max_by_key(|(number, _)| *number).expect("a block");
        for sector in newest.place.start / SECTOR..newest.place.end / SECTOR {
            let outcome = directory.damaged(|disk| disk.zero_sector(&newest.path, sector));
            let is_first = sector * SECTOR == newest.place.start;
            let is_told = outcome == newest.refused() || !is_first && outcome == Outcome::Whole;
            assert!(is_told, "{ended:?}, {blocks} blocks, sector {sector}: {outcome:?}");
        }
    }
}

#[test]
fn whatever_stands_behind_the_mark_of_a_clean_end_is_refused() {
    let directory = Directory::small(Ended::Clean);
    let (_, newest) = directory.blocks().max_by_key(|(number, _)| *number).expect("a block");
    for byte in newest.place.end..newest.place.end + SECTOR {
        let outcome = directory.damaged(|disk| disk.flip_bit(&newest.path, byte, 3));
        let (file, position) = (newest.path.clone(), newest.place.end);
        assert_eq!(outcome, Outcome::Refused { file, position }, "byte {byte}");
    }
}

#[test]
fn every_use_of_a_slot_has_a_number_and_a_salt_of_its_own() {
    let directory = Directory::of_slots(Ended::Abruptly, 4);
    let life = Life::open(&directory.disk, &SimClock::new(1), 9, &directory.options, Model::new(4));
    drop(life.life.expect("opens"));
    let pages =
        directory.files().into_iter().filter_map(|(path, _)| directory.disk.read_file(&path));
    let headers = pages.filter_map(|page| slot::decode(&page, SlotKind::Journal).ok());
    let (numbers, salts): (Vec<_>, Vec<_>) = headers.map(|slot| (slot.file_seq, slot.salt)).unzip();
    assert_eq!(numbers.len(), 5);
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 5, "{numbers:?}");
    assert_eq!(salts.iter().collect::<BTreeSet<_>>().len(), 5, "{salts:?}");
}

#[test]
fn damage_while_the_store_is_open_fails_the_reads_it_concerns_and_no_others() {
    let (disk, options, clock) = (SimDisk::new(), smallest(), SimClock::new(1));
    let opening = Life::open(&disk, &clock, 1, &options, Model::new(2));
    let mut life = opening.life.expect("opens");
    for run in [0, 1] {
        life.submit(run, batch(0, &[&[b'x'; 300]]));
        life.settle();
    }
    let blocks = blocks(&disk, "journal/slot-00");
    assert_eq!(blocks.len(), 2);
    let store = life.store.clone();
    let read = |run: usize| ready(store.read(Query::run(run_key(run))));
    for (run, (_, block)) in blocks.iter().enumerate() {
        // Behind the block's header stand its frames, of which every bit counts.
        for byte in block.place.start + 64..block.place.start + 64 + 300 {
            disk.flip_bit(&block.path, byte, 2);
            match read(run) {
                Err(Error::Corrupt(corruption)) => {
                    assert_eq!(*corruption.file, *block.path);
                    assert!(corruption.position <= byte);
                }
                other => panic!("byte {byte} is damaged, and yet: {other:?}"),
            }
            assert!(read(1 - run).is_ok(), "the other run is whole");
            disk.flip_bit(&block.path, byte, 2);
        }
    }
    life.submit(0, batch(0, &[b"on it goes"]));
    life.settle();
    assert!(!life.is_waiting());
    assert!(read(0).is_ok() && read(1).is_ok());
}
