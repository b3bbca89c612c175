//! Errors as gRPC statuses, and back.
//!
//! Every status carries `google.rpc.ErrorInfo` with the domain [`DOMAIN`], a reason and the values
//! of the error as metadata, so that the client makes the same [`Error`] of it that the store
//! gave. Where waiting helps there is a `google.rpc.RetryInfo` as well.
//!
//! | code | reasons |
//! |---|---|
//! | INVALID_ARGUMENT | INVALID {field, problem}, TOO_LARGE {what, size, limit}, BAD_CURSOR, BAD_EPOCH_START |
//! | NOT_FOUND | RUN_NOT_FOUND, RUN_DELETED, STREAM_NOT_FOUND |
//! | ALREADY_EXISTS | RUN_EXISTS |
//! | FAILED_PRECONDITION | CLOSED {outcome, final_seq, final_index}, RUN_REPLACED {run_uid}, HISTORY_CHANGED {common_seq, trim, tail}, STALE_EPOCH {current}, DEDUP_MISMATCH |
//! | ABORTED | SEQ_MISMATCH {tail}, INDEX_MISMATCH {tail}, PRODUCER_GAP {expected} |
//! | OUT_OF_RANGE | TRIMMED {first_seq, first_index}, BEYOND_TAIL {tail} |
//! | RESOURCE_EXHAUSTED | LIMIT {which, limit}, QUOTA {which, limit}, BUSY {retry_after_ms}, DISK_FULL |
//! | UNAVAILABLE | OUTCOME_UNKNOWN {cause}, SHUTTING_DOWN, NOT_READY {cause}, IO {operation, cause} |
//! | DATA_LOSS | CORRUPT {file, position, damage} |
//!
//! A value that the error does not have is left out. The end of a tail adds `cursor`, that of an
//! append session `ordinal`: the first batch that was not applied.

use std::{collections::HashMap, error, io, sync::Arc, time::Duration};

use tonic::{Code, ConnectError, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt};

use crate::{
    core::Refusal,
    error::{Corruption, Error},
    format::Damage,
    proto::{Outcome, RunStatus},
    record::{Index, RunUid, Seq},
};

/// Domain of all reasons.
pub const DOMAIN: &str = "braidlog.v1";

/// When to come back to a store that is being restarted.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// When to come back after a full disk.
const DISK_FULL_DELAY: Duration = Duration::from_secs(5);

