//! Moments at which something is killed.

use braidlog::platform::sim::SimRng;

/// One random point in each of `count` equal parts of `0..total` but the last, in order.
pub(crate) fn moments(random: &mut SimRng, count: u64, total: u64) -> Vec<u64> {
    let part = total / (count + 1);
    (0..count).map(|at| at * part + random.below(part) + 1).collect()
}
