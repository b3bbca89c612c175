//! What callers did and were told, and whether one log can be the reason of all of it.
//!
//! An append is known by its body. It began and ended at moments of one clock that never repeats
//! itself; one whose outcome nobody was told has no end. Because numbers are dense, a log explains
//! a history if and only if: what was acknowledged stands where that was said, once; what is
//! unknown is there once or not; nothing else is there; and what had ended before another began
//! stands before it.

use std::collections::HashMap;

/// An append of one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// Bodies of its records, which no other call has.
    pub(crate) bodies: Vec<String>,
    pub(crate) began: u64,
    /// When it was acknowledged, and the index of its first record.
    pub(crate) acked: Option<(u64, u64)>,
}

/// What is wrong, in words; none if the log explains the calls.
pub(crate) fn problem(log: &[String], calls: &[Call]) -> Option<String> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (at, body) in log.iter().enumerate() {
        if let Some(before) = places.insert(body, at) {
            return Some(format!("{body} stands at {before} and at {at}"));
        }
    }
    // In log order: where each call stands, when it began, and when it ended.
    let mut standing = Vec::new();
    for call in calls {
        let found: Vec<Option<usize>> =
            call.bodies.iter().map(|body| places.remove(body.as_str())).collect();
        let first = found[0];
        let is_whole = match first {
            Some(first) => found.iter().enumerate().all(|(n, at)| *at == Some(first + n)),
            None => found.iter().all(Option::is_none),
        };
        if !is_whole {
            return Some(format!("a part of {call:?} is at {found:?}"));
        }
        match (call.acked, first) {
            (Some((_, index)), found) if found != Some(index as usize) => {
                return Some(format!("{call:?} was acknowledged and is at {found:?}"));
            }
            (acked, Some(at)) => {
                standing.push((at, call.began, acked.map_or(u64::MAX, |(ended, _)| ended)));
            }
            (_, None) => {}
        }
    }
    if let Some((body, at)) = places.into_iter().next() {
        return Some(format!("nobody wrote {body}, at {at}"));
    }
    standing.sort_unstable();
    let mut ended_first = u64::MAX;
    for &(at, began, ended) in standing.iter().rev() {
        if ended_first < began {
            return Some(format!("what stands at {at} began after something behind it had ended"));
        }
        ended_first = ended_first.min(ended);
    }
    None
}

#[test]
fn a_log_that_cannot_be_the_reason_of_what_was_told_is_found_out() {
    let call = |bodies: &[&str], began, acked| Call {
        bodies: bodies.iter().map(|body| (*body).to_owned()).collect(),
        began,
        acked,
    };
    let log = |bodies: &[&str]| bodies.iter().map(|body| (*body).to_owned()).collect::<Vec<_>>();
    let calls =
        [call(&["a", "b"], 0, Some((3, 0))), call(&["c"], 4, Some((6, 2))), call(&["u"], 5, None)];
    for sound in [&["a", "b", "c"][..], &["a", "b", "c", "u"]] {
        assert_eq!(problem(&log(sound), &calls), None, "{sound:?}");
    }
    for broken in [
        &["a", "b"][..],
        &["a", "b", "u"],
        &["b", "a", "c"],
        &["c", "a", "b"],
        &["a", "b", "c", "c"],
        &["a", "b", "c", "u", "u"],
        &["a", "b", "c", "x"],
        &["a", "u", "b", "c"],
        &["b", "c"],
    ] {
        assert!(problem(&log(broken), &calls).is_some(), "{broken:?}");
    }
    // Both are where they were said to be, and yet the second was over before the first began.
    let crossed = [call(&["a"], 4, Some((5, 0))), call(&["b"], 0, Some((3, 1)))];
    assert!(problem(&log(&["a", "b"]), &crossed).is_some());
    let beside = [call(&["a"], 2, Some((5, 0))), call(&["b"], 0, Some((3, 1)))];
    assert_eq!(problem(&log(&["a", "b"]), &beside), None);
}
