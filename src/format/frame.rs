//! A frame: one atomic append of one run, the unit of checksum, acknowledgement and transfer.
//!
//! ```text
//!   0  4 len (bytes after this field)
//!   4  4 crc (len, bytes 12..end)
//!   8  4 chain = CRC(chain of the run's previous frame, crc)
//!  12  1 version = 1
//!  13  1 flags: 1 effects, 2 stub, 4 first of run, 8 closes run
//!  14  2 zero
//!  16  8 run_no        24  8 first_seq
//!  32  4 count         36  4 records_len       40  8 time_ms
//!  48  … records: count × (0x0A, length, Record)          … effects: one Effects message
//! ```
//!
//! The chain of a run starts as CRC(run_uid). It proves to a cursor that its past is ours, and to
//! a scan that no frame is missing or out of order. `count` may be 0: then `first_seq` is the
//! run's tail, and chain and state advance while seq does not. A frame is copied verbatim from
//! file to file.
//!
//! A **stub** stands for one frame, or for several that follow each other, whose records are all
//! trimmed: `first_seq` and `time_ms` of the first, all of their records in `count`, crc and chain
//! of the last. So the chain still links behind it. Its only content is the CRC of its own bytes
//! 0..48, in 4 bytes. Stubs stand in segments only.

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::{
    Damage, crc_of, get_u32, get_u64, put_u32, put_u64,
    syndrome::{WrongByte, wrong_byte},
    wire::{self, RecordFields},
};
use crate::{
    proto::storage::v1::Effects,
    record::{FRAME_BYTES_MAX, RunNo, RunUid, Seq},
    sabotage::{self, Bug},
};

/// Bytes before the records.
pub const FRAME_HEADER_BYTES: usize = 48;
const STUB_BYTES: usize = FRAME_HEADER_BYTES + 4;

const VERSION: u8 = 1;

/// The frame holds effects.
pub const FLAG_EFFECTS: u8 = 1;
/// The frame's records are trimmed; header, crc and chain remain so that the chain still links.
pub const FLAG_STUB: u8 = 2;
/// First frame of its run.
pub const FLAG_FIRST: u8 = 4;
/// The frame closes its run.
pub const FLAG_CLOSES: u8 = 8;
const FLAGS_KNOWN: u8 = FLAG_EFFECTS | FLAG_STUB | FLAG_FIRST | FLAG_CLOSES;

/// The CRC that a frame should have, whose bytes these are; 0 of bytes that are too few.
pub fn crc_of_frame(bytes: &[u8]) -> u32 {
    match bytes.len() < FRAME_HEADER_BYTES {
        true => 0,
        false => crc_of(&[&bytes[..4], &bytes[12..]]),
    }
}

/// Running CRC over all frames of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain(pub u32);

impl Chain {
    /// The chain before a run's first frame.
    pub fn start(run_uid: RunUid) -> Self {
        Self(crc_of(&[&run_uid.0]))
    }

    /// The chain after a frame with this CRC.
    pub fn link(self, crc: u32) -> Self {
        Self(crc_of(&[&self.0.to_le_bytes(), &crc.to_le_bytes()]))
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// CRC of the frame.
    pub crc: u32,
    /// Chain after this frame.
    pub chain: Chain,
    /// `FLAG_*`.
    pub flags: u8,
    /// The run.
    pub run_no: RunNo,
    /// Seq of the first record, or the run's tail if there is none.
    pub first_seq: Seq,
    /// Number of records.
    pub count: u32,
    /// Bytes of the records.
    pub records_len: u32,
    /// Server time, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// A frame whose CRC holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The fixed part.
    pub header: FrameHeader,
    bytes: Bytes,
}

impl Frame {
    /// All bytes of the frame.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, as they are served.
    pub fn records(&self) -> Bytes {
        self.bytes.slice(FRAME_HEADER_BYTES..self.effects_at())
    }

    /// The records, borrowed.
    pub fn records_slice(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_BYTES..self.effects_at()]
    }

    /// Decodes the effects; empty ones if there are none.
    ///
    /// # Errors
    /// [`Damage::Message`] if they are not an `Effects` message.
    pub fn effects(&self) -> Result<Effects, Damage> {
        if self.header.flags & FLAG_EFFECTS == 0 {
            return Ok(Effects::default());
        }
        let bytes = self.bytes.slice(self.effects_at()..);
        Effects::decode(bytes).map_err(|_| Damage::Message { what: "effects" })
    }

