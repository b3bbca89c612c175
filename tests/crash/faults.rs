//! Failing calls: an error at every write, sync and change of a name, at every call of its kind;
//! and a disk that is full. The answer is a success, a named error, or the store stops; nothing
//! acknowledged is lost, and a failed sync is never tried again.

use std::collections::BTreeMap;

use braidlog::{
    Error, OpenError, Query, Refusal,
    engine::Progress,
    platform::{
        Vfs,
        sim::{Call, Fate, Fault, Mode, SimClock, SimDisk, SimRng, What},
    },
};

use super::{
    life::{Heritage, Life, Made, Opening},
    model::{Model, Request},
    survey::{ready, run_key, survey},
    workload::{RUNS, Workload, in_order, smallest},
};

/// Callers of the histories that calls fail in.
const SEEDS: std::ops::Range<u64> = 5..11;
const TURNS: u64 = 24;

fn open(disk: &SimDisk, seed: u64, model: Model) -> Opening {
    Life::open(disk, &SimClock::new(1), seed, &smallest(), model)
}

/// What a history left.
struct Past {
    heritage: Heritage,
    /// The calls that were made in each life.
    made: Vec<Vec<Made>>,
    /// Whether the store was ever open.
    opened: bool,
}

/// Two lives, or one that ends when the store stops.
fn history(disk: &SimDisk, seed: u64) -> Past {
    let mut heritage = Heritage { model: Model::new(RUNS as usize), unanswered: Vec::new() };
    let mut made = Vec::new();
    let mut workload = Workload::talkative(SimRng::new(seed));
    for (seed, turns) in [(1, TURNS), (2, 2)] {
        let opening = open(disk, seed, heritage.model.clone());
        let mut life = match opening.life {
            Ok(life) => life,
            Err(OpenError::Io { .. }) => {
                made.push(opening.made);
                return Past { heritage, opened: 1 < made.len(), made };
            }
            Err(other) => panic!("a failing call is told as such, not as {other:?}"),
        };
        for (run, batch) in in_order(heritage.unanswered) {
            life.submit(run, Request::Append(batch));
        }
        (0..turns).for_each(|_| workload.take_turn(&mut life));
        life.settle();
        let stopped = life.idle() == Progress::Stopped;
        let errors = life.take_errors();
        made.push(life.made());
        if stopped || !errors.is_empty() {
            check_errors(&errors, &mut life, &mut workload);
            return Past { heritage: life.abandon().0, opened: true, made };
        }
        heritage = life.shut_down().0;
    }
    Past { heritage, made, opened: true }
}

/// Those who waited know that they know nothing; whoever comes later is turned away.
fn check_errors(errors: &[Error], life: &mut Life, workload: &mut Workload) {
    let named = |error: &Error| {
        matches!(error, Error::OutcomeUnknown { .. } | Error::Stopped { .. } | Error::DiskFull)
    };
    assert!(errors.iter().all(named), "{errors:?}");
    if !errors.is_empty() && errors.iter().all(|error| matches!(error, Error::DiskFull)) {
        return;
    }
    workload.take_turn(life);
    let errors = life.take_errors();
    let turned_away = |error: &Error| matches!(error, Error::Stopped { .. });
    assert!(!errors.is_empty() && errors.iter().all(turned_away), "{errors:?}");
    assert_eq!(life.step(), Progress::Stopped);
    assert!(!life.is_waiting(), "everybody was told");
}

/// No sync is made of a file or directory after one of it failed.
fn check_syncs(made: &[Made]) {
    let is_sync = |made: &&Made| matches!(made.call, Call::Sync | Call::SyncDir);
    let mut failed: Vec<&Made> = Vec::new();
    for made in made.iter().filter(is_sync) {
        let again = failed.iter().any(|before| before.path == made.path);
        assert!(!again, "{} was synced again after a sync of it had failed", made.path);
        if !made.succeeded {
            failed.push(made);
        }
    }
}

/// Opens the store on what is left, works on, cuts the power, and opens it again.
fn check_left(disk: &SimDisk, heritage: &Heritage, rng: &mut SimRng) {
    let mut workload = Workload::new(SimRng::new(rng.next_u64()));
    let mut life = open(disk, rng.next_u64(), heritage.model.clone()).life;
    for round in 0..2 {
        let mut found = life.unwrap_or_else(|error| panic!("it opens again: {error}"));
        let runs = found.with_model(|model| survey(&found.store, model, rng, 1).runs);
        found.with_model(|model| model.settle(&runs));
        if round == 0 {
            for (run, batch) in in_order(heritage.unanswered.clone()) {
                found.submit(run, Request::Append(batch));
            }
            (0..4).for_each(|_| workload.take_turn(&mut found));
            found.settle();
        }
        let errors = found.take_errors();
        assert!(errors.is_empty(), "nothing fails any more: {errors:?}");
        let (Heritage { model, .. }, _) = found.abandon();
        disk.power_cut(Fate::random(rng.next_u64()));
        life = open(disk, rng.next_u64(), model).life;
    }
}

