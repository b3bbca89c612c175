//! What was appended is read back the same, wherever it has gone meanwhile: copied into packs, out
//! of memory, over a restart.

use std::sync::Arc;

use braidlog::{Codec, End, Index, Query, Record, RunKey, Seq, Start, Store, TailItem, Trim};

use super::place::{
    Place, Random, append, batch, close, create, drain, key, noise, read_all, read_run, until,
};

const STREAMS: [&str; 3] = ["alpha", "beta", "gamma"];

/// A batch of any kind: short or long, plain or random.
fn any_batch(random: &mut Random) -> braidlog::Append {
    let stream = STREAMS[random.below(3) as usize];
    let bodies = (0..1 + random.below(4)).map(|n| match random.below(4) {
        0 => Vec::new(),
        1 => noise(random.next(), 1 + random.below(3_000) as usize),
        2 => vec![0; random.below(5_000) as usize],
        _ => format!("{{\"chunk\": {n}, \"text\": \"as it comes\"}}").into_bytes(),
    });
    let mut batch = batch(stream, bodies.collect::<Vec<_>>());
    batch.records[0].id = format!("id {}", random.below(100));
    batch
}

/// A cursor that a reader was given.
struct Bookmark {
    stream: Option<Arc<str>>,
    text: String,
    /// First seq behind it.
    next: u64,
}

/// A run, what it ought to hold, and the bookmarks of its readers.
struct Known {
    run: RunKey,
    records: Vec<Record>,
    /// Names of the streams, by number.
    streams: Vec<Arc<str>>,
    bookmarks: Vec<Bookmark>,
}

impl Known {
    fn new(run: &str) -> Self {
        let (records, streams, bookmarks) = Default::default();
        Self { run: key(run), records, streams, bookmarks }
    }

    fn query(&self, stream: Option<&Arc<str>>) -> Query {
        Query { streams: stream.into_iter().cloned().collect(), ..Query::run(self.run.clone()) }
    }

    /// The records of a stream, or of the whole run.
    fn of(&self, stream: Option<&Arc<str>>) -> Vec<Record> {
        let is_of = |record: &&Record| {
            stream.is_none_or(|stream| self.streams[record.stream as usize] == *stream)
        };
        self.records.iter().filter(is_of).cloned().collect()
    }

    /// Writes more, and takes down what a reader of the moment sees.
    async fn write(&mut self, store: &Store, random: &mut Random, appends: u64) {
        for _ in 0..appends {
            append(store, &self.run, any_batch(random)).await;
        }
        let before = std::mem::take(&mut self.records);
        self.records = read_run(store, &self.run).await;
        assert!(self.records.starts_with(&before), "what was there stays");
        let seqs: Vec<_> = self.records.iter().map(|record| record.seq).collect();
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
        let streams = store.list_streams(&self.run, None).await.expect("streams").streams;
        self.streams = streams.into_iter().map(|stream| stream.name).collect();
        self.bookmark(store, None, random).await;
        let stream = self.streams[1 + random.below(self.streams.len() as u64 - 1) as usize].clone();
        self.bookmark(store, Some(stream), random).await;
    }

    /// Reads a little from anywhere, and keeps the cursor behind it.
    async fn bookmark(&mut self, store: &Store, stream: Option<Arc<str>>, random: &mut Random) {
        let mut query = self.query(stream.as_ref());
        query.start = Start::Seq(Seq(random.below(self.records.len() as u64)));
        query.bounds.records = Some(1 + random.below(5));
        let page = store.read(query).await.expect("page");
        let text = page.cursor.to_string();
        self.bookmarks.push(Bookmark { stream, text, next: page.cursor.seq.0 });
    }

    /// Demands that every way to read the run gives what was taken down.
    async fn demand(&self, store: &Store, random: &mut Random) {
        let tail = self.records.len() as u64;
        for stream in [None].into_iter().chain(self.streams[1..].iter().map(Some)) {
            let (query, all) = (self.query(stream), self.of(stream));
            let read = async |start: Start| {
                read_all(store, query.clone().from(start)).await.expect("records")
            };
            assert!(read(Start::Beginning).await == all, "{stream:?}");
            for _ in 0..6 {
                let from = random.below(tail + 1);
                let rest = all.iter().filter(|record| from <= record.seq);
                assert!(read(Start::Seq(Seq(from))).await.iter().eq(rest), "{stream:?} {from}");
                let count = random.below(all.len() as u64 + 2);
                let rest = &all[all.len().saturating_sub(count as usize)..];
                assert!(read(Start::Last(count)).await == rest, "{stream:?}, last {count}");
                if stream.is_some() {
                    let index = random.below(all.len() as u64 + 1);
                    let found = read(Start::Index(Index(index))).await;
                    assert!(found == all[index as usize..], "{stream:?} from index {index}");
                }
            }
        }
        let two = Query { streams: self.streams[1..3].to_vec(), ..self.query(None) };
        let wanted = self.records.iter().filter(|record| [1, 2].contains(&record.stream));
        assert!(read_all(store, two).await.expect("records").iter().eq(wanted));
        for Bookmark { stream, text, next } in &self.bookmarks {
            let query = self.query(stream.as_ref()).from(Start::Cursor(text.clone()));
            let found = read_all(store, query).await.expect("records");
            let all = self.of(stream.as_ref());
            let rest = all.iter().filter(|record| next <= &record.seq);
            assert!(found.iter().eq(rest), "{stream:?} from the cursor before {next}");
        }
    }
}

