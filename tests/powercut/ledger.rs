//! What callers know, kept where no power is cut: how many records of each run were acknowledged.

use std::collections::BTreeMap;

/// Acknowledged records by run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    acked: BTreeMap<String, u64>,
}

/// What does not fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Records that were acknowledged and are gone.
    pub(crate) lost: u64,
    /// Records that were found.
    pub(crate) found: u64,
}

impl Ledger {
    /// Takes in a line of a store's process: a run, and how many of its records are acknowledged.
    /// Of a process that was killed the last line may be cut short.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        let Some((run, count)) = line.strip_prefix("acked ").and_then(|rest| rest.split_once(' '))
        else {
            return false;
        };
        let Some(count) = count.strip_suffix(" .").and_then(|count| count.parse::<u64>().ok())
        else {
            return false;
        };
        let known = self.acked.entry(run.to_owned()).or_default();
        *known = count.max(*known);
        true
    }

    /// Acknowledged records of all runs.
    pub(crate) fn records(&self) -> u64 {
        self.acked.values().sum()
    }

    /// Holds against it how many records were found of each run, all of them as they were written.
    pub(crate) fn check(&self, found: &BTreeMap<String, u64>) -> Verdict {
        let lost = self
            .acked
            .iter()
            .map(|(run, acked)| acked.saturating_sub(found.get(run).copied().unwrap_or(0)));
        Verdict { lost: lost.sum(), found: found.values().sum() }
    }
}
