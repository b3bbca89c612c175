//! W1 to W3: appends by one and by many writers, one at a time and in bulk.

use tokio::task::JoinSet;

use super::{
    Bench,
    bodies::Bodies,
    figures::Tally,
    place::{Kind, Place},
    report::Row,
    stopwatch::Stopwatch,
    writer::{Load, Until, Writer},
};
use crate::cli::failure::Failure;

/// What writers do.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) workload: &'static str,
    pub(super) what: String,
    pub(super) writers: usize,
    /// Connections that they share.
    pub(super) connections: usize,
    pub(super) load: Load,
    pub(super) kinds: Vec<Kind>,
}

/// W1: one writer, one append in flight.
pub(super) fn one_writer(bench: &Bench) -> Vec<Case> {
    vec![Case {
        workload: "w1",
        what: "1 writer, 1 in flight".into(),
        writers: 1,
        connections: 1,
        load: Load { batch: 1, window: 1 },
        kinds: bench.kinds(true),
    }]
}

/// W2: many writers, one append in flight each.
pub(super) fn many_writers(bench: &Bench) -> Vec<Case> {
    let (writers, connections) = (bench.args.writers, bench.args.connections);
    vec![Case {
        workload: "w2",
        what: format!("{writers} writers, {connections} connections"),
        writers,
        connections,
        load: Load { batch: 1, window: 1 },
        kinds: bench.kinds(true),
    }]
}

/// W3: batches, many in flight, by one writer and by many.
pub(super) fn bulk(bench: &Bench) -> Vec<Case> {
    let many = bench.args.writers;
    let cases = [(1, 100, 64), (1, 1_000, 16), (many, 100, 16), (many, 1_000, 4)];
    let case = |(writers, batch, window)| Case {
        workload: "w3",
        what: format!("{writers} x {batch} records, {window} in flight"),
        writers,
        connections: writers,
        load: Load { batch, window },
        kinds: bench.kinds(false),
    };
    cases.into_iter().map(case).collect()
}

impl Case {
    /// Writers of a kind, and what each does. A session of the bare service carries what all writers
    /// of a connection have in flight, as the one does that the appenders of a client share.
    fn shape(&self, kind: Kind) -> (usize, Load) {
        match kind {
            Kind::WireSession => {
                let sessions = self.connections.min(self.writers);
                let window = (self.load.window * self.writers).div_ceil(sessions);
                (sessions, Load { window, ..self.load })
            }
            _ => (self.writers, self.load),
        }
    }
}

/// Measures a case: every kind once in turn, as often as was asked for.
pub(super) async fn measure(bench: &Bench, case: &Case) -> Result<Vec<Row>, Failure> {
    let row = |kind: &Kind| Row::new(case.workload, &case.what, *kind);
    let mut rows: Vec<Row> = case.kinds.iter().map(row).collect();
    for _ in 0..bench.args.runs {
        for row in &mut rows {
            let place = Place::start(row.kind, &bench.ground).await?;
            let (count, load) = case.shape(row.kind);
            let writers = place.writers(row.kind, count, case.connections, load.window).await?;
            let writers = begun(bench, writers).await?;
            let until = Until::After(bench.args.window());
            let work = write(writers, &bench.bodies, load, until, &bench.watch);
            row.samples.push(bench.sample(&place, work).await?);
            place.end(case.writers).await?;
        }
    }
    Ok(rows)
}

/// Lets writers append once each, so that runs and connections are there.
pub(super) async fn begun(bench: &Bench, writers: Vec<Writer>) -> Result<Vec<Writer>, Failure> {
    let mut tasks = JoinSet::new();
    for mut writer in writers {
        let mut bodies = bench.bodies.clone();
        tasks.spawn(async move { writer.begin(&mut bodies).await.map(|()| writer) });
    }
    tasks.join_all().await.into_iter().collect()
}

/// Lets writers write at the same time.
pub(super) async fn write(
    writers: Vec<Writer>,
    bodies: &Bodies,
    load: Load,
    until: Until,
    watch: &Stopwatch,
) -> Result<Tally, Failure> {
    let mut tasks = JoinSet::new();
    for mut writer in writers {
        let (mut bodies, watch) = (bodies.clone(), watch.clone());
        tasks.spawn(async move { writer.write(&mut bodies, load, until, &watch).await });
    }
    let mut all = Tally::none();
    for tally in tasks.join_all().await {
        all.add(&tally?);
    }
    Ok(all)
}
