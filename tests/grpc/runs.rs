//! Runs as a whole: what they are labelled with, how they are found, and how they are deleted.

use std::time::Duration;

use braidlog::{
    Append, AtLimit, Close, Create, Delete, Error, IfAbsent, Index, ListRuns, Outcome, Query,
    Refusal, Retention, RunKey, RunStatus, RunUid, Start, Store, TailItem, Trim, client::Client,
};
use tonic::Code;

use crate::{
    raw::{self, reason},
    server::{Server, append, batch, bodies, refusal, run, write},
};

fn labelled(run_id: &str, task: &str, tags: &[&str], batch: &str) -> Create {
    Create {
        namespace: "default".into(),
        run_id: run_id.into(),
        task: task.into(),
        tags: tags.iter().map(|&tag| tag.into()).collect(),
        batch: batch.into(),
        retention: None,
        ..Create::default()
    }
}

fn delete(run_uid: RunUid) -> Delete {
    Delete { run_uid: Some(run_uid) }
}

#[test]
fn labels_and_retention_come_back_as_they_were_given() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let retention = Retention {
            age_ms: Some(7),
            bytes: Some(1 << 40),
            records: None,
            at_limit: AtLimit::TrimOldest,
        };
        let create =
            Create { retention: Some(retention), ..labelled("run", "t", &["b", "a"], "läuft") };
        let created = client.create_run(create.clone()).await.expect("created").run;
        assert_eq!((&created.tags, &created.batch), (&create.tags, &create.batch));
        assert_eq!((&*created.task, created.retention), ("t", Some(retention)));
        assert_eq!(created.status, RunStatus::Queued);
        let key = RunKey::new("run");
        assert_eq!(server.store.get_run(&key).await.expect("run"), created);
        assert!(!client.create_run(create.clone()).await.expect("the same").created);
        let other = Create { retention: None, ..create };
        assert_eq!(refusal(client.create_run(other).await), Refusal::RunExists);

        let many =
            labelled("other", "", &["1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b"], "");
        let many = refusal(client.create_run(many).await);
        let what = "run (tags)".into();
        assert_eq!(many, Refusal::TooLarge { what, size: 11, limit: 10 });

        // What the run says of itself outlives the server.
        let server = server.restart().await;
        assert_eq!(server.store.get_run(&key).await.expect("run"), created);
    });
}

#[test]
fn an_append_beyond_the_quota_is_refused_with_the_limit() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        let retention = Some(Retention { records: Some(2), ..Retention::default() });
        client.create_run(Create { retention, ..labelled("run", "", &[], "") }).await.expect("run");
        let two = batch("out", &["a", "b"]);
        client.append(&key, two, IfAbsent::Refuse).await.expect("appended");
        let refused = refusal(client.append(&key, batch("out", &["c"]), IfAbsent::Refuse).await);
        assert_eq!(refused, Refusal::Quota { which: "records of a run".into(), limit: 2 });
        let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(1) };
        client.trim(&key, trim).await.expect("trimmed");
        client.append(&key, batch("out", &["c"]), IfAbsent::Refuse).await.expect("appended");
    });
}

/// Creates runs, each at a moment of its own.
async fn create_apart(store: &Store, runs: &[Create]) {
    for create in runs {
        let before = store.clock_ms();
        while store.clock_ms() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.create_run(create.clone()).await.expect("created");
    }
}

/// Ids of all pages, which the store and the client agree on.
async fn listed(store: &Store, client: &Client, list: ListRuns) -> Vec<String> {
    let (mut list, mut found) = (ListRuns { page_size: 2, ..list }, Vec::new());
    loop {
        let page = client.list_runs(&list).await.expect("page");
        assert_eq!(page, store.list_runs(&list).await.expect("page"));
        assert!(page.runs.len() <= list.page_size);
        found.extend(page.runs.into_iter().map(|run| run.run_id.to_string()));
        list.after = page.next;
        if list.after.is_none() {
            return found;
        }
    }
}

