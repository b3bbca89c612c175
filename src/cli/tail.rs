//! `braidlog tail`: prints what there is and then what comes, until the run is closed.
//!
//! It reconnects by itself and goes on exactly behind what it has printed. Across its own restarts
//! there are two ways:
//!
//! * `--cursor-file` remembers a cursor after its records were handed to standard output. A tail that
//!   is killed between the two prints those records again: at least once.
//! * With `--json`, each record carries its `seq`, and each last one of a piece a `cursor`. A
//!   consumer that stores, with what it made of a record, its seq and the last cursor seen, resumes
//!   with `--cursor` and leaves out every record whose seq it has: exactly once.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use super::{
    cursor_file::CursorFile,
    failure::Failure,
    interrupt,
    present::outcome_name,
    records::{Format, RecordPrinter},
    remote::Remote,
    start::StartArgs,
};
use crate::engine::{Bounds, End, Query, Start, TailItem};

const EXAMPLES: &str = "\
Examples:
  braidlog tail build-17 log
  braidlog tail build-17 log --last 10
  braidlog tail build-17 --tail --json          # the whole run, from now on
  braidlog tail build-17 log --cursor-file log.cursor >> log.txt

A stream that does not exist yet is waited for. The tail ends, with status 0,
when the run or the stream is closed.

With --cursor-file, a tail that was killed prints again what it had printed
since the file was last written: at least once. For exactly once, read --json,
keep the last `seq` and the last `cursor` together with what was made of them,
resume with --cursor, and skip every record up to that `seq`.";

/// Prints the records of a stream, or of a whole run, and follows it until it is closed
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TailArgs {
    /// Name of the run
    run: String,
    /// Name of the stream; without it the whole run is followed
    stream: Option<String>,
    #[command(flatten)]
    start: StartArgs,
    /// Start at whatever comes next
    #[arg(long, conflicts_with = "StartArgs")]
    tail: bool,
    /// Go on behind the cursor in this file if it exists, and keep it up to date
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// End after N records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Start at the first record that is kept if those before it were trimmed
    #[arg(long)]
    allow_gap: bool,
    /// How to print records
    #[arg(long, value_enum, default_value_t = Format::Lines, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Runs the command.
pub(super) async fn run(args: TailArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let subject = args.remote.subject(&args.run, args.stream.as_deref());
    let client = args.remote.lasting_client(&subject).await?;
    let mut cursor_file = match &args.cursor_file {
        Some(path) => Some(CursorFile::open(path.clone()).await?),
        None => None,
    };
    let mut printer = RecordPrinter::new(args.remote.format(args.format));
    let failed = |error| Failure::store(&error, &subject);
    let mut tail = client.tail(query(&args, cursor_file.as_ref())).await.map_err(failed)?;
    loop {
        let item = tail.next().await.map_err(failed)?;
        let cursor = print(&mut printer, &item)?;
        printer.flush()?;
        if let (Some(file), Some(cursor)) = (&mut cursor_file, cursor) {
            file.store(cursor).await?;
        }
        if let TailItem::End(end, _) = item {
            note_end(end, &args);
            return Ok(());
        }
    }
}

fn query(args: &TailArgs, cursor_file: Option<&CursorFile>) -> Query {
    let query = args.start.query(&args.run, args.stream.as_deref(), args.allow_gap);
    let start = match cursor_file.and_then(CursorFile::cursor) {
        Some(cursor) => Start::Cursor(cursor.into()),
        None if args.tail => Start::Tail,
        None => query.start,
    };
    Query { start, bounds: Bounds { records: args.limit, ..Bounds::default() }, ..query }
}

/// Prints an item, and gives the cursor behind it if it has one.
fn print(printer: &mut RecordPrinter, item: &TailItem) -> Result<Option<String>, Failure> {
    let cursor = match item {
        TailItem::Streams(streams) => {
            printer.learn(streams);
            return Ok(None);
        }
        TailItem::Records(_, cursor)
        | TailItem::Gap(_, cursor)
        | TailItem::CaughtUp(cursor)
        | TailItem::End(_, cursor) => cursor.to_string(),
    };
    match item {
        TailItem::Streams(_) => {}
        TailItem::Records(records, _) => printer.records(records, &cursor)?,
        TailItem::Gap(gap, _) => printer.gap(gap, Some(&cursor))?,
        TailItem::CaughtUp(_) => printer.caught_up(&cursor)?,
        TailItem::End(end, _) => printer.end(Some(*end), &cursor)?,
    }
    Ok(Some(cursor))
}

/// Tells people on standard error how it ended; programs have the last line of JSON.
fn note_end(end: End, args: &TailArgs) {
    let (run, stream) = (&args.run, args.stream.as_deref().unwrap_or_default());
    let words = match end {
        _ if args.remote.json || args.format == Format::Json => return,
        End::Limit => return,
        End::Closed(Some(outcome)) => format!("run {run:?} is closed: {}", outcome_name(outcome)),
        End::Closed(None) => format!("stream {stream:?} of run {run:?} is closed"),
    };
    // The records are out; that the note is not read changes nothing.
    let _ = writeln!(io::stderr(), "braidlog: {words}");
}
