//! What a look at a directory finds: slots, blocks, packs, places of frames, and damage.
//!
//! Says what is where, and how it ends. What it deliberately does not do: hold the content of any of it,
//! or judge what the damage costs; see [`Survey`](super::Survey) and
//! [`Verification`](super::Verification).

use crate::{
    error::Corruption,
    format::{
        Damage,
        block::BlockHeader,
        frame::{Frame, FrameHeader},
        manifest::ListedSlot,
        segment::JournalPoint,
        slot::SlotHeader,
        syndrome::WrongByte,
    },
    journal::{FrameAt, scan::Ended},
    manifest::LivePack,
    platform::RelPath,
};

/// A slot of the journal.
#[derive(Debug)]
pub struct SlotSeen {
    /// Its file.
    pub path: RelPath,
    /// What the manifest says of it.
    pub listed: ListedSlot,
    /// Bytes of the file.
    pub bytes: u64,
    /// Its header; none if that is damaged.
    pub header: Option<SlotHeader>,
    /// Its sound blocks.
    pub blocks: Vec<BlockSeen>,
    /// How they end.
    pub ending: Ending,
}

/// A sound block of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSeen {
    /// Where it begins in its slot.
    pub position: u64,
    /// Its header.
    pub header: BlockHeader,
}

/// How the blocks of a slot end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The log goes on in the next slot.
    NextSlot,
    /// The log ends at this position.
    EndOfLog {
        /// Where.
        position: u64,
        /// Whether a block was being written when the power went.
        torn: bool,
    },
    /// What follows is damaged.
    Damaged,
}

impl Ending {
    pub(super) fn of(ended: Option<Ended>) -> Self {
        match ended {
            None => Self::Damaged,
            Some(Ended::NextSlot) => Self::NextSlot,
            Some(Ended::EndOfLog { torn, position }) => Self::EndOfLog { position, torn },
        }
    }
}

/// A pack that is alive.
#[derive(Debug)]
pub struct PackSeen {
    /// Its file.
    pub path: RelPath,
    /// What the manifest says of it.
    pub live: LivePack,
    /// Why it cannot be opened, if it cannot.
    pub lost: Option<Corruption>,
}

/// A frame in the journal whose CRC holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSeen {
    /// Where it is.
    pub at: FrameAt,
    /// The place in the journal behind it.
    pub end: JournalPoint,
    /// Its fixed part.
    pub header: FrameHeader,
}

/// Something that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: RelPath,
    /// Where the damage begins.
    pub position: u64,
    /// Where it ends, exclusive; the same if that is not known.
    pub until: u64,
    /// What is wrong.
    pub damage: Damage,
    /// In the journal: the number of the block that is damaged, or missing.
    pub block_no: Option<u64>,
    /// In the journal: the frames that are damaged; those around them are sound.
    pub frames: Vec<DamagedFrame>,
}

/// A place in the journal where a frame, or several, stood that are damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFrame {
    /// Where in its slot it begins.
    pub position: u64,
    /// Where it ends.
    pub until: u64,
    /// The place in the journal behind it, as far as that can be told.
    pub end: JournalPoint,
    /// What it was, if a single wrong byte explains it, and that byte's place in its slot.
    pub probably: Option<(Frame, WrongByte)>,
}
