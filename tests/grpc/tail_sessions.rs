//! The tails of a session: each begins, goes on and ends by itself, and the tails of one client share
//! a session.

use std::collections::BTreeMap;

use braidlog::{
    Append, Close, Delete, End, NewRecord, Outcome, Query, Refusal, RunKey, Start, TailItem,
    client::{Client, Tail},
    grpc::encoded::{TailResponse, TailSessionResponse},
    proto::{
        self, LaneEnd, TailClose, TailOpen, TailRead, TailRequest, TailSessionRequest,
        tail_session_request::Message,
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    proxy::Proxy,
    raw::{self, problem, reason},
    server::{
        Server, append, batch, bodies, client, numbers, persistent, refusal, run, take, write,
    },
};

const LANES_MAX: u32 = 4_096;

fn on(lane: u32, message: Message) -> TailSessionRequest {
    TailSessionRequest { message: Some(message), lane }
}

/// Follows the stream `out` of a run from its beginning.
fn request(run_id: &str) -> TailRequest {
    TailRequest { run_id: run_id.into(), streams: vec!["out".into()], ..TailRequest::default() }
}

fn open(lane: u32, tail: TailRequest) -> TailSessionRequest {
    on(lane, Message::Open(TailOpen { tail: Some(tail), window_bytes: 0 }))
}

fn close(lane: u32) -> TailSessionRequest {
    on(lane, Message::Close(TailClose {}))
}

/// A session that goes on, and a way to say more.
struct Session {
    outgoing: mpsc::Sender<TailSessionRequest>,
    answers: Streaming<TailSessionResponse>,
}

impl Session {
    async fn begin(server: &Server) -> Self {
        let channel = raw::connect(&server.url()).await;
        let (outgoing, messages) = mpsc::channel(64);
        let path = "StreamService/TailSession";
        let answers = raw::bidirectional(&channel, path, ReceiverStream::new(messages)).await;
        Self { outgoing, answers: answers.expect("opened") }
    }

    async fn say(&self, message: TailSessionRequest) {
        self.outgoing.send(message).await.expect("taken");
    }

    async fn next(&mut self) -> TailSessionResponse {
        let message = self.answers.message().await.expect("no status").expect("no end");
        assert_ne!(message.item.is_some(), message.ended.is_some());
        message
    }

    /// The next item that is no heartbeat, which belongs to this lane.
    async fn item(&mut self, lane: u32) -> TailResponse {
        loop {
            let message = self.next().await;
            let item = message.item.unwrap_or_else(|| panic!("{:?}", message.ended));
            if item.heartbeat.is_none() {
                assert_eq!(message.lane, lane);
                return item;
            }
        }
    }

    /// Bodies of a lane until it has caught up.
    async fn caught_up(&mut self, lane: u32) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let item = self.item(lane).await;
            found.extend(bodies(&item.records));
            if item.caught_up.is_some() {
                return found;
            }
        }
    }
}

/// Everything a session answers to these messages, and how it ends.
async fn outcome(
    server: &Server,
    messages: Vec<TailSessionRequest>,
) -> (Vec<TailSessionResponse>, Result<(), Status>) {
    let channel = raw::connect(&server.url()).await;
    let messages = tokio_stream::iter(messages);
    let answers = raw::bidirectional(&channel, "StreamService/TailSession", messages).await;
    raw::outcome(answers.expect("opened")).await
}

fn status(end: LaneEnd) -> Status {
    Status::with_details(end.code.into(), end.message, end.details)
}

/// Items of a lane, and how it ended if that was an error.
fn of_lane(answers: &[TailSessionResponse], lane: u32) -> (Vec<TailResponse>, Option<Status>) {
    let (mut items, mut ended) = (Vec::new(), None);
    for answer in answers.iter().filter(|answer| answer.lane == lane) {
        assert!(ended.is_none(), "something behind the end of lane {lane}");
        items.extend(answer.item.clone());
        ended = answer.ended.clone().map(status);
    }
    (items, ended)
}

