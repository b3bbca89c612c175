//! The state machine of a run, held to its promises without a disk.
//!
//! Small spaces are exhausted: every combination of what can be wrong with a command, every pair
//! of frames in the wrong place. Larger ones are sampled: random commands, against a model that
//! knows nothing but lists of records, with every frame replayed into a second state.

use std::{collections::HashMap, sync::Arc};

use braidlog::{
    core::{
        Append, Appended, AtLimit, Close, CloseStream, Closed, Context, Create, Decision, Delete,
        Deleted, Limits, NewRecord, NewRun, Producer, Refusal, Retention, RunState, StreamEnd,
        Trim,
    },
    format::{
        Damage,
        frame::{Chain, FLAG_CLOSES, FLAG_FIRST, FLAG_STUB, Frame, FrameBuilder, FramePlace},
        wire::{self, RecordFields},
    },
    proto::{
        Event, Header, Kind, Outcome, Record, RunClosed, RunCreated, RunError, StreamClosed,
        StreamKind, event,
        storage::v1::{Effects, ProducerAdvanced, StreamOpened, StreamTrimmed},
    },
    record::{
        APPEND_BYTES_MAX, APPEND_RECORDS_MAX, BATCH_BYTES_MAX, FRAME_BYTES_MAX, HEADERS_MAX,
        ID_BYTES_MAX, Index, OUTPUT_BYTES_MAX, PRODUCER_APPENDS_REMEMBERED, PRODUCERS_PER_RUN_MAX,
        RECORD_BYTES_MAX, RUN_ID_BYTES_MAX, RunNo, RunUid, STREAM_NAME_BYTES_MAX,
        STREAMS_PER_RUN_MAX, Seq, StreamNo, TAG_BYTES_MAX, TAGS_PER_RUN_MAX,
    },
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

#[path = "support/planted.rs"]
mod planted;
#[path = "core/retention.rs"]
mod retention;
#[path = "core/snapshots.rs"]
mod snapshots;

const NOW: u64 = 1_700_000_000_000;
const RUN_UID: RunUid = RunUid([7; 16]);
const OTHER_UID: RunUid = RunUid([8; 16]);
const FIRST: NewRun = NewRun { run_no: RunNo(5), run_uid: RUN_UID };

/// What decides a command at this time when nothing limits the run.
fn at(now_ms: u64) -> Context {
    Context::at(now_ms)
}

fn named(run_id: &str, task: &str) -> Create {
    let (run_id, task) = (run_id.into(), task.into());
    Create { namespace: "ns".into(), run_id, task, ..Create::default() }
}

fn create_with(run_no: u64, run_uid: RunUid) -> (RunState, Frame) {
    planted::plant();
    let create = named("run", "task");
    let new = NewRun { run_no: RunNo(run_no), run_uid };
    let (state, frame, _) = RunState::create(&create, new, NOW).expect("created");
    (state, frame)
}

fn create() -> (RunState, Frame) {
    create_with(5, RUN_UID)
}

fn run() -> RunState {
    create().0
}

fn begin(frame: &Frame) -> Result<RunState, Damage> {
    RunState::begin(frame).map(|(state, _)| state)
}

/// The frame and answer of a command that was not a repetition.
fn accepted<R>(decision: Result<Decision<R>, Refusal>) -> (Frame, R) {
    match decision.expect("admitted") {
        Decision::Accepted { frame, answer, .. } => (frame, answer),
        Decision::Duplicate(_) => panic!("answered as a repetition"),
    }
}

/// The answer to a command that was a repetition.
fn repeated<R>(decision: Result<Decision<R>, Refusal>) -> R {
    match decision.expect("admitted") {
        Decision::Accepted { .. } => panic!("applied again"),
        Decision::Duplicate(answer) => answer,
    }
}

/// Gives a command to a state, and demands that a state whose command was refused or had been
/// applied before is what it was.
fn give<R>(
    state: &mut RunState,
    command: impl FnOnce(&mut RunState) -> Result<Decision<R>, Refusal>,
) -> Result<Decision<R>, Refusal> {
    let before = state.clone();
    let decision = command(state);
    match &decision {
        Ok(Decision::Accepted { .. }) => assert_ne!(*state, before, "accepted, but not folded in"),
        _ => assert_eq!(*state, before, "not accepted, but changed"),
    }
    decision
}

fn records(count: usize) -> Vec<NewRecord> {
    (0..count).map(|n| NewRecord::new(n.to_le_bytes().to_vec())).collect()
}

fn append_to(stream: &str) -> Append {
    Append { stream: stream.into(), records: records(1), ..Append::default() }
}

fn producer(id: &str, epoch: u64, seq: u64) -> Option<Producer> {
    Some(Producer { id: id.into(), epoch, seq })
}

fn append_by(id: &str, epoch: u64, seq: u64) -> Append {
    Append { producer: producer(id, epoch, seq), ..append_to("out") }
}

fn close_as(outcome: Outcome) -> Close {
    Close { outcome, ..Close::default() }
}

fn close_stream(stream: &str) -> CloseStream {
    CloseStream { run_uid: None, stream: stream.into() }
}

fn trim(stream: &str, trim: u64) -> Trim {
    Trim { run_uid: None, stream: stream.into(), trim: Index(trim) }
}

fn decoded(frame: &Frame) -> Vec<Record> {
    let records: Result<Vec<_>, _> = wire::decode_all(frame.records()).collect();
    records.expect("sound")
}

// The order of checks.

/// A variant of `Refusal`, without what it carries.
fn name_of(refusal: &Refusal) -> String {
    let text = format!("{refusal:?}");
    text.split([' ', '(']).next().unwrap_or_default().into()
}

/// How the run of a check-order case stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stands {
    Open,
    StreamClosed,
    RunClosed,
    Deleted,
}

/// What the producer of a check-order case presents.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Presents {
    Nothing,
    Next,
    Stale,
    StaleGap,
    Same,
    OtherContent,
    Gap,
    NewEpoch,
    NewEpochLate,
    Stranger,
    StrangerLate,
}

use Presents::*;
const PRESENTS: [Presents; 11] = [
    Nothing,
    Next,
    Stale,
    StaleGap,
    Same,
    OtherContent,
    Gap,
    NewEpoch,
    NewEpochLate,
    Stranger,
    StrangerLate,
];

/// A run in which producer `p` is at epoch 3, seq 2 of stream `out`.
fn crowded(stands: Stands, streams_full: bool, producers_full: bool) -> RunState {
    let mut state = run();
    for seq in 0..2 {
        accepted(state.append(&append_by("p", 3, seq), &at(NOW)));
    }
    let streams = if streams_full { STREAMS_PER_RUN_MAX } else { 2 };
    for n in 2..streams {
        accepted(state.append(&append_to(&format!("s{n}")), &at(NOW)));
    }
    let producers = if producers_full { PRODUCERS_PER_RUN_MAX } else { 1 };
    for n in 1..producers {
        accepted(state.append(&append_by(&format!("p{n}"), 0, 0), &at(NOW)));
    }
    match stands {
        Stands::Open => {}
        Stands::StreamClosed => _ = accepted(state.close_stream(&close_stream("out"), &at(NOW))),
        Stands::RunClosed => _ = accepted(state.close(&close_as(Outcome::Completed), &at(NOW))),
        Stands::Deleted => {
            accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
            accepted(state.delete(&Delete::default(), &at(NOW)));
        }
    }
    state
}

