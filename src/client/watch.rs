//! A watch that outlives its connections.
//!
//! After a broken connection it resumes from the cursor of the last answer it received. A row may
//! then be given again, never an older one; the end of what there was to begin with is told once.

use std::collections::VecDeque;

use tonic::{Response, Streaming};

use super::{
    Client, convert,
    convert::{run_id, run_uid_bytes, unexpected},
    live::Live,
};
use crate::{
    core::Refusal,
    engine::{WatchItem, WatchQuery, WatchRuns, WatchScope},
    error::Error,
    proto::{self, Outcome, WatchRequest, WatchResponse, watch_request, watch_response},
};

impl Client {
    /// Watches runs: first what they are, then every change, across broken connections.
    ///
    /// # Errors
    /// As [`Store::watch`](crate::engine::Store::watch).
    pub async fn watch(&self, query: WatchQuery) -> Result<Watch, Error> {
        let heartbeat_ms = convert::heartbeat_ms(self.options.heartbeat);
        let request = WatchRequest {
            scope: Some(scope(query.scope)?),
            cursor: query.cursor.unwrap_or_default(),
            heartbeat_ms,
        };
        let handed_out = request.cursor.clone();
        let mut watch = Watch {
            live: Live::new(self.clone()),
            request,
            ready: VecDeque::new(),
            handed_out,
            is_caught_up: false,
        };
        while let Err(error) = watch.connect().await {
            watch.live.recover(error).await?;
        }
        Ok(watch)
    }
}

/// Watches runs across broken connections. Made by [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    live: Live<Streaming<WatchResponse>>,
    /// Resumes behind the last answer received.
    request: WatchRequest,
    /// Received and not handed out, each with where to resume behind it.
    ready: VecDeque<(WatchItem, String)>,
    /// Behind the last item handed out.
    handed_out: String,
    is_caught_up: bool,
}

impl Watch {
    /// The next item. Waits for a change, and for a server that is away. After
    /// [`WatchItem::End`], and only then, nothing follows; it is then returned again and again.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Refusal::RunDeleted`] of the one run, [`Error::Corrupt`], and [`Error::Unavailable`] when
    /// the server was away for longer than the retry policy allows. Another call tries again.
    pub async fn next(&mut self) -> Result<WatchItem, Error> {
        loop {
            if let Some((item, cursor)) = self.ready.pop_front() {
                self.handed_out.clone_from(&cursor);
                if let WatchItem::End(_) = item {
                    self.ready.push_front((item.clone(), cursor));
                }
                return Ok(item);
            }
            if let Err(error) = self.receive().await {
                self.live.recover(error).await?;
            }
        }
    }

    /// Text of the cursor that resumes behind the items given so far; empty before the first.
    pub fn cursor(&self) -> &str {
        &self.handed_out
    }

    async fn connect(&mut self) -> Result<(), Error> {
        if self.live.is_open() {
            return Ok(());
        }
        let (generation, mut watches) = self.live.client.link.watches();
        let request = self.request.clone();
        self.live
            .open(generation, async move { watches.watch(request).await.map(Response::into_inner) })
            .await
    }

    async fn receive(&mut self) -> Result<(), Error> {
        self.connect().await?;
        let answer = self.live.message().await?;
        self.take(answer)
    }

    fn take(&mut self, answer: WatchResponse) -> Result<(), Error> {
        let item = match answer.item {
            Some(found) => item(found)?,
            None => return Err(unexpected("an item of a watch that is nothing")),
        };
        if !answer.cursor.is_empty() {
            self.request.cursor = answer.cursor;
        }
        let cursor = self.request.cursor.clone();
        match item {
            None if self.ready.is_empty() => self.handed_out = cursor,
            None => {}
            Some(WatchItem::CaughtUp) if std::mem::replace(&mut self.is_caught_up, true) => {}
            Some(item) => self.ready.push_back((item, cursor)),
        }
        Ok(())
    }
}

fn scope(scope: WatchScope) -> Result<watch_request::Scope, Error> {
    Ok(match scope {
        WatchScope::Run { run, run_uid, kinds } => watch_request::Scope::Run(proto::WatchRun {
            run_id: run_id(&run)?,
            run_uid: run_uid_bytes(run_uid),
            kinds: kinds.into_iter().map(Into::into).collect(),
        }),
        WatchScope::Runs(runs) => watch_request::Scope::Runs(watch_runs(runs)?),
    })
}

fn watch_runs(runs: WatchRuns) -> Result<proto::WatchRuns, Error> {
    convert::check_namespace(&runs.namespace)?;
    // Zero has another meaning in the protocol.
    if runs.limit == 0 {
        return Err(Refusal::invalid("limit", "is zero").into());
    }
    Ok(proto::WatchRuns {
        tags: convert::names(&runs.tags),
        batch_id: runs.batch.as_ref().into(),
        task: runs.task.as_ref().into(),
        statuses: runs.statuses.into_iter().map(Into::into).collect(),
        created_from_ms: runs.created_from_ms,
        limit: u32::try_from(runs.limit).unwrap_or(u32::MAX),
    })
}

/// What is told; none for a heartbeat.
fn item(item: watch_response::Item) -> Result<Option<WatchItem>, Error> {
    Ok(Some(match item {
        watch_response::Item::Row(run) => WatchItem::Row(Box::new(convert::run(Some(run))?)),
        watch_response::Item::Removed(removed) => WatchItem::Removed {
            run_id: removed.run_id.into(),
            run_uid: convert::run_uid(&removed.run_uid)?,
        },
        watch_response::Item::Records(records) => WatchItem::Records(records.records),
        watch_response::Item::CaughtUp(_) => WatchItem::CaughtUp,
        watch_response::Item::Heartbeat(_) => return Ok(None),
        watch_response::Item::End(end) => {
            WatchItem::End(convert::outcome(end.outcome)?.unwrap_or(Outcome::Unspecified))
        }
    }))
}
