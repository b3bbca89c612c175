//! Those who talk to the server: they write, follow, send and answer, die and come back.
//!
//! Each is a host of the simulated network. What it has to remember beyond its death is on the
//! [`Stage`]; all else is lost with it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use braidlog::{
    Append, Close, Create, End, Error, IfAbsent, NewRecord, Outcome, Producer, Query, Received,
    Refusal, Release, RunKey, RunSpec, Send, Start, TailItem,
    client::{Appender, AppenderOptions, Client, Job, Receipt, RetryPolicy, Worker, WorkerOptions},
    platform::sim::SimRng,
};
use bytes::Bytes;
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    trace::{ANSWERS, INPUTS, Trace, What, log_of},
    wire::client,
};

/// Runs that are appended to, and those that are sent inputs.
pub(crate) const OUT_RUNS: u64 = 2;
pub(crate) const IN_RUNS: u64 = 2;
/// Those who append one batch after the other, and how.
pub(crate) const WRITERS: [Writer; 4] =
    [Writer::Client, Writer::Patient, Writer::Once, Writer::Refused];
/// Those who append over sessions.
pub(crate) const SESSIONS: u64 = 2;
pub(crate) const TAILS: [Following; 4] =
    [Following::Cursor, Following::Index, Following::Slow, Following::Slow];
pub(crate) const CONSUMERS: u64 = 3;

/// Batches on the way in a session.
const IN_FLIGHT_MAX: usize = 12;
/// Inputs that a consumer may have without an ack.
const UNACKED_MAX: usize = 4;
/// Inputs after which a consumer gives a run back, or goes silent.
const STAY: u64 = 12;
const TASK: &str = "answer";
const OUT: &str = "out";
/// What goes over the same session beside it.
const SIDE: &str = "side";
/// What ends a run of inputs.
const BYE: &str = "bye";
/// Milliseconds between two things that somebody does, at most.
const PAUSE_MS: u64 = 120;

/// How a writer goes about what fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Has the client repeat it.
    Client,
    /// Repeats it itself, under the same number.
    Patient,
    /// Has no numbers: what may be there is not repeated.
    Once,
    /// As [`Self::Client`], and much of what it asks for is refused.
    Refused,
}

/// How a tail goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Following {
    /// From its last cursor.
    Cursor,
    /// From the index of the record that comes next; every failure is its own to deal with.
    Index,
    /// As [`Self::Cursor`], and sometimes it does not read for long.
    Slow,
}

/// What all hosts share, and what outlives them.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) trace: RefCell<Trace>,
    /// The runs exist.
    is_set: Cell<bool>,
    /// Nothing goes wrong any more: it is time to come to an end.
    pub(crate) is_calm: Cell<bool>,
    /// All inputs are answered.
    is_answered: Cell<bool>,
    /// Hosts that have done all they had to.
    pub(crate) done: RefCell<BTreeSet<String>>,
}

/// A caller that may die: its name, its randomness, and how far it is.
#[derive(Clone)]
pub(crate) struct Caller {
    stage: Rc<Stage>,
    pub(crate) name: Rc<str>,
    rng: Rc<RefCell<SimRng>>,
    /// What is next: a batch, an index.
    next: Rc<Cell<u64>>,
    lives: Rc<Cell<u64>>,
    cursor: Rc<RefCell<Option<String>>>,
}

/// The body of a record: its name, and more bytes that follow from it.
fn body(name: &str) -> Bytes {
    let mut rng = SimRng::new(xxh3_64(name.as_bytes()));
    let more = if rng.chance(1, 16) { rng.below(24 << 10) } else { rng.below(200) };
    let mut body = vec![b'.'; name.len() + 1 + more as usize];
    body[..name.len()].copy_from_slice(name.as_bytes());
    body[name.len()] = b' ';
    body.into()
}

/// The name of a body.
fn name_of(data: &[u8]) -> String {
    let name = data.split(|byte| *byte == b' ').next().unwrap_or_default();
    let name = String::from_utf8(name.to_vec()).expect("text");
    assert_eq!(data, &body(&name)[..], "{name} is as it was written");
    name
}

