//! Watching runs.

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert,
    generated::watch_service_server::WatchService,
    service::{Answer, failed, refused},
    status::to_status_with,
    steps::{After, Step, Steps},
};
use crate::{
    core::Refusal,
    engine::{self, DEFAULT_NAMESPACE, RunKey, Store, WatchItem, WatchQuery, WatchScope},
    error::Error,
    proto::{watch_request, watch_response, *},
};

/// Rows that a watch begins with, if nobody says.
const ROWS: usize = 1_000;

/// Watches runs.
#[derive(Clone)]
pub(super) struct Watches {
    pub(super) store: Store,
    /// Cancelled when watches are to end.
    pub(super) drain: CancellationToken,
}

#[tonic::async_trait]
impl WatchService for Watches {
    type WatchStream = Steps<Watching>;

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let heartbeat = convert::heartbeat_of(request.heartbeat_ms).map_err(refused)?;
        let query = query(request).map_err(refused)?;
        let watch = self.store.watch(query).await.map_err(failed)?;
        let mut beat = interval(heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        let (store, drain) = (self.store.clone(), self.drain.clone());
        Ok(Response::new(Steps::new(Watching { store, watch, beat, drain })))
    }
}

fn query(request: WatchRequest) -> Result<WatchQuery, Refusal> {
    let scope = match request.scope {
        None => return Err(Refusal::invalid("scope", "is missing: say what is watched")),
        Some(watch_request::Scope::Run(run)) => WatchScope::Run {
            run: RunKey::new(run.run_id),
            run_uid: convert::run_uid(&run.run_uid)?,
            kinds: run.kinds.into_iter().map(kind).collect::<Result<_, _>>()?,
        },
        Some(watch_request::Scope::Runs(runs)) => WatchScope::Runs(engine::WatchRuns {
            namespace: DEFAULT_NAMESPACE.into(),
            tags: convert::names(runs.tags),
            batch: runs.batch_id.into(),
            task: runs.task.into(),
            statuses: convert::statuses(runs.statuses)?,
            created_from_ms: runs.created_from_ms,
            limit: if runs.limit == 0 { ROWS } else { runs.limit as usize },
        }),
    };
    let cursor = (!request.cursor.is_empty()).then_some(request.cursor);
    Ok(WatchQuery { scope, cursor })
}

fn kind(kind: i32) -> Result<Kind, Refusal> {
    match Kind::try_from(kind) {
        Ok(Kind::Unspecified) | Err(_) => {
            Err(Refusal::invalid("kinds", format!("holds {kind}, which is unknown")))
        }
        Ok(kind) => Ok(kind),
    }
}

/// A call that watches.
pub(super) struct Watching {
    store: Store,
    watch: engine::Watch,
    beat: Interval,
    drain: CancellationToken,
}

impl Step for Watching {
    type Answer = WatchResponse;

    async fn next(&mut self) -> (Result<WatchResponse, Status>, After) {
        if self.drain.is_cancelled() {
            return (Err(self.status(&Error::ShuttingDown)), After::Nothing);
        }
        let item = tokio::select! {
            biased;
            item = self.watch.next() => item.map(Some),
            () = self.drain.cancelled() => Err(Error::ShuttingDown),
            _ = self.beat.tick() => Ok(None),
        };
        self.beat.reset();
        match item {
            Ok(item) => {
                let is_last = matches!(item, Some(WatchItem::End(_)));
                let item = item.map_or_else(|| self.heartbeat(), convert_item);
                let answer = WatchResponse { cursor: self.watch.cursor(), item: Some(item) };
                (Ok(answer), if is_last { After::Nothing } else { After::More })
            }
            Err(error) => (Err(self.status(&error)), After::Nothing),
        }
    }
}

impl Watching {
    fn heartbeat(&self) -> watch_response::Item {
        watch_response::Item::Heartbeat(WatchHeartbeat { time_ms: self.store.clock_ms() })
    }

    fn status(&self, error: &Error) -> Status {
        to_status_with(error, [("cursor", self.watch.cursor())])
    }
}

fn convert_item(item: WatchItem) -> watch_response::Item {
    match item {
        WatchItem::Row(run) => watch_response::Item::Row(convert::run(*run)),
        WatchItem::Removed { run_id, run_uid } => watch_response::Item::Removed(RunRemoved {
            run_id: run_id.as_ref().into(),
            run_uid: convert::run_uid_bytes(run_uid),
        }),
        WatchItem::Records(records) => watch_response::Item::Records(WatchRecords { records }),
        WatchItem::CaughtUp => watch_response::Item::CaughtUp(WatchCaughtUp {}),
        WatchItem::End(outcome) => watch_response::Item::End(WatchEnd { outcome: outcome.into() }),
    }
}
