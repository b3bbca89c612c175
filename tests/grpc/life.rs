//! The run's whole life over the wire: work is handed out, inputs are consumed, turns are atomic,
//! watches follow; and every refusal is provoked, with its reason and the values needed to act.

use std::{collections::HashMap, future::Future, pin::Pin};

use braidlog::proto::{self, *};
use prost::Message;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    raw::{connect, reason, server_streaming, unary},
    server::{Server, run},
};

/// A connection, and short words for what is asked over it.
#[derive(Clone)]
struct Wire(Channel);

impl Wire {
    async fn to(server: &Server) -> Self {
        Self(connect(&server.url()).await)
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        unary(&self.0, method, request).await
    }

    async fn create(&self, run: &str, spec: RunSpec) -> Run {
        let request = CreateRunRequest {
            run_id: run.into(),
            task: "work".into(),
            spec: Some(spec),
            ..CreateRunRequest::default()
        };
        let created: CreateRunResponse =
            self.call("RunService/CreateRun", request).await.expect("created");
        created.run.expect("a run")
    }

    async fn get(&self, run: &str) -> Run {
        let request = GetRunRequest { run_id: run.into(), at: None };
        let found: GetRunResponse = self.call("RunService/GetRun", request).await.expect("found");
        found.run.expect("a run")
    }

    async fn claim(&self, wait_ms: u64) -> Option<ClaimedRun> {
        let request = ClaimRunRequest {
            tasks: vec!["work".into()],
            worker: "worker".into(),
            term_ms: 60_000,
            wait_ms,
        };
        let answer: ClaimRunResponse =
            self.call("WorkService/ClaimRun", request).await.expect("claims");
        answer.claimed
    }

    async fn commit(&self, commit: CommitRequest) -> Result<CommitResponse, Status> {
        self.call("WorkService/Commit", commit).await
    }

    async fn send(&self, run: &str, id: &str, text: &str) -> Result<SendResponse, Status> {
        let request = SendRequest {
            run_id: run.into(),
            stream: "in".into(),
            data: text.to_owned().into(),
            message_id: id.into(),
            ..SendRequest::default()
        };
        self.call("InputService/Send", request).await
    }

    async fn close(&self, run: &str, outcome: Outcome) {
        let request = CloseRunRequest {
            run_id: run.into(),
            outcome: outcome.into(),
            ..CloseRunRequest::default()
        };
        let _: CloseRunResponse = self.call("RunService/CloseRun", request).await.expect("closed");
    }
}

fn of(run: &str, epoch: u64) -> CommitRequest {
    let lease_epoch = (0 < epoch).then_some(epoch);
    CommitRequest { run_id: run.into(), lease_epoch, ..CommitRequest::default() }
}

fn say(text: &str) -> CommitAppend {
    let record = AppendRecord { data: text.to_owned().into(), ..AppendRecord::default() };
    CommitAppend { stream: "out".into(), records: vec![record], expected_index: None }
}

fn acked(from: u64, to: u64) -> InputAck {
    let ranges = vec![IndexRange { from, to }];
    InputAck { stream: "in".into(), consumer: String::new(), ranges }
}

fn consumer(run: &str, epoch: u64) -> Option<InputConsumer> {
    let lease_epoch = (0 < epoch).then_some(epoch);
    let (run_id, stream) = (run.into(), "in".into());
    Some(InputConsumer { run_id, stream, lease_epoch, ..InputConsumer::default() })
}

fn set(key: &str, value: &str) -> MetadataOperation {
    MetadataOperation {
        action: MetadataAction::Set.into(),
        key: key.into(),
        value: value.to_owned().into(),
    }
}

async fn next<A>(stream: &mut Streaming<A>) -> A {
    stream.message().await.expect("a message").expect("more")
}

