//! Owns telling why a request goes where it goes: every rule that is tried, in order, and why it matched or not.
//! Never routes: `Tables::resolve` does, and a test holds the two together. Tells a tenant nothing of another's Worker.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::domain::hostname::Hostname;
use crate::domain::worker_name::looks_like_preview;
use crate::routing::{CustomDomain, EdgeRefusal, HostClass, HostRules, Live, Tables, Target, WorkerRoute};
use crate::runtime::lookup::Intent;
use crate::runtime::site_rules::Location;
use crate::runtime::{Decision, Found, SiteVersion, decide};

/// What is asked about.
#[derive(Debug)]
pub struct Asked<'a> {
    pub authority: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// What the path or query names where the host is the platform's; `None` where that is switched off.
    pub named: Option<Result<Option<Named<'a>>, EdgeRefusal>>,
}

/// A Worker named in path or query.
#[derive(Debug, Clone)]
pub struct Named<'a> {
    pub worker: &'a str,
    pub by_query: bool,
    /// What the Worker sees.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// Whose eyes: an organization's id, or `None` for an operator, who sees all.
pub type Viewer<'a> = Option<&'a str>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Authority,
    PlatformHost,
    Dispatch,
    BaseLabel,
    WorkerTable,
    PreviewTable,
    NameRule,
    CustomDomain,
    Target,
    SiteRules,
    File,
    Headers,
}

impl Rule {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::PlatformHost => "platform_host",
            Self::Dispatch => "path_or_query",
            Self::BaseLabel => "base_label",
            Self::WorkerTable => "worker_table",
            Self::PreviewTable => "preview_table",
            Self::NameRule => "name_rule",
            Self::CustomDomain => "custom_domain",
            Self::Target => "target",
            Self::SiteRules => "site_rules",
            Self::File => "file",
            Self::Headers => "headers",
        }
    }
}

/// One rule that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub rule: Rule,
    pub matched: bool,
    pub why: String,
}

/// What came out.
#[derive(Debug)]
pub struct Explained {
    pub steps: Vec<Step>,
    /// `subdomain`, `custom_domain`, `path`, `query`, `platform` or `none`.
    pub strategy: &'static str,
    /// `None`: the control surface answers.
    pub winner: Result<Option<Target>, EdgeRefusal>,
    /// Whether the viewer may know more of the winner than that there is one.
    pub is_visible: bool,
}

pub fn explain(asked: &Asked<'_>, rules: &HostRules, tables: &Tables, viewer: Viewer<'_>) -> Explained {
    let mut told = Told { steps: Vec::new(), tables, rules, viewer, is_visible: true };
    let (strategy, winner) = told.host(asked);
    Explained { steps: told.steps, strategy, winner, is_visible: told.is_visible }
}

type Winner = Result<Option<Target>, EdgeRefusal>;

struct Told<'t> {
    steps: Vec<Step>,
    tables: &'t Tables,
    rules: &'t HostRules,
    viewer: Viewer<'t>,
    is_visible: bool,
}

