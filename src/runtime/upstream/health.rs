//! Owns asking origins whether they are well, and the count of answers that decides it.
//! Never takes an origin out because of one bad answer, nor back because of one good one, unless the policy says so.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use http::Method;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::exchange::Order;
use super::link::Link;
use super::{RequestBody, Upstream, socket};
use crate::domain::upstream::HealthCheck;

/// Asks every origin again and again until the upstream is dropped; nobody is asked where the policy has no check.
pub(super) fn watch(upstream: &Arc<Upstream>) {
    if upstream.policy.health.interval.is_zero() {
        return;
    }
    for at in 0..upstream.origins.len() {
        tokio::spawn(watch_one(Arc::downgrade(upstream), at));
    }
}

async fn watch_one(upstream: Weak<Upstream>, at: usize) {
    let Some(check) = upstream.upgrade().map(|upstream| upstream.policy.health.clone()) else { return };
    let mut tick = interval(check.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut good, mut bad) = (0u32, 0u32);
    loop {
        tick.tick().await;
        // Held for one question only: a Worker that is gone needs no health.
        let Some(upstream) = upstream.upgrade() else { return };
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

/// Any answer below 500 is a good one: the origin answers, whatever it thinks of the question.
async fn ask(upstream: &Upstream, at: usize, check: &HealthCheck) -> io::Result<()> {
    let origin = &upstream.origins[at];
    let mut link = Link::new(socket::connect(upstream, origin).await?);
    link.begin(
        &Order {
            method: &Method::GET,
            target: check.path.as_str(),
            host: origin.host.as_bytes(),
            fields: &|head| {
                head.extend_from_slice(b"user-agent: libra-health-check\r\nconnection: close\r\n")
            },
            is_upgrade: false,
        },
        origin.host.as_bytes(),
        RequestBody::empty(),
    );
    let answer = poll_fn(|cx| link.poll_answer(cx, &upstream.policy)).await.map_err(io::Error::other)?;
    let status = answer.parts.status.as_u16();
    if status < 500 { Ok(()) } else { Err(io::Error::other(format!("it answered {status}"))) }
}
