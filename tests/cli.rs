//! The binary as its users meet it: commands, their output, their exit statuses, the server's
//! settings and its end.

// A test is no part of what runs in simulation.
#![allow(clippy::disallowed_methods)]

#[path = "cli/life.rs"]
mod life;
#[path = "cli/messages.rs"]
mod messages;
#[path = "cli/runs.rs"]
mod runs;
mod support;
#[path = "cli/work.rs"]
mod work;

use std::{
    fs,
    io::{BufRead, Read, Write},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use self::support::{APART, Ended, PATIENCE, Process, Server, braidlog};

fn server() -> (TempDir, Server) {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(&folder.path().join("data"));
    (folder, server)
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Demands this exit status, nothing on standard output, and these words on standard error.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!((ended.code, ended.text()), (Some(code), ""), "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} in {:?}", ended.stderr);
    }
}

#[test]
fn what_is_appended_is_read_byte_for_byte() {
    let (_folder, server) = server();
    let long = [vec![b'x'; 1 << 20], b"\n".to_vec(), vec![b'y'; (1 << 20) - 16]].concat();
    let many: Vec<u8> = (0..5_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let inputs: [(&str, &[u8]); 9] = [
        ("with a line end", b"one\ntwo\n"),
        ("without a line end", b"one\ntwo"),
        ("blank lines", b"\n\none\n\n\n"),
        ("one blank line", b"\n"),
        ("CRLF", b"one\r\ntwo\r\n\r\n"),
        ("not UTF-8", b"\xff\xfe\n\0\x1b[31m\n\xc3"),
        ("no line", b"x"),
        ("as long as can be", &long),
        ("several batches", &many),
    ];
    for (name, input) in inputs {
        server.run_with(&["append", name, "file"], input).clean();
        let read = server.run(&["read", name, "file"]).clean();
        assert!(read.stdout == input, "{name}: {:?}", &read.text().get(..99));
        let tail = server.spawn(&["tail", name, "file"]);
        server.run(&["run", "close", name]).clean();
        assert!(tail.end().stdout == input, "{name}, by a tail");
    }
}

#[test]
fn files_follow_each_other_and_the_format_is_a_choice() {
    let (folder, server) = server();
    let file = folder.path().join("file");
    fs::write(&file, "two\nthree").expect("file");
    server.run_with(&["append", "r", "s"], b"one\n").clean();
    server.run(&["append", "r", "s", file.to_str().expect("UTF-8")]).clean();
    server.run_with(&["append", "r", "s", "-"], b"\xff\n").clean();
    server.run_with(&["append", "r", "t"], b"another stream\n").clean();
    let read = |args: &[&str]| server.run(&[&["read", "r", "s"], args].concat()).clean().stdout;
    assert_eq!(read(&[]), b"one\ntwo\nthree\xff\n");
    assert_eq!(read(&["--format", "raw"]), b"onetwothree\xff");
    assert_eq!(read(&["--format", "base64"]), b"b25l\ndHdv\ndGhyZWU=\n/w==\n");
    assert_eq!(read(&["--from", "1", "--limit", "1"]), b"two\n");
    assert_eq!(read(&["--last", "2", "--format", "raw"]), b"three\xff");
    assert_eq!(read(&["--from", "4"]), b"", "at the tail");
    let whole = server.run(&["read", "r"]).clean();
    assert_eq!(whole.stdout, b"one\ntwo\nthree\xff\nanother stream\n", "events are no lines");
    let from = server.run(&["read", "r", "--from", "5"]).clean();
    assert_eq!(from.stdout, b"another stream\n", "a seq, without a stream");
}

#[test]
fn appending_nothing_does_nothing() {
    let (_folder, server) = server();
    assert_eq!(server.run(&["append", "r", "s"]).clean().stdout, b"");
    refused(&server.run(&["read", "r", "s"]), 3, &["run not found", "\"r\""]);
    server.run(&["run", "create", "r"]).clean();
    refused(&server.run(&["read", "r", "s"]), 3, &["stream not found", "\"s\""]);
}

#[test]
fn failures_have_an_exit_status_and_say_what_to_do() {
    let (folder, server) = server();
    for args in [&["read", "x"][..], &["tail", "x"], &["run", "get", "x"], &["run", "close", "x"]] {
        refused(&server.run(args), 3, &["run not found: \"x\"", "braidlog run list"]);
    }
    refused(&server.run_with(&["append", "x", "s", "--no-create"], b"a\n"), 3, &["run not found"]);
    refused(&server.run_with(&["append", "$x", "s"], b"a\n"), 2, &["run_id", "reserved"]);
    refused(&server.run(&["read", "x", "--cursor", "abc"]), 3, &["run not found"]);
    let nowhere = folder.path().join("nowhere");
    let nowhere = nowhere.to_str().expect("UTF-8");
    refused(&server.run(&["append", "x", "s", nowhere]), 1, &[nowhere]);
    refused(&server.run(&["append", "x", "s", "/"]), 1, &["directory"]);
    refused(&server.run(&["append", "x"]), 2, &["Usage"]);
    refused(&server.run(&["tail", "x", "--from", "1", "--last", "1"]), 2, &["--last"]);
    refused(&server.run(&["read", "x", "--server", "no url"]), 2, &["--server no url"]);

    server.run_with(&["append", "r", "s"], b"a\n").clean();
    refused(&server.run(&["read", "r", "s", "--cursor", "abc"]), 2, &["not a cursor"]);
    refused(&server.run(&["read", "r", "s", "--from", "9"]), 4, &["beyond the tail"]);
    refused(&server.run(&["run", "create", "r", "--task", "t"]), 4, &["other parameters"]);
    let away = ["read", "r", "s", "--server", "http://127.0.0.1:1", "--patience", "0"];
    refused(&server.run(&away), 5, &["http://127.0.0.1:1", "braidlog serve"]);
    let away = ["append", "r", "s", "--server", "http://127.0.0.1:1", "--patience", "0"];
    refused(&server.run_with(&away, b"a\n"), 5, &["http://127.0.0.1:1"]);

    let closed = server.run(&["run", "close", "r", "--outcome", "failed"]).clean();
    assert_eq!(closed.text(), "closed r failed at seq 2\n");
    let again = server.run(&["run", "close", "r", "--outcome", "failed"]).clean();
    assert_eq!(again.text(), "was closed already: r failed at seq 2\n");
    refused(&server.run(&["run", "close", "r"]), 4, &["is closed (failed)"]);
    refused(&server.run_with(&["append", "r", "s"], b"b\n"), 4, &["is closed (failed)"]);
}

#[test]
fn a_line_that_is_too_long_is_named_and_what_came_before_it_is_there() {
    let (_folder, server) = server();
    let input = [b"a\nb\n".to_vec(), vec![b'x'; (1 << 20) + 1], b"\nc\n".to_vec()].concat();
    let ended = server.run_with(&["append", "r", "s"], &input);
    assert_eq!((ended.code, ended.text()), (Some(2), "acked index 0..2 seq 1..3\n"));
    for words in ["standard input: line 3", "1048576 bytes", "lines 1 to 2 were acknowledged"] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    assert_eq!(server.run(&["read", "r", "s"]).clean().text(), "a\nb\n");
}

#[test]
fn json_has_the_shapes_that_are_documented() {
    let (_folder, server) = server();
    let json = |args: &[&str], input: &[u8]| {
        let ended = server.run_with(&[args, &["--json"]].concat(), input).clean();
        let lines = json_lines(ended.text());
        assert!(lines.iter().all(|line| line["v"] == 1), "{lines:?}");
        lines
    };
    let created = &json(&["run", "create", "r", "--task", "t"], b"")[0];
    assert_eq!((&created["created"], &created["run"]["status"]), (&true.into(), &"queued".into()));
    // A named producer sends full batches, however its input comes.
    let acked = &json(&["append", "r", "s", "--producer", "p"], b"a\n\xff")[0];
    for (field, value) in [
        ("count", 2),
        ("lines", 2),
        ("first_index", 0),
        ("next_index", 2),
        ("first_seq", 1),
        ("next_seq", 3),
    ] {
        assert_eq!(acked[field], value, "{field}");
    }
    assert_eq!((&acked["type"], &acked["deduplicated"]), (&"acked".into(), &false.into()));

    let read = json(&["read", "r"], b"");
    let types: Vec<_> = read.iter().map(|line| line["type"].as_str().expect("type")).collect();
    assert_eq!(types, ["record", "record", "record", "end"]);
    assert_eq!(read[0]["event"]["run_created"]["task"], "t");
    assert_eq!((&read[1]["stream"], &read[1]["data"]), (&"s".into(), &"a".into()));
    assert_eq!((&read[2]["index"], &read[2]["data_base64"]), (&1.into(), &"/w==".into()));
    assert_eq!(read[2]["headers"][0]["name"], "braidlog-eol");
    assert_eq!((&read[3]["reason"], &read[3]["cursor"]), (&"tail".into(), &read[2]["cursor"]));

    let limited = json(&["read", "r", "--limit", "1"], b"");
    assert_eq!((limited.len(), &limited[1]["reason"]), (2, &"limit".into()));

    let got = &json(&["run", "get", "r"], b"")[0];
    assert_eq!((&got["run"]["tail"], &got["streams"][1]["name"]), (&3.into(), &"s".into()));
    let args = ["run", "close", "r", "--outcome", "timed_out", "--error-message", "late"];
    let closed = &json(&[&args[..], &["--output", "o"]].concat(), b"")[0];
    assert_eq!((&closed["closed_seq"], &closed["deduplicated"]), (&3.into(), &false.into()));
    let end = &closed["run"]["end"];
    assert_eq!((&end["outcome"], &end["output"]), (&"timed_out".into(), &"o".into()));
    assert_eq!(end["error"]["message"], "late");
    assert_eq!(json(&["run", "list"], b"")[0]["run"]["run_id"], "r");

    let tail = json(&["tail", "r", "--from", "3"], b"");
    assert_eq!(tail[0]["event"]["run_closed"]["error"]["message"], "late");
    let end = tail.last().expect("an end");
    assert_eq!((&end["reason"], &end["outcome"]), (&"closed".into(), &"timed_out".into()));

    let ended = server.run(&["read", "x", "--json"]);
    let failure = &json_lines(&ended.stderr)[0];
    assert_eq!((&failure["v"], &failure["exit"], ended.code), (&1.into(), &3.into(), Some(3)));
    assert_eq!(failure["error"]["reason"], "RUN_NOT_FOUND");
}

#[test]
fn runs_are_listed_and_described_for_people() {
    let (_folder, server) = server();
    for run in ["b-2", "a-1", "b-1", "b-3"] {
        server.run(&["run", "create", run, "--task", "t"]).clean();
    }
    assert_eq!(
        server.run(&["run", "create", "b-1", "--task", "t"]).clean().text(),
        "exists already: b-1\n"
    );
    let list = server.run(&["run", "list", "--prefix", "b-", "--limit", "2"]).clean();
    let rows: Vec<_> = list.text().lines().collect();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows[0].starts_with("RUN  STATUS  TASK") && rows[1].starts_with("b-3  queued  t"));
    assert!(rows[2].starts_with("b-1"), "{rows:?}");
    assert_eq!(server.run(&["run", "list", "--prefix", "c"]).clean().text(), "");
    server.run_with(&["append", "a-1", "log"], b"x\n").clean();
    let get = server.run(&["run", "get", "a-1"]).clean();
    for words in ["status      queued", "tail        seq 2", "log     output"] {
        assert!(get.text().contains(words), "{words:?} in {}", get.text());
    }
}

