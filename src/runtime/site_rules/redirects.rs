//! Owns `_redirects`: reading its lines, and which rule speaks for a path.
//! Never leads to a host that the line does not write out, and never fetches from one.

use http::StatusCode;

use super::REDIRECTS_FILE;
use super::pattern::{Captures, Names, Pattern, Template};
use super::report::{Problem, ProblemKind, Report};
use super::text;

/// Characters of a line, rules without holes and rules with them: Cloudflare's figures.
const MAX_LINE_CHARS: usize = 1_000;
const MAX_EXACT: usize = 2_000;
const MAX_PATTERNS: usize = 100;
/// Bytes of a target once its holes are filled; a longer one is not used. Far above what browsers follow.
const MAX_TARGET_BYTES: usize = 8 * 1024;

/// What a rule makes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleTarget {
    /// Wins over files.
    Redirect(Redirect),
    /// Answer with what this path of the site shows. Without `is_forced`, only where no file answers.
    Rewrite { path: String, is_forced: bool },
    /// The same, with status 404.
    NotFound { path: String, is_forced: bool },
}

/// An answer that leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub status: StatusCode,
    pub location: Location,
}

/// Where to; each is visible ASCII, so it fits into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Path (beginning with exactly one slash), query and fragment on the same site.
    Site(String),
    /// A whole address, its host written out in the rule.
    Elsewhere(String),
}

#[derive(Debug, Default)]
pub(super) struct Redirects {
    /// Sorted by path; no path appears twice.
    exact: Box<[Exact]>,
    /// In the file's order.
    patterns: Box<[Patterned]>,
}

#[derive(Debug)]
struct Exact {
    from: Box<str>,
    rule: Rule,
}

#[derive(Debug)]
struct Patterned {
    from: Pattern,
    rule: Rule,
}

#[derive(Debug)]
struct Rule {
    line: u32,
    action: Action,
    is_local: bool,
    /// Up to the query.
    path: Template,
    /// Query and fragment, each with the character that begins it.
    query: Template,
    fragment: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Redirect(StatusCode),
    Rewrite { is_forced: bool },
    NotFound { is_forced: bool },
}

