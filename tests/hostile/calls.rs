//! Every method, called in any order with any message.

use std::{fs, path::Path, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::{
    messages::message,
    server::{Disturbed, Random, number, seed},
};

/// Calls, unless said otherwise, and how many are made at a time.
const CALLS: u64 = 8_000;
const CALLERS: u64 = 16;
/// Calls of one caller between two looks at who is disturbed.
const BETWEEN: u64 = 50;
/// When a caller that waits for something loses its patience, and hangs up.
const PATIENCE: Duration = Duration::from_millis(30);

/// A method, as the protocol's files tell it.
#[derive(Debug, Clone)]
struct Method {
    path: String,
    takes_stream: bool,
    gives_stream: bool,
}

fn methods() -> Vec<Method> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/braidlog/v1");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("folder") {
        let text = fs::read_to_string(entry.expect("entry").path()).expect("text");
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("service ") {
                service = name.trim_end_matches(['{', ' ']);
            }
            let Some(rpc) = line.strip_prefix("rpc ") else { continue };
            let (name, rest) = rpc.split_once('(').expect("arguments");
            let (takes, gives) = rest.split_once(" returns ").expect("an answer");
            found.push(Method {
                path: format!("/braidlog.v1.{service}/{name}"),
                takes_stream: takes.starts_with("stream "),
                gives_stream: gives.starts_with("(stream "),
            });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(30 < found.len(), "the files have methods");
    found
}

/// Bytes as they are.
struct AsTheyAre;

impl Codec for AsTheyAre {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}

impl Decoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

/// Calls a method, and takes a few of its answers.
async fn call(channel: &Channel, method: &Method, random: &mut Random) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("the connection lives");
    let path = method.path.parse().expect("a path");
    let most = if method.takes_stream { 1 + random.below(4) } else { 1 };
    let messages: Vec<Bytes> = (0..most).map(|_| message(random)).collect();
    let messages = tokio_stream::iter(messages);
    let answers = grpc.streaming(Request::new(messages), path, AsTheyAre).await?;
    let mut answers = answers.into_inner();
    let limit = if method.gives_stream { 1 + random.below(4) } else { u64::MAX };
    for _ in 0..limit {
        match answers.next().await {
            Some(answer) => drop(answer?),
            None => break,
        }
    }
    Ok(())
}

/// What came of a caller's calls.
#[derive(Debug, Default)]
struct Came {
    answered: u64,
    refused: u64,
    hung_up: u64,
}

async fn caller(channel: Channel, mut random: Random, calls: u64) -> Came {
    let (methods, mut came) = (methods(), Came::default());
    for _ in 0..calls {
        let method = &methods[random.below(methods.len() as u64) as usize];
        let called = call(&channel, method, &mut random);
        match tokio::time::timeout(PATIENCE, called).await {
            Err(_) => came.hung_up += 1,
            Ok(Ok(())) => came.answered += 1,
            Ok(Err(status)) => {
                let has_reason = status.get_details_error_info().is_some();
                let is_internal = matches!(status.code(), Code::Internal | Code::Unknown);
                assert!(has_reason && !is_internal, "{method:?}: {status:?}");
                came.refused += 1;
            }
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arbitrary_messages_to_every_method_are_answered_or_refused_with_a_reason() {
    let seed = seed("arbitrary_messages");
    let calls = number("BRAIDLOG_CALLS").unwrap_or(CALLS);
    let mut disturbed = Disturbed::start().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", disturbed.address)).expect("url");
    let channel = endpoint.connect().await.expect("connects");
    let mut came = Came::default();
    for round in 0..calls.div_ceil(BETWEEN * CALLERS) {
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let random = Random(seed ^ ((round * CALLERS + n) << 32));
                tokio::spawn(caller(channel.clone(), random, BETWEEN))
            })
            .collect();
        for caller in callers {
            let one = caller.await.expect("no panic");
            came.answered += one.answered;
            came.refused += one.refused;
            came.hung_up += one.hung_up;
        }
        disturbed.check().await;
    }
    drop(channel);
    disturbed.end().await;
    assert!(0 < came.answered && 0 < came.refused, "{came:?}");
    println!("level hostile: calls: {came:?}, panics: 0, seed: {seed}");
}
