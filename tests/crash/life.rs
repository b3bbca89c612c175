//! One life of a store, from its opening to its end, with everybody who talks to it: callers that
//! wait for answers, and readers that follow every run. They look after every step, and before
//! every call to the disk inside of a step; what they are told or shown then is sure in the model.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use braidlog::{
    Append, Close, CloseStream, Create, Delete, Error, IfAbsent, Index, NewRecord, OpenError,
    Options, Producer, Query, Refusal, RunUid, Start, Store, Tail, TailItem, Trim,
    engine::{Flushed, Progress, Stepper},
    platform::sim::{Call, SimClock, SimDisk},
};
use parking_lot::Mutex;

use super::{
    model::{Answer, Batch, Expected, Known, Model, Presence, Request},
    survey::{ready, run_key, stream_name},
    watch::{self, Watcher},
};

/// A disk as stopped in one of its operations, and what was sure by then.
pub struct Point {
    pub disk: SimDisk,
    pub known: Known,
}

/// A call that changed or synced something, as the platform saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub call: Call,
    pub path: String,
    pub succeeded: bool,
}

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

struct Waiting {
    expected: Expected,
    request: Request,
    answer: Answering,
}

/// Everybody who talks to the store.
#[derive(Default)]
struct People {
    model: Model,
    disk: SimDisk,
    waiting: Vec<Waiting>,
    followers: Vec<Follower>,
    points: Vec<Point>,
    known: Option<Known>,
    made: Vec<Made>,
    errors: Vec<Error>,
    /// Slots that were filled with zeros.
    slots_zeroed: u64,
    /// Producer batches without an answer, to be sent again in the next life.
    unanswered: Vec<(usize, Batch)>,
}

/// Somebody who follows a run whenever it is there.
#[derive(Default)]
struct Follower {
    tail: Option<Tail>,
    /// Which of the runs of the name.
    generation: usize,
    /// Everything below was shown, or had been trimmed.
    next: u64,
    /// Where to go on after a rest.
    cursor: Option<String>,
    rests: bool,
}

struct Watch(Mutex<People>);

impl Watcher for Watch {
    fn before(&self) {
        self.0.lock().look();
    }

    fn zeroed(&self, path: &str) {
        self.0.lock().slots_zeroed += u64::from(path.starts_with("journal/"));
    }

    fn after(&self, call: Call, path: &str, succeeded: bool) {
        let people = &mut *self.0.lock();
        people.made.push(Made { call, path: path.to_owned(), succeeded });
        for disk in people.disk.take_crash_points() {
            let model = &people.model;
            let known = people.known.get_or_insert_with(|| model.known()).clone();
            people.points.push(Point { disk, known });
        }
    }
}

impl People {
    /// Takes the answers there are and reads what is visible.
    fn look(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut n = 0;
        while n < self.waiting.len() {
            match self.waiting[n].answer.as_mut().poll(&mut context) {
                Poll::Pending => n += 1,
                Poll::Ready(answer) => {
                    let waiting = self.waiting.remove(n);
                    self.take_answer(waiting.expected, waiting.request, answer);
                }
            }
        }
        for run in 0..self.followers.len() {
            self.follow(run);
        }
        // Most of the time nothing is new; crash points then share what is known.
        let is_same = |known: &Known| {
            known.iter().zip(&self.model.runs).all(|(known, run)| *known == run.sure)
        };
        if !self.known.as_ref().is_some_and(is_same) {
            self.known = Some(self.model.known());
        }
    }

    fn take_answer(&mut self, expected: Expected, request: Request, answer: Result<Answer, Error>) {
        match answer {
            Ok(_) | Err(Error::Refused(_)) => self.model.answered(&expected, &answer),
            Err(error) => {
                self.give_up(&expected, request);
                self.errors.push(error);
            }
        }
    }

    /// The caller will never know; a producer asks again.
    fn give_up(&mut self, expected: &Expected, request: Request) {
        if let Request::Append(batch) = request
            && batch.producer.is_some()
            && expected.is_accepted()
        {
            self.unanswered.push((expected.run, Batch { expected_index: None, ..batch }));
        }
    }

