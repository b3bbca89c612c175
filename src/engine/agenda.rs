//! What runs have to be done for without a caller: a time that comes, a worker that is silent, a
//! place in the queue, something to tell another run.
//!
//! Derived from the states of the runs, and only of those that have something pending; a run may
//! leave memory meanwhile. How long a lease lasts is measured here, on the clock that never goes
//! back, so every lease has a full term after a start. Safety does not depend on it: a worker that
//! comes back late is fenced by the number of its lease.
//!
//! What it deliberately does not do: decide. Whoever is woken asks the run's state machine, which
//! may find that there is nothing to do.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::request::RunKey;
use crate::{
    core::RunState,
    platform::sync::{Condvar, Mutex},
    proto::RunStatus,
    record::RunNo,
};

/// Calls are looked through for those that nobody waits for when there are more.
const CALLS_MAX: usize = 1_024;

/// A task of a namespace.
type Task = (Arc<str>, Arc<str>);
/// Where a run stands in a queue: by priority, then by age.
type Place = (Reverse<i32>, u64, RunNo);

/// What is pending, of all runs.
#[derive(Default)]
pub(super) struct Agenda {
    state: Mutex<State>,
    wake: Condvar,
    /// Whether what is pending of all runs is known, also of those that only packs have.
    is_complete: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    entries: HashMap<RunNo, Entry>,
    due: BTreeSet<(u64, RunNo)>,
    leases: BTreeSet<(Duration, RunNo)>,
    queues: BTreeMap<Task, BTreeSet<Place>>,
    outboxes: BTreeSet<RunNo>,
    /// Those who wait for runs of a task. Each run that is queued calls one of them.
    calls: HashMap<Task, Arc<Notify>>,
    /// Runs to look at again, whatever time it is.
    again: Vec<RunNo>,
    closing: bool,
}

/// What is pending of a run by its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    due_ms: Option<u64>,
    /// Number of the lease it is under.
    epoch: Option<u64>,
    /// Since when it is queued, milliseconds since the Unix epoch.
    queued_ms: Option<u64>,
    /// Whether it has something to tell.
    pub(super) has_outbox: bool,
}

/// What is pending of a run.
struct Entry {
    key: RunKey,
    due_ms: Option<u64>,
    place: Option<(Task, Place)>,
    lease: Option<Held>,
    has_outbox: bool,
    /// Whether somebody has taken its place in the queue, and nothing was noted since.
    is_taken: bool,
}

/// A lease, and when it lapses.
#[derive(Clone, Copy)]
struct Held {
    epoch: u64,
    term: Duration,
    until: Duration,
}

/// Something to be done for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    /// Its time has come, or the lease of this number has lapsed.
    Tick { run_no: RunNo, key: RunKey, lapsed: Option<u64> },
    /// It has something to tell.
    Tell { run_no: RunNo, key: RunKey },
}

/// A run taken out of the queue. What is pending of it is noted again when it is claimed, or when
/// that was refused; or it is looked at again.
pub(super) struct Taken<'a> {
    agenda: &'a Agenda,
    run_no: RunNo,
    pub(super) key: RunKey,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.agenda.look_again_unless_noted(self.run_no);
    }
}

impl Agenda {
    /// Notes what is pending of a run by its state.
    pub(super) fn note(&self, run: &RunState, mono: Duration) {
        let mut state = self.state.lock();
        let held = state.entries.get(&run.run_no).and_then(|entry| entry.lease);
        state.remove(run.run_no);
        let Some(entry) = Entry::of(run, held, mono) else { return };
        if let Some((task, _)) = &entry.place
            && let Some(call) = state.calls.get(task)
        {
            call.notify_one();
        }
        state.insert(run.run_no, entry);
        drop(state);
        self.wake.notify_one();
    }

    /// Forgets a run that is not there.
    pub(super) fn forget(&self, run_no: RunNo) {
        self.state.lock().remove(run_no);
    }

