//! W4: one long run read from its beginning, soon after it was written and from packs that nobody
//! has read yet.

use std::sync::Arc;

use super::{
    Bench,
    figures::Tally,
    place::{Folder, Kind, Place, open},
    report::Row,
    tails::Reader,
    wire,
    writer::{Load, Until, failed},
};
use crate::cli::failure::Failure;
use crate::{
    engine::{Query, RunKey},
    platform::{Open, RelPath, os},
};

const LOAD: Load = Load { batch: 1_000, window: 16 };
/// Entries of one answer of Redis, and answers in flight.
const PAGE: u64 = 1_000;
const PAGES: usize = 4;

/// Measures both.
pub(super) async fn measure(bench: &Bench) -> Result<Vec<Vec<Row>>, Failure> {
    let mut cases = vec![hot(bench).await?];
    if bench.args.connect.is_none() {
        cases.push(cold(bench).await?);
    }
    Ok(cases)
}

/// Reads of what was just written.
async fn hot(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let what = format!("{} records, just written", bench.args.records);
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    for kind in bench.kinds(false) {
        let place = Place::start(kind, &bench.ground).await?;
        fill(bench, &place, kind).await?;
        places.push(place);
        rows.push(Row::new("w4", &what, kind));
    }
    for _ in 0..bench.args.runs {
        for (row, place) in rows.iter_mut().zip(&places) {
            row.samples
                .push(bench.sample(place, read(bench, place, row.kind, &place.name(0))).await?);
        }
    }
    for place in places {
        place.end(1).await?;
    }
    Ok(rows)
}

async fn fill(bench: &Bench, place: &Place, kind: Kind) -> Result<(), Failure> {
    match kind {
        Kind::WireSession | Kind::WireUnary => Ok(()),
        Kind::Redis => fill_redis(bench, place).await,
        _ => {
            let mut writers = place.writers(kind, 1, 1, LOAD.window).await?;
            let until = Until::Records(bench.args.records);
            let mut bodies = bench.bodies.clone();
            writers[0].write(&mut bodies, LOAD, until, &bench.watch).await.map(drop)
        }
    }
}

/// With ids that are known, so that pages can be asked for without waiting for the one before.
async fn fill_redis(bench: &Bench, place: &Place) -> Result<(), Failure> {
    let (mut connection, key) = (place.redis().await?, place.name(0));
    let mut bodies = bench.bodies.clone();
    for first in (0..bench.args.records).step_by(PAGE as usize) {
        let ids = first..bench.args.records.min(first + PAGE);
        for n in ids.clone() {
            let id = format!("{}-0", n + 1);
            connection.put(&[b"XADD", key.as_bytes(), id.as_bytes(), b"d", &bodies.next()]);
        }
        connection.send().await?;
        for _ in ids {
            connection.skip().await?;
        }
    }
    Ok(())
}

/// Reads from packs: each time by a store that was just opened, and with no page of them cached.
async fn cold(bench: &Bench) -> Result<Vec<Row>, Failure> {
    const RUN: &str = "long";
    let what = format!("{} records, cold", bench.args.records);
    let folder = Arc::new(Folder::new(&bench.ground.dir)?);
    let store = open(folder.0.join("data"))?;
    write_run(bench, &store, RUN).await?;
    store.flush().await.map_err(|error| failed(&error))?;
    store.close().await.map_err(|error| failed(&error))?;
    drop(store);
    let kind = if bench.args.embedded { Kind::Embedded } else { Kind::Session };
    let mut row = Row::new("w4", &what, kind);
    for _ in 0..bench.args.runs {
        forget(&folder).map_err(|error| Failure::io("dropping caches", &error))?;
        let place = Place::start_in(kind, &bench.ground, Some(folder.clone()), &[]).await?;
        row.samples.push(bench.sample(&place, read(bench, &place, kind, RUN)).await?);
        place.end(0).await?;
    }
    Ok(vec![row])
}

async fn write_run(bench: &Bench, store: &crate::engine::Store, run: &str) -> Result<(), Failure> {
    let (store, run) = (store.clone(), RunKey::new(run));
    let mut writer = super::writer::Writer::Embedded { store, run, waiting: Default::default() };
    let mut bodies = bench.bodies.clone();
    let until = Until::Records(bench.args.records);
    writer.write(&mut bodies, LOAD, until, &bench.watch).await.map(drop)
}

/// Drops what the system has cached of packs.
fn forget(folder: &Folder) -> std::io::Result<()> {
    let vfs = os::platform(folder.0.join("data")).vfs;
    for name in vfs.list(&RelPath::new("packs"))? {
        vfs.open(&RelPath::new(format!("packs/{name}")), Open::Read)?.drop_cache()?;
    }
    Ok(())
}

async fn read(bench: &Bench, place: &Place, kind: Kind, run: &str) -> Result<Tally, Failure> {
    let begin = bench.watch.now();
    let records = match kind {
        Kind::WireSession | Kind::WireUnary => {
            wire::read(&place.wires(1)?[0], bench.args.records).await?
        }
        Kind::Redis => read_redis(bench, place).await?,
        _ => {
            let query = Query { stop_at_tail: true, ..Query::stream(RunKey::new(run), "out") };
            let mut reader = Reader::open(place, place.clients(1)?.first(), query).await?;
            let mut count = 0;
            while let Some(records) = reader.next().await? {
                count += records.count;
            }
            count
        }
    };
    if records < bench.args.records {
        let message = format!("{records} records came back of {}", bench.args.records);
        return Err(Failure::io("reading", &std::io::Error::other(message)));
    }
    Ok(Tally { records, took: bench.watch.now() - begin, ..Tally::none() })
}

async fn read_redis(bench: &Bench, place: &Place) -> Result<u64, Failure> {
    let (mut connection, key) = (place.redis().await?, place.name(0));
    let pages = bench.args.records.div_ceil(PAGE);
    let mut asked = 0;
    for done in 0..pages {
        while asked < pages.min(done + PAGES as u64) {
            let (from, to) = (asked * PAGE + 1, (asked + 1) * PAGE);
            let range = [format!("{from}-0"), format!("{to}-0")];
            connection.put(&[b"XRANGE", key.as_bytes(), range[0].as_bytes(), range[1].as_bytes()]);
            asked += 1;
        }
        connection.send().await?;
        connection.skip().await?;
    }
    let len = connection.call(&[b"XLEN", key.as_bytes()]).await?;
    Ok(if let super::redis::Value::Number(len) = len { len as u64 } else { 0 })
}
