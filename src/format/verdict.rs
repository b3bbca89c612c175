//! Torn or corrupt: the one table that decides where a log ends.
//!
//! At the place where block *n* of file *q* with previous crc *c* is expected, the first row that
//! fits decides:
//!
//! | # | found | verdict |
//! |---|---|---|
//! | 1 | *n* is the first block of the next listed slot | slot complete, whatever follows in it |
//! | 2 | less than 4 KiB left in the slot | absent |
//! | 3 | first sector all zero | absent |
//! | 4 | first sector not zero, header_crc wrong, the rest of the page not zero | **corrupt**: a header lies in one sector over zeros, so it was written whole and damaged later |
//! | 5 | header sound; file_seq, block_no or prev_crc not (*q*, *n*, *c*) | **corrupt**: misplaced or missing write |
//! | 6 | header sound, length passes the end of the slot | **corrupt** |
//! | 7 | header sound; payload, padding or trailer bad; a sector that must not be zero is zero, or the last byte is | torn |
//! | | first sector not zero, header_crc wrong, the rest of the page zero | torn |
//! | 8 | header sound; payload, padding or trailer bad; no such sector, and the last byte is there | **corrupt** |
//! | 9 | block sound, but a frame does not decode, or its run's chain or numbering does not hold | **corrupt** (found when the block's frames are replayed) |
//! | 10 | all sound | accept |
//! | | *after absent or torn:* | |
//! | 11 | another listed slot follows | **corrupt**: it was listed only after everything before it was durable |
//! | 12 | a sound header further on in the slot with block_no ≥ *n* and durable_block_no > *n* | **corrupt**: *n* was durable |
//! | 13 | torn, and block *n*-1 says clean shutdown | **corrupt**: nothing was written after it |
//! | 14 | none of 11–13 | end of log; the rest of the slot is never read again |
//!
//! A power cut loses whole sectors; a process killed while it writes may leave a part that ends
//! inside one. The last byte and the second line of row 7 are for the latter: no whole block looks
//! like that after one bit or one sector of it was damaged.
//!
//! Rows 2 to 8 and 10 look at the block alone and are [`block::inspect`]; the rest is [`judge`].
//! The rows for whole files (15 to 19) belong to whoever reads those files.
//!
//! **What cannot be told:** the newest block was acknowledged, then one of its sectors became
//! zero, and no later block or idle mark is durable. That looks like a write the power cut tore,
//! and is cut. The window closes with the idle mark, 100 ms after the log fell idle.

use super::{
    Damage, Evidence, PAGE_BYTES,
    block::{self, Block, BlockHeader, Expected, Found},
};
use crate::sabotage::{self, Bug};

/// A place where a block is expected, with what is known around it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The bytes from here to the end of the file; for [`judge_block`], as many of them as the block
    /// that stands here has, and a page at least.
    pub bytes: &'a [u8],
    /// The block that belongs here.
    pub expected: Expected,
    /// First block number of the next listed slot, if another one follows.
    pub next_slot_first: Option<u64>,
    /// Whether the block before said that nothing would be written after it.
    pub previous_clean: bool,
}

/// What to make of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Row 10: the block is part of the log.
    Accept(Block),
    /// Row 1: the log goes on in the next slot.
    NextSlot,
    /// Row 14: the log ends here.
    End {
        /// Whether a block was being written when the power went.
        torn: bool,
    },
    /// The bytes were durable once and are not what was written.
    Corrupt(Damage),
}

/// Judges a place by the table above.
pub fn judge(place: &Place<'_>) -> Verdict {
    judge_block(place, || {
        let later = place.bytes.chunks(PAGE_BYTES).skip(1);
        later
            .filter_map(|page| block::header(page, place.expected.salt))
            .any(|later| proves_durable(&later, &place.expected))
    })
}

/// Judges a place of whose file only the block that stands there is at hand. `proven` is asked, if
/// that decides, whether a page behind the place has a header that [`proves_durable`].
pub fn judge_block(place: &Place<'_>, proven: impl FnOnce() -> bool) -> Verdict {
    let block_no = place.expected.block_no;
    if place.next_slot_first == Some(block_no) {
        return Verdict::NextSlot;
    }
    let torn = match block::inspect(place.bytes, &place.expected) {
        Found::Block(block) => return Verdict::Accept(block),
        Found::Corrupt(damage) => return Verdict::Corrupt(damage),
        Found::Torn => true,
        Found::Absent => false,
    };
    let evidence = if place.next_slot_first.is_some() && !sabotage::is(Bug::IgnoreNextSlot) {
        Some(Evidence::NextSlot)
    } else if proven() {
        Some(Evidence::LaterBlock)
    } else if torn && place.previous_clean && !sabotage::is(Bug::IgnoreCleanMark) {
        Some(Evidence::CleanShutdown)
    } else {
        None
    };
    evidence.map_or(Verdict::End { torn }, |evidence| Verdict::Corrupt(Damage::Lost { evidence }))
}

