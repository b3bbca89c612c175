//! A file system with one file, `disk.img`, that is a [`Disk`]: the kernel's FUSE protocol, as far
//! as the driver of loop devices speaks it.
//!
//! The server is a thread of this process. If the process ends, however it ends, the kernel closes
//! the connection and every call on the file fails: nothing hangs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsRawFd,
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use super::disk::Disk;

pub(crate) const FILE: &str = "disk.img";

const ROOT: u64 = 1;
const NODE: u64 = 2;
/// Bytes of a write, at most.
const WRITE_MAX: u32 = 128 << 10;
const HEADER_IN: usize = 40;
const HEADER_OUT: usize = 16;
/// How long the kernel may believe what it is told of names and attributes, in seconds.
const VALID_S: u64 = 3_600;

/// Operations, by their numbers in the protocol.
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put(out: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn put_u64(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

/// A mounted file system. It is unmounted by whoever mounted it; its thread then ends.
pub(crate) struct Mounted {
    serving: Option<JoinHandle<()>>,
}

impl Mounted {
    /// Mounts the disk at a directory.
    pub(crate) fn new(disk: Arc<Mutex<Disk>>, at: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let data = std::ffi::CString::new(data).expect("no zero byte");
        rustix::mount::mount(
            "braidlog-powercut",
            at,
            "fuse",
            rustix::mount::MountFlags::empty(),
            &*data,
        )?;
        let serving = thread::spawn(move || serve(&device, &disk));
        Ok(Self { serving: Some(serving) })
    }

    /// Waits until the kernel has let go of it.
    pub(crate) fn is_over(&self) -> bool {
        self.serving.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

fn serve(mut device: &File, disk: &Mutex<Disk>) {
    let mut request = vec![0; WRITE_MAX as usize + 8_192];
    loop {
        let len = match device.read(&mut request) {
            Ok(len) => len,
            // A request was taken back while it was read.
            Err(error) if matches!(error.raw_os_error(), Some(ENOENT | 4 | 11)) => continue,
            // It was unmounted.
            Err(_) => return,
        };
        let request = &request[..len];
        let (code, unique) = (u32_at(request, 4), u64_at(request, 8));
        if matches!(code, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
            continue;
        }
        let answer = answer(request, disk);
        let (error, body) = match &answer {
            Ok(body) => (0, &body[..]),
            Err(errno) => (-errno, &[][..]),
        };
        let mut out = Vec::with_capacity(HEADER_OUT + body.len());
        put(&mut out, &[(HEADER_OUT + body.len()) as u32, error as u32]);
        put_u64(&mut out, &[unique]);
        out.extend_from_slice(body);
        // Nobody waits for an answer that cannot be given.
        let _ = device.write(&out);
        if code == op::DESTROY {
            return;
        }
    }
}

/// The answer to a request, or the number of an error.
fn answer(request: &[u8], disk: &Mutex<Disk>) -> Result<Vec<u8>, i32> {
    let (code, node) = (u32_at(request, 4), u64_at(request, 16));
    let body = &request[HEADER_IN..];
    let mut disk = disk.lock().expect("not poisoned");
    let mut out = Vec::new();
    match code {
        op::INIT => {
            // Version 7.31; writes of more than a page; their size; times to a second.
            put(&mut out, &[7, 31, u32_at(body, 8), 1 << 5, 0, WRITE_MAX, 1, 0]);
            out.resize(64, 0);
        }
        op::LOOKUP => {
            let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
            if name != FILE.as_bytes() {
                return Err(ENOENT);
            }
            put_u64(&mut out, &[NODE, 0, VALID_S, VALID_S, 0]);
            attributes(&mut out, NODE, disk.bytes());
        }
        op::GETATTR | op::SETATTR => {
            put_u64(&mut out, &[VALID_S, 0]);
            attributes(&mut out, node, disk.bytes());
        }
        op::OPEN | op::OPENDIR => put_u64(&mut out, &[0, 0]),
        op::READ => {
            let bytes = disk.read(u64_at(body, 8), u32_at(body, 16) as usize);
            return bytes.map_err(|_| EIO);
        }
        op::WRITE => {
            let (from, len) = (u64_at(body, 8), u32_at(body, 16));
            disk.write(from, &body[40..40 + len as usize]).map_err(|_| EIO)?;
            put(&mut out, &[len, 0]);
        }
        op::FSYNC => disk.flush().map_err(|_| EIO)?,
        op::STATFS => out.resize(80, 0),
        op::FLUSH | op::RELEASE | op::RELEASEDIR | op::DESTROY => {}
        _ => return Err(ENOSYS),
    }
    Ok(out)
}

fn attributes(out: &mut Vec<u8>, node: u64, bytes: u64) {
    let (mode, size) = match node {
        ROOT => (0o040_755, 0),
        _ => (0o100_600, bytes),
    };
    put_u64(out, &[node, size, size.div_ceil(512), 0, 0, 0]);
    put(out, &[0, 0, 0, mode, 1, 0, 0, 0, 4_096, 0]);
}
