//! A segment: a stretch of one run's log, and what is needed to read on from it.
//!
//! Frames of a segment stand, in run order, in the blocks of a [`pack`](super::pack). What
//! describes them stands behind them, in the block that holds the last of them:
//! ```text
//!  0  8 name_hash       8  8 run_no        16 16 run_uid
//! 32  8 first_seq      40  8 end_seq       48  8 flushed_block   56  4 flushed_frame
//! 60  4 flags: 1 first (nothing of the run is before it)  2 deleted  4 pending
//! 64  8 expires_ms (0: never)                72  8 raw_bytes of the frames
//! 80  4 parts          84  4 state_len
//! 88  … parts, each
//!        0 8 block (position in the file; 0: the block that this stands in)   8 4 block_len (bytes on disk)
//!       12 4 offset (of its frames in the raw block)    16 4 len      20 4 count (records)
//!       24 8 first_seq  32 4 records_chain (of the last frame with records before it)  36 4 streams
//!       40 … streams × { stream 4, count 4, first_index 8 }
//!  …  state (the run's, at the end of the segment; opaque here)
//! ```
//! `flushed` is the place in the journal below which all of the run's frames are in segments; it
//! orders the segments of a run. A segment that is `first` replaces all that are ordered before it.
//!
//! What it deliberately does not do: know what a state holds.

use bytes::Bytes;

use super::{Damage, frame::Chain, get_u32, get_u64, put_u32, put_u64};
use crate::record::{Index, RunNo, RunUid, Seq, StreamNo};

const FIXED: usize = 88;
const PART: usize = 40;
const PART_STREAM: usize = 16;
const FLAG_FIRST: u32 = 1;
const FLAG_DELETED: u32 = 2;
const FLAG_PENDING: u32 = 4;
const FLAGS_KNOWN: u32 = FLAG_FIRST | FLAG_DELETED | FLAG_PENDING;

/// A place between two frames of the journal: everything before it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JournalPoint {
    /// Number of a block.
    pub block_no: u64,
    /// Frames of that block that lie before the place.
    pub frame: u32,
}

/// What is said of a segment in two places: behind its frames and in the directory of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    /// Hash of namespace and run id.
    pub name_hash: u64,
    /// The run.
    pub run_no: RunNo,
    /// Seq of its first record, or the run's tail if it has none.
    pub first_seq: Seq,
    /// Seq after its last record.
    pub end_seq: Seq,
    /// All of the run's frames before this place of the journal are in segments up to this one.
    pub flushed: JournalPoint,
    /// Nothing of the run is before this segment, or no longer counts.
    pub is_first: bool,
    /// The run is deleted.
    pub is_deleted: bool,
    /// Something is to be done for the run without a caller: a start finds it by this.
    pub is_pending: bool,
    /// When the run may be given up, milliseconds since the Unix epoch; 0 if nobody said.
    pub expires_ms: u64,
    /// Bytes of the frames before compression.
    pub raw_bytes: u64,
}

impl SegmentHead {
    pub(super) fn flags(&self) -> u32 {
        (u32::from(self.is_first) * FLAG_FIRST)
            | (u32::from(self.is_deleted) * FLAG_DELETED)
            | (u32::from(self.is_pending) * FLAG_PENDING)
    }

    /// Sets the fields that flags stand for.
    pub(super) fn with_flags(self, flags: u32) -> Result<Self, Damage> {
        if flags & !FLAGS_KNOWN != 0 {
            return Err(Damage::Unknown { what: "segment flags", found: u64::from(flags) });
        }
        Ok(Self {
            is_first: flags & FLAG_FIRST != 0,
            is_deleted: flags & FLAG_DELETED != 0,
            is_pending: flags & FLAG_PENDING != 0,
            ..self
        })
    }
}

/// Frames of a segment that stand in one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Position of the block in the file; 0: the block that the description stands in.
    pub block: u64,
    /// Bytes of the block on disk; 0 with `block` 0.
    pub block_len: u32,
    /// Where the frames begin in the raw block.
    pub offset: u32,
    /// Bytes of the frames.
    pub len: u32,
    /// Records of the frames.
    pub count: u32,
    /// Seq of the first record, or the run's tail if there is none.
    pub first_seq: Seq,
    /// Chain of the last frame with records before them.
    pub records_chain: Chain,
    /// The streams of the records that are there, each once.
    pub streams: Vec<PartStream>,
}

