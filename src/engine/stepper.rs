//! A store whose every step the caller takes: for simulations, where one thread and one seed decide
//! everything.

use std::sync::Arc;

use super::{
    attend,
    commit::{Committer, Progress},
    flush::{Flushed, Flusher},
    open::{Parts, open_parts},
    options::Options,
    pool::Pool,
    shared::Shared,
    store::Store,
};
use crate::{error::OpenError, platform::Platform};

impl Store {
    /// Opens a store on any platform, without threads: nothing happens unless [`Stepper::step`]
    /// is called.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_stepped(
        platform: Platform,
        options: Options,
    ) -> Result<(Self, Stepper), OpenError> {
        options.check()?;
        let Parts { shared, committer, flusher, opened, lock } =
            open_parts(platform, options, Pool::inline())?;
        let store = Self::undriven(shared.clone(), opened);
        Ok((store, Stepper { shared, committer, flusher, _lock: lock }))
    }
}

/// Takes the steps of a store that has no threads.
pub struct Stepper {
    shared: Arc<Shared>,
    committer: Committer,
    flusher: Flusher,
    _lock: Box<dyn Send + Sync>,
}

impl Stepper {
    /// Makes a slot if one is wanted, then commits what is queued.
    pub fn step(&mut self) -> Progress {
        self.shared.look_at_space();
        self.shared.supply.step(&*self.shared.platform.vfs);
        let progress = self.committer.step();
        if progress == Progress::Stopped {
            // As at the end of the committer's thread: whoever stopped the store, nobody waits on.
            self.shared.queue.end(&self.shared.unknown());
        }
        self.shared.queue.wake_rest();
        progress
    }

    /// Goes on copying frames into packs, or begins to: whether or not it is due.
    pub fn flush(&mut self) -> Flushed {
        self.flusher.force()
    }

    /// Goes on writing packs again of which anything is dead, by one segment; false if there is none, it
    /// failed, or a pass over the frames in the journal is under way.
    pub fn collect(&mut self) -> bool {
        self.flusher.force_collect()
    }

    /// Whether a pass over the frames in the journal is under way.
    pub fn is_flushing(&self) -> bool {
        self.flusher.is_under_way()
    }

    /// Does what is due for runs without a caller; `is_first` after a start. It waits for commits,
    /// which are steps of their own.
    pub fn attend(&self, is_first: bool) -> impl Future<Output = ()> + 'static {
        let shared = self.shared.clone();
        async move {
            if is_first {
                attend::look_around(&shared).await;
            }
            attend::round(&shared).await;
        }
    }

    /// What happens when the log has been idle for a while.
    pub fn idle(&mut self) -> Progress {
        self.committer.mark_idle()
    }

    /// What happens at an orderly exit, after the queue is empty.
    pub fn finish(mut self) {
        self.committer.finish();
    }
}
