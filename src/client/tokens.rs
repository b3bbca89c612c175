//! Wait tokens and batches.

use super::{
    Client, convert,
    convert::{check_namespace, run_id, unexpected},
    link::{Batches, Link, Waits},
    retry::{Repeat, random_id},
};
use crate::{
    engine::{
        AddedItems, Batch, BatchItem, CompletedToken, CreateBatch, CreateToken, CreatedBatch,
        CreatedToken, ListRuns, RunKey, TokenPage, WaitToken,
    },
    error::Error,
    proto::{self, RunStatus, WaitTokenStatus},
};

impl Client {
    /// Creates a wait token, durably. One without an id gets one here, so that repeating the call
    /// makes no second one.
    ///
    /// # Errors
    /// As [`Store::create_wait_token`](crate::engine::Store::create_wait_token).
    pub async fn create_wait_token(&self, create: CreateToken) -> Result<CreatedToken, Error> {
        check_namespace(&create.namespace)?;
        let token_id = match create.token_id.is_empty() {
            true => format!("token_{}", random_id()),
            false => create.token_id.as_ref().into(),
        };
        let request = proto::CreateWaitTokenRequest {
            token_id,
            timeout_ms: create.timeout_ms,
            tags: convert::names(&create.tags),
            idempotency_key: create.idempotency_key,
            idempotency_expires_at_ms: create.idempotency_expires_at_ms,
        };
        let call =
            |mut waits: Waits, request| async move { waits.create_wait_token(request).await };
        let answer = self.call(Repeat::Command, Link::waits, request, call).await?;
        Ok(CreatedToken { token: token(answer.token)?, created: answer.created })
    }

    /// Completes a wait token: the first value wins, and is what every call answers.
    ///
    /// # Errors
    /// As [`Store::complete_wait_token`](crate::engine::Store::complete_wait_token).
    pub async fn complete_wait_token(
        &self,
        key: &RunKey,
        value: bytes::Bytes,
        value_type: String,
    ) -> Result<CompletedToken, Error> {
        let token_id = run_id(key)?;
        let request = proto::CompleteWaitTokenRequest { token_id, value, value_type };
        let call =
            |mut waits: Waits, request| async move { waits.complete_wait_token(request).await };
        let answer = self.call(Repeat::Command, Link::waits, request, call).await?;
        Ok(CompletedToken { token: token(answer.token)?, deduplicated: answer.deduplicated })
    }

    /// Describes a wait token.
    ///
    /// # Errors
    /// As [`Store::get_wait_token`](crate::engine::Store::get_wait_token).
    pub async fn get_wait_token(&self, key: &RunKey) -> Result<WaitToken, Error> {
        let request = proto::GetWaitTokenRequest { token_id: run_id(key)? };
        let call = |mut waits: Waits, request| async move { waits.get_wait_token(request).await };
        token(self.call(Repeat::Read, Link::waits, request, call).await?.token)
    }

    /// Lists wait tokens: the runs of `list`, but of the tokens' task. They are found by tags,
    /// statuses and prefix only.
    ///
    /// # Errors
    /// As [`Store::list_wait_tokens`](crate::engine::Store::list_wait_tokens).
    pub async fn list_wait_tokens(&self, list: &ListRuns) -> Result<TokenPage, Error> {
        check_namespace(&list.namespace)?;
        let statuses = list.statuses.iter().filter_map(|status| token_status(*status));
        let request = proto::ListWaitTokensRequest {
            page_size: convert::page_size(list.page_size)?,
            page_token: crate::grpc::page_token::encode(list.after),
            tags: convert::names(&list.tags),
            statuses: statuses.map(Into::into).collect(),
            prefix: list.prefix.clone(),
        };
        // Of those wanted, no token stands at any.
        if request.statuses.is_empty() && !list.statuses.is_empty() {
            return Ok(TokenPage::default());
        }
        let call = |mut waits: Waits, request| async move { waits.list_wait_tokens(request).await };
        let answer = self.call(Repeat::Read, Link::waits, request, call).await?;
        let tokens = answer.tokens.into_iter().map(|found| token(Some(found)));
        let next = convert::next_page(&answer.next_page_token)?;
        Ok(TokenPage { tokens: tokens.collect::<Result<_, _>>()?, next })
    }

