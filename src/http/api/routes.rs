//! Why a request goes where it goes.

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use serde::{Deserialize, Serialize};

use crate::control::error::FieldProblem;
use crate::domain::Scope;
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::edge::{Strategy, dispatch};
use crate::http::openapi::ReadRefusals;
use crate::http::problem::Problem;
use crate::routing::explain::{Asked, Explained, Named, Step, explain};
use crate::routing::{Live, Target};

/// As long as browsers take them; escaped, it still fits into a request line.
const URL_CHARS: usize = 2_048;

#[derive(Debug, Deserialize)]
pub struct Question {
    url: Option<String>,
}

/// Every rule that was tried for an address, and what came out.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteExplanation {
    pub url: String,
    /// `subdomain`, `custom_domain`, `path`, `query`, `platform` or `none`.
    #[schema(example = "subdomain")]
    pub strategy: String,
    /// In the order in which they were tried.
    pub steps: Vec<RouteStep>,
    /// `worker`, `preview`, `redirect`, `platform` or `refused`.
    #[schema(example = "worker")]
    pub winner: String,
    /// Where it is of the credential's organization, or an operator asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The live version, or that of the preview.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// The code that such a request is refused with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Of the server's routing table.
    pub route_epoch: u64,
}

/// One rule.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStep {
    #[schema(example = "worker_table")]
    pub rule: String,
    pub matched: bool,
    /// For people.
    #[schema(example = "the table has the Worker 'blog'")]
    pub why: String,
}

/// Explain where an address leads.
///
/// Every rule in the order in which it is tried. Of other organizations' Workers nothing is told.
#[utoipa::path(get, path = "/api/v1/routes/explain", operation_id = "explainRoute", tag = "workers", security(("bearer" = [])),
    params(("url" = String, Query, description = "Such as https://blog.libra.sh/about; without a scheme too", min_length = 1, max_length = 2048)),
    responses((status = 200, description = "The rules and the winner", body = RouteExplanation), ReadRefusals))]
pub async fn get(
    caller: Caller,
    question: Query<Question>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let url = question.into_inner().url.unwrap_or_default();
    let parts = split(&url).map_err(|why| Problem::validation(vec![FieldProblem::new("url", why)]))?;
    let viewer = (!who.admin).then(|| who.org_id.to_string());
    Ok(HttpResponse::Ok().json(explained(&door, &url, &parts, viewer.as_deref())))
}

fn explained(door: &FrontDoor, url: &str, parts: &Parts<'_>, viewer: Option<&str>) -> RouteExplanation {
    let found = dispatch::find(&http::Method::GET, parts.path, parts.query);
    let named = found.as_ref().map(|found| {
        found.as_ref().map(|found| Named {
            worker: &found.worker,
            by_query: found.strategy == Strategy::Query,
            path: found.path,
            query: found.query.as_deref(),
        })
    });
    let named = door.control.settings.dispatch.path_routing.then(|| named.map_err(Clone::clone));
    let asked = Asked { authority: parts.authority, path: parts.path, query: parts.query, named };
    document(url, explain(&asked, &door.rules, &door.tables, viewer), door.tables.epoch())
}

fn document(url: &str, told: Explained, route_epoch: u64) -> RouteExplanation {
    let (winner, worker, version_id) = match &told.winner {
        Err(_) => ("refused", None, None),
        Ok(None) => ("platform", None, None),
        Ok(Some(Target::Redirect(_))) => ("redirect", None, None),
        Ok(Some(Target::Preview(version))) => ("preview", None, Some(version.id().to_owned())),
        Ok(Some(Target::Worker(route))) => {
            let version = match &route.live {
                Live::Site(version) => Some(version.id().to_owned()),
                Live::Nothing | Live::Split(_) | Live::Upstream(_) => None,
            };
            ("worker", Some(route.worker.to_string()), version)
        }
    };
    let shown = |value: Option<String>| value.filter(|_| told.is_visible);
    RouteExplanation {
        url: url.to_owned(),
        strategy: told.strategy.to_owned(),
        winner: winner.to_owned(),
        worker: shown(worker),
        version_id: shown(version_id),
        refusal: told.winner.err().map(|refusal| Problem::from(refusal).code().to_owned()),
        steps: told.steps.into_iter().map(RouteStep::from).collect(),
        route_epoch,
    }
}

impl From<Step> for RouteStep {
    fn from(step: Step) -> Self {
        Self { rule: step.rule.as_str().to_owned(), matched: step.matched, why: step.why }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Parts<'u> {
    authority: &'u str,
    path: &'u str,
    query: Option<&'u str>,
}

/// Nothing is normalised: that is a step of the explanation.
fn split(url: &str) -> Result<Parts<'_>, &'static str> {
    if url.is_empty() {
        return Err("is required");
    }
    if url.chars().count() > URL_CHARS {
        return Err("must be an address of at most 2048 characters");
    }
    let rest = match url.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        // A query may well hold another address.
        Some((before, _)) if !before.contains(['/', '?', '.']) => {
            return Err("must begin with http:// or https://");
        }
        _ => url,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, target) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    Ok(Parts { authority, path: if path.is_empty() { "/" } else { path }, query })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_apart_as_it_was_written() {
        for (url, expected) in [
            ("https://Blog.libra.sh:1/a%2f?b=c?#d", ("Blog.libra.sh:1", "/a%2f", Some("b=c?"))),
            ("blog.libra.sh", ("blog.libra.sh", "/", None)),
            ("http://libra.sh?worker=blog", ("libra.sh", "/", Some("worker=blog"))),
            ("libra.sh/x?to=https://y", ("libra.sh", "/x", Some("to=https://y"))),
            ("http://user@x/", ("user@x", "/", None)),
            // No host at all: that is the first rule's to say.
            ("a b/c", ("a b", "/c", None)),
        ] {
            let parts = split(url).unwrap();
            assert_eq!((parts.authority, parts.path, parts.query), expected, "{url}");
        }
        for url in ["", "ftp://x", &"x".repeat(2_049)] {
            assert!(split(url).is_err(), "{url}");
        }
    }
}
