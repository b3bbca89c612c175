//! Every checksum of a data directory, and what exactly is lost where one does not hold.
//!
//! Damage is told by file and place, with what a start of the server makes of it; and by run, stream
//! and index: records that cannot be read, neither here nor in another copy. A torn tail, which was
//! never acknowledged, is told apart by the same table as at a start.
//!
//! Promises: every byte that means something is looked at, so that no damage of one goes unnoticed.
//! Bytes that mean nothing are spare slots, what stands in a slot behind the block with which the
//! log left it, files that interrupted work left behind, and the text in `LOCK`. The index is not
//! looked at: it is derived.
//!
//! Memory: the frames' places of the journal, the directories of the packs, and a few MiB for each
//! job.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use parking_lot::Mutex;

use super::{
    directory::LookError,
    log::{Item, RunLog},
    names::RunName,
    pack_check::{self, BadPlace, Checked},
    seen::{DamagedFrame, Ending, PackSeen, Problem},
    survey::Survey,
};
use crate::{
    core::RunState,
    error::{Corruption, Error},
    format::{
        Damage, PAGE_BYTES, SECTOR_BYTES, file_name,
        frame::FLAG_FIRST,
        identity::StoreIdentity,
        pack,
        slot::{self, FIRST_BLOCK_AT, SlotKind},
        wire,
    },
    journal::scan::{SlotFile, read_from_disk},
    platform::{RelPath, Vfs},
    record::{Index, RunNo, Seq, StreamNo},
    segment::{Pack, names_bytes},
};

/// How much is looked at, and by how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyHow {
    /// Threads that check packs.
    pub jobs: usize,
    /// Whether every run is read frame by frame, too: that chains link, numbers continue, and states
    /// are those of the frames before them.
    pub deep: bool,
    /// How often as long as it worked a thread rests after each piece of the work, for whoever shares the
    /// processors; 0 for not at all.
    pub rests: u32,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verification {
    /// The files that were checked.
    pub files: Vec<FileChecked>,
    /// What is not what was written, by file and place.
    pub findings: Vec<Finding>,
    /// Records that cannot be read.
    pub losses: Vec<Loss>,
    /// Runs that were read frame by frame.
    pub runs_read: u64,
}

/// A file that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChecked {
    /// The file.
    pub file: RelPath,
    /// Its bytes that were looked at.
    pub bytes: u64,
    /// Sound frames in it.
    pub frames: u64,
    /// Their records.
    pub records: u64,
}

/// What a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// The bytes are not what was written.
    Corrupt,
    /// The end of a write that the power cut, and that was never acknowledged.
    Torn,
}

/// What a start of the server makes of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The store does not start, and nothing is changed on disk.
    StartRefused,
    /// The store starts; reads of what is lost are answered with `DATA_LOSS`.
    DataLoss,
    /// The store starts and nothing is lost: what is damaged stands elsewhere once more.
    Redundant,
    /// It is cut.
    Cut,
}

/// A place that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Corrupt or torn.
    pub nature: Nature,
    /// The file.
    pub file: RelPath,
    /// Where it begins.
    pub position: u64,
    /// Where it ends, exclusive.
    pub until: u64,
    /// What is wrong; none for what was torn.
    pub damage: Option<Damage>,
    /// What a start makes of it.
    pub consequence: Consequence,
    /// In the journal: whether a later block proves that it had been durable. Packs always were.
    pub was_durable: bool,
    /// In the journal: the damaged frames.
    pub frames: Vec<DamagedFrame>,
}

/// Records of a run that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The run.
    pub run_no: RunNo,
    /// What it is called, if that is known.
    pub name: Option<RunName>,
    /// Seq of the records; empty if only changes without records are lost.
    pub seq: Range<Seq>,
    /// Of each stream, as far as it is known; without an end if nothing says where it is.
    pub streams: Vec<StreamLoss>,
    /// Where the damage is.
    pub cause: Corruption,
}

/// Records of a stream that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLoss {
    /// Its number.
    pub stream: StreamNo,
    /// Its name, if that is known.
    pub name: Option<String>,
    /// The first index that is lost.
    pub from: Index,
    /// The index behind the last; none if that is not known.
    pub to: Option<Index>,
}

