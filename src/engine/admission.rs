//! Whether there is room for a command: on the disk, in the journal, and in what waits to be copied
//! out of it.
//!
//! The last of the disk, and of the journal when there is no slot behind it, is kept for commands
//! that end something or give space back: closing, deleting, trimming. What is refused here was not
//! applied, and says when to repeat.
//!
//! What it deliberately does not do: wait. Only appends wait, for memory, before they get here.

use super::{shared::Shared, supply::SupplyState};
use crate::{
    core::Refusal,
    error::Error,
    platform::{
        Space,
        sync::atomic::{AtomicU8, Ordering},
    },
};

/// What a command is to the space it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// It ends something or gives space back.
    End,
    /// It adds to a run.
    Add,
    /// It makes a run.
    Create,
}

/// How much space there is on the disk: the greatest purpose it is still enough for.
#[derive(Default)]
pub(super) struct DiskGauge(AtomicU8);

const NOTHING_YET: u8 = 0;
const ENOUGH: u8 = 1;
const NO_RUNS: u8 = 2;
const ONLY_ENDS: u8 = 3;

/// When to repeat what was refused because copying out of the journal did not keep up.
const BUSY_RETRY_AFTER_MS: u64 = 100;
/// Share of a slot that is kept for ends when there is no slot behind it.
const KEPT_SHARE: u64 = 2;
/// Share of the disk that is kept, at most.
const RESERVE_SHARE: u64 = 20;

impl DiskGauge {
    /// Notes the space there is. `reserve` bytes are kept, or a twentieth of a small disk.
    pub(super) fn note(&self, space: Space, reserve: u64) {
        let reserve = reserve.min(space.total / RESERVE_SHARE);
        let level = match space.free {
            free if free < reserve => ONLY_ENDS,
            free if free < 2 * reserve => NO_RUNS,
            _ => ENOUGH,
        };
        let before = self.0.swap(level, Ordering::Relaxed);
        if before != level && (NO_RUNS <= level || NO_RUNS <= before) {
            tracing::warn!(free = space.free, reserve, level, "space on the disk");
        }
    }

    /// Whether there is space for this.
    pub(super) fn has_room(&self, purpose: Purpose) -> bool {
        match self.0.load(Ordering::Relaxed) {
            NOTHING_YET | ENOUGH => true,
            NO_RUNS => purpose < Purpose::Create,
            _ => purpose < Purpose::Add,
        }
    }
}

impl Shared {
    /// Looks at the space on the disk.
    pub(super) fn look_at_space(&self) {
        if let Ok(space) = self.platform.vfs.space() {
            self.disk.note(space, self.options.disk_reserve_bytes);
        }
    }

    /// Refuses what cannot be written now: a frame larger than a slot, one that the disk or the
    /// journal has no place for, or one too many of those that wait to be copied out of it.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Error::DiskFull`], [`Error::Busy`].
    pub(super) fn check_room(&self, frame_bytes: usize, purpose: Purpose) -> Result<(), Error> {
        let limit = self.options.frame_bytes_max();
        if limit < frame_bytes {
            let what = "frame (bytes, in this store's slots)".into();
            let (size, limit) = (frame_bytes as u64, limit as u64);
            return Err(Refusal::TooLarge { what, size, limit }.into());
        }
        if !self.disk.has_room(purpose) {
            return Err(Error::DiskFull);
        }
        let busy = Error::Busy { retry_after_ms: BUSY_RETRY_AFTER_MS };
        let is_crowded = self.unflushed.is_crowded(self.options.unflushed_bytes_max);
        if is_crowded && purpose != Purpose::End {
            return Err(busy);
        }
        let slot_bytes = self.options.slot_bytes.min(self.options.slot_bytes_first);
        let kept = if purpose == Purpose::End { 0 } else { slot_bytes / KEPT_SHARE };
        let has_room = || self.queue.has_room(frame_bytes, kept);
        match self.supply.outlook() {
            SupplyState::DiskFull if !has_room() => Err(Error::DiskFull),
            // Nothing is copied out of it before somebody makes space.
            SupplyState::JournalFull if !has_room() && !self.disk.has_room(Purpose::Add) => {
                Err(Error::DiskFull)
            }
            SupplyState::JournalFull if !has_room() => Err(busy),
            _ => Ok(()),
        }
    }
}
