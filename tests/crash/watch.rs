//! A platform on a simulated disk on which somebody is called before and after every call that
//! changes or syncs something: to look around before it, and to collect the crash point after it.

use std::{io, path::PathBuf, sync::Arc};

use braidlog::platform::{
    File, Mapped, Open, Platform, RelPath, Space, Vfs,
    sim::{Call, SimClock, SimDisk, SimEntropy, SimVfs},
};

/// Is told of every call that changes or syncs something.
pub trait Watcher: Send + Sync {
    /// The call is about to be made.
    fn before(&self);
    /// A part of a file was filled with zeros.
    fn zeroed(&self, path: &str);
    /// It was made, and succeeded or not.
    fn after(&self, call: Call, path: &str, succeeded: bool);
}

/// A platform on `disk`, watched.
pub fn platform(
    disk: &SimDisk,
    clock: &SimClock,
    seed: u64,
    watcher: Arc<dyn Watcher>,
) -> Platform {
    Platform {
        vfs: Arc::new(WatchedVfs { inner: disk.vfs(), watcher }),
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SimEntropy::new(seed)),
    }
}

struct WatchedVfs {
    inner: SimVfs,
    watcher: Arc<dyn Watcher>,
}

fn watched<T>(
    watcher: &dyn Watcher,
    call: Call,
    path: &str,
    make: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    watcher.before();
    let made = make();
    watcher.after(call, path, made.is_ok());
    made
}

impl WatchedVfs {
    fn watched<T>(
        &self,
        call: Call,
        path: &RelPath,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        watched(&*self.watcher, call, path.as_str(), make)
    }
}

impl Vfs for WatchedVfs {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        let inner = match how {
            Open::CreateNew => self.watched(Call::Create, path, || self.inner.open(path, how))?,
            Open::Read | Open::Write => self.inner.open(path, how)?,
        };
        let (path, watcher) = (path.as_str().to_owned(), self.watcher.clone());
        Ok(Arc::new(WatchedFile { inner, path, watcher }))
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.watched(Call::CreateDir, path, || self.inner.create_dir(path))
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.watched(Call::Rename, to, || self.inner.rename(from, to))
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        self.watched(Call::Unlink, path, || self.inner.unlink(path))
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.watched(Call::SyncDir, path, || self.inner.sync_dir(path))
    }

    fn lock(&self, path: &RelPath) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn location(&self) -> PathBuf {
        self.inner.location()
    }
}

struct WatchedFile {
    inner: Arc<dyn File>,
    path: String,
    watcher: Arc<dyn Watcher>,
}

impl WatchedFile {
    fn watched(&self, call: Call, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        watched(&*self.watcher, call, &self.path, make)
    }
}

impl File for WatchedFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.watched(Call::Write, || self.inner.write_all_at(bytes, position))
    }

    fn write_pages_at(&self, pages: &[u8], position: u64) -> io::Result<()> {
        self.watched(Call::Write, || self.inner.write_pages_at(pages, position))
    }

    fn write_zeros_at(&self, position: u64, len: u64) -> io::Result<()> {
        self.watched(Call::Write, || self.inner.write_zeros_at(position, len))?;
        self.watcher.zeroed(&self.path);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watched(Call::Sync, || self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.watched(Call::Sync, || self.inner.sync_all())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.inner.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Mapped> {
        self.inner.map(position, len)
    }
}
