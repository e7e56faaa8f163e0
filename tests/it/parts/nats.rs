//! A NATS cluster of the tests: three real nats-servers with JetStream, TLS and one account per app, so
//! that apps share the servers and never each other's streams.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::keep::{KeptFolder, spawn, tied_command};

/// Apps that one cluster has room for; each server on a folder of its own takes one.
const ACCOUNTS: usize = 400;
/// Longer than three servers take to agree on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Whether clients have to show a certificate too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    Password,
    CertificateAndPassword,
}

pub struct Cluster {
    nodes: Mutex<Vec<Node>>,
    passwords: String,
    next_account: AtomicUsize,
    clients: Clients,
    folder: KeptFolder,
}

/// One server; dropping it kills it.
struct Node {
    name: String,
    config: PathBuf,
    child: Child,
    port: u16,
}

/// The right to one account.
#[derive(Debug, Clone)]
pub struct Account {
    pub url: String,
    pub user: String,
    pub password: String,
    pub ca_file: PathBuf,
    client: Option<(PathBuf, PathBuf)>,
}

impl Cluster {
    /// The cluster that all tests of this process share; nobody may kill its servers.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Clients::Password))
    }

    /// A cluster of one's own, for whoever breaks it.
    pub fn start(clients: Clients) -> Self {
        let folder = KeptFolder::new("libra-nats-");
        certificates(folder.path());
        let passwords = uuid::Uuid::new_v4().simple().to_string();
        let started = Instant::now();
        let nodes = loop {
            // Somebody else may take a port between the choice and the start.
            if let Some(nodes) = start_nodes(folder.path(), clients, &passwords) {
                break nodes;
            }
            assert!(started.elapsed() < PATIENCE, "the cluster does not start");
        };
        let next_account = AtomicUsize::new(0);
        let cluster = Self { nodes: Mutex::new(nodes), passwords, next_account, clients, folder };
        // An account of its own for the question whether the servers have agreed.
        cluster.account().until_agreed();
        cluster
    }

    /// An account that nobody has yet.
    pub fn account(&self) -> Account {
        let number = self.next_account.fetch_add(1, Ordering::SeqCst);
        assert!(number < ACCOUNTS, "more apps than accounts; raise ACCOUNTS");
        let urls: Vec<String> =
            self.nodes.lock().unwrap().iter().map(|node| format!("tls://127.0.0.1:{}", node.port)).collect();
        let file = |name: &str| self.folder.path().join(name);
        Account {
            url: urls.join(","),
            user: format!("app{number}"),
            password: format!("{}-{number}", self.passwords),
            ca_file: file("ca.pem"),
            client: match self.clients {
                Clients::Password => None,
                Clients::CertificateAndPassword => Some((file("client.pem"), file("client.key"))),
            },
        }
    }

    /// Kills a server the hard way.
    pub fn kill(&self, name: &str) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.iter_mut().find(|node| node.name == name).unwrap();
        node.child.kill().unwrap();
        node.child.wait().unwrap();
    }

    pub fn kill_all(&self) {
        for name in ["n0", "n1", "n2"] {
            self.kill(name);
        }
    }

    /// To every server of it.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        for node in self.nodes.lock().unwrap().iter() {
            crate::failing::signal(i32::try_from(node.child.id()).unwrap(), signal);
        }
    }

    pub fn restart_all(&self) {
        for name in ["n0", "n1", "n2"] {
            self.restart(name);
        }
    }

    /// Starts a killed server again, where it was.
    pub fn restart(&self, name: &str) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.iter_mut().find(|node| node.name == name).unwrap();
        node.child = launch(&node.config);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Killed and waited for already, perhaps.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Account {
    /// Settings of a server whose queue lies in this account, with three copies.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("LIBRA__NATS__URL", self.url.clone()),
            ("LIBRA__NATS__USER", self.user.clone()),
            ("LIBRA__NATS__PASSWORD", self.password.clone()),
            ("LIBRA__NATS__CA_FILE", self.ca_file.display().to_string()),
            ("LIBRA__NATS__REPLICAS", "3".to_owned()),
        ];
        if let Some((certificate, key)) = &self.client {
            settings.push(("LIBRA__NATS__CLIENT_CERTIFICATE_FILE", certificate.display().to_string()));
            settings.push(("LIBRA__NATS__CLIENT_KEY_FILE", key.display().to_string()));
        }
        settings
    }

    /// A client that is not ours: a publisher, or an operator.
    pub async fn client(&self) -> Option<async_nats::Client> {
        // The first test of the process does it; the others find it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut options = async_nats::ConnectOptions::new()
            .user_and_password(self.user.clone(), self.password.clone())
            .add_root_certificates(self.ca_file.clone())
            .require_tls(true);
        if let Some((certificate, key)) = &self.client {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let servers: Vec<async_nats::ServerAddr> =
            self.url.split(',').map(|url| url.parse().unwrap()).collect();
        options.connect(servers).await.ok()
    }

    /// The server that leads a stream of this account now.
    pub async fn leader(&self, stream: &str) -> Option<String> {
        let client = self.client().await?;
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let answer = client.request(subject, "{}".into()).await.ok()?;
        let document: Value = serde_json::from_slice(&answer.payload).ok()?;
        document["cluster"]["leader"].as_str().map(ToOwned::to_owned)
    }

    /// Whether every copy of a stream is there and up to date.
    pub async fn is_whole(&self, stream: &str) -> bool {
        let Some(client) = self.client().await else { return false };
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let Ok(answer) = client.request(subject, "{}".into()).await else { return false };
        let document: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let copies = document["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
        copies.len() == 2 && copies.iter().all(|copy| copy["current"] == true)
    }

    /// Waits until the cluster makes a stream of three copies: the servers know each other and agree.
    fn until_agreed(&self) {
        let account = self.clone();
        // The caller may be within a runtime, where nothing may block on another one.
        let asked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let started = Instant::now();
                while !account.makes_a_stream().await {
                    assert!(started.elapsed() < PATIENCE, "the cluster does not agree");
                    tokio::time::timeout(LOOK, std::future::pending::<()>()).await.unwrap_err();
                }
            });
        });
        asked.join().unwrap();
    }

    async fn makes_a_stream(&self) -> bool {
        let Some(client) = self.client().await else { return false };
        let config = async_nats::jetstream::stream::Config {
            name: "agreed".into(),
            subjects: vec!["agreed".into()],
            num_replicas: 3,
            ..Default::default()
        };
        let mut context = async_nats::jetstream::new(client);
        context.set_timeout(Duration::from_secs(2));
        context.create_stream(config).await.is_ok() && context.delete_stream("agreed").await.is_ok()
    }
}

