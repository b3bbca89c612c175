//! A pack: an immutable file that holds segments of many runs, or of one large run.
//!
//! ```text
//! header, 4 KiB   0 8 magic "BLPACK01"   8 2 version   10 2 header_len = 128   12 4 kind (0 shared, 1 own)
//!                16 8 number            24 16 store_uuid                      40 8 salt (random)
//!                48 8 created_ms        56 68 zero                           124 4 crc of 0..124
//! blocks         each at a multiple of 8, one behind the other:
//!                 0 4 magic "SBK1"       4 4 crc (salt, number, position, bytes 8..24, payload as stored)
//!                 8 1 codec              9 3 zero      12 4 raw_len      16 4 len (of the payload as stored)
//!                20 4 zero              24 … payload
//!   raw payload  frames and segment descriptions, then per description { offset 4, len 4 }, then their count 4
//! index          at a multiple of 4 KiB:
//!   directory    88 B per segment, sorted by (name_hash, run_no, flushed):
//!                 0 8 name_hash    8 8 run_no    16 8 first_seq    24 8 end_seq    32 8 flushed_block
//!                40 4 flushed_frame   44 4 flags   48 8 expires_ms   56 8 raw_bytes
//!                64 8 block      72 4 block_len    76 4 offset and 80 4 len (of the description in it)   84 4 zero
//!   bloom        64 B per bucket, over name_hash
//! footer, 4 KiB, at the very end:
//!                 0 8 magic "BLPKFT01"   8 2 version   10 2 footer_len = 128   12 4 segments
//!                16 8 number            24 16 store_uuid                      40 8 salt
//!                48 8 index_at          56 4 buckets of the bloom             60 4 crc of directory
//!                64 4 crc of bloom      68 4 blocks                           72 8 raw_bytes
//!                80 8 flushed_block (greatest)      88 8 run_counter (above that of every run in it)
//!                96 28 zero            124 4 crc of 0..124
//! ```
//! Small segments share blocks, so that runs of a few hundred bytes compress like the text they are
//! part of. Blocks of one pack may be of several codecs. A block's raw payload says by itself which segments it describes: a directory that is
//! damaged can be rebuilt from the blocks.
//!
//! The bloom filter stands once more in a small file beside the pack, so that of a pack that is gone
//! it is known which names cannot have been in it:
//! ```text
//! names   0 8 magic "BLNAME01"   8 2 version   10 2 header_len = 64   12 4 buckets
//!        16 8 number            24 16 store_uuid                    40 20 zero
//!        60 4 crc of 0..60 and the bloom filter                     64 … bloom
//! ```
//!
//! The bloom filter is split into buckets of one cache line (Putze, Sanders, Singler 2007): a hash
//! chooses a bucket and seven bits in it.
//!
//! What it deliberately does not do: say what is alive. The manifest lists the packs that are.

use bytes::Bytes;

use super::{
    Damage, FORMAT_VERSION, PAGE_BYTES,
    compress::{self, Codec, Compressor},
    crc_of, get_u16, get_u32, get_u64, is_zero, put_u16, put_u32, put_u64,
    segment::{JournalPoint, SegmentHead},
    syndrome::{WrongByte, wrong_byte},
};
use crate::{
    record::{FRAME_BYTES_MAX, RunNo, Seq},
    sabotage::{self, Bug},
};

/// Where the first block stands.
pub const FIRST_BLOCK_AT: u64 = PAGE_BYTES as u64;
/// Bytes of a block before its payload.
pub const BLOCK_HEADER_BYTES: usize = 24;
/// Alignment of blocks.
pub const BLOCK_ALIGN: usize = 8;
/// Bytes of an entry of the directory.
pub const ENTRY_BYTES: usize = 88;
/// Bytes of a bucket of the bloom filter.
pub const BUCKET_BYTES: usize = 64;
/// Raw bytes of a block, at most: checked before anything is allocated.
pub const RAW_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(2 * FRAME_BYTES_MAX < RAW_BYTES_MAX, "frames and descriptions fit a block");

