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
    collections::{BTreeMap, btree_map::Entry},
    io,
};

use crate::{
    core::{Facts, RunState},
    error::{Corruption, OpenError},
    format::{
        Damage, PAGE_BYTES,
        block::{Block, BlockHeader, FLAG_CLEAN, FLAG_RECOVERED},
        file_name,
        frame::{Chain, Frame},
        identity::StoreIdentity,
        manifest::{Edit, ListedSlot},
        slot::{FIRST_BLOCK_AT, SlotHeader, SlotKind},
    },
    journal::{
        BlockWriter, FrameAt, MaskedBlock, prepare,
        scan::{BlockAt, Ended, Next, SlotImage, read_from_disk},
    },
    manifest::{self, LiveSet, Manifest, ManifestPlan},
    platform::{Platform, RelPath},
    record::{RunNo, Seq},
};

/// What a data directory holds, and what opening it would do.
pub struct Plan {
    identity: Option<StoreIdentity>,
    manifest: ManifestPlan,
    runs: BTreeMap<RunNo, RecoveredRun>,
    masked: Vec<MaskedBlock>,
    doubtful: Vec<Block>,
    next: Next,
    durable_block_no: u64,
    clock_ms: u64,
    file_seq_next: u64,
    slot_free: u32,
    leftovers: Vec<RelPath>,
    summary: Summary,
}

/// What a plan found, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Blocks of the journal.
    pub blocks: u64,
    /// Frames in them.
    pub frames: u64,
    /// Runs they belong to.
    pub runs: u64,
    /// Whether the newest block had been torn by a crash, and was cut.
    pub torn: bool,
    /// Whether the store had been shut down in order.
    pub clean: bool,
}

/// A run, as its frames in the journal tell.
pub struct RecoveredRun {
    /// Its state.
    pub state: RunState,
    /// Its frames, in run order.
    pub frames: Vec<RecoveredFrame>,
}

