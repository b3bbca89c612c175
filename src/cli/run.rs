//! `braidlog run`: creates, describes, lists and closes runs.

use std::borrow::Cow;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    failure::Failure,
    interrupt,
    output::Output,
    remote::Remote,
    shape::{RunLine, outcome_name, status_name, stream_kind_name},
    table::Table,
    utc::utc,
};
use crate::{
    core::{Close, Create},
    engine::{DEFAULT_NAMESPACE, ListRuns, RunInfo, RunKey, StreamInfo},
    proto::{Outcome, RunError},
    record::LIST_ROWS_MAX,
};

/// Creates, describes, lists and closes runs
#[derive(Debug, Subcommand)]
pub(super) enum RunCommand {
    Create(CreateArgs),
    Get(GetArgs),
    List(ListArgs),
    Close(CloseArgs),
}

/// Creates a run; does nothing if it exists with the same task
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  braidlog run create build-17 --task nightly")]
pub(super) struct CreateArgs {
    /// Name of the run: 1 to 512 bytes, not starting with `$`
    run: String,
    /// What the run executes
    #[arg(long, value_name = "TASK", default_value = "")]
    task: String,
    #[command(flatten)]
    remote: Remote,
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

/// Lists runs in the order of their names
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  braidlog run list --prefix build- --limit 20")]
pub(super) struct ListArgs {
    /// Only runs whose name starts with this
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// List at most N runs
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
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
        }
    }
}

/// Runs the command.
pub(super) async fn run(command: RunCommand) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    match command {
        RunCommand::Create(args) => create(args, &mut output).await?,
        RunCommand::Get(args) => get(args, &mut output).await?,
        RunCommand::List(args) => list(args, &mut output).await?,
        RunCommand::Close(args) => close(args, &mut output).await?,
    }
    output.flush()
}

async fn create(args: CreateArgs, output: &mut Output) -> Result<(), Failure> {
    let create = Create {
        namespace: DEFAULT_NAMESPACE.into(),
        run_id: args.run.as_str().into(),
        task: args.task.into(),
    };
    let created = args.remote.client()?.create_run(create).await;
    let created =
        created.map_err(|error| Failure::store(&error, &args.remote.subject(&args.run, None)))?;
    if args.remote.json {
        return output.json(RunLine::created(&created));
    }
    let verb = if created.created { "created" } else { "exists already:" };
    output.line(&format!("{verb} {}", created.run.run_id))
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

async fn list(args: ListArgs, output: &mut Output) -> Result<(), Failure> {
    let client = args.remote.client()?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut table = Table::new(["RUN", "STATUS", "TASK", ">STREAMS", ">TAIL", ">BYTES", "UPDATED"]);
    let mut after = None;
    while 0 < left {
        let page_size = left.min(LIST_ROWS_MAX);
        let page = ListRuns {
            namespace: DEFAULT_NAMESPACE.into(),
            prefix: args.prefix.clone(),
            after,
            page_size,
        };
        let page = client.list_runs(&page).await;
        let page = page.map_err(|error| Failure::store(&error, &args.remote.subject("", None)))?;
        left -= page.runs.len().min(left);
        for run in &page.runs {
            if args.remote.json {
                output.json(RunLine::listed(run))?;
            } else {
                table.row(row(run));
            }
        }
        if !args.remote.json && !page.runs.is_empty() {
            output.bytes(table.take().as_bytes())?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

fn row(run: &RunInfo) -> [String; 7] {
    [
        run.run_id.to_string(),
        status_name(run),
        run.task.to_string(),
        run.streams.to_string(),
        run.tail.to_string(),
        run.bytes.to_string(),
        utc(run.updated_ms),
    ]
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
