//! The parts that the servers under test run on: embedded ones, or those of production. The same
//! tests run on both; `LIBRA_TEST_PARTS=embedded|production` says which.

mod keep;
pub mod nats;
pub mod postgres;
pub mod s3;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::Signal;
use postgres::{Cluster, Database};
use s3::{S3, Wire};

/// Which parts this run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    Embedded,
    Production,
}

impl Parts {
    pub fn chosen() -> Self {
        match std::env::var("LIBRA_TEST_PARTS").as_deref() {
            Err(_) | Ok("" | "embedded") => Self::Embedded,
            Ok("production") => Self::Production,
            Ok(other) => panic!("LIBRA_TEST_PARTS is {other}: embedded or production is meant"),
        }
    }
}

/// Whose parts a folder's servers run on.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// Those of this test process, with name spaces of the folder's own.
    Shared,
    /// The folder's own, which its test may stop, restart and break.
    Own,
    /// As `Own`, each on a disk of its own of so many MiB.
    OwnOnSmallDisks(u32),
}

/// What one folder has of each part.
pub enum Ground {
    Embedded,
    Production(Box<Production>),
}

/// PostgreSQL, an account on three `nats-server`s, a place on S3.
pub struct Production {
    pub database: Database,
    brokers: Brokers,
    account: nats::Account,
    store: Store,
    /// Where on S3 this folder's blobs lie.
    place: String,
}

enum Brokers {
    Shared,
    Own(nats::Cluster),
}

enum Store {
    Shared,
    Own(S3),
}

impl Store {
    fn s3(&self) -> &S3 {
        match self {
            Self::Shared => S3::shared(),
            Self::Own(s3) => s3,
        }
    }
}

impl Ground {
    pub fn new(whose: Whose) -> Self {
        match Parts::chosen() {
            Parts::Embedded => Self::Embedded,
            Parts::Production => {
                let cluster = match whose {
                    Whose::Shared => Cluster::shared(),
                    Whose::Own => Arc::new(Cluster::start(None)),
                    Whose::OwnOnSmallDisks(mebibytes) => Arc::new(Cluster::start(Some(mebibytes))),
                };
                let (brokers, store) = match whose {
                    Whose::Shared => (Brokers::Shared, Store::Shared),
                    Whose::Own | Whose::OwnOnSmallDisks(_) => {
                        (Brokers::Own(nats::Cluster::start(nats::Clients::Password)), Store::Own(S3::start()))
                    }
                };
                let account = match &brokers {
                    Brokers::Shared => nats::Cluster::shared().account(),
                    Brokers::Own(own) => own.account(),
                };
                // Short: s3s-fs makes one file name of a whole key, and a longer one while parts are sent.
                let place = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
                let database = Database::create(cluster);
                Self::Production(Box::new(Production { database, brokers, account, store, place }))
            }
        }
    }

    /// What a server needs to be told to run here. Each part adds its lines.
    pub fn settings(&self) -> Vec<(String, String)> {
        match self {
            Self::Embedded => Vec::new(),
            Self::Production(parts) => {
                let mut settings = parts.database.settings();
                let others = [parts.account.settings(), parts.store.s3().settings(&parts.place)];
                settings.extend(others.into_iter().flatten().map(|(key, value)| (key.to_owned(), value)));
                settings
            }
        }
    }

    /// The right to this folder's queue, where that is not the embedded broker's.
    pub fn account(&self) -> Option<&nats::Account> {
        match self {
            Self::Embedded => None,
            Self::Production(parts) => Some(&parts.account),
        }
    }

    /// The brokers, where they are ones that a test may stop and kill.
    fn brokers(&self) -> Option<&nats::Cluster> {
        match self {
            Self::Embedded => None,
            Self::Production(parts) => match &parts.brokers {
                Brokers::Own(own) => Some(own),
                Brokers::Shared => panic!("these brokers are everybody's; take parts of one's own"),
            },
        }
    }

    /// Stops the broker, or has it go on: all servers of it.
    pub fn signal_broker(&self, data: &Path, signal: Signal) {
        match self.brokers() {
            None => crate::failing::signal(crate::failing::broker_pid(data), signal),
            Some(own) => own.signal(signal),
        }
    }

