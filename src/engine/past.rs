//! A run as it was at a moment: its frames, folded up to there.
//!
//! Folding goes on from the newest segment that ends before the moment, so it costs what one
//! segment does. Where records were trimmed and their frames given back, nothing can be folded.

use std::sync::Arc;

use super::{
    published::FrameEntry,
    request::{At, RunInfo, RunKey},
    select::read_entry,
    shared::Shared,
    store::Store,
};
use crate::{
    core::{Refusal, RunState},
    error::Error,
    format::frame::Frame,
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

/// Why folding has ended.
enum Fold {
    /// The moment is reached: the next frame is after it.
    Reached,
    /// There are no more frames here.
    More,
}

/// A state that goes back to a moment.
struct Past {
    at: At,
    state: Option<RunState>,
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
    let mut past = Past { at, state: None };
    if let Fold::Reached = past.fold_segments(shared, recent)? {
        return past.found().map(Some);
    }
    for (n, (entry, frame)) in recent.frames.iter().enumerate() {
        let folded = past.state.as_ref().map_or(0, |state| state.frames);
        if recent.flushed + (n as u64) < folded {
            continue;
        }
        let frame = match frame {
            Some(frame) => frame.clone(),
            None => match read_entry(shared, recent.run_no, entry)? {
                Some(frame) => frame,
                None => return Ok(None),
            },
        };
        if let Fold::Reached = past.fold(&frame, recent.tail)? {
            break;
        }
    }
    past.found().map(Some)
}

impl Past {
    /// Folds what segments have.
    fn fold_segments(&mut self, shared: &Shared, recent: &Recent) -> Result<Fold, Error> {
        let segments = shared.packs.shelf().segments_of(recent.name_hash, recent.run_no)?;
        let mut first = 0;
        for (n, segment) in segments.iter().enumerate().rev() {
            let head = &segment.entry.head;
            let may_be_before = match self.at {
                At::Seq(seq) => head.end_seq <= seq,
                At::Time(_) => true,
            };
            if !may_be_before || segment.tail(&shared.blocks)?.state.is_empty() {
                continue;
            }
            let state = read_state(segment, &shared.blocks)?;
            if let At::Time(time_ms) = self.at
                && time_ms < state.updated_ms
            {
                continue;
            }
            (self.state, first) = (Some(state), n + 1);
            break;
        }
        for segment in &segments[first..] {
            for part in &segment.tail(&shared.blocks)?.parts {
                for frame in segment.read(part, &shared.blocks)?.frames {
                    if let Fold::Reached = self.fold(&frame, recent.tail)? {
                        return Ok(Fold::Reached);
                    }
                }
            }
        }
        Ok(Fold::More)
    }

    /// Folds a frame, unless it is after the moment.
    fn fold(&mut self, frame: &Frame, tail: Seq) -> Result<Fold, Error> {
        let is_after = match self.at {
            // A stub stands for many frames.
            At::Seq(seq) if frame.is_stub() => seq <= frame.header.first_seq,
            At::Seq(seq) => seq < frame.next_seq(),
            At::Time(time_ms) => !frame.is_stub() && time_ms < frame.header.time_ms,
        };
        if is_after {
            return Ok(Fold::Reached);
        }
        if frame.is_stub() {
            // What it stands for is trimmed, with what else its frames said.
            let first_seq = frame.next_seq().min(tail);
            return Err(Refusal::Trimmed { first_seq, first_index: None }.into());
        }
        let sound = "a frame that was acknowledged replays";
        match &mut self.state {
            Some(state) => drop(state.replay(frame).expect(sound)),
            None => self.state = Some(RunState::begin(frame).expect(sound).0),
        }
        Ok(Fold::More)
    }

    fn found(self) -> Result<RunState, Error> {
        let field = if matches!(self.at, At::Seq(_)) { "at_seq" } else { "at_time_ms" };
        let problem = "is before the run was created";
        self.state.ok_or_else(|| Refusal::invalid(field, problem).into())
    }
}
