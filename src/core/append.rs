//! Appending a batch of records to an output stream.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Appended, Context, Decision, Refusal, RunState,
    command::{check_open, check_run},
    digest::Digest,
    draft::Draft,
    state::Memory,
};
use crate::{
    format::frame::FRAME_HEADER_BYTES,
    proto::{Header, Kind, StreamKind, storage::v1::ProducerAdvanced},
    record::{
        APPEND_BYTES_MAX, APPEND_RECORDS_MAX, HEADERS_MAX, ID_BYTES_MAX, Index,
        PRODUCERS_PER_RUN_MAX, RECORD_BYTES_MAX, RunUid, STREAM_NAME_BYTES_MAX,
        STREAMS_PER_RUN_MAX, Seq, StreamNo, check_name, check_text,
    },
    sabotage::{self, Bug},
};

/// A record to append.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewRecord {
    /// Body: opaque bytes.
    pub data: Bytes,
    /// Headers, kept in order; at most 64.
    pub headers: Vec<Header>,
    /// Caller's identifier, at most 128 bytes, or empty.
    pub id: String,
    /// Caller's time in milliseconds since the Unix epoch, or 0.
    pub client_time_ms: u64,
}

impl NewRecord {
    /// A record that is a body and nothing else.
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self { data: data.into(), ..Self::default() }
    }

    /// Bytes that count against the limits: data and headers.
    pub fn size(&self) -> usize {
        let header = |header: &Header| header.name.len() + header.value.len();
        self.data.len() + self.headers.iter().map(header).sum::<usize>()
    }
}

/// Makes repeating an append harmless: the same (id, epoch, seq) is applied once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Name of the producer in the run, 1 to 128 bytes.
    pub id: Arc<str>,
    /// Epoch: a higher one fences every lower one.
    pub epoch: u64,
    /// Number of this append in the epoch: starts at 0, grows by one per append.
    pub seq: u64,
}

/// A batch for one stream, applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Append {
    /// Identity the run must have, if given.
    pub run_uid: Option<RunUid>,
    /// Name of the stream; opened by its first append.
    pub stream: Arc<str>,
    /// 1 to 1,000 records with at most 1 MiB of data and headers in total.
    pub records: Vec<NewRecord>,
    /// Seq the run's log must be at, if given.
    pub expected_seq: Option<Seq>,
    /// Index the stream must be at, if given.
    pub expected_index: Option<Index>,
    /// The idempotent producer, if any.
    pub producer: Option<Producer>,
    /// Number of the lease under which this is done, if any.
    pub lease_epoch: Option<u64>,
}

impl Producer {
    /// Row 1.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        check_name(&self.id, ID_BYTES_MAX).map_err(|error| Refusal::name("producer.id", error))?;
        if self.seq == u64::MAX {
            return Err(Refusal::invalid("producer.seq", "is the greatest number there is"));
        }
        Ok(())
    }
}

/// Row 1 for a record.
pub(super) fn check_record(record: &NewRecord) -> Result<(), Refusal> {
    Refusal::check_size("record (bytes of data and headers)", record.size(), RECORD_BYTES_MAX)?;
    Refusal::check_size("record (headers)", record.headers.len(), HEADERS_MAX)?;
    check_text(&record.id, ID_BYTES_MAX).map_err(|error| Refusal::name("records.id", error))
}

/// Bytes of a record in a frame, at most.
pub(super) fn record_bytes_max(record: &NewRecord) -> usize {
    record.size() + record.id.len() + record.headers.len() * 16 + 64
}

impl Append {
    /// Row 1: names and sizes.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        check_name(&self.stream, STREAM_NAME_BYTES_MAX)
            .map_err(|error| Refusal::name("stream", error))?;
        if self.records.is_empty() {
            return Err(Refusal::invalid("records", "is empty: an append has at least one record"));
        }
        Refusal::check_size("append (records)", self.records.len(), APPEND_RECORDS_MAX)?;
        let mut bytes = 0;
        for record in &self.records {
            check_record(record)?;
            bytes += record.size();
        }
        Refusal::check_size("append (bytes of data and headers)", bytes, APPEND_BYTES_MAX)?;
        self.producer.as_ref().map_or(Ok(()), Producer::check)
    }

    /// Bytes of the frame that this append becomes, at most.
    pub fn frame_bytes_max(&self) -> usize {
        let producer = self.producer.as_ref().map_or(0, |producer| producer.id.len());
        let records: usize = self.records.iter().map(record_bytes_max).sum();
        FRAME_HEADER_BYTES + records + self.stream.len() + producer + 128
    }

    /// Bytes of the frame with numbers of usual length: what is kept in memory for readers, so
    /// that a generous bound would cost twice the payload of small records.
    fn frame_bytes_expected(&self) -> usize {
        let record =
            |record: &NewRecord| record.size() + record.id.len() + record.headers.len() * 6 + 32;
        let effects = if self.producer.is_some() { 24 } else { 0 };
        self.records.iter().map(record).sum::<usize>() + effects
    }

    /// CRC-32 (IEEE) of what is appended, to tell a retry from a reused number.
    fn payload_crc(&self) -> u32 {
        let mut digest = Digest::default();
        digest.bytes(self.stream.as_bytes());
        self.records.iter().for_each(|record| digest.record(record));
        digest.crc()
    }
}