    fn follow(&mut self, number: usize) {
        let (follower, run) = (&mut self.followers[number], &mut self.model.runs[number]);
        let Some(tail) = &mut follower.tail else { return };
        let generation = follower.generation;
        loop {
            match tail.try_next() {
                Ok(Some(TailItem::Records(records, cursor))) => {
                    for record in records.decode().expect("decodes") {
                        run.shown(generation, follower.next, &record);
                        follower.next = record.seq + 1;
                    }
                    follower.cursor = Some(cursor.to_string());
                }
                Ok(None) => break,
                Ok(Some(TailItem::End(_, cursor))) => {
                    assert!(follower.next <= cursor.seq.0, "the end lies behind what was shown");
                    run.check_skipped(generation, follower.next, cursor.seq.0);
                    // There is nothing to wait for, and the run may leave memory.
                    *follower = Follower { rests: true, generation, ..Follower::default() };
                    return;
                }
                Ok(Some(_)) => {}
                Err(Error::Stopped { .. } | Error::ShuttingDown) => return,
                Err(Error::Refused(Refusal::RunDeleted)) => {
                    run.shown_deleted(generation);
                    *follower = Follower::default();
                    return;
                }
                // It comes back, and goes on where it was.
                Err(error @ Error::Io { .. }) => {
                    follower.tail = None;
                    return self.errors.push(error);
                }
                Err(other) => panic!("a reader at the tail of run {number} was told: {other}"),
            }
        }
        let sure = run.sure_tail(generation);
        run.check_skipped(generation, follower.next, sure);
        follower.next = follower.next.max(sure);
    }
}

/// What a life leaves to the next.
pub struct Heritage {
    pub model: Model,
    pub unanswered: Vec<(usize, Batch)>,
}

/// What came of opening a store.
pub struct Opening {
    pub life: Result<Life, OpenError>,
    /// Crash points on the way, if the disk records them.
    pub points: Vec<Point>,
    pub made: Vec<Made>,
}

/// An open store and everybody who talks to it.
pub struct Life {
    pub store: Store,
    stepper: Stepper,
    watch: Arc<Watch>,
}

impl Life {
    /// Opens the store.
    pub fn open(
        disk: &SimDisk,
        clock: &SimClock,
        seed: u64,
        options: &Options,
        model: Model,
    ) -> Opening {
        crate::planted::plant();
        let runs = model.runs.len();
        let people = People { model, disk: disk.clone(), ..People::default() };
        let watch = Arc::new(Watch(Mutex::new(people)));
        let platform = watch::platform(disk, clock, seed, watch.clone());
        let opened = Store::open_stepped(platform, options.clone());
        let mut people = watch.0.lock();
        people.followers.resize_with(runs, Follower::default);
        let (points, made) = (std::mem::take(&mut people.points), people.made.clone());
        drop(people);
        Opening {
            life: opened.map(|(store, stepper)| Self { store, stepper, watch }),
            points,
            made,
        }
    }

    /// Looks at or changes what is known of the store.
    pub fn with_model<T>(&self, look: impl FnOnce(&mut Model) -> T) -> T {
        look(&mut self.watch.0.lock().model)
    }

    /// Lets everybody look.
    pub fn look(&self) {
        self.watch.0.lock().look();
    }

    /// The calls that changed or synced something so far.
    pub fn made(&self) -> Vec<Made> {
        self.watch.0.lock().made.clone()
    }

    /// Failures that callers were told since the last call.
    pub fn take_errors(&self) -> Vec<Error> {
        std::mem::take(&mut self.watch.0.lock().errors)
    }

    /// Slots that were filled with zeros.
    pub fn slots_zeroed(&self) -> u64 {
        self.watch.0.lock().slots_zeroed
    }

    /// Crash points since the last call.
    pub fn take_points(&self) -> Vec<Point> {
        std::mem::take(&mut self.watch.0.lock().points)
    }

    /// Whether anybody waits for an answer.
    pub fn is_waiting(&self) -> bool {
        !self.watch.0.lock().waiting.is_empty()
    }

    /// Starts to follow every run that surely exists, or goes on where the last reader ended.
    pub fn follow_all(&self) {
        let people = &mut *self.watch.0.lock();
        let now_ms = self.store.clock_ms();
        let retention_ms = people.model.retention_ms;
        let seen_ms = people.model.seen_ms.max(now_ms);
        people.model.seen_ms = seen_ms;
        for (number, follower) in people.followers.iter_mut().enumerate() {
            let run = &mut people.model.runs[number];
            let generation = run.sure_generation();
            let is_there = run.state.presence(now_ms) == Presence::There;
            let Some(generation) = generation.filter(|sure| *sure == run.state.generation) else {
                continue;
            };
            if follower.tail.is_some() || !is_there {
                continue;
            }
            if follower.generation != generation {
                *follower = Follower { generation, ..Follower::default() };
            }
            if follower.rests {
                continue;
            }
            let start = follower.cursor.clone().map_or(Start::Beginning, Start::Cursor);
            match ready(self.store.tail(Query::run(run_key(number)).from(start))) {
                Ok(tail) => {
                    let cursor = tail.cursor();
                    assert_eq!(cursor.seq.0, follower.next, "it goes on where it was");
                    run.learn_uid(generation, cursor.run_uid);
                    follower.tail = Some(tail);
                }
                Err(Error::Stopped { .. }) => return,
                // To follow another run made it leave memory, and it had expired.
                Err(Error::Refused(Refusal::RunNotFound | Refusal::RunDeleted))
                    if run.state.may_have_expired(retention_ms, seen_ms) =>
                {
                    run.vanish();
                }
                Err(error @ Error::Io { .. }) => people.errors.push(error),
                Err(other) => panic!("run {number} exists and cannot be followed: {other}"),
            }
        }
        people.look();
    }

