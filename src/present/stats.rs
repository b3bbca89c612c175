//! The numbers of a store as JSON.

use serde::Serialize;

use crate::engine::{CacheUse, Stats};

/// How a store is doing.
#[derive(Debug, Serialize)]
pub struct StatsLine {
    stats: StatsPart,
}

#[derive(Debug, Serialize)]
struct StatsPart {
    runs: u64,
    runs_resident: u64,
    commits: u64,
    frames: u64,
    records: u64,
    bytes: u64,
    disk_reads: u64,
    disk: DiskPart,
    journal_slots: SlotsPart,
    flush_lag: LagPart,
    frame_cache: CachePart,
    block_cache: CachePart,
}

#[derive(Debug, Serialize)]
struct DiskPart {
    journal_bytes: u64,
    pack_bytes: u64,
    run_segment_bytes: u64,
    index_bytes: u64,
    manifest_bytes: u64,
    live_bytes: u64,
    dead_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    packs: u64,
    packs_lost: u64,
}

#[derive(Debug, Serialize)]
struct SlotsPart {
    total: u32,
    used: u32,
    free: u32,
    max: u32,
}

#[derive(Debug, Serialize)]
struct LagPart {
    blocks: u64,
    bytes: u64,
    oldest_age_ms: u64,
}

#[derive(Debug, Serialize)]
struct CachePart {
    used_bytes: u64,
    max_bytes: u64,
}

impl StatsLine {
    /// The shape of these numbers.
    pub fn new(stats: &Stats) -> Self {
        Self { stats: StatsPart::new(stats) }
    }
}

impl StatsPart {
    fn new(stats: &Stats) -> Self {
        let (disk, slots, lag) = (stats.disk, stats.journal_slots, stats.flush_lag);
        Self {
            runs: stats.runs,
            runs_resident: stats.runs_resident,
            commits: stats.commits,
            frames: stats.frames,
            records: stats.records,
            bytes: stats.bytes,
            disk_reads: stats.disk_reads,
            disk: DiskPart {
                journal_bytes: disk.journal_bytes,
                pack_bytes: disk.pack_bytes,
                run_segment_bytes: disk.run_segment_bytes,
                index_bytes: disk.index_bytes,
                manifest_bytes: disk.manifest_bytes,
                live_bytes: disk.live_bytes,
                dead_bytes: disk.dead_bytes,
                free_bytes: disk.free_bytes,
                packs: disk.packs,
                packs_lost: disk.packs_lost,
            },
            journal_slots: SlotsPart {
                total: slots.total,
                used: slots.used,
                free: slots.free,
                max: slots.max,
            },
            flush_lag: LagPart {
                blocks: lag.blocks,
                bytes: lag.bytes,
                oldest_age_ms: lag.oldest_age_ms,
            },
            frame_cache: CachePart::new(stats.frame_cache),
            block_cache: CachePart::new(stats.block_cache),
        }
    }
}

impl CachePart {
    fn new(cache: CacheUse) -> Self {
        Self { used_bytes: cache.used_bytes, max_bytes: cache.max_bytes }
    }
}
