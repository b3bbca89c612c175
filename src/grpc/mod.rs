//! The gRPC face of a store: `braidlog.v1`, served by [`server::serve`].
//!
//! A call is a conversion, one call of the [`Store`](crate::engine::Store), and a conversion.
//! Records go out as the bytes that are stored ([`encoded`]); errors go out with their reason and
//! values and come back as the same [`Error`](crate::error::Error) ([`status`]). What the client
//! needs of all this is compiled without the server.
//!
//! What it deliberately does not do: check limits (the store does), keep queues, retry.

pub mod codec;
pub mod encoded;
pub mod page_token;
pub mod status;

#[cfg(feature = "grpc")]
mod answer;
#[cfg(feature = "grpc")]
mod convert;
#[cfg(feature = "grpc")]
pub mod echo;
#[cfg(feature = "grpc")]
mod edge;
#[cfg(any(feature = "grpc", feature = "client"))]
pub(crate) mod gather;
#[cfg(feature = "grpc")]
mod inputs;
#[cfg(feature = "grpc")]
mod lane;
#[cfg(feature = "grpc")]
pub mod server;
#[cfg(feature = "grpc")]
mod service;
#[cfg(feature = "grpc")]
mod session;
#[cfg(feature = "grpc")]
mod steps;
#[cfg(feature = "grpc")]
mod tail;
#[cfg(feature = "grpc")]
mod tails;
#[cfg(feature = "grpc")]
mod tokens;
#[cfg(feature = "grpc")]
mod watch;
#[cfg(feature = "grpc")]
mod work;

/// The services, as generated from `proto/`.
#[cfg(feature = "grpc")]
#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
mod generated {
    include!("../gen/server.rs");
}
