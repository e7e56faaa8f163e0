//! `/api/v1/domains`: custom domains, the records that prove them, and where they stand.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path, Query};
use serde::{Deserialize, Serialize};

use super::page;
use crate::control::domain_claims::DnsRecord;
use crate::control::domains::claimable;
use crate::control::{Control, ControlError};
use crate::domain::hostname::Hostname;
use crate::domain::{DomainId, DomainStatus, ProjectId, Scope, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::Json;
use crate::http::fields::{Fields, Problems};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::domains::{DomainFilter, DomainRow};

/// Longer ones are no names, however they are spelt.
const NAME: usize = 1_000;

#[derive(utoipa::ToSchema)]
#[schema(as = DomainRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `add` is its one reader")]
struct DomainBody {
    /// The project that it leads to.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    project_id: String,
    /// The domain; names of other scripts and capitals are stored as lower-case A-labels.
    #[schema(
        max_length = 246,
        example = "shop.example.com",
        pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$"
    )]
    hostname: String,
    /// Another domain of the project, which answers itself, to which requests are sent on with 308.
    #[schema(
        max_length = 246,
        example = "www.example.com",
        pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$"
    )]
    redirect_to: Option<String>,
}

/// A custom domain, and what its owner sets at it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomDomain {
    pub id: String,
    pub project_id: String,
    #[schema(example = "shop.example.com")]
    pub hostname: String,
    pub status: DomainStatus,
    /// What the last look saw, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// To be set at the domain's DNS provider, exactly so.
    pub records: Vec<DomainRecord>,
    /// What else to know for setting them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_to: Option<String>,
    pub created_at: String,
    /// When a claim that is not proved ends, a lost name is given up, or a failed claim is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<String>,
    /// A failed claim is not looked at by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_check_at: Option<String>,
    /// When the proof was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<String>,
    /// Since when the proof is seen to be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined_at: Option<String>,
}

/// A DNS record.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DomainRecord {
    /// TXT proves the domain; CNAME, A and AAAA lead it here.
    #[serde(rename = "type")]
    #[schema(example = "TXT")]
    pub kind: &'static str,
    #[schema(example = "_libra.shop.example.com")]
    pub name: String,
    #[schema(example = "libra-domain-verification=0f8fad5bd9cb469fa165708677289501")]
    pub value: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainPage {
    pub domains: Vec<CustomDomain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    project_id: Option<String>,
    hostname: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// Add a custom domain to a project.
///
/// It is served once its TXT record is found, which is looked for again and again for a week.
/// Adding a domain that the project has already sets where it redirects to.
#[utoipa::path(post, path = "/api/v1/domains", operation_id = "addDomain", tag = "domains", security(("bearer" = [])),
    request_body(content = DomainBody, content_type = "application/json"),
    responses((status = 201, description = "Claimed: set its records", body = CustomDomain,
            headers(("Location" = String, description = "The domain"))),
        (status = 200, description = "The project has it already", body = CustomDomain), WriteRefusals))]
pub async fn add(caller: Caller, body: Json, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsWrite)?;
    let mut problems = Problems::default();
    let (mut project, mut hostname, mut redirect_to) = (None, None, None);
    if let Some(mut fields) = Fields::of(body.0, "", &mut problems) {
        project = fields.parsed("projectId", ProjectId::parse, &mut problems);
        let text = fields.required_text("hostname", NAME, &mut problems);
        hostname = text.and_then(|t| name(&door.control, "hostname", &t, &mut problems));
        let text = fields.text("redirectTo", NAME, &mut problems);
        redirect_to = text.and_then(|t| name(&door.control, "redirectTo", &t, &mut problems));
        fields.finish(&mut problems);
    }
    let (Some(project), Some(hostname), true) = (project, hostname, problems.is_empty()) else {
        return Err(Problem::validation(problems.into_details()));
    };
    let (row, is_new) = door.control.domain_add(who, &project, &hostname, redirect_to.as_ref()).await?;
    let location = format!("/api/v1/domains/{}", row.id);
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(response.insert_header((header::LOCATION, location)).json(one(&door.control, row).await?))
}

