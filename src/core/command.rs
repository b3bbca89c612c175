//! What every command has in common: its first checks, and what can become of it.

use super::{Facts, Refusal, RunState};
use crate::{format::frame::Frame, record::RunUid};

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

/// Row 2, second half.
pub(super) fn check_run_uid(state: &RunState, run_uid: Option<RunUid>) -> Result<(), Refusal> {
    match run_uid {
        Some(wanted) if wanted != state.run_uid => {
            Err(Refusal::RunReplaced { run_uid: state.run_uid })
        }
        _ => Ok(()),
    }
}

/// Row 6 for the run.
pub(super) fn check_open(state: &RunState, stream: Option<&str>) -> Result<(), Refusal> {
    let Some(ending) = &state.ending else { return Ok(()) };
    let final_index = stream.and_then(|name| state.stream_no(name)).map(|no| state.stream(no).tail);
    Err(Refusal::Closed { outcome: Some(ending.outcome), final_seq: state.tail, final_index })
}