#[test]
fn a_run_goes_from_the_queue_through_turns_and_a_wait_to_its_end() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        let waiting = {
            let wire = wire.clone();
            tokio::spawn(async move { wire.claim(60_000).await })
        };
        let payload = RunSpec { payload: "question".into(), ..RunSpec::default() };
        wire.create("run", payload).await;
        let claimed = waiting.await.expect("task").expect("a run");
        assert_eq!((claimed.lease_epoch, claimed.attempt, claimed.resumed), (1, 1, false));
        assert_eq!(&*claimed.run.expect("a run").spec.expect("spec").payload, b"question");
        assert!(wire.claim(0).await.is_none());

        // One turn: output, metadata, a wait for an answer, and nobody has the run.
        let wait = WaitCreated {
            wait_id: "approval".into(),
            target: Some(wait_created::Target::Input(InputWait {
                stream: "in".into(),
                ..InputWait::default()
            })),
            deadline_ms: 0,
        };
        let suspend = Release { next: Some(release::Next::Suspend(true)), error: None };
        let turn = CommitRequest {
            request_id: "turn-1".into(),
            appends: vec![say("shall I?")],
            metadata: vec![set("step", "1")],
            tags: vec!["asked".into()],
            waits: vec![wait],
            then: Some(commit_request::Then::Release(suspend)),
            ..of("run", 1)
        };
        let first = wire.commit(turn.clone()).await.expect("committed");
        assert_eq!((first.status(), &*first.metadata), (RunStatus::Waiting, &b"{\"step\":1}"[..]));
        assert!(wire.claim(0).await.is_none(), "it waits");
        let again = wire.commit(turn.clone()).await.expect("known");
        assert!(again.deduplicated && again.first_seq == first.first_seq);
        let other = CommitRequest { appends: vec![say("other")], ..turn };
        let refused = wire.commit(other).await.expect_err("other content");
        assert_eq!(reason(&refused).1, "DEDUP_MISMATCH");

        let sent = wire.send("run", "m1", "yes").await.expect("sent");
        assert_eq!((sent.index, sent.deduplicated), (0, false));
        let again = wire.send("run", "m1", "yes").await.expect("known");
        assert!(again.deduplicated && again.seq.is_none());
        let resumed = wire.claim(0).await.expect("queued by the answer");
        assert_eq!((resumed.lease_epoch, resumed.attempt, resumed.resumed), (2, 1, true));
        let known = resumed.run.clone().expect("a run");
        let settled = known.waits[0].settled.clone().expect("settled");
        assert_eq!((settled.result(), settled.index), (WaitResult::Completed, Some(0)));
        assert_eq!((resumed.owed[0].owed, resumed.owed[0].floor), (1, 0));

        let close = CommitClose {
            outcome: Outcome::Completed.into(),
            output: "done".into(),
            ..CommitClose::default()
        };
        let last = CommitRequest {
            request_id: "last".into(),
            appends: vec![say("did it")],
            acks: vec![acked(0, 1)],
            then: Some(commit_request::Then::Close(close)),
            ..of("run", 2)
        };
        let done = wire.commit(last.clone()).await.expect("committed");
        assert_eq!(done.status(), RunStatus::Completed);
        let again = wire.commit(last).await.expect("a repeated final commit is answered");
        assert!(again.deduplicated);
        assert_eq!((again.first_seq, again.count), (done.first_seq, done.count));
        let run = wire.get("run").await;
        assert_eq!((&*run.output, &run.tags[..]), (&b"done"[..], &["asked".to_owned()][..]));

        // As it was before the answer.
        let at = Some(get_run_request::At::AtSeq(first.first_seq + u64::from(first.count)));
        let then = GetRunRequest { run_id: "run".into(), at };
        let then: GetRunResponse = wire.call("RunService/GetRun", then).await.expect("the past");
        assert_eq!(then.run.expect("a run").status(), RunStatus::Waiting);
    });
}

