//! What is kept: quotas, deletion, and what a command is decided by besides the state.

use braidlog::record::name_hash;

use super::*;

fn of(count: usize) -> Append {
    Append { records: records(count), ..append_to("out") }
}

fn with(limits: Limits) -> Context {
    Context { limits, ..at(NOW) }
}

fn quota(which: &'static str, limit: u64) -> Refusal {
    Refusal::Quota { which: which.into(), limit }
}

#[test]
fn records_are_kept_up_to_their_quota_and_not_one_more() {
    let mut state = run();
    let ten = with(Limits { records: Some(10), ..Limits::default() });
    let refused = quota("records of a run", 10);
    accepted(state.append(&of(7), &ten));
    assert_eq!(give(&mut state, |state| state.append(&of(4), &ten)), Err(refused.clone()));
    accepted(state.append(&append_by("p", 0, 0), &ten));
    accepted(state.append(&Append { records: records(2), ..append_to("fresh") }, &ten));
    assert_eq!((state.kept_records(), state.tail), (10, Seq(11)), "`$run` does not count");
    assert_eq!(give(&mut state, |state| state.append(&of(1), &ten)), Err(refused));

    // What was applied is still answered, what is trimmed makes room, and the run still ends.
    repeated(give(&mut state, |state| state.append(&append_by("p", 0, 0), &ten)));
    accepted(state.trim(&trim("out", 5), &ten));
    assert_eq!(state.kept_records(), 5);
    accepted(state.append(&of(5), &ten));
    accepted(state.close_stream(&close_stream("out"), &ten));
    accepted(state.close(&close_as(Outcome::Completed), &ten));
}

#[test]
fn bytes_are_kept_up_to_their_quota_and_not_one_more() {
    let mut state = run();
    let (frame, _) = accepted(state.clone().append(&of(3), &at(NOW)));
    let exact = state.bytes + frame.bytes().len() as u64;
    let limited = |bytes| with(Limits { bytes: Some(bytes), ..Limits::default() });
    let refused = give(&mut state, |state| state.append(&of(3), &limited(exact - 1)));
    assert_eq!(refused, Err(quota("bytes of a run", exact - 1)));
    accepted(state.append(&of(3), &limited(exact)));
    assert_eq!((state.bytes, state.kept_bytes()), (exact, exact), "exact while nothing is trimmed");
}

#[test]
fn trimmed_records_give_back_their_share_of_the_bytes() {
    let mut state = run();
    accepted(state.append(&of(99), &at(NOW)));
    let written = state.bytes;
    accepted(state.trim(&trim("out", 50), &at(NOW)));
    // Fifty of a hundred records, and half of the frame that trimmed them.
    assert_eq!(state.kept_bytes(), state.bytes / 2);
    accepted(state.trim(&trim("out", 99), &at(NOW)));
    assert_eq!((state.kept_records(), state.kept_bytes()), (0, state.bytes / 100));
    assert!(written < state.bytes, "frames are only added");
}

#[test]
fn a_run_that_gives_up_its_oldest_records_refuses_no_append_for_them() {
    let mut state = run();
    let at_limit = AtLimit::TrimOldest;
    let one = with(Limits { bytes: Some(1), records: Some(1), at_limit });
    accepted(state.append(&of(100), &one));
    assert_eq!(state.kept_records(), 100, "trimming is another command");
}

#[test]
fn the_limits_of_a_run_are_those_of_its_retention() {
    let retention = Retention {
        age_ms: Some(1),
        bytes: Some(2),
        records: Some(3),
        at_limit: AtLimit::TrimOldest,
    };
    let limits = Limits { bytes: Some(2), records: Some(3), at_limit: AtLimit::TrimOldest };
    assert_eq!(retention.limits(), limits);
    assert_eq!(Retention::default().limits(), Limits::default());
}

#[test]
fn a_deleted_run_answers_nothing_but_its_deletion() {
    let mut state = run();
    accepted(state.append(&append_by("p", 0, 0), &at(NOW)));
    let (tail, records_chain) = (state.tail, state.records_chain);
    let decision = give(&mut state, |state| state.delete(&Delete::default(), &at(NOW + 5)));
    let Ok(Decision::Accepted { frame, facts, answer }) = decision else { panic!("not accepted") };
    assert_eq!(answer, Deleted { deleted_ms: NOW + 5, deduplicated: false });
    assert_eq!((frame.header.count, frame.header.first_seq, frame.next_seq()), (0, tail, tail));
    assert!(facts.deleted && frame.effects().expect("effects").deleted);
    assert_eq!((state.deleted_ms, state.tail), (Some(NOW + 5), tail));
    assert_eq!(state.records_chain, records_chain, "a deletion writes no record");

    let again = repeated(give(&mut state, |state| state.delete(&Delete::default(), &at(NOW + 9))));
    assert_eq!(again, Deleted { deleted_ms: NOW + 5, deduplicated: true });
    let append = give(&mut state, |state| state.append(&append_by("p", 0, 0), &at(NOW)));
    assert_eq!(append, Err(Refusal::RunDeleted), "not even what was applied before");
    let close = give(&mut state, |state| state.close(&close_as(Outcome::Failed), &at(NOW)));
    assert_eq!(close, Err(Refusal::RunDeleted));
    let close = give(&mut state, |state| state.close_stream(&close_stream("out"), &at(NOW)));
    assert_eq!(close, Err(Refusal::RunDeleted));
    let trim = give(&mut state, |state| state.trim(&trim("out", 0), &at(NOW)));
    assert_eq!(trim, Err(Refusal::RunDeleted));
}

/// Every command there is, given to a run that takes them all.
fn frames_with(context: &Context) -> (RunState, Vec<Frame>) {
    let mut state = run();
    let frames = vec![
        accepted(state.append(&append_to("out"), context)).0,
        accepted(state.append(&append_by("p", 0, 0), context)).0,
        accepted(state.trim(&trim("out", 1), context)).0,
        accepted(state.close_stream(&close_stream("out"), context)).0,
        accepted(state.close(&close_as(Outcome::Completed), context)).0,
        accepted(state.delete(&Delete::default(), context)).0,
    ];
    (state, frames)
}

#[test]
fn every_command_says_where_home_is_and_replay_passes_it_over() {
    let home = name_hash("ns", "run");
    let (away, plain) = frames_with(&at(NOW));
    let (found, marked) = frames_with(&Context { home: Some(home), ..at(NOW) });
    for (plain, marked) in plain.iter().zip(&marked) {
        assert_eq!(plain.effects().expect("effects").home, None);
        assert_eq!(marked.effects().expect("effects").home, Some(home));
        assert_eq!(decoded(plain), decoded(marked));
    }
    let RunState { chain, records_chain, bytes, .. } = found.clone();
    assert_ne!(chain, away.chain);
    assert_eq!(found, RunState { chain, records_chain, bytes, ..away });
}
