//! A data directory that is only looked at: whatever would change it fails, whoever asks.
//!
//! Promises: nothing below the directory changes, not even the time of the last access where the
//! system lets us leave it; a file is never mapped, so that a bad sector, or a file that somebody
//! cuts short meanwhile, is an error and not the end of the process.
//!
//! What it deliberately does not do: lock. Whoever reads beside a running server sees files that
//! change, and has to look again before believing that what changed is damaged.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    File, Mapped, Open, Platform, RelPath, Space, Vfs,
    os::{OsClock, OsEntropy, OsVfs},
};

/// Bytes that are read at once in place of a mapping, at most.
const MAP_BYTES_MAX: usize = 1 << 30;

/// The platform for looking at a data directory.
pub fn platform(data_dir: impl Into<PathBuf>) -> Platform {
    Platform {
        vfs: Arc::new(ReadOnlyVfs::new(Arc::new(OsVfs::untraced(data_dir)))),
        clock: Arc::new(OsClock::new()),
        entropy: Arc::new(OsEntropy),
    }
}

/// The names of another [`Vfs`], to be looked at.
pub struct ReadOnlyVfs {
    inner: Arc<dyn Vfs>,
}

struct ReadOnlyFile {
    inner: Arc<dyn File>,
}

impl ReadOnlyVfs {
    /// Lets `inner` be read and nothing else.
    pub fn new(inner: Arc<dyn Vfs>) -> Self {
        Self { inner }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "this directory is only looked at")
}

impl Vfs for ReadOnlyVfs {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        match how {
            Open::Read => Ok(Arc::new(ReadOnlyFile { inner: self.inner.open(path, how)? })),
            Open::Write | Open::CreateNew => Err(refused()),
        }
    }

    fn create_dir(&self, _: &RelPath) -> io::Result<()> {
        Err(refused())
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }

    fn rename(&self, _: &RelPath, _: &RelPath) -> io::Result<()> {
        Err(refused())
    }

    fn unlink(&self, _: &RelPath) -> io::Result<()> {
        Err(refused())
    }

    fn sync_dir(&self, _: &RelPath) -> io::Result<()> {
        Err(refused())
    }

    fn lock(&self, _: &RelPath) -> io::Result<Box<dyn Send + Sync>> {
        Err(refused())
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn location(&self) -> PathBuf {
        self.inner.location()
    }
}

impl File for ReadOnlyFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, position)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn write_zeros_at(&self, _: u64, _: u64) -> io::Result<()> {
        Err(refused())
    }

    /// Nothing: a sync writes what a running server has not written yet, and makes it wait.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn will_need(&self, position: u64, len: u64) {
        self.inner.will_need(position, len);
    }

    /// Nothing: the pages are what a running server reads from.
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Mapped> {
        if MAP_BYTES_MAX < len {
            return Err(io::Error::other(format!("{len} bytes are more than are read at once")));
        }
        let end = position.checked_add(len as u64);
        if end.is_none_or(|end| self.len().is_ok_and(|len| len < end)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.inner.read_exact_at(&mut bytes, position)?;
        Ok(Box::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_would_change_the_directory_fails() {
        let dir = tempfile::tempdir().expect("folder");
        let (name, other) = (RelPath::new("a"), RelPath::new("b"));
        let writable = OsVfs::new(dir.path());
        writable.open(&name, Open::CreateNew).and_then(|a| a.write_all_at(b"abc", 0)).expect("a");
        let vfs = platform(dir.path()).vfs;
        let refused = |result: io::Result<()>| {
            assert_eq!(result.expect_err("refused").kind(), io::ErrorKind::ReadOnlyFilesystem);
        };
        refused(vfs.open(&name, Open::Write).map(drop));
        refused(vfs.open(&other, Open::CreateNew).map(drop));
        refused(vfs.create_dir(&other));
        refused(vfs.rename(&name, &other));
        refused(vfs.unlink(&name));
        refused(vfs.sync_dir(&RelPath::new("")));
        refused(vfs.lock(&name).map(drop));
        let file = vfs.open(&name, Open::Read).expect("opens");
        refused(file.write_all_at(b"x", 0));
        refused(file.write_zeros_at(0, 1));
        file.sync_all().and_then(|()| file.sync_data()).expect("nothing to do");
        assert_eq!((*file.map(0, 3).expect("bytes")).as_ref(), b"abc");
        assert!(file.map(0, 4).is_err());
        assert_eq!(vfs.list(&RelPath::new("")).expect("names"), ["a"]);
    }
}
