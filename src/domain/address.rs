//! Which addresses a stranger's connection may lead to: public unicast ones, and no others.
//! Decides by the address alone; a name is resolved before, once, and never asked again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Which addresses may be connected to: public ones, and networks that the operator has named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRule {
    allowed: Vec<IpNet>,
}

impl NetworkRule {
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Asked of a literal address, and again of every address that a name resolves to.
    #[must_use]
    pub fn may_connect(&self, address: IpAddr) -> bool {
        // `::ffff:10.0.0.1` is 10.0.0.1.
        let address = address.to_canonical();
        is_public(address) || self.allowed.iter().any(|network| network.contains(&address))
    }
}

/// Whether an address is a public one: not this host, not a private or shared network, not a link, not
/// the metadata service of a cloud, nothing reserved; nor any of these in an IPv6 spelling.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let reserved = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_documentation()
        || a == 0
        || a >= 240
        // Shared by a provider's customers (RFC 6598).
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, the former 6to4 relays, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !reserved
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let s = v6.segments();
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    match s {
        // NAT64 and 6to4 lead to the IPv4 address that they carry.
        [0x64, 0xff9b, 0, 0, 0, 0, g, h] => is_public_v4(low(g, h)),
        [0x2002, b, c, ..] => is_public_v4(low(b, c)),
        // Teredo, benchmarks and ORCHID, documentation.
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
        // Global unicast is this one block; all else is local, multicast or not given out.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_networks_pass_in_every_spelling_and_no_others() {
        let rule = NetworkRule::new(vec!["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        for fine in ["1.1.1.1", "10.1.2.3", "::ffff:10.1.2.3", "::1", "2606:4700:4700::1111"] {
            assert!(rule.may_connect(fine.parse().unwrap()), "{fine}");
        }
        for refused in
            ["10.2.0.1", "::ffff:10.2.0.1", "127.0.0.1", "169.254.169.254", "64:ff9b::a01:203", "::"]
        {
            assert!(!rule.may_connect(refused.parse().unwrap()), "{refused}");
        }
        assert!(!NetworkRule::default().may_connect("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn nothing_but_public_unicast_passes() {
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
