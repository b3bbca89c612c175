//! An agent that is talked to: it takes a message, streams out an answer, and goes on until it is
//! told goodbye. Its worker dies in the middle of an answer; another one takes over.
//!
//! What is shown: an answer and the consumption of the message that caused it are one step, so
//! every message is answered exactly once, although the one that was being answered is delivered
//! twice. What was streamed out for viewers before the crash stays visible, marked by its lease.
//!
//! `cargo run --example interactive_agent [-- --server URL]`

mod stage;

use std::time::Duration;

use braidlog::{
    Create, End, NewRecord, Outcome, Query, Record, RunKey, TailItem,
    client::{Client, Job, Worker, WorkerOptions},
    core::{Operation, Send},
    engine::Input,
    proto::Header,
};

use stage::Played;

const LONG: Duration = Duration::from_secs(30);
const TALK: [&str; 4] = ["hello", "what is a log?", "and a stream?", "bye"];
/// The message in whose answer the first worker dies.
const FATAL: &str = "and a stream?";

fn main() -> Played {
    stage::play(show)
}

/// Plays the example and holds it to what it shows.
pub(crate) async fn show(client: Client) -> Played {
    let run = RunKey::new(stage::name("agent"));
    let task = stage::name("agents");
    let create = Create {
        namespace: run.namespace.clone(),
        run_id: run.run_id.clone(),
        task: task.as_str().into(),
        ..Create::default()
    };
    client.create_run(create).await?;
    let agents = tokio::spawn(agents(client.clone(), task));
    let answers = talk(&client, &run).await?;
    let redelivered = agents.await??;

    assert_eq!(answers.len(), TALK.len(), "every message is answered once");
    for (message, answer) in TALK.into_iter().zip(&answers) {
        assert_eq!(*answer, answer_to(message).join(" "));
    }
    assert_eq!(redelivered, [FATAL], "it was delivered to both workers");
    let found = client.get_run(&run).await?;
    assert_eq!(&found.metadata[..], br#"{"turns":4}"#, "each turn counts once");
    let tokens = client.read(Query::stream(run, "tokens")).await?.records.decode()?;
    let by_lease = |epoch: &str| tokens.iter().filter(|it| lease_of(it) == epoch).count();
    let all: usize = TALK.into_iter().map(|message| answer_to(message).len()).sum();
    assert!(0 < by_lease("1") && 0 < by_lease("2") && all < by_lease("1") + by_lease("2"));
    println!("run {}: {}", found.run_id, found.status.as_str_name());
    Ok(())
}

/// What the model says, token by token.
fn answer_to(message: &str) -> Vec<&'static str> {
    let answer = match message {
        "hello" => "hello , what would you like to know ?",
        "what is a log?" => "records in order , and only the end grows",
        "and a stream?" => "a part of a log that has a name",
        _ => "goodbye",
    };
    answer.split(' ').collect()
}

/// The user: sends a message, watches its answer come, sends the next. The answers.
async fn talk(client: &Client, run: &RunKey) -> Result<Vec<String>, braidlog::Error> {
    let mut tail = client.tail(Query::stream(run.clone(), "answers")).await?;
    let mut answers = Vec::new();
    loop {
        if let Some(message) = TALK.get(answers.len()) {
            println!("user:  {message}");
            // With an id, a message can be sent as often as it takes.
            let message =
                NewRecord { id: format!("m{}", answers.len()), ..NewRecord::new(*message) };
            client.send(run, Send { run_uid: None, stream: "messages".into(), message }).await?;
        }
        let known = answers.len();
        while answers.len() == known {
            match tail.next().await? {
                TailItem::Records(records, _) => {
                    for record in records.decode().expect("records") {
                        let answer = String::from_utf8_lossy(&record.data).into_owned();
                        println!("agent: {answer}");
                        answers.push(answer);
                    }
                }
                TailItem::End(end, _) => {
                    assert_eq!(end, End::Closed(Some(Outcome::Completed)));
                    return Ok(answers);
                }
                _ => {}
            }
        }
    }
}

/// Two workers, one after the other. The messages that were delivered again.
async fn agents(client: Client, task: String) -> Result<Vec<String>, braidlog::Error> {
    let mut redelivered = Vec::new();
    for name in ["first", "second"] {
        // A short term, so that the crash is noticed soon.
        let options = WorkerOptions { term: Duration::from_secs(1) };
        let worker = Worker::new(client.clone(), name, [task.as_str()], options);
        let job = worker.claim(LONG).await?.expect("the run is queued");
        println!("       ({name} worker, attempt {})", job.attempt());
        converse(&job, name, &mut redelivered).await?;
        // Dropped without an end, the first job's lease lapses, as in a crash.
    }
    Ok(redelivered)
}

/// Answers messages until the end, or the crash.
async fn converse(
    job: &Job,
    name: &str,
    redelivered: &mut Vec<String>,
) -> Result<(), braidlog::Error> {
    let mut tokens = job.output("tokens")?;
    loop {
        let Some(input) = job.take("messages", LONG).await? else { continue };
        let message = text_of(&input);
        if input.redelivery {
            redelivered.push(message.clone());
        }
        let answer = answer_to(&message);
        let is_fatal = name == "first" && message == FATAL;
        for token in answer.iter().take(if is_fatal { 3 } else { answer.len() }) {
            let epoch = Header { name: "lease".into(), value: job.epoch().to_string().into() };
            let record = NewRecord { headers: vec![epoch], ..NewRecord::new(*token) };
            drop(tokens.submit(vec![record]).await?);
        }
        if is_fatal {
            println!("       (the first worker dies after three tokens)");
            return tokens.finish().await;
        }
        let turn = job
            .turn()
            .append("answers", answer.join(" "))
            .ack("messages", &input)
            .metadata(Operation::increment("turns", "1"));
        if message == "bye" {
            tokens.finish().await?;
            turn.complete("").await?;
            return Ok(());
        }
        turn.commit().await?;
    }
}

fn text_of(input: &Input) -> String {
    String::from_utf8_lossy(&input.record.data).into_owned()
}

fn lease_of(record: &Record) -> String {
    let lease = record.headers.iter().find(|header| header.name == "lease");
    lease.map(|header| String::from_utf8_lossy(&header.value).into_owned()).unwrap_or_default()
}
