//! A position in a run, and the steps that a reader takes from there.
//!
//! Steps never wait: a step gives an item, asks for frames to be read from disk, or says that there
//! is nothing more for now.

use std::collections::{BTreeMap, VecDeque};

use super::{
    published::Published,
    request::{Bounds, End, Gap, Query, StreamInfo, TailItem},
    select::{
        Batch, Chunk, ChunkFrame, Filter, Found, FoundItem, Gathered, Load, Position, Selection,
        gather,
    },
    shard::Run,
    shared::Shared,
    start::{Answers, Unresolved, find_start},
};
use crate::{
    core::Refusal,
    error::{Corruption, Error},
    format::{Damage, cursor::Cursor, frame::Frame, wire},
    record::{Index, RunNo, RunUid, STREAMS_PER_RUN_MAX, Seq, StreamNo},
};

/// What a reader does next.
pub(super) enum Step {
    Item(TailItem),
    Load(Load),
    Wait,
}

/// A position in a run, and what is read from there.
pub(super) struct Reader {
    run_no: RunNo,
    run_uid: RunUid,
    selection: Selection,
    bounds: Bounds,
    stop_at: Option<Seq>,
    position: Position,
    /// The stream that is read, if it is one and exists.
    single: Option<StreamNo>,
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

impl Reader {
    /// A reader at the start of a query. The caller holds the shard's lock, and the run exists.
    pub(super) fn open(run: &Run, query: &Query, answers: &Answers) -> Result<Self, Unresolved> {
        let published = &run.published;
        let mut selection = Selection::of(&query.streams);
        if STREAMS_PER_RUN_MAX < query.streams.len() {
            let problem = "names more streams than a run can have";
            return Err(Refusal::invalid("streams", problem).into());
        }
        selection.resolve(published);
        let single = selection.single();
        let from = find_start(published, answers, query, single)?;
        Ok(Self {
            run_no: run.state.run_no,
            run_uid: published.run_uid,
            selection,
            bounds: query.bounds,
            stop_at: query.stop_at_tail.then_some(published.durable),
            position: from.at,
            single,
            cursor: cursor(published.run_uid, from.at, single),
            first_index: from.index,
            gaps_told: BTreeMap::new(),
            announced: 0,
            caught_up: false,
            ended: wants_nothing(&query.bounds).then_some(End::Limit),
            ready: VecDeque::new(),
            loaded: None,
        })
    }

    /// Where to resume after the last item given.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Next seq of the run: what is durable now.
    pub(super) fn durable(&self, shared: &Shared) -> Seq {
        shared.shard(self.run_no.vshard()).lock().run(self.run_no).durable()
    }

    /// Takes in frames that were read from disk; none if they have to be looked for again.
    pub(super) fn take(&mut self, chunk: Option<Chunk>) {
        self.loaded = chunk;
    }

