//! Histories that were not so: true ones, spoiled. Each must be found out, or the check proves
//! nothing.

use braidlog::platform::sim::SimRng;

use crate::history::Call;

/// How a log is spoiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgery {
    Lost,
    Doubled,
    Reordered,
    Wrong,
}

impl Forgery {
    pub(crate) const ALL: [Self; 4] = [Self::Lost, Self::Doubled, Self::Reordered, Self::Wrong];

    /// The log with one acknowledged record spoiled, at a random place.
    pub(crate) fn of(self, log: &[String], calls: &[Call], random: &mut SimRng) -> Vec<String> {
        let mut places: Vec<usize> = calls
            .iter()
            .filter_map(|call| Some(call.acked?.1 as usize..))
            .zip(calls.iter().filter(|call| call.acked.is_some()))
            .flat_map(|(places, call)| places.take(call.bodies.len()))
            .collect();
        places.sort_unstable();
        let at = places[random.below(places.len() as u64) as usize];
        let mut forged = log.to_vec();
        match self {
            Self::Lost => drop(forged.remove(at)),
            Self::Doubled => {
                let again = forged[at].clone();
                let to = at + random.below((forged.len() - at) as u64) as usize;
                forged.insert(to, again);
            }
            Self::Reordered => {
                let other = (at + 1 + random.below(log.len() as u64 - 1) as usize) % log.len();
                forged.swap(at, other);
            }
            Self::Wrong => forged[at].push('?'),
        }
        forged
    }
}
