//! A file without its name: what reads show, what the disk has, and the unsynced writes between.
//!
//! What it deliberately does not do: choose which of these writes a power cut keeps. It lands the
//! sectors that it is told to.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use super::image::{Image, Payload, SECTOR, SECTORS_PER_PAGE, SharedPage};

/// Index of an inode; never used twice.
pub(super) type InodeNo = usize;

/// One unsynced write: the sectors it touched, as they looked after it, and the length it gave.
#[derive(Debug)]
pub(super) struct Write {
    /// Place in the order of all unsynced changes of the disk.
    pub(super) order: u64,
    /// First sector and the one after the last.
    pub(super) sectors: (u64, u64),
    /// The pages holding these sectors.
    pages: Vec<SharedPage>,
    /// Length of the file before and after.
    pub(super) len: (u64, u64),
}

impl Write {
    pub(super) fn count(&self) -> u64 {
        self.sectors.1 - self.sectors.0
    }

    pub(super) fn grows(&self) -> bool {
        self.len.0 < self.len.1
    }
}

/// A file, whatever its names.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    /// What reads show.
    pub(super) cache: Image,
    /// What the disk has.
    pub(super) durable: Image,
    /// What makes the one into the other, oldest first.
    pub(super) unsynced: Vec<Arc<Write>>,
    /// Sectors shown by reads as clean, which the disk does not have.
    lied: BTreeSet<u64>,
    /// The same of the length.
    lied_len: bool,
    /// Of the cache, once it was asked for; forgotten at every change.
    digest: OnceLock<u128>,
}

impl Inode {
    pub(super) fn durable(image: Image) -> Self {
        Self { cache: image.clone(), durable: image, ..Self::default() }
    }

    /// A number that tells what reads show from anything else they could.
    pub(super) fn digest(&self) -> u128 {
        *self.digest.get_or_init(|| self.cache.digest())
    }

    /// The file is about to change.
    pub(super) fn forget_digest(&mut self) {
        self.digest = OnceLock::new();
    }

    pub(super) fn is_clean(&self) -> bool {
        self.unsynced.is_empty() && self.lied.is_empty() && !self.lied_len
    }

    pub(super) fn write(&mut self, payload: Payload<'_>, position: u64, order: u64) {
        let end = position + payload.len();
        if position == end {
            return;
        }
        let len = (self.cache.len, self.cache.len.max(end));
        self.cache.put(payload, position);
        self.cache.len = len.1;
        let sectors = (position / SECTOR as u64, end.div_ceil(SECTOR as u64));
        let pages = sectors.0 / SECTORS_PER_PAGE..sectors.1.div_ceil(SECTORS_PER_PAGE);
        let pages = pages.map(|page| self.cache.page(page as usize).clone()).collect();
        if !self.lied.is_empty() {
            self.lied.retain(|sector| *sector < sectors.0 || sectors.1 <= *sector);
        }
        self.lied_len &= len.0 == len.1;
        self.unsynced.push(Arc::new(Write { order, sectors, pages, len }));
    }

