//! Runs on the command line: labels, quotas, filters, deletion; trims, and the numbers of a store.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Server, json_lines, refused, server, thread};

pub(super) fn json(server: &Server, args: &[&str]) -> Vec<Value> {
    let ended = server.run(&[args, &["--json"]].concat()).clean();
    let lines = json_lines(ended.text());
    assert!(lines.iter().all(|line| line["v"] == 1), "{lines:?}");
    lines
}

fn listed(server: &Server, args: &[&str]) -> Vec<String> {
    let lines = json(server, &[&["run", "list"], args].concat());
    lines.iter().map(|line| line["run"]["run_id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_run_is_created_with_labels_and_a_quota() {
    let (_folder, server) = server();
    let labels = ["--tag", "a", "--tag", "b", "--batch", "night", "--task", "t"];
    let retain = ["--retain-age", "7d", "--retain-bytes", "1GiB", "--retain-records", "2"];
    let create = [&["run", "create", "r"], &labels[..], &retain].concat();
    let created = &json(&server, &create)[0]["run"];
    assert_eq!((&created["tags"], &created["batch_id"]), (&json!(["a", "b"]), &json!("night")));
    let retention = json!({
        "age_ms": 7 * 86_400_000u64, "bytes": 1u64 << 30, "records": 2, "at_limit": "reject"
    });
    assert_eq!(created["retention"], retention);
    assert_eq!(server.run(&create).clean().text(), "exists already: r\n");
    let other = [&create[..], &["--at-limit", "trim-oldest"]].concat();
    refused(&server.run(&other), 4, &["other parameters"]);
    let event = &json(&server, &["read", "r"])[0]["event"]["run_created"];
    assert_eq!((&event["tags"], &event["retention"]), (&json!(["a", "b"]), &retention));

    server.run_with(&["append", "r", "s"], b"1\n2\n").clean();
    refused(&server.run_with(&["append", "r", "s"], b"3\n"), 4, &["2 records", "braidlog trim"]);
    let trimmed = server.run(&["trim", "r", "s", "--below", "1"]).clean();
    assert_eq!(trimmed.text(), "stream s of run r starts at index 1\n");
    server.run_with(&["append", "r", "s"], b"3\n").clean();
    let get = server.run(&["run", "get", "r"]).clean();
    for words in [
        "tags        a, b",
        "batch       night",
        "1w after close, at most 1.0 GiB, at most 2 records (reject)",
    ] {
        assert!(get.text().contains(words), "{words:?} in {}", get.text());
    }

    for (args, words) in [
        (&["--at-limit", "reject"][..], "--retain-bytes"),
        (&["--retain-age", "7"], "such as 7d"),
        (&["--retain-bytes", "1XB"], "MiB"),
        (&["--retain-records", "0"], "retention.records"),
        (&["--tag", ""], "tags"),
    ] {
        refused(&server.run(&[&["run", "create", "x"], args].concat()), 2, &[words]);
    }
}

#[test]
fn runs_are_listed_by_what_they_are_newest_first() {
    let (_folder, server) = server();
    let create = |run: &str, args: &[&str]| {
        // Each at a moment of its own.
        thread::sleep(Duration::from_millis(2));
        server.run(&[&["run", "create", run], args].concat()).clean();
    };
    create("a-1", &["--tag", "x", "--task", "build"]);
    create("a-2", &["--tag", "x", "--tag", "y", "--batch", "night"]);
    create("b-1", &["--tag", "y", "--batch", "night", "--task", "build"]);
    server.run(&["run", "close", "a-1", "--outcome", "failed"]).clean();
    for (args, expected) in [
        (&[][..], &["b-1", "a-2", "a-1"][..]),
        (&["--limit", "2"], &["b-1", "a-2"]),
        (&["--prefix", "a"], &["a-2", "a-1"]),
        (&["--tag", "x", "--tag", "y"], &["a-2"]),
        (&["--batch", "night"], &["b-1", "a-2"]),
        (&["--task", "build", "--tag", "x"], &["a-1"]),
        (&["--status", "open"], &["b-1", "a-2"]),
        (&["--status", "failed", "--status", "completed"], &["a-1"]),
        (&["--status", "crashed"], &[]),
        (&["--created-after", "1h-ago"], &["b-1", "a-2", "a-1"]),
        (&["--created-before", "1h-ago"], &[]),
        (
            &["--created-after", "2024-02-29 10:00Z", "--created-before", "9999-12-31"],
            &["b-1", "a-2", "a-1"],
        ),
    ] {
        assert_eq!(listed(&server, args), expected, "{args:?}");
    }
    let table = server.run(&["run", "list", "--tag", "y"]).clean();
    let rows: Vec<_> = table.text().lines().map(|row| row.split_whitespace().collect()).collect();
    let rows: Vec<Vec<&str>> = rows;
    assert_eq!(rows[0][..4], ["RUN", "STATUS", "TASK", "TAGS"]);
    assert_eq!((rows[1][0], rows[1][3], rows[2][2]), ("b-1", "y", "x,y"));
    refused(&server.run(&["run", "list", "--created-after", "then"]), 2, &["2h-ago"]);
    refused(&server.run(&["run", "list", "--status", "gone"]), 2, &["timed_out"]);
}

#[test]
fn nothing_is_deleted_unless_it_is_said_twice() {
    let (_folder, server) = server();
    server.run_with(&["append", "a", "s"], b"1\n2\n").clean();
    server.run(&["run", "create", "b"]).clean();
    refused(&server.run(&["run", "delete", "a"]), 2, &["--yes", "--dry-run"]);
    refused(&server.run(&["run", "delete", "--yes"]), 2, &["RUN"]);
    refused(&server.run(&["run", "delete", "a", "--yes", "--dry-run"]), 2, &["--dry-run"]);
    let dry = server.run(&["run", "delete", "a", "b", "--dry-run"]).clean();
    assert!(dry.text().starts_with("would delete a (executing, 3 records, "), "{}", dry.text());
    let dry = &json(&server, &["run", "delete", "a", "--dry-run"])[0];
    assert_eq!((&dry["dry_run"], &dry["run"]["run_id"]), (&json!(true), &json!("a")));
    assert_eq!(listed(&server, &[]).len(), 2, "so far nothing happened");

    let deleted = server.run(&["run", "delete", "a", "--yes"]).clean();
    assert!(deleted.text().starts_with("deleted a (3 records, "), "{}", deleted.text());
    assert_eq!(listed(&server, &[]), ["b"]);
    let again = server.run(&["run", "delete", "a", "--yes"]).clean();
    assert_eq!(again.text(), "was deleted already: a\n");
    let again = &json(&server, &["run", "delete", "a", "--yes"])[0];
    assert_eq!((&again["run_id"], &again["deduplicated"]), (&json!("a"), &json!(true)));
    for args in
        [&["read", "a", "s"][..], &["run", "get", "a"], &["run", "delete", "a", "--dry-run"]]
    {
        refused(&server.run(args), 3, &["\"a\" was deleted", "braidlog run create"]);
    }
    refused(&server.run_with(&["append", "a", "s"], b"3\n"), 3, &["was deleted"]);

    server.run(&["run", "create", "a"]).clean();
    server.run_with(&["append", "a", "s"], b"new\n").clean();
    assert_eq!(server.run(&["read", "a", "s"]).clean().text(), "new\n");
}

#[test]
fn what_cannot_be_deleted_is_told_and_passed_over() {
    let (_folder, server) = server();
    for run in ["a", "c"] {
        server.run(&["run", "create", run]).clean();
    }
    let ended = server.run(&["run", "delete", "a", "b", "c", "--yes"]);
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.text().lines().count(), 2, "{}", ended.text());
    for words in ["run not found: \"b\"", "1 of 3 runs could not be deleted"] {
        assert!(ended.stderr.contains(words), "{words:?} in {}", ended.stderr);
    }
    assert!(listed(&server, &[]).is_empty());
}

#[test]
fn a_tail_of_a_run_that_is_deleted_ends_with_that() {
    let (_folder, server) = server();
    server.run_with(&["append", "r", "s"], b"1\n").clean();
    let mut tail = server.spawn(&["tail", "r", "s"]);
    let mut first = String::new();
    std::io::BufRead::read_line(&mut tail.stdout(), &mut first).expect("pipe");
    assert_eq!(first, "1\n");
    server.run(&["run", "delete", "r", "--yes"]).clean();
    let ended = tail.end();
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("was deleted"), "{}", ended.stderr);
}

