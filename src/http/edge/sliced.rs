//! Owns sending a body that is in memory in slices. Handed over whole, a megabyte would be copied
//! whole into the connection's write buffer first; slices stay in the processor's cache.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

/// As much as the connection buffers before it writes.
const SLICE_BYTES: usize = 64 * 1024;

/// A body in memory.
pub fn body(bytes: Bytes) -> BoxBody {
    // Small ones are written together with their headers anyway.
    if bytes.len() <= SLICE_BYTES {
        BoxBody::new(bytes)
    } else {
        BoxBody::new(Sliced { size: bytes.len() as u64, left: bytes })
    }
}

struct Sliced {
    size: u64,
    left: Bytes,
}

impl MessageBody for Sliced {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = self.left.len().min(SLICE_BYTES);
        Poll::Ready(Some(Ok(self.left.split_to(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn slices_make_the_whole() {
        for size in [0, 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES + 7] {
            let bytes: Bytes = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>().into();
            let sent = actix_web::body::to_bytes(body(bytes.clone())).await.unwrap();
            assert_eq!(sent, bytes);
        }
    }
}