#[test]
fn a_lane_is_told_what_a_call_of_its_own_would_be() {
    run(async {
        let server = Server::start().await;
        for run_id in ["a", "b"] {
            let lines = numbers(0..7);
            for line in &lines {
                write(&server.store, &RunKey::new(run_id), "out", &[line]).await;
                write(&server.store, &RunKey::new(run_id), "noise", &["not wanted"]).await;
            }
        }
        let end = Close { outcome: Outcome::Failed, ..Close::default() };
        server.store.close_run(&RunKey::new("b"), end).await.expect("closed");

        let start = |start| Some(proto::Start { start: Some(start), ..proto::Start::default() });
        let bounds = |records| Some(proto::Bounds { records, ..proto::Bounds::default() });
        let requests = [
            TailRequest { stop_at_tail: true, ..request("a") },
            TailRequest { start: start(proto::start::Start::Index(3)), ..request("b") },
            TailRequest { bounds: bounds(4), ..request("a") },
            TailRequest { streams: Vec::new(), ..request("b") },
            TailRequest { start: start(proto::start::Start::Seq(99)), ..request("a") },
            TailRequest { start: start(proto::start::Start::Last(2)), ..request("b") },
            request("absent"),
            TailRequest { heartbeat_ms: 99, ..request("a") },
        ];
        let messages = (7..).zip(requests.clone()).map(|(lane, tail)| open(lane, tail));
        let (answers, ended) = outcome(&server, messages.collect()).await;
        ended.expect("the end of the last lane is that of the session");

        let channel = raw::connect(&server.url()).await;
        for (lane, request) in (7..).zip(requests) {
            let own = raw::server_streaming(&channel, "StreamService/Tail", request.clone()).await;
            let (items, status): (Vec<TailResponse>, _) = match own {
                Ok(answers) => raw::outcome(answers).await,
                Err(status) => (Vec::new(), Err(status)),
            };
            let (found, ended) = of_lane(&answers, lane);
            assert_eq!(found, items, "{request:?}");
            match (ended, status) {
                (None, Ok(())) => assert!(found.last().expect("an end").end.is_some()),
                (Some(ended), Err(status)) => {
                    assert_eq!(reason(&ended), reason(&status));
                    assert_eq!(ended.message(), status.message());
                }
                other => panic!("{request:?}: {other:?}"),
            }
        }
    });
}

#[test]
fn a_lane_that_is_not_used_as_agreed_ends_alone() {
    run(async {
        let server = Server::start().await;
        write(&server.store, &RunKey::new("run"), "out", &["0"]).await;
        let mut session = Session::begin(&server).await;
        session.say(open(1, request("run"))).await;
        session.say(open(2, request("run"))).await;
        for (message, why) in [
            (open(2, request("run")), "open came before: it is sent once"),
            (on(3, Message::Open(TailOpen::default())), "tail is missing: say what to follow"),
            (
                TailSessionRequest { message: None, lane: 4 },
                "message is neither open, nor read, nor close",
            ),
        ] {
            let lane = message.lane;
            session.say(message).await;
            loop {
                let message = session.next().await;
                if let Some(end) = message.ended {
                    assert_eq!((message.lane, problem(&status(end))), (lane, why.to_owned()));
                    break;
                }
            }
        }
        // Nobody knows of these, and nobody minds.
        session.say(close(9)).await;
        session.say(on(9, Message::Read(TailRead { bytes: u64::MAX }))).await;
        write(&server.store, &RunKey::new("run"), "out", &["1"]).await;
        let mut found = Vec::new();
        while !found.contains(&"1".to_owned()) {
            found.extend(bodies(&session.item(1).await.records));
        }
    });
}

