//! Names, numbers and limits of the log: the words every other module speaks.
//!
//! Everything here is a plain value. Limits stand together so that they can be checked against
//! each other when the crate is compiled.

use std::{fmt, ops::Add};

/// Bytes of data and headers of one record, at most (inclusive).
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Records of one append, at most.
pub const APPEND_RECORDS_MAX: usize = 1_000;
/// Bytes of data and headers of one append, at most (inclusive). One record may fill it.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// Headers of one record, at most.
pub const HEADERS_MAX: usize = 64;
/// Bytes of one frame, header included, at most: an append with its fields and state effects.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Payload bytes of one commit block, at most.
pub const BLOCK_PAYLOAD_MAX: usize = 8 << 20;
/// Bytes of a run id or task, at most.
pub const RUN_ID_BYTES_MAX: usize = 512;
/// Tags of one run, at most.
pub const TAGS_PER_RUN_MAX: usize = 10;
/// Bytes of a tag, at most.
pub const TAG_BYTES_MAX: usize = 128;
/// Bytes of the name of a batch, at most.
pub const BATCH_BYTES_MAX: usize = 128;
/// Bytes of a stream name, at most.
pub const STREAM_NAME_BYTES_MAX: usize = 512;
/// Bytes of a producer id or of a record's own id, at most.
pub const ID_BYTES_MAX: usize = 128;
/// Bytes of a run's output or of its error, at most.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// The tenant of callers that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Streams of one run, `$run` included, at most.
pub const STREAMS_PER_RUN_MAX: usize = 256;
/// Idempotent producers of one run, at most.
pub const PRODUCERS_PER_RUN_MAX: usize = 256;
/// Appends per producer whose positions are remembered; an older retry is answered without them.
pub const PRODUCER_APPENDS_REMEMBERED: usize = 64;
/// Bytes of a run's payload, at most.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Bytes of what is said of a run for gateways, names and values, at most.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 << 10;
/// Bytes of an idempotency key, at most.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 2 << 10;
/// Attempts of a run that says nothing of them.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// Requests of a run that are remembered.
pub const REQUESTS_REMEMBERED: usize = 1_024;
/// Ids of acked messages of an input stream that are remembered.
pub const SENT_REMEMBERED: usize = 4_096;
/// Inputs of a stream that a consumer may owe, at most.
pub const INPUTS_OWED_MAX: u64 = 10_000;
/// Bytes of inputs of a stream that may be owed, at most.
pub const INPUT_BYTES_OWED_MAX: u64 = 64 << 20;
/// Consumers of an input stream, at most.
pub const CONSUMERS_MAX: usize = 8;
/// Acked ranges above a consumer's floor, at most.
pub const ACKED_RANGES_MAX: usize = 1_024;
/// Milliseconds that an idempotency key is kept if nobody says: 30 days.
pub const KEY_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Items that are added to a batch at once.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Bytes of waits' values that a run's state has, beyond the newest.
pub const WAIT_VALUE_BYTES_MAX: usize = 2 << 20;
/// Rows that a watch of many runs may begin with.
pub const WATCH_ROWS_MAX: usize = 10_000;
/// Inputs that one receiver may have without an ack, if nobody says.
pub const CLAIMS_DEFAULT: usize = 256;
/// Milliseconds that an input that was taken is claimed for.
pub const CLAIM_TERM_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
/// Milliseconds that an input that was taken is claimed for, if nobody says.
pub const CLAIM_TERM_DEFAULT_MS: u64 = 30_000;
/// Milliseconds of a lease's term, if nobody says.
pub const LEASE_TERM_DEFAULT_MS: u64 = 30_000;
/// Milliseconds that a worker has to end a run that was canceled, if nobody says.
pub const CANCEL_GRACE_DEFAULT_MS: u64 = 30_000;
/// Milliseconds that a call may wait for something to come, at most.
pub const WAIT_CALL_MS_MAX: u64 = 60_000;
/// Inputs that one receiver may have without an ack.
pub const CLAIMS_MAX: usize = 4_096;
/// Waits of a run that are not settled, at most.
pub const WAITS_MAX: usize = 1_024;
/// Settled waits of a run that are remembered.
pub const WAITS_REMEMBERED: usize = 1_024;
/// Runs that wait for one run, at most.
pub const WAITERS_MAX: usize = 1_024;
/// Runs whose outboxes a run has heard of that it remembers.
pub const SOURCES_REMEMBERED: usize = 4_096;
/// Bytes of a metadata document, at most.
pub const METADATA_BYTES_MAX: usize = 256 << 10;
/// Operations on metadata of one commit, at most.
pub const OPERATIONS_MAX: usize = 1_000;
/// Term of a lease, at least and at most, in milliseconds.
pub const LEASE_TERM_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
/// Milliseconds after its close for which a run still takes metadata and tags.
pub const LATE_MS: u64 = 60 * 60 * 1_000;
/// Records of one page of a read, at most.
pub const READ_RECORDS_MAX: u64 = 1_000;
/// Bytes of one page of a read, overrun by less than one record.
pub const READ_BYTES_MAX: u64 = 1 << 20;
/// Rows of one page of a listing, at most.
pub const LIST_ROWS_MAX: usize = 1_000;
/// Older cursors a reader may present, at most.
pub const OLDER_CURSORS_MAX: usize = 8;
/// Bytes of an encoded cursor, at most.
pub const CURSOR_BYTES_MAX: usize = 256;
/// Partitions of a store; part of every run number.
pub const VSHARDS: u64 = 1_024;

