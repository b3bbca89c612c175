//! What is found in a directory: files, blocks, places of frames, and what is damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, OnceLock},
    thread::sleep,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    directory::LookError,
    remains::Remains,
    seen::{BlockSeen, DamagedFrame, Ending, FrameSeen, PackSeen, Problem, SlotSeen},
    stretch::{self, Piece, STRETCH_BYTES_MAX},
    walk::{BETWEEN_LOOKS, LOOKS_MAX, Step, walk_slot},
};
use crate::{
    error::{Corruption, Error},
    format::{
        Damage, Evidence, PAGE_BYTES,
        block::{BLOCK_HEADER_BYTES, FLAG_CLEAN},
        file_name,
        frame::{Frame, FrameHeader},
        identity::{Current, StoreIdentity},
        manifest::{self, ListedPack, ListedSlot},
        pack::{self, Entry},
        segment::JournalPoint,
        slot::{FIRST_BLOCK_AT, SlotHeader, SlotKind},
    },
    journal::{
        FrameAt, FrameReader, MaskedBlock,
        scan::{BlockAt, Ended, Next, SlotFile, read_from_disk},
    },
    manifest::{LivePack, LiveSet},
    platform::{File, Open, Platform, RelPath, Vfs},
    record::RunNo,
    recovery::unlisted_damage,
    segment::{Pack, Packs, Shelf, read_names},
};

/// What was found in a data directory at one moment.
pub struct Survey {
    platform: Platform,
    /// Whether somebody may be writing to the files.
    is_live: bool,
    /// Identity of the store, as the soundest file says it.
    pub store_uuid: [u8; 16],
    /// What `STORE` says; none if that is damaged.
    pub identity: Option<StoreIdentity>,
    /// What `CURRENT` says; none if that is damaged or not there.
    pub current: Option<Current>,
    /// The manifest that was read, with its header; none if there is none that can be.
    pub manifest: Option<(u64, SlotHeader)>,
    /// How the blocks of the manifest end.
    pub manifest_ending: Ending,
    /// The files that are alive.
    pub live: LiveSet,
    /// Whether `live` is what a sound manifest says; otherwise it is what the files themselves say.
    pub is_listed: bool,
    /// The slots of the journal, oldest first.
    pub slots: Vec<SlotSeen>,
    /// Files of slots that are not part of the journal: number and bytes.
    pub spare_slots: Vec<(u32, u64)>,
    /// The packs, oldest first.
    pub packs: Vec<PackSeen>,
    /// Files that interrupted work left behind; a start removes them.
    pub leftovers: Vec<RelPath>,
    /// Every block below was durable, as later ones say.
    pub durable_block_no: u64,
    /// What is damaged, in the order it was met.
    pub problems: Vec<Problem>,
    shelf: Arc<Shelf>,
    /// Bloom filters of packs, by number, as far as they were asked for and are sound.
    blooms: Mutex<BTreeMap<u64, Option<Arc<[u8]>>>>,
    /// What is left of packs, by number, as far as it was asked for.
    remains: Mutex<BTreeMap<u64, Arc<Remains>>>,
    frames: BTreeMap<RunNo, Vec<FrameSeen>>,
    reader: FrameReader,
    /// The directory at a later moment, if it was looked at again.
    newer: OnceLock<Box<Survey>>,
}

impl Survey {
    /// Reads a directory. If somebody may be writing to it (`is_live`), what looks damaged is believed
    /// when it comes again.
    ///
    /// # Errors
    /// [`LookError::NoStore`], [`LookError::Io`].
    pub(super) fn take_sound(platform: &Platform, is_live: bool) -> Result<Self, LookError> {
        let mut looks = 1;
        loop {
            let survey = Self::take(platform.clone(), is_live);
            let is_believed = match &survey {
                Ok(survey) => survey.problems.is_empty() && !survey.is_torn(),
                Err(LookError::Io(_)) => false,
                Err(_) => true,
            };
            if !is_live || is_believed || LOOKS_MAX <= looks {
                return survey;
            }
            looks += 1;
            sleep(BETWEEN_LOOKS);
        }
    }

