//! Where a watch of many runs resumes.
//!
//! ```text
//!   0  1 version = 2      1 16 store_uuid      17  4 filter (its CRC)     21  8 block_no
//!  29  4 crc of 0..29
//! ```
//! As text: base64url without padding. Every change in journal blocks below `block_no` was given.
//! Opaque to clients.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{crc_of, cursor::BadCursor, get_u32, get_u64, put_u32, put_u64};

const VERSION: u8 = 2;
const LEN: usize = 33;

/// A position in the changes of a store. Text form by `Display`, read by [`WatchCursor::parse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchCursor {
    /// The store.
    pub store_uuid: [u8; 16],
    /// CRC of what says which runs are watched.
    pub filter: u32,
    /// Every change in journal blocks below was given.
    pub block_no: u64,
}

impl WatchCursor {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`BadCursor`] if the text was not made by this version, or was changed.
    pub fn parse(text: &str) -> Result<Self, BadCursor> {
        if LEN.div_ceil(3) * 4 < text.len() {
            return Err(BadCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
        let is_sound = bytes.len() == LEN
            && bytes[0] == VERSION
            && get_u32(&bytes, 29) == crc_of(&[&bytes[..29]]);
        if !is_sound {
            return Err(BadCursor);
        }
        let mut store_uuid = [0; 16];
        store_uuid.copy_from_slice(&bytes[1..17]);
        Ok(Self { store_uuid, filter: get_u32(&bytes, 17), block_no: get_u64(&bytes, 21) })
    }
}

impl fmt::Display for WatchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; LEN];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.store_uuid);
        put_u32(&mut bytes, 17, self.filter);
        put_u64(&mut bytes, 21, self.block_no);
        let crc = crc_of(&[&bytes[..29]]);
        put_u32(&mut bytes, 29, crc);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_printed_and_a_changed_character_is_noticed() {
        let cursor = WatchCursor { store_uuid: [7; 16], filter: 9, block_no: 1 << 40 };
        let text = cursor.to_string();
        assert_eq!(WatchCursor::parse(&text), Ok(cursor));
        for at in 0..text.len() {
            for other in *b"A9_-=$ " {
                let mut changed = text.clone().into_bytes();
                if std::mem::replace(&mut changed[at], other) == other {
                    continue;
                }
                let changed = String::from_utf8(changed).expect("ascii");
                assert_eq!(WatchCursor::parse(&changed), Err(BadCursor), "{changed}");
            }
        }
        for text in ["", "x", &text[1..], &format!("{text}{text}")] {
            assert_eq!(WatchCursor::parse(text), Err(BadCursor), "{text}");
        }
    }
}