/// Bytes of a file of names, at most: twenty bits for each of 25 million segments.
pub const NAMES_BYTES_MAX: usize = 64 << 20;
/// Bits of the bloom filter per segment: one in two thousand names is taken for one that is there,
/// in each pack, and costs a look into its directory.
const BLOOM_BITS: usize = 20;
/// Bits that a name sets in its bucket.
const BLOOM_PROBES: u32 = 7;
const HEADER_LEN: usize = 128;
const HEADER_MAGIC: [u8; 8] = *b"BLPACK01";
const FOOTER_MAGIC: [u8; 8] = *b"BLPKFT01";
/// What a block begins with.
pub const BLOCK_MAGIC: [u8; 4] = *b"SBK1";
const NAMES_MAGIC: [u8; 8] = *b"BLNAME01";
const NAMES_HEADER_LEN: usize = 64;

/// Whose segments a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackKind {
    /// Those of many runs.
    Shared,
    /// Those of one large run.
    Own,
}

/// What the first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// Number of the file; never reused in a store.
    pub number: u64,
    /// Whose segments it holds.
    pub kind: PackKind,
    /// The store.
    pub store_uuid: [u8; 16],
    /// Seed of every CRC in the file.
    pub salt: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// What the last page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFooter {
    /// Number of the file.
    pub number: u64,
    /// The store.
    pub store_uuid: [u8; 16],
    /// Seed of every CRC in the file.
    pub salt: u64,
    /// Where the directory begins.
    pub index_at: u64,
    /// Entries of the directory.
    pub segments: u32,
    /// Buckets of the bloom filter.
    pub buckets: u32,
    /// CRC of the directory.
    pub directory_crc: u32,
    /// CRC of the bloom filter.
    pub bloom_crc: u32,
    /// Blocks of the file.
    pub blocks: u32,
    /// Bytes of all frames before compression.
    pub raw_bytes: u64,
    /// Greatest journal block that a segment's frames come from.
    pub flushed_block: u64,
    /// Above the counter of every run in the file.
    pub run_counter: u64,
}

/// An entry of the directory: a segment, and where it is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The segment.
    pub head: SegmentHead,
    /// Position of the block that holds the description.
    pub block: u64,
    /// Bytes of that block on disk.
    pub block_len: u32,
    /// Where the description begins in the raw block.
    pub offset: u32,
    /// Bytes of the description.
    pub len: u32,
}

impl Entry {
    /// What the directory is sorted by.
    pub fn key(&self) -> (u64, RunNo, JournalPoint) {
        (self.head.name_hash, self.head.run_no, self.head.flushed)
    }
}

/// Writes the header page.
pub fn encode_header(header: &PackHeader) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    page[..8].copy_from_slice(&HEADER_MAGIC);
    put_u16(&mut page, 8, FORMAT_VERSION);
    put_u16(&mut page, 10, HEADER_LEN as u16);
    put_u32(&mut page, 12, u32::from(header.kind == PackKind::Own));
    put_u64(&mut page, 16, header.number);
    page[24..40].copy_from_slice(&header.store_uuid);
    put_u64(&mut page, 40, header.salt);
    put_u64(&mut page, 48, header.created_ms);
    seal(&mut page);
    page
}

/// Reads the header page.
///
/// # Errors
/// What is wrong with it.
pub fn decode_header(page: &[u8]) -> Result<PackHeader, Damage> {
    header_fields(page).and_then(|header| check_rest(page).map(|()| header))
}

/// Reads the fields of the header page, which a CRC covers; the rest of the page may be damaged.
///
/// # Errors
/// What is wrong with them.
pub fn header_fields(page: &[u8]) -> Result<PackHeader, Damage> {
    check_fields(page, HEADER_MAGIC, 56)?;
    let kind = match get_u32(page, 12) {
        0 => PackKind::Shared,
        1 => PackKind::Own,
        found => return Err(Damage::Unknown { what: "kind of pack", found: u64::from(found) }),
    };
    Ok(PackHeader {
        number: get_u64(page, 16),
        kind,
        store_uuid: uuid_at(page, 24),
        salt: get_u64(page, 40),
        created_ms: get_u64(page, 48),
    })
}