impl Verification {
    /// Whether anything is not what was written.
    pub fn is_corrupt(&self) -> bool {
        !self.losses.is_empty()
            || self.findings.iter().any(|finding| finding.nature == Nature::Corrupt)
    }

    /// Whether a write that the power cut stands at the end of the log.
    pub fn is_torn(&self) -> bool {
        self.findings.iter().any(|finding| finding.nature == Nature::Torn)
    }

    /// Bytes that were looked at.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl Survey {
    /// Checks everything. `progress` is told how many bytes of how many are done.
    ///
    /// # Errors
    /// [`LookError::Io`]. Damage is what is given.
    pub fn verify(
        &self,
        how: VerifyHow,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Verification, LookError> {
        let mut verify =
            Verify { survey: self, found: Verification::default(), suspects: BTreeSet::new() };
        verify.check_identity()?;
        verify.check_journal()?;
        verify.check_packs(how, progress)?;
        verify.suspect_runs()?;
        match how.deep {
            true => verify.read_all(how)?,
            false => verify.read_suspects()?,
        }
        let mut found = verify.found;
        found.settle(self);
        Ok(found)
    }
}

struct Verify<'a> {
    survey: &'a Survey,
    found: Verification,
    /// Runs that may have lost records.
    suspects: BTreeSet<RunNo>,
}

impl Finding {
    fn corrupt(place: (&RelPath, Range<u64>), damage: Damage, consequence: Consequence) -> Self {
        let (file, range) = place;
        Self {
            nature: Nature::Corrupt,
            file: file.clone(),
            position: range.start,
            until: range.end,
            damage: Some(damage),
            consequence,
            was_durable: true,
            frames: Vec::new(),
        }
    }
}

