//! Who waits for the disk, and how they are told: at once, all whose frames one commit made durable.
//!
//! Whatever is queued for commit has a number, and numbers become durable in their order. Who waits
//! keeps its number; nothing is allocated for it, and one store of a number answers all of a block.
//!
//! To wake a task of a runtime from a thread outside of it is dear, and the runtime may run dry
//! between two such wake-ups. So the committer wakes the first; who is told wakes the others, from
//! within the runtime. Nobody depends on that: the committer itself wakes who is left before it
//! waits for anything.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    error::Error,
    platform::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    sabotage::{self, Bug},
};

/// All who wait for the disk.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Everything with a number below is durable.
    durable: AtomicU64,
    /// Whether somebody is to be woken who was not yet.
    has_unwoken: AtomicBool,
    // A plain mutex: no await inside, and nobody is woken under it.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Wakers of those who wait, from number `durable` on.
    wakers: VecDeque<Option<Waker>>,
    /// Wakers of those who were answered.
    unwoken: VecDeque<Waker>,
    /// Why nothing becomes durable any more.
    ended: Option<Error>,
}

/// A place in the queue for commit; tells when everything up to it is durable, or that it never
/// will be.
#[derive(Debug)]
pub(super) struct Queued {
    waiters: Arc<Waiters>,
    number: u64,
}

impl Waiters {
    /// The place with a number.
    pub(super) fn queued(self: &Arc<Self>, number: u64) -> Queued {
        Queued { waiters: self.clone(), number }
    }

    /// Answers everybody below a number, and wakes the first of them.
    pub(super) fn settle(&self, until: u64) {
        let first = {
            let mut table = self.table.lock();
            let durable = self.durable.load(Ordering::Relaxed);
            if until <= durable {
                return;
            }
            let Table { wakers, unwoken, .. } = &mut *table;
            let known = wakers.len().min((until - durable) as usize);
            unwoken.extend(wakers.drain(..known).flatten());
            self.durable.store(until, Ordering::Release);
            let first = unwoken.pop_front();
            self.has_unwoken.store(!unwoken.is_empty(), Ordering::Release);
            first
        };
        first.into_iter().for_each(Waker::wake);
    }

    /// Wakes everybody who was answered and is not awake yet.
    pub(super) fn wake_rest(&self) {
        if !self.has_unwoken.load(Ordering::Acquire) {
            return;
        }
        let unwoken = {
            let mut table = self.table.lock();
            self.has_unwoken.store(false, Ordering::Release);
            std::mem::take(&mut table.unwoken)
        };
        unwoken.into_iter().for_each(Waker::wake);
    }

    /// Answers everybody who is left with `error`, now and from now on; the first error is kept.
    pub(super) fn end(&self, error: &Error) {
        let wakers = {
            let mut table = self.table.lock();
            table.ended.get_or_insert_with(|| error.clone());
            std::mem::take(&mut table.wakers)
        };
        self.wake_rest();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Queued {
    /// The answer, if it is there already.
    pub(super) fn try_take(&self) -> Option<Result<(), Error>> {
        if self.number < self.waiters.durable.load(Ordering::Acquire) {
            return Some(Ok(()));
        }
        let table = self.waiters.table.lock();
        self.answer(&table)
    }

    fn answer(&self, table: &Table) -> Option<Result<(), Error>> {
        // Under the lock, so that nothing settles between this look and what follows from it.
        match self.number < self.waiters.durable.load(Ordering::Relaxed) {
            true => Some(Ok(())),
            false if sabotage::is(Bug::ForgetEnd) => None,
            false => table.ended.clone().map(Err),
        }
    }

    /// The answer, or a place for the waker among those who wait.
    fn answer_or_wait(&self, waker: &Waker) -> Option<Result<(), Error>> {
        if self.number < self.waiters.durable.load(Ordering::Acquire) {
            return Some(Ok(()));
        }
        let mut table = self.waiters.table.lock();
        let answer = self.answer(&table);
        if answer.is_none() {
            let at = (self.number - self.waiters.durable.load(Ordering::Relaxed)) as usize;
            if table.wakers.len() <= at {
                table.wakers.resize(at + 1, None);
            }
            match &mut table.wakers[at] {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        answer
    }
}

impl Future for Queued {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.answer_or_wait(context.waker()) {
            Some(answer) => {
                self.waiters.wake_rest();
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn is(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    struct Waiter {
        queued: Queued,
        woken: Arc<Count>,
    }

    impl Waiter {
        fn poll(&mut self) -> Poll<Result<(), Error>> {
            let waker = Waker::from(self.woken.clone());
            Pin::new(&mut self.queued).poll(&mut Context::from_waker(&waker))
        }
    }

    fn waiting(waiters: &Arc<Waiters>, numbers: std::ops::Range<u64>) -> Vec<Waiter> {
        let waiter = |number| Waiter { queued: waiters.queued(number), woken: Arc::default() };
        let mut waiting: Vec<_> = numbers.map(waiter).collect();
        waiting.iter_mut().for_each(|waiter| assert!(waiter.poll().is_pending()));
        waiting
    }

    fn woken(waiting: &[Waiter]) -> Vec<usize> {
        waiting.iter().map(|waiter| waiter.woken.is()).collect()
    }

    #[test]
    fn the_first_is_woken_and_wakes_the_others_once() {
        let waiters = Arc::default();
        let mut waiting = waiting(&waiters, 0..4);
        waiters.settle(3);
        assert_eq!(woken(&waiting), [1, 0, 0, 0]);
        assert!(matches!(waiting[0].poll(), Poll::Ready(Ok(()))));
        assert_eq!(woken(&waiting), [1, 1, 1, 0]);
        assert!(waiting[3].poll().is_pending());
        waiters.wake_rest();
        assert_eq!(woken(&waiting), [1, 1, 1, 0]);
    }

    #[test]
    fn nobody_depends_on_another_who_is_never_polled_or_gone() {
        let waiters = Arc::default();
        let mut waiting = waiting(&waiters, 0..3);
        drop(waiting.remove(0));
        waiters.settle(3);
        waiters.wake_rest();
        assert_eq!(woken(&waiting), [1, 1]);
    }

    #[test]
    fn who_was_left_is_woken_before_those_of_the_next_block() {
        let waiters = Arc::default();
        let waiting = waiting(&waiters, 0..4);
        waiters.settle(2);
        waiters.settle(4);
        assert_eq!(woken(&waiting), [1, 1, 0, 0]);
        waiters.wake_rest();
        assert_eq!(woken(&waiting), [1, 1, 1, 1]);
    }

    #[test]
    fn an_end_answers_those_who_are_left_and_those_who_come() {
        let waiters = Arc::default();
        let mut waiting = waiting(&waiters, 0..3);
        waiters.settle(1);
        waiters.end(&Error::ShuttingDown);
        waiters.end(&Error::DiskFull);
        assert_eq!(woken(&waiting), [1, 1, 1]);
        assert!(matches!(waiting[0].poll(), Poll::Ready(Ok(()))));
        assert!(matches!(waiting[2].poll(), Poll::Ready(Err(Error::ShuttingDown))));
        assert!(matches!(waiters.queued(9).try_take(), Some(Err(Error::ShuttingDown))));
    }
}
