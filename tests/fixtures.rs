//! Data directories of every format version, which every later version opens and reads the same.
//!
//! `tests/fixtures/v1` was written by version 1 of the format; `v1.txt` is what is in it. A later
//! format version adds a directory beside it and leaves this one as it is. While version 1 is not
//! released, `BRAIDLOG_BLESS=1 cargo test --test fixtures` writes both anew.

#![allow(clippy::disallowed_methods, reason = "a test copies directories")]

use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use braidlog::{
    Append, Close, Create, Delete, Error, Gap, IfAbsent, Index, NewRecord, Options, Outcome,
    Producer, Query, Record, Refusal, Retention, RunInfo, RunKey, Store, StreamInfo, TailItem,
    Trim,
};

/// What there is in the directory: `packed` lies in packs, `late` in the journal, `both` in both.
const RUNS: [&str; 7] = ["packed", "closed", "trimmed", "deleted", "again", "both", "late"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn options(dir: &Path) -> Options {
    Options {
        slot_bytes_first: 32 << 10,
        slot_bytes: 32 << 10,
        manifest_bytes: 32 << 10,
        retention: Retention::default(),
        ..Options::new(dir)
    }
}

/// Appends with producer numbers, which it counts.
#[derive(Default)]
struct Writer {
    numbers: HashMap<(String, &'static str), u64>,
}

impl Writer {
    async fn append(&mut self, store: &Store, run: &str, stream: &'static str) {
        let seq = self.numbers.entry((run.into(), stream)).or_default();
        let body = format!("{run} {stream} {seq} {}", "and so on ".repeat(*seq as usize % 5));
        let append = Append {
            stream: stream.into(),
            records: vec![NewRecord::new(body)],
            producer: Some(Producer { id: stream.into(), epoch: 1, seq: *seq }),
            ..Append::default()
        };
        *seq += 1;
        let run = RunKey::new(run);
        store.append(&run, append, IfAbsent::Create).await.expect("appended");
    }

    async fn append_some(&mut self, store: &Store, runs: &[&str]) {
        for n in 0..6 {
            for run in runs {
                self.append(store, run, if n % 3 == 0 { "other" } else { "out" }).await;
            }
        }
    }
}

async fn write(dir: &Path) {
    let store = Store::open(options(dir)).expect("opens");
    let mut writer = Writer::default();
    let create = Create {
        namespace: "default".into(),
        run_id: "packed".into(),
        task: "a task".into(),
        tags: vec!["red".into(), "blue".into()],
        batch: "a batch".into(),
        retention: Some(Retention { records: Some(1_000), ..Retention::default() }),
        ..Create::default()
    };
    store.create_run(create).await.expect("created");
    writer.append_some(&store, &["packed", "closed", "trimmed", "deleted", "again", "both"]).await;
    let close = Close { outcome: Outcome::Completed, output: "done".into(), ..Close::default() };
    store.close_run(&RunKey::new("closed"), close).await.expect("closed");
    let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(3) };
    store.trim(&RunKey::new("trimmed"), trim).await.expect("trimmed");
    store.delete_run(&RunKey::new("again"), Delete::default()).await.expect("deleted");
    let create =
        Create { namespace: "default".into(), run_id: "again".into(), ..Create::default() };
    store.create_run(create).await.expect("created anew");
    store.flush().await.expect("flushed");
    store.delete_run(&RunKey::new("deleted"), Delete::default()).await.expect("deleted");
    writer.append_some(&store, &["both", "late"]).await;
    store.close().await.expect("closed");
}

/// All that a store holds, as text.
async fn dump(store: &Store) -> String {
    let mut text = String::new();
    for run in RUNS {
        let key = RunKey::new(run);
        match store.get_run(&key).await {
            Ok(run) => {
                let RunInfo { run_id, run_uid, task, tags, batch, created_ms, tail, .. } = &run;
                let ended = run.ended.as_ref().map(|end| (end.outcome, &end.output));
                let said = format!("{run_id} {run_uid} {task:?} {tags:?} {batch:?} {ended:?}");
                writeln!(text, "{said} made {created_ms} tail {tail}").expect("text");
            }
            // For a day the store says that it was deleted.
            Err(Error::Refused(Refusal::RunDeleted | Refusal::RunNotFound)) => {
                writeln!(text, "{run}: not there").expect("text");
                continue;
            }
            Err(error) => panic!("{run}: {error}"),
        }
        let query = Query { stop_at_tail: true, allow_gap: true, ..Query::run(key) };
        let mut tail = store.tail(query).await.expect("a run that is there");
        loop {
            match tail.next().await.expect("a run that is sound") {
                TailItem::Records(records, _) => {
                    for record in records.decode().expect("sound") {
                        let Record { stream, seq, index, time_ms, data, .. } = &record;
                        let kind = record.kind();
                        let said = format!("{stream} {seq} {index} {time_ms} {kind:?} {data:?}");
                        writeln!(text, "  {said}").expect("text");
                    }
                }
                TailItem::Streams(streams) => {
                    for StreamInfo { stream, name, trim, tail, closed, .. } in streams {
                        let said = format!("{stream} {name} {trim}..{tail} closed {closed}");
                        writeln!(text, "  stream {said}").expect("text");
                    }
                }
                TailItem::Gap(Gap { stream, from, to }, _) => {
                    writeln!(text, "  gap {stream} {from}..{to}").expect("text");
                }
                TailItem::CaughtUp(_) => {}
                TailItem::End(_, cursor) => {
                    writeln!(text, "  cursor {cursor}").expect("text");
                    break;
                }
            }
        }
    }
    text
}

/// Copies a directory without what every start makes anew: the lock and the index.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let (path, name) = (entry.path(), entry.file_name());
        match path.is_dir() {
            true if name == "index" => {}
            true => copy(&path, &to.join(name)),
            false if name == "LOCK" => {}
            false => drop(fs::copy(&path, to.join(name)).expect("copied")),
        }
    }
}

async fn bless() {
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("data");
    write(&dir).await;
    let _ = fs::remove_dir_all(fixture("v1"));
    copy(&dir, &fixture("v1"));
    let store = Store::open(options(&dir)).expect("opens");
    fs::write(fixture("v1.txt"), dump(&store).await).expect("written");
}

#[tokio::test]
async fn a_directory_of_version_1_is_read_as_it_was_written() {
    if std::env::var_os("BRAIDLOG_BLESS").is_some() {
        bless().await;
    }
    let expected = fs::read_to_string(fixture("v1.txt")).expect("what is in it");
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("data");
    copy(&fixture("v1"), &dir);
    // As it is, once more from what the start before wrote, and with everything in packs.
    for _ in 0..3 {
        let store = Store::open(options(&dir)).expect("opens");
        assert_eq!(dump(&store).await, expected);
        store.flush().await.expect("flushed");
        store.close().await.expect("closed");
    }
}
