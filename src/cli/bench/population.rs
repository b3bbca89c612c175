//! W6 and W7: a store that holds many runs already. How fast it is then, and how soon after a
//! crash.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Bench, appends,
    bodies::Bodies,
    figures::{Sample, Tally},
    place::{Folder, Kind, Place, open},
    report::Row,
    writer::{Load, Until, Writer, failed},
};
use crate::cli::failure::Failure;
use crate::{
    client::Client,
    engine::{Query, RunKey, Store},
};

/// Writers that fill a store.
const FILLERS: u64 = 64;
const ONE: Load = Load { batch: 1, window: 1 };
/// Keeps frames in the journal, so that a restart has to read all of them.
const UNFLUSHED: [(&str, &str); 3] = [
    ("BRAIDLOG_FLUSH_BYTES", "2GiB"),
    ("BRAIDLOG_UNFLUSHED_BYTES", "4GiB"),
    ("BRAIDLOG_FLUSH_AFTER", "1h"),
];

fn run(n: u64) -> RunKey {
    RunKey::new(format!("existing-{n}"))
}

/// A directory with so many runs of one record.
async fn populated(bench: &Bench, runs: u64) -> Result<Arc<Folder>, Failure> {
    let folder = Arc::new(Folder::new(&bench.ground.dir)?);
    let store = open(folder.0.join("data"))?;
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..FILLERS.min(runs) {
        let (store, bodies) = (store.clone(), bench.bodies.clone());
        tasks.spawn(async move { fill(store, bodies, first, runs).await });
    }
    for filled in tasks.join_all().await {
        filled?;
    }
    store.close().await.map_err(|error| failed(&error))?;
    Ok(folder)
}

async fn fill(store: Store, mut bodies: Bodies, first: u64, runs: u64) -> Result<(), Failure> {
    for n in (first..runs).step_by(FILLERS as usize) {
        let (store, run, waiting) = (store.clone(), run(n), VecDeque::new());
        Writer::Embedded { store, run, waiting }.begin(&mut bodies).await?;
    }
    Ok(())
}

/// W6: many writers, in stores of different sizes.
pub(super) async fn among(bench: &Bench) -> Result<Vec<Vec<Row>>, Failure> {
    let (writers, connections) = (bench.args.writers, bench.args.connections);
    let kind = bench.kinds(false)[0];
    let mut rows = Vec::new();
    for runs in &bench.args.existing {
        let mut row = Row::new("w6", &format!("{writers} writers among {runs} runs"), kind);
        let folder = populated(bench, *runs).await?;
        let place = Place::start_in(kind, &bench.ground, Some(folder), &[]).await?;
        for _ in 0..bench.args.runs {
            let writers = place.writers(kind, writers, connections, 1).await?;
            let writers = appends::begun(bench, writers).await?;
            let until = Until::After(bench.args.window());
            let work = appends::write(writers, &bench.bodies, ONE, until, &bench.watch);
            row.samples.push(bench.sample(&place, work).await?);
        }
        place.end(0).await?;
        rows.push(row);
    }
    Ok(vec![rows])
}

/// W7: a server is killed and started again; how long until it has served its first read.
pub(super) async fn restarts(bench: &Bench) -> Result<Vec<Vec<Row>>, Failure> {
    let records = bench.args.records;
    let what = format!("restart with {records} records in the journal");
    let mut journal = Row::new("w7", &what, Kind::Session);
    for _ in 0..bench.args.runs {
        let kind = Kind::Session;
        let folder = Arc::new(Folder::new(&bench.ground.dir)?);
        let place = Place::start_in(kind, &bench.ground, Some(folder), &UNFLUSHED).await?;
        let mut writers = place.writers(kind, 1, 1, 16).await?;
        let load = Load { batch: 1_000, window: 16 };
        let mut bodies = bench.bodies.clone();
        writers[0].write(&mut bodies, load, Until::Records(records), &bench.watch).await?;
        let read = RunKey::new(place.name(0));
        journal.samples.push(restart(bench, place, read).await?.1);
    }
    let runs = bench.args.existing.iter().copied().max().unwrap_or(1);
    let mut many = Row::new("w7", &format!("restart with {runs} runs"), Kind::Session);
    let mut folder = Some(populated(bench, runs).await?);
    for _ in 0..bench.args.runs {
        let place = Place::start_in(Kind::Session, &bench.ground, folder.take(), &[]).await?;
        // Something is under way when it is killed.
        place.writers(Kind::Session, 1, 1, 1).await?[0].begin(&mut bench.bodies.clone()).await?;
        let (killed, sample) = restart(bench, place, run(runs / 2)).await?;
        many.samples.push(sample);
        folder = killed;
    }
    Ok(vec![vec![journal], vec![many]])
}

/// Kills, starts again and reads; the directory, and how long it took.
async fn restart(
    bench: &Bench,
    place: Place,
    read: RunKey,
) -> Result<(Option<Arc<Folder>>, Sample), Failure> {
    let folder = place.kill();
    let probe = bench.probe()?;
    let begin = bench.watch.now();
    let place = Place::start_in(Kind::Session, &bench.ground, folder, &UNFLUSHED).await?;
    first_read(&place.clients(1)?[0], read).await?;
    let mut tally = Tally::none();
    tally.latencies.note(bench.watch.now() - begin);
    let sample = Sample {
        tally,
        probe,
        client: None,
        server: place.server_use(),
        written: None,
        per_tail: None,
    };
    Ok((place.kill(), sample))
}

async fn first_read(client: &Client, run: RunKey) -> Result<(), Failure> {
    let mut query = Query::run(run);
    query.bounds.records = Some(1);
    client.read(query).await.map(drop).map_err(|error| failed(&error))
}
