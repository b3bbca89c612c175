//! Every command but the commit, in the order of the documented checks.

use super::*;

impl Model {
    pub(crate) fn append(&mut self, append: &Append, context: &Context) -> Verdict<Appended> {
        demand(!append.records.is_empty(), || invalid("records"))?;
        self.check_run(append.run_uid)?;
        let content = Content::Append(append.stream.clone(), append.records.clone());
        let count = append.records.len() as u32;
        if let Some(producer) = &append.producer
            && let Some(answer) = self.applied(producer, &content, count)?
        {
            return Ok(Done::Duplicate(answer));
        }
        self.check_open(Some(&append.stream))?;
        self.check_stream(&append.stream, StreamKind::Output)?;
        self.check_lease(append.lease_epoch, false)?;
        self.check_seq(append.expected_seq)?;
        self.check_index(&append.stream, append.expected_index)?;
        append.producer.as_ref().map_or(Ok(()), |producer| self.check_order(producer))?;
        self.check_kept(append.records.len(), context)?;

        self.frame(context.now_ms);
        let (first_seq, time_ms) = (self.tail(), self.updated_ms);
        let first_index = Index(self.tail_of(&append.stream));
        let stream = self.opened(&append.stream, StreamKind::Output);
        for record in &append.records {
            self.write(stream, Kind::Chunk, record);
        }
        self.begin_work(append.lease_epoch);
        let answer = Appended {
            run_uid: self.run_uid,
            first_seq,
            first_index,
            count,
            time_ms,
            deduplicated: false,
            positions_forgotten: false,
        };
        if let Some(producer) = &append.producer {
            self.remember(producer, content, answer);
        }
        Ok(Done::Accepted(answer))
    }

    pub(crate) fn send(&mut self, send: &Send, context: &Context) -> Verdict<Sent> {
        self.check_run(send.run_uid)?;
        let run_uid = self.run_uid;
        let known = self.stream(&send.stream).filter(|_| !send.message.id.is_empty());
        if let Some((index, before)) = known.and_then(|known| known.remembered(&send.message.id)) {
            demand(**before == send.message, || Refusal::DedupMismatch)?;
            let index = Index(*index);
            return Ok(Done::Duplicate(Sent { run_uid, seq: None, index, deduplicated: true }));
        }
        self.check_open(Some(&send.stream))?;
        self.check_stream(&send.stream, StreamKind::Input)?;
        let inputs = self.stream(&send.stream).map_or(0, Stream::backlog);
        demand(inputs < INPUTS_OWED_MAX, || Refusal::InputBacklog { inputs, bytes: 0 })?;
        self.check_kept(1, context)?;

        self.frame(context.now_ms);
        let seq = Some(self.tail());
        let stream = self.opened(&send.stream, StreamKind::Input);
        let index = self.write(stream, Kind::Input, &send.message);
        if !send.message.id.is_empty() {
            self.streams[stream].sent.push((index, Rc::new(send.message.clone())));
        }
        self.settle_by_inputs(|_| true);
        self.resume();
        Ok(Done::Accepted(Sent { run_uid, seq, index: Index(index), deduplicated: false }))
    }

    pub(crate) fn claim(&mut self, claim: &Claim, context: &Context) -> Verdict<Claimed> {
        demand(LEASE_TERM_MS.contains(&claim.term_ms), || invalid("term_ms"))?;
        self.check_run(claim.run_uid)?;
        self.check_open(None)?;
        let status = self.status;
        match (claim.from, &self.lease) {
            (ClaimFrom::Queue, _) => {
                demand(status == RunStatus::Queued, || Refusal::NotQueued { status })?;
            }
            (ClaimFrom::Anywhere, Some(Lease { worker, .. })) => {
                return Err(Refusal::LeaseHeld { epoch: self.epoch, worker: worker.clone() });
            }
            _ => {}
        }
        self.frame(context.now_ms);
        let resumed = self.resumes;
        self.epoch += 1;
        if !resumed || self.attempt == 0 {
            self.attempt += 1;
        }
        let (epoch, attempt, term_ms) = (self.epoch, self.attempt, claim.term_ms);
        let worker = claim.worker.as_ref().into();
        self.event(event::Event::RunClaimed(RunClaimed {
            epoch,
            worker,
            attempt,
            term_ms,
            resumed,
        }));
        self.lease = Some(Lease { worker: claim.worker.clone(), term_ms });
        self.resumes = false;
        self.stand(RunStatus::Dequeued);
        Ok(Done::Accepted(Claimed { epoch, attempt, resumed, term_ms }))
    }

