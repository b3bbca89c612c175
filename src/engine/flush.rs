//! Copies frames out of the journal into packs, so that its slots can be used again.
//!
//! A round takes every run whose oldest frame in the journal is older than the round, and all of
//! that run's frames. A run's state is copied between two commands, so it may be ahead of the disk;
//! its segment is written when every frame behind the state is durable. A pack is synced, read back,
//! named, and listed by the manifest before anything relies on it; only then do the runs in it forget
//! their places in the journal, and only then may a slot leave the journal. Reading back is left to a
//! thread beside, while more is written. Both rest while there is time ([`flush_queue`](super::flush_queue)):
//! a round is spread over the time until the next one. When there is none, blocks are compressed fast
//! rather than well, unless space is short. Between rounds, packs are [collected](super::collect).
//!
//! A pack that cannot be written is given up and begun again under another number: the journal
//! still has everything. An error of the manifest stops the store.
//!
//! What it deliberately does not do: hold back an append. Who appends faster than this copies is
//! refused at admission, by [`FlushQueue::is_crowded`](super::flush_queue::FlushQueue::is_crowded).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    admission::Purpose,
    collect::{Collection, DEAD_PERCENT, Diary},
    options::Options,
    select::read_entry,
    shard::{DELETED_REMEMBERED_MS, FRAME_WEIGHT, Run},
    shared::Shared,
    waiters::Queued,
};
use crate::{
    core::RunState,
    error::Error,
    format::{
        file_name,
        frame::{Chain, Frame},
        manifest::Edit,
        pack::{PackHeader, PackKind},
        segment::{JournalPoint, SegmentHead},
        wire,
    },
    platform::{is_full, os},
    record::{Index, RunNo, Seq},
    sabotage::{self, Bug},
    segment::{NewFrame, NewSegment, Pace, Pack, PackWriter, Prover, Segment},
};

/// Runs whose states are copied at once.
const BATCH_RUNS: usize = 512;
/// Of these, states that are copied before others may have the shard.
const STATES_AT_ONCE: usize = 64;
/// Bytes of frames that are copied at once, overrun by less than one frame: what one segment holds.
const SEGMENT_BYTES: u64 = 32 << 20;
/// Bytes of a run's frames from which on it has a file of its own.
const OWN_PACK_BYTES: u64 = 8 << 20;
/// Segments of a closed run from which on it is made one.
const FRAGMENTS_MAX: usize = 4;
/// Bytes of a run's segments below which it is not worth looking for what is trimmed of them.
const MERGED_BYTES_MIN: u64 = 16 << 10;
/// Share of a shared pack that is read back at once, while the rest is written.
const PROOF_SHARE: usize = 16;
/// Raw bytes that are read back at once, at most.
const PROOF_BYTES_MAX: usize = 16 << 20;
/// Runs that forget their places in the journal before copying rests.
const FORGET_AT_ONCE: usize = 64;
/// Packs that may fail one after the other before the store stops.
const FAILURES_MAX: u32 = 3;
/// How long after a pack could not be written the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long after a round the next one is made although there is nothing to copy: what has expired
/// meanwhile is given up then.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(60 * 60);
/// How often it is looked whether a round is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a step of the flusher did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// It copied something.
    Worked,
    /// There was nothing to do.
    Idle,
    /// It waits for frames to become durable.
    Waits,
    /// A pack could not be written; it is tried again later.
    Failed,
    /// The store has stopped.
    Stopped,
}

/// Copies frames into packs. Only one exists; a thread, or a test, takes its steps.
pub(super) struct Flusher {
    pub(super) shared: Arc<Shared>,
    pack_next: u64,
    pub(super) prover: Prover,
    /// Packs that were begun and are not listed by the manifest.
    pub(super) unlisted: Vec<u64>,
    round: Option<Round>,
    /// Whether the last round found something to copy.
    has_copied: bool,
    /// What is being collected, between rounds.
    pub(super) collection: Option<Collection>,
    /// Whether there is nothing to collect until the next round.
    is_tidy: bool,
    /// Bytes that collecting may go through although a round is due: as many as the last round copied.
    pub(super) share: u64,
    failures: u32,
    last_round: Duration,
    /// The round that was asked for last and that the running one answers.
    answers: u64,
    pub(super) diary: Diary,
}

/// One pass over the runs with frames in the journal.
struct Round {
    /// Only runs with a frame below this block.
    below: u64,
    /// The shard that is gone through, and where it goes on there.
    shard: usize,
    next: (u64, RunNo),
    batch: Vec<Snapshot>,
    /// Tells when what the batch stands for is durable.
    durable: Option<Queued>,
    pack: Option<OpenPack>,
}

/// A pack that is being written, and whose frames are in it.
struct OpenPack {
    writer: PackWriter,
    members: Vec<Member>,
    /// What the frames in it count in what waits to be copied.
    bytes: u64,
}

