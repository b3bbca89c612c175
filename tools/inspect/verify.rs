//! `verify`: every checksum, and what exactly is lost where one does not hold.
//!
//! JSON, one object a line:
//! * `file` with `file`, `bytes`, `frames`, `records`, `findings`;
//! * `finding` with `nature` (`corrupt`, `torn`), `file`, `position`, `until`, `problem`, `consequence`
//!   (`start_refused`, `data_loss`, `redundant`, `cut`), `was_durable`, and for the journal `frames`: each with `position`,
//!   `until`, and if a single wrong byte explains it `run_no`, `first_seq`, `records`, `wrong_byte`, `wrong_bits`;
//! * `loss` with `namespace`, `run_id` (if known), `run_no`, `from_seq`, `to_seq`, `streams` (each with `number`, `name`,
//!   `from_index`, `to_index`), `file`, `position`;
//! * `verified` with `bytes`, `records`, `files`, `corrupt`, `torn`, `losses`, `records_lost`, `runs_read`, `ms`, `exit`.

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
};

use braidlog::{
    offline::{
        Consequence, DamagedFrame, FileChecked, Finding, Holder, Loss, Nature, Verification,
        VerifyHow,
    },
    present::quantity::size,
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// Every checksum, and what exactly is lost where one does not hold
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Read every run frame by frame, too: chains, numbers, states
    #[arg(long)]
    deep: bool,
    /// Threads [default: as many as there are cores; while a process has the store open, one that rests
    /// two thirds of the time]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// No list of files, only what is wrong and the sum
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct FileRow<'a> {
    r#type: &'static str,
    file: &'a str,
    bytes: u64,
    frames: u64,
    records: u64,
    findings: usize,
}

#[derive(Serialize)]
struct FindingRow<'a> {
    r#type: &'static str,
    nature: &'static str,
    file: &'a str,
    position: u64,
    until: u64,
    problem: String,
    consequence: &'static str,
    was_durable: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    frames: Vec<FrameRow>,
}

#[derive(Serialize)]
struct FrameRow {
    position: u64,
    until: u64,
    #[serde(flatten)]
    probably: Option<ProbablyRow>,
}

#[derive(Serialize)]
struct ProbablyRow {
    run_no: u64,
    first_seq: u64,
    records: u32,
    wrong_byte: usize,
    wrong_bits: u8,
}

/// Records that are lost.
#[derive(Serialize)]
pub(crate) struct LossRow<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    run_no: u64,
    from_seq: u64,
    to_seq: u64,
    streams: Vec<StreamRow<'a>>,
    file: &'a str,
    position: u64,
}

#[derive(Serialize)]
struct StreamRow<'a> {
    number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    from_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_index: Option<u64>,
}

#[derive(Serialize)]
struct Sum {
    r#type: &'static str,
    bytes: u64,
    records: u64,
    files: usize,
    corrupt: usize,
    torn: usize,
    losses: usize,
    records_lost: u64,
    runs_read: u64,
    ms: u64,
    exit: u8,
}

pub(crate) fn run(context: &mut Context, args: &VerifyArgs) -> Result<Exit, Failure> {
    let directory = context.directory()?;
    let clock = directory.platform().clock.clone();
    let begun = clock.mono();
    let survey = directory.survey()?;
    let (jobs, rests) = match args.jobs {
        Some(jobs) => (jobs.get(), 0),
        None if directory.holder() == Holder::Nobody => (cores(), 0),
        None => (1, RESTS_BESIDE_A_SERVER),
    };
    let bar = Bar::new(context.json);
    let how = VerifyHow { jobs, deep: args.deep, rests };
    let found = survey.verify(how, &|done, total| bar.show(done, total))?;
    bar.end();
    let took = clock.mono().saturating_sub(begun);
    let exit = match (found.is_corrupt(), found.is_torn()) {
        (true, _) => Exit::Corrupt,
        (false, true) => Exit::Torn,
        (false, false) => Exit::Ok,
    };
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match context.json {
        true => json(context, &found, ms, exit)?,
        false => text(context, args, &found, ms, exit)?,
    }
    if exit != Exit::Ok && directory.holder() != Holder::Nobody {
        context.note(
            "! a process has the store open: what it was writing while this read may look damaged; \
             run it once more",
        );
    }
    Ok(exit)
}

/// How often as long as it worked `verify` rests while a process has the store open.
const RESTS_BESIDE_A_SERVER: u32 = 2;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// How far it is, on standard error, if that is a terminal.
struct Bar {
    is_shown: bool,
    percent: AtomicU64,
}