/// Writes the footer page.
pub fn encode_footer(footer: &PackFooter) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    page[..8].copy_from_slice(&FOOTER_MAGIC);
    put_u16(&mut page, 8, FORMAT_VERSION);
    put_u16(&mut page, 10, HEADER_LEN as u16);
    put_u32(&mut page, 12, footer.segments);
    put_u64(&mut page, 16, footer.number);
    page[24..40].copy_from_slice(&footer.store_uuid);
    put_u64(&mut page, 40, footer.salt);
    put_u64(&mut page, 48, footer.index_at);
    put_u32(&mut page, 56, footer.buckets);
    put_u32(&mut page, 60, footer.directory_crc);
    put_u32(&mut page, 64, footer.bloom_crc);
    put_u32(&mut page, 68, footer.blocks);
    put_u64(&mut page, 72, footer.raw_bytes);
    put_u64(&mut page, 80, footer.flushed_block);
    put_u64(&mut page, 88, footer.run_counter);
    seal(&mut page);
    page
}

/// Reads the footer page of a file of `file_bytes` bytes.
///
/// # Errors
/// What is wrong with it.
pub fn decode_footer(page: &[u8], file_bytes: u64) -> Result<PackFooter, Damage> {
    footer_fields(page, file_bytes).and_then(|footer| check_rest(page).map(|()| footer))
}

/// Reads the fields of the footer page of a file of `file_bytes` bytes, which a CRC covers; the rest
/// of the page may be damaged.
///
/// # Errors
/// What is wrong with them.
pub fn footer_fields(page: &[u8], file_bytes: u64) -> Result<PackFooter, Damage> {
    check_fields(page, FOOTER_MAGIC, 96)?;
    let footer = PackFooter {
        segments: get_u32(page, 12),
        number: get_u64(page, 16),
        store_uuid: uuid_at(page, 24),
        salt: get_u64(page, 40),
        index_at: get_u64(page, 48),
        buckets: get_u32(page, 56),
        directory_crc: get_u32(page, 60),
        bloom_crc: get_u32(page, 64),
        blocks: get_u32(page, 68),
        raw_bytes: get_u64(page, 72),
        flushed_block: get_u64(page, 80),
        run_counter: get_u64(page, 88),
    };
    let end = footer.index_at.checked_add(footer.index_bytes() as u64 + PAGE_BYTES as u64);
    if end != Some(file_bytes) || !footer.index_at.is_multiple_of(PAGE_BYTES as u64) {
        let len = end.unwrap_or(u64::MAX);
        return Err(Damage::Length { len, available: file_bytes });
    }
    Ok(footer)
}

impl PackFooter {
    /// Bytes of the directory.
    pub fn directory_bytes(&self) -> usize {
        self.segments as usize * ENTRY_BYTES
    }

    /// Bytes of directory and bloom filter, padding included.
    pub fn index_bytes(&self) -> usize {
        let bytes = self.directory_bytes() + self.buckets as usize * BUCKET_BYTES;
        bytes.next_multiple_of(PAGE_BYTES)
    }

    /// Splits the index into directory and bloom filter, if their CRCs hold.
    ///
    /// # Errors
    /// [`Damage::ContentCrc`], [`Damage::Short`].
    pub fn check_index<'a>(&self, index: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Damage> {
        if index.len() < self.index_bytes() {
            return Err(Damage::Short);
        }
        let (directory, rest) = index.split_at(self.directory_bytes());
        let (bloom, padding) = rest.split_at(self.buckets as usize * BUCKET_BYTES);
        if !is_zero(padding) {
            return Err(Damage::Padding);
        }
        let is_sound =
            self.crc(directory) == self.directory_crc && self.crc(bloom) == self.bloom_crc;
        match is_sound || sabotage::is(Bug::IgnorePackIndexCrc) {
            true => Ok((directory, bloom)),
            false => Err(Damage::ContentCrc),
        }
    }

    /// CRC of a part of the index.
    pub fn crc(&self, bytes: &[u8]) -> u32 {
        crc_of(&[&self.salt.to_le_bytes(), bytes])
    }
}

