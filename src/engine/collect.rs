//! Gives space back: packs whose segments are deleted, replaced or expired.
//!
//! What is still needed of such a pack is written again into a new one, which takes its place by
//! one edit of the manifest; if nothing is needed, the pack is dropped. A pack is collected when
//! half of it is dead, or when something in it has been dead for a day. A run expires as a whole,
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
    error::Error,
    format::{
        file_name,
        frame::{Chain, Frame},
        manifest::Edit,
        segment::SegmentHead,
    },
    manifest::LivePack,
    record::RunNo,
    segment::{NewSegment, Pack, Segment, Shelf},
};

/// Share of a pack, in percent, that has to be dead for the rest to be written again.
pub(super) const DEAD_PERCENT: u64 = 50;
/// Milliseconds for which something may be dead before its pack is collected anyway.
const DEAD_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Milliseconds between two looks at a pack for runs that have expired.
const LOOK_EVERY_MS: u64 = 60 * 60 * 1_000;

/// What is remembered of packs from one collection to the next.
#[derive(Default)]
pub(super) struct Diary {
    /// When something in a pack was first seen to be dead.
    dead_since: BTreeMap<u64, u64>,
    /// When a pack was last looked at for runs that have expired.
    looked: BTreeMap<u64, u64>,
    /// Packs that are damaged: what is left of them stays where it is.
    damaged: BTreeSet<u64>,
}

/// What is to become of a pack's segments.
#[derive(Default)]
struct Sorted {
    kept: Vec<Segment>,
    expired: Vec<RunNo>,
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
            return self.collect_one(pack, &shelf, 0, now_ms);
        }
        for pack in shelf.packs() {
            if self.diary.is_to_be_looked_at(pack.number(), now_ms) {
                self.diary.looked.insert(pack.number(), now_ms);
                if pack.listed().raw_bytes * DEAD_PERCENT <= expired_bytes(pack, now_ms) * 100
                    && self.collect_one(pack, &shelf, DEAD_PERCENT, now_ms)?
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Collects a pack if so much of it can be freed; false if not.
    fn collect_one(
        &mut self,
        pack: &Arc<Pack>,
        shelf: &Shelf,
        percent: u64,
        now_ms: u64,
    ) -> Result<bool, Error> {
        let mut sorted = Sorted::default();
        let collected = self.sort(pack, shelf, now_ms, &mut sorted).and_then(|()| {
            let is_worth_it = pack.listed().raw_bytes * percent <= sorted.freed * 100;
            if is_worth_it { self.rewrite(pack, &sorted).map(|()| true) } else { Ok(false) }
        });
        for run_no in &sorted.expired {
            self.shared.shard(run_no.vshard()).lock().spare(*run_no);
        }
        match collected {
            Err(error @ Error::Corrupt(_)) => {
                tracing::error!(%error, "a pack that could be collected is damaged");
                self.diary.damaged.insert(pack.number());
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
            let SegmentHead { name_hash, run_no, raw_bytes, expires_ms, flushed, .. } = entry.head;
            let segment = Segment { pack: pack.clone(), entry };
            let counts = shelf.segments_of(name_hash, run_no)?;
            if !counts.iter().any(|counts| counts.is_same(&segment)) {
                sorted.freed += raw_bytes;
                continue;
            }
            let may_go = 0 < expires_ms && expires_ms <= now_ms && flushed.block_no < low;
            let is_last = may_go && {
                let mut all = shelf.named(name_hash)?;
                all.retain(|found| found.entry.head.run_no == run_no);
                all.iter().all(|found| found.pack.number() == pack.number())
            };
            if is_last && self.shared.shard(run_no.vshard()).lock().doom(run_no) {
                sorted.freed += raw_bytes;
                sorted.expired.push(run_no);
            } else {
                sorted.kept.push(segment);
            }
        }
        Ok(())
    }

    /// Puts a pack with what is kept in the place of a pack.
    fn rewrite(&mut self, old: &Arc<Pack>, sorted: &Sorted) -> Result<(), Error> {
        let added = self.write_again(old, &sorted.kept)?;
        let number = old.number();
        let mut edits = vec![Edit::PackDropped(number)];
        edits.extend(added.as_ref().map(|pack| Edit::PackAdded(*pack.listed())));
        self.commit(&edits)?;
        self.shared.packs.replace(added, &[number]);
        self.shared.blocks.forget(number);
        for path in [file_name::pack(number), file_name::pack_names(number)] {
            // If this fails, the next start removes it.
            let _ = self.shared.platform.vfs.unlink(&path);
        }
        tracing::debug!(pack = number, freed = sorted.freed, "collected");
        Ok(())
    }

    fn write_again(&mut self, old: &Arc<Pack>, kept: &[Segment]) -> Result<Option<Pack>, Error> {
        if kept.is_empty() {
            return Ok(None);
        }
        let shared = self.shared.clone();
        let mut writer = self.begin_pack(old.listed().kind)?;
        for segment in kept {
            let tail = segment.tail(&shared.blocks)?;
            let mut frames: Vec<Frame> = Vec::new();
            for part in &tail.parts {
                frames.extend(segment.read(part, &shared.blocks)?.frames);
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
        let (pack, _) = writer.finish(&*shared.platform.vfs)?;
        Ok(Some(pack))
    }
}

impl Diary {
    /// Notes since when packs have something dead in them.
    fn note(&mut self, packs: &BTreeMap<u64, LivePack>, now_ms: u64) {
        self.dead_since.retain(|number, _| packs.contains_key(number));
        self.looked.retain(|number, _| packs.contains_key(number));
        for (&number, _) in packs.iter().filter(|(_, pack)| 0 < pack.dead_bytes) {
            self.dead_since.entry(number).or_insert(now_ms);
        }
    }

    fn is_to_be_looked_at(&self, number: u64, now_ms: u64) -> bool {
        let looked = self.looked.get(&number);
        !self.damaged.contains(&number)
            && looked.is_none_or(|looked_ms| looked_ms + LOOK_EVERY_MS <= now_ms)
    }

    fn is_due(&self, pack: &LivePack, percent: u64, now_ms: u64) -> bool {
        let since = self.dead_since.get(&pack.listed.number);
        pack.dead_bytes != 0
            && !self.damaged.contains(&pack.listed.number)
            && (pack.listed.raw_bytes * percent <= pack.dead_bytes * 100
                || since.is_some_and(|since_ms| since_ms + DEAD_MS_MAX <= now_ms))
    }
}

/// Raw bytes of a pack's segments that have expired, whether or not they can be given up.
fn expired_bytes(pack: &Pack, now_ms: u64) -> u64 {
    let Ok(entries) = pack.entries() else { return 0 };
    let expired = entries
        .filter_map(Result::ok)
        .map(|entry| entry.head)
        .filter(|head| 0 < head.expires_ms && head.expires_ms <= now_ms);
    expired.map(|head| head.raw_bytes).sum()
}
