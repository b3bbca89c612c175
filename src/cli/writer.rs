//! Hands the batches of `append` to the store: in order, each exactly once, as far ahead of their
//! acknowledgements as it pays.
//!
//! A named producer sends every batch ahead. Without a name, the first batch goes by itself, which
//! is all for most commands; a second one is worth a producer of its own. Where the run has no room
//! for another producer, all batches go by themselves.

use super::once::Once;
use crate::{
    client::{Appender, AppenderOptions, Receipt},
    core::{Appended, NewRecord, Refusal},
    error::Error,
};

/// Where batches go.
pub(super) struct Writer {
    once: Once,
    options: AppenderOptions,
    way: Way,
}

/// How the next batch goes.
enum Way {
    /// By itself, and nothing is known of another one.
    First,
    /// As the first of a producer, if there is room for one.
    Second,
    /// By itself, as all do.
    ByItself,
    /// Ahead of the acknowledgements of those before it.
    Ahead(Appender),
}

/// The acknowledgement of a batch.
pub(super) enum Ack {
    /// It is there.
    Settled(Appended),
    /// It is to come.
    Open(Receipt),
}

impl Ack {
    /// Waits for it.
    pub(super) async fn settled(self) -> Result<Appended, Error> {
        match self {
            Self::Settled(appended) => Ok(appended),
            Self::Open(receipt) => receipt.await,
        }
    }
}

impl Writer {
    /// A writer that is the producer of `options`, or nobody in particular if that has no name.
    pub(super) fn new(once: Once, options: AppenderOptions) -> Result<Self, Error> {
        let way = match options.producer_id {
            Some(_) => Way::Ahead(once.lasting.appender(&once.run, options.clone())?),
            None => Way::First,
        };
        Ok(Self { once, options, way })
    }

    /// Takes a batch. An error says that it, and none before it, was not taken.
    pub(super) async fn submit(&mut self, batch: Vec<NewRecord>) -> Result<Ack, Error> {
        match &mut self.way {
            Way::Ahead(appender) => Ok(Ack::Open(appender.submit(batch).await?)),
            Way::ByItself => Ok(Ack::Settled(self.once.append(batch).await?)),
            Way::First => {
                self.way = Way::Second;
                Ok(Ack::Settled(self.once.append(batch).await?))
            }
            Way::Second => self.second(batch).await,
        }
    }

    async fn second(&mut self, batch: Vec<NewRecord>) -> Result<Ack, Error> {
        let mut appender = self.once.lasting.appender(&self.once.run, self.options.clone())?;
        match appender.append(batch.clone()).await {
            // The run has as many producers as it keeps.
            Err(Error::Refused(Refusal::Limit { .. })) => {
                self.way = Way::ByItself;
                Ok(Ack::Settled(self.once.append(batch).await?))
            }
            appended => {
                self.way = Way::Ahead(appender);
                Ok(Ack::Settled(appended?))
            }
        }
    }

    /// Waits until everything is acknowledged.
    pub(super) async fn finish(self) -> Result<(), Error> {
        match self.way {
            Way::Ahead(appender) => appender.finish().await,
            Way::First | Way::Second | Way::ByItself => Ok(()),
        }
    }
}
