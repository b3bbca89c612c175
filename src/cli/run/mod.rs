//! `braidlog run`: creates, describes, lists, changes, stops, closes and deletes runs.

mod create;
mod delete;
pub(super) mod list;
mod update;

use std::borrow::Cow;

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;

use self::{
    create::CreateArgs,
    delete::DeleteArgs,
    list::ListArgs,
    update::{CancelArgs, RescheduleArgs, TagArgs, UpdateArgs},
};
use super::{
    failure::Failure,
    interrupt,
    moment::Moment,
    output::Output,
    present::{RunLine, at_limit_name, outcome_name, status_name, stream_kind_name},
    quantity::{duration, size},
    remote::{Remote, now_ms},
    table::Table,
    utc::utc,
};
use crate::{
    core::{At, Close, Retention},
    engine::{RunInfo, RunKey, StreamInfo},
    proto::{Outcome, RunError},
    record::Seq,
};

/// Creates, describes, lists, changes, stops, closes and deletes runs
#[derive(Debug, Subcommand)]
pub(super) enum RunCommand {
    Create(Box<CreateArgs>),
    Get(GetArgs),
    List(ListArgs),
    Tag(TagArgs),
    Update(UpdateArgs),
    Reschedule(RescheduleArgs),
    Cancel(CancelArgs),
    Close(CloseArgs),
    Delete(DeleteArgs),
}

/// Describes a run and its streams
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run get build-17 --json | jq .run.tail
  braidlog run get build-17 --at-time 2h-ago

The streams are those of now; they are left out for a run as it was.")]
pub(super) struct GetArgs {
    /// Name of the run
    run: String,
    /// The run as it was when the records below this seq had been written
    #[arg(long, value_name = "SEQ", conflicts_with = "at_time")]
    at_seq: Option<u64>,
    /// The run as it was then: a time in UTC, or as in 2h-ago
    #[arg(long, value_name = "TIME")]
    at_time: Option<Moment>,
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
    /// Number of the lease under which this is done; a run that was claimed needs it
    #[arg(long, value_name = "N")]
    lease_epoch: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// The outcomes of the protocol, as words of the command line.
#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(super) enum Ending {
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
            Self::Tag(args) => args.remote.json,
            Self::Update(args) => args.remote.json,
            Self::Reschedule(args) => args.remote.json,
            Self::Cancel(args) => args.remote.json,
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
        RunCommand::Create(args) => create::create(*args, &mut output).await?,
        RunCommand::Get(args) => get(args, &mut output).await?,
        RunCommand::List(args) => list::list(args, &mut output).await?,
        RunCommand::Tag(args) => update::tag(args, &mut output).await?,
        RunCommand::Update(args) => update::update(args, &mut output).await?,
        RunCommand::Reschedule(args) => update::reschedule(args, &mut output).await?,
        RunCommand::Cancel(args) => update::cancel(args, &mut output).await?,
        RunCommand::Close(args) => close(args, &mut output).await?,
        RunCommand::Delete(args) => delete::delete(args, &mut output).await?,
    }
    output.flush()
}

async fn get(args: GetArgs, output: &mut Output) -> Result<(), Failure> {
    let client = args.remote.client()?;
    let key = RunKey::new(args.run.as_str());
    let failed = |error| Failure::store(&error, &args.remote.subject(&args.run, None));
    let at = match (args.at_seq, args.at_time) {
        (Some(seq), _) => Some(At::Seq(Seq(seq))),
        (None, time) => time.map(|time| At::Time(time.ms(now_ms()))),
    };
    if let Some(at) = at {
        let run = client.get_run_at(&key, at).await.map_err(failed)?;
        return match args.remote.json {
            true => output.json(RunLine::listed(&run)),
            false => tell(&run, output),
        };
    }
    let run = client.get_run(&key).await.map_err(failed)?;
    let streams = client.list_streams(&key, Some(run.run_uid)).await.map_err(failed)?.streams;
    if args.remote.json {
        return output.json(RunLine::described(&run, &streams));
    }
    tell(&run, output)?;
    output.line("")?;
    output.bytes(stream_table(&streams).take().as_bytes())
}

fn tell(run: &RunInfo, output: &mut Output) -> Result<(), Failure> {
    for (name, value) in facts(run) {
        output.line(&format!("{name:<12}{value}"))?;
    }
    Ok(())
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
    facts.extend(life_facts(run));
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

/// What there is to say about the work on a run.
fn life_facts(run: &RunInfo) -> Vec<(&'static str, Cow<'_, str>)> {
    let (life, spec) = (&run.life, &run.spec);
    let time = |ms: u64| if ms == 0 { String::new() } else { utc(ms) };
    let lease = life.lease.as_ref().map(|lease| {
        format!("{} of {}, a term of {}", life.epoch, lease.worker, duration(lease.term_ms))
    });
    let cancel = life
        .cancel
        .as_ref()
        .map(|cancel| format!("asked to stop at {} ({})", utc(cancel.requested_ms), cancel.reason));
    let some = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    vec![
        ("payload", harmless(&String::from_utf8_lossy(&spec.payload)).into()),
        ("parent", spec.parent_run_id.as_str().into()),
        ("root", spec.root_run_id.as_str().into()),
        ("key", harmless(&spec.idempotency_key).into()),
        ("version", run.usage.version.as_ref().unwrap_or(&spec.version).as_str().into()),
        ("priority", if spec.priority == 0 { "".into() } else { spec.priority.to_string().into() }),
        ("delayed to", time(life.delay_until_ms).into()),
        ("started", time(life.started_ms).into()),
        ("attempt", some(life.attempt.into()).into()),
        ("lease", lease.unwrap_or_default().into()),
        ("cancel", harmless(&cancel.unwrap_or_default()).into()),
        ("metadata", harmless(&String::from_utf8_lossy(&run.metadata)).into()),
    ]
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
pub(super) fn harmless(text: &str) -> String {
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
        lease_epoch: args.lease_epoch,
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
