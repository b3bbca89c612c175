//! What the bytes at a place of a file mean, field by field.
//!
//! The places are those that findings name: pages, blocks, frames. What is asked for inside of one is
//! told as part of the smallest thing around it that is known: of a frame before its block.
//!
//! What it deliberately does not do: decide anything; the CRCs it computes are shown beside those that
//! stand there.

use std::io;

use bytes::Bytes;

use super::{directory::LookError, survey::Survey};
use crate::{
    format::{
        Damage, PAGE_BYTES,
        block::{self, BLOCK_HEADER_BYTES, BLOCK_TRAILER_BYTES, BlockHeader},
        file_name,
        frame::{self, FRAME_HEADER_BYTES, Frame},
        identity::{Current, StoreIdentity},
        pack::{self, BlockPlace},
        slot::{self, SlotHeader, SlotKind},
        syndrome::WrongByte,
        wire,
    },
    journal::scan::{SlotFile, read_from_disk},
    platform::{RelPath, Vfs},
    segment::Pack,
};

/// Bytes of a body that are shown, at most.
const BODY_BYTES_SHOWN: usize = 64;

/// What stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What it is: `frame`, `commit block`, …
    pub what: &'static str,
    /// Where it begins.
    pub position: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its fields, in order.
    pub fields: Vec<Field>,
    /// What is wrong with it.
    pub damage: Option<Damage>,
    /// The byte that explains the damage by itself, with its place in the file.
    pub wrong: Option<WrongByte>,
    /// What it is part of, and what it holds, in words.
    pub notes: Vec<String>,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Where it begins in the file.
    pub position: u64,
    /// Its bytes, as many as are shown.
    pub raw: Vec<u8>,
    /// Its name, as the description of the format has it.
    pub name: &'static str,
    /// Its value in words.
    pub value: String,
    /// Whether it is what it should be; none if nothing tells.
    pub is_sound: Option<bool>,
}

/// Cuts bytes into fields.
struct Cutter<'a> {
    bytes: &'a [u8],
    position: u64,
    at: usize,
    fields: Vec<Field>,
}

impl<'a> Cutter<'a> {
    fn new(bytes: &'a [u8], position: u64) -> Self {
        Self { bytes, position, at: 0, fields: Vec::new() }
    }

    fn add(&mut self, len: usize, name: &'static str, value: String, is_sound: Option<bool>) {
        let end = self.bytes.len().min(self.at + len);
        let raw = self.bytes[self.at.min(end)..end].iter().take(BODY_BYTES_SHOWN).copied();
        let position = self.position + self.at as u64;
        self.fields.push(Field { position, raw: raw.collect(), name, value, is_sound });
        self.at = end;
    }

    fn number(&mut self, len: usize, name: &'static str) -> u64 {
        let mut value = [0; 8];
        let end = self.bytes.len().min(self.at + len);
        let raw = &self.bytes[self.at.min(end)..end];
        value[..raw.len()].copy_from_slice(raw);
        let value = u64::from_le_bytes(value);
        self.add(len, name, value.to_string(), None);
        value
    }

    fn hex(&mut self, len: usize, name: &'static str) {
        let end = self.bytes.len().min(self.at + len);
        let raw = &self.bytes[self.at.min(end)..end];
        let value = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        self.add(len, name, value, None);
    }

    fn text(&mut self, len: usize, name: &'static str, wanted: &[u8]) {
        let end = self.bytes.len().min(self.at + len);
        let raw = &self.bytes[self.at.min(end)..end];
        let is_sound = raw == wanted;
        let value = String::from_utf8_lossy(raw).escape_debug().to_string();
        self.add(len, name, value, Some(is_sound));
    }

    fn crc(&mut self, name: &'static str, computed: u32) {
        let end = self.bytes.len().min(self.at + 4);
        let mut stored = [0; 4];
        let raw = &self.bytes[self.at.min(end)..end];
        stored[..raw.len()].copy_from_slice(raw);
        let stored = u32::from_le_bytes(stored);
        let value = match stored == computed {
            true => format!("{stored:#010x}"),
            false => format!("{stored:#010x}   computed {computed:#010x}"),
        };
        self.add(4, name, value, Some(stored == computed));
    }

