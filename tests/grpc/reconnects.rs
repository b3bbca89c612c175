//! A client that is cut off, restarted under, or left in silence: nothing twice, nothing missing.

use std::time::Duration;

use braidlog::{
    Append, Bounds, Close, Create, End, Error, IfAbsent, Outcome, Producer, Query, RunKey, Start,
    TailItem,
    client::{AppenderOptions, RetryPolicy, Tail},
};
use tokio::time::{sleep, timeout};

use crate::{
    proxy::Proxy,
    server::{
        Server, append, batch, bodies, client, numbers, persistent, records, refusal, run, take,
        write,
    },
};

fn options(epoch: u64, in_flight_max: usize) -> AppenderOptions {
    AppenderOptions {
        absent: IfAbsent::Create,
        epoch,
        in_flight_max,
        ..AppenderOptions::new("out")
    }
}

async fn all_lines(server: &Server, key: &RunKey) -> Vec<String> {
    let mut query = Query::stream(key.clone(), "out");
    let mut found = Vec::new();
    loop {
        let page = server.store.read(query.clone()).await.expect("page");
        if page.records.is_empty() {
            return found;
        }
        found.extend(bodies(&page.records));
        query.start = Start::Cursor(page.cursor.to_string());
    }
}

#[test]
fn a_tail_goes_on_across_restarts_of_the_server() {
    run(async {
        let mut server = Server::start().await;
        let key = RunKey::new("run");
        write(&server.store, &key, "out", &["0", "1"]).await;
        let client = client(&server.url(), persistent());
        let mut tail = client.tail(Query::stream(key.clone(), "out")).await.expect("tail");
        let mut found = take(&mut tail, 2).await;
        for round in 1..4 {
            // Some before, some while nobody is connected.
            let lines = numbers(4 * round - 2..4 * round + 2);
            write(&server.store, &key, "out", &[&lines[0], &lines[1]]).await;
            if round == 2 {
                found.extend(take(&mut tail, 2).await);
            }
            server = server.restart().await;
            write(&server.store, &key, "out", &[&lines[2], &lines[3]]).await;
            let missing = 4 * round + 2 - found.len();
            found.extend(take(&mut tail, missing).await);
        }
        assert_eq!(found, numbers(0..14));
        let cursor = tail.cursor().expect("cursor");
        let rest = Query::stream(key.clone(), "out").from(Start::Cursor(cursor.to_string()));
        assert!(server.store.read(rest).await.expect("page").records.is_empty());
        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        server.store.close_run(&key, close).await.expect("closed");
        loop {
            match tail.next().await.expect("item") {
                TailItem::End(end, _) => {
                    assert_eq!(end, End::Closed(Some(Outcome::Completed)));
                    return;
                }
                TailItem::Records(records, _) => panic!("{records:?}"),
                _ => {}
            }
        }
    });
}

/// Everything up to the end: bodies, times the tail was reached, and names told.
async fn to_the_end(mut tail: Tail) -> (Vec<String>, usize, Vec<String>) {
    let (mut found, mut caught_up, mut names) = (Vec::new(), 0, Vec::new());
    loop {
        match tail.next().await.expect("item") {
            TailItem::Records(records, _) => found.extend(bodies(&records)),
            TailItem::CaughtUp(_) => caught_up += 1,
            TailItem::Streams(streams) => {
                names.extend(streams.iter().map(|stream| stream.name.to_string()));
            }
            TailItem::Gap(gap, _) => panic!("{gap:?}"),
            TailItem::End(..) => return (found, caught_up, names),
        }
    }
}