impl Verify<'_> {
    fn vfs(&self) -> &dyn Vfs {
        &*self.survey.platform().vfs
    }

    fn note(&mut self, file: &RelPath, place: Range<u64>, damage: Damage, what: Consequence) {
        self.found.findings.push(Finding::corrupt((file, place), damage, what));
    }

    /// A page that has everything twice is what its soundest copy would be written as.
    fn check_page(&mut self, file: &RelPath, page: &[u8], sound: &[u8]) {
        let differs = |n: &usize| page.get(*n) != sound.get(*n);
        let Some(from) = (0..page.len().max(sound.len())).find(differs) else { return };
        let to = (from..page.len().max(sound.len())).rfind(differs).unwrap_or(from) + 1;
        self.note(file, from as u64..to as u64, Damage::HeaderCrc, Consequence::Redundant);
    }

    fn checked(&mut self, file: &RelPath, bytes: u64, frames: u64, records: u64) {
        self.found.files.push(FileChecked { file: file.clone(), bytes, frames, records });
    }

    fn check_identity(&mut self) -> Result<(), LookError> {
        let store = file_name::store();
        if let Some(identity) = self.survey.identity {
            let page = read_from_disk(self.vfs(), &store)?;
            self.check_page(&store, &page, &StoreIdentity::encode(&identity));
            self.checked(&store, page.len() as u64, 0, 0);
        }
        if self.survey.current.is_some() {
            self.checked(&file_name::current(), 44, 0, 0);
        }
        // A running store may have another one by now.
        let is_there = |number| match SlotFile::open(self.vfs(), file_name::manifest(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.survey.is_live() => {
                Ok(None)
            }
            file => file.map(Some),
        };
        if let Some((number, header)) = self.survey.manifest
            && let Some(file) = is_there(number)?
        {
            let path = file_name::manifest(number);
            let page = file.bytes_at(0, PAGE_BYTES)?;
            self.check_page(&path, &page, &slot::encode(&header));
            self.check_rest(&path, &file, self.survey.manifest_ending)?;
            self.checked(&path, file.bytes(), 0, 0);
        }
        for problem in &self.survey.problems {
            let is_pack = self.survey.packs.iter().any(|pack| pack.path == problem.file);
            let consequence = match is_pack {
                true => Consequence::DataLoss,
                false => Consequence::StartRefused,
            };
            let durable = |block_no| block_no < self.survey.durable_block_no;
            let Problem { file, position, until, damage, block_no, frames } = problem;
            self.found.findings.push(Finding {
                was_durable: block_no.is_none_or(durable),
                frames: frames.clone(),
                ..Finding::corrupt((file, *position..*until), *damage, consequence)
            });
        }
        Ok(())
    }

    fn check_journal(&mut self) -> Result<(), LookError> {
        let mut counts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for frame in self.survey.runs_in_journal().flat_map(|(_, frames)| frames) {
            let (frames, records) = counts.entry(frame.at.file_seq).or_default();
            (*frames, *records) = (*frames + 1, *records + u64::from(frame.header.count));
        }
        for (n, seen) in self.survey.slots.iter().enumerate() {
            let Some(header) = seen.header else { continue };
            let file = SlotFile::open(self.vfs(), seen.path.clone())?;
            let page = file.bytes_at(0, PAGE_BYTES)?;
            // A running store may have begun to use the slot again.
            if slot::decode(&page, SlotKind::Journal) == Ok(header) {
                self.check_page(&seen.path, &page, &slot::encode(&header));
            }
            if n + 1 == self.survey.slots.len() {
                self.check_rest(&seen.path, &file, seen.ending)?;
            }
            let blocks = seen.blocks.last();
            let end = blocks.map_or(FIRST_BLOCK_AT as u64, |last| {
                last.position + last.header.disk_bytes() as u64
            });
            let (frames, records) = counts.get(&seen.listed.file_seq).copied().unwrap_or_default();
            self.checked(&seen.path, end, frames, records);
        }
        Ok(())
    }

    /// What stands behind the end of a log: zeros, or the remains of a write that the power cut.
    fn check_rest(
        &mut self,
        path: &RelPath,
        file: &SlotFile,
        ending: Ending,
    ) -> Result<(), LookError> {
        let Ending::EndOfLog { position, .. } = ending else { return Ok(()) };
        if self.survey.is_live() {
            // It has been written to since.
            return Ok(());
        }
        let (mut at, mut remains): (u64, Option<Range<u64>>) = (position, None);
        while at < file.bytes() {
            let bytes = file.bytes_at(at, 1 << 20)?;
            if bytes.is_empty() {
                break;
            }
            for sector in bytes.chunks(SECTOR_BYTES) {
                if sector.iter().any(|&byte| byte != 0) {
                    let end = at + sector.len() as u64;
                    remains = Some(remains.map_or(at, |range| range.start)..end);
                }
                at += sector.len() as u64;
            }
        }
        if let Some(remains) = remains {
            self.found.findings.push(Finding {
                nature: Nature::Torn,
                damage: None,
                was_durable: false,
                ..Finding::corrupt((path, remains), Damage::Short, Consequence::Cut)
            });
        }
        Ok(())
    }

    fn check_packs(
        &mut self,
        how: VerifyHow,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), LookError> {
        let survey = self.survey;
        let total: u64 = survey.packs.iter().map(|pack| pack.live.listed.bytes).sum();
        let mut done = 0;
        let packs: Vec<_> =
            survey.packs.iter().filter_map(|seen| Some((seen, survey.pack(seen)?))).collect();
        for (n, &(seen, pack)) in packs.iter().enumerate() {
            // The disk reads the next one while this one is checked.
            packs.iter().skip(n).take(2).for_each(|(_, pack)| pack.will_need());
            let (chunks, mut checked) = pack_check::blocks(pack)?;
            let bytes = seen.live.listed.bytes;
            let shares = chunks.len().max(1) as u64;
            let step = |n: usize| progress(done + bytes * (n as u64 + 1) / shares, total);
            checked.add(self.in_parallel(how, &chunks, &step, |blocks| {
                pack_check::check_blocks(pack, blocks)
            })?);
            pack_check::check_pages(pack, &mut checked)?;
            self.take_pack(seen, pack, checked)?;
            done += bytes;
        }
        progress(total, total);
        Ok(())
    }

    fn take_pack(
        &mut self,
        seen: &PackSeen,
        pack: &Pack,
        checked: Checked,
    ) -> Result<(), LookError> {
        let directory = pack.entries().map(drop);
        let bad_blocks: BTreeSet<u64> =
            checked.bad.iter().filter(|bad| bad.is_block).map(|bad| bad.position).collect();
        if directory.is_err() || !bad_blocks.is_empty() {
            self.suspect_pack(pack, &checked.bad)?;
        }
        for BadPlace { position, until, damage, is_block } in checked.bad {
            let consequence = match is_block || directory.is_err() {
                true => Consequence::DataLoss,
                false => Consequence::Redundant,
            };
            self.note(&seen.path, position..until, damage, consequence);
        }
        let names = file_name::pack_names(pack.number());
        if let Ok(file) = self.vfs().open(&names, crate::platform::Open::Read) {
            let (len, uuid) = (file.len()?, self.survey.store_uuid);
            let decoded = names_bytes(&*file)?.and_then(|bytes| {
                pack::decode_names(&bytes, seen.live.listed.number, uuid).map(|_| ())
            });
            if let Err(damage) = decoded {
                self.note(&names, 0..len, damage, Consequence::Redundant);
            }
            self.checked(&names, len, 0, 0);
        }
        self.checked(&seen.path, seen.live.listed.bytes, checked.frames, checked.records);
        Ok(())
    }

    /// Notes the runs of which a bad place of a pack may hold something.
    fn suspect_pack(&mut self, pack: &Pack, bad: &[BadPlace]) -> Result<(), LookError> {
        let entries = match pack.entries() {
            Ok(entries) => entries,
            // Nobody knows what the pack holds: every run may have something in it.
            Err(Error::Corrupt(_)) => return self.suspect_all(None),
            Err(error) => return Err(error.into()),
        };
        let is_bad = |block: u64| {
            bad.iter().any(|bad| bad.is_block && bad.position <= block && block < bad.until)
        };
        let blocks = crate::segment::Blocks::new(super::log::BLOCKS_BYTES_MAX);
        let Some(pack) = self.survey.shelf().pack(pack.number()) else { return Ok(()) };
        for entry in entries.filter_map(Result::ok) {
            let run_no = entry.head.run_no;
            if self.suspects.contains(&run_no) {
                continue;
            }
            let segment = crate::segment::Segment { pack: pack.clone(), entry };
            let is_hit = is_bad(entry.block)
                || match segment.tail(&blocks) {
                    Ok(tail) => tail.parts.iter().any(|part| is_bad(part.block)),
                    Err(Error::Corrupt(_)) => true,
                    Err(error) => return Err(error.into()),
                };
            if is_hit {
                self.suspects.insert(run_no);
            }
        }
        Ok(())
    }

    /// Notes all runs; or those that packs which cannot be opened may hold something of.
    fn suspect_all(&mut self, lost: Option<&crate::segment::Shelf>) -> Result<(), LookError> {
        let hashes = self.survey.name_hashes()?;
        let of_lost = |hash: u64| lost.is_none_or(|shelf| shelf.is_lost(hash));
        let wanted = hashes.into_iter().filter(|(_, hash)| hash.is_none_or(of_lost));
        self.suspects.extend(wanted.map(|(run_no, _)| run_no));
        Ok(())
    }

    fn suspect_runs(&mut self) -> Result<(), LookError> {
        let survey = self.survey;
        if 0 < survey.shelf().lost() {
            let shelf = survey.shelf().clone();
            self.suspect_all(Some(&shelf))?;
        }
        let is_journal_hit = survey
            .problems
            .iter()
            .any(|problem| !survey.packs.iter().any(|pack| pack.path == problem.file));
        if !is_journal_hit {
            return Ok(());
        }
        for problem in &survey.problems {
            let frames = problem.frames.iter().filter_map(|damaged| damaged.probably.as_ref());
            self.suspects.extend(frames.map(|(frame, _)| frame.header.run_no));
        }
        let packed = survey.newest_ends()?;
        for (run_no, frames) in survey.runs_in_journal() {
            let end = packed.get(&run_no);
            let behind = end.map_or(frames, |(flushed, _)| {
                &frames[frames.partition_point(|frame| frame.end <= *flushed)..]
            });
            let is_begun = match (behind.first(), end) {
                (None, _) => true,
                (Some(first), Some((_, end_seq))) => first.header.first_seq == *end_seq,
                (Some(first), None) => first.header.flags & FLAG_FIRST != 0,
            };
            let is_linked = behind
                .windows(2)
                .all(|pair| pair[0].header.chain.link(pair[1].header.crc) == pair[1].header.chain);
            // Changes without records are told by chains alone, and those by the states in packs.
            let is_followed = end.is_none() || behind.is_empty();
            if !is_begun || !is_linked || !is_followed {
                self.suspects.insert(run_no);
            }
        }
        Ok(())
    }

    fn read_suspects(&mut self) -> Result<(), LookError> {
        let hashes = match self.suspects.is_empty() {
            true => return Ok(()),
            false => self.survey.name_hashes()?,
        };
        for run_no in std::mem::take(&mut self.suspects) {
            let losses = losses_of(self.survey, run_no, hashes.get(&run_no).copied().flatten())?;
            self.found.losses.extend(losses);
        }
        Ok(())
    }

    fn read_all(&mut self, how: VerifyHow) -> Result<(), LookError> {
        let hashes: BTreeMap<RunNo, Option<u64>> = self.survey.name_hashes()?;
        let runs: Vec<_> = hashes.into_iter().collect();
        let chunks: Vec<Vec<_>> = runs.chunks(256).map(<[_]>::to_vec).collect();
        let survey = self.survey;
        let found = Mutex::new(Vec::new());
        let failed = self.in_parallel(how, &chunks, &|_| {}, |runs: &[(RunNo, Option<u64>)]| {
            for &(run_no, hash) in runs {
                let losses = match losses_of(survey, run_no, hash) {
                    Ok(losses) => losses,
                    Err(LookError::Damaged(error)) => return Err(error),
                    Err(error) => {
                        return Err(Error::Io {
                            operation: error.to_string().into(),
                            source: std::sync::Arc::new(std::io::ErrorKind::Other.into()),
                        });
                    }
                };
                found.lock().extend(losses);
            }
            Ok(Checked::default())
        });
        failed?;
        self.found.runs_read = runs.len() as u64;
        self.found.losses.extend(found.into_inner());
        self.found.losses.sort_by_key(|loss| (loss.run_no, loss.seq.start));
        Ok(())
    }

    /// Does work on all items, in as many threads as are wanted; `step` is told how many are done.
    fn in_parallel<T: Sync>(
        &self,
        how: VerifyHow,
        items: &[Vec<T>],
        step: &(dyn Fn(usize) + Sync),
        work: impl Fn(&[T]) -> Result<Checked, Error> + Sync,
    ) -> Result<Checked, Error> {
        let clock = &self.survey.platform().clock;
        let next = AtomicUsize::new(0);
        let all = Mutex::new(Ok(Checked::default()));
        let run = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(n) else { return };
                let begun = clock.mono();
                let done = work(item);
                step(n);
                thread::sleep(clock.mono().saturating_sub(begun) * how.rests);
                let mut all = all.lock();
                match (&mut *all, done) {
                    (Ok(all), Ok(done)) => all.add(done),
                    (Ok(_), Err(error)) => *all = Err(error),
                    (Err(_), _) => return,
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..how.jobs.min(items.len()) {
                scope.spawn(run);
            }
            run();
        });
        let mut all = all.into_inner()?;
        all.bad.sort_by_key(|bad| bad.position);
        Ok(all)
    }
}

