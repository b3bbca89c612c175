//! Readers: from a start, through history, to the tail and on.
//!
//! A reader is a pull loop. It owns no queue and holds no records: at its own pace it asks for
//! what lies behind its position, from the ring of recent frames or from disk, and only at the
//! tail does it wait. A slow reader therefore loses nothing and delays nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    published::{FrameEntry, Published, Wanted},
    request::{Bounds, End, Gap, Query, Records, Start, StreamInfo, TailItem},
    shard::Run,
    shared::Shared,
};
use crate::{
    core::Refusal,
    error::{Corruption, Error},
    format::{Damage, cursor::Cursor, file_name, frame::Frame, wire},
    record::{Index, OLDER_CURSORS_MAX, RunNo, STREAMS_PER_RUN_MAX, Seq, StreamNo},
};

/// Bytes of frames that a reader takes at once, overrun by less than one frame.
const CHUNK_BYTES: usize = 256 << 10;

/// Follows a run, or some of its streams. Made by `Store::tail`.
pub struct Tail {
    shared: Arc<Shared>,
    wake: watch::Receiver<()>,
    reader: Reader,
}

impl Tail {
    pub(super) fn new(shared: Arc<Shared>, wake: watch::Receiver<()>, reader: Reader) -> Self {
        Self { shared, wake, reader }
    }

    /// The next item. Waits at the tail. After [`TailItem::End`], and only then, nothing follows;
    /// it is then returned again and again.
    ///
    /// Dropping the future loses nothing: the next call continues where the last item ended.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] or [`Error::Stopped`] when the store ends: resume by
    /// [`cursor`](Self::cursor). [`Error::Corrupt`] if stored records are damaged.
    pub async fn next(&mut self) -> Result<TailItem, Error> {
        loop {
            // Seen before the log is looked at, so that nothing published in between is missed.
            self.wake.borrow_and_update();
            match self.reader.step(&self.shared)? {
                Step::Item(item) => return Ok(item),
                Step::Load(load) => {
                    let shared = self.shared.clone();
                    let chunk = self.shared.pool.run(move || load.read(&shared)).await?;
                    self.reader.loaded = Some(chunk);
                }
                Step::Wait => {
                    if self.wake.changed().await.is_err() {
                        return Err(Error::ShuttingDown);
                    }
                }
            }
        }
    }

    /// The next item, if there is one without waiting; reads from disk on this thread.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<TailItem>, Error> {
        loop {
            match self.reader.step(&self.shared)? {
                Step::Item(item) => return Ok(Some(item)),
                Step::Load(load) => self.reader.loaded = Some(load.read(&self.shared)?),
                Step::Wait => return Ok(None),
            }
        }
    }

    /// Where to resume after the last item.
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor
    }

    /// Next seq of the run: what is durable now.
    pub fn durable_tail(&self) -> Seq {
        self.reader.with_run(&self.shared, |run| run.durable())
    }
}

/// What a reader does next.
enum Step {
    Item(TailItem),
    Load(Load),
    Wait,
}

/// Frames that a reader looks at next, in run order.
struct Chunk {
    frames: Vec<ChunkFrame>,
    /// Position after them.
    next: Seq,
}

struct ChunkFrame {
    frame: Frame,
    /// The stream of all its records, if they have one in common.
    only: Option<StreamNo>,
}

/// Frames that have to be read from disk.
struct Load {
    run_no: RunNo,
    entries: Vec<FrameEntry>,
    next: Seq,
}

