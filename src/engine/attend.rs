//! Does what is due for runs without a caller: times that come, workers that are silent, what one
//! run has to tell another.
//!
//! Telling is: an entry of an outbox that is durable is decided upon by the run it is for, and
//! when that is durable, taken out. Whatever is repeated after a crash is known by its number. All
//! that is to be told at one time takes three commits, however much it is.
//!
//! What it deliberately does not do: hurry through a failure. What the disk has no room for is
//! tried again a second later.

use std::{sync::Arc, time::Duration};

use super::{
    admission::Purpose, agenda::Errand, request::RunKey, shard::Run, shared::Shared, ticket::Ticket,
};
use crate::{
    core::{Commit, Delivery, Refusal},
    error::Error,
    platform::os,
    proto::storage::v1::{OutboxEntry, outbox_entry},
    record::{RunNo, RunUid},
    recovery::read_state,
};

/// How long nothing is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a frame that only time has made, about.
const TICK_FRAME_BYTES: usize = 4 << 10;

/// What a run has to tell.
struct Mail {
    run_no: RunNo,
    source: RunKey,
    source_uid: RunUid,
    entries: Vec<OutboxEntry>,
}

/// Mail that is being told: the numbers of entries, and what tells that they are.
struct Told {
    run_no: RunNo,
    source: RunKey,
    taken: Vec<(u64, Ticket<()>)>,
    failed: Option<Error>,
}

/// Attends to runs until the store closes.
pub(super) fn run(shared: &Arc<Shared>) {
    let _stop = shared.stop_on_panic("attending to runs panicked");
    os::block_on(look_around(shared));
    loop {
        os::block_on(round(shared));
        let mono = shared.platform.clock.mono();
        let next = shared.claims.expire(mono).map(|next| next.saturating_sub(mono));
        let most = next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
        if !shared.agenda.wait(shared.now_ms(), mono, most) {
            return;
        }
    }
}

/// Notes what is pending of runs that only packs have. Those that the journal has were noted when
/// the store was opened.
pub(super) async fn look_around(shared: &Arc<Shared>) {
    let shelf = shared.packs.shelf();
    for pack in shelf.packs() {
        // What is damaged is told to whoever asks for the run.
        let Ok(entries) = pack.entries() else { continue };
        for entry in entries.flatten().filter(|entry| entry.head.is_pending) {
            let (name_hash, run_no) = (entry.head.name_hash, entry.head.run_no);
            let Ok(segments) = shelf.segments_of(name_hash, run_no) else { continue };
            let last = segments.last().filter(|last| last.entry.head == entry.head);
            let Some(Ok(state)) = last.map(|last| read_state(last, &shared.blocks)) else {
                continue;
            };
            let key = RunKey { namespace: state.namespace.clone(), run_id: state.run_id.clone() };
            let noted = shared.with_run(&key, |shared, run| {
                shared.agenda.note(&run.state, shared.platform.clock.mono());
                Ok(())
            });
            if let Err(Error::ShuttingDown | Error::Stopped { .. }) = noted.await {
                return;
            }
        }
    }
    shared.agenda.complete();
}

/// Does all that is due now.
pub(super) async fn round(shared: &Arc<Shared>) {
    let errands = shared.agenda.take(shared.now_ms(), shared.platform.clock.mono());
    let mut mails = Vec::new();
    for errand in errands {
        let (run_no, done) = match errand {
            Errand::Tick { run_no, key, lapsed } => (run_no, tick(shared, &key, lapsed).await),
            Errand::Tell { run_no, key } => {
                let mail = take_mail(shared, run_no, key).await;
                (run_no, mail.map(|mail| mails.push(mail)))
            }
        };
        done.unwrap_or_else(|error| put_off(shared, run_no, &error));
    }
    let mut told = Vec::new();
    for mail in mails {
        // Nobody is told of what a crash could take back.
        if let Ok(mail) = mail.await {
            told.push(tell(shared, mail).await);
        }
    }
    for Told { run_no, source, taken, mut failed } in told {
        let mut numbers = Vec::new();
        for (number, ticket) in taken {
            match ticket.await {
                Ok(()) | Err(Error::Refused(_)) => numbers.push(number),
                Err(error) => failed = Some(error),
            }
        }
        let noted = note_told(shared, &source, &numbers).await;
        if let Some(error) = noted.err().or(failed) {
            put_off(shared, run_no, &error);
        }
    }
}

/// What could not be done is tried again, if there is a point in that.
fn put_off(shared: &Shared, run_no: RunNo, error: &Error) {
    match error {
        Error::Refused(_) | Error::Corrupt(_) => shared.agenda.forget(run_no),
        _ => {
            tracing::debug!(%error, run_no = run_no.0, "not attended to yet");
            shared.agenda.retry(run_no);
        }
    }
}

