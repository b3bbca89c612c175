//! How fast packs are written: whoever writes them asks after every block.
//!
//! What it deliberately does not do: decide. That is for who knows what waits meanwhile.

use std::sync::Arc;

/// How fast packs are written and read back.
pub trait Pace: Send + Sync {
    /// Gives the processor to others for a moment, or returns at once. Called after every block, written
    /// or read back, and after as much of other work.
    fn rest(&self);

    /// Whether a block is to be compressed fast rather than well.
    fn has_haste(&self) -> bool;
}

/// No rests, and no haste.
pub struct Steady;

impl Pace for Steady {
    fn rest(&self) {}

    fn has_haste(&self) -> bool {
        false
    }
}

/// Rests as another, and makes no haste.
pub(super) struct Unhurried(pub(super) Arc<dyn Pace>);

impl Pace for Unhurried {
    fn rest(&self) {
        self.0.rest();
    }

    fn has_haste(&self) -> bool {
        false
    }
}
