//! Wait tokens wake who waits for them, whichever comes first; a key gives one run; a batch has
//! each item once.

use braidlog::{
    BatchItem, Commit, Create, CreateBatch, CreateToken, Error, ListRuns, Outcome, Refusal,
    Release, ReleaseTo, RunSpec, RunStatus, Store, Then,
    proto::{TokenWait, WaitCreated, WaitResult, wait_created::Target},
};

use super::{
    place::{Place, create, key, list, refusal, until},
    work::{work, worker},
};

async fn claim(store: &Store) -> u64 {
    let claimed = store.claim(&worker("w", 60_000), std::future::pending()).await;
    claimed.expect("claims").expect("a run").claimed.epoch
}

/// Suspends a run until a token is completed.
fn wait_for(epoch: u64, token: &str, deadline_ms: u64) -> Commit {
    let wait = WaitCreated {
        wait_id: format!("for-{token}"),
        deadline_ms,
        target: Some(Target::Token(TokenWait { token_id: token.into() })),
    };
    let release = Release { next: ReleaseTo::Suspend, error: None };
    Commit {
        lease_epoch: Some(epoch),
        waits: vec![wait],
        then: Then::Release(release),
        ..Commit::default()
    }
}

async fn create_token(store: &Store, token: &str, timeout_ms: u64) {
    let create = CreateToken { token_id: token.into(), timeout_ms, ..CreateToken::default() };
    assert!(store.create_wait_token(create).await.expect("created").created);
}

async fn settled(store: &Store, run: &str) -> Option<(WaitResult, bytes::Bytes)> {
    let run = store.get_run(&key(run)).await.expect("the run");
    let settled = run.waits.last().expect("a wait").settled.clone()?;
    Some((settled.result(), settled.value))
}

#[tokio::test]
async fn a_token_wakes_the_runs_that_wait_whichever_comes_first_and_whatever_restarts() {
    for restarts in [false, true] {
        let mut place = Place::new();
        for run in ["before", "after", "never", "late"] {
            place.store().create_run(work(run)).await.expect("created");
            // Those of one millisecond are of the same age.
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        create_token(place.store(), "token", 0).await;
        create_token(place.store(), "short", 700).await;
        let epoch = claim(place.store()).await;
        place.store().commit(&key("before"), wait_for(epoch, "token", 0)).await.expect("waits");
        if restarts {
            place.flush().await;
            place.reopen().await;
        }
        let value: bytes::Bytes = "yes".into();
        let store = place.store();
        let token = key("token");
        let done = store.complete_wait_token(&token, value.clone(), "text/plain".into()).await;
        assert!(!done.expect("completed").deduplicated);
        let again = store.complete_wait_token(&token, "no".into(), String::new()).await;
        let again = again.expect("answered");
        assert!(again.deduplicated && again.token.value == value, "the first value wins");
        if restarts {
            place.reopen().await;
        }
        let store = place.store();
        until("it is woken", async || settled(store, "before").await.is_some()).await;
        assert_eq!(settled(store, "before").await, Some((WaitResult::Completed, value.clone())));
        assert_eq!(store.get_run(&key("before")).await.expect("run").status, RunStatus::Queued);

        let resumed = store.claim(&worker("w", 60_000), std::future::pending()).await;
        let resumed = resumed.expect("claims").expect("a run");
        let (first, epoch) = (resumed.run.run_id.clone(), resumed.claimed.epoch);
        assert_eq!((&*first, epoch), ("after", 1), "the oldest in the queue");
        store.commit(&key("after"), wait_for(1, "token", 0)).await.expect("waits");
        until("it is woken", async || settled(store, "after").await.is_some()).await;
        assert_eq!(settled(store, "after").await, Some((WaitResult::Completed, value)));

        assert_eq!(claim(store).await, 1);
        store.commit(&key("never"), wait_for(1, "missing", 0)).await.expect("waits");
        until("it is told", async || settled(store, "never").await.is_some()).await;
        assert_eq!(settled(store, "never").await.expect("settled").0, WaitResult::Canceled);

        assert_eq!(claim(store).await, 1);
        store.commit(&key("late"), wait_for(1, "short", 0)).await.expect("waits");
        until("its time is over", async || settled(store, "late").await.is_some()).await;
        assert_eq!(settled(store, "late").await.expect("settled").0, WaitResult::TimedOut);
        let refused = store.complete_wait_token(&key("short"), "x".into(), String::new()).await;
        let outcome = Some(Outcome::TimedOut);
        assert!(
            matches!(refused, Err(Error::Refused(Refusal::Closed { outcome: o, .. })) if o == outcome)
        );
        let missing = store.get_wait_token(&key("missing")).await.expect_err("not there");
        assert_eq!(refusal(missing), Refusal::WaitNotFound);
        let page = store.list_wait_tokens(&ListRuns::default()).await.expect("page");
        assert_eq!(page.tokens.len(), 2);
        let runs = list(store, ListRuns::default()).await;
        assert!(runs.iter().all(|run| *run.task == *"work"), "tokens are not listed as runs");
    }
}

#[tokio::test]
async fn a_key_gives_one_run_until_it_expires_or_the_run_is_deleted() {
    let mut place = Place::new();
    let keyed = |run: &str, task: &str, expires_ms| Create {
        task: task.into(),
        spec: RunSpec {
            idempotency_key: "key".into(),
            idempotency_expires_at_ms: expires_ms,
            ..RunSpec::default()
        },
        ..create(run)
    };
    let store = place.store();
    let first = store.create_run(keyed("a", "work", 0)).await.expect("created");
    assert!(first.created && *first.run.run_id == *"a");
    let again = store.create_run(keyed("b", "work", 0)).await.expect("found");
    assert!(!again.created && again.run.run_uid == first.run.run_uid);
    let other = store.create_run(keyed("c", "other", 0)).await.expect("created");
    assert!(other.created, "keys are the task's");
    place.flush().await;
    place.reopen().await;
    let store = place.store();
    assert!(!store.create_run(keyed("d", "work", 0)).await.expect("found").created);
    super::place::delete(store, &key("a")).await;
    let new =
        store.create_run(keyed("e", "work", store.clock_ms() + 2_500)).await.expect("created");
    assert!(new.created && *new.run.run_id == *"e");
    let taken = store.create_run(keyed("e", "work", 0)).await.expect("found");
    assert!(!taken.created);
    tokio::time::sleep(std::time::Duration::from_millis(2_700)).await;
    assert!(store.create_run(keyed("f", "work", 0)).await.expect("created").created);
    let exists = store.create_run(Create {
        spec: RunSpec { idempotency_key: "another".into(), ..RunSpec::default() },
        ..work("c")
    });
    assert_eq!(refusal(exists.await.expect_err("taken")), Refusal::RunExists);
    let runs = list(store, ListRuns::default()).await;
    assert_eq!(runs.len(), 3, "keys are not listed: {runs:?}");
}

#[tokio::test]
async fn of_a_hundred_calls_with_one_key_at_once_one_creates() {
    let place = Place::with(|options| options.resident_bytes = 64 << 20);
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let store = place.store().clone();
            let spec = RunSpec { idempotency_key: "key".into(), ..RunSpec::default() };
            let create = Create { spec, ..work(&format!("run-{n}")) };
            tokio::spawn(async move { store.create_run(create).await.expect("created or found") })
        })
        .collect();
    let mut created = Vec::new();
    for call in calls {
        created.push(call.await.expect("call"));
    }
    assert_eq!(created.iter().filter(|created| created.created).count(), 1);
    assert!(created.iter().all(|other| other.run.run_uid == created[0].run.run_uid));
}

