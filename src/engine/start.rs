//! Where a reader begins: the start of a query, checked against the durable log.
//!
//! What only segments know is asked for and looked up outside of the shard's lock; then the start
//! is looked for again, with the answers at hand.

use super::{
    history::{Answer, Question},
    published::{Earlier, Published},
    request::{Query, Start},
    select::Position,
};
use crate::{
    core::Refusal,
    format::{cursor::Cursor, frame::Chain},
    record::{Index, OLDER_CURSORS_MAX, Seq, StreamNo},
};

/// Answers to the questions that came up so far.
#[derive(Default)]
pub(super) struct Answers(Vec<(Question, Answer)>);

/// Why a start was not found.
pub(super) enum Unresolved {
    /// It is refused.
    Refused(Refusal),
    /// This has to be answered first.
    Ask(Question),
}

impl From<Refusal> for Unresolved {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Answers {
    /// Adds an answer.
    pub(super) fn add(&mut self, question: Question, answer: Answer) {
        self.0.push((question, answer));
    }

    fn get(&self, question: Question) -> Result<Answer, Unresolved> {
        let known = self.0.iter().find(|(asked, _)| *asked == question);
        known.map(|(_, answer)| *answer).ok_or(Unresolved::Ask(question))
    }
}

/// A durable log, with answers about its earlier part.
struct Log<'a> {
    published: &'a Published,
    answers: &'a Answers,
}

impl Log<'_> {
    /// None if what was there is trimmed.
    fn chain_at(&self, seq: Seq) -> Result<Option<Chain>, Unresolved> {
        match self.published.chain_at(seq) {
            Ok(chain) => Ok(Some(chain)),
            Err(Earlier) => match self.answers.get(Question::ChainAt(seq))? {
                Answer::Chain(chain) => Ok(chain),
                _ => unreachable!("a chain was asked for"),
            },
        }
    }

    fn seq_of(&self, stream: StreamNo, index: Index) -> Result<Seq, Unresolved> {
        match self.published.seq_of(stream, index) {
            Ok(seq) => Ok(seq),
            Err(Earlier) => match self.answers.get(Question::SeqOf(stream, index))? {
                Answer::Seq(seq) => Ok(seq),
                _ => unreachable!("a seq was asked for"),
            },
        }
    }

    fn index_at(&self, stream: StreamNo, mut seq: Seq) -> Result<Index, Unresolved> {
        loop {
            if let Ok(index) = self.published.index_at(stream, seq) {
                return Ok(index);
            }
            match self.answers.get(Question::IndexAt(stream, seq))? {
                Answer::Index(index) => return Ok(index),
                // What follows is known here, or went into segments after it was asked for.
                Answer::NoneBefore(end) => seq = end,
                _ => unreachable!("an index was asked for"),
            }
        }
    }
}

/// Where a reader begins.
pub(super) struct Beginning {
    pub(super) at: Position,
    /// First index wanted, if the start was given as one.
    pub(super) index: Option<Index>,
}

/// Where a query says to begin.
#[derive(Clone, Copy)]
struct Origin {
    seq: Seq,
    index: Option<Index>,
}

impl Origin {
    fn seq(seq: Seq) -> Self {
        Self { seq, index: None }
    }
}

/// Finds the start of a query. `single` is the one stream it reads, if it is one and exists.
pub(super) fn find_start(
    published: &Published,
    answers: &Answers,
    query: &Query,
    single: Option<StreamNo>,
) -> Result<Beginning, Unresolved> {
    let log = Log { published, answers };
    let durable = published.durable;
    let needs_one = |field| match query.streams.len() {
        1 => Ok(()),
        _ => Err(Refusal::invalid(field, "needs exactly one stream")),
    };
    if query.bounds.until_index.is_some() {
        needs_one("bounds.until_index")?;
    }
    let from = match &query.start {
        Start::Beginning => Origin::seq(Seq::ZERO),
        Start::Tail => Origin::seq(durable),
        Start::Seq(seq) if *seq <= durable => Origin::seq(*seq),
        Start::Seq(_) if query.clamp => Origin::seq(durable),
        Start::Seq(_) => return Err(Refusal::BeyondTail { tail: durable.0 }.into()),
        Start::Last(count) => last(&log, query, single, *count)?,
        Start::Index(index) => {
            needs_one("start.index")?;
            at_index(&log, query, single, *index)?
        }
        Start::Cursor(text) => resume(&log, query, single, text)?,
    };
    if let Some(stream) = single.filter(|_| !query.allow_gap) {
        check_trim(&log, stream, from)?;
    }
    let index = match (single, from.index) {
        (_, Some(index)) => index,
        (Some(stream), None) => log.index_at(stream, from.seq)?,
        (None, None) => Index::ZERO,
    };
    // Of a place in the middle of what is trimmed nothing can be proven, now or later.
    let chain = log.chain_at(from.seq)?.unwrap_or(Chain(0));
    let at = Position { seq: from.seq, chain, index };
    Ok(Beginning { at, index: from.index })
}

