//! Inputs and queued runs: each goes to one of those who wait, and nobody waits beside one that is
//! free.

use std::{
    future::{pending, ready},
    time::Duration,
};

use braidlog::{ClaimRun, Index, engine::DEFAULT_NAMESPACE};

use crate::{
    explore::explore,
    scene::{Scene, consumer, create, key, name, run, send, small},
};

const TERM: Duration = Duration::from_secs(60);

#[test]
fn every_input_goes_to_one_of_those_who_wait() {
    explore("every_input_goes_to_one", |seed| {
        let scene = Scene::new(seed, small());
        run(async { drop(scene.store.create_run(create("a", "")).await.expect("created")) });
        let takers: Vec<_> = (0..2)
            .map(|_| {
                scene.caller(async |store| {
                    let mut taken = Vec::new();
                    for _ in 0..2 {
                        let input = store.take(&consumer("a"), TERM, pending()).await;
                        let index = Index(input.expect("taken").expect("one").record.index);
                        let acked = vec![(index, index + 1)];
                        store.ack(&consumer("a"), acked).await.expect("acked");
                        taken.push(index);
                    }
                    taken
                })
            })
            .collect();
        let sender = scene.caller(async |store| {
            for number in 0..4 {
                send(&store, &key("a"), name(0, number)).await.expect("sent");
            }
        });
        sender.join().expect("no panic");
        let taken = takers.into_iter().flat_map(|taker| taker.join().expect("no panic"));
        let mut taken: Vec<Index> = taken.collect();
        taken.sort_unstable();
        assert_eq!(taken, (0..4).map(Index).collect::<Vec<_>>());
    });
}

#[test]
fn an_input_that_is_given_back_goes_to_who_waits() {
    explore("an_input_that_is_given_back", |seed| {
        let scene = Scene::new(seed, small());
        run(async {
            scene.store.create_run(create("a", "")).await.expect("created");
            send(&scene.store, &key("a"), name(0, 0)).await.expect("sent");
            let taken = scene.store.take(&consumer("a"), TERM, ready(())).await;
            assert!(taken.expect("taken").is_some());
        });
        let waiting = scene.caller(async |store| {
            store.take(&consumer("a"), TERM, pending()).await.expect("taken").expect("one")
        });
        let giving = scene.caller(async |store| {
            let released = store.release(&consumer("a"), Index(0)).await;
            assert!(released.expect("released"));
        });
        giving.join().expect("no panic");
        assert!(waiting.join().expect("no panic").redelivery);
    });
}

#[test]
fn every_queued_run_goes_to_one_of_the_workers_who_wait() {
    explore("every_queued_run_goes_to_one", |seed| {
        let scene = Scene::new(seed, small());
        let worker = |worker: usize| {
            scene.caller(async move |store| {
                let claim = ClaimRun {
                    namespace: DEFAULT_NAMESPACE.into(),
                    tasks: vec!["work".into()],
                    worker: name(worker, 0).into(),
                    term_ms: 60_000,
                };
                let claimed = store.claim(&claim, pending()).await.expect("claimed");
                claimed.expect("a run").run.run_id.to_string()
            })
        };
        let workers: Vec<_> = (0..2).map(worker).collect();
        let creators: Vec<_> = (0..2)
            .map(|number| {
                scene.caller(async move |store| {
                    let run = create(&name(9, number), "work");
                    store.create_run(run).await.expect("created");
                })
            })
            .collect();
        for creator in creators {
            creator.join().expect("no panic");
        }
        let claimed = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        let mut claimed: Vec<String> = claimed.collect();
        claimed.sort();
        assert_eq!(claimed, [name(9, 0), name(9, 1)]);
    });
}
