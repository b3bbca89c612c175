//! Append sessions: many batches on their way, answers in order, an end that says where it was.

use std::time::Duration;

use braidlog::{
    Append, Index, Query, RunKey, Seq,
    proto::{
        AppendRecord, AppendSessionRequest, AppendSessionResponse, CheckTailRequest,
        CheckTailResponse, SessionBatch, SessionOpen, append_session_request::Message,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    raw::{self, outcome, problem, reason},
    server::{Server, append, batch, bodies, numbers, run},
};

fn message(message: Message) -> AppendSessionRequest {
    AppendSessionRequest { message: Some(message), lane: 0 }
}

fn open(producer_id: &str) -> AppendSessionRequest {
    message(Message::Open(SessionOpen {
        run_id: "run".into(),
        create_run: true,
        stream: "out".into(),
        producer_id: producer_id.into(),
        ..SessionOpen::default()
    }))
}

fn line(body: &str, producer_seq: u64) -> SessionBatch {
    let record = AppendRecord { data: body.to_owned().into(), ..AppendRecord::default() };
    SessionBatch { records: vec![record], producer_seq, ..SessionBatch::default() }
}

fn send(body: &str) -> AppendSessionRequest {
    message(Message::Batch(line(body, 0)))
}

async fn session(
    channel: &Channel,
    messages: Vec<AppendSessionRequest>,
) -> Streaming<AppendSessionResponse> {
    let messages = tokio_stream::iter(messages);
    raw::bidirectional(channel, "StreamService/AppendSession", messages).await.expect("opened")
}

fn ordinals(answers: &[AppendSessionResponse]) -> Vec<u64> {
    answers.iter().map(|answer| answer.ordinal).collect()
}

#[test]
fn batches_are_answered_in_their_order_and_a_half_close_ends_cleanly() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let lines = numbers(0..5_000);
        let sends = lines.iter().map(|line| send(line));
        let messages = [open("")].into_iter().chain(sends).collect();
        let (answers, end) = outcome(session(&channel, messages).await).await;
        end.expect("a clean end");
        assert_eq!(ordinals(&answers), (0..5_000).collect::<Vec<_>>());
        for answer in &answers {
            let appended = answer.appended.as_ref().expect("appended");
            assert_eq!(appended.first_index, answer.ordinal);
            assert_eq!(
                (appended.first_seq, appended.next_seq),
                (answer.ordinal + 1, answer.ordinal + 2)
            );
        }
        // Far fewer syncs than batches: they do not wait for each other.
        assert!(server.store.stats().commits < 2_500, "{:?}", server.store.stats());
        let tail = server.store.check_tail(&RunKey::new("run"), None, Some("out")).await;
        assert_eq!(tail.expect("tail").stream.expect("stream").tail, Index(5_000));
    });
}

#[test]
fn an_answer_comes_without_waiting_for_the_next_batch() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let (outgoing, messages) = mpsc::channel(8);
        outgoing.send(open("")).await.expect("sent");
        let messages = ReceiverStream::new(messages);
        let path = "StreamService/AppendSession";
        let mut answers: Streaming<AppendSessionResponse> =
            raw::bidirectional(&channel, path, messages).await.expect("opened");
        for ordinal in 0..10 {
            outgoing.send(send("x")).await.expect("sent");
            let answer = answers.message().await.expect("answer").expect("answer");
            assert_eq!(answer.ordinal, ordinal);
        }
        drop(outgoing);
        assert!(answers.message().await.expect("end").is_none());
    });
}

