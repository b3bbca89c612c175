//! Makes connections whose small writes go out together.
//!
//! What it deliberately does not do: wait for ever, or try again. The endpoint bounds the time, and
//! the channel repeats.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::net::TcpStream;
use tonic::{
    codegen::{Service, StdError},
    transport::Uri,
};

use crate::grpc::gather::Gathering;

/// Connects to the address of a URL over TCP.
#[derive(Debug, Clone)]
pub(super) struct Connector(HttpConnector);

type Connection<S> = TokioIo<Gathering<S>>;
type Connecting<S> = Pin<Box<dyn Future<Output = Result<Connection<S>, StdError>> + Send>>;

impl Connector {
    pub(super) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        Self(tcp)
    }
}

impl Service<Uri> for Connector {
    type Response = Connection<TcpStream>;
    type Error = StdError;
    type Future = Connecting<TcpStream>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.0.poll_ready(cx).map_err(StdError::from)
    }

    fn call(&mut self, uri: Uri) -> Connecting<TcpStream> {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            Ok(TokioIo::new(Gathering::new(socket)))
        })
    }
}

/// Connects by a function of its caller's.
#[derive(Debug, Clone)]
pub(super) struct Dialer<D>(pub(super) D);

impl<D, F, S> Service<Uri> for Dialer<D>
where
    D: Fn(Uri) -> F,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    type Response = Connection<S>;
    type Error = StdError;
    type Future = Connecting<S>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting<S> {
        let dialing = (self.0)(uri);
        Box::pin(async move { Ok(TokioIo::new(Gathering::new(dialing.await?))) })
    }
}
