//! How a life of the machine ends: a power cut by a [`Fate`], or a kill.
//!
//! What it deliberately does not do: keep what a disk could not. A rename is whole, a sector is old
//! or new, and of several versions the last one kept wins.

use std::sync::Arc;

use super::{
    image::{Payload, SECTOR},
    inode::{Inode, InodeNo, Write},
    machine::{Action, Machine},
    names::{NameChange, close_under_causes, drop_orphans},
    random::SimRng,
};

/// Which unsynced changes a power cut keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    KeepNone,
    /// Everything.
    KeepAll,
    /// All up to some moment, over all files and names, torn inside a write.
    Prefix,
    /// Each sector, length and name for itself, sparsely or densely as the seed has it.
    RandomSubset,
    /// The last write of each file and the last name of each directory, without those before.
    NewestOnly,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 5] =
        [Mode::KeepNone, Mode::KeepAll, Mode::Prefix, Mode::RandomSubset, Mode::NewestOnly];
}

/// What becomes of unsynced changes at a power cut. The same fate does the same to the same disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Which changes are kept.
    pub mode: Mode,
    /// Decides where the mode leaves a choice.
    pub seed: u64,
}

impl Fate {
    /// A fate.
    pub fn new(mode: Mode, seed: u64) -> Self {
        Self { mode, seed }
    }

    /// A fate of any mode, half of the time [`Mode::RandomSubset`].
    pub fn random(seed: u64) -> Self {
        let pick = SimRng::new(!seed).below(8) as usize;
        Self { mode: Mode::ALL.get(pick).copied().unwrap_or(Mode::RandomSubset), seed }
    }
}

impl Machine {
    /// Ends the process; what calls saw stays, of the call in flight some part.
    pub(super) fn kill(&mut self) {
        // How far the last call came is not asked of the caller: the count of operations decides,
        // so that a sweep over crash points sees all cases and a repetition the same.
        let mut rng = SimRng::new(self.ops);
        match self.in_flight.take() {
            Some(action) if rng.chance(1, 3) => {
                self.perform(action);
            }
            Some(Action::Write(inode, position, bytes)) => {
                let len = rng.below(bytes.len() as u64 + 1) as usize;
                self.write(inode, Payload::Bytes(&bytes[..len]), position);
            }
            Some(Action::Zeros(inode, position, len)) => {
                self.write(inode, Payload::Zeros(rng.below(len + 1)), position);
            }
            // A name is there or not.
            Some(Action::Create(_) | Action::Name(_)) | None => {}
        }
        self.restart();
    }

    /// Ends the machine; of what is unsynced stays what the fate keeps.
    pub(super) fn power_cut(&mut self, fate: Fate) {
        // What was in flight is unsynced like the rest, for the fate to keep any part of it.
        if let Some(action) = self.in_flight.take() {
            self.perform(action);
        }
        let dirty = self.inodes.iter().filter(|(_, inode)| !inode.is_clean());
        let dirty: Vec<InodeNo> = dirty.map(|(no, _)| *no).collect();
        let mut rng = SimRng::new(fate.seed);
        match fate.mode {
            Mode::KeepNone => {}
            Mode::KeepAll => self.keep_before(&dirty, u64::MAX),
            Mode::Prefix => {
                let units = self.unsynced();
                self.keep_before(&dirty, rng.below(units + 1));
            }
            Mode::RandomSubset => self.keep_some(&dirty, &mut rng),
            Mode::NewestOnly => self.keep_newest(&dirty),
        }
        self.unsynced_names.clear();
        drop_orphans(Arc::make_mut(&mut self.durable_names));
        self.names = self.durable_names.clone();
        for no in dirty {
            self.inode_mut(no).forget_cache();
        }
        self.restart();
    }

    /// Keeps the oldest unsynced sectors and names, so many of them.
    fn keep_before(&mut self, dirty: &[InodeNo], units: u64) {
        let names = self.unsynced_names.iter().map(|change| (change.order, 1));
        let inodes = self.inodes.values().flat_map(|inode| &inode.unsynced);
        let writes = inodes.map(|write| (write.order, write.count()));
        let mut all: Vec<(u64, u64)> = names.chain(writes).collect();
        all.sort_unstable();
        // The first change that is not kept whole, and how many of its sectors are.
        let mut left = units;
        let torn = all.into_iter().find_map(|(order, count)| {
            let torn = left < count;
            if !torn {
                left -= count;
            }
            torn.then_some((order, left))
        });
        let (order, sectors) = torn.unwrap_or((u64::MAX, 0));
        let keep: Vec<bool> =
            self.unsynced_names.iter().map(|change| change.order < order).collect();
        self.land_names(&keep);
        for no in dirty {
            let inode = self.inode_mut(*no);
            for write in std::mem::take(&mut inode.unsynced) {
                let sectors = if write.order < order { u64::MAX } else { sectors };
                if write.order <= order {
                    keep_start(inode, &write, sectors);
                }
            }
        }
    }