#[test]
fn the_first_refusal_ends_a_session_behind_the_answers_before_it() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        // Refused for what they are, and for the state they meet.
        let empty = SessionBatch::default();
        let conflict = SessionBatch { expected_index: Some(7), ..line("no", 0) };
        let mut appended = 0;
        for (refused, expected) in [(empty, "INVALID"), (conflict, "INDEX_MISMATCH")] {
            let mut messages = vec![open("")];
            messages.extend(numbers(0..100).iter().map(|line| send(line)));
            messages.push(message(Message::Batch(refused)));
            messages.extend(numbers(0..100).iter().map(|line| send(line)));
            let (answers, end) = outcome(session(&channel, messages).await).await;
            assert_eq!(ordinals(&answers), (0..100).collect::<Vec<_>>());
            let (_, found, values) = reason(&end.expect_err("refused"));
            assert_eq!((found.as_str(), values["ordinal"].as_str()), (expected, "100"));
            appended += 100;
            let query = Query::stream(RunKey::new("run"), "out");
            let page = server.store.read(query).await.expect("page");
            assert_eq!(page.records.count, appended);
            if expected == "INDEX_MISMATCH" {
                assert_eq!(values["tail"], "200");
            }
        }
    });
}

#[test]
fn a_session_of_a_producer_is_numbered_and_fenced() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let batches = |seqs: &[u64]| {
            let batch = |&seq: &u64| message(Message::Batch(line(&seq.to_string(), seq)));
            [open("worker")].into_iter().chain(seqs.iter().map(batch)).collect()
        };
        let (answers, end) = outcome(session(&channel, batches(&[0, 1, 2])).await).await;
        end.expect("a clean end");
        assert!(answers.iter().all(|answer| !answer.appended.as_ref().expect("it").deduplicated));
        // The same again, and then a gap.
        let (answers, end) = outcome(session(&channel, batches(&[1, 2, 3, 5, 4])).await).await;
        let repeated = answers.iter().map(|answer| answer.appended.as_ref().expect("it"));
        let repeated: Vec<_> = repeated.map(|it| (it.deduplicated, it.first_index)).collect();
        assert_eq!(repeated, [(true, 1), (true, 2), (false, 3)]);
        let (code, why, values) = reason(&end.expect_err("refused"));
        assert_eq!((code, why.as_str()), (Code::Aborted, "PRODUCER_GAP"));
        assert_eq!((values["expected"].as_str(), values["ordinal"].as_str()), ("4", "3"));
        let page = server.store.read(Query::stream(RunKey::new("run"), "out")).await.expect("page");
        assert_eq!(bodies(&page.records), ["0", "1", "2", "3"]);
    });
}

#[test]
fn a_session_that_is_not_opened_as_agreed_is_refused() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let nothing = AppendSessionRequest { message: None, lane: 0 };
        let numbered = message(Message::Batch(line("x", 4)));
        let strange = |run_uid: Vec<u8>| {
            let open = SessionOpen { run_uid: run_uid.into(), ..SessionOpen::default() };
            message(Message::Open(open))
        };
        for (messages, answered, expected) in [
            (vec![send("x")], 0, "open is missing: it comes before the first batch"),
            (vec![open(""), send("x"), open("")], 1, "open came before: it is sent once"),
            (vec![open(""), nothing], 0, "message is neither open, nor batch, nor close"),
            (
                vec![open(""), numbered],
                0,
                "producer_seq is given, but the session was opened without a producer",
            ),
            (vec![strange(vec![1])], 0, "run_uid has 1 bytes: an identity has 16, or is left out"),
        ] {
            let (answers, end) = outcome(session(&channel, messages).await).await;
            assert_eq!(answers.len(), answered);
            assert_eq!(problem(&end.expect_err("refused")), expected);
        }
        // A session that sends nothing has nothing to be refused for.
        let (answers, end) = outcome(session(&channel, vec![open("")]).await).await;
        assert!(answers.is_empty() && end.is_ok());
    });
}

#[test]
fn a_session_does_not_create_what_it_was_not_asked_to() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let open = SessionOpen {
            run_id: "missing".into(),
            stream: "out".into(),
            ..SessionOpen::default()
        };
        let messages = vec![message(Message::Open(open)), send("x")];
        let (_, end) = outcome(session(&channel, messages).await).await;
        let (code, why, _) = reason(&end.expect_err("refused"));
        assert_eq!((code, why.as_str()), (Code::NotFound, "RUN_NOT_FOUND"));
        assert_eq!(server.store.stats().runs, 0);
    });
}

