//! Owns asking origins whether they are well, and the count of answers that decides it.
//! Never takes an origin out because of one bad answer, nor back because of one good one, unless the policy says so.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Request;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::link::Link;
use super::{HealthCheck, RequestBody, Upstream, socket};

/// Asks every origin again and again until it is dropped; ends at once where the policy has no check.
pub async fn watch(upstream: Arc<Upstream>) {
    let Some(check) = upstream.policy.health.clone() else { return };
    let mut origins = JoinSet::new();
    for at in 0..upstream.origins.len() {
        origins.spawn(watch_one(Arc::clone(&upstream), at, check.clone()));
    }
    drop(upstream);
    while origins.join_next().await.is_some() {}
}

async fn watch_one(upstream: Arc<Upstream>, at: usize, check: HealthCheck) {
    let mut tick = interval(check.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut good, mut bad) = (0u32, 0u32);
    loop {
        tick.tick().await;
        let asked = timeout(check.timeout, ask(&upstream, at, &check)).await;
        let problem = match asked {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some("it did not answer in time".to_owned()),
        };
        (good, bad) =
            if problem.is_none() { (good.saturating_add(1), 0) } else { (0, bad.saturating_add(1)) };
        let origin = &upstream.origins[at];
        let was_well = origin.is_well.load(Ordering::Relaxed);
        if was_well && bad >= check.unhealthy_after {
            origin.is_well.store(false, Ordering::Relaxed);
            let problem = problem.unwrap_or_default();
            tracing::warn!(origin = %origin.name, problem, "an origin is not well; it is left out");
        } else if !was_well && good >= check.healthy_after {
            origin.is_well.store(true, Ordering::Relaxed);
            upstream.succeeded(at);
            origin.ejected_until.store(0, Ordering::Relaxed);
            tracing::info!(origin = %origin.name, "an origin is well again");
        }
    }
}

/// Any answer below 400 is a good one.
async fn ask(upstream: &Upstream, at: usize, check: &HealthCheck) -> io::Result<()> {
    let socket = socket::connect(upstream, &upstream.origins[at].address).await?;
    let mut link = Link::open(socket).await?;
    let request = Request::get(&*check.path)
        .header(http::header::HOST, &*check.host)
        .header(http::header::USER_AGENT, "libra-health-check")
        .header(http::header::CONNECTION, "close")
        .body(RequestBody::Empty)
        .map_err(io::Error::other)?;
    let mut answered = std::pin::pin!(link.sender.try_send_request(request));
    let answer = poll_fn(|cx| {
        let _ended = link.drive(cx);
        answered.as_mut().poll(cx)
    });
    let response = answer.await.map_err(|e| io::Error::other(e.into_error()))?;
    let status = response.status().as_u16();
    if status < 400 { Ok(()) } else { Err(io::Error::other(format!("it answered {status}"))) }
}
