//! Opening a store: the lock, recovery, and the parts that are then driven.

use std::{io, sync::Arc};

use super::{
    commit::{Committer, Start},
    flush::Flusher,
    options::Options,
    pool::Pool,
    shared::{Beginnings, Shared},
    supply::Supply,
};
use crate::{
    error::OpenError,
    format::file_name,
    platform::{Open, Platform},
    recovery::{self, Sizes, Summary},
};

/// What was found when the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Identity of the store.
    pub store_uuid: [u8; 16],
    /// Number of this start.
    pub incarnation: u64,
    /// What recovery found.
    pub recovered: Summary,
}

/// An opened store before anything drives it.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) committer: Committer,
    pub(super) flusher: Flusher,
    pub(super) opened: Opened,
    pub(super) lock: Box<dyn Send + Sync>,
}

/// Recovers what the directory holds and puts the parts together.
///
/// # Errors
/// As `Store::open`.
pub(super) fn open_parts(
    platform: Platform,
    options: Options,
    pool: Pool,
) -> Result<Parts, OpenError> {
    let lock = take_lock(&platform)?;
    let sizes =
        Sizes { slot_bytes: options.slot_bytes_first, manifest_bytes: options.manifest_bytes };
    let plan = recovery::plan(&platform)?;
    let recovered = recovery::apply(&platform, plan, sizes)?;
    let opened = Opened {
        store_uuid: recovered.identity.store_uuid,
        incarnation: recovered.incarnation,
        recovered: recovered.summary,
    };
    let slots = recovered.manifest.live().slots.clone();
    let slot_new = slots.iter().map(|slot| slot.slot + 1).max().unwrap_or(0);
    let slot_new = recovered.slots_unlisted.iter().fold(slot_new, |new, slot| new.max(slot + 1));
    let supply = Arc::new(Supply::new(
        options.slot_bytes,
        options.journal_slots_max,
        slots.len() as u32,
        recovered.slots_unlisted,
        slot_new,
    ));
    let start = Beginnings {
        store_uuid: opened.store_uuid,
        durable_block_no: recovered.writer.next_block_no(),
        clock_floor_ms: recovered.clock_ms,
    };
    let (manifest, packs) = (recovered.manifest, recovered.packs);
    let shared = Shared::new(platform, options, pool, supply.clone(), manifest, packs, start);
    for slot in &slots {
        shared.frames.add_slot(&*shared.platform.vfs, slot.slot, slot.file_seq)?;
    }
    recovered.masked.iter().for_each(|block| shared.frames.add_masked(*block));
    for (run_no, run) in recovered.runs {
        let bytes = shared.shard(run_no.vshard()).lock().restore(run);
        shared.unflushed.add(bytes);
    }
    let mono = shared.platform.clock.mono();
    for shard in shared.shards() {
        shard.lock().runs().for_each(|run| shared.agenda.note(&run.state, mono));
    }
    let shared = Arc::new(shared);
    let start = Start {
        writer: recovered.writer,
        file_seq_next: recovered.file_seq_next,
        incarnation: recovered.incarnation,
        store_uuid: opened.store_uuid,
    };
    let committer = Committer::new(shared.clone(), supply, start);
    let flusher = Flusher::new(shared.clone(), recovered.pack_next);
    Ok(Parts { shared, committer, flusher, opened, lock })
}

/// Takes the lock of the data directory and writes into it who has it.
fn take_lock(platform: &Platform) -> Result<Box<dyn Send + Sync>, OpenError> {
    let path = file_name::lock();
    match platform.vfs.open(&path, Open::CreateNew) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let lock = platform.vfs.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked {
            location: platform.vfs.location().display().to_string(),
            holder: lock_holder(platform).unwrap_or_default(),
        },
        _ => error.into(),
    })?;
    let holder = format!("{:<10}", std::process::id());
    platform.vfs.open(&path, Open::Write)?.write_all_at(holder.as_bytes(), 0)?;
    Ok(lock)
}

fn lock_holder(platform: &Platform) -> Option<String> {
    let file = platform.vfs.open(&file_name::lock(), Open::Read).ok()?;
    let mut text = vec![0; usize::try_from(file.len().ok()?).ok()?.min(64)];
    file.read_exact_at(&mut text, 0).ok()?;
    Some(format!(" (pid {})", String::from_utf8(text).ok()?.trim()))
}
