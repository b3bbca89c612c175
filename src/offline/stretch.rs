//! A damaged stretch of a slot, and what of it is still sound: each frame has a CRC of its own, so
//! that damage of a block costs the frames it hits and not the block.
//!
//! What it deliberately does not do: mend. A frame that a single wrong byte explains is told as what
//! it probably was; it stays damaged.

use bytes::Bytes;

use crate::{
    format::{
        PAGE_BYTES,
        block::{self, BLOCK_HEADER_BYTES, BlockHeader},
        frame::Frame,
        slot::SlotHeader,
        syndrome::WrongByte,
    },
    record::FRAME_BYTES_MAX,
};

/// Bytes of CRC that are spent on looking for frames in one stretch, at most: what was damaged on
/// purpose could make every byte look like the beginning of a frame.
const SEARCH_BYTES_MAX: usize = 256 << 20;
/// Bytes of a stretch that are looked at, at most: a slot as it is by default.
pub(super) const STRETCH_BYTES_MAX: u64 = 64 << 20;
/// Damaged frames of one stretch that are looked at for a single wrong byte, at most.
const MENDED_MAX: usize = 64;

/// A stretch of frames in a slot, one behind the other, of which some are damaged.
pub(super) struct Stretch {
    /// Where the first begins in the slot.
    pub(super) position: u64,
    /// The block's header, if it is sound or a single wrong byte explains it.
    pub(super) header: Option<BlockHeader>,
    /// What stands there, in order.
    pub(super) pieces: Vec<Piece>,
}

/// What stands at a place of a stretch.
pub(super) enum Piece {
    /// A sound frame.
    Sound {
        /// Where it begins in the slot.
        position: u64,
        /// The frame.
        frame: Frame,
    },
    /// What is no sound frame, up to the next that is.
    Damaged {
        /// Where it begins in the slot.
        position: u64,
        /// Where it ends.
        until: u64,
        /// What it was, if a single wrong byte explains it; and that byte's place in the slot.
        probably: Option<(Frame, WrongByte)>,
    },
}

/// Looks at the bytes of a damaged stretch of a slot, which begins at `position`: block by block where
/// headers tell, and for frames wherever they stand where none does.
pub(super) fn look(bytes: &Bytes, position: u64, slot: &SlotHeader) -> Vec<Stretch> {
    let (mut found, mut at) = (Vec::new(), 0);
    let mut search = Search { salt: slot.salt, budget: SEARCH_BYTES_MAX, mended: 0 };
    while at + BLOCK_HEADER_BYTES < bytes.len() {
        let header = header_at(&bytes[at..], slot);
        let end = match header {
            Some(header) => bytes.len().min(at + header.disk_bytes()),
            None => next_header(bytes, at, slot),
        };
        let from = at + BLOCK_HEADER_BYTES;
        let payload_end = header.map_or(end, |header| end.min(from + header.payload_len as usize));
        let pieces =
            search.split(&bytes[from..payload_end], position + from as u64, header.as_ref());
        found.push(Stretch { position: position + at as u64, header, pieces });
        at = end;
    }
    found
}

/// The header of a block of this use of the slot, as it stands or as it probably was.
fn header_at(bytes: &[u8], slot: &SlotHeader) -> Option<BlockHeader> {
    let sound = block::header(bytes, slot.salt);
    let header = sound.or_else(|| block::mended_header(bytes, slot.salt).map(|(header, _)| header));
    header.filter(|header| header.file_seq == slot.file_seq && header.disk_bytes() <= bytes.len())
}

fn next_header(bytes: &[u8], at: usize, slot: &SlotHeader) -> usize {
    let pages = (at + PAGE_BYTES..bytes.len()).step_by(PAGE_BYTES);
    let mut sound = pages.filter(|&at| header_at(&bytes[at..], slot).is_some());
    sound.next().unwrap_or(bytes.len())
}

/// Looks for frames, within what one stretch may cost.
struct Search {
    salt: u64,
    budget: usize,
    mended: usize,
}

