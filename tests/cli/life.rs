//! Every command of a run's life, and how each says no.

use std::{fs, io::BufRead};

use serde_json::{Value, json};

use super::{json_lines, refused, runs::json, server};

#[test]
fn a_run_is_claimed_kept_and_given_back() {
    let (_folder, server) = server();
    let claim = ["claim", "t", "u", "--worker", "w"];
    refused(&server.run(&claim), 3, &["no run of t, u is queued"]);
    server.run(&["run", "create", "low", "--task", "t", "--priority", "-1"]).clean();
    server.run(&["run", "create", "high", "--task", "u", "--payload", "{}"]).clean();
    let claimed = &json(&server, &claim)[0];
    assert_eq!((&claimed["run"]["run_id"], &claimed["lease_epoch"]), (&json!("high"), &json!(1)));
    assert_eq!((&claimed["attempt"], &claimed["resumed"]), (&json!(1), &json!(false)));
    assert_eq!((&claimed["term_ms"], &claimed["owed"]), (&json!(30_000), &json!([])));
    assert_eq!(claimed["run"]["payload"], "{}");
    let lease = json!({"epoch": 1, "worker": "w", "term_ms": 30_000});
    assert_eq!(claimed["run"]["lease"], lease);
    assert_eq!(server.run(&claim).clean().text(), "w has low by lease 1, attempt 1\n");
    let waiting = server.spawn(&["claim", "t", "--worker", "w", "--wait", "30s"]);

    let renew = server.run(&["lease", "renew", "low", "--lease-epoch", "1"]).clean();
    assert_eq!(renew.text(), "renewed lease 1 of low\n");
    let renewed = &json(&server, &["lease", "renew", "low", "--lease-epoch", "1"])[0];
    assert_eq!(*renewed, json!({"v": 1, "run_id": "low", "lease_epoch": 1, "term_ms": 30_000}));
    let release = ["lease", "release", "low", "--lease-epoch", "1", "--attempt-error", "no route"];
    assert_eq!(server.run(&release).clean().text(), "released low: queued\n");
    assert_eq!(waiting.end().clean().text(), "w has low by lease 2, attempt 2\n");
    refused(&server.run(&["lease", "renew", "low", "--lease-epoch", "1"]), 4, &["its newest is 2"]);
    let delay = ["lease", "release", "low", "--lease-epoch", "2", "--retry-at", "1h"];
    assert_eq!(json(&server, &delay)[0]["status"], "delayed");

    let acquire = ["lease", "acquire", "high", "--worker", "x", "--term", "5s"];
    refused(&server.run(&acquire), 4, &["worker \"w\" has run \"high\"", "--takeover"]);
    let taken = server.run(&[&acquire[..], &["--takeover"]].concat()).clean();
    assert_eq!(taken.text(), "x has high by lease 2, attempt 2\n");
    refused(&server.run(&["run", "close", "high"]), 4, &["was claimed", "--lease-epoch"]);
    let close = ["run", "close", "high", "--lease-epoch", "2"];
    assert!(server.run(&close).clean().text().starts_with("closed high completed"));

    refused(&server.run(&["claim", "--worker", "w"]), 2, &["TASK"]);
    refused(&server.run(&["claim", "t"]), 2, &["--worker"]);
    refused(&server.run(&["claim", "t", "--worker", "w", "--term", "1ms"]), 2, &["term_ms"]);
    let missing = ["lease", "acquire", "nowhere", "--worker", "w"];
    refused(&server.run(&missing), 3, &["run not found: \"nowhere\""]);
    let both = ["lease", "release", "low", "--lease-epoch", "2", "--retry-at", "1h", "--suspend"];
    refused(&server.run(&both), 2, &["--suspend"]);
}

