//! `braidlog run`: creates, describes, lists, closes and deletes runs.

mod create;
mod delete;
mod list;

use std::borrow::Cow;

use clap::{Args, Subcommand, ValueEnum};

use self::{create::CreateArgs, delete::DeleteArgs, list::ListArgs};
use super::{
    failure::Failure,
    interrupt,
    output::Output,
    quantity::{duration, size},
    remote::Remote,
    shape::{RunLine, at_limit_name, outcome_name, status_name, stream_kind_name},
    table::Table,
    utc::utc,
};
use crate::{
    core::{Close, Retention},
    engine::{RunInfo, RunKey, StreamInfo},
    proto::{Outcome, RunError},
};

/// Creates, describes, lists, closes and deletes runs
#[derive(Debug, Subcommand)]
pub(super) enum RunCommand {
    Create(CreateArgs),
    Get(GetArgs),
    List(ListArgs),
    Close(CloseArgs),
    Delete(DeleteArgs),
}

/// Describes a run and its streams
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  braidlog run get build-17 --json | jq .run.tail")]
pub(super) struct GetArgs {
    /// Name of the run
    run: String,
    #[command(flatten)]
    remote: Remote,
}

/// Closes a run for good; does nothing if it is closed with the same outcome
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run close build-17
  braidlog run close build-17 --outcome failed --error-message 'tests failed'")]
pub(super) struct CloseArgs {
    /// Name of the run
    run: String,
    /// How the run ended
    #[arg(long, value_enum, default_value_t = Ending::Completed)]
    outcome: Ending,
    /// What the run returned
    #[arg(long, value_name = "TEXT", default_value = "")]
    output: String,
    /// Media type of the output
    #[arg(long, value_name = "TYPE", default_value = "")]
    output_type: String,
    /// Why the run did not complete
    #[arg(long, value_name = "MESSAGE")]
    error_message: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// The outcomes of the protocol, as words of the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Ending {
    /// The run did what it was for
    Completed,
    /// The run's code reported an error
    Failed,
    /// Somebody asked for the run to stop
    Canceled,
    /// The worker died too often
    Crashed,
    /// The platform failed, not the run
    SystemFailure,
    /// Nobody started the run in time
    Expired,
    /// The run took longer than allowed
    TimedOut,
}

impl From<Ending> for Outcome {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Completed => Self::Completed,
            Ending::Failed => Self::Failed,
            Ending::Canceled => Self::Canceled,
            Ending::Crashed => Self::Crashed,
            Ending::SystemFailure => Self::SystemFailure,
            Ending::Expired => Self::Expired,
            Ending::TimedOut => Self::TimedOut,
        }
    }
}

impl RunCommand {
    /// Whether output and failures are JSON.
    pub(super) fn as_json(&self) -> bool {
        match self {
            Self::Create(args) => args.remote.json,
            Self::Get(args) => args.remote.json,
            Self::List(args) => args.remote.json,
            Self::Close(args) => args.remote.json,
            Self::Delete(args) => args.remote.json,
        }
    }
}

/// Runs the command.
pub(super) async fn run(command: RunCommand) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    match command {
        RunCommand::Create(args) => create::create(args, &mut output).await?,
        RunCommand::Get(args) => get(args, &mut output).await?,
        RunCommand::List(args) => list::list(args, &mut output).await?,
        RunCommand::Close(args) => close(args, &mut output).await?,
        RunCommand::Delete(args) => delete::delete(args, &mut output).await?,
    }
    output.flush()
}

async fn get(args: GetArgs, output: &mut Output) -> Result<(), Failure> {
    let client = args.remote.client()?;
    let key = RunKey::new(args.run.as_str());
    let failed = |error| Failure::store(&error, &args.remote.subject(&args.run, None));
    let run = client.get_run(&key).await.map_err(failed)?;
    let streams = client.list_streams(&key, Some(run.run_uid)).await.map_err(failed)?.streams;
    if args.remote.json {
        return output.json(RunLine::described(&run, &streams));
    }
    for (name, value) in facts(&run) {
        output.line(&format!("{name:<12}{value}"))?;
    }
    output.line("")?;
    output.bytes(stream_table(&streams).take().as_bytes())
}

/// What there is to say about a run, with a name each.
fn facts(run: &RunInfo) -> Vec<(&'static str, Cow<'_, str>)> {
    let mut facts = vec![
        ("run", Cow::from(&*run.run_id)),
        ("run_uid", run.run_uid.to_string().into()),
        ("task", (&*run.task).into()),
        ("tags", run.tags.join(", ").into()),
        ("batch", (&*run.batch).into()),
        ("retention", run.retention.as_ref().map(keeps).unwrap_or_default().into()),
        ("status", status_name(run).into()),
        ("created", utc(run.created_ms).into()),
        ("updated", utc(run.updated_ms).into()),
        ("tail", format!("seq {}", run.tail).into()),
        ("bytes", run.bytes.to_string().into()),
    ];
    if let Some(end) = &run.ended {
        facts.push(("completed", utc(end.completed_ms).into()));
        facts.push(("output", harmless(&String::from_utf8_lossy(&end.output)).into()));
        if let Some(error) = &end.error {
            facts.push(("error", harmless(&error.message).into()));
        }
    }
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

/// `7d after close, at most 1.0 MiB (reject)`.
fn keeps(retention: &Retention) -> String {
    let Retention { age_ms, bytes, records, at_limit } = *retention;
    let limits = [
        age_ms.map(|ms| format!("{} after close", duration(ms))),
        bytes.map(|bytes| format!("at most {}", size(bytes))),
        records.map(|records| format!("at most {records} records")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    match (bytes, records) {
        (None, None) => limits.join(", "),
        _ => format!("{} ({})", limits.join(", "), at_limit_name(at_limit)),
    }
}

/// Text of strangers without characters that a terminal would obey.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn stream_table(streams: &[StreamInfo]) -> Table<5> {
    let mut table = Table::new(["STREAM", "KIND", ">TRIM", ">TAIL", "STATE"]);
    for stream in streams {
        table.row([
            stream.name.to_string(),
            stream_kind_name(stream.kind).into(),
            stream.trim.to_string(),
            stream.tail.to_string(),
            if stream.closed { "closed" } else { "open" }.into(),
        ]);
    }
    table
}

async fn close(args: CloseArgs, output: &mut Output) -> Result<(), Failure> {
    let error = args.error_message.map(|message| RunError { message, ..RunError::default() });
    let close = Close {
        outcome: args.outcome.into(),
        output: args.output.into(),
        output_type: args.output_type,
        error,
        ..Close::default()
    };
    let key = RunKey::new(args.run.as_str());
    let closed = args.remote.client()?.close_run(&key, close).await;
    let closed =
        closed.map_err(|error| Failure::store(&error, &args.remote.subject(&args.run, None)))?;
    if args.remote.json {
        return output.json(RunLine::closed(&closed));
    }
    let verb = if closed.deduplicated { "was closed already:" } else { "closed" };
    let outcome = outcome_name(args.outcome.into());
    output.line(&format!("{verb} {} {outcome} at seq {}", args.run, closed.closed_seq))
}
