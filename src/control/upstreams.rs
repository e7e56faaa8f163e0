//! Workers that an operator registers as HTTP origins: which origins may be, and with which policy.
//! Connects to none of them.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::error::FieldProblem;
use super::live::Shown;
use super::{Control, ControlError};
use crate::config::{Environment, Settings};
use crate::domain::address::NetworkRule;
use crate::domain::hostname::Hostname;
use crate::domain::origin::Origin;
use crate::domain::upstream::{OriginRule, UpstreamPolicy};
use crate::domain::{Principal, ProjectId, time};
use crate::store::upstreams::{NewUpstream, UpstreamRemoved, UpstreamRow, UpstreamSet};
use crate::tls::check_authorities;

/// An upstream as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub id: String,
    pub project_id: String,
    pub org_id: String,
    pub origins: Vec<Origin>,
    pub policy: UpstreamPolicy,
    /// Authorities in PEM that its origins' certificates must lead to; none: this machine's.
    pub ca: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub epoch: i64,
}

impl Upstream {
    /// The row with its origins parsed and `defaults` beneath its policy. An origin that this program can't
    /// read is left out: a newer release may have written it.
    #[must_use]
    pub fn of(row: &UpstreamRow, defaults: &UpstreamPolicy) -> Self {
        let lines: Vec<String> = serde_json::from_str(&row.origins).unwrap_or_default();
        Self {
            id: row.id.clone(),
            project_id: row.project_id.clone(),
            org_id: row.org_id.clone(),
            origins: lines.iter().filter_map(|line| Origin::parse(line).ok()).collect(),
            policy: defaults.with_stored(&row.policy),
            ca: row.ca.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            epoch: row.route_epoch,
        }
    }
}

/// What an operator wants registered, as it was sent.
#[derive(Debug)]
pub struct Registration {
    pub origins: Vec<String>,
    /// What differs from the settings.
    pub policy: Map<String, Value>,
    pub ca: Option<String>,
}

/// What may be registered and connected to, by the settings.
#[must_use]
pub fn origin_rule(settings: &Settings) -> OriginRule {
    let mut networks = settings.upstream.allowed_networks.clone();
    if settings.environment == Environment::Development {
        networks.extend(["127.0.0.0/8", "::1/128"].iter().filter_map(|n| n.parse::<IpNet>().ok()));
    }
    let names = std::iter::once(&settings.domains.base).chain(&settings.domains.platform_hosts);
    let http = settings.http.listen.iter().chain(std::iter::once(&settings.http.operator_listen));
    let listeners = http.chain(&settings.tls.listen);
    OriginRule {
        networks: NetworkRule::new(networks),
        unix_directories: settings.upstream.unix_directories.clone(),
        own_hosts: names.filter_map(|name| Hostname::parse(name).ok()).collect(),
        own_listeners: listeners
            .filter_map(|address| address.parse::<SocketAddr>().ok())
            .flat_map(own_addresses)
            .collect(),
    }
}

/// Where a listener is reached: one that listens everywhere, at every address of this machine too.
fn own_addresses(listener: SocketAddr) -> Vec<SocketAddr> {
    let mut addresses = vec![listener];
    if listener.ip().is_unspecified() {
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        addresses.extend(interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| std::net::IpAddr::V4(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| std::net::IpAddr::V6(v6.ip())))?;
            Some(SocketAddr::new(ip.to_canonical(), listener.port()))
        }));
    }
    addresses
}

