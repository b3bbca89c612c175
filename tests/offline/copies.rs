//! Exports, imports, and comparisons of directories.

use std::fs;

use braidlog::{Query, RunKey, Start, Store};

use crate::sample::{
    RUNS, append, contents, copy, demand_same, everything, lines, options, run, run_with, sample,
    still,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_export_is_the_same_store_and_goes_on_the_same() {
    let place = tempfile::tempdir().expect("folder");
    let (old, new) = (place.path().join("old"), place.path().join("new"));
    sample(&old).await;
    let seen = still(&old);
    let before = everything(seen.path());
    let (status, exported) = run(seen.path(), &["export"]);
    assert_eq!(status, 0, "{exported}");
    demand_same(&before, &everything(seen.path()));
    let (status, said) =
        run_with(&old, &["import", "--to", new.to_str().expect("text")], &exported);
    assert_eq!(status, 0, "{said}");
    assert_eq!(fs::read_dir(place.path()).expect("names").count(), 2, "something is left over");
    let (status, said) =
        run(&old, &["diff", old.to_str().expect("text"), new.to_str().expect("text")]);
    assert_eq!(status, 0, "{said}");
    // The deleted run is not in the export.
    assert!(said.contains("deleted") && said.contains("is an earlier moment of"), "{said}");

    let before_open = everything(&new);
    for args in [&["info"][..], &["runs"], &["segments"], &["journal"], &["simulate-open"]] {
        let (status, said) = run(&new, args);
        assert_eq!(status, 0, "{args:?}: {said}");
    }
    demand_same(&before_open, &everything(&new));

    let (a, b) = (Store::open(options(&old)), Store::open(options(&new)));
    let (a, b) = (a.expect("opens"), b.expect("opens"));
    for name in RUNS {
        let (expected, found) = (contents(&a, name).await, contents(&b, name).await);
        assert!(!expected.0.is_empty() && expected == found, "{name}: {expected:?} {found:?}");
        // A cursor of the old store is good in the new one.
        let key = RunKey::new(name);
        let query = Query { start: Start::Cursor(expected.2), ..Query::run(key) };
        b.tail(query).await.expect("the cursor fits");
    }
    // Both go on alike: numbers of producers are known, and a new run has a number of its own.
    for store in [&a, &b] {
        append(store, "both", "out", 4, 2).await;
        append(store, "packed", "out", 3, 1).await;
        append(store, "new", "out", 0, 1).await;
    }
    for name in ["both", "packed"] {
        let (expected, found) = (contents(&a, name).await.0, contents(&b, name).await.0);
        assert_eq!(expected.len(), found.len(), "{name}");
    }
    b.flush().await.expect("flushed");
    b.close().await.expect("closes");
    // Its flusher may be at work until then.
    drop(b);
    let b = Store::open(options(&new)).expect("opens again");
    assert_eq!(contents(&b, "new").await.0.len(), 3, "created, and two records");
    b.close().await.expect("closes");
    a.close().await.expect("closes");
    let (status, said) = run(&new, &["export"]);
    assert_eq!(status, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_refuses_what_was_changed_or_cut_short_and_leaves_nothing() {
    let place = tempfile::tempdir().expect("folder");
    let (old, new) = (place.path().join("old"), place.path().join("new"));
    sample(&old).await;
    let to = new.to_str().expect("text");
    let (_, exported) = run(&old, &["export"]);
    let all: Vec<&str> = exported.lines().collect();
    let frame = all.iter().position(|line| line.contains("\"type\":\"frame\"")).expect("a frame");
    let cut = all[..all.len() - 1].join("\n");
    let without_a_frame = [&all[..frame + 1], &all[frame + 2..]].concat().join("\n");
    let first_twice = [&all[..frame + 1], &all[frame..]].concat().join("\n");
    for (what, text) in [
        ("cut", cut),
        ("a frame is missing", without_a_frame),
        ("a frame stands twice", first_twice),
        ("no JSON", "?\n".into()),
        ("nothing", String::new()),
    ] {
        let (status, said) = run_with(&old, &["import", "--to", to], &text);
        assert_eq!(status, 2, "{what}: {said}");
        assert_eq!(fs::read_dir(place.path()).expect("names").count(), 1, "{what}");
    }
    // Whatever is in the way stays.
    fs::create_dir(&new).expect("folder");
    fs::write(new.join("precious"), "x").expect("file");
    let (status, said) = run_with(&old, &["import", "--to", to], &exported);
    assert_eq!(status, 2, "{said}");
    assert!(new.join("precious").exists() && said.contains("not empty"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_can_be_of_one_run_or_of_those_with_a_tag() {
    let place = tempfile::tempdir().expect("folder");
    sample(place.path()).await;
    let runs = |args: &[&str]| -> Vec<String> {
        let (status, text) = run(place.path(), args);
        assert_eq!(status, 0, "{text}");
        let runs = lines(&text).into_iter().filter(|line| line["type"] == "run");
        runs.map(|line| line["run_id"].as_str().expect("name").to_owned()).collect()
    };
    assert_eq!(runs(&["export", "--run", "late", "--run", "both"]), ["late", "both"]);
    assert_eq!(runs(&["export", "--tag", "blue"]), ["tagged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_tells_an_earlier_moment_from_another_history() {
    let place = tempfile::tempdir().expect("folder");
    let path = |name: &str| place.path().join(name);
    let diff = |a: &str, b: &str| {
        let (a, b) = (path(a), path(b));
        run(&a, &["--json", "diff", a.to_str().expect("text"), b.to_str().expect("text")])
    };
    sample(&path("a")).await;
    copy(&path("a"), &path("b"));
    copy(&path("a"), &path("still"));
    let before = everything(&path("still"));
    let (status, said) = diff("a", "b");
    assert_eq!((status, &lines(&said)[0]["verdict"]), (0, &"same".into()), "{said}");

    let store = Store::open(options(&path("b"))).expect("opens");
    append(&store, "both", "out", 5, 1).await;
    store.close().await.expect("closes");
    let (status, said) = diff("a", "b");
    let rows = lines(&said);
    assert_eq!((status, rows.len()), (0, 2), "{said}");
    assert_eq!(rows[0]["run_id"], "both");
    assert_eq!((&rows[0]["verdict"], &rows[0]["records"]), (&"second_ahead".into(), &2.into()));
    assert_eq!(rows[1]["verdict"], "second_ahead");
    let (status, said) = diff("b", "still");
    assert_eq!((status, &lines(&said)[1]["verdict"]), (0, &"first_ahead".into()), "{said}");
    demand_same(&before, &everything(&path("still")));

    // Another history from the same moment on.
    let store = Store::open(options(&path("a"))).expect("opens");
    let tail = contents(&store, "both").await.0.len();
    append(&store, "both", "log", 2, 1).await;
    store.close().await.expect("closes");
    let (status, said) = diff("a", "b");
    let rows = lines(&said);
    assert_eq!((status, &rows[0]["verdict"]), (4, &"diverges".into()), "{said}");
    assert_eq!(rows[0]["seq"], tail);
}
