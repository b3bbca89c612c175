//! Answers whose records are encoded already.
//!
//! [`ReadResponse`], [`TailResponse`] and [`TailSessionResponse`] are, byte for byte, the messages of
//! the same names in `braidlog/v1/stream.proto`, but hold their records as the bytes that are stored. The server
//! writes those verbatim; the client takes them out with one copy, so that they do not keep the
//! connection's buffers alive, and decodes a record only if somebody looks at it. Tests hold both
//! equal to what prost makes of the protocol.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, message, string, uint32, uint64},
};

use crate::{
    engine::Records,
    proto::{CaughtUp, End, Gap, Heartbeat, LaneEnd, StreamInfo},
};

/// Number of the field that holds the records, and its key.
const RECORDS: u32 = 1;
const RECORDS_KEY: u8 = 0x0A;
/// Number of the field that holds an item of a session.
const ITEM: u32 = 2;

/// A page of records; see `ReadResponse` in the protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadResponse {
    /// Records in run order, as stored.
    pub records: Records,
    /// Streams whose records appear in the page.
    pub streams: Vec<StreamInfo>,
    /// Trimmed stretches met on the way.
    pub gaps: Vec<Gap>,
    /// Where to go on.
    pub cursor: String,
    /// Seq to go on from.
    pub next_seq: u64,
    /// Next seq of the run's log.
    pub tail: u64,
    /// Set if nothing will ever follow.
    pub end: Option<End>,
}

/// An item of a tail; see `TailResponse` in the protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct TailResponse {
    /// Records in run order, as stored.
    pub records: Records,
    /// Streams not named before in this tail whose records follow.
    pub streams: Vec<StreamInfo>,
    /// A trimmed stretch.
    pub gap: Option<Gap>,
    /// The reader is at the tail for the first time.
    pub caught_up: Option<CaughtUp>,
    /// Nothing has happened for a while.
    pub heartbeat: Option<Heartbeat>,
    /// The end.
    pub end: Option<End>,
    /// Where to resume after this item.
    pub cursor: String,
    /// Seq to resume from after this item.
    pub next_seq: u64,
}

/// An item of a tail of a session; see `TailSessionResponse` in the protocol.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TailSessionResponse {
    /// Number of the lane.
    pub lane: u32,
    /// What a call of its own would have sent.
    pub item: Option<TailResponse>,
    /// The tail could not begin, or cannot go on.
    pub ended: Option<LaneEnd>,
}

/// What an answer without records holds.
pub(super) const NO_RECORDS: Records = Records { pieces: Vec::new(), count: 0 };

impl Default for ReadResponse {
    fn default() -> Self {
        Self {
            records: NO_RECORDS,
            streams: Vec::new(),
            gaps: Vec::new(),
            cursor: String::new(),
            next_seq: 0,
            tail: 0,
            end: None,
        }
    }
}

impl Default for TailResponse {
    fn default() -> Self {
        Self {
            records: NO_RECORDS,
            streams: Vec::new(),
            gap: None,
            caught_up: None,
            heartbeat: None,
            end: None,
            cursor: String::new(),
            next_seq: 0,
        }
    }
}

