//! `braidlog meta`: reads and changes the metadata document of a run.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{
    body,
    failure::Failure,
    interrupt,
    output::Output,
    present::metadata,
    remote::{Remote, request_id},
};
use crate::{
    core::{Commit, Operation},
    engine::RunKey,
};

/// Reads and changes the metadata document of a run
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  braidlog meta set build-17 stage '\"compile\"'
  braidlog meta increment build-17 $.tests.failed
  braidlog meta append build-17 warnings --text 'unused variable'
  braidlog meta get build-17 stage

Values are JSON; with --text they are texts. Keys that begin with `$.` are paths.
A change is made once, whatever happens to the connection, and prints the
document that it leaves. Changes are possible until an hour after the run's end.")]
pub(super) enum MetaCommand {
    /// Prints the document, or what it has under a key
    Get(GetArgs),
    /// Sets a key to a value
    Set(ValueArgs),
    /// Removes a key, which is no path
    Delete(KeyArgs),
    /// Adds a value to an array, making one of what is there
    Append(ValueArgs),
    /// Removes from an array what equals a value
    Remove(ValueArgs),
    /// Adds to a number; what is none counts as 0
    Increment(IncrementArgs),
    /// Replaces the document by an object
    Update(UpdateArgs),
    /// Makes several changes in one step
    Apply(ApplyArgs),
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// Name of the run
    run: String,
    /// Only what is under this key of the document; no path
    key: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct ValueArgs {
    /// Name of the run
    run: String,
    /// Key, or a path that begins with `$.`
    key: String,
    /// The value: JSON
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// The value is a text
    #[arg(long)]
    text: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// Name of the run
    run: String,
    /// Key
    key: String,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
pub(super) struct IncrementArgs {
    /// Name of the run
    run: String,
    /// Key, or a path that begins with `$.`
    key: String,
    /// How much; negative to decrement
    #[arg(value_name = "N", default_value = "1", allow_hyphen_values = true)]
    number: String,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// Name of the run
    run: String,
    /// The document: a JSON object
    #[arg(value_name = "OBJECT")]
    object: String,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  echo '[{\"action\":\"set\",\"key\":\"stage\",\"value\":\"test\"},
         {\"action\":\"increment\",\"key\":\"steps\",\"value\":1}]' |
    braidlog meta apply build-17")]
pub(super) struct ApplyArgs {
    /// Name of the run
    run: String,
    /// JSON array of changes, each with `action`, and `key` and `value` as the action wants them;
    /// `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
}

/// Whose document is changed.
#[derive(Debug, Args)]
struct TargetArgs {
    /// Whose document: that of the run, of its parent or of its root. That of another run follows
    /// when the change is durable
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t = Whose::Run)]
    of: Whose,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    Run,
    Parent,
    Root,
}

/// One change, as it is written in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    action: ChangeAction,
    #[serde(default)]
    key: String,
    #[serde(default, deserialize_with = "given")]
    value: Option<Value>,
}

/// A value that is there, also if it is `null`.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeAction {
    Set,
    Delete,
    Append,
    Remove,
    Increment,
    Update,
}

impl Change {
    /// The operation that is meant.
    pub(super) fn operation(self) -> Operation {
        let value = || self.value.as_ref().map(Value::to_string).unwrap_or_default();
        let key = self.key.as_str();
        match self.action {
            ChangeAction::Set => Operation::set(key, value()),
            ChangeAction::Delete => Operation::delete(key),
            ChangeAction::Append => Operation::append(key, value()),
            ChangeAction::Remove => Operation::remove(key, value()),
            ChangeAction::Increment => Operation::increment(key, value()),
            ChangeAction::Update => Operation::update(value()),
        }
    }
}

impl ValueArgs {
    fn value(&self) -> String {
        if self.text { Value::from(self.value.as_str()).to_string() } else { self.value.clone() }
    }
}

