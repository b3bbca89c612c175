//! Connections over the simulated network, as the server and the client want them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use braidlog::client::{Client, ClientOptions, RetryPolicy};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// Name of the server in the network.
pub(crate) const SERVER: &str = "server";
/// Where it listens.
pub(crate) const PORT: u16 = 7411;

/// A connection that the server has accepted.
pub(crate) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connections as they come.
pub(crate) fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<Accepted>> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_local(async move {
        loop {
            let accepted = listener.accept().await.map(|(socket, _)| Accepted(socket));
            if send.send(accepted).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receive)
}

/// A client as a program has it, on the simulated network.
pub(crate) fn client(retry: RetryPolicy) -> Client {
    let options = ClientOptions {
        retry,
        heartbeat: Duration::from_millis(500),
        connect_timeout: Duration::from_secs(1),
    };
    let url = format!("http://{SERVER}:{PORT}");
    let dial = |_| TcpStream::connect((SERVER, PORT));
    Client::with_dialer(&url, options, dial).expect("a URL")
}