    /// Creates a batch, durably.
    ///
    /// # Errors
    /// As [`Store::create_batch`](crate::engine::Store::create_batch).
    pub async fn create_batch(&self, create: CreateBatch) -> Result<CreatedBatch, Error> {
        check_namespace(&create.namespace)?;
        let request = proto::CreateBatchRequest {
            batch_id: create.batch_id.as_ref().into(),
            run_count: create.run_count,
            tags: convert::names(&create.tags),
            idempotency_key: create.idempotency_key,
            idempotency_expires_at_ms: create.idempotency_expires_at_ms,
        };
        let call =
            |mut batches: Batches, request| async move { batches.create_batch(request).await };
        let answer = self.call(Repeat::Command, Link::batches, request, call).await?;
        Ok(CreatedBatch { batch: batch(answer.batch)?, created: answer.created })
    }

    /// Adds runs to a batch. An item that was added before changes nothing: its number tells.
    ///
    /// # Errors
    /// As [`Store::add_to_batch`](crate::engine::Store::add_to_batch).
    pub async fn add_to_batch(
        &self,
        key: &RunKey,
        items: Vec<BatchItem>,
    ) -> Result<AddedItems, Error> {
        let item = |BatchItem { number, run }| {
            Ok(proto::BatchItem { number, run: Some(convert::create(run)?) })
        };
        let items = items.into_iter().map(item).collect::<Result<_, Error>>()?;
        let request = proto::AddBatchItemsRequest { batch_id: run_id(key)?, items };
        let call =
            |mut batches: Batches, request| async move { batches.add_batch_items(request).await };
        let answer = self.call(Repeat::Command, Link::batches, request, call).await?;
        Ok(AddedItems { accepted: answer.accepted, deduplicated: answer.deduplicated })
    }

    /// Seals a batch: nothing more can be added. Its runs go on.
    ///
    /// # Errors
    /// As [`Store::seal_batch`](crate::engine::Store::seal_batch).
    pub async fn seal_batch(
        &self,
        key: &RunKey,
        expected_items: Option<u64>,
    ) -> Result<Batch, Error> {
        let request = proto::SealBatchRequest { batch_id: run_id(key)?, expected_items };
        let call = |mut batches: Batches, request| async move { batches.seal_batch(request).await };
        batch(self.call(Repeat::Command, Link::batches, request, call).await?.batch)
    }

    /// Describes a batch.
    ///
    /// # Errors
    /// As [`Store::get_batch`](crate::engine::Store::get_batch).
    pub async fn get_batch(&self, key: &RunKey) -> Result<Batch, Error> {
        let request = proto::GetBatchRequest { batch_id: run_id(key)? };
        let call = |mut batches: Batches, request| async move { batches.get_batch(request).await };
        batch(self.call(Repeat::Read, Link::batches, request, call).await?.batch)
    }
}

/// Where a token stands whose run stands there; none if no token's does.
fn token_status(status: RunStatus) -> Option<WaitTokenStatus> {
    match status {
        RunStatus::Executing => Some(WaitTokenStatus::Waiting),
        RunStatus::Completed => Some(WaitTokenStatus::Completed),
        RunStatus::TimedOut => Some(WaitTokenStatus::TimedOut),
        RunStatus::Canceled => Some(WaitTokenStatus::Canceled),
        _ => None,
    }
}

fn token(token: Option<proto::WaitToken>) -> Result<WaitToken, Error> {
    let token = token.ok_or_else(|| unexpected("an answer without its token"))?;
    let status = match token.status() {
        WaitTokenStatus::Waiting => RunStatus::Executing,
        WaitTokenStatus::Completed => RunStatus::Completed,
        WaitTokenStatus::TimedOut => RunStatus::TimedOut,
        WaitTokenStatus::Canceled => RunStatus::Canceled,
        WaitTokenStatus::Unspecified => return Err(unexpected("a token without a status")),
    };
    Ok(WaitToken {
        token_id: token.token_id.into(),
        status,
        created_ms: token.created_at_ms,
        times_out_ms: token.times_out_at_ms,
        completed_ms: token.completed_at_ms,
        value: token.value,
        value_type: token.value_type,
        tags: token.tags.into_iter().map(Into::into).collect(),
        idempotency_key: token.idempotency_key,
        idempotency_expires_at_ms: token.idempotency_expires_at_ms,
    })
}

fn batch(batch: Option<proto::Batch>) -> Result<Batch, Error> {
    let batch = batch.ok_or_else(|| unexpected("an answer without its batch"))?;
    Ok(Batch {
        batch_id: batch.batch_id.into(),
        items: batch.items,
        sealed: batch.sealed,
        created_ms: batch.created_at_ms,
        sealed_ms: batch.sealed_at_ms,
        run_count: batch.run_count,
        tags: batch.tags.into_iter().map(Into::into).collect(),
    })
}
