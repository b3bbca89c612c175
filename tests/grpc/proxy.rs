//! A network that can be made to fail: connections are counted, cut, or fall silent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::sync::CancellationToken;

/// Forwards every connection to a server.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

#[derive(Clone, Default)]
struct Connection {
    cut: CancellationToken,
    /// Nothing goes through any more, but nobody is told.
    silent: Arc<AtomicBool>,
    /// Answers do not go through any more.
    deaf: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let proxy = Self {
            address: listener.local_addr().expect("address"),
            accepted: Arc::default(),
            connections: Arc::default(),
        };
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepting.forward(client, target).await;
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        for connection in self.connections.lock().expect("lock").drain(..) {
            connection.cut.cancel();
        }
    }

    /// Makes every connection there is fall silent.
    pub(crate) fn silence(&self) {
        for connection in self.connections.lock().expect("lock").iter() {
            connection.silent.store(true, Ordering::SeqCst);
        }
    }

    /// Loses every answer on the connections there are; requests go through.
    pub(crate) fn lose_answers(&self) {
        for connection in self.connections.lock().expect("lock").iter() {
            connection.deaf.store(true, Ordering::SeqCst);
        }
    }

    async fn forward(&self, client: TcpStream, target: SocketAddr) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let Ok(server) = TcpStream::connect(target).await else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("nodelay");
        }
        let connection = Connection::default();
        self.connections.lock().expect("lock").push(connection.clone());
        let ((from_client, to_client), (from_server, to_server)) =
            (client.into_split(), server.into_split());
        let lost = [connection.silent.clone(), connection.deaf.clone()];
        tokio::spawn(copy(from_server, to_client, connection.cut.clone(), lost));
        let lost = [connection.silent.clone(), connection.silent];
        tokio::spawn(copy(from_client, to_server, connection.cut, lost));
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    cut: CancellationToken,
    lost: [Arc<AtomicBool>; 2],
) {
    let copying = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let len = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(len) => len,
            };
            let is_lost = lost.iter().any(|lost| lost.load(Ordering::SeqCst));
            if !is_lost && to.write_all(&buffer[..len]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = cut.cancelled() => {}
        () = copying => cut.cancel(),
    }
}
