//! The commit: all that one turn does, or nothing of it.

use super::*;

impl Model {
    pub(crate) fn commit(&mut self, commit: &Commit, context: &Context) -> Verdict<Committed> {
        check_commit(commit)?;
        self.check_run(commit.run_uid)?;
        let content = content_of(commit);
        if let Some(answer) = self.committed_before(commit, &content)? {
            return Ok(Done::Duplicate(answer));
        }
        let now_ms = context.now_ms.max(self.updated_ms);
        let is_taken_late = self
            .ending
            .as_ref()
            .is_some_and(|ending| is_late(commit) && now_ms <= ending.time_ms + LATE_MS);
        if !is_taken_late {
            self.check_open(commit.appends.first().map(|append| &*append.stream))?;
        }
        for append in &commit.appends {
            self.check_stream(&append.stream, StreamKind::Output)?;
        }
        self.check_awaited_streams(commit)?;
        let consumes = !commit.acks.is_empty() || awaited(commit).any(|input| input.ack);
        self.check_lease(commit.lease_epoch, consumes || commit.then != Then::GoOn)?;
        let current = self.epoch;
        let may_release = self.lease.is_some() || !matches!(commit.then, Then::Release(_));
        demand(may_release, || Refusal::LeaseRequired { current })?;
        self.check_seq(commit.expected_seq)?;
        for append in &commit.appends {
            self.check_index(&append.stream, append.expected_index)?;
        }
        commit.producer.as_ref().map_or(Ok(()), |producer| self.check_order(producer))?;
        commit.acks.iter().try_for_each(|ack| self.check_ack(ack))?;

        // All of it or nothing: on a copy.
        let mut next = self.clone();
        next.frame(context.now_ms);
        let answer = next.take_turn(commit)?;
        self.check_counts(commit)?;
        let records = commit.appends.iter().map(|append| append.records.len()).sum();
        if 0 < records {
            self.check_kept(records, context)?;
        }
        let leaves_a_trace = 0 < answer.count
            || !commit.acks.is_empty()
            || commit.producer.is_some()
            || !commit.request_id.is_empty()
            || self.outbox_next < next.outbox_next;
        if !leaves_a_trace {
            return Ok(Done::Duplicate(Committed { time_ms: self.updated_ms, ..answer }));
        }
        if let Some(producer) = &commit.producer {
            let Committed { run_uid, first_seq, count, time_ms, .. } = answer;
            next.remember(
                producer,
                content,
                Appended {
                    run_uid,
                    first_seq,
                    first_index: Index(0),
                    count,
                    time_ms,
                    deduplicated: false,
                    positions_forgotten: false,
                },
            );
        } else if !commit.request_id.is_empty() {
            next.requests.push((commit.request_id.clone(), Rc::new(content), answer.clone()));
        }
        *self = next;
        Ok(Done::Accepted(answer))
    }

    fn committed_before(
        &self,
        commit: &Commit,
        content: &Content,
    ) -> Result<Option<Committed>, Refusal> {
        if let Some(producer) = &commit.producer {
            let answer = self.applied(producer, content, 0)?;
            return Ok(answer.map(|answer| Committed {
                run_uid: answer.run_uid,
                first_seq: answer.first_seq,
                count: answer.count,
                time_ms: answer.time_ms,
                spans: Vec::new(),
                deduplicated: true,
                positions_forgotten: answer.positions_forgotten,
            }));
        }
        let known = self.remembered_requests().iter().find(|(id, ..)| *id == commit.request_id);
        let Some((_, before, answer)) = known else { return Ok(None) };
        demand(**before == *content, || Refusal::DedupMismatch)?;
        Ok(Some(Committed { deduplicated: true, ..answer.clone() }))
    }

    /// An output stream is never sent to: a wait for its inputs would never end.
    fn check_awaited_streams(&self, commit: &Commit) -> Result<(), Refusal> {
        for input in awaited(commit) {
            let is_opened = commit.appends.iter().any(|append| *append.stream == *input.stream);
            let known = self.stream(&input.stream);
            let is_input = known.is_none_or(|known| known.kind == StreamKind::Input);
            demand(is_input && !is_opened, || invalid("waits.input.stream"))?;
        }
        Ok(())
    }

    fn check_ack(&self, ack: &Ack) -> Result<(), Refusal> {
        let stream = self.stream(&ack.stream).filter(|known| known.kind == StreamKind::Input);
        let tail = stream.map_or(0, |stream| stream.tail);
        let last = ack.ranges.iter().map(|(_, to)| to.0 - 1).max().expect("a range");
        let (stream, index) = (ack.stream.clone(), Index(last));
        demand(last < tail, || Refusal::BadAck { stream, index })
    }

