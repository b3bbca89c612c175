//! Every byte of a pack: pages, blocks, frames, directory, bloom filter, and what lies between them.
//!
//! Goes on behind damage: with the next block that is sound, wherever it stands.
//!
//! What it deliberately does not do: say whose records a damaged block held; a [`RunLog`](super::RunLog)
//! tells what of a run is missing.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    error::Error,
    format::{
        Damage, PAGE_BYTES,
        frame::Frame,
        pack::{self, BLOCK_ALIGN, BLOCK_HEADER_BYTES, BlockPlace, FIRST_BLOCK_AT, RAW_BYTES_MAX},
        segment::{self, SegmentTail},
    },
    segment::Pack,
};

/// Bytes of blocks, or of a pack whose blocks are looked for, that are read at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes that are read at once while a sound block is looked for.
const SEARCH_BYTES: usize = 1 << 20;

/// A place in a pack that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadPlace {
    pub(super) position: u64,
    pub(super) until: u64,
    pub(super) damage: Damage,
    /// Whether frames or descriptions of segments stand there.
    pub(super) is_block: bool,
}

/// What was found in a part of a pack.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) bad: Vec<BadPlace>,
    pub(super) frames: u64,
    pub(super) records: u64,
    pub(super) described: u64,
    pub(super) raw_bytes: u64,
}

impl Checked {
    pub(super) fn add(&mut self, other: Self) {
        self.bad.extend(other.bad);
        self.frames += other.frames;
        self.records += other.records;
        self.described += other.described;
        self.raw_bytes += other.raw_bytes;
    }

    fn note(&mut self, place: Range<u64>, damage: Damage, is_block: bool) {
        let (position, until) = (place.start, place.end);
        self.bad.push(BadPlace { position, until, damage, is_block });
    }
}

/// A block, by what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) position: u64,
    pub(super) len: u32,
}

impl Block {
    /// Where what stands behind it begins.
    pub(super) fn end(&self) -> u64 {
        self.position + u64::from(self.len).next_multiple_of(BLOCK_ALIGN as u64)
    }
}

/// What is damaged, or gives all of it.
fn damage_or<T>(read: Result<T, Error>) -> Result<Result<T, Damage>, Error> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(Error::Corrupt(corruption)) => Ok(Err(corruption.damage)),
        Err(error) => Err(error),
    }
}

/// Where the blocks of a pack stand, in chunks of about [`CHUNK_BYTES`]; and what cannot be one.
pub(super) fn blocks(pack: &Pack) -> Result<(Vec<Vec<Block>>, Checked), Error> {
    let footer = *pack.footer();
    let is_bounded = footer.blocks != 0 || footer.index_at < pack.listed().bytes;
    let end = footer.index_at.min(pack.listed().bytes.saturating_sub(PAGE_BYTES as u64));
    let (mut chunks, mut checked) = (Vec::new(), Checked::default());
    let (mut chunk, mut chunk_bytes, mut count) = (Vec::new(), 0, 0);
    let mut position = FIRST_BLOCK_AT;
    let mut heads = Heads { pack, end, from: 0, bytes: Vec::new() };
    while position < end && (!is_bounded || count < footer.blocks) {
        let block = match heads.at(position)? {
            Ok(block) if is_followed(&mut heads, block, is_bounded)? => block,
            found => {
                let next = next_sound(pack, position + BLOCK_ALIGN as u64, end)?;
                let block = found.ok().filter(|block| next.is_none_or(|next| block.end() <= next));
                match (block, next) {
                    // Its own CRC says later what it is.
                    (Some(block), _) if next.is_some_and(|next| block.end() == next) => block,
                    (_, None) if !is_bounded => break,
                    // Of the last one nothing behind it confirms the length.
                    _ => {
                        let until = next.unwrap_or(end);
                        let damage = damage_at(pack, position, end)?;
                        checked.note(position..until, damage, true);
                        count += 1;
                        position = until;
                        continue;
                    }
                }
            }
        };
        count += 1;
        position = block.end();
        chunk_bytes += u64::from(block.len);
        chunk.push(block);
        if CHUNK_BYTES <= chunk_bytes {
            chunks.push(std::mem::take(&mut chunk));
            chunk_bytes = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    if is_bounded && position < end {
        check_zero(pack, position..end, &mut checked)?;
    }
    Ok((chunks, checked))
}

/// The headers of a pack's blocks, which are read in the order of the file: a stretch at once, since a
/// disk that reads ahead is faster than one that is asked for every header by itself.
struct Heads<'a> {
    pack: &'a Pack,
    /// Where blocks end.
    end: u64,
    from: u64,
    bytes: Vec<u8>,
}

impl Heads<'_> {
    fn at(&mut self, position: u64) -> Result<Result<Block, Damage>, Error> {
        let len = BLOCK_HEADER_BYTES as u64;
        if self.end < position + len {
            return Ok(Err(Damage::Short));
        }
        let is_here =
            self.from <= position && position + len <= self.from + self.bytes.len() as u64;
        if !is_here {
            let stretch = CHUNK_BYTES.min(self.end - position) as usize;
            match damage_or(self.pack.bytes_at(position, stretch))? {
                Ok(bytes) => (self.from, self.bytes) = (position, bytes),
                Err(damage) => return Ok(Err(damage)),
            }
        }
        let at = (position - self.from) as usize;
        Ok(head(&self.bytes[at..at + BLOCK_HEADER_BYTES], position, self.end))
    }
}

