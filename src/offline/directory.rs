//! A directory that is looked at.

use std::{
    io,
    path::{Path, PathBuf},
    thread::sleep,
};

use super::{
    still,
    survey::{Survey, find_store},
    walk::{BETWEEN_LOOKS, LOOKS_MAX},
};
use crate::{
    error::{Corruption, Error, OpenError},
    format::file_name,
    platform::{Open, Platform, os, read_only},
    record::Seq,
    recovery::{self, Plan, Summary},
};

/// A data directory, to be looked at and not touched.
#[derive(Debug, Clone)]
pub struct Directory {
    platform: Platform,
    path: PathBuf,
}

/// Who has a store open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// The process with this number; 0 if it cannot be seen from here.
    Process(u32),
    /// The system does not say.
    Unknown,
}

/// Why nothing can be said of a directory.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookError {
    /// There is no such directory.
    #[error("there is no directory {location}: name the data directory with --data-dir")]
    NoDirectory {
        /// Its path.
        location: String,
    },
    /// The directory holds nothing of a store.
    #[error("{location} holds no store: name the data directory with --data-dir")]
    NoStore {
        /// Its path.
        location: String,
    },
    /// There is no such run.
    #[error("run not found: {name:?}; see all with `braidlog-inspect runs`")]
    NoRun {
        /// Its name.
        name: String,
    },
    /// There is no such stream.
    #[error("stream not found: {name:?}; see `braidlog-inspect streams`")]
    NoStream {
        /// Its name.
        name: String,
    },
    /// What is asked for was trimmed, and its frames given back; ask for this seq or a later one.
    #[error("what was written before seq {first_seq} is trimmed and gone: ask for a later moment")]
    Trimmed {
        /// Seq behind it.
        first_seq: Seq,
    },
    /// There is no such file of a store, or it ends before the place that is asked for.
    #[error("no such place: {name:?}; `verify` and `records --where` name places as FILE@OFFSET")]
    NoFile {
        /// The file.
        name: String,
    },
    /// The journal of a running store changes faster than it is read.
    #[error(
        "the store is written to faster than its journal is read: ask again when it has less to do"
    )]
    InMotion,
    /// What is asked for is damaged.
    #[error(transparent)]
    Damaged(#[from] Error),
    /// The operating system refused.
    #[error("{0}")]
    Io(std::sync::Arc<io::Error>),
}

impl LookError {
    /// As an error of reading a store's records.
    pub(super) fn into_read(self) -> Error {
        match self {
            Self::Damaged(error) => error,
            Self::Io(source) => Error::Io { operation: "read a data directory".into(), source },
            other => {
                let source = io::Error::other(other.to_string());
                let operation = "read a data directory".into();
                Error::Io { operation, source: std::sync::Arc::new(source) }
            }
        }
    }
}

impl From<io::Error> for LookError {
    fn from(error: io::Error) -> Self {
        Self::Io(std::sync::Arc::new(error))
    }
}

impl Directory {
    /// A directory that is there.
    ///
    /// # Errors
    /// [`LookError::NoDirectory`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LookError> {
        let path = path.into();
        if !path.is_dir() {
            return Err(LookError::NoDirectory { location: path.display().to_string() });
        }
        Ok(Self { platform: read_only::platform(&path), path })
    }

    /// A directory of a platform; whoever holds its store is not known.
    pub fn on(platform: Platform) -> Self {
        let path = platform.vfs.location();
        Self { platform, path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its files are read through: nothing can be written there.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Who has the store open, by the kernel's table of locks.
    pub fn holder(&self) -> Holder {
        let lock = self.path.join(file_name::lock().as_str());
        match os::lock_holder(&lock) {
            Ok(None) => Holder::Nobody,
            Ok(Some(pid)) => Holder::Process(pid),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !lock.exists() => {
                Holder::Nobody
            }
            Err(_) => Holder::Unknown,
        }
    }

    /// What the lock file says of who had the store open last.
    pub fn last_holder(&self) -> Option<String> {
        let file = self.platform.vfs.open(&file_name::lock(), Open::Read).ok()?;
        let mut text = vec![0; usize::try_from(file.len().ok()?).ok()?.min(64)];
        file.read_exact_at(&mut text, 0).ok()?;
        Some(String::from_utf8(text).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// What is in the directory. If somebody has the store open, or may have, what looks damaged is
    /// looked at again: it may have been in the middle of a write.
    ///
    /// # Errors
    /// [`LookError::NoStore`], [`LookError::Io`].
    pub fn survey(&self) -> Result<Survey, LookError> {
        Survey::take_sound(&self.platform, self.holder() != Holder::Nobody)
    }

    /// What a start of the store would find, or why it would refuse. Reads only. If somebody has the
    /// store open, or may have, it is what a start would find if the store ended at this moment; what
    /// is wrong is believed when it is met twice in a row, since what was being written, or was
    /// written over, while it was read is another thing the next time.
    ///
    /// # Errors
    /// [`LookError::NoStore`]; [`LookError::InMotion`]; [`LookError::Io`].
    pub fn plan(&self) -> Result<Result<Plan, OpenError>, LookError> {
        find_store(&self.platform)?;
        if self.holder() == Holder::Nobody {
            return Ok(recovery::plan(&self.platform));
        }
        let mut before = None;
        for _ in 0..PLANS_MAX {
            let plan = still::at_this_moment(&self.platform)
                .map_err(OpenError::from)
                .and_then(|platform| recovery::plan(&platform));
            let doubt = Doubt::of(&plan);
            if doubt.is_none() || doubt == before {
                return Ok(plan);
            }
            before = doubt;
            sleep(BETWEEN_LOOKS);
        }
        Err(LookError::InMotion)
    }
}

/// What a running store may only seem to have.
#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    /// Damage, so that a start would refuse.
    Damage(Corruption),
    /// A block that is not whole, behind so many that are.
    Torn(u64),
    /// So many packs that cannot be opened.
    Lost(u64),
    /// A file that cannot be read.
    Unreadable(io::ErrorKind),
}

impl Doubt {
    fn of(plan: &Result<Plan, OpenError>) -> Option<Self> {
        match plan.as_ref().map(Plan::summary) {
            Err(OpenError::Corrupt { corruption, .. }) => Some(Self::Damage(corruption.clone())),
            Err(OpenError::Io { source, .. }) => Some(Self::Unreadable(source.kind())),
            Err(_) => None,
            Ok(Summary { packs_lost: lost @ 1.., .. }) => Some(Self::Lost(lost)),
            Ok(Summary { torn: true, blocks, .. }) => Some(Self::Torn(blocks)),
            Ok(_) => None,
        }
    }
}

/// How often a running store's journal is read before it is given up to see it at one moment.
const PLANS_MAX: u32 = 2 * LOOKS_MAX;
