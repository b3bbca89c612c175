//! Packs and segments.

use braidlog::{
    Codec,
    format::{
        Damage, PAGE_BYTES,
        compress::Compressor,
        frame::{Chain, Frame},
        manifest::{self, Edit, ListedPack},
        pack::{self, BlockPlace, Entry, PackFooter, PackHeader, PackKind},
        segment::{self, JournalPoint, Part, PartStream, SegmentHead, SegmentTail},
    },
    record::{Index, RunNo, Seq, StreamNo},
};
use bytes::Bytes;

use super::{
    CREATED_MS, FIRST_NO, FIRST_UID, SALT, STORE_UUID, appended, crc, created, golden, holds,
    is_zero, life, number,
};

const HEADER: PackHeader = PackHeader {
    number: 0x0A0B_0C0D,
    kind: PackKind::Own,
    store_uuid: STORE_UUID,
    salt: SALT,
    created_ms: CREATED_MS,
};
const FOOTER: PackFooter = PackFooter {
    number: HEADER.number,
    store_uuid: STORE_UUID,
    salt: SALT,
    index_at: 3 * PAGE_BYTES as u64,
    segments: 47,
    buckets: 1,
    directory_crc: 0xDEAD_BEEF,
    bloom_crc: 0xFEED_F00D,
    blocks: 2,
    raw_bytes: 0x0102_0304_0506,
    flushed_block: 0x1_0000_0001,
    run_counter: 7,
};
const PLACE: BlockPlace =
    BlockPlace { salt: SALT, number: HEADER.number, position: pack::FIRST_BLOCK_AT };
const NAME_HASH: u64 = 0x0123_4567_89AB_CDEF;
const HEAD: SegmentHead = SegmentHead {
    name_hash: NAME_HASH,
    run_no: RunNo(FIRST_NO),
    first_seq: Seq(0),
    end_seq: Seq(5),
    flushed: JournalPoint { block_no: 0x1_0000_0001, frame: 2 },
    is_first: true,
    is_deleted: false,
    is_pending: false,
    expires_ms: CREATED_MS + 1_000,
    raw_bytes: 777,
};
const ENTRIES: [Entry; 2] = [
    Entry { head: HEAD, block: 4_096, block_len: 1_000, offset: 777, len: 333 },
    Entry {
        head: SegmentHead {
            name_hash: u64::MAX,
            is_first: false,
            is_deleted: true,
            expires_ms: 0,
            ..HEAD
        },
        block: 8_192,
        block_len: 64,
        offset: 0,
        len: 40,
    },
];
const EDITS: [Edit; 5] = [
    Edit::PackAdded(ListedPack {
        number: HEADER.number,
        kind: PackKind::Own,
        bytes: 0x4_0000,
        segments: 47,
        raw_bytes: 0x8_0000,
        flushed_block: 0x1_0000_0001,
        created_ms: CREATED_MS,
    }),
    Edit::PackAdded(ListedPack {
        number: 1,
        kind: PackKind::Shared,
        bytes: 2,
        segments: 3,
        raw_bytes: 4,
        flushed_block: 5,
        created_ms: 6,
    }),
    Edit::PackDead { number: 1, raw_bytes: 3 },
    Edit::PackDropped(1),
    Edit::RunCounter(7),
];

/// Golden files of this module, and what writes them.
pub(super) const FILES: [(&str, super::Write); 9] = [
    ("frame-stub.bin", || stub().bytes().to_vec()),
    ("manifest-packs.bin", || manifest::encode(&EDITS)),
    ("pack-block-plain.bin", || block(Codec::None)),
    ("pack-directory.bin", directory),
    ("pack-footer.bin", || pack::encode_footer(&FOOTER)),
    ("pack-header.bin", || pack::encode_header(&HEADER)),
    ("pack-names.bin", || pack::encode_names(HEADER.number, STORE_UUID, &bloom())),
    ("run-state.bin", || created().0.to_bytes().to_vec()),
    ("segment.bin", || described(&tail())),
];

/// Golden files that must be read, and that a later version of a codec may write otherwise.
pub(super) const READ_ONLY: [(&str, super::Write); 2] =
    [("pack-block-lz4.bin", || block(Codec::Lz4)), ("pack-block-zstd.bin", || block(Codec::Zstd))];

fn stub() -> Frame {
    let [trims, closes, _] = life();
    closes.to_stub(Some(&trims.to_stub(None)))
}

fn tail() -> SegmentTail {
    let stream = |stream, first_index, count| PartStream {
        stream: StreamNo(stream),
        first_index: Index(first_index),
        count,
    };
    let part = |block, first_seq, streams: &[PartStream]| Part {
        block,
        block_len: if block == 0 { 0 } else { 1_000 },
        offset: 16,
        len: 300,
        count: streams.iter().map(|stream| stream.count).sum(),
        first_seq: Seq(first_seq),
        records_chain: Chain(0xCAFE_F00D),
        streams: streams.to_vec(),
    };
    SegmentTail {
        head: HEAD,
        run_uid: FIRST_UID,
        parts: vec![
            part(4_096, 0, &[stream(0, 0, 2), stream(1, 0, 1)]),
            part(0, 3, &[stream(1, 1, 2)]),
        ],
        state: Bytes::from_static(b"state"),
    }
}