    fn take(platform: Platform, is_live: bool) -> Result<Self, LookError> {
        let mut survey = Self::listed(platform, is_live)?;
        let end = survey.see_slots()?;
        let mut unlisted = survey.unlisted()?;
        if is_live {
            survey.catch_up(&mut unlisted)?;
        }
        survey.see_packs()?;
        survey.see_unlisted(unlisted, end)?;
        survey.see_leftovers()?;
        Ok(survey)
    }

    /// The slots of the journal that a sound manifest lists; none if there is none.
    pub(super) fn listed_slots(platform: &Platform) -> Option<Vec<ListedSlot>> {
        let now = Self::listed(platform.clone(), true).ok()?;
        now.is_listed.then_some(now.live.slots)
    }

    /// What the store is, and which of its files are alive.
    fn listed(platform: Platform, is_live: bool) -> Result<Self, LookError> {
        let names = find_store(&platform)?;
        let mut survey = Self {
            platform,
            is_live,
            store_uuid: [0; 16],
            identity: None,
            current: None,
            manifest: None,
            manifest_ending: Ending::Damaged,
            live: LiveSet::default(),
            is_listed: true,
            slots: Vec::new(),
            spare_slots: Vec::new(),
            packs: Vec::new(),
            leftovers: Vec::new(),
            durable_block_no: 0,
            problems: Vec::new(),
            shelf: Arc::default(),
            blooms: Mutex::default(),
            remains: Mutex::default(),
            frames: BTreeMap::new(),
            reader: FrameReader::default(),
            newer: OnceLock::new(),
        };
        survey.read_identity()?;
        survey.read_manifest(&names)?;
        Ok(survey)
    }

    /// Takes in what a running store did while its journal was read. A slot that is no longer listed
    /// may have been used again meanwhile: what was read of it, damage or not, is forgotten, for all of
    /// it is in packs that are listed by now. Slots that came since are not looked at.
    fn catch_up(&mut self, unlisted: &mut Vec<(ListedSlot, Damage)>) -> Result<(), LookError> {
        let mut now = Self::listed(self.platform.clone(), true)?;
        if !now.is_listed {
            // Then nothing tells what happened.
            return Ok(());
        }
        let is_listed = |slot: &ListedSlot| now.live.slots.contains(slot);
        // What came since is listed, or has left the journal again.
        let newest = now.live.slots.iter().map(|slot| slot.file_seq).max();
        unlisted.retain(|(slot, _)| newest < Some(slot.file_seq));
        self.slots.retain(|seen| is_listed(&seen.listed));
        let kept: BTreeSet<u64> = self.slots.iter().map(|seen| seen.listed.file_seq).collect();
        self.problems.retain(|problem| self.slots.iter().any(|seen| seen.path == problem.file));
        self.problems.splice(0..0, now.problems);
        for frames in self.frames.values_mut() {
            frames.retain(|frame| kept.contains(&frame.at.file_seq));
        }
        self.frames.retain(|_, frames| !frames.is_empty());
        now.live.slots.retain(|slot| kept.contains(&slot.file_seq));
        (self.store_uuid, self.identity, self.current) =
            (now.store_uuid, now.identity, now.current);
        (self.manifest, self.manifest_ending) = (now.manifest, now.manifest_ending);
        (self.live, self.is_listed) = (now.live, now.is_listed);
        Ok(())
    }

