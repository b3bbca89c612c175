//! The lanes of an append session: each ends by itself, and appenders of one client share a session.

use braidlog::{
    Close, IfAbsent, Outcome, Query, RunKey,
    client::AppenderOptions,
    proto::{
        AppendRecord, AppendSessionRequest, AppendSessionResponse, LaneEnd, SessionBatch,
        SessionClose, SessionOpen, append_session_request::Message,
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    proxy::Proxy,
    raw::{self, problem, reason},
    server::{Server, bodies, client, numbers, persistent, records, refusal, run},
};

const LANES_MAX: u32 = 4_096;

fn on(lane: u32, message: Message) -> AppendSessionRequest {
    AppendSessionRequest { message: Some(message), lane }
}

fn open(lane: u32, run_id: &str) -> AppendSessionRequest {
    let open = SessionOpen {
        run_id: run_id.into(),
        create_run: true,
        stream: "out".into(),
        ..SessionOpen::default()
    };
    on(lane, Message::Open(open))
}

fn line(body: &str) -> SessionBatch {
    let record = AppendRecord { data: body.to_owned().into(), ..AppendRecord::default() };
    SessionBatch { records: vec![record], ..SessionBatch::default() }
}

fn send(lane: u32, body: &str) -> AppendSessionRequest {
    on(lane, Message::Batch(line(body)))
}

fn close(lane: u32) -> AppendSessionRequest {
    on(lane, Message::Close(SessionClose {}))
}

/// All answers of a session that is sent these messages, and how it ends.
async fn outcome(
    server: &Server,
    messages: Vec<AppendSessionRequest>,
) -> (Vec<AppendSessionResponse>, Result<(), Status>) {
    let channel = raw::connect(&server.url()).await;
    let messages = tokio_stream::iter(messages);
    let path = "StreamService/AppendSession";
    raw::outcome(raw::bidirectional(&channel, path, messages).await.expect("opened")).await
}

/// Numbers of the batches of a lane that were applied, and how it ended.
fn of_lane(answers: &[AppendSessionResponse], lane: u32) -> (Vec<u64>, Option<(u64, Status)>) {
    let (mut applied, mut ended) = (Vec::new(), None);
    for answer in answers.iter().filter(|answer| answer.lane == lane) {
        assert!(ended.is_none(), "an answer behind the end of lane {lane}");
        match &answer.ended {
            None => applied.push(answer.ordinal),
            Some(end) => ended = Some((answer.ordinal, status(end.clone()))),
        }
        assert_ne!(answer.appended.is_some(), answer.ended.is_some());
    }
    (applied, ended)
}

fn status(end: LaneEnd) -> Status {
    Status::with_details(end.code.into(), end.message, end.details)
}

async fn lines_of(server: &Server, run_id: &str) -> Vec<String> {
    let page = server.store.read(Query::stream(RunKey::new(run_id), "out")).await.expect("page");
    bodies(&page.records)
}

#[test]
fn a_lane_ends_with_its_first_refusal_and_the_others_go_on() {
    run(async {
        let server = Server::start().await;
        let mut messages = vec![open(1, "a"), open(2, "b"), open(0, "c")];
        for n in numbers(0..100) {
            messages.extend([send(1, &n), send(2, &n), send(0, &n)]);
        }
        let conflict = SessionBatch { expected_index: Some(7), ..line("no") };
        messages.push(on(1, Message::Batch(conflict)));
        for n in numbers(100..200) {
            messages.extend([send(1, &n), send(2, &n), send(0, &n)]);
        }
        let (answers, end) = outcome(&server, messages).await;
        end.expect("a clean end");
        let (applied, ended) = of_lane(&answers, 1);
        assert_eq!(applied, (0..100).collect::<Vec<_>>());
        let (ordinal, status) = ended.expect("ended");
        let (_, why, values) = reason(&status);
        assert_eq!(
            (ordinal, why.as_str(), values["tail"].as_str()),
            (100, "INDEX_MISMATCH", "100")
        );
        for lane in [2, 0] {
            let (applied, ended) = of_lane(&answers, lane);
            assert_eq!(applied, (0..200).collect::<Vec<_>>());
            assert!(ended.is_none());
        }
        assert_eq!(lines_of(&server, "a").await, numbers(0..100));
        assert_eq!(lines_of(&server, "b").await, numbers(0..200));
        assert_eq!(lines_of(&server, "c").await, numbers(0..200));
    });
}

#[test]
fn the_end_of_lane_0_is_that_of_the_session_behind_the_answers_of_all_lanes() {
    run(async {
        let server = Server::start().await;
        let messages = vec![
            open(0, "a"),
            open(5, "b"),
            send(5, "0"),
            send(0, "0"),
            send(5, "1"),
            on(0, Message::Batch(SessionBatch::default())),
            send(5, "2"),
        ];
        let (answers, end) = outcome(&server, messages).await;
        let (_, why, values) = reason(&end.expect_err("refused"));
        assert_eq!((why.as_str(), values["ordinal"].as_str()), ("INVALID", "1"));
        assert_eq!(of_lane(&answers, 0).0, [0]);
        assert_eq!(of_lane(&answers, 5).0, [0, 1]);
        assert_eq!(lines_of(&server, "b").await, ["0", "1"]);
    });
}

#[test]
fn a_lane_that_is_not_used_as_agreed_ends_alone() {
    run(async {
        let server = Server::start().await;
        let twice = "open came before: it is sent once";
        let missing = "open is missing: it comes before the first batch";
        let messages = vec![
            send(1, "x"),
            open(2, "b"),
            send(2, "0"),
            open(2, "b"),
            send(2, "1"),
            AppendSessionRequest { message: None, lane: 3 },
            open(4, "d"),
            send(4, "0"),
            send(1, "y"),
        ];
        let (answers, end) = outcome(&server, messages).await;
        end.expect("a clean end");
        for (lane, applied, ordinal, why) in [
            (1, vec![], 0, missing),
            (2, vec![0], 1, twice),
            (3, vec![], 0, "message is neither open, nor batch, nor close"),
        ] {
            let (found, ended) = of_lane(&answers, lane);
            let (at, status) = ended.expect("ended");
            assert_eq!((found, at, problem(&status)), (applied, ordinal, why.to_owned()));
        }
        assert_eq!(of_lane(&answers, 4).0, [0]);
        assert_eq!(lines_of(&server, "b").await, ["0"]);
    });
}

#[test]
fn a_lane_that_was_closed_may_be_opened_again_for_another_run() {
    run(async {
        let server = Server::start().await;
        let refused = on(1, Message::Batch(SessionBatch::default()));
        let messages = vec![
            open(1, "a"),
            send(1, "0"),
            close(1),
            close(1),
            open(1, "b"),
            send(1, "0"),
            refused,
            send(1, "passed over"),
            close(1),
            open(1, "c"),
            send(1, "0"),
        ];
        let (answers, end) = outcome(&server, messages).await;
        end.expect("a clean end");
        let applied = |answer: &AppendSessionResponse| (answer.ordinal, answer.ended.is_none());
        let applied: Vec<_> = answers.iter().map(applied).collect();
        assert_eq!(applied, [(0, true), (0, true), (1, false), (0, true)]);
        for run_id in ["a", "b", "c"] {
            assert_eq!(lines_of(&server, run_id).await, ["0"]);
        }
    });
}

#[test]
fn a_session_has_no_more_lanes_than_it_may_and_room_for_another_when_one_is_closed() {
    run(async {
        let server = Server::start().await;
        let mut messages: Vec<_> = (1..=LANES_MAX).map(|lane| open(lane, "run")).collect();
        messages.extend([open(9_999, "run"), send(9_999, "no"), close(7), open(9_999, "run")]);
        messages.extend([send(9_999, "0"), send(LANES_MAX, "1")]);
        let (answers, end) = outcome(&server, messages).await;
        end.expect("a clean end");
        let told: Vec<_> = answers.iter().map(|it| (it.lane, it.ended.is_some())).collect();
        assert_eq!(told, [(9_999, true), (9_999, true), (9_999, false), (LANES_MAX, false)]);
        let (_, why, values) = reason(&status(answers[0].ended.clone().expect("ended")));
        assert_eq!((why.as_str(), values["limit"].as_str()), ("LIMIT", "4096"));
        assert_eq!(lines_of(&server, "run").await, ["0", "1"]);
    });
}

#[test]
fn an_answer_of_a_lane_comes_without_waiting_for_its_next_batch() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let (outgoing, messages) = mpsc::channel(8);
        let path = "StreamService/AppendSession";
        let mut answers: Streaming<AppendSessionResponse> =
            raw::bidirectional(&channel, path, ReceiverStream::new(messages))
                .await
                .expect("opened");
        outgoing.send(open(3, "run")).await.expect("sent");
        for ordinal in 0..10 {
            outgoing.send(send(3, "x")).await.expect("sent");
            let answer = answers.message().await.expect("answer").expect("answer");
            assert_eq!((answer.lane, answer.ordinal), (3, ordinal));
        }
        drop(outgoing);
        assert!(answers.message().await.expect("end").is_none());
    });
}

