//! Reads single frames again, by their place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    error::{Corruption, Error},
    format::{
        Damage,
        block::{self, BLOCK_HEADER_BYTES, BlockHeader},
        file_name,
        frame::{Chain, Frame},
    },
    platform::{File, Open, RelPath, Vfs, sync::RwLock},
    record::{RunNo, Seq},
    sabotage::{self, Bug},
};

/// Where a frame is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// The use of the slot.
    pub file_seq: u64,
    /// Where it begins in the slot.
    pub position: u32,
    /// Bytes of the frame.
    pub len: u32,
}

/// A block whose payload is masked, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedBlock {
    /// Where the block begins in its slot.
    pub position: u32,
    /// Its header, which says the use of the slot.
    pub header: BlockHeader,
}

/// The slots that make up the journal, and which of their blocks are masked.
#[derive(Default)]
pub struct FrameReader {
    slots: RwLock<HashMap<u64, Arc<OpenSlot>>>,
}

/// A slot that frames are read from.
struct OpenSlot {
    slot: u32,
    file: Arc<dyn File>,
    /// Masked blocks by position: few, since a mask is needed only for sectors full of zeros.
    masked: RwLock<BTreeMap<u32, MaskedBlock>>,
}

/// A slot that left the journal, and that somebody may still be reading from.
pub struct RetiredSlot(Arc<OpenSlot>);

impl RetiredSlot {
    /// Number in the slot's file name.
    pub fn slot(&self) -> u32 {
        self.0.slot
    }

    /// Its bytes. None if its size cannot be told.
    pub fn bytes(&self) -> u64 {
        self.0.file.len().unwrap_or(0)
    }

    /// Whether a frame of it is being read at this moment; nobody begins to any more.
    pub fn is_read(&self) -> bool {
        1 < Arc::strong_count(&self.0)
    }
}

impl FrameReader {
    /// Opens use `file_seq` of a slot for reading.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn add_slot(&self, vfs: &dyn Vfs, slot: u32, file_seq: u64) -> std::io::Result<()> {
        let file = vfs.open(&file_name::slot(slot), Open::Read)?;
        let open = OpenSlot { slot, file, masked: RwLock::default() };
        self.slots.write().insert(file_seq, Arc::new(open));
        Ok(())
    }

    /// Takes a slot that left the journal out of use.
    pub fn retire(&self, file_seq: u64) -> Option<RetiredSlot> {
        self.slots.write().remove(&file_seq).map(RetiredSlot)
    }

    /// Bytes of the slots. One whose size cannot be told has none.
    pub fn bytes(&self) -> u64 {
        self.slots.read().values().filter_map(|slot| slot.file.len().ok()).sum()
    }

    /// Remembers a masked block. Call it before any of the block's frames is read.
    pub fn add_masked(&self, block: MaskedBlock) {
        if let Some(slot) = self.slots.read().get(&block.header.file_seq) {
            slot.masked.write().insert(block.position, block);
        }
    }

    /// Reads a frame and checks that it is the one expected; none if its slot has left the
    /// journal, which happens only when the frame is in a segment. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or another one, [`Error::Io`] if the disk fails.
    pub fn read(
        &self,
        at: FrameAt,
        run_no: RunNo,
        first_seq: Seq,
        chain: Chain,
    ) -> Result<Option<Frame>, Error> {
        let Some(slot) = self.slots.read().get(&at.file_seq).cloned() else { return Ok(None) };
        let path = file_name::slot(slot.slot);
        let corrupt = |damage| {
            let position = u64::from(at.position);
            Error::Corrupt(Corruption { file: path.as_str().into(), position, damage })
        };
        let mut bytes = vec![0; at.len as usize];
        slot.file
            .read_exact_at(&mut bytes, u64::from(at.position))
            .map_err(|source| io_error(&path, source))?;
        if let Some(masked) = slot.mask_at(at.position) {
            let offset = at.position - masked.position - BLOCK_HEADER_BYTES as u32;
            block::unmask(&mut bytes, u64::from(offset), &masked.header);
        }
        let frame = Frame::decode(&bytes.into()).map_err(corrupt)?;
        let found = &frame.header;
        let is_whole = frame.bytes().len() == at.len as usize;
        if found.run_no != run_no || found.first_seq != first_seq || !is_whole {
            return Err(corrupt(Damage::Misplaced {
                what: "first_seq",
                found: found.first_seq.0,
                expected: first_seq.0,
            }));
        }
        match found.chain == chain || sabotage::is(Bug::IgnoreFrameChain) {
            true => Ok(Some(frame)),
            false => Err(corrupt(Damage::Chain)),
        }
    }
}

impl OpenSlot {
    /// The masked block that holds a position, if one does.
    fn mask_at(&self, position: u32) -> Option<MaskedBlock> {
        let masked = self.masked.read();
        let before = masked.range(..=position).next_back().map(|(_, block)| *block)?;
        let end = u64::from(before.position) + before.header.disk_bytes() as u64;
        (u64::from(position) < end).then_some(before)
    }
}

fn io_error(path: &RelPath, source: std::io::Error) -> Error {
    Error::Io { operation: format!("read {path}").into(), source: Arc::new(source) }
}
