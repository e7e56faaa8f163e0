//! When an issuer wants its certificates renewed (RFC 9773), and how far that is heeded. Debian's `pebble` does not
//! say it, so a directory of our own stands before it and does.

use std::sync::{Arc, Mutex};

use reqwest::Certificate;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app::TestApp;
use crate::certificates::{asking, at, borrowed, domain, is_valid, number, until};
use crate::issuer::{Issuer, free_port};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// What is said of every certificate: start and end in ms since 1970.
type Window = Arc<Mutex<Option<(i64, i64)>>>;

/// Pebble's directory with one entry more; where it is, its certificate, and what was asked for.
async fn directory(issuer: &Issuer, window: Window) -> (String, String, Arc<Mutex<Vec<String>>>) {
    let pem = std::fs::read(issuer.ca_file()).unwrap();
    let own = Certificate::from_pem(&pem).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([own]).build().unwrap();
    let mut document: Value = http.get(&issuer.directory).send().await.unwrap().json().await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let made =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key)
            .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    document["renewalInfo"] = format!("{url}/renewal").into();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = tls.accept(socket).await else { continue };
            let mut head = vec![0; 8_192];
            let read = socket.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let window = *window.lock().unwrap();
            let (status, body) = match (path.strip_prefix("/renewal/"), window) {
                (None, _) => ("200 OK", document.to_string()),
                (Some(name), window) => {
                    seen.lock().unwrap().push(name.to_owned());
                    let said = |(start, end)| {
                        let at = |ms: i64| libra::domain::time::rfc3339(ms);
                        format!(r#"{{"suggestedWindow":{{"start":"{}","end":"{}"}}}}"#, at(start), at(end))
                    };
                    window.map_or(("404 Not Found", String::new()), |window| ("200 OK", said(window)))
                }
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 7200\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            // Whoever asks may be gone.
            drop(socket.write_all(answer.as_bytes()).await);
            drop(socket.shutdown().await);
        }
    });
    (format!("{url}/dir"), made.pem(), asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_says_when_to_renew_and_is_heeded_within_bounds() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let window: Window = Arc::default();
    drop(rustls::crypto::ring::default_provider().install_default());
    let (url, pem, asked) = directory(&issuer, Arc::clone(&window)).await;
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("authorities.pem");
    std::fs::write(&authorities, format!("{}{pem}", std::fs::read_to_string(issuer.ca_file()).unwrap()))
        .unwrap();
    let mut settings = [asking(&issuer), at(http_port, tls_port)].concat();
    settings.push(("LIBRA__TLS__ACME__DIRECTORY", url));
    settings.push(("LIBRA__TLS__ACME__CA_FILE", authorities.display().to_string()));
    let app = TestApp::start_with(&borrowed(&settings)).await;
    domain(&app, "shop.example.test", "active").await;
    until(&app, "shop.example.test", is_valid).await;
    let column = |name: &str| number(&app, &format!("SELECT coalesce({name}, 0) FROM certificate"));
    let asked_of = async || {
        app.wait("the issuer is asked", async || column("info_at") > 1).await;
        column("next_try_at")
    };
    // It says nothing of this one: all stays as it was, and it is asked again much later.
    let own = asked_of().await;
    let (from, to) = (column("not_before"), column("not_after"));
    assert!(own > from + (to - from) / 2 && own < to);
    assert!(column("info_at") > column("updated_at") + 5 * HOUR);
    let name = asked.lock().unwrap()[0].clone();
    assert!(name.split('.').count() == 2 && name.split('.').all(|part| part.len() > 5), "{name}");

    let now = column("updated_at");
    let last = to - (to - from) / 10;
    for (start, end, expected) in [
        (now + 20 * DAY, now + 21 * DAY, (now + 20 * DAY, now + 21 * DAY)),
        // At once: but it is new, and the issuer may say so again and again.
        (now - 2 * DAY, now - DAY, (from + DAY, from + DAY)),
        // Never so late that nothing is left for what goes wrong.
        (to + DAY, to + 2 * DAY, (last, last)),
    ] {
        *window.lock().unwrap() = Some((start, end));
        app.change("UPDATE certificate SET info_at = 1");
        let renew_at = asked_of().await;
        assert!(
            (expected.0..=expected.1).contains(&renew_at),
            "{start}..{end}: {renew_at}, not {expected:?}"
        );
        let pause = column("info_at") - now;
        assert!((HOUR..3 * HOUR).contains(&pause), "as it said, in two hours: {pause}");
    }
    // A window that ends before it begins changes nothing.
    *window.lock().unwrap() = Some((now + 2 * DAY, now));
    app.change("UPDATE certificate SET info_at = 1");
    assert_eq!(asked_of().await, last);
    assert_eq!(column("(SELECT count(*) FROM acme_attempt)"), 1, "nothing was ordered by all this");
}
