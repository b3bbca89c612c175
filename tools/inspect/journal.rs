//! `journal`: the slots of the journal, and the blocks of one of them.
//!
//! JSON, one object a line.
//! * list: `slot` with `file`, `file_seq`, `bytes`, `first_block_no`, `blocks`, `frames`, `frame_bytes`, `ending`
//!   (`next_slot`, `end_of_log`, `torn`, `damaged`), `end` (position); `spare_slot` with `file`, `bytes`.
//! * `show SLOT`: `slot`, then `block` with `position`, `block_no`, `frames`, `payload_bytes`, `disk_bytes`,
//!   `durable_block_no`, `clock_at_ms`, `incarnation`, `mask`, `flags`; with `--frames`, `frame` with `position`,
//!   `bytes`, `run_no`, `first_seq`, `records`, `time_ms`, `crc`, `chain`, `flags`; `problem` where it is damaged.

use std::collections::BTreeMap;

use braidlog::{
    format::{
        block::{FLAG_CLEAN, FLAG_IDLE, FLAG_RECOVERED},
        frame,
    },
    offline::{BlockSeen, Ending, FrameSeen, SlotSeen, Survey},
    present::{quantity::size, table::Table, utc::utc},
};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// The slots of the journal, and the blocks of one of them
#[derive(Debug, Args)]
pub(crate) struct JournalArgs {
    #[command(subcommand)]
    command: Option<JournalCommand>,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// All slots
    Ls,
    /// One slot: its header and its blocks
    Show {
        /// The slot: its file, as `journal ls` names it, or its number
        slot: String,
        /// The frames of each block, too
        #[arg(long)]
        frames: bool,
    },
}

#[derive(Serialize)]
struct SlotRow<'a> {
    r#type: &'static str,
    file: &'a str,
    file_seq: u64,
    bytes: u64,
    first_block_no: u64,
    blocks: usize,
    frames: u64,
    frame_bytes: u64,
    ending: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
}

#[derive(Serialize)]
struct SpareRow {
    r#type: &'static str,
    file: String,
    bytes: u64,
}

