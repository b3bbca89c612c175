//! Watching runs: what they are, then every change; changes that come faster than they are taken
//! are merged.
//!
//! A row is read when it is given, and only when what it shows is durable: rows of a run never go
//! back, and the last change is never left out. No change between what is given first and what
//! follows is lost, since a watcher is told of changes before it looks for the first time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    hub::{Changes, Watching},
    request::{
        End, ListPosition, ListRuns, Query, RunInfo, RunKey, Start, TailItem, WatchItem,
        WatchQuery, WatchRuns, WatchScope,
    },
    store::Store,
    tail::Tail,
};
use crate::{
    core::Refusal,
    error::Error,
    format::{crc_of, cursor::Cursor, watch_cursor::WatchCursor},
    proto::{Kind, Outcome},
    record::{LIST_ROWS_MAX, RunUid, Seq, WATCH_ROWS_MAX},
};

/// Gives runs and their changes.
pub struct Watch {
    store: Store,
    scope: Scope,
}

enum Scope {
    Run(Box<OneRun>),
    Runs(Box<ManyRuns>),
}

/// A watch of one run.
struct OneRun {
    key: RunKey,
    run_uid: Option<RunUid>,
    kinds: Vec<Kind>,
    /// Follows the run, if records are given.
    tail: Option<Tail>,
    /// What of the run was given; see [`Row::version`].
    given: Option<(u64, usize)>,
    /// Where to resume.
    cursor: Cursor,
    ready: VecDeque<WatchItem>,
    /// Whether records have come since the row was looked at.
    is_stale: bool,
    /// What is given after the next look at the row.
    after: Option<WatchItem>,
    is_caught_up: bool,
    is_over: bool,
}

/// A watch of many runs.
struct ManyRuns {
    runs: WatchRuns,
    watching: Watching,
    first: First,
    /// Runs to be looked at.
    pending: VecDeque<RunKey>,
    /// Identities and tails of the rows that were given of open runs, to tell what is new.
    given: HashMap<Arc<str>, (RunUid, Seq)>,
    is_caught_up: bool,
    /// Changes in journal blocks below were given.
    block_no: u64,
    /// As `block_no`, when nothing is pending.
    block_no_next: u64,
    /// Runs that have not changed from this block on are not given to begin with.
    since: u64,
}

/// How far the looking for runs to begin with has come.
enum First {
    Listing { after: Option<ListPosition>, left: usize },
    Done,
}

/// A run, and what tells its versions apart.
struct Row {
    info: RunInfo,
    /// Records of the run's own stream, and number of streams: what a row shows changes with them.
    version: (u64, usize),
    cursor: Cursor,
    /// Journal block of the newest change.
    changed: u64,
    next: watch::Receiver<()>,
}

impl WatchRuns {
    fn check(&self) -> Result<(), Refusal> {
        let has_filter = !self.tags.is_empty()
            || !self.batch.is_empty()
            || !self.task.is_empty()
            || !self.statuses.is_empty();
        if !has_filter {
            return Err(Refusal::invalid(
                "scope",
                "has no filter: name a tag, batch, task or status",
            ));
        }
        if !(1..=WATCH_ROWS_MAX).contains(&self.limit) {
            return Err(Refusal::invalid("limit", "is not between 1 and 10000"));
        }
        Ok(())
    }

    fn crc(&self) -> u32 {
        let mut text = String::new();
        let names = self.tags.iter().chain([&self.namespace, &self.batch, &self.task]);
        names.for_each(|name| text.extend([&**name, "\0"]));
        let statuses: Vec<u8> = self.statuses.iter().map(|status| *status as u8).collect();
        crc_of(&[text.as_bytes(), &statuses, &self.created_from_ms.to_le_bytes()])
    }
}

