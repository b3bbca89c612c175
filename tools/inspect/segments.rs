//! `segments`: the packs, what is in one of them, and the segments of a run.
//!
//! JSON, one object a line.
//! * list: `pack` with `file`, `kind` (`shared`, `own`), `segments`, `bytes`, `raw_bytes`, `dead_raw_bytes`,
//!   `flushed_block`, `created_at_ms`, and `problem` if it cannot be opened.
//! * `show FILE`: `pack` with what header and footer say; `segment` for every entry of the directory, as below; with
//!   `--blocks`, `block` with `position`, `bytes`, `raw_bytes`, `frames`, `described`.
//! * `of RUN`: `segment` with `file`, `run_no`, `first_seq`, `end_seq`, `flushed_block`, `flushed_frame`, `first`,
//!   `deleted`, `pending`, `raw_bytes`, `block`, `block_bytes`; with `--parts`, `part` with `block`, `bytes`,
//!   `first_seq`, `records`, `streams`.

use std::sync::Arc;

use braidlog::{
    error::Error,
    format::{
        PAGE_BYTES,
        pack::{self, PackKind},
        segment,
    },
    offline::{PackSeen, Survey},
    platform::Open,
    present::{quantity::size, table::Table, utc::utc},
    segment::{Pack, Segment},
};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// The packs, what is in one of them, and the segments of a run
#[derive(Debug, Args)]
pub(crate) struct SegmentsArgs {
    #[command(subcommand)]
    command: Option<SegmentsCommand>,
}

#[derive(Debug, Subcommand)]
enum SegmentsCommand {
    /// All packs
    Ls,
    /// One pack: header, footer, directory
    Show {
        /// The pack: its file, as `segments ls` names it, or its number
        pack: String,
        /// Its blocks, too: reads all of it
        #[arg(long)]
        blocks: bool,
        /// Segments shown, at most; 0 is all of them
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The segments of a run, in run order
    Of {
        /// Name of the run
        run: String,
        /// What of each is in which block, too
        #[arg(long)]
        parts: bool,
    },
}

#[derive(Serialize)]
struct PackRow<'a> {
    r#type: &'static str,
    file: &'a str,
    kind: &'static str,
    segments: u32,
    bytes: u64,
    raw_bytes: u64,
    dead_raw_bytes: u64,
    flushed_block: u64,
    created_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct SegmentRow<'a> {
    r#type: &'static str,
    file: &'a str,
    run_no: u64,
    first_seq: u64,
    end_seq: u64,
    flushed_block: u64,
    flushed_frame: u32,
    first: bool,
    deleted: bool,
    pending: bool,
    #[serde(skip_serializing_if = "is_never")]
    expires_at_ms: u64,
    raw_bytes: u64,
    block: u64,
    block_bytes: u32,
}

#[derive(Serialize)]
struct BlockRow {
    r#type: &'static str,
    position: u64,
    bytes: u32,
    raw_bytes: u64,
    segments_described: usize,
}

#[derive(Serialize)]
struct PartRow {
    r#type: &'static str,
    block: u64,
    block_bytes: u32,
    offset: u32,
    bytes: u32,
    first_seq: u64,
    records: u32,
    streams: Vec<PartStreamRow>,
}

#[derive(Serialize)]
struct PartStreamRow {
    stream: u32,
    first_index: u64,
    records: u32,
}

fn is_never(ms: &u64) -> bool {
    *ms == 0
}

pub(crate) fn run(context: &mut Context, args: SegmentsArgs) -> Result<Exit, Failure> {
    let survey = context.survey()?;
    match args.command.unwrap_or(SegmentsCommand::Ls) {
        SegmentsCommand::Ls => list(context, &survey)?,
        SegmentsCommand::Show { pack, blocks, limit } => {
            show(context, &survey, &pack, blocks, limit)?;
        }
        SegmentsCommand::Of { run, parts } => of(context, &survey, &run, parts)?,
    }
    context.out.flush()?;
    Ok(context.ended(&survey))
}

fn pack_row(seen: &PackSeen) -> PackRow<'_> {
    let listed = &seen.live.listed;
    PackRow {
        r#type: "pack",
        file: seen.path.as_str(),
        kind: kind_name(listed.kind),
        segments: listed.segments,
        bytes: listed.bytes,
        raw_bytes: listed.raw_bytes,
        dead_raw_bytes: seen.live.dead_bytes,
        flushed_block: listed.flushed_block,
        created_at_ms: listed.created_ms,
        problem: seen.lost.as_ref().map(ToString::to_string),
    }
}

fn kind_name(kind: PackKind) -> &'static str {
    match kind {
        PackKind::Shared => "shared",
        PackKind::Own => "own",
    }
}

