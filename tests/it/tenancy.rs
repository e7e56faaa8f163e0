//! Two organizations on one server do not see each other: tried on every route that the OpenAPI
//! document has, so that a new route is tried by itself.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::answers::assert_problem;
use crate::app::{TestApp, answer};
use crate::tenants::Member;

/// Every route that needs a credential: method, path, scope it asks for.
async fn guarded_routes(app: &TestApp) -> Vec<(Method, String)> {
    let (_, document) = app.get("/openapi.json").await;
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let guarded = operation.get("security").is_some();
            assert!(guarded || !path.starts_with("/api/v1"), "{method} {path} is open to anybody");
            if guarded {
                routes.push((method.to_uppercase().parse().unwrap(), path.clone()));
            }
        }
    }
    assert!(routes.len() >= 11, "{routes:?}");
    routes
}

/// A body that would be right if the caller might do it.
fn body_for(method: &Method, path: &str, org: &str, user: &str, project: &str) -> Option<Value> {
    let files = json!([{ "path": "index.html", "content": "intruder" }]);
    match (method.as_str(), path) {
        ("POST", "/deploy") => {
            Some(json!({ "projectId": project, "orgId": org, "userId": user, "initFiles": files }))
        }
        ("POST", "/api/v1/projects") => Some(json!({ "name": "intruder", "orgId": org })),
        ("POST", "/api/v1/domains") => {
            Some(json!({ "projectId": project, "hostname": "intruder.example.com" }))
        }
        ("POST", "/api/v1/dead-letters/redrive") => {
            Some(json!({ "filter": { "projectId": project }, "rate": 1 }))
        }
        ("PATCH", _) => Some(json!({ "egressHosts": ["intruder.example"] })),
        ("POST", path) if path.ends_with("/promote") => Some(json!({ "versionId": "0".repeat(32) })),
        ("PUT", path) if path.ends_with("/split") => {
            Some(json!({ "versionId": "0".repeat(32), "percent": 10 }))
        }
        ("PUT", path) if path.ends_with("/upstream") => Some(json!({ "origins": ["http://1.1.1.1"] })),
        ("PUT", path) if path.ends_with("/queue") => Some(json!({ "weight": 100 })),
        ("PUT", _) => Some(json!({ "files": files })),
        _ => None,
    }
}

/// A claim on a domain, and its id.
async fn domain(app: &TestApp, project: &str) -> String {
    let body = json!({ "projectId": project, "hostname": "mine.example.com" });
    let (status, made) = app.post("/api/v1/domains", &body).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

/// What `{id}` stands for in a path.
/// Asked what it does with an address.
const EXPLAIN: &str = "/api/v1/routes/explain";

/// The path, with what it can't be asked without.
fn with_query(path: &str, worker: &str) -> String {
    if path == EXPLAIN { format!("{path}?url=http://{worker}.libra.localhost/") } else { path.to_owned() }
}

fn id_of<'a>(path: &str, deployment: &'a str, domain: &'a str, project: &'a str, org: &'a str) -> &'a str {
    match path {
        path if path.contains("organizations") => org,
        path if path.contains("deployments") => deployment,
        path if path.contains("domains") => domain,
        _ => project,
    }
}

async fn send(request: reqwest::RequestBuilder, body: Option<Value>) -> Response {
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    request.send().await.unwrap()
}

/// An answer without what differs from request to request.
async fn essence(response: Response) -> (u16, Value) {
    let (status, mut document) = answer(response).await;
    if let Some(fields) = document.as_object_mut() {
        fields.remove("requestId");
        fields.remove("timestamp");
    }
    (status.as_u16(), document)
}

#[tokio::test]
async fn no_route_shows_or_changes_what_another_organization_has() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("mine").await;
    let id = app.deploy_live(&app.body(&project, &[("index.html", "mine")])).await;
    let domain = domain(&app, &project).await;
    let other = Member::of_new_organization(&app, "others");
    let before = app.rows("select count(*) from deployment");
    let unknown = "0123456789ab4def8123456789abcdef";

    for (method, path) in guarded_routes(&app).await {
        let theirs = path.replace("{id}", id_of(&path, &id, &domain, &project, &app.org));
        let nobodys = path.replace("{id}", unknown);
        // Another organization's thing is exactly as unknown as one that never was.
        if path.contains("{id}") {
            let body = || body_for(&method, &path, &other.org, &other.user, &project);
            let seen = essence(send(other.request(&app, method.clone(), &theirs), body()).await).await;
            let never = essence(send(other.request(&app, method.clone(), &nobodys), body()).await).await;
            assert_eq!(seen.0, 404, "{method} {path}: {}", seen.1);
            assert_eq!(seen, never, "{method} {path}");
        } else if method == Method::GET {
            let asked = with_query(&path, &worker);
            let (status, list) =
                essence(other.request(&app, method.clone(), &asked).send().await.unwrap()).await;
            assert_eq!(status, 200, "{path}");
            if path == EXPLAIN {
                let told = list.to_string();
                assert!(!told.contains(&id) && !told.contains(&project), "{told}");
                assert!(list.get("worker").is_none() && list.get("versionId").is_none(), "{told}");
                continue;
            }
            let lists: Vec<&Value> = list.as_object().unwrap().values().collect();
            // Templates are everybody's.
            assert!(path == "/api/v1/templates" || lists == [&json!([])], "{path}: {list}");
        } else {
            // In my organization's name, and in their own with my project.
            let body = body_for(&method, &path, &app.org, &app.user, &project);
            let names_org = body.as_ref().is_some_and(|b| b.get("orgId").is_some());
            let expected = if names_org { (403, "FORBIDDEN") } else { (404, "PROJECT_NOT_FOUND") };
            let response = send(other.request(&app, method.clone(), &path), body).await;
            assert_problem(response, expected.0, expected.1).await;
        }
        // Without a credential, and with one that is none.
        for credential in ["", "Bearer libra_unknown"] {
            let body = body_for(&method, &path, &app.org, &app.user, &project);
            let url = format!("http://{}{theirs}", app.server.address);
            let request = app.http.request(method.clone(), url).header("authorization", credential);
            assert_problem(send(request, body).await, 401, "UNAUTHORIZED").await;
        }
    }
    let response =
        other.request(&app, Method::POST, "/deploy").json(&other.body(&project)).send().await.unwrap();
    assert_problem(response, 404, "PROJECT_NOT_FOUND").await;
    let filtered = other.request(&app, Method::GET, &format!("/api/v1/deployments?projectId={project}"));
    assert_eq!(answer(filtered.send().await.unwrap()).await.1, json!({ "deployments": [] }));

    assert_eq!(app.rows("select count(*) from deployment"), before);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "mine");
    assert_eq!(app.status(&id).await["status"], "completed");

    // The same bytes are stored once for each, and neither's key stands for the other's deployment.
    let theirs = other.project(&app, "theirs").await;
    let mut body = other.body(&theirs);
    body["initFiles"][0]["content"] = json!("mine");
    let key = "the-same-key";
    let mine = app.body(&project, &[("index.html", "mine")]);
    let (_, first) = answer(
        app.request(Method::POST, "/deploy").header("idempotency-key", key).json(&mine).send().await.unwrap(),
    )
    .await;
    let request = other.request(&app, Method::POST, "/deploy").header("idempotency-key", key).json(&body);
    let (status, second) = answer(request.send().await.unwrap()).await;
    assert_eq!(status, 202, "{second}");
    assert_ne!(first["deploymentId"], second["deploymentId"]);
    let shared = "select count(distinct org_id), count(*) from blob_ref group by digest having count(*) > 1";
    assert!(
        app.rows(shared).iter().all(|row| row[0] == row[1]),
        "a blob is referenced once per organization"
    );
    let kept = app.folder.ground.blob_folder(&app.folder.data());
    let folders =
        |org: &str| std::fs::read_dir(&kept).unwrap().flatten().any(|e| contains_org(&e.path(), org));
    assert!(folders(&app.org) && folders(&other.org), "each organization has a name space of its own");
}

