//! Keeps a panic or a hang of whoever holds an index to one thread.
//!
//! That thread owns the index; callers send it what to do and wait for the answer, for a limited
//! time. After the first failure nothing is sent any more, and every call gives that failure.
//!
//! A thread cannot be stopped from outside. One that hangs is left behind, with its memory and its
//! open files, until it comes back, if ever. An index that panicked is never dropped, because that
//! could panic again in the middle of it, which would end the process; its memory is lost.
//!
//! What it deliberately does not do: log (the error is the caller's to report), repeat a call, or
//! keep a caught panic from the process's panic hook, which usually prints it.

use std::{
    any::Any,
    mem,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::IndexError;
use crate::platform::{
    os,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
};

/// Work for the thread, which gives the index back if it can be used further.
type Job<I> = Box<dyn FnOnce(I) -> Option<I> + Send>;

/// A thread that owns an index, as its callers see it.
pub(super) struct Guard<I> {
    jobs: Sender<Job<I>>,
    /// Counts finished jobs: a caller that waits behind others sees that they go on.
    finished: Arc<AtomicU64>,
    /// Why the index is not used any more.
    failure: Arc<OnceLock<IndexError>>,
}

impl<I: Send + 'static> Guard<I> {
    /// Starts a thread that makes the index and then waits for calls.
    pub(super) fn start(
        timeout: Duration,
        make: impl FnOnce() -> Result<I, IndexError> + Send + 'static,
    ) -> Result<Self, IndexError> {
        const OPERATION: &str = "opening";
        // Holds at most one job for every caller, who waits for its answer.
        let (jobs, waiting) = mpsc::channel();
        let (ready, made) = mpsc::sync_channel(1);
        os::spawn("index", move || run(make, &ready, waiting))
            .map_err(|source| IndexError::Io { operation: OPERATION, source: Arc::new(source) })?;
        // The thread always says what came of it: only time can run out.
        let timed_out = |_| Err(IndexError::TimedOut { operation: OPERATION, timeout });
        made.recv_timeout(timeout).unwrap_or_else(timed_out)?;
        Ok(Self { jobs, finished: Arc::default(), failure: Arc::default() })
    }

    /// Has the thread do something with the index, and waits for it.
    pub(super) fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        timeout: Duration,
        body: impl FnOnce(&mut I) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.send(operation, timeout, move |mut index| {
            let outcome = contained(operation, || body(&mut index));
            if let Err(IndexError::Panicked { .. }) = outcome {
                mem::forget(index);
                return (outcome, None);
            }
            (outcome, Some(index))
        })
    }

    /// Drops the index, and waits for it. Calls after it give [`IndexError::Closed`].
    pub(super) fn close(&self, timeout: Duration) -> Result<(), IndexError> {
        let closed = self.send("closing", timeout, move |index| (close(index), None));
        drop(self.failure.set(IndexError::Closed));
        closed
    }

    /// Why the index is not used any more, if so.
    pub(super) fn failure(&self) -> Option<&IndexError> {
        self.failure.get()
    }

    fn send<T: Send + 'static>(
        &self,
        operation: &'static str,
        timeout: Duration,
        work: impl FnOnce(I) -> (Result<T, IndexError>, Option<I>) + Send + 'static,
    ) -> Result<T, IndexError> {
        if let Some(failure) = self.failure() {
            return Err(failure.clone());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let (failure, finished) = (self.failure.clone(), self.finished.clone());
        let job = move |index| {
            let (outcome, index) = work(index);
            if let Err(error) = &outcome {
                drop(failure.set(error.clone()));
            }
            finished.fetch_add(1, Ordering::Relaxed);
            // Nobody listens if the caller has given up. Who listens does not wait for the rest.
            drop(answer.send(outcome));
            if failure.get().is_none() {
                return index;
            }
            drop(index.map(close));
            None
        };
        // Without a thread the job is dropped, and the answer with it: seen by who waits for it.
        drop(self.jobs.send(Box::new(job)));
        self.wait(operation, timeout, &answered)
    }

    /// Waits for an answer as long as the thread finishes anything at all within `timeout`.
    fn wait<T>(
        &self,
        operation: &'static str,
        timeout: Duration,
        answered: &Receiver<Result<T, IndexError>>,
    ) -> Result<T, IndexError> {
        loop {
            let finished = self.finished.load(Ordering::Relaxed);
            let error = match answered.recv_timeout(timeout) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) if self.failure().is_none() => {
                    if finished != self.finished.load(Ordering::Relaxed) {
                        continue;
                    }
                    IndexError::TimedOut { operation, timeout }
                }
                // The thread ended, or hangs, before it came to this job. The cause is known,
                // unless it was told to close.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    IndexError::Closed
                }
            };
            return Err(self.failure.get_or_init(|| error).clone());
        }
    }
}

