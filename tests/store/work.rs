//! A queued run goes to one worker at a time, a silent worker is noticed, and time does what it is
//! asked to without a caller.

use std::{
    future::{pending, ready},
    time::Duration,
};

use braidlog::{
    AcquireLease, CancelRun, ClaimRun, ClaimedRun, Close, Commit, Create, Error, Operation,
    Outcome, Refusal, Release, ReleaseTo, Reschedule, RunSpec, RunStatus, Store, StreamAppend,
    Then, proto::event::Event,
};

use super::place::{Place, create, key, read_run, refusal, until};

/// A run of the task `work`.
pub(crate) fn work(run: &str) -> Create {
    Create { task: "work".into(), ..create(run) }
}

fn with(run: &str, spec: RunSpec) -> Create {
    Create { spec, ..work(run) }
}

pub(crate) fn worker(name: &str, term_ms: u64) -> ClaimRun {
    ClaimRun {
        namespace: braidlog::engine::DEFAULT_NAMESPACE.into(),
        tasks: vec!["work".into(), "other".into()],
        worker: name.into(),
        term_ms,
    }
}

async fn claim(store: &Store, name: &str) -> Option<ClaimedRun> {
    let patience = tokio::time::sleep(Duration::from_secs(2));
    store.claim(&worker(name, 60_000), patience).await.expect("claims")
}

fn output(epoch: u64, text: &str) -> Commit {
    let records = vec![braidlog::NewRecord::new(text.to_owned())];
    let append = StreamAppend { stream: "out".into(), records, ..StreamAppend::default() };
    Commit { lease_epoch: Some(epoch), appends: vec![append], ..Commit::default() }
}

fn finish(epoch: u64) -> Commit {
    let close = Close { outcome: Outcome::Completed, ..Close::default() };
    Commit { lease_epoch: Some(epoch), then: Then::Close(close), ..Commit::default() }
}

async fn status(store: &Store, run: &str) -> RunStatus {
    store.get_run(&key(run)).await.expect("the run").status
}

/// What happened in a run's life, by the names of its events.
async fn life(store: &Store, run: &str) -> Vec<&'static str> {
    let records = read_run(store, &key(run)).await;
    let events = records.into_iter().filter_map(|record| record.event?.event);
    let name = |event| match event {
        Event::RunCreated(_) => "created",
        Event::RunClosed(_) => "closed",
        Event::StatusChanged(_) => "status",
        Event::RunClaimed(_) => "claimed",
        Event::RunAbandoned(_) => "abandoned",
        Event::RunReleased(_) => "released",
        Event::CancelRequested(_) => "cancel",
        Event::RunRescheduled(_) => "rescheduled",
        Event::WaitCreated(_) => "wait",
        Event::WaitSettled(_) => "settled",
        _ => "other",
    };
    events.map(name).collect()
}

#[tokio::test]
async fn a_queued_run_goes_to_one_worker_by_priority_then_age_also_after_a_restart() {
    let mut place = Place::new();
    for (run, priority) in [("old", 0), ("new", 0), ("urgent", 5)] {
        let spec = RunSpec { priority, ..RunSpec::default() };
        place.store().create_run(with(run, spec)).await.expect("created");
        // Those of one millisecond are of the same age.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let first = claim(place.store(), "a").await.expect("a run");
    assert_eq!((&*first.run.run_id, first.claimed.epoch), ("urgent", 1));
    assert_eq!(first.run.status, RunStatus::Dequeued);
    // In the journal, then in packs only.
    place.reopen().await;
    assert_eq!(&*claim(place.store(), "b").await.expect("a run").run.run_id, "old");
    place.flush().await;
    place.reopen().await;
    let store = place.store();
    let last = store.claim(&worker("c", 60_000), pending()).await.expect("claims");
    assert_eq!(&*last.expect("a run").run.run_id, "new");
    assert!(store.claim(&worker("d", 60_000), ready(())).await.expect("claims").is_none());
    // The leases are still theirs.
    store.commit(&key("urgent"), output(1, "x")).await.expect("the holder writes");
    assert_eq!(status(store, "urgent").await, RunStatus::Executing);
}

#[tokio::test]
async fn a_hundred_workers_that_wait_get_each_of_a_thousand_runs_once() {
    let place = Place::with(|options| {
        (options.resident_bytes, options.slot_bytes) = (64 << 20, 64 << 20);
        options.slot_bytes_first = 64 << 20;
    });
    let store = place.store().clone();
    let workers: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                while let Some(claimed) = store
                    .claim(
                        &worker(&format!("w{n}"), 60_000),
                        tokio::time::sleep(Duration::from_secs(2)),
                    )
                    .await
                    .expect("claims")
                {
                    let run = key(claimed.run.run_id.clone());
                    store.commit(&run, finish(claimed.claimed.epoch)).await.expect("finishes");
                    mine.push(claimed.run.run_id);
                }
                mine
            })
        })
        .collect();
    for n in 0..1_000 {
        store.create_run(work(&format!("run-{n}"))).await.expect("created");
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.expect("worker"));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 1_000);
    for run in all {
        assert_eq!(life(&store, &run).await, ["created", "claimed", "status", "closed"], "{run}");
    }
}