fn out_run(n: u64) -> String {
    format!("out-{}", n % OUT_RUNS)
}

fn in_run(n: u64) -> String {
    format!("in-{}", n % IN_RUNS)
}

impl Caller {
    pub(crate) fn new(stage: &Rc<Stage>, name: String, seed: u64) -> Self {
        Self {
            stage: stage.clone(),
            name: name.into(),
            rng: Rc::new(RefCell::new(SimRng::new(seed))),
            next: Rc::default(),
            lives: Rc::default(),
            cursor: Rc::default(),
        }
    }

    fn below(&self, n: u64) -> u64 {
        self.rng.borrow_mut().below(n)
    }

    async fn pause(&self) {
        sleep(Duration::from_millis(1 + self.below(PAUSE_MS))).await;
    }

    fn note(&self, what: What) -> u64 {
        self.stage.note(turmoil::sim_elapsed().unwrap_or_default(), what)
    }

    /// Notes a failure that a caller may live with; any other is a mistake.
    fn fail(&self, error: &Error) {
        match error {
            Error::OutcomeUnknown { .. }
            | Error::Unavailable { .. }
            | Error::Busy { .. }
            | Error::ShuttingDown
            | Error::Stopped { .. }
            | Error::Io { .. } => self.note(What::Unknown { who: self.name.to_string() }),
            error => panic!("{}: {error}", self.name),
        };
    }

    /// Begins a life, once the stage is set.
    async fn begin(&self) {
        if 0 < self.lives.replace(self.lives.get() + 1) {
            self.note(What::Resumed { who: self.name.to_string() });
        }
        while !self.stage.is_set.get() {
            self.pause().await;
        }
    }

    fn end(&self) -> turmoil::Result {
        self.stage.done.borrow_mut().insert(self.name.to_string());
        Ok(())
    }

    fn sent(&self, run: &str, stream: &str, bodies: &[String]) {
        let log = log_of(run, stream);
        self.note(What::Sent { log, bodies: bodies.to_vec() });
    }

    fn acked(&self, run: &str, stream: &str, bodies: &[String], index: u64, again: bool) {
        let (log, bodies) = (log_of(run, stream), bodies.to_vec());
        self.note(What::Acked { log, bodies, index, again });
    }

    /// Names of the records of a batch: always the same.
    fn batch(&self, number: u64) -> Vec<String> {
        let records = 1 + xxh3_64(format!("{}.{number}", self.name).as_bytes()) % 3;
        (0..records).map(|n| format!("{}.{number}.{n}", self.name)).collect()
    }

    /// Appends batches until all is calm, and a few more.
    pub(crate) async fn write(self, n: u64, kind: Writer) -> turmoil::Result {
        self.begin().await;
        let client = client(match kind {
            Writer::Client | Writer::Once | Writer::Refused => RetryPolicy::default(),
            Writer::Patient => RetryPolicy::never(),
        });
        let (run, mut left) = (out_run(n), 3);
        while 0 < left {
            left -= u64::from(self.stage.is_calm.get());
            if kind == Writer::Refused {
                self.ask_in_vain(&client, &run).await;
            }
            let number = self.next.get();
            let bodies = self.batch(number);
            let producer = Producer { id: self.name.to_string().into(), epoch: 0, seq: number };
            let append = Append {
                stream: OUT.into(),
                records: bodies.iter().map(|name| NewRecord::new(body(name))).collect(),
                producer: (kind != Writer::Once).then_some(producer),
                ..Append::default()
            };
            if kind == Writer::Once {
                // Whoever comes back after death does not do it again either.
                self.next.set(number + 1);
            }
            self.sent(&run, OUT, &bodies);
            match client.append(&RunKey::new(run.clone()), append, IfAbsent::Refuse).await {
                Ok(appended) => {
                    let (index, again) = (appended.first_index.0, appended.deduplicated);
                    self.acked(&run, OUT, &bodies, index, again);
                    self.next.set(number + 1);
                }
                Err(error) => {
                    self.fail(&error);
                    // It has to know before it comes to an end.
                    left += u64::from(self.stage.is_calm.get() && kind != Writer::Once);
                }
            }
            self.pause().await;
        }
        self.end()
    }

