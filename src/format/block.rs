//! A commit block: one group commit, in a journal slot or a manifest.
//!
//! Starts at a multiple of 4 KiB, ends at one, never spans files; payload ≤ 8 MiB.
//! ```text
//!   0  4 magic "BLK1"          4  4 header_crc (salt, bytes 8..64)
//!   8  8 file_seq             16  8 block_no (dense over the life of the store)
//!  24  8 durable_block_no (every block below this number was durable when this one was written)
//!  32  4 prev_crc             36  4 payload_len     40  4 payload_crc (salt, block_no, payload as stored)
//!  44  4 frames               48  8 clock_ms (non-decreasing)          56  4 incarnation, low half
//!  60  1 codec (0 none)       61  1 flags: 1 idle mark, 2 clean shutdown, 8 recovered copy
//!  62  2 mask
//!  64  … payload, zero padding, and in the last 16 bytes: block_no, header_crc, magic "1KLB"
//! ```
//! `durable_block_no` is an exclusive end, like every such number here.
//!
//! **Mask.** No 512-byte sector that holds header, payload or trailer bytes is all zero on disk, nor
//! would be if one byte of it were wrong: it has two bytes that are not zero, or, if it holds one byte,
//! two bits. If the payload has a sector that has not, it is XOR-ed with a stream generated from
//! (mask, block_no); the first mask that works is stored, 0 means as is. Slots are zero-filled, so a zero sector
//! inside a block proves that the sector was never written: the block is torn. Without the mask,
//! user data full of zeros would make torn and damaged look the same.

use bytes::Bytes;

use super::{
    Damage, PAGE_BYTES, SECTOR_BYTES, crc_of, get_u16, get_u32, get_u64, is_zero, put_u16, put_u32,
    put_u64,
    syndrome::{WrongByte, wrong_byte, wrong_bytes},
};
use crate::{
    record::BLOCK_PAYLOAD_MAX,
    sabotage::{self, Bug},
};

/// Bytes before the payload.
pub const BLOCK_HEADER_BYTES: usize = 64;
/// Bytes at the very end of a block.
pub const BLOCK_TRAILER_BYTES: usize = 16;

/// An empty block, written when the log falls idle: it proves that the block before was durable.
pub const FLAG_IDLE: u8 = 1;
/// The last block before an orderly exit: nothing is written after it.
pub const FLAG_CLEAN: u8 = 2;
/// A copy made by recovery of a block whose durability was in doubt.
pub const FLAG_RECOVERED: u8 = 8;
const FLAGS_KNOWN: u8 = FLAG_IDLE | FLAG_CLEAN | FLAG_RECOVERED;

const MAGIC: [u8; 4] = *b"BLK1";
const TRAILER_MAGIC: [u8; 4] = *b"1KLB";
const CODEC_NONE: u8 = 0;

/// Bytes on disk of a block with `payload_len` bytes of payload.
pub const fn block_bytes(payload_len: usize) -> usize {
    (BLOCK_HEADER_BYTES + payload_len + BLOCK_TRAILER_BYTES).next_multiple_of(PAGE_BYTES)
}

/// The fields of a block's header that describe where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// CRC of the header: what the next block calls `prev_crc`.
    pub header_crc: u32,
    /// Use of the file it stands in.
    pub file_seq: u64,
    /// Dense number.
    pub block_no: u64,
    /// Every block below was durable when this one was written.
    pub durable_block_no: u64,
    /// `header_crc` of the block before.
    pub prev_crc: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// CRC of the payload as stored.
    pub payload_crc: u32,
    /// Frames in the payload.
    pub frames: u32,
    /// Server time, milliseconds since the Unix epoch; never decreases.
    pub clock_ms: u64,
    /// Low half of the incarnation that wrote it.
    pub incarnation: u32,
    /// `FLAG_*`.
    pub flags: u8,
    /// Mask of the payload; 0 is none.
    pub mask: u16,
}

impl BlockHeader {
    /// Bytes the block takes on disk.
    pub fn disk_bytes(&self) -> usize {
        block_bytes(self.payload_len as usize)
    }
}

/// A block whose CRCs hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its header.
    pub header: BlockHeader,
    /// Its payload, unmasked.
    pub payload: Bytes,
}

