//! All packs that are alive: the one answer to where a run's earlier frames are.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

use super::pack::{Pack, Segment};
use crate::{error::Error, record::RunNo};

/// The packs that are alive. Readers take the shelf as it is at one moment.
#[derive(Default)]
pub struct Packs {
    shelf: RwLock<Arc<Shelf>>,
}

/// Packs by number, at one moment.
#[derive(Clone, Default)]
pub struct Shelf {
    packs: BTreeMap<u64, Arc<Pack>>,
    /// Packs that the manifest lists and that cannot be opened, and why.
    lost: BTreeMap<u64, Error>,
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

    /// Notes that a pack cannot be opened.
    pub fn lose(&self, number: u64, error: Error) {
        let mut shelf = self.shelf.write();
        let mut next = Shelf::clone(&shelf);
        next.packs.remove(&number);
        next.lost.insert(number, error);
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

    /// Why packs cannot be opened, by number.
    pub fn lost(&self) -> &BTreeMap<u64, Error> {
        &self.lost
    }

    /// Whether a pack may hold segments of a name. Looks at memory only.
    pub fn may_hold(&self, name_hash: u64) -> bool {
        !self.lost.is_empty() || self.packs.values().any(|pack| pack.may_hold(name_hash))
    }

    /// All segments under a name's hash, whichever runs they belong to, in no particular order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] of a pack whose directory cannot be read: what it holds is not known, so
    /// that nothing can be said to be absent.
    pub fn named(&self, name_hash: u64) -> Result<Vec<Segment>, Error> {
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

    /// The error of a pack that is lost, if there is one: what is not found elsewhere may be in it.
    ///
    /// # Errors
    /// That of the first lost pack.
    pub fn check_complete(&self) -> Result<(), Error> {
        self.lost.values().next().map_or(Ok(()), |error| Err(error.clone()))
    }
}
