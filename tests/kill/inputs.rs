//! Senders and consumers of inputs, and what must be so of what they did.
//!
//! Consumers claim runs under leases, receive what is owed, and answer each input by a turn that
//! holds the answer and the ack. Every attempt has an answer of its own, so that it is known which
//! of them are in the log. Some consumers go silent in the middle, and their lease has to lapse.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use braidlog::{
    Create, Error, NewRecord, Received, Refusal, RunKey, RunSpec, Send,
    client::{Client, Job, Worker, WorkerOptions},
    platform::sim::SimRng,
};

use crate::{Progress, history::Call};

/// Runs that are sent inputs, and those who answer them.
pub(crate) const RUNS: u64 = 3;
pub(crate) const CONSUMERS: u64 = 5;
/// Stream of the answers.
pub(crate) const ANSWERS: &str = "answers";
const INPUTS: &str = "in";
const TASK: &str = "answer";
/// Inputs that are sent ahead of their answers, of each run.
const AHEAD: u64 = 40;
/// Inputs that a consumer may have without an ack.
const UNACKED_MAX: usize = 8;
/// Inputs after which a consumer gives a run back, or goes silent.
const STAY: u64 = 60;
/// What ends a run.
const BYE: &str = "bye";

/// How far inputs are.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sent: [AtomicU64; RUNS as usize],
    pub(crate) answered: [AtomicU64; RUNS as usize],
    pub(crate) ended: AtomicU64,
    pub(crate) silent: AtomicU64,
}

impl Counts {
    pub(crate) fn all(of: &[AtomicU64]) -> u64 {
        of.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

/// An input that was delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) input: u64,
    /// When it was begun to receive.
    pub(crate) opened: u64,
}

/// What one consumer did to a run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Deeds {
    /// Its answers, as calls.
    pub(crate) answers: Vec<Call>,
    pub(crate) deliveries: Vec<Delivery>,
}

pub(crate) fn run_name(n: u64) -> RunKey {
    RunKey::new(format!("input-{n}"))
}

pub(crate) async fn create_all(client: &Client) {
    for n in 0..RUNS {
        let RunKey { namespace, run_id } = run_name(n);
        let spec = RunSpec { max_attempts: u32::MAX, ..RunSpec::default() };
        let create = Create { namespace, run_id, task: TASK.into(), spec, ..Create::default() };
        client.create_run(create).await.expect("created");
    }
}

