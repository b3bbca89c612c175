//! The platform of a running server: a directory on a local file system, the system's clock and
//! its random source.
//!
//! Promises: every error names the operation and the path and keeps the kind the system gave, so
//! that a full disk is [`io::ErrorKind::StorageFull`]; a call interrupted by a signal goes on;
//! zeros written are blocks on the disk and never a hole.
//!
//! What it deliberately does not do: buffer, cache file handles, retry anything that failed, or
//! guess whether a file system keeps its promises.

// The one place where files, clocks, threads and random bytes come from. Everything else is
// refused these functions, so that it runs in simulation as well.
#![allow(clippy::disallowed_methods)]

use std::{
    error, fmt,
    fs::{self, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake},
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::{Dir, DirEntry, Mode, OFlags};

use super::{
    Clock, Entropy, File, Mapped, Open, Platform, RelPath, Space, Vfs,
    sync::{Mutex, thread},
};

/// Zeros for [`File::write_zeros_at`]: big enough to make system calls rare, and without cost in
/// the binary.
static ZEROS: Zeros = Zeros([0; 1 << 20]);

/// At a multiple of [`DIRECT_ALIGN`].
#[repr(align(4096))]
struct Zeros([u8; 1 << 20]);

const _: () = assert!(align_of::<Zeros>() == DIRECT_ALIGN);

/// What [`File::write_pages_at`] writes past the page cache, at most. More is not faster that way, and
/// it is soon more than is worth reading from the disk again.
const DIRECT_BYTES_MAX: usize = 64 << 10;
/// What memory, position and length have to be multiples of to pass the page cache, on any disk that is
/// in use (open(2), `O_DIRECT`).
const DIRECT_ALIGN: usize = 4 << 10;

/// How often a lock that somebody holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The platform for a data directory, which [`OsVfs::create_root`] can make.
pub fn platform(data_dir: impl Into<PathBuf>) -> Platform {
    Platform {
        vfs: Arc::new(OsVfs::new(data_dir)),
        clock: Arc::new(OsClock::new()),
        entropy: Arc::new(OsEntropy),
    }
}

/// Starts a named thread.
pub fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Starts a named thread for work that nobody waits for: on a busy machine it gets the smaller share
/// of the processors.
pub fn spawn_behind(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    spawn(name, || {
        // Where that is not allowed, it is as every other thread.
        let _ = rustix::process::nice(BEHIND);
        body();
    })
}

/// By how much a thread is less urgent than those that somebody waits for: a third of their share.
const BEHIND: i32 = 5;

/// Lets other processes go first: this thread, and those it starts from here on, run when a processor
/// has nothing else to do, and leave it at once to whoever wakes up. Where the system groups processes
/// by session or by service, that holds within the group.
pub fn give_way() {
    // A low priority alone is not enough: whoever wakes up waits for the end of a slice then, which is
    // milliseconds.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    // SAFETY: the call reads the parameter, which lives until it returns, and nothing else.
    let _ = unsafe {
        let parameter = libc::sched_param { sched_priority: 0 };
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter)
    };
    // Where that is not there or not allowed, it is as every other process.
    let _ = rustix::process::nice(GIVING_WAY);
}

/// By how much a process that gives way is less urgent than others: the most that there is.
const GIVING_WAY: i32 = 19;

/// Runs a future on this thread, which sleeps while the future waits. For threads of the store that
/// use what callers use; tasks of a runtime must not be blocked so.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

/// Removes a directory and everything below it; it need not be there.
///
/// Outside of [`Vfs`], because it is for files that are not the store's own: a database of derived
/// data does its own input and output in a directory of its own, which no simulated disk has.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(named("remove directory", path)),
    }
}

/// Gives a directory another name, durably. What has that name may be an empty directory and nothing
/// else.
///
/// Outside of [`Vfs`], because it is about a data directory as a whole, which a [`Vfs`] is below.
///
/// # Errors
/// Whatever the operating system says.
pub fn move_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(named("rename to", to)).map_err(named("rename", from))?;
    holder(to).map_or(Ok(()), sync_names)
}

