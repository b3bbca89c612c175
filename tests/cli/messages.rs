//! Messages on the command line: sent, received, taken, looked at and acked.

use std::io::BufRead;

use serde_json::json;

use super::{json_lines, refused, runs::json, server};

#[test]
fn a_message_is_sent_once_however_often_it_is_sent() {
    let (_folder, server) = server();
    refused(&server.run(&["send", "r", "in", "x"]), 3, &["run not found: \"r\""]);
    server.run(&["run", "create", "r"]).clean();
    let send = ["send", "r", "in", "hello there", "--message-id", "form-17"];
    assert_eq!(server.run(&send).clean().text(), "sent index 0 seq 1\n");
    assert_eq!(server.run(&send).clean().text(), "was sent already: index 0\n");
    let other = ["send", "r", "in", "something else", "--message-id", "form-17"];
    refused(&server.run(&other), 4, &["was used for other lines or content"]);
    let lines = server.run_with(&["send", "r", "in", "--message-id", "m"], b"a\nb\n").clean();
    assert_eq!(lines.text(), "sent index 1 seq 2\nsent index 2 seq 3\n");
    let again = server.run_with(&["send", "r", "in", "--message-id", "m"], b"a\nb\n").clean();
    assert_eq!(again.text(), "was sent already: index 1\nwas sent already: index 2\n");
    let line = &json(&server, &["send", "r", "in", "-5"])[0];
    assert_eq!((&line["index"], &line["seq"]), (&json!(3), &json!(4)));
    assert_eq!(line["deduplicated"], false);
    assert!(line["message_id"].as_str().expect("an id").len() == 32, "{line}");
    let read = server.run(&["read", "r", "in"]).clean();
    assert_eq!(read.text(), "hello there\na\nb\n-5\n");

    refused(&server.run(&["send", "r", "in", "x", "--file", "y"]), 2, &["--file"]);
    refused(&server.run(&["send", "r", "$run", "x"]), 2, &["stream"]);
    server.run_with(&["append", "r", "out"], b"1\n").clean();
    refused(&server.run(&["send", "r", "out", "x"]), 2, &["not an input stream"]);
    server.run(&["run", "close", "r"]).clean();
    refused(&server.run(&["send", "r", "in", "x"]), 4, &["is closed (completed)"]);
}

#[test]
fn a_message_is_looked_at_taken_and_acked() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r"]).clean();
    for command in ["peek", "take"] {
        let none = server.run(&[command, "r", "in"]);
        refused(&none, 3, &["no message in stream \"in\" of run \"r\""]);
    }
    server.run_with(&["send", "r", "in"], b"a\nb\nc\nd\n").clean();
    assert_eq!(server.run(&["peek", "r", "in"]).clean().text(), "a\n");
    let peeked = &json(&server, &["peek", "r", "in"])[0];
    assert_eq!((&peeked["type"], &peeked["index"]), (&json!("record"), &json!(0)));
    assert_eq!((&peeked["stream"], &peeked["data"]), (&json!("in"), &json!("a")));
    assert_eq!(server.run(&["take", "r", "in"]).clean().text(), "a\n");
    assert_eq!(server.run(&["take", "r", "in", "--ack"]).clean().text(), "b\n", "a is taken");
    assert_eq!(server.run(&["peek", "r", "in"]).clean().text(), "a\n", "and is not acked");
    let acked = server.run(&["ack", "r", "in", "0"]).clean();
    assert_eq!(acked.text(), "stream in of run r is acked below 2, 2 owed\n");
    let acked = &json(&server, &["ack", "r", "in", "0..2", "3"])[0];
    assert_eq!(
        *acked,
        json!({
            "v": 1, "run_id": "r", "stream": "in", "consumer": "default", "floor": 2, "owed": 1
        })
    );
    let other = server.run(&["peek", "r", "in", "--consumer", "other"]).clean();
    assert_eq!(other.text(), "a\n", "another consumer owes all of it");
    let wait = server.spawn(&["take", "r", "later", "--wait", "30s", "--format", "base64"]);
    server.run(&["send", "r", "later", "x"]).clean();
    assert_eq!(wait.end().clean().text(), "eA==\n");

    refused(&server.run(&["ack", "r", "in"]), 2, &["INDEX"]);
    refused(&server.run(&["ack", "r", "in", "3..2"]), 2, &["such as 3..8"]);
    refused(&server.run(&["ack", "r", "in", "4"]), 2, &["nothing was sent at index 4"]);
    refused(&server.run(&["take", "r", "in", "--term", "1ms"]), 2, &["term_ms"]);
    refused(&server.run(&["take", "x", "in"]), 3, &["run not found"]);
    server.run(&["run", "close", "r"]).clean();
    refused(&server.run(&["take", "r", "in"]), 4, &["is closed"]);
}