    pub(crate) fn cancel(&mut self, cancel: &CancelRun, context: &Context) -> Verdict<Canceled> {
        self.check_run(cancel.run_uid)?;
        let is_held = self.lease.is_some();
        let is_canceled =
            self.ending.as_ref().is_some_and(|ending| ending.outcome == Outcome::Canceled);
        if is_canceled || is_held && self.cancel.is_some() {
            return Ok(Done::Duplicate(Canceled { closed: is_canceled, deduplicated: true }));
        }
        self.check_open(None)?;
        self.frame(context.now_ms);
        let (reason, requested_ms) = (cancel.reason.clone(), self.updated_ms);
        let close_at_ms = requested_ms + cancel.grace_ms;
        let requested = CancelRequested { reason: reason.clone(), close_at_ms };
        self.event(event::Event::CancelRequested(requested));
        self.cancel = Some(Cancel { reason: reason.clone(), requested_ms, close_at_ms });
        if !is_held {
            self.end(by_the_store(Outcome::Canceled, "canceled", &reason));
        }
        Ok(Done::Accepted(Canceled { closed: !is_held, deduplicated: false }))
    }

    pub(crate) fn reschedule(&mut self, reschedule: &Reschedule, context: &Context) -> Verdict<()> {
        self.check_run(reschedule.run_uid)?;
        self.check_open(None)?;
        let status = self.status;
        let is_waiting = matches!(status, RunStatus::Delayed | RunStatus::Queued);
        demand(is_waiting, || Refusal::NotQueued { status })?;
        let delay_until_ms = reschedule.delay_until_ms;
        if status == RunStatus::Delayed && self.delay_until_ms == delay_until_ms {
            return Ok(Done::Duplicate(()));
        }
        self.frame(context.now_ms);
        self.event(event::Event::RunRescheduled(RunRescheduled { delay_until_ms }));
        self.delay_until_ms = delay_until_ms;
        self.stand(RunStatus::Delayed);
        Ok(Done::Accepted(()))
    }

    /// Lets happen what is due; none if nothing is.
    pub(crate) fn tick(&mut self, lapsed: Option<u64>, context: &Context) -> Option<()> {
        let now_ms = context.now_ms.max(self.updated_ms);
        let lapsed = lapsed.filter(|epoch| self.lease.is_some() && *epoch == self.epoch);
        let is_over = self.has_ended() || self.deleted_ms.is_some();
        let is_past = |due: Option<u64>| due.is_some_and(|due_ms| due_ms <= now_ms);
        if is_over || lapsed.is_none() && !is_past(self.due_ms()) {
            return None;
        }
        self.frame(context.now_ms);
        for wait in self.waits.clone() {
            if let Some((due_ms, result)) = due_of(&wait)
                && due_ms <= now_ms
            {
                self.settle(wait.id(), result, WaitSettled::default());
            }
        }
        let reason = self.cancel.as_ref().map(|cancel| cancel.reason.clone());
        if is_past(self.cancel_due()) {
            let reason = reason.unwrap_or_default();
            self.end(by_the_store(Outcome::Canceled, "canceled", &reason));
        } else if is_past(self.duration_due()) {
            let why = "the run took longer than allowed";
            self.end(by_the_store(Outcome::TimedOut, "timed_out", why));
        } else if is_past(self.expiry_due()) {
            let why = "nobody started the run in time";
            self.end(by_the_store(Outcome::Expired, "expired", why));
        } else {
            if is_past(self.delay_due()) {
                self.turn(RunStatus::Queued);
            }
            if lapsed.is_some() {
                self.abandon(reason);
            } else {
                self.resume();
            }
        }
        Some(())
    }

    fn abandon(&mut self, canceled: Option<String>) {
        let attempts =
            if self.spec.max_attempts == 0 { ATTEMPTS_DEFAULT } else { self.spec.max_attempts };
        let next = match &canceled {
            Some(_) => RunStatus::Canceled,
            None if self.attempt < attempts => RunStatus::Queued,
            None => RunStatus::Crashed,
        };
        let Lease { worker, .. } = self.lease.take().expect("held");
        let (epoch, worker) = (self.epoch, worker.as_ref().into());
        let abandoned = RunAbandoned { epoch, worker, next: next.into() };
        self.event(event::Event::RunAbandoned(abandoned));
        match (next, canceled) {
            (RunStatus::Queued, _) => self.stand(RunStatus::Queued),
            (_, Some(reason)) => {
                self.end(by_the_store(Outcome::Canceled, "canceled", &reason));
            }
            _ => {
                let why = "the worker died too often";
                self.end(by_the_store(Outcome::Crashed, "crashed", why));
            }
        }
    }

    pub(crate) fn close(&mut self, close: &Close, context: &Context) -> Verdict<Closed> {
        demand(close.outcome != Outcome::Unspecified, || invalid("outcome"))?;
        self.check_run(close.run_uid)?;
        if let Some(ending) = &self.ending
            && ending.outcome == close.outcome
        {
            return Ok(Done::Duplicate(Closed { seq: ending.seq, deduplicated: true }));
        }
        self.check_open(None)?;
        self.check_lease(close.lease_epoch, true)?;
        self.check_seq(close.expected_seq)?;
        self.frame(context.now_ms);
        let seq = self.tail();
        self.end(closed_of(close));
        Ok(Done::Accepted(Closed { seq, deduplicated: false }))
    }