#[test]
fn a_slow_pipe_is_appended_line_by_line() {
    let (_folder, server) = server();
    let mut append = server.spawn(&["append", "r", "s", "--json"]);
    let (mut stdin, mut stdout) = (append.stdin(), append.stdout());
    for line in 0..3 {
        stdin.write_all(b"a line\nhalf a").expect("pipe");
        let mut acked = String::new();
        stdout.read_line(&mut acked).expect("pipe");
        assert_eq!(json_lines(&acked)[0]["lines"], line + 1, "before the input ends");
        stdin.write_all(b" line, ").expect("pipe");
    }
    drop(stdin);
    assert_eq!(append.end().clean().code, Some(0));
    let read = server.run(&["read", "r", "s"]).clean();
    let rest = "half a line, a line\n".repeat(2);
    assert_eq!(read.text(), format!("a line\n{rest}half a line, "));
}

#[test]
fn a_named_producer_may_repeat_its_input() {
    let (_folder, server) = server();
    let input: Vec<u8> = (0..10_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let args = ["append", "r", "s", "--producer", "p", "--batch-lines", "100"];
    let repeat = |input: &[u8]| server.run_with(&args, input);
    // Cut off in the middle of a batch, as by a kill.
    let mut killed = server.spawn(&args);
    let mut stdin = killed.stdin();
    stdin.write_all(&input[..20_050]).expect("pipe");
    let mut acked = [0];
    killed.stdout().read_exact(&mut acked).expect("something is acknowledged");
    killed.kill();
    for _ in 0..2 {
        let ended = repeat(&input);
        assert_eq!(ended.code, Some(0));
        assert!(ended.text().contains(", there before"), "{}", ended.text());
        assert!(ended.stderr.contains("of 10000 lines were there before"), "{}", ended.stderr);
        assert!(server.run(&["read", "r", "s"]).clean().stdout == input);
    }
    let next = [&args[..], &["--epoch", "1"]].concat();
    server.run_with(&next, b"more\n").clean();
    refused(&server.run_with(&next, b"other\n"), 4, &["other lines", "--epoch"]);
    refused(&repeat(&input), 4, &["taken over", "--epoch 2"]);
    assert_eq!(server.run(&["read", "r", "s", "--last", "1"]).clean().text(), "more\n");
}

#[test]
fn a_run_takes_more_commands_than_it_keeps_producers() {
    let (_folder, server) = server();
    // The second line is a producer's, if there is room for one: 256 is the most.
    for n in 0..280 {
        let input = format!("{n}\nb\nc\n");
        server.run_with(&["append", "r", "s", "--batch-lines", "1"], input.as_bytes()).clean();
    }
    let expected: String = (0..280).map(|n| format!("{n}\nb\nc\n")).collect();
    assert_eq!(server.run(&["read", "r", "s"]).clean().text(), expected);
    let named = ["append", "r", "s", "--producer", "p"];
    refused(&server.run_with(&named, b"x\n"), 4, &["256 producers", "--epoch"]);
}

#[test]
fn commands_that_append_at_the_same_time_lose_and_double_nothing() {
    let (_folder, server) = server();
    thread::scope(|scope| {
        for writer in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..20 {
                    // The same content by all, and more than once.
                    let line = format!("{}\n", (writer + n) % 3);
                    server.run_with(&["append", "r", "s"], line.as_bytes()).clean();
                }
            });
        }
    });
    let read = server.run(&["read", "r", "s"]).clean();
    let mut found: Vec<_> = read.text().lines().map(str::to_owned).collect();
    let mut wanted: Vec<_> =
        (0..8).flat_map(|writer| (0..20).map(move |n| ((writer + n) % 3).to_string())).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn a_tail_follows_from_where_it_is_told() {
    let (folder, server) = server();
    server.run_with(&["append", "r", "s"], b"1\n2\n3\n").clean();
    let tail = |args: &[&str]| server.spawn(&[&["tail", "r"], args].concat());
    assert_eq!(tail(&["s", "--limit", "2"]).end().clean().text(), "1\n2\n");
    let (last, mut new) = (tail(&["s", "--last", "1"]), tail(&["s", "--tail", "--json"]));
    let mut caught_up = String::new();
    let mut new_lines = new.stdout();
    new_lines.read_line(&mut caught_up).expect("pipe");
    assert_eq!(json_lines(&caught_up)[0]["type"], "caught_up");

    let file = folder.path().join("cursor");
    let file = file.to_str().expect("UTF-8");
    let from_file = ["s", "--cursor-file", file];
    let limited = tail(&[&from_file[..], &["--limit", "2"]].concat()).end();
    assert_eq!(limited.clean().text(), "1\n2\n");
    assert_eq!(tail(&[&from_file[..], &["--limit", "1"]].concat()).end().clean().text(), "3\n");
    let waiting = tail(&["not yet"]);

    server.run_with(&["append", "r", "s"], b"4\n").clean();
    server.run_with(&["append", "r", "not yet"], b"5\n").clean();
    server.run(&["run", "close", "r", "--outcome", "canceled"]).clean();
    let ended = last.end();
    assert_eq!((ended.code, ended.text()), (Some(0), "3\n4\n"));
    assert_eq!(ended.stderr, "braidlog: run \"r\" is closed: canceled\n");
    let mut rest = String::new();
    new_lines.read_to_string(&mut rest).expect("pipe");
    let rest = json_lines(&rest);
    assert_eq!((&rest[0]["data"], &rest[1]["type"]), (&"4".into(), &"end".into()));
    assert_eq!(tail(&from_file).end().text(), "4\n");
    assert_eq!(tail(&from_file).end().text(), "", "nothing is left");
    assert_eq!(waiting.end().text(), "5\n");
    assert_eq!(tail(&[]).end().text(), "1\n2\n3\n4\n5\n");
}

