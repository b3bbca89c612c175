//! The command line: what can be asked of `braidlog`, and how it answers.
//!
//! Data goes to standard output and everything else to standard error. With `--json`, both are
//! JSON, one object a line with a version `v`. Exit statuses stand in `failure`.
//!
//! What it deliberately does not do: anything that a program could not do with
//! [`Client`](crate::client::Client) or [`Store`](crate::engine::Store); prompt; colour.

mod acks;
mod append;
mod batch;
mod bench;
mod body;
mod claim;
mod commit;
mod cursor_file;
mod failure;
mod input;
mod interrupt;
mod lines;
mod logging;
mod meta;
mod once;
mod output;
mod read;
mod receive;
mod records;
mod remote;
mod run;
mod send;
mod serve;
mod settings;
mod start;
mod stats;
mod tail;
mod trim;
mod turn_document;
mod wait_token;
mod watch;
mod writer;

use std::{env, process::ExitCode};

use clap::{Parser, Subcommand};

use self::failure::{Exit, Failure};
use crate::{
    config::{ENV_LOG, LogFormat},
    platform::process,
    present::{self, moment, quantity, table, utc},
};

const EXAMPLES: &str = "\
A walk through:
  braidlog serve &
  printf 'one\\ntwo\\n' | braidlog append hello greetings
  braidlog read hello greetings
  braidlog tail hello greetings &
  echo three | braidlog append hello greetings
  braidlog run close hello

Exit status: 0 done, 1 failure, 2 wrong usage or input, 3 not found,
4 precondition (closed, trimmed, ...), 5 unavailable, 130 interrupted.";

/// A durable log-structured stream store: one append-only log per run, resumable exactly
#[derive(Debug, Parser)]
#[command(name = "braidlog", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Append(append::AppendArgs),
    Read(read::ReadArgs),
    Tail(tail::TailArgs),
    Trim(trim::TrimArgs),
    #[command(subcommand)]
    Run(run::RunCommand),
    Watch(watch::WatchArgs),
    #[command(subcommand)]
    Meta(meta::MetaCommand),
    Send(send::SendArgs),
    Receive(receive::ReceiveArgs),
    Take(receive::TakeArgs),
    Peek(receive::PeekArgs),
    Ack(receive::AckArgs),
    Claim(claim::ClaimArgs),
    #[command(subcommand)]
    Lease(claim::LeaseCommand),
    Commit(Box<commit::CommitArgs>),
    #[command(subcommand)]
    WaitToken(wait_token::TokenCommand),
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    Stats(stats::StatsArgs),
    Bench(Box<bench::BenchArgs>),
    #[command(subcommand)]
    Config(settings::ConfigCommand),
}

/// Does what the arguments of the process say.
pub fn main() -> ExitCode {
    process::use_small_pages();
    let command = Cli::parse().command;
    let as_json = command.as_json();
    let outcome = execute(command);
    if let Err(failure) = &outcome {
        failure.tell(as_json);
    }
    outcome.err().map_or(Exit::Done, |failure| failure.exit).into()
}

fn execute(command: Command) -> Result<(), Failure> {
    if let Command::Config(settings::ConfigCommand::Show(args)) = command {
        return settings::show(args);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = command.threads() {
        builder.worker_threads(threads);
    }
    let runtime =
        builder.enable_all().build().map_err(|error| Failure::io("starting threads", &error))?;
    let outcome = runtime.block_on(command.run());
    // A thread that waits for input nobody will type must not hold up the end.
    runtime.shutdown_background();
    outcome
}

impl Command {
    /// Threads of the runtime, if it is not one for each processor.
    fn threads(&self) -> Option<usize> {
        match self {
            Self::Bench(args) => args.threads(),
            _ => None,
        }
    }

    async fn run(self) -> Result<(), Failure> {
        // The server has settings for its log; others are silent unless told.
        if !matches!(self, Self::Serve(_))
            && let Ok(filter) = env::var(ENV_LOG)
        {
            logging::start(&filter, LogFormat::Text)?;
        }
        match self {
            Self::Serve(args) => serve::run(args).await,
            Self::Append(args) => append::run(args).await,
            Self::Read(args) => read::run(args).await,
            Self::Tail(args) => tail::run(args).await,
            Self::Trim(args) => trim::run(args).await,
            Self::Run(command) => run::run(command).await,
            Self::Watch(args) => watch::run(args).await,
            Self::Meta(command) => meta::run(command).await,
            Self::Send(args) => send::run(args).await,
            Self::Receive(args) => receive::receive(args).await,
            Self::Take(args) => receive::take(args).await,
            Self::Peek(args) => receive::peek(args).await,
            Self::Ack(args) => receive::ack(args).await,
            Self::Claim(args) => claim::claim(args).await,
            Self::Lease(command) => claim::lease(command).await,
            Self::Commit(args) => commit::run(*args).await,
            Self::WaitToken(command) => wait_token::run(command).await,
            Self::Batch(command) => batch::run(command).await,
            Self::Stats(args) => stats::run(args).await,
            Self::Config(settings::ConfigCommand::Show(args)) => settings::show(args),
            Self::Bench(args) => bench::run(*args).await,
        }
    }

    /// Whether failures are told as JSON.
    fn as_json(&self) -> bool {
        match self {
            Self::Serve(_) | Self::Config(_) => false,
            Self::Append(args) => args.remote.json,
            Self::Read(args) => args.remote.json,
            Self::Tail(args) => args.remote.json,
            Self::Trim(args) => args.remote.json,
            Self::Run(command) => command.as_json(),
            Self::Watch(args) => args.remote.json,
            Self::Meta(command) => command.as_json(),
            Self::Send(args) => args.remote.json,
            Self::Receive(args) => args.remote.json,
            Self::Take(args) => args.remote.json,
            Self::Peek(args) => args.remote.json,
            Self::Ack(args) => args.remote.json,
            Self::Claim(args) => args.remote.json,
            Self::Lease(command) => command.as_json(),
            Self::Commit(args) => args.remote.json,
            Self::WaitToken(command) => command.as_json(),
            Self::Batch(command) => command.as_json(),
            Self::Stats(args) => args.remote.json,
            Self::Bench(args) => args.json,
        }
    }
}
