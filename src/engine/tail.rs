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
    select::{Chunk, Load},
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
    /// Where the last load from disk ended.
    loaded: Option<Seq>,
}

impl Tail {
    pub(super) fn new(shared: Arc<Shared>, wake: watch::Receiver<()>, reader: Reader) -> Self {
        Self { shared, wake, reader, loaded: None }
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
                    let chunk = self.load(load).await?;
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

    /// Reads from disk. If it goes on where the last load ended, what comes next is made ready while
    /// this is on its way.
    async fn load(&mut self, load: Load) -> Result<Option<Chunk>, Error> {
        let (shared, ahead) = (self.shared.clone(), load.ahead());
        let chunk = self.shared.pool.run(move || load.read(&shared)).await?;
        let next = chunk.as_ref().map(|chunk| chunk.next);
        let before = std::mem::replace(&mut self.loaded, next);
        if let (Some(ahead), Some(next)) = (ahead.filter(|ahead| ahead.follows(before)), next) {
            let shared = self.shared.clone();
            self.shared.pool.run_aside(move || ahead.warm(&shared, next));
        }
        Ok(chunk)
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