    fn time(&mut self, name: &'static str) {
        let end = self.bytes.len().min(self.at + 8);
        let mut value = [0; 8];
        let raw = &self.bytes[self.at.min(end)..end];
        value[..raw.len()].copy_from_slice(raw);
        let ms = u64::from_le_bytes(value);
        self.add(8, name, format!("{ms} ms since 1970"), None);
    }

    fn zeros(&mut self, len: usize, name: &'static str) {
        let end = self.bytes.len().min(self.at + len);
        let raw = &self.bytes[self.at.min(end)..end];
        let wrong = raw.iter().filter(|&&byte| byte != 0).count();
        let value = match wrong {
            0 => "zero".to_owned(),
            n => format!("{n} bytes are not zero"),
        };
        self.add(len, name, value, Some(wrong == 0));
    }
}

impl Survey {
    /// What stands at a place of a file of the directory.
    ///
    /// # Errors
    /// [`LookError::NoFile`] if there is no such file of this format, or the place is behind its end;
    /// [`LookError::Io`].
    pub fn explain(&self, file: &str, position: u64) -> Result<Explained, LookError> {
        let vfs = &*self.platform().vfs;
        let no_file = || LookError::NoFile { name: file.to_owned() };
        let path = self.path_of(file).ok_or_else(no_file)?;
        let name = path.name().to_owned();
        let opened = vfs.open(&path, crate::platform::Open::Read);
        let len = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_file()),
            other => other?.len()?,
        };
        if len <= position {
            return Err(no_file());
        }
        if path == file_name::store() {
            return Ok(explain_store(&read_from_disk(vfs, &path)?));
        }
        if path == file_name::current() {
            return Ok(explain_current(&read_from_disk(vfs, &path)?));
        }
        if file_name::parse_slot(&name).is_some() {
            return self.explain_slot(vfs, path, SlotKind::Journal, position);
        }
        if file_name::parse_manifest(&name).is_some() {
            return self.explain_slot(vfs, path, SlotKind::Manifest, position);
        }
        match self.packs.iter().find(|seen| seen.path == path) {
            Some(seen) => match self.pack(seen) {
                Some(pack) => self.explain_pack(pack, position),
                None => Err(no_file()),
            },
            None => Err(no_file()),
        }
    }

    /// A file as people name it: with or without its folder.
    fn path_of(&self, file: &str) -> Option<RelPath> {
        let file = file.trim_start_matches("./");
        let name = file.rsplit('/').next()?;
        if let Some(number) = file_name::parse_slot(name) {
            return Some(file_name::slot(number));
        }
        if let Some(number) = file_name::parse_manifest(name) {
            return Some(file_name::manifest(number));
        }
        if let Some((_, path)) = file_name::parse_pack(name) {
            return Some(path);
        }
        let whole = [file_name::store(), file_name::current()];
        whole.into_iter().find(|path| path.as_str() == name)
    }

    fn explain_slot(
        &self,
        vfs: &dyn Vfs,
        path: RelPath,
        kind: SlotKind,
        position: u64,
    ) -> Result<Explained, LookError> {
        let file = SlotFile::open(vfs, path.clone())?;
        let page = file.bytes_at(0, PAGE_BYTES)?;
        let header = match slot::decode(&page, kind) {
            Err(_) if kind == SlotKind::Journal && self.is_spare(&path) => {
                return explain_spare(&file, position);
            }
            Ok(header) if PAGE_BYTES as u64 <= position => header,
            decoded => return Ok(explain_slot_page(&page, kind, decoded)),
        };
        let Some((at, found)) = block_around(&file, &header, position)? else {
            return explain_nothing(&file, position);
        };
        let bytes = file.bytes_at(at, found.map_or(PAGE_BYTES, |found| found.disk_bytes()))?;
        if let (Some(found), SlotKind::Journal) = (found, kind)
            && at + BLOCK_HEADER_BYTES as u64 <= position
            && let Some(explained) = self.explain_frame(&bytes, at, &found, position)
        {
            return Ok(explained);
        }
        Ok(explain_block(&bytes, at, found, &header))
    }

    /// Whether a slot waits for its next use, or has left the journal since the survey.
    fn is_spare(&self, path: &RelPath) -> bool {
        let mut spare = self.spare_slots.iter().map(|&(slot, _)| file_name::slot(slot));
        spare.any(|spare| spare == *path)
            || self.slots.iter().any(|seen| {
                self.is_live() && seen.path == *path && self.has_left(seen.listed.file_seq)
            })
    }

    /// The frame that a place of a block lies in; none if it lies in none.
    fn explain_frame(
        &self,
        block: &[u8],
        block_at: u64,
        header: &BlockHeader,
        position: u64,
    ) -> Option<Explained> {
        let end = block.len().min(BLOCK_HEADER_BYTES + header.payload_len as usize);
        let mut payload = block.get(BLOCK_HEADER_BYTES..end)?.to_vec();
        block::unmask(&mut payload, 0, header);
        let payload = Bytes::from(payload);
        let wanted = (position - block_at) as usize - BLOCK_HEADER_BYTES;
        let mut at = 0;
        while at < payload.len() {
            let here = payload.slice(at..);
            let (frame, damage, wrong) = match Frame::decode(&here) {
                Ok(frame) => (Some(frame), None, None),
                Err(damage) => match Frame::mended(&here) {
                    Some((frame, wrong)) => (Some(frame), Some(damage), Some(wrong)),
                    None => (None, Some(damage), None),
                },
            };
            let len = frame.as_ref().map_or(here.len(), |frame| frame.bytes().len());
            if wanted < at + len {
                let begins = block_at + (BLOCK_HEADER_BYTES + at) as u64;
                let mut explained = explain_frame(&here.slice(..len.min(here.len())), begins);
                explained.damage = damage;
                explained.wrong = wrong.map(|wrong| wrong.behind(begins as usize));
                if header.mask != 0 {
                    explained.notes.push(format!(
                        "the block is masked ({}): bytes are shown as they are without the mask",
                        header.mask
                    ));
                }
                if let Some(frame) = &frame {
                    self.note_run(frame, &mut explained);
                }
                explained.notes.push(format!("in block {} at {block_at:#x}", header.block_no));
                return Some(explained);
            }
            at += len;
        }
        None
    }

    fn note_run(&self, frame: &Frame, explained: &mut Explained) {
        let run_no = frame.header.run_no;
        let state = self
            .name_hashes()
            .ok()
            .and_then(|hashes| hashes.get(&run_no).copied())
            .and_then(|hash| super::RunLog::open(self, hash, run_no).ok())
            .and_then(|log| log.last_known_state().ok().flatten());
        let Some(state) = state else { return };
        let name = super::RunName::of(&state);
        for record in wire::skim_all(frame.records_slice()).map_while(Result::ok) {
            let stream = state.streams.get(record.stream.0 as usize);
            let stream =
                stream.map_or_else(|| format!("#{}", record.stream.0), |s| s.name.to_string());
            explained.notes.push(format!(
                "record of run {name}: seq {}, {stream}[{}]",
                record.seq, record.index
            ));
        }
    }

    fn explain_pack(&self, pack: &Pack, position: u64) -> Result<Explained, LookError> {
        let (footer, bytes) = (*pack.footer(), pack.listed().bytes);
        let footer_at = bytes.saturating_sub(PAGE_BYTES as u64);
        if position < PAGE_BYTES as u64 {
            return Ok(explain_pack_header(&pack.bytes_at(0, PAGE_BYTES)?));
        }
        if footer_at <= position {
            let page = pack.bytes_at(footer_at, PAGE_BYTES)?;
            return Ok(explain_footer(&page, footer_at, bytes));
        }
        if footer.index_at <= position {
            return Ok(explain_index(pack, position));
        }
        let mut at = PAGE_BYTES as u64;
        while at <= position {
            let Ok(head) = pack::decode_head(&pack.bytes_at(at, pack::BLOCK_HEADER_BYTES)?) else {
                break;
            };
            let end = at + (head.disk_bytes() as u64).next_multiple_of(pack::BLOCK_ALIGN as u64);
            if position < end {
                return self.explain_pack_block(pack, at, head.disk_bytes());
            }
            at = end;
        }
        let len = (footer.index_at - at.min(footer.index_at)).min(1 << 20) as usize;
        self.explain_pack_block(pack, at, len.max(pack::BLOCK_HEADER_BYTES))
    }

    fn explain_pack_block(
        &self,
        pack: &Pack,
        position: u64,
        len: usize,
    ) -> Result<Explained, LookError> {
        let footer = *pack.footer();
        let bytes = pack.bytes_at(position, len)?;
        let place = BlockPlace { salt: footer.salt, number: footer.number, position };
        let read = pack::decode_block(&place, &bytes);
        let mended = match &read {
            Ok(_) => None,
            Err(_) => pack::mended_block(&place, &bytes),
        };
        let mut cut = Cutter::new(&bytes, position);
        cut.text(4, "magic", &pack::BLOCK_MAGIC);
        cut.crc("crc", pack::block_crc_of(&place, &bytes));
        let codec = cut.number(1, "codec");
        cut.zeros(3, "zero");
        cut.number(4, "raw_len");
        cut.number(4, "len");
        cut.zeros(4, "zero");
        let payload = bytes.len().saturating_sub(pack::BLOCK_HEADER_BYTES);
        cut.add(payload, "payload", format!("{payload} bytes, compressed by codec {codec}"), None);
        let raw = read.clone().ok().or(mended.as_ref().map(|(raw, _)| raw.clone()));
        let mut notes = Vec::new();
        if let Some(described) = raw.as_ref().and_then(|raw| pack::described(raw).ok()) {
            notes.push(format!("describes {} segments", described.len()));
        }
        Ok(Explained {
            what: "block of a pack",
            position,
            bytes: bytes.len() as u64,
            fields: cut.fields,
            damage: read.err(),
            wrong: mended.map(|(_, wrong)| wrong.behind(position as usize)),
            notes,
        })
    }
}

