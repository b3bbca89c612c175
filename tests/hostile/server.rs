//! The server in this process, and the client beside the hostile ones.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    panic,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

use braidlog::{
    Append, IfAbsent, NewRecord, Options, Query, RunKey, Start, Store,
    client::{Client, ClientOptions, RetryPolicy},
    grpc::server::serve,
    platform::process::process_use,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

/// Memory that hostile callers may make this process take, beyond what it has.
const MEMORY_MAX: u64 = 512 << 20;

/// Panics outside of the tests themselves.
static PANICS: AtomicU64 = AtomicU64::new(0);
/// Tests take memory one after the other, so that it is known whose it is.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_ours = info.location().is_some_and(|at| at.file().starts_with("tests/"));
            PANICS.fetch_add(u64::from(!is_ours), Ordering::SeqCst);
            before(info);
        }));
    });
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A seed, which is printed.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = number("BRAIDLOG_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(()));
    println!("repeat with: BRAIDLOG_TEST_SEED={seed} cargo test --test hostile {test}");
    seed
}

/// SplitMix64: small, and good enough.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }
}

/// A server, and who is disturbed.
pub(crate) struct Disturbed {
    pub(crate) address: SocketAddr,
    store: Store,
    client: Client,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    written: Vec<String>,
    resident: u64,
    panics: u64,
    _folder: TempDir,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Disturbed {
    pub(crate) async fn start() -> Self {
        count_panics();
        let _alone = ONE_AT_A_TIME.lock().await;
        let folder = TempDir::new().expect("folder");
        let options = Options {
            slot_bytes_first: 4 << 20,
            slot_bytes: 4 << 20,
            manifest_bytes: 64 << 10,
            ..Options::new(folder.path().join("data"))
        };
        let store = Store::open(options).expect("opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let shutdown = CancellationToken::new();
        let serving = serve(listener, store.clone(), shutdown.clone());
        let serving = tokio::spawn(async { serving.await.expect("served") });
        let options = ClientOptions { retry: RetryPolicy::never(), ..ClientOptions::default() };
        let client = Client::with_options(&format!("http://{address}"), options).expect("url");
        let resident = process_use(std::process::id()).expect("memory").resident;
        let panics = PANICS.load(Ordering::SeqCst);
        let _folder = folder;
        let written = Vec::new();
        Self {
            address,
            store,
            client,
            shutdown,
            serving,
            written,
            resident,
            panics,
            _folder,
            _alone,
        }
    }

    /// The undisturbed client goes on: it writes, and reads all that it has written.
    pub(crate) async fn check(&mut self) {
        let run = RunKey::new("undisturbed");
        let body = self.written.len().to_string();
        let records = vec![NewRecord::new(body.clone())];
        let append = Append { stream: "out".into(), records, ..Append::default() };
        let appended = self.client.append(&run, append, IfAbsent::Create).await.expect("appended");
        assert_eq!(appended.first_index.0, self.written.len() as u64);
        self.written.push(body);
        let (mut query, mut read) = (Query::stream(run, "out"), Vec::new());
        while read.len() < self.written.len() {
            let page = self.client.read(query.clone()).await.expect("read");
            for record in page.records.decode().expect("records") {
                read.push(String::from_utf8(record.data.to_vec()).expect("text"));
            }
            query.start = Start::Cursor(page.cursor.to_string());
        }
        assert_eq!(read, self.written);
        assert_eq!(PANICS.load(Ordering::SeqCst), self.panics, "something panicked");
        let resident = process_use(std::process::id()).expect("memory").resident;
        let more = resident.saturating_sub(self.resident);
        assert!(more < MEMORY_MAX, "the process has taken {more} bytes");
    }

    /// Ends it in order: whatever was begun lets go.
    pub(crate) async fn end(mut self) {
        self.check().await;
        self.shutdown.cancel();
        self.serving.await.expect("no panic");
        self.store.close().await.expect("closes");
        assert_eq!(PANICS.load(Ordering::SeqCst), self.panics, "something panicked");
    }
}
