//! Which runs there are, and what they are called.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use super::{
    directory::LookError,
    log::{Item, RunLog, Where},
    seen::FrameSeen,
    survey::Survey,
};
use crate::{
    core::RunState,
    error::Error,
    format::{
        Damage, file_name,
        frame::{Chain, FLAG_FIRST, Frame, FrameHeader},
        pack::Entry,
        segment::JournalPoint,
    },
    record::{RunNo, Seq, name_hash},
    recovery::read_state,
    segment::{Blocks, Segment},
};

/// Bytes of blocks that are kept while states are read.
const BLOCKS_BYTES_MAX: usize = 32 << 20;

/// What a run is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunName {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Name.
    pub run_id: Arc<str>,
}

impl RunName {
    /// The name of the run with this state.
    pub fn of(state: &RunState) -> Self {
        Self { namespace: state.namespace.clone(), run_id: state.run_id.clone() }
    }
}

impl fmt::Display for RunName {
    /// The run's name; with its namespace in front if that is not the usual one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "default" => f.write_str(&self.run_id),
            namespace => write!(f, "{namespace}/{}", self.run_id),
        }
    }
}

/// Which runs are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunFilter {
    /// Also those that are deleted.
    pub deleted: bool,
}

/// A run that was found.
#[derive(Debug, Clone)]
pub struct FoundRun {
    /// Its number.
    pub run_no: RunNo,
    /// Hash of its name; none if nothing that is sound says it.
    pub name_hash: Option<u64>,
    /// Its state at the end of its log, or why that cannot be known.
    pub state: Result<RunState, Error>,
    /// Its segments.
    pub segments: u32,
    /// Its frames that are in the journal only.
    pub journal_frames: u32,
    /// Whether it is deleted.
    pub is_deleted: bool,
}

/// The newest segment of a run, and how many there are.
struct Newest {
    entry: Entry,
    pack: u64,
    segments: u32,
    /// The newest segment that nothing of the run is before.
    first: Option<(JournalPoint, u64)>,
}

impl Newest {
    /// Whether a segment of the run counts: it is not deleted, nor replaced by a later one.
    fn has(&self, entry: &Entry) -> bool {
        let is_replaced = self.first.is_some_and(|(flushed, _)| {
            entry.head.flushed < flushed || (entry.head.flushed == flushed && !entry.head.is_first)
        });
        !self.entry.head.is_deleted && !is_replaced
    }
}

