//! A store for the tests of its parts: on a simulated disk, without threads.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::{
    commit::Committer,
    flush::{Flushed, Flusher},
    open::{Parts, open_parts},
    options::Options,
    pool::Pool,
    request::RunKey,
    store::{IfAbsent, Store},
};
use crate::{
    core::{Append, Delete, NewRecord},
    error::Error,
    platform::sim::{self, SimClock, SimDisk},
};

/// A store whose parts take their steps when they are told to.
pub(super) struct Scene {
    pub(super) store: Store,
    pub(super) committer: Committer,
    pub(super) flusher: Flusher,
    _lock: Box<dyn Send + Sync>,
}

impl Scene {
    pub(super) fn on(disk: &SimDisk) -> Self {
        let platform = sim::platform(disk, &SimClock::new(1), 1);
        let parts = open_parts(platform, Options::new("simulated"), Pool::inline());
        let Parts { shared, committer, flusher, opened, lock } = parts.expect("opens");
        let store = Store::undriven(shared, opened);
        Self { store, committer, flusher, _lock: lock }
    }

    /// Has something done by one commit.
    pub(super) fn commit<T>(&mut self, work: impl Future<Output = Result<T, Error>>) {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        assert!(work.as_mut().poll(&mut context).is_pending());
        let shared = &self.flusher.shared;
        shared.supply.step(&*shared.platform.vfs);
        self.committer.step();
        assert!(matches!(work.poll(&mut context), Poll::Ready(Ok(_))));
    }

    pub(super) fn append(&mut self, run: &RunKey) {
        let store = self.store.clone();
        let records = vec![NewRecord::new("some")];
        let append = Append { stream: "out".into(), records, ..Append::default() };
        self.commit(store.append(run, append, IfAbsent::Create));
    }

    pub(super) fn delete(&mut self, run: &RunKey) {
        let store = self.store.clone();
        self.commit(store.delete_run(run, Delete::default()));
    }

    /// Lets the flusher copy everything.
    pub(super) fn copy(&mut self) {
        assert_eq!(self.flusher.force(), Flushed::Worked);
        while self.flusher.is_under_way() {
            assert_eq!(self.flusher.force(), Flushed::Worked);
        }
        assert_eq!(self.flusher.shared.unflushed.bytes(), 0);
    }

    /// Raw bytes of each pack, and of them what is dead.
    pub(super) fn packs(&self) -> Vec<(u64, u64)> {
        let manifest = self.flusher.shared.manifest.lock();
        let packs = manifest.live().packs.values();
        packs.map(|pack| (pack.listed.raw_bytes, pack.dead_bytes)).collect()
    }
}
