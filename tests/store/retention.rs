//! How long and how much is kept of runs: by the store, by their namespace, by themselves.

use braidlog::{
    AtLimit, Create, Error, IfAbsent, Index, ListRuns, Query, Refusal, Retention, RunKey, Store,
};

use super::place::{Place, append, batch, close, create, drain, key, list, noise, read_all, until};

const AT_ONCE: Retention =
    Retention { age_ms: Some(1), bytes: None, records: None, at_limit: AtLimit::Reject };
const FOR_LONG: Retention = Retention { age_ms: Some(1 << 40), ..AT_ONCE };

async fn is_there(store: &Store, run: &RunKey) -> bool {
    let answer = store.get_run(run).await;
    assert!(
        matches!(answer, Ok(_) | Err(Error::Refused(Refusal::RunNotFound))),
        "an expired run is as if it had never been: {answer:?}"
    );
    answer.is_ok()
}

/// Creates a run with so many bytes in it.
async fn fill(store: &Store, create: Create, bytes: usize) -> RunKey {
    let run = RunKey { namespace: create.namespace.clone(), run_id: create.run_id.clone() };
    store.create_run(create).await.expect("created");
    append(store, &run, batch("out", [noise(1, bytes)])).await;
    run
}

/// Appends and copies, so that the journal does not name any more what was copied before; and has
/// packs looked through, as is done after every start.
async fn look_again(place: &mut Place, run: &RunKey) {
    place.flush().await;
    place.reopen().await;
    append(place.store(), run, batch("out", ["still here"])).await;
    place.flush().await;
}

#[tokio::test]
async fn runs_disappear_as_a_whole_at_the_age_that_run_namespace_or_store_say() {
    let mut place = Place::with(|options| {
        options.retention = FOR_LONG;
        options.retention_by_namespace.insert("short".into(), AT_ONCE);
    });
    let store = place.store();
    let of = |namespace: &str, run: &str, retention| Create {
        namespace: namespace.into(),
        retention,
        ..create(run)
    };
    let (mut kept, mut expired) = (Vec::new(), Vec::new());
    for (stays, create) in [
        (true, of("default", "by the store", None)),
        (false, of("short", "by its namespace", None)),
        (true, of("short", "by itself, longer", Some(FOR_LONG))),
        (false, of("default", "by itself, shorter", Some(AT_ONCE))),
    ] {
        // A pack is written again for the sake of half of it.
        let run = fill(store, create, if stays { 1_000 } else { 20_000 }).await;
        close(store, &run).await;
        if stays { kept.push(run) } else { expired.push(run) }
    }
    let open = fill(store, of("short", "open", None), 1_000).await;
    kept.push(open.clone());
    let followed = fill(store, of("short", "followed", None), 20_000).await;
    close(store, &followed).await;

    let mut tail = place.store().tail(Query::run(followed.clone())).await.expect("tail");
    place.flush().await;
    assert!(is_there(place.store(), &followed).await, "somebody reads it");
    assert_eq!(drain(&mut tail).await.expect("items").0.len(), 3);
    drop(tail);

    look_again(&mut place, &open).await;
    for run in &expired {
        assert!(!is_there(place.store(), run).await, "{}", run.run_id);
        let read = place.store().read(Query::run(run.clone())).await;
        assert!(matches!(read, Err(Error::Refused(Refusal::RunNotFound))));
    }
    for run in &kept {
        assert!(is_there(place.store(), run).await, "{}", run.run_id);
        let query = Query::stream(run.clone(), "out");
        let records = read_all(place.store(), query).await.expect("records");
        assert!(records[0].data == noise(1, 1_000));
    }
    assert!(!is_there(place.store(), &followed).await, "nobody reads it any more");
    for (namespace, expected) in [("default", 1), ("short", 2)] {
        let wanted = ListRuns { namespace: namespace.into(), ..ListRuns::default() };
        assert_eq!(list(place.store(), wanted).await.len(), expected);
    }
    until("the count is without them", async || place.store().stats().runs == 3).await;
}

#[tokio::test]
async fn a_run_of_several_pieces_expires_with_all_of_them() {
    let mut place = Place::with(|options| options.retention = AT_ONCE);
    let (run, open) = (key("run"), key("open"));
    for n in 0..3 {
        append(place.store(), &run, batch("out", [noise(n, 30_000)])).await;
        append(place.store(), &open, batch("out", [n.to_string()])).await;
        place.flush().await;
    }
    close(place.store(), &run).await;
    look_again(&mut place, &open).await;
    assert!(!is_there(place.store(), &run).await);
    for _ in 0..2 {
        // Its last piece goes after all others.
        look_again(&mut place, &open).await;
        assert!(!is_there(place.store(), &run).await);
        assert_eq!(list(place.store(), ListRuns::default()).await.len(), 1);
    }
    until("their bytes are given back", async || place.bytes("packs") < 200_000).await;
    let records = read_all(place.store(), Query::stream(open.clone(), "out")).await;
    assert_eq!(records.expect("records").len(), 6);
    // The name is free.
    assert!(place.store().create_run(create("run")).await.expect("created").created);
    append(place.store(), &run, batch("out", ["new"])).await;
    look_again(&mut place, &open).await;
    let records = read_all(place.store(), Query::stream(run, "out")).await.expect("records");
    assert_eq!(records.len(), 1);
}

