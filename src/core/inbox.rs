//! What of an input stream was consumed, and by whom.
//!
//! A consumer is a floor, below which everything is acked, and the acked ranges above it: "handled
//! 7, still owes 3" is a state. The floor never passes an input that is owed. Ids of messages are
//! remembered as long as the message is owed, and the newest beyond that, so that sending one again
//! is told from sending another.
//!
//! What it deliberately does not do: say who works on an input right now. That ends with a
//! connection or a lease, and is kept in memory.

use std::{collections::VecDeque, sync::Arc};

use super::{Refusal, RunState, command::check_run};
use crate::{
    record::{Index, RunUid, SENT_REMEMBERED},
    sabotage::{self, Bug},
};

/// Name of the consumer of those who name none.
pub const DEFAULT_CONSUMER: &str = "default";

/// What of an input stream was consumed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inbox {
    /// Consumers in order of their first ack.
    pub(super) consumers: Vec<Consumer>,
    /// Ids of messages, oldest first.
    pub(super) sent: VecDeque<SentMessage>,
    /// Bytes of the newest records, up to the tail: all that somebody owes, but for those that
    /// everybody had acked before somebody new came.
    pub(super) bytes: VecDeque<u32>,
}

/// What a consumer has consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Name.
    pub name: Arc<str>,
    /// Everything below is acked.
    pub floor: Index,
    /// Acked ranges above, ascending and apart: first index, and the index after the last.
    pub acked: Vec<(Index, Index)>,
}

/// A message that was sent with an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SentMessage {
    pub(super) id: Arc<str>,
    pub(super) index: Index,
    pub(super) content_crc: u32,
}

impl Consumer {
    pub(super) fn new(name: Arc<str>, floor: Index) -> Self {
        Self { name, floor, acked: Vec::new() }
    }

    /// Whether an input is acked.
    pub fn has_acked(&self, index: Index) -> bool {
        index < self.floor || self.acked.iter().any(|&(from, to)| from <= index && index < to)
    }

    /// Inputs below `tail` that are owed.
    pub fn owed(&self, tail: Index) -> u64 {
        let above: u64 = self.acked.iter().map(|(from, to)| to.0 - from.0).sum();
        tail.0.saturating_sub(self.floor.0).saturating_sub(above)
    }

    /// The first input from `from` on that is not acked; it may be the tail.
    pub fn next_owed(&self, from: Index) -> Index {
        let from = from.max(self.floor);
        let within = self.acked.iter().find(|(first, end)| *first <= from && from < *end);
        // Ranges are apart: behind one there is something owed.
        within.map_or(from, |(_, end)| *end)
    }

    /// Takes in an acked range.
    pub(super) fn ack(&mut self, from: Index, to: Index) {
        if to <= self.floor || to <= from {
            return;
        }
        let (mut from, mut to) = (from.max(self.floor), to);
        self.acked.retain(|&(first, end)| {
            let is_apart = end < from || to < first;
            if !is_apart {
                (from, to) = (from.min(first), to.max(end));
            }
            is_apart
        });
        if from <= self.floor || sabotage::is(Bug::FloorPassesOwed) {
            self.floor = to;
        } else {
            let at = self.acked.partition_point(|(first, _)| *first < from);
            self.acked.insert(at, (from, to));
        }
    }
}

impl Inbox {
    /// The consumer of this name, if it has acked anything.
    pub fn consumer(&self, name: &str) -> Option<&Consumer> {
        self.consumers.iter().find(|consumer| &*consumer.name == name)
    }

    /// Consumers in order of their first ack.
    pub fn consumers(&self) -> &[Consumer] {
        &self.consumers
    }

    /// The first input from `from` on that a consumer owes; it may be the tail.
    pub fn next_owed(&self, consumer: &str, from: Index) -> Index {
        self.consumer(consumer).map_or(from, |consumer| consumer.next_owed(from))
    }

    /// Whether a consumer has acked an input.
    pub fn has_acked(&self, consumer: &str, index: Index) -> bool {
        self.consumer(consumer).is_some_and(|consumer| consumer.has_acked(index))
    }

    /// Everything below was acked by every consumer.
    pub fn floor(&self) -> Index {
        self.consumers.iter().map(|consumer| consumer.floor).min().unwrap_or(Index::ZERO)
    }

    /// Inputs that a consumer owes, and bytes of all inputs that some owe.
    pub fn backlog(&self, tail: Index) -> (u64, u64) {
        let owed = self.consumers.iter().map(|consumer| consumer.owed(tail)).max();
        let bytes = self.bytes.iter().map(|bytes| u64::from(*bytes)).sum();
        (owed.unwrap_or(tail.0), bytes)
    }

    /// Bytes in memory, about.
    pub fn weight(&self) -> usize {
        self.sent.len() * 96 + self.bytes.len() * 4 + self.consumers.len() * 128
    }

    /// The message with this id, if it is remembered.
    pub(super) fn sent(&self, id: &str) -> Option<&SentMessage> {
        self.sent.iter().rev().find(|sent| &*sent.id == id)
    }

