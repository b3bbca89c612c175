//! Gives space back: packs whose segments are deleted, replaced or expired.
//!
//! What is still needed of such a pack is written again into a new one, which takes its place by
//! one edit of the manifest; if nothing is needed, the pack is dropped. A pack is collected when
//! half of it is dead, or when something in it has been dead for a day; small packs are put
//! together, so that their number stays small, too. A run expires as a whole,
//! and only while nobody uses it. A deleted run leaves its mark behind for a day, and for as long
//! as an older segment of it exists or the journal may still name it.
//!
//! A collection goes on segment by segment between rounds of copying, which come first; it has its share
//! of the time when they follow each other closely. It rests as they do, but compresses without haste.
//!
//! What it deliberately does not do: hurry, or look at runs one by one: a pack is judged by what
//! was noted of it, or by its directory. Readers of a pack that is dropped read on from the file
//! they have open.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::flush::Flusher;
use crate::{
    core::RunState,
    error::Error,
    format::{
        file_name,
        frame::Chain,
        manifest::Edit,
        pack::PackKind,
        segment::{SegmentHead, SegmentTail},
    },
    index::{Change, Position},
    manifest::LivePack,
    record::RunNo,
    recovery::read_state,
    sabotage::{self, Bug},
    segment::{Blocks, NewFrame, NewSegment, Pack, PackWriter, Segment, Shelf},
};

/// Share of a pack, in percent, that has to be dead for the rest to be written again.
pub(super) const DEAD_PERCENT: u64 = 50;
/// Packs of about the same size that are written as one.
const TOGETHER: usize = 8;
/// Small packs from which on that is done however much else there is to do.
const SMALL_MAX: usize = 64;
/// Share of what makes a round due that may wait for the next one while there is time for that.
const CALM_SHARE: u64 = 16;
/// Milliseconds for which something may be dead before its pack is collected anyway.
const DEAD_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Milliseconds between two looks through all packs for runs that have expired.
const LOOK_EVERY_MS: u64 = 60 * 60 * 1_000;
/// Segments that are looked at before whoever looks rests.
const LOOKED_AT_ONCE: usize = 64;
/// Bytes that looking at a segment counts as, of those that may be written again before a round's turn.
const LOOK_WEIGHT: u64 = 4 << 10;
/// Bytes of raw blocks that are kept of the packs that are gone through: the few that segments next to
/// each other share. Those with the largest frames are read once more.
const BLOCKS_BYTES: usize = 8 << 20;

/// What is remembered of packs from one collection to the next.
#[derive(Default)]
pub(super) struct Diary {
    /// When something in a pack was first seen to be dead.
    dead_since: BTreeMap<u64, u64>,
    /// When packs were last looked through for runs that have expired.
    looked_ms: Option<u64>,
    /// What had expired then, by pack, and was not tried to be given up yet.
    expired: BTreeMap<u64, Expired>,
    /// Packs that are damaged: what is left of them stays where it is.
    damaged: BTreeSet<u64>,
}

/// What has expired of a pack.
struct Expired {
    raw_bytes: u64,
    /// Since when the oldest of it has.
    since_ms: u64,
}

impl Default for Expired {
    fn default() -> Self {
        Self { raw_bytes: 0, since_ms: u64::MAX }
    }
}

/// Packs that are being collected, segment by segment.
pub(super) struct Collection {
    packs: Vec<Arc<Pack>>,
    /// How many of the packs were begun with.
    begun: usize,
    /// Segments of the last one of these that are still to be looked at, the next one last.
    left: Vec<u32>,
    now_ms: u64,
    /// The pack that takes their place; none if nothing was kept yet.
    writer: Option<PackWriter>,
    /// Blocks that the next segments are read from: not for others, who hardly want them next.
    blocks: Blocks,
    /// Runs of which a segment was kept that is not the last.
    kept: HashSet<RunNo>,
    expired: Vec<RunNo>,
    /// What the index has of the expired ones.
    unlisted: Vec<Change>,
    /// Raw bytes that are not kept.
    freed: u64,
    /// Runs of which rounds have buried segments meanwhile, and the hashes of their names.
    buried: BTreeSet<(u64, RunNo)>,
}

