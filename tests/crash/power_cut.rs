//! The sweep: random histories, cut at every operation of the disk, in several ways each.
//!
//! A history is a chain of lives. In each life the store is opened, callers work, and the life
//! ends in a shutdown, a kill, or in the middle of a commit. Every operation on the way, those of
//! opening included, is a crash point: several fates of the unsynced are tried on copies of the
//! disk, each is recovered and held to the model. Some of these recoveries are cut in turn, at
//! each of their own operations, three crashes deep; some go on working, and are cut again.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use braidlog::{
    Options, Outcome,
    engine::Progress,
    format::file_name,
    manifest::{self, LiveSet},
    platform::{
        Clock,
        sim::{self, Call, Fate, Mode, SimClock, SimDisk, SimRng},
    },
    segment::Pack,
};

use super::{
    life::{Heritage, Life, Made, Opening, Point},
    model::{Batch, Model, Request, What},
    survey::{Found, survey},
    sweep::{Place, Round, Sweep, add, has_failed},
    workload::{LEAPS_MS, RUNS, Workload, in_order, no_batch_is_doubled, options},
};

/// Crashes in one chain of crash and recovery, beside those of the history itself.
const DEPTH_MAX: u32 = 3;

/// Of so many runs that were recovered, one is read in all ways, and the others from end to end.
const WAYS_EVERY: u64 = 4;

/// What was done, over all histories.
#[derive(Debug, Default)]
pub struct Totals {
    pub histories: AtomicU64,
    pub operations: AtomicU64,
    pub crash_points: AtomicU64,
    /// Those that left a disk which had been recovered and checked before.
    pub met_before: AtomicU64,
    pub in_recovery: AtomicU64,
    pub recoveries: AtomicU64,
    pub records: AtomicU64,
    pub torn: AtomicU64,
    pub slots: AtomicU64,
    pub slots_again: AtomicU64,
    pub manifests: AtomicU64,
    pub packs: AtomicU64,
    pub packs_collected: AtomicU64,
    pub packs_verified: AtomicU64,
    pub come_back: AtomicU64,
    pub deleted: AtomicU64,
    pub vanished: AtomicU64,
}

/// How a machine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Power(Fate),
    Kill,
}

impl Cut {
    fn at(self, point: &SimDisk) -> SimDisk {
        let disk = point.fork();
        match self {
            Cut::Power(fate) => disk.power_cut(fate),
            Cut::Kill => disk.kill(),
        }
        disk
    }

    fn random(rng: &mut SimRng) -> Self {
        match rng.below(8) {
            0 => Cut::Kill,
            _ => Cut::Power(Fate::random(rng.next_u64())),
        }
    }
}

/// What is tried at one crash point.
fn cuts(rng: &mut SimRng) -> [Cut; 8] {
    let mut fate = |mode| Cut::Power(Fate::new(mode, rng.next_u64()));
    [
        fate(Mode::KeepNone),
        fate(Mode::KeepAll),
        fate(Mode::NewestOnly),
        fate(Mode::Prefix),
        fate(Mode::RandomSubset),
        fate(Mode::RandomSubset),
        fate(Mode::RandomSubset),
        Cut::Kill,
    ]
}

/// What is known when a machine stops.
struct Knowledge<'a> {
    model: &'a Model,
    unanswered: &'a [(usize, Batch)],
    /// Of this model, whatever of it was sure.
    seen: Rc<RefCell<Seen>>,
}

impl<'a> Knowledge<'a> {
    fn new(model: &'a Model, unanswered: &'a [(usize, Batch)]) -> Self {
        Self { model, unanswered, seen: Rc::default() }
    }
}

/// What was found on disks, for as long as the model stays what it is. A recovery is a matter of
/// the disk and the clock alone: of two that are the same, one is looked at.
#[derive(Default)]
struct Seen(BTreeMap<(u128, u64), Vec<usize>>);

impl Seen {
    fn key(disk: &SimDisk, clock: &SimClock) -> (u128, u64) {
        (disk.digest_all(), clock.wall_ms())
    }

