//! Where log lines go: standard error, as text or as JSON, coloured on terminals only.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::failure::{Exit, Failure};
use crate::config::LogFormat;

/// Writes the log lines that `filter` lets through, from here on.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| Failure {
        exit: Exit::DoNotRestart,
        reason: "CONFIG",
        message: format!("log filter {filter:?}: {error}"),
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
