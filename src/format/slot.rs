//! The header page of a slot-shaped file: a journal slot or a manifest.
//!
//! A 4 KiB page with two identical copies at 0 and 2,048, either of which suffices.
//! ```text
//!   0  8 magic "BLJRNL01" or "BLMANI01"      8  2 version   10 2 header_len = 128   12 4 flags = 0
//!  16  8 file_seq (never reused)            24  8 first_block_no
//!  32  4 prev_crc (header_crc of block first_block_no-1)    36  4 file size / 4096
//!  40 16 store_uuid       56  8 incarnation      64  8 salt (random per use)
//!  72  8 created_ms       80 44 zero            124  4 crc of 0..124
//! ```
//! `salt` seeds every CRC in the file: blocks of an earlier use are not sound here, and record
//! bytes that imitate a block header, on purpose or not, are never evidence.

use super::{
    Damage, FORMAT_VERSION, PAGE_BYTES, crc_of, get_u16, get_u32, get_u64, is_zero, put_u16,
    put_u32, put_u64,
};

/// Where the first block stands.
pub const FIRST_BLOCK_AT: usize = PAGE_BYTES;

const HEADER_LEN: usize = 128;
const SECOND_COPY_AT: usize = 2_048;

/// Which file the header belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A slot of the journal.
    Journal,
    /// A manifest.
    Manifest,
}

impl SlotKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Journal => *b"BLJRNL01",
            Self::Manifest => *b"BLMANI01",
        }
    }
}

/// What the header page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotHeader {
    /// Which file.
    pub kind: SlotKind,
    /// Number of this use of the file; never reused in a store.
    pub file_seq: u64,
    /// Number of the first block.
    pub first_block_no: u64,
    /// `header_crc` of the block before the first.
    pub prev_crc: u32,
    /// Size of the file in bytes, a multiple of 4 KiB.
    pub size: u64,
    /// The store.
    pub store_uuid: [u8; 16],
    /// The start of the store that wrote it.
    pub incarnation: u64,
    /// Seed of every CRC in the file.
    pub salt: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Writes the header page.
pub fn encode(header: &SlotHeader) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    page[..8].copy_from_slice(&header.kind.magic());
    put_u16(&mut page, 8, FORMAT_VERSION);
    put_u16(&mut page, 10, HEADER_LEN as u16);
    put_u64(&mut page, 16, header.file_seq);
    put_u64(&mut page, 24, header.first_block_no);
    put_u32(&mut page, 32, header.prev_crc);
    put_u32(&mut page, 36, (header.size / PAGE_BYTES as u64) as u32);
    page[40..56].copy_from_slice(&header.store_uuid);
    put_u64(&mut page, 56, header.incarnation);
    put_u64(&mut page, 64, header.salt);
    put_u64(&mut page, 72, header.created_ms);
    let crc = crc_of(&[&page[..124]]);
    put_u32(&mut page, 124, crc);
    page.copy_within(..HEADER_LEN, SECOND_COPY_AT);
    page
}

/// Reads a header page; the copy that is sound, the first if both are.
///
/// # Errors
/// What is wrong with the first copy, if neither is sound. A header whose version is newer is
/// refused as such.
pub fn decode(page: &[u8], kind: SlotKind) -> Result<SlotHeader, Damage> {
    if page.len() < PAGE_BYTES {
        return Err(Damage::Short);
    }
    decode_copy(&page[..HEADER_LEN], kind)
        .or_else(|damage| decode_copy(&page[SECOND_COPY_AT..][..HEADER_LEN], kind).or(Err(damage)))
}

fn decode_copy(copy: &[u8], kind: SlotKind) -> Result<SlotHeader, Damage> {
    if copy[..8] != kind.magic() {
        return Err(Damage::Magic);
    }
    if get_u32(copy, 124) != crc_of(&[&copy[..124]]) {
        return Err(Damage::HeaderCrc);
    }
    let found = get_u16(copy, 8);
    if found != FORMAT_VERSION {
        return Err(Damage::Version { found });
    }
    let (header_len, flags) = (get_u16(copy, 10), get_u32(copy, 12));
    if usize::from(header_len) != HEADER_LEN {
        return Err(Damage::Unknown { what: "header length", found: u64::from(header_len) });
    }
    if flags != 0 {
        return Err(Damage::Unknown { what: "slot flags", found: u64::from(flags) });
    }
    if !is_zero(&copy[80..124]) {
        return Err(Damage::Padding);
    }
    let mut store_uuid = [0; 16];
    store_uuid.copy_from_slice(&copy[40..56]);
    Ok(SlotHeader {
        kind,
        file_seq: get_u64(copy, 16),
        first_block_no: get_u64(copy, 24),
        prev_crc: get_u32(copy, 32),
        size: u64::from(get_u32(copy, 36)) * PAGE_BYTES as u64,
        store_uuid,
        incarnation: get_u64(copy, 56),
        salt: get_u64(copy, 64),
        created_ms: get_u64(copy, 72),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SlotHeader = SlotHeader {
        kind: SlotKind::Journal,
        file_seq: 9,
        first_block_no: 100,
        prev_crc: 7,
        size: 64 << 20,
        store_uuid: [3; 16],
        incarnation: 4,
        salt: 0xfeed,
        created_ms: 1_700_000_000_000,
    };

    #[test]
    fn either_copy_suffices() {
        let page = encode(&HEADER);
        assert_eq!(decode(&page, SlotKind::Journal), Ok(HEADER));
        for bit in 0..PAGE_BYTES * 8 {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&page, SlotKind::Journal), Ok(HEADER), "bit {bit}");
        }
    }

    #[test]
    fn both_copies_damaged_is_damage() {
        for at in 0..HEADER_LEN {
            let mut page = encode(&HEADER);
            page[at] ^= 1;
            page[SECOND_COPY_AT + at] ^= 1;
            assert!(decode(&page, SlotKind::Journal).is_err(), "byte {at}");
        }
        assert_eq!(decode(&encode(&HEADER), SlotKind::Manifest), Err(Damage::Magic));
        assert_eq!(decode(&[], SlotKind::Journal), Err(Damage::Short));
    }
}