    /// Gives a lease its full term from this time on.
    pub(super) fn renew(&self, run_no: RunNo, mono: Duration) {
        let mut state = self.state.lock();
        let Some(held) = state.entries.get_mut(&run_no).and_then(|entry| entry.lease.as_mut())
        else {
            return;
        };
        let before = held.until;
        let after = before.max(mono + held.term);
        held.until = after;
        state.leases.remove(&(before, run_no));
        state.leases.insert((after, run_no));
    }

    /// Takes the first run that is queued for one of these tasks.
    pub(super) fn take_queued(
        &self,
        namespace: &Arc<str>,
        tasks: &[Arc<str>],
    ) -> Option<Taken<'_>> {
        let mut state = self.state.lock();
        let first = |task: &Arc<str>| {
            let task = (namespace.clone(), task.clone());
            let place = *state.queues.get(&task)?.first()?;
            Some((place, task))
        };
        let (place, task) = tasks.iter().filter_map(first).min()?;
        let run_no = place.2;
        state.leave_queue(&task, &place);
        let entry = state.entries.get_mut(&run_no)?;
        entry.place = None;
        entry.is_taken = true;
        let key = entry.key.clone();
        Some(Taken { agenda: self, run_no, key })
    }

    fn look_again_unless_noted(&self, run_no: RunNo) {
        let mut state = self.state.lock();
        if state.entries.get(&run_no).is_some_and(|entry| entry.is_taken) {
            state.again.push(run_no);
            self.wake.notify_one();
        }
    }

    /// Notes that what is pending of all runs is known.
    pub(super) fn complete(&self) {
        self.is_complete.send_replace(true);
    }

    /// Waits until what is pending of all runs is known, which takes a moment after a start.
    pub(super) async fn completed(&self) {
        // The sender is here: there is no error.
        let _ = self.is_complete.subscribe().wait_for(|is_complete| *is_complete).await;
    }

    /// What is called when a run of these tasks is queued.
    pub(super) fn calls(&self, namespace: &Arc<str>, tasks: &[Arc<str>]) -> Vec<Arc<Notify>> {
        let mut state = self.state.lock();
        if CALLS_MAX < state.calls.len() {
            state.calls.retain(|_, call| 1 < Arc::strong_count(call));
        }
        let tasks = tasks.iter().map(|task| (namespace.clone(), task.clone()));
        tasks.map(|task| state.calls.entry(task).or_default().clone()).collect()
    }

    /// What is to be done now. Whatever is taken has to be noted again.
    pub(super) fn take(&self, now_ms: u64, mono: Duration) -> Vec<Errand> {
        let mut state = self.state.lock();
        let mut ticks = BTreeSet::new();
        while let Some(&(due_ms, run_no)) = state.due.first()
            && due_ms <= now_ms
        {
            state.due.pop_first();
            ticks.insert(run_no);
        }
        while let Some(&(until, run_no)) = state.leases.first()
            && until <= mono
        {
            state.leases.pop_first();
            ticks.insert(run_no);
        }
        ticks.extend(std::mem::take(&mut state.again));
        let mut tells = std::mem::take(&mut state.outboxes);
        tells.extend(
            ticks
                .iter()
                .filter(|run_no| state.entries.get(run_no).is_some_and(|entry| entry.has_outbox)),
        );
        let entry = |run_no: &RunNo| state.entries.get(run_no);
        let ticks = ticks.iter().filter_map(|&run_no| {
            let Entry { key, lease, .. } = entry(&run_no)?;
            let lapsed = lease.filter(|held| held.until <= mono).map(|held| held.epoch);
            Some(Errand::Tick { run_no, key: key.clone(), lapsed })
        });
        let tells = tells
            .iter()
            .filter_map(|&run_no| Some(Errand::Tell { run_no, key: entry(&run_no)?.key.clone() }));
        ticks.chain(tells).collect()
    }

    /// Has a run looked at again soon: what was to be done for it could not be.
    pub(super) fn retry(&self, run_no: RunNo) {
        self.state.lock().again.push(run_no);
    }

    /// Waits until something may be due, at most so long; false when the store closes.
    pub(super) fn wait(&self, now_ms: u64, mono: Duration, most: Duration) -> bool {
        let mut state = self.state.lock();
        if state.closing {
            return false;
        }
        if !state.outboxes.is_empty() {
            return true;
        }
        // What could not be done is not tried again at once.
        let due = state
            .due
            .first()
            .map(|(due_ms, _)| Duration::from_millis(due_ms.saturating_sub(now_ms)));
        let lapse = state.leases.first().map(|(until, _)| until.saturating_sub(mono));
        let limit = due.into_iter().chain(lapse).chain([most]).min().unwrap_or(most);
        self.wake.wait_for(&mut state, limit);
        !state.closing
    }

    /// Ends the thread that waits.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.calls.values().for_each(|call| call.notify_waiters());
        drop(state);
        self.wake.notify_all();
        self.complete();
    }
}

