//! Cursors: a text is a cursor or refused, and a cursor prints as its text.

#![no_main]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use braidlog::{format::cursor::Cursor, record::CURSOR_BYTES_MAX};
use braidlog_fuzz::{crc, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
    // The same as the bytes behind the text, with a sum that holds.
    let mut bytes = URL_SAFE_NO_PAD.decode(data).unwrap_or_else(|_| data.to_vec());
    bytes.resize(46, 0);
    let sum = crc(&[&bytes[..42]]);
    put(&mut bytes, 42, &sum.to_le_bytes());
    let parsed = check(&URL_SAFE_NO_PAD.encode(&bytes));
    let is_of_run = bytes[1] == 0 && bytes[30..42] == [0; 12];
    assert_eq!(parsed.is_some(), bytes[0] == 1 && (bytes[1] == 1 || is_of_run));
});

fn check(text: &str) -> Option<Cursor> {
    let cursor = Cursor::parse(text).ok()?;
    let printed = cursor.to_string();
    assert!(printed.len() <= CURSOR_BYTES_MAX);
    assert_eq!(printed, text);
    Some(cursor)
}
