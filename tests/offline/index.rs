//! The index against the log.

use std::sync::Arc;

use braidlog::{
    index::{Change, GuardedIndex, IndexOptions, Position, Row, SecondaryIndex},
    offline::{Directory, RunFilter},
};

use crate::sample::{demand_same, everything, lines, run, sample, still};

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_a_run_too_many_or_too_few_is_stale_and_one_that_fits_is_not() {
    let place = tempfile::tempdir().expect("folder");
    sample(place.path()).await;
    // The database writes for a little while after its store was closed: opened and closed again, the
    // copy is at rest.
    let seen = still(place.path());
    let survey = Directory::open(seen.path()).expect("there").survey().expect("read");
    let change = |change: Option<Change>| {
        let options = IndexOptions::new(survey.store_uuid);
        let opened = GuardedIndex::open(&seen.path().join("index"), &options).expect("opens");
        let mut index = opened.index;
        let end = survey.newest_block().expect("blocks").header.block_no + 1;
        index.apply(&Vec::from_iter(change), end).expect("applied");
        index.close().expect("closes");
    };
    let demand = |status: i32, missing: u64, surplus: u64| {
        let before = everything(seen.path());
        let (found, said) = run(seen.path(), &["--json", "index", "check"]);
        demand_same(&before, &everything(seen.path()));
        let rows = lines(&said);
        let last = rows.last().expect("an answer");
        assert_eq!((found, &last["type"]), (status, &"index_checked".into()), "{said}");
        assert_eq!(last["missing"], missing, "{said}");
        assert_eq!(last["surplus"], surplus, "{said}");
        assert_eq!(rows.len() as u64, 1 + missing + surplus, "{said}");
    };
    change(None);
    demand(0, 0, 0);

    let mut late = None;
    let found = survey.each_run(RunFilter::default(), |run| {
        let state = run.state.as_ref().expect("sound");
        if &*state.run_id == "late" {
            late = Some(Position { created_ms: state.created_ms, run_no: run.run_no });
        }
        Ok(())
    });
    found.expect("read");
    let (position, namespace) = (late.expect("the run"), Arc::from("default"));
    change(Some(Change::Remove { namespace, position }));
    demand(12, 1, 0);

    change(Some(Change::Put(Row {
        namespace: "default".into(),
        run_id: "never".into(),
        run_no: braidlog::record::RunNo(position.run_no.0 + (1 << 40)),
        created_ms: position.created_ms,
        status: 1,
        task: "".into(),
        tags: Vec::new(),
        batch: "".into(),
    })));
    demand(12, 1, 1);
}
