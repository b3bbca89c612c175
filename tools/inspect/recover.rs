//! `recover`: everything that is sound, into a new directory; every range that is lost is told.
//!
//! Where records are lost of which nothing says whose they were, the place is told instead.
//!
//! JSON, one object a line: `loss` as `verify` shows it; `unattributed` with `file`, `position`, `until`;
//! `left_out` with `run_no`, `run_id`, `records`, `why`; `renamed`
//! with `run_no`, `run_id`; `recovered` with `to`, `runs`, `deleted`, `frames`, `records`, `packs`, `bytes`, `losses`,
//! `records_lost`, `unattributed`, `exit`.

use std::{ops::Range, path::PathBuf};

use braidlog::{
    Codec,
    format::identity::StoreIdentity,
    offline::{NewStore, Salvaged, VerifyHow, salvage},
    platform::RelPath,
    present::quantity::size,
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    verify::{loss_row, loss_text},
};

/// Everything that is sound, into a new directory; every lost range is listed
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The new directory: it must not exist, or be empty
    #[arg(long, value_name = "NEWDIR")]
    to: PathBuf,
}

#[derive(Serialize)]
struct LeftOutRow<'a> {
    r#type: &'static str,
    run_no: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    records: u64,
    why: &'a str,
}

#[derive(Serialize)]
struct RenamedRow<'a> {
    r#type: &'static str,
    run_no: u64,
    run_id: &'a str,
}

#[derive(Serialize)]
struct PlaceRow<'a> {
    r#type: &'static str,
    file: &'a str,
    position: u64,
    until: u64,
}

#[derive(Serialize)]
struct Sum {
    r#type: &'static str,
    to: String,
    runs: u64,
    deleted: u64,
    frames: u64,
    records: u64,
    packs: u64,
    bytes: u64,
    losses: usize,
    records_lost: u64,
    unattributed: usize,
    exit: u8,
}

pub(crate) fn run(context: &mut Context, args: &RecoverArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    let platform = survey.platform();
    let created_ms =
        survey.identity.map_or_else(|| survey.clock_ms(), |identity| identity.created_ms);
    // Another store: files of the one are never taken for files of the other.
    let identity = StoreIdentity { store_uuid: platform.random_id(), created_ms };
    let mut store = NewStore::create(&args.to, identity, Codec::default())?;
    let found = salvage(&survey, &mut store, &mut |_| {})?;
    let built = store.finish()?;
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get());
    let verified = survey.verify(VerifyHow { jobs, deep: false, rests: 0 }, &|_, _| {})?;
    let unattributed = verified.unattributed(&survey, &found.losses);
    let is_whole = found.losses.is_empty() && found.left_out.is_empty() && unattributed.is_empty();
    let exit = if is_whole { Exit::Ok } else { Exit::Corrupt };
    let records_lost = found.losses.iter().map(|loss| loss.seq.end.0 - loss.seq.start.0).sum();
    let sum = Sum {
        r#type: "recovered",
        to: args.to.display().to_string(),
        runs: found.runs,
        deleted: found.deleted,
        frames: found.frames,
        records: found.records,
        packs: built.packs,
        bytes: built.bytes,
        losses: found.losses.len(),
        records_lost,
        unattributed: unattributed.len(),
        exit: exit as u8,
    };
    match context.json {
        true => json(context, &found, &unattributed, sum)?,
        false => text(context, &found, &unattributed, &sum)?,
    }
    Ok(exit)
}

fn json(
    context: &mut Context,
    found: &Salvaged,
    unattributed: &[(&RelPath, Range<u64>)],
    sum: Sum,
) -> Result<(), Failure> {
    for loss in &found.losses {
        context.out.json(loss_row(loss))?;
    }
    for (file, range) in unattributed {
        let (file, position, until) = (file.as_str(), range.start, range.end);
        context.out.json(PlaceRow { r#type: "unattributed", file, position, until })?;
    }
    for left in &found.left_out {
        context.out.json(LeftOutRow {
            r#type: "left_out",
            run_no: left.run_no.0,
            run_id: left.name.as_ref().map(|name| &*name.run_id),
            records: left.records,
            why: &left.why,
        })?;
    }
    for (run_no, name) in &found.renamed {
        let (run_no, run_id) = (run_no.0, &*name.run_id);
        context.out.json(RenamedRow { r#type: "renamed", run_no, run_id })?;
    }
    context.out.json(sum)
}

fn text(
    context: &mut Context,
    found: &Salvaged,
    unattributed: &[(&RelPath, Range<u64>)],
    sum: &Sum,
) -> Result<(), Failure> {
    for loss in &found.losses {
        let at = format!("{}@{:#x}", loss.cause.file, loss.cause.position);
        context.out.line(format!("✗ {}  ({at})", loss_text(loss)))?;
    }
    for (file, Range { start, end }) in unattributed {
        context.out.line(format!(
            "✗ LOST  {file}@{start:#x}..{end:#x}  nothing says whose, beyond what is listed above"
        ))?;
    }
    for left in &found.left_out {
        let name = match &left.name {
            Some(name) => name.to_string(),
            None => format!("#{}", left.run_no.0),
        };
        context.out.line(format!(
            "! run {name}: {} records are sound and left out: {}",
            left.records, left.why
        ))?;
    }
    for (run_no, name) in &found.renamed {
        context.out.line(format!("! run #{}: its name is lost; it is {name} now", run_no.0))?;
    }
    let lost = match (sum.losses, sum.unattributed) {
        (0, 0) => "nothing is lost".to_owned(),
        (n, 0) => format!("{} records in {n} places are lost", sum.records_lost),
        (n, more) => format!(
            "{} records in {n} places are lost, and what stood in {more} more",
            sum.records_lost
        ),
    };
    context.out.line(format!(
        "recovered {} runs, {} records into {} ({}); {lost}",
        sum.runs,
        sum.records,
        sum.to,
        size(sum.bytes)
    ))?;
    if 0 < sum.deleted {
        context.out.line(format!("{} deleted runs are left out", sum.deleted))?;
    }
    context.out.line(format!("next      braidlog-inspect verify --data-dir {}", sum.to))
}
