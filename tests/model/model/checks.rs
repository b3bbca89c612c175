//! Checks that several commands have in common, each with the refusal of its row.

use super::*;

impl Model {
    pub(super) fn check_run(&self, run_uid: Option<RunUid>) -> Result<(), Refusal> {
        demand(self.deleted_ms.is_none(), || Refusal::RunDeleted)?;
        let is_other = run_uid.is_some_and(|wanted| wanted != self.run_uid);
        demand(!is_other, || Refusal::RunReplaced { run_uid: self.run_uid })
    }

    pub(super) fn check_open(&self, stream: Option<&str>) -> Result<(), Refusal> {
        let Some(ending) = &self.ending else { return Ok(()) };
        let stream = stream.and_then(|name| self.stream(name));
        Err(Refusal::Closed {
            outcome: Some(ending.outcome),
            final_seq: self.tail(),
            final_index: stream.map(|stream| Index(stream.tail)),
        })
    }

    pub(super) fn check_stream(&self, name: &str, kind: StreamKind) -> Result<(), Refusal> {
        let Some(stream) = self.stream(name) else { return Ok(()) };
        demand(!stream.closed, || Refusal::Closed {
            outcome: None,
            final_seq: self.tail(),
            final_index: Some(Index(stream.tail)),
        })?;
        demand(stream.kind == kind, || invalid("stream"))
    }

    pub(super) fn check_lease(&self, presented: Option<u64>, needed: bool) -> Result<(), Refusal> {
        let current = self.epoch;
        match presented {
            Some(epoch) => {
                let holds = self.lease.is_some() && epoch == current;
                demand(holds, || Refusal::Fenced { current })
            }
            None => demand(!needed || current == 0, || Refusal::LeaseRequired { current }),
        }
    }

    pub(super) fn check_seq(&self, expected: Option<Seq>) -> Result<(), Refusal> {
        let tail = self.tail();
        demand(expected.is_none_or(|expected| expected == tail), || Refusal::SeqMismatch { tail })
    }

    pub(super) fn check_index(&self, stream: &str, expected: Option<Index>) -> Result<(), Refusal> {
        let tail = Index(self.tail_of(stream));
        let holds = expected.is_none_or(|expected| expected == tail);
        demand(holds, || Refusal::IndexMismatch { tail })
    }

    pub(super) fn producer(&self, id: &str) -> Option<&ProducerModel> {
        self.producers.iter().find(|known| *known.id == *id)
    }

    /// The answer, if this was applied before.
    pub(super) fn applied(
        &self,
        producer: &Producer,
        content: &Content,
        count: u32,
    ) -> Result<Option<Appended>, Refusal> {
        let Some(known) = self.producer(&producer.id) else { return Ok(None) };
        let current = known.epoch;
        demand(current <= producer.epoch, || Refusal::StaleEpoch { current })?;
        let appends = known.applied.len() as u64;
        if current < producer.epoch || appends <= producer.seq {
            return Ok(None);
        }
        if producer.seq + PRODUCER_APPENDS_REMEMBERED as u64 >= appends {
            let (before, answer) = &known.applied[producer.seq as usize];
            demand(**before == *content, || Refusal::DedupMismatch)?;
            return Ok(Some(Appended { deduplicated: true, ..*answer }));
        }
        Ok(Some(Appended {
            run_uid: self.run_uid,
            first_seq: Seq(0),
            first_index: Index(0),
            count,
            time_ms: self.updated_ms,
            deduplicated: true,
            positions_forgotten: true,
        }))
    }

    pub(super) fn check_order(&self, producer: &Producer) -> Result<(), Refusal> {
        match self.producer(&producer.id) {
            Some(known) if known.epoch == producer.epoch => {
                let expected = known.applied.len() as u64;
                demand(producer.seq == expected, || Refusal::ProducerGap { expected })
            }
            _ => demand(producer.seq == 0, || Refusal::BadEpochStart),
        }
    }

    pub(super) fn remember(&mut self, producer: &Producer, content: Content, answer: Appended) {
        if self.producer(&producer.id).is_none() {
            let (id, epoch) = (producer.id.clone(), producer.epoch);
            self.producers.push(ProducerModel { id, epoch, applied: Vec::new() });
        }
        let known = self.producers.iter_mut().find(|known| known.id == producer.id);
        let known = known.expect("just added");
        if known.epoch < producer.epoch {
            (known.epoch, known.applied) = (producer.epoch, Vec::new());
        }
        known.applied.push((Rc::new(content), answer));
    }

    pub(super) fn check_kept(&self, new: usize, context: &Context) -> Result<(), Refusal> {
        let Some(limit) = context.limits.records else { return Ok(()) };
        let which = "records of a run".into();
        demand(self.kept() + new as u64 <= limit, || Refusal::Quota { which, limit })
    }
}
