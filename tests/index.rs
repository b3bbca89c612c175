//! The secondary index: one suite for every implementation, and damage to the one that is stored.

#![allow(clippy::disallowed_methods, reason = "a test damages files, and takes the time")]
#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::{ops::Range, path::Path, sync::Arc};

use braidlog::{
    index::{
        APPLY_CHANGES_MAX, By, Change, Found, GuardedIndex, Hit, IndexError, IndexOptions,
        MemoryIndex, Position, Row, SCAN_ROWS_MAX, STATUS_COMPLETED, Scan, SecondaryIndex, State,
    },
    record::RunNo,
};
use proptest::prelude::*;

const STORE: [u8; 16] = *b"a store's number";
const NONE: [u64; 0] = [];

fn options() -> IndexOptions {
    IndexOptions { cache_bytes: 4 << 20, ..IndexOptions::new(STORE) }
}

fn open(dir: &Path) -> (GuardedIndex, State) {
    let opened = GuardedIndex::open(dir, &options()).expect("opens");
    (opened.index, opened.state)
}

/// Every implementation, empty.
fn with_each(test: impl Fn(&mut dyn SecondaryIndex)) {
    test(&mut MemoryIndex::new());
    let dir = tempfile::tempdir().unwrap();
    let (mut index, state) = open(dir.path());
    assert_eq!(state, State::Empty);
    test(&mut index);
    index.close().unwrap();
}

/// A completed run without task, tags or batch.
fn row(no: u64) -> Row {
    Row {
        namespace: "default".into(),
        run_id: format!("run_{no}").into(),
        run_no: RunNo(no),
        created_ms: 1_000 + no,
        status: STATUS_COMPLETED,
        task: "".into(),
        tags: Vec::new(),
        batch: "".into(),
    }
}

fn position(created_ms: u64, no: u64) -> Position {
    Position { created_ms, run_no: RunNo(no) }
}

fn scan(by: By) -> Scan {
    let namespace = "default".into();
    Scan { namespace, by, created_ms: 0..u64::MAX, after: None, limit: 1_000 }
}

fn put(index: &mut dyn SecondaryIndex, rows: impl IntoIterator<Item = Row>) {
    let changes: Vec<_> = rows.into_iter().map(Change::Put).collect();
    for changes in changes.chunks(APPLY_CHANGES_MAX) {
        index.apply(changes, 1).unwrap();
    }
}

/// The numbers of the runs on one page.
fn page(index: &dyn SecondaryIndex, scan: &Scan) -> Vec<u64> {
    index.scan(scan).unwrap().hits.iter().map(|hit| hit.position.run_no.0).collect()
}

/// Every hit, page by page.
fn pages(index: &dyn SecondaryIndex, mut scan: Scan) -> Result<Vec<Hit>, IndexError> {
    let mut hits = Vec::new();
    loop {
        let Found { hits: more, next } = index.scan(&scan)?;
        assert!(more.len() <= scan.limit.max(1));
        hits.extend(more);
        let Some(next) = next else { return Ok(hits) };
        assert!(scan.after.is_none_or(|after| next < after), "a scan goes on");
        scan.after = Some(next);
    }
}

#[test]
fn an_index_is_shared_by_threads() {
    fn demand<T: SecondaryIndex + Clone + Send + Sync + 'static>() {}
    demand::<GuardedIndex>();
}

#[test]
fn runs_come_newest_first_and_of_one_age_the_higher_number_first() {
    with_each(|index| {
        let same_age = |no| Row { created_ms: 5, ..row(no) };
        put(index, [same_age(2), row(9), same_age(3), same_age(1), row(8)]);
        assert_eq!(page(index, &scan(By::All)), [9, 8, 3, 2, 1]);
        assert_eq!(index.len().unwrap(), 5);
    });
}

