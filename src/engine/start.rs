//! Where a reader begins: the start of a query, checked against the durable log.

use super::{
    published::Published,
    request::{Query, Start},
};
use crate::{
    core::Refusal,
    format::cursor::Cursor,
    record::{Index, OLDER_CURSORS_MAX, Seq, StreamNo},
};

/// Where a reader begins.
pub(super) struct Beginning {
    pub(super) seq: Seq,
    /// First index wanted, if the start was given as one.
    pub(super) index: Option<Index>,
}

impl Beginning {
    fn seq(seq: Seq) -> Self {
        Self { seq, index: None }
    }
}

/// Finds the start of a query. `single` is the one stream it reads, if it is one and exists.
pub(super) fn find_start(
    published: &Published,
    query: &Query,
    single: Option<StreamNo>,
) -> Result<Beginning, Refusal> {
    let durable = published.durable;
    let needs_one = |field| match query.streams.len() {
        1 => Ok(()),
        _ => Err(Refusal::invalid(field, "needs exactly one stream")),
    };
    if query.bounds.until_index.is_some() {
        needs_one("bounds.until_index")?;
    }
    let from = match &query.start {
        Start::Beginning => Beginning::seq(Seq::ZERO),
        Start::Tail => Beginning::seq(durable),
        Start::Seq(seq) if *seq <= durable => Beginning::seq(*seq),
        Start::Seq(_) if query.clamp => Beginning::seq(durable),
        Start::Seq(_) => return Err(Refusal::BeyondTail { tail: durable.0 }),
        Start::Last(count) => last(published, query, single, *count)?,
        Start::Index(index) => {
            needs_one("start.index")?;
            at_index(published, query, single, *index)?
        }
        Start::Cursor(text) => Beginning::seq(resume(published, query, text)?),
    };
    match single {
        Some(stream) if !query.allow_gap => check_trim(published, stream, from),
        _ => Ok(from),
    }
}

fn last(
    published: &Published,
    query: &Query,
    single: Option<StreamNo>,
    count: u64,
) -> Result<Beginning, Refusal> {
    match (query.streams.len(), single) {
        (0, _) => Ok(Beginning::seq(Seq(published.durable.0.saturating_sub(count)))),
        (1, None) => Ok(Beginning::seq(published.durable)),
        (1, Some(stream)) => {
            let known = &published.streams[stream.0 as usize];
            let index = Index(known.tail.0.saturating_sub(count)).max(known.trim);
            Ok(Beginning { seq: published.seq_of(stream, index), index: Some(index) })
        }
        _ => Err(Refusal::invalid("start.last", "needs one stream, or the whole run")),
    }
}

fn at_index(
    published: &Published,
    query: &Query,
    single: Option<StreamNo>,
    index: Index,
) -> Result<Beginning, Refusal> {
    let tail = single.map_or(Index::ZERO, |stream| published.streams[stream.0 as usize].tail);
    if tail < index && !query.clamp {
        return Err(Refusal::BeyondTail { tail: tail.0 });
    }
    let index = index.min(tail);
    let seq = single.map_or(published.durable, |stream| published.seq_of(stream, index));
    Ok(Beginning { seq, index: Some(index) })
}

/// Checks the proof that a cursor holds.
fn resume(published: &Published, query: &Query, text: &str) -> Result<Seq, Refusal> {
    if OLDER_CURSORS_MAX < query.older_cursors.len() {
        return Err(Refusal::invalid("older_cursors", "has more than 8 entries"));
    }
    let parse = |text: &str| Cursor::parse(text).map_err(|_| Refusal::BadCursor);
    let cursor = parse(text)?;
    let older = query.older_cursors.iter().map(|text| parse(text));
    let older = older.collect::<Result<Vec<_>, _>>()?;
    if cursor.run_uid != published.run_uid {
        return Err(Refusal::RunReplaced { run_uid: published.run_uid });
    }
    let fits = |cursor: &Cursor| {
        cursor.run_uid == published.run_uid && published.chain_at(cursor.seq) == Some(cursor.chain)
    };
    if fits(&cursor) {
        return Ok(cursor.seq);
    }
    Err(Refusal::HistoryChanged {
        common_seq: older.iter().filter(|older| fits(older)).map(|older| older.seq).max(),
        trim: Seq::ZERO,
        tail: published.durable,
    })
}

/// Refuses a start that has been trimmed.
fn check_trim(
    published: &Published,
    stream: StreamNo,
    from: Beginning,
) -> Result<Beginning, Refusal> {
    let index = from.index.unwrap_or_else(|| published.index_at(stream, from.seq));
    let trim = published.streams[stream.0 as usize].trim;
    if trim <= index {
        return Ok(from);
    }
    Err(Refusal::Trimmed { first_seq: published.seq_of(stream, trim), first_index: Some(trim) })
}
