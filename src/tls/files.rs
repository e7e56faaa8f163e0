//! The operator's certificates: read from files, read again when those change, and kept when a new
//! one can't be used. Never writes; never shows a path to anybody but the log.

use std::error::Error as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::{Certificate, CertificateTable, TlsError};

/// Chains have some KiB.
const FILE_BYTES: u64 = 1_048_576;

/// The files of the settings.
#[derive(Debug)]
pub struct OperatorFiles(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    certificate_file: PathBuf,
    key_file: PathBuf,
    /// What the files looked like when they were read last.
    seen: Option<[Look; 2]>,
    good: Option<Arc<Certificate>>,
    /// Why what lies there now can't be used.
    problem: Option<String>,
}

/// A file that changes looks different: its time, its size, whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look(Option<(SystemTime, u64)>);

impl Look {
    fn at(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len()))))
    }
}

impl OperatorFiles {
    /// Each line is `CERTIFICATE:KEY`, or one file that holds both.
    #[must_use]
    pub fn new(lines: &[String]) -> Self {
        let entry = |line: &String| {
            let (certificate, key) = line.split_once(':').unwrap_or((line, line));
            Entry {
                certificate_file: certificate.into(),
                key_file: key.into(),
                seen: None,
                good: None,
                problem: None,
            }
        };
        Self(Mutex::new(lines.iter().map(entry).collect()))
    }

    /// Reads what has changed since the last look, and has the table serve it.
    pub fn look(&self, table: &CertificateTable) {
        let mut entries = self.lock();
        let mut changed = false;
        for entry in entries.iter_mut() {
            changed |= entry.look();
        }
        if changed {
            table.replace_files(entries.iter().filter_map(|e| e.good.clone()));
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// How many of them can't be used as they lie there now.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.lock().iter().filter(|e| e.problem.is_some()).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        // Each entry is changed whole after its files were read, so a panic leaves no half one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether another certificate is to be served.
    fn look(&mut self) -> bool {
        // Before reading: what changes meanwhile looks different the next time.
        let now = [Look::at(&self.certificate_file), Look::at(&self.key_file)];
        // One that can't be used is tried again: its key may be on its way.
        if self.seen == Some(now) && self.problem.is_none() {
            return false;
        }
        self.seen = Some(now);
        let file = self.certificate_file.display();
        match self.read() {
            Ok(certificate) => {
                tracing::info!(file = %file, names = certificate.names.len(), "a certificate was read");
                self.good = Some(Arc::new(certificate));
                self.problem = None;
                true
            }
            Err(error) => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                let problem = format!("{error}{cause}");
                if self.problem.as_ref() != Some(&problem) {
                    let kept = self.good.is_some();
                    tracing::error!(file = %file, problem = %problem, last_one_serves = kept, "a certificate can't be used");
                }
                self.problem = Some(problem);
                false
            }
        }
    }

    fn read(&self) -> Result<Certificate, TlsError> {
        let chain = read(&self.certificate_file)?;
        let key = if self.key_file == self.certificate_file { chain.clone() } else { read(&self.key_file)? };
        Certificate::from_pem(&chain, &key)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(TlsError::TooLarge { path: path.to_owned(), limit: FILE_BYTES });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::made;
    use super::*;

    #[test]
    fn a_changed_file_serves_at_the_next_look_and_a_broken_one_leaves_the_last_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let (chain_file, key_file) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let write = |(chain, key): &(String, String)| {
            std::fs::write(&chain_file, chain).unwrap();
            std::fs::write(&key_file, key).unwrap();
        };
        let table = CertificateTable::new("", Arc::default());
        let files = OperatorFiles::new(&[format!("{}:{}", chain_file.display(), key_file.display())]);
        files.look(&table);
        assert_eq!((files.count(), files.failed(), table.served().from_files), (1, 1, 0));
        write(&made(&["a.example"]));
        files.look(&table);
        assert!(table.has("a.example") && files.failed() == 0);
        let first = table.find("a.example").unwrap();
        files.look(&table);
        assert!(Arc::ptr_eq(&first, &table.find("a.example").unwrap()));
        // A key that belongs to another certificate.
        std::fs::write(&key_file, made(&["a.example"]).1 + "\n").unwrap();
        files.look(&table);
        assert_eq!(files.failed(), 1);
        assert!(Arc::ptr_eq(&first, &table.find("a.example").unwrap()));
        write(&made(&["a.example", "b.example"]));
        files.look(&table);
        assert!(table.has("b.example") && files.failed() == 0);
        std::fs::remove_file(&chain_file).unwrap();
        files.look(&table);
        assert!(table.has("b.example") && files.failed() == 1);
    }

    #[test]
    fn one_file_may_hold_both() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("both.pem");
        let (chain, key) = made(&["a.example"]);
        std::fs::write(&file, format!("{key}{chain}")).unwrap();
        let table = CertificateTable::new("", Arc::default());
        OperatorFiles::new(&[file.display().to_string()]).look(&table);
        assert!(table.has("a.example"));
    }
}
