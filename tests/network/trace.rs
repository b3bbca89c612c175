//! What happened in a history, in order, and whether one log can be the reason of all of it.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::calls::{Call, problem};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// Somebody sends records for the first time, or again.
    Sent { log: String, bodies: Vec<String> },
    /// Somebody was told where they stand.
    Acked { log: String, bodies: Vec<String>, index: u64, again: bool },
    /// Somebody does not know what became of something.
    Unknown { who: String },
    /// A tail saw a record.
    Seen { tail: String, log: String, index: u64, body: String },
    /// A tail saw the end of its log.
    Ended { tail: String, log: String },
    /// A consumer was given an input of a run.
    Delivered { log: String, input: u64, opened: u64 },
    /// Somebody comes back to what it was doing.
    Resumed { who: String },
    /// The server was stopped: by a kill, or by a cut of the power.
    Crash { how: &'static str },
    /// The server was told to stop, and has.
    Stopped,
    /// A client died.
    Death { who: String },
    /// The link of a client was cut or held up.
    Broken { who: String, how: &'static str },
    /// It was mended.
    Mended { who: String },
    /// All is well from here on.
    Calm,
    /// How far the disk is, and what it holds.
    Disk { ops: u64, digest: u64 },
}

/// All that happened, and the logs at the end.
#[derive(Debug, Default, Clone)]
pub(crate) struct Trace {
    /// Each with its millisecond.
    pub(crate) events: Vec<(u64, What)>,
    pub(crate) logs: BTreeMap<String, Vec<String>>,
}

/// What is counted, in the order of a [`Tally`].
const COUNTED: [&str; 13] = [
    "seeds",
    "events",
    "partitions",
    "crashes",
    "orderly ends",
    "clients that died",
    "appends acknowledged",
    "known to be repeated",
    "unknown",
    "records seen by tails",
    "resumed",
    "inputs answered",
    "simulated seconds",
];

/// How much of it there was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally([u64; COUNTED.len()]);

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(all, more)| *all += more);
    }

    /// Takes the counts from a line that [`Display`](fmt::Display) has written.
    pub(crate) fn parse(line: &str) -> Self {
        let mut tally = Self::default();
        for (count, part) in tally.0.iter_mut().zip(line.split(", ")) {
            let number = part.rsplit_once(": ").and_then(|(_, number)| number.parse().ok());
            *count = number.expect("a count");
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> =
            COUNTED.iter().zip(self.0).map(|(what, n)| format!("{what}: {n}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// The stream of a run's inputs, and that of its answers.
pub(crate) const INPUTS: &str = "in";
pub(crate) const ANSWERS: &str = "answers";

/// The name of a log: a stream of a run.
pub(crate) fn log_of(run: &str, stream: &str) -> String {
    format!("{run}/{stream}")
}

impl Trace {
    pub(crate) fn hash(&self) -> u64 {
        // Its keys are always the same.
        let mut hasher = DefaultHasher::new();
        self.events.hash(&mut hasher);
        self.logs.hash(&mut hasher);
        hasher.finish()
    }

    /// What is wrong, in words; none if the logs explain all that happened.
    pub(crate) fn problem(&self) -> Option<String> {
        let logs = self.logs.iter().find_map(|(log, bodies)| {
            let found = problem(bodies, &self.calls(log));
            Some(format!("{log}: {}", found?))
        });
        logs.or_else(|| self.problem_of_tails()).or_else(|| self.problem_of_inputs())
    }

    /// The appends to a log: each began when it was first sent.
    fn calls(&self, to: &str) -> Vec<Call> {
        let mut calls: BTreeMap<&[String], Call> = BTreeMap::new();
        for ((_, what), at) in self.events.iter().zip(0..) {
            match what {
                What::Sent { log, bodies } if log == to => {
                    let call = || Call { bodies: bodies.clone(), began: at, acked: None };
                    calls.entry(bodies).or_insert_with(call);
                }
                What::Acked { log, bodies, index, .. } if log == to => {
                    let call = calls.get_mut(&bodies[..]).expect("it was sent");
                    call.acked = call.acked.or(Some((at, *index)));
                }
                _ => {}
            }
        }
        calls.into_values().collect()
    }

    /// Each tail has seen the whole of its log once, in order, whatever came between.
    fn problem_of_tails(&self) -> Option<String> {
        let mut next: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, what) in &self.events {
            match what {
                What::Seen { tail, log, index, body } => {
                    let next = next.entry(tail).or_default();
                    if index != next {
                        return Some(format!("{tail} saw {index} where {next} comes next"));
                    }
                    if self.logs[log].get(*index as usize) != Some(body) {
                        return Some(format!("{tail} saw {body} at {index} of {log}"));
                    }
                    *next += 1;
                }
                What::Ended { tail, log } => {
                    let (seen, all) = (next.get(&**tail).copied(), self.logs[log].len() as u64);
                    if seen.unwrap_or_default() != all {
                        return Some(format!("{tail} saw {seen:?} of {all} records of {log}"));
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Each input has one answer, in its order, and none is given out once it is answered.
    fn problem_of_inputs(&self) -> Option<String> {
        for (name, answers) in &self.logs {
            let Some((run, ANSWERS)) = name.split_once('/') else { continue };
            // The last one says that no more come.
            let inputs = self.logs[&log_of(run, INPUTS)].len() - 1;
            if answers.len() != inputs {
                return Some(format!("{run}: {inputs} inputs have {} answers", answers.len()));
            }
            for (at, answer) in answers.iter().enumerate() {
                if answer.split_once(':').and_then(|(input, _)| input.parse().ok()) != Some(at) {
                    return Some(format!("{run}: answer {at} is {answer}"));
                }
            }
            let late = self.delivered_late(name);
            if late.is_some() {
                return late;
            }
        }
        None
    }

    fn delivered_late(&self, answers: &str) -> Option<String> {
        let mut answered: BTreeMap<u64, u64> = BTreeMap::new();
        for ((_, what), at) in self.events.iter().zip(0..) {
            match what {
                What::Acked { log, index, .. } if log == answers => {
                    answered.insert(*index, at);
                }
                What::Delivered { log, input, opened }
                    if log == answers && answered.get(input).is_some_and(|at| at < opened) =>
                {
                    return Some(format!("{answers}: input {input} came when it was answered"));
                }
                _ => {}
            }
        }
        None
    }

    pub(crate) fn tally(&self) -> Tally {
        let count = |is_wanted: fn(&What) -> bool| {
            self.events.iter().filter(|(_, what)| is_wanted(what)).count() as u64
        };
        Tally([
            1,
            self.events.len() as u64,
            count(|what| matches!(what, What::Broken { .. })),
            count(|what| matches!(what, What::Crash { .. })),
            count(|what| matches!(what, What::Stopped)),
            count(|what| matches!(what, What::Death { .. })),
            count(|what| matches!(what, What::Acked { .. })),
            count(|what| matches!(what, What::Acked { again: true, .. })),
            count(|what| matches!(what, What::Unknown { .. })),
            count(|what| matches!(what, What::Seen { .. })),
            count(|what| matches!(what, What::Resumed { .. })),
            count(|what| matches!(what, What::Acked { log, .. } if log.ends_with(ANSWERS))),
            self.events.last().map_or(0, |(ms, _)| ms / 1_000),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Trace {
        let out = || "a/out".to_owned();
        let body = |n: u64| format!("w.{n}");
        let mut events = Vec::new();
        for n in 0..3 {
            events.push(What::Sent { log: out(), bodies: vec![body(n)] });
            events.push(What::Acked { log: out(), bodies: vec![body(n)], index: n, again: false });
            events.push(What::Seen { tail: "t".into(), log: out(), index: n, body: body(n) });
        }
        events.push(What::Ended { tail: "t".into(), log: out() });
        for n in 0..2 {
            let (log, bodies) = (log_of("b", ANSWERS), vec![format!("{n}:c.{n}")]);
            events.push(What::Delivered {
                log: log.clone(),
                input: n,
                opened: events.len() as u64,
            });
            events.push(What::Sent { log: log.clone(), bodies: bodies.clone() });
            events.push(What::Acked { log, bodies, index: n, again: false });
        }
        let logs = [
            (out(), (0..3).map(body).collect()),
            (log_of("b", ANSWERS), vec!["0:c.0".into(), "1:c.1".into()]),
            (log_of("b", INPUTS), Vec::new()),
        ];
        let mut trace = Trace {
            events: events.into_iter().zip(0..).map(|(e, n)| (n, e)).collect(),
            logs: logs.into(),
        };
        for n in 0..3 {
            let (log, bodies) = (log_of("b", INPUTS), vec![n.to_string()]);
            trace.logs.get_mut(&log).expect("the log").extend(bodies.clone());
            trace.events.push((99, What::Sent { log, bodies }));
        }
        trace
    }

    #[test]
    fn a_true_log_that_is_spoiled_is_found_out() {
        assert_eq!(sound().problem(), None);
        let spoils: [fn(&mut Vec<String>); 4] = [
            |log| drop(log.remove(1)),
            |log| log.insert(1, log[0].clone()),
            |log| log.swap(0, 1),
            |log| log[0].push('x'),
        ];
        for spoil in spoils {
            for log in ["a/out".to_owned(), log_of("b", ANSWERS)] {
                let mut trace = sound();
                spoil(trace.logs.get_mut(&log).expect("the log"));
                assert!(trace.problem().is_some(), "{:?}", trace.logs);
            }
        }
    }

    #[test]
    fn what_a_tail_or_a_consumer_must_not_see_is_found_out() {
        let seen = |index, body: &str| What::Seen {
            tail: "t".into(),
            log: "a/out".into(),
            index,
            body: body.into(),
        };
        let late = What::Delivered { log: log_of("b", ANSWERS), input: 0, opened: 99 };
        for (at, what) in
            [(2, seen(1, "w.1")), (2, seen(0, "w.1")), (6, seen(0, "w.0")), (17, late)]
        {
            let mut trace = sound();
            trace.events.insert(at, (0, what));
            assert!(trace.problem().is_some(), "event {at}");
        }
        let mut trace = sound();
        trace.events.remove(8);
        assert!(trace.problem().is_some(), "the last record was not seen");
    }
}
