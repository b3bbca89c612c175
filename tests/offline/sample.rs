//! A store with a bit of everything, the tool, and what there is in a directory.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::SystemTime,
};

use braidlog::{
    Append, Close, Create, Delete, IfAbsent, Index, NewRecord, Options, Outcome, Producer, Query,
    Record, Retention, RunInfo, RunKey, Send, Store, Trim,
};
use serde_json::Value;

/// Options under which everything is small, and nothing expires.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        slot_bytes_first: 64 << 10,
        slot_bytes: 64 << 10,
        manifest_bytes: 32 << 10,
        retention: Retention::default(),
        ..Options::new(dir)
    }
}

/// Runs whose records and states are compared.
pub(crate) const RUNS: [&str; 5] = ["packed", "closed", "trimmed", "both", "late"];

/// Appends records; the producer's numbers are those of its appends.
pub(crate) async fn append(store: &Store, run: &str, stream: &str, from: u64, count: u64) {
    for n in from..from + count {
        let append = Append {
            stream: stream.into(),
            records: vec![
                NewRecord::new(format!("{run} {stream} {n} {}", "and so on ".repeat(n as usize))),
                NewRecord::new(vec![0xff, n as u8]),
            ],
            producer: Some(Producer { id: stream.into(), epoch: 1, seq: n }),
            ..Append::default()
        };
        store.append(&RunKey::new(run), append, IfAbsent::Create).await.expect("appended");
    }
}

/// Fills a store: runs in packs, in the journal, in both; closed, trimmed, deleted; with inputs.
pub(crate) async fn fill(store: &Store) {
    for run in ["packed", "closed", "trimmed", "both", "deleted"] {
        append(store, run, "out", 0, 3).await;
        append(store, run, "log", 0, 2).await;
    }
    let tagged = Create {
        namespace: "default".into(),
        tags: vec!["blue".into()],
        run_id: "tagged".into(),
        ..Create::default()
    };
    store.create_run(tagged).await.expect("created");
    for n in 0..5 {
        let message = NewRecord { id: format!("m{n}"), ..NewRecord::new("question") };
        let send = Send { run_uid: None, stream: "in".into(), message };
        store.send(&RunKey::new("both"), send).await.expect("sent");
    }
    let close = Close { outcome: Outcome::Completed, output: "42".into(), ..Close::default() };
    store.close_run(&RunKey::new("closed"), close).await.expect("closed");
    let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(2) };
    store.trim(&RunKey::new("trimmed"), trim).await.expect("trimmed");
    store.delete_run(&RunKey::new("deleted"), Delete::default()).await.expect("deleted");
    store.flush().await.expect("flushed");
    append(store, "both", "out", 3, 2).await;
    append(store, "late", "out", 0, 2).await;
}

/// A store with all of that, closed.
pub(crate) async fn sample(dir: &Path) {
    let store = Store::open(options(dir)).expect("opens");
    fill(&store).await;
    store.close().await.expect("closes");
}

/// The records of a run, as readers get them, and the run.
pub(crate) async fn contents(store: &Store, run: &str) -> (Vec<Record>, RunInfo, String) {
    let key = RunKey::new(run);
    let query = Query { allow_gap: true, ..Query::run(key.clone()) };
    let page = store.read(query).await.expect("reads");
    let records = page.records.decode().expect("decodes");
    (records, store.get_run(&key).await.expect("is there"), page.cursor.to_string())
}

/// The tool.
pub(crate) fn inspect(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_braidlog-inspect"));
    command.env_remove("BRAIDLOG_DATA_DIR").arg("--data-dir").arg(dir).args(args);
    command
}

/// Runs the tool; its exit status and what it printed.
pub(crate) fn run(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = inspect(dir, args).stdin(Stdio::null()).output().expect("runs");
    answer(output)
}

/// The same, with something on standard input.
pub(crate) fn run_with(dir: &Path, args: &[&str], input: &str) -> (i32, String) {
    let mut command = inspect(dir, args);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A tool that refuses what it reads leaves the rest of it unread.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    answer(child.wait_with_output().expect("ends"))
}

fn answer(output: Output) -> (i32, String) {
    let status = output.status.code().expect("was not killed");
    let mut text = String::from_utf8(output.stdout).expect("text");
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (status, text)
}

/// Lines of JSON.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A file or directory: its path, bytes, and when it was changed.
pub(crate) type Seen = (PathBuf, Vec<u8>, SystemTime);

/// Every file below a directory with its bytes and times, so that two looks can be compared.
pub(crate) fn everything(dir: &Path) -> Vec<Seen> {
    let (mut folders, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let modified = folder.metadata().and_then(|known| known.modified()).expect("time");
        found.push((folder.clone(), Vec::new(), modified));
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let modified = path.metadata().and_then(|known| known.modified()).expect("time");
            found.push((path.clone(), fs::read(&path).expect("bytes"), modified));
        }
    }
    found.sort();
    found
}

/// Nothing may have changed between two looks: no name, no byte, no time.
pub(crate) fn demand_same(before: &[Seen], after: &[Seen]) {
    let changed = |one: &[Seen], other: &[Seen]| {
        let changed = one.iter().filter(|seen| !other.contains(seen));
        changed.map(|(path, _, time)| (path.clone(), *time)).collect::<Vec<_>>()
    };
    let (gone, come) = (changed(before, after), changed(after, before));
    assert!(gone.is_empty() && come.is_empty(), "changed: {gone:?} {come:?}");
}

/// A copy of a directory in which nobody writes any more: the database of the index does so for a
/// little while after its store was closed.
pub(crate) fn still(dir: &Path) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("folder");
    copy(dir, place.path());
    place
}

/// A copy of a directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            // What the index's database takes away meanwhile is no matter.
            drop(fs::copy(&path, target));
        }
    }
}
