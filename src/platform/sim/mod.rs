//! A simulated machine: a disk that loses what a disk may lose, a clock moved by hand, seeded
//! randomness. The same calls and the same seeds give the same bytes, always.
//!
//! # The disk
//! A file is what reads show (the page cache), what the disk has, and the ordered unsynced writes
//! between the two, in sectors of 512 bytes. Names are kept apart in the same way and become
//! lasting by [`Vfs::sync_dir`] only; a directory is a name in its parent, a moved name belongs to
//! the directory it was moved to. [`SimDisk::power_cut`] keeps of what is unsynced what a [`Fate`]
//! says: every sector, every length and every name decides for itself, so that writes are torn
//! with holes and in any order. [`SimDisk::kill`] keeps the page cache. After either, handles of
//! before fail for ever and [`platform`] gives new ones.
//!
//! # What holds even so
//! * A sector is old or new, never a mixture; a hole reads as zeros.
//! * A rename happens as a whole or not at all, and what it moved keeps a name.
//! * Of several versions of one sector or one name, the last that survives wins.
//!
//! # Crash points
//! Every call that changes or syncs something counts as one operation. [`SimDisk::crash_at`] stops
//! the machine in the middle of one: what it was doing may have happened, in part, or not.
//! [`SimDisk::record_crash_points`] keeps a copy of the disk for every operation, so that one run
//! of a history can be cut everywhere. Copies share their pages and are cheap.
//!
//! What it deliberately does not do: run threads, let time pass by itself, link, truncate, or move
//! directories (the seam has no such calls); delay or reorder what callers see.
//!
//! [`Vfs::sync_dir`]: super::Vfs::sync_dir

mod clock;
mod disk;
mod fate;
mod fault;
mod file;
mod image;
mod inode;
mod machine;
mod names;
mod random;
#[cfg(test)]
mod scene;
mod vfs;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use fate::{Fate, Mode};
pub use fault::{Call, Fault, What, is_crash};
pub use file::SimFile;
pub use image::SECTOR;
pub use random::{SimEntropy, SimRng};
pub use vfs::SimVfs;

use std::sync::Arc;

use super::Platform;

/// A platform on a simulated disk, for the time until its next power cut or kill.
pub fn platform(disk: &SimDisk, clock: &SimClock, seed: u64) -> Platform {
    Platform {
        vfs: Arc::new(disk.vfs()),
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SimEntropy::new(seed)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_moves_only_by_hand_and_the_wall_either_way() {
        let disk = SimDisk::new();
        let clock = SimClock::new(1_000);
        let platform = platform(&disk, &clock, 1);
        clock.advance(Duration::from_micros(2_500));
        assert_eq!((platform.clock.wall_ms(), platform.clock.mono().as_micros()), (1_002, 2_500));
        clock.set_wall_ms(7);
        clock.advance(Duration::from_millis(1));
        assert_eq!((platform.clock.wall_ms(), platform.clock.mono().as_micros()), (8, 3_500));
    }

    #[test]
    fn same_seed_same_randomness() {
        let ids = |seed| {
            let platform = platform(&SimDisk::new(), &SimClock::new(0), seed);
            (platform.random_id(), platform.random_u64())
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        let mut rng = SimRng::new(0);
        assert_eq!(rng.next_u64(), 0xe220_a839_7b1d_cdaf, "splitmix64 as published");
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