/// How the machine goes on after a failure: after a power cut, or none.
fn ways_on(what: What, call: Call, past: &Past) -> Vec<Option<Fate>> {
    let mut ways: Vec<_> = Mode::ALL.map(|mode| Some(Fate::new(mode, 1))).to_vec();
    // The first start makes directories. If the sync of their names fails and lies, only a restart
    // of the machine shows what is there.
    if past.opened || (what, call) != (What::SyncFailsPageClean, Call::SyncDir) {
        ways.push(None);
    }
    ways
}

/// Fails every call of a kind, one in each history.
fn fail_every(call: Call, whats: &[What]) {
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    for seed in SEEDS {
        let Past { made, .. } = history(&SimDisk::new(), seed);
        let calls: Vec<&Made> = made.iter().flatten().filter(|made| made.call == call).collect();
        for (made, nth) in calls.iter().zip(1..) {
            for what in whats {
                println!("history {seed}, {call:?} number {nth}, of {}: {what:?}", made.path);
                fail(call, *what, nth, seed);
                *failed.entry(kind_of(&made.path)).or_default() += 1;
            }
        }
    }
    println!("failed {call:?}: {failed:?}");
    let wanted: &[&str] = match call {
        Call::Write | Call::Sync | Call::Create => &["MANIFEST", "journal", "pack", "names"],
        Call::Unlink => &["MANIFEST", "pack", "names"],
        Call::Rename => &["CURRENT", "pack", "names"],
        _ => &["packs"],
    };
    assert!(wanted.iter().all(|wanted| failed.contains_key(*wanted)), "{failed:?}");
}

/// What a file is.
fn kind_of(path: &str) -> String {
    let kinds = ["MANIFEST", "CURRENT", "STORE", ".pack", ".names", "journal", "packs"];
    let kind = kinds.into_iter().find(|kind| path.contains(kind)).unwrap_or(path);
    kind.trim_start_matches('.').to_owned()
}

fn fail(call: Call, what: What, nth: u64, seed: u64) {
    let disk = SimDisk::new();
    disk.inject(Fault::new(call, what).nth(nth));
    let past = history(&disk, seed);
    past.made.iter().for_each(|made| check_syncs(made));
    disk.clear_faults();
    for way in ways_on(what, call, &past) {
        let disk = disk.fork();
        way.map_or_else(|| disk.kill(), |fate| disk.power_cut(fate));
        check_left(&disk, &past.heritage, &mut SimRng::new(seed));
    }
}

#[test]
fn every_failing_write_is_survived() {
    fail_every(Call::Write, &[What::Eio, What::ShortWrite, What::Enospc]);
}

#[test]
fn every_failing_sync_is_survived_and_none_is_repeated() {
    fail_every(Call::Sync, &[What::Eio, What::SyncFailsPageClean]);
}

#[test]
fn every_failing_directory_sync_is_survived_and_none_is_repeated() {
    fail_every(Call::SyncDir, &[What::Eio, What::SyncFailsPageClean]);
}

#[test]
fn every_failing_change_of_names_is_survived() {
    for call in [Call::Create, Call::CreateDir, Call::Rename, Call::Unlink] {
        fail_every(call, &[What::Eio, What::Enospc]);
    }
}

/// Starts on what a history left, reads, writes, and copies the journal, with a call that fails.
/// Gives how far it came.
fn go_on(disk: &SimDisk, past: &Past, seed: u64) -> &'static str {
    let mut life = match open(disk, seed, past.heritage.model.clone()).life {
        Ok(life) => life,
        Err(OpenError::Io { .. }) => {
            disk.clear_faults();
            check_left(disk, &past.heritage, &mut SimRng::new(seed));
            return "start";
        }
        Err(other) => panic!("a failing call is told as such, not as {other:?}"),
    };
    let struck_by = |stage| (disk.faults_left() == 0).then_some(stage);
    let mut stage = struck_by("start");
    for run in 0..RUNS as usize {
        match ready(life.store.read(Query::run(run_key(run)))) {
            Ok(_) | Err(Error::Refused(Refusal::RunNotFound | Refusal::RunDeleted)) => {}
            Err(Error::Io { .. }) if stage.is_none() && disk.faults_left() == 0 => {}
            Err(other) => panic!("a failing read is told as such, not as {other:?}"),
        }
    }
    stage = stage.or(struck_by("reads"));
    let mut workload = Workload::talkative(SimRng::new(seed));
    workload.submit_some(&life);
    life.settle();
    stage = stage.or(struck_by("commands"));
    life.flush();
    while life.collect() {}
    stage = stage.or(struck_by("copies"));
    let errors = life.take_errors();
    let is_io = |error: &Error| matches!(error, Error::Io { .. });
    match life.step() {
        Progress::Stopped => check_errors(&errors, &mut life, &mut workload),
        _ => {
            assert!(errors.iter().all(is_io), "{errors:?}");
            disk.clear_faults();
            for run in 0..RUNS as usize {
                match ready(life.store.read(Query::run(run_key(run)))) {
                    Ok(_) | Err(Error::Refused(Refusal::RunNotFound | Refusal::RunDeleted)) => {}
                    Err(other) => panic!("what failed once fails again: {other}"),
                }
            }
        }
    }
    disk.clear_faults();
    let (heritage, _) = life.abandon();
    disk.power_cut(Fate::random(seed));
    check_left(disk, &heritage, &mut SimRng::new(seed));
    stage.unwrap_or("none")
}

