//! `/api/v1/certificates`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use serde::{Deserialize, Serialize};

use super::page;
use crate::control::certificates::CertificateView;
use crate::domain::hostname::Hostname;
use crate::domain::{CertificateState, ChallengeKind, Scope, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::fields::Problems;
use crate::http::openapi::ReadRefusals;
use crate::http::problem::Problem;

/// How one custom domain's certificate stands.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    #[schema(example = "shop.example.com")]
    pub hostname: String,
    pub project_id: String,
    pub state: CertificateState,
    /// `operator`: the platform's own certificate serves the name, and no issuer is asked. `acme`: an issuer.
    #[schema(example = "acme")]
    pub source: &'static str,
    /// Who gave it; where there is none yet, who was asked last.
    #[schema(example = "acme-v02.api.letsencrypt.org")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// How the name was proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<ChallengeKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// What the issuer said last, where there is no certificate or its renewal failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_words: Option<String>,
    /// When it is renewed or tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatePage {
    pub certificates: Vec<Certificate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    hostname: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// List certificates.
///
/// One for each proved custom domain of the credential's organization, in pages.
#[utoipa::path(get, path = "/api/v1/certificates", operation_id = "listCertificates", tag = "certificates", security(("bearer" = [])),
    params(("hostname" = Option<String>, Query, description = "Only this domain", max_length = 253, pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before", max_length = 253, pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page", body = CertificatePage), ReadRefusals))]
pub async fn list(
    caller: Caller,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let mut problems = Problems::default();
    let limit = page::length(filter.limit.as_deref(), &mut problems);
    let hostname = name_of("hostname", filter.hostname.as_deref(), &mut problems);
    let after = name_of("cursor", filter.cursor.as_deref(), &mut problems);
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let (hostname, after) = (hostname.as_ref().map(Hostname::as_str), after.as_ref().map(Hostname::as_str));
    let mut rows = door.control.certificate_list(&who.scope(), hostname, after, limit + 1).await?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|c| c.hostname.clone());
    let certificates = rows.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(CertificatePage { certificates, next_cursor }))
}

fn name_of(field: &str, text: Option<&str>, problems: &mut Problems) -> Option<Hostname> {
    let parsed = Hostname::parse(text?);
    if parsed.is_err() {
        problems.add(field, "must be a host name");
    }
    parsed.ok()
}

fn shown(view: CertificateView) -> Certificate {
    Certificate {
        hostname: view.hostname,
        project_id: view.project_id,
        state: view.state,
        source: if view.operators { "operator" } else { "acme" },
        issuer: view.issuer,
        challenge: view.challenge,
        not_before: view.not_before.map(time::rfc3339),
        not_after: view.not_after.map(time::rfc3339),
        last_words: view.last_words,
        next_try: view.next_try_at.map(time::rfc3339),
    }
}
