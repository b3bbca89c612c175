//! A file that remembers where a tail got to, so that it goes on there when it is started again.
//!
//! The file is replaced whole and synced before it gets its name: after a kill or a power failure
//! it holds an earlier cursor or this one, never part of one. It is written after the records before
//! the cursor were handed to standard output; a tail that is killed in between prints those again.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tokio::{fs, io::AsyncWriteExt};

use super::failure::Failure;

/// The file and what it holds.
#[derive(Debug)]
pub(super) struct CursorFile {
    path: PathBuf,
    stored: String,
}

impl CursorFile {
    /// Reads the file, which need not exist.
    pub(super) async fn open(path: PathBuf) -> Result<Self, Failure> {
        let stored = match fs::read_to_string(&path).await {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::io(&path.display().to_string(), &error)),
        };
        Ok(Self { path, stored })
    }

    /// The cursor it holds, if any.
    pub(super) fn cursor(&self) -> Option<&str> {
        (!self.stored.is_empty()).then_some(&*self.stored)
    }

    /// Replaces the cursor.
    pub(super) async fn store(&mut self, cursor: String) -> Result<(), Failure> {
        if self.stored == cursor {
            return Ok(());
        }
        let written = replace(&self.path, format!("{cursor}\n").as_bytes()).await;
        written.map_err(|error| Failure::io(&self.path.display().to_string(), &error))?;
        self.stored = cursor;
        Ok(())
    }
}

/// Writes a file beside the other one, makes it last, and gives it its name.
async fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = fs::File::create(&beside).await?;
    file.write_all(content).await?;
    file.sync_all().await?;
    fs::rename(&beside, path).await
}
