//! What `append` reads: a file or a pipe, in batches.
//!
//! A task reads ahead, so that it is known what has come and what has not: a batch can end there.

use std::{io, path::Path};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc::{self, error::TryRecvError},
};

use super::{
    failure::Failure,
    lines::{Batch, LineCutter, LineTooLong},
};
use crate::core::NewRecord;

/// Pieces of input that may wait to be cut into lines.
const PIECES_WAITING_MAX: usize = 4;
/// Bytes of a piece: what a pipe holds.
const PIECE_BYTES: usize = 64 << 10;

/// When a batch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// When no more has come so far, or it is full: nothing waits that could be sent.
    AsItComes,
    /// When it is full: the same input always gives the same batches.
    WhenFull,
}

/// The batches of an input.
pub(super) struct Batches {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    source: String,
    cutter: LineCutter,
    lines_max: usize,
    cut: Cut,
    ended: bool,
    /// Cut, but did not fit the batch before.
    carried: Option<NewRecord>,
    /// Stopped the input while there was a batch to send.
    failed: Option<Failure>,
}

impl Batches {
    /// Batches of at most so many lines of a file, or of standard input for `-`.
    pub(super) async fn open(path: &Path, lines_max: usize, cut: Cut) -> Result<Self, Failure> {
        let (pieces, source) = if path.as_os_str() == "-" {
            (pieces(tokio::io::stdin()), "standard input".to_owned())
        } else {
            let source = path.display().to_string();
            let file = tokio::fs::File::open(path).await;
            (pieces(file.map_err(|error| Failure::io(&source, &error))?), source)
        };
        Ok(Self {
            pieces,
            source,
            cutter: LineCutter::default(),
            lines_max,
            cut,
            ended: false,
            carried: None,
            failed: None,
        })
    }

    /// The next batch, none at the end of the input. Waits for its first line.
    ///
    /// # Errors
    /// What stopped the input, after the batch before it was given.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<NewRecord>>, Failure> {
        let mut batch = Batch::new(self.lines_max);
        while !batch.is_full() {
            match self.record(batch.is_empty() || self.cut == Cut::WhenFull).await {
                Ok(None) => break,
                Ok(Some(record)) => {
                    self.carried = batch.push(record);
                    if self.carried.is_some() {
                        break;
                    }
                }
                Err(failure) if batch.is_empty() => return Err(failure),
                Err(failure) => {
                    self.failed = Some(failure);
                    break;
                }
            }
        }
        Ok((!batch.is_empty()).then(|| batch.into_records()))
    }

    /// The next record; none at the end of the input, or if that is what it takes not to wait.
    async fn record(&mut self, may_wait: bool) -> Result<Option<NewRecord>, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        if let Some(record) = self.carried.take() {
            return Ok(Some(record));
        }
        loop {
            let line = self.cutter.line().map_err(|error| self.refused(error))?;
            if line.is_some() {
                return Ok(line);
            }
            if self.ended {
                return self.cutter.last_line().map_err(|error| self.refused(error));
            }
            let piece = if may_wait {
                self.pieces.recv().await.ok_or(TryRecvError::Disconnected)
            } else {
                self.pieces.try_recv()
            };
            match piece {
                Ok(Ok(piece)) => self.cutter.push(&piece),
                Ok(Err(error)) => return Err(Failure::io(&self.source, &error)),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => self.ended = true,
            }
        }
    }

    fn refused(&self, error: LineTooLong) -> Failure {
        Failure::usage(format!("{}: {error}", self.source))
    }
}

/// Reads ahead, from a task of its own.
fn pieces(mut input: impl AsyncRead + Unpin + Send + 'static) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            let piece = match input.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(_) => Ok(piece.freeze()),
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}
