//! `braidlog commit`: everything that one turn does to a run, in one step.

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use super::{
    body,
    claim::ReleaseHow,
    failure::Failure,
    interrupt,
    meta::Change,
    output::Output,
    quantity::When,
    receive::Indices,
    remote::{Remote, now_ms, request_id},
    run::Ending,
    shape::{committed, stands},
};
use crate::{
    core::{Ack, Close, Commit, NewRecord, Operation, StreamAppend, Then},
    engine::RunKey,
    proto::{
        InputWait, RunError, RunUpdated, TimeWait, TokenWait, WaitCreated, wait_created::Target,
    },
    record::Seq,
};

/// Commits a turn: outputs, acks, metadata, waits, and what becomes of the run; all or nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog commit chat-4 --lease-epoch 2 --append replies='Hello!' --ack inbox=7
  braidlog commit chat-4 --lease-epoch 2 --wait-input next=inbox --suspend
  braidlog commit chat-4 --lease-epoch 3 --close completed --output bye

With --request-id, committing the same again is answered as the first time. One
that is left out is made up, so that a lost connection does no harm.")]
pub(super) struct CommitArgs {
    /// Name of the run
    run: String,
    /// Number of the lease; a run that was claimed needs it for acks and for its end
    #[arg(long, value_name = "N")]
    lease_epoch: Option<u64>,
    /// Id of the request, at most 128 bytes [default: one that no other has]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Fail unless this is the next seq of the run
    #[arg(long, value_name = "SEQ")]
    expected_seq: Option<u64>,
    /// Append a text to an output stream; may be given more than once
    #[arg(long = "append", value_name = "STREAM=TEXT")]
    appends: Vec<Named>,
    /// Ack an input, or inputs such as 3..8; may be given more than once
    #[arg(long = "ack", value_name = "STREAM=INDEX")]
    acks: Vec<Named>,
    /// Whose acks they are
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    consumer: String,
    /// Set a key of the metadata to a JSON value; may be given more than once
    #[arg(long = "set", value_name = "KEY=JSON")]
    sets: Vec<Named>,
    /// File with a JSON array of changes of the metadata, as for `braidlog meta apply`
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Add a label; may be given more than once
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Milliseconds of use so far
    #[arg(long, value_name = "MS")]
    usage_ms: Option<u64>,
    /// Wait for the next input of a stream that is owed; may be given more than once
    #[arg(long = "wait-input", value_name = "WAIT=STREAM")]
    wait_inputs: Vec<Named>,
    /// Wait for a wait token; may be given more than once
    #[arg(long = "wait-token", value_name = "WAIT=TOKEN")]
    wait_tokens: Vec<Named>,
    /// Wait for a time in UTC, or some time from now; may be given more than once
    #[arg(long = "wait-until", value_name = "WAIT=TIME")]
    wait_times: Vec<Named>,
    /// Let the waits of this turn time out then: a time in UTC, or how long from now
    #[arg(long, value_name = "TIME")]
    wait_timeout: Option<When>,
    /// Wait no more for this; may be given more than once
    #[arg(long = "cancel-wait", value_name = "WAIT")]
    cancel_waits: Vec<String>,
    /// Give the run back: it is queued
    #[arg(long, conflicts_with = "close")]
    release: bool,
    #[command(flatten)]
    how: ReleaseHow,
    /// End the run
    #[arg(long, value_enum, value_name = "OUTCOME",
          conflicts_with_all = ["retry_at", "suspend", "attempt_error"])]
    close: Option<Ending>,
    /// What the run returned
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        requires = "close"
    )]
    output: String,
    /// Media type of the output
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true,
        requires = "close"
    )]
    output_type: String,
    /// Why the run did not complete
    #[arg(long, value_name = "MESSAGE", requires = "close")]
    error_message: Option<String>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    value: String,
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("expected a name, `=`, and a value")?;
        match name.is_empty() {
            true => Err("there is no name before `=`"),
            false => Ok(Self { name: name.into(), value: value.into() }),
        }
    }
}

/// Runs the command.
pub(super) async fn run(args: CommitArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let (run, remote) = (args.run.clone(), args.remote.clone());
    let turn = remote.client()?.commit(&RunKey::new(run.as_str()), commit(args).await?).await;
    let turn = turn.map_err(|error| Failure::store(&error, &remote.subject(&run, None)))?;
    let mut output = Output::new();
    if remote.json {
        output.json(committed(&run, &turn))?;
    } else {
        let done = &turn.committed;
        let verb = if done.deduplicated { "was committed already:" } else { "committed" };
        let (seq, count, status) = (done.first_seq, done.count, stands(turn.status));
        output.line(&format!("{verb} {count} records of {run} from seq {seq}: {status}"))?;
        if let Some(cancel) = &turn.cancel {
            let reason = super::run::harmless(&cancel.reason);
            output.line(&format!("the run is asked to stop: {reason}"))?;
        }
    }
    output.flush()
}

