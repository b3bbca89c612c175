//! Which single byte explains a CRC that does not hold.
//!
//! A CRC is linear: what a wrong byte changes in it depends on the byte's place and on which of its
//! bits are wrong, and on nothing else. Taken back through the register one byte at a time
//! (Stigge, Plötz, Müller, Redlich, *Reversing CRC*, 2006), the difference between the CRC that is
//! stored and the one that is computed becomes, at the place of the wrong byte, the CRC of that byte
//! alone. So one pass over the length finds every single byte that explains the difference.
//!
//! An explanation is no proof: of *n* bytes, about one difference in 2³²/(255·*n*) is explained by
//! accident, one in 2³²/(8·*n*) by a single bit. It is for telling people what happened.
//!
//! What it deliberately does not do: change anything. Damage stays damage; nothing that is served
//! was ever mended.

/// A byte that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongByte {
    /// Its place.
    pub at: usize,
    /// The bits of it that are wrong.
    pub bits: u8,
}

impl WrongByte {
    /// The byte of a stored CRC that explains by itself why the CRC differs by `difference`.
    pub fn of_crc(difference: u32) -> Option<Self> {
        let mut wrong = difference.to_le_bytes().into_iter().enumerate().filter(|byte| byte.1 != 0);
        let (at, bits) = wrong.next()?;
        wrong.next().is_none().then_some(Self { at, bits })
    }

    /// The same byte, counted from `by` bytes before.
    pub fn behind(self, by: usize) -> Self {
        Self { at: self.at + by, ..self }
    }

    /// The number of the bit that is wrong, if only one is; 0 is the lowest.
    pub fn single_bit(self) -> Option<u32> {
        (self.bits.count_ones() == 1).then(|| self.bits.trailing_zeros())
    }
}

/// CRC-32 (IEEE), reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// What a byte does to the register.
const FORWARD: [u32; 256] = forward();
/// The byte whose effect on the register has this highest byte: each has another.
const BY_HIGH_BYTE: [u8; 256] = by_high_byte();

const fn forward() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

const fn by_high_byte() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[(FORWARD[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    table
}

/// The bytes of which each by itself explains why the CRC of `len` bytes differs by `difference`
/// (stored XOR computed), last first.
pub fn wrong_bytes(difference: u32, len: usize) -> impl Iterator<Item = WrongByte> {
    let mut register = difference;
    let places = if difference == 0 { 0..0 } else { 0..len };
    places.rev().filter_map(move |at| {
        let bits = BY_HIGH_BYTE[(register >> 24) as usize];
        let is_alone = FORWARD[bits as usize] == register;
        register = ((register ^ FORWARD[bits as usize]) << 8) | u32::from(bits);
        is_alone.then_some(WrongByte { at, bits })
    })
}

/// The byte that explains a difference: one with a single wrong bit if there is one, else the only
/// one there is; none if several explain it equally well, or none does.
pub fn wrong_byte(difference: u32, len: usize) -> Option<WrongByte> {
    let (mut found, mut several) = (None, false);
    for wrong in wrong_bytes(difference, len) {
        if wrong.single_bit().is_some() {
            return Some(wrong);
        }
        several |= found.replace(wrong).is_some();
    }
    found.filter(|_| !several)
}

/// The bytes in front that, followed by `suffix`, have this CRC: a CRC of four more bytes than a
/// known suffix determines those four.
pub fn prefix_of(crc: u32, suffix: [u8; 4]) -> u32 {
    let mut register = !crc;
    for byte in suffix.iter().rev() {
        let low = BY_HIGH_BYTE[(register >> 24) as usize];
        register = ((register ^ FORWARD[low as usize]) << 8) | u32::from(low ^ byte);
    }
    // Four bytes into the register that all is one before: the same steps, from no bytes known.
    for _ in 0..4 {
        let low = BY_HIGH_BYTE[(register >> 24) as usize];
        register = ((register ^ FORWARD[low as usize]) << 8) | u32::from(low);
    }
    register ^ u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::crc_of;

    #[test]
    fn every_wrong_byte_is_found_at_its_place_with_its_bits() {
        for len in [1, 2, 3, 4, 5, 16, 56, 300] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 31 + 7) as u8).collect();
            let stored = crc_of(&[&bytes]);
            for at in 0..len {
                for bits in 1..=255 {
                    let mut wrong = bytes.clone();
                    wrong[at] ^= bits;
                    let difference = stored ^ crc_of(&[&wrong]);
                    assert_eq!(wrong_byte(difference, len), Some(WrongByte { at, bits }));
                }
            }
        }
    }

    #[test]
    fn no_byte_explains_what_holds_or_what_two_bytes_did() {
        assert_eq!(wrong_byte(0, 1_000), None);
        let bytes = [5; 200];
        let mut wrong = bytes;
        (wrong[10], wrong[150]) = (6, 9);
        assert_eq!(wrong_byte(crc_of(&[&bytes]) ^ crc_of(&[&wrong]), 200), None);
    }

    #[test]
    fn a_known_suffix_gives_what_stands_before_it() {
        for (prefix, suffix) in [(0, 0), (1, 2), (0xdead_beef, 0x1234_5678), (u32::MAX, 7)] {
            let crc = crc_of(&[&u32::to_le_bytes(prefix), &u32::to_le_bytes(suffix)]);
            assert_eq!(prefix_of(crc, suffix.to_le_bytes()), prefix);
        }
    }
}