impl Control {
    /// Registers origins as what the project's Worker serves, whatever is deployed.
    ///
    /// # Errors
    /// [`ControlError::Forbidden`] without an operator's credential; every origin and field that is refused.
    pub async fn upstream_set(
        &self,
        who: &Principal,
        project: &ProjectId,
        wanted: Registration,
    ) -> Result<Shown<Upstream>, ControlError> {
        self.may_operate(who, project).await?;
        let Registration { origins, policy: changes, ca } = wanted;
        let defaults = self.settings.upstream.policy();
        let mut problems = Vec::new();
        let parsed = self.parse_origins(&origins, &mut problems);
        if let Err(wrong) = defaults.with(&changes) {
            let place =
                |field: &str| if field.is_empty() { "policy".into() } else { format!("policy.{field}") };
            problems.extend(wrong.into_iter().map(|p| FieldProblem::new(place(&p.field), p.message)));
        }
        let unfit = ca.as_deref().and_then(|pem| self.unfit_authorities(pem, &parsed));
        problems.extend(unfit.map(|why| FieldProblem::new("ca", why)));
        if !problems.is_empty() {
            return Err(ControlError::Invalid(problems));
        }
        let lines: Vec<String> = parsed.iter().map(ToString::to_string).collect();
        let text = serde_json::to_string(&lines).map_err(ControlError::Json)?;
        let policy = serde_json::to_string(&changes).map_err(ControlError::Json)?;
        let new = NewUpstream { origins: &text, policy: &policy, ca: ca.as_deref() };
        match self.store.upstream_set(&who.scope(), project, new).await? {
            UpstreamSet::ProjectMissing => Err(ControlError::ProjectNotFound),
            UpstreamSet::Done(row) => {
                tracing::info!(project.id = %project, user.id = %who.user_id, origins = lines.len(),
                    epoch = row.route_epoch, "upstream registered");
                let visible = self.wait_for_routes(row.route_epoch).await;
                Ok(Shown { change: Upstream::of(&row, &defaults), visible })
            }
        }
    }

    /// # Errors
    /// As [`Control::upstream_set`]; [`ControlError::UpstreamNotFound`] where none is registered.
    pub async fn upstream_get(&self, who: &Principal, project: &ProjectId) -> Result<Upstream, ControlError> {
        self.may_operate(who, project).await?;
        let row = self.store.upstream_get(&who.scope(), project).await?;
        let row = row.ok_or(ControlError::UpstreamNotFound)?;
        Ok(Upstream::of(&row, &self.settings.upstream.policy()))
    }

    /// The Worker serves what is deployed again. Answers whether this server shows it.
    ///
    /// # Errors
    /// As [`Control::upstream_get`].
    pub async fn upstream_remove(&self, who: &Principal, project: &ProjectId) -> Result<bool, ControlError> {
        self.may_operate(who, project).await?;
        match self.store.upstream_remove(&who.scope(), project).await? {
            UpstreamRemoved::ProjectMissing => Err(ControlError::ProjectNotFound),
            // What was asked for holds already.
            UpstreamRemoved::NotRegistered => Ok(true),
            UpstreamRemoved::Done { epoch } => {
                tracing::info!(project.id = %project, user.id = %who.user_id, epoch, "upstream removed");
                Ok(self.wait_for_routes(epoch).await)
            }
        }
    }

    /// The project must be the caller's organization's, and the caller an operator.
    async fn may_operate(&self, who: &Principal, project: &ProjectId) -> Result<(), ControlError> {
        self.project_get(&who.scope(), project).await?;
        if who.admin {
            Ok(())
        } else {
            Err(ControlError::Forbidden("Only an operator registers origins; use a token made with --admin."))
        }
    }

    /// Why these authorities can't be the origins'.
    fn unfit_authorities(&self, pem: &str, origins: &[Origin]) -> Option<String> {
        let most = self.settings.upstream.ca_bytes;
        if pem.len() > most {
            return Some(format!("must have at most {most} bytes"));
        }
        if let Err(e) = check_authorities(pem, time::now_ms()) {
            return Some(e.to_string());
        }
        let with_tls = |origin: &Origin| matches!(origin, Origin::Http { tls: true, .. });
        (!origins.iter().any(with_tls)).then(|| "is for https:// origins, and none is named".to_owned())
    }

    fn parse_origins(&self, origins: &[String], problems: &mut Vec<FieldProblem>) -> Vec<Origin> {
        let most = self.settings.upstream.max_origins;
        if origins.is_empty() || origins.len() > most {
            problems.push(FieldProblem::new("origins", format!("must have 1 to {most} origins")));
            return Vec::new();
        }
        let rule = origin_rule(&self.settings);
        let mut parsed: Vec<Origin> = Vec::with_capacity(origins.len());
        for (at, line) in origins.iter().enumerate() {
            let refused = match Origin::parse(line) {
                Ok(origin) if parsed.contains(&origin) => Some("is named twice".to_owned()),
                Ok(origin) => match rule.check(&origin) {
                    Ok(()) => {
                        parsed.push(origin);
                        None
                    }
                    Err(e) => Some(e.to_string()),
                },
                Err(e) => Some(e.to_string()),
            };
            problems.extend(refused.map(|why| FieldProblem::new(format!("origins[{at}]"), why)));
        }
        parsed
    }
}