/// What is to become of a segment of a pack that is collected.
enum Lot {
    /// It does not count any more.
    Dead,
    /// Its run has expired, and nobody uses it; whether it is the run's last.
    Expired { is_last: bool },
    /// It is needed; whether it is the run's last.
    Kept { is_last: bool },
}

/// What a look at the next segment of a collection came to.
enum Found {
    /// Nothing to write.
    Nothing,
    /// A segment that is needed.
    Needed(SegmentTail, Vec<NewFrame>),
    /// All segments were looked at.
    End,
}

impl Flusher {
    /// Goes on with a collection, by one segment, or chooses what is worth it most of the packs of which
    /// so much is dead; false if nothing is. Between rounds only: of packs that are not listed, there is
    /// none but its own.
    ///
    /// # Errors
    /// [`Error::Io`] of what is written, [`Error::Stopped`]; the collection is then given up. Packs that
    /// cannot be read are left as they are.
    pub(super) fn collect(&mut self, percent: u64) -> Result<bool, Error> {
        let Some(mut collection) = self.collection.take() else {
            return Ok(self.choose(percent));
        };
        let ended = match self.look_at_next(&mut collection) {
            Ok(Found::Nothing) => Ok(false),
            Ok(Found::Needed(tail, frames)) => {
                self.write_again(&mut collection, tail, &frames).map(|()| false)
            }
            Ok(Found::End) => self.replace(&mut collection).map(|()| true),
            Err(error) => {
                tracing::error!(%error, "what could be collected cannot be read");
                self.leave_damaged(&collection);
                Ok(true)
            }
        };
        let told = match ended {
            Ok(false) => {
                self.collection = Some(collection);
                return Ok(true);
            }
            Ok(true) => Ok(true),
            Err(error @ Error::Corrupt(_)) => {
                tracing::error!(%error, "what was collected did not come back as it was written");
                self.leave_damaged(&collection);
                Ok(true)
            }
            Err(error) => Err(error),
        };
        self.spare(&collection);
        told
    }

    /// Leaves packs where they are. Others may be worth it.
    fn leave_damaged(&mut self, collection: &Collection) {
        self.remove_unlisted();
        self.diary.damaged.extend(collection.numbers());
    }

    /// Ends what a collection began with runs that have expired, whatever has become of it.
    pub(super) fn spare(&self, collection: &Collection) {
        for run_no in &collection.expired {
            self.shared.shard(run_no.vshard()).lock().spare(*run_no);
        }
    }

    /// Begins with the packs that are worth it most, or looks whether some are; false if none is.
    fn choose(&mut self, percent: u64) -> bool {
        let now_ms = self.shared.now_ms();
        let packs = self.shared.manifest.lock().live().packs.clone();
        self.diary.note(&packs, now_ms);
        let shelf = self.shared.packs.shelf();
        let dead = packs.values().filter(|pack| self.diary.is_due(pack, percent, now_ms));
        let dead = dead.filter_map(|pack| Some((pack, shelf.pack(pack.listed.number)?)));
        let share = |pack: &LivePack| pack.dead_bytes * 100 / pack.listed.raw_bytes.max(1);
        if let Some((_, pack)) = dead.max_by_key(|(pack, _)| share(pack)) {
            self.collection = Some(Collection::new(vec![pack.clone()], now_ms));
            return true;
        }
        if self.diary.looked_ms.is_none_or(|looked_ms| looked_ms + LOOK_EVERY_MS <= now_ms) {
            self.diary.looked_ms = Some(now_ms);
            self.diary.expired = expired_by_pack(&shelf, now_ms);
        }
        if let Some((number, expired)) = self.diary.expired.pop_first() {
            let pack = shelf.pack(number).filter(|_| !self.diary.is_damaged(number)).cloned();
            if let Some(pack) = pack.filter(|pack| self.frees_enough(pack, &expired, now_ms)) {
                self.collection = Some(Collection::new(vec![pack], now_ms));
            }
            return true;
        }
        let small = self.small_packs(&shelf);
        let is_worth_it = small.is_some();
        self.collection = small.map(|packs| Collection::new(packs, now_ms));
        is_worth_it
    }

