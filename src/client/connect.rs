//! Makes connections whose small writes go out together.
//!
//! What it deliberately does not do: wait for ever, or try again. The endpoint bounds the time, and
//! the channel repeats.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tonic::{
    codegen::{Service, StdError},
    transport::Uri,
};

use crate::grpc::gather::Gathering;

/// Connects to the address of a URL over TCP.
#[derive(Debug, Clone)]
pub(super) struct Connector(HttpConnector);

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Gathering>, StdError>> + Send>>;

impl Connector {
    pub(super) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        Self(tcp)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Gathering>;
    type Error = StdError;
    type Future = Connecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.0.poll_ready(cx).map_err(StdError::from)
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            Ok(TokioIo::new(Gathering::new(socket)))
        })
    }
}
