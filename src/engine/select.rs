//! Which frames a reader looks at, and which of their records it delivers.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    history::{History, Stretch},
    published::{FrameEntry, Published, Wanted},
    request::{Gap, Records},
    shard::Run,
    shared::Shared,
};
use crate::{
    error::Error,
    format::frame::{Chain, Frame},
    platform::sync::atomic::Ordering,
    record::{Index, RunNo, Seq, StreamNo},
};

/// Bytes of frames that a reader takes at once, overrun by less than one frame or block.
const CHUNK_BYTES: usize = 256 << 10;

/// Frames that a reader looks at next, in run order.
pub(super) struct Chunk {
    pub(super) frames: Vec<ChunkFrame>,
    /// Position after them.
    pub(super) next: Seq,
    /// Chain of the frame that holds the record before `next`.
    pub(super) chain: Chain,
}

pub(super) struct ChunkFrame {
    pub(super) frame: Frame,
    /// The stream of all its records, if they have one in common.
    pub(super) only: Option<StreamNo>,
}

/// Frames that have to be read from disk.
pub(super) struct Load {
    run_no: RunNo,
    from: LoadFrom,
}

enum LoadFrom {
    /// From the journal, one by one.
    Journal { entries: Vec<FrameEntry>, next: Seq, chain: Chain },
    /// From segments.
    Segments { name_hash: u64, from: Seq, until: Seq, streams: Option<Arc<[StreamNo]>> },
}

impl Load {
    /// Reads the frames; none if they have moved meanwhile and must be looked for again. Blocks on
    /// the disk.
    pub(super) fn read(self, shared: &Shared) -> Result<Option<Chunk>, Error> {
        let read = |frames: &[ChunkFrame]| {
            shared.stats.disk_reads.fetch_add(frames.len() as u64, Ordering::Relaxed);
        };
        match &self.from {
            LoadFrom::Journal { entries, next, chain } => {
                let mut frames = Vec::with_capacity(entries.len());
                for entry in entries {
                    let Some(frame) = read_entry(shared, self.run_no, entry)? else {
                        return Ok(None);
                    };
                    frames.push(ChunkFrame { frame, only: entry.only });
                }
                read(&frames);
                Ok(Some(Chunk { frames, next: *next, chain: *chain }))
            }
            LoadFrom::Segments { name_hash, from, until, streams } => {
                let history = History::of(shared, *name_hash, self.run_no)?;
                let Stretch { frames, next, chain } =
                    history.read(shared, *from, *until, streams.as_deref(), CHUNK_BYTES)?;
                read(&frames);
                Ok(Some(Chunk { frames, next, chain }))
            }
        }
    }
}

/// Where a reader of segments goes on: what it will want next is made ready meanwhile.
pub(super) struct Ahead {
    run_no: RunNo,
    name_hash: u64,
    /// Where the load before this began.
    from: Seq,
    until: Seq,
    streams: Option<Arc<[StreamNo]>>,
}

impl Load {
    /// What may follow this load, if it reads segments.
    pub(super) fn ahead(&self) -> Option<Ahead> {
        let LoadFrom::Segments { name_hash, from, until, streams } = &self.from else {
            return None;
        };
        let (run_no, name_hash, streams) = (self.run_no, *name_hash, streams.clone());
        Some(Ahead { run_no, name_hash, from: *from, until: *until, streams })
    }
}

impl Ahead {
    /// Whether the load went on where another had ended: who reads twice in a row reads on.
    pub(super) fn follows(&self, before: Option<Seq>) -> bool {
        before == Some(self.from)
    }

    /// Has the blocks that are wanted from `next` on in memory. Blocks on the disk. What fails is
    /// told when it is read.
    pub(super) fn warm(&self, shared: &Shared, next: Seq) {
        // Otherwise they would be gone before they are read.
        let is_kept = 8 * CHUNK_BYTES as u64 <= shared.blocks.bytes_max();
        if is_kept && next < self.until {
            let history = History::of(shared, self.name_hash, self.run_no);
            let streams = self.streams.as_deref();
            let _ = history.and_then(|history| history.warm(shared, next, streams, CHUNK_BYTES));
        }
    }
}

/// Reads a frame from the journal; none if it has been copied into a segment and its slot is
/// gone.
pub(super) fn read_entry(
    shared: &Shared,
    run_no: RunNo,
    entry: &FrameEntry,
) -> Result<Option<Frame>, Error> {
    shared.frames.read(entry.at, run_no, entry.first_seq, entry.chain)
}

/// Which streams are read.
pub(super) enum Selection {
    All,
    Named(Named),
}

/// Streams that are asked for by name. What was found stays: a stream keeps its number.
pub(super) struct Named {
    /// Names asked for.
    count: usize,
    /// Those that no stream has yet.
    missing: Vec<Arc<str>>,
    /// The streams that have one.
    found: Arc<[StreamNo]>,
    /// Streams of the run that were looked at.
    looked_at: usize,
}