#[tokio::test]
async fn a_silent_worker_is_abandoned_and_fenced_and_one_that_renews_is_not() {
    let place = Place::new();
    let store = place.store();
    store.create_run(work("run")).await.expect("created");
    let claimed = store.try_claim(&worker("silent", 1_000)).await.expect("claims").expect("a run");
    until("it is queued again", async || status(store, "run").await == RunStatus::Queued).await;
    assert_eq!(life(store, "run").await, ["created", "claimed", "abandoned"]);
    let late = store.commit(&key("run"), output(claimed.claimed.epoch, "late")).await;
    assert_eq!(refusal(late.expect_err("fenced")), Refusal::Fenced { current: 1 });

    let claimed = store.try_claim(&worker("alive", 2_500)).await.expect("claims").expect("a run");
    assert_eq!((claimed.claimed.epoch, claimed.claimed.attempt), (2, 2));
    for n in 0..14 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        // Renewing says so, and so does everything that is done under the lease.
        match n % 2 {
            0 => drop(store.renew_lease(&key("run"), 2).await.expect("renewed")),
            _ => drop(store.commit(&key("run"), output(2, "x")).await.expect("written")),
        }
    }
    assert_eq!(status(store, "run").await, RunStatus::Executing);
    until("the run crashes at its last attempt", async || {
        let next = store.try_claim(&worker("silent", 1_000)).await.expect("claims");
        assert!(next.is_none_or(|next| next.claimed.attempt == 3));
        status(store, "run").await == RunStatus::Crashed
    })
    .await;
    let last = *life(store, "run").await.last().expect("events");
    assert_eq!(last, "closed");
}

#[tokio::test]
async fn a_lease_that_lapsed_while_the_store_was_down_gets_a_full_term_and_then_ends() {
    let mut place = Place::new();
    place.store().create_run(work("run")).await.expect("created");
    place.store().try_claim(&worker("gone", 2_500)).await.expect("claims").expect("a run");
    place.flush().await;
    place.close().await;
    tokio::time::sleep(Duration::from_millis(2_700)).await;
    place.open();
    let store = place.store();
    store.renew_lease(&key("run"), 1).await.expect("still the holder");
    until("it is queued again", async || status(store, "run").await == RunStatus::Queued).await;
}

#[tokio::test]
async fn delayed_runs_are_queued_and_old_ones_expire_without_a_caller() {
    let mut place = Place::new();
    let now = place.store().clock_ms();
    let delayed = RunSpec { delay_until_ms: now + 1_500, ..RunSpec::default() };
    let expires = RunSpec { ttl_ms: 1_500, ..RunSpec::default() };
    let both = RunSpec { ttl_ms: 200, ..delayed.clone() };
    let later = RunSpec { delay_until_ms: now + 3_600_000, ..RunSpec::default() };
    for (run, spec) in
        [("delayed", delayed), ("expires", expires), ("both", both), ("later", later)]
    {
        place.store().create_run(with(run, spec)).await.expect("created");
    }
    place.flush().await;
    place.reopen().await;
    let store = place.store();
    assert_eq!(status(store, "delayed").await, RunStatus::Delayed);
    until("they are", async || {
        status(store, "delayed").await == RunStatus::Queued
            && status(store, "expires").await == RunStatus::Expired
            && status(store, "both").await == RunStatus::Expired
    })
    .await;
    assert_eq!(status(store, "later").await, RunStatus::Delayed);
    let sooner = Reschedule { run_uid: None, delay_until_ms: now };
    store.reschedule_run(&key("later"), sooner).await.expect("rescheduled");
    until("it is queued", async || status(store, "later").await == RunStatus::Queued).await;
    let refused = store.reschedule_run(&key("expires"), Reschedule::default()).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::Closed { .. }))));
}

