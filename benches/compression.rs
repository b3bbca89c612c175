//! What the codecs make of packs' blocks: 64 KiB of frames of JSON chunks, as a model streams them,
//! and of one's own text.
//!
//! `cargo bench --bench compression` prints ratio and speed of every codec and level; the level in
//! `format::compress` was chosen by it.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and files")]

use std::{fs, hint::black_box, path::Path, time::Instant};

/// Raw bytes of a block.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes that are compressed for each figure.
const TOTAL_BYTES: usize = 64 << 20;

/// Blocks of records as frames hold them: a header of 48 bytes, of which twelve are random, and
/// the body.
fn blocks(body: impl Fn(u64) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut random = 1u64;
    let mut n = 0;
    (0..64)
        .map(|_| {
            let mut block = Vec::with_capacity(BLOCK_BYTES + 512);
            while block.len() < BLOCK_BYTES {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut header = [0; 48];
                header[4..12].copy_from_slice(&random.to_le_bytes());
                header[24..32].copy_from_slice(&u64::to_le_bytes(n));
                header[40..48].copy_from_slice(&u64::to_le_bytes(1_795_478_833_021 + n * 7));
                block.extend_from_slice(&header);
                block.extend_from_slice(&body(n));
                n += 1;
            }
            block
        })
        .collect()
}

fn report(
    name: &str,
    blocks: &[Vec<u8>],
    mut compress: impl FnMut(&[u8]) -> Vec<u8>,
    mut decompress: impl FnMut(&[u8]) -> Vec<u8>,
) {
    let raw: usize = blocks.iter().map(Vec::len).sum();
    let stored: Vec<Vec<u8>> = blocks.iter().map(|block| compress(block)).collect();
    let back = speed(raw, || stored.iter().for_each(|block| drop(black_box(decompress(block)))));
    let there = speed(raw, || blocks.iter().for_each(|block| drop(black_box(compress(block)))));
    let ratio = raw as f64 / stored.iter().map(Vec::len).sum::<usize>() as f64;
    println!("  {name:8} ratio {ratio:5.2}   {there:5.0} MB/s, and back {back:5.0} MB/s");
}

/// Megabytes a second of something that goes through so many raw bytes.
fn speed(raw: usize, mut work: impl FnMut()) -> f64 {
    let rounds = TOTAL_BYTES.div_ceil(raw);
    let begin = Instant::now();
    (0..rounds).for_each(|_| work());
    (rounds * raw) as f64 / begin.elapsed().as_secs_f64() / 1e6
}

fn main() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/prose.txt");
    let text = fs::read_to_string(text).expect("the text of the tests");
    let lines: Vec<&str> = text.lines().collect();
    let line = |n: u64| lines[n as usize % lines.len()];
    let chunk = |n: u64| {
        let delta: String = line(n).chars().take(40).collect();
        let id = (n / 200).wrapping_mul(0x2545_f491_4f6c_dd1d);
        let chunk = serde_json::json!({
            "type": "text-delta", "id": format!("msg_{id:016x}"), "n": n, "delta": delta,
        });
        chunk.to_string().into_bytes()
    };
    for (name, blocks) in
        [("JSON chunks", blocks(chunk)), ("lines of text", blocks(|n| line(n).into()))]
    {
        println!("{name}:");
        let size = BLOCK_BYTES + 512;
        report("lz4", &blocks, lz4_flex::block::compress, |block| {
            lz4_flex::block::decompress(block, size).expect("compressed")
        });
        for level in [-20, -5, -1, 1, 2, 3, 4, 5, 6, 9] {
            let mut zstd = zstd::bulk::Compressor::new(level).expect("tables");
            let mut back = zstd::bulk::Decompressor::new().expect("tables");
            let compress = |block: &[u8]| zstd.compress(block).expect("compressed");
            report(&format!("zstd {level}"), &blocks, compress, |block| {
                back.decompress(block, size).expect("compressed")
            });
        }
    }
}