/// Lets what is due in a run happen.
async fn tick(shared: &Arc<Shared>, key: &RunKey, lapsed: Option<u64>) -> Result<(), Error> {
    let ticked = shared.with_run(key, |shared, run| {
        shared.check_room(TICK_FRAME_BYTES, Purpose::End)?;
        let lapsed = lapsed.filter(|_| !is_heard(shared, run));
        let context = shared.context(run);
        match run.state.tick(lapsed, &context) {
            Some(decided) => {
                run.noted = None;
                drop(shared.decided(run, Ok(decided), None, |_, ()| ()));
            }
            // It is not due any more; what is pending is noted anew.
            None => shared.agenda.note(&run.state, shared.platform.clock.mono()),
        }
        Ok(())
    });
    ticked.await
}

/// Whether the run's worker has given a sign within the term of its lease, which then goes on.
fn is_heard(shared: &Shared, run: &Run) -> bool {
    let Some(lease) = &run.state.life.lease else { return false };
    let until = run.heard + Duration::from_millis(lease.term_ms);
    let is_heard = run.heard != Duration::ZERO && shared.platform.clock.mono() < until;
    if is_heard {
        shared.agenda.renew(run.state.run_no, run.heard);
    }
    is_heard
}

/// What a run's outbox holds; the ticket says when that is durable.
async fn take_mail(
    shared: &Arc<Shared>,
    run_no: RunNo,
    source: RunKey,
) -> Result<Ticket<Mail>, Error> {
    let taken = shared.with_run(&source, |shared, run| {
        let is_same = run.state.run_no == run_no && !run.is_deleted();
        let entries = run.state.outbox.iter().filter(|_| is_same).cloned().collect();
        let source_uid = run.state.run_uid;
        Ok(shared.settled(run, Ok(Mail { run_no, source: source.clone(), source_uid, entries })))
    });
    taken.await
}

/// Tells others what a run's outbox held, in order, up to the first that cannot be told now.
async fn tell(shared: &Arc<Shared>, mail: Mail) -> Told {
    let Mail { run_no, source, source_uid, entries } = mail;
    let mut told = Told { run_no, source, taken: Vec::new(), failed: None };
    for entry in entries {
        let number = entry.number;
        match deliver(shared, &told.source, source_uid, entry).await {
            Ok(Some(ticket)) => told.taken.push((number, ticket)),
            Ok(None) => told.taken.push((number, Ticket::done(()))),
            Err(error) => {
                told.failed = Some(error);
                break;
            }
        }
    }
    told
}

/// Has an entry decided upon by the run that it is for. One that is gone is told nothing; who waits
/// for it waits no more.
async fn deliver(
    shared: &Arc<Shared>,
    source: &RunKey,
    source_uid: RunUid,
    entry: OutboxEntry,
) -> Result<Option<Ticket<()>>, Error> {
    let namespace = source.namespace.clone();
    let target = RunKey { namespace, run_id: entry.run_id.as_str().into() };
    let wait = match &entry.message {
        Some(outbox_entry::Message::Waits(wait_id)) => Some(wait_id.as_str().into()),
        _ => None,
    };
    let delivery = Delivery { source: source.run_id.clone(), source_uid, entry };
    let size = delivery.frame_bytes_max();
    let taken = shared.with_run(&target, |shared, run| {
        if run.is_deleted() {
            return Err(Refusal::RunDeleted.into());
        }
        shared.check_room(size, Purpose::End)?;
        let decided = run.state.deliver(&delivery, &shared.context(run));
        Ok(shared.decided(run, decided, None, |_, ()| ()))
    });
    match (taken.await, wait) {
        (Err(Error::Refused(_)), Some(wait_id)) => {
            give_up_wait(shared, source, wait_id).await.map(Some)
        }
        // A run that is damaged is told nothing either: whoever waits for it learns of it elsewhere.
        (Err(Error::Refused(_) | Error::Corrupt(_)), _) => Ok(None),
        (taken, _) => taken.map(Some),
    }
}

async fn give_up_wait(
    shared: &Arc<Shared>,
    key: &RunKey,
    wait_id: Arc<str>,
) -> Result<Ticket<()>, Error> {
    let commit = Commit { cancel_waits: vec![wait_id], ..Commit::default() };
    let given_up = shared.with_run(key, |shared, run| {
        shared.check_room(TICK_FRAME_BYTES, Purpose::End)?;
        let decided = run.state.commit(&commit, &shared.context(run));
        Ok(shared.decided(run, decided, None, |_, _| ()))
    });
    given_up.await
}

/// Takes what was told out of a run's outbox. Nobody waits for that: what is told again after a
/// crash is known.
async fn note_told(shared: &Arc<Shared>, key: &RunKey, numbers: &[u64]) -> Result<(), Error> {
    let noted = shared.with_run(key, |shared, run| {
        let context = shared.context(run);
        match run.state.told(numbers, &context) {
            Some(decided) => drop(shared.decided(run, Ok(decided), None, |_, ()| ())),
            None => shared.note_pending(run),
        }
        Ok(())
    });
    noted.await
}
