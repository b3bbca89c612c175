//! From a data directory to the state it holds: first a plan, then the plan carried out.
//!
//! [`plan`] only reads. It judges every block by the table in
//! [`verdict`](crate::format::verdict), replays every frame through the state machine, and either
//! returns a [`Plan`] or names the file and offset that cannot be what was written. [`apply`]
//! writes, in this order, and is itself safe to interrupt anywhere:
//!
//! 1. A new manifest, so that nothing done because of an edit that was in the page cache only can
//!    outlive it.
//! 2. A fresh slot with copies of all blocks whose durability is in doubt, synced, then listed.
//!    From there on everything that will be served is proven durable.
//! 3. Leftovers of interrupted work are removed.
//!
//! What it deliberately does not do: repair. Torn is cut, corrupt is refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    io,
};

use crate::{
    core::{Facts, RunState},
    error::{Corruption, Error, OpenError},
    format::{
        Damage, PAGE_BYTES,
        block::{BLOCK_HEADER_BYTES, BlockHeader, FLAG_CLEAN, FLAG_RECOVERED},
        file_name,
        frame::{Chain, FLAG_FIRST, Frame},
        identity::StoreIdentity,
        manifest::{Edit, ListedSlot},
        segment::{JournalPoint, SegmentTail},
        slot::{FIRST_BLOCK_AT, SlotHeader, SlotKind},
    },
    journal::{
        BlockPlace, BlockWriter, FrameAt, MaskedBlock, prepare,
        scan::{BlockAt, Ended, Next, ScanError, SlotFile, read_from_disk},
    },
    manifest::{self, LiveSet, Manifest, ManifestPlan},
    platform::{Platform, RelPath},
    record::{RunNo, Seq},
    sabotage::{self, Bug},
    segment::{Blocks, Pack, Packs, Segment},
};

/// Bytes of blocks that recovery keeps while it looks for the states of runs.
const BLOCKS_BYTES_MAX: usize = 64 << 20;

/// What a data directory holds, and what opening it would do.
pub struct Plan {
    identity: Option<StoreIdentity>,
    manifest: ManifestPlan,
    packs: Packs,
    blocks: Blocks,
    /// Where runs are that have frames both in packs and, maybe, in the journal.
    places: HashMap<RunNo, Place>,
    /// States at the end of the segments of runs that go on in the journal.
    resting: HashMap<RunNo, RunState>,
    /// Runs that go on in the journal and whose states are damaged.
    damaged: BTreeSet<RunNo>,
    runs: BTreeMap<RunNo, RecoveredRun>,
    masked: Vec<MaskedBlock>,
    doubtful: Vec<BlockAt>,
    next: Next,
    durable_block_no: u64,
    clock_ms: u64,
    file_seq_next: u64,
    slots_unlisted: Vec<u32>,
    pack_next: u64,
    leftovers: Vec<RelPath>,
    summary: Summary,
}

/// The newest segment of a run among the packs that overlap with the journal.
#[derive(Clone, Copy)]
struct Place {
    flushed: JournalPoint,
    pack: u64,
    entry: u32,
}

/// What a plan found, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Blocks of the journal.
    pub blocks: u64,
    /// Frames in them.
    pub frames: u64,
    /// Runs with frames that are in no pack yet.
    pub runs: u64,
    /// Packs.
    pub packs: u64,
    /// Packs that cannot be opened: what is in them is lost.
    pub packs_lost: u64,
    /// Whether the newest block had been torn by a crash, and was cut.
    pub torn: bool,
    /// Whether the store had been shut down in order.
    pub clean: bool,
}

/// A run with frames that are in no segment yet.
pub struct RecoveredRun {
    /// Its state at the end of its last segment, if it has one.
    pub before: Option<RunState>,
    /// Its state.
    pub state: RunState,
    /// Its frames behind the last segment, in run order.
    pub frames: Vec<RecoveredFrame>,
}

