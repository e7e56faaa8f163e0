//! How an upstream Worker's origins are watched and used, and which origins may be registered at all.
//! Times are milliseconds in JSON and [`Duration`]s here. Knows the rules; connects to nothing.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::NetworkRule;
use super::hostname::Hostname;
use super::origin::Origin;
use super::status::words;

/// Longest path of a health check, in bytes.
const MAX_PATH_BYTES: usize = 1_024;

words! {
    /// Which `Host` an origin sees: the one that the client asked for, or the origin's own.
    HostHeader {
        Preserve = "preserve",
        Origin = "origin",
    }
}

/// Everything that can be said about the use of a Worker's origins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamPolicy {
    pub health: HealthCheck,
    /// Time to a connection, TLS included.
    #[serde(with = "millis", rename = "connectTimeoutMs")]
    pub connect_timeout: Duration,
    /// Time from the whole request to the answer's header.
    #[serde(with = "millis", rename = "firstByteTimeoutMs")]
    pub first_byte_timeout: Duration,
    /// A stream without a byte in either direction for so long is ended.
    #[serde(with = "millis", rename = "idleTimeoutMs")]
    pub idle_timeout: Duration,
    /// Open connections to one origin; requests beyond wait or are shed.
    pub connections_per_origin: u32,
    pub host_header: HostHeader,
    pub ejection: Ejection,
}

/// The active check of each origin. Healthy is an answer with a status below 500.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    pub path: String,
    /// Zero: no active check.
    #[serde(with = "millis", rename = "intervalMs")]
    pub interval: Duration,
    #[serde(with = "millis", rename = "timeoutMs")]
    pub timeout: Duration,
    /// Good answers in a row after which an unhealthy origin is healthy.
    pub healthy_after: u32,
    /// Bad ones in a row after which a healthy one is not.
    pub unhealthy_after: u32,
}

/// When an origin that fails real requests is left out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ejection {
    /// Failures in a row (connection, time-out, 502 to 504); zero: never.
    pub after: u32,
    /// The first time for so long, each further time twice as long.
    #[serde(with = "millis", rename = "baseMs")]
    pub base: Duration,
    #[serde(with = "millis", rename = "maxMs")]
    pub max: Duration,
    /// Of a hundred origins, at most so many are left out at once.
    pub max_percent: u8,
}

/// What is wrong with a policy: where, as a path such as `health.intervalMs`, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    pub field: String,
    pub message: String,
}

impl UpstreamPolicy {
    /// This policy with what `changes` says otherwise. Fields it does not name stay.
    ///
    /// # Errors
    /// Every field that is unknown or has a wrong type, or else every value out of its range.
    pub fn with(&self, changes: &Map<String, Value>) -> Result<Self, Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        let Ok(Value::Object(mut whole)) = serde_json::to_value(self) else { return Ok(self.clone()) };
        overlay("", &mut whole, changes, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let unreadable =
            |e: serde_json::Error| vec![PolicyProblem { field: String::new(), message: e.to_string() }];
        let policy: Self = serde_json::from_value(Value::Object(whole)).map_err(unreadable)?;
        let problems = policy.problems();
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
    }

    /// As [`Self::with`] of a stored text. What this program does not know or take is left as it was: a newer
    /// release may have written it.
    #[must_use]
    pub fn with_stored(&self, changes: &str) -> Self {
        let Ok(Value::Object(mut changes)) = serde_json::from_str(changes) else { return self.clone() };
        let Ok(Value::Object(own)) = serde_json::to_value(self) else { return self.clone() };
        changes.retain(|name, _| own.contains_key(name));
        self.with(&changes).unwrap_or_else(|_| self.clone())
    }

    /// Every value out of its range.
    #[must_use]
    pub fn problems(&self) -> Vec<PolicyProblem> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, field: &str, message: String| {
            if !holds {
                found.push(PolicyProblem { field: field.to_owned(), message });
            }
        };
        let path = &self.health.path;
        demand(
            path.starts_with('/')
                && path.len() <= MAX_PATH_BYTES
                && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#'),
            "health.path",
            format!("must begin with / and have at most {MAX_PATH_BYTES} printable characters without #"),
        );
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let times = [
            ("health.timeoutMs", self.health.timeout, 10, 60_000),
            ("connectTimeoutMs", self.connect_timeout, 10, 60_000),
            ("firstByteTimeoutMs", self.first_byte_timeout, 10, 3_600_000),
            ("idleTimeoutMs", self.idle_timeout, 100, 86_400_000),
            ("ejection.baseMs", self.ejection.base, 100, 3_600_000),
            ("ejection.maxMs", self.ejection.max, ms(self.ejection.base), 86_400_000),
        ];
        for (field, time, least, most) in times {
            demand((least..=most).contains(&ms(time)), field, format!("must be {least} to {most}"));
        }
        let interval = ms(self.health.interval);
        demand(
            interval == 0 || (100..=3_600_000).contains(&interval),
            "health.intervalMs",
            "must be 100 to 3600000, or 0 for no check".to_owned(),
        );
        let counts = [
            ("health.healthyAfter", self.health.healthy_after, 1, 100),
            ("health.unhealthyAfter", self.health.unhealthy_after, 1, 100),
            ("connectionsPerOrigin", self.connections_per_origin, 1, 100_000),
            ("ejection.after", self.ejection.after, 0, 1_000),
            ("ejection.maxPercent", u32::from(self.ejection.max_percent), 0, 100),
        ];
        for (field, count, least, most) in counts {
            demand((least..=most).contains(&count), field, format!("must be {least} to {most}"));
        }
        found
    }
}

