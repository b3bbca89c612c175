//! A record's bytes: written once, at admission, and then stored, read and served unchanged.
//!
//! A record is the field `records = 1` of the messages that serve it: byte `0x0A`, varint length,
//! `braidlog.v1.Record`. Records that stand behind each other are therefore a valid part of an
//! answer. [`put_record`] writes these bytes, [`skim`] finds the few numbers a reader steers by
//! without decoding the rest. A test holds both equal to prost.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message, encoding};

use super::Damage;
use crate::{
    proto::{Event, Header, Kind, Record},
    record::{Index, Seq, StreamNo},
};

/// Key of field 1, length-delimited: what every record starts with.
const RECORD_KEY: u8 = 0x0A;

const STREAM: u32 = 1;
const SEQ: u32 = 2;
const INDEX: u32 = 3;
const TIME_MS: u32 = 4;
const KIND: u32 = 5;
const HEADERS: u32 = 6;
const ID: u32 = 7;
const CLIENT_TIME_MS: u32 = 8;
const EVENT: u32 = 14;
const DATA: u32 = 15;

/// The fields of a record about to be written.
#[derive(Debug, Clone, Copy)]
pub struct RecordFields<'a> {
    /// Number of the stream.
    pub stream: StreamNo,
    /// Position in the run.
    pub seq: Seq,
    /// Position in the stream.
    pub index: Index,
    /// Server time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What the record is.
    pub kind: Kind,
    /// Caller's headers.
    pub headers: &'a [Header],
    /// Caller's identifier, or empty.
    pub id: &'a str,
    /// Caller's time, or 0.
    pub client_time_ms: u64,
    /// What happened, for records of stream 0.
    pub event: Option<&'a Event>,
    /// Body.
    pub data: &'a [u8],
}

/// Appends a record to `out`, key and length included.
pub fn put_record(out: &mut BytesMut, fields: &RecordFields<'_>) {
    let len = record_len(fields);
    out.reserve(1 + encoding::encoded_len_varint(len as u64) + len);
    let mut head = Head::default();
    head.put_u8(RECORD_KEY);
    head.put_varint(len as u64);
    head.put_number(STREAM, u64::from(fields.stream.0));
    head.put_number(SEQ, fields.seq.0);
    head.put_number(INDEX, fields.index.0);
    head.put_number(TIME_MS, fields.time_ms);
    head.put_number(KIND, fields.kind as u64);
    out.put_slice(&head.bytes[..head.len]);
    for header in fields.headers {
        encoding::message::encode(HEADERS, header, out);
    }
    put_bytes(out, ID, fields.id.as_bytes());
    put_number(out, CLIENT_TIME_MS, fields.client_time_ms);
    if let Some(event) = fields.event {
        encoding::message::encode(EVENT, event, out);
    }
    put_bytes(out, DATA, fields.data);
}

/// The numbers that a record begins with: gathered here, so that the frame grows once for all.
struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

/// Key and length of the record, and five numbers, each with its key.
const HEAD_BYTES_MAX: usize = 6 * (1 + VARINT_BYTES_MAX);
const VARINT_BYTES_MAX: usize = 10;

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; HEAD_BYTES_MAX], len: 0 }
    }
}