#[tokio::test]
async fn every_reader_gets_what_was_appended_from_memory_and_packs_by_any_codec() {
    for (seed, codec) in [Codec::None, Codec::Lz4, Codec::Zstd].into_iter().enumerate() {
        // Once with nothing in memory, once with all of it.
        let ring_bytes = if codec == Codec::Lz4 { 16 << 20 } else { 0 };
        let cache_bytes = if codec == Codec::None { 1 << 20 } else { 0 };
        let mut place = Place::with(|options| {
            (options.codec, options.ring_bytes, options.cache_bytes) =
                (codec, ring_bytes, cache_bytes);
        });
        let random = &mut Random(seed as u64);
        let mut runs = [Known::new("one"), Known::new("two"), Known::new("three")];
        for round in 0..3 {
            for known in &mut runs {
                known.write(place.store(), random, 25).await;
            }
            place.flush().await;
            assert_eq!(place.store().stats().flush_lag.bytes, 0);
            for known in &mut runs[round..] {
                known.demand(place.store(), random).await;
            }
            runs[round].write(place.store(), random, 3).await;
        }
        for known in &runs {
            known.demand(place.store(), random).await;
        }
        place.reopen().await;
        for known in &runs {
            known.demand(place.store(), random).await;
        }
        for known in &mut runs {
            close(place.store(), &known.run).await;
            known.records = read_run(place.store(), &known.run).await;
        }
        place.flush().await;
        place.reopen().await;
        for known in &runs {
            known.demand(place.store(), random).await;
        }
    }
}

#[tokio::test]
async fn runs_that_left_memory_come_back_as_they_were_and_go_on() {
    let place = Place::new();
    let store = place.store();
    let random = &mut Random(7);
    let mut runs: Vec<_> = (0..150).map(|n| Known::new(&format!("run {n}"))).collect();
    for round in 0..3 {
        for known in &mut runs {
            known.write(store, random, 1 + round).await;
        }
        place.flush().await;
    }
    // Whoever comes in pushes others out.
    for n in 0..100 {
        store.create_run(create(format!("newcomer {n}"))).await.expect("created");
    }
    let stats = store.stats();
    assert_eq!(stats.runs, 250);
    assert!(stats.runs_resident < 130, "{stats:?}");
    for known in &runs {
        assert!(read_run(store, &known.run).await == known.records, "{}", known.run.run_id);
    }
    for known in &mut runs {
        known.write(store, random, 1).await;
        known.demand(store, random).await;
    }
}

#[tokio::test]
async fn a_reader_at_the_tail_gets_every_record_once_while_packs_are_written_beneath_it() {
    let place = Place::with(|options| options.flush_bytes = 64 << 10);
    let store = place.store().clone();
    let run = key("run");
    append(&store, &run, batch("out", ["0"])).await;
    let follow = |query: Query| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut tail = store.tail(query).await.expect("tail");
            let (mut bodies, mut end) = (Vec::new(), None);
            while end.is_none() {
                let (records, found) = drain(&mut tail).await.expect("items");
                bodies.extend(records.into_iter().map(|record| record.data));
                end = found;
            }
            (bodies, end)
        })
    };
    let stream = follow(Query::stream(run.clone(), "out"));
    let whole = follow(Query::run(run.clone()));
    for n in 1..400u64 {
        let mut body = n.to_string().into_bytes();
        body.extend(noise(n, 2_000));
        append(&store, &run, batch("out", [body])).await;
        if n % 20 == 0 {
            place.flush().await;
        }
    }
    assert!(4 < place.store().stats().disk.packs);
    close(&store, &run).await;
    place.flush().await;
    let (bodies, end) = stream.await.expect("follower");
    assert!(matches!(end, Some(End::Closed(Some(_)))));
    assert_eq!(bodies.len(), 400);
    for (n, body) in bodies.iter().enumerate().skip(1) {
        assert_eq!(body.len(), n.to_string().len() + 2_000);
        assert!(body.starts_with(n.to_string().as_bytes()), "record {n}");
    }
    // With the creation and the end.
    assert_eq!(whole.await.expect("follower").0.len(), 402);
}

