//! A simulated machine: a disk that loses what a disk may lose, a clock moved by hand, seeded
//! randomness. The same calls and the same seeds give the same bytes, always.
//!
//! # The disk
//! A file is what reads show (the page cache), what the disk has, and the ordered unsynced writes
//! between the two, in sectors of 512 bytes. Names are kept apart in the same way and become
//! lasting by [`Vfs::sync_dir`] only; a directory is a name in its parent, a moved name belongs to
//! the directory it was moved to. [`SimDisk::power_cut`] keeps of what is unsynced what a [`Fate`]
//! says: every sector, every length and every name decides for itself, so that writes are torn
//! with holes and in any order. [`SimDisk::kill`] keeps the page cache. After either, handles of
//! before fail for ever and [`platform`] gives new ones.
//!
//! # What holds even so
//! * A sector is old or new, never a mixture; a hole reads as zeros.
//! * A rename happens as a whole or not at all, and what it moved keeps a name.
//! * Of several versions of one sector or one name, the last that survives wins.
//!
//! # Crash points
//! Every call that changes or syncs something counts as one operation. [`SimDisk::crash_at`] stops
//! the machine in the middle of one: what it was doing may have happened, in part, or not.
//! [`SimDisk::record_crash_points`] keeps a copy of the disk for every operation, so that one run
//! of a history can be cut everywhere. Copies share their pages and are cheap.
//!
//! What it deliberately does not do: run threads, let time pass by itself, link, truncate, or move
//! directories (the seam has no such calls); delay or reorder what callers see.

use std::{
    collections::{BTreeMap, BTreeSet},
    error, fmt, io,
    ops::Bound,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::{Clock, Entropy, File, Open, Platform, RelPath, Vfs};

/// What survives a power cut whole or not at all.
pub const SECTOR: usize = 512;
/// The unit in which images share memory and space is counted.
const PAGE: usize = 4096;
const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR) as u64;
/// The bits of all sectors of a page.
const WHOLE_PAGE: u8 = u8::MAX;
/// The system's number for an input/output error, the same on every Unix.
const EIO: i32 = 5;

type Page = [u8; PAGE];
/// A page of an image; `None` reads as zeros.
type SharedPage = Option<Arc<Page>>;
/// Index of an inode; never used twice.
type InodeNo = usize;

/// A platform on a simulated disk, for the time until its next power cut or kill.
pub fn platform(disk: &SimDisk, clock: &SimClock, seed: u64) -> Platform {
    Platform {
        vfs: Arc::new(disk.vfs()),
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SimEntropy::new(seed)),
    }
}

// ---- randomness and time -------------------------------------------------------------------

/// A small seeded generator (splitmix64), for tests and for fates. Not for secrets.
#[derive(Debug, Clone)]
pub struct SimRng(u64);

impl SimRng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(0 < n, "there is no number below 0");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True in `part` of `whole` cases.
    pub fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// Fills `buf` with random bytes.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Seeded randomness behind the seam.
#[derive(Debug)]
pub struct SimEntropy(Mutex<SimRng>);

impl SimEntropy {
    /// The randomness of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(SimRng::new(seed)))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buf: &mut [u8]) {
        self.0.lock().fill(buf);
    }
}

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<Mutex<ClockHands>>);

#[derive(Debug)]
struct ClockHands {
    mono: Duration,
    /// What the wall clock showed when `mono` was `set_at`.
    wall_ms: u64,
    set_at: Duration,
}

impl SimClock {
    /// A clock showing `wall_ms`.
    pub fn new(wall_ms: u64) -> Self {
        let hands = ClockHands { mono: Duration::ZERO, wall_ms, set_at: Duration::ZERO };
        Self(Arc::new(Mutex::new(hands)))
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        self.0.lock().mono += by;
    }

    /// Sets the wall clock, in either direction; the monotonic one goes on.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        let mut hands = self.0.lock();
        hands.wall_ms = wall_ms;
        hands.set_at = hands.mono;
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let hands = self.0.lock();
        hands.wall_ms + (hands.mono - hands.set_at).as_millis() as u64
    }

    fn mono(&self) -> Duration {
        self.0.lock().mono
    }
}

// ---- fates and faults ----------------------------------------------------------------------

/// Which unsynced changes a power cut keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    KeepNone,
    /// Everything.
    KeepAll,
    /// All up to some moment, over all files and names, torn inside a write.
    Prefix,
    /// Each sector, length and name for itself, sparsely or densely as the seed has it.
    RandomSubset,
    /// The last write of each file and the last name of each directory, without those before.
    NewestOnly,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 5] =
        [Mode::KeepNone, Mode::KeepAll, Mode::Prefix, Mode::RandomSubset, Mode::NewestOnly];
}

/// What becomes of unsynced changes at a power cut. The same fate does the same to the same disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Which changes are kept.
    pub mode: Mode,
    /// Decides where the mode leaves a choice.
    pub seed: u64,
}

impl Fate {
    /// A fate.
    pub fn new(mode: Mode, seed: u64) -> Self {
        Self { mode, seed }
    }

    /// A fate of any mode, half of the time [`Mode::RandomSubset`].
    pub fn random(seed: u64) -> Self {
        let pick = SimRng::new(!seed).below(8) as usize;
        Self { mode: Mode::ALL.get(pick).copied().unwrap_or(Mode::RandomSubset), seed }
    }
}

/// A kind of call, for placing faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Vfs::open`] of a file that must exist.
    Open,
    /// [`Vfs::open`] with [`Open::CreateNew`].
    Create,
    /// [`Vfs::create_dir`].
    CreateDir,
    /// [`Vfs::list`].
    List,
    /// [`Vfs::rename`]; a path filter may match either name.
    Rename,
    /// [`Vfs::unlink`].
    Unlink,
    /// [`Vfs::sync_dir`].
    SyncDir,
    /// [`Vfs::lock`].
    Lock,
    /// [`Vfs::free_bytes`].
    FreeBytes,
    /// [`File::read_exact_at`].
    Read,
    /// [`File::write_all_at`] and [`File::write_zeros_at`].
    Write,
    /// [`File::sync_data`] and [`File::sync_all`].
    Sync,
    /// [`File::drop_cache`].
    DropCache,
    /// [`File::len`].
    Len,
}

impl Call {
    /// Whether it changes or syncs something, and so counts as an operation in any case.
    fn changes(self) -> bool {
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

fn fail(kind: io::ErrorKind, call: Call, path: &str, problem: &'static str) -> io::Error {
    io::Error::new(kind, SimError { call, path: path.to_owned(), problem })
}

fn eio(call: Call, path: &str) -> io::Error {
    // The kind of EIO has no stable name.
    fail(io::Error::from_raw_os_error(EIO).kind(), call, path, "input/output error")
}

fn full(call: Call, path: &str) -> io::Error {
    fail(io::ErrorKind::StorageFull, call, path, "no space left on device")
}

// ---- images --------------------------------------------------------------------------------

/// The bytes of a file. Pages beyond the last are zeros.
#[derive(Debug, Clone, Default)]
struct Image {
    pages: Vec<SharedPage>,
    len: u64,
}

fn page_mut(page: &mut SharedPage) -> &mut Page {
    Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE])))
}

/// Cuts a range of bytes at page boundaries: page number, then from and to inside the page.
fn page_spans(start: u64, end: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let from = (at % PAGE as u64) as usize;
        let to = PAGE.min(from + (end.checked_sub(at)? as usize));
        let page = (at / PAGE as u64) as usize;
        at += (to - from) as u64;
        (from < to).then_some((page, from, to))
    })
}

impl Image {
    fn of(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        image.put(Payload::Bytes(bytes), 0);
        image.len = bytes.len() as u64;
        image
    }

    fn page(&self, page: usize) -> &SharedPage {
        self.pages.get(page).unwrap_or(&None)
    }

    fn slot(&mut self, page: usize) -> &mut SharedPage {
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        &mut self.pages[page]
    }

    /// Copies bytes out; the caller has checked the length.
    fn get(&self, buf: &mut [u8], position: u64) {
        let mut rest = buf;
        for (page, from, to) in page_spans(position, position + rest.len() as u64) {
            let (now, later) = rest.split_at_mut(to - from);
            match self.page(page) {
                Some(page) => now.copy_from_slice(&page[from..to]),
                None => now.fill(0),
            }
            rest = later;
        }
    }

    /// Puts bytes in; the length is the caller's.
    fn put(&mut self, payload: Payload<'_>, position: u64) {
        let mut at = 0;
        for (page, from, to) in page_spans(position, position + payload.len()) {
            let slot = self.slot(page);
            match payload {
                Payload::Bytes(bytes) if to - from == PAGE => {
                    // A whole page never looks at the one it replaces.
                    *slot = bytes[at..at + PAGE].try_into().ok().map(Arc::new);
                }
                Payload::Bytes(bytes) => {
                    page_mut(slot)[from..to].copy_from_slice(&bytes[at..at + to - from]);
                }
                Payload::Zeros(_) if to - from == PAGE => *slot = None,
                Payload::Zeros(_) => page_mut(slot)[from..to].fill(0),
            }
            at += to - from;
        }
    }

