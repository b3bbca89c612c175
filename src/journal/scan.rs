//! Reads the blocks of a slot-shaped file in order and says where, and why, they end.
//!
//! Reading changes nothing. What is made of the blocks is the visitor's business: open, verify and
//! dump are visitors of the same scan.

use std::io;

use crate::{
    error::Corruption,
    format::{
        Damage, PAGE_BYTES,
        block::{self, Block, BlockHeader, Expected},
        slot::{self, FIRST_BLOCK_AT, SlotHeader, SlotKind},
        verdict::{Place, Verdict, judge},
    },
    platform::{Open, RelPath, Vfs},
};

/// A slot-shaped file, in memory.
#[derive(Debug)]
pub struct SlotImage {
    path: RelPath,
    bytes: Vec<u8>,
}

/// The block that is expected next, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Its number.
    pub block_no: u64,
    /// `header_crc` of the block before.
    pub prev_crc: u32,
    /// Whether the block before said that nothing would be written after it.
    pub previous_clean: bool,
}

/// A block in its file.
#[derive(Debug)]
pub struct BlockAt {
    /// Where it begins.
    pub position: u64,
    /// The block.
    pub block: Block,
}

/// How the scan of one file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The log goes on in the next slot.
    NextSlot,
    /// The log ends here.
    EndOfLog {
        /// Whether a block was being written when the power went.
        torn: bool,
        /// Where the log ends in this file.
        position: u64,
    },
}

/// Damage that a scan came across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// What and where.
    pub corruption: Corruption,
    /// Sound blocks behind the damage, in the same file.
    pub sound_blocks_after: u64,
}

/// Reads a whole file as the disk has it.
///
/// The sync and the dropped cache are what make it so: after an earlier failed sync, the page
/// cache may show bytes that never reached the disk.
///
/// # Errors
/// Whatever the operating system says.
pub fn read_from_disk(vfs: &dyn Vfs, path: &RelPath) -> io::Result<Vec<u8>> {
    let file = vfs.open(path, Open::Read)?;
    file.sync_data()?;
    file.drop_cache()?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl SlotImage {
    /// Reads a slot-shaped file as the disk has it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn read(vfs: &dyn Vfs, path: RelPath) -> io::Result<Self> {
        let bytes = read_from_disk(vfs, &path)?;
        Ok(Self { path, bytes })
    }

    /// The header page.
    ///
    /// # Errors
    /// What is wrong with both of its copies.
    pub fn header(&self, kind: SlotKind) -> Result<SlotHeader, Damage> {
        slot::decode(&self.bytes, kind)
    }

    /// Passes on a header whose file has at least the size that it tells. Files get their size,
    /// durably, before anything names them: one that is shorter lost its end, and maybe blocks.
    ///
    /// # Errors
    /// [`Damage::Length`].
    pub fn check_size(&self, header: SlotHeader) -> Result<SlotHeader, Damage> {
        let available = self.bytes.len() as u64;
        match header.size <= available {
            true => Ok(header),
            false => Err(Damage::Length { len: header.size, available }),
        }
    }

    /// Walks the blocks from the first, giving each sound one to `visit`, and leaves in `next`
    /// what would come after the last.
    ///
    /// # Errors
    /// The first place where the table in [`verdict`](crate::format::verdict) says corrupt, or the
    /// block that `visit` refused (row 9).
    pub fn scan(
        &self,
        header: &SlotHeader,
        next: &mut Next,
        next_slot_first: Option<u64>,
        mut visit: impl FnMut(BlockAt) -> Result<(), Damage>,
    ) -> Result<Ended, Damaged> {
        let mut position = FIRST_BLOCK_AT;
        let end = self.bytes.len().min(header.size as usize);
        loop {
            let place = Place {
                bytes: &self.bytes[position.min(end)..end],
                expected: Expected {
                    salt: header.salt,
                    file_seq: header.file_seq,
                    block_no: next.block_no,
                    prev_crc: next.prev_crc,
                },
                next_slot_first,
                previous_clean: next.previous_clean,
            };
            let block = match judge(&place) {
                Verdict::Accept(block) => block,
                Verdict::NextSlot => return Ok(Ended::NextSlot),
                Verdict::End { torn } => {
                    return Ok(Ended::EndOfLog { torn, position: position as u64 });
                }
                Verdict::Corrupt(damage) => return Err(self.damaged(header, position, damage)),
            };
            *next = Next {
                block_no: block.header.block_no + 1,
                prev_crc: block.header.header_crc,
                previous_clean: block.header.flags & block::FLAG_CLEAN != 0,
            };
            let disk_bytes = block.header.disk_bytes();
            visit(BlockAt { position: position as u64, block })
                .map_err(|damage| self.damaged(header, position, damage))?;
            position += disk_bytes;
        }
    }

    /// Headers of blocks, sound under the file's salt, from any page on.
    pub fn sound_headers(
        &self,
        header: &SlotHeader,
        from: usize,
    ) -> impl Iterator<Item = BlockHeader> {
        let (salt, file_seq) = (header.salt, header.file_seq);
        self.bytes
            .get(from..)
            .unwrap_or_default()
            .chunks(PAGE_BYTES)
            .filter_map(move |page| block::header(page, salt))
            .filter(move |found| found.file_seq == file_seq)
    }

    /// Damage of this file at a position, with what follows it.
    fn damaged(&self, header: &SlotHeader, position: usize, damage: Damage) -> Damaged {
        let after = position + PAGE_BYTES;
        Damaged {
            corruption: self.corruption(position as u64, damage),
            sound_blocks_after: self.sound_headers(header, after).count() as u64,
        }
    }

    /// Names damage of this file.
    pub fn corruption(&self, position: u64, damage: Damage) -> Corruption {
        Corruption { file: self.path.as_str().into(), position, damage }
    }
}

impl From<Damaged> for crate::error::OpenError {
    fn from(damaged: Damaged) -> Self {
        Self::Corrupt {
            corruption: damaged.corruption,
            sound_blocks_after: damaged.sound_blocks_after,
        }
    }
}