#[test]
fn a_huge_message_ends_a_session_behind_what_came_before_it() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let huge = AppendRecord { data: vec![0; 9 << 20].into(), ..AppendRecord::default() };
        let huge = SessionBatch { records: vec![huge], ..SessionBatch::default() };
        let messages = vec![open(""), send("x"), message(Message::Batch(huge)), send("y")];
        let (answers, end) = outcome(session(&channel, messages).await).await;
        assert_eq!(ordinals(&answers), [0]);
        let (code, why, values) = reason(&end.expect_err("refused"));
        assert_eq!((code, why.as_str()), (Code::InvalidArgument, "TOO_LARGE"));
        assert_eq!(values["limit"], (8 << 20).to_string());
    });
}

#[test]
fn expected_positions_order_the_batches_of_a_session() {
    run(async {
        let server = Server::start().await;
        let key = RunKey::new("run");
        append(&server.store, &key, Append { expected_seq: None, ..batch("out", &["0"]) }).await;
        let channel = raw::connect(&server.url()).await;
        let mut messages = vec![open("")];
        messages.extend((1..50).map(|n: u64| {
            let expected =
                SessionBatch { expected_seq: Some(n + 1), expected_index: Some(n), ..line("x", 0) };
            message(Message::Batch(expected))
        }));
        let (answers, end) = outcome(session(&channel, messages).await).await;
        end.expect("a clean end");
        assert_eq!(answers.len(), 49);
        let tail = server.store.check_tail(&key, None, None).await.expect("tail");
        assert_eq!(tail.tail, Seq(51));
    });
}

#[test]
fn a_session_that_is_broken_off_leaves_whole_batches_in_order() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let (outgoing, messages) = mpsc::channel(8);
        outgoing.send(open("")).await.expect("sent");
        let path = "StreamService/AppendSession";
        let mut answers: Streaming<AppendSessionResponse> =
            raw::bidirectional(&channel, path, ReceiverStream::new(messages))
                .await
                .expect("opened");
        let mut acknowledged = 0;
        for n in 0..200 {
            outgoing.send(send(&n.to_string())).await.expect("sent");
            if n == 100 {
                acknowledged =
                    answers.message().await.expect("answer").expect("answer").ordinal + 1;
            }
        }
        drop((outgoing, answers, channel));
        // Nothing tells when the server has noticed; whatever it took is a prefix.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let page = server.store.read(Query::stream(RunKey::new("run"), "out")).await.expect("page");
        let found = bodies(&page.records);
        assert!(acknowledged as usize <= found.len());
        assert_eq!(found, numbers(0..found.len()));
    });
}

#[test]
fn a_session_whose_answers_nobody_takes_is_not_read_from_and_holds_up_nobody() {
    run(async {
        const MANY: u64 = 100_000;
        let server = Server::start().await;
        let channel = raw::connect_with_window(&server.url(), 1 << 10).await;
        let (outgoing, messages) = mpsc::channel(8);
        outgoing.send(open("")).await.expect("sent");
        let path = "StreamService/AppendSession";
        let mut answers: Streaming<AppendSessionResponse> =
            raw::bidirectional(&channel, path, ReceiverStream::new(messages))
                .await
                .expect("opened");
        let mut sent = 0;
        while sent < MANY {
            // Long enough to mean that nothing is taken any more.
            let sending = outgoing.send(send("x"));
            if timeout(Duration::from_secs(1), sending).await.is_err() {
                break;
            }
            sent += 1;
        }
        assert!(sent < MANY, "everything was taken");
        let key = RunKey::new("run");
        let tail = server.store.check_tail(&key, None, Some("out")).await.expect("tail");
        let admitted = tail.stream.expect("stream").tail.0;
        assert!(admitted < 10_000, "{admitted} batches were admitted");
        let request = CheckTailRequest { run_id: "run".into(), ..CheckTailRequest::default() };
        let path = "StreamService/CheckTail";
        let other: CheckTailResponse = raw::unary(&channel, path, request).await.expect("answered");
        assert!(admitted < other.tail);

        drop(outgoing);
        for ordinal in 0..sent {
            let answer = answers.message().await.expect("answer").expect("answer");
            assert_eq!(answer.ordinal, ordinal);
        }
        assert!(answers.message().await.expect("end").is_none());
    });
}