fn seal(page: &mut [u8]) {
    let crc = crc_of(&[&page[..124]]);
    put_u32(page, 124, crc);
}

/// Magic, CRC, version and what the CRC covers behind the fields, which end at `fields_end`.
fn check_fields(page: &[u8], magic: [u8; 8], fields_end: usize) -> Result<(), Damage> {
    if page.len() < PAGE_BYTES {
        return Err(Damage::Short);
    }
    if page[..8] != magic {
        return Err(Damage::Magic);
    }
    if get_u32(page, 124) != crc_of(&[&page[..124]]) {
        return Err(Damage::HeaderCrc);
    }
    let found = get_u16(page, 8);
    if found != FORMAT_VERSION {
        return Err(Damage::Version { found });
    }
    let len = get_u16(page, 10);
    if usize::from(len) != HEADER_LEN {
        return Err(Damage::Unknown { what: "header length", found: u64::from(len) });
    }
    match is_zero(&page[fields_end..124]) {
        true => Ok(()),
        false => Err(Damage::Padding),
    }
}

/// What no CRC covers of a page.
fn check_rest(page: &[u8]) -> Result<(), Damage> {
    match is_zero(&page[HEADER_LEN..PAGE_BYTES]) {
        true => Ok(()),
        false => Err(Damage::Padding),
    }
}

fn uuid_at(page: &[u8], at: usize) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&page[at..at + 16]);
    uuid
}

/// Where a block stands, which is part of its CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// Seed of the file.
    pub salt: u64,
    /// Number of the file.
    pub number: u64,
    /// Position of the block.
    pub position: u64,
}

/// Appends a block to `out`, with the padding behind it; returns its bytes on disk, padding apart.
///
/// # Panics
/// If `raw` is larger than [`RAW_BYTES_MAX`].
pub fn encode_block(
    place: &BlockPlace,
    raw: &[u8],
    compressor: &mut Compressor,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> u32 {
    assert!(raw.len() <= RAW_BYTES_MAX, "a block of {} raw bytes was put together", raw.len());
    let (codec, stored) = compressor.compress(raw, scratch);
    let at = out.len();
    out.resize(at + BLOCK_HEADER_BYTES, 0);
    let header = &mut out[at..];
    header[..4].copy_from_slice(&BLOCK_MAGIC);
    header[8] = codec.number();
    put_u32(header, 12, raw.len() as u32);
    put_u32(header, 16, stored.len() as u32);
    let crc = block_crc(place, &header[8..BLOCK_HEADER_BYTES], stored);
    put_u32(header, 4, crc);
    out.extend_from_slice(stored);
    let len = out.len() - at;
    out.resize(at + len.next_multiple_of(BLOCK_ALIGN), 0);
    len as u32
}

fn block_crc(place: &BlockPlace, fields: &[u8], stored: &[u8]) -> u32 {
    let BlockPlace { salt, number, position } = place;
    let identity = [salt.to_le_bytes(), number.to_le_bytes(), position.to_le_bytes()];
    crc_of(&[identity.as_flattened(), fields, stored])
}

/// The CRC that a block should have: `bytes` are exactly its bytes on disk.
///
/// # Panics
/// If they are fewer than those of a block's header.
pub fn block_crc_of(place: &BlockPlace, bytes: &[u8]) -> u32 {
    block_crc(place, &bytes[8..BLOCK_HEADER_BYTES], &bytes[BLOCK_HEADER_BYTES..])
}

/// The fixed part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    crc: u32,
    codec: Codec,
    raw_len: u32,
    len: u32,
}

impl BlockHead {
    /// Bytes of the block on disk, padding apart.
    pub fn disk_bytes(&self) -> usize {
        BLOCK_HEADER_BYTES + self.len as usize
    }