    fn check_named(&self, name: &str, run_uid: Option<RunUid>) -> Result<usize, Refusal> {
        demand(!name.starts_with('$'), || invalid("stream"))?;
        self.check_run(run_uid)?;
        let at = self.streams.iter().position(|stream| *stream.name == *name);
        at.ok_or(Refusal::StreamNotFound)
    }

    pub(crate) fn close_stream(
        &mut self,
        close: &CloseStream,
        context: &Context,
    ) -> Verdict<StreamEnd> {
        let at = self.check_named(&close.stream, close.run_uid)?;
        let final_index = Index(self.streams[at].tail);
        if self.streams[at].closed {
            return Ok(Done::Duplicate(StreamEnd { final_index, deduplicated: true }));
        }
        self.check_open(Some(&close.stream))?;
        self.frame(context.now_ms);
        self.event(event::Event::StreamClosed(StreamClosed { stream: at as u32 }));
        self.streams[at].closed = true;
        Ok(Done::Accepted(StreamEnd { final_index, deduplicated: false }))
    }

    pub(crate) fn trim(&mut self, trim: &Trim, context: &Context) -> Verdict<Index> {
        let at = self.check_named(&trim.stream, trim.run_uid)?;
        let Stream { tail, trim: held, kind, .. } = self.streams[at];
        demand(trim.trim.0 <= tail, || Refusal::BeyondTail { tail })?;
        if trim.trim.0 <= held {
            return Ok(Done::Duplicate(Index(held)));
        }
        let floor = Index(self.streams[at].floor());
        let is_owed = kind == StreamKind::Input && !self.has_ended() && floor < trim.trim;
        demand(!is_owed, || Refusal::InputsOwed { floor })?;
        self.frame(context.now_ms);
        self.streams[at].trim = trim.trim.0;
        Ok(Done::Accepted(trim.trim))
    }

    pub(crate) fn delete(&mut self, delete: &Delete, context: &Context) -> Verdict<Deleted> {
        let is_other = delete.run_uid.is_some_and(|wanted| wanted != self.run_uid);
        demand(!is_other, || Refusal::RunReplaced { run_uid: self.run_uid })?;
        if let Some(deleted_ms) = self.deleted_ms {
            return Ok(Done::Duplicate(Deleted { deleted_ms, deduplicated: true }));
        }
        self.frame(context.now_ms);
        let deleted_ms = self.updated_ms;
        self.deleted_ms = Some(deleted_ms);
        Ok(Done::Accepted(Deleted { deleted_ms, deduplicated: false }))
    }

    pub(crate) fn deliver(&mut self, delivery: &Delivery, context: &Context) -> Verdict<()> {
        self.check_run(None)?;
        let Delivery { source, source_uid, entry } = delivery;
        let known = self.delivered.iter().position(|(uid, _)| uid == source_uid);
        if known.is_some_and(|at| entry.number <= self.delivered[at].1) {
            return Ok(Done::Duplicate(()));
        }
        self.frame(context.now_ms);
        known.map(|at| self.delivered.remove(at));
        self.delivered.push((*source_uid, entry.number));
        match &entry.message {
            Some(outbox_entry::Message::Metadata(forwarded)) => {
                let ended_ms = self.ending.as_ref().map(|ending| ending.time_ms);
                if ended_ms.is_none_or(|ended_ms| self.updated_ms <= ended_ms + LATE_MS) {
                    let operations = forwarded.operations.iter();
                    let operations: Vec<Operation> =
                        operations.filter_map(Operation::from_proto).collect();
                    self.change_metadata(&operations, source);
                }
            }
            Some(outbox_entry::Message::Waits(wait_id)) => match self.ending.clone() {
                Some(ending) => {
                    let settled = settled_by_end(wait_id, &ending);
                    self.tell(source, outbox_entry::Message::Settled(settled));
                }
                None => {
                    let (run_id, wait_id) = (source.as_ref().into(), wait_id.clone());
                    self.waiters.push(Waiter { run_id, wait_id });
                }
            },
            Some(outbox_entry::Message::Settled(settled)) => self.take_settled(settled),
            _ => {}
        }
        Ok(Done::Accepted(()))
    }

    /// First wins, and nothing changes once the run has ended.
    fn take_settled(&mut self, settled: &WaitSettled) {
        let is_pending = self.pending().any(|wait| wait.id() == settled.wait_id);
        if is_pending && !self.has_ended() {
            self.settle(&settled.wait_id, settled.result(), settled.clone());
            self.resume();
        }
    }

    /// Notes what was taken in; none if nothing of it was in the outbox.
    pub(crate) fn told(&mut self, numbers: &[u64], context: &Context) -> Option<()> {
        let is_told = |entry: &OutboxEntry| numbers.contains(&entry.number);
        if self.deleted_ms.is_some() || !self.outbox.iter().any(is_told) {
            return None;
        }
        self.frame(context.now_ms);
        self.outbox.retain(|entry| !is_told(entry));
        Some(())
    }
}
