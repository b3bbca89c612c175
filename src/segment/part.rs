//! Frames of a segment, read from the block they stand in.

use bytes::Bytes;

use super::{blocks::Blocks, pack::Segment};
use crate::{
    error::Error,
    format::{Damage, frame::Frame, segment::Part},
};

/// The frames of one part, in run order.
pub struct PartFrames {
    /// The frames; each is sound, of this run, and follows the one before.
    pub frames: Vec<Frame>,
}

impl Segment {
    /// Where the block of a part is, and its bytes on disk.
    fn place(&self, part: &Part) -> (u64, u32) {
        match part.block {
            0 => (self.entry.block, self.entry.block_len),
            block => (block, part.block_len),
        }
    }

    /// The raw block that holds a part. Blocks the thread on the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn block(&self, part: &Part, blocks: &Blocks) -> Result<Bytes, Error> {
        let (block, block_len) = self.place(part);
        blocks.get(&self.pack, block, block_len)
    }

    /// Reads the frames of a part. Blocks the thread on the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn read(&self, part: &Part, blocks: &Blocks) -> Result<PartFrames, Error> {
        let (block, _) = self.place(part);
        let raw = self.block(part, blocks)?;
        let damaged = |damage| self.pack.damaged(block, damage);
        let range = part.offset as usize..part.offset as usize + part.len as usize;
        if raw.len() < range.end {
            let (len, available) = (range.end as u64, raw.len() as u64);
            return Err(damaged(Damage::Length { len, available }));
        }
        self.split(part, raw.slice(range)).map_err(damaged)
    }

    fn split(&self, part: &Part, bytes: Bytes) -> Result<PartFrames, Damage> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut seq = part.first_seq;
        for frame in Frame::split(bytes) {
            let frame = frame?;
            let header = &frame.header;
            if header.run_no != self.entry.head.run_no {
                let (found, expected) = (header.run_no.0, self.entry.head.run_no.0);
                return Err(Damage::Misplaced { what: "run", found, expected });
            }
            if header.first_seq != seq {
                let (found, expected) = (header.first_seq.0, seq.0);
                return Err(Damage::Numbering { what: "seq", found, expected });
            }
            let before = frames.last().map(|before| before.header.chain);
            // What a stub stands for began somewhere behind the frame before.
            if !frame.is_stub()
                && before.is_some_and(|before| before.link(header.crc) != header.chain)
            {
                return Err(Damage::Chain);
            }
            seq = frame.next_seq();
            frames.push(frame);
        }
        match seq == part.end_seq() {
            true => Ok(PartFrames { frames }),
            false => Err(Damage::Short),
        }
    }
}