#[derive(Serialize)]
struct BlockRow {
    r#type: &'static str,
    position: u64,
    block_no: u64,
    frames: u32,
    payload_bytes: u32,
    disk_bytes: usize,
    durable_block_no: u64,
    clock_at_ms: u64,
    incarnation: u32,
    #[serde(skip_serializing_if = "is_none")]
    mask: u16,
    flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct FrameRow {
    r#type: &'static str,
    position: u32,
    bytes: u32,
    run_no: u64,
    first_seq: u64,
    records: u32,
    time_ms: u64,
    crc: String,
    chain: String,
    flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct ProblemRow {
    r#type: &'static str,
    position: u64,
    until: u64,
    problem: String,
}

fn is_none(mask: &u16) -> bool {
    *mask == 0
}

pub(crate) fn run(context: &mut Context, args: JournalArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    match args.command.unwrap_or(JournalCommand::Ls) {
        JournalCommand::Ls => list(context, &survey)?,
        JournalCommand::Show { slot, frames } => show(context, &survey, &slot, frames)?,
    }
    context.out.flush()?;
    match context.ended(&survey) {
        Exit::Ok if survey.is_torn() => Ok(Exit::Torn),
        exit => Ok(exit),
    }
}

/// Frames of the journal by their slot's use and the block they are in.
fn frames_by_block(survey: &Survey) -> BTreeMap<(u64, u64), Vec<FrameSeen>> {
    let mut by_block: BTreeMap<_, Vec<FrameSeen>> = BTreeMap::new();
    for frame in survey.runs_in_journal().flat_map(|(_, frames)| frames) {
        by_block.entry((frame.at.file_seq, frame.end.block_no)).or_default().push(*frame);
    }
    by_block.values_mut().for_each(|frames| frames.sort_by_key(|frame| frame.at.position));
    by_block
}

fn slot_row(slot: &SlotSeen) -> SlotRow<'_> {
    let (ending, end) = match slot.ending {
        Ending::NextSlot => ("next_slot", None),
        Ending::EndOfLog { position, torn: false } => ("end_of_log", Some(position)),
        Ending::EndOfLog { position, torn: true } => ("torn", Some(position)),
        Ending::Damaged => ("damaged", None),
    };
    SlotRow {
        r#type: "slot",
        file: slot.path.as_str(),
        file_seq: slot.listed.file_seq,
        bytes: slot.bytes,
        first_block_no: slot.listed.first_block_no,
        blocks: slot.blocks.len(),
        frames: slot.blocks.iter().map(|block| u64::from(block.header.frames)).sum(),
        frame_bytes: slot.blocks.iter().map(|block| u64::from(block.header.payload_len)).sum(),
        ending,
        end,
    }
}

fn list(context: &mut Context, survey: &Survey) -> Result<(), Failure> {
    let mut table = Table::new([
        "FILE",
        ">USE",
        ">SIZE",
        ">FIRST BLOCK",
        ">BLOCKS",
        ">FRAMES",
        ">FRAME BYTES",
        "THEN",
    ]);
    for slot in &survey.slots {
        let row = slot_row(slot);
        if context.json {
            context.out.json(row)?;
            continue;
        }
        let then = match (row.ending, row.end) {
            ("next_slot", _) => "the next slot".to_owned(),
            ("torn", Some(at)) => format!("torn at {at:#x}: never acknowledged"),
            ("end_of_log", Some(at)) => format!("end of the log at {at:#x}"),
            _ => "✗ damaged".to_owned(),
        };
        table.row([
            row.file.to_owned(),
            row.file_seq.to_string(),
            size(row.bytes),
            row.first_block_no.to_string(),
            row.blocks.to_string(),
            row.frames.to_string(),
            row.frame_bytes.to_string(),
            then,
        ]);
    }
    for &(slot, bytes) in &survey.spare_slots {
        let file = braidlog::format::file_name::slot(slot).to_string();
        match context.json {
            true => context.out.json(SpareRow { r#type: "spare_slot", file, bytes })?,
            false => table.row([
                file,
                String::new(),
                size(bytes),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                "spare".into(),
            ]),
        }
    }
    if context.json {
        return Ok(());
    }
    context.out.bytes(table.take().as_bytes())?;
    context.out.line(format!(
        "durable to block {}; blocks below {} are in packs",
        survey.durable_block_no, survey.live.journal_low
    ))
}

fn show(context: &mut Context, survey: &Survey, name: &str, frames: bool) -> Result<(), Failure> {
    let number = name.parse::<u32>().ok();
    let found = survey.slots.iter().find(|slot| {
        slot.path.as_str() == name || slot.path.name() == name || number == Some(slot.listed.slot)
    });
    let slot = found.ok_or_else(|| {
        let message = format!(
            "slot not part of the journal: {name:?}; see all with `braidlog-inspect journal`"
        );
        Failure::nothing("SLOT_NOT_FOUND", message)
    })?;
    match (context.json, slot.header) {
        (true, _) => context.out.json(slot_row(slot))?,
        (false, None) => {
            context.out.line(format!("slot      {}   ✗ header unreadable", slot.path))?
        }
        (false, Some(header)) => {
            context.out.line(format!(
                "slot      {}   use {}   {}   created {}   start {} of the store",
                slot.path,
                header.file_seq,
                size(slot.bytes),
                utc(header.created_ms),
                header.incarnation
            ))?;
            context.out.line(format!(
                "begins    with block {}, behind header crc {:#010x}   salt {:#018x}",
                header.first_block_no, header.prev_crc, header.salt
            ))?;
        }
    }
    let by_block = if frames { frames_by_block(survey) } else { BTreeMap::new() };
    let mut problems: Vec<_> =
        survey.problems.iter().filter(|problem| problem.file == slot.path).collect();
    problems.sort_by_key(|problem| problem.position);
    let mut problems = problems.into_iter().peekable();
    for block in &slot.blocks {
        while let Some(problem) = problems.next_if(|problem| problem.position < block.position) {
            show_problem(context, problem.position, problem.until, &problem.damage.to_string())?;
        }
        show_block(context, block)?;
        let key = (slot.listed.file_seq, block.header.block_no);
        for frame in by_block.get(&key).into_iter().flatten() {
            show_frame(context, frame)?;
        }
    }
    for problem in problems {
        show_problem(context, problem.position, problem.until, &problem.damage.to_string())?;
    }
    if context.json {
        return Ok(());
    }
    match slot.ending {
        Ending::NextSlot => context.out.line("the log goes on in the next slot"),
        Ending::EndOfLog { position, torn: false } => {
            context.out.line(format!("{position:#010x}  end of the log"))
        }
        Ending::EndOfLog { position, torn: true } => context.out.line(format!(
            "{position:#010x}  torn: what was being written when the power went, never acknowledged; \
             cut at the next start"
        )),
        Ending::Damaged => Ok(()),
    }
}

fn show_problem(
    context: &mut Context,
    position: u64,
    until: u64,
    problem: &str,
) -> Result<(), Failure> {
    if context.json {
        let problem = problem.to_owned();
        return context.out.json(ProblemRow { r#type: "problem", position, until, problem });
    }
    context.out.line(format!("{position:#010x}  ✗ to {until:#x}: {problem}"))
}

fn block_flags(flags: u8) -> Vec<&'static str> {
    let names =
        [(FLAG_IDLE, "idle mark"), (FLAG_CLEAN, "clean shutdown"), (FLAG_RECOVERED, "copy")];
    names.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect()
}

fn frame_flags(flags: u8) -> Vec<&'static str> {
    let names = [
        (frame::FLAG_EFFECTS, "effects"),
        (frame::FLAG_STUB, "stub"),
        (frame::FLAG_FIRST, "first"),
        (frame::FLAG_CLOSES, "closes"),
    ];
    names.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect()
}

fn show_block(context: &mut Context, block: &BlockSeen) -> Result<(), Failure> {
    let header = &block.header;
    let flags = block_flags(header.flags);
    if context.json {
        return context.out.json(BlockRow {
            r#type: "block",
            position: block.position,
            block_no: header.block_no,
            frames: header.frames,
            payload_bytes: header.payload_len,
            disk_bytes: header.disk_bytes(),
            durable_block_no: header.durable_block_no,
            clock_at_ms: header.clock_ms,
            incarnation: header.incarnation,
            mask: header.mask,
            flags,
        });
    }
    let mask = if header.mask == 0 { String::new() } else { format!("  mask {}", header.mask) };
    let flags = if flags.is_empty() { String::new() } else { format!("  {}", flags.join(", ")) };
    context.out.line(format!(
        "{:#010x}  block {}  {} frames, {} bytes  {}  durable below {}{mask}{flags}",
        block.position,
        header.block_no,
        header.frames,
        header.payload_len,
        utc(header.clock_ms),
        header.durable_block_no,
    ))
}

fn show_frame(context: &mut Context, seen: &FrameSeen) -> Result<(), Failure> {
    let header = &seen.header;
    let flags = frame_flags(header.flags);
    if context.json {
        return context.out.json(FrameRow {
            r#type: "frame",
            position: seen.at.position,
            bytes: seen.at.len,
            run_no: header.run_no.0,
            first_seq: header.first_seq.0,
            records: header.count,
            time_ms: header.time_ms,
            crc: format!("{:#010x}", header.crc),
            chain: format!("{:#010x}", header.chain.0),
            flags,
        });
    }
    context.out.line(format!(
        "  {:#010x}  run #{}  seq {}+{}  {} bytes  crc {:#010x}  chain {:#010x}  {}",
        seen.at.position,
        header.run_no.0,
        header.first_seq,
        header.count,
        seen.at.len,
        header.crc,
        header.chain.0,
        flags.join(",")
    ))
}
