//! `braidlog run create`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        body::body,
        failure::Failure,
        moment::When,
        output::Output,
        present::RunLine,
        quantity::{bytes, duration_ms},
        remote::{Remote, now_ms},
    },
    core::{AtLimit, Create, Retention},
    engine::DEFAULT_NAMESPACE,
    proto::RunSpec,
};

/// Creates a run; does nothing if it exists with the same parameters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run create build-17 --task nightly
  braidlog run create build-18 --tag nightly --tag linux --batch 2026-11-23
  braidlog run create sensor-4 --retain-age 7d --retain-bytes 100MiB --at-limit trim-oldest
  braidlog run create mail-9 --task mail --payload '{\"to\":\"ada\"}' --delay 10m --ttl 1h
  braidlog run create order-5 --task order --idempotency-key cart-77 --idempotency-ttl 1d")]
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
    spec: SpecArgs,
    #[command(flatten)]
    retain: RetainArgs,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// What the run works on, when, and how often.
#[derive(Debug, Args)]
struct SpecArgs {
    /// What it works on, at most 1 MiB
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file", allow_hyphen_values = true)]
    payload: Option<String>,
    /// File that holds what it works on; `-` is standard input
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Media type of the payload
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    payload_type: String,
    /// Run that starts this one
    #[arg(long, value_name = "RUN", default_value = "", hide_default_value = true)]
    parent: String,
    /// First of the chain of parents [default: the parent]
    #[arg(long, value_name = "RUN", default_value = "", hide_default_value = true)]
    root: String,
    /// Key under which creating a run again, of any name, gives this one
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    /// Forget the key after so long, as in 1d [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, requires = "idempotency_key")]
    idempotency_ttl: Option<u64>,
    /// Hand it out not before: a time in UTC, or how long from now, as in 10m
    #[arg(long, value_name = "WHEN")]
    delay: Option<When>,
    /// Let it expire after so long in the queue, as in 1h
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "0s",
          hide_default_value = true)]
    ttl: u64,
    /// The metadata document to begin with: a JSON object
    #[arg(long, value_name = "JSON", default_value = "", hide_default_value = true)]
    metadata: String,
    /// Attempts there are, abandoned ones counted [default: 3]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_attempts: u32,
    /// Let it time out so long after its start, as in 1h
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "0s",
          hide_default_value = true)]
    max_duration: u64,
    /// Hand it out before runs of lower priority
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// Do not hand it out before `run update` tells it a version
    #[arg(long)]
    pending_version: bool,
    /// Version it is of
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    run_version: String,
    /// Mark it as a test
    #[arg(long)]
    is_test: bool,
}

impl SpecArgs {
    async fn spec(self) -> Result<RunSpec, Failure> {
        let expires_at_ms = self.idempotency_ttl.map(|ttl| When::In(ttl).ms(now_ms()));
        Ok(RunSpec {
            payload: body(self.payload.as_deref(), self.payload_file.as_deref()).await?,
            payload_type: self.payload_type,
            parent_run_id: self.parent,
            root_run_id: self.root,
            idempotency_key: self.idempotency_key,
            idempotency_expires_at_ms: expires_at_ms.unwrap_or(0),
            delay_until_ms: self.delay.map_or(0, |delay| delay.ms(now_ms())),
            ttl_ms: self.ttl,
            metadata: self.metadata.into(),
            max_attempts: self.max_attempts,
            max_duration_ms: self.max_duration,
            priority: self.priority,
            pending_version: self.pending_version,
            version: self.run_version,
            is_test: self.is_test,
            ..RunSpec::default()
        })
    }
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
        spec: args.spec.spec().await?,
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