    /// Replaces the sectors of a page that `mask` names.
    fn put_sectors(&mut self, page: usize, mask: u8, from: &SharedPage) {
        if mask == 0 {
            return;
        }
        let slot = self.slot(page);
        if mask == WHOLE_PAGE {
            slot.clone_from(from);
            return;
        }
        let target = page_mut(slot);
        for sector in (0..8).filter(|sector| mask & (1 << sector) != 0) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            match from {
                Some(source) => target[range.clone()].copy_from_slice(&source[range]),
                None => target[range].fill(0),
            }
        }
    }

    /// Forgets what is beyond the length, so that growing again shows zeros.
    fn trim(&mut self) {
        let (whole, part) = (self.len / PAGE as u64, (self.len % PAGE as u64) as usize);
        self.pages.truncate(whole as usize + usize::from(part != 0));
        if let Some(Some(page)) = self.pages.get_mut(whole as usize)
            && page[part..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(page)[part..].fill(0);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.get(&mut bytes, 0);
        bytes
    }
}

/// What a write puts in.
#[derive(Debug, Clone, Copy)]
enum Payload<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
}

impl Payload<'_> {
    fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Zeros(len) => *len,
        }
    }

    fn first(self, len: u64) -> Self {
        match self {
            Payload::Bytes(bytes) => Payload::Bytes(&bytes[..len as usize]),
            Payload::Zeros(_) => Payload::Zeros(len),
        }
    }
}

// ---- files ---------------------------------------------------------------------------------

/// One unsynced write: the sectors it touched, as they looked after it, and the length it gave.
#[derive(Debug)]
struct Write {
    /// Place in the order of all unsynced changes of the disk.
    order: u64,
    /// First sector and the one after the last.
    sectors: (u64, u64),
    /// The pages holding these sectors.
    pages: Vec<SharedPage>,
    /// Length of the file before and after.
    len: (u64, u64),
}

impl Write {
    fn count(&self) -> u64 {
        self.sectors.1 - self.sectors.0
    }

    fn grows(&self) -> bool {
        self.len.0 < self.len.1
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    /// What reads show.
    cache: Image,
    /// What the disk has.
    durable: Image,
    /// What makes the one into the other, oldest first.
    unsynced: Vec<Arc<Write>>,
    /// Sectors shown by reads as clean, which the disk does not have.
    lied: BTreeSet<u64>,
    /// The same of the length.
    lied_len: bool,
}

impl Inode {
    fn durable(image: Image) -> Self {
        Self { cache: image.clone(), durable: image, ..Self::default() }
    }

    fn is_clean(&self) -> bool {
        self.unsynced.is_empty() && self.lied.is_empty() && !self.lied_len
    }

    fn write(&mut self, payload: Payload<'_>, position: u64, order: u64) {
        let end = position + payload.len();
        if position == end {
            return;
        }
        let len = (self.cache.len, self.cache.len.max(end));
        self.cache.put(payload, position);
        self.cache.len = len.1;
        let sectors = (position / SECTOR as u64, end.div_ceil(SECTOR as u64));
        let pages = sectors.0 / SECTORS_PER_PAGE..sectors.1.div_ceil(SECTORS_PER_PAGE);
        let pages = pages.map(|page| self.cache.page(page as usize).clone()).collect();
        if !self.lied.is_empty() {
            self.lied.retain(|sector| *sector < sectors.0 || sectors.1 <= *sector);
        }
        self.lied_len &= len.0 == len.1;
        self.unsynced.push(Arc::new(Write { order, sectors, pages, len }));
    }

    /// Puts those sectors of a write on the disk that `keep` wants, page by page: it gets the
    /// sectors of the write in a page and gives those that survive.
    fn land(&mut self, write: &Write, mut keep: impl FnMut(u8) -> u8) {
        let first_page = write.sectors.0 / SECTORS_PER_PAGE;
        for (page, content) in (first_page..).zip(&write.pages) {
            let start = page * SECTORS_PER_PAGE;
            let from = write.sectors.0.saturating_sub(start);
            let to = SECTORS_PER_PAGE.min(write.sectors.1 - start);
            let mask = ((1_u16 << to) - (1_u16 << from)) as u8;
            self.durable.put_sectors(page as usize, keep(mask) & mask, content);
        }
    }

    fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            self.land(&write, |mask| mask);
            if write.grows() {
                self.durable.len = self.durable.len.max(write.len.1);
            }
        }
    }

    /// The sync that fails and leaves the pages clean.
    fn lie(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            self.lied.extend(write.sectors.0..write.sectors.1);
            self.lied_len |= write.grows();
        }
    }

    /// Makes reads show the disk where they show what is clean and not there.
    fn drop_cache(&mut self) {
        for sector in std::mem::take(&mut self.lied) {
            let (page, bit) = (sector / SECTORS_PER_PAGE, sector % SECTORS_PER_PAGE);
            let durable = self.durable.page(page as usize);
            self.cache.put_sectors(page as usize, 1 << bit, durable);
        }
        if std::mem::take(&mut self.lied_len) {
            let unsynced = self.unsynced.iter().filter(|write| write.grows());
            let grown = unsynced.map(|write| write.len.1).max().unwrap_or(0);
            self.cache.len = self.durable.len.max(grown);
            self.cache.trim();
        }
    }

    /// What is left when the cache is gone.
    fn forget_cache(&mut self) {
        self.unsynced.clear();
        self.lied.clear();
        self.lied_len = false;
        self.durable.trim();
        self.cache = self.durable.clone();
    }
}

// ---- names ---------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(InodeNo),
    Dir,
}

type Names = BTreeMap<Arc<str>, Node>;

#[derive(Debug, Clone)]
enum Change {
    /// A file or directory made.
    Made(Arc<str>, Node),
    Renamed(Arc<str>, Arc<str>, Node),
    Unlinked(Arc<str>, Node),
}

/// One change of names, unsynced.
#[derive(Debug, Clone)]
struct NameChange {
    /// Place in the order of all unsynced changes of the disk.
    order: u64,
    change: Change,
}

impl NameChange {
    fn concerns(&self, name: &str) -> bool {
        match &self.change {
            Change::Made(path, _) | Change::Unlinked(path, _) => **path == *name,
            Change::Renamed(from, to, _) => **from == *name || **to == *name,
        }
    }

    /// The directory whose sync makes it last.
    fn dir(&self) -> &str {
        match &self.change {
            Change::Made(path, _) | Change::Renamed(_, path, _) | Change::Unlinked(path, _) => {
                parent(path)
            }
        }
    }

    /// The name it gives, and to what.
    fn gives(&self) -> Option<(&str, Node)> {
        match &self.change {
            Change::Made(path, node) | Change::Renamed(_, path, node) => Some((path, *node)),
            Change::Unlinked(..) => None,
        }
    }

    fn apply(&self, names: &mut Names) {
        match &self.change {
            Change::Made(path, node) => {
                names.insert(path.clone(), *node);
            }
            Change::Renamed(from, to, node) => {
                remove_if(names, from, *node);
                names.insert(to.clone(), *node);
            }
            Change::Unlinked(path, node) => remove_if(names, path, *node),
        }
    }
}