    /// Whether enough of a pack can be given up for the rest to be written again, now that some of it has
    /// expired.
    fn frees_enough(&mut self, pack: &Arc<Pack>, expired: &Expired, now_ms: u64) -> bool {
        let looks = u64::from(pack.listed().segments) * LOOK_WEIGHT;
        self.share = self.share.saturating_sub(looks);
        let is_old = expired.since_ms <= now_ms.saturating_sub(DEAD_MS_MAX);
        let half = pack.listed().raw_bytes * DEAD_PERCENT / 100;
        let freed_min = if is_old { 1 } else { half.max(1) };
        let freed = || {
            let mut freed = 0;
            for (entry, n) in pack.entries()?.zip(1..) {
                let segment = Segment { pack: pack.clone(), entry: entry? };
                if !matches!(self.lot(&segment, now_ms)?, Lot::Kept { .. }) {
                    freed += segment.entry.head.raw_bytes;
                }
                self.rest_from_looking(n);
            }
            Ok::<_, Error>(freed)
        };
        // What cannot be read stays where it is.
        freed_min <= expired.raw_bytes && freed().is_ok_and(|freed| freed_min <= freed)
    }

    /// Several small packs, if there are many of about the same size: a store that is written to now and
    /// then makes a small pack every time. While much is appended that waits.
    fn small_packs(&self, shelf: &Shelf) -> Option<Vec<Arc<Pack>>> {
        let small = self.shared.options.pack_bytes / 4;
        let mut by_size: BTreeMap<u32, Vec<Arc<Pack>>> = BTreeMap::new();
        for pack in shelf.packs() {
            let listed = pack.listed();
            let is_small = listed.kind == PackKind::Shared && listed.bytes < small;
            if is_small && !self.diary.is_damaged(pack.number()) {
                by_size.entry(listed.bytes.ilog2() / 2).or_default().push(pack.clone());
            }
        }
        let small: usize = by_size.values().map(Vec::len).sum();
        let waiting = self.shared.unflushed.bytes();
        if small < SMALL_MAX && self.shared.options.flush_bytes / CALM_SHARE < waiting {
            return None;
        }
        let mut many = by_size.into_values().find(|packs| TOGETHER <= packs.len())?;
        many.truncate(TOGETHER);
        Some(many)
    }

    /// Looks at the next segment of a collection, and reads it if it is needed.
    fn look_at_next(&mut self, collection: &mut Collection) -> Result<Found, Error> {
        let Some(n) = collection.left.pop() else {
            let Some(pack) = collection.packs.get(collection.begun) else {
                return Ok(Found::End);
            };
            collection.left = by_place(pack)?;
            collection.begun += 1;
            return Ok(Found::Nothing);
        };
        let pack = collection.packs[collection.begun - 1].clone();
        let segment = Segment { entry: pack.entry_at(n as usize)?, pack };
        let SegmentHead { run_no, raw_bytes, .. } = segment.entry.head;
        self.share = self.share.saturating_sub(raw_bytes.max(LOOK_WEIGHT));
        self.rest_from_looking(collection.left.len());
        let is_last = match self.lot(&segment, collection.now_ms)? {
            Lot::Dead => {
                collection.freed += raw_bytes;
                return Ok(Found::Nothing);
            }
            // Without its last segment, what was kept of a run would be taken for all of it.
            Lot::Expired { is_last }
                if !(is_last && collection.kept.contains(&run_no))
                    && self.shared.shard(run_no.vshard()).lock().doom(run_no) =>
            {
                collection.freed += raw_bytes;
                collection.expired.push(run_no);
                if is_last {
                    collection.unlisted.extend(unlisted(&segment, &collection.blocks));
                }
                return Ok(Found::Nothing);
            }
            Lot::Expired { is_last } | Lot::Kept { is_last } => is_last,
        };
        if !is_last {
            collection.kept.insert(run_no);
        }
        let tail = segment.tail(&collection.blocks)?;
        let mut frames = Vec::new();
        for part in &tail.parts {
            let read = segment.read(part, &collection.blocks)?;
            frames.extend(read.frames.into_iter().map(NewFrame::from));
        }
        Ok(Found::Needed(tail, frames))
    }

