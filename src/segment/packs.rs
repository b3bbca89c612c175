//! All packs that are alive: the one answer to where a run's earlier frames are.

use std::{collections::BTreeMap, io, sync::Arc};

use super::pack::{Pack, Segment};
use crate::{
    error::Error,
    format::{Damage, file_name, pack},
    platform::{File, Open, Vfs, sync::RwLock},
    record::RunNo,
};

/// The packs that are alive. Readers take the shelf as it is at one moment.
#[derive(Default)]
pub struct Packs {
    shelf: RwLock<Arc<Shelf>>,
}

/// Packs by number, at one moment.
#[derive(Clone, Default)]
pub struct Shelf {
    packs: BTreeMap<u64, Arc<Pack>>,
    /// Packs that the manifest lists and that cannot be opened.
    lost: BTreeMap<u64, LostPack>,
}

/// A pack that cannot be opened.
#[derive(Clone)]
struct LostPack {
    /// Why.
    error: Error,
    /// The bloom filter of its names, if the file that has it once more is sound.
    bloom: Option<Arc<[u8]>>,
}

impl LostPack {
    fn may_hold(&self, name_hash: u64) -> bool {
        self.bloom.as_deref().is_none_or(|bloom| pack::may_hold(bloom, name_hash))
    }
}

impl Packs {
    /// The packs of this moment.
    pub fn shelf(&self) -> Arc<Shelf> {
        self.shelf.read().clone()
    }

    /// Adds packs and takes others away, at once.
    pub fn replace(&self, added: impl IntoIterator<Item = Pack>, dropped: &[u64]) {
        let mut shelf = self.shelf.write();
        let mut next = Shelf::clone(&shelf);
        for number in dropped {
            next.packs.remove(number);
            next.lost.remove(number);
        }
        next.packs.extend(added.into_iter().map(|pack| (pack.number(), Arc::new(pack))));
        *shelf = Arc::new(next);
    }

    /// Notes that a pack cannot be opened, and why.
    pub fn lose(&self, vfs: &dyn Vfs, number: u64, store_uuid: [u8; 16], error: Error) {
        let bloom = read_names(vfs, number, store_uuid);
        let mut shelf = self.shelf.write();
        let mut next = Shelf::clone(&shelf);
        next.packs.remove(&number);
        next.lost.insert(number, LostPack { error, bloom });
        *shelf = Arc::new(next);
    }
}

impl Shelf {
    /// The packs, oldest first.
    pub fn packs(&self) -> impl DoubleEndedIterator<Item = &Arc<Pack>> {
        self.packs.values()
    }

    /// The pack with this number.
    pub fn pack(&self, number: u64) -> Option<&Arc<Pack>> {
        self.packs.get(&number)
    }

    /// The same without the packs that are not wanted, by their numbers.
    pub fn of(&self, is_wanted: impl Fn(u64) -> bool) -> Self {
        let mut shelf = self.clone();
        shelf.packs.retain(|number, _| is_wanted(*number));
        shelf
    }

    /// Number of packs that cannot be opened.
    pub fn lost(&self) -> usize {
        self.lost.len()
    }

    /// Whether a pack may hold segments of a name. Looks at memory only.
    pub fn may_hold(&self, name_hash: u64) -> bool {
        self.is_lost(name_hash) || self.packs.values().any(|pack| pack.may_hold(name_hash))
    }

    /// Whether a pack that cannot be opened may hold segments of a name.
    pub fn is_lost(&self, name_hash: u64) -> bool {
        self.lost.values().any(|lost| lost.may_hold(name_hash))
    }

    /// Whether no pack that cannot be opened may hold segments of a name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] of one that may.
    pub fn check_known(&self, name_hash: u64) -> Result<(), Error> {
        let lost = self.lost.values().find(|lost| lost.may_hold(name_hash));
        lost.map_or(Ok(()), |lost| Err(lost.error.clone()))
    }

    /// All segments under a name's hash, whichever runs they belong to, in no particular order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] of a pack that cannot be opened and may hold some of them, or of one whose
    /// directory cannot be read: nothing can be said to be absent then, nor to be the last.
    pub fn named(&self, name_hash: u64) -> Result<Vec<Segment>, Error> {
        self.check_known(name_hash)?;
        let mut found = Vec::new();
        for pack in self.packs.values() {
            let entries = pack.entries_of(name_hash)?;
            found.extend(entries.into_iter().map(|entry| Segment { pack: pack.clone(), entry }));
        }
        Ok(found)
    }

    /// The segments of a run in run order: those that count. Of a deleted run, only the last does.
    ///
    /// # Errors
    /// As [`named`](Self::named).
    pub fn segments_of(&self, name_hash: u64, run_no: RunNo) -> Result<Vec<Segment>, Error> {
        let mut segments = self.named(name_hash)?;
        segments.retain(|segment| segment.entry.head.run_no == run_no);
        segments.sort_by_key(|segment| segment.entry.head.flushed);
        let first = segments.iter().rposition(|segment| segment.entry.head.is_first);
        segments.drain(..first.unwrap_or(0));
        if segments.last().is_some_and(|last| last.entry.head.is_deleted) {
            segments.drain(..segments.len() - 1);
        }
        Ok(segments)
    }

    /// Whether all packs could be opened.
    ///
    /// # Errors
    /// That of the first lost pack.
    pub fn check_complete(&self) -> Result<(), Error> {
        self.lost.values().next().map_or(Ok(()), |lost| Err(lost.error.clone()))
    }
}

/// Reads the bloom filter of a pack from the file that has it once more, if that is sound.
pub fn read_names(vfs: &dyn Vfs, number: u64, store_uuid: [u8; 16]) -> Option<Arc<[u8]>> {
    let file = vfs.open(&file_name::pack_names(number), Open::Read).ok()?;
    let bytes = names_bytes(&*file).ok()?.ok()?;
    pack::decode_names(&bytes, number, store_uuid).ok().map(Arc::from)
}

/// Reads a file of names, unless it is larger than any.
///
/// # Errors
/// Whatever the operating system says; the inner one is its damage.
pub fn names_bytes(file: &dyn File) -> io::Result<Result<Vec<u8>, Damage>> {
    let (len, available) = (file.len()?, pack::NAMES_BYTES_MAX as u64);
    if available < len {
        return Ok(Err(Damage::Length { len, available }));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Ok(bytes))
}
