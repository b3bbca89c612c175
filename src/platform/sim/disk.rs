//! The disk as tests hold it: crashes, faults and damage to order, and a look at what is there.
//!
//! What it deliberately does not do: open files. That goes through the seam.

use std::{fmt, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    fate::Fate,
    fault::Fault,
    image::{Image, PAGE, Payload, SECTOR, SECTORS_PER_PAGE, page_mut},
    inode::Inode,
    machine::Machine,
    names::Node,
};

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

    fn of(machine: Machine) -> Self {
        Self(Arc::new(Mutex::new(machine)))
    }

    /// The machine, for as long as the guard lives.
    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock()
    }

    /// Another disk in the same state: unsynced changes, faults and the call in flight included,
    /// handles, locks and recorded crash points not.
    pub fn fork(&self) -> SimDisk {
        let machine = self.machine();
        let mut copy = machine.copy_stopped(machine.in_flight.clone());
        copy.stopped = machine.stopped;
        copy.crash_at = machine.crash_at;
        Self::of(copy)
    }

    /// Cuts the power: of what is unsynced stays what the fate keeps. All handles die.
    pub fn power_cut(&self, fate: Fate) {
        self.machine().power_cut(fate);
    }

    /// Kills the process: the page cache stays. All handles die and locks are free. A call in
    /// which the machine was stopped may have been done, in part, or not.
    pub fn kill(&self) {
        self.machine().kill();
    }

    /// Operations so far, over all lives. Of a recorded crash point: the one it stopped in.
    pub fn ops(&self) -> u64 {
        self.machine().ops
    }

    /// Stops the machine in this operation, counted as by [`SimDisk::ops`] from 1: it and all
    /// calls after it fail, until a power cut or a kill, which also forget the crash point.
    pub fn crash_at(&self, op: u64) {
        self.machine().crash_at = Some(op);
    }

    /// Whether the crash point was reached.
    pub fn is_stopped(&self) -> bool {
        self.machine().stopped
    }

    /// Counts reads, too, as operations, or no more.
    pub fn count_reads(&self, count: bool) {
        self.machine().count_reads = count;
    }

    /// Keeps, from now on, a copy of the disk as stopped in each operation.
    pub fn record_crash_points(&self) {
        self.machine().crash_points.get_or_insert_default();
    }

    /// The copies since the last call, oldest first. They wait for a power cut or a kill.
    pub fn take_crash_points(&self) -> Vec<SimDisk> {
        let points = self.machine().crash_points.as_mut().map(std::mem::take);
        points.unwrap_or_default().into_iter().map(Self::of).collect()
    }

    /// Unsynced sectors and names: what a power cut decides about. Zero means that it changes
    /// nothing, but for what a failed sync lied about.
    pub fn unsynced(&self) -> u64 {
        self.machine().unsynced()
    }

    /// Lets a fault wait for its call.
    pub fn inject(&self, fault: Fault) {
        self.machine().faults.push(fault);
    }

    /// How many faults have not struck yet, or last.
    pub fn faults_left(&self) -> usize {
        self.machine().faults.len()
    }

    /// Takes back faults that have not struck, and lasting ones.
    pub fn clear_faults(&self) {
        self.machine().faults.clear();
    }

    /// Limits the space for file content, in bytes counted by pages; `None` is no limit. A write
    /// that finds too little writes what fits and fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine().capacity = bytes;
    }

    /// Paths of all files, sorted, as calls see them.
    pub fn files(&self) -> Vec<String> {
        let machine = self.machine();
        let files = machine.names.iter().filter(|(_, node)| node.inode().is_some());
        files.map(|(path, _)| path.to_string()).collect()
    }

    /// A file's bytes as reads show them.
    pub fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        let machine = self.machine();
        let inode = machine.names.get(path)?.inode()?;
        Some(machine.inode(inode).cache.bytes())
    }

    /// A number that tells a file's bytes, as reads show them, from any others. What was not
    /// changed since it was last asked for, here or on a disk that this one was forked from, is
    /// not looked at again.
    pub fn digest(&self, path: &str) -> Option<u128> {
        let machine = self.machine();
        Some(machine.inode(machine.names.get(path)?.inode()?).digest())
    }

    /// The same of all names and files. Of two disks on which nothing is unsynced, those with one
    /// digest are alike in everything that a store can see.
    pub fn digest_all(&self) -> u128 {
        let machine = self.machine();
        let mut hash = Xxh3Default::new();
        for (path, node) in &*machine.names {
            hash.update(path.as_bytes());
            // No path holds a zero byte.
            hash.update(&[0, u8::from(node.inode().is_some())]);
            if let Some(inode) = node.inode() {
                hash.update(&machine.inode(inode).digest().to_le_bytes());
            }
        }
        hash.digest128()
    }

    /// A file's bytes as the disk has them, if it has the name.
    pub fn durable_file(&self, path: &str) -> Option<Vec<u8>> {
        let machine = self.machine();
        let inode = machine.durable_names.get(path)?.inode()?;
        let mut image = machine.inode(inode).durable.clone();
        image.trim();
        Some(image.bytes())
    }

    /// Makes a file of these bytes, lasting, with the directories it needs. Handles of a file of
    /// that name before keep the old one.
    pub fn write_file(&self, path: &str, bytes: &[u8]) {
        let mut machine = self.machine();
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
        let mut machine = self.machine();
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

    /// Puts other bytes in the place of some, in what the disk has and in what reads show. Unsynced
    /// writes are not touched.
    ///
    /// # Panics
    /// If there is no such file, or it ends before.
    pub fn overwrite(&self, path: &str, position: u64, bytes: &[u8]) {
        let Some(last) = (bytes.len() as u64).checked_sub(1) else { return };
        self.damage(path, position + last, |image| image.put(Payload::Bytes(bytes), position));
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
        let mut machine = self.machine();
        let inode = machine.names.get(path).and_then(Node::inode);
        change(machine.inode_mut(inode.unwrap_or_else(|| panic!("no file {path}"))));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::platform::{
        Vfs,
        sim::{
            Mode,
            scene::{disk_with, open, path, sectors},
        },
    };

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
    fn disks_have_one_digest_exactly_if_they_hold_the_same() {
        let disk = disk_with("d/a", 20, 1);
        let (before, of_file) = (disk.digest_all(), disk.digest("d/a"));
        let changed = |change: &dyn Fn(&SimDisk)| {
            let fork = disk.fork();
            assert_eq!(fork.digest_all(), before);
            change(&fork);
            fork.digest_all()
        };
        let flip = |byte| changed(&|disk| disk.flip_bit("d/a", byte, 0));
        let digests = BTreeSet::from([
            before,
            flip(0),
            flip(1),
            flip(4_096),
            changed(&|disk| disk.zero_sector("d/a", 3)),
            changed(&|disk| disk.truncate("d/a", 512)),
            changed(&|disk| disk.write_file("d/b", b"")),
            changed(&|disk| disk.remove("d/a")),
            changed(&|disk| disk.vfs().rename(&path("d/a"), &path("d/b")).unwrap()),
            changed(&|disk| disk.vfs().create_dir(&path("e")).unwrap()),
        ]);
        assert_eq!(digests.len(), 10);
        assert_eq!((disk.digest_all(), disk.digest("d/a")), (before, of_file));
        disk.flip_bit("d/a", 0, 0);
        assert!(disk.digest("d/a") != of_file);
        disk.flip_bit("d/a", 0, 0);
        assert_eq!((disk.digest_all(), disk.digest("d/a")), (before, of_file));
        open(&disk, "d/a").write_zeros_at(20 * SECTOR as u64, 8_192).unwrap();
        let zeros = disk.fork();
        open(&disk, "d/a").write_all_at(&[0; 8_192], 20 * SECTOR as u64).unwrap();
        assert_eq!(disk.digest_all(), zeros.digest_all(), "zeros are zeros, written or not");
    }

    #[test]
    fn damage_is_on_the_disk() {
        let disk = disk_with("a", 3, 1);
        disk.flip_bit("a", 0, 7);
        disk.zero_sector("a", 1);
        disk.truncate("a", 1100);
        disk.overwrite("a", 1024, &[2; 76]);
        let bytes = disk.read_file("a").unwrap();
        assert_eq!((sectors(&bytes), bytes.len()), (vec![129, 0, 2], 1100));
        assert_eq!(disk.durable_file("a").unwrap(), bytes);
        disk.remove("a");
        disk.power_cut(Fate::new(Mode::KeepAll, 0));
        assert!(disk.files().is_empty());
    }
}
