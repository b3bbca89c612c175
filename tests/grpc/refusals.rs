//! Every bad input is refused with its reason and values, and leaves everything as it was.

use braidlog::{
    Append, Bounds, Close, CloseStream, Create, Cursor, Error, IfAbsent, Index, ListRuns,
    NewRecord, Outcome, Producer, Query, Refusal, RunInfo, RunKey, RunUid, Seq, Start, StreamList,
    Trim, client::Client, proto,
};
use tonic::{Code, Status};

use crate::{
    raw::{self, reason},
    server::{Server, append, batch, refusal, run, write},
};

/// Runs in every state, and what they look like.
struct World {
    server: Server,
    client: Client,
    open: RunKey,
    done: RunKey,
    half: RunKey,
}

type Snapshot = (Vec<RunInfo>, Vec<StreamList>, u64);

fn producer(epoch: u64, seq: u64) -> Option<Producer> {
    Some(Producer { id: "worker".into(), epoch, seq })
}

impl World {
    /// `open` has five records in `out`, the last by producer `worker` in epoch 3, and is trimmed
    /// to index 2; `done` is closed; of `half`, the stream `out` is.
    async fn new() -> Self {
        let server = Server::start().await;
        let (open, done, half) = (RunKey::new("open"), RunKey::new("done"), RunKey::new("half"));
        let store = &server.store;
        write(store, &open, "out", &["a", "b", "c", "d"]).await;
        let last = Append { producer: producer(3, 0), ..batch("out", &["e"]) };
        append(store, &open, last).await;
        let trim = Trim { run_uid: None, stream: "out".into(), trim: Index(2) };
        store.trim(&open, trim).await.expect("trimmed");
        write(store, &done, "out", &["x"]).await;
        let close = Close { outcome: Outcome::Failed, ..Close::default() };
        store.close_run(&done, close).await.expect("closed");
        write(store, &half, "out", &["y", "z"]).await;
        let close = CloseStream { run_uid: None, stream: "out".into() };
        store.close_stream(&half, close).await.expect("closed");
        Self { client: server.client(), server, open, done, half }
    }

    async fn snapshot(&self) -> Snapshot {
        let runs = self.server.store.list_runs(&ListRuns::default()).await.expect("listed").runs;
        let mut streams = Vec::new();
        for run in &runs {
            let run = RunKey::new(run.run_id.clone());
            streams.push(self.server.store.list_streams(&run, None).await.expect("listed"));
        }
        (runs, streams, self.server.store.stats().frames)
    }

    async fn append(&self, run: &RunKey, append: Append) -> Refusal {
        refusal(self.client.append(run, append, IfAbsent::Refuse).await)
    }

    async fn read(&self, query: Query) -> Refusal {
        let page = refusal(self.client.read(query.clone()).await);
        // A tail begins where a page does.
        assert_eq!(refusal(self.client.tail(query).await.map(|_| ())), page);
        page
    }

    fn query(&self) -> Query {
        Query::stream(self.open.clone(), "out")
    }

    async fn uid(&self, run: &RunKey) -> RunUid {
        self.server.store.get_run(run).await.expect("run").run_uid
    }
}

fn invalid(field: &'static str, problem: &'static str) -> Refusal {
    Refusal::Invalid { field: field.into(), problem: problem.into() }
}

fn too_large(what: &'static str, size: u64, limit: u64) -> Refusal {
    Refusal::TooLarge { what: what.into(), size, limit }
}

