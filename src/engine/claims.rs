//! Who works on which input right now, in memory only.
//!
//! A consumer's inputs that are handed out are claimed: nobody else gets them. A claim ends with
//! its receiver, or with its term, and always when the run is handed to another worker. What a run
//! has consumed is in its state; here is only who is at it, and up to where inputs were delivered
//! once already.
//!
//! What it deliberately does not do: survive anything. After a restart nobody works on anything,
//! and everything that was not acked may have been seen.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    core::Inbox,
    platform::sync::Mutex,
    record::{Index, RunNo},
    sabotage::{self, Bug},
};

/// Who holds claims: a receiver, or one who took.
pub(super) type Holder = u64;

/// Claims of all runs.
#[derive(Default)]
pub(super) struct Claims {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    runs: HashMap<RunNo, Vec<Desk>>,
    next_holder: Holder,
}

/// What of a stream is handed out to a consumer.
struct Desk {
    stream: Arc<str>,
    consumer: Arc<str>,
    /// Number of the lease under which it is.
    epoch: u64,
    /// Inputs below were delivered once.
    delivered: Index,
    /// The newest receiver.
    receiver: Option<Holder>,
    claims: BTreeMap<Index, Claim>,
    /// Told when a claim ends, and to a receiver that it has ended.
    wake: Arc<Notify>,
}

struct Claim {
    holder: Holder,
    /// When it ends by itself.
    until: Option<Duration>,
}

/// Names a desk.
#[derive(Debug, Clone)]
pub(super) struct DeskName {
    pub(super) run_no: RunNo,
    pub(super) stream: Arc<str>,
    pub(super) consumer: Arc<str>,
}

/// What can be handed out.
pub(super) struct Offer {
    /// Indices side by side: the first, and the one after the last.
    pub(super) from: Index,
    pub(super) to: Index,
    /// Inputs below this were delivered before.
    pub(super) delivered: Index,
}

/// How a desk stands for who comes to it.
pub(super) enum Turn {
    /// Something was claimed.
    Offer(Offer),
    /// There is nothing now.
    Nothing,
    /// A newer receiver goes on, or the run was handed to another worker.
    Superseded,
}

/// What one who comes to a desk may have.
pub(super) struct Wish<'a> {
    pub(super) holder: Holder,
    /// Whether it is a receiver, of which there is one.
    pub(super) is_receiver: bool,
    /// Number of the lease now.
    pub(super) epoch: u64,
    /// What of the stream was consumed, if there is such a stream.
    pub(super) inbox: Option<&'a Inbox>,
    /// First index of the stream that is kept.
    pub(super) trim: Index,
    /// Next index of the stream that is visible.
    pub(super) tail: Index,
    /// Most inputs that the holder may have.
    pub(super) held_max: usize,
    /// Most inputs that are offered at once.
    pub(super) offer_max: usize,
    pub(super) now: Duration,
    /// When the claim ends by itself.
    pub(super) until: Option<Duration>,
}

impl Claims {
    /// A number for one who will hold claims.
    pub(super) fn holder(&self) -> Holder {
        let mut state = self.state.lock();
        state.next_holder += 1;
        state.next_holder
    }

    /// Makes a receiver the one of its consumer; the one before has ended, and its claims.
    pub(super) fn begin(&self, name: &DeskName, epoch: u64, holder: Holder) -> Arc<Notify> {
        self.with_desk(name, epoch, |desk| {
            if let Some(before) = desk.receiver.replace(holder) {
                desk.claims.retain(|_, claim| claim.holder != before);
                desk.wake.notify_waiters();
            }
            desk.wake.clone()
        })
    }

    /// What is told when a claim of a desk ends.
    pub(super) fn wake(&self, name: &DeskName, epoch: u64) -> Arc<Notify> {
        self.with_desk(name, epoch, |desk| desk.wake.clone())
    }

    /// Claims what the holder may have next: the first inputs that are owed and nobody has.
    pub(super) fn turn(&self, name: &DeskName, wish: &Wish<'_>) -> Turn {
        self.with_desk(name, wish.epoch, |desk| {
            if wish.is_receiver && desk.receiver != Some(wish.holder) {
                return Turn::Superseded;
            }
            let Some(inbox) = wish.inbox else { return Turn::Nothing };
            let consumer = &*name.consumer;
            let is_over = |claim: &Claim| claim.until.is_some_and(|until| until <= wish.now);
            desk.claims
                .retain(|index, claim| !is_over(claim) && !inbox.has_acked(consumer, *index));
            let held = desk.claims.values().filter(|claim| claim.holder == wish.holder).count();
            let free = wish.held_max.saturating_sub(held).min(wish.offer_max) as u64;
            let mut from = inbox.next_owed(consumer, wish.trim);
            while from < wish.tail && desk.claims.contains_key(&from) {
                from = inbox.next_owed(consumer, from + 1);
            }
            let mut to = from;
            let is_free = |index: Index| {
                !desk.claims.contains_key(&index) && !inbox.has_acked(consumer, index)
            };
            while to < wish.tail && to.0 - from.0 < free && is_free(to) {
                to = to + 1;
            }
            if to == from {
                return Turn::Nothing;
            }
            for index in from.0..to.0 {
                let claim = Claim { holder: wish.holder, until: wish.until };
                desk.claims.insert(Index(index), claim);
            }
            let delivered = desk.delivered;
            desk.delivered = delivered.max(to);
            Turn::Offer(Offer { from, to, delivered })
        })
    }