#[tokio::test]
async fn a_canceled_run_ends_at_once_without_a_worker_and_after_a_while_with_one() {
    let place = Place::new();
    let store = place.store();
    for run in ["idle", "busy", "deaf"] {
        store.create_run(work(run)).await.expect("created");
    }
    let ask = |grace_ms| CancelRun { run_uid: None, reason: "enough".into(), grace_ms };
    let idle = store.cancel_run(&key("idle"), ask(0)).await.expect("canceled");
    assert!(idle.closed && idle.run.status == RunStatus::Canceled);
    let again = store.cancel_run(&key("idle"), ask(0)).await.expect("canceled");
    assert!(again.closed && again.deduplicated);
    assert!(claim(store, "a").await.is_some() && claim(store, "a").await.is_some());
    assert!(claim(store, "a").await.is_none(), "a run that was canceled is not handed out");
    let busy = store.cancel_run(&key("busy"), ask(60_000)).await.expect("asked");
    assert!(!busy.closed);
    let renewed = store.renew_lease(&key("busy"), 1).await.expect("renewed");
    assert_eq!(renewed.cancel.expect("asked").reason, "enough");
    let turn = store.commit(&key("busy"), output(1, "last words")).await.expect("written");
    assert_eq!(turn.cancel.expect("asked").reason, "enough");
    let canceled = Close { outcome: Outcome::Canceled, ..Close::default() };
    let end = Commit { lease_epoch: Some(1), then: Then::Close(canceled), ..Commit::default() };
    store.commit(&key("busy"), end).await.expect("ended by its worker");
    store.cancel_run(&key("deaf"), ask(300)).await.expect("asked");
    until("it is over", async || status(store, "deaf").await == RunStatus::Canceled).await;
    let late = store.commit(&key("deaf"), output(1, "late")).await;
    assert!(matches!(late, Err(Error::Refused(Refusal::Closed { .. }))));
}

#[tokio::test]
async fn a_known_run_is_handed_to_who_asks_and_taken_over_when_that_is_wanted() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("plain")).await.expect("created");
    let acquire = |worker: &str, takeover| AcquireLease {
        run: key("plain"),
        run_uid: None,
        worker: worker.into(),
        term_ms: 60_000,
        takeover,
    };
    let first = store.acquire_lease(&acquire("a", false)).await.expect("free");
    assert_eq!(first.claimed.epoch, 1);
    let held = store.acquire_lease(&acquire("b", false)).await.expect_err("held");
    assert_eq!(refusal(held), Refusal::LeaseHeld { epoch: 1, worker: "a".into() });
    let second = store.acquire_lease(&acquire("b", true)).await.expect("taken over");
    assert_eq!(second.claimed.epoch, 2);
    let fenced = store.renew_lease(&key("plain"), 1).await.expect_err("fenced");
    assert_eq!(refusal(fenced), Refusal::Fenced { current: 2 });
    let release = Release { next: ReleaseTo::Suspend, error: None };
    let back = Commit { lease_epoch: Some(2), then: Then::Release(release), ..Commit::default() };
    let turn = store.commit(&key("plain"), back).await.expect("released");
    assert_eq!(turn.status, RunStatus::Queued, "there is nothing to wait for");
}

#[tokio::test]
async fn changes_for_parent_and_root_arrive_once_and_in_order_whatever_is_restarted() {
    let mut place = Place::new();
    let related = |parent: &str, root: &str| RunSpec {
        parent_run_id: parent.into(),
        root_run_id: root.into(),
        ..RunSpec::default()
    };
    for (run, spec) in [
        ("root", RunSpec::default()),
        ("parent", related("root", "root")),
        ("child", related("parent", "root")),
    ] {
        place.store().create_run(with(run, spec)).await.expect("created");
    }
    for n in 0..30 {
        let number = n.to_string();
        let commit = Commit {
            metadata: vec![Operation::append("own", number.clone())],
            parent_metadata: vec![Operation::append("seen", number.clone())],
            root_metadata: vec![
                Operation::append("seen", number),
                Operation::increment("count", "1"),
            ],
            ..Commit::default()
        };
        place.store().commit(&key("child"), commit).await.expect("committed");
        if n % 10 == 9 {
            place.flush().await;
        }
        if n % 7 == 6 {
            place.reopen().await;
        }
    }
    let store = place.store();
    let numbers = (0..30).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let expected = [
        ("child", format!("{{\"own\":[{numbers}]}}")),
        ("parent", format!("{{\"seen\":[{numbers}]}}")),
        ("root", format!("{{\"seen\":[{numbers}],\"count\":30}}")),
    ];
    for (run, document) in expected {
        until("it has arrived", async || {
            store.get_run(&key(run)).await.expect("the run").metadata == document.as_bytes()
        })
        .await;
    }
}