/// Removes a name unless it means something else by now: the change that gave it may be lost.
fn remove_if(names: &mut Names, path: &str, node: Node) {
    if names.get(path) == Some(&node) {
        names.remove(path);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Adds to the surviving changes those that they cannot be without. A rename that took a name away
/// is done if the name was given anew after it, else what it moved would have no name; and a name
/// moved away was there before, else it could come back and be a second one.
fn close_under_causes(changes: &[NameChange], keep: &mut [bool]) {
    // From the newest to the oldest, so that what is added asks for its own causes in turn.
    for late in (0..changes.len()).rev() {
        if !keep[late] {
            continue;
        }
        for early in 0..late {
            let reused = match (&changes[early].change, changes[late].gives()) {
                (Change::Renamed(from, ..), Some((given, _))) => **from == *given,
                _ => false,
            };
            let moved = match (&changes[late].change, changes[early].gives()) {
                (Change::Renamed(from, _, node), given) => given == Some((from, *node)),
                _ => false,
            };
            keep[early] |= reused || moved;
        }
    }
}

/// Removes what is in directories that are not there.
fn drop_orphans(names: &mut Names) {
    // In order of paths, a directory comes before what is in it.
    let mut dirs = BTreeSet::from([Arc::<str>::from("")]);
    names.retain(|path, node| {
        let held = dirs.contains(parent(path));
        if held && *node == Node::Dir {
            dirs.insert(path.clone());
        }
        held
    });
}

// ---- the machine ---------------------------------------------------------------------------

/// What a call is about to do, or was doing when the machine stopped.
#[derive(Debug, Clone)]
enum Action {
    Write(InodeNo, u64, Arc<[u8]>),
    Zeros(InodeNo, u64, u64),
    Create(Arc<str>),
    Name(Change),
}

#[derive(Default)]
struct Machine {
    inodes: BTreeMap<InodeNo, Arc<Inode>>,
    inode_next: InodeNo,
    /// Handles by inode.
    open: BTreeMap<InodeNo, u32>,
    locks: BTreeSet<InodeNo>,
    /// Names as calls see them.
    names: Arc<Names>,
    /// Names as the disk has them.
    durable_names: Arc<Names>,
    /// What makes the one into the other, oldest first.
    unsynced_names: Vec<NameChange>,
    order_next: u64,
    capacity: Option<u64>,
    faults: Vec<Fault>,
    /// Counts power cuts and kills; handles of an earlier life are dead.
    life: u64,
    ops: u64,
    count_reads: bool,
    crash_at: Option<u64>,
    stopped: bool,
    in_flight: Option<Action>,
    /// Copies of this machine as stopped in each operation, if wanted.
    crash_points: Option<Vec<SimDisk>>,
}

impl Machine {
    fn order(&mut self) -> u64 {
        self.order_next += 1;
        self.order_next
    }

    fn inode(&self, inode: InodeNo) -> &Inode {
        self.inodes.get(&inode).expect("an inode with a name or a handle is kept")
    }

    fn inode_mut(&mut self, inode: InodeNo) -> &mut Inode {
        let inode = self.inodes.get_mut(&inode);
        Arc::make_mut(inode.expect("an inode with a name or a handle is kept"))
    }

    fn add_inode(&mut self, inode: Inode) -> InodeNo {
        self.inode_next += 1;
        self.inodes.insert(self.inode_next, Arc::new(inode));
        self.inode_next
    }

    /// What every call starts with: is the handle alive, does the machine stop here, does a fault
    /// strike. `in_flight` is asked only if the machine stops or is copied.
    fn begin(
        &mut self,
        life: u64,
        call: Call,
        paths: &[&str],
        in_flight: impl Fn(&Self) -> Option<Action>,
    ) -> io::Result<Option<What>> {
        let path = paths.first().copied().unwrap_or_default();
        let dead = || fail(io::ErrorKind::Other, call, path, DEAD);
        if self.stopped || self.life != life {
            return Err(dead());
        }
        if call.changes() || self.count_reads {
            self.ops += 1;
            if self.crash_points.is_some() {
                let point = self.copy_stopped(in_flight(self));
                self.crash_points.get_or_insert_default().push(point);
            }
            if self.crash_at.is_some_and(|at| at <= self.ops) {
                self.stopped = true;
                self.in_flight = in_flight(self);
                return Err(dead());
            }
        }
        self.strike(call, paths)
    }

    /// Looks for a fault for this call; most kinds end it here.
    fn strike(&mut self, call: Call, paths: &[&str]) -> io::Result<Option<What>> {
        let mut struck = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.matches(call, paths)) {
            fault.left = fault.left.saturating_sub(1);
            if fault.left == 0 && struck.is_none() {
                struck = Some(fault.what);
            }
        }
        self.faults.retain(|fault| 0 < fault.left || fault.lasting);
        let path = paths.first().copied().unwrap_or_default();
        match (struck, call) {
            (None, _) => Ok(None),
            (Some(What::Enospc), _) => Err(full(call, path)),
            (Some(What::ShortWrite), Call::Write)
            | (Some(What::SyncFailsPageClean), Call::Sync | Call::SyncDir) => Ok(struck),
            (Some(_), _) => Err(eio(call, path)),
        }
    }

    /// This machine without its handles, locks and plans, stopped while doing something.
    fn copy_stopped(&self, in_flight: Option<Action>) -> SimDisk {
        let copy = Self {
            inodes: self.inodes.clone(),
            open: BTreeMap::new(),
            locks: BTreeSet::new(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            unsynced_names: self.unsynced_names.clone(),
            faults: self.faults.clone(),
            crash_at: None,
            stopped: true,
            in_flight,
            crash_points: None,
            ..*self
        };
        SimDisk(Arc::new(Mutex::new(copy)))
    }

    fn change_names(&mut self, change: Change) {
        let order = self.order();
        let change = NameChange { order, change };
        change.apply(Arc::make_mut(&mut self.names));
        self.unsynced_names.push(change);
    }

    /// Makes those unsynced changes of names last that `keep` names, and forgets them.
    fn land_names(&mut self, keep: &[bool]) {
        let durable = Arc::make_mut(&mut self.durable_names);
        let mut kept = keep.iter();
        self.unsynced_names.retain(|change| {
            let keep = *kept.next().expect("there is one decision per change");
            if keep {
                change.apply(durable);
            }
            !keep
        });
    }

    fn sync_names(&mut self, dir: &str) {
        let mut keep: Vec<bool> =
            self.unsynced_names.iter().map(|change| change.dir() == dir).collect();
        if keep.contains(&true) {
            close_under_causes(&self.unsynced_names, &mut keep);
            self.land_names(&keep);
            self.collect();
        }
    }

    /// Bytes on the disk: pages of files that have a name or a handle.
    fn used(&self) -> u64 {
        let named: BTreeSet<InodeNo> = self.names.values().filter_map(Node::inode).collect();
        let live =
            self.inodes.iter().filter(|(no, _)| self.open.contains_key(no) || named.contains(no));
        live.map(|(_, inode)| inode.cache.len.next_multiple_of(PAGE as u64)).sum()
    }

    /// How many bytes of a write find space.
    fn room(&self, inode: InodeNo, position: u64, len: u64) -> u64 {
        let Some(capacity) = self.capacity else { return len };
        let page = PAGE as u64;
        let have = self.inode(inode).cache.len.next_multiple_of(page);
        let free = capacity.saturating_sub(self.used()) / page * page;
        len.min((have + free).saturating_sub(position))
    }

    fn write(&mut self, inode: InodeNo, payload: Payload<'_>, position: u64) {
        let order = self.order();
        self.inode_mut(inode).write(payload, position, order);
    }

    /// Forgets inodes that nothing can reach any more.
    fn collect(&mut self) {
        let changes = self.unsynced_names.iter().map(|change| match &change.change {
            Change::Made(_, node) | Change::Renamed(.., node) | Change::Unlinked(_, node) => node,
        });
        let nodes = self.names.values().chain(self.durable_names.values()).chain(changes);
        let reachable: BTreeSet<InodeNo> = nodes.filter_map(Node::inode).collect();
        let open = &self.open;
        self.inodes.retain(|no, _| open.contains_key(no) || reachable.contains(no));
    }

    /// Ends the life of all handles.
    fn restart(&mut self) {
        self.life += 1;
        self.stopped = false;
        self.crash_at = None;
        self.in_flight = None;
        self.locks.clear();
        self.open.clear();
        self.collect();
    }

    /// Does what a call wants; returns the inode if it made a file.
    fn perform(&mut self, action: Action) -> Option<InodeNo> {
        match action {
            Action::Write(inode, position, bytes) => {
                self.write(inode, Payload::Bytes(&bytes), position);
                None
            }
            Action::Zeros(inode, position, len) => {
                self.write(inode, Payload::Zeros(len), position);
                None
            }
            Action::Create(path) => {
                let inode = self.add_inode(Inode::default());
                self.change_names(Change::Made(path, Node::File(inode)));
                Some(inode)
            }
            Action::Name(change) => {
                self.change_names(change);
                None
            }
        }
    }

    fn kill(&mut self) {
        // How far the last call came is not asked of the caller: the count of operations decides,
        // so that a sweep over crash points sees all cases and a repetition the same.
        let mut rng = SimRng::new(self.ops);
        match self.in_flight.take() {
            Some(action) if rng.chance(1, 3) => {
                self.perform(action);
            }
            Some(Action::Write(inode, position, bytes)) => {
                let len = rng.below(bytes.len() as u64 + 1) as usize;
                self.write(inode, Payload::Bytes(&bytes[..len]), position);
            }
            Some(Action::Zeros(inode, position, len)) => {
                self.write(inode, Payload::Zeros(rng.below(len + 1)), position);
            }
            // A name is there or not.
            Some(Action::Create(_) | Action::Name(_)) | None => {}
        }
        self.restart();
    }

    fn power_cut(&mut self, fate: Fate) {
        // What was in flight is unsynced like the rest, for the fate to keep any part of it.
        if let Some(action) = self.in_flight.take() {
            self.perform(action);
        }
        let dirty = self.inodes.iter().filter(|(_, inode)| !inode.is_clean());
        let dirty: Vec<InodeNo> = dirty.map(|(no, _)| *no).collect();
        let mut rng = SimRng::new(fate.seed);
        match fate.mode {
            Mode::KeepNone => {}
            Mode::KeepAll => self.keep_before(&dirty, u64::MAX),
            Mode::Prefix => {
                let units = self.unsynced();
                self.keep_before(&dirty, rng.below(units + 1));
            }
            Mode::RandomSubset => self.keep_some(&dirty, &mut rng),
            Mode::NewestOnly => self.keep_newest(&dirty),
        }
        self.unsynced_names.clear();
        drop_orphans(Arc::make_mut(&mut self.durable_names));
        self.names = self.durable_names.clone();
        for no in dirty {
            self.inode_mut(no).forget_cache();
        }
        self.restart();
    }

    /// Unsynced sectors and names.
    fn unsynced(&self) -> u64 {
        let writes = self.inodes.values().flat_map(|inode| &inode.unsynced);
        writes.map(|write| write.count()).sum::<u64>() + self.unsynced_names.len() as u64
    }

    /// Keeps the oldest unsynced sectors and names, so many of them.
    fn keep_before(&mut self, dirty: &[InodeNo], units: u64) {
        let names = self.unsynced_names.iter().map(|change| (change.order, 1));
        let inodes = self.inodes.values().flat_map(|inode| &inode.unsynced);
        let writes = inodes.map(|write| (write.order, write.count()));
        let mut all: Vec<(u64, u64)> = names.chain(writes).collect();
        all.sort_unstable();
        // The first change that is not kept whole, and how many of its sectors are.
        let mut left = units;
        let torn = all.into_iter().find_map(|(order, count)| {
            let torn = left < count;
            if !torn {
                left -= count;
            }
            torn.then_some((order, left))
        });
        let (order, sectors) = torn.unwrap_or((u64::MAX, 0));
        let keep: Vec<bool> =
            self.unsynced_names.iter().map(|change| change.order < order).collect();
        self.land_names(&keep);
        for no in dirty {
            let inode = self.inode_mut(*no);
            for write in std::mem::take(&mut inode.unsynced) {
                let sectors = if write.order < order { u64::MAX } else { sectors };
                if write.order <= order {
                    keep_start(inode, &write, sectors);
                }
            }
        }
    }

    fn keep_newest(&mut self, dirty: &[InodeNo]) {
        let last = |i: usize, changes: &[NameChange]| {
            changes[i + 1..].iter().all(|later| later.dir() != changes[i].dir())
        };
        let mut keep: Vec<bool> =
            (0..self.unsynced_names.len()).map(|i| last(i, &self.unsynced_names)).collect();
        close_under_causes(&self.unsynced_names, &mut keep);
        self.land_names(&keep);
        for no in dirty {
            let inode = self.inode_mut(*no);
            if let Some(write) = std::mem::take(&mut inode.unsynced).pop() {
                inode.land(&write, |mask| mask);
                // Its length too, grown by it or not: else it might not be seen at all.
                inode.durable.len = inode.durable.len.max(write.len.1);
            }
        }
    }

    fn keep_some(&mut self, dirty: &[InodeNo], rng: &mut SimRng) {
        let density = Density::any(rng);
        let mut keep: Vec<bool> =
            self.unsynced_names.iter().map(|_| density.bits(rng) & 1 != 0).collect();
        close_under_causes(&self.unsynced_names, &mut keep);
        self.land_names(&keep);
        let density = Density::any(rng);
        for no in dirty {
            let inode = self.inode_mut(*no);
            for write in std::mem::take(&mut inode.unsynced) {
                let own = if rng.chance(1, 2) { density } else { Density::any(rng) };
                let (mut bits, mut have) = (0, 0);
                inode.land(&write, |_| {
                    if have == 0 {
                        (bits, have) = (own.bits(rng), 8);
                    }
                    let keep = bits as u8;
                    bits >>= 8;
                    have -= 1;
                    keep
                });
                if write.grows() {
                    let len = some_length(&write, rng);
                    inode.durable.len = inode.durable.len.max(len);
                }
            }
        }
    }
}

/// Keeps the first sectors of a write, and the length they give.
fn keep_start(inode: &mut Inode, write: &Write, sectors: u64) {
    let mut left = sectors;
    inode.land(write, |mask| {
        let kept = (0..8).filter(|i| {
            let keep = mask & (1 << i) != 0 && 0 < left;
            left -= u64::from(keep);
            keep
        });
        kept.fold(0, |kept, i| kept | 1 << i)
    });
    if write.grows() && 0 < sectors {
        let end = write.sectors.0.saturating_add(sectors).saturating_mul(SECTOR as u64);
        inode.durable.len = inode.durable.len.max(write.len.1.min(end));
    }
}

/// A length a growing write may leave: mostly the new one, else the old one or one between.
fn some_length(write: &Write, rng: &mut SimRng) -> u64 {
    match rng.below(8) {
        0 => write.len.0,
        1 => {
            let end = (write.sectors.0 + rng.below(write.count() + 1)) * SECTOR as u64;
            end.clamp(write.len.0, write.len.1)
        }
        _ => write.len.1,
    }
}

/// How many of a group of sectors or names survive.
#[derive(Debug, Clone, Copy)]
enum Density {
    None,
    Quarter,
    Half,
    ThreeQuarters,
    All,
}

impl Density {
    fn any(rng: &mut SimRng) -> Self {
        use Density::{All, Half, None, Quarter, ThreeQuarters};
        [None, Quarter, Half, ThreeQuarters, All][rng.below(5) as usize]
    }

    fn bits(self, rng: &mut SimRng) -> u64 {
        match self {
            Density::None => 0,
            Density::Quarter => rng.next_u64() & rng.next_u64(),
            Density::Half => rng.next_u64(),
            Density::ThreeQuarters => rng.next_u64() | rng.next_u64(),
            Density::All => u64::MAX,
        }
    }
}

impl Node {
    fn inode(&self) -> Option<InodeNo> {
        match self {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }
    }
}

// ---- the disk, as tests hold it -------------------------------------------------------------

/// A simulated disk and the machine around it. Clones are the same disk; [`SimDisk::fork`] makes
/// another.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Machine>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("ops", &self.ops()).field("files", &self.files()).finish()
    }
}