    /// Kills the broker; whoever looks after it starts it again: its server, or whoever runs the cluster.
    pub fn kill_broker(&self, data: &Path) {
        match self.brokers() {
            None => crate::failing::signal(crate::failing::broker_pid(data), Signal::SIGKILL),
            Some(own) => {
                own.kill_all();
                own.restart_all();
            }
        }
    }

    /// Takes the blobs away, or gives them back.
    pub fn blobs_are_away(&self, data: &Path, away: bool) {
        let (here, there) = (data.join("blobs"), data.join("blobs.away"));
        match self {
            Self::Embedded if away => std::fs::rename(here, there).unwrap(),
            Self::Embedded => {
                // Whoever looked for it meanwhile may have made an empty one.
                drop(std::fs::remove_dir_all(&here));
                std::fs::rename(there, here).unwrap();
            }
            Self::Production(parts) => match &parts.store {
                Store::Own(s3) => s3.wire(if away { Wire::Gone } else { Wire::Well }),
                Store::Shared => panic!("this blob store is everybody's; take parts of one's own"),
            },
        }
    }

    /// The folder that holds the blobs, one folder an organization.
    pub fn blob_folder(&self, data: &Path) -> PathBuf {
        match self {
            Self::Embedded => data.join("blobs"),
            Self::Production(parts) => parts.store.s3().object(&parts.place),
        }
    }

    /// A program at the database that belongs to a server on `data`: it takes SQL and prints rows
    /// with fields separated by U+001F.
    pub fn sql(&self, data: &Path) -> Command {
        match self {
            Self::Embedded => {
                let mut command = Command::new("sqlite3");
                command.args(["-separator", "\u{1f}", "-cmd", ".timeout 10000"]).arg(sqlite_file(data));
                command
            }
            Self::Production(parts) => parts.database.psql(),
        }
    }

    /// A program that holds every write lock of the database until it is killed; it prints `held`.
    pub fn lock_orders(&self) -> &'static str {
        match self {
            Self::Embedded => ".timeout 60000\nBEGIN IMMEDIATE;\nSELECT 'held';\n",
            // What reads goes on; what writes, or locks a row to write, waits.
            Self::Production(_) => {
                "BEGIN;\nSELECT format('LOCK TABLE %I IN EXCLUSIVE MODE', relname) FROM pg_class \
                 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname \\gexec\n\
                 SELECT 'held';\n"
            }
        }
    }

    /// The server of the database, where it is one that a test may stop and start.
    pub fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Embedded => None,
            Self::Production(parts) => Some(parts.database.cluster()),
        }
    }
}

/// Where the embedded database lies.
pub fn sqlite_file(data: &Path) -> PathBuf {
    data.join("database/libra.db")
}

/// A disk of so many MiB, mounted at a folder for an owner. Root mounts; anybody else asks sudo.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(folder: &Path, mebibytes: u32, owner: (u32, u32)) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let options = format!("size={mebibytes}m,mode=0755,uid={},gid={}", owner.0, owner.1);
        privileged(&["mount", "-t", "tmpfs", "-o", &options, "libra-test"], folder);
        Self(folder.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes every byte that is free.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for block in [vec![0; 1 << 20], vec![0; 4096]] {
            while file.write_all(&block).is_ok() {}
        }
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server on it is ended right after.
        privileged(&["umount", "--lazy"], &self.0);
    }
}

fn privileged(words: &[&str], folder: &Path) {
    let sudo: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["sudo", "-n"] };
    let words: Vec<&str> = sudo.iter().chain(words).copied().collect();
    let done = Command::new(words[0]).args(&words[1..]).arg(folder).output().unwrap();
    assert!(done.status.success(), "{words:?} needs root or sudo: {}", String::from_utf8_lossy(&done.stderr));
}

/// Runs it with nobody at its terminal; panics with what it said if it fails.
pub fn run(command: &mut Command) -> String {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A process that ends when it is dropped.
#[derive(Debug)]
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Ended already, if it can't be killed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Settings as the server takes them.
pub fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

/// Several lists of settings as one; later ones win.
pub fn all<'a>(lists: &[&[(&'a str, &'a str)]]) -> Vec<(&'a str, &'a str)> {
    lists.concat()
}
