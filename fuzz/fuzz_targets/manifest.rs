//! Manifest edits: what decodes says the same when it is encoded again.

#![no_main]

use braidlog::format::manifest;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(edits) = manifest::decode(&Bytes::copy_from_slice(data)) else { return };
    let encoded = manifest::encode(&edits);
    assert!(encoded.len() <= data.len(), "the shortest form is written");
    assert_eq!(manifest::decode(&encoded.into()), Ok(edits));
});
