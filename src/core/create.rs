//! Creating a run: its names, its labels, its first frame.

use std::sync::Arc;

use prost::Message;

use super::{Facts, Refusal, Retention, RunState, life::lifecycle_frame};
use crate::{
    format::frame::{Chain, FLAG_FIRST, FRAME_HEADER_BYTES, Frame, FramePlace},
    proto::{RunCreated, RunSpec, event, storage::v1::Effects},
    record::{
        ATTRIBUTES_BYTES_MAX, BATCH_BYTES_MAX, ID_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, Index,
        METADATA_BYTES_MAX, PAYLOAD_BYTES_MAX, RUN_ID_BYTES_MAX, RunNo, RunUid, Seq, TAG_BYTES_MAX,
        TAGS_PER_RUN_MAX, check_name, check_run_name, check_text,
    },
};

/// Asks for a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Create {
    /// Tenant.
    pub namespace: Arc<str>,
    /// Name: 1 to 512 bytes without control characters, not starting with `$`.
    pub run_id: Arc<str>,
    /// Task, up to 512 bytes, or empty.
    pub task: Arc<str>,
    /// Labels: at most 10, each 1 to 128 bytes, none twice.
    pub tags: Vec<Arc<str>>,
    /// Batch the run belongs to, up to 128 bytes, or empty.
    pub batch: Arc<str>,
    /// What is kept of the run; none is what its namespace says.
    pub retention: Option<Retention>,
    /// What else is said of it.
    pub spec: RunSpec,
}

/// What the store gives a run that is created.
#[derive(Debug, Clone, Copy)]
pub struct NewRun {
    /// Its number.
    pub run_no: RunNo,
    /// Its identity.
    pub run_uid: RunUid,
}

impl Create {
    /// Row 1: names, labels and retention.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        check_name(&self.namespace, RUN_ID_BYTES_MAX)
            .map_err(|error| Refusal::name("namespace", error))?;
        check_run_name(&self.run_id, RUN_ID_BYTES_MAX)
            .map_err(|error| Refusal::name("run_id", error))?;
        check_text(&self.task, RUN_ID_BYTES_MAX).map_err(|error| Refusal::name("task", error))?;
        check_tags(&self.tags)?;
        check_text(&self.batch, BATCH_BYTES_MAX)
            .map_err(|error| Refusal::name("batch_id", error))?;
        check_spec(&self.spec)?;
        self.retention.as_ref().map_or(Ok(()), Retention::check)
    }

    /// Row 1 of what callers create: names that begin with `$` are the store's own.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn check_not_reserved(&self) -> Result<(), Refusal> {
        check_name(&self.run_id, RUN_ID_BYTES_MAX)
            .map_err(|error| Refusal::name("run_id", error))?;
        match self.task.starts_with('$') {
            true => Err(Refusal::invalid("task", "starts with `$`, which is reserved")),
            false => Ok(()),
        }
    }

    /// Bytes of the frame that this becomes, at most.
    pub fn frame_bytes_max(&self) -> usize {
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 4).sum();
        let names = self.namespace.len() + self.run_id.len() + self.task.len() + self.batch.len();
        FRAME_HEADER_BYTES + names + tags + self.spec.encoded_len() + 256
    }

    /// Whether creating a run that exists is only a repetition. A run that is deleted has given
    /// its name up: creating that is creating another run.
    ///
    /// # Errors
    /// [`Refusal::RunExists`] if the parameters differ.
    pub fn check_same(&self, existing: &RunState) -> Result<(), Refusal> {
        let is_same = existing.task == self.task
            && existing.tags == self.tags
            && existing.batch == self.batch
            && existing.retention == self.retention
            && existing.spec == self.spec;
        if is_same { Ok(()) } else { Err(Refusal::RunExists) }
    }
}

/// Checks what else is said of a run.
fn check_spec(spec: &RunSpec) -> Result<(), Refusal> {
    Refusal::check_size("payload (bytes)", spec.payload.len(), PAYLOAD_BYTES_MAX)?;
    let attribute = |(name, value): (&String, &bytes::Bytes)| name.len() + value.len();
    let attributes = spec.attributes.iter().map(attribute).sum();
    Refusal::check_size("attributes (bytes)", attributes, ATTRIBUTES_BYTES_MAX)?;
    for (field, text, limit) in [
        ("payload_type", &spec.payload_type, RUN_ID_BYTES_MAX),
        ("parent_run_id", &spec.parent_run_id, RUN_ID_BYTES_MAX),
        ("root_run_id", &spec.root_run_id, RUN_ID_BYTES_MAX),
        ("idempotency_key", &spec.idempotency_key, IDEMPOTENCY_KEY_BYTES_MAX),
        ("version", &spec.version, ID_BYTES_MAX),
    ] {
        check_text(text, limit).map_err(|error| Refusal::name(field, error))?;
    }
    Refusal::check_size("metadata (bytes)", spec.metadata.len(), METADATA_BYTES_MAX)?;
    match super::metadata::check_document(&spec.metadata) {
        Ok(_) => Ok(()),
        Err(problem) => Err(Refusal::invalid("metadata", problem.to_string())),
    }
}

/// Checks tags: a few, none empty, none twice.
///
/// # Errors
/// [`Refusal::Invalid`], [`Refusal::TooLarge`].
pub(super) fn check_tags(tags: &[Arc<str>]) -> Result<(), Refusal> {
    Refusal::check_size("run (tags)", tags.len(), TAGS_PER_RUN_MAX)?;
    for (n, tag) in tags.iter().enumerate() {
        check_text(tag, TAG_BYTES_MAX).map_err(|error| Refusal::name("tags", error))?;
        if tag.is_empty() {
            return Err(Refusal::invalid("tags", "holds an empty tag"));
        }
        if tags[..n].contains(tag) {
            return Err(Refusal::invalid("tags", format!("holds {tag:?} twice")));
        }
    }
    Ok(())
}

impl RunState {
    /// Creates a run: its state and its first frame.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::TooLarge`].
    pub fn create(
        create: &Create,
        new: NewRun,
        now_ms: u64,
    ) -> Result<(Self, Frame, Facts), Refusal> {
        create.check()?;
        let event = event::Event::RunCreated(RunCreated {
            namespace: create.namespace.as_ref().into(),
            run_id: create.run_id.as_ref().into(),
            run_uid: new.run_uid.0.to_vec().into(),
            task: create.task.as_ref().into(),
            tags: create.tags.iter().map(|tag| tag.as_ref().into()).collect(),
            batch_id: create.batch.as_ref().into(),
            retention: create.retention.map(Into::into),
            spec: (create.spec != RunSpec::default()).then(|| create.spec.clone()),
        });
        let place = FramePlace {
            run_no: new.run_no,
            first_seq: Seq::ZERO,
            time_ms: now_ms,
            flags: FLAG_FIRST,
            chain: Chain::start(new.run_uid),
        };
        let frame = lifecycle_frame(&place, Index::ZERO, event, &Effects::default());
        debug_assert!(frame.bytes().len() <= create.frame_bytes_max(), "the bound holds");
        let (state, facts) = Self::begin(&frame).expect("a frame just built replays");
        Ok((state, frame, facts))
    }
}