impl Head {
    fn put_u8(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn put_varint(&mut self, mut value: u64) {
        while 0x80 <= value {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    fn put_number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            self.put_u8((tag << 3) as u8 | encoding::WireType::Varint as u8);
            self.put_varint(value);
        }
    }
}

const _: () = assert!(KIND < 16, "a key of the head is one byte");

fn record_len(fields: &RecordFields<'_>) -> usize {
    number_len(STREAM, u64::from(fields.stream.0))
        + number_len(SEQ, fields.seq.0)
        + number_len(INDEX, fields.index.0)
        + number_len(TIME_MS, fields.time_ms)
        + number_len(KIND, fields.kind as u64)
        + fields.headers.iter().map(|h| encoding::message::encoded_len(HEADERS, h)).sum::<usize>()
        + bytes_len(ID, fields.id.as_bytes())
        + number_len(CLIENT_TIME_MS, fields.client_time_ms)
        + fields.event.map_or(0, |event| encoding::message::encoded_len(EVENT, event))
        + bytes_len(DATA, fields.data)
}

fn number_len(tag: u32, value: u64) -> usize {
    match value {
        0 => 0,
        _ => encoding::key_len(tag) + encoding::encoded_len_varint(value),
    }
}

fn put_number(out: &mut BytesMut, tag: u32, value: u64) {
    if value != 0 {
        encoding::encode_key(tag, encoding::WireType::Varint, out);
        encoding::encode_varint(value, out);
    }
}

fn bytes_len(tag: u32, value: &[u8]) -> usize {
    match value.len() {
        0 => 0,
        len => encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len,
    }
}

fn put_bytes(out: &mut BytesMut, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        encoding::encode_key(tag, encoding::WireType::LengthDelimited, out);
        encoding::encode_varint(value.len() as u64, out);
        out.put_slice(value);
    }
}

/// What a reader steers by, found without decoding the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skim<'a> {
    /// Number of the stream.
    pub stream: StreamNo,
    /// Position in the run.
    pub seq: Seq,
    /// Position in the stream.
    pub index: Index,
    /// Server time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The encoded event, if there is one.
    pub event: Option<&'a [u8]>,
    /// Bytes the record takes, key and length included.
    pub len: usize,
}

/// Finds the numbers of the record that `bytes` start with.
///
/// # Errors
/// [`Damage::Short`] if the record does not end within `bytes`, [`Damage::Message`] if it is not
/// one.
pub fn skim(bytes: &[u8]) -> Result<Skim<'_>, Damage> {
    let mut rest = bytes;
    if take_byte(&mut rest)? != RECORD_KEY {
        return Err(Damage::Message { what: "record" });
    }
    let body = take_delimited(&mut rest)?;
    let len = bytes.len() - rest.len();
    let mut found = Skim {
        stream: StreamNo::RUN,
        seq: Seq::ZERO,
        index: Index::ZERO,
        time_ms: 0,
        event: None,
        len,
    };
    let mut body = body;
    while !body.is_empty() {
        let key = take_varint(&mut body)?;
        match (key >> 3, key & 7) {
            (1, VARINT) => found.stream = StreamNo(stream_no(take_varint(&mut body)?)?),
            (2, VARINT) => found.seq = Seq(take_varint(&mut body)?),
            (3, VARINT) => found.index = Index(take_varint(&mut body)?),
            (4, VARINT) => found.time_ms = take_varint(&mut body)?,
            (5 | 8, VARINT) => _ = take_varint(&mut body)?,
            (6 | 7 | 15, DELIMITED) => _ = take_delimited(&mut body)?,
            (14, DELIMITED) => found.event = Some(take_delimited(&mut body)?),
            // The fields are frozen: another one is damage, or another format version.
            _ => return Err(Damage::Message { what: "record" }),
        }
    }
    Ok(found)
}

const VARINT: u64 = 0;
const DELIMITED: u64 = 2;

fn stream_no(value: u64) -> Result<u32, Damage> {
    u32::try_from(value).map_err(|_| Damage::Message { what: "record" })
}

fn take_byte(bytes: &mut &[u8]) -> Result<u8, Damage> {
    let (&byte, rest) = bytes.split_first().ok_or(Damage::Short)?;
    *bytes = rest;
    Ok(byte)
}

#[inline]
fn take_varint(bytes: &mut &[u8]) -> Result<u64, Damage> {
    match bytes.split_first() {
        // Nearly all: keys, streams, kinds, lengths.
        Some((&byte, rest)) if byte < 0x80 => {
            *bytes = rest;
            Ok(u64::from(byte))
        }
        _ => take_long_varint(bytes),
    }
}

fn take_long_varint(bytes: &mut &[u8]) -> Result<u64, Damage> {
    let (mut value, mut shift) = (0, 0);
    while shift < u64::BITS {
        let byte = take_byte(bytes)?;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && 1 < part {
            return Err(Damage::Message { what: "record" });
        }
        value |= part << shift;
        if byte < 0x80 {
            return Ok(value);
        }
        shift += 7;
    }
    Err(Damage::Message { what: "record" })
}