/// What a record's fields may add to its data and headers: numbers, times, id, lengths, and the
/// tags and lengths of each header.
const RECORD_OVERHEAD_MAX: usize = 256 + ID_BYTES_MAX + HEADERS_MAX * 16;
const _: () = assert!(RECORD_BYTES_MAX <= APPEND_BYTES_MAX, "one record fits one append");
const _: () = assert!(
    APPEND_BYTES_MAX + APPEND_RECORDS_MAX * RECORD_OVERHEAD_MAX + (64 << 10) <= FRAME_BYTES_MAX,
    "every append fits one frame"
);
/// Bytes of a run's names and labels in a list, at most: namespace, run id, task, tags, batch,
/// worker, versions.
const LABEL_BYTES_MAX: usize =
    3 * RUN_ID_BYTES_MAX + TAGS_PER_RUN_MAX * TAG_BYTES_MAX + BATCH_BYTES_MAX + 3 * ID_BYTES_MAX;
const _: () = assert!(
    LIST_ROWS_MAX * (LABEL_BYTES_MAX + 512) <= FRAME_BYTES_MAX,
    "every page of a listing fits one answer: 4 MiB, which is what clients take by default"
);
const _: () = assert!(FRAME_BYTES_MAX <= BLOCK_PAYLOAD_MAX, "every frame fits one block");

/// Declares a dense position: a `u64` that is compared, advanced and printed.
macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The first position.
            pub const ZERO: Self = Self(0);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Add<u64> for $name {
            type Output = Self;

            fn add(self, count: u64) -> Self {
                Self(self.0 + count)
            }
        }
    };
}

position! {
    /// Dense position of a record in its run's log, from 0.
    Seq
}
position! {
    /// Dense position of a record in its stream, from 0.
    Index
}

/// Number of a stream within its run: 0 is `$run`, others are dense from 1 in order of opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamNo(pub u32);

impl StreamNo {
    /// `$run`: lifecycle and metadata.
    pub const RUN: Self = Self(0);
}

impl fmt::Display for StreamNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Name of stream 0.
pub const RUN_STREAM_NAME: &str = "$run";

/// Identity of a run, 128 random bits. A name that is used again gets another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunUid(pub [u8; 16]);

impl fmt::Display for RunUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RunUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RunUid {
    /// Reads an identity from its 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Store-local number of a run: per-vshard counter · 1,024 + vshard. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunNo(pub u64);

impl RunNo {
    /// The run with this number in the order of creation within `vshard`.
    pub fn new(counter: u64, vshard: u64) -> Self {
        debug_assert!(vshard < VSHARDS);
        Self(counter * VSHARDS + vshard)
    }

    /// The partition the run belongs to.
    pub fn vshard(self) -> u64 {
        self.0 % VSHARDS
    }

    /// Position in the order of creation within the vshard.
    pub fn counter(self) -> u64 {
        self.0 / VSHARDS
    }
}

impl fmt::Display for RunNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Hash of a run's name: XXH3-64 with its default seed over namespace, a zero byte, and run id.
///
/// Both are UTF-8 without control characters, so the zero byte separates them. It is on disk:
/// it never changes.
pub fn name_hash(namespace: &str, run_id: &str) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(namespace.as_bytes());
    hasher.update(&[0]);
    hasher.update(run_id.as_bytes());
    hasher.digest()
}

/// Partition of a run: fixed by its name, for the life of the store.
pub fn vshard_of(namespace: &str, run_id: &str) -> u64 {
    name_hash(namespace, run_id) % VSHARDS
}

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// Too many bytes.
    #[error("has {len} bytes, {max} at most are allowed")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A control character.
    #[error("holds a control character at byte {at}")]
    Control {
        /// Where, in bytes.
        at: usize,
    },
    /// `$…` is reserved.
    #[error("starts with `$`, which is reserved")]
    Reserved,
}

/// Checks a name: not empty, at most `max` bytes, no control characters, not starting with `$`.
pub fn check_name(name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.starts_with('$') {
        return Err(NameError::Reserved);
    }
    check_text(name, max)
}

/// Checks the name of a run, which may be one of the store's own.
pub fn check_run_name(name: &str, max: usize) -> Result<(), NameError> {
    match name.strip_prefix('$') {
        Some(rest) => check_name(rest, max - 1),
        None => check_name(name, max),
    }
}

/// Checks a text that may be empty: at most `max` bytes, no control characters.
pub fn check_text(text: &str, max: usize) -> Result<(), NameError> {
    if max < text.len() {
        return Err(NameError::TooLong { len: text.len(), max });
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(NameError::Control { at }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_for_the_reason_that_helps() {
        assert_eq!(check_name("", 4), Err(NameError::Empty));
        assert_eq!(check_name("$run", 4), Err(NameError::Reserved));
        assert_eq!(check_name("a\nb", 4), Err(NameError::Control { at: 1 }));
        assert_eq!(check_name("abcde", 4), Err(NameError::TooLong { len: 5, max: 4 }));
        assert_eq!(check_name("ab$d", 4), Ok(()));
        assert_eq!(check_text("", 4), Ok(()));
    }

    #[test]
    fn a_run_number_holds_its_vshard() {
        let run_no = RunNo::new(7, 1_023);
        assert_eq!((run_no.counter(), run_no.vshard()), (7, 1_023));
    }

    #[test]
    fn vshards_are_fixed_for_the_life_of_a_store() {
        assert_eq!(vshard_of("default", "run_1"), vshard_of("default", "run_1"));
        assert_ne!(vshard_of("a", "bc"), vshard_of("ab", "c"));
        let hash = xxhash_rust::xxh3::xxh3_64(b"default\0run_1");
        assert_eq!(name_hash("default", "run_1"), hash);
        assert_eq!(vshard_of("default", "run_1"), hash % VSHARDS);
    }
}