impl OpenPack {
    fn new(writer: PackWriter) -> Self {
        Self { writer, members: Vec::new(), bytes: 0 }
    }
}

/// A run in a pack.
struct Member {
    run_no: RunNo,
    /// Its frames below this number are in the pack.
    until: u64,
    /// Hash of its name, if its earlier segments do not count any more.
    buries: Option<u64>,
}

/// A run's state, as copied between two commands.
struct Snapshot {
    run_no: RunNo,
    name_hash: u64,
    state: RunState,
}

/// Whether segments are to be made one with what follows them: so many that they are read slowly,
/// or mostly trimmed, and so small that it costs little.
fn is_worth_merging(segments: &[Segment], state: &RunState, bytes: u64) -> bool {
    let all: u64 = segments.iter().map(|segment| segment.entry.head.raw_bytes).sum();
    let is_fragmented = state.ending.is_some() && FRAGMENTS_MAX <= segments.len();
    let is_trimmed = MERGED_BYTES_MIN <= all && 2 * state.kept_bytes() <= all;
    (is_fragmented || is_trimmed) && all + bytes <= SEGMENT_BYTES
}

/// Raw bytes of a pack that are read back at once.
fn proof_bytes(options: &Options) -> usize {
    PROOF_BYTES_MAX.min(options.pack_bytes as usize / PROOF_SHARE)
}

/// Adds a frame to those that are kept; frames whose records are all trimmed become one stub.
fn keep(frames: &mut Vec<NewFrame>, frame: Frame, state: &RunState) {
    let has_any = frame.is_stub()
        || frame.header.count == 0
        || wire::skim_all(frame.records_slice())
            .map_while(Result::ok)
            .any(|record| state.stream(record.stream).trim <= record.index);
    if has_any && !frame.is_stub() {
        return frames.push(frame.into());
    }
    let before = frames.pop_if(|before| before.frame.is_stub()).map(|before| before.frame);
    frames.push(frame.to_stub(before.as_ref()).into());
}

/// Frames of a run that are to be copied.
struct Source {
    frames: Vec<NewFrame>,
    until: u64,
    end: JournalPoint,
    chain: Chain,
    is_first: bool,
    bytes: u64,
}

impl Shared {
    /// Whether so much of the journal is taken that copying out of it is urgent.
    fn is_journal_filling(&self) -> bool {
        self.slots_calm() < self.supply.counts().used
    }

    /// Slots that may be in use before copying is urgent: half of them.
    fn slots_calm(&self) -> u32 {
        self.options.journal_slots_max / 2
    }

    /// Bytes that may wait to be written before copying is urgent: halfway from what makes a round due to
    /// where appends are refused.
    fn waiting_calm(&self) -> u64 {
        u64::midpoint(self.options.flush_bytes, self.options.unflushed_bytes_max)
    }

    /// Of the slots that may be in use before copying is urgent, the share that is free.
    fn room(&self) -> f64 {
        let used = f64::from(self.supply.counts().used) / f64::from(self.slots_calm());
        (1.0 - used).max(0.0)
    }
}

impl Pace for Shared {
    fn rest(&self) {
        self.unflushed.rest(self.waiting_calm(), self.room());
    }

    /// Not while space is short: the packs would be larger.
    fn has_haste(&self) -> bool {
        let is_late = self.is_journal_filling() || self.unflushed.is_behind(self.waiting_calm());
        is_late && self.disk.has_room(Purpose::Create)
    }
}

/// The pace of a store whose steps the caller takes: without rests.
struct Restless(Arc<Shared>);

impl Pace for Restless {
    fn rest(&self) {}

