//! `braidlog trim`: gives up the oldest records of a stream.

use clap::Args;

use super::{failure::Failure, interrupt, output::Output, present::TrimmedLine, remote::Remote};
use crate::{core::Trim, engine::RunKey, record::Index};

/// Gives up the oldest records of a stream, for good
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  braidlog trim build-17 log --below 5000   # index 5000 is the first that is kept

A trim never goes back: a lower one changes nothing, and the answer says what
holds. Readers below it get TRIMMED, or a gap with --allow-gap.")]
pub(super) struct TrimArgs {
    /// Name of the run
    run: String,
    /// Name of the stream
    stream: String,
    /// First index to keep; at most the tail of the stream
    #[arg(long, value_name = "INDEX")]
    below: u64,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Runs the command.
pub(super) async fn run(args: TrimArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    let key = RunKey::new(args.run.as_str());
    let (stream, trim) = (args.stream.as_str().into(), Index(args.below));
    let trimmed = args.remote.client()?.trim(&key, Trim { run_uid: None, stream, trim }).await;
    let subject = args.remote.subject(&args.run, Some(&args.stream));
    let trim = trimmed.map_err(|error| Failure::store(&error, &subject))?;
    if args.remote.json {
        output.json(TrimmedLine::new(&args.run, &args.stream, trim))?;
    } else {
        let TrimArgs { run, stream, .. } = &args;
        output.line(&format!("stream {stream} of run {run} starts at index {trim}"))?;
    }
    output.flush()
}
