//! Tails over gRPC: from every start, through history, to an end that is said.

use braidlog::{
    Bounds, Close, CloseStream, End, Index, Outcome, Query, RunKey, Seq, Start, StreamNo, TailItem,
    Trim, client::Tail, grpc::encoded::TailResponse, proto,
};
use tonic::Streaming;

use crate::{
    raw,
    server::{Server, append, batch, bodies, numbers, run, take, write},
};

async fn next(tail: &mut Tail) -> TailItem {
    tail.next().await.expect("item")
}

/// Items up to the tail or the end, without streams: bodies, and what came last.
async fn drain(tail: &mut Tail) -> (Vec<String>, TailItem) {
    let mut found = Vec::new();
    loop {
        match next(tail).await {
            TailItem::Records(records, _) => found.extend(bodies(&records)),
            TailItem::Streams(_) => {}
            item => return (found, item),
        }
    }
}

async fn with_lines(count: usize) -> (Server, RunKey) {
    let (server, key) = (Server::start().await, RunKey::new("run"));
    let lines = numbers(0..count);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    write(&server.store, &key, "out", &lines).await;
    (server, key)
}

#[test]
fn a_tail_starts_where_it_is_told_and_then_follows() {
    run(async {
        let (server, key) = with_lines(5).await;
        let client = server.client();
        let query = || Query::stream(key.clone(), "out");
        let page = client.read(query().from(Start::Index(Index(2)))).await.expect("page");
        assert_eq!(page.cursor.seq, Seq(6));
        let bounds = Bounds { records: Some(3), ..Bounds::default() };
        let third = client.read(Query { bounds, ..query() }).await.expect("page").cursor;
        let starts = [
            (Start::Beginning, 0),
            (Start::Seq(Seq(2)), 1),
            (Start::Index(Index(2)), 2),
            (Start::Cursor(third.to_string()), 3),
            (Start::Last(1), 4),
            (Start::Tail, 5),
        ];
        let mut tails = Vec::new();
        for (start, first) in starts {
            let mut tail = client.tail(query().from(start.clone())).await.expect("tail");
            let (found, last) = drain(&mut tail).await;
            assert_eq!(found, numbers(first..5), "{start:?}");
            assert!(matches!(last, TailItem::CaughtUp(cursor) if cursor.seq == Seq(6)), "{last:?}");
            assert_eq!(tail.durable_tail(), Seq(6));
            tails.push(tail);
        }
        write(&server.store, &key, "out", &["5"]).await;
        write(&server.store, &key, "noise", &["noise"]).await;
        write(&server.store, &key, "out", &["6"]).await;
        for tail in &mut tails {
            assert_eq!(take(tail, 2).await, ["5", "6"]);
        }
    });
}

#[test]
fn a_tail_waits_for_a_stream_that_does_not_exist_yet() {
    run(async {
        let (server, key) = with_lines(3).await;
        let query = Query::stream(key.clone(), "later");
        let mut tail = server.client().tail(query).await.expect("tail");
        assert!(matches!(next(&mut tail).await, TailItem::CaughtUp(_)));
        write(&server.store, &key, "out", &["noise"]).await;
        write(&server.store, &key, "later", &["first"]).await;
        let TailItem::Streams(streams) = next(&mut tail).await else { panic!("no stream") };
        assert_eq!((&*streams[0].name, streams[0].stream), ("later", StreamNo(2)));
        assert_eq!(take(&mut tail, 1).await, ["first"]);
    });
}

#[test]
fn a_whole_run_is_followed_in_its_order_with_its_streams_named() {
    run(async {
        let (server, key) = (Server::start().await, RunKey::new("run"));
        write(&server.store, &key, "a", &["0"]).await;
        let mut tail = server.client().tail(Query::run(key.clone())).await.expect("tail");
        for (n, stream) in ["b", "a", "c", "a", "b"].iter().enumerate() {
            write(&server.store, &key, stream, &[&(n + 1).to_string()]).await;
        }
        let (mut names, mut found) = (Vec::new(), Vec::new());
        while found.len() < 7 {
            match next(&mut tail).await {
                TailItem::Streams(streams) => {
                    names.extend(streams.iter().map(|stream| stream.name.to_string()));
                }
                TailItem::Records(records, _) => found.extend(records.decode().expect("records")),
                TailItem::CaughtUp(_) => {}
                item => panic!("{item:?}"),
            }
        }
        assert_eq!(names, ["$run", "a", "b", "c"]);
        let seqs: Vec<u64> = found.iter().map(|record| record.seq).collect();
        assert_eq!(seqs, (0..7).collect::<Vec<_>>());
        let streams: Vec<u32> = found.iter().map(|record| record.stream).collect();
        assert_eq!(streams, [0, 1, 2, 1, 3, 1, 2]);
        assert!(found[0].event.is_some(), "the run was created");
    });
}

#[test]
fn a_tail_ends_when_the_run_is_closed_and_says_how() {
    run(async {
        let (server, key) = with_lines(2).await;
        let mut tail = server.client().tail(Query::run(key.clone())).await.expect("tail");
        let close = Close { outcome: Outcome::Canceled, ..Close::default() };
        server.store.close_run(&key, close).await.expect("closed");
        let mut last = next(&mut tail).await;
        while !matches!(last, TailItem::End(..)) {
            last = next(&mut tail).await;
        }
        let TailItem::End(end, cursor) = &last else { unreachable!() };
        assert_eq!(*end, End::Closed(Some(Outcome::Canceled)));
        assert_eq!(cursor.seq, Seq(4));
        assert_eq!(next(&mut tail).await, last, "an end stays");
    });
}