/// Lays `changes` over `whole`, which has every field there is.
fn overlay(
    path: &str,
    whole: &mut Map<String, Value>,
    changes: &Map<String, Value>,
    problems: &mut Vec<PolicyProblem>,
) {
    for (name, change) in changes {
        let shown: String = name.chars().take(64).collect();
        let field = if path.is_empty() { shown } else { format!("{path}.{shown}") };
        let wrong = match (whole.get_mut(name), change) {
            (Some(_), Value::Null) => None,
            (Some(Value::Object(inner)), Value::Object(change)) => {
                overlay(&field, inner, change, problems);
                None
            }
            (Some(Value::Object(_)), _) => Some("must be an object"),
            (Some(known), change) => {
                let wrong = wrong_type(name, known, change);
                if wrong.is_none() {
                    *known = change.clone();
                }
                wrong
            }
            (None, _) => Some("is not a field of a policy"),
        };
        problems.extend(wrong.map(|message| PolicyProblem { field, message: message.to_owned() }));
    }
}

fn wrong_type(name: &str, known: &Value, change: &Value) -> Option<&'static str> {
    let most = if name == "maxPercent" { u64::from(u8::MAX) } else { u64::from(u32::MAX) };
    match (known, change) {
        (Value::Number(_), Value::Number(n)) if n.as_u64().is_some_and(|n| n <= most) => None,
        (Value::Number(_), _) => Some("must be a whole number in its range"),
        (_, Value::String(word)) if name == "hostHeader" && HostHeader::parse(word).is_none() => {
            Some("must be preserve or origin")
        }
        (_, Value::String(_)) => None,
        _ => Some("must be a string"),
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// Which origins may be registered: the operator's networks and socket folders, and never the platform itself.
#[derive(Debug, Clone, Default)]
pub struct OriginRule {
    pub networks: NetworkRule,
    /// Folders, absolute and without a closing `/`, beneath which sockets may lie.
    pub unix_directories: Vec<String>,
    /// The platform's own names; no name beneath them either.
    pub own_hosts: Vec<Hostname>,
    pub own_listeners: Vec<SocketAddr>,
}

/// Why an origin may not be registered; each text completes the sentence "the origin …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginRefusal {
    #[error(
        "is an address that is not public; the operator may allow its network in upstream.allowed_networks"
    )]
    Network,
    #[error("is this platform itself; name the application behind it")]
    Platform,
    #[error("is a socket outside the folders of upstream.unix_directories")]
    Socket,
}

