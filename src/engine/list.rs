//! Listing runs: which are wanted, newest created first.
//!
//! The index says where to look; every run it names is then looked at itself, in memory or in
//! packs. While there is no index, all runs are looked through.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    sync::Arc,
};

use super::{
    catalog::{Listed, visit_packed},
    request::{ListPosition, ListRuns, RunInfo, RunKey, RunPage},
    shared::Shared,
    store::Store,
};
use crate::{
    core::{Refusal, RunState},
    error::Error,
    index::{By, Change, Hit, Position, Scan, parent_label},
    record::{LIST_ROWS_MAX, vshard_of},
};

/// Runs of the index that are looked at for one page, about.
const LOOKS_MAX: usize = 10_000;

impl Store {
    /// Lists the runs of a namespace that pass the filters, newest created first, page by page: all
    /// that were acknowledged before, and exist. Rows carry no output and no error:
    /// [`get_run`](Self::get_run) has them. A page may be short, or empty, although more follow:
    /// only a page without `next` is the last.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the page size is not 1 to 1,000, [`Error::Corrupt`] if a run that may
    /// be wanted is damaged.
    pub async fn list_runs(&self, list: &ListRuns) -> Result<RunPage, Error> {
        if !(1..=LIST_ROWS_MAX).contains(&list.page_size) {
            return Err(Refusal::invalid("page_size", "is not between 1 and 1000").into());
        }
        self.shared.check_open()?;
        let (mut page, mut after, mut looks) = (RunPage::default(), list.after, 0);
        while page.runs.len() < list.page_size && looks < LOOKS_MAX {
            let scan = scan(list, after, list.page_size - page.runs.len());
            let shared = self.shared.clone();
            let listed = self.shared.pool.run(move || shared.catalog.list(&scan)).await;
            let Some(Listed { hits, next }) = listed else {
                return self.list_without_index(list).await;
            };
            looks += hits.len().max(1);
            page.runs.extend(self.look_at(list, hits).await?);
            after = next.map(|Position { created_ms, run_no }| ListPosition { created_ms, run_no });
            if after.is_none() {
                break;
            }
        }
        page.next = after;
        Ok(page)
    }

    /// The runs of these hits that are wanted, in order.
    async fn look_at(&self, list: &ListRuns, hits: Vec<Hit>) -> Result<Vec<RunInfo>, Error> {
        let (mut rows, mut away, mut in_flight) = (Vec::new(), Vec::new(), false);
        for hit in hits.into_iter().filter(|hit| hit.run_id.starts_with(&list.prefix)) {
            let run_no = hit.position.run_no;
            let shard = self.shared.shard(run_no.vshard()).lock();
            match shard.resident(run_no) {
                Some(run) => {
                    in_flight |= 0 < run.in_flight;
                    let wanted = is_wanted(list, &run.state);
                    rows.extend(wanted.then(|| (hit.position, RunInfo::row(&run.state))));
                }
                None => away.push(hit),
            }
        }
        if in_flight {
            // What is not listed rests on a run's state as much as what is.
            self.barrier().await?;
        }
        if !away.is_empty() {
            let (shared, list) = (self.shared.clone(), list.clone());
            let found = move || shared.look_in_packs(&list, away);
            rows.extend(self.shared.pool.run(found).await?);
        }
        rows.sort_unstable_by_key(|(position, _)| Reverse(*position));
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Looks through all runs there are.
    async fn list_without_index(&self, list: &ListRuns) -> Result<RunPage, Error> {
        let (mut newest, mut seen, mut in_flight) = (Newest::new(list), HashSet::new(), false);
        for shard in self.shared.shards() {
            let shard = shard.lock();
            for run in shard.runs() {
                in_flight |= 0 < run.in_flight;
                seen.insert(run.state.run_no);
                newest.take(&run.state);
            }
        }
        if in_flight {
            self.barrier().await?;
        }
        let shared = self.shared.clone();
        let look = move || {
            visit_packed(&shared, 0, |head, state| {
                if !seen.contains(&head.run_no) {
                    newest.take(&state);
                }
                true
            })?;
            Ok::<_, Error>(newest.into_page())
        };
        self.shared.pool.run(look).await
    }
}

impl Shared {
    /// The runs of these hits that are wanted, from packs. Blocks on the disk.
    fn look_in_packs(
        &self,
        list: &ListRuns,
        hits: Vec<Hit>,
    ) -> Result<Vec<(Position, RunInfo)>, Error> {
        let mut rows = Vec::new();
        for hit in hits {
            let key = RunKey { namespace: list.namespace.clone(), run_id: hit.run_id };
            match self.look_up(&key, Some(hit.position.run_no))? {
                Some(state) if is_wanted(list, &state) => {
                    rows.push((hit.position, RunInfo::row(&state)));
                }
                Some(_) => {}
                None => self.forget(&key, hit.position),
            }
        }
        Ok(rows)
    }

