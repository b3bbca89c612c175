//! Records: the numbers found by skimming are those found by decoding.

#![no_main]

use braidlog::{
    format::wire::{self, RecordFields},
    proto::{ReadResponse, Record},
    record::{Index, Seq, StreamNo},
};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    check(data);
    // The same as the body of one record.
    let mut record = vec![0x0A];
    prost::encode_length_delimiter(data.len(), &mut record).expect("a vector has room");
    record.extend_from_slice(data);
    check(&record);
});

fn check(data: &[u8]) {
    let skimmed: Vec<_> = wire::skim_all(data).collect();
    let decoded: Vec<_> = wire::decode_all(Bytes::copy_from_slice(data)).collect();
    assert!(decoded.len() <= skimmed.len(), "nothing is decoded that cannot be skimmed");
    let lengths: usize = skimmed.iter().flatten().map(|found| found.len).sum();
    assert!(lengths <= data.len());
    for (found, record) in skimmed.iter().zip(&decoded) {
        let Ok(record) = record else { return };
        let found = found.expect("what decodes is skimmed");
        let numbers = (found.stream.0, found.seq.0, found.index.0, found.time_ms);
        assert_eq!(numbers, (record.stream, record.seq, record.index, record.time_ms));
        assert_eq!(found.event.is_some(), record.event.is_some());
    }
    let Ok(mut records) = decoded.into_iter().collect::<Result<Vec<Record>, _>>() else { return };
    records.iter_mut().for_each(|record| record.set_kind(record.kind()));
    let mut ours = BytesMut::new();
    for record in &records {
        wire::put_record(&mut ours, &fields(record));
    }
    let prosts = ReadResponse { records: records.clone(), ..Default::default() }.encode_to_vec();
    assert_eq!(ours, prosts);
    // As bytes: a number that is none does not equal itself.
    let again = wire::decode_all(ours.freeze()).collect::<Result<_, _>>().expect("just written");
    let again = ReadResponse { records: again, ..Default::default() }.encode_to_vec();
    assert_eq!(again, prosts);
}

fn fields(record: &Record) -> RecordFields<'_> {
    RecordFields {
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
    }
}
