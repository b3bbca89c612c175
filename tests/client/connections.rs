//! What outlives a connection, and what is never sent twice.

use std::time::Duration;

use braidlog::{
    Create, Error, RunKey,
    client::Client,
    core::{CancelRun, Commit, Send},
    engine::{InputConsumer, Received, WatchItem, WatchQuery, WatchScope},
};

use super::{
    claim_of, created,
    proxy::Proxy,
    send,
    server::{Server, client, persistent, run},
};

async fn through_a_proxy() -> (Server, Proxy, Client) {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address).await;
    let client = client(&proxy.url(), persistent());
    (server, proxy, client)
}

/// Tags of the newest row that comes.
async fn tags(watch: &mut braidlog::client::Watch, count: usize) {
    loop {
        if let WatchItem::Row(row) = watch.next().await.expect("item")
            && row.tags.len() == count
        {
            return;
        }
    }
}

async fn tag(client: &Client, run: &RunKey, tag: &str) {
    let commit = Commit { tags: vec![tag.into()], ..Commit::default() };
    client.commit(run, commit).await.expect("tagged");
}

#[test]
fn a_watch_goes_on_behind_a_broken_and_behind_a_silent_connection() {
    run(async {
        let (server, proxy, client) = through_a_proxy().await;
        let direct = server.client();
        let key = created(&direct, "r", "").await;
        let scope = WatchScope::Run { run: key.clone(), run_uid: None, kinds: Vec::new() };
        let mut watch = client.watch(WatchQuery { scope, cursor: None }).await.expect("watches");
        tags(&mut watch, 0).await;
        assert_eq!(watch.next().await.expect("item"), WatchItem::CaughtUp);
        for (n, fail) in [Proxy::cut, Proxy::silence].into_iter().enumerate() {
            fail(&proxy);
            tag(&direct, &key, &format!("t{n}")).await;
            tags(&mut watch, n + 1).await;
        }
        assert!(2 < proxy.accepted());
        direct.cancel_run(&key, CancelRun::default()).await.expect("canceled");
        let mut items = Vec::new();
        loop {
            let item = watch.next().await.expect("item");
            let is_end = matches!(item, WatchItem::End(_));
            items.push(item);
            if is_end {
                break;
            }
        }
        assert!(!items.contains(&WatchItem::CaughtUp), "that was told once: {items:?}");
    });
}

#[test]
fn a_receiver_goes_on_and_what_was_not_acked_comes_again() {
    run(async {
        let (server, proxy, client) = through_a_proxy().await;
        let direct = server.client();
        let key = created(&direct, "r", "").await;
        let consumer = InputConsumer::new(key.clone(), "in");
        let mut receiver = client.receive(consumer.clone(), 10).await.expect("receives");
        send(&direct, &key, "a", "1").await;
        let Received::Inputs(first) = receiver.next().await.expect("next") else { panic!("end") };
        assert_eq!((first.len(), first[0].redelivery), (1, false));
        for fail in [Proxy::cut, Proxy::silence] {
            fail(&proxy);
            let Received::Inputs(again) = receiver.next().await.expect("next") else {
                panic!("end")
            };
            assert_eq!((again.len(), again[0].redelivery), (1, true));
            assert_eq!(again[0].record, first[0].record);
        }
        let index = braidlog::Index(0);
        direct.ack(&consumer, vec![(index, index + 1)]).await.expect("acked");
        proxy.cut();
        send(&direct, &key, "b", "2").await;
        let Received::Inputs(next) = receiver.next().await.expect("next") else { panic!("end") };
        assert_eq!((next.len(), &next[0].record.data[..]), (1, &b"2"[..]));
    });
}

#[test]
fn what_has_a_key_is_repeated_and_the_rest_is_said_to_be_open() {
    run(async {
        let (server, proxy, client) = through_a_proxy().await;
        let key = created(&client, "r", "t").await;
        // The call arrives, its answer does not; then the connection breaks.
        let lose = async || {
            client.get_run(&key).await.expect("a connection");
            proxy.lose_answers();
            let proxy = proxy.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                proxy.cut();
            });
        };
        lose().await;
        let commit = Commit { tags: vec!["a".into()], ..Commit::default() };
        let keyed = Commit { request_id: "one".into(), ..commit.clone() };
        let turn = client.commit(&key, keyed).await.expect("committed");
        assert!(turn.committed.deduplicated, "the first attempt was applied");
        lose().await;
        let open = client.commit(&key, Commit { tags: vec!["b".into()], ..commit }).await;
        assert!(matches!(open, Err(Error::OutcomeUnknown { .. })), "{open:?}");

        lose().await;
        assert!(send(&client, &key, "m", "1").await.deduplicated);
        lose().await;
        let message = braidlog::NewRecord::new("2");
        let send = Send { run_uid: None, stream: "in".into(), message };
        let open = client.send(&key, send).await;
        assert!(matches!(open, Err(Error::OutcomeUnknown { .. })), "{open:?}");

        lose().await;
        let open = client.claim(&claim_of("t"), Duration::ZERO).await;
        assert!(matches!(open, Err(Error::OutcomeUnknown { .. })), "{open:?}");
        assert_eq!(server.store.get_run(&key).await.expect("run").life.epoch, 1);
        lose().await;
        let renewed = client.renew_lease(&key, 1).await.expect("renewed");
        assert_eq!(renewed.term_ms, 30_000);
        lose().await;
        let canceled = client.cancel_run(&key, CancelRun::default()).await.expect("canceled");
        assert!(canceled.deduplicated);
        lose().await;
        let token = client.create_wait_token(Default::default()).await.expect("created");
        assert!(!token.created, "one token, however often it was asked for");
    });
}

#[test]
fn a_claim_waits_through_a_restart_of_the_server() {
    run(async {
        let server = Server::start().await;
        let waiting = client(&server.url(), persistent());
        let claim =
            tokio::spawn(
                async move { waiting.claim(&claim_of("t"), Duration::from_secs(60)).await },
            );
        tokio::time::sleep(Duration::from_millis(100)).await;
        let server = server.restart().await;
        let create = Create { run_id: "r".into(), task: "t".into(), ..Create::default() };
        let create = Create { namespace: "default".into(), ..create };
        server.store.create_run(create).await.expect("created");
        let claimed = claim.await.expect("no panic").expect("claimed").expect("one");
        assert_eq!(&*claimed.run.run_id, "r");
    });
}