fn take_delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Damage> {
    let len = take_varint(bytes)?;
    let len = usize::try_from(len).ok().filter(|&len| len <= bytes.len()).ok_or(Damage::Short)?;
    let (field, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(field)
}

/// Skims records that stand behind each other. Stops after the first damage.
pub fn skim_all(bytes: &[u8]) -> impl Iterator<Item = Result<Skim<'_>, Damage>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let found = skim(rest);
        rest = found.as_ref().map_or(&[], |found| &rest[found.len..]);
        Some(found)
    })
}

/// Decodes records that stand behind each other. Bodies share the memory of `bytes`. Stops after
/// the first damage.
pub fn decode_all(mut bytes: Bytes) -> impl Iterator<Item = Result<Record, Damage>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let decoded = skim(&bytes).map(|found| found.len).and_then(|len| {
            let mut record = bytes.split_to(len);
            record = record.slice(1..);
            Record::decode_length_delimited(record).map_err(|_| Damage::Message { what: "record" })
        });
        if decoded.is_err() {
            bytes.clear();
        }
        Some(decoded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ReadResponse;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Vec<Header>> {
        let header = ("[a-z]{0,9}", proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(name, value)| Header { name, value: value.into() });
        proptest::collection::vec(header, 0..4)
    }

    prop_compose! {
        fn records()(
            stream in any::<u32>(),
            seq in any::<u64>(),
            index in any::<u64>(),
            time_ms in any::<u64>(),
            kind in 0..5i32,
            headers in headers(),
            id in "\\PC{0,20}",
            client_time_ms in any::<u64>(),
            closed in proptest::option::of(any::<u32>()),
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) -> Record {
            let event = closed.map(|stream| Event {
                event: Some(crate::proto::event::Event::StreamClosed(crate::proto::StreamClosed { stream })),
            });
            Record { stream, seq, index, time_ms, kind, headers, id, client_time_ms, event, data: data.into() }
        }
    }

    fn fields(record: &Record) -> RecordFields<'_> {
        RecordFields {
            stream: StreamNo(record.stream),
            seq: Seq(record.seq),
            index: Index(record.index),
            time_ms: record.time_ms,
            kind: record.kind(),
            headers: &record.headers,
            id: &record.id,
            client_time_ms: record.client_time_ms,
            event: record.event.as_ref(),
            data: &record.data,
        }
    }

    proptest! {
        #[test]
        fn records_are_written_as_prost_writes_them(records in proptest::collection::vec(records(), 1..4)) {
            let mut ours = BytesMut::new();
            records.iter().for_each(|record| put_record(&mut ours, &fields(record)));
            let prosts = ReadResponse { records: records.clone(), ..Default::default() }.encode_to_vec();
            prop_assert_eq!(&ours[..], &prosts[..]);

            for (found, record) in skim_all(&ours).zip(&records) {
                let found = found.expect("sound");
                prop_assert_eq!(found.stream.0, record.stream);
                prop_assert_eq!(found.seq.0, record.seq);
                prop_assert_eq!(found.index.0, record.index);
                prop_assert_eq!(found.time_ms, record.time_ms);
                prop_assert_eq!(found.event.is_some(), record.event.is_some());
            }
            let decoded: Result<Vec<_>, _> = decode_all(ours.freeze()).collect();
            prop_assert_eq!(decoded.expect("sound"), records);
        }

        #[test]
        fn any_bytes_are_skimmed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            skim_all(&bytes).for_each(drop);
            decode_all(bytes.into()).for_each(drop);
        }
    }

    #[test]
    fn every_truncation_is_short_or_refused() {
        let record = Record { seq: 300, data: vec![7; 50].into(), ..Default::default() };
        let mut bytes = BytesMut::new();
        put_record(&mut bytes, &fields(&record));
        for len in 0..bytes.len() {
            assert_eq!(skim(&bytes[..len]), Err(Damage::Short), "cut to {len} bytes");
        }
    }
}
