//! Origins whose certificates no public authority signed: trusted where an operator named theirs, and only there.

use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::answers::{assert_problem, details};
use crate::app::{TestApp, answer};
use crate::failing::quick;
use crate::origin::Origin;

/// An authority of a test's own: its certificate in PEM, and a configuration for a server it vouches for.
fn authority() -> (String, rustls::ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut own = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = own.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(own, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(leaf_key.serialize_pem().as_bytes()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (certificate.pem(), config)
}

async fn put(app: &TestApp, project: &str, origin: &str, ca: Value) -> reqwest::Response {
    let path = format!("/api/v1/projects/{project}/upstream");
    let body = json!({ "origins": [origin], "ca": ca, "policy": { "ejection": { "after": 0 } } });
    app.request(Method::PUT, &path).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn an_origin_is_trusted_by_the_authorities_named_for_it_and_by_no_others() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("private").await;
    let (ca, config) = authority();
    let (other, _) = authority();
    let origin = Origin::with_tls("by a private authority", config);
    let url = format!("https://{}", origin.address);
    let page = async |app: &TestApp| {
        let response = app.worker(&worker, "/").await;
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for (unfit, status) in [(Value::Null, 502), (json!(other), 502), (json!(format!("{other}{ca}")), 200)] {
        assert_eq!(put(&app, &project, &url, unfit).await.status(), 200);
        assert_eq!(page(&app).await.0, status);
    }
    let (status, document) = answer(put(&app, &project, &url, json!(ca)).await).await;
    assert_eq!((status.as_u16(), &document["ca"]), (200, &json!(ca)), "{document}");
    assert_eq!(page(&app).await, (200, "by a private authority".to_owned()));
    // Its health is asked in the same way.
    let well = async || {
        let (_, explained) = app.get(&format!("/api/v1/projects/{project}/upstream")).await;
        explained["ca"] == json!(ca)
    };
    assert!(well().await);
    let app = app.restart_after_kill(&quick(&[]));
    assert_eq!(page(&app).await, (200, "by a private authority".to_owned()));

    // Registered without it, it is not trusted any more.
    assert_eq!(put(&app, &project, &url, Value::Null).await.status(), 200);
    assert_eq!(page(&app).await.0, 502);
    let file = app.folder.path().join("ca.pem");
    std::fs::write(&file, &ca).unwrap();
    let path = file.display().to_string();
    let output = app.cli(&["workers", "upstream", &worker, "--origin", &url, "--ca", &path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(page(&app).await, (200, "by a private authority".to_owned()));
}

#[tokio::test]
async fn what_is_no_authority_is_refused_and_said_why() {
    let app = TestApp::start_with(&[("LIBRA__UPSTREAM__CA_BYTES", "4096")]).await;
    let (project, _) = app.project("unfit").await;
    let (ca, _) = authority();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (origin, unfit, word) in [
        ("https://1.1.1.1", json!("nonsense"), "no PEM certificate"),
        ("https://1.1.1.1", json!(""), "no PEM certificate"),
        ("https://1.1.1.1", json!(format!("{ca}{key}")), "private key"),
        ("https://1.1.1.1", json!(ca.repeat(10)), "at most 4096"),
        ("https://1.1.1.1", json!([ca]), "must be a string"),
        ("http://1.1.1.1", json!(ca), "https:// origins"),
    ] {
        let problem = assert_problem(put(&app, &project, origin, unfit).await, 400, "VALIDATION_ERROR").await;
        let told = details(&problem);
        assert!(told.len() == 1 && told[0].0 == "ca" && told[0].1.contains(word), "{told:?}");
    }
    assert_eq!(app.one("SELECT count(*) FROM upstream"), "0");
}
