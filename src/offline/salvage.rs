//! Everything of a damaged directory that is sound, into a new one.
//!
//! Promises: every record whose frame is sound is in the new store, under the same run, stream, seq
//! and index; every range that is not is told. What is missing is missing there too: readers of it are
//! told of data loss, since nobody can tell what it was. Nothing is made up, and nothing of the old
//! directory is changed.
//!
//! The state of a run is the fold of its frames. Where frames are lost, it is taken up again by what
//! the next sound frame says of itself (see `core::bridge`), or by a segment's end; what lost frames
//! did besides adding records may be undone by that: an ack, a tag, a claim. A run whose name is lost gets
//! one: `recovered-<number>-<n>`. A state, and so a name, may be read from a block of which a single
//! wrong byte is known; records never are.
//!
//! What it deliberately does not do: keep what a start would cut, or deleted runs.

use std::{collections::BTreeSet, ops::Range};

use super::{
    build::{BuildError, NewStore},
    directory::LookError,
    log::{Item, RunLog},
    names::RunName,
    seen::{DamagedFrame, Ending},
    survey::Survey,
    verify::{Consequence, Finding, Loss, Nature, Verification, losses_of},
};
use crate::{
    core::{Create, NewRun, RunState},
    error::Error,
    format::frame::{FLAG_FIRST, Frame},
    platform::RelPath,
    record::{DEFAULT_NAMESPACE, RunNo, RunUid, vshard_of},
};

/// What became of a directory.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Runs that are in the new store.
    pub runs: u64,
    /// Frames in it.
    pub frames: u64,
    /// Records in it.
    pub records: u64,
    /// Runs that were deleted, and are left out.
    pub deleted: u64,
    /// What is lost.
    pub losses: Vec<Loss>,
    /// What is sound and yet not in the new store.
    pub left_out: Vec<LeftOut>,
    /// Runs whose names were lost, and what they are called now.
    pub renamed: Vec<(RunNo, RunName)>,
}

/// Something sound that is not in the new store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The run's number.
    pub run_no: RunNo,
    /// What it is called, if that is known.
    pub name: Option<RunName>,
    /// Records of it.
    pub records: u64,
    /// Why.
    pub why: String,
}

/// What is known of a run before it is written.
struct Run {
    run_no: RunNo,
    hash: Option<u64>,
    state: RunState,
    /// Whether its name was lost.
    is_renamed: bool,
    /// Frames that follow nothing that is known, by their place in the log.
    unfit: BTreeSet<u64>,
    expires_ms: u64,
}

/// Writes everything that is sound into a new store; `told` is told of each run.
///
/// # Errors
/// [`BuildError`]: what of the new directory cannot be written. Damage of the old one is what is told.
pub fn salvage(
    survey: &Survey,
    store: &mut NewStore,
    told: &mut dyn FnMut(&Salvaged),
) -> Result<Salvaged, BuildError> {
    let mut found = Salvaged::default();
    let hashes = survey.name_hashes().map_err(build_error)?;
    let newest = hashes.keys().map(|run_no| run_no.counter() + 1).max().unwrap_or(0);
    store.reserve(newest.max(survey.live.run_counter));
    store.note_clock(survey.clock_ms());
    // Newest first: of two runs of one name, the older was deleted, whatever is left of that.
    for (&run_no, &hash) in hashes.iter().rev() {
        let log = RunLog::open(survey, hash, run_no).map_err(build_error)?;
        if is_deleted(&log)? {
            found.deleted += 1;
            continue;
        }
        found.losses.extend(losses_of(survey, run_no, hash).map_err(build_error)?);
        let Some(run) = know(survey, log, hash)? else { continue };
        write(survey, store, run, &mut found)?;
        told(&found);
    }
    found.losses.sort_by_key(|loss| (loss.run_no, loss.seq.start));
    Ok(found)
}

fn build_error(error: LookError) -> BuildError {
    match error {
        LookError::Damaged(error) => BuildError::Store(error),
        LookError::Io(error) => BuildError::Io(error),
        other => BuildError::Io(std::sync::Arc::new(std::io::Error::other(other.to_string()))),
    }
}

fn is_deleted(log: &RunLog<'_>) -> Result<bool, BuildError> {
    let in_packs = log.segments().last().is_some_and(|last| last.entry.head.is_deleted);
    let state = log.last_known_state()?;
    Ok(in_packs || state.is_some_and(|state| state.deleted_ms.is_some()))
}