    /// Whether somebody had the store open, or may have had, when it was read.
    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    /// What the files are read through.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    fn vfs(&self) -> &dyn Vfs {
        &*self.platform.vfs
    }

    fn note(&mut self, file: RelPath, position: u64, until: u64, damage: Damage) {
        self.problems.push(Problem {
            file,
            position,
            until,
            damage,
            block_no: None,
            frames: Vec::new(),
        });
    }

    fn read_identity(&mut self) -> io::Result<()> {
        let path = file_name::store();
        match small(self.vfs(), &path)?.and_then(|page| StoreIdentity::decode(&page)) {
            Ok(identity) => {
                self.store_uuid = identity.store_uuid;
                self.identity = Some(identity);
            }
            Err(damage) => self.note(path, 0, PAGE_BYTES as u64, damage),
        }
        let path = file_name::current();
        let current = small(self.vfs(), &path)?.and_then(|bytes| Current::decode(&bytes));
        match current {
            Ok(current) if self.identity.is_some() && current.store_uuid != self.store_uuid => {
                self.note(path, 0, 44, Damage::ForeignStore);
            }
            Ok(current) => {
                self.store_uuid = current.store_uuid;
                self.current = Some(current);
            }
            // A store whose first start was interrupted has none, and nothing else either.
            Err(Damage::Missing) => {}
            Err(damage) => self.note(path, 0, 44, damage),
        }
        Ok(())
    }

    /// The manifest that `CURRENT` names, or else the newest that is sound, or else the files.
    fn read_manifest(&mut self, names: &[String]) -> io::Result<()> {
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| file_name::parse_manifest(name)).collect();
        numbers.sort_unstable();
        if let Some(current) = self.current {
            return self.read_listing(current.manifest);
        }
        let path = file_name::current();
        if numbers.is_empty() && !self.problems.iter().any(|problem| problem.file == path) {
            return Ok(());
        }
        if !self.problems.iter().any(|problem| problem.file == path) {
            self.note(path, 0, 0, Damage::Missing);
        }
        match numbers.pop() {
            Some(newest) => self.read_listing(newest),
            None => self.guess_listing(),
        }
    }

    fn read_listing(&mut self, number: u64) -> io::Result<()> {
        let path = file_name::manifest(number);
        let file = match SlotFile::open(self.vfs(), path.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note(path, 0, 0, Damage::Missing);
                return self.guess_listing();
            }
            other => other?,
        };
        let header = match file.header(SlotKind::Manifest)?.and_then(|header| {
            let is_ours = self.identity.is_none() || header.store_uuid == self.store_uuid;
            let header = if is_ours { Ok(header) } else { Err(Damage::ForeignStore) };
            header.and_then(|header| file.check_size(header))
        }) {
            Ok(header) => header,
            Err(damage) => {
                self.note(path, 0, PAGE_BYTES as u64, damage);
                return self.guess_listing();
            }
        };
        self.store_uuid = header.store_uuid;
        self.manifest = Some((number, header));
        let file = if self.is_live { file.as_of_now()? } else { file };
        let mut next = Next { block_no: 0, prev_crc: header.prev_crc, previous_clean: false };
        let (mut live, mut problems) = (LiveSet::default(), Vec::new());
        let first = FIRST_BLOCK_AT as u64;
        let ended =
            walk_slot(&file, &header, first, &mut next, None, self.is_live, |step| match step {
                Step::Block(at) => match manifest::decode(&at.block.payload) {
                    Ok(edits) => edits.iter().for_each(|edit| live.apply(edit)),
                    Err(damage) => problems.push((at.position, block_end(&at), damage)),
                },
                Step::Damage { position, until, damage, .. } => {
                    problems.push((position, until, damage));
                }
            })?;
        self.manifest_ending = Ending::of(ended);
        if let (0, Some(Ended::EndOfLog { position, .. })) = (next.block_no, ended) {
            let damage = Damage::Lost { evidence: Evidence::Current };
            problems.push((position, position + PAGE_BYTES as u64, damage));
        }
        let is_sound = problems.is_empty();
        for (position, until, damage) in problems {
            self.note(path.clone(), position, until, damage);
        }
        match is_sound {
            true => self.live = live,
            false => self.guess_listing()?,
        }
        Ok(())
    }

    /// What the files say themselves: without a manifest nobody knows which of them are alive, so
    /// all are taken to be.
    fn guess_listing(&mut self) -> io::Result<()> {
        self.is_listed = false;
        self.live = LiveSet::default();
        for slot in self.slot_files()? {
            let file = SlotFile::open(self.vfs(), file_name::slot(slot))?;
            let Ok(header) = file.header(SlotKind::Journal)? else { continue };
            if !self.is_ours(header.store_uuid) {
                continue;
            }
            let SlotHeader { file_seq, first_block_no, .. } = header;
            self.live.slots.push(ListedSlot { slot, file_seq, first_block_no });
        }
        self.live.slots.sort_by_key(|slot| slot.file_seq);
        for number in self.pack_files()? {
            if let Some(listed) = guess_pack(self.vfs(), number)?
                && self.is_ours(listed.1)
            {
                self.live.packs.insert(number, LivePack { listed: listed.0, dead_bytes: 0 });
            }
        }
        Ok(())
    }

    /// Whether a file is of this store; the first that says so decides if nothing else does.
    fn is_ours(&mut self, store_uuid: [u8; 16]) -> bool {
        if self.store_uuid == [0; 16] {
            self.store_uuid = store_uuid;
        }
        self.store_uuid == store_uuid
    }

    fn slot_files(&self) -> io::Result<Vec<u32>> {
        let names = list(self.vfs(), &file_name::journal())?;
        let mut slots: Vec<u32> =
            names.iter().filter_map(|name| file_name::parse_slot(name)).collect();
        slots.sort_unstable();
        Ok(slots)
    }

    fn pack_files(&self) -> io::Result<Vec<u64>> {
        let names = list(self.vfs(), &file_name::packs())?;
        let numbers: BTreeSet<u64> = names
            .iter()
            .filter_map(|name| file_name::parse_pack(name))
            .filter(|(number, path)| *path == file_name::pack(*number))
            .map(|(number, _)| number)
            .collect();
        Ok(numbers.into_iter().collect())
    }

    fn see_packs(&mut self) -> Result<(), LookError> {
        let packs = Packs::default();
        for (number, live) in self.live.packs.clone() {
            let path = file_name::pack(number);
            let lost = match Pack::open(self.vfs(), live.listed, self.store_uuid) {
                Ok(pack) => {
                    packs.replace([pack], &[]);
                    None
                }
                Err(error @ Error::Corrupt(_)) => {
                    packs.lose(self.vfs(), number, self.store_uuid, error.clone());
                    let Error::Corrupt(corruption) = error else { continue };
                    let Corruption { position, damage, .. } = corruption;
                    self.note(path.clone(), position, position + PAGE_BYTES as u64, damage);
                    Some(corruption)
                }
                Err(error) => return Err(error.into()),
            };
            self.packs.push(PackSeen { path, live, lost });
        }
        self.shelf = packs.shelf();
        Ok(())
    }

    /// Reads the slots that are listed; gives what the last of them ends with, if that is known.
    fn see_slots(&mut self) -> io::Result<Option<Next>> {
        let slots = self.live.slots.clone();
        let mut next: Option<Next> = None;
        for (n, &listed) in slots.iter().enumerate() {
            let next_slot_first = slots.get(n + 1).map(|next| next.first_block_no);
            next = self.see_slot(listed, next, next_slot_first)?;
        }
        Ok(next)
    }

    /// The slots that hold blocks and are not listed, and why they should be; the others are spare.
    fn unlisted(&mut self) -> io::Result<Vec<(ListedSlot, Damage)>> {
        let slots = self.live.slots.clone();
        let newest = slots.iter().map(|slot| slot.file_seq).max();
        let mut unlisted = Vec::new();
        for slot in self.slot_files()? {
            if slots.iter().any(|listed| listed.slot == slot) {
                continue;
            }
            let path = file_name::slot(slot);
            let file = SlotFile::open(self.vfs(), path.clone())?;
            let header = file.header(SlotKind::Journal)?.ok();
            let header = header.filter(|header| header.store_uuid == self.store_uuid);
            let damage = match header {
                Some(header) => unlisted_damage(&file, &header, newest)?.map(|why| (header, why)),
                None => None,
            };
            match damage {
                Some((SlotHeader { file_seq, first_block_no, .. }, damage)) => {
                    unlisted.push((ListedSlot { slot, file_seq, first_block_no }, damage));
                }
                None => self.spare_slots.push((slot, file.bytes())),
            }
        }
        Ok(unlisted)
    }

    /// Reads what the manifest lost: it goes on where what it lists ends.
    fn see_unlisted(
        &mut self,
        mut unlisted: Vec<(ListedSlot, Damage)>,
        mut next: Option<Next>,
    ) -> io::Result<()> {
        unlisted.sort_by_key(|(listed, _)| listed.file_seq);
        for (listed, damage) in unlisted {
            let first = FIRST_BLOCK_AT as u64;
            self.note(file_name::slot(listed.slot), first, first, damage);
            next = self.see_slot(listed, next, None)?;
        }
        Ok(())
    }

    /// Reads a slot; `next` is what the one before ended with, if that is known. Gives what this one
    /// ends with.
    fn see_slot(
        &mut self,
        listed: ListedSlot,
        next: Option<Next>,
        next_slot_first: Option<u64>,
    ) -> io::Result<Option<Next>> {
        let path = file_name::slot(listed.slot);
        let mut seen = SlotSeen {
            path: path.clone(),
            listed,
            bytes: 0,
            header: None,
            blocks: Vec::new(),
            ending: Ending::Damaged,
        };
        let file = match SlotFile::open(self.vfs(), path.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note(path, 0, 0, Damage::Missing);
                self.slots.push(seen);
                return Ok(None);
            }
            other => other?,
        };
        file.will_need();
        seen.bytes = file.bytes();
        let checked = file
            .header(SlotKind::Journal)?
            .and_then(|header| check_slot(header, &listed, self.store_uuid));
        let header = match checked {
            Ok(header) => header,
            Err(damage) => {
                self.note(path, 0, PAGE_BYTES as u64, damage);
                self.slots.push(seen);
                return Ok(None);
            }
        };
        seen.header = Some(header);
        if let Err(damage) = file.check_size(header) {
            self.note(path.clone(), file.bytes(), header.size, damage);
        }
        let begun = Next {
            block_no: header.first_block_no,
            prev_crc: header.prev_crc,
            previous_clean: false,
        };
        // The slot before was left at exactly `first_block_no`, by row 1 of the table.
        if let Some(before) = next
            && before.prev_crc != begun.prev_crc
        {
            let (found, expected) = (u64::from(begun.prev_crc), u64::from(before.prev_crc));
            let damage = Damage::Misplaced { what: "prev_crc", found, expected };
            self.note(path.clone(), 0, PAGE_BYTES as u64, damage);
        }
        let mut next = begun;
        self.reader.add_slot(self.vfs(), listed.slot, listed.file_seq)?;
        self.durable_block_no = self.durable_block_no.max(header.first_block_no);
        let first = FIRST_BLOCK_AT as u64;
        let mut failed = None;
        let is_live = self.is_live;
        let is_newest = next_slot_first.is_none();
        let file = if is_live && is_newest { file.as_of_now()? } else { file };
        let ended =
            walk_slot(&file, &header, first, &mut next, next_slot_first, is_live, |step| {
                // Payloads are looked at here and let go: a slot's blocks need not be in memory at once.
                let stepped = match step {
                    Step::Block(at) => Ok(self.see_block(&mut seen, &at)),
                    Step::Damage { position, until, damage, block_no, .. } => {
                        self.see_damage(&file, &header, position..until, damage, block_no).map(Some)
                    }
                };
                match stepped {
                    Ok(problem) => {
                        let problem =
                            problem.map(|problem| Problem { file: path.clone(), ..problem });
                        self.problems.extend(problem);
                    }
                    Err(error) => failed = Some(error),
                }
            })?;
        if let Some(error) = failed {
            return Err(error);
        }
        seen.ending = Ending::of(ended);
        self.slots.push(seen);
        Ok(ended.is_some().then_some(next))
    }

    /// Takes a sound block in; gives back what of it is damaged all the same.
    fn see_block(&mut self, seen: &mut SlotSeen, at: &BlockAt) -> Option<Problem> {
        let header = at.block.header;
        self.durable_block_no = self.durable_block_no.max(header.durable_block_no);
        seen.blocks.push(BlockSeen { position: at.position, header });
        if header.mask != 0 {
            self.reader.add_masked(MaskedBlock { position: at.position as u32, header });
        }
        let mut position = at.position as u32 + BLOCK_HEADER_BYTES as u32;
        for (n, frame) in Frame::split(at.block.payload.clone()).enumerate() {
            let frame = match frame {
                Ok(frame) => frame,
                Err(damage) => {
                    return Some(Problem {
                        file: seen.path.clone(),
                        position: u64::from(position),
                        until: block_end(at),
                        damage,
                        block_no: Some(header.block_no),
                        frames: Vec::new(),
                    });
                }
            };
            let end = JournalPoint { block_no: header.block_no, frame: n as u32 + 1 };
            self.keep(&frame, seen.listed.file_seq, position, end);
            position += frame.bytes().len() as u32;
        }
        None
    }

    fn keep(&mut self, frame: &Frame, file_seq: u64, position: u32, end: JournalPoint) {
        let at = FrameAt { file_seq, position, len: frame.bytes().len() as u32 };
        let frames = self.frames.entry(frame.header.run_no).or_default();
        // They are in order. A recovered copy stands for the frame that was copied.
        while frames.last().is_some_and(|known| end <= known.end) {
            frames.pop();
        }
        frames.push(FrameSeen { at, end, header: frame.header });
    }

    /// Takes in what is sound of a damaged stretch that begins where a block is expected.
    fn see_damage(
        &mut self,
        file: &SlotFile,
        slot: &SlotHeader,
        stretch: std::ops::Range<u64>,
        damage: Damage,
        block_no: u64,
    ) -> io::Result<Problem> {
        let (position, until) = (stretch.start, stretch.end);
        let len = (until - position).min(STRETCH_BYTES_MAX) as usize;
        let bytes = Bytes::from(file.bytes_at(position, len)?);
        let (mut frames, mut expected) = (Vec::new(), block_no);
        for stretch in stretch::look(&bytes, position, slot) {
            let number = stretch.header.map_or(expected, |header| header.block_no);
            if number < expected {
                // A block of the log's past: whatever it holds is known.
                continue;
            }
            expected = number + 1;
            if let Some(header) = stretch.header.filter(|header| header.mask != 0) {
                let position = stretch.position as u32;
                self.reader.add_masked(MaskedBlock { position, header });
            }
            let count = stretch.header.map(|header| header.frames);
            let ordinals = ordinals(&stretch.pieces, count);
            for (piece, frame) in stretch.pieces.into_iter().zip(ordinals) {
                let end = JournalPoint { block_no: number, frame };
                match piece {
                    Piece::Sound { position, frame } => {
                        self.keep(&frame, slot.file_seq, position as u32, end);
                    }
                    Piece::Damaged { position, until, probably } => {
                        frames.push(DamagedFrame { position, until, end, probably });
                    }
                }
            }
        }
        let file = RelPath::new(String::new());
        Ok(Problem { file, position, until, damage, block_no: Some(block_no), frames })
    }

    fn see_leftovers(&mut self) -> io::Result<()> {
        let names = self.vfs().list(&file_name::root())?;
        let manifest = self.manifest.map(|(number, _)| number);
        let others = names
            .iter()
            .filter_map(|name| file_name::parse_manifest(name))
            .filter(|&number| Some(number) != manifest)
            .map(file_name::manifest);
        self.leftovers.extend(others);
        let tmp = list(self.vfs(), &file_name::tmp())?;
        self.leftovers.extend(tmp.iter().map(|name| RelPath::new(format!("tmp/{name}"))));
        for name in list(self.vfs(), &file_name::packs())? {
            if let Some((number, path)) = file_name::parse_pack(&name)
                && !self.live.packs.contains_key(&number)
            {
                self.leftovers.push(path);
            }
        }
        self.leftovers.sort_unstable();
        Ok(())
    }

    /// Whether the log ends with a block that was being written when the power went.
    pub fn is_torn(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.ending, Ending::EndOfLog { torn: true, .. }))
    }

    /// Whether the store was shut down in order.
    pub fn is_clean(&self) -> bool {
        let last = self.slots.last().and_then(|slot| slot.blocks.last());
        last.is_some_and(|block| block.header.flags & FLAG_CLEAN != 0)
    }

    /// The newest block of the journal.
    pub fn newest_block(&self) -> Option<&BlockSeen> {
        self.slots.iter().rev().find_map(|slot| slot.blocks.last())
    }

    /// Time of the newest block, or of the newest pack: the store's own idea of now, in
    /// milliseconds since the Unix epoch.
    pub fn clock_ms(&self) -> u64 {
        let packs = self.packs.iter().map(|pack| pack.live.listed.created_ms).max();
        let block = self.newest_block().map(|block| block.header.clock_ms);
        let created = self.identity.map(|identity| identity.created_ms);
        [packs, block, created].into_iter().flatten().max().unwrap_or(0)
    }

    /// The runs with frames in the journal.
    pub fn runs_in_journal(&self) -> impl Iterator<Item = (RunNo, &[FrameSeen])> + Clone {
        self.frames.iter().map(|(run_no, frames)| (*run_no, &frames[..]))
    }

    /// The frames of a run in the journal, in the order they were written; some of them may be in
    /// segments, too.
    pub fn frames_of(&self, run_no: RunNo) -> &[FrameSeen] {
        self.frames.get(&run_no).map_or(&[], |frames| &frames[..])
    }

    /// Reads a frame of the journal again; none if its slot has left the journal meanwhile: then it is
    /// in a pack that a later survey has.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn read_frame(&self, seen: &FrameSeen) -> Result<Option<Frame>, Error> {
        let FrameHeader { run_no, first_seq, chain, .. } = seen.header;
        match self.reader.read(seen.at, run_no, first_seq, chain) {
            Err(Error::Corrupt(_)) if self.is_live && self.has_left(seen.at.file_seq) => Ok(None),
            read => read,
        }
    }

    /// Whether a slot of the journal has left it since it was read. Where that cannot be told, it has
    /// not.
    pub(super) fn has_left(&self, file_seq: u64) -> bool {
        Self::listed_slots(&self.platform)
            .is_some_and(|slots| slots.iter().all(|slot| slot.file_seq != file_seq))
    }

    /// The directory of a running store as it is later: at the first moment at which this was asked
    /// for.
    ///
    /// # Errors
    /// [`LookError::NoStore`], [`LookError::Io`].
    pub(super) fn newer(&self) -> Result<&Self, LookError> {
        if let Some(newer) = self.newer.get() {
            return Ok(newer);
        }
        let newer = Self::take_sound(&self.platform, true)?;
        Ok(self.newer.get_or_init(|| Box::new(newer)))
    }

    /// The slot that a use of a slot is.
    pub fn slot_of(&self, file_seq: u64) -> Option<&SlotSeen> {
        self.slots.iter().find(|slot| slot.listed.file_seq == file_seq)
    }

    /// The packs, as far as they can be opened. Their files stay open.
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// The packs that may hold segments of a name; those that cannot be opened are among them. Of the
    /// others not even the directory is read.
    pub fn shelf_with(&self, name_hash: u64) -> Shelf {
        let mut blooms = self.blooms.lock();
        let mut may_hold = |number| {
            let bloom = blooms
                .entry(number)
                .or_insert_with(|| read_names(self.vfs(), number, self.store_uuid));
            bloom.as_ref().is_none_or(|bloom| pack::may_hold(bloom, name_hash))
        };
        let numbers = self.shelf.packs().map(|pack| pack.number());
        let wanted: BTreeSet<u64> = numbers.filter(|&number| may_hold(number)).collect();
        self.shelf.of(|number| wanted.contains(&number))
    }

    /// A pack; none if it cannot be opened.
    pub fn pack(&self, seen: &PackSeen) -> Option<&Arc<Pack>> {
        self.shelf.pack(seen.live.listed.number)
    }

    /// The segments of a pack, as its directory has them; if that is lost, those that its sound blocks
    /// describe.
    ///
    /// # Errors
    /// [`LookError::Io`].
    pub(super) fn entries<'a>(
        &self,
        pack: &'a Pack,
    ) -> Result<Box<dyn Iterator<Item = Entry> + 'a>, LookError> {
        match pack.entries() {
            Ok(entries) => Ok(Box::new(entries.filter_map(Result::ok))),
            Err(Error::Corrupt(_)) => {
                let remains = self.remains(pack)?;
                let count = remains.entries().len();
                Ok(Box::new((0..count).map(move |n| remains.entries()[n])))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The segments of a name in a pack, as [`entries`](Self::entries) has them.
    ///
    /// # Errors
    /// [`LookError::Io`].
    pub(super) fn entries_of(&self, pack: &Pack, name_hash: u64) -> Result<Vec<Entry>, LookError> {
        match pack.entries_of(name_hash) {
            Err(Error::Corrupt(_)) => {
                let all = self.entries(pack)?;
                Ok(all.filter(|entry| entry.head.name_hash == name_hash).collect())
            }
            found => Ok(found?),
        }
    }

    /// What is left of a pack.
    ///
    /// # Errors
    /// [`LookError::Io`].
    pub(super) fn remains(&self, pack: &Pack) -> Result<Arc<Remains>, LookError> {
        if let Some(known) = self.remains.lock().get(&pack.number()) {
            return Ok(known.clone());
        }
        let found = Arc::new(Remains::of(pack)?);
        self.remains.lock().insert(pack.number(), found.clone());
        Ok(found)
    }

    /// The damaged frames of a run, as far as it can be told whose they were, in run order.
    pub fn damaged_frames_of(&self, run_no: RunNo) -> Vec<(&Problem, &DamagedFrame, &Frame)> {
        let mut found = Vec::new();
        for problem in &self.problems {
            for damaged in &problem.frames {
                if let Some((frame, _)) = &damaged.probably
                    && frame.header.run_no == run_no
                {
                    found.push((problem, damaged, frame));
                }
            }
        }
        found.sort_by_key(|(_, damaged, _)| damaged.end);
        found
    }
}

/// The names in a directory that has something of a store.
///
/// # Errors
/// [`LookError::NoStore`], [`LookError::Io`].
pub(super) fn find_store(platform: &Platform) -> Result<Vec<String>, LookError> {
    let names = platform.vfs.list(&file_name::root())?;
    let is_there = |path: RelPath| names.iter().any(|name| *name == *path.name());
    let has_store = is_there(file_name::store())
        || is_there(file_name::current())
        || names.iter().any(|name| file_name::parse_manifest(name).is_some());
    if has_store {
        return Ok(names);
    }
    let location = platform.vfs.location().display().to_string();
    Err(LookError::NoStore { location })
}

/// Reads a small file; [`Damage::Missing`] if it is not there.
fn small(vfs: &dyn Vfs, path: &RelPath) -> io::Result<Result<Vec<u8>, Damage>> {
    match read_from_disk(vfs, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(Damage::Missing)),
        other => other.map(Ok),
    }
}

