//! How the tool ends: exit statuses, and what it says if it cannot do what it was asked.
//!
//! | status | means |
//! |---|---|
//! | 0 | ok; also when whoever read the output had enough |
//! | 1 | failure: the operating system refused something, or a running store is too busy to be seen at one moment |
//! | 2 | wrong usage, or input that cannot be used |
//! | 3 | no such directory, store, run, stream or file |
//! | 4 | two directories differ |
//! | 10 | corruption found |
//! | 11 | only a torn tail: what was being written, and never acknowledged, when the power went |
//! | 12 | only the index is stale or unreadable: it is made again from the log |
//! | 130 | interrupted |

use std::{
    io::{self, Write},
    process::ExitCode,
};

use braidlog::{
    error::Error,
    offline::{BuildError, LookError},
    present::Line,
};
use serde::Serialize;

/// An exit status. What is worse is greater than what is not, apart from failures of the tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Ok = 0,
    /// 1
    Failure = 1,
    /// 2
    Usage = 2,
    /// 3
    NotFound = 3,
    /// 4
    Differs = 4,
    /// 10
    Corrupt = 10,
    /// 11
    Torn = 11,
    /// 12
    Stale = 12,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the tool stopped before its end.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit status.
    pub(crate) exit: Exit,
    /// Name of the reason, for programs.
    pub(crate) reason: &'static str,
    /// What happened and what to do next, for people.
    pub(crate) message: String,
}

#[derive(Serialize)]
struct FailureLine<'a> {
    error: ErrorPart<'a>,
    exit: u8,
}

#[derive(Serialize)]
struct ErrorPart<'a> {
    reason: &'a str,
    message: &'a str,
}

impl Failure {
    /// Arguments that do not go together, or input that cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, reason: "USAGE", message: message.into() }
    }

    /// There is nothing of what was asked for.
    pub(crate) fn nothing(reason: &'static str, message: impl Into<String>) -> Self {
        Self { exit: Exit::NotFound, reason, message: message.into() }
    }

    /// The operating system refused.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self { exit: Exit::Failure, reason: "IO", message: format!("{what}: {error}") }
    }

    /// Standard output failed. If nobody reads it any more, that is no failure.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Ok, reason: "OUTPUT_CLOSED", message: String::new() };
        }
        Self::io("standard output", error)
    }

    /// Tells standard error, in words or as a JSON object.
    pub(crate) fn tell(&self, as_json: bool) {
        if self.exit == Exit::Ok {
            return;
        }
        let line = if as_json {
            let error = ErrorPart { reason: self.reason, message: &self.message };
            let fields = FailureLine { error, exit: self.exit as u8 };
            serde_json::to_string(&Line::new(fields)).unwrap_or_default()
        } else {
            format!("braidlog-inspect: {}", self.message)
        };
        // There is nobody left to tell if this fails; the status tells it too.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Self {
        let (exit, reason) = match &error {
            LookError::NoDirectory { .. } => (Exit::NotFound, "NO_DIRECTORY"),
            LookError::NoStore { .. } => (Exit::NotFound, "NO_STORE"),
            LookError::NoRun { .. } => (Exit::NotFound, "RUN_NOT_FOUND"),
            LookError::NoFile { .. } => (Exit::NotFound, "NO_SUCH_PLACE"),
            LookError::NoStream { .. } => (Exit::NotFound, "STREAM_NOT_FOUND"),
            LookError::Trimmed { .. } => (Exit::NotFound, "TRIMMED"),
            LookError::InMotion => (Exit::Failure, "IN_MOTION"),
            LookError::Damaged(Error::Corrupt(_)) => (Exit::Corrupt, "CORRUPT"),
            LookError::Damaged(_) | LookError::Io(_) => (Exit::Failure, "IO"),
        };
        Self { exit, reason, message: error.to_string() }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let (exit, reason) = match &error {
            BuildError::InTheWay { .. } => (Exit::Usage, "IN_THE_WAY"),
            BuildError::Taken { .. } | BuildError::Unfit { .. } | BuildError::Empty { .. } => {
                (Exit::Usage, "UNFIT")
            }
            BuildError::Store(Error::Corrupt(_)) => (Exit::Corrupt, "CORRUPT"),
            BuildError::Store(_) | BuildError::Io(_) => (Exit::Failure, "IO"),
        };
        Self { exit, reason, message: error.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        LookError::from(error).into()
    }
}
