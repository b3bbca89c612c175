//! Makes zero-filled slots ahead of need.
//!
//! Real zeros, not mere allocation: overwriting them with a sync needs no metadata write, and a
//! sector that was never written is known by being zero.

use std::{io, sync::Arc};

use crate::{
    format::{
        PAGE_BYTES, file_name,
        slot::{self, SlotHeader},
    },
    platform::{File, Open, Vfs},
    sabotage::{self, Bug},
};

/// A slot file whose every byte is zero, durably; its name is durable too.
pub struct ReadySlot {
    /// Number in its file name.
    pub slot: u32,
    /// Its size in bytes.
    pub size: u64,
    file: Arc<dyn File>,
}

/// Bytes that are zeroed between two syncs.
const PIECE_BYTES: u64 = 1 << 20;

/// Makes slot `slot` ready with `size` bytes. What an interrupted attempt left under its name goes:
/// of a name whose directory could not be synced nobody can tell whether it is on the disk, but a
/// name that is made anew and synced is. After every piece `rest` is told how many bytes are zero.
///
/// # Errors
/// Whatever the operating system says. If the disk is full, the slot may be prepared again. A sync
/// that failed never counts as a full disk: whether it could be repeated cannot be known.
pub fn prepare(vfs: &dyn Vfs, slot: u32, size: u64, rest: &dyn Fn(u64)) -> io::Result<ReadySlot> {
    assert!(size.is_multiple_of(PAGE_BYTES as u64), "a slot is a number of pages");
    let path = file_name::slot(slot);
    match vfs.unlink(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = vfs.open(&path, Open::CreateNew)?;
    zero(&*file, size, rest)?;
    file.sync_all().map_err(io::Error::other)?;
    if !sabotage::is(Bug::NoSlotDirectorySync) {
        vfs.sync_dir(&path.parent()).map_err(io::Error::other)?;
    }
    Ok(ReadySlot { slot, size, file })
}

/// Makes a slot ready again that was part of the log and is no longer: over its own blocks, so that
/// no space has to be found, and none can be taken meanwhile. Its name is durable; nobody reads
/// from it any more. `rest` as for [`prepare`].
///
/// # Errors
/// Whatever the operating system says. What the slot holds is then unknown; it may be prepared
/// again only if the error came before the sync.
pub fn prepare_again(vfs: &dyn Vfs, slot: u32, rest: &dyn Fn(u64)) -> io::Result<ReadySlot> {
    let file = vfs.open(&file_name::slot(slot), Open::Write)?;
    let size = file.len()?;
    if !sabotage::is(Bug::NoSlotZeroing) {
        zero(&*file, size, rest)?;
    }
    file.sync_all().map_err(io::Error::other)?;
    Ok(ReadySlot { slot, size, file })
}

/// Fills a file with zeros, in pieces: a commit that comes meanwhile waits on the device behind a
/// piece, and not behind the whole slot. The last piece is not synced.
fn zero(file: &dyn File, size: u64, rest: &dyn Fn(u64)) -> io::Result<()> {
    let mut position = 0;
    while position < size {
        if 0 < position {
            file.sync_data().map_err(io::Error::other)?;
        }
        let bytes = PIECE_BYTES.min(size - position);
        file.write_zeros_at(position, bytes)?;
        position += bytes;
        rest(position);
    }
    Ok(())
}

impl ReadySlot {
    /// Writes the header page, durably. The slot is not part of the log before the manifest lists
    /// it.
    ///
    /// # Errors
    /// Whatever the operating system says; the slot must not be used again.
    pub fn begin(self, header: &SlotHeader) -> io::Result<Arc<dyn File>> {
        assert_eq!(header.size, self.size, "the header says how large the slot is");
        self.file.write_all_at(&slot::encode(header), 0)?;
        if !sabotage::is(Bug::NoSlotHeaderSync) {
            self.file.sync_data()?;
        }
        Ok(self.file)
    }
}