/// Whether a folder at or right beneath `path` is named after the organization.
fn contains_org(path: &std::path::Path, org: &str) -> bool {
    let named =
        |path: &std::path::Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(org));
    named(path) || std::fs::read_dir(path).is_ok_and(|list| list.flatten().any(|e| named(&e.path())))
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_ends_when_told() {
    let app = TestApp::start().await;
    let (project, _) = app.project("scoped").await;
    let id = app.deploy_live(&app.body(&project, &[("index.html", "x")])).await;
    let domain = domain(&app, &project).await;
    let scopes = ["projects:read", "projects:write", "deployments:read", "deployments:write"];
    let tokens = scopes.map(|scope| (scope, Member::token(&app, &app.org, &app.user, &["--scope", scope])));
    for (method, path) in guarded_routes(&app).await {
        let asked =
            with_query(&path.replace("{id}", id_of(&path, &id, &domain, &project, &app.org)), "scopes");
        // An operator's alone, whatever the scopes say.
        if path.ends_with("/upstream") || path.ends_with("/queue") {
            continue;
        }
        let rooms = ["projects", "templates", "workers", "domains", "certificates", "routes"];
        let room = if rooms.iter().any(|room| path.contains(room)) { "projects" } else { "deployments" };
        let needed = format!("{room}:{}", if method == Method::GET { "read" } else { "write" });
        for (scope, member) in &tokens {
            let body = body_for(&method, &path, &app.org, &app.user, &project);
            let response = send(member.request(&app, method.clone(), &asked), body).await;
            if *scope == needed {
                assert!(response.status() != 403 && response.status() != 401, "{method} {path} with {scope}");
            } else {
                let document = assert_problem(response, 403, "FORBIDDEN").await;
                assert!(
                    document["message"].as_str().unwrap().contains(&needed),
                    "{method} {path}: {document}"
                );
            }
        }
    }
    let (_, member) = &tokens[0];
    let asks = async || member.request(&app, Method::GET, "/api/v1/projects").send().await.unwrap();
    assert_eq!(asks().await.status(), 200);
    assert!(app.cli(&["tokens", "revoke", &member.token_id]).status.success());
    assert_problem(asks().await, 401, "UNAUTHORIZED").await;

    let short = Member::token(&app, &app.org, &app.user, &["--days", "1"]);
    let asks = async || short.request(&app, Method::GET, "/api/v1/projects").send().await.unwrap();
    assert_eq!(asks().await.status(), 200);
    // A day passes.
    let a_day_on =
        format!("update api_token set expires_at = expires_at - 86400001 where id = '{}'", short.token_id);
    app.change(&a_day_on);
    assert_problem(asks().await, 401, "UNAUTHORIZED").await;
    // Only hashes are kept.
    for stored in app.rows("select secret_hash, name from api_token") {
        assert!(!stored.iter().any(|text| text.contains("libra_")), "{stored:?}");
    }
}
