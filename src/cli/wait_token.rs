//! `braidlog wait-token`: something that is completed once, and that runs wait for.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    body::body,
    failure::Failure,
    interrupt,
    moment::When,
    output::Output,
    present::{token, token_status_name},
    quantity::duration_ms,
    remote::{Remote, now_ms},
    table::Table,
    utc::utc,
};
use crate::{
    engine::{CreateToken, DEFAULT_NAMESPACE, ListRuns, RunKey, WaitToken},
    error::Error,
    proto::RunStatus,
    record::LIST_ROWS_MAX,
};

/// Creates, completes and describes wait tokens
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Example:
  token=$(braidlog wait-token create --timeout 1d)
  braidlog commit build-17 --lease-epoch 1 --wait-token approval=$token --suspend
  braidlog wait-token complete $token --value yes   # queues the run again")]
pub(super) enum TokenCommand {
    Create(CreateArgs),
    Complete(CompleteArgs),
    Get(GetArgs),
    List(ListArgs),
}

/// Creates a token and prints its id
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its id, as a run's [default: one that no other has]
    #[arg(default_value = "", hide_default_value = true)]
    token: String,
    /// Let it time out after so long, as in 1d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, default_value = "0s",
          hide_default_value = true)]
    timeout: u64,
    /// A label to find it by; may be given up to 10 times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Key under which creating a token again gives this one
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    /// Forget the key after so long, as in 1d [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, requires = "idempotency_key")]
    idempotency_ttl: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Completes a token: the first value wins, and is printed
#[derive(Debug, Args)]
pub(super) struct CompleteArgs {
    /// Its id
    token: String,
    /// Its value, at most 1 MiB
    #[arg(long, value_name = "TEXT", conflicts_with = "value_file", allow_hyphen_values = true)]
    value: Option<String>,
    /// File that holds its value; `-` is standard input
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// Media type of the value
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    value_type: String,
    #[command(flatten)]
    remote: Remote,
}

/// Describes a token
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// Its id
    token: String,
    #[command(flatten)]
    remote: Remote,
}

/// Lists tokens, newest first
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only tokens whose id starts with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only tokens with this label; may be given more than once: tokens that have all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only tokens that stand so; may be given more than once
    #[arg(long = "status", value_enum, value_name = "STATUS")]
    statuses: Vec<TokenStatus>,
    /// List at most N tokens
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    remote: Remote,
}

/// Where a token may stand.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum TokenStatus {
    /// Nobody has completed it
    Waiting,
    /// It has a value
    Completed,
    /// Its time has passed
    TimedOut,
    /// It was canceled
    Canceled,
}

impl From<TokenStatus> for RunStatus {
    fn from(status: TokenStatus) -> Self {
        match status {
            TokenStatus::Waiting => Self::Executing,
            TokenStatus::Completed => Self::Completed,
            TokenStatus::TimedOut => Self::TimedOut,
            TokenStatus::Canceled => Self::Canceled,
        }
    }
}

impl TokenCommand {
    /// Whether output and failures are JSON.
    pub(super) fn as_json(&self) -> bool {
        match self {
            Self::Create(args) => args.remote.json,
            Self::Complete(args) => args.remote.json,
            Self::Get(args) => args.remote.json,
            Self::List(args) => args.remote.json,
        }
    }
}

/// Runs the command.
pub(super) async fn run(command: TokenCommand) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    match command {
        TokenCommand::Create(args) => create(args, &mut output).await?,
        TokenCommand::Complete(args) => complete(args, &mut output).await?,
        TokenCommand::Get(args) => get(args, &mut output).await?,
        TokenCommand::List(args) => list(args, &mut output).await?,
    }
    output.flush()
}

fn failed<'a>(id: &'a str, remote: &'a Remote) -> impl Fn(Error) -> Failure + 'a {
    move |error| Failure::store(&error, &remote.subject(id, None))
}

async fn create(args: CreateArgs, output: &mut Output) -> Result<(), Failure> {
    let expires_at_ms = args.idempotency_ttl.map(|ttl| When::In(ttl).ms(now_ms()));
    let create = CreateToken {
        namespace: DEFAULT_NAMESPACE.into(),
        token_id: args.token.as_str().into(),
        timeout_ms: args.timeout,
        tags: args.tags.into_iter().map(Into::into).collect(),
        idempotency_key: args.idempotency_key,
        idempotency_expires_at_ms: expires_at_ms.unwrap_or(0),
    };
    let created = args.remote.client()?.create_wait_token(create).await;
    let created = created.map_err(failed(&args.token, &args.remote))?;
    if args.remote.json {
        return output.json(token(&created.token, Some(("created", created.created))));
    }
    output.line(&created.token.token_id)
}

async fn complete(args: CompleteArgs, output: &mut Output) -> Result<(), Failure> {
    let value = body(args.value.as_deref(), args.value_file.as_deref()).await?;
    let key = RunKey::new(args.token.as_str());
    let completed = args.remote.client()?.complete_wait_token(&key, value, args.value_type).await;
    let completed = completed.map_err(failed(&args.token, &args.remote))?;
    if args.remote.json {
        return output
            .json(token(&completed.token, Some(("deduplicated", completed.deduplicated))));
    }
    output.bytes(&completed.token.value)?;
    output.bytes(b"\n")
}

async fn get(args: GetArgs, output: &mut Output) -> Result<(), Failure> {
    let found = args.remote.client()?.get_wait_token(&RunKey::new(args.token.as_str())).await;
    let found = found.map_err(failed(&args.token, &args.remote))?;
    if args.remote.json {
        return output.json(token(&found, None));
    }
    let value = String::from_utf8_lossy(&found.value);
    for (name, fact) in [
        ("token", found.token_id.to_string()),
        ("status", token_status_name(&found)),
        ("created", utc(found.created_ms)),
        ("times out", found.times_out_ms.map(utc).unwrap_or_default()),
        ("completed", found.completed_ms.map(utc).unwrap_or_default()),
        ("tags", found.tags.join(", ")),
        ("value", super::run::harmless(&value)),
    ] {
        if !fact.is_empty() {
            output.line(&format!("{name:<12}{fact}"))?;
        }
    }
    Ok(())
}

async fn list(args: ListArgs, output: &mut Output) -> Result<(), Failure> {
    let client = args.remote.client()?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut table = Table::new(["TOKEN", "STATUS", "TAGS", "CREATED", "TIMES OUT"]);
    let mut list = ListRuns {
        prefix: args.prefix,
        tags: args.tags.into_iter().map(Into::into).collect(),
        statuses: args.statuses.into_iter().map(Into::into).collect(),
        ..ListRuns::default()
    };
    while 0 < left {
        list.page_size = left.min(LIST_ROWS_MAX);
        let page = client.list_wait_tokens(&list).await.map_err(failed("", &args.remote))?;
        left -= page.tokens.len().min(left);
        for found in &page.tokens {
            match args.remote.json {
                true => output.json(token(found, None))?,
                false => table.row(row(found)),
            }
        }
        if !args.remote.json && !page.tokens.is_empty() {
            output.bytes(table.take().as_bytes())?;
        }
        list.after = page.next;
        if list.after.is_none() {
            break;
        }
    }
    Ok(())
}

fn row(token: &WaitToken) -> [String; 5] {
    [
        token.token_id.to_string(),
        token_status_name(token),
        token.tags.join(","),
        utc(token.created_ms),
        token.times_out_ms.map(utc).unwrap_or_default(),
    ]
}
