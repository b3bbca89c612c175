//! `braidlog batch`: runs that are started together.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::{
    body,
    failure::{Exit, Failure},
    interrupt,
    moment::When,
    output::Output,
    present::{added, batch},
    quantity::duration_ms,
    remote::{Remote, now_ms},
};
use crate::{
    core::{Create, Refusal},
    engine::{AddedItems, Batch, BatchItem, CreateBatch, DEFAULT_NAMESPACE, RunKey},
    error::Error,
    proto::RunSpec,
    record::BATCH_ITEMS_MAX,
};

/// Creates and fills batches: runs that are started together
#[derive(Debug, Subcommand)]
pub(super) enum BatchCommand {
    Create(CreateArgs),
    Add(AddArgs),
    Seal(SealArgs),
    Get(GetArgs),
}

/// Creates a batch; does nothing if it exists with the same parameters
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its id, as a run's, at most 128 bytes
    batch: String,
    /// Runs that will be added
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    run_count: u64,
    /// A label to find it by; may be given up to 10 times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Key under which creating a batch again gives this one
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    /// Forget the key after so long, as in 1d [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, requires = "idempotency_key")]
    idempotency_ttl: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Adds runs to a batch: one for each line of JSON
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  printf '%s\\n' '{\"run_id\":\"mail-1\",\"task\":\"mail\",\"payload\":{\"to\":\"ada\"}}' \\
    '{\"run_id\":\"mail-2\",\"task\":\"mail\",\"payload\":{\"to\":\"bob\"}}' |
    braidlog batch add mails

Fields of a line: run_id, task, tags, payload (a text, or JSON), payload_type,
metadata (an object), priority, delay_until_ms, ttl_ms, max_attempts,
max_duration_ms, number. An item that was added before is not added again: its
number tells, which is that of its line from 0 unless it says so.")]
pub(super) struct AddArgs {
    /// Id of the batch
    batch: String,
    /// The lines; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

/// Ends the filling of a batch: its runs go on
#[derive(Debug, Args)]
pub(super) struct SealArgs {
    /// Id of the batch
    batch: String,
    /// Fail unless it has N items
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Describes a batch; `braidlog run list --batch` has its runs
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// Id of the batch
    batch: String,
    #[command(flatten)]
    remote: Remote,
}

/// A run, as it is written in a line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    run_id: String,
    #[serde(default)]
    number: Option<u64>,
    #[serde(default)]
    task: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    payload: Option<Value>,
    #[serde(default)]
    payload_type: Option<String>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    delay_until_ms: u64,
    #[serde(default)]
    ttl_ms: u64,
    #[serde(default)]
    max_attempts: u32,
    #[serde(default)]
    max_duration_ms: u64,
}

impl Item {
    fn item(self, line: u64) -> BatchItem {
        let (payload, is_json) = match self.payload {
            None => (String::new(), false),
            Some(Value::String(text)) => (text, false),
            Some(value) => (value.to_string(), true),
        };
        let json_type = if is_json { "application/json" } else { "" };
        let spec = RunSpec {
            payload: payload.into(),
            payload_type: self.payload_type.unwrap_or_else(|| json_type.into()),
            metadata: self.metadata.map(|it| it.to_string()).unwrap_or_default().into(),
            priority: self.priority,
            delay_until_ms: self.delay_until_ms,
            ttl_ms: self.ttl_ms,
            max_attempts: self.max_attempts,
            max_duration_ms: self.max_duration_ms,
            ..RunSpec::default()
        };
        let run = Create {
            namespace: DEFAULT_NAMESPACE.into(),
            run_id: self.run_id.into(),
            task: self.task.into(),
            tags: self.tags.into_iter().map(Into::into).collect(),
            spec,
            ..Create::default()
        };
        BatchItem { number: self.number.unwrap_or(line), run }
    }
}

impl BatchCommand {
    /// Whether output and failures are JSON.
    pub(super) fn as_json(&self) -> bool {
        match self {
            Self::Create(args) => args.remote.json,
            Self::Add(args) => args.remote.json,
            Self::Seal(args) => args.remote.json,
            Self::Get(args) => args.remote.json,
        }
    }
}

