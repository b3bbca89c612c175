//! When a call is repeated, and how long to wait before.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Sleep, sleep};

use crate::{
    error::Error,
    grpc::status::Call,
    platform::{Entropy, os::OsEntropy},
    sabotage::{self, Bug},
};

/// How calls that failed for a passing reason are repeated: after pauses that double from
/// `initial` to `max`, each shortened by up to half at random, so that clients do not come back in
/// step.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How long to go on after the first failure. Zero is not at all, none is for ever.
    pub deadline: Option<Duration>,
    /// First pause.
    pub initial: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            deadline: Some(Duration::from_secs(30)),
            initial: Duration::from_millis(50),
            max: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// Goes on until it succeeds.
    pub fn forever() -> Self {
        Self { deadline: None, ..Self::default() }
    }

    /// Gives up at once.
    pub fn never() -> Self {
        Self { deadline: Some(Duration::ZERO), ..Self::default() }
    }
}

/// What repeating a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Read,
    /// It changes nothing if the first attempt was applied.
    Command,
    /// It doubles if the first attempt was applied.
    UnlessSent,
}

impl Repeat {
    pub(super) fn call(self) -> Call {
        match self {
            Self::Read => Call::Read,
            Self::Command | Self::UnlessSent => Call::Command,
        }
    }

    /// Whether another attempt may follow this error.
    pub(super) fn may_follow(self, error: &Error) -> bool {
        match error {
            Error::OutcomeUnknown { .. } => {
                self != Self::UnlessSent || sabotage::is(Bug::RepeatUnnumbered)
            }
            _ => is_passing(error),
        }
    }

    /// The error of an attempt that took too long.
    pub(super) fn timed_out(self) -> Error {
        match self.call() {
            Call::Read => Error::Unavailable { message: "no answer in time".into() },
            Call::Command => Error::OutcomeUnknown { cause: "no answer in time".into() },
        }
    }
}

/// A name that nobody else has, by which a call is known when it is repeated: 128 random bits.
pub(super) fn random_id() -> Arc<str> {
    let mut bits = [0; 16];
    OsEntropy.fill(&mut bits);
    format!("{:032x}", u128::from_le_bytes(bits)).into()
}

/// Whether an error that left nothing open may be gone when the call is repeated.
pub(super) fn is_passing(error: &Error) -> bool {
    match error {
        Error::Unavailable { .. }
        | Error::Busy { .. }
        | Error::ShuttingDown
        | Error::Stopped { .. } => true,
        Error::Refused(_)
        | Error::OutcomeUnknown { .. }
        | Error::DiskFull
        | Error::Corrupt(_)
        | Error::Io { .. }
        | Error::Unexpected { .. } => false,
    }
}

/// The pauses of one call, from its first failure to its next success.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RetryPolicy,
    pause: Duration,
    /// Set with the first failure, if there is a deadline.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Backoff {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { pause: policy.initial, policy, deadline: None }
    }

    /// The next failure is the first.
    pub(super) fn reset(&mut self) {
        self.pause = self.policy.initial;
        self.deadline = None;
    }

    /// Waits after a failure, as long at least as it asks for; false if the deadline has passed.
    pub(super) async fn pause(&mut self, error: &Error) -> bool {
        if self.deadline.is_none() {
            self.deadline = self.policy.deadline.map(|deadline| Box::pin(sleep(deadline)));
        }
        let pause = shortened(self.next_pause()).max(asked(error));
        self.bound(sleep(pause)).await.is_some()
    }

    fn next_pause(&mut self) -> Duration {
        let longer = (self.pause * 2).min(self.policy.max);
        std::mem::replace(&mut self.pause, longer)
    }

    /// Runs an attempt; none if the deadline passes first.
    pub(super) async fn bound<T>(&mut self, attempt: impl Future<Output = T>) -> Option<T> {
        let Some(deadline) = &mut self.deadline else { return Some(attempt.await) };
        tokio::select! {
            biased;
            () = deadline => None,
            outcome = attempt => Some(outcome),
        }
    }
}

/// How long the server wants to be left alone.
fn asked(error: &Error) -> Duration {
    match error {
        Error::Busy { retry_after_ms } => Duration::from_millis(*retry_after_ms),
        _ => Duration::ZERO,
    }
}

/// Between half of a pause and all of it.
fn shortened(pause: Duration) -> Duration {
    let mut random = [0; 4];
    OsEntropy.fill(&mut random);
    let part = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Refusal;

    #[test]
    fn only_what_passes_is_repeated_and_nothing_that_would_double() {
        let unknown = Error::OutcomeUnknown { cause: "broken".into() };
        assert!(Repeat::Command.may_follow(&unknown));
        assert!(!Repeat::UnlessSent.may_follow(&unknown));
        for repeat in [Repeat::Read, Repeat::Command, Repeat::UnlessSent] {
            assert!(repeat.may_follow(&Error::ShuttingDown));
            assert!(repeat.may_follow(&Error::Busy { retry_after_ms: 1 }));
            assert!(repeat.may_follow(&Error::Unavailable { message: "refused".into() }));
            assert!(!repeat.may_follow(&Error::DiskFull));
            assert!(!repeat.may_follow(&Refusal::RunNotFound.into()));
        }
    }

    #[test]
    fn a_pause_is_shortened_by_half_at_most() {
        let pause = Duration::from_secs(1);
        for _ in 0..1_000 {
            let shortened = shortened(pause);
            assert!(pause / 2 <= shortened && shortened <= pause, "{shortened:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = Duration::from_secs;
        let policy = RetryPolicy { deadline: None, initial: seconds(1), max: seconds(5) };
        let mut backoff = Backoff::new(policy);
        let pauses: Vec<_> = (0..5).map(|_| backoff.next_pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next_pause(), seconds(1));
    }

    #[tokio::test]
    async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
        let policy =
            RetryPolicy { deadline: Some(Duration::from_secs(60)), ..RetryPolicy::default() };
        let begin = tokio::time::Instant::now();
        assert!(Backoff::new(policy).pause(&Error::Busy { retry_after_ms: 150 }).await);
        assert!(Duration::from_millis(150) <= begin.elapsed());
    }

    #[tokio::test]
    async fn never_is_never_and_forever_goes_on() {
        let away = Error::ShuttingDown;
        assert!(!Backoff::new(RetryPolicy::never()).pause(&away).await);
        assert!(Backoff::new(RetryPolicy::forever()).pause(&away).await);
    }
}