/// What could be read; none if it is damaged.
fn readable<T>(read: Result<T, Error>) -> Result<Option<T>, LookError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::Corrupt(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl FoundRun {
    /// What it is called, if that is known; else its number.
    pub fn label(&self) -> String {
        match &self.state {
            Ok(state) => RunName::of(state).to_string(),
            Err(_) => format!("#{}", self.run_no.0),
        }
    }
}

impl Survey {
    /// Gives every run to `visit`, in the order in which packs hold them; those of the journal last.
    ///
    /// # Errors
    /// [`LookError::Io`]. Damage is given with the run it hits, and is among the problems.
    pub fn each_run(
        &self,
        filter: RunFilter,
        mut visit: impl FnMut(FoundRun) -> Result<(), LookError>,
    ) -> Result<(), LookError> {
        let newest = self.newest_segments()?;
        let mut by_pack: HashMap<u64, Vec<(RunNo, &Newest)>> = HashMap::new();
        for (run_no, found) in &newest {
            by_pack.entry(found.pack).or_default().push((*run_no, found));
        }
        for seen in &self.packs {
            let number = seen.live.listed.number;
            let Some(mut runs) = by_pack.remove(&number) else { continue };
            let Some(pack) = self.pack(seen) else { continue };
            let blocks = Blocks::new(BLOCKS_BYTES_MAX);
            runs.sort_by_key(|(_, found)| (found.entry.block, found.entry.offset));
            for (run_no, found) in runs {
                let segment = Segment { pack: pack.clone(), entry: found.entry };
                let state = read_state(&segment, &blocks);
                if let Err(Error::Io { .. }) = state {
                    return Err(state.expect_err("an error").into());
                }
                let frames = self.behind(run_no, found.entry.head.flushed);
                let run = FoundRun {
                    run_no,
                    name_hash: Some(found.entry.head.name_hash),
                    is_deleted: found.entry.head.is_deleted,
                    state,
                    segments: found.segments,
                    journal_frames: frames.len() as u32,
                };
                self.visit(run, frames, filter, &mut visit)?;
            }
        }
        for (run_no, frames) in self.runs_in_journal() {
            if newest.contains_key(&run_no) {
                continue;
            }
            self.visit_new(run_no, frames, filter, &mut visit)?;
        }
        Ok(())
    }

    /// The frames of a run behind a place of the journal.
    fn behind(&self, run_no: RunNo, flushed: JournalPoint) -> &[FrameSeen] {
        let frames = self.frames_of(run_no);
        &frames[frames.partition_point(|frame| frame.end <= flushed)..]
    }

    /// A run that no pack has.
    fn visit_new(
        &self,
        run_no: RunNo,
        frames: &[FrameSeen],
        filter: RunFilter,
        visit: &mut impl FnMut(FoundRun) -> Result<(), LookError>,
    ) -> Result<(), LookError> {
        let Some((first, rest)) = frames.split_first() else { return Ok(()) };
        let low = self.live.journal_low;
        if frames.iter().all(|frame| frame.end.block_no < low) && self.lost_packs() == 0 {
            // It was in packs, and is gone from there: deleted or expired, and collected.
            return Ok(());
        }
        let Some(frame) = self.read_frame(first)? else {
            return self.visit_moved(run_no, filter, visit);
        };
        let state = match first.header.flags & FLAG_FIRST != 0 {
            true => RunState::begin(&frame)
                .map(|(state, _)| state)
                .map_err(|damage| self.frame_error(first, damage)),
            false => Err(self.frame_error(first, Damage::Chain)),
        };
        let name_hash = state.as_ref().ok().map(|state| name_hash(&state.namespace, &state.run_id));
        let run = FoundRun {
            run_no,
            name_hash,
            is_deleted: false,
            state,
            segments: 0,
            journal_frames: frames.len() as u32,
        };
        self.visit(run, rest, filter, visit)
    }

    fn visit(
        &self,
        mut run: FoundRun,
        frames: &[FrameSeen],
        filter: RunFilter,
        visit: &mut impl FnMut(FoundRun) -> Result<(), LookError>,
    ) -> Result<(), LookError> {
        for seen in frames {
            let Ok(state) = &mut run.state else { break };
            let frame = match self.read_frame(seen) {
                Err(error @ Error::Corrupt(_)) => {
                    run.state = Err(error);
                    break;
                }
                other => other?,
            };
            let Some(frame) = frame else { return self.visit_moved(run.run_no, filter, visit) };
            if let Err(damage) = state.replay(&frame) {
                run.state = Err(self.frame_error(seen, damage));
            }
        }
        run.is_deleted |= run.state.as_ref().is_ok_and(|state| state.deleted_ms.is_some());
        if run.is_deleted && !filter.deleted {
            return Ok(());
        }
        visit(run)
    }

    /// A run of which something has left the journal since that was read; if it is still there.
    fn visit_moved(
        &self,
        run_no: RunNo,
        filter: RunFilter,
        visit: &mut impl FnMut(FoundRun) -> Result<(), LookError>,
    ) -> Result<(), LookError> {
        let Some(log) = self.newer()?.log_of(run_no)? else { return Ok(()) };
        let state = match log.state() {
            Err(error @ Error::Io { .. }) => return Err(error.into()),
            state => state,
        };
        let is_deleted = state.as_ref().is_ok_and(|state| state.deleted_ms.is_some());
        if is_deleted && !filter.deleted {
            return Ok(());
        }
        visit(FoundRun {
            run_no,
            name_hash: log.name_hash(),
            state,
            segments: log.segments().len() as u32,
            journal_frames: log.journal_frames().len() as u32,
            is_deleted,
        })
    }

    fn frame_error(&self, seen: &FrameSeen, damage: Damage) -> Error {
        let path = self.slot_of(seen.at.file_seq).map_or("journal", |slot| slot.path.as_str());
        let position = u64::from(seen.at.position);
        Error::Corrupt(crate::error::Corruption { file: path.into(), position, damage })
    }

    fn lost_packs(&self) -> usize {
        self.packs.iter().filter(|pack| pack.lost.is_some()).count()
    }

    /// Gives every frame that counts to `visit`, in the order in which files hold them: those of a
    /// run come in run order within a pack, and packs in the order of their numbers, the journal
    /// last. Frames that cannot be read are left out: they are among the problems, or a
    /// [`RunLog`] tells of them. Ends when `visit` says false.
    ///
    /// # Errors
    /// [`LookError::Io`], and what `visit` says.
    pub fn each_frame(
        &self,
        mut visit: impl FnMut(&Frame, &Where) -> Result<bool, LookError>,
    ) -> Result<(), LookError> {
        let newest = self.newest_segments()?;
        for seen in &self.packs {
            let Some(pack) = self.pack(seen) else { continue };
            let blocks = Blocks::new(BLOCKS_BYTES_MAX);
            let mut entries: Vec<Entry> = self.entries(pack)?.collect();
            entries
                .retain(|entry| newest.get(&entry.head.run_no).is_some_and(|run| run.has(entry)));
            entries.sort_by_key(|entry| (entry.block, entry.offset));
            for entry in entries {
                let segment = Segment { pack: pack.clone(), entry };
                let Some(tail) = readable(segment.tail(&blocks))? else { continue };
                for part in &tail.parts {
                    let Some(read) = readable(segment.read(part, &blocks))? else { continue };
                    let position = if part.block == 0 { entry.block } else { part.block };
                    let at = Where { file: seen.path.clone(), position, is_packed: true };
                    for frame in &read.frames {
                        if !visit(frame, &at)? {
                            return Ok(());
                        }
                    }
                }
            }
        }
        for (run_no, frames) in self.runs_in_journal() {
            let flushed = newest.get(&run_no).map(|run| run.entry.head.flushed);
            let low = if self.lost_packs() == 0 { self.live.journal_low } else { 0 };
            let mut before = None;
            for seen in frames {
                if seen.end.block_no < low || flushed.is_some_and(|flushed| seen.end <= flushed) {
                    continue;
                }
                let frame = match readable(self.read_frame(seen))? {
                    Some(Some(frame)) => frame,
                    None => continue,
                    // It has left the journal, and with it what is before it.
                    Some(None) => {
                        let before = before.map(|before: &FrameSeen| before.header.chain);
                        match self.each_moved(seen, before, frames, &mut visit)? {
                            true => break,
                            false => return Ok(()),
                        }
                    }
                };
                before = Some(seen);
                let file = self.slot_of(seen.at.file_seq).map(|slot| slot.path.clone());
                let file = file.unwrap_or_else(file_name::journal);
                let at = Where { file, position: u64::from(seen.at.position), is_packed: false };
                if !visit(&frame, &at)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives the frames of a run from one on that has left the journal; false if `visit` says so.
    fn each_moved(
        &self,
        from: &FrameSeen,
        before: Option<Chain>,
        frames: &[FrameSeen],
        visit: &mut impl FnMut(&Frame, &Where) -> Result<bool, LookError>,
    ) -> Result<bool, LookError> {
        let FrameHeader { run_no, first_seq, .. } = from.header;
        let until = frames.last().map_or(first_seq, FrameSeen::next_seq);
        let Some(mut log) = self.newer()?.log_of(run_no)? else { return Ok(true) };
        log.go_on(before, first_seq, until);
        while let Some(item) = log.next_item()? {
            if let Item::Frame(frame, at) = item
                && !visit(&frame, &at)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The log of a run by its number; none if nothing that is sound says what it is called.
    ///
    /// # Errors
    /// [`LookError::Io`].
    pub fn log_of(&self, run_no: RunNo) -> Result<Option<RunLog<'_>>, LookError> {
        for seen in &self.packs {
            let Some(pack) = self.pack(seen) else { continue };
            let found = self.entries(pack)?.find(|entry| entry.head.run_no == run_no);
            if let Some(entry) = found {
                return RunLog::open(self, Some(entry.head.name_hash), run_no).map(Some);
            }
        }
        let first = self.frames_of(run_no).iter().find(|seen| seen.header.flags & FLAG_FIRST != 0);
        let Some(first) = first else { return Ok(None) };
        let frame = match readable(self.read_frame(first))? {
            Some(Some(frame)) => frame,
            Some(None) => return self.newer()?.log_of(run_no),
            None => return Ok(None),
        };
        let Ok((state, _)) = RunState::begin(&frame) else { return Ok(None) };
        RunLog::open(self, Some(name_hash(&state.namespace, &state.run_id)), run_no).map(Some)
    }

    /// Every run that anything is known of, and the hash of its name, if anything that is sound says it.
    pub(super) fn name_hashes(&self) -> Result<BTreeMap<RunNo, Option<u64>>, LookError> {
        let packed = self.newest_segments()?;
        let mut hashes: BTreeMap<_, _> =
            packed.iter().map(|(run_no, run)| (*run_no, Some(run.entry.head.name_hash))).collect();
        for (run_no, frames) in self.runs_in_journal() {
            if hashes.contains_key(&run_no) {
                continue;
            }
            let Some(first) = frames.first() else { continue };
            let hash = match readable(self.read_frame(first))? {
                Some(Some(frame)) => RunState::begin(&frame)
                    .ok()
                    .map(|(state, _)| name_hash(&state.namespace, &state.run_id)),
                Some(None) => self.newer()?.log_of(run_no)?.and_then(|log| log.name_hash()),
                None => None,
            };
            hashes.insert(run_no, hash);
        }
        for damaged in self.problems.iter().flat_map(|problem| &problem.frames) {
            if let Some((frame, _)) = &damaged.probably {
                hashes.entry(frame.header.run_no).or_insert_with(|| {
                    let state = RunState::begin(frame).ok();
                    state.map(|(state, _)| name_hash(&state.namespace, &state.run_id))
                });
            }
        }
        Ok(hashes)
    }

    /// Where each run's newest segment ends: in the journal, and in the run.
    pub(super) fn newest_ends(&self) -> Result<HashMap<RunNo, (JournalPoint, Seq)>, LookError> {
        let newest = self.newest_segments()?;
        Ok(newest
            .into_iter()
            .map(|(run_no, run)| (run_no, (run.entry.head.flushed, run.entry.head.end_seq)))
            .collect())
    }

    /// The newest segment of each run that has any.
    fn newest_segments(&self) -> Result<HashMap<RunNo, Newest>, LookError> {
        let mut newest: HashMap<RunNo, Newest> = HashMap::new();
        for seen in &self.packs {
            let Some(pack) = self.pack(seen) else { continue };
            for entry in self.entries(pack)? {
                let pack = seen.live.listed.number;
                let first = entry.head.is_first.then_some((entry.head.flushed, pack));
                newest
                    .entry(entry.head.run_no)
                    .and_modify(|known| {
                        known.segments += 1;
                        known.first = known.first.max(first);
                        if known.entry.head.flushed <= entry.head.flushed {
                            (known.entry, known.pack) = (entry, pack);
                        }
                    })
                    .or_insert(Newest { entry, pack, segments: 1, first });
            }
        }
        Ok(newest)
    }

    /// The newest run of a name, deleted or not.
    ///
    /// # Errors
    /// [`LookError::NoRun`], [`LookError::Io`].
    pub fn find(&self, namespace: &str, run_id: &str) -> Result<RunLog<'_>, LookError> {
        let hash = name_hash(namespace, run_id);
        let shelf = self.shelf_with(hash);
        let mut numbers: Vec<RunNo> = Vec::new();
        for pack in shelf.packs() {
            let entries = self.entries_of(pack, hash)?;
            numbers.extend(entries.iter().map(|entry| entry.head.run_no));
        }
        let mut has_moved = false;
        for (run_no, frames) in self.runs_in_journal() {
            if run_no.vshard() != hash % crate::record::VSHARDS {
                continue;
            }
            for seen in frames {
                match self.is_named(seen, namespace, run_id) {
                    Some(true) => numbers.push(run_no),
                    Some(false) => {}
                    None => has_moved = true,
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        for run_no in numbers.into_iter().rev() {
            let log = RunLog::open(self, Some(hash), run_no)?;
            match log.state() {
                Ok(state) if *state.run_id == *run_id && *state.namespace == *namespace => {
                    return Ok(log);
                }
                Ok(_) => {}
                // Its name cannot be read; its hash says that it is this one.
                Err(Error::Corrupt(_)) => return Ok(log),
                Err(error) => return Err(error.into()),
            }
        }
        match has_moved {
            true => self.newer()?.find(namespace, run_id),
            false => Err(LookError::NoRun { name: run_id.to_owned() }),
        }
    }

    /// Whether a frame is the first of a run of this name; none if it has left the journal.
    fn is_named(&self, seen: &FrameSeen, namespace: &str, run_id: &str) -> Option<bool> {
        if seen.header.flags & FLAG_FIRST == 0 {
            return Some(false);
        }
        let Ok(frame) = self.read_frame(seen) else { return Some(false) };
        let begun = RunState::begin(&frame?);
        Some(
            begun
                .is_ok_and(|(state, _)| *state.run_id == *run_id && *state.namespace == *namespace),
        )
    }
}
