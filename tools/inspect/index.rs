//! `index check`: whether the secondary index has the runs that the log has, in the lists where they
//! belong.
//!
//! The database of the index writes when it is opened, so a copy of its newest generation is opened, in
//! a folder for temporary files that is removed at the end. Every list is compared: by status, tag,
//! task and batch. While runs are behind, as they are beside a running server, a list is not looked
//! through for runs that do not belong there; nor is a list of a tag, task or batch that no run has.
//!
//! JSON, one object a line: `index_entry` with `what` (`missing`: the log has it and the index not;
//! `surplus`: the other way round; `differs`: it is in other lists than it should be), `namespace`,
//! `run_id`, `run_no`, for the first twenty; then `index_checked` with `generation`, `entries`, `runs`,
//! `missing`, `surplus`, `differing`, `behind` (runs that differ, and that the log changed behind what
//! the index has applied: caught up at the next start), `problem` (why the index cannot be used, if so)
//! and `exit`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    env, io,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use braidlog::{
    format::file_name,
    index::{
        By, GuardedIndex, Hit, IndexError, IndexOptions, Position, Row, STATUS_COMPLETED, Scan,
        SecondaryIndex,
    },
    offline::{Directory, Holder, RunFilter, RunName, Survey},
    platform::{Open, RelPath, Vfs, os, os::OsVfs},
    proto::RunStatus,
    record::RunNo,
};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
    files::walk,
};

/// Entries that are named, at most.
const NAMED_MAX: usize = 20;
/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;
/// How often the index of a running store is copied before what is found is believed.
const COPIES_MAX: u32 = 5;
/// What the names of runs begin with that hold a key: they are in no list.
const KEY_PREFIX: &str = "$key:";

/// The secondary index of runs
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Whether the index has the runs that the log has; a copy of it is opened
    Check,
}

#[derive(Serialize)]
struct EntryRow<'a> {
    r#type: &'static str,
    what: &'static str,
    namespace: &'a str,
    run_id: &'a str,
    run_no: u64,
}

#[derive(Default, Serialize)]
struct Checked {
    r#type: &'static str,
    generation: Option<String>,
    entries: u64,
    runs: u64,
    missing: u64,
    surplus: u64,
    differing: u64,
    behind: u64,
    problem: Option<String>,
    exit: u8,
}

/// What differs.
struct Differing {
    what: &'static str,
    name: RunName,
    run_no: RunNo,
}

/// A folder that is gone when this is.
struct TempFolder(PathBuf);

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What stays in the folder for temporary files does no harm.
        drop(os::remove_tree(&self.0));
    }
}

pub(crate) fn run(context: &mut Context, args: &IndexArgs) -> Result<Exit, Failure> {
    let IndexCommand::Check = args.command;
    if !cfg!(feature = "sled") {
        return Err(Failure::usage(
            "this build has no database for the index: build with the feature `sled`",
        ));
    }
    let directory = context.directory()?;
    let (mut checked, mut named) = (Checked::default(), Vec::new());
    // The index is copied before the log is read, so that it is never ahead of a running store's.
    let opened = open_copy(&directory);
    let survey = directory.survey()?;
    let (folder, copied) = opened?;
    match copied {
        Some((generation, index)) => {
            checked.generation = Some(generation);
            match index.and_then(|index| {
                let compared = compare(&survey, &index, &mut checked, &mut named);
                let closed = index.close();
                let compared = compared?;
                closed.map(|()| compared)
            }) {
                Ok(compared) => compared?,
                Err(error) => checked.problem = Some(error.to_string()),
            }
        }
        None => {
            survey.each_run(RunFilter::default(), |_| {
                checked.runs += 1;
                Ok(())
            })?;
            if checked.runs != 0 {
                checked.problem = Some("there is none".into());
            }
        }
    }
    drop(folder);
    checked.r#type = "index_checked";
    let is_stale =
        checked.problem.is_some() || checked.missing + checked.surplus + checked.differing != 0;
    let exit = match context.ended(&survey) {
        Exit::Ok if is_stale => Exit::Stale,
        exit => exit,
    };
    checked.exit = exit as u8;
    print(context, &checked, &named)?;
    Ok(exit)
}