/// What of a run cannot be read.
pub(super) fn losses_of(
    survey: &Survey,
    run_no: RunNo,
    hash: Option<u64>,
) -> Result<Vec<Loss>, LookError> {
    let mut log = RunLog::open(survey, hash, run_no)?;
    let end = log.last_known_state()?;
    let is_deleted = log.segments().last().is_some_and(|last| last.entry.head.is_deleted)
        || end.as_ref().is_some_and(|state| state.deleted_ms.is_some());
    if is_deleted {
        return Ok(Vec::new());
    }
    let mut tails: BTreeMap<StreamNo, Index> = BTreeMap::new();
    let mut losses: Vec<Loss> = Vec::new();
    // Losses whose streams nothing tells by itself: what comes next in a stream does.
    let mut open: Vec<usize> = Vec::new();
    let mut name = end.as_ref().map(RunName::of);
    while let Some(item) = log.next_item()? {
        match item {
            Item::Frame(frame, _) => {
                if name.is_none() {
                    name = RunState::begin(&frame).ok().map(|(state, _)| RunName::of(&state));
                }
                for record in wire::skim_all(frame.records_slice()).map_while(Result::ok) {
                    let tail = tails.entry(record.stream).or_insert(Index::ZERO);
                    if *tail < record.index {
                        attribute(&mut losses, &open, record.stream, *tail, Some(record.index));
                    }
                    *tail = record.index + 1;
                }
                if frame.is_stub() {
                    // What was trimmed is no loss, and how much of which stream is not known.
                    open.clear();
                    trimmed(&mut tails, end.as_ref());
                }
            }
            Item::Missing { from, to, streams, cause } => {
                let Error::Corrupt(cause) = cause else { return Err(cause.into()) };
                if streams.is_empty() && from < to {
                    open.push(losses.len());
                }
                let streams = streams.into_iter().map(|span| {
                    let to = span.first_index + u64::from(span.count);
                    tails.insert(span.stream, to);
                    StreamLoss {
                        stream: span.stream,
                        name: None,
                        from: span.first_index,
                        to: Some(to),
                    }
                });
                let streams = streams.collect();
                losses.push(Loss { run_no, name: None, seq: from..to, streams, cause });
            }
        }
    }
    // At the end the run's state says how far its streams go, if anything does.
    for (n, stream) in end.iter().flat_map(|state| state.streams.iter().enumerate()) {
        let number = StreamNo(n as u32);
        let tail = tails.get(&number).copied().unwrap_or(stream.trim);
        if tail < stream.tail {
            attribute(&mut losses, &open, number, tail, Some(stream.tail));
        }
    }
    for loss in &mut losses {
        loss.name.clone_from(&name);
        for stream in &mut loss.streams {
            let known = end.as_ref().and_then(|state| state.streams.get(stream.stream.0 as usize));
            stream.name = known.map(|known| known.name.to_string());
            // What was trimmed is no loss.
            stream.from = known.map_or(stream.from, |known| stream.from.max(known.trim));
        }
        loss.streams.retain(|stream| stream.to.is_none_or(|to| stream.from < to));
    }
    Ok(losses)
}