/// The block that a place lies in: where it begins, and its header if that is sound or a single wrong
/// byte explains it; none if nothing stands there.
fn block_around(
    file: &SlotFile,
    slot: &SlotHeader,
    position: u64,
) -> Result<Option<(u64, Option<BlockHeader>)>, LookError> {
    let page = PAGE_BYTES as u64;
    let mut at = position / page * page;
    let longest = block::block_bytes(crate::record::BLOCK_PAYLOAD_MAX) as u64;
    let lowest = page.max(position.saturating_sub(longest) / page * page);
    loop {
        let bytes = file.bytes_at(at, BLOCK_HEADER_BYTES)?;
        let sound = block::header(&bytes, slot.salt);
        let header =
            sound.or_else(|| block::mended_header(&bytes, slot.salt).map(|(header, _)| header));
        if let Some(header) = header.filter(|header| header.file_seq == slot.file_seq) {
            let is_inside = position < at + header.disk_bytes() as u64;
            return Ok(is_inside.then_some((at, Some(header))));
        }
        if at <= lowest {
            break;
        }
        at -= page;
    }
    let here = position / page * page;
    let bytes = file.bytes_at(here, PAGE_BYTES)?;
    Ok(bytes.iter().any(|&byte| byte != 0).then_some((here, None)))
}