    /// Whether it stands for frames whose records are trimmed.
    pub fn is_stub(&self) -> bool {
        self.header.flags & FLAG_STUB != 0
    }

    /// The stub that stands for this frame, and for those before it that `before` stands for.
    pub fn to_stub(&self, before: Option<&Frame>) -> Frame {
        let first = before.map_or(&self.header, |before| &before.header);
        let header = FrameHeader {
            flags: (self.header.flags | first.flags) & !FLAG_EFFECTS | FLAG_STUB,
            first_seq: first.first_seq,
            count: (self.next_seq().0 - first.first_seq.0) as u32,
            records_len: 0,
            time_ms: first.time_ms,
            ..self.header
        };
        let mut bytes = self.bytes[..FRAME_HEADER_BYTES].to_vec();
        put_u32(&mut bytes, 0, STUB_BYTES as u32 - 4);
        bytes[13] = header.flags;
        put_u64(&mut bytes, 24, header.first_seq.0);
        put_u32(&mut bytes, 32, header.count);
        put_u32(&mut bytes, 36, 0);
        put_u64(&mut bytes, 40, header.time_ms);
        let crc = crc_of(&[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Frame { header, bytes: bytes.into() }
    }

    /// Seq after the last record.
    pub fn next_seq(&self) -> Seq {
        self.header.first_seq + u64::from(self.header.count)
    }

    fn effects_at(&self) -> usize {
        FRAME_HEADER_BYTES + self.header.records_len as usize
    }

    /// Reads the frame that `bytes` start with and checks its CRC. The frame shares their memory.
    ///
    /// Whether the chain links and the numbers continue is for the run's state to say.
    ///
    /// # Errors
    /// What is damaged; nothing is a torn frame here, since a frame is read from a block that is
    /// whole.
    pub fn decode(bytes: &Bytes) -> Result<Frame, Damage> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(Damage::Short);
        }
        let len = get_u32(bytes, 0) as usize + 4;
        if len < FRAME_HEADER_BYTES || bytes.len().min(FRAME_BYTES_MAX) < len {
            let available = bytes.len().min(FRAME_BYTES_MAX) as u64;
            return Err(Damage::Length { len: len as u64, available });
        }
        let header = FrameHeader {
            crc: get_u32(bytes, 4),
            chain: Chain(get_u32(bytes, 8)),
            flags: bytes[13],
            run_no: RunNo(get_u64(bytes, 16)),
            first_seq: Seq(get_u64(bytes, 24)),
            count: get_u32(bytes, 32),
            records_len: get_u32(bytes, 36),
            time_ms: get_u64(bytes, 40),
        };
        let is_sound = match header.flags & FLAG_STUB != 0 && len == STUB_BYTES {
            true => get_u32(bytes, FRAME_HEADER_BYTES) == crc_of(&[&bytes[..FRAME_HEADER_BYTES]]),
            false => header.crc == crc_of(&[&bytes[..4], &bytes[12..len]]),
        };
        if !is_sound && !sabotage::is(Bug::IgnoreFrameCrc) {
            return Err(Damage::ContentCrc);
        }
        check_header(&header, bytes, len)?;
        Ok(Frame { header, bytes: bytes.slice(..len) })
    }

    /// The frame that `bytes` would start with if one byte of it were another one, and which. Takes
    /// the time of up to 768 CRCs of the frame if it is the length that is damaged. Its chain, which
    /// no CRC of the frame covers, is as it stands.
    pub fn mended(bytes: &Bytes) -> Option<(Frame, WrongByte)> {
        Self::with_mended_content(bytes).or_else(|| Self::with_mended_len(bytes))
    }

