//! Appending, reading and following, most of it in memory; and how a store is opened and closed.

use std::sync::Arc;

use braidlog::{
    Append, Bounds, Close, CloseStream, Create, End, Error, IfAbsent, Index, ListRuns, NewRecord,
    OpenError, Options, Outcome, Producer, Query, Record, Records, Refusal, RunKey, Seq, Start,
    Store, Tail, TailItem, Trim,
};
use tempfile::TempDir;

fn small(folder: &TempDir) -> Options {
    let mut options = Options::new(folder.path().join("data"));
    options.slot_bytes_first = 2 << 20;
    options.slot_bytes = 2 << 20;
    options.manifest_bytes = 32 << 10;
    options
}

fn open(folder: &TempDir) -> Store {
    Store::open(small(folder)).expect("opens")
}

fn append(stream: &str, bodies: &[&str]) -> Append {
    Append {
        stream: stream.into(),
        records: bodies.iter().map(|body| NewRecord::new(body.to_string())).collect(),
        ..Append::default()
    }
}

fn bodies(records: &Records) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.data.to_vec()).expect("text");
    records.decode().expect("records").iter().map(text).collect()
}

async fn write(store: &Store, run: &RunKey, stream: &str, lines: std::ops::Range<u32>) {
    for n in lines {
        let line = n.to_string();
        store.append(run, append(stream, &[&line]), IfAbsent::Create).await.expect("appended");
    }
}

/// Items up to the tail or the end.
async fn drain(tail: &mut Tail) -> (Vec<String>, Option<End>) {
    let mut lines = Vec::new();
    loop {
        match tail.next().await.expect("item") {
            TailItem::Records(records, _) => lines.extend(bodies(&records)),
            TailItem::CaughtUp(_) => return (lines, None),
            TailItem::End(end, _) => return (lines, Some(end)),
            TailItem::Streams(_) | TailItem::Gap(..) => {}
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_read_back_after_reopening() {
    let folder = TempDir::new().expect("folder");
    let run = RunKey::new("run_1");
    let store = open(&folder);
    write(&store, &run, "out", 0..100).await;
    store.close().await.expect("closed");
    drop(store);

    let store = open(&folder);
    assert!(store.opened().recovered.clean);
    let page = store.read(Query::stream(run.clone(), "out")).await.expect("page");
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&page.records), expected);
    assert_eq!(page.tail, Seq(101));
    write(&store, &run, "out", 100..110).await;
    let page = store.read(Query::stream(run, "out").from(Start::Index(Index(95)))).await;
    assert_eq!(bodies(&page.expect("page").records).len(), 15);
}

#[tokio::test]
async fn a_tail_sees_history_then_what_comes_and_ends_only_when_the_run_is_closed() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    write(&store, &run, "out", 0..10).await;
    let mut tail = store.tail(Query::stream(run.clone(), "out")).await.expect("tail");
    assert_eq!(drain(&mut tail).await.0.len(), 10);
    assert!(matches!(tail.try_next(), Ok(None)), "an open run has no end");

    let follower = tokio::spawn(async move { drain(&mut tail).await });
    write(&store, &run, "out", 10..20).await;
    let close = Close { outcome: Outcome::Completed, ..Close::default() };
    store.close_run(&run, close).await.expect("closed");
    let (lines, end) = follower.await.expect("follower");
    assert_eq!(lines.len(), 10);
    assert_eq!(end, Some(End::Closed(Some(Outcome::Completed))));
}

#[tokio::test]
async fn a_reader_behind_the_ring_reads_the_same_from_disk() {
    let folder = TempDir::new().expect("folder");
    let mut options = small(&folder);
    options.ring_bytes = 0;
    let store = Store::open(options).expect("opens");
    let run = RunKey::new("run_1");
    // Zeros, so that blocks are masked; and enough to change slots.
    for n in 0..64u32 {
        let mut record = n.to_le_bytes().to_vec();
        record.resize(100_000, 0);
        let append = Append {
            stream: "out".into(),
            records: vec![NewRecord::new(record)],
            ..Append::default()
        };
        store.append(&run, append, IfAbsent::Create).await.expect("appended");
    }
    let check = async |store: &Store| {
        let query = Query { stop_at_tail: true, ..Query::stream(run.clone(), "out") };
        let mut tail = store.tail(query).await.expect("tail");
        let mut seen = 0u32;
        loop {
            match tail.next().await.expect("item") {
                TailItem::Records(records, _) => {
                    for record in records.decode().expect("records") {
                        assert_eq!(record.data[..4], seen.to_le_bytes());
                        assert_eq!(record.data.len(), 100_000);
                        seen += 1;
                    }
                }
                TailItem::End(end, _) => break assert_eq!(end, End::Limit),
                _ => {}
            }
        }
        assert_eq!(seen, 64);
    };
    check(&store).await;
    assert_eq!(store.stats().frame_cache.used_bytes, 0);
    assert!(64 <= store.stats().disk_reads);
    drop(store);
    check(&open(&folder)).await;
}

