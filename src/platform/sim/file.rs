//! Open files of a simulated disk.
//!
//! What it deliberately does not do: know its name by now. It keeps the path it was opened under
//! for faults and messages only.

use std::io;

use super::{
    disk::SimDisk,
    fault::{Call, What, eio, fail, full},
    image::Payload,
    inode::InodeNo,
    machine::Action,
};
use crate::platform::{File, Mapped};

/// An open file of a simulated disk. It works on when its name is gone.
#[derive(Debug)]
pub struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) life: u64,
    pub(super) inode: InodeNo,
    pub(super) path: String,
    pub(super) writable: bool,
}

impl SimFile {
    fn write(&self, payload: Payload<'_>, position: u64) -> io::Result<()> {
        let (inode, path, call) = (self.inode, self.path.as_str(), Call::Write);
        if !self.writable {
            return Err(fail(io::ErrorKind::PermissionDenied, call, path, "opened for reading"));
        }
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
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
        let mut machine = self.disk.machine();
        let struck = machine.begin(self.life, Call::Sync, &[&self.path], |_| None)?;
        // Without anything to do there is no reason to part from a copy of the disk.
        if !machine.inode(self.inode).unsynced.is_empty() {
            let inode = machine.inode_mut(self.inode);
            if struck.is_some() { inode.lie() } else { inode.sync() }
        }
        match struck {
            None | Some(What::SyncLies) => Ok(()),
            Some(_) => Err(eio(Call::Sync, &self.path)),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        // There is no metadata but the length, which a data sync covers.
        self.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut machine = self.disk.machine();
        machine.begin(self.life, Call::DropCache, &[&self.path], |_| None)?;
        let inode = machine.inode(self.inode);
        if inode.has_lied() {
            machine.inode_mut(self.inode).drop_cache();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut machine = self.disk.machine();
        machine.begin(self.life, Call::Len, &[&self.path], |_| None)?;
        Ok(machine.inode(self.inode).cache.len)
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Mapped> {
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, position)?;
        Ok(Box::new(bytes))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut machine = self.disk.machine();
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
