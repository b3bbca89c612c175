//! Compression of blocks: never of single records, which do not compress.
//!
//! What it deliberately does not do: choose. The caller says which codec, and when it has haste; a block that does not get
//! smaller is stored as it is.

use std::cell::RefCell;

use super::Damage;

/// How a block's payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// As it is.
    None,
    /// LZ4 block format.
    Lz4,
    /// One zstd frame.
    #[default]
    Zstd,
}

/// Level of zstd. Blocks of JSON chunks get 5.4 times smaller at level 1 and 5.7 times at level 9, at
/// a seventh of the speed; text 3.0 and 3.3 times (`cargo bench --bench compression`).
const ZSTD_LEVEL: i32 = 1;

impl Codec {
    /// Number on disk.
    pub fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// Codec for when blocks come in faster than this one compresses them: LZ4 for zstd. It takes three
    /// quarters of the time, and half of it when the block is read back; JSON chunks get 3.8 times smaller
    /// instead of 5.4, text 2.2 instead of 3.0. Levels of zstd that are as fast give larger blocks than
    /// LZ4 (`cargo bench --bench compression`).
    #[must_use]
    pub fn hasty(self) -> Self {
        match self {
            Self::Zstd => Self::Lz4,
            other => other,
        }
    }

    /// Codec with this number.
    ///
    /// # Errors
    /// [`Damage::Unknown`].
    pub fn from_number(number: u8) -> Result<Self, Damage> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            _ => Err(Damage::Unknown { what: "codec", found: u64::from(number) }),
        }
    }
}

/// Compresses blocks one after the other; keeps what the codec needs between them.
pub struct Compressor {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish()
    }
}

impl Compressor {
    /// A compressor. Without memory for zstd's tables it stores blocks as they are.
    pub fn new(codec: Codec) -> Self {
        let zstd = match codec {
            Codec::Zstd => zstd::bulk::Compressor::new(ZSTD_LEVEL).ok(),
            Codec::None | Codec::Lz4 => None,
        };
        Self { codec, zstd }
    }

    /// Compresses `raw`; `None` and the bytes as they are if that does not make them smaller.
    pub fn compress<'a>(&mut self, raw: &'a [u8], out: &'a mut Vec<u8>) -> (Codec, &'a [u8]) {
        out.clear();
        let done = match self.codec {
            Codec::None => false,
            Codec::Lz4 => {
                out.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                let len = lz4_flex::block::compress_into(raw, out);
                len.map(|len| out.truncate(len)).is_ok()
            }
            Codec::Zstd => self.zstd.as_mut().is_some_and(|zstd| {
                out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                zstd.compress_to_buffer(raw, out).is_ok()
            }),
        };
        match done && out.len() < raw.len() {
            true => (self.codec, out),
            false => (Codec::None, raw),
        }
    }
}

thread_local! {
    /// To make one asks the processor what it can do, which a virtual machine answers in tens of
    /// microseconds: more than it takes to read a small block.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// The bytes of a zstd frame; none if it is not one, or holds more than `raw_len` bytes.
fn decompress_zstd(stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Decompressor::new().ok();
        }
        kept.as_mut()?.decompress(stored, raw_len).ok()
    })
}

/// Takes the compression off a payload whose CRC holds. `raw_len` was checked against a limit by
/// the caller.
///
/// # Errors
/// [`Damage::ContentCrc`] if the bytes are not what the codec made of `raw_len` bytes.
pub fn decompress(codec: Codec, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, Damage> {
    let raw = match codec {
        Codec::None => Some(stored.to_vec()),
        Codec::Lz4 => lz4_flex::block::decompress(stored, raw_len).ok(),
        Codec::Zstd => decompress_zstd(stored, raw_len),
    };
    match raw {
        Some(raw) if raw.len() == raw_len => Ok(raw),
        _ => Err(Damage::ContentCrc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

    #[test]
    fn what_was_compressed_comes_back() {
        let text = b"the same words, the same words, ".repeat(300);
        let noise: Vec<u8> =
            (0..5_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for raw in [&text[..], &noise, b"x", b""] {
            for codec in CODECS {
                let mut out = Vec::new();
                let (used, stored) = Compressor::new(codec).compress(raw, &mut out);
                assert!(stored.len() <= raw.len());
                assert_eq!(decompress(used, stored, raw.len()).as_deref(), Ok(raw));
            }
        }
    }

    #[test]
    fn a_wrong_length_is_damage() {
        let raw = b"abcabcabcabcabcabcabcabcabcabcabcabcabcabc".repeat(4);
        for codec in CODECS {
            let mut out = Vec::new();
            let (used, stored) = Compressor::new(codec).compress(&raw, &mut out);
            assert_eq!(decompress(used, stored, raw.len() + 1), Err(Damage::ContentCrc));
            assert_eq!(decompress(used, stored, raw.len() - 1), Err(Damage::ContentCrc));
        }
        assert_eq!(CODECS.map(Codec::hasty), [Codec::None, Codec::Lz4, Codec::Lz4]);
        assert_eq!(Codec::from_number(3), Err(Damage::Unknown { what: "codec", found: 3 }));
    }
}
