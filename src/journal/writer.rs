//! Appends blocks to a slot-shaped file and syncs them.

use std::{io, sync::Arc};

use crate::{
    format::{
        block::{self, BlockDraft, BlockHeader},
        slot::{FIRST_BLOCK_AT, SlotHeader, SlotKind},
    },
    platform::File,
    sabotage::{self, Bug},
};

/// Where a block was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// Where it begins in its file.
    pub position: u64,
    /// Its header.
    pub header: BlockHeader,
}

/// Writes the blocks of one log, file after file.
///
/// `durable_block_no <= next_block_no`; both exclusive ends. After an error nothing is known of
/// the file: the writer is not used again.
pub struct BlockWriter {
    file: Arc<dyn File>,
    header: SlotHeader,
    position: u64,
    next_block_no: u64,
    prev_crc: u32,
    durable_block_no: u64,
    clock_ms: u64,
    buffer: Vec<u8>,
}

impl BlockWriter {
    /// A writer whose first block goes to the start of `file`, whose header page is durable.
    /// Every block below `durable_block_no` is known to be durable.
    pub fn new(file: Arc<dyn File>, header: SlotHeader, durable_block_no: u64) -> Self {
        assert!(durable_block_no <= header.first_block_no, "durable never passes the tail");
        Self {
            file,
            position: FIRST_BLOCK_AT as u64,
            next_block_no: header.first_block_no,
            prev_crc: header.prev_crc,
            durable_block_no,
            clock_ms: 0,
            buffer: Vec::new(),
            header,
        }
    }

    /// Goes on in another file, whose header page is durable and continues this log.
    pub fn continue_in(&mut self, file: Arc<dyn File>, header: SlotHeader) {
        assert_eq!(header.first_block_no, self.next_block_no, "blocks are numbered densely");
        assert_eq!(header.prev_crc, self.prev_crc, "blocks are chained");
        assert_eq!(self.durable_block_no, self.next_block_no, "a file is left when it is durable");
        self.file = file;
        self.header = header;
        self.position = FIRST_BLOCK_AT as u64;
    }

    /// Number of the next block.
    pub fn next_block_no(&self) -> u64 {
        self.next_block_no
    }

    /// `header_crc` of the last block.
    pub fn prev_crc(&self) -> u32 {
        self.prev_crc
    }

    /// Bytes left in the file, whole blocks included.
    pub fn remaining(&self) -> u64 {
        self.header.size.saturating_sub(self.position)
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.header.size
    }

    /// Whether a block with so many bytes of payload fits the file.
    pub fn fits(&self, payload_len: usize) -> bool {
        block::block_bytes(payload_len) as u64 <= self.remaining()
    }

    /// Writes a block. It is durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// Whatever the operating system says; the writer must not be used again.
    ///
    /// # Panics
    /// If the block does not fit, or the block before is not durable.
    pub fn write<'a>(
        &mut self,
        flags: u8,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        now_ms: u64,
    ) -> io::Result<BlockPlace> {
        assert_eq!(self.durable_block_no, self.next_block_no, "one block at a time is in doubt");
        self.write_unchecked(flags, pieces, now_ms)
    }

    /// Writes a block without waiting for the one before: for copies that become durable together.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_unchecked<'a>(
        &mut self,
        flags: u8,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        now_ms: u64,
    ) -> io::Result<BlockPlace> {
        self.clock_ms = self.clock_ms.max(now_ms);
        let draft = BlockDraft {
            salt: self.header.salt,
            file_seq: self.header.file_seq,
            block_no: self.next_block_no,
            durable_block_no: self.durable_block_no,
            prev_crc: self.prev_crc,
            clock_ms: self.clock_ms,
            incarnation: self.header.incarnation as u32,
            flags,
        };
        let header = block::encode(&draft, pieces, &mut self.buffer);
        assert!(self.buffer.len() as u64 <= self.remaining(), "a block never spans files");
        self.file.write_pages_at(&self.buffer, self.position)?;
        let place = BlockPlace { position: self.position, header };
        self.position += self.buffer.len() as u64;
        self.next_block_no += 1;
        self.prev_crc = header.header_crc;
        Ok(place)
    }

    /// Makes every block written so far durable.
    ///
    /// # Errors
    /// Whatever the operating system says; the writer must not be used again, above all not to
    /// sync once more: a second sync may succeed although the bytes are lost.
    pub fn sync(&mut self) -> io::Result<()> {
        let skips = match self.header.kind {
            SlotKind::Journal => sabotage::is(Bug::NoJournalSync),
            SlotKind::Manifest => sabotage::is(Bug::NoManifestSync),
        };
        if !skips {
            self.sync_file()?;
        }
        self.assume_durable();
        Ok(())
    }

    fn sync_file(&self) -> io::Result<()> {
        match self.file.sync_data() {
            Err(_) if sabotage::is(Bug::RetryFailedSync) => self.file.sync_data(),
            synced => synced,
        }
    }

    /// Takes every block written so far for durable.
    pub(crate) fn assume_durable(&mut self) {
        self.durable_block_no = self.next_block_no;
    }
}
