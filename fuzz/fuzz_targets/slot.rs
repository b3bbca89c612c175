//! Header pages: what decodes encodes to the same bytes, and either copy suffices.

#![no_main]

use braidlog::format::{
    PAGE_BYTES,
    slot::{self, SlotKind},
};
use braidlog_fuzz::{crc, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (kind, magic) in [(SlotKind::Journal, b"BLJRNL01"), (SlotKind::Manifest, b"BLMANI01")] {
        _ = slot::decode(data, kind);
        let mut copy = data.to_vec();
        copy.resize(128, 0);
        put(&mut copy, 0, magic);
        let sum = crc(&[&copy[..124]]);
        put(&mut copy, 124, &sum.to_le_bytes());
        for at in [0, 2_048] {
            let mut page = vec![0; PAGE_BYTES];
            put(&mut page, at, &copy);
            let Ok(header) = slot::decode(&page, kind) else { continue };
            let encoded = slot::encode(&header);
            assert_eq!(slot::decode(&encoded, kind), Ok(header));
            assert_eq!(encoded[16..80], copy[16..80]);
            assert_eq!(encoded[..128], encoded[2_048..2_176]);
        }
    }
});
