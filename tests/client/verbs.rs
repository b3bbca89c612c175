//! Every verb of the client gives what the store's own gives.

use std::time::Duration;

use braidlog::{
    Create, Error, Index, ListRuns, Refusal, RunKey, RunStatus, Seq,
    core::{
        Ack, At, CancelRun, Commit, Operation, Release, ReleaseTo, Reschedule, StreamAppend, Then,
    },
    engine::{
        AcquireLease, BatchItem, CreateBatch, CreateToken, InputConsumer, InputsEnd, Received,
        WatchItem, WatchQuery, WatchRuns, WatchScope,
    },
    proto::{Kind, Outcome, RunSpec, RunUpdated},
};

use super::{
    claim_of, created, send,
    server::{Server, records, refusal, run},
};

const SOON: Duration = Duration::from_millis(50);
const TERM: Duration = Duration::from_secs(30);

#[test]
fn a_run_is_claimed_worked_on_and_given_back() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        assert_eq!(client.claim(&claim_of("t"), SOON).await.expect("asked"), None);
        let key = created(&client, "r", "t").await;
        send(&client, &key, "m", "hello").await;
        let claimed = client.claim(&claim_of("t"), TERM).await.expect("asked").expect("claimed");
        assert_eq!(claimed.run, server.store.get_run(&key).await.expect("run"));
        assert_eq!((claimed.claimed.epoch, claimed.claimed.attempt), (1, 1));
        assert_eq!((claimed.owed.len(), claimed.owed[0].owed), (1, 1));
        let renewed = client.renew_lease(&key, 1).await.expect("renewed");
        assert_eq!((renewed.term_ms, renewed.cancel), (30_000, None));

        let commit = Commit {
            lease_epoch: Some(1),
            request_id: "one".into(),
            appends: vec![StreamAppend {
                stream: "out".into(),
                records: records(&["a", "b"]),
                expected_index: Some(Index(0)),
            }],
            acks: vec![Ack {
                stream: "in".into(),
                ranges: vec![(Index(0), Index(1))],
                ..Ack::default()
            }],
            metadata: vec![Operation::set("k", "[1]")],
            tags: vec!["tag".into()],
            update: Some(RunUpdated { usage_duration_ms: Some(5), ..RunUpdated::default() }),
            ..Commit::default()
        };
        let turn = client.commit(&key, commit.clone()).await.expect("committed");
        assert_eq!((&turn.metadata[..], turn.status), (&br#"{"k":[1]}"#[..], RunStatus::Executing));
        let again = client.commit(&key, commit.clone()).await.expect("committed");
        assert!(again.committed.deduplicated);
        assert_eq!(again.committed.spans, turn.committed.spans);
        let other = Commit { tags: vec!["other".into()], ..commit };
        assert_eq!(refusal(client.commit(&key, other).await), Refusal::DedupMismatch);

        let held = AcquireLease {
            run: key.clone(),
            run_uid: None,
            worker: "x".into(),
            term_ms: 30_000,
            takeover: false,
        };
        let worker = "w".into();
        let refused = Refusal::LeaseHeld { epoch: 1, worker };
        assert_eq!(refusal(client.acquire_lease(&held).await), refused);
        let taken = AcquireLease { takeover: true, ..held };
        let taken = client.acquire_lease(&taken).await.expect("taken");
        assert_eq!((taken.claimed.epoch, taken.owed.len()), (2, 0));
        let refused = Refusal::Fenced { current: 2 };
        assert_eq!(refusal(client.renew_lease(&key, 1).await), refused);
        let release = Release { next: ReleaseTo::Queue, error: None };
        let status = client.release_lease(&key, 2, release).await.expect("released");
        assert_eq!(status, RunStatus::Queued);
        assert_eq!(
            client.get_run(&key).await.expect("run"),
            server.store.get_run(&key).await.expect("run")
        );
        let before = client.get_run_at(&key, At::Seq(Seq(1))).await.expect("run");
        assert_eq!(before, server.store.get_run_at(&key, At::Seq(Seq(1))).await.expect("run"));
        assert_eq!((before.tail, before.status), (Seq(1), RunStatus::Queued));
    });
}

