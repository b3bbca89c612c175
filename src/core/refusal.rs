//! Every way a well-formed store says no, with the values the caller needs to act.
//!
//! A refusal means that nothing was applied. Reasons and fields are those of the public protocol.

use std::{borrow::Cow, sync::Arc};

use crate::{
    proto::{Outcome, RunStatus},
    record::{Index, RunUid, Seq},
};

/// Why a command or a read was refused. Nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field's value cannot be used. Fix the request.
    #[error("{field} {problem}")]
    Invalid {
        /// Name of the field.
        field: Cow<'static, str>,
        /// What is wrong with it, for people.
        problem: Cow<'static, str>,
    },
    /// A size passes its limit. Send less at once.
    #[error("{what} has {size}, the limit is {limit}")]
    TooLarge {
        /// What is too large, with its unit.
        what: Cow<'static, str>,
        /// Size found.
        size: u64,
        /// Size allowed.
        limit: u64,
    },
    /// No run has this name. Create it first.
    #[error("run not found: create it first, or append with create_run")]
    RunNotFound,
    /// The run has no such stream. Append to it first; a tail can wait for it.
    #[error("stream not found: it is opened by its first append")]
    StreamNotFound,
    /// The run was deleted, with all it held. Stop, or create another run of this name.
    #[error("the run was deleted: creating it again makes another run of this name")]
    RunDeleted,
    /// The name belongs to another run now. Start over with the new one.
    #[error("the run was replaced: this name now belongs to run_uid {run_uid}")]
    RunReplaced {
        /// Identity of the run that has the name.
        run_uid: RunUid,
    },
    /// A run of this name exists with other parameters. Choose another name.
    #[error("a run of this name exists with other parameters")]
    RunExists,
    /// A newer epoch of the same producer has written. Stop: you have been replaced.
    #[error("producer epoch is stale: epoch {current} has taken over")]
    StaleEpoch {
        /// The newest epoch.
        current: u64,
    },
    /// The producer numbers were used for other content. This is a bug of the producer.
    #[error("these producer numbers were used before, for other content")]
    DedupMismatch,
    /// The run or stream is closed. Stop.
    #[error("closed: the log ended at seq {final_seq}")]
    Closed {
        /// How the run ended; none if only the stream is closed.
        outcome: Option<Outcome>,
        /// Seq after the last record of the run at closing; the run's tail if only the stream is.
        final_seq: Seq,
        /// Index after the last record of the stream, if one was named.
        final_index: Option<Index>,
    },
    /// Another lease of the run has been granted, or none is held. Stop: you have been replaced.
    #[error("fenced: the run's newest lease is {current}")]
    Fenced {
        /// Number of the newest lease.
        current: u64,
    },
    /// The run was claimed once: this needs the lease.
    #[error("needs the run's lease: claim it, or acquire it")]
    LeaseRequired {
        /// Number of the newest lease.
        current: u64,
    },
    /// Another worker has the run. Wait until it is free, or take it over.
    #[error("worker {worker:?} has the run, by lease {epoch}")]
    LeaseHeld {
        /// Number of its lease.
        epoch: u64,
        /// Name of the worker.
        worker: Arc<str>,
    },
    /// The run does not stand where this is possible.
    #[error("the run is not queued, but {}", status.as_str_name())]
    NotQueued {
        /// Where it stands.
        status: RunStatus,
    },
    /// What is acked was never sent.
    #[error("nothing was sent at index {index} of {stream:?}")]
    BadAck {
        /// Name of the stream.
        stream: Arc<str>,
        /// The index.
        index: Index,
    },
    /// Inputs that are owed would be lost. Ack them first, or close the run.
    #[error("inputs from index {floor} on are owed: ack them first, or close the run")]
    InputsOwed {
        /// First index that is owed.
        floor: Index,
    },
    /// The run does not consume what it is sent. Wait until it does.
    #[error("{inputs} inputs of {bytes} bytes wait to be consumed: wait until they are")]
    InputBacklog {
        /// Inputs that are owed.
        inputs: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The metadata document would be too large. Make it smaller.
    #[error("the metadata would have {size} bytes, the limit is {limit}")]
    MetadataTooLarge {
        /// Bytes it would have.
        size: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// The run has no such wait.
    #[error("wait not found")]
    WaitNotFound,
    /// The run's log is not at the expected seq. Read on and retry.
    #[error("expected seq does not match: the run's tail is {tail}")]
    SeqMismatch {
        /// Next seq of the run.
        tail: Seq,
    },
    /// The stream is not at the expected index. Read on and retry.
    #[error("expected index does not match: the stream's tail is {tail}")]
    IndexMismatch {
        /// Next index of the stream.
        tail: Index,
    },
    /// A new producer epoch must start with seq 0.
    #[error("a new producer epoch starts with seq 0")]
    BadEpochStart,
    /// The producer skipped a number. Send the missing one first.
    #[error("producer seq leaves a gap: {expected} comes next")]
    ProducerGap {
        /// The number that comes next.
        expected: u64,
    },
    /// A count would pass its limit.
    #[error("no more than {limit} {which}")]
    Limit {
        /// What is limited.
        which: Cow<'static, str>,
        /// How many there may be.
        limit: u64,
    },
    /// The append would pass what is kept of the run. Trim, or stop.
    #[error("no more than {limit} {which} are kept: trim what is no longer needed")]
    Quota {
        /// What is limited.
        which: Cow<'static, str>,
        /// How much may be kept.
        limit: u64,
    },
    /// The position was trimmed. Start at the first that is kept, or allow a gap.
    #[error("trimmed: the log starts at seq {first_seq}")]
    Trimmed {
        /// First seq that is kept.
        first_seq: Seq,
        /// First index that is kept, if one stream is read.
        first_index: Option<Index>,
    },
    /// The position has not been written yet. Start at the tail.
    #[error("beyond the tail, which is {tail}")]
    BeyondTail {
        /// Next position: an index if one stream is read by index, else a seq.
        tail: u64,
    },
    /// The log is not the one the cursor was made on. Start over from `common_seq`, or from the
    /// trim.
    #[error("history changed: the cursor was made on another log (tail here is {tail})")]
    HistoryChanged {
        /// Greatest position, of all cursors presented, that still fits.
        common_seq: Option<Seq>,
        /// First seq that is kept.
        trim: Seq,
        /// Next seq of the run.
        tail: Seq,
    },
    /// The text is not a cursor.
    #[error("not a cursor, or damaged: pass back what an answer held, unchanged")]
    BadCursor,
}

impl Refusal {
    /// A field that cannot be used.
    pub(crate) fn invalid(field: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// A name that cannot be used.
    pub(crate) fn name(field: &'static str, error: crate::record::NameError) -> Self {
        Self::invalid(field, error.to_string())
    }

    /// Refuses `size` if it passes `limit`.
    pub(crate) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), Self> {
        if size <= limit {
            return Ok(());
        }
        Err(Self::TooLarge { what: what.into(), size: size as u64, limit: limit as u64 })
    }
}
