//! The processes that have a store open: one that writes until it is killed, one that reads all.
//!
//! Every body follows from the run's name and the record's number, so whoever reads a run knows
//! what must stand there: nothing lost in between, doubled or moved.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use braidlog::{
    Append, Close, Error, IfAbsent, NewRecord, Options, Outcome, Query, Refusal, RunKey, Start,
    Store,
};

use super::{disk::Random, planted};

/// Runs that are written to at a time.
const WRITERS: u64 = 16;
/// Records of a run; then it is closed and another one begins.
const RECORDS: u64 = 600;
const STREAM: &str = "out";

/// A store so small that slots, manifests and packs change within seconds.
fn options(folder: &str) -> Options {
    let mut options = Options::new(folder);
    options.slot_bytes_first = 256 << 10;
    options.slot_bytes = 512 << 10;
    options.manifest_bytes = 64 << 10;
    options.flush_bytes = 1 << 20;
    options.unflushed_bytes_max = 4 << 20;
    options.flush_after_ms = 500;
    options.pack_bytes = 1 << 20;
    options.disk_reserve_bytes = 1 << 20;
    options.ring_bytes = 256 << 10;
    options.resident_bytes = 256 << 10;
    options.cache_bytes = 1 << 20;
    options
}

fn body(run: &str, number: u64) -> Vec<u8> {
    let seed = run
        .bytes()
        .fold(number, |seed, byte| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let mut random = Random(seed);
    let len = random.below(900);
    let kind = random.below(8);
    let mut body = format!("{run} {number} ").into_bytes();
    body.extend((0..len).map(|_| if kind == 0 { 0 } else { random.next() as u8 }));
    body
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

fn open(folder: &str) -> Store {
    Store::open(options(folder)).unwrap_or_else(|error| {
        println!("refused {error}");
        std::process::exit(78)
    })
}

/// Writes until it is killed, and says what was acknowledged.
pub(crate) fn work(folder: &str) -> ExitCode {
    planted::plant();
    let store = open(folder);
    println!("open");
    runtime().block_on(async {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
        for writer in writers {
            // Only the end of the power ends it.
            if let Err(error) = writer.await.expect("no panic") {
                println!("stopped {error}");
            }
        }
    });
    ExitCode::from(75)
}

async fn write(store: Store, writer: u64) -> Result<(), Error> {
    for generation in 0.. {
        let name: Arc<str> = format!("w{writer}-{generation}").into();
        let run = RunKey::new(name.clone());
        let mut next = match store.get_run(&run).await {
            Ok(info) if info.ended.is_some() => continue,
            Ok(_) => count(&store, &run).await?,
            Err(Error::Refused(Refusal::RunNotFound)) => 0,
            Err(error) => return Err(error),
        };
        while next < RECORDS {
            let count = 1 + next % 3;
            let records = (next..next + count).map(|n| NewRecord::new(body(&name, n))).collect();
            let append = Append { stream: STREAM.into(), records, ..Append::default() };
            match store.append(&run, append, IfAbsent::Create).await {
                Ok(appended) => assert_eq!(appended.first_index.0, next, "{name} is dense"),
                Err(Error::Busy { .. } | Error::DiskFull) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            next += count;
            say(&format!("acked {name} {next} ."));
        }
        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        match store.close_run(&run, close).await {
            Ok(_) | Err(Error::Refused(Refusal::Closed { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One line in one write, so that a kill cuts no line in two but the last.
fn say(line: &str) {
    let line = format!("{line}\n");
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes());
    let _ = out.flush();
}

/// Number of records of a run, each of which must be what was written.
async fn count(store: &Store, run: &RunKey) -> Result<u64, Error> {
    let mut query = Query::stream(run.clone(), STREAM);
    let mut next = 0;
    loop {
        let page = match store.read(query.clone()).await {
            Err(Error::Refused(Refusal::StreamNotFound)) => return Ok(0),
            other => other?,
        };
        if page.records.is_empty() {
            return Ok(next);
        }
        for record in page.records.decode().expect("records decode") {
            let expected = body(&run.run_id, next);
            if record.index != next || *record.data != *expected {
                say(&format!("wrong {} at {next}: index {}", run.run_id, record.index));
                std::process::exit(1);
            }
            next += 1;
        }
        query.start = Start::Cursor(page.cursor.to_string());
    }
}

/// Reads every run and says how many records it has.
pub(crate) fn check(folder: &str) -> ExitCode {
    let store = open(folder);
    let checked: Result<(), Error> = runtime().block_on(async {
        for writer in 0..WRITERS {
            for generation in 0.. {
                let run = RunKey::new(format!("w{writer}-{generation}"));
                match store.get_run(&run).await {
                    Ok(_) => {
                        let found = count(&store, &run).await?;
                        say(&format!("found {} {found}", run.run_id));
                    }
                    Err(Error::Refused(Refusal::RunNotFound)) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        store.close().await
    });
    match checked {
        Ok(()) => {
            say("all");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}
