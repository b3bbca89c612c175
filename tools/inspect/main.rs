//! `braidlog-inspect`: looks into a data directory, live or dead, without a server, without a lock,
//! and without writing one byte; says what is there, what is wrong, what it costs and what to do.
//!
//! Data goes to standard output and everything else to standard error. With `--json`, both are
//! JSON, one object a line with a version `v`. Exit
//! statuses stand in [`exit`].
//!
//! What it deliberately does not do: repair in place, open the index where it is, or know any format
//! by itself: it reads through the same codec, table and recovery plan as the server.

mod args;
mod context;
mod diff;
mod exit;
mod explain;
mod export;
mod files;
mod grep;
mod history;
mod import;
mod inbox;
mod index;
mod info;
mod journal;
mod manual;
mod output;
mod range;
mod records;
mod recover;
mod runs;
mod segments;
mod simulate;
mod stats;
mod streams;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    context::Context,
    exit::{Exit, Failure},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let as_json = cli.json;
    match execute(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell(as_json);
            failure.exit.into()
        }
    }
}

fn execute(cli: Cli) -> Result<Exit, Failure> {
    let mut context = Context::new(cli.data_dir, cli.namespace, cli.json, cli.urgent);
    let exit = match cli.command {
        Command::Info => info::run(&mut context),
        Command::Runs(args) => runs::run(&mut context, args),
        Command::Streams(args) => streams::run(&mut context, &args),
        Command::Records(args) => records::run(&mut context, args),
        Command::Segments(args) => segments::run(&mut context, args),
        Command::Journal(args) => journal::run(&mut context, args),
        Command::Grep(args) => grep::run(&mut context, args),
        Command::Verify(args) => verify::run(&mut context, &args),
        Command::Explain(args) => explain::run(&mut context, &args),
        Command::Recover(args) => recover::run(&mut context, &args),
        Command::SimulateOpen => simulate::run(&mut context),
        Command::Export(args) => export::run(&mut context, &args),
        Command::Import(args) => import::run(&mut context, &args),
        Command::Diff(args) => diff::run(&mut context, &args),
        Command::History(args) => history::run(&mut context, &args),
        Command::Inbox(args) => inbox::run(&mut context, &args),
        Command::Index(args) => index::run(&mut context, &args),
        Command::Stats(args) => stats::run(&mut context, &args),
        Command::Watch(args) => watch::run(&mut context, &args),
        Command::Completions(args) => manual::completions(&mut context, &args),
        Command::Man => manual::man(&mut context),
    }?;
    context.out.flush()?;
    Ok(exit)
}
