//! What holds for all bytes and all values: decoders return, and read what encoders wrote.

use braidlog::{
    format::{
        frame::{FLAG_CLOSES, FLAG_EFFECTS, FLAG_FIRST, FrameBuilder, FramePlace},
        verdict::{self, Place, Verdict},
        wire::RecordFields,
    },
    record::{BLOCK_PAYLOAD_MAX, CURSOR_BYTES_MAX},
};
use proptest::{collection::vec, prelude::*};

use super::*;

/// Hands the bytes to every decoder, as whichever file they were found in.
fn decode_as_everything(bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    _ = Frame::decode(&shared);
    for frame in Frame::split(shared.clone()).flatten() {
        _ = frame.effects();
        _ = RunState::begin(&frame);
        wire::decode_all(frame.records()).for_each(drop);
    }
    _ = block::header(bytes, SALT);
    _ = block::inspect(bytes, &EXPECTED);
    for (next_slot_first, previous_clean) in [(None, false), (None, true), (Some(99), false)] {
        let place = Place { bytes, expected: EXPECTED, next_slot_first, previous_clean };
        verdict::judge(&place);
    }
    _ = slot::decode(bytes, SlotKind::Journal);
    _ = slot::decode(bytes, SlotKind::Manifest);
    _ = StoreIdentity::decode(bytes);
    _ = Current::decode(bytes);
    _ = manifest::decode(&shared);
    _ = Cursor::parse(&String::from_utf8_lossy(bytes));
    wire::skim_all(bytes).for_each(drop);
    wire::decode_all(shared).for_each(drop);
}

/// What a disk, a cable or a careless hand does to bytes.
#[derive(Debug, Clone)]
enum Mutation {
    Flip { bit: usize },
    Truncate { len: usize },
    Splice { from: usize, to: usize, len: usize },
    Fill { at: usize, len: usize, byte: u8 },
    Insert { at: usize, byte: u8 },
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = || any::<usize>();
    let mutation = prop_oneof![
        4 => at().prop_map(|bit| Mutation::Flip { bit }),
        1 => at().prop_map(|len| Mutation::Truncate { len }),
        2 => (at(), at(), 1..600usize)
            .prop_map(|(from, to, len)| Mutation::Splice { from, to, len }),
        2 => (at(), 1..600usize, any::<u8>())
            .prop_map(|(at, len, byte)| Mutation::Fill { at, len, byte }),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert { at, byte }),
    ];
    vec(mutation, 1..4)
}

fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        let end = bytes.len();
        if end == 0 {
            return;
        }
        match *mutation {
            Mutation::Flip { bit } => bytes[bit / 8 % end] ^= 1 << (bit % 8),
            Mutation::Truncate { len } => bytes.truncate(len % end),
            Mutation::Splice { from, to, len } => {
                let (from, to) = (from % end, to % end);
                bytes.copy_within(from..from + len.min(end - from.max(to)), to);
            }
            Mutation::Fill { at, len, byte } => {
                let at = at % end;
                bytes[at..end.min(at + len)].fill(byte);
            }
            Mutation::Insert { at, byte } => bytes.insert(at % end, byte),
        }
    }
}