#[test]
fn a_receiver_is_given_what_is_owed_and_its_end_and_gives_back_what_it_drops() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        wire.create("run", RunSpec::default()).await;
        for n in 0..3 {
            wire.send("run", &n.to_string(), "x").await.expect("sent");
        }
        let ask =
            || ReceiveRequest { consumer: consumer("run", 0), heartbeat_ms: 100, max_unacked: 2 };
        let receive = async || {
            server_streaming::<_, ReceiveResponse>(&wire.0, "InputService/Receive", ask())
                .await
                .expect("receives")
        };
        let mut older = receive().await;
        let given = next(&mut older).await.inputs;
        assert_eq!(given.iter().map(|input| input.redelivery).collect::<Vec<_>>(), [false; 2]);
        assert!(next(&mut older).await.inputs.is_empty(), "a heartbeat: it has all it may");
        let mut newer = receive().await;
        let end = loop {
            if let Some(end) = next(&mut older).await.end {
                break end;
            }
        };
        assert_eq!(end.reason(), InputsEndReason::Superseded);
        assert!(older.message().await.expect("over").is_none());
        let given = next(&mut newer).await.inputs;
        assert_eq!(given.iter().map(|input| input.redelivery).collect::<Vec<_>>(), [true; 2]);
        let ack = AckRequest {
            consumer: consumer("run", 0),
            ranges: vec![IndexRange { from: 1, to: 2 }],
        };
        let ack: AckResponse = wire.call("InputService/Ack", ack).await.expect("acked");
        assert_eq!((ack.floor, ack.owed), (0, 2));
        let third = loop {
            if let Some(input) = next(&mut newer).await.inputs.pop() {
                break input;
            }
        };
        assert_eq!(third.record.expect("a record").index, 2);
        // A call that is dropped gives back at once what it had.
        drop(newer);
        let take = TakeRequest { consumer: consumer("run", 0), wait_ms: 60_000, term_ms: 0 };
        let taken: TakeResponse = wire.call("InputService/Take", take).await.expect("taken");
        let taken = taken.input.expect("a message");
        assert_eq!((taken.record.expect("a record").index, taken.redelivery), (0, true));
        let index = 0;
        let release = ReleaseRequest { consumer: consumer("run", 0), index };
        let release: ReleaseResponse =
            wire.call("InputService/Release", release).await.expect("released");
        let extend = ExtendRequest { consumer: consumer("run", 0), index, term_ms: 0 };
        let extend: ExtendResponse =
            wire.call("InputService/Extend", extend).await.expect("answered");
        assert_eq!((release.was_claimed, extend.was_claimed), (true, false));
        let peek = PeekRequest { consumer: consumer("run", 0) };
        let peek: PeekResponse = wire.call("InputService/Peek", peek).await.expect("peeked");
        assert_eq!(peek.input.expect("one").record.expect("a record").index, 0);
        let mut last = receive().await;
        wire.close("run", Outcome::Completed).await;
        let end = loop {
            if let Some(end) = next(&mut last).await.end {
                break end;
            }
        };
        assert_eq!(end.reason(), InputsEndReason::Closed);
    });
}

async fn watch(wire: &Wire, request: WatchRequest) -> Streaming<WatchResponse> {
    server_streaming(&wire.0, "WatchService/Watch", request).await.expect("watches")
}

/// The next item that is no heartbeat.
async fn item(watch: &mut Streaming<WatchResponse>) -> (watch_response::Item, String) {
    loop {
        let WatchResponse { item, cursor } = next(watch).await;
        match item.expect("an item") {
            watch_response::Item::Heartbeat(_) => {}
            item => return (item, cursor),
        }
    }
}

#[test]
fn watches_follow_runs_end_with_one_and_resume_across_a_restart() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        wire.create("run", RunSpec::default()).await;
        let one = WatchRun { run_id: "run".into(), ..WatchRun::default() };
        let one = || WatchRequest {
            scope: Some(watch_request::Scope::Run(one.clone())),
            heartbeat_ms: 100,
            ..WatchRequest::default()
        };
        let many = WatchRuns { task: "work".into(), ..WatchRuns::default() };
        let many = |cursor: &str| WatchRequest {
            scope: Some(watch_request::Scope::Runs(many.clone())),
            cursor: cursor.into(),
            heartbeat_ms: 100,
        };
        let mut single = watch(&wire, one()).await;
        let mut all = watch(&wire, many("")).await;
        for watch in [&mut single, &mut all] {
            assert!(matches!(item(watch).await.0, watch_response::Item::Row(_)));
            assert!(matches!(item(watch).await.0, watch_response::Item::CaughtUp(_)));
        }
        let update = UpdateRunRequest {
            run_id: "run".into(),
            tags: vec!["late".into()],
            update: Some(RunUpdated { cost_in_cents: Some(1.5), ..RunUpdated::default() }),
            metadata: vec![set("n", "7")],
            ..UpdateRunRequest::default()
        };
        let updated: UpdateRunResponse =
            wire.call("RunService/UpdateRun", update).await.expect("updated");
        assert_eq!(updated.run.expect("a run").usage.expect("told").cost_in_cents, Some(1.5));
        let mut cursor = String::new();
        for watch in [&mut single, &mut all] {
            let (row, at) = item(watch).await;
            let watch_response::Item::Row(row) = row else { panic!("{row:?}") };
            assert_eq!(&*row.metadata, b"{\"n\":7}");
            cursor = at;
        }
        // The server drains: the status says where to resume.
        let (mut ended, restarted) = (all, tokio::spawn(server.restart()));
        let status = loop {
            match ended.message().await {
                Ok(message) => assert!(message.is_some(), "no end"),
                Err(status) => break status,
            }
        };
        let (code, name, values) = reason(&status);
        assert_eq!((code, &*name), (Code::Unavailable, "SHUTTING_DOWN"));
        assert_eq!(values["cursor"], cursor);
        drop(single);
        drop(ended);
        drop(wire);
        let server = restarted.await.expect("restarted");
        let wire = Wire::to(&server).await;
        wire.close("run", Outcome::Completed).await;
        let mut all = watch(&wire, many(&cursor)).await;
        let (row, _) = item(&mut all).await;
        let watch_response::Item::Row(row) = row else { panic!("{row:?}") };
        assert_eq!(row.status(), RunStatus::Completed);
        let mut single = watch(&wire, one()).await;
        assert!(matches!(item(&mut single).await.0, watch_response::Item::Row(_)));
        let (end, _) = item(&mut single).await;
        let watch_response::Item::End(end) = end else { panic!("{end:?}") };
        assert_eq!(end.outcome(), Outcome::Completed);
        assert!(single.message().await.expect("over").is_none());
    });
}

