//! Answers over gRPC are the store's answers.

use braidlog::{
    Append, Bounds, Close, CloseStream, Create, End, Header, IfAbsent, Index, ListRuns, NewRecord,
    Outcome, Producer, Query, RunError, RunKey, Seq, Start, Trim,
};

use crate::server::{Server, append, batch, bodies, numbers, run};

#[test]
fn a_run_is_created_described_and_closed_as_in_the_store() {
    run(async {
        let server = Server::start().await;
        let (client, store, key) = (server.client(), &server.store, RunKey::new("läuft"));
        let create = Create {
            namespace: key.namespace.clone(),
            run_id: key.run_id.clone(),
            task: "task".into(),
            ..Create::default()
        };
        let created = client.create_run(create.clone()).await.expect("created");
        assert!(created.created);
        assert_eq!(created.run, store.get_run(&key).await.expect("run"));
        let again = client.create_run(create).await.expect("created");
        assert!(!again.created);
        assert_eq!(again.run, created.run);

        let close = Close {
            run_uid: Some(created.run.run_uid),
            outcome: Outcome::TimedOut,
            output: vec![0, 1, 2].into(),
            output_type: "application/octet-stream".into(),
            error: Some(RunError { name: "Late".into(), ..RunError::default() }),
            expected_seq: Some(Seq(1)),
            ..Close::default()
        };
        let closed = client.close_run(&key, close.clone()).await.expect("closed");
        assert_eq!((closed.closed_seq, closed.deduplicated), (Seq(1), false));
        assert_eq!(closed.run, store.get_run(&key).await.expect("run"));
        assert_eq!(client.get_run(&key).await.expect("run"), closed.run);
        let ended = closed.run.ended.expect("ended");
        assert_eq!((ended.outcome, &ended.output[..]), (Outcome::TimedOut, &[0, 1, 2][..]));
        assert_eq!(
            (ended.output_type, ended.error),
            (close.output_type.clone(), close.error.clone())
        );
        assert!(client.close_run(&key, close).await.expect("closed").deduplicated);
    });
}

#[test]
fn runs_are_listed_page_by_page() {
    run(async {
        let server = Server::start().await;
        for n in 0..25 {
            let key = RunKey::new(format!("run_{n:02}"));
            append(&server.store, &key, batch("out", &["x"])).await;
        }
        append(&server.store, &RunKey::new("other"), batch("out", &["x"])).await;
        let client = server.client();
        let mut list = ListRuns { prefix: "run_".into(), page_size: 10, ..ListRuns::default() };
        let mut found = Vec::new();
        loop {
            let page = client.list_runs(&list).await.expect("page");
            assert_eq!(page, server.store.list_runs(&list).await.expect("page"));
            found.extend(page.runs.into_iter().map(|run| run.run_id.to_string()));
            list.after = page.next;
            if list.after.is_none() {
                break;
            }
        }
        // Newest first; runs of one moment by their numbers, which say nothing of names.
        found.sort();
        let expected: Vec<String> = (0..25).map(|n| format!("run_{n:02}")).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn an_append_keeps_everything_it_was_given() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        let header = |name: &str| Header { name: name.into(), value: vec![0, 255].into() };
        let record = NewRecord {
            data: vec![0, 159, 146, 150].into(),
            headers: vec![header("b"), header("a"), header("b")],
            id: "part_1".into(),
            client_time_ms: 12,
        };
        let request = Append {
            records: vec![record.clone(), NewRecord::default()],
            expected_seq: None,
            expected_index: Some(Index(0)),
            ..batch("out", &[])
        };
        let appended = client.append(&key, request, IfAbsent::Create).await.expect("appended");
        assert_eq!((appended.first_seq, appended.first_index), (Seq(1), Index(0)));
        assert_eq!((appended.count, appended.next_seq()), (2, Seq(3)));
        let run = server.store.get_run(&key).await.expect("run");
        assert_eq!(appended.run_uid, run.run_uid);

        let page = client.read(Query::stream(key, "out")).await.expect("page");
        let found = page.records.decode().expect("records");
        assert_eq!((&found[0].data, &found[0].headers), (&record.data, &record.headers));
        assert_eq!((&found[0].id, found[0].client_time_ms), (&record.id, 12));
        assert_eq!((found[0].time_ms, found[0].seq, found[0].index), (appended.time_ms, 1, 0));
        assert!(found[1].data.is_empty());
    });
}

