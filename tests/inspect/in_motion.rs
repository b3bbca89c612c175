//! A store that is written to faster than its journal is kept: slots are used again while they are
//! looked at. What was there when a look began is told, and nothing is taken for damaged.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use braidlog::{
    Append, Error, IfAbsent, NewRecord, Options, RunKey, Store,
    journal::scan::{Ended, Next, SlotFile},
    offline::{Directory, Item, LookError, RunFilter, Survey, VerifyHow},
    platform::{File, Open, Platform, RelPath, Space, Vfs},
};

use super::scene::Scene;

const RUNS: usize = 4;
const LOOKS: usize = 20;

/// What is appended to a run, and how much of it is acknowledged.
struct Written {
    acknowledged: [AtomicU64; RUNS],
    is_over: AtomicBool,
}

/// Ends the writers, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn key(run: usize) -> RunKey {
    RunKey::new(format!("run-{run}"))
}

async fn append(store: &Store, run: usize, records: usize) {
    let key = key(run);
    loop {
        let records = (0..records).map(|_| NewRecord::new(vec![run as u8 + 1; 300])).collect();
        let append = Append { stream: "out".into(), records, ..Append::default() };
        match store.append(&key, append, IfAbsent::Create).await {
            Ok(_) => return,
            // It is written faster than slots are made, or emptied.
            Err(Error::Busy { retry_after_ms }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn write(store: &Store, run: usize, written: &Written) {
    while !written.is_over.load(Ordering::Relaxed) {
        append(store, run, 8).await;
        written.acknowledged[run].fetch_add(8, Ordering::Relaxed);
    }
}

/// Reads a run to its end: how many records follow each other from the first on.
fn count(survey: &Survey, run: usize) -> u64 {
    let mut log = survey.find("default", &key(run).run_id).expect("it is there");
    let mut next = 0;
    while let Some(item) = log.next_item().expect("readable") {
        match item {
            Item::Frame(frame, _) => {
                assert_eq!(frame.header.first_seq.0, next, "in order and once");
                next = frame.next_seq().0;
            }
            Item::Missing { from, to, cause, .. } => panic!("{from}..{to} is missing: {cause}"),
        }
    }
    next
}

fn look(directory: &Directory, written: &Written, look: usize) {
    let before: Vec<u64> =
        written.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let survey = directory.survey().expect("a store");
    assert_eq!(survey.problems, [], "nothing is damaged");
    // Whoever reads takes so much time that what he began with has left the journal.
    let oldest = survey.slots.first().map(|slot| slot.listed.file_seq);
    let mut has_left = oldest.is_none();
    let mut hold = || {
        while !has_left {
            let now = directory.survey().expect("a store");
            has_left = now.slots.iter().all(|slot| Some(slot.listed.file_seq) != oldest);
        }
    };
    match look % 5 {
        0 => {
            hold();
            for (run, before) in before.iter().enumerate() {
                let found = count(&survey, run);
                assert!(*before <= found, "{found} of {before} records of run {run}");
            }
        }
        1 => {
            let mut tails = [0; RUNS];
            let found = survey.each_run(RunFilter::default(), |run| {
                hold();
                let state = run.state.expect("nothing is damaged");
                tails[usize::from(state.run_id.as_bytes()[4] - b'0')] = state.tail.0;
                Ok(())
            });
            found.expect("readable");
            let is_whole = before.iter().zip(tails).all(|(before, tail)| *before <= tail);
            assert!(is_whole, "{tails:?} of {before:?}");
        }
        2 => {
            let number = |run| survey.find("default", &key(run).run_id).expect("there").run_no();
            let numbers: [_; RUNS] = std::array::from_fn(number);
            let mut counts = [0; RUNS];
            let found = survey.each_frame(|frame, _| {
                hold();
                let run = numbers.iter().position(|number| *number == frame.header.run_no);
                counts[run.expect("a run")] += u64::from(frame.header.count);
                Ok(true)
            });
            found.expect("readable");
            let is_whole = before.iter().zip(counts).all(|(before, count)| *before <= count);
            assert!(is_whole, "{counts:?} of {before:?}");
        }
        3 => {
            hold();
            let how = VerifyHow { jobs: 1, deep: look.is_multiple_of(2), rests: 0 };
            let found = survey.verify(how, &|_, _| {}).expect("readable");
            assert!(!found.is_corrupt(), "{:?} {:?}", found.findings, found.losses);
        }
        _ => match directory.plan() {
            Ok(plan) => drop(plan.expect("it would start")),
            Err(LookError::InMotion) => {}
            Err(error) => panic!("{error}"),
        },
    }
}

/// A disk on which something happens whenever a file is opened.
struct Eventful {
    disk: Arc<dyn Vfs>,
    when_opened: Box<dyn Fn(&RelPath) + Send + Sync>,
}

impl Vfs for Eventful {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn File>> {
        let opened = self.disk.open(path, how)?;
        (self.when_opened)(path);
        Ok(opened)
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &RelPath) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn location(&self) -> PathBuf {
        self.disk.location()
    }
}

/// The same directory, on such a disk.
fn eventful(
    directory: &Directory,
    when_opened: impl Fn(&RelPath) + Send + Sync + 'static,
) -> Directory {
    let platform = directory.platform().clone();
    let disk = Eventful { disk: platform.vfs.clone(), when_opened: Box::new(when_opened) };
    Directory::on(Platform { vfs: Arc::new(disk), ..platform })
}

/// The same directory, where a slot leaves the journal whenever one is opened: every look takes long.
fn slow(directory: &Directory) -> Directory {
    let same = directory.clone();
    let oldest_slot = move || {
        let survey = same.survey().expect("a store");
        // None if all that were listed have left it while they were read.
        survey.live.slots.first().map(|slot| slot.file_seq)
    };
    eventful(directory, move |path| {
        if path.as_str().starts_with("journal/slot-") {
            let oldest = oldest_slot();
            while oldest.is_some() && oldest_slot() == oldest {
                thread::yield_now();
            }
        }
    })
}

#[test]
fn what_is_written_while_a_start_is_simulated_is_not_seen_and_not_taken_for_damage() {
    let folder = tempfile::tempdir().expect("folder");
    let runtime = Arc::new(tokio::runtime::Runtime::new().expect("starts"));
    let options = Options {
        slot_bytes_first: 64 << 10,
        slot_bytes: 64 << 10,
        manifest_bytes: 64 << 10,
        ..Options::new(folder.path())
    };
    let store = Arc::new(Store::open(options).expect("opens"));
    let go_on = {
        let (runtime, store) = (runtime.clone(), store.clone());
        // More than a slot takes.
        move || (0..20).for_each(|_| runtime.block_on(append(&store, 0, 1)))
    };
    let come = folder.path().join("packs/00000000000000ff.pack");
    go_on();
    let directory = Directory::open(folder.path()).expect("there");
    let starts_seen = Arc::new(AtomicU64::new(0));
    let starts = starts_seen.clone();
    // Recovery begins with the identity of the store.
    let busy = eventful(&directory, move |path| {
        if path.as_str() == "STORE" {
            starts.fetch_add(1, Ordering::Relaxed);
            go_on();
            fs::write(&come, "of a flush that goes on").expect("written");
        }
    });
    let frames_in = |directory: &Directory| {
        let plan = directory.plan().expect("seen at one moment").expect("it would start");
        // What came since is none that was left behind.
        let came =
            plan.leftovers().iter().filter(|path| path.as_str().ends_with("ff.pack")).count();
        (plan.summary().frames, came)
    };
    let come = folder.path().join("packs/00000000000000ff.pack");
    let (before, _) = frames_in(&directory);
    for written in [0, 20, 40] {
        assert_eq!(frames_in(&busy), (before + written, 0));
        fs::remove_file(&come).expect("it came");
    }
    assert_eq!(starts_seen.load(Ordering::Relaxed), 3, "the first look sufficed");
    drop(busy);
    let store = Arc::into_inner(store).expect("nobody else has it");
    runtime.block_on(store.close()).expect("closes");
}

#[test]
fn a_look_at_a_slot_that_grows_ends_where_the_slot_ended_when_it_began() {
    let scene = Scene::killed();
    let survey = scene.survey();
    let seen = survey.slots.last().expect("a slot");
    let [.., _, newest] = &seen.blocks[..] else { panic!("too few blocks") };
    let (path, at) = (seen.path.as_str(), newest.position as usize);
    let block = &scene.files[path][at..at + newest.header.disk_bytes()];
    let header = seen.header.expect("sound");
    let count = |is_frozen: bool| {
        scene.disk.overwrite(path, newest.position, &vec![0; block.len()]);
        let file = SlotFile::open(&*scene.platform().vfs, seen.path.clone()).expect("there");
        let file = if is_frozen { file.as_of_now().expect("read") } else { file };
        scene.disk.overwrite(path, newest.position, block);
        let (block_no, prev_crc) = (header.first_block_no, header.prev_crc);
        let mut next = Next { block_no, prev_crc, previous_clean: false };
        let mut found = 0;
        let ended = file.scan(&header, &mut next, None, |_| {
            found += 1;
            Ok(())
        });
        (found, ended.expect("sound"))
    };
    let before = Ended::EndOfLog { torn: false, position: newest.position };
    assert_eq!(count(true), (seen.blocks.len() - 1, before));
    assert_eq!(count(false).0, seen.blocks.len());
}

/// The scheduling policy of a command that looks into a directory, see sched(7).
#[cfg(target_os = "linux")]
fn policy_of(dir: &Path, arguments: &[&str]) -> String {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_braidlog-inspect"));
    tool.arg("--data-dir").arg(dir).args(["watch", "--json"]).args(arguments);
    let mut tool = tool.stdout(Stdio::piped()).spawn().expect("starts");
    // Its first line comes when it has looked.
    let mut line = String::new();
    BufReader::new(tool.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
    let stat = fs::read_to_string(format!("/proc/{}/stat", tool.id())).expect("it runs");
    tool.kill().expect("ends");
    tool.wait().expect("ended");
    let behind_name = stat.rsplit_once(')').expect("a name").1;
    // The policy is field 41 of proc(5); the first behind the name is field 3.
    behind_name.split_whitespace().nth(41 - 3).expect("a policy").to_owned()
}

#[test]
#[cfg(target_os = "linux")]
fn beside_a_store_that_somebody_has_open_the_tool_runs_where_nobody_else_does_unless_urgent() {
    const SCHED_OTHER: &str = "0";
    const SCHED_IDLE: &str = "5";
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("data");
    let store = Store::open(Options::new(&dir)).expect("opens");
    assert_eq!(policy_of(&dir, &[]), SCHED_IDLE);
    assert_eq!(policy_of(&dir, &["--urgent"]), SCHED_OTHER);
    drop(store);
    assert_eq!(policy_of(&dir, &[]), SCHED_OTHER, "nobody has it open");
}

#[test]
fn what_leaves_the_journal_while_it_is_read_is_neither_damaged_nor_missing() {
    let folder = tempfile::tempdir().expect("folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("starts");
    let options = Options {
        slot_bytes_first: 128 << 10,
        slot_bytes: 128 << 10,
        manifest_bytes: 64 << 10,
        flush_bytes: 256 << 10,
        ..Options::new(folder.path())
    };
    let store = Store::open(options).expect("opens");
    let written = Written {
        acknowledged: std::array::from_fn(|_| AtomicU64::new(0)),
        is_over: AtomicBool::new(false),
    };
    let slots_used = || {
        let survey = Directory::open(folder.path()).expect("there").survey().expect("a store");
        survey.slots.last().expect("a slot").listed.file_seq
    };
    thread::scope(|scope| {
        let _over = Over(&written.is_over);
        for run in 0..RUNS {
            let (runtime, store, written) = (&runtime, &store, &written);
            scope.spawn(move || runtime.block_on(write(store, run, written)));
        }
        while written.acknowledged.iter().any(|count| count.load(Ordering::Relaxed) == 0) {
            thread::yield_now();
        }
        let directory = Directory::open(folder.path()).expect("there");
        let first = slots_used();
        (0..LOOKS).for_each(|n| look(&directory, &written, n));
        // And with slots that leave the journal while it is surveyed.
        let slow = slow(&directory);
        (0..3).for_each(|n| look(&slow, &written, n));
        let used = slots_used() - first;
        println!("{LOOKS} looks while {used} slots were used");
        assert!(LOOKS as u64 <= used, "{used} slots were used: too few are read while they change");
    });
    runtime.block_on(store.close()).expect("closes");
}