fn last(
    log: &Log<'_>,
    query: &Query,
    single: Option<StreamNo>,
    count: u64,
) -> Result<Origin, Unresolved> {
    let durable = log.published.durable;
    match (query.streams.len(), single) {
        (0, _) => Ok(Origin::seq(Seq(durable.0.saturating_sub(count)))),
        (1, None) => Ok(Origin::seq(durable)),
        (1, Some(stream)) => {
            let known = &log.published.streams[stream.0 as usize];
            let index = Index(known.tail.0.saturating_sub(count)).max(known.trim);
            Ok(Origin { seq: log.seq_of(stream, index)?, index: Some(index) })
        }
        _ => Err(Refusal::invalid("start.last", "needs one stream, or the whole run").into()),
    }
}

fn at_index(
    log: &Log<'_>,
    query: &Query,
    single: Option<StreamNo>,
    index: Index,
) -> Result<Origin, Unresolved> {
    let streams = &log.published.streams;
    let tail = single.map_or(Index::ZERO, |stream| streams[stream.0 as usize].tail);
    if tail < index && !query.clamp {
        return Err(Refusal::BeyondTail { tail: tail.0 }.into());
    }
    let index = index.min(tail);
    let seq = match single {
        Some(stream) => log.seq_of(stream, index)?,
        None => log.published.durable,
    };
    Ok(Origin { seq, index: Some(index) })
}

/// Checks the proof that a cursor holds. One of the very stream that is read knows its index as well,
/// also where all that was there is trimmed and gone.
fn resume(
    log: &Log<'_>,
    query: &Query,
    single: Option<StreamNo>,
    text: &str,
) -> Result<Origin, Unresolved> {
    if OLDER_CURSORS_MAX < query.older_cursors.len() {
        return Err(Refusal::invalid("older_cursors", "has more than 8 entries").into());
    }
    let parse = |text: &str| Cursor::parse(text).map_err(|_| Refusal::BadCursor);
    let cursor = parse(text)?;
    let older = query.older_cursors.iter().map(|text| parse(text));
    let older = older.collect::<Result<Vec<_>, _>>()?;
    let run_uid = log.published.run_uid;
    if cursor.run_uid != run_uid {
        return Err(Refusal::RunReplaced { run_uid }.into());
    }
    if fits(log, &cursor)? {
        let of_single = cursor.stream.filter(|&(stream, _)| Some(stream) == single);
        return Ok(Origin { seq: cursor.seq, index: of_single.map(|(_, index)| index) });
    }
    let mut common_seq = None;
    for older in &older {
        if older.run_uid == run_uid && fits(log, older)? {
            common_seq = common_seq.max(Some(older.seq));
        }
    }
    let (trim, tail) = (Seq::ZERO, log.published.durable);
    Err(Refusal::HistoryChanged { common_seq, trim, tail }.into())
}

/// Whether a cursor of this run was made on this log, as far as that is known still.
fn fits(log: &Log<'_>, cursor: &Cursor) -> Result<bool, Unresolved> {
    if log.published.durable < cursor.seq {
        return Ok(false);
    }
    Ok(log.chain_at(cursor.seq)?.is_none_or(|chain| chain == cursor.chain))
}

/// Refuses a start that has been trimmed.
fn check_trim(log: &Log<'_>, stream: StreamNo, from: Origin) -> Result<(), Unresolved> {
    let trim = log.published.streams[stream.0 as usize].trim;
    let index = match from.index {
        Some(index) => index,
        None => log.index_at(stream, from.seq)?,
    };
    if trim <= index {
        return Ok(());
    }
    let first_seq = log.seq_of(stream, trim)?;
    Err(Refusal::Trimmed { first_seq, first_index: Some(trim) }.into())
}
