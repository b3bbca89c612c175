//! Wait tokens and batches.

use tonic::{Request, Response};

use super::{
    convert,
    generated::{batch_service_server::BatchService, wait_service_server::WaitService},
    page_token,
    service::{Answer, failed, refused},
};
use crate::{
    core::Refusal,
    engine::{
        self, BatchItem, CreateBatch, CreateToken, DEFAULT_NAMESPACE, ListRuns, RunKey, Store,
    },
    proto::{self, *},
};

/// Creates, completes and describes wait tokens.
#[derive(Clone)]
pub(super) struct Waits {
    pub(super) store: Store,
}

/// Creates and fills batches.
#[derive(Clone)]
pub(super) struct Batches {
    pub(super) store: Store,
}

#[tonic::async_trait]
impl WaitService for Waits {
    async fn create_wait_token(
        &self,
        request: Request<CreateWaitTokenRequest>,
    ) -> Answer<CreateWaitTokenResponse> {
        let request = request.into_inner();
        let create = CreateToken {
            namespace: DEFAULT_NAMESPACE.into(),
            token_id: request.token_id.into(),
            timeout_ms: request.timeout_ms,
            tags: convert::names(request.tags),
            idempotency_key: request.idempotency_key,
            idempotency_expires_at_ms: request.idempotency_expires_at_ms,
        };
        let created = self.store.create_wait_token(create).await.map_err(failed)?;
        let (token, created) = (Some(token(created.token)), created.created);
        Ok(Response::new(CreateWaitTokenResponse { token, created }))
    }

    async fn complete_wait_token(
        &self,
        request: Request<CompleteWaitTokenRequest>,
    ) -> Answer<CompleteWaitTokenResponse> {
        let CompleteWaitTokenRequest { token_id, value, value_type } = request.into_inner();
        let key = RunKey::new(token_id);
        let completed = self.store.complete_wait_token(&key, value, value_type).await;
        let completed = completed.map_err(failed)?;
        let (token, deduplicated) = (Some(token(completed.token)), completed.deduplicated);
        Ok(Response::new(CompleteWaitTokenResponse { token, deduplicated }))
    }

    async fn get_wait_token(
        &self,
        request: Request<GetWaitTokenRequest>,
    ) -> Answer<GetWaitTokenResponse> {
        let key = RunKey::new(request.into_inner().token_id);
        let found = self.store.get_wait_token(&key).await.map_err(failed)?;
        Ok(Response::new(GetWaitTokenResponse { token: Some(token(found)) }))
    }

    async fn list_wait_tokens(
        &self,
        request: Request<ListWaitTokensRequest>,
    ) -> Answer<ListWaitTokensResponse> {
        let list = list(request.into_inner()).map_err(refused)?;
        let page = self.store.list_wait_tokens(&list).await.map_err(failed)?;
        Ok(Response::new(ListWaitTokensResponse {
            tokens: page.tokens.into_iter().map(token).collect(),
            next_page_token: page_token::encode(page.next),
        }))
    }
}

fn list(request: ListWaitTokensRequest) -> Result<ListRuns, Refusal> {
    let statuses = request.statuses.into_iter().map(|status| {
        Ok(match WaitTokenStatus::try_from(status) {
            Ok(WaitTokenStatus::Waiting) => RunStatus::Executing,
            Ok(WaitTokenStatus::Completed) => RunStatus::Completed,
            Ok(WaitTokenStatus::TimedOut) => RunStatus::TimedOut,
            Ok(WaitTokenStatus::Canceled) => RunStatus::Canceled,
            Ok(WaitTokenStatus::Unspecified) | Err(_) => {
                let problem = format!("holds {status}, which is unknown");
                return Err(Refusal::invalid("statuses", problem));
            }
        })
    });
    Ok(ListRuns {
        prefix: request.prefix,
        tags: convert::names(request.tags),
        statuses: statuses.collect::<Result<_, _>>()?,
        after: convert::page_position(&request.page_token)?,
        page_size: convert::page_size(request.page_size),
        ..ListRuns::default()
    })
}

fn token(token: engine::WaitToken) -> WaitToken {
    let status = match token.status {
        RunStatus::Completed => WaitTokenStatus::Completed,
        RunStatus::TimedOut => WaitTokenStatus::TimedOut,
        RunStatus::Executing => WaitTokenStatus::Waiting,
        _ => WaitTokenStatus::Canceled,
    };
    WaitToken {
        token_id: token.token_id.as_ref().into(),
        status: status.into(),
        created_at_ms: token.created_ms,
        times_out_at_ms: token.times_out_ms,
        completed_at_ms: token.completed_ms,
        value: token.value,
        value_type: token.value_type,
        tags: token.tags.iter().map(|tag| tag.as_ref().into()).collect(),
        idempotency_key: token.idempotency_key,
        idempotency_expires_at_ms: token.idempotency_expires_at_ms,
    }
}

#[tonic::async_trait]
impl BatchService for Batches {
    async fn create_batch(
        &self,
        request: Request<CreateBatchRequest>,
    ) -> Answer<CreateBatchResponse> {
        let request = request.into_inner();
        let create = CreateBatch {
            run_count: request.run_count,
            tags: convert::names(request.tags),
            idempotency_key: request.idempotency_key,
            idempotency_expires_at_ms: request.idempotency_expires_at_ms,
            ..CreateBatch::new(request.batch_id)
        };
        let created = self.store.create_batch(create).await.map_err(failed)?;
        let (batch, created) = (Some(batch(created.batch)), created.created);
        Ok(Response::new(CreateBatchResponse { batch, created }))
    }

    async fn add_batch_items(
        &self,
        request: Request<AddBatchItemsRequest>,
    ) -> Answer<AddBatchItemsResponse> {
        let AddBatchItemsRequest { batch_id, items } = request.into_inner();
        let item = |item: proto::BatchItem| {
            let run = item.run.ok_or_else(|| Refusal::invalid("items.run", "is missing"))?;
            Ok(BatchItem { number: item.number, run: convert::create(run)? })
        };
        let items = items.into_iter().map(item).collect::<Result<_, _>>().map_err(refused)?;
        let key = RunKey::new(batch_id);
        let added = self.store.add_to_batch(&key, items).await.map_err(failed)?;
        Ok(Response::new(AddBatchItemsResponse {
            accepted: added.accepted,
            deduplicated: added.deduplicated,
        }))
    }

    async fn seal_batch(&self, request: Request<SealBatchRequest>) -> Answer<SealBatchResponse> {
        let SealBatchRequest { batch_id, expected_items } = request.into_inner();
        let key = RunKey::new(batch_id);
        let sealed = self.store.seal_batch(&key, expected_items).await.map_err(failed)?;
        Ok(Response::new(SealBatchResponse { batch: Some(batch(sealed)) }))
    }

    async fn get_batch(&self, request: Request<GetBatchRequest>) -> Answer<GetBatchResponse> {
        let key = RunKey::new(request.into_inner().batch_id);
        let found = self.store.get_batch(&key).await.map_err(failed)?;
        Ok(Response::new(GetBatchResponse { batch: Some(batch(found)) }))
    }
}

fn batch(batch: engine::Batch) -> Batch {
    Batch {
        batch_id: batch.batch_id.as_ref().into(),
        items: batch.items,
        sealed: batch.sealed,
        created_at_ms: batch.created_ms,
        sealed_at_ms: batch.sealed_ms,
        run_count: batch.run_count,
        tags: batch.tags.iter().map(|tag| tag.as_ref().into()).collect(),
    }
}
