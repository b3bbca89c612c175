//! Reads the blocks of a slot-shaped file in order and says where, and why, they end.
//!
//! Reading changes nothing. What is made of the blocks is the visitor's business: open, verify and
//! dump are visitors of the same scan.

use std::{io, sync::Arc};

use crate::{
    error::{Corruption, OpenError},
    format::{
        Damage, PAGE_BYTES,
        block::{self, Block, BlockHeader, Expected, block_bytes},
        slot::{self, FIRST_BLOCK_AT, SlotHeader, SlotKind},
        verdict::{Place, Verdict, judge_block, proves_durable},
    },
    platform::{File, Open, RelPath, Vfs},
    record::BLOCK_PAYLOAD_MAX,
};

/// Bytes that are read of a slot-shaped file at once, if its blocks are not larger.
const WINDOW_BYTES: usize = 1 << 20;

/// A slot-shaped file that is read through a window: what is in memory at once is a block at most,
/// however large the file is.
pub struct SlotFile {
    path: RelPath,
    file: Arc<dyn File>,
    bytes: u64,
    /// Blocks that begin here or behind are not read.
    stop_at: u64,
}

/// A part of a file.
struct Window {
    from: u64,
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

/// Why a scan ended before the log did.
#[derive(Debug)]
pub enum ScanError {
    /// It came across damage, which begins at this position of the file.
    Damaged(u64, Damage),
    /// The operating system refused.
    Io(io::Error),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a file to be read as the disk has it.
///
/// The sync and the dropped cache are what make it so: after an earlier failed sync, the page
/// cache may show bytes that never reached the disk.
fn open_from_disk(vfs: &dyn Vfs, path: &RelPath) -> io::Result<Arc<dyn File>> {
    let file = vfs.open(path, Open::Read)?;
    file.sync_data()?;
    file.drop_cache()?;
    Ok(file)
}

/// Reads a small file as the disk has it; of one that is larger than a page, a page and one byte.
///
/// # Errors
/// Whatever the operating system says.
pub fn read_from_disk(vfs: &dyn Vfs, path: &RelPath) -> io::Result<Vec<u8>> {
    let file = open_from_disk(vfs, path)?;
    let mut bytes = vec![0; file.len()?.min(PAGE_BYTES as u64 + 1) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl SlotFile {
    /// Opens a slot-shaped file, to be read as the disk has it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn open(vfs: &dyn Vfs, path: RelPath) -> io::Result<Self> {
        let file = open_from_disk(vfs, &path)?;
        let bytes = file.len()?;
        Ok(Self { path, file, bytes, stop_at: u64::MAX })
    }

    /// Reads only the blocks of which something is in the file by now: a scan of a file that is
    /// being written to ends, however fast it is written to. A block that is being written is still
    /// read to its end.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn as_of_now(mut self) -> io::Result<Self> {
        self.stop_at = self.written()?;
        Ok(self)
    }

    /// Where what was written ends by now: what no block was written to is zero.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn written(&self) -> io::Result<u64> {
        let mut end = self.bytes;
        while 0 < end {
            let from = end.saturating_sub(WINDOW_BYTES as u64);
            let window = self.window(from, (end - from) as usize)?;
            if let Some(last) = window.bytes.iter().rposition(|byte| *byte != 0) {
                return Ok(from + last as u64 + 1);
            }
            end = from;
        }
        Ok(0)
    }

    /// Says that all of the file will soon be read.
    pub fn will_need(&self) {
        self.file.will_need(0, self.bytes);
    }

    /// Length of the file in bytes, whatever its header says.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The header page.
    ///
    /// # Errors
    /// What is wrong with both of its copies.
    pub fn header(&self, kind: SlotKind) -> io::Result<Result<SlotHeader, Damage>> {
        let page = self.window(0, PAGE_BYTES)?;
        Ok(slot::decode(&page.bytes, kind))
    }

