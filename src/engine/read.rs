//! Reading: tails, pages, and where a run ends.

use super::{
    history::{History, Question},
    published::Published,
    reader::Reader,
    request::{Bounds, End, Page, Query, Records, RunKey, RunTail, StreamList, TailItem},
    shard::Run,
    start::{Answers, Unresolved},
    store::Store,
    tail::Tail,
};
use crate::{
    core::Refusal,
    error::Error,
    record::{READ_BYTES_MAX, READ_RECORDS_MAX, RunNo, RunUid},
};

/// What came of opening a reader.
enum Opening {
    Tail(Box<Tail>),
    /// The run's creation is not durable yet.
    NotYet,
    /// Segments have to be asked first.
    Ask(Question, u64, RunNo),
}

impl Store {
    /// Where a run and one of its streams end now: everything acknowledged before is below.
    ///
    /// # Errors
    /// [`Refusal::RunNotFound`], [`Refusal::StreamNotFound`], [`Refusal::RunReplaced`].
    pub async fn check_tail(
        &self,
        run: &RunKey,
        run_uid: Option<RunUid>,
        stream: Option<&str>,
    ) -> Result<RunTail, Error> {
        self.with_published(run, run_uid, |published| match stream {
            None => Ok(published.run_tail(None)),
            Some(name) => {
                let stream = published.stream_no(name).ok_or(Refusal::StreamNotFound)?;
                Ok(published.run_tail(Some(stream)))
            }
        })
        .await
    }

    /// The streams of a run.
    ///
    /// # Errors
    /// [`Refusal::RunNotFound`], [`Refusal::RunReplaced`].
    pub async fn list_streams(
        &self,
        run: &RunKey,
        run_uid: Option<RunUid>,
    ) -> Result<StreamList, Error> {
        self.with_published(run, run_uid, |published| {
            Ok(StreamList { streams: published.infos(), tail: published.durable })
        })
        .await
    }

    /// Reads one page, at once: at most 1,000 records and 1 MiB.
    ///
    /// # Errors
    /// The refusals of starts (see [`Start`](super::Start)), [`Refusal::StreamNotFound`],
    /// [`Error::Corrupt`].
    pub async fn read(&self, query: Query) -> Result<Page, Error> {
        let bounds = Bounds {
            records: Some(query.bounds.records.unwrap_or(u64::MAX).min(READ_RECORDS_MAX)),
            bytes: Some(query.bounds.bytes.unwrap_or(u64::MAX).min(READ_BYTES_MAX)),
            ..query.bounds
        };
        let streams = query.streams.clone();
        let names_exist = move |published: &Published| {
            let missing = streams.iter().any(|name| published.stream_no(name).is_none());
            if missing { Err(Refusal::StreamNotFound) } else { Ok(()) }
        };
        let query = Query { bounds, stop_at_tail: true, ..query };
        let mut tail = self.open_tail(&query, names_exist).await?;
        let mut page = Page {
            records: Records { pieces: Vec::new(), count: 0 },
            streams: Vec::new(),
            gaps: Vec::new(),
            cursor: tail.cursor(),
            tail: tail.durable_tail(),
            end: None,
        };
        loop {
            match tail.next().await? {
                TailItem::Streams(streams) => page.streams.extend(streams),
                TailItem::Records(records, _) => {
                    page.records.count += records.count;
                    page.records.pieces.extend(records.pieces);
                }
                TailItem::Gap(gap, _) => page.gaps.push(gap),
                TailItem::CaughtUp(_) => {}
                TailItem::End(end, cursor) => {
                    page.cursor = cursor;
                    page.end = matches!(end, End::Closed(_)).then_some(end);
                    return Ok(page);
                }
            }
        }
    }

    /// Catches up and then follows. A stream that does not exist yet is waited for.
    ///
    /// # Errors
    /// The refusals of starts; see [`Start`](super::Start).
    pub async fn tail(&self, query: Query) -> Result<Tail, Error> {
        self.open_tail(&query, |_| Ok(())).await
    }

    async fn open_tail(
        &self,
        query: &Query,
        check: impl Fn(&Published) -> Result<(), Refusal>,
    ) -> Result<Tail, Error> {
        let mut answers = Answers::default();
        loop {
            let opened = self
                .shared
                .with_run(&query.run, |_, run| self.open_reader(run, query, &check, &answers));
            match opened.await? {
                Opening::Tail(tail) => return Ok(*tail),
                Opening::NotYet => self.barrier().await?,
                Opening::Ask(question, name_hash, run_no) => {
                    let shared = self.shared.clone();
                    let answer =
                        move || History::of(&shared, name_hash, run_no)?.answer(&shared, question);
                    answers.add(question, self.shared.pool.run(answer).await?);
                }
            }
        }
    }

    fn open_reader(
        &self,
        run: &mut Run,
        query: &Query,
        check: &impl Fn(&Published) -> Result<(), Refusal>,
        answers: &Answers,
    ) -> Result<Opening, Error> {
        if !run.published.exists() {
            return Ok(Opening::NotYet);
        }
        run.published.check_run(query.run_uid)?;
        check(&run.published)?;
        match Reader::open(run, query, answers) {
            Ok(reader) => {
                let wake = run.published.subscribe();
                Ok(Opening::Tail(Box::new(Tail::new(self.shared.clone(), wake, reader))))
            }
            Err(Unresolved::Refused(refusal)) => Err(refusal.into()),
            Err(Unresolved::Ask(question)) => {
                Ok(Opening::Ask(question, run.name_hash, run.state.run_no))
            }
        }
    }

    /// Looks at what is durable of a run, once its creation is.
    async fn with_published<T>(
        &self,
        key: &RunKey,
        run_uid: Option<RunUid>,
        look: impl Fn(&Published) -> Result<T, Refusal>,
    ) -> Result<T, Error> {
        loop {
            let found = self.shared.with_run(key, |_, run| {
                let published = &run.published;
                published.check_run(run_uid)?;
                Ok(published.exists().then(|| look(published)))
            });
            match found.await? {
                Some(found) => return found.map_err(Error::Refused),
                None => self.barrier().await?,
            }
        }
    }
}