async fn commit(args: CommitArgs) -> Result<Commit, Failure> {
    let metadata = metadata(&args).await?;
    let (acks, waits) = (acks(&args)?, waits(&args)?);
    let then = match args.close {
        Some(ending) => Then::Close(Close {
            outcome: ending.into(),
            output: args.output.into(),
            output_type: args.output_type,
            error: args.error_message.map(|message| RunError { message, ..RunError::default() }),
            ..Close::default()
        }),
        None if args.release || args.how.is_given() => Then::Release(args.how.release()),
        None => Then::GoOn,
    };
    let usage = |usage_ms| RunUpdated { usage_duration_ms: Some(usage_ms), ..Default::default() };
    Ok(Commit {
        lease_epoch: args.lease_epoch,
        request_id: args.request_id.map_or_else(request_id, Into::into),
        expected_seq: args.expected_seq.map(Seq),
        appends: appends(args.appends),
        acks,
        metadata,
        tags: args.tags.into_iter().map(Into::into).collect(),
        update: args.usage_ms.map(usage),
        waits,
        cancel_waits: args.cancel_waits.into_iter().map(Into::into).collect(),
        then,
        ..Commit::default()
    })
}

/// The texts of each stream, in the order given.
fn appends(texts: Vec<Named>) -> Vec<StreamAppend> {
    let mut appends: Vec<StreamAppend> = Vec::new();
    for Named { name, value } in texts {
        let record = NewRecord::new(value);
        match appends.iter_mut().find(|append| *append.stream == *name) {
            Some(append) => append.records.push(record),
            None => appends.push(StreamAppend {
                stream: name.into(),
                records: vec![record],
                expected_index: None,
            }),
        }
    }
    appends
}

fn acks(args: &CommitArgs) -> Result<Vec<Ack>, Failure> {
    let ack = |Named { name, value }: &Named| {
        let indices: Indices =
            value.parse().map_err(|problem| Failure::usage(format!("--ack {value}: {problem}")))?;
        let (stream, consumer) = (name.as_str().into(), args.consumer.as_str().into());
        Ok(Ack { stream, consumer, ranges: vec![indices.range()] })
    };
    args.acks.iter().map(ack).collect()
}

async fn metadata(args: &CommitArgs) -> Result<Vec<Operation>, Failure> {
    let set = |Named { name, value }: &Named| Operation::set(name.as_str(), value.clone());
    let mut operations: Vec<Operation> = args.sets.iter().map(set).collect();
    if let Some(path) = &args.metadata_file {
        let changes: Vec<Change> = serde_json::from_slice(&body::read(path).await?)
            .map_err(|error| Failure::usage(format!("the changes cannot be read: {error}")))?;
        operations.extend(changes.into_iter().map(Change::operation));
    }
    Ok(operations)
}

fn waits(args: &CommitArgs) -> Result<Vec<WaitCreated>, Failure> {
    let deadline_ms = args.wait_timeout.map_or(0, |time| time.ms(now_ms()));
    let wait = |name: &str, target| WaitCreated {
        wait_id: name.into(),
        target: Some(target),
        deadline_ms,
    };
    let inputs = args.wait_inputs.iter().map(|Named { name, value }| {
        let input = InputWait { stream: value.clone(), ..InputWait::default() };
        Ok(wait(name, Target::Input(input)))
    });
    let tokens = args.wait_tokens.iter().map(|Named { name, value }| {
        Ok(wait(name, Target::Token(TokenWait { token_id: value.clone() })))
    });
    let times = args.wait_times.iter().map(|Named { name, value }| {
        let time: When = value
            .parse()
            .map_err(|problem| Failure::usage(format!("--wait-until {name}={value}: {problem}")))?;
        Ok(wait(name, Target::Time(TimeWait { until_ms: time.ms(now_ms()) })))
    });
    inputs.chain(tokens).chain(times).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_the_first_equals_sign() {
        let named = |text: &str| text.parse::<Named>().map(|named| (named.name, named.value));
        assert_eq!(named("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(named("a="), Ok(("a".into(), String::new())));
        assert!(named("a").is_err() && named("=b").is_err());
    }
}
