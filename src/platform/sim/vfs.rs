//! The names of a simulated disk behind the seam, for one life of the machine.
//!
//! What it deliberately does not do: link, truncate, or move directories. The seam has no such
//! calls.

use std::{io, ops::Bound, path::PathBuf, sync::Arc};

use super::{
    disk::SimDisk,
    fault::{Call, eio, fail},
    file::SimFile,
    inode::InodeNo,
    machine::{Action, Machine},
    names::{Change, Names, Node, directory, file, parent, vacant},
};
use crate::platform::{File, Open, RelPath, Space, Vfs};

impl SimDisk {
    /// The names on it, until the next power cut or kill.
    pub fn vfs(&self) -> SimVfs {
        SimVfs { life: self.machine().life, disk: self.clone() }
    }
}

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

impl Vfs for SimVfs {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        let name = path.as_str();
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
        let changed = self.change(&mut machine, Call::Unlink, &[name], |names| {
            let inode = file(names, Call::Unlink, name)?;
            Ok(Action::Name(Change::Unlinked(name.into(), Node::File(inode))))
        });
        changed.map(drop)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        let name = path.as_str();
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
        machine.begin(self.life, Call::Lock, &[name], |_| None)?;
        let inode = file(&machine.names, Call::Lock, name)?;
        if !machine.locks.insert(inode) {
            return Err(fail(io::ErrorKind::WouldBlock, Call::Lock, name, "is locked"));
        }
        Ok(Box::new(SimLock { disk: self.disk.clone(), life: self.life, inode }))
    }

    fn space(&self) -> io::Result<Space> {
        let mut machine = self.disk.machine();
        machine.begin(self.life, Call::FreeBytes, &[""], |_| None)?;
        // Without a limit: plenty, but far from where sums overflow.
        let total = machine.capacity.unwrap_or(1 << 50);
        Ok(Space { free: total.saturating_sub(machine.used()), total })
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
        let mut machine = self.disk.machine();
        if machine.life == self.life {
            machine.locks.remove(&self.inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sim::scene::{create, disk_with, kind, path};

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
}