/// What a block about to be written says of itself.
#[derive(Debug, Clone, Copy)]
pub struct BlockDraft {
    /// Salt of the file's use.
    pub salt: u64,
    /// Use of the file.
    pub file_seq: u64,
    /// Its number.
    pub block_no: u64,
    /// Every block below is durable.
    pub durable_block_no: u64,
    /// `header_crc` of the block before.
    pub prev_crc: u32,
    /// Server time, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Low half of the incarnation.
    pub incarnation: u32,
    /// `FLAG_*`.
    pub flags: u8,
}

/// Writes a block over `out` and returns its header.
///
/// # Panics
/// If the pieces are more than [`BLOCK_PAYLOAD_MAX`] bytes together.
pub fn encode<'a>(
    draft: &BlockDraft,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> BlockHeader {
    out.clear();
    out.resize(BLOCK_HEADER_BYTES, 0);
    let mut frames = 0;
    for piece in pieces {
        out.extend_from_slice(piece);
        frames += 1;
    }
    let payload_len = out.len() - BLOCK_HEADER_BYTES;
    assert!(payload_len <= BLOCK_PAYLOAD_MAX, "a block of {payload_len} bytes was put together");
    out.resize(block_bytes(payload_len), 0);
    out[..4].copy_from_slice(&MAGIC);
    let trailer = out.len() - BLOCK_TRAILER_BYTES;
    put_u64(out, trailer, draft.block_no);
    out[trailer + 12..].copy_from_slice(&TRAILER_MAGIC);

    let mask = hide_zero_sectors(out, payload_len, draft.block_no);
    let payload_crc = payload_crc(draft.salt, draft.block_no, payload_of(out, payload_len));
    put_u64(out, 8, draft.file_seq);
    put_u64(out, 16, draft.block_no);
    put_u64(out, 24, draft.durable_block_no);
    put_u32(out, 32, draft.prev_crc);
    put_u32(out, 36, payload_len as u32);
    put_u32(out, 40, payload_crc);
    put_u32(out, 44, frames);
    put_u64(out, 48, draft.clock_ms);
    put_u32(out, 56, draft.incarnation);
    out[60] = CODEC_NONE;
    out[61] = draft.flags;
    put_u16(out, 62, mask);
    let header_crc = header_crc(draft.salt, out);
    put_u32(out, 4, header_crc);
    put_u32(out, trailer + 8, header_crc);
    read_fields(out)
}

/// Masks the payload until every sector with content is told from one that was never written, also if
/// one byte of it is damaged; returns the mask.
fn hide_zero_sectors(block: &mut [u8], payload_len: usize, block_no: u64) -> u16 {
    let mut mask = 0u16;
    if sabotage::is(Bug::NoMask) {
        return mask;
    }
    while !is_told_from_zeros(block, payload_len) {
        toggle_mask(payload_of_mut(block, payload_len), mask, block_no);
        mask = mask.checked_add(1).expect("of 65,535 random streams one hides every zero sector");
        toggle_mask(payload_of_mut(block, payload_len), mask, block_no);
    }
    mask
}

/// XORs the payload with the stream of (mask, block_no). Mask 0 is the identity.
fn toggle_mask(payload: &mut [u8], mask: u16, block_no: u64) {
    toggle_mask_from(payload, 0, mask, block_no);
}

/// XORs a part of the payload, beginning at `offset`, with the stream of (mask, block_no):
/// SplitMix64 (Steele, Lea, Flood 2014), little-endian, one output per eight bytes.
fn toggle_mask_from(part: &mut [u8], offset: u64, mask: u16, block_no: u64) {
    if mask == 0 {
        return;
    }
    let seed = block_no ^ (u64::from(mask) << 48);
    let mut word = offset / 8;
    let mut skip = (offset % 8) as usize;
    let mut rest = part;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at_mut(rest.len().min(8 - skip));
        let stream = split_mix(seed, word).to_le_bytes();
        chunk.iter_mut().zip(&stream[skip..]).for_each(|(byte, mask)| *byte ^= mask);
        (word, skip, rest) = (word + 1, 0, tail);
    }
}

/// Output number `n` of SplitMix64.
fn split_mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Takes the mask off a part of a block's payload that was read by itself; `offset` is where the
/// part begins in the payload.
pub fn unmask(part: &mut [u8], offset: u64, header: &BlockHeader) {
    toggle_mask_from(part, offset, header.mask, header.block_no);
}