    fn check_counts(&self, commit: &Commit) -> Result<(), Refusal> {
        let mut streams = self.streams.clone();
        for ack in &commit.acks {
            let stream = streams.iter_mut().find(|stream| stream.name == ack.stream);
            let stream = stream.expect("checked");
            ack_all(stream, ack);
            if CONSUMERS_MAX < stream.acked.len() {
                return limit("consumers of a stream", CONSUMERS_MAX);
            }
            let (_, acked) = stream
                .acked
                .iter()
                .find(|(name, _)| **name == *consumer_or_default(&ack.consumer))
                .expect("acked");
            if ACKED_RANGES_MAX < stream.ranges_above_floor(acked) {
                return limit("acked ranges above the floor", ACKED_RANGES_MAX);
            }
        }
        let new: BTreeSet<&str> = commit
            .waits
            .iter()
            .map(|wait| &*wait.wait_id)
            .filter(|id| self.waits.iter().all(|wait| wait.id() != *id))
            .collect();
        if WAITS_MAX < self.pending().count() + new.len() {
            return limit("waits per run", WAITS_MAX);
        }
        let new = commit.tags.iter().filter(|tag| !self.tags.contains(tag)).count();
        if TAGS_PER_RUN_MAX < self.tags.len() + new {
            return limit("tags per run", TAGS_PER_RUN_MAX);
        }
        Ok(())
    }

    fn take_turn(&mut self, commit: &Commit) -> Result<Committed, Refusal> {
        let (first_seq, time_ms) = (self.tail(), self.updated_ms);
        for StreamAppend { stream, records, .. } in &commit.appends {
            let stream = self.opened(stream, StreamKind::Output);
            records.iter().for_each(|record| _ = self.write(stream, Kind::Chunk, record));
        }
        self.begin_work(commit.lease_epoch);
        for ack in &commit.acks {
            let stream = self.opened(&ack.stream, StreamKind::Input);
            ack_all(&mut self.streams[stream], ack);
        }
        let parent = self.spec.parent_run_id.clone();
        let root = Some(self.spec.root_run_id.clone()).filter(|root| !root.is_empty());
        let root = root.unwrap_or(parent.clone());
        self.operate("", &commit.metadata)?;
        self.operate(&parent, &commit.parent_metadata)?;
        self.operate(&root, &commit.root_metadata)?;
        self.label(commit);
        self.change_waits(commit);
        match &commit.then {
            Then::GoOn => self.resume(),
            Then::Release(release) => self.release(release),
            Then::Close(close) => self.end(closed_of(close)),
        }
        let mut spans: Vec<(StreamNo, Index, u32)> = Vec::new();
        for record in &self.log[first_seq.0 as usize..] {
            match spans.iter_mut().find(|(stream, ..)| stream.0 == record.stream) {
                Some((.., count)) => *count += 1,
                None => spans.push((StreamNo(record.stream), Index(record.index), 1)),
            }
        }
        Ok(Committed {
            run_uid: self.run_uid,
            first_seq,
            count: (self.log.len() as u64 - first_seq.0) as u32,
            time_ms,
            spans,
            deduplicated: false,
            positions_forgotten: false,
        })
    }

    /// Operations on the run's own document, or words about them to another run.
    fn operate(&mut self, target: &str, operations: &[Operation]) -> Result<(), Refusal> {
        if operations.is_empty() {
            return Ok(());
        }
        if !target.is_empty() {
            let operations = operations.iter().map(to_proto).collect();
            self.tell(target, outbox_entry::Message::Metadata(MetadataOperations { operations }));
            return Ok(());
        }
        let mut document = self.metadata.clone();
        document.apply(operations);
        let (size, limit) = (document.len() as u64, METADATA_BYTES_MAX as u64);
        demand(size <= limit, || Refusal::MetadataTooLarge { size, limit })?;
        self.change_metadata(operations, "");
        Ok(())
    }

    fn label(&mut self, commit: &Commit) {
        let new: Vec<Arc<str>> =
            commit.tags.iter().filter(|tag| !self.tags.contains(tag)).cloned().collect();
        if !new.is_empty() {
            let tags = new.iter().map(|tag| tag.as_ref().into()).collect();
            self.event(event::Event::TagsAdded(TagsAdded { tags }));
            self.tags.extend(new);
        }
        let Some(update) = &commit.update else { return };
        self.event(event::Event::RunUpdated(update.clone()));
        let usage = &mut self.usage;
        let RunUpdated { usage_duration_ms, cost_in_cents, base_cost_in_cents, version } = update;
        usage.usage_duration_ms = usage_duration_ms.or(usage.usage_duration_ms);
        usage.cost_in_cents = cost_in_cents.or(usage.cost_in_cents);
        usage.base_cost_in_cents = base_cost_in_cents.or(usage.base_cost_in_cents);
        if let Some(version) = version {
            usage.version = Some(version.clone());
            if self.status() == RunStatus::PendingVersion {
                let is_delayed = self.updated_ms < self.spec.delay_until_ms;
                self.turn(if is_delayed { RunStatus::Delayed } else { RunStatus::Queued });
            }
        }
    }