/// Number of the process that holds the lock of a file; none if nobody does. Asked of the kernel's
/// table of locks, so that asking takes no lock. 0 is a process that cannot be seen from here, as
/// outside of a container.
///
/// # Errors
/// Whatever the operating system says, also where there is no such table.
pub fn lock_holder(path: &Path) -> io::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt;

    let wanted = fs::metadata(path).map_err(named("look at", path))?.ino().to_string();
    let table = Path::new("/proc/locks");
    let locks = fs::read_to_string(table).map_err(named("read", table))?;
    // `1: FLOCK  ADVISORY  WRITE 4121 08:01:1573 0 EOF`, see proc_locks(5). Devices are left out:
    // some file systems say another one here than where a file is looked at.
    Ok(locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else { return None };
        (place.rsplit(':').next() == Some(&wanted)).then(|| pid.parse().unwrap_or(0))
    }))
}

/// Waits until nobody holds the lock of a file, or patience ends. A file that is not there is not
/// locked.
///
/// Outside of [`Vfs`] for the same reason as [`remove_tree`].
pub fn wait_unlocked(path: &Path, patience: Duration) {
    let start = Instant::now();
    let try_lock = || fs::File::open(path).map(|file| file.try_lock());
    while matches!(try_lock(), Ok(Err(TryLockError::WouldBlock))) && start.elapsed() < patience {
        thread::sleep(LOCK_POLL);
    }
}

/// A file that is locked until this is dropped.
///
/// Closing it would not be enough: a child that this process has forked, and that has not yet become
/// another program, has the file open too, and with it the lock (flock(2)).
struct Locked(fs::File);

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "a lock could not be given back before its file was closed");
        }
    }
}

/// What a failed call was doing: the payload of every [`io::Error`] from this module.
#[derive(Debug)]
pub struct OsError {
    /// The operation, as a verb.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

impl OsError {
    /// The system's error number behind an error, wrapped by this module or not.
    pub fn raw(error: &io::Error) -> Option<i32> {
        let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<OsError>());
        wrapped.map_or_else(|| error.raw_os_error(), |inner| Self::raw(&inner.cause))
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The cause is part of the text and not a `source`: an io::Error is mostly shown alone.
        write!(f, "{} {}: {}", self.operation, self.path.display(), self.cause)
    }
}

impl error::Error for OsError {}

/// Adds operation and path to an error and keeps its kind.
fn named(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |cause| {
        let path = path.to_owned();
        io::Error::new(cause.kind(), OsError { operation, path, cause })
    }
}

/// Makes the names in a directory last.
fn sync_names(dir: &Path) -> io::Result<()> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(named("sync directory", dir))
}

/// The directory holding a path's last component; the working directory has an empty name.
fn holder(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent })
}

/// The names below a directory of the file system.
#[derive(Debug, Clone)]
pub struct OsVfs {
    root: PathBuf,
    /// Whether reading leaves the time of the last access as it was, where the system allows that.
    is_untraced: bool,
}