fn explain_nothing(file: &SlotFile, position: u64) -> Result<Explained, LookError> {
    let at = position / PAGE_BYTES as u64 * PAGE_BYTES as u64;
    let bytes = file.bytes_at(at, PAGE_BYTES)?;
    let mut cut = Cutter::new(&bytes, at);
    cut.zeros(bytes.len(), "space");
    let notes = vec!["nothing was written here by this use of the file".to_owned()];
    let bytes = bytes.len() as u64;
    Ok(Explained {
        what: "free space",
        position: at,
        bytes,
        fields: cut.fields,
        damage: None,
        wrong: None,
        notes,
    })
}

/// A slot that is no part of the journal is zeroed for its next use, from its header on: nothing says
/// any more what else is in it, and nothing in it is wrong.
fn explain_spare(file: &SlotFile, position: u64) -> Result<Explained, LookError> {
    let mut explained = explain_nothing(file, position)?;
    explained.what = "page of a spare slot";
    explained.fields.iter_mut().for_each(|field| field.is_sound = None);
    explained.notes =
        vec!["no part of the journal: zeroed, or being zeroed, for its next use".to_owned()];
    Ok(explained)
}

fn explain_slot_page(
    page: &[u8],
    kind: SlotKind,
    decoded: Result<SlotHeader, Damage>,
) -> Explained {
    let (magic, what) = match kind {
        SlotKind::Journal => (b"BLJRNL01", "header of a slot"),
        SlotKind::Manifest => (b"BLMANI01", "header of a manifest"),
    };
    let mut fields = Vec::new();
    for copy in [0, 2_048] {
        let bytes = page.get(copy..copy + 128).unwrap_or_default();
        let mut cut = Cutter::new(bytes, copy as u64);
        cut.text(8, "magic", magic);
        cut.number(2, "version");
        cut.number(2, "header_len");
        cut.number(4, "flags");
        cut.number(8, "file_seq");
        cut.number(8, "first_block_no");
        cut.hex(4, "prev_crc");
        cut.number(4, "size / 4096");
        cut.hex(16, "store_uuid");
        cut.number(8, "incarnation");
        cut.hex(8, "salt");
        cut.time("created_ms");
        cut.zeros(44, "zero");
        cut.crc("crc", crate::format::crc_of(&[bytes.get(..124).unwrap_or_default()]));
        fields.extend(cut.fields);
    }
    let notes = vec!["two copies, either of which suffices".to_owned()];
    Explained {
        what,
        position: 0,
        bytes: page.len() as u64,
        fields,
        damage: decoded.err(),
        wrong: None,
        notes,
    }
}