impl Load {
    fn read(self, shared: &Shared) -> Result<Chunk, Error> {
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

/// A position in a run, and what is read from there.
pub(super) struct Reader {
    run_no: RunNo,
    selection: Selection,
    bounds: Bounds,
    stop_at: Option<Seq>,
    /// Everything below was delivered or filtered.
    position: Seq,
    /// Where to resume after the last item given.
    cursor: Cursor,
    /// First index wanted, until it is met: a start inside a frame of several streams.
    first_index: Option<Index>,
    /// How far gaps were told, by stream.
    gaps_told: BTreeMap<StreamNo, Index>,
    /// How many of the run's streams were announced, if they are read.
    announced: usize,
    caught_up: bool,
    ended: Option<End>,
    /// Items found and not given yet.
    ready: VecDeque<TailItem>,
    /// Frames read from disk and not looked at yet.
    loaded: Option<Chunk>,
}

/// Which streams are read.
enum Selection {
    All,
    Named(Vec<Arc<str>>),
}

/// What decides which records of a frame are delivered.
struct Filter {
    /// The streams read, of those that exist; none is all.
    streams: Option<Vec<StreamNo>>,
    /// First index kept, by stream; empty if nothing is trimmed.
    trims: Vec<Index>,
    /// Exclusive end of what may be delivered now.
    until: Seq,
}

/// Something found in frames, and the position after it.
struct Found {
    item: FoundItem,
    position: Seq,
}

enum FoundItem {
    Records(Records),
    Gap(Gap),
}

impl Reader {
    /// A reader at the start of a query. The caller holds the shard's lock, and the run exists.
    pub(super) fn open(run: &Run, query: &Query) -> Result<Self, Refusal> {
        let published = &run.published;
        if query.run_uid.is_some_and(|wanted| wanted != published.run_uid) {
            return Err(Refusal::RunReplaced { run_uid: published.run_uid });
        }
        let selection = match query.streams.is_empty() {
            true => Selection::All,
            false => Selection::Named(query.streams.clone()),
        };
        if STREAMS_PER_RUN_MAX < query.streams.len() {
            return Err(Refusal::invalid("streams", "names more streams than a run can have"));
        }
        let single = selection.single(published);
        let from = find_start(published, query, single)?;
        Ok(Self {
            run_no: run.state.run_no,
            selection,
            bounds: query.bounds,
            stop_at: query.stop_at_tail.then_some(published.durable),
            position: from.seq,
            cursor: published.cursor(from.seq, single),
            first_index: from.index,
            gaps_told: BTreeMap::new(),
            announced: 0,
            caught_up: false,
            ended: None,
            ready: VecDeque::new(),
            loaded: None,
        })
    }

    fn with_run<T>(&self, shared: &Shared, look: impl FnOnce(&Run) -> T) -> T {
        look(shared.shard(self.run_no.vshard()).lock().run(self.run_no))
    }

    /// The next step, as far as it goes without waiting.
    fn step(&mut self, shared: &Shared) -> Result<Step, Error> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.note_cursor(&item);
                return Ok(Step::Item(item));
            }
            if let Some(end) = self.ended {
                return Ok(Step::Item(TailItem::End(end, self.cursor)));
            }
            shared.check_open()?;
            let shard = shared.shard(self.run_no.vshard());
            let (chunk, filter) = match self.look(&shard.lock().run(self.run_no).published) {
                Look::Step(step) => return Ok(step),
                Look::Chunk(chunk, filter) => (chunk, filter),
            };
            let found = self.select(chunk, &filter)?;
            self.make_ready(found, &shard.lock().run(self.run_no).published);
        }
    }

    /// What the durable log offers at the position.
    fn look(&mut self, published: &Published) -> Look {
        let new_streams = self.new_streams(published);
        if !new_streams.is_empty() {
            return Look::Step(Step::Item(TailItem::Streams(new_streams)));
        }
        let filter = Filter::of(published, &self.selection, self.until(published));
        if let Some(chunk) = self.loaded.take() {
            return Look::Chunk(chunk, filter);
        }
        match gather(published, &filter, self.position, self.run_no) {
            Gathered::Recent(chunk) => Look::Chunk(chunk, filter),
            Gathered::Cold(load) => Look::Step(Step::Load(load)),
            Gathered::Nothing => Look::Step(self.at_end(published, filter.until)),
        }
    }

    /// Exclusive end of what may be delivered now.
    fn until(&self, published: &Published) -> Seq {
        let bounds = self.bounds.until_seq.into_iter().chain(self.stop_at);
        bounds.fold(published.durable, Seq::min)
    }

    fn new_streams(&mut self, published: &Published) -> Vec<StreamInfo> {
        let known = std::mem::replace(&mut self.announced, published.streams.len());
        (known..published.streams.len())
            .filter(|&n| self.selection.holds(&published.streams[n].name))
            .map(|n| published.info(StreamNo(n as u32)))
            .collect()
    }

    /// Nothing more lies below `until`: end, tell that the tail is reached, or wait.
    fn at_end(&mut self, published: &Published, until: Seq) -> Step {
        self.position = self.position.max(until);
        self.cursor = published.cursor(self.position, self.selection.single(published));
        if published.durable <= self.position && self.selection.is_ended(published) {
            return self.end(End::Closed(published.outcome));
        }
        let bounds = self.bounds.until_seq.into_iter().chain(self.stop_at);
        let is_reached = bounds.into_iter().any(|bound| bound <= self.position);
        if is_reached || self.bounds.records == Some(0) || self.bounds.bytes == Some(0) {
            return self.end(End::Limit);
        }
        if self.caught_up {
            return Step::Wait;
        }
        self.caught_up = true;
        Step::Item(TailItem::CaughtUp(self.cursor))
    }

    fn end(&mut self, end: End) -> Step {
        self.ended = Some(end);
        Step::Item(TailItem::End(end, self.cursor))
    }

    /// Puts cursors to what was found.
    fn make_ready(&mut self, found: Vec<Found>, published: &Published) {
        let single = self.selection.single(published);
        self.ready.extend(found.into_iter().map(|Found { item, position }| {
            let cursor = published.cursor(position, single);
            match item {
                FoundItem::Records(records) => TailItem::Records(records, cursor),
                FoundItem::Gap(gap) => TailItem::Gap(gap, cursor),
            }
        }));
        if self.ready.is_empty() {
            self.cursor = published.cursor(self.position, single);
        }
    }

    fn note_cursor(&mut self, item: &TailItem) {
        match item {
            TailItem::Records(_, cursor) | TailItem::Gap(_, cursor) => self.cursor = *cursor,
            TailItem::Streams(_) | TailItem::CaughtUp(_) | TailItem::End(..) => {}
        }
    }

    /// Finds the records that are wanted, in order, and the gaps between them.
    fn select(&mut self, chunk: Chunk, filter: &Filter) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let mut batch = Batch::default();
        for part in &chunk.frames {
            if self.ended.is_some() || filter.until <= part.frame.header.first_seq {
                break;
            }
            if self.is_wanted_whole(part, filter) {
                let count = u64::from(part.frame.header.count);
                batch.add(part.frame.records(), count);
                self.position = part.frame.next_seq();
                self.charge(count, u64::from(part.frame.header.records_len));
            } else {
                self.select_from(&part.frame, filter, &mut batch, &mut found)?;
            }
        }
        if self.ended.is_none() {
            self.position = self.position.max(chunk.next.min(filter.until));
        }
        batch.flush(self.position, &mut found);
        Ok(found)
    }

    /// Whether every record of the frame is delivered, so that none has to be looked at.
    fn is_wanted_whole(&self, part: &ChunkFrame, filter: &Filter) -> bool {
        let header = &part.frame.header;
        let fits = |bound: Option<u64>, size: u64| bound.is_none_or(|bound| size < bound);
        self.position <= header.first_seq
            && part.frame.next_seq() <= filter.until
            && filter.wants_only(part.only)
            && filter.trims.is_empty()
            && self.first_index.is_none()
            && self.bounds.until_index.is_none()
            && fits(self.bounds.records, u64::from(header.count))
            && fits(self.bounds.bytes, u64::from(header.records_len))
    }

    fn select_from(
        &mut self,
        frame: &Frame,
        filter: &Filter,
        batch: &mut Batch,
        found: &mut Vec<Found>,
    ) -> Result<(), Error> {
        let records = frame.records();
        let mut at = 0;
        for skim in wire::skim_all(&records) {
            let record = skim.map_err(bug)?;
            let piece = at..at + record.len;
            at = piece.end;
            if record.seq < self.position || !filter.wants(record.stream) {
                continue;
            }
            if filter.until <= record.seq {
                return Ok(());
            }
            if self.first_index.is_some_and(|first| record.index < first) {
                continue;
            }
            self.first_index = None;
            let trim = filter.trims.get(record.stream.0 as usize).copied().unwrap_or_default();
            if record.index < trim {
                batch.flush(record.seq, found);
                self.tell_gap(
                    Gap { stream: record.stream, from: record.index, to: trim },
                    record.seq,
                    found,
                );
                continue;
            }
            batch.add_part(&records, piece.clone());
            self.position = record.seq + 1;
            self.charge(1, piece.len() as u64);
            let last = self.bounds.until_index.is_some_and(|until| until <= record.index + 1);
            if last {
                self.ended = Some(End::Limit);
            }
            if self.ended.is_some() {
                return Ok(());
            }
        }
        self.position = self.position.max(frame.next_seq());
        Ok(())
    }

    /// Tells a gap once, however many trimmed records are met on the way through it.
    fn tell_gap(&mut self, gap: Gap, position: Seq, found: &mut Vec<Found>) {
        let told = self.gaps_told.entry(gap.stream).or_default();
        if gap.to <= *told {
            return;
        }
        *told = gap.to;
        found.push(Found { item: FoundItem::Gap(gap), position });
    }

    /// Counts what is delivered against the bounds.
    fn charge(&mut self, records: u64, bytes: u64) {
        for (bound, size) in [(&mut self.bounds.records, records), (&mut self.bounds.bytes, bytes)]
        {
            if let Some(left) = bound {
                *left = left.saturating_sub(size);
                if *left == 0 {
                    self.ended = Some(End::Limit);
                }
            }
        }
    }
}

