//! Messages that could mean something, and bytes that cannot.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::server::Random;

/// Names that calls have in common, so that they meet.
const WORDS: [&str; 14] =
    ["a", "b", "c", "out", "in", "work", "worker", "$run", "", "m1", "\u{0}", "*", "cmF3", "tag"];
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    3,
    7,
    100,
    1 << 20,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];
/// Fields of a message, mostly.
const FIELDS: u64 = 12;
const DEPTH_MAX: u32 = 4;

/// A message: nothing but bytes, or fields of any kind, some of them cut short.
pub(crate) fn message(random: &mut Random) -> Bytes {
    let mut out = BytesMut::new();
    match random.below(8) {
        0 => out.extend_from_slice(&random.bytes(200)),
        1 => {
            fields(random, &mut out, 0);
            let len = out.len() as u64;
            out.truncate(random.below(len + 1) as usize);
        }
        2 => {
            fields(random, &mut out, 0);
            if !out.is_empty() {
                let at = random.below(out.len() as u64) as usize;
                out[at] ^= 1 << random.below(8);
            }
        }
        _ => {
            // Most messages begin with the name of a run.
            string(random, &mut out, 1);
            fields(random, &mut out, 0);
        }
    }
    out.freeze()
}

fn fields(random: &mut Random, out: &mut BytesMut, depth: u32) {
    for _ in 0..random.below(5) {
        let number = match random.below(20) {
            0 => 1 + random.below((1 << 29) - 1) as u32,
            _ => 1 + random.below(FIELDS) as u32,
        };
        match random.below(10) {
            0..4 => {
                encode_key(number, WireType::Varint, out);
                encode_varint(random.pick(&NUMBERS), out);
            }
            4..7 => string(random, out, number),
            7 => {
                encode_key(number, WireType::LengthDelimited, out);
                let bytes = random.bytes(64);
                encode_varint(bytes.len() as u64, out);
                out.extend_from_slice(&bytes);
            }
            8 if depth < DEPTH_MAX => {
                let mut inner = BytesMut::new();
                fields(random, &mut inner, depth + 1);
                encode_key(number, WireType::LengthDelimited, out);
                // Some lengths lie.
                let lie = if random.below(30) == 0 { random.pick(&NUMBERS) } else { 0 };
                encode_varint((inner.len() as u64).wrapping_add(lie), out);
                out.extend_from_slice(&inner);
            }
            8 => deep(random, out, number),
            _ => {
                encode_key(number, WireType::SixtyFourBit, out);
                out.put_u64_le(random.next());
            }
        }
    }
}

fn string(random: &mut Random, out: &mut BytesMut, number: u32) {
    let word = match random.below(40) {
        0 => "x".repeat(random.below(2_000) as usize),
        _ => random.pick(&WORDS).to_owned(),
    };
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(word.len() as u64, out);
    out.extend_from_slice(word.as_bytes());
}

/// A message in a message, very often.
fn deep(random: &mut Random, out: &mut BytesMut, number: u32) {
    let mut inner = BytesMut::new();
    for _ in 0..random.below(300) {
        let mut outer = BytesMut::new();
        encode_key(number, WireType::LengthDelimited, &mut outer);
        encode_varint(inner.len() as u64, &mut outer);
        outer.extend_from_slice(&inner);
        inner = outer;
    }
    out.extend_from_slice(&inner);
}
