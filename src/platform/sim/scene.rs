//! What the unit tests of the simulation set up and look at.
//!
//! What it deliberately does not do: check anything.

use std::{collections::BTreeSet, io, sync::Arc};

use super::{
    disk::SimDisk,
    fate::{Fate, Mode},
    image::SECTOR,
};
use crate::platform::{File, Open, RelPath, Vfs};

pub(super) fn path(text: &str) -> RelPath {
    RelPath::new(text)
}

pub(super) fn create(disk: &SimDisk, name: &str) -> Arc<dyn File> {
    disk.vfs().open(&path(name), Open::CreateNew).unwrap()
}

pub(super) fn open(disk: &SimDisk, name: &str) -> Arc<dyn File> {
    disk.vfs().open(&path(name), Open::Write).unwrap()
}

/// A disk with a lasting file of so many sectors, all `fill`.
pub(super) fn disk_with(name: &str, sectors: usize, fill: u8) -> SimDisk {
    let disk = SimDisk::new();
    disk.write_file(name, &vec![fill; sectors * SECTOR]);
    disk
}

pub(super) fn cut(disk: &SimDisk, fate: Fate) -> SimDisk {
    let cut = disk.fork();
    cut.power_cut(fate);
    cut
}

/// What a file can be after a cut of any fate.
pub(super) fn outcomes(
    disk: &SimDisk,
    name: &str,
    mode: Mode,
    seeds: u64,
) -> BTreeSet<Option<Vec<u8>>> {
    (0..seeds).map(|seed| cut(disk, Fate::new(mode, seed)).read_file(name)).collect()
}

pub(super) fn contents(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let read = |name: String| (name.clone(), disk.read_file(&name));
    disk.files().into_iter().map(read).collect()
}

/// The first byte of each sector.
pub(super) fn sectors(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
}

pub(super) fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().expect("must fail").kind()
}

/// A few calls of every kind; ends at the first error.
pub(super) fn history(disk: &SimDisk) -> io::Result<()> {
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