impl OsVfs {
    /// The names below `root`, which need not exist before the first call.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), is_untraced: false }
    }

    /// The same, but reading leaves no trace: the time of a file's last access stays as it was. The
    /// system allows that to the owner of a file only; others leave that trace.
    pub fn untraced(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), is_untraced: true }
    }

    /// Opens for reading. Without leave to read untraced, traced.
    fn open_to_read(&self, path: &Path) -> io::Result<fs::File> {
        if self.is_untraced {
            let flags = OFlags::NOATIME | OFlags::CLOEXEC;
            match rustix::fs::open(path, flags, Mode::empty()) {
                Err(rustix::io::Errno::PERM) => {}
                opened => return Ok(opened.map(fs::File::from)?),
            }
        }
        fs::File::open(path)
    }

    /// Names in a directory. Listing is reading, and leaves its trace as that does.
    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is not ours; it shows up garbled and is treated as foreign.
        if self.is_untraced {
            let folder = self.open_to_read(path)?;
            let name = |entry: rustix::io::Result<DirEntry>| {
                entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
            };
            let names: Result<Vec<_>, _> = Dir::new(folder)?.map(name).collect();
            return Ok(names?.into_iter().filter(|name| name != "." && name != "..").collect());
        }
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir(path)?.map(name).collect()
    }

    /// Makes a directory and whatever it lacks above, each lasting before the next is made.
    /// Succeeds if it exists already, and then makes that last, too: a process killed after
    /// making it may not have come to the sync.
    pub fn create_root(root: &Path) -> io::Result<()> {
        let Some(parent) = holder(root) else { return Ok(()) };
        if root.is_dir() {
            return match sync_names(parent) {
                // We cannot have made what is in a directory that we may not even open.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            };
        }
        Self::create_root(parent)?;
        let names = fs::File::open(parent).map_err(named("open directory", parent))?;
        create_dir(root)?;
        names.sync_all().map_err(named("sync directory", parent))
    }

    fn full(&self, path: &RelPath) -> PathBuf {
        // Joining an empty path would add a slash at the end.
        if path.as_str().is_empty() { self.root.clone() } else { self.root.join(path.as_str()) }
    }
}

/// Makes one directory; one that is there already will do, a file in its place will not.
fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(named("create directory", path)),
    }
}

impl Vfs for OsVfs {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        let path = self.full(path);
        let mut options = OpenOptions::new();
        let (operation, options) = match how {
            Open::Read => {
                let file = self.open_to_read(&path).map_err(named("open", &path))?;
                let past_cache = Mutex::new(PastCache { way: Way::None, buffer: Vec::new() });
                return Ok(Arc::new(OsFile { file, path, past_cache }));
            }
            Open::Write => ("open for writing", options.read(true).write(true)),
            Open::CreateNew => ("create", options.read(true).write(true).create_new(true)),
        };
        let file = options.open(&path).map_err(named(operation, &path))?;
        let past_cache = Mutex::default();
        Ok(Arc::new(OsFile { file, path, past_cache }))
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        create_dir(&self.full(path))
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        let path = self.full(path);
        self.names(&path).map_err(named("list", &path))
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let (from, to) = (self.full(from), self.full(to));
        fs::rename(&from, &to).map_err(named("rename to", &to)).map_err(named("rename", &from))
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        let path = self.full(path);
        fs::remove_file(&path).map_err(named("unlink", &path))
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        sync_names(&self.full(path))
    }

    fn lock(&self, path: &RelPath) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.full(path);
        // Opened for writing, because over NFS an exclusive lock needs it.
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(named("open for locking", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(Locked(file))),
            Err(TryLockError::WouldBlock) => {
                Err(named("lock", &path)(io::ErrorKind::WouldBlock.into()))
            }
            Err(TryLockError::Error(e)) => Err(named("lock", &path)(e)),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(io::Error::from)
            .map_err(named("free space", &self.root))?;
        // `f_bavail` leaves out what is reserved for root.
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    fn location(&self) -> PathBuf {
        self.root.clone()
    }
}

/// A file of the file system, by its descriptor. The path is the one it was opened under.
#[derive(Debug)]
pub struct OsFile {
    file: fs::File,
    path: PathBuf,
    /// Opened by the first write that passes the page cache.
    past_cache: Mutex<PastCache>,
}

