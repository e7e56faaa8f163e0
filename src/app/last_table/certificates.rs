//! Owns the file of certificates that issuers gave, beside the last table: what lets a start with the database
//! away speak HTTPS. Keys stand in it as they do in the record: sealed.
//! Never grows beyond its bound, and never serves what this installation's secret does not open.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::file::{self, End, damaged};
use super::keeper::{KeepError, REST_AFTER_FAILURE};
use crate::config::Settings;
use crate::control::certificates::opened;
use crate::control::seal::Sealer;
use crate::domain::cause::chain;
use crate::store::Store;
use crate::tls::Tls;

/// Raised when a file of the form before can't be read any more.
const FORMAT: u32 = 1;
const OWNER: &str = "libra certificates";
/// Read from the record at a time.
const BATCH: u64 = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    hostname: String,
    chain: String,
    key_sealed: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    owner: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Head(Head),
    Certificate(Kept),
    End(End),
}

/// Serves what the file has and the secret opens. Answers how many.
pub async fn publish(path: &Path, tls: &Tls, sealer: &Sealer) -> usize {
    let place = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&place)).await;
    let kept = match read.map_err(io::Error::other).and_then(|read| read) {
        Ok(kept) => kept,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return 0,
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %chain(&e), "the last certificates can't be used");
            return 0;
        }
    };
    let (named, mut served) = (kept.len(), 0);
    for Kept { hostname, chain, key_sealed } in kept {
        match opened(sealer, &hostname, &chain, &key_sealed) {
            Ok(certificate) => {
                tls.table.put_issued(&hostname, certificate);
                served += 1;
            }
            Err(e) => tracing::warn!(domain = %hostname, problem = %e, "a kept certificate can't be used"),
        }
    }
    tracing::info!(served, named, "the last certificates are served until the database is read");
    served
}

/// Writes the file when certificates have changed.
pub struct CertificateFile {
    path: PathBuf,
    store: Store,
    least: Duration,
    most: usize,
}

impl CertificateFile {
    pub fn new(settings: &Settings, path: &Path, store: Store) -> Self {
        let least = Duration::from_secs(settings.routes.file_seconds);
        Self { path: path.to_owned(), store, least, most: settings.tls.kept_certificates }
    }

    /// Writes until the server stops.
    pub async fn keep(self, stop: CancellationToken) {
        let path = self.path.clone();
        // What a killed process left; the next start looks again.
        drop(tokio::task::spawn_blocking(move || file::remove_leftovers(&path)).await);
        let (mut written, mut rest) = (None, self.least);
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            rest = self.least;
            match self.write(written).await {
                Ok(epoch) => written = Some(epoch),
                Err(e) => {
                    rest = rest.max(REST_AFTER_FAILURE);
                    tracing::warn!(error = %chain(&e), "the certificates were not kept");
                }
            }
        }
    }

    /// Answers the epoch that stands in the file.
    async fn write(&self, written: Option<i64>) -> Result<i64, KeepError> {
        let epoch = self.store.certificate_epoch().await?;
        if written == Some(epoch) {
            return Ok(epoch);
        }
        let mut kept = Vec::new();
        let mut after = (0, String::new());
        while kept.len() < self.most {
            let page = self.store.certificate_changes((after.0, &after.1), BATCH).await?;
            let Some(last) = page.last() else { break };
            after = (last.epoch, last.hostname.clone());
            let full = page.len() as u64 == BATCH;
            kept.extend(page.into_iter().filter_map(|row| {
                Some(Kept { chain: row.chain?, key_sealed: row.key_sealed?, hostname: row.hostname })
            }));
            if !full {
                break;
            }
        }
        if kept.len() > self.most {
            kept.truncate(self.most);
            tracing::warn!(
                most = self.most,
                "not all certificates are kept for a start without the database; see tls.kept_certificates"
            );
        }
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || write(&path, kept)).await;
        done.map_err(io::Error::other)??;
        Ok(epoch)
    }
}

fn write(path: &Path, kept: Vec<Kept>) -> io::Result<()> {
    file::replace(path, |lines| {
        lines.put(&Line::Head(Head { owner: OWNER.into(), format: FORMAT }))?;
        kept.into_iter().try_for_each(|one| lines.put(&Line::Certificate(one)))?;
        let end = lines.end();
        lines.put(&Line::End(end))
    })
}

fn read(path: &Path) -> io::Result<Vec<Kept>> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut kept, mut digest, mut count) = (None::<Vec<Kept>>, Sha256::new(), 0_u64);
    let mut text = Vec::new();
    loop {
        text.clear();
        if file.read_until(b'\n', &mut text)? == 0 {
            return Err(damaged("it has no end"));
        }
        let line = serde_json::from_slice(&text).map_err(|_| damaged("a line can't be read"))?;
        match (line, &mut kept) {
            (Line::Head(head), None) if head.owner == OWNER && head.format == FORMAT => {
                kept = Some(Vec::new())
            }
            (Line::Certificate(one), Some(kept)) => kept.push(one),
            (Line::End(end), Some(_)) => {
                let sound = end.fits(count, digest);
                return kept.filter(|_| sound).ok_or_else(|| damaged("its digest differs"));
            }
            _ => return Err(damaged("a line is out of place, or it is of another form")),
        }
        digest.update(&text);
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(hostname: &str) -> Kept {
        Kept { hostname: hostname.into(), chain: "chain".into(), key_sealed: "v1.sealed".into() }
    }

    #[test]
    fn what_is_written_is_read_and_no_byte_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certificates.jsonl");
        write(&path, vec![kept("a.example"), kept("b.example")]).unwrap();
        assert_eq!(read(&path).unwrap(), [kept("a.example"), kept("b.example")]);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(read(&path).is_err(), "byte {at} was changed");
        }
        std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
        assert!(read(&path).is_err());
    }
}
