//! A deleted run is gone for everybody at once, stays gone, and its bytes come back.

use braidlog::{Delete, Error, IfAbsent, ListRuns, Query, Refusal, RunKey, Start, Store, TailItem};

use super::place::{
    Place, append, batch, close, create, delete, drain, key, list, noise, read_run, until,
};

fn is_deleted<T>(answer: Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Refused(Refusal::RunDeleted)))
}

/// Demands that every call on the run is told that it was deleted, and that no list has it.
async fn demand_deleted(store: &Store, run: &RunKey) {
    let query = Query::run(run.clone());
    assert!(is_deleted(store.get_run(run).await));
    assert!(is_deleted(store.read(query.clone()).await));
    assert!(is_deleted(store.tail(query).await));
    assert!(is_deleted(store.check_tail(run, None, None).await));
    assert!(is_deleted(store.list_streams(run, None).await));
    for absent in [IfAbsent::Create, IfAbsent::Refuse] {
        assert!(is_deleted(store.append(run, batch("out", ["x"]), absent).await));
    }
    let again = store.delete_run(run, Delete::default()).await.expect("deleted already");
    assert!(again.deduplicated);
    let listed = list(store, ListRuns::default()).await;
    assert!(listed.iter().all(|found| found.run_id != run.run_id));
}

#[tokio::test]
async fn a_deleted_run_is_gone_for_readers_and_tails_at_once_and_stays_gone() {
    // What is in memory only, in packs and journal, in packs only.
    for (before, between) in [(false, false), (true, true), (true, false)] {
        let mut place = Place::new();
        let run = key("run");
        for n in 0..50 {
            append(place.store(), &run, batch("out", [noise(n, 2_000)])).await;
        }
        if before {
            place.flush().await;
        }
        if between {
            append(place.store(), &run, batch("out", ["more"])).await;
        }
        let mut behind = place.store().tail(Query::run(run.clone())).await.expect("tail");
        behind.next().await.expect("streams");
        let mut tail = place.store().tail(Query::run(run.clone())).await.expect("tail");
        drain(&mut tail).await.expect("items");
        let waiting = tokio::spawn(async move { tail.next().await });
        delete(place.store(), &run).await;
        assert!(is_deleted(waiting.await.expect("follower")));
        let rest = loop {
            match behind.next().await {
                Ok(TailItem::Records(..)) => {}
                other => break other,
            }
        };
        assert!(is_deleted(rest), "a reader behind the tail too");
        drop(behind);
        demand_deleted(place.store(), &run).await;
        for _ in 0..2 {
            place.flush().await;
            demand_deleted(place.store(), &run).await;
            place.reopen().await;
            demand_deleted(place.store(), &run).await;
        }
        until("no run is counted", async || place.store().stats().runs == 0).await;
    }
}

#[tokio::test]
async fn a_name_that_is_used_again_is_another_run() {
    let mut place = Place::new();
    let run = key("run");
    append(place.store(), &run, batch("out", ["old"])).await;
    let old = place.store().get_run(&run).await.expect("a run").run_uid;
    let cursor = place.store().check_tail(&run, None, Some("out")).await.expect("tail").cursor;
    place.flush().await;
    delete(place.store(), &run).await;
    place.flush().await;
    assert!(place.store().create_run(create("run")).await.expect("created").created);
    append(place.store(), &run, batch("out", ["new"])).await;
    let demand = async |place: &Place| {
        let store = place.store();
        let new = store.get_run(&run).await.expect("a run").run_uid;
        assert_ne!(new, old);
        let records = read_run(store, &run).await;
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].data, "new");
        let resumed = Query::stream(run.clone(), "out").from(Start::Cursor(cursor.to_string()));
        let refused = store.read(resumed).await;
        assert!(
            matches!(refused, Err(Error::Refused(Refusal::RunReplaced { run_uid })) if run_uid == new)
        );
        let stale = store.delete_run(&run, Delete { run_uid: Some(old) }).await;
        assert!(matches!(stale, Err(Error::Refused(Refusal::RunReplaced { .. }))), "{stale:?}");
        assert_eq!(list(store, ListRuns::default()).await.len(), 1);
        until("one run is counted", async || store.stats().runs == 1).await;
    };
    demand(&place).await;
    for _ in 0..2 {
        place.reopen().await;
        demand(&place).await;
        place.flush().await;
        demand(&place).await;
    }
}

