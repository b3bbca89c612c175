//! Why a command does not succeed: what it says, what to do next, and its exit status.
//!
//! | status | means |
//! |---|---|
//! | 0 | done; also when whoever read the output had enough |
//! | 1 | failure |
//! | 2 | wrong usage, or input that cannot be sent |
//! | 3 | no such run, stream, token or batch; no run to claim, or no message, in time |
//! | 4 | a precondition does not hold: closed, trimmed, taken over, other parameters |
//! | 5 | unavailable: the server cannot be reached or cannot take it now |
//! | 75 | `serve`: cannot go on, start again |
//! | 78 | `serve`: corrupt or misconfigured, starting again will not help |
//! | 130 | interrupted |

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::present::{ErrorFields, FailureLine, Line, outcome_name};
use crate::{core::Refusal, error::Error};

/// An exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// 0
    Done = 0,
    /// 1
    Failure = 1,
    /// 2
    Usage = 2,
    /// 3
    NotFound = 3,
    /// 4
    Precondition = 4,
    /// 5
    Unavailable = 5,
    /// 75
    Restart = 75,
    /// 78
    DoNotRestart = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command stopped before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit status.
    pub(super) exit: Exit,
    /// Name of the reason, for programs; those of the protocol where it has one.
    pub(super) reason: &'static str,
    /// What happened and what to do next, for people.
    pub(super) message: String,
}

/// What a command is about, for messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    /// Address of the server.
    pub(super) server: String,
    /// Name of the run, or empty.
    pub(super) run: String,
    /// Name of the stream, or empty.
    pub(super) stream: String,
}

