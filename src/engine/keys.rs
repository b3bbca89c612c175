//! Idempotency keys: creating with a key that was used gives what it was used for.
//!
//! A key is a small run of the store's own, named by the task and the key, which holds the id of
//! the run that was created with it. It is written first: whoever repeats the creation, also after
//! a crash between the two, creates that run and no other. It is closed at once and kept until the
//! key's expiry.

use std::sync::Arc;

use super::{
    request::{CreatedRun, RunKey},
    store::Store,
};
use crate::{
    core::{Close, Create, Delete, Refusal, Retention},
    error::Error,
    proto::{Outcome, RunSpec},
    record::{KEY_MS, RunUid, name_hash},
};

/// What ids of runs that hold a key begin with.
const PREFIX: &str = "$key:";
/// Task of runs that hold a key.
const TASK: &str = "$key";

/// What a run that holds a key says.
struct Held {
    key: RunKey,
    run_uid: RunUid,
    /// The run that was created with the key.
    run_id: Arc<str>,
    has_expired: bool,
}

impl Store {
    /// Creates what its key was not used for yet, and finds it otherwise.
    pub(super) async fn create_by_key(&self, create: Create) -> Result<CreatedRun, Error> {
        let now_ms = self.clock_ms();
        let mut create = create;
        if create.spec.idempotency_expires_at_ms == 0 {
            create.spec.idempotency_expires_at_ms = now_ms + KEY_MS;
        }
        loop {
            let Some(held) = self.held(&create).await? else {
                self.hold(&create).await?;
                continue;
            };
            let run = RunKey { namespace: create.namespace.clone(), run_id: held.run_id.clone() };
            if held.has_expired {
                self.let_go(&held).await?;
                continue;
            }
            match self.get_run(&run).await {
                Ok(run) if run.spec.idempotency_key == create.spec.idempotency_key => {
                    return Ok(CreatedRun { run, created: false });
                }
                Ok(_) => {
                    self.let_go(&held).await?;
                    if held.run_id == create.run_id {
                        return Err(Refusal::RunExists.into());
                    }
                }
                Err(Error::Refused(Refusal::RunNotFound)) => {
                    // Reserved by a call that did not get any further; or by this one.
                    let create = Create { run_id: held.run_id, ..create.clone() };
                    match self.create_ticket(&create).await?.await {
                        // Somebody else was faster.
                        Err(Error::Refused(Refusal::RunExists)) => {}
                        created => return created,
                    }
                }
                Err(Error::Refused(Refusal::RunDeleted)) => self.let_go(&held).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The run that holds a key, if there is one.
    async fn held(&self, create: &Create) -> Result<Option<Held>, Error> {
        for n in 0.. {
            let key = key_name(create, n);
            let run = match self.get_run(&key).await {
                Ok(run) => run,
                Err(Error::Refused(Refusal::RunNotFound | Refusal::RunDeleted)) => return Ok(None),
                Err(error) => return Err(error),
            };
            // Another key may have this name's hash.
            let Some(run_id) = held_by(&run.spec.payload, create) else { continue };
            let has_expired = run.spec.idempotency_expires_at_ms <= self.clock_ms();
            return Ok(Some(Held { key, run_uid: run.run_uid, run_id, has_expired }));
        }
        Ok(None)
    }

    /// Reserves a key for the run to be created.
    async fn hold(&self, create: &Create) -> Result<(), Error> {
        let expires_ms = create.spec.idempotency_expires_at_ms;
        for n in 0.. {
            let RunKey { namespace, run_id } = key_name(create, n);
            let key = RunKey { namespace: namespace.clone(), run_id: run_id.clone() };
            let spec = RunSpec {
                payload: [identity(create), create.run_id.as_bytes().to_vec()].concat().into(),
                idempotency_expires_at_ms: expires_ms,
                ..RunSpec::default()
            };
            let age_ms = expires_ms.saturating_sub(self.clock_ms());
            let holder = Create {
                namespace,
                run_id,
                task: TASK.into(),
                retention: Some(Retention { age_ms: Some(age_ms), ..Retention::default() }),
                spec,
                ..Create::default()
            };
            match self.create_ticket(&holder).await?.await {
                Ok(_) => {}
                // Somebody else was faster, or another key has this name's hash: to be seen.
                Err(Error::Refused(Refusal::RunExists)) => match self.get_run(&key).await {
                    Ok(run) if held_by(&run.spec.payload, create).is_none() => continue,
                    _ => return Ok(()),
                },
                Err(error) => return Err(error),
            }
            let close = Close { outcome: Outcome::Completed, ..Close::default() };
            return self.close_run(&key, close).await.map(drop);
        }
        Ok(())
    }

    /// Frees a key whose time has passed, or whose run is gone.
    async fn let_go(&self, held: &Held) -> Result<(), Error> {
        let delete = Delete { run_uid: Some(held.run_uid) };
        match self.delete_run(&held.key, delete).await {
            // Somebody else was faster.
            Ok(_) | Err(Error::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a run is one that holds a key.
pub(super) fn is_key(run_id: &str) -> bool {
    run_id.starts_with(PREFIX)
}

/// What a key is: the task and the key. None of them has a zero byte.
fn identity(create: &Create) -> Vec<u8> {
    format!("{}\0{}\0", create.task, create.spec.idempotency_key).into_bytes()
}

/// The run that a key is held for, if what says so is of this key.
fn held_by(payload: &[u8], create: &Create) -> Option<Arc<str>> {
    let run_id = payload.strip_prefix(&*identity(create))?;
    std::str::from_utf8(run_id).ok().map(Arc::from)
}

fn key_name(create: &Create, n: u32) -> RunKey {
    let hash = name_hash(&create.task, &create.spec.idempotency_key);
    let run_id = format!("{PREFIX}{hash:016x}:{n}").into();
    RunKey { namespace: create.namespace.clone(), run_id }
}