    /// Passes on a header whose file has at least the size that it tells. Files get their size,
    /// durably, before anything names them: one that is shorter lost its end, and maybe blocks.
    ///
    /// # Errors
    /// [`Damage::Length`].
    pub fn check_size(&self, header: SlotHeader) -> Result<SlotHeader, Damage> {
        let available = self.bytes;
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
    /// block that `visit` refused (row 9); what the operating system says.
    pub fn scan(
        &self,
        header: &SlotHeader,
        next: &mut Next,
        next_slot_first: Option<u64>,
        visit: impl FnMut(BlockAt) -> Result<(), Damage>,
    ) -> Result<Ended, ScanError> {
        self.scan_from(FIRST_BLOCK_AT as u64, header, next, next_slot_first, visit)
    }

    /// As [`scan`](Self::scan), from a block that stands at `position`.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn scan_from(
        &self,
        mut position: u64,
        header: &SlotHeader,
        next: &mut Next,
        next_slot_first: Option<u64>,
        mut visit: impl FnMut(BlockAt) -> Result<(), Damage>,
    ) -> Result<Ended, ScanError> {
        let end = self.bytes.min(header.size);
        let mut window = Window { from: position, bytes: Vec::new() };
        loop {
            if self.stop_at <= position {
                return Ok(Ended::EndOfLog { torn: false, position });
            }
            let expected = Expected {
                salt: header.salt,
                file_seq: header.file_seq,
                block_no: next.block_no,
                prev_crc: next.prev_crc,
            };
            let place = Place {
                bytes: self.block_in(&mut window, position, end, header.salt)?,
                expected,
                next_slot_first,
                previous_clean: next.previous_clean,
            };
            let mut failed = None;
            let verdict = judge_block(&place, || {
                let after = position + PAGE_BYTES as u64;
                let proof = |_, later: &BlockHeader| proves_durable(later, &expected);
                self.find_header(header, after, end, proof)
                    .unwrap_or_else(|error| {
                        failed = Some(error);
                        None
                    })
                    .is_some()
            });
            if let Some(error) = failed {
                return Err(error.into());
            }
            let block = match verdict {
                Verdict::Accept(block) => block,
                Verdict::NextSlot => return Ok(Ended::NextSlot),
                Verdict::End { torn } => return Ok(Ended::EndOfLog { torn, position }),
                Verdict::Corrupt(damage) => return Err(ScanError::Damaged(position, damage)),
            };
            *next = Next {
                block_no: block.header.block_no + 1,
                prev_crc: block.header.header_crc,
                previous_clean: block.header.flags & block::FLAG_CLEAN != 0,
            };
            let disk_bytes = block.header.disk_bytes() as u64;
            visit(BlockAt { position, block })
                .map_err(|damage| ScanError::Damaged(position, damage))?;
            position += disk_bytes;
        }
    }

    /// The block at a position, as far as its header tells its length and the file has it; without
    /// a sound header, a page.
    fn block_in<'a>(
        &self,
        window: &'a mut Window,
        position: u64,
        end: u64,
        salt: u64,
    ) -> io::Result<&'a [u8]> {
        let left = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
        if !window.holds(position, left.min(PAGE_BYTES)) {
            *window = self.window(position, left.min(WINDOW_BYTES))?;
        }
        let header = block::header(window.from(position), salt);
        let len = header.map_or(PAGE_BYTES, |header| header.disk_bytes());
        // What claims to be larger than any block is judged by its header alone.
        let len = if len <= block_bytes(BLOCK_PAYLOAD_MAX) { len.min(left) } else { PAGE_BYTES };
        let len = len.min(left);
        if !window.holds(position, len) {
            *window = self.window(position, len.max(WINDOW_BYTES).min(left))?;
        }
        Ok(&window.from(position)[..len])
    }

    /// Bytes from a position on: `len` of them, or as many as the file has.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn bytes_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.window(position, len)?.bytes)
    }

    fn window(&self, from: u64, len: usize) -> io::Result<Window> {
        let left = usize::try_from(self.bytes.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(Window { from, bytes })
    }

    /// The first header of a block, sound under the file's salt and of this use of it, on a page
    /// from `from` to `end` that is what is looked for; and where it stands.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn find_header(
        &self,
        header: &SlotHeader,
        from: u64,
        end: u64,
        mut is_wanted: impl FnMut(u64, &BlockHeader) -> bool,
    ) -> io::Result<Option<(u64, BlockHeader)>> {
        let mut position = from;
        while position < end.min(self.bytes) {
            let left = usize::try_from(end - position).unwrap_or(usize::MAX);
            let window = self.window(position, left.min(WINDOW_BYTES))?;
            for page in window.bytes.chunks(PAGE_BYTES) {
                if let Some(found) = block::header(page, header.salt)
                    && found.file_seq == header.file_seq
                    && is_wanted(position, &found)
                {
                    return Ok(Some((position, found)));
                }
                position += PAGE_BYTES as u64;
            }
        }
        Ok(None)
    }

    /// Why a store with this file does not open: damage with what follows it.
    pub fn refusal(&self, header: &SlotHeader, error: ScanError) -> OpenError {
        let (position, damage) = match error {
            ScanError::Damaged(position, damage) => (position, damage),
            ScanError::Io(error) => return error.into(),
        };
        let mut sound_blocks_after = 0;
        let found = self.find_header(header, position + PAGE_BYTES as u64, self.bytes, |_, _| {
            sound_blocks_after += 1;
            false
        });
        match found {
            Ok(_) => OpenError::Corrupt {
                corruption: self.corruption(position, damage),
                sound_blocks_after,
            },
            Err(error) => error.into(),
        }
    }

    /// Names damage of this file.
    pub fn corruption(&self, position: u64, damage: Damage) -> Corruption {
        Corruption { file: self.path.as_str().into(), position, damage }
    }
}

impl Window {
    fn holds(&self, position: u64, len: usize) -> bool {
        self.from <= position && position + len as u64 <= self.from + self.bytes.len() as u64
    }

    /// The bytes from a position on that lies in the window or at its end.
    fn from(&self, position: u64) -> &[u8] {
        &self.bytes[(position - self.from) as usize..]
    }
}
