//! Owns who the client of a request is: the peer, or whom a trusted proxy saw.
//! Never believes a forwarded address from a peer that is not configured as a proxy.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::TrustedProxies;

/// The nearest address that is no trusted proxy's, or the last one that such a proxy told legibly: what stands before
/// an entry that can't be read was believed by nobody we know. `forwarded` are the lines of `X-Forwarded-For` in order.
pub fn client<'r>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'r [u8]>,
    trusted: &TrustedProxies,
) -> IpAddr {
    let mut believed = peer.to_canonical();
    let mut told = nearest_first(forwarded);
    while trusted.contains(believed) {
        let Some(next) = told.next().and_then(address) else { break };
        believed = next;
    }
    believed
}

/// The lines of `X-Forwarded-For` as one: only addresses, so that nothing else rides along, and none from before one
/// that can't be read, so that an origin counts the same hops as we do.
pub fn chain<'r>(forwarded: impl DoubleEndedIterator<Item = &'r [u8]>) -> String {
    let legible = nearest_first(forwarded).map_while(address);
    let mut texts: Vec<String> = legible.map(|address| address.to_string()).collect();
    texts.reverse();
    texts.join(", ")
}

/// Proxies append: to the line or as a line of their own. So the nearest ones stand last. Empty entries mean nothing
/// (RFC 9110 §5.6.1).
fn nearest_first<'r>(forwarded: impl DoubleEndedIterator<Item = &'r [u8]>) -> impl Iterator<Item = &'r [u8]> {
    let entries = forwarded.rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
}

/// `1.2.3.4`, `2001:db8::1`, either with a port, or the latter in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    address.ok().or_else(bare).map(|address| address.to_canonical())
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
        bucket(client(peer.parse().unwrap(), lines.iter().map(|line| line.as_bytes()), &trusted)).to_string()
    }

    #[test]
    fn the_client_is_who_the_nearest_proxy_saw() {
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 2.2.2.2, 10.0.0.2"]), "2.2.2.2");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1", "2.2.2.2"]), "2.2.2.2");
        assert_eq!(seen("10.0.0.1", &["2001:db8:1:2:3:4:5:6"]), "2001:db8:1:2::");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("::ffff:192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn what_a_client_wrote_before_the_proxys_entry_is_never_believed() {
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 2.2.2.2:5678"]), "2.2.2.2");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "[2001:db8:1:2::9]"]), "2001:db8:1:2::");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, [2001:db8:1:2::9]:443"]), "2001:db8:1:2::");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, unknown"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, _hidden, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 2.2.2.2,,"]), "2.2.2.2");
        let trusted = TrustedProxies::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        let lines: [&[u8]; 2] = [b"6.6.6.6", b"\xff, 2.2.2.2"];
        assert_eq!(client([10, 0, 0, 1].into(), lines.into_iter(), &trusted).to_string(), "2.2.2.2");
    }

    #[test]
    fn an_origin_is_told_what_was_believed_and_nothing_before_it() {
        let told = |lines: &[&str]| chain(lines.iter().map(|line| line.as_bytes()));
        assert_eq!(told(&["1.1.1.1, 2.2.2.2:80", "[2001:db8::1]:7"]), "1.1.1.1, 2.2.2.2, 2001:db8::1");
        assert_eq!(told(&["6.6.6.6, unknown, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(told(&["2.2.2.2, <script>"]), "");
    }
}
