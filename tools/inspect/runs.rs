//! `runs`: which runs there are, and one of them in full.

use braidlog::{
    RunInfo,
    core::RunState,
    offline::{FoundRun, RunFilter},
    present::{
        RunLine, StreamPart, quantity::size, status_name, stream_kind_name, table::Table, utc::utc,
    },
};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// Which runs there are, and one of them in full
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// One run in full: its state as the frames make it
    Show {
        /// Name of the run
        run: String,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only runs with this status, such as `executing` or `completed`
    #[arg(long)]
    status: Option<String>,
    /// Only runs with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only runs of this task
    #[arg(long)]
    task: Option<String>,
    /// Only runs of this batch
    #[arg(long)]
    batch: Option<String>,
    /// Only runs whose name begins like this
    #[arg(long)]
    prefix: Option<String>,
    /// Runs of all namespaces, and those of the store's own (`$wait`, `$batch`, `$key:...`)
    #[arg(long)]
    all: bool,
    /// Also runs that are deleted and not collected yet
    #[arg(long)]
    deleted: bool,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Time)]
    sort: Sort,
    /// Runs shown, at most; 0 is all of them
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The newest
    Time,
    /// The largest
    Bytes,
    /// The one with the most records
    Records,
}

/// A run in the list.
#[derive(Serialize)]
struct RunRow<'a> {
    r#type: &'static str,
    namespace: &'a str,
    run_no: u64,
    segments: u32,
    journal_frames: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(flatten)]
    run: RunLine<'a>,
}

/// A run that cannot be read.
#[derive(Serialize)]
struct DamagedRow {
    r#type: &'static str,
    run_no: u64,
    segments: u32,
    journal_frames: u32,
    problem: String,
}

pub(crate) fn run(context: &mut Context, args: RunsArgs) -> Result<Exit, Failure> {
    match args.command {
        Some(RunsCommand::Show { run }) => show(context, &run),
        None => list(context, &args.list),
    }
}

fn list(context: &mut Context, args: &ListArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let mut found: Vec<FoundRun> = Vec::new();
    let (mut matched, limit) = (0usize, if args.limit == 0 { usize::MAX } else { args.limit });
    survey.each_run(RunFilter { deleted: args.deleted }, |mut run| {
        if !is_wanted(&run, args, &context.namespace) {
            return Ok(());
        }
        matched += 1;
        if let Ok(state) = &mut run.state {
            slim(state);
        }
        found.push(run);
        // What cannot be among the first any more is let go, so that a long list needs no memory.
        if limit.saturating_mul(2).max(1_024) <= found.len() {
            sort(&mut found, args.sort);
            found.truncate(limit);
        }
        Ok(())
    })?;
    sort(&mut found, args.sort);
    found.truncate(limit);
    let mut table = Table::new([
        "RUN", "STATUS", ">RECORDS", ">BYTES", ">STREAMS", "CREATED", "TASK", "TAGS", "WHERE",
    ]);
    for run in &found {
        match (&run.state, context.json) {
            (Ok(state), true) => context.out.json(row(run, &RunInfo::of(state)))?,
            (Err(error), true) => context.out.json(damaged(run, error.to_string()))?,
            (Ok(state), false) => {
                let info = RunInfo::of(state);
                let deleted = if run.is_deleted { " (deleted)" } else { "" };
                table.row([
                    run.label(),
                    format!("{}{deleted}", status_name(&info)),
                    state.tail.0.to_string(),
                    size(state.bytes),
                    state.streams.len().to_string(),
                    utc(state.created_ms),
                    state.task.to_string(),
                    state.tags.join(","),
                    place(run),
                ]);
            }
            (Err(error), false) => table.row([
                run.label(),
                "UNREADABLE".into(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                error.to_string(),
            ]),
        }
    }
    if !context.json {
        context.out.bytes(table.take().as_bytes())?;
    }
    context.out.flush()?;
    if found.len() < matched {
        context.note(&format!(
            "{} of {matched} runs; see more with --limit, or fewer with --status, --tag, --task",
            found.len()
        ));
    }
    Ok(context.ended(&survey))
}

/// Takes out of a state what a list does not show, which may be megabytes.
fn slim(state: &mut RunState) {
    state.spec.payload.clear();
    state.metadata.clear();
    state.requests.clear();
    state.waits.clear();
    state.producers.clear();
    if let Some(ending) = &mut state.ending {
        ending.output.clear();
    }
}

fn sort(found: &mut [FoundRun], by: Sort) {
    let state = |run: &FoundRun| {
        run.state.as_ref().ok().map(|state| {
            let first = match by {
                Sort::Time => state.created_ms,
                Sort::Bytes => state.bytes,
                Sort::Records => state.tail.0,
            };
            (first, state.created_ms)
        })
    };
    // What cannot be read comes first: it is what somebody looks for.
    found.sort_by_key(|run| {
        (run.state.is_ok(), std::cmp::Reverse(state(run)), std::cmp::Reverse(run.run_no))
    });
}

fn is_wanted(run: &FoundRun, args: &ListArgs, namespace: &str) -> bool {
    // What cannot be read may be what is looked for.
    let Ok(state) = &run.state else { return true };
    let is = |wanted: &Option<String>, found: &str| {
        wanted.as_ref().is_none_or(|wanted| *wanted == *found)
    };
    let is_own = state.task.starts_with('$') || state.run_id.starts_with('$');
    let wanted_tag = |wanted: &String| state.tags.iter().any(|tag| **tag == **wanted);
    (args.all || (*state.namespace == *namespace && !is_own))
        && args.status.as_ref().is_none_or(|wanted| {
            let status = state.status().as_str_name().trim_start_matches("RUN_STATUS_");
            status.eq_ignore_ascii_case(wanted)
        })
        && args.tag.as_ref().is_none_or(wanted_tag)
        && is(&args.task, &state.task)
        && is(&args.batch, &state.batch)
        && args.prefix.as_ref().is_none_or(|prefix| state.run_id.starts_with(&**prefix))
}

fn place(run: &FoundRun) -> String {
    match (run.segments, run.journal_frames) {
        (0, _) => "journal".into(),
        (n, 0) => format!("{n} segment{}", if n == 1 { "" } else { "s" }),
        (n, _) => format!("{n} segment{} + journal", if n == 1 { "" } else { "s" }),
    }
}

fn row<'a>(run: &'a FoundRun, info: &'a RunInfo) -> RunRow<'a> {
    RunRow {
        r#type: "run",
        namespace: run.state.as_ref().map_or("", |state| &state.namespace),
        run_no: run.run_no.0,
        segments: run.segments,
        journal_frames: run.journal_frames,
        deleted: run.is_deleted,
        run: RunLine::listed(info),
    }
}

fn damaged(run: &FoundRun, problem: String) -> DamagedRow {
    DamagedRow {
        r#type: "damaged_run",
        run_no: run.run_no.0,
        segments: run.segments,
        journal_frames: run.journal_frames,
        problem,
    }
}

/// A run in full.
#[derive(Serialize)]
struct Shown<'a> {
    r#type: &'static str,
    namespace: &'a str,
    run_no: u64,
    frames: u64,
    segments: usize,
    journal_frames: usize,
    chain: u32,
    producers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at_ms: Option<u64>,
    #[serde(flatten)]
    run: RunLine<'a>,
    streams: Vec<StreamPart<'a>>,
}

