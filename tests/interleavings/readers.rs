//! Those who wait at the tail, and those who read while what they read moves from the journal into
//! packs, and from packs into others.

use braidlog::{WatchItem, WatchQuery, WatchRuns, WatchScope, engine::DEFAULT_NAMESPACE};

use crate::{
    explore::explore,
    scene::{Scene, append, batch, close, create, follow, key, name, read, run, small},
};

const WRITERS: usize = 2;
const BATCHES: usize = 4;

/// Each writer's batches stand in the order of its calls, each once.
fn check(seen: &[String]) {
    assert_eq!(seen.len(), WRITERS * BATCHES, "{seen:?}");
    for writer in 0..WRITERS {
        let own = format!("{writer}.");
        let own: Vec<_> = seen.iter().filter(|text| text.starts_with(&own)).cloned().collect();
        let wanted: Vec<_> = (0..BATCHES).map(|number| name(writer, number)).collect();
        assert_eq!(own, wanted);
    }
}

fn write(scene: &Scene, bytes: usize) -> Vec<shuttle::thread::JoinHandle<()>> {
    let writer = |writer: usize| {
        scene.caller(async move |store| {
            for number in 0..BATCHES {
                let batch = batch(&name(writer, number), bytes);
                append(&store, &key("a"), batch).await.expect("appended");
            }
        })
    };
    (0..WRITERS).map(writer).collect()
}

#[test]
fn whoever_waits_at_the_tail_is_woken_by_every_append_and_by_the_end() {
    explore("whoever_waits_at_the_tail", |seed| {
        let scene = Scene::new(seed, small());
        run(async { drop(scene.store.create_run(create("a", "")).await.expect("created")) });
        let tails: Vec<_> = (0..2)
            .map(|_| scene.caller(async |store| follow(&store, &key("a")).await.expect("a tail")))
            .collect();
        for writer in write(&scene, 10) {
            writer.join().expect("no panic");
        }
        run(async { close(&scene.store, &key("a")).await.expect("closed") });
        for tail in tails {
            check(&tail.join().expect("no panic"));
        }
    });
}

#[test]
fn readers_see_everything_while_it_moves_into_packs_and_slots_are_used_again() {
    explore("readers_see_everything", |seed| {
        let scene = Scene::new(seed, small());
        run(async { drop(scene.store.create_run(create("a", "")).await.expect("created")) });
        let tail = scene.caller(async |store| follow(&store, &key("a")).await.expect("a tail"));
        let reader = scene.caller(async |store| {
            let mut seen = 0;
            while seen < WRITERS * BATCHES {
                let all = read(&store, &key("a")).await.expect("read");
                assert!(seen <= all.len(), "what was shown stays");
                seen = all.len();
                shuttle::future::yield_now().await;
            }
        });
        let flusher = scene.caller(async |store| {
            for _ in 0..3 {
                store.flush().await.expect("flushed");
            }
        });
        for writer in write(&scene, 6_000) {
            writer.join().expect("no panic");
        }
        flusher.join().expect("no panic");
        reader.join().expect("no panic");
        run(async {
            close(&scene.store, &key("a")).await.expect("closed");
            scene.store.flush().await.expect("flushed");
            check(&read(&scene.store, &key("a")).await.expect("read"));
        });
        check(&tail.join().expect("no panic"));
    });
}

#[test]
fn whoever_watches_many_runs_is_told_of_the_last_change_of_each() {
    explore("whoever_watches_many_runs", |seed| {
        let scene = Scene::new(seed, small());
        let watcher = scene.caller(async |store| {
            let runs = WatchRuns {
                namespace: DEFAULT_NAMESPACE.into(),
                tags: Vec::new(),
                batch: "".into(),
                task: "work".into(),
                statuses: Vec::new(),
                created_from_ms: 0,
                limit: 100,
            };
            let query = WatchQuery { scope: WatchScope::Runs(runs), cursor: None };
            let mut watch = store.watch(query).await.expect("a watch");
            let mut ended = std::collections::BTreeSet::new();
            while ended.len() < WRITERS {
                if let WatchItem::Row(info) = watch.next().await.expect("an item")
                    && info.ended.is_some()
                {
                    ended.insert(info.run_id.clone());
                }
            }
        });
        let worker = |worker: usize| {
            scene.caller(async move |store| {
                let run = name(worker, 0);
                store.create_run(create(&run, "work")).await.expect("created");
                close(&store, &key(&run)).await.expect("closed");
            })
        };
        let workers: Vec<_> = (0..WRITERS).map(worker).collect();
        for worker in workers {
            worker.join().expect("no panic");
        }
        watcher.join().expect("no panic");
    });
}