fn explain_block(
    bytes: &[u8],
    position: u64,
    header: Option<BlockHeader>,
    slot: &SlotHeader,
) -> Explained {
    let mended = block::mended_header(bytes, slot.salt);
    let mut cut = Cutter::new(bytes, position);
    cut.text(4, "magic", b"BLK1");
    cut.crc("header_crc", block::header_crc_of(bytes, slot.salt));
    cut.number(8, "file_seq");
    cut.number(8, "block_no");
    cut.number(8, "durable_block_no");
    cut.hex(4, "prev_crc");
    cut.number(4, "payload_len");
    let payload_end = header.map_or(BLOCK_HEADER_BYTES, |header| {
        bytes.len().min(BLOCK_HEADER_BYTES + header.payload_len as usize)
    });
    let stored = bytes.get(BLOCK_HEADER_BYTES..payload_end).unwrap_or_default();
    let payload_crc = header.map(|header| block::payload_crc_of(stored, &header, slot.salt));
    match payload_crc {
        Some(crc) => cut.crc("payload_crc", crc),
        None => cut.hex(4, "payload_crc"),
    }
    let frames = cut.number(4, "frames");
    cut.time("clock_ms");
    cut.number(4, "incarnation, low half");
    cut.number(1, "codec");
    cut.number(1, "flags");
    cut.number(2, "mask");
    let (mut notes, mut damage) = (Vec::new(), None);
    let mut wrong = mended.map(|(_, wrong)| wrong.behind(position as usize));
    if let Some(header) = header {
        let what = format!("{} bytes, {frames} frames", stored.len());
        cut.add(stored.len(), "payload", what, payload_crc.map(|crc| crc == header.payload_crc));
        let padding = bytes.len().saturating_sub(cut.at + BLOCK_TRAILER_BYTES);
        cut.zeros(padding, "padding");
        cut.number(8, "trailer: block_no");
        cut.crc("trailer: header_crc", header.header_crc);
        cut.text(4, "trailer: magic", b"1KLB");
        if wrong.is_none() && payload_crc != Some(header.payload_crc) {
            let mut explained = block::wrong_in_payload(stored, &header, slot.salt);
            wrong = explained.find(|wrong| wrong.single_bit().is_some());
            wrong = wrong.map(|wrong| wrong.behind(position as usize + BLOCK_HEADER_BYTES));
        }
        let expected = block::Expected {
            salt: slot.salt,
            file_seq: slot.file_seq,
            block_no: header.block_no,
            prev_crc: header.prev_crc,
        };
        match block::inspect(bytes, &expected) {
            block::Found::Block(_) => {}
            block::Found::Torn => notes.push("sectors of it are missing: torn".to_owned()),
            block::Found::Corrupt(found) => damage = Some(found),
            block::Found::Absent => notes.push("nothing stands here".to_owned()),
        }
    } else {
        damage = Some(Damage::HeaderCrc);
    }
    Explained {
        what: "commit block",
        position,
        bytes: bytes.len() as u64,
        fields: cut.fields,
        damage,
        wrong,
        notes,
    }
}