#[tokio::test]
async fn the_bytes_of_expired_runs_are_given_back() {
    let mut place = Place::with(|options| {
        options.retention = AT_ONCE;
        (options.slot_bytes_first, options.slot_bytes) = (4 << 20, 4 << 20);
        options.pack_bytes = 1 << 20;
    });
    for n in 0..30u64 {
        let run = key(format!("run {n}"));
        append(place.store(), &run, batch("out", [noise(n, 100_000)])).await;
        close(place.store(), &run).await;
    }
    append(place.store(), &key("open"), batch("out", ["x"])).await;
    look_again(&mut place, &key("open")).await;
    until("their bytes are given back", async || place.bytes("packs") < 200_000).await;
    until("the count is without them", async || place.store().stats().runs == 1).await;
    assert_eq!(list(place.store(), ListRuns::default()).await.len(), 1);
    assert_eq!(read_all(place.store(), Query::run(key("open"))).await.expect("run").len(), 3);
}

#[tokio::test]
async fn a_run_at_its_quota_takes_nothing_more_until_something_is_trimmed() {
    for retention in [
        Retention { records: Some(10), ..Retention::default() },
        Retention { bytes: Some(20_000), ..Retention::default() },
    ] {
        let mut place = Place::with(|options| options.retention = retention);
        let run = key("run");
        let add = async |store: &Store| {
            store.append(&run, batch("out", [noise(1, 1_800)]), IfAbsent::Create).await.map(drop)
        };
        let mut taken = 0;
        let refused = loop {
            match add(place.store()).await {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::Refused(Refusal::Quota { .. })), "{refused}");
        assert_eq!(taken, 10);
        place.flush().await;
        place.reopen().await;
        assert!(matches!(add(place.store()).await, Err(Error::Refused(Refusal::Quota { .. }))));
        let trim = braidlog::Trim { run_uid: None, stream: "out".into(), trim: Index(4) };
        place.store().trim(&run, trim).await.expect("trimmed");
        for _ in 0..4 {
            add(place.store()).await.expect("there is room again");
        }
        assert!(matches!(add(place.store()).await, Err(Error::Refused(Refusal::Quota { .. }))));
        close(place.store(), &run).await;
        let query = Query { allow_gap: true, ..Query::stream(run.clone(), "out") };
        let kept = read_all(place.store(), query).await.expect("records");
        assert_eq!(kept.len(), 10);
    }
}

#[tokio::test]
async fn a_run_that_trims_its_oldest_keeps_between_seven_eighths_of_the_limit_and_the_limit() {
    let limit = 160;
    for retention in [
        Retention { records: Some(limit), at_limit: AtLimit::TrimOldest, ..Retention::default() },
        Retention {
            // About as many records, by the bytes of their frames.
            bytes: Some(limit * 400),
            at_limit: AtLimit::TrimOldest,
            ..Retention::default()
        },
    ] {
        let mut place = Place::new();
        let mut create = create("run");
        create.retention = Some(retention);
        let run = RunKey { namespace: create.namespace.clone(), run_id: create.run_id.clone() };
        place.store().create_run(create).await.expect("created");
        let mut appended = 0u64;
        for round in 0..4 {
            for _ in 0..150 {
                let body = noise(appended, 300);
                append(place.store(), &run, batch("out", [body])).await;
                appended += 1;
                if 250 < appended {
                    demand_kept(place.store(), &run, &retention).await;
                }
            }
            if round % 2 == 0 {
                place.flush().await;
            }
            place.reopen().await;
            if 250 < appended {
                demand_kept(place.store(), &run, &retention).await;
            }
            let query = Query { allow_gap: true, ..Query::stream(run.clone(), "out") };
            for record in read_all(place.store(), query).await.expect("records") {
                assert!(record.data == noise(record.index, 300));
            }
        }
    }
}

/// Demands that what is kept is within the limit, and not far below.
async fn demand_kept(store: &Store, run: &RunKey, retention: &Retention) {
    let tail = store.check_tail(run, None, Some("out")).await.expect("tail");
    let stream = tail.stream.expect("the stream");
    let (kept, limit) = match (retention.records, retention.bytes) {
        (Some(limit), _) => (stream.tail.0 - stream.trim.0, limit),
        (_, Some(limit)) => {
            let bytes = store.get_run(run).await.expect("a run").bytes;
            (bytes * (tail.tail.0 - stream.trim.0) / tail.tail.0, limit)
        }
        _ => unreachable!("there is a limit"),
    };
    // A record more or less, since bytes are counted in whole records.
    let slack = if retention.bytes.is_some() { 1_000 } else { 1 };
    assert!(limit - limit / 8 <= kept + slack && kept <= limit + slack, "{kept} of {limit}");
}
