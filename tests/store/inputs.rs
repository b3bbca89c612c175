//! What is sent to a run stays until it is acked, is delivered in order, and to one at a time.

use std::{
    future::{pending, ready},
    time::Duration,
};

use braidlog::{
    Ack, AcquireLease, Close, Commit, Error, Index, Input, InputConsumer, InputsEnd, NewRecord,
    Outcome, Received, Receiver, Refusal, Send, Store, Then,
};

use super::place::{Place, create, key, refusal};

const TERM: Duration = Duration::from_secs(30);

fn message(id: &str, text: &str) -> Send {
    let message = NewRecord { id: id.into(), ..NewRecord::new(text.to_owned()) };
    Send { run_uid: None, stream: "in".into(), message }
}

fn consumer() -> InputConsumer {
    InputConsumer::new(key("run"), "in")
}

async fn send(store: &Store, n: u64) {
    let sent = store.send(&key("run"), message(&n.to_string(), &format!("m{n}"))).await;
    assert_eq!(sent.expect("sent").index, Index(n));
}

async fn ack(store: &Store, from: u64, to: u64) {
    store.ack(&consumer(), vec![(Index(from), Index(to))]).await.expect("acked");
}

/// Indices of the inputs that come next, and whether they may have been seen.
async fn next(receiver: &mut Receiver) -> Vec<(u64, bool)> {
    match receiver.next().await.expect("inputs") {
        Received::Inputs(inputs) => {
            inputs.iter().map(|input| (input.record.index, input.redelivery)).collect()
        }
        Received::End(end) => panic!("{end:?}"),
    }
}

async fn take(store: &Store) -> Option<Input> {
    store.take(&consumer(), TERM, ready(())).await.expect("takes")
}

async fn has_nothing(receiver: &mut Receiver) -> bool {
    tokio::time::timeout(Duration::from_millis(50), receiver.next()).await.is_err()
}

#[tokio::test]
async fn what_is_sent_before_anybody_listens_is_delivered_and_then_what_comes() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    let mut early = store.receive(consumer(), 10).await.expect("there need not be a stream");
    assert!(has_nothing(&mut early).await);
    drop(early);
    for n in 0..3 {
        send(store, n).await;
    }
    let mut receiver = store.receive(consumer(), 10).await.expect("receives");
    assert_eq!(next(&mut receiver).await, [(0, false), (1, false), (2, false)]);
    assert!(has_nothing(&mut receiver).await, "each once");
    send(store, 3).await;
    assert_eq!(next(&mut receiver).await, [(3, false)]);
    // Handled 0, 2 and 3, still owes 1.
    ack(store, 0, 1).await;
    ack(store, 2, 4).await;
    drop(receiver);
    let mut receiver = store.receive(consumer(), 10).await.expect("receives");
    assert_eq!(next(&mut receiver).await, [(1, true)]);
    let close = Close { outcome: Outcome::Completed, ..Close::default() };
    store.close_run(&key("run"), close).await.expect("closed");
    assert_eq!(receiver.next().await.expect("the end"), Received::End(InputsEnd::Closed));
    let refused = store.send(&key("run"), message("9", "late")).await.expect_err("closed");
    assert!(matches!(
        refused,
        Error::Refused(Refusal::Closed { outcome: Some(Outcome::Completed), .. })
    ));
    let mut over = store.receive(consumer(), 10).await.expect("receives");
    assert_eq!(over.next().await.expect("the end"), Received::End(InputsEnd::Closed));
}

#[tokio::test]
async fn what_is_owed_survives_a_restart_and_packs_and_comes_again_as_maybe_seen() {
    let mut place = Place::new();
    place.store().create_run(create("run")).await.expect("created");
    for n in 0..10 {
        send(place.store(), n).await;
    }
    ack(place.store(), 0, 2).await;
    ack(place.store(), 5, 7).await;
    for flushes in [false, true, true] {
        if flushes {
            place.flush().await;
        }
        place.reopen().await;
        let mut receiver = place.store().receive(consumer(), 100).await.expect("receives");
        let mut indices = Vec::new();
        while indices.len() < 6 {
            indices.extend(next(&mut receiver).await);
        }
        assert_eq!(indices, [2, 3, 4, 7, 8, 9].map(|n| (n, true)));
        drop(receiver);
        let again = place.store().send(&key("run"), message("4", "m4")).await.expect("sent");
        assert!(again.deduplicated && again.index == Index(4) && again.seq.is_none());
        let other = place.store().send(&key("run"), message("4", "other")).await;
        assert_eq!(refusal(other.expect_err("refused")), Refusal::DedupMismatch);
    }
    let peeked = place.store().peek(&consumer()).await.expect("peeks").expect("one");
    assert_eq!((peeked.record.index, &*peeked.record.data), (2, &b"m2"[..]));
}

#[tokio::test]
async fn a_receiver_has_no_more_than_it_may_until_it_acks() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    for n in 0..250 {
        send(store, n).await;
    }
    let mut receiver = store.receive(consumer(), 7).await.expect("receives");
    for turn in 0..10 {
        let mut indices = Vec::new();
        while indices.len() < 7 {
            indices.extend(next(&mut receiver).await);
        }
        let expected: Vec<_> = (turn * 7..turn * 7 + 7).map(|n| (n, false)).collect();
        assert_eq!(indices, expected);
        assert!(has_nothing(&mut receiver).await);
        ack(store, turn * 7, turn * 7 + 7).await;
    }
}

