//! A turn of a job: collected, then done in one step.
//!
//! A turn has a request id. Each of the methods that do it sends the same request when it is called
//! again, after an answer was lost for instance, and gets the first answer.

use std::sync::Arc;

use bytes::Bytes;

use super::worker::Job;
use crate::{
    core::{Ack, Close, Commit, NewRecord, Operation, Release, ReleaseTo, StreamAppend, Then},
    engine::{CommittedTurn, Input},
    error::Error,
    proto::{
        InputWait, Outcome, RunError, RunUpdated, TimeWait, TokenWait, WaitCreated, wait_created,
    },
    record::Index,
};

/// What a job does in one step: outputs, acks, metadata, labels, waits, and what becomes of the
/// run. Made by [`Job::turn`].
///
/// Nothing happens before one of [`commit`](Self::commit), [`suspend`](Self::suspend),
/// [`release`](Self::release), [`retry_at`](Self::retry_at), [`complete`](Self::complete),
/// [`fail`](Self::fail), [`cancel`](Self::cancel) and [`close`](Self::close) is awaited. All but
/// the first end the job. Each refuses with what [`Client::commit`](super::Client::commit) refuses
/// with, and then nothing was done.
#[derive(Debug, Clone)]
#[must_use = "a turn does nothing before it is committed"]
pub struct Turn<'a> {
    job: &'a Job,
    commit: Commit,
}

impl<'a> Turn<'a> {
    pub(super) fn new(job: &'a Job, request_id: Arc<str>) -> Self {
        Self { job, commit: Commit { request_id, ..Commit::default() } }
    }

    /// Appends a record to an output.
    pub fn append(self, stream: impl Into<Arc<str>>, data: impl Into<Bytes>) -> Self {
        self.append_all(stream, vec![NewRecord::new(data)])
    }

    /// Appends records to an output: 1,000 with 1 MiB of data and headers in all of a turn.
    pub fn append_all(mut self, stream: impl Into<Arc<str>>, records: Vec<NewRecord>) -> Self {
        let (stream, appends) = (stream.into(), &mut self.commit.appends);
        match appends.iter_mut().find(|append| append.stream == stream) {
            Some(append) => append.records.extend(records),
            None => appends.push(StreamAppend { stream, records, expected_index: None }),
        }
        self
    }

    /// Notes that a message of a stream was consumed.
    pub fn ack(self, stream: impl Into<Arc<str>>, input: &Input) -> Self {
        let index = Index(input.record.index);
        self.ack_range(stream, index, index + 1)
    }

    /// Notes that the messages of a stream from one index up to another were consumed.
    pub fn ack_range(mut self, stream: impl Into<Arc<str>>, from: Index, to: Index) -> Self {
        let (stream, acks) = (stream.into(), &mut self.commit.acks);
        match acks.iter_mut().find(|ack| ack.stream == stream) {
            Some(ack) => ack.ranges.push((from, to)),
            None => acks.push(Ack { stream, ranges: vec![(from, to)], ..Ack::default() }),
        }
        self
    }

    /// Changes the metadata document.
    pub fn metadata(mut self, operation: Operation) -> Self {
        self.commit.metadata.push(operation);
        self
    }

    /// Changes the parent's document; the run's own if it has no parent. It follows when the turn
    /// is durable.
    pub fn parent_metadata(mut self, operation: Operation) -> Self {
        self.commit.parent_metadata.push(operation);
        self
    }

    /// Changes the root's document; the run's own if it has no root.
    pub fn root_metadata(mut self, operation: Operation) -> Self {
        self.commit.root_metadata.push(operation);
        self
    }

    /// Adds a label.
    pub fn tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.commit.tags.push(tag.into());
        self
    }

    /// Tells what the run took.
    pub fn usage(mut self, update: RunUpdated) -> Self {
        self.commit.update = Some(update);
        self
    }

    /// Begins a wait for a message of a stream that is not acked, at `after` or behind it.
    pub fn wait_for_input(
        self,
        wait_id: impl Into<String>,
        stream: impl Into<String>,
        after: Index,
    ) -> Self {
        let stream = stream.into();
        let input = InputWait { stream, after: after.0, ..InputWait::default() };
        self.wait_for(wait_id, wait_created::Target::Input(input))
    }

    /// Begins a wait for a wait token.
    pub fn wait_for_token(self, wait_id: impl Into<String>, token_id: impl Into<String>) -> Self {
        let token_id = token_id.into();
        self.wait_for(wait_id, wait_created::Target::Token(TokenWait { token_id }))
    }

    /// Begins a wait for a time, milliseconds since the Unix epoch.
    pub fn wait_until(self, wait_id: impl Into<String>, until_ms: u64) -> Self {
        self.wait_for(wait_id, wait_created::Target::Time(TimeWait { until_ms }))
    }

    fn wait_for(self, wait_id: impl Into<String>, target: wait_created::Target) -> Self {
        let wait_id = wait_id.into();
        self.wait(WaitCreated { wait_id, target: Some(target), ..WaitCreated::default() })
    }

    /// Begins a wait. One whose name is known is left as it is.
    pub fn wait(mut self, wait: WaitCreated) -> Self {
        self.commit.waits.push(wait);
        self
    }

    /// Ends a wait: nobody waits any more.
    pub fn cancel_wait(mut self, wait_id: impl Into<Arc<str>>) -> Self {
        self.commit.cancel_waits.push(wait_id.into());
        self
    }

    /// Does the turn; the job goes on.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn commit(&self) -> Result<CommittedTurn, Error> {
        self.then(Then::GoOn).await
    }

    /// Does the turn and suspends the run until all it waits for has come: no worker is needed
    /// meanwhile. If it has come already, the run is queued at once.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn suspend(&self) -> Result<CommittedTurn, Error> {
        self.release(Release { next: ReleaseTo::Suspend, error: None }).await
    }

    /// Does the turn and gives the run back.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn release(&self, release: Release) -> Result<CommittedTurn, Error> {
        self.then(Then::Release(release)).await
    }

    /// Does the turn and gives the run back for another attempt at a time, in milliseconds since
    /// the Unix epoch; `error` is why this one failed.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn retry_at(&self, time_ms: u64, error: RunError) -> Result<CommittedTurn, Error> {
        self.release(Release { next: ReleaseTo::Delay(time_ms), error: Some(error) }).await
    }

    /// Does the turn and ends the run: it did what it was for, and returned this.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn complete(&self, output: impl Into<Bytes>) -> Result<CommittedTurn, Error> {
        let outcome = Outcome::Completed;
        self.close(Close { outcome, output: output.into(), ..Close::default() }).await
    }

    /// Does the turn and ends the run: it failed for good.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn fail(&self, error: RunError) -> Result<CommittedTurn, Error> {
        let outcome = Outcome::Failed;
        self.close(Close { outcome, error: Some(error), ..Close::default() }).await
    }

    /// Does the turn and ends the run: it was asked to stop, and returned this.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn cancel(&self, output: impl Into<Bytes>) -> Result<CommittedTurn, Error> {
        let outcome = Outcome::Canceled;
        self.close(Close { outcome, output: output.into(), ..Close::default() }).await
    }

    /// Does the turn and ends the run. Identity and lease are the job's.
    ///
    /// # Errors
    /// As the [type](Self) says.
    pub async fn close(&self, close: Close) -> Result<CommittedTurn, Error> {
        self.then(Then::Close(close)).await
    }

    async fn then(&self, then: Then) -> Result<CommittedTurn, Error> {
        self.job.held.commit(Commit { then, ..self.commit.clone() }).await
    }
}
