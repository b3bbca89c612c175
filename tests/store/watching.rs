//! A watch gives what there is, then every change, and nothing to those it does not concern.

use std::{collections::HashMap, time::Duration};

use braidlog::{
    Close, Commit, Create, Error, Kind, Operation, Outcome, Refusal, RunInfo, RunStatus, Seq,
    Store, Watch, WatchItem, WatchQuery, WatchRuns, WatchScope,
};

use super::{
    place::{Place, append, batch, close, create, delete, key},
    work::{work, worker},
};

pub(crate) fn by_tags(tags: &[&str]) -> WatchRuns {
    WatchRuns {
        namespace: braidlog::engine::DEFAULT_NAMESPACE.into(),
        tags: tags.iter().map(|tag| (*tag).into()).collect(),
        batch: "".into(),
        task: "".into(),
        statuses: Vec::new(),
        created_from_ms: 0,
        limit: 1_000,
    }
}

async fn watch(store: &Store, runs: WatchRuns, cursor: Option<String>) -> Watch {
    let query = WatchQuery { scope: WatchScope::Runs(runs), cursor };
    store.watch(query).await.expect("watches")
}

async fn watch_run(store: &Store, kinds: Vec<Kind>, cursor: Option<String>) -> Watch {
    let scope = WatchScope::Run { run: key("run"), run_uid: None, kinds };
    store.watch(WatchQuery { scope, cursor }).await.expect("watches")
}

fn tagged(run: &str, tags: &[&str]) -> Create {
    Create { tags: tags.iter().map(|tag| (*tag).into()).collect(), ..work(run) }
}

/// Rows up to the first time that there is nothing more.
async fn rows(watch: &mut Watch) -> Vec<RunInfo> {
    let mut rows = Vec::new();
    loop {
        match watch.next().await.expect("an item") {
            WatchItem::Row(row) => rows.push(*row),
            WatchItem::CaughtUp => return rows,
            other => panic!("{other:?}"),
        }
    }
}

async fn row(watch: &mut Watch) -> RunInfo {
    match watch.next().await.expect("an item") {
        WatchItem::Row(row) => *row,
        other => panic!("{other:?}"),
    }
}

async fn is_quiet(watch: &mut Watch) -> bool {
    tokio::time::timeout(Duration::from_millis(50), watch.next()).await.is_err()
}

async fn set(store: &Store, run: &str, n: u64) {
    let metadata = vec![Operation::set("n", n.to_string())];
    let commit = Commit { metadata, ..Commit::default() };
    store.commit(&key(run), commit).await.expect("committed");
}

#[tokio::test]
async fn a_watch_of_one_run_gives_each_change_and_ends_with_the_run() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    let mut all = watch_run(store, Vec::new(), None).await;
    assert_eq!(rows(&mut all).await.len(), 1);
    append(store, &key("run"), batch("out", ["x"])).await;
    assert_eq!(row(&mut all).await.stream_names.len(), 2, "a new stream is a change");
    append(store, &key("run"), batch("out", ["y"])).await;
    assert!(is_quiet(&mut all).await, "another chunk is none");
    set(store, "run", 1).await;
    assert_eq!(&*row(&mut all).await.metadata, b"{\"n\":1}");
    let cursor = all.cursor();
    // What comes faster than it is taken is merged, but for the last.
    for n in 2..50 {
        set(store, "run", n).await;
    }
    let last = Close { outcome: Outcome::Completed, output: "out".into(), ..Close::default() };
    store.close_run(&key("run"), last).await.expect("closed");
    let last = row(&mut all).await;
    assert_eq!(&*last.metadata, b"{\"n\":49}");
    assert_eq!(&*last.ended.expect("ended").output, b"out");
    let end = WatchItem::End(Outcome::Completed);
    assert_eq!(all.next().await.expect("the end"), end);
    // Resumed from before, and from the end.
    let mut resumed = watch_run(store, Vec::new(), Some(cursor)).await;
    assert_eq!(row(&mut resumed).await.tail, last.tail);
    assert_eq!(resumed.next().await.expect("the end"), end);
    let mut over = watch_run(store, Vec::new(), Some(resumed.cursor())).await;
    assert_eq!(over.next().await.expect("the end"), end);
    let mut late = watch_run(store, Vec::new(), None).await;
    assert_eq!(row(&mut late).await.tail, last.tail);
    assert_eq!(late.next().await.expect("the end"), end);
}

