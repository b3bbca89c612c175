//! Replay: a frame that links fits and is counted, or is damage and changes nothing; whatever
//! state results, commands on it are answered.
//!
//! The input is a list of frames, each behind its length in two bytes, made to link.

#![no_main]

use std::sync::Arc;

use braidlog::{
    core::{
        Append, Close, CloseStream, Context, Create, Decision, Delete, NewRecord, NewRun, Producer,
        Refusal, RunState, Trim,
    },
    format::frame::{Chain, Frame},
    proto::Outcome,
    record::{Index, RunNo},
};
use braidlog_fuzz::{RUN_UID, put, seal_frame};
use libfuzzer_sys::fuzz_target;

const RUN_NO: u64 = 3 * 1_024 + 5;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut state = None;
    while let Some((len, behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes(*len)).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        match &mut state {
            None => state = Some(begin(bytes)),
            Some(state) => replay(state, bytes),
        }
    }
    if let Some(state) = &mut state {
        command(state, data);
    }
});

/// The run these bytes begin, or the run of the golden files.
fn begin(bytes: &[u8]) -> RunState {
    let frame = Frame::decode(&seal_frame(bytes, Chain::start(RUN_UID)).into());
    if let Some((state, _)) = frame.ok().and_then(|frame| RunState::begin(&frame).ok()) {
        check(&state);
        return state;
    }
    let create = Create { namespace: "ns".into(), run_id: "run".into(), ..Create::default() };
    let new = NewRun { run_no: RunNo(RUN_NO), run_uid: RUN_UID };
    RunState::create(&create, new, 1_700_000_000_000).expect("created").0
}

fn replay(state: &mut RunState, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(48), 0);
    put(&mut bytes, 16, &state.run_no.0.to_le_bytes());
    put(&mut bytes, 24, &state.tail.0.to_le_bytes());
    let Ok(frame) = Frame::decode(&seal_frame(&bytes, state.chain).into()) else { return };
    let before = state.clone();
    match state.replay(&frame) {
        Err(_) => assert_eq!(*state, before, "damage changed the state"),
        Ok(facts) => {
            assert_eq!(state.tail, before.tail + u64::from(frame.header.count));
            assert_eq!(state.chain, frame.header.chain);
            assert!(before.updated_ms <= state.updated_ms);
            let counted: u32 = facts.spans.iter().map(|span| span.count).sum();
            assert_eq!(counted, frame.header.count);
            let after = state.clone();
            state.replay(&frame).expect_err("the same frame fits only once");
            assert_eq!(*state, after);
        }
    }
    check(state);
}

/// What holds in every state: each record of the run is one of exactly one stream.
fn check(state: &RunState) {
    let tails: u64 = state.streams.iter().map(|stream| stream.tail.0).sum();
    assert_eq!(tails, state.tail.0);
}

fn command(state: &mut RunState, data: &[u8]) {
    let stream: Arc<str> = state.streams.last().expect("$run").name.clone();
    let now = Context::default();
    let id = state.producers.last().map_or("p".into(), |producer| producer.id.clone());
    let [epoch, seq] = state.producers.last().map_or([0, 0], |known| [known.epoch, known.next_seq]);
    for (stream, epoch, seq) in
        [(&stream, epoch, seq), (&"fuzz".into(), epoch.wrapping_add(1), 0), (&stream, epoch, 0)]
    {
        let records = vec![NewRecord::new(data[..data.len().min(99)].to_vec())];
        let producer = Some(Producer { id: id.clone(), epoch, seq });
        let append = Append { stream: stream.clone(), records, producer, ..Append::default() };
        give(state, |state| state.append(&append, &now));
    }
    let trim = Trim { run_uid: None, stream: stream.clone(), trim: Index(1) };
    give(state, |state| state.trim(&trim, &now));
    give(state, |state| state.close_stream(&CloseStream { run_uid: None, stream }, &now));
    let close = Close { outcome: Outcome::Completed, ..Close::default() };
    give(state, |state| state.close(&close, &now));
    let ended = state.ending.is_some() || state.deleted_ms.is_some();
    assert!(ended, "a run ends when it is closed");
    give(state, |state| state.delete(&Delete::default(), &now));
    assert!(state.deleted_ms.is_some(), "every run can be deleted");
}

fn give<R>(
    state: &mut RunState,
    command: impl FnOnce(&mut RunState) -> Result<Decision<R>, Refusal>,
) {
    let before = state.clone();
    match command(state) {
        Ok(Decision::Accepted { frame, .. }) => {
            let mut replayed = before;
            replayed.replay(&frame).expect("an accepted frame fits");
            assert_eq!(replayed, *state);
        }
        Ok(Decision::Duplicate(_)) | Err(_) => assert_eq!(*state, before),
    }
    check(state);
}