/// What a run is called, and its state at the end; none if nothing at all is left of it.
fn know(
    survey: &Survey,
    mut log: RunLog<'_>,
    hash: Option<u64>,
) -> Result<Option<Run>, BuildError> {
    let run_no = log.run_no();
    let expires_ms = log.segments().last().map_or(0, |last| last.entry.head.expires_ms);
    let run = |state, is_renamed, unfit| Run { run_no, hash, state, is_renamed, unfit, expires_ms };
    match log.state() {
        Ok(state) => return Ok(Some(run(state, false, BTreeSet::new()))),
        Err(Error::Corrupt(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let (known_segments, mut state) = log.packed_state()?.map_or((0, None), |(n, s)| (n, Some(s)));
    let (mut is_renamed, mut unfit, mut place) = (false, BTreeSet::new(), 0);
    while let Some(item) = log.next_item().map_err(build_error)? {
        let Item::Frame(frame, at) = item else { continue };
        place += 1;
        if (at.is_packed && log.segment() < known_segments) || frame.is_stub() {
            continue;
        }
        let folded = match &mut state {
            Some(state) => match state.replay(&frame) {
                Ok(_) => Ok(()),
                Err(_) => state.replay_behind_loss(&frame),
            },
            None if frame.header.flags & FLAG_FIRST != 0 => {
                RunState::begin(&frame).map(|(begun, _)| state = Some(begun))
            }
            None => {
                is_renamed = true;
                let mut begun = unnamed(survey, &frame);
                begun.replay_behind_loss(&frame).map(|()| state = Some(begun))
            }
        };
        if folded.is_err() {
            unfit.insert(place);
        }
    }
    Ok(state.map(|state| run(state, is_renamed, unfit)))
}

/// A run of which nothing is known but a frame that is not its first.
fn unnamed(survey: &Survey, frame: &Frame) -> RunState {
    let run_no = frame.header.run_no;
    // The number belongs to the names of its vshard.
    let names = (0..).map(|n: u64| format!("recovered-{}-{n}", run_no.0));
    let run_id = names
        .into_iter()
        .find(|name| vshard_of(DEFAULT_NAMESPACE, name) == run_no.vshard())
        .expect("one name in a thousand is of any vshard");
    let mut uid = survey.store_uuid;
    uid.iter_mut().zip(run_no.0.to_le_bytes()).for_each(|(byte, number)| *byte ^= number);
    let create =
        Create { namespace: DEFAULT_NAMESPACE.into(), run_id: run_id.into(), ..Create::default() };
    let new = NewRun { run_no, run_uid: RunUid(uid) };
    let created = RunState::create(&create, new, frame.header.time_ms);
    created.expect("a short name of ordinary characters").0
}

/// Writes a run: its sound frames, with what is missing between them missing there, too.
fn write(
    survey: &Survey,
    store: &mut NewStore,
    run: Run,
    found: &mut Salvaged,
) -> Result<(), BuildError> {
    let Run { run_no, hash, state, is_renamed, unfit, expires_ms } = run;
    let name = RunName::of(&state);
    let mut log = RunLog::open(survey, hash, run_no).map_err(build_error)?;
    let (mut frames, mut records, mut place, mut left_out) = (0, 0, 0, 0);
    let mut new = match store.run(&state.namespace, &state.run_id, run_no, state.run_uid) {
        Err(BuildError::Unfit { what, .. }) => {
            let why = what.to_owned();
            found.left_out.push(LeftOut { run_no, name: Some(name), records: 0, why });
            return Ok(());
        }
        other => other?,
    };
    while let Some(item) = log.next_item().map_err(build_error)? {
        let Item::Frame(frame, _) = item else { continue };
        place += 1;
        let count = if frame.is_stub() { 0 } else { u64::from(frame.header.count) };
        if unfit.contains(&place) {
            left_out += count;
            continue;
        }
        match new.frame(&frame) {
            Err(BuildError::Unfit { .. }) => left_out += count,
            other => {
                other?;
                (frames, records) = (frames + 1, records + count);
            }
        }
    }
    if !new.is_at(&state) {
        new.lose_up_to(&state)?;
    }
    match new.finish(&state, expires_ms) {
        Err(BuildError::Taken { .. }) => {
            let why = "a newer run has its name: that it was deleted is probably what is lost";
            found.left_out.push(LeftOut { run_no, name: Some(name), records, why: why.to_owned() });
            return Ok(());
        }
        other => other?,
    }
    if 0 < left_out {
        let why = "they do not follow anything that is known".to_owned();
        let name = Some(name.clone());
        found.left_out.push(LeftOut { run_no, name, records: left_out, why });
    }
    if is_renamed {
        found.renamed.push((run_no, name));
    }
    found.runs += 1;
    found.frames += frames;
    found.records += records;
    Ok(())
}

impl Verification {
    /// Places where records are lost that `losses` do not name, or not all of them: by file,
    /// position and end. `survey` is what was verified.
    pub fn unattributed<'a>(
        &'a self,
        survey: &'a Survey,
        losses: &[Loss],
    ) -> Vec<(&'a RelPath, Range<u64>)> {
        let packs = survey.packs.iter().filter(|seen| survey.pack(seen).is_none());
        let packs = packs.map(|seen| (&seen.path, 0..seen.live.listed.bytes));
        let slots = survey.slots.iter().filter(|slot| slot.header.is_none());
        let mut places: Vec<_> =
            packs.chain(slots.map(|slot| (&slot.path, 0..slot.bytes))).collect();
        // Of a pack without a directory, what its sound blocks do not tell.
        for seen in &survey.packs {
            let Some(pack) = survey.pack(seen).filter(|pack| pack.entries().is_err()) else {
                continue;
            };
            match survey.remains(pack) {
                Ok(remains) => {
                    places
                        .extend(remains.unknown().iter().map(|range| (&seen.path, range.clone())));
                }
                Err(_) => places.push((&seen.path, 0..seen.live.listed.bytes)),
            }
        }
        let whole = places.len();
        // What stands behind the last that could be read, where that is not the end of the log.
        for (n, slot) in survey.slots.iter().enumerate() {
            let from = match slot.ending {
                Ending::EndOfLog { position, .. } if n + 1 < survey.slots.len() => position,
                Ending::Damaged if slot.header.is_some() => {
                    let here = self.findings.iter().filter(|finding| finding.file == slot.path);
                    here.map(|finding| finding.until).max().unwrap_or_default()
                }
                _ => continue,
            };
            if from < slot.bytes {
                places.push((&slot.path, from..slot.bytes));
            }
        }
        for finding in self.findings.iter().filter(|finding| finding.nature == Nature::Corrupt) {
            if places[..whole].iter().any(|(file, _)| **file == finding.file) {
                continue;
            }
            match finding.consequence {
                Consequence::Redundant | Consequence::Cut => {}
                _ if !finding.frames.is_empty() => {
                    let unknown = finding.frames.iter().filter(|frame| !frame.is_named(losses));
                    places
                        .extend(unknown.map(|frame| (&finding.file, frame.position..frame.until)));
                }
                Consequence::DataLoss if finding.is_block_named(survey, losses) => {}
                Consequence::DataLoss | Consequence::StartRefused => {
                    places.push((&finding.file, finding.position..finding.until));
                }
            }
        }
        places
    }
}

impl DamagedFrame {
    /// Whether it is known what it was, and that is among the losses.
    fn is_named(&self, losses: &[Loss]) -> bool {
        self.probably.as_ref().is_some_and(|(frame, _)| {
            let seq = frame.header.first_seq..frame.next_seq();
            losses.iter().any(|loss| {
                loss.run_no == frame.header.run_no
                    && loss.seq.start <= seq.start
                    && seq.end <= loss.seq.end
            })
        })
    }
}

impl Finding {
    /// Whether it is a block of a pack whose directory tells the runs in it, and all of them are
    /// among the losses.
    fn is_block_named(&self, survey: &Survey, losses: &[Loss]) -> bool {
        let seen = survey.packs.iter().find(|seen| seen.path == self.file);
        let Some(Ok(entries)) = seen.and_then(|seen| survey.pack(seen)).map(|pack| pack.entries())
        else {
            return false;
        };
        let mut heads = entries
            .flatten()
            .filter(|entry| (self.position..self.until).contains(&entry.block))
            .map(|entry| entry.head)
            .peekable();
        heads.peek().is_some()
            && heads.all(|head| {
                let is_named = losses.iter().any(|loss| {
                    loss.run_no == head.run_no
                        && *loss.cause.file == *self.file.as_str()
                        && (self.position..self.until).contains(&loss.cause.position)
                });
                // Nothing is lost of a run that was deleted.
                let is_deleted = || {
                    let log = RunLog::open(survey, Some(head.name_hash), head.run_no);
                    log.is_ok_and(|log| is_deleted(&log).unwrap_or(false))
                };
                is_named || is_deleted()
            })
    }
}
