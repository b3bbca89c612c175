//! A store that is closed, or stops because its disk fails, while others wait for it: nobody waits
//! for ever, and what was acknowledged is there.

use std::{future::pending, time::Duration};

use braidlog::{
    ClaimRun, Error, WatchQuery, WatchRuns, WatchScope,
    engine::DEFAULT_NAMESPACE,
    platform::sim::{Call, Fault, What},
};
use shuttle::thread::JoinHandle;

use crate::{
    explore::explore,
    scene::{
        Scene, Shared, append, batch, consumer, create, follow, is_end, key, name, read, run, small,
    },
};

const WRITERS: usize = 2;
const BATCHES: usize = 3;

/// Everybody who can wait for something that does not come.
fn waiters(scene: &Scene) -> Vec<JoinHandle<Error>> {
    vec![
        scene.caller(async |store| follow(&store, &key("a")).await.expect_err("no end comes")),
        scene.caller(async |store| {
            let taken = store.take(&consumer("a"), Duration::from_secs(60), pending()).await;
            taken.expect_err("no input comes")
        }),
        scene.caller(async |store| match store.receive(consumer("b"), 1).await {
            Ok(mut receiver) => receiver.next().await.expect_err("no input comes"),
            Err(error) => error,
        }),
        scene.caller(async |store| {
            let claim = ClaimRun {
                namespace: DEFAULT_NAMESPACE.into(),
                tasks: vec!["nothing".into()],
                worker: "worker".into(),
                term_ms: 60_000,
            };
            store.claim(&claim, pending()).await.expect_err("no run comes")
        }),
        scene.caller(async |store| {
            let runs = WatchRuns {
                namespace: DEFAULT_NAMESPACE.into(),
                tags: Vec::new(),
                batch: "".into(),
                task: "nothing".into(),
                statuses: Vec::new(),
                created_from_ms: 0,
                limit: 1,
            };
            let query = WatchQuery { scope: WatchScope::Runs(runs), cursor: None };
            match store.watch(query).await {
                Ok(mut watch) => loop {
                    if let Err(error) = watch.next().await {
                        return error;
                    }
                },
                Err(error) => error,
            }
        }),
        scene.caller(async |store| {
            loop {
                // Without end, so that some round is always under way.
                if let Err(error) = store.flush().await {
                    return error;
                }
                shuttle::future::yield_now().await;
            }
        }),
    ]
}

/// Writers, who note what was acknowledged.
fn writers(scene: &Scene, acked: &Shared<Vec<String>>, bytes: usize) -> Vec<JoinHandle<()>> {
    let writer = |writer: usize| {
        let acked = acked.clone();
        scene.caller(async move |store| {
            for number in 0..BATCHES {
                let text = name(writer, number);
                match append(&store, &key("a"), batch(&text, bytes)).await {
                    Ok(_) => acked.lock().expect("not poisoned").push(text),
                    Err(error) => {
                        assert!(is_end(&error) || matches!(error, Error::DiskFull), "{error}");
                        return;
                    }
                }
            }
        })
    };
    (0..WRITERS).map(writer).collect()
}

fn prepare(scene: &Scene) {
    run(async {
        for run in ["a", "b"] {
            scene.store.create_run(create(run, "")).await.expect("created");
        }
    });
}

/// Every one was told, and after a power cut all that was acknowledged is there.
fn check(scene: Scene, waiters: Vec<JoinHandle<Error>>, acked: Shared<Vec<String>>) {
    for waiter in waiters {
        let error = waiter.join().expect("no panic");
        assert!(is_end(&error), "{error}");
    }
    let scene = scene.after_power_cut();
    run(async {
        let all = read(&scene.store, &key("a")).await.expect("read");
        for text in &*acked.lock().expect("not poisoned") {
            let times = all.iter().filter(|one| *one == text).count();
            assert_eq!(times, 1, "{text} was acknowledged, and there is {all:?}");
        }
    });
}

#[test]
fn a_store_that_is_closed_leaves_nobody_waiting_and_keeps_what_it_acknowledged() {
    explore("a_store_that_is_closed", |seed| {
        let scene = Scene::new(seed, small());
        prepare(&scene);
        let acked = Shared::default();
        let (waiters, writers) = (waiters(&scene), writers(&scene, &acked, 100));
        let closing = scene.caller(async |store| store.close().await.expect("closed"));
        for caller in writers.into_iter().chain([closing]) {
            caller.join().expect("no panic");
        }
        check(scene, waiters, acked);
    });
}

#[test]
fn a_store_whose_disk_fails_leaves_nobody_waiting_and_acknowledges_nothing_after() {
    explore("a_store_whose_disk_fails", |seed| {
        let scene = Scene::new(seed, small());
        prepare(&scene);
        let acked = Shared::default();
        // Once in a commit, once in a manifest or a pack.
        let fault = Fault::new(Call::Sync, What::SyncFailsPageClean).nth(1 + seed % 9);
        scene.disk.inject(fault.lasting());
        let (waiters, writers) = (waiters(&scene), writers(&scene, &acked, 3_000));
        for writer in writers {
            writer.join().expect("no panic");
        }
        run(async {
            // Whatever was not reached by the writers' commits is by this.
            let mut last = Ok(());
            for number in 0.. {
                last = append(&scene.store, &key("b"), batch(&name(9, number), 10)).await.map(drop);
                if last.is_err() {
                    break;
                }
            }
            assert!(last.is_err_and(|error| is_end(&error)));
            assert!(matches!(scene.store.close().await, Err(Error::Stopped { .. })));
        });
        scene.disk.clear_faults();
        check(scene, waiters, acked);
    });
}

#[test]
fn a_store_whose_disk_is_full_can_be_closed() {
    explore("a_store_whose_disk_is_full", |seed| {
        let scene = Scene::new(seed, small());
        prepare(&scene);
        let acked = Shared::default();
        scene.disk.inject(Fault::new(Call::Write, What::Enospc).on("packs").lasting());
        scene.disk.inject(Fault::new(Call::Write, What::Enospc).on("journal").nth(8).lasting());
        let (waiters, writers) = (waiters(&scene), writers(&scene, &acked, 5_000));
        let closing = scene.caller(async |store| drop(store.close().await));
        for caller in writers.into_iter().chain([closing]) {
            caller.join().expect("no panic");
        }
        scene.disk.clear_faults();
        check(scene, waiters, acked);
    });
}
