//! Blocks of packs that were read and decompressed, within a budget of memory.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use super::pack::Pack;
use crate::error::Error;

/// Blocks by pack and position. Concurrent readers of one block wait for one read of it.
pub struct Blocks {
    cache: Cache<(u64, u64), Bytes, Weight>,
    bytes_max: u64,
}

/// Raw bytes that a block is expected to have, to size the cache's tables.
const BLOCK_BYTES_TYPICAL: usize = 64 << 10;

#[derive(Clone)]
struct Weight;

impl Weighter<(u64, u64), Bytes> for Weight {
    fn weight(&self, _: &(u64, u64), block: &Bytes) -> u64 {
        block.len() as u64 + 128
    }
}

impl Blocks {
    /// A cache of at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        let items = bytes_max.div_ceil(BLOCK_BYTES_TYPICAL).max(16);
        let bytes_max = bytes_max as u64;
        Self { cache: Cache::with_weighter(items, bytes_max, Weight), bytes_max }
    }

    /// The raw block of a pack at `position`, `len` bytes on disk. Blocks the thread on the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn get(&self, pack: &Arc<Pack>, position: u64, len: u32) -> Result<Bytes, Error> {
        let key = (pack.number(), position);
        self.cache.get_or_insert_with(&key, || pack.read_block(position, len))
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Most bytes held.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Blocks found, and blocks that had to be read.
    pub fn forget(&self, number: u64) {
        self.cache.retain(|key, _| key.0 != number);
    }
}