    fn with_mended_content(bytes: &Bytes) -> Option<(Frame, WrongByte)> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        let len = get_u32(header, 0) as usize + 4;
        if len < FRAME_HEADER_BYTES || bytes.len().min(FRAME_BYTES_MAX) < len {
            return None;
        }
        let difference = get_u32(header, 4) ^ crc_of(&[&bytes[..4], &bytes[12..len]]);
        let wrong = match WrongByte::of_crc(difference) {
            Some(wrong) => wrong.behind(4),
            // The CRC covers the length, and what stands behind the chain.
            None => wrong_byte(difference, len - 8).filter(|wrong| 4 <= wrong.at)?.behind(8),
        };
        Self::with_byte(&bytes.slice(..len), wrong)
    }

    fn with_mended_len(bytes: &Bytes) -> Option<(Frame, WrongByte)> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return None;
        }
        let flips = (0..3).flat_map(|at| (1..=255).map(move |bits| WrongByte { at, bits }));
        // The highest byte of a length is always zero.
        let highest = WrongByte { at: 3, bits: bytes[3] };
        let highest = (highest.bits != 0).then_some(highest);
        let mut found = flips.chain(highest).filter_map(|wrong| Self::with_byte(bytes, wrong));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    fn with_byte(bytes: &Bytes, wrong: WrongByte) -> Option<(Frame, WrongByte)> {
        let mut fixed: [u8; FRAME_HEADER_BYTES] = bytes[..FRAME_HEADER_BYTES].try_into().ok()?;
        if let Some(byte) = fixed.get_mut(wrong.at) {
            *byte ^= wrong.bits;
        }
        let len = get_u32(&fixed, 0) as usize + 4;
        if len < FRAME_HEADER_BYTES || bytes.len().min(FRAME_BYTES_MAX) < len {
            return None;
        }
        if wrong.at < 4 && get_u32(&fixed, 4) != crc_of(&[&fixed[..4], &bytes[12..len]]) {
            return None;
        }
        let mut mended = bytes[..len].to_vec();
        mended[wrong.at] ^= wrong.bits;
        Frame::decode(&mended.into()).ok().map(|frame| (frame, wrong))
    }

    /// Splits the payload of a block into its frames. Stops after the first damage.
    pub fn split(payload: Bytes) -> impl Iterator<Item = Result<Frame, Damage>> {
        let mut rest = payload;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let frame = Frame::decode(&rest);
            rest = frame.as_ref().map_or(Bytes::new(), |frame| rest.slice(frame.bytes.len()..));
            Some(frame)
        })
    }
}

fn check_header(header: &FrameHeader, bytes: &[u8], len: usize) -> Result<(), Damage> {
    let content = len - FRAME_HEADER_BYTES;
    if bytes[12] != VERSION {
        return Err(Damage::Version { found: u16::from(bytes[12]) });
    }
    if header.flags & !FLAGS_KNOWN != 0 {
        return Err(Damage::Unknown { what: "frame flags", found: u64::from(header.flags) });
    }
    if bytes[14..16] != [0, 0] {
        return Err(Damage::Padding);
    }
    let records_len = header.records_len as usize;
    if header.flags & FLAG_STUB != 0 {
        let is_bare = content == STUB_BYTES - FRAME_HEADER_BYTES && records_len == 0;
        let is_stub = is_bare && header.flags & FLAG_EFFECTS == 0;
        return if is_stub { check_count(header) } else { Err(Damage::Message { what: "stub" }) };
    }
    if content < records_len {
        return Err(Damage::Length { len: records_len as u64, available: content as u64 });
    }
    if (header.flags & FLAG_EFFECTS != 0) != (records_len < content) {
        return Err(Damage::Message { what: "effects" });
    }
    check_count(header)
}

fn check_count(header: &FrameHeader) -> Result<(), Damage> {
    let count = u64::from(header.count);
    match u64::MAX - header.first_seq.0 < count {
        true => Err(Damage::Length { len: count, available: 0 }),
        false => Ok(()),
    }
}

/// Builds a frame: records first, then [`finish`](FrameBuilder::finish).
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: BytesMut,
    count: u32,
}

impl FrameBuilder {
    /// An empty frame with room for about `capacity` bytes of records.
    pub fn new(capacity: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(FRAME_HEADER_BYTES + capacity);
        bytes.resize(FRAME_HEADER_BYTES, 0);
        Self { bytes, count: 0 }
    }

    /// Adds a record.
    pub fn record(&mut self, fields: &RecordFields<'_>) {
        wire::put_record(&mut self.bytes, fields);
        self.count += 1;
    }