#[test]
fn a_hit_says_where_the_run_is_and_what_it_is_called() {
    with_each(|index| {
        put(index, [Row { status: 5, tags: vec!["a".into()], ..row(1) }]);
        let hit = Hit { position: position(1_001, 1), run_id: "run_1".into(), status: 5 };
        for by in [By::All, By::Tag("a".into()), By::Status(5)] {
            let found = Found { hits: vec![hit.clone()], next: None };
            assert_eq!(index.scan(&scan(by)).unwrap(), found);
        }
    });
}

#[test]
fn a_run_is_in_the_lists_of_what_it_has_and_in_no_other() {
    with_each(|index| {
        let tags = |tags: &[&str]| tags.iter().map(|tag| Arc::from(*tag)).collect();
        put(
            index,
            [
                Row { tags: tags(&["x", "y", "x"]), ..row(1) },
                Row { task: "x".into(), ..row(2) },
                Row { batch: "x".into(), status: 8, ..row(3) },
                Row { namespace: "other".into(), tags: tags(&["x"]), ..row(4) },
            ],
        );
        let x: Arc<str> = "x".into();
        assert_eq!(page(index, &scan(By::Tag(x.clone()))), [1]);
        assert_eq!(page(index, &scan(By::Tag("y".into()))), [1]);
        assert_eq!(page(index, &scan(By::Task(x.clone()))), [2]);
        assert_eq!(page(index, &scan(By::Batch(x.clone()))), [3]);
        assert_eq!(page(index, &scan(By::Status(8))), [3]);
        assert_eq!(page(index, &scan(By::Status(STATUS_COMPLETED))), [2, 1]);
        assert_eq!(page(index, &scan(By::Status(0))), NONE);
        assert_eq!(page(index, &scan(By::Task("".into()))), NONE);
        let other = Scan { namespace: "other".into(), ..scan(By::Tag(x)) };
        assert_eq!(page(index, &other), [4]);
    });
}

#[test]
fn a_row_put_again_replaces_what_was_known_and_repeating_it_changes_nothing() {
    with_each(|index| {
        let tagged = |tag: &str, status| Row { tags: vec![tag.into()], status, ..row(1) };
        for _ in 0..2 {
            put(index, [tagged("old", 3), tagged("new", 5)]);
            put(index, [tagged("new", 5)]);
            assert_eq!(page(index, &scan(By::Tag("old".into()))), NONE);
            assert_eq!(page(index, &scan(By::Tag("new".into()))), [1]);
            assert_eq!(page(index, &scan(By::Status(3))), NONE);
            assert_eq!(page(index, &scan(By::Status(5))), [1]);
            assert_eq!(index.len().unwrap(), 1);
        }
    });
}

#[test]
fn a_removed_run_is_in_no_list_and_removing_it_again_is_nothing() {
    with_each(|index| {
        let tagged = Row { tags: vec!["t".into()], status: 9, ..row(1) };
        put(index, [tagged.clone(), row(2)]);
        let remove = Change::Remove { namespace: "default".into(), position: tagged.position() };
        index.apply(&[remove.clone(), remove.clone()], 2).unwrap();
        index.apply(&[remove], 3).unwrap();
        assert_eq!(page(index, &scan(By::All)), [2]);
        assert_eq!(page(index, &scan(By::Tag("t".into()))), NONE);
        assert_eq!(page(index, &scan(By::Status(9))), NONE);
        assert_eq!((index.len().unwrap(), index.applied_block().unwrap()), (1, 3));
    });
}

#[test]
fn the_range_of_creation_has_its_start_and_not_its_end() {
    with_each(|index| {
        put(index, (1..=5).map(|no| Row { tags: vec!["t".into()], ..row(no) }));
        let cases: [(Range<u64>, &[u64]); 6] = [
            (1_002..1_004, &[3, 2]),
            (1_002..1_002, &[]),
            (0..1_001, &[]),
            (0..0, &[]),
            (1_005..u64::MAX, &[5]),
            (Range { start: 1_004, end: 1_002 }, &[]),
        ];
        for (created_ms, expected) in cases {
            for by in [By::All, By::Tag("t".into())] {
                let scan = Scan { created_ms: created_ms.clone(), ..scan(by) };
                assert_eq!(page(index, &scan), expected, "{scan:?}");
            }
        }
    });
}

