//! How often one client may ask what needs no credential.

use std::net::{IpAddr, Ipv6Addr};
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
        let Some(client) = client(req, trusted).map(bucket) else { return Ok(()) };
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
    // Proxies append: to the line or as a line of their own. So the nearest ones stand last.
    let lines: Vec<&str> = req.headers().get_all("x-forwarded-for").filter_map(|v| v.to_str().ok()).collect();
    let named = lines
        .iter()
        .rev()
        .flat_map(|line| line.rsplit(','))
        .filter_map(|a| a.trim().parse::<IpAddr>().ok())
        .map(|a| a.to_canonical())
        .find(|a| !trusted.contains(*a));
    Some(named.unwrap_or(peer))
}

/// One subscriber of IPv6 has a whole /64, so that is one client.
fn bucket(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn seen(headers: &[(&'static str, &'static str)]) -> IpAddr {
        let trusted = TrustedProxies::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        let req = headers.iter().fold(TestRequest::default(), |r, h| r.append_header(*h));
        let req = req.peer_addr("10.0.0.1:9".parse().unwrap()).to_http_request();
        bucket(client(&req, &trusted).unwrap())
    }

    #[test]
    fn the_client_is_who_the_nearest_proxy_saw() {
        let name = "x-forwarded-for";
        assert_eq!(seen(&[(name, "1.1.1.1, 2.2.2.2, 10.0.0.2")]).to_string(), "2.2.2.2");
        assert_eq!(seen(&[(name, "1.1.1.1"), (name, "2.2.2.2")]).to_string(), "2.2.2.2");
        assert_eq!(seen(&[(name, "2001:db8:1:2:3:4:5:6")]).to_string(), "2001:db8:1:2::");
        assert_eq!(seen(&[]).to_string(), "10.0.0.1");
    }
}