fn show(context: &mut Context, run: &str) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let log = context.find(&survey, run)?;
    let state = log.state()?;
    let info = RunInfo::of(&state);
    let streams = state.streams.iter().enumerate();
    let streams: Vec<_> = streams.map(|(n, stream)| StreamPart::of(n as u32, stream)).collect();
    let shown = Shown {
        r#type: "run",
        namespace: &state.namespace,
        run_no: state.run_no.0,
        frames: state.frames,
        segments: log.segments().len(),
        journal_frames: log.journal_frames().len(),
        chain: state.chain.0,
        producers: state.producers.len(),
        deleted_at_ms: state.deleted_ms,
        run: RunLine::listed(&info),
        streams,
    };
    if context.json {
        context.out.json(&shown)?;
        return Ok(context.ended(&survey));
    }
    let out = &mut context.out;
    out.line(format!(
        "run       {}   {}   uid {}",
        state.run_id,
        status_name(&info),
        state.run_uid
    ))?;
    out.line(format!(
        "number    {}   namespace {}   vshard {}",
        state.run_no.0,
        state.namespace,
        state.run_no.vshard()
    ))?;
    out.line(format!(
        "created   {}   last change {}",
        utc(state.created_ms),
        utc(state.updated_ms)
    ))?;
    if !state.task.is_empty() {
        out.line(format!("task      {}", state.task))?;
    }
    if !state.tags.is_empty() {
        out.line(format!("tags      {}", state.tags.join(", ")))?;
    }
    if !state.batch.is_empty() {
        out.line(format!("batch     {}", state.batch))?;
    }
    if let Some(lease) = &state.life.lease {
        out.line(format!(
            "lease     epoch {}, worker {}, term {} ms",
            state.life.epoch, lease.worker, lease.term_ms
        ))?;
    }
    if let Some(ending) = &state.ending {
        out.line(format!(
            "ended     {} at {}, seq {}",
            status_name(&info),
            utc(ending.time_ms),
            ending.seq
        ))?;
    }
    if let Some(deleted_ms) = state.deleted_ms {
        out.line(format!("DELETED   {}", utc(deleted_ms)))?;
    }
    out.line(format!(
        "log       {} records, {} frames, {}   {} segments, {} frames in the journal only",
        state.tail.0,
        state.frames,
        size(state.bytes),
        log.segments().len(),
        log.journal_frames().len()
    ))?;
    if !state.metadata.is_empty() {
        out.line(format!("metadata  {}", String::from_utf8_lossy(&state.metadata)))?;
    }
    let pending = state.pending_waits().count();
    if !state.waits.is_empty() || !state.outbox.is_empty() || !state.producers.is_empty() {
        out.line(format!(
            "also      {} producers, {pending} waits pending, {} messages to other runs",
            state.producers.len(),
            state.outbox.len()
        ))?;
    }
    let mut table = Table::new([">NO", "STREAM", "KIND", ">TRIM", ">TAIL", "CLOSED"]);
    for (n, stream) in state.streams.iter().enumerate() {
        table.row([
            n.to_string(),
            stream.name.to_string(),
            stream_kind_name(stream.kind).into(),
            stream.trim.to_string(),
            stream.tail.to_string(),
            if stream.closed || state.ending.is_some() { "closed".into() } else { String::new() },
        ]);
    }
    let text = table.take();
    context.out.bytes(text.as_bytes())?;
    context.out.flush()?;
    Ok(context.ended(&survey))
}
