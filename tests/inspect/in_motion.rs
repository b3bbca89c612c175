//! A store that is written to faster than its journal is kept: slots are used again while they are
//! looked at. What was there when a look began is told, and nothing is taken for damaged.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use braidlog::{
    Append, Error, IfAbsent, NewRecord, Options, RunKey, Store,
    offline::{Directory, Item, LookError, RunFilter, Survey, VerifyHow},
};

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

async fn write(store: &Store, run: usize, written: &Written) {
    let body = vec![run as u8 + 1; 300];
    while !written.is_over.load(Ordering::Relaxed) {
        let records = (0..8).map(|_| NewRecord::new(body.clone())).collect();
        let append = Append { stream: "out".into(), records, ..Append::default() };
        match store.append(&key(run), append, IfAbsent::Create).await {
            Ok(_) => drop(written.acknowledged[run].fetch_add(8, Ordering::Relaxed)),
            // It is written faster than it is copied.
            Err(Error::Busy { retry_after_ms }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(error) => panic!("{error}"),
        }
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
    let oldest = survey.slots.first().expect("a slot").listed.file_seq;
    let mut has_left = false;
    let mut hold = || {
        while !has_left {
            let now = directory.survey().expect("a store");
            has_left = now.slots.iter().all(|slot| slot.listed.file_seq != oldest);
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
        let used = slots_used() - first;
        println!("{LOOKS} looks while {used} slots were used");
        assert!(LOOKS as u64 <= used, "{used} slots were used: too few are read while they change");
    });
    runtime.block_on(store.close()).expect("closes");
}
