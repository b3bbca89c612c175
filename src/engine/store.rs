//! The store as a library: open, append, read, tail, close.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    admission::Purpose,
    attend,
    catalog::Indexer,
    decide::PANICKED,
    open::{Opened, Parts, open_parts},
    options::Options,
    pool::Pool,
    published::Published,
    request::{ClosedRun, CreatedRun, RunInfo, RunKey},
    shard::{Run, Shard},
    shared::{INGEST_UNIT, Phase, Shared},
    ticket::Ticket,
};
use crate::{
    core::{
        Append, Appended, Close, CloseStream, Create, Decision, Delete, Deleted, Facts, NewRun,
        Refusal, RunState, StreamEnd, Trim,
    },
    error::{Error, OpenError},
    format::frame::Frame,
    platform::{
        Platform, os,
        sync::{Mutex, thread::JoinHandle},
    },
    record::{Index, RunUid, vshard_of},
};

/// Bytes of a frame that holds one event without a body, at most.
pub(super) const EVENT_FRAME_BYTES_MAX: usize = 512;

/// An open store. Clones are the same store.
///
/// When the last clone is dropped the store drains and closes, which may block for a sync; call
/// [`Store::close`] to wait for that without blocking, and to know whether it went well.
#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    threads: Arc<Threads>,
    opened: Opened,
}

/// What to do with an append to a run that does not exist. A deleted run is refused either way: it
/// does not come back because a writer has not heard of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfAbsent {
    /// Create the run.
    Create,
    /// Refuse the append.
    Refuse,
}

/// The threads of a store; dropping them closes it.
struct Threads {
    shared: Arc<Shared>,
    committer: Option<JoinHandle<()>>,
    zeroer: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
    indexer: Option<JoinHandle<()>>,
    attendant: Option<JoinHandle<()>>,
    /// Told when nobody writes to the directory any more.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// The directory, as long as any thread may write to journal, manifest or packs: only then may
/// another store open it, and only then is this one closed.
struct Held {
    lock: Option<Box<dyn Send + Sync>>,
    told: Option<oneshot::Sender<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.lock.take());
        if let Some(told) = self.told.take() {
            // Whoever opened the store may not wait for its end.
            let _ = told.send(());
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.close();
        // The committer first: while it drains it may still need a slot. A thread that panicked has
        // said so, and has stopped the store.
        let _ = self.committer.take().map(JoinHandle::join);
        let _ = self.flusher.take().map(JoinHandle::join);
        let _ = self.attendant.take().map(JoinHandle::join);
        self.shared.catalog.close();
        let _ = self.indexer.take().map(JoinHandle::join);
        self.shared.supply.close();
        let _ = self.zeroer.take().map(JoinHandle::join);
    }
}