#[test]
fn repeating_an_append_with_its_numbers_gives_the_first_answer() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        let producer = Some(Producer { id: "worker".into(), epoch: 7, seq: 0 });
        let request = Append { producer, ..batch("out", &["once"]) };
        let first = client.append(&key, request.clone(), IfAbsent::Create).await.expect("first");
        let second = client.append(&key, request, IfAbsent::Refuse).await.expect("second");
        assert!(!first.deduplicated && second.deduplicated);
        assert_eq!((first.first_seq, first.first_index), (second.first_seq, second.first_index));
        let page = client.read(Query::stream(key, "out")).await.expect("page");
        assert_eq!(bodies(&page.records), ["once"]);
    });
}

#[test]
fn pages_are_bounded_and_lead_on_to_each_other() {
    run(async {
        let server = Server::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        let lines = numbers(0..2_500);
        for lines in lines.chunks(100) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            append(&server.store, &key, batch("out", &lines)).await;
            append(&server.store, &key, batch("noise", &["noise"])).await;
        }
        let mut query = Query::stream(key.clone(), "out");
        let mut found = Vec::new();
        loop {
            let page = client.read(query.clone()).await.expect("page");
            assert_eq!(page, server.store.read(query.clone()).await.map(joined).expect("page"));
            assert!(page.records.count <= 1_000);
            if page.records.is_empty() {
                break;
            }
            found.extend(bodies(&page.records));
            query.start = Start::Cursor(page.cursor.to_string());
        }
        assert_eq!(found, lines);

        let bounds = Bounds { records: Some(3), until_index: Some(Index(9)), ..Bounds::default() };
        let query = Query::stream(key.clone(), "out").from(Start::Index(Index(7)));
        let page = client.read(Query { bounds, ..query }).await.expect("page");
        assert_eq!(bodies(&page.records), ["7", "8"]);
        let last = Query::stream(key.clone(), "out").from(Start::Last(2));
        assert_eq!(bodies(&client.read(last).await.expect("page").records), ["2498", "2499"]);
        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        client.close_run(&key, close).await.expect("closed");
        let last = Query::stream(key, "out").from(Start::Tail);
        let end = client.read(last).await.expect("page").end;
        assert_eq!(end, Some(End::Closed(Some(Outcome::Completed))));
    });
}

/// The client gets the records of a page as one piece.
fn joined(page: braidlog::Page) -> braidlog::Page {
    let pieces = page.records.pieces.concat();
    let pieces = if pieces.is_empty() { Vec::new() } else { vec![pieces.into()] };
    let records = braidlog::Records { pieces, count: page.records.count };
    braidlog::Page { records, ..page }
}

#[test]
fn streams_and_tails_are_described_as_in_the_store() {
    run(async {
        let server = Server::start().await;
        let (client, store, key) = (server.client(), &server.store, RunKey::new("run"));
        append(store, &key, batch("a", &["1", "2", "3"])).await;
        append(store, &key, batch("b", &["4"])).await;
        let trim = Trim { run_uid: None, stream: "a".into(), trim: Index(2) };
        assert_eq!(client.trim(&key, trim).await.expect("trimmed"), Index(2));
        let close = CloseStream { run_uid: None, stream: "b".into() };
        let end = client.close_stream(&key, close).await.expect("closed");
        assert_eq!((end.final_index, end.deduplicated), (Index(1), false));
        for closed in [false, true] {
            let listed = client.list_streams(&key, None).await.expect("listed");
            assert_eq!(listed, store.list_streams(&key, None).await.expect("listed"));
            assert_eq!(listed.streams.len(), 3);
            for stream in [None, Some("a"), Some("$run")] {
                let tail = client.check_tail(&key, None, stream).await.expect("tail");
                assert_eq!(tail, store.check_tail(&key, None, stream).await.expect("tail"));
                assert_eq!(tail.outcome.is_some(), closed);
            }
            let close = Close { outcome: Outcome::Crashed, ..Close::default() };
            client.close_run(&key, close).await.expect("closed");
        }
        // A gap is told where records were trimmed, and nowhere else.
        let query = Query { allow_gap: true, ..Query::run(key) };
        let page = client.read(query.clone()).await.expect("page");
        assert_eq!(page, store.read(query).await.map(joined).expect("page"));
        assert_eq!(page.gaps.len(), 1);
    });
}
