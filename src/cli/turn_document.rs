//! What a turn does, as it is written in a file: the JSON document of `braidlog commit`.
//!
//! It says all that a commit can do but for what it demands: its lease, its id, the seq it expects.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{body, failure::Failure, meta::Change, run::Ending};
use crate::{
    core::{Ack, Close, Commit, NewRecord, Operation, Release, ReleaseTo, StreamAppend, Then},
    proto::{
        Header, InputWait, RunError, RunUpdated, TimeWait, TokenWait, WaitCreated, wait_created,
    },
    record::Index,
};

/// What the help of the command says of the document.
pub(super) const FIELDS: &str = "\
A document is a JSON object; all fields may be left out, and those in brackets:
  appends       [{stream, data or data_base64, [id], [headers: {name: text}]}]
  acks          [{stream, from, [to], [consumer]}]
  metadata, parent_metadata, root_metadata   [{action, [key], [value]}]
  tags, cancel_waits   [text]
  usage         {[usage_duration_ms], [cost_in_cents], [base_cost_in_cents], [version]}
  waits         [{wait_id, [deadline_ms], input: {stream, [consumer], [after], [ack]},
                 or token: id, or until_ms}]
  release       {[to: queue or suspend], [delay_until_ms], [error]}
  close         {outcome, [output], [output_type], [error]}
An error is {message, [type], [name], [stack_trace]}; times are in milliseconds
since the Unix epoch.";

/// The commit that a file says, or standard input for `-`.
pub(super) async fn read(path: &Path) -> Result<Commit, Failure> {
    let document = serde_json::from_slice::<Document>(&body::read(path).await?);
    document.map_err(|error| unreadable(&error.to_string()))?.commit()
}