/// A frame found in the journal.
#[derive(Debug, Clone)]
pub struct RecoveredFrame {
    /// Where it is.
    pub at: FrameAt,
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
    /// The slot it writes to.
    pub slot: u32,
    /// Number of the next use of a slot or manifest.
    pub file_seq_next: u64,
    /// All runs.
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
    let ours = ["LOCK", "journal", "tmp", "lost+found"];
    match names.iter().find(|name| !ours.contains(&name.as_str())) {
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
            runs: BTreeMap::new(),
            masked: Vec::new(),
            doubtful: Vec::new(),
            next: Next { block_no: 0, prev_crc: 0, previous_clean: false },
            durable_block_no: 0,
            clock_ms: 0,
            file_seq_next: 0,
            slot_free: 0,
            leftovers: Vec::new(),
            summary: Summary::default(),
        }
    }

    fn scan_journal(&mut self, platform: &Platform, store_uuid: [u8; 16]) -> Result<(), OpenError> {
        let slots = self.manifest.live.slots.clone();
        for (n, listed) in slots.iter().enumerate() {
            let next_slot_first = slots.get(n + 1).map(|next| next.first_block_no);
            let path = file_name::slot(listed.slot);
            let image = match SlotImage::read(&*platform.vfs, path.clone()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(corruption(&path, 0, Damage::Missing).into());
                }
                other => other?,
            };
            let header = image
                .header(SlotKind::Journal)
                .and_then(|header| check_listed(header, listed, store_uuid))
                .and_then(|header| image.check_size(header))
                .map_err(|damage| OpenError::from(image.corruption(0, damage)))?;
            let mut next = self
                .enter_slot(n == 0, &header)
                .map_err(|damage| OpenError::from(image.corruption(0, damage)))?;
            self.file_seq_next = self.file_seq_next.max(listed.file_seq + 1);
            // A slot is listed only after everything before its first block is durable.
            self.durable_block_no = self.durable_block_no.max(header.first_block_no);
            let ended = image
                .scan(&header, &mut next, next_slot_first, |at| self.replay(listed.slot, at))?;
            self.next = next;
            if let Ended::EndOfLog { torn, .. } = ended {
                self.summary.torn = torn;
                self.summary.clean = next.previous_clean;
            }
        }
        let durable = self.durable_block_no;
        self.doubtful.retain(|block| durable <= block.header.block_no);
        self.summary.runs = self.runs.len() as u64;
        Ok(())
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
    fn replay(&mut self, slot: u32, at: BlockAt) -> Result<(), Damage> {
        let BlockAt { position, block } = at;
        let header = block.header;
        self.summary.blocks += 1;
        self.durable_block_no = self.durable_block_no.max(header.durable_block_no);
        self.clock_ms = self.clock_ms.max(header.clock_ms);
        if header.mask != 0 {
            self.masked.push(MaskedBlock { slot, position, header });
        }
        let mut frame_at = position + crate::format::block::BLOCK_HEADER_BYTES as u64;
        let mut frames = 0;
        for frame in Frame::split(block.payload.clone()) {
            let frame = frame?;
            let len = frame.bytes().len() as u32;
            self.replay_frame(&frame, FrameAt { slot, len, position: frame_at })?;
            frame_at += u64::from(len);
            frames += 1;
        }
        if frames != header.frames {
            let (found, expected) = (u64::from(frames), u64::from(header.frames));
            return Err(Damage::Numbering { what: "frames", found, expected });
        }
        self.summary.frames += u64::from(frames);
        // Depth 1: only blocks not yet called durable by a later one can be in doubt.
        let durable = self.durable_block_no;
        self.doubtful.retain(|block| durable <= block.header.block_no);
        self.doubtful.push(block);
        Ok(())
    }

    fn replay_frame(&mut self, frame: &Frame, at: FrameAt) -> Result<(), Damage> {
        let header = &frame.header;
        let (run, facts) = match self.runs.entry(header.run_no) {
            Entry::Occupied(run) => {
                let run = run.into_mut();
                let facts = run.state.replay(frame)?;
                (run, facts)
            }
            Entry::Vacant(free) => {
                let (state, facts) = RunState::begin(frame)?;
                (free.insert(RecoveredRun { state, frames: Vec::new() }), facts)
            }
        };
        run.frames.push(RecoveredFrame {
            at,
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
        self.slot_free = slots
            .first()
            .copied()
            .unwrap_or_else(|| listed.iter().map(|slot| slot.slot + 1).max().unwrap_or(0));
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
        let image = SlotImage::read(&*platform.vfs, path.clone())?;
        let Ok(header) = image.header(SlotKind::Journal) else { return Ok(()) };
        if header.store_uuid != store_uuid {
            return Ok(());
        }
        self.file_seq_next = self.file_seq_next.max(header.file_seq + 1);
        if newest_listed.is_some_and(|newest| header.file_seq <= newest) {
            return Ok(());
        }
        let original = |found: &BlockHeader| found.flags & FLAG_RECOVERED == 0;
        if image.sound_headers(&header, FIRST_BLOCK_AT).any(|found| original(&found)) {
            let damage = Damage::UnlistedSlot { file_seq: header.file_seq };
            return Err(corruption(&path, FIRST_BLOCK_AT as u64, damage).into());
        }
        Ok(())
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
        Ok(())
    }
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
    let writer = begin_slot(platform, &plan, identity, incarnation, sizes)?;
    let slot = plan.slot_free;
    manifest.commit(&[Edit::SlotUse(ListedSlot {
        slot,
        file_seq: plan.file_seq_next,
        first_block_no: plan.durable_block_no,
    })])?;
    remove_leftovers(platform, plan.leftovers, old)?;
    Ok(Recovered {
        identity,
        incarnation,
        manifest,
        writer,
        slot,
        file_seq_next: plan.file_seq_next + 1,
        runs: plan.runs,
        masked: plan.masked,
        clock_ms: plan.clock_ms,
        summary: plan.summary,
    })
}

fn create_identity(platform: &Platform) -> io::Result<StoreIdentity> {
    let identity =
        StoreIdentity { store_uuid: platform.random_id(), created_ms: platform.clock.wall_ms() };
    create_folders(platform)?;
    let (new, path) = (file_name::store_new(), file_name::store());
    manifest::replace(platform, &new, &path, &identity.encode())?;
    Ok(identity)
}

/// Idempotent: an interrupted first start may have made one of them, or one without its name
/// being durable.
fn create_folders(platform: &Platform) -> io::Result<()> {
    platform.vfs.create_dir(&file_name::journal())?;
    platform.vfs.create_dir(&file_name::tmp())?;
    platform.vfs.sync_dir(&file_name::root())
}

/// Writes a fresh slot that takes over from the first block in doubt, with copies of all such.
fn begin_slot(
    platform: &Platform,
    plan: &Plan,
    identity: StoreIdentity,
    incarnation: u64,
    sizes: Sizes,
) -> io::Result<BlockWriter> {
    let copies: u64 = plan.doubtful.iter().map(|block| block.header.disk_bytes() as u64).sum();
    let size = sizes.slot_bytes.max(FIRST_BLOCK_AT as u64 + 2 * copies + PAGE_BYTES as u64);
    let ready = prepare(&*platform.vfs, plan.slot_free, size)?;
    let prev_crc = plan.doubtful.first().map_or(plan.next.prev_crc, |block| block.header.prev_crc);
    let header = SlotHeader {
        kind: SlotKind::Journal,
        file_seq: plan.file_seq_next,
        first_block_no: plan.durable_block_no,
        prev_crc,
        size: ready.size,
        store_uuid: identity.store_uuid,
        incarnation,
        salt: platform.random_u64(),
        created_ms: platform.clock.wall_ms(),
    };
    let file = ready.begin(&header)?;
    let mut writer = BlockWriter::new(file, header, plan.durable_block_no);
    for block in &plan.doubtful {
        let frames: Vec<_> = Frame::split(block.payload.clone()).filter_map(Result::ok).collect();
        let pieces = frames.iter().map(|frame| &frame.bytes()[..]);
        // What follows a copy is written, so a copy never says that nothing will be.
        let flags = (block.header.flags & !FLAG_CLEAN) | FLAG_RECOVERED;
        writer.write_unchecked(flags, pieces, block.header.clock_ms)?;
    }
    writer.sync()?;
    Ok(writer)
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