/// What the durable log offers.
enum Look {
    Step(Step),
    Chunk(Chunk, Filter),
}

/// Frames found from a position on.
enum Gathered {
    Recent(Chunk),
    Cold(Load),
    Nothing,
}

/// The next frames to look at: from the ring if the first is there, else those to be read.
fn gather(published: &Published, filter: &Filter, position: Seq, run_no: RunNo) -> Gathered {
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
    fn single(&self, published: &Published) -> Option<StreamNo> {
        match self {
            Self::Named(names) if names.len() == 1 => published.stream_no(&names[0]),
            _ => None,
        }
    }

    fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|named| &**named == name),
        }
    }

    /// Whether nothing will ever follow in what is read.
    fn is_ended(&self, published: &Published) -> bool {
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
    fn of(published: &Published, selection: &Selection, until: Seq) -> Self {
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

    fn wants(&self, stream: StreamNo) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(&stream))
    }

    /// Whether every record of a frame is wanted, given the stream they have in common.
    fn wants_only(&self, only: Option<StreamNo>) -> bool {
        self.streams.is_none() || only.is_some_and(|stream| self.wants(stream))
    }
}

/// Records put together for one item.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    count: u64,
    /// Where the last piece lies in the frame it was cut from, if more may be joined to it.
    open: Option<(Bytes, Range<usize>)>,
}

