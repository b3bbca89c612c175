//! Reads back what was written of a pack, some blocks at a time, while the rest of it is written.
//!
//! Blocks are made durable, forgotten by the cache, read from the disk again, and taken apart as a
//! reader would. That takes about a fifth of the time of a pack, so a writer leaves it to a thread
//! beside it, if there is one.
//!
//! What it deliberately does not do: make the file as a whole durable, or look at anything but its
//! blocks.

use std::{io, sync::Arc};

use super::{
    pace::{Pace, Unhurried},
    pack::corruption,
};
use crate::{
    error::Error,
    format::{
        Damage,
        pack::{self, BlockPlace},
        segment,
    },
    platform::{
        File, RelPath, os,
        sync::mpsc::{self, Receiver, SyncSender},
    },
    sabotage::{self, Bug},
};

/// Tasks that may wait for the thread; a writer beyond that waits for it.
const QUEUE_MAX: usize = 1;

/// Who reads packs back. The thread ends when all its provers are gone.
#[derive(Clone)]
pub struct Prover {
    /// None if that is the writer itself.
    tasks: Option<SyncSender<Task>>,
    /// Raw bytes that are read back at once, overrun by less than one block.
    enough: usize,
    pace: Arc<dyn Pace>,
}

/// Blocks of a pack that are written, and not read back yet.
pub(super) struct Unproven {
    pub(super) file: Arc<dyn File>,
    pub(super) path: RelPath,
    /// Seed of the file.
    pub(super) salt: u64,
    /// Number of the file.
    pub(super) number: u64,
    /// The blocks, in the order of the file.
    pub(super) blocks: Vec<Written>,
}

/// A block that is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    /// Where it stands.
    pub(super) position: u64,
    /// Its bytes on disk, padding apart.
    pub(super) len: u32,
    /// Segments that it describes.
    pub(super) segments: u32,
}

/// Blocks for the thread, and whom it tells.
struct Task {
    blocks: Unproven,
    told: mpsc::Sender<Result<(), Error>>,
}

/// Whether blocks came back as they were written.
pub(super) enum Proof {
    Done(Result<(), Error>),
    Pending(Receiver<Result<(), Error>>),
}

impl Prover {
    /// Packs are read back by who writes them, whenever `enough` raw bytes were written.
    pub fn inline(enough: usize, pace: Arc<dyn Pace>) -> Self {
        Self { tasks: None, enough, pace }
    }

    /// Packs are read back by a thread of their own; without one, as [`inline`](Self::inline). It has
    /// the pace of the writer.
    pub fn beside(enough: usize, pace: Arc<dyn Pace>) -> Self {
        let (tasks, queue) = mpsc::sync_channel(QUEUE_MAX);
        let own = pace.clone();
        let thread = os::spawn_behind("braidlog-prove", move || work(&queue, &*own));
        Self { tasks: thread.is_ok().then_some(tasks), enough, pace }
    }

    /// The same, for packs that are written without haste.
    #[must_use]
    pub fn unhurried(&self) -> Self {
        Self { pace: Arc::new(Unhurried(self.pace.clone())), ..self.clone() }
    }

    /// How fast packs are written that are read back this way.
    pub fn pace(&self) -> &dyn Pace {
        &*self.pace
    }

    /// Whether it is worth reading so many raw bytes back.
    pub(super) fn is_enough(&self, raw_bytes: usize) -> bool {
        self.enough <= raw_bytes
    }

    /// Has blocks read back.
    pub(super) fn prove(&self, blocks: Unproven) -> Proof {
        let Some(tasks) = &self.tasks else { return Proof::Done(blocks.prove(&*self.pace)) };
        let (told, proof) = mpsc::channel();
        match tasks.send(Task { blocks, told }) {
            Ok(()) => Proof::Pending(proof),
            Err(mpsc::SendError(task)) => Proof::Done(task.blocks.prove(&*self.pace)),
        }
    }
}

fn work(queue: &Receiver<Task>, pace: &dyn Pace) {
    while let Ok(Task { blocks, told }) = queue.recv() {
        // Whoever gave the pack up does not wait for it.
        let _ = told.send(blocks.prove(pace));
    }
}

impl Proof {
    /// Waits until the blocks were read back.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what comes back is not what was written, [`Error::Io`].
    pub(super) fn wait(self) -> Result<(), Error> {
        match self {
            Self::Done(proof) => proof,
            Self::Pending(proof) => proof.recv().unwrap_or_else(|_| {
                let source = Arc::new(io::Error::other("the thread that reads it back has ended"));
                Err(Error::Io { operation: "read a pack back".into(), source })
            }),
        }
    }
}

impl Unproven {
    fn prove(&self, pace: &dyn Pace) -> Result<(), Error> {
        if sabotage::is(Bug::TrustPackWrites) {
            return Ok(());
        }
        if !sabotage::is(Bug::NoPackSync) {
            self.file.sync_data().map_err(|error| self.io_error(error))?;
        }
        self.file.drop_cache().map_err(|error| self.io_error(error))?;
        let mut bytes = Vec::new();
        for &Written { position, len, segments } in &self.blocks {
            bytes.resize(len as usize, 0);
            self.file
                .read_exact_at(&mut bytes, position)
                .map_err(|error| self.read_error(position, error))?;
            let place = BlockPlace { salt: self.salt, number: self.number, position };
            check_block(&place, &bytes, segments)
                .map_err(|damage| corruption(&self.path, position, damage))?;
            pace.rest();
        }
        Ok(())
    }

    fn read_error(&self, position: u64, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => corruption(&self.path, position, Damage::Short),
            _ => self.io_error(error),
        }
    }

    fn io_error(&self, source: io::Error) -> Error {
        Error::Io { operation: format!("read back {}", self.path).into(), source: Arc::new(source) }
    }
}

/// Takes a block apart that describes so many segments.
fn check_block(place: &BlockPlace, bytes: &[u8], segments: u32) -> Result<(), Damage> {
    let raw = pack::decode_block(place, bytes)?;
    let described = pack::described(&raw)?;
    for &(offset, len) in &described {
        segment::decode(&raw.slice(offset as usize..(offset + len) as usize))?;
    }
    match described.len() as u32 {
        found if found == segments => Ok(()),
        found => {
            let (found, expected) = (u64::from(found), u64::from(segments));
            Err(Damage::Numbering { what: "segments of a pack's block", found, expected })
        }
    }
}
