//! The only room that knows the DNS library: asks name servers, and tells "it is not there" from
//! "nobody answered". Keeps no answer, so that whoever asks again sees the truth of that moment.
//! Never decides what an answer means for a domain.

mod settings;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::{DnsError as Answered, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};

pub use settings::Settings;

/// More records at one name than this are not looked at.
const RECORDS: usize = 100;

/// What the name servers said about the TXT records at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Txt {
    /// The strings of each record.
    Records(Vec<Vec<Vec<u8>>>),
    /// The servers answered: there is none.
    Nothing,
    /// No answer, or none to the point; why, in words fit for anybody.
    NoAnswer(&'static str),
}

/// What the name servers said about the addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    Found(Vec<IpAddr>),
    /// The servers answered: there is none, of either kind.
    Nothing,
    /// As [`Txt::NoAnswer`].
    NoAnswer(&'static str),
}

/// What a question came to.
enum Said {
    Records(Vec<RData>),
    Nothing,
    NoAnswer(&'static str),
}

/// Asks the servers of the settings, else the system's, which are read anew each time.
#[derive(Clone)]
pub struct Dns {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    attempts: usize,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Dns {
    /// Servers that are none were found by `config check` already, and are left out.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            servers: settings.servers.iter().filter_map(|s| settings::server(s)).collect(),
            timeout: Duration::from_millis(settings.timeout_ms),
            attempts: settings.attempts,
        }
    }

    /// The TXT records at `name`, which is whole: nothing is searched beneath the system's own domain.
    pub async fn txt(&self, name: &str) -> Txt {
        let strings = |record| match record {
            RData::TXT(txt) => Some(txt.txt_data.iter().map(|s| s.to_vec()).collect()),
            _ => None,
        };
        match self.ask(name, RecordType::TXT).await {
            Said::Records(records) => {
                let records: Vec<_> = records.into_iter().filter_map(strings).take(RECORDS).collect();
                if records.is_empty() { Txt::Nothing } else { Txt::Records(records) }
            }
            Said::Nothing => Txt::Nothing,
            Said::NoAnswer(why) => Txt::NoAnswer(why),
        }
    }

    /// The addresses that `name` leads to, by way of whatever aliases; `name` is whole.
    pub async fn addresses(&self, name: &str) -> Addresses {
        let answers =
            futures_util::future::join(self.ask(name, RecordType::A), self.ask(name, RecordType::AAAA));
        let (mut found, mut unanswered) = (Vec::new(), None);
        let (v4, v6) = answers.await;
        for answer in [v6, v4] {
            match answer {
                Said::Records(records) => {
                    found.extend(records.into_iter().filter_map(|record| match record {
                        RData::A(a) => Some(IpAddr::V4(a.0)),
                        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                        _ => None,
                    }))
                }
                Said::Nothing => {}
                Said::NoAnswer(why) => unanswered = Some(why),
            }
        }
        found.truncate(RECORDS);
        match unanswered {
            // One kind is enough to go by.
            _ if !found.is_empty() => Addresses::Found(found),
            Some(why) => Addresses::NoAnswer(why),
            None => Addresses::Nothing,
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Said {
        let Ok(name) = Name::from_ascii(format!("{name}.")) else {
            return Said::NoAnswer("the name is too long");
        };
        // A resolver of its own for each question: it has no memory, and its sockets end with it.
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(e) => {
                tracing::warn!(error = %e, "the system's name servers could not be read");
                return Said::NoAnswer("no name server is set up");
            }
        };
        let limit = self.timeout * u32::try_from(self.attempts + 1).unwrap_or(u32::MAX);
        let Ok(answer) = tokio::time::timeout(limit, resolver.lookup(name, kind)).await else {
            return Said::NoAnswer("time ran out");
        };
        match answer {
            Ok(lookup) => Said::Records(lookup.answers().iter().map(|record| record.data.clone()).collect()),
            Err(e) => refused(&e),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().map(|s| name_server(*s)).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                hickory_resolver::net::runtime::TokioRuntimeProvider::default(),
            )
        };
        let options = builder.options_mut();
        options.timeout = self.timeout;
        options.attempts = self.attempts;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

/// Only an answer to the question counts as one: an empty referral says where else to ask.
fn refused(error: &NetError) -> Said {
    match error {
        NetError::Dns(Answered::NoRecordsFound(none)) if none.soa.is_none() && none.ns.is_some() => {
            Said::NoAnswer("the server does not know the domain")
        }
        NetError::Dns(Answered::NoRecordsFound(_)) => Said::Nothing,
        NetError::Dns(Answered::ResponseCode(_)) => Said::NoAnswer("the server failed or refused"),
        NetError::Timeout => Said::NoAnswer("time ran out"),
        error => {
            tracing::debug!(error = %error, "a DNS question was not answered");
            Said::NoAnswer("no server could be reached")
        }
    }
}