/// Whether a sector that holds header, payload or trailer bytes is all zero.
fn has_zero_sector(block: &[u8], payload_len: usize) -> bool {
    let content_sectors = (BLOCK_HEADER_BYTES + payload_len).div_ceil(SECTOR_BYTES);
    let last = block.len() / SECTOR_BYTES - 1;
    block
        .chunks(SECTOR_BYTES)
        .enumerate()
        .any(|(n, sector)| (n < content_sectors || n == last) && is_zero(sector))
}

/// Whether every sector that holds header, payload or trailer bytes has more that is not zero than a
/// wrong byte could hide.
fn is_told_from_zeros(block: &[u8], payload_len: usize) -> bool {
    let (payload_end, last) = (BLOCK_HEADER_BYTES + payload_len, block.len() / SECTOR_BYTES - 1);
    block.chunks(SECTOR_BYTES).enumerate().all(|(n, sector)| {
        let content = payload_end.saturating_sub(n * SECTOR_BYTES);
        if content == 0 && n != last {
            return true;
        }
        let mut set = sector.iter().filter(|byte| **byte != 0);
        match (set.next(), set.next()) {
            (Some(_), Some(_)) => true,
            // The last byte of the payload stands alone. No mask makes two of it.
            (Some(byte), None) => content == 1 && 2 <= byte.count_ones(),
            (None, _) => false,
        }
    })
}

fn payload_of(block: &[u8], payload_len: usize) -> &[u8] {
    &block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + payload_len]
}

fn payload_of_mut(block: &mut [u8], payload_len: usize) -> &mut [u8] {
    &mut block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + payload_len]
}

fn payload_crc(salt: u64, block_no: u64, stored: &[u8]) -> u32 {
    crc_of(&[&salt.to_le_bytes(), &block_no.to_le_bytes(), stored])
}

fn header_crc(salt: u64, block: &[u8]) -> u32 {
    crc_of(&[&salt.to_le_bytes(), &block[8..BLOCK_HEADER_BYTES]])
}

fn read_fields(bytes: &[u8]) -> BlockHeader {
    BlockHeader {
        header_crc: get_u32(bytes, 4),
        file_seq: get_u64(bytes, 8),
        block_no: get_u64(bytes, 16),
        durable_block_no: get_u64(bytes, 24),
        prev_crc: get_u32(bytes, 32),
        payload_len: get_u32(bytes, 36),
        payload_crc: get_u32(bytes, 40),
        frames: get_u32(bytes, 44),
        clock_ms: get_u64(bytes, 48),
        incarnation: get_u32(bytes, 56),
        flags: bytes[61],
        mask: get_u16(bytes, 62),
    }
}

/// Reads the header that `bytes` start with, if its magic number and CRC hold under `salt`.
pub fn header(bytes: &[u8], salt: u64) -> Option<BlockHeader> {
    let bytes = bytes.get(..BLOCK_HEADER_BYTES)?;
    let is_sound =
        get_u32(bytes, 4) == header_crc(salt, bytes) || sabotage::is(Bug::IgnoreHeaderCrc);
    (bytes[..4] == MAGIC && is_sound).then(|| read_fields(bytes))
}

/// The header that `bytes` would start with if one byte of it were another one, and which.
pub fn mended_header(bytes: &[u8], salt: u64) -> Option<(BlockHeader, WrongByte)> {
    let mut fixed: [u8; BLOCK_HEADER_BYTES] = bytes.get(..BLOCK_HEADER_BYTES)?.try_into().ok()?;
    let difference = get_u32(&fixed, 4) ^ header_crc(salt, &fixed);
    let wrong = match (difference, WrongByte::of_crc(difference)) {
        (0, _) => WrongByte::of_crc(u32::from_le_bytes(MAGIC) ^ get_u32(&fixed, 0))?,
        (_, Some(wrong)) => wrong.behind(4),
        (_, None) => wrong_byte(difference, BLOCK_HEADER_BYTES - 8)?.behind(8),
    };
    fixed[wrong.at] ^= wrong.bits;
    header(&fixed, salt).map(|header| (header, wrong))
}

