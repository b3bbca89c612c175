//! `braidlog claim` and `braidlog lease`: a run is handed to a worker, kept, and given back.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    interrupt,
    moment::When,
    output::Output,
    present::{ClaimedLine, released, renewed},
    quantity::duration_ms,
    remote::{Remote, now_ms},
};
use crate::{
    core::{Release, ReleaseTo},
    engine::{AcquireLease, ClaimRun, ClaimedRun, DEFAULT_NAMESPACE, RunKey},
    error::Error,
    proto::RunError,
};

/// Takes a queued run of some tasks: by priority, then by age
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  braidlog claim mail --worker w1 --wait 30s --json | jq '.lease.epoch, .run.payload'

The status is 3 if no run is queued in time. The run is abandoned when its
worker was silent for the term: `braidlog lease renew` says that it is there, and
so does everything that is done with --lease-epoch.")]
pub(super) struct ClaimArgs {
    /// Tasks that the worker does
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// Name of the worker, 1 to 128 bytes
    #[arg(long, value_name = "NAME")]
    worker: String,
    /// How long the worker may be silent: 1s to 10m
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "30s")]
    term: u64,
    /// Wait for a run for so long, as in 30s
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "0s")]
    wait: u64,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Takes a known run, says that its worker is there, gives it back
#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    Acquire(AcquireArgs),
    Renew(RenewArgs),
    Release(ReleaseArgs),
}

/// Takes a known run, whether or not it is queued
#[derive(Debug, Args)]
pub(super) struct AcquireArgs {
    /// Name of the run
    run: String,
    /// Name of the worker, 1 to 128 bytes
    #[arg(long, value_name = "NAME")]
    worker: String,
    /// How long the worker may be silent: 1s to 10m
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "30s")]
    term: u64,
    /// Fence whoever has the run
    #[arg(long)]
    takeover: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Says that the worker is there: the lease has its full term again
#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    /// Name of the run
    run: String,
    /// Number of the lease
    #[arg(long, value_name = "N")]
    lease_epoch: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Gives a run back: it is queued, at once unless another time is given
#[derive(Debug, Args)]
#[command(after_help = "A run that was asked to stop ends with that.")]
pub(super) struct ReleaseArgs {
    /// Name of the run
    run: String,
    /// Number of the lease
    #[arg(long, value_name = "N")]
    lease_epoch: u64,
    #[command(flatten)]
    how: ReleaseHow,
    #[command(flatten)]
    remote: Remote,
}

/// What becomes of a run that is given back.
#[derive(Debug, Args)]
pub(super) struct ReleaseHow {
    /// Queue it then: a time in UTC, or how long from now, such as 10m
    #[arg(long, value_name = "TIME", conflicts_with = "suspend")]
    retry_at: Option<When>,
    /// Go on with the attempt when what the run waits for has come
    #[arg(long)]
    suspend: bool,
    /// Why the attempt failed
    #[arg(long, value_name = "MESSAGE")]
    attempt_error: Option<String>,
}

impl ReleaseHow {
    /// Whether anything is said.
    pub(super) fn is_given(&self) -> bool {
        self.retry_at.is_some() || self.suspend || self.attempt_error.is_some()
    }

    /// The release that is meant.
    pub(super) fn release(self) -> Release {
        let next = match (self.retry_at, self.suspend) {
            (Some(time), _) => ReleaseTo::Delay(time.ms(now_ms())),
            (None, true) => ReleaseTo::Suspend,
            (None, false) => ReleaseTo::Queue,
        };
        let error = |message| RunError { message, ..RunError::default() };
        Release { next, error: self.attempt_error.map(error) }
    }
}

impl LeaseCommand {
    /// Whether output and failures are JSON.
    pub(super) fn as_json(&self) -> bool {
        match self {
            Self::Acquire(args) => args.remote.json,
            Self::Renew(args) => args.remote.json,
            Self::Release(args) => args.remote.json,
        }
    }
}

/// Takes a queued run.
pub(super) async fn claim(args: ClaimArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let claim = ClaimRun {
        namespace: DEFAULT_NAMESPACE.into(),
        tasks: args.tasks.iter().map(|task| task.as_str().into()).collect(),
        worker: args.worker.as_str().into(),
        term_ms: args.term,
    };
    let claimed = args.remote.client()?.claim(&claim, Duration::from_millis(args.wait)).await;
    let claimed = claimed.map_err(failed("", &args.remote))?;
    let claimed = claimed.ok_or_else(|| {
        let message = format!("no run of {} is queued", args.tasks.join(", "));
        Failure::nothing("NO_RUN", message)
    })?;
    tell(&claimed, &args.worker, &args.remote)
}

/// Runs a command on a lease.
pub(super) async fn lease(command: LeaseCommand) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    match command {
        LeaseCommand::Acquire(args) => acquire(args).await,
        LeaseCommand::Renew(args) => renew(args).await,
        LeaseCommand::Release(args) => release(args).await,
    }
}

fn failed<'a>(run: &'a str, remote: &'a Remote) -> impl Fn(Error) -> Failure + 'a {
    move |error| Failure::store(&error, &remote.subject(run, None))
}

fn tell(claimed: &ClaimedRun, worker: &str, remote: &Remote) -> Result<(), Failure> {
    let mut output = Output::new();
    if remote.json {
        output.json(ClaimedLine::new(claimed))?;
    } else {
        let (run, lease) = (&claimed.run.run_id, &claimed.claimed);
        let again = if lease.resumed { ", resumed" } else { "" };
        output.line(&format!(
            "{worker} has {run} by lease {}, attempt {}{again}",
            lease.epoch, lease.attempt
        ))?;
        for owed in &claimed.owed {
            let (stream, consumer) = (&owed.stream, &owed.consumer);
            output.line(&format!("{consumer} owes {} of {stream}", owed.owed))?;
        }
    }
    output.flush()
}

async fn acquire(args: AcquireArgs) -> Result<(), Failure> {
    let acquire = AcquireLease {
        run: RunKey::new(args.run.as_str()),
        run_uid: None,
        worker: args.worker.as_str().into(),
        term_ms: args.term,
        takeover: args.takeover,
    };
    let claimed = args.remote.client()?.acquire_lease(&acquire).await;
    tell(&claimed.map_err(failed(&args.run, &args.remote))?, &args.worker, &args.remote)
}

async fn renew(args: RenewArgs) -> Result<(), Failure> {
    let key = RunKey::new(args.run.as_str());
    let answer = args.remote.client()?.renew_lease(&key, args.lease_epoch).await;
    let answer = answer.map_err(failed(&args.run, &args.remote))?;
    let mut output = Output::new();
    if args.remote.json {
        output.json(renewed(&args.run, args.lease_epoch, &answer))?;
    } else {
        let asked = answer.cancel.map_or(String::new(), |cancel| {
            format!("; the run is asked to stop: {}", super::run::harmless(&cancel.reason))
        });
        output.line(&format!("renewed lease {} of {}{asked}", args.lease_epoch, args.run))?;
    }
    output.flush()
}

async fn release(args: ReleaseArgs) -> Result<(), Failure> {
    let key = RunKey::new(args.run.as_str());
    let client = args.remote.client()?;
    let answer = client.release_lease(&key, args.lease_epoch, args.how.release()).await;
    let status = answer.map_err(failed(&args.run, &args.remote))?;
    let mut output = Output::new();
    if args.remote.json {
        output.json(released(&args.run, status))?;
    } else {
        output.line(&format!("released {}: {}", args.run, super::present::stands(status)))?;
    }
    output.flush()
}
