//! The bytes of format version 1, as they are on the disks of users.
//!
//! Each file under `tests/format/v1` was written once from the constants below. The encoders must
//! still write exactly these bytes, and the decoders must read from them what was put in. Fields
//! are also looked up at their documented places and checksums recomputed by a second, naive
//! implementation, so that encoder and decoder cannot drift together.
//!
//! A difference here means that existing stores become unreadable: change the code, not the file.
//! New files are written by `BRAIDLOG_BLESS=1 cargo test --test format written_today`. Pages that
//! end in zeros are stored without them.

#![allow(clippy::disallowed_methods, reason = "golden files are read and blessed directly")]

use std::{fs, ops::Range, path::PathBuf, sync::Arc};

use braidlog::{
    core::{
        Append, Close, CloseStream, Context, Create, Decision, NewRecord, NewRun, Producer,
        RunState,
    },
    core::{StreamSpan, Trim},
    format::{
        Damage, PAGE_BYTES, SECTOR_BYTES,
        block::{self, BlockDraft, BlockHeader, Expected, Found},
        cursor::Cursor,
        frame::{Chain, Frame},
        identity::{Current, StoreIdentity},
        manifest::{self, Edit, ListedSlot},
        slot::{self, SlotHeader, SlotKind},
        wire,
    },
    proto::{Event, Header, Kind, Outcome, Record, RunClosed, RunCreated, RunError, StreamKind},
    proto::{StreamClosed, event, storage::v1 as storage},
    record::{Index, RunNo, RunUid, Seq, StreamNo},
};
use bytes::Bytes;

#[path = "format/packs.rs"]
mod packs;
#[path = "format/properties.rs"]
mod properties;