/// What is done, as it is written in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    appends: Vec<AppendField>,
    acks: Vec<AckField>,
    metadata: Vec<Change>,
    parent_metadata: Vec<Change>,
    root_metadata: Vec<Change>,
    tags: Vec<String>,
    cancel_waits: Vec<String>,
    usage: Option<UsageField>,
    waits: Vec<WaitField>,
    release: Option<ReleaseField>,
    close: Option<CloseField>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendField {
    stream: String,
    data: Option<String>,
    data_base64: Option<String>,
    #[serde(default)]
    id: String,
    #[serde(default)]
    headers: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AckField {
    stream: String,
    from: u64,
    to: Option<u64>,
    #[serde(default)]
    consumer: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageField {
    usage_duration_ms: Option<u64>,
    cost_in_cents: Option<f64>,
    base_cost_in_cents: Option<f64>,
    version: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitField {
    wait_id: String,
    #[serde(default)]
    deadline_ms: u64,
    input: Option<InputField>,
    token: Option<String>,
    until_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputField {
    stream: String,
    #[serde(default)]
    consumer: String,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    ack: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseField {
    to: Option<ReleaseWord>,
    delay_until_ms: Option<u64>,
    error: Option<ErrorField>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReleaseWord {
    Queue,
    Suspend,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseField {
    outcome: Ending,
    #[serde(default)]
    output: String,
    #[serde(default)]
    output_type: String,
    error: Option<ErrorField>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorField {
    message: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    stack_trace: String,
}

impl AppendField {
    fn record(self) -> Result<(String, NewRecord), Failure> {
        let data = match (self.data, self.data_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => {
                let bytes = STANDARD.decode(&base64);
                Bytes::from(bytes.map_err(|error| unreadable(&format!("data_base64: {error}")))?)
            }
            _ => return Err(unreadable("a record has either data or data_base64")),
        };
        let header = |(name, value): (String, Value)| match value {
            Value::String(text) => Ok(Header { name, value: text.into() }),
            _ => Err(unreadable("a header is a text")),
        };
        let headers = self.headers.into_iter().map(header).collect::<Result<_, _>>()?;
        let record = NewRecord { data, headers, id: self.id, ..NewRecord::default() };
        Ok((self.stream, record))
    }
}

impl WaitField {
    fn wait(self) -> Result<WaitCreated, Failure> {
        let target = match (self.input, self.token, self.until_ms) {
            (Some(InputField { stream, consumer, after, ack }), None, None) => {
                wait_created::Target::Input(InputWait { stream, consumer, after, ack })
            }
            (None, Some(token_id), None) => wait_created::Target::Token(TokenWait { token_id }),
            (None, None, Some(until_ms)) => wait_created::Target::Time(TimeWait { until_ms }),
            _ => return Err(unreadable("a wait is for one of input, token and until_ms")),
        };
        let (wait_id, deadline_ms) = (self.wait_id, self.deadline_ms);
        Ok(WaitCreated { wait_id, target: Some(target), deadline_ms })
    }
}

impl ReleaseField {
    fn release(self) -> Result<Release, Failure> {
        let next = match (self.to, self.delay_until_ms) {
            (Some(ReleaseWord::Suspend), Some(_)) => {
                return Err(unreadable("a suspended run is not delayed"));
            }
            (Some(ReleaseWord::Suspend), None) => ReleaseTo::Suspend,
            (_, Some(until_ms)) => ReleaseTo::Delay(until_ms),
            (_, None) => ReleaseTo::Queue,
        };
        Ok(Release { next, error: self.error.map(ErrorField::error) })
    }
}

impl CloseField {
    fn close(self) -> Close {
        Close {
            outcome: self.outcome.into(),
            output: self.output.into(),
            output_type: self.output_type,
            error: self.error.map(ErrorField::error),
            ..Close::default()
        }
    }
}

impl ErrorField {
    fn error(self) -> RunError {
        let Self { message, r#type, name, stack_trace } = self;
        RunError { r#type, name, message, stack_trace }
    }
}

fn unreadable(problem: &str) -> Failure {
    Failure::usage(format!("the document cannot be used: {problem}"))
}

impl Document {
    /// The commit that is written there.
    fn commit(self) -> Result<Commit, Failure> {
        let mut commit = Commit {
            metadata: operations(self.metadata),
            parent_metadata: operations(self.parent_metadata),
            root_metadata: operations(self.root_metadata),
            tags: self.tags.into_iter().map(Into::into).collect(),
            cancel_waits: self.cancel_waits.into_iter().map(Into::into).collect(),
            update: self.usage.map(|usage| RunUpdated {
                usage_duration_ms: usage.usage_duration_ms,
                cost_in_cents: usage.cost_in_cents,
                base_cost_in_cents: usage.base_cost_in_cents,
                version: usage.version,
            }),
            waits: self.waits.into_iter().map(WaitField::wait).collect::<Result<_, _>>()?,
            ..Commit::default()
        };
        for field in self.appends {
            let (stream, record) = field.record()?;
            append(&mut commit, &stream, record);
        }
        for AckField { stream, from, to, consumer } in self.acks {
            let to = to.unwrap_or(from.saturating_add(1));
            ack(&mut commit, &stream, &consumer, (Index(from), Index(to)));
        }
        commit.then = match (self.release, self.close) {
            (Some(_), Some(_)) => return Err(unreadable("it releases and closes the run")),
            (Some(release), None) => Then::Release(release.release()?),
            (None, Some(close)) => Then::Close(close.close()),
            (None, None) => Then::GoOn,
        };
        Ok(commit)
    }
}

fn operations(changes: Vec<Change>) -> Vec<Operation> {
    changes.into_iter().map(Change::operation).collect()
}

/// Adds a record to those of its stream.
pub(super) fn append(commit: &mut Commit, stream: &str, record: NewRecord) {
    match commit.appends.iter_mut().find(|append| *append.stream == *stream) {
        Some(append) => append.records.push(record),
        None => commit.appends.push(StreamAppend {
            stream: stream.into(),
            records: vec![record],
            expected_index: None,
        }),
    }
}

/// Adds acks to those of the stream and consumer.
pub(super) fn ack(commit: &mut Commit, stream: &str, consumer: &str, range: (Index, Index)) {
    let acks = &mut commit.acks;
    let is_that = |ack: &&mut Ack| *ack.stream == *stream && *ack.consumer == *consumer;
    match acks.iter_mut().find(is_that) {
        Some(ack) => ack.ranges.push(range),
        None => {
            acks.push(Ack { stream: stream.into(), consumer: consumer.into(), ranges: vec![range] })
        }
    }
}
