//! Wait tokens and batches: small runs with a task of the store's own.
//!
//! A wait token is completed by closing its run; those who wait for it are in the run's log. A
//! batch's items are messages to its run, so an item that is added again is known by its number; a
//! batch is sealed by closing its run.

use super::{
    request::{
        AddedItems, Batch, BatchItem, CompletedToken, CreateBatch, CreateToken, CreatedBatch,
        CreatedRun, CreatedToken, ListRuns, RunInfo, RunKey, TokenPage, WaitToken,
    },
    store::Store,
};
use crate::{
    core::{Close, Create, NewRecord, Refusal, Send},
    error::Error,
    proto::{Outcome, RunSpec},
    record::{BATCH_ITEMS_MAX, Index, RUN_ID_BYTES_MAX, RunUid, check_name},
};

/// Task of wait tokens.
const TOKEN_TASK: &str = "$wait";
/// Task of batches.
const BATCH_TASK: &str = "$batch";
/// Input stream of a batch that holds its items.
const ITEMS: &str = "items";
/// Attribute of a batch: how many runs were announced.
const RUN_COUNT: &str = "run_count";

impl Store {
    /// Creates a wait token, durably.
    ///
    /// # Errors
    /// As [`create_run`](Self::create_run).
    pub async fn create_wait_token(&self, create: CreateToken) -> Result<CreatedToken, Error> {
        let token_id = match create.token_id.is_empty() {
            true => format!("token_{}", RunUid(self.shared.platform.random_id())).into(),
            false => create.token_id,
        };
        let spec = RunSpec {
            max_duration_ms: create.timeout_ms,
            idempotency_key: create.idempotency_key,
            idempotency_expires_at_ms: create.idempotency_expires_at_ms,
            ..RunSpec::default()
        };
        let run = Create {
            namespace: create.namespace,
            run_id: token_id,
            task: TOKEN_TASK.into(),
            tags: create.tags,
            spec,
            ..Create::default()
        };
        let CreatedRun { run, created } = self.create_own(run).await?;
        Ok(CreatedToken { token: WaitToken::of(run)?, created })
    }

    /// Completes a wait token: the first value wins, and is what every call answers.
    ///
    /// # Errors
    /// [`Refusal::WaitNotFound`], [`Refusal::Closed`] if it has timed out or was canceled,
    /// [`Refusal::TooLarge`].
    pub async fn complete_wait_token(
        &self,
        token: &RunKey,
        value: bytes::Bytes,
        value_type: String,
    ) -> Result<CompletedToken, Error> {
        self.get_wait_token(token).await?;
        let close = Close {
            outcome: Outcome::Completed,
            output: value,
            output_type: value_type,
            ..Close::default()
        };
        let closed = self.close_run(token, close).await?;
        let deduplicated = closed.deduplicated;
        Ok(CompletedToken { token: WaitToken::of(closed.run)?, deduplicated })
    }

    /// Describes a wait token.
    ///
    /// # Errors
    /// [`Refusal::WaitNotFound`], [`Refusal::RunDeleted`].
    pub async fn get_wait_token(&self, token: &RunKey) -> Result<WaitToken, Error> {
        match self.get_run(token).await {
            Err(Error::Refused(Refusal::RunNotFound)) => Err(Refusal::WaitNotFound.into()),
            found => WaitToken::of(found?),
        }
    }

    /// Lists wait tokens: the runs of `list`, but of the tokens' task.
    ///
    /// # Errors
    /// As [`list_runs`](Self::list_runs).
    pub async fn list_wait_tokens(&self, list: &ListRuns) -> Result<TokenPage, Error> {
        let list = ListRuns { task: TOKEN_TASK.into(), ..list.clone() };
        let page = self.list_runs(&list).await?;
        let tokens = page.runs.into_iter().map(WaitToken::of).collect::<Result<_, _>>()?;
        Ok(TokenPage { tokens, next: page.next })
    }

    /// Creates a batch, durably.
    ///
    /// # Errors
    /// As [`create_run`](Self::create_run).
    pub async fn create_batch(&self, create: CreateBatch) -> Result<CreatedBatch, Error> {
        let count = create.run_count.to_string().into_bytes().into();
        let spec = RunSpec {
            idempotency_key: create.idempotency_key,
            idempotency_expires_at_ms: create.idempotency_expires_at_ms,
            attributes: [(RUN_COUNT.into(), count)].into(),
            ..RunSpec::default()
        };
        let run = Create {
            namespace: create.namespace,
            run_id: create.batch_id,
            task: BATCH_TASK.into(),
            tags: create.tags,
            spec,
            ..Create::default()
        };
        let namespace = run.namespace.clone();
        let CreatedRun { run, created } = self.create_own(run).await?;
        let key = RunKey { namespace, run_id: run.run_id.clone() };
        Ok(CreatedBatch { batch: self.batch_of(&key, run).await?, created })
    }

