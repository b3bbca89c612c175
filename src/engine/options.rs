//! How a store is opened: plain values, refused when they contradict each other, never repaired.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    core::{Retention, RunState},
    error::OpenError,
    format::{PAGE_BYTES, block::block_bytes, compress::Codec, slot::FIRST_BLOCK_AT},
    record::APPEND_BYTES_MAX,
};

/// Options of a store. `Options::new` has defaults for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The data directory; created if it does not exist.
    pub data_dir: PathBuf,
    /// Bytes of the journal slot that a start of the store writes to: small, so that a first start
    /// is instant. A multiple of 4 KiB.
    pub slot_bytes_first: u64,
    /// Bytes of every further journal slot. A multiple of 4 KiB.
    pub slot_bytes: u64,
    /// Bytes of a manifest. A multiple of 4 KiB.
    pub manifest_bytes: u64,
    /// Slots the journal may have, besides the one that a start of the store adds.
    pub journal_slots_max: u32,
    /// Bytes of frames in the journal after which they are copied into packs, at a pace that reaches its
    /// full speed halfway from here to [`unflushed_bytes_max`](Self::unflushed_bytes_max), or with half
    /// of the journal's slots in use.
    pub flush_bytes: u64,
    /// Bytes of frames that may wait to be copied into packs; further appends are refused until
    /// some are. Also what of them may be in memory.
    pub unflushed_bytes_max: u64,
    /// Milliseconds after which frames are copied into packs, however few there are.
    pub flush_after_ms: u64,
    /// What is kept of runs that say nothing of their own about it.
    pub retention: Retention,
    /// The same for runs of single namespaces.
    pub retention_by_namespace: BTreeMap<String, Retention>,
    /// Bytes of the disk that are kept for closing, deleting and trimming; twice as many are kept
    /// from new runs. At most a twentieth of the disk.
    pub disk_reserve_bytes: u64,
    /// Bytes of a pack at which the next one is begun.
    pub pack_bytes: u64,
    /// How packs are compressed: zstd gives way to lz4, block by block, while appends are about to outrun
    /// copying; the others never give way.
    pub codec: Codec,
    /// Bytes of the states of runs that are kept in memory; those of runs at rest are given up
    /// beyond it. Split evenly over 16 shards.
    pub resident_bytes: usize,
    /// Bytes of decompressed blocks of packs that are kept in memory.
    pub cache_bytes: usize,
    /// Bytes of the cache of the index of runs.
    pub index_cache_bytes: u64,
    /// Bytes of recent frames that are kept in memory for readers at the tail. Split evenly over
    /// 16 shards, so one run has a sixteenth of it at most.
    pub ring_bytes: usize,
    /// Bytes of appends that may wait for their commit; further ones wait for those.
    pub ingest_bytes: usize,
    /// Threads that read from disk for readers behind the ring.
    pub read_threads: usize,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Smallest journal slot: header page and one small block.
const SLOT_BYTES_MIN: u64 = 8 * PAGE_BYTES as u64;

impl Options {
    /// Defaults for a server on `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            slot_bytes_first: 16 << 20,
            slot_bytes: 64 << 20,
            manifest_bytes: 4 << 20,
            journal_slots_max: 14,
            flush_bytes: 128 << 20,
            unflushed_bytes_max: 512 << 20,
            flush_after_ms: 60_000,
            retention: Retention { age_ms: Some(28 * DAY_MS), ..Retention::default() },
            retention_by_namespace: BTreeMap::new(),
            disk_reserve_bytes: 128 << 20,
            pack_bytes: 256 << 20,
            codec: Codec::Zstd,
            resident_bytes: 128 << 20,
            cache_bytes: 128 << 20,
            index_cache_bytes: 32 << 20,
            ring_bytes: 256 << 20,
            ingest_bytes: 64 << 20,
            read_threads: 2,
        }
    }

    /// What is kept of a run.
    pub(super) fn retention_of(&self, run: &RunState) -> Retention {
        let of_namespace = || self.retention_by_namespace.get(&*run.namespace);
        run.retention.or_else(|| of_namespace().copied()).unwrap_or(self.retention)
    }

    /// Bytes of memory that all budgets allow together. What waits to be copied into packs is, as
    /// far as it is in memory, mostly what is kept for readers at the tail.
    pub fn memory_bytes(&self) -> u64 {
        let frames = self.unflushed_bytes_max.max(self.ring_bytes as u64);
        let rest = [self.resident_bytes, self.cache_bytes, self.ingest_bytes];
        let rest = rest.into_iter().map(|bytes| bytes as u64);
        rest.chain([self.index_cache_bytes]).fold(frames, u64::saturating_add)
    }

    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`OpenError::Options`].
    pub fn check(&self) -> Result<(), OpenError> {
        let sizes = [
            ("slot_bytes_first", self.slot_bytes_first),
            ("slot_bytes", self.slot_bytes),
            ("manifest_bytes", self.manifest_bytes),
        ];
        for (option, bytes) in sizes {
            if !bytes.is_multiple_of(PAGE_BYTES as u64) {
                return Err(OpenError::Options { option, problem: "is not a multiple of 4096" });
            }
            if bytes < SLOT_BYTES_MIN {
                return Err(OpenError::Options { option, problem: "is less than 32768" });
            }
            if u64::from(u32::MAX) < bytes {
                return Err(OpenError::Options { option, problem: "is 4 GiB or more" });
            }
        }
        if self.ingest_bytes < 4 * APPEND_BYTES_MAX {
            let problem = "is less than four appends of the largest size (4 MiB)";
            return Err(OpenError::Options { option: "ingest_bytes", problem });
        }
        if self.journal_slots_max < 3 {
            let problem = "is less than 3: one is written to, one is made ready, one is copied out";
            return Err(OpenError::Options { option: "journal_slots_max", problem });
        }
        for (option, bytes) in [("flush_bytes", self.flush_bytes), ("pack_bytes", self.pack_bytes)]
        {
            if bytes == 0 {
                return Err(OpenError::Options { option, problem: "is zero" });
            }
        }
        if self.unflushed_bytes_max / 2 < self.flush_bytes {
            let problem = "is less than twice flush_bytes";
            return Err(OpenError::Options { option: "unflushed_bytes_max", problem });
        }
        if self.read_threads == 0 {
            return Err(OpenError::Options { option: "read_threads", problem: "is zero" });
        }
        Ok(())
    }

    /// Largest frame that fits every slot of this store, with the mark behind its block.
    pub(super) fn frame_bytes_max(&self) -> usize {
        let slot = self.slot_bytes.min(self.slot_bytes_first) as usize;
        slot - FIRST_BLOCK_AT - 2 * block_bytes(0)
    }
}
