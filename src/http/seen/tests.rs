//! What is told of a request: its line and its numbers.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use serde_json::Value;

use super::counters::CODES;
use super::*;
use crate::http::edge::facts::RefusalCode;
use crate::http::edge::{Connection, RequestId, TrustedProxies};
use crate::http::problem;
use crate::routing::{BadRequest, EdgeRefusal, Tables};

fn written(watching: impl FnOnce(&Rc<Seen>)) -> (Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let (log, writing) = AccessLog::start(AccessLogSettings {
        file: file.clone(),
        file_bytes: 1 << 20,
        flush: Duration::from_secs(1),
        buffer_bytes: 1000,
        buffers: 10,
        bare_per_second: 2,
    })
    .unwrap();
    let observer = Observer::new(1, Some(log));
    let metrics = metrics::Metrics::new(&observer, &Arc::new(Tables::new()));
    let seen = Rc::new(Seen::from(observer.seat(0)));
    watching(&seen);
    let text = metrics.text().unwrap();
    drop((seen, observer));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(writing.finish(Duration::from_secs(20)));
    let lines = std::fs::read_to_string(file).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), text)
}

#[test]
fn a_line_tells_what_happened_and_no_secret() {
    let (lines, metrics) = written(|seen| {
        let connection =
            Connection { peer: Some("10.0.0.1:5".parse().unwrap()), is_tls: true, takes_files: false };
        let trusted = TrustedProxies::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        let request = Request::get("/a%22?token=secret")
            .header("host", "x\".example")
            .header("x-forwarded-for", "1.2.3.4")
            .body(())
            .unwrap();
        let mut watch = Watch::begin(seen, &request, connection, &trusted, Some(BadRequest::Field));
        let mut response = Response::builder().status(404).header("x-request-id", "r1").body(()).unwrap();
        response.extensions_mut().insert(RefusalCode("WORKER_NOT_FOUND"));
        watch.answered(&response);
        watch.ended(7, true);
        drop(watch);
        // Its client left before there was an answer.
        drop(Watch::begin(seen, &request, connection, &TrustedProxies::default(), None));
    });
    let first = &lines[0];
    for (key, value) in [("client", "1.2.3.4"), ("host", "x\".example"), ("path", "/a%22")] {
        assert_eq!(first[key], value);
    }
    assert_eq!((&first["status"], &first["bytes"], &first["tls"]), (&404.into(), &7.into(), &true.into()));
    assert_eq!((&first["refusal"], &first["requestId"]), (&"WORKER_NOT_FOUND".into(), &"r1".into()));
    assert_eq!((&first["strategy"], &first["aborted"]), (&"none".into(), &false.into()));
    assert!(!first.to_string().contains("secret"));
    let second = &lines[1];
    assert_eq!((&second["client"], &second["status"]), (&"10.0.0.1".into(), &0.into()));
    assert_eq!(second["aborted"], true);
    for line in [
        "libra_requests_total{kind=\"refused\",status=\"4xx\"} 1",
        "libra_requests_total{kind=\"refused\",status=\"none\"} 1",
        "libra_sent_bytes_total{kind=\"refused\"} 7",
        "libra_bad_requests_total{reason=\"field\"} 1",
        "libra_refusals_total{code=\"WORKER_NOT_FOUND\"} 1",
        "libra_request_duration_seconds_count{kind=\"refused\"} 2",
        "libra_connections{thread=\"0\",protocol=\"http1\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert_eq!(metrics.matches("le=\"+Inf\"").count(), 5, "{metrics}");
}

#[test]
fn every_refusal_has_a_number_of_its_own() {
    let message = String::new();
    for refusal in [
        EdgeRefusal::InvalidHost,
        EdgeRefusal::InvalidWorkerName { message: message.clone() },
        EdgeRefusal::ReservedSubdomain { message },
        EdgeRefusal::WorkerNotFound,
        EdgeRefusal::DeploymentNotFound,
        EdgeRefusal::CustomDomainNotFound,
        EdgeRefusal::CustomDomainInvalid,
        EdgeRefusal::TableNotLoaded,
        EdgeRefusal::FileNotFound,
        EdgeRefusal::MethodNotAllowed,
        EdgeRefusal::Malformed(BadRequest::TooLarge { limit_bytes: 1 }),
        EdgeRefusal::WorkerNotNamed,
        EdgeRefusal::WorkerNamedTwice,
        EdgeRefusal::ServiceWorkerRefused,
        EdgeRefusal::BodyTooLarge { limit_bytes: 1 },
        EdgeRefusal::RateLimited { after_seconds: 1 },
        EdgeRefusal::Overloaded,
        EdgeRefusal::Saturated,
        EdgeRefusal::WorkerUnreachable,
        EdgeRefusal::WorkerTimeout,
        EdgeRefusal::ReadFailed,
    ] {
        let answer = problem::refuse(&RequestId::random(), false, refusal.clone());
        let code = answer.extensions().get::<RefusalCode>().unwrap().0;
        assert!(CODES.contains(&code), "{refusal:?}: {code}");
    }
}

#[test]
fn what_was_no_request_is_counted_and_written_but_not_without_end() {
    let (lines, metrics) = written(|seen| {
        let client = Some("10.0.0.1".parse().unwrap());
        for _ in 0..1000 {
            seen.bare(&Bare { client, is_tls: false, what: problem::Unasked::NoRoom });
        }
    });
    // A second may have passed meanwhile.
    assert!((2..=6).contains(&lines.len()), "{}", lines.len());
    for (key, value) in [("client", "10.0.0.1"), ("refusal", "OVERLOADED"), ("path", "")] {
        assert_eq!(lines[0][key], value);
    }
    assert_eq!(lines[0]["status"], 503);
    let omitted = format!("libra_access_log_omitted_lines_total {}", 1000 - lines.len());
    for line in
        ["libra_requests_total{kind=\"refused\",status=\"5xx\"} 1000", "code=\"OVERLOADED\"} 1000", &omitted]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}
