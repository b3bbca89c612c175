//! Writes a pack: segments in, one verified file out.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    pack::Pack,
    proof::{Proof, Prover, Unproven, Written},
};
use crate::{
    error::Error,
    format::{
        PAGE_BYTES,
        compress::{Codec, Compressor},
        file_name,
        frame::{Chain, Frame},
        manifest::ListedPack,
        pack::{self, BlockPlace, Described, Entry, FIRST_BLOCK_AT, PackFooter, PackHeader},
        segment::{self, Part, PartStream, SegmentHead, SegmentTail},
        wire,
    },
    platform::{File, Open, Vfs},
    record::{Index, RunUid, StreamNo},
    sabotage::{self, Bug},
};

/// Raw bytes after which a block is closed.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// A frame to be written.
#[derive(Debug, Clone)]
pub struct NewFrame {
    /// The frame.
    pub frame: Frame,
    /// The stream of all its records, if that is known to be one; else it is looked up.
    pub only: Option<StreamNo>,
}

impl From<Frame> for NewFrame {
    fn from(frame: Frame) -> Self {
        Self { frame, only: None }
    }
}

/// A segment to be written.
pub struct NewSegment<'a> {
    /// What the directory will say; its `first_seq`, `end_seq` and `raw_bytes` are those of the
    /// frames.
    pub head: SegmentHead,
    /// Identity of the run.
    pub run_uid: RunUid,
    /// Chain of the last frame with records before the segment.
    pub records_chain: Chain,
    /// The frames, in run order.
    pub frames: &'a [NewFrame],
    /// The run's state behind them.
    pub state: Bytes,
}

/// Writes one pack.
pub struct PackWriter {
    file: Arc<dyn File>,
    header: PackHeader,
    prover: Prover,
    compressor: Compressor,
    /// For blocks that are written in haste.
    hasty: Compressor,
    /// The block that is being filled.
    raw: Vec<u8>,
    described: Vec<Described>,
    /// Entries whose description is in the block that is being filled.
    open_entries: usize,
    entries: Vec<Entry>,
    /// Bytes that are not written yet; they go to `written`.
    out: Vec<u8>,
    written: u64,
    scratch: Vec<u8>,
    blocks: u32,
    raw_bytes: u64,
    /// Blocks that nobody was told to read back yet, and their raw bytes.
    unproven: Vec<Written>,
    unproven_raw: usize,
    proofs: Vec<Proof>,
}

