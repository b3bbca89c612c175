//! What one measured run gave: how much in how long, how long each took, and what it cost.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::platform::process::ProcessUse;

/// Latencies, to three digits.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Histogram::new(3).expect("three digits are allowed"))
    }

    pub(super) fn note(&mut self, latency: Duration) {
        // It grows by itself, up to centuries.
        let _ = self.0.record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn add(&mut self, other: &Self) {
        let _ = self.0.add(&other.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency below which this share of all is.
    pub(super) fn at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }
}

/// What writers or readers did in a run.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Records that were acknowledged, or read.
    pub(super) records: u64,
    /// From the first to the last.
    pub(super) took: Duration,
    pub(super) latencies: Latencies,
}

impl Tally {
    pub(super) fn none() -> Self {
        Self { records: 0, took: Duration::ZERO, latencies: Latencies::new() }
    }

    /// Adds what another did at the same time.
    pub(super) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.took = self.took.max(other.took);
        self.latencies.add(&other.latencies);
    }

    pub(super) fn rate(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// A measured run.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) tally: Tally,
    /// Median of the device probe right before.
    pub(super) probe: Duration,
    /// What this process used meanwhile; of the server's part too, if it is embedded.
    pub(super) client: Option<ProcessUse>,
    /// What the server used meanwhile, and what it holds in memory at the end.
    pub(super) server: Option<ProcessUse>,
    /// Bytes that the disk was given meanwhile.
    pub(super) written: Option<u64>,
    /// Memory that each tail took which only waited.
    pub(super) per_tail: Option<u64>,
}

impl Sample {
    /// Bytes of memory of whoever has the records.
    pub(super) fn resident(&self) -> Option<u64> {
        self.server.or(self.client).map(|used| used.resident)
    }
}

/// What was used between two moments; memory is that of the second.
pub(super) fn between(before: Option<ProcessUse>, after: Option<ProcessUse>) -> Option<ProcessUse> {
    let (before, after) = (before?, after?);
    Some(ProcessUse { cpu: after.cpu.saturating_sub(before.cpu), resident: after.resident })
}

/// The middle of some figures, and the least and greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Middle {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

/// None of no figures. The median of an even number is the lower of the two.
pub(super) fn middle(figures: impl IntoIterator<Item = f64>) -> Option<Middle> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let (least, greatest) = (*figures.first()?, *figures.last()?);
    Some(Middle { median: figures[(figures.len() - 1) / 2], least, greatest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median_with_its_bounds() {
        assert_eq!(middle([]), None);
        let of = |figures: &[f64]| middle(figures.iter().copied()).unwrap();
        assert_eq!(of(&[3.0, 1.0, 2.0]), Middle { median: 2.0, least: 1.0, greatest: 3.0 });
        assert_eq!(of(&[4.0, 1.0]).median, 1.0);
    }

    #[test]
    fn tallies_of_writers_at_the_same_time_add_up() {
        let mut all = Tally::none();
        for seconds in [1, 2] {
            let mut one = Tally { records: 10, ..Tally::none() };
            one.took = Duration::from_secs(seconds);
            one.latencies.note(Duration::from_millis(seconds));
            all.add(&one);
        }
        assert_eq!((all.records, all.rate()), (20, 10.0));
        assert_eq!(all.latencies.at(1.0).as_millis(), 2);
    }
}
