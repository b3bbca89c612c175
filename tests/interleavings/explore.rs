//! Plays a scene under many schedules.

use std::{
    env, fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler},
};

/// Schedules of each scene, unless said otherwise.
const SCHEDULES: u64 = 2_000;
/// Changes of priority in a schedule of that kind.
const CHANGES: usize = 3;
/// Steps after which somebody waits for ever: no scene takes a tenth of them.
const STEPS_MAX: usize = 200_000;
/// What the deepest of the store's calls needs, unoptimised.
const STACK_BYTES: usize = 1 << 20;

/// Where a scene is, to be told if it fails.
struct Place {
    name: &'static str,
    seed: u64,
    played: Arc<AtomicU64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, seed, played } = self;
        let played = played.load(Ordering::Relaxed);
        write!(
            f,
            "schedule {played} of seed {seed}; repeat with: BRAIDLOG_TEST_SEED={seed} \
             BRAIDLOG_SCHEDULES={} RUSTFLAGS=\"--cfg shuttle\" cargo test --target-dir \
             target/shuttle --no-default-features --features sabotage --test interleavings {name}",
            2 * played
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Plays a scene, which is given a number that is another one each time, the same for a seed.
pub(crate) fn explore(name: &'static str, scene: impl Fn(u64) + Send + Sync + 'static) {
    crate::planted::plant();
    let seed = number("BRAIDLOG_TEST_SEED").unwrap_or(20_240_229);
    let schedules = number("BRAIDLOG_SCHEDULES").unwrap_or(SCHEDULES).div_ceil(2);
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    let scene = Arc::new(scene);
    let mut played = 0;
    for is_random in [true, false] {
        let place = Place { name, seed, played: Arc::default() };
        let (scene, count) = (scene.clone(), place.played.clone());
        let body = move || scene(seed ^ count.fetch_add(1, Ordering::Relaxed));
        played += match is_random {
            true => {
                let scheduler = RandomScheduler::new_from_seed(seed, schedules as usize);
                Runner::new(scheduler, config.clone()).run(body)
            }
            false => {
                let scheduler = PctScheduler::new_from_seed(seed, CHANGES, schedules as usize);
                Runner::new(scheduler, config.clone()).run(body)
            }
        };
    }
    println!("level interleavings: {name}: {played} schedules, seed {seed}");
}