#[test]
fn a_trim_says_what_holds() {
    let (_folder, server) = server();
    server.run_with(&["append", "r", "s"], b"1\n2\n3\n").clean();
    let trim = |below: &str| server.run(&["trim", "r", "s", "--below", below]);
    assert_eq!(trim("2").clean().text(), "stream s of run r starts at index 2\n");
    assert_eq!(trim("1").clean().text(), "stream s of run r starts at index 2\n", "never back");
    refused(&trim("4"), 4, &["beyond the tail, which is 3"]);
    let line = &json(&server, &["trim", "r", "s", "--below", "3"])[0];
    assert_eq!(*line, json!({"v": 1, "run_id": "r", "stream": "s", "trim": 3}));
    refused(&server.run(&["trim", "r", "t", "--below", "0"]), 3, &["stream not found: \"t\""]);
    refused(&server.run(&["trim", "x", "t", "--below", "0"]), 3, &["run not found"]);
    refused(&server.run(&["trim", "r", "s"]), 2, &["--below"]);
    refused(&server.run(&["read", "r", "s", "--from", "0"]), 4, &["trimmed"]);
}

#[test]
fn the_numbers_of_a_store_are_shown() {
    let (_folder, server) = server();
    server.run_with(&["append", "r", "s"], b"1\n2\n3\n").clean();
    let stats = &json(&server, &["stats"])[0]["stats"];
    assert_eq!((&stats["runs"], &stats["records"]), (&json!(1), &json!(4)));
    assert!(0 < stats["disk"]["free_bytes"].as_u64().expect("a number"), "{stats}");
    assert!(0 < stats["journal_slots"]["used"].as_u64().expect("a number"), "{stats}");
    let table = server.run(&["stats"]).clean();
    for words in ["NUMBER", "1 in memory", "slots:", "disk free", "frame cache", "of 256.0 MiB"] {
        assert!(table.text().contains(words), "{words:?} in {}", table.text());
    }
    let widths: Vec<_> = table.text().lines().map(|row| row.find("  ")).collect();
    assert!(widths.iter().all(Option::is_some), "{}", table.text());
    let away = ["stats", "--server", "http://127.0.0.1:1", "--patience", "0"];
    refused(&server.run(&away), 5, &["braidlog serve"]);
}