    /// Raw bytes.
    pub fn raw_bytes(&self) -> usize {
        self.raw_len as usize
    }
}

/// Reads the fixed part of a block; its CRC is not checked.
///
/// # Errors
/// What cannot be.
pub fn decode_head(bytes: &[u8]) -> Result<BlockHead, Damage> {
    let header = bytes.get(..BLOCK_HEADER_BYTES).ok_or(Damage::Short)?;
    if header[..4] != BLOCK_MAGIC {
        return Err(Damage::Magic);
    }
    if !is_zero(&header[9..12]) || !is_zero(&header[20..24]) {
        return Err(Damage::Padding);
    }
    let head = BlockHead {
        crc: get_u32(header, 4),
        codec: Codec::from_number(header[8])?,
        raw_len: get_u32(header, 12),
        len: get_u32(header, 16),
    };
    let (raw, stored) = (u64::from(head.raw_len), u64::from(head.len));
    let limit = if head.codec == Codec::None { stored } else { RAW_BYTES_MAX as u64 };
    if limit < raw || raw < stored || (RAW_BYTES_MAX as u64) < raw {
        return Err(Damage::Length { len: raw, available: limit });
    }
    Ok(head)
}

/// Reads a block: `bytes` are exactly its bytes on disk.
///
/// # Errors
/// What is damaged.
pub fn decode_block(place: &BlockPlace, bytes: &[u8]) -> Result<Bytes, Damage> {
    let head = decode_head(bytes)?;
    if head.disk_bytes() != bytes.len() {
        return Err(Damage::Length {
            len: head.disk_bytes() as u64,
            available: bytes.len() as u64,
        });
    }
    let (fields, stored) = (&bytes[8..BLOCK_HEADER_BYTES], &bytes[BLOCK_HEADER_BYTES..]);
    let crc = block_crc(place, fields, stored);
    if crc != head.crc && !sabotage::is(Bug::IgnorePackBlockCrc) {
        return Err(Damage::ContentCrc);
    }
    compress::decompress(head.codec, stored, head.raw_len as usize).map(Bytes::from)
}

/// The raw block that `bytes`, exactly its bytes on disk, would be if one byte of them were another
/// one, and which.
pub fn mended_block(place: &BlockPlace, bytes: &[u8]) -> Option<(Bytes, WrongByte)> {
    let header = bytes.get(..BLOCK_HEADER_BYTES)?;
    let (fields, stored) = (&header[8..], &bytes[BLOCK_HEADER_BYTES..]);
    let difference = get_u32(header, 4) ^ block_crc(place, fields, stored);
    let magic = u32::from_le_bytes(BLOCK_MAGIC) ^ get_u32(header, 0);
    let wrong = match (difference, WrongByte::of_crc(difference)) {
        (0, _) => WrongByte::of_crc(magic)?,
        (_, Some(wrong)) => wrong.behind(4),
        (_, None) => wrong_byte(difference, bytes.len() - 8)?.behind(8),
    };
    let mut mended = bytes.to_vec();
    mended[wrong.at] ^= wrong.bits;
    decode_block(place, &mended).ok().map(|raw| (raw, wrong))
}

/// Where a segment is described in a raw block: offset and length.
pub type Described = (u32, u32);

/// Ends a raw block by saying where in it segments are described.
pub fn put_described(raw: &mut Vec<u8>, described: &[Described]) {
    for (offset, len) in described {
        raw.extend_from_slice(&offset.to_le_bytes());
        raw.extend_from_slice(&len.to_le_bytes());
    }
    raw.extend_from_slice(&(described.len() as u32).to_le_bytes());
}