#[test]
fn a_tail_that_was_killed_resumes_from_its_cursor_file_and_leaves_nothing_out() {
    let (folder, server) = server();
    let input: Vec<_> = (0..50_000).map(|n| format!("line {n}")).collect();
    server.run_with(&["append", "r", "s"], (input.join("\n") + "\n").as_bytes()).clean();
    server.run(&["run", "close", "r"]).clean();
    let file = folder.path().join("cursor");
    let args = ["tail", "r", "s", "--cursor-file", file.to_str().expect("UTF-8")];
    let mut killed = server.spawn(&args);
    let mut lines = killed.stdout().lines();
    for line in &input[..20_000] {
        assert_eq!(lines.next().expect("a line").expect("pipe"), *line);
    }
    killed.kill();
    let printed = 20_000 + lines.map_while(Result::ok).filter(|line| input.contains(line)).count();
    let rest = server.spawn(&args).end();
    let first = rest.text().lines().next().expect("the end is not reached");
    let first: usize = first.trim_start_matches("line ").parse().expect("a number");
    assert!(0 < first && first <= printed, "resumed at {first} after {printed} were printed");
    assert_eq!(rest.text(), input[first..].join("\n") + "\n");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let (_folder, server) = server();
    let input = "a line that is somewhat long\n".repeat(20_000);
    server.run_with(&["append", "r", "s"], input.as_bytes()).clean();
    for args in [&["read", "r", "s"][..], &["tail", "r"], &["read", "r", "--json"]] {
        let mut reader = server.spawn(args);
        let mut line = String::new();
        let mut stdout = reader.stdout();
        stdout.read_line(&mut line).expect("pipe");
        drop(stdout);
        let status = reader.wait();
        assert_eq!((status.code(), reader.stderr().as_str()), (Some(0), ""), "{args:?}");
    }
    // Acknowledgements that nobody reads do not end the appending.
    let mut append = server.spawn(&["append", "r", "t", "--batch-lines", "10", "--json"]);
    drop(append.stdout());
    append.stdin().write_all(input.as_bytes()).expect("pipe");
    assert_eq!(append.wait().code(), Some(0));
    assert_eq!(server.run(&["read", "r", "t"]).clean().stdout.len(), input.len());
}