#[test]
fn every_failing_read_is_told_and_nothing_comes_of_it() {
    let mut failed: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let calls = [
        (Call::Read, "read"),
        (Call::Open, "open"),
        (Call::DropCache, "drop cache"),
        (Call::Len, "len"),
        (Call::List, "list"),
        (Call::FreeBytes, "space"),
        (Call::Lock, "lock"),
    ];
    for (call, name) in calls {
        for seed in SEEDS {
            let disk = SimDisk::new();
            let past = history(&disk, seed);
            for nth in 1.. {
                println!("history {seed}, {call:?} number {nth}");
                let disk = disk.fork();
                disk.inject(Fault::new(call, What::Eio).nth(nth));
                let stage = go_on(&disk, &past, seed);
                if stage == "none" {
                    break;
                }
                *failed.entry((name, stage)).or_default() += 1;
            }
        }
    }
    println!("failed: {failed:?}");
    for wanted in [("read", "start"), ("read", "reads"), ("open", "start"), ("list", "start")] {
        assert!(failed.contains_key(&wanted), "{failed:?}");
    }
}

#[test]
fn a_full_disk_refuses_appends_and_nothing_else_until_there_is_space_again() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let mut workload = Workload::talkative(SimRng::new(seed));
        let mut life = open(&disk, seed, Model::new(RUNS as usize)).life.expect("opens");
        (0..5).for_each(|_| workload.take_turn(&mut life));
        life.settle();
        fill(&disk);
        let mut refused = 0;
        for _ in 0..20 {
            workload.take_turn(&mut life);
            let errors = life.take_errors();
            let full = errors.iter().all(|error| matches!(error, Error::DiskFull));
            assert!(full, "{errors:?}");
            refused += errors.len();
        }
        assert!(10 < refused, "few appends were refused: {refused}");
        for run in 0..RUNS as usize {
            match ready(life.store.read(Query::run(run_key(run)))) {
                Ok(_) | Err(Error::Refused(Refusal::RunNotFound | Refusal::RunDeleted)) => {}
                Err(error) => panic!("reads go on: {error}"),
            }
        }
        disk.set_capacity(None);
        life.settle();
        assert!(!life.is_waiting(), "what was taken is written when there is space");
        (0..5).for_each(|_| workload.take_turn(&mut life));
        life.settle();
        let errors = life.take_errors();
        assert!(errors.is_empty() && !life.is_waiting(), "{errors:?}");
        let (heritage, _) = life.abandon();
        disk.power_cut(Fate::random(seed));
        check_left(&disk, &heritage, &mut SimRng::new(seed));
    }
}

#[test]
fn a_disk_that_fills_up_while_the_journal_is_copied_stops_nothing_and_nothing_is_left_behind() {
    let (mut refused, mut failed) = (0, 0);
    for seed in 0..60 {
        let (disk, mut rng) = (SimDisk::new(), SimRng::new(seed));
        let mut workload = Workload::talkative(SimRng::new(seed));
        let mut life = open(&disk, seed, Model::new(RUNS as usize)).life.expect("opens");
        for _ in 0..6 {
            (0..8).for_each(|_| workload.take_turn(&mut life));
            life.settle();
            fill_but_for(&disk, rng.below(96 << 10));
            for _ in 0..8 {
                workload.take_turn(&mut life);
                failed += u32::from(!life.flush());
                let errors = life.take_errors();
                let full = |error: &Error| matches!(error, Error::DiskFull | Error::Busy { .. });
                assert!(errors.iter().all(full), "history {seed}: {errors:?}");
                refused += errors.len();
            }
            disk.set_capacity(None);
            life.settle();
            assert!(life.flush(), "history {seed}: it is copied when there is space");
            while life.collect() {}
            assert!(!life.is_waiting() && life.take_errors().is_empty());
            let files = disk.files();
            let count = |start: &str| files.iter().filter(|path| path.starts_with(start)).count();
            assert_eq!(count("tmp/"), 0, "history {seed}: {files:?}");
            let packs = 2 * life.store.stats().disk.packs;
            assert_eq!(count("packs/") as u64, packs, "history {seed}: {files:?}");
            assert_eq!(count("MANIFEST"), 1, "history {seed}: {files:?}");
        }
        let (heritage, _) = life.abandon();
        disk.power_cut(Fate::random(seed));
        check_left(&disk, &heritage, &mut SimRng::new(seed));
    }
    println!("refused for want of space: {refused}, copies that failed: {failed}");
    assert!(0 < refused && 0 < failed);
}

/// Leaves no space on the disk.
fn fill(disk: &SimDisk) {
    fill_but_for(disk, 0);
}

fn fill_but_for(disk: &SimDisk, left: u64) {
    const LARGE: u64 = 1 << 40;
    disk.set_capacity(Some(LARGE));
    let free = disk.vfs().space().expect("told").free;
    disk.set_capacity(Some(LARGE - free + left));
}
