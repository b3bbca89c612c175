//! The live file set: which slots make up the journal, and in which order, and which packs hold
//! what was copied out of it.
//!
//! A manifest is a slot-shaped file of blocks like the journal's; each block's payload is a list
//! of edits, applied all or nothing. `CURRENT` names the live one. Every start of the store leads to
//! a new manifest that begins with a snapshot: after a plain kill the newest edit may exist in the
//! page cache only, and nothing that was done because of it may outlive it. A manifest that is half
//! full is replaced, too, as soon as there is space for a new one.
//!
//! What it deliberately does not do: touch the files that it lists.

use std::{collections::BTreeMap, io};

use crate::{
    error::{Corruption, OpenError},
    format::{
        Damage, Evidence, PAGE_BYTES, file_name,
        identity::Current,
        manifest::{self, Edit, ListedPack, ListedSlot},
        slot::{self, SlotHeader, SlotKind},
    },
    journal::{
        BlockWriter,
        scan::{Ended, Next, SlotFile, read_from_disk},
    },
    platform::{Open, Platform, RelPath, is_full},
    sabotage::{self, Bug},
};

/// The files that are alive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LiveSet {
    /// Slots of the journal, oldest first.
    pub slots: Vec<ListedSlot>,
    /// Journal blocks below are no longer needed.
    pub journal_low: u64,
    /// Packs by number.
    pub packs: BTreeMap<u64, LivePack>,
    /// Run counter that a new run may have in any vshard, as far as packs know.
    pub run_counter: u64,
}

/// A pack, and how much of it is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivePack {
    /// The pack.
    pub listed: ListedPack,
    /// Raw bytes of frames that nobody needs any more.
    pub dead_bytes: u64,
}

impl LiveSet {
    /// Applies one edit.
    pub fn apply(&mut self, edit: &Edit) {
        match *edit {
            Edit::SlotUse(slot) => self.slots.push(slot),
            Edit::JournalLow(block_no) => {
                self.journal_low = self.journal_low.max(block_no);
                let ended = |slots: &[ListedSlot]| {
                    slots.get(1).is_some_and(|next| next.first_block_no <= block_no)
                };
                while ended(&self.slots) {
                    self.slots.remove(0);
                }
            }
            Edit::PackAdded(listed) => {
                self.packs.insert(listed.number, LivePack { listed, dead_bytes: 0 });
            }
            Edit::PackDropped(number) => {
                self.packs.remove(&number);
            }
            Edit::PackDead { number, raw_bytes } => {
                if let Some(pack) = self.packs.get_mut(&number) {
                    pack.dead_bytes = raw_bytes;
                }
            }
            Edit::RunCounter(next) => self.run_counter = self.run_counter.max(next),
        }
    }

    /// The edits that make this set from nothing.
    fn snapshot(&self) -> Vec<Edit> {
        let mut edits =
            vec![Edit::JournalLow(self.journal_low), Edit::RunCounter(self.run_counter)];
        edits.extend(self.slots.iter().copied().map(Edit::SlotUse));
        for (&number, pack) in &self.packs {
            edits.push(Edit::PackAdded(pack.listed));
            if 0 < pack.dead_bytes {
                edits.push(Edit::PackDead { number, raw_bytes: pack.dead_bytes });
            }
        }
        edits
    }
}

/// What a data directory's manifest says.
#[derive(Debug)]
pub struct ManifestPlan {
    /// Number of the live manifest.
    pub number: u64,
    /// The newest start of the store it knows of.
    pub incarnation: u64,
    /// The live files.
    pub live: LiveSet,
}

/// Reads `CURRENT` and the manifest it names; none if there is no `CURRENT`. Changes nothing.
///
/// # Errors
/// [`OpenError::Corrupt`] by rows 18 and 19 of the table in
/// [`verdict`](crate::format::verdict).
pub fn plan(platform: &Platform, store_uuid: [u8; 16]) -> Result<Option<ManifestPlan>, OpenError> {
    let Some(current) = read_current(platform, store_uuid)? else { return Ok(None) };
    let path = file_name::manifest(current.manifest);
    let file = match SlotFile::open(&*platform.vfs, path.clone()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(corruption(path.as_str(), Damage::Missing).into());
        }
        other => other?,
    };
    let header = file
        .header(SlotKind::Manifest)?
        .and_then(|header| check_header(header, current, store_uuid))
        .and_then(|header| file.check_size(header))
        .map_err(|damage| OpenError::from(file.corruption(0, damage)))?;
    let mut live = LiveSet::default();
    let mut next = Next { block_no: 0, prev_crc: header.prev_crc, previous_clean: false };
    let ended = file.scan(&header, &mut next, None, |at| {
        manifest::decode(&at.block.payload)?.iter().for_each(|edit| live.apply(edit));
        Ok(())
    });
    let ended = ended.map_err(|error| file.refusal(&header, error))?;
    if next.block_no == 0 {
        let Ended::EndOfLog { position, .. } = ended else { unreachable!("no next slot") };
        let damage = Damage::Lost { evidence: Evidence::Current };
        return Err(file.corruption(position, damage).into());
    }
    let incarnation = current.incarnation.max(header.incarnation);
    Ok(Some(ManifestPlan { number: current.manifest, incarnation, live }))
}

