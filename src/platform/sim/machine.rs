//! The machine: its files, names, handles and locks, and what each call does to them in turn.
//!
//! Every call begins with [`Machine::begin`], which counts it, and stops the machine or fails the
//! call where a test wants it.
//!
//! What it deliberately does not do: know who calls, or what is left of it after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use super::{
    fault::{Call, Fault, What, dead, strike},
    image::{PAGE, Payload},
    inode::{Inode, InodeNo},
    names::{Change, NameChange, Names, Node, close_under_causes},
};

/// What a call is about to do, or was doing when the machine stopped.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Write(InodeNo, u64, Arc<[u8]>),
    Zeros(InodeNo, u64, u64),
    Create(Arc<str>),
    Name(Change),
}

/// The state of the machine, behind the lock of its disk.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) inodes: BTreeMap<InodeNo, Arc<Inode>>,
    inode_next: InodeNo,
    /// Handles by inode.
    pub(super) open: BTreeMap<InodeNo, u32>,
    pub(super) locks: BTreeSet<InodeNo>,
    /// Names as calls see them.
    pub(super) names: Arc<Names>,
    /// Names as the disk has them.
    pub(super) durable_names: Arc<Names>,
    /// What makes the one into the other, oldest first.
    pub(super) unsynced_names: Vec<NameChange>,
    order_next: u64,
    pub(super) capacity: Option<u64>,
    pub(super) faults: Vec<Fault>,
    /// Counts power cuts and kills; handles of an earlier life are dead.
    pub(super) life: u64,
    pub(super) ops: u64,
    pub(super) count_reads: bool,
    pub(super) crash_at: Option<u64>,
    pub(super) stopped: bool,
    pub(super) in_flight: Option<Action>,
    /// Copies of this machine as stopped in each operation, if wanted.
    pub(super) crash_points: Option<Vec<Machine>>,
}

impl Machine {
    fn order(&mut self) -> u64 {
        self.order_next += 1;
        self.order_next
    }

    pub(super) fn inode(&self, inode: InodeNo) -> &Inode {
        self.inodes.get(&inode).expect("an inode with a name or a handle is kept")
    }

    pub(super) fn inode_mut(&mut self, inode: InodeNo) -> &mut Inode {
        let inode = self.inodes.get_mut(&inode);
        let inode = Arc::make_mut(inode.expect("an inode with a name or a handle is kept"));
        inode.forget_digest();
        inode
    }

    pub(super) fn add_inode(&mut self, inode: Inode) -> InodeNo {
        self.inode_next += 1;
        self.inodes.insert(self.inode_next, Arc::new(inode));
        self.inode_next
    }

    /// What every call starts with: is the handle alive, does the machine stop here, does a fault
    /// strike. `in_flight` is asked only if the machine stops or is copied.
    pub(super) fn begin(
        &mut self,
        life: u64,
        call: Call,
        paths: &[&str],
        in_flight: impl Fn(&Self) -> Option<Action>,
    ) -> io::Result<Option<What>> {
        let path = paths.first().copied().unwrap_or_default();
        if self.stopped || self.life != life {
            return Err(dead(call, path));
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
                return Err(dead(call, path));
            }
        }
        strike(&mut self.faults, call, paths)
    }

    /// This machine without its handles, locks and plans, stopped while doing something.
    pub(super) fn copy_stopped(&self, in_flight: Option<Action>) -> Self {
        Self {
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
        }
    }

    fn change_names(&mut self, change: Change) {
        let order = self.order();
        let change = NameChange { order, change };
        change.apply(Arc::make_mut(&mut self.names));
        self.unsynced_names.push(change);
    }

    /// Makes those unsynced changes of names last that `keep` names, and forgets them.
    pub(super) fn land_names(&mut self, keep: &[bool]) {
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

    pub(super) fn sync_names(&mut self, dir: &str) {
        let mut keep: Vec<bool> =
            self.unsynced_names.iter().map(|change| change.dir() == dir).collect();
        if keep.contains(&true) {
            close_under_causes(&self.unsynced_names, &mut keep);
            self.land_names(&keep);
            self.collect();
        }
    }

    /// Bytes on the disk: pages of files that have a name or a handle.
    pub(super) fn used(&self) -> u64 {
        let named: BTreeSet<InodeNo> = self.names.values().filter_map(Node::inode).collect();
        let live =
            self.inodes.iter().filter(|(no, _)| self.open.contains_key(no) || named.contains(no));
        live.map(|(_, inode)| inode.cache.len.next_multiple_of(PAGE as u64)).sum()
    }

    /// How many bytes of a write find space.
    pub(super) fn room(&self, inode: InodeNo, position: u64, len: u64) -> u64 {
        let Some(capacity) = self.capacity else { return len };
        let page = PAGE as u64;
        let have = self.inode(inode).cache.len.next_multiple_of(page);
        let free = capacity.saturating_sub(self.used()) / page * page;
        len.min((have + free).saturating_sub(position))
    }

    pub(super) fn write(&mut self, inode: InodeNo, payload: Payload<'_>, position: u64) {
        let order = self.order();
        self.inode_mut(inode).write(payload, position, order);
    }

    /// Forgets inodes that nothing can reach any more.
    pub(super) fn collect(&mut self) {
        let changes = self.unsynced_names.iter().map(NameChange::node);
        let nodes = self.names.values().chain(self.durable_names.values()).chain(changes);
        let reachable: BTreeSet<InodeNo> = nodes.filter_map(Node::inode).collect();
        let open = &self.open;
        self.inodes.retain(|no, _| open.contains_key(no) || reachable.contains(no));
    }

    /// Ends the life of all handles.
    pub(super) fn restart(&mut self) {
        self.life += 1;
        self.stopped = false;
        self.crash_at = None;
        self.in_flight = None;
        self.locks.clear();
        self.open.clear();
        self.collect();
    }

    /// Does what a call wants; returns the inode if it made a file.
    pub(super) fn perform(&mut self, action: Action) -> Option<InodeNo> {
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

    /// Unsynced sectors and names.
    pub(super) fn unsynced(&self) -> u64 {
        let writes = self.inodes.values().flat_map(|inode| &inode.unsynced);
        writes.map(|write| write.count()).sum::<u64>() + self.unsynced_names.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{
        Vfs,
        sim::{
            Fate, SimDisk, is_crash,
            scene::{contents, create, cut, history, kind, path},
        },
    };

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

    #[test]
    fn capacity_gives_storage_full() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(3 * PAGE as u64));
        let (a, b) = (create(&disk, "a"), create(&disk, "b"));
        a.write_zeros_at(0, 2 * PAGE as u64).unwrap();
        assert_eq!(disk.vfs().space().unwrap().free, PAGE as u64);
        assert_eq!(kind(b.write_all_at(&[1; 2 * PAGE], 0)), io::ErrorKind::StorageFull);
        assert_eq!(b.len().unwrap(), PAGE as u64, "what fits is written");
        a.write_all_at(&[1; 2 * PAGE], 0).unwrap();
        assert_eq!(kind(a.write_all_at(&[1], 2 * PAGE as u64)), io::ErrorKind::StorageFull);
        disk.vfs().unlink(&path("b")).unwrap();
        assert_eq!(disk.vfs().space().unwrap().free, 0, "it is open");
        drop(b);
        a.write_all_at(&[1], 2 * PAGE as u64).unwrap();
    }
}
