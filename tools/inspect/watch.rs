//! `watch`: how a store's files grow, without touching the store.
//!
//! JSON, one object a tick: `tick` with `time_ms`, `durable_block_no`; `blocks`, `frames`, `records` and
//! `bytes` (of frames) of what the journal held when the watch began and of all that came since;
//! `blocks_per_s`, `frames_per_s`, `bytes_per_s` since the tick before; `slots` and `packs` (files), and
//! `holder` (the process that has the store open, if that can be told).
//!
//! Every tick reads on where the one before ended. What does not add up there is not written yet: it is
//! looked at again by the next tick, and never called damage; `verify` tells of that. If the journal was
//! used again faster than it was read, what was lost between is not counted.

use std::{
    io::{self, IsTerminal},
    ops::AddAssign,
    thread::sleep,
    time::Duration,
};

use braidlog::{
    format::{
        file_name,
        frame::Frame,
        slot::{FIRST_BLOCK_AT, SlotHeader, SlotKind},
    },
    journal::scan::{Ended, Next, ScanError, SlotFile},
    offline::{Directory, Holder, Survey},
    platform::RelPath,
    present::{
        quantity::{duration_ms, size},
        utc::utc,
    },
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// How a running store's files grow, again and again
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Time between two looks, such as `500ms` or `5s`
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration_ms)]
    interval: u64,
    /// Looks, after which the watch ends; without it, it does not
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Serialize)]
struct Tick {
    r#type: &'static str,
    time_ms: u64,
    durable_block_no: u64,
    #[serde(flatten)]
    seen: Counts,
    blocks_per_s: f64,
    frames_per_s: f64,
    bytes_per_s: f64,
    slots: usize,
    packs: usize,
    holder: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Counts {
    blocks: u64,
    frames: u64,
    records: u64,
    bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.frames += other.frames;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Where the log was read to.
struct Reached {
    file_seq: u64,
    position: u64,
    next: Next,
}

impl Reached {
    /// Before the first block of a slot.
    fn first_of(header: &SlotHeader) -> Self {
        let SlotHeader { file_seq, first_block_no: block_no, prev_crc, .. } = *header;
        let next = Next { block_no, prev_crc, previous_clean: false };
        Self { file_seq, position: FIRST_BLOCK_AT as u64, next }
    }
}

struct Watch {
    directory: Directory,
    store_uuid: [u8; 16],
    reached: Option<Reached>,
    durable_block_no: u64,
    seen: Counts,
}

impl Watch {
    /// Begins with what is there.
    fn begin(directory: Directory, survey: &Survey) -> Self {
        let mut seen = Counts::default();
        for block in survey.slots.iter().flat_map(|slot| &slot.blocks) {
            let header = &block.header;
            let (frames, bytes) = (u64::from(header.frames), u64::from(header.payload_len));
            seen += Counts { blocks: 1, frames, records: 0, bytes };
        }
        let frames = survey.runs_in_journal().flat_map(|(_, frames)| frames);
        seen.records = frames.map(|frame| u64::from(frame.header.count)).sum();
        let last = survey.slots.iter().rev().find_map(|slot| Some((slot, slot.header?)));
        let reached = last.map(|(slot, header)| match slot.blocks.last() {
            None => Reached::first_of(&header),
            Some(block) => Reached {
                file_seq: header.file_seq,
                position: block.position + block.header.disk_bytes() as u64,
                // A store that is opened again goes on behind a block that said the log ends.
                next: Next {
                    block_no: block.header.block_no + 1,
                    prev_crc: block.header.header_crc,
                    previous_clean: false,
                },
            },
        });
        let (store_uuid, durable_block_no) = (survey.store_uuid, survey.durable_block_no);
        Self { directory, store_uuid, reached, durable_block_no, seen }
    }

    /// Files of a folder whose names fit.
    fn names(&self, folder: &RelPath) -> io::Result<Vec<String>> {
        match self.directory.platform().vfs.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names,
        }
    }

    /// The slots that may hold what comes next, oldest use first, and how many slots there are.
    fn slots(&self) -> io::Result<(Vec<(SlotFile, SlotHeader)>, usize)> {
        let from = self.reached.as_ref().map_or(0, |reached| reached.file_seq);
        let names = self.names(&file_name::journal())?;
        let numbers: Vec<u32> =
            names.iter().filter_map(|name| file_name::parse_slot(name)).collect();
        let mut slots = Vec::new();
        for number in &numbers {
            let opened = SlotFile::open(&*self.directory.platform().vfs, file_name::slot(*number));
            // A slot that is being made, or used again, is looked at by the next tick.
            let Ok(file) = opened else { continue };
            let Ok(Ok(header)) = file.header(SlotKind::Journal) else { continue };
            if header.store_uuid == self.store_uuid && from <= header.file_seq {
                slots.push((file, header));
            }
        }
        slots.sort_by_key(|(_, header)| header.file_seq);
        Ok((slots, numbers.len()))
    }

    /// Reads on as far as the log goes; gives how many slots there are.
    fn read_on(&mut self) -> io::Result<usize> {
        let (slots, count) = self.slots()?;
        for (n, (file, header)) in slots.iter().enumerate() {
            let mut at = match self.reached.take() {
                Some(at) if at.file_seq == header.file_seq => at,
                _ => Reached::first_of(header),
            };
            let next_slot_first = slots.get(n + 1).map(|(_, next)| next.first_block_no);
            let (mut seen, mut durable) = (Counts::default(), self.durable_block_no);
            let mut position = at.position;
            let scanned =
                file.scan_from(at.position, header, &mut at.next, next_slot_first, |found| {
                    let header = found.block.header;
                    position = found.position + header.disk_bytes() as u64;
                    durable = durable.max(header.durable_block_no);
                    let frames = Frame::split(found.block.payload).filter_map(Result::ok);
                    seen += Counts {
                        blocks: 1,
                        frames: u64::from(header.frames),
                        records: frames.map(|frame| u64::from(frame.header.count)).sum(),
                        bytes: u64::from(header.payload_len),
                    };
                    Ok(())
                });
            at.position = position;
            at.next.previous_clean = false;
            self.seen += seen;
            self.durable_block_no = durable;
            self.reached = Some(at);
            match scanned {
                Ok(Ended::NextSlot) => {}
                // What does not add up is being written, or its slot is being used again.
                Ok(Ended::EndOfLog { .. }) | Err(ScanError::Damaged(..)) => {
                    // Behind what cannot be read any more the log goes on in a slot that is there.
                    let is_over =
                        next_slot_first.is_some_and(|first| first <= self.durable_block_no);
                    if !is_over {
                        break;
                    }
                }
                Err(ScanError::Io(error)) => return Err(error),
            }
        }
        Ok(count)
    }

    fn packs(&self) -> io::Result<usize> {
        let names = self.names(&file_name::packs())?;
        let is_pack = |name: &&String| {
            let parsed = file_name::parse_pack(name);
            parsed.is_some_and(|(number, path)| path == file_name::pack(number))
        };
        Ok(names.iter().filter(is_pack).count())
    }
}

pub(crate) fn run(context: &mut Context, args: &WatchArgs) -> Result<Exit, Failure> {
    let directory = context.directory()?;
    let survey = directory.survey()?;
    let clock = directory.platform().clock.clone();
    let mut watch = Watch::begin(directory, &survey);
    drop(survey);
    let failed = |error| Failure::io("the data directory", &error);
    let is_screen = !context.json && io::stdout().is_terminal();
    let (mut before, mut looked_at) = (watch.seen, clock.mono());
    let mut ticks = 0;
    while args.count.is_none_or(|count| ticks < count) {
        if ticks != 0 {
            sleep(Duration::from_millis(args.interval));
        }
        ticks += 1;
        let slots = watch.read_on().map_err(failed)?;
        let now = clock.mono();
        let seconds = (now - looked_at).as_secs_f64();
        let rate = |now: u64, before: u64| match ticks {
            1 => 0.0,
            _ => (now - before) as f64 / seconds.max(0.001),
        };
        let seen = watch.seen;
        let tick = Tick {
            r#type: "tick",
            time_ms: clock.wall_ms(),
            durable_block_no: watch.durable_block_no,
            seen,
            blocks_per_s: rate(seen.blocks, before.blocks),
            frames_per_s: rate(seen.frames, before.frames),
            bytes_per_s: rate(seen.bytes, before.bytes),
            slots,
            packs: watch.packs().map_err(failed)?,
            holder: match watch.directory.holder() {
                Holder::Process(pid) => Some(pid),
                Holder::Nobody | Holder::Unknown => None,
            },
        };
        (before, looked_at) = (seen, now);
        print(context, &tick, is_screen)?;
        context.out.flush()?;
    }
    Ok(Exit::Ok)
}

fn print(context: &mut Context, tick: &Tick, is_screen: bool) -> Result<(), Failure> {
    let out = &mut context.out;
    if context.json {
        return out.json(tick);
    }
    let Tick { seen, slots, packs, .. } = tick;
    let holder = tick.holder.map_or("nobody".into(), |pid| format!("process {pid}"));
    let (time, bytes_per_s) = (utc(tick.time_ms), size(tick.bytes_per_s as u64));
    if !is_screen {
        return out.line(format!(
            "{time}   {:.0} blocks/s {:.0} frames/s {bytes_per_s}/s   {} records   durable to block {}   \
             {slots} slots {packs} packs   {holder}",
            tick.blocks_per_s, tick.frames_per_s, seen.records, tick.durable_block_no,
        ));
    }
    // To the upper left, and everything from there on away.
    out.bytes(b"\x1b[H\x1b[J")?;
    out.line(format!("{time}   held by {holder}   {}", context.data_dir.display()))?;
    out.line(format!("durable   to block {}", tick.durable_block_no))?;
    out.line(format!("blocks    {}   {:.0}/s", seen.blocks, tick.blocks_per_s))?;
    out.line(format!("frames    {}   {:.0}/s", seen.frames, tick.frames_per_s))?;
    out.line(format!("records   {}", seen.records))?;
    out.line(format!("bytes     {}   {bytes_per_s}/s", size(seen.bytes)))?;
    out.line(format!("files     {slots} slots, {packs} packs"))
}
