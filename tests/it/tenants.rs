//! Further organizations, users and tokens of a test, made as an operator makes them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{TestApp, answer};

/// Somebody with a credential.
pub struct Member {
    pub org: String,
    pub user: String,
    pub token: String,
    pub token_id: String,
}

/// Runs a command of the program that prints one JSON document.
pub fn printed(app: &TestApp, arguments: &[&str]) -> Value {
    let output = app.cli(arguments);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&shown).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {shown}"))
}

impl Member {
    /// A user of a new organization.
    pub fn of_new_organization(app: &TestApp, name: &str) -> Self {
        let org = printed(app, &["orgs", "create", name, "--json"])["orgId"].as_str().unwrap().to_owned();
        let made = printed(app, &["users", "create", &format!("{name}-user"), "--of", &org, "--json"]);
        let user = made["userId"].as_str().unwrap().to_owned();
        Self::token(app, &org, &user, &[])
    }

    /// A token with these options.
    pub fn token(app: &TestApp, org: &str, user: &str, options: &[&str]) -> Self {
        let arguments: Vec<&str> = ["tokens", "create", "--of", org, "--as", user, "--json"]
            .iter()
            .chain(options)
            .copied()
            .collect();
        let made = printed(app, &arguments);
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        Self { org: org.to_owned(), user: user.to_owned(), token: text("token"), token_id: text("tokenId") }
    }

    pub fn request(&self, app: &TestApp, method: Method, path: &str) -> reqwest::RequestBuilder {
        app.http.request(method, format!("http://{}{path}", app.server.address)).bearer_auth(&self.token)
    }

    /// A project of this member's organization.
    pub async fn project(&self, app: &TestApp, name: &str) -> String {
        let body = json!({ "name": name, "orgId": self.org });
        let (status, made) =
            answer(self.request(app, Method::POST, "/api/v1/projects").json(&body).send().await.unwrap())
                .await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    pub fn body(&self, project: &str) -> Value {
        let files = json!([{ "path": "index.html", "content": "theirs" }]);
        json!({ "projectId": project, "orgId": self.org, "userId": self.user, "initFiles": files })
    }
}