#[test]
fn tokens_and_batches_are_made_completed_and_listed() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        let create = CreateWaitTokenRequest {
            tags: vec!["t".into()],
            timeout_ms: 3_600_000,
            idempotency_key: "key".into(),
            ..CreateWaitTokenRequest::default()
        };
        let made: CreateWaitTokenResponse =
            wire.call("WaitService/CreateWaitToken", create.clone()).await.expect("created");
        let again: CreateWaitTokenResponse =
            wire.call("WaitService/CreateWaitToken", create).await.expect("found");
        let (token, known) = (made.token.expect("a token"), again.token.expect("a token"));
        assert_eq!((made.created, again.created, &token), (true, false, &known));
        assert_eq!(token.times_out_at_ms, Some(token.created_at_ms + 3_600_000));
        let token_id = token.token_id;
        for (value, first) in [("yes", true), ("no", false)] {
            let complete = CompleteWaitTokenRequest {
                token_id: token_id.clone(),
                value: value.into(),
                value_type: "text/plain".into(),
            };
            let done: CompleteWaitTokenResponse =
                wire.call("WaitService/CompleteWaitToken", complete).await.expect("completed");
            assert_eq!(done.deduplicated, !first);
            assert_eq!(&*done.token.expect("a token").value, b"yes");
        }
        let list = ListWaitTokensRequest {
            tags: vec!["t".into()],
            statuses: vec![WaitTokenStatus::Completed.into()],
            ..ListWaitTokensRequest::default()
        };
        let listed: ListWaitTokensResponse =
            wire.call("WaitService/ListWaitTokens", list).await.expect("listed");
        assert_eq!(listed.tokens.len(), 1);

        let create = CreateBatchRequest {
            batch_id: "batch".into(),
            run_count: 2,
            ..CreateBatchRequest::default()
        };
        let made: CreateBatchResponse =
            wire.call("BatchService/CreateBatch", create).await.expect("created");
        assert!(made.created);
        let item = |number| {
            let run_id = format!("item-{number}");
            BatchItem { number, run: Some(CreateRunRequest { run_id, ..Default::default() }) }
        };
        for (accepted, deduplicated) in [(2, 0), (0, 2)] {
            let items = vec![item(0), item(1)];
            let add = AddBatchItemsRequest { batch_id: "batch".into(), items };
            let added: AddBatchItemsResponse =
                wire.call("BatchService/AddBatchItems", add).await.expect("added");
            assert_eq!((added.accepted, added.deduplicated), (accepted, deduplicated));
        }
        let seal = SealBatchRequest { batch_id: "batch".into(), expected_items: Some(2) };
        let sealed: SealBatchResponse =
            wire.call("BatchService/SealBatch", seal).await.expect("sealed");
        assert!(sealed.batch.expect("a batch").sealed);
        let get = GetBatchRequest { batch_id: "batch".into() };
        let found: GetBatchResponse = wire.call("BatchService/GetBatch", get).await.expect("found");
        assert_eq!(found.batch.expect("a batch").items, 2);
    });
}

