//! Owns what is done for an upstream while nobody asks: its health checks, and letting go of idle connections.
//! Never touches a connection that has a request.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;

use tokio::time::{MissedTickBehavior, interval};

use super::{Upstream, health};

/// Until the upstream is dropped.
pub fn watch(upstream: &Arc<Upstream>) {
    health::watch(upstream);
    tokio::spawn(sweep(Arc::downgrade(upstream)));
}

async fn sweep(upstream: Weak<Upstream>) {
    let Some(look) = upstream.upgrade().map(|upstream| upstream.reuse.look) else { return };
    let mut tick = interval(look);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let keep_idle = upstream.reuse.keep_idle;
        poll_fn(|cx| {
            for origin in &upstream.origins {
                origin.pool.sweep(keep_idle, cx);
            }
            Poll::Ready(())
        })
        .await;
    }
}
