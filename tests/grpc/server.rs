//! A server in this process, on a port of its own, over a store in a temporary folder.

use std::{future::Future, net::SocketAddr, time::Duration};

use braidlog::{
    Append, Appended, Error, IfAbsent, NewRecord, Options, Record, Records, Refusal, RunKey, Store,
    TailItem,
    client::{Client, ClientOptions, RetryPolicy, Tail},
    grpc::server::{ServeError, serve},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
const HANGING: Duration = Duration::from_secs(180);

/// Runs a test on two threads, and fails it if it hangs.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async { tokio::time::timeout(HANGING, test).await.expect("hangs") })
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    folder: TempDir,
    shutdown: CancellationToken,
    serving: Option<JoinHandle<Result<(), ServeError>>>,
}

fn options(folder: &TempDir) -> Options {
    Options {
        slot_bytes_first: 4 << 20,
        slot_bytes: 4 << 20,
        manifest_bytes: 32 << 10,
        ring_bytes: 16 << 20,
        ..Options::new(folder.path().join("data"))
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().expect("folder");
        Self::start_at(folder, "127.0.0.1:0".parse().expect("address")).await
    }

    async fn start_at(folder: TempDir, address: SocketAddr) -> Self {
        let store = Store::open(options(&folder)).expect("opens");
        let listener = TcpListener::bind(address).await.expect("binds");
        let address = listener.local_addr().expect("address");
        let shutdown = CancellationToken::new();
        let serving = Some(tokio::spawn(serve(listener, store.clone(), shutdown.clone())));
        Self { address, store, folder, shutdown, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client that gives up at once.
    pub(crate) fn client(&self) -> Client {
        client(&self.url(), RetryPolicy::never())
    }

    /// Asks the server to drain.
    pub(crate) fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until nothing is served any more.
    pub(crate) async fn stopped(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.await.expect("no panic").expect("served");
        }
    }

    /// Drains, closes the store, and opens both again in the same place.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop();
        self.stopped().await;
        self.store.close().await.expect("closes");
        let Self { address, store, folder, .. } = self;
        tokio::task::spawn_blocking(move || drop(store)).await.expect("dropped");
        Self::start_at(folder, address).await
    }
}

/// A client whose tails notice quickly when the server is silent.
pub(crate) fn client(url: &str, retry: RetryPolicy) -> Client {
    let heartbeat = Duration::from_millis(200);
    let options = ClientOptions { retry, heartbeat, ..ClientOptions::default() };
    Client::with_options(url, options).expect("url")
}

/// Comes back quickly, for as long as it takes.
pub(crate) fn persistent() -> RetryPolicy {
    let millis = Duration::from_millis;
    RetryPolicy { deadline: None, initial: millis(5), max: millis(50) }
}

pub(crate) fn batch(stream: &str, bodies: &[&str]) -> Append {
    Append { stream: stream.into(), records: records(bodies), ..Append::default() }
}

pub(crate) fn records(bodies: &[&str]) -> Vec<NewRecord> {
    bodies.iter().map(|body| NewRecord::new(body.to_string())).collect()
}

/// Appends one record per body, each in an append of its own.
pub(crate) async fn write(store: &Store, run: &RunKey, stream: &str, bodies: &[&str]) {
    for body in bodies {
        append(store, run, batch(stream, &[body])).await;
    }
}

pub(crate) async fn append(store: &Store, run: &RunKey, append: Append) -> Appended {
    store.append(run, append, IfAbsent::Create).await.expect("appended")
}

pub(crate) fn bodies(records: &Records) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.data.to_vec()).expect("text");
    records.decode().expect("records").iter().map(text).collect()
}

/// Bodies of so many records to come.
pub(crate) async fn take(tail: &mut Tail, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        if let TailItem::Records(records, _) = tail.next().await.expect("item") {
            found.extend(bodies(&records));
        }
    }
    assert_eq!(found.len(), count, "no more than that");
    found
}

pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> Refusal {
    match answer {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}
