//! The store over gRPC: what a remote caller may rely on, with a real server, client and disk.
//!
//! Nothing here asserts how long something takes; times are only guards against hanging.

#![cfg(all(feature = "grpc", feature = "client"))]

mod appends;
mod crowd;
mod failures;
mod lanes;
mod life;
mod operations;
mod proxy;
mod raw;
mod reconnects;
mod refusals;
mod runs;
mod server;
mod sessions;
mod tail_sessions;
mod tails;
