//! Listing runs: which are wanted, newest created first.
//!
//! Every run in memory is looked at; there is no index.

use std::cmp::Reverse;

use super::{
    request::{ListPosition, ListRuns, RunInfo, RunPage, run_status},
    shard::Shard,
    store::Store,
};
use crate::{
    core::{Refusal, RunState},
    error::Error,
    record::LIST_ROWS_MAX,
};

impl Store {
    /// Lists the runs of a namespace that pass the filters, newest created first, page by page.
    /// Rows carry no output and no error: [`get_run`](Self::get_run) has them.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the page size is not 1 to 1,000.
    pub async fn list_runs(&self, list: &ListRuns) -> Result<RunPage, Error> {
        if !(1..=LIST_ROWS_MAX).contains(&list.page_size) {
            return Err(Refusal::invalid("page_size", "is not between 1 and 1000").into());
        }
        self.shared.check_open()?;
        let (mut rows, mut in_flight) = (Vec::new(), false);
        for shard in self.shared.shards() {
            let shard = shard.lock();
            // What is not listed rests on a run's state as much as what is.
            in_flight |= shard.runs().any(|run| 0 < run.in_flight);
            rows.extend(newest(&shard, list));
        }
        if in_flight {
            self.barrier().await?;
        }
        rows.sort_unstable_by_key(|(position, _)| Reverse(*position));
        let more = list.page_size < rows.len();
        rows.truncate(list.page_size);
        let next = rows.last().filter(|_| more).map(|(position, _)| *position);
        Ok(RunPage { runs: rows.into_iter().map(|(_, run)| run).collect(), next })
    }
}

/// The runs of a shard that may be on the page, and one more to know of the next.
fn newest(shard: &Shard, list: &ListRuns) -> Vec<(ListPosition, RunInfo)> {
    let wanted = shard.runs().filter(|run| is_wanted(list, &run.state));
    let mut wanted: Vec<_> = wanted.map(|run| (position(&run.state), run)).collect();
    wanted.sort_unstable_by_key(|(position, _)| Reverse(*position));
    wanted.truncate(list.page_size + 1);
    wanted.into_iter().map(|(position, run)| (position, run.row())).collect()
}

fn position(run: &RunState) -> ListPosition {
    ListPosition { created_ms: run.created_ms, run_no: run.run_no }
}

/// Whether a run passes every filter and is behind the page before.
fn is_wanted(list: &ListRuns, run: &RunState) -> bool {
    let any_or = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    let status = run_status(run.ending.as_ref().map(|ending| ending.outcome));
    run.deleted_ms.is_none()
        && run.namespace == list.namespace
        && run.run_id.starts_with(&list.prefix)
        && list.tags.iter().all(|tag| run.tags.contains(tag))
        && any_or(&list.batch, &run.batch)
        && any_or(&list.task, &run.task)
        && (list.statuses.is_empty() || list.statuses.contains(&status))
        && list.created.contains(&run.created_ms)
        && list.after.is_none_or(|after| position(run) < after)
}
