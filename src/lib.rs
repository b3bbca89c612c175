//! braidlog: a durable log-structured stream store.

pub mod core;
pub mod format;
pub mod platform;
pub mod proto;
pub mod record;