    fn keep_newest(&mut self, dirty: &[InodeNo]) {
        let last = |i: usize, changes: &[NameChange]| {
            changes[i + 1..].iter().all(|later| later.dir() != changes[i].dir())
        };
        let mut keep: Vec<bool> =
            (0..self.unsynced_names.len()).map(|i| last(i, &self.unsynced_names)).collect();
        close_under_causes(&self.unsynced_names, &mut keep);
        self.land_names(&keep);
        for no in dirty {
            let inode = self.inode_mut(*no);
            if let Some(write) = std::mem::take(&mut inode.unsynced).pop() {
                inode.land(&write, |mask| mask);
                // Its length too, grown by it or not: else it might not be seen at all.
                inode.durable.len = inode.durable.len.max(write.len.1);
            }
        }
    }

    fn keep_some(&mut self, dirty: &[InodeNo], rng: &mut SimRng) {
        let density = Density::any(rng);
        let mut keep: Vec<bool> =
            self.unsynced_names.iter().map(|_| density.bits(rng) & 1 != 0).collect();
        close_under_causes(&self.unsynced_names, &mut keep);
        self.land_names(&keep);
        let density = Density::any(rng);
        for no in dirty {
            let inode = self.inode_mut(*no);
            for write in std::mem::take(&mut inode.unsynced) {
                let own = if rng.chance(1, 2) { density } else { Density::any(rng) };
                let (mut bits, mut have) = (0, 0);
                inode.land(&write, |_| {
                    if have == 0 {
                        (bits, have) = (own.bits(rng), 8);
                    }
                    let keep = bits as u8;
                    bits >>= 8;
                    have -= 1;
                    keep
                });
                if write.grows() {
                    let len = some_length(&write, rng);
                    inode.durable.len = inode.durable.len.max(len);
                }
            }
        }
    }
}

/// Keeps the first sectors of a write, and the length they give.
fn keep_start(inode: &mut Inode, write: &Write, sectors: u64) {
    let mut left = sectors;
    inode.land(write, |mask| {
        let kept = (0..8).filter(|i| {
            let keep = mask & (1 << i) != 0 && 0 < left;
            left -= u64::from(keep);
            keep
        });
        kept.fold(0, |kept, i| kept | 1 << i)
    });
    if write.grows() && 0 < sectors {
        let end = write.sectors.0.saturating_add(sectors).saturating_mul(SECTOR as u64);
        inode.durable.len = inode.durable.len.max(write.len.1.min(end));
    }
}

/// A length a growing write may leave: mostly the new one, else the old one or one between.
fn some_length(write: &Write, rng: &mut SimRng) -> u64 {
    match rng.below(8) {
        0 => write.len.0,
        1 => {
            let end = (write.sectors.0 + rng.below(write.count() + 1)) * SECTOR as u64;
            end.clamp(write.len.0, write.len.1)
        }
        _ => write.len.1,
    }
}

/// How many of a group of sectors or names survive.
#[derive(Debug, Clone, Copy)]
enum Density {
    None,
    Quarter,
    Half,
    ThreeQuarters,
    All,
}

impl Density {
    fn any(rng: &mut SimRng) -> Self {
        use Density::{All, Half, None, Quarter, ThreeQuarters};
        [None, Quarter, Half, ThreeQuarters, All][rng.below(5) as usize]
    }

