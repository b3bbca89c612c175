//! A part of the runs, behind one lock: their states, their published logs, and the ring.
//!
//! A run belongs to one shard for ever. All of its commands take the shard's lock, are decided by
//! its state machine, and are queued for commit before the lock is released: that is what orders
//! them. The lock is a plain mutex: no await and no I/O happens under it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;

use super::{
    published::{NewFrame, Published},
    request::{RunEnd, RunInfo, RunKey},
};
use crate::{
    core::{Facts, RunState},
    format::frame::Frame,
    journal::FrameAt,
    record::{RunNo, Seq, VSHARDS},
    recovery::RecoveredRun,
};

/// Runs of some vshards.
#[derive(Default)]
pub(super) struct Shard {
    runs: HashMap<RunNo, Run>,
    names: BTreeMap<RunKey, RunNo>,
    /// Next run counter of each vshard that has runs here.
    counters: HashMap<u64, u64>,
    ring: Ring,
}

/// A run: what is decided, and what is visible of it.
pub(super) struct Run {
    /// Runs ahead of the disk.
    pub(super) state: RunState,
    /// What readers see.
    pub(super) published: Published,
    /// Frames that are decided and not yet durable.
    pub(super) in_flight: u32,
}

/// Recent frames, oldest first, within a budget.
#[derive(Default)]
struct Ring {
    frames: VecDeque<(RunNo, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Shard {
    pub(super) fn new(ring_bytes_max: usize) -> Self {
        let ring = Ring { bytes_max: ring_bytes_max, ..Ring::default() };
        Self { ring, ..Self::default() }
    }

    /// Takes in a run that recovery found.
    pub(super) fn restore(&mut self, recovered: RecoveredRun) {
        let mut published = Published::new(recovered.state.run_uid);
        for frame in &recovered.frames {
            published.publish(&NewFrame {
                at: frame.at,
                first_seq: frame.first_seq,
                count: frame.count,
                chain: frame.chain,
                time_ms: frame.time_ms,
                facts: &frame.facts,
            });
        }
        self.insert(Run { state: recovered.state, published, in_flight: 0 });
    }

    /// Adds a run.
    pub(super) fn insert(&mut self, run: Run) {
        let run_no = run.state.run_no;
        let counter = self.counters.entry(run_no.vshard()).or_default();
        *counter = (*counter).max(run_no.counter() + 1);
        self.names.insert(run.key(), run_no);
        self.runs.insert(run_no, run);
    }

    /// Number that a new run of this vshard gets.
    pub(super) fn next_run_no(&self, vshard: u64) -> RunNo {
        debug_assert!(vshard < VSHARDS);
        RunNo::new(self.counters.get(&vshard).copied().unwrap_or(0), vshard)
    }

    pub(super) fn number(&self, key: &RunKey) -> Option<RunNo> {
        self.names.get(key).copied()
    }

    pub(super) fn run(&mut self, run_no: RunNo) -> &mut Run {
        self.runs.get_mut(&run_no).expect("runs are never taken out")
    }

    pub(super) fn find(&mut self, key: &RunKey) -> Option<&mut Run> {
        let run_no = self.number(key)?;
        Some(self.run(run_no))
    }

    /// Makes a durable frame visible and wakes whom it concerns.
    pub(super) fn publish(&mut self, frame: Frame, at: FrameAt, facts: &Facts) {
        let header = frame.header;
        let run = self.run(header.run_no);
        run.in_flight -= 1;
        run.published.publish(&NewFrame {
            at,
            first_seq: header.first_seq,
            count: header.count,
            chain: header.chain,
            time_ms: header.time_ms,
            facts,
        });
        if 0 < header.count {
            let bytes = frame.bytes().len();
            run.published.remember(frame);
            self.keep_in_ring(header.run_no, bytes);
        }
        self.run(header.run_no).published.wake_readers();
    }

    fn keep_in_ring(&mut self, run_no: RunNo, bytes: usize) {
        self.ring.frames.push_back((run_no, bytes));
        self.ring.bytes += bytes;
        while self.ring.bytes_max < self.ring.bytes {
            let Some((oldest, bytes)) = self.ring.frames.pop_front() else { break };
            self.ring.bytes -= bytes;
            self.run(oldest).published.forget_oldest();
        }
    }

    /// Bytes of frames in memory.
    pub(super) fn ring_bytes(&self) -> usize {
        self.ring.bytes
    }

    /// Number of runs.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Runs of a namespace in order of their ids, from behind `after` on.
    pub(super) fn runs_after<'a>(
        &'a self,
        prefix: &'a RunKey,
        after: Option<&RunKey>,
    ) -> impl Iterator<Item = &'a Run> {
        let from = match after {
            Some(after) if prefix < after => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.clone()),
        };
        self.names
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| {
                key.namespace == prefix.namespace && key.run_id.starts_with(&*prefix.run_id)
            })
            .map(|(_, run_no)| &self.runs[run_no])
    }

    /// Wakes every reader, to see that the store is closing.
    pub(super) fn wake_all(&self) {
        self.runs.values().for_each(|run| run.published.wake_readers());
    }
}

impl Run {
    fn key(&self) -> RunKey {
        let RunState { namespace, run_id, .. } = &self.state;
        RunKey { namespace: namespace.clone(), run_id: run_id.clone() }
    }

    /// Describes the run as decided; to be shown only when its frames in flight are durable.
    pub(super) fn info(&self) -> RunInfo {
        let state = &self.state;
        RunInfo {
            run_id: state.run_id.clone(),
            run_uid: state.run_uid,
            task: state.task.clone(),
            created_ms: state.created_ms,
            updated_ms: state.updated_ms,
            ended: state.ending.as_ref().map(|ending| RunEnd {
                outcome: ending.outcome,
                completed_ms: ending.time_ms,
                output: ending.output.clone(),
                output_type: ending.output_type.clone(),
                error: ending.error.clone(),
            }),
            tail: state.tail,
            streams: state.streams.len() as u32,
            bytes: state.bytes,
        }
    }

    /// Describes the run without its bodies, which would make a page of runs arbitrarily large.
    pub(super) fn row(&self) -> RunInfo {
        let mut row = self.info();
        if let Some(end) = &mut row.ended {
            (end.output, end.error) = (Bytes::new(), None);
        }
        row
    }

    /// Seq after the last record that is visible.
    pub(super) fn durable(&self) -> Seq {
        self.published.durable
    }
}
