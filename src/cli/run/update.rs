//! `braidlog run tag`, `update`, `reschedule` and `cancel`: what is said of a run, and asked of it.

use clap::Args;

use crate::{
    cli::{
        failure::Failure,
        moment::When,
        output::Output,
        present::{CanceledLine, RunLine, committed, status_name},
        quantity::duration_ms,
        remote::{Remote, now_ms, request_id},
        utc::utc,
    },
    core::{CancelRun, Commit, Reschedule},
    engine::{CommittedTurn, RunKey},
    proto::RunUpdated,
};

/// Adds labels to a run; those it has already change nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  braidlog run tag build-17 flaky linux

A run has at most 10 labels. They can be added until an hour after its end.")]
pub(in crate::cli) struct TagArgs {
    /// Name of the run
    run: String,
    /// The labels, 1 to 128 bytes each
    #[arg(value_name = "TAG", required = true)]
    tags: Vec<String>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Says what a run took, or which version it is of
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run update build-17 --usage 90s --cost-cents 1.25
  braidlog run update build-17 --run-version 2026-11-23.1   # queues one that waits for it")]
pub(in crate::cli) struct UpdateArgs {
    /// Name of the run
    run: String,
    /// How long it was in use, as in 90s
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    usage: Option<u64>,
    /// What it cost, in cents
    #[arg(long, value_name = "CENTS")]
    cost_cents: Option<f64>,
    /// What it cost at least, in cents
    #[arg(long, value_name = "CENTS")]
    base_cost_cents: Option<f64>,
    /// Version it is of
    #[arg(long, value_name = "VERSION")]
    run_version: Option<String>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Puts the start of a run that nobody has worked on at another time
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run reschedule report-4 2h
  braidlog run reschedule report-4 2026-12-01T06:00Z")]
pub(in crate::cli) struct RescheduleArgs {
    /// Name of the run
    run: String,
    /// When it starts: a time in UTC, or how long from now, as in 2h
    #[arg(value_name = "WHEN")]
    when: When,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Asks a run to stop: it is closed at once unless a worker has it
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  braidlog run cancel build-17 --reason 'superseded by build-18' --grace 1m

A worker that has the run is told, and has the grace to end it; then it is
closed. To ask again changes nothing.")]
pub(in crate::cli) struct CancelArgs {
    /// Name of the run
    run: String,
    /// Why, for people; at most 512 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// How long a worker has to end the run, as in 30s
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "30s")]
    grace: u64,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Adds labels.
pub(super) async fn tag(args: TagArgs, output: &mut Output) -> Result<(), Failure> {
    let tags = args.tags.iter().map(|tag| tag.as_str().into()).collect();
    let turn = commit(&args.run, &args.remote, Commit { tags, ..Commit::default() }).await?;
    if args.remote.json {
        return output.json(committed(&args.run, &turn));
    }
    output.line(&format!("tagged {}", args.run))
}

/// Says what a run took.
pub(super) async fn update(args: UpdateArgs, output: &mut Output) -> Result<(), Failure> {
    let update = RunUpdated {
        usage_duration_ms: args.usage,
        cost_in_cents: args.cost_cents,
        base_cost_in_cents: args.base_cost_cents,
        version: args.run_version,
    };
    if update == RunUpdated::default() {
        let options = "--usage, --cost-cents, --base-cost-cents or --run-version";
        return Err(Failure::usage(format!("nothing to say: give {options}")));
    }
    let commit_update = Commit { update: Some(update), ..Commit::default() };
    let turn = commit(&args.run, &args.remote, commit_update).await?;
    if args.remote.json {
        return output.json(committed(&args.run, &turn));
    }
    output.line(&format!("updated {}", args.run))
}

/// Commits under an id of its own, so that it is applied once.
async fn commit(run: &str, remote: &Remote, commit: Commit) -> Result<CommittedTurn, Failure> {
    let commit = Commit { request_id: request_id(), ..commit };
    let turn = remote.client()?.commit(&RunKey::new(run), commit).await;
    turn.map_err(|error| Failure::store(&error, &remote.subject(run, None)))
}

/// Puts the start at another time.
pub(super) async fn reschedule(args: RescheduleArgs, output: &mut Output) -> Result<(), Failure> {
    let delay_until_ms = args.when.ms(now_ms());
    let reschedule = Reschedule { run_uid: None, delay_until_ms };
    let key = RunKey::new(args.run.as_str());
    let run = args.remote.client()?.reschedule_run(&key, reschedule).await;
    let run = run.map_err(|error| Failure::store(&error, &args.remote.subject(&args.run, None)))?;
    if args.remote.json {
        return output.json(RunLine::listed(&run));
    }
    output.line(&format!("{} starts at {}", args.run, utc(delay_until_ms)))
}

/// Asks a run to stop.
pub(super) async fn cancel(args: CancelArgs, output: &mut Output) -> Result<(), Failure> {
    if args.grace == 0 {
        return Err(Failure::usage("--grace is zero: give the worker 1ms at least"));
    }
    let cancel = CancelRun { run_uid: None, reason: args.reason, grace_ms: args.grace };
    let canceled = args.remote.client()?.cancel_run(&RunKey::new(args.run.as_str()), cancel).await;
    let canceled =
        canceled.map_err(|error| Failure::store(&error, &args.remote.subject(&args.run, None)))?;
    if args.remote.json {
        return output.json(CanceledLine::new(&canceled));
    }
    let words = match (canceled.closed, canceled.deduplicated) {
        (true, false) => format!("canceled {}", args.run),
        (true, true) => format!("was canceled already: {}", args.run),
        (false, asked) => {
            let close_at_ms = canceled.run.life.cancel.as_ref().map_or(0, |it| it.close_at_ms);
            let verb = if asked { "was asked already" } else { "asked" };
            let (run, status) = (&args.run, status_name(&canceled.run));
            format!("{verb}: {run} is {status}, and closed by {} at the latest", utc(close_at_ms))
        }
    };
    output.line(&words)
}