#[test]
fn runs_are_put_off_and_stopped() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        let until_ms = server.store.clock_ms() + 3_600_000;
        let reschedule = Reschedule { run_uid: None, delay_until_ms: until_ms };
        let put_off = client.reschedule_run(&key, reschedule).await.expect("put off");
        assert_eq!((put_off.status, put_off.life.delay_until_ms), (RunStatus::Delayed, until_ms));
        let cancel = CancelRun { reason: "enough".into(), ..CancelRun::default() };
        let canceled = client.cancel_run(&key, cancel.clone()).await.expect("canceled");
        assert_eq!((canceled.closed, canceled.deduplicated), (true, false));
        assert_eq!(canceled.run.status, RunStatus::Canceled);
        assert!(client.cancel_run(&key, cancel).await.expect("canceled").deduplicated);
        assert!(matches!(
            refusal(client.reschedule_run(&key, Reschedule::default()).await),
            Refusal::Closed { outcome: Some(Outcome::Canceled), .. }
        ));
    });
}

#[test]
fn messages_are_sent_and_consumed() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "").await;
        let consumer = InputConsumer::new(key.clone(), "in");
        assert_eq!(client.peek(&consumer).await.expect("peeked"), None);
        assert_eq!(client.take(&consumer, TERM, SOON).await.expect("asked"), None);
        let sent = send(&client, &key, "a", "1").await;
        assert_eq!((sent.index, sent.deduplicated), (Index(0), false));
        let again = send(&client, &key, "a", "1").await;
        assert_eq!((again.index, again.seq, again.deduplicated), (Index(0), None, true));
        send(&client, &key, "b", "2").await;

        let peeked = client.peek(&consumer).await.expect("peeked").expect("one");
        let taken = client.take(&consumer, TERM, SOON).await.expect("asked").expect("one");
        assert_eq!((&peeked.record, taken.redelivery), (&taken.record, false));
        assert!(client.extend(&consumer, Index(0), TERM).await.expect("extended"));
        assert!(client.release(&consumer, Index(0)).await.expect("released"));
        assert!(!client.release(&consumer, Index(0)).await.expect("released"));
        let taken = client.take(&consumer, TERM, SOON).await.expect("asked").expect("one");
        assert!(taken.redelivery);
        let acked = client.ack(&consumer, vec![(Index(0), Index(1))]).await.expect("acked");
        assert_eq!((acked.floor, acked.owed), (Index(1), 1));

        let mut receiver = client.receive(consumer.clone(), 4).await.expect("receives");
        let Received::Inputs(inputs) = receiver.next().await.expect("next") else { panic!("end") };
        assert_eq!((inputs.len(), &inputs[0].record.data[..]), (1, &b"2"[..]));
        let mut newer = client.receive(consumer.clone(), 4).await.expect("receives");
        let end = Received::End(InputsEnd::Superseded);
        assert_eq!(receiver.next().await.expect("next"), end);
        assert_eq!(receiver.next().await.expect("next"), end, "again and again");
        assert!(matches!(newer.next().await.expect("next"), Received::Inputs(_)));
        client.cancel_run(&key, CancelRun::default()).await.expect("canceled");
        assert_eq!(newer.next().await.expect("next"), Received::End(InputsEnd::Closed));

        let none = client.receive(consumer.clone(), 0).await.map(drop);
        assert!(matches!(refusal(none), Refusal::Invalid { .. }));
        let zero = client.take(&consumer, Duration::ZERO, SOON).await;
        assert!(matches!(refusal(zero), Refusal::Invalid { .. }));
    });
}

#[test]
fn wait_tokens_are_completed_once() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let create = CreateToken { tags: vec!["x".into()], ..CreateToken::default() };
        let first = client.create_wait_token(create.clone()).await.expect("created");
        let second = client.create_wait_token(create).await.expect("created");
        assert!(first.created && first.token.token_id != second.token.token_id);
        let key = RunKey::new(first.token.token_id.clone());
        assert_eq!(client.get_wait_token(&key).await.expect("token"), first.token);
        let value = || bytes::Bytes::from_static(b"yes");
        let done = client.complete_wait_token(&key, value(), "text/plain".into()).await;
        let done = done.expect("completed");
        assert_eq!((&done.token.value[..], done.deduplicated), (&b"yes"[..], false));
        let again = client.complete_wait_token(&key, bytes::Bytes::new(), String::new()).await;
        let again = again.expect("completed");
        assert_eq!((&again.token.value[..], again.deduplicated), (&b"yes"[..], true));
        let list = ListRuns {
            statuses: vec![RunStatus::Executing],
            tags: vec!["x".into()],
            ..ListRuns::default()
        };
        let listed = client.list_wait_tokens(&list).await.expect("listed");
        assert_eq!(listed.tokens, server.store.list_wait_tokens(&list).await.expect("l").tokens);
        assert_eq!(listed.tokens.len(), 1);
        let none = ListRuns { statuses: vec![RunStatus::Queued], ..list };
        assert!(client.list_wait_tokens(&none).await.expect("listed").tokens.is_empty());
        let nowhere = RunKey::new("nowhere");
        assert_eq!(refusal(client.get_wait_token(&nowhere).await), Refusal::WaitNotFound);
    });
}

