//! Edits of the live file set: the payload of a manifest's blocks.
//!
//! A manifest is a slot-shaped file ([`slot`](super::slot)) of commit blocks
//! ([`block`](super::block)); the payload of each is one `ManifestEdits` message, applied all or
//! nothing. The first block of a manifest is a snapshot: the edits that make the whole live set.

use bytes::Bytes;
use prost::Message;

use super::{Damage, pack::PackKind};
use crate::proto::storage::v1::{
    JournalLow, ManifestEdit, ManifestEdits, PackAdded, PackDead, PackDropped, RunCounter, SlotUse,
    manifest_edit,
};

/// One edit of the live file set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// A journal slot joins the log behind all slots listed before.
    SlotUse(ListedSlot),
    /// Journal blocks below this number are no longer needed.
    JournalLow(u64),
    /// A pack joins the live files.
    PackAdded(ListedPack),
    /// The pack with this number is no longer needed.
    PackDropped(u64),
    /// So many raw bytes of a pack's frames nobody needs any more.
    PackDead {
        /// Number of the pack.
        number: u64,
        /// Bytes before compression.
        raw_bytes: u64,
    },
    /// Run counters below are used up.
    RunCounter(u64),
}

/// A pack that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedPack {
    /// Number in its file name.
    pub number: u64,
    /// Whose segments it holds.
    pub kind: PackKind,
    /// Length of the file.
    pub bytes: u64,
    /// Segments in it.
    pub segments: u32,
    /// Bytes of all frames in it before compression.
    pub raw_bytes: u64,
    /// Greatest journal block that a segment's frames come from.
    pub flushed_block: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// A slot that is part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedSlot {
    /// Number in its file name.
    pub slot: u32,
    /// Number of this use; never reused in a store.
    pub file_seq: u64,
    /// Number of its first block.
    pub first_block_no: u64,
}

/// Writes the payload of a manifest block.
pub fn encode(edits: &[Edit]) -> Vec<u8> {
    let edits = edits.iter().map(|edit| ManifestEdit { edit: Some(to_proto(edit)) }).collect();
    ManifestEdits { edits }.encode_to_vec()
}

/// Reads the payload of a manifest block.
///
/// # Errors
/// [`Damage::Message`] if it is not a list of edits that this version knows.
pub fn decode(payload: &Bytes) -> Result<Vec<Edit>, Damage> {
    let damage = Damage::Message { what: "manifest edits" };
    let message = ManifestEdits::decode(payload.clone()).map_err(|_| damage)?;
    message.edits.into_iter().map(|edit| edit.edit.map(from_proto).ok_or(damage)).collect()
}

fn to_proto(edit: &Edit) -> manifest_edit::Edit {
    match *edit {
        Edit::SlotUse(ListedSlot { slot, file_seq, first_block_no }) => {
            manifest_edit::Edit::SlotUse(SlotUse { slot, file_seq, first_block_no })
        }
        Edit::JournalLow(block_no) => manifest_edit::Edit::JournalLow(JournalLow { block_no }),
        Edit::PackAdded(pack) => manifest_edit::Edit::PackAdded(PackAdded {
            number: pack.number,
            own: pack.kind == PackKind::Own,
            bytes: pack.bytes,
            segments: pack.segments,
            raw_bytes: pack.raw_bytes,
            flushed_block: pack.flushed_block,
            created_ms: pack.created_ms,
        }),
        Edit::PackDropped(number) => manifest_edit::Edit::PackDropped(PackDropped { number }),
        Edit::PackDead { number, raw_bytes } => {
            manifest_edit::Edit::PackDead(PackDead { number, raw_bytes })
        }
        Edit::RunCounter(next) => manifest_edit::Edit::RunCounter(RunCounter { next }),
    }
}

fn from_proto(edit: manifest_edit::Edit) -> Edit {
    match edit {
        manifest_edit::Edit::SlotUse(SlotUse { slot, file_seq, first_block_no }) => {
            Edit::SlotUse(ListedSlot { slot, file_seq, first_block_no })
        }
        manifest_edit::Edit::JournalLow(JournalLow { block_no }) => Edit::JournalLow(block_no),
        manifest_edit::Edit::PackAdded(pack) => Edit::PackAdded(ListedPack {
            number: pack.number,
            kind: if pack.own { PackKind::Own } else { PackKind::Shared },
            bytes: pack.bytes,
            segments: pack.segments,
            raw_bytes: pack.raw_bytes,
            flushed_block: pack.flushed_block,
            created_ms: pack.created_ms,
        }),
        manifest_edit::Edit::PackDropped(PackDropped { number }) => Edit::PackDropped(number),
        manifest_edit::Edit::PackDead(PackDead { number, raw_bytes }) => {
            Edit::PackDead { number, raw_bytes }
        }
        manifest_edit::Edit::RunCounter(RunCounter { next }) => Edit::RunCounter(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_read_back_as_written() {
        let edits = [
            Edit::JournalLow(7),
            Edit::SlotUse(ListedSlot { slot: 0, file_seq: 0, first_block_no: 0 }),
            Edit::SlotUse(ListedSlot { slot: 3, file_seq: 9, first_block_no: 100 }),
            Edit::PackAdded(ListedPack {
                number: 4,
                kind: PackKind::Own,
                bytes: 1 << 20,
                segments: 7,
                raw_bytes: 2 << 20,
                flushed_block: 90,
                created_ms: 1_700_000_000_000,
            }),
            Edit::PackDead { number: 4, raw_bytes: 1 },
            Edit::PackDropped(4),
            Edit::RunCounter(12),
        ];
        assert_eq!(decode(&encode(&edits).into()), Ok(edits.to_vec()));
        assert_eq!(decode(&encode(&[]).into()), Ok(vec![]));
    }

    #[test]
    fn an_edit_of_a_later_version_is_refused_not_skipped() {
        // Field 1 of ManifestEdits: an edit whose only field, number 9, is unknown here.
        let payload = Bytes::from_static(&[0x0A, 0x02, 0x48, 0x01]);
        assert!(decode(&payload).is_err());
    }
}