fn explain_frame(bytes: &Bytes, position: u64) -> Explained {
    let mut cut = Cutter::new(bytes, position);
    cut.number(4, "len");
    cut.crc("crc", frame::crc_of_frame(bytes));
    cut.hex(4, "chain");
    cut.number(1, "version");
    cut.number(1, "flags");
    cut.zeros(2, "zero");
    cut.number(8, "run_no");
    cut.number(8, "first_seq");
    cut.number(4, "count");
    let records_len = cut.number(4, "records_len") as usize;
    cut.time("time_ms");
    let records_end = bytes.len().min(FRAME_HEADER_BYTES.saturating_add(records_len));
    let records = bytes.slice(bytes.len().min(FRAME_HEADER_BYTES)..records_end);
    for record in wire::skim_all(&records) {
        let Ok(record) = record else {
            let left = records_end.saturating_sub(cut.at);
            cut.add(left, "records", format!("{left} bytes that do not decode"), Some(false));
            break;
        };
        let what = format!(
            "stream {}, seq {}, index {}, {} bytes",
            record.stream.0, record.seq, record.index, record.len
        );
        cut.add(record.len, "record", what, None);
    }
    let effects = bytes.len().saturating_sub(cut.at);
    if 0 < effects {
        cut.add(effects, "effects", format!("{effects} bytes"), None);
    }
    Explained {
        what: "frame",
        position,
        bytes: bytes.len() as u64,
        fields: cut.fields,
        damage: None,
        wrong: None,
        notes: Vec::new(),
    }
}

fn explain_store(page: &[u8]) -> Explained {
    let mut fields = Vec::new();
    for copy in [0, 2_048] {
        let bytes = page.get(copy..copy + 52).unwrap_or_default();
        let mut cut = Cutter::new(bytes, copy as u64);
        cut.text(8, "magic", b"BLSTORE1");
        cut.number(2, "version");
        cut.zeros(6, "zero");
        cut.hex(16, "store_uuid");
        cut.number(8, "vshards");
        cut.time("created_ms");
        cut.crc("crc", crate::format::crc_of(&[bytes.get(..48).unwrap_or_default()]));
        fields.extend(cut.fields);
    }
    let notes = vec!["two copies, either of which suffices".to_owned()];
    let damage = StoreIdentity::decode(page).err();
    let bytes = page.len() as u64;
    Explained {
        what: "identity of the store",
        position: 0,
        bytes,
        fields,
        damage,
        wrong: None,
        notes,
    }
}

fn explain_current(bytes: &[u8]) -> Explained {
    let mut cut = Cutter::new(bytes, 0);
    cut.text(8, "magic", b"BLCURR01");
    cut.number(8, "manifest");
    cut.hex(16, "store_uuid");
    cut.number(8, "incarnation");
    cut.crc("crc", crate::format::crc_of(&[bytes.get(..40).unwrap_or_default()]));
    let damage = Current::decode(bytes).err();
    let len = bytes.len() as u64;
    Explained {
        what: "number of the live manifest",
        position: 0,
        bytes: len,
        fields: cut.fields,
        damage,
        wrong: None,
        notes: Vec::new(),
    }
}