impl Search {
    /// The frames of a payload that stands at `position`, and what lies between them.
    fn split(&mut self, stored: &[u8], position: u64, header: Option<&BlockHeader>) -> Vec<Piece> {
        let mut payload = stored.to_vec();
        if let Some(header) = header {
            block::unmask(&mut payload, 0, header);
        }
        let payload = &Bytes::from(payload);
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < payload.len() {
            if let Some(frame) = self.frame_at(payload, at) {
                let len = frame.bytes().len();
                pieces.push(Piece::Sound { position: position + at as u64, frame });
                at += len;
                continue;
            }
            let (until, probably) = match self.mended_at(payload, at, header.is_some()) {
                Some((frame, wrong)) => (at + frame.bytes().len(), Some((frame, wrong))),
                None => (self.next_frame(payload, at + 1), None),
            };
            // What no header bounds may be padding, or nothing at all.
            let is_empty = header.is_none() && payload[at..until].iter().all(|&byte| byte == 0);
            if !is_empty {
                let wrong_at = |wrong: WrongByte| wrong.behind(position as usize + at);
                let probably = probably.map(|(frame, wrong)| (frame, wrong_at(wrong)));
                let (position, until) = (position + at as u64, position + until as u64);
                pieces.push(Piece::Damaged { position, until, probably });
            }
            at = until;
        }
        if let Some(header) = header
            && pieces.iter().all(|piece| matches!(piece, Piece::Sound { .. }))
        {
            find_wrong_chain(&mut pieces, stored, position, header, self.salt);
        }
        pieces
    }

    /// The frame that begins at `at`. Most places are told not to hold any by a few bytes.
    fn frame_at(&mut self, payload: &Bytes, at: usize) -> Option<Frame> {
        let fixed = payload.get(at..at + 48)?;
        let len = u32::from_le_bytes(fixed[..4].try_into().ok()?) as usize + 4;
        let may_be = fixed[12] == 1
            && fixed[13] & 0xf0 == 0
            && fixed[14..16] == [0, 0]
            && len <= FRAME_BYTES_MAX
            && at + len <= payload.len()
            && len <= self.budget;
        if !may_be {
            return None;
        }
        self.budget -= len;
        Frame::decode(&payload.slice(at..)).ok()
    }

    /// The frame that a single wrong byte hides at `at`. Behind it must stand what is to stand there.
    fn mended_at(
        &mut self,
        payload: &Bytes,
        at: usize,
        is_bounded: bool,
    ) -> Option<(Frame, WrongByte)> {
        if self.mended == MENDED_MAX {
            return None;
        }
        self.mended += 1;
        let (frame, wrong) = Frame::mended(&payload.slice(at..))?;
        let behind = at + frame.bytes().len();
        let fits = match is_bounded {
            true => behind == payload.len() || self.frame_at(payload, behind).is_some(),
            false => true,
        };
        fits.then_some((frame, wrong))
    }

    fn next_frame(&mut self, payload: &Bytes, from: usize) -> usize {
        let mut places = from..payload.len();
        places.find(|&at| self.frame_at(payload, at).is_some()).unwrap_or(payload.len())
    }
}

/// A frame's chain is covered by the CRC of its block alone: if all frames are sound and the block is
/// not, one of the chains is probably wrong.
fn find_wrong_chain(
    pieces: &mut [Piece],
    stored: &[u8],
    position: u64,
    header: &BlockHeader,
    salt: u64,
) {
    let chain_at = |piece: &Piece| match piece {
        Piece::Sound { position, .. } => *position + 8..*position + 12,
        Piece::Damaged { position, .. } => *position..*position,
    };
    let explained = block::wrong_in_payload(stored, header, salt)
        .map(|wrong| wrong.behind(position as usize))
        .find_map(|wrong| {
            let at = pieces.partition_point(|piece| chain_at(piece).end <= wrong.at as u64);
            let is_there = chain_at(pieces.get(at)?).contains(&(wrong.at as u64));
            is_there.then_some((at, wrong))
        });
    let Some((at, wrong)) = explained else { return };
    let Piece::Sound { position, frame } = &pieces[at] else { return };
    let (position, until) = (*position, *position + frame.bytes().len() as u64);
    let mut bytes = frame.bytes().to_vec();
    bytes[wrong.at - position as usize] ^= wrong.bits;
    let probably = Frame::decode(&bytes.into()).ok().map(|frame| (frame, wrong));
    pieces[at] = Piece::Damaged { position, until, probably };
}
