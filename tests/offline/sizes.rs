//! Sizes, and a watch, of the fixture.

use std::path::Path;

use crate::sample::{lines, run};

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