/// A way to a file's pages past the page cache. Copying them there, to write them back at once, and
/// keeping account of them takes as long as a third of the sync of a small block.
#[derive(Debug, Default)]
struct PastCache {
    way: Way,
    /// What is written is copied here, to where it is aligned.
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
enum Way {
    /// Not tried yet.
    #[default]
    Unknown,
    /// The system has none for this file.
    None,
    Open(fs::File),
}

impl Way {
    /// Opens a file once more.
    #[cfg(target_os = "linux")]
    fn open(file: &fs::File) -> Self {
        use std::os::fd::AsRawFd;

        // By its descriptor, proc(5): it is the same file whatever has become of its name.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => Self::Open(file.into()),
            // Whatever is wrong with the file, the write that is made instead will say.
            Err(_) => Self::None,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn open(_file: &fs::File) -> Self {
        Self::None
    }
}

impl PastCache {
    /// Writes pages; false if there is no way past the cache, and nothing is known of the pages.
    fn write(&mut self, of: &fs::File, pages: &[u8], position: u64) -> io::Result<bool> {
        if !self.is_open(of) {
            return Ok(false);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(pages.len() + DIRECT_ALIGN, 0);
        let begin = buffer.as_ptr().align_offset(DIRECT_ALIGN);
        let Some(aligned) = buffer.get_mut(begin..begin + pages.len()) else { return Ok(false) };
        aligned.copy_from_slice(pages);
        let written = self.write_aligned(of, aligned, position);
        self.buffer = buffer;
        written
    }

    /// Whether there is a way for this file.
    fn is_open(&mut self, of: &fs::File) -> bool {
        if matches!(self.way, Way::Unknown) {
            self.way = Way::open(of);
        }
        matches!(self.way, Way::Open(_))
    }

    /// As [`write`](Self::write), without copying them.
    fn write_aligned(&mut self, of: &fs::File, pages: &[u8], position: u64) -> io::Result<bool> {
        self.is_open(of);
        let Way::Open(file) = &self.way else { return Ok(false) };
        match file.write_all_at(pages, position) {
            // A disk with larger sectors, or the rest of a short write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.way = Way::None;
                Ok(false)
            }
            written => written.map(|()| true),
        }
    }
}

/// Whether pages may pass the cache.
fn is_whole(len: usize, position: u64) -> bool {
    len.is_multiple_of(DIRECT_ALIGN) && position.is_multiple_of(DIRECT_ALIGN as u64)
}

impl File for OsFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, position).map_err(named("read", &self.path))
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        // The rest of a short write is asked for once more, because only that call tells why it
        // was short (a full disk, a bad one); if nothing goes on, the kind is WriteZero.
        self.file.write_all_at(bytes, position).map_err(named("write", &self.path))
    }

    fn write_pages_at(&self, pages: &[u8], position: u64) -> io::Result<()> {
        if pages.len() <= DIRECT_BYTES_MAX && is_whole(pages.len(), position) {
            let written = self.past_cache.lock().write(&self.file, pages, position);
            if written.map_err(named("write past the cache", &self.path))? {
                return Ok(());
            }
        }
        self.write_all_at(pages, position)
    }

    fn write_zeros_at(&self, position: u64, len: u64) -> io::Result<()> {
        let (mut position, mut left) = (position, len);
        while 0 < left {
            let chunk = left.min(ZEROS.0.len() as u64);
            let zeros = &ZEROS.0[..chunk as usize];
            // The cache would keep them for nobody, and have to forget each page again when it is
            // overwritten past it.
            let mut past_cache = self.past_cache.lock();
            let is_written = is_whole(zeros.len(), position)
                && past_cache
                    .write_aligned(&self.file, zeros, position)
                    .map_err(named("zero past the cache", &self.path))?;
            if !is_written {
                self.file.write_all_at(zeros, position).map_err(named("zero", &self.path))?;
            }
            position += chunk;
            left -= chunk;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(named("sync data", &self.path))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all().map_err(named("sync", &self.path))
    }

    fn will_need(&self, position: u64, len: u64) {
        // A hint that is not taken changes nothing.
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.file, position, len, rustix::fs::Advice::WillNeed);
    }

    fn drop_cache(&self) -> io::Result<()> {
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(io::Error::from)
            .map_err(named("drop cache", &self.path))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|meta| meta.len()).map_err(named("length", &self.path))
    }

    // The one place that maps files.
    #[allow(unsafe_code)]
    fn map(&self, position: u64, len: usize) -> io::Result<Mapped> {
        if self.len()? < position.saturating_add(len as u64) {
            let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(named("map", &self.path)(cause));
        }
        // SAFETY: the caller maps only files that were opened after their rename and are never
        // written or truncated again, only unlinked, which leaves the mapping as it is.
        let map = unsafe { memmap2::MmapOptions::new().offset(position).len(len).map(&self.file) };
        Ok(Box::new(map.map_err(named("map", &self.path))?))
    }
}

