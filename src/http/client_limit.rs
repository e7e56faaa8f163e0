//! How often one client may ask what needs no credential.

use std::net::IpAddr;
use std::num::NonZeroU32;

use actix_web::HttpRequest;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::edge::TrustedProxies;
use super::edge::client::{bucket, client};
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
        let Some(peer) = req.peer_addr() else { return Ok(()) };
        let lines: Vec<&[u8]> = req.headers().get_all("x-forwarded-for").map(|v| v.as_bytes()).collect();
        let client = bucket(client(peer.ip(), lines.into_iter(), trusted));
        if self.0.len() > CLIENTS {
            self.0.retain_recent();
        }
        self.0.check_key(&client).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            Problem::rate_limited(wait.as_secs() + 1)
        })
    }
}