#[test]
fn a_refused_append_says_why_and_changes_nothing() {
    run(async {
        let world = World::new().await;
        let before = world.snapshot().await;
        let (open, ok) = (&world.open, || batch("out", &["no"]));

        let missing = world.append(&RunKey::new("missing"), ok()).await;
        assert_eq!(missing, Refusal::RunNotFound);
        let other = Append { run_uid: Some(RunUid([7; 16])), ..ok() };
        let run_uid = world.uid(open).await;
        assert_eq!(world.append(open, other).await, Refusal::RunReplaced { run_uid });
        let late = Append { expected_seq: Some(Seq(5)), ..ok() };
        assert_eq!(world.append(open, late).await, Refusal::SeqMismatch { tail: Seq(6) });
        let early = Append { expected_index: Some(Index(6)), ..ok() };
        assert_eq!(world.append(open, early).await, Refusal::IndexMismatch { tail: Index(5) });
        let first = Append { expected_index: Some(Index(1)), ..batch("new", &["no"]) };
        assert_eq!(world.append(open, first).await, Refusal::IndexMismatch { tail: Index(0) });

        let numbered = |epoch, seq| Append { producer: producer(epoch, seq), ..ok() };
        let stale = world.append(open, numbered(2, 0)).await;
        assert_eq!(stale, Refusal::StaleEpoch { current: 3 });
        assert_eq!(world.append(open, numbered(3, 0)).await, Refusal::DedupMismatch);
        let gap = world.append(open, numbered(3, 4)).await;
        assert_eq!(gap, Refusal::ProducerGap { expected: 1 });
        assert_eq!(world.append(open, numbered(4, 1)).await, Refusal::BadEpochStart);

        let closed = |outcome, final_seq, index| Refusal::Closed {
            outcome,
            final_seq: Seq(final_seq),
            final_index: Some(Index(index)),
        };
        let done = world.append(&world.done, ok()).await;
        assert_eq!(done, closed(Some(Outcome::Failed), 3, 1));
        assert_eq!(world.append(&world.half, ok()).await, closed(None, 4, 2));
        assert_eq!(world.snapshot().await, before);
    });
}

#[test]
fn names_and_sizes_are_refused_before_anything_is_looked_at() {
    run(async {
        let world = World::new().await;
        let before = world.snapshot().await;
        let open = &world.open;
        let stream = |stream: &str| batch(stream, &["no"]);

        let long = "n".repeat(513);
        let problem = "has 513 bytes, 512 at most are allowed";
        assert_eq!(world.append(open, stream(&long)).await, invalid("stream", problem));
        let control = invalid("stream", "holds a control character at byte 1");
        assert_eq!(world.append(open, stream("a\u{7}")).await, control);
        let reserved = invalid("stream", "starts with `$`, which is reserved");
        assert_eq!(world.append(open, stream("$run")).await, reserved);
        assert_eq!(world.append(open, stream("")).await, invalid("stream", "is empty"));
        let bare = Producer { id: "".into(), epoch: 0, seq: 0 };
        let bare = Append { producer: Some(bare), ..stream("out") };
        assert_eq!(world.append(open, bare).await, invalid("producer.id", "is empty"));

        let empty = invalid("records", "is empty: an append has at least one record");
        assert_eq!(world.append(open, batch("out", &[])).await, empty);
        let many = vec!["x"; 1_001];
        let many = world.append(open, batch("out", &many)).await;
        assert_eq!(many, too_large("append (records)", 1_001, 1_000));
        let sized = |sizes: &[usize]| Append {
            records: sizes.iter().map(|&size| NewRecord::new(vec![b'x'; size])).collect(),
            ..stream("out")
        };
        let record = world.append(open, sized(&[(1 << 20) + 1])).await;
        let what = "record (bytes of data and headers)";
        assert_eq!(record, too_large(what, (1 << 20) + 1, 1 << 20));
        let whole = world.append(open, sized(&[600 << 10, 600 << 10])).await;
        let what = "append (bytes of data and headers)";
        assert_eq!(whole, too_large(what, 1_200 << 10, 1 << 20));

        let create = |run_id: &str, task: &str| Create {
            namespace: open.namespace.clone(),
            run_id: run_id.into(),
            task: task.into(),
            ..Create::default()
        };
        for (run_id, problem) in [
            ("", "is empty"),
            ("$keys", "starts with `$`, which is reserved"),
            ("a\nb", "holds a control character at byte 1"),
            (&long, "has 513 bytes, 512 at most are allowed"),
        ] {
            let created = refusal(world.client.create_run(create(run_id, "")).await);
            assert_eq!(created, invalid("run_id", problem));
        }
        let other = refusal(world.client.create_run(create("open", "other")).await);
        assert_eq!(other, Refusal::RunExists);
        assert_eq!(world.snapshot().await, before);
    });
}