impl RunState {
    /// Admits an append, in the order of checks of the module [`core`](crate::core).
    ///
    /// # Errors
    /// The first check that fails; the state is then unchanged.
    pub fn append(
        &mut self,
        append: &Append,
        context: &Context,
    ) -> Result<Decision<Appended>, Refusal> {
        append.check()?;
        check_run(self, append.run_uid)?;
        if sabotage::is(Bug::ClosedBeforeDuplicate) {
            check_open(self, Some(&append.stream))?;
        }
        let payload_crc = append.producer.as_ref().map(|_| append.payload_crc()).unwrap_or(0);
        if let Some(producer) = &append.producer
            && let Some(answer) = self.repeated(producer, payload_crc)?
        {
            // What is remembered counts the events of the frame, too.
            let count = append.records.len() as u32;
            return Ok(Decision::Duplicate(Appended { count, ..answer }));
        }
        check_open(self, Some(&append.stream))?;
        let stream = self.stream_no(&append.stream);
        stream.map_or(Ok(()), |no| self.check_output(no))?;
        self.check_lease(append.lease_epoch, false)?;
        let first_index = self.check_positions(append, stream)?;
        let advance = append
            .producer
            .as_ref()
            .map(|producer| self.check_advance(producer, payload_crc))
            .transpose()?;
        if stream.is_none() && STREAMS_PER_RUN_MAX <= self.streams.len() {
            let limit = STREAMS_PER_RUN_MAX as u64;
            return Err(Refusal::Limit { which: "streams per run".into(), limit });
        }
        self.accept(append, first_index, advance, context)
    }

    /// Rows 3 and 4: the answer, if this very append was applied before. It counts all records of
    /// the frame, or none if they are forgotten.
    pub(super) fn repeated(
        &self,
        producer: &Producer,
        payload_crc: u32,
    ) -> Result<Option<Appended>, Refusal> {
        let Some((_, known)) = self.producer(&producer.id) else { return Ok(None) };
        if producer.epoch < known.epoch {
            return Err(Refusal::StaleEpoch { current: known.epoch });
        }
        if known.epoch < producer.epoch {
            return Ok(None);
        }
        match known.remembered(producer.seq) {
            Memory::Unseen => Ok(None),
            Memory::Known(append)
                if append.payload_crc != payload_crc
                    && !sabotage::is(Bug::IgnoreContentOfRepetition) =>
            {
                Err(Refusal::DedupMismatch)
            }
            Memory::Known(append) => Ok(Some(Appended { deduplicated: true, ..append.appended })),
            Memory::Forgotten => Ok(Some(Appended {
                run_uid: self.run_uid,
                first_seq: Seq::ZERO,
                first_index: Index::ZERO,
                count: 0,
                time_ms: self.updated_ms,
                deduplicated: true,
                positions_forgotten: true,
            })),
        }
    }

    /// Row 6 for a stream that is appended to.
    pub(super) fn check_output(&self, no: StreamNo) -> Result<(), Refusal> {
        let stream = self.stream(no);
        if stream.closed {
            let final_index = Some(stream.tail);
            return Err(Refusal::Closed { outcome: None, final_seq: self.tail, final_index });
        }
        if stream.kind != StreamKind::Output {
            return Err(Refusal::invalid("stream", "is not an output stream"));
        }
        Ok(())
    }

    /// Row 8.
    fn check_positions(&self, append: &Append, stream: Option<StreamNo>) -> Result<Index, Refusal> {
        let tail = stream.map_or(Index::ZERO, |no| self.stream(no).tail);
        if append.expected_seq.is_some_and(|expected| expected != self.tail) {
            return Err(Refusal::SeqMismatch { tail: self.tail });
        }
        if append.expected_index.is_some_and(|expected| expected != tail) {
            return Err(Refusal::IndexMismatch { tail });
        }
        Ok(tail)
    }

    /// Row 9, and row 12 for producers.
    pub(super) fn check_advance(
        &self,
        producer: &Producer,
        payload_crc: u32,
    ) -> Result<ProducerAdvanced, Refusal> {
        let advanced = |r#ref: usize, id: &str| ProducerAdvanced {
            r#ref: r#ref as u32,
            id: id.into(),
            epoch: producer.epoch,
            seq: producer.seq,
            payload_crc,
        };
        match self.producer(&producer.id) {
            Some((at, known)) if known.epoch == producer.epoch => {
                if producer.seq != known.next_seq {
                    return Err(Refusal::ProducerGap { expected: known.next_seq });
                }
                Ok(advanced(at, ""))
            }
            _ if producer.seq != 0 => Err(Refusal::BadEpochStart),
            Some((at, _)) => Ok(advanced(at, "")),
            None if PRODUCERS_PER_RUN_MAX <= self.producers.len() => {
                let limit = PRODUCERS_PER_RUN_MAX as u64;
                Err(Refusal::Limit { which: "producers per run".into(), limit })
            }
            None => Ok(advanced(self.producers.len(), &producer.id)),
        }
    }

    /// Row 12 for what is kept, and row 13.
    fn accept(
        &mut self,
        append: &Append,
        first_index: Index,
        advance: Option<ProducerAdvanced>,
        context: &Context,
    ) -> Result<Decision<Appended>, Refusal> {
        let mut draft = Draft::new(self, context, append.frame_bytes_expected());
        draft.effects.producer = advance.filter(|_| !sabotage::is(Bug::ProducerOutsideFrame));
        let stream = draft.open(&append.stream, StreamKind::Output);
        for record in &append.records {
            draft.record(stream, Kind::Chunk, record);
        }
        let count = draft.count();
        draft.begin_work(append.lease_epoch);
        let frame = draft.finish();
        debug_assert!(frame.bytes().len() <= append.frame_bytes_max(), "the bound holds");
        self.check_quota(append.records.len(), &frame, &context.limits)?;
        let answer = Appended {
            run_uid: self.run_uid,
            first_seq: frame.header.first_seq,
            first_index,
            count,
            time_ms: frame.header.time_ms,
            deduplicated: false,
            positions_forgotten: false,
        };
        Ok(self.accepted(frame, answer))
    }
}
