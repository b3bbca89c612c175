//! Torn or corrupt: whatever a power cut leaves of a slot's sectors, the log is what was written
//! up to its end, and a block that was durable is never given up.

#![no_main]

use braidlog::format::{
    PAGE_BYTES, SECTOR_BYTES,
    block::{self, BlockDraft, Expected},
    verdict::{self, Place, Verdict},
};
use braidlog_fuzz::{DRAFT, EXPECTED, SALT, is_zero};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (next_slot_first, previous_clean) in
        [(None, false), (None, true), (Some(EXPECTED.block_no + 1), false)]
    {
        let place = Place { bytes: data, expected: EXPECTED, next_slot_first, previous_clean };
        verdict::judge(&place);
    }
    cut(data);
});

/// Each block takes three bytes that say how long it is, which block was durable, and which
/// sectors are missing; then its payload.
fn cut(data: &[u8]) {
    let (mut slot, mut payloads, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut headers = Vec::<(usize, block::BlockHeader)>::new();
    let mut rest = data;
    while let Some((&[len, durable, lost], behind)) = rest.split_first_chunk() {
        let (payload, behind) = behind.split_at(behind.len().min(usize::from(len) * 8));
        rest = behind;
        let n = headers.len() as u64;
        let draft = BlockDraft {
            block_no: DRAFT.block_no + n,
            durable_block_no: (DRAFT.block_no + n).saturating_sub(u64::from(durable % 4)),
            prev_crc: headers.last().map_or(DRAFT.prev_crc, |(_, header)| header.header_crc),
            ..DRAFT
        };
        let mut out = Vec::new();
        headers.push((slot.len(), block::encode(&draft, [payload], &mut out)));
        for (sector, at) in (0..out.len()).step_by(SECTOR_BYTES).enumerate() {
            if 1 < lost && lost & 1 << (sector % 8) != 0 {
                missing.push(slot.len() + at);
            }
        }
        payloads.push(payload);
        slot.extend(out);
    }
    slot.extend([0; PAGE_BYTES]);
    let written = slot.clone();
    missing.iter().for_each(|&at| slot[at..at + SECTOR_BYTES].fill(0));

    let (mut at, mut n, mut prev_crc) = (0, 0, DRAFT.prev_crc);
    loop {
        let block_no = DRAFT.block_no + n as u64;
        let expected = Expected { salt: SALT, file_seq: DRAFT.file_seq, block_no, prev_crc };
        let bytes = &slot[at..];
        let place = Place { bytes, expected, next_slot_first: None, previous_clean: false };
        // Headers lie in the first sector of their block.
        let proof = headers.iter().any(|(at, header)| {
            !is_zero(&slot[*at..at + SECTOR_BYTES]) && block_no < header.durable_block_no
        });
        match verdict::judge(&place) {
            Verdict::Accept(block) => {
                assert_eq!((block.header, &block.payload[..]), (headers[n].1, payloads[n]));
                let end = at + block.header.disk_bytes();
                assert_eq!(slot[at..end], written[at..end]);
                (at, n, prev_crc) = (end, n + 1, block.header.header_crc);
            }
            Verdict::End { torn } => {
                assert!(!proof, "block {n} was durable and is given up");
                assert_eq!(torn, !is_zero(&slot[at..at + SECTOR_BYTES]));
                assert!(n == headers.len() || slot[at..] != written[at..]);
                return;
            }
            Verdict::Corrupt(damage) => {
                assert!(proof, "block {n} was cut, not damaged: {damage}");
                return;
            }
            Verdict::NextSlot => panic!("there is no other slot"),
        }
    }
}