fn described(tail: &SegmentTail) -> Vec<u8> {
    let mut out = Vec::new();
    segment::encode(tail, &mut out);
    out
}

/// Two frames, what describes them, and where that is.
fn raw() -> Vec<u8> {
    let mut raw = [created().1.bytes().to_vec(), appended().bytes().to_vec()].concat();
    let (offset, tail) = (raw.len() as u32, described(&tail()));
    raw.extend_from_slice(&tail);
    pack::put_described(&mut raw, &[(offset, tail.len() as u32)]);
    raw
}

fn block(codec: Codec) -> Vec<u8> {
    let mut out = Vec::new();
    pack::encode_block(&PLACE, &raw(), &mut Compressor::new(codec), &mut Vec::new(), &mut out);
    out
}

fn directory() -> Vec<u8> {
    let mut out = Vec::new();
    ENTRIES.iter().for_each(|entry| pack::encode_entry(entry, &mut out));
    out
}

fn bloom() -> Vec<u8> {
    pack::encode_bloom([NAME_HASH, u64::MAX].into_iter())
}

#[test]
fn the_first_and_the_last_page_of_a_pack_say_which_it_is() {
    let header = golden("pack-header.bin");
    assert_eq!(pack::decode_header(&header), Ok(HEADER));
    assert_eq!(&header[..8], b"BLPACK01");
    holds(&header, 8, &[(2, 1), (2, 128), (4, 1), (8, HEADER.number)]);
    assert_eq!(header[24..40], STORE_UUID);
    holds(&header, 40, &[(8, SALT), (8, CREATED_MS)]);

    let footer = golden("pack-footer.bin");
    let file_bytes = FOOTER.index_at + FOOTER.index_bytes() as u64 + PAGE_BYTES as u64;
    assert_eq!(pack::decode_footer(&footer, file_bytes), Ok(FOOTER));
    assert_eq!(&footer[..8], b"BLPKFT01");
    holds(&footer, 8, &[(2, 1), (2, 128), (4, 47), (8, FOOTER.number)]);
    assert_eq!(footer[24..40], STORE_UUID);
    let crcs = [(4, 0xDEAD_BEEF), (4, 0xFEED_F00D)];
    let at = holds(&footer, 40, &[(8, SALT), (8, FOOTER.index_at), (4, 1), crcs[0], crcs[1]]);
    holds(&footer, at, &[(4, 2), (8, FOOTER.raw_bytes), (8, FOOTER.flushed_block), (8, 7)]);

    for (page, zeros) in [(header, 56), (footer, 96)] {
        assert!(is_zero(&page[zeros..124]) && is_zero(&page[128..]));
        holds(&page, 124, &[(4, crc(&[&page[..124]]))]);
    }
}

#[test]
fn the_crc_of_a_block_is_over_its_place_too() {
    let block = golden("pack-block-plain.bin");
    assert_eq!(&block[..4], b"SBK1");
    let len = raw().len() as u64;
    holds(&block, 8, &[(1, 0), (3, 0), (4, len), (4, len), (4, 0)]);
    let place = [SALT, PLACE.number, PLACE.position].map(u64::to_le_bytes).concat();
    holds(&block, 4, &[(4, crc(&[&place, &block[8..24 + len as usize]]))]);
    assert_eq!(block[24..24 + len as usize], raw());
    assert_eq!(block.len() % 8, 0, "blocks begin at multiples of eight");
    let bytes = &block[..24 + len as usize];
    for place in [
        BlockPlace { salt: SALT + 1, ..PLACE },
        BlockPlace { number: PLACE.number + 1, ..PLACE },
        BlockPlace { position: PLACE.position + 8, ..PLACE },
    ] {
        assert_eq!(pack::decode_block(&place, bytes), Err(Damage::ContentCrc));
    }
}

#[test]
fn blocks_of_every_codec_are_read() {
    for (name, codec) in [("plain", 0), ("lz4", 1), ("zstd", 2)] {
        let block = golden(&format!("pack-block-{name}.bin"));
        assert_eq!(number(&block, 8..9), codec, "{name}");
        let len = pack::decode_head(&block).expect("a block").disk_bytes();
        let read = pack::decode_block(&PLACE, &block[..len]).expect("a block");
        assert_eq!(read, raw(), "{name}");
        let places = pack::described(&read).expect("places");
        let (offset, len) = places[0];
        let found = read.slice(offset as usize..(offset + len) as usize);
        assert_eq!((places.len(), segment::decode(&found)), (1, Ok(tail())));
    }
}