    fn rest_from_looking(&self, looked_at: usize) {
        if looked_at.is_multiple_of(LOOKED_AT_ONCE) {
            self.prover.pace().rest();
        }
    }

    /// What is to become of a segment.
    fn lot(&self, segment: &Segment, now_ms: u64) -> Result<Lot, Error> {
        let SegmentHead { name_hash, run_no, .. } = segment.entry.head;
        let shelf = self.shared.packs.shelf();
        let counts = shelf.segments_of(name_hash, run_no)?;
        if !counts.iter().any(|counts| counts.is_same(segment)) {
            return Ok(Lot::Dead);
        }
        let low = self.shared.manifest.lock().live().journal_low;
        let last = counts.last().expect("one of them is the segment");
        let is_last = last.is_same(segment);
        if !is_expired(&last.entry.head, now_ms) || low <= last.entry.head.flushed.block_no {
            return Ok(Lot::Kept { is_last });
        }
        let is_alone = || {
            let mut all = shelf.named(name_hash)?;
            all.retain(|found| found.entry.head.run_no == run_no);
            Ok::<_, Error>(all.iter().all(|found| found.pack.number() == segment.pack.number()))
        };
        // The last segment says that the run has expired, so it goes after all others.
        let may_go = (!is_last || is_alone()?)
            && !self.shared.shard(run_no.vshard()).lock().is_in_use(run_no);
        Ok(if may_go { Lot::Expired { is_last } } else { Lot::Kept { is_last } })
    }

    /// Writes a segment into the pack that takes the place of the collected ones.
    fn write_again(
        &mut self,
        collection: &mut Collection,
        tail: SegmentTail,
        frames: &[NewFrame],
    ) -> Result<(), Error> {
        let chain = tail.parts.first().map(|part| part.records_chain);
        let again = NewSegment {
            head: tail.head,
            run_uid: tail.run_uid,
            records_chain: chain.unwrap_or(Chain(0)),
            frames,
            state: tail.state,
        };
        let writer = match &mut collection.writer {
            Some(writer) => writer,
            none => {
                let kind = collection.packs[0].listed().kind;
                // What is written again stays for long: it is worth the time.
                none.insert(self.begin_pack(kind, self.prover.unhurried())?)
            }
        };
        writer.add(again).map_err(|error| Self::pack_error(writer.number(), error))
    }

