//! Nothing is written.