impl Redirects {
    pub(super) fn parse(bytes: &[u8], report: &mut Report) -> Redirects {
        let lines = text::lines(REDIRECTS_FILE, bytes, MAX_LINE_CHARS, report);
        let (mut exact, mut patterns) = (Vec::<Exact>::new(), Vec::new());
        for (line, text) in lines {
            let kind = match read(line, text) {
                Err(kind) => kind,
                Ok((from, rule)) => match from.exact() {
                    Some(_) if exact.len() == MAX_EXACT => ProblemKind::TooManyExact { limit: MAX_EXACT },
                    Some(path) => {
                        exact.push(Exact { from: path.into(), rule });
                        continue;
                    }
                    None if patterns.len() == MAX_PATTERNS => {
                        ProblemKind::TooManyPatterns { limit: MAX_PATTERNS }
                    }
                    None => {
                        patterns.push(Patterned { from, rule });
                        continue;
                    }
                },
            };
            report.add(Problem { file: REDIRECTS_FILE, line, kind });
        }
        // Stable, so that of equal paths the first line stays first.
        exact.sort_by(|left, right| left.from.cmp(&right.from));
        exact.dedup_by(|later, first| {
            let is_same = later.from == first.from;
            if is_same {
                let kind = ProblemKind::Shadowed { first: first.rule.line };
                report.add(Problem { file: REDIRECTS_FILE, line: later.rule.line, kind });
            }
            is_same
        });
        Redirects { exact: exact.into(), patterns: patterns.into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    /// The first line that matches speaks. `path` in the spelling of [`text::path`].
    pub(super) fn find(&self, path: &str, query: Option<&str>) -> Option<RuleTarget> {
        let at = self.exact.binary_search_by(|exact| (*exact.from).cmp(path)).ok();
        let exact = at.map(|at| &self.exact[at].rule);
        let before = exact.map_or(u32::MAX, |rule| rule.line);
        let pattern = self.patterns.iter().take_while(|known| known.rule.line < before).find_map(|known| {
            let captures = known.from.captures(path)?;
            let target = known.rule.path.fill(&captures, MAX_TARGET_BYTES)?;
            (!known.circles(path, &target)).then_some((&known.rule, captures, target))
        });
        match (pattern, exact) {
            (Some((rule, captures, target)), _) => rule.target(target, &captures, query),
            (None, Some(rule)) => {
                let nothing = Captures::none();
                rule.target(rule.path.fill(&nothing, MAX_TARGET_BYTES)?, &nothing, query)
            }
            (None, None) => None,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.exact)
            + size_of_val(&*self.patterns)
            + self.exact.iter().map(|exact| exact.from.len() + exact.rule.heap_bytes()).sum::<usize>()
            + self.patterns.iter().map(|p| p.from.heap_bytes() + p.rule.heap_bytes()).sum::<usize>()
    }
}

impl Patterned {
    /// Whether following this redirect would only meet the same rule again: `/* /en/:splat 302` on `/en/x`.
    /// Such a path is where the rule wants to lead, so it is left alone. One that grows shorter ends by itself.
    fn circles(&self, path: &str, target: &str) -> bool {
        matches!(self.rule.action, Action::Redirect(_))
            && self.rule.is_local
            && target.len() >= path.len()
            && self.rule.path.could_make(path)
            && self.from.captures(target).is_some()
    }
}

impl Rule {
    fn target(&self, mut path: String, captures: &Captures<'_>, query: Option<&str>) -> Option<RuleTarget> {
        let slashes = path.bytes().take_while(|byte| *byte == b'/').count();
        if self.is_local && slashes > 1 {
            // What was captured must not become a host: `//evil.example` is one to a browser.
            path.drain(1..slashes);
        }
        let status = match self.action {
            Action::Redirect(status) => status,
            Action::Rewrite { is_forced } => return Some(RuleTarget::Rewrite { path, is_forced }),
            Action::NotFound { is_forced } => return Some(RuleTarget::NotFound { path, is_forced }),
        };
        let own = self.query.fill(captures, MAX_TARGET_BYTES)?;
        match query {
            Some(query) if own.is_empty() => {
                path.push('?');
                path.push_str(&text::query(query));
            }
            _ => path.push_str(&own),
        }
        path.push_str(&self.fragment.fill(captures, MAX_TARGET_BYTES)?);
        let location = if self.is_local { Location::Site(path) } else { Location::Elsewhere(path) };
        Some(RuleTarget::Redirect(Redirect { status, location }))
    }

    fn heap_bytes(&self) -> usize {
        self.path.heap_bytes() + self.query.heap_bytes() + self.fragment.heap_bytes()
    }
}

/// One line: `from to [status[!]]`, and a comment behind it.
fn read(line: u32, text: &str) -> Result<(Pattern, Rule), ProblemKind> {
    let fields = text.split_ascii_whitespace().take_while(|field| !field.starts_with('#'));
    let fields: Vec<&str> = fields.take(5).collect();
    let (from, to, status) = match *fields.as_slice() {
        [from, to] => (from, to, "302"),
        [from, to, status] => (from, to, status),
        [] | [_] => return Err(ProblemKind::NoTarget),
        [..] => return Err(ProblemKind::Condition),
    };
    // Netlify's conditions on query and host: without them the rule would say something else.
    if from.contains("://") || (to.contains('=') && !to.starts_with('/') && !to.contains("://")) {
        return Err(ProblemKind::Condition);
    }
    let action = action(status)?;
    let (pattern, names) = Pattern::parse(from)?;
    let rule = rule(line, action, to, &names)?;
    let leads_back = matches!(action, Action::Redirect(_))
        && rule.is_local
        && pattern.exact().is_some_and(|path| rule.path.fixed() == Some(path));
    if leads_back { Err(ProblemKind::LeadsToItself) } else { Ok((pattern, rule)) }
}

fn action(status: &str) -> Result<Action, ProblemKind> {
    let (code, is_forced) = status.strip_suffix('!').map_or((status, false), |code| (code, true));
    Ok(match code {
        "200" => Action::Rewrite { is_forced },
        "404" => Action::NotFound { is_forced },
        "301" => Action::Redirect(StatusCode::MOVED_PERMANENTLY),
        "302" => Action::Redirect(StatusCode::FOUND),
        "303" => Action::Redirect(StatusCode::SEE_OTHER),
        "307" => Action::Redirect(StatusCode::TEMPORARY_REDIRECT),
        "308" => Action::Redirect(StatusCode::PERMANENT_REDIRECT),
        _ if code.contains('=') => return Err(ProblemKind::Condition),
        _ => return Err(ProblemKind::Status),
    })
}

fn rule(line: u32, action: Action, to: &str, names: &Names) -> Result<Rule, ProblemKind> {
    let host_end = host_end(to)?;
    let is_local = host_end == 0;
    if !is_local && !matches!(action, Action::Redirect(_)) {
        return Err(ProblemKind::Elsewhere);
    }
    let (main, fragment) = to.find('#').map_or((to, ""), |at| to.split_at(at));
    let (path, query) = main.find('?').map_or((main, ""), |at| main.split_at(at));
    let (host, path) = path.split_at(host_end);
    let mut spelled = Template::parse(path, names, |text| text::path(text).into_owned());
    if !is_local {
        // A lone "/" ends the host, so that nothing that is put behind it can become a part of it.
        spelled.prepend(if path.is_empty() { format!("{host}/") } else { host.to_owned() });
    }
    let spell = |text: &str| text::query(text).into_owned();
    Ok(Rule {
        line,
        action,
        is_local,
        path: spelled,
        query: Template::parse(query, names, spell),
        fragment: Template::parse(fragment, names, spell),
    })
}

/// Where scheme and host of a target end; 0 for a path on the site itself.
fn host_end(to: &str) -> Result<usize, ProblemKind> {
    if to.starts_with('/') {
        // `//host/` would be a host without a scheme.
        return if to.starts_with("//") { Err(ProblemKind::Target) } else { Ok(0) };
    }
    let schemes = ["https://", "http://"];
    let scheme = schemes.iter().find(|scheme| {
        to.get(..scheme.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(scheme))
    });
    let Some(scheme) = scheme else { return Err(ProblemKind::Target) };
    let behind = &to[scheme.len()..];
    let host = &behind[..behind.find(['/', '?', '#']).unwrap_or(behind.len())];
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, "0"),
    };
    let is_name = !name.is_empty()
        && (name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
            || name.starts_with('[')
                && name.ends_with(']')
                && name[1..name.len() - 1].parse::<std::net::Ipv6Addr>().is_ok());
    if is_name && port.parse::<u16>().is_ok() {
        Ok(scheme.len() + host.len())
    } else {
        Err(ProblemKind::TargetHost)
    }
}
