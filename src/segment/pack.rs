//! One pack that is alive: its directory, and its blocks.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::blocks::Blocks;
use crate::{
    error::{Corruption, Error},
    format::{
        Damage, PAGE_BYTES, file_name,
        manifest::ListedPack,
        pack::{self, BlockPlace, Entry, FIRST_BLOCK_AT, PackFooter, PackHeader},
        segment::{self, SegmentTail},
    },
    platform::{File, Mapped, Open, RelPath, Vfs},
};

/// An open pack. Its directory is checked when it is first looked at.
pub struct Pack {
    listed: ListedPack,
    path: RelPath,
    file: Arc<dyn File>,
    footer: PackFooter,
    index: OnceLock<Result<Index, Damage>>,
}

/// Directory and bloom filter.
enum Index {
    /// As they are in the file; their CRCs hold.
    Stored(Mapped),
    /// Made again from the blocks, because those in the file are damaged.
    Rebuilt { directory: Vec<u8>, bloom: Vec<u8> },
}

/// A segment, and where it is described.
#[derive(Clone)]
pub struct Segment {
    /// The pack that holds it.
    pub pack: Arc<Pack>,
    /// Its entry in the directory.
    pub entry: Entry,
}

impl Pack {
    /// Opens a pack that the manifest lists.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is missing, has another length, or neither its header nor its
    /// footer can be read; [`Error::Io`].
    pub fn open(vfs: &dyn Vfs, listed: ListedPack, store_uuid: [u8; 16]) -> Result<Self, Error> {
        let path = file_name::pack(listed.number);
        let corrupt = |position, damage| corruption(&path, position, damage);
        let file = match vfs.open(&path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(0, Damage::Missing));
            }
            other => other.map_err(|error| io_error(&path, error))?,
        };
        let available = file.len().map_err(|error| io_error(&path, error))?;
        if available != listed.bytes {
            return Err(corrupt(0, Damage::Length { len: listed.bytes, available }));
        }
        let footer_at = listed.bytes.saturating_sub(PAGE_BYTES as u64);
        let page = read(&*file, &path, footer_at, PAGE_BYTES)?;
        // What its CRC covers is sound, whatever became of the rest of the page.
        let footer = pack::footer_fields(&page, listed.bytes)
            .and_then(|footer| {
                let store = footer.store_uuid == store_uuid;
                check_identity(footer.number == listed.number, store).map(|()| footer)
            })
            .or_else(|damage| footer_from_header(&*file, &path, listed, store_uuid, damage))
            .map_err(|damage| corrupt(footer_at, damage))?;
        Ok(Self { listed, path, file, footer, index: OnceLock::new() })
    }

    /// Number in the file name.
    pub fn number(&self) -> u64 {
        self.listed.number
    }

    /// What the manifest says of it.
    pub fn listed(&self) -> &ListedPack {
        &self.listed
    }

    /// Whether the pack may hold segments of a name: also if its directory cannot be read.
    pub fn may_hold(&self, name_hash: u64) -> bool {
        self.index().map_or(true, |(_, bloom)| pack::may_hold(bloom, name_hash))
    }

    /// The segments of a name, in the order of the directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the directory is damaged and cannot be made again from the blocks.
    pub fn entries_of(&self, name_hash: u64) -> Result<Vec<Entry>, Error> {
        let (directory, bloom) = self.index()?;
        if !pack::may_hold(bloom, name_hash) {
            return Ok(Vec::new());
        }
        pack::entries_of(directory, name_hash).map(|n| self.entry(directory, n)).collect()
    }

    /// All segments, in the order of the directory.
    ///
    /// # Errors
    /// As [`entries_of`](Self::entries_of).
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<Entry, Error>>, Error> {
        let (directory, _) = self.index()?;
        let count = directory.len() / pack::ENTRY_BYTES;
        Ok((0..count).map(move |n| self.entry(directory, n)))
    }

    /// Segment `n` in the order of the directory.
    ///
    /// # Errors
    /// As [`entries_of`](Self::entries_of).
    ///
    /// # Panics
    /// If there is none.
    pub fn entry_at(&self, n: usize) -> Result<Entry, Error> {
        let (directory, _) = self.index()?;
        self.entry(directory, n)
    }

    fn entry(&self, directory: &[u8], n: usize) -> Result<Entry, Error> {
        pack::decode_entry(directory, n)
            .map_err(|damage| corruption(&self.path, self.footer.index_at, damage))
    }

    /// Directory and bloom filter.
    fn index(&self) -> Result<(&[u8], &[u8]), Error> {
        let index = self.index.get_or_init(|| self.load_index().or_else(|_| self.rebuild_index()));
        match index {
            Ok(Index::Stored(index)) => {
                let (directory, rest) = (**index).as_ref().split_at(self.footer.directory_bytes());
                Ok((directory, &rest[..self.footer.buckets as usize * pack::BUCKET_BYTES]))
            }
            Ok(Index::Rebuilt { directory, bloom }) => Ok((directory, bloom)),
            Err(damage) => Err(corruption(&self.path, self.footer.index_at, *damage)),
        }
    }

    fn load_index(&self) -> Result<Index, Damage> {
        let index = self
            .file
            .map(self.footer.index_at, self.footer.index_bytes())
            .map_err(|_| Damage::Short)?;
        self.footer.check_index((*index).as_ref())?;
        Ok(Index::Stored(index))
    }

    /// Makes the directory from the blocks, if all of them are sound.
    fn rebuild_index(&self) -> Result<Index, Damage> {
        let mut entries = Vec::new();
        self.walk(|block, block_len, raw| {
            for (offset, len) in pack::described(&raw)? {
                let tail = raw.slice(offset as usize..(offset + len) as usize);
                let head = segment::decode(&tail)?.head;
                entries.push(Entry { head, block, block_len, offset, len });
            }
            Ok(())
        })
        .map_err(|error| match error {
            Error::Corrupt(corruption) => corruption.damage,
            _ => Damage::Short,
        })?;
        if entries.len() != self.listed.segments as usize {
            let (found, expected) = (entries.len() as u64, u64::from(self.listed.segments));
            return Err(Damage::Numbering { what: "segments of a pack", found, expected });
        }
        tracing::warn!(pack = %self.path, "its directory is damaged and was made again");
        entries.sort_by_key(Entry::key);
        let mut directory = Vec::with_capacity(entries.len() * pack::ENTRY_BYTES);
        entries.iter().for_each(|entry| pack::encode_entry(entry, &mut directory));
        let bloom = pack::encode_bloom(entries.iter().map(|entry| entry.head.name_hash));
        Ok(Index::Rebuilt { directory, bloom })
    }

    /// Reads all blocks in order and gives each to `visit`: position, bytes on disk, raw payload.
    ///
    /// # Errors
    /// The first damage, [`Error::Io`], or what `visit` says is damaged in a block.
    pub fn walk(
        &self,
        mut visit: impl FnMut(u64, u32, Bytes) -> Result<(), Damage>,
    ) -> Result<u32, Error> {
        let (mut position, mut blocks) = (FIRST_BLOCK_AT, 0);
        let end = self.footer.index_at;
        while blocks < self.footer.blocks || (self.footer.blocks == 0 && position < end) {
            let head = read(&*self.file, &self.path, position, pack::BLOCK_HEADER_BYTES)?;
            let head = match pack::decode_head(&head) {
                // Without a footer, blocks end where the directory begins.
                Err(_) if self.footer.blocks == 0 => break,
                other => other.map_err(|damage| corruption(&self.path, position, damage))?,
            };
            let len = head.disk_bytes() as u32;
            let raw = self.read_block(position, len)?;
            visit(position, len, raw).map_err(|damage| corruption(&self.path, position, damage))?;
            position += u64::from(len).next_multiple_of(pack::BLOCK_ALIGN as u64);
            blocks += 1;
        }
        Ok(blocks)
    }

    /// Checks what is around the blocks: pages, directory, bloom filter.
    ///
    /// # Errors
    /// The first damage.
    pub(super) fn verify_frame(&self) -> Result<(), Error> {
        let page = read(&*self.file, &self.path, 0, PAGE_BYTES)?;
        let header = pack::decode_header(&page).map_err(|damage| self.damaged(0, damage))?;
        let is_ours = header.number == self.footer.number && header.salt == self.footer.salt;
        check_identity(is_ours, header.store_uuid == self.footer.store_uuid)
            .map_err(|damage| self.damaged(0, damage))?;
        match self.load_index() {
            Ok(_) => Ok(()),
            Err(damage) => Err(self.damaged(self.footer.index_at, damage)),
        }
    }

    /// Checks all of the file: pages, blocks, directory, bloom filter.
    ///
    /// # Errors
    /// The first damage.
    pub fn verify(&self) -> Result<(), Error> {
        self.verify_frame()?;
        let mut described = 0;
        let blocks = self.walk(|_, _, raw| {
            for (offset, len) in pack::described(&raw)? {
                segment::decode(&raw.slice(offset as usize..(offset + len) as usize))?;
                described += 1;
            }
            Ok(())
        })?;
        let counts = [
            ("blocks of a pack", blocks, self.footer.blocks),
            ("segments of a pack", described, self.footer.segments),
        ];
        for (what, found, expected) in counts {
            if found != expected {
                let (found, expected) = (u64::from(found), u64::from(expected));
                return Err(self.damaged(0, Damage::Numbering { what, found, expected }));
            }
        }
        Ok(())
    }

    /// What its last page says; if that page is damaged, what the manifest says.
    pub fn footer(&self) -> &PackFooter {
        &self.footer
    }

    /// Says that all of the file will soon be read.
    pub fn will_need(&self) {
        self.file.will_need(0, self.listed.bytes);
    }

    /// Reads bytes as they stand in the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file ends before them, [`Error::Io`].
    pub fn bytes_at(&self, position: u64, len: usize) -> Result<Vec<u8>, Error> {
        read(&*self.file, &self.path, position, len)
    }

    /// Reads one block as it is on disk, `len` bytes, and decompresses it.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn read_block(&self, position: u64, len: u32) -> Result<Bytes, Error> {
        let in_file =
            position.checked_add(u64::from(len)).is_some_and(|end| end <= self.listed.bytes);
        let len_max = pack::BLOCK_HEADER_BYTES + pack::RAW_BYTES_MAX;
        if !in_file || len_max < len as usize {
            let (len, available) = (u64::from(len), self.listed.bytes.min(len_max as u64));
            return Err(self.damaged(position, Damage::Length { len, available }));
        }
        let bytes = read(&*self.file, &self.path, position, len as usize)?;
        let place = BlockPlace { salt: self.footer.salt, number: self.footer.number, position };
        pack::decode_block(&place, &bytes).map_err(|damage| self.damaged(position, damage))
    }

    /// The raw block at a position as it would be if one byte of it were another one; none if no
    /// single byte explains its damage. For telling what was there, and not for serving it.
    pub fn mended_block(&self, position: u64, len: u32) -> Option<Bytes> {
        let bytes = self.bytes_at(position, len as usize).ok()?;
        let place = BlockPlace { salt: self.footer.salt, number: self.footer.number, position };
        pack::mended_block(&place, &bytes).map(|(raw, _)| raw)
    }

    pub(super) fn damaged(&self, position: u64, damage: Damage) -> Error {
        corruption(&self.path, position, damage)
    }
}

