//! Descriptions of segments: what decodes encodes to the same bytes.

#![no_main]

use braidlog::format::segment;
use braidlog_fuzz::put;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data.to_vec());
    if 88 <= data.len() {
        // Without parts the rest is the state.
        let mut bare = data.to_vec();
        let state = (data.len() - 88) as u32;
        put(&mut bare, 80, &0u32.to_le_bytes());
        put(&mut bare, 84, &state.to_le_bytes());
        let first_seq = data[32..40].to_vec();
        put(&mut bare, 40, &first_seq);
        check(bare);
    }
});

fn check(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    let Ok(tail) = segment::decode(&bytes) else { return };
    let mut encoded = Vec::new();
    segment::encode(&tail, &mut encoded);
    assert_eq!(encoded, bytes);
    let records: u64 = tail.parts.iter().map(|part| u64::from(part.count)).sum();
    assert_eq!(tail.head.end_seq.0 - tail.head.first_seq.0, records);
}
