//! What a process has used so far, and what a disk was given, as the kernel tells; and how its
//! memory comes.
//!
//! The figures are for measurements only: a system without `/proc` and `/sys` gives an error, and so
//! does a process of somebody else.

// As in `os`: the files of the kernel are no part of what runs in simulation.
#![allow(clippy::disallowed_methods)]

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessUse {
    /// Processor time of all its threads, to 10 ms.
    pub cpu: Duration,
    /// Bytes of memory that it holds now.
    pub resident: u64,
}

/// Has the memory of this process come in small pages from here on, where the system can do that.
///
/// A huge page is cleared as a whole when the first of its bytes is used: whoever commits or answers
/// at that moment waits for milliseconds on some machines, while memory grows.
pub fn use_small_pages() {
    // Where that is unknown, memory comes as it always did.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Asks the kernel about a process.
///
/// # Errors
/// Whatever the operating system says, and [`io::ErrorKind::InvalidData`] if it says something
/// that is not known here.
pub fn process_use(pid: u32) -> io::Result<ProcessUse> {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let stat = read("stat")?;
    let resident = labeled(&read("status")?, "VmRSS:").ok_or_else(unknown)? << 10;
    Ok(ProcessUse { cpu: cpu(&stat).ok_or_else(unknown)?, resident })
}

/// Bytes that were written, by whomever, to the disk on which `path` is.
///
/// What the kernel counts by process is no measure: it takes a page that is written to for as large
/// as the pages it was read or zeroed with, a mebibyte for four kibibytes.
///
/// # Errors
/// Whatever the operating system says, also where a file system is on no disk of its own, and
/// [`io::ErrorKind::InvalidData`] if it says something that is not known here.
pub fn disk_written(path: &Path) -> io::Result<u64> {
    let device = fs::metadata(path)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    // The seventh figure counts sectors written, of 512 bytes whatever the disk has.
    let sectors = stat.split_whitespace().nth(6).and_then(|figure| figure.parse::<u64>().ok());
    sectors.map(|sectors| sectors * 512).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// User and system time: fields 14 and 15 of `/proc/PID/stat`, see proc_pid_stat(5). The name of
/// the process, in parentheses, may hold anything; what follows may not.
fn cpu(stat: &str) -> Option<Duration> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_micros(ticks * 1_000_000 / ticks_per_second))
}

fn labeled(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let used = process_use(std::process::id()).unwrap();
        assert!(0 < used.resident);
        assert!(process_use(u32::MAX).is_err());
    }

    #[test]
    fn times_are_found_behind_any_name() {
        let line = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 300 50 0 0";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu(line), Some(Duration::from_micros(350 * 1_000_000 / ticks)));
        assert_eq!(labeled("a: 1\nVmRSS:\t 42 kB\n", "VmRSS:"), Some(42));
    }
}
