//! What a command does when the user interrupts it: it says its last words and exits with 130.
//!
//! It watches from a task of its own, so that a command is interrupted wherever it waits, in a
//! write to a pipe that nobody empties too.

use std::io::{self, Write};

/// The exit status of a command that was interrupted.
const INTERRUPTED: i32 = 130;

/// Ends the process at the next SIGINT. What it was doing is left as after a crash.
pub(super) fn exit_on_interrupt(last_words: impl FnOnce() -> Option<String> + Send + 'static) {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            if let Some(words) = last_words() {
                // There is nobody left to tell if this fails.
                let _ = writeln!(io::stderr(), "braidlog: interrupted; {words}");
            }
            std::process::exit(INTERRUPTED);
        }
    });
}