fn options() -> AppenderOptions {
    AppenderOptions { absent: IfAbsent::Create, ..AppenderOptions::new("out") }
}

#[test]
fn appenders_of_a_client_go_on_when_one_of_them_is_refused() {
    run(async {
        let server = Server::start().await;
        let client = client(&server.url(), persistent());
        let key = |n: usize| RunKey::new(format!("run-{n}"));
        let mut appenders = Vec::new();
        for n in 0..8 {
            let mut appender = client.appender(&key(n), options()).expect("appender");
            appender.append(records(&["0"])).await.expect("appended");
            appenders.push(appender);
        }
        let close = Close { outcome: Outcome::Completed, ..Close::default() };
        server.store.close_run(&key(3), close).await.expect("closed");
        for round in ["1", "2"] {
            for (n, appender) in appenders.iter_mut().enumerate() {
                let appended = appender.append(records(&[round])).await;
                match n {
                    3 => assert!(refusal(appended).to_string().starts_with("closed")),
                    _ => drop(appended.expect("appended")),
                }
            }
        }
        for (n, appender) in appenders.into_iter().enumerate() {
            let lines = lines_of(&server, &format!("run-{n}")).await;
            match n {
                3 => assert_eq!(lines, ["0"]),
                _ => assert_eq!(lines, ["0", "1", "2"]),
            }
            assert_eq!(appender.finish().await.is_err(), n == 3);
        }
    });
}

