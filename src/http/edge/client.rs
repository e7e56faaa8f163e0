//! Owns who the client of a request is: the peer, or whom a trusted proxy saw.
//! Never believes a forwarded address from a peer that is not configured as a proxy.

use std::net::{IpAddr, Ipv6Addr};

use super::TrustedProxies;

/// The last address that a trusted proxy did not add itself. `forwarded` are the lines of `X-Forwarded-For` in order.
pub fn client<'r>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'r str>,
    trusted: &TrustedProxies,
) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return peer;
    }
    // Proxies append: to the line or as a line of their own. So the nearest ones stand last.
    forwarded
        .rev()
        .flat_map(|line| line.rsplit(','))
        .filter_map(|address| address.trim().parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .find(|address| !trusted.contains(*address))
        .unwrap_or(peer)
}

/// The lines of `X-Forwarded-For` as one: only addresses, so that nothing else rides along.
pub fn chain<'r>(forwarded: impl Iterator<Item = &'r str>) -> String {
    let addresses =
        forwarded.flat_map(|line| line.split(',')).filter_map(|a| a.trim().parse::<IpAddr>().ok());
    let texts: Vec<String> = addresses.map(|address| address.to_string()).collect();
    texts.join(", ")
}

/// One subscriber of IPv6 has a whole /64, so that is one client.
pub fn bucket(client: IpAddr) -> IpAddr {
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
    use super::*;

    fn seen(peer: &str, lines: &[&str]) -> String {
        let trusted = TrustedProxies::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        bucket(client(peer.parse().unwrap(), lines.iter().copied(), &trusted)).to_string()
    }

    #[test]
    fn the_client_is_who_the_nearest_proxy_saw() {
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 2.2.2.2, 10.0.0.2"]), "2.2.2.2");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1", "2.2.2.2"]), "2.2.2.2");
        assert_eq!(seen("10.0.0.1", &["2001:db8:1:2:3:4:5:6"]), "2001:db8:1:2::");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("::ffff:192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
    }
}