    /// Adds runs to a batch. Each item is noted in the batch before its run is created: adding an
    /// item again creates the run if that had not happened, and nothing else.
    ///
    /// # Errors
    /// [`Refusal::DedupMismatch`] if an item of this number names another run,
    /// [`Refusal::Closed`] once the batch is sealed, and those of
    /// [`create_run`](Self::create_run). Items before the one that failed are added.
    pub async fn add_to_batch(
        &self,
        batch: &RunKey,
        items: Vec<BatchItem>,
    ) -> Result<AddedItems, Error> {
        Refusal::check_size("batch (items at once)", items.len(), BATCH_ITEMS_MAX)?;
        for item in &items {
            item.run.check()?;
            item.run.check_not_reserved()?;
        }
        let mut added = AddedItems::default();
        for BatchItem { number, run } in items {
            let message = NewRecord {
                id: number.to_string(),
                data: run.run_id.as_bytes().to_vec().into(),
                ..NewRecord::default()
            };
            let send = Send { run_uid: None, stream: ITEMS.into(), message };
            let sent = self.send(batch, send).await?;
            let run = Create { batch: batch.run_id.clone(), ..run };
            self.create_run(run).await?;
            added.accepted += u64::from(!sent.deduplicated);
            added.deduplicated += u64::from(sent.deduplicated);
        }
        Ok(added)
    }

    /// Seals a batch: nothing more can be added. Its runs go on.
    ///
    /// # Errors
    /// [`Refusal::IndexMismatch`] if it does not have the items it is expected to.
    pub async fn seal_batch(
        &self,
        batch: &RunKey,
        expected_items: Option<u64>,
    ) -> Result<Batch, Error> {
        let known = self.get_batch(batch).await?;
        if let Some(expected) = expected_items.filter(|_| !known.sealed)
            && expected != known.items
        {
            return Err(Refusal::IndexMismatch { tail: Index(known.items) }.into());
        }
        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        let closed = self.close_run(batch, close).await?;
        self.batch_of(batch, closed.run).await
    }

    /// Describes a batch.
    ///
    /// # Errors
    /// [`Refusal::RunNotFound`], [`Refusal::RunDeleted`].
    pub async fn get_batch(&self, batch: &RunKey) -> Result<Batch, Error> {
        let run = self.get_run(batch).await?;
        self.batch_of(batch, run).await
    }

    async fn batch_of(&self, key: &RunKey, run: RunInfo) -> Result<Batch, Error> {
        if *run.task != *BATCH_TASK {
            return Err(Refusal::RunNotFound.into());
        }
        let items = match self.check_tail(key, Some(run.run_uid), Some(ITEMS)).await {
            Ok(tail) => tail.stream.map_or(0, |stream| stream.tail.0),
            Err(Error::Refused(Refusal::StreamNotFound)) => 0,
            Err(error) => return Err(error),
        };
        let count = run.spec.attributes.get(RUN_COUNT);
        let count = count.and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
        Ok(Batch {
            batch_id: run.run_id,
            items,
            sealed: run.ended.is_some(),
            created_ms: run.created_ms,
            sealed_ms: run.ended.map(|end| end.completed_ms),
            run_count: count.unwrap_or(0),
            tags: run.tags,
        })
    }

    /// Creates a run of a task of the store's own.
    async fn create_own(&self, create: Create) -> Result<CreatedRun, Error> {
        create.check()?;
        check_name(&create.run_id, RUN_ID_BYTES_MAX).map_err(|error| Refusal::name("id", error))?;
        match create.spec.idempotency_key.is_empty() {
            true => self.create_ticket(&create).await?.await,
            false => self.create_by_key(create).await,
        }
    }
}

impl WaitToken {
    /// The token that a run is.
    pub(super) fn of(run: RunInfo) -> Result<Self, Error> {
        if *run.task != *TOKEN_TASK {
            return Err(Refusal::WaitNotFound.into());
        }
        let timeout_ms = run.spec.max_duration_ms;
        let (completed_ms, value, value_type) = match run.ended {
            Some(end) => (Some(end.completed_ms), end.output, end.output_type),
            None => (None, bytes::Bytes::new(), String::new()),
        };
        Ok(Self {
            token_id: run.run_id,
            status: run.status,
            created_ms: run.created_ms,
            times_out_ms: (0 < timeout_ms).then(|| run.created_ms.saturating_add(timeout_ms)),
            completed_ms,
            value,
            value_type,
            tags: run.tags,
            idempotency_key: run.spec.idempotency_key,
            idempotency_expires_at_ms: run.spec.idempotency_expires_at_ms,
        })
    }
}