/// Where in a raw block segments are described.
///
/// # Errors
/// Places that pass the block.
pub fn described(raw: &[u8]) -> Result<Vec<Described>, Damage> {
    let available = raw.len() as u64;
    let content = raw.len().checked_sub(4).ok_or(Damage::Short)?;
    let count = get_u32(raw, content) as usize;
    let len = count as u64 * 8;
    let table = content.checked_sub(count.saturating_mul(8));
    let table = table.ok_or(Damage::Length { len, available })?;
    raw[table..content]
        .chunks_exact(8)
        .map(|place| {
            let (offset, len) = (get_u32(place, 0), get_u32(place, 4));
            match u64::from(offset) + u64::from(len) <= table as u64 {
                true => Ok((offset, len)),
                false => Err(Damage::Length { len: u64::from(len), available }),
            }
        })
        .collect()
}

/// Appends an entry of the directory.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + ENTRY_BYTES, 0);
    let bytes = &mut out[at..];
    let head = &entry.head;
    put_u64(bytes, 0, head.name_hash);
    put_u64(bytes, 8, head.run_no.0);
    put_u64(bytes, 16, head.first_seq.0);
    put_u64(bytes, 24, head.end_seq.0);
    put_u64(bytes, 32, head.flushed.block_no);
    put_u32(bytes, 40, head.flushed.frame);
    put_u32(bytes, 44, head.flags());
    put_u64(bytes, 48, head.expires_ms);
    put_u64(bytes, 56, head.raw_bytes);
    put_u64(bytes, 64, entry.block);
    put_u32(bytes, 72, entry.block_len);
    put_u32(bytes, 76, entry.offset);
    put_u32(bytes, 80, entry.len);
}

/// Reads entry `n` of a directory whose CRC holds.
///
/// # Errors
/// [`Damage::Unknown`] if it has flags of a later version.
///
/// # Panics
/// If there is no such entry.
pub fn decode_entry(directory: &[u8], n: usize) -> Result<Entry, Damage> {
    let bytes = &directory[n * ENTRY_BYTES..][..ENTRY_BYTES];
    let head = SegmentHead {
        name_hash: get_u64(bytes, 0),
        run_no: RunNo(get_u64(bytes, 8)),
        first_seq: Seq(get_u64(bytes, 16)),
        end_seq: Seq(get_u64(bytes, 24)),
        flushed: JournalPoint { block_no: get_u64(bytes, 32), frame: get_u32(bytes, 40) },
        is_first: false,
        is_deleted: false,
        is_pending: false,
        expires_ms: get_u64(bytes, 48),
        raw_bytes: get_u64(bytes, 56),
    };
    Ok(Entry {
        head: head.with_flags(get_u32(bytes, 44))?,
        block: get_u64(bytes, 64),
        block_len: get_u32(bytes, 72),
        offset: get_u32(bytes, 76),
        len: get_u32(bytes, 80),
    })
}

/// Entries of a directory that belong to a name.
pub fn entries_of(directory: &[u8], name_hash: u64) -> std::ops::Range<usize> {
    let count = directory.len() / ENTRY_BYTES;
    let hash = |n: usize| get_u64(directory, n * ENTRY_BYTES);
    let search = |is_before: &dyn Fn(u64) -> bool| {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            match is_before(hash(middle)) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    };
    search(&|hash| hash < name_hash)..search(&|hash| hash <= name_hash)
}

/// Writes the file that has a pack's bloom filter once more.
pub fn encode_names(number: u64, store_uuid: [u8; 16], bloom: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; NAMES_HEADER_LEN];
    bytes[..8].copy_from_slice(&NAMES_MAGIC);
    put_u16(&mut bytes, 8, FORMAT_VERSION);
    put_u16(&mut bytes, 10, NAMES_HEADER_LEN as u16);
    put_u32(&mut bytes, 12, (bloom.len() / BUCKET_BYTES) as u32);
    put_u64(&mut bytes, 16, number);
    bytes[24..40].copy_from_slice(&store_uuid);
    let crc = crc_of(&[&bytes[..60], bloom]);
    put_u32(&mut bytes, 60, crc);
    bytes.extend_from_slice(bloom);
    bytes
}

