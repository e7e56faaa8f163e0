//! `/api/v1/projects`.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path, Query};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ObjectBuilder, Type};

use super::page;
use crate::control::projects::egress_hosts;
use crate::control::{ControlError, templates};
use crate::domain::egress::EgressHost;
use crate::domain::{OrgId, ProjectId, Scope, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::Json;
use crate::http::fields::{Fields, Problems};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::projects::ProjectRow;

const NAME: usize = 100;

#[derive(utoipa::ToSchema)]
#[schema(as = ProjectRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `create` is its one reader")]
struct ProjectBody {
    /// Shown to people; the Worker name is made from it.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        example = "My site"
    )]
    name: String,
    /// Must be the organization of the credential.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    org_id: String,
    /// Its files are what the project begins with, and stay beneath the initFiles of deployments.
    #[schema(schema_with = template_names)]
    template: Option<String>,
}

fn template_names() -> ObjectBuilder {
    let names = templates::all().map(|t| Some(t.name)).chain([None]).collect::<Vec<_>>();
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some(names))
        .description(Some("Its files are what the project begins with, and stay beneath initFiles."))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    pub id: String,
    pub name: String,
    pub org_id: String,
    pub worker_name: String,
    /// The live address.
    pub url: String,
    /// Hosts beyond the registry that builds may connect to.
    pub egress_hosts: Vec<String>,
    /// What it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    pub created_at: String,
}

#[derive(utoipa::ToSchema)]
#[schema(as = ProjectChange)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `change` is its one reader")]
struct ProjectChangeBody {
    /// Replaces the list: `host`, `host:port` (443 where none is named) or `*.host`, which stands for the
    /// names beneath it. Default: none. At most `sandbox.egress.hosts_per_project` (50).
    #[schema(max_items = 50, example = json!(["api.example.com", "*.cdn.example.com"]))]
    egress_hosts: Vec<EgressLine>,
}

/// A project to begin with.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TemplateSummary {
    /// As in the `template` of a new project.
    #[schema(example = "vite-react")]
    pub name: &'static str,
    pub title: &'static str,
    pub description: &'static str,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TemplateList {
    pub templates: Vec<TemplateSummary>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectPage {
    pub projects: Vec<Project>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    name: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// Make a project.
///
/// Its Worker name is its own for ever.
#[utoipa::path(post, path = "/api/v1/projects", operation_id = "createProject", tag = "projects", security(("bearer" = [])),
    request_body(content = ProjectBody, content_type = "application/json"),
    responses((status = 201, description = "Made", body = Project,
        headers(("Location" = String, description = "The project"))), WriteRefusals))]
pub async fn create(caller: Caller, body: Json, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsWrite)?;
    let mut problems = Problems::default();
    let mut name = None;
    let mut org = None;
    let mut template = None;
    if let Some(mut fields) = Fields::of(body.0, "", &mut problems) {
        name = fields.required_text("name", NAME, &mut problems).map(|n| n.trim().to_owned());
        // Names are shown in terminals.
        if name.as_ref().is_some_and(|n| n.chars().any(char::is_control)) {
            problems.add("name", "must not contain control characters");
        }
        if name.as_ref().is_some_and(String::is_empty) {
            problems.add("name", "must not be empty");
        }
        org = fields.parsed("orgId", OrgId::parse, &mut problems);
        template = fields.text("template", NAME, &mut problems).and_then(|name| {
            let found = templates::named(&name);
            if found.is_none() {
                let known = templates::all().map(|t| t.name).collect::<Vec<_>>().join(", ");
                problems.add("template", format!("must be one of {known}"));
            }
            found
        });
        fields.finish(&mut problems);
    }
    let (Some(name), Some(org), true) = (name, org, problems.is_empty()) else {
        return Err(Problem::validation(problems.into_details()));
    };
    if org != who.org_id {
        return Err(Problem::forbidden("orgId is not the organization of this credential."));
    }
    let row = door.control.project_create(who, &name, template.as_ref()).await?;
    let location = format!("/api/v1/projects/{}", row.id);
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).json(shown(&door, row)))
}