    /// Number of records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds effects, length, CRC and chain.
    ///
    /// # Panics
    /// If the frame is larger than [`FRAME_BYTES_MAX`]; limits are checked at admission.
    pub fn finish(mut self, place: &FramePlace, effects: &Effects) -> Frame {
        let records_len = self.bytes.len() - FRAME_HEADER_BYTES;
        let mut flags = place.flags;
        if effects.encoded_len() != 0 {
            flags |= FLAG_EFFECTS;
            effects.encode(&mut self.bytes).expect("a growing buffer has room");
        }
        let len = self.bytes.len();
        assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes passed admission");
        let bytes = &mut self.bytes;
        put_u32(bytes, 0, (len - 4) as u32);
        bytes[12] = VERSION;
        bytes[13] = flags;
        put_u64(bytes, 16, place.run_no.0);
        put_u64(bytes, 24, place.first_seq.0);
        put_u32(bytes, 32, self.count);
        put_u32(bytes, 36, records_len as u32);
        put_u64(bytes, 40, place.time_ms);
        let crc = crc_of(&[&bytes[..4], &bytes[12..]]);
        let chain = place.chain.link(crc);
        put_u32(bytes, 4, crc);
        put_u32(bytes, 8, chain.0);
        let header = FrameHeader {
            crc,
            chain,
            flags,
            run_no: place.run_no,
            first_seq: place.first_seq,
            count: self.count,
            records_len: records_len as u32,
            time_ms: place.time_ms,
        };
        Frame { header, bytes: self.bytes.freeze() }
    }
}

/// Where a frame goes in its run.
#[derive(Debug, Clone, Copy)]
pub struct FramePlace {
    /// The run.
    pub run_no: RunNo,
    /// Seq of the first record, or the run's tail.
    pub first_seq: Seq,
    /// Server time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// `FLAG_*`, except [`FLAG_EFFECTS`], which follows from the effects.
    pub flags: u8,
    /// Chain of the run's frame before.
    pub chain: Chain,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{Kind, storage::v1::ProducerAdvanced},
        record::{Index, StreamNo},
    };

    fn frame() -> Frame {
        let mut builder = FrameBuilder::new(64);
        for n in 0..3u64 {
            builder.record(&RecordFields {
                stream: StreamNo(1),
                seq: Seq(7 + n),
                index: Index(n),
                time_ms: 1_700_000_000_000,
                kind: Kind::Chunk,
                headers: &[],
                id: "",
                client_time_ms: 0,
                event: None,
                data: b"hello",
            });
        }
        let producer =
            ProducerAdvanced { r#ref: 0, id: "p".into(), epoch: 1, seq: 2, payload_crc: 3 };
        let place = FramePlace {
            run_no: RunNo(5),
            first_seq: Seq(7),
            time_ms: 1_700_000_000_000,
            flags: 0,
            chain: Chain::start(RunUid([1; 16])),
        };
        builder.finish(&place, &Effects { producer: Some(producer), ..Default::default() })
    }

    #[test]
    fn a_frame_reads_back_as_it_was_built() {
        let built = frame();
        let read = Frame::decode(built.bytes()).expect("sound");
        assert_eq!(read, built);
        assert_eq!(read.next_seq(), Seq(10));
        assert_eq!(read.effects().expect("effects").producer.expect("producer").id, "p");
        assert_eq!(wire::skim_all(read.records_slice()).count(), 3);
    }

    #[test]
    fn every_flipped_bit_but_those_of_the_chain_is_noticed() {
        let built = frame();
        for bit in 0..built.bytes().len() * 8 {
            let mut bytes = built.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = Frame::decode(&bytes.into());
            let in_chain = (8..12).contains(&(bit / 8));
            // The chain is held by the frame before and by the CRC of the block around the frame.
            assert_eq!(found.is_ok(), in_chain, "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn every_wrong_byte_but_those_of_the_chain_is_found_and_the_frame_told() {
        let built = frame();
        let behind = [7; 40];
        for at in (0..built.bytes().len()).filter(|at| !(8..12).contains(at)) {
            for bits in [1, 2, 16, 128, 255, 0x5a] {
                let mut bytes = built.bytes().to_vec();
                bytes[at] ^= bits;
                bytes.extend_from_slice(&behind);
                let mended = Frame::mended(&bytes.into());
                let expected = Some((built.clone(), WrongByte { at, bits }));
                assert_eq!(mended, expected, "byte {at}, bits {bits:#x}");
            }
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let built = frame();
        for len in 0..built.bytes().len() {
            assert!(Frame::decode(&built.bytes().slice(..len)).is_err(), "cut to {len} bytes");
        }
    }
}
