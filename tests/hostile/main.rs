//! Hostile callers of the gRPC services: messages of arbitrary bytes to every method, in every
//! order, and connections that speak broken HTTP/2. No call panics, every answer has a reason,
//! another client goes on as if nothing were, and memory stays within bounds.
//!
//! What is sent comes from a seed that is printed; `BRAIDLOG_TEST_SEED` repeats one, and
//! `BRAIDLOG_CALLS` says how many calls and connections there are.

#![cfg(all(feature = "grpc", feature = "client"))]
#![allow(clippy::disallowed_methods, reason = "a test is no part of what runs in simulation")]

mod calls;
mod connections;
mod messages;
mod server;
