//! A remote store: the verbs, arguments and answers of [`Store`](crate::engine::Store).
//!
//! A program changes between the two by changing how it opens them; errors are the same as well.
//! What a network adds is dealt with here: calls that may be repeated are, with growing pauses,
//! until [`RetryPolicy::deadline`]; a [`Tail`] resumes from its cursor after a broken connection,
//! an [`Appender`] sends again what was not acknowledged, under the same producer numbers. Neither
//! skips or doubles a record. A [`Watch`] resumes from its cursor, a [`Receiver`] from the first
//! message that is owed.
//!
//! | repeated | calls |
//! |---|---|
//! | always | reads, and commands that change nothing when they were applied: create, close, delete, trim, cancel, reschedule, ack, renew, complete, seal |
//! | with a key | an append with producer numbers, a commit with those or a request id, a message with an id |
//! | if certainly not applied | the others, and claims: what was claimed by a call whose answer is lost is given back when its term is over |
//!
//! What it deliberately does not do: repeat what may have been applied and would double
//! ([`Error::OutcomeUnknown`] says so), spread load, or cache.

mod appender;
mod connect;
mod convert;
mod follow;
mod inputs;
mod keeper;
mod lanes;
mod link;
mod live;
mod retry;
mod tail;
mod tokens;
mod turn;
mod watch;
mod work;
pub mod worker;

pub use appender::{Appender, AppenderOptions, Receipt};
pub use inputs::Receiver;
pub use keeper::Stop;
pub use retry::RetryPolicy;
pub use tail::Tail;
pub use turn::Turn;
pub use watch::Watch;
pub use worker::{Job, Worker, WorkerOptions};

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Response, Status, transport::Uri};

use self::{
    appender::Appends,
    convert::run_id,
    follow::Tails,
    lanes::Lanes,
    link::{Admin, Link, Runs, Streams},
    retry::{Backoff, Repeat},
};
use crate::{
    core::{Append, Appended, At, Close, CloseStream, Create, Delete, Deleted, StreamEnd, Trim},
    engine::{
        ClosedRun, CreatedRun, IfAbsent, ListRuns, Page, Query, RunInfo, RunKey, RunPage, RunTail,
        Stats, StreamList,
    },
    error::Error,
    grpc::status::from_status,
    proto,
    record::{Index, RunUid},
};

/// The services, as generated from `proto/`.
#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
mod generated {
    include!("../gen/client.rs");
}

/// Bytes of an answer, at most: the largest page with all its fields, and room.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How a client behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientOptions {
    /// When and how long calls are repeated.
    pub retry: RetryPolicy,
    /// How often a tail, a watch or a receiver asks the server to say that it is there: 100 ms at
    /// least. After three times as long without a word, the connection is replaced; after
    /// six at most if its tails share a call.
    pub heartbeat: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            heartbeat: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// A remote store. Clones share one connection, which is made when it is first needed.