#[test]
fn a_lane_that_was_given_up_is_silent_and_its_number_free() {
    run(async {
        let server = Server::start().await;
        for run_id in ["a", "b"] {
            write(&server.store, &RunKey::new(run_id), "out", &[run_id]).await;
        }
        let mut session = Session::begin(&server).await;
        session.say(open(1, request("a"))).await;
        assert_eq!(session.caught_up(1).await, ["a"]);
        session.say(close(1)).await;
        session.say(open(1, request("b"))).await;
        assert_eq!(session.caught_up(1).await, ["b"]);
        write(&server.store, &RunKey::new("a"), "out", &["not followed any more"]).await;
        write(&server.store, &RunKey::new("b"), "out", &["followed"]).await;
        assert_eq!(bodies(&session.item(1).await.records), ["followed"]);
        // One that has ended by itself leaves its number, too.
        let end = Close { outcome: Outcome::Completed, ..Close::default() };
        server.store.close_run(&RunKey::new("b"), end).await.expect("closed");
        assert!(session.item(1).await.end.is_some());
        session.say(open(1, request("b"))).await;
        assert_eq!(bodies(&session.item(1).await.records), Vec::<String>::new(), "its name");
        assert_eq!(bodies(&session.item(1).await.records), ["b", "followed"]);
        assert!(session.item(1).await.end.is_some());
        drop(session.outgoing);
        assert!(session.answers.message().await.expect("a clean end").is_none());
    });
}

#[test]
fn a_session_has_no_more_lanes_than_it_may_and_room_for_another_when_one_is_given_up() {
    run(async {
        let server = Server::start().await;
        write(&server.store, &RunKey::new("run"), "out", &["0"]).await;
        let mut session = Session::begin(&server).await;
        let tail = Some(proto::Start {
            start: Some(proto::start::Start::Tail(true)),
            ..proto::Start::default()
        });
        let request = TailRequest { start: tail, ..request("run") };
        for lane in 1..=LANES_MAX {
            session.say(open(lane, request.clone())).await;
        }
        session.say(open(9_999, request.clone())).await;
        session.say(close(7)).await;
        session.say(open(9_999, request)).await;
        let (mut refused, mut begun) = (0, 0);
        while begun < LANES_MAX {
            let message = session.next().await;
            if let Some(end) = message.ended {
                let (_, why, values) = reason(&status(end));
                let found = (message.lane, why.as_str(), values["limit"].as_str());
                assert_eq!(found, (9_999, "LIMIT", "4096"));
                refused += 1;
            } else if message.item.is_some_and(|item| item.caught_up.is_some()) {
                // The one that was given up may have begun, or not.
                begun += u32::from(message.lane != 7);
            }
        }
        assert_eq!(refused, 1);
    });
}

/// A record that is as large as a message of a tail may be.
fn large(fill: u8) -> Append {
    Append { records: vec![NewRecord::new(vec![fill; 300 << 10])], ..batch("out", &[]) }
}

#[test]
fn a_lane_that_is_not_read_is_sent_its_window_and_heartbeats_and_holds_up_nobody() {
    run(async {
        const LARGE: usize = 40;
        let server = Server::start().await;
        let (stalled, other) = (RunKey::new("stalled"), RunKey::new("other"));
        write(&server.store, &other, "out", &["0"]).await;
        for n in 0..LARGE {
            append(&server.store, &stalled, large(n as u8)).await;
        }
        let mut session = Session::begin(&server).await;
        let tail = TailRequest { heartbeat_ms: 100, ..request("stalled") };
        let window_bytes = 500 << 10;
        session.say(on(1, Message::Open(TailOpen { tail: Some(tail), window_bytes }))).await;
        session.say(open(2, request("other"))).await;

        // Long enough for more, if more were sent: heartbeats come only behind what is there.
        let (mut sizes, mut beats, mut lines) = (Vec::new(), 0, 0);
        while beats < 3 {
            let TailSessionResponse { lane, item, ended } = session.next().await;
            let item = item.unwrap_or_else(|| panic!("{ended:?}"));
            match (lane, item.heartbeat) {
                (1, Some(beat)) => {
                    assert_eq!(beat.tail, LARGE as u64 + 1);
                    beats += 1;
                    write(&server.store, &other, "out", &["goes on"]).await;
                }
                (1, None) if 0 < item.records.count => sizes.push(item.records.len() as u64),
                (2, None) => lines += item.records.count,
                _ => {}
            }
        }
        assert!(2 <= lines, "the other lane was held up");
        let (last, before) = sizes.split_last().expect("something");
        let before: u64 = before.iter().sum();
        assert!(before < window_bytes && window_bytes <= before + last, "{sizes:?}");

        // What it says to have read may come again, and all of it comes once.
        let mut seen = sizes.len();
        while seen < LARGE {
            let bytes = sizes.iter().sum();
            sizes.clear();
            session.say(on(1, Message::Read(TailRead { bytes }))).await;
            let mut told = 0;
            while told < bytes && seen < LARGE {
                let message = session.next().await;
                let Some(item) = message.item.filter(|item| 0 < item.records.count) else {
                    continue;
                };
                if message.lane == 1 {
                    for record in item.records.decode().expect("records") {
                        assert_eq!(record.data[0] as usize, seen);
                        seen += 1;
                    }
                    told += item.records.len() as u64;
                    sizes.push(item.records.len() as u64);
                }
            }
        }
    });
}

