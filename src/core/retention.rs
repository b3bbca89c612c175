//! How long, and how much of, a run is kept; and what counts as kept.
//!
//! Kept records are those of all streams but `$run` that are not trimmed. Kept bytes are the bytes
//! of all frames of the run, times the share of its records that are not trimmed: exact while
//! nothing is trimmed, and an estimate by the mean size of a record after. An append counts with
//! its records and the bytes of its frame.
//!
//! What it deliberately does not do: trim, delete, or know the defaults of a namespace.

use std::borrow::Cow;

use super::{Refusal, RunState};
use crate::{
    format::frame::Frame,
    proto,
    record::{Index, StreamNo},
};

/// How long, and how much of, a run is kept. None is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Milliseconds after its close that the run is kept.
    pub age_ms: Option<u64>,
    /// Bytes that are kept of the run.
    pub bytes: Option<u64>,
    /// Records that are kept of the run, those of `$run` not counted.
    pub records: Option<u64>,
    /// What becomes of an append that would pass the limit of bytes or records.
    pub at_limit: AtLimit,
}

/// What becomes of an append that would pass a limit of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtLimit {
    /// It is refused with [`Refusal::Quota`].
    #[default]
    Reject,
    /// It is accepted. Trimming the oldest records is up to whoever admitted it.
    TrimOldest,
}

/// The limits that hold when a command is admitted: the run's own, or those of its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes that are kept of the run.
    pub bytes: Option<u64>,
    /// Records that are kept of the run.
    pub records: Option<u64>,
    /// What becomes of an append that would pass them.
    pub at_limit: AtLimit,
}

impl Retention {
    /// What of it limits appends.
    pub fn limits(&self) -> Limits {
        Limits { bytes: self.bytes, records: self.records, at_limit: self.at_limit }
    }

    /// Row 1: nothing is kept of a run that may have no byte or no record.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let zero = "is 0: nothing could be appended";
        match (self.bytes, self.records) {
            (Some(0), _) => Err(Refusal::invalid("retention.bytes", zero)),
            (_, Some(0)) => Err(Refusal::invalid("retention.records", zero)),
            _ => Ok(()),
        }
    }
}

impl RunState {
    /// Records that are kept, those of `$run` not counted.
    pub fn kept_records(&self) -> u64 {
        let outputs = &self.streams[StreamNo::RUN.0 as usize + 1..];
        outputs.iter().map(|stream| stream.tail.0 - stream.trim.0).sum()
    }

    /// Bytes that are kept, as this module counts them.
    pub fn kept_bytes(&self) -> u64 {
        let trimmed: u64 = self.streams.iter().map(|stream| stream.trim.0).sum();
        let written = u128::from(self.tail.0.max(1));
        let kept = u128::from(self.bytes) * (written - u128::from(trimmed).min(written)) / written;
        // Not more than `bytes`, which is one.
        kept as u64
    }

    /// First index to keep of a stream so that the run is within its limits, if it is beyond them
    /// and they are kept by trimming. An eighth is trimmed at once, so that not every append trims.
    pub fn oldest_beyond(&self, stream: &str, limits: &Limits) -> Option<Index> {
        if limits.at_limit != AtLimit::TrimOldest {
            return None;
        }
        let records = self.kept_records();
        let by_records = limits.records.filter(|limit| *limit < records);
        let by_records = by_records.map_or(0, |limit| records - (limit - limit / 8));
        let bytes = self.kept_bytes();
        let by_bytes = limits.bytes.filter(|limit| *limit < bytes).map_or(0, |limit| {
            let excess = u128::from(bytes - (limit - limit / 8));
            // As many records as take so many bytes, of records of the mean size.
            (excess * u128::from(records)).div_ceil(u128::from(bytes)) as u64
        });
        let excess = by_records.max(by_bytes);
        let known = self.stream(self.stream_no(stream)?);
        let trim = Index((known.trim.0 + excess).min(known.tail.0));
        (known.trim < trim).then_some(trim)
    }

    /// Row 12: whether a frame with these records, those of `$run` not counted, stays within the
    /// limits.
    pub(super) fn check_quota(
        &self,
        records: usize,
        frame: &Frame,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        if limits.at_limit != AtLimit::Reject {
            return Ok(());
        }
        let records = self.kept_records().saturating_add(records as u64);
        check_kept("records of a run", records, limits.records)?;
        let bytes = self.kept_bytes().saturating_add(frame.bytes().len() as u64);
        check_kept("bytes of a run", bytes, limits.bytes)
    }
}

fn check_kept(which: &'static str, kept: u64, limit: Option<u64>) -> Result<(), Refusal> {
    match limit {
        Some(limit) if limit < kept => Err(Refusal::Quota { which: Cow::Borrowed(which), limit }),
        _ => Ok(()),
    }
}

impl From<Retention> for proto::Retention {
    fn from(retention: Retention) -> Self {
        let at_limit = match retention.at_limit {
            AtLimit::Reject => proto::AtLimit::Reject,
            AtLimit::TrimOldest => proto::AtLimit::TrimOldest,
        };
        let Retention { age_ms, bytes, records, .. } = retention;
        Self { age_ms, bytes, records, at_limit: at_limit.into() }
    }
}

/// A policy at the limit that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is unknown: {found}")]
pub struct UnknownAtLimit {
    /// Its number.
    pub found: i32,
}

impl TryFrom<proto::Retention> for Retention {
    type Error = UnknownAtLimit;

    fn try_from(retention: proto::Retention) -> Result<Self, UnknownAtLimit> {
        let found = retention.at_limit;
        let at_limit = match proto::AtLimit::try_from(found) {
            Ok(proto::AtLimit::Unspecified | proto::AtLimit::Reject) => AtLimit::Reject,
            Ok(proto::AtLimit::TrimOldest) => AtLimit::TrimOldest,
            Err(_) => return Err(UnknownAtLimit { found }),
        };
        let proto::Retention { age_ms, bytes, records, .. } = retention;
        Ok(Self { age_ms, bytes, records, at_limit })
    }
}
