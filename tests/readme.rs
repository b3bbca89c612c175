//! The Rust that README shows is what is compiled here: it fits the library as it is. It is not run;
//! what it does is for the examples and the other tests.

use std::{error::Error, time::Duration};

use braidlog::{
    client::{Client, Worker, WorkerOptions},
    record::Index,
};
use bytes::Bytes;

const README: &str = include_str!("../README.md");
const THIS: &str = include_str!("readme.rs");

#[expect(dead_code, reason = "compiled only")]
async fn library() -> Result<(), Box<dyn Error>> {
    use braidlog::{Append, IfAbsent, NewRecord, Options, Query, RunKey, Store};

    let store = Store::open(Options::new("braidlog-data"))?;
    let run = RunKey::new("run_42");
    let append = Append {
        stream: "tokens".into(),
        records: vec![NewRecord::new("Hello")],
        ..Append::default()
    };
    store.append(&run, append, IfAbsent::Create).await?; // on disk from here on
    let mut tail = store.tail(Query::stream(run, "tokens")).await?;

    let _first = tail.next().await?;
    Ok(())
}

#[expect(dead_code, reason = "compiled only")]
async fn worker() -> Result<(), Box<dyn Error>> {
    let worker = Worker::new(
        Client::new("http://127.0.0.1:4480")?,
        "w1",
        ["chat"],
        WorkerOptions::default(),
    );
    loop {
        let Some(job) = worker.claim(Duration::from_secs(30)).await? else { continue };
        let Some(input) = job.take("inbox", Duration::from_secs(60)).await? else {
            // Nobody writes: no process needs to wait. The next message queues the run again.
            job.turn().wait_for_input("next", "inbox", Index(0)).suspend().await?;
            continue;
        };
        let answer = answer_to(&input.record.data).await; // stops early: job.canceled()
        job.turn().append("replies", answer).ack("inbox", &input).complete("done").await?;
    }
}

async fn answer_to(question: &[u8]) -> Bytes {
    Bytes::copy_from_slice(question)
}

/// Code without what formatting may change.
fn bare(code: &str) -> String {
    let bare: String = code.split_whitespace().collect();
    bare.replace(",)", ")").replace(",}", "}")
}

#[test]
fn the_rust_in_the_readme_is_what_is_compiled_here() {
    let blocks: Vec<&str> = README
        .split("```rust\n")
        .skip(1)
        .map(|rest| rest.split_once("```").expect("an end of the code").0)
        .collect();
    assert_eq!(blocks.len(), 2, "as many as there are functions above");
    let compiled = bare(THIS);
    for block in blocks {
        assert!(compiled.contains(&bare(block)), "not compiled:\n{block}");
    }
}