#[test]
fn a_directory_lists_segments_by_name_run_and_age() {
    let directory = golden("pack-directory.bin");
    assert_eq!(directory.len(), 2 * 88);
    for (n, entry) in ENTRIES.iter().enumerate() {
        assert_eq!(pack::decode_entry(&directory, n), Ok(*entry));
        let head = &entry.head;
        let flags = u64::from(head.is_first) + 2 * u64::from(head.is_deleted);
        let (seqs, point) = ([(8, 0), (8, 5)], [(8, 0x1_0000_0001), (4, 2)]);
        let at = holds(&directory, n * 88, &[(8, head.name_hash), (8, FIRST_NO)]);
        let at = holds(&directory, at, &[seqs[0], seqs[1], point[0], point[1], (4, flags)]);
        let at = holds(&directory, at, &[(8, head.expires_ms), (8, 777), (8, entry.block)]);
        let place = [entry.block_len, entry.offset, entry.len, 0].map(|field| (4, field.into()));
        holds(&directory, at, &place);
    }
    assert_eq!(pack::entries_of(&directory, NAME_HASH), 0..1);
    assert_eq!(pack::entries_of(&directory, NAME_HASH + 1), 1..1);
}

#[test]
fn a_segment_says_where_each_stretch_of_its_frames_is() {
    let bytes = golden("segment.bin");
    let at = holds(&bytes, 0, &[(8, NAME_HASH), (8, FIRST_NO)]);
    assert_eq!(bytes[at..at + 16], FIRST_UID.0);
    let at = holds(&bytes, 32, &[(8, 0), (8, 5), (8, 0x1_0000_0001), (4, 2), (4, 1)]);
    let at = holds(&bytes, at, &[(8, CREATED_MS + 1_000), (8, 777), (4, 2), (4, 5)]);
    let common = |at, first_seq, streams| {
        holds(&bytes, at, &[(8, first_seq), (4, 0xCAFE_F00D), (4, streams)])
    };
    let at = holds(&bytes, at, &[(8, 4_096), (4, 1_000), (4, 16), (4, 300), (4, 3)]);
    let at = common(at, 0, 2);
    let at = holds(&bytes, at, &[(4, 0), (4, 2), (8, 0), (4, 1), (4, 1), (8, 0)]);
    let at = holds(&bytes, at, &[(8, 0), (4, 0), (4, 16), (4, 300), (4, 2)]);
    let at = common(at, 3, 1);
    let at = holds(&bytes, at, &[(4, 1), (4, 2), (8, 1)]);
    assert_eq!(&bytes[at..], b"state");
    assert_eq!(segment::decode(&bytes.into()), Ok(tail()));
}

#[test]
fn names_of_a_pack_are_known_without_it() {
    let bytes = golden("pack-names.bin");
    let bloom = pack::decode_names(&bytes, HEADER.number, STORE_UUID).expect("a bloom filter");
    assert!([NAME_HASH, u64::MAX].iter().all(|name| pack::may_hold(bloom, *name)));
    let known = (0..1_000u64).filter(|n| pack::may_hold(bloom, n << 54)).count();
    assert!(known < 10, "{known} of 1,000 other names");
    assert_eq!(&bytes[..8], b"BLNAME01");
    holds(&bytes, 8, &[(2, 1), (2, 64), (4, 1), (8, HEADER.number)]);
    assert_eq!(bytes[24..40], STORE_UUID);
    assert!(is_zero(&bytes[40..60]));
    holds(&bytes, 60, &[(4, crc(&[&bytes[..60], &bytes[64..]]))]);
    assert_eq!(bytes.len(), 64 + 64);
}

#[test]
fn a_stub_stands_for_frames_whose_records_are_trimmed() {
    let frame = Frame::decode(&golden("frame-stub.bin").into()).expect("a frame");
    assert!(frame.is_stub());
    let (bytes, [first, last, _]) = (frame.bytes(), life());
    let at = holds(bytes, 0, &[(4, 48), (4, last.header.crc.into())]);
    let at = holds(bytes, at, &[(4, last.header.chain.0.into()), (1, 1), (1, 2), (2, 0)]);
    let first_seq = first.header.first_seq.0;
    let count = last.next_seq().0 - first_seq;
    let at = holds(bytes, at, &[(8, last.header.run_no.0), (8, first_seq), (4, count)]);
    let at = holds(bytes, at, &[(4, 0), (8, first.header.time_ms)]);
    assert_eq!(holds(bytes, at, &[(4, crc(&[&bytes[..48]]))]), bytes.len());
    assert_eq!(frame, stub());
}

#[test]
fn a_runs_state_is_read_back() {
    let state = created().0;
    let bytes = Bytes::from(golden("run-state.bin"));
    assert_eq!(braidlog::core::RunState::from_bytes(bytes).expect("a state"), state);
}

#[test]
fn packs_in_the_manifest_are_read_back() {
    let payload = Bytes::from(golden("manifest-packs.bin"));
    assert_eq!(manifest::decode(&payload), Ok(EDITS.to_vec()));
}
