//! What the targets share: checksums that hold over whatever the fuzzer wrote.
//!
//! A fuzzer does not guess a CRC. Targets hand their input to a decoder twice: as it is, and with
//! lengths and checksums put right, so that what lies behind them is reached.

use braidlog::{
    format::{
        block::{BlockDraft, Expected, block_bytes},
        frame::Chain,
    },
    record::RunUid,
};

/// Salt of all blocks here; like the places below that of the golden files.
pub const SALT: u64 = 0x0123_4567_89AB_CDEF;

/// The run of the golden files that is created.
pub const RUN_UID: RunUid =
    RunUid(*b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1A\x1B\x1C\x1D\x1E\x1F");

/// A block's place.
pub const DRAFT: BlockDraft = BlockDraft {
    salt: SALT,
    file_seq: 9,
    block_no: 0x1_0000_0001,
    durable_block_no: 0x1_0000_0000,
    prev_crc: 0xDEAD_BEEF,
    clock_ms: 1_700_000_009_000,
    incarnation: 7,
    flags: 0,
};

/// The same place, for who reads it.
pub const EXPECTED: Expected =
    Expected { salt: SALT, file_seq: 9, block_no: DRAFT.block_no, prev_crc: DRAFT.prev_crc };

/// CRC-32 (IEEE) over several pieces.
pub fn crc(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

/// Writes a little-endian number over its place.
pub fn put(bytes: &mut [u8], at: usize, number: &[u8]) {
    bytes[at..at + number.len()].copy_from_slice(number);
}

/// Makes a frame of the bytes: length, CRC, version, and a chain that links to `before`.
pub fn seal_frame(bytes: &[u8], before: Chain) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    frame.resize(frame.len().max(48), 0);
    let len = frame.len() as u32 - 4;
    put(&mut frame, 0, &len.to_le_bytes());
    frame[12] = 1;
    put(&mut frame, 14, &[0, 0]);
    let sum = crc(&[&frame[..4], &frame[12..]]);
    put(&mut frame, 4, &sum.to_le_bytes());
    put(&mut frame, 8, &before.link(sum).0.to_le_bytes());
    frame
}

/// Makes a block of the bytes, a header and a payload: place, length, CRCs, padding, trailer.
pub fn seal_block(bytes: &[u8]) -> Vec<u8> {
    let mut block = bytes.to_vec();
    block.resize(block.len().max(64), 0);
    let payload_len = block.len() - 64;
    block.resize(block_bytes(payload_len), 0);
    put(&mut block, 0, b"BLK1");
    put(&mut block, 8, &EXPECTED.file_seq.to_le_bytes());
    put(&mut block, 16, &EXPECTED.block_no.to_le_bytes());
    put(&mut block, 32, &EXPECTED.prev_crc.to_le_bytes());
    put(&mut block, 36, &(payload_len as u32).to_le_bytes());
    let payload = &block[64..64 + payload_len];
    let sum = crc(&[&SALT.to_le_bytes(), &EXPECTED.block_no.to_le_bytes(), payload]);
    put(&mut block, 40, &sum.to_le_bytes());
    let sum = crc(&[&SALT.to_le_bytes(), &block[8..64]]);
    put(&mut block, 4, &sum.to_le_bytes());
    let trailer = block.len() - 16;
    put(&mut block, trailer, &EXPECTED.block_no.to_le_bytes());
    put(&mut block, trailer + 8, &sum.to_le_bytes());
    put(&mut block, trailer + 12, b"1KLB");
    block
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}