#[tokio::test]
async fn a_reader_that_was_opened_before_a_flush_reads_on_from_packs() {
    let place = Place::new();
    let random = &mut Random(3);
    let mut known = Known::new("run");
    known.write(place.store(), random, 40).await;
    let mut tail = place.store().tail(known.query(None)).await.expect("tail");
    tail.next().await.expect("the streams");
    let mut records = Vec::new();
    for _ in 0..5 {
        known.write(place.store(), random, 10).await;
        place.flush().await;
        if let braidlog::TailItem::Records(found, _) = tail.next().await.expect("records") {
            records.extend(found.decode().expect("records"));
        }
    }
    records.extend(drain(&mut tail).await.expect("items").0);
    assert!(records == known.records);
}

/// Readers of `out` at every seq, and what each has to be told: the records that are kept from there
/// on, and one gap if there were others.
async fn demand_of_every_start(place: &Place, seqs: &[u64], trim: u64) {
    let end = place.store().check_tail(&key("run"), None, None).await.expect("tail").tail;
    for start in 0..=end.0 {
        let first = seqs.iter().filter(|&&seq| seq < start).count() as u64;
        let query = Query::stream(key("run"), "out").from(Start::Seq(Seq(start)));
        let is_lost = first < trim;
        let refused = place.store().tail(query.clone()).await.map(|_| ());
        assert_eq!(refused.is_err(), is_lost, "from {start}: {refused:?}");

        let query = Query { allow_gap: true, stop_at_tail: true, ..query };
        let mut tail = place.store().tail(query).await.expect("tail");
        let (mut found, mut gaps) = (Vec::new(), Vec::new());
        loop {
            match tail.next().await.expect("item") {
                TailItem::Records(records, _) => {
                    let records = records.decode().expect("records");
                    found.extend(records.iter().map(|record| (record.seq, record.index)));
                }
                TailItem::Gap(gap, _) => gaps.push((gap.from.0, gap.to.0)),
                TailItem::End(end, cursor) => {
                    assert_eq!(end, End::Limit);
                    let next = seqs.len() as u64;
                    assert_eq!(cursor.stream.map(|(_, index)| index.0), Some(next));
                    break;
                }
                TailItem::Streams(_) | TailItem::CaughtUp(_) => {}
            }
        }
        let kept = (0..).zip(seqs).filter(|&(index, _)| first.max(trim) <= index);
        assert_eq!(found, kept.map(|(index, &seq)| (seq, index)).collect::<Vec<_>>(), "{start}");
        // Of a stream that is trimmed to its end, what is gone already is not met any more.
        let may_be_silent = trim == seqs.len() as u64;
        match gaps.is_empty() {
            true => assert!(!is_lost || may_be_silent, "from {start}"),
            false => assert_eq!((is_lost, gaps), (true, vec![(first, trim)]), "from {start}"),
        }
    }
}

#[tokio::test]
async fn a_reader_may_start_where_its_stream_was_quiet_for_whole_packs() {
    let mut place = Place::new();
    let mut seqs = Vec::new();
    for streams in
        [&["out", "out"][..], &["side"], &["side", "side"], &["out", "side", "out"], &["side"]]
    {
        for stream in streams {
            append(place.store(), &key("run"), batch(stream, ["x"])).await;
            if *stream == "out" {
                let tail = place.store().check_tail(&key("run"), None, None).await.expect("tail");
                seqs.push(tail.tail.0 - 1);
            }
        }
        place.flush().await;
        // What is in memory does not ask the packs.
        place.reopen().await;
        demand_of_every_start(&place, &seqs, 0).await;
    }
    append(place.store(), &key("run"), batch("out", ["in no pack yet"])).await;
    seqs.push(place.store().check_tail(&key("run"), None, None).await.expect("tail").tail.0 - 1);
    demand_of_every_start(&place, &seqs, 0).await;
    for trim in 1..=seqs.len() as u64 {
        let request = Trim { run_uid: None, stream: "out".into(), trim: Index(trim) };
        place.store().trim(&key("run"), request).await.expect("trimmed");
        demand_of_every_start(&place, &seqs, trim).await;
        place.flush().await;
        place.reopen().await;
        demand_of_every_start(&place, &seqs, trim).await;
    }
}

