//! Bytes that a command sends: given on the command line, or as a file.

use std::path::Path;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::failure::Failure;

/// The bytes of a text, or of a file, or of standard input for `-`; no bytes if neither is given.
pub(super) async fn body(text: Option<&str>, file: Option<&Path>) -> Result<Bytes, Failure> {
    match (text, file) {
        (Some(text), _) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        (None, Some(path)) => read(path).await.map(Bytes::from),
        (None, None) => Ok(Bytes::new()),
    }
}

/// The whole of a file, or of standard input for `-`.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.as_os_str() != "-" {
        let bytes = tokio::fs::read(path).await;
        return bytes.map_err(|error| Failure::io(&path.display().to_string(), &error));
    }
    let mut bytes = Vec::new();
    let read = tokio::io::stdin().read_to_end(&mut bytes).await;
    read.map_err(|error| Failure::io("standard input", &error))?;
    Ok(bytes)
}
