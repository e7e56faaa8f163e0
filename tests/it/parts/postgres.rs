//! A private PostgreSQL server from Debian's programs: TLS and a password on TCP, a unix socket for
//! the tests' own look. It ends, and its folder goes, when the test process ends, however that ends.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};

use super::{SmallDisk, run};

/// The user that the tests look and create databases as, over the socket.
const ADMIN: &str = "admin";
/// What the servers under test log in as.
const ROLE: &str = "libra";
const PASSWORD: &str = "a test's, with a %/:@?# in it";

/// A running server.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    port: u16,
    disk: Option<SmallDisk>,
    /// Closed when this process ends: the guard then stops the server and removes its folder.
    guard: Option<(std::process::Child, ChildStdin)>,
}

/// A database of a folder's own on some cluster.
#[derive(Debug)]
pub struct Database {
    cluster: Arc<Cluster>,
    name: String,
}

impl Cluster {
    /// The one of this test process. It is never dropped: its guard ends it.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Arc::new(Self::start(None))))
    }

    /// Makes one; `disk` is the size of its own disk in MiB.
    pub fn start(disk: Option<u32>) -> Self {
        let name = format!("libra-postgres-{}", uuid::Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let owner = owner();
        chown(&folder, Some(owner.0), Some(owner.1)).unwrap();
        let guard = guard(&folder);
        let disk = disk.map(|size| SmallDisk::mount(&folder, size, owner));
        let mut cluster = Self { folder, port: 0, disk, guard: Some(guard) };
        cluster.initialize();
        // Between the look for a free port and its use somebody else may take it.
        let started = (0..10).any(|_| {
            cluster.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            cluster.try_start()
        });
        assert!(started, "PostgreSQL does not start:\n{}", cluster.log());
        let password = PASSWORD.replace('\'', "''");
        cluster.admin(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'"));
        cluster
    }

    fn initialize(&self) {
        let data = self.folder.join("data");
        run(program("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1"])
            .args(["--username", ADMIN, "--pgdata"])
            .arg(&data));
        self.make_certificates();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\nssl = on\n\
             ssl_cert_file = '{folder}/server.pem'\nssl_key_file = '{folder}/server.key'\n\
             password_encryption = 'scram-sha-256'\nmax_connections = 400\nshared_buffers = '32MB'\n\
             fsync = off\nfull_page_writes = off\nmin_wal_size = '2MB'\nmax_wal_size = '16MB'\n\
             log_min_messages = warning\n",
            folder = self.folder.display()
        );
        self.write("data/postgresql.auto.conf", &settings);
        let hosts = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
                     hostnossl all all 127.0.0.1/32 scram-sha-256\n";
        self.write("data/pg_hba.conf", hosts);
    }

    /// An authority of this cluster's own, and the server's certificate from it.
    fn make_certificates(&self) {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let server = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = server.signed_by(&key, &issuer).unwrap();
        self.write("ca.pem", &authority_certificate.pem());
        self.write("server.pem", &certificate.pem());
        self.write("server.key", &key.serialize_pem());
    }

    /// A file that the server may read.
    fn write(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let owner = owner();
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    }

    fn control(&self, words: &[&str]) -> bool {
        let mut command = program("pg_ctl");
        command.arg("--pgdata").arg(self.folder.join("data")).args(["--silent", "--wait"]).args(words);
        command.arg("--log").arg(self.folder.join("server.log"));
        command.arg("--options").arg(format!("-p {}", self.port));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    fn try_start(&self) -> bool {
        self.control(&["start"])
    }

    /// Ends every connection at once and starts again, as after a crash.
    pub fn restart(&self) {
        assert!(self.control(&["--mode=immediate", "restart"]), "no restart:\n{}", self.log());
    }

    pub fn stop(&self) {
        assert!(self.control(&["--mode=immediate", "stop"]), "no stop:\n{}", self.log());
    }

    /// What a service manager does with a server that ended by itself; harmless for one that runs.
    pub fn keep_running(&self) {
        if !self.control(&["status"]) {
            assert!(self.try_start(), "PostgreSQL does not start again:\n{}", self.log());
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The disk it lies on, if that is one of its own.
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// As the owner of everything, on no database in particular.
    pub fn admin(&self, sql: &str) -> String {
        run(self.psql("postgres").args(["-c", sql]))
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--field-separator=\u{1f}"])
            .args(["--set=ON_ERROR_STOP=1", "--username", ADMIN, "--dbname", database])
            .arg("--host")
            .arg(&self.folder)
            .args(["--port", &self.port.to_string()]);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some((mut child, input)) = self.guard.take() else { return };
        drop(input);
        // What it does on the way out was all it was for.
        drop(child.wait());
        if let Some(disk) = self.disk.take() {
            drop(disk);
            // Empty by now; a mount point could not go before.
            drop(std::fs::remove_dir(&self.folder));
        }
    }
}

impl Database {
    pub fn create(cluster: Arc<Cluster>) -> Self {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        cluster.admin(&format!("CREATE DATABASE {name} OWNER {ROLE} TEMPLATE template0"));
        Self { cluster, name }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address with this login, by TCP, TLS and password.
    pub fn url(&self, role: &str) -> String {
        let password = percent_encoding::utf8_percent_encode(PASSWORD, percent_encoding::NON_ALPHANUMERIC);
        format!(
            "postgres://{role}:{password}@localhost:{}/{}?sslmode=verify-full",
            self.cluster.port, self.name
        )
    }

    /// The address of somebody in between, in plain text.
    pub fn url_by(&self, port: u16) -> String {
        let password = percent_encoding::utf8_percent_encode(PASSWORD, percent_encoding::NON_ALPHANUMERIC);
        format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/{}?sslmode=disable", self.name)
    }

    /// One value.
    pub fn one(&self, sql: &str) -> String {
        run(self.psql().args(["-c", sql])).trim().to_owned()
    }

    pub fn settings(&self) -> Vec<(String, String)> {
        let authority = self.cluster.folder.join("ca.pem").display().to_string();
        vec![("LIBRA__DATABASE__URL".into(), self.url(ROLE)), ("LIBRA__DATABASE__CA_FILE".into(), authority)]
    }

    /// A login that may use what is there and create nothing.
    pub fn lesser_role(&self) -> String {
        let role = format!("lesser_{}", self.name);
        let password = PASSWORD.replace('\'', "''");
        let grants = format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT USAGE ON SCHEMA public TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}; \
             REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        );
        run(self.psql().args(["-c", &grants]));
        role
    }

    pub fn psql(&self) -> Command {
        self.cluster.psql(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // One that a test has stopped is about to go as a whole.
        let gone = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        drop(self.cluster.psql("postgres").args(["-c", &gone]).stdin(Stdio::null()).output());
    }
}

/// The newest of Debian's PostgreSQL programs, run as somebody who may run it: it refuses root.
fn program(name: &str) -> Command {
    let path = programs().join(name);
    if nix::unistd::geteuid().is_root() {
        let (user, group) = owner();
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()])
            .arg(path);
        command.current_dir("/");
        command
    } else {
        Command::new(path)
    }
}

fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    let newest = found.pop();
    newest.expect("PostgreSQL is not there; `make install-test` installs it").1
}

/// User and group that the server runs as: the one who calls, or for root the system's account for it.
fn owner() -> (u32, u32) {
    let me = (nix::unistd::geteuid(), nix::unistd::getegid());
    if !me.0.is_root() {
        return (me.0.as_raw(), me.1.as_raw());
    }
    let account = nix::unistd::User::from_name("postgres").ok().flatten();
    let account = account.expect("PostgreSQL's account is not there; `make install-test` installs it");
    (account.uid.as_raw(), account.gid.as_raw())
}

/// A process that waits for the end of this one, then stops the server and removes its folder. It
/// sees that end by its input, which nobody else holds; whoever kills this process can't prevent it.
fn guard(folder: &Path) -> (std::process::Child, ChildStdin) {
    let script = "trap '' INT TERM HUP; cat >/dev/null; \"$1\" --pgdata \"$2/data\" --mode=immediate --wait stop; \
                  rm -rf \"$2\"/* \"$2\"; true";
    let mut command = program("pg_ctl");
    let pg_ctl = programs().join("pg_ctl");
    // The same user, another program: the one that `program` would have run comes last.
    let mut words: Vec<std::ffi::OsString> = command.get_args().map(ToOwned::to_owned).collect();
    let mut shell = if command.get_program() == "setpriv" {
        words.pop();
        command = Command::new("setpriv");
        command.args(&words).arg("sh");
        command
    } else {
        Command::new("sh")
    };
    let mut child = shell
        .args(["-c", script, "libra-postgres-guard"])
        .arg(pg_ctl)
        .arg(folder)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let input = child.stdin.take().unwrap();
    (child, input)
}