#[test]
fn a_record_of_the_largest_size_is_taken() {
    run(async {
        let world = World::new().await;
        let body = vec![b'x'; 1 << 20];
        let append = Append { records: vec![NewRecord::new(body)], ..batch("big", &[]) };
        let appended = world.client.append(&world.open, append, IfAbsent::Refuse).await;
        assert_eq!(appended.expect("appended").first_index, Index(0));
        let page = world.client.read(Query::stream(world.open.clone(), "big")).await.expect("page");
        assert_eq!(page.records.decode().expect("records")[0].data.len(), 1 << 20);
    });
}

#[test]
fn closing_and_trimming_are_refused_with_what_holds() {
    run(async {
        let world = World::new().await;
        let before = world.snapshot().await;
        let (client, open) = (&world.client, &world.open);

        let close = |outcome| Close { outcome, ..Close::default() };
        let unsaid = refusal(client.close_run(open, close(Outcome::Unspecified)).await);
        assert_eq!(unsaid, invalid("outcome", "is missing: say how the run ended"));
        let again = refusal(client.close_run(&world.done, close(Outcome::Completed)).await);
        let (outcome, final_seq) = (Some(Outcome::Failed), Seq(3));
        assert_eq!(again, Refusal::Closed { outcome, final_seq, final_index: None });
        let expected = Close { expected_seq: Some(Seq(1)), ..close(Outcome::Completed) };
        let late = refusal(client.close_run(open, expected).await);
        assert_eq!(late, Refusal::SeqMismatch { tail: Seq(6) });
        let output = Close { output: vec![0; (1 << 20) + 1].into(), ..close(Outcome::Completed) };
        let large = refusal(client.close_run(open, output).await);
        assert_eq!(large, too_large("output (bytes)", (1 << 20) + 1, 1 << 20));

        let stream = |stream: &str| CloseStream { run_uid: None, stream: stream.into() };
        let missing = refusal(client.close_stream(open, stream("missing")).await);
        assert_eq!(missing, Refusal::StreamNotFound);
        let run = refusal(client.close_stream(open, stream("$run")).await);
        assert_eq!(run, invalid("stream", "starts with `$`, which is reserved"));
        let trim = |trim| Trim { run_uid: None, stream: "out".into(), trim: Index(trim) };
        let beyond = refusal(client.trim(open, trim(6)).await);
        assert_eq!(beyond, Refusal::BeyondTail { tail: 5 });
        assert_eq!(world.snapshot().await, before);
    });
}