const STORE_UUID: [u8; 16] = *b"\xA0\xA1\xA2\xA3\xA4\xA5\xA6\xA7\xA8\xA9\xAA\xAB\xAC\xAD\xAE\xAF";
const FIRST_UID: RunUid =
    RunUid(*b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1A\x1B\x1C\x1D\x1E\x1F");
const SECOND_UID: RunUid =
    RunUid(*b"\x20\x21\x22\x23\x24\x25\x26\x27\x28\x29\x2A\x2B\x2C\x2D\x2E\x2F");
const FIRST_NO: u64 = 3 * 1_024 + 5;
const SECOND_NO: u64 = 1_023;
const CREATED_MS: u64 = 1_700_000_000_000;
const APPENDED_MS: u64 = 1_700_000_000_250;
const CLOSED_MS: u64 = 1_700_000_009_000;
const SALT: u64 = 0x0123_4567_89AB_CDEF;
/// Trailing bytes of every block: "1KLB".
const TRAILER_MAGIC: &[u8] = b"1KLB";

const STORE: StoreIdentity = StoreIdentity { store_uuid: STORE_UUID, created_ms: CREATED_MS };
const CURRENT: Current =
    Current { manifest: 0x0A0B_0C0D_0E0F, store_uuid: STORE_UUID, incarnation: 7 };
const JOURNAL_SLOT: SlotHeader = SlotHeader {
    kind: SlotKind::Journal,
    file_seq: 9,
    first_block_no: 0x1_0000_0001,
    prev_crc: 0xDEAD_BEEF,
    size: 64 << 20,
    store_uuid: STORE_UUID,
    incarnation: 7,
    salt: SALT,
    created_ms: CREATED_MS,
};
const MANIFEST_SLOT: SlotHeader = SlotHeader {
    kind: SlotKind::Manifest,
    file_seq: 0x0A0B_0C0D_0E0F,
    first_block_no: 0,
    prev_crc: 0,
    size: 1 << 20,
    ..JOURNAL_SLOT
};
const DRAFT: BlockDraft = BlockDraft {
    salt: SALT,
    file_seq: 9,
    block_no: 0x1_0000_0001,
    durable_block_no: 0x1_0000_0000,
    prev_crc: 0xDEAD_BEEF,
    clock_ms: CLOSED_MS,
    incarnation: 7,
    flags: 0,
};
const EXPECTED: Expected =
    Expected { salt: SALT, file_seq: 9, block_no: DRAFT.block_no, prev_crc: DRAFT.prev_crc };
const EDITS: [Edit; 4] = [
    Edit::JournalLow(0x1_0000_0000),
    Edit::SlotUse(ListedSlot { slot: 0, file_seq: 0, first_block_no: 0 }),
    Edit::SlotUse(ListedSlot { slot: 3, file_seq: 9, first_block_no: 0x1_0000_0001 }),
    Edit::JournalLow(0),
];

type Write = fn() -> Vec<u8>;

/// Every golden file and what writes it.
const FILES: [(&str, Write); 15] = [
    ("STORE.bin", || STORE.encode()),
    ("CURRENT.bin", || CURRENT.encode()),
    ("slot-journal.bin", || slot::encode(&JOURNAL_SLOT)),
    ("slot-manifest.bin", || slot::encode(&MANIFEST_SLOT)),
    ("manifest-edits.bin", || manifest::encode(&EDITS)),
    ("block-idle-mark.bin", || block_of(block::FLAG_IDLE, &[])),
    ("block-two-runs.bin", || block_of(0, &[created().1, appended()])),
    ("block-masked.bin", || block_of(block::FLAG_RECOVERED | block::FLAG_CLEAN, &[zeros()])),
    ("frame-created.bin", || created().1.bytes().to_vec()),
    ("frame-appended.bin", || appended().bytes().to_vec()),
    ("frame-trims.bin", || life()[0].bytes().to_vec()),
    ("frame-closes-stream.bin", || life()[1].bytes().to_vec()),
    ("frame-closes-run.bin", || life()[2].bytes().to_vec()),
    ("cursor-run.txt", || run_cursor().to_string().into()),
    ("cursor-stream.txt", || stream_cursor().to_string().into()),
];

fn block_of(flags: u8, frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    let draft = BlockDraft { flags, ..DRAFT };
    block::encode(&draft, frames.iter().map(|frame| &frame.bytes()[..]), &mut out);
    out
}

/// The first run, just created.
fn created() -> (RunState, Frame) {
    let create = Create {
        namespace: "default".into(),
        run_id: "run_1".into(),
        task: "summarise".into(),
        ..Create::default()
    };
    let new = NewRun { run_no: RunNo(FIRST_NO), run_uid: FIRST_UID };
    let (state, frame, _) = RunState::create(&create, new, CREATED_MS).expect("created");
    (state, frame)
}

/// The second run, just created, without a task.
fn second() -> RunState {
    let create =
        Create { namespace: "default".into(), run_id: "läuft".into(), ..Create::default() };
    let new = NewRun { run_no: RunNo(SECOND_NO), run_uid: SECOND_UID };
    RunState::create(&create, new, CREATED_MS).expect("created").0
}

fn accepted<R>(decision: Decision<R>) -> Frame {
    match decision {
        Decision::Accepted { frame, .. } => frame,
        Decision::Duplicate(_) => panic!("answered as a repetition"),
    }
}

/// Two records on a new stream of the second run, by a producer.
fn append() -> Append {
    let header = |name: &str, value: &'static [u8]| Header {
        name: name.into(),
        value: Bytes::from_static(value),
    };
    let full = NewRecord {
        data: Bytes::from_static(b"hello"),
        headers: vec![header("content-type", b"text/plain"), header("", b"")],
        id: "rec-1".into(),
        client_time_ms: 1_699_999_999_999,
    };
    Append {
        stream: "output".into(),
        records: vec![full, NewRecord::new(&b"\0\xFF"[..])],
        producer: Some(Producer { id: "worker-1".into(), epoch: 300, seq: 0 }),
        ..Append::default()
    }
}

fn appended() -> Frame {
    accepted(second().append(&append(), &Context::at(APPENDED_MS)).expect("append"))
}

