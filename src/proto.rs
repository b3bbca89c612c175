//! Generated messages of `braidlog.v1`, and those that exist on disk only.
//!
//! The code is made from `proto/` by `tests/codegen.rs` and checked in, so that a build needs no
//! protobuf compiler. Payloads are [`bytes::Bytes`], shared with the buffer they were read from.

/// The messages of the gRPC API; [`Record`] is also what is on disk.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    include!("gen/messages.rs");
}

/// Messages that exist on disk only.
pub mod storage {
    /// Version 1.
    #[allow(clippy::all, missing_docs)]
    pub mod v1 {
        include!("gen/storage.rs");
    }
}

pub use v1::*;
