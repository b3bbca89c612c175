//! Sizes of the fixture, and watches: of the fixture, and of a store at work.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use braidlog::{Append, IfAbsent, NewRecord, RunKey, Store};
use serde_json::Value;

use crate::sample::{append, inspect, lines, options, run};

/// The fixture, and how many records it has.
const FIXTURE: (&str, u64) = ("tests/fixtures/v1", 43);

#[test]
fn stats_add_up_to_the_records_that_are_there() {
    let dir = Path::new(FIXTURE.0);
    let (status, said) = run(dir, &["--json", "runs", "--all", "--limit", "0"]);
    assert_eq!(status, 0, "{said}");
    let tails = lines(&said);
    let tails = tails.iter().map(|row| row["run"]["tail"].as_u64().expect("a number"));
    assert_eq!(tails.sum::<u64>(), FIXTURE.1);
    for by in ["task", "status", "namespace"] {
        let (status, said) = run(dir, &["--json", "stats", "--by", by, "--top", "0"]);
        let rows = lines(&said);
        let (stats, groups) = rows.split_last().expect("an answer");
        assert_eq!((status, &stats["records"]), (0, &FIXTURE.1.into()), "{said}");
        for (whole, part) in [("records", "records"), ("run_bytes", "bytes"), ("runs", "runs")] {
            let sum: u64 = groups.iter().map(|row| row[part].as_u64().expect("a number")).sum();
            assert_eq!(stats[whole], sum, "{by}: {said}");
        }
    }
}

#[test]
fn a_watch_ends_after_the_ticks_that_were_asked_for() {
    let args = ["--json", "watch", "--count", "2", "--interval", "1ms"];
    let (status, said) = run(Path::new(FIXTURE.0), &args);
    let rows = lines(&said);
    assert_eq!((status, rows.len()), (0, 2), "{said}");
    for row in rows {
        assert_eq!((&row["type"], &row["frames"]), (&"tick".into(), &20.into()), "{said}");
        assert_eq!((&row["slots"], &row["packs"]), (&7.into(), &1.into()), "{said}");
    }
}

/// Batches that are appended while a watch looks on.
const ROUNDS: u64 = 120;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_counts_every_record_once_although_slots_are_used_again_and_again() {
    let place = tempfile::tempdir().expect("folder");
    let store = Store::open(options(place.path())).expect("opens");
    append(&store, "run", "out", 0, 1).await;
    let mut watch = inspect(place.path(), &["--json", "watch", "--interval", "1ms"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut ticks = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut tick = || lines(&ticks.next().expect("it goes on").expect("text")).remove(0);
    let records = |tick: &Value| tick["records"].as_u64().expect("a number");
    let mut wanted = records(&tick());
    // Several times the journal, whose slots are of 64 KiB; each time less than the rest of a slot.
    for round in 0..ROUNDS {
        let body = |n: u8| NewRecord::new(vec![n ^ round as u8; 6_000]);
        let bodies = (0..3).map(body).collect();
        let append = Append { stream: "out".into(), records: bodies, ..Append::default() };
        store.append(&RunKey::new("run"), append, IfAbsent::Refuse).await.expect("appended");
        wanted += 3;
        let mut last = tick();
        while records(&last) < wanted {
            last = tick();
        }
        assert_eq!(records(&last), wanted, "round {round}: {last}");
        store.flush().await.expect("flushed");
    }
    let journal = store.stats().disk.journal_bytes;
    assert!(2 * journal < ROUNDS * 18_000, "slots of {journal} bytes were not used again");
    watch.kill().expect("ends");
    watch.wait().expect("ended");
    store.close().await.expect("closes");
}