    /// Puts the pack with what was kept in the place of those that are collected.
    fn replace(&mut self, collection: &mut Collection) -> Result<(), Error> {
        let finish = |writer| self.finish_pack(writer).map(|(pack, _)| pack);
        let added = collection.writer.take().map(finish).transpose()?;
        let numbers: Vec<u64> = collection.numbers().collect();
        let mut edits: Vec<Edit> = numbers.iter().copied().map(Edit::PackDropped).collect();
        if let Some(pack) = &added {
            edits.push(Edit::PackAdded(*pack.listed()));
            let raw_bytes = self.dead_in(pack, &collection.buried);
            edits.extend(
                (0 < raw_bytes).then_some(Edit::PackDead { number: pack.number(), raw_bytes }),
            );
        }
        if sabotage::is(Bug::UnlinkBeforeEdit) {
            for &number in &numbers {
                let _ = self.shared.platform.vfs.unlink(&file_name::pack(number));
            }
        }
        self.commit(&edits)?;
        self.unlisted.retain(|number| added.as_ref().is_none_or(|pack| pack.number() != *number));
        self.shared.packs.replace(added, &numbers);
        for change in collection.unlisted.drain(..) {
            self.shared.catalog.note(change, -1);
        }
        for &number in &numbers {
            self.shared.blocks.forget(number);
            for path in [file_name::pack(number), file_name::pack_names(number)] {
                // If this fails, the next start removes it.
                let _ = self.shared.platform.vfs.unlink(&path);
            }
        }
        tracing::debug!(packs = ?numbers, freed = collection.freed, "collected");
        Ok(())
    }

    /// Raw bytes of these runs in a new pack that do not count any more.
    fn dead_in(&self, pack: &Pack, runs: &BTreeSet<(u64, RunNo)>) -> u64 {
        let shelf = self.shared.packs.shelf();
        let of_run = |&(name_hash, run_no): &(u64, RunNo)| {
            let mut here = pack.entries_of(name_hash).ok()?;
            here.retain(|entry| entry.head.run_no == run_no);
            if here.is_empty() {
                return None;
            }
            // What a damaged pack holds of the run is not known, and not counted.
            let counts = shelf.segments_of(name_hash, run_no).ok()?;
            let counts = |head: &SegmentHead| counts.iter().any(|other| other.entry.head == *head);
            let dead = here.iter().filter(|entry| !counts(&entry.head));
            Some(dead.map(|entry| entry.head.raw_bytes).sum::<u64>())
        };
        runs.iter().filter_map(of_run).sum()
    }
}

impl Collection {
    fn new(packs: Vec<Arc<Pack>>, now_ms: u64) -> Self {
        Self {
            packs,
            now_ms,
            begun: 0,
            left: Vec::new(),
            writer: None,
            blocks: Blocks::new(BLOCKS_BYTES),
            kept: HashSet::new(),
            expired: Vec::new(),
            unlisted: Vec::new(),
            freed: 0,
            buried: BTreeSet::new(),
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.packs.iter().map(|pack| pack.number())
    }

    /// Notes that of these runs not all segments count any more that did.
    pub(super) fn note_buried(&mut self, runs: impl Iterator<Item = (u64, RunNo)>) {
        let packs = &self.packs;
        let is_here = |name_hash| packs.iter().any(|pack| pack.may_hold(name_hash));
        self.buried.extend(runs.filter(|&(name_hash, _)| is_here(name_hash)));
    }
}

/// The segments of a pack by their numbers in its directory, the one that stands first in the file last:
/// so each block is read once.
fn by_place(pack: &Pack) -> Result<Vec<u32>, Error> {
    let mut places = Vec::new();
    for (entry, n) in pack.entries()?.zip(0..) {
        let entry = entry?;
        places.push((entry.block, entry.offset, n));
    }
    places.sort_unstable();
    Ok(places.into_iter().rev().map(|(_, _, n)| n).collect())
}

/// What takes an expired run out of the index; none if that was done, or its state is damaged.
fn unlisted(segment: &Segment, blocks: &Blocks) -> Option<Change> {
    let state = read_state(segment, blocks).ok().filter(|state| state.deleted_ms.is_none())?;
    let RunState { namespace, created_ms, run_no, .. } = state;
    Some(Change::Remove { namespace, position: Position { created_ms, run_no } })
}

impl Diary {
    /// Notes since when packs have something dead in them.
    fn note(&mut self, packs: &BTreeMap<u64, LivePack>, now_ms: u64) {
        self.dead_since.retain(|number, _| packs.contains_key(number));
        for (&number, _) in packs.iter().filter(|(_, pack)| 0 < pack.dead_bytes) {
            self.dead_since.entry(number).or_insert(now_ms);
        }
    }

