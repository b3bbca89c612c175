//! The bytes of a file, in pages that copies share.
//!
//! What it deliberately does not do: know which of its bytes are synced, or to whom they belong.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

/// What survives a power cut whole or not at all.
pub const SECTOR: usize = 512;
/// The unit in which images share memory and space is counted.
pub(super) const PAGE: usize = 4096;
pub(super) const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR) as u64;
/// The bits of all sectors of a page.
const WHOLE_PAGE: u8 = u8::MAX;

type Page = [u8; PAGE];
/// A page of an image; `None` reads as zeros.
pub(super) type SharedPage = Option<Arc<Page>>;

/// The bytes of a file. Pages beyond the last are zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pages: Vec<SharedPage>,
    pub(super) len: u64,
}

pub(super) fn page_mut(page: &mut SharedPage) -> &mut Page {
    Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE])))
}

/// Cuts a range of bytes at page boundaries: page number, then from and to inside the page.
fn page_spans(start: u64, end: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let from = (at % PAGE as u64) as usize;
        let to = PAGE.min(from + (end.checked_sub(at)? as usize));
        let page = (at / PAGE as u64) as usize;
        at += (to - from) as u64;
        (from < to).then_some((page, from, to))
    })
}

impl Image {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        image.put(Payload::Bytes(bytes), 0);
        image.len = bytes.len() as u64;
        image
    }

    pub(super) fn page(&self, page: usize) -> &SharedPage {
        self.pages.get(page).unwrap_or(&None)
    }

    pub(super) fn slot(&mut self, page: usize) -> &mut SharedPage {
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        &mut self.pages[page]
    }

    /// Copies bytes out; the caller has checked the length.
    pub(super) fn get(&self, buf: &mut [u8], position: u64) {
        let mut rest = buf;
        for (page, from, to) in page_spans(position, position + rest.len() as u64) {
            let (now, later) = rest.split_at_mut(to - from);
            match self.page(page) {
                Some(page) => now.copy_from_slice(&page[from..to]),
                None => now.fill(0),
            }
            rest = later;
        }
    }

    /// Puts bytes in; the length is the caller's.
    pub(super) fn put(&mut self, payload: Payload<'_>, position: u64) {
        let mut at = 0;
        for (page, from, to) in page_spans(position, position + payload.len()) {
            let slot = self.slot(page);
            match payload {
                Payload::Bytes(bytes) if to - from == PAGE => {
                    // A whole page never looks at the one it replaces.
                    *slot = bytes[at..at + PAGE].try_into().ok().map(Arc::new);
                }
                Payload::Bytes(bytes) => {
                    page_mut(slot)[from..to].copy_from_slice(&bytes[at..at + to - from]);
                }
                Payload::Zeros(_) if to - from == PAGE => *slot = None,
                Payload::Zeros(_) => page_mut(slot)[from..to].fill(0),
            }
            at += to - from;
        }
    }

    /// Replaces the sectors of a page that `mask` names.
    pub(super) fn put_sectors(&mut self, page: usize, mask: u8, from: &SharedPage) {
        if mask == 0 {
            return;
        }
        let slot = self.slot(page);
        if mask == WHOLE_PAGE {
            slot.clone_from(from);
            return;
        }
        let target = page_mut(slot);
        for sector in (0..8).filter(|sector| mask & (1 << sector) != 0) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            match from {
                Some(source) => target[range.clone()].copy_from_slice(&source[range]),
                None => target[range].fill(0),
            }
        }
    }

    /// Forgets what is beyond the length, so that growing again shows zeros.
    pub(super) fn trim(&mut self) {
        let (whole, part) = (self.len / PAGE as u64, (self.len % PAGE as u64) as usize);
        self.pages.truncate(whole as usize + usize::from(part != 0));
        if let Some(Some(page)) = self.pages.get_mut(whole as usize)
            && page[part..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(page)[part..].fill(0);
        }
    }

    /// A number that tells these bytes from any others.
    pub(super) fn digest(&self) -> u128 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.len.to_le_bytes());
        for (number, page) in self.pages.iter().enumerate() {
            // A page of zeros that was written counts as one that was not.
            if let Some(page) = page.as_deref().filter(|page| **page != [0; PAGE]) {
                hash.update(&number.to_le_bytes());
                hash.update(page);
            }
        }
        hash.digest128()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.get(&mut bytes, 0);
        bytes
    }
}

/// What a write puts in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
}

impl Payload<'_> {
    pub(super) fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Zeros(len) => *len,
        }
    }

    pub(super) fn first(self, len: u64) -> Self {
        match self {
            Payload::Bytes(bytes) => Payload::Bytes(&bytes[..len as usize]),
            Payload::Zeros(_) => Payload::Zeros(len),
        }
    }
}