/// Reads the bloom filter of pack `number` from the file that has it once more.
///
/// # Errors
/// What is wrong with it.
pub fn decode_names(bytes: &[u8], number: u64, store_uuid: [u8; 16]) -> Result<&[u8], Damage> {
    if bytes.len() < NAMES_HEADER_LEN {
        return Err(Damage::Short);
    }
    let (header, bloom) = bytes.split_at(NAMES_HEADER_LEN);
    if header[..8] != NAMES_MAGIC {
        return Err(Damage::Magic);
    }
    if get_u32(header, 60) != crc_of(&[&header[..60], bloom]) {
        return Err(Damage::ContentCrc);
    }
    let found = get_u16(header, 8);
    if found != FORMAT_VERSION {
        return Err(Damage::Version { found });
    }
    if uuid_at(header, 24) != store_uuid {
        return Err(Damage::ForeignStore);
    }
    let found = get_u64(header, 16);
    if found != number {
        return Err(Damage::Misplaced { what: "pack number", found, expected: number });
    }
    let len = u64::from(get_u32(header, 12)) * BUCKET_BYTES as u64;
    match len == bloom.len() as u64 {
        true => Ok(bloom),
        false => Err(Damage::Length { len, available: bloom.len() as u64 }),
    }
}

/// Makes the bloom filter of some names.
pub fn encode_bloom(names: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let buckets = (names.len() * BLOOM_BITS).div_ceil(BUCKET_BYTES * 8).max(1);
    let mut bloom = vec![0; buckets * BUCKET_BYTES];
    for name in names {
        let bucket = bucket_of(name, buckets);
        bits_of(name).for_each(|bit| bloom[bucket + bit / 8] |= 1 << (bit % 8));
    }
    bloom
}

/// Whether a name may be among those of a bloom filter.
pub fn may_hold(bloom: &[u8], name: u64) -> bool {
    let buckets = bloom.len() / BUCKET_BYTES;
    if buckets == 0 {
        return false;
    }
    let bucket = bucket_of(name, buckets);
    bits_of(name).all(|bit| bloom[bucket + bit / 8] & (1 << (bit % 8)) != 0)
}

/// Where the bucket of a name begins: its high bits, scaled.
fn bucket_of(name: u64, buckets: usize) -> usize {
    ((u128::from(name) * buckets as u128) >> 64) as usize * BUCKET_BYTES
}