fn list(context: &mut Context, survey: &Survey) -> Result<(), Failure> {
    let mut table = Table::new([
        "FILE",
        "KIND",
        ">SEGMENTS",
        ">BYTES",
        ">RAW",
        ">RATIO",
        ">DEAD",
        ">TO BLOCK",
        "CREATED",
        "",
    ]);
    for seen in &survey.packs {
        if context.json {
            context.out.json(pack_row(seen))?;
            continue;
        }
        let listed = &seen.live.listed;
        let ratio = |part: u64, whole: u64| match whole {
            0 => String::new(),
            whole => format!("{:.2}", part as f64 / whole as f64),
        };
        let dead = match listed.raw_bytes {
            0 => String::new(),
            raw => format!("{:.0} %", 100.0 * seen.live.dead_bytes as f64 / raw as f64),
        };
        table.row([
            seen.path.to_string(),
            kind_name(listed.kind).into(),
            listed.segments.to_string(),
            size(listed.bytes),
            size(listed.raw_bytes),
            ratio(listed.raw_bytes, listed.bytes),
            dead,
            listed.flushed_block.to_string(),
            utc(listed.created_ms),
            seen.lost.as_ref().map_or_else(String::new, |lost| format!("✗ {}", lost.damage)),
        ]);
    }
    context.out.bytes(if context.json { String::new() } else { table.take() }.as_bytes())
}

fn find<'a>(survey: &'a Survey, name: &str) -> Result<&'a PackSeen, Failure> {
    let number = name.parse::<u64>().ok();
    let found = survey.packs.iter().find(|seen| {
        seen.path.as_str() == name
            || seen.path.name() == name
            || number == Some(seen.live.listed.number)
    });
    found.ok_or_else(|| {
        let message = format!("pack not found: {name:?}; see all with `braidlog-inspect segments`");
        Failure::nothing("PACK_NOT_FOUND", message)
    })
}

fn show(
    context: &mut Context,
    survey: &Survey,
    name: &str,
    blocks: bool,
    limit: usize,
) -> Result<(), Failure> {
    let seen = find(survey, name)?;
    match context.json {
        true => context.out.json(pack_row(seen))?,
        false => pages(context, survey, seen)?,
    }
    let pack = match (survey.pack(seen), &seen.lost) {
        (Some(pack), _) => pack,
        (None, Some(lost)) => return Err(Error::Corrupt(lost.clone()).into()),
        (None, None) => return Ok(()),
    };
    let mut segments = segment_table();
    let limit = if limit == 0 { usize::MAX } else { limit };
    for (n, entry) in pack.entries()?.enumerate() {
        if limit <= n {
            context.note(&format!(
                "{limit} of {} segments; see more with --limit",
                seen.live.listed.segments
            ));
            break;
        }
        let segment = Segment { pack: pack.clone(), entry: entry? };
        match context.json {
            true => context.out.json(segment_row(&segment, seen.path.as_str()))?,
            false => segments.row(segment_cells(&segment)),
        }
    }
    context.out.bytes(if context.json { String::new() } else { segments.take() }.as_bytes())?;
    if blocks {
        show_blocks(context, pack)?;
    }
    Ok(())
}

/// What header and footer say.
fn pages(context: &mut Context, survey: &Survey, seen: &PackSeen) -> Result<(), Failure> {
    let listed = &seen.live.listed;
    let file = survey.platform().vfs.open(&seen.path, Open::Read);
    let file = file.map_err(|error| Failure::io("opening the pack", &error))?;
    let mut page = vec![0; PAGE_BYTES];
    let out = &mut context.out;
    out.line(format!(
        "pack      {}   {}   {}   {} segments   raw {}",
        seen.path,
        kind_name(listed.kind),
        size(listed.bytes),
        listed.segments,
        size(listed.raw_bytes)
    ))?;
    let header = file.read_exact_at(&mut page, 0).map(|()| pack::decode_header(&page));
    match header {
        Ok(Ok(header)) => out.line(format!(
            "header    number {}   created {}   salt {:#018x}",
            header.number,
            utc(header.created_ms),
            header.salt
        ))?,
        Ok(Err(damage)) => out.line(format!("header    ✗ {damage}"))?,
        Err(error) => out.line(format!("header    ✗ {error}"))?,
    }
    let at = listed.bytes.saturating_sub(PAGE_BYTES as u64);
    let footer =
        file.read_exact_at(&mut page, at).map(|()| pack::decode_footer(&page, listed.bytes));
    match footer {
        Ok(Ok(footer)) => out.line(format!(
            "footer    {} blocks   directory at {:#x}   {} bloom buckets   journal flushed to block {}",
            footer.blocks, footer.index_at, footer.buckets, footer.flushed_block
        )),
        Ok(Err(damage)) => out.line(format!("footer    ✗ {damage}")),
        Err(error) => out.line(format!("footer    ✗ {error}")),
    }
}

