//! `stats`: what takes how much room.
//!
//! JSON: `stats` with `bytes` (of the files, by kind: `manifest`, `journal`, `packs`, `names`, `index`,
//! `other`), `journal` (`blocks`, `frames`, `frame_bytes`, `disk_bytes`, `padding_share`, and the middle
//! and 99th percentile of frames and of bytes per block), `packs` (`bytes`, `raw_bytes`, `dead_raw_bytes`,
//! `stored_ratio`), `runs`, `unreadable`, `records`, `run_bytes` (bytes of all frames of the runs), and
//! `amplification` (`journal`, `packs`, `both`). With `--by`, one `group` a line before it: `by`, `name`,
//! `runs`, `records`, `bytes`; a run with several tags is in several groups.
//!
//! Write amplification is told as far as files tell: bytes of blocks that stand in the journal per byte of
//! frames in them, and bytes of packs per raw byte in them; both together is one write to each. Not
//! counted: packs written anew when dead bytes are collected, the manifest, the index, and zeros that
//! new slots are filled with. Blocks of slots that were used again are not there to be counted.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use braidlog::{
    RunInfo,
    core::RunState,
    format::file_name,
    offline::{RunFilter, Survey},
    present::{quantity::size, status_name, table::Table},
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    files::walk,
};

/// What takes how much room
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Runs, records and bytes by this, too
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Groups shown, the largest first; 0 is all of them
    #[arg(long, default_value_t = 20)]
    top: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    /// Tag: a run with several is in several groups
    Tag,
    /// Task
    Task,
    /// Status
    Status,
    /// Namespace
    Namespace,
}

#[derive(Serialize)]
struct Stats {
    r#type: &'static str,
    bytes: FileBytes,
    journal: JournalPart,
    packs: PacksPart,
    runs: u64,
    unreadable: u64,
    records: u64,
    run_bytes: u64,
    amplification: Amplification,
}

#[derive(Default, Serialize)]
struct FileBytes {
    manifest: u64,
    journal: u64,
    packs: u64,
    names: u64,
    index: u64,
    other: u64,
}

#[derive(Serialize)]
struct JournalPart {
    blocks: usize,
    frames: u64,
    frame_bytes: u64,
    disk_bytes: u64,
    padding_share: Option<f64>,
    frames_per_block: Percentiles,
    bytes_per_block: Percentiles,
}

#[derive(Serialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
}

#[derive(Serialize)]
struct PacksPart {
    bytes: u64,
    raw_bytes: u64,
    dead_raw_bytes: u64,
    stored_ratio: Option<f64>,
}

#[derive(Serialize)]
struct Amplification {
    journal: Option<f64>,
    packs: Option<f64>,
    both: Option<f64>,
}

#[derive(Default)]
struct Group {
    runs: u64,
    records: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct GroupRow<'a> {
    r#type: &'static str,
    by: By,
    name: &'a str,
    runs: u64,
    records: u64,
    bytes: u64,
}

/// Part of a whole; none of nothing.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole != 0).then(|| part as f64 / whole as f64)
}

fn percentiles(mut values: Vec<u64>) -> Percentiles {
    values.sort_unstable();
    let at = |percent: usize| {
        let last = values.len().saturating_sub(1);
        values.get((values.len() * percent / 100).min(last)).copied().unwrap_or(0)
    };
    Percentiles { p50: at(50), p99: at(99) }
}

fn file_bytes(survey: &Survey) -> Result<FileBytes, Failure> {
    let mut found = FileBytes::default();
    let walked = walk(&*survey.platform().vfs, &file_name::root(), &mut |path, file| {
        let Some(file) = file else { return Ok(()) };
        let name = path.as_str();
        let is_in =
            |folder: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let kind = if is_in(file_name::journal().as_str()) {
            &mut found.journal
        } else if is_in(file_name::packs().as_str()) {
            if name.ends_with(".names") { &mut found.names } else { &mut found.packs }
        } else if is_in(file_name::index().as_str()) {
            &mut found.index
        } else if file_name::parse_manifest(name).is_some() {
            &mut found.manifest
        } else {
            &mut found.other
        };
        *kind += file.len()?;
        Ok(())
    });
    walked.map_err(|error| Failure::io("the data directory", &error))?;
    Ok(found)
}

fn journal(survey: &Survey) -> JournalPart {
    let headers = survey.slots.iter().flat_map(|slot| &slot.blocks).map(|block| &block.header);
    let frames: Vec<u64> = headers.clone().map(|header| u64::from(header.frames)).collect();
    let bytes: Vec<u64> = headers.clone().map(|header| u64::from(header.payload_len)).collect();
    let disk_bytes = headers.map(|header| header.disk_bytes() as u64).sum();
    let frame_bytes = bytes.iter().sum();
    JournalPart {
        blocks: frames.len(),
        frames: frames.iter().sum(),
        frame_bytes,
        disk_bytes,
        padding_share: ratio(disk_bytes - frame_bytes, disk_bytes),
        frames_per_block: percentiles(frames),
        bytes_per_block: percentiles(bytes),
    }
}