/// Names in a directory that need not be there.
fn list(vfs: &dyn Vfs, path: &RelPath) -> io::Result<Vec<String>> {
    match vfs.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// How many frames of a block stand before the end of each piece: counted from the beginning up to the
/// first piece that may be several frames, and from the end behind the last.
fn ordinals(pieces: &[Piece], count: Option<u32>) -> Vec<u32> {
    let mut ordinals: Vec<u32> = (1..=pieces.len() as u32).collect();
    let is_unknown = |piece: &Piece| matches!(piece, Piece::Damaged { probably: None, .. });
    if let (Some(count), Some(last)) = (count, pieces.iter().rposition(is_unknown)) {
        let from = count.saturating_sub((pieces.len() - 1 - last) as u32);
        for (n, ordinal) in ordinals[last..].iter_mut().enumerate() {
            *ordinal = (*ordinal).max(from + n as u32);
        }
    }
    ordinals
}

fn block_end(at: &BlockAt) -> u64 {
    at.position + at.block.header.disk_bytes() as u64
}

/// Row 15.
fn check_slot(
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

/// What a manifest would say of a pack, as far as the file says it itself; and its store.
fn guess_pack(vfs: &dyn Vfs, number: u64) -> io::Result<Option<(ListedPack, [u8; 16])>> {
    let file: Arc<dyn File> = vfs.open(&file_name::pack(number), Open::Read)?;
    let bytes = file.len()?;
    let page = |at: u64| {
        let mut page = vec![0; PAGE_BYTES];
        file.read_exact_at(&mut page, at).ok().map(|()| page)
    };
    let Some(footer) = bytes.checked_sub(PAGE_BYTES as u64).and_then(page) else { return Ok(None) };
    let header = page(0).and_then(|page| pack::header_fields(&page).ok());
    let footer = pack::footer_fields(&footer, bytes).ok();
    let kind = header.map_or(pack::PackKind::Shared, |header| header.kind);
    let created_ms = header.map_or(0, |header| header.created_ms);
    Ok(match (footer, header) {
        (Some(footer), _) => Some((
            ListedPack {
                number,
                kind,
                bytes,
                segments: footer.segments,
                raw_bytes: footer.raw_bytes,
                flushed_block: footer.flushed_block,
                created_ms,
            },
            footer.store_uuid,
        )),
        (None, Some(header)) => Some((
            ListedPack {
                number,
                kind,
                bytes,
                segments: 0,
                raw_bytes: 0,
                flushed_block: 0,
                created_ms,
            },
            header.store_uuid,
        )),
        (None, None) => None,
    })
}
