//! The store as a library, on a real disk: what an embedder may rely on.

// A test is no part of what runs in simulation.
#![allow(clippy::disallowed_methods)]

mod cold;
mod copies;
mod deletion;
mod embedding;
mod inputs;
mod journal;
mod limits;
mod listing;
mod merging;
mod past;
mod place;
mod retention;
mod tokens;
mod watching;
mod work;
