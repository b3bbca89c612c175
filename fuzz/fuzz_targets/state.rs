//! A run's state as segments end with it: what decodes encodes to a state that is the same.

#![no_main]

use braidlog::core::RunState;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(state) = RunState::from_bytes(Bytes::copy_from_slice(data)) else { return };
    let again = RunState::from_bytes(state.to_bytes()).expect("what was written is read");
    // As text where they differ: a number that is none does not equal itself.
    assert!(again == state || format!("{again:?}") == format!("{state:?}"), "{again:?} {state:?}");
});
