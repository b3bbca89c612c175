//! `braidlog watch`: what runs are, then every change.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};

use super::{
    cursor_file::CursorFile,
    failure::Failure,
    interrupt,
    moment::Moment,
    present::{WatchLine, outcome_name, status_name},
    records::{Format, RecordPrinter},
    remote::{Remote, now_ms},
    run::list::Status,
    utc::utc,
};
use crate::{
    engine::{DEFAULT_NAMESPACE, RunInfo, RunKey, WatchItem, WatchQuery, WatchRuns, WatchScope},
    proto::Kind,
};

/// Prints runs, and prints them again whenever they change
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog watch build-17                 # until it has ended
  braidlog watch build-17 --records lifecycle --json
  braidlog watch --tag user-7 --json --cursor-file watch.cursor

Changes that come faster than they are printed are merged: the last one never
is. A watch of one run ends with it, with status 0; others go on for ever.")]
pub(super) struct WatchArgs {
    /// Name of the run
    #[arg(conflicts_with_all = ["tags", "batch", "task", "statuses"])]
    run: Option<String>,
    /// Runs with this label; may be given more than once: runs that have all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Runs of this batch
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
    /// Runs of this task
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Runs that stand so; may be given more than once
    #[arg(long = "status", value_enum, value_name = "STATUS")]
    statuses: Vec<Status>,
    /// Runs created then or later: a time in UTC, or as in 2h-ago
    #[arg(long, value_name = "TIME", conflicts_with = "run")]
    created_from: Option<Moment>,
    /// Begin with at most N runs, the newest: 1 to 10,000
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    limit: usize,
    /// Print records of these kinds, too; may be given more than once
    #[arg(long = "records", value_enum, value_name = "KIND", requires = "run")]
    kinds: Vec<RecordKind>,
    /// Go on behind an earlier answer
    #[arg(long, value_name = "CURSOR", conflicts_with = "cursor_file")]
    cursor: Option<String>,
    /// Go on behind the cursor in this file if it exists, and keep it up to date
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// What a record is.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RecordKind {
    /// Output
    Chunk,
    /// Messages to the run
    Input,
    /// Changes of the metadata document
    Metadata,
    /// Changes in the life of the run
    Lifecycle,
}

impl From<RecordKind> for Kind {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Chunk => Self::Chunk,
            RecordKind::Input => Self::Input,
            RecordKind::Metadata => Self::Metadata,
            RecordKind::Lifecycle => Self::Lifecycle,
        }
    }
}

/// Runs the command.
pub(super) async fn run(args: WatchArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let subject = args.remote.subject(args.run.as_deref().unwrap_or_default(), None);
    let failed = |error| Failure::store(&error, &subject);
    let scope = scope(&args)?;
    let client = match &args.run {
        Some(_) => args.remote.lasting_client(&subject).await?,
        None => args.remote.server_client(&subject).await?,
    };
    let mut cursor_file = match &args.cursor_file {
        Some(path) => Some(CursorFile::open(path.clone()).await?),
        None => None,
    };
    let stored = cursor_file.as_ref().and_then(CursorFile::cursor).map(str::to_owned);
    let cursor = stored.or_else(|| args.cursor.clone());
    let query = WatchQuery { scope, cursor };
    let mut printer = RecordPrinter::new(args.remote.format(Format::Lines));
    let mut watch = client.watch(query).await.map_err(failed)?;
    loop {
        let item = watch.next().await.map_err(failed)?;
        let cursor = watch.cursor().to_owned();
        print(&mut printer, &item, &cursor, args.remote.json)?;
        printer.flush()?;
        if let Some(file) = cursor_file.as_mut().filter(|_| !cursor.is_empty()) {
            file.store(cursor).await?;
        }
        if let WatchItem::End(outcome) = item {
            if !args.remote.json {
                let (run, outcome) = (&subject.run, outcome_name(outcome));
                // The rows are out; that the note is not read changes nothing.
                let _ = writeln!(io::stderr(), "braidlog: run {run:?} is closed: {outcome}");
            }
            return Ok(());
        }
    }
}

fn scope(args: &WatchArgs) -> Result<WatchScope, Failure> {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    let is_filtered = !args.tags.is_empty()
        || !args.statuses.is_empty()
        || args.batch.is_some()
        || args.task.is_some();
    Ok(match &args.run {
        None if !is_filtered => {
            let problem = "say what is watched: a run, or --tag, --batch, --task or --status";
            return Err(Failure::usage(problem));
        }
        Some(run) => WatchScope::Run {
            run: RunKey::new(run.as_str()),
            run_uid: None,
            kinds: args.kinds.iter().map(|&kind| kind.into()).collect(),
        },
        None => WatchScope::Runs(WatchRuns {
            namespace: DEFAULT_NAMESPACE.into(),
            tags: args.tags.iter().map(|tag| tag.as_str().into()).collect(),
            batch: text(&args.batch),
            task: text(&args.task),
            statuses: args.statuses.iter().flat_map(|status| status.statuses()).copied().collect(),
            created_from_ms: args.created_from.map_or(0, |time| time.ms(now_ms())),
            limit: args.limit,
        }),
    })
}

fn print(
    printer: &mut RecordPrinter,
    item: &WatchItem,
    cursor: &str,
    as_json: bool,
) -> Result<(), Failure> {
    match item {
        WatchItem::Records(records) => printer.watched(records, cursor),
        WatchItem::Row(run) if as_json => {
            printer.learn_names(&run.stream_names);
            printer.json(WatchLine::row(run, cursor))
        }
        WatchItem::Row(run) => printer.line(&row(run)),
        WatchItem::Removed { run_id, run_uid } if as_json => {
            printer.json(WatchLine::removed(run_id, *run_uid, cursor))
        }
        WatchItem::Removed { run_id, .. } => printer.line(&format!("{run_id} was deleted")),
        WatchItem::End(outcome) if as_json => printer.json(WatchLine::end(*outcome, cursor)),
        WatchItem::CaughtUp if as_json => printer.caught_up(cursor),
        WatchItem::End(_) | WatchItem::CaughtUp => Ok(()),
    }
}

/// `2026-11-24T05:10:11Z  build-17  executing  {"stage":"test"}`
fn row(run: &RunInfo) -> String {
    let metadata = super::run::harmless(&String::from_utf8_lossy(&run.metadata));
    let row = format!("{}  {}  {}  {metadata}", utc(run.updated_ms), run.run_id, status_name(run));
    row.trim_end().to_owned()
}