#[test]
fn a_run_that_has_ended_takes_no_input_however_it_has_ended() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        for outcome in [Outcome::Completed, Outcome::Failed, Outcome::Canceled] {
            let run = outcome.as_str_name();
            wire.create(run, RunSpec::default()).await;
            wire.send(run, "m", "x").await.expect("sent");
            match outcome {
                Outcome::Canceled => {
                    let cancel = CancelRunRequest { run_id: run.into(), ..Default::default() };
                    let canceled: CancelRunResponse =
                        wire.call("RunService/CancelRun", cancel).await.expect("canceled");
                    assert!(canceled.closed);
                }
                _ => wire.close(run, outcome).await,
            }
            let refused = wire.send(run, "late", "x").await.expect_err("closed");
            let (code, name, values) = reason(&refused);
            assert_eq!((code, &*name), (Code::FailedPrecondition, "CLOSED"));
            assert_eq!(values["outcome"], outcome.as_str_name());
            let known = wire.send(run, "m", "x").await.expect("what was sent before is known");
            assert!(known.deduplicated);
        }
    });
}

/// A call that is refused.
type Refused<'a> = Pin<Box<dyn Future<Output = Status> + Send + 'a>>;

impl Wire {
    fn refused<'a, Q, A>(&'a self, method: &'static str, request: Q) -> Refused<'a>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        Box::pin(async move {
            match self.call::<Q, A>(method, request).await {
                Err(status) => status,
                Ok(_) => panic!("{method} was not refused"),
            }
        })
    }

    fn not_committed(&self, commit: CommitRequest) -> Refused<'_> {
        self.refused::<_, CommitResponse>("WorkService/Commit", commit)
    }

    fn not_appended(&self, run: &str, change: impl FnOnce(&mut AppendRequest)) -> Refused<'_> {
        let mut append = AppendRequest {
            run_id: run.into(),
            stream: "out".into(),
            records: vec![AppendRecord::default()],
            ..AppendRequest::default()
        };
        change(&mut append);
        self.refused::<_, AppendResponse>("StreamService/Append", append)
    }

    fn not_read(&self, run: &str, stream: &str, start: start::Start) -> Refused<'_> {
        let start = Start { start: Some(start), ..Start::default() };
        let read = ReadRequest {
            run_id: run.into(),
            streams: vec![stream.into()],
            start: Some(start),
            ..ReadRequest::default()
        };
        self.refused::<_, proto::ReadResponse>("StreamService/Read", read)
    }
}

fn produced(epoch: u64, seq: u64) -> Option<Producer> {
    Some(Producer { id: "p".into(), epoch, seq })
}