    fn is_damaged(&self, number: u64) -> bool {
        self.damaged.contains(&number)
    }

    fn is_due(&self, pack: &LivePack, percent: u64, now_ms: u64) -> bool {
        let since = self.dead_since.get(&pack.listed.number);
        pack.dead_bytes != 0
            && !self.is_damaged(pack.listed.number)
            && (pack.listed.raw_bytes * percent <= pack.dead_bytes * 100
                || since.is_some_and(|since_ms| since_ms + DEAD_MS_MAX <= now_ms))
    }
}

/// Whether a run is to be given up of which this is the last segment.
pub(super) fn is_expired(last: &SegmentHead, now_ms: u64) -> bool {
    0 < last.expires_ms && last.expires_ms <= now_ms
}

/// What has expired, by pack, whether or not it can be given up: all segments of runs whose last
/// one says so.
fn expired_by_pack(shelf: &Shelf, now_ms: u64) -> BTreeMap<u64, Expired> {
    let mut expired: BTreeMap<u64, Expired> = BTreeMap::new();
    // What is damaged is not known to have expired.
    let entries = shelf.packs().filter_map(|pack| pack.entries().ok()).flatten();
    let heads = entries.filter_map(Result::ok).map(|entry| entry.head);
    for last in heads.filter(|head| is_expired(head, now_ms)) {
        for segment in shelf.segments_of(last.name_hash, last.run_no).unwrap_or_default() {
            let of_pack = expired.entry(segment.pack.number()).or_default();
            of_pack.raw_bytes += segment.entry.head.raw_bytes;
            of_pack.since_ms = of_pack.since_ms.min(last.expires_ms);
        }
    }
    expired
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engine::{Options, RunKey, flush::Flushed, scene::Scene},
        platform::sim::{Call, Fault, SimDisk, What},
        record::name_hash,
    };

    /// A store that copies whatever there is.
    fn often(disk: &SimDisk) -> Scene {
        Scene::with(disk, Options { flush_bytes: 1, ..Options::new("simulated") })
    }

    fn mostly_dead() -> (Scene, RunKey) {
        mostly_dead_on(&SimDisk::new())
    }

    /// A pack of three runs of which two are deleted, and the third, of which there is one segment.
    fn mostly_dead_on(disk: &SimDisk) -> (Scene, RunKey) {
        let (mut scene, runs) = (often(disk), ["a", "b", "c"].map(RunKey::new));
        runs.iter().for_each(|run| scene.append(run));
        scene.copy();
        let [one, other, kept] = runs;
        [one, other].iter().for_each(|run| scene.delete(run));
        scene.copy();
        let packs = scene.packs();
        assert_eq!((packs.len(), packs[0].1), (2, packs[0].0 / 3 * 2), "{packs:?}");
        (scene, kept)
    }

    #[test]
    fn what_a_round_buries_while_its_pack_is_collected_is_dead_in_the_new_one() {
        let mut written_again = 0;
        for steps in 1.. {
            let (mut scene, kept) = mostly_dead();
            for _ in 0..steps {
                assert!(scene.flusher.force_collect());
            }
            if scene.flusher.collection.is_none() {
                assert_eq!(steps, 6, "beginning, its directory, three segments, the new pack");
                break;
            }
            let dead_before = scene.packs()[0].1;
            scene.delete(&kept);
            scene.copy();
            assert!(dead_before < scene.packs()[0].1, "the round has buried it");
            while scene.flusher.collection.is_some() {
                assert!(scene.flusher.force_collect());
            }
            // The marks of the three runs are in two packs; and what was written again before is dead.
            let packs = scene.packs();
            let all_dead = packs.iter().filter(|(raw, dead)| raw == dead).count();
            assert_eq!(packs.len(), 2 + all_dead, "after step {steps}: {packs:?}");
            written_again += all_dead;
            while scene.flusher.force_collect() {}
            assert_eq!(scene.packs().len(), 2, "after step {steps}");
        }
        assert!((1..5).contains(&written_again), "in {written_again} of five places");
    }

