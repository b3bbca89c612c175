//! A store for the tests of its parts: on a simulated disk, without threads.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{
    commit::{Committer, Progress},
    flush::{Flushed, Flusher},
    open::{Parts, open_parts},
    options::Options,
    pool::Pool,
    request::{Query, RunKey},
    store::{IfAbsent, Store},
    tail::Tail,
};
use crate::{
    core::{Append, Close, Delete, NewRecord},
    error::Error,
    platform::sim::{self, SimClock, SimDisk},
    proto::Outcome,
};

/// A store whose parts take their steps when they are told to.
pub(super) struct Scene {
    pub(super) store: Store,
    pub(super) committer: Committer,
    pub(super) flusher: Flusher,
    pub(super) clock: SimClock,
    _lock: Box<dyn Send + Sync>,
}

impl Scene {
    pub(super) fn on(disk: &SimDisk) -> Self {
        Self::with(disk, Options::new("simulated"))
    }

    pub(super) fn with(disk: &SimDisk, options: Options) -> Self {
        let clock = SimClock::new(1);
        let parts = open_parts(sim::platform(disk, &clock, 1), options, Pool::inline());
        let Parts { shared, committer, flusher, opened, lock } = parts.expect("opens");
        let store = Store::undriven(shared, opened);
        Self { store, committer, flusher, clock, _lock: lock }
    }

    /// Has something done by one commit.
    pub(super) fn commit<T>(&mut self, work: impl Future<Output = Result<T, Error>>) {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            panic!("nothing is to be committed: {:?}", done.err());
        }
        let shared = &self.flusher.shared;
        shared.supply.step(&*shared.platform.vfs);
        if self.committer.step() == Progress::WaitsForSlot {
            shared.supply.step(&*shared.platform.vfs);
            self.committer.step();
        }
        assert!(matches!(work.poll(&mut context), Poll::Ready(Ok(_))));
    }

    pub(super) fn append(&mut self, run: &RunKey) {
        self.append_record(run, "some");
    }

    pub(super) fn append_record(&mut self, run: &RunKey, body: impl Into<Bytes>) {
        let store = self.store.clone();
        let records = vec![NewRecord::new(body)];
        let append = Append { stream: "out".into(), records, ..Append::default() };
        self.commit(store.append(run, append, IfAbsent::Create));
    }

    pub(super) fn delete(&mut self, run: &RunKey) {
        let store = self.store.clone();
        self.commit(store.delete_run(run, Delete::default()));
    }

    pub(super) fn close(&mut self, run: &RunKey) {
        let store = self.store.clone();
        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        self.commit(store.close_run(run, close));
    }

    /// Follows a run that is in memory.
    pub(super) fn follow(&self, run: &RunKey) -> Tail {
        let tail = pin!(self.store.tail(Query::run(run.clone())));
        match tail.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(tail)) => tail,
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => panic!("the run is not in memory"),
        }
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