    /// Takes in a record.
    pub(super) fn add(&mut self, bytes: u32) {
        self.bytes.push_back(bytes);
    }

    pub(super) fn remember(&mut self, sent: SentMessage) {
        self.sent.push_back(sent);
        self.forget_sent();
    }

    /// Takes in an acked range of a consumer of a stream that is kept from `trim` to `tail`. One
    /// who is new does not owe what was trimmed.
    pub(super) fn ack(&mut self, name: &str, from: Index, to: Index, trim: Index, tail: Index) {
        let at = self.consumers.iter().position(|consumer| &*consumer.name == name);
        let at = at.unwrap_or_else(|| {
            self.consumers.push(Consumer::new(name.into(), trim));
            self.consumers.len() - 1
        });
        self.consumers[at].ack(from, to);
        let owed = tail.0.saturating_sub(self.floor().0) as usize;
        while owed < self.bytes.len() {
            self.bytes.pop_front();
        }
        self.forget_sent();
    }

    fn forget_sent(&mut self) {
        let floor = self.floor();
        while SENT_REMEMBERED < self.sent.len()
            && self.sent.front().is_some_and(|oldest| oldest.index < floor)
        {
            self.sent.pop_front();
        }
    }
}

impl RunState {
    /// Whether a consumer of a stream may be given inputs: under the run's lease, once it was
    /// claimed. The stream need not exist, and the run may have ended.
    ///
    /// # Errors
    /// [`Refusal::Fenced`], [`Refusal::LeaseRequired`], [`Refusal::Invalid`] if it is no input
    /// stream, and the usual ones.
    pub fn check_consumer(
        &self,
        run_uid: Option<RunUid>,
        lease_epoch: Option<u64>,
        stream: &str,
    ) -> Result<(), Refusal> {
        check_run(self, run_uid)?;
        if self.ending.is_none() {
            self.check_lease(lease_epoch, true)?;
        }
        let stream = self.stream_no(stream).map(|no| self.stream(no));
        match stream {
            Some(stream) if stream.inbox.is_none() => {
                Err(Refusal::invalid("stream", "is not an input stream"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order of acking five inputs one by one, with every prefix, against a set.
    #[test]
    fn a_floor_and_ranges_say_exactly_what_was_acked() {
        let mut orders = vec![Vec::new()];
        for _ in 0..5 {
            let longer = orders.iter().flat_map(|order: &Vec<u64>| {
                let free = (0..5).filter(|n| !order.contains(n));
                free.map(|n| order.iter().copied().chain([n]).collect()).collect::<Vec<_>>()
            });
            orders = longer.collect();
            for order in &orders {
                let mut consumer = Consumer::new("c".into(), Index::ZERO);
                order.iter().for_each(|n| consumer.ack(Index(*n), Index(n + 1)));
                let owed: Vec<u64> = (0..5).filter(|n| !order.contains(n)).collect();
                for n in 0..5 {
                    assert_eq!(consumer.has_acked(Index(n)), order.contains(&n), "{order:?}");
                    let next = owed.iter().copied().find(|owed| n <= *owed).unwrap_or(5);
                    assert_eq!(consumer.next_owed(Index(n)), Index(next), "{order:?} from {n}");
                }
                assert_eq!(consumer.owed(Index(5)), owed.len() as u64);
                assert_eq!(consumer.floor.0, owed.first().copied().unwrap_or(5), "{order:?}");
                let apart = consumer.acked.windows(2).all(|pair| pair[0].1 < pair[1].0);
                assert!(apart && consumer.acked.iter().all(|(from, to)| from < to), "{order:?}");
            }
        }
        assert_eq!(orders.len(), 120);
    }

    /// Every pair of ranges of six inputs.
    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let ranges: Vec<_> =
            (0..6u64).flat_map(|from| (from..7).map(move |to| (from, to))).collect();
        for (a, b) in ranges.iter().flat_map(|a| ranges.iter().map(move |b| (a, b))) {
            let mut consumer = Consumer::new("c".into(), Index::ZERO);
            for (from, to) in [a, b] {
                consumer.ack(Index(*from), Index(*to));
            }
            for n in 0..7 {
                let expected = [a, b].iter().any(|(from, to)| *from <= n && n < *to);
                assert_eq!(consumer.has_acked(Index(n)), expected, "{a:?}, {b:?}");
            }
            assert!(consumer.acked.len() <= 2 && !consumer.has_acked(consumer.floor));
        }
    }

    #[test]
    fn ids_are_remembered_while_owed_and_the_newest_beyond_that() {
        let mut inbox = Inbox::default();
        let many = SENT_REMEMBERED as u64 + 10;
        for n in 0..many {
            inbox.add(1);
            let id = n.to_string().into();
            inbox.remember(SentMessage { id, index: Index(n), content_crc: 0 });
        }
        assert!(inbox.sent("0").is_some(), "it is owed");
        inbox.ack("c", Index(0), Index(many), Index(0), Index(many));
        assert!(inbox.sent("0").is_none() && inbox.sent("10").is_some());
        assert_eq!(inbox.backlog(Index(many)), (0, 0));
    }
}