    /// Puts those sectors of a write on the disk that `keep` wants, page by page: it gets the
    /// sectors of the write in a page and gives those that survive.
    pub(super) fn land(&mut self, write: &Write, mut keep: impl FnMut(u8) -> u8) {
        let first_page = write.sectors.0 / SECTORS_PER_PAGE;
        for (page, content) in (first_page..).zip(&write.pages) {
            let start = page * SECTORS_PER_PAGE;
            let from = write.sectors.0.saturating_sub(start);
            let to = SECTORS_PER_PAGE.min(write.sectors.1 - start);
            let mask = ((1_u16 << to) - (1_u16 << from)) as u8;
            self.durable.put_sectors(page as usize, keep(mask) & mask, content);
        }
    }

    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            self.land(&write, |mask| mask);
            if write.grows() {
                self.durable.len = self.durable.len.max(write.len.1);
            }
        }
    }

    /// The sync that does nothing and leaves the pages clean.
    pub(super) fn lie(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            self.lied.extend(write.sectors.0..write.sectors.1);
            self.lied_len |= write.grows();
        }
    }

    /// Whether reads show as clean what the disk does not have.
    pub(super) fn has_lied(&self) -> bool {
        self.lied_len || !self.lied.is_empty()
    }

    /// Makes reads show the disk where they show what is clean and not there.
    pub(super) fn drop_cache(&mut self) {
        for sector in std::mem::take(&mut self.lied) {
            let (page, bit) = (sector / SECTORS_PER_PAGE, sector % SECTORS_PER_PAGE);
            let durable = self.durable.page(page as usize);
            self.cache.put_sectors(page as usize, 1 << bit, durable);
        }
        if std::mem::take(&mut self.lied_len) {
            let unsynced = self.unsynced.iter().filter(|write| write.grows());
            let grown = unsynced.map(|write| write.len.1).max().unwrap_or(0);
            self.cache.len = self.durable.len.max(grown);
            self.cache.trim();
        }
    }

    /// What is left when the cache is gone.
    pub(super) fn forget_cache(&mut self) {
        self.unsynced.clear();
        self.lied.clear();
        self.lied_len = false;
        self.durable.trim();
        self.cache = self.durable.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sim::{
        Call, Fate, Fault, Mode, SimRng, What, is_crash,
        scene::{cut, disk_with, open, outcomes, sectors},
    };

    #[test]
    fn a_growing_file_may_have_any_length_and_holes_of_zeros() {
        let disk = disk_with("a", 1, 1);
        open(&disk, "a").write_all_at(&[2; 2 * SECTOR + 100], SECTOR as u64).unwrap();
        let seen = outcomes(&disk, "a", Mode::RandomSubset, 4_000);
        let lens: BTreeSet<usize> = seen.iter().flatten().map(Vec::len).collect();
        assert_eq!(lens, BTreeSet::from([512, 1024, 1536, 1636]));
        for bytes in seen.into_iter().flatten() {
            assert!(bytes[..SECTOR].iter().all(|b| *b == 1));
            let whole = |s: &[u8]| s.iter().all(|b| *b == 0) || s.iter().all(|b| *b == 2);
            assert!(bytes[SECTOR..].chunks(SECTOR).all(whole));
        }
    }

    #[test]
    fn what_survives_beyond_the_surviving_length_is_never_seen() {
        let disk = disk_with("a", 1, 1);
        open(&disk, "a").write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
        for seed in 0..200 {
            let left = cut(&disk, Fate::new(Mode::RandomSubset, seed));
            let file = open(&left, "a");
            if file.len().unwrap() == SECTOR as u64 {
                file.write_all_at(&[3], 2 * SECTOR as u64).unwrap();
                assert_eq!(sectors(&left.read_file("a").unwrap()), [1, 0, 3]);
            }
        }
    }

    #[test]
    fn a_failed_sync_lies_afterwards() {
        let disk = disk_with("a", 2, 1);
        let file = open(&disk, "a");
        disk.inject(Fault::new(Call::Sync, What::SyncFailsPageClean));
        file.write_all_at(&[2; 2 * SECTOR], SECTOR as u64).unwrap();
        assert!(!is_crash(&file.sync_data().unwrap_err()));
        file.write_all_at(&[3; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(sectors(&disk.read_file("a").unwrap()), [3, 2, 2]);
        let left = cut(&disk, Fate::new(Mode::KeepAll, 0)).read_file("a").unwrap();
        assert_eq!(sectors(&left), [3, 1], "the disk never got it, nor the length");
        // Written once more, it is like any other write.
        file.write_all_at(&[4; SECTOR], SECTOR as u64).unwrap();
        file.sync_data().unwrap();
        assert_eq!(sectors(&disk.durable_file("a").unwrap()), [3, 4]);
    }

    #[test]
    fn a_sync_that_lies_says_that_it_is_done() {
        let disk = disk_with("a", 1, 1);
        let file = open(&disk, "a");
        disk.inject(Fault::new(Call::Sync, What::SyncLies));
        file.write_all_at(&[2; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        file.sync_data().unwrap();
        assert_eq!(sectors(&disk.read_file("a").unwrap()), [2]);
        file.drop_cache().unwrap();
        assert_eq!(sectors(&disk.read_file("a").unwrap()), [1]);
    }

    #[test]
    fn drop_cache_shows_what_the_disk_has() {
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        disk.inject(Fault::new(Call::Sync, What::SyncFailsPageClean));
        file.write_all_at(&[2; 3 * SECTOR], SECTOR as u64).unwrap();
        file.sync_data().unwrap_err();
        file.write_all_at(&[3; SECTOR], 0).unwrap();
        file.write_all_at(&[4; SECTOR], 2 * SECTOR as u64).unwrap();
        file.drop_cache().unwrap();
        let shown = disk.read_file("a").unwrap();
        assert_eq!(sectors(&shown), [3, 1, 4], "dirty pages stay, clean ones are read again");
        file.sync_data().unwrap();
        assert_eq!(disk.durable_file("a").unwrap(), shown);
    }

    /// Random writes and syncs beside a plain copy of what was seen and what was synced.
    #[test]
    fn keep_all_is_what_was_seen_and_keep_none_what_was_synced() {
        for seed in 0..200 {
            let mut rng = SimRng::new(seed);
            let disk = disk_with("a", 0, 0);
            let file = open(&disk, "a");
            let (mut seen, mut synced) = (Vec::new(), Vec::new());
            for _ in 0..30 {
                let (from, len) = (rng.below(20_000) as usize, rng.below(9_000) as usize);
                let fill = rng.below(4) as u8;
                match rng.below(6) {
                    0 => {
                        file.sync_data().unwrap();
                        synced.clone_from(&seen);
                        continue;
                    }
                    1 => file.write_all_at(&vec![fill; len], from as u64).unwrap(),
                    _ if fill == 0 => file.write_zeros_at(from as u64, len as u64).unwrap(),
                    _ => file.write_all_at(&vec![fill; len], from as u64).unwrap(),
                }
                if 0 < len {
                    seen.resize(seen.len().max(from + len), 0);
                    seen[from..from + len].fill(fill);
                }
            }
            let left = |mode| cut(&disk, Fate::new(mode, seed)).read_file("a").unwrap();
            assert_eq!(disk.read_file("a").unwrap(), seen);
            assert_eq!(disk.durable_file("a").unwrap(), synced);
            assert_eq!(left(Mode::KeepAll), seen);
            assert_eq!(left(Mode::KeepNone), synced);
        }
    }
}