impl Store {
    /// Watches runs.
    ///
    /// # Errors
    /// [`Refusal::RunNotFound`], [`Refusal::RunReplaced`], [`Refusal::Invalid`] without a filter,
    /// [`Refusal::BadCursor`], and for one run the refusals of starts.
    pub async fn watch(&self, query: WatchQuery) -> Result<Watch, Error> {
        let scope = match query.scope {
            WatchScope::Run { run, run_uid, kinds } => {
                Scope::Run(Box::new(self.watch_run(run, run_uid, kinds, query.cursor).await?))
            }
            WatchScope::Runs(runs) => Scope::Runs(Box::new(self.watch_runs(runs, query.cursor)?)),
        };
        Ok(Watch { store: self.clone(), scope })
    }

    async fn watch_run(
        &self,
        key: RunKey,
        run_uid: Option<RunUid>,
        kinds: Vec<Kind>,
        cursor: Option<String>,
    ) -> Result<OneRun, Error> {
        let row = self.row(&key, run_uid).await?;
        let mut one = OneRun {
            key,
            run_uid: Some(row.info.run_uid),
            kinds,
            tail: None,
            given: None,
            cursor: row.cursor,
            ready: VecDeque::new(),
            is_stale: false,
            after: None,
            is_caught_up: false,
            is_over: false,
        };
        let start = match cursor {
            Some(cursor) => Start::Cursor(cursor),
            None => {
                one.give(row);
                Start::Seq(one.cursor.seq)
            }
        };
        let query = Query { allow_gap: true, ..Query::run(one.key.clone()).from(start) };
        let tail = self.tail(Query { run_uid: one.run_uid, ..query }).await?;
        let resumed = tail.cursor();
        if one.given.is_none() && resumed.seq == one.cursor.seq {
            // Nothing has happened since.
            let row = self.row(&one.key, one.run_uid).await?;
            if row.cursor == resumed {
                one.given = Some(row.version);
                one.is_over = row.info.ended.is_some();
                one.ready.extend(row.info.ended.map(|end| WatchItem::End(end.outcome)));
            }
        }
        if !one.kinds.is_empty() {
            one.cursor = resumed;
            one.tail = Some(tail);
        }
        Ok(one)
    }

    fn watch_runs(&self, runs: WatchRuns, cursor: Option<String>) -> Result<ManyRuns, Error> {
        runs.check()?;
        let cursor = match cursor {
            Some(text) => {
                let cursor = WatchCursor::parse(&text).map_err(|_| Refusal::BadCursor)?;
                if cursor.filter != runs.crc() {
                    let problem = "was made by a watch of other runs";
                    return Err(Refusal::invalid("cursor", problem).into());
                }
                Some(cursor)
            }
            None => None,
        };
        let shared = &self.shared;
        shared.check_open()?;
        let watching = shared.hub.watch(runs.clone());
        let block_no = shared.durable_block_no();
        // Of another store, or of one that has lost its end since, nothing is known.
        let known = cursor
            .filter(|cursor| cursor.store_uuid == shared.store_uuid && cursor.block_no <= block_no);
        let since = known.map_or(0, |cursor| cursor.block_no);
        let first = First::Listing { after: None, left: runs.limit };
        Ok(ManyRuns {
            runs,
            watching,
            first,
            pending: VecDeque::new(),
            given: HashMap::new(),
            is_caught_up: false,
            block_no: since,
            block_no_next: block_no,
            since,
        })
    }

