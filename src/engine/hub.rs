//! Tells watchers of many runs which runs have changed: each only of those it watches.
//!
//! A watcher is found by something that all of its runs have in common: a tag, a batch, a task, or
//! nothing but the namespace. What it is told is that a run has changed, once until it has looked;
//! so a change costs the watchers it concerns one entry each, and one who is slow has as many
//! entries as it has runs at most.
//!
//! What it deliberately does not do: say what has changed. Whoever looks sees the newest.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Notify;

use super::{
    list::is_shown,
    request::{RunKey, WatchRuns},
};
use crate::{
    core::{Facts, RunState},
    platform::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    record::{RunNo, StreamNo},
    sabotage::{self, Bug},
};

/// Runs that a watcher has not looked at, at most; beyond, it looks at all of them.
const CHANGES_MAX: usize = 10_000;

/// All watchers of many runs.
#[derive(Default)]
pub(super) struct Hub {
    watchers: AtomicUsize,
    by: Mutex<HashMap<Key, Vec<Arc<Watcher>>>>,
}

/// What watchers are found by: a namespace, and something its runs have in common.
type Key = (Arc<str>, Common);

/// What all runs of a watcher have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Common {
    Tag(Arc<str>),
    Batch(Arc<str>),
    Task(Arc<str>),
    Namespace,
}

/// One who watches.
pub(super) struct Watcher {
    runs: WatchRuns,
    changes: Mutex<Changes>,
    changed: Notify,
}

/// Runs that have changed since they were looked at.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) runs: HashMap<RunNo, RunKey>,
    /// There were too many: any run may have changed.
    pub(super) too_many: bool,
}

/// A watcher that is told until this is dropped.
pub(super) struct Watching {
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
}

impl Hub {
    /// Begins to tell a watcher.
    pub(super) fn watch(self: &Arc<Self>, runs: WatchRuns) -> Watching {
        let key = (runs.namespace.clone(), Common::of(&runs));
        let watcher = Arc::new(Watcher { runs, changes: Mutex::default(), changed: Notify::new() });
        self.by.lock().entry(key).or_default().push(watcher.clone());
        self.watchers.fetch_add(1, Ordering::Release);
        Watching { hub: self.clone(), watcher }
    }

    /// Whether a frame changes what watchers are shown.
    pub(super) fn is_concerned(&self, facts: &Facts) -> bool {
        0 < self.watchers.load(Ordering::Acquire)
            && (facts.deleted
                || !facts.opened.is_empty()
                || facts.spans.iter().any(|span| span.stream == StreamNo::RUN))
    }

    /// Tells that a run has changed.
    pub(super) fn tell(&self, run: &RunState) {
        let by = self.by.lock();
        let tell = |common: Common| {
            let watchers = by.get(&(run.namespace.clone(), common));
            for watcher in watchers.into_iter().flatten() {
                watcher.tell(run);
            }
        };
        run.tags.iter().for_each(|tag| tell(Common::Tag(tag.clone())));
        if !run.batch.is_empty() {
            tell(Common::Batch(run.batch.clone()));
        }
        if !run.task.is_empty() {
            tell(Common::Task(run.task.clone()));
        }
        tell(Common::Namespace);
    }

    /// Tells every watcher that the store closes.
    pub(super) fn wake_all(&self) {
        self.by.lock().values().flatten().for_each(|watcher| watcher.changed.notify_one());
    }
}

impl Common {
    fn of(runs: &WatchRuns) -> Self {
        match (runs.tags.first(), &runs.batch, &runs.task) {
            (Some(tag), ..) => Self::Tag(tag.clone()),
            (_, batch, _) if !batch.is_empty() => Self::Batch(batch.clone()),
            (.., task) if !task.is_empty() => Self::Task(task.clone()),
            _ => Self::Namespace,
        }
    }
}

impl Watcher {
    fn tell(&self, run: &RunState) {
        if !self.runs.may_want(run) {
            return;
        }
        if sabotage::is(Bug::TellBeforeNote) {
            self.changed.notify_one();
        }
        let mut changes = self.changes.lock();
        if CHANGES_MAX <= changes.runs.len() {
            *changes = Changes { runs: HashMap::new(), too_many: true };
        }
        if !changes.too_many {
            let RunState { namespace, run_id, .. } = run;
            let key = || RunKey { namespace: namespace.clone(), run_id: run_id.clone() };
            changes.runs.entry(run.run_no).or_insert_with(key);
        }
        drop(changes);
        if !sabotage::is(Bug::TellBeforeNote) {
            self.changed.notify_one();
        }
    }
}

impl WatchRuns {
    /// Whether a run passes every filter but that of statuses, which a run may have left.
    pub(super) fn may_want(&self, run: &RunState) -> bool {
        let any_or = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is_shown(&self.task, run)
            && self.tags.iter().all(|tag| run.tags.contains(tag))
            && any_or(&self.batch, &run.batch)
            && any_or(&self.task, &run.task)
            && self.created_from_ms <= run.created_ms
    }
}

impl Watching {
    /// Takes what has changed, if anything has.
    pub(super) fn take(&self) -> Changes {
        std::mem::take(&mut *self.watcher.changes.lock())
    }

    /// Waits until something has changed since it was last asked.
    pub(super) async fn changed(&self) {
        self.watcher.changed.notified().await;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let key = (self.watcher.runs.namespace.clone(), Common::of(&self.watcher.runs));
        let mut by = self.hub.by.lock();
        if let Some(watchers) = by.get_mut(&key) {
            watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
            if watchers.is_empty() {
                by.remove(&key);
            }
        }
        self.hub.watchers.fetch_sub(1, Ordering::Release);
    }
}