/// Every reason that a well-formed store has to refuse something, with values that must be there.
#[test]
fn every_refusal_is_provoked_and_has_its_reason_and_values() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        let wire = &wire;
        for name in ["open", "held", "done", "deleted", "small", "limited"] {
            wire.create(name, RunSpec::default()).await;
        }
        let acquire = |run: &str, worker: &str| AcquireLeaseRequest {
            run_id: run.into(),
            worker: worker.into(),
            ..AcquireLeaseRequest::default()
        };
        let _: AcquireLeaseResponse =
            wire.call("WorkService/AcquireLease", acquire("held", "a")).await.expect("acquired");
        wire.send("held", "m", "x").await.expect("sent");
        wire.send("open", "m", "x").await.expect("sent");
        wire.close("done", Outcome::Completed).await;
        let delete = DeleteRunRequest { run_id: "deleted".into(), ..Default::default() };
        let _: DeleteRunResponse =
            wire.call("RunService/DeleteRun", delete).await.expect("deleted");
        let first = AppendRequest {
            run_id: "open".into(),
            stream: "out".into(),
            records: vec![AppendRecord::default(), AppendRecord::default()],
            producer: produced(2, 0),
            ..AppendRequest::default()
        };
        let _: AppendResponse = wire.call("StreamService/Append", first).await.expect("appended");
        let trim = TrimRequest {
            run_id: "open".into(),
            stream: "out".into(),
            trim: 1,
            ..TrimRequest::default()
        };
        let _: TrimResponse = wire.call("StreamService/Trim", trim).await.expect("trimmed");
        let retention = Retention { records: Some(1), ..Retention::default() };
        let quota = CreateRunRequest {
            run_id: "quota".into(),
            retention: Some(retention),
            ..CreateRunRequest::default()
        };
        let _: CreateRunResponse = wire.call("RunService/CreateRun", quota).await.expect("created");
        for n in 0..10 {
            let tag = CommitRequest { tags: vec![format!("t{n}")], ..of("limited", 0) };
            wire.commit(tag).await.expect("tagged");
        }

        let get = |run: &str, at| {
            let get = GetRunRequest { run_id: run.into(), at };
            wire.refused::<_, GetRunResponse>("RunService/GetRun", get)
        };
        let send = |run: &str, id: &str, data: &str| {
            let send = SendRequest {
                run_id: run.into(),
                stream: "in".into(),
                message_id: id.into(),
                data: data.to_owned().into(),
                ..SendRequest::default()
            };
            wire.refused::<_, SendResponse>("InputService/Send", send)
        };
        let cursor = |text: &str| start::Start::Cursor(text.into());
        let of_done = wire.call::<_, CheckTailResponse>(
            "StreamService/CheckTail",
            CheckTailRequest { run_id: "done".into(), ..CheckTailRequest::default() },
        );
        let of_done = of_done.await.expect("a tail").cursor;
        let oversized = "x".repeat((1 << 20) + 1);
        let document = format!("\"{}\"", "x".repeat(256 << 10));
        let token = GetWaitTokenRequest { token_id: "missing".into() };
        let exists = CreateRunRequest { run_id: "open".into(), ..CreateRunRequest::default() };
        let reschedule = RescheduleRunRequest { run_id: "held".into(), ..Default::default() };
        let owed = TrimRequest {
            run_id: "open".into(),
            stream: "in".into(),
            trim: 1,
            ..TrimRequest::default()
        };
        let rows: Vec<(Refused<'_>, Code, &str, &[&str])> = vec![
            (
                wire.not_committed(CommitRequest { tags: vec![String::new()], ..of("open", 0) }),
                Code::InvalidArgument,
                "INVALID",
                &["field", "problem"],
            ),
            (
                send("open", "", &oversized),
                Code::InvalidArgument,
                "TOO_LARGE",
                &["what", "size", "limit"],
            ),
            (get("missing", None), Code::NotFound, "RUN_NOT_FOUND", &[]),
            (get("deleted", None), Code::NotFound, "RUN_DELETED", &[]),
            (
                wire.not_read("open", "missing", start::Start::Seq(0)),
                Code::NotFound,
                "STREAM_NOT_FOUND",
                &[],
            ),
            (
                wire.refused::<_, GetWaitTokenResponse>("WaitService/GetWaitToken", token),
                Code::NotFound,
                "WAIT_NOT_FOUND",
                &[],
            ),
            (
                wire.not_committed(CommitRequest {
                    run_uid: vec![7; 16].into(),
                    tags: vec!["t".into()],
                    ..of("open", 0)
                }),
                Code::FailedPrecondition,
                "RUN_REPLACED",
                &["run_uid"],
            ),
            (
                wire.refused::<_, CreateRunResponse>("RunService/CreateRun", exists),
                Code::AlreadyExists,
                "RUN_EXISTS",
                &[],
            ),
            (
                wire.not_appended("open", |append| append.producer = produced(1, 0)),
                Code::FailedPrecondition,
                "STALE_EPOCH",
                &["current"],
            ),
            (
                wire.not_appended("open", |append| append.producer = produced(3, 1)),
                Code::InvalidArgument,
                "BAD_EPOCH_START",
                &[],
            ),
            (
                wire.not_appended("open", |append| append.producer = produced(2, 9)),
                Code::Aborted,
                "PRODUCER_GAP",
                &["expected"],
            ),
            (send("open", "m", "other"), Code::FailedPrecondition, "DEDUP_MISMATCH", &[]),
            (
                send("done", "", "late"),
                Code::FailedPrecondition,
                "CLOSED",
                &["outcome", "final_seq"],
            ),
            (
                wire.not_committed(CommitRequest { acks: vec![acked(0, 1)], ..of("held", 9) }),
                Code::FailedPrecondition,
                "FENCED",
                &["current"],
            ),
            (
                wire.not_committed(CommitRequest { acks: vec![acked(0, 1)], ..of("held", 0) }),
                Code::FailedPrecondition,
                "LEASE_REQUIRED",
                &["current"],
            ),
            (
                wire.refused::<_, AcquireLeaseResponse>(
                    "WorkService/AcquireLease",
                    acquire("held", "b"),
                ),
                Code::FailedPrecondition,
                "LEASE_HELD",
                &["epoch", "worker"],
            ),
            (
                wire.refused::<_, RescheduleRunResponse>("RunService/RescheduleRun", reschedule),
                Code::FailedPrecondition,
                "NOT_QUEUED",
                &["status"],
            ),
            (
                wire.not_committed(CommitRequest { expected_seq: Some(0), ..say_in("open") }),
                Code::Aborted,
                "SEQ_MISMATCH",
                &["tail"],
            ),
            (
                wire.not_appended("open", |append| append.expected_index = Some(0)),
                Code::Aborted,
                "INDEX_MISMATCH",
                &["tail"],
            ),
            (
                wire.not_committed(CommitRequest { acks: vec![acked(0, 9)], ..of("open", 0) }),
                Code::InvalidArgument,
                "BAD_ACK",
                &["stream", "index"],
            ),
            (
                wire.not_committed(CommitRequest {
                    metadata: vec![set("big", &document)],
                    ..of("open", 0)
                }),
                Code::FailedPrecondition,
                "METADATA_TOO_LARGE",
                &["size", "limit"],
            ),
            (
                wire.not_committed(CommitRequest {
                    tags: vec!["one too many".into()],
                    ..of("limited", 0)
                }),
                Code::ResourceExhausted,
                "LIMIT",
                &["which", "limit"],
            ),
            (
                wire.not_appended("quota", |append| {
                    append.records = vec![AppendRecord::default(); 2];
                }),
                Code::ResourceExhausted,
                "QUOTA",
                &["which", "limit"],
            ),
            (
                wire.refused::<_, TrimResponse>("StreamService/Trim", owed),
                Code::FailedPrecondition,
                "INPUTS_OWED",
                &["floor"],
            ),
            (
                wire.not_read("open", "out", start::Start::Index(0)),
                Code::OutOfRange,
                "TRIMMED",
                &["first_seq", "first_index"],
            ),
            (
                wire.not_read("open", "out", start::Start::Index(9)),
                Code::OutOfRange,
                "BEYOND_TAIL",
                &["tail"],
            ),
            (
                get("open", Some(get_run_request::At::AtSeq(99))),
                Code::OutOfRange,
                "BEYOND_TAIL",
                &["tail"],
            ),
            (
                wire.not_read("open", "out", cursor("no cursor")),
                Code::InvalidArgument,
                "BAD_CURSOR",
                &[],
            ),
            (
                wire.not_read("open", "out", cursor(&of_done)),
                Code::FailedPrecondition,
                "RUN_REPLACED",
                &["run_uid"],
            ),
        ];
        let mut provoked = HashMap::new();
        for (call, code, expected, values) in rows {
            let (found, name, fields) = reason(&call.await);
            assert_eq!((found, &*name), (code, expected), "{fields:?}");
            for value in values {
                assert!(fields.contains_key(*value), "{name} has no {value}: {fields:?}");
            }
            *provoked.entry(name).or_insert(0) += 1;
        }
        assert_eq!(provoked.len(), 27, "{provoked:?}");
    });
}

