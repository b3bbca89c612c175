//! The run's whole life on the command line: work, inputs, metadata, waits, batches, watches.

use serde_json::{Value, json};

use super::{Server, json_lines, refused, server};

/// What a command says as JSON.
fn json(server: &Server, args: &[&str]) -> Vec<Value> {
    let ended = server.run(&[args, &["--json"]].concat()).clean();
    let lines = json_lines(ended.text());
    assert!(lines.iter().all(|line| line["v"] == 1), "{lines:?}");
    lines
}

fn run(server: &Server, run: &str) -> Value {
    json(server, &["run", "get", run])[0]["run"].clone()
}

#[test]
fn a_run_is_claimed_worked_on_by_turns_and_completed() {
    let (_folder, server) = server();
    let create = ["run", "create", "job", "--task", "mail", "--payload", "{\"to\":\"ada\"}"];
    let more = ["--priority", "3", "--metadata", "{\"stage\":\"new\"}", "--max-attempts", "5"];
    let created = &json(&server, &[&create[..], &more].concat())[0]["run"];
    assert_eq!((&created["status"], &created["priority"]), (&json!("queued"), &json!(3)));
    let none = ["claim", "other", "--worker", "w"];
    refused(&server.run(&none), 3, &["no run of other is queued"]);
    let claimed = &json(&server, &["claim", "other", "mail", "--worker", "w1"])[0];
    assert_eq!(claimed["run"]["payload"], json!("{\"to\":\"ada\"}"));
    assert_eq!(claimed["run"]["lease"]["epoch"], json!(1));
    assert_eq!(claimed["run"]["lease"]["worker"], json!("w1"));
    let held = ["lease", "acquire", "job", "--worker", "w2"];
    refused(&server.run(&held), 4, &["w1"]);
    let renewed = server.run(&["lease", "renew", "job", "--lease-epoch", "1"]).clean();
    assert_eq!(renewed.text(), "renewed lease 1 of job\n");

    let turn = ["commit", "job", "--lease-epoch", "1", "--request-id", "t1", "--append", "out=a=b"];
    let rest = ["--append", "out=c", "--set", "stage=\"sent\"", "--tag", "done"];
    let turn = [&turn[..], &rest].concat();
    let done = &json(&server, &turn)[0];
    assert_eq!(
        (&done["status"], &done["metadata"]),
        (&json!("executing"), &json!({"stage":"sent"}))
    );
    let again = &json(&server, &turn)[0];
    assert_eq!((&again["deduplicated"], &again["first_seq"]), (&json!(true), &done["first_seq"]));
    let other = [&turn[..], &["--append", "out=d"]].concat();
    refused(&server.run(&other), 4, &["content"]);
    assert_eq!(server.run(&["read", "job", "out"]).clean().text(), "a=b\nc\n");

    let released = ["lease", "release", "job", "--lease-epoch", "1", "--retry-at", "1h"];
    assert_eq!(server.run(&released).clean().text(), "released job: delayed\n");
    let sooner = server.run(&["run", "reschedule", "job", "0s"]).clean();
    assert!(sooner.text().contains("job"), "{}", sooner.text());
    let claimed = &json(&server, &["claim", "mail", "--worker", "w3", "--wait", "20s"])[0];
    assert_eq!(claimed["run"]["attempt"], json!(2));
    let stale = ["commit", "job", "--lease-epoch", "1", "--append", "out=late"];
    refused(&server.run(&stale), 4, &["its newest is 2"]);
    let end = ["commit", "job", "--lease-epoch", "2", "--close", "completed", "--output", "ok"];
    assert!(server.run(&end).clean().text().ends_with(": completed\n"));
    let ended = run(&server, "job");
    assert_eq!((&ended["status"], &ended["end"]["output"]), (&json!("completed"), &json!("ok")));
    let seq = done["first_seq"].to_string();
    let then = &json(&server, &["run", "get", "job", "--at-seq", &seq])[0]["run"];
    assert_eq!((&then["status"], &then["metadata"]), (&json!("dequeued"), &json!({"stage":"new"})));
}

#[test]
fn messages_are_sent_received_taken_and_acked() {
    let (_folder, server) = server();
    server.run(&["run", "create", "chat"]).clean();
    let sent = server.run(&["send", "chat", "in", "hello", "--message-id", "m"]).clean();
    assert_eq!(sent.text(), "sent index 0 seq 1\n");
    let again = server.run(&["send", "chat", "in", "hello", "--message-id", "m"]).clean();
    assert_eq!(again.text(), "was sent already: index 0\n");
    let other = ["send", "chat", "in", "other", "--message-id", "m"];
    refused(&server.run(&other), 4, &["content"]);
    server.run_with(&["send", "chat", "in"], b"one\ntwo\n").clean();
    assert_eq!(server.run(&["peek", "chat", "in"]).clean().text(), "hello\n");
    assert_eq!(server.run(&["take", "chat", "in"]).clean().text(), "hello\n");
    assert_eq!(server.run(&["take", "chat", "in", "--ack"]).clean().text(), "one\n");
    let acked = server.run(&["ack", "chat", "in", "0"]).clean();
    assert_eq!(acked.text(), "stream in of run chat is acked below 2, 1 owed\n");
    let rest = ["receive", "chat", "in", "--ack", "--limit", "1"];
    assert_eq!(server.run(&rest).clean().text(), "two\n");
    refused(&server.run(&["take", "chat", "in"]), 3, &["no message"]);
    refused(&server.run(&["ack", "chat", "in", "9"]), 2, &["index 9"]);
    server.run(&["run", "close", "chat"]).clean();
    refused(&server.run(&["send", "chat", "in", "late"]), 4, &["closed"]);
    refused(&server.run(&["send", "nobody", "in", "x"]), 3, &["not found"]);
}