#[test]
fn a_run_says_what_it_works_on_when_and_how_often() {
    let (folder, server) = server();
    let payload = folder.path().join("payload");
    fs::write(&payload, b"\xff\n").expect("file");
    let payload = payload.to_str().expect("UTF-8");
    server.run(&["run", "create", "top", "--task", "t"]).clean();
    let names = ["run", "create", "r", "--task", "t", "--parent", "top", "--root", "top"];
    let when = ["--delay", "2099-01-02T03:04Z", "--ttl", "1h", "--max-duration", "2h"];
    let what = ["--payload-file", payload, "--payload-type", "x/y", "--metadata", "{\"a\":[1]}"];
    let how = ["--max-attempts", "7", "--priority", "-3", "--run-version", "v1", "--is-test"];
    let created = &json(&server, &[&names[..], &when, &what, &how].concat())[0]["run"];
    for (field, value) in [
        ("payload_base64", json!("/wo=")),
        ("payload_type", json!("x/y")),
        ("parent_run_id", json!("top")),
        ("root_run_id", json!("top")),
        ("status", json!("delayed")),
        ("delay_until_ms", json!(4_071_006_240_000u64)),
        ("ttl_ms", json!(3_600_000)),
        ("max_duration_ms", json!(7_200_000)),
        ("metadata", json!({"a": [1]})),
        ("max_attempts", json!(7)),
        ("priority", json!(-3)),
        ("version", json!("v1")),
        ("is_test", json!(true)),
    ] {
        assert_eq!(created[field], value, "{field}");
    }
    let get = server.run(&["run", "get", "r"]).clean();
    for words in ["delayed to  2099-01-02 03:04:00Z", "parent      top", "metadata    {\"a\":[1]}"]
    {
        assert!(get.text().contains(words), "{words:?} in {}", get.text());
    }
    let children = json(&server, &["run", "list", "--parent", "top"]);
    assert_eq!((children.len(), &children[0]["run"]["run_id"]), (1, &json!("r")));

    let keyed = ["run", "create", "one", "--idempotency-key", "k", "--idempotency-ttl", "1d"];
    server.run(&keyed).clean();
    let again = server.run(&["run", "create", "two", "--idempotency-key", "k"]).clean();
    assert_eq!(again.text(), "exists already: one\n");
    refused(&server.run(&["run", "get", "two"]), 3, &["run not found"]);

    for (args, words) in [
        (&["--metadata", "[1]"][..], "metadata"),
        (&["--delay", "soon"], "such as 10m"),
        (&["--payload", "x", "--payload-file", "y"], "--payload-file"),
        (&["--idempotency-ttl", "1d"], "--idempotency-key"),
    ] {
        refused(&server.run(&[&["run", "create", "x"], args].concat()), 2, &[words]);
    }
    let nowhere = ["run", "create", "x", "--payload-file", "/nowhere/at/all"];
    refused(&server.run(&nowhere), 1, &["/nowhere/at/all"]);
}