    /// The reader of a run goes away, or comes back.
    pub fn rest(&self, run: usize, rests: bool) {
        let follower = &mut self.watch.0.lock().followers[run];
        if let Some(tail) = follower.tail.take() {
            let cursor = tail.cursor();
            follower.next = cursor.seq.0;
            follower.cursor = Some(cursor.to_string());
        }
        follower.rests = rests;
    }

    /// Looks which of the runs that may have expired are gone.
    fn note_vanished(&self) {
        let now_ms = self.store.clock_ms();
        for number in 0..self.with_model(|model| model.runs.len()) {
            let may_be_gone = self.with_model(|model| {
                model.seen_ms = model.seen_ms.max(now_ms);
                let state = &model.runs[number].state;
                state.presence(now_ms) == Presence::There
                    && state.may_have_expired(model.retention_ms, model.seen_ms)
            });
            if !may_be_gone {
                continue;
            }
            let key = run_key(number);
            let mut asked = pin!(self.store.get_run(&key));
            match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                // An earlier run of the name that was deleted is told to be.
                Poll::Ready(Err(Error::Refused(refusal))) => {
                    self.with_model(|model| model.runs[number].vanish());
                    let presence =
                        self.with_model(|model| model.runs[number].state.presence(now_ms));
                    let expected = match presence {
                        Presence::Deleted => Refusal::RunDeleted,
                        _ => Refusal::RunNotFound,
                    };
                    assert_eq!(refusal, expected, "what is told of a run that has expired");
                }
                Poll::Ready(Ok(_) | Err(Error::Stopped { .. })) | Poll::Pending => {}
                Poll::Ready(Err(other)) => panic!("run {number} may have expired: {other}"),
            }
        }
    }

    /// Submits a command. What can be answered at once is answered at once.
    pub fn submit(&self, run: usize, request: Request) {
        self.submit_to(run, request, None);
    }

    /// As [`submit`](Self::submit), for the run of this identity and no other.
    pub fn submit_to(&self, run: usize, request: Request, run_uid: Option<RunUid>) {
        // A run that has expired is gone from the moment it leaves memory.
        self.note_vanished();
        let mut answer = ask(&self.store, run, &request, run_uid);
        let first = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let mut people = self.watch.0.lock();
        let now_ms = self.store.clock_ms();
        let expected = people.model.submit(run, &request, run_uid, now_ms);
        match first {
            Poll::Pending => people.waiting.push(Waiting { expected, request, answer }),
            Poll::Ready(Err(
                error @ (Error::Stopped { .. } | Error::ShuttingDown | Error::DiskFull),
            )) => {
                people.model.take_back(&expected);
                people.errors.push(error);
            }
            Poll::Ready(Err(Error::Busy { .. })) => people.model.take_back(&expected),
            Poll::Ready(answer) => people.take_answer(expected, request, answer),
        }
        people.look();
    }

    /// Lets the store take a step.
    pub fn step(&mut self) -> Progress {
        let progress = self.stepper.step();
        self.look();
        self.follow_all();
        progress
    }

    /// Lets the store take steps until there is nothing to do, or it cannot go on.
    pub fn settle(&mut self) -> Progress {
        loop {
            match self.step() {
                Progress::Worked => {}
                Progress::WaitsForSlot if self.flush() => {}
                stuck => return stuck,
            }
        }
    }

    /// Lets the flusher take one step.
    pub fn flush_step(&mut self) -> Flushed {
        let flushed = self.stepper.flush();
        self.look();
        self.note_vanished();
        flushed
    }

    /// Lets the flusher copy everything that is durable; false if it could not.
    pub fn flush(&mut self) -> bool {
        loop {
            match self.flush_step() {
                Flushed::Worked if !self.stepper.is_flushing() => return true,
                Flushed::Worked => {}
                Flushed::Waits if self.step() == Progress::Worked => {}
                _ => return false,
            }
        }
    }

    /// Lets the flusher go on collecting, by one step; false if nothing is worth it, or a round is under
    /// way.
    pub fn collect(&mut self) -> bool {
        let collected = self.stepper.collect();
        self.look();
        self.note_vanished();
        collected
    }

    /// Lets the log be idle for a while.
    pub fn idle(&mut self) -> Progress {
        let progress = self.stepper.idle();
        self.look();
        progress
    }

    /// What would be left if the machine stopped now.
    pub fn heritage(&self) -> Heritage {
        let people = self.watch.0.lock();
        let mut left = People { unanswered: people.unanswered.clone(), ..People::default() };
        for waiting in &people.waiting {
            left.give_up(&waiting.expected, waiting.request.clone());
        }
        Heritage { model: people.model.clone(), unanswered: left.unanswered }
    }

    /// Ends in order: everything taken is written, the log is marked clean.
    pub fn shut_down(mut self) -> (Heritage, Vec<Point>) {
        self.settle();
        ready(self.store.close()).expect("the store closes");
        let Self { store, stepper, watch } = self;
        stepper.finish();
        leave(store, &watch)
    }

    /// Ends without a word.
    pub fn abandon(self) -> (Heritage, Vec<Point>) {
        let Self { store, stepper, watch } = self;
        drop(stepper);
        leave(store, &watch)
    }
}