impl OriginRule {
    /// Names are judged here by themselves only; what they resolve to is asked of `networks` when it is known.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, origin: &Origin) -> Result<(), OriginRefusal> {
        match origin {
            Origin::Unix(path) => {
                let beneath = |folder: &String| {
                    path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
                };
                if self.unix_directories.iter().any(beneath) { Ok(()) } else { Err(OriginRefusal::Socket) }
            }
            Origin::Http { host, port, .. } => match host.ip() {
                None if self.own_hosts.iter().any(|own| host.is_same_or_under(own)) => {
                    Err(OriginRefusal::Platform)
                }
                None => Ok(()),
                Some(address) if self.is_own(SocketAddr::new(address.to_canonical(), *port)) => {
                    Err(OriginRefusal::Platform)
                }
                Some(address) if self.networks.may_connect(address) => Ok(()),
                Some(_) => Err(OriginRefusal::Network),
            },
        }
    }

    /// Whether a listener of ours answers there; one that listens everywhere answers on every local address.
    #[must_use]
    pub fn is_own(&self, address: SocketAddr) -> bool {
        self.own_listeners.iter().any(|own| {
            let everywhere =
                own.ip().is_unspecified() && (address.ip().is_loopback() || address.ip().is_unspecified());
            own.port() == address.port() && (own.ip() == address.ip() || everywhere)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> UpstreamPolicy {
        let ms = Duration::from_millis;
        UpstreamPolicy {
            health: HealthCheck {
                path: "/".into(),
                interval: ms(5_000),
                timeout: ms(2_000),
                healthy_after: 2,
                unhealthy_after: 3,
            },
            connect_timeout: ms(2_000),
            first_byte_timeout: ms(30_000),
            idle_timeout: ms(300_000),
            connections_per_origin: 1_024,
            host_header: HostHeader::Preserve,
            ejection: Ejection { after: 5, base: ms(10_000), max: ms(300_000), max_percent: 50 },
        }
    }

    fn with(changes: Value) -> Result<UpstreamPolicy, Vec<String>> {
        let changes = changes.as_object().unwrap();
        let text =
            |p: Vec<PolicyProblem>| p.into_iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
        policy().with(changes).map_err(text)
    }

    #[test]
    fn a_policy_differs_where_it_says_so() {
        assert_eq!(with(json!({})), Ok(policy()));
        let changed = with(json!({
            "health": { "path": "/up", "intervalMs": 0 }, "hostHeader": "origin", "connectTimeoutMs": 500,
            "ejection": null,
        }))
        .unwrap();
        assert_eq!(changed.health.path, "/up");
        assert_eq!(
            (changed.health.interval, changed.health.timeout),
            (Duration::ZERO, Duration::from_secs(2))
        );
        assert_eq!((changed.host_header, changed.connect_timeout.as_millis()), (HostHeader::Origin, 500));
        assert_eq!(changed.ejection, policy().ejection);
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let told = with(json!({
            "health": { "path": 1, "interval": 5 }, "hostHeader": "mine", "connectTimeoutMs": -1, "ejection": [],
        }));
        assert_eq!(
            told.unwrap_err(),
            [
                "connectTimeoutMs: must be a whole number in its range",
                "ejection: must be an object",
                "health.interval: is not a field of a policy",
                "health.path: must be a string",
                "hostHeader: must be preserve or origin",
            ]
        );
        let told = with(json!({
            "health": { "path": "/a b", "timeoutMs": 1 }, "connectionsPerOrigin": 0,
            "ejection": { "maxPercent": 101, "maxMs": 9_999 },
        }));
        let fields: Vec<String> =
            told.unwrap_err().into_iter().map(|t| t.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(
            fields,
            [
                "health.path",
                "health.timeoutMs",
                "ejection.maxMs",
                "connectionsPerOrigin",
                "ejection.maxPercent"
            ]
        );
    }

    #[test]
    fn what_a_newer_release_stored_is_lived_with() {
        let stored = json!({ "connectTimeoutMs": 500, "retries": { "most": 3 } }).to_string();
        assert_eq!(policy().with_stored(&stored).connect_timeout.as_millis(), 500);
        assert_eq!(policy().with_stored("nonsense"), policy());
        assert_eq!(policy().with_stored("{\"connectTimeoutMs\":\"soon\"}"), policy());
    }

    #[test]
    fn origins_lead_to_public_addresses_and_never_to_the_platform() {
        let rule = OriginRule {
            networks: NetworkRule::new(vec!["127.0.0.0/8".parse().unwrap()]),
            unix_directories: vec!["/run/apps".into()],
            own_hosts: vec![Hostname::parse("libra.sh").unwrap()],
            own_listeners: vec!["0.0.0.0:3008".parse().unwrap(), "127.0.0.1:3009".parse().unwrap()],
        };
        for (text, expected) in [
            ("http://1.1.1.1", Ok(())),
            ("https://app.example.com", Ok(())),
            ("http://127.0.0.1:3000", Ok(())),
            ("http://127.0.0.1:3008", Err(OriginRefusal::Platform)),
            ("http://[::ffff:127.0.0.1]:3009", Err(OriginRefusal::Platform)),
            ("http://libra.sh", Err(OriginRefusal::Platform)),
            ("http://blog.libra.sh:8080", Err(OriginRefusal::Platform)),
            ("http://notlibra.sh", Ok(())),
            ("http://10.0.0.1", Err(OriginRefusal::Network)),
            ("http://169.254.169.254", Err(OriginRefusal::Network)),
            ("http://[::ffff:169.254.169.254]", Err(OriginRefusal::Network)),
            ("http://[fd00:ec2::254]", Err(OriginRefusal::Network)),
            ("http://0.0.0.0:80", Err(OriginRefusal::Network)),
            ("unix:/run/apps/a.sock", Ok(())),
            ("unix:/run/apps", Err(OriginRefusal::Socket)),
            ("unix:/run/appsx/a.sock", Err(OriginRefusal::Socket)),
            ("unix:/var/run/docker.sock", Err(OriginRefusal::Socket)),
        ] {
            assert_eq!(rule.check(&Origin::parse(text).unwrap()), expected, "{text}");
        }
    }
}