#[test]
fn a_start_that_cannot_be_served_is_refused_with_where_to_start_instead() {
    run(async {
        let world = World::new().await;
        let before = world.snapshot().await;
        let query = || world.query();
        let whole = || Query::run(world.open.clone());

        let missing = refusal(world.client.tail(Query::run(RunKey::new("no"))).await.map(|_| ()));
        assert_eq!(missing, Refusal::RunNotFound);
        let nothing = Query::stream(world.open.clone(), "nothing");
        assert_eq!(refusal(world.client.read(nothing).await), Refusal::StreamNotFound);
        let replaced = Query { run_uid: Some(RunUid([1; 16])), ..whole() };
        let run_uid = world.uid(&world.open).await;
        assert_eq!(world.read(replaced).await, Refusal::RunReplaced { run_uid });

        let index = |index| query().from(Start::Index(Index(index)));
        assert_eq!(world.read(index(6)).await, Refusal::BeyondTail { tail: 5 });
        let seq = whole().from(Start::Seq(Seq(7)));
        assert_eq!(world.read(seq).await, Refusal::BeyondTail { tail: 6 });
        let (first_seq, first_index) = (Seq(3), Some(Index(2)));
        let trimmed = Refusal::Trimmed { first_seq, first_index };
        assert_eq!(world.read(index(1)).await, trimmed);
        let one = whole().from(Start::Index(Index(3)));
        assert_eq!(world.read(one).await, invalid("start.index", "needs exactly one stream"));
        let bounds = Bounds { until_index: Some(Index(3)), ..Bounds::default() };
        let until = world.read(Query { bounds, ..whole() }).await;
        assert_eq!(until, invalid("bounds.until_index", "needs exactly one stream"));
        let clamped = Query { clamp: true, ..index(6) };
        assert!(world.client.read(clamped).await.expect("page").records.is_empty());
        assert_eq!(world.snapshot().await, before);
    });
}

#[test]
fn a_cursor_that_does_not_fit_is_refused_and_never_skips() {
    run(async {
        let world = World::new().await;
        let whole = || Query::run(world.open.clone());
        let cursor = |cursor: &str| whole().from(Start::Cursor(cursor.into()));

        assert_eq!(world.read(cursor("nonsense")).await, Refusal::BadCursor);
        let older = Query { older_cursors: vec!["nonsense".into()], ..cursor("nonsense") };
        assert_eq!(world.read(older).await, Refusal::BadCursor);

        let page = world.client.read(Query { allow_gap: true, ..whole() }).await.expect("page");
        let good = page.cursor;
        let foreign = Query::run(world.done.clone()).from(Start::Cursor(good.to_string()));
        let run_uid = world.uid(&world.done).await;
        assert_eq!(world.read(foreign).await, Refusal::RunReplaced { run_uid });

        // Made by a store that had another history: same run and place, other chain.
        let chain = braidlog::format::frame::Chain(good.chain.0 ^ 1);
        let other = Cursor { chain, ..good }.to_string();
        let changed =
            |common_seq| Refusal::HistoryChanged { common_seq, trim: Seq::ZERO, tail: Seq(6) };
        assert_eq!(world.read(cursor(&other)).await, changed(None));
        let older = vec![other.clone(), good.to_string()];
        let older = Query { older_cursors: older, ..cursor(&other) };
        assert_eq!(world.read(older).await, changed(Some(good.seq)));
    });
}

#[test]
fn the_number_of_streams_is_limited() {
    run(async {
        let world = World::new().await;
        for n in 0..254 {
            append(&world.server.store, &world.open, batch(&format!("s{n}"), &["x"])).await;
        }
        let before = world.snapshot().await;
        let limit = world.append(&world.open, batch("one more", &["no"])).await;
        assert_eq!(limit, Refusal::Limit { which: "streams per run".into(), limit: 256 });
        assert_eq!(world.snapshot().await, before);
    });
}

fn invalid_field(status: &Status) -> (Code, String) {
    let (code, reason, values) = reason(status);
    assert_eq!(reason, "INVALID", "{status:?}");
    (code, values["field"].clone())
}