/// What decides which records of a frame are delivered.
pub(super) struct Filter {
    /// The streams read, of those that exist; none is all.
    pub(super) streams: Option<Arc<[StreamNo]>>,
    /// First index kept, by stream; empty if nothing is trimmed.
    pub(super) trims: Vec<Index>,
    /// Exclusive end of what may be delivered now.
    pub(super) until: Seq,
}

/// Something found in frames, and where the reader is after it.
pub(super) struct Found {
    pub(super) item: FoundItem,
    pub(super) at: Position,
}

/// How far a reader has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Everything below was delivered or filtered.
    pub(super) seq: Seq,
    /// Chain of the frame that holds the record before.
    pub(super) chain: Chain,
    /// For a reader of one stream, its next index.
    pub(super) index: Index,
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
pub(super) fn gather(run: &Run, filter: &Filter, position: Seq) -> Gathered {
    let (published, run_no) = (&run.published, run.state.run_no);
    if filter.until <= position {
        // Also when `until` lies inside a frame, whose other records are not wanted.
        return Gathered::Nothing;
    }
    if position < published.first_seq() {
        let until = filter.until.min(published.first_seq());
        let (name_hash, streams) = (run.name_hash, filter.streams.clone());
        let from = LoadFrom::Segments { name_hash, from: position, until, streams };
        return Gathered::Cold(Load { run_no, from });
    }
    let wanted = filter.streams.as_deref().map_or(Wanted::All, Wanted::Streams);
    let mut numbers = published.frames_from(wanted, position, filter.until).peekable();
    let Some(&first) = numbers.peek() else { return Gathered::Nothing };
    let is_recent = published.recent(first).is_some();
    let (mut frames, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
    let FrameEntry { mut chain, .. } = *published.entry(first);
    let mut next = position;
    while bytes < CHUNK_BYTES
        && let Some(number) = numbers.next()
    {
        let entry = *published.entry(number);
        match published.recent(number) {
            Some(frame) if is_recent => {
                frames.push(ChunkFrame { frame: frame.clone(), only: entry.only });
            }
            Some(_) => break,
            None => entries.push(entry),
        }
        bytes += entry.at.len as usize;
        (next, chain) = (entry.next_seq(), entry.chain);
    }
    match is_recent {
        true => Gathered::Recent(Chunk { frames, next, chain }),
        false => {
            let from = LoadFrom::Journal { entries, next, chain };
            Gathered::Cold(Load { run_no, from })
        }
    }
}

impl Selection {
    /// The streams of these names; all if there are none.
    pub(super) fn of(names: &[Arc<str>]) -> Self {
        match names {
            [] => Self::All,
            names => Self::Named(Named {
                count: names.len(),
                missing: names.to_vec(),
                found: Arc::default(),
                looked_at: 0,
            }),
        }
    }

    /// Looks at the streams that the run has got since the last time.
    pub(super) fn resolve(&mut self, published: &Published) {
        let Self::Named(named) = self else { return };
        let looked_at = std::mem::replace(&mut named.looked_at, published.streams.len());
        if named.missing.is_empty() || looked_at == named.looked_at {
            return;
        }
        let mut found = named.found.to_vec();
        for (stream, known) in published.streams.iter().enumerate().skip(looked_at) {
            let before = named.missing.len();
            named.missing.retain(|name| *name != known.name);
            if named.missing.len() < before {
                found.push(StreamNo(stream as u32));
            }
        }
        named.found = found.into();
    }

    /// The stream that is read, if it is exactly one and exists.
    pub(super) fn single(&self) -> Option<StreamNo> {
        match self {
            Self::Named(named) if named.count == 1 => named.found.first().copied(),
            _ => None,
        }
    }

    /// The streams that are read, of those that exist; none is all.
    fn streams(&self) -> Option<&Arc<[StreamNo]>> {
        match self {
            Self::All => None,
            Self::Named(named) => Some(&named.found),
        }
    }

    pub(super) fn holds(&self, stream: StreamNo) -> bool {
        self.streams().is_none_or(|streams| streams.contains(&stream))
    }

    /// Whether nothing will ever follow in what is read.
    pub(super) fn is_ended(&self, published: &Published) -> bool {
        let are_ended = match self {
            Self::All => false,
            Self::Named(named) => {
                let is_ended = |&stream: &StreamNo| published.is_ended(stream);
                named.missing.is_empty() && named.found.iter().all(is_ended)
            }
        };
        published.outcome.is_some() || are_ended
    }
}

impl Filter {
    pub(super) fn of(published: &Published, selection: &Selection, until: Seq) -> Self {
        let streams = selection.streams().cloned();
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

    pub(super) fn flush(&mut self, at: Position, found: &mut Vec<Found>) {
        self.seal();
        if 0 < self.count {
            let records = Records { pieces: std::mem::take(&mut self.pieces), count: self.count };
            self.count = 0;
            found.push(Found { item: FoundItem::Records(records), at });
        }
    }
}
