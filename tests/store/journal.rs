//! What the journal takes is bounded: its slots are used again as soon as packs have what was in
//! them, and so are files and descriptors.

use braidlog::{Query, Start};

use super::place::{Place, append, batch, key, noise, read_all};

#[tokio::test]
async fn slots_are_used_again_however_much_is_appended() {
    let slots = 4;
    let mut place = Place::with(|options| {
        (options.slot_bytes_first, options.slot_bytes) = (128 << 10, 128 << 10);
        (options.journal_slots_max, options.pack_bytes) = (slots, 4 << 20);
        (options.flush_bytes, options.unflushed_bytes_max) = (128 << 10, 256 << 10);
    });
    // A start may add one.
    let bytes_max = u64::from(slots + 1) * (128 << 10);
    let body = |n: u64| noise(n, 30 << 10);
    let wanted = 20 * bytes_max;
    let mut appended = 0;
    while appended * (30 << 10) < wanted {
        let run = key(format!("run {}", appended % 3));
        append(place.store(), &run, batch("out", [body(appended)])).await;
        appended += 1;
        let stats = place.store().stats();
        assert!(stats.disk.journal_bytes <= bytes_max, "{stats:?}");
        assert!(place.bytes("journal") <= bytes_max, "{:?}", place.files("journal"));
    }
    let packs = place.files("packs").len();
    assert!(place.files_open() < packs + slots as usize + 12, "{}", place.files_open());
    for _ in 0..2 {
        for run in 0..3u64 {
            let records = read_all(place.store(), Query::stream(key(format!("run {run}")), "out"));
            let records = records.await.expect("records");
            let numbers = (run..appended).step_by(3);
            assert!(records.iter().map(|record| &record.data[..]).eq(numbers.map(body)));
        }
        place.reopen().await;
    }
    assert!(place.bytes("journal") <= bytes_max + (128 << 10));
}

#[tokio::test]
async fn many_small_copies_do_not_become_as_many_files() {
    let mut place = Place::with(|options| options.pack_bytes = 4 << 20);
    let run = key("slow");
    for n in 0..120 {
        append(place.store(), &run, batch("out", [n.to_string()])).await;
        place.flush().await;
    }
    for _ in 0..2 {
        assert!(place.files("packs").len() < 60, "{} packs", place.files("packs").len());
        assert!(place.files_open() < 80, "{} open", place.files_open());
        let query = Query::stream(run.clone(), "out").from(Start::Beginning);
        assert_eq!(read_all(place.store(), query).await.expect("records").len(), 120);
        place.reopen().await;
    }
}
