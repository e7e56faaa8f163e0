//! One upload in parts: aborted if it does not come to its end, also where its future is dropped.
//!
//! Parts of an upload that nobody ended are stored, and paid for, without anybody seeing them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::{MultipartUpload, PutPayload};
use tokio::io::AsyncReadExt;

use super::error::{BlobError, Doing, of_store};

/// Taking back what was sent is worth this long.
const ABORT_PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Upload {
    /// There until the upload is complete.
    open: Option<Box<dyn MultipartUpload>>,
}

impl Upload {
    pub(super) fn new(upload: Box<dyn MultipartUpload>) -> Self {
        Self { open: Some(upload) }
    }

    /// Sends the whole file, a few parts at a time.
    pub(super) async fn send(
        mut self,
        file: &mut tokio::fs::File,
        part_bytes: usize,
        parallel: usize,
    ) -> Result<(), BlobError> {
        let sent = self.send_parts(file, part_bytes, parallel).await;
        if sent.is_ok() {
            self.open = None;
        } else if let Some(upload) = self.open.take() {
            abort(upload).await;
        }
        sent
    }

    async fn send_parts(
        &mut self,
        file: &mut tokio::fs::File,
        part_bytes: usize,
        parallel: usize,
    ) -> Result<(), BlobError> {
        let failed = |error: object_store::Error| of_store(Doing::Writing, &error);
        let Some(upload) = self.open.as_mut() else { return Ok(()) };
        let mut under_way = FuturesUnordered::new();
        loop {
            let part = read_part(file, part_bytes).await.map_err(BlobError::Local)?;
            if part.is_empty() {
                break;
            }
            if under_way.len() >= parallel
                && let Some(done) = under_way.next().await
            {
                Result::map_err(done, failed)?;
            }
            under_way.push(upload.put_part(PutPayload::from_bytes(part)));
        }
        while let Some(done) = under_way.next().await {
            done.map_err(failed)?;
        }
        upload.complete().await.map_err(failed)?;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(upload) = self.open.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(abort(upload));
        }
    }
}

async fn abort(mut upload: Box<dyn MultipartUpload>) {
    match tokio::time::timeout(ABORT_PATIENCE, upload.abort()).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("an upload could not be taken back; the bucket's lifecycle rule has to end it");
        }
    }
}

/// Reads until the part is full or the file ends.
async fn read_part(file: &mut tokio::fs::File, part_bytes: usize) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(part_bytes);
    let limit = u64::try_from(part_bytes).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut part).await?;
    Ok(part.into())
}