fn read_current(platform: &Platform, store_uuid: [u8; 16]) -> Result<Option<Current>, OpenError> {
    let path = file_name::current();
    let bytes = match read_from_disk(&*platform.vfs, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let current = Current::decode(&bytes)
        .and_then(|current| match current.store_uuid == store_uuid {
            true => Ok(current),
            false => Err(Damage::ForeignStore),
        })
        .map_err(|damage| corruption(path.as_str(), damage))?;
    Ok(Some(current))
}

fn check_header(
    header: SlotHeader,
    current: Current,
    store_uuid: [u8; 16],
) -> Result<SlotHeader, Damage> {
    if header.store_uuid != store_uuid {
        return Err(Damage::ForeignStore);
    }
    if header.file_seq != current.manifest {
        let (found, expected) = (header.file_seq, current.manifest);
        return Err(Damage::Misplaced { what: "manifest number", found, expected });
    }
    Ok(header)
}

fn corruption(file: &str, damage: Damage) -> Corruption {
    Corruption { file: file.into(), position: 0, damage }
}

/// The live manifest, open for edits.
pub struct Manifest {
    platform: Platform,
    store_uuid: [u8; 16],
    incarnation: u64,
    bytes: u64,
    number: u64,
    /// Number of the next one; one that was not finished is not used again.
    number_next: u64,
    live: LiveSet,
    writer: BlockWriter,
    /// Something failed: what the disk has is not known, and nothing is tried again.
    failed: bool,
}

impl Manifest {
    /// Writes manifest `number` with `live` as its snapshot, `bytes` large, and makes it the live
    /// one, durably.
    ///
    /// # Errors
    /// Whatever the operating system says; the manifest that was live before is live or the new
    /// one is.
    pub fn create(
        platform: &Platform,
        store_uuid: [u8; 16],
        incarnation: u64,
        bytes: u64,
        number: u64,
        live: LiveSet,
    ) -> io::Result<Self> {
        let writer = prepare(platform, store_uuid, incarnation, bytes, number, &live)?;
        switch_current(platform)?;
        let (platform, number_next) = (platform.clone(), number + 1);
        Ok(Self {
            platform,
            store_uuid,
            incarnation,
            bytes,
            number,
            number_next,
            live,
            writer,
            failed: false,
        })
    }

    /// The live files.
    pub fn live(&self) -> &LiveSet {
        &self.live
    }

    /// Number of the live manifest.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Applies edits, all or nothing, durably. False if they need a new manifest and there is no
    /// space for one: nothing is changed then, and they may be tried again.
    ///
    /// # Errors
    /// Whatever else the operating system says. After that every call fails: the store must stop.
    pub fn commit(&mut self, edits: &[Edit]) -> io::Result<bool> {
        self.guard(|manifest| manifest.write(edits))
    }

    /// Sees to it that edits can be committed without a new manifest; false if that needs one now
    /// and there is no space for it.
    ///
    /// # Errors
    /// As with [`commit`](Self::commit).
    pub fn make_room(&mut self, edits: &[Edit]) -> io::Result<bool> {
        self.guard(|manifest| Ok(manifest.fits(edits) || manifest.go_on(manifest.live.clone())?))
    }

    /// Goes on in a new manifest if half of this one is used, so that a full disk finds one in
    /// which there is room. Without space for a new one this one stays.
    ///
    /// # Errors
    /// As with [`commit`](Self::commit).
    pub fn renew(&mut self) -> io::Result<()> {
        if self.writer.remaining() < self.writer.size() / 2 {
            self.guard(|manifest| manifest.go_on(manifest.live.clone()))?;
        }
        Ok(())
    }

    /// Does something unless something failed before, and remembers if it fails.
    fn guard<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Err(io::Error::other("the manifest failed before"));
        }
        let done = work(self);
        self.failed = done.is_err();
        done
    }

    /// Whether there is room for edits. A page is kept for the journal's next slot, so that what is
    /// copied out of the journal does not take the room that appends wait for.
    fn fits(&self, edits: &[Edit]) -> bool {
        let kept = if matches!(edits, [Edit::SlotUse(_)]) { 0 } else { PAGE_BYTES };
        self.writer.fits(manifest::encode(edits).len() + kept)
    }

    fn write(&mut self, edits: &[Edit]) -> io::Result<bool> {
        let mut live = self.live.clone();
        edits.iter().for_each(|edit| live.apply(edit));
        if !self.fits(edits) {
            return self.go_on(live);
        }
        self.live = live;
        self.writer.write(0, [&manifest::encode(edits)[..]], self.platform.clock.wall_ms())?;
        if matches!(edits, [Edit::SlotUse(_)]) && sabotage::is(Bug::NoSlotUseSync) {
            self.writer.assume_durable();
            return Ok(true);
        }
        self.writer.sync()?;
        Ok(true)
    }

    /// Goes on in a new manifest, which begins with `live`; false if there is no space for it.
    fn go_on(&mut self, live: LiveSet) -> io::Result<bool> {
        let number = self.number_next;
        self.number_next += 1;
        let Self { platform, store_uuid, incarnation, bytes, .. } = self;
        match prepare(platform, *store_uuid, *incarnation, *bytes, number, &live) {
            Ok(writer) => {
                switch_current(platform)?;
                // If this fails, the next start removes it.
                let _ = platform.vfs.unlink(&file_name::manifest(self.number));
                (self.number, self.live, self.writer) = (number, live, writer);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                // What was written takes the last of the space. If this fails, the next start
                // removes it.
                for path in [file_name::manifest(number), file_name::current_new()] {
                    let _ = platform.vfs.unlink(&path);
                }
                tracing::warn!(%error, "no space for a new manifest");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Writes a manifest and the file that will name it, durably; the live one stays what it is.
fn prepare(
    platform: &Platform,
    store_uuid: [u8; 16],
    incarnation: u64,
    bytes: u64,
    number: u64,
    live: &LiveSet,
) -> io::Result<BlockWriter> {
    let writer = write_snapshot(platform, store_uuid, incarnation, bytes, number, live)?;
    let current = Current { manifest: number, store_uuid, incarnation };
    write_new(platform, &file_name::current_new(), &current.encode())?;
    Ok(writer)
}

fn write_snapshot(
    platform: &Platform,
    store_uuid: [u8; 16],
    incarnation: u64,
    bytes: u64,
    number: u64,
    live: &LiveSet,
) -> io::Result<BlockWriter> {
    let path = file_name::manifest(number);
    let now_ms = platform.clock.wall_ms();
    let payload = manifest::encode(&live.snapshot());
    // A snapshot takes a quarter at most: until half is used, as much again is written.
    let needed = (2 * PAGE_BYTES + payload.len()) as u64 * 4;
    let header = SlotHeader {
        kind: SlotKind::Manifest,
        file_seq: number,
        first_block_no: 0,
        prev_crc: 0,
        size: bytes.max(needed.next_multiple_of(PAGE_BYTES as u64)),
        store_uuid,
        incarnation,
        salt: platform.random_u64(),
        created_ms: now_ms,
    };
    remove_leftover(platform, &path)?;
    let file = platform.vfs.open(&path, Open::CreateNew)?;
    file.write_zeros_at(0, header.size)?;
    file.write_all_at(&slot::encode(&header), 0)?;
    let mut writer = BlockWriter::new(file, header, 0);
    writer.write(0, [&payload[..]], now_ms)?;
    writer.sync()?;
    if !sabotage::is(Bug::NoManifestDirectorySync) {
        platform.vfs.sync_dir(&path.parent())?;
    }
    Ok(writer)
}

/// Makes the manifest that was prepared the live one.
fn switch_current(platform: &Platform) -> io::Result<()> {
    put_in_place(platform, &file_name::current_new(), &file_name::current())
}

/// Replaces a small file as a whole: new file, sync, rename, directory sync.
///
/// # Errors
/// Whatever the operating system says; the old content or the new one is there.
pub(crate) fn replace(
    platform: &Platform,
    new: &RelPath,
    path: &RelPath,
    content: &[u8],
) -> io::Result<()> {
    write_new(platform, new, content)?;
    put_in_place(platform, new, path)
}

fn write_new(platform: &Platform, path: &RelPath, content: &[u8]) -> io::Result<()> {
    remove_leftover(platform, path)?;
    let file = platform.vfs.open(path, Open::CreateNew)?;
    file.write_all_at(content, 0)?;
    file.sync_all()
}

fn put_in_place(platform: &Platform, new: &RelPath, path: &RelPath) -> io::Result<()> {
    platform.vfs.rename(new, path)?;
    if sabotage::is(Bug::NoCurrentDirectorySync) {
        return Ok(());
    }
    platform.vfs.sync_dir(&path.parent())
}

/// Removes what an interrupted attempt may have left under a name about to be created.
fn remove_leftover(platform: &Platform, path: &RelPath) -> io::Result<()> {
    match platform.vfs.unlink(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
