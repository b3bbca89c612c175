//! Finds a run: in memory, or in packs, from where it comes back into memory.
//!
//! Only one caller at a time looks for a run in packs; others wait for it. A run that is in memory
//! is never looked for, and only the one who looks may bring it in: what comes from a pack is
//! therefore never older than what memory had.

use std::sync::Arc;

use super::{
    collect::is_expired,
    request::RunKey,
    shard::{Run, Shard, Whereabouts},
    shared::Shared,
};
use crate::{
    core::RunState,
    error::Error,
    platform::sync::MutexGuard,
    record::{RunNo, name_hash, vshard_of},
    recovery::read_state,
};

/// A claim on looking for a run. Ended with the search, or when the caller gives up.
struct Search<'a> {
    shared: &'a Shared,
    key: &'a RunKey,
    has_ended: bool,
}

/// A run as its last segment has it.
struct FoundRun {
    state: RunState,
    /// The pack that was read.
    pack: u64,
    /// Journal block of the newest frame.
    changed_block: u64,
}

impl Search<'_> {
    fn end(mut self, shard: &mut Shard) {
        shard.end_search(self.key);
        self.has_ended = true;
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let vshard = vshard_of(&self.key.namespace, &self.key.run_id);
            self.shared.shard(vshard).lock().end_search(self.key);
        }
    }
}

impl Shared {
    /// Finds a run and takes the lock of its shard; none if no run has the name. A run that was
    /// deleted counts as one for a day.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what may hold the run is damaged, [`Error::Io`], and when the store is
    /// not open.
    pub(super) async fn find<'a>(
        self: &'a Arc<Self>,
        key: &RunKey,
    ) -> Result<(MutexGuard<'a, Shard>, Option<RunNo>), Error> {
        let vshard = vshard_of(&key.namespace, &key.run_id);
        loop {
            let mut ended = {
                let mut shard = self.shard(vshard).lock();
                self.check_open()?;
                match shard.whereabouts(key, &self.packs) {
                    Whereabouts::Here(run_no) => {
                        let run = shard.run(run_no);
                        // A newer run of the name may be in a pack that is lost.
                        if run.is_deleted() {
                            let hash = name_hash(&key.namespace, &key.run_id);
                            self.packs.shelf().check_known(hash)?;
                        }
                        let is_gone = self.is_forgotten(run);
                        return Ok((shard, (!is_gone).then_some(run_no)));
                    }
                    Whereabouts::Absent => return Ok((shard, None)),
                    Whereabouts::Sought(ended) => ended,
                    Whereabouts::Unknown => break,
                }
            };
            // An error says the same as a change: the search has ended.
            let _ = ended.changed().await;
        }
        let search = Search { shared: self, key, has_ended: false };
        loop {
            let (shared, wanted) = (self.clone(), key.clone());
            let found = self.pool.run(move || shared.search(&wanted, None)).await?;
            let mut shard = self.shard(vshard).lock();
            self.check_open()?;
            let Some(FoundRun { state, pack, changed_block }) = found else {
                search.end(&mut shard);
                return Ok((shard, None));
            };
            if self.packs.shelf().pack(pack).is_none() {
                // The pack was collected meanwhile, and the run with it, or is in another one.
                continue;
            }
            search.end(&mut shard);
            if shard.is_doomed(state.run_no) {
                return Ok((shard, None));
            }
            let run_no = shard.bring_in(Run::at_rest(state, changed_block));
            let is_gone = self.is_forgotten(shard.run(run_no));
            return Ok((shard, (!is_gone).then_some(run_no)));
        }
    }

    fn is_forgotten(&self, run: &Run) -> bool {
        run.is_deleted() && run.is_forgotten(self.now_ms())
    }

    /// The run of this number and name in packs, or the newest of the name. Blocks on the disk.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(super) fn look_up(
        &self,
        key: &RunKey,
        run_no: Option<RunNo>,
    ) -> Result<Option<RunState>, Error> {
        Ok(self.search(key, run_no)?.map(|found| found.state))
    }

    fn search(&self, key: &RunKey, run_no: Option<RunNo>) -> Result<Option<FoundRun>, Error> {
        let shelf = self.packs.shelf();
        let mut found = shelf.named(name_hash(&key.namespace, &key.run_id))?;
        found.retain(|found| run_no.is_none_or(|wanted| wanted == found.entry.head.run_no));
        // Newest run first, and of each run its last segment.
        found.sort_by_key(|found| (found.entry.head.run_no, found.entry.head.flushed));
        found.reverse();
        found.dedup_by_key(|found| found.entry.head.run_no);
        for segment in &found {
            let state = read_state(segment, &self.blocks)?;
            if *state.run_id == *key.run_id && *state.namespace == *key.namespace {
                // Parts of what has expired may be gone already.
                if is_expired(&segment.entry.head, self.now_ms()) {
                    continue;
                }
                let changed_block = segment.entry.head.flushed.block_no;
                let pack = segment.pack.number();
                return Ok(Some(FoundRun { state, pack, changed_block }));
            }
        }
        Ok(None)
    }
}
