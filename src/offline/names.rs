//! Which runs there are, and what they are called.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{
    directory::LookError,
    log::RunLog,
    survey::{FrameSeen, Survey},
};
use crate::{
    core::RunState,
    error::Error,
    format::{frame::FLAG_FIRST, pack::Entry, segment::JournalPoint},
    record::{RunNo, name_hash},
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
            let pack = self.open_pack(seen)?;
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
        let state = match self.read_frame(first)? {
            Some(frame) if first.header.flags & FLAG_FIRST != 0 => RunState::begin(&frame)
                .map(|(state, _)| state)
                .map_err(|damage| self.frame_error(first, damage)),
            _ => Err(self.frame_error(first, crate::format::Damage::Chain)),
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
            let replayed = match frame {
                Some(frame) => state.replay(&frame).map(drop),
                None => Err(crate::format::Damage::Missing),
            };
            if let Err(damage) = replayed {
                run.state = Err(self.frame_error(seen, damage));
            }
        }
        run.is_deleted |= run.state.as_ref().is_ok_and(|state| state.deleted_ms.is_some());
        if run.is_deleted && !filter.deleted {
            return Ok(());
        }
        visit(run)
    }

    fn frame_error(&self, seen: &FrameSeen, damage: crate::format::Damage) -> Error {
        let path = self.slot_of(seen.at.file_seq).map_or("journal", |slot| slot.path.as_str());
        let position = u64::from(seen.at.position);
        Error::Corrupt(crate::error::Corruption { file: path.into(), position, damage })
    }

    fn lost_packs(&self) -> usize {
        self.packs.iter().filter(|pack| pack.lost.is_some()).count()
    }

    /// The newest segment of each run that has any.
    fn newest_segments(&self) -> Result<HashMap<RunNo, Newest>, LookError> {
        let mut newest: HashMap<RunNo, Newest> = HashMap::new();
        for seen in self.packs.iter().filter(|pack| pack.lost.is_none()) {
            let pack = self.open_pack(seen)?;
            let entries = match pack.entries() {
                Err(Error::Corrupt(_)) => continue,
                other => other?,
            };
            for entry in entries.filter_map(Result::ok) {
                let pack = seen.live.listed.number;
                newest
                    .entry(entry.head.run_no)
                    .and_modify(|known| {
                        known.segments += 1;
                        if known.entry.head.flushed <= entry.head.flushed {
                            (known.entry, known.pack) = (entry, pack);
                        }
                    })
                    .or_insert(Newest { entry, pack, segments: 1 });
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
        let shelf = self.packs_with(hash)?.shelf();
        let mut numbers: Vec<RunNo> = Vec::new();
        for pack in shelf.packs() {
            // Of a directory that cannot be read the log will tell.
            let entries = pack.entries_of(hash).unwrap_or_default();
            numbers.extend(entries.iter().map(|entry| entry.head.run_no));
        }
        for (run_no, frames) in self.runs_in_journal() {
            if run_no.vshard() == hash % crate::record::VSHARDS
                && frames.iter().any(|seen| self.is_named(seen, namespace, run_id))
            {
                numbers.push(run_no);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        for run_no in numbers.into_iter().rev() {
            let log = RunLog::open(self, hash, run_no)?;
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
        Err(LookError::NoRun { name: run_id.to_owned() })
    }

    /// Whether a frame is the first of a run of this name.
    fn is_named(&self, seen: &FrameSeen, namespace: &str, run_id: &str) -> bool {
        if seen.header.flags & FLAG_FIRST == 0 {
            return false;
        }
        let Ok(Some(frame)) = self.read_frame(seen) else { return false };
        RunState::begin(&frame)
            .is_ok_and(|(state, _)| *state.run_id == *run_id && *state.namespace == *namespace)
    }
}