    /// Takes a run out of the index that is not there, unless it came back into memory.
    fn forget(&self, key: &RunKey, position: Position) {
        let vshard = vshard_of(&key.namespace, &key.run_id);
        if self.shard(vshard).lock().resident(position.run_no).is_none() {
            let namespace = key.namespace.clone();
            self.catalog.note(Change::Remove { namespace, position }, 0);
        }
    }
}

/// The newest runs of a page, and one more to know of the next.
struct Newest {
    list: ListRuns,
    rows: BinaryHeap<Reverse<Ranked>>,
}

/// A row by its position.
struct Ranked(ListPosition, RunInfo);

impl Newest {
    fn new(list: &ListRuns) -> Self {
        Self { list: list.clone(), rows: BinaryHeap::new() }
    }

    fn take(&mut self, state: &RunState) {
        if !is_wanted(&self.list, state) {
            return;
        }
        self.rows.push(Reverse(Ranked(position(state), RunInfo::row(state))));
        if self.list.page_size + 1 < self.rows.len() {
            self.rows.pop();
        }
    }

    fn into_page(self) -> RunPage {
        let page_size = self.list.page_size;
        let mut rows: Vec<Ranked> = self.rows.into_iter().map(|Reverse(row)| row).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        let more = page_size < rows.len();
        rows.truncate(page_size);
        let next = rows.last().filter(|_| more).map(|Ranked(position, _)| *position);
        RunPage { runs: rows.into_iter().map(|Ranked(_, row)| row).collect(), next }
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// The list to look through: that of the condition that fewest runs have.
fn scan(list: &ListRuns, after: Option<ListPosition>, limit: usize) -> Scan {
    let text = |text: &Arc<str>| (!text.is_empty()).then(|| text.clone());
    let parent = text(&list.parent).map(|parent| parent_label(&parent));
    let label = list.tags.first().cloned().or(parent);
    let by = match (label, text(&list.batch), &list.statuses[..], text(&list.task)) {
        (Some(label), ..) => By::Tag(label),
        (_, Some(batch), ..) => By::Batch(batch),
        (_, _, [status], _) => By::Status(*status as u8),
        (.., Some(task)) => By::Task(task),
        _ => By::All,
    };
    Scan {
        namespace: list.namespace.clone(),
        by,
        created_ms: list.created.clone(),
        after: after.map(|ListPosition { created_ms, run_no }| Position { created_ms, run_no }),
        limit,
    }
}

fn position(run: &RunState) -> ListPosition {
    ListPosition { created_ms: run.created_ms, run_no: run.run_no }
}

/// Whether a run is shown to those who ask for this task, or for any: runs of the store's own are
/// only to those who ask for them.
pub(super) fn is_shown(task: &str, run: &RunState) -> bool {
    !run.task.starts_with('$') || *run.task == *task
}

/// Whether a run passes every filter and is behind the page before.
fn is_wanted(list: &ListRuns, run: &RunState) -> bool {
    let any_or = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    run.deleted_ms.is_none()
        && is_shown(&list.task, run)
        && run.namespace == list.namespace
        && run.run_id.starts_with(&list.prefix)
        && list.tags.iter().all(|tag| run.tags.contains(tag))
        && any_or(&list.batch, &run.batch)
        && any_or(&list.task, &run.task)
        && any_or(&list.parent, &run.spec.parent_run_id)
        && (list.statuses.is_empty() || list.statuses.contains(&run.status()))
        && list.created.contains(&run.created_ms)
        && list.after.is_none_or(|after| position(run) < after)
}