#[tokio::test]
async fn a_batch_has_each_item_once_and_none_after_it_is_sealed() {
    let mut place = Place::new();
    let store = place.store();
    let batch = CreateBatch { run_count: 5, ..CreateBatch::new("batch") };
    assert!(store.create_batch(batch.clone()).await.expect("created").created);
    assert!(!store.create_batch(batch).await.expect("found").created);
    let items = |numbers: std::ops::Range<u64>| -> Vec<BatchItem> {
        numbers.map(|number| BatchItem { number, run: work(&format!("item-{number}")) }).collect()
    };
    let added = store.add_to_batch(&key("batch"), items(0..3)).await.expect("added");
    assert_eq!((added.accepted, added.deduplicated), (3, 0));
    place.reopen().await;
    let store = place.store();
    let added = store.add_to_batch(&key("batch"), items(0..5)).await.expect("added");
    assert_eq!((added.accepted, added.deduplicated), (2, 3));
    let other = vec![BatchItem { number: 4, run: work("another") }];
    let refused = store.add_to_batch(&key("batch"), other).await.expect_err("refused");
    assert_eq!(refusal(refused), Refusal::DedupMismatch);
    let short = store.seal_batch(&key("batch"), Some(9)).await.expect_err("not complete");
    assert_eq!(refusal(short), Refusal::IndexMismatch { tail: braidlog::Index(5) });
    let sealed = store.seal_batch(&key("batch"), Some(5)).await.expect("sealed");
    assert!(sealed.sealed && sealed.items == 5 && sealed.run_count == 5);
    store.seal_batch(&key("batch"), None).await.expect("sealed already");
    let added = store.add_to_batch(&key("batch"), items(4..5)).await.expect("known");
    assert_eq!((added.accepted, added.deduplicated), (0, 1));
    let refused = store.add_to_batch(&key("batch"), items(5..6)).await.expect_err("sealed");
    assert!(matches!(refused, Error::Refused(Refusal::Closed { .. })));
    let runs = list(store, ListRuns { batch: "batch".into(), ..ListRuns::default() }).await;
    assert_eq!(runs.len(), 5);
}
