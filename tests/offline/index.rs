//! The index against the log.

use std::{collections::BTreeMap, fs, sync::Arc};

use braidlog::{
    index::{Change, GuardedIndex, IndexOptions, Row, STATUS_COMPLETED, SecondaryIndex},
    offline::{Directory, RunFilter},
    record::RunNo,
};

use crate::sample::{demand_same, everything, lines, run, sample, still};

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_a_run_too_many_too_few_or_in_the_wrong_list_is_stale_and_one_that_fits_is_not()
 {
    let place = tempfile::tempdir().expect("folder");
    sample(place.path()).await;
    // The database writes for a little while after its store was closed, so that a copy of it may be
    // torn: the copy has an index of its own, made from the log.
    let seen = still(place.path());
    fs::remove_dir_all(seen.path().join("index")).expect("removed");
    let survey = Directory::open(seen.path()).expect("there").survey().expect("read");
    let change = |changes: Vec<Change>| {
        let options = IndexOptions::new(survey.store_uuid);
        let opened = GuardedIndex::open(&seen.path().join("index"), &options).expect("opens");
        let mut index = opened.index;
        let end = survey.newest_block().expect("blocks").header.block_no + 1;
        index.apply(&changes, end).expect("applied");
        index.close().expect("closes");
    };
    let demand = |status: i32, missing: u64, surplus: u64, differing: u64| {
        let before = everything(seen.path());
        let (found, said) = run(seen.path(), &["--json", "index", "check"]);
        demand_same(&before, &everything(seen.path()));
        let rows = lines(&said);
        let last = rows.last().expect("an answer");
        assert_eq!((found, &last["type"]), (status, &"index_checked".into()), "{said}");
        for (what, count) in [("missing", missing), ("surplus", surplus), ("differs", differing)] {
            let field = if what == "differs" { "differing" } else { what };
            assert_eq!(last[field], count, "{said}");
            assert_eq!(
                rows.iter().filter(|row| row["what"] == what).count() as u64,
                count,
                "{said}"
            );
        }
    };
    let mut rows = BTreeMap::new();
    let found = survey.each_run(RunFilter::default(), |run| {
        let row = Row::of(run.state.as_ref().expect("sound"));
        rows.insert(row.run_id.to_string(), row);
        Ok(())
    });
    found.expect("read");
    change(rows.values().cloned().map(Change::Put).collect());
    demand(0, 0, 0, 0);

    let (late, tagged) = (rows["late"].clone(), rows["tagged"].clone());
    assert_ne!(late.status, STATUS_COMPLETED);
    assert_eq!(tagged.tags, ["blue".into()]);
    for wrong in [
        // In no list of its status, or in another one.
        Row { status: STATUS_COMPLETED, ..late.clone() },
        Row { status: late.status + 1, ..late.clone() },
        // In a list where it does not belong.
        Row { tags: vec!["blue".into()], ..late.clone() },
        // Missing in a list.
        Row { tags: Vec::new(), ..tagged.clone() },
        // Under another name.
        Row { run_id: "early".into(), ..late.clone() },
    ] {
        let right =
            rows[if wrong.position() == late.position() { "late" } else { "tagged" }].clone();
        change(vec![Change::Put(wrong)]);
        demand(12, 0, 0, 1);
        change(vec![Change::Put(right)]);
        demand(0, 0, 0, 0);
    }

    let (position, namespace) = (late.position(), Arc::from("default"));
    change(vec![Change::Remove { namespace, position }]);
    demand(12, 1, 0, 0);

    change(vec![Change::Put(Row {
        namespace: "default".into(),
        run_id: "never".into(),
        run_no: RunNo(position.run_no.0 + (1 << 40)),
        created_ms: position.created_ms,
        status: 1,
        task: "".into(),
        tags: Vec::new(),
        batch: "".into(),
    })]);
    demand(12, 1, 1, 0);
}
