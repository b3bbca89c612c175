//! Reads single frames again, by their place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;

use crate::{
    error::{Corruption, Error},
    format::{
        Damage,
        block::{self, BLOCK_HEADER_BYTES, BlockHeader},
        file_name,
        frame::Frame,
    },
    platform::{File, Open, RelPath, Vfs},
    record::{RunNo, Seq},
};

/// Where a frame is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// Number in the slot's file name.
    pub slot: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// Where it begins in the slot.
    pub position: u64,
}

/// A block whose payload is masked, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedBlock {
    /// Number in the slot's file name.
    pub slot: u32,
    /// Where the block begins in the slot.
    pub position: u64,
    /// Its header.
    pub header: BlockHeader,
}

/// Open slots, and which of their blocks are masked.
#[derive(Default)]
pub struct FrameReader {
    slots: RwLock<HashMap<u32, Slot>>,
}

struct Slot {
    file: Arc<dyn File>,
    /// Masked blocks by position: few, since a mask is needed only for sectors full of zeros.
    masked: BTreeMap<u64, MaskedBlock>,
}

impl FrameReader {
    /// Opens a slot for reading.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn add_slot(&self, vfs: &dyn Vfs, slot: u32) -> std::io::Result<()> {
        let file = vfs.open(&file_name::slot(slot), Open::Read)?;
        self.slots.write().insert(slot, Slot { file, masked: BTreeMap::new() });
        Ok(())
    }

    /// Remembers a masked block. Call it before any of the block's frames is read.
    pub fn add_masked(&self, block: MaskedBlock) {
        if let Some(slot) = self.slots.write().get_mut(&block.slot) {
            slot.masked.insert(block.position, block);
        }
    }

    /// Reads a frame and checks that it is the one expected. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or another one, [`Error::Io`] if the disk fails.
    pub fn read(&self, at: FrameAt, run_no: RunNo, first_seq: Seq) -> Result<Frame, Error> {
        let path = file_name::slot(at.slot);
        let corrupt = |damage| {
            Error::Corrupt(Corruption { file: path.as_str().into(), position: at.position, damage })
        };
        let (file, mask) = self.slot(at).ok_or_else(|| corrupt(Damage::Missing))?;
        let mut bytes = vec![0; at.len as usize];
        file.read_exact_at(&mut bytes, at.position).map_err(|source| io_error(&path, source))?;
        if let Some(masked) = mask {
            let offset = at.position - masked.position - BLOCK_HEADER_BYTES as u64;
            block::unmask(&mut bytes, offset, &masked.header);
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
        Ok(frame)
    }

    fn slot(&self, at: FrameAt) -> Option<(Arc<dyn File>, Option<MaskedBlock>)> {
        let slots = self.slots.read();
        let slot = slots.get(&at.slot)?;
        let before = slot.masked.range(..=at.position).next_back().map(|(_, block)| *block);
        let holds =
            |block: &MaskedBlock| at.position < block.position + block.header.disk_bytes() as u64;
        Some((slot.file.clone(), before.filter(holds)))
    }
}

fn io_error(path: &RelPath, source: std::io::Error) -> Error {
    Error::Io { operation: format!("read {path}").into(), source: Arc::new(source) }
}
