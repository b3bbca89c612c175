//! A new data directory, made from runs: what an import and a recovery into a new place write.
//!
//! Promises: a [`NewStore`] is built in a directory beside the one it will be, and takes that name only
//! when all of it is synced, so that there is a whole store or none. Frames are written as they are:
//! run numbers, seqs, times, CRCs and chains stay, so every cursor, id and producer number that the
//! old store gave out is good in the new one. The order on disk is that of a flush: packs, each synced
//! and read back; then a journal of one empty block that carries the clock on; then the manifest that
//! lists both; then the name.
//!
//! All frames go into packs and none into the journal: of every segment it is said that it was flushed
//! before block 1, and the journal begins with that block.
//!
//! A log with frames missing is written as what it is. Frames that do not link to those before them
//! begin a new segment, and nothing stands for what lies between: readers of it are told of data loss,
//! and the rest is served. There are no stubs for lost frames, since a stub says that the records were
//! trimmed. The state behind the last frame is given by whoever knows it; states behind earlier
//! stretches may be given, so that the past of the run can be told from there on.
//!
//! What it deliberately does not do: fold frames into states, choose what is worth keeping, or write
//! into a directory that holds anything.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    core::RunState,
    error::Error,
    format::{
        block::FLAG_CLEAN,
        compress::Codec,
        file_name,
        frame::{Chain, FLAG_FIRST, Frame},
        identity::StoreIdentity,
        manifest::ListedSlot,
        pack::{PackHeader, PackKind},
        segment::{JournalPoint, SegmentHead},
        slot::{SlotHeader, SlotKind},
    },
    journal::{BlockWriter, prepare},
    manifest::{LivePack, LiveSet, Manifest},
    platform::{Platform, os},
    record::{RunNo, RunUid, Seq, name_hash},
    recovery,
    segment::{NewFrame, NewSegment, PackWriter, Prover, Steady},
};

/// Bytes of frames that one segment holds, overrun by less than one frame.
const SEGMENT_BYTES: usize = 32 << 20;
/// Bytes of a pack at which the next one is begun.
const PACK_BYTES: u64 = 256 << 20;
/// Raw bytes of a pack that are read back at once.
const PROOF_BYTES: usize = 16 << 20;
/// Bytes of the journal's slot: header page, one block, and some to spare.
const SLOT_BYTES: u64 = 64 << 10;
const MANIFEST_BYTES: u64 = 1 << 20;
/// The journal's first block: everything in packs was flushed before it.
const FIRST_BLOCK_NO: u64 = 1;

