//! Keeps a lease while a job works under it, and learns when it is to stop.
//!
//! The lease is renewed three times a term. That the run is to stop, or is not the job's any more,
//! is learned from the records of its life as they come, from renewals, and from the answers of
//! whatever the job does; the first word of it counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::Client;
use crate::{
    core::{Cancel, Commit, Refusal, Then},
    engine::{CommittedTurn, End, Query, RunKey, Start, TailItem},
    error::Error,
    format::cursor::Cursor,
    proto::{Record, event::Event},
    record::{RUN_STREAM_NAME, RunUid},
};

/// Renewals in a term.
const RENEWALS_PER_TERM: u32 = 3;

/// Why a job is to stop.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// Somebody asks for the run to stop. The job has until `close_at_ms` to end it; then the
    /// store closes it.
    Canceled(Cancel),
    /// The run is not the job's any more: another worker has it, or it has ended or was deleted.
    /// Whatever the job still does to it is refused.
    Lost(Refusal),
    /// The job has given the run back, or has ended it.
    Finished,
}

/// A lease, and what is known of it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) client: Client,
    pub(super) run: RunKey,
    pub(super) run_uid: RunUid,
    pub(super) epoch: u64,
    stop: watch::Sender<Option<Stop>>,
    /// A commit is under way that ends the lease: its end is no loss.
    is_finishing: AtomicBool,
}

impl Held {
    pub(super) fn new(client: Client, run: RunKey, run_uid: RunUid, epoch: u64) -> Self {
        let (stop, _) = watch::channel(None);
        Self { client, run, run_uid, epoch, stop, is_finishing: AtomicBool::new(false) }
    }

    pub(super) fn stop(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    /// Commits under the lease.
    pub(super) async fn commit(&self, commit: Commit) -> Result<CommittedTurn, Error> {
        let ends = commit.then != Then::GoOn;
        let _finishing = Finishing::begin(self, ends);
        let commit =
            Commit { run_uid: Some(self.run_uid), lease_epoch: Some(self.epoch), ..commit };
        let turn = self.told(self.client.commit(&self.run, commit).await)?;
        if ends {
            self.note(Stop::Finished);
        } else if let Some(cancel) = &turn.cancel {
            self.note(Stop::Canceled(cancel.clone()));
        }
        Ok(turn)
    }

    /// Takes note of what an answer tells about the lease.
    pub(super) fn told<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Refused(refusal)) = &answer
            && is_loss(refusal)
        {
            self.note(Stop::Lost(refusal.clone()));
        }
        answer
    }

    /// The first word counts, but a request to stop may be followed by the end.
    fn note(&self, stop: Stop) {
        self.stop.send_if_modified(|known| {
            let is_news = match known {
                None => true,
                Some(Stop::Canceled(_)) => !matches!(stop, Stop::Canceled(_)),
                Some(Stop::Lost(_) | Stop::Finished) => false,
            };
            if is_news {
                *known = Some(stop);
            }
            is_news
        });
    }

    fn lose(&self, refusal: Refusal) {
        if !self.is_finishing.load(Ordering::Relaxed) {
            self.note(Stop::Lost(refusal));
        }
    }

    /// What a record of the run's life means for the lease.
    fn learn(&self, record: Record) {
        let time_ms = record.time_ms;
        match record.event.and_then(|event| event.event) {
            Some(Event::CancelRequested(asked)) => self.note(Stop::Canceled(Cancel {
                reason: asked.reason,
                requested_ms: time_ms,
                close_at_ms: asked.close_at_ms,
            })),
            Some(Event::RunClaimed(claimed)) if self.epoch < claimed.epoch => {
                self.lose(Refusal::Fenced { current: claimed.epoch });
            }
            Some(Event::RunAbandoned(abandoned)) if abandoned.epoch == self.epoch => {
                self.lose(Refusal::Fenced { current: self.epoch });
            }
            _ => {}
        }
    }

    async fn over(&self) {
        let mut stop = self.subscribe();
        let is_over = |stop: &Option<Stop>| matches!(stop, Some(Stop::Lost(_) | Stop::Finished));
        // The sender is part of what this belongs to.
        let _ = stop.wait_for(is_over).await;
    }

    async fn renew(&self, term: Duration) {
        let pause = term / RENEWALS_PER_TERM;
        let mut beat = interval(pause);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        loop {
            beat.tick().await;
            // One that takes longer may be on a dead connection.
            let renewed = timeout(pause, self.client.renew_lease(&self.run, self.epoch)).await;
            // If not, the next one may get through; that the lease is lost is told in any case.
            if let Ok(Ok(renewed)) = renewed.map(|renewed| self.told(renewed))
                && let Some(cancel) = renewed.cancel
            {
                self.note(Stop::Canceled(cancel));
            }
        }
    }

    /// Follows the records of the run's life. Without them, renewals tell the same later.
    async fn listen(&self, cursor: Cursor, pause: Duration) {
        let mut start = cursor;
        loop {
            let query = Query::stream(self.run.clone(), RUN_STREAM_NAME);
            let query = Query { run_uid: Some(self.run_uid), allow_gap: true, ..query };
            let tail = self.client.tail(query.from(Start::Cursor(start.to_string()))).await;
            if let Ok(mut tail) = self.told(tail) {
                while let Ok(item) = self.told(tail.next().await) {
                    match item {
                        TailItem::Records(records, _) => {
                            records.decode().into_iter().flatten().for_each(|it| self.learn(it));
                        }
                        TailItem::End(End::Closed(outcome), cursor) => {
                            let (final_seq, final_index) = (cursor.seq, None);
                            self.lose(Refusal::Closed { outcome, final_seq, final_index });
                            return std::future::pending().await;
                        }
                        _ => {}
                    }
                }
                start = tail.cursor().unwrap_or(start);
            }
            sleep(pause).await;
        }
    }
}

/// Whether a refusal says that the lease is gone.
fn is_loss(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Closed { outcome, .. } => outcome.is_some(),
        Refusal::Fenced { .. }
        | Refusal::RunNotFound
        | Refusal::RunDeleted
        | Refusal::RunReplaced { .. } => true,
        _ => false,
    }
}

/// While a commit is under way that ends the lease.
struct Finishing<'a>(Option<&'a Held>);

impl<'a> Finishing<'a> {
    fn begin(held: &'a Held, ends: bool) -> Self {
        if ends {
            held.is_finishing.store(true, Ordering::Relaxed);
        }
        Self(ends.then_some(held))
    }
}

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.0 {
            held.is_finishing.store(false, Ordering::Relaxed);
        }
    }
}

/// Renews a lease in the background until it is over, or this is dropped.
#[derive(Debug)]
pub(super) struct Keeper(JoinHandle<()>);

impl Keeper {
    /// `cursor` is where the records begin that follow the claim.
    pub(super) fn start(held: Arc<Held>, term: Duration, cursor: Cursor) -> Self {
        Self(tokio::spawn(async move {
            tokio::select! {
                () = held.over() => {}
                () = held.renew(term) => {}
                () = held.listen(cursor, term / RENEWALS_PER_TERM) => {}
            }
        }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}
