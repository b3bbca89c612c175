//! `braidlog commit`: everything that one turn does to a run, in one step.

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use super::{
    body,
    claim::ReleaseHow,
    failure::Failure,
    interrupt,
    meta::Change,
    moment::When,
    output::Output,
    present::{committed, stands},
    quantity::duration_ms,
    receive::Indices,
    remote::{Remote, now_ms, request_id},
    run::Ending,
    turn_document::{self, FIELDS},
};
use crate::{
    core::{Close, Commit, NewRecord, Operation, Then},
    engine::RunKey,
    proto::{
        InputWait, RunError, RunUpdated, TimeWait, TokenWait, WaitCreated, wait_created::Target,
    },
    record::Seq,
};

const EXAMPLES: &str = "\
Examples:
  braidlog commit chat-4 --lease-epoch 2 --append replies='Hello!' --ack inbox=7
  braidlog commit chat-4 --lease-epoch 2 --wait-input next=inbox --suspend
  braidlog commit chat-4 --lease-epoch 3 --close completed --output bye
  ./turn | braidlog commit chat-4 --lease-epoch 2 --document -

With --request-id, committing the same again is answered as the first time. One
that is left out is made up, so that a lost connection does no harm. What is
given as options comes behind what a document says.";

/// Commits a turn: outputs, acks, metadata, waits, and what becomes of the run; all or nothing
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{FIELDS}"))]
pub(super) struct CommitArgs {
    /// Name of the run
    run: String,
    /// File that says in JSON what is done; `-` is standard input
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
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
    /// How long the run was in use so far, as in 90s
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    usage: Option<u64>,
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
    let commit = commit(args).await?;
    check_something(&commit)?;
    let turn = remote.client()?.commit(&RunKey::new(run.as_str()), commit).await;
    let turn = turn.map_err(|error| Failure::store(&error, &remote.subject(&run, None)))?;
    let mut output = Output::new();
    if remote.json {
        output.json(committed(&run, &turn))?;
    } else {
        let done = &turn.committed;
        let verb = if done.deduplicated { "was committed already:" } else { "committed" };
        let (seq, count, status) = (done.first_seq, done.count, stands(turn.status));
        let records = if count == 1 { "record" } else { "records" };
        output.line(&format!("{verb} {count} {records} of {run} from seq {seq}: {status}"))?;
        if let Some(cancel) = &turn.cancel {
            let reason = super::run::harmless(&cancel.reason);
            output.line(&format!("the run is asked to stop: {reason}"))?;
        }
    }
    output.flush()
}

async fn commit(args: CommitArgs) -> Result<Commit, Failure> {
    let document = match &args.document {
        Some(path) => turn_document::read(path).await?,
        None => Commit::default(),
    };
    let mut commit = Commit {
        lease_epoch: args.lease_epoch,
        request_id: args.request_id.as_deref().map_or_else(request_id, Into::into),
        expected_seq: args.expected_seq.map(Seq),
        ..document
    };
    for Named { name, value } in &args.appends {
        turn_document::append(&mut commit, name, NewRecord::new(value.clone()));
    }
    for Named { name, value } in &args.acks {
        let indices: Indices =
            value.parse().map_err(|problem| Failure::usage(format!("--ack {value}: {problem}")))?;
        turn_document::ack(&mut commit, name, &args.consumer, indices.range());
    }
    commit.metadata.extend(metadata(&args).await?);
    commit.waits.extend(waits(&args)?);
    commit.tags.extend(args.tags.iter().map(|tag| tag.as_str().into()));
    commit.cancel_waits.extend(args.cancel_waits.iter().map(|wait| wait.as_str().into()));
    if args.usage.is_some() {
        let told = commit.update.unwrap_or_default();
        commit.update = Some(RunUpdated { usage_duration_ms: args.usage, ..told });
    }
    let then = then(args);
    if then != Then::GoOn && commit.then != Then::GoOn {
        return Err(Failure::usage("the document says already what becomes of the run"));
    }
    if then != Then::GoOn {
        commit.then = then;
    }
    Ok(commit)
}

/// What becomes of the run, as the options say.
fn then(args: CommitArgs) -> Then {
    match args.close {
        Some(ending) => Then::Close(Close {
            outcome: ending.into(),
            output: args.output.into(),
            output_type: args.output_type,
            error: args.error_message.map(|message| RunError { message, ..RunError::default() }),
            ..Close::default()
        }),
        None if args.release || args.how.is_given() => Then::Release(args.how.release()),
        None => Then::GoOn,
    }
}

/// Refuses what does nothing to the run.
fn check_something(commit: &Commit) -> Result<(), Failure> {
    let nothing = Commit {
        lease_epoch: commit.lease_epoch,
        request_id: commit.request_id.clone(),
        expected_seq: commit.expected_seq,
        ..Commit::default()
    };
    match *commit == nothing {
        true => Err(Failure::usage("nothing to commit: see `braidlog commit --help`")),
        false => Ok(()),
    }
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