    #[test]
    fn collecting_has_a_share_of_what_is_copied_and_then_a_round_its_turn() {
        let steps = |scene: &mut Scene| {
            let step = |_| {
                assert_eq!(scene.flusher.step(), Flushed::Worked);
                scene.flusher.is_under_way()
            };
            (0..5).map(step).collect::<Vec<bool>>()
        };
        let (mut scene, kept) = mostly_dead();
        scene.append(&kept);
        scene.flusher.share = 2 * LOOK_WEIGHT;
        assert_eq!(steps(&mut scene), [false, false, false, false, true], "begins, opens, two");

        let (mut scene, kept) = mostly_dead();
        scene.append(&kept);
        scene.flusher.share = 2 * LOOK_WEIGHT;
        let _told = scene.flusher.shared.unflushed.ask();
        assert_eq!(scene.flusher.step(), Flushed::Worked);
        assert_eq!(scene.flusher.step(), Flushed::Worked);
        assert_eq!(scene.flusher.share, 1);
        assert_eq!(scene.flusher.step(), Flushed::Worked);
        assert!(!scene.flusher.is_under_way(), "the one segment");
        assert_eq!(scene.flusher.step(), Flushed::Worked);
        assert!(scene.flusher.is_under_way(), "somebody waits for it");
    }

    #[test]
    fn a_round_that_is_due_does_not_wait_because_nothing_is_worth_collecting() {
        let (mut scene, run) = (often(&SimDisk::new()), RunKey::new("run"));
        for _ in 0..2 {
            scene.append(&run);
            assert_eq!(scene.flusher.step(), Flushed::Worked);
            assert!(scene.flusher.is_under_way());
            while scene.flusher.is_under_way() {
                assert_eq!(scene.flusher.step(), Flushed::Worked);
            }
        }
    }

    #[test]
    fn packs_that_cannot_be_read_are_left_and_others_collected() {
        let disk = SimDisk::new();
        let mut scene = Scene::on(&disk);
        for pair in [["a", "b"], ["c", "d"]] {
            let [one, other] = pair.map(RunKey::new);
            [&one, &other].iter().for_each(|run| scene.append(run));
            scene.copy();
            scene.delete(&one);
            scene.copy();
        }
        let dead = |scene: &Scene| scene.packs().iter().filter(|(_, dead)| 0 < *dead).count();
        assert_eq!(dead(&scene), 2);
        // All directories are in memory: what is read next is a block.
        scene.flusher.shared.packs.shelf().named(0).expect("readable");
        disk.inject(Fault::new(Call::Read, What::Eio).on("packs/"));
        while scene.flusher.force_collect() {}
        assert_eq!((disk.faults_left(), dead(&scene)), (0, 1));
        assert_eq!(scene.flusher.step(), Flushed::Idle, "it is not tried again");
    }

    #[test]
    fn packs_stay_if_what_is_written_of_them_does_not_come_back() {
        let disk = SimDisk::new();
        let (mut scene, _) = mostly_dead_on(&disk);
        let before = scene.packs();
        let files = disk.files();
        disk.inject(Fault::new(Call::Sync, What::SyncLies).on("tmp/"));
        while scene.flusher.force_collect() {}
        assert_eq!((disk.faults_left(), scene.packs()), (0, before));
        assert_eq!(disk.files(), files, "nothing is left of the new one");
        assert!(!scene.flusher.force_collect(), "it is not tried again");
    }

