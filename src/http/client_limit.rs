//! How often one client may ask what needs no credential.

use std::net::IpAddr;
use std::num::NonZeroU32;

use actix_web::HttpRequest;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::edge::TrustedProxies;
use super::problem::Problem;

/// Clients remembered before those that asked nothing lately are forgotten.
const CLIENTS: usize = 50_000;

#[derive(Debug)]
pub struct ClientLimit(DefaultKeyedRateLimiter<IpAddr>);

impl ClientLimit {
    #[must_use]
    pub fn per_minute(requests: NonZeroU32) -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(requests)))
    }

    /// # Errors
    /// A 429 with the time to wait.
    pub fn check(&self, req: &HttpRequest, trusted: &TrustedProxies) -> Result<(), Problem> {
        // Without a peer (a unix socket) there is nobody to tell apart.
        let Some(client) = client(req, trusted) else { return Ok(()) };
        if self.0.len() > CLIENTS {
            self.0.retain_recent();
        }
        self.0.check_key(&client).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            Problem::rate_limited(wait.as_secs() + 1)
        })
    }
}

/// The peer, or the client that a trusted proxy names: the last address it did not add itself.
fn client(req: &HttpRequest, trusted: &TrustedProxies) -> Option<IpAddr> {
    let peer = req.peer_addr()?.ip().to_canonical();
    if !trusted.contains(peer) {
        return Some(peer);
    }
    let forwarded = req.headers().get("x-forwarded-for").and_then(|v| v.to_str().ok()).unwrap_or("");
    let named =
        forwarded.rsplit(',').filter_map(|a| a.trim().parse::<IpAddr>().ok()).find(|a| !trusted.contains(*a));
    Some(named.unwrap_or(peer))
}
