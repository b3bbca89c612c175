//! `braidlog receive`, `take`, `peek` and `ack`: what was sent to a run is consumed.

use std::{
    io::{self, Write},
    str::FromStr,
    time::Duration,
};

use clap::Args;

use super::{
    failure::{Failure, Subject},
    interrupt,
    output::Output,
    present::acked,
    quantity::duration_ms,
    records::{Format, RecordPrinter},
    remote::Remote,
};
use crate::{
    client::Client,
    core::DEFAULT_CONSUMER,
    engine::{Input, InputConsumer, InputsEnd, Received, RunKey},
    record::{CLAIMS_DEFAULT, Index},
};

/// Who consumes.
#[derive(Debug, Args)]
pub(super) struct ConsumerArgs {
    /// Name of the run
    run: String,
    /// Name of the input stream; it need not exist yet
    stream: String,
    /// Name of the consumer
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CONSUMER)]
    consumer: String,
    /// Number of the lease; a run that was claimed once needs it
    #[arg(long, value_name = "N")]
    lease_epoch: Option<u64>,
}

impl ConsumerArgs {
    fn consumer(&self) -> InputConsumer {
        InputConsumer {
            run: RunKey::new(self.run.as_str()),
            run_uid: None,
            stream: self.stream.as_str().into(),
            consumer: self.consumer.as_str().into(),
            lease_epoch: self.lease_epoch,
        }
    }

    fn subject(&self, remote: &Remote) -> Subject {
        remote.subject(&self.run, Some(&self.stream))
    }
}

/// Prints the messages that a consumer owes, then those that come, until the run is closed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog receive chat-4 inbox --ack
  braidlog receive chat-4 inbox --json | ./handle   # which acks with `braidlog ack`

With --ack, messages are consumed after they were printed: one that is killed in
between prints them again. Without it, at most --max-unacked messages are
printed before something else acks them, and all that are not acked come again.
A newer receiver of the same consumer ends the older, with status 0.")]
pub(super) struct ReceiveArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// Ack each message after it was printed
    #[arg(long)]
    ack: bool,
    /// Most messages that are printed and not acked
    #[arg(long, value_name = "N", default_value_t = CLAIMS_DEFAULT)]
    max_unacked: usize,
    /// End after N messages
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// How to print messages
    #[arg(long, value_enum, default_value_t = Format::Lines, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Prints one message, and claims it so that nobody else gets it meanwhile
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  braidlog take chat-4 inbox --wait 30s --ack

The status is 3 if there is no message in time. A message that is not acked is
delivered again when its term is over.")]
pub(super) struct TakeArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// Wait for a message for so long, as in 30s
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "0s")]
    wait: u64,
    /// Claim it for so long: 1s to 10m
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "30s")]
    term: u64,
    /// Ack the message after it was printed
    #[arg(long)]
    ack: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Lines, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Prints the first message that a consumer owes, and claims nothing
#[derive(Debug, Args)]
#[command(after_help = "The status is 3 if there is none.")]
pub(super) struct PeekArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Lines, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Notes durably that messages were consumed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog ack chat-4 inbox 7
  braidlog ack chat-4 inbox 0..7 9   # 0 to 6, and 9")]
