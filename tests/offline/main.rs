//! What the offline tool says of a store, and makes of one, held to what the store itself says.

#![allow(clippy::disallowed_methods, reason = "a test copies directories and runs the tool")]

mod copies;
#[cfg(feature = "sled")]
mod index;
mod moments;
mod sample;
mod sizes;