/// Tells losses of which nothing else tells that records of a stream are among them.
fn attribute(
    losses: &mut [Loss],
    open: &[usize],
    stream: StreamNo,
    from: Index,
    to: Option<Index>,
) {
    for &n in open {
        let known = losses[n].streams.iter().any(|known| known.stream == stream);
        if !known {
            losses[n].streams.push(StreamLoss { stream, name: None, from, to });
        }
    }
}

/// Behind what was trimmed, streams go on at their trims, or further on.
fn trimmed(tails: &mut BTreeMap<StreamNo, Index>, end: Option<&RunState>) {
    for (n, stream) in end.iter().flat_map(|state| state.streams.iter().enumerate()) {
        let tail = tails.entry(StreamNo(n as u32)).or_insert(stream.trim);
        *tail = (*tail).max(stream.trim);
    }
}

impl Verification {
    /// Sorts what was found, and sees to it that every loss has a finding.
    fn settle(&mut self, survey: &Survey) {
        for loss in &self.losses {
            let is_told = self.findings.iter().any(|finding| {
                finding.file.as_str() == &*loss.cause.file
                    && finding.nature == Nature::Corrupt
                    && (finding.position == loss.cause.position
                        || (finding.position..finding.until).contains(&loss.cause.position))
            });
            if !is_told {
                let file = RelPath::new(loss.cause.file.to_string());
                let at = loss.cause.position..loss.cause.position;
                let is_slot = survey.slots.iter().any(|slot| slot.path == file);
                let what = if is_slot { Consequence::StartRefused } else { Consequence::DataLoss };
                self.findings.push(Finding::corrupt((&file, at), loss.cause.damage, what));
            }
        }
        self.findings
            .sort_by(|a, b| (a.file.as_str(), a.position).cmp(&(b.file.as_str(), b.position)));
    }
}