#[derive(Debug, Clone)]
pub struct Client {
    link: Arc<Link>,
    appends: Arc<Lanes<Appends>>,
    tails: Arc<Lanes<Tails>>,
    options: Arc<ClientOptions>,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:4480`. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`Refusal::Invalid`](crate::core::Refusal::Invalid) if the text is not a URL.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with_options(url, ClientOptions::default())
    }

    /// As [`new`](Self::new), with other options.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_options(url: &str, options: ClientOptions) -> Result<Self, Error> {
        Ok(Self::by(Link::new(url, &options)?, options))
    }

    /// As [`with_options`](Self::with_options), on connections that `dial` makes to the address of
    /// the URL: through a tunnel, or over a network that is simulated.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_dialer<D, F, S>(url: &str, options: ClientOptions, dial: D) -> Result<Self, Error>
    where
        D: Fn(Uri) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Ok(Self::by(Link::over(dial, url, &options)?, options))
    }

    fn by(link: Link, options: ClientOptions) -> Self {
        Self {
            link: Arc::new(link),
            appends: Arc::default(),
            tails: Arc::default(),
            options: Arc::new(options),
        }
    }

    /// Creates a run, durably. Creating it again with the same parameters returns it; `created` is
    /// false then, also if an earlier attempt of this very call had created it.
    ///
    /// # Errors
    /// As [`Store::create_run`](crate::engine::Store::create_run).
    pub async fn create_run(&self, create: Create) -> Result<CreatedRun, Error> {
        let request = convert::create(create)?;
        let call = |mut runs: Runs, request| async move { runs.create_run(request).await };
        convert::created(self.runs(Repeat::Command, request, call).await?)
    }

    /// Describes a run.
    ///
    /// # Errors
    /// As [`Store::get_run`](crate::engine::Store::get_run).
    pub async fn get_run(&self, run: &RunKey) -> Result<RunInfo, Error> {
        self.describe_run(proto::GetRunRequest { run_id: run_id(run)?, at: None }).await
    }

    /// Describes a run as it was at a moment.
    ///
    /// # Errors
    /// As [`Store::get_run_at`](crate::engine::Store::get_run_at).
    pub async fn get_run_at(&self, run: &RunKey, at: At) -> Result<RunInfo, Error> {
        let at = Some(match at {
            At::Seq(seq) => proto::get_run_request::At::AtSeq(seq.0),
            At::Time(time_ms) => proto::get_run_request::At::AtTimeMs(time_ms),
        });
        self.describe_run(proto::GetRunRequest { run_id: run_id(run)?, at }).await
    }

    async fn describe_run(&self, request: proto::GetRunRequest) -> Result<RunInfo, Error> {
        let call = |mut runs: Runs, request| async move { runs.get_run(request).await };
        convert::run(self.runs(Repeat::Read, request, call).await?.run)
    }

    /// Lists the runs that pass the filters, newest created first, page by page.
    ///
    /// # Errors
    /// As [`Store::list_runs`](crate::engine::Store::list_runs).
    pub async fn list_runs(&self, list: &ListRuns) -> Result<RunPage, Error> {
        let request = convert::list_runs(list)?;
        let call = |mut runs: Runs, request| async move { runs.list_runs(request).await };
        convert::run_page(self.runs(Repeat::Read, request, call).await?)
    }

    /// Closes a run exactly once. Closing it again with the same outcome gives the first answer.
    ///
    /// # Errors
    /// As [`Store::close_run`](crate::engine::Store::close_run).
    pub async fn close_run(&self, run: &RunKey, close: Close) -> Result<ClosedRun, Error> {
        let request = convert::close_run(run, close)?;
        let call = |mut runs: Runs, request| async move { runs.close_run(request).await };
        convert::closed(self.runs(Repeat::Command, request, call).await?)
    }

    /// Deletes a run with all it holds, open or closed. Deleting again gives the first answer; give
    /// the identity, and a repetition never deletes another run that has got the name meanwhile.
    ///
    /// # Errors
    /// As [`Store::delete_run`](crate::engine::Store::delete_run).
    pub async fn delete_run(&self, run: &RunKey, delete: Delete) -> Result<Deleted, Error> {
        let run_uid = convert::run_uid_bytes(delete.run_uid);
        let request = proto::DeleteRunRequest { run_id: run_id(run)?, run_uid };
        let call = |mut runs: Runs, request| async move { runs.delete_run(request).await };
        let answer = self.runs(Repeat::Command, request, call).await?;
        Ok(Deleted { deleted_ms: answer.deleted_at_ms, deduplicated: answer.deduplicated })
    }

    /// Closes one stream of a run; the run goes on.
    ///
    /// # Errors
    /// As [`Store::close_stream`](crate::engine::Store::close_stream).
    pub async fn close_stream(&self, run: &RunKey, close: CloseStream) -> Result<StreamEnd, Error> {
        let request = convert::close_stream(run, close)?;
        let call =
            |mut streams: Streams, request| async move { streams.close_stream(request).await };
        let answer = self.streams(Repeat::Command, request, call).await?;
        Ok(StreamEnd { final_index: Index(answer.final_index), deduplicated: answer.deduplicated })
    }

    /// Gives up the records of a stream below an index; answers with the first that is kept.
    ///
    /// # Errors
    /// As [`Store::trim`](crate::engine::Store::trim).
    pub async fn trim(&self, run: &RunKey, trim: Trim) -> Result<Index, Error> {
        let request = convert::trim(run, trim)?;
        let call = |mut streams: Streams, request| async move { streams.trim(request).await };
        Ok(Index(self.streams(Repeat::Command, request, call).await?.trim))
    }

    /// Appends a batch to a stream, all or nothing. The answer means that it is on disk and
    /// visible. Repeated only if it has producer numbers, or was certainly not applied.
    ///
    /// # Errors
    /// As [`Store::append`](crate::engine::Store::append).
    pub async fn append(
        &self,
        run: &RunKey,
        append: Append,
        absent: IfAbsent,
    ) -> Result<Appended, Error> {
        let repeat = match append.producer {
            Some(_) => Repeat::Command,
            None => Repeat::UnlessSent,
        };
        let request = convert::append(run, append, absent)?;
        let call = |mut streams: Streams, request| async move { streams.append(request).await };
        convert::appended(self.streams(repeat, request, call).await?)
    }

    /// Appends batches to a stream without waiting for the answer of the one before. However many
    /// appenders a client has, one call to the server carries them.
    ///
    /// # Errors
    /// [`Refusal::Invalid`](crate::core::Refusal::Invalid) if the options cannot be used. Whatever
    /// the server says comes with the first batch.
    pub fn appender(&self, run: &RunKey, options: AppenderOptions) -> Result<Appender, Error> {
        Appender::start(self.clone(), run, options)
    }

    /// Where a run and one of its streams end now: everything acknowledged before is below.
    ///
    /// # Errors
    /// As [`Store::check_tail`](crate::engine::Store::check_tail).
    pub async fn check_tail(
        &self,
        run: &RunKey,
        run_uid: Option<RunUid>,
        stream: Option<&str>,
    ) -> Result<RunTail, Error> {
        let request = proto::CheckTailRequest {
            run_id: run_id(run)?,
            run_uid: convert::run_uid_bytes(run_uid),
            stream: stream.unwrap_or_default().into(),
        };
        let call = |mut streams: Streams, request| async move { streams.check_tail(request).await };
        convert::run_tail(self.streams(Repeat::Read, request, call).await?)
    }

    /// The streams of a run.
    ///
    /// # Errors
    /// As [`Store::list_streams`](crate::engine::Store::list_streams).
    pub async fn list_streams(
        &self,
        run: &RunKey,
        run_uid: Option<RunUid>,
    ) -> Result<StreamList, Error> {
        let run_uid = convert::run_uid_bytes(run_uid);
        let request = proto::ListStreamsRequest { run_id: run_id(run)?, run_uid };
        let call =
            |mut streams: Streams, request| async move { streams.list_streams(request).await };
        convert::stream_list(self.streams(Repeat::Read, request, call).await?)
    }

    /// Reads one page, at once.
    ///
    /// # Errors
    /// As [`Store::read`](crate::engine::Store::read).
    pub async fn read(&self, query: Query) -> Result<Page, Error> {
        let request = convert::read(query)?;
        let call = |mut streams: Streams, request| async move { streams.read(request).await };
        convert::page(self.streams(Repeat::Read, request, call).await?)
    }

    /// Catches up and then follows, across broken connections. A stream that does not exist yet is
    /// waited for. However many tails a client has, one call to the server carries those that have
    /// caught up.
    ///
    /// # Errors
    /// As [`Store::tail`](crate::engine::Store::tail).
    pub async fn tail(&self, query: Query) -> Result<Tail, Error> {
        Tail::open(self.clone(), query).await
    }

    /// How the store is doing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the server cannot be reached.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let call =
            |mut admin: Admin| async move { admin.get_stats(proto::GetStatsRequest {}).await };
        Ok(convert::stats(self.repeat(Repeat::Read, || call(self.link.admin())).await?))
    }

    async fn runs<Q: Clone, A, F>(
        &self,
        repeat: Repeat,
        request: Q,
        call: impl Fn(Runs, Q) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.repeat(repeat, || call(self.link.runs(), request.clone())).await
    }

    async fn streams<Q: Clone, A, F>(
        &self,
        repeat: Repeat,
        request: Q,
        call: impl Fn(Streams, Q) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.repeat(repeat, || call(self.link.streams().1, request.clone())).await
    }

    async fn call<S, Q: Clone, A, F>(
        &self,
        repeat: Repeat,
        service: impl Fn(&Link) -> S,
        request: Q,
        call: impl Fn(S, Q) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.repeat(repeat, || call(service(&self.link), request.clone())).await
    }

    /// Attempts a call until it succeeds, must not be repeated, or has taken too long.
    async fn repeat<A, F>(&self, repeat: Repeat, attempt: impl Fn() -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut backoff = Backoff::new(self.options.retry.clone());
        let mut open = None;
        loop {
            let error = match backoff.bound(attempt()).await {
                Some(Ok(answer)) => return Ok(answer.into_inner()),
                Some(Err(status)) => from_status(&status, repeat.call()),
                None => return Err(open.unwrap_or_else(|| repeat.timed_out())),
            };
            if !repeat.may_follow(&error) {
                return Err(error);
            }
            if matches!(error, Error::OutcomeUnknown { .. }) {
                open = Some(error.clone());
            }
            if !backoff.pause(&error).await {
                // What an earlier attempt left open, a later one that did not get through cannot
                // settle.
                return Err(open.unwrap_or(error));
            }
        }
    }
}