#[test]
fn appends_and_tails_go_through_a_network_that_keeps_breaking() {
    run(async {
        const COUNT: usize = 3_000;
        let server = Server::start().await;
        let key = RunKey::new("run");
        append(&server.store, &key, batch("noise", &["the run exists"])).await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let tail = client.tail(Query::stream(key.clone(), "out")).await.expect("tail");
        let following = tokio::spawn(to_the_end(tail));
        let cutting = tokio::spawn({
            let proxy = proxy.clone();
            async move {
                for _ in 0..30 {
                    sleep(Duration::from_millis(15)).await;
                    proxy.cut();
                }
            }
        });
        let mut appender = client.appender(&key, options(0, 64)).expect("appender");
        let mut receipts = Vec::new();
        for n in 0..COUNT {
            let receipt = appender.submit(records(&[&n.to_string()])).await.expect("submitted");
            receipts.push(receipt);
            if n % 100 == 0 {
                sleep(Duration::from_millis(10)).await;
            }
        }
        for (n, receipt) in receipts.into_iter().enumerate() {
            let appended = receipt.await.expect("durable");
            assert_eq!((appended.first_index.0, appended.positions_forgotten), (n as u64, false));
        }
        appender.finish().await.expect("finished");
        cutting.await.expect("cut");
        assert!(10 < proxy.accepted(), "{} connections", proxy.accepted());
        assert_eq!(all_lines(&server, &key).await, numbers(0..COUNT));

        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        client.close_run(&key, close).await.expect("closed");
        let (found, caught_up, names) = following.await.expect("followed");
        assert_eq!(found, numbers(0..COUNT));
        assert_eq!((caught_up, names), (1, vec!["out".to_owned()]));
    });
}

#[test]
fn an_appender_goes_on_across_restarts_of_the_server() {
    run(async {
        let mut server = Server::start().await;
        let key = RunKey::new("run");
        let client = client(&server.url(), persistent());
        let mut appender = client.appender(&key, options(0, 500)).expect("appender");
        let submitting = tokio::spawn(async move {
            let mut receipts = Vec::new();
            for n in 0..2_000 {
                receipts.push(appender.submit(records(&[&n.to_string()])).await.expect("taken"));
                if n % 20 == 0 {
                    sleep(Duration::from_millis(5)).await;
                }
            }
            for receipt in receipts {
                receipt.await.expect("durable");
            }
            appender.finish().await.expect("finished");
        });
        for _ in 0..4 {
            sleep(Duration::from_millis(80)).await;
            server = server.restart().await;
        }
        submitting.await.expect("submitted");
        assert_eq!(all_lines(&server, &key).await, numbers(0..2_000));
    });
}

#[test]
fn a_connection_that_falls_silent_is_replaced() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let key = RunKey::new("run");
        write(&server.store, &key, "out", &["0"]).await;
        let mut tail = client.tail(Query::stream(key.clone(), "out")).await.expect("tail");
        assert_eq!(take(&mut tail, 1).await, ["0"]);
        proxy.silence();
        write(&server.store, &key, "out", &["1"]).await;
        // Long before the transport would notice by itself.
        let found = timeout(Duration::from_secs(10), take(&mut tail, 1)).await;
        assert_eq!(found.expect("noticed"), ["1"]);
        assert!(2 <= proxy.accepted(), "{} connections", proxy.accepted());
    });
}

#[test]
fn bounds_hold_across_broken_connections() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let key = RunKey::new("run");
        let lines = numbers(0..10);
        write(&server.store, &key, "out", &["0", "1", "2"]).await;
        let bounds = Bounds { records: Some(5), ..Bounds::default() };
        let query = Query { bounds, ..Query::stream(key.clone(), "out") };
        let mut tail = client.tail(query).await.expect("tail");
        let mut found = take(&mut tail, 3).await;
        proxy.cut();
        for line in &lines[3..] {
            write(&server.store, &key, "out", &[line]).await;
        }
        loop {
            match tail.next().await.expect("item") {
                TailItem::Records(records, _) => found.extend(bodies(&records)),
                TailItem::End(end, _) => break assert_eq!(end, End::Limit),
                _ => {}
            }
        }
        assert_eq!(found, numbers(0..5));
    });
}

#[test]
fn an_append_is_repeated_only_if_that_cannot_double_it() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let key = RunKey::new("run");
        client.append(&key, batch("out", &["0"]), IfAbsent::Create).await.expect("appended");

        // Applied, but the answer is lost and the connection cut.
        let lost = |append: Append| async {
            proxy.lose_answers();
            let before = server.store.stats().records;
            let appending = client.append(&key, append, IfAbsent::Create);
            let cutting = async {
                while server.store.stats().records == before {
                    sleep(Duration::from_millis(1)).await;
                }
                proxy.cut();
            };
            tokio::join!(appending, cutting).0
        };
        let unknown = lost(batch("out", &["1"])).await.expect_err("nobody knows");
        assert!(matches!(unknown, Error::OutcomeUnknown { .. }), "{unknown:?}");
        // A connection to be lost again.
        client.get_run(&key).await.expect("run");
        let producer = Some(Producer { id: "worker".into(), epoch: 0, seq: 0 });
        let again = lost(Append { producer, ..batch("out", &["2"]) }).await.expect("answered");
        assert!(again.deduplicated);
        assert_eq!(all_lines(&server, &key).await, numbers(0..3));
    });
}