impl Batch {
    fn add(&mut self, piece: Bytes, count: u64) {
        self.seal();
        self.pieces.push(piece);
        self.count += count;
    }

    /// Adds one record; neighbours become one piece.
    fn add_part(&mut self, records: &Bytes, part: Range<usize>) {
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

    fn flush(&mut self, position: Seq, found: &mut Vec<Found>) {
        self.seal();
        if 0 < self.count {
            let records = Records { pieces: std::mem::take(&mut self.pieces), count: self.count };
            self.count = 0;
            found.push(Found { item: FoundItem::Records(records), position });
        }
    }
}

/// Bytes that were checked when they were read do not decode.
fn bug(damage: Damage) -> Error {
    Error::Corrupt(Corruption { file: "memory".into(), position: 0, damage })
}

/// Where a reader begins.
struct Beginning {
    seq: Seq,
    /// First index wanted, if the start was given as one.
    index: Option<Index>,
}

impl Beginning {
    fn seq(seq: Seq) -> Self {
        Self { seq, index: None }
    }
}

/// Finds the start of a query. `single` is the one stream it reads, if it is one and exists.
fn find_start(
    published: &Published,
    query: &Query,
    single: Option<StreamNo>,
) -> Result<Beginning, Refusal> {
    let durable = published.durable;
    let needs_one = |field| match query.streams.len() {
        1 => Ok(()),
        _ => Err(Refusal::invalid(field, "needs exactly one stream")),
    };
    if query.bounds.until_index.is_some() {
        needs_one("bounds.until_index")?;
    }
    let from = match &query.start {
        Start::Beginning => Beginning::seq(Seq::ZERO),
        Start::Tail => Beginning::seq(durable),
        Start::Seq(seq) if *seq <= durable => Beginning::seq(*seq),
        Start::Seq(_) if query.clamp => Beginning::seq(durable),
        Start::Seq(_) => return Err(Refusal::BeyondTail { tail: durable.0 }),
        Start::Last(count) => last(published, query, single, *count)?,
        Start::Index(index) => {
            needs_one("start.index")?;
            at_index(published, query, single, *index)?
        }
        Start::Cursor(text) => Beginning::seq(resume(published, query, text)?),
    };
    match single {
        Some(stream) if !query.allow_gap => check_trim(published, stream, from),
        _ => Ok(from),
    }
}

fn last(
    published: &Published,
    query: &Query,
    single: Option<StreamNo>,
    count: u64,
) -> Result<Beginning, Refusal> {
    match (query.streams.len(), single) {
        (0, _) => Ok(Beginning::seq(Seq(published.durable.0.saturating_sub(count)))),
        (1, None) => Ok(Beginning::seq(published.durable)),
        (1, Some(stream)) => {
            let known = &published.streams[stream.0 as usize];
            let index = Index(known.tail.0.saturating_sub(count)).max(known.trim);
            Ok(Beginning { seq: published.seq_of(stream, index), index: Some(index) })
        }
        _ => Err(Refusal::invalid("start.last", "needs one stream, or the whole run")),
    }
}

fn at_index(
    published: &Published,
    query: &Query,
    single: Option<StreamNo>,
    index: Index,
) -> Result<Beginning, Refusal> {
    let tail = single.map_or(Index::ZERO, |stream| published.streams[stream.0 as usize].tail);
    if tail < index && !query.clamp {
        return Err(Refusal::BeyondTail { tail: tail.0 });
    }
    let index = index.min(tail);
    let seq = single.map_or(published.durable, |stream| published.seq_of(stream, index));
    Ok(Beginning { seq, index: Some(index) })
}

/// Checks the proof that a cursor holds.
fn resume(published: &Published, query: &Query, text: &str) -> Result<Seq, Refusal> {
    if OLDER_CURSORS_MAX < query.older_cursors.len() {
        return Err(Refusal::invalid("older_cursors", "has more than 8 entries"));
    }
    let parse = |text: &str| Cursor::parse(text).map_err(|_| Refusal::BadCursor);
    let cursor = parse(text)?;
    let older = query.older_cursors.iter().map(|text| parse(text));
    let older = older.collect::<Result<Vec<_>, _>>()?;
    if cursor.run_uid != published.run_uid {
        return Err(Refusal::RunReplaced { run_uid: published.run_uid });
    }
    let fits = |cursor: &Cursor| {
        cursor.run_uid == published.run_uid && published.chain_at(cursor.seq) == Some(cursor.chain)
    };
    if fits(&cursor) {
        return Ok(cursor.seq);
    }
    Err(Refusal::HistoryChanged {
        common_seq: older.iter().filter(|older| fits(older)).map(|older| older.seq).max(),
        trim: Seq::ZERO,
        tail: published.durable,
    })
}

/// Refuses a start that has been trimmed.
fn check_trim(
    published: &Published,
    stream: StreamNo,
    from: Beginning,
) -> Result<Beginning, Refusal> {
    let index = from.index.unwrap_or_else(|| published.index_at(stream, from.seq));
    let trim = published.streams[stream.0 as usize].trim;
    if trim <= index {
        return Ok(from);
    }
    Err(Refusal::Trimmed { first_seq: published.seq_of(stream, trim), first_index: Some(trim) })
}