    /// The next step, as far as it goes without waiting.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Step, Error> {
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
            let (chunk, filter) = match self.look(shard.lock().run(self.run_no))? {
                Look::Step(step) => return Ok(step),
                Look::Chunk(chunk, filter) => (chunk, filter),
            };
            let found = self.select(chunk, &filter)?;
            self.make_ready(found);
        }
    }

    /// What the durable log offers at the position.
    fn look(&mut self, run: &Run) -> Result<Look, Refusal> {
        let published = &run.published;
        published.check_there()?;
        self.selection.resolve(published);
        self.single = self.selection.single();
        let new_streams = self.new_streams(published);
        if !new_streams.is_empty() {
            return Ok(Look::Step(Step::Item(TailItem::Streams(new_streams))));
        }
        let filter = Filter::of(published, &self.selection, self.until(published));
        if let Some(chunk) = self.loaded.take() {
            return Ok(Look::Chunk(chunk, filter));
        }
        Ok(match gather(run, &filter, self.position.seq) {
            Gathered::Recent(chunk) => Look::Chunk(chunk, filter),
            Gathered::Cold(load) => Look::Step(Step::Load(load)),
            Gathered::Nothing => Look::Step(self.at_end(published, filter.until)),
        })
    }

    /// Exclusive end of what may be delivered now.
    fn until(&self, published: &Published) -> Seq {
        let bounds = self.bounds.until_seq.into_iter().chain(self.stop_at);
        bounds.fold(published.durable, Seq::min)
    }

    fn new_streams(&mut self, published: &Published) -> Vec<StreamInfo> {
        let known = std::mem::replace(&mut self.announced, published.streams.len());
        (known..published.streams.len())
            .map(|n| StreamNo(n as u32))
            .filter(|&stream| self.selection.holds(stream))
            .map(|stream| published.info(stream))
            .collect()
    }

    /// Nothing more lies below `until`: end, tell that the tail is reached, or wait.
    fn at_end(&mut self, published: &Published, until: Seq) -> Step {
        if self.position.seq < until {
            let chain = published.chain_at(until).expect("what lies before was read");
            self.position = Position { seq: until, chain, ..self.position };
        }
        self.cursor = self.cursor_at(self.position);
        if published.durable <= self.position.seq && self.selection.is_ended(published) {
            return self.end(End::Closed(published.outcome));
        }
        let is_below = |bound: Seq| bound <= self.position.seq;
        let is_past = self.bounds.until_seq.is_some_and(is_below)
            || self.stop_at.is_some_and(is_below)
            || self.bounds.until_index.is_some_and(|until| until <= self.position.index);
        if is_past {
            return self.end(End::Limit);
        }
        if self.caught_up {
            return Step::Wait;
        }
        self.caught_up = true;
        Step::Item(TailItem::CaughtUp(self.cursor))
    }

    fn cursor_at(&self, at: Position) -> Cursor {
        cursor(self.run_uid, at, self.single)
    }

    fn end(&mut self, end: End) -> Step {
        self.ended = Some(end);
        Step::Item(TailItem::End(end, self.cursor))
    }

    /// Puts cursors to what was found.
    fn make_ready(&mut self, found: Vec<Found>) {
        for Found { item, at } in found {
            let cursor = self.cursor_at(at);
            self.ready.push_back(match item {
                FoundItem::Records(records) => TailItem::Records(records, cursor),
                FoundItem::Gap(gap) => TailItem::Gap(gap, cursor),
            });
        }
        if self.ready.is_empty() {
            self.cursor = self.cursor_at(self.position);
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
                self.pass(&part.frame, part.frame.next_seq());
                self.position.index = self.position.index + count;
                self.charge(count, u64::from(part.frame.header.records_len));
            } else {
                self.select_from(&part.frame, filter, &mut batch, &mut found)?;
            }
        }
        let next = chunk.next.min(filter.until);
        if self.ended.is_none() && self.position.seq < next {
            self.position = Position { seq: next, chain: chunk.chain, ..self.position };
        }
        batch.flush(self.position, &mut found);
        Ok(found)
    }

    /// Goes on to `seq`, which lies in the frame or is its end.
    fn pass(&mut self, frame: &Frame, seq: Seq) {
        self.position = Position { seq, chain: frame.header.chain, ..self.position };
    }

    /// Whether every record of the frame is delivered, so that none has to be looked at.
    fn is_wanted_whole(&self, part: &ChunkFrame, filter: &Filter) -> bool {
        let header = &part.frame.header;
        let fits = |bound: Option<u64>, size: u64| bound.is_none_or(|bound| size < bound);
        self.position.seq <= header.first_seq
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
            if record.seq < self.position.seq || !filter.wants(record.stream) {
                continue;
            }
            if filter.until <= record.seq {
                return Ok(());
            }
            if self.first_index.is_some_and(|first| record.index < first) {
                continue;
            }
            if self.bounds.until_index.is_some_and(|until| until <= record.index) {
                self.ended = Some(End::Limit);
                return Ok(());
            }
            self.first_index = None;
            let trim = filter.trims.get(record.stream.0 as usize).copied().unwrap_or_default();
            let is_single = self.single == Some(record.stream);
            let from = if is_single { self.position.index } else { record.index };
            let to = record.index.max(trim);
            if from < to {
                // Of what is trimmed, some may be gone, and some may still be there.
                batch.flush(self.position, found);
                self.tell_gap(Gap { stream: record.stream, from, to }, found);
                if is_single {
                    self.position.index = to;
                }
            }
            if record.index < trim {
                continue;
            }
            batch.add_part(&records, piece.clone());
            self.pass(frame, record.seq + 1);
            self.position.index = record.index + 1;
            self.charge(1, piece.len() as u64);
            let last = self.bounds.until_index.is_some_and(|until| until <= record.index + 1);
            if last {
                self.ended = Some(End::Limit);
            }
            if self.ended.is_some() {
                return Ok(());
            }
        }
        if frame.is_stub() && self.single.is_none() {
            batch.flush(self.position, found);
            self.tell_trimmed(filter, found);
        }
        if self.position.seq < frame.next_seq() {
            self.pass(frame, frame.next_seq());
        }
        Ok(())
    }

    /// Tells what is trimmed of all streams that are read: records of some of them are gone.
    fn tell_trimmed(&mut self, filter: &Filter, found: &mut Vec<Found>) {
        for (stream, &to) in filter.trims.iter().enumerate() {
            let stream = StreamNo(stream as u32);
            let from = self.gaps_told.get(&stream).copied().unwrap_or_default();
            if filter.wants(stream) && from < to {
                self.tell_gap(Gap { stream, from, to }, found);
            }
        }
    }

    /// Tells a gap once, however many trimmed records are met on the way through it.
    fn tell_gap(&mut self, gap: Gap, found: &mut Vec<Found>) {
        let told = self.gaps_told.entry(gap.stream).or_default();
        if gap.to <= *told {
            return;
        }
        *told = gap.to;
        found.push(Found { item: FoundItem::Gap(gap), at: self.position });
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

/// The cursor of a position.
fn cursor(run_uid: RunUid, at: Position, single: Option<StreamNo>) -> Cursor {
    let stream = single.map(|stream| (stream, at.index));
    Cursor { run_uid, seq: at.seq, chain: at.chain, stream }
}

/// Whether a bound is reached before anything is read.
fn wants_nothing(bounds: &Bounds) -> bool {
    bounds.records == Some(0)
        || bounds.bytes == Some(0)
        || bounds.until_seq == Some(Seq::ZERO)
        || bounds.until_index == Some(Index::ZERO)
}

/// Bytes that were checked when they were read do not decode.
fn bug(damage: Damage) -> Error {
    Error::Corrupt(Corruption { file: "memory".into(), position: 0, damage })
}
