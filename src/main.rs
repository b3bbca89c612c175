//! The `braidlog` binary.

fn main() {}