    /// Whether this disk was met before, and held all that is known to be sure now.
    fn covers(&self, disk: &SimDisk, clock: &SimClock, model: &Model) -> bool {
        let held = |found: &Vec<usize>| {
            model.runs.iter().zip(found).all(|(run, found)| run.sure <= *found)
        };
        self.0.get(&Self::key(disk, clock)).is_some_and(held)
    }
}

/// One history, and the sweep over it.
pub struct History<'a> {
    totals: &'a Totals,
    place: Place,
    only: Option<u64>,
    options: Options,
    clock: SimClock,
    /// The wall clock goes back to this at most.
    epoch_ms: u64,
    workload: Workload,
    /// Digests of packs that are sound.
    sound: RefCell<BTreeSet<(u64, Option<u128>)>>,
}

impl<'a> History<'a> {
    pub fn new(totals: &'a Totals, round: Round) -> Self {
        let Round { seed, number, only } = round;
        let mut rng = SimRng::new(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        let options = options(&mut rng);
        let workload = Workload::new(SimRng::new(rng.next_u64()));
        let epoch_ms = 1_700_000_000_000;
        let clock = SimClock::new(epoch_ms);
        let what = "the history itself".into();
        let place = Place { tests: "power_cut::", seed, round: number, trial: 0, what };
        let sound = RefCell::default();
        Self { totals, place, only, options, clock, epoch_ms, workload, sound }
    }

    /// Lives the history through.
    pub fn run(mut self) {
        let mut disk = SimDisk::new();
        let retention_ms = self.options.retention.age_ms;
        let model = Model { retention_ms, ..Model::new(RUNS as usize) };
        let mut heritage = Heritage { model, unanswered: Vec::new() };
        for _ in 0..2 + self.workload.rng.below(5) {
            (disk, heritage) = self.live(&disk, heritage);
        }
        add(&self.totals.histories, 1);
    }

    fn live(&mut self, disk: &SimDisk, heritage: Heritage) -> (SimDisk, Heritage) {
        disk.record_crash_points();
        let seed = self.workload.rng.next_u64();
        let Heritage { model, unanswered } = heritage;
        let Opening { life, points, .. } =
            Life::open(disk, &self.clock, seed, &self.options, model.clone());
        self.check_all(&points, &model, &unanswered);
        let mut life = life.unwrap_or_else(|error| panic!("a crash is never fatal: {error}"));
        look_around(&life, &mut SimRng::new(seed));
        life.follow_all();
        in_order(unanswered).into_iter().for_each(|(run, batch)| {
            life.submit(run, Request::Append(batch));
        });
        for _ in 0..self.workload.turns() {
            self.work(&mut life);
        }
        let (disk, heritage) = self.end(disk, life);
        no_batch_is_doubled(&heritage.model);
        (disk, heritage)
    }

    /// A few commands, then a step or several.
    fn work(&mut self, life: &mut Life) {
        let rng = &mut self.workload.rng;
        self.clock.advance(Duration::from_millis(rng.below(200)));
        match rng.below(20) {
            0 => self.clock.set_wall_ms(self.epoch_ms + rng.below(100_000)),
            // What is not durable yet does not grow old.
            1 if !life.is_waiting() => self.leap(),
            2 => self.let_expire(life),
            _ => {}
        }
        self.workload.take_turn(life);
        let points = life.take_points();
        self.workload.imitate(&points);
        let heritage = life.heritage();
        self.check_all(&points, &heritage.model, &heritage.unanswered);
        let errors = life.take_errors();
        assert!(errors.is_empty(), "nothing fails on a sound disk: {errors:?}");
    }

    /// Much time goes by.
    fn leap(&mut self) {
        self.epoch_ms += LEAPS_MS[self.workload.rng.below(2) as usize];
        self.clock.set_wall_ms(self.epoch_ms);
    }

    /// Ends most runs, and lets so much time go by that they may be given up.
    fn let_expire(&mut self, life: &mut Life) {
        for run in 0..RUNS as usize {
            if self.workload.rng.chance(3, 4) {
                life.submit(run, Request::Close(Outcome::Completed));
            }
        }
        if life.settle() == Progress::Idle && life.flush() && !life.is_waiting() {
            self.leap();
            while life.collect() {}
        }
    }

    /// The end of a life: the disk that the next one finds, and what was known.
    fn end(&mut self, disk: &SimDisk, mut life: Life) -> (SimDisk, Heritage) {
        self.count(&life);
        self.workload.submit_some(&life);
        let cut = Cut::random(&mut self.workload.rng);
        if self.workload.rng.chance(1, 4) {
            let (heritage, points) = life.shut_down();
            self.check_all(&points, &heritage.model, &heritage.unanswered);
            return (cut.at(disk), heritage);
        }
        let before = life.heritage();
        life.settle();
        let points = life.take_points();
        self.check_all(&points, &before.model, &before.unanswered);
        let pick = self.workload.rng.below(points.len() as u64 + 1) as usize;
        let (after, _) = life.abandon();
        match points.get(pick) {
            Some(point) => {
                let model = before.model.at(&point.known);
                (cut.at(&point.disk), Heritage { model, ..before })
            }
            None => (cut.at(disk), after),
        }
    }

    /// Counts what was done in a life, but for its end.
    fn count(&self, life: &Life) {
        let made = life.made();
        let count = |call: Call, start: &str| {
            let of_kind = |made: &&Made| made.call == call && made.path.starts_with(start);
            made.iter().filter(of_kind).count() as u64
        };
        // Opening makes one of each.
        let slots_new = count(Call::Create, "journal/");
        add(&self.totals.slots, slots_new.saturating_sub(1));
        add(&self.totals.slots_again, life.slots_zeroed() - slots_new);
        add(&self.totals.manifests, count(Call::Create, "MANIFEST").saturating_sub(1));
        add(&self.totals.packs, count(Call::Rename, "packs/"));
        add(&self.totals.packs_collected, count(Call::Unlink, "packs/"));
        life.with_model(|model| {
            let done = |is_wanted: fn(&What) -> bool| {
                let ops = model.runs.iter().flat_map(|run| &run.ops);
                ops.filter(|op| is_wanted(&op.what)).count() as u64
            };
            add(&self.totals.deleted, done(|what| matches!(what, What::Delete)));
            add(&self.totals.vanished, done(|what| matches!(what, What::Vanish)));
        });
    }

    /// Tries several cuts at each point.
    fn check_all(&mut self, points: &[Point], model: &Model, unanswered: &[(usize, Batch)]) {
        let seen = Rc::new(RefCell::new(Seen::default()));
        for point in points {
            if has_failed() {
                return;
            }
            add(&self.totals.operations, 1);
            let known = model.at(&point.known);
            let seed = self.place.seed ^ self.place.round << 32 ^ self.place.trial;
            let mut rng = SimRng::new(seed);
            for cut in cuts(&mut rng) {
                self.place.trial += 1;
                let mut rng = SimRng::new(rng.next_u64());
                if self.only.is_none_or(|only| only == self.place.trial) {
                    self.place.what = format!("operation {}, {cut:?}", point.disk.ops());
                    let knowledge =
                        Knowledge { seen: seen.clone(), ..Knowledge::new(&known, unanswered) };
                    let wall_ms = self.clock.wall_ms();
                    self.check_cut(&point.disk, wall_ms, cut, &knowledge, &mut rng, 1);
                }
            }
        }
        self.place.what = "the history itself".into();
    }

    /// Stops the machine, opens the store again, and holds it to the model. In some cases the
    /// recovery is cut in turn, in some the store goes on and is cut later.
    fn check_cut(
        &self,
        point: &SimDisk,
        wall_ms: u64,
        cut: Cut,
        knowledge: &Knowledge<'_>,
        rng: &mut SimRng,
        depth: u32,
    ) {
        let disk = cut.at(point);
        let clock = SimClock::new(wall_ms);
        if rng.chance(1, 16) {
            // Somebody finds the machine a day later.
            clock.advance(Duration::from_millis(LEAPS_MS[1]));
        }
        add(&self.totals.crash_points, 1);
        let then = Then::random(rng, depth);
        if then == Then::CutRecovery {
            disk.record_crash_points();
        } else if then == Then::Nothing
            && knowledge.seen.borrow().covers(&disk, &clock, knowledge.model)
        {
            return add(&self.totals.met_before, 1);
        }
        let life = self.recover(&disk, &clock, knowledge, rng, depth);
        match then {
            Then::Nothing | Then::CutRecovery => drop(life.abandon()),
            Then::Reopen => {
                let (Heritage { model, .. }, _) = life.abandon();
                disk.kill();
                let same = Knowledge::new(&model, &[]);
                drop(self.recover(&disk, &clock, &same, rng, DEPTH_MAX).abandon());
            }
            Then::GoOn => self.go_on(&disk, &clock, life, knowledge.unanswered, rng, depth),
        }
    }

    /// Opens the store; if crash points are recorded, each of them is cut once.
    fn recover(
        &self,
        disk: &SimDisk,
        clock: &SimClock,
        knowledge: &Knowledge<'_>,
        rng: &mut SimRng,
        depth: u32,
    ) -> Life {
        let model = knowledge.model.clone();
        let key = Seen::key(disk, clock);
        let Opening { life, points, .. } =
            Life::open(disk, clock, rng.next_u64(), &self.options, model);
        let life = life.unwrap_or_else(|error| panic!("a crash is never fatal: {error}"));
        add(&self.totals.recoveries, 1);
        add(&self.totals.torn, u64::from(life.store.opened().recovered.torn));
        let found = look_around(&life, rng);
        add(&self.totals.records, found.records);
        add(&self.totals.come_back, found.came_back);
        self.check_files(disk, &life);
        let ops = found.runs.iter().map(|run| run.ops).collect();
        knowledge.seen.borrow_mut().0.insert(key, ops);
        add(&self.totals.in_recovery, points.len() as u64);
        for point in points {
            let cut = Cut::random(rng);
            self.check_cut(&point.disk, clock.wall_ms(), cut, knowledge, rng, depth + 1);
        }
        life
    }

    /// Checks that every file is one that the manifest lists, and that every pack is sound.
    fn check_files(&self, disk: &SimDisk, life: &Life) {
        // A look at the disk must not sync anything.
        let disk = disk.fork();
        let platform = sim::platform(&disk, &SimClock::new(0), 0);
        let store_uuid = life.store.opened().store_uuid;
        let plan = manifest::plan(&platform, store_uuid).expect("the manifest is read");
        let plan = plan.expect("there is one");
        let LiveSet { slots, packs, .. } = &plan.live;
        for listed in packs.values().map(|pack| pack.listed) {
            let digest = disk.digest(file_name::pack(listed.number).as_str());
            let checked = Pack::open(&*platform.vfs, listed, store_uuid).and_then(|pack| {
                // What is sealed does not change: its blocks are looked at once.
                match self.sound.borrow_mut().insert((listed.number, digest)) {
                    true => pack.verify(),
                    false => Ok(()),
                }
            });
            checked.unwrap_or_else(|error| panic!("a pack that is listed: {error}"));
            add(&self.totals.packs_verified, 1);
        }
        let (mut packs_found, mut slots_found) = (0, 0);
        for path in disk.files() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            match folder {
                "journal" => slots_found += 1,
                "packs" => packs_found += 1,
                "" if name.starts_with("MANIFEST-") => {
                    assert_eq!(name, format!("MANIFEST-{:016x}", plan.number), "an old manifest");
                }
                "" => {}
                _ => panic!("{path} is left behind"),
            }
        }
        assert_eq!(packs_found, 2 * packs.len(), "a pack and its names: {:?}", disk.files());
        // Every start takes a slot, and may have to make one.
        let starts = life.store.opened().incarnation as usize;
        let slots_max = self.options.journal_slots_max as usize + 1 + starts;
        assert!(slots.len() <= slots_found && slots_found <= slots_max, "{:?}", disk.files());
    }