/// Records of one stream in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartStream {
    /// The stream.
    pub stream: StreamNo,
    /// Index of the first.
    pub first_index: Index,
    /// How many.
    pub count: u32,
}

impl Part {
    /// Seq after the last record.
    pub fn end_seq(&self) -> Seq {
        self.first_seq + u64::from(self.count)
    }

    /// The stream of all records, if they have one in common and none is trimmed away.
    pub fn only(&self) -> Option<StreamNo> {
        match &self.streams[..] {
            [only] if only.count == self.count => Some(only.stream),
            _ => None,
        }
    }
}

/// What stands behind the frames of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentTail {
    /// What the directory says too.
    pub head: SegmentHead,
    /// Identity of the run.
    pub run_uid: RunUid,
    /// Where the frames are, in run order.
    pub parts: Vec<Part>,
    /// The run's state at the end of the segment.
    pub state: Bytes,
}

/// Writes the description of a segment.
pub fn encode(tail: &SegmentTail, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + FIXED, 0);
    let fixed = &mut out[at..];
    let head = &tail.head;
    put_u64(fixed, 0, head.name_hash);
    put_u64(fixed, 8, head.run_no.0);
    fixed[16..32].copy_from_slice(&tail.run_uid.0);
    put_u64(fixed, 32, head.first_seq.0);
    put_u64(fixed, 40, head.end_seq.0);
    put_u64(fixed, 48, head.flushed.block_no);
    put_u32(fixed, 56, head.flushed.frame);
    put_u32(fixed, 60, head.flags());
    put_u64(fixed, 64, head.expires_ms);
    put_u64(fixed, 72, head.raw_bytes);
    put_u32(fixed, 80, tail.parts.len() as u32);
    put_u32(fixed, 84, tail.state.len() as u32);
    tail.parts.iter().for_each(|part| encode_part(part, out));
    out.extend_from_slice(&tail.state);
}

fn encode_part(part: &Part, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + PART + part.streams.len() * PART_STREAM, 0);
    let (fixed, streams) = out[at..].split_at_mut(PART);
    put_u64(fixed, 0, part.block);
    put_u32(fixed, 8, part.block_len);
    put_u32(fixed, 12, part.offset);
    put_u32(fixed, 16, part.len);
    put_u32(fixed, 20, part.count);
    put_u64(fixed, 24, part.first_seq.0);
    put_u32(fixed, 32, part.records_chain.0);
    put_u32(fixed, 36, part.streams.len() as u32);
    for (bytes, stream) in streams.chunks_exact_mut(PART_STREAM).zip(&part.streams) {
        put_u32(bytes, 0, stream.stream.0);
        put_u32(bytes, 4, stream.count);
        put_u64(bytes, 8, stream.first_index.0);
    }
}

/// Reads the description of a segment; `bytes` hold nothing else.
///
/// # Errors
/// What cannot be: lengths that pass the bytes, positions that run backwards.
pub fn decode(bytes: &Bytes) -> Result<SegmentTail, Damage> {
    if bytes.len() < FIXED {
        return Err(Damage::Short);
    }
    let head = SegmentHead {
        name_hash: get_u64(bytes, 0),
        run_no: RunNo(get_u64(bytes, 8)),
        first_seq: Seq(get_u64(bytes, 32)),
        end_seq: Seq(get_u64(bytes, 40)),
        flushed: JournalPoint { block_no: get_u64(bytes, 48), frame: get_u32(bytes, 56) },
        is_first: false,
        is_deleted: false,
        is_pending: false,
        expires_ms: get_u64(bytes, 64),
        raw_bytes: get_u64(bytes, 72),
    }
    .with_flags(get_u32(bytes, 60))?;
    let run_uid = RunUid::from_slice(&bytes[16..32]).ok_or(Damage::Short)?;
    let (count, state_len) = (get_u32(bytes, 80) as usize, get_u32(bytes, 84) as usize);
    let mut at = FIXED;
    let available = (bytes.len() - FIXED) as u64;
    if available < count as u64 * PART as u64 {
        return Err(Damage::Length { len: count as u64 * PART as u64, available });
    }
    let mut parts = Vec::with_capacity(count);
    let mut seq = head.first_seq;
    for _ in 0..count {
        let part = decode_part(bytes, &mut at)?;
        expect("first_seq of a part", part.first_seq.0, seq.0)?;
        seq = Seq(seq.0.checked_add(u64::from(part.count)).ok_or(Damage::Short)?);
        parts.push(part);
    }
    expect("end_seq of a segment", head.end_seq.0, seq.0)?;
    expect("length of a segment's state", (at + state_len) as u64, bytes.len() as u64)?;
    Ok(SegmentTail { head, run_uid, parts, state: bytes.slice(at..) })
}

