//! A state and its snapshot: nothing is lost between them, and what no run can be is refused.

use braidlog::proto::{
    AtLimit as ProtoAtLimit, Retention as ProtoRetention,
    storage::v1::{EndingSnapshot, RunSnapshot},
};
use prost::Message;

use super::*;

/// The state that the bytes of a state's snapshot say.
fn restored(state: &RunState) -> Result<RunState, Damage> {
    let bytes = state.to_snapshot().encode_to_vec();
    RunState::from_snapshot(RunSnapshot::decode(&bytes[..]).expect("decodes"))
}

/// A run with something in every field.
fn full() -> RunState {
    let create = Create {
        tags: vec!["a".into(), "b".into()],
        batch: "batch".into(),
        retention: Some(Retention { age_ms: Some(1), ..Retention::default() }),
        ..named("run", "task")
    };
    let (mut state, _, _) = RunState::create(&create, FIRST, NOW).expect("created");
    for seq in 0..PRODUCER_APPENDS_REMEMBERED as u64 + 5 {
        let append = Append { records: records(1 + seq as usize % 2), ..append_by("p", 1, seq) };
        accepted(state.append(&append, &at(NOW + seq * seq)));
        accepted(state.append(&Append { stream: "b".into(), ..append_by("q", seq, 0) }, &at(0)));
    }
    accepted(state.trim(&trim("b", 3), &at(NOW)));
    accepted(state.close_stream(&close_stream("b"), &at(NOW)));
    let close = Close {
        outcome: Outcome::Failed,
        output: Bytes::from_static(b"output"),
        output_type: "text/plain".into(),
        error: Some(RunError { message: "broke".into(), ..RunError::default() }),
        ..Close::default()
    };
    accepted(state.close(&close, &at(NOW)));
    accepted(state.delete(&Delete::default(), &at(NOW)));
    state
}

#[test]
fn a_snapshot_says_all_of_a_state() {
    assert_eq!(restored(&full()), Ok(full()));
    let (_, states) = lived(5, RUN_UID);
    for state in states {
        assert_eq!(restored(&state), Ok(state));
    }
}

#[test]
fn a_typical_run_has_a_small_snapshot() {
    let create = named("run_01HZXK5V7Q8T3M2N4P6R9S", "summarise-document");
    let (mut state, _, _) = RunState::create(&create, FIRST, NOW).expect("created");
    for seq in 0..10 {
        let id = "0123456789abcdef0123456789abcdef";
        let append = Append { records: records(20), ..append_by(id, NOW << 20, seq) };
        accepted(state.append(&append, &at(NOW + seq * 250)));
    }
    let bytes = state.to_snapshot().encoded_len();
    assert!(bytes <= 270, "{bytes} bytes");
}

