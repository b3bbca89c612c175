//! A simulated disk at which the scheduler decides: before everything that changes or syncs
//! something, another thread may go on.

use std::{io, path::PathBuf, sync::Arc};

use braidlog::platform::{
    File, Mapped, Open, Platform, RelPath, Space, Vfs,
    sim::{SimClock, SimDisk, platform},
};
use shuttle::sync::atomic::{AtomicU64, Ordering};

/// A platform on the disk.
pub(crate) fn scheduled(disk: &SimDisk, clock: &SimClock, seed: u64) -> Platform {
    let platform = platform(disk, clock, seed);
    Platform { vfs: Arc::new(Names(platform.vfs, Arc::default())), ..platform }
}

/// What every operation touches, which is where the scheduler decides.
type Turn = Arc<AtomicU64>;

fn take_turn(turn: &Turn) {
    turn.fetch_add(1, Ordering::SeqCst);
}

struct Names(Arc<dyn Vfs>, Turn);

impl Vfs for Names {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        if how == Open::CreateNew {
            take_turn(&self.1);
        }
        Ok(Arc::new(Bytes(self.0.open(path, how)?, self.1.clone())))
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        self.0.list(path)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        take_turn(&self.1);
        self.0.rename(from, to)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        take_turn(&self.1);
        self.0.unlink(path)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        take_turn(&self.1);
        self.0.sync_dir(path)
    }

    fn lock(&self, path: &RelPath) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }

    fn location(&self) -> PathBuf {
        self.0.location()
    }
}

/// Reads are no turns: a cache that is not ours waits for them under locks of its own.
struct Bytes(Arc<dyn File>, Turn);

impl File for Bytes {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        take_turn(&self.1);
        self.0.write_all_at(bytes, position)
    }

    fn write_zeros_at(&self, position: u64, len: u64) -> io::Result<()> {
        take_turn(&self.1);
        self.0.write_zeros_at(position, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        take_turn(&self.1);
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        take_turn(&self.1);
        self.0.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Mapped> {
        self.0.map(position, len)
    }
}