fn explain_pack_header(page: &[u8]) -> Explained {
    let mut cut = Cutter::new(page, 0);
    cut.text(8, "magic", b"BLPACK01");
    cut.number(2, "version");
    cut.number(2, "header_len");
    cut.number(4, "kind");
    cut.number(8, "number");
    cut.hex(16, "store_uuid");
    cut.hex(8, "salt");
    cut.time("created_ms");
    cut.zeros(68, "zero");
    cut.crc("crc", crate::format::crc_of(&[page.get(..124).unwrap_or_default()]));
    cut.zeros(page.len().saturating_sub(128), "zero");
    let damage = pack::decode_header(page).err();
    let bytes = page.len() as u64;
    let what = "header of a pack";
    Explained {
        what,
        position: 0,
        bytes,
        fields: cut.fields,
        damage,
        wrong: None,
        notes: Vec::new(),
    }
}

fn explain_footer(page: &[u8], position: u64, file_bytes: u64) -> Explained {
    let mut cut = Cutter::new(page, position);
    cut.text(8, "magic", b"BLPKFT01");
    cut.number(2, "version");
    cut.number(2, "footer_len");
    cut.number(4, "segments");
    cut.number(8, "number");
    cut.hex(16, "store_uuid");
    cut.hex(8, "salt");
    cut.number(8, "index_at");
    cut.number(4, "buckets");
    cut.hex(4, "crc of directory");
    cut.hex(4, "crc of bloom");
    cut.number(4, "blocks");
    cut.number(8, "raw_bytes");
    cut.number(8, "flushed_block");
    cut.number(8, "run_counter");
    cut.zeros(28, "zero");
    cut.crc("crc", crate::format::crc_of(&[page.get(..124).unwrap_or_default()]));
    cut.zeros(page.len().saturating_sub(128), "zero");
    let damage = pack::decode_footer(page, file_bytes).err();
    let bytes = page.len() as u64;
    let what = "footer of a pack";
    Explained { what, position, bytes, fields: cut.fields, damage, wrong: None, notes: Vec::new() }
}

fn explain_index(pack: &Pack, position: u64) -> Explained {
    let footer = pack.footer();
    let in_directory = position - footer.index_at < footer.directory_bytes() as u64;
    let entry = (position - footer.index_at) / pack::ENTRY_BYTES as u64;
    let at = match in_directory {
        true => footer.index_at + entry * pack::ENTRY_BYTES as u64,
        false => footer.index_at + footer.directory_bytes() as u64,
    };
    let len = match in_directory {
        true => pack::ENTRY_BYTES,
        false => footer.index_bytes() - footer.directory_bytes(),
    };
    let bytes = pack.bytes_at(at, len).unwrap_or_default();
    let index = pack.bytes_at(footer.index_at, footer.index_bytes()).unwrap_or_default();
    let damage = footer.check_index(&index).err();
    let mut cut = Cutter::new(&bytes, at);
    if in_directory {
        cut.hex(8, "name_hash");
        cut.number(8, "run_no");
        cut.number(8, "first_seq");
        cut.number(8, "end_seq");
        cut.number(8, "flushed_block");
        cut.number(4, "flushed_frame");
        cut.number(4, "flags");
        cut.number(8, "expires_ms");
        cut.number(8, "raw_bytes");
        cut.number(8, "block");
        cut.number(4, "block_len");
        cut.number(4, "offset");
        cut.number(4, "len");
        cut.zeros(4, "zero");
    } else {
        cut.add(bytes.len(), "bloom filter", format!("{} buckets", footer.buckets), None);
    }
    let what = if in_directory { "entry of a pack's directory" } else { "bloom filter of a pack" };
    let notes = vec!["directory and bloom filter have a CRC each, in the footer".to_owned()];
    let bytes = bytes.len() as u64;
    Explained { what, position: at, bytes, fields: cut.fields, damage, wrong: None, notes }
}
