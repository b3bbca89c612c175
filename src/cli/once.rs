//! Appends a batch exactly once, without a producer of its own.
//!
//! A run remembers its producers for ever, and only so many. A command that appends a few lines and
//! is gone must not be one of them, or the run would take no more commands some day. So all such
//! commands share a few producers, and every append of theirs is a new epoch, with a number that no
//! other has: to repeat it is harmless until another command takes the same producer over.
//!
//! If that happens between an attempt whose answer got lost and its repetition, nobody can say
//! whether it was applied, and that is the answer.

use crate::{
    client::Client,
    core::{Append, Appended, NewRecord, Producer, Refusal},
    engine::{IfAbsent, RunKey},
    error::Error,
    platform::Platform,
};

/// Producers that are shared.
const SHARED_PRODUCERS: u64 = 16;
/// Bits of an epoch that are random; those above are milliseconds since the Unix epoch.
const RANDOM_BITS: u32 = 22;

/// Appends single batches to a stream.
pub(super) struct Once {
    /// The run.
    pub(super) run: RunKey,
    /// Name of the stream.
    pub(super) stream: String,
    /// What to do if the run does not exist.
    pub(super) absent: IfAbsent,
    /// Attempts once.
    pub(super) single: Client,
    /// Repeats what is harmless to repeat.
    pub(super) lasting: Client,
    /// Time and random bits.
    pub(super) platform: Platform,
}

impl Once {
    /// Appends a batch.
    pub(super) async fn append(&self, records: Vec<NewRecord>) -> Result<Appended, Error> {
        let (mut shared, mut refused) = (self.platform.random_u64() % SHARED_PRODUCERS, 0);
        let mut after_ms = 0;
        loop {
            let append = self.numbered(records.clone(), shared, after_ms);
            match self.single.append(&self.run, append.clone(), self.absent).await {
                // Another command was faster; this one was not applied.
                Err(Error::Refused(Refusal::StaleEpoch { current })) => {
                    after_ms = current >> RANDOM_BITS;
                }
                // The run has no room for this one, but it may have others.
                Err(Error::Refused(Refusal::Limit { .. })) if refused + 1 < SHARED_PRODUCERS => {
                    shared = (shared + 1) % SHARED_PRODUCERS;
                    refused += 1;
                }
                Err(
                    Error::OutcomeUnknown { .. }
                    | Error::Unavailable { .. }
                    | Error::ShuttingDown
                    | Error::Stopped { .. },
                ) => return self.repeat(append).await,
                answer => return answer,
            }
        }
    }

    /// The batch with a number that no other append has.
    fn numbered(&self, records: Vec<NewRecord>, shared: u64, after_ms: u64) -> Append {
        let now_ms = self.platform.clock.wall_ms().max(after_ms + 1);
        let random = self.platform.random_u64() >> (u64::BITS - RANDOM_BITS);
        let epoch = now_ms << RANDOM_BITS | random;
        let producer = Producer { id: format!("braidlog-append-{shared}").into(), epoch, seq: 0 };
        let stream = self.stream.as_str().into();
        Append { stream, records, producer: Some(producer), ..Append::default() }
    }

    async fn repeat(&self, append: Append) -> Result<Appended, Error> {
        match self.lasting.append(&self.run, append, self.absent).await {
            Err(Error::Refused(Refusal::StaleEpoch { .. })) => Err(Error::OutcomeUnknown {
                cause: "the connection broke, and another command appended meanwhile".into(),
            }),
            answer => answer,
        }
    }
}
