//! Owns the form of the last table's file, and what such files have in common: a JSON line a row, and at the end
//! their number and digest. Never leaves half a file in place, and never gives anything of a file that is not whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::routes::LiveRow;

/// Raised when a file of the form before can't be read any more.
const FORMAT: u32 = 1;
const OWNER: &str = "libra routes";
/// What a killed process left of a write is removed after this.
const LEFTOVER: Duration = Duration::from_secs(60 * 60);

/// What the Worker table is built from. Hosts are a hundred times as many: they pass one by one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LastTable {
    pub epoch: i64,
    pub workers: Vec<LiveRow>,
    pub versions: Vec<VersionLine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionLine {
    pub id: String,
    pub label: String,
    pub worker: String,
    /// In ms since 1970.
    pub created_at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLine {
    pub host: String,
    pub to: LeadsTo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeadsTo {
    Worker(String),
    Redirect(String),
    Inactive,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Out<'t> {
    Head(&'t Head),
    Worker(&'t LiveRow),
    Version(&'t VersionLine),
    Host(&'t HostLine),
    End(&'t End),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Head(Head),
    Worker(Box<LiveRow>),
    Version(VersionLine),
    Host(HostLine),
    End(End),
}

#[derive(Serialize, Deserialize)]
struct Head {
    owner: String,
    format: u32,
    epoch: i64,
}

/// The last line: how many there are before it, and their digest.
#[derive(Serialize, Deserialize)]
pub struct End {
    lines: u64,
    sha256: String,
}

/// Puts the table in the file's place: whole and durable, or not at all. `hosts` puts each of them. Blocking.
pub fn write(
    path: &Path,
    table: &LastTable,
    hosts: impl FnOnce(&mut Lines) -> io::Result<()>,
) -> io::Result<()> {
    replace(path, |lines| {
        lines.put(&Out::Head(&Head { owner: OWNER.into(), format: FORMAT, epoch: table.epoch }))?;
        table.workers.iter().try_for_each(|row| lines.put(&Out::Worker(row)))?;
        table.versions.iter().try_for_each(|row| lines.put(&Out::Version(row)))?;
        hosts(lines)?;
        let end = lines.end();
        lines.put(&Out::End(&end))
    })
}

/// Puts what `fill` writes in the file's place: whole and durable, or not at all. Blocking.
pub fn replace(path: &Path, fill: impl FnOnce(&mut Lines) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    let written = write_to(&temporary, fill).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: the next start looks for leftovers too.
        drop(fs::remove_file(&temporary));
    }
    written?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn write_to(path: &Path, fill: impl FnOnce(&mut Lines) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    let mut lines = Lines { file: BufWriter::new(file), digest: Sha256::new(), count: 0 };
    fill(&mut lines)?;
    lines.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// A file that is being written.
pub struct Lines {
    file: BufWriter<File>,
    digest: Sha256,
    count: u64,
}

impl Lines {
    pub fn host(&mut self, line: &HostLine) -> io::Result<()> {
        self.put(&Out::Host(line))
    }

    pub fn put(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.digest.update(&text);
        self.count += 1;
        self.file.write_all(&text)
    }

    pub fn end(&self) -> End {
        End { lines: self.count, sha256: hex::encode(self.digest.clone().finalize()) }
    }
}

impl End {
    /// Whether these are its lines.
    pub fn fits(&self, lines: u64, digest: Sha256) -> bool {
        self.lines == lines && self.sha256 == hex::encode(digest.finalize())
    }
}

/// Reads a whole file; `host` gets each host after everything was found to be sound. Blocking.
pub fn read(path: &Path, mut host: impl FnMut(HostLine)) -> io::Result<LastTable> {
    // Whoever writes meanwhile puts another file in place of this one.
    let mut file = BufReader::new(File::open(path)?);
    scan(&mut file, |_| {})?;
    file.rewind()?;
    let mut table = LastTable::default();
    table.epoch = scan(&mut file, |line| match line {
        Line::Worker(row) => table.workers.push(*row),
        Line::Version(row) => table.versions.push(row),
        Line::Host(row) => host(row),
        Line::Head(_) | Line::End(_) => {}
    })?;
    Ok(table)
}

/// Answers the epoch of a sound file.
fn scan(file: &mut BufReader<File>, mut each: impl FnMut(Line)) -> io::Result<i64> {
    let (mut epoch, mut digest, mut count) = (None, Sha256::new(), 0_u64);
    let mut text = Vec::new();
    loop {
        text.clear();
        if file.read_until(b'\n', &mut text)? == 0 {
            return Err(damaged("it has no end"));
        }
        let line = serde_json::from_slice(&text).map_err(|_| damaged("a line can't be read"))?;
        match (line, epoch) {
            (Line::Head(head), None) if head.owner == OWNER && head.format == FORMAT => {
                epoch = Some(head.epoch);
            }
            (Line::Head(_), None) => return Err(damaged("it is of another form")),
            (Line::End(end), Some(epoch)) => {
                return if end.fits(count, digest) { Ok(epoch) } else { Err(damaged("its digest differs")) };
            }
            (line @ (Line::Worker(_) | Line::Version(_) | Line::Host(_)), Some(_)) => each(line),
            _ => return Err(damaged("a line is out of place")),
        }
        digest.update(&text);
        count += 1;
    }
}

pub fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the file is damaged: {what}"))
}

fn temporary(path: &Path) -> PathBuf {
    // Servers that share the folder write each their own.
    path.with_extension(format!("tmp-{}", std::process::id()))
}

/// Removes what killed processes left. Blocking.
pub fn remove_leftovers(path: &Path) -> io::Result<()> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let Some(folder) = path.parent() else { return Ok(()) };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_string_lossy().starts_with(&format!("{stem}.tmp-"));
        let age = entry.metadata().and_then(|m| m.modified()).map(|at| SystemTime::now().duration_since(at));
        if is_ours && age.is_ok_and(|age| age.is_ok_and(|age| age > LEFTOVER)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::routes::SplitRow;

    fn table() -> (LastTable, Vec<HostLine>) {
        let row = LiveRow {
            project_id: "p".into(),
            org_id: "o".into(),
            worker_name: "blog".into(),
            version_id: Some("0123456789ab".into()),
            split: Some(SplitRow { version_id: "1123456789ab".into(), percent: 7 }),
            upstream: None,
            live_seq: 3,
            route_epoch: 9,
        };
        let version = VersionLine {
            id: "0123456789ab".into(),
            label: "0123456789ab--blog".into(),
            worker: "blog".into(),
            created_at: 1_700_000_000_000,
        };
        let to = |to| HostLine { host: "www.example.com".into(), to };
        let hosts = vec![
            to(LeadsTo::Worker("blog".into())),
            to(LeadsTo::Redirect("a.b".into())),
            to(LeadsTo::Inactive),
        ];
        (LastTable { epoch: 9, workers: vec![row], versions: vec![version] }, hosts)
    }

    fn put(path: &Path, (table, hosts): &(LastTable, Vec<HostLine>)) {
        write(path, table, |lines| hosts.iter().try_for_each(|host| lines.host(host))).unwrap();
    }

    fn got(path: &Path) -> io::Result<(LastTable, Vec<HostLine>)> {
        let mut hosts = Vec::new();
        let read = read(path, |host| hosts.push(host));
        assert!(read.is_ok() || hosts.is_empty(), "something was given of a file that is not sound");
        Ok((read?, hosts))
    }

    #[test]
    fn what_is_written_is_read_and_nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.jsonl");
        put(&path, &(LastTable::default(), Vec::new()));
        put(&path, &table());
        assert_eq!(got(&path).unwrap(), table());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn no_byte_can_be_changed_and_no_end_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.jsonl");
        put(&path, &table());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert!(got(&path).is_err(), "byte {at} was changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(got(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_file_of_another_form_or_owner_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.jsonl");
        for text in ["", "{}\n", "hello\n", r#"{"head":{"owner":"libra routes","format":2,"epoch":1}}"#] {
            fs::write(&path, text).unwrap();
            assert_eq!(got(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text}");
        }
        assert_eq!(got(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