#[tokio::test]
async fn a_watch_of_one_run_gives_the_kinds_of_records_that_are_wanted() {
    let mut place = Place::new();
    place.store().create_run(create("run")).await.expect("created");
    let mut watch = watch_run(place.store(), vec![Kind::Metadata, Kind::Chunk], None).await;
    let mut cursor = watch.cursor();
    let mut kinds = Vec::new();
    for n in 0..5 {
        append(place.store(), &key("run"), batch("out", ["x"])).await;
        set(place.store(), "run", n).await;
        while kinds.len() < 2 * (n as usize + 1) {
            match watch.next().await.expect("an item") {
                WatchItem::Records(records) => kinds.extend(records.iter().map(|r| r.kind())),
                WatchItem::Row(_) | WatchItem::CaughtUp => {}
                other => panic!("{other:?}"),
            }
            cursor = watch.cursor();
        }
        drop(watch);
        place.reopen().await;
        watch =
            watch_run(place.store(), vec![Kind::Metadata, Kind::Chunk], Some(cursor.clone())).await;
    }
    assert_eq!(kinds, [Kind::Chunk, Kind::Metadata].repeat(5), "each once, in order");
    close(place.store(), &key("run")).await;
    let mut ended = false;
    let mut last = None;
    while !ended {
        match watch.next().await.expect("an item") {
            WatchItem::Row(row) => last = Some(row),
            WatchItem::End(outcome) => ended = outcome == Outcome::Completed,
            WatchItem::CaughtUp => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(last.expect("the last row").ended.is_some());
}

#[tokio::test]
async fn a_watch_by_tags_gives_runs_that_have_all_of_them_and_their_changes_only() {
    let mut place = Place::new();
    let store = place.store();
    for (run, tags) in
        [("both", &["a", "b"][..]), ("one", &["a"]), ("other", &["b"]), ("none", &[])]
    {
        store.create_run(tagged(run, tags)).await.expect("created");
    }
    let mut both = watch(store, by_tags(&["a", "b"]), None).await;
    let found = rows(&mut both).await;
    assert_eq!(found.iter().map(|row| &*row.run_id).collect::<Vec<_>>(), ["both"]);
    for run in ["one", "other", "none"] {
        set(store, run, 1).await;
    }
    assert!(is_quiet(&mut both).await);
    let label = Commit { tags: vec!["b".into()], ..Commit::default() };
    store.commit(&key("one"), label).await.expect("labeled");
    assert_eq!(&*row(&mut both).await.run_id, "one");
    store.create_run(tagged("new", &["b", "c", "a"])).await.expect("created");
    assert_eq!(&*row(&mut both).await.run_id, "new");
    let cursor = both.cursor();
    assert!(is_quiet(&mut both).await);
    // Changes while nobody watches, across a restart and packs.
    set(store, "both", 5).await;
    drop(both);
    place.flush().await;
    place.reopen().await;
    close(place.store(), &key("new")).await;
    set(place.store(), "other", 6).await;
    let mut resumed = watch(place.store(), by_tags(&["a", "b"]), Some(cursor)).await;
    let found = rows(&mut resumed).await;
    let mut changed: Vec<_> = found.iter().map(|row| (&*row.run_id, row.status)).collect();
    changed.sort_by_key(|row| row.0);
    // What was in the block of the cursor may come again; what has changed since must.
    assert!(changed.contains(&("both", RunStatus::Queued)));
    assert!(changed.contains(&("new", RunStatus::Completed)));
    assert!(changed.iter().all(|(run, _)| ["both", "new", "one"].contains(run)));
    delete(place.store(), &key("both")).await;
    match resumed.next().await.expect("an item") {
        WatchItem::Removed { run_id, .. } => assert_eq!(&*run_id, "both"),
        other => panic!("{other:?}"),
    }
    let other = WatchScope::Runs(by_tags(&["c"]));
    let query = WatchQuery { scope: other, cursor: Some(resumed.cursor()) };
    let refused = place.store().watch(query).await.map(drop).expect_err("another filter");
    assert!(matches!(refused, Error::Refused(Refusal::Invalid { .. })));
    let all = WatchQuery { scope: WatchScope::Runs(by_tags(&[])), cursor: None };
    let refused = place.store().watch(all).await.map(drop).expect_err("no filter");
    assert!(matches!(refused, Error::Refused(Refusal::Invalid { .. })));
}

#[tokio::test]
async fn a_watch_by_status_gives_a_run_that_has_left_it_once_more() {
    let place = Place::new();
    let store = place.store();
    store.create_run(work("run")).await.expect("created");
    let queued = WatchRuns { statuses: vec![RunStatus::Queued], ..by_tags(&[]) };
    let mut queued = watch(store, queued, None).await;
    let mut batch_runs =
        watch(store, WatchRuns { task: "work".into(), ..by_tags(&[]) }, None).await;
    assert_eq!((rows(&mut queued).await.len(), rows(&mut batch_runs).await.len()), (1, 1));
    store.try_claim(&worker("w", 60_000)).await.expect("claims").expect("a run");
    assert_eq!(row(&mut queued).await.status, RunStatus::Dequeued);
    assert_eq!(row(&mut batch_runs).await.status, RunStatus::Dequeued);
}

#[tokio::test]
async fn no_last_state_is_missed_by_watchers_that_come_and_go() {
    let place = Place::with(|options| options.resident_bytes = 64 << 20);
    let store = place.store().clone();
    let watcher = {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut last, mut cursor) = (HashMap::new(), None);
            loop {
                let mut watch = watch(&store, by_tags(&["t"]), cursor.take()).await;
                for _ in 0..20 {
                    let item = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
                    let Ok(item) = item else { break };
                    if let WatchItem::Row(row) = item.expect("an item") {
                        let before = last.insert(row.run_id.clone(), (row.tail, row.status));
                        assert!(before.is_none_or(|(tail, _)| tail <= row.tail), "back");
                    }
                }
                cursor = Some(watch.cursor());
                let is_over = |(_, status): &(Seq, RunStatus)| *status == RunStatus::Completed;
                if last.len() == 200 && last.values().all(is_over) {
                    return;
                }
            }
        })
    };
    for n in 0..200 {
        store.create_run(tagged(&format!("run-{n}"), &["t"])).await.expect("created");
        set(&store, &format!("run-{n}"), n).await;
        close(&store, &key(format!("run-{n}"))).await;
    }
    tokio::time::timeout(super::place::PATIENCE, watcher).await.expect("in time").expect("watched");
}
