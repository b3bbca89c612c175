//! What a run was, and what it waits for.

use braidlog::{At, Index, InputConsumer, RunKey, Seq, Store};

use crate::sample::{append, demand_same, everything, lines, options, run, sample, still};

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_at_every_seq_what_the_store_tells() {
    let place = tempfile::tempdir().expect("folder");
    sample(place.path()).await;
    let seen = still(place.path());
    let told =
        |seq: u64| run(seen.path(), &["--json", "history", "both", "--at", &seq.to_string()]);
    let before = everything(seen.path());
    let by_tool: Vec<_> =
        (0..40).map(told).take_while(|(_, text)| !text.contains("BEYOND")).collect();
    demand_same(&before, &everything(seen.path()));
    let store = Store::open(options(place.path())).expect("opens");
    assert!(20 < by_tool.len(), "{by_tool:?}");
    for (seq, (status, text)) in by_tool.iter().enumerate() {
        match store.get_run_at(&RunKey::new("both"), At::Seq(Seq(seq as u64))).await {
            Ok(info) => {
                assert_eq!(*status, 0, "{text}");
                let state = &lines(text)[0]["state"];
                assert_eq!(state["tail"], info.tail.0, "at seq {seq}");
                assert_eq!(state["run"]["updated_at_ms"], info.updated_ms, "at seq {seq}");
            }
            Err(_) => assert_eq!(*status, 3, "at seq {seq}: {text}"),
        }
    }
    store.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_has_what_changed_and_nothing_else() {
    let place = tempfile::tempdir().expect("folder");
    sample(place.path()).await;
    let (status, text) =
        run(place.path(), &["--json", "history", "late", "--at", "3", "--diff", "5"]);
    assert_eq!(status, 0, "{text}");
    let line = &lines(&text)[0];
    assert_eq!((&line["from_seq"], &line["to_seq"]), (&3.into(), &5.into()));
    let changes = line["changes"].as_array().expect("changes");
    let change = |path: &str| changes.iter().find(|change| change["path"] == path);
    let producer = change("producers.out.next_seq").expect("it appended");
    assert_eq!((&producer["before"], &producer["after"]), (&1.into(), &2.into()));
    assert!(change("run.run_id").is_none() && change("run.created_at_ms").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_names_exactly_what_is_not_acked_and_what_that_holds() {
    let place = tempfile::tempdir().expect("folder");
    sample(place.path()).await;
    let store = Store::open(options(place.path())).expect("opens");
    let consumer = InputConsumer::new(RunKey::new("both"), "in");
    let acked = vec![(Index(0), Index(1)), (Index(2), Index(4))];
    store.ack(&consumer, acked).await.expect("acked");
    append(&store, "both", "out", 5, 1).await;
    store.close().await.expect("closes");
    let seen = still(place.path());
    let before = everything(seen.path());
    let (status, text) = run(seen.path(), &["--json", "inbox", "both"]);
    assert_eq!(status, 0, "{text}");
    let all = lines(&text);
    let of = |kind: &str| all.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let consumers = of("consumer");
    assert_eq!(consumers.len(), 1);
    assert_eq!((&consumers[0]["floor"], &consumers[0]["owed"]), (&1.into(), &2.into()));
    let unacked: Vec<_> = of("unacked").iter().map(|line| line["index"].as_u64()).collect();
    assert_eq!(unacked, [Some(1), Some(4)]);
    let why = of("why");
    let reason = |what: &str| {
        let found = why.iter().find(|line| line["what"] == what).expect("a reason");
        found["reason"].as_str().expect("text").to_owned()
    };
    assert!(reason("trim").contains("index 1: the consumer default has not acked it"));
    assert!(reason("expiry").contains("an open run never expires"));
    assert!(reason("space").contains("in the journal only"));
    let (status, text) = run(seen.path(), &["inbox", "both", "--why"]);
    assert!(status == 0 && !text.contains("un-acked"), "{text}");
    demand_same(&before, &everything(seen.path()));
}

#[test]
fn completions_and_a_manual_page_are_for_every_command() {
    let place = tempfile::tempdir().expect("folder");
    for (args, word) in [(&["completions", "bash"][..], "history"), (&["man"], "simulate\\-open")] {
        let (status, text) = run(place.path(), args);
        assert!(status == 0 && text.contains(word), "{text}");
    }
}
