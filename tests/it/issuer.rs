//! An issuer of certificates for one test: Debian's `pebble`, with `pebble-challtestsrv` as the DNS in
//! which every name is this machine.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use crate::app::PATIENCE;
use crate::parts::Ended;

pub struct Issuer {
    /// Before the folder: fields are dropped in this order.
    _dns: Ended,
    pebble: Option<Ended>,
    folder: TempDir,
    pub directory: String,
    port: u16,
    management: u16,
    dns: u16,
}

/// A port that nothing listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Issuer {
    /// One that looks for challenges at these ports.
    pub fn start(http_port: u16, tls_port: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("libra-issuer-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        std::fs::write(path("ca.pem"), own.pem()).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let (port, management, dns, dns_management) = (free_port(), free_port(), free_port(), free_port());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("ca.pem"),
            "privateKey": path("key.pem"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let names = quiet(
            Command::new("pebble-challtestsrv")
                .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
                .args(["-dns01", &format!("127.0.0.1:{dns}")])
                .args(["-management", &format!("127.0.0.1:{dns_management}")]),
        );
        listens(dns_management);
        let directory = format!("https://127.0.0.1:{port}/dir");
        let mut issuer = Self { _dns: names, pebble: None, folder, directory, port, management, dns };
        issuer.look_for_seconds(0);
        issuer
    }

    /// Starts it anew: it knows no account and no order any more, and looks for a challenge this long.
    pub fn look_for_seconds(&mut self, seconds: u32) {
        self.pebble = None;
        let mut pebble = Command::new("pebble");
        pebble
            .arg("-config")
            .arg(self.folder.path().join("config.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.dns)]);
        // Without its random waits; it still refuses some nonces, and must be asked again.
        if seconds == 0 {
            pebble.env("PEBBLE_VA_NOSLEEP", "1");
        } else {
            pebble.env("PEBBLE_VA_SLEEPTIME", seconds.to_string());
        }
        self.pebble = Some(quiet(&mut pebble));
        listens(self.port);
        listens(self.management);
    }

    /// The authority of the issuer's own address.
    pub fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// The root that its certificates lead to, in PEM.
    pub async fn root(&self) -> String {
        let pem = std::fs::read(self.ca_file()).unwrap();
        let own = reqwest::Certificate::from_pem(&pem).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([own]).build().unwrap();
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        http.get(url).send().await.unwrap().text().await.unwrap()
    }
}

fn quiet(command: &mut Command) -> Ended {
    Ended(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn listens(port: u16) {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < PATIENCE, "nothing listens on port {port}");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}
