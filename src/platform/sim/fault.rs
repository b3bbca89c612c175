//! Calls that go wrong: the faults that wait for them, and the errors they end with.
//!
//! What it deliberately does not do: have the effect of a fault that spoils a call only in part;
//! that is left to the call.

use std::{error, fmt, io};

/// The system's number for an input/output error, the same on every Unix.
const EIO: i32 = 5;

/// A kind of call, for placing faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Vfs::open`](crate::platform::Vfs::open) of a file that must exist.
    Open,
    /// [`Vfs::open`](crate::platform::Vfs::open) with
    /// [`Open::CreateNew`](crate::platform::Open::CreateNew).
    Create,
    /// [`Vfs::create_dir`](crate::platform::Vfs::create_dir).
    CreateDir,
    /// [`Vfs::list`](crate::platform::Vfs::list).
    List,
    /// [`Vfs::rename`](crate::platform::Vfs::rename); a path filter may match either name.
    Rename,
    /// [`Vfs::unlink`](crate::platform::Vfs::unlink).
    Unlink,
    /// [`Vfs::sync_dir`](crate::platform::Vfs::sync_dir).
    SyncDir,
    /// [`Vfs::lock`](crate::platform::Vfs::lock).
    Lock,
    /// [`Vfs::space`](crate::platform::Vfs::space).
    FreeBytes,
    /// [`File::read_exact_at`](crate::platform::File::read_exact_at).
    Read,
    /// [`File::write_all_at`](crate::platform::File::write_all_at) and
    /// [`File::write_zeros_at`](crate::platform::File::write_zeros_at).
    Write,
    /// [`File::sync_data`](crate::platform::File::sync_data) and
    /// [`File::sync_all`](crate::platform::File::sync_all).
    Sync,
    /// [`File::drop_cache`](crate::platform::File::drop_cache).
    DropCache,
    /// [`File::len`](crate::platform::File::len).
    Len,
}

impl Call {
    /// Whether it changes or syncs something, and so counts as an operation in any case.
    pub(super) fn changes(self) -> bool {
        use Call::{Create, CreateDir, Rename, Sync, SyncDir, Unlink, Write};
        matches!(self, Create | CreateDir | Rename | Unlink | SyncDir | Write | Sync)
    }
}

/// What a fault does to a call. Where a kind has no meaning for a call, it is [`What::Eio`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Fails with the system's EIO, and has no effect. What a sync was to cover stays unsynced.
    Eio,
    /// Fails with [`io::ErrorKind::StorageFull`], and has no effect.
    Enospc,
    /// A write that stops halfway, at any byte: [`io::ErrorKind::WriteZero`].
    ShortWrite,
    /// A sync that fails and lies from then on, as Linux does: what it was to cover counts as
    /// clean, reads show it, the next sync succeeds, and the disk never gets it.
    SyncFailsPageClean,
    /// A sync of a file that lies from the beginning: it says that it is done, and the disk never
    /// gets what it was to cover.
    SyncLies,
}

/// A fault waiting for its call. Faults outlive power cuts and kills.
#[derive(Debug, Clone)]
pub struct Fault {
    call: Call,
    what: What,
    path: Option<String>,
    /// Matching calls until it strikes; 1 is the next one.
    left: u64,
    lasting: bool,
}

impl Fault {
    /// A fault at the next call of a kind.
    pub fn new(call: Call, what: What) -> Self {
        Self { call, what, path: None, left: 1, lasting: false }
    }

    /// Only for paths that start with this. A file has the path it was opened under.
    pub fn on(mut self, path_prefix: &str) -> Self {
        self.path = Some(path_prefix.to_owned());
        self
    }

    /// At the nth matching call from now; 1 is the next one.
    pub fn nth(mut self, nth: u64) -> Self {
        assert!(0 < nth, "the next call is the 1st");
        self.left = nth;
        self
    }

    /// Not only that call, but every matching one after it.
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    fn matches(&self, call: Call, paths: &[&str]) -> bool {
        let on = |prefix: &String| paths.iter().any(|path| path.starts_with(prefix.as_str()));
        self.call == call && self.path.as_ref().is_none_or(on)
    }
}

