//! A run that was copied piece by piece is one piece when it is closed, and reads the same.

use braidlog::Query;

use super::place::{Place, append, batch, close, key, noise, read_run, until};

#[tokio::test]
async fn a_closed_run_of_many_pieces_becomes_one_and_the_old_ones_go() {
    let mut place = Place::with(|options| options.pack_bytes = 4 << 20);
    let (run, other) = (key("run"), key("other"));
    for n in 0..6u64 {
        for part in 0..5 {
            let body = noise(n * 5 + part, 3_000);
            append(place.store(), &run, batch(["a", "b"][part as usize % 2], [body])).await;
        }
        place.flush().await;
    }
    let before = read_run(place.store(), &run).await;
    assert_eq!(before.len(), 31);
    append(place.store(), &other, batch("out", ["stays"])).await;
    close(place.store(), &run).await;
    place.flush().await;
    // One piece is in one file; of the others nothing is left.
    until("the old pieces go", async || {
        place.flush().await;
        place.files("packs").len() == 1
    })
    .await;
    let stats = place.store().stats();
    assert_eq!((stats.disk.packs, stats.disk.dead_bytes), (1, 0), "{stats:?}");
    for _ in 0..2 {
        let records = read_run(place.store(), &run).await;
        assert!(records[..31] == before);
        assert_eq!((records.len(), read_run(place.store(), &other).await.len()), (32, 2));
        let tail = place.store().check_tail(&run, None, None).await.expect("tail");
        assert_eq!((tail.tail.0, tail.outcome.is_some()), (32, true));
        place.reopen().await;
    }
    let stream = place.store().read(Query::stream(run, "b")).await.expect("page");
    assert_eq!(stream.records.count, 12);
}

#[tokio::test]
async fn pieces_share_packs_with_other_runs_and_those_are_not_disturbed() {
    let mut place = Place::new();
    let runs: Vec<_> = (0..8).map(|n| key(format!("run {n}"))).collect();
    for piece in 0..7u64 {
        for (n, run) in runs.iter().enumerate() {
            append(place.store(), run, batch("out", [noise(100 * piece + n as u64, 2_000)])).await;
        }
        place.flush().await;
        if piece == 3 {
            place.reopen().await;
        }
    }
    let before = place.bytes("packs");
    for run in &runs[..6] {
        close(place.store(), run).await;
    }
    place.flush().await;
    until("old pieces go", async || place.store().stats().disk.dead_bytes == 0).await;
    assert!(place.bytes("packs") <= before + (64 << 10));
    for _ in 0..2 {
        for (n, run) in runs.iter().enumerate() {
            let records = read_run(place.store(), run).await;
            let bodies = records.iter().filter(|record| record.event.is_none());
            let expected = (0..7).map(|piece| noise(100 * piece + n as u64, 2_000));
            assert!(bodies.map(|record| &record.data[..]).eq(expected), "{}", run.run_id);
        }
        place.reopen().await;
    }
}