/// The bits of a name in its bucket: nine bits each of a product of its low bits.
fn bits_of(name: u64) -> impl Iterator<Item = usize> {
    let mixed = (name & 0xffff_ffff).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..BLOOM_PROBES).map(move |probe| ((mixed >> (probe * 9)) & 511) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: BlockPlace = BlockPlace { salt: 5, number: 9, position: 4_096 };

    fn header() -> PackHeader {
        PackHeader { number: 9, kind: PackKind::Own, store_uuid: [3; 16], salt: 5, created_ms: 77 }
    }

    fn footer() -> PackFooter {
        PackFooter {
            number: 9,
            store_uuid: [3; 16],
            salt: 5,
            index_at: 8_192,
            segments: 3,
            buckets: 1,
            directory_crc: 1,
            bloom_crc: 2,
            blocks: 4,
            raw_bytes: 1_000,
            flushed_block: 12,
            run_counter: 8,
        }
    }

    fn entry(name_hash: u64, run_no: u64) -> Entry {
        let head = SegmentHead {
            name_hash,
            run_no: RunNo(run_no),
            first_seq: Seq(4),
            end_seq: Seq(9),
            flushed: JournalPoint { block_no: 7, frame: 2 },
            is_first: true,
            is_deleted: false,
            is_pending: false,
            expires_ms: 5,
            raw_bytes: 600,
        };
        Entry { head, block: 4_096, block_len: 700, offset: 20, len: 90 }
    }

    #[test]
    fn pages_read_back_as_written_and_every_flipped_bit_is_noticed() {
        let pages = [(encode_header(&header()), true), (encode_footer(&footer()), false)];
        for (page, is_header) in pages {
            let is_sound = |page: &[u8]| match is_header {
                true => decode_header(page) == Ok(header()),
                false => decode_footer(page, 16_384) == Ok(footer()),
            };
            assert!(is_sound(&page));
            for bit in 0..PAGE_BYTES * 8 {
                let mut page = page.clone();
                page[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_sound(&page), "bit {bit}");
            }
        }
        assert!(decode_footer(&encode_footer(&footer()), 16_385).is_err());
    }

    #[test]
    fn blocks_read_back_where_they_were_written_and_nowhere_else() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let raw = b"words and words and words and words".repeat(20);
            let (mut out, mut scratch) = (Vec::new(), Vec::new());
            let mut compressor = Compressor::new(codec);
            let len = encode_block(&PLACE, &raw, &mut compressor, &mut scratch, &mut out) as usize;
            assert_eq!(out.len(), len.next_multiple_of(BLOCK_ALIGN));
            assert_eq!(decode_block(&PLACE, &out[..len]).as_deref(), Ok(&raw[..]));
            for other in [
                BlockPlace { salt: 6, ..PLACE },
                BlockPlace { number: 8, ..PLACE },
                BlockPlace { position: 8_192, ..PLACE },
            ] {
                assert_eq!(decode_block(&other, &out[..len]), Err(Damage::ContentCrc));
            }
            for bit in 0..len * 8 {
                let mut damaged = out[..len].to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_block(&PLACE, &damaged).is_err(), "bit {bit}");
                let wrong = WrongByte { at: bit / 8, bits: 1 << (bit % 8) };
                let mended = mended_block(&PLACE, &damaged);
                assert_eq!(mended, Some((Bytes::from(raw.clone()), wrong)), "bit {bit}");
            }
            for len in 0..len {
                assert!(decode_block(&PLACE, &out[..len]).is_err(), "cut to {len}");
            }
        }
    }

    #[test]
    fn a_block_says_which_segments_it_describes() {
        let mut raw = vec![1; 30];
        put_described(&mut raw, &[(0, 10), (10, 20)]);
        assert_eq!(described(&raw), Ok(vec![(0, 10), (10, 20)]));
        for len in 0..raw.len() {
            let _ = described(&raw[..len]);
        }
        let at = raw.len() - 8;
        put_u32(&mut raw, at, 21);
        assert!(described(&raw).is_err());
        assert!(described(&[255; 4]).is_err());
    }

    #[test]
    fn a_name_finds_all_its_entries() {
        let entries = [entry(1, 1), entry(5, 1), entry(5, 2), entry(u64::MAX, 1)];
        let mut directory = Vec::new();
        entries.iter().for_each(|entry| encode_entry(entry, &mut directory));
        for (n, entry) in entries.iter().enumerate() {
            assert_eq!(decode_entry(&directory, n), Ok(*entry));
        }
        for (hash, range) in [(0, 0..0), (1, 0..1), (2, 1..1), (5, 1..3), (u64::MAX, 3..4)] {
            assert_eq!(entries_of(&directory, hash), range);
        }
    }

    #[test]
    fn names_are_read_for_their_pack_only_and_every_flipped_bit_is_noticed() {
        let bloom = encode_bloom([1, 2, 3].into_iter());
        let bytes = encode_names(9, [3; 16], &bloom);
        assert_eq!(decode_names(&bytes, 9, [3; 16]), Ok(&bloom[..]));
        assert!(decode_names(&bytes, 8, [3; 16]).is_err());
        assert_eq!(decode_names(&bytes, 9, [4; 16]), Err(Damage::ForeignStore));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_names(&bytes, 9, [3; 16]).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode_names(&bytes[..len], 9, [3; 16]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_bloom_filter_knows_its_names_and_few_others() {
        let name = |n: u64| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes());
        let bloom = encode_bloom((0..10_000u16).map(|n| name(n.into())));
        assert!((0..10_000).all(|n| may_hold(&bloom, name(n))));
        let wrong = (10_000..110_000).filter(|&n| may_hold(&bloom, name(n))).count();
        assert!(wrong < 2_500, "{wrong} of 100,000 other names");
        assert!(!may_hold(&[], 1));
    }
}
