//! The connection to a server: made when it is needed, and replaced when it is dead.

use std::{fmt, future::Future, io, time::Duration};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    ANSWER_BYTES_MAX, ClientOptions,
    connect::{Connector, Dialer},
    generated::{
        admin_service_client::AdminServiceClient, batch_service_client::BatchServiceClient,
        input_service_client::InputServiceClient, run_service_client::RunServiceClient,
        stream_service_client::StreamServiceClient, wait_service_client::WaitServiceClient,
        watch_service_client::WatchServiceClient, work_service_client::WorkServiceClient,
    },
};
use crate::{core::Refusal, error::Error, grpc::gather::FRAME_BYTES_MAX};

pub(super) type Runs = RunServiceClient<Channel>;
pub(super) type Streams = StreamServiceClient<Channel>;
pub(super) type Admin = AdminServiceClient<Channel>;
pub(super) type Work = WorkServiceClient<Channel>;
pub(super) type Inputs = InputServiceClient<Channel>;
pub(super) type Waits = WaitServiceClient<Channel>;
pub(super) type Batches = BatchServiceClient<Channel>;
pub(super) type Watches = WatchServiceClient<Channel>;

/// Bytes in flight to us on one call.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes in flight to us on all calls: so many that a thousand tails which nobody reads do not
/// hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// When to ask a silent connection whether it lives, and how long to wait for the answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A connection that many calls share.
pub(super) struct Link {
    /// Makes a connection, with its first call.
    connect: Box<dyn Fn() -> Channel + Send + Sync>,
    // A plain mutex: no await inside, and the section copies a handle.
    current: Mutex<(Generation, Channel)>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("current", &*self.current.lock()).finish_non_exhaustive()
    }
}

/// How often the connection was replaced.
pub(super) type Generation = u64;

impl Link {
    pub(super) fn new(url: &str, options: &ClientOptions) -> Result<Self, Error> {
        let endpoint = endpoint(url, options)?;
        Ok(Self::by(move || endpoint.connect_with_connector_lazy(Connector::new())))
    }

    /// A link over connections of any kind.
    pub(super) fn over<D, F, S>(dial: D, url: &str, options: &ClientOptions) -> Result<Self, Error>
    where
        D: Fn(Uri) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let endpoint = endpoint(url, options)?;
        Ok(Self::by(move || endpoint.connect_with_connector_lazy(Dialer(dial.clone()))))
    }

    fn by(connect: impl Fn() -> Channel + Send + Sync + 'static) -> Self {
        let current = Mutex::new((0, connect()));
        Self { connect: Box::new(connect), current }
    }

    fn channel(&self) -> Channel {
        self.current.lock().1.clone()
    }

    pub(super) fn runs(&self) -> Runs {
        RunServiceClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn admin(&self) -> Admin {
        AdminServiceClient::new(self.channel())
    }

    pub(super) fn work(&self) -> Work {
        WorkServiceClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn waits(&self) -> Waits {
        WaitServiceClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn batches(&self) -> Batches {
        BatchServiceClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn inputs(&self) -> (Generation, Inputs) {
        let (generation, channel) = self.current.lock().clone();
        let inputs = InputServiceClient::new(channel);
        (generation, inputs.max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) fn watches(&self) -> (Generation, Watches) {
        let (generation, channel) = self.current.lock().clone();
        let watches = WatchServiceClient::new(channel);
        (generation, watches.max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) fn streams(&self) -> (Generation, Streams) {
        let (generation, channel) = self.current.lock().clone();
        let streams = StreamServiceClient::new(channel);
        (generation, streams.max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Replaces the connection, unless somebody has done so already: it is dead, but the transport
    /// does not know yet.
    pub(super) fn replace(&self, dead: Generation) {
        let mut current = self.current.lock();
        if current.0 == dead {
            *current = (dead + 1, (self.connect)());
        }
    }
}

/// Where the server is, and how a connection to it behaves.
fn endpoint(url: &str, options: &ClientOptions) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Refusal::invalid("url", error.to_string()))?
        .connect_timeout(options.connect_timeout)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint)
}
