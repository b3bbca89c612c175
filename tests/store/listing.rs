//! A list has exactly the runs that pass its filters, newest first, whatever has become of the
//! index that it is made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use braidlog::{Close, Create, ListRuns, Outcome, RunKey, RunStatus, Store};
use tokio::task::JoinSet;

use super::place::{Place, append, batch, create, delete, key, list, until};

/// What the lists ought to be made of.
#[derive(Default)]
struct Model {
    runs: BTreeMap<String, ModelRun>,
}

struct ModelRun {
    create: Create,
    created_ms: u64,
    status: RunStatus,
}

/// The parameters of run number `n`.
fn labelled(n: usize) -> Create {
    let tags = [["red", "green", "blue"][n % 3], ["odd", "even"][(n + 1) % 2]];
    Create {
        namespace: if n % 8 == 7 { "other" } else { "default" }.into(),
        tags: tags.map(Into::into).to_vec(),
        batch: if n.is_multiple_of(5) { "night".into() } else { "".into() },
        task: ["build", "test"][(n / 3) % 2].into(),
        ..create(format!("{}-{n:03}", ["a", "b"][n % 2]))
    }
}

fn key_of(create: &Create) -> RunKey {
    RunKey { namespace: create.namespace.clone(), run_id: create.run_id.clone() }
}

impl Model {
    /// Creates runs, many at a time, so that several have the same creation time.
    async fn create(&mut self, store: &Store, numbers: std::ops::Range<usize>) {
        let mut creating = JoinSet::new();
        for n in numbers {
            let store = store.clone();
            creating.spawn(async move {
                let run = store.create_run(labelled(n)).await.expect("created").run;
                (labelled(n), run.created_ms)
            });
        }
        while let Some(created) = creating.join_next().await {
            let (create, created_ms) = created.expect("created");
            let status = match create.task.is_empty() {
                true => RunStatus::Executing,
                false => RunStatus::Queued,
            };
            let run = ModelRun { created_ms, status, create };
            self.runs.insert(run.create.run_id.to_string(), run);
        }
    }

    /// Closes every fourth of these runs and deletes every tenth; demands after some of them that
    /// the very next list knows.
    async fn change(&mut self, store: &Store, numbers: std::ops::Range<usize>) {
        for n in numbers {
            let run = key_of(&labelled(n));
            let name = &run.run_id.to_string();
            if n % 10 == 9 {
                delete(store, &run).await;
                self.runs.remove(name);
            } else if n % 4 == 1 {
                let (outcome, status) = match n % 8 {
                    1 => (Outcome::Failed, RunStatus::Failed),
                    _ => (Outcome::Completed, RunStatus::Completed),
                };
                let close = Close { outcome, ..Close::default() };
                store.close_run(&run, close).await.expect("closed");
                self.runs.get_mut(name).expect("a run").status = status;
            }
            if n % 20 < 2 {
                let wanted = ListRuns { prefix: name[..3].into(), ..ListRuns::default() };
                self.demand_one(store, wanted).await;
            }
        }
    }

    fn wanted(&self, filter: &ListRuns) -> BTreeSet<&str> {
        let is_wanted = |run: &&ModelRun| {
            let ModelRun { create, created_ms, status } = run;
            create.namespace == filter.namespace
                && create.run_id.starts_with(&filter.prefix)
                && filter.tags.iter().all(|tag| create.tags.contains(tag))
                && (filter.batch.is_empty() || filter.batch == create.batch)
                && (filter.task.is_empty() || filter.task == create.task)
                && (filter.statuses.is_empty() || filter.statuses.contains(status))
                && filter.created.contains(created_ms)
        };
        self.runs.values().filter(is_wanted).map(|run| &*run.create.run_id).collect()
    }

    /// Demands that a list is right, at whatever size of its pages; returns how many it has.
    async fn demand_one(&self, store: &Store, filter: ListRuns) -> usize {
        let mut rows = Vec::new();
        for page_size in [1_000, 7] {
            let found = list(store, ListRuns { page_size, ..filter.clone() }).await;
            let names: BTreeSet<_> = found.iter().map(|run| &*run.run_id).collect();
            assert_eq!(names.len(), found.len(), "none twice");
            assert_eq!(names, self.wanted(&filter), "{filter:?}");
            assert!(found.is_sorted_by_key(|run| std::cmp::Reverse(run.created_ms)));
            for run in &found {
                let known = &self.runs[&*run.run_id];
                assert_eq!((run.created_ms, run.status), (known.created_ms, known.status));
            }
            rows.push(found.into_iter().map(|run| run.run_id).collect::<Vec<_>>());
        }
        assert_eq!(rows[0], rows[1], "pages cut a list, and do not change it");
        rows[0].len()
    }