    /// Repeats what was not answered, works on, and is cut in the middle of it.
    fn go_on(
        &self,
        disk: &SimDisk,
        clock: &SimClock,
        mut life: Life,
        unanswered: &[(usize, Batch)],
        rng: &mut SimRng,
        depth: u32,
    ) {
        life.follow_all();
        in_order(unanswered.to_vec()).into_iter().for_each(|(run, batch)| {
            life.submit(run, Request::Append(batch));
        });
        let mut workload = Workload::new(SimRng::new(rng.next_u64()));
        for _ in 0..rng.below(4) {
            workload.take_turn(&mut life);
        }
        disk.record_crash_points();
        workload.submit_some(&life);
        let before = life.heritage();
        life.settle();
        let points = life.take_points();
        assert!(life.take_errors().is_empty(), "nothing fails on a sound disk");
        no_batch_is_doubled(&before.model);
        life.abandon();
        let pick = rng.below(points.len().max(1) as u64) as usize;
        let Some(point) = points.get(pick) else { return };
        let model = before.model.at(&point.known);
        let knowledge = Knowledge::new(&model, &before.unanswered);
        let cut = Cut::random(rng);
        self.check_cut(&point.disk, clock.wall_ms(), cut, &knowledge, rng, depth + 1);
    }
}

