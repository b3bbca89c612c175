//! A disk that fails under a server: callers are told what they may believe, and what to do.

#![cfg(feature = "sim")]

use std::time::Duration;

use braidlog::{
    Append, Error, IfAbsent, NewRecord, Options, Query, RunKey, Store, TailItem,
    client::{Client, RetryPolicy},
    engine::Progress,
    grpc::server::serve,
    platform::sim::{self, Call, Fault, SimClock, SimDisk, What},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use crate::{
    raw::{self, reason},
    server::{batch, bodies, client, numbers, run},
};

/// A server on a simulated disk that keeps nothing in memory for readers.
struct Simulated {
    disk: SimDisk,
    store: Store,
    url: String,
    stop: CancellationToken,
    stepping: Option<JoinHandle<()>>,
}

impl Simulated {
    async fn start() -> Self {
        let disk = SimDisk::new();
        let options = Options {
            slot_bytes_first: 64 << 10,
            slot_bytes: 64 << 10,
            manifest_bytes: 32 << 10,
            ring_bytes: 0,
            ..Options::new("/simulated")
        };
        let platform = sim::platform(&disk, &SimClock::new(1), 7);
        let (store, mut stepper) = Store::open_stepped(platform, options).expect("opens");
        let stop = CancellationToken::new();
        let stepping = tokio::task::spawn_blocking({
            let stop = stop.clone();
            move || {
                while !stop.is_cancelled() {
                    if stepper.step() != Progress::Worked {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        tokio::spawn(serve(listener, store.clone(), stop.clone()));
        Self { disk, store, url, stop, stepping: Some(stepping) }
    }

    fn client(&self) -> Client {
        client(&self.url, RetryPolicy::never())
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.stepping.take().expect("once").await.expect("no panic");
    }
}

#[test]
fn a_failed_sync_leaves_what_waits_open_and_turns_away_what_comes() {
    run(async {
        let server = Simulated::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        client.append(&key, batch("out", &["0"]), IfAbsent::Create).await.expect("appended");
        let mut tail = client.tail(Query::run(key.clone())).await.expect("tail");
        while !matches!(tail.next().await.expect("item"), TailItem::CaughtUp(_)) {}

        server.disk.inject(Fault::new(Call::Sync, What::SyncFailsPageClean).on("journal"));
        let unknown = client.append(&key, batch("out", &["1"]), IfAbsent::Create).await;
        assert!(matches!(unknown, Err(Error::OutcomeUnknown { .. })), "{unknown:?}");
        let stopped = client.append(&key, batch("out", &["2"]), IfAbsent::Create).await;
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
        let stopped = client.read(Query::run(key)).await;
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
        let end = tail.next().await;
        assert!(matches!(end, Err(Error::Stopped { .. })), "{end:?}");

        let mut health = HealthClient::new(raw::connect(&server.url).await);
        for service in ["", "braidlog.v1.StreamService"] {
            let request = HealthCheckRequest { service: service.into() };
            let answer = health.check(request).await.expect("answer").into_inner();
            assert_eq!(answer.status(), ServingStatus::NotServing);
        }
        server.end().await;
    });
}

#[test]
fn damage_is_told_with_its_place_and_costs_only_what_it_hit() {
    run(async {
        let server = Simulated::start().await;
        let (client, hit, sound) = (server.client(), RunKey::new("hit"), RunKey::new("sound"));
        let body = NewRecord::new(vec![0xA5; 300]);
        let append = Append { records: vec![body], ..batch("out", &[]) };
        client.append(&hit, append, IfAbsent::Create).await.expect("appended");
        client.append(&sound, batch("out", &["fine"]), IfAbsent::Create).await.expect("appended");

        let (file, at) = server
            .disk
            .files()
            .into_iter()
            .find_map(|file| {
                let bytes = server.disk.read_file(&file)?;
                let at = bytes.windows(300).position(|window| window == [0xA5; 300])?;
                Some((file, at as u64))
            })
            .expect("the body is on disk as it is");
        server.disk.flip_bit(&file, at + 100, 3);

        match client.read(Query::stream(hit.clone(), "out")).await {
            Err(Error::Corrupt(corruption)) => {
                assert_eq!(*corruption.file, *file);
                assert!(corruption.position < at, "{corruption}");
                assert!(at < corruption.position + 4_096, "{corruption}");
            }
            other => panic!("{other:?}"),
        }
        let mut tail = client.tail(Query::stream(hit, "out")).await.expect("tail");
        let end = loop {
            match tail.next().await {
                Ok(TailItem::Records(records, _)) => panic!("{records:?}"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(end, Error::Corrupt(_)), "{end:?}");
        let page = client.read(Query::stream(sound, "out")).await.expect("page");
        assert_eq!(bodies(&page.records), ["fine"]);
        server.end().await;
    });
}

#[test]
fn a_full_disk_is_told_and_appends_go_on_when_there_is_room() {
    run(async {
        let server = Simulated::start().await;
        let (client, key) = (server.client(), RunKey::new("run"));
        client.append(&key, batch("out", &["0"]), IfAbsent::Create).await.expect("appended");
        server.disk.set_capacity(Some(0));
        let mut appended = 1;
        let full = loop {
            let line = appended.to_string();
            match client.append(&key, batch("out", &[&line]), IfAbsent::Create).await {
                Ok(_) => appended += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::DiskFull), "{full:?}");
        let channel = raw::connect(&server.url).await;
        let request = braidlog::proto::AppendRequest {
            run_id: "run".into(),
            stream: "out".into(),
            records: vec![Default::default()],
            ..Default::default()
        };
        let status = raw::unary::<_, ()>(&channel, "StreamService/Append", request).await;
        let status = status.expect_err("refused");
        assert_eq!(reason(&status).0, Code::ResourceExhausted);
        let advice = status.get_details_retry_info().expect("when to come back");
        assert!(advice.retry_delay.is_some());
        let page = client.read(Query::stream(key.clone(), "out")).await.expect("page");
        assert_eq!(bodies(&page.records), numbers(0..appended));

        server.disk.set_capacity(None);
        let line = appended.to_string();
        while client.append(&key, batch("out", &[&line]), IfAbsent::Create).await.is_err() {}
        let tail = server.store.check_tail(&key, None, Some("out")).await.expect("tail");
        assert_eq!(tail.stream.expect("stream").tail.0, appended as u64 + 1);
        server.end().await;
    });
}