pub(super) struct AckArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// Indices, each alone or as FROM..TO, without TO
    #[arg(value_name = "INDEX", required = true)]
    indices: Vec<Indices>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Indices from one to another: `7`, or `3..8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Indices {
    from: Index,
    to: Index,
}

impl Indices {
    /// First index, and the index after the last.
    pub(super) fn range(self) -> (Index, Index) {
        (self.from, self.to)
    }
}

impl FromStr for Indices {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u64>().map(Index).ok();
        let found = match text.split_once("..") {
            None => number(text).filter(|from| from.0 < u64::MAX).map(|from| (from, from + 1)),
            Some((from, to)) => number(from).zip(number(to)),
        };
        let found = found.filter(|(from, to)| from < to);
        let (from, to) = found.ok_or("expected an index such as 7, or indices such as 3..8")?;
        Ok(Self { from, to })
    }
}

/// Prints messages as they come.
pub(super) async fn receive(args: ReceiveArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let (consumer, subject) = (args.consumer.consumer(), args.consumer.subject(&args.remote));
    let failed = |error| Failure::store(&error, &subject);
    let client = args.remote.lasting_client(&subject).await?;
    let mut printer = RecordPrinter::new(args.remote.format(args.format));
    let mut receiver = client.receive(consumer.clone(), args.max_unacked).await.map_err(failed)?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    while 0 < left {
        match receiver.next().await.map_err(failed)? {
            Received::Inputs(mut inputs) => {
                inputs.truncate(left);
                left -= inputs.len();
                for input in &inputs {
                    printer.message(input, &args.consumer.stream)?;
                }
                printer.flush()?;
                if args.ack {
                    ack_all(&client, &consumer, &inputs, &subject).await?;
                }
            }
            Received::End(end) => {
                let reason = match end {
                    InputsEnd::Closed => "closed",
                    InputsEnd::Superseded => "superseded",
                };
                printer.messages_end(reason)?;
                printer.flush()?;
                note_end(end, &args);
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn ack_all(
    client: &Client,
    consumer: &InputConsumer,
    inputs: &[Input],
    subject: &Subject,
) -> Result<(), Failure> {
    let one = |input: &Input| (Index(input.record.index), Index(input.record.index) + 1);
    let ranges =
        inputs.iter().map(one).fold(Vec::new(), |mut ranges: Vec<(Index, Index)>, next| {
            match ranges.last_mut() {
                Some(last) if last.1 == next.0 => last.1 = next.1,
                _ => ranges.push(next),
            }
            ranges
        });
    let acked = client.ack(consumer, ranges).await;
    acked.map(drop).map_err(|error| Failure::store(&error, subject))
}

/// Tells people on standard error how it ended; programs have the last line of JSON.
fn note_end(end: InputsEnd, args: &ReceiveArgs) {
    if args.remote.json || args.format == Format::Json {
        return;
    }
    let (run, stream) = (&args.consumer.run, &args.consumer.stream);
    let words = match end {
        InputsEnd::Closed => format!("run {run:?} is closed"),
        InputsEnd::Superseded => format!("a newer receiver has taken stream {stream:?}"),
    };
    // The messages are out; that the note is not read changes nothing.
    let _ = writeln!(io::stderr(), "braidlog: {words}");
}

/// Prints one message and claims it.
pub(super) async fn take(args: TakeArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let (consumer, subject) = (args.consumer.consumer(), args.consumer.subject(&args.remote));
    let client = args.remote.client()?;
    let (term, wait) = (Duration::from_millis(args.term), Duration::from_millis(args.wait));
    let taken = client.take(&consumer, term, wait).await;
    let taken = taken.map_err(|error| Failure::store(&error, &subject))?;
    let input = taken.ok_or_else(|| no_message(&subject))?;
    print(&input, &args.consumer, args.remote.format(args.format))?;
    if args.ack {
        ack_all(&client, &consumer, &[input], &subject).await?;
    }
    Ok(())
}

/// Prints the first message that is owed.
pub(super) async fn peek(args: PeekArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let subject = args.consumer.subject(&args.remote);
    let peeked = args.remote.client()?.peek(&args.consumer.consumer()).await;
    let peeked = peeked.map_err(|error| Failure::store(&error, &subject))?;
    let input = peeked.ok_or_else(|| no_message(&subject))?;
    print(&input, &args.consumer, args.remote.format(args.format))
}

fn no_message(Subject { run, stream, .. }: &Subject) -> Failure {
    Failure::nothing("NO_MESSAGE", format!("no message in stream {stream:?} of run {run:?}"))
}

fn print(input: &Input, consumer: &ConsumerArgs, format: Format) -> Result<(), Failure> {
    let mut printer = RecordPrinter::new(format);
    printer.message(input, &consumer.stream)?;
    printer.flush()
}

/// Notes that messages were consumed.
pub(super) async fn ack(args: AckArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let ranges = args.indices.iter().map(|indices| indices.range()).collect();
    let answer = args.remote.client()?.ack(&args.consumer.consumer(), ranges).await;
    let subject = args.consumer.subject(&args.remote);
    let answer = answer.map_err(|error| Failure::store(&error, &subject))?;
    let mut output = Output::new();
    let ConsumerArgs { run, stream, consumer, .. } = &args.consumer;
    if args.remote.json {
        output.json(acked(run, stream, consumer, &answer))?;
    } else {
        let (floor, owed) = (answer.floor, answer.owed);
        output
            .line(&format!("stream {stream} of run {run} is acked below {floor}, {owed} owed"))?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_one_or_a_range() {
        let range = |text: &str| text.parse::<Indices>().map(Indices::range);
        assert_eq!(range("7"), Ok((Index(7), Index(8))));
        assert_eq!(range("3..8"), Ok((Index(3), Index(8))));
        for text in ["", "a", "8..3", "3..3", "..3", "3..", "-1", "18446744073709551615"] {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
