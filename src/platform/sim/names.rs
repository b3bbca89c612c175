//! Names and what they name, and the unsynced changes that lead from the lasting names to those
//! that calls see. A name is the whole path.
//!
//! What it deliberately does not do: choose which changes last. It says what a choice brings with
//! it, so that no file loses its name to half a rename or is left with two.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use super::{
    fault::{Call, fail},
    inode::InodeNo,
};

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(InodeNo),
    Dir,
}

impl Node {
    pub(super) fn inode(&self) -> Option<InodeNo> {
        match self {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }
    }
}

/// Whole paths and what they name; the root has no entry.
pub(super) type Names = BTreeMap<Arc<str>, Node>;

#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A file or directory made.
    Made(Arc<str>, Node),
    Renamed(Arc<str>, Arc<str>, Node),
    Unlinked(Arc<str>, Node),
}

/// One change of names, unsynced.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    /// Place in the order of all unsynced changes of the disk.
    pub(super) order: u64,
    pub(super) change: Change,
}

impl NameChange {
    pub(super) fn concerns(&self, name: &str) -> bool {
        match &self.change {
            Change::Made(path, _) | Change::Unlinked(path, _) => **path == *name,
            Change::Renamed(from, to, _) => **from == *name || **to == *name,
        }
    }

    /// The directory whose sync makes it last.
    pub(super) fn dir(&self) -> &str {
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

    /// What it makes, moves or unlinks.
    pub(super) fn node(&self) -> &Node {
        match &self.change {
            Change::Made(_, node) | Change::Renamed(.., node) | Change::Unlinked(_, node) => node,
        }
    }

    pub(super) fn apply(&self, names: &mut Names) {
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

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Adds to the surviving changes those that they cannot be without. A rename that took a name away
/// is done if the name was given anew after it, else what it moved would have no name; and a name
/// moved away was there before, else it could come back and be a second one.
pub(super) fn close_under_causes(changes: &[NameChange], keep: &mut [bool]) {
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
pub(super) fn drop_orphans(names: &mut Names) {
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

/// The file of a name.
pub(super) fn file(names: &Names, call: Call, path: &str) -> io::Result<InodeNo> {
    match names.get(path) {
        Some(Node::File(inode)) => Ok(*inode),
        Some(Node::Dir) => Err(fail(io::ErrorKind::IsADirectory, call, path, "is a directory")),
        None => {
            directory(names, call, parent(path))?;
            Err(fail(io::ErrorKind::NotFound, call, path, "no such file"))
        }
    }
}

pub(super) fn directory(names: &Names, call: Call, path: &str) -> io::Result<()> {
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
pub(super) fn vacant(names: &Names, call: Call, path: &str) -> io::Result<()> {
    directory(names, call, parent(path))?;
    if path.is_empty() || names.contains_key(path) {
        return Err(fail(io::ErrorKind::AlreadyExists, call, path, "exists already"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{
        Vfs,
        sim::{
            Fate, Fault, Mode, SECTOR, SimDisk, What,
            scene::{create, cut, disk_with, open, outcomes, path},
        },
    };

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
        assert!(disk.machine().inodes.is_empty(), "nothing is kept of it");
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
}