/// Row 12: whether a header found behind a place says that the block expected there was durable.
pub fn proves_durable(later: &BlockHeader, expected: &Expected) -> bool {
    !sabotage::is(Bug::IgnoreLaterBlock)
        && later.file_seq == expected.file_seq
        && expected.block_no <= later.block_no
        && expected.block_no < later.durable_block_no
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{SECTOR_BYTES, block::BlockDraft};

    const SALT: u64 = 42;

    /// Three blocks behind each other and one empty page, as a slot would hold them.
    fn slot() -> (Vec<u8>, Vec<u32>) {
        let mut slot = Vec::new();
        let mut crcs = vec![5];
        for block_no in 10..13 {
            let draft = BlockDraft {
                salt: SALT,
                file_seq: 1,
                block_no,
                durable_block_no: block_no,
                prev_crc: crcs[crcs.len() - 1],
                clock_ms: 0,
                incarnation: 0,
                flags: 0,
            };
            let mut out = Vec::new();
            crcs.push(block::encode(&draft, [&[b'x'; 1_000][..]], &mut out).header_crc);
            slot.extend_from_slice(&out);
        }
        slot.extend_from_slice(&[0; PAGE_BYTES]);
        (slot, crcs)
    }

    fn place<'a>(slot: &'a [u8], crcs: &[u32], n: usize) -> Place<'a> {
        Place {
            bytes: &slot[n * PAGE_BYTES..],
            expected: Expected {
                salt: SALT,
                file_seq: 1,
                block_no: 10 + n as u64,
                prev_crc: crcs[n],
            },
            next_slot_first: None,
            previous_clean: false,
        }
    }

    fn tear(slot: &mut [u8], n: usize) {
        slot[n * PAGE_BYTES + SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
    }

    #[test]
    fn row_1_the_next_slot_begins_whatever_stands_here() {
        let (slot, crcs) = slot();
        for n in 0..4 {
            let place = Place { next_slot_first: Some(10 + n as u64), ..place(&slot, &crcs, n) };
            assert_eq!(judge(&place), Verdict::NextSlot);
        }
    }

    #[test]
    fn rows_2_and_3_nothing_was_written() {
        let (slot, crcs) = slot();
        assert_eq!(judge(&place(&slot, &crcs, 3)), Verdict::End { torn: false });
        let nothing_left = Place { bytes: &[], ..place(&slot, &crcs, 3) };
        assert_eq!(judge(&nothing_left), Verdict::End { torn: false });
    }

    #[test]
    fn row_10_sound_blocks_are_accepted() {
        let (slot, crcs) = slot();
        for n in 0..3 {
            assert!(matches!(judge(&place(&slot, &crcs, n)), Verdict::Accept(_)));
        }
    }

    #[test]
    fn row_11_a_listed_slot_follows_what_is_missing() {
        let (mut slot, crcs) = slot();
        tear(&mut slot, 2);
        for n in 2..4 {
            let place = Place { next_slot_first: Some(99), ..place(&slot, &crcs, n) };
            let lost = Damage::Lost { evidence: Evidence::NextSlot };
            assert_eq!(judge(&place), Verdict::Corrupt(lost));
        }
    }

    #[test]
    fn row_12_a_later_block_proves_that_the_torn_one_was_durable() {
        let (sound, crcs) = slot();
        let lost = Verdict::Corrupt(Damage::Lost { evidence: Evidence::LaterBlock });
        for n in 0..2 {
            let mut slot = sound.clone();
            tear(&mut slot, n);
            assert_eq!(judge(&place(&slot, &crcs, n)), lost, "block {n} torn");
            slot[n * PAGE_BYTES..][..PAGE_BYTES].fill(0);
            assert_eq!(judge(&place(&slot, &crcs, n)), lost, "block {n} gone");
        }
        let mut slot = sound;
        tear(&mut slot, 2);
        assert_eq!(judge(&place(&slot, &crcs, 2)), Verdict::End { torn: true });
    }

    #[test]
    fn row_13_nothing_is_torn_after_a_clean_shutdown() {
        let (mut slot, crcs) = slot();
        tear(&mut slot, 2);
        let place = Place { previous_clean: true, ..place(&slot, &crcs, 2) };
        let lost = Damage::Lost { evidence: Evidence::CleanShutdown };
        assert_eq!(judge(&place), Verdict::Corrupt(lost));
    }

    #[test]
    fn record_bytes_that_imitate_a_header_are_no_evidence() {
        let (sound, crcs) = slot();
        // A header made with another salt, at a page boundary further on, claims everything.
        let draft = BlockDraft {
            salt: SALT + 1,
            file_seq: 1,
            block_no: 99,
            durable_block_no: 99,
            prev_crc: 0,
            clock_ms: 0,
            incarnation: 0,
            flags: 0,
        };
        let mut forged = Vec::new();
        block::encode(&draft, [], &mut forged);
        let mut slot = sound;
        tear(&mut slot, 2);
        slot[3 * PAGE_BYTES..].copy_from_slice(&forged);
        assert_eq!(judge(&place(&slot, &crcs, 2)), Verdict::End { torn: true });
    }
}