/// Why a new directory is not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// There is something in the way. Name a directory that does not exist, or an empty one.
    #[error("{location} exists and is not empty: name a new directory")]
    InTheWay {
        /// The directory.
        location: String,
    },
    /// Two runs have one number, or one name.
    #[error("{what} of the run {run:?} is taken by another run: leave one of them out")]
    Taken {
        /// Name of the run.
        run: String,
        /// `the number` or `the name`.
        what: &'static str,
    },
    /// Frames, state and name of a run do not belong together.
    #[error("the run {run:?} does not fit together: {what}")]
    Unfit {
        /// Name of the run.
        run: String,
        /// What does not fit.
        what: &'static str,
    },
    /// The run has no frame.
    #[error("the run {run:?} has no frames: leave it out")]
    Empty {
        /// Name of the run.
        run: String,
    },
    /// What was written did not come back, or the system refused.
    #[error(transparent)]
    Store(#[from] Error),
    /// The operating system refused.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// A directory that is being built. Dropped before [`finish`](Self::finish), it leaves nothing behind.
pub struct NewStore {
    platform: Platform,
    /// Where it is built, and what it will be called.
    places: Option<(PathBuf, PathBuf)>,
    identity: StoreIdentity,
    codec: Codec,
    pack: Option<PackWriter>,
    pack_next: u64,
    live: LiveSet,
    clock_ms: u64,
    numbers: BTreeSet<RunNo>,
    /// Names of runs that are not deleted, by hash.
    names: BTreeSet<u64>,
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Built {
    /// Runs.
    pub runs: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of all frames before compression.
    pub raw_bytes: u64,
    /// Bytes of the packs.
    pub bytes: u64,
}

impl NewStore {
    /// Begins a store that will be at `path`, where nothing may be but an empty directory.
    ///
    /// # Errors
    /// [`BuildError::InTheWay`], also of what an interrupted attempt left beside it;
    /// [`BuildError::Io`].
    pub fn create(
        path: impl AsRef<Path>,
        identity: StoreIdentity,
        codec: Codec,
    ) -> Result<Self, BuildError> {
        // Without a slash at the end.
        let path: PathBuf = path.as_ref().components().collect();
        let mut beside = path.clone().into_os_string();
        beside.push(".building");
        let beside = PathBuf::from(beside);
        for place in [&path, &beside] {
            let names = match os::platform(place).vfs.list(&file_name::root()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => vec![String::new()],
                other => other?,
            };
            if !names.is_empty() {
                let location = place.display().to_string();
                return Err(BuildError::InTheWay { location });
            }
        }
        os::OsVfs::create_root(&beside)?;
        let mut store = Self::begin(os::platform(&beside), identity, codec);
        store.places = Some((beside, path));
        recovery::write_identity(&store.platform, &identity)?;
        Ok(store)
    }

    /// The same in the directory of a platform itself, which is to be empty: it is a store from the
    /// moment its manifest is there.
    ///
    /// # Errors
    /// [`BuildError::InTheWay`], [`BuildError::Io`].
    pub fn on(
        platform: Platform,
        identity: StoreIdentity,
        codec: Codec,
    ) -> Result<Self, BuildError> {
        if !platform.vfs.list(&file_name::root())?.is_empty() {
            let location = platform.vfs.location().display().to_string();
            return Err(BuildError::InTheWay { location });
        }
        recovery::write_identity(&platform, &identity)?;
        Ok(Self::begin(platform, identity, codec))
    }

    fn begin(platform: Platform, identity: StoreIdentity, codec: Codec) -> Self {
        Self {
            platform,
            places: None,
            identity,
            codec,
            pack: None,
            pack_next: 0,
            live: LiveSet { journal_low: FIRST_BLOCK_NO, ..LiveSet::default() },
            clock_ms: identity.created_ms,
            numbers: BTreeSet::new(),
            names: BTreeSet::new(),
        }
    }

    /// Sees to it that no new run gets a number whose counter is below this one: that of a run which
    /// the old store had and the new one has not. Numbers of runs that are written are kept anyway.
    pub fn reserve(&mut self, run_counter: u64) {
        self.live.run_counter = self.live.run_counter.max(run_counter);
    }

    /// Sees to it that no time given from now on is before this one.
    pub fn note_clock(&mut self, clock_ms: u64) {
        self.clock_ms = self.clock_ms.max(clock_ms);
    }

    /// Begins a run. Its frames follow, then [`NewRun::finish`]; without that, what was written of it
    /// belongs to no run that can be read.
    ///
    /// # Errors
    /// [`BuildError::Taken`], [`BuildError::Unfit`] if number and name do not belong together.
    pub fn run(
        &mut self,
        namespace: &str,
        run_id: &str,
        run_no: RunNo,
        run_uid: RunUid,
    ) -> Result<NewRun<'_>, BuildError> {
        let name_hash = name_hash(namespace, run_id);
        let run = run_id.to_owned();
        if run_no.vshard() != name_hash % crate::record::VSHARDS {
            return Err(BuildError::Unfit { run, what: "its number is not one of its name" });
        }
        if !self.numbers.insert(run_no) {
            return Err(BuildError::Taken { run, what: "the number" });
        }
        Ok(NewRun {
            store: self,
            name: run,
            name_hash,
            run_no,
            run_uid,
            frames: Vec::new(),
            bytes: 0,
            segments: 0,
            chain: Some(Chain::start(run_uid)),
            records_chain: Chain::start(run_uid),
            stretch_chain: Chain::start(run_uid),
            next_seq: Seq::ZERO,
            has_lost_end: false,
        })
    }

    fn pack(&mut self) -> io::Result<&mut PackWriter> {
        if self.pack.is_none() {
            let header = PackHeader {
                number: self.pack_next,
                kind: PackKind::Shared,
                store_uuid: self.identity.store_uuid,
                salt: self.platform.random_u64(),
                created_ms: self.platform.clock.wall_ms(),
            };
            self.pack_next += 1;
            let prover = Prover::inline(PROOF_BYTES, Arc::new(Steady));
            self.pack = Some(PackWriter::create(&*self.platform.vfs, header, self.codec, prover)?);
        }
        Ok(self.pack.as_mut().expect("begun above"))
    }

    fn finish_pack(&mut self) -> Result<(), BuildError> {
        let Some(writer) = self.pack.take() else { return Ok(()) };
        let (pack, run_counter) = writer.finish(&*self.platform.vfs)?;
        self.platform.vfs.sync_dir(&file_name::packs())?;
        let listed = *pack.listed();
        self.live.packs.insert(listed.number, LivePack { listed, dead_bytes: 0 });
        self.live.run_counter = self.live.run_counter.max(run_counter);
        Ok(())
    }

    /// Ends the store and gives it its name.
    ///
    /// # Errors
    /// [`BuildError::Store`] if what was written does not come back, [`BuildError::Io`]; there is no
    /// store then.
    pub fn finish(mut self) -> Result<Built, BuildError> {
        self.finish_pack()?;
        let slot = self.begin_journal()?;
        self.live.slots.push(slot);
        let StoreIdentity { store_uuid, .. } = self.identity;
        let live = self.live.clone();
        drop(Manifest::create(&self.platform, store_uuid, 0, MANIFEST_BYTES, 1, live)?);
        let packs = self.live.packs.values();
        let built = Built {
            runs: self.numbers.len() as u64,
            packs: packs.len() as u64,
            raw_bytes: packs.clone().map(|pack| pack.listed.raw_bytes).sum(),
            bytes: packs.map(|pack| pack.listed.bytes).sum(),
        };
        if let Some((beside, path)) = &self.places {
            os::move_directory(beside, path)?;
            self.places = None;
        }
        Ok(built)
    }

    /// The journal: nothing but a mark that the store was left in order, and what time it was.
    fn begin_journal(&self) -> io::Result<ListedSlot> {
        let ready = prepare(&*self.platform.vfs, 0, SLOT_BYTES, &|_| {})?;
        let header = SlotHeader {
            kind: SlotKind::Journal,
            file_seq: 0,
            first_block_no: FIRST_BLOCK_NO,
            prev_crc: 0,
            size: ready.size,
            store_uuid: self.identity.store_uuid,
            incarnation: 0,
            salt: self.platform.random_u64(),
            created_ms: self.platform.clock.wall_ms(),
        };
        let mut writer = BlockWriter::new(ready.begin(&header)?, header, FIRST_BLOCK_NO);
        writer.write(FLAG_CLEAN, [], self.clock_ms)?;
        writer.sync()?;
        Ok(ListedSlot { slot: 0, file_seq: 0, first_block_no: FIRST_BLOCK_NO })
    }
}

impl Drop for NewStore {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.places {
            // If this fails, whoever tries again is told what is in the way.
            let _ = os::remove_tree(beside);
        }
    }
}