#[test]
fn appenders_that_share_a_session_lose_and_double_nothing_when_it_breaks() {
    run(async {
        const WRITERS: usize = 1_100;
        const LINES: usize = 40;
        let server = Server::start().await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let mut writing = JoinSet::new();
        for n in 0..WRITERS {
            let client = client.clone();
            writing.spawn(async move {
                let run = RunKey::new(format!("run-{n}"));
                let mut appender = client.appender(&run, options()).expect("appender");
                for line in numbers(0..LINES) {
                    let appended = appender.append(records(&[&line])).await.expect("durable");
                    assert_eq!(appended.first_index.0.to_string(), line);
                }
                appender.finish().await.expect("finished");
            });
        }
        // While they write, whenever a share of it is done.
        let mut cuts = 0;
        while !writing.is_empty() {
            let done = server.store.stats().records as usize;
            if cuts < 5 && cuts * WRITERS * LINES / 6 <= done {
                proxy.cut();
                cuts += 1;
            }
            tokio::task::yield_now().await;
            while let Some(written) = writing.try_join_next() {
                written.expect("written");
            }
        }
        assert_eq!(cuts, 5);
        for n in 0..WRITERS {
            assert_eq!(lines_of(&server, &format!("run-{n}")).await, numbers(0..LINES));
        }
    });
}

#[test]
fn a_client_may_have_any_number_of_appenders_one_after_the_other() {
    run(async {
        let server = Server::start().await;
        let client = client(&server.url(), persistent());
        let run = RunKey::new("run");
        // Keeps the session.
        let mut lasting = client.appender(&run, options()).expect("appender");
        lasting.append(records(&["0"])).await.expect("appended");
        let numbered =
            |epoch| AppenderOptions { producer_id: Some("one".into()), epoch, ..options() };
        for epoch in 0..u64::from(LANES_MAX) + 10 {
            let mut appender = client.appender(&run, numbered(epoch)).expect("appender");
            appender.append(records(&["x"])).await.expect("appended");
            appender.finish().await.expect("finished");
        }
        lasting.append(records(&["1"])).await.expect("appended");
        lasting.finish().await.expect("finished");
        let tail = server.store.check_tail(&run, None, Some("out")).await.expect("tail");
        assert_eq!(tail.stream.expect("stream").tail.0, u64::from(LANES_MAX) + 12);
    });
}