fn head_at(pack: &Pack, position: u64, end: u64) -> Result<Result<Block, Damage>, Error> {
    if end < position + BLOCK_HEADER_BYTES as u64 {
        return Ok(Err(Damage::Short));
    }
    let bytes = damage_or(pack.bytes_at(position, BLOCK_HEADER_BYTES))?;
    Ok(bytes.and_then(|bytes| head(&bytes, position, end)))
}

/// The block with this header, if it ends where blocks may.
fn head(bytes: &[u8], position: u64, end: u64) -> Result<Block, Damage> {
    let head = pack::decode_head(bytes)?;
    let len = head.disk_bytes() as u64;
    match position + len <= end {
        true => Ok(Block { position, len: head.disk_bytes() as u32 }),
        false => Err(Damage::Length { len, available: end - position }),
    }
}

/// Whether what stands behind a block can be what belongs there; else the block's own CRC tells
/// whether its length is right.
fn is_followed(heads: &mut Heads<'_>, block: Block, is_bounded: bool) -> Result<bool, Error> {
    let next = block.end();
    let is_last = is_bounded && heads.end < next + BLOCK_HEADER_BYTES as u64;
    if is_last || heads.at(next)?.is_ok() {
        return Ok(true);
    }
    Ok(damage_or(heads.pack.read_block(block.position, block.len))?.is_ok())
}

/// What is wrong with the block at a place.
fn damage_at(pack: &Pack, position: u64, end: u64) -> Result<Damage, Error> {
    let block = match head_at(pack, position, end)? {
        Ok(block) => block,
        Err(damage) => return Ok(damage),
    };
    let read = damage_or(pack.read_block(block.position, block.len))?;
    Ok(read.err().unwrap_or(Damage::Magic))
}

/// Where the next sound block stands.
fn next_sound(pack: &Pack, from: u64, end: u64) -> Result<Option<u64>, Error> {
    let mut position = from;
    while position < end {
        let len = (end - position).min(SEARCH_BYTES as u64) as usize;
        let Ok(bytes) = damage_or(pack.bytes_at(position, len))? else { return Ok(None) };
        for at in (0..len.saturating_sub(3)).step_by(BLOCK_ALIGN) {
            if bytes[at..at + 4] != pack::BLOCK_MAGIC {
                continue;
            }
            let at = position + at as u64;
            if let Ok(block) = head_at(pack, at, end)?
                && damage_or(pack.read_block(block.position, block.len))?.is_ok()
            {
                return Ok(Some(at));
            }
        }
        position += len as u64;
    }
    Ok(None)
}

fn check_zero(pack: &Pack, place: Range<u64>, checked: &mut Checked) -> Result<(), Error> {
    let len = (place.end - place.start).min(SEARCH_BYTES as u64) as usize;
    let bytes = damage_or(pack.bytes_at(place.start, len))?;
    let is_zero = bytes.is_ok_and(|bytes| bytes.iter().all(|&byte| byte == 0));
    if !is_zero {
        checked.note(place, Damage::Padding, false);
    }
    Ok(())
}

/// Checks blocks that stand behind each other, and all that is in them.
pub(super) fn check_blocks(pack: &Pack, blocks: &[Block]) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(checked) };
    let from = first.position;
    let until = last.end().min(pack.listed().bytes);
    let bytes = match damage_or(pack.bytes_at(from, (until - from) as usize))? {
        Ok(bytes) => bytes,
        Err(damage) => {
            checked.note(from..until, damage, true);
            return Ok(checked);
        }
    };
    for block in blocks {
        let footer = pack.footer();
        let place =
            BlockPlace { salt: footer.salt, number: footer.number, position: block.position };
        let at = (block.position - from) as usize;
        let stored = &bytes[at..at + block.len as usize];
        let range = block.position..block.position + u64::from(block.len);
        let content =
            pack::decode_block(&place, stored).and_then(|raw| check_raw(pack, block, &raw));
        match content {
            Ok(found) => checked.add(found),
            Err(damage) => checked.note(range.clone(), damage, true),
        }
        let padding =
            &bytes[at + block.len as usize..((block.end() - from) as usize).min(bytes.len())];
        if padding.iter().any(|&byte| byte != 0) {
            checked.note(range.end..block.end(), Damage::Padding, false);
        }
    }
    Ok(checked)
}

