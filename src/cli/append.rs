//! `braidlog append`: lines of a file or a pipe become records of a stream.
//!
//! Lines are sent as they come, many batches ahead of their acknowledgements. Batches carry producer
//! numbers, so that what is sent again after a lost connection is applied once: no line is lost or
//! doubled, whatever happens to the server.
//!
//! Without `--producer`, whatever has arrived is sent when no more is there at the moment, and
//! nobody can repeat the command harmlessly. With it, batches are cut by their content alone, and
//! the same input under the same id and epoch is the same sequence of batches: repeating a command
//! that was killed appends what is missing and nothing else. Other input under the same id and epoch
//! is refused as far as the store remembers the batches, and taken for the old one beyond that; the
//! command says on standard error how many lines were there before.
//!
//! If whoever reads standard output goes away, appending goes on: the acknowledgements are a report,
//! the input is the matter.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tokio::sync::mpsc;

use super::{
    acks::AckReport,
    failure::{Failure, Subject},
    input::{Batches, Cut},
    interrupt,
    once::Once,
    remote::Remote,
    writer::{Ack, Writer},
};
use crate::{
    client::AppenderOptions,
    core::{Appended, NewRecord},
    engine::{IfAbsent, RunKey},
    error::Error,
    platform::os,
    record::APPEND_RECORDS_MAX,
};

const EXAMPLES: &str = "\
Examples:
  make 2>&1 | braidlog append build-17 log
  braidlog append build-17 report report.txt
  braidlog append import rows rows.ndjson --producer loader --epoch 1   # may be repeated

Records are lines without their line end; an empty line is an empty record. A
last line without a line end gets the header `braidlog-eol: none`, so that
`braidlog read` gives back the same bytes. Appending nothing does nothing.";

/// Appends lines to a stream: one record each
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AppendArgs {
    /// Name of the run
    run: String,
    /// Name of the stream; its first append opens it
    stream: String,
    /// What to append; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Fail if the run does not exist, instead of creating it
    #[arg(long)]
    no_create: bool,
    /// Name this producer, so that the command may be repeated with the same input, and only with
    /// it, under the same epoch: batches are then sent when they are full, not as lines come
    #[arg(long, value_name = "ID")]
    producer: Option<String>,
    /// Epoch of the producer; a higher one starts over and fences the lower ones off
    #[arg(long, value_name = "N", default_value_t = 0, requires = "producer")]
    epoch: u64,
    /// Most lines of a batch
    #[arg(long, value_name = "N", default_value_t = APPEND_RECORDS_MAX as u16,
          value_parser = clap::value_parser!(u16).range(1..=APPEND_RECORDS_MAX as i64))]
    batch_lines: u16,
    #[command(flatten)]
    pub(super) remote: Remote,
}

impl AppendArgs {
    async fn writer(&self, subject: &Subject) -> Result<Writer, Failure> {
        let absent = if self.no_create { IfAbsent::Refuse } else { IfAbsent::Create };
        let options = AppenderOptions {
            absent,
            producer_id: self.producer.as_deref().map(Into::into),
            epoch: self.epoch,
            ..AppenderOptions::new(self.stream.as_str())
        };
        let once = Once {
            run: RunKey::new(self.run.as_str()),
            stream: self.stream.clone(),
            absent,
            lasting: self.remote.lasting_client(subject).await?,
            single: self.remote.single_client()?,
            // Its clock and its random bits only: no directory is touched.
            platform: os::platform(""),
        };
        Writer::new(once, options).map_err(|error| Failure::store(&error, subject))
    }
}

/// Acknowledgements that may wait to be printed; the appender bounds those that are outstanding.
const ACKS_WAITING_MAX: usize = 1_024;
/// How often what is acknowledged is printed, if it keeps coming.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
pub(super) async fn run(args: AppendArgs) -> Result<(), Failure> {
    let acked = Arc::new(AtomicU64::new(0));
    let seen = acked.clone();
    interrupt::exit_on_interrupt(move || Some(so_far(&seen)));
    let cut = if args.producer.is_some() { Cut::WhenFull } else { Cut::AsItComes };
    let mut batches = Batches::open(&args.file, args.batch_lines.into(), cut).await?;
    // Appending nothing does nothing: no run, no stream, no connection.
    let Some(first) = batches.next().await? else { return Ok(()) };
    let subject = args.remote.subject(&args.run, Some(&args.stream));
    let writer = args.writer(&subject).await?;
    let (sent, unsettled) = mpsc::channel(ACKS_WAITING_MAX);
    let (settled, answers) = mpsc::channel(ACKS_WAITING_MAX);
    // As soon as an answer is a failure, nothing more is read or sent.
    let (stopped, (), ()) = tokio::try_join!(
        async { Ok(send(writer, first, batches, sent, &subject).await) },
        async {
            settle(unsettled, settled).await;
            Ok(())
        },
        report(
            answers,
            AckReport::new(args.remote.json, args.producer.is_some()),
            &acked,
            &subject
        ),
    )
    .map_err(|failure: Failure| failure.with_note(&so_far(&acked)))?;
    stopped.map_or(Ok(()), |failure| Err(failure.with_note(&so_far(&acked))))
}

/// What is certain of the input, however the command ends.
fn so_far(acked: &AtomicU64) -> String {
    match acked.load(Ordering::Relaxed) {
        0 => "no line was acknowledged".into(),
        1 => "line 1 was acknowledged, none after it".into(),
        lines => format!("lines 1 to {lines} were acknowledged, none after them"),
    }
}

/// Sends batches until the input ends, or cannot be read or sent on: that is given back as a value,
/// since what was sent before is still to be acknowledged.
async fn send(
    mut writer: Writer,
    first: Vec<NewRecord>,
    mut batches: Batches,
    sent: mpsc::Sender<Ack>,
    subject: &Subject,
) -> Option<Failure> {
    let mut next = Ok(Some(first));
    loop {
        match next {
            Ok(Some(batch)) => match writer.submit(batch).await {
                Ok(ack) => sent.send(ack).await.ok()?,
                Err(error) => return Some(Failure::store(&error, subject)),
            },
            ended => {
                // If it fails, an acknowledgement says so.
                let _ = writer.finish().await;
                return ended.err();
            }
        }
        next = batches.next().await;
    }
}

/// Waits for one acknowledgement after the other.
async fn settle(mut sent: mpsc::Receiver<Ack>, settled: mpsc::Sender<Result<Appended, Error>>) {
    while let Some(ack) = sent.recv().await {
        if settled.send(ack.settled().await).await.is_err() {
            return;
        }
    }
}

/// Reports acknowledgements as they come, up to the first that is none.
async fn report(
    mut answers: mpsc::Receiver<Result<Appended, Error>>,
    mut report: AckReport,
    acked: &AtomicU64,
    subject: &Subject,
) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            _ = tick.tick() => {
                report.tick()?;
                continue;
            }
        };
        match answer {
            None => return report.finish(),
            Some(Ok(appended)) => {
                acked.fetch_add(appended.count.into(), Ordering::Relaxed);
                report.acked(&appended)?;
            }
            Some(Err(error)) => {
                report.finish()?;
                return Err(Failure::store(&error, subject));
            }
        }
    }
}