/// List projects.
///
/// Those of the credential's organization, in pages.
#[utoipa::path(get, path = "/api/v1/projects", operation_id = "listProjects", tag = "projects", security(("bearer" = [])),
    params(("name" = Option<String>, Query, description = "Only projects of exactly this name"),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before", pattern = "^[0-9a-f]{32}$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page", body = ProjectPage), ReadRefusals))]
pub async fn list(
    caller: Caller,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let mut problems = Problems::default();
    let limit = page::length(filter.limit.as_deref(), &mut problems);
    let after = filter.cursor.as_deref().and_then(|c| page::after_project(c, &mut problems));
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let name = filter.name.as_deref();
    let rows = door
        .control
        .store
        .project_list(&who.scope(), name, after.as_ref().map(ProjectId::as_str), limit + 1)
        .await;
    let mut rows = rows.map_err(ControlError::from)?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|p| p.id.clone());
    let projects = rows.into_iter().map(|p| shown(&door, p)).collect();
    Ok(HttpResponse::Ok().json(ProjectPage { projects, next_cursor }))
}

/// List templates.
///
/// What `POST /api/v1/projects` can begin with.
#[utoipa::path(get, path = "/api/v1/templates", operation_id = "listTemplates", tag = "projects", security(("bearer" = [])),
    responses((status = 200, description = "All of them", body = TemplateList), ReadRefusals))]
pub async fn list_templates(caller: Caller) -> Result<HttpResponse, Problem> {
    caller.with(Scope::ProjectsRead)?;
    let shown =
        |t: templates::Template| TemplateSummary { name: t.name, title: t.title, description: t.description };
    Ok(HttpResponse::Ok().json(TemplateList { templates: templates::all().map(shown).collect() }))
}

/// Show a project.
#[utoipa::path(get, path = "/api/v1/projects/{id}", operation_id = "getProject", tag = "projects", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The project", body = Project), ReadRefusals))]
pub async fn get(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let row = door.control.project_get(&who.scope(), &project_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(shown(&door, row)))
}

/// Change a project.
///
/// Counts from its next deployment on.
#[utoipa::path(patch, path = "/api/v1/projects/{id}", operation_id = "changeProject", tag = "projects", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    request_body(content = ProjectChangeBody, content_type = "application/json"),
    responses((status = 200, description = "The project as it is now", body = Project), WriteRefusals))]
pub async fn change(
    caller: Caller,
    id: Path<String>,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let scope = caller.with(Scope::ProjectsWrite)?.scope();
    let id = project_id(&id)?;
    let most = door.control.settings.sandbox.egress.hosts_per_project;
    let mut problems = Problems::default();
    let mut hosts = None;
    if let Some(mut fields) = Fields::of(body.0, "", &mut problems) {
        hosts = fields.list("egressHosts", &mut problems);
        if hosts.is_none() && problems.is_empty() {
            problems.add("egressHosts", "is required");
        }
        fields.finish(&mut problems);
    }
    let hosts = egress_lines(hosts.unwrap_or_default(), most, &mut problems);
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let row = door.control.project_egress_set(&scope, &id, &hosts).await?;
    Ok(HttpResponse::Ok().json(shown(&door, row)))
}

fn egress_lines(list: Vec<Value>, most: usize, problems: &mut Problems) -> Vec<EgressHost> {
    if list.len() > most {
        problems.add("egressHosts", format!("must have at most {most} hosts"));
        return Vec::new();
    }
    let mut hosts: Vec<EgressHost> = Vec::with_capacity(list.len());
    for (at, line) in list.iter().enumerate() {
        let name = || format!("egressHosts[{at}]");
        match line.as_str().map(EgressHost::parse) {
            Some(Ok(host)) if hosts.contains(&host) => {}
            Some(Ok(host)) => hosts.push(host),
            Some(Err(error)) => problems.add(name(), error.to_string()),
            None => problems.add(name(), "must be a string"),
        }
    }
    hosts
}

/// `host`, `host:port` or `*.host`; stored in lower case, names of other scripts as A-labels.
#[derive(utoipa::ToSchema)]
#[schema(as = EgressHost, max_length = 200, example = "api.example.com",
    pattern = r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){1,8}[a-z][a-z0-9]{0,61}(:([1-9][0-9]{0,3}|[1-5][0-9]{4}))?$")]
#[expect(dead_code, reason = "documents the request")]
struct EgressLine(String);

/// A malformed id is as unknown as a wrong one.
pub fn project_id(text: &str) -> Result<ProjectId, Problem> {
    ProjectId::parse(text).map_err(|_| ControlError::ProjectNotFound.into())
}

fn shown(door: &FrontDoor, row: ProjectRow) -> Project {
    let egress_hosts = egress_hosts(&row);
    Project {
        url: door.control.addresses.worker(&row.worker_name),
        template: templates::name_of(&row).map(ToOwned::to_owned),
        id: row.id,
        name: row.name,
        org_id: row.org_id,
        worker_name: row.worker_name,
        egress_hosts,
        created_at: time::rfc3339(row.created_at),
    }
}