    /// A run that was deleted.
    async fn removed(&self, key: &RunKey) -> Result<Option<WatchItem>, Error> {
        let run_id = key.run_id.clone();
        let removed = self.shared.with_run(key, |_, run| Ok(run.state.run_uid));
        match removed.await {
            Ok(run_uid) => Ok(Some(WatchItem::Removed { run_id, run_uid })),
            Err(Error::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A run as it is, when that is durable.
    async fn row(&self, key: &RunKey, run_uid: Option<RunUid>) -> Result<Row, Error> {
        let row = self.shared.with_run(key, |shared, run| {
            let next = run.published.subscribe();
            let state = &run.state;
            let found = match (state.deleted_ms, run_uid) {
                (Some(_), _) => Err(Refusal::RunDeleted),
                (None, Some(wanted)) if wanted != state.run_uid => {
                    Err(Refusal::RunReplaced { run_uid: state.run_uid })
                }
                _ => Ok(()),
            };
            let row = found.map(|()| Row {
                info: run.info(),
                version: (state.streams[0].tail.0, state.streams.len()),
                cursor: Cursor {
                    run_uid: state.run_uid,
                    seq: state.tail,
                    chain: state.records_chain,
                    stream: None,
                },
                changed: run.changed_block(),
                next,
            });
            Ok(shared.settled(run, row))
        });
        row.await?.await
    }
}

impl Watch {
    /// The next item. Dropping the call loses none.
    ///
    /// # Errors
    /// [`Refusal::RunDeleted`] of the one run, [`Error::Corrupt`] if one of the runs is damaged,
    /// [`Error::ShuttingDown`], [`Error::Stopped`].
    pub async fn next(&mut self) -> Result<WatchItem, Error> {
        match &mut self.scope {
            Scope::Run(one) => one.next(&self.store).await,
            Scope::Runs(many) => many.next(&self.store).await,
        }
    }

    /// Text of the cursor that resumes behind the items given so far.
    pub fn cursor(&self) -> String {
        match &self.scope {
            Scope::Run(one) => one.cursor.to_string(),
            Scope::Runs(many) => many.cursor(&self.store).to_string(),
        }
    }
}

impl OneRun {
    async fn next(&mut self, store: &Store) -> Result<WatchItem, Error> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            if self.is_over {
                std::future::pending::<()>().await;
            }
            if self.is_stale {
                let row = store.row(&self.key, self.run_uid).await?;
                self.is_stale = false;
                if self.given != Some(row.version) {
                    self.give(row);
                }
                self.is_over = matches!(self.after, Some(WatchItem::End(_)));
                self.ready.extend(self.after.take());
                continue;
            }
            if let Some(tail) = &mut self.tail {
                let item = tail.next().await?;
                self.take_in(item);
                continue;
            }
            let mut row = store.row(&self.key, self.run_uid).await?;
            if self.given != Some(row.version) {
                self.give(row);
            } else if !self.is_caught_up {
                self.is_caught_up = true;
                return Ok(WatchItem::CaughtUp);
            } else {
                store.shared.check_open()?;
                // The run may have changed between the look and the wish to be told.
                let _ = row.next.changed().await;
            }
        }
    }

    /// Gives a row, and the end after the last.
    fn give(&mut self, row: Row) {
        let outcome = row.info.ended.as_ref().map(|end| end.outcome);
        self.given = Some(row.version);
        self.ready.push_back(WatchItem::Row(Box::new(row.info)));
        if self.tail.is_none() {
            self.cursor = row.cursor;
        }
        // With records, the end comes behind the last of them.
        if let Some(outcome) = outcome.filter(|_| self.kinds.is_empty()) {
            self.ready.push_back(WatchItem::End(outcome));
            self.is_over = true;
        }
    }

    /// Takes in what the tail of the run has brought; a look at the row follows.
    fn take_in(&mut self, item: TailItem) {
        let (cursor, after) = match item {
            TailItem::Streams(_) => return,
            TailItem::Records(records, cursor) => {
                let mut records = records.decode().expect("records are checked when they are read");
                records.retain(|record| self.kinds.contains(&record.kind()));
                let records = (!records.is_empty()).then_some(WatchItem::Records(records));
                self.ready.extend(records);
                (cursor, None)
            }
            TailItem::CaughtUp(cursor) => (cursor, Some(WatchItem::CaughtUp)),
            TailItem::End(End::Closed(outcome), cursor) => {
                (cursor, Some(WatchItem::End(outcome.unwrap_or(Outcome::Unspecified))))
            }
            TailItem::Gap(_, cursor) | TailItem::End(End::Limit, cursor) => (cursor, None),
        };
        (self.cursor, self.after, self.is_stale) = (cursor, after, true);
    }
}

impl ManyRuns {
    async fn next(&mut self, store: &Store) -> Result<WatchItem, Error> {
        loop {
            store.shared.check_open()?;
            while let Some(key) = self.pending.front() {
                let item = self.look(store, key).await?;
                self.pending.pop_front();
                if self.pending.is_empty() && matches!(self.first, First::Done) {
                    self.block_no = self.block_no_next;
                }
                if let Some(item) = item {
                    return Ok(self.given(item));
                }
            }
            if let First::Listing { after, left } = self.first {
                self.list(store, after, left).await?;
                continue;
            }
            self.since = 0;
            self.block_no = self.block_no_next;
            if !self.is_caught_up {
                self.is_caught_up = true;
                return Ok(WatchItem::CaughtUp);
            }
            let block_no = store.shared.durable_block_no();
            let Changes { runs, too_many } = self.watching.take();
            self.block_no_next = block_no;
            if too_many {
                self.first = First::Listing { after: None, left: self.runs.limit };
            } else if runs.is_empty() {
                self.watching.changed().await;
            } else {
                self.pending.extend(runs.into_values());
            }
        }
    }