impl Failure {
    /// Arguments that do not go together, or input that cannot be used.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, reason: "USAGE", message: message.into() }
    }

    /// There is nothing of what was asked for.
    pub(super) fn nothing(reason: &'static str, message: impl Into<String>) -> Self {
        Self { exit: Exit::NotFound, reason, message: message.into() }
    }

    /// A local file or pipe failed.
    pub(super) fn io(what: &str, error: &io::Error) -> Self {
        Self { exit: Exit::Failure, reason: "IO", message: format!("{what}: {error}") }
    }

    /// Standard output failed. If nobody reads it any more, that is no failure.
    pub(super) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Done, reason: "OUTPUT_CLOSED", message: String::new() };
        }
        Self::io("standard output", error)
    }

    /// The store did not do what it was asked.
    pub(super) fn store(error: &Error, subject: &Subject) -> Self {
        let (exit, reason) = class(error);
        let message = match error {
            Error::Refused(refusal) => refused(refusal, subject),
            Error::Unavailable { message } => format!(
                "cannot reach {}: {message}; start a server with `braidlog serve`, or name \
                 another one with --server",
                subject.server
            ),
            Error::OutcomeUnknown { cause } => format!(
                "{cause}: it is not known whether the last call was applied; see `braidlog run \
                 get` before you repeat it"
            ),
            other => other.to_string(),
        };
        Self { exit, reason, message }
    }

    /// Adds what the user should know besides.
    pub(super) fn with_note(mut self, note: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(note);
        self
    }

    /// Tells standard error, in words or as a JSON object.
    pub(super) fn tell(&self, as_json: bool) {
        if self.exit == Exit::Done {
            return;
        }
        let line = if as_json {
            let error = ErrorFields { reason: self.reason, message: &self.message };
            let fields = FailureLine { error, exit: self.exit as u8 };
            serde_json::to_string(&Line::new(fields)).unwrap_or_default()
        } else {
            format!("braidlog: {}", self.message)
        };
        // There is nobody left to tell if this fails; the status tells it too.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Exit status and reason of an error.
fn class(error: &Error) -> (Exit, &'static str) {
    match error {
        Error::Refused(refusal) => refusal_class(refusal),
        Error::OutcomeUnknown { .. } => (Exit::Unavailable, "OUTCOME_UNKNOWN"),
        Error::DiskFull => (Exit::Unavailable, "DISK_FULL"),
        Error::Busy { .. } => (Exit::Unavailable, "BUSY"),
        Error::ShuttingDown => (Exit::Unavailable, "SHUTTING_DOWN"),
        Error::Stopped { .. } => (Exit::Unavailable, "STOPPED"),
        Error::Unavailable { .. } => (Exit::Unavailable, "UNAVAILABLE"),
        Error::Corrupt(_) => (Exit::Failure, "CORRUPT"),
        Error::Io { .. } => (Exit::Failure, "IO"),
        Error::Unexpected { .. } => (Exit::Failure, "UNEXPECTED"),
    }
}

fn refusal_class(refusal: &Refusal) -> (Exit, &'static str) {
    match refusal {
        Refusal::Invalid { .. } => (Exit::Usage, "INVALID"),
        Refusal::TooLarge { .. } => (Exit::Usage, "TOO_LARGE"),
        Refusal::BadCursor => (Exit::Usage, "BAD_CURSOR"),
        Refusal::RunNotFound => (Exit::NotFound, "RUN_NOT_FOUND"),
        Refusal::RunDeleted => (Exit::NotFound, "RUN_DELETED"),
        Refusal::StreamNotFound => (Exit::NotFound, "STREAM_NOT_FOUND"),
        Refusal::RunReplaced { .. } => (Exit::Precondition, "RUN_REPLACED"),
        Refusal::RunExists => (Exit::Precondition, "RUN_EXISTS"),
        Refusal::StaleEpoch { .. } => (Exit::Precondition, "STALE_EPOCH"),
        Refusal::DedupMismatch => (Exit::Precondition, "DEDUP_MISMATCH"),
        Refusal::Closed { .. } => (Exit::Precondition, "CLOSED"),
        Refusal::SeqMismatch { .. } => (Exit::Precondition, "SEQ_MISMATCH"),
        Refusal::IndexMismatch { .. } => (Exit::Precondition, "INDEX_MISMATCH"),
        Refusal::BadEpochStart => (Exit::Precondition, "BAD_EPOCH_START"),
        Refusal::ProducerGap { .. } => (Exit::Precondition, "PRODUCER_GAP"),
        Refusal::Limit { .. } => (Exit::Precondition, "LIMIT"),
        Refusal::Quota { .. } => (Exit::Precondition, "QUOTA"),
        Refusal::Trimmed { .. } => (Exit::Precondition, "TRIMMED"),
        Refusal::BeyondTail { .. } => (Exit::Precondition, "BEYOND_TAIL"),
        Refusal::HistoryChanged { .. } => (Exit::Precondition, "HISTORY_CHANGED"),
        Refusal::Fenced { .. } => (Exit::Precondition, "FENCED"),
        Refusal::LeaseRequired { .. } => (Exit::Precondition, "LEASE_REQUIRED"),
        Refusal::LeaseHeld { .. } => (Exit::Precondition, "LEASE_HELD"),
        Refusal::NotQueued { .. } => (Exit::Precondition, "NOT_QUEUED"),
        Refusal::BadAck { .. } => (Exit::Usage, "BAD_ACK"),
        Refusal::InputsOwed { .. } => (Exit::Precondition, "INPUTS_OWED"),
        Refusal::InputBacklog { .. } => (Exit::Precondition, "INPUT_BACKLOG"),
        Refusal::MetadataTooLarge { .. } => (Exit::Precondition, "METADATA_TOO_LARGE"),
        Refusal::WaitNotFound => (Exit::NotFound, "WAIT_NOT_FOUND"),
    }
}

/// A refusal in the words of the command line, with the next step.
fn refused(refusal: &Refusal, Subject { run, stream, .. }: &Subject) -> String {
    match refusal {
        Refusal::RunNotFound => format!(
            "run not found: {run:?}; see all with `braidlog run list`, or create it with \
             `braidlog run create`"
        ),
        Refusal::RunDeleted => {
            format!("run {run:?} was deleted; `braidlog run create` makes another run of this name")
        }
        Refusal::StreamNotFound => format!(
            "stream not found: {stream:?} of run {run:?}; the first `braidlog append` opens it, \
             and `braidlog run get` lists those there are"
        ),
        Refusal::RunExists => format!(
            "run {run:?} exists with other parameters: see `braidlog run get`, or choose another name"
        ),
        Refusal::Closed { outcome: Some(outcome), .. } => format!(
            "run {run:?} is closed ({}): nothing can be added, and its outcome does not change",
            outcome_name(*outcome)
        ),
        Refusal::Closed { .. } => format!("stream {stream:?} of run {run:?} is closed"),
        Refusal::StaleEpoch { current } => format!(
            "this producer has been taken over: epoch {current} has written; stop, or take over \
             with --epoch {}",
            current + 1
        ),
        Refusal::DedupMismatch => {
            "this id, or this producer and epoch, was used for other lines or content: \
             repeat the same input, or start anew with another id or a higher --epoch"
                .into()
        }
        Refusal::WaitNotFound => {
            format!("wait token not found: {run:?}; create it with `braidlog wait-token create`")
        }
        Refusal::Fenced { current } => format!(
            "run {run:?} is not held under this lease: its newest is {current}; see `braidlog run \
             get`, or take it with `braidlog lease acquire`"
        ),
        Refusal::LeaseRequired { current } => format!(
            "run {run:?} was claimed: this needs its lease, of which the newest is {current}; say \
             --lease-epoch, or take it with `braidlog lease acquire`"
        ),
        Refusal::LeaseHeld { worker, .. } => format!(
            "worker {worker:?} has run {run:?}: wait until it gives it back, or take it over with \
             --takeover"
        ),
        Refusal::NotQueued { status } => format!(
            "run {run:?} is not queued but {}: only the start of a run that nobody has worked on \
             can be put off",
            status.as_str_name().trim_start_matches("RUN_STATUS_").to_lowercase()
        ),
        Refusal::Limit { which, limit } if which.contains("producer") => format!(
            "run {run:?} has had {limit} producers, the most it keeps: go on as one of them, with \
             --producer and a higher --epoch"
        ),
        Refusal::Quota { which, limit } => format!(
            "run {run:?} may keep no more than {limit} {}: give up old records with `braidlog trim`",
            which.trim_end_matches(" of a run")
        ),
        Refusal::Trimmed { first_index: Some(index), .. } => format!(
            "trimmed: stream {stream:?} starts at index {index}; use --from {index}, or --allow-gap"
        ),
        Refusal::Trimmed { first_seq, .. } => format!(
            "trimmed: run {run:?} starts at seq {first_seq}; use --from-seq {first_seq}, or \
             --allow-gap"
        ),
        Refusal::BeyondTail { tail } => {
            format!("beyond the tail, which is {tail}: start there, or wait with `braidlog tail`")
        }
        Refusal::BadCursor => {
            "not a cursor, or damaged: pass back what an answer held, unchanged".into()
        }
        Refusal::HistoryChanged { .. } | Refusal::RunReplaced { .. } => format!(
            "{refusal}; what you have seen of run {run:?} is not what is there now: start over, \
             without a cursor"
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(error: impl Into<Error>) -> Failure {
        let subject = Subject { server: "http://h:1".into(), run: "r".into(), stream: "s".into() };
        Failure::store(&error.into(), &subject)
    }

    #[test]
    fn messages_name_what_is_meant_and_the_next_step() {
        let missing = failure(Refusal::RunNotFound);
        assert_eq!((missing.exit, missing.reason), (Exit::NotFound, "RUN_NOT_FOUND"));
        assert!(missing.message.contains("\"r\""), "{}", missing.message);
        let unreachable = failure(Error::Unavailable { message: "refused".into() });
        assert_eq!(unreachable.exit, Exit::Unavailable);
        assert!(unreachable.message.contains("http://h:1"), "{}", unreachable.message);
    }

    #[test]
    fn a_reader_that_had_enough_is_no_failure() {
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::output(&gone).exit, Exit::Done);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::output(&full).exit, Exit::Failure);
    }
}