    fn has_haste(&self) -> bool {
        self.0.has_haste()
    }
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>, pack_next: u64) -> Self {
        let last_round = shared.platform.clock.mono();
        let pace = Arc::new(Restless(shared.clone()));
        let prover = Prover::inline(proof_bytes(&shared.options), pace);
        Self {
            shared,
            pack_next,
            prover,
            unlisted: Vec::new(),
            round: None,
            has_copied: false,
            collection: None,
            // A start has better things to do.
            is_tidy: true,
            share: 0,
            failures: 0,
            last_round,
            answers: 0,
            diary: Diary::default(),
        }
    }

    /// Takes steps until the store closes or stops.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        self.prover = Prover::beside(proof_bytes(&shared.options), shared.clone());
        let _stop = shared.stop_on_panic("the flusher panicked");
        while !shared.unflushed.is_closing() {
            shared.look_at_space();
            let (until_after, waits) = match self.step() {
                Flushed::Worked if self.has_more() => continue,
                Flushed::Stopped => break,
                // What a round that found nothing is due for may not be durable yet.
                Flushed::Worked | Flushed::Idle => (self.answers, LOOK_EVERY),
                // However many wait for it.
                Flushed::Failed => (u64::MAX, RETRY_AFTER),
                Flushed::Waits => {
                    self.wait_until_durable();
                    continue;
                }
            };
            if !shared.unflushed.wait(until_after, waits) {
                break;
            }
        }
        self.give_up();
    }

    fn wait_until_durable(&mut self) {
        if let Some(durable) = self.round.as_mut().and_then(|round| round.durable.as_mut()) {
            // What came of it is for the next step to see.
            let _ = os::block_on(durable);
        }
    }

    /// Whether it is worth taking another step at once.
    fn has_more(&self) -> bool {
        self.round.is_some() || self.has_copied || self.collection.is_some()
    }

    /// Goes on with the round that is under way, or with what is collected, or begins with what is due.
    pub(super) fn step(&mut self) -> Flushed {
        if self.shared.is_stopped() {
            return Flushed::Stopped;
        }
        if self.round.is_some() {
            return self.go_on();
        }
        let is_due = self.is_due();
        if self.is_asked() {
            // Whoever asked waits for the round, and for one step of collecting at most.
            self.share = self.share.min(1);
        }
        let may_collect = self.collection.is_some() || !self.is_tidy;
        if may_collect && (0 < self.share || !is_due) {
            let collected = self.go_on_collecting(DEAD_PERCENT);
            if collected != Flushed::Idle {
                return collected;
            }
        }
        if is_due { self.go_on() } else { Flushed::Idle }
    }

    /// Whether a round was asked for that the last one does not answer.
    fn is_asked(&self) -> bool {
        self.answers < self.shared.unflushed.asked()
    }

    /// Copies everything that is durable now, whether that is due or not.
    #[cfg(feature = "sim")]
    pub(super) fn force(&mut self) -> Flushed {
        if self.shared.is_stopped() {
            return Flushed::Stopped;
        }
        self.go_on()
    }

    /// Goes on with what is collected, or chooses the pack of which most is dead, however little that
    /// is; false if there is none, it failed, or a round is under way.
    #[cfg(feature = "sim")]
    pub(super) fn force_collect(&mut self) -> bool {
        self.round.is_none()
            && !self.shared.is_stopped()
            && self.go_on_collecting(0) == Flushed::Worked
    }

    /// Collects by one step.
    fn go_on_collecting(&mut self, percent: u64) -> Flushed {
        match self.collect(percent) {
            Ok(true) => Flushed::Worked,
            Ok(false) => {
                self.is_tidy = true;
                Flushed::Idle
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Whether a round is under way.
    #[cfg(feature = "sim")]
    pub(super) fn is_under_way(&self) -> bool {
        self.round.is_some()
    }

    fn go_on(&mut self) -> Flushed {
        match self.take_step() {
            Ok(done) => done,
            Err(error) => self.fail(&error),
        }
    }

    fn is_due(&self) -> bool {
        let Shared { options, unflushed, platform, .. } = &*self.shared;
        if self.is_asked() {
            return true;
        }
        let waited = platform.clock.mono().saturating_sub(self.last_round);
        options.flush_bytes <= unflushed.bytes()
            || self.shared.is_journal_filling()
            || (0 < unflushed.bytes() && Duration::from_millis(options.flush_after_ms) <= waited)
            || LOOK_AROUND_EVERY <= waited
    }

    fn take_step(&mut self) -> Result<Flushed, Error> {
        let Some(mut round) = self.round.take() else {
            self.round = Some(self.begin_round());
            return Ok(Flushed::Worked);
        };
        if let Some(durable) = &round.durable {
            match durable.try_take() {
                None => {
                    self.round = Some(round);
                    return Ok(Flushed::Waits);
                }
                Some(Ok(())) => {}
                // The store ends, and what the states of this round stand for may never be durable.
                Some(Err(_)) => return Ok(Flushed::Stopped),
            }
            round.durable = None;
        }
        if !round.batch.is_empty() {
            let batch = std::mem::take(&mut round.batch);
            let copied = batch.into_iter().try_for_each(|snapshot| self.copy(&mut round, snapshot));
            self.round = Some(round);
            return copied.map(|()| Flushed::Worked);
        }
        if self.gather(&mut round) {
            self.has_copied = true;
            self.round = Some(round);
            return Ok(Flushed::Worked);
        }
        if let Some(pack) = round.pack.take() {
            self.install(pack)?;
        }
        self.end_round()?;
        Ok(Flushed::Worked)
    }

    fn begin_round(&mut self) -> Round {
        self.answers = self.shared.unflushed.asked();
        self.has_copied = false;
        // At least one step of collecting.
        self.share = 1;
        Round {
            below: self.shared.durable_block_no(),
            shard: 0,
            next: (0, RunNo(0)),
            batch: Vec::new(),
            durable: None,
            pack: None,
        }
    }

    fn end_round(&mut self) -> Result<(), Error> {
        self.free_slots()?;
        self.shared.unflushed.answer(self.answers);
        self.renew_manifest()?;
        self.is_tidy = false;
        self.failures = 0;
        self.last_round = self.shared.platform.clock.mono();
        Ok(())
    }

    /// Copies the states of the next runs; false if there are none left.
    fn gather(&self, round: &mut Round) -> bool {
        let mut in_flight = false;
        while round.batch.len() < BATCH_RUNS
            && let Some(shard) = self.shared.shards().nth(round.shard)
        {
            let mut shard = shard.lock();
            let left = BATCH_RUNS - round.batch.len();
            let unflushed = shard.unflushed(round.next, round.below);
            let found: Vec<_> = unflushed.take(left.min(STATES_AT_ONCE)).collect();
            match found.last() {
                Some(&(block_no, run_no)) => round.next = (block_no, RunNo(run_no.0 + 1)),
                None => (round.shard, round.next) = (round.shard + 1, (0, RunNo(0))),
            }
            for (_, run_no) in found {
                let run = shard.run(run_no);
                in_flight |= 0 < run.in_flight;
                // The first frame decided from here on says where the others went.
                run.is_away = true;
                let (name_hash, state) = (run.name_hash, run.state.clone());
                round.batch.push(Snapshot { run_no, name_hash, state });
            }
        }
        if in_flight {
            round.durable = Some(self.shared.barrier());
        }
        !round.batch.is_empty()
    }

    /// Copies a run's frames into a pack.
    fn copy(&mut self, round: &mut Round, snapshot: Snapshot) -> Result<(), Error> {
        let (bytes, has_earlier) = self
            .with_run(snapshot.run_no, |run| (run.unflushed_bytes, 0 < run.published.flushed()));
        let mut own = match OWN_PACK_BYTES <= bytes {
            true => Some(OpenPack::new(self.begin_pack(PackKind::Own, self.prover.clone())?)),
            false => None,
        };
        if own.is_none() && round.pack.is_none() {
            round.pack =
                Some(OpenPack::new(self.begin_pack(PackKind::Shared, self.prover.clone())?));
        }
        let is_deleted = snapshot.state.deleted_ms.is_some();
        let merged = match has_earlier && !is_deleted {
            true => self.to_merge(&snapshot.state, snapshot.name_hash, bytes)?,
            false => Vec::new(),
        };
        let buries = is_deleted || !merged.is_empty();
        let pack = own.as_mut().or(round.pack.as_mut()).expect("begun above");
        self.write(pack, &snapshot, merged)?;
        pack.members.push(Member {
            run_no: snapshot.run_no,
            until: snapshot.state.frames,
            buries: buries.then_some(snapshot.name_hash),
        });
        if let Some(own) = own {
            return self.install(own);
        }
        let full = round.pack.take_if(|pack| self.shared.options.pack_bytes <= pack.writer.bytes());
        full.map_or(Ok(()), |full| self.install(full))
    }

    /// Writes a run's frames as segments behind each other; `merged` are frames of its earlier
    /// segments, which then do not count any more.
    fn write(
        &self,
        pack: &mut OpenPack,
        snapshot: &Snapshot,
        mut merged: Vec<NewFrame>,
    ) -> Result<(), Error> {
        let Snapshot { run_no, name_hash, state } = snapshot;
        let (mut from, mut chain) = (None, None);
        loop {
            let mut source = self.source(*run_no, from, state.frames)?;
            let bytes = source.bytes;
            let is_last = source.until == state.frames;
            if !merged.is_empty() {
                source.frames = merged.drain(..).chain(source.frames).collect();
                (source.is_first, source.chain) = (true, Chain::start(state.run_uid));
            }
            let records_chain = chain.unwrap_or(source.chain);
            let mut headers = source.frames.iter().rev().map(|new| &new.frame.header);
            let with_records = headers.find(|header| 0 < header.count);
            chain = with_records.map(|header| header.chain).or(Some(records_chain));
            let head = SegmentHead {
                name_hash: *name_hash,
                run_no: *run_no,
                // What of the frames follows is the writer's to say.
                first_seq: Seq::ZERO,
                end_seq: Seq::ZERO,
                raw_bytes: 0,
                flushed: source.end,
                is_first: source.is_first,
                is_deleted: is_last && state.deleted_ms.is_some(),
                is_pending: is_last && state.is_pending(),
                expires_ms: if is_last { self.expires_ms(state) } else { 0 },
            };
            let segment = NewSegment {
                head,
                run_uid: state.run_uid,
                records_chain,
                frames: &source.frames,
                // A run goes on from its last segment only.
                state: if is_last { state.to_bytes() } else { "".into() },
            };
            let number = pack.writer.number();
            pack.writer.add(segment).map_err(|error| Self::pack_error(number, error))?;
            pack.bytes += bytes;
            self.shared.unflushed.note_written(bytes);
            if is_last {
                return Ok(());
            }
            from = Some(source.until);
        }
    }

    /// When a run may be given up: some time after it was closed or deleted; 0 is never.
    fn expires_ms(&self, state: &RunState) -> u64 {
        if let Some(deleted_ms) = state.deleted_ms {
            return deleted_ms + DELETED_REMEMBERED_MS;
        }
        let age_ms = self.shared.options.retention_of(state).age_ms;
        let ended_ms = state.ending.as_ref().map(|ending| ending.time_ms);
        ended_ms.zip(age_ms).map_or(0, |(ended_ms, age_ms)| ended_ms.saturating_add(age_ms))
    }

    /// The frames of a run's segments, if it is worth making them one with the last frames: of a
    /// closed run in many pieces, or of one of which much is trimmed.
    fn to_merge(
        &self,
        state: &RunState,
        name_hash: u64,
        bytes: u64,
    ) -> Result<Vec<NewFrame>, Error> {
        let has_trimmed = state.streams.iter().any(|stream| Index::ZERO < stream.trim);
        if state.ending.is_none() && !has_trimmed {
            return Ok(Vec::new());
        }
        let merge = || {
            let segments = self.shared.packs.shelf().segments_of(name_hash, state.run_no)?;
            let mut frames = Vec::new();
            if is_worth_merging(&segments, state, bytes) {
                for segment in &segments {
                    for part in &segment.tail(&self.shared.blocks)?.parts {
                        for frame in segment.read(part, &self.shared.blocks)?.frames {
                            keep(&mut frames, frame, state);
                        }
                    }
                }
            }
            Ok(frames)
        };
        match merge() {
            // What is damaged stays where it is, for its readers to be told.
            Err(Error::Corrupt(_)) => Ok(Vec::new()),
            other => other,
        }
    }

    pub(super) fn begin_pack(
        &mut self,
        kind: PackKind,
        prover: Prover,
    ) -> Result<PackWriter, Error> {
        let Shared { platform, options, store_uuid, .. } = &*self.shared;
        let number = self.pack_next;
        self.pack_next += 1;
        self.unlisted.push(number);
        let header = PackHeader {
            number,
            kind,
            store_uuid: *store_uuid,
            salt: platform.random_u64(),
            created_ms: self.shared.now_ms(),
        };
        PackWriter::create(&*platform.vfs, header, options.codec, prover)
            .map_err(|error| Self::pack_error(number, error))
    }

    /// Ends a pack, and makes its name durable. A directory is not synced again after a sync of it
    /// failed: the store stops.
    pub(super) fn finish_pack(&self, writer: PackWriter) -> Result<(Pack, u64), Error> {
        let vfs = &*self.shared.platform.vfs;
        let finished = writer.finish(vfs)?;
        if sabotage::is(Bug::NoPackDirectorySync) {
            return Ok(finished);
        }
        vfs.sync_dir(&file_name::packs())
            .map_err(|error| self.stop(format!("could not sync the packs' directory: {error}")))?;
        Ok(finished)
    }

    /// Stops the store.
    fn stop(&self, cause: String) -> Error {
        tracing::error!(%cause, "stopped");
        let cause: Arc<str> = cause.into();
        self.shared.stop(cause.clone());
        Error::Stopped { cause }
    }

    pub(super) fn pack_error(number: u64, source: std::io::Error) -> Error {
        let operation = format!("write {}", file_name::pack_new(number));
        Error::Io { operation: operation.into(), source: Arc::new(source) }
    }

    /// The next frames of a run, from the ring or read from the journal.
    fn source(&self, run_no: RunNo, from: Option<u64>, until: u64) -> Result<Source, Error> {
        let (entries, mut source) = self.with_run(run_no, |run| {
            let published = &run.published;
            let first = from.unwrap_or(published.flushed());
            let entries = published.unflushed(first..until, SEGMENT_BYTES);
            let source = Source {
                frames: Vec::with_capacity(entries.len()),
                until: first + entries.len() as u64,
                end: entries.last().expect("a run in a round has frames").0.end,
                chain: published.chain_before_unflushed(),
                is_first: first == 0,
                bytes: 0,
            };
            (entries, source)
        });
        for (entry, recent) in entries {
            let frame = match recent {
                Some(frame) => frame,
                // Its slot is part of the journal as long as the frame is in no segment.
                None => read_entry(&self.shared, run_no, &entry)?.expect("still in the journal"),
            };
            source.bytes += (frame.bytes().len() + FRAME_WEIGHT) as u64;
            source.frames.push(NewFrame { frame, only: entry.only });
        }
        Ok(source)
    }

    /// Ends a pack, has the manifest list it, and lets its runs forget their places.
    fn install(&mut self, pack: OpenPack) -> Result<(), Error> {
        let OpenPack { writer, members, bytes } = pack;
        let (pack, run_counter) = self.finish_pack(writer)?;
        let mut edits = vec![Edit::PackAdded(*pack.listed()), Edit::RunCounter(run_counter)];
        edits.extend(self.buried(&members));
        self.commit(&edits)?;
        self.unlisted.retain(|number| *number != pack.number());
        self.share += bytes;
        if let Some(collection) = &mut self.collection {
            let buries = |member: &Member| Some((member.buries?, member.run_no));
            collection.note_buried(members.iter().filter_map(buries));
        }
        let forget = || {
            self.shared.unflushed.note_listed(bytes);
            for some in members.chunks(FORGET_AT_ONCE) {
                for &Member { run_no, until, .. } in some {
                    let bytes = self.shared.shard(run_no.vshard()).lock().flushed_to(run_no, until);
                    self.shared.unflushed.remove(bytes);
                }
                self.prover.pace().rest();
            }
        };
        if sabotage::is(Bug::ForgetBeforeShelf) {
            forget();
            self.shared.packs.replace([pack], &[]);
        } else {
            self.shared.packs.replace([pack], &[]);
            forget();
        }
        self.free_slots()
    }

    /// Notes the segments that do not count any more because of those of a new pack.
    fn buried(&self, members: &[Member]) -> Vec<Edit> {
        let shelf = self.shared.packs.shelf();
        let mut dead: BTreeMap<u64, u64> = BTreeMap::new();
        for member in members {
            let Some(name_hash) = member.buries else { continue };
            // What a damaged pack holds of the run is not known, and not counted.
            let segments = shelf.segments_of(name_hash, member.run_no).unwrap_or_default();
            for segment in segments {
                *dead.entry(segment.pack.number()).or_default() += segment.entry.head.raw_bytes;
            }
        }
        let live = &self.shared.manifest.lock().live().packs.clone();
        let known = |number: u64| live.get(&number).map_or(0, |pack| pack.dead_bytes);
        let edit = |(number, bytes)| Edit::PackDead { number, raw_bytes: known(number) + bytes };
        dead.into_iter().map(edit).collect()
    }

    /// Lets slots leave the journal that hold no frame that is in no segment.
    fn free_slots(&self) -> Result<(), Error> {
        let durable = self.shared.durable_block_no();
        let oldest = self.shared.shards().filter_map(|shard| shard.lock().oldest_unflushed()).min();
        let kept = oldest.filter(|_| !sabotage::is(Bug::FreeSlotBeforeCopy));
        let low = kept.map_or(durable, |oldest| oldest.min(durable));
        let frees = |slots: &[crate::format::manifest::ListedSlot]| {
            slots.get(1).is_some_and(|next| next.first_block_no <= low)
        };
        let before = self.shared.manifest.lock().live().slots.clone();
        if !frees(&before) {
            return Ok(());
        }
        self.commit(&[Edit::JournalLow(low)])?;
        let kept = self.shared.manifest.lock().live().slots.clone();
        for slot in before.iter().filter(|slot| !kept.contains(slot)) {
            if let Some(retired) = self.shared.frames.retire(slot.file_seq) {
                self.shared.supply.retire(retired);
            }
        }
        Ok(())
    }

    pub(super) fn commit(&self, edits: &[Edit]) -> Result<(), Error> {
        let committed = self.shared.manifest.lock().commit(edits);
        match committed {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Io {
                operation: "write a new manifest".into(),
                source: Arc::new(std::io::ErrorKind::StorageFull.into()),
            }),
            Err(error) => Err(self.manifest_failed(&error)),
        }
    }

    /// Sees to it that the manifest has room when there is no space for another.
    fn renew_manifest(&self) -> Result<(), Error> {
        let renewed = self.shared.manifest.lock().renew();
        renewed.map_err(|error| self.manifest_failed(&error))
    }

    fn manifest_failed(&self, error: &std::io::Error) -> Error {
        self.stop(format!("could not write the manifest: {error}"))
    }

    fn with_run<T>(&self, run_no: RunNo, look: impl FnOnce(&Run) -> T) -> T {
        look(self.shared.shard(run_no.vshard()).lock().run(run_no))
    }

    /// Gives the round up, and what is being collected: the journal has everything, and the packs are
    /// still there. A full disk is waited for.
    fn fail(&mut self, error: &Error) -> Flushed {
        self.give_up();
        if self.shared.is_stopped() {
            return Flushed::Stopped;
        }
        tracing::warn!(%error, "copying into a pack is given up");
        let is_full = matches!(error, Error::Io { source, .. } if is_full(source));
        self.failures += u32::from(!is_full);
        if FAILURES_MAX <= self.failures {
            self.stop(format!("could not write packs: {error}"));
            return Flushed::Stopped;
        }
        Flushed::Failed
    }

    /// Leaves the round, what is being collected, and the packs that are being written; nobody relies on
    /// them.
    pub(super) fn give_up(&mut self) {
        self.round = None;
        // Whoever asked for the round waits for the next one.
        self.answers = self.shared.unflushed.answered();
        self.shared.unflushed.note_given_up();
        if let Some(collection) = self.collection.take() {
            self.spare(&collection);
        }
        self.is_tidy = true;
        self.remove_unlisted();
    }

    /// Removes the packs that were begun and are not listed. Once the store has stopped it is not known
    /// what the manifest lists, and they stay for the next start.
    pub(super) fn remove_unlisted(&mut self) {
        for number in std::mem::take(&mut self.unlisted) {
            if self.shared.is_stopped() {
                continue;
            }
            for path in [
                file_name::pack_new(number),
                file_name::pack_names_new(number),
                file_name::pack(number),
                file_name::pack_names(number),
            ] {
                // If this fails, the next start removes it.
                let _ = self.shared.platform.vfs.unlink(&path);
            }
        }
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{
        core::{Append, NewRecord},
        engine::{IfAbsent, RunKey, scene::Scene},
        format::{compress::Codec, segment::Part},
        platform::{
            Space,
            sim::{Call, Fault, SimDisk, What},
        },
        record::name_hash,
    };

    fn has_haste(scene: &Scene) -> bool {
        let prover = &scene.flusher.prover;
        assert!(!prover.unhurried().pace().has_haste());
        prover.pace().has_haste()
    }

    /// Where a block's header says its codec (`format::pack`).
    const CODEC_AT: usize = 8;

    /// The one segment of a run, its parts, and the codecs of their blocks.
    fn codecs(scene: &Scene, disk: &SimDisk, run: &RunKey) -> (Segment, Vec<Part>, Vec<u8>) {
        let shared = &scene.flusher.shared;
        let segments = shared.packs.shelf().named(name_hash(&run.namespace, &run.run_id));
        let mut segments = segments.expect("readable");
        let segment = segments.pop().filter(|_| segments.is_empty()).expect("one segment");
        let pack = file_name::pack(segment.pack.number());
        let file = disk.read_file(pack.as_str()).expect("a pack");
        let parts = segment.tail(&shared.blocks).expect("readable").parts;
        let block = |part: &Part| match part.block {
            // That of the description.
            0 => segment.entry.block,
            other => other,
        };
        let codecs = parts.iter().map(|part| file[block(part) as usize + CODEC_AT]).collect();
        (segment, parts, codecs)
    }

    /// Counts the rests, and makes haste with every second block.
    #[derive(Default)]
    struct Changing {
        rests: AtomicU32,
        blocks: AtomicU32,
    }

    impl Pace for Changing {
        fn rest(&self) {
            self.rests.fetch_add(1, Ordering::Relaxed);
        }

        fn has_haste(&self) -> bool {
            self.blocks.fetch_add(1, Ordering::Relaxed) % 2 == 1
        }
    }

    #[test]
    fn what_a_round_wrote_waits_no_more_and_what_it_gave_up_waits_again() {
        let (mut scene, run) = (Scene::on(&SimDisk::new()), RunKey::new("run"));
        scene.append(&run);
        let shared = scene.flusher.shared.clone();
        let unflushed = &shared.unflushed;
        let bytes = unflushed.bytes();
        assert_eq!(unflushed.unwritten(), bytes);
        // A round: its beginning, the run's state, its frames.
        (0..3).for_each(|_| assert_eq!(scene.flusher.force(), Flushed::Worked));
        assert_eq!((unflushed.bytes(), unflushed.unwritten()), (bytes, 0));
        scene.flusher.give_up();
        assert_eq!((unflushed.bytes(), unflushed.unwritten()), (bytes, bytes));
        scene.copy();
        scene.append(&run);
        assert_eq!(unflushed.unwritten(), unflushed.bytes());
    }

    #[test]
    fn who_asked_for_a_round_that_failed_has_the_next_one() {
        let disk = SimDisk::new();
        let (mut scene, run) = (Scene::on(&disk), RunKey::new("run"));
        scene.append(&run);
        let (round, told) = scene.flusher.shared.unflushed.ask();
        disk.inject(Fault::new(Call::Write, What::Enospc).on("tmp/"));
        let mut step = || scene.flusher.step();
        while step() == Flushed::Worked {}
        assert_eq!((disk.faults_left(), *told.borrow()), (0, 0), "it has failed");
        while step() == Flushed::Worked {}
        assert_eq!(*told.borrow(), round);
    }

    #[test]
    fn who_copies_rests_after_every_block_and_so_does_who_reads_it_back() {
        let (mut scene, run) = (Scene::on(&SimDisk::new()), RunKey::new("run"));
        let pace = Arc::new(Changing::default());
        // What is read back at once is less than the pack, and the rest of it at its end.
        scene.flusher.prover = Prover::beside(100_000, pace.clone());
        for _ in 0..8 {
            scene.append_record(&run, vec![b'x'; 40_000]);
        }
        scene.copy();
        let shelf = scene.flusher.shared.packs.shelf();
        let blocks: u32 = shelf.packs().map(|pack| pack.footer().blocks).sum();
        assert!(3 < blocks, "{blocks}");
        // Once more, when the run has forgotten its places in the journal.
        assert_eq!(pace.rests.load(Ordering::Relaxed), 2 * blocks + 1);
    }

    #[test]
    fn blocks_are_compressed_fast_while_there_is_haste_and_well_while_there_is_none() {
        let disk = SimDisk::new();
        let (mut scene, run) = (Scene::on(&disk), RunKey::new("run"));
        scene.flusher.prover = Prover::beside(usize::MAX, Arc::new(Changing::default()));
        for _ in 0..8 {
            scene.append_record(&run, vec![b'x'; 65_000]);
        }
        scene.copy();
        let (segment, parts, codecs) = codecs(&scene, &disk, &run);
        let expected = [Codec::Zstd, Codec::Lz4].map(Codec::number).repeat(codecs.len() / 2);
        assert_eq!((codecs.len(), &codecs), (4, &expected));
        let blocks = &scene.flusher.shared.blocks;
        let read = |part| segment.read(part, blocks).expect("readable").frames.len();
        assert_eq!(parts.iter().map(read).sum::<usize>(), 9, "a run and its records");
    }
    #[test]
    fn what_is_collected_is_compressed_well_whatever_haste_there_is() {
        struct Hasty;

        impl Pace for Hasty {
            fn rest(&self) {}

            fn has_haste(&self) -> bool {
                true
            }
        }

        let disk = SimDisk::new();
        let (mut scene, run, other) = (Scene::on(&disk), RunKey::new("run"), RunKey::new("other"));
        scene.flusher.prover = Prover::inline(usize::MAX, Arc::new(Hasty));
        scene.append_record(&run, vec![b'x'; 10_000]);
        scene.append(&other);
        scene.copy();
        assert_eq!(codecs(&scene, &disk, &run).2, [Codec::Lz4.number()]);
        scene.delete(&other);
        scene.copy();
        while scene.flusher.force_collect() {}
        assert_eq!(codecs(&scene, &disk, &run).2, [Codec::Zstd.number()]);
    }

    #[test]
    fn there_is_haste_while_copying_is_behind_or_the_journal_fills_and_space_is_not_short() {
        let options = Options {
            flush_bytes: 16 << 10,
            unflushed_bytes_max: 64 << 10,
            ..Options::new("simulated")
        };
        let (mut scene, run) = (Scene::with(&SimDisk::new(), options), RunKey::new("run"));
        scene.append_record(&run, vec![b'x'; 30_000]);
        assert!(!has_haste(&scene));
        scene.append_record(&run, vec![b'x'; 10_000]);
        assert!(has_haste(&scene), "halfway from 16 to 64 KiB, but for an eighth");
        let disk = &scene.flusher.shared.disk;
        disk.note(Space { free: 1 << 20, total: 1 << 30 }, 1 << 20);
        assert!(!has_haste(&scene), "space is short");
        disk.note(Space { free: 1 << 30, total: 1 << 30 }, 1 << 20);
        assert!(has_haste(&scene));
        scene.copy();
        assert!(!has_haste(&scene));

        let slot_bytes = 128 << 10;
        let options = Options {
            journal_slots_max: 4,
            slot_bytes_first: slot_bytes,
            slot_bytes,
            ..Options::new("simulated")
        };
        let mut scene = Scene::with(&SimDisk::new(), options);
        while scene.flusher.shared.supply.counts().used < 3 {
            assert!(!has_haste(&scene));
            scene.append_record(&run, vec![b'x'; 30_000]);
        }
        assert!(has_haste(&scene), "three of four slots are in use");
    }

    #[test]
    fn states_that_rest_on_what_will_never_be_durable_are_not_copied() {
        let disk = SimDisk::new();
        let Scene { store, mut committer, mut flusher, .. } = Scene::on(&disk);
        let shared = flusher.shared.clone();
        let run = RunKey::new("run");
        let append = || {
            let records = vec![NewRecord::new("some")];
            let append = Append { stream: "out".into(), records, ..Append::default() };
            Box::pin(store.append(&run, append, IfAbsent::Create))
        };
        let mut context = Context::from_waker(Waker::noop());
        let mut durable = append();
        assert!(durable.as_mut().poll(&mut context).is_pending());
        shared.supply.step(&*shared.platform.vfs);
        committer.step();
        assert!(matches!(durable.as_mut().poll(&mut context), Poll::Ready(Ok(_))));

        let mut in_flight = append();
        assert!(in_flight.as_mut().poll(&mut context).is_pending());
        while flusher.force() == Flushed::Worked {}
        assert_eq!(flusher.force(), Flushed::Waits, "for what is in flight");
        // As when the store is closed on a full disk: nothing that is queued is written any more.
        shared.queue.end(&Error::ShuttingDown);
        let told = in_flight.as_mut().poll(&mut context);
        assert!(matches!(told, Poll::Ready(Err(Error::ShuttingDown))));
        assert_eq!(flusher.force(), Flushed::Stopped);
        assert!(!disk.files().iter().any(|path| path.starts_with("packs/")));
    }
}
