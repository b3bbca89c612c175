//! Packs: pages, blocks, directories and names. What decodes encodes to the same, and lengths are
//! checked before anything is allocated.

#![no_main]

use braidlog::format::{
    PAGE_BYTES,
    pack::{self, BlockPlace},
};
use braidlog_fuzz::{SALT, crc, put};
use libfuzzer_sys::fuzz_target;

const STORE_UUID: [u8; 16] = *b"\xA0\xA1\xA2\xA3\xA4\xA5\xA6\xA7\xA8\xA9\xAA\xAB\xAC\xAD\xAE\xAF";
const PLACE: BlockPlace =
    BlockPlace { salt: SALT, number: 0x0A0B_0C0D, position: pack::FIRST_BLOCK_AT };

fuzz_target!(|data: &[u8]| {
    pages(data);
    block(data);
    names(data);
    let directory = &data[..data.len() / pack::ENTRY_BYTES * pack::ENTRY_BYTES];
    for n in 0..directory.len() / pack::ENTRY_BYTES {
        let Ok(entry) = pack::decode_entry(directory, n) else { continue };
        let mut encoded = Vec::new();
        pack::encode_entry(&entry, &mut encoded);
        let stored = &directory[n * pack::ENTRY_BYTES..][..pack::ENTRY_BYTES];
        assert_eq!(encoded[..84], stored[..84]);
        let found = pack::entries_of(directory, entry.head.name_hash);
        assert!(found.end * pack::ENTRY_BYTES <= directory.len());
    }
});

/// The first page and the last, with magic and CRC put right.
fn pages(data: &[u8]) {
    for magic in [b"BLPACK01", b"BLPKFT01"] {
        let mut page = data[..data.len().min(124)].to_vec();
        page.resize(PAGE_BYTES, 0);
        put(&mut page, 0, magic);
        let sum = crc(&[&page[..124]]);
        put(&mut page, 124, &sum.to_le_bytes());
        if let Ok(header) = pack::decode_header(&page) {
            assert_eq!(pack::encode_header(&header), page);
        }
        // A length that may fit, and whatever there is.
        for bytes in [0, 2 * PAGE_BYTES as u64, 1 << 40, u64::MAX] {
            if let Ok(footer) = pack::decode_footer(&page, bytes) {
                assert_eq!(pack::encode_footer(&footer), page);
                _ = footer.check_index(data);
            }
        }
    }
}

/// A block as it is, and with magic, lengths and CRC put right.
fn block(data: &[u8]) {
    _ = pack::decode_block(&PLACE, data);
    if data.len() < pack::BLOCK_HEADER_BYTES {
        return;
    }
    let mut block = data.to_vec();
    let stored = (block.len() - pack::BLOCK_HEADER_BYTES) as u32;
    put(&mut block, 0, b"SBK1");
    put(&mut block, 16, &stored.to_le_bytes());
    let place = [PLACE.salt, PLACE.number, PLACE.position].map(u64::to_le_bytes);
    let sum = crc(&[place.as_flattened(), &block[8..]]);
    put(&mut block, 4, &sum.to_le_bytes());
    let Ok(raw) = pack::decode_block(&PLACE, &block) else { return };
    assert_eq!(pack::decode_head(&block).expect("it was read").raw_bytes(), raw.len());
    for (offset, len) in pack::described(&raw).unwrap_or_default() {
        _ = raw.slice(offset as usize..(offset + len) as usize);
    }
}

/// The names of a pack, with the CRC put right.
fn names(data: &[u8]) {
    _ = pack::decode_names(data, PLACE.number, STORE_UUID);
    let mut names = data.to_vec();
    names.resize(data.len().max(64), 0);
    put(&mut names, 0, b"BLNAME01");
    put(&mut names, 16, &PLACE.number.to_le_bytes());
    put(&mut names, 24, &STORE_UUID);
    let sum = crc(&[&names[..60], &names[64..]]);
    put(&mut names, 60, &sum.to_le_bytes());
    if let Ok(bloom) = pack::decode_names(&names, PLACE.number, STORE_UUID) {
        let _ = pack::may_hold(bloom, u64::MAX);
        assert_eq!(bloom, &names[64..]);
    }
}