/// The only record is zeros: as it is, two sectors of its block would be.
fn zeros() -> Frame {
    let records = vec![NewRecord::new(vec![0; 1_500])];
    let append = Append { stream: "output".into(), records, ..Append::default() };
    accepted(second().append(&append, &Context::at(APPENDED_MS)).expect("append"))
}

/// The second run after its append: a trim, the end of a stream, the end of the run.
fn life() -> [Frame; 3] {
    let mut state = second();
    state.append(&append(), &Context::at(APPENDED_MS)).expect("append");
    let stream: Arc<str> = "output".into();
    let at_close = Context::at(CLOSED_MS);
    let trim = Trim { run_uid: None, stream: stream.clone(), trim: Index(1) };
    let close = Close {
        outcome: Outcome::Failed,
        output: Bytes::from_static(b"{}"),
        output_type: "application/json".into(),
        error: Some(run_error()),
        ..Close::default()
    };
    [
        accepted(state.trim(&trim, &at_close).expect("trim")),
        accepted(
            state.close_stream(&CloseStream { run_uid: None, stream }, &at_close).expect("close"),
        ),
        accepted(state.close(&close, &at_close).expect("close")),
    ]
}

fn run_error() -> RunError {
    let [r#type, name, message, stack_trace] =
        ["TOOL", "ToolError", "it broke", "at line 1\nat line 2"].map(String::from);
    RunError { r#type, name, message, stack_trace }
}

fn run_cursor() -> Cursor {
    Cursor { run_uid: SECOND_UID, seq: Seq(3), chain: Chain(0xCAFE_F00D), stream: None }
}

fn stream_cursor() -> Cursor {
    Cursor { stream: Some((StreamNo(1), Index(2))), ..run_cursor() }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/v1"))
}

/// Whether trailing zeros of the file are left out.
fn is_page(name: &str) -> bool {
    let pages = ["STORE.bin", "slot-", "pack-header", "pack-footer"];
    pages.iter().any(|page| name.starts_with(page))
}

/// The golden bytes.
fn golden(name: &str) -> Vec<u8> {
    let mut bytes = fs::read(folder().join(name)).expect("golden file");
    if is_page(name) {
        bytes.resize(PAGE_BYTES, 0);
    }
    bytes
}

fn bless(name: &str, mut bytes: Vec<u8>) {
    if is_page(name) {
        let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(len);
    }
    fs::write(folder().join(name), bytes).expect("golden file is written");
}

/// CRC-32 (IEEE), bit by bit.
fn crc(pieces: &[&[u8]]) -> u64 {
    let mut crc = u32::MAX;
    for &byte in pieces.iter().copied().flatten() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    u64::from(!crc)
}

/// The little-endian number at this place.
fn number(bytes: &[u8], at: Range<usize>) -> u64 {
    bytes[at].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Checks numbers at their places; together they must cover `bytes` from `from` without a hole.
fn holds(bytes: &[u8], from: usize, fields: &[(usize, u64)]) -> usize {
    fields.iter().fold(from, |at, &(len, value)| {
        assert_eq!(number(bytes, at..at + len), value, "{len} bytes at {at}");
        at + len
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[test]
fn the_bytes_written_today_are_those_on_the_disks_of_users() {
    let bless_asked = std::env::var_os("BRAIDLOG_BLESS").is_some_and(|value| value == "1");
    for (name, write) in packs::READ_ONLY {
        if bless_asked && !folder().join(name).exists() {
            bless(name, write());
        }
    }
    for (name, write) in FILES.into_iter().chain(packs::FILES) {
        let bytes = write();
        if bless_asked {
            bless(name, bytes.clone());
        }
        let golden = golden(name);
        let differs = bytes.iter().zip(&golden).position(|(ours, golden)| ours != golden);
        assert_eq!(differs, None, "{name}: first byte that differs");
        assert_eq!(bytes.len(), golden.len(), "{name}: length");
    }
}

#[test]
fn every_golden_file_is_held_by_a_test() {
    let mut on_disk: Vec<String> = fs::read_dir(folder())
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    on_disk.sort();
    let files = FILES.iter().chain(&packs::FILES).chain(&packs::READ_ONLY);
    let mut held: Vec<_> = files.map(|(name, _)| *name).collect();
    held.sort_unstable();
    assert_eq!(on_disk, held);
}

#[test]
fn store_says_what_the_store_is_twice() {
    let page = golden("STORE.bin");
    assert_eq!(StoreIdentity::decode(&page), Ok(STORE));
    for at in [0, 2_048] {
        assert_eq!(&page[at..at + 8], b"BLSTORE1");
        assert_eq!(page[at + 16..at + 32], STORE_UUID);
        holds(&page, at + 8, &[(2, 1), (6, 0)]);
        holds(&page, at + 32, &[(8, 1_024), (8, CREATED_MS), (4, crc(&[&page[at..at + 48]]))]);
        assert!(is_zero(&page[at + 52..at + 2_048]));
    }
}

#[test]
fn current_names_the_live_manifest() {
    let bytes = golden("CURRENT.bin");
    assert_eq!(bytes.len(), 44);
    assert_eq!(Current::decode(&bytes), Ok(CURRENT));
    assert_eq!(&bytes[..8], b"BLCURR01");
    assert_eq!(bytes[16..32], STORE_UUID);
    holds(&bytes, 8, &[(8, CURRENT.manifest)]);
    holds(&bytes, 32, &[(8, 7), (4, crc(&[&bytes[..40]]))]);
}

#[test]
fn slot_headers_say_where_the_log_goes_on_twice() {
    let journal = ("slot-journal.bin", JOURNAL_SLOT, b"BLJRNL01");
    let manifest = ("slot-manifest.bin", MANIFEST_SLOT, b"BLMANI01");
    for (name, header, magic) in [journal, manifest] {
        let page = golden(name);
        assert_eq!(slot::decode(&page, header.kind), Ok(header));
        for at in [0, 2_048] {
            assert_eq!(&page[at..at + 8], magic);
            holds(&page, at + 8, &[(2, 1), (2, 128), (4, 0), (8, header.file_seq)]);
            let pages = header.size / PAGE_BYTES as u64;
            let prev_crc = u64::from(header.prev_crc);
            holds(&page, at + 24, &[(8, header.first_block_no), (4, prev_crc), (4, pages)]);
            assert_eq!(page[at + 40..at + 56], STORE_UUID);
            holds(&page, at + 56, &[(8, 7), (8, SALT), (8, CREATED_MS)]);
            assert!(is_zero(&page[at + 80..at + 124]));
            holds(&page, at + 124, &[(4, crc(&[&page[at..at + 124]]))]);
            assert!(is_zero(&page[at + 128..at + 2_048]));
        }
    }
    let other = slot::decode(&golden("slot-journal.bin"), SlotKind::Manifest);
    assert_eq!(other, Err(Damage::Magic));
}

/// Reads a golden block, checks all of its bytes around the payload, and returns it unmasked.
fn block_around_payload(name: &str, flags: u8, mask: u16, frames: u32) -> Bytes {
    let bytes = golden(name);
    let Found::Block(found) = block::inspect(&bytes, &EXPECTED) else {
        panic!("{name} does not read as a block");
    };
    let header_crc = crc(&[&SALT.to_le_bytes(), &bytes[8..64]]);
    let payload_len = found.payload.len();
    let stored = &bytes[64..64 + payload_len];
    let payload_crc = crc(&[&SALT.to_le_bytes(), &DRAFT.block_no.to_le_bytes(), stored]);
    let header = BlockHeader {
        header_crc: header_crc as u32,
        file_seq: DRAFT.file_seq,
        block_no: DRAFT.block_no,
        durable_block_no: DRAFT.durable_block_no,
        prev_crc: DRAFT.prev_crc,
        payload_len: payload_len as u32,
        payload_crc: payload_crc as u32,
        frames,
        clock_ms: DRAFT.clock_ms,
        incarnation: DRAFT.incarnation,
        flags,
        mask,
    };
    assert_eq!(found.header, header);
    assert_eq!(block::header(&bytes, SALT), Some(header));
    assert_eq!(bytes.len(), header.disk_bytes());

    assert_eq!(&bytes[..4], b"BLK1");
    let place = [(4, header_crc), (8, 9), (8, 0x1_0000_0001), (8, 0x1_0000_0000)];
    let at = holds(&bytes, 4, &place);
    let content = [(4, 0xDEAD_BEEF), (4, payload_len as u64), (4, payload_crc)];
    let at = holds(&bytes, at, &content);
    let at = holds(&bytes, at, &[(4, u64::from(frames)), (8, CLOSED_MS), (4, 7)]);
    let at = holds(&bytes, at, &[(1, 0), (1, u64::from(flags)), (2, u64::from(mask))]);
    assert_eq!(at, 64);
    let trailer = bytes.len() - 16;
    assert!(is_zero(&bytes[at + payload_len..trailer]), "padding");
    holds(&bytes, trailer, &[(8, DRAFT.block_no), (4, header_crc)]);
    assert_eq!(&bytes[trailer + 12..], TRAILER_MAGIC);
    found.payload
}

#[test]
fn an_idle_mark_is_a_block_of_one_page_without_payload() {
    let payload = block_around_payload("block-idle-mark.bin", block::FLAG_IDLE, 0, 0);
    assert!(payload.is_empty());
    assert_eq!(golden("block-idle-mark.bin").len(), PAGE_BYTES);
    assert_eq!((block::FLAG_IDLE, block::FLAG_CLEAN, block::FLAG_RECOVERED), (1, 2, 8));
}

#[test]
fn a_block_holds_the_frames_of_its_runs_as_they_are() {
    let payload = block_around_payload("block-two-runs.bin", 0, 0, 2);
    let frames: Result<Vec<_>, _> = Frame::split(payload.clone()).collect();
    let frames = frames.expect("sound");
    let runs: Vec<_> = frames.iter().map(|frame| frame.header.run_no).collect();
    assert_eq!(runs, [RunNo(FIRST_NO), RunNo(SECOND_NO)]);
    assert_eq!(&payload[..], [golden("frame-created.bin"), golden("frame-appended.bin")].concat());
}

#[test]
fn a_payload_with_zero_sectors_is_masked_on_disk_and_read_back_plain() {
    let flags = block::FLAG_RECOVERED | block::FLAG_CLEAN;
    let payload = block_around_payload("block-masked.bin", flags, 1, 1);
    let stored = golden("block-masked.bin");
    let content = (64 + payload.len()).div_ceil(SECTOR_BYTES);
    assert!(stored.chunks(SECTOR_BYTES).take(content).all(|sector| !is_zero(sector)));
    let frame = Frame::decode(&payload).expect("sound");
    assert_eq!(frame, zeros());

    // SplitMix64 from (mask, block_no): the state's first step gives the first eight bytes.
    let mut z = (DRAFT.block_no ^ 1 << 48).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    assert_eq!(number(&stored, 64..72) ^ number(&payload, 0..8), z ^ z >> 31);
}

/// Reads a golden frame and checks its fixed part.
fn frame_around_records(name: &str, place: &[(usize, u64)], before: Chain) -> Frame {
    let bytes = Bytes::from(golden(name));
    let frame = Frame::decode(&bytes).expect("sound");
    assert_eq!(frame.bytes(), &bytes);
    let sum = crc(&[&bytes[..4], &bytes[12..]]);
    let chain = crc(&[&before.0.to_le_bytes(), &(sum as u32).to_le_bytes()]);
    holds(&bytes, 0, &[(4, bytes.len() as u64 - 4), (4, sum), (4, chain), (1, 1)]);
    assert_eq!(holds(&bytes, 13, place), 48);
    let header = frame.header;
    assert_eq!((u64::from(header.crc), u64::from(header.chain.0)), (sum, chain));
    let flags = u64::from(header.flags);
    let fields = [(1, flags), (2, 0), (8, header.run_no.0), (8, header.first_seq.0)];
    let at = holds(&bytes, 13, &fields);
    let records_len = u64::from(header.records_len);
    holds(&bytes, at, &[(4, u64::from(header.count)), (4, records_len), (8, header.time_ms)]);
    frame
}

fn records(frame: &Frame) -> Vec<Record> {
    let records: Result<Vec<_>, _> = wire::decode_all(frame.records()).collect();
    records.expect("sound")
}

fn lifecycle(seq: u64, index: u64, time_ms: u64, event: event::Event) -> Record {
    Record {
        seq,
        index,
        time_ms,
        kind: Kind::Lifecycle.into(),
        event: Some(Event { event: Some(event) }),
        ..Record::default()
    }
}

#[test]
fn the_first_frame_of_a_run_says_who_it_is() {
    let chain = Chain(crc(&[&FIRST_UID.0]) as u32);
    assert_eq!(Chain::start(FIRST_UID), chain);
    let place = [(1, 4), (2, 0), (8, FIRST_NO), (8, 0), (4, 1), (4, 60), (8, CREATED_MS)];
    let frame = frame_around_records("frame-created.bin", &place, chain);
    let event = RunCreated {
        namespace: "default".into(),
        run_id: "run_1".into(),
        run_uid: Bytes::from_static(&FIRST_UID.0),
        task: "summarise".into(),
        ..RunCreated::default()
    };
    let record = lifecycle(0, 0, CREATED_MS, event::Event::RunCreated(event));
    assert_eq!(records(&frame), [record]);
    assert_eq!(frame.effects(), Ok(storage::Effects::default()));

    let (state, _) = RunState::begin(&frame).expect("begins");
    assert_eq!(state, created().0);
}

#[test]
fn an_append_holds_its_records_the_stream_it_opens_and_its_producer() {
    let mut state = second();
    let place = [(1, 1), (2, 0), (8, SECOND_NO), (8, 1), (4, 2), (4, 87), (8, APPENDED_MS)];
    let frame = frame_around_records("frame-appended.bin", &place, state.chain);
    let Append { records: new, .. } = append();
    let expected: Vec<_> = (0u64..)
        .zip(new)
        .map(|(n, new)| Record {
            stream: 1,
            seq: 1 + n,
            index: n,
            time_ms: APPENDED_MS,
            kind: Kind::Chunk.into(),
            headers: new.headers,
            id: new.id,
            client_time_ms: new.client_time_ms,
            event: None,
            data: new.data,
        })
        .collect();
    assert_eq!(records(&frame), expected);
    // The second record by hand: stream 1, seq 2, index 1, time, chunk, data.
    let plain =
        b"\x0A\x13\x08\x01\x10\x02\x18\x01\x20\xFA\xD1\x95\xFF\xBC\x31\x28\x01\x7A\x02\0\xFF";
    assert!(frame.records_slice().ends_with(plain));

    let opened =
        storage::StreamOpened { stream: 1, name: "output".into(), kind: StreamKind::Output.into() };
    let effects = frame.effects().expect("sound");
    assert_eq!(effects.streams_opened, [opened]);
    assert_eq!(effects.streams_trimmed, []);
    let producer = effects.producer.expect("a producer");
    assert_eq!((producer.r#ref, &producer.id[..]), (0, "worker-1"));
    assert_eq!((producer.epoch, producer.seq), (300, 0));
    assert_eq!(u64::from(producer.payload_crc), payload_crc(&append()));

    let facts = state.replay(&frame).expect("fits");
    let span = StreamSpan { stream: StreamNo(1), first_index: Index(0), count: 2 };
    assert_eq!(facts.spans, [span]);
    assert_eq!((state.tail, state.stream(StreamNo(1)).tail), (Seq(3), Index(2)));
}

/// What tells a retry from a reused number: every part behind its length in eight bytes.
fn payload_crc(append: &Append) -> u64 {
    let mut parts = vec![append.stream.as_bytes().to_vec()];
    for record in &append.records {
        parts.push(record.data.to_vec());
        parts.push(record.id.clone().into());
        parts.push(record.client_time_ms.to_le_bytes().into());
        parts.push((record.headers.len() as u64).to_le_bytes().into());
        for header in &record.headers {
            parts.push(header.name.clone().into());
            parts.push(header.value.to_vec());
        }
    }
    let framed: Vec<_> = parts
        .iter()
        .flat_map(|part| [&(part.len() as u64).to_le_bytes()[..], part].concat())
        .collect();
    crc(&[&framed])
}

#[test]
fn a_frame_without_records_stands_at_the_tail() {
    let mut state = second();
    state.append(&append(), &Context::at(APPENDED_MS)).expect("append");
    let place = [(1, 1), (2, 0), (8, SECOND_NO), (8, 3), (4, 0), (4, 0), (8, CLOSED_MS)];
    let frame = frame_around_records("frame-trims.bin", &place, state.chain);
    assert_eq!(records(&frame), []);
    let effects = frame.effects().expect("sound");
    assert_eq!(effects.streams_trimmed, [storage::StreamTrimmed { stream: 1, trim: 1 }]);
    assert_eq!((effects.streams_opened, effects.producer), (vec![], None));
}

#[test]
fn a_stream_and_a_run_end_with_a_record_each() {
    let [trims, closes_stream, _] = life();
    let place = [(1, 0), (2, 0), (8, SECOND_NO), (8, 3), (4, 1), (4, 21), (8, CLOSED_MS)];
    let frame = frame_around_records("frame-closes-stream.bin", &place, trims.header.chain);
    let ended = event::Event::StreamClosed(StreamClosed { stream: 1 });
    assert_eq!(records(&frame), [lifecycle(3, 1, CLOSED_MS, ended)]);

    let place = [(1, 8), (2, 0), (8, SECOND_NO), (8, 4), (4, 1), (4, 93), (8, CLOSED_MS)];
    let frame = frame_around_records("frame-closes-run.bin", &place, closes_stream.header.chain);
    let closed = RunClosed {
        outcome: Outcome::Failed.into(),
        output: Bytes::from_static(b"{}"),
        output_type: "application/json".into(),
        error: Some(run_error()),
    };
    assert_eq!(records(&frame), [lifecycle(4, 2, CLOSED_MS, event::Event::RunClosed(closed))]);
}

#[test]
fn manifest_edits_keep_their_order() {
    let payload = golden("manifest-edits.bin");
    assert_eq!(manifest::decode(&payload.clone().into()), Ok(EDITS.to_vec()));
    let low = b"\x0A\x08\x12\x06\x08\x80\x80\x80\x80\x10";
    let first = b"\x0A\x02\x0A\x00";
    let third = b"\x0A\x0C\x0A\x0A\x08\x03\x10\x09\x18\x81\x80\x80\x80\x10";
    let last = b"\x0A\x02\x12\x00";
    assert_eq!(payload, [&low[..], first, third, last].concat());
}

#[test]
fn cursors_handed_out_once_are_understood_for_ever() {
    for (name, cursor, flags) in
        [("cursor-run.txt", run_cursor(), 0), ("cursor-stream.txt", stream_cursor(), 1)]
    {
        let text = String::from_utf8(golden(name)).expect("ASCII");
        assert_eq!(Cursor::parse(&text), Ok(cursor));
        assert!(text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));

        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64url");
        let (stream, index) = cursor.stream.unwrap_or_default();
        assert_eq!(bytes.len(), 46);
        holds(&bytes, 0, &[(1, 1), (1, flags)]);
        assert_eq!(bytes[2..18], SECOND_UID.0);
        let place = [(8, 3), (4, 0xCAFE_F00D), (4, u64::from(stream.0)), (8, index.0)];
        let at = holds(&bytes, 18, &place);
        holds(&bytes, at, &[(4, crc(&[&bytes[..42]]))]);
    }
}