impl Told<'_> {
    fn step(&mut self, rule: Rule, matched: bool, why: impl Into<String>) {
        self.steps.push(Step { rule, matched, why: why.into() });
    }

    fn host(&mut self, asked: &Asked<'_>) -> (&'static str, Winner) {
        let authority = asked.authority;
        let class = match self.rules.classify(authority) {
            Ok(class) => class,
            Err(refusal) => {
                let rule = match refusal {
                    EdgeRefusal::InvalidHost => Rule::Authority,
                    _ => Rule::BaseLabel,
                };
                self.step(rule, false, format!("'{authority}' is refused: {refusal}"));
                return ("none", Err(refusal));
            }
        };
        let stored = match &class {
            HostClass::Worker(label) => format!("{label}.{}", self.rules.base()),
            HostClass::Custom(host) => host.to_string(),
            HostClass::Platform => {
                Hostname::parse(authority).map_or_else(|_| authority.into(), |h| h.as_str().into())
            }
        };
        self.step(Rule::Authority, true, format!("'{authority}' is the host '{stored}', its port aside"));
        let base = self.rules.base().to_owned();
        match class {
            HostClass::Platform => {
                self.step(Rule::PlatformHost, true, format!("'{stored}' is a host of the platform itself"));
                self.dispatch(asked)
            }
            HostClass::Worker(label) => {
                self.step(Rule::PlatformHost, false, format!("'{stored}' is no host of the platform itself"));
                self.step(Rule::BaseLabel, true, format!("'{label}' is the one label before '{base}'"));
                ("subdomain", self.label(&label, asked.path, asked.query))
            }
            HostClass::Custom(host) => {
                self.step(Rule::PlatformHost, false, format!("'{stored}' is no host of the platform itself"));
                self.step(Rule::BaseLabel, false, format!("'{stored}' does not end in '.{base}'"));
                ("custom_domain", self.custom(&host, asked.path, asked.query))
            }
        }
    }

    fn dispatch(&mut self, asked: &Asked<'_>) -> (&'static str, Winner) {
        match &asked.named {
            None => self.step(Rule::Dispatch, false, "dispatch.path_routing is off"),
            Some(Ok(None)) => self.step(Rule::Dispatch, false, "neither path nor query names a Worker"),
            Some(Err(refusal)) => {
                self.step(Rule::Dispatch, false, refusal.to_string());
                return ("none", Err(refusal.clone()));
            }
            Some(Ok(Some(named))) => {
                let strategy = if named.by_query { "query" } else { "path" };
                let why = format!("the {strategy} names '{}', which sees {}", named.worker, named.path);
                self.step(Rule::Dispatch, true, why);
                return (strategy, self.label(named.worker, named.path, named.query));
            }
        }
        self.step(Rule::Target, true, "the control surface answers");
        ("platform", Ok(None))
    }

    fn label(&mut self, label: &str, path: &str, query: Option<&str>) -> Winner {
        if !self.tables.workers_loaded() {
            self.step(Rule::WorkerTable, false, "the table is not loaded yet");
            return Err(EdgeRefusal::TableNotLoaded);
        }
        if let Some(route) = self.tables.worker(label) {
            if matches!(route.live, Live::Nothing) {
                if self.sees(&route.org_id) {
                    let why = format!("the Worker '{label}' is known; its first deployment is not live yet");
                    self.step(Rule::WorkerTable, false, why);
                } else {
                    // To a stranger this is a name that nobody has.
                    let _as_if_unknown = self.unknown(label);
                }
                return Err(EdgeRefusal::WorkerNotFound);
            }
            self.step(Rule::WorkerTable, true, format!("the table has the Worker '{label}'"));
            return self.worker(route, path, query);
        }
        if looks_like_preview(label) {
            self.step(Rule::WorkerTable, false, format!("no Worker '{label}' has a live version"));
            return match self.tables.preview(label) {
                Some(version) => {
                    self.step(Rule::PreviewTable, true, format!("'{label}' is a preview"));
                    let owner = self.tables.worker(version.owner());
                    // A preview whose Worker is gone has no organization to be compared with.
                    if self.hides(owner.as_ref().map_or("", |route| &route.org_id)) {
                        return Ok(Some(Target::Preview(version)));
                    }
                    self.step(Rule::Target, true, format!("version {}", version.id()));
                    self.site(&version, path, query);
                    Ok(Some(Target::Preview(version)))
                }
                None => {
                    self.step(Rule::PreviewTable, false, format!("no preview '{label}' is there any more"));
                    Err(EdgeRefusal::DeploymentNotFound)
                }
            };
        }
        Err(self.unknown(label))
    }

    fn unknown(&mut self, label: &str) -> EdgeRefusal {
        self.step(Rule::WorkerTable, false, format!("no Worker '{label}' has a live version"));
        self.step(Rule::PreviewTable, false, format!("'{label}' is not formed like a preview's name"));
        let refusal = self.rules.unknown_worker(label);
        let is_name = refusal == EdgeRefusal::WorkerNotFound;
        let why = if is_name { format!("'{label}' could be a Worker's name") } else { refusal.to_string() };
        self.step(Rule::NameRule, is_name, why);
        refusal
    }

    fn custom(&mut self, host: &str, path: &str, query: Option<&str>) -> Winner {
        if !self.tables.is_loaded() {
            self.step(Rule::CustomDomain, false, "the tables are not loaded yet");
            return Err(EdgeRefusal::TableNotLoaded);
        }
        match self.tables.custom_domain(host) {
            None => {
                let why = format!("'{host}' is not in the table: not added to a project, or still pending");
                self.step(Rule::CustomDomain, false, why);
                Err(EdgeRefusal::CustomDomainNotFound)
            }
            Some(CustomDomain::Inactive) => {
                let why =
                    format!("'{host}' is verified; its project is inactive or has nothing deployed yet");
                self.step(Rule::CustomDomain, false, why);
                Err(EdgeRefusal::CustomDomainInvalid)
            }
            Some(CustomDomain::Redirect(to)) => {
                self.step(Rule::CustomDomain, true, format!("'{host}' leads to the domain '{to}'"));
                self.step(Rule::Target, true, format!("308 to '{to}', with the same path and query"));
                Ok(Some(Target::Redirect(to)))
            }
            Some(CustomDomain::Worker(route)) if matches!(route.live, Live::Nothing) => {
                let why =
                    format!("'{host}' is verified; its project is inactive or has nothing deployed yet");
                self.step(Rule::CustomDomain, false, why);
                Err(EdgeRefusal::CustomDomainInvalid)
            }
            Some(CustomDomain::Worker(route)) => {
                let why = match self.sees(&route.org_id) {
                    true => format!("'{host}' leads to the Worker '{}'", route.worker),
                    false => format!("'{host}' leads to a Worker"),
                };
                self.step(Rule::CustomDomain, true, why);
                self.worker(route, path, query)
            }
        }
    }

    fn sees(&self, org: &str) -> bool {
        self.viewer.is_none_or(|viewer| viewer == org)
    }

    /// Whether the story ends here for this viewer, who is then told so.
    fn hides(&mut self, org: &str) -> bool {
        self.is_visible = self.sees(org);
        if !self.is_visible {
            self.step(Rule::Target, true, "belongs to another organization");
        }
        !self.is_visible
    }

    fn worker(&mut self, route: Arc<WorkerRoute>, path: &str, query: Option<&str>) -> Winner {
        if self.hides(&route.org_id) {
            return Ok(Some(Target::Worker(route)));
        }
        match &route.live {
            // Refused before.
            Live::Nothing => {}
            Live::Site(version) => {
                self.step(
                    Rule::Target,
                    true,
                    format!("live version {}, epoch {}", version.id(), route.epoch),
                );
                self.site(version, path, query);
            }
            Live::Split(split) => {
                let (percent, rest) = (split.percent, 100 - split.percent.min(100));
                let why = format!(
                    "a split: {rest} % of clients get version {}, {percent} % version {}",
                    split.live.id(),
                    split.other.id()
                );
                self.step(Rule::Target, true, why);
                self.site(&split.live, path, query);
                self.site(&split.other, path, query);
            }
            Live::Upstream(upstream) => {
                self.step(
                    Rule::Target,
                    true,
                    "origins that an operator registered; the least busy one answers",
                );
                for report in upstream.report() {
                    let why = match (report.healthy, report.ejected) {
                        (true, false) => "is well",
                        (false, _) => "is not well and left out while others are",
                        (true, true) => "failed again and again and is left out for a while",
                    };
                    let matched = report.healthy && !report.ejected;
                    self.step(
                        Rule::Target,
                        matched,
                        format!("{} {why}; {} requests in hand", report.origin, report.in_hand),
                    );
                }
            }
        }
        Ok(Some(Target::Worker(route)))
    }

    /// What a browser that opens the address gets from this version.
    fn site(&mut self, version: &SiteVersion, path: &str, query: Option<&str>) {
        let rules = version.rules();
        match rules.map(|rules| rules.redirect(path, query)) {
            None => self.step(Rule::SiteRules, false, "the version has no _redirects or _headers"),
            Some(None) => {
                self.step(Rule::SiteRules, false, format!("no line of _redirects speaks for {path}"))
            }
            Some(Some(target)) => {
                self.step(Rule::SiteRules, true, format!("a line of _redirects says {target:?}"))
            }
        }
        let (matched, why) = match decide(version, path, query, || Intent::Navigation) {
            Decision::Redirect(redirect) => {
                let (Location::Site(to) | Location::Elsewhere(to)) = &redirect.location;
                (true, format!("{} to {to}, by _redirects", redirect.status.as_u16()))
            }
            Decision::Found(Found::File(file)) => (true, format!("the file {}", file.path())),
            Decision::Found(Found::NotFoundPage(file)) => {
                (false, format!("404 with the page {}", file.path()))
            }
            Decision::Found(Found::AddSlash) => (true, format!("307 to {path}/")),
            Decision::Found(Found::DropSlash) => (true, format!("307 to {}", path.trim_end_matches('/'))),
            Decision::Found(Found::Nothing) => (false, "404: the site has no such file".to_owned()),
        };
        self.step(Rule::File, matched, why);
        if let Some(rules) = rules.filter(|rules| rules.has_headers()) {
            let mut headers = http::HeaderMap::new();
            rules.apply_headers(path, &mut headers);
            let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
            let why = if names.is_empty() {
                "_headers adds nothing here".to_owned()
            } else {
                format!("_headers sets {}", names.join(", "))
            };
            self.step(Rule::Headers, !names.is_empty(), why);
        }
    }
}