impl SimDisk {
    /// An empty disk of unlimited size.
    pub fn new() -> Self {
        Self::default()
    }

    /// The names on it, until the next power cut or kill.
    pub fn vfs(&self) -> SimVfs {
        SimVfs { life: self.0.lock().life, disk: self.clone() }
    }

    /// Another disk in the same state: unsynced changes, faults and the call in flight included,
    /// handles, locks and recorded crash points not.
    pub fn fork(&self) -> SimDisk {
        let machine = self.0.lock();
        let copy = machine.copy_stopped(machine.in_flight.clone());
        {
            let mut copy = copy.0.lock();
            copy.stopped = machine.stopped;
            copy.crash_at = machine.crash_at;
        }
        copy
    }

    /// Cuts the power: of what is unsynced stays what the fate keeps. All handles die.
    pub fn power_cut(&self, fate: Fate) {
        self.0.lock().power_cut(fate);
    }

    /// Kills the process: the page cache stays. All handles die and locks are free. A call in
    /// which the machine was stopped may have been done, in part, or not.
    pub fn kill(&self) {
        self.0.lock().kill();
    }

    /// Operations so far, over all lives. Of a recorded crash point: the one it stopped in.
    pub fn ops(&self) -> u64 {
        self.0.lock().ops
    }

    /// Stops the machine in this operation, counted as by [`SimDisk::ops`] from 1: it and all
    /// calls after it fail, until a power cut or a kill, which also forget the crash point.
    pub fn crash_at(&self, op: u64) {
        self.0.lock().crash_at = Some(op);
    }

    /// Whether the crash point was reached.
    pub fn is_stopped(&self) -> bool {
        self.0.lock().stopped
    }

    /// Counts reads, too, as operations, or no more.
    pub fn count_reads(&self, count: bool) {
        self.0.lock().count_reads = count;
    }

    /// Keeps, from now on, a copy of the disk as stopped in each operation.
    pub fn record_crash_points(&self) {
        self.0.lock().crash_points.get_or_insert_default();
    }