/// List custom domains.
///
/// Those of the credential's organization, in pages.
#[utoipa::path(get, path = "/api/v1/domains", operation_id = "listDomains", tag = "domains", security(("bearer" = [])),
    params(("projectId" = Option<String>, Query, pattern = "^[0-9a-f]{32}$"),
        ("hostname" = Option<String>, Query, description = "Only this one", max_length = 253, pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before", pattern = "^[0-9a-f]{32}$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page", body = DomainPage), ReadRefusals))]
pub async fn list(
    caller: Caller,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let filter = read(filter.into_inner())?;
    let limit = filter.limit;
    let wanted = DomainFilter { limit: limit + 1, ..filter };
    let rows = door.control.store.domain_list(&who.scope(), &wanted).await;
    let mut rows = rows.map_err(ControlError::from)?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|d| d.id.clone());
    let domains = shown(&door.control, rows).await?;
    Ok(HttpResponse::Ok().json(DomainPage { domains, next_cursor }))
}

/// Show a custom domain.
#[utoipa::path(get, path = "/api/v1/domains/{id}", operation_id = "getDomain", tag = "domains", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The domain", body = CustomDomain), ReadRefusals))]
pub async fn get(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let scope = caller.with(Scope::ProjectsRead)?.scope();
    let row = door.control.domain_get(&scope, &domain_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(one(&door.control, row).await?))
}

/// Look for a custom domain's proof now.
///
/// `message` says what was seen. One domain can be asked for every few seconds.
#[utoipa::path(post, path = "/api/v1/domains/{id}/verify", operation_id = "verifyDomain", tag = "domains", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The domain as it is now", body = CustomDomain), WriteRefusals))]
pub async fn verify(
    caller: Caller,
    id: Path<String>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let scope = caller.with(Scope::ProjectsWrite)?.scope();
    let row = door.control.domain_verify(&scope, &domain_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(one(&door.control, row).await?))
}

/// Remove a custom domain.
///
/// It is not served any more, and anybody may claim it.
#[utoipa::path(delete, path = "/api/v1/domains/{id}", operation_id = "removeDomain", tag = "domains", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 204, description = "Removed"), WriteRefusals))]
pub async fn remove(
    caller: Caller,
    id: Path<String>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let scope = caller.with(Scope::ProjectsWrite)?.scope();
    door.control.domain_remove(&scope, &domain_id(&id)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A malformed id is as unknown as a wrong one.
fn domain_id(text: &str) -> Result<DomainId, Problem> {
    DomainId::parse(text).map_err(|_| ControlError::DomainNotFound.into())
}

/// A bare name: what looks like an address with a port was meant for something else.
fn name(control: &Control, field: &str, text: &str, problems: &mut Problems) -> Option<Hostname> {
    let domains = &control.settings.domains;
    let checked = match Hostname::parse(text) {
        Ok(_) if text.contains(':') && !text.starts_with('[') => {
            Err("must be a name without a port".to_owned())
        }
        Ok(host) => match claimable(&host, &domains.base, &domains.platform_hosts) {
            Ok(()) => Ok(host),
            Err(why) => Err(why.to_owned()),
        },
        Err(e) => Err(e.to_string()),
    };
    checked.map_err(|why| problems.add(field, why)).ok()
}

fn read(filter: Filter) -> Result<DomainFilter, Problem> {
    let mut problems = Problems::default();
    let limit = page::length(filter.limit.as_deref(), &mut problems);
    let project = filter
        .project_id
        .as_deref()
        .and_then(|p| ProjectId::parse(p).map_err(|e| problems.add("projectId", e.to_string())).ok());
    let hostname = filter
        .hostname
        .as_deref()
        .and_then(|h| Hostname::parse(h).map_err(|e| problems.add("hostname", e.to_string())).ok());
    let after = filter.cursor.as_deref().and_then(|c| page::after_domain(c, &mut problems));
    if problems.is_empty() {
        Ok(DomainFilter { project, hostname: hostname.map(String::from), after, limit })
    } else {
        Err(Problem::validation(problems.into_details()))
    }
}

async fn one(control: &Control, row: DomainRow) -> Result<CustomDomain, Problem> {
    let mut shown = shown(control, vec![row]).await?;
    shown.pop().ok_or_else(|| ControlError::DomainNotFound.into())
}

async fn shown(control: &Control, rows: Vec<DomainRow>) -> Result<Vec<CustomDomain>, Problem> {
    let workers = control.store.domain_workers(&rows).await.map_err(ControlError::from)?;
    let with_worker = |row: DomainRow| {
        let worker = workers.get(&row.project_id)?;
        Some(document(control, row, worker))
    };
    Ok(rows.into_iter().filter_map(with_worker).collect())
}

fn document(control: &Control, row: DomainRow, worker_name: &str) -> CustomDomain {
    let instructions = control.domain_instructions(&row, worker_name);
    let status = DomainStatus::parse(&row.status).unwrap_or(DomainStatus::Failed);
    let record = |DnsRecord { kind, name, value }| DomainRecord { kind, name, value };
    CustomDomain {
        status,
        records: instructions.records.into_iter().map(record).collect(),
        hint: instructions.hint,
        created_at: time::rfc3339(row.created_at),
        expires_at: row.expires_at.map(time::rfc3339),
        verified_at: row.verified_at.map(time::rfc3339),
        checked_at: row.checked_at.map(time::rfc3339),
        next_check_at: (status != DomainStatus::Failed).then(|| time::rfc3339(row.next_check_at)),
        proved_at: row.proved_at.map(time::rfc3339),
        lost_since: row.lost_since.map(time::rfc3339),
        quarantined_at: row.quarantined_at.map(time::rfc3339),
        id: row.id,
        project_id: row.project_id,
        hostname: row.hostname,
        message: row.message,
        redirect_to: row.redirect_to,
    }
}
