//! The two small files at the root: what the store is, and which manifest is live.
//!
//! ```text
//! STORE     4 KiB page, written once; two identical copies at 0 and 2,048, either suffices
//!   0  8 magic "BLSTORE1"     8  2 version    10 6 zero    16 16 store_uuid
//!  32  8 vshards = 1,024     40  8 created_ms 48  4 crc of 0..48
//! CURRENT   44 bytes; replaced as a whole: new file, sync, rename, directory sync
//!   0  8 magic "BLCURR01"     8  8 manifest number    16 16 store_uuid
//!  32  8 incarnation that wrote it                     40  4 crc of 0..40
//! ```

use super::{
    Damage, FORMAT_VERSION, PAGE_BYTES, crc_of, get_u16, get_u32, get_u64, is_zero, put_u16,
    put_u32, put_u64,
};
use crate::record::VSHARDS;

const STORE_MAGIC: [u8; 8] = *b"BLSTORE1";
const STORE_LEN: usize = 52;
const SECOND_COPY_AT: usize = 2_048;
const CURRENT_MAGIC: [u8; 8] = *b"BLCURR01";
const CURRENT_LEN: usize = 44;

/// What `STORE` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Identity of the store: 16 random bytes that every other file repeats.
    pub store_uuid: [u8; 16],
    /// Milliseconds since the Unix epoch of the store's creation.
    pub created_ms: u64,
}

impl StoreIdentity {
    /// Writes the page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        page[..8].copy_from_slice(&STORE_MAGIC);
        put_u16(&mut page, 8, FORMAT_VERSION);
        page[16..32].copy_from_slice(&self.store_uuid);
        put_u64(&mut page, 32, VSHARDS);
        put_u64(&mut page, 40, self.created_ms);
        let crc = crc_of(&[&page[..48]]);
        put_u32(&mut page, 48, crc);
        page.copy_within(..STORE_LEN, SECOND_COPY_AT);
        page
    }

    /// Reads the page; the copy that is sound, the first if both are.
    ///
    /// # Errors
    /// What is wrong with the first copy, if neither is sound.
    pub fn decode(page: &[u8]) -> Result<Self, Damage> {
        if page.len() < PAGE_BYTES {
            return Err(Damage::Short);
        }
        Self::decode_copy(&page[..STORE_LEN]).or_else(|damage| {
            Self::decode_copy(&page[SECOND_COPY_AT..][..STORE_LEN]).or(Err(damage))
        })
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, Damage> {
        if copy[..8] != STORE_MAGIC {
            return Err(Damage::Magic);
        }
        if get_u32(copy, 48) != crc_of(&[&copy[..48]]) {
            return Err(Damage::HeaderCrc);
        }
        let found = get_u16(copy, 8);
        if found != FORMAT_VERSION {
            return Err(Damage::Version { found });
        }
        if !is_zero(&copy[10..16]) {
            return Err(Damage::Padding);
        }
        let vshards = get_u64(copy, 32);
        if vshards != VSHARDS {
            return Err(Damage::Unknown { what: "number of vshards", found: vshards });
        }
        let mut store_uuid = [0; 16];
        store_uuid.copy_from_slice(&copy[16..32]);
        Ok(Self { store_uuid, created_ms: get_u64(copy, 40) })
    }
}

/// What `CURRENT` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Number of the live manifest.
    pub manifest: u64,
    /// The store.
    pub store_uuid: [u8; 16],
    /// The start of the store that wrote it.
    pub incarnation: u64,
}

impl Current {
    /// Writes the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; CURRENT_LEN];
        bytes[..8].copy_from_slice(&CURRENT_MAGIC);
        put_u64(&mut bytes, 8, self.manifest);
        bytes[16..32].copy_from_slice(&self.store_uuid);
        put_u64(&mut bytes, 32, self.incarnation);
        let crc = crc_of(&[&bytes[..40]]);
        put_u32(&mut bytes, 40, crc);
        bytes
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.len() != CURRENT_LEN {
            let available = bytes.len() as u64;
            return Err(Damage::Length { len: CURRENT_LEN as u64, available });
        }
        if bytes[..8] != CURRENT_MAGIC {
            return Err(Damage::Magic);
        }
        if get_u32(bytes, 40) != crc_of(&[&bytes[..40]]) {
            return Err(Damage::HeaderCrc);
        }
        let mut store_uuid = [0; 16];
        store_uuid.copy_from_slice(&bytes[16..32]);
        Ok(Self { manifest: get_u64(bytes, 8), store_uuid, incarnation: get_u64(bytes, 32) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_known_by_either_copy() {
        let identity = StoreIdentity { store_uuid: [7; 16], created_ms: 5 };
        let page = identity.encode();
        for bit in 0..page.len() * 8 {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(StoreIdentity::decode(&page), Ok(identity), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_current_is_noticed() {
        let current = Current { manifest: 3, store_uuid: [7; 16], incarnation: 2 };
        let bytes = current.encode();
        assert_eq!(Current::decode(&bytes), Ok(current));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Current::decode(&bytes).is_err(), "bit {bit}");
        }
    }
}
