//! What every command has in common: what it is decided by, its first checks, and what can become
//! of it.

use super::{Facts, Limits, Refusal, RunState};
use crate::{
    format::frame::{Frame, FramePlace},
    proto::storage::v1::Effects,
    record::RunUid,
};

/// What a command is decided by, next to the state of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Set for a command whose frame is the first after the run's earlier frames were copied out
    /// of the journal: [`name_hash`](crate::record::name_hash) of the run, by which recovery finds
    /// those. It goes into the frame's effects, where replay passes it over.
    pub home: Option<u64>,
    /// How much may be kept of the run.
    pub limits: Limits,
}

impl Context {
    /// This time, no home, no limits.
    pub fn at(now_ms: u64) -> Self {
        Self { now_ms, ..Self::default() }
    }

    /// Effects that say nothing but where home is.
    pub(super) fn effects(&self) -> Effects {
        Effects { home: self.home, ..Effects::default() }
    }
}

/// What became of an admitted command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<R> {
    /// It is accepted: the frame has been folded into the state and must become durable before
    /// the answer is given.
    Accepted {
        /// What goes to disk.
        frame: Frame,
        /// What it changes for readers.
        facts: Facts,
        /// The answer.
        answer: R,
    },
    /// It had been applied before: the answer to that.
    Duplicate(R),
}

impl RunState {
    /// Where the run's next frame goes.
    pub(super) fn next_place(&self, flags: u8, context: &Context) -> FramePlace {
        FramePlace {
            run_no: self.run_no,
            first_seq: self.tail,
            time_ms: context.now_ms.max(self.updated_ms),
            flags,
            chain: self.chain,
        }
    }
}

/// Row 2, but for the name.
pub(super) fn check_run(state: &RunState, run_uid: Option<RunUid>) -> Result<(), Refusal> {
    match state.deleted_ms {
        Some(_) => Err(Refusal::RunDeleted),
        None => check_run_uid(state, run_uid),
    }
}

/// Row 2 for the identity alone.
pub(super) fn check_run_uid(state: &RunState, run_uid: Option<RunUid>) -> Result<(), Refusal> {
    match run_uid {
        Some(wanted) if wanted != state.run_uid => {
            Err(Refusal::RunReplaced { run_uid: state.run_uid })
        }
        _ => Ok(()),
    }
}

impl RunState {
    /// Refuses what is for open runs only.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn check_goes_on(&self) -> Result<(), Refusal> {
        check_open(self, None)
    }
}

/// Row 6 for the run.
pub(super) fn check_open(state: &RunState, stream: Option<&str>) -> Result<(), Refusal> {
    let Some(ending) = &state.ending else { return Ok(()) };
    let final_index = stream.and_then(|name| state.stream_no(name)).map(|no| state.stream(no).tail);
    Err(Refusal::Closed { outcome: Some(ending.outcome), final_seq: state.tail, final_index })
}
