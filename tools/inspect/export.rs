//! `export`: runs as lines of JSON, from which `import` makes them again, exactly.
//!
//! Always JSON, one object a line:
//! * `store`: `store_uuid`, `created_ms`, `run_counter` (no number of a run is above it), `clock_ms`.
//! * `run`: `namespace`, `run_id`, `run_uid`, `run_no`, `expires_ms` (0: never, or not known), `state_base64` (the
//!   state behind its last frame, as it is stored). Its frames follow, in run order:
//! * `frame`: `run_no`, `first_seq`, `next_seq`, `time_ms`, `trimmed` for what stands for records that were given
//!   up, `records` (as `records` shows them; for people), `frame_base64` (the bytes: what counts).
//! * `missing`: `from_seq`, `to_seq`, `problem`: frames that cannot be read.
//! * `damaged_run`: `run_no`, `problem`: a run that is left out because its state cannot be read.
//! * `end`: `runs`, `frames`, `missing`: without it the output is cut short.

use base64::{Engine, engine::general_purpose::STANDARD};
use braidlog::{
    core::RunState,
    format::wire,
    offline::{FoundRun, Item, RunFilter, RunLog, RunName, Survey},
    present::RecordPart,
    record::{RunNo, name_hash},
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// Runs as lines of JSON, exact enough to make them again with `import`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only this run; may be repeated
    #[arg(long, value_name = "RUN")]
    run: Vec<String>,
    /// Only runs with this tag
    #[arg(long)]
    tag: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Store {
        store_uuid: String,
        created_ms: u64,
        run_counter: u64,
        clock_ms: u64,
    },
    Run {
        namespace: &'a str,
        run_id: &'a str,
        run_uid: String,
        run_no: u64,
        expires_ms: u64,
        state_base64: String,
    },
    Frame {
        run_no: u64,
        first_seq: u64,
        next_seq: u64,
        time_ms: u64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        trimmed: bool,
        records: Vec<RecordPart<'a>>,
        frame_base64: String,
    },
    Missing {
        run_no: u64,
        from_seq: u64,
        to_seq: u64,
        problem: String,
    },
    DamagedRun {
        run_no: u64,
        problem: String,
    },
    End {
        runs: u64,
        frames: u64,
        missing: u64,
    },
}

#[derive(Default)]
struct Counts {
    runs: u64,
    frames: u64,
    missing: u64,
    damaged: u64,
}

pub(crate) fn run(context: &mut Context, args: &ExportArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let (mut wanted, mut counts) = (Vec::new(), Counts::default());
    context.out.json(store(&survey))?;
    for run_id in &args.run {
        let log = context.find(&survey, run_id)?;
        wanted.push((name_hash(&context.namespace, run_id), log.run_no()));
    }
    if args.run.is_empty() {
        let mut damaged = Vec::new();
        survey.each_run(RunFilter::default(), |found| {
            match (&found.state, found.name_hash) {
                (Ok(state), Some(hash)) if has_tag(state, args.tag.as_deref()) => {
                    wanted.push((hash, found.run_no));
                }
                (Ok(_), _) => {}
                (Err(_), _) => damaged.push(line_of(&found)),
            }
            Ok(())
        })?;
        counts.damaged = damaged.len() as u64;
        damaged.iter().try_for_each(|line| context.out.json(line))?;
    }
    for (hash, run_no) in wanted {
        let log = RunLog::open(&survey, Some(hash), run_no)?;
        export(context, log, run_no, args.tag.as_deref(), &mut counts)?;
    }
    let Counts { runs, frames, missing, damaged } = counts;
    context.out.json(Line::End { runs, frames, missing })?;
    context.out.flush()?;
    match context.ended(&survey) {
        Exit::Ok if missing != 0 || damaged != 0 => Ok(Exit::Corrupt),
        exit => Ok(exit),
    }
}

fn has_tag(state: &RunState, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| state.tags.iter().any(|tag| **tag == *wanted))
}

fn line_of(found: &FoundRun) -> Line<'static> {
    let problem = found.state.as_ref().err().map(ToString::to_string).unwrap_or_default();
    Line::DamagedRun { run_no: found.run_no.0, problem }
}

fn store(survey: &Survey) -> Line<'static> {
    let in_journal = survey.runs_in_journal().map(|(run_no, _)| run_no.counter() + 1).max();
    Line::Store {
        store_uuid: survey.store_uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
        created_ms: survey.identity.map_or(0, |identity| identity.created_ms),
        run_counter: survey.live.run_counter.max(in_journal.unwrap_or(0)),
        clock_ms: survey.clock_ms(),
    }
}

fn export(
    context: &mut Context,
    mut log: RunLog<'_>,
    run_no: RunNo,
    tag: Option<&str>,
    counts: &mut Counts,
) -> Result<(), Failure> {
    let state = match log.state() {
        Ok(state) if has_tag(&state, tag) => state,
        Ok(_) => return Ok(()),
        Err(error) => {
            counts.damaged += 1;
            let problem = error.to_string();
            return context.out.json(Line::DamagedRun { run_no: run_no.0, problem });
        }
    };
    let expires_ms = log.segments().last().map_or(0, |segment| segment.entry.head.expires_ms);
    let RunName { namespace, run_id } = RunName::of(&state);
    context.out.json(Line::Run {
        namespace: &namespace,
        run_id: &run_id,
        run_uid: state.run_uid.to_string(),
        run_no: run_no.0,
        expires_ms,
        state_base64: STANDARD.encode(state.to_bytes()),
    })?;
    counts.runs += 1;
    while let Some(item) = log.next_item()? {
        match item {
            Item::Frame(frame, _) => {
                counts.frames += 1;
                let records: Vec<_> =
                    wire::decode_all(frame.records()).map_while(Result::ok).collect();
                let stream = |number: u32| {
                    let known = state.streams.get(number as usize);
                    known.map_or_else(|| format!("#{number}"), |stream| stream.name.to_string())
                };
                let parts = records
                    .iter()
                    .map(|record| RecordPart::new(record, stream(record.stream).into(), None));
                context.out.json(Line::Frame {
                    run_no: run_no.0,
                    first_seq: frame.header.first_seq.0,
                    next_seq: frame.next_seq().0,
                    time_ms: frame.header.time_ms,
                    trimmed: frame.is_stub(),
                    records: parts.collect(),
                    frame_base64: STANDARD.encode(frame.bytes()),
                })?;
            }
            Item::Missing { from, to, cause, .. } => {
                counts.missing += 1;
                let (from_seq, to_seq, problem) = (from.0, to.0, cause.to_string());
                context.out.json(Line::Missing { run_no: run_no.0, from_seq, to_seq, problem })?;
            }
        }
    }
    Ok(())
}
