//! The machine that the server runs on: a disk and a clock that outlive it, and a store whose steps
//! are taken every few milliseconds.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::Duration,
};

use braidlog::{
    Options, Store,
    engine::{Flushed, Progress, Stepper},
    format::file_name,
    grpc::server::serve_on,
    platform::sim::{Fate, SimClock, SimDisk, SimRng, platform},
};
use tokio::{
    task::{JoinHandle, spawn_local},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpListener;

use crate::{
    chance::EPOCH,
    wire::{PORT, accepted},
};

/// Steps of the store between two copies of what is durable into packs.
const FLUSH_EVERY: u64 = 150;
/// Steps between two marks of an idle log.
const IDLE_EVERY: u64 = 40;
/// Steps between two looks at what is due.
const ATTEND_EVERY: u64 = 8;
/// Milliseconds between two steps, at most.
const PAUSE_MS: u64 = 8;

/// See the module. Clones are the same machine.
#[derive(Clone)]
pub(crate) struct Machine {
    disk: SimDisk,
    clock: SimClock,
    seed: u64,
    lives: Rc<Cell<u64>>,
    life: Rc<RefCell<Life>>,
}

/// How far a life of the server is.
#[derive(Default)]
struct Life {
    /// Tells the server to stop.
    shutdown: CancellationToken,
    /// It has stopped: what is left is to close the store.
    is_served: bool,
    /// The store is closed.
    has_ended: bool,
}

fn options() -> Options {
    let mut options = Options::new("/simulated");
    options.slot_bytes_first = 128 << 10;
    options.slot_bytes = 128 << 10;
    options.manifest_bytes = 32 << 10;
    options.ring_bytes = 64 << 10;
    options.cache_bytes = 256 << 10;
    options.resident_bytes = 64 << 10;
    // The least there can be: whatever is not given back is missed.
    options.ingest_bytes = 4 << 20;
    options
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        let clock = SimClock::new(EPOCH.as_millis() as u64);
        let (lives, life) = (Rc::default(), Rc::default());
        Self { disk: SimDisk::new(), clock, seed, lives, life }
    }

    /// Lets time go by.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Its server is told to stop.
    pub(crate) fn shut_down(&self) {
        self.life.borrow().shutdown.cancel();
    }

    /// Whether its server has stopped because it was told to.
    pub(crate) fn has_ended(&self) -> bool {
        self.life.borrow().has_ended
    }

    /// Its process was killed, or is over.
    pub(crate) fn kill(&self) {
        self.life.take();
        self.disk.kill();
    }

    /// Its power was cut.
    pub(crate) fn cut_power(&self, rng: &mut SimRng) {
        self.disk.power_cut(Fate::random(rng.next_u64()));
    }

    /// Its power goes in the middle of an operation of the disk that comes soon.
    pub(crate) fn cut_power_soon(&self, rng: &mut SimRng) {
        self.disk.crash_at(self.disk.ops() + 1 + rng.below(40));
    }

    /// It does not go any more.
    pub(crate) fn keep_power(&self) {
        self.disk.crash_at(u64::MAX);
    }

    /// Whether it went in the middle of an operation.
    pub(crate) fn has_lost_power(&self) -> bool {
        self.disk.is_stopped()
    }

    /// Numbers that tell what was done to the disk, and what it holds, from anything else.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let mut hasher = DefaultHasher::new();
        // The lock names the process, which is another one every time.
        let files =
            self.disk.files().into_iter().filter(|path| *path != file_name::lock().as_str());
        files.for_each(|path| (self.disk.digest(&path), path).hash(&mut hasher));
        (self.disk.ops(), hasher.finish())
    }

    /// Serves until it is stopped: then its process is to be ended.
    pub(crate) async fn serve(self) -> turmoil::Result {
        let life = self.lives.replace(self.lives.get() + 1);
        *self.life.borrow_mut() = Life::default();
        let mut rng = SimRng::new(self.seed ^ (life << 40));
        let platform = platform(&self.disk, &self.clock, rng.next_u64());
        let (store, stepper) = match Store::open_stepped(platform, options()) {
            Ok(opened) => opened,
            Err(_) if self.has_lost_power() => pending().await,
            Err(error) => panic!("a crash is never fatal: {error}"),
        };
        spawn_local(self.clone().drive(stepper, rng));
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let shutdown = self.life.borrow().shutdown.clone();
        serve_on(accepted(listener), store, shutdown.clone()).await?;
        assert!(shutdown.is_cancelled(), "nobody has told the server to stop");
        self.life.borrow_mut().is_served = true;
        pending().await
    }

    /// Takes the steps of the store.
    async fn drive(self, mut stepper: Stepper, mut rng: SimRng) {
        let mut attending: JoinHandle<()> = spawn_local(stepper.attend(true));
        for step in 1_u64.. {
            sleep(Duration::from_millis(1 + rng.below(PAUSE_MS))).await;
            let mut progress = Progress::Worked;
            while progress == Progress::Worked {
                progress = stepper.step();
                let is_due = step.is_multiple_of(FLUSH_EVERY) || stepper.is_flushing();
                if progress == Progress::WaitsForSlot || is_due && progress == Progress::Idle {
                    let flushed = stepper.flush();
                    if flushed == Flushed::Worked && stepper.is_flushing() {
                        progress = Progress::Worked;
                    }
                }
            }
            if self.has_lost_power() {
                return;
            }
            assert!(progress != Progress::Stopped, "nothing fails on a sound disk");
            if progress == Progress::Idle && self.life.borrow().is_served {
                stepper.finish();
                self.life.borrow_mut().has_ended = true;
                return;
            }
            if step.is_multiple_of(IDLE_EVERY) && progress == Progress::Idle {
                stepper.idle();
            }
            if step.is_multiple_of(ATTEND_EVERY) && attending.is_finished() {
                attending = spawn_local(stepper.attend(false));
            }
        }
    }
}
