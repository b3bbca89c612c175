//! When the next block begins: at once, or when more of those who were just answered are back.
//!
//! Writers that wait for each answer come back soon after it. If they come in small groups, one
//! behind the other, each group waits for the syncs of all others. Two groups are best: one is on
//! its way to the disk while the other is answered and comes back. So if the writers of a block
//! were in it again only after several others, the next block waits for as many as would make two
//! groups of all, for no longer than a sync takes.
//!
//! Nobody waits for writers that come when they like, nor for one that is alone.

use std::time::Duration;

/// A writer whose last append is so many blocks away did not wait for its answer only.
const BLOCKS_AWAY_MAX: u64 = 16;
/// Longest wait for others, however slow the disk is.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// The writers of one block, counted while it is made visible.
#[derive(Debug, Default)]
pub(super) struct Writers {
    all: u64,
    back: u64,
    /// Blocks since the last append of each who is back, in all.
    blocks_away: u64,
}

/// For whom the next block waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rhythm {
    /// Items in the queue that are enough; 0 if nobody is waited for.
    pub(super) enough: usize,
    /// How long they are waited for, at most.
    pub(super) wait_max: Duration,
}

impl Writers {
    /// Notes a frame of block `block_no` whose run was last written in block `before`.
    pub(super) fn note(&mut self, before: u64, block_no: u64) {
        let away = block_no.saturating_sub(before);
        self.all += 1;
        if away <= BLOCKS_AWAY_MAX {
            self.back += 1;
            self.blocks_away += away;
        }
    }

    /// What follows from a block whose sync took so long.
    pub(super) fn rhythm(&self, sync: Duration) -> Rhythm {
        let is_closed_loop = self.all < 2 * self.back;
        // More than two and a half blocks from one append of a writer to the next.
        let is_scattered = 5 * self.back < 2 * self.blocks_away;
        if !is_closed_loop || !is_scattered || self.all < 2 {
            return Rhythm::default();
        }
        let enough = (self.all * self.blocks_away / (2 * self.back)) as usize;
        Rhythm { enough, wait_max: sync.min(WAIT_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(100);

    fn enough(befores: impl IntoIterator<Item = u64>, block_no: u64) -> usize {
        let mut writers = Writers::default();
        befores.into_iter().for_each(|before| writers.note(before, block_no));
        writers.rhythm(SYNC).enough
    }

    #[test]
    fn four_groups_of_sixteen_become_two_of_thirty_two() {
        assert_eq!(enough([96; 16], 100), 32);
        assert_eq!(enough([98; 32], 100), 0, "two groups are left as they are");
        assert_eq!(enough([99; 64], 100), 0, "and so is one");
    }

    #[test]
    fn nobody_waits_for_writers_that_come_when_they_like_or_alone() {
        assert_eq!(enough([3; 16], 100), 0);
        assert_eq!(enough([96], 100), 0);
        assert_eq!(enough([97, 1, 2, 3], 100), 0, "most of them are not back from the last blocks");
    }

    #[test]
    fn a_slow_disk_does_not_make_the_wait_long() {
        let mut writers = Writers::default();
        (0..8).for_each(|_| writers.note(1, 5));
        assert_eq!(writers.rhythm(Duration::from_secs(1)).wait_max, WAIT_MAX);
        assert_eq!(writers.rhythm(SYNC).wait_max, SYNC);
    }
}
