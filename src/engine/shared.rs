//! What the handles, the committer and the readers of one open store share.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::{
    admission::DiskGauge,
    agenda::Agenda,
    catalog::Catalog,
    claims::Claims,
    flush_queue::FlushQueue,
    hub::Hub,
    options::Options,
    pool::Pool,
    queue::{CommitQueue, Work},
    shard::Shard,
    supply::Supply,
    waiters::Queued,
};
use crate::{
    error::Error,
    format::frame::Frame,
    journal::FrameReader,
    manifest::Manifest,
    platform::{
        Platform,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
    },
    sabotage::{self, Bug},
    segment::{Blocks, Packs},
};

/// Shards of a store. More than cores, so that two runs rarely wait for each other.
const SHARDS: usize = 16;

/// Unit of the ingest budget, so that it fits a semaphore.
pub(super) const INGEST_UNIT: usize = 1_024;

/// Whether the store takes commands.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// It does.
    Open,
    /// It drains what it has taken.
    Closing,
    /// A write failed; here is the first cause.
    Stopped(Arc<str>),
}

/// The parts of an open store.
pub(super) struct Shared {
    pub(super) platform: Platform,
    pub(super) options: Options,
    pub(super) queue: CommitQueue,
    pub(super) supply: Arc<Supply>,
    pub(super) frames: FrameReader,
    /// Held while an edit is written, so that edits are ordered. Taken under no shard's lock.
    pub(super) manifest: Mutex<Manifest>,
    pub(super) packs: Packs,
    pub(super) blocks: Blocks,
    pub(super) unflushed: FlushQueue,
    pub(super) disk: DiskGauge,
    pub(super) catalog: Catalog,
    pub(super) agenda: Agenda,
    pub(super) claims: Claims,
    pub(super) hub: Arc<Hub>,
    pub(super) pool: Pool,
    pub(super) ingest: Arc<Semaphore>,
    pub(super) stats: Counters,
    phase: watch::Sender<Phase>,
    shards: Box<[Mutex<Shard>]>,
    /// Every journal block below this number is durable and visible.
    durable_block_no: AtomicU64,
    /// When the store was opened, later than all that was written before; no time is given out
    /// below it. What is older may have been seen by consumers that are forgotten.
    pub(super) opened_ms: u64,
    pub(super) store_uuid: [u8; 16],
}

/// What recovery found that the parts go on from.
pub(super) struct Beginnings {
    pub(super) store_uuid: [u8; 16],
    pub(super) durable_block_no: u64,
    pub(super) clock_floor_ms: u64,
}

/// What happened since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) disk_reads: AtomicU64,
}

impl Counters {
    pub(super) fn count_frame(&self, frame: &Frame) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(u64::from(frame.header.count), Ordering::Relaxed);
        self.bytes.fetch_add(frame.bytes().len() as u64, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(
        platform: Platform,
        options: Options,
        pool: Pool,
        supply: Arc<Supply>,
        manifest: Manifest,
        packs: Packs,
        start: Beginnings,
    ) -> Self {
        let ring_bytes = options.ring_bytes / SHARDS;
        let resident_bytes = options.resident_bytes / SHARDS;
        let run_counter = manifest.live().run_counter;
        // After everything that was written before.
        let opened_ms = platform.clock.wall_ms().max(start.clock_floor_ms + 1);
        Self {
            platform,
            opened_ms,
            queue: CommitQueue::default(),
            supply,
            frames: FrameReader::default(),
            manifest: Mutex::new(manifest),
            packs,
            blocks: Blocks::new(options.cache_bytes),
            unflushed: FlushQueue::default(),
            disk: DiskGauge::default(),
            catalog: Catalog::default(),
            agenda: Agenda::default(),
            claims: Claims::default(),
            hub: Arc::default(),
            pool,
            ingest: Arc::new(Semaphore::new(options.ingest_bytes / INGEST_UNIT)),
            stats: Counters::default(),
            phase: watch::Sender::new(Phase::Open),
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Shard::new(ring_bytes, resident_bytes, run_counter)))
                .collect(),
            durable_block_no: AtomicU64::new(start.durable_block_no),
            store_uuid: start.store_uuid,
            options,
        }
    }

    /// The shard of a vshard.
    pub(super) fn shard(&self, vshard: u64) -> &Mutex<Shard> {
        &self.shards[vshard as usize % SHARDS]
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = &Mutex<Shard>> {
        self.shards.iter()
    }

    /// Milliseconds since the Unix epoch, never below the opening of the store.
    pub(super) fn now_ms(&self) -> u64 {
        self.platform.clock.wall_ms().max(self.opened_ms)
    }

    /// Told when everything queued so far is durable, or that it never will be.
    pub(super) fn barrier(&self) -> Queued {
        self.queue.push(Work::Barrier)
    }

    /// Notes that journal blocks below a number are durable and visible.
    pub(super) fn note_durable(&self, block_no: u64) {
        self.durable_block_no.store(block_no, Ordering::Release);
    }

    /// Every journal block below is durable and visible.
    pub(super) fn durable_block_no(&self) -> u64 {
        self.durable_block_no.load(Ordering::Acquire)
    }

    /// Whether commands and reads are served.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        match &*self.phase.borrow() {
            Phase::Open => Ok(()),
            Phase::Closing => Err(Error::ShuttingDown),
            Phase::Stopped(cause) => Err(Error::Stopped { cause: cause.clone() }),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Stopped(_))
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Takes no more commands; readers are told.
    pub(super) fn close(&self) {
        self.wake_early();
        self.phase.send_if_modified(|phase| match phase {
            Phase::Open => {
                *phase = Phase::Closing;
                true
            }
            Phase::Closing | Phase::Stopped(_) => false,
        });
        self.wake_readers();
        self.queue.close();
        self.unflushed.close();
        self.agenda.close();
        self.ingest.close();
    }

    /// Stops for good; the first cause is kept.
    pub(super) fn stop(&self, cause: Arc<str>) {
        self.wake_early();
        self.phase.send_if_modified(|phase| match phase {
            Phase::Stopped(_) => false,
            Phase::Open | Phase::Closing => {
                *phase = Phase::Stopped(cause);
                true
            }
        });
        self.wake_readers();
        self.unflushed.close();
        self.agenda.close();
        self.ingest.close();
    }

    /// What to tell those whose command may have been written before the store stopped.
    pub(super) fn unknown(&self) -> Error {
        match &*self.phase.borrow() {
            Phase::Stopped(cause) => Error::OutcomeUnknown { cause: cause.clone() },
            Phase::Open | Phase::Closing => Error::ShuttingDown,
        }
    }

    /// Stops the store if the thread panics before the guard is dropped: a state that is half
    /// changed is never served. Take it before any lock, so that it is dropped after.
    pub(super) fn stop_on_panic(&self, cause: &'static str) -> StopOnPanic<'_> {
        StopOnPanic { shared: self, cause }
    }

    /// Wakes too early, if that bug is planted.
    fn wake_early(&self) {
        if sabotage::is(Bug::WakeBeforeEnd) {
            self.wake_all();
        }
    }

    fn wake_readers(&self) {
        if !sabotage::is(Bug::WakeBeforeEnd) {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        self.shards.iter().for_each(|shard| shard.lock().wake_all());
        self.hub.wake_all();
        self.claims.wake_all();
    }
}

/// See [`Shared::stop_on_panic`].
pub(super) struct StopOnPanic<'a> {
    shared: &'a Shared,
    cause: &'static str,
}

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop(self.cause.into());
            self.shared.queue.end(&self.shared.unknown());
        }
    }
}
