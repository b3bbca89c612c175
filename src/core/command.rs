//! The order in which a command is checked. The first check that fails decides.
//!
//! | # | check | refusal |
//! |---|---|---|
//! | 1 | names and sizes | `Invalid`, `TooLarge` |
//! | 2 | the run exists; `run_uid`, if given, is this one | `RunNotFound`, `RunReplaced` |
//! | 3 | producer epoch not older than known | `StaleEpoch` |
//! | 4 | the same command applied before | **the original answer**, also when closed; other content: `DedupMismatch` |
//! | 6 | run and stream open | `Closed` |
//! | 8 | `expected_seq`, `expected_index` are the tails | `SeqMismatch`, `IndexMismatch` |
//! | 9 | a new producer epoch starts at 0; no gap | `BadEpochStart`, `ProducerGap` |
//! | 12 | streams, producers | `Limit` |
//! | 13 | accept: seq, index and time assigned; one frame | |
//!
//! 3 before 4: a zombie learns that it is one. 4 before 6: the retry of a final append succeeds.
//! Rows 5, 7, 10 and 11 of the protocol's table concern commands that do not exist yet.

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
