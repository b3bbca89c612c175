//! The committer: makes queued frames durable, then visible, and only then answers.
//!
//! The committer takes what is queued, writes one block, syncs it, makes its frames visible and
//! only then answers. While it syncs, the next batch forms by itself. Nobody waits for a timer, but
//! for one case: writers that wait for each answer and come back scattered are gathered, for no longer
//! than a sync takes (`rhythm`).
//! A failed write or sync stops the store for good: what reached the disk is unknown, and a second
//! sync may succeed although the bytes are lost.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    queue::{Taken, Woken, Work},
    rhythm::{Rhythm, Writers},
    shard::Publication,
    shared::Shared,
    supply::{Supply, SupplyState},
};
use crate::{
    error::Error,
    format::{
        block::{BLOCK_HEADER_BYTES, BLOCK_TRAILER_BYTES, FLAG_CLEAN, FLAG_IDLE, block_bytes},
        manifest::{Edit, ListedSlot},
        segment::JournalPoint,
        slot::{SlotHeader, SlotKind},
    },
    journal::{BlockPlace, BlockWriter, FrameAt, MaskedBlock, ReadySlot},
    platform::sync::atomic::Ordering,
    record::{BLOCK_PAYLOAD_MAX, VSHARDS},
    sabotage::{self, Bug},
};

/// How long the log is idle before a mark proves that its last block was durable.
pub(super) const IDLE_MARK_AFTER: Duration = Duration::from_millis(100);

/// A block of so many bytes takes long to write: who was answered before does not wait for it.
const LARGE_BYTES: usize = 64 << 10;

/// What a step of the committer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It committed something, or answered.
    Worked,
    /// There was nothing to do.
    Idle,
    /// It needs a slot that is not ready.
    WaitsForSlot,
    /// The store has stopped.
    Stopped,
}

/// Makes queued frames durable. Only one exists; a thread, or a test, takes its steps.
pub(super) struct Committer {
    shared: Arc<Shared>,
    supply: Arc<Supply>,
    writer: BlockWriter,
    file_seq_next: u64,
    incarnation: u64,
    store_uuid: [u8; 16],
    /// Whether the newest block is durable and no block on disk says so yet.
    mark_due: bool,
    /// For whom the next block waits.
    rhythm: Rhythm,
}