fn decode_part(bytes: &[u8], at: &mut usize) -> Result<Part, Damage> {
    let fixed = bytes.get(*at..*at + PART).ok_or(Damage::Short)?;
    *at += PART;
    let count = get_u32(fixed, 36) as usize;
    let table = count.checked_mul(PART_STREAM).and_then(|len| bytes.get(*at..)?.get(..len));
    let table = table.ok_or(Damage::Short)?;
    *at += table.len();
    let streams = table.chunks_exact(PART_STREAM).map(|stream| PartStream {
        stream: StreamNo(get_u32(stream, 0)),
        count: get_u32(stream, 4),
        first_index: Index(get_u64(stream, 8)),
    });
    Ok(Part {
        block: get_u64(fixed, 0),
        block_len: get_u32(fixed, 8),
        offset: get_u32(fixed, 12),
        len: get_u32(fixed, 16),
        count: get_u32(fixed, 20),
        first_seq: Seq(get_u64(fixed, 24)),
        records_chain: Chain(get_u32(fixed, 32)),
        streams: streams.collect(),
    })
}

fn expect(what: &'static str, found: u64, expected: u64) -> Result<(), Damage> {
    if found == expected { Ok(()) } else { Err(Damage::Numbering { what, found, expected }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn parts()(first in 0..u64::MAX / 2, sizes in proptest::collection::vec((0..1_000u32, 0..4u32), 0..5)) -> (Seq, Vec<Part>) {
            let mut seq = Seq(first);
            let parts = sizes.into_iter().enumerate().map(|(n, (count, streams))| {
                let first_seq = seq;
                seq = seq + u64::from(count);
                Part {
                    block: n as u64 * 4_096,
                    block_len: count,
                    offset: count * 2,
                    len: count * 3,
                    count,
                    first_seq,
                    records_chain: Chain(count ^ 77),
                    streams: (0..streams).map(|stream| PartStream { stream: StreamNo(stream), first_index: Index(first ^ 5), count }).collect(),
                }
            });
            let parts = parts.collect();
            (Seq(first), parts)
        }
    }

    prop_compose! {
        fn tails()(
            (first_seq, parts) in parts(),
            numbers in any::<[u64; 5]>(),
            frame in any::<u32>(),
            flags in 0..8u32,
            run_uid in any::<[u8; 16]>(),
            state in proptest::collection::vec(any::<u8>(), 0..200),
        ) -> SegmentTail {
            let [name_hash, run_no, block_no, expires_ms, raw_bytes] = numbers;
            let end_seq = parts.last().map_or(first_seq, Part::end_seq);
            let head = SegmentHead {
                name_hash, run_no: RunNo(run_no), first_seq, end_seq,
                flushed: JournalPoint { block_no, frame },
                is_first: false, is_deleted: false, is_pending: false, expires_ms, raw_bytes,
            };
            let head = head.with_flags(flags).expect("known flags");
            SegmentTail { head, run_uid: RunUid(run_uid), parts, state: state.into() }
        }
    }

    proptest! {
        #[test]
        fn a_description_reads_back_as_written(tail in tails()) {
            let mut bytes = Vec::new();
            encode(&tail, &mut bytes);
            prop_assert_eq!(decode(&bytes.into()), Ok(tail));
        }

        #[test]
        fn every_truncation_is_refused(tail in tails()) {
            let mut bytes = Vec::new();
            encode(&tail, &mut bytes);
            let bytes = Bytes::from(bytes);
            for len in 0..bytes.len() {
                prop_assert!(decode(&bytes.slice(..len)).is_err());
            }
        }

        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes.into());
        }
    }
}
