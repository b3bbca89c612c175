//! Many subscribers on one connection, and one among them that does not read.

use std::collections::BTreeMap;

use braidlog::{
    Append, NewRecord, Query, RunKey, TailItem,
    client::{Client, RetryPolicy, Tail},
};
use tokio::task::JoinSet;

use crate::{
    proxy::Proxy,
    server::{Server, append, batch, client, numbers, run, take, write},
};

const SUBSCRIBERS: usize = 1_000;

/// Subscribers on one connection, each at the tail.
async fn subscribe(client: &Client, key: &RunKey, stream: &str, count: usize) -> Vec<Tail> {
    let mut joining = JoinSet::new();
    for _ in 0..count {
        let (client, query) = (client.clone(), Query::stream(key.clone(), stream));
        joining.spawn(async move {
            let mut tail = client.tail(query).await.expect("tail");
            while !matches!(tail.next().await.expect("item"), TailItem::CaughtUp(_)) {}
            tail
        });
    }
    joining.join_all().await
}

/// Has every subscriber take so many records.
async fn take_all(tails: Vec<Tail>, count: usize) -> (Vec<Tail>, Vec<Vec<String>>) {
    let mut taking = JoinSet::new();
    for mut tail in tails {
        taking.spawn(async move {
            let found = take(&mut tail, count).await;
            (tail, found)
        });
    }
    taking.join_all().await.into_iter().unzip()
}

#[test]
fn a_thousand_tails_on_one_connection_all_receive_every_record() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), RetryPolicy::never());
        let key = RunKey::new("run");
        write(&server.store, &key, "noise", &["the run exists"]).await;
        let tails = subscribe(&client, &key, "out", SUBSCRIBERS).await;
        let lines = numbers(0..20);
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        write(&server.store, &key, "out", &texts).await;
        let (tails, found) = take_all(tails, lines.len()).await;
        assert_eq!(tails.len(), SUBSCRIBERS);
        assert!(found.iter().all(|found| *found == lines));
        // All leave at once, some before they were let in, and that is no reason to hang up.
        drop(tails);
        for _ in 0..3 {
            let mut opening = JoinSet::new();
            for _ in 0..SUBSCRIBERS {
                let (client, query) = (client.clone(), Query::stream(key.clone(), "out"));
                opening.spawn(async move { client.tail(query).await.map(|_| ()) });
            }
            tokio::task::yield_now().await;
            opening.abort_all();
        }
        client.get_run(&key).await.expect("run");
        assert_eq!(proxy.accepted(), 1, "one connection");
    });
}

#[test]
fn a_subscriber_that_does_not_read_delays_nobody_and_queues_nothing() {
    run(async {
        let server = Server::start().await;
        let client = client(&server.url(), RetryPolicy::never());
        let key = RunKey::new("run");
        // Sixteen times what the connection takes for one call, and far behind the ring.
        const BODY: usize = 64 << 10;
        const COUNT: usize = 256;
        for n in 0..COUNT {
            let body = vec![u8::try_from(n).expect("small"); BODY];
            let records = vec![NewRecord::new(body)];
            append(&server.store, &key, Append { records, ..batch("big", &[]) }).await;
        }
        let stalled = client.tail(Query::stream(key.clone(), "big")).await.expect("tail");
        let tails = subscribe(&client, &key, "out", SUBSCRIBERS - 1).await;
        let lines = numbers(0..20);
        for line in &lines {
            write(&server.store, &key, "out", &[line]).await;
        }
        let (tails, found) = take_all(tails, lines.len()).await;
        assert!(found.iter().all(|found| *found == lines));

        // What was read from disk for it is what its window takes, and two messages.
        let read = server.store.stats().disk_reads as usize * BODY;
        assert!(read <= 2 << 20, "{read} bytes were read for a subscriber that takes none");
        write(&server.store, &key, "out", &["still here"]).await;
        let (_, found) = take_all(tails, 1).await;
        assert!(found.iter().all(|found| found == &["still here"]));

        // When it reads again, everything is there.
        let sizes = all_of(stalled, COUNT).await;
        let expected: BTreeMap<u8, usize> = (0..=255).map(|n| (n, BODY)).collect();
        assert_eq!(sizes, expected);
        assert!(COUNT / 2 < server.store.stats().disk_reads as usize, "the rest came from disk");
    });
}

/// Sizes of bodies by their first byte, which counts up.
async fn all_of(mut tail: Tail, count: usize) -> BTreeMap<u8, usize> {
    let (mut sizes, mut seen) = (BTreeMap::new(), 0);
    while seen < count {
        let TailItem::Records(records, _) = tail.next().await.expect("item") else { continue };
        for record in records.decode().expect("records") {
            assert_eq!(record.index, seen as u64);
            assert!(record.data.iter().all(|&byte| byte == record.data[0]));
            sizes.insert(record.data[0], record.data.len());
            seen += 1;
        }
    }
    sizes
}