#[test]
fn a_tail_of_a_stream_ends_with_the_stream() {
    run(async {
        let (server, key) = with_lines(2).await;
        let query = Query::stream(key.clone(), "out");
        let mut tail = server.client().tail(query).await.expect("tail");
        assert_eq!(take(&mut tail, 2).await, ["0", "1"]);
        let close = CloseStream { run_uid: None, stream: "out".into() };
        server.store.close_stream(&key, close).await.expect("closed");
        let (found, mut last) = drain(&mut tail).await;
        assert!(found.is_empty());
        if matches!(last, TailItem::CaughtUp(_)) {
            last = drain(&mut tail).await.1;
        }
        assert!(matches!(last, TailItem::End(End::Closed(None), _)), "{last:?}");
    });
}

#[test]
fn bounds_end_a_tail() {
    run(async {
        let (server, key) = with_lines(10).await;
        let client = server.client();
        let query = || Query::stream(key.clone(), "out");
        let some = Bounds::default();
        for (bounds, count) in [
            (Bounds { records: Some(4), ..some }, 4),
            (Bounds { bytes: Some(1), ..some }, 1),
            (Bounds { until_seq: Some(Seq(3)), ..some }, 2),
            (Bounds { until_index: Some(Index(7)), ..some }, 7),
        ] {
            let mut tail = client.tail(Query { bounds, ..query() }).await.expect("tail");
            let (found, last) = drain(&mut tail).await;
            assert_eq!(found, numbers(0..count), "{bounds:?}");
            assert!(matches!(last, TailItem::End(End::Limit, _)), "{last:?}");
        }
        let stopping = Query { stop_at_tail: true, ..query() };
        let mut tail = client.tail(stopping).await.expect("tail");
        write(&server.store, &key, "out", &["behind the tail"]).await;
        let (found, last) = drain(&mut tail).await;
        assert_eq!(found, numbers(0..10));
        assert!(matches!(last, TailItem::End(End::Limit, _)), "{last:?}");
    });
}

#[test]
fn trimmed_records_are_a_gap_if_that_is_allowed() {
    run(async {
        let (server, key) = with_lines(6).await;
        let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(4) };
        server.store.trim(&key, trim).await.expect("trimmed");
        let query = Query { allow_gap: true, ..Query::stream(key, "out") };
        let mut tail = server.client().tail(query).await.expect("tail");
        let (found, item) = drain(&mut tail).await;
        assert!(found.is_empty());
        let TailItem::Gap(gap, _) = item else { panic!("{item:?}") };
        assert_eq!((gap.stream, gap.from, gap.to), (StreamNo(1), Index(0), Index(4)));
        assert_eq!(take(&mut tail, 2).await, ["4", "5"]);
    });
}

async fn raw_tail(server: &Server, heartbeat_ms: u32) -> Streaming<TailResponse> {
    let channel = raw::connect(&server.url()).await;
    let request = proto::TailRequest {
        run_id: "run".into(),
        streams: vec!["out".into()],
        heartbeat_ms,
        ..Default::default()
    };
    raw::server_streaming(&channel, "StreamService/Tail", request).await.expect("tail")
}

#[test]
fn heartbeats_carry_the_tail_and_where_to_resume() {
    run(async {
        let (server, key) = with_lines(2).await;
        let mut tail = raw_tail(&server, 100).await;
        let mut beats = Vec::new();
        while beats.len() < 3 {
            let message = tail.message().await.expect("message").expect("message");
            assert!(!message.cursor.is_empty());
            if let Some(beat) = message.heartbeat {
                beats.push((beat, message.next_seq));
                write(&server.store, &key, "noise", &["moves the tail"]).await;
            }
        }
        let tails: Vec<u64> = beats.iter().map(|(beat, _)| beat.tail).collect();
        assert_eq!(tails, [3, 4, 5]);
        let resumes: Vec<u64> = beats.iter().map(|(_, next_seq)| *next_seq).collect();
        assert_eq!(resumes, tails, "what is filtered need not be looked at again");
        assert!(beats.iter().all(|(beat, _)| 0 < beat.time_ms));
    });
}

#[test]
fn every_message_says_where_to_resume() {
    run(async {
        let (server, key) = with_lines(5).await;
        let mut tail = raw_tail(&server, 0).await;
        let mut count = 0;
        while count < 5 {
            let message = tail.message().await.expect("message").expect("message");
            assert_eq!(message.cursor.len(), 62);
            let records = message.records.decode().expect("records");
            if let Some(last) = records.last() {
                assert_eq!(message.next_seq, last.seq + 1);
                count += records.len();
                let query = Query::stream(key.clone(), "out");
                let rest = query.from(Start::Cursor(message.cursor));
                let page = server.store.read(rest).await.expect("page");
                assert_eq!(bodies(&page.records), numbers(count..5));
            }
        }
    });
}

#[test]
fn the_client_keeps_heartbeats_to_itself() {
    run(async {
        let (server, key) = with_lines(1).await;
        let query = Query::stream(key.clone(), "out");
        let mut tail = server.client().tail(query).await.expect("tail");
        assert_eq!(take(&mut tail, 1).await, ["0"]);
        // Waits through several heartbeats, until somebody writes.
        let writer = tokio::spawn({
            let (store, key) = (server.store.clone(), key.clone());
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(700)).await;
                append(&store, &key, batch("out", &["1"])).await;
            }
        });
        assert_eq!(take(&mut tail, 1).await, ["1"]);
        writer.await.expect("written");
    });
}
