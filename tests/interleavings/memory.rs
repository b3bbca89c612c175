//! Memory that appends are admitted with comes back, whatever becomes of them.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use braidlog::{Append, IfAbsent, Seq};

use crate::{
    explore::explore,
    scene::{Scene, append, batch, create, key, name, run, small},
};

/// Bytes of a large append. Memory is for four of them, the least there can be.
const LARGE: usize = 1_000_000;
const INGEST_BYTES: usize = 4 << 20;
/// Appends that would use up all of it, if they kept it.
const TIMES: usize = 4;

#[test]
fn memory_of_appends_comes_back_also_from_refused_and_dropped_ones() {
    explore("memory_of_appends_comes_back", |seed| {
        let mut options = small();
        options.ingest_bytes = INGEST_BYTES;
        (options.slot_bytes_first, options.slot_bytes) = (8 << 20, 8 << 20);
        let scene = Scene::new(seed, options);
        run(async { drop(scene.store.create_run(create("a", "")).await.expect("created")) });
        let writer = |writer: usize| {
            scene.caller(async move |store| {
                for number in 0..2 {
                    let batch = batch(&name(writer, number), 1_000);
                    append(&store, &key("a"), batch).await.expect("appended");
                }
            })
        };
        let writers: Vec<_> = (0..2).map(writer).collect();
        let refused = scene.caller(async |store| {
            let wrong = Append { expected_seq: Some(Seq(1 << 40)), ..batch("wrong", LARGE) };
            for _ in 0..TIMES {
                let answer = store.append(&key("a"), wrong.clone(), IfAbsent::Refuse).await;
                assert!(answer.is_err());
            }
        });
        let dropped = scene.caller(async |store| {
            let run = key("a");
            for _ in 0..TIMES {
                let call = store.append(&run, batch("dropped", LARGE), IfAbsent::Refuse);
                let _: Poll<_> = pin!(call).poll(&mut Context::from_waker(Waker::noop()));
            }
        });
        for caller in writers.into_iter().chain([refused, dropped]) {
            caller.join().expect("no panic");
        }
        run(async {
            append(&scene.store, &key("a"), batch("last", LARGE)).await.expect("appended");
        });
    });
}
