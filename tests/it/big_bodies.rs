//! Bodies much larger than what a server may hold: they pass through, in both directions and both versions of HTTP.
//! `LIBRA_TEST_BODY_MIB` makes them smaller or larger.

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Method, Version};
use serde_json::json;

use crate::app::{BASE, Server, TestApp};
use crate::origin::Origin;

const MIB: u64 = 1024 * 1024;
/// What may be held beyond what one request needs anyway.
const GROWTH: u64 = 32 * MIB;

fn body_bytes() -> u64 {
    std::env::var("LIBRA_TEST_BODY_MIB").map_or(1024, |mib| mib.parse().unwrap()) * MIB
}

/// The most memory that the process ever had.
fn peak_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn pieces(bytes: u64) -> Body {
    const PIECE: &[u8] = &[b'y'; 65_536];
    let count = bytes / PIECE.len() as u64;
    Body::wrap_stream(stream::iter((0..count).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(PIECE)))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_size_pass_in_constant_memory() {
    let bytes = body_bytes();
    let app = TestApp::start_with(&[("LIBRA__HTTP__WORKER_BODY_BYTES", &bytes.to_string())]).await;
    let (project, worker) = app.project("large").await;
    let origin = Origin::start("origin");
    let put = app.request(Method::PUT, &format!("/api/v1/projects/{project}/upstream"));
    assert_eq!(put.json(&json!({ "origins": [origin.url()] })).send().await.unwrap().status(), 200);
    let host = format!("{worker}.{BASE}");
    let address: std::net::SocketAddr = app.server.address.parse().unwrap();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let builder = reqwest::Client::builder().no_proxy().resolve(&host, address);
        let http = match version {
            Version::HTTP_2 => builder.http2_prior_knowledge(),
            _ => builder.http1_only(),
        };
        let http = http.build().unwrap();
        let request = |method: Method, path: &str| {
            http.request(method, format!("http://{host}:{}{path}", address.port()))
        };
        let upload = async |bytes: u64| {
            let sent = request(Method::POST, "/count").body(pieces(bytes)).send().await.unwrap();
            assert_eq!(sent.version(), version);
            sent.text().await.unwrap()
        };
        let download = async |bytes: u64| {
            let mut got = request(Method::GET, &format!("/make/{bytes}")).send().await.unwrap();
            let mut read = 0;
            while let Some(piece) = got.chunk().await.unwrap() {
                read += piece.len() as u64;
            }
            read
        };
        // What one of each needs in any case: buffers, connections, threads.
        assert_eq!(upload(8 * MIB).await, (8 * MIB).to_string());
        assert_eq!(download(8 * MIB).await, 8 * MIB);
        let before = peak_bytes(&app.server);
        assert_eq!(upload(bytes).await, bytes.to_string());
        let uploaded = peak_bytes(&app.server);
        assert_eq!(download(bytes).await, bytes);
        let downloaded = peak_bytes(&app.server);
        eprintln!("{version:?}: {bytes} bytes; peak {before}, {uploaded}, {downloaded}");
        // The system counts in batches, so a peak may be told a little lower than before.
        let grown = |from: u64, to: u64| to.saturating_sub(from);
        assert!(grown(before, uploaded) < GROWTH && grown(uploaded, downloaded) < GROWTH, "{version:?}");
    }
}
