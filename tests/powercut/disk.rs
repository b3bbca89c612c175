//! A disk with a volatile write cache, in memory.
//!
//! What is written lies in the cache until a flush; a cut of the power keeps any part of it, in
//! units of a sector, and of a sector that was written more than once any of its states. After
//! that every call fails until the power is back.
//!
//! What it deliberately does not do: lie. A flush that returned is on the disk.

use std::{collections::BTreeMap, io, ops::Range};

const SECTOR: usize = 512;

/// SplitMix64: small, and good enough to choose what survives.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a cut keeps of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Nothing,
    Everything,
    /// Of a hundred sectors about so many, at random.
    Percent(u64),
}

impl Kept {
    pub(crate) fn random(random: &mut Random) -> Self {
        match random.below(6) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Percent(5),
            3 => Self::Percent(95),
            _ => Self::Percent(50),
        }
    }
}

type Sector = [u8; SECTOR];

/// The disk.
pub(crate) struct Disk {
    durable: Vec<u8>,
    /// Every state of a sector since the last flush, oldest first.
    cache: BTreeMap<usize, Vec<Box<Sector>>>,
    is_off: bool,
    /// The cut to come, and how many writes and flushes are left until then.
    coming: Option<(u64, Kept, Random)>,
    /// Flushes, and sectors that a cut took.
    pub(crate) flushes: u64,
    pub(crate) sectors_lost: u64,
}

impl Disk {
    pub(crate) fn new(bytes: usize) -> Self {
        let (durable, cache) = (vec![0; bytes], BTreeMap::new());
        Self { durable, cache, is_off: false, coming: None, flushes: 0, sectors_lost: 0 }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.durable.len() as u64
    }

    fn sector(&self, number: usize) -> &[u8] {
        let newest = self.cache.get(&number).and_then(|states| states.last());
        newest.map_or(&self.durable[Self::place(number)], |state| &state[..])
    }

    fn place(number: usize) -> Range<usize> {
        number * SECTOR..(number + 1) * SECTOR
    }

    fn check(&self) -> io::Result<()> {
        if self.is_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts a write or flush; the power may go in the middle of it.
    fn count(&mut self) -> io::Result<()> {
        match &mut self.coming {
            Some((left @ 1.., ..)) => *left -= 1,
            Some(_) => {
                let (_, kept, mut random) = self.coming.take().expect("it is coming");
                self.cut(kept, &mut random);
            }
            None => {}
        }
        self.check()
    }

    pub(crate) fn read(&self, from: u64, len: usize) -> io::Result<Vec<u8>> {
        self.check()?;
        let from = (from as usize).min(self.durable.len());
        let to = (from + len).min(self.durable.len());
        let mut bytes = Vec::with_capacity(to - from);
        let mut at = from;
        while at < to {
            let (number, within) = (at / SECTOR, at % SECTOR);
            let end = SECTOR.min(within + to - at);
            bytes.extend_from_slice(&self.sector(number)[within..end]);
            at += end - within;
        }
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, from: u64, bytes: &[u8]) -> io::Result<()> {
        self.count()?;
        let (mut at, mut rest) = (from as usize, bytes);
        if self.durable.len() < at + rest.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        while !rest.is_empty() {
            let (number, within) = (at / SECTOR, at % SECTOR);
            let len = rest.len().min(SECTOR - within);
            let mut state: Box<Sector> = Box::new([0; SECTOR]);
            state.copy_from_slice(self.sector(number));
            state[within..within + len].copy_from_slice(&rest[..len]);
            self.cache.entry(number).or_default().push(state);
            (at, rest) = (at + len, &rest[len..]);
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.count()?;
        self.flushes += 1;
        for (number, mut states) in std::mem::take(&mut self.cache) {
            let newest = states.pop().expect("a sector in the cache was written");
            self.durable[Self::place(number)].copy_from_slice(&newest[..]);
        }
        Ok(())
    }

    /// Cuts the power after so many writes and flushes, at the beginning of the next.
    pub(crate) fn cut_after(&mut self, operations: u64, kept: Kept, random: Random) {
        self.coming = Some((operations, kept, random));
    }

    pub(crate) fn is_off(&self) -> bool {
        self.is_off
    }

    fn cut(&mut self, kept: Kept, random: &mut Random) {
        self.is_off = true;
        for (number, states) in std::mem::take(&mut self.cache) {
            let survives = match kept {
                Kept::Nothing => false,
                Kept::Everything => true,
                Kept::Percent(percent) => random.below(100) < percent,
            };
            if !survives {
                self.sectors_lost += 1;
                continue;
            }
            let state = match kept {
                Kept::Everything => states.len() - 1,
                _ => random.below(states.len() as u64) as usize,
            };
            self.durable[Self::place(number)].copy_from_slice(&states[state][..]);
        }
    }

    pub(crate) fn power_on(&mut self) {
        self.is_off = false;
    }
}
