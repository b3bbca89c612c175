//! What is left of a pack whose directory is lost, or a description of a segment in it: what its sound
//! blocks hold.
//!
//! Blocks are found one by one, behind damage too. A description in a sound block is as good as an
//! entry of the directory; frames whose description is lost say themselves whose they are, and
//! which records they hold.
//!
//! What it deliberately does not do: say that something is not there. What stood in a damaged block is
//! not known.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use super::pack_check::{self, Held, each_held};
use crate::{
    error::Error,
    format::{
        Damage,
        frame::{Frame, FrameHeader},
        pack::{Entry, FIRST_BLOCK_AT},
        segment::SegmentHead,
    },
    record::{RunNo, Seq},
    segment::{Blocks, Pack, Segment},
};

/// A block: where it begins, and its bytes on disk.
type Place = (u64, u32);

/// What the sound blocks of a pack hold.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// The segments that they describe, in the order of a directory.
    entries: Vec<Entry>,
    /// Those with frames of a run, in the order of the file.
    holding: BTreeMap<RunNo, Vec<Place>>,
    /// What is in none of them, or is described by none of them.
    unknown: Vec<Range<u64>>,
}

impl Remains {
    /// Reads all blocks of a pack.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn of(pack: &Pack) -> Result<Self, Error> {
        let mut remains = Self::default();
        let (chunks, _) = pack_check::blocks(pack)?;
        let mut known_to = FIRST_BLOCK_AT;
        let mut first_frames: Vec<(RunNo, Seq, Place)> = Vec::new();
        for block in chunks.iter().flatten() {
            let raw = match pack.read_block(block.position, block.len) {
                Err(Error::Corrupt(_)) => continue,
                other => other?,
            };
            // What is sound and yet no block of segments is as good as damaged.
            let Ok(content) = Content::of(&raw) else { continue };
            remains.note_unknown(known_to..block.position);
            known_to = block.end();
            let place = (block.position, block.len);
            for (head, offset, len) in content.heads {
                let (block, block_len) = place;
                remains.entries.push(Entry { head, block, block_len, offset, len });
            }
            for FrameHeader { run_no, first_seq, .. } in
                content.frames.iter().map(|frame| frame.header)
            {
                let holding = remains.holding.entry(run_no).or_default();
                if holding.last() != Some(&place) {
                    holding.push(place);
                    first_frames.push((run_no, first_seq, place));
                }
            }
        }
        remains.note_unknown(known_to..pack.listed().bytes.min(pack.footer().index_at));
        remains.entries.sort_by_key(Entry::key);
        // Frames of which no description is left.
        for (run_no, first_seq, (position, len)) in first_frames {
            if !remains.entries.iter().any(|entry| is_of(&entry.head, run_no, first_seq)) {
                remains.note_unknown(position..position + u64::from(len));
            }
        }
        Ok(remains)
    }

    fn note_unknown(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.unknown.push(range);
        }
    }

    /// The segments that sound blocks describe, in the order of a directory.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Stretches of the file of which it is not known what stood there, or whose.
    pub(super) fn unknown(&self) -> &[Range<u64>] {
        &self.unknown
    }

    /// The frames of a segment in the `n`-th of the blocks that hold any of its run, and where that
    /// block begins; none if there is no such block.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub(super) fn frames(
        &self,
        segment: &Segment,
        n: usize,
        blocks: &Blocks,
    ) -> Result<Option<(u64, Vec<Frame>)>, Error> {
        let head = &segment.entry.head;
        let holding = self.holding.get(&head.run_no).and_then(|holding| holding.get(n));
        let Some(&(position, len)) = holding else { return Ok(None) };
        let raw = blocks.get(&segment.pack, position, len)?;
        let mut frames = Content::of(&raw).map_err(|damage| segment.damaged(damage))?.frames;
        frames.retain(|frame| is_of(head, frame.header.run_no, frame.header.first_seq));
        Ok(Some((position, frames)))
    }
}

/// Whether a frame belongs to a segment, by what it says of itself.
fn is_of(head: &SegmentHead, run_no: RunNo, first_seq: Seq) -> bool {
    head.run_no == run_no && head.first_seq <= first_seq && first_seq <= head.end_seq
}

/// What a raw block holds.
#[derive(Default)]
struct Content {
    frames: Vec<Frame>,
    /// What is described, where in the block, and in how many bytes.
    heads: Vec<(SegmentHead, u32, u32)>,
}

impl Content {
    fn of(raw: &Bytes) -> Result<Self, Damage> {
        let mut content = Self::default();
        each_held(raw, &mut |held| {
            match held {
                Held::Frame(frame) => content.frames.push(frame),
                Held::Segment(tail, offset, len) => content.heads.push((tail.head, offset, len)),
            }
            Ok(())
        })?;
        Ok(content)
    }
}