    /// A page of the runs to begin with.
    async fn list(
        &mut self,
        store: &Store,
        after: Option<ListPosition>,
        left: usize,
    ) -> Result<(), Error> {
        let WatchRuns { namespace, tags, batch, task, statuses, created_from_ms, .. } = &self.runs;
        let list = ListRuns {
            namespace: namespace.clone(),
            tags: tags.clone(),
            batch: batch.clone(),
            task: task.clone(),
            statuses: statuses.clone(),
            created: *created_from_ms..u64::MAX,
            after,
            page_size: left.min(LIST_ROWS_MAX),
            ..ListRuns::default()
        };
        let page = store.list_runs(&list).await?;
        let left = left.saturating_sub(page.runs.len());
        let key = |run: RunInfo| RunKey { namespace: namespace.clone(), run_id: run.run_id };
        self.pending.extend(page.runs.into_iter().map(key));
        self.first = match page.next {
            Some(after) if 0 < left => First::Listing { after: Some(after), left },
            _ => First::Done,
        };
        Ok(())
    }

    /// What there is to be given of a run.
    async fn look(&self, store: &Store, key: &RunKey) -> Result<Option<WatchItem>, Error> {
        let row = match store.row(key, None).await {
            Ok(row) => row,
            Err(Error::Refused(Refusal::RunDeleted)) => return store.removed(key).await,
            Err(Error::Refused(Refusal::RunNotFound)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let given = self.given.get(&row.info.run_id);
        let given = given.filter(|(run_uid, _)| *run_uid == row.info.run_uid);
        let is_new = given.is_none_or(|(_, tail)| *tail < row.info.tail);
        let statuses = &self.runs.statuses;
        // One that is not wanted any more is given once more.
        let is_wanted = statuses.is_empty() || statuses.contains(&row.info.status);
        let is_wanted = is_wanted || given.is_some();
        let is_given = is_new && is_wanted && self.since <= row.changed;
        Ok(is_given.then(|| WatchItem::Row(Box::new(row.info))))
    }

    /// Notes what is given.
    fn given(&mut self, item: WatchItem) -> WatchItem {
        match &item {
            WatchItem::Row(row) if row.ended.is_none() => {
                self.given.insert(row.run_id.clone(), (row.run_uid, row.tail));
            }
            WatchItem::Row(row) => drop(self.given.remove(&row.run_id)),
            WatchItem::Removed { run_id, .. } => drop(self.given.remove(run_id)),
            _ => {}
        }
        item
    }

    fn cursor(&self, store: &Store) -> WatchCursor {
        let store_uuid = store.shared.store_uuid;
        WatchCursor { store_uuid, filter: self.runs.crc(), block_no: self.block_no }
    }
}
