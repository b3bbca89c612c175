//! W5: from an append to those who follow, one and many, and what one who only waits costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    Bench,
    figures::{Latencies, Sample, Tally},
    place::{Kind, Place},
    redis::{self, Value},
    report::Row,
    stopwatch::Stopwatch,
    writer::failed,
};
use crate::cli::failure::Failure;
use crate::{
    client::{self, Client},
    engine::{self, Query, Records, RunKey, Start, TailItem},
    platform::process::process_use,
};

/// Messages that are sent a second.
const PER_SECOND: u64 = 1_000;
/// Tails on one connection.
const TAILS_PER_CONNECTION: usize = 1_000;
/// Bytes of the time that a message carries.
const STAMP_BYTES: usize = 16;
/// Pause between messages that all wait for.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads records, here or over gRPC.
pub(super) enum Reader {
    Embedded(Box<engine::Tail>),
    Remote(Box<client::Tail>),
}

impl Reader {
    pub(super) async fn open(
        place: &Place,
        client: Option<&Client>,
        query: Query,
    ) -> Result<Self, Failure> {
        let opened = match (&place.store, client) {
            (Some(store), _) => store.tail(query).await.map(|tail| Self::Embedded(Box::new(tail))),
            (None, Some(client)) => {
                client.tail(query).await.map(|tail| Self::Remote(Box::new(tail)))
            }
            (None, None) => return Err(Failure::usage("there is no store to read from")),
        };
        opened.map_err(|error| failed(&error))
    }

    /// The next records; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Records>, Failure> {
        loop {
            let item = match self {
                Self::Embedded(tail) => tail.next().await,
                Self::Remote(tail) => tail.next().await,
            };
            match item.map_err(|error| failed(&error))? {
                TailItem::Records(records, _) => return Ok(Some(records)),
                TailItem::End(..) => return Ok(None),
                _ => {}
            }
        }
    }
}

/// A message that says when it was sent.
fn stamped(now: Duration, bytes: usize) -> Bytes {
    let mut body = format!("{:016x}", now.as_nanos() as u64).into_bytes();
    body.resize(bytes.max(STAMP_BYTES), b' ');
    body.into()
}

fn stamp(body: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(body.get(..STAMP_BYTES)?).ok()?;
    u64::from_str_radix(text, 16).ok().map(Duration::from_nanos)
}

/// Measures one follower, many of runs of their own, and very many of one run.
pub(super) async fn measure(bench: &Bench) -> Result<Vec<Vec<Row>>, Failure> {
    let kind = bench.kinds(false)[0];
    let mut single = vec![kind];
    single.extend(bench.ground.redis.is_some().then_some(Kind::Redis));
    Ok(vec![
        paced(bench, &single, 1).await?,
        paced(bench, &[kind], bench.args.tails).await?,
        crowd(bench, kind).await?,
    ])
}

/// Messages at a steady pace, to each run in turn; every run has a follower.
async fn paced(bench: &Bench, kinds: &[Kind], runs: usize) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for kind in kinds {
        for what in ["acknowledged", "delivered"] {
            let what = format!("{runs} runs, a tail each, {PER_SECOND}/s: {what}");
            rows.push(Row::new("w5", &what, *kind));
        }
    }
    for _ in 0..bench.args.runs {
        for pair in rows.chunks_mut(2) {
            let place = Place::start(pair[0].kind, &bench.ground).await?;
            let (acknowledged, delivered) = pace(bench, &place, pair[0].kind, runs).await?;
            pair[0].samples.push(acknowledged);
            pair[1].samples.push(delivered);
            place.end(runs).await?;
        }
    }
    Ok(rows)
}

async fn pace(
    bench: &Bench,
    place: &Place,
    kind: Kind,
    runs: usize,
) -> Result<(Sample, Sample), Failure> {
    let connections = runs.div_ceil(TAILS_PER_CONNECTION);
    let mut writers = place.writers(kind, runs, connections, 1).await?;
    for writer in &mut writers {
        writer.begin(&mut bench.bodies.clone()).await?;
    }
    let before = resident(place);
    let (told, mut delays) = mpsc::unbounded_channel();
    let mut followers = JoinSet::new();
    let clients = place.clients(connections)?;
    for n in 0..runs {
        let (told, watch) = (told.clone(), bench.watch.clone());
        if kind == Kind::Redis {
            let (connection, key) = (place.redis().await?, place.name(n));
            followers.spawn(follow_redis(connection, key, told, watch));
            continue;
        }
        let query = Query::stream(RunKey::new(place.name(n)), "out").from(Start::Tail);
        let client = clients.get(n / TAILS_PER_CONNECTION);
        let reader = Reader::open(place, client, query).await?;
        followers.spawn(follow(reader, told, watch));
    }
    let per_tail = per_tail(before, resident(place), runs);
    let work = async {
        let (begin, mut acknowledged) = (bench.watch.now(), Tally::none());
        let mut ticks = interval(Duration::from_secs(1) / PER_SECOND as u32);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while bench.watch.now() - begin < bench.args.window() {
            let at = acknowledged.records as usize % runs;
            ticks.tick().await;
            let now = bench.watch.now();
            writers[at].append(stamped(now, bench.args.record_bytes)).await?;
            acknowledged.latencies.note(bench.watch.now() - now);
            acknowledged.records += 1;
        }
        acknowledged.took = bench.watch.now() - begin;
        Ok(acknowledged)
    };
    let mut acknowledged = bench.sample(place, work).await?;
    let mut delivered = acknowledged.clone();
    delivered.tally.latencies = Latencies::new();
    for _ in 0..acknowledged.tally.records {
        delivered.tally.latencies.note(delays.recv().await.unwrap_or_default());
    }
    acknowledged.per_tail = per_tail;
    delivered.per_tail = per_tail;
    Ok((acknowledged, delivered))
}

