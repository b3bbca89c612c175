//! `braidlog run create`.

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        failure::Failure,
        output::Output,
        quantity::{bytes, duration_ms},
        remote::Remote,
        shape::RunLine,
    },
    core::{AtLimit, Create, Retention},
    engine::DEFAULT_NAMESPACE,
};

/// Creates a run; does nothing if it exists with the same parameters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run create build-17 --task nightly
  braidlog run create build-18 --tag nightly --tag linux --batch 2026-11-23
  braidlog run create sensor-4 --retain-age 7d --retain-bytes 100MiB --at-limit trim-oldest")]
pub(in crate::cli) struct CreateArgs {
    /// Name of the run: 1 to 512 bytes, not starting with `$`
    run: String,
    /// What the run executes
    #[arg(long, value_name = "TASK", default_value = "", hide_default_value = true)]
    task: String,
    /// A label to find the run by; may be given up to 10 times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The batch that the run belongs to
    #[arg(long, value_name = "BATCH", default_value = "", hide_default_value = true)]
    batch: String,
    #[command(flatten)]
    retain: RetainArgs,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// What is kept of the run.
#[derive(Debug, Args)]
struct RetainArgs {
    /// Keep the run for so long after its close, as in 7d
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    retain_age: Option<u64>,
    /// Keep at most so many bytes of the run, as in 100MiB
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    retain_bytes: Option<u64>,
    /// Keep at most N records of the run
    #[arg(long, value_name = "N")]
    retain_records: Option<u64>,
    /// What becomes of an append that would pass --retain-bytes or --retain-records [default:
    /// reject]
    #[arg(long, value_enum, value_name = "POLICY")]
    at_limit: Option<Policy>,
}

/// The policies of the protocol, as words of the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// It is refused
    Reject,
    /// It is taken, and the oldest records are given up
    TrimOldest,
}

impl From<Policy> for AtLimit {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Reject => Self::Reject,
            Policy::TrimOldest => Self::TrimOldest,
        }
    }
}

impl RetainArgs {
    /// None if nothing is said: what the server keeps by default.
    fn retention(&self) -> Result<Option<Retention>, Failure> {
        let Self { retain_age, retain_bytes, retain_records, at_limit } = *self;
        if at_limit.is_some() && retain_bytes.is_none() && retain_records.is_none() {
            let problem = "--at-limit needs a limit: --retain-bytes or --retain-records";
            return Err(Failure::usage(problem));
        }
        let retention = Retention {
            age_ms: retain_age,
            bytes: retain_bytes,
            records: retain_records,
            at_limit: at_limit.map(AtLimit::from).unwrap_or_default(),
        };
        Ok((retention != Retention::default()).then_some(retention))
    }
}

/// Runs the command.
pub(super) async fn create(args: CreateArgs, output: &mut Output) -> Result<(), Failure> {
    let create = Create {
        namespace: DEFAULT_NAMESPACE.into(),
        run_id: args.run.as_str().into(),
        task: args.task.into(),
        tags: args.tags.into_iter().map(Into::into).collect(),
        batch: args.batch.into(),
        retention: args.retain.retention()?,
        ..Create::default()
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
