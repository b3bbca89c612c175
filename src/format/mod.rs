//! Bytes ↔ values: the on-disk format, version 1, and nothing else.
//!
//! All integers are little-endian. CRC is CRC-32 (IEEE), as `crc32fast` computes it; it is not
//! CRC-32C. Every CRC covers identity (file, block, run, position) next to content, so that a
//! misplaced or stale read fails like a damaged one. CRCs and chains find accidents, not forgery.
//!
//! ```text
//! STORE, CURRENT        identity.rs   what the store is, which manifest is live
//! journal/slot-NN       slot.rs       4 KiB header page, two copies
//!   commit block        block.rs      one group commit: header, payload, padding, trailer
//!     frame             frame.rs      one atomic append of one run: records and effects
//!       record          wire.rs       protobuf bytes that are served as they are stored
//! MANIFEST-<n>          manifest.rs   same slot and block bytes, payload is a list of edits
//! packs/<n>.pack        pack.rs       compressed blocks of many runs' segments, directory, footer
//!   segment             segment.rs    a stretch of one run's log, described behind its frames
//!     frame             frame.rs      copied verbatim from the journal
//! ```
//!
//! # Rules
//! 1. A decoder returns what it found as a value. It never repairs, truncates or decides;
//!    [`verdict`] holds the one table that tells torn from corrupt.
//! 2. A decoder never panics and allocates nothing in proportion to a length it has not checked
//!    against the bytes at hand.
//! 3. Encoding what was decoded gives the same bytes; golden files under `tests/format` hold this
//!    module to what is on the disks of users.
//!
//! What it deliberately does not do: read files, know the time, know what a run's state is.

pub mod block;
pub mod compress;
pub mod cursor;
pub mod file_name;
pub mod frame;
pub mod identity;
pub mod manifest;
pub mod pack;
pub mod segment;
pub mod slot;
pub mod syndrome;
pub mod verdict;
pub mod watch_cursor;
pub mod wire;

/// Version of the on-disk format that this code writes.
pub const FORMAT_VERSION: u16 = 1;

/// Unit of atomicity of the disk: a sector is written whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Blocks and header pages start at multiples of this, so that a later write never touches a
/// physical sector that holds acknowledged data.
pub const PAGE_BYTES: usize = 4_096;

/// Which stored bytes were found damaged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No such magic number; the file is something else, or its start is damaged.
    #[error("magic number does not match")]
    Magic,
    /// Written by a version this code does not know.
    #[error("format version {found} is not supported (this is {FORMAT_VERSION})")]
    Version {
        /// Version found.
        found: u16,
    },
    /// A header's CRC does not match.
    #[error("header crc does not match")]
    HeaderCrc,
    /// The bytes belong to another store.
    #[error("belongs to another store")]
    ForeignStore,
    /// The bytes belong to another file, place or time.
    #[error("misplaced: {what} is {found}, expected {expected}")]
    Misplaced {
        /// Which number.
        what: &'static str,
        /// Number found.
        found: u64,
        /// Number expected.
        expected: u64,
    },
    /// A length field passes the end of what holds it.
    #[error("length {len} passes the {available} bytes available")]
    Length {
        /// Length found.
        len: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// The header is sound and every sector was written, but the content does not match its CRC.
    #[error("content crc does not match")]
    ContentCrc,
    /// Bytes that are always zero are not.
    #[error("padding is not zero")]
    Padding,
    /// The trailer does not repeat the header.
    #[error("trailer does not match its header")]
    Trailer,
    /// A flag or codec that this version does not write.
    #[error("unknown {what} {found}")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Value found.
        found: u64,
    },
    /// The bytes end before what they announce.
    #[error("ends early")]
    Short,
    /// A protobuf message does not decode.
    #[error("{what} does not decode")]
    Message {
        /// Which message.
        what: &'static str,
    },
    /// A counter does not continue where the one before ended.
    #[error("numbering: {what} is {found}, expected {expected}")]
    Numbering {
        /// Which number.
        what: &'static str,
        /// Number found.
        found: u64,
        /// Number expected.
        expected: u64,
    },
    /// A run's frame does not link to the frame before.
    #[error("chain of the run does not hold")]
    Chain,
    /// A block that had been durable is missing or torn: later bytes prove it.
    #[error("a block that was durable is missing: {evidence} proves it")]
    Lost {
        /// What proves it.
        evidence: Evidence,
    },
    /// A slot the manifest does not list holds blocks written after those that it lists.
    #[error("holds journal blocks of file {file_seq} that the manifest does not list")]
    UnlistedSlot {
        /// Sequence number of the slot's use.
        file_seq: u64,
    },
    /// A file the log needs is not there.
    #[error("is missing")]
    Missing,
}

/// What proves that a missing block had been durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A later slot is listed, which happens only after everything before it is durable.
    NextSlot,
    /// A block further on says so in its header.
    LaterBlock,
    /// The block before says that nothing was written after it.
    CleanShutdown,
    /// `CURRENT` names the file, which happens only after its first block is durable.
    Current,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NextSlot => "the next slot in use",
            Self::LaterBlock => "a later block",
            Self::CleanShutdown => "the clean-shutdown mark before it",
            Self::Current => "CURRENT",
        })
    }
}

/// Reads a little-endian integer at a fixed place of a header whose length was checked.
macro_rules! le {
    ($name:ident, $put:ident, $type:ty) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            let mut field = [0; size_of::<$type>()];
            field.copy_from_slice(&bytes[at..at + size_of::<$type>()]);
            <$type>::from_le_bytes(field)
        }

        pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $type) {
            bytes[at..at + size_of::<$type>()].copy_from_slice(&value.to_le_bytes());
        }
    };
}
le!(get_u16, put_u16, u16);
le!(get_u32, put_u32, u32);
le!(get_u64, put_u64, u64);

/// CRC-32 (IEEE) over several pieces, as if they stood together.
pub(crate) fn crc_of(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compared with itself, one byte on: many bytes at a time, which one after the other is not.
    bytes.split_last().is_none_or(|(last, rest)| *last == 0 && *rest == bytes[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32_ieee() {
        assert_eq!(crc_of(&[b"1234", b"56789"]), 0xcbf4_3926);
    }
}
