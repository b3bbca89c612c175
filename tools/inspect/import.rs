//! `import`: a new data directory from the lines that `export` wrote.
//!
//! Every frame is checked: its CRC, that it follows the one before, and that all of them together make the state
//! that the export gives. What does not fit is refused, and nothing is left behind. The directory is built
//! beside the one named and takes its name when all of it is on disk.
//!
//! JSON: `imported` with `runs`, `frames`, `missing` (places where frames were missing in the export; readers are told
//! of them), `packs`, `raw_bytes`, `bytes`.

use std::{
    io::{self, BufRead, Read},
    path::PathBuf,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use braidlog::{
    core::RunState,
    format::{
        compress::Codec,
        frame::{FLAG_FIRST, Frame},
        identity::StoreIdentity,
    },
    offline::NewStore,
    present::quantity::size,
};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// Bytes of a line, at most: a frame in base64, and its records as text, escaped.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A new data directory from what `export` wrote, read from standard input
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The new directory: nothing may be there but an empty directory
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// What counts of a line; the rest is for people.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Store { store_uuid: String, created_ms: u64, run_counter: u64, clock_ms: u64 },
    Run { run_id: String, expires_ms: u64, state_base64: String },
    Frame { frame_base64: String },
    Missing {},
    DamagedRun { run_no: u64, problem: String },
    End { runs: u64, frames: u64 },
}

#[derive(Serialize)]
struct Imported {
    r#type: &'static str,
    runs: u64,
    frames: u64,
    missing: u64,
    packs: u64,
    raw_bytes: u64,
    bytes: u64,
}

/// The lines of standard input.
struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<Line>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| Failure::io("standard input", &error))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let line = serde_json::from_slice(&line).map_err(|error| self.refuse(error))?;
        Ok(Some(line))
    }

    fn refuse(&self, what: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("line {} of standard input: {what}", self.number))
    }

    fn base64(&self, text: &str) -> Result<Vec<u8>, Failure> {
        STANDARD.decode(text).map_err(|error| self.refuse(error))
    }
}

pub(crate) fn run(context: &mut Context, args: &ImportArgs) -> Result<Exit, Failure> {
    let mut lines = Lines { input: io::stdin().lock(), number: 0 };
    let Some(Line::Store { store_uuid, created_ms, run_counter, clock_ms }) = lines.next()? else {
        return Err(lines.refuse("is not what `export` begins with: a `store`"));
    };
    let store_uuid = uuid(&store_uuid).ok_or_else(|| lines.refuse("bad store_uuid"))?;
    let identity = StoreIdentity { store_uuid, created_ms };
    let mut store = NewStore::create(&args.to, identity, Codec::Zstd)?;
    store.reserve(run_counter);
    store.note_clock(clock_ms);
    let mut imported = Imported {
        r#type: "imported",
        runs: 0,
        frames: 0,
        missing: 0,
        packs: 0,
        raw_bytes: 0,
        bytes: 0,
    };
    let mut line = lines.next()?;
    loop {
        line = match line {
            Some(Line::Run { run_id, expires_ms, state_base64 }) => {
                let state = RunState::from_bytes(lines.base64(&state_base64)?.into());
                let state = state.map_err(|damage| lines.refuse(damage))?;
                imported.runs += 1;
                let (missing, next) =
                    import(&mut lines, &mut store, &state, expires_ms, &mut imported)
                        .map_err(|failure| name(failure, &run_id))?;
                imported.missing += missing;
                next
            }
            Some(Line::DamagedRun { run_no, problem }) => {
                context.note(&format!("! run #{run_no} is not in the export: {problem}"));
                lines.next()?
            }
            Some(Line::End { runs, frames })
                if (runs, frames) == (imported.runs, imported.frames) =>
            {
                break;
            }
            Some(Line::End { .. }) => {
                return Err(lines.refuse("counts other runs and frames: lines are missing"));
            }
            Some(_) => return Err(lines.refuse("is not where it belongs")),
            None => {
                return Err(lines.refuse("there is no `end`: the export was cut short"));
            }
        };
    }
    let built = store.finish()?;
    (imported.packs, imported.raw_bytes, imported.bytes) =
        (built.packs, built.raw_bytes, built.bytes);
    if context.json {
        context.out.json(&imported)?;
    } else {
        context.out.line(format!(
            "{}: {} runs, {} frames, {} in {} packs of {}",
            args.to.display(),
            imported.runs,
            imported.frames,
            size(imported.raw_bytes),
            imported.packs,
            size(imported.bytes),
        ))?;
        if imported.missing != 0 {
            context.note(&format!(
                "! frames are missing in {} places, as the export says; readers are told",
                imported.missing
            ));
        }
    }
    Ok(Exit::Ok)
}

fn name(failure: Failure, run_id: &str) -> Failure {
    Failure { message: format!("run {run_id:?}: {}", failure.message), ..failure }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits = (text.len() == 32 && text.is_ascii()).then_some(text)?;
    let mut uuid = [0; 16];
    for (n, byte) in uuid.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(uuid)
}

/// Takes in the frames of a run; gives back how often some were missing, and the line behind them.
fn import(
    lines: &mut Lines<impl BufRead>,
    store: &mut NewStore,
    state: &RunState,
    expires_ms: u64,
    imported: &mut Imported,
) -> Result<(u64, Option<Line>), Failure> {
    let mut run = store.run(&state.namespace, &state.run_id, state.run_no, state.run_uid)?;
    let mut missing = 0;
    // The state by the frames; none if some of them are missing or given up.
    let (mut folded, mut is_first) = (None, true);
    let next = loop {
        match lines.next()? {
            Some(Line::Frame { frame_base64 }) => {
                let bytes = lines.base64(&frame_base64)?.into();
                let frame = Frame::decode(&bytes).map_err(|damage| lines.refuse(damage))?;
                if frame.bytes().len() != bytes.len() {
                    return Err(lines.refuse("bytes follow the frame"));
                }
                imported.frames += 1;
                run.frame(&frame)?;
                if is_first && frame.header.flags & FLAG_FIRST != 0 && !frame.is_stub() {
                    let begun = RunState::begin(&frame).map_err(|damage| lines.refuse(damage))?;
                    folded = Some(begun.0);
                } else if frame.is_stub() {
                    folded = None;
                } else if let Some(state) = &mut folded {
                    state.replay(&frame).map_err(|damage| lines.refuse(damage))?;
                }
                is_first = false;
            }
            Some(Line::Missing {}) => {
                missing += 1;
                run.end_stretch(folded.as_ref())?;
                (folded, is_first) = (None, false);
            }
            other => break other,
        }
    };
    if folded.is_some_and(|folded| folded != *state) {
        return Err(lines.refuse("the frames before it do not make the state that is given"));
    }
    run.finish(state, expires_ms)?;
    Ok((missing, next))
}