#[tokio::test]
async fn a_whole_run_is_read_in_the_order_of_its_appends_with_one_cursor() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    for n in 0..30u32 {
        let stream = ["a", "b", "c"][n as usize % 3];
        let line = n.to_string();
        store.append(&run, append(stream, &[&line]), IfAbsent::Create).await.expect("appended");
    }
    let mut query = Query::run(run.clone());
    let mut seen = Vec::new();
    // Page by page, each continuing at the cursor of the one before.
    loop {
        query.bounds = Bounds { records: Some(7), ..Bounds::default() };
        let page = store.read(query.clone()).await.expect("page");
        if page.records.is_empty() {
            break;
        }
        seen.extend(page.records.decode().expect("records").into_iter().map(|record| record.seq));
        query.start = Start::Cursor(page.cursor.to_string());
    }
    assert_eq!(seen, (0..31).collect::<Vec<u64>>(), "the creation and thirty records");

    let two = Query { streams: vec!["a".into(), "c".into()], ..Query::run(run) };
    let page = store.read(two).await.expect("page");
    let expected: Vec<String> =
        (0..30).filter(|n| n % 3 != 1).map(|n: u32| n.to_string()).collect();
    assert_eq!(bodies(&page.records), expected);
}

#[tokio::test]
async fn every_start_begins_where_it_says() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    store.append(&run, append("out", &["0", "1", "2"]), IfAbsent::Create).await.expect("appended");
    store.append(&run, append("other", &["x"]), IfAbsent::Create).await.expect("appended");
    store.append(&run, append("out", &["3", "4"]), IfAbsent::Create).await.expect("appended");
    let from = async |start: Start| {
        let query = Query::stream(run.clone(), "out").from(start);
        store.read(query).await.map(|page| bodies(&page.records).concat())
    };
    assert_eq!(from(Start::Beginning).await.expect("page"), "01234");
    for index in 0..=5u64 {
        assert_eq!(
            from(Start::Index(Index(index))).await.expect("page"),
            "01234"[index as usize..]
        );
    }
    for (seq, rest) in [(0, "01234"), (2, "1234"), (4, "34"), (5, "34"), (6, "4"), (7, "")] {
        assert_eq!(from(Start::Seq(Seq(seq))).await.expect("page"), rest, "seq {seq}");
    }
    for (count, rest) in [(0, ""), (1, "4"), (3, "234"), (9, "01234")] {
        assert_eq!(from(Start::Last(count)).await.expect("page"), rest, "last {count}");
    }
    assert_eq!(from(Start::Tail).await.expect("page"), "");
    for (start, tail) in [(Start::Index(Index(6)), 5), (Start::Seq(Seq(8)), 7)] {
        let refused = from(start.clone()).await;
        assert!(
            matches!(refused, Err(Error::Refused(Refusal::BeyondTail { tail: found })) if found == tail),
            "{start:?}"
        );
    }
}

