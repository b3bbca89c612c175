//! `braidlog read`: prints what there is, and ends.
//!
//! Reads page by page up to the tail as it was when the first page came, so that it ends while
//! somebody goes on appending.

use clap::Args;

use super::{
    failure::Failure,
    interrupt,
    records::{Format, RecordPrinter},
    remote::Remote,
    start::StartArgs,
};
use crate::engine::{Bounds, End, Query, Start};

const EXAMPLES: &str = "\
Examples:
  braidlog read build-17 log > log.txt
  braidlog read build-17 log --from 1000 --limit 20
  braidlog read build-17 --json | jq -c 'select(.kind == \"lifecycle\") | .event'

The last JSON line has `\"type\":\"end\"` and a cursor: `braidlog tail --cursor` goes on behind it.";

/// Prints the records of a stream, or of a whole run, up to now
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReadArgs {
    /// Name of the run
    run: String,
    /// Name of the stream; without it the whole run is read
    stream: Option<String>,
    #[command(flatten)]
    start: StartArgs,
    /// Print at most N records
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
pub(super) async fn run(args: ReadArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let subject = args.remote.subject(&args.run, args.stream.as_deref());
    let client = args.remote.client()?;
    let mut printer = RecordPrinter::new(args.remote.format(args.format));
    let query = args.start.query(&args.run, args.stream.as_deref(), args.allow_gap);
    let mut query = Query { bounds: Bounds { records: args.limit, ..Bounds::default() }, ..query };
    loop {
        let page = client.read(query.clone()).await;
        let page = page.map_err(|error| Failure::store(&error, &subject))?;
        let cursor = page.cursor.to_string();
        printer.learn(&page.streams);
        for gap in &page.gaps {
            printer.gap(gap, None)?;
        }
        printer.records(&page.records, &cursor)?;
        let until_seq = *query.bounds.until_seq.get_or_insert(page.tail);
        let left = query.bounds.records.map(|left| left.saturating_sub(page.records.count));
        query.bounds.records = left;
        let next = Start::Cursor(cursor.clone());
        let at_tail = until_seq <= page.cursor.seq || query.start == next;
        if at_tail || left == Some(0) || page.end.is_some() {
            let limit = (left == Some(0)).then_some(End::Limit);
            printer.end(page.end.or(limit), &cursor)?;
            return printer.flush();
        }
        query.start = next;
    }
}
