//! Failing calls: an error at every write, sync and change of a name, at every call of its kind;
//! and a disk that is full. The answer is a success, a named error, or the store stops; nothing
//! acknowledged is lost, and a failed sync is never tried again.

use braidlog::{
    Error, OpenError, Query,
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

/// Callers of the history that calls fail in.
const SEED: u64 = 5;
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
fn history(disk: &SimDisk) -> Past {
    let mut heritage = Heritage { model: Model::new(RUNS as usize), unanswered: Vec::new() };
    let mut made = Vec::new();
    let mut workload = Workload::talkative(SimRng::new(SEED));
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
        let runs = found.with_model(|model| survey(&found.store, model, rng).runs);
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

fn fail_every(call: Call, whats: &[What]) {
    let Past { made, .. } = history(&SimDisk::new());
    let calls = made.iter().flatten().filter(|made| made.call == call).count() as u64;
    assert!(0 < calls, "{call:?} is called");
    for what in whats {
        for nth in 1..=calls {
            let disk = SimDisk::new();
            disk.inject(Fault::new(call, *what).nth(nth));
            println!("{call:?} number {nth}: {what:?}");
            let past = history(&disk);
            past.made.iter().for_each(|made| check_syncs(made));
            disk.clear_faults();
            for way in ways_on(*what, call, &past) {
                let disk = disk.fork();
                way.map_or_else(|| disk.kill(), |fate| disk.power_cut(fate));
                check_left(&disk, &past.heritage, &mut SimRng::new(nth));
            }
        }
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
            if life.with_model(|model| 0 < model.runs[run].sure) {
                ready(life.store.read(Query::run(run_key(run)))).expect("reads go on");
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

/// Leaves no space on the disk.
fn fill(disk: &SimDisk) {
    const LARGE: u64 = 1 << 40;
    disk.set_capacity(Some(LARGE));
    let free = disk.vfs().space().expect("told").free;
    disk.set_capacity(Some(LARGE - free));
}