/// Every combination of what can be wrong with an append, in every state of the run that matters:
/// the answer is that of the first row that does not hold.
#[test]
fn the_first_check_that_fails_decides() {
    let flags = || [false, true].into_iter();
    let mut seen = HashMap::<String, usize>::new();
    for stands in [Stands::Open, Stands::StreamClosed, Stands::RunClosed, Stands::Deleted] {
        for (streams_full, producers_full) in flags().flat_map(|s| flags().map(move |p| (s, p))) {
            let state = crowded(stands, streams_full, producers_full);
            for bits in 0..1u32 << 6 {
                let [nameless, wrong_uid, wrong_seq, wrong_index, new_stream, full] =
                    [0, 1, 2, 3, 4, 5].map(|bit| bits & 1 << bit != 0);
                let room = state.kept_records() + u64::from(!full);
                let limits = Limits { records: Some(room), ..Limits::default() };
                let context = Context { limits, ..at(NOW) };
                for presents in PRESENTS {
                    let stream = if new_stream { "fresh" } else { "out" };
                    let tail = state.stream_no(stream).map_or(0, |no| state.stream(no).tail.0);
                    let (id, epoch, seq) = match presents {
                        Nothing | Next => ("p", 3, 2),
                        Stale => ("p", 2, 0),
                        StaleGap => ("p", 2, 77),
                        Same | OtherContent => ("p", 3, 1),
                        Gap => ("p", 3, 3),
                        NewEpoch => ("p", 4, 0),
                        NewEpochLate => ("p", 4, 1),
                        Stranger => ("q", 0, 0),
                        StrangerLate => ("q", 0, 1),
                    };
                    let append = Append {
                        run_uid: Some(if wrong_uid { OTHER_UID } else { RUN_UID }),
                        stream: stream.into(),
                        records: records(if nameless {
                            0
                        } else if presents == OtherContent {
                            2
                        } else {
                            1
                        }),
                        expected_seq: Some(state.tail + u64::from(wrong_seq)),
                        expected_index: Some(Index(tail) + u64::from(wrong_index)),
                        producer: if presents == Nothing { None } else { producer(id, epoch, seq) },
                        ..Append::default()
                    };
                    // To another stream it is other content.
                    let known = matches!(presents, Same | OtherContent);
                    let same = presents == Same && !new_stream;
                    let stranger = matches!(presents, Stranger | StrangerLate);
                    let table = [
                        (nameless, "Invalid"),
                        (stands == Stands::Deleted, "RunDeleted"),
                        (wrong_uid, "RunReplaced"),
                        (matches!(presents, Stale | StaleGap), "StaleEpoch"),
                        (known && !same, "DedupMismatch"),
                        (same, "the answer"),
                        (stands == Stands::RunClosed, "Closed"),
                        (stands == Stands::StreamClosed && !new_stream, "Closed"),
                        (wrong_seq, "SeqMismatch"),
                        (wrong_index, "IndexMismatch"),
                        (matches!(presents, NewEpochLate | StrangerLate), "BadEpochStart"),
                        (presents == Gap, "ProducerGap"),
                        (streams_full && new_stream, "Limit"),
                        (producers_full && stranger, "Limit"),
                        (full, "Quota"),
                        (true, "accepted"),
                    ];
                    let expected = table.iter().find(|(fails, _)| *fails).expect("a row").1;
                    let mut state = state.clone();
                    let found = match give(&mut state, |state| state.append(&append, &context)) {
                        Ok(Decision::Accepted { .. }) => "accepted".into(),
                        Ok(Decision::Duplicate(_)) => "the answer".into(),
                        Err(refusal) => name_of(&refusal),
                    };
                    assert_eq!(
                        found, expected,
                        "{stands:?}, {streams_full}, {producers_full}, {presents:?}, {full}: {append:?}"
                    );
                    *seen.entry(found).or_default() += 1;
                }
            }
        }
    }
    assert_eq!(seen.values().sum::<usize>(), 4 * 4 * 64 * PRESENTS.len());
    assert_eq!(seen.len(), 14, "every row decides some case: {seen:?}");
}

#[test]
fn a_refusal_says_what_the_caller_needs_to_act() {
    let mut state = crowded(Stands::Open, false, false);
    let tail = state.tail;
    let wrong_uid = Append { run_uid: Some(OTHER_UID), ..append_to("out") };
    let wrong_seq = Append { expected_seq: Some(Seq(99)), ..append_to("out") };
    let wrong_index = Append { expected_index: Some(Index(99)), ..append_to("out") };
    let unopened = Append { expected_index: Some(Index(1)), ..append_to("fresh") };
    for (append, refusal) in [
        (wrong_uid, Refusal::RunReplaced { run_uid: RUN_UID }),
        (append_by("p", 2, 0), Refusal::StaleEpoch { current: 3 }),
        (append_by("p", 3, 9), Refusal::ProducerGap { expected: 2 }),
        (wrong_seq, Refusal::SeqMismatch { tail }),
        (wrong_index, Refusal::IndexMismatch { tail: Index(2) }),
        (unopened, Refusal::IndexMismatch { tail: Index(0) }),
    ] {
        assert_eq!(give(&mut state, |state| state.append(&append, &at(NOW))), Err(refusal));
    }
    accepted(state.close_stream(&close_stream("out"), &at(NOW)));
    let stream_closed =
        Refusal::Closed { outcome: None, final_seq: state.tail, final_index: Some(Index(2)) };
    assert_eq!(state.append(&append_to("out"), &at(NOW)), Err(stream_closed));
    accepted(state.close(&close_as(Outcome::Failed), &at(NOW)));
    let closed = |final_index| Refusal::Closed {
        outcome: Some(Outcome::Failed),
        final_seq: Seq(5),
        final_index,
    };
    assert_eq!(state.tail, Seq(5));
    assert_eq!(state.append(&append_to("out"), &at(NOW)), Err(closed(Some(Index(2)))));
    assert_eq!(state.append(&append_to("fresh"), &at(NOW)), Err(closed(None)));
    assert_eq!(state.close(&close_as(Outcome::Completed), &at(NOW)), Err(closed(None)));
}

#[test]
fn the_first_check_of_a_close_that_fails_decides() {
    for bits in 0..1u32 << 6 {
        let [unspecified, deleted, wrong_uid, closed, other, wrong_seq] =
            [0, 1, 2, 3, 4, 5].map(|bit| bits & 1 << bit != 0);
        let mut state = run();
        if closed {
            accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
        }
        if deleted {
            accepted(state.delete(&Delete::default(), &at(NOW)));
        }
        let outcome = match (unspecified, other) {
            (true, _) => Outcome::Unspecified,
            (_, true) => Outcome::Canceled,
            _ => Outcome::Completed,
        };
        let close = Close {
            run_uid: Some(if wrong_uid { OTHER_UID } else { RUN_UID }),
            expected_seq: Some(state.tail + u64::from(wrong_seq)),
            ..close_as(outcome)
        };
        let table = [
            (unspecified, "Invalid"),
            (deleted, "RunDeleted"),
            (wrong_uid, "RunReplaced"),
            (closed && !other, "the answer"),
            (closed, "Closed"),
            (wrong_seq, "SeqMismatch"),
            (true, "accepted"),
        ];
        let expected = table.iter().find(|(fails, _)| *fails).expect("a row").1;
        let found = match give(&mut state, |state| state.close(&close, &at(NOW))) {
            Ok(Decision::Accepted { .. }) => "accepted".into(),
            Ok(Decision::Duplicate(_)) => "the answer".into(),
            Err(refusal) => name_of(&refusal),
        };
        assert_eq!(found, expected, "closed {closed}: {close:?}");
    }
}