#[test]
fn an_interrupted_command_says_so() {
    let (_folder, server) = server();
    let mut append = server.spawn(&["append", "r", "s", "--json"]);
    let (mut stdin, mut stdout) = (append.stdin(), append.stdout());
    stdin.write_all(b"one\n").expect("pipe");
    stdout.read_line(&mut String::new()).expect("pipe");
    append.signal("INT");
    assert_eq!(append.wait().code(), Some(130));
    append.wait_for_stderr("line 1 was acknowledged");
    let mut tail = server.spawn(&["tail", "r", "s"]);
    tail.stdout().read_line(&mut String::new()).expect("pipe");
    tail.signal("INT");
    assert_eq!(tail.wait().code(), Some(130));
}

#[test]
fn a_server_stops_in_order_while_a_tail_is_open_and_the_tail_goes_on_with_the_next() {
    let folder = tempfile::tempdir().expect("folder");
    let data_dir = folder.path().join("data");
    let mut server = Server::start_at(&data_dir, APART);
    server.run_with(&["append", "r", "s"], b"one\n").clean();
    let mut tail = server.spawn(&["tail", "r", "s"]);
    let mut lines = tail.stdout();
    let mut line = String::new();
    lines.read_line(&mut line).expect("pipe");

    let started = Instant::now();
    server.process().signal("TERM");
    assert_eq!(server.process().wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    server.process().wait_for_stderr("stopped");
    assert!(tail.is_running(), "only an end is an end");

    let server = Server::start_at(&data_dir, &server.address);
    server.run_with(&["append", "r", "s"], b"two\n").clean();
    server.run(&["run", "close", "r"]).clean();
    lines.read_to_string(&mut line).expect("pipe");
    assert_eq!((line.as_str(), tail.wait().code()), ("one\ntwo\n", Some(0)));
}

/// Runs `config show` with this environment and these arguments.
fn show(environment: &[(&str, &str)], args: &[&str]) -> Ended {
    let mut command = braidlog();
    command.args(["config", "show"]).args(args).envs(environment.iter().copied());
    Process::start(&mut command).end()
}

#[test]
fn settings_come_from_the_first_source_that_has_them() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("braidlog.toml");
    let file = file.to_str().expect("UTF-8");
    fs::write(file, "listen = '127.0.0.1:1'\ndata_dir = 'file'\nlog = 'warn'\n").expect("file");
    let environment = [("BRAIDLOG_CONFIG", file), ("BRAIDLOG_LISTEN", "127.0.0.1:2")];
    let shown = show(&environment, &["--data-dir", "flag"]).clean();
    let lines: Vec<_> = shown.text().lines().map(|line| line.replace(' ', "")).collect();
    let expected = [
        "data_dir=\"flag\"#commandline".to_owned(),
        "listen=\"127.0.0.1:2\"#environment".to_owned(),
        format!("log=\"warn\"#{file}"),
        "log_format=\"text\"#default".to_owned(),
    ];
    assert_eq!(lines[..4], expected);
    refused(&show(&[], &["--config", "/nowhere.toml"]), 78, &["/nowhere.toml"]);
}