fn say_in(run: &str) -> CommitRequest {
    CommitRequest { appends: vec![say("x")], ..of(run, 0) }
}

#[test]
fn a_run_that_does_not_consume_what_it_is_sent_takes_no_more() {
    run(async {
        let server = Server::start().await;
        let wire = Wire::to(&server).await;
        wire.create("run", RunSpec::default()).await;
        let large = "x".repeat(1 << 20);
        let mut sent = 0;
        let refused = loop {
            match wire.send("run", "", &large).await {
                Ok(_) => sent += 1,
                // Copying out of a small journal does not keep up: that passes.
                Err(status) if reason(&status).1 == "BUSY" => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(status) => break status,
            }
        };
        let (code, name, values) = reason(&refused);
        assert_eq!((code, &*name), (Code::ResourceExhausted, "INPUT_BACKLOG"));
        assert_eq!((sent, &*values["inputs"]), (64, "64"));
        let ack = AckRequest {
            consumer: consumer("run", 0),
            ranges: vec![IndexRange { from: 0, to: 1 }],
        };
        let _: AckResponse = wire.call("InputService/Ack", ack).await.expect("acked");
        while let Err(status) = wire.send("run", "", &large).await {
            assert_eq!(reason(&status).1, "BUSY", "there is room again");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
}
