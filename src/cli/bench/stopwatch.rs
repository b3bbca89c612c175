//! Time that has passed since the benchmark began.

use std::{sync::Arc, time::Duration};

use crate::platform::{Clock, os};

/// Clones count from the same moment.
#[derive(Clone)]
pub(super) struct Stopwatch(Arc<dyn Clock>);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(os::platform("").clock)
    }

    pub(super) fn now(&self) -> Duration {
        self.0.mono()
    }
}
