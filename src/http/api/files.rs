//! `/api/v1/projects/{id}/files`: the stored source tree.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::deploy_body;
use super::deploy_schema::FilesBody;
use super::projects::project_id;
use crate::control::ControlError;
use crate::domain::source::SourceTree;
use crate::domain::{OrgScope, Scope};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::Json;
use crate::http::fields::{Fields, Problems};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StoredFile {
    pub path: String,
    /// SHA-256 of the content.
    pub digest: String,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// `utf8` or `base64`; with `content` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StoredTree {
    pub files: Vec<StoredFile>,
}

#[derive(Debug, Deserialize)]
pub struct Asked {
    contents: Option<bool>,
}

/// Show the stored files.
#[utoipa::path(get, path = "/api/v1/projects/{id}/files", operation_id = "getProjectFiles", tag = "projects", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("contents" = Option<bool>, Query, description = "Whether contents come along; default false")),
    responses((status = 200, description = "The files, by path", body = StoredTree), ReadRefusals))]
pub async fn get(
    caller: Caller,
    id: Path<String>,
    asked: Query<Asked>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let scope = caller.with(Scope::ProjectsRead)?.scope();
    let tree = door.control.project_files(&scope, &project_id(&id)?).await?;
    let contents = asked.contents.unwrap_or(false);
    let most = door.control.settings.http.body_bytes as u64;
    if contents && tree.total_bytes() > most {
        return Err(Problem::too_large(format!(
            "The contents have more than {most} bytes; ask without contents."
        )));
    }
    let files = listed(&door, &scope, tree, contents).await?;
    Ok(HttpResponse::Ok().json(StoredTree { files }))
}

/// Replace the stored files.
#[utoipa::path(put, path = "/api/v1/projects/{id}/files", operation_id = "replaceProjectFiles", tag = "projects", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    request_body(content = FilesBody, content_type = "application/json"),
    responses((status = 200, description = "The files as they are stored now", body = StoredTree), WriteRefusals))]
pub async fn put(
    caller: Caller,
    id: Path<String>,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let scope = caller.with(Scope::ProjectsWrite)?.scope();
    let id = project_id(&id)?;
    let mut problems = Problems::default();
    let mut files = None;
    if let Some(mut fields) = Fields::of(body.0, "", &mut problems) {
        files = deploy_body::files(&mut fields, "files", &door.control.settings, &mut problems)?;
        if files.is_none() && problems.is_empty() {
            problems.add("files", "is required");
        }
        fields.finish(&mut problems);
    }
    let (Some(files), true) = (files, problems.is_empty()) else {
        return Err(Problem::validation(problems.into_details()));
    };
    let tree = door.control.project_files_replace(&scope, &id, files).await?;
    let files = listed(&door, &scope, tree, false).await?;
    Ok(HttpResponse::Ok().json(StoredTree { files }))
}

async fn listed(
    door: &FrontDoor,
    scope: &OrgScope,
    tree: SourceTree,
    contents: bool,
) -> Result<Vec<StoredFile>, Problem> {
    let mut files = Vec::with_capacity(tree.files.len());
    for (path, entry) in tree.files {
        let (mut content, mut encoding) = (None, None);
        if contents {
            let bytes = door.control.blobs.get(scope.org().as_str(), &entry.digest).await;
            let bytes = bytes.map_err(ControlError::from)?;
            let (text, how) = match std::str::from_utf8(&bytes) {
                Ok(text) => (text.to_owned(), "utf8"),
                Err(_) => (STANDARD.encode(&bytes), "base64"),
            };
            (content, encoding) = (Some(text), Some(how));
        }
        files.push(StoredFile {
            path,
            digest: entry.digest.to_string(),
            size: entry.size,
            content,
            encoding,
        });
    }
    Ok(files)
}
