//! `braidlog run list`.

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        failure::Failure,
        moment::Moment,
        output::Output,
        present::{RunLine, status_name},
        remote::{Remote, now_ms},
        table::Table,
        utc::utc,
    },
    engine::{ListRuns, RunInfo},
    proto::RunStatus,
    record::LIST_ROWS_MAX,
};

/// Lists runs, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run list --prefix build- --limit 20
  braidlog run list --tag nightly --tag linux --status failed --created-after 2d-ago
  braidlog run list --status open --created-before 2026-11-01 --json | jq -r .run.run_id

Runs that pass every filter are listed; several --status are alternatives.")]
pub(in crate::cli) struct ListArgs {
    /// Only runs whose name starts with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only runs with this label; may be given more than once: runs that have all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only runs of this batch
    #[arg(long, value_name = "BATCH", default_value = "", hide_default_value = true)]
    batch: String,
    /// Only runs of this task
    #[arg(long, value_name = "TASK", default_value = "", hide_default_value = true)]
    task: String,
    /// Only runs that this run has started
    #[arg(long, value_name = "RUN", default_value = "", hide_default_value = true)]
    parent: String,
    /// Only runs that stand so; may be given more than once
    #[arg(long = "status", value_enum, value_name = "STATUS")]
    statuses: Vec<Status>,
    /// Only runs created then or later: a time in UTC, or as in 2h-ago
    #[arg(long, value_name = "TIME")]
    created_after: Option<Moment>,
    /// Only runs created before: a time in UTC, or as in 2h-ago
    #[arg(long, value_name = "TIME")]
    created_before: Option<Moment>,
    /// List at most N runs
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Where a run may stand, as words of the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(in crate::cli) enum Status {
    /// Not closed
    Open,
    /// Waits for the version it is of
    PendingVersion,
    /// Waits for its start time
    Delayed,
    /// Waits for a worker
    Queued,
    /// Handed to a worker that has not written yet
    Dequeued,
    /// At work
    Executing,
    /// Waits for an input, a token or a time
    Waiting,
    /// Closed: it did what it was for
    Completed,
    /// Closed: its code reported an error
    Failed,
    /// Closed: somebody asked for it to stop
    Canceled,
    /// Closed: the worker died too often
    Crashed,
    /// Closed: the platform failed
    SystemFailure,
    /// Closed: nobody started it in time
    Expired,
    /// Closed: it took longer than allowed
    TimedOut,
}

impl Status {
    /// The statuses of the protocol that are meant.
    pub(in crate::cli) fn statuses(self) -> &'static [RunStatus] {
        match self {
            Self::Open => &[
                RunStatus::PendingVersion,
                RunStatus::Delayed,
                RunStatus::Queued,
                RunStatus::Dequeued,
                RunStatus::Executing,
                RunStatus::Waiting,
            ],
            Self::PendingVersion => &[RunStatus::PendingVersion],
            Self::Delayed => &[RunStatus::Delayed],
            Self::Queued => &[RunStatus::Queued],
            Self::Dequeued => &[RunStatus::Dequeued],
            Self::Executing => &[RunStatus::Executing],
            Self::Waiting => &[RunStatus::Waiting],
            Self::Completed => &[RunStatus::Completed],
            Self::Failed => &[RunStatus::Failed],
            Self::Canceled => &[RunStatus::Canceled],
            Self::Crashed => &[RunStatus::Crashed],
            Self::SystemFailure => &[RunStatus::SystemFailure],
            Self::Expired => &[RunStatus::Expired],
            Self::TimedOut => &[RunStatus::TimedOut],
        }
    }
}

impl ListArgs {
    /// The first page.
    fn first(&self) -> ListRuns {
        let now_ms = now_ms();
        let moment = |moment: Option<Moment>| moment.map(|moment| moment.ms(now_ms));
        ListRuns {
            prefix: self.prefix.clone(),
            tags: self.tags.iter().map(|tag| tag.as_str().into()).collect(),
            batch: self.batch.as_str().into(),
            task: self.task.as_str().into(),
            parent: self.parent.as_str().into(),
            statuses: self.statuses.iter().flat_map(|status| status.statuses()).copied().collect(),
            created: moment(self.created_after).unwrap_or(0)
                ..moment(self.created_before).unwrap_or(u64::MAX),
            ..ListRuns::default()
        }
    }
}

/// Runs the command.
pub(super) async fn list(args: ListArgs, output: &mut Output) -> Result<(), Failure> {
    let client = args.remote.client()?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut table =
        Table::new(["RUN", "STATUS", "TASK", "TAGS", ">STREAMS", ">TAIL", ">BYTES", "CREATED"]);
    let mut list = args.first();
    while 0 < left {
        list.page_size = left.min(LIST_ROWS_MAX);
        let page = client.list_runs(&list).await;
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
        list.after = page.next;
        if list.after.is_none() {
            break;
        }
    }
    Ok(())
}

fn row(run: &RunInfo) -> [String; 8] {
    [
        run.run_id.to_string(),
        status_name(run),
        run.task.to_string(),
        run.tags.join(","),
        run.streams.to_string(),
        run.tail.to_string(),
        run.bytes.to_string(),
        utc(run.created_ms),
    ]
}