#[test]
fn a_run_is_labeled_put_off_and_stopped() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r", "--task", "t", "--pending-version"]).clean();
    assert_eq!(server.run(&["run", "tag", "r", "a", "b"]).clean().text(), "tagged r\n");
    let update = ["run", "update", "r", "--usage", "90s", "--cost-cents", "1.25"];
    assert_eq!(server.run(&update).clean().text(), "updated r\n");
    let status = &json(&server, &["run", "update", "r", "--run-version", "v2"])[0]["status"];
    assert_eq!(*status, "queued", "it waited for a version");
    let got = &json(&server, &["run", "get", "r"])[0]["run"];
    assert_eq!(got["tags"], json!(["a", "b"]));
    assert_eq!(got["usage"]["usage_duration_ms"], 90_000);
    assert_eq!((&got["usage"]["cost_in_cents"], &got["version"]), (&json!(1.25), &json!("v2")));
    let before = &json(&server, &["run", "get", "r", "--at-seq", "1"])[0]["run"];
    assert_eq!((&before["tail"], &before["tags"]), (&json!(1), &json!(null)));
    let now = server.run(&["run", "get", "r", "--at-time", "2099-01-01"]).clean();
    assert!(now.text().contains("tags        a, b"), "{}", now.text());
    refused(&server.run(&["run", "get", "r", "--at-seq", "99"]), 4, &["beyond the tail"]);

    let off = server.run(&["run", "reschedule", "r", "2099-01-01"]).clean();
    assert_eq!(off.text(), "r starts at 2099-01-01 00:00:00Z\n");
    assert_eq!(json(&server, &["run", "reschedule", "r", "1ms"])[0]["run"]["run_id"], "r");
    server.run(&["claim", "t", "--worker", "w", "--wait", "30s"]).clean();
    refused(&server.run(&["run", "reschedule", "r", "1h"]), 4, &["not queued but dequeued"]);
    let cancel = ["run", "cancel", "r", "--reason", "enough", "--grace", "10m"];
    let asked = server.run(&cancel).clean();
    assert!(asked.text().starts_with("asked: r is dequeued, and closed by "), "{}", asked.text());
    let again = server.run(&cancel).clean();
    assert!(again.text().starts_with("was asked already: r is"), "{}", again.text());
    let renewed = server.run(&["lease", "renew", "r", "--lease-epoch", "1"]).clean();
    assert!(renewed.text().ends_with(": enough\n"), "{}", renewed.text());
    let close = ["commit", "r", "--lease-epoch", "1", "--close", "canceled"];
    server.run(&close).clean();
    assert_eq!(server.run(&cancel).clean().text(), "was canceled already: r\n");
    server.run(&["run", "create", "idle"]).clean();
    let canceled = &json(&server, &["run", "cancel", "idle"])[0];
    assert_eq!(
        (&canceled["closed"], &canceled["run"]["status"]),
        (&json!(true), &json!("canceled"))
    );

    refused(&server.run(&["run", "update", "r"]), 2, &["nothing to say"]);
    refused(&server.run(&["run", "tag", "r"]), 2, &["TAG"]);
    refused(&server.run(&["run", "tag", "x", "a"]), 3, &["run not found: \"x\""]);
    refused(&server.run(&["run", "cancel", "idle", "--grace", "0s"]), 2, &["--grace"]);
    server.run(&["run", "create", "done"]).clean();
    server.run(&["run", "close", "done"]).clean();
    refused(&server.run(&["run", "cancel", "done"]), 4, &["is closed (completed)"]);
}

