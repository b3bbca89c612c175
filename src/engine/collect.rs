//! Gives space back: packs whose segments are deleted, replaced or expired.
//!
//! What is still needed of such a pack is written again into a new one, which takes its place by
//! one edit of the manifest; if nothing is needed, the pack is dropped. A pack is collected when
//! half of it is dead, or when something in it has been dead for a day; small packs are put
//! together, so that their number stays small, too. A run expires as a whole,
//! and only while nobody uses it. A deleted run leaves its mark behind for a day, and for as long
//! as an older segment of it exists or the journal may still name it.
//!
//! What it deliberately does not do: hurry, or look at runs one by one: a pack is judged by what
//! was noted of it, or by its directory. Readers of a pack that is dropped read on from the file
//! they have open.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::flush::Flusher;
use crate::{
    core::RunState,
    error::Error,
    format::{file_name, frame::Chain, manifest::Edit, pack::PackKind, segment::SegmentHead},
    index::{Change, Position},
    manifest::LivePack,
    record::RunNo,
    recovery::read_state,
    sabotage::{self, Bug},
    segment::{NewFrame, NewSegment, Pack, Segment, Shelf},
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

/// What is to become of a pack's segments.
#[derive(Default)]
struct Sorted {
    kept: Vec<Segment>,
    expired: Vec<RunNo>,
    /// What the index has of the expired ones.
    unlisted: Vec<Change>,
    /// Raw bytes that are not kept.
    freed: u64,
}

impl Flusher {
    /// Collects the pack that is worth it most; false if none is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a pack cannot be read, [`Error::Io`], [`Error::Stopped`].
    pub(super) fn collect(&mut self, percent: u64) -> Result<bool, Error> {
        let now_ms = self.shared.now_ms();
        let packs = self.shared.manifest.lock().live().packs.clone();
        self.diary.note(&packs, now_ms);
        let shelf = self.shared.packs.shelf();
        let dead = packs.values().filter(|pack| self.diary.is_due(pack, percent, now_ms));
        let most = dead.max_by_key(|pack| pack.dead_bytes * 100 / pack.listed.raw_bytes.max(1));
        if let Some(pack) = most.and_then(|pack| shelf.pack(pack.listed.number)) {
            return self.collect_some(std::slice::from_ref(pack), &shelf, 0, now_ms);
        }
        if self.diary.looked_ms.is_none_or(|looked_ms| looked_ms + LOOK_EVERY_MS <= now_ms) {
            self.diary.looked_ms = Some(now_ms);
            self.diary.expired = expired_by_pack(&shelf, now_ms);
        }
        while let Some((number, expired)) = self.diary.expired.pop_first() {
            let Some(pack) = shelf.pack(number).filter(|_| !self.diary.is_damaged(number)) else {
                continue;
            };
            let is_old = expired.since_ms <= now_ms.saturating_sub(DEAD_MS_MAX);
            let half = pack.listed().raw_bytes * DEAD_PERCENT / 100;
            let freed_min = if is_old { 1 } else { half.max(1) };
            if freed_min <= expired.raw_bytes
                && self.collect_some(std::slice::from_ref(pack), &shelf, freed_min, now_ms)?
            {
                return Ok(true);
            }
        }
        self.put_together(&shelf, now_ms)
    }

    /// Writes several small packs as one, if there are many of about the same size: a store that
    /// is written to now and then makes a small pack every time. While much is appended that waits.
    fn put_together(&mut self, shelf: &Shelf, now_ms: u64) -> Result<bool, Error> {
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
            return Ok(false);
        }
        match by_size.into_values().find(|packs| TOGETHER <= packs.len()) {
            Some(packs) => self.collect_some(&packs[..TOGETHER], shelf, 0, now_ms),
            None => Ok(false),
        }
    }

    /// Writes what is needed of some packs again if so many raw bytes can be freed; false if not.
    fn collect_some(
        &mut self,
        packs: &[Arc<Pack>],
        shelf: &Shelf,
        freed_min: u64,
        now_ms: u64,
    ) -> Result<bool, Error> {
        let mut sorted = Sorted::default();
        let unlisted = self.unlisted.len();
        let sort = |pack| self.sort(pack, shelf, now_ms, &mut sorted);
        let collected = packs.iter().try_for_each(sort).and_then(|()| {
            let is_worth_it = freed_min <= sorted.freed;
            if is_worth_it { self.rewrite(packs, &sorted).map(|()| true) } else { Ok(false) }
        });
        for run_no in &sorted.expired {
            self.shared.shard(run_no.vshard()).lock().spare(*run_no);
        }
        match collected {
            Err(error @ Error::Corrupt(_)) => {
                tracing::error!(%error, "what could be collected is damaged");
                self.remove_unlisted(unlisted);
                self.diary.damaged.extend(packs.iter().map(|pack| pack.number()));
                // Others may be worth it.
                Ok(true)
            }
            other => other,
        }
    }

    /// Sorts a pack's segments by what is to become of them.
    fn sort(
        &self,
        pack: &Arc<Pack>,
        shelf: &Shelf,
        now_ms: u64,
        sorted: &mut Sorted,
    ) -> Result<(), Error> {
        let low = self.shared.manifest.lock().live().journal_low;
        for entry in pack.entries()? {
            let entry = entry?;
            let SegmentHead { name_hash, run_no, raw_bytes, .. } = entry.head;
            let segment = Segment { pack: pack.clone(), entry };
            let counts = shelf.segments_of(name_hash, run_no)?;
            if !counts.iter().any(|counts| counts.is_same(&segment)) {
                sorted.freed += raw_bytes;
                continue;
            }
            // The last segment says that the run has expired, so it goes after all others.
            let last = counts.last().filter(|last| is_expired(&last.entry.head, now_ms));
            let may_go = last.filter(|last| last.entry.head.flushed.block_no < low).is_some();
            let is_last = last.is_some_and(|last| last.is_same(&segment));
            let is_alone = || {
                let mut all = shelf.named(name_hash)?;
                all.retain(|found| found.entry.head.run_no == run_no);
                Ok::<_, Error>(all.iter().all(|found| found.pack.number() == pack.number()))
            };
            if may_go
                && (!is_last || is_alone()?)
                && self.shared.shard(run_no.vshard()).lock().doom(run_no)
            {
                sorted.freed += raw_bytes;
                sorted.expired.push(run_no);
                if is_last {
                    sorted.unlisted.extend(self.unlisted(&segment));
                }
            } else {
                sorted.kept.push(segment);
            }
        }
        Ok(())
    }

    /// What takes an expired run out of the index; none if that was done, or its state is damaged.
    fn unlisted(&self, segment: &Segment) -> Option<Change> {
        let RunState { namespace, created_ms, run_no, .. } =
            read_state(segment, &self.shared.blocks)
                .ok()
                .filter(|state| state.deleted_ms.is_none())?;
        Some(Change::Remove { namespace, position: Position { created_ms, run_no } })
    }

    /// Puts a pack with what is kept in the place of some packs.
    fn rewrite(&mut self, olds: &[Arc<Pack>], sorted: &Sorted) -> Result<(), Error> {
        let added = self.write_again(olds[0].listed().kind, &sorted.kept)?;
        let numbers: Vec<u64> = olds.iter().map(|old| old.number()).collect();
        let mut edits: Vec<Edit> = numbers.iter().copied().map(Edit::PackDropped).collect();
        edits.extend(added.as_ref().map(|pack| Edit::PackAdded(*pack.listed())));
        if sabotage::is(Bug::UnlinkBeforeEdit) {
            for &number in &numbers {
                let _ = self.shared.platform.vfs.unlink(&file_name::pack(number));
            }
        }
        self.commit(&edits)?;
        self.unlisted.retain(|number| added.as_ref().is_none_or(|pack| pack.number() != *number));
        self.shared.packs.replace(added, &numbers);
        for change in &sorted.unlisted {
            self.shared.catalog.note(change.clone(), -1);
        }
        for &number in &numbers {
            self.shared.blocks.forget(number);
            for path in [file_name::pack(number), file_name::pack_names(number)] {
                // If this fails, the next start removes it.
                let _ = self.shared.platform.vfs.unlink(&path);
            }
        }
        tracing::debug!(packs = ?numbers, freed = sorted.freed, "collected");
        Ok(())
    }

    fn write_again(&mut self, kind: PackKind, kept: &[Segment]) -> Result<Option<Pack>, Error> {
        if kept.is_empty() {
            return Ok(None);
        }
        let shared = self.shared.clone();
        let mut writer = self.begin_pack(kind)?;
        for segment in kept {
            let tail = segment.tail(&shared.blocks)?;
            let mut frames = Vec::new();
            for part in &tail.parts {
                frames.extend(
                    segment.read(part, &shared.blocks)?.frames.into_iter().map(NewFrame::from),
                );
            }
            let chain = tail.parts.first().map(|part| part.records_chain);
            let again = NewSegment {
                head: tail.head,
                run_uid: tail.run_uid,
                records_chain: chain.unwrap_or(Chain(0)),
                frames: &frames,
                state: tail.state,
            };
            writer.add(again).map_err(|error| Self::pack_error(writer.number(), error))?;
        }
        self.finish_pack(writer).map(|(pack, _)| Some(pack))
    }
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
