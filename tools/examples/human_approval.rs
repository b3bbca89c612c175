//! A run needs somebody's consent. It is suspended, no worker waits for it, and days later, after
//! the consent has come from outside, another worker goes on with the same attempt.
//!
//! What is shown: a suspended run costs no process and does not run out of anything; consent
//! cannot be missed, whether it comes before the wait or after it; it counts once.
//!
//! `cargo run --example human_approval [-- --server URL]`

mod stage;

use std::time::Duration;

use braidlog::{
    Create, Outcome, Query, RunKey, RunStatus,
    client::{Client, Worker, WorkerOptions},
    core::Operation,
    engine::CreateToken,
    proto::WaitResult,
};

use stage::Played;

const WAIT: &str = "approval";

fn main() -> Played {
    stage::play(show)
}

/// Plays the example and holds it to what it shows.
pub(crate) async fn show(client: Client) -> Played {
    let run = RunKey::new(stage::name("refund"));
    let task = stage::name("refunds");
    let create = Create {
        namespace: run.namespace.clone(),
        run_id: run.run_id.clone(),
        task: task.as_str().into(),
        ..Create::default()
    };
    client.create_run(create).await?;

    let token = propose(&client, &task).await?;
    let found = client.get_run(&run).await?;
    println!("run {}: {}, and nobody works on it", found.run_id, found.status.as_str_name());
    assert_eq!((found.status, found.life.lease), (RunStatus::Waiting, None));
    let nobody = Worker::new(client.clone(), "idle", [task.clone()], WorkerOptions::default());
    assert!(nobody.claim(Duration::from_millis(100)).await?.is_none(), "it is not queued");

    approve(&client, &token).await?;
    refund(&client, &task).await?;
    let found = client.get_run(&run).await?;
    println!("run {}: {}", found.run_id, found.status.as_str_name());
    assert_eq!(found.status, RunStatus::Completed);
    let ended = found.ended.expect("it has ended");
    assert_eq!((ended.outcome, &ended.output[..]), (Outcome::Completed, &b"refunded 120 EUR"[..]));
    let page = client.read(Query::stream(run, "log")).await?;
    let lines = page.records.decode().expect("records");
    let lines: Vec<_> = lines.iter().map(|it| String::from_utf8_lossy(&it.data)).collect();
    assert_eq!(lines, ["may I refund 120 EUR?", "approved by Ada"]);
    Ok(())
}

/// The first worker: asks, suspends the run and is gone. Gives the token that is to be completed.
async fn propose(client: &Client, task: &str) -> Result<RunKey, braidlog::Error> {
    let worker = Worker::new(client.clone(), "morning", [task], WorkerOptions::default());
    let job = worker.claim(Duration::from_secs(30)).await?.expect("a run is queued");
    let created = client.create_wait_token(CreateToken::default()).await?;
    let token_id = created.token.token_id;
    println!("morning: may I refund 120 EUR? (token {token_id})");
    job.turn()
        .append("log", "may I refund 120 EUR?")
        .metadata(Operation::set("waits_for", format!("\"{token_id}\"")))
        .wait_for_token(WAIT, &*token_id)
        .suspend()
        .await?;
    Ok(RunKey::new(token_id))
}

/// Somebody outside, who knows the token and nothing else.
async fn approve(client: &Client, token: &RunKey) -> Result<(), braidlog::Error> {
    let text = || "text/plain".to_owned();
    let completed = client.complete_wait_token(token, "approved by Ada".into(), text()).await?;
    println!("Ada: yes");
    assert!(!completed.deduplicated);
    let late = client.complete_wait_token(token, "denied by Bob".into(), text()).await?;
    println!("Bob: no (but the first word counts)");
    assert_eq!((late.deduplicated, &late.token.value[..]), (true, &b"approved by Ada"[..]));
    Ok(())
}

/// Another worker: goes on where the first one suspended.
async fn refund(client: &Client, task: &str) -> Result<(), braidlog::Error> {
    let worker = Worker::new(client.clone(), "evening", [task], WorkerOptions::default());
    let job = worker.claim(Duration::from_secs(30)).await?.expect("the run is queued again");
    assert_eq!((job.attempt(), job.resumed()), (1, true), "the same attempt goes on");
    let settled = job.wait(WAIT).and_then(|wait| wait.settled.clone()).expect("it has come");
    assert_eq!(settled.result(), WaitResult::Completed);
    println!("evening: {}", String::from_utf8_lossy(&settled.value));
    job.turn().append("log", settled.value).complete("refunded 120 EUR").await?;
    Ok(())
}