impl Bar {
    const CELLS: u64 = 30;

    fn new(is_json: bool) -> Self {
        let is_shown = !is_json && io::stderr().is_terminal();
        Self { is_shown, percent: AtomicU64::new(u64::MAX) }
    }

    fn show(&self, done: u64, total: u64) {
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        if !self.is_shown || self.percent.swap(percent, Ordering::Relaxed) == percent {
            return;
        }
        let full = (percent * Self::CELLS / 100) as usize;
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(Self::CELLS as usize - full));
        // There is nobody to tell if this fails.
        let _ = write!(io::stderr(), "\r{bar} {percent:>3} % of {}", size(total));
    }

    fn end(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn problem(finding: &Finding) -> String {
    match (finding.nature, finding.damage) {
        (Nature::Torn, _) => "the end of a write that never was acknowledged".to_owned(),
        (Nature::Corrupt, Some(damage)) => damage.to_string(),
        (Nature::Corrupt, None) => "is damaged".to_owned(),
    }
}

fn consequence_name(consequence: Consequence) -> &'static str {
    match consequence {
        Consequence::StartRefused => "start_refused",
        Consequence::DataLoss => "data_loss",
        Consequence::Redundant => "redundant",
        Consequence::Cut => "cut",
    }
}

fn frame_row(damaged: &DamagedFrame) -> FrameRow {
    let probably = damaged.probably.as_ref().map(|(frame, wrong)| ProbablyRow {
        run_no: frame.header.run_no.0,
        first_seq: frame.header.first_seq.0,
        records: frame.header.count,
        wrong_byte: wrong.at,
        wrong_bits: wrong.bits,
    });
    FrameRow { position: damaged.position, until: damaged.until, probably }
}

/// Records that are lost, as JSON.
pub(crate) fn loss_row(loss: &Loss) -> LossRow<'_> {
    LossRow {
        r#type: "loss",
        namespace: loss.name.as_ref().map(|name| &*name.namespace),
        run_id: loss.name.as_ref().map(|name| &*name.run_id),
        run_no: loss.run_no.0,
        from_seq: loss.seq.start.0,
        to_seq: loss.seq.end.0,
        streams: loss
            .streams
            .iter()
            .map(|stream| StreamRow {
                number: stream.stream.0,
                name: stream.name.as_deref(),
                from_index: stream.from.0,
                to_index: stream.to.map(|to| to.0),
            })
            .collect(),
        file: &loss.cause.file,
        position: loss.cause.position,
    }
}

fn findings_in(found: &Verification, file: &FileChecked) -> usize {
    found.findings.iter().filter(|finding| finding.file == file.file).count()
}

fn sum(found: &Verification, ms: u64, exit: Exit) -> Sum {
    let of = |nature| found.findings.iter().filter(|finding| finding.nature == nature).count();
    Sum {
        r#type: "verified",
        bytes: found.bytes(),
        records: found.files.iter().map(|file| file.records).sum(),
        files: found.files.len(),
        corrupt: of(Nature::Corrupt),
        torn: of(Nature::Torn),
        losses: found.losses.len(),
        records_lost: found.losses.iter().map(|loss| loss.seq.end.0 - loss.seq.start.0).sum(),
        runs_read: found.runs_read,
        ms,
        exit: exit as u8,
    }
}

fn json(context: &mut Context, found: &Verification, ms: u64, exit: Exit) -> Result<(), Failure> {
    for file in &found.files {
        context.out.json(FileRow {
            r#type: "file",
            file: file.file.as_str(),
            bytes: file.bytes,
            frames: file.frames,
            records: file.records,
            findings: findings_in(found, file),
        })?;
    }
    for finding in &found.findings {
        context.out.json(FindingRow {
            r#type: "finding",
            nature: if finding.nature == Nature::Torn { "torn" } else { "corrupt" },
            file: finding.file.as_str(),
            position: finding.position,
            until: finding.until,
            problem: problem(finding),
            consequence: consequence_name(finding.consequence),
            was_durable: finding.was_durable,
            frames: finding.frames.iter().map(frame_row).collect(),
        })?;
    }
    for loss in &found.losses {
        context.out.json(loss_row(loss))?;
    }
    context.out.json(sum(found, ms, exit))
}