/// `None` when one of them did not come up, which a taken port explains.
fn start_nodes(folder: &Path, clients: Clients, passwords: &str) -> Option<Vec<Node>> {
    let ports = free_ports(6);
    let (client_ports, cluster_ports) = ports.split_at(3);
    let mut nodes = Vec::new();
    for (number, port) in client_ports.iter().enumerate() {
        let name = format!("n{number}");
        let config = write_config(folder, &name, *port, (number, cluster_ports), clients, passwords);
        nodes.push(Node { child: launch(&config), name, config, port: *port });
    }
    let started = Instant::now();
    loop {
        if nodes.iter_mut().any(|node| node.child.try_wait().unwrap().is_some()) {
            return None;
        }
        if nodes.iter().all(|node| std::net::TcpStream::connect(("127.0.0.1", node.port)).is_ok()) {
            return Some(nodes);
        }
        assert!(started.elapsed() < PATIENCE, "the servers do not listen");
        std::thread::park_timeout(LOOK);
    }
}

fn launch(config: &Path) -> Child {
    let folder = config.parent().unwrap();
    spawn(tied_command(folder, &nats_server(), &["-c".into(), config.to_owned()]))
}

fn nats_server() -> PathBuf {
    let tools = std::env::var("LIBRA__TOOLS_DIR")
        .map_or_else(|_| crate::app::root().join(".libra/tools"), PathBuf::from);
    let path = tools.join("nats-server/nats-server");
    assert!(path.is_file(), "{} is missing; run make install, or set LIBRA__TOOLS_DIR", path.display());
    path
}

/// Ports that are free now, below those that the kernel gives to outgoing connections: a restarted
/// server needs its own again.
fn free_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::new();
    while held.len() < count {
        let random = u16::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..2].try_into().unwrap());
        let port = 15_000 + random % 17_000;
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    held.into_iter().map(|(port, _)| port).collect()
}

fn write_config(
    folder: &Path,
    name: &str,
    port: u16,
    (number, cluster_ports): (usize, &[u16]),
    clients: Clients,
    passwords: &str,
) -> PathBuf {
    let own = folder.join(name);
    std::fs::create_dir_all(&own).unwrap();
    let accounts: String = (0..ACCOUNTS)
        .map(|n| {
            format!(
                "  A{n}: {{ jetstream: enabled, users: [ {{ user: app{n}, password: \"{passwords}-{n}\" }} ] }}\n"
            )
        })
        .collect();
    let routes: Vec<String> =
        cluster_ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let verify = clients == Clients::CertificateAndPassword;
    let pem = folder.display();
    let text = format!(
        "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\nlog_file: \"{own}/log\"\nmax_payload: 2097152\n\
         tls {{ cert_file: \"{pem}/server.pem\", key_file: \"{pem}/server.key\", ca_file: \"{pem}/ca.pem\", verify: {verify} }}\n\
         jetstream {{ store_dir: \"{own}/store\", max_memory_store: 67108864, max_file_store: 109951162777600 }}\n\
         cluster {{ name: tests, listen: \"127.0.0.1:{cluster}\", routes: [{routes}] }}\n\
         accounts {{\n  SYS: {{ users: [ {{ user: system, password: \"{passwords}\" }} ] }}\n{accounts}}}\nsystem_account: SYS\n",
        own = own.display(),
        cluster = cluster_ports[number],
        routes = routes.join(", "),
    );
    let path = own.join("nats.conf");
    std::fs::write(&path, text).unwrap();
    path
}

/// An authority of the tests, a certificate for the servers and one for clients.
fn certificates(folder: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    for (name, usage) in [
        ("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        ("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