impl Message for ReadResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        put_records(&self.records, buf);
        message::encode_repeated(2, &self.streams, buf);
        message::encode_repeated(3, &self.gaps, buf);
        put_text(4, &self.cursor, buf);
        put_number(5, self.next_seq, buf);
        put_number(6, self.tail, buf);
        put_message(7, self.end.as_ref(), buf);
    }

    fn encoded_len(&self) -> usize {
        self.records.len()
            + message::encoded_len_repeated(2, &self.streams)
            + message::encoded_len_repeated(3, &self.gaps)
            + text_len(4, &self.cursor)
            + number_len(5, self.next_seq)
            + number_len(6, self.tail)
            + message_len(7, self.end.as_ref())
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            RECORDS => merge_record(&mut self.records, wire, buf),
            2 => message::merge_repeated(wire, &mut self.streams, buf, ctx),
            3 => message::merge_repeated(wire, &mut self.gaps, buf, ctx),
            4 => string::merge(wire, &mut self.cursor, buf, ctx),
            5 => uint64::merge(wire, &mut self.next_seq, buf, ctx),
            6 => uint64::merge(wire, &mut self.tail, buf, ctx),
            7 => message::merge(wire, self.end.get_or_insert_default(), buf, ctx),
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn merge(&mut self, buf: impl Buf) -> Result<(), DecodeError> {
        let rest = take_records(&mut self.records, buf)?;
        merge_rest(self, rest)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for TailResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        put_records(&self.records, buf);
        message::encode_repeated(2, &self.streams, buf);
        put_message(3, self.gap.as_ref(), buf);
        put_message(4, self.caught_up.as_ref(), buf);
        put_message(5, self.heartbeat.as_ref(), buf);
        put_message(6, self.end.as_ref(), buf);
        put_text(7, &self.cursor, buf);
        put_number(8, self.next_seq, buf);
    }

    fn encoded_len(&self) -> usize {
        self.records.len()
            + message::encoded_len_repeated(2, &self.streams)
            + message_len(3, self.gap.as_ref())
            + message_len(4, self.caught_up.as_ref())
            + message_len(5, self.heartbeat.as_ref())
            + message_len(6, self.end.as_ref())
            + text_len(7, &self.cursor)
            + number_len(8, self.next_seq)
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            RECORDS => merge_record(&mut self.records, wire, buf),
            2 => message::merge_repeated(wire, &mut self.streams, buf, ctx),
            3 => message::merge(wire, self.gap.get_or_insert_default(), buf, ctx),
            4 => message::merge(wire, self.caught_up.get_or_insert_default(), buf, ctx),
            5 => message::merge(wire, self.heartbeat.get_or_insert_default(), buf, ctx),
            6 => message::merge(wire, self.end.get_or_insert_default(), buf, ctx),
            7 => string::merge(wire, &mut self.cursor, buf, ctx),
            8 => uint64::merge(wire, &mut self.next_seq, buf, ctx),
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn merge(&mut self, buf: impl Buf) -> Result<(), DecodeError> {
        let rest = take_records(&mut self.records, buf)?;
        merge_rest(self, rest)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for TailSessionResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.put_head(buf);
        if let Some(item) = &self.item {
            item.encode_raw(buf);
        }
    }

    fn encoded_len(&self) -> usize {
        number_len(1, self.lane.into())
            + message_len(ITEM, self.item.as_ref())
            + message_len(3, self.ended.as_ref())
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => uint32::merge(wire, &mut self.lane, buf, ctx),
            ITEM => {
                encoding::check_wire_type(WireType::LengthDelimited, wire)?;
                let len = checked_len(buf)?;
                self.item.get_or_insert_default().merge(buf.take(len))
            }
            3 => message::merge(wire, self.ended.get_or_insert_default(), buf, ctx),
            _ => encoding::skip_field(wire, tag, buf, ctx),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl TailSessionResponse {
    /// Writes what comes before the item, its key and length included. There is nothing behind it.
    pub(super) fn put_head(&self, buf: &mut impl BufMut) {
        put_number(1, self.lane.into(), buf);
        put_message(3, self.ended.as_ref(), buf);
        if let Some(item) = &self.item {
            encoding::encode_key(ITEM, WireType::LengthDelimited, buf);
            encoding::encode_varint(item.encoded_len() as u64, buf);
        }
    }
}

fn put_records(records: &Records, buf: &mut impl BufMut) {
    records.pieces.iter().for_each(|piece| buf.put_slice(piece));
}

fn put_text(tag: u32, text: &String, buf: &mut impl BufMut) {
    if !text.is_empty() {
        string::encode(tag, text, buf);
    }
}

fn text_len(tag: u32, text: &String) -> usize {
    if text.is_empty() { 0 } else { string::encoded_len(tag, text) }
}

fn put_number(tag: u32, number: u64, buf: &mut impl BufMut) {
    if number != 0 {
        uint64::encode(tag, &number, buf);
    }
}

fn number_len(tag: u32, number: u64) -> usize {
    if number == 0 { 0 } else { uint64::encoded_len(tag, &number) }
}

fn put_message(tag: u32, message: Option<&impl Message>, buf: &mut impl BufMut) {
    if let Some(message) = message {
        message::encode(tag, message, buf);
    }
}

fn message_len(tag: u32, message: Option<&impl Message>) -> usize {
    message.map_or(0, |message| message::encoded_len(tag, message))
}

/// Takes the records that a message starts with, verbatim and as one piece: all of them, if the
/// message was written here. Returns what follows.
fn take_records(records: &mut Records, mut buf: impl Buf) -> Result<Bytes, DecodeError> {
    let mut whole = buf.copy_to_bytes(buf.remaining());
    let (mut end, mut count) = (0, 0);
    while whole.get(end) == Some(&RECORDS_KEY) {
        let mut rest = &whole[end + 1..];
        let len = checked_len(&mut rest)?;
        end = whole.len() - rest.len() + len;
        count += 1;
    }
    if 0 < count {
        records.pieces.push(Bytes::copy_from_slice(&whole[..end]));
        records.count += count;
    }
    whole.advance(end);
    Ok(whole)
}

fn merge_rest(message: &mut impl Message, mut rest: Bytes) -> Result<(), DecodeError> {
    let ctx = DecodeContext::default();
    while rest.has_remaining() {
        let (tag, wire) = encoding::decode_key(&mut rest)?;
        message.merge_field(tag, wire, &mut rest, ctx.clone())?;
    }
    Ok(())
}

/// Takes a record whose key was read already: one that another implementation wrote out of order.
fn merge_record(
    records: &mut Records,
    wire: WireType,
    buf: &mut impl Buf,
) -> Result<(), DecodeError> {
    encoding::check_wire_type(WireType::LengthDelimited, wire)?;
    let len = checked_len(buf)?;
    let mut piece = BytesMut::with_capacity(1 + encoding::encoded_len_varint(len as u64) + len);
    piece.put_u8(RECORDS_KEY);
    encoding::encode_varint(len as u64, &mut piece);
    piece.put(buf.take(len));
    records.pieces.push(piece.freeze());
    records.count += 1;
    Ok(())
}

/// A length that does not pass what follows it.
fn checked_len(buf: &mut impl Buf) -> Result<usize, DecodeError> {
    let len = encoding::decode_varint(buf)?;
    let fits = usize::try_from(len).ok().filter(|&len| len <= buf.remaining());
    #[allow(deprecated, reason = "prost has no other way to make one")]
    fits.ok_or_else(|| DecodeError::new("buffer underflow"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::proto::{self, Record};

    fn record() -> impl Strategy<Value = Record> {
        let fields = (any::<u32>(), any::<u64>(), any::<u64>(), vec(any::<u8>(), 0..300));
        fields.prop_map(|(stream, seq, index, data)| Record {
            stream,
            seq,
            index,
            kind: 1,
            data: data.into(),
            ..Record::default()
        })
    }

    fn stream() -> impl Strategy<Value = StreamInfo> {
        (any::<u32>(), "[a-z]{0,9}", 0..4i32, any::<u64>(), any::<bool>()).prop_map(
            |(stream, name, kind, tail, closed)| StreamInfo {
                stream,
                name,
                kind,
                trim: tail / 2,
                tail,
                closed,
            },
        )
    }

    fn gap() -> impl Strategy<Value = Gap> {
        (any::<u32>(), any::<u64>()).prop_map(|(stream, to_index)| Gap {
            stream,
            from_index: 0,
            to_index,
        })
    }

    fn end() -> impl Strategy<Value = End> {
        (0..3i32, 0..8i32).prop_map(|(reason, outcome)| End { reason, outcome })
    }

    /// The records as the store hands them out: in pieces of any number of records.
    fn pieces(records: &[Record], per_piece: usize) -> Records {
        let piece = |records: &[Record]| {
            let mut piece = BytesMut::new();
            message::encode_repeated(RECORDS, records, &mut piece);
            piece.freeze()
        };
        let pieces = records.chunks(per_piece).map(piece).collect();
        Records { pieces, count: records.len() as u64 }
    }

    fn same_records(found: &Records, records: &[Record]) -> Result<(), TestCaseError> {
        prop_assert_eq!(found.count, records.len() as u64);
        prop_assert_eq!(found.decode().expect("records"), records);
        Ok(())
    }

    proptest! {
        #[test]
        fn a_page_is_what_the_protocol_says(
            records in vec(record(), 0..6),
            per_piece in 1..4usize,
            (streams, gaps) in (vec(stream(), 0..3), vec(gap(), 0..3)),
            (cursor, next_seq, tail) in ("[A-Za-z0-9]{0,62}", any::<u64>(), 0..2u64),
            end in option::of(end()),
        ) {
            let ours = ReadResponse {
                records: pieces(&records, per_piece),
                streams: streams.clone(),
                gaps: gaps.clone(),
                cursor: cursor.clone(),
                next_seq,
                tail,
                end,
            };
            let theirs = proto::ReadResponse {
                records: records.clone(), streams, gaps, cursor, next_seq, tail, end,
            };
            let bytes = ours.encode_to_vec();
            prop_assert_eq!(&bytes, &theirs.encode_to_vec());
            prop_assert_eq!(ours.encoded_len(), bytes.len());
            let back = ReadResponse::decode(&bytes[..]).expect("decodes");
            same_records(&back.records, &records)?;
            prop_assert!(back.records.pieces.len() <= 1);
            prop_assert_eq!(&ReadResponse { records: ours.records.clone(), ..back }, &ours);
        }

        #[test]
        fn an_item_of_a_tail_is_what_the_protocol_says(
            records in vec(record(), 0..6),
            per_piece in 1..4usize,
            (streams, gap) in (vec(stream(), 0..3), option::of(gap())),
            (cursor, next_seq) in ("[A-Za-z0-9]{0,62}", any::<u64>()),
            (tail, time_ms) in (option::of(any::<u64>()), option::of(any::<u64>())),
            (end, lane) in (option::of(end()), any::<u32>()),
        ) {
            let caught_up = tail.map(|tail| CaughtUp { tail });
            let heartbeat = time_ms.map(|time_ms| Heartbeat { tail: 7, time_ms });
            let ours = TailResponse {
                records: pieces(&records, per_piece),
                streams: streams.clone(),
                gap,
                caught_up,
                heartbeat,
                end,
                cursor: cursor.clone(),
                next_seq,
            };
            let theirs = proto::TailResponse {
                records: records.clone(), streams, gap, caught_up, heartbeat, end, cursor, next_seq,
            };
            let bytes = ours.encode_to_vec();
            prop_assert_eq!(&bytes, &theirs.encode_to_vec());
            prop_assert_eq!(ours.encoded_len(), bytes.len());
            let back = TailResponse::decode(&bytes[..]).expect("decodes");
            same_records(&back.records, &records)?;
            prop_assert_eq!(&TailResponse { records: ours.records.clone(), ..back }, &ours);

            let in_session = TailSessionResponse { lane, item: Some(ours.clone()), ended: None };
            let theirs = proto::TailSessionResponse { lane, item: Some(theirs), ended: None };
            let bytes = in_session.encode_to_vec();
            prop_assert_eq!(&bytes, &theirs.encode_to_vec());
            prop_assert_eq!(in_session.encoded_len(), bytes.len());
            let back = TailSessionResponse::decode(&bytes[..]).expect("decodes");
            prop_assert_eq!((back.lane, back.ended), (lane, None));
            let item = back.item.expect("an item");
            same_records(&item.records, &records)?;
            prop_assert!(item.records.pieces.len() <= 1);
            prop_assert_eq!(&TailResponse { records: ours.records.clone(), ..item }, &ours);
        }

        #[test]
        fn the_end_of_a_lane_is_what_the_protocol_says(
            (lane, code, text) in (any::<u32>(), 0..17i32, "[a-z ]{0,40}"),
        ) {
            let ended = Some(LaneEnd { code, message: text, details: Bytes::from_static(b"d") });
            let ours = TailSessionResponse { lane, item: None, ended: ended.clone() };
            let theirs = proto::TailSessionResponse { lane, item: None, ended };
            let bytes = ours.encode_to_vec();
            prop_assert_eq!(&bytes, &theirs.encode_to_vec());
            prop_assert_eq!(ours.encoded_len(), bytes.len());
            prop_assert_eq!(TailSessionResponse::decode(&bytes[..]).expect("decodes"), ours);
        }

        #[test]
        fn records_behind_other_fields_are_found_as_well(
            (before, after) in (vec(record(), 0..3), vec(record(), 1..3)),
        ) {
            let head = proto::ReadResponse { records: before.clone(), tail: 5, ..Default::default() };
            let more = proto::ReadResponse { records: after.clone(), ..Default::default() };
            let bytes = [head.encode_to_vec(), more.encode_to_vec()].concat();
            let back = ReadResponse::decode(&bytes[..]).expect("decodes");
            same_records(&back.records, &[before, after].concat())?;
            prop_assert_eq!(back.tail, 5);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused_without_panic(bytes in vec(any::<u8>(), 0..200)) {
            let ours = ReadResponse::decode(&bytes[..]);
            // Ours does not look into the records, so it may accept what prost refuses.
            if proto::ReadResponse::decode(&bytes[..]).is_ok() {
                prop_assert!(ours.is_ok());
            }
            _ = TailResponse::decode(&bytes[..]);
            let ours = TailSessionResponse::decode(&bytes[..]);
            if proto::TailSessionResponse::decode(&bytes[..]).is_ok() {
                prop_assert!(ours.is_ok());
            }
        }
    }
}