fn text(
    context: &mut Context,
    args: &VerifyArgs,
    found: &Verification,
    ms: u64,
    exit: Exit,
) -> Result<(), Failure> {
    if !args.quiet {
        let width = found.files.iter().map(|file| file.file.as_str().len()).max().unwrap_or(0);
        for file in &found.files {
            let state = match findings_in(found, file) {
                0 => "ok".to_owned(),
                n => format!("{n} BAD"),
            };
            context.out.line(format!(
                "{:<width$}  {:>10}  {:>9} rec  {state}",
                file.file.as_str(),
                size(file.bytes),
                file.records,
            ))?;
        }
    }
    for finding in &found.findings {
        tell(context, found, finding)?;
    }
    let sum = sum(found, ms, exit);
    let runs = match sum.runs_read {
        0 => String::new(),
        n => format!(", {n} runs frame by frame,"),
    };
    let counted =
        |n: usize, what: &str| if n == 0 { String::new() } else { format!("      {n} {what}") };
    let line = format!(
        "checked {}, {} records, {} files{runs} in {}.{:02} s{}{}{}      (exit {})",
        size(sum.bytes),
        sum.records,
        sum.files,
        ms / 1_000,
        ms % 1_000 / 10,
        counted(sum.corrupt, "corrupt"),
        counted(sum.torn, "torn"),
        if exit == Exit::Ok { "      all sound" } else { "" },
        sum.exit,
    );
    context.out.line(line)
}

/// A finding in words: where, what, whose records, what a start does, where to look next.
fn tell(context: &mut Context, found: &Verification, finding: &Finding) -> Result<(), Failure> {
    let at = format!("{}@{:#x}", finding.file, finding.position);
    let mark = if finding.nature == Nature::Torn { "!" } else { "✗" };
    let len = finding.until.saturating_sub(finding.position);
    context.out.line(format!("{mark} {at}  {len} bytes: {}", problem(finding)))?;
    for damaged in &finding.frames {
        let what = match &damaged.probably {
            Some((frame, wrong)) => format!(
                "frame of run #{}, seq {}..{}: {}",
                frame.header.run_no.0,
                frame.header.first_seq,
                frame.next_seq(),
                match wrong.single_bit() {
                    Some(bit) => format!("bit {bit} of byte {:#x} is flipped", wrong.at),
                    None => format!("byte {:#x} is wrong by {:#04x}", wrong.at, wrong.bits),
                }
            ),
            None => "one frame or more, unknown whose".to_owned(),
        };
        context.out.line(format!("    {:#x}..{:#x}  {what}", damaged.position, damaged.until))?;
    }
    let losses = found.losses.iter().filter(|loss| {
        *loss.cause.file == *finding.file.as_str()
            && (loss.cause.position == finding.position
                || (finding.position..finding.until).contains(&loss.cause.position))
    });
    for loss in losses {
        context.out.line(format!("    {}", loss_text(loss)))?;
    }
    let durable = if finding.was_durable { "" } else { ", unless it was never acknowledged" };
    context.out.line(format!(
        "    start: {}",
        match finding.consequence {
            Consequence::StartRefused => format!("refused, and nothing changed on disk{durable}"),
            Consequence::DataLoss =>
                "goes on; whoever reads what is lost is told DATA_LOSS".to_owned(),
            Consequence::Redundant =>
                "goes on and nothing is lost: it stands elsewhere once more".to_owned(),
            Consequence::Cut => "cuts it; nothing acknowledged is lost".to_owned(),
        }
    ))?;
    if finding.nature == Nature::Corrupt {
        context.out.line(format!("    see    braidlog-inspect explain {at}"))?;
    }
    Ok(())
}

/// Whose records are lost, and which.
pub(crate) fn loss_text(loss: &Loss) -> String {
    let run = match &loss.name {
        Some(name) => name.to_string(),
        None => format!("#{} (its name is lost)", loss.run_no.0),
    };
    if loss.seq.is_empty() {
        return format!("LOST  run {run}  changes without records at seq {}", loss.seq.start);
    }
    let streams: Vec<_> = loss
        .streams
        .iter()
        .map(|stream| {
            let name = match &stream.name {
                Some(name) => name.clone(),
                None => format!("#{}", stream.stream.0),
            };
            let to = stream.to.map_or_else(|| "?".to_owned(), |to| to.to_string());
            format!("{name}[{}..{to}]", stream.from)
        })
        .collect();
    let streams = match streams.is_empty() {
        true => "streams unknown".to_owned(),
        false => streams.join(" "),
    };
    format!("LOST  run {run}  seq {}..{}  {streams}", loss.seq.start, loss.seq.end)
}