    /// A store with a run that has expired, alone in a pack that the journal has left behind.
    fn expired() -> Scene {
        let slot_bytes = 128 << 10;
        let options =
            Options { slot_bytes_first: slot_bytes, slot_bytes, ..Options::new("simulated") };
        let mut scene = Scene::with(&SimDisk::new(), options);
        let (run, other) = (RunKey::new("run"), RunKey::new("other"));
        scene.append(&run);
        scene.close(&run);
        scene.copy();
        for _ in 0..3 {
            scene.append_record(&other, vec![b'x'; 64 << 10]);
        }
        scene.copy();
        scene.clock.advance(Duration::from_hours(29 * 24));
        scene
    }

    #[test]
    fn no_run_stays_doomed_when_collecting_is_given_up() {
        let mut scene = expired();
        let doomed = |scene: &Scene| {
            scene.flusher.collection.as_ref().and_then(|one| one.expired.first().copied())
        };
        while doomed(&scene).is_none() {
            assert!(scene.flusher.force_collect());
        }
        let run_no = doomed(&scene).expect("just seen");
        let shared = scene.flusher.shared.clone();
        let is_doomed = || shared.shard(run_no.vshard()).lock().is_doomed(run_no);
        assert!(is_doomed());
        scene.flusher.give_up();
        assert!(!is_doomed());
    }

    #[test]
    fn looking_whether_enough_has_expired_is_part_of_the_share() {
        let mut scene = expired();
        scene.flusher.share = 3 * LOOK_WEIGHT;
        while scene.flusher.collection.is_none() {
            assert!(scene.flusher.force_collect());
        }
        assert_eq!(scene.flusher.share, 2 * LOOK_WEIGHT, "one segment was looked at");
    }

    #[test]
    fn a_run_goes_as_a_whole_or_keeps_its_end_whenever_its_reader_leaves_while_its_pack_is_collected()
     {
        let (mut left, mut gone, mut steps) = (0, 0, 0);
        loop {
            let slot_bytes = 128 << 10;
            let options =
                Options { slot_bytes_first: slot_bytes, slot_bytes, ..Options::new("simulated") };
            let mut scene = Scene::with(&SimDisk::new(), options);
            let (run, other) = (RunKey::new("run"), RunKey::new("other"));
            let collect = |scene: &mut Scene| {
                while scene.flusher.force_collect() && scene.flusher.collection.is_none() {}
                assert!(scene.flusher.collection.is_some());
            };
            scene.append(&run);
            scene.copy();
            scene.close(&run);
            scene.copy();
            for _ in 2..TOGETHER {
                scene.append(&other);
                scene.copy();
            }
            collect(&mut scene);
            while scene.flusher.collection.is_some() {
                assert!(scene.flusher.force_collect());
            }
            assert_eq!(scene.packs().len(), 1, "all of the run is in one pack");
            let mut reader = Some(scene.follow(&run));
            for _ in 1..TOGETHER {
                // So much that the journal has left behind where the run was closed.
                scene.append_record(&other, vec![b'x'; 64 << 10]);
                scene.copy();
            }
            scene.clock.advance(Duration::from_hours(29 * 24));
            collect(&mut scene);
            for step in 0.. {
                if step == steps {
                    reader = None;
                }
                assert!(scene.flusher.force_collect());
                if scene.flusher.collection.is_none() {
                    break;
                }
            }
            let shelf = scene.flusher.shared.packs.shelf();
            let segments = shelf.named(name_hash(&run.namespace, &run.run_id)).expect("readable");
            let ends = segments.iter().filter(|segment| is_expired(&segment.entry.head, u64::MAX));
            match (segments.len(), ends.count()) {
                (0, 0) => gone += 1,
                (_, 1) => left += 1,
                (some, _) => panic!("{some} segments and no end after step {steps}"),
            }
            if reader.is_some() {
                break;
            }
            steps += 1;
        }
        assert!(0 < gone && 1 < left, "{gone} times nothing is left, {left} times the end");
    }
}
