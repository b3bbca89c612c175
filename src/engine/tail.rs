//! Following a run: a pull loop around a [`Reader`].
//!
//! A tail owns no queue and holds no records: at its own pace it asks for what lies behind its
//! position, from the ring of recent frames or from disk, and only at the tail does it wait. A slow
//! reader therefore loses nothing and delays nobody.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    reader::{Reader, Step},
    request::TailItem,
    shared::Shared,
};
use crate::{
    error::Error,
    format::cursor::Cursor,
    record::Seq,
    sabotage::{self, Bug},
};

/// Follows a run, or some of its streams. Made by `Store::tail`.
pub struct Tail {
    shared: Arc<Shared>,
    wake: watch::Receiver<()>,
    reader: Reader,
}

impl Tail {
    pub(super) fn new(shared: Arc<Shared>, wake: watch::Receiver<()>, reader: Reader) -> Self {
        Self { shared, wake, reader }
    }

    /// The next item. Waits at the tail. After [`TailItem::End`], and only then, nothing follows;
    /// it is then returned again and again.
    ///
    /// Dropping the future loses nothing: the next call continues where the last item ended.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] or [`Error::Stopped`] when the store ends: resume by
    /// [`cursor`](Self::cursor). [`Error::Corrupt`] if stored records are damaged,
    /// [`Refusal::RunDeleted`](crate::core::Refusal::RunDeleted) once the run is deleted.
    pub async fn next(&mut self) -> Result<TailItem, Error> {
        loop {
            // Seen before the log is looked at, so that nothing published in between is missed.
            if !sabotage::is(Bug::ListenAfterLook) {
                self.wake.borrow_and_update();
            }
            match self.reader.step(&self.shared)? {
                Step::Item(item) => return Ok(item),
                Step::Load(load) => {
                    let shared = self.shared.clone();
                    let chunk = self.shared.pool.run(move || load.read(&shared)).await?;
                    self.reader.take(chunk);
                }
                Step::Wait => {
                    if sabotage::is(Bug::ListenAfterLook) {
                        self.wake.borrow_and_update();
                    }
                    if self.wake.changed().await.is_err() {
                        return Err(Error::ShuttingDown);
                    }
                }
            }
        }
    }

    /// The next item, if there is one without waiting; reads from disk on this thread.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<TailItem>, Error> {
        loop {
            match self.reader.step(&self.shared)? {
                Step::Item(item) => return Ok(Some(item)),
                Step::Load(load) => self.reader.take(load.read(&self.shared)?),
                Step::Wait => return Ok(None),
            }
        }
    }

    /// Where to resume after the last item.
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }

    /// Next seq of the run: what is durable now.
    pub fn durable_tail(&self) -> Seq {
        self.reader.durable(&self.shared)
    }
}
