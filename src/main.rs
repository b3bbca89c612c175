//! The `braidlog` binary.

use std::process::ExitCode;

/// Many threads free what others allocated, for weeks: the system's allocator slows down under that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    braidlog::cli::main()
}