fn leave(store: Store, watch: &Watch) -> (Heritage, Vec<Point>) {
    let people = std::mem::take(&mut *watch.0.lock());
    let People { model, waiting, followers, points, unanswered, .. } = people;
    let mut left = People { unanswered, ..People::default() };
    for Waiting { expected, request, answer } in waiting {
        drop(answer);
        left.give_up(&expected, request);
    }
    drop((followers, store));
    (Heritage { model, unanswered: left.unanswered }, points)
}

/// Asks the store; the future owns all it needs.
fn ask(store: &Store, run: usize, request: &Request, run_uid: Option<RunUid>) -> Answering {
    let (store, key) = (store.clone(), run_key(run));
    match request.clone() {
        Request::Create => Box::pin(async move {
            let create =
                Create { namespace: key.namespace, run_id: key.run_id, ..Create::default() };
            let answer = store.create_run(create).await?;
            Ok(Answer::Created { uid: answer.run.run_uid, created: answer.created })
        }),
        Request::Append(batch) => Box::pin(async move {
            let absent = if batch.create { IfAbsent::Create } else { IfAbsent::Refuse };
            let append = Append { run_uid, ..append(&batch) };
            let answer = store.append(&key, append, absent).await?;
            assert!(!answer.positions_forgotten, "fewer appends than are remembered");
            Ok(Answer::Appended {
                uid: answer.run_uid,
                seq: answer.first_seq.0,
                index: answer.first_index.0,
                count: u64::from(answer.count),
                time_ms: answer.time_ms,
                again: answer.deduplicated,
            })
        }),
        Request::CloseStream(name) => Box::pin(async move {
            let close = CloseStream { run_uid, stream: stream_name(name).into() };
            let end = store.close_stream(&key, close).await?;
            Ok(Answer::StreamClosed { final_index: end.final_index.0, again: end.deduplicated })
        }),
        Request::Close(outcome) => Box::pin(async move {
            let closed =
                store.close_run(&key, Close { run_uid, outcome, ..Close::default() }).await?;
            Ok(Answer::Closed { seq: closed.closed_seq.0, again: closed.deduplicated })
        }),
        Request::Trim(name, trim) => Box::pin(async move {
            let stream = stream_name(name).into();
            let trim = Trim { run_uid, stream, trim: Index(trim) };
            Ok(Answer::Trimmed(store.trim(&key, trim).await?.0))
        }),
        Request::Delete => Box::pin(async move {
            let deleted = store.delete_run(&key, Delete { run_uid }).await?;
            Ok(Answer::Deleted { deleted_ms: deleted.deleted_ms, again: deleted.deduplicated })
        }),
    }
}

fn append(batch: &Batch) -> Append {
    let producer = |numbers: super::model::Numbers| Producer {
        id: format!("p{}", numbers.id).into(),
        epoch: numbers.epoch,
        seq: numbers.seq,
    };
    Append {
        stream: stream_name(batch.stream).into(),
        records: batch.bodies.iter().cloned().map(NewRecord::new).collect(),
        expected_index: batch.expected_index.map(Index),
        producer: batch.producer.map(producer),
        ..Append::default()
    }
}