impl PackWriter {
    /// Begins a pack in a file of `tmp`.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn create(
        vfs: &dyn Vfs,
        header: PackHeader,
        codec: Codec,
        prover: Prover,
    ) -> io::Result<Self> {
        let path = file_name::pack_new(header.number);
        match vfs.unlink(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = vfs.open(&path, Open::CreateNew)?;
        Ok(Self {
            file,
            prover,
            compressor: Compressor::new(codec),
            hasty: Compressor::new(codec.hasty()),
            raw: Vec::new(),
            described: Vec::new(),
            open_entries: 0,
            entries: Vec::new(),
            out: pack::encode_header(&header),
            written: 0,
            scratch: Vec::new(),
            blocks: 0,
            raw_bytes: 0,
            unproven: Vec::new(),
            unproven_raw: 0,
            proofs: Vec::new(),
            header,
        })
    }

    /// Number of the pack.
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// Bytes of the file so far, the block that is being filled not counted.
    pub fn bytes(&self) -> u64 {
        self.position()
    }

    /// Segments so far.
    pub fn segments(&self) -> usize {
        self.entries.len()
    }

    /// Adds a segment.
    ///
    /// # Errors
    /// Whatever the operating system says; the pack is then given up.
    pub fn add(&mut self, new: NewSegment<'_>) -> io::Result<()> {
        let first = new.frames.first().map_or(new.head.first_seq, |new| new.frame.header.first_seq);
        let mut parts = Vec::new();
        let mut open: Option<Part> = None;
        let mut chain = new.records_chain;
        let (mut raw_bytes, mut end) = (0, first);
        for NewFrame { frame, only } in new.frames {
            if BLOCK_BYTES <= self.raw.len() {
                self.close_part(open.take(), &mut parts);
                self.write_block(&mut parts)?;
            }
            let part = open.get_or_insert_with(|| Part {
                block: 0,
                block_len: 0,
                offset: self.raw.len() as u32,
                len: 0,
                count: 0,
                first_seq: frame.header.first_seq,
                records_chain: chain,
                streams: Vec::new(),
            });
            note_streams(part, frame, *only);
            part.count += frame.header.count;
            self.raw.extend_from_slice(frame.bytes());
            raw_bytes += frame.bytes().len() as u64;
            end = frame.next_seq();
            if 0 < frame.header.count {
                chain = frame.header.chain;
            }
        }
        self.close_part(open, &mut parts);
        let head = SegmentHead { first_seq: first, end_seq: end, raw_bytes, ..new.head };
        self.raw_bytes += raw_bytes;
        self.describe(head, new.run_uid, parts, new.state)
    }

    /// Puts the description of a segment behind its frames.
    fn describe(
        &mut self,
        head: SegmentHead,
        run_uid: RunUid,
        mut parts: Vec<Part>,
        state: Bytes,
    ) -> io::Result<()> {
        let streams: usize = parts.iter().map(|part| part.streams.len()).sum();
        let expected = state.len() + parts.len() * 48 + streams * 16;
        if BLOCK_BYTES < expected && !self.raw.is_empty() {
            self.write_block(&mut parts)?;
        }
        let offset = self.raw.len();
        segment::encode(&SegmentTail { head, run_uid, parts, state }, &mut self.raw);
        let len = (self.raw.len() - offset) as u32;
        let offset = offset as u32;
        self.described.push((offset, len));
        self.entries.push(Entry { head, block: self.position(), block_len: 0, offset, len });
        self.open_entries += 1;
        if BLOCK_BYTES <= self.raw.len() {
            self.write_block(&mut [])?;
        }
        Ok(())
    }

    fn close_part(&self, open: Option<Part>, parts: &mut Vec<Part>) {
        let Some(mut part) = open else { return };
        part.len = self.raw.len() as u32 - part.offset;
        parts.push(part);
    }

    /// Ends the block that is being filled. `parts` are those of the segment that is being added;
    /// they learn where they are.
    fn write_block(&mut self, parts: &mut [Part]) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        pack::put_described(&mut self.raw, &self.described);
        let position = self.position();
        let PackHeader { salt, number, .. } = self.header;
        let place = BlockPlace { salt, number, position };
        let Self { raw, scratch, out, .. } = self;
        let compressor = match self.prover.pace().has_haste() {
            true => &mut self.hasty,
            false => &mut self.compressor,
        };
        let block_len = pack::encode_block(&place, raw, compressor, scratch, out);
        for part in parts.iter_mut().rev().take_while(|part| part.block == 0) {
            (part.block, part.block_len) = (position, block_len);
        }
        let known = self.entries.len() - self.open_entries;
        self.entries[known..].iter_mut().for_each(|entry| entry.block_len = block_len);
        let segments = self.described.len() as u32;
        self.unproven.push(Written { position, len: block_len, segments });
        self.unproven_raw += self.raw.len();
        self.open_entries = 0;
        self.raw.clear();
        self.described.clear();
        self.blocks += 1;
        let is_enough = self.prover.is_enough(self.unproven_raw);
        if is_enough || WRITE_BYTES <= self.out.len() {
            self.write_out()?;
        }
        if is_enough {
            self.prove();
        }
        self.prover.pace().rest();
        Ok(())
    }

    /// Has the blocks read back that were written since it was last called.
    fn prove(&mut self) {
        self.unproven_raw = 0;
        self.proofs.push(self.prover.prove(Unproven {
            file: self.file.clone(),
            path: file_name::pack_new(self.number()),
            salt: self.header.salt,
            number: self.number(),
            blocks: std::mem::take(&mut self.unproven),
        }));
    }

    /// Where the next block will stand.
    fn position(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.out, self.written)?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Ends the pack: directory, bloom filter, footer; then makes it durable, reads back from the disk
    /// what was not yet, and gives it its name. The name is not durable until the caller has synced its
    /// directory, and the manifest does not list it yet. Also the run counter it makes sure of.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what comes back is not what was written, [`Error::Io`]. What there is of
    /// the pack is then for the caller to remove.
    pub fn finish(mut self, vfs: &dyn Vfs) -> Result<(Pack, u64), Error> {
        let (listed, bloom) = self.seal().map_err(|error| write_error(self.number(), error))?;
        let (number, counter) = (self.number(), self.run_counter());
        self.prove();
        self.write_names(vfs, &bloom).map_err(|error| write_error(number, error))?;
        self.proofs.drain(..).try_for_each(Proof::wait)?;
        vfs.rename(&file_name::pack_new(number), &file_name::pack(number))
            .map_err(|error| write_error(number, error))?;
        let pack = Pack::open(vfs, listed, self.header.store_uuid)?;
        pack.verify_frame()?;
        Ok((pack, counter))
    }

    /// Writes the bloom filter once more, for when the pack is gone.
    fn write_names(&self, vfs: &dyn Vfs, bloom: &[u8]) -> io::Result<()> {
        let number = self.number();
        let (new, path) = (file_name::pack_names_new(number), file_name::pack_names(number));
        match vfs.unlink(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = vfs.open(&new, Open::CreateNew)?;
        file.write_all_at(&pack::encode_names(number, self.header.store_uuid, bloom), 0)?;
        file.sync_all()?;
        vfs.rename(&new, &path)
    }

    /// Ends the file and makes it durable; returns the bloom filter, too.
    fn seal(&mut self) -> io::Result<(ListedPack, Vec<u8>)> {
        self.write_block(&mut [])?;
        let padded = self.position().next_multiple_of(PAGE_BYTES as u64);
        self.out.resize(self.out.len() + (padded - self.position()) as usize, 0);
        let index_at = self.position();
        self.entries.sort_by_key(Entry::key);
        let mut directory = Vec::with_capacity(self.entries.len() * pack::ENTRY_BYTES);
        self.entries.iter().for_each(|entry| pack::encode_entry(entry, &mut directory));
        let bloom = pack::encode_bloom(self.entries.iter().map(|entry| entry.head.name_hash));
        let mut footer = PackFooter {
            number: self.header.number,
            store_uuid: self.header.store_uuid,
            salt: self.header.salt,
            index_at,
            segments: self.entries.len() as u32,
            buckets: (bloom.len() / pack::BUCKET_BYTES) as u32,
            directory_crc: 0,
            bloom_crc: 0,
            blocks: self.blocks,
            raw_bytes: self.raw_bytes,
            flushed_block: self.flushed_block(),
            run_counter: self.run_counter(),
        };
        footer.directory_crc = footer.crc(&directory);
        footer.bloom_crc = footer.crc(&bloom);
        let end = self.out.len() + footer.index_bytes();
        self.out.extend_from_slice(&directory);
        self.out.extend_from_slice(&bloom);
        self.out.resize(end, 0);
        self.out.extend_from_slice(&pack::encode_footer(&footer));
        self.write_out()?;
        if !sabotage::is(Bug::NoPackSync) {
            self.file.sync_all()?;
        }
        let listed = ListedPack {
            number: self.header.number,
            kind: self.header.kind,
            bytes: self.written,
            segments: footer.segments,
            raw_bytes: footer.raw_bytes,
            flushed_block: footer.flushed_block,
            created_ms: self.header.created_ms,
        };
        Ok((listed, bloom))
    }

    fn flushed_block(&self) -> u64 {
        self.entries.iter().map(|entry| entry.head.flushed.block_no).max().unwrap_or(0)
    }

    fn run_counter(&self) -> u64 {
        self.entries.iter().map(|entry| entry.head.run_no.counter() + 1).max().unwrap_or(0)
    }
}

const _: () = assert!(FIRST_BLOCK_AT == PAGE_BYTES as u64, "the header page comes first");

/// Counts the records of a frame to their streams; of one only, if that is known.
fn note_streams(part: &mut Part, frame: &Frame, only: Option<StreamNo>) {
    let mut records = wire::skim_all(frame.records_slice()).map_while(Result::ok);
    if let (Some(stream), Some(first)) = (only, records.next()) {
        assert_eq!(first.stream, stream, "the stream that the frame was published with");
        note_stream(part, stream, first.index, frame.header.count);
        return;
    }
    for record in wire::skim_all(frame.records_slice()).map_while(Result::ok) {
        note_stream(part, record.stream, record.index, 1);
    }
}

fn note_stream(part: &mut Part, stream: StreamNo, first_index: Index, count: u32) {
    match part.streams.iter_mut().rev().find(|known| known.stream == stream) {
        Some(known) => known.count += count,
        None => part.streams.push(PartStream { stream, first_index, count }),
    }
}

fn write_error(number: u64, source: io::Error) -> Error {
    let operation = format!("write {}", file_name::pack_new(number));
    Error::Io { operation: operation.into(), source: Arc::new(source) }
}