#[test]
fn batches_are_filled_and_sealed() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let create = CreateBatch { run_count: 2, ..CreateBatch::new("b") };
        let batch = client.create_batch(create).await.expect("created");
        assert_eq!((batch.created, batch.batch.run_count), (true, 2));
        let key = RunKey::new("b");
        let item = |number: u64| {
            let spec = RunSpec { priority: -3, ..RunSpec::default() };
            let run = Create {
                namespace: "default".into(),
                run_id: format!("r{number}").into(),
                task: "t".into(),
                spec,
                ..Create::default()
            };
            BatchItem { number, run }
        };
        let added = client.add_to_batch(&key, vec![item(0), item(1)]).await.expect("added");
        assert_eq!((added.accepted, added.deduplicated), (2, 0));
        let added = client.add_to_batch(&key, vec![item(1)]).await.expect("added");
        assert_eq!((added.accepted, added.deduplicated), (0, 1));
        let wrong = client.seal_batch(&key, Some(3)).await;
        assert_eq!(refusal(wrong), Refusal::IndexMismatch { tail: Index(2) });
        assert!(client.seal_batch(&key, Some(2)).await.expect("sealed").sealed);
        let found = client.get_batch(&key).await.expect("batch");
        assert_eq!(found, server.store.get_batch(&key).await.expect("batch"));
        let run = client.get_run(&RunKey::new("r0")).await.expect("run");
        assert_eq!((&*run.batch, run.spec.priority), ("b", -3));
    });
}

fn tagged(tag: &str) -> WatchQuery {
    let runs = WatchRuns {
        namespace: "default".into(),
        tags: vec![tag.into()],
        batch: "".into(),
        task: "".into(),
        statuses: Vec::new(),
        created_from_ms: 0,
        limit: 10,
    };
    WatchQuery { scope: WatchScope::Runs(runs), cursor: None }
}

#[test]
fn runs_are_watched_to_their_end() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "").await;
        let scope =
            WatchScope::Run { run: key.clone(), run_uid: None, kinds: vec![Kind::Lifecycle] };
        let mut watch = client.watch(WatchQuery { scope, cursor: None }).await.expect("watches");
        let mut many = client.watch(tagged("x")).await.expect("watches");
        assert_eq!(many.next().await.expect("item"), WatchItem::CaughtUp);
        assert!(!many.cursor().is_empty());

        let tags = Commit { tags: vec!["x".into()], ..Commit::default() };
        client.commit(&key, tags).await.expect("committed");
        let close = Then::Close(braidlog::Close {
            outcome: Outcome::Completed,
            ..braidlog::Close::default()
        });
        client.commit(&key, Commit { then: close, ..Commit::default() }).await.expect("closed");
        let (mut last, mut kinds) = (None, Vec::new());
        loop {
            match watch.next().await.expect("item") {
                WatchItem::Row(row) => last = Some(row),
                WatchItem::Records(records) => kinds.extend(records.iter().map(|it| it.kind())),
                WatchItem::End(outcome) => {
                    assert_eq!(outcome, Outcome::Completed);
                    break;
                }
                WatchItem::CaughtUp => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(*last.expect("a row"), client.get_run(&key).await.expect("run"));
        assert_eq!(kinds, [Kind::Lifecycle, Kind::Lifecycle]);
        assert!(matches!(watch.next().await.expect("item"), WatchItem::End(_)), "again");

        let WatchItem::Row(row) = many.next().await.expect("item") else { panic!("no row") };
        assert_eq!(*row.run_id, *key.run_id);
        let cursor = Some(many.cursor().to_owned());
        let other = client.watch(WatchQuery { cursor, ..tagged("y") }).await;
        match other {
            Ok(mut watch) => {
                assert!(matches!(watch.next().await, Err(Error::Refused(Refusal::Invalid { .. }))))
            }
            Err(error) => assert!(matches!(error, Error::Refused(Refusal::Invalid { .. }))),
        }
    });
}
