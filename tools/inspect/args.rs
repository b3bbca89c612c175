//! What can be asked.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    diff, explain, export, grep, history, import, inbox, index, journal, manual, records, recover,
    runs, segments, stats, streams, verify, watch,
};

const EXAMPLES: &str = "\
At three in the morning:
  braidlog-inspect info                       what is there, who has it, is it sound
  braidlog-inspect verify                     every checksum; what is lost, if anything is
  braidlog-inspect simulate-open              what a start of the server would do
  braidlog-inspect recover --to NEW           everything that is sound, into a new directory

Exit status: 0 ok, 1 failure, 2 wrong usage, 3 not found, 4 two directories
differ, 10 corruption found, 11 only a torn tail, 12 the index is stale, 130 interrupted.";

/// Looks into a braidlog data directory, live or dead, and writes nothing
#[derive(Debug, Parser)]
#[command(name = "braidlog-inspect", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// The data directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "BRAIDLOG_DATA_DIR",
        default_value = "./braidlog-data"
    )]
    pub(crate) data_dir: PathBuf,
    /// Namespace of the runs that are named
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Take a share of the processors, also where that slows a running server
    #[arg(long, global = true)]
    pub(crate) urgent: bool,
    /// What is asked
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One screen: identity, files, sizes, who has the store open, how it was left
    Info,
    Runs(runs::RunsArgs),
    Streams(streams::StreamsArgs),
    Records(records::RecordsArgs),
    Segments(segments::SegmentsArgs),
    Journal(journal::JournalArgs),
    Grep(grep::GrepArgs),
    Verify(verify::VerifyArgs),
    Explain(explain::ExplainArgs),
    Recover(recover::RecoverArgs),
    /// What a start of the server would do with the directory, without doing it
    SimulateOpen,
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Diff(diff::DiffArgs),
    History(history::HistoryArgs),
    Inbox(inbox::InboxArgs),
    Index(index::IndexArgs),
    Stats(stats::StatsArgs),
    Watch(watch::WatchArgs),
    Completions(manual::CompletionsArgs),
    /// The manual page, to standard output
    Man,
}
