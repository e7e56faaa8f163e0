//! From a name to a connection: resolved once, checked, connected to exactly what was checked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use super::Egress;
use super::book::Verdict;
use crate::domain::address::is_public;

/// Addresses of one name that are tried.
const TRIED: usize = 4;

impl Egress {
    /// Opens the connection, or says why there is none.
    pub(super) async fn open(&self, name: &str, port: u16) -> Result<TcpStream, Verdict> {
        if !self.allowed.iter().any(|host| host.matches(name, port)) {
            return Err(Verdict::Unlisted);
        }
        if self.book.is_spent() {
            return Err(Verdict::Spent);
        }
        let patience = Duration::from_secs(self.settings.connect_seconds);
        let opened = tokio::time::timeout(patience, self.connect(name, port)).await;
        opened.unwrap_or(Err(Verdict::Unreachable))
    }

    async fn connect(&self, name: &str, port: u16) -> Result<TcpStream, Verdict> {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((name, port)).await.map_err(|_| Verdict::Unreachable)?.collect();
        if found.is_empty() {
            return Err(Verdict::Unreachable);
        }
        let own = own_addresses();
        let may = |address: &&SocketAddr| self.may_reach(address.ip(), &own);
        let open: Vec<&SocketAddr> = found.iter().filter(may).take(TRIED).collect();
        if open.is_empty() {
            return Err(Verdict::Private);
        }
        for address in open {
            if let Ok(stream) = TcpStream::connect(address).await {
                return Ok(stream);
            }
        }
        Err(Verdict::Unreachable)
    }

    fn may_reach(&self, address: IpAddr, own: &[IpAddr]) -> bool {
        let address = address.to_canonical();
        let opened = self.settings.allow_networks.iter().any(|network| network.contains(&address));
        opened || (is_public(address) && !own.contains(&address))
    }
}

/// A host with a public address of its own must not be reached by it either: its operator listeners
/// trust what comes from itself.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(networks: &[&str]) -> std::sync::Arc<Egress> {
        let all: toml::Table = crate::config::DEFAULTS.parse().unwrap();
        let mut settings = all["sandbox"]["egress"].as_table().unwrap().clone();
        settings.insert("allow_networks".into(), networks.to_vec().into());
        Egress::new(&settings.try_into().unwrap(), Vec::new())
    }

    #[test]
    fn an_address_of_this_host_is_not_reached_however_public_and_however_it_is_spelt() {
        let parsed = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
        let own = parsed(&["1.2.3.4", "2606:4700::5"]);
        for (address, reached) in
            parsed(&["1.2.3.4", "::ffff:1.2.3.4", "2606:4700::5", "1.2.3.5", "2606:4700::6"])
                .into_iter()
                .zip([false, false, false, true, true])
        {
            assert_eq!(egress(&[]).may_reach(address, &own), reached, "{address}");
        }
        // Opened by the operator, in whatever spelling a name resolves to it.
        for (address, reached) in parsed(&["10.20.0.1", "::ffff:10.20.0.1", "10.21.0.1", "::ffff:10.21.0.1"])
            .into_iter()
            .zip([true, true, false, false])
        {
            assert_eq!(egress(&["10.20.0.0/16"]).may_reach(address, &own), reached, "{address}");
        }
    }
}