#[tokio::test]
async fn a_reader_stops_at_its_bounds_and_never_beyond() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    store.append(&run, append("out", &["0", "1", "2"]), IfAbsent::Create).await.expect("appended");
    store.append(&run, append("other", &["x"]), IfAbsent::Create).await.expect("appended");
    write(&store, &run, "out", 3..10).await;
    let none = Bounds::default();
    let read = async |start: Start, bounds: Bounds| {
        let query = Query { bounds, ..Query::stream(run.clone(), "out").from(start) };
        let mut tail = store.tail(query).await.expect("tail");
        let (lines, end) = drain(&mut tail).await;
        (lines.concat(), end)
    };
    for (start, until, expected) in [
        (0, 0, ""),
        (0, 1, "0"),
        (0, 5, "01234"),
        (5, 3, ""),
        (5, 5, ""),
        (5, 6, "5"),
        (10, 10, ""),
    ] {
        let bounds = Bounds { until_index: Some(Index(until)), ..none };
        let found = read(Start::Index(Index(start)), bounds).await;
        assert_eq!(found, (expected.into(), Some(End::Limit)), "index {start}..{until}");
    }
    let beyond = Bounds { until_index: Some(Index(11)), ..none };
    assert_eq!(read(Start::Index(Index(9)), beyond).await, ("9".into(), None), "waits for one");
    let at_tail = Bounds { until_index: Some(Index(10)), ..none };
    assert_eq!(read(Start::Tail, at_tail).await, (String::new(), Some(End::Limit)));
    for (bounds, expected) in [
        (Bounds { records: Some(0), ..none }, ""),
        (Bounds { records: Some(4), ..none }, "0123"),
        (Bounds { bytes: Some(0), ..none }, ""),
        (Bounds { bytes: Some(1), ..none }, "0"),
        (Bounds { until_seq: Some(Seq(0)), ..none }, ""),
        (Bounds { until_seq: Some(Seq(3)), ..none }, "01"),
        (Bounds { until_seq: Some(Seq(6)), ..none }, "0123"),
    ] {
        let found = read(Start::Beginning, bounds).await;
        assert_eq!(found, (expected.into(), Some(End::Limit)), "{bounds:?}");
    }
}

#[tokio::test]
async fn trimmed_records_are_refused_or_shown_as_a_gap() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    write(&store, &run, "out", 0..10).await;
    let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(4) };
    assert_eq!(store.trim(&run, trim).await.expect("trimmed"), Index(4));
    let query = Query::stream(run.clone(), "out");
    let check = async |store: &Store| {
        let refused = store.read(query.clone().from(Start::Index(Index(3)))).await;
        let Err(Error::Refused(Refusal::Trimmed { first_seq, first_index })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((first_seq, first_index), (Seq(5), Some(Index(4))));
        let page = store.read(query.clone().from(Start::Index(Index(4)))).await.expect("page");
        assert_eq!(bodies(&page.records).len(), 6);
        let page = store.read(Query { allow_gap: true, ..query.clone() }).await.expect("page");
        assert_eq!(bodies(&page.records).len(), 6);
        assert_eq!(page.gaps.len(), 1);
        assert_eq!((page.gaps[0].from, page.gaps[0].to), (Index(0), Index(4)));
        let page = store.read(Query::run(run.clone())).await.expect("page");
        assert_eq!((page.records.count, page.gaps.len()), (7, 1));
    };
    check(&store).await;
    check(&reopened(store, &folder).await).await;
}

async fn reopened(store: Store, folder: &TempDir) -> Store {
    store.close().await.expect("closed");
    drop(store);
    open(folder)
}

#[tokio::test]
async fn a_cursor_of_another_history_is_refused() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    write(&store, &run, "out", 0..10).await;
    let tail = store.check_tail(&run, None, Some("out")).await.expect("tail");
    let resume = async |cursor: String| {
        store.read(Query::stream(run.clone(), "out").from(Start::Cursor(cursor))).await
    };
    assert!(resume(tail.cursor.to_string()).await.expect("page").records.is_empty());

    let mut wrong_chain = tail.cursor;
    wrong_chain.chain.0 ^= 1;
    let mut ahead = tail.cursor;
    ahead.seq = Seq(99);
    for cursor in [wrong_chain, ahead] {
        let refused = resume(cursor.to_string()).await;
        assert!(matches!(refused, Err(Error::Refused(Refusal::HistoryChanged { .. }))));
    }
    let mut other_run = tail.cursor;
    other_run.run_uid.0[0] ^= 1;
    let refused = resume(other_run.to_string()).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::RunReplaced { .. }))));
    assert!(matches!(resume("x".into()).await, Err(Error::Refused(Refusal::BadCursor))));
}

#[tokio::test]
async fn a_retried_append_is_answered_as_the_first_time_also_after_reopening() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    let producer = Producer { id: Arc::from("p"), epoch: 0, seq: 0 };
    let once = Append { producer: Some(producer), ..append("out", &["a", "b"]) };
    let first = store.append(&run, once.clone(), IfAbsent::Create).await.expect("appended");
    let again = store.append(&run, once.clone(), IfAbsent::Create).await.expect("appended");
    assert!(again.deduplicated);
    assert_eq!(again.first_seq, first.first_seq);
    let store = reopened(store, &folder).await;
    let again = store.append(&run, once, IfAbsent::Create).await.expect("appended");
    assert!(again.deduplicated);
    assert_eq!(again.first_index, first.first_index);
    let tail = store.check_tail(&run, None, None).await.expect("tail");
    assert_eq!(tail.tail, Seq(3));
}

