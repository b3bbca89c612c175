//! What can go wrong with a store, and what the caller should do about it.
//!
//! [`Error`] is the answer of a call on an open store; the remote client gives the same one, so
//! that a program can change between the two. [`OpenError`] is why a store does not open.

use std::{io, sync::Arc};

use crate::{core::Refusal, format::Damage};

/// Why a call did not do what it was asked.
///
/// Only [`Error::OutcomeUnknown`] leaves open whether a command was applied; after every other
/// one it was not.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The command or position cannot be served; see the refusal for what to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The command may have been applied or not. Repeat it with the same producer numbers.
    #[error("outcome unknown: {cause}; repeat with the same producer numbers")]
    OutcomeUnknown {
        /// What happened.
        cause: Arc<str>,
    },
    /// The disk is full. Free something and repeat.
    #[error("the disk is full: free space and repeat")]
    DiskFull,
    /// More is being appended than can be copied out of the journal. Nothing was applied; repeat.
    #[error("busy: repeat in {retry_after_ms} ms")]
    Busy {
        /// When to repeat.
        retry_after_ms: u64,
    },
    /// The store is closing. Repeat elsewhere, or when it is back.
    #[error("the store is shutting down: repeat when it is back")]
    ShuttingDown,
    /// The store stopped after a failed write. It must be opened again.
    #[error("the store has stopped: {cause}")]
    Stopped {
        /// The first failure.
        cause: Arc<str>,
    },
    /// Stored bytes are damaged. The rest of the store is readable.
    #[error("data loss: {0}")]
    Corrupt(Corruption),
    /// The operating system failed a read.
    #[error("{operation}: {source}")]
    Io {
        /// What was attempted, with the path.
        operation: Arc<str>,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// A remote store cannot be reached. Repeat.
    #[error("unavailable: {message}")]
    Unavailable {
        /// What the transport says.
        message: Arc<str>,
    },
    /// A remote store answered with something this client does not understand.
    #[error("unexpected answer: {message}")]
    Unexpected {
        /// What it was.
        message: Arc<str>,
    },
}

/// Damaged bytes, and where they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, offset {position}: {damage}")]
pub struct Corruption {
    /// The file, relative to the data directory.
    pub file: Arc<str>,
    /// Where the damaged structure begins, in bytes.
    pub position: u64,
    /// What is wrong.
    pub damage: Damage,
}

/// Why a store does not open. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the store open.
    #[error("{location} is in use by another process{holder}")]
    Locked {
        /// The data directory.
        location: String,
        /// What the lock file says of the holder.
        holder: String,
    },
    /// The directory holds files, but no store.
    #[error("{location} holds {name:?}, which is not part of a store: choose an empty directory")]
    NotAStore {
        /// The data directory.
        location: String,
        /// A file that does not belong.
        name: String,
    },
    /// Bytes that had been durable are damaged or missing. Do not restart: restore a backup, or
    /// recover what is sound into a new directory.
    #[error("corrupt: {corruption}; {sound_blocks_after} sound blocks follow in that file")]
    Corrupt {
        /// What and where.
        corruption: Corruption,
        /// Sound blocks found behind the damage, in the same file.
        sound_blocks_after: u64,
    },
    /// The options contradict each other.
    #[error("option {option} {problem}")]
    Options {
        /// Name of the option.
        option: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The operating system refused. Restarting may help.
    #[error("{operation}: {source}")]
    Io {
        /// What was attempted.
        operation: String,
        /// The cause.
        source: io::Error,
    },
}

impl From<Corruption> for OpenError {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt { corruption, sound_blocks_after: 0 }
    }
}

impl From<io::Error> for OpenError {
    fn from(source: io::Error) -> Self {
        Self::Io { operation: "opening the store".into(), source }
    }
}