fn names_of(state: &RunState, by: By) -> Vec<Arc<str>> {
    match by {
        By::Tag if state.tags.is_empty() => vec!["".into()],
        By::Tag => {
            let mut tags = state.tags.clone();
            tags.sort_unstable();
            tags.dedup();
            tags
        }
        By::Task => vec![state.task.clone()],
        By::Status => vec![status_name(&RunInfo::of(state)).into()],
        By::Namespace => vec![state.namespace.clone()],
    }
}

pub(crate) fn run(context: &mut Context, args: &StatsArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let (mut runs, mut unreadable, mut all) = (0, 0, Group::default());
    let mut groups: BTreeMap<Arc<str>, Group> = BTreeMap::new();
    survey.each_run(RunFilter::default(), |run| {
        runs += 1;
        let Ok(state) = &run.state else {
            unreadable += 1;
            return Ok(());
        };
        let count = |group: &mut Group| {
            group.runs += 1;
            group.records += state.tail.0;
            group.bytes += state.bytes;
        };
        count(&mut all);
        for name in args.by.iter().flat_map(|by| names_of(state, *by)) {
            count(groups.entry(name).or_default());
        }
        Ok(())
    })?;
    let journal = journal(&survey);
    let packs = survey.packs.iter().map(|pack| &pack.live);
    let packs = PacksPart {
        bytes: packs.clone().map(|pack| pack.listed.bytes).sum(),
        raw_bytes: packs.clone().map(|pack| pack.listed.raw_bytes).sum(),
        dead_raw_bytes: packs.map(|pack| pack.dead_bytes).sum(),
        stored_ratio: None,
    };
    let stored_ratio = ratio(packs.bytes, packs.raw_bytes);
    let in_journal = ratio(journal.disk_bytes, journal.frame_bytes);
    let stats = Stats {
        r#type: "stats",
        bytes: file_bytes(&survey)?,
        amplification: Amplification {
            journal: in_journal,
            packs: stored_ratio,
            both: in_journal.map(|journal| journal + stored_ratio.unwrap_or(0.0)),
        },
        journal,
        packs: PacksPart { stored_ratio, ..packs },
        runs,
        unreadable,
        records: all.records,
        run_bytes: all.bytes,
    };
    if let Some(by) = args.by {
        print_groups(context, by, args.top, groups)?;
    }
    match context.json {
        true => context.out.json(&stats)?,
        false => print(context, &stats)?,
    }
    context.out.flush()?;
    Ok(context.ended(&survey))
}

fn print_groups(
    context: &mut Context,
    by: By,
    top: usize,
    groups: BTreeMap<Arc<str>, Group>,
) -> Result<(), Failure> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| Reverse(group.bytes));
    let top = if top == 0 { usize::MAX } else { top };
    let mut table = Table::new(["GROUP", ">RUNS", ">RECORDS", ">BYTES"]);
    for (name, &Group { runs, records, bytes }) in
        groups.iter().map(|(name, group)| (&**name, group)).take(top)
    {
        if context.json {
            context.out.json(GroupRow { r#type: "group", by, name, runs, records, bytes })?;
            continue;
        }
        let name = if name.is_empty() { "(none)" } else { name };
        table.row([name.into(), runs.to_string(), records.to_string(), size(bytes)]);
    }
    if !context.json {
        context.out.bytes(table.take().as_bytes())?;
    }
    Ok(())
}

fn print(context: &mut Context, stats: &Stats) -> Result<(), Failure> {
    let Stats { bytes, journal, packs, amplification, .. } = stats;
    let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    let out = &mut context.out;
    out.line(format!(
        "files     journal {}, packs {}, names {}, manifest {}, index {}, other {}",
        size(bytes.journal),
        size(bytes.packs),
        size(bytes.names),
        size(bytes.manifest),
        size(bytes.index),
        size(bytes.other),
    ))?;
    out.line(format!(
        "journal   {} blocks, {} frames, {} of frames on {} of disk, {:.1} % padding and headers",
        journal.blocks,
        journal.frames,
        size(journal.frame_bytes),
        size(journal.disk_bytes),
        100.0 * journal.padding_share.unwrap_or(0.0),
    ))?;
    out.line(format!(
        "blocks    frames p50 {} p99 {}   bytes p50 {} p99 {}",
        journal.frames_per_block.p50,
        journal.frames_per_block.p99,
        size(journal.bytes_per_block.p50),
        size(journal.bytes_per_block.p99),
    ))?;
    out.line(format!(
        "packs     {} raw stored in {} (ratio {}), {} raw dead",
        size(packs.raw_bytes),
        size(packs.bytes),
        times(packs.stored_ratio),
        size(packs.dead_raw_bytes),
    ))?;
    out.line(format!(
        "runs      {} ({} unreadable)   {} records   {} of frames",
        stats.runs,
        stats.unreadable,
        stats.records,
        size(stats.run_bytes),
    ))?;
    out.line(format!(
        "written   per byte of frames: {} to the journal, {} to packs, {} to both; without collection, \
         manifest, index",
        times(amplification.journal),
        times(amplification.packs),
        times(amplification.both),
    ))
}