/// A frame found in the journal.
#[derive(Debug, Clone)]
pub struct RecoveredFrame {
    /// Where it is.
    pub at: FrameAt,
    /// The place in the journal behind it.
    pub end: JournalPoint,
    /// Seq of its first record, or the run's tail.
    pub first_seq: Seq,
    /// Number of its records.
    pub count: u32,
    /// Chain after it.
    pub chain: Chain,
    /// Server time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What it changes for readers.
    pub facts: Facts,
}

/// A store that is ready to be served.
pub struct Recovered {
    /// Identity of the store.
    pub identity: StoreIdentity,
    /// Number of this start; every start has a greater one.
    pub incarnation: u64,
    /// The live manifest.
    pub manifest: Manifest,
    /// Writes the journal's next block.
    pub writer: BlockWriter,
    /// Number of the next use of a slot.
    pub file_seq_next: u64,
    /// Files of slots that are not part of the journal.
    pub slots_unlisted: Vec<u32>,
    /// The packs.
    pub packs: Packs,
    /// Number of the next pack.
    pub pack_next: u64,
    /// The runs with frames that are in no segment yet.
    pub runs: BTreeMap<RunNo, RecoveredRun>,
    /// Blocks of the journal that are masked.
    pub masked: Vec<MaskedBlock>,
    /// Time of the newest block, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// What was found.
    pub summary: Summary,
}

/// Sizes of the files that recovery makes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of the slot that recovery writes to.
    pub slot_bytes: u64,
    /// Bytes of a manifest.
    pub manifest_bytes: u64,
}

impl Plan {
    /// What was found, in numbers.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Blocks whose durability is in doubt: a start copies them into a fresh slot.
    pub fn doubtful(&self) -> impl ExactSizeIterator<Item = &BlockAt> {
        self.doubtful.iter()
    }

    /// Number of the slot file that a start would write to, and of the first block there.
    pub fn fresh_slot(&self) -> (u32, u64) {
        (self.slot_free(), self.durable_block_no)
    }

    /// Number of the live manifest, none if there is none; a start writes the next one.
    pub fn manifest(&self) -> Option<u64> {
        (self.manifest.number != 0).then_some(self.manifest.number)
    }

    /// What interrupted work left behind: a start removes it.
    pub fn leftovers(&self) -> &[RelPath] {
        &self.leftovers
    }

    /// The runs with frames that are in no segment yet: a start has them in memory.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = &RecoveredRun> {
        self.runs.values()
    }

    /// Whether there is no store yet.
    pub fn is_new(&self) -> bool {
        self.identity.is_none()
    }
}

/// Reads a data directory and judges all of it. Changes nothing.
///
/// # Errors
/// [`OpenError::Corrupt`] with file and offset, [`OpenError::NotAStore`], [`OpenError::Io`].
pub fn plan(platform: &Platform) -> Result<Plan, OpenError> {
    let names = platform.vfs.list(&file_name::root())?;
    let Some(identity) = read_identity(platform, &names)? else {
        check_empty(platform, &names)?;
        return Ok(Plan::new(None, fresh_manifest()));
    };
    let manifest = manifest::plan(platform, identity.store_uuid)?;
    let is_fresh = manifest.is_none();
    let mut plan = Plan::new(Some(identity), manifest.unwrap_or_else(fresh_manifest));
    plan.open_packs(platform, identity.store_uuid)?;
    plan.scan_journal(platform, identity.store_uuid)?;
    plan.check_unlisted(platform, identity.store_uuid, is_fresh)?;
    plan.find_leftovers(platform, &names)?;
    Ok(plan)
}

fn fresh_manifest() -> ManifestPlan {
    ManifestPlan { number: 0, incarnation: 0, live: LiveSet::default() }
}

fn read_identity(
    platform: &Platform,
    names: &[String],
) -> Result<Option<StoreIdentity>, OpenError> {
    let path = file_name::store();
    if !names.iter().any(|name| name == path.name()) {
        return Ok(None);
    }
    let page = read_from_disk(&*platform.vfs, &path)?;
    StoreIdentity::decode(&page).map(Some).map_err(|damage| corruption(&path, 0, damage).into())
}