#[tokio::test]
async fn a_refused_append_creates_no_run() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    let refused = Append { expected_index: Some(Index(5)), ..append("out", &["a"]) };
    let refused = store.append(&run, refused, IfAbsent::Create).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::IndexMismatch { .. }))));
    assert!(matches!(store.get_run(&run).await, Err(Error::Refused(Refusal::RunNotFound))));
}

#[tokio::test]
async fn many_writers_share_commits() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                write(&store, &RunKey::new(format!("run_{n:02}")), "out", 0..50).await;
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writer");
    }
    let stats = store.stats();
    assert_eq!(stats.records, 64 * 51);
    assert!(stats.commits < stats.frames / 2, "{stats:?}");

    let mut list = ListRuns { page_size: 10, ..ListRuns::default() };
    let mut seen = Vec::new();
    loop {
        let page = store.list_runs(&list).await.expect("page");
        seen.extend(page.runs.iter().map(|run| run.run_id.to_string()));
        match page.next {
            Some(next) => list.after = Some(next),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, (0..64).map(|n| format!("run_{n:02}")).collect::<Vec<_>>());
    list = ListRuns { prefix: "run_1".into(), after: None, page_size: 1_000, ..list };
    assert_eq!(store.list_runs(&list).await.expect("page").runs.len(), 10);
}

#[tokio::test]
async fn a_stream_that_does_not_exist_yet_is_waited_for() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    let create = Create {
        namespace: "default".into(),
        run_id: run.run_id.clone(),
        task: "t".into(),
        ..Create::default()
    };
    assert!(store.create_run(create.clone()).await.expect("created").created);
    assert!(!store.create_run(create.clone()).await.expect("created").created);
    let other = Create { task: "u".into(), ..create };
    assert!(matches!(store.create_run(other).await, Err(Error::Refused(Refusal::RunExists))));

    let query = Query::stream(run.clone(), "late");
    assert!(matches!(
        store.read(query.clone()).await,
        Err(Error::Refused(Refusal::StreamNotFound))
    ));
    let mut tail = store.tail(query).await.expect("tail");
    assert_eq!(drain(&mut tail).await, (vec![], None));
    write(&store, &run, "other", 0..3).await;
    write(&store, &run, "late", 0..3).await;
    let close = CloseStream { run_uid: None, stream: "late".into() };
    assert_eq!(store.close_stream(&run, close).await.expect("closed").final_index, Index(3));
    let (lines, end) = drain(&mut tail).await;
    assert_eq!((lines.len(), end), (3, Some(End::Closed(None))));
}

#[tokio::test]
async fn closing_ends_readers_without_an_end_and_refuses_writers() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    write(&store, &run, "out", 0..3).await;
    let mut tail = store.tail(Query::run(run.clone())).await.expect("tail");
    drain(&mut tail).await;
    let follower = tokio::spawn(async move { tail.next().await });
    store.close().await.expect("closed");
    assert!(matches!(follower.await.expect("follower"), Err(Error::ShuttingDown)));
    let refused = store.append(&run, append("out", &["x"]), IfAbsent::Create).await;
    assert!(matches!(refused, Err(Error::ShuttingDown)));
    store.close().await.expect("closed again");
}

#[test]
fn two_processes_never_share_a_directory() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    assert!(matches!(Store::open(small(&folder)), Err(OpenError::Locked { .. })));
    drop(store);
    open(&folder);
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let folder = TempDir::new().expect("folder");
    let file = folder.path().join("thesis.txt");
    #[allow(clippy::disallowed_methods, reason = "a stranger's file")]
    std::fs::write(&file, "precious").expect("written");
    let refused = Store::open(Options::new(folder.path()));
    assert!(matches!(refused, Err(OpenError::NotAStore { .. })));
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let folder = TempDir::new().expect("folder");
    for spoil in [
        |options: &mut Options| options.slot_bytes = 100_000,
        |options: &mut Options| options.slot_bytes_first = 4_096,
        |options: &mut Options| options.manifest_bytes = 1,
        |options: &mut Options| options.ingest_bytes = 1,
        |options: &mut Options| options.read_threads = 0,
    ] {
        let mut options = small(&folder);
        spoil(&mut options);
        assert!(matches!(Store::open(options), Err(OpenError::Options { .. })));
    }
}

