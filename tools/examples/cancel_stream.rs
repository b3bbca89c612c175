//! A model streams out an answer; a viewer has seen enough and stops it in the middle.
//!
//! What is shown: the worker learns of it while it generates, ends the run by itself, and what it
//! had made until then stays. The viewer's tail ends with the outcome, not with a broken
//! connection.
//!
//! `cargo run --example cancel_stream [-- --server URL]`

mod stage;

use std::time::Duration;

use braidlog::{
    Create, End, NewRecord, Outcome, Query, RunKey, RunStatus, TailItem,
    client::{Client, Stop, Worker, WorkerOptions},
    core::CancelRun,
};
use tokio::time::sleep;

use stage::Played;

const TASK: &str = "generate";
/// Tokens that the model would make.
const TOKENS: usize = 10_000;
/// Tokens after which the viewer has seen enough.
const ENOUGH: usize = 25;

fn main() -> Played {
    stage::play(show)
}

/// Plays the example and holds it to what it shows.
pub(crate) async fn show(client: Client) -> Played {
    let run = RunKey::new(stage::name("story"));
    let task = stage::name(TASK);
    let create = Create {
        namespace: run.namespace.clone(),
        run_id: run.run_id.clone(),
        task: task.as_str().into(),
        ..Create::default()
    };
    client.create_run(create).await?;
    let working = tokio::spawn(generate(client.clone(), task));
    let seen = view(&client, &run).await?;
    let made = working.await??;

    let page = client.get_run(&run).await?;
    println!("run {}: {}", page.run_id, page.status.as_str_name());
    assert_eq!(page.status, RunStatus::Canceled);
    let output = page.ended.map(|end| end.output).unwrap_or_default();
    assert_eq!(output, format!("stopped after {made} tokens"));
    assert!((ENOUGH..TOKENS).contains(&made), "in the middle: {made}");
    assert_eq!(seen, made, "the viewer has seen all that was made, once");
    Ok(())
}

/// The worker: streams tokens out until it is done, or asked to stop. How many it has made.
async fn generate(client: Client, task: String) -> Result<usize, braidlog::Error> {
    let worker = Worker::new(client, "gpu-1", [task], WorkerOptions::default());
    let job = worker.claim(Duration::from_secs(30)).await?.expect("a run is queued");
    println!("worker: claimed {}", job.run().run_id);
    let mut tokens = job.output("tokens")?;
    let mut stopped = std::pin::pin!(job.canceled());
    let mut made = 0;
    let stop = loop {
        tokio::select! {
            biased;
            stop = &mut stopped => break Some(stop),
            // What a model takes for a token.
            () = sleep(Duration::from_millis(4)) => {
                drop(tokens.submit(vec![NewRecord::new(format!("token {made}"))]).await?);
                made += 1;
            }
        }
        if made == TOKENS {
            break None;
        }
    };
    // All that was made is in the log before its end is.
    tokens.finish().await?;
    match stop {
        None => job.turn().complete("the whole story").await?,
        Some(Stop::Canceled(cancel)) => {
            println!("worker: asked to stop ({}), after {made} tokens", cancel.reason);
            job.turn().cancel(format!("stopped after {made} tokens")).await?
        }
        Some(other) => panic!("nobody else has the run: {other:?}"),
    };
    Ok(made)
}

/// The viewer: follows the tokens, and stops the run when it has seen enough. How many it has seen.
async fn view(client: &Client, run: &RunKey) -> Result<usize, braidlog::Error> {
    let mut tail = client.tail(Query::stream(run.clone(), "tokens")).await?;
    let (mut seen, mut is_asked) = (0, false);
    loop {
        match tail.next().await? {
            TailItem::Records(records, _) => {
                for record in records.decode().expect("records") {
                    assert_eq!(record.index, seen as u64, "in order, and none is missing");
                    seen += 1;
                }
                if ENOUGH <= seen && !is_asked {
                    is_asked = true;
                    println!("viewer: {seen} tokens are enough");
                    let reason = "the user pressed stop".into();
                    let cancel = CancelRun { reason, ..CancelRun::default() };
                    let asked = client.cancel_run(run, cancel).await?;
                    assert!(!asked.closed, "the worker has time to end it");
                }
            }
            TailItem::End(end, _) => {
                println!("viewer: the run has ended, {seen} tokens");
                assert_eq!(end, End::Closed(Some(Outcome::Canceled)));
                return Ok(seen);
            }
            _ => {}
        }
    }
}
