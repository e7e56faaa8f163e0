//! What only a provider far away does: refuse, limit, fail, hang, lose answers and cut streams. All of it
//! is the platform's matter, bounded in time, and leaves nothing behind.

use std::time::{Duration, Instant};

use libra::sandbox::{ExecEnd, RemoteError, SandboxError};
use secrecy::SecretString;

use crate::bench::{Bench, REMOTE, run, script, try_run};
use crate::server::Fault;

/// Where a sandbox is made.
fn create_path(name: &str) -> &'static str {
    if name == "e2b" { "/v2/sandboxes" } else { "/sandbox" }
}

fn status(status: u16, retry_after: Option<u64>, body: &'static str) -> Fault {
    Fault::Status { status, retry_after, body }
}

async fn refused(bench: &Bench) -> SandboxError {
    bench.provider.create(bench.order("refused.1")).await.err().unwrap()
}

#[tokio::test]
async fn a_wrong_key_is_the_operators_matter_and_is_named() {
    for name in REMOTE {
        let bench = Bench::with(name, |s| {
            s.e2b.api_key = SecretString::from("wrong-key");
            s.daytona.api_key = SecretString::from("wrong-key");
        });
        let error = refused(&bench).await;
        assert!(
            matches!(error, SandboxError::Remote(RemoteError::Refused { status: 401, .. })),
            "{name}: {error:?}"
        );
        assert!(
            !error.is_user_fault() && error.to_string().contains(&format!("sandbox.{name}.api_key")),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("wrong-key"));
        assert_eq!(
            bench.server().count("POST", create_path(name)),
            1,
            "{name}: a refusal is not asked again"
        );
        let report = bench.provider.report().await;
        assert!(!report.ok && report.missing[0].contains("api_key"), "{name}: {report:?}");
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_within_a_bound() {
    for name in REMOTE {
        let bench = Bench::new(name);
        bench.server().arm("POST", create_path(name), status(429, Some(1), "slow down"), 1);
        let begun = Instant::now();
        bench.sandbox("limited.1").await.destroy().await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1), "{name}");
        bench.server().arm("POST", create_path(name), status(429, Some(1_000), "slow down"), 1);
        let begun = Instant::now();
        let error = refused(&bench).await;
        assert!(matches!(error, SandboxError::Remote(RemoteError::Limited { .. })), "{name}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{name}");
        // Without a time, the waits grow until the bound.
        bench.server().arm("POST", create_path(name), status(429, None, "slow down"), 1_000);
        let error = refused(&bench).await;
        assert!(matches!(error, SandboxError::Remote(RemoteError::Limited { .. })), "{name}: {error:?}");
        bench.server().disarm();
        assert!(bench.server().boxes().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_exceeded_quota_is_told_from_a_wrong_key() {
    for name in REMOTE {
        let bench = Bench::new(name);
        for (code, said) in
            [(429, "maximum number of concurrent sandboxes"), (403, "Total CPU limit exceeded")]
        {
            bench.server().arm("POST", create_path(name), status(code, None, said), 1);
            let error = refused(&bench).await;
            assert!(matches!(error, SandboxError::Remote(RemoteError::Limited { .. })), "{name}: {error:?}");
        }
        assert_eq!(bench.server().count("POST", create_path(name)), 2, "{name}: a quota is not waited for");
    }
}

#[tokio::test]
async fn a_provider_that_fails_for_a_moment_costs_nothing() {
    for name in REMOTE {
        let bench = Bench::new(name);
        bench.server().arm("POST", create_path(name), status(500, None, "oops"), 2);
        let mut sandbox = bench.sandbox("moment.1").await;
        for (method, path) in [("POST", "/files"), ("GET", "/files"), ("DELETE", "/sandbox")] {
            bench.server().arm(method, path, status(503, None, "oops"), 2);
        }
        sandbox.write_files(vec![("dist/x".into(), "x".into())]).await.unwrap();
        let limits = libra::sandbox::CollectLimits { files: 9, total_bytes: 99, file_bytes: 99 };
        let files = sandbox.collect("dist", &bench.home().join("out"), limits).await.unwrap();
        assert_eq!(files.len(), 1, "{name}");
        sandbox.destroy().await.unwrap();
        assert!(bench.server().boxes().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_provider_that_fails_or_hangs_on_is_a_platform_failure_in_bounded_time() {
    for name in REMOTE {
        let bench = Bench::with(name, |s| s.remote.request_seconds = 1);
        bench.server().arm("POST", create_path(name), status(500, None, "oops"), 1_000);
        let error = refused(&bench).await;
        assert!(
            matches!(error, SandboxError::Remote(RemoteError::Failed { status: 500, .. })),
            "{name}: {error:?}"
        );
        assert_eq!(bench.server().count("POST", create_path(name)), 4, "{name}: once, and three times again");
        bench.server().disarm();
        bench.server().arm("POST", create_path(name), Fault::Hang, 1_000);
        let begun = Instant::now();
        let error = refused(&bench).await;
        assert!(matches!(error, SandboxError::Remote(RemoteError::Timeout { .. })), "{name}: {error:?}");
        assert!(!error.is_user_fault() && begun.elapsed() < Duration::from_secs(15), "{name}");
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_platform_failure() {
    for name in REMOTE {
        // Nothing listens where `none` of the servers is.
        let bench = Bench::with(name, |s| {
            s.e2b.api_url = "http://127.0.0.1:9".into();
            s.daytona.api_url = "http://127.0.0.1:9".into();
        });
        let error = refused(&bench).await;
        assert!(matches!(error, SandboxError::Remote(RemoteError::Away { .. })), "{name}: {error:?}");
        let report = bench.provider.report().await;
        assert!(!report.ok && report.missing.len() == 1, "{name}: {report:?}");
    }
}

#[tokio::test]
async fn a_sandbox_whose_making_was_answered_to_nobody_is_used_and_not_made_twice() {
    for name in REMOTE {
        let bench = Bench::with(name, |s| s.remote.request_seconds = 1);
        bench.server().arm("POST", create_path(name), Fault::LoseAnswer, 1);
        let mut sandbox = bench.sandbox("lost.1").await;
        assert_eq!(bench.server().boxes().len(), 1, "{name}");
        run(&mut *sandbox, script("")).await.must_succeed();
        sandbox.destroy().await.unwrap();
        assert!(bench.server().boxes().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_cut_stream_is_taken_up_again() {
    for name in REMOTE {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("cut.1").await;
        let path = if name == "e2b" { "/process.Process/Start" } else { "/logs" };
        let method = if name == "e2b" { "POST" } else { "GET" };
        bench.server().arm(method, path, Fault::Cut { after: 1 }, 1);
        let text = "console.log('first'); const { existsSync } = require('fs');\
                    const t = setInterval(() => { if (existsSync('go')) { clearInterval(t); console.log('last'); process.exitCode = 7 } }, 20);\
                    setTimeout(() => require('fs').writeFileSync('go', ''), 1500)";
        let ran = run(&mut *sandbox, script(text)).await;
        assert_eq!(ran.outcome.end, ExecEnd::Exited(7), "{name}: {}", ran.output);
        assert!(ran.output.ends_with("last\n"), "{name}: {}", ran.output);
        // Daytona tells a log from its beginning; E2B only what comes, and that is said in the log.
        let told = if name == "e2b" { "some output is missing" } else { "first" };
        assert_eq!(ran.output.matches(told).count(), 1, "{name}: {}", ran.output);
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_command_whose_end_nobody_saw_is_a_platform_failure() {
    for name in REMOTE {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("unseen.1").await;
        let (start, after) = match name {
            "e2b" => (("POST", "/process.Process/Start"), ("POST", "/process.Process/Connect")),
            _ => (("GET", "/logs"), ("GET", "/command/")),
        };
        bench.server().arm(start.0, start.1, Fault::Cut { after: 1 }, 1);
        bench.server().arm(after.0, after.1, status(404, None, "no such command"), 1_000);
        let text = "console.log('x'); setInterval(() => {}, 1000)";
        let error = try_run(&mut *sandbox, script(text)).await.err().unwrap();
        assert!(!error.is_user_fault(), "{name}: {error:?}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_sandbox_with_another_node_is_refused_and_deleted() {
    for name in REMOTE {
        let bench = Bench::new(name);
        let mut order = bench.order("node.1");
        order.node_major = 99;
        let error = bench.provider.create(order).await.err().unwrap();
        let SandboxError::Remote(RemoteError::Node { wanted: 99, found, .. }) = &error else {
            panic!("{name}: {error:?}");
        };
        assert!(found.starts_with("v24."), "{name}: {found}");
        assert!(bench.server().boxes().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn keys_go_to_the_api_and_never_inside() {
    let bench = Bench::new("e2b");
    let mut sandbox = bench.sandbox("keys.1").await;
    let ran = run(&mut *sandbox, script("console.log(JSON.stringify(process.env))")).await;
    assert!(!ran.must_succeed().output.contains(crate::server::KEY));
    sandbox.destroy().await.unwrap();
    for shape in bench.server().asked() {
        let inside = shape.path.starts_with("/files")
            || shape.path.contains("process.")
            || shape.path.contains("filesystem.");
        assert_eq!(shape.headers.contains(&"x-api-key".to_owned()), !inside, "{shape:?}");
        assert_eq!(shape.headers.contains(&"x-access-token".to_owned()), inside, "{shape:?}");
    }
    // Daytona's one key opens both; its commands must not see it all the same.
    let bench = Bench::new("daytona");
    let mut sandbox = bench.sandbox("keys.2").await;
    let ran = run(&mut *sandbox, script("console.log(JSON.stringify(process.env))")).await;
    assert!(!ran.must_succeed().output.contains(crate::server::KEY));
    sandbox.destroy().await.unwrap();
    let bodies = bench.server().raw();
    assert!(bodies.iter().all(|raw| raw.matches(crate::server::KEY).count() == 1), "in the header only");
}