    fn change_waits(&mut self, commit: &Commit) {
        for id in &commit.cancel_waits {
            if self.pending().any(|wait| *wait.id() == **id) {
                self.settle(id, WaitResult::Canceled, WaitSettled::default());
            }
        }
        for created in &commit.waits {
            let id = &*created.wait_id;
            if self.waits.iter().any(|wait| wait.id() == id) {
                continue;
            }
            self.event(event::Event::WaitCreated(created.clone()));
            let created_ms = self.updated_ms;
            let created = created.clone();
            let target = created.target.clone();
            self.waits.push(Wait { created, created_ms, settled: None, settled_ms: 0 });
            match target {
                Some(wait_created::Target::Token(token)) => {
                    self.tell(&token.token_id, outbox_entry::Message::Waits(id.into()));
                }
                Some(wait_created::Target::Time(time)) if time.until_ms <= created_ms => {
                    self.settle(id, WaitResult::Completed, WaitSettled::default());
                }
                _ => self.settle_by_inputs(|wait| wait.id() == id),
            }
        }
    }

    fn release(&mut self, release: &Release) {
        if let Some(cancel) = self.cancel.clone() {
            self.end(by_the_store(Outcome::Canceled, "canceled", &cancel.reason));
            return;
        }
        let (next, delay_until_ms) = match release.next {
            ReleaseTo::Delay(until_ms) if self.updated_ms < until_ms => {
                (RunStatus::Delayed, until_ms)
            }
            ReleaseTo::Suspend if self.pending().next().is_some() => (RunStatus::Waiting, 0),
            _ => (RunStatus::Queued, 0),
        };
        let suspends = release.next == ReleaseTo::Suspend;
        self.event(event::Event::RunReleased(RunReleased {
            epoch: self.epoch,
            next: next.into(),
            delay_until_ms,
            error: release.error.clone(),
            suspends,
        }));
        (self.lease, self.resumes, self.delay_until_ms) = (None, suspends, delay_until_ms);
        self.stand(next);
    }
}

fn content_of(commit: &Commit) -> Content {
    let mut content = Commit {
        run_uid: None,
        lease_epoch: None,
        producer: None,
        request_id: "".into(),
        expected_seq: None,
        ..commit.clone()
    };
    content.appends.iter_mut().for_each(|append| append.expected_index = None);
    if let Then::Close(close) = &mut content.then {
        (close.run_uid, close.lease_epoch, close.expected_seq) = (None, None, None);
    }
    Content::Commit(Box::new(content))
}

/// The inputs that a commit's waits are for.
fn awaited(commit: &Commit) -> impl Iterator<Item = &InputWait> {
    commit.waits.iter().filter_map(|wait| match &wait.target {
        Some(wait_created::Target::Input(input)) => Some(input),
        _ => None,
    })
}

/// Row 1, as far as commands are made that it refuses.
fn check_commit(commit: &Commit) -> Result<(), Refusal> {
    let names_twice = |n: usize| {
        commit.appends[..n].iter().any(|before| before.stream == commit.appends[n].stream)
    };
    demand(!(0..commit.appends.len()).any(names_twice), || invalid("appends.stream"))?;
    let is_twofold = commit.producer.is_some() && !commit.request_id.is_empty();
    demand(!is_twofold, || invalid("request_id"))?;
    let is_empty = |(from, to): &(Index, Index)| to <= from;
    let holds_empty = |ack: &Ack| ack.ranges.iter().any(is_empty);
    demand(!commit.acks.iter().any(holds_empty), || invalid("acks.ranges"))?;
    let closes_as = if let Then::Close(close) = &commit.then { Some(close.outcome) } else { None };
    demand(closes_as != Some(Outcome::Unspecified), || invalid("outcome"))
}

/// Whether a closed run takes it, for a while.
fn is_late(commit: &Commit) -> bool {
    let Commit { appends, acks, waits, cancel_waits, then, .. } = commit;
    let is_quiet = appends.is_empty() && acks.is_empty() && waits.is_empty();
    is_quiet && cancel_waits.is_empty() && *then == Then::GoOn
}

fn ack_all(stream: &mut Stream, ack: &Ack) {
    for (from, to) in &ack.ranges {
        stream.ack(consumer_or_default(&ack.consumer), from.0, to.0);
    }
}