#[test]
fn the_settings_shown_are_a_file_that_gives_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("braidlog.toml");
    let text = "cache_bytes = '64MiB'\n[retention]\nrecords = 7\n\
        [retention.namespaces.'team a']\nage = '1w'\n";
    fs::write(&file, text).expect("file");
    let file = file.to_str().expect("UTF-8");
    let environment = [("BRAIDLOG_FLUSH_AFTER", "5m"), ("BRAIDLOG_RETENTION_BYTES", "1GiB")];
    let args = ["--config", file, "--retain-age", "12h", "--compression", "lz4"];
    let shown = show(&environment, &args).clean();
    let lines: Vec<_> = shown.text().lines().map(|line| line.replace(' ', "")).collect();
    for expected in [
        &format!("cache_bytes=\"64MiB\"#{file}"),
        "flush_after=\"5m\"#environment",
        "compression=\"lz4\"#commandline",
        "journal_slots=14#default",
        "[retention]",
        "age=\"12h\"#commandline",
        "bytes=\"1GiB\"#environment",
        &format!("records=7#{file}"),
        "at_limit=\"reject\"#default",
        "[retention.namespaces.\"teama\"]",
        &format!("age=\"1w\"#{file}"),
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {}", shown.text());
    }
    let copy = folder.path().join("copy.toml");
    fs::write(&copy, shown.text()).expect("file");
    let again = show(&[], &["--config", copy.to_str().expect("UTF-8")]).clean();
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  #").next().unwrap_or(line).trim().into()).collect()
    };
    assert_eq!(values(again.text()), values(shown.text()));
}