#[test]
fn pages_follow_each_other_without_gap_or_repetition() {
    with_each(|index| {
        put(
            index,
            (1..=500).map(|no| Row { tags: vec!["t".into()], created_ms: no / 7, ..row(no) }),
        );
        for by in [By::All, By::Tag("t".into()), By::Status(STATUS_COMPLETED)] {
            for limit in [0, 1, 7, 499, 500, 501] {
                let hits = pages(index, Scan { limit, ..scan(by.clone()) }).unwrap();
                let found: Vec<_> = hits.iter().map(|hit| hit.position.run_no.0).collect();
                assert_eq!(found, (1..=500).rev().collect::<Vec<_>>(), "{by:?}, {limit} a page");
            }
        }
    });
}

#[test]
fn a_scan_does_a_limited_amount_of_work_and_says_where_to_go_on() {
    with_each(|index| {
        let failed = (2..=SCAN_ROWS_MAX as u64 + 2).map(|no| Row { status: 8, ..row(no) });
        put(index, failed.chain([row(1)]));
        let scan = scan(By::Status(STATUS_COMPLETED));
        let first = index.scan(&scan).unwrap();
        assert_eq!(first, Found { hits: Vec::new(), next: Some(position(1_003, 3)) });
        let second = index.scan(&Scan { after: first.next, ..scan }).unwrap();
        assert_eq!(second.hits.len(), 1);
        assert_eq!(second.next, None);
    });
}

#[test]
fn an_apply_of_too_much_is_refused_and_the_index_goes_on() {
    with_each(|index| {
        let changes: Vec<_> = (0..=APPLY_CHANGES_MAX as u64).map(row).map(Change::Put).collect();
        let refused = index.apply(&changes, 1);
        assert!(matches!(refused, Err(IndexError::TooManyChanges { .. })));
        assert_eq!((index.len().unwrap(), index.applied_block().unwrap()), (0, 0));
        index.apply(&changes[1..], 1).unwrap();
    });
}

#[test]
fn extreme_numbers_and_names_are_kept() {
    with_each(|index| {
        let extreme = |no, created_ms| Row {
            created_ms,
            run_id: "r".repeat(512).into(),
            task: "t".repeat(512).into(),
            tags: (0..10).map(|tag| format!("{tag:0128}").into()).collect(),
            status: u8::MAX,
            run_no: RunNo(no),
            ..row(0)
        };
        put(index, [extreme(u64::MAX, u64::MAX - 1), extreme(0, 0), extreme(u64::MAX, 0)]);
        let expected = [position(u64::MAX - 1, u64::MAX), position(0, u64::MAX), position(0, 0)];
        for by in [By::All, By::Task("t".repeat(512).into()), By::Status(u8::MAX)] {
            let hits = index.scan(&scan(by)).unwrap().hits;
            assert_eq!(hits.iter().map(|hit| hit.position).collect::<Vec<_>>(), expected);
            assert!(hits.iter().all(|hit| hit.run_id.len() == 512));
        }
    });
}

/// What an index should be: rows in a heap, looked through one by one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model(Vec<Row>);

