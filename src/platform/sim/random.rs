//! Seeded randomness: the generator behind the seam, behind fates, and for tests.
//!
//! What it deliberately does not do: be unpredictable, or take anything from the real machine.

use parking_lot::Mutex;

use crate::platform::Entropy;

/// A small seeded generator (splitmix64), for tests and for fates. Not for secrets.
#[derive(Debug, Clone)]
pub struct SimRng(u64);

impl SimRng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(0 < n, "there is no number below 0");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True in `part` of `whole` cases.
    pub fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// Fills `buf` with random bytes.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Seeded randomness behind the seam.
#[derive(Debug)]
pub struct SimEntropy(Mutex<SimRng>);

impl SimEntropy {
    /// The randomness of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(SimRng::new(seed)))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buf: &mut [u8]) {
        self.0.lock().fill(buf);
    }
}
