//! The seam to the operating system: files, directory sync, clock, entropy, threads.
//!
//! Everything above works against these traits, held as `Arc<dyn …>`, so that the same code runs
//! on a disk ([`os`]) and on a simulated one ([`sim`]). Nothing outside this module names
//! `std::fs`, a clock, a random source or `thread::spawn`.
//!
//! # Contract
//! * Bytes not covered by a successful [`File::sync_data`] or [`File::sync_all`] may be there
//!   after a crash, in part, or not, in any order of 512-byte sectors.
//! * A name made, moved or removed may be as before after a crash until [`Vfs::sync_dir`] of its
//!   directory succeeded.
//! * After a sync has failed, nothing is known about the bytes it was to cover: reads may show
//!   them although the disk does not have them. The caller never syncs again; it stops.
//!
//! What it deliberately does not do: decide, retry, or know what a file holds.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

pub mod os;
pub mod process;
pub mod read_only;
#[cfg(feature = "sim")]
pub mod sim;
pub(crate) mod sync;

/// Whether a call failed because there was no space on the disk, so that it may succeed later.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A path inside the data directory: components joined by `/`, without `.`, `..` or a leading `/`.
///
/// Built by [`crate::format::file_name`] from integers and fixed names only; user text never
/// becomes a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(String);

impl RelPath {
    /// The data directory itself.
    pub const ROOT: &'static str = "";

    /// Wraps a relative path.
    ///
    /// # Panics
    /// If a component is empty, `.` or `..`; such a path is our own mistake.
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        let sound = |component: &str| !matches!(component, "" | "." | "..");
        assert!(path.is_empty() || path.split('/').all(sound), "not a relative path: {path:?}");
        Self(path)
    }

    /// The path as text, `/`-separated.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds this name: what has to be synced for the name to last.
    pub fn parent(&self) -> RelPath {
        RelPath(self.0.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned())
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading only; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; the file must not exist and is created empty.
    CreateNew,
}

/// The names below one data directory.
pub trait Vfs: Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>>;
    /// Creates a directory; its parent must exist. Succeeds if it exists already.
    fn create_dir(&self, path: &RelPath) -> io::Result<()>;
    /// Names of the entries of a directory, in no particular order.
    fn list(&self, path: &RelPath) -> io::Result<Vec<String>>;
    /// Moves a file over whatever has the new name.
    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;
    /// Removes a file's name.
    fn unlink(&self, path: &RelPath) -> io::Result<()>;
    /// Makes the names in a directory last.
    fn sync_dir(&self, path: &RelPath) -> io::Result<()>;
    /// Takes the exclusive lock on a file that must exist, for as long as the guard lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if somebody holds it.
    fn lock(&self, path: &RelPath) -> io::Result<Box<dyn Send + Sync>>;
    /// Space on the file system.
    fn space(&self) -> io::Result<Space>;
    /// Where the directory is, for messages only.
    fn location(&self) -> PathBuf;
}

/// Space on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for this process.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// An open file. Positions and lengths are bytes.
// An `is_empty` would be one more system call that nobody needs.
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync {
    /// Fills `buf` from `position`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `position`, growing the file if needed.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// As [`write_all_at`](Self::write_all_at), for whole pages of 4 KiB at a multiple of that, which
    /// are synced at once and hardly read again: where the system can, they need not stay in its
    /// memory. They last no sooner than others.
    fn write_pages_at(&self, pages: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(pages, position)
    }
    /// Writes `len` zero bytes at `position`: real blocks, so that a later overwrite with a sync
    /// has no metadata to write.
    fn write_zeros_at(&self, position: u64, len: u64) -> io::Result<()>;
    /// Makes the content, and the length if needed to read it, last.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and all metadata last.
    fn sync_all(&self) -> io::Result<()>;
    /// Forgets cached clean pages, so that reads show what the disk has. A hint.
    fn drop_cache(&self) -> io::Result<()>;
    /// Says that `len` bytes from a position on will soon be read, so that the disk can begin. No more
    /// than a hint: whoever knows nothing better does nothing.
    fn will_need(&self, _position: u64, _len: u64) {}
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// `len` bytes from `position`, a multiple of 4 KiB, without reading them yet where the system
    /// can do that. Only for files that are never written or truncated again: a mapped page that
    /// is taken away ends the process.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn map(&self, position: u64, len: usize) -> io::Result<Mapped>;
}

/// Bytes of a file that were mapped.
pub type Mapped = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch. May jump either way.
    fn wall_ms(&self) -> u64;
    /// Time since some fixed moment. Never goes back.
    fn mono(&self) -> Duration;
}

/// Randomness.
pub trait Entropy: Send + Sync {
    /// Fills `buf` with random bytes.
    fn fill(&self, buf: &mut [u8]);
}

/// Everything the engine gets from outside.
#[derive(Clone)]
pub struct Platform {
    /// The data directory.
    pub vfs: Arc<dyn Vfs>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Platform").field("location", &self.vfs.location()).finish()
    }
}

impl Platform {
    /// A random 16-byte identity.
    pub fn random_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        id
    }

    /// A random number.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}