impl State {
    fn insert(&mut self, run_no: RunNo, entry: Entry) {
        if let Some(due_ms) = entry.due_ms {
            self.due.insert((due_ms, run_no));
        }
        if let Some(held) = entry.lease {
            self.leases.insert((held.until, run_no));
        }
        if let Some((task, place)) = &entry.place {
            self.queues.entry(task.clone()).or_default().insert(*place);
        }
        if entry.has_outbox {
            self.outboxes.insert(run_no);
        }
        self.entries.insert(run_no, entry);
    }

    fn remove(&mut self, run_no: RunNo) {
        let Some(entry) = self.entries.remove(&run_no) else { return };
        if let Some(due_ms) = entry.due_ms {
            self.due.remove(&(due_ms, run_no));
        }
        if let Some(held) = entry.lease {
            self.leases.remove(&(held.until, run_no));
        }
        if let Some((task, place)) = &entry.place {
            self.leave_queue(task, place);
        }
        self.outboxes.remove(&run_no);
    }

    fn leave_queue(&mut self, task: &Task, place: &Place) {
        if let Some(queue) = self.queues.get_mut(task) {
            queue.remove(place);
            if queue.is_empty() {
                self.queues.remove(task);
            }
        }
    }
}

impl Pending {
    /// What is pending by a run's state; none if nothing is.
    pub(super) fn of(run: &RunState) -> Option<Self> {
        let is_queued = run.status() == RunStatus::Queued;
        run.is_pending().then(|| Self {
            due_ms: run.due_ms(),
            epoch: run.life.lease.as_ref().map(|_| run.life.epoch),
            queued_ms: is_queued.then_some(run.life.queued_ms),
            has_outbox: run.has_outbox(),
        })
    }
}

impl Entry {
    /// What is pending by a run's state; none if nothing is. `held` is the lease that was noted.
    fn of(run: &RunState, held: Option<Held>, mono: Duration) -> Option<Self> {
        let Pending { due_ms, epoch: _, queued_ms, has_outbox } = Pending::of(run)?;
        let place = queued_ms.map(|since_ms| {
            let place = (Reverse(run.spec.priority), since_ms, run.run_no);
            ((run.namespace.clone(), run.task.clone()), place)
        });
        let lease = run.life.lease.as_ref().map(|lease| {
            let term = Duration::from_millis(lease.term_ms);
            let epoch = run.life.epoch;
            match held.filter(|held| held.epoch == epoch) {
                Some(held) => held,
                None => Held { epoch, term, until: mono + term },
            }
        });
        Some(Self {
            key: RunKey { namespace: run.namespace.clone(), run_id: run.run_id.clone() },
            due_ms,
            place,
            lease,
            has_outbox,
            is_taken: false,
        })
    }
}
