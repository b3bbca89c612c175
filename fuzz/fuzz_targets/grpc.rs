//! The gRPC services: every method, in any order, with messages of arbitrary bytes, over HTTP/2 in
//! memory, of a store on a simulated disk.
//!
//! No call panics; what is refused is refused with a reason, and never as an error of the server's
//! own; afterwards the store takes an append and gives it back; and whatever state the calls left
//! is recovered when the power goes.
//!
//! Input: calls, each a method (one byte), how many messages it is sent, how many answers are
//! awaited, and whether the journal is copied into a pack behind it (one byte), and then each
//! message: its length (one byte, times four) and its bytes.

#![no_main]

use std::{cell::Cell, env, fs, path::Path, rc::Rc, sync::OnceLock};

use braidlog::{
    Append, Error, IfAbsent, NewRecord, Options, Query, RunKey, Store,
    engine::Progress,
    grpc::server::serve_on,
    platform::sim::{self, Fate, Mode, SimClock, SimDisk},
};
use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::DuplexStream,
    task::{LocalSet, spawn_local, yield_now},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// Bytes of a connection that are under way.
const PIPE_BYTES: usize = 64 << 10;
/// Turns of the store for which an answer is awaited: what waits for something hangs up then.
const PATIENCE: u32 = 200;
/// How often the last append is tried again while the journal is full.
const BUSY_MAX: u32 = 100;
/// Calls of one input.
const CALLS_MAX: usize = 32;

/// The methods, as the protocol's files tell them, in the order of their names.
fn methods() -> &'static [String] {
    static METHODS: OnceLock<Vec<String>> = OnceLock::new();
    METHODS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/braidlog/v1");
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("folder") {
            let text = fs::read_to_string(entry.expect("entry").path()).expect("text");
            let mut service = "";
            for line in text.lines().map(str::trim) {
                if let Some(name) = line.strip_prefix("service ") {
                    service = name.trim_end_matches(['{', ' ']);
                }
                let Some((name, _)) = line.strip_prefix("rpc ").and_then(|rpc| rpc.split_once('('))
                else {
                    continue;
                };
                found.push(format!("/braidlog.v1.{service}/{name}"));
            }
        }
        found.sort();
        found
    })
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

struct Call {
    method: usize,
    messages: Vec<Bytes>,
    answers: usize,
    flushes: bool,
}

fn calls(mut input: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    while let Some((&[method, counts], rest)) = input.split_first_chunk()
        && calls.len() < CALLS_MAX
    {
        input = rest;
        let mut messages = Vec::new();
        for _ in 0..=counts % 4 {
            let Some((&len, rest)) = input.split_first() else { break };
            let (message, rest) = rest.split_at((usize::from(len) * 4).min(rest.len()));
            messages.push(Bytes::copy_from_slice(message));
            input = rest;
        }
        let method = usize::from(method) % methods().len();
        let (answers, flushes) = (usize::from(counts / 4 % 4) + 1, counts & 0x80 != 0);
        calls.push(Call { method, messages, answers, flushes });
    }
    calls
}

async fn call(channel: Channel, call: Call) -> Result<(), Status> {
    let Call { method, messages, answers, .. } = call;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.expect("the connection lives");
    let path = methods()[method].parse().expect("a path");
    let messages = Request::new(tokio_stream::iter(messages));
    let mut told = grpc.streaming(messages, path, AsTheyAre).await?.into_inner();
    for _ in 0..answers {
        match told.next().await {
            Some(answer) => drop(answer?),
            None => break,
        }
    }
    Ok(())
}

/// Waits for as many turns of the other tasks as patience has.
async fn patience() {
    for _ in 0..PATIENCE {
        yield_now().await;
    }
}

fn options() -> Options {
    Options {
        slot_bytes_first: 64 << 10,
        slot_bytes: 64 << 10,
        manifest_bytes: 32 << 10,
        ..Options::new("unused: the disk is simulated")
    }
}

async fn connect(socket: DuplexStream) -> Channel {
    let mut socket = Some(socket);
    let dial = tower::service_fn(move |_| {
        let socket = socket.take().map(TokioIo::new);
        async move { socket.ok_or_else(|| std::io::Error::other("there is one connection")) }
    });
    let endpoint = Endpoint::from_static("http://in-memory");
    endpoint.connect_with_connector(dial).await.expect("connects")
}

async fn serve_calls(store: Store, calls: Vec<Call>, flush: &Cell<bool>) {
    let (here, there) = tokio::io::duplex(PIPE_BYTES);
    let shutdown = CancellationToken::new();
    let incoming = tokio_stream::once(Ok(there)).chain(tokio_stream::pending());
    spawn_local(serve_on(incoming, store.clone(), shutdown.clone()));
    let channel = connect(here).await;
    for one in calls {
        let (method, flushes) = (one.method, one.flushes);
        let answered = tokio::select! {
            answered = call(channel.clone(), one) => answered,
            () = patience() => Ok(()),
        };
        if let Err(status) = answered {
            let is_own = matches!(status.code(), Code::Internal | Code::Unknown);
            let has_reason = status.get_details_error_info().is_some();
            assert!(has_reason && !is_own, "{}: {status:?}", methods()[method]);
        }
        flush.set(flush.get() || flushes);
    }
    let probe = RunKey::new("probe-of-the-fuzzer");
    for tries in 0.. {
        let records = vec![NewRecord::new(&b"alive"[..])];
        let append = Append { stream: "out".into(), records, ..Append::default() };
        match store.append(&probe, append, IfAbsent::Create).await {
            Ok(_) => break,
            // The journal is full until it is copied.
            Err(Error::Busy { .. }) if tries < BUSY_MAX => {
                flush.set(true);
                patience().await;
            }
            Err(error) => panic!("the store does not go on: {error}"),
        }
    }
    let read = store.read(Query::stream(probe, "out")).await.expect("and gives it back");
    assert_eq!(read.records.decode().expect("sound").len(), 1);
}

fuzz_target!(|input: &[u8]| {
    let calls = calls(input);
    if calls.is_empty() {
        return;
    }
    let (disk, clock) = (SimDisk::new(), SimClock::new(1));
    let open = || Store::open_stepped(sim::platform(&disk, &clock, 1), options());
    let (store, mut stepper) = open().expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let tasks = LocalSet::new();
    let flush = Rc::new(Cell::new(false));
    let wanted = flush.clone();
    tasks.spawn_local(async move {
        let mut attending = spawn_local(stepper.attend(true));
        loop {
            let progress = stepper.step();
            assert!(progress != Progress::Stopped, "nothing fails on a sound disk");
            if progress == Progress::WaitsForSlot || stepper.is_flushing() || wanted.take() {
                stepper.flush();
            }
            if attending.is_finished() {
                attending = spawn_local(stepper.attend(false));
            }
            yield_now().await;
        }
    });
    runtime.block_on(tasks.run_until(serve_calls(store, calls, &flush)));
    drop((tasks, runtime));
    disk.power_cut(Fate::new(Mode::KeepNone, 0));
    open().expect("whatever state it was in is recovered");
});