impl MetaCommand {
    /// Whether output and failures are JSON.
    pub(super) fn as_json(&self) -> bool {
        match self {
            Self::Get(args) => args.remote.json,
            Self::Set(args) | Self::Append(args) | Self::Remove(args) => args.target.remote.json,
            Self::Delete(args) => args.target.remote.json,
            Self::Increment(args) => args.target.remote.json,
            Self::Update(args) => args.target.remote.json,
            Self::Apply(args) => args.target.remote.json,
        }
    }
}

/// Runs the command.
pub(super) async fn run(command: MetaCommand) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    match command {
        MetaCommand::Get(args) => get(args, &mut output).await?,
        MetaCommand::Set(args) => {
            let operation = Operation::set(args.key.as_str(), args.value());
            change(&args.run, args.target, vec![operation], &mut output).await?;
        }
        MetaCommand::Append(args) => {
            let operation = Operation::append(args.key.as_str(), args.value());
            change(&args.run, args.target, vec![operation], &mut output).await?;
        }
        MetaCommand::Remove(args) => {
            let operation = Operation::remove(args.key.as_str(), args.value());
            change(&args.run, args.target, vec![operation], &mut output).await?;
        }
        MetaCommand::Delete(args) => {
            let operation = Operation::delete(args.key.as_str());
            change(&args.run, args.target, vec![operation], &mut output).await?;
        }
        MetaCommand::Increment(args) => {
            let operation = Operation::increment(args.key.as_str(), args.number);
            change(&args.run, args.target, vec![operation], &mut output).await?;
        }
        MetaCommand::Update(args) => {
            let operation = Operation::update(args.object);
            change(&args.run, args.target, vec![operation], &mut output).await?;
        }
        MetaCommand::Apply(args) => {
            let operations = read(&args.file).await?;
            change(&args.run, args.target, operations, &mut output).await?;
        }
    }
    output.flush()
}

async fn read(path: &std::path::Path) -> Result<Vec<Operation>, Failure> {
    let text = body::read(path).await?;
    let changes: Vec<Change> = serde_json::from_slice(&text)
        .map_err(|error| Failure::usage(format!("the changes cannot be read: {error}")))?;
    Ok(changes.into_iter().map(Change::operation).collect())
}

async fn get(args: GetArgs, output: &mut Output) -> Result<(), Failure> {
    let found = args.remote.client()?.get_run(&RunKey::new(args.run.as_str())).await;
    let found =
        found.map_err(|error| Failure::store(&error, &args.remote.subject(&args.run, None)))?;
    let Some(key) = &args.key else {
        let (text, seq) = (&found.metadata, found.metadata_seq.0);
        return tell(&args.run, text, seq, args.remote.json, output);
    };
    let document: Value = serde_json::from_slice(&found.metadata).unwrap_or_default();
    match document.get(key) {
        Some(value) if args.remote.json => {
            output.json(json!({ "run_id": args.run, "key": key, "value": value }))
        }
        Some(value) => output.line(&value.to_string()),
        None => {
            let message = format!("the metadata of run {:?} has no key {key:?}", args.run);
            Err(Failure::nothing("KEY_NOT_FOUND", message))
        }
    }
}

async fn change(
    run: &str,
    target: TargetArgs,
    operations: Vec<Operation>,
    output: &mut Output,
) -> Result<(), Failure> {
    let TargetArgs { of, remote } = target;
    let mut commit = Commit { request_id: request_id(), ..Commit::default() };
    match of {
        Whose::Run => commit.metadata = operations,
        Whose::Parent => commit.parent_metadata = operations,
        Whose::Root => commit.root_metadata = operations,
    }
    let turn = remote.client()?.commit(&RunKey::new(run), commit).await;
    let turn = turn.map_err(|error| Failure::store(&error, &remote.subject(run, None)))?;
    tell(run, &turn.metadata, turn.metadata_seq.0, remote.json, output)
}

fn tell(
    run: &str,
    document: &[u8],
    seq: u64,
    as_json: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    if as_json {
        return output.json(metadata(run, document, seq));
    }
    // An empty object is kept as no text.
    output.bytes(if document.is_empty() { b"{}" } else { document })?;
    output.bytes(b"\n")
}