impl Segment {
    /// Whether both are one and the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.pack.number() == other.pack.number() && self.entry == other.entry
    }

    /// Damage of the block that describes the segment.
    pub fn damaged(&self, damage: Damage) -> Error {
        self.pack.damaged(self.entry.block, damage)
    }

    /// Reads what stands behind the segment's frames: where they are, and the run's state.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn tail(&self, blocks: &Blocks) -> Result<SegmentTail, Error> {
        let Entry { block, block_len, .. } = self.entry;
        let raw = blocks.get(&self.pack, block, block_len)?;
        self.tail_in(&raw).map_err(|damage| self.pack.damaged(block, damage))
    }

    /// What stands behind the segment's frames, given the raw block that holds it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn tail_in(&self, raw: &Bytes) -> Result<SegmentTail, Damage> {
        let Entry { head, offset, len, .. } = self.entry;
        let range = offset as usize..offset as usize + len as usize;
        if raw.len() < range.end {
            let (len, available) = (range.end as u64, raw.len() as u64);
            return Err(Damage::Length { len, available });
        }
        let tail = segment::decode(&raw.slice(range))?;
        if tail.head != head {
            let (found, expected) = (tail.head.run_no.0, head.run_no.0);
            return Err(Damage::Misplaced { what: "segment", found, expected });
        }
        Ok(tail)
    }
}