/// What the committer starts from.
pub(super) struct Start {
    pub(super) writer: BlockWriter,
    pub(super) file_seq_next: u64,
    pub(super) incarnation: u64,
    pub(super) store_uuid: [u8; 16],
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, supply: Arc<Supply>, start: Start) -> Self {
        shared.queue.note_remaining(remaining(&start.writer));
        Self {
            shared,
            supply,
            writer: start.writer,
            file_seq_next: start.file_seq_next,
            incarnation: start.incarnation,
            store_uuid: start.store_uuid,
            mark_due: true,
            rhythm: Rhythm::default(),
        }
    }

    /// Takes steps until the store is closed or stops.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let _stop = shared.stop_on_panic("the committer panicked");
        self.run_to_end();
        // Nobody waits for ever: what is still queued will not be written.
        shared.queue.end(&shared.unknown());
    }

    fn run_to_end(&mut self) {
        loop {
            let limit = self.mark_due.then_some(IDLE_MARK_AFTER);
            let progress = match self.shared.queue.wait(limit) {
                Woken::Work => {
                    self.shared.queue.gather(std::mem::take(&mut self.rhythm));
                    self.step()
                }
                Woken::Idle => self.mark_idle(),
                Woken::Closing => return self.finish(),
            };
            let progress = match progress {
                Progress::WaitsForSlot => self.wait_for_slot(),
                other => other,
            };
            if progress == Progress::Stopped {
                return;
            }
        }
    }

    /// Commits what is queued, as one block.
    pub(super) fn step(&mut self) -> Progress {
        if self.shared.is_stopped() {
            return Progress::Stopped;
        }
        self.ask_for_slot();
        let mut taken = self.shared.queue.take(payload_max(remaining(&self.writer)));
        if taken.items.is_empty() {
            let Some(frame_bytes) = taken.next_frame else { return Progress::Idle };
            // The next slot may take long to come.
            self.shared.queue.wake_rest();
            match self.change_slot() {
                Ok(true) => {}
                Ok(false) => {
                    // The flusher waits behind frames that wait for a slot that it would free.
                    if self.shared.queue.has_barrier() {
                        self.supply.overdraw();
                    }
                    return Progress::WaitsForSlot;
                }
                Err(error) => return self.stop("change the journal slot", &error),
            }
            taken = self.shared.queue.take(payload_max(remaining(&self.writer)));
            assert!(!taken.items.is_empty(), "a frame of {frame_bytes} bytes passed admission");
        }
        if taken.payload_bytes == 0 {
            self.shared.queue.settle(taken.until);
            return Progress::Worked;
        }
        match self.write(&taken) {
            Ok((place, sync)) => self.publish(place, taken, sync),
            Err(_) if sabotage::is(Bug::GoOnAfterFailure) => Progress::Worked,
            Err(error) => self.stop("commit to the journal", &error),
        }
    }

    /// Waits for the next slot; gives up if the store is closing and there is no space for one.
    fn wait_for_slot(&mut self) -> Progress {
        match self.supply.wait() {
            SupplyState::Settled | SupplyState::Making => Progress::Worked,
            // The same answer for both: among the queued are those who only ask, and whoever repeats an
            // append when the store is back is told at admission that the disk is full.
            SupplyState::DiskFull | SupplyState::JournalFull if self.shared.queue.is_closing() => {
                self.give_up()
            }
            SupplyState::DiskFull | SupplyState::JournalFull => Progress::Worked,
        }
    }

    /// Ends without a place for what is still queued.
    fn give_up(&mut self) -> Progress {
        self.shared.queue.end(&Error::ShuttingDown);
        self.finish();
        Progress::Stopped
    }

    /// Writes a block and syncs it; tells how long the sync took, too.
    fn write(&mut self, taken: &Taken) -> io::Result<(BlockPlace, Duration)> {
        let queue = &self.shared.queue;
        if LARGE_BYTES <= taken.payload_bytes {
            queue.wake_rest();
        }
        let frames = taken.items.iter().filter_map(|item| match item {
            Work::Frame { frame, .. } => Some(&frame.bytes()[..]),
            Work::Barrier => None,
        });
        let place = self.writer.write(0, frames, self.shared.now_ms())?;
        if sabotage::is(Bug::AckBeforeSync) {
            queue.settle(taken.until);
        }
        queue.wake_rest();
        let clock = &self.shared.platform.clock;
        let begin = clock.mono();
        if !sabotage::is(Bug::PublishBeforeSync) {
            self.writer.sync()?;
        }
        Ok((place, clock.mono().saturating_sub(begin)))
    }

    /// Everything in the block is durable: first it becomes visible, then it is answered, then
    /// readers are told.
    fn publish(&mut self, place: BlockPlace, taken: Taken, sync: Duration) -> Progress {
        let BlockPlace { position, header } = place;
        if header.mask != 0 {
            let position = position as u32;
            self.shared.frames.add_masked(MaskedBlock { position, header });
        }
        let mut at = FrameAt {
            file_seq: header.file_seq,
            position: position as u32 + BLOCK_HEADER_BYTES as u32,
            len: 0,
        };
        let mut end = JournalPoint { block_no: header.block_no, frame: 0 };
        let mut writers = Writers::default();
        let mut followed = Vec::new();
        let mut permits: Option<OwnedSemaphorePermit> = None;
        for item in taken.items {
            if let Work::Frame { frame, facts, permit } = item {
                at.len = frame.bytes().len() as u32;
                end.frame += 1;
                self.shared.stats.count_frame(&frame);
                let run_no = frame.header.run_no;
                let mut shard = self.shared.shard(run_no.vshard()).lock();
                let Publication { before, bytes, change, readers } =
                    shard.publish(frame, at, end, &facts);
                if self.shared.hub.is_concerned(&facts) {
                    self.shared.hub.tell(&shard.run(run_no).state);
                }
                drop(shard);
                writers.note(before, header.block_no);
                // A run's readers are woken once, however many of its frames are in the block.
                if followed.last().is_none_or(|(last, _)| *last != run_no) {
                    followed.extend(readers.map(|readers| (run_no, readers)));
                }
                if facts.outcome.is_some() || facts.deleted {
                    self.shared.claims.forget(run_no);
                }
                self.shared.unflushed.add(bytes);
                if let Some((change, runs)) = change {
                    self.shared.catalog.note(change, runs);
                }
                at.position += at.len;
                match (&mut permits, permit) {
                    (Some(all), Some(permit)) => all.merge(permit),
                    (none, permit) => *none = none.take().or(permit),
                }
            }
        }
        self.shared.stats.commits.fetch_add(1, Ordering::Relaxed);
        self.shared.note_durable(header.block_no + 1);
        self.mark_due = true;
        self.rhythm = writers.rhythm(sync);
        self.note_remaining();
        drop(permits);
        if sabotage::is(Bug::PublishBeforeSync)
            && let Err(error) = self.writer.sync()
        {
            return self.stop("commit to the journal", &error);
        }
        self.shared.queue.settle(taken.until);
        // There may be thousands of them: under no lock, and behind those who wait for an answer.
        for (_, readers) in followed {
            readers.send_replace(());
        }
        Progress::Worked
    }

    fn note_remaining(&self) {
        self.shared.queue.note_remaining(remaining(&self.writer));
    }

    /// Has the next slot made while half of this one is still free.
    fn ask_for_slot(&self) {
        let left = self.writer.remaining() as f64 / (self.writer.size() / 2) as f64;
        if left < 1.0 {
            self.supply.want(1.0 - left);
        }
    }

    /// Goes on in the next slot; false if it is not ready yet, or cannot be listed yet.
    fn change_slot(&mut self) -> io::Result<bool> {
        self.supply.want(1.0);
        let any = ListedSlot { slot: 0, file_seq: 0, first_block_no: 0 };
        let can_list = self.shared.manifest.lock().make_room(&[Edit::SlotUse(any)])?;
        self.supply.note_listing(can_list);
        if !can_list {
            return Ok(false);
        }
        let Some(ready) = self.supply.take_ready()? else { return Ok(false) };
        let (slot, header) = (ready.slot, self.next_header(&ready));
        let file = ready.begin(&header)?;
        let listed =
            ListedSlot { slot, file_seq: header.file_seq, first_block_no: header.first_block_no };
        if !self.shared.manifest.lock().commit(&[Edit::SlotUse(listed)])? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.shared.frames.add_slot(&*self.shared.platform.vfs, slot, header.file_seq)?;
        self.writer.continue_in(file, header);
        self.file_seq_next += 1;
        self.note_remaining();
        Ok(true)
    }

    fn next_header(&self, ready: &ReadySlot) -> SlotHeader {
        SlotHeader {
            kind: SlotKind::Journal,
            file_seq: self.file_seq_next,
            first_block_no: self.writer.next_block_no(),
            prev_crc: self.writer.prev_crc(),
            size: ready.size,
            store_uuid: self.store_uuid,
            incarnation: self.incarnation,
            salt: match sabotage::is(Bug::SameSalt) {
                true => 1,
                false => self.shared.platform.random_u64(),
            },
            created_ms: self.shared.now_ms(),
        }
    }

    /// Writes an empty block that proves that the one before had been durable. There is room for
    /// it, unless an earlier mark took that and proves the same.
    pub(super) fn mark_idle(&mut self) -> Progress {
        self.write_mark(FLAG_IDLE)
    }

    fn write_mark(&mut self, flags: u8) -> Progress {
        self.mark_due = false;
        if self.shared.is_stopped() {
            return Progress::Stopped;
        }
        if !self.writer.fits(0) {
            return Progress::Idle;
        }
        let written = self.writer.write(flags, [], self.shared.now_ms());
        match written.and_then(|_| self.writer.sync()) {
            Ok(()) => {
                self.shared.note_durable(self.writer.next_block_no());
                self.note_remaining();
                Progress::Worked
            }
            Err(error) => self.stop("mark the journal", &error),
        }
    }

    /// Says on disk that nothing will be written any more.
    pub(super) fn finish(&mut self) {
        self.write_mark(FLAG_CLEAN);
    }

    /// Stops the store for good: whether the last write is on disk is unknown.
    fn stop(&mut self, operation: &str, error: &io::Error) -> Progress {
        let cause: Arc<str> = format!("could not {operation}: {error}").into();
        tracing::error!(%cause, "stopped");
        self.shared.stop(cause.clone());
        self.shared.queue.end(&Error::OutcomeUnknown { cause });
        Progress::Stopped
    }
}

