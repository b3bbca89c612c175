//! The directory of a running store as it was at one moment, for whoever must see all of it so.
//!
//! Promises: of the files that a store writes to while it runs, the journal's slots and the manifest,
//! nothing is seen that was written after [`at_this_moment`] looked, and no file that came since is
//! in any folder. Recovery reads such a directory
//! as if its store had ended then.
//!
//! What it deliberately does not do: keep what is written over. A slot that is used again while it is
//! read is not what it was, and a pack that is merged into another one is gone; whoever reads finds
//! damage then, and looks again.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use crate::{
    format::{PAGE_BYTES, file_name},
    journal::scan::SlotFile,
    platform::{File, Mapped, Open, Platform, RelPath, Space, Vfs},
};

/// A directory of which some files stand still.
struct StillVfs {
    inner: Arc<dyn Vfs>,
    files: BTreeMap<RelPath, Arc<StillFile>>,
    folders: BTreeMap<RelPath, Vec<String>>,
}

/// A file as far as it was written to.
struct StillFile {
    inner: Arc<dyn File>,
    bytes: u64,
    /// The first page: what follows belongs to it.
    head: Vec<u8>,
    /// What stands behind this was not there.
    end: u64,
}

/// The platform of a running store, which is written to meanwhile, as it is now.
///
/// # Errors
/// Whatever the operating system says; a file that was just replaced is not found.
pub(super) fn at_this_moment(platform: &Platform) -> io::Result<Platform> {
    let vfs = &*platform.vfs;
    let root = vfs.list(&file_name::root())?;
    // Before the manifest: a pack that comes while all this is read is none that was left behind.
    let mut folders = BTreeMap::new();
    for folder in [file_name::packs(), file_name::tmp()] {
        folders.extend(listed(vfs, &folder)?.map(|names| (folder, names)));
    }
    let mut files = BTreeMap::new();
    // The slots behind the manifest: what it lists by now is there.
    for number in root.iter().filter_map(|name| file_name::parse_manifest(name)) {
        let path = file_name::manifest(number);
        let head = head_of(vfs, &path)?;
        files.insert(path.clone(), Arc::new(stopped(vfs, &path, head)?));
    }
    let journal = listed(vfs, &file_name::journal())?;
    let slots = journal.iter().flatten().filter_map(|name| file_name::parse_slot(name));
    // All headers first, for that is quick: a slot that is taken into use behind this is an old one.
    let heads = slots.map(file_name::slot).map(|path| Ok((head_of(vfs, &path)?, path)));
    for (head, path) in heads.collect::<io::Result<Vec<_>>>()? {
        files.insert(path.clone(), Arc::new(stopped(vfs, &path, head)?));
    }
    folders.insert(file_name::root(), root);
    folders.extend(journal.map(|names| (file_name::journal(), names)));
    let vfs = Arc::new(StillVfs { inner: platform.vfs.clone(), files, folders });
    Ok(Platform { vfs, ..platform.clone() })
}

/// The names in a folder; none if there is no such folder.
fn listed(vfs: &dyn Vfs, folder: &RelPath) -> io::Result<Option<Vec<String>>> {
    match vfs.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        names => names.map(Some),
    }
}

fn head_of(vfs: &dyn Vfs, path: &RelPath) -> io::Result<Vec<u8>> {
    SlotFile::open(vfs, path.clone())?.bytes_at(0, PAGE_BYTES)
}

/// A file, to be seen as far as it is written to by now.
fn stopped(vfs: &dyn Vfs, path: &RelPath, head: Vec<u8>) -> io::Result<StillFile> {
    let (inner, file) = (vfs.open(path, Open::Read)?, SlotFile::open(vfs, path.clone())?);
    Ok(StillFile { inner, bytes: file.bytes(), head, end: file.written()? })
}

impl Vfs for StillVfs {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        match (self.files.get(path), how) {
            (Some(file), Open::Read) => Ok(file.clone()),
            _ => self.inner.open(path, how),
        }
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        match self.folders.get(path) {
            Some(names) => Ok(names.clone()),
            None => self.inner.list(path),
        }
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        self.inner.unlink(path)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.inner.sync_dir(path)
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

impl File for StillFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let end = position.checked_add(buf.len() as u64);
        if end.is_none_or(|end| self.bytes < end) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_exact_at(buf, position)?;
        let seen = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        if let Some(unseen) = buf.get_mut(seen..) {
            unseen.fill(0);
        }
        if let Some(head) = self.head.get(usize::try_from(position).unwrap_or(usize::MAX)..) {
            let len = head.len().min(buf.len());
            buf[..len].copy_from_slice(&head[..len]);
        }
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.inner.write_all_at(bytes, position)
    }

    fn write_zeros_at(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.write_zeros_at(position, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.inner.drop_cache()
    }

    fn will_need(&self, position: u64, len: u64) {
        self.inner.will_need(position, len);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    /// Refused: only packs are mapped, and those never change.
    fn map(&self, _: u64, _: usize) -> io::Result<Mapped> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