#[test]
fn messages_are_received_as_they_come_until_the_run_is_closed() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r"]).clean();
    server.run_with(&["send", "r", "in"], b"a\nb\n").clean();
    let mut receive = server.spawn(&["receive", "r", "in", "--ack"]);
    let mut stdout = receive.stdout();
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).expect("pipe");
        line
    };
    assert_eq!((next(), next()), ("a\n".into(), "b\n".into()));
    server.run(&["send", "r", "in", "c"]).clean();
    assert_eq!(next(), "c\n");
    server.run(&["run", "close", "r"]).clean();
    let ended = receive.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), "braidlog: run \"r\" is closed\n"));
}

#[test]
fn a_receiver_that_does_not_ack_gets_everything_again_and_a_newer_one_ends_it() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r"]).clean();
    server.run_with(&["send", "r", "in"], b"a\nb\nc\n").clean();
    let two = ["receive", "r", "in", "--limit", "2", "--json"];
    let first = json_lines(server.run(&two).clean().text());
    assert_eq!((first.len(), &first[0]["redelivery"]), (2, &json!(null)));
    let again = json_lines(server.run(&two).clean().text());
    assert_eq!(again[1]["redelivery"], true);
    assert_eq!((&again[1]["data"], &again[1]["index"]), (&json!("b"), &json!(1)));

    let mut old = server.spawn(&["receive", "r", "in", "--json", "--max-unacked", "1"]);
    let mut stdout = old.stdout();
    let mut line = String::new();
    stdout.read_line(&mut line).expect("pipe");
    assert_eq!(json_lines(&line)[0]["data"], "a");
    server.run(&["receive", "r", "in", "--limit", "1", "--ack"]).clean();
    line.clear();
    stdout.read_line(&mut line).expect("pipe");
    assert_eq!(json_lines(&line)[0], json!({"v": 1, "type": "end", "reason": "superseded"}));
    old.end().clean();

    refused(&server.run(&["receive", "r", "in", "--max-unacked", "0"]), 2, &["max_unacked"]);
    refused(&server.run(&["receive", "x", "in"]), 3, &["run not found"]);
}

#[test]
fn a_run_that_was_claimed_is_consumed_under_its_lease() {
    let (_folder, server) = server();
    server.run(&["run", "create", "r", "--task", "t"]).clean();
    server.run(&["send", "r", "in", "a"]).clean();
    server.run(&["claim", "t", "--worker", "w"]).clean();
    for command in [&["take", "r", "in"][..], &["ack", "r", "in", "0"]] {
        refused(&server.run(command), 4, &["was claimed", "--lease-epoch"]);
    }
    let old = ["take", "r", "in", "--lease-epoch", "7"];
    refused(&server.run(&old), 4, &["its newest is 1", "braidlog lease acquire"]);
    let take = ["take", "r", "in", "--lease-epoch", "1", "--ack"];
    assert_eq!(server.run(&take).clean().text(), "a\n");
}