#[test]
fn settings_that_cannot_be_used_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("braidlog.toml");
    fs::write(&file, "lissten = '127.0.0.1:1'\n").expect("file");
    let data_dir = folder.path().join("data");
    let mut command = braidlog();
    command.arg("serve").arg("--config").arg(&file).arg("--data-dir").arg(&data_dir);
    refused(&Process::start(&mut command).end(), 78, &["lissten", "braidlog.toml"]);
    assert!(!data_dir.exists(), "refused before anything is made");
    refused(&show(&[], &["--listen", "4480"]), 78, &["listen", "command line", "4480"]);
    refused(&show(&[("BRAIDLOG_LOG_FORMAT", "xml")], &[]), 78, &["BRAIDLOG_LOG_FORMAT", "xml"]);
    refused(&show(&[], &["--log-format", "xml"]), 2, &["--log-format", "xml"]);
    for (variable, value, words) in [
        ("BRAIDLOG_RETENTION_AGE", "7", "such as 7d"),
        ("BRAIDLOG_PACK_BYTES", "1 XB", "MiB"),
        ("BRAIDLOG_COMPRESSION", "gzip", "zstd"),
    ] {
        refused(&show(&[(variable, value)], &[]), 78, &[variable, value, words]);
    }
    let little = [("BRAIDLOG_UNFLUSHED_BYTES", "1MiB")];
    refused(&show(&little, &[]), 78, &["unflushed_bytes", "environment", "twice flush_bytes"]);
}