/// What happens after a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    CutRecovery,
    Reopen,
    GoOn,
}

impl Then {
    fn random(rng: &mut SimRng, depth: u32) -> Self {
        match rng.below(96) {
            _ if DEPTH_MAX <= depth => Then::Nothing,
            0 => Then::CutRecovery,
            1..=8 => Then::Reopen,
            9..=20 => Then::GoOn,
            _ => Then::Nothing,
        }
    }
}

/// Holds an opened store to the model; what was found is there for ever from now on.
fn look_around(life: &Life, rng: &mut SimRng) -> Found {
    life.with_model(|model| {
        let found = survey(&life.store, model, rng, WAYS_EVERY);
        model.settle(&found.runs);
        found
    })
}

#[test]
fn no_acknowledged_record_is_lost_doubled_or_invented_by_a_power_cut() {
    let sweep = Sweep::new("BRAIDLOG_CRASH_POINTS", 200_000);
    let Sweep { seed, wanted, .. } = sweep;
    let live = |totals: &Totals, round| History::new(totals, round).run();
    let Some(totals) = sweep.run(|totals: &Totals| &totals.crash_points, live) else { return };
    let total = |of: fn(&Totals) -> &AtomicU64| -> u64 {
        totals.iter().map(|totals| of(totals).load(Ordering::Relaxed)).sum()
    };
    println!(
        "level crash: crash points: {}, with the disk of one before: {}, recoveries: {}, \
         records checked: {}, lost: 0, seed: {seed}\n\
         histories: {}, operations: {}, cuts in recovery: {}, torn blocks: {}, \
         slots made: {}, slots used again: {}, manifests rotated: {}\n\
         packs written: {}, packs collected: {}, packs verified: {}, runs that came back: {}, \
         runs deleted: {}, runs expired: {}",
        total(|t| &t.crash_points),
        total(|t| &t.met_before),
        total(|t| &t.recoveries),
        total(|t| &t.records),
        total(|t| &t.histories),
        total(|t| &t.operations),
        total(|t| &t.in_recovery),
        total(|t| &t.torn),
        total(|t| &t.slots),
        total(|t| &t.slots_again),
        total(|t| &t.manifests),
        total(|t| &t.packs),
        total(|t| &t.packs_collected),
        total(|t| &t.packs_verified),
        total(|t| &t.come_back),
        total(|t| &t.deleted),
        total(|t| &t.vanished),
    );
    for (what, of) in [
        ("torn block", (|t| &t.torn) as fn(&Totals) -> &AtomicU64),
        ("cut in recovery", |t| &t.in_recovery),
        ("new slot", |t| &t.slots),
        ("slot used again", |t| &t.slots_again),
        ("pack", |t| &t.packs),
        ("collected pack", |t| &t.packs_collected),
        ("run from a pack", |t| &t.come_back),
        ("deleted run", |t| &t.deleted),
        ("expired run", |t| &t.vanished),
        ("rotated manifest", |t| &t.manifests),
    ] {
        assert!(wanted < 100_000 || 0 < total(of), "no {what} was met: the sweep is too tame");
    }
}
