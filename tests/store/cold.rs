//! Callers that look for a run that is in packs only get one answer each, whoever else looks for it
//! and whoever gives up meanwhile.

use std::{future::Future, time::Duration};

use braidlog::{IfAbsent, Query, RunKey};
use tokio::{task::JoinSet, time::timeout};

use super::place::{PATIENCE, Place, append, batch, delete, key};

/// A store that has runs in packs, and nothing in memory.
async fn asleep(runs: usize) -> (Place, Vec<RunKey>) {
    let mut place = Place::with(|options| options.read_threads = 1);
    let runs: Vec<_> = (0..runs).map(|n| key(format!("run {n}"))).collect();
    for run in &runs {
        append(place.store(), run, batch("out", ["x"])).await;
    }
    place.flush().await;
    place.reopen().await;
    assert_eq!(place.store().stats().runs_resident, 0);
    (place, runs)
}

/// Polls a future so many times, and gives it up if it has not ended.
async fn poll_and_drop(future: impl Future, polls: usize) {
    let mut left = polls;
    tokio::select! {
        biased;
        _ = future => {}
        () = std::future::poll_fn(move |context| {
            if left == 0 {
                return std::task::Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        }) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_look_for_one_run_at_the_same_time_find_the_same() {
    let (place, runs) = asleep(40).await;
    for run in &runs {
        let mut callers = JoinSet::new();
        for n in 0..8 {
            let (store, run) = (place.store().clone(), run.clone());
            callers.spawn(async move {
                if n % 2 == 0 {
                    let appended = store.append(&run, batch("out", ["y"]), IfAbsent::Refuse).await;
                    return appended.expect("appended").run_uid;
                }
                store.get_run(&run).await.expect("a run").run_uid
            });
        }
        let found = timeout(PATIENCE, callers.join_all()).await.expect("nobody hangs");
        assert!(found.iter().all(|run_uid| *run_uid == found[0]));
        let tail = place.store().check_tail(run, None, Some("out")).await.expect("tail");
        assert_eq!(tail.stream.expect("a stream").tail.0, 5, "every append once");
    }
    assert_eq!(place.store().stats().runs, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nobody_waiting() {
    let (place, runs) = asleep(60).await;
    let store = place.store();
    for (n, run) in runs.iter().enumerate() {
        poll_and_drop(store.get_run(run), n % 4).await;
        let query = Query::run(run.clone());
        let waiting = {
            let (store, query) = (store.clone(), query.clone());
            tokio::spawn(async move { store.read(query).await })
        };
        poll_and_drop(store.read(query.clone()), n % 3).await;
        poll_and_drop(store.tail(query), 1).await;
        poll_and_drop(store.append(run, batch("out", ["y"]), IfAbsent::Refuse), n % 2).await;
        let page = timeout(PATIENCE, waiting).await.expect("nobody hangs").expect("a reader");
        assert!(2 <= page.expect("page").records.count);
    }
    // What was looked for in vain is looked for again.
    for run in &runs {
        let found = timeout(PATIENCE, store.get_run(run)).await.expect("nobody hangs");
        assert!(2 <= found.expect("a run").tail.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_while_it_is_looked_for_stays_deleted() {
    let (mut place, runs) = asleep(30).await;
    for run in &runs {
        let reader = {
            let (store, run) = (place.store().clone(), run.clone());
            tokio::spawn(async move { store.get_run(&run).await.is_ok() })
        };
        delete(place.store(), run).await;
        // Before or after: both are true.
        timeout(PATIENCE, reader).await.expect("nobody hangs").expect("a reader");
        assert!(place.store().get_run(run).await.is_err());
    }
    for _ in 0..2 {
        place.flush().await;
        place.reopen().await;
        for run in &runs {
            assert!(place.store().get_run(run).await.is_err());
        }
    }
    tokio::time::sleep(Duration::ZERO).await;
}