#[test]
fn runs_are_found_by_all_they_are_labelled_with_newest_first() {
    run(async {
        let server = Server::start().await;
        let (store, client) = (&server.store, server.client());
        let runs = [
            labelled("a-1", "build", &["x"], ""),
            labelled("a-2", "build", &["x", "y"], "night"),
            labelled("b-1", "test", &["y", "x", "z"], "night"),
            labelled("b-2", "test", &[], "day"),
            labelled("b-3", "", &["y"], "day"),
        ];
        create_apart(store, &runs).await;
        let close = |outcome| Close { outcome, ..Close::default() };
        let failed = store.close_run(&RunKey::new("a-1"), close(Outcome::Failed)).await;
        let done = store.close_run(&RunKey::new("b-3"), close(Outcome::Completed)).await;
        let (failed, done) = (failed.expect("closed").run, done.expect("closed").run);

        let tags = |tags: &[&str]| ListRuns {
            tags: tags.iter().map(|&tag| tag.into()).collect(),
            ..ListRuns::default()
        };
        let statuses =
            |statuses: &[RunStatus]| ListRuns { statuses: statuses.into(), ..ListRuns::default() };
        let created = |created| ListRuns { created, ..ListRuns::default() };
        let everything = ["b-3", "b-2", "b-1", "a-2", "a-1"];
        for (list, expected) in [
            (ListRuns::default(), &everything[..]),
            (ListRuns { prefix: "b-".into(), ..ListRuns::default() }, &everything[..3]),
            (ListRuns { prefix: "c".into(), ..ListRuns::default() }, &[]),
            (tags(&["x"]), &["b-1", "a-2", "a-1"]),
            (tags(&["x", "y"]), &["b-1", "a-2"]),
            (tags(&["x", "nobody's"]), &[]),
            (ListRuns { batch: "night".into(), ..ListRuns::default() }, &["b-1", "a-2"]),
            (ListRuns { task: "build".into(), ..tags(&["y"]) }, &["a-2"]),
            (statuses(&[RunStatus::Executing, RunStatus::Queued]), &["b-2", "b-1", "a-2"]),
            (statuses(&[RunStatus::Failed, RunStatus::Completed]), &["b-3", "a-1"]),
            (statuses(&[RunStatus::Waiting]), &[]),
            (created(failed.created_ms..done.created_ms), &everything[1..]),
            (created(failed.created_ms + 1..u64::MAX), &everything[..4]),
            (created(0..failed.created_ms), &[]),
        ] {
            assert_eq!(listed(store, &client, list.clone()).await, expected, "{list:?}");
        }
    });
}

#[test]
fn a_page_goes_on_behind_the_one_before_whatever_happens_meanwhile() {
    run(async {
        let server = Server::start().await;
        let (store, client) = (&server.store, server.client());
        let runs = ["1", "2", "3", "4"].map(|run| labelled(run, "", &[], ""));
        create_apart(store, &runs).await;
        let mut list = ListRuns { page_size: 2, ..ListRuns::default() };
        let first = client.list_runs(&list).await.expect("page");
        list.after = first.next;
        // The last of the page goes, and a newer one comes.
        store.delete_run(&RunKey::new("3"), Delete::default()).await.expect("deleted");
        create_apart(store, &[labelled("5", "", &[], "")]).await;
        let second = client.list_runs(&list).await.expect("page");
        let ids: Vec<_> = second.runs.iter().map(|run| &*run.run_id).collect();
        assert_eq!((ids, second.next), (vec!["2", "1"], None));
    });
}

#[test]
fn a_run_that_is_deleted_is_gone_for_every_call() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        write(&server.store, &key, "out", &["a", "b"]).await;
        let run_uid = client.get_run(&key).await.expect("run").run_uid;
        let other = refusal(client.delete_run(&key, delete(RunUid([7; 16]))).await);
        assert_eq!(other, Refusal::RunReplaced { run_uid });
        let missing = client.delete_run(&RunKey::new("missing"), Delete::default()).await;
        assert_eq!(refusal(missing), Refusal::RunNotFound);

        let deleted = client.delete_run(&key, delete(run_uid)).await.expect("deleted");
        assert!(!deleted.deduplicated);
        let again = client.delete_run(&key, delete(run_uid)).await.expect("deleted");
        assert_eq!((again.deleted_ms, again.deduplicated), (deleted.deleted_ms, true));

        let gone = |server: Server| async move {
            let (client, key) = (server.client(), RunKey::new("run"));
            let stream = || Query::stream(key.clone(), "out");
            let close = Close { outcome: Outcome::Completed, ..Close::default() };
            let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(1) };
            let append = client.append(&key, batch("out", &["c"]), IfAbsent::Create);
            for refused in [
                refusal(client.get_run(&key).await),
                refusal(client.read(stream()).await),
                refusal(client.tail(stream()).await.map(|_| ())),
                refusal(client.check_tail(&key, None, None).await),
                refusal(client.list_streams(&key, Some(RunUid([7; 16]))).await),
                refusal(append.await),
                refusal(client.close_run(&key, close).await),
                refusal(client.trim(&key, trim).await),
            ] {
                assert_eq!(refused, Refusal::RunDeleted);
            }
            let runs = client.list_runs(&ListRuns::default()).await.expect("page").runs;
            assert!(runs.is_empty(), "{runs:?}");
            server
        };
        let server = gone(server).await;
        gone(server.restart().await).await;
    });
}

#[test]
fn the_status_of_a_deleted_run_is_not_found() {
    run(async {
        let server = Server::start().await;
        let key = RunKey::new("run");
        write(&server.store, &key, "out", &["a"]).await;
        server.store.delete_run(&key, Delete::default()).await.expect("deleted");
        let channel = raw::connect(&server.url()).await;
        let request = braidlog::proto::GetRunRequest { run_id: "run".into(), at: None };
        let status = raw::unary::<_, ()>(&channel, "RunService/GetRun", request).await;
        let (code, why, _) = reason(&status.expect_err("deleted"));
        assert_eq!((code, why.as_str()), (Code::NotFound, "RUN_DELETED"));
    });
}

