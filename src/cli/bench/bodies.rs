//! What records hold: chunks of text as a model streams them, made once and shared.

use bytes::Bytes;

/// Bodies that differ.
const BODIES: usize = 1_024;

/// Bodies of one size, handed out in turn.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    all: std::sync::Arc<[Bytes]>,
    next: usize,
}

impl Bodies {
    pub(super) fn new(bytes: usize) -> Self {
        let mut random = 0x9e37_79b9_7f4a_7c15;
        Self { all: (0..BODIES).map(|n| body(n, bytes, &mut random)).collect(), next: 0 }
    }

    /// One body, always the same.
    pub(super) fn of(body: Bytes) -> Self {
        Self { all: [body].into(), next: 0 }
    }

    pub(super) fn next(&mut self) -> Bytes {
        self.next = (self.next + 1) % self.all.len();
        self.all[self.next].clone()
    }
}

fn body(n: usize, bytes: usize, random: &mut u64) -> Bytes {
    const WORDS: [&str; 16] = [
        "the", "answer", "to", "your", "question", "is", "that", "we", "first", "look", "at",
        "every", "file", "and", "then", "decide",
    ];
    let mut text = format!("{{\"type\":\"text-delta\",\"n\":{n},\"delta\":\"");
    while text.len() < bytes {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        text.push_str(WORDS[(*random % 16) as usize]);
        text.push(' ');
    }
    text.truncate(bytes);
    text.into_bytes().into()
}