    /// Ends a holder's claims from an index on: they were not delivered.
    pub(super) fn give_back(&self, name: &DeskName, holder: Holder, from: Index) {
        self.with_known(name, |desk| {
            desk.claims.retain(|index, claim| claim.holder != holder || *index < from);
            desk.wake.notify_waiters();
        });
    }

    /// Ends all claims of a receiver, and the receiver.
    pub(super) fn end(&self, name: &DeskName, holder: Holder) {
        self.with_known(name, |desk| {
            if desk.receiver == Some(holder) {
                desk.receiver = None;
            }
            desk.claims.retain(|_, claim| claim.holder != holder);
            desk.wake.notify_waiters();
        });
        self.forget_unused(name);
    }

    /// Ends the claim on an input; false if there was none.
    pub(super) fn release(&self, name: &DeskName, index: Index) -> bool {
        let released = self.with_known(name, |desk| {
            let was_claimed = desk.claims.remove(&index).is_some();
            if !sabotage::is(Bug::ReleaseWithoutWake) {
                desk.wake.notify_waiters();
            }
            was_claimed
        });
        released.unwrap_or(false)
    }

    /// Gives the claim on an input another term; false if there was none.
    pub(super) fn extend(
        &self,
        name: &DeskName,
        index: Index,
        now: Duration,
        term: Duration,
    ) -> bool {
        let extended = self.with_known(name, |desk| {
            let claim = desk.claims.get_mut(&index);
            let claim = claim.filter(|claim| claim.until.is_none_or(|until| now < until));
            let Some(claim) = claim else { return false };
            claim.until = claim.until.map(|until| until.max(now + term));
            true
        });
        extended.unwrap_or(false)
    }

    /// Wakes those who wait for inputs whose claims have ended by themselves; when the next one
    /// does.
    pub(super) fn expire(&self, now: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        let mut next = None;
        for desk in state.runs.values_mut().flatten() {
            let before = desk.claims.len();
            desk.claims.retain(|_, claim| claim.until.is_none_or(|until| now < until));
            if desk.claims.len() < before {
                desk.wake.notify_waiters();
            }
            let first = desk.claims.values().filter_map(|claim| claim.until).min();
            next = [next, first].into_iter().flatten().min();
        }
        next
    }

    /// Wakes all who wait, to see that the store is closing.
    pub(super) fn wake_all(&self) {
        let state = self.state.lock();
        state.runs.values().flatten().for_each(|desk| desk.wake.notify_waiters());
    }

    /// Forgets a run that has ended.
    pub(super) fn forget(&self, run_no: RunNo) {
        let desks = self.state.lock().runs.remove(&run_no);
        desks.into_iter().flatten().for_each(|desk| desk.wake.notify_waiters());
    }

    /// Forgets a desk that nothing was ever delivered at.
    fn forget_unused(&self, name: &DeskName) {
        let mut state = self.state.lock();
        let Some(desks) = state.runs.get_mut(&name.run_no) else { return };
        desks.retain(|desk| {
            !desk.is(name) || desk.delivered != Index::ZERO || desk.receiver.is_some()
        });
        if desks.is_empty() {
            state.runs.remove(&name.run_no);
        }
    }

    fn with_known<T>(&self, name: &DeskName, with: impl FnOnce(&mut Desk) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let desks = state.runs.get_mut(&name.run_no)?;
        desks.iter_mut().find(|desk| desk.is(name)).map(with)
    }

    /// The desk, cleared if the run was handed to another worker since.
    fn with_desk<T>(&self, name: &DeskName, epoch: u64, with: impl FnOnce(&mut Desk) -> T) -> T {
        let mut state = self.state.lock();
        let desks = state.runs.entry(name.run_no).or_default();
        let at = desks.iter().position(|desk| desk.is(name)).unwrap_or_else(|| {
            desks.push(Desk::new(name, epoch));
            desks.len() - 1
        });
        let desk = &mut desks[at];
        if desk.epoch != epoch {
            desk.epoch = epoch;
            desk.claims.clear();
            desk.receiver = None;
            desk.wake.notify_waiters();
        }
        with(desk)
    }
}

impl Desk {
    fn new(name: &DeskName, epoch: u64) -> Self {
        Self {
            stream: name.stream.clone(),
            consumer: name.consumer.clone(),
            epoch,
            delivered: Index::ZERO,
            receiver: None,
            claims: BTreeMap::new(),
            wake: Arc::default(),
        }
    }

    fn is(&self, name: &DeskName) -> bool {
        self.stream == name.stream && self.consumer == name.consumer
    }
}
