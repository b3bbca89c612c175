//! `diff`: whether two directories hold the same acknowledged log, or one of them an earlier moment of the other.
//!
//! Runs are compared by namespace, name and identity, and their logs by chains, which stand for every byte of every
//! frame. How they are laid out in files does not matter.
//!
//! JSON, one object a run that is not the same in both, or is damaged: `run` with `namespace`, `run_id`, `run_uid`, and `verdict`:
//! `first_ahead` or `second_ahead` (with `records` and `frames` that it has more), `diverges` (with `seq`, from which
//! on they differ), `unknown` (with `seq`, from which on records are trimmed, so that it cannot be told), `only_first`, `only_second`, `damaged` (with `problem`). Last, `diff` with `verdict` (`same`,
//! `first_ahead`, `second_ahead`, `differs`) and the counts of runs.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use braidlog::{
    RunUid,
    format::frame::Chain,
    offline::{Directory, Item, RunFilter, RunLog, RunName, Survey},
    present::table::Table,
    record::{RunNo, Seq, name_hash},
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// Whether two directories hold the same log, or one an earlier moment of the other
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The one directory
    first: PathBuf,
    /// The other
    second: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: RunName,
    run_uid: RunUid,
}

/// Where a run's log ends.
#[derive(Clone, Copy, PartialEq, Eq)]
struct End {
    run_no: RunNo,
    tail: Seq,
    frames: u64,
    chain: Chain,
}

struct Side {
    survey: Survey,
    runs: BTreeMap<Key, End>,
    damaged: Vec<(RunNo, String)>,
}

#[derive(Serialize, PartialEq, Eq, Clone)]
#[serde(tag = "verdict", rename_all = "snake_case")]
enum Verdict {
    Same,
    FirstAhead { records: u64, frames: u64 },
    SecondAhead { records: u64, frames: u64 },
    Diverges { seq: u64 },
    Unknown { seq: u64 },
    OnlyFirst,
    OnlySecond,
    Damaged { problem: String },
}

#[derive(Serialize)]
struct Row<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_no: Option<u64>,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Serialize, Default)]
struct Summary {
    r#type: &'static str,
    verdict: &'static str,
    same: u64,
    first_ahead: u64,
    second_ahead: u64,
    diverges: u64,
    unknown: u64,
    only_first: u64,
    only_second: u64,
    damaged: u64,
}

impl Summary {
    fn count(&mut self, verdict: &Verdict) {
        *match verdict {
            Verdict::Same => &mut self.same,
            Verdict::FirstAhead { .. } => &mut self.first_ahead,
            Verdict::SecondAhead { .. } => &mut self.second_ahead,
            Verdict::Diverges { .. } => &mut self.diverges,
            Verdict::Unknown { .. } => &mut self.unknown,
            Verdict::OnlyFirst => &mut self.only_first,
            Verdict::OnlySecond => &mut self.only_second,
            Verdict::Damaged { .. } => &mut self.damaged,
        } += 1;
    }

    /// A run that only one has is one more way to be ahead.
    fn verdict(&self) -> &'static str {
        let (first, second) =
            (self.first_ahead + self.only_first, self.second_ahead + self.only_second);
        match (self.diverges + self.unknown, first, second) {
            (0, 0, 0) => "same",
            (0, _, 0) => "first_ahead",
            (0, 0, _) => "second_ahead",
            _ => "differs",
        }
    }
}

