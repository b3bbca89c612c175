//! A run as it was at a moment: its frames, folded up to there.
//!
//! Whoever has the frames gives them in run order, from the first or from behind a state that is
//! not after the moment, and is told when the moment is reached. Where records were trimmed and their
//! frames given back, nothing can be folded.
//!
//! What it deliberately does not do: find frames, or say where a state is stored.

use super::RunState;
use crate::{
    format::{Damage, frame::Frame},
    record::Seq,
};

/// A moment in the life of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// When the records below this seq had been written.
    Seq(Seq),
    /// At this time, milliseconds since the Unix epoch.
    Time(u64),
}

impl At {
    /// Whether a state is not after the moment.
    pub fn has_reached(self, state: &RunState) -> bool {
        match self {
            Self::Seq(seq) => state.tail <= seq,
            Self::Time(time_ms) => state.updated_ms <= time_ms,
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// The moment is reached: the frame is after it.
    Reached,
    /// It is part of the state.
    More,
}

/// Why the past cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPast {
    /// The frames were given back, with what else they said; ask for this seq or a later one.
    #[error("what was written before seq {first_seq} is trimmed and gone")]
    Trimmed {
        /// Seq behind them.
        first_seq: Seq,
    },
    /// A frame does not follow: some are missing before it, or it is damaged.
    #[error(transparent)]
    Damaged(Damage),
}

/// A state that goes back to a moment.
#[derive(Debug, Clone)]
pub struct Past {
    at: At,
    state: Option<RunState>,
}

impl Past {
    /// Begins before the first frame.
    pub fn new(at: At) -> Self {
        Self { at, state: None }
    }

    /// Begins behind a state that is not after the moment.
    pub fn from(at: At, state: RunState) -> Self {
        Self { at, state: Some(state) }
    }

    /// Frames that are part of the state.
    pub fn frames(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.frames)
    }

    /// Folds a frame, unless it is after the moment.
    ///
    /// # Errors
    /// [`NoPast`].
    pub fn fold(&mut self, frame: &Frame) -> Result<Fold, NoPast> {
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
            return Err(NoPast::Trimmed { first_seq: frame.next_seq() });
        }
        match &mut self.state {
            Some(state) => drop(state.replay(frame).map_err(NoPast::Damaged)?),
            None => self.state = Some(RunState::begin(frame).map_err(NoPast::Damaged)?.0),
        }
        Ok(Fold::More)
    }

    /// The state; none if the run did not exist yet.
    pub fn found(self) -> Option<RunState> {
        self.state
    }
}
