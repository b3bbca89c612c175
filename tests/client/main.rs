//! The remote client: the verbs of work with a real server and disk, what outlives a connection,
//! and what a worker may rely on.
//!
//! Nothing here asserts how long something takes; times are only guards against hanging.

#![cfg(all(feature = "grpc", feature = "client"))]

// Each test binary uses its part of these.
#[allow(dead_code)]
#[path = "../grpc/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../grpc/server.rs"]
mod server;

mod connections;
mod verbs;
mod worker;

use braidlog::{
    Create, NewRecord, RunKey,
    client::Client,
    core::{Send, Sent},
    engine::ClaimRun,
};

/// Creates a run of a task and names it.
async fn created(client: &Client, run_id: &str, task: &str) -> RunKey {
    let create = Create { run_id: run_id.into(), task: task.into(), ..Create::default() };
    let create = Create { namespace: "default".into(), ..create };
    client.create_run(create).await.expect("created");
    RunKey::new(run_id)
}

/// Asks for a run of the task.
fn claim_of(task: &str) -> ClaimRun {
    ClaimRun {
        namespace: "default".into(),
        tasks: vec![task.into()],
        worker: "w".into(),
        term_ms: 30_000,
    }
}

/// Sends a message with an id.
async fn send(client: &Client, run: &RunKey, id: &str, body: &str) -> Sent {
    let message = NewRecord { id: id.into(), ..NewRecord::new(body.to_owned()) };
    let send = Send { run_uid: None, stream: "in".into(), message };
    client.send(run, send).await.expect("sent")
}
