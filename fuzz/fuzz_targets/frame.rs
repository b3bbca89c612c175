//! Frames: what decodes says the same when it is encoded again.

#![no_main]

use braidlog::{
    format::{
        frame::{Chain, FLAG_EFFECTS, Frame, FrameBuilder, FramePlace},
        wire::{self, RecordFields},
    },
    proto::{Record, storage::v1::Effects},
    record::{Index, Seq, StreamNo},
};
use braidlog_fuzz::seal_frame;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    check(Bytes::copy_from_slice(data));
    check(seal_frame(data, Chain(0)).into());
});

fn check(payload: Bytes) {
    let mut at = 0;
    for frame in Frame::split(payload.clone()) {
        let Ok(frame) = frame else { return };
        assert_eq!(frame.bytes(), &payload.slice(at..at + frame.bytes().len()));
        at += frame.bytes().len();
        let stub = frame.to_stub(None);
        assert_eq!(Frame::decode(stub.bytes()), Ok(stub.clone()));
        assert_eq!(stub.next_seq(), frame.next_seq());
        if frame.is_stub() {
            // It is made of a frame, and not built.
            assert_eq!(stub, frame);
            continue;
        }
        let has_effects = frame.header.flags & FLAG_EFFECTS != 0;
        let records: Result<Vec<_>, _> = wire::decode_all(frame.records()).collect();
        let (Ok(records), Ok(effects)) = (records, frame.effects()) else { continue };
        assert!(has_effects || effects == Effects::default());
        check_encoded(&frame, records, effects);
    }
    assert_eq!(at, payload.len(), "bytes without a frame were passed over");
}

fn check_encoded(frame: &Frame, mut records: Vec<Record>, effects: Effects) {
    // A kind that is not known cannot be written.
    records.iter_mut().for_each(|record| record.set_kind(record.kind()));
    let mut builder = FrameBuilder::new(0);
    for record in &records {
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
    let header = &frame.header;
    let place = FramePlace {
        run_no: header.run_no,
        first_seq: Seq(0),
        time_ms: header.time_ms,
        flags: header.flags & !FLAG_EFFECTS,
        chain: Chain(7),
    };
    let built = builder.finish(&place, &effects);
    let read = Frame::decode(built.bytes()).expect("a frame just built is sound");
    assert_eq!(read, built);
    assert_eq!((read.header.run_no, read.header.time_ms), (header.run_no, header.time_ms));
    let again: Result<Vec<_>, _> = wire::decode_all(read.records()).collect();
    // As bytes: a number that is none does not equal itself.
    let bytes = |records: &[Record]| records.iter().map(Record::encode_to_vec).collect::<Vec<_>>();
    assert_eq!(bytes(&again.expect("just written")), bytes(&records));
    assert_eq!(read.effects(), Ok(effects));
}