    /// Demands that lists of all kinds are right.
    async fn demand(&self, store: &Store) {
        let any = ListRuns::default;
        let mut times: Vec<_> = self.runs.values().map(|run| run.created_ms).collect();
        times.sort_unstable();
        let (from, to) = (times[times.len() / 3], times[times.len() / 2]);
        let tags = |tags: &[&str]| ListRuns {
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            ..any()
        };
        for (filter, some) in [
            (any(), true),
            (ListRuns { namespace: "other".into(), ..any() }, true),
            (ListRuns { namespace: "nobody".into(), ..any() }, false),
            (tags(&["red"]), true),
            (tags(&["red", "odd"]), true),
            (tags(&["red", "green"]), false),
            (ListRuns { batch: "night".into(), ..any() }, true),
            (ListRuns { task: "build".into(), ..tags(&["blue"]) }, true),
            (ListRuns { statuses: vec![RunStatus::Executing, RunStatus::Queued], ..any() }, true),
            (ListRuns { statuses: vec![RunStatus::Failed, RunStatus::Completed], ..any() }, true),
            (ListRuns { statuses: vec![RunStatus::Canceled], ..any() }, false),
            (ListRuns { prefix: "a-0".into(), ..any() }, true),
            (ListRuns { prefix: "b-".into(), statuses: vec![RunStatus::Failed], ..any() }, true),
            (ListRuns { created: from..to, ..any() }, false),
            (ListRuns { created: from..u64::MAX, task: "test".into(), ..any() }, true),
        ] {
            let found = self.demand_one(store, filter.clone()).await;
            assert!(!some || 0 < found, "the test has no such run: {filter:?}");
        }
        let runs = self.runs.len() as u64;
        until("the runs are counted", async || store.stats().runs == runs).await;
    }
}

/// A store with runs in memory, in packs, and in both.
async fn crowd() -> (Place, Model) {
    let (place, mut model) = (Place::new(), Model::default());
    model.create(place.store(), 0..100).await;
    model.change(place.store(), 0..80).await;
    model.demand(place.store()).await;
    place.flush().await;
    model.create(place.store(), 100..200).await;
    model.change(place.store(), 80..180).await;
    (place, model)
}

#[tokio::test]
async fn lists_are_right_over_runs_in_memory_and_in_packs_and_after_reopening() {
    let (mut place, mut model) = crowd().await;
    model.demand(place.store()).await;
    place.flush().await;
    model.demand(place.store()).await;
    for n in 200..203 {
        place.reopen().await;
        model.demand(place.store()).await;
        model.create(place.store(), n..n + 1).await;
        model.demand(place.store()).await;
    }
    assert!(place.store().stats().runs_resident < 150, "most runs are in packs only");
}

#[tokio::test]
async fn the_next_list_has_what_was_acknowledged_before_it() {
    let place = Place::new();
    let store = place.store();
    let listed = async || list(store, ListRuns::default()).await.len();
    for n in 0..60 {
        let run = key(format!("run {n}"));
        if n % 2 == 0 {
            store.create_run(create(&*run.run_id)).await.expect("created");
        } else {
            append(store, &run, batch("out", ["x"])).await;
        }
        assert_eq!(listed().await, 1);
        if n % 10 == 0 {
            place.flush().await;
        }
        delete(store, &run).await;
        assert_eq!(listed().await, 0);
    }
}

/// Files of the index.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut dirs, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        // It may be gone in this moment.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files
}

/// What may happen to the index of runs.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Delete,
    Truncate,
    Empty,
    Flip,
    Zero,
}

const HARMS: [Harm; 5] = [Harm::Delete, Harm::Truncate, Harm::Empty, Harm::Flip, Harm::Zero];

impl Harm {
    fn happen(self, dir: &Path) {
        assert!(!files(dir).is_empty(), "there is an index");
        if matches!(self, Self::Delete) {
            // What comes into being meanwhile may stay.
            let _ = fs::remove_dir_all(dir);
            return;
        }
        for path in files(dir) {
            let Ok(file) = fs::File::options().read(true).write(true).open(&path) else { continue };
            self.spoil(&path, &file);
        }
    }

    fn spoil(self, path: &Path, file: &fs::File) {
        use std::os::unix::fs::FileExt;
        let len = file.metadata().expect("length").len();
        let done = match self {
            Self::Delete => fs::remove_file(path),
            Self::Truncate => file.set_len(len / 2),
            Self::Empty => file.set_len(0),
            // Not every byte, so that much looks as it should.
            Self::Flip => (100..len).step_by(3_001).try_for_each(|at| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ 0x10], at)
            }),
            Self::Zero => {
                let (from, to) = (len / 4, len / 2);
                file.write_all_at(&vec![0; (to - from) as usize], from)
            }
        };
        done.expect("harm is done");
    }
}

#[tokio::test]
async fn lists_are_right_after_the_index_was_harmed_while_the_store_was_closed() {
    let (mut place, mut model) = crowd().await;
    let dir = place.data_dir().join("index");
    for (n, harm) in HARMS.into_iter().enumerate() {
        model.demand(place.store()).await;
        if n % 2 == 0 {
            place.flush().await;
        }
        place.close().await;
        harm.happen(&dir);
        place.open();
        // At once, while the index is built.
        let all = ListRuns { page_size: 1_000, ..ListRuns::default() };
        model.demand_one(place.store(), all).await;
        model.demand(place.store()).await;
        model.create(place.store(), 200 + n..201 + n).await;
    }
}

#[tokio::test]
async fn lists_are_right_while_the_index_is_harmed_under_a_store_that_runs() {
    // A cache that holds nothing of the index for long.
    let (mut place, mut model) = crowd().await;
    let dir = place.data_dir().join("index");
    for (n, harm) in HARMS.into_iter().enumerate() {
        harm.happen(&dir);
        model.demand(place.store()).await;
        model.create(place.store(), 200 + 10 * n..210 + 10 * n).await;
        model.demand(place.store()).await;
        place.reopen().await;
        model.demand(place.store()).await;
        place.flush().await;
    }
}
