//! A run as it was: at every seq, and at every time, wherever its frames are.

use braidlog::{
    At, Close, Commit, Error, Index, Operation, Outcome, Refusal, RunInfo, RunStatus, Seq, Store,
    Trim,
};

use super::{
    place::{Place, append, batch, key, noise, refusal},
    work::{work, worker},
};

async fn at(store: &Store, at: At) -> Result<RunInfo, Error> {
    store.get_run_at(&key("run"), at).await
}

#[tokio::test]
async fn a_run_is_shown_as_it_was_at_every_seq_wherever_its_frames_are() {
    let mut place = Place::new();
    place.store().create_run(work("run")).await.expect("created");
    let mut were = vec![place.store().get_run(&key("run")).await.expect("the run")];
    for n in 0..40_u64 {
        let store = place.store();
        match n % 5 {
            0 => append(store, &key("run"), batch("out", [noise(n, 3_000)])).await,
            1 => {
                let metadata = vec![Operation::set("n", n.to_string())];
                let tags = if n < 20 { vec![format!("t{n}").into()] } else { Vec::new() };
                let commit = Commit { metadata, tags, ..Commit::default() };
                store.commit(&key("run"), commit).await.expect("committed");
            }
            2 if n == 2 => drop(store.try_claim(&worker("w", 600_000)).await.expect("claims")),
            3 => place.flush().await,
            4 if n % 10 == 9 => place.reopen().await,
            _ => append(store, &key("run"), batch("other", [n.to_string()])).await,
        }
        were.push(place.store().get_run(&key("run")).await.expect("the run"));
    }
    let close = Close {
        outcome: Outcome::Completed,
        output: "done".into(),
        lease_epoch: Some(1),
        ..Close::default()
    };
    place.store().close_run(&key("run"), close).await.expect("closed");
    were.push(place.store().get_run(&key("run")).await.expect("the run"));
    for flushes in [false, true] {
        if flushes {
            place.flush().await;
            place.reopen().await;
        }
        for was in &were {
            let found = at(place.store(), At::Seq(was.tail)).await.expect("the past");
            assert_eq!(&found, was, "at seq {}", was.tail);
            let found = at(place.store(), At::Time(was.updated_ms)).await.expect("the past");
            assert!(was.tail <= found.tail, "{} at {}", found.tail, was.updated_ms);
            assert_eq!(found.updated_ms, was.updated_ms);
        }
    }
    let last = were.last().expect("some");
    assert_eq!(last.status, RunStatus::Completed);
    let beyond = at(place.store(), At::Seq(last.tail + 1)).await.expect_err("beyond");
    assert_eq!(refusal(beyond), Refusal::BeyondTail { tail: last.tail.0 });
    for before in [At::Seq(Seq(0)), At::Time(were[0].created_ms - 1)] {
        let refused = at(place.store(), before).await.expect_err("before the beginning");
        assert!(matches!(refused, Error::Refused(Refusal::Invalid { .. })), "{refused}");
    }
}

#[tokio::test]
async fn the_past_of_what_was_trimmed_is_gone_and_says_where_it_begins() {
    let mut place = Place::new();
    place.store().create_run(work("run")).await.expect("created");
    for n in 0..50 {
        append(place.store(), &key("run"), batch("out", [noise(n, 5_000)])).await;
    }
    place.flush().await;
    let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(40) };
    place.store().trim(&key("run"), trim).await.expect("trimmed");
    append(place.store(), &key("run"), batch("out", [noise(99, 5_000)])).await;
    // What is trimmed leaves the packs when the run's segments are put together.
    for n in 0..12 {
        append(place.store(), &key("run"), batch("out", [n.to_string()])).await;
        place.flush().await;
    }
    place.reopen().await;
    let now = place.store().get_run(&key("run")).await.expect("the run");
    assert_eq!(at(place.store(), At::Seq(now.tail)).await.expect("now"), now);
    match at(place.store(), At::Seq(Seq(20))).await {
        Ok(found) => assert_eq!(found.tail, Seq(20), "it was not given back yet"),
        Err(Error::Refused(Refusal::Trimmed { first_seq, .. })) => {
            assert!(Seq(20) < first_seq && first_seq <= now.tail);
        }
        Err(error) => panic!("{error}"),
    }
}
