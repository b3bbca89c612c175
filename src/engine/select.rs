//! Which frames a reader looks at, and which of their records it delivers.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    published::{FrameEntry, Published, Wanted},
    request::{Gap, Records},
    shared::Shared,
};
use crate::{
    error::{Corruption, Error},
    format::{Damage, file_name, frame::Frame},
    record::{Index, RunNo, Seq, StreamNo},
};

/// Bytes of frames that a reader takes at once, overrun by less than one frame.
const CHUNK_BYTES: usize = 256 << 10;

/// Frames that a reader looks at next, in run order.
pub(super) struct Chunk {
    pub(super) frames: Vec<ChunkFrame>,
    /// Position after them.
    pub(super) next: Seq,
}

pub(super) struct ChunkFrame {
    pub(super) frame: Frame,
    /// The stream of all its records, if they have one in common.
    pub(super) only: Option<StreamNo>,
}

/// Frames that have to be read from disk.
pub(super) struct Load {
    run_no: RunNo,
    entries: Vec<FrameEntry>,
    pub(super) next: Seq,
}

impl Load {
    pub(super) fn read(self, shared: &Shared) -> Result<Chunk, Error> {
        let frames = self.entries.iter().map(|entry| self.read_one(shared, entry));
        Ok(Chunk { frames: frames.collect::<Result<_, _>>()?, next: self.next })
    }

    fn read_one(&self, shared: &Shared, entry: &FrameEntry) -> Result<ChunkFrame, Error> {
        shared.stats.disk_reads.fetch_add(1, Ordering::Relaxed);
        let frame = shared.frames.read(entry.at, self.run_no, entry.first_seq)?;
        if frame.header.chain == entry.chain {
            return Ok(ChunkFrame { frame, only: entry.only });
        }
        Err(Error::Corrupt(Corruption {
            file: file_name::slot(entry.at.slot).as_str().into(),
            position: entry.at.position,
            damage: Damage::Chain,
        }))
    }
}

/// Which streams are read.
pub(super) enum Selection {
    All,
    Named(Vec<Arc<str>>),
}

/// What decides which records of a frame are delivered.
pub(super) struct Filter {
    /// The streams read, of those that exist; none is all.
    pub(super) streams: Option<Vec<StreamNo>>,
    /// First index kept, by stream; empty if nothing is trimmed.
    pub(super) trims: Vec<Index>,
    /// Exclusive end of what may be delivered now.
    pub(super) until: Seq,
}

/// Something found in frames, and the position after it.
pub(super) struct Found {
    pub(super) item: FoundItem,
    pub(super) position: Seq,
}

pub(super) enum FoundItem {
    Records(Records),
    Gap(Gap),
}

/// Frames found from a position on.
pub(super) enum Gathered {
    Recent(Chunk),
    Cold(Load),
    Nothing,
}

/// The next frames to look at: from the ring if the first is there, else those to be read.
pub(super) fn gather(
    published: &Published,
    filter: &Filter,
    position: Seq,
    run_no: RunNo,
) -> Gathered {
    if filter.until <= position {
        // Also when `until` lies inside a frame, whose other records are not wanted.
        return Gathered::Nothing;
    }
    let wanted = filter.streams.as_deref().map_or(Wanted::All, Wanted::Streams);
    let mut ordinals = published.frames_from(wanted, position, filter.until).peekable();
    let Some(&first) = ordinals.peek() else { return Gathered::Nothing };
    let is_recent = published.recent(first).is_some();
    let (mut frames, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut next = position;
    while bytes < CHUNK_BYTES
        && let Some(ordinal) = ordinals.next()
    {
        let entry = *published.entry(ordinal);
        match published.recent(ordinal) {
            Some(frame) if is_recent => {
                frames.push(ChunkFrame { frame: frame.clone(), only: entry.only });
            }
            Some(_) => break,
            None => entries.push(entry),
        }
        bytes += entry.at.len as usize;
        next = entry.next_seq();
    }
    match is_recent {
        true => Gathered::Recent(Chunk { frames, next }),
        false => Gathered::Cold(Load { run_no, entries, next }),
    }
}

impl Selection {
    /// The stream that is read, if it is exactly one and exists.
    pub(super) fn single(&self, published: &Published) -> Option<StreamNo> {
        match self {
            Self::Named(names) if names.len() == 1 => published.stream_no(&names[0]),
            _ => None,
        }
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|named| &**named == name),
        }
    }

    /// Whether nothing will ever follow in what is read.
    pub(super) fn is_ended(&self, published: &Published) -> bool {
        let ended = |name: &Arc<str>| {
            published.stream_no(name).is_some_and(|stream| published.is_ended(stream))
        };
        match self {
            Self::All => published.outcome.is_some(),
            Self::Named(names) => published.outcome.is_some() || names.iter().all(ended),
        }
    }
}

impl Filter {
    pub(super) fn of(published: &Published, selection: &Selection, until: Seq) -> Self {
        let streams = match selection {
            Selection::All => None,
            Selection::Named(names) => {
                Some(names.iter().filter_map(|name| published.stream_no(name)).collect())
            }
        };
        let is_trimmed = published.streams.iter().any(|stream| Index::ZERO < stream.trim);
        let trims = match is_trimmed {
            true => published.streams.iter().map(|stream| stream.trim).collect(),
            false => Vec::new(),
        };
        Self { streams, trims, until }
    }

    pub(super) fn wants(&self, stream: StreamNo) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(&stream))
    }

    /// Whether every record of a frame is wanted, given the stream they have in common.
    pub(super) fn wants_only(&self, only: Option<StreamNo>) -> bool {
        self.streams.is_none() || only.is_some_and(|stream| self.wants(stream))
    }
}

/// Records put together for one item.
#[derive(Default)]
pub(super) struct Batch {
    pieces: Vec<Bytes>,
    count: u64,
    /// Where the last piece lies in the frame it was cut from, if more may be joined to it.
    open: Option<(Bytes, Range<usize>)>,
}

impl Batch {
    pub(super) fn add(&mut self, piece: Bytes, count: u64) {
        self.seal();
        self.pieces.push(piece);
        self.count += count;
    }

    /// Adds one record; neighbours become one piece.
    pub(super) fn add_part(&mut self, records: &Bytes, part: Range<usize>) {
        self.count += 1;
        match &mut self.open {
            Some((whole, open)) if whole.as_ptr() == records.as_ptr() && open.end == part.start => {
                open.end = part.end;
            }
            _ => {
                self.seal();
                self.open = Some((records.clone(), part));
            }
        }
    }

    fn seal(&mut self) {
        if let Some((records, part)) = self.open.take() {
            self.pieces.push(records.slice(part));
        }
    }

    pub(super) fn flush(&mut self, position: Seq, found: &mut Vec<Found>) {
        self.seal();
        if 0 < self.count {
            let records = Records { pieces: std::mem::take(&mut self.pieces), count: self.count };
            self.count = 0;
            found.push(Found { item: FoundItem::Records(records), position });
        }
    }
}
