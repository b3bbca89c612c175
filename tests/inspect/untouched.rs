//! Nothing is written: not by any command, not on a read-only mount, not beside a running server.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use super::screens::{COMMANDS, Folder};

/// A file: its bytes, and all times that the system keeps of it.
type Seen = (Vec<u8>, [(i64, i64); 3]);

fn times(path: &Path) -> [(i64, i64); 3] {
    let meta = fs::metadata(path).expect("metadata");
    [
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
        (meta.atime(), meta.atime_nsec()),
    ]
}

/// Reads a directory; what is read here sets times of access, so those are taken first.
fn look(dir: &Path, found: &mut BTreeMap<String, Seen>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            look(&path, found);
            continue;
        }
        let times = times(&path);
        found.insert(path.display().to_string(), (fs::read(&path).expect("file"), times));
    }
}

fn seen(dir: &Path) -> BTreeMap<String, Seen> {
    let mut found = BTreeMap::new();
    look(dir, &mut found);
    found
}

/// The commands that look at the directory they are given, without the one that makes a new one.
fn commands() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(_, command)| *command).filter(|command| !command.contains(" --to "))
}

#[test]
fn no_command_changes_a_byte_or_a_time() {
    let folder = Folder::new();
    // The first look sets the times of access that later ones find.
    drop(seen(folder.path()));
    let before = seen(folder.path());
    for command in commands().chain(["damaged recover --to ../elsewhere"]) {
        if command.contains("--to") {
            let to = tempfile::tempdir().expect("folder");
            let to = to.path().join("new");
            folder.screen(&format!("damaged recover --to {}", to.display()));
        } else {
            folder.screen(command);
        }
        let after = seen(folder.path());
        assert_eq!(before.len(), after.len(), "{command}: files came or went");
        for (path, (bytes, times)) in &before {
            let (found, found_times) = &after[path];
            assert!(bytes == found, "{command}: {path} has other bytes");
            assert_eq!(times[..2], found_times[..2], "{command}: {path} was changed");
        }
    }
}

/// Mounts a folder over itself, to be read only.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(path: &'a Path) -> Option<Self> {
        let mount = |args: &[&str]| {
            let status = Command::new("mount").args(args).arg(path).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let text = path.to_str()?;
        if !mount(&["--bind", text]) {
            return None;
        }
        let mounted = Self(path);
        mount(&["-o", "remount,bind,ro"]).then_some(mounted)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // If this fails, the folder cannot be removed, which says it.
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn every_command_works_on_a_read_only_mount() {
    let folder = Folder::new();
    let before: Vec<_> = commands().map(|command| folder.screen(command)).collect();
    let Some(_mounted) = Mounted::new(folder.path()) else {
        println!("NOT RUN: nothing can be mounted here");
        return;
    };
    assert!(fs::write(folder.path().join("x"), "x").is_err(), "the mount can be written to");
    for (command, before) in commands().zip(before) {
        assert_eq!(folder.screen(command), before, "{command}");
    }
}

/// A server that is killed when the test ends.
struct Server(Child);

/// Ends whoever goes on until it is over, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn beside_a_server_under_load_every_command_answers_and_every_append_is_acknowledged() {
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("braidlog-data");
    let mut child = Command::new(env!("CARGO_BIN_EXE_braidlog"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let ready = said.by_ref().map(|line| line.expect("text")).find_map(|line| {
        let rest = line.strip_prefix("listening on ")?;
        rest.split_once(',').map(|(address, _)| address.to_owned())
    });
    let address = ready.expect("says where it listens");
    let server = Server(child);
    let (is_over, lines) = (AtomicBool::new(false), AtomicU64::new(0));
    let server_url = format!("http://{address}");
    let append = |n: u32| {
        let mut client = Command::new(env!("CARGO_BIN_EXE_braidlog"))
            .args(["append", &format!("run-{n}"), "out", "--server", &server_url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let mut input = client.stdin.take().expect("piped");
        while !is_over.load(Ordering::Relaxed) {
            writeln!(input, "a line of run {n}, and so on and so on and so on").expect("taken");
            lines.fetch_add(1, Ordering::Relaxed);
            // What moves faster than it is read is another test's.
            thread::sleep(Duration::from_micros(300));
        }
        drop(input);
        assert!(client.wait().expect("ends").success(), "every line was acknowledged");
    };
    thread::scope(|scope| {
        let (append, _over) = (&append, Over(&is_over));
        (0..4).for_each(|n| drop(scope.spawn(move || append(n))));
        // Until there is something to be seen of every run.
        let runs = || {
            let ended = Command::new(env!("CARGO_BIN_EXE_braidlog-inspect"))
                .current_dir(folder.path())
                .args(["runs", "--json"])
                .output()
                .expect("runs");
            String::from_utf8_lossy(&ended.stdout).matches("\"run_id\"").count()
        };
        let tries = (0..2_000).take_while(|_| runs() < 4).count();
        assert!(tries < 2_000, "no run is to be seen, {} lines on", lines.load(Ordering::Relaxed));
        for command in [
            "info",
            "runs",
            "streams run-0",
            "records run-1 --last 3",
            "segments",
            "journal",
            "verify -q",
            "verify --deep -q",
            "grep -c nothing",
            "simulate-open",
            "inbox run-2",
            "history run-3 --at 1",
            "stats",
            "export --run run-0",
        ] {
            let ended = Command::new(env!("CARGO_BIN_EXE_braidlog-inspect"))
                .current_dir(folder.path())
                .args(command.split(' '))
                .output()
                .expect("runs");
            let code = ended.status.code();
            let err = String::from_utf8_lossy(&ended.stderr);
            let out = String::from_utf8_lossy(&ended.stdout);
            let last = out.lines().last().unwrap_or_default();
            assert!(matches!(code, Some(0 | 11)), "{command}: {code:?} {err} {last}");
        }
    });
    drop(server);
}