    /// The copies since the last call, oldest first. They wait for a power cut or a kill.
    pub fn take_crash_points(&self) -> Vec<SimDisk> {
        self.0.lock().crash_points.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Unsynced sectors and names: what a power cut decides about. Zero means that it changes
    /// nothing, but for what a failed sync lied about.
    pub fn unsynced(&self) -> u64 {
        self.0.lock().unsynced()
    }

    /// Lets a fault wait for its call.
    pub fn inject(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Takes back faults that have not struck, and lasting ones.
    pub fn clear_faults(&self) {
        self.0.lock().faults.clear();
    }

    /// Limits the space for file content, in bytes counted by pages; `None` is no limit. A write
    /// that finds too little writes what fits and fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Paths of all files, sorted, as calls see them.
    pub fn files(&self) -> Vec<String> {
        let machine = self.0.lock();
        let files = machine.names.iter().filter(|(_, node)| node.inode().is_some());
        files.map(|(path, _)| path.to_string()).collect()
    }

    /// A file's bytes as reads show them.
    pub fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        let machine = self.0.lock();
        let inode = machine.names.get(path)?.inode()?;
        Some(machine.inode(inode).cache.bytes())
    }

    /// A file's bytes as the disk has them, if it has the name.
    pub fn durable_file(&self, path: &str) -> Option<Vec<u8>> {
        let machine = self.0.lock();
        let inode = machine.durable_names.get(path)?.inode()?;
        let mut image = machine.inode(inode).durable.clone();
        image.trim();
        Some(image.bytes())
    }

    /// Makes a file of these bytes, lasting, with the directories it needs. Handles of a file of
    /// that name before keep the old one.
    pub fn write_file(&self, path: &str, bytes: &[u8]) {
        let mut machine = self.0.lock();
        let inode = machine.add_inode(Inode::durable(Image::of(bytes)));
        let dirs = path.match_indices('/').map(|(end, _)| (&path[..end], Node::Dir));
        let names: Vec<_> = dirs.chain([(path, Node::File(inode))]).collect();
        let Machine { names: shown, durable_names, unsynced_names, .. } = &mut *machine;
        for names_of in [shown, durable_names] {
            Arc::make_mut(names_of)
                .extend(names.iter().map(|(path, node)| ((*path).into(), *node)));
        }
        unsynced_names.retain(|change| names.iter().all(|(path, _)| !change.concerns(path)));
        machine.collect();
    }

    /// Removes a file's name, lasting.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn remove(&self, path: &str) {
        let mut machine = self.0.lock();
        let removed = Arc::make_mut(&mut machine.names).remove(path);
        assert!(matches!(removed, Some(Node::File(_))), "no file {path} to remove");
        Arc::make_mut(&mut machine.durable_names).remove(path);
        machine.unsynced_names.retain(|change| !change.concerns(path));
        machine.collect();
    }

    /// Flips a bit, in what the disk has and in what reads show. Unsynced writes are not touched.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) {
        self.damage(path, byte, |image| {
            let page = page_mut(image.slot((byte / PAGE as u64) as usize));
            page[(byte % PAGE as u64) as usize] ^= 1 << bit;
        });
    }

    /// Zeroes a sector, in what the disk has and in what reads show. Unsynced writes are not
    /// touched.
    ///
    /// # Panics
    /// If there is no such file or sector.
    pub fn zero_sector(&self, path: &str, sector: u64) {
        let (page, bit) = (sector / SECTORS_PER_PAGE, sector % SECTORS_PER_PAGE);
        self.damage(path, sector * SECTOR as u64, |image| {
            image.put_sectors(page as usize, 1 << bit, &None);
        });
    }

    /// Gives a file a length, lasting, and drops its unsynced writes.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, path: &str, len: u64) {
        self.change_file(path, |inode| {
            inode.durable.len = inode.durable.len.min(len);
            inode.forget_cache();
            inode.durable.len = len;
            inode.cache.len = len;
        });
    }

    /// Changes both images of a file where they reach to this byte.
    fn damage(&self, path: &str, byte: u64, damage: impl Fn(&mut Image)) {
        self.change_file(path, |inode| {
            assert!(byte < inode.cache.len, "{path} has no byte {byte}");
            let (clean, durable) = (inode.is_clean(), byte < inode.durable.len);
            damage(&mut inode.cache);
            if clean {
                // Goes on sharing its pages.
                inode.durable = inode.cache.clone();
            } else if durable {
                damage(&mut inode.durable);
            }
        });
    }

    fn change_file(&self, path: &str, change: impl FnOnce(&mut Inode)) {
        let mut machine = self.0.lock();
        let inode = machine.names.get(path).and_then(Node::inode);
        change(machine.inode_mut(inode.unwrap_or_else(|| panic!("no file {path}"))));
    }
}

// ---- the seam ------------------------------------------------------------------------------

/// The names on a simulated disk, during one life of the machine.
#[derive(Debug, Clone)]
pub struct SimVfs {
    disk: SimDisk,
    life: u64,
}

impl SimVfs {
    /// A call that changes names: `plan` looks whether it can be done, and says what to do.
    fn change(
        &self,
        machine: &mut Machine,
        call: Call,
        paths: &[&str],
        plan: impl Fn(&Names) -> io::Result<Action>,
    ) -> io::Result<Option<InodeNo>> {
        machine.begin(self.life, call, paths, |machine| plan(&machine.names).ok())?;
        let action = plan(&machine.names)?;
        Ok(machine.perform(action))
    }
}

/// The file of a name.
fn file(names: &Names, call: Call, path: &str) -> io::Result<InodeNo> {
    match names.get(path) {
        Some(Node::File(inode)) => Ok(*inode),
        Some(Node::Dir) => Err(fail(io::ErrorKind::IsADirectory, call, path, "is a directory")),
        None => {
            directory(names, call, parent(path))?;
            Err(fail(io::ErrorKind::NotFound, call, path, "no such file"))
        }
    }
}

fn directory(names: &Names, call: Call, path: &str) -> io::Result<()> {
    match names.get(path) {
        Some(Node::Dir) => Ok(()),
        None if path.is_empty() => Ok(()),
        Some(Node::File(_)) => {
            Err(fail(io::ErrorKind::NotADirectory, call, path, "not a directory"))
        }
        None => Err(fail(io::ErrorKind::NotFound, call, path, "no such directory")),
    }
}

/// That a name can be made: it is free, and its directory is there.
fn vacant(names: &Names, call: Call, path: &str) -> io::Result<()> {
    directory(names, call, parent(path))?;
    if path.is_empty() || names.contains_key(path) {
        return Err(fail(io::ErrorKind::AlreadyExists, call, path, "exists already"));
    }
    Ok(())
}

impl Vfs for SimVfs {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        let name = path.as_str();
        let mut machine = self.disk.0.lock();
        let inode = if how == Open::CreateNew {
            let made = self.change(&mut machine, Call::Create, &[name], |names| {
                vacant(names, Call::Create, name)?;
                Ok(Action::Create(name.into()))
            })?;
            made.expect("a file was made")
        } else {
            machine.begin(self.life, Call::Open, &[name], |_| None)?;
            file(&machine.names, Call::Open, name)?
        };
        *machine.open.entry(inode).or_default() += 1;
        let (disk, life, path) = (self.disk.clone(), self.life, name.to_owned());
        Ok(Arc::new(SimFile { disk, life, inode, path, writable: how != Open::Read }))
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        let name = path.as_str();
        let mut machine = self.disk.0.lock();
        let made = self.change(&mut machine, Call::CreateDir, &[name], |names| {
            vacant(names, Call::CreateDir, name)?;
            Ok(Action::Name(Change::Made(name.into(), Node::Dir)))
        });
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                directory(&machine.names, Call::CreateDir, name).map_err(|_| e)
            }
            made => made.map(drop),
        }
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        let name = path.as_str();
        let mut machine = self.disk.0.lock();
        machine.begin(self.life, Call::List, &[name], |_| None)?;
        directory(&machine.names, Call::List, name)?;
        let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
        let below =
            machine.names.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let below = below.map_while(|(path, _)| path.strip_prefix(prefix.as_str()));
        Ok(below.filter(|rest| !rest.contains('/')).map(str::to_owned).collect())
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let (from, to) = (from.as_str(), to.as_str());
        let mut machine = self.disk.0.lock();
        let changed = self.change(&mut machine, Call::Rename, &[from, to], |names| {
            let inode = file(names, Call::Rename, from)?;
            directory(names, Call::Rename, parent(to))?;
            if to.is_empty() || names.get(to) == Some(&Node::Dir) {
                return Err(fail(io::ErrorKind::IsADirectory, Call::Rename, to, "is a directory"));
            }
            Ok(Action::Name(Change::Renamed(from.into(), to.into(), Node::File(inode))))
        });
        changed.map(drop)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        let name = path.as_str();
        let mut machine = self.disk.0.lock();
        let changed = self.change(&mut machine, Call::Unlink, &[name], |names| {
            let inode = file(names, Call::Unlink, name)?;
            Ok(Action::Name(Change::Unlinked(name.into(), Node::File(inode))))
        });
        changed.map(drop)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        let name = path.as_str();
        let mut machine = self.disk.0.lock();
        let struck = machine.begin(self.life, Call::SyncDir, &[name], |_| None)?;
        directory(&machine.names, Call::SyncDir, name)?;
        if struck.is_some() {
            machine.unsynced_names.retain(|change| change.dir() != name);
            return Err(eio(Call::SyncDir, name));
        }
        machine.sync_names(name);
        Ok(())
    }

    fn lock(&self, path: &RelPath) -> io::Result<Box<dyn Send + Sync>> {
        let name = path.as_str();
        let mut machine = self.disk.0.lock();
        machine.begin(self.life, Call::Lock, &[name], |_| None)?;
        let inode = file(&machine.names, Call::Lock, name)?;
        if !machine.locks.insert(inode) {
            return Err(fail(io::ErrorKind::WouldBlock, Call::Lock, name, "is locked"));
        }
        Ok(Box::new(SimLock { disk: self.disk.clone(), life: self.life, inode }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut machine = self.disk.0.lock();
        machine.begin(self.life, Call::FreeBytes, &[""], |_| None)?;
        // Without a limit: plenty, but far from where sums overflow.
        Ok(machine.capacity.map_or(1 << 50, |capacity| capacity.saturating_sub(machine.used())))
    }

    fn location(&self) -> PathBuf {
        PathBuf::from("/simulated")
    }
}

/// A lock held on a file; free when dropped, or when the machine stops.
struct SimLock {
    disk: SimDisk,
    life: u64,
    inode: InodeNo,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut machine = self.disk.0.lock();
        if machine.life == self.life {
            machine.locks.remove(&self.inode);
        }
    }
}