/// Gives a frame's bytes a length and CRC that hold, so that what lies behind them is decoded.
fn reseal_frame(bytes: &mut [u8]) {
    if bytes.len() < 48 {
        return;
    }
    let len = bytes.len() as u32 - 4;
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    let sum = crc(&[&bytes[..4], &bytes[12..]]) as u32;
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

prop_compose! {
    fn records()(
        stream in any::<u32>(),
        seq in any::<u64>(),
        index in any::<u64>(),
        time_ms in any::<u64>(),
        kind in 0..5i32,
        headers in vec(("[a-z]{0,9}", vec(any::<u8>(), 0..20)), 0..3),
        id in "\\PC{0,20}",
        client_time_ms in any::<u64>(),
        data in prop_oneof![vec(any::<u8>(), 0..300), (0..2_000usize).prop_map(|len| vec![0; len])],
    ) -> Record {
        let headers =
            headers.into_iter().map(|(name, value)| Header { name, value: value.into() }).collect();
        let closed = event::Event::StreamClosed(StreamClosed { stream });
        let event = (kind == Kind::Lifecycle as i32).then_some(Event { event: Some(closed) });
        Record { stream, seq, index, time_ms, kind, headers, id, client_time_ms, event, data: data.into() }
    }
}

prop_compose! {
    fn effects()(
        opened in vec((any::<u32>(), "\\PC{0,9}"), 0..3),
        producer in proptest::option::of((any::<u32>(), "\\PC{0,9}", any::<u64>(), any::<u64>())),
        trimmed in vec((any::<u32>(), any::<u64>()), 0..3),
        (deleted, home) in (any::<bool>(), any::<Option<u64>>()),
    ) -> storage::Effects {
        let kind = StreamKind::Output.into();
        let opened = opened.into_iter();
        let trimmed = trimmed.into_iter();
        storage::Effects {
            streams_opened:
                opened.map(|(stream, name)| storage::StreamOpened { stream, name, kind }).collect(),
            producer: producer.map(|(r#ref, id, epoch, seq)| {
                storage::ProducerAdvanced { r#ref, id, epoch, seq, payload_crc: !r#ref }
            }),
            streams_trimmed:
                trimmed.map(|(stream, trim)| storage::StreamTrimmed { stream, trim }).collect(),
            deleted,
            home,
            ..storage::Effects::default()
        }
    }
}

fn build(place: &FramePlace, records: &[Record], effects: &storage::Effects) -> Frame {
    let mut builder = FrameBuilder::new(0);
    for record in records {
        builder.record(&RecordFields {
            stream: StreamNo(record.stream),
            seq: Seq(record.seq),
            index: Index(record.index),
            time_ms: record.time_ms,
            kind: record.kind(),
            headers: &record.headers,
            id: &record.id,
            client_time_ms: record.client_time_ms,
            event: record.event.as_ref(),
            data: &record.data,
        });
    }
    builder.finish(place, effects)
}

prop_compose! {
    fn frames()(
        run_no in any::<u64>(),
        first_seq in 0..u64::MAX - 9,
        time_ms in any::<u64>(),
        flags in prop_oneof![Just(0), Just(FLAG_FIRST), Just(FLAG_CLOSES)],
        chain in any::<u32>(),
        records in vec(records(), 0..4),
        effects in effects(),
    ) -> (Frame, Chain, Vec<Record>) {
        let chain = Chain(chain);
        let (run_no, first_seq) = (RunNo(run_no), Seq(first_seq));
        let place = FramePlace { run_no, first_seq, time_ms, flags, chain };
        (build(&place, &records, &effects), chain, records)
    }
}

/// What the header of a sound block says of it.
fn draft_of(header: &BlockHeader) -> BlockDraft {
    let BlockHeader { file_seq, block_no, durable_block_no, prev_crc, clock_ms, .. } = *header;
    let BlockHeader { incarnation, flags, .. } = *header;
    BlockDraft {
        salt: SALT,
        file_seq,
        block_no,
        durable_block_no,
        prev_crc,
        clock_ms,
        incarnation,
        flags,
    }
}

proptest! {
    #[test]
    fn decoders_return_whatever_the_bytes(bytes in vec(any::<u8>(), 0..9_000)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn decoders_return_whatever_became_of_sound_bytes(
        file in 0..FILES.len(), mutations in mutations(), behind in 0..5_000usize,
    ) {
        let mut bytes = golden(FILES[file].0);
        bytes.resize(bytes.len() + behind, 0);
        mutate(&mut bytes, &mutations);
        decode_as_everything(&bytes);
        reseal_frame(&mut bytes);
        decode_as_everything(&bytes);
    }

    #[test]
    fn a_frame_encodes_to_the_bytes_it_was_decoded_from((frame, chain, records) in frames()) {
        let read = Frame::decode(frame.bytes()).expect("sound");
        prop_assert_eq!(&read, &frame);
        prop_assert_eq!(super::records(&read), records.clone());
        let effects = read.effects().expect("sound");
        let header = &read.header;
        let place = FramePlace {
            run_no: header.run_no,
            first_seq: header.first_seq,
            time_ms: header.time_ms,
            flags: header.flags & !FLAG_EFFECTS,
            chain,
        };
        prop_assert_eq!(build(&place, &records, &effects), frame);
    }

    #[test]
    fn frames_behind_each_other_are_found_again(frames in vec(frames(), 0..4), cut in 1..48usize) {
        let frames: Vec<_> = frames.into_iter().map(|(frame, ..)| frame).collect();
        let payload = frames.iter().map(|frame| &frame.bytes()[..]).collect::<Vec<_>>().concat();
        let found: Result<Vec<_>, _> = Frame::split(payload.clone().into()).collect();
        prop_assert_eq!(found, Ok(frames.clone()));
        if !frames.is_empty() {
            let short = Bytes::from(payload).slice(..).split_to(cut.min(frames[0].bytes().len() - 1));
            prop_assert!(Frame::split(short).all(|frame| frame.is_err()));
        }
    }

    #[test]
    fn a_changed_frame_is_never_taken_for_another(
        (frame, ..) in frames(), stub in any::<bool>(), mutations in mutations(),
    ) {
        let frame = if stub { frame.to_stub(None) } else { frame };
        let mut bytes = frame.bytes().to_vec();
        mutate(&mut bytes, &mutations);
        if let Ok(mut read) = Frame::decode(&bytes.into()) {
            // The chain is for the run's state and the block's CRC to check.
            read.header.chain = frame.header.chain;
            prop_assert_eq!(read.header, frame.header);
            prop_assert_eq!(&read.bytes()[12..], &frame.bytes()[12..]);
        }
    }

    #[test]
    fn a_block_encodes_to_the_bytes_it_was_decoded_from(
        frames in vec(frames(), 0..4),
        block_no in any::<u64>(),
        durable_block_no in any::<u64>(),
        flags in prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(8), Just(11)],
        behind in 0..5_000usize,
    ) {
        let pieces: Vec<_> = frames.iter().map(|(frame, ..)| &frame.bytes()[..]).collect();
        let draft = BlockDraft { block_no, durable_block_no, flags, ..DRAFT };
        let mut bytes = Vec::new();
        let header = block::encode(&draft, pieces.iter().copied(), &mut bytes);
        let written = bytes.clone();
        bytes.resize(bytes.len() + behind, 0xEE);

        let Found::Block(found) = block::inspect(&bytes, &Expected { block_no, ..EXPECTED }) else {
            panic!("not a block");
        };
        prop_assert_eq!(found.header, header);
        prop_assert_eq!(&found.payload[..], pieces.concat());
        prop_assert_eq!(header.frames as usize, pieces.len());
        let again: Result<Vec<_>, _> = Frame::split(found.payload).collect();
        let again = again.expect("sound");
        block::encode(
            &draft_of(&found.header),
            again.iter().map(|frame| &frame.bytes()[..]),
            &mut bytes,
        );
        prop_assert_eq!(bytes, written);
    }

    #[test]
    fn a_changed_block_is_never_taken_for_another(
        frames in vec(frames(), 0..3), mutations in mutations(),
    ) {
        let mut bytes = Vec::new();
        block::encode(&DRAFT, frames.iter().map(|(frame, ..)| &frame.bytes()[..]), &mut bytes);
        let written = bytes.clone();
        mutate(&mut bytes, &mutations);
        if let Found::Block(found) = block::inspect(&bytes, &EXPECTED) {
            prop_assert_eq!(&bytes[..found.header.disk_bytes()], &written[..]);
        }
    }

    #[test]
    fn pages_encode_to_the_bytes_they_were_decoded_from(
        numbers in any::<[u64; 5]>(), store_uuid in any::<[u8; 16]>(), prev_crc in any::<u32>(),
        pages in any::<u32>(),
    ) {
        let [file_seq, first_block_no, incarnation, salt, created_ms] = numbers;
        for kind in [SlotKind::Journal, SlotKind::Manifest] {
            let size = u64::from(pages) * PAGE_BYTES as u64;
            let header = SlotHeader {
                kind, file_seq, first_block_no, prev_crc, size, store_uuid, incarnation, salt,
                created_ms,
            };
            let page = slot::encode(&header);
            prop_assert_eq!(page.len(), PAGE_BYTES);
            prop_assert_eq!(slot::decode(&page, kind), Ok(header));
        }
        let store = StoreIdentity { store_uuid, created_ms };
        prop_assert_eq!(StoreIdentity::decode(&store.encode()), Ok(store));
        let current = Current { manifest: file_seq, store_uuid, incarnation };
        prop_assert_eq!(Current::decode(&current.encode()), Ok(current));
    }

    #[test]
    fn edits_encode_to_the_bytes_they_were_decoded_from(
        edits in vec((any::<bool>(), any::<u32>(), any::<u64>(), any::<u64>()), 0..9),
    ) {
        let edit = |(listed, slot, file_seq, first_block_no)| match listed {
            true => Edit::SlotUse(ListedSlot { slot, file_seq, first_block_no }),
            false => Edit::JournalLow(first_block_no),
        };
        let edits: Vec<_> = edits.into_iter().map(edit).collect();
        let payload = Bytes::from(manifest::encode(&edits));
        prop_assert_eq!(manifest::decode(&payload), Ok(edits));
    }

    #[test]
    fn a_cursor_prints_as_the_text_it_was_parsed_from(
        run_uid in any::<[u8; 16]>(), seq in any::<u64>(), chain in any::<u32>(),
        stream in proptest::option::of((any::<u32>(), any::<u64>())),
    ) {
        let stream = stream.map(|(stream, index)| (StreamNo(stream), Index(index)));
        let cursor =
            Cursor { run_uid: RunUid(run_uid), seq: Seq(seq), chain: Chain(chain), stream };
        let text = cursor.to_string();
        prop_assert!(text.len() <= CURSOR_BYTES_MAX);
        prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
        prop_assert_eq!(Cursor::parse(&text).expect("parses").to_string(), text);
    }

    #[test]
    fn any_text_is_a_cursor_or_is_refused(text in "\\PC{0,300}") {
        if let Ok(cursor) = Cursor::parse(&text) {
            prop_assert_eq!(cursor.to_string(), text);
        }
    }
}

/// Blocks of none to three frames, among them a masked one, each with a length that differs.
fn blocks() -> Vec<Vec<u8>> {
    let [trims, closes_stream, closes_run] = life();
    let blocks = [
        vec![],
        vec![trims],
        vec![zeros()],
        vec![closes_stream, closes_run],
        vec![created().1, appended(), zeros()],
    ];
    blocks.iter().map(|frames| block_of(0, frames)).collect()
}

fn judge(bytes: &[u8]) -> Verdict {
    let place = Place { bytes, expected: EXPECTED, next_slot_first: None, previous_clean: false };
    verdict::judge(&place)
}

#[test]
fn every_flipped_bit_of_frames_on_disk_is_named_and_never_ends_the_log() {
    for mut bytes in blocks() {
        assert!(matches!(judge(&bytes), Verdict::Accept(_)));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verdict = judge(&bytes);
            assert!(matches!(verdict, Verdict::Corrupt(_)), "bit {bit}: {verdict:?}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// The sectors of a block that hold bytes.
fn sectors(block: &[u8]) -> Vec<usize> {
    (0..block.len() / SECTOR_BYTES)
        .filter(|n| !is_zero(&block[n * SECTOR_BYTES..][..SECTOR_BYTES]))
        .collect()
}

/// The block with only those sectors written whose bit is set.
fn written(block: &[u8], sectors: &[usize], subset: usize) -> Vec<u8> {
    let mut bytes = vec![0; block.len()];
    for (_, n) in sectors.iter().enumerate().filter(|(bit, _)| subset & 1 << bit != 0) {
        let sector = n * SECTOR_BYTES..(n + 1) * SECTOR_BYTES;
        bytes[sector.clone()].copy_from_slice(&block[sector]);
    }
    bytes
}

/// Two blocks behind each other, of which the power cut left any sectors of either: the log ends
/// at the first that is not whole, unless the second says that the first had been durable.
#[test]
fn a_power_cut_that_leaves_any_sectors_ends_the_log_and_lost_sectors_are_named() {
    for (first, durable) in blocks().iter().flat_map(|block| [(block, 0), (block, 1)]) {
        let Some(header) = block::header(first, SALT) else { panic!("a header") };
        let draft = BlockDraft {
            block_no: header.block_no + 1,
            durable_block_no: header.block_no + durable,
            prev_crc: header.header_crc,
            ..DRAFT
        };
        let mut second = Vec::new();
        block::encode(&draft, [&appended().bytes()[..]], &mut second);
        let (ours, theirs) = (sectors(first), sectors(&second));
        let (whole, second_whole) = ((1 << ours.len()) - 1, (1 << theirs.len()) - 1);
        for (left, left_behind) in
            (0..=whole).flat_map(|left| (0..=second_whole).map(move |behind| (left, behind)))
        {
            let mut bytes = written(first, &ours, left);
            bytes.extend(written(&second, &theirs, left_behind));
            bytes.extend([0; PAGE_BYTES]);
            let verdict = judge(&bytes);
            let seen = format!("{left:b} then {left_behind:b}: {verdict:?}");
            if left == whole {
                assert!(matches!(verdict, Verdict::Accept(_)), "{seen}");
            } else if durable == 1 && left_behind & 1 == 1 {
                assert!(matches!(verdict, Verdict::Corrupt(Damage::Lost { .. })), "{seen}");
            } else {
                assert_eq!(verdict, Verdict::End { torn: left & 1 == 1 }, "{seen}");
            }
        }
    }
}

#[test]
fn the_largest_payload_reads_back_and_one_more_byte_is_never_written() {
    let payload = vec![0; BLOCK_PAYLOAD_MAX];
    let mut bytes = Vec::new();
    block::encode(&DRAFT, [&payload[..]], &mut bytes);
    let Found::Block(found) = block::inspect(&bytes, &EXPECTED) else { panic!("not a block") };
    assert!(found.payload.len() == payload.len() && is_zero(&found.payload));
    let more = std::panic::catch_unwind(|| {
        block::encode(&DRAFT, [&payload[..], b"x"], &mut Vec::new());
    });
    assert!(more.is_err(), "a block over the limit was put together");
}