#[tokio::test]
async fn bytes_of_deleted_runs_are_given_back_and_other_runs_stay() {
    let mut place = Place::with(|options| {
        (options.slot_bytes_first, options.slot_bytes) = (4 << 20, 4 << 20);
        options.pack_bytes = 1 << 20;
    });
    let runs: Vec<_> = (0..60u64).map(|n| key(format!("run {n}"))).collect();
    for (n, run) in runs.iter().enumerate() {
        append(place.store(), run, batch("out", [noise(n as u64, 100_000)])).await;
    }
    // One that has a file of its own.
    let long = key("long");
    for n in 0..12 {
        append(place.store(), &long, batch("out", [noise(n, 900_000)])).await;
    }
    place.flush().await;
    let before = place.store().stats();
    assert!(10_000_000 < before.disk.run_segment_bytes, "{before:?}");
    assert!(6_000_000 < before.disk.pack_bytes, "{before:?}");
    assert_eq!(before.disk.dead_bytes, 0);
    assert_eq!((before.runs, place.bytes("packs")), (61, on_disk(&place)));

    delete(place.store(), &long).await;
    for run in runs.iter().filter(|run| !run.run_id.ends_with('7')) {
        delete(place.store(), run).await;
    }
    assert_eq!(place.store().stats().runs, 6);
    place.flush().await;
    until("packs are written again", async || {
        place.flush().await;
        place.bytes("packs") < 2_000_000
    })
    .await;
    let after = place.store().stats();
    assert_eq!(after.disk.run_segment_bytes, 0, "{after:?}");
    assert_eq!(place.bytes("packs"), on_disk(&place), "no file is left over");
    for _ in 0..2 {
        for (n, run) in runs.iter().enumerate() {
            if run.run_id.ends_with('7') {
                let records = read_run(place.store(), run).await;
                assert!(records[1].data == noise(n as u64, 100_000));
            } else {
                assert!(is_deleted(place.store().get_run(run).await));
            }
        }
        assert!(is_deleted(place.store().get_run(&long).await));
        place.reopen().await;
    }
    assert_eq!(list(place.store(), ListRuns::default()).await.len(), 6);
}

fn on_disk(place: &Place) -> u64 {
    let disk = place.store().stats().disk;
    disk.pack_bytes + disk.run_segment_bytes
}

#[tokio::test]
async fn a_reader_of_other_runs_is_not_disturbed_when_a_pack_is_written_again() {
    let place = Place::new();
    let (kept, gone) = (key("kept"), key("gone"));
    for n in 0..8 {
        append(place.store(), &kept, batch("out", [noise(n, 10_000)])).await;
        append(place.store(), &gone, batch("out", [noise(n, 20_000)])).await;
    }
    close(place.store(), &kept).await;
    let all = read_run(place.store(), &kept).await;
    place.flush().await;
    let mut query = Query::run(kept.clone());
    query.bounds.bytes = Some(30_000);
    let first = place.store().read(query.clone()).await.expect("page");
    let mut tail = place.store().tail(Query::run(kept.clone())).await.expect("tail");
    delete(place.store(), &gone).await;
    until("the pack is written again", async || {
        place.flush().await;
        place.bytes("packs") < 150_000
    })
    .await;
    let mut records = first.records.decode().expect("records");
    query = Query::run(kept.clone()).from(Start::Cursor(first.cursor.to_string()));
    let rest = place.store().read(query).await.expect("page");
    records.extend(rest.records.decode().expect("records"));
    assert!(records == all);
    let mut followed = Vec::new();
    loop {
        let (found, end) = drain(&mut tail).await.expect("items");
        followed.extend(found);
        if end.is_some() {
            break;
        }
    }
    assert!(followed == all);
}