impl Store {
    /// Opens the store in `options.data_dir`, creating it if there is nothing. Blocks while the
    /// journal is read.
    ///
    /// # Errors
    /// [`OpenError`]; nothing on disk was changed if it is `Corrupt`, `NotAStore`, `Locked` or
    /// `Options`.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        options.check()?;
        let data_dir = options.data_dir.clone();
        os::OsVfs::create_root(&data_dir)?;
        Self::drive(os::platform(data_dir), options)
    }

    /// As [`open`](Self::open), with all its threads, but on any platform.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(feature = "sim")]
    pub fn open_on(platform: Platform, options: Options) -> Result<Self, OpenError> {
        options.check()?;
        Self::drive(platform, options)
    }

    fn drive(platform: Platform, options: Options) -> Result<Self, OpenError> {
        let pool = Pool::new(options.read_threads)?;
        let Parts { shared, committer, flusher, opened, lock } =
            open_parts(platform, options, pool)?;
        let (told, ended) = oneshot::channel();
        let held = Arc::new(Held { lock: Some(lock), told: Some(told) });
        let (by_committer, supply) = (held.clone(), shared.clone());
        let committer = os::spawn("braidlog-commit", move || {
            committer.run();
            // Nobody takes a slot any more.
            supply.supply.close();
            drop(by_committer);
        })?;
        let mut threads = Threads {
            shared: shared.clone(),
            committer: Some(committer),
            zeroer: None,
            flusher: None,
            indexer: None,
            attendant: None,
            ended: Mutex::new(Some(ended)),
        };
        let (by_zeroer, supply) = (held.clone(), shared.clone());
        threads.zeroer = Some(os::spawn_behind("braidlog-zero", move || {
            supply.supply.run(&*supply.platform.vfs);
            drop(by_zeroer);
        })?);
        threads.flusher = Some(os::spawn_behind("braidlog-flush", move || {
            flusher.run();
            drop(held);
        })?);
        shared.catalog.keep();
        let indexer = Indexer::new(shared.clone());
        threads.indexer = Some(os::spawn_behind("braidlog-index", move || indexer.run())?);
        let attended = shared.clone();
        threads.attendant = Some(os::spawn("braidlog-attend", move || attend::run(&attended))?);
        Ok(Self { shared, threads: Arc::new(threads), opened })
    }

    /// A store that nothing drives: somebody takes the steps of its committer.
    #[cfg(feature = "sim")]
    pub(super) fn undriven(shared: Arc<Shared>, opened: Opened) -> Self {
        let threads = Threads {
            shared: shared.clone(),
            committer: None,
            zeroer: None,
            flusher: None,
            indexer: None,
            attendant: None,
            ended: Mutex::new(None),
        };
        Self { shared, threads: Arc::new(threads), opened }
    }

    /// What was found when the store was opened.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// Creates a run, durably. Creating it again with the same parameters returns it; creating it
    /// after it was deleted makes another run. With an idempotency key that was used for the task,
    /// and has not expired, it returns the run that was created with it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::TooLarge`], [`Refusal::RunExists`].
    pub async fn create_run(&self, create: Create) -> Result<CreatedRun, Error> {
        create.check()?;
        create.check_not_reserved()?;
        match create.spec.idempotency_key.is_empty() {
            true => self.create_ticket(&create).await?.await,
            false => self.create_by_key(create).await,
        }
    }

    pub(super) async fn create_ticket(&self, create: &Create) -> Result<Ticket<CreatedRun>, Error> {
        let key = RunKey { namespace: create.namespace.clone(), run_id: create.run_id.clone() };
        let _stop = self.shared.stop_on_panic(PANICKED);
        let (mut shard, found) = self.shared.find(&key).await?;
        if let Some(run) = found.map(|run_no| shard.run(run_no)).filter(|run| !run.is_deleted()) {
            let answer = create.check_same(&run.state);
            let answer = answer.map(|()| CreatedRun { run: run.info(), created: false });
            return Ok(self.shared.settled(run, answer));
        }
        self.shared.check_room(create.frame_bytes_max(), Purpose::Create)?;
        let (run, frame, facts) = self.new_run(&shard, create)?;
        let run_no = run.state.run_no;
        shard.insert(run);
        let run = shard.run(run_no);
        let answer = CreatedRun { run: run.info(), created: true };
        Ok(self.shared.enqueue(run, frame, facts, None, answer))
    }

    fn new_run(&self, shard: &Shard, create: &Create) -> Result<(Run, Frame, Facts), Refusal> {
        let vshard = vshard_of(&create.namespace, &create.run_id);
        let new = NewRun {
            run_no: shard.next_run_no(vshard),
            run_uid: RunUid(self.shared.platform.random_id()),
        };
        let (state, frame, facts) = RunState::create(create, new, self.shared.now_ms())?;
        let published = Published::new(state.run_uid);
        Ok((Run::new(state, published), frame, facts))
    }

    /// Describes a run.
    ///
    /// # Errors
    /// [`Refusal::RunNotFound`], [`Refusal::RunDeleted`].
    pub async fn get_run(&self, run: &RunKey) -> Result<RunInfo, Error> {
        self.shared
            .with_run(run, |shared, run| {
                let info = match run.is_deleted() {
                    true => Err(Refusal::RunDeleted),
                    false => Ok(run.info()),
                };
                Ok(shared.settled(run, info))
            })
            .await?
            .await
    }

    /// Closes a run exactly once. Closing it again with the same outcome gives the first answer.
    ///
    /// # Errors
    /// Those of [`RunState::close`], and [`Refusal::RunNotFound`].
    pub async fn close_run(&self, run: &RunKey, close: Close) -> Result<ClosedRun, Error> {
        let size = close.frame_bytes_max();
        let permit = self.permit(size).await?;
        self.shared
            .with_run(run, |shared, run| {
                shared.check_room(size, Purpose::End)?;
                let decided = run.state.close(&close, &shared.context(run));
                Ok(shared.decided(run, decided, permit, |run, closed| ClosedRun {
                    run: run.info(),
                    closed_seq: closed.seq,
                    deduplicated: closed.deduplicated,
                }))
            })
            .await?
            .await
    }

    /// Closes one stream of a run; the run goes on.
    ///
    /// # Errors
    /// Those of [`RunState::close_stream`], and [`Refusal::RunNotFound`].
    pub async fn close_stream(&self, run: &RunKey, close: CloseStream) -> Result<StreamEnd, Error> {
        self.shared
            .with_run(run, |shared, run| {
                shared.check_room(EVENT_FRAME_BYTES_MAX, Purpose::End)?;
                let decided = run.state.close_stream(&close, &shared.context(run));
                Ok(shared.decided(run, decided, None, |_, end| end))
            })
            .await?
            .await
    }

    /// Gives up the records of a stream below an index; answers with the first that is kept.
    ///
    /// # Errors
    /// Those of [`RunState::trim`], and [`Refusal::RunNotFound`].
    pub async fn trim(&self, run: &RunKey, trim: Trim) -> Result<Index, Error> {
        self.shared
            .with_run(run, |shared, run| {
                shared.check_room(EVENT_FRAME_BYTES_MAX, Purpose::End)?;
                let decided = run.state.trim(&trim, &shared.context(run));
                Ok(shared.decided(run, decided, None, |_, trim| trim))
            })
            .await?
            .await
    }

    /// Deletes a run with all it holds, open or closed. Its readers and all further calls get
    /// [`Refusal::RunDeleted`] at once, for a day, then [`Refusal::RunNotFound`]; creating the name
    /// again makes another run. Its bytes are given back within a day. Deleting again gives the
    /// first answer, as long as nobody has created the name again: with the identity given, a
    /// repetition never deletes that other run.
    ///
    /// # Errors
    /// Those of [`RunState::delete`], and [`Refusal::RunNotFound`].
    pub async fn delete_run(&self, run: &RunKey, delete: Delete) -> Result<Deleted, Error> {
        self.shared
            .with_run(run, |shared, run| {
                shared.check_room(EVENT_FRAME_BYTES_MAX, Purpose::End)?;
                let decided = run.state.delete(&delete, &shared.context(run));
                Ok(shared.decided(run, decided, None, |_, deleted| deleted))
            })
            .await?
            .await
    }

    /// Appends a batch to a stream, all or nothing. The answer means that it is on disk and
    /// visible.
    ///
    /// # Errors
    /// Those of [`RunState::append`], and [`Refusal::RunNotFound`]. After
    /// [`Error::OutcomeUnknown`], repeat with the same producer numbers.
    pub async fn append(
        &self,
        run: &RunKey,
        append: Append,
        absent: IfAbsent,
    ) -> Result<Appended, Error> {
        self.submit(run, append, absent).await?.await
    }

    /// As [`append`](Self::append), but returns as soon as the batch is decided: batches submitted
    /// one after the other are appended in that order, and the tickets tell when each is durable.
    ///
    /// Waits while more than `ingest_bytes` of appends wait for their commit.
    ///
    /// # Errors
    /// What can be refused without looking at the run; everything else comes with the ticket.
    pub async fn submit(
        &self,
        run: &RunKey,
        append: Append,
        absent: IfAbsent,
    ) -> Result<Ticket<Appended>, Error> {
        append.check()?;
        let permit = self.permit(append.frame_bytes_max()).await?;
        self.append_ticket(run, &append, absent, permit).await
    }

    async fn append_ticket(
        &self,
        key: &RunKey,
        append: &Append,
        absent: IfAbsent,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Ticket<Appended>, Error> {
        let shared = &self.shared;
        let _stop = shared.stop_on_panic(PANICKED);
        let (mut shard, found) = shared.find(key).await?;
        let size = append.frame_bytes_max();
        if let Some(run) = found.map(|run_no| shard.run(run_no)) {
            shared.check_room(size, Purpose::Add)?;
            let decided = run.state.append(append, &self.shared.context(run));
            let is_accepted = matches!(decided, Ok(Decision::Accepted { .. }));
            let ticket = self.shared.decided(run, decided, permit, |_, appended| appended);
            if is_accepted {
                self.trim_oldest(run, append);
            }
            return Ok(ticket);
        }
        if absent == IfAbsent::Refuse {
            return Err(Refusal::RunNotFound.into());
        }
        shared.check_room(size, Purpose::Create)?;
        let RunKey { namespace, run_id } = key.clone();
        let create = Create { namespace, run_id, ..Create::default() };
        create.check_not_reserved()?;
        let (mut run, frame, facts) = self.new_run(&shard, &create)?;
        // Decided before anything is queued: a refused append creates no run.
        let context = self.shared.context(&run);
        let decided = run.state.append(append, &context).map_err(Error::Refused)?;
        let run_no = run.state.run_no;
        shard.insert(run);
        let run = shard.run(run_no);
        let created = self.shared.enqueue(run, frame, facts, None, ());
        drop(created);
        Ok(self.shared.decided(run, Ok(decided), permit, |_, appended| appended))
    }

    /// Milliseconds since the Unix epoch, as the store tells time.
    pub fn clock_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// Waits until the store has stopped after a failed write, and tells the first cause.
    pub async fn stopped(&self) -> Arc<str> {
        let mut phase = self.shared.phase();
        loop {
            if let Phase::Stopped(cause) = &*phase.borrow_and_update() {
                return cause.clone();
            }
            if phase.changed().await.is_err() {
                return "the store was dropped".into();
            }
        }
    }

    /// Closes the store: refuses further commands, makes durable what was taken, marks the journal
    /// clean. Readers end with [`Error::ShuttingDown`]. Closing it again waits for nothing.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it had stopped after a failed write.
    pub async fn close(&self) -> Result<(), Error> {
        self.shared.close();
        let ended = self.threads.ended.lock().take();
        if let Some(ended) = ended {
            // An error means that threads panicked; the joins of them say so.
            let _ = ended.await;
        }
        match self.shared.check_open() {
            Err(stopped @ Error::Stopped { .. }) => Err(stopped),
            _ => Ok(()),
        }
    }

    /// Takes memory for an append of so many bytes, waiting for earlier ones if there is none.
    pub(super) async fn permit(&self, size: usize) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let units = size.div_ceil(INGEST_UNIT) as u32 + 1;
        match self.shared.ingest.clone().acquire_many_owned(units).await {
            Ok(permit) => Ok(Some(permit)),
            Err(_) => Err(self.shared.check_open().err().unwrap_or(Error::ShuttingDown)),
        }
    }

    /// Gives up the oldest records of the stream that was appended to, if the run passes a limit
    /// and is to be kept within it that way. The trim follows the append; nobody waits for it.
    fn trim_oldest(&self, run: &mut Run, append: &Append) {
        let context = self.shared.context(run);
        let Some(trim) = run.state.oldest_beyond(&append.stream, &context.limits) else { return };
        let trim = Trim { run_uid: None, stream: append.stream.clone(), trim };
        if let Ok(Decision::Accepted { frame, facts, .. }) = run.state.trim(&trim, &context) {
            drop(self.shared.enqueue(run, frame, facts, None, ()));
        }
    }

    /// Waits until everything queued so far is durable.
    pub(super) async fn barrier(&self) -> Result<(), Error> {
        self.shared.barrier().await
    }

    /// Copies everything that is durable now into packs, and waits for it. A running store does so
    /// by itself; this is for who wants to measure, or is about to copy the directory.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`], [`Error::Stopped`].
    pub async fn flush(&self) -> Result<(), Error> {
        let (wanted, mut rounds) = self.shared.unflushed.ask();
        loop {
            self.shared.check_open()?;
            if wanted <= *rounds.borrow_and_update() {
                return Ok(());
            }
            // Told of a round that is done, and of the end of the store.
            if rounds.changed().await.is_err() {
                return Err(Error::ShuttingDown);
            }
        }
    }
}