/// The system's clocks.
#[derive(Debug, Clone)]
pub struct OsClock {
    start: Instant,
}

impl OsClock {
    /// A clock whose monotonic time counts from now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for OsClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for OsClock {
    fn wall_ms(&self) -> u64 {
        // A clock set before 1970 reads as 1970: the wall clock may be wrong, never fatal.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn mono(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The system's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buf: &mut [u8]) {
        // Identities made of anything less could collide; without this source nothing can go on.
        getrandom::fill(buf).expect("the system has a random source");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text)
    }

    fn store() -> (tempfile::TempDir, OsVfs) {
        let dir = tempfile::tempdir().unwrap();
        let vfs = OsVfs::new(dir.path());
        (dir, vfs)
    }

    fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
        result.err().expect("must fail").kind()
    }

    #[test]
    fn bytes_written_are_read_back_and_grow_the_file() {
        let (_dir, vfs) = store();
        let file = vfs.open(&path("a"), Open::CreateNew).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        file.drop_cache().unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut buf = [1; 8];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"\0\0\0hello");
        assert_eq!(kind(file.read_exact_at(&mut buf, 1)), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn zeros_are_blocks_and_not_a_hole() {
        use std::os::unix::fs::MetadataExt;
        let (dir, vfs) = store();
        let len = (2 << 20) + 4096;
        let file = vfs.open(&path("z"), Open::CreateNew).unwrap();
        file.write_zeros_at(0, len).unwrap();
        file.sync_all().unwrap();
        let meta = fs::metadata(dir.path().join("z")).unwrap();
        assert_eq!(meta.len(), len);
        assert!(len <= meta.blocks() * 512, "only {} blocks", meta.blocks());
    }

    #[test]
    fn open_says_what_must_and_must_not_exist() {
        let (_dir, vfs) = store();
        assert_eq!(kind(vfs.open(&path("a"), Open::Read)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.open(&path("a"), Open::Write)), io::ErrorKind::NotFound);
        vfs.open(&path("a"), Open::CreateNew).unwrap();
        assert_eq!(kind(vfs.open(&path("a"), Open::CreateNew)), io::ErrorKind::AlreadyExists);
        vfs.open(&path("a"), Open::Write).unwrap().write_all_at(b"x", 0).unwrap();
        assert!(vfs.open(&path("a"), Open::Read).unwrap().write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn names_are_made_moved_listed_and_removed() {
        let (_dir, vfs) = store();
        vfs.create_dir(&path("d")).unwrap();
        vfs.create_dir(&path("d")).unwrap();
        vfs.open(&path("d/a"), Open::CreateNew).unwrap().write_all_at(b"new", 0).unwrap();
        vfs.open(&path("b"), Open::CreateNew).unwrap();
        vfs.rename(&path("d/a"), &path("b")).unwrap();
        vfs.sync_dir(&path(RelPath::ROOT)).unwrap();
        assert_eq!(vfs.open(&path("b"), Open::Read).unwrap().len().unwrap(), 3);
        assert_eq!(vfs.list(&path("d")).unwrap(), Vec::<String>::new());
        vfs.unlink(&path("b")).unwrap();
        assert_eq!(vfs.list(&path(RelPath::ROOT)).unwrap(), ["d"]);
        vfs.open(&path("f"), Open::CreateNew).unwrap();
        assert_eq!(kind(vfs.create_dir(&path("f"))), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.create_dir(&path("no/d"))), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_lock_is_exclusive_while_its_guard_lives() {
        let (_dir, vfs) = store();
        assert_eq!(kind(vfs.lock(&path("LOCK"))), io::ErrorKind::NotFound);
        vfs.open(&path("LOCK"), Open::CreateNew).unwrap();
        let guard = vfs.lock(&path("LOCK")).unwrap();
        assert_eq!(kind(vfs.lock(&path("LOCK"))), io::ErrorKind::WouldBlock);
        drop(guard);
        vfs.lock(&path("LOCK")).unwrap();
    }

    #[test]
    fn errors_name_operation_and_path_and_keep_the_cause() {
        let (dir, vfs) = store();
        let error = vfs.open(&path("journal/slot-00"), Open::Read).err().unwrap();
        let shown = error.to_string();
        let place = dir.path().join("journal/slot-00").display().to_string();
        assert!(shown.starts_with(&format!("open {place}: ")), "{shown}");
        assert_eq!(OsError::raw(&error), Some(rustix::io::Errno::NOENT.raw_os_error()));
    }

    #[test]
    fn the_data_directory_is_made_with_its_parents() {
        let (dir, _) = store();
        let root = dir.path().join("a/b/c");
        OsVfs::create_root(&root).unwrap();
        OsVfs::create_root(&root).unwrap();
        assert!(root.is_dir());
        fs::write(root.join("f"), b"").unwrap();
        assert!(OsVfs::create_root(&root.join("f")).is_err());
    }

    #[test]
    fn the_platform_has_space_time_and_randomness() {
        let (dir, _) = store();
        let platform = platform(dir.path());
        assert!(0 < platform.vfs.space().unwrap().free);
        assert_eq!(platform.vfs.location(), dir.path());
        // 2020-01-01: whoever runs this lives later.
        assert!(1_577_836_800_000 < platform.clock.wall_ms());
        let before = platform.clock.mono();
        assert!(before <= platform.clock.mono());
        assert_ne!(platform.random_id(), platform.random_id());
    }

    #[test]
    fn pages_are_read_back_whatever_the_cache_held_before() {
        let (dir, vfs) = store();
        let file = vfs.open(&path("a"), Open::CreateNew).unwrap();
        let reader = vfs.open(&path("a"), Open::Read).unwrap();
        let page = DIRECT_ALIGN;
        let size = DIRECT_BYTES_MAX + 4 * page;
        // Few pages and many, whole ones and others, at any position.
        let writes = [
            (1, page, page),
            (2, 3 * page, DIRECT_BYTES_MAX),
            (3, 0, DIRECT_BYTES_MAX + page),
            (4, 2 * page, page / 2),
            (5, page / 2, page),
            (6, size - page, page),
            (7, 0, 0),
        ];
        file.write_zeros_at(0, size as u64).unwrap();
        file.sync_data().unwrap();
        let mut expected = vec![0; size];
        let mut found = vec![1; size];
        for (byte, position, len) in writes {
            reader.read_exact_at(&mut found, 0).unwrap();
            assert!(found == expected, "before write {byte}");
            expected[position..position + len].fill(byte);
            file.write_pages_at(&vec![byte; len], position as u64).unwrap();
            file.sync_data().unwrap();
        }
        reader.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        file.write_zeros_at(page as u64, 2 * page as u64).unwrap();
        expected[page..3 * page].fill(0);
        reader.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected, "zeros over what was cached");
        // Where no page may pass the cache, they are written through it.
        let all = fs::File::create(dir.path().join("b")).unwrap();
        let past_cache = Mutex::new(PastCache { way: Way::None, buffer: Vec::new() });
        let without = OsFile { file: all, path: "b".into(), past_cache };
        without.write_pages_at(&vec![1; page], 0).unwrap();
        assert_eq!(without.len().unwrap(), page as u64);
        // And who may only read does not get to write that way.
        assert!(reader.write_pages_at(&vec![1; page], 0).is_err());
        reader.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
    }

    #[test]
    fn pages_reach_the_file_that_was_opened_whatever_its_name_is_now() {
        let (_dir, vfs) = store();
        let file = vfs.open(&path("a"), Open::CreateNew).unwrap();
        vfs.rename(&path("a"), &path("b")).unwrap();
        vfs.open(&path("a"), Open::CreateNew).unwrap();
        file.write_pages_at(&[1; DIRECT_ALIGN], 0).unwrap();
        assert_eq!(vfs.open(&path("a"), Open::Read).unwrap().len().unwrap(), 0);
        assert_eq!(vfs.open(&path("b"), Open::Read).unwrap().len().unwrap(), DIRECT_ALIGN as u64);
    }

    #[test]
    fn a_lock_is_waited_for_with_limited_patience() {
        let (dir, vfs) = store();
        let waited = |patience| {
            let start = Instant::now();
            wait_unlocked(&dir.path().join("a"), patience);
            start.elapsed()
        };
        let long = Duration::from_secs(60);
        assert!(waited(long) < long);
        vfs.open(&path("a"), Open::CreateNew).unwrap();
        let guard = vfs.lock(&path("a")).unwrap();
        assert!(Duration::from_millis(20) <= waited(Duration::from_millis(20)));
        let release = spawn("release", move || {
            thread::sleep(Duration::from_millis(20));
            drop(guard);
        });
        assert!(waited(long) < long);
        release.unwrap().join().unwrap();
    }

    #[test]
    fn a_lock_is_given_back_although_a_forked_child_still_has_the_file_open() {
        let (dir, vfs) = store();
        vfs.open(&path("a"), Open::CreateNew).unwrap();
        let file = fs::File::open(dir.path().join("a")).unwrap();
        file.try_lock().unwrap();
        // What a fork does to it.
        let _of_a_child = file.try_clone().unwrap();
        drop(Locked(file));
        vfs.lock(&path("a")).unwrap();
    }

    #[test]
    fn the_holder_of_a_lock_is_known_without_locking() {
        let (dir, vfs) = store();
        vfs.open(&path("a"), Open::CreateNew).unwrap();
        let held = dir.path().join("a");
        assert_eq!(lock_holder(&held).unwrap(), None);
        let guard = vfs.lock(&path("a")).unwrap();
        assert_eq!(lock_holder(&held).unwrap(), Some(std::process::id()));
        drop(guard);
        assert_eq!(lock_holder(&held).unwrap(), None);
    }

    #[test]
    fn looking_leaves_the_time_of_the_last_access_as_it_was() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let times = fs::FileTimes::new().set_accessed(old);
        fs::write(dir.path().join("a"), b"abc").unwrap();
        for name in ["a", ""] {
            let file = fs::File::open(dir.path().join(name)).unwrap();
            file.set_times(times).unwrap();
        }
        let vfs = OsVfs::untraced(dir.path());
        assert_eq!(vfs.list(&path("")).unwrap(), ["a"]);
        vfs.open(&path("a"), Open::Read).unwrap().read_exact_at(&mut [0; 3], 0).unwrap();
        for name in ["a", ""] {
            assert_eq!(fs::metadata(dir.path().join(name)).unwrap().atime(), 1, "{name:?}");
        }
    }

    #[test]
    fn a_directory_is_removed_with_what_is_below() {
        let (dir, _) = store();
        let tree = dir.path().join("a");
        fs::create_dir_all(tree.join("b")).unwrap();
        fs::write(tree.join("b/c"), b"").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_thread_bears_its_name() {
        let (send, receive) = std::sync::mpsc::channel();
        let body = move || send.send(thread::current().name().map(str::to_owned)).unwrap();
        spawn("committer", body).unwrap().join().unwrap();
        assert_eq!(receive.recv().unwrap().as_deref(), Some("committer"));
    }
}