fn print(context: &mut Context, checked: &Checked, named: &[Differing]) -> Result<(), Failure> {
    let out = &mut context.out;
    for Differing { what, name, run_no } in named {
        let RunName { namespace, run_id } = name;
        let (r#type, run_no) = ("index_entry", run_no.0);
        match context.json {
            true => out.json(EntryRow { r#type, what, namespace, run_id, run_no })?,
            false => out.line(format!("{what:9} {name}   number {run_no}"))?,
        }
    }
    if context.json {
        return out.json(checked);
    }
    let Checked { entries, runs, missing, surplus, differing, behind, .. } = checked;
    let generation = checked.generation.as_deref().unwrap_or("none");
    out.line(format!("index     {generation}   {entries} entries for {runs} runs"))?;
    if let Some(problem) = &checked.problem {
        return out.line(format!(
            "STALE     it cannot be used: {problem}   made again from the log at the next start"
        ));
    }
    if *behind != 0 {
        out.line(format!("behind    {behind} runs: normal, caught up at the next start"))?;
    }
    match missing + surplus + differing {
        0 => out.line("fits      the index has the runs that the log has, in the lists where they belong"),
        _ => out.line(format!(
            "STALE     {missing} missing, {surplus} surplus, {differing} in other lists   stop the server \
             and remove the folder `index`: it is made again from the log at the next start"
        )),
    }
}

type Copied = Option<(String, Result<GuardedIndex, IndexError>)>;

/// Copies the newest generation and opens the copy; none if there is none.
fn open_copy(directory: &Directory) -> Result<(TempFolder, Copied), Failure> {
    let failed = |error| Failure::io("a copy of the index", &error);
    let mut copies = 1;
    loop {
        let id = u128::from_be_bytes(directory.platform().random_id());
        let name = format!("braidlog-index-{}-{id:032x}", process::id());
        let folder = TempFolder(env::temp_dir().join(name));
        let Some(generation) = newest(&*directory.platform().vfs).map_err(failed)? else {
            return Ok((folder, None));
        };
        copy(directory, &generation, &folder.0).map_err(failed)?;
        let index = open(directory, &folder.0)?;
        if index.is_ok() || directory.holder() == Holder::Nobody || COPIES_MAX <= copies {
            return Ok((folder, Some((generation, index))));
        }
        copies += 1;
    }
}

fn open(directory: &Directory, folder: &Path) -> Result<Result<GuardedIndex, IndexError>, Failure> {
    let store = directory.survey()?.store_uuid;
    Ok(GuardedIndex::open(folder, &IndexOptions::new(store)).and_then(|opened| {
        match opened.discarded {
            Some(error) => Err(error),
            None => Ok(opened.index),
        }
    }))
}

/// The name of the newest generation.
fn newest(vfs: &dyn Vfs) -> io::Result<Option<String>> {
    let names = match vfs.list(&file_name::index()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        names => names?,
    };
    let number = |name: &String| {
        let number = name.strip_prefix("gen-")?;
        number.strip_suffix(".bad").unwrap_or(number).parse::<u64>().ok()
    };
    let numbered = names.into_iter().filter_map(|name| Some((number(&name)?, name)));
    Ok(numbered.max().map(|(_, name)| name))
}

fn copy(directory: &Directory, generation: &str, to: &Path) -> io::Result<()> {
    OsVfs::create_root(to)?;
    let target = OsVfs::new(to);
    let from = RelPath::new(format!("{}/{generation}", file_name::index()));
    let above = file_name::index().as_str().len() + 1;
    walk(&*directory.platform().vfs, &from, &mut |path, file| {
        let path = RelPath::new(&path.as_str()[above..]);
        let Some(file) = file else { return target.create_dir(&path) };
        let (bytes, copied) = (file.len()?, target.open(&path, Open::CreateNew)?);
        let mut position = 0;
        while position < bytes {
            let len = (bytes - position).min(COPY_BYTES as u64);
            let mut part = vec![0; len as usize];
            file.read_exact_at(&mut part, position)?;
            copied.write_all_at(&part, position)?;
            position += len;
        }
        Ok(())
    })
}

/// The last block of the journal that has, or had, a frame of each run.
fn last_blocks(survey: &Survey) -> HashMap<RunNo, u64> {
    let mut blocks: HashMap<RunNo, u64> = HashMap::new();
    let mut note = |run_no, block_no: u64| {
        let known = blocks.entry(run_no).or_default();
        *known = block_no.max(*known);
    };
    for pack in survey.packs.iter().filter_map(|seen| survey.pack(seen)) {
        // What is damaged is among the problems.
        for entry in pack.entries().into_iter().flatten().flatten() {
            note(entry.head.run_no, entry.head.flushed.block_no);
        }
    }
    for (run_no, frames) in survey.runs_in_journal() {
        frames.iter().for_each(|frame| note(run_no, frame.end.block_no));
    }
    blocks
}

/// Compares the index with the log; what the inner result refuses is the log's.
fn compare(
    survey: &Survey,
    index: &GuardedIndex,
    checked: &mut Checked,
    named: &mut Vec<Differing>,
) -> Result<Result<(), Failure>, IndexError> {
    checked.entries = index.len()?;
    let applied = index.applied_block()?;
    let next = survey.newest_block().map_or(0, |block| block.header.block_no + 1);
    if next.max(survey.durable_block_no).max(1) < applied {
        checked.problem = Some(format!("it has block {applied}, and the log ends before"));
    }
    let last_blocks = last_blocks(survey);
    let (lists, differing) = Default::default();
    let mut comparison =
        Comparison { index, applied, last_blocks, lists, differing, checked, named };
    let (mut known, mut namespaces): (HashSet<RunNo>, BTreeSet<Arc<str>>) = Default::default();
    namespaces.insert("default".into());
    let mut failed = None;
    let visited = survey.each_run(RunFilter { deleted: true }, |run| {
        let Ok(state) = &run.state else {
            // Whether it is right that the index has it nobody knows.
            known.insert(run.run_no);
            return Ok(());
        };
        namespaces.insert(state.namespace.clone());
        if failed.is_none() && !run.is_deleted && !state.run_id.starts_with(KEY_PREFIX) {
            known.insert(run.run_no);
            failed = comparison.compare_run(&Row::of(state)).err();
        }
        Ok(())
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if let Err(error) = visited {
        return Ok(Err(error.into()));
    }
    comparison.find_surplus(&known, namespaces)?;
    if comparison.checked.behind != 0 {
        return Ok(Ok(()));
    }
    let mixed = comparison.mixed_lists()?;
    if mixed.is_empty() {
        return Ok(Ok(()));
    }
    let mut members: HashMap<List, HashSet<RunNo>> =
        mixed.into_iter().map(|list| (list, HashSet::new())).collect();
    let visited = survey.each_run(RunFilter::default(), |run| {
        let Ok(state) = &run.state else { return Ok(()) };
        let row = Row::of(state);
        for by in row.lists() {
            let list = (row.namespace.clone(), by);
            members.get_mut(&list).map(|members| members.insert(run.run_no));
        }
        Ok(())
    });
    if let Err(error) = visited {
        return Ok(Err(error.into()));
    }
    comparison.find_misplaced(&members, &known)?;
    Ok(Ok(()))
}

/// A list of a namespace.
type List = (Arc<str>, By);

/// The index beside the log, as far as both were looked at.
struct Comparison<'a> {
    index: &'a GuardedIndex,
    applied: u64,
    last_blocks: HashMap<RunNo, u64>,
    /// How many runs each list should have.
    lists: HashMap<List, u64>,
    /// Runs that are in other lists than they should be.
    differing: HashSet<RunNo>,
    checked: &'a mut Checked,
    named: &'a mut Vec<Differing>,
}

impl Comparison<'_> {
    fn is_behind(&self, run_no: RunNo) -> bool {
        self.last_blocks.get(&run_no).is_some_and(|block_no| self.applied <= *block_no)
    }

    fn name(&mut self, what: &'static str, namespace: &Arc<str>, run_id: &Arc<str>, run_no: RunNo) {
        if self.named.len() < NAMED_MAX {
            let name = RunName { namespace: namespace.clone(), run_id: run_id.clone() };
            self.named.push(Differing { what, name, run_no });
        }
    }

    /// Looks for a run of the log in every list that should have it.
    fn compare_run(&mut self, row: &Row) -> Result<(), IndexError> {
        self.checked.runs += 1;
        let mut what = None;
        for by in row.lists() {
            let list = (row.namespace.clone(), by);
            let found = hit(self.index, &list, row.position())?;
            let wrong = match found {
                None if list.1 == By::All => Some("missing"),
                Some(hit) if hit.status == row.status && hit.run_id == row.run_id => None,
                _ => Some("differs"),
            };
            what = what.or(wrong);
            *self.lists.entry(list).or_default() += 1;
        }
        let Some(what) = what else { return Ok(()) };
        if self.is_behind(row.run_no) {
            self.checked.behind += 1;
            return Ok(());
        }
        match what {
            "missing" => self.checked.missing += 1,
            _ => {
                self.checked.differing += 1;
                self.differing.insert(row.run_no);
            }
        }
        self.name(what, &row.namespace, &row.run_id, row.run_no);
        Ok(())
    }

    /// Looks through all that the index has, for runs that the log has not.
    fn find_surplus(
        &mut self,
        known: &HashSet<RunNo>,
        namespaces: BTreeSet<Arc<str>>,
    ) -> Result<(), IndexError> {
        let (index, mut met) = (self.index, 0);
        for namespace in namespaces {
            for status in (0..=u8::MAX).filter(|&status| is_status(status)) {
                self.lists.entry((namespace.clone(), By::Status(status))).or_default();
            }
            let list = (namespace, By::All);
            each_hit(index, &list, |hit| {
                met += 1;
                let run_no = hit.position.run_no;
                if known.contains(&run_no) {
                    return;
                }
                if self.is_behind(run_no) {
                    self.checked.behind += 1;
                    return;
                }
                self.checked.surplus += 1;
                self.name("surplus", &list.0, &hit.run_id, run_no);
            })?;
        }
        // Those of namespaces that no run of the log is in.
        self.checked.surplus += self.checked.entries.saturating_sub(met);
        Ok(())
    }

    /// The lists that have more runs than they should.
    fn mixed_lists(&self) -> Result<Vec<List>, IndexError> {
        let mut mixed = Vec::new();
        for (list, wanted) in &self.lists {
            let mut met = 0;
            each_hit(self.index, list, |_| met += 1)?;
            // Which are too many of all is told by `find_surplus`; the completed have no list.
            if *wanted < met && !matches!(list.1, By::All | By::Status(STATUS_COMPLETED)) {
                mixed.push(list.clone());
            }
        }
        Ok(mixed)
    }

    /// Finds the runs of the log in lists that have others as members only.
    fn find_misplaced(
        &mut self,
        members: &HashMap<List, HashSet<RunNo>>,
        known: &HashSet<RunNo>,
    ) -> Result<(), IndexError> {
        for (list, members) in members {
            each_hit(self.index, list, |hit| {
                let run_no = hit.position.run_no;
                let is_told = members.contains(&run_no) || !known.contains(&run_no);
                if !is_told && self.differing.insert(run_no) {
                    self.checked.differing += 1;
                    self.name("differs", &list.0, &hit.run_id, run_no);
                }
            })?;
        }
        Ok(())
    }
}

fn is_status(number: u8) -> bool {
    RunStatus::try_from(i32::from(number)).is_ok()
}

/// A run where it stands in a list, if it does.
fn hit(index: &GuardedIndex, list: &List, at: Position) -> Result<Option<Hit>, IndexError> {
    let scan = Scan {
        namespace: list.0.clone(),
        by: list.1.clone(),
        created_ms: at.created_ms..at.created_ms.saturating_add(1),
        after: Some(Position { run_no: RunNo(at.run_no.0.saturating_add(1)), ..at }),
        limit: 1,
    };
    Ok(index.scan(&scan)?.hits.into_iter().next().filter(|hit| hit.position == at))
}

/// Gives every run of a list to `visit`.
fn each_hit(
    index: &GuardedIndex,
    list: &List,
    mut visit: impl FnMut(Hit),
) -> Result<(), IndexError> {
    let (namespace, by) = list.clone();
    let mut scan = Scan { namespace, by, created_ms: 0..u64::MAX, after: None, limit: 1_000 };
    loop {
        let found = index.scan(&scan)?;
        found.hits.into_iter().for_each(&mut visit);
        match found.next {
            Some(next) => scan.after = Some(next),
            None => return Ok(()),
        }
    }
}
