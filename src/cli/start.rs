//! Where a reader begins: the options that `read` and `tail` share.

use clap::Args;

use crate::{
    engine::{Query, RunKey, Start},
    record::{Index, Seq},
};

/// At most one of them; the first record if there is none.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(super) struct StartArgs {
    /// Start at this index of the stream; without a stream, at this seq of the run
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Start at this seq of the run
    #[arg(long, value_name = "N")]
    from_seq: Option<u64>,
    /// Start at the last N records
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Start exactly behind an earlier answer
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl StartArgs {
    /// What to read of a run, from here.
    pub(super) fn query(&self, run: &str, stream: Option<&str>, allow_gap: bool) -> Query {
        let run = RunKey::new(run);
        let query = match stream {
            Some(stream) => Query::stream(run, stream),
            None => Query::run(run),
        };
        Query { start: self.start(stream.is_some()), allow_gap, ..query }
    }

    fn start(&self, one_stream: bool) -> Start {
        match self {
            Self { from: Some(index), .. } if one_stream => Start::Index(Index(*index)),
            Self { from: Some(seq), .. } | Self { from_seq: Some(seq), .. } => {
                Start::Seq(Seq(*seq))
            }
            Self { last: Some(count), .. } => Start::Last(*count),
            Self { cursor: Some(cursor), .. } => Start::Cursor(cursor.clone()),
            _ => Start::Beginning,
        }
    }
}
