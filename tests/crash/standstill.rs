//! A journal that is full of what was admitted: nothing waits for what waits for it.

use braidlog::{
    Append, Error, IfAbsent, NewRecord, Options, RunKey, Store,
    engine::{Flushed, Progress},
    platform::sim::{self, SimClock, SimDisk},
};

use super::{survey::ready, workload::smallest};

/// Steps after which everything has become durable, or never will.
const STEPS: usize = 200;

#[test]
fn what_was_admitted_has_a_place_although_nothing_can_be_copied_before() {
    let (disk, clock) = (SimDisk::new(), SimClock::new(1));
    let options = Options { journal_slots_max: 3, unflushed_bytes_max: 1 << 30, ..smallest() };
    let slot_bytes = options.slot_bytes;
    let opened = Store::open_stepped(sim::platform(&disk, &clock, 1), options);
    let (store, mut stepper) = opened.expect("opens");
    let run = RunKey::new("run");
    let append = || Append {
        stream: "out".into(),
        records: vec![NewRecord::new(vec![7; slot_bytes as usize / 2])],
        ..Append::default()
    };
    // All at once: each is looked at before any of them is written, and finds a slot that is ready.
    let mut waiting = Vec::new();
    for _ in 0..8 {
        match ready(store.submit(&run, append(), IfAbsent::Create)) {
            Ok(ticket) => waiting.push(ticket),
            Err(Error::Busy { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        if waiting.len() == 1 {
            // The next slot is made ready.
            stepper.step();
        }
    }
    let admitted = waiting.len();
    assert!(4 < admitted, "more than the journal has slots for: {admitted}");
    let mut flushes = Vec::new();
    for _ in 0..STEPS {
        stepper.step();
        flushes.push(stepper.flush());
        waiting.retain_mut(|ticket| match ticket.try_take() {
            Some(answer) => answer.map(|_| false).expect("appended"),
            None => true,
        });
        if waiting.is_empty() {
            break;
        }
    }
    assert!(waiting.is_empty(), "{} appends wait for ever: {flushes:?}", waiting.len());
    assert!(flushes.contains(&Flushed::Waits), "a flush had waited for them: {flushes:?}");
    assert!(!matches!(stepper.step(), Progress::WaitsForSlot));
    let slots = disk.files().iter().filter(|path| path.starts_with("journal/")).count();
    assert!(slots <= admitted + 1, "{slots} slots for {admitted} frames of half a slot");
}