/// The CRC that a block's header should have; 0 of bytes that are too few.
pub fn header_crc_of(bytes: &[u8], salt: u64) -> u32 {
    bytes.get(..BLOCK_HEADER_BYTES).map_or(0, |bytes| header_crc(salt, bytes))
}

/// The CRC that a payload, as it is stored, should have.
pub fn payload_crc_of(stored: &[u8], header: &BlockHeader, salt: u64) -> u32 {
    payload_crc(salt, header.block_no, stored)
}

/// The bytes of a payload, as it is stored, of which each by itself explains why its CRC does not hold.
pub fn wrong_in_payload(
    stored: &[u8],
    header: &BlockHeader,
    salt: u64,
) -> impl Iterator<Item = WrongByte> {
    let difference = header.payload_crc ^ payload_crc(salt, header.block_no, stored);
    wrong_bytes(difference, stored.len())
}

/// The block that is expected at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Salt of the file's use.
    pub salt: u64,
    /// Use of the file.
    pub file_seq: u64,
    /// Its number.
    pub block_no: u64,
    /// `header_crc` of the block before.
    pub prev_crc: u32,
}

/// What stands where a block is expected: rows 2 to 8 and 10 of the table in
/// [`verdict`](super::verdict), each looking at these bytes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing was written here.
    Absent,
    /// A block was being written when the power went: some of its sectors are missing.
    Torn,
    /// All of it was written, and it was damaged later.
    Corrupt(Damage),
    /// The block.
    Block(Block),
}

/// Looks at the bytes from a block's place to the end of its file.
pub fn inspect(bytes: &[u8], expected: &Expected) -> Found {
    if bytes.len() < PAGE_BYTES || is_zero(&bytes[..SECTOR_BYTES]) {
        return Found::Absent;
    }
    let Some(header) = header(bytes, expected.salt) else {
        // A process killed while it wrote leaves a part that may end inside a sector. A whole
        // block always has more than its first sector.
        return match is_zero(&bytes[SECTOR_BYTES..PAGE_BYTES]) {
            true => Found::Torn,
            false => Found::Corrupt(Damage::HeaderCrc),
        };
    };
    if let Some(damage) = misplaced(&header, expected) {
        return Found::Corrupt(damage);
    }
    let payload_len = header.payload_len as usize;
    if BLOCK_PAYLOAD_MAX < payload_len || bytes.len() < header.disk_bytes() {
        let available = bytes.len().min(BLOCK_PAYLOAD_MAX) as u64;
        return Found::Corrupt(Damage::Length { len: payload_len as u64, available });
    }
    let block = &bytes[..header.disk_bytes()];
    match content_damage(block, &header, expected.salt) {
        Some(damage) if sabotage::is(Bug::TornIsDamaged) => Found::Corrupt(damage),
        Some(_) if sabotage::is(Bug::DamagedIsTorn) => Found::Torn,
        Some(_) if has_zero_sector(block, payload_len) || is_cut_short(block) => Found::Torn,
        Some(damage) => Found::Corrupt(damage),
        None => Found::Block(Block { header, payload: unmasked(block, &header) }),
    }
}

/// Whether the write ended before the block did. The last byte is that of a magic number, which no
/// single flipped bit makes zero.
fn is_cut_short(block: &[u8]) -> bool {
    block.last() == Some(&0)
}

fn misplaced(header: &BlockHeader, expected: &Expected) -> Option<Damage> {
    [
        ("file_seq", header.file_seq, expected.file_seq),
        ("block_no", header.block_no, expected.block_no),
        ("prev_crc", u64::from(header.prev_crc), u64::from(expected.prev_crc)),
    ]
    .into_iter()
    .filter(|(what, ..)| *what != "prev_crc" || !sabotage::is(Bug::IgnorePrevCrc))
    .filter(|(what, ..)| *what != "file_seq" || !sabotage::is(Bug::IgnoreFileSeq))
    .find(|(_, found, expected)| found != expected)
    .map(|(what, found, expected)| Damage::Misplaced { what, found, expected })
}