#[test]
fn the_first_check_of_a_stream_command_that_fails_decides() {
    for bits in 0..1u32 << 6 {
        let [nameless, deleted, wrong_uid, unknown, stream_closed, run_closed] =
            [0, 1, 2, 3, 4, 5].map(|bit| bits & 1 << bit != 0);
        let mut state = run();
        accepted(state.append(&append_to("out"), &at(NOW)));
        if stream_closed {
            accepted(state.close_stream(&close_stream("out"), &at(NOW)));
        }
        if run_closed {
            accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
        }
        if deleted {
            accepted(state.delete(&Delete::default(), &at(NOW)));
        }
        let stream: Arc<str> = match (nameless, unknown) {
            (true, _) => "$run".into(),
            (_, true) => "fresh".into(),
            _ => "out".into(),
        };
        let run_uid = Some(if wrong_uid { OTHER_UID } else { RUN_UID });
        let common = [
            (nameless, "Invalid"),
            (deleted, "RunDeleted"),
            (wrong_uid, "RunReplaced"),
            (unknown, "StreamNotFound"),
        ];
        let first = |rest: &[(bool, &'static str)]| {
            common.iter().chain(rest).find(|(fails, _)| *fails).expect("a row").1.to_string()
        };

        let close = CloseStream { run_uid, stream: stream.clone() };
        let found = match give(&mut state.clone(), |state| state.close_stream(&close, &at(NOW))) {
            Ok(Decision::Accepted { .. }) => "accepted".into(),
            Ok(Decision::Duplicate(_)) => "the answer".into(),
            Err(refusal) => name_of(&refusal),
        };
        let own = [(stream_closed, "the answer"), (run_closed, "Closed"), (true, "accepted")];
        assert_eq!(found, first(&own), "{bits:b}: {close:?}");

        for index in 0..3 {
            let trim = Trim { run_uid, stream: stream.clone(), trim: Index(index) };
            let found = match give(&mut state.clone(), |state| state.trim(&trim, &at(NOW))) {
                Ok(Decision::Accepted { .. }) => "accepted".into(),
                Ok(Decision::Duplicate(_)) => "the answer".into(),
                Err(refusal) => name_of(&refusal),
            };
            let own = [(index == 2, "BeyondTail"), (index == 0, "the answer"), (true, "accepted")];
            assert_eq!(found, first(&own), "{bits:b}: {trim:?}");
        }
    }
}

#[test]
fn the_first_check_of_a_deletion_that_fails_decides() {
    for bits in 0..1u32 << 3 {
        let [wrong_uid, deleted, closed] = [0, 1, 2].map(|bit| bits & 1 << bit != 0);
        let mut state = run();
        if closed {
            accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
        }
        if deleted {
            accepted(state.delete(&Delete::default(), &at(NOW)));
        }
        let delete = Delete { run_uid: Some(if wrong_uid { OTHER_UID } else { RUN_UID }) };
        let table = [(wrong_uid, "RunReplaced"), (deleted, "the answer"), (true, "accepted")];
        let expected = table.iter().find(|(fails, _)| *fails).expect("a row").1;
        let found = match give(&mut state, |state| state.delete(&delete, &at(NOW))) {
            Ok(Decision::Accepted { .. }) => "accepted".into(),
            Ok(Decision::Duplicate(_)) => "the answer".into(),
            Err(refusal) => name_of(&refusal),
        };
        assert_eq!(found, expected, "closed {closed}: {delete:?}");
    }
}

// Idempotency and fencing.

#[test]
fn a_repeated_append_is_answered_with_its_positions_while_they_are_remembered() {
    let last = PRODUCER_APPENDS_REMEMBERED as u64 + 9;
    let mut state = run();
    let nth =
        |seq: u64| Append { records: records(1 + seq as usize % 3), ..append_by("p", 1, seq) };
    let mut answers = Vec::new();
    for seq in 0..=last {
        // Others write in between.
        accepted(state.append(&append_by("other", 1, seq), &at(NOW + seq)));
        answers.push(accepted(state.append(&nth(seq), &at(NOW + seq))).1);
        // The newest is always repeated in full.
        let newest = Appended { deduplicated: true, ..answers[seq as usize] };
        assert_eq!(repeated(give(&mut state, |state| state.append(&nth(seq), &at(0)))), newest);
    }
    let check = |state: &mut RunState| {
        for (seq, answer) in (0..).zip(&answers) {
            let answer = Appended { deduplicated: true, ..*answer };
            let found = repeated(give(state, |state| state.append(&nth(seq), &at(NOW * 2))));
            if last - seq < PRODUCER_APPENDS_REMEMBERED as u64 {
                assert_eq!(found, answer, "append {seq}");
                // What the run's log was expected to be at then does not matter now.
                let again = Append { expected_seq: Some(Seq(0)), ..nth(seq) };
                assert_eq!(repeated(state.append(&again, &at(NOW))), answer);
            } else {
                assert!(found.deduplicated && found.positions_forgotten, "append {seq}");
                let positions = (found.first_seq, found.first_index, found.count, found.run_uid);
                assert_eq!(positions, (Seq(0), Index(0), answer.count, RUN_UID));
            }
        }
    };
    check(&mut state);
    accepted(state.close_stream(&close_stream("out"), &at(NOW)));
    check(&mut state);
    accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
    check(&mut state);
    let next = state.append(&nth(last + 1), &at(NOW));
    assert!(matches!(next, Err(Refusal::Closed { .. })), "{next:?}");
}

#[test]
fn producer_numbers_used_for_other_content_are_refused() {
    let record = NewRecord {
        data: Bytes::from_static(b"data"),
        headers: vec![Header { name: "name".into(), value: Bytes::from_static(b"value") }],
        id: "id".into(),
        client_time_ms: 5,
    };
    let original = Append { records: vec![record.clone()], ..append_by("p", 1, 0) };
    let mut state = run();
    accepted(state.append(&original, &at(NOW)));
    let header =
        |name: &str, value: &'static str| Header { name: name.into(), value: value.into() };
    let with = |headers: Vec<Header>| NewRecord { headers, ..record.clone() };
    for changed in [
        NewRecord { data: Bytes::from_static(b"datb"), ..record.clone() },
        NewRecord { data: Bytes::from_static(b"dat"), id: "aid".into(), ..record.clone() },
        NewRecord { data: Bytes::new(), ..record.clone() },
        NewRecord { id: "".into(), ..record.clone() },
        NewRecord { client_time_ms: 6, ..record.clone() },
        with(vec![]),
        with(vec![header("name", "valuf")]),
        with(vec![header("namev", "alue")]),
        with(vec![header("name", "value"); 2]),
    ] {
        let append = Append { records: vec![changed], ..original.clone() };
        let refused = give(&mut state, |state| state.append(&append, &at(NOW)));
        assert_eq!(refused, Err(Refusal::DedupMismatch), "{append:?}");
    }
    let twice = Append { records: vec![record.clone(); 2], ..original.clone() };
    assert_eq!(state.append(&twice, &at(NOW)), Err(Refusal::DedupMismatch));
    let elsewhere = Append { stream: "other".into(), ..original.clone() };
    assert_eq!(state.append(&elsewhere, &at(NOW)), Err(Refusal::DedupMismatch));
    repeated(state.append(&original, &at(NOW)));
}

#[test]
fn a_higher_epoch_fences_every_lower_one() {
    let mut state = run();
    for epoch in [0, 1, 7, u64::MAX] {
        for seq in 0..3 {
            accepted(state.append(&append_by("p", epoch, seq), &at(NOW)));
        }
        for (stale, seq) in [0, 1, 6, 7].into_iter().flat_map(|e| (0..5).map(move |s| (e, s))) {
            if stale < epoch {
                let refused =
                    give(&mut state, |state| state.append(&append_by("p", stale, seq), &at(NOW)));
                assert_eq!(refused, Err(Refusal::StaleEpoch { current: epoch }));
            }
        }
        for seq in 0..3 {
            repeated(state.append(&append_by("p", epoch, seq), &at(NOW)));
        }
    }
    // Another producer is not fenced.
    accepted(state.append(&append_by("q", 0, 0), &at(NOW)));
}

#[test]
fn a_new_epoch_remembers_nothing_of_the_old_one() {
    let mut state = run();
    for seq in 0..5 {
        accepted(state.append(&append_by("p", 0, seq), &at(NOW)));
    }
    let (_, first) = accepted(state.append(&append_by("p", 1, 0), &at(NOW)));
    assert_eq!(state.producers[0].recent.len(), 1);
    let next = give(&mut state, |state| state.append(&append_by("p", 1, 3), &at(NOW)));
    assert_eq!(next, Err(Refusal::ProducerGap { expected: 1 }));
    let again = repeated(state.append(&append_by("p", 1, 0), &at(NOW)));
    assert_eq!(again, Appended { deduplicated: true, ..first });
}

// Closing and trimming.

#[test]
fn a_close_repeated_is_answered_and_another_outcome_refused() {
    let close = Close {
        outcome: Outcome::Completed,
        output: Bytes::from_static(b"42"),
        output_type: "text/plain".into(),
        expected_seq: Some(Seq(2)),
        ..Close::default()
    };
    let mut state = run();
    accepted(state.append(&append_to("out"), &at(NOW)));
    let (frame, answer) = accepted(state.close(&close, &at(NOW + 1)));
    assert_eq!(answer, Closed { seq: Seq(2), deduplicated: false });
    assert_ne!(frame.header.flags & FLAG_CLOSES, 0);
    let ending = state.ending.clone().expect("ended");
    assert_eq!((ending.outcome, ending.seq, ending.time_ms), (Outcome::Completed, Seq(2), NOW + 1));
    assert_eq!((&ending.output[..], &ending.output_type[..]), (&b"42"[..], "text/plain"));
    for again in [close.clone(), close_as(Outcome::Completed)] {
        let answer = repeated(give(&mut state, |state| state.close(&again, &at(NOW + 2))));
        assert_eq!(answer, Closed { seq: Seq(2), deduplicated: true });
    }
    for outcome in [Outcome::Failed, Outcome::Canceled] {
        let refused = give(&mut state, |state| state.close(&close_as(outcome), &at(NOW)));
        let closed = Refusal::Closed {
            outcome: Some(Outcome::Completed),
            final_seq: Seq(3),
            final_index: None,
        };
        assert_eq!(refused, Err(closed));
    }
}

#[test]
fn a_closed_stream_takes_nothing_more_and_the_run_goes_on() {
    let mut state = run();
    accepted(state.append(&append_to("a"), &at(NOW)));
    accepted(state.append(&append_to("b"), &at(NOW)));
    let (_, end) = accepted(state.close_stream(&close_stream("a"), &at(NOW)));
    assert_eq!(end, StreamEnd { final_index: Index(1), deduplicated: false });
    let refused = give(&mut state, |state| state.append(&append_to("a"), &at(NOW)));
    assert!(matches!(refused, Err(Refusal::Closed { outcome: None, .. })), "{refused:?}");
    accepted(state.append(&append_to("b"), &at(NOW)));
    accepted(state.append(&append_to("c"), &at(NOW)));
    accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
    let end = repeated(give(&mut state, |state| state.close_stream(&close_stream("a"), &at(NOW))));
    assert_eq!(end, StreamEnd { final_index: Index(1), deduplicated: true });
    let refused = state.close_stream(&close_stream("b"), &at(NOW));
    assert!(matches!(refused, Err(Refusal::Closed { outcome: Some(_), .. })), "{refused:?}");
}

#[test]
fn a_trim_never_goes_back_and_never_beyond_the_tail() {
    let mut state = run();
    let append = Append { records: records(5), ..append_to("out") };
    accepted(state.append(&append, &at(NOW)));
    let out = StreamNo(1);
    for (to, holds) in [(0, 0), (3, 3), (2, 3), (3, 3), (0, 3), (5, 5), (4, 5)] {
        let (tail, chain) = (state.tail, state.records_chain);
        let decision = give(&mut state, |state| state.trim(&trim("out", to), &at(NOW)));
        let answer = match decision.expect("admitted") {
            Decision::Accepted { answer, .. } | Decision::Duplicate(answer) => answer,
        };
        assert_eq!((answer, state.stream(out).trim), (Index(holds), Index(holds)));
        assert_eq!((state.tail, state.records_chain), (tail, chain), "a trim writes no record");
    }
    for beyond in [6, u64::MAX] {
        let refused = give(&mut state, |state| state.trim(&trim("out", beyond), &at(NOW)));
        assert_eq!(refused, Err(Refusal::BeyondTail { tail: 5 }));
    }
    accepted(state.append(&append, &at(NOW)));
    accepted(state.close(&close_as(Outcome::Completed), &at(NOW)));
    assert_eq!(accepted(state.trim(&trim("out", 10), &at(NOW))).1, Index(10), "also when closed");
    assert_eq!(state.stream(out).tail, Index(10));
}

#[test]
fn the_time_of_a_run_never_goes_back() {
    let mut state = run();
    let mut latest = NOW;
    for now in [NOW + 9, NOW - 1, NOW + 3, 0, u64::MAX / 2, NOW] {
        latest = latest.max(now);
        let (frame, answer) = accepted(state.append(&append_to("out"), &at(now)));
        assert_eq!((answer.time_ms, frame.header.time_ms), (latest, latest));
        assert_eq!((decoded(&frame)[0].time_ms, state.updated_ms), (latest, latest));
    }
    let (frame, _) = accepted(state.trim(&trim("out", 1), &at(0)));
    assert_eq!(frame.header.time_ms, latest);
    let (frame, _) = accepted(state.close_stream(&close_stream("out"), &at(0)));
    assert_eq!((frame.header.time_ms, decoded(&frame)[0].time_ms), (latest, latest));
    let (frame, _) = accepted(state.close(&close_as(Outcome::Completed), &at(0)));
    assert_eq!(frame.header.time_ms, latest);
    assert_eq!(state.ending.expect("ended").time_ms, latest);
    assert_eq!(state.created_ms, NOW);
}

// Limits.

fn of_bytes(len: usize) -> NewRecord {
    NewRecord::new(vec![b'x'; len])
}

/// Demands that an append is accepted, or refused as too large with these numbers.
fn check_size(append: &Append, too_large: Option<(usize, usize)>) {
    let found = give(&mut run(), |state| state.append(append, &at(NOW)));
    match (found, too_large) {
        (Ok(Decision::Accepted { answer, .. }), None) => {
            assert_eq!(answer.count as usize, append.records.len());
        }
        (Err(Refusal::TooLarge { size, limit, .. }), Some(numbers)) => {
            assert_eq!((size as usize, limit as usize), numbers);
        }
        (found, _) => panic!("expected {too_large:?}: {}", name_of(&found.expect_err("refused"))),
    }
}

#[test]
fn sizes_are_allowed_up_to_their_limit_and_not_one_more() {
    let of = |records: Vec<NewRecord>| Append { records, ..append_to("out") };
    let header =
        |name: usize, value: usize| Header { name: "n".repeat(name), value: vec![0; value].into() };
    check_size(&of(vec![of_bytes(RECORD_BYTES_MAX)]), None);
    let over = Some((RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX));
    check_size(&of(vec![of_bytes(RECORD_BYTES_MAX + 1)]), over);

    // Names and values of headers count.
    let with = |len, headers| NewRecord { headers, ..of_bytes(len) };
    let nearly = RECORD_BYTES_MAX - 30;
    check_size(&of(vec![with(nearly, vec![header(10, 20)])]), None);
    check_size(&of(vec![with(nearly, vec![header(11, 20)])]), over);
    check_size(&of(vec![with(nearly, vec![header(10, 21)])]), over);

    let half = APPEND_BYTES_MAX / 2;
    check_size(&of(vec![of_bytes(half), of_bytes(half)]), None);
    let over = Some((APPEND_BYTES_MAX + 1, APPEND_BYTES_MAX));
    check_size(&of(vec![of_bytes(half), of_bytes(half + 1)]), over);

    check_size(&of(vec![of_bytes(0); APPEND_RECORDS_MAX]), None);
    let over = Some((APPEND_RECORDS_MAX + 1, APPEND_RECORDS_MAX));
    check_size(&of(vec![of_bytes(0); APPEND_RECORDS_MAX + 1]), over);

    check_size(&of(vec![with(1, vec![header(0, 0); HEADERS_MAX])]), None);
    let over = Some((HEADERS_MAX + 1, HEADERS_MAX));
    check_size(&of(vec![with(1, vec![header(0, 0); HEADERS_MAX + 1])]), over);
}

#[test]
fn the_largest_append_fits_a_frame() {
    // Every limit at once: records, headers, ids, bytes, and the longest numbers and names.
    let each = APPEND_BYTES_MAX / APPEND_RECORDS_MAX;
    let record = NewRecord {
        data: vec![0; each - 2 * HEADERS_MAX].into(),
        headers: vec![Header { name: "n".into(), value: vec![1].into() }; HEADERS_MAX],
        id: "i".repeat(ID_BYTES_MAX),
        client_time_ms: u64::MAX,
    };
    let append = Append {
        stream: "s".repeat(STREAM_NAME_BYTES_MAX).into(),
        records: vec![record; APPEND_RECORDS_MAX],
        producer: producer(&"p".repeat(ID_BYTES_MAX), u64::MAX, 0),
        ..Append::default()
    };
    let (frame, _) = accepted(run().append(&append, &at(u64::MAX)));
    assert!(frame.bytes().len() <= FRAME_BYTES_MAX);

    let text = "e".repeat(OUTPUT_BYTES_MAX);
    let close = Close {
        outcome: Outcome::Failed,
        output: vec![0; OUTPUT_BYTES_MAX].into(),
        output_type: "t".repeat(RUN_ID_BYTES_MAX),
        error: Some(RunError { stack_trace: text, ..RunError::default() }),
        ..Close::default()
    };
    let (frame, _) = accepted(run().close(&close, &at(u64::MAX)));
    assert!(frame.bytes().len() <= FRAME_BYTES_MAX);
}

#[test]
fn outputs_and_errors_are_allowed_up_to_their_limit_and_not_one_more() {
    let output = |len| Close { output: vec![0; len].into(), ..close_as(Outcome::Completed) };
    let error = |len: usize| {
        let [r#type, name, message] = ["t", "n", "m"].map(String::from);
        let stack_trace = "s".repeat(len - 3);
        let error = Some(RunError { r#type, name, message, stack_trace });
        Close { error, ..close_as(Outcome::Failed) }
    };
    let of_type = |output_type: String| Close { output_type, ..close_as(Outcome::Completed) };
    for fits in
        [output(OUTPUT_BYTES_MAX), error(OUTPUT_BYTES_MAX), of_type("t".repeat(RUN_ID_BYTES_MAX))]
    {
        accepted(run().close(&fits, &at(NOW)));
    }
    for over in [output(OUTPUT_BYTES_MAX + 1), error(OUTPUT_BYTES_MAX + 1)] {
        let refused = give(&mut run(), |state| state.close(&over, &at(NOW)));
        let limit = OUTPUT_BYTES_MAX as u64;
        assert!(
            matches!(refused, Err(Refusal::TooLarge { size, limit: l, .. }) if size == limit + 1 && l == limit)
        );
    }
    for unusable in [of_type("t".repeat(RUN_ID_BYTES_MAX + 1)), of_type("a\nb".into())] {
        let refused = give(&mut run(), |state| state.close(&unusable, &at(NOW)));
        assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{refused:?}");
    }
}

#[test]
fn a_run_has_streams_and_producers_up_to_their_limit_and_not_one_more() {
    let mut state = crowded(Stands::Open, true, true);
    assert_eq!((state.streams.len(), state.producers.len()), (256, 256));
    let limit = 256;
    let refused = give(&mut state, |state| state.append(&append_to("fresh"), &at(NOW)));
    assert_eq!(refused, Err(Refusal::Limit { which: "streams per run".into(), limit }));
    let refused = give(&mut state, |state| state.append(&append_by("fresh", 0, 0), &at(NOW)));
    assert_eq!(refused, Err(Refusal::Limit { which: "producers per run".into(), limit }));
    // What exists goes on.
    accepted(state.append(&append_to("s255"), &at(NOW)));
    accepted(state.append(&append_by("p255", 0, 1), &at(NOW)));
    accepted(state.append(&append_by("p255", 1, 0), &at(NOW)));
}

#[test]
fn names_are_one_to_512_bytes_without_control_characters_or_a_dollar() {
    let max = STREAM_NAME_BYTES_MAX;
    let good = ["a".into(), "a$".into(), "ä/ö ü".into(), "x".repeat(max), "ä".repeat(max / 2)];
    let bad =
        ["".into(), "$run".into(), "$x".into(), "a\nb".into(), "\u{7f}".into(), "\u{85}".into()];
    let long = ["x".repeat(max + 1), format!("{}x", "ä".repeat(max / 2))];
    let own = |run_id: &str, task: &str| {
        RunState::create(&named(run_id, task), NewRun { run_no: RunNo(1), run_uid: RUN_UID }, NOW)
    };
    let create = |run_id: &str, task: &str| {
        named(run_id, task).check_not_reserved().and_then(|()| own(run_id, task))
    };
    let field = |refusal: Refusal| match refusal {
        Refusal::Invalid { field, .. } => field,
        other => panic!("{other:?}"),
    };
    for name in &good {
        accepted(run().append(&append_to(name), &at(NOW)));
        create(name, name).expect("created");
    }
    for name in bad.iter().chain(&long) {
        let mut state = run();
        let refused = give(&mut state, |state| state.append(&append_to(name), &at(NOW)));
        assert_eq!(field(refused.expect_err("refused")), "stream", "{name}");
        let refused = give(&mut state, |state| state.close_stream(&close_stream(name), &at(NOW)));
        assert_eq!(field(refused.expect_err("refused")), "stream", "{name}");
        let refused = give(&mut state, |state| state.trim(&trim(name, 0), &at(NOW)));
        assert_eq!(field(refused.expect_err("refused")), "stream", "{name}");
        let refused = give(&mut state, |state| state.append(&append_by(name, 0, 0), &at(NOW)));
        assert_eq!(field(refused.expect_err("refused")), "producer.id", "{name}");
        assert_eq!(field(create(name, "").expect_err("refused")), "run_id", "{name}");
    }
    create("run", "").expect("a task may be empty");
    assert_eq!(field(create("run", "$x").expect_err("refused")), "task");
    own("$run", "$x").expect("of the store's own");
    for task in [&"x".repeat(max + 1), "a\0b"] {
        assert_eq!(field(create("run", task).expect_err("refused")), "task");
    }
    accepted(run().append(&append_by(&"p".repeat(ID_BYTES_MAX), 0, 0), &at(NOW)));
    let refused = run().append(&append_by(&"p".repeat(ID_BYTES_MAX + 1), 0, 0), &at(NOW));
    assert_eq!(field(refused.expect_err("refused")), "producer.id");
    for (id, fits) in [("", true), ("$", true), ("a\tb", false)] {
        let record = NewRecord { id: id.into(), ..of_bytes(1) };
        let append = Append { records: vec![record], ..append_to("out") };
        assert_eq!(
            run().append(&append, &at(NOW)).map_err(field).err(),
            (!fits).then_some("records.id".into())
        );
    }
}

#[test]
fn what_no_command_can_mean_is_refused() {
    for append in [Append { records: vec![], ..append_to("out") }, append_by("p", 0, u64::MAX)] {
        let refused = give(&mut run(), |state| state.append(&append, &at(NOW)));
        assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{refused:?}");
    }
}

#[test]
fn creating_a_run_again_is_a_repetition_only_with_the_same_parameters() {
    let labelled = Create {
        tags: vec!["a".into(), "b".into()],
        batch: "batch".into(),
        retention: Some(Retention { bytes: Some(9), ..Retention::default() }),
        ..named("run", "task")
    };
    let of = |change: fn(&mut Create)| {
        let mut create = labelled.clone();
        change(&mut create);
        create
    };
    let others = [
        of(|create| create.task = "other".into()),
        of(|create| create.tags = vec!["b".into(), "a".into()]),
        of(|create| create.tags.clear()),
        of(|create| create.batch = "".into()),
        of(|create| create.retention = None),
        of(|create| create.retention = Some(Retention::default())),
    ];
    let (state, _, _) = RunState::create(&labelled, FIRST, NOW).expect("created");
    assert_eq!(labelled.check_same(&state), Ok(()));
    for other in &others {
        assert_eq!(other.check_same(&state), Err(Refusal::RunExists), "{other:?}");
        let (state, _, _) = RunState::create(other, FIRST, NOW).expect("created");
        assert_eq!(labelled.check_same(&state), Err(Refusal::RunExists), "{other:?}");
    }
}

#[test]
fn labels_are_kept_as_given_up_to_their_limits_and_not_one_more() {
    let tag = |n: usize| Arc::from(format!("{n:0TAG_BYTES_MAX$}"));
    let full = Create {
        namespace: "n".repeat(RUN_ID_BYTES_MAX).into(),
        tags: (0..TAGS_PER_RUN_MAX).map(tag).collect(),
        batch: "ä".repeat(BATCH_BYTES_MAX / 2).into(),
        retention: Some(Retention {
            age_ms: Some(u64::MAX),
            bytes: Some(u64::MAX),
            records: Some(1),
            at_limit: AtLimit::TrimOldest,
        }),
        ..named(&"r".repeat(RUN_ID_BYTES_MAX), &"t".repeat(RUN_ID_BYTES_MAX))
    };
    let (state, frame, _) = RunState::create(&full, FIRST, u64::MAX / 2).expect("created");
    assert!(frame.bytes().len() <= full.frame_bytes_max());
    let RunState { tags, batch, retention, .. } = &state;
    assert_eq!((tags, batch, *retention), (&full.tags, &full.batch, full.retention));

    let refused = |change: fn(&mut Create)| {
        let mut create = named("run", "");
        change(&mut create);
        match RunState::create(&create, FIRST, NOW).expect_err("refused") {
            Refusal::Invalid { field, .. } => field,
            Refusal::TooLarge { what, .. } => what,
            other => panic!("{other:?}"),
        }
    };
    let many = |create: &mut Create| {
        create.tags = (0..=TAGS_PER_RUN_MAX).map(|n| n.to_string().into()).collect();
    };
    assert_eq!(refused(many), "run (tags)");
    assert_eq!(refused(|create| create.tags = vec!["".into()]), "tags");
    assert_eq!(refused(|create| create.tags = vec!["a\n".into()]), "tags");
    assert_eq!(refused(|create| create.tags = vec!["a".into(), "b".into(), "a".into()]), "tags");
    assert_eq!(refused(|create| create.tags = vec!["x".repeat(TAG_BYTES_MAX + 1).into()]), "tags");
    assert_eq!(refused(|create| create.batch = "x".repeat(BATCH_BYTES_MAX + 1).into()), "batch_id");
    assert_eq!(refused(|create| create.batch = "\u{7f}".into()), "batch_id");
    const NO_BYTES: Retention =
        Retention { age_ms: None, bytes: Some(0), records: None, at_limit: AtLimit::Reject };
    const NO_RECORDS: Retention = Retention { bytes: None, records: Some(0), ..NO_BYTES };
    assert_eq!(refused(|create| create.retention = Some(NO_BYTES)), "retention.bytes");
    assert_eq!(refused(|create| create.retention = Some(NO_RECORDS)), "retention.records");
}

// Replay.

/// A run with a frame of every sort, and its state before each of them; the first is of the run
/// as created.
fn lived(run_no: u64, run_uid: RunUid) -> (Vec<Frame>, Vec<RunState>) {
    let (mut state, first) = create_with(run_no, run_uid);
    let (mut frames, mut states) = (vec![first], vec![state.clone()]);
    let mut keep = |frame: Frame, state: &RunState| {
        frames.push(frame);
        states.push(state.clone());
    };
    for append in [
        append_to("a"),
        Append { records: records(3), ..append_to("b") },
        append_by("p", 1, 0),
        append_by("p", 1, 1),
        append_by("p", 2, 0),
        append_to("a"),
    ] {
        keep(accepted(state.append(&append, &at(NOW))).0, &state);
    }
    keep(accepted(state.trim(&trim("b", 2), &at(NOW))).0, &state);
    keep(accepted(state.close_stream(&close_stream("b"), &at(NOW))).0, &state);
    keep(accepted(state.close(&close_as(Outcome::Failed), &at(NOW))).0, &state);
    keep(accepted(state.trim(&trim("b", 3), &at(NOW))).0, &state);
    keep(accepted(state.delete(&Delete::default(), &at(NOW))).0, &state);
    (frames, states)
}

fn refuses(state: &RunState, frame: &Frame) -> Damage {
    let mut replayed = state.clone();
    let damage = replayed.replay(frame).expect_err("a frame that does not fit");
    assert_eq!(&replayed, state, "{damage}: changed");
    damage
}

#[test]
fn the_frames_of_a_run_rebuild_its_state_in_their_order_and_no_other() {
    let (frames, states) = lived(5, RUN_UID);
    assert_eq!(begin(&frames[0]), Ok(states[0].clone()));
    for (at, state) in states.iter().enumerate() {
        for (n, frame) in frames.iter().enumerate() {
            if n == at + 1 {
                let mut replayed = state.clone();
                replayed.replay(frame).expect("fits");
                assert_eq!(replayed, states[n]);
            } else {
                // Twice, an older one, or one skipped.
                refuses(state, frame);
            }
        }
    }
    for frame in &frames[1..] {
        begin(frame).expect_err("not the first frame");
    }
}

#[test]
fn a_frame_of_another_run_is_damage() {
    let (_, states) = lived(5, RUN_UID);
    for (run_no, run_uid) in [(6, RUN_UID), (5, OTHER_UID), (6, OTHER_UID)] {
        let (others, _) = lived(run_no, run_uid);
        for state in &states {
            others.iter().for_each(|frame| _ = refuses(state, frame));
        }
    }
}

#[test]
fn a_frame_with_any_byte_changed_is_damage() {
    let (frames, states) = lived(5, RUN_UID);
    for (state, frame) in states.iter().zip(&frames[1..]) {
        for at in 0..frame.bytes().len() {
            let mut bytes = frame.bytes().to_vec();
            bytes[at] ^= 0x40;
            if let Ok(frame) = Frame::decode(&bytes.into()) {
                assert_eq!(refuses(state, &frame), Damage::Chain, "byte {at}");
            }
        }
    }
}

/// Puts a frame together that links to the state, whatever it says.
fn forge(
    state: &RunState,
    flags: u8,
    records: &[(u32, u64, u64, Option<event::Event>)],
    effects: &Effects,
) -> Frame {
    let mut builder = FrameBuilder::new(0);
    for (stream, seq, index, event) in records {
        let event = event.clone().map(|event| Event { event: Some(event) });
        builder.record(&RecordFields {
            stream: StreamNo(*stream),
            seq: Seq(*seq),
            index: Index(*index),
            time_ms: NOW,
            kind: Kind::Chunk,
            headers: &[],
            id: "",
            client_time_ms: 0,
            event: event.as_ref(),
            data: b"data",
        });
    }
    let place = FramePlace {
        run_no: state.run_no,
        first_seq: state.tail,
        time_ms: NOW,
        flags,
        chain: state.chain,
    };
    builder.finish(&place, effects)
}

/// The frame with the number of its records changed and its CRC and chain made to hold.
fn miscounted(state: &RunState, frame: &Frame, count: u32) -> Frame {
    let mut bytes = frame.bytes().to_vec();
    bytes[32..36].copy_from_slice(&count.to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..4]);
    sum.update(&bytes[12..]);
    let crc = sum.finalize();
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes[8..12].copy_from_slice(&state.chain.link(crc).0.to_le_bytes());
    Frame::decode(&bytes.into()).expect("sound")
}

#[test]
fn a_frame_that_links_but_does_not_continue_the_numbers_is_damage() {
    // Streams $run, a, b; tails 1, 2, 5; one producer.
    let mut state = run();
    accepted(state.append(&Append { records: records(2), ..append_to("a") }, &at(NOW)));
    accepted(state.append(&Append { records: records(5), ..append_by("p", 0, 0) }, &at(NOW)));
    assert_eq!(state.tail, Seq(8));
    let opened =
        |stream| StreamOpened { stream, name: "new".into(), kind: StreamKind::Output.into() };
    let opens = |streams: &[u32]| Effects {
        streams_opened: streams.iter().copied().map(opened).collect(),
        ..Effects::default()
    };
    let advances = |r#ref| Effects {
        producer: Some(ProducerAdvanced { r#ref, ..ProducerAdvanced::default() }),
        ..Effects::default()
    };
    let numbers = |r#ref, epoch, seq| Effects {
        producer: Some(ProducerAdvanced { r#ref, epoch, seq, ..ProducerAdvanced::default() }),
        ..Effects::default()
    };
    let trims = |stream, trim| Effects {
        streams_trimmed: vec![StreamTrimmed { stream, trim }],
        ..Effects::default()
    };
    let none = Effects::default();
    let deletes = Effects { deleted: true, ..Effects::default() };
    let homes = Effects { home: Some(u64::MAX), ..Effects::default() };
    let ends_as = |outcome: Outcome| {
        let closed = RunClosed { outcome: outcome.into(), ..RunClosed::default() };
        Some(event::Event::RunClosed(closed))
    };
    let ends = || ends_as(Outcome::Failed);
    let ends_stream = |stream| Some(event::Event::StreamClosed(StreamClosed { stream }));

    let fits = [
        forge(&state, 0, &[(1, 8, 2, None), (2, 9, 5, None), (1, 10, 3, None)], &none),
        forge(&state, 0, &[(3, 8, 0, None), (4, 9, 0, None)], &opens(&[3, 4])),
        forge(&state, 0, &[], &advances(1)),
        forge(&state, 0, &[], &trims(2, 5)),
        forge(&state, FLAG_CLOSES, &[(0, 8, 1, ends())], &none),
        forge(&state, 0, &[(0, 8, 1, ends_stream(2))], &none),
        forge(&state, 0, &[], &deletes),
        forge(&state, 0, &[(1, 8, 2, None)], &homes),
    ];
    for frame in &fits {
        state.clone().replay(frame).expect("the control fits");
    }
    let numbering = [
        ("first seq behind", forge(&RunState { tail: Seq(7), ..state.clone() }, 0, &[], &none)),
        ("first seq ahead", forge(&RunState { tail: Seq(9), ..state.clone() }, 0, &[], &none)),
        ("seq behind", forge(&state, 0, &[(1, 7, 2, None)], &none)),
        ("seq ahead", forge(&state, 0, &[(1, 9, 2, None)], &none)),
        ("seq skipped", forge(&state, 0, &[(1, 8, 2, None), (1, 10, 3, None)], &none)),
        ("index behind", forge(&state, 0, &[(1, 8, 1, None)], &none)),
        ("index ahead", forge(&state, 0, &[(1, 8, 3, None)], &none)),
        ("index repeated", forge(&state, 0, &[(1, 8, 2, None), (1, 9, 2, None)], &none)),
        ("index of another", forge(&state, 0, &[(1, 8, 2, None), (2, 9, 3, None)], &none)),
        ("stream never opened", forge(&state, 0, &[(3, 8, 0, None)], &none)),
        ("stream beyond the opened", forge(&state, 0, &[(4, 8, 0, None)], &opens(&[3]))),
        ("stream not from 0", forge(&state, 0, &[(3, 8, 1, None)], &opens(&[3]))),
        ("opened twice", forge(&state, 0, &[], &opens(&[2]))),
        ("opened with a gap", forge(&state, 0, &[], &opens(&[4]))),
        ("opened out of order", forge(&state, 0, &[], &opens(&[4, 3]))),
        ("producer with a gap", forge(&state, 0, &[], &advances(2))),
        ("new producer not from 0", forge(&state, 0, &[], &numbers(1, 0, 1))),
        ("new epoch not from 0", forge(&state, 0, &[], &numbers(0, 1, 1))),
        ("producer seq again", forge(&state, 0, &[], &numbers(0, 0, 0))),
        ("producer seq skipped", forge(&state, 0, &[], &numbers(0, 0, 2))),
        ("trims beyond the tail", forge(&state, 0, &[], &trims(2, 6))),
        ("trims an unknown stream", forge(&state, 0, &[], &trims(3, 0))),
        ("closes an unknown stream", forge(&state, 0, &[(0, 8, 1, ends_stream(3))], &none)),
        ("fewer records than counted", miscounted(&state, &fits[0], 4)),
        ("more records than counted", miscounted(&state, &fits[0], 2)),
    ];
    for (what, frame) in &numbering {
        let damage = refuses(&state, frame);
        let named = matches!(damage, Damage::Numbering { .. } | Damage::Unknown { .. });
        assert!(named, "{what}: {damage:?}");
    }
    let creates_again = Some(event::Event::RunCreated(RunCreated::default()));
    let unfit = [
        ("says it closes, but does not", forge(&state, FLAG_CLOSES, &[(1, 8, 2, None)], &none)),
        ("closes, but does not say so", forge(&state, 0, &[(0, 8, 1, ends())], &none)),
        (
            "closes as nothing",
            forge(&state, FLAG_CLOSES, &[(0, 8, 1, ends_as(Outcome::Unspecified))], &none),
        ),
        ("creates it again", forge(&state, 0, &[(0, 8, 1, creates_again)], &none)),
        ("is first again", forge(&state, FLAG_FIRST, &[(1, 8, 2, None)], &none)),
        ("a stub", forge(&state, FLAG_STUB, &[], &none)),
        ("deletes with a record", forge(&state, 0, &[(1, 8, 2, None)], &deletes)),
        ("deletes and trims", forge(&state, 0, &[], &Effects { deleted: true, ..trims(2, 5) })),
    ];
    for (what, frame) in &unfit {
        let damage = refuses(&state, frame);
        assert!(!matches!(damage, Damage::Chain | Damage::Numbering { .. }), "{what}: {damage:?}");
    }
    let mut ended = state.clone();
    ended.replay(&forge(&ended, FLAG_CLOSES, &[(0, 8, 1, ends())], &none)).expect("fits");
    for (what, frame) in [
        ("closes twice", forge(&ended, FLAG_CLOSES, &[(0, 9, 2, ends())], &none)),
        ("appends after the end", forge(&ended, 0, &[(1, 9, 2, None)], &none)),
    ] {
        assert_eq!(refuses(&ended, &frame), Damage::Message { what: "closing frame" }, "{what}");
    }
    let mut deleted = state.clone();
    deleted.replay(&forge(&deleted, 0, &[], &deletes)).expect("fits");
    for frame in [
        forge(&deleted, 0, &[(1, 8, 2, None)], &none),
        forge(&deleted, FLAG_CLOSES, &[(0, 8, 1, ends())], &none),
        forge(&deleted, 0, &[], &trims(2, 5)),
        forge(&deleted, 0, &[], &deletes),
    ] {
        assert_eq!(refuses(&deleted, &frame), Damage::Message { what: "frame of a deleted run" });
    }
    let mut trimmed = state.clone();
    for (to, holds) in [(4, 4), (2, 4)] {
        trimmed.replay(&forge(&trimmed, 0, &[], &trims(2, to))).expect("fits");
        assert_eq!(trimmed.stream(StreamNo(2)).trim, Index(holds), "trims never go back");
    }
    let (_, first) = create();
    let not_first = forge(&state, FLAG_FIRST, &[(1, 8, 2, None)], &none);
    begin(&not_first).expect_err("does not create a run");
    let mut bytes = first.bytes().to_vec();
    bytes[8] ^= 1;
    let unlinked = Frame::decode(&bytes.into()).expect("sound");
    assert_eq!(begin(&unlinked), Err(Damage::Chain));
    assert_eq!(run().chain, Chain::start(RUN_UID).link(first.header.crc));
}

// Random commands against a model.

#[derive(Debug, Clone)]
enum Command {
    /// `behind`: how far the producer's number is behind the one that comes next, 0 mostly.
    Append {
        stream: usize,
        records: Vec<u8>,
        by: Option<(usize, u64, i64)>,
        expect: Option<bool>,
    },
    Repeat {
        nth: usize,
    },
    CloseStream {
        stream: usize,
    },
    Trim {
        stream: usize,
        trim: u64,
    },
    Close {
        outcome: usize,
    },
    Delete,
}

/// A command, when it is given, and how many records may then be kept.
type Given = (Command, u64, Option<u64>);

const STREAMS: [&str; 4] = ["a", "b", "c", "d"];
const PRODUCERS: [&str; 3] = ["p", "q", "r"];
const OUTCOMES: [Outcome; 3] = [Outcome::Completed, Outcome::Failed, Outcome::Canceled];

fn commands() -> impl Strategy<Value = Vec<Given>> {
    let stream = || 0..STREAMS.len();
    let behind = prop_oneof![8 => Just(0), 2 => -2..4i64];
    let by = proptest::option::of((0..PRODUCERS.len(), 0..3u64, behind));
    let expect = proptest::option::of(proptest::bool::weighted(0.8));
    let append = (stream(), vec(any::<u8>(), 1..5), by, expect)
        .prop_map(|(stream, records, by, expect)| Command::Append { stream, records, by, expect });
    let command = prop_oneof![
        80 => append,
        24 => any::<usize>().prop_map(|nth| Command::Repeat { nth }),
        4 => stream().prop_map(|stream| Command::CloseStream { stream }),
        16 => (stream(), 0..12u64).prop_map(|(stream, trim)| Command::Trim { stream, trim }),
        4 => (0..OUTCOMES.len()).prop_map(|outcome| Command::Close { outcome }),
        1 => Just(Command::Delete),
    ];
    vec((command, NOW..NOW + 50, proptest::option::weighted(0.2, 0..60u64)), 1..120)
}

/// All that a run is to its readers and writers, as lists.
#[derive(Default)]
struct Model {
    /// The log: stream name and body of each record.
    log: Vec<(String, Vec<u8>)>,
    /// First index kept, by stream.
    trims: HashMap<String, u64>,
    /// Streams closed by themselves.
    closed: Vec<String>,
    outcome: Option<Outcome>,
    deleted_ms: Option<u64>,
    /// Newest epoch and how many appends of it there are, by producer.
    epochs: HashMap<String, (u64, u64)>,
    /// Every append that was acknowledged to a producer.
    acknowledged: Vec<(Append, Appended)>,
    latest_ms: u64,
}

impl Model {
    fn len(&self, stream: &str) -> u64 {
        self.log.iter().filter(|(name, _)| name == stream).count() as u64
    }

    fn exists(&self, stream: &str) -> bool {
        0 < self.len(stream)
    }

    /// Records of streams that callers write to, less those that are trimmed.
    fn kept(&self) -> u64 {
        let written = self.log.iter().filter(|(name, _)| name != "$run").count() as u64;
        written - self.trims.values().sum::<u64>()
    }

    /// Whether the append must be taken, and where its records then are.
    fn admits(&self, append: &Append, limit: Option<u64>) -> bool {
        let stream = &*append.stream;
        let open = self.outcome.is_none() && !self.closed.iter().any(|name| name == stream);
        let in_place = append.expected_seq.is_none_or(|seq| seq.0 == self.log.len() as u64)
            && append.expected_index.is_none_or(|index| index.0 == self.len(stream));
        let in_order =
            append.producer.as_ref().is_none_or(|producer| match self.epochs.get(&*producer.id) {
                Some(&(epoch, next)) if epoch == producer.epoch => producer.seq == next,
                Some(&(epoch, _)) => epoch < producer.epoch && producer.seq == 0,
                None => producer.seq == 0,
            });
        let kept = self.kept() + append.records.len() as u64;
        open && in_place && in_order && limit.is_none_or(|limit| kept <= limit)
    }

    fn apply(&mut self, append: &Append, now_ms: u64) -> Appended {
        self.latest_ms = self.latest_ms.max(now_ms);
        let answer = Appended {
            run_uid: RUN_UID,
            first_seq: Seq(self.log.len() as u64),
            first_index: Index(self.len(&append.stream)),
            count: append.records.len() as u32,
            time_ms: self.latest_ms,
            deduplicated: false,
            positions_forgotten: false,
        };
        for record in &append.records {
            self.log.push((append.stream.to_string(), record.data.to_vec()));
        }
        if let Some(producer) = &append.producer {
            self.epochs.insert(producer.id.to_string(), (producer.epoch, producer.seq + 1));
            self.acknowledged.push((append.clone(), answer));
        }
        answer
    }

    /// A lifecycle record.
    fn event(&mut self, now_ms: u64) {
        self.latest_ms = self.latest_ms.max(now_ms);
        self.log.push(("$run".into(), vec![]));
    }
}

/// The state under test, one rebuilt from its frames alone, and the model.
struct Trio {
    state: RunState,
    replayed: RunState,
    frames: Vec<Frame>,
    model: Model,
}

impl Trio {
    fn new() -> Self {
        let (state, first) = create();
        let replayed = begin(&first).expect("begins");
        let mut model = Model::default();
        model.event(NOW);
        Self { state, replayed, frames: vec![first], model }
    }

    /// Gives a command; the answer with whether it was a repetition, if it was not refused.
    fn give<R>(
        &mut self,
        command: impl FnOnce(&mut RunState) -> Result<Decision<R>, Refusal>,
    ) -> Result<(R, bool), Refusal> {
        match give(&mut self.state, command)? {
            Decision::Accepted { frame, answer, .. } => {
                let frame = Frame::decode(frame.bytes()).expect("sound");
                self.replayed.replay(&frame).expect("fits");
                assert_eq!(self.replayed, self.state);
                self.frames.push(frame);
                Ok((answer, false))
            }
            Decision::Duplicate(answer) => Ok((answer, true)),
        }
    }

    fn append(&mut self, append: &Append, now_ms: u64, limit: Option<u64>) {
        let limits = Limits { records: limit, ..Limits::default() };
        let context = Context { limits, ..at(now_ms) };
        if self.model.deleted_ms.is_some() {
            let refused = self.give(|state| state.append(append, &context));
            return assert_eq!(refused, Err(Refusal::RunDeleted));
        }
        let known = append.producer.as_ref().and_then(|producer| {
            let same = |(known, _): &&(Append, Appended)| {
                known.producer.as_ref() == Some(producer)
                    && self.model.epochs[&*producer.id].0 == producer.epoch
            };
            self.model.acknowledged.iter().find(same).cloned()
        });
        let found = self.give(|state| state.append(append, &context));
        let Some((original, answer)) = known else {
            match found {
                Ok((found, repeated)) => {
                    assert!(self.model.admits(append, limit), "admitted: {append:?}");
                    assert!(!repeated, "never applied before: {append:?}");
                    assert_eq!(found, self.model.apply(append, now_ms));
                }
                Err(refusal) => {
                    assert!(!self.model.admits(append, limit), "{refusal}: {append:?}");
                }
            }
            return;
        };
        if original.stream == append.stream && original.records == append.records {
            let expected = Appended { deduplicated: true, ..answer };
            assert_eq!(found, Ok((expected, true)), "{append:?}");
        } else {
            assert_eq!(found, Err(Refusal::DedupMismatch), "{append:?}");
        }
    }

    fn obey(&mut self, (command, now_ms, limit): &Given) {
        let (now_ms, limit) = (*now_ms, *limit);
        let deleted = self.model.deleted_ms.is_some();
        match command {
            Command::Append { stream, records, by, expect } => {
                let stream = STREAMS[*stream];
                let tail = Seq(self.model.log.len() as u64);
                let producer = by.map(|(id, epoch, behind)| {
                    let id = PRODUCERS[id];
                    let known = self.model.epochs.get(id).filter(|(known, _)| *known == epoch);
                    let next = known.map_or(0, |(_, next)| *next);
                    Producer { id: id.into(), epoch, seq: next.saturating_add_signed(-behind) }
                });
                let append = Append {
                    run_uid: Some(RUN_UID),
                    stream: stream.into(),
                    records: records.iter().map(|&byte| NewRecord::new(vec![byte; 3])).collect(),
                    expected_seq: expect.map(|right| if right { tail } else { Seq(0) }),
                    expected_index: expect.map(|_| Index(self.model.len(stream))),
                    producer,
                    ..Append::default()
                };
                self.append(&append, now_ms, limit);
            }
            Command::Repeat { nth } if !self.model.acknowledged.is_empty() => {
                let nth = nth % self.model.acknowledged.len();
                let (append, _) = self.model.acknowledged[nth].clone();
                self.append(&append, now_ms, limit);
            }
            Command::Repeat { .. } => {}
            Command::CloseStream { stream } => {
                let name = STREAMS[*stream];
                let closed = self.model.closed.iter().any(|closed| closed == name);
                let end = |deduplicated| StreamEnd {
                    final_index: Index(self.model.len(name)),
                    deduplicated,
                };
                let expected = match (self.model.exists(name), closed, self.model.outcome) {
                    _ if deleted => None,
                    (false, ..) => None,
                    (_, true, _) => Some((end(true), true)),
                    (_, _, Some(_)) => None,
                    _ => Some((end(false), false)),
                };
                let found =
                    self.give(|state| state.close_stream(&close_stream(name), &at(now_ms))).ok();
                assert_eq!(found, expected);
                if found.is_some_and(|(_, repeated)| !repeated) {
                    self.model.closed.push(name.into());
                    self.model.event(now_ms);
                }
            }
            Command::Trim { stream, trim: to } => {
                let name = STREAMS[*stream];
                let held = self.model.trims.get(name).copied().unwrap_or(0);
                let allowed = !deleted && self.model.exists(name) && *to <= self.model.len(name);
                let expected = allowed.then(|| (Index(held.max(*to)), *to <= held));
                let found = self.give(|state| state.trim(&trim(name, *to), &at(now_ms))).ok();
                assert_eq!(found, expected);
                if let Some((trim, false)) = found {
                    self.model.trims.insert(name.into(), trim.0);
                    self.model.latest_ms = self.model.latest_ms.max(now_ms);
                }
            }
            Command::Close { outcome } => {
                let outcome = OUTCOMES[*outcome];
                let tail = self.model.log.len() as u64;
                let expected = match self.model.outcome {
                    _ if deleted => None,
                    None => Some((Closed { seq: Seq(tail), deduplicated: false }, false)),
                    Some(known) if known == outcome => {
                        let ended = self.state.ending.as_ref().expect("ended").seq;
                        Some((Closed { seq: ended, deduplicated: true }, true))
                    }
                    Some(_) => None,
                };
                let found = self.give(|state| state.close(&close_as(outcome), &at(now_ms))).ok();
                assert_eq!(found, expected);
                if found.is_some_and(|(_, repeated)| !repeated) {
                    self.model.outcome = Some(outcome);
                    self.model.event(now_ms);
                }
            }
            Command::Delete => {
                let latest_ms = self.model.latest_ms.max(now_ms);
                let deleted_ms = self.model.deleted_ms.unwrap_or(latest_ms);
                let answer = Deleted { deleted_ms, deduplicated: deleted };
                let found = self.give(|state| state.delete(&Delete::default(), &at(now_ms)));
                assert_eq!(found, Ok((answer, deleted)));
                if !deleted {
                    (self.model.deleted_ms, self.model.latest_ms) = (Some(deleted_ms), latest_ms);
                }
            }
        }
    }

    /// Holds the state and all frames to the model.
    fn check(&self) {
        let Self { state, frames, model, .. } = self;
        assert_eq!(state.tail.0, model.log.len() as u64);
        assert_eq!(state.ending.as_ref().map(|ending| ending.outcome), model.outcome);
        assert_eq!(state.updated_ms, model.latest_ms);
        assert_eq!(state.deleted_ms, model.deleted_ms);
        assert_eq!((state.kept_records(), state.frames), (model.kept(), frames.len() as u64));
        for stream in &state.streams {
            assert_eq!(stream.tail.0, model.len(&stream.name), "{}", stream.name);
            assert_eq!(stream.trim.0, model.trims.get(&*stream.name).copied().unwrap_or(0));
            assert!(stream.trim <= stream.tail);
        }
        let records: Vec<_> = frames.iter().flat_map(decoded).collect();
        assert_eq!(records.len(), model.log.len());
        let mut tails = HashMap::<u32, u64>::new();
        let mut time_ms = 0;
        for ((n, record), (name, data)) in (0u64..).zip(&records).zip(&model.log) {
            let index = tails.entry(record.stream).or_default();
            assert_eq!((record.seq, record.index), (n, *index));
            assert_eq!(*state.streams[record.stream as usize].name, **name);
            assert_eq!(record.data, *data);
            assert!(time_ms <= record.time_ms, "time went back at {n}");
            time_ms = record.time_ms;
            *index += 1;
        }
    }
}

proptest! {
    #[test]
    fn random_commands_do_what_lists_do_and_their_frames_rebuild_the_state(
        commands in commands(),
    ) {
        let mut trio = Trio::new();
        commands.iter().for_each(|given| trio.obey(given));
        trio.check();
    }

    #[test]
    fn a_run_goes_on_after_replay_as_if_nothing_had_happened(
        commands in commands(), more in commands(),
    ) {
        let mut trio = Trio::new();
        commands.iter().for_each(|given| trio.obey(given));
        trio.state = begin(&trio.frames[0]).expect("begins");
        for frame in &trio.frames[1..] {
            trio.state.replay(frame).expect("fits");
        }
        prop_assert_eq!(&trio.state, &trio.replayed);
        more.iter().for_each(|given| trio.obey(given));
        trio.check();
    }
}