/// Bytes of the slot that blocks of frames may take. A page is left behind the last of them for its
/// mark: without one, nothing tells damage of it from a write that the power cut tore, for as long
/// as nothing else is written.
fn remaining(writer: &BlockWriter) -> u64 {
    writer.remaining().saturating_sub(block_bytes(0) as u64)
}

/// Largest payload of a block that fits so many bytes.
fn payload_max(remaining: u64) -> usize {
    let overhead = BLOCK_HEADER_BYTES + BLOCK_TRAILER_BYTES;
    (remaining as usize).saturating_sub(overhead).min(BLOCK_PAYLOAD_MAX)
}

const _: () = assert!(VSHARDS.is_power_of_two(), "vshards map to shards by remainder");

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::{
        core::{Append, NewRecord},
        engine::{IfAbsent, Options, RunKey, scene::Scene},
        platform::sim::{Call, Fault, SimDisk, What},
    };

    #[test]
    fn who_is_queued_when_a_store_is_closed_on_a_full_disk_is_told_that_it_shuts_down() {
        let (disk, slot_bytes) = (SimDisk::new(), 128 << 10);
        let options =
            Options { slot_bytes_first: slot_bytes, slot_bytes, ..Options::new("simulated") };
        let (mut scene, run) = (Scene::with(&disk, options), RunKey::new("run"));
        scene.append(&run);
        let shared = scene.flusher.shared.clone();
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let records = vec![NewRecord::new(vec![b'x'; 30_000])];
            let append = Append { stream: "out".into(), records, ..Append::default() };
            let mut append = Box::pin(scene.store.append(&run, append, IfAbsent::Create));
            assert!(append.as_mut().poll(&mut context).is_pending());
            if scene.committer.step() != Progress::WaitsForSlot {
                assert!(matches!(append.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
                continue;
            }
            disk.inject(Fault::new(Call::Write, What::Enospc).on("journal").lasting());
            shared.supply.step(&*shared.platform.vfs);
            assert_eq!(scene.committer.wait_for_slot(), Progress::Worked, "there may be space");
            shared.close();
            assert_eq!(scene.committer.wait_for_slot(), Progress::Stopped);
            let told = append.as_mut().poll(&mut context);
            assert!(matches!(told, Poll::Ready(Err(Error::ShuttingDown))));
            break;
        }
    }
}