#[tokio::test]
async fn a_newer_receiver_ends_the_older_and_gets_what_it_had() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    send(store, 0).await;
    let mut older = store.receive(consumer(), 10).await.expect("receives");
    assert_eq!(next(&mut older).await, [(0, false)]);
    let waiting = tokio::spawn(async move { older.next().await });
    let mut newer = store.receive(consumer(), 10).await.expect("receives");
    assert_eq!(next(&mut newer).await, [(0, true)]);
    let end = waiting.await.expect("task").expect("the end");
    assert_eq!(end, Received::End(InputsEnd::Superseded));
    // Another consumer has a floor of its own.
    let other = InputConsumer { consumer: "audit".into(), ..consumer() };
    let mut audit = store.receive(other, 10).await.expect("receives");
    assert_eq!(next(&mut audit).await, [(0, false)]);
}

#[tokio::test]
async fn a_message_that_was_taken_is_nobody_elses_until_its_term_or_its_release() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    assert!(take(store).await.is_none());
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.take(&consumer(), TERM, pending()).await })
    };
    send(store, 0).await;
    send(store, 1).await;
    let first = waiting.await.expect("task").expect("takes").expect("a message");
    assert_eq!((first.record.index, first.redelivery), (0, false));
    let second = take(store).await.expect("a message");
    assert_eq!(second.record.index, 1);
    assert!(take(store).await.is_none());
    assert!(store.release(&consumer(), Index(0)).await.expect("released"));
    assert!(!store.release(&consumer(), Index(0)).await.expect("released"));
    let again = take(store).await.expect("a message");
    assert_eq!((again.record.index, again.redelivery), (0, true));
    ack(store, 0, 1).await;
    // The term of a claim ends by itself, and wakes who waits.
    assert!(store.release(&consumer(), Index(1)).await.expect("released"));
    let short = Duration::from_millis(300);
    store.take(&consumer(), short, ready(())).await.expect("takes").expect("a message");
    let next = store.take(&consumer(), TERM, pending()).await.expect("takes").expect("a message");
    assert_eq!((next.record.index, next.redelivery), (1, true));
    assert!(store.extend(&consumer(), Index(1), TERM).await.expect("extended"));
    assert!(!store.extend(&consumer(), Index(0), TERM).await.expect("not claimed"));
    let close = Close { outcome: Outcome::Failed, ..Close::default() };
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.take(&consumer(), TERM, pending()).await })
    };
    store.close_run(&key("run"), close).await.expect("closed");
    let refused = waiting.await.expect("task").expect_err("closed");
    assert!(matches!(refused, Error::Refused(Refusal::Closed { .. })));
}

#[tokio::test]
async fn inputs_of_a_run_that_was_claimed_need_its_lease_and_go_to_the_next_holder() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    let acquire = |worker: &str| AcquireLease {
        run: key("run"),
        run_uid: None,
        worker: worker.into(),
        term_ms: 60_000,
        takeover: true,
    };
    send(store, 0).await;
    store.acquire_lease(&acquire("a")).await.expect("acquired");
    let refused = store.receive(consumer(), 10).await.map(drop).expect_err("no lease");
    assert_eq!(refusal(refused), Refusal::LeaseRequired { current: 1 });
    let held = |epoch| InputConsumer { lease_epoch: Some(epoch), ..consumer() };
    let mut receiver = store.receive(held(1), 10).await.expect("receives");
    assert_eq!(next(&mut receiver).await, [(0, false)]);
    let waiting = tokio::spawn(async move { receiver.next().await });
    let claimed = store.acquire_lease(&acquire("b")).await.expect("acquired");
    assert_eq!((claimed.owed.len(), claimed.owed[0].owed), (1, 1));
    let fenced = waiting.await.expect("task").expect_err("fenced");
    assert_eq!(refusal(fenced), Refusal::Fenced { current: 2 });
    let acked = store.ack(&held(1), vec![(Index(0), Index(1))]).await.expect_err("fenced");
    assert_eq!(refusal(acked), Refusal::Fenced { current: 2 });
    let mut receiver = store.receive(held(2), 10).await.expect("receives");
    assert_eq!(next(&mut receiver).await, [(0, true)]);
    // The answer and the consumption of what it answers are one.
    let answer = Commit {
        lease_epoch: Some(2),
        acks: vec![Ack {
            stream: "in".into(),
            consumer: "".into(),
            ranges: vec![(Index(0), Index(1))],
        }],
        then: Then::Close(Close { outcome: Outcome::Completed, ..Close::default() }),
        ..Commit::default()
    };
    store.commit(&key("run"), answer).await.expect("committed");
    assert_eq!(receiver.next().await.expect("the end"), Received::End(InputsEnd::Closed));
}

#[tokio::test]
async fn a_receiver_that_is_dropped_gives_back_what_it_had_at_once() {
    let place = Place::new();
    let store = place.store();
    store.create_run(create("run")).await.expect("created");
    for n in 0..5 {
        send(store, n).await;
    }
    let mut receiver = store.receive(consumer(), 3).await.expect("receives");
    assert_eq!(next(&mut receiver).await.len(), 3);
    let rest = take(store).await.expect("a message");
    assert_eq!(rest.record.index, 3, "what the receiver has is not taken");
    assert_eq!(take(store).await.expect("a message").record.index, 4);
    assert!(take(store).await.is_none());
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.take(&consumer(), TERM, pending()).await })
    };
    tokio::task::yield_now().await;
    drop(receiver);
    let back = waiting.await.expect("task").expect("takes").expect("a message");
    assert_eq!((back.record.index, back.redelivery), (0, true));
}