#[test]
fn metadata_is_read_and_changed() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r"]).clean();
    assert_eq!(server.run(&["meta", "get", "r"]).clean().text(), "{}\n");
    server.run(&["meta", "set", "r", "stage", "\"new\""]).clean();
    server.run(&["meta", "append", "r", "log", "--text", "first"]).clean();
    server.run(&["meta", "increment", "r", "n", "-2"]).clean();
    let changes = b"[{\"action\":\"set\",\"key\":\"$.deep\",\"value\":1},
                     {\"action\":\"delete\",\"key\":\"stage\"}]";
    let left = server.run_with(&["meta", "apply", "r"], changes).clean();
    assert_eq!(left.text(), "{\"log\":[\"first\"],\"n\":-2,\"deep\":1}\n");
    assert_eq!(server.run(&["meta", "get", "r", "n"]).clean().text(), "-2\n");
    refused(&server.run(&["meta", "get", "r", "stage"]), 3, &["no key"]);
    refused(&server.run(&["meta", "set", "r", "a", "{"]), 2, &["metadata"]);
}

#[test]
fn a_wait_token_wakes_the_run_that_waits_for_it() {
    let (_folder, server) = server();
    let created = server.run(&["wait-token", "create", "--timeout", "1d", "--tag", "t"]).clean();
    let token = created.text().trim();
    server.run(&["run", "create", "job", "--task", "t"]).clean();
    server.run(&["claim", "t", "--worker", "w"]).clean();
    let wait = format!("go={token}");
    let commit = ["commit", "job", "--lease-epoch", "1", "--wait-token", &wait, "--suspend"];
    assert!(server.run(&commit).clean().text().ends_with(": waiting\n"));
    for value in ["yes", "no"] {
        let complete = ["wait-token", "complete", token, "--value", value];
        assert_eq!(server.run(&complete).clean().text(), "yes\n", "the first value wins");
    }
    let claimed = &json(&server, &["claim", "t", "--worker", "w", "--wait", "20s"])[0];
    let settled = &claimed["run"]["waits"][0]["settled"];
    assert_eq!((&settled["result"], &settled["value"]), (&json!("completed"), &json!("yes")));
    let listed = json(&server, &["wait-token", "list", "--status", "completed", "--tag", "t"]);
    assert_eq!(listed.len(), 1);
    refused(&server.run(&["wait-token", "get", "none"]), 3, &["not found"]);
}

#[test]
fn a_batch_is_filled_once_and_sealed() {
    let (_folder, server) = server();
    server.run(&["batch", "create", "mails", "--run-count", "2"]).clean();
    let lines = b"{\"run_id\":\"m-1\",\"task\":\"mail\"}\n{\"run_id\":\"m-2\",\"task\":\"mail\"}\n";
    for new in [2, 0] {
        let added = server.run_with(&["batch", "add", "mails", "--json"], lines).clean();
        let added = &json_lines(added.text())[0];
        assert_eq!((&added["accepted"], &added["deduplicated"]), (&json!(new), &json!(2 - new)));
    }
    refused(&server.run(&["batch", "seal", "mails", "--expect", "3"]), 4, &["2"]);
    server.run(&["batch", "seal", "mails", "--expect", "2"]).clean();
    assert_eq!(json(&server, &["batch", "get", "mails"])[0]["batch"]["sealed"], json!(true));
    assert_eq!(json(&server, &["run", "list", "--batch", "mails"]).len(), 2);
}

#[test]
fn a_watch_prints_changes_and_ends_with_its_run() {
    let (folder, server) = server();
    server.run(&["run", "create", "r", "--tag", "t"]).clean();
    let file = folder.path().join("cursor");
    let file = file.to_str().expect("text");
    let mut watch = server.spawn(&["watch", "r", "--json", "--cursor-file", file]);
    let mut stdout = watch.stdout();
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    assert_eq!((&line()["type"], &line()["type"]), (&json!("row"), &json!("caught_up")));
    server.run(&["meta", "set", "r", "n", "1"]).clean();
    assert_eq!(line()["run"]["metadata"], json!({ "n": 1 }));
    server.run(&["run", "cancel", "r"]).clean();
    assert_eq!(line()["run"]["status"], json!("canceled"));
    assert_eq!((&line()["type"], watch.end().code), (&json!("end"), Some(0)));
    let resumed = json(&server, &["watch", "r", "--cursor-file", file]);
    assert_eq!(resumed.iter().map(|line| &line["type"]).collect::<Vec<_>>(), ["end"]);
    refused(&server.run(&["watch", "nobody"]), 3, &["not found"]);
    let records = server.run(&["watch", "r", "--records", "metadata"]);
    assert_eq!(records.code, Some(0));
    assert!(records.text().contains("canceled"), "{}", records.text());
    assert!(records.stderr.contains("is closed: canceled"), "{}", records.stderr);
}