/// What can be known of a pack whose footer is damaged: enough to read its blocks.
fn footer_from_header(
    file: &dyn File,
    path: &RelPath,
    listed: ListedPack,
    store_uuid: [u8; 16],
    damage: Damage,
) -> Result<PackFooter, Damage> {
    let page = read(file, path, 0, PAGE_BYTES).map_err(|_| damage)?;
    let PackHeader { number, store_uuid: store, salt, .. } =
        pack::header_fields(&page).map_err(|_| damage)?;
    check_identity(number == listed.number, store == store_uuid)?;
    Ok(PackFooter {
        number,
        store_uuid,
        salt,
        index_at: listed.bytes,
        segments: listed.segments,
        // What no sound directory has: it is made again.
        buckets: 0,
        directory_crc: 0,
        bloom_crc: 0,
        blocks: 0,
        raw_bytes: listed.raw_bytes,
        flushed_block: listed.flushed_block,
        run_counter: 0,
    })
}

fn check_identity(is_number: bool, is_store: bool) -> Result<(), Damage> {
    match (is_number, is_store) {
        (true, true) => Ok(()),
        (_, false) => Err(Damage::ForeignStore),
        (false, _) => Err(Damage::Misplaced { what: "pack number", found: 0, expected: 0 }),
    }
}

fn read(file: &dyn File, path: &RelPath, position: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, position) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(corruption(path, position, Damage::Short))
        }
        other => other.map(|()| bytes).map_err(|error| io_error(path, error)),
    }
}

pub(super) fn corruption(path: &RelPath, position: u64, damage: Damage) -> Error {
    Error::Corrupt(Corruption { file: path.as_str().into(), position, damage })
}

fn io_error(path: &RelPath, source: io::Error) -> Error {
    Error::Io { operation: format!("read {path}").into(), source: Arc::new(source) }
}