/// The body of the thread.
fn run<I>(
    make: impl FnOnce() -> Result<I, IndexError>,
    ready: &SyncSender<Result<(), IndexError>>,
    jobs: Receiver<Job<I>>,
) {
    let mut index = match contained("opening", make) {
        Ok(index) => index,
        Err(error) => return drop(ready.send(Err(error))),
    };
    if ready.send(Ok(())).is_ok() {
        for job in jobs {
            match job(index) {
                Some(next) => index = next,
                None => return,
            }
        }
    }
    // Nobody wants it any more, and nobody waits for this.
    drop(close(index));
}

fn close<I>(index: I) -> Result<(), IndexError> {
    contained("closing", || {
        drop(index);
        Ok(())
    })
}

/// Runs code that may panic.
fn contained<T>(
    operation: &'static str,
    body: impl FnOnce() -> Result<T, IndexError>,
) -> Result<T, IndexError> {
    // Nothing that the body may have left half done is looked at after a panic.
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        Err(IndexError::Panicked { operation, message: message(&*payload) })
    })
}

fn message(payload: &(dyn Any + Send)) -> Arc<str> {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message").into()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::index::Unsound;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(30);

    /// Says when it is dropped.
    struct Fake(Sender<()>);

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    fn guard() -> (Guard<Fake>, Receiver<()>) {
        let (dropped, seen) = mpsc::channel();
        (Guard::start(LATE, move || Ok(Fake(dropped))).unwrap(), seen)
    }

    /// Runs until the sender is dropped.
    fn hang(until: &Receiver<()>) -> Result<(), IndexError> {
        let _ = until.recv();
        Ok(())
    }

    #[test]
    fn a_panic_while_opening_is_an_error() {
        let made = Guard::<Fake>::start(LATE, || panic!("no {}", "luck"));
        let error = made.err().unwrap();
        assert!(matches!(&error, IndexError::Panicked { message, .. } if &**message == "no luck"));
    }

    #[test]
    fn a_hang_while_opening_is_an_error_in_time_and_what_comes_of_it_is_dropped() {
        let (go, wait) = mpsc::channel();
        let (dropped, seen) = mpsc::channel();
        let made = Guard::start(SOON, move || hang(&wait).map(|()| Fake(dropped)));
        assert!(matches!(made.err(), Some(IndexError::TimedOut { operation: "opening", .. })));
        drop(go);
        seen.recv_timeout(LATE).unwrap();
    }

    #[test]
    fn the_first_failure_is_the_answer_to_every_later_call_and_the_index_is_not_used() {
        let (guard, seen) = guard();
        assert_eq!(guard.call("counting", LATE, |_| Ok(7)).unwrap(), 7);
        let panicked = guard.call("breaking", LATE, |_| -> Result<(), _> { panic!("first") });
        assert!(matches!(panicked, Err(IndexError::Panicked { operation: "breaking", .. })));
        let later = guard.call("counting", LATE, |_| -> Result<(), _> { panic!("second") });
        assert_eq!(later.unwrap_err().to_string(), "breaking the index panicked: first");
        assert!(seen.recv_timeout(SOON).is_err(), "an index that panicked is not touched");
    }

    #[test]
    fn an_error_ends_the_use_of_an_index_and_drops_it() {
        let (guard, seen) = guard();
        let unsound = || IndexError::Unsound(Unsound::Leaf);
        assert!(guard.call("looking", LATE, move |_| Err::<(), _>(unsound())).is_err());
        seen.recv_timeout(LATE).unwrap();
        let later = guard.call("looking", LATE, |_| Ok(())).unwrap_err();
        assert_eq!(later.to_string(), unsound().to_string());
    }

    #[test]
    fn a_hang_is_an_error_in_time_to_its_caller_and_to_those_behind() {
        let (guard, seen) = guard();
        let (go, wait) = mpsc::channel();
        let hung = guard.call("hanging", SOON, move |_| hang(&wait)).unwrap_err();
        assert!(matches!(hung, IndexError::TimedOut { operation: "hanging", .. }));
        assert!(guard.call("counting", LATE, |_| Ok(7)).is_err(), "not even sent");
        drop(go);
        seen.recv_timeout(LATE).expect("dropped when it comes back");
    }

    #[test]
    fn a_caller_behind_others_waits_as_long_as_they_go_on() {
        let (guard, _seen) = guard();
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let slow = |_: &mut Fake| {
                        thread::sleep(SOON);
                        Ok(())
                    };
                    guard.call("sleeping", SOON * 4, slow).unwrap();
                });
            }
        });
    }

    #[test]
    fn closing_waits_until_the_index_is_dropped_and_is_final() {
        let (guard, seen) = guard();
        guard.close(LATE).unwrap();
        seen.try_recv().unwrap();
        assert!(matches!(guard.call("counting", LATE, |_| Ok(())), Err(IndexError::Closed)));
    }

    #[test]
    fn an_index_that_nobody_holds_any_more_is_dropped() {
        let (guard, seen) = guard();
        drop(guard);
        seen.recv_timeout(LATE).unwrap();
    }
}