fn serve(data_dir: &Path, args: &[&str]) -> Process {
    let mut command = braidlog();
    command.args(["serve", "--data-dir"]).arg(data_dir).args(["--listen", "127.0.0.1:0"]);
    Process::start(command.args(args))
}

#[test]
fn a_server_that_cannot_start_says_whether_to_try_again() {
    let (folder, server) = server();
    let locked = serve(&folder.path().join("data"), &[]).end();
    refused(&locked, 75, &["in use by another process", "pid"]);
    let taken = ["--listen", &server.address];
    let mut command = braidlog();
    command.args(["serve", "--data-dir"]).arg(folder.path().join("other")).args(taken);
    refused(&Process::start(&mut command).end(), 75, &["cannot listen on", &server.address]);

    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).expect("folder");
    fs::write(foreign.join("letter.txt"), "Dear").expect("file");
    refused(&serve(&foreign, &[]).end(), 78, &["letter.txt"]);
    refused(&serve(&foreign.join("letter.txt"), &[]).end(), 78, &["letter.txt"]);
    refused(&serve(&folder.path().join("data"), &["--log", "=="]).end(), 78, &["log filter"]);
}

#[test]
fn a_server_whose_disk_failed_ends_with_75_and_has_every_line_it_acknowledged() {
    let folder = tempfile::tempdir().expect("folder");
    let data_dir = folder.path().join("data");
    // No file may grow beyond 20 to 40 MB, so the first journal file can be made and no further.
    let limited = "trap '' XFSZ; ulimit -f 40000; exec \"$@\"";
    let serve = [env!("CARGO_BIN_EXE_braidlog"), "serve", "--listen", APART, "--data-dir"];
    let mut command = Command::new("sh");
    command.args(["-c", limited, "sh"]).args(serve).arg(&data_dir);
    let mut server = Server::from_command(&mut command);
    let line = "x".repeat(1_000_000) + "\n";
    let append = ["append", "r", "s", "--json", "--patience", "2"];
    let ended = server.run_with(&append, line.repeat(40).as_bytes());
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let acked = json_lines(ended.text()).last().map_or(0, |ack| ack["lines"].as_u64().unwrap());
    assert!(0 < acked && acked < 40, "{acked}");
    assert!(ended.stderr.contains(&format!("lines 1 to {acked} were acknowledged")));
    assert_eq!(server.process().wait().code(), Some(75));
    server.process().wait_for_stderr("start the server again");

    let server = Server::start(&data_dir);
    let read = server.run(&["read", "r", "s"]).clean();
    let found = read.stdout.len() / line.len();
    assert!(acked <= found as u64 && read.stdout == line.repeat(found).as_bytes(), "{found}");
}