/// A change of a snapshot that makes it one of no run.
type Change = (&'static str, fn(&mut RunSnapshot));

const CHANGES: [Change; 26] = [
    ("no identity", |s| s.run_uid = Bytes::new()),
    ("a long identity", |s| s.run_uid = Bytes::from_static(&[0; 17])),
    ("no record", |s| s.tail = 0),
    ("a record too many", |s| s.tail += 1),
    ("a record of no stream", |s| s.streams[2].tail -= 1),
    ("more records than there are numbers", |s| s.streams[1].tail = u64::MAX),
    ("no frame", |s| s.frames = 0),
    ("more frames than bytes", |s| s.frames = s.bytes),
    ("more frames than there are numbers", |s| s.frames = u64::MAX),
    ("time after the end of time", |s| s.updated_after_ms = u64::MAX),
    ("no `$run`", |s| _ = s.streams.remove(0)),
    ("no stream", |s| s.streams.clear()),
    ("`$run` elsewhere", |s| s.streams.swap(0, 1)),
    ("a stream of no kind", |s| s.streams[1].kind = 0),
    ("a stream of an unknown kind", |s| s.streams[1].kind = 9),
    ("a stream without a name", |s| s.streams[1].name.clear()),
    ("two streams of a name", |s| s.streams[1].name = s.streams[2].name.clone()),
    ("a trim above the tail", |s| s.streams[2].trim = s.streams[2].tail + 1),
    ("too many streams", |s| {
        let stream = s.streams[1].clone();
        s.streams.resize(STREAMS_PER_RUN_MAX + 1, stream);
    }),
    ("two producers of a name", |s| s.producers[0].id = s.producers[1].id.clone()),
    ("too many producers", |s| {
        let producer = s.producers[1].clone();
        s.producers.resize(PRODUCERS_PER_RUN_MAX + 1, producer);
    }),
    ("an empty tag", |s| s.tags[0].clear()),
    ("a tag twice", |s| s.tags[0] = s.tags[1].clone()),
    ("an unknown policy", |s| {
        let at_limit = ProtoAtLimit::TrimOldest as i32 + 1;
        s.retention = Some(ProtoRetention { at_limit, ..ProtoRetention::default() });
    }),
    ("an end after the tail", |s| {
        let ending = EndingSnapshot { seq: s.tail, ..s.ending.clone().unwrap_or_default() };
        s.ending = Some(ending);
    }),
    ("an end without an outcome", |s| s.ending = Some(EndingSnapshot::default())),
];

/// A change of the table of a producer's appends, whose first row is at seq 10, index 4.
const ROWS: [Change; 9] = [
    ("more appends than are remembered", |s| {
        s.producers[0].payload_crc.resize(PRODUCER_APPENDS_REMEMBERED + 1, 0);
    }),
    ("more appends than there were", |s| s.producers[0].next_seq = 63),
    ("a gap of no append", |s| s.producers[0].seq_gap.resize(65, 1)),
    ("a time of no append", |s| s.producers[0].elapsed_ms.resize(65, 1)),
    ("a seq after the tail", |s| s.producers[0].seq_gap[63] += 9),
    ("a seq before the first", |s| s.producers[0].seq_gap[0] = -1),
    ("an index before the first", |s| s.producers[0].index_gap = vec![-1]),
    ("fewer records than none", |s| s.producers[0].more_records = vec![-2]),
    ("more records than can be counted", |s| s.producers[0].more_records = vec![i64::MAX]),
];

#[test]
fn a_snapshot_of_no_run_is_refused() {
    for (what, change) in CHANGES.iter().chain(&ROWS) {
        let mut snapshot = full().to_snapshot();
        change(&mut snapshot);
        RunState::from_snapshot(snapshot).expect_err(what);
    }
}

/// What holds in every state, however it came to be.
fn check(state: &RunState) {
    let tails: u64 = state.streams.iter().map(|stream| stream.tail.0).sum();
    assert_eq!(tails, state.tail.0);
    assert!(state.streams.iter().all(|stream| stream.trim <= stream.tail));
    assert!(state.kept_records() <= state.tail.0 && state.kept_bytes() <= state.bytes);
    assert_eq!(restored(state).as_ref(), Ok(state));
}

proptest! {
    #[test]
    fn a_run_goes_on_from_a_snapshot_as_if_nothing_had_happened(
        commands in commands(), more in commands(),
    ) {
        let mut trio = Trio::new();
        for given in &commands {
            trio.obey(given);
            prop_assert_eq!(&restored(&trio.state), &Ok(trio.state.clone()));
        }
        trio.state = restored(&trio.state).expect("a state");
        more.iter().for_each(|given| trio.obey(given));
        trio.check();
    }

    #[test]
    fn no_bytes_make_a_state_that_cannot_be(at in any::<usize>(), byte in any::<u8>(), n in 1..8) {
        let mut bytes = full().to_snapshot().encode_to_vec();
        for n in 0..n as usize {
            let at = at.wrapping_mul(n * 31 + 1) % bytes.len();
            bytes[at] = byte.wrapping_add(n as u8);
        }
        if let Ok(snapshot) = RunSnapshot::decode(&bytes[..])
            && let Ok(state) = RunState::from_snapshot(snapshot)
        {
            check(&state);
        }
    }
}