/// Looks for a fault for this call; most kinds end it here, the others are left to the call.
pub(super) fn strike(
    faults: &mut Vec<Fault>,
    call: Call,
    paths: &[&str],
) -> io::Result<Option<What>> {
    let mut struck = None;
    for fault in faults.iter_mut().filter(|fault| fault.matches(call, paths)) {
        fault.left = fault.left.saturating_sub(1);
        if fault.left == 0 && struck.is_none() {
            struck = Some(fault.what);
        }
    }
    faults.retain(|fault| 0 < fault.left || fault.lasting);
    let path = paths.first().copied().unwrap_or_default();
    match (struck, call) {
        (None, _) => Ok(None),
        (Some(What::Enospc), _) => Err(full(call, path)),
        (Some(What::ShortWrite), Call::Write)
        | (Some(What::SyncFailsPageClean), Call::Sync | Call::SyncDir)
        | (Some(What::SyncLies), Call::Sync) => Ok(struck),
        (Some(_), _) => Err(eio(call, path)),
    }
}

/// What failed, as the payload of every [`io::Error`] from a simulated disk.
#[derive(Debug)]
struct SimError {
    call: Call,
    path: String,
    problem: &'static str,
}

impl fmt::Display for SimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, path, problem } = self;
        write!(f, "{call:?} {}: {problem}", if path.is_empty() { "." } else { path })
    }
}

impl error::Error for SimError {}

const DEAD: &str = "the machine was stopped";

/// Whether an error says that the simulated machine was stopped, by a crash point, a power cut or
/// a kill, and not that something went wrong on a running one.
pub fn is_crash(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<SimError>());
    inner.is_some_and(|inner| inner.problem == DEAD)
}

/// The error of every call to a machine that was stopped.
pub(super) fn dead(call: Call, path: &str) -> io::Error {
    fail(io::ErrorKind::Other, call, path, DEAD)
}

pub(super) fn fail(
    kind: io::ErrorKind,
    call: Call,
    path: &str,
    problem: &'static str,
) -> io::Error {
    io::Error::new(kind, SimError { call, path: path.to_owned(), problem })
}

pub(super) fn eio(call: Call, path: &str) -> io::Error {
    // The kind of EIO has no stable name.
    fail(io::Error::from_raw_os_error(EIO).kind(), call, path, "input/output error")
}

pub(super) fn full(call: Call, path: &str) -> io::Error {
    fail(io::ErrorKind::StorageFull, call, path, "no space left on device")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{
        Vfs,
        sim::scene::{disk_with, kind, open, path},
    };

    #[test]
    fn faults_strike_the_call_they_wait_for() {
        let disk = disk_with("a", 2, 1);
        disk.write_file("b", b"");
        let file = open(&disk, "a");
        disk.inject(Fault::new(Call::Write, What::ShortWrite).on("a").nth(2));
        open(&disk, "b").write_all_at(b"b", 0).unwrap();
        file.write_all_at(&[2; 8], 0).unwrap();
        assert_eq!(kind(file.write_all_at(&[3; 8], 0)), io::ErrorKind::WriteZero);
        assert_eq!(disk.read_file("a").unwrap()[..8], [3, 3, 3, 3, 2, 2, 2, 2]);
        disk.inject(Fault::new(Call::Rename, What::Enospc).on("c"));
        let error = kind(disk.vfs().rename(&path("b"), &path("c")));
        assert_eq!(error, io::ErrorKind::StorageFull);
        disk.inject(Fault::new(Call::Read, What::Eio).lasting());
        for _ in 0..3 {
            let error = file.read_exact_at(&mut [0], 0).unwrap_err();
            assert_eq!(error.kind(), io::Error::from_raw_os_error(EIO).kind());
        }
        disk.clear_faults();
        file.read_exact_at(&mut [0], 0).unwrap();
        disk.inject(Fault::new(Call::Sync, What::Eio));
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(disk.durable_file("a"), disk.read_file("a"));
    }
}
