//! `STORE` and `CURRENT`: what decodes encodes to the same bytes.

#![no_main]

use braidlog::format::{
    PAGE_BYTES,
    identity::{Current, StoreIdentity},
};
use braidlog_fuzz::{crc, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    _ = StoreIdentity::decode(data);
    let mut copy = data.to_vec();
    copy.resize(52, 0);
    put(&mut copy, 0, b"BLSTORE1");
    let sum = crc(&[&copy[..48]]);
    put(&mut copy, 48, &sum.to_le_bytes());
    for at in [0, 2_048] {
        let mut page = vec![0; PAGE_BYTES];
        put(&mut page, at, &copy);
        let Ok(identity) = StoreIdentity::decode(&page) else { continue };
        let encoded = identity.encode();
        assert_eq!(StoreIdentity::decode(&encoded), Ok(identity));
        assert_eq!(encoded[16..48], copy[16..48]);
    }

    let mut bytes = data.to_vec();
    if let Ok(current) = Current::decode(&bytes) {
        assert_eq!(current.encode(), bytes);
    }
    bytes.resize(44, 0);
    put(&mut bytes, 0, b"BLCURR01");
    let sum = crc(&[&bytes[..40]]);
    put(&mut bytes, 40, &sum.to_le_bytes());
    let current = Current::decode(&bytes).expect("nothing is left to be wrong");
    assert_eq!(current.encode(), bytes);
});