#[test]
fn metadata_is_changed_in_steps() {
    let (_folder, server) = server();
    server.run(&["run", "create", "p"]).clean();
    server.run(&["run", "create", "r", "--parent", "p"]).clean();
    assert_eq!(server.run(&["meta", "get", "r"]).clean().text(), "{}\n");
    for (args, document) in [
        (&["set", "r", "stage", "\"build\""][..], r#"{"stage":"build"}"#),
        (&["set", "r", "stage", "a \"b\"", "--text"], r#"{"stage":"a \"b\""}"#),
        (&["append", "r", "list", "-1"], r#"{"stage":"a \"b\"","list":[-1]}"#),
        (&["delete", "r", "stage"], r#"{"list":[-1]}"#),
        (&["append", "r", "list", "x", "--text"], r#"{"list":[-1,"x"]}"#),
        (&["remove", "r", "list", "-1"], r#"{"list":["x"]}"#),
        (&["increment", "r", "n"], r#"{"list":["x"],"n":1}"#),
        (&["increment", "r", "n", "-3"], r#"{"list":["x"],"n":-2}"#),
        (&["update", "r", r#"{"a":{"b":1}}"#], r#"{"a":{"b":1}}"#),
        (&["set", "r", "$.a.b", "[]"], r#"{"a":{"b":[]}}"#),
    ] {
        let ended = server.run(&[&["meta"], args].concat()).clean();
        assert_eq!(ended.text(), format!("{document}\n"), "{args:?}");
    }
    let changes = r#"[{"action":"set","key":"x","value":null},
                      {"action":"delete","key":"a"},
                      {"action":"increment","key":"n","value":2}]"#;
    let applied = server.run_with(&["meta", "apply", "r"], changes.as_bytes()).clean();
    assert_eq!(applied.text(), "{\"x\":null,\"n\":2}\n");
    let line = &json(&server, &["meta", "get", "r"])[0];
    assert_eq!((&line["metadata"], &line["run_id"]), (&json!({"x": null, "n": 2}), &json!("r")));
    assert_eq!(server.run(&["meta", "get", "r", "n"]).clean().text(), "2\n");
    assert_eq!(json(&server, &["meta", "get", "r", "n"])[0]["value"], 2);
    server.run(&["meta", "increment", "r", "children", "--of", "parent"]).clean();
    let told = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        server.run(&["meta", "get", "p"]).clean().text() == "{\"children\":1}\n"
    });
    assert!(told, "what is for the parent arrives there");

    refused(&server.run(&["meta", "get", "r", "y"]), 3, &["has no key \"y\""]);
    refused(&server.run(&["meta", "set", "r", "k", "no json"]), 2, &["not JSON"]);
    refused(&server.run(&["meta", "increment", "r", "k", "x"]), 2, &["metadata"]);
    refused(&server.run(&["meta", "update", "r", "[]"]), 2, &["no object"]);
    refused(&server.run_with(&["meta", "apply", "r"], b"{}"), 2, &["cannot be read"]);
    let unknown = br#"[{"action":"drop","key":"x"}]"#;
    refused(&server.run_with(&["meta", "apply", "r"], unknown), 2, &["drop"]);
    refused(&server.run(&["meta", "get", "nowhere"]), 3, &["run not found"]);
}

#[test]
fn a_turn_is_committed_whole_and_once() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r", "--task", "t"]).clean();
    server.run_with(&["send", "r", "in"], b"a\nb\nc\n").clean();
    server.run(&["claim", "t", "--worker", "w"]).clean();
    let commit = [
        "commit",
        "r",
        "--lease-epoch",
        "1",
        "--append",
        "out=one",
        "--append",
        "out=two=2",
        "--ack",
        "in=0..2",
        "--set",
        "k=[1]",
        "--tag",
        "x",
        "--request-id",
        "turn-1",
    ];
    let done = server.run(&commit).clean();
    assert!(done.text().starts_with("committed "), "{}", done.text());
    assert!(done.text().ends_with(": executing\n"), "{}", done.text());
    let again = &json(&server, &commit)[0];
    assert_eq!((&again["deduplicated"], &again["metadata"]), (&json!(true), &json!({"k": [1]})));
    assert_eq!(again["spans"][0]["first_index"], 0);
    assert_eq!(server.run(&["read", "r", "out"]).clean().text(), "one\ntwo=2\n");
    let peek = server.run(&["peek", "r", "in"]).clean();
    assert_eq!(peek.text(), "c\n");

    let document = json!({
        "appends": [
            {"stream": "out", "data_base64": "/w==", "id": "i", "headers": {"h": "v"}},
            {"stream": "log", "data": "x"}
        ],
        "acks": [{"stream": "in", "from": 2}],
        "metadata": [{"action": "increment", "key": "n", "value": 1}],
        "tags": ["y"],
        "usage": {"usage_duration_ms": 5},
        "waits": [{"wait_id": "w", "until_ms": 4_000_000_000_000u64}],
    });
    let args = ["commit", "r", "--document", "-", "--lease-epoch", "1", "--suspend", "--json"];
    let ended = server.run_with(&args, document.to_string().as_bytes()).clean();
    assert_eq!(json_lines(ended.text())[0]["status"], "waiting");
    let got = &json(&server, &["run", "get", "r"])[0]["run"];
    assert_eq!((&got["suspended"], &got["tags"]), (&json!(true), &json!(["x", "y"])));
    assert_eq!(got["waits"][0]["for"], json!({"until_ms": 4_000_000_000_000u64}));
    let record = &json(&server, &["read", "r", "out", "--from", "2"])[0];
    assert_eq!((&record["data_base64"], &record["id"]), (&json!("/w=="), &json!("i")));
    assert_eq!(record["headers"][0], json!({"name": "h", "value": "v"}));

    let resumed = server.run(&["commit", "r", "--cancel-wait", "w"]).clean();
    assert!(resumed.text().ends_with(": queued\n"), "{}", resumed.text());
    let claimed = server.run(&["claim", "t", "--worker", "w"]).clean();
    assert_eq!(claimed.text(), "w has r by lease 2, attempt 1, resumed\n");
    refused(&server.run(&commit[..6]), 4, &["its newest is 2"]);
    let end = [
        "commit",
        "r",
        "--lease-epoch",
        "2",
        "--close",
        "failed",
        "--error-message",
        "broken",
        "--output",
        "so far",
        "--append",
        "out=last",
    ];
    assert!(server.run(&end).clean().text().ends_with(": failed\n"));
    let ended = &json(&server, &["run", "get", "r"])[0]["run"]["end"];
    assert_eq!(
        (&ended["output"], &ended["error"]["message"]),
        (&json!("so far"), &json!("broken"))
    );

    refused(&server.run(&["commit", "r"]), 2, &["nothing to commit"]);
    refused(&server.run(&["commit", "r", "--suspend", "--close", "failed"]), 2, &["--close"]);
    refused(&server.run(&["commit", "r", "--output", "x"]), 2, &["--close"]);
    refused(&server.run(&["commit", "r", "--append", "x"]), 2, &["`=`"]);
    refused(&server.run(&["commit", "r", "--ack", "in=x"]), 2, &["--ack x", "3..8"]);
    refused(&server.run(&["commit", "r", "--append", "out=late"]), 4, &["is closed (failed)"]);
    refused(&server.run(&["commit", "x", "--tag", "y"]), 3, &["run not found"]);
    for (document, word) in [
        ("[", "cannot be used"),
        (r#"{"append":[]}"#, "append"),
        (r#"{"appends":[{"stream":"s"}]}"#, "data_base64"),
        (r#"{"waits":[{"wait_id":"w"}]}"#, "until_ms"),
        (r#"{"release":{},"close":{"outcome":"failed"}}"#, "releases and closes"),
    ] {
        let args = ["commit", "r", "--document", "-"];
        refused(&server.run_with(&args, document.as_bytes()), 2, &[word]);
    }
}

#[test]
fn a_wait_token_is_completed_from_outside_and_the_run_goes_on() {
    let (folder, server) = server();
    let create = ["wait-token", "create", "--timeout", "1d", "--tag", "x"];
    let token = server.run(&create).clean().text().trim_end().to_owned();
    assert!(token.starts_with("token_"), "{token}");
    server.run(&["run", "create", "r", "--task", "t"]).clean();
    server.run(&["claim", "t", "--worker", "w"]).clean();
    let wait = format!("approval={token}");
    let suspend = ["commit", "r", "--lease-epoch", "1", "--wait-token", &wait, "--suspend"];
    assert!(server.run(&suspend).clean().text().ends_with(": waiting\n"));
    let value = folder.path().join("value");
    fs::write(&value, "yes").expect("file");
    let value = value.to_str().expect("UTF-8");
    let complete = ["wait-token", "complete", &token, "--value-file", value, "--value-type", "a/b"];
    assert_eq!(server.run(&complete).clean().text(), "yes\n");
    let late = &json(&server, &["wait-token", "complete", &token, "--value", "no"])[0];
    assert_eq!((&late["deduplicated"], &late["token"]["value"]), (&json!(true), &json!("yes")));
    let claimed = &json(&server, &["claim", "t", "--worker", "w", "--wait", "30s"])[0];
    assert_eq!(claimed["resumed"], true);
    let settled = &claimed["run"]["waits"][0]["settled"];
    assert_eq!((&settled["result"], &settled["value"]), (&json!("completed"), &json!("yes")));
    let get = server.run(&["wait-token", "get", &token]).clean();
    for words in ["status      completed", "tags        x", "value       yes"] {
        assert!(get.text().contains(words), "{words:?} in {}", get.text());
    }

    let keyed = ["wait-token", "create", "mine", "--idempotency-key", "k"];
    assert_eq!(json(&server, &keyed)[0]["created"], true);
    assert_eq!(
        json(&server, &["wait-token", "create", "--idempotency-key", "k"])[0]["created"],
        false
    );
    let listed = json(&server, &["wait-token", "list", "--status", "waiting"]);
    assert_eq!((listed.len(), &listed[0]["token"]["token_id"]), (1, &json!("mine")));
    let table = server.run(&["wait-token", "list"]).clean();
    let rows: Vec<&str> = table.text().lines().collect();
    assert!(rows[0].starts_with("TOKEN ") && rows[1].starts_with("mine ") && rows.len() == 3);
    assert_eq!(server.run(&["wait-token", "list", "--tag", "y"]).clean().text(), "");

    refused(&server.run(&["wait-token", "get", "x"]), 3, &["wait token not found: \"x\""]);
    refused(&server.run(&["wait-token", "complete", "r"]), 3, &["wait token not found: \"r\""]);
    let short = ["wait-token", "create", "short", "--timeout", "1ms"];
    server.run(&short).clean();
    let timed_out = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        json(&server, &["wait-token", "get", "short"])[0]["token"]["status"] == "timed_out"
    });
    assert!(timed_out);
    refused(&server.run(&["wait-token", "complete", "short"]), 4, &["closed (timed_out)"]);
}

#[test]
fn a_batch_is_filled_once_and_sealed() {
    let (_folder, server) = server();
    refused(&server.run(&["batch", "get", "b"]), 3, &["batch not found: \"b\""]);
    refused(
        &server.run_with(&["batch", "add", "b"], b"{\"run_id\":\"x\"}"),
        3,
        &["batch not found"],
    );
    let create = ["batch", "create", "b", "--run-count", "2", "--tag", "x"];
    assert_eq!(server.run(&create).clean().text(), "created b\n");
    assert_eq!(server.run(&create).clean().text(), "exists already: b\n");
    let items = br#"{"run_id":"b-0","task":"t","payload":{"to":"ada"},"tags":["y"],"priority":2}

{"run_id":"b-1","task":"t","payload":"text","number":7}
"#;
    let add = ["batch", "add", "b"];
    assert_eq!(server.run_with(&add, items).clean().text(), "added 2 to b, 0 were there\n");
    assert_eq!(server.run_with(&add, items).clean().text(), "added 0 to b, 2 were there\n");
    let run = &json(&server, &["run", "get", "b-0"])[0]["run"];
    assert_eq!((&run["batch_id"], &run["payload"]), (&json!("b"), &json!("{\"to\":\"ada\"}")));
    assert_eq!((&run["payload_type"], &run["priority"]), (&json!("application/json"), &json!(2)));
    let seal = ["batch", "seal", "b", "--expect", "3"];
    refused(&server.run(&seal), 4, &["batch \"b\" has 2 items"]);
    let sealed = server.run(&["batch", "seal", "b", "--expect", "2"]).clean();
    assert_eq!(sealed.text(), "sealed b: 2 of 2 items, sealed\n");
    let batch = &json(&server, &["batch", "get", "b"])[0]["batch"];
    assert_eq!((&batch["items"], &batch["sealed"]), (&json!(2), &json!(true)));
    let more = server.run_with(&["batch", "add", "b"], b"{\"run_id\":\"z\",\"number\":8}");
    refused(&more, 4, &["batch \"b\" is sealed"]);
    let bad = server.run_with(&["batch", "add", "b"], b"{\"run_id\":\"z\"}\n{\"x\":1}\n");
    refused(&bad, 2, &["line 2 cannot be read", "nothing was added"]);
}

#[test]
fn a_run_is_watched_to_its_end() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r", "--task", "t"]).clean();
    let mut watch = server.spawn(&["watch", "r"]);
    let mut stdout = watch.stdout();
    let mut line = String::new();
    stdout.read_line(&mut line).expect("pipe");
    assert!(line.ends_with("  r  queued\n"), "{line}");
    server.run(&["run", "close", "r"]).clean();
    line.clear();
    stdout.read_line(&mut line).expect("pipe");
    assert!(line.ends_with("  r  completed\n"), "{line}");
    let ended = watch.end();
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), "braidlog: run \"r\" is closed: completed\n")
    );

    let watched = json(&server, &["watch", "r", "--records", "lifecycle"]);
    let types: Vec<&str> = watched.iter().map(|it| it["type"].as_str().expect("type")).collect();
    assert_eq!((types[0], *types.last().expect("end")), ("row", "end"));
    assert_eq!(watched.last().expect("end")["outcome"], "completed");
    let records = watched.iter().filter(|it| it["type"] == "record");
    assert!(records.clone().all(|it| it["stream"] == "$run"), "{watched:?}");
    assert_eq!(watched[0]["run"]["status"], "completed");
    refused(&server.run(&["watch", "x"]), 3, &["run not found"]);
    refused(&server.run(&["watch"]), 2, &["say what is watched", "--tag"]);
    refused(&server.run(&["watch", "r", "--tag", "x"]), 2, &["--tag"]);
    let away = ["watch", "--tag", "x", "--server", "http://127.0.0.1:1", "--patience", "0"];
    refused(&server.run(&away), 5, &["braidlog serve"]);
    refused(&server.run(&["watch", "r", "--cursor", "abc"]), 2, &["not a cursor"]);
}

#[test]
fn runs_are_watched_and_the_watch_goes_on_where_it_was() {
    let (folder, server) = server();
    let file = folder.path().join("cursor");
    let file = file.to_str().expect("UTF-8");
    for run in ["a", "b", "c"] {
        server.run(&["run", "create", run, "--tag", "x"]).clean();
    }
    let args = ["watch", "--tag", "x", "--json", "--cursor-file", file];
    let mut watch = server.spawn(&args);
    let mut stdout = watch.stdout();
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).expect("pipe");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    let mut rows: Vec<String> = (0..3).map(|_| next()["run"]["run_id"].to_string()).collect();
    rows.sort();
    assert_eq!(rows, ["\"a\"", "\"b\"", "\"c\""]);
    assert_eq!(next()["type"], "caught_up");
    server.run(&["run", "delete", "c", "--yes"]).clean();
    let removed = next();
    assert_eq!((&removed["type"], &removed["run_id"]), (&json!("removed"), &json!("c")));
    server.run(&["run", "tag", "a", "y"]).clean();
    let row = next();
    assert_eq!((&row["run"]["run_id"], &row["run"]["tags"]), (&json!("a"), &json!(["x", "y"])));
    // The cursor behind that row is that of the next item at the latest.
    server.run(&["run", "tag", "b", "y"]).clean();
    assert_eq!(next()["run"]["run_id"], "b");
    watch.kill();

    server.run(&["run", "close", "b"]).clean();
    let mut watch = server.spawn(&args);
    let mut stdout = watch.stdout();
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        stdout.read_line(&mut line).expect("pipe");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        if line["type"] == "caught_up" {
            break;
        }
        seen.push((line["run"]["run_id"].clone(), line["run"]["status"].clone()));
    }
    assert!(seen.contains(&(json!("b"), json!("completed"))), "{seen:?}");
    watch.kill();
}

/// What the README shows is what happens.
#[test]
fn the_work_in_the_readme_goes_as_it_is_told() {
    let (_folder, server) = server();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("README");
    let block = readme.split("```").find(|block| block.contains("$ braidlog claim chat"));
    let mut lines = block.expect("a block").lines().skip(1).peekable();
    let mut played = 0;
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ braidlog ").expect("a command");
        let told: Vec<&str> =
            std::iter::from_fn(|| lines.next_if(|line| !line.starts_with('$'))).collect();
        // It does not end by itself.
        if command.starts_with("watch") {
            continue;
        }
        // As a shell would take it apart.
        let script = format!("set -- {command}\nfor word; do printf '%s\\0' \"$word\"; done");
        let words = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
        let words = String::from_utf8(words.stdout).expect("UTF-8");
        let words: Vec<&str> = words.split_terminator('\0').collect();
        let ended = server.run(&words).clean();
        if !told.is_empty() {
            assert_eq!(ended.text().lines().collect::<Vec<_>>(), told, "{command}");
        }
        played += 1;
    }
    assert!(5 < played, "{played}");
}