fn content_damage(block: &[u8], header: &BlockHeader, salt: u64) -> Option<Damage> {
    let payload_len = header.payload_len as usize;
    let payload_end = BLOCK_HEADER_BYTES + payload_len;
    let trailer = block.len() - BLOCK_TRAILER_BYTES;
    let crc = payload_crc(salt, header.block_no, payload_of(block, payload_len));
    if crc != header.payload_crc && !sabotage::is(Bug::IgnorePayloadCrc) {
        return Some(Damage::ContentCrc);
    }
    let is_ended = get_u64(block, trailer) == header.block_no
        && get_u32(block, trailer + 8) == header.header_crc
        && block[trailer + 12..] == TRAILER_MAGIC;
    if !is_ended && !sabotage::is(Bug::IgnoreTrailer) {
        return Some(Damage::Trailer);
    }
    if !is_zero(&block[payload_end..trailer]) {
        return Some(Damage::Padding);
    }
    if block[60] != CODEC_NONE {
        return Some(Damage::Unknown { what: "block codec", found: u64::from(block[60]) });
    }
    if header.flags & !FLAGS_KNOWN != 0 {
        return Some(Damage::Unknown { what: "block flags", found: u64::from(header.flags) });
    }
    None
}

fn unmasked(block: &[u8], header: &BlockHeader) -> Bytes {
    let mut payload = payload_of(block, header.payload_len as usize).to_vec();
    toggle_mask(&mut payload, header.mask, header.block_no);
    payload.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAFT: BlockDraft = BlockDraft {
        salt: 0x1234_5678_9abc_def0,
        file_seq: 3,
        block_no: 17,
        durable_block_no: 17,
        prev_crc: 99,
        clock_ms: 1_700_000_000_000,
        incarnation: 2,
        flags: 0,
    };
    const EXPECTED: Expected =
        Expected { salt: DRAFT.salt, file_seq: 3, block_no: 17, prev_crc: 99 };

    fn block(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&DRAFT, [payload], &mut out);
        out
    }

    #[test]
    fn blocks_of_every_size_read_back_as_written() {
        let sizes = (0..700).chain(3_900..4_200).chain([65_536, BLOCK_PAYLOAD_MAX]);
        for len in sizes {
            let payload: Vec<u8> = (0..len).map(|n| (n * 7 + n / 256) as u8).collect();
            let bytes = block(&payload);
            assert_eq!(bytes.len() % PAGE_BYTES, 0);
            match inspect(&bytes, &EXPECTED) {
                Found::Block(found) => assert_eq!(&found.payload[..], &payload[..]),
                other => panic!("{len} bytes: {other:?}"),
            }
        }
    }

    #[test]
    fn every_wrong_byte_of_a_header_is_found_and_the_header_told() {
        let bytes = block(b"payload");
        let sound = header(&bytes, DRAFT.salt).expect("sound");
        for at in 0..BLOCK_HEADER_BYTES {
            for bits in 1..=255 {
                let mut damaged = bytes[..BLOCK_HEADER_BYTES].to_vec();
                damaged[at] ^= bits;
                let mended = mended_header(&damaged, DRAFT.salt);
                assert_eq!(mended, Some((sound, WrongByte { at, bits })));
            }
        }
        assert_eq!(mended_header(&[0; BLOCK_HEADER_BYTES], DRAFT.salt), None);
    }

    #[test]
    fn a_payload_of_zeros_leaves_no_sector_zero() {
        for len in [1, 448, 449, 4_000, 4_016, 4_017, 100_000] {
            let bytes = block(&vec![0; len]);
            assert!(!has_zero_sector(&bytes, len), "{len} zeros");
            match inspect(&bytes, &EXPECTED) {
                Found::Block(found) => assert_eq!(&found.payload[..], &vec![0; len][..]),
                other => panic!("{len} zeros: {other:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_byte_does_not_make_a_sector_look_as_if_it_was_never_written() {
        // Every place and bit of the only bit that is set in a whole sector, and in the last part of
        // one; every last byte that stands alone; every length of zeros.
        let one_bit = [448..960, 960..1_100].into_iter().flat_map(|sector| {
            (sector.start * 8..sector.end * 8).map(move |bit| {
                let mut payload = vec![b'x'; 1_100];
                payload[sector.clone()].fill(0);
                payload[bit / 8] = 1 << (bit % 8);
                payload
            })
        });
        let alone = (0..=u8::MAX).map(|last| [&[b'x'; 448][..], &[last]].concat());
        let zeros = (1..1_600).map(|len| vec![0; len]);
        for payload in one_bit.chain(alone).chain(zeros) {
            let mut bytes = block(&payload);
            let end = BLOCK_HEADER_BYTES + payload.len();
            for at in (0..end).filter(|at| bytes[*at] != 0).collect::<Vec<_>>() {
                let sector = at / SECTOR_BYTES * SECTOR_BYTES;
                if end - sector == 1 {
                    // A byte by itself cannot be told if it is lost, but if a bit of it is.
                    assert!(2 <= bytes[at].count_ones());
                    continue;
                }
                let byte = std::mem::take(&mut bytes[at]);
                assert!(!is_zero(&bytes[sector..sector + SECTOR_BYTES]), "without byte {at}");
                bytes[at] = byte;
            }
        }
    }

    #[test]
    fn any_part_of_a_masked_payload_can_be_read_by_itself() {
        let payload = vec![0; 1_500];
        let bytes = block(&payload);
        let header = header(&bytes, DRAFT.salt).expect("sound");
        assert_ne!(header.mask, 0);
        for from in 0..40 {
            for to in [from, from + 1, from + 7, from + 8, from + 9, 1_500] {
                let mut part = bytes[BLOCK_HEADER_BYTES + from..BLOCK_HEADER_BYTES + to].to_vec();
                unmask(&mut part, from as u64, &header);
                assert!(is_zero(&part), "{from}..{to}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_corrupt_and_never_torn() {
        // A sector with one bit, in the middle and as the last byte of the payload.
        let (mut one_bit, mut last_bit) = ([0; 3_000], [b'x'; 449]);
        (one_bit[1_700], last_bit[448]) = (0x10, 0x01);
        let payloads: [&[u8]; 6] =
            [b"", b"short", &[0; 5_000], &[b'x'; 3_000], &one_bit, &last_bit];
        for payload in payloads {
            let sound = block(payload);
            for bit in 0..sound.len() * 8 {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let found = inspect(&bytes, &EXPECTED);
                assert!(matches!(found, Found::Corrupt(_)), "bit {bit}: {found:?}");
            }
        }
    }

    #[test]
    fn every_subset_of_missing_sectors_is_torn_or_absent() {
        // 9 sectors of payload, 16 in the block: 8 KiB. Sectors of pure padding are zero anyway.
        let payload = vec![b'x'; 4_500];
        let sound = block(&payload);
        let sectors = sound.len() / SECTOR_BYTES;
        let content: Vec<usize> =
            (0..sectors).filter(|n| !is_zero(&sound[n * SECTOR_BYTES..][..SECTOR_BYTES])).collect();
        for subset in 1u32..1 << content.len() {
            let mut bytes = sound.clone();
            for (bit, sector) in content.iter().enumerate() {
                if subset & (1 << bit) != 0 {
                    bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
                }
            }
            let expected = if subset & 1 != 0 { Found::Absent } else { Found::Torn };
            assert_eq!(inspect(&bytes, &EXPECTED), expected, "missing {subset:b}");
        }
    }

    #[test]
    fn every_part_that_a_killed_write_leaves_is_torn_or_absent() {
        for payload in [&b""[..], &[b'x'; 4_500]] {
            let sound = block(payload);
            for len in 0..sound.len() {
                let mut bytes = sound.clone();
                bytes[len..].fill(0);
                let expected = if len == 0 { Found::Absent } else { Found::Torn };
                assert_eq!(inspect(&bytes, &EXPECTED), expected, "{len} bytes");
            }
        }
    }

    #[test]
    fn a_block_of_another_place_salt_or_past_is_refused() {
        let bytes = block(b"data");
        for wrong in [
            Expected { salt: 1, ..EXPECTED },
            Expected { file_seq: 4, ..EXPECTED },
            Expected { block_no: 18, ..EXPECTED },
            Expected { prev_crc: 98, ..EXPECTED },
        ] {
            assert!(matches!(inspect(&bytes, &wrong), Found::Corrupt(_)), "{wrong:?}");
        }
    }

    #[test]
    fn a_length_past_the_end_is_refused_before_anything_is_allocated() {
        let bytes = block(&[1; 9_000]);
        let found = inspect(&bytes[..8_192], &EXPECTED);
        assert!(matches!(found, Found::Corrupt(Damage::Length { .. })), "{found:?}");
    }
}
