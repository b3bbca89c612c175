//! The blocks of a slot-shaped file, in order, also behind damage.

use std::{io, thread::sleep, time::Duration};

use crate::{
    format::{Damage, PAGE_BYTES, block::BlockHeader, slot::SlotHeader},
    journal::scan::{BlockAt, Ended, Next, ScanError, SlotFile},
};

/// What stands at a place of a slot-shaped file.
#[derive(Debug)]
pub enum Step {
    /// A sound block.
    Block(BlockAt),
    /// What cannot be what was written, from a position to where a sound block stands again, or to
    /// the end of the file.
    Damage {
        /// Where it begins.
        position: u64,
        /// Where it ends.
        until: u64,
        /// What is wrong.
        damage: Damage,
        /// Number of the block that was expected there.
        block_no: u64,
        /// Number of the block with which the log goes on; none if it does not.
        next_block_no: Option<u64>,
    },
}

/// How often a place of a running store's file is looked at before what is found is believed.
pub(super) const LOOKS_MAX: u32 = 5;
/// How long a block takes to be written, with much to spare.
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Walks the blocks of a file from the first, and goes on behind damage with the next header that
/// is sound. Of a store that runs (`is_live`), what looks torn or damaged is looked at again: it may
/// have been in the middle of a write. Says how the last stretch ended; none if it ended with damage.
///
/// # Errors
/// Whatever the operating system says.
pub fn walk_slot(
    file: &SlotFile,
    header: &SlotHeader,
    first: u64,
    next: &mut Next,
    next_slot_first: Option<u64>,
    is_live: bool,
    mut visit: impl FnMut(Step),
) -> io::Result<Option<Ended>> {
    let end = file.bytes().min(header.size);
    let mut position = first;
    let (mut looked_at, mut looks) = (first, 0);
    loop {
        let scanned = file.scan_from(position, header, next, next_slot_first, |at| {
            visit(Step::Block(at));
            Ok(())
        });
        let in_doubt = match &scanned {
            Ok(Ended::EndOfLog { torn: true, position }) => Some(*position),
            Err(ScanError::Damaged(position, _)) => Some(*position),
            _ => None,
        };
        if let Some(at) = in_doubt.filter(|_| is_live) {
            looks = if at == looked_at { looks + 1 } else { 0 };
            looked_at = at;
            if looks < LOOKS_MAX {
                sleep(BETWEEN_LOOKS);
                position = at;
                continue;
            }
        }
        let (from, damage) = match scanned {
            Ok(ended) => return Ok(Some(ended)),
            Err(ScanError::Io(error)) => return Err(error),
            Err(ScanError::Damaged(position, damage)) => (position, damage),
        };
        let block_no = next.block_no;
        // What stands at the place itself may be a later block: the one before it is missing. What
        // the next slot begins with is found there.
        let wanted = |at, found: &BlockHeader| {
            block_no <= found.block_no
                && (from < at || block_no < found.block_no)
                && next_slot_first.is_none_or(|first| found.block_no < first)
        };
        let found = file.find_header(header, from, end, wanted)?;
        // The header that stands there says how long the block is, if it is sound.
        let here = file.find_header(header, from, from + PAGE_BYTES as u64, |_, _| true)?;
        let own_end = here.map_or(end, |(at, here)| at + here.disk_bytes() as u64).min(end);
        visit(Step::Damage {
            position: from,
            until: found.map_or(own_end, |(at, _)| at),
            damage,
            block_no,
            next_block_no: found.map(|(_, found)| found.block_no),
        });
        let Some((at, found)) = found else { return Ok(None) };
        position = at;
        *next = Next { block_no: found.block_no, prev_crc: found.prev_crc, previous_clean: false };
    }
}
