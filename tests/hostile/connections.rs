//! Connections that speak HTTP/2 badly, or not at all.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    messages::message,
    server::{Disturbed, Random, number, seed},
};

/// Connections, unless said otherwise, and how many there are at a time.
const CONNECTIONS: u64 = 600;
const AT_ONCE: u64 = 12;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection listens to what it is told, before it goes.
const PATIENCE: Duration = Duration::from_millis(5);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header field as it is, without an index and without compression.
fn header(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    }
}

/// The headers of a call.
fn headers(random: &mut Random) -> Vec<u8> {
    let methods = ["StreamService/Append", "StreamService/Tail", "RunService/GetRun", "x/y"];
    let mut out = Vec::new();
    header(":method", random.pick(&["POST", "GET", ""]), &mut out);
    header(":scheme", "http", &mut out);
    header(":path", &format!("/braidlog.v1.{}", random.pick(&methods)), &mut out);
    header(":authority", "x", &mut out);
    header("content-type", random.pick(&["application/grpc", "text/plain"]), &mut out);
    header("te", "trailers", &mut out);
    header("grpc-timeout", random.pick(&["1S", "9999999999999H", "x", "0n"]), &mut out);
    out
}

/// The body of a call: a message whose length may lie.
fn body(random: &mut Random) -> Vec<u8> {
    let message = message(random);
    let mut len = message.len() as u32;
    if random.below(3) == 0 {
        len = random.pick(&[0, 1, len + 1, 8 << 20, u32::MAX]);
    }
    let mut out = vec![random.pick(&[0, 0, 0, 1, 255])];
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&message);
    out
}

/// All that a connection sends.
fn speech(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    match random.below(12) {
        0 => return random.bytes(400),
        1 => out.extend_from_slice(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        2 => out.extend_from_slice(&PREFACE[..random.below(24) as usize]),
        _ => out.extend_from_slice(PREFACE),
    }
    if random.below(10) != 0 {
        frame(4, 0, 0, &[], &mut out);
    }
    for n in 0..1 + random.below(12) as u32 {
        let stream = match random.below(4) {
            0 => random.next() as u32,
            1 => 0,
            _ => 1 + 2 * (n / 2),
        };
        match random.below(8) {
            0..3 => {
                let headers = headers(random);
                frame(1, random.pick(&[4, 4, 5, 0]), stream, &headers, &mut out);
            }
            3..5 => {
                let body = body(random);
                frame(0, random.pick(&[0, 1, 8]), stream, &body, &mut out);
            }
            // Any kind, those that do not exist included.
            _ => {
                let payload = random.bytes(40);
                let (kind, flags) = (random.below(12) as u8, random.next() as u8);
                frame(kind, flags, stream, &payload, &mut out);
            }
        }
    }
    if random.below(4) == 0 {
        let at = random.below(out.len() as u64) as usize;
        out[at] ^= 1 << random.below(8);
    }
    if random.below(4) == 0 {
        let len = random.below(out.len() as u64) as usize;
        out.truncate(len);
    }
    out
}

async fn speak(address: SocketAddr, mut random: Random) {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let speech = speech(&mut random);
    for part in speech.chunks(1 + random.below(200) as usize) {
        if socket.write_all(part).await.is_err() {
            // The server has hung up.
            return;
        }
    }
    let mut told = [0; 4096];
    let listening = async { while matches!(socket.read(&mut told).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(PATIENCE, listening).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_disturb_nobody_else() {
    let seed = seed("broken_connections");
    let connections = number("BRAIDLOG_CALLS").unwrap_or(CONNECTIONS);
    let mut disturbed = Disturbed::start().await;
    for round in 0..connections.div_ceil(AT_ONCE) {
        let speakers: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let random = Random(seed ^ ((round * AT_ONCE + n) << 32));
                tokio::spawn(speak(disturbed.address, random))
            })
            .collect();
        for speaker in speakers {
            speaker.await.expect("no panic");
        }
        if round % 8 == 0 {
            disturbed.check().await;
        }
    }
    disturbed.end().await;
    println!("level hostile: connections: {connections}, panics: 0, seed: {seed}");
}