/// Sends a run inputs until it is over, and then the one that ends it.
pub(crate) async fn send(client: Client, n: u64, progress: Arc<Progress>) {
    let (run, counts) = (run_name(n), &progress.inputs);
    let message = |id: u64, data: String| {
        let message = NewRecord { id: format!("m{id}"), ..NewRecord::new(data) };
        Send { run_uid: None, stream: INPUTS.into(), message }
    };
    let mut id = 0;
    while !progress.is_over.load(Ordering::SeqCst) {
        if counts.answered[n as usize].load(Ordering::SeqCst) + AHEAD < id {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        // Sometimes twice: the id makes it one.
        for _ in 0..1 + u64::from(id.is_multiple_of(10)) {
            let sent = client.send(&run, message(id, id.to_string())).await.expect("sent");
            assert_eq!(sent.index.0, id, "inputs stand in the order in which they were sent");
        }
        id += 1;
        counts.sent[n as usize].store(id, Ordering::SeqCst);
    }
    client.send(&run, message(id, BYE.to_owned())).await.expect("sent");
}

/// Answers inputs of whichever run it gets, until all runs have ended; what it did, by run.
pub(crate) async fn consume(
    client: Client,
    name: u64,
    seed: u64,
    progress: Arc<Progress>,
) -> Vec<Deeds> {
    let options = WorkerOptions { term: Duration::from_secs(1) };
    let worker = Worker::new(client, format!("consumer-{name}"), [TASK], options);
    let mut consumer = Consumer {
        name,
        random: SimRng::new(seed),
        attempts: 0,
        deeds: vec![Deeds::default(); RUNS as usize],
        progress,
    };
    while consumer.progress.inputs.ended.load(Ordering::SeqCst) < RUNS {
        let claimed = worker.claim(Duration::from_millis(200)).await.expect("claims");
        let Some(job) = claimed else { continue };
        match consumer.answer(&job).await {
            Ok(()) => {}
            // Somebody else has the run, or it has ended.
            Err(Error::Refused(Refusal::Fenced { .. } | Refusal::Closed { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
    consumer.deeds
}

struct Consumer {
    name: u64,
    random: SimRng,
    attempts: u64,
    deeds: Vec<Deeds>,
    progress: Arc<Progress>,
}

impl Consumer {
    /// Answers what a run owes, for a while.
    async fn answer(&mut self, job: &Job) -> Result<(), Error> {
        let run = (0..RUNS).find(|n| run_name(*n) == *job.key()).expect("a run of these");
        let mut left = 1 + self.random.below(STAY);
        let opened = self.progress.now();
        let mut receiver = job.receive(INPUTS, UNACKED_MAX).await?;
        while 0 < left {
            let Received::Inputs(inputs) = receiver.next().await? else { return Ok(()) };
            for input in inputs {
                let index = input.record.index;
                let deeds = &mut self.deeds[run as usize];
                deeds.deliveries.push(Delivery { input: index, opened });
                if &*input.record.data == BYE.as_bytes() {
                    job.turn().ack(INPUTS, &input).complete(BYE).await?;
                    self.progress.inputs.ended.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
                self.attempts += 1;
                let body = format!("{index}:{}.{}", self.name, self.attempts);
                let turn = job.turn().ack(INPUTS, &input).append(ANSWERS, body.clone());
                let began = self.progress.now();
                let answer = turn.commit().await;
                let ended = self.progress.now();
                let place = answer.as_ref().ok().map(|turn| {
                    assert!(!turn.committed.positions_forgotten);
                    let spans = &turn.committed.spans;
                    spans.iter().find(|span| span.0.0 != 0).expect("an answer").1.0
                });
                let acked = place.map(|place| (ended, place));
                deeds.answers.push(Call { bodies: vec![body], began, acked });
                answer?;
                self.progress.inputs.answered[run as usize].fetch_add(1, Ordering::SeqCst);
                left = left.saturating_sub(1);
            }
        }
        if self.random.below(3) == 0 {
            // Its lease lapses; meanwhile nobody else may answer.
            self.progress.inputs.silent.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        job.turn().release(braidlog::Release::default()).await.map(drop)
    }
}

/// What is wrong with the answers of a run that was sent so many inputs, in words.
pub(crate) fn problem(log: &[String], sent: u64, deeds: &Deeds) -> Option<String> {
    if let Some(problem) = crate::history::problem(log, &deeds.answers) {
        return Some(problem);
    }
    for (at, body) in log.iter().enumerate() {
        if body.split_once(':').and_then(|(input, _)| input.parse().ok()) != Some(at as u64) {
            return Some(format!("answer {at} is {body}"));
        }
    }
    if log.len() as u64 != sent {
        return Some(format!("{sent} inputs have {} answers", log.len()));
    }
    let consumed: HashMap<u64, u64> = deeds
        .answers
        .iter()
        .filter_map(|call| {
            let (ended, place) = call.acked?;
            Some((place, ended))
        })
        .collect();
    let late = deeds.deliveries.iter().find(|delivery| {
        consumed.get(&delivery.input).is_some_and(|consumed| *consumed < delivery.opened)
    });
    late.map(|late| format!("{late:?} came after it had been consumed"))
}

#[test]
fn an_input_that_is_delivered_after_it_was_consumed_is_found_out() {
    let answer = |body: &str, began, ended, place| Call {
        bodies: vec![body.to_owned()],
        began,
        acked: Some((ended, place)),
    };
    let deeds = |opened| Deeds {
        answers: vec![answer("0:1.1", 2, 3, 0), answer("1:1.2", 4, 5, 1)],
        deliveries: vec![Delivery { input: 0, opened: 1 }, Delivery { input: 0, opened }],
    };
    let log = ["0:1.1".to_owned(), "1:1.2".to_owned()];
    assert_eq!(problem(&log, 2, &deeds(2)), None, "it may have been under way");
    assert!(problem(&log, 2, &deeds(4)).is_some());
    assert!(problem(&log, 3, &deeds(2)).is_some(), "an input has no answer");
    assert!(problem(&log[..1], 1, &deeds(2)).is_some(), "an answer is lost");
}