/// Tells how long each message took, until nobody listens or the reader fails.
async fn follow(mut reader: Reader, told: mpsc::UnboundedSender<Duration>, watch: Stopwatch) {
    while let Ok(Some(records)) = reader.next().await {
        let now = watch.now();
        for record in records.decode().unwrap_or_default() {
            if let Some(sent) = stamp(&record.data) {
                let _ = told.send(now.saturating_sub(sent));
            }
        }
    }
}

async fn follow_redis(
    mut connection: redis::Connection,
    key: String,
    told: mpsc::UnboundedSender<Duration>,
    watch: Stopwatch,
) {
    let mut last = b"$".to_vec();
    loop {
        let words: [&[u8]; 6] = [b"XREAD", b"BLOCK", b"0", b"STREAMS", key.as_bytes(), &last];
        let Ok(answer) = connection.call(&words).await else { return };
        let now = watch.now();
        for (id, body) in entries(answer) {
            if let Some(sent) = stamp(&body) {
                let _ = told.send(now.saturating_sub(sent));
            }
            last = id;
        }
    }
}

/// Ids and bodies of an answer to XREAD of one stream: `[[key, [[id, [field, body]], …]]]`.
fn entries(answer: Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = |value: Value| if let Value::List(list) = value { list } else { Vec::new() };
    let text = |value: Value| if let Value::Text(text) = value { text } else { Vec::new() };
    let entries = list(answer).pop().and_then(|stream| list(stream).pop()).map(list);
    let pair = |entry: Value| {
        let mut entry = list(entry);
        let fields = entry.pop().map(list).unwrap_or_default();
        let id = entry.pop().map(text).unwrap_or_default();
        (id, fields.into_iter().next_back().map(text).unwrap_or_default())
    };
    entries.unwrap_or_default().into_iter().map(pair).collect()
}

/// One run, very many followers: how long until a message has reached all of them.
async fn crowd(bench: &Bench, kind: Kind) -> Result<Vec<Row>, Failure> {
    let tails = bench.args.crowd;
    let mut row = Row::new("w5", &format!("{tails} tails of 1 run: all reached"), kind);
    for _ in 0..bench.args.runs {
        let place = Place::start(kind, &bench.ground).await?;
        row.samples.push(reach(bench, &place, kind, tails).await?);
        place.end(1).await?;
    }
    Ok(vec![row])
}

async fn reach(bench: &Bench, place: &Place, kind: Kind, tails: usize) -> Result<Sample, Failure> {
    let mut writers = place.writers(kind, 1, 1, 1).await?;
    writers[0].begin(&mut bench.bodies.clone()).await?;
    let before = resident(place);
    let clients = place.clients(tails.div_ceil(TAILS_PER_CONNECTION))?;
    let (reached, all) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let mut followers = JoinSet::new();
    for n in 0..tails {
        let query = Query::stream(RunKey::new(place.name(0)), "out").from(Start::Tail);
        let mut reader = Reader::open(place, clients.get(n / TAILS_PER_CONNECTION), query).await?;
        let (reached, all) = (reached.clone(), all.clone());
        followers.spawn(async move {
            while let Ok(Some(records)) = reader.next().await {
                let count = reached.fetch_add(records.count, Ordering::Relaxed) + records.count;
                if count.is_multiple_of(tails as u64) {
                    all.notify_one();
                }
            }
        });
    }
    let per_tail = per_tail(before, resident(place), tails);
    let work = async {
        let (begin, mut tally) = (bench.watch.now(), Tally::none());
        while bench.watch.now() - begin < bench.args.window() {
            let now = bench.watch.now();
            writers[0].append(stamped(now, bench.args.record_bytes)).await?;
            all.notified().await;
            tally.latencies.note(bench.watch.now() - now);
            tally.records += 1;
            tokio::time::sleep(PAUSE).await;
        }
        tally.took = bench.watch.now() - begin;
        Ok(tally)
    };
    let mut sample = bench.sample(place, work).await?;
    sample.per_tail = per_tail;
    Ok(sample)
}

/// Memory of whoever serves; of this process, and so of both sides, if that is the same.
fn resident(place: &Place) -> Option<u64> {
    let own = || process_use(std::process::id()).ok();
    place.server_use().or_else(own).map(|used| used.resident)
}

fn per_tail(before: Option<u64>, after: Option<u64>, tails: usize) -> Option<u64> {
    Some(after?.saturating_sub(before?) / tails as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_when_it_was_sent() {
        let sent = Duration::from_nanos(1_234_567_890_123);
        let body = stamped(sent, 128);
        assert_eq!((body.len(), stamp(&body)), (128, Some(sent)));
        assert_eq!(stamp(b"{\"type\":\"text-delta\"}"), None, "any other message");
    }

    #[test]
    fn entries_are_found_in_an_answer() {
        let text = |text: &str| Value::Text(text.into());
        let entry = Value::List(vec![text("1-0"), Value::List(vec![text("d"), text("body")])]);
        let stream = Value::List(vec![text("key"), Value::List(vec![entry])]);
        let found = entries(Value::List(vec![stream]));
        assert_eq!(found, [(b"1-0".to_vec(), b"body".to_vec())]);
        assert_eq!(entries(Value::Null), []);
    }
}
