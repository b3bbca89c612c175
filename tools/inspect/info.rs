//! `info`: one screen.

use braidlog::{
    offline::{Ending, Holder, RunFilter, Survey},
    present::{quantity::size, utc::utc},
};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// The answer.
#[derive(Serialize)]
struct Info {
    r#type: &'static str,
    data_dir: String,
    store_uuid: String,
    format_version: u16,
    created_at_ms: Option<u64>,
    /// `open`, `clean`, `dirty`, `new` or `damaged`.
    state: &'static str,
    holder_pid: Option<u32>,
    journal: JournalPart,
    packs: PacksPart,
    runs: RunsPart,
    leftovers: usize,
    problems: usize,
}

#[derive(Serialize)]
struct JournalPart {
    slots: usize,
    spare_slots: usize,
    bytes: u64,
    blocks: u64,
    next_block_no: u64,
    durable_block_no: u64,
    /// Bytes of frames that are in the journal, whether or not they are in packs, too.
    frame_bytes: u64,
    frames: u64,
    torn: bool,
    clock_ms: u64,
}

#[derive(Serialize)]
struct PacksPart {
    files: usize,
    lost: usize,
    bytes: u64,
    raw_bytes: u64,
    dead_raw_bytes: u64,
    segments: u64,
    oldest_ms: Option<u64>,
}

#[derive(Default, Serialize)]
struct RunsPart {
    total: u64,
    open: u64,
    unreadable: u64,
    records: u64,
}

pub(crate) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let directory = context.directory()?;
    let survey = directory.survey()?;
    let holder = directory.holder();
    let info = gather(context, &survey, holder)?;
    if context.json {
        context.out.json(&info)?;
    } else {
        print(context, &survey, &info, holder)?;
    }
    Ok(context.ended(&survey))
}

fn gather(context: &Context, survey: &Survey, holder: Holder) -> Result<Info, Failure> {
    let mut runs = RunsPart::default();
    survey.each_run(RunFilter::default(), |run| {
        runs.total += 1;
        match &run.state {
            Ok(state) => {
                runs.open += u64::from(state.ending.is_none());
                runs.records += state.tail.0;
            }
            Err(_) => runs.unreadable += 1,
        }
        Ok(())
    })?;
    let packs = survey.packs.iter().map(|pack| &pack.live);
    let blocks = survey.slots.iter().flat_map(|slot| &slot.blocks);
    let frames = survey.runs_in_journal().flat_map(|(_, frames)| frames);
    Ok(Info {
        r#type: "info",
        data_dir: context.data_dir.display().to_string(),
        store_uuid: hex(&survey.store_uuid),
        format_version: braidlog::format::FORMAT_VERSION,
        created_at_ms: survey.identity.map(|identity| identity.created_ms),
        state: state(survey, holder),
        holder_pid: match holder {
            Holder::Process(pid) => Some(pid),
            Holder::Nobody | Holder::Unknown => None,
        },
        journal: JournalPart {
            slots: survey.slots.len(),
            spare_slots: survey.spare_slots.len(),
            bytes: survey.slots.iter().map(|slot| slot.bytes).sum::<u64>()
                + survey.spare_slots.iter().map(|(_, bytes)| bytes).sum::<u64>(),
            blocks: blocks.count() as u64,
            next_block_no: survey.newest_block().map_or(0, |block| block.header.block_no + 1),
            durable_block_no: survey.durable_block_no,
            frame_bytes: frames.clone().map(|frame| u64::from(frame.at.len)).sum(),
            frames: frames.count() as u64,
            torn: survey.is_torn(),
            clock_ms: survey.clock_ms(),
        },
        packs: PacksPart {
            files: survey.packs.len(),
            lost: survey.packs.iter().filter(|pack| pack.lost.is_some()).count(),
            bytes: packs.clone().map(|pack| pack.listed.bytes).sum(),
            raw_bytes: packs.clone().map(|pack| pack.listed.raw_bytes).sum(),
            dead_raw_bytes: packs.clone().map(|pack| pack.dead_bytes).sum(),
            segments: packs.clone().map(|pack| u64::from(pack.listed.segments)).sum(),
            oldest_ms: packs.map(|pack| pack.listed.created_ms).min(),
        },
        runs,
        leftovers: survey.leftovers.len(),
        problems: survey.problems.len(),
    })
}

fn state(survey: &Survey, holder: Holder) -> &'static str {
    match holder {
        Holder::Process(_) => "open",
        _ if !survey.problems.is_empty() => "damaged",
        _ if survey.slots.is_empty() => "new",
        _ if survey.is_clean() => "clean",
        Holder::Nobody | Holder::Unknown => "dirty",
    }
}

fn print(
    context: &mut Context,
    survey: &Survey,
    info: &Info,
    holder: Holder,
) -> Result<(), Failure> {
    let Info { journal, packs, runs, .. } = info;
    let out = &mut context.out;
    let created = info.created_at_ms.map_or("unknown".into(), utc);
    out.line(format!(
        "store     {}   format {}   created {created}",
        info.store_uuid, info.format_version
    ))?;
    let held = match holder {
        Holder::Process(0) => "in use by a process that cannot be seen from here".to_owned(),
        Holder::Process(pid) => format!("in use by process {pid}"),
        Holder::Nobody => "not in use".to_owned(),
        Holder::Unknown => "whether it is in use cannot be told here".to_owned(),
    };
    let left = match info.state {
        "open" => "running",
        "clean" => "shut down in order",
        "new" => "new: nothing was written yet",
        "damaged" => "DAMAGED",
        _ => "not shut down in order: a start replays the journal",
    };
    out.line(format!("state     {left}   {held}"))?;
    let torn = survey.slots.iter().find_map(|slot| match slot.ending {
        Ending::EndOfLog { position, torn: true } => Some(format!(
            "   torn at {}@{position:#x}: never acknowledged, cut at the next start",
            slot.path
        )),
        _ => None,
    });
    out.line(format!(
        "journal   {} slots in use, {} spare, {}   {} frames in {} blocks   durable to block {}{}",
        journal.slots,
        journal.spare_slots,
        size(journal.bytes),
        journal.frames,
        journal.blocks,
        journal.durable_block_no,
        torn.unwrap_or_default(),
    ))?;
    let dead = match packs.raw_bytes {
        0 => String::new(),
        raw => format!(
            "   {} of {} raw dead ({:.1} %)",
            size(packs.dead_raw_bytes),
            size(raw),
            100.0 * packs.dead_raw_bytes as f64 / raw as f64
        ),
    };
    let lost = if packs.lost == 0 { String::new() } else { format!("   {} LOST", packs.lost) };
    out.line(format!(
        "packs     {} files, {}   {} segments{dead}{lost}",
        packs.files,
        size(packs.bytes),
        packs.segments
    ))?;
    let unreadable = if runs.unreadable == 0 {
        String::new()
    } else {
        format!(", {} unreadable", runs.unreadable)
    };
    out.line(format!(
        "runs      {} ({} open{unreadable})   {} records",
        runs.total, runs.open, runs.records
    ))?;
    if info.leftovers != 0 {
        out.line(format!(
            "leftovers {} files of interrupted work, removed at the next start",
            info.leftovers
        ))?;
    }
    if !survey.is_listed {
        out.line("manifest  not readable: what is shown is what the files themselves say")?;
    }
    out.line(format!("next      braidlog-inspect verify --data-dir {}", context.data_dir.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