/// Without `STORE` there must be nothing that a store once was, and nothing of somebody else's.
fn check_empty(platform: &Platform, names: &[String]) -> Result<(), OpenError> {
    let lost = |name: &String| {
        *name == *file_name::current().name() || file_name::parse_manifest(name).is_some()
    };
    if names.iter().any(lost) {
        return Err(corruption(&file_name::store(), 0, Damage::Missing).into());
    }
    let folders = [file_name::journal(), file_name::packs(), file_name::tmp(), file_name::index()];
    let is_ours = |name: &String| {
        *name == *file_name::lock().name()
            || *name == "lost+found"
            || folders.iter().any(|folder| *name == *folder.name())
    };
    match names.iter().find(|name| !is_ours(name)) {
        Some(name) => Err(OpenError::NotAStore {
            location: platform.vfs.location().display().to_string(),
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

fn corruption(path: &RelPath, position: u64, damage: Damage) -> Corruption {
    Corruption { file: path.as_str().into(), position, damage }
}

impl Plan {
    fn new(identity: Option<StoreIdentity>, manifest: ManifestPlan) -> Self {
        Self {
            identity,
            manifest,
            packs: Packs::default(),
            blocks: Blocks::new(BLOCKS_BYTES_MAX),
            places: HashMap::new(),
            resting: HashMap::new(),
            damaged: BTreeSet::new(),
            runs: BTreeMap::new(),
            masked: Vec::new(),
            doubtful: Vec::new(),
            next: Next { block_no: 0, prev_crc: 0, previous_clean: false },
            durable_block_no: 0,
            clock_ms: 0,
            file_seq_next: 0,
            slots_unlisted: Vec::new(),
            pack_next: 0,
            leftovers: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// Opens the packs that the manifest lists. One that cannot be opened is lost (row 21): the
    /// store starts, and says so to whoever asks for what may be in it.
    fn open_packs(&mut self, platform: &Platform, store_uuid: [u8; 16]) -> Result<(), OpenError> {
        let low = self.manifest.live.journal_low;
        let mut opened = Vec::new();
        for (number, pack) in self.manifest.live.packs.clone() {
            match Pack::open(&*platform.vfs, pack.listed, store_uuid) {
                Ok(pack) => opened.push(pack),
                Err(error @ Error::Corrupt(_)) => self.lose(platform, number, store_uuid, error),
                Err(Error::Io { source, .. }) => {
                    let source = io::Error::new(source.kind(), source.to_string());
                    return Err(source.into());
                }
                Err(other) => unreachable!("opening a pack says {other}"),
            }
        }
        self.summary.packs = opened.len() as u64;
        self.packs.replace(opened, &[]);
        for pack in self.packs.shelf().packs() {
            if low <= pack.listed().flushed_block
                && let Err(error) = self.note_places(pack)
            {
                self.lose(platform, pack.number(), store_uuid, error);
            }
        }
        Ok(())
    }

    fn lose(&mut self, platform: &Platform, number: u64, store_uuid: [u8; 16], error: Error) {
        tracing::error!(%error, "a pack is lost");
        self.packs.lose(&*platform.vfs, number, store_uuid, error);
        self.summary.packs_lost += 1;
    }

    /// Notes which of the journal's frames are in a pack.
    fn note_places(&mut self, pack: &Pack) -> Result<(), Error> {
        for (n, entry) in pack.entries()?.enumerate() {
            let Ok(entry) = entry else { continue };
            let (run_no, flushed) = (entry.head.run_no, entry.head.flushed);
            let place = Place { flushed, pack: pack.number(), entry: n as u32 };
            let known = self.places.entry(run_no).or_insert(place);
            if known.flushed < flushed {
                *known = place;
            }
        }
        Ok(())
    }

    fn scan_journal(&mut self, platform: &Platform, store_uuid: [u8; 16]) -> Result<(), OpenError> {
        let slots = self.manifest.live.slots.clone();
        for (n, listed) in slots.iter().enumerate() {
            let next_slot_first = slots.get(n + 1).map(|next| next.first_block_no);
            let path = file_name::slot(listed.slot);
            let file = match SlotFile::open(&*platform.vfs, path.clone()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(corruption(&path, 0, Damage::Missing).into());
                }
                other => other?,
            };
            let header = file
                .header(SlotKind::Journal)?
                .and_then(|header| check_listed(header, listed, store_uuid))
                .and_then(|header| file.check_size(header))
                .map_err(|damage| OpenError::from(file.corruption(0, damage)))?;
            let mut next = self
                .enter_slot(n == 0, &header)
                .map_err(|damage| OpenError::from(file.corruption(0, damage)))?;
            self.file_seq_next = self.file_seq_next.max(listed.file_seq + 1);
            // A slot is listed only after everything before its first block is durable.
            self.durable_block_no = self.durable_block_no.max(header.first_block_no);
            self.fetch_states(&file, &header, next)?;
            let ended = file
                .scan(&header, &mut next, next_slot_first, |at| self.replay(listed.file_seq, at))
                .map_err(|error| file.refusal(&header, error))?;
            self.next = next;
            if let Ended::EndOfLog { torn, .. } = ended {
                self.summary.torn = torn;
                self.summary.clean = next.previous_clean;
            }
        }
        let durable = self.durable_block_no;
        self.doubtful.retain(|at| durable <= at.block.header.block_no);
        self.summary.runs = self.runs.len() as u64;
        Ok(())
    }

    /// Reads the states of runs that have segments and go on in this slot, in the order in which
    /// they stand in packs, so that a block with the states of many runs is read once.
    fn fetch_states(
        &mut self,
        file: &SlotFile,
        header: &SlotHeader,
        mut next: Next,
    ) -> Result<(), OpenError> {
        let mut wanted = Vec::new();
        let mut seen = BTreeSet::new();
        // Whatever is wrong with the slot is found, and told, when its frames are replayed.
        let scanned = file.scan(header, &mut next, None, |at| {
            for (frame, end) in frames_of(&at).map_while(Result::ok) {
                let run_no = frame.header.run_no;
                if !self.has_segment(&frame, end) || !seen.insert(run_no) {
                    continue;
                }
                match self.last_segment(&frame) {
                    Ok(segment) => wanted.extend(segment),
                    Err(_) => drop(self.damaged.insert(run_no)),
                }
            }
            Ok(())
        });
        if let Err(ScanError::Io(error)) = scanned {
            return Err(error.into());
        }
        wanted.sort_by_key(|segment| (segment.pack.number(), segment.entry.block));
        for segment in wanted {
            match read_state(&segment, &self.blocks) {
                Ok(state) => {
                    self.resting.insert(segment.entry.head.run_no, state);
                }
                Err(error @ Error::Corrupt(_)) => {
                    // The store starts, and says so to whoever asks for the run.
                    tracing::error!(%error, "a run is damaged");
                    self.damaged.insert(segment.entry.head.run_no);
                }
                Err(error) => return Err(io::Error::other(error.to_string()).into()),
            }
        }
        Ok(())
    }

    /// Whether a frame belongs to a run that has a segment, is not in one itself, and whose state
    /// is not known yet.
    fn has_segment(&self, frame: &Frame, end: JournalPoint) -> bool {
        let run_no = frame.header.run_no;
        frame.header.flags & FLAG_FIRST == 0
            && !self.is_flushed(run_no, end)
            && !self.runs.contains_key(&run_no)
            && !self.resting.contains_key(&run_no)
    }

    /// Whether a frame is in a segment.
    fn is_flushed(&self, run_no: RunNo, end: JournalPoint) -> bool {
        end.block_no < self.manifest.live.journal_low
            || self.places.get(&run_no).is_some_and(|place| end <= place.flushed)
    }

    /// Whether frames before this one are in a pack that is lost, so that it is of no use: whoever
    /// asks for the run is told of the pack.
    fn is_lost(&self, frame: &Frame) -> bool {
        let shelf = self.packs.shelf();
        let run_no = frame.header.run_no;
        if self.damaged.contains(&run_no) {
            return true;
        }
        if shelf.lost() == 0 || frame.header.flags & FLAG_FIRST != 0 {
            return false;
        }
        let known = self.runs.get(&run_no).map(|run| &run.state);
        match known.or(self.resting.get(&run_no)) {
            Some(state) => state.chain.link(frame.header.crc) != frame.header.chain,
            None => true,
        }
    }

    /// The last segment of the run that a frame belongs to.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what may hold it is damaged.
    fn last_segment(&self, frame: &Frame) -> Result<Option<Segment>, Error> {
        let run_no = frame.header.run_no;
        let shelf = self.packs.shelf();
        if let Some(place) = self.places.get(&run_no)
            && let Some(pack) = shelf.pack(place.pack)
        {
            let entry = pack.entry_at(place.entry as usize)?;
            return Ok(Some(Segment { pack: pack.clone(), entry }));
        }
        match frame.effects().ok().and_then(|effects| effects.home) {
            Some(home) => Ok(shelf.segments_of(home, run_no)?.pop()),
            None => Ok(None),
        }
    }

    /// What the first block of a slot must be.
    fn enter_slot(&self, is_first: bool, header: &SlotHeader) -> Result<Next, Damage> {
        let next = Next {
            block_no: header.first_block_no,
            prev_crc: header.prev_crc,
            previous_clean: false,
        };
        // The slot before was left at exactly `first_block_no`, by row 1 of the table.
        if is_first || self.next.prev_crc == header.prev_crc {
            return Ok(next);
        }
        let (found, expected) = (u64::from(header.prev_crc), u64::from(self.next.prev_crc));
        Err(Damage::Misplaced { what: "prev_crc", found, expected })
    }

    /// Takes a block in: row 9 of the table.
    fn replay(&mut self, file_seq: u64, at: BlockAt) -> Result<(), Damage> {
        let header = at.block.header;
        self.summary.blocks += 1;
        self.durable_block_no = self.durable_block_no.max(header.durable_block_no);
        self.clock_ms = self.clock_ms.max(header.clock_ms);
        if header.mask != 0 {
            self.masked.push(MaskedBlock { position: at.position as u32, header });
        }
        let mut position = at.position as u32 + BLOCK_HEADER_BYTES as u32;
        let mut frames = 0;
        for frame in frames_of(&at) {
            let (frame, end) = frame?;
            let len = frame.bytes().len() as u32;
            self.replay_frame(&frame, FrameAt { file_seq, position, len }, end)?;
            position += len;
            frames += 1;
        }
        if frames != header.frames {
            let (found, expected) = (u64::from(frames), u64::from(header.frames));
            return Err(Damage::Numbering { what: "frames", found, expected });
        }
        self.summary.frames += u64::from(frames);
        // Depth 1: only blocks not yet called durable by a later one can be in doubt.
        let durable = self.durable_block_no;
        self.doubtful.retain(|at| durable <= at.block.header.block_no);
        self.doubtful.push(at);
        Ok(())
    }

    fn replay_frame(
        &mut self,
        frame: &Frame,
        at: FrameAt,
        end: JournalPoint,
    ) -> Result<(), Damage> {
        let header = &frame.header;
        if self.is_flushed(header.run_no, end) {
            return Ok(());
        }
        if self.is_lost(frame) {
            return Ok(());
        }
        let (run, facts) = match self.runs.entry(header.run_no) {
            Entry::Occupied(run) => {
                let run = run.into_mut();
                let facts = run.state.replay(frame)?;
                (run, facts)
            }
            Entry::Vacant(free) => {
                let before = self.resting.remove(&header.run_no);
                let (state, facts) = match before.clone() {
                    Some(mut state) => {
                        let facts = state.replay(frame)?;
                        (state, facts)
                    }
                    None => RunState::begin(frame)?,
                };
                (free.insert(RecoveredRun { before, state, frames: Vec::new() }), facts)
            }
        };
        run.frames.push(RecoveredFrame {
            at,
            end,
            first_seq: header.first_seq,
            count: header.count,
            chain: header.chain,
            time_ms: header.time_ms,
            facts,
        });
        Ok(())
    }

    /// Rows 16 and 17: slots that the manifest does not list.
    fn check_unlisted(
        &mut self,
        platform: &Platform,
        store_uuid: [u8; 16],
        is_fresh: bool,
    ) -> Result<(), OpenError> {
        let listed = &self.manifest.live.slots;
        let newest_listed = listed.iter().map(|slot| slot.file_seq).max();
        let is_listed = |slot: u32| listed.iter().any(|listed| listed.slot == slot);
        let mut slots: Vec<u32> = platform
            .vfs
            .list(&file_name::journal())
            .or_else(|error| match error.kind() {
                io::ErrorKind::NotFound if is_fresh => Ok(Vec::new()),
                _ => Err(error),
            })?
            .iter()
            .filter_map(|name| file_name::parse_slot(name))
            .filter(|&slot| !is_listed(slot))
            .collect();
        slots.sort_unstable();
        self.slots_unlisted = slots.clone();
        for slot in slots {
            self.check_unlisted_slot(platform, store_uuid, slot, newest_listed)?;
        }
        Ok(())
    }

    fn check_unlisted_slot(
        &mut self,
        platform: &Platform,
        store_uuid: [u8; 16],
        slot: u32,
        newest_listed: Option<u64>,
    ) -> Result<(), OpenError> {
        let path = file_name::slot(slot);
        let file = SlotFile::open(&*platform.vfs, path.clone())?;
        let Ok(header) = file.header(SlotKind::Journal)? else { return Ok(()) };
        if header.store_uuid != store_uuid {
            return Ok(());
        }
        self.file_seq_next = self.file_seq_next.max(header.file_seq + 1);
        match unlisted_damage(&file, &header, newest_listed)? {
            Some(damage) => Err(corruption(&path, FIRST_BLOCK_AT as u64, damage).into()),
            None => Ok(()),
        }
    }

    /// Row 23: what interrupted work left behind.
    fn find_leftovers(&mut self, platform: &Platform, names: &[String]) -> Result<(), OpenError> {
        let live = self.manifest.number;
        let manifests = names
            .iter()
            .filter_map(|name| file_name::parse_manifest(name))
            .filter(|&number| number != live)
            .map(file_name::manifest);
        self.leftovers.extend(manifests);
        if names.iter().any(|name| *name == file_name::tmp().name()) {
            let tmp = platform.vfs.list(&file_name::tmp())?;
            self.leftovers.extend(tmp.iter().map(|name| RelPath::new(format!("tmp/{name}"))));
        }
        let live = &self.manifest.live.packs;
        self.pack_next = live.keys().next_back().map_or(0, |number| number + 1);
        if names.iter().any(|name| *name == file_name::packs().name()) {
            let files = platform.vfs.list(&file_name::packs())?;
            for (number, path) in files.iter().filter_map(|name| file_name::parse_pack(name)) {
                self.pack_next = self.pack_next.max(number + 1);
                if !live.contains_key(&number) {
                    self.leftovers.push(path);
                }
            }
        }
        Ok(())
    }

    /// A slot that is not part of the journal, for recovery to begin with.
    fn slot_free(&self) -> u32 {
        let listed = self.manifest.live.slots.iter().map(|slot| slot.slot + 1).max();
        self.slots_unlisted.first().copied().unwrap_or(listed.unwrap_or(0))
    }
}

/// Row 16: what is wrong with a slot of this store that the manifest does not list, if it holds blocks
/// that were written after those of the newest slot that is listed.
///
/// # Errors
/// Whatever the operating system says.
pub fn unlisted_damage(
    file: &SlotFile,
    header: &SlotHeader,
    newest_listed: Option<u64>,
) -> io::Result<Option<Damage>> {
    if newest_listed.is_some_and(|newest| header.file_seq <= newest)
        || sabotage::is(Bug::IgnoreUnlistedSlot)
    {
        return Ok(None);
    }
    let original = |_, found: &BlockHeader| found.flags & FLAG_RECOVERED == 0;
    let found = file.find_header(header, FIRST_BLOCK_AT as u64, file.bytes(), original)?;
    Ok(found.map(|_| Damage::UnlistedSlot { file_seq: header.file_seq }))
}

/// The frames of a block, each with the place in the journal behind it.
fn frames_of(at: &BlockAt) -> impl Iterator<Item = Result<(Frame, JournalPoint), Damage>> {
    let block_no = at.block.header.block_no;
    Frame::split(at.block.payload.clone()).enumerate().map(move |(n, frame)| {
        frame.map(|frame| (frame, JournalPoint { block_no, frame: n as u32 + 1 }))
    })
}

/// Reads the state of a run at the end of a segment.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Io`].
pub fn read_state(segment: &Segment, blocks: &Blocks) -> Result<RunState, Error> {
    let tail = segment.tail(blocks)?;
    state_of(tail).map_err(|damage| segment.damaged(damage))
}

/// The state of a run at the end of a segment, given what stands behind the segment's frames.
///
/// # Errors
/// What is wrong with it.
pub fn state_of(tail: SegmentTail) -> Result<RunState, Damage> {
    let state = RunState::from_bytes(tail.state)?;
    if state.run_no != tail.head.run_no || state.tail != tail.head.end_seq {
        let (found, expected) = (state.tail.0, tail.head.end_seq.0);
        return Err(Damage::Misplaced { what: "state of a run", found, expected });
    }
    Ok(state)
}

/// Row 15.
fn check_listed(
    header: SlotHeader,
    listed: &ListedSlot,
    store_uuid: [u8; 16],
) -> Result<SlotHeader, Damage> {
    if header.store_uuid != store_uuid {
        return Err(Damage::ForeignStore);
    }
    for (what, found, expected) in [
        ("file_seq", header.file_seq, listed.file_seq),
        ("first_block_no", header.first_block_no, listed.first_block_no),
    ] {
        if found != expected {
            return Err(Damage::Misplaced { what, found, expected });
        }
    }
    Ok(header)
}

/// Carries a plan out and returns the store as it will be served.
///
/// # Errors
/// Whatever the operating system says. The directory can be planned again; nothing is lost.
pub fn apply(platform: &Platform, plan: Plan, sizes: Sizes) -> Result<Recovered, OpenError> {
    let identity = match plan.identity {
        Some(identity) => identity,
        None => create_identity(platform)?,
    };
    create_folders(platform)?;
    let incarnation = plan.manifest.incarnation + 1;
    let old = plan.manifest.number;
    let mut manifest = Manifest::create(
        platform,
        identity.store_uuid,
        incarnation,
        sizes.manifest_bytes,
        old + 1,
        plan.manifest.live.clone(),
    )?;
    let slot = plan.slot_free();
    let (writer, copies) = begin_slot(platform, &plan, slot, identity, incarnation, sizes)?;
    let first_block_no = plan.durable_block_no;
    let listed = ListedSlot { slot, file_seq: plan.file_seq_next, first_block_no };
    if !manifest.commit(&[Edit::SlotUse(listed)])? {
        return Err(io::Error::from(io::ErrorKind::StorageFull).into());
    }
    remove_leftovers(platform, plan.leftovers, old)?;
    let mut recovered = Recovered {
        identity,
        incarnation,
        manifest,
        writer,
        file_seq_next: plan.file_seq_next + 1,
        slots_unlisted: plan.slots_unlisted.into_iter().filter(|free| *free != slot).collect(),
        packs: plan.packs,
        pack_next: plan.pack_next,
        runs: plan.runs,
        masked: plan.masked,
        clock_ms: plan.clock_ms,
        summary: plan.summary,
    };
    recovered.move_to_copies(&copies);
    Ok(recovered)
}

/// A block in doubt, and where its copy is.
struct Copied {
    position: u64,
    to: BlockPlace,
}

impl Recovered {
    /// From here on frames of copied blocks are read from the copies: the slots that they were
    /// found in may leave the journal before the copies do.
    fn move_to_copies(&mut self, copies: &[Copied]) {
        let Some(first) = copies.first() else { return };
        let first_no = first.to.header.block_no;
        let frames = self.runs.values_mut().flat_map(|run| &mut run.frames);
        for frame in frames.filter(|frame| first_no <= frame.end.block_no) {
            let copied = &copies[(frame.end.block_no - first_no) as usize];
            let into = u64::from(frame.at.position) - copied.position;
            frame.at.position = (copied.to.position + into) as u32;
            frame.at.file_seq = copied.to.header.file_seq;
        }
        for BlockPlace { position, header } in copies.iter().map(|copied| copied.to) {
            if header.mask != 0 {
                self.masked.push(MaskedBlock { position: position as u32, header });
            }
        }
    }
}

fn create_identity(platform: &Platform) -> io::Result<StoreIdentity> {
    let identity =
        StoreIdentity { store_uuid: platform.random_id(), created_ms: platform.clock.wall_ms() };
    write_identity(platform, &identity)?;
    Ok(identity)
}

/// Makes the folders of a store, and the file that says what it is.
///
/// # Errors
/// Whatever the operating system says.
pub(crate) fn write_identity(platform: &Platform, identity: &StoreIdentity) -> io::Result<()> {
    create_folders(platform)?;
    let (new, path) = (file_name::store_new(), file_name::store());
    manifest::replace(platform, &new, &path, &identity.encode())
}

/// Idempotent: an interrupted first start may have made one of them, or one without its name
/// being durable.
fn create_folders(platform: &Platform) -> io::Result<()> {
    platform.vfs.create_dir(&file_name::journal())?;
    platform.vfs.create_dir(&file_name::packs())?;
    platform.vfs.create_dir(&file_name::tmp())?;
    platform.vfs.sync_dir(&file_name::root())
}

/// Writes a fresh slot that takes over from the first block in doubt, with copies of all such.
fn begin_slot(
    platform: &Platform,
    plan: &Plan,
    slot: u32,
    identity: StoreIdentity,
    incarnation: u64,
    sizes: Sizes,
) -> io::Result<(BlockWriter, Vec<Copied>)> {
    let bytes: u64 = plan.doubtful.iter().map(|at| at.block.header.disk_bytes() as u64).sum();
    let size = sizes.slot_bytes.max(FIRST_BLOCK_AT as u64 + 2 * bytes + PAGE_BYTES as u64);
    let ready = prepare(&*platform.vfs, slot, size, &|_| {})?;
    let first = plan.doubtful.first();
    let prev_crc = first.map_or(plan.next.prev_crc, |at| at.block.header.prev_crc);
    let header = SlotHeader {
        kind: SlotKind::Journal,
        file_seq: plan.file_seq_next,
        first_block_no: plan.durable_block_no,
        prev_crc,
        size: ready.size,
        store_uuid: identity.store_uuid,
        incarnation,
        salt: if sabotage::is(Bug::SameSalt) { 1 } else { platform.random_u64() },
        created_ms: platform.clock.wall_ms(),
    };
    let file = ready.begin(&header)?;
    let mut writer = BlockWriter::new(file, header, plan.durable_block_no);
    let mut copies = Vec::new();
    let doubtful = plan.doubtful.iter().filter(|_| !sabotage::is(Bug::NoCopyOfDoubtful));
    for BlockAt { position, block } in doubtful {
        let frames: Vec<_> = Frame::split(block.payload.clone()).filter_map(Result::ok).collect();
        let pieces = frames.iter().map(|frame| &frame.bytes()[..]);
        // What follows a copy is written, so a copy never says that nothing will be.
        let flags = (block.header.flags & !FLAG_CLEAN) | FLAG_RECOVERED;
        let to = writer.write_unchecked(flags, pieces, block.header.clock_ms)?;
        copies.push(Copied { position: *position, to });
    }
    writer.sync()?;
    Ok((writer, copies))
}

fn remove_leftovers(
    platform: &Platform,
    leftovers: Vec<RelPath>,
    old_manifest: u64,
) -> io::Result<()> {
    let live = file_name::manifest(old_manifest + 1);
    let old = (old_manifest != 0).then(|| file_name::manifest(old_manifest));
    for path in leftovers.into_iter().chain(old).filter(|path| *path != live) {
        match platform.vfs.unlink(&path) {
            // Already taken away on the way here: a new CURRENT replaces the one in `tmp`.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
