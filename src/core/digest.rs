//! CRC-32 (IEEE) of what was asked, to tell a retry from a reused key.
//!
//! Every field is preceded by its length, so that no two requests read the same.

use prost::Message;

use super::NewRecord;

/// A sum of fields.
#[derive(Default)]
pub(super) struct Digest(crc32fast::Hasher);

impl Digest {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.numbers([number]);
    }

    /// Numbers at once: a sum over few bytes costs as much as one over many.
    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        self.0.update(numbers.map(u64::to_le_bytes).as_flattened());
    }

    pub(super) fn record(&mut self, record: &NewRecord) {
        self.bytes(&record.data);
        self.bytes(record.id.as_bytes());
        self.numbers([8, record.client_time_ms, 8, record.headers.len() as u64]);
        for header in &record.headers {
            self.bytes(header.name.as_bytes());
            self.bytes(&header.value);
        }
    }

    /// A message, as it is encoded.
    pub(super) fn message(&mut self, message: &impl Message) {
        self.bytes(&message.encode_to_vec());
    }

    pub(super) fn crc(self) -> u32 {
        self.0.finalize()
    }
}