impl Model {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let (namespace, position) = match change {
                Change::Put(row) => (&row.namespace, row.position()),
                Change::Remove { namespace, position } => (namespace, *position),
            };
            self.0.retain(|row| (&row.namespace, row.position()) != (namespace, position));
            if let Change::Put(row) = change {
                self.0.push(row.clone());
            }
        }
    }

    fn scan(&self, scan: &Scan) -> Vec<Hit> {
        let has = |row: &&Row| match &scan.by {
            By::All => true,
            By::Tag(tag) => row.tags.contains(tag),
            By::Batch(batch) => row.batch == *batch,
            By::Task(task) => row.task == *task,
            By::Status(status) => row.status == *status,
        };
        let in_namespace = self.0.iter().filter(|row| row.namespace == scan.namespace);
        let in_time = in_namespace.filter(|row| scan.created_ms.contains(&row.created_ms));
        let behind = |row: &&Row| scan.after.is_none_or(|after| row.position() < after);
        let mut hits: Vec<_> = in_time.filter(behind).filter(has).map(hit_of).collect();
        hits.sort_by_key(|hit| std::cmp::Reverse(hit.position));
        hits
    }
}

fn hit_of(row: &Row) -> Hit {
    Hit { position: row.position(), run_id: row.run_id.clone(), status: row.status }
}

fn some_name() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(Arc::from)
}

fn some_row() -> impl Strategy<Value = Row> {
    let names = (some_name(), prop::option::of(some_name()), prop::option::of(some_name()));
    let tags = prop::collection::vec(some_name(), 0..3);
    // Few numbers, so that runs are changed; long names, so that leaves are divided.
    (names, tags, 0..200_u64, 6..9_u8, 0..60_usize).prop_map(|(names, tags, no, status, len)| Row {
        namespace: names.0,
        run_id: format!("{no}{}", "x".repeat(len)).into(),
        run_no: RunNo(no),
        created_ms: no * 7_919 % 50,
        status,
        task: names.1.unwrap_or_else(|| "".into()),
        tags,
        batch: names.2.unwrap_or_else(|| "".into()),
    })
}

fn some_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => some_row().prop_map(Change::Put),
        1 => some_row().prop_map(|row| {
            Change::Remove { namespace: row.namespace.clone(), position: row.position() }
        }),
    ]
}