#[test]
fn calls_wait_for_a_server_that_is_away_as_long_as_they_are_told() {
    run(async {
        let mut server = Server::start().await;
        let key = RunKey::new("run");
        let (patient, hasty) = (client(&server.url(), persistent()), server.client());
        server.stop();
        server.stopped().await;
        let create = Create {
            namespace: key.namespace.clone(),
            run_id: key.run_id.clone(),
            ..Create::default()
        };
        let away = hasty.create_run(create.clone()).await.expect_err("away");
        assert!(matches!(away, Error::Unavailable { .. }), "{away:?}");
        let waiting = tokio::spawn(async move {
            patient.create_run(create).await.expect("created");
            // Without producer numbers, too, if it was certainly not sent.
            patient.append(&key, batch("out", &["1"]), IfAbsent::Refuse).await.expect("appended");
            patient
        });
        sleep(Duration::from_millis(50)).await;
        server = server.restart().await;
        waiting.await.expect("waited");
        assert_eq!(all_lines(&server, &RunKey::new("run")).await, ["1"]);
        let brief = RetryPolicy { deadline: Some(Duration::from_millis(30)), ..persistent() };
        let brief = client(&server.url(), brief);
        server.stop();
        server.stopped().await;
        let away = brief.get_run(&RunKey::new("run")).await.expect_err("away");
        assert!(matches!(away, Error::Unavailable { .. }), "{away:?}");
    });
}

#[test]
fn a_refusal_ends_an_appender_and_tells_every_batch() {
    run(async {
        let server = Server::start().await;
        let client = client(&server.url(), persistent());
        let key = RunKey::new("run");
        let mut appender = client.appender(&key, options(0, 64)).expect("appender");
        appender.append(records(&["0"])).await.expect("appended");
        // What is refused here does not reach the server, and ends nothing.
        let empty = refusal(appender.submit(Vec::new()).await.map(|_| ()));
        assert!(empty.to_string().starts_with("records is empty"), "{empty}");
        appender.append(records(&["1"])).await.expect("appended");

        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        server.store.close_run(&key, close).await.expect("closed");
        let mut receipts = Vec::new();
        for n in 0..10 {
            match appender.submit(records(&[&n.to_string()])).await {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => assert!(matches!(error, Error::Refused(_)), "{error:?}"),
            }
        }
        for receipt in receipts {
            let told = refusal(receipt.await);
            assert!(told.to_string().starts_with("closed"), "{told}");
        }
        let end = refusal(appender.finish().await);
        assert!(end.to_string().starts_with("closed"), "{end}");
        assert_eq!(all_lines(&server, &key).await, numbers(0..2));
    });
}

#[test]
fn a_newer_epoch_fences_an_older_appender() {
    run(async {
        let server = Server::start().await;
        let client = client(&server.url(), persistent());
        let key = RunKey::new("run");
        let named =
            |epoch| AppenderOptions { producer_id: Some("worker".into()), ..options(epoch, 64) };
        let mut old = client.appender(&key, named(1)).expect("appender");
        old.append(records(&["0"])).await.expect("appended");
        let mut new = client.appender(&key, named(2)).expect("appender");
        new.append(records(&["1"])).await.expect("appended");
        let fenced = refusal(old.append(records(&["no"])).await);
        assert_eq!(fenced, braidlog::Refusal::StaleEpoch { current: 2 });
        new.append(records(&["2"])).await.expect("appended");
        new.finish().await.expect("finished");
        assert_eq!(all_lines(&server, &key).await, numbers(0..3));
    });
}

#[test]
fn an_appender_that_is_dropped_gives_up_nothing() {
    run(async {
        let server = Server::start().await;
        let client = client(&server.url(), persistent());
        let key = RunKey::new("run");
        let mut appender = client.appender(&key, options(0, 64)).expect("appender");
        let mut receipts = Vec::new();
        for n in 0..50 {
            receipts.push(appender.submit(records(&[&n.to_string()])).await.expect("submitted"));
        }
        drop(appender);
        for receipt in receipts {
            receipt.await.expect("durable");
        }
        assert_eq!(all_lines(&server, &key).await, numbers(0..50));
    });
}
