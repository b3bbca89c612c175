//! Blocks: what was written is read, what is missing is torn, what is changed is corrupt.

#![no_main]

use braidlog::format::{
    SECTOR_BYTES,
    block::{self, BlockDraft, Found},
};
use braidlog_fuzz::{DRAFT, EXPECTED, SALT, is_zero, seal_block};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&seal_block(data));
    if let Some((fault, payload)) = data.split_first_chunk() {
        check_written(*fault, payload);
    }
});

fn check(bytes: &[u8]) {
    let header = block::header(bytes, SALT);
    match block::inspect(bytes, &EXPECTED) {
        Found::Block(found) => {
            assert_eq!(Some(found.header), header);
            assert_eq!(found.payload.len(), found.header.payload_len as usize);
            check_encoded(&found);
        }
        Found::Torn => {
            let block = header.map_or(bytes, |header| &bytes[..header.disk_bytes()]);
            let is_cut_short = block.last() == Some(&0);
            assert!(is_cut_short || block.chunks(SECTOR_BYTES).any(is_zero));
        }
        Found::Absent | Found::Corrupt(_) => {}
    }
}

/// What was read is written so that it is read again.
fn check_encoded(found: &block::Block) {
    let header = &found.header;
    let draft = BlockDraft {
        salt: SALT,
        file_seq: header.file_seq,
        block_no: header.block_no,
        durable_block_no: header.durable_block_no,
        prev_crc: header.prev_crc,
        clock_ms: header.clock_ms,
        incarnation: header.incarnation,
        flags: header.flags,
    };
    let mut bytes = Vec::new();
    let written = block::encode(&draft, [&found.payload[..]], &mut bytes);
    match block::inspect(&bytes, &EXPECTED) {
        Found::Block(again) => {
            assert_eq!((again.header, &again.payload), (written, &found.payload))
        }
        other => panic!("just written: {other:?}"),
    }
}

/// A block as it is written, with one fault of the disk: a bit flipped or sectors missing.
fn check_written(fault: [u8; 4], payload: &[u8]) {
    let mut bytes = Vec::new();
    block::encode(&DRAFT, [payload], &mut bytes);
    let written = bytes.clone();
    let [kind, fault @ ..] = fault;
    let fault = fault.iter().fold(0, |value, &byte| value << 8 | usize::from(byte));
    if kind % 2 == 0 {
        let bit = fault % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = block::inspect(&bytes, &EXPECTED);
        assert!(matches!(found, Found::Corrupt(_)), "bit {bit}: {found:?}");
        return;
    }
    for (n, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
        if fault & 1 << (n % 24) != 0 {
            sector.fill(0);
        }
    }
    let found = block::inspect(&bytes, &EXPECTED);
    if bytes == written {
        assert!(matches!(found, Found::Block(_)), "whole: {found:?}");
    } else if is_zero(&bytes[..SECTOR_BYTES]) {
        assert_eq!(found, Found::Absent);
    } else {
        assert_eq!(found, Found::Torn);
    }
}
