//! How a store is doing, in numbers.

use super::store::Store;
use crate::{format::pack::PackKind, manifest::LivePack, platform::sync::atomic::Ordering};

/// Numbers of a store. Counters count since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Runs of the store.
    pub runs: u64,
    /// Runs whose state is in memory.
    pub runs_resident: u64,
    /// Commit blocks written and synced: what the disk was asked for.
    pub commits: u64,
    /// Frames in them: what callers asked for.
    pub frames: u64,
    /// Records in the frames.
    pub records: u64,
    /// Bytes of the frames.
    pub bytes: u64,
    /// Frames read from journal or packs for readers that were behind.
    pub disk_reads: u64,
    /// What is on disk.
    pub disk: DiskUse,
    /// The journal's slots.
    pub journal_slots: JournalSlots,
    /// What is in the journal only.
    pub flush_lag: FlushLag,
    /// Recent frames in memory, for readers at the tail.
    pub frame_cache: CacheUse,
    /// Blocks in memory that were read from disk.
    pub block_cache: CacheUse,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// The journal's slots, whether in use or not.
    pub journal_bytes: u64,
    /// Packs: segments of many runs together.
    pub pack_bytes: u64,
    /// Segments of single runs.
    pub run_segment_bytes: u64,
    /// The index of runs.
    pub index_bytes: u64,
    /// The manifest.
    pub manifest_bytes: u64,
    /// Bytes of packs and segments that hold what is kept.
    pub live_bytes: u64,
    /// Bytes of packs and segments that hold what is deleted or replaced, by the share of it before
    /// compression.
    pub dead_bytes: u64,
    /// Packs, those of single runs included.
    pub packs: u64,
    /// Packs that cannot be opened: what is in them is lost.
    pub packs_lost: u64,
    /// Bytes that are free in the file system; none if it does not tell.
    pub free_bytes: Option<u64>,
}

/// Slots of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalSlots {
    /// Slots there are.
    pub total: u32,
    /// Slots that hold blocks which are needed.
    pub used: u32,
    /// Slots that can be used next.
    pub free: u32,
    /// Slots that there may be.
    pub max: u32,
}

/// What is in the journal and in no segment yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlushLag {
    /// Commit blocks.
    pub blocks: u64,
    /// Bytes of their frames, and of what is kept in memory for each.
    pub bytes: u64,
    /// Milliseconds since the oldest of them was written.
    pub oldest_age_ms: u64,
}

/// How full a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Bytes in it.
    pub used_bytes: u64,
    /// Bytes it may hold.
    pub max_bytes: u64,
}

impl Store {
    /// How the store is doing. Asks the file system for its space.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let (mut resident, mut frame_bytes, mut oldest) = (0, 0, None);
        for shard in shared.shards() {
            let shard = shard.lock();
            resident += shard.len() as u64;
            frame_bytes += shard.ring_bytes() as u64;
            oldest = [oldest, shard.oldest_written()].into_iter().flatten().min();
        }
        let indexed = shared.catalog.size();
        let slots = shared.supply.counts();
        let (durable, now_ms) = (shared.durable_block_no(), shared.now_ms());
        let counted = &shared.stats;
        Stats {
            runs: indexed.map_or(resident, |(runs, _)| runs),
            runs_resident: resident,
            commits: counted.commits.load(Ordering::Relaxed),
            frames: counted.frames.load(Ordering::Relaxed),
            records: counted.records.load(Ordering::Relaxed),
            bytes: counted.bytes.load(Ordering::Relaxed),
            disk_reads: counted.disk_reads.load(Ordering::Relaxed),
            disk: DiskUse { index_bytes: indexed.map_or(0, |(_, bytes)| bytes), ..self.disk_use() },
            journal_slots: JournalSlots {
                total: slots.used + slots.free,
                used: slots.used,
                free: slots.free,
                max: slots.max,
            },
            flush_lag: FlushLag {
                blocks: oldest.map_or(0, |(block_no, _)| durable.saturating_sub(block_no)),
                bytes: shared.unflushed.bytes(),
                oldest_age_ms: oldest.map_or(0, |(_, time_ms)| now_ms.saturating_sub(time_ms)),
            },
            frame_cache: CacheUse {
                used_bytes: frame_bytes,
                max_bytes: shared.options.ring_bytes as u64,
            },
            block_cache: CacheUse {
                used_bytes: shared.blocks.bytes(),
                max_bytes: shared.blocks.bytes_max(),
            },
        }
    }

    fn disk_use(&self) -> DiskUse {
        let shared = &self.shared;
        let live = shared.manifest.lock().live().clone();
        let mut disk = DiskUse {
            journal_bytes: shared.frames.bytes() + shared.supply.bytes(),
            manifest_bytes: shared.options.manifest_bytes,
            free_bytes: shared.platform.vfs.space().ok().map(|space| space.free),
            ..DiskUse::default()
        };
        for LivePack { listed, dead_bytes } in live.packs.values() {
            match listed.kind {
                PackKind::Shared => disk.pack_bytes += listed.bytes,
                PackKind::Own => disk.run_segment_bytes += listed.bytes,
            }
            let dead = u128::from(listed.bytes) * u128::from(*dead_bytes);
            let dead = (dead / u128::from(listed.raw_bytes.max(1))) as u64;
            disk.dead_bytes += dead.min(listed.bytes);
            disk.live_bytes += listed.bytes - dead.min(listed.bytes);
        }
        disk.packs = live.packs.len() as u64;
        disk.packs_lost = shared.packs.shelf().lost() as u64;
        disk
    }
}
