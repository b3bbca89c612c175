//! braidlog: a durable log-structured stream store.

pub mod core;
pub mod format;
pub mod recovery;
pub mod manifest;
pub mod journal;
pub mod error;
pub mod platform;
pub mod proto;
pub mod record;