#[test]
fn a_malformed_request_is_refused_for_its_shape() {
    run(async {
        let world = World::new().await;
        let before = world.snapshot().await;
        let channel = raw::connect(&world.server.url()).await;
        let run_id = || "open".to_owned();

        let request = proto::TrimRequest {
            run_id: run_id(),
            run_uid: vec![1; 3].into(),
            ..Default::default()
        };
        let status = raw::unary::<_, ()>(&channel, "StreamService/Trim", request).await;
        let invalid = |field: &str| (Code::InvalidArgument, field.to_owned());
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("run_uid"));

        let request =
            proto::CloseRunRequest { run_id: run_id(), outcome: 99, ..Default::default() };
        let status = raw::unary::<_, ()>(&channel, "RunService/CloseRun", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("outcome"));

        let request = proto::ListRunsRequest { page_token: "open".into(), ..Default::default() };
        let status = raw::unary::<_, ()>(&channel, "RunService/ListRuns", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("page_token"));
        let request = proto::ListRunsRequest { page_size: 1_001, ..Default::default() };
        let status = raw::unary::<_, ()>(&channel, "RunService/ListRuns", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("page_size"));

        for statuses in [vec![0], vec![5, 99]] {
            let request = proto::ListRunsRequest { statuses, ..Default::default() };
            let status = raw::unary::<_, ()>(&channel, "RunService/ListRuns", request).await;
            assert_eq!(invalid_field(&status.expect_err("refused")), invalid("statuses"));
        }
        let retention = Some(proto::Retention { at_limit: 9, ..Default::default() });
        let request = proto::CreateRunRequest { run_id: run_id(), retention, ..Default::default() };
        let status = raw::unary::<_, ()>(&channel, "RunService/CreateRun", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("retention.at_limit"));
        let request = proto::DeleteRunRequest { run_id: run_id(), run_uid: vec![1; 17].into() };
        let status = raw::unary::<_, ()>(&channel, "RunService/DeleteRun", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("run_uid"));

        let start = proto::start::Start::Tail(false);
        let start = Some(proto::Start { start: Some(start), ..Default::default() });
        let request = proto::ReadRequest { run_id: run_id(), start, ..Default::default() };
        let status = raw::unary::<_, ()>(&channel, "StreamService/Read", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("start.tail"));

        let request =
            proto::TailRequest { run_id: run_id(), heartbeat_ms: 99, ..Default::default() };
        let tail = raw::server_streaming::<_, ()>(&channel, "StreamService/Tail", request).await;
        assert_eq!(invalid_field(&tail.expect_err("refused")), invalid("heartbeat_ms"));

        // A number where the protocol has a message.
        let request = proto::Heartbeat { tail: 7, time_ms: 0 };
        let status = raw::unary::<_, ()>(&channel, "StreamService/Append", request).await;
        assert_eq!(invalid_field(&status.expect_err("refused")), invalid("request"));
        let status = raw::unary::<_, ()>(&channel, "StreamService/Nothing", ()).await;
        assert_eq!(status.expect_err("refused").code(), Code::Unimplemented);
        assert_eq!(world.snapshot().await, before);
    });
}

#[test]
fn a_huge_request_is_refused_with_the_limit() {
    run(async {
        let world = World::new().await;
        let before = world.snapshot().await;
        let records = vec![NewRecord::new(vec![0; 9 << 20])];
        let huge = Append { records, ..batch("out", &[]) };
        match world.append(&world.open, huge).await {
            Refusal::TooLarge { what, size, limit } => {
                assert_eq!((&*what, limit), ("request (bytes)", 8 << 20));
                assert!(9 << 20 < size, "{size}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(world.snapshot().await, before);
    });
}

#[test]
fn what_the_protocol_cannot_say_is_refused_by_the_client() {
    run(async {
        let world = World::new().await;
        let bounds = Bounds { records: Some(0), ..Bounds::default() };
        let zero = refusal(world.client.read(Query { bounds, ..world.query() }).await);
        assert_eq!(zero, invalid("bounds.records", "is zero: leave it out for no bound"));
        let foreign = RunKey { namespace: "other".into(), run_id: "open".into() };
        let foreign = refusal(world.client.get_run(&foreign).await);
        let problem = "comes from the credential: leave the default";
        assert_eq!(foreign, invalid("namespace", problem));
        let url = Client::new("not a url").map(|_| ()).expect_err("refused");
        assert!(matches!(url, Error::Refused(Refusal::Invalid { .. })), "{url:?}");
    });
}