    /// Asks for appends that cannot be: at a place that is no more.
    async fn ask_in_vain(&self, client: &Client, run: &str) {
        for _ in 0..self.below(8) {
            let append = Append {
                stream: OUT.into(),
                records: vec![NewRecord::new(vec![b'#'; 60 << 10])],
                expected_index: Some(braidlog::Index(u64::MAX >> 1)),
                ..Append::default()
            };
            match client.append(&RunKey::new(run), append, IfAbsent::Refuse).await {
                Ok(_) => panic!("{run} is not that long"),
                Err(Error::Refused(Refusal::IndexMismatch { .. })) => {}
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Appends to two streams over the session that both share, until all is calm, and a few batches
    /// more.
    pub(crate) async fn stream(self, n: u64) -> turmoil::Result {
        self.begin().await;
        let (client, run) = (client(RetryPolicy::default()), out_run(n));
        let (out, side) = (self.lane(&client, &run, OUT), self.lane(&client, &run, SIDE));
        tokio::join!(out, side);
        self.end()
    }

    async fn lane(&self, client: &Client, run: &str, stream: &str) {
        let mut left = 8;
        while 0 < left {
            let options = AppenderOptions {
                producer_id: Some(format!("{}-{stream}", self.name).into()),
                epoch: self.lives.replace(self.lives.get() + 1),
                in_flight_max: IN_FLIGHT_MAX,
                ..AppenderOptions::new(stream)
            };
            let appender = client.appender(&RunKey::new(run), options).expect("options are right");
            if let Err(error) = self.submit(appender, run, stream, &mut left).await {
                self.fail(&error);
                left = left.max(1);
            }
        }
    }

    /// Appends many batches at a time. Whatever is open when it fails is left as it is.
    async fn submit(
        &self,
        mut to: Appender,
        run: &str,
        stream: &str,
        left: &mut u64,
    ) -> Result<(), Error> {
        let mut waiting: VecDeque<(Vec<String>, Receipt)> = VecDeque::new();
        while 0 < *left || !waiting.is_empty() {
            if 0 < *left && waiting.len() < IN_FLIGHT_MAX {
                *left -= u64::from(self.stage.is_calm.get());
                let bodies = self.batch(self.next.replace(self.next.get() + 1));
                let records = bodies.iter().map(|name| NewRecord::new(body(name))).collect();
                self.sent(run, stream, &bodies);
                waiting.push_back((bodies, to.submit(records).await?));
                if self.below(3) == 0 {
                    self.pause().await;
                }
            }
            if *left == 0 || self.below(IN_FLIGHT_MAX as u64) < waiting.len() as u64 {
                let Some((bodies, receipt)) = waiting.pop_front() else { continue };
                let appended = receipt.await?;
                self.acked(run, stream, &bodies, appended.first_index.0, appended.deduplicated);
            }
        }
        to.finish().await
    }

    /// Follows a stream to its end.
    pub(crate) async fn follow(self, n: u64, kind: Following) -> turmoil::Result {
        self.begin().await;
        let client = client(match kind {
            Following::Cursor | Following::Slow => RetryPolicy::default(),
            Following::Index => RetryPolicy::never(),
        });
        let (run, log) = (out_run(n), log_of(&out_run(n), OUT));
        loop {
            let cursor = self.cursor.borrow().clone().filter(|_| kind != Following::Index);
            let start = match cursor {
                Some(cursor) => Start::Cursor(cursor),
                None => Start::Index(braidlog::Index(self.next.get())),
            };
            match client.tail(Query::stream(RunKey::new(run.clone()), OUT).from(start)).await {
                Ok(mut tail) => loop {
                    match tail.next().await {
                        Ok(item) => {
                            if self.see(&log, item) {
                                self.note(What::Ended { tail: self.name.to_string(), log });
                                return self.end();
                            }
                        }
                        Err(error) => {
                            self.fail(&error);
                            break;
                        }
                    }
                    if kind == Following::Slow {
                        let long = if self.below(40) == 0 { 15_000 } else { 60 };
                        sleep(Duration::from_millis(self.below(long))).await;
                    }
                },
                Err(error) => self.fail(&error),
            }
            self.note(What::Resumed { who: self.name.to_string() });
            self.pause().await;
        }
    }

    /// Takes what a tail was given; true at the end.
    fn see(&self, log: &str, item: TailItem) -> bool {
        match item {
            TailItem::Records(records, cursor) => {
                for record in records.decode().expect("records") {
                    let (tail, index) = (self.name.to_string(), record.index);
                    let body = name_of(&record.data);
                    self.note(What::Seen { tail, log: log.into(), index, body });
                    self.next.set(index + 1);
                }
                *self.cursor.borrow_mut() = Some(cursor.to_string());
                false
            }
            TailItem::Gap(gap, _) => panic!("nothing was trimmed: {gap:?}"),
            TailItem::End(End::Closed(_), _) => true,
            TailItem::End(End::Limit, _) => panic!("there is no limit"),
            _ => false,
        }
    }

    /// Sends a run its inputs, some of them twice, and at the end the one that ends it.
    pub(crate) async fn send(self, n: u64) -> turmoil::Result {
        self.begin().await;
        let (client, run, mut left) = (client(RetryPolicy::default()), in_run(n), 4);
        while 0 < left {
            left -= u64::from(self.stage.is_calm.get());
            let number = self.next.get();
            let name = number.to_string();
            let data = if left == 0 { BYE.to_owned() } else { name.clone() };
            let message = NewRecord { id: format!("m{number}"), ..NewRecord::new(data) };
            let send = Send { run_uid: None, stream: INPUTS.into(), message };
            let bodies = [name];
            self.sent(&run, INPUTS, &bodies);
            let mut sent = client.send(&RunKey::new(run.clone()), send.clone()).await;
            if sent.is_ok() && self.below(6) == 0 {
                sent = client.send(&RunKey::new(run.clone()), send).await;
            }
            match sent {
                Ok(sent) => {
                    self.acked(&run, INPUTS, &bodies, sent.index.0, sent.deduplicated);
                    self.next.set(number + 1);
                }
                Err(error) => {
                    self.fail(&error);
                    left += u64::from(self.stage.is_calm.get());
                }
            }
            self.pause().await;
        }
        self.end()
    }

    /// Answers inputs of whichever run it gets, until all are answered.
    pub(crate) async fn consume(self) -> turmoil::Result {
        self.begin().await;
        let client = client(RetryPolicy::default());
        let options = WorkerOptions { term: Duration::from_secs(2) };
        let worker = Worker::new(client, self.name.to_string(), [TASK], options);
        while !self.stage.is_answered.get() {
            match worker.claim(Duration::from_millis(500)).await {
                Ok(Some(job)) => match self.answer(&job).await {
                    Ok(()) => {}
                    // Somebody else has the run, or it has ended.
                    Err(Error::Refused(Refusal::Fenced { .. } | Refusal::Closed { .. })) => {}
                    Err(error) => self.fail(&error),
                },
                Ok(None) => {}
                Err(error) => self.fail(&error),
            }
        }
        self.end()
    }

    /// Answers what a run owes, for a while.
    async fn answer(&self, job: &Job) -> Result<(), Error> {
        let run = job.key().run_id.to_string();
        let mut left = 1 + self.below(STAY);
        let opened = self.note(What::Resumed { who: self.name.to_string() });
        let mut receiver = job.receive(INPUTS, UNACKED_MAX).await?;
        while 0 < left {
            let Received::Inputs(inputs) = receiver.next().await? else { return Ok(()) };
            for input in inputs {
                let index = input.record.index;
                let log = log_of(&run, ANSWERS);
                self.note(What::Delivered { log, input: index, opened });
                if &*input.record.data == BYE.as_bytes() {
                    return job.turn().ack(INPUTS, &input).complete(BYE).await.map(drop);
                }
                let attempt = self.next.replace(self.next.get() + 1);
                let bodies = [format!("{index}:{}.{attempt}", self.name)];
                self.sent(&run, ANSWERS, &bodies);
                let turn = job.turn().ack(INPUTS, &input).append(ANSWERS, body(&bodies[0]));
                let committed = turn.commit().await?.committed;
                let answer = committed.spans.iter().find(|span| span.0.0 != 0);
                let place = answer.expect("an answer").1.0;
                self.acked(&run, ANSWERS, &bodies, place, false);
                left = left.saturating_sub(1);
                if self.below(3) == 0 {
                    self.pause().await;
                }
            }
        }
        if self.below(3) == 0 {
            // Its lease lapses; meanwhile nobody else may answer.
            return Ok(());
        }
        job.turn().release(Release::default()).await.map(drop)
    }

    /// Sets the stage, ends the runs when everybody is done, and reads what they hold.
    pub(crate) async fn keep(self, writers: Rc<BTreeSet<String>>) -> turmoil::Result {
        let client = client(RetryPolicy::forever());
        for run in (0..OUT_RUNS).map(out_run).chain((0..IN_RUNS).map(in_run)) {
            let task = if run.starts_with("in") { TASK.into() } else { String::new().into() };
            let spec = RunSpec { max_attempts: u32::MAX, ..RunSpec::default() };
            let RunKey { namespace, run_id } = RunKey::new(run);
            let create = Create { namespace, run_id, task, spec, ..Create::default() };
            client.create_run(create).await?;
        }
        self.stage.is_set.set(true);
        while !writers.is_subset(&self.stage.done.borrow()) {
            self.pause().await;
        }
        for run in (0..OUT_RUNS).map(out_run) {
            let close = Close { outcome: Outcome::Completed, ..Close::default() };
            client.close_run(&RunKey::new(run.clone()), close).await?;
            for stream in [OUT, SIDE] {
                match self.read(&client, &run, stream).await {
                    Err(Error::Refused(Refusal::StreamNotFound)) => {}
                    read => read?,
                }
            }
        }
        for run in (0..IN_RUNS).map(in_run) {
            while client.get_run(&RunKey::new(run.clone())).await?.ended.is_none() {
                self.pause().await;
            }
            self.read(&client, &run, INPUTS).await?;
            self.read(&client, &run, ANSWERS).await?;
        }
        self.stage.is_answered.set(true);
        self.end()
    }

    /// Reads a stream from its beginning, page by page.
    async fn read(&self, client: &Client, run: &str, stream: &str) -> Result<(), Error> {
        let (mut start, mut bodies) = (Start::Beginning, Vec::new());
        loop {
            let query = Query::stream(RunKey::new(run), stream).from(start);
            let page = client.read(query).await?;
            for record in page.records.decode().expect("records") {
                assert_eq!(record.index, bodies.len() as u64, "records are numbered from 0");
                let is_input = stream == INPUTS;
                bodies.push(if is_input {
                    record.index.to_string()
                } else {
                    name_of(&record.data)
                });
            }
            if page.end.is_some() || page.records.is_empty() {
                break;
            }
            start = Start::Cursor(page.cursor.to_string());
        }
        self.stage.trace.borrow_mut().logs.insert(log_of(run, stream), bodies);
        Ok(())
    }
}

impl Stage {
    /// Notes what happened; when, by the count of events.
    pub(crate) fn note(&self, now: Duration, what: What) -> u64 {
        let events = &mut self.trace.borrow_mut().events;
        events.push((now.as_millis() as u64, what));
        events.len() as u64 - 1
    }
}
