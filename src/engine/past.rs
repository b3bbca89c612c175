//! A run as it was at a moment: finds the frames that [`Past`] folds.
//!
//! Folding goes on from the newest segment that ends before the moment, so it costs what one
//! segment does.

use std::sync::Arc;

use super::{
    published::FrameEntry,
    request::{RunInfo, RunKey},
    select::read_entry,
    shared::Shared,
    store::Store,
};
use crate::{
    core::{At, Fold, NoPast, Past, Refusal, RunState},
    error::{Corruption, Error},
    format::{Damage, file_name, frame::Frame},
    record::{RunNo, Seq},
    recovery::read_state,
};

/// What of a run the journal has, and where it is.
struct Recent {
    name_hash: u64,
    run_no: RunNo,
    /// Frames in segments.
    flushed: u64,
    frames: Vec<(FrameEntry, Option<Frame>)>,
    tail: Seq,
}

impl Store {
    /// A run as it was at a moment: what of its log was written by then, whole frames only.
    ///
    /// # Errors
    /// [`Refusal::BeyondTail`], [`Refusal::Trimmed`] if that part of the log is gone,
    /// [`Refusal::Invalid`] if the run did not exist yet, and the usual ones.
    pub async fn get_run_at(&self, key: &RunKey, at: At) -> Result<RunInfo, Error> {
        loop {
            let recent = self.shared.with_run(key, |shared, run| {
                run.published.check_there()?;
                let published = &run.published;
                let recent = Recent {
                    name_hash: run.name_hash,
                    run_no: run.state.run_no,
                    flushed: published.flushed(),
                    frames: published
                        .unflushed(published.flushed()..published.next_number(), u64::MAX),
                    tail: published.durable,
                };
                let checked = match at {
                    At::Seq(seq) if recent.tail < seq => {
                        Err(Refusal::BeyondTail { tail: recent.tail.0 })
                    }
                    _ => Ok(recent),
                };
                Ok(shared.settled(run, checked))
            });
            let recent = recent.await?.await?;
            let shared = self.shared.clone();
            let found = self.shared.pool.run(move || look_back(&shared, at, &recent)).await?;
            if let Some(state) = found {
                return Ok(RunInfo::of(&state));
            }
        }
    }
}

/// The state at a moment; none if frames have left the journal meanwhile: then segments have them.
fn look_back(shared: &Arc<Shared>, at: At, recent: &Recent) -> Result<Option<RunState>, Error> {
    let (mut past, reached) = fold_segments(shared, at, recent)?;
    if let Fold::Reached = reached {
        return found(past, at).map(Some);
    }
    for (n, (entry, frame)) in recent.frames.iter().enumerate() {
        if recent.flushed + (n as u64) < past.frames() {
            continue;
        }
        let frame = match frame {
            Some(frame) => frame.clone(),
            None => match read_entry(shared, recent.run_no, entry)? {
                Some(frame) => frame,
                None => return Ok(None),
            },
        };
        let position = u64::from(entry.at.position);
        let damaged = |damage| {
            let file = file_name::journal().as_str().into();
            Error::Corrupt(Corruption { file, position, damage })
        };
        let folded = past.fold(&frame).map_err(|error| refusal(error, recent.tail, damaged))?;
        if let Fold::Reached = folded {
            break;
        }
    }
    found(past, at).map(Some)
}

/// Folds what segments have.
fn fold_segments(shared: &Shared, at: At, recent: &Recent) -> Result<(Past, Fold), Error> {
    let segments = shared.packs.shelf().segments_of(recent.name_hash, recent.run_no)?;
    let (mut past, mut first) = (Past::new(at), 0);
    for (n, segment) in segments.iter().enumerate().rev() {
        if matches!(at, At::Seq(seq) if seq < segment.entry.head.end_seq)
            || segment.tail(&shared.blocks)?.state.is_empty()
        {
            continue;
        }
        let state = read_state(segment, &shared.blocks)?;
        if at.has_reached(&state) {
            (past, first) = (Past::from(at, state), n + 1);
            break;
        }
    }
    for segment in &segments[first..] {
        for part in &segment.tail(&shared.blocks)?.parts {
            for frame in segment.read(part, &shared.blocks)?.frames {
                let damaged = |damage| segment.damaged(damage);
                let folded = past.fold(&frame);
                let folded = folded.map_err(|error| refusal(error, recent.tail, damaged))?;
                if let Fold::Reached = folded {
                    return Ok((past, Fold::Reached));
                }
            }
        }
    }
    Ok((past, Fold::More))
}

fn refusal(error: NoPast, tail: Seq, damaged: impl FnOnce(Damage) -> Error) -> Error {
    match error {
        NoPast::Trimmed { first_seq } => {
            Refusal::Trimmed { first_seq: first_seq.min(tail), first_index: None }.into()
        }
        NoPast::Damaged(damage) => damaged(damage),
    }
}

fn found(past: Past, at: At) -> Result<RunState, Error> {
    let field = if matches!(at, At::Seq(_)) { "at_seq" } else { "at_time_ms" };
    let problem = "is before the run was created";
    past.found().ok_or_else(|| Refusal::invalid(field, problem).into())
}
