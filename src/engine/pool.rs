//! A few threads that read from disk for readers that are behind.

use std::{io, sync::Arc};

use tokio::sync::oneshot;

use crate::platform::{
    os,
    sync::{Mutex, mpsc},
};

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that block on the disk.
pub(super) struct Pool {
    /// None runs every job where it is asked for: for stores whose steps the caller takes.
    jobs: Option<mpsc::SyncSender<Job>>,
}

/// Jobs that may wait; a reader beyond that runs its job itself.
const QUEUE_MAX: usize = 1_024;

impl Pool {
    /// A pool of `threads` threads. They end when the pool is dropped.
    pub(super) fn new(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads {
            let queue = queue.clone();
            os::spawn(&format!("braidlog-read-{n}"), move || {
                while let Ok(job) = next(&queue) {
                    job();
                }
            })?;
        }
        Ok(Self { jobs: Some(jobs) })
    }

    /// No threads: jobs run where they are asked for.
    #[cfg(feature = "sim")]
    pub(super) fn inline() -> Self {
        Self { jobs: None }
    }

    /// Runs a job and waits for what it returns.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let Some(jobs) = &self.jobs else { return job() };
        let (sender, receiver) = oneshot::channel();
        let boxed: Job = Box::new(move || {
            let _ = sender.send(job());
        });
        if let Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) =
            jobs.try_send(boxed)
        {
            job();
        }
        receiver.await.expect("a job is run to its end")
    }

    /// Runs a job for which nobody waits, unless there is too much to do or nobody to do it.
    pub(super) fn run_aside(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.try_send(Box::new(job));
        }
    }
}

/// The lock is held while waiting: the next job goes to whichever thread has it.
fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Result<Job, mpsc::RecvError> {
    queue.lock().recv()
}
