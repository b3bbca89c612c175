//! As much of a client of Redis as the workloads need: commands in RESP2 over one connection, sent
//! together and answered in order.
//!
//! It exists so that a peer can be measured with the same loops. It is written to cost as little
//! as possible: what is slow must be the other side.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::cli::failure::{Exit, Failure};

/// A value that Redis answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Vec<u8>),
    Number(i64),
    List(Vec<Value>),
    Null,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    input: BytesMut,
}

/// Where it is: `redis://HOST:PORT`, with `/` at the end or not.
pub(super) fn address(url: &str) -> Result<String, Failure> {
    let place = url.strip_prefix("redis://").map(|place| place.trim_end_matches('/'));
    match place {
        Some(place) if place.contains(':') && !place.contains(['/', '@']) => Ok(place.into()),
        _ => Err(Failure::usage(format!("--compare {url}: expected redis://HOST:PORT"))),
    }
}

fn failed(error: &io::Error) -> Failure {
    Failure { exit: Exit::Unavailable, reason: "REDIS", message: format!("Redis: {error}") }
}

fn unexpected(what: &str) -> Failure {
    failed(&io::Error::other(format!("an answer that was not expected: {what}")))
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: &str) -> Result<Self, Failure> {
        let opened = async {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let socket = opened.await.map_err(|error: io::Error| failed(&error))?;
        Ok(Self { socket, out: Vec::new(), input: BytesMut::with_capacity(64 << 10) })
    }

    /// Puts a command behind those that are to be sent.
    pub(super) fn put(&mut self, words: &[&[u8]]) {
        self.put_number(b'*', words.len());
        for word in words {
            self.put_number(b'$', word.len());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn put_number(&mut self, kind: u8, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.out.push(kind);
        self.out.extend_from_slice(&digits[at..]);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Sends what was put.
    pub(super) async fn send(&mut self) -> Result<(), Failure> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await.map_err(|error| failed(&error))?;
            self.out.clear();
        }
        Ok(())
    }

    /// The next answer.
    pub(super) async fn receive(&mut self) -> Result<Value, Failure> {
        loop {
            let mut rest = &self.input[..];
            if let Some(value) = parse(&mut rest)? {
                let used = self.input.len() - rest.len();
                self.input.advance(used);
                return Ok(value);
            }
            self.fill().await?;
        }
    }

    /// Passes over an answer without keeping any of it; an error is told.
    pub(super) async fn skip(&mut self) -> Result<(), Failure> {
        let mut left = 1;
        while 0 < left {
            left -= 1;
            let (kind, text) = self.line().await?;
            match kind {
                b'+' | b':' => {}
                b'$' => {
                    let len = usize::try_from(number(&text)?).map_or(0, |len| len + 2);
                    while self.input.len() < len {
                        self.fill().await?;
                    }
                    self.input.advance(len);
                }
                b'*' => left += usize::try_from(number(&text)?).unwrap_or(0),
                _ => return Err(unexpected(&String::from_utf8_lossy(&text))),
            }
        }
        Ok(())
    }

    /// The first byte of the next line, and what follows it.
    async fn line(&mut self) -> Result<(u8, BytesMut), Failure> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let mut line = self.input.split_to(end);
                self.input.advance(2);
                return match line.is_empty() {
                    true => Err(unexpected("an empty line")),
                    false => Ok((line.get_u8(), line)),
                };
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        self.input.reserve(64 << 10);
        match self.socket.read_buf(&mut self.input).await {
            Ok(0) => Err(failed(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn call(&mut self, words: &[&[u8]]) -> Result<Value, Failure> {
        self.put(words);
        self.send().await?;
        self.receive().await
    }

    /// Refuses a server that does not sync every write before it answers: it would be compared
    /// with what it does not promise.
    pub(super) async fn check_durable(&mut self) -> Result<(), Failure> {
        for (name, wanted) in [("appendonly", "yes"), ("appendfsync", "always")] {
            let answer = self.call(&[b"CONFIG", b"GET", name.as_bytes()]).await?;
            let Value::List(pair) = answer else { return Err(unexpected("to CONFIG GET")) };
            if pair.get(1) != Some(&Value::Text(wanted.into())) {
                return Err(Failure::usage(format!(
                    "--compare: this Redis does not run with `{name} {wanted}`: start it with \
                     `redis-server --appendonly yes --appendfsync always`"
                )));
            }
        }
        Ok(())
    }

    /// Number of the server's process.
    pub(super) async fn process(&mut self) -> Result<Option<u32>, Failure> {
        let Value::Text(info) = self.call(&[b"INFO", b"server"]).await? else { return Ok(None) };
        let info = String::from_utf8_lossy(&info).into_owned();
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        Ok(line.and_then(|pid| pid.trim().parse().ok()))
    }
}

fn number(text: &[u8]) -> Result<i64, Failure> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| unexpected("no number"))
}

/// A whole value from the start of `input`, which is moved behind it; none if it does not end.
fn parse(input: &mut &[u8]) -> Result<Option<Value>, Failure> {
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, mut rest) = (&input[..end], &input[end + 2..]);
    let Some((kind, text)) = line.split_first() else { return Err(unexpected("an empty line")) };
    let value = match kind {
        b'+' => Value::Text(text.into()),
        b'-' => return Err(unexpected(&String::from_utf8_lossy(text))),
        b':' => Value::Number(number(text)?),
        b'$' => match usize::try_from(number(text)?) {
            Err(_) => Value::Null,
            Ok(len) if rest.len() < len + 2 => return Ok(None),
            Ok(len) => {
                let text = rest[..len].to_vec();
                rest = &rest[len + 2..];
                Value::Text(text)
            }
        },
        b'*' => match usize::try_from(number(text)?) {
            Err(_) => Value::Null,
            Ok(len) => {
                let mut values = Vec::new();
                for _ in 0..len {
                    let Some(value) = parse(&mut rest)? else { return Ok(None) };
                    values.push(value);
                }
                Value::List(values)
            }
        },
        _ => return Err(unexpected(&String::from_utf8_lossy(line))),
    };
    *input = rest;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_whole_or_not_yet() {
        let bytes = b"*3\r\n$3\r\n1-0\r\n:7\r\n*-1\r\n+OK\r\n";
        let mut rest = &bytes[..];
        let list = Value::List(vec![Value::Text(b"1-0".into()), Value::Number(7), Value::Null]);
        assert_eq!(parse(&mut rest), Ok(Some(list)));
        assert_eq!(parse(&mut rest), Ok(Some(Value::Text(b"OK".into()))));
        for cut in 0..22 {
            let mut rest = &bytes[..cut];
            assert_eq!((parse(&mut rest), rest.len()), (Ok(None), cut), "{cut}");
        }
        assert!(parse(&mut &b"-ERR no\r\n"[..]).is_err());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(address("redis://h:1/").as_deref(), Ok("h:1"));
        for url in ["h:1", "redis://h", "redis://u@h:1", "http://h:1"] {
            assert!(address(url).is_err(), "{url}");
        }
    }
}