/// Runs the command.
pub(super) async fn run(command: BatchCommand) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    match command {
        BatchCommand::Create(args) => create(args, &mut output).await?,
        BatchCommand::Add(args) => add(args, &mut output).await?,
        BatchCommand::Seal(args) => seal(args, &mut output).await?,
        BatchCommand::Get(args) => get(args, &mut output).await?,
    }
    output.flush()
}

fn failed<'a>(id: &'a str, remote: &'a Remote) -> impl Fn(Error) -> Failure + 'a {
    move |error| {
        let failure = Failure::store(&error, &remote.subject(id, None));
        let message = match &error {
            Error::Refused(Refusal::RunNotFound) => {
                format!("batch not found: {id:?}; create it with `braidlog batch create`")
            }
            Error::Refused(Refusal::Closed { .. }) => {
                format!("batch {id:?} is sealed: nothing can be added")
            }
            Error::Refused(Refusal::IndexMismatch { tail }) => {
                format!("batch {id:?} has {tail} items: add those that are missing, then seal it")
            }
            _ => return failure,
        };
        Failure { message, exit: failure.exit, reason: failure.reason }
    }
}

async fn create(args: CreateArgs, output: &mut Output) -> Result<(), Failure> {
    let expires_at_ms = args.idempotency_ttl.map(|ttl| When::In(ttl).ms(now_ms()));
    let create = CreateBatch {
        run_count: args.run_count,
        tags: args.tags.into_iter().map(Into::into).collect(),
        idempotency_key: args.idempotency_key,
        idempotency_expires_at_ms: expires_at_ms.unwrap_or(0),
        ..CreateBatch::new(args.batch.as_str())
    };
    let created = args.remote.client()?.create_batch(create).await;
    let created = created.map_err(failed(&args.batch, &args.remote))?;
    if args.remote.json {
        return output.json(batch(&created.batch, Some(created.created)));
    }
    let verb = if created.created { "created" } else { "exists already:" };
    output.line(&format!("{verb} {}", created.batch.batch_id))
}

async fn add(args: AddArgs, output: &mut Output) -> Result<(), Failure> {
    let text = body::read(&args.file).await?;
    let items = items(&text)?;
    let (client, key) = (args.remote.client()?, RunKey::new(args.batch.as_str()));
    let mut total = AddedItems::default();
    for items in items.chunks(BATCH_ITEMS_MAX) {
        let more = client.add_to_batch(&key, items.to_vec()).await;
        let more = more.map_err(failed(&args.batch, &args.remote))?;
        total.accepted += more.accepted;
        total.deduplicated += more.deduplicated;
    }
    if args.remote.json {
        return output.json(added(&args.batch, &total));
    }
    let AddedItems { accepted, deduplicated } = total;
    output.line(&format!("added {accepted} to {}, {deduplicated} were there", args.batch))
}

fn items(text: &[u8]) -> Result<Vec<BatchItem>, Failure> {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let item = |(number, line): (usize, &[u8])| {
        let item: Item = serde_json::from_slice(line).map_err(|error| Failure {
            exit: Exit::Usage,
            reason: "USAGE",
            message: format!("line {} cannot be read: {error}; nothing was added", number + 1),
        })?;
        Ok(item.item(number as u64))
    };
    lines.map(item).collect()
}

async fn seal(args: SealArgs, output: &mut Output) -> Result<(), Failure> {
    let key = RunKey::new(args.batch.as_str());
    let sealed = args.remote.client()?.seal_batch(&key, args.expect).await;
    let sealed = sealed.map_err(failed(&args.batch, &args.remote))?;
    tell(&sealed, "sealed ", args.remote.json, output)
}

async fn get(args: GetArgs, output: &mut Output) -> Result<(), Failure> {
    let found = args.remote.client()?.get_batch(&RunKey::new(args.batch.as_str())).await;
    let found = found.map_err(failed(&args.batch, &args.remote))?;
    tell(&found, "", args.remote.json, output)
}

fn tell(found: &Batch, verb: &str, as_json: bool, output: &mut Output) -> Result<(), Failure> {
    if as_json {
        return output.json(batch(found, None));
    }
    let of = if found.run_count == 0 { String::new() } else { format!(" of {}", found.run_count) };
    let state = if found.sealed { "sealed" } else { "open" };
    let Batch { batch_id, items, .. } = found;
    output.line(&format!("{verb}{batch_id}: {items}{of} items, {state}"))
}
