//! Owns the body of an answer that is a part of a file: where the connection can let the system send it, a blank stands
//! for each piece, and the piece itself goes along beside it; else it is read a piece at a time.
//! Never holds more than one piece in memory.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use crossbeam_queue::SegQueue;

use crate::runtime::{BodyCache, FilePart};

/// Bytes that stand for a piece of a file. Known by where they lie, so nothing else is ever taken for them.
static BLANK: [u8; PIECE_BYTES] = [0; PIECE_BYTES];
/// As much as a client's socket takes at once.
const PIECE_BYTES: usize = 256 * 1024;

/// The pieces that blanks stand for, in their order: one connection's.
#[derive(Debug, Clone, Default)]
pub struct FilePieces(Arc<SegQueue<FilePart>>);

impl FilePieces {
    /// What the next blank stands for.
    pub fn next(&self) -> Option<FilePart> {
        self.0.pop()
    }
}

/// Whether these bytes only stand for a piece.
pub fn is_blank(bytes: &[u8]) -> bool {
    BLANK.as_ptr_range().contains(&bytes.as_ptr())
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>>>>;

pub(super) struct FileBody {
    left: FilePart,
    cache: Arc<BodyCache>,
    pieces: Option<FilePieces>,
    reading: Option<Reading>,
}

impl FileBody {
    pub fn new(part: FilePart, cache: Arc<BodyCache>) -> FileBody {
        FileBody { left: part, cache, pieces: None, reading: None }
    }

    /// The connection sends blanks as what they stand for.
    pub fn send_by(&mut self, pieces: &FilePieces) {
        self.pieces = Some(pieces.clone());
    }

    /// Bytes that were not asked for yet.
    pub fn left(&self) -> u64 {
        self.left.size()
    }

    pub fn is_over(&self) -> bool {
        self.left.size() == 0 && self.reading.is_none()
    }

    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(reading) = &mut self.reading {
            let piece = ready!(reading.as_mut().poll(cx));
            self.reading = None;
            return Poll::Ready(Some(piece));
        }
        if self.left.size() == 0 {
            return Poll::Ready(None);
        }
        let piece = self.left.take(self.cache.chunk_bytes().min(PIECE_BYTES) as u64);
        if let Some(pieces) = &self.pieces
            && piece.is_in_memory()
        {
            let blank =
                Bytes::from_static(&BLANK).split_to(usize::try_from(piece.size()).unwrap_or(PIECE_BYTES));
            pieces.0.push(piece);
            return Poll::Ready(Some(Ok(blank)));
        }
        let cache = Arc::clone(&self.cache);
        let mut reading: Reading = Box::pin(async move { cache.read_piece(piece).await });
        match reading.as_mut().poll(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
        }
    }
}