fn some_scan() -> impl Strategy<Value = Scan> {
    let by = prop_oneof![
        Just(By::All),
        some_name().prop_map(By::Tag),
        some_name().prop_map(By::Batch),
        some_name().prop_map(By::Task),
        (6..9_u8).prop_map(By::Status),
    ];
    let created = prop_oneof![Just(0..u64::MAX), (0..60_u64, 0..60_u64).prop_map(|(a, b)| a..b)];
    let after = prop::option::of((0..60_u64, 0..200_u64).prop_map(|(at, no)| position(at, no)));
    (some_name(), by, created, after, 0..50_usize).prop_map(
        |(namespace, by, created_ms, after, limit)| Scan {
            namespace,
            by,
            created_ms,
            after,
            limit,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_implementation_is_like_the_model_after_any_changes(
        applies in prop::collection::vec(prop::collection::vec(some_change(), 0..200), 1..6),
        scans in prop::collection::vec(some_scan(), 20),
        reopen in 0..6_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut model, mut memory) = (Model::default(), MemoryIndex::new());
        let (mut stored, _) = open(dir.path());
        for (block, changes) in applies.iter().enumerate() {
            let applied_block = block as u64 + 1;
            model.apply(changes);
            memory.apply(changes, applied_block).unwrap();
            stored.apply(changes, applied_block).unwrap();
            if block == reopen && cfg!(feature = "sled") {
                stored.close().unwrap();
                let (again, state) = open(dir.path());
                prop_assert_eq!(state, State::Usable { applied_block });
                stored = again;
            }
            for index in [&memory as &dyn SecondaryIndex, &stored] {
                prop_assert_eq!(index.len().unwrap(), model.0.len() as u64);
                for scan in &scans {
                    let hits = pages(index, scan.clone()).unwrap();
                    prop_assert_eq!(hits, model.scan(scan), "{:?}", scan);
                }
            }
        }
        stored.close().unwrap();
    }
}

/// What only an index with files can go through.
#[cfg(feature = "sled")]
mod stored {
    use std::{
        cell::Cell,
        fs,
        path::PathBuf,
        thread,
        time::{Duration, Instant},
    };

    use braidlog::index::Unsound;

    use super::*;

    const BLOCKS: u64 = 6;

    /// Files of an index at some moment, and what it had been at every block until then.
    struct Image {
        files: Vec<(PathBuf, Vec<u8>)>,
        /// By applied block; none at 0.
        history: Vec<Model>,
    }

    /// Every list there is.
    fn scans() -> Vec<Scan> {
        let tags = (0..12).map(|tag| By::Tag(format!("tag {tag}").into()));
        let others = [By::All, By::Task("task".into()), By::Status(5), By::Status(7)];
        others.into_iter().chain(tags).map(scan).collect()
    }

    fn rows_of(block: u64) -> impl Iterator<Item = Row> {
        // Some of the block before change, too. Long names make many leaves of few rows.
        ((block * 900).saturating_sub(100)..block * 900 + 900).map(move |no| Row {
            status: if no % 3 == block % 3 { 5 } else { STATUS_COMPLETED },
            task: if no % 2 == 0 { "task".into() } else { "".into() },
            tags: vec![format!("tag {}", no % 12).into()],
            run_id: format!("{no}{}", "x".repeat(400)).into(),
            ..row(no)
        })
    }

    fn files_below(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
        entries.flat_map(below).collect()
    }

    impl Image {
        /// Of an index that was closed.
        fn closed() -> Self {
            Self::taken(|index, dir| {
                index.close().unwrap();
                Self::files(dir)
            })
        }

        /// Of an index in use: what a crash leaves of it.
        fn crashed() -> Self {
            Self::taken(|_index, dir| {
                thread::sleep(Duration::from_millis(1_500));
                Self::files(dir)
            })
        }

        fn taken(take: impl FnOnce(GuardedIndex, &Path) -> Vec<(PathBuf, Vec<u8>)>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (mut index, _) = open(dir.path());
            let mut history = vec![Model::default()];
            for block in 0..BLOCKS {
                if block == BLOCKS / 2 {
                    // From here on there is a snapshot, and what is older is not read when the
                    // database is opened.
                    index.close().unwrap();
                    index = open(dir.path()).0;
                }
                let changes: Vec<_> = rows_of(block).map(Change::Put).collect();
                index.apply(&changes, block + 1).unwrap();
                let mut model = history.last().unwrap().clone();
                model.apply(&changes);
                history.push(model);
            }
            Self { files: take(index, dir.path()), history }
        }

        fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
            let relative = |path: &Path| path.strip_prefix(dir).unwrap().to_owned();
            let read = |path: PathBuf| (relative(&path), fs::read(&path).unwrap());
            files_below(dir).into_iter().map(read).collect()
        }

        fn restore(&self, dir: &Path) {
            for (path, bytes) in &self.files {
                let path = dir.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }

        /// Whether the index answers exactly as it did at this block.
        fn demand_all(
            &self,
            index: &dyn SecondaryIndex,
            applied_block: u64,
        ) -> Result<(), IndexError> {
            let model = &self.history[applied_block as usize];
            assert_eq!(index.len()?, model.0.len() as u64);
            for scan in scans() {
                assert_eq!(pages(index, scan.clone())?, model.scan(&scan), "{scan:?}");
            }
            Ok(())
        }
    }

    /// A small generator of numbers, the same in every run.
    struct Numbers(Cell<u64>);

    impl Numbers {
        fn below(&self, end: usize) -> usize {
            self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let mut mixed = self.0.get();
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % end as u64) as usize
        }
    }

    fn truncate(bytes: &mut Vec<u8>, numbers: &Numbers) {
        bytes.truncate(numbers.below(bytes.len()));
    }

    #[allow(clippy::ptr_arg, reason = "one kind of damage among others")]
    fn zero_a_page(bytes: &mut Vec<u8>, numbers: &Numbers) {
        let start = numbers.below(bytes.len().div_ceil(4_096)) * 4_096;
        let end = bytes.len().min(start + 4_096);
        bytes[start..end].fill(0);
    }

    #[allow(clippy::ptr_arg, reason = "one kind of damage among others")]
    fn flip_a_bit(bytes: &mut Vec<u8>, numbers: &Numbers) {
        let at = numbers.below(bytes.len());
        bytes[at] ^= 1 << numbers.below(8);
    }

    type Damage = fn(&mut Vec<u8>, &Numbers);
    const DAMAGES: [Damage; 3] = [truncate, zero_a_page, flip_a_bit];

    fn impatient() -> IndexOptions {
        let timeout = Duration::from_secs(5);
        IndexOptions { open_timeout: timeout, call_timeout: timeout, ..options() }
    }

    /// Damages each file of an image in every way, and demands that the index is as it was at some
    /// block, or empty.
    fn demand_all_or_nothing(image: &Image, rounds: usize) {
        let (mut used, mut discarded) = (0, 0);
        for (file, (path, bytes)) in image.files.iter().enumerate() {
            for (kind, damage) in DAMAGES.iter().enumerate() {
                let numbers = Numbers(Cell::new((file * DAMAGES.len() + kind) as u64));
                // The settings are few bytes, with little to find.
                for _ in 0..if bytes.len() < 4_096 { rounds / 4 } else { rounds } {
                    let dir = tempfile::tempdir().unwrap();
                    image.restore(dir.path());
                    let mut damaged = bytes.clone();
                    damage(&mut damaged, &numbers);
                    fs::write(dir.path().join(path), damaged).unwrap();
                    let opened = GuardedIndex::open(dir.path(), &impatient()).unwrap();
                    match opened.state {
                        State::Usable { applied_block } => {
                            used += 1;
                            image.demand_all(&opened.index, applied_block).unwrap();
                        }
                        State::Empty => {
                            discarded += 1;
                            assert!(opened.discarded.is_some());
                            assert_eq!(opened.index.len().unwrap(), 0);
                        }
                    }
                    drop(opened.index.close());
                }
            }
        }
        println!("of {} damaged indexes, {used} were used and {discarded} not", used + discarded);
        assert!(0 < used && 0 < discarded);
    }

    #[test]
    fn a_closed_index_comes_back_whole() {
        let image = Image::closed();
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            image.restore(dir.path());
            let (index, state) = open(dir.path());
            assert_eq!(state, State::Usable { applied_block: BLOCKS });
            image.demand_all(&index, BLOCKS).unwrap();
            index.close().unwrap();
        }
    }

    #[test]
    fn a_damaged_index_that_was_closed_is_whole_or_discarded() {
        demand_all_or_nothing(&Image::closed(), 50);
    }

    #[test]
    fn a_damaged_index_that_was_in_use_is_whole_or_discarded() {
        demand_all_or_nothing(&Image::crashed(), 50);
    }

    #[test]
    fn every_file_missing_is_noticed() {
        let image = Image::closed();
        for (path, _) in &image.files {
            let dir = tempfile::tempdir().unwrap();
            image.restore(dir.path());
            fs::remove_file(dir.path().join(path)).unwrap();
            let (index, state) = open(dir.path());
            if let State::Usable { applied_block } = state {
                image.demand_all(&index, applied_block).unwrap();
            }
        }
    }

    #[test]
    fn damage_while_the_index_is_open_is_an_error_or_changes_nothing() {
        let image = Image::closed();
        let numbers = Numbers(Cell::new(0));
        for damage in [DAMAGES[0], DAMAGES[1], DAMAGES[2]].repeat(5) {
            let dir = tempfile::tempdir().unwrap();
            image.restore(dir.path());
            let options = IndexOptions { cache_bytes: 1_024, ..impatient() };
            let mut index = GuardedIndex::open(dir.path(), &options).unwrap().index;
            for path in files_below(dir.path()) {
                let mut bytes = fs::read(&path).unwrap();
                if !bytes.is_empty() {
                    damage(&mut bytes, &numbers);
                    fs::write(&path, bytes).unwrap();
                }
            }
            let mut model = image.history[BLOCKS as usize].clone();
            for block in BLOCKS..BLOCKS + 3 {
                let changes: Vec<_> = rows_of(block).map(Change::Put).collect();
                let applied = index.apply(&changes, block + 1);
                model.apply(&changes);
                let here = Image { files: Vec::new(), history: vec![model.clone()] };
                if applied.and_then(|()| here.demand_all(&index, 0)).is_err() {
                    assert!(index.failure().is_some() && index.len().is_err());
                    break;
                }
            }
            drop(index.close());
            let again = GuardedIndex::open(dir.path(), &impatient()).unwrap();
            match again.state {
                State::Usable { applied_block } if applied_block == BLOCKS + 3 => {
                    let here = Image { files: Vec::new(), history: vec![model] };
                    here.demand_all(&again.index, 0).unwrap();
                }
                State::Usable { applied_block } if applied_block <= BLOCKS => {
                    image.demand_all(&again.index, applied_block).unwrap();
                }
                State::Usable { .. } => {}
                State::Empty => assert!(again.discarded.is_some()),
            }
        }
    }

    #[test]
    fn an_index_whose_directory_is_deleted_fails_in_time_or_goes_on_and_the_next_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("index");
        let mut index = GuardedIndex::open(&home, &impatient()).unwrap().index;
        put(&mut index, (0..1_000).map(row));
        fs::remove_dir_all(&home).unwrap();
        let started = Instant::now();
        for block in 0..20 {
            let changes: Vec<_> = rows_of(block).map(Change::Put).collect();
            if index.apply(&changes, block + 2).is_err() {
                break;
            }
        }
        drop(index.close());
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(open(&home).1, State::Empty);
    }

    #[test]
    fn an_index_that_failed_is_set_aside_and_the_next_generation_is_another_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (mut index, _) = open(dir.path());
        put(&mut index, [row(1)]);
        let file = dir.path().join("gen-000001/db");
        // A second process would be refused by its lock; the same one is, too.
        let opened = GuardedIndex::open(dir.path(), &options()).unwrap();
        assert!(matches!(opened.discarded, Some(IndexError::Io { .. })), "{:?}", opened.discarded);
        assert_eq!(opened.state, State::Empty);
        assert!(!file.exists());
        let names: Vec<_> = files_below(dir.path())
            .iter()
            .map(|path| path.strip_prefix(dir.path()).unwrap().iter().next().unwrap().to_owned())
            .collect();
        assert!(names.iter().all(|name| name == "gen-000002"), "{names:?}");
    }

    #[test]
    fn an_index_that_was_not_built_to_the_end_or_is_of_another_store_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let (mut index, _) = open(dir.path());
        index.apply(&[Change::Put(row(1))], 0).unwrap();
        index.close().unwrap();
        let mut opened = GuardedIndex::open(dir.path(), &options()).unwrap();
        let why = |opened: &braidlog::index::Opened| match opened.discarded {
            Some(IndexError::Unsound(unsound)) => Some(unsound),
            _ => None,
        };
        assert_eq!((opened.state, why(&opened)), (State::Empty, Some(Unsound::Unfinished)));
        opened.index.apply(&[Change::Put(row(1))], 1).unwrap();
        opened.index.close().unwrap();
        let other = IndexOptions { store: [7; 16], ..options() };
        let opened = GuardedIndex::open(dir.path(), &other).unwrap();
        assert_eq!((opened.state, why(&opened)), (State::Empty, Some(Unsound::OtherStore)));
    }

    #[test]
    fn a_place_where_no_index_can_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("index");
        fs::write(&file, b"").unwrap();
        assert!(matches!(GuardedIndex::open(&file, &options()), Err(IndexError::Io { .. })));
        assert!(matches!(
            GuardedIndex::open(&file.join("x"), &options()),
            Err(IndexError::Io { .. })
        ));
    }

    #[test]
    fn a_file_in_the_place_of_a_generation_is_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gen-000007"), b"not a directory").unwrap();
        let (mut index, state) = open(dir.path());
        assert_eq!(state, State::Empty);
        put(&mut index, [row(1)]);
        assert!(dir.path().join("gen-000008").is_dir());
    }

    /// Kilobytes of this process in memory.
    fn resident_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    fn plain_row(no: u64) -> Row {
        Row {
            run_id: format!("run_{:016x}", no.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into(),
            run_no: RunNo::new(no / 1_024, no * 7_919 % 1_024),
            created_ms: 1_800_000_000_000 + no * 3,
            ..row(no)
        }
    }

    fn load(index: &mut GuardedIndex, rows: impl Iterator<Item = Row>) {
        let rows: Vec<_> = rows.collect();
        for changes in rows.chunks(APPLY_CHANGES_MAX) {
            let changes: Vec<_> = changes.iter().cloned().map(Change::Put).collect();
            index.apply(&changes, 1).unwrap();
        }
    }

    #[test]
    fn a_run_without_tags_takes_few_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut index, _) = open(dir.path());
        load(&mut index, (0..100_000).map(plain_row));
        let bytes = index.bytes_on_disk().unwrap();
        assert!(bytes < 100_000 * 100, "{} bytes for each run", bytes / 100_000);
    }

    /// `cargo test --release --test index -- --ignored figures --nocapture`
    #[test]
    #[ignore = "prints figures: a minute, alone, in a release build"]
    fn figures_of_a_million_runs() {
        type Kind = (&'static str, fn(u64) -> Row);
        let kinds: [Kind; 2] = [
            ("without tags", plain_row),
            ("one of 1,000 tags, one of 20 tasks", |no| Row {
                tags: vec![format!("customer:{}", no * 31 % 1_000).into()],
                task: format!("task-{}", no % 20).into(),
                ..plain_row(no)
            }),
        ];
        for (kind, row) in kinds {
            let dir = tempfile::tempdir().unwrap();
            let options = IndexOptions::new(STORE);
            let before = resident_kib();
            let mut index = GuardedIndex::open(dir.path(), &options).unwrap().index;
            let started = Instant::now();
            for part in 0..1_000 {
                load(&mut index, (part * 1_000..part * 1_000 + 1_000).map(row));
            }
            println!("{kind}: loaded in {:.1?}", started.elapsed());
            println!("  resident {} KiB more", resident_kib() - before);
            println!("  on disk {} bytes", index.bytes_on_disk().unwrap());
            let started = Instant::now();
            index.close().unwrap();
            println!("  closed in {:.1?}", started.elapsed());
            let (before, started) = (resident_kib(), Instant::now());
            let mut index = GuardedIndex::open(dir.path(), &options).unwrap().index;
            println!("  opened and verified in {:.1?}", started.elapsed());
            println!("  resident {} KiB more", resident_kib().saturating_sub(before));
            println!("  on disk {} bytes", index.bytes_on_disk().unwrap());
            for by in [By::All, By::Tag("customer:7".into()), By::Task("task-7".into())] {
                let started = Instant::now();
                let hits = page(&index, &scan(by.clone())).len();
                println!("  {hits} hits of {by:?} in {:.1?}", started.elapsed());
            }
            let started = Instant::now();
            let numbers = Numbers(Cell::new(1));
            for _ in 0..100 {
                let changes = (0..100).map(|_| {
                    Change::Put(Row { status: 8, ..row(numbers.below(1_000_000) as u64) })
                });
                index.apply(&changes.collect::<Vec<_>>(), 2).unwrap();
            }
            println!("  10,000 changes of any runs in {:.1?}", started.elapsed());
            println!("  on disk {} bytes", index.bytes_on_disk().unwrap());
            println!("  resident {} KiB", resident_kib());
            index.close().unwrap();
        }
    }
}