#[test]
fn a_server_that_stops_ends_a_session_and_none_of_its_tails() {
    run(async {
        let mut server = Server::start().await;
        write(&server.store, &RunKey::new("run"), "out", &["0"]).await;
        let mut session = Session::begin(&server).await;
        session.say(open(1, request("run"))).await;
        assert_eq!(session.caught_up(1).await, ["0"]);
        server.stop();
        let status = session.answers.message().await.expect_err("never a clean end");
        let (code, why, _) = reason(&status);
        assert_eq!((code, why.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
        server.stopped().await;
    });
}

/// A tail of the stream `out` of each run.
async fn follow(client: &Client, keys: &[RunKey], start: Start) -> Vec<Tail> {
    let mut tails = Vec::new();
    for key in keys {
        let query = Query::stream(key.clone(), "out").from(start.clone());
        tails.push(client.tail(query).await.expect("tail"));
    }
    tails
}

fn keys(count: usize) -> Vec<RunKey> {
    (0..count).map(|n| RunKey::new(format!("run-{n}"))).collect()
}

#[test]
fn tails_of_a_client_go_on_when_one_of_them_ends() {
    run(async {
        let server = Server::start().await;
        let keys = keys(6);
        for key in &keys {
            write(&server.store, key, "out", &["0"]).await;
        }
        let client = client(&server.url(), persistent());
        let mut tails = follow(&client, &keys, Start::Tail).await;
        server.store.delete_run(&keys[2], Delete::default()).await.expect("deleted");
        let end = Close { outcome: Outcome::Canceled, ..Close::default() };
        server.store.close_run(&keys[4], end).await.expect("closed");
        drop(tails.pop());
        for (n, tail) in tails.iter_mut().enumerate() {
            loop {
                match (n, tail.next().await) {
                    (2, Err(error)) => {
                        assert!(error.to_string().contains("deleted"), "{error}");
                        break;
                    }
                    (4, Ok(TailItem::End(end, _))) => {
                        assert_eq!(end, End::Closed(Some(Outcome::Canceled)));
                        break;
                    }
                    (0 | 1 | 3, Ok(TailItem::CaughtUp(_))) => break,
                    (_, Ok(TailItem::CaughtUp(_) | TailItem::Streams(_))) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        for n in [0, 1, 3] {
            write(&server.store, &keys[n], "out", &["1"]).await;
            assert_eq!(take(&mut tails[n], 1).await, ["1"]);
        }
        let absent = Query::stream(RunKey::new("absent"), "out").from(Start::Tail);
        assert_eq!(refusal(client.tail(absent).await), Refusal::RunNotFound);
    });
}

#[test]
fn tails_that_share_a_session_skip_and_double_nothing_when_it_breaks() {
    run(async {
        // More than one session holds.
        const RUNS: usize = 1_100;
        const LINES: usize = 20;
        let server = Server::start().await;
        let keys = keys(RUNS);
        for key in &keys {
            write(&server.store, key, "noise", &["the run exists"]).await;
        }
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let mut following = JoinSet::new();
        for (n, key) in keys.iter().enumerate() {
            // Some from the beginning, some from the tail: there is nothing behind either.
            let start = if n % 2 == 0 { Start::Beginning } else { Start::Tail };
            let tail = follow(&client, std::slice::from_ref(key), start).await.remove(0);
            following.spawn(async move {
                let mut tail = tail;
                let (mut found, mut caught_up) = (Vec::new(), 0);
                loop {
                    match tail.next().await.expect("item") {
                        TailItem::Records(records, _) => found.extend(bodies(&records)),
                        TailItem::CaughtUp(_) => caught_up += 1,
                        TailItem::Streams(_) => {}
                        TailItem::Gap(gap, _) => panic!("{gap:?}"),
                        TailItem::End(..) => return (found, caught_up),
                    }
                }
            });
        }
        let mut cuts = 0;
        for (n, line) in numbers(0..LINES).iter().enumerate() {
            let mut writing = JoinSet::new();
            for key in keys.clone() {
                let (store, line) = (server.store.clone(), line.clone());
                writing.spawn(async move { append(&store, &key, batch("out", &[&line])).await });
            }
            writing.join_all().await;
            if n % 4 == 3 {
                proxy.cut();
                cuts += 1;
            }
        }
        let end = Close { outcome: Outcome::Completed, ..Close::default() };
        for key in &keys {
            server.store.close_run(key, end.clone()).await.expect("closed");
        }
        let lines = numbers(0..LINES);
        for (found, caught_up) in following.join_all().await {
            assert_eq!(found, lines);
            assert!(caught_up <= 1, "{caught_up}");
        }
        assert_eq!(cuts, 5);
    });
}

#[test]
fn a_tail_of_a_client_that_is_not_read_holds_up_none_of_the_others() {
    run(async {
        const LARGE: usize = 64;
        let server = Server::start().await;
        let keys = keys(4);
        for key in &keys {
            write(&server.store, key, "out", &["0"]).await;
        }
        let client = client(&server.url(), persistent());
        let mut tails = follow(&client, &keys, Start::Tail).await;
        let mut stalled = tails.remove(0);
        while !matches!(stalled.next().await.expect("item"), TailItem::CaughtUp(_)) {}
        for n in 0..LARGE {
            append(&server.store, &keys[0], large(n as u8)).await;
        }
        for (tail, key) in tails.iter_mut().zip(&keys[1..]) {
            for line in numbers(1..50) {
                write(&server.store, key, "out", &[&line]).await;
                assert_eq!(take(tail, 1).await, [line]);
            }
        }
        let mut found = BTreeMap::new();
        while found.len() < LARGE {
            let TailItem::Records(records, _) = stalled.next().await.expect("item") else {
                continue;
            };
            for record in records.decode().expect("records") {
                assert!(found.insert(record.index, record.data[0]).is_none());
            }
        }
        let expected: BTreeMap<u64, u8> = (0..LARGE).map(|n| (n as u64 + 1, n as u8)).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_client_follows_more_runs_than_a_connection_may_have_calls() {
    run(async {
        // A connection may have 20,000 calls at a time.
        const TAILS: usize = 20_500;
        let server = Server::start().await;
        let key = RunKey::new("run");
        write(&server.store, &key, "out", &["0"]).await;
        let proxy = Proxy::start(server.address).await;
        let client = Client::new(&proxy.url()).expect("url");
        let mut opening = JoinSet::new();
        for _ in 0..TAILS {
            let (client, query) = (client.clone(), Query::stream(key.clone(), "out"));
            opening.spawn(async move {
                let mut tail = client.tail(query).await.expect("tail");
                while !matches!(tail.next().await.expect("item"), TailItem::CaughtUp(_)) {}
                tail
            });
        }
        let tails = opening.join_all().await;
        write(&server.store, &key, "out", &["1"]).await;
        let mut reached = 0;
        for mut tail in tails {
            assert_eq!(take(&mut tail, 1).await, ["1"]);
            reached += 1;
        }
        assert_eq!((reached, proxy.accepted()), (TAILS, 1));
    });
}
