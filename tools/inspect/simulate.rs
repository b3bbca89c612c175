//! `simulate-open`: what a start of the server would do with the directory, without doing it.
//!
//! JSON, one object: `simulated_open` with `opens`; if it would not: `problem`, `file`, `position`,
//! `sound_blocks_after`; if it would: `clean`, `torn`, `blocks`, `frames`, `runs_replayed`, `blocks_copied`, `bytes_copied`,
//! `fresh_slot`, `first_block_no`, `packs`, `packs_lost`, `removed`, `manifest`, `next_manifest`.

use braidlog::{
    error::OpenError,
    format::file_name,
    offline::{Directory, Holder},
    present::quantity::size,
    recovery::Plan,
};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

#[derive(Serialize)]
struct Refused {
    r#type: &'static str,
    opens: bool,
    problem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound_blocks_after: Option<u64>,
}

#[derive(Serialize)]
struct Opens {
    r#type: &'static str,
    opens: bool,
    clean: bool,
    torn: bool,
    blocks: u64,
    frames: u64,
    runs_replayed: u64,
    blocks_copied: usize,
    bytes_copied: u64,
    fresh_slot: String,
    first_block_no: u64,
    packs: u64,
    packs_lost: u64,
    removed: Vec<String>,
    manifest: Option<String>,
    next_manifest: String,
}

pub(crate) fn run(context: &mut Context) -> Result<Exit, Failure> {
    // This one does not give way: it reads the journal and no more, and on a machine that has
    // nothing to spare it would never be done before the journal is another one.
    let directory = Directory::open(&context.data_dir)?;
    if let Holder::Process(pid) = directory.holder() {
        context.note(&format!(
            "process {pid} has the store open: no other start is possible; this is what one would \
             do if it ended now"
        ));
    }
    match directory.plan()? {
        Ok(plan) => opens(context, &plan),
        Err(OpenError::Io { operation, source }) => Err(Failure::io(&operation, &source)),
        Err(error) => refused(context, &error),
    }
}

fn refused(context: &mut Context, error: &OpenError) -> Result<Exit, Failure> {
    let (file, position, sound_blocks_after) = match error {
        OpenError::Corrupt { corruption, sound_blocks_after } => (
            Some(corruption.file.to_string()),
            Some(corruption.position),
            Some(*sound_blocks_after),
        ),
        _ => (None, None, None),
    };
    if context.json {
        context.out.json(Refused {
            r#type: "simulated_open",
            opens: false,
            problem: error.to_string(),
            file,
            position,
            sound_blocks_after,
        })?;
    } else {
        context.out.line("opens     NO: a start would refuse, change nothing, and exit with 78")?;
        context.out.line(format!("why       {error}"))?;
        if let (Some(file), Some(position)) = (file, position) {
            context.out.line(format!("see       braidlog-inspect explain {file}@{position:#x}"))?;
        }
        context.out.line("next      braidlog-inspect recover --to NEWDIR, or restore a backup")?;
    }
    Ok(Exit::Corrupt)
}

fn opens(context: &mut Context, plan: &Plan) -> Result<Exit, Failure> {
    let summary = plan.summary();
    let (slot, first_block_no) = plan.fresh_slot();
    let bytes_copied = plan.doubtful().map(|at| at.block.header.disk_bytes() as u64).sum();
    let answer = Opens {
        r#type: "simulated_open",
        opens: true,
        clean: summary.clean,
        torn: summary.torn,
        blocks: summary.blocks,
        frames: summary.frames,
        runs_replayed: summary.runs,
        blocks_copied: plan.doubtful().len(),
        bytes_copied,
        fresh_slot: file_name::slot(slot).to_string(),
        first_block_no,
        packs: summary.packs,
        packs_lost: summary.packs_lost,
        removed: plan.leftovers().iter().map(ToString::to_string).collect(),
        manifest: plan.manifest().map(|number| file_name::manifest(number).to_string()),
        next_manifest: file_name::manifest(plan.manifest().unwrap_or(0) + 1).to_string(),
    };
    let exit = match (summary.packs_lost, summary.torn) {
        (0, false) => Exit::Ok,
        (0, true) => Exit::Torn,
        _ => Exit::Corrupt,
    };
    if context.json {
        context.out.json(&answer)?;
    } else {
        print(context, &answer)?;
    }
    Ok(exit)
}

fn print(context: &mut Context, answer: &Opens) -> Result<(), Failure> {
    let out = &mut context.out;
    let left =
        if answer.clean { "it was shut down in order" } else { "it was not shut down in order" };
    out.line(format!("opens     yes; {left}"))?;
    out.line(format!(
        "journal   {} blocks with {} frames are read; {} runs have frames that are in no pack yet",
        answer.blocks, answer.frames, answer.runs_replayed
    ))?;
    if answer.torn {
        out.line("torn      the last block was being written when the power went: cut, never acknowledged")?;
    }
    let copies = match answer.blocks_copied {
        0 => "nothing is in doubt".to_owned(),
        n => format!(
            "{n} {} whose durability is in doubt {} copied there, {}",
            if n == 1 { "block" } else { "blocks" },
            if n == 1 { "is" } else { "are" },
            size(answer.bytes_copied)
        ),
    };
    out.line(format!(
        "slot      goes on in {} from block {}; {copies}",
        answer.fresh_slot, answer.first_block_no
    ))?;
    let lost = match answer.packs_lost {
        0 => String::new(),
        n => format!("; {n} cannot be: DATA LOSS for the runs in them, the rest is served"),
    };
    out.line(format!("packs     {} are opened{lost}", answer.packs))?;
    out.line(format!(
        "manifest  {} replaces {}",
        answer.next_manifest,
        answer.manifest.as_deref().unwrap_or("none")
    ))?;
    for path in &answer.removed {
        out.line(format!("removed   {path}"))?;
    }
    Ok(())
}