#[test]
fn an_unknown_variable_is_reported_and_json_logs_are_json() {
    let folder = tempfile::tempdir().expect("folder");
    let mut command = braidlog();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"]);
    command.arg(folder.path().join("data")).env("BRAIDLOG_LISSTEN", "x");
    let mut server = Process::start(&mut command);
    let said = server.wait_for_stderr("\"ready\"");
    assert!(said.contains("memory budget"), "{said}");
    let lines = json_lines(&said);
    assert!(said.contains("BRAIDLOG_LISSTEN"), "{said}");
    assert_eq!(lines.last().expect("ready")["type"], "ready");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let (_folder, mut server) = server();
    // A call that never ends by itself: a session whose input stays open.
    let mut append = server.spawn(&["append", "r", "s", "--json"]);
    let mut stdin = append.stdin();
    stdin.write_all(b"one\n").expect("pipe");
    append.stdout().read_line(&mut String::new()).expect("pipe");
    server.process().signal("INT");
    server.process().wait_for_stderr("shutting down");
    let started = Instant::now();
    while server.process().is_running() {
        server.process().signal("INT");
        thread::sleep(Duration::from_millis(5));
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(matches!(server.process().wait().code(), Some(0 | 130)));
}

#[test]
fn every_command_has_help_with_examples() {
    for command in [
        "serve",
        "append",
        "read",
        "tail",
        "trim",
        "stats",
        "run create",
        "run list",
        "run close",
        "run delete",
    ] {
        let args = command.split(' ').chain(["--help"]);
        let help = Process::start(braidlog().args(args)).end().clean();
        assert!(help.text().contains("Example"), "{command}: {}", help.text());
    }
    let version = Process::start(braidlog().arg("--version")).end().clean();
    assert_eq!(version.text(), format!("braidlog {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_benchmark_tells_every_figure_beside_its_probe_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let bench = |args: &[&str]| {
        let common = ["bench", "--json", "--runs", "2", "--seconds", "0.05", "--data-dir", dir];
        Process::start(braidlog().args(common).args(args)).end()
    };
    let small = ["--records", "2000", "--existing", "1,50", "--tails", "3", "--crowd", "5"];
    for (place, workloads, rows) in
        [(&[][..], "w1,w4,w5,w6,w7", 4 + 3 + 5 + 2 + 2), (&["--embedded"], "w1,w2,w3,w4,w6", 10)]
    {
        let ended = bench(&[place, &["--workload", workloads], &small].concat()).clean();
        let lines = json_lines(ended.text());
        assert_eq!(lines.len(), rows, "{}", ended.text());
        for line in lines {
            assert_eq!(line["runs"], 2, "{line}");
            assert!(0.0 < line["probe_us"].as_f64().expect("a probe"), "{line}");
            let rate = line["records_per_second"].as_f64();
            let is_timed = line["workload"] == "w7" && line["p50_us"].is_f64();
            assert!(is_timed || rate.is_some_and(|rate| 0.0 < rate), "{line}");
            let has_ceiling = line["kind"] == "gRPC session" && line["workload"] == "w1";
            assert!(!has_ceiling || line["to_wire"].is_f64(), "{line}");
        }
    }
    assert_eq!(fs::read_dir(dir).expect("directory").count(), 0, "it is as it was");
    refused(&bench(&["--connect", "http://h:1", "--workload", "w7"]), 2, &["w7", "--connect"]);
    refused(&bench(&["--compare", "redis.example"]), 2, &["redis://HOST:PORT"]);
    refused(&bench(&["--writers", "0"]), 2, &["--writers 0"]);
}