#[tokio::test]
async fn what_is_trimmed_gives_its_space_back_and_is_told_as_one_gap() {
    let folder = TempDir::new().expect("folder");
    let store = open(&folder);
    let run = RunKey::new("run_1");
    let append = |n: u32| Append {
        stream: if n.is_multiple_of(4) { "other".into() } else { "out".into() },
        records: vec![NewRecord::new([&n.to_le_bytes()[..], &[7; 1_000]].concat())],
        ..Append::default()
    };
    for n in 0..400 {
        store.append(&run, append(n), IfAbsent::Create).await.expect("appended");
    }
    let bounds = Bounds { records: Some(50), ..Bounds::default() };
    let middle = Query { bounds, ..Query::run(run.clone()).from(Start::Seq(Seq(100))) };
    let before = store.read(middle).await.expect("page");
    store.flush().await.expect("flushed");
    let packed = store.stats().disk.live_bytes;
    for (stream, trim) in [("out", 280), ("other", 90)] {
        let trim = Trim { run_uid: None, stream: stream.into(), trim: Index(trim) };
        store.trim(&run, trim).await.expect("trimmed");
    }
    store.flush().await.expect("flushed");
    let stats = store.stats();
    assert!(stats.disk.live_bytes * 4 < packed * 3, "{packed} before, now {:?}", stats.disk);

    let check = async |store: &Store| {
        let query = Query { stop_at_tail: true, allow_gap: true, ..Query::run(run.clone()) };
        let mut tail = store.tail(query).await.expect("tail");
        let (mut gaps, mut seqs) = (Vec::new(), Vec::new());
        loop {
            match tail.next().await.expect("item") {
                TailItem::Gap(gap, _) => gaps.push((gap.stream.0, gap.from.0, gap.to.0)),
                TailItem::Records(records, _) => {
                    seqs.extend(records.decode().expect("records").iter().map(|record| record.seq));
                }
                TailItem::End(..) => break,
                _ => {}
            }
        }
        gaps.sort_unstable();
        assert_eq!(gaps, [(1, 0, 90), (2, 0, 280)]);
        assert_eq!(seqs.len(), 1 + 20 + 10, "the creation and what is kept");
        let query = Query { allow_gap: true, ..Query::stream(run.clone(), "out") };
        let page = store.read(query.from(Start::Index(Index(100)))).await.expect("page");
        assert_eq!((page.gaps.len(), page.records.count), (1, 20));
        assert_eq!((page.gaps[0].from, page.gaps[0].to), (Index(100), Index(280)));
        let query = Query { allow_gap: true, ..Query::run(run.clone()) };
        let cursor = before.cursor.to_string();
        let page = store.read(query.from(Start::Cursor(cursor))).await.expect("resumed in the gap");
        assert_eq!(page.records.count, 30);
    };
    check(&store).await;
    store.close().await.expect("closed");
    drop(store);
    check(&open(&folder)).await;
}

/// Stores that are closed while a flush runs beside.
const CLOSES: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_given_back_when_nobody_writes_to_it_any_more() {
    let folder = TempDir::new().expect("folder");
    let run = RunKey::new("run_1");
    // Handles are kept: a store is closed by `close`, not by the end of its last handle.
    let mut closed = Vec::new();
    for round in 0..CLOSES {
        let store = open(&folder);
        let big = append("out", &["x".repeat(20_000).as_str()]);
        store.append(&run, big, IfAbsent::Create).await.expect("appended");
        let flush = tokio::spawn({
            let store = store.clone();
            async move { store.flush().await }
        });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        store.close().await.expect("closed");
        let next = open(&folder);
        next.close().await.expect("closed");
        let flushed = flush.await.expect("a flush ends when the store does");
        assert!(matches!(flushed, Ok(()) | Err(Error::ShuttingDown)), "{flushed:?}");
        closed.extend([store, next]);
    }
    let store = open(&folder);
    let page = store.read(Query::stream(run, "out")).await.expect("page");
    assert_eq!(page.records.count as usize, CLOSES);
}
