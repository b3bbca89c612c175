//! The device probe: what a sync costs here and now, whoever asks for it.
//!
//! 4 KiB written into a file that is filled with zeros, and a sync: the least that any durable
//! append can cost. A device has moods; a figure means something only beside the probe of its
//! minute.

use std::{io, path::Path, time::Duration};

use super::stopwatch::Stopwatch;
use crate::platform::{Open, RelPath, os};

const BLOCK_BYTES: usize = 4 << 10;
/// Writes of one probe.
const WRITES: u64 = 400;

/// Probes the file system of `dir`; the median.
pub(super) fn device(dir: &Path, watch: &Stopwatch) -> io::Result<Duration> {
    let vfs = os::platform(dir).vfs;
    let path = RelPath::new(format!("probe-{}", std::process::id()));
    let file = vfs.open(&path, Open::CreateNew)?;
    // At once, so that nothing stays behind when this is killed.
    vfs.unlink(&path)?;
    file.write_zeros_at(0, WRITES * BLOCK_BYTES as u64)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(WRITES as usize);
    for n in 0..WRITES {
        let begin = watch.now();
        file.write_all_at(&[1; BLOCK_BYTES], n * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        times.push(watch.now() - begin);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