fn show_blocks(context: &mut Context, pack: &Arc<Pack>) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let walked = pack.walk(|position, bytes, raw| {
        let described = pack::described(&raw)?;
        for &(offset, len) in &described {
            segment::decode(&raw.slice(offset as usize..(offset + len) as usize))?;
        }
        rows.push(BlockRow {
            r#type: "block",
            position,
            bytes,
            raw_bytes: raw.len() as u64,
            segments_described: described.len(),
        });
        Ok(())
    });
    let mut table = Table::new(["BLOCK", ">BYTES", ">RAW", ">DESCRIBES"]);
    for row in rows {
        match context.json {
            true => context.out.json(row)?,
            false => table.row([
                format!("{:#x}", row.position),
                row.bytes.to_string(),
                row.raw_bytes.to_string(),
                row.segments_described.to_string(),
            ]),
        }
    }
    context.out.bytes(if context.json { String::new() } else { table.take() }.as_bytes())?;
    Ok(walked.map(drop)?)
}

fn of(context: &mut Context, survey: &Survey, run: &str, parts: bool) -> Result<(), Failure> {
    let log = context.find(survey, run)?;
    let mut table = segment_table();
    let mut part_table =
        Table::new(["BLOCK", ">BYTES", ">OFFSET", ">FRAME BYTES", ">SEQ", ">RECORDS", "STREAMS"]);
    for segment in log.segments() {
        let file = braidlog::format::file_name::pack(segment.pack.number());
        match context.json {
            true => context.out.json(segment_row(segment, file.as_str()))?,
            false => table.row(segment_cells(segment)),
        }
        if !parts {
            continue;
        }
        for part in segment.tail(log.blocks())?.parts {
            let (block, block_bytes) = match part.block {
                0 => (segment.entry.block, segment.entry.block_len),
                block => (block, part.block_len),
            };
            let streams: Vec<_> = part
                .streams
                .iter()
                .map(|stream| PartStreamRow {
                    stream: stream.stream.0,
                    first_index: stream.first_index.0,
                    records: stream.count,
                })
                .collect();
            if context.json {
                context.out.json(PartRow {
                    r#type: "part",
                    block,
                    block_bytes,
                    offset: part.offset,
                    bytes: part.len,
                    first_seq: part.first_seq.0,
                    records: part.count,
                    streams,
                })?;
                continue;
            }
            let streams: Vec<_> = streams
                .iter()
                .map(|found| format!("{}[{}]+{}", found.stream, found.first_index, found.records))
                .collect();
            part_table.row([
                format!("{block:#x}"),
                block_bytes.to_string(),
                part.offset.to_string(),
                part.len.to_string(),
                part.first_seq.to_string(),
                part.count.to_string(),
                streams.join(" "),
            ]);
        }
    }
    if context.json {
        return Ok(());
    }
    context.out.bytes(table.take().as_bytes())?;
    if parts {
        context.out.bytes(part_table.take().as_bytes())?;
    }
    let rest = log.journal_frames().len();
    if rest != 0 {
        context.out.line(format!("and {rest} frames in the journal only"))?;
    }
    Ok(())
}

fn segment_table() -> Table<8> {
    Table::new([">RUN NO", ">SEQ", ">TO", ">RAW", "BLOCK", ">BYTES", "FLUSHED TO", "FLAGS"])
}

fn segment_cells(segment: &Segment) -> [String; 8] {
    let head = &segment.entry.head;
    let flags =
        [(head.is_first, "first"), (head.is_deleted, "deleted"), (head.is_pending, "pending")];
    let flags: Vec<_> = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
    [
        head.run_no.0.to_string(),
        head.first_seq.to_string(),
        head.end_seq.to_string(),
        size(head.raw_bytes),
        format!("{}@{:#x}", segment.pack.number(), segment.entry.block),
        segment.entry.block_len.to_string(),
        format!("{}.{}", head.flushed.block_no, head.flushed.frame),
        flags.join(","),
    ]
}

fn segment_row<'a>(segment: &Segment, file: &'a str) -> SegmentRow<'a> {
    let head = &segment.entry.head;
    SegmentRow {
        r#type: "segment",
        file,
        run_no: head.run_no.0,
        first_seq: head.first_seq.0,
        end_seq: head.end_seq.0,
        flushed_block: head.flushed.block_no,
        flushed_frame: head.flushed.frame,
        first: head.is_first,
        deleted: head.is_deleted,
        pending: head.is_pending,
        expires_at_ms: head.expires_ms,
        raw_bytes: head.raw_bytes,
        block: segment.entry.block,
        block_bytes: segment.entry.block_len,
    }
}