#[test]
fn readers_learn_at_once_that_their_run_is_deleted() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        write(&server.store, &key, "out", &["a", "b"]).await;
        let mut remote = client.tail(Query::run(key.clone())).await.expect("tail");
        let mut local = server.store.tail(Query::run(key.clone())).await.expect("tail");
        let mut behind = server.store.tail(Query::run(key.clone())).await.expect("tail");
        while !matches!(remote.next().await.expect("item"), TailItem::CaughtUp(_)) {}
        while !matches!(local.next().await.expect("item"), TailItem::CaughtUp(_)) {}
        // Two wait at the tail, one has read nothing.
        let remote = tokio::spawn(async move { remote.next().await });
        let local = tokio::spawn(async move { local.next().await });
        tokio::task::yield_now().await;
        client.delete_run(&key, Delete::default()).await.expect("deleted");
        for ended in [remote.await, local.await] {
            assert_eq!(refusal(ended.expect("no panic")), Refusal::RunDeleted);
        }
        assert_eq!(refusal(behind.next().await), Refusal::RunDeleted);
    });
}

#[test]
fn a_name_that_is_used_again_is_another_run() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        write(&server.store, &key, "out", &["old"]).await;
        let old = client.get_run(&key).await.expect("run").run_uid;
        let cursor = client.check_tail(&key, None, None).await.expect("tail").cursor;
        let mut tail = server.store.tail(Query::run(key.clone())).await.expect("tail");
        client.delete_run(&key, delete(old)).await.expect("deleted");

        let create = labelled("run", "t", &["again"], "");
        let created = client.create_run(create.clone()).await.expect("created");
        assert!(created.created);
        let new = created.run.run_uid;
        assert_ne!(new, old);
        assert!(!client.create_run(create).await.expect("the same").created);
        append(&server.store, &key, batch("out", &["new"])).await;

        let check = |server: Server| async move {
            let (client, key) = (server.client(), RunKey::new("run"));
            let page = client.read(Query::stream(key.clone(), "out")).await.expect("page");
            assert_eq!(bodies(&page.records), ["new"]);
            let replaced = Refusal::RunReplaced { run_uid: new };
            // What was meant for the old one does not touch the new one.
            assert_eq!(refusal(client.delete_run(&key, delete(old)).await), replaced);
            let append = Append { run_uid: Some(old), ..batch("out", &["late"]) };
            assert_eq!(refusal(client.append(&key, append, IfAbsent::Create).await), replaced);
            let start = Start::Cursor(cursor.to_string());
            let resumed = client.read(Query::run(key.clone()).from(start)).await;
            assert_eq!(refusal(resumed), replaced);
            let runs = client.list_runs(&ListRuns::default()).await.expect("page").runs;
            assert_eq!(runs.iter().map(|run| run.run_uid).collect::<Vec<_>>(), [new]);
            server
        };
        let server = check(server).await;
        assert_eq!(refusal(tail.next().await), Refusal::RunDeleted, "a reader of the old one");
        drop(tail);
        check(server.restart().await).await;
    });
}

#[test]
fn a_deletion_and_an_append_at_the_same_time_happen_in_one_order() {
    run(async {
        let server = Server::start().await;
        for n in 0..50 {
            let key = RunKey::new(format!("run_{n}"));
            write(&server.store, &key, "out", &["a"]).await;
            let (store, appended) = (server.store.clone(), key.clone());
            let append = tokio::spawn(async move {
                store.append(&appended, batch("out", &["b"]), IfAbsent::Refuse).await
            });
            server.store.delete_run(&key, Delete::default()).await.expect("deleted");
            match append.await.expect("no panic") {
                Ok(_) | Err(Error::Refused(Refusal::RunDeleted)) => {}
                Err(other) => panic!("{other}"),
            }
            assert_eq!(refusal(server.store.get_run(&key).await), Refusal::RunDeleted);
        }
    });
}

#[test]
fn the_numbers_of_a_store_are_told() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        write(&server.store, &RunKey::new("run"), "out", &["a", "b", "c"]).await;
        let told = client.stats().await.expect("stats");
        assert_eq!((told.runs, told.runs_resident), (1, 1));
        assert_eq!((told.frames, told.records), (4, 4));
        assert!(0 < told.commits && 4 * 48 <= told.bytes, "{told:?}");
        assert!(told.disk.free_bytes.is_some_and(|free| 0 < free), "{told:?}");
        assert!(4 << 20 <= told.disk.journal_bytes && 0 < told.journal_slots.used, "{told:?}");
        assert_eq!(told.journal_slots.total, told.journal_slots.used + told.journal_slots.free);
        assert!(0 < told.frame_cache.used_bytes, "{told:?}");
        assert_eq!(told.frame_cache.max_bytes, 16 << 20);
    });
}