#[tokio::test]
async fn a_reader_that_resumes_in_what_is_trimmed_and_gone_is_told_all_that_it_misses() {
    let mut place = Place::new();
    let (mut cursors, mut seqs) = (Vec::new(), Vec::new());
    let run = key("run");
    for round in 0..4_u64 {
        for stream in ["out", "side", "out", "out", "side"] {
            // So much that what is mostly trimmed is worth writing anew.
            let body = if stream == "out" { vec![b'x'; 8 << 10] } else { vec![b'y'] };
            append(place.store(), &run, batch(stream, [body])).await;
            let tail = place.store().check_tail(&run, None, Some("out")).await.expect("tail");
            cursors.push(tail.cursor);
            if stream == "out" {
                seqs.push(tail.tail.0 - 1);
            }
        }
        // All of it, and all but the last.
        let trim = seqs.len() as u64 - round % 2;
        let request = Trim { run_uid: None, stream: "out".into(), trim: Index(trim) };
        place.store().trim(&run, request).await.expect("trimmed");
        for flushes in 0..2 {
            for cursor in &cursors {
                let next = cursor.stream.expect("of a stream").1.0;
                let query = Query::stream(run.clone(), "out");
                let query = query.from(Start::Cursor(cursor.to_string()));
                let refused = place.store().tail(query.clone()).await.map(|_| ());
                assert_eq!(refused.is_err(), next < trim, "from {next} of {trim}: {refused:?}");

                let query = Query { allow_gap: true, ..query };
                let mut tail = place.store().tail(query).await.expect("tail");
                append(place.store(), &run, batch("out", ["y"])).await;
                seqs.push(
                    place.store().check_tail(&run, None, None).await.expect("tail").tail.0 - 1,
                );
                let (mut found, mut gaps) = (Vec::new(), Vec::new());
                while found.last() != seqs.last() {
                    match tail.next().await.expect("item") {
                        TailItem::Records(records, _) => {
                            let records = records.decode().expect("records");
                            found.extend(records.iter().map(|record| record.seq));
                        }
                        TailItem::Gap(gap, _) => gaps.push((gap.from.0, gap.to.0)),
                        TailItem::End(..) => panic!("the run is open"),
                        TailItem::Streams(_) | TailItem::CaughtUp(_) => {}
                    }
                }
                assert_eq!(found, &seqs[next.max(trim) as usize..]);
                let missed = (next < trim).then_some((next, trim));
                assert_eq!(gaps, missed.into_iter().collect::<Vec<_>>(), "after {flushes}");
            }
            place.flush().await;
            place.reopen().await;
        }
    }
}

#[tokio::test]
async fn a_run_of_two_hundred_thousand_records_is_read_from_a_file_of_its_own() {
    let mut place = Place::with(|options| {
        (options.slot_bytes_first, options.slot_bytes) = (8 << 20, 8 << 20);
    });
    let run = key("long");
    for chunk in 0..200u64 {
        let bodies = (chunk * 1_000..).take(1_000);
        let bodies = bodies.map(|n| format!("record number {n} of the run"));
        append(place.store(), &run, batch(STREAMS[chunk as usize % 3], bodies)).await;
    }
    append(place.store(), &key("short"), batch("out", ["x"])).await;
    place.flush().await;
    let stats = place.store().stats().disk;
    assert!(0 < stats.run_segment_bytes && 0 < stats.pack_bytes, "{stats:?}");
    let demand = async |place: &Place| {
        let records = read_run(place.store(), &run).await;
        assert_eq!(records.len(), 200_001);
        for (n, record) in records[1..].iter().enumerate() {
            assert_eq!(record.data, format!("record number {n} of the run"));
        }
        let query = Query::stream(run.clone(), STREAMS[1]);
        let from = query.from(Start::Index(Index(66_999)));
        let found = read_all(place.store(), from).await.expect("records");
        assert!(found.is_empty() || found[0].index == 66_999);
        let query = Query::stream(run.clone(), STREAMS[1]).from(Start::Index(Index(40_500)));
        let page = place.store().read(query).await.expect("page");
        assert_eq!(
            page.records.decode().expect("records")[0].data,
            "record number 121500 of the run"
        );
    };
    demand(&place).await;
    place.reopen().await;
    demand(&place).await;
    until("the run is still listed", async || list_count(place.store()).await == 2).await;
}

async fn list_count(store: &Store) -> usize {
    super::place::list(store, braidlog::ListRuns::default()).await.len()
}