/// What a block holds: frames, and between them descriptions of segments.
pub(super) enum Held {
    Frame(Frame),
    /// A description, where it begins in the raw block, and its bytes.
    Segment(SegmentTail, u32, u32),
}

/// Gives all that a raw block holds to `visit`, in its order.
///
/// # Errors
/// What cannot be, and what `visit` says.
pub(super) fn each_held(
    raw: &Bytes,
    visit: &mut impl FnMut(Held) -> Result<(), Damage>,
) -> Result<(), Damage> {
    debug_assert!(raw.len() <= RAW_BYTES_MAX);
    let described = pack::described(raw)?;
    let table = raw.len() - 4 - described.len() * 8;
    let mut at = 0;
    let each_frame = |range: Range<usize>, visit: &mut dyn FnMut(Held) -> Result<(), Damage>| {
        let frames = raw.get(range).ok_or(Damage::Short)?;
        Frame::split(raw.slice_ref(frames)).try_for_each(|frame| visit(Held::Frame(frame?)))
    };
    for (offset, len) in described {
        let (begin, end) = (offset as usize, (offset + len) as usize);
        each_frame(at..begin, visit)?;
        visit(Held::Segment(segment::decode(&raw.slice(begin..end))?, offset, len))?;
        at = end;
    }
    each_frame(at..table, visit)
}

/// Checks what a block holds: also that the directory has the segments that are described there.
fn check_raw(pack: &Pack, block: &Block, raw: &Bytes) -> Result<Checked, Damage> {
    let mut checked = Checked { raw_bytes: raw.len() as u64, ..Checked::default() };
    each_held(raw, &mut |held| {
        match held {
            Held::Frame(frame) => {
                checked.frames += 1;
                checked.records += u64::from(if frame.is_stub() { 0 } else { frame.header.count });
            }
            Held::Segment(tail, offset, len) => {
                // A directory that is damaged is told by itself.
                let entries = pack.entries_of(tail.head.name_hash).ok();
                let is_listed = entries.is_none_or(|entries| {
                    entries.iter().any(|entry| {
                        entry.head == tail.head
                            && (entry.block, entry.offset, entry.len)
                                == (block.position, offset, len)
                    })
                });
                if !is_listed {
                    let (found, expected) = (tail.head.run_no.0, tail.head.run_no.0);
                    return Err(Damage::Misplaced { what: "segment", found, expected });
                }
                checked.described += 1;
            }
        }
        Ok(())
    })?;
    Ok(checked)
}

/// Checks pages, directory and bloom filter, given what was found in the blocks.
pub(super) fn check_pages(pack: &Pack, found: &mut Checked) -> Result<(), Error> {
    let (footer, bytes) = (pack.footer(), pack.listed().bytes);
    let footer_at = bytes.saturating_sub(PAGE_BYTES as u64);
    let page = damage_or(pack.bytes_at(0, PAGE_BYTES))?;
    let header = page.and_then(|page| pack::decode_header(&page)).and_then(|header| {
        match header.number == footer.number && header.salt == footer.salt {
            true => Ok(header),
            false => {
                let (found, expected) = (header.number, footer.number);
                Err(Damage::Misplaced { what: "pack number", found, expected })
            }
        }
    });
    if let Err(damage) = header {
        found.note(0..PAGE_BYTES as u64, damage, false);
    }
    let page = damage_or(pack.bytes_at(footer_at, PAGE_BYTES))?;
    let whole = page.as_ref().map_err(|damage| *damage);
    if let Err(damage) = whole.and_then(|page| pack::decode_footer(page, bytes)) {
        found.note(footer_at..bytes, damage, false);
    }
    let Ok(sound) = page.and_then(|page| pack::footer_fields(&page, bytes)) else { return Ok(()) };
    let index = damage_or(pack.bytes_at(sound.index_at, sound.index_bytes()))?;
    if let Err(damage) = index.and_then(|index| sound.check_index(&index).map(drop)) {
        found.note(sound.index_at..footer_at, damage, false);
    }
    // A block that is damaged is told by itself, and with it what it described.
    if found.bad.iter().all(|bad| !bad.is_block) && found.described != u64::from(sound.segments) {
        let (described, expected) = (found.described, u64::from(sound.segments));
        let damage = Damage::Numbering { what: "segments of a pack", found: described, expected };
        found.note(footer_at..bytes, damage, false);
    }
    Ok(())
}
