//! Serves a store on a listener until told to stop.
//!
//! Stopping drains: health says NOT_SERVING, no connection is accepted and no new call taken;
//! calls under way are answered, append sessions acknowledge what they have admitted, tails and
//! sessions end with UNAVAILABLE / SHUTTING_DOWN. After [`DRAIN_MAX`] whatever is left is given
//! up. The store stays open; closing it is its owner's business.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::sleep,
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService,
    service::Routes,
    transport::{
        Server,
        server::{Connected, TcpIncoming},
    },
};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    edge::Edge,
    gather::{FRAME_BYTES_MAX, Gathering},
    generated::{
        admin_service_server::AdminServiceServer, batch_service_server::BatchServiceServer,
        input_service_server::InputServiceServer, run_service_server::RunServiceServer,
        stream_service_server::StreamServiceServer, wait_service_server::WaitServiceServer,
        watch_service_server::WatchServiceServer, work_service_server::WorkServiceServer,
    },
    inputs::Inputs,
    service::{Admin, Runs, Streams},
    tokens::{Batches, Waits},
    watch::Watches,
    work::Work,
};
use crate::engine::Store;

/// The files of the protocol, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("../gen/descriptor.bin");

/// How long calls under way may take when the server stops.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Bytes of a request, at most: the largest append with all its fields, and room.
pub(super) const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Calls at a time on one connection: a gateway follows ten thousand runs on one.
const CALLS_PER_CONNECTION_MAX: u32 = 20_000;
/// Calls that a client cancelled before they were begun, at a time on one connection: whoever
/// passes this is sent away. A gateway may lose many of its own callers at once.
const CANCELLED_EARLY_MAX: usize = 1_024;
/// Bytes in flight to us on one call: the largest append.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes in flight to us on one connection. Sessions that wait hold a stream's window each; the
/// others on their connection go on.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The services whose health is told; the empty name is the process.
const SERVICES: [&str; 9] = [
    "",
    RunServiceServer::<Runs>::NAME,
    StreamServiceServer::<Streams>::NAME,
    WorkServiceServer::<Work>::NAME,
    InputServiceServer::<Inputs>::NAME,
    WatchServiceServer::<Watches>::NAME,
    WaitServiceServer::<Waits>::NAME,
    BatchServiceServer::<Batches>::NAME,
    AdminServiceServer::<Admin>::NAME,
];
/// When to ask a silent connection whether it lives, and how long to wait for the answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
#[error("serving gRPC: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves `store` on `listener` until `shutdown` is cancelled and the calls under way have ended.
///
/// # Errors
/// What the transport could not do.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    serve_on(TcpIncoming::from(listener).with_nodelay(Some(true)), store, shutdown).await
}

/// As [`serve`], on connections of any kind.
///
/// # Errors
/// As [`serve`].
pub async fn serve_on<S>(
    incoming: impl Stream<Item = io::Result<S>>,
    store: Store,
    shutdown: CancellationToken,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    let drain = CancellationToken::new();
    let routes = routes(&store, &drain).add_service(health_service);
    set_all(&health, ServingStatus::Serving).await;

    let incoming = incoming.map(|socket| socket.map(Gathering::new));
    let serving = transport()
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, drain.clone().cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        () = drained(health, &store, &shutdown, &drain) => {
            tracing::warn!("calls were still under way {DRAIN_MAX:?} after the server was stopped");
            Ok(())
        }
    }
}

/// The transport and its limits.
pub(super) fn transport() -> Server {
    Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_EARLY_MAX))
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
}

fn routes(store: &Store, drain: &CancellationToken) -> Routes {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let runs = RunServiceServer::new(Runs { store: store.clone() });
    let streams = StreamServiceServer::new(Streams { store: store.clone(), drain: drain.clone() });
    let work = WorkServiceServer::new(Work { store: store.clone(), drain: drain.clone() });
    let inputs = InputServiceServer::new(Inputs { store: store.clone(), drain: drain.clone() });
    let watches = WatchServiceServer::new(Watches { store: store.clone(), drain: drain.clone() });
    let waits = WaitServiceServer::new(Waits { store: store.clone() });
    let batches = BatchServiceServer::new(Batches { store: store.clone() });
    let admin = AdminServiceServer::new(Admin { store: store.clone() });
    Routes::new(Edge(runs.max_decoding_message_size(REQUEST_BYTES_MAX)))
        .add_service(Edge(streams.max_decoding_message_size(REQUEST_BYTES_MAX)))
        .add_service(Edge(work.max_decoding_message_size(REQUEST_BYTES_MAX)))
        .add_service(Edge(inputs.max_decoding_message_size(REQUEST_BYTES_MAX)))
        .add_service(Edge(watches))
        .add_service(Edge(waits.max_decoding_message_size(REQUEST_BYTES_MAX)))
        .add_service(Edge(batches.max_decoding_message_size(REQUEST_BYTES_MAX)))
        .add_service(Edge(admin))
        .add_service(reflection().build_v1().expect("the descriptors are our own"))
        .add_service(reflection().build_v1alpha().expect("the descriptors are our own"))
}

/// Sees the server through its end: resolves when the time to drain has passed.
async fn drained(
    mut health: HealthReporter,
    store: &Store,
    shutdown: &CancellationToken,
    drain: &CancellationToken,
) {
    tokio::select! {
        _ = store.stopped() => {
            set_all(&health, ServingStatus::NotServing).await;
            shutdown.cancelled().await;
        }
        () = shutdown.cancelled() => set_all(&health, ServingStatus::NotServing).await,
    }
    // Whoever watches the health has been told; without the entry the watch ends.
    for service in SERVICES {
        health.clear_service_status(service).await;
    }
    drain.cancel();
    sleep(DRAIN_MAX).await;
}

async fn set_all(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}