/// An error as the protocol has it.
struct Answer {
    code: Code,
    reason: &'static str,
    fields: Vec<(&'static str, String)>,
    retry: Option<Duration>,
}

impl Answer {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, fields: Vec::new(), retry: None }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    fn with_some(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn retry_after(self, delay: Duration) -> Self {
        Self { retry: Some(delay), ..self }
    }
}

/// The status of an error.
pub fn to_status(error: &Error) -> Status {
    to_status_with(error, [])
}

/// The status of an error, with more values.
pub fn to_status_with<const N: usize>(error: &Error, more: [(&'static str, String); N]) -> Status {
    let answer = answer(error);
    let fields: HashMap<String, String> = answer
        .fields
        .into_iter()
        .chain(more)
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let mut details = ErrorDetails::with_error_info(answer.reason, DOMAIN, fields);
    if answer.retry.is_some() {
        details.set_retry_info(answer.retry);
    }
    Status::with_error_details(answer.code, error.to_string(), details)
}

/// The protocol's words for every error there is.
fn answer(error: &Error) -> Answer {
    use Code::*;
    match error {
        Error::Refused(refusal) => refused(refusal),
        Error::OutcomeUnknown { cause } => {
            Answer::new(Unavailable, "OUTCOME_UNKNOWN").with("cause", cause)
        }
        Error::DiskFull => Answer::new(ResourceExhausted, "DISK_FULL").retry_after(DISK_FULL_DELAY),
        Error::Busy { retry_after_ms } => Answer::new(ResourceExhausted, "BUSY")
            .with("retry_after_ms", retry_after_ms)
            .retry_after(Duration::from_millis(*retry_after_ms)),
        Error::ShuttingDown => Answer::new(Unavailable, "SHUTTING_DOWN").retry_after(RESTART_DELAY),
        Error::Stopped { cause } => {
            Answer::new(Unavailable, "NOT_READY").with("cause", cause).retry_after(RESTART_DELAY)
        }
        Error::Corrupt(Corruption { file, position, damage }) => Answer::new(DataLoss, "CORRUPT")
            .with("file", file)
            .with("position", position)
            .with("damage", damage),
        Error::Io { operation, source } => {
            Answer::new(Unavailable, "IO").with("operation", operation).with("cause", source)
        }
        Error::Unavailable { message } => Answer::new(Unavailable, "NOT_READY")
            .with("message", message)
            .retry_after(RESTART_DELAY),
        Error::Unexpected { message } => {
            Answer::new(Unknown, "UNEXPECTED").with("message", message)
        }
    }
}

fn refused(refusal: &Refusal) -> Answer {
    use Code::*;
    match refusal {
        Refusal::Invalid { field, problem } => {
            Answer::new(InvalidArgument, "INVALID").with("field", field).with("problem", problem)
        }
        Refusal::TooLarge { what, size, limit } => Answer::new(InvalidArgument, "TOO_LARGE")
            .with("what", what)
            .with("size", size)
            .with("limit", limit),
        Refusal::RunNotFound => Answer::new(NotFound, "RUN_NOT_FOUND"),
        Refusal::RunDeleted => Answer::new(NotFound, "RUN_DELETED"),
        Refusal::StreamNotFound => Answer::new(NotFound, "STREAM_NOT_FOUND"),
        Refusal::RunReplaced { run_uid } => {
            Answer::new(FailedPrecondition, "RUN_REPLACED").with("run_uid", run_uid)
        }
        Refusal::RunExists => Answer::new(AlreadyExists, "RUN_EXISTS"),
        Refusal::StaleEpoch { current } => {
            Answer::new(FailedPrecondition, "STALE_EPOCH").with("current", current)
        }
        Refusal::DedupMismatch => Answer::new(FailedPrecondition, "DEDUP_MISMATCH"),
        Refusal::Closed { outcome, final_seq, final_index } => {
            Answer::new(FailedPrecondition, "CLOSED")
                .with_some("outcome", outcome.map(|outcome| outcome.as_str_name()))
                .with("final_seq", final_seq)
                .with_some("final_index", *final_index)
        }
        Refusal::SeqMismatch { tail } => Answer::new(Aborted, "SEQ_MISMATCH").with("tail", tail),
        Refusal::IndexMismatch { tail } => {
            Answer::new(Aborted, "INDEX_MISMATCH").with("tail", tail)
        }
        Refusal::BadEpochStart => Answer::new(InvalidArgument, "BAD_EPOCH_START"),
        Refusal::ProducerGap { expected } => {
            Answer::new(Aborted, "PRODUCER_GAP").with("expected", expected)
        }
        Refusal::Limit { which, limit } => {
            Answer::new(ResourceExhausted, "LIMIT").with("which", which).with("limit", limit)
        }
        Refusal::Quota { which, limit } => {
            Answer::new(ResourceExhausted, "QUOTA").with("which", which).with("limit", limit)
        }
        Refusal::Trimmed { first_seq, first_index } => Answer::new(OutOfRange, "TRIMMED")
            .with("first_seq", first_seq)
            .with_some("first_index", *first_index),
        Refusal::BeyondTail { tail } => Answer::new(OutOfRange, "BEYOND_TAIL").with("tail", tail),
        Refusal::HistoryChanged { common_seq, trim, tail } => {
            Answer::new(FailedPrecondition, "HISTORY_CHANGED")
                .with_some("common_seq", *common_seq)
                .with("trim", trim)
                .with("tail", tail)
        }
        Refusal::BadCursor => Answer::new(InvalidArgument, "BAD_CURSOR"),
        Refusal::Fenced { .. }
        | Refusal::LeaseRequired { .. }
        | Refusal::LeaseHeld { .. }
        | Refusal::NotQueued { .. } => refused_of_lease(refusal),
        Refusal::BadAck { stream, index } => {
            Answer::new(InvalidArgument, "BAD_ACK").with("stream", stream).with("index", index)
        }
        Refusal::InputsOwed { floor } => {
            Answer::new(FailedPrecondition, "INPUTS_OWED").with("floor", floor)
        }
        Refusal::InputBacklog { inputs, bytes } => Answer::new(ResourceExhausted, "INPUT_BACKLOG")
            .with("inputs", inputs)
            .with("bytes", bytes),
        Refusal::MetadataTooLarge { size, limit } => {
            Answer::new(FailedPrecondition, "METADATA_TOO_LARGE")
                .with("size", size)
                .with("limit", limit)
        }
        Refusal::WaitNotFound => Answer::new(NotFound, "WAIT_NOT_FOUND"),
    }
}

/// What is refused because of who has the run.
fn refused_of_lease(refusal: &Refusal) -> Answer {
    let answer = |reason| Answer::new(Code::FailedPrecondition, reason);
    match refusal {
        Refusal::Fenced { current } => answer("FENCED").with("current", current),
        Refusal::LeaseHeld { epoch, worker } => {
            answer("LEASE_HELD").with("epoch", epoch).with("worker", worker)
        }
        Refusal::NotQueued { status } => answer("NOT_QUEUED").with("status", status.as_str_name()),
        Refusal::LeaseRequired { current } => answer("LEASE_REQUIRED").with("current", current),
        _ => answer("LEASE_REQUIRED"),
    }
}

/// Whether a call changes something: after a broken connection, only then is anything open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It reads.
    Read,
    /// It may change a run.
    Command,
}

/// The error of a status: the one that the store gave, or what a failed transport means for the
/// call.
pub fn from_status(status: &Status, call: Call) -> Error {
    match status.get_details_error_info() {
        Some(info) if info.domain == DOMAIN => from_info(status, &info),
        _ => from_transport(status, call),
    }
}

fn from_info(status: &Status, info: &ErrorInfo) -> Error {
    let fields = Fields(&info.metadata);
    if let Some(refusal) = from_refusal(&info.reason, &fields) {
        return Error::Refused(refusal);
    }
    let known = match info.reason.as_str() {
        "OUTCOME_UNKNOWN" => fields.shared("cause").map(|cause| Error::OutcomeUnknown { cause }),
        "DISK_FULL" => Some(Error::DiskFull),
        "BUSY" => {
            fields.number("retry_after_ms").map(|retry_after_ms| Error::Busy { retry_after_ms })
        }
        "SHUTTING_DOWN" => Some(Error::ShuttingDown),
        "NOT_READY" => fields.shared("cause").map(|cause| Error::Stopped { cause }),
        "CORRUPT" => fields.corruption().map(Error::Corrupt),
        "IO" => fields.io(),
        _ => None,
    };
    let message = || format!("{}: {}", info.reason, status.message()).into();
    // Of a reason that is not known here, the code still says whether to come back; and no status
    // of the protocol but OUTCOME_UNKNOWN leaves anything open.
    known.unwrap_or_else(|| match status.code() {
        Code::Unavailable => Error::Unavailable { message: message() },
        _ => Error::Unexpected { message: message() },
    })
}

fn from_refusal(reason: &str, fields: &Fields<'_>) -> Option<Refusal> {
    Some(match reason {
        "INVALID" => {
            Refusal::Invalid { field: fields.text("field")?, problem: fields.text("problem")? }
        }
        "TOO_LARGE" => Refusal::TooLarge {
            what: fields.text("what")?,
            size: fields.number("size")?,
            limit: fields.number("limit")?,
        },
        "RUN_NOT_FOUND" => Refusal::RunNotFound,
        "RUN_DELETED" => Refusal::RunDeleted,
        "STREAM_NOT_FOUND" => Refusal::StreamNotFound,
        "RUN_REPLACED" => Refusal::RunReplaced { run_uid: fields.run_uid("run_uid")? },
        "RUN_EXISTS" => Refusal::RunExists,
        "STALE_EPOCH" => Refusal::StaleEpoch { current: fields.number("current")? },
        "DEDUP_MISMATCH" => Refusal::DedupMismatch,
        "CLOSED" => Refusal::Closed {
            outcome: fields.if_there("outcome", Outcome::from_str_name)?,
            final_seq: Seq(fields.number("final_seq")?),
            final_index: fields.maybe_number("final_index")?.map(Index),
        },
        "SEQ_MISMATCH" => Refusal::SeqMismatch { tail: Seq(fields.number("tail")?) },
        "INDEX_MISMATCH" => Refusal::IndexMismatch { tail: Index(fields.number("tail")?) },
        "BAD_EPOCH_START" => Refusal::BadEpochStart,
        "PRODUCER_GAP" => Refusal::ProducerGap { expected: fields.number("expected")? },
        "LIMIT" => Refusal::Limit { which: fields.text("which")?, limit: fields.number("limit")? },
        "QUOTA" => Refusal::Quota { which: fields.text("which")?, limit: fields.number("limit")? },
        "TRIMMED" => Refusal::Trimmed {
            first_seq: Seq(fields.number("first_seq")?),
            first_index: fields.maybe_number("first_index")?.map(Index),
        },
        "BEYOND_TAIL" => Refusal::BeyondTail { tail: fields.number("tail")? },
        "HISTORY_CHANGED" => Refusal::HistoryChanged {
            common_seq: fields.maybe_number("common_seq")?.map(Seq),
            trim: Seq(fields.number("trim")?),
            tail: Seq(fields.number("tail")?),
        },
        "BAD_CURSOR" => Refusal::BadCursor,
        "FENCED" => Refusal::Fenced { current: fields.number("current")? },
        "LEASE_REQUIRED" => Refusal::LeaseRequired { current: fields.number("current")? },
        "LEASE_HELD" => {
            Refusal::LeaseHeld { epoch: fields.number("epoch")?, worker: fields.shared("worker")? }
        }
        "NOT_QUEUED" => {
            Refusal::NotQueued { status: RunStatus::from_str_name(fields.get("status")?)? }
        }
        "BAD_ACK" => Refusal::BadAck {
            stream: fields.shared("stream")?,
            index: Index(fields.number("index")?),
        },
        "INPUTS_OWED" => Refusal::InputsOwed { floor: Index(fields.number("floor")?) },
        "INPUT_BACKLOG" => Refusal::InputBacklog {
            inputs: fields.number("inputs")?,
            bytes: fields.number("bytes")?,
        },
        "METADATA_TOO_LARGE" => Refusal::MetadataTooLarge {
            size: fields.number("size")?,
            limit: fields.number("limit")?,
        },
        "WAIT_NOT_FOUND" => Refusal::WaitNotFound,
        _ => return None,
    })
}

/// What a status without a reason of ours means: made by a transport, a proxy, or another service.
fn from_transport(status: &Status, call: Call) -> Error {
    use Code::*;
    let text = || Arc::from(format!("{}: {}", status.code(), status.message()));
    if never_sent(status) {
        return Error::Unavailable { message: text() };
    }
    let broken = error::Error::source(status).is_some()
        || matches!(status.code(), Unavailable | DeadlineExceeded | Cancelled | Unknown | Internal);
    match call {
        Call::Command if broken => Error::OutcomeUnknown { cause: text() },
        Call::Read if broken => Error::Unavailable { message: text() },
        _ => Error::Unexpected { message: text() },
    }
}

/// Whether there was no connection that the call could have been sent on.
fn never_sent(status: &Status) -> bool {
    let mut source = error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Metadata of an `ErrorInfo`. Each reader gives none if the value is missing or not of its kind.
struct Fields<'a>(&'a HashMap<String, String>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn text<T: From<String>>(&self, name: &str) -> Option<T> {
        self.get(name).map(|text| text.to_owned().into())
    }

    fn shared(&self, name: &str) -> Option<Arc<str>> {
        self.get(name).map(Arc::from)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Reads a value that may be missing.
    fn if_there<T>(&self, name: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
        self.get(name).map_or(Some(None), |text| read(text).map(Some))
    }

    fn maybe_number(&self, name: &str) -> Option<Option<u64>> {
        self.if_there(name, |text| text.parse().ok())
    }

    fn run_uid(&self, name: &str) -> Option<RunUid> {
        let text = self.get(name).filter(|text| text.len() == 32)?;
        u128::from_str_radix(text, 16).ok().map(|bits| RunUid(bits.to_be_bytes()))
    }

    fn corruption(&self) -> Option<Corruption> {
        let damage = damage(self.get("damage")?);
        Some(Corruption { file: self.shared("file")?, position: self.number("position")?, damage })
    }

    fn io(&self) -> Option<Error> {
        let source = Arc::new(io::Error::other(self.get("cause")?.to_owned()));
        Some(Error::Io { operation: self.shared("operation")?, source })
    }
}

/// The damage that prints as `text`. What prints with numbers is not made again of its text: it
/// becomes "stored data does not decode", and file and position say the rest.
fn damage(text: &str) -> Damage {
    const NAMED: [Damage; 10] = [
        Damage::Magic,
        Damage::HeaderCrc,
        Damage::ForeignStore,
        Damage::ContentCrc,
        Damage::Padding,
        Damage::Trailer,
        Damage::Short,
        Damage::Chain,
        Damage::Missing,
        Damage::Message { what: "record" },
    ];
    let named = NAMED.into_iter().find(|damage| damage.to_string() == text);
    named.unwrap_or(Damage::Message { what: "stored data" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals() -> Vec<Refusal> {
        let closed =
            |outcome, final_index| Refusal::Closed { outcome, final_seq: Seq(9), final_index };
        let changed =
            |common_seq| Refusal::HistoryChanged { common_seq, trim: Seq(1), tail: Seq(7) };
        vec![
            Refusal::Invalid { field: "run_id".into(), problem: "is empty".into() },
            Refusal::TooLarge { what: "record (bytes)".into(), size: 9, limit: 8 },
            Refusal::RunNotFound,
            Refusal::RunDeleted,
            Refusal::StreamNotFound,
            Refusal::RunReplaced { run_uid: RunUid([0xa7; 16]) },
            Refusal::RunReplaced { run_uid: RunUid([0; 16]) },
            Refusal::RunExists,
            Refusal::StaleEpoch { current: u64::MAX },
            Refusal::DedupMismatch,
            closed(None, Some(Index(4))),
            closed(Some(Outcome::TimedOut), None),
            Refusal::SeqMismatch { tail: Seq(0) },
            Refusal::IndexMismatch { tail: Index(1 << 60) },
            Refusal::BadEpochStart,
            Refusal::ProducerGap { expected: 3 },
            Refusal::Limit { which: "streams per run".into(), limit: 256 },
            Refusal::Quota { which: "bytes of a run".into(), limit: 1 << 30 },
            Refusal::Trimmed { first_seq: Seq(5), first_index: None },
            Refusal::Trimmed { first_seq: Seq(5), first_index: Some(Index(2)) },
            Refusal::BeyondTail { tail: 12 },
            changed(None),
            changed(Some(Seq(3))),
            Refusal::BadCursor,
            Refusal::Fenced { current: 7 },
            Refusal::LeaseRequired { current: 7 },
            Refusal::LeaseHeld { epoch: 7, worker: "w".into() },
            Refusal::NotQueued { status: RunStatus::Waiting },
            Refusal::BadAck { stream: "in".into(), index: Index(3) },
            Refusal::InputsOwed { floor: Index(3) },
            Refusal::InputBacklog { inputs: 10_000, bytes: 1 << 20 },
            Refusal::MetadataTooLarge { size: 9, limit: 8 },
            Refusal::WaitNotFound,
        ]
    }

    fn errors() -> Vec<Error> {
        let corrupt = |damage| {
            Error::Corrupt(Corruption { file: "journal/slot-03".into(), position: 4096, damage })
        };
        let io = Arc::new(io::Error::other("no such device"));
        let mut errors = vec![
            Error::OutcomeUnknown { cause: "sync: input/output error".into() },
            Error::DiskFull,
            Error::Busy { retry_after_ms: 250 },
            Error::ShuttingDown,
            Error::Stopped { cause: "sync: input/output error".into() },
            corrupt(Damage::ContentCrc),
            corrupt(Damage::Message { what: "record" }),
            Error::Io { operation: "read journal/slot-03".into(), source: io },
        ];
        errors.extend(refusals().into_iter().map(Error::Refused));
        errors
    }

    fn wire(error: &Error) -> Status {
        let response: tonic::codegen::http::Response<()> = to_status(error).into_http();
        Status::from_header_map(response.headers()).expect("a status")
    }

    #[test]
    fn every_error_comes_back_as_it_was() {
        for error in errors() {
            for call in [Call::Read, Call::Command] {
                let back = from_status(&wire(&error), call);
                assert_eq!(format!("{back:?}"), format!("{error:?}"));
            }
        }
    }

    #[test]
    fn every_error_has_a_reason_of_its_own_and_none_is_internal() {
        let mut reasons = HashMap::new();
        for error in errors() {
            let status = wire(&error);
            assert_ne!(status.code(), Code::Internal);
            let info = status.get_details_error_info().expect("info");
            assert_eq!(info.domain, DOMAIN);
            let kind = format!("{error:?}");
            let kind = kind.split([' ', '{']).nth(usize::from(kind.starts_with("Refused")));
            let kind = kind.unwrap_or_default().to_owned();
            assert_eq!(reasons.entry(info.reason).or_insert(kind.clone()), &kind);
        }
    }

    #[test]
    fn what_only_a_client_says_keeps_its_meaning() {
        let message: Arc<str> = "gone".into();
        let unavailable = Error::Unavailable { message: message.clone() };
        let back = from_status(&wire(&unavailable), Call::Command);
        assert!(matches!(back, Error::Unavailable { .. }), "{back:?}");
        let back = from_status(&wire(&Error::Unexpected { message }), Call::Command);
        assert!(matches!(back, Error::Unexpected { .. }), "{back:?}");
    }

    #[test]
    fn waiting_is_advised_where_it_helps() {
        let delay = |error| wire(&error).get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(delay(Error::ShuttingDown), Some(RESTART_DELAY));
        assert_eq!(delay(Error::DiskFull), Some(DISK_FULL_DELAY));
        let busy = Error::Busy { retry_after_ms: 250 };
        assert_eq!(delay(busy), Some(Duration::from_millis(250)));
        assert_eq!(delay(Error::Refused(Refusal::RunNotFound)), None);
    }

    #[test]
    fn more_values_stand_beside_the_errors_own() {
        let refusal = Refusal::SeqMismatch { tail: Seq(7) };
        let status = to_status_with(&refusal.clone().into(), [("ordinal", "3".into())]);
        let info = status.get_details_error_info().expect("info");
        assert_eq!((info.metadata["ordinal"].as_str(), info.metadata["tail"].as_str()), ("3", "7"));
        let back = from_status(&status, Call::Command);
        assert!(matches!(back, Error::Refused(found) if found == refusal));
    }

    #[test]
    fn an_unknown_reason_is_told_by_its_code() {
        let status = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
            Status::with_error_details(code, "text", details)
        };
        let later = from_status(&status(Code::Unavailable, "NOT_OWNER"), Call::Command);
        assert!(matches!(later, Error::Unavailable { .. }), "{later:?}");
        let unknown = from_status(&status(Code::FailedPrecondition, "TOKEN_USED"), Call::Command);
        assert!(matches!(unknown, Error::Unexpected { .. }), "{unknown:?}");
        // A reason that is known, but without its values.
        let damaged = from_status(&status(Code::Aborted, "SEQ_MISMATCH"), Call::Command);
        assert!(matches!(damaged, Error::Unexpected { .. }), "{damaged:?}");
    }

    #[test]
    fn a_broken_transport_leaves_only_commands_open() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown] {
            let status = Status::new(code, "broken");
            let command = from_status(&status, Call::Command);
            assert!(matches!(command, Error::OutcomeUnknown { .. }), "{command:?}");
            let read = from_status(&status, Call::Read);
            assert!(matches!(read, Error::Unavailable { .. }), "{read:?}");
        }
        let refused = from_status(&Status::unimplemented("no such call"), Call::Command);
        assert!(matches!(refused, Error::Unexpected { .. }), "{refused:?}");
        let mut unsent = Status::unavailable("refused");
        unsent.set_source(Arc::new(ConnectError("refused".into())));
        let unsent = from_status(&unsent, Call::Command);
        assert!(matches!(unsent, Error::Unavailable { .. }), "{unsent:?}");
    }
}