pub(crate) fn run(context: &mut Context, args: &DiffArgs) -> Result<Exit, Failure> {
    let (first, second) = (Side::read(&args.first)?, Side::read(&args.second)?);
    let mut summary = Summary { r#type: "diff", ..Summary::default() };
    let mut table = Table::new(["RUN", "VERDICT"]);
    let mut show = |context: &mut Context, row: Row<'_>, label: String| {
        summary.count(&row.verdict);
        match (&row.verdict, context.json) {
            (Verdict::Same, _) => Ok(()),
            (_, true) => context.out.json(&row),
            (verdict, false) => {
                table.row([label, text(verdict)]);
                Ok(())
            }
        }
    };
    let mut keys: Vec<&Key> = first.runs.keys().chain(second.runs.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let verdict = match (first.runs.get(key), second.runs.get(key)) {
            (Some(a), Some(b)) => compare(key, (&first, a), (&second, b))?,
            (Some(_), None) => Verdict::OnlyFirst,
            (None, _) => Verdict::OnlySecond,
        };
        let row = Row {
            r#type: "run",
            namespace: Some(&key.name.namespace),
            run_id: Some(&key.name.run_id),
            run_uid: Some(key.run_uid.to_string()),
            run_no: None,
            verdict,
        };
        show(context, row, key.name.to_string())?;
    }
    for (run_no, problem) in first.damaged.iter().chain(&second.damaged) {
        let verdict = Verdict::Damaged { problem: problem.clone() };
        let run_no_text = format!("#{}", run_no.0);
        let run_no = Some(run_no.0);
        let row =
            Row { r#type: "run", namespace: None, run_id: None, run_uid: None, run_no, verdict };
        show(context, row, run_no_text)?;
    }
    summary.verdict = summary.verdict();
    if context.json {
        context.out.json(&summary)?;
    } else {
        if summary.verdict != "same" || summary.damaged != 0 {
            context.out.bytes(table.take().as_bytes())?;
        }
        let (a, b) = (args.first.display(), args.second.display());
        context.out.line(match summary.verdict {
            "same" => format!("same: {} runs with the same logs", summary.same),
            "first_ahead" => format!("{b} is an earlier moment of {a}"),
            "second_ahead" => format!("{a} is an earlier moment of {b}"),
            _ => format!("{a} and {b} differ: neither is an earlier moment of the other"),
        })?;
    }
    context.out.flush()?;
    let ended = [context.ended(&first.survey), context.ended(&second.survey)];
    Ok(match summary.verdict {
        _ if ended.contains(&Exit::Corrupt) || summary.damaged != 0 => Exit::Corrupt,
        "differs" => Exit::Differs,
        _ => Exit::Ok,
    })
}

fn text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Same => "same".into(),
        Verdict::FirstAhead { records, frames } => {
            format!("the first is {records} records ahead ({frames} frames)")
        }
        Verdict::SecondAhead { records, frames } => {
            format!("the second is {records} records ahead ({frames} frames)")
        }
        Verdict::Diverges { seq } => format!("✗ they differ from seq {seq} on"),
        Verdict::Unknown { seq } => {
            format!("records from seq {seq} on are trimmed: whether they differ cannot be told")
        }
        Verdict::OnlyFirst => "only in the first".into(),
        Verdict::OnlySecond => "only in the second".into(),
        Verdict::Damaged { problem } => format!("✗ {problem}"),
    }
}

impl Side {
    fn read(path: &PathBuf) -> Result<Self, Failure> {
        let survey = Directory::open(path)?.survey()?;
        let (mut runs, mut damaged) = (BTreeMap::new(), Vec::new());
        survey.each_run(RunFilter { deleted: true }, |found| {
            match found.state {
                Ok(state) => {
                    let key = Key { name: RunName::of(&state), run_uid: state.run_uid };
                    let (run_no, chain) = (found.run_no, state.chain);
                    let end = End { run_no, tail: state.tail, frames: state.frames, chain };
                    runs.insert(key, end);
                }
                Err(error) => damaged.push((found.run_no, error.to_string())),
            }
            Ok(())
        })?;
        Ok(Self { survey, runs, damaged })
    }

    fn log(&self, key: &Key, end: &End) -> Result<RunLog<'_>, Failure> {
        let hash = name_hash(&key.name.namespace, &key.name.run_id);
        Ok(RunLog::open(&self.survey, Some(hash), end.run_no)?)
    }
}

fn compare(
    key: &Key,
    (first, a): (&Side, &End),
    (second, b): (&Side, &End),
) -> Result<Verdict, Failure> {
    if (a.tail, a.frames, a.chain) == (b.tail, b.frames, b.chain) {
        return Ok(Verdict::Same);
    }
    // What both have in common ends at the last place at which both have the same chain. Frames that
    // were made one stub have none between them, so places are compared and not frames.
    let mut log = first.log(key, a)?;
    let mut places = HashSet::from([(Seq::ZERO, Chain::start(key.run_uid))]);
    let (mut problem, mut stubs) = (None, Vec::new());
    while let Some(item) = log.next_item()? {
        match item {
            Item::Frame(frame, _) => {
                places.insert((frame.next_seq(), frame.header.chain));
                stubs.extend(frame.is_stub().then(|| frame.header.first_seq..frame.next_seq()));
            }
            Item::Missing { cause, .. } => problem = Some(cause),
        }
    }
    let mut log = second.log(key, b)?;
    let mut common = (Seq::ZERO, Chain::start(key.run_uid));
    while let Some(item) = log.next_item()? {
        match item {
            Item::Frame(frame, _) => {
                let place = (frame.next_seq(), frame.header.chain);
                if places.contains(&place) {
                    common = place;
                }
                stubs.extend(frame.is_stub().then(|| frame.header.first_seq..frame.next_seq()));
            }
            Item::Missing { cause, .. } => problem = Some(cause),
        }
    }
    Ok(if common == (a.tail, a.chain) {
        Verdict::SecondAhead { records: b.tail.0 - a.tail.0, frames: b.frames - a.frames }
    } else if common == (b.tail, b.chain) {
        Verdict::FirstAhead { records: a.tail.0 - b.tail.0, frames: a.frames - b.frames }
    } else if let Some(problem) = problem {
        Verdict::Damaged { problem: problem.to_string() }
    } else if stubs.iter().any(|stub| stub.contains(&common.0)) {
        Verdict::Unknown { seq: common.0.0 }
    } else {
        Verdict::Diverges { seq: common.0.0 }
    })
}
