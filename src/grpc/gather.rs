//! A connection whose small writes wait for their turn once, so that what is ready at the same time
//! goes out together.
//!
//! A commit answers many callers at once, each in a task of its own, and those then ask for more. The
//! runtime lets a connection write as soon as the first of them has something for it: a system call,
//! a packet and a wake-up of the other side for every message. Here the connection goes to the end
//! of the queue of tasks first, behind all that are about to send. There is no timer: with nothing
//! else to do, its turn comes at once.
//!
//! How large the frames of a connection may be stands here, too, because that is what one large write is.
//!
//! What it deliberately does not do: hold back large writes, or keep any bytes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(feature = "grpc")]
use tonic::transport::server::Connected;

/// Bytes of an HTTP/2 frame, at most, in both directions: what is read or written in bulk is passed to
/// the system frame by frame, and 16 KiB, which is what is allowed to who says nothing (RFC 9113,
/// 6.5.2), are not worth a call.
pub(crate) const FRAME_BYTES_MAX: u32 = 64 << 10;
/// A write of so many bytes is worth a system call.
const LARGE_BYTES: usize = 8 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gathering<S> {
    socket: S,
    /// Whether the write that comes next has waited.
    has_waited: bool,
}

impl<S> Gathering<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, has_waited: false }
    }

    /// Whether the write is to wait for its turn; it is asked for again then.
    fn waits(&mut self, bytes: usize, cx: &Context<'_>) -> bool {
        if self.has_waited || LARGE_BYTES <= bytes {
            self.has_waited = false;
            return false;
        }
        self.has_waited = true;
        cx.waker().wake_by_ref();
        true
    }
}

#[cfg(feature = "grpc")]
impl<S: Connected> Connected for Gathering<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.socket.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waits(buf.len(), cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waits(bufs.iter().map(|buf| buf.len()).sum(), cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (Gathering<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let other = TcpStream::connect(listener.local_addr().expect("address"));
        let (accepted, other) = tokio::join!(listener.accept(), other);
        (Gathering::new(accepted.expect("accepted").0), other.expect("connected"))
    }

    #[tokio::test]
    async fn a_small_write_waits_once_and_a_large_one_does_not() {
        let (mut near, mut far) = pair().await;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut near).poll_write(&mut cx, b"ab").is_pending());
        // What is asked for after the wait may be more.
        let written = poll_fn(|cx| Pin::new(&mut near).poll_write(cx, b"abc")).await;
        assert_eq!(written.expect("written"), 3);
        let mut read = [0; 3];
        far.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"abc");
        let written = Pin::new(&mut near).poll_write(&mut cx, &[0; LARGE_BYTES]);
        assert!(matches!(written, Poll::Ready(Ok(_))));
        assert!(Pin::new(&mut near).poll_write(&mut cx, b"d").is_pending(), "each small one waits");
    }
}
