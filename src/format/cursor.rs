//! Where a reader resumes, with proof of what it has seen.
//!
//! ```text
//!   0  1 version = 1      1  1 flags: 1 stream      2 16 run_uid     18  8 seq
//!  26  4 chain           30  4 stream              34  8 index       42  4 crc of 0..42
//! ```
//! As text: base64url without padding. Everything below `seq` was delivered or filtered; `chain`
//! is the chain of the frame that holds record `seq`-1, so a store whose history differs is
//! noticed. A cursor is opaque to clients, reveals no placement and grants nothing.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{crc_of, frame::Chain, get_u32, get_u64, is_zero, put_u32, put_u64};
use crate::record::{CURSOR_BYTES_MAX, Index, RunUid, Seq, StreamNo};

const VERSION: u8 = 1;
const FLAG_STREAM: u8 = 1;
const LEN: usize = 46;
const _: () = assert!(LEN.div_ceil(3) * 4 <= CURSOR_BYTES_MAX, "a cursor fits its limit");

/// A position with proof. Text form by `Display`, read by [`Cursor::parse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The run.
    pub run_uid: RunUid,
    /// Everything below was delivered or filtered.
    pub seq: Seq,
    /// Chain of the frame that holds record `seq`-1.
    pub chain: Chain,
    /// For a reader of one stream, that stream and the next index.
    pub stream: Option<(StreamNo, Index)>,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this version, or damaged: pass back what an answer held, unchanged")]
pub struct BadCursor;

impl Cursor {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`BadCursor`] if the text was not made by this version, or was changed.
    pub fn parse(text: &str) -> Result<Self, BadCursor> {
        if CURSOR_BYTES_MAX < text.len() {
            return Err(BadCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
        if bytes.len() != LEN || bytes[0] != VERSION || bytes[1] & !FLAG_STREAM != 0 {
            return Err(BadCursor);
        }
        if get_u32(&bytes, 42) != crc_of(&[&bytes[..42]]) {
            return Err(BadCursor);
        }
        if bytes[1] != FLAG_STREAM && !is_zero(&bytes[30..42]) {
            return Err(BadCursor);
        }
        let stream = (StreamNo(get_u32(&bytes, 30)), Index(get_u64(&bytes, 34)));
        Ok(Self {
            run_uid: RunUid::from_slice(&bytes[2..18]).ok_or(BadCursor)?,
            seq: Seq(get_u64(&bytes, 18)),
            chain: Chain(get_u32(&bytes, 26)),
            stream: (bytes[1] == FLAG_STREAM).then_some(stream),
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; LEN];
        bytes[0] = VERSION;
        bytes[2..18].copy_from_slice(&self.run_uid.0);
        put_u64(&mut bytes, 18, self.seq.0);
        put_u32(&mut bytes, 26, self.chain.0);
        if let Some((stream, index)) = self.stream {
            bytes[1] = FLAG_STREAM;
            put_u32(&mut bytes, 30, stream.0);
            put_u64(&mut bytes, 34, index.0);
        }
        let crc = crc_of(&[&bytes[..42]]);
        put_u32(&mut bytes, 42, crc);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors() -> [Cursor; 2] {
        let run =
            Cursor { run_uid: RunUid([9; 16]), seq: Seq(1 << 40), chain: Chain(77), stream: None };
        [run, Cursor { stream: Some((StreamNo(3), Index(12))), ..run }]
    }

    #[test]
    fn a_cursor_reads_back_as_printed() {
        for cursor in cursors() {
            assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        }
    }

    #[test]
    fn a_changed_character_is_noticed() {
        for cursor in cursors() {
            let text = cursor.to_string();
            for at in 0..text.len() {
                for other in *b"A9_-=$ " {
                    let mut changed = text.clone().into_bytes();
                    if changed[at] == other {
                        continue;
                    }
                    changed[at] = other;
                    let changed = String::from_utf8(changed).expect("ASCII");
                    assert_eq!(Cursor::parse(&changed), Err(BadCursor), "{changed}");
                }
                assert_eq!(Cursor::parse(&text[..at]), Err(BadCursor));
            }
        }
    }
}