/// An open file of a simulated disk. It works on when its name is gone.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    life: u64,
    inode: InodeNo,
    path: String,
    writable: bool,
}

impl SimFile {
    fn write(&self, payload: Payload<'_>, position: u64) -> io::Result<()> {
        let (inode, path, call) = (self.inode, self.path.as_str(), Call::Write);
        if !self.writable {
            return Err(fail(io::ErrorKind::PermissionDenied, call, path, "opened for reading"));
        }
        let mut machine = self.disk.0.lock();
        let struck = machine.begin(self.life, call, &[path], |machine| {
            let room = machine.room(inode, position, payload.len());
            Some(match payload.first(room) {
                Payload::Bytes(bytes) => Action::Write(inode, position, bytes.into()),
                Payload::Zeros(len) => Action::Zeros(inode, position, len),
            })
        })?;
        if struck.is_some() {
            machine.write(inode, payload.first(payload.len() / 2), position);
            return Err(fail(io::ErrorKind::WriteZero, call, path, "short write"));
        }
        let room = machine.room(inode, position, payload.len());
        machine.write(inode, payload.first(room), position);
        if room < payload.len() { Err(full(call, path)) } else { Ok(()) }
    }
}

impl File for SimFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let mut machine = self.disk.0.lock();
        machine.begin(self.life, Call::Read, &[&self.path], |_| None)?;
        let image = &machine.inode(self.inode).cache;
        if image.len < position.saturating_add(buf.len() as u64) {
            let kind = io::ErrorKind::UnexpectedEof;
            return Err(fail(kind, Call::Read, &self.path, "the file ends before"));
        }
        image.get(buf, position);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write(Payload::Bytes(bytes), position)
    }

    fn write_zeros_at(&self, position: u64, len: u64) -> io::Result<()> {
        self.write(Payload::Zeros(len), position)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut machine = self.disk.0.lock();
        let struck = machine.begin(self.life, Call::Sync, &[&self.path], |_| None)?;
        if machine.inode(self.inode).unsynced.is_empty() {
            // Nothing to do, and no reason to part from a copy of the disk.
            return if struck.is_some() { Err(eio(Call::Sync, &self.path)) } else { Ok(()) };
        }
        let inode = machine.inode_mut(self.inode);
        if struck.is_some() {
            inode.lie();
            return Err(eio(Call::Sync, &self.path));
        }
        inode.sync();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        // There is no metadata but the length, which a data sync covers.
        self.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut machine = self.disk.0.lock();
        machine.begin(self.life, Call::DropCache, &[&self.path], |_| None)?;
        let inode = machine.inode(self.inode);
        if inode.lied_len || !inode.lied.is_empty() {
            machine.inode_mut(self.inode).drop_cache();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut machine = self.disk.0.lock();
        machine.begin(self.life, Call::Len, &[&self.path], |_| None)?;
        Ok(machine.inode(self.inode).cache.len)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut machine = self.disk.0.lock();
        if machine.life != self.life {
            return;
        }
        // The inode itself goes when its name is gone for good.
        if let Some(open) = machine.open.get_mut(&self.inode) {
            *open -= 1;
            if *open == 0 {
                machine.open.remove(&self.inode);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text)
    }

    fn create(disk: &SimDisk, name: &str) -> Arc<dyn File> {
        disk.vfs().open(&path(name), Open::CreateNew).unwrap()
    }

    fn open(disk: &SimDisk, name: &str) -> Arc<dyn File> {
        disk.vfs().open(&path(name), Open::Write).unwrap()
    }

    /// A disk with a lasting file of so many sectors, all `fill`.
    fn disk_with(name: &str, sectors: usize, fill: u8) -> SimDisk {
        let disk = SimDisk::new();
        disk.write_file(name, &vec![fill; sectors * SECTOR]);
        disk
    }

    fn cut(disk: &SimDisk, fate: Fate) -> SimDisk {
        let cut = disk.fork();
        cut.power_cut(fate);
        cut
    }

    /// What a file can be after a cut of any fate.
    fn outcomes(disk: &SimDisk, name: &str, mode: Mode, seeds: u64) -> BTreeSet<Option<Vec<u8>>> {
        (0..seeds).map(|seed| cut(disk, Fate::new(mode, seed)).read_file(name)).collect()
    }

    /// The first byte of each sector.
    fn sectors(bytes: &[u8]) -> Vec<u8> {
        bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
        result.err().expect("must fail").kind()
    }

    #[test]
    fn unsynced_bytes_may_vanish_in_any_subset() {
        let disk = disk_with("a", 4, 1);
        open(&disk, "a").write_all_at(&[2; 4 * SECTOR], 0).unwrap();
        let seen = outcomes(&disk, "a", Mode::RandomSubset, 2_000);
        assert_eq!(seen.len(), 16, "every subset of four sectors");
        for bytes in seen.into_iter().flatten() {
            assert!(bytes.chunks(SECTOR).all(|s| s == [1; SECTOR] || s == [2; SECTOR]));
        }
    }

    #[test]
    fn each_of_two_unsynced_versions_may_be_the_one_left() {
        let disk = disk_with("a", 2, 1);
        let file = open(&disk, "a");
        file.write_all_at(&[2; 2 * SECTOR], 0).unwrap();
        file.write_all_at(&[3; 2 * SECTOR], 0).unwrap();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 2_000).len(), 9);
        let newest = cut(&disk, Fate::new(Mode::NewestOnly, 0)).read_file("a").unwrap();
        assert_eq!(sectors(&newest), [3, 3]);
    }

    #[test]
    fn synced_bytes_stay_and_the_rest_goes_by_mode() {
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        file.write_all_at(&[2; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[3; SECTOR], SECTOR as u64).unwrap();
        file.write_all_at(&[4; SECTOR], 2 * SECTOR as u64).unwrap();
        let left = |mode| sectors(&cut(&disk, Fate::new(mode, 7)).read_file("a").unwrap());
        assert_eq!(left(Mode::KeepNone), [2, 1, 1]);
        assert_eq!(left(Mode::KeepAll), [2, 3, 4]);
        assert_eq!(left(Mode::NewestOnly), [2, 1, 4]);
        let prefixes = outcomes(&disk, "a", Mode::Prefix, 100);
        let prefixes: Vec<_> = prefixes.iter().flatten().map(|bytes| sectors(bytes)).collect();
        assert_eq!(prefixes, [vec![2, 1, 1], vec![2, 3, 1], vec![2, 3, 4]]);
    }

    #[test]
    fn a_growing_file_may_have_any_length_and_holes_of_zeros() {
        let disk = disk_with("a", 1, 1);
        open(&disk, "a").write_all_at(&[2; 2 * SECTOR + 100], SECTOR as u64).unwrap();
        let seen = outcomes(&disk, "a", Mode::RandomSubset, 4_000);
        let lens: BTreeSet<usize> = seen.iter().flatten().map(Vec::len).collect();
        assert_eq!(lens, BTreeSet::from([512, 1024, 1536, 1636]));
        for bytes in seen.into_iter().flatten() {
            assert!(bytes[..SECTOR].iter().all(|b| *b == 1));
            let whole = |s: &[u8]| s.iter().all(|b| *b == 0) || s.iter().all(|b| *b == 2);
            assert!(bytes[SECTOR..].chunks(SECTOR).all(whole));
        }
    }

    #[test]
    fn what_survives_beyond_the_surviving_length_is_never_seen() {
        let disk = disk_with("a", 1, 1);
        open(&disk, "a").write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
        for seed in 0..200 {
            let left = cut(&disk, Fate::new(Mode::RandomSubset, seed));
            let file = open(&left, "a");
            if file.len().unwrap() == SECTOR as u64 {
                file.write_all_at(&[3], 2 * SECTOR as u64).unwrap();
                assert_eq!(sectors(&left.read_file("a").unwrap()), [1, 0, 3]);
            }
        }
    }

    #[test]
    fn a_name_without_directory_sync_may_vanish() {
        let disk = SimDisk::new();
        let file = create(&disk, "a");
        file.write_all_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
        let seen = outcomes(&disk, "a", Mode::RandomSubset, 50);
        assert_eq!(seen, BTreeSet::from([None, Some(b"x".to_vec())]));
        disk.vfs().sync_dir(&path("")).unwrap();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 50).len(), 1);
        assert_eq!(disk.unsynced(), 0);
    }

    #[test]
    fn a_directory_is_a_name_in_its_parent() {
        let disk = SimDisk::new();
        let vfs = disk.vfs();
        vfs.create_dir(&path("d")).unwrap();
        create(&disk, "d/a");
        vfs.sync_dir(&path("d")).unwrap();
        assert_eq!(cut(&disk, Fate::new(Mode::KeepNone, 0)).files(), Vec::<String>::new());
        vfs.sync_dir(&path("")).unwrap();
        assert_eq!(cut(&disk, Fate::new(Mode::KeepNone, 0)).files(), ["d/a"]);
    }

    #[test]
    fn a_rename_is_whole_or_not_at_all() {
        let disk = disk_with("CURRENT", 1, 1);
        let vfs = disk.vfs();
        for round in 2..5 {
            let file = create(&disk, "tmp");
            file.write_all_at(&[round; SECTOR], 0).unwrap();
            file.sync_all().unwrap();
            vfs.sync_dir(&path("")).unwrap();
            vfs.rename(&path("tmp"), &path("CURRENT")).unwrap();
            let both = |disk: &SimDisk| {
                let first = |name| disk.read_file(name).map(|bytes| bytes[0]);
                (first("CURRENT"), first("tmp"))
            };
            for seed in 0..200 {
                let seen = both(&cut(&disk, Fate::random(seed)));
                let (old, new) = ((Some(round - 1), Some(round)), (Some(round), None));
                assert!(seen == old || seen == new, "{seen:?}");
            }
        }
    }

    #[test]
    fn what_was_renamed_keeps_a_name_when_the_old_one_is_used_again() {
        let disk = SimDisk::new();
        disk.write_file("d/old", b"");
        disk.write_file("tmp", b"1");
        let vfs = disk.vfs();
        vfs.rename(&path("tmp"), &path("d/1")).unwrap();
        create(&disk, "tmp").write_all_at(b"2", 0).unwrap();
        let check = |disk: &SimDisk| {
            for seed in 0..500 {
                let left = cut(disk, Fate::random(seed));
                let named = left.files().into_iter().filter_map(|name| left.read_file(&name));
                assert_eq!(named.filter(|bytes| bytes == b"1").count(), 1);
            }
        };
        check(&disk);
        // The sync of the old directory must not lose it either.
        vfs.sync_dir(&path("")).unwrap();
        check(&disk);
        assert_eq!(cut(&disk, Fate::new(Mode::KeepNone, 0)).read_file("d/1").unwrap(), b"1");
    }

    #[test]
    fn a_created_and_renamed_file_never_has_both_names() {
        let disk = SimDisk::new();
        disk.write_file("d/old", b"");
        create(&disk, "tmp");
        disk.vfs().rename(&path("tmp"), &path("d/1")).unwrap();
        for round in 0..2 {
            for seed in 0..200 {
                let left = cut(&disk, Fate::random(seed)).files();
                assert!(left.len() <= 2, "{left:?}");
                assert!(round == 0 || left == ["d/1", "d/old"], "{left:?}");
            }
            disk.vfs().sync_dir(&path("d")).unwrap();
        }
    }

    #[test]
    fn an_unlinked_name_may_come_back_with_its_durable_content() {
        let disk = disk_with("a", 1, 1);
        let file = open(&disk, "a");
        disk.vfs().unlink(&path("a")).unwrap();
        let mut buf = [0];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [1], "an open file outlives its name");
        drop(file);
        let seen = outcomes(&disk, "a", Mode::RandomSubset, 50);
        assert_eq!(seen, BTreeSet::from([None, Some(vec![1; SECTOR])]));
        disk.vfs().sync_dir(&path("")).unwrap();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 50), BTreeSet::from([None]));
        assert!(disk.0.lock().inodes.is_empty(), "nothing is kept of it");
    }

    #[test]
    fn a_failed_sync_lies_afterwards() {
        let disk = disk_with("a", 2, 1);
        let file = open(&disk, "a");
        disk.inject(Fault::new(Call::Sync, What::SyncFailsPageClean));
        file.write_all_at(&[2; 2 * SECTOR], SECTOR as u64).unwrap();
        assert!(!is_crash(&file.sync_data().unwrap_err()));
        file.write_all_at(&[3; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(sectors(&disk.read_file("a").unwrap()), [3, 2, 2]);
        let left = cut(&disk, Fate::new(Mode::KeepAll, 0)).read_file("a").unwrap();
        assert_eq!(sectors(&left), [3, 1], "the disk never got it, nor the length");
        // Written once more, it is like any other write.
        file.write_all_at(&[4; SECTOR], SECTOR as u64).unwrap();
        file.sync_data().unwrap();
        assert_eq!(sectors(&disk.durable_file("a").unwrap()), [3, 4]);
    }

    #[test]
    fn drop_cache_shows_what_the_disk_has() {
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        disk.inject(Fault::new(Call::Sync, What::SyncFailsPageClean));
        file.write_all_at(&[2; 3 * SECTOR], SECTOR as u64).unwrap();
        file.sync_data().unwrap_err();
        file.write_all_at(&[3; SECTOR], 0).unwrap();
        file.write_all_at(&[4; SECTOR], 2 * SECTOR as u64).unwrap();
        file.drop_cache().unwrap();
        let shown = disk.read_file("a").unwrap();
        assert_eq!(sectors(&shown), [3, 1, 4], "dirty pages stay, clean ones are read again");
        file.sync_data().unwrap();
        assert_eq!(disk.durable_file("a").unwrap(), shown);
    }

    #[test]
    fn a_failed_directory_sync_may_lie_too() {
        let disk = SimDisk::new();
        create(&disk, "a");
        disk.inject(Fault::new(Call::SyncDir, What::SyncFailsPageClean));
        disk.vfs().sync_dir(&path("")).unwrap_err();
        disk.vfs().sync_dir(&path("")).unwrap();
        assert_eq!(disk.files(), ["a"]);
        assert!(cut(&disk, Fate::new(Mode::KeepAll, 0)).files().is_empty());
    }

    #[test]
    fn old_handles_are_dead_after_a_cut() {
        let disk = disk_with("a", 1, 1);
        let (vfs, file) = (disk.vfs(), open(&disk, "a"));
        let guard = vfs.lock(&path("a")).unwrap();
        assert_eq!(kind(vfs.lock(&path("a"))), io::ErrorKind::WouldBlock);
        for stop in [|d: &SimDisk| d.power_cut(Fate::random(1)), SimDisk::kill] {
            stop(&disk);
            assert!(is_crash(&file.sync_data().unwrap_err()));
            assert!(is_crash(&file.len().unwrap_err()));
            assert!(is_crash(&vfs.list(&path("")).unwrap_err()));
        }
        let _new = disk.vfs().lock(&path("a")).unwrap();
        drop(guard);
        let again = kind(disk.vfs().lock(&path("a")));
        assert_eq!(again, io::ErrorKind::WouldBlock, "a dead guard frees nothing");
    }

    #[test]
    fn a_kill_keeps_the_page_cache() {
        let disk = SimDisk::new();
        create(&disk, "a").write_all_at(b"x", 0).unwrap();
        disk.kill();
        assert_eq!(disk.read_file("a").unwrap(), b"x");
        open(&disk, "a").sync_all().unwrap();
        assert_eq!(disk.read_file("a").unwrap(), b"x");
        disk.power_cut(Fate::new(Mode::KeepNone, 0));
        assert_eq!(disk.read_file("a"), None);
    }

    /// A few calls of every kind; ends at the first error.
    fn history(disk: &SimDisk) -> io::Result<()> {
        let vfs = disk.vfs();
        vfs.create_dir(&path("d"))?;
        vfs.sync_dir(&path(""))?;
        let file = vfs.open(&path("d/tmp"), Open::CreateNew)?;
        file.write_zeros_at(0, 6000)?;
        file.sync_all()?;
        file.write_all_at(&[7; 3000], 500)?;
        file.write_all_at(&[8; 3000], 4500)?;
        file.sync_data()?;
        vfs.rename(&path("d/tmp"), &path("d/a"))?;
        vfs.sync_dir(&path("d"))?;
        vfs.unlink(&path("d/a"))
    }

    #[test]
    fn crash_at_n_stops_everything_from_n_on() {
        let whole = SimDisk::new();
        history(&whole).unwrap();
        assert_eq!(whole.ops(), 11);
        for n in 1..=whole.ops() {
            let disk = SimDisk::new();
            disk.crash_at(n);
            assert!(is_crash(&history(&disk).unwrap_err()));
            assert!(disk.is_stopped());
            assert_eq!(disk.ops(), n);
            assert!(is_crash(&history(&disk).unwrap_err()));
            assert_eq!(disk.ops(), n, "the dead do not count");
            disk.power_cut(Fate::random(n));
            disk.vfs().create_dir(&path("new life")).unwrap();
        }
    }

    #[test]
    fn the_dying_write_may_be_torn_and_the_dying_sync_promises_nothing() {
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        disk.crash_at(disk.ops() + 1);
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap_err();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 1_000).len(), 8);
        let disk = disk_with("a", 3, 1);
        let file = open(&disk, "a");
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap();
        disk.crash_at(disk.ops() + 1);
        file.sync_data().unwrap_err();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 1_000).len(), 8);
        let disk = disk_with("a", 3, 1);
        disk.crash_at(disk.ops() + 1);
        disk.vfs().unlink(&path("a")).unwrap_err();
        assert_eq!(outcomes(&disk, "a", Mode::RandomSubset, 100).len(), 2);
    }

    #[test]
    fn a_killed_call_is_done_in_part_or_whole_or_not() {
        let lens: BTreeSet<usize> = (1..200)
            .map(|n| {
                let disk = SimDisk::new();
                disk.write_file("a", b"");
                let file = open(&disk, "a");
                (1..n).for_each(|_| file.sync_data().unwrap());
                disk.crash_at(n);
                file.write_all_at(&[1; 3], 0).unwrap_err();
                disk.kill();
                disk.read_file("a").unwrap().len()
            })
            .collect();
        assert_eq!(lens, BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn a_recorded_crash_point_is_the_disk_as_crash_at_leaves_it() {
        let recorded = SimDisk::new();
        recorded.record_crash_points();
        history(&recorded).unwrap();
        let points = recorded.take_crash_points();
        assert_eq!(points.len() as u64, recorded.ops());
        assert!(recorded.take_crash_points().is_empty());
        for (n, point) in (1..).zip(&points) {
            let disk = SimDisk::new();
            disk.crash_at(n);
            history(&disk).unwrap_err();
            assert_eq!((point.ops(), point.is_stopped()), (n, true));
            for seed in 0..50 {
                let (one, two) = (cut(point, Fate::random(seed)), cut(&disk, Fate::random(seed)));
                assert_eq!(contents(&one), contents(&two));
            }
            point.kill();
            disk.kill();
            assert_eq!(contents(point), contents(&disk));
        }
    }

    fn contents(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
        let read = |name: String| (name.clone(), disk.read_file(&name));
        disk.files().into_iter().map(read).collect()
    }

    #[test]
    fn same_seed_same_fate() {
        let disk = SimDisk::new();
        for n in 0..20 {
            create(&disk, &format!("f{n}")).write_all_at(&[n; 5000], u64::from(n)).unwrap();
        }
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let fate = Fate::new(Mode::RandomSubset, seed);
            let one = contents(&cut(&disk, fate));
            assert_eq!(one, contents(&cut(&disk, fate)));
            seen.insert(one);
        }
        assert!(70 < seen.len(), "other seeds, other fates: {}", seen.len());
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let disk = disk_with("a", 20, 1);
        let fork = disk.fork();
        open(&disk, "a").write_all_at(&[2; SECTOR], 0).unwrap();
        open(&fork, "a").write_all_at(&[3; SECTOR], 0).unwrap();
        open(&fork, "a").sync_data().unwrap();
        fork.vfs().unlink(&path("a")).unwrap();
        assert_eq!(disk.read_file("a").unwrap()[0], 2);
        assert_eq!(disk.durable_file("a").unwrap()[0], 1);
    }

    #[test]
    fn capacity_gives_storage_full() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(3 * PAGE as u64));
        let (a, b) = (create(&disk, "a"), create(&disk, "b"));
        a.write_zeros_at(0, 2 * PAGE as u64).unwrap();
        assert_eq!(disk.vfs().free_bytes().unwrap(), PAGE as u64);
        assert_eq!(kind(b.write_all_at(&[1; 2 * PAGE], 0)), io::ErrorKind::StorageFull);
        assert_eq!(b.len().unwrap(), PAGE as u64, "what fits is written");
        a.write_all_at(&[1; 2 * PAGE], 0).unwrap();
        assert_eq!(kind(a.write_all_at(&[1], 2 * PAGE as u64)), io::ErrorKind::StorageFull);
        disk.vfs().unlink(&path("b")).unwrap();
        assert_eq!(disk.vfs().free_bytes().unwrap(), 0, "it is open");
        drop(b);
        a.write_all_at(&[1], 2 * PAGE as u64).unwrap();
    }

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

    #[test]
    fn damage_is_on_the_disk() {
        let disk = disk_with("a", 3, 1);
        disk.flip_bit("a", 0, 7);
        disk.zero_sector("a", 1);
        disk.truncate("a", 1100);
        let bytes = disk.read_file("a").unwrap();
        assert_eq!((sectors(&bytes), bytes.len()), (vec![129, 0, 1], 1100));
        assert_eq!(disk.durable_file("a").unwrap(), bytes);
        disk.remove("a");
        disk.power_cut(Fate::new(Mode::KeepAll, 0));
        assert!(disk.files().is_empty());
    }

    #[test]
    fn names_obey_the_rules_of_the_seam() {
        let disk = disk_with("d/a", 1, 1);
        let vfs = disk.vfs();
        assert_eq!(kind(vfs.open(&path("b"), Open::Read)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.open(&path("x/b"), Open::CreateNew)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.open(&path("d/a"), Open::CreateNew)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.create_dir(&path("d/a"))), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.rename(&path("d/b"), &path("d/c"))), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.unlink(&path("d"))), io::ErrorKind::IsADirectory);
        assert_eq!(kind(vfs.sync_dir(&path("e"))), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.lock(&path("LOCK"))), io::ErrorKind::NotFound);
        vfs.create_dir(&path("d")).unwrap();
        vfs.create_dir(&path("d/e")).unwrap();
        create(&disk, "d/e/f");
        assert_eq!(vfs.list(&path("")).unwrap(), ["d"]);
        assert_eq!(vfs.list(&path("d")).unwrap(), ["a", "e"]);
        let read_only = vfs.open(&path("d/a"), Open::Read).unwrap();
        assert_eq!(kind(read_only.write_all_at(b"x", 0)), io::ErrorKind::PermissionDenied);
        assert_eq!(kind(read_only.read_exact_at(&mut [0], 512)), io::ErrorKind::UnexpectedEof);
    }

    /// Random writes and syncs beside a plain copy of what was seen and what was synced.
    #[test]
    fn keep_all_is_what_was_seen_and_keep_none_what_was_synced() {
        for seed in 0..200 {
            let mut rng = SimRng::new(seed);
            let disk = disk_with("a", 0, 0);
            let file = open(&disk, "a");
            let (mut seen, mut synced) = (Vec::new(), Vec::new());
            for _ in 0..30 {
                let (from, len) = (rng.below(20_000) as usize, rng.below(9_000) as usize);
                let fill = rng.below(4) as u8;
                match rng.below(6) {
                    0 => {
                        file.sync_data().unwrap();
                        synced.clone_from(&seen);
                        continue;
                    }
                    1 => file.write_all_at(&vec![fill; len], from as u64).unwrap(),
                    _ if fill == 0 => file.write_zeros_at(from as u64, len as u64).unwrap(),
                    _ => file.write_all_at(&vec![fill; len], from as u64).unwrap(),
                }
                if 0 < len {
                    seen.resize(seen.len().max(from + len), 0);
                    seen[from..from + len].fill(fill);
                }
            }
            let left = |mode| cut(&disk, Fate::new(mode, seed)).read_file("a").unwrap();
            assert_eq!(disk.read_file("a").unwrap(), seen);
            assert_eq!(disk.durable_file("a").unwrap(), synced);
            assert_eq!(left(Mode::KeepAll), seen);
            assert_eq!(left(Mode::KeepNone), synced);
        }
    }

    #[test]
    fn the_clock_moves_only_by_hand_and_the_wall_either_way() {
        let disk = SimDisk::new();
        let clock = SimClock::new(1_000);
        let platform = platform(&disk, &clock, 1);
        clock.advance(Duration::from_micros(2_500));
        assert_eq!((platform.clock.wall_ms(), platform.clock.mono().as_micros()), (1_002, 2_500));
        clock.set_wall_ms(7);
        clock.advance(Duration::from_millis(1));
        assert_eq!((platform.clock.wall_ms(), platform.clock.mono().as_micros()), (8, 3_500));
    }

    #[test]
    fn same_seed_same_randomness() {
        let ids = |seed| {
            let platform = platform(&SimDisk::new(), &SimClock::new(0), seed);
            (platform.random_id(), platform.random_u64())
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        let mut rng = SimRng::new(0);
        assert_eq!(rng.next_u64(), 0xe220_a839_7b1d_cdaf, "splitmix64 as published");
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