    fn bits(self, rng: &mut SimRng) -> u64 {
        match self {
            Density::None => 0,
            Density::Quarter => rng.next_u64() & rng.next_u64(),
            Density::Half => rng.next_u64(),
            Density::ThreeQuarters => rng.next_u64() | rng.next_u64(),
            Density::All => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io};

    use super::*;
    use crate::platform::{
        Vfs,
        sim::{
            SimDisk, is_crash,
            scene::{contents, create, cut, disk_with, kind, open, outcomes, path, sectors},
        },
    };

    #[test]
    fn unsynced_bytes_may_vanish_in_any_subset() {
        let disk = disk_with("a", 4, 1);
        open(&disk, "a").write_all_at(&[2; 4 * SECTOR], 0).unwrap();
        let seen = outcomes(&disk, "a", Mode::RandomSubset, 2_000);
        assert_eq!(seen.len(), 16, "every subset of four sectors");
        for bytes in seen.into_iter().flatten() {
            assert!(bytes.chunks(SECTOR).all(|s| s == [1; SECTOR] || s == [2; SECTOR]));
        }
    }

    #[test]
    fn each_of_two_unsynced_versions_may_be_the_one_left() {
        let disk = disk_with("a", 2, 1);
        let file = open(&disk, "a");
        file.write_all_at(&[2; 2 * SECTOR], 0).unwrap();
        file.write_all_at(&[3; 2 * SECTOR], 0).unwrap();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 2_000).len(), 9);
        let newest = cut(&disk, Fate::new(Mode::NewestOnly, 0)).read_file("a").unwrap();
        assert_eq!(sectors(&newest), [3, 3]);
    }

    #[test]
    fn synced_bytes_stay_and_the_rest_goes_by_mode() {
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        file.write_all_at(&[2; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[3; SECTOR], SECTOR as u64).unwrap();
        file.write_all_at(&[4; SECTOR], 2 * SECTOR as u64).unwrap();
        let left = |mode| sectors(&cut(&disk, Fate::new(mode, 7)).read_file("a").unwrap());
        assert_eq!(left(Mode::KeepNone), [2, 1, 1]);
        assert_eq!(left(Mode::KeepAll), [2, 3, 4]);
        assert_eq!(left(Mode::NewestOnly), [2, 1, 4]);
        let prefixes = outcomes(&disk, "a", Mode::Prefix, 100);
        let prefixes: Vec<_> = prefixes.iter().flatten().map(|bytes| sectors(bytes)).collect();
        assert_eq!(prefixes, [vec![2, 1, 1], vec![2, 3, 1], vec![2, 3, 4]]);
    }

    #[test]
    fn same_seed_same_fate() {
        let disk = SimDisk::new();
        for n in 0..20 {
            create(&disk, &format!("f{n}")).write_all_at(&[n; 5000], u64::from(n)).unwrap();
        }
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let fate = Fate::new(Mode::RandomSubset, seed);
            let one = contents(&cut(&disk, fate));
            assert_eq!(one, contents(&cut(&disk, fate)));
            seen.insert(one);
        }
        assert!(70 < seen.len(), "other seeds, other fates: {}", seen.len());
    }

    #[test]
    fn old_handles_are_dead_after_a_cut() {
        let disk = disk_with("a", 1, 1);
        let (vfs, file) = (disk.vfs(), open(&disk, "a"));
        let guard = vfs.lock(&path("a")).unwrap();
        assert_eq!(kind(vfs.lock(&path("a"))), io::ErrorKind::WouldBlock);
        for stop in [|d: &SimDisk| d.power_cut(Fate::random(1)), SimDisk::kill] {
            stop(&disk);
            assert!(is_crash(&file.sync_data().unwrap_err()));
            assert!(is_crash(&file.len().unwrap_err()));
            assert!(is_crash(&vfs.list(&path("")).unwrap_err()));
        }
        let _new = disk.vfs().lock(&path("a")).unwrap();
        drop(guard);
        let again = kind(disk.vfs().lock(&path("a")));
        assert_eq!(again, io::ErrorKind::WouldBlock, "a dead guard frees nothing");
    }

    #[test]
    fn a_kill_keeps_the_page_cache() {
        let disk = SimDisk::new();
        create(&disk, "a").write_all_at(b"x", 0).unwrap();
        disk.kill();
        assert_eq!(disk.read_file("a").unwrap(), b"x");
        open(&disk, "a").sync_all().unwrap();
        assert_eq!(disk.read_file("a").unwrap(), b"x");
        disk.power_cut(Fate::new(Mode::KeepNone, 0));
        assert_eq!(disk.read_file("a"), None);
    }

    #[test]
    fn a_killed_call_is_done_in_part_or_whole_or_not() {
        let lens: BTreeSet<usize> = (1..200)
            .map(|n| {
                let disk = SimDisk::new();
                disk.write_file("a", b"");
                let file = open(&disk, "a");
                (1..n).for_each(|_| file.sync_data().unwrap());
                disk.crash_at(n);
                file.write_all_at(&[1; 3], 0).unwrap_err();
                disk.kill();
                disk.read_file("a").unwrap().len()
            })
            .collect();
        assert_eq!(lens, BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn the_dying_write_may_be_torn_and_the_dying_sync_promises_nothing() {
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        disk.crash_at(disk.ops() + 1);
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap_err();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 1_000).len(), 8);
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap();
        disk.crash_at(disk.ops() + 1);
        file.sync_data().unwrap_err();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 1_000).len(), 8);
        let disk = disk_with("a", 3, 1);
        disk.crash_at(disk.ops() + 1);
        disk.vfs().unlink(&path("a")).unwrap_err();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 100).len(), 2);
    }
}