/// A run that is being written.
pub struct NewRun<'a> {
    store: &'a mut NewStore,
    name: String,
    name_hash: u64,
    run_no: RunNo,
    run_uid: RunUid,
    frames: Vec<NewFrame>,
    bytes: usize,
    segments: u32,
    /// Chain behind the last frame; none behind what is missing.
    chain: Option<Chain>,
    /// Chain of the last frame with records.
    records_chain: Chain,
    /// That of the last frame with records before the frames that are gathered.
    stretch_chain: Chain,
    next_seq: Seq,
    /// Whether its last frames are missing.
    has_lost_end: bool,
}

impl NewRun<'_> {
    fn unfit(&self, what: &'static str) -> BuildError {
        BuildError::Unfit { run: self.name.clone(), what }
    }

    /// Adds a frame. One that does not link to those before it is behind frames that are missing.
    ///
    /// # Errors
    /// [`BuildError::Unfit`] if it is another run's, or before what was added; [`BuildError::Io`].
    pub fn frame(&mut self, frame: &Frame) -> Result<(), BuildError> {
        let header = &frame.header;
        if header.run_no != self.run_no {
            return Err(self.unfit("a frame has another number"));
        }
        if header.first_seq < self.next_seq {
            return Err(self.unfit("a frame begins before the end of the one before it"));
        }
        let is_next = header.first_seq == self.next_seq;
        let links = |chain: Chain| frame.is_stub() || chain.link(header.crc) == header.chain;
        if !is_next || !self.chain.is_some_and(links) {
            if self.segments == 0 && self.frames.is_empty() && header.flags & FLAG_FIRST != 0 {
                return Err(self.unfit("the first frame is of another identity"));
            }
            self.end_stretch(None)?;
            if !is_next {
                // What a cursor at the beginning of this stretch would prove is not known.
                (self.records_chain, self.stretch_chain) = (Chain(0), Chain(0));
            }
        }
        if SEGMENT_BYTES <= self.bytes {
            self.end_stretch(None)?;
        }
        self.bytes += frame.bytes().len();
        self.store.clock_ms = self.store.clock_ms.max(header.time_ms);
        self.frames.push(frame.clone().into());
        (self.chain, self.next_seq) = (Some(header.chain), frame.next_seq());
        if 0 < header.count {
            self.records_chain = header.chain;
        }
        Ok(())
    }

    /// Ends a stretch: frames are missing behind it. With its state, if that is known, the past of the
    /// run can be told.
    ///
    /// # Errors
    /// [`BuildError::Unfit`], [`BuildError::Io`].
    pub fn end_stretch(&mut self, state: Option<&RunState>) -> Result<(), BuildError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        self.write(state, false, 0)
    }

    /// Whether what was added ends with this state.
    pub fn is_at(&self, state: &RunState) -> bool {
        state.tail == self.next_seq && self.chain == Some(state.chain)
    }

    /// Says that frames are missing behind those that were added, up to this state.
    ///
    /// # Errors
    /// [`BuildError::Unfit`] if the state is before what was added; [`BuildError::Io`].
    pub fn lose_up_to(&mut self, state: &RunState) -> Result<(), BuildError> {
        if state.tail < self.next_seq {
            return Err(self.unfit("the state is before the end of its frames"));
        }
        self.end_stretch(None)?;
        (self.chain, self.next_seq) = (Some(state.chain), state.tail);
        self.records_chain = state.records_chain;
        self.stretch_chain = state.records_chain;
        self.has_lost_end = true;
        Ok(())
    }

    /// Ends the run. `state` is that behind its last frame; `expires_ms` is when it may be given up,
    /// as the segment it came from said, 0 if that is never, or not known.
    ///
    /// # Errors
    /// [`BuildError::Empty`]; [`BuildError::Unfit`] if the state is another's, or not behind the last
    /// frame; [`BuildError::Taken`] if another run has the name; [`BuildError::Io`].
    pub fn finish(mut self, state: &RunState, expires_ms: u64) -> Result<(), BuildError> {
        if self.frames.is_empty() && !self.has_lost_end {
            return Err(BuildError::Empty { run: self.name.clone() });
        }
        if state.deleted_ms.is_none() && !self.store.names.insert(self.name_hash) {
            return Err(BuildError::Taken { run: self.name.clone(), what: "the name" });
        }
        self.write(Some(state), true, expires_ms)?;
        if self.store.pack.as_ref().is_some_and(|pack| PACK_BYTES <= pack.bytes()) {
            self.store.finish_pack()?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        state: Option<&RunState>,
        is_last: bool,
        expires_ms: u64,
    ) -> Result<(), BuildError> {
        if let Some(state) = state {
            self.check(state)?;
        }
        let last = state.filter(|_| is_last);
        let is_first = self.segments == 0;
        self.segments += 1;
        let head = SegmentHead {
            name_hash: self.name_hash,
            run_no: self.run_no,
            // What of the frames follows is the writer's to say; without any, the run's tail.
            first_seq: self.next_seq,
            end_seq: self.next_seq,
            raw_bytes: 0,
            flushed: JournalPoint { block_no: 0, frame: self.segments },
            is_first,
            is_deleted: last.is_some_and(|state| state.deleted_ms.is_some()),
            is_pending: last.is_some_and(RunState::is_pending),
            expires_ms,
        };
        let segment = NewSegment {
            head,
            run_uid: self.run_uid,
            records_chain: self.stretch_chain,
            frames: &self.frames,
            state: state.map(RunState::to_bytes).unwrap_or_default(),
        };
        self.store.pack()?.add(segment)?;
        self.frames.clear();
        (self.bytes, self.stretch_chain) = (0, self.records_chain);
        Ok(())
    }

    fn check(&self, state: &RunState) -> Result<(), BuildError> {
        let is_of_name = name_hash(&state.namespace, &state.run_id) == self.name_hash;
        if !is_of_name || state.run_no != self.run_no || state.run_uid != self.run_uid {
            return Err(self.unfit("the state is another run's"));
        }
        if !self.is_at(state) {
            return Err(self.unfit("the state is not the one behind its frames"));
        }
        Ok(())
    }
}
