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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use object_store::{PutResult, UploadPart};
    use tokio::sync::Notify;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Part {
        Taken,
        Refused,
        Silent,
    }

    /// What became of an upload, told by the server's side.
    #[derive(Debug, Default)]
    struct Told {
        sizes: Mutex<Vec<usize>>,
        ends: Mutex<Vec<&'static str>>,
        ended: Notify,
    }

    #[derive(Debug)]
    struct Fake {
        told: Arc<Told>,
        third: Part,
    }

    impl Fake {
        fn end(&self, how: &'static str) {
            self.told.ends.lock().unwrap().push(how);
            self.told.ended.notify_one();
        }
    }

    #[async_trait::async_trait]
    impl MultipartUpload for Fake {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            let mut sizes = self.told.sizes.lock().unwrap();
            sizes.push(data.content_length());
            let part = if sizes.len() == 3 { self.third } else { Part::Taken };
            Box::pin(async move {
                match part {
                    Part::Taken => Ok(()),
                    Part::Refused => Err(object_store::Error::NotImplemented {
                        operation: String::new(),
                        implementer: String::new(),
                    }),
                    Part::Silent => std::future::pending().await,
                }
            })
        }

        async fn complete(&mut self) -> object_store::Result<PutResult> {
            self.end("completed");
            Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
        }

        async fn abort(&mut self) -> object_store::Result<()> {
            self.end("aborted");
            Ok(())
        }
    }

    /// Sends 450 bytes in parts of 100, two at a time.
    async fn send(told: &Arc<Told>, third: Part) -> Result<(), BlobError> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        std::fs::write(&path, [1; 450]).unwrap();
        let mut file = tokio::fs::File::open(&path).await.unwrap();
        let upload = Upload::new(Box::new(Fake { told: Arc::clone(told), third }));
        upload.send(&mut file, 100, 2).await
    }

    #[tokio::test]
    async fn a_whole_file_is_sent_and_nothing_taken_back() {
        let told = Arc::default();
        send(&told, Part::Taken).await.unwrap();
        assert_eq!(*told.sizes.lock().unwrap(), [100, 100, 100, 100, 50]);
        assert_eq!(*told.ends.lock().unwrap(), ["completed"]);
    }

    #[tokio::test]
    async fn what_was_sent_is_taken_back_where_a_part_is_refused() {
        let told = Arc::default();
        send(&told, Part::Refused).await.unwrap_err();
        assert_eq!(*told.ends.lock().unwrap(), ["aborted"]);
    }

    #[tokio::test]
    async fn what_was_sent_is_taken_back_where_nobody_waits_any_more() {
        let told: Arc<Told> = Arc::default();
        // Dropped in the middle, as when a deployment is cancelled or its time is over.
        let sent = tokio::time::timeout(Duration::from_millis(50), send(&told, Part::Silent)).await;
        assert!(sent.is_err() && told.sizes.lock().unwrap().len() >= 3);
        tokio::time::timeout(Duration::from_secs(10), told.ended.notified()).await.unwrap();
        assert_eq!(*told.ends.lock().unwrap(), ["aborted"]);
    }
}
