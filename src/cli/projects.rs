//! `libra projects`: lists and makes projects, and finds one by name for `deploy`.

use reqwest::{Method, RequestBuilder};

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render;
use super::wire::{Project, ProjectPage};

/// Pages read at most; a server that never ends its list must not keep us.
const PAGES: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct ProjectsArgs {
    #[command(subcommand)]
    pub command: ProjectsCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum ProjectsCommand {
    /// List the organization's projects
    List {
        /// Print each project as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a project
    Create {
        name: String,
        /// Begin with the files of this template: vite-react, astro or plain
        #[arg(long)]
        template: Option<String>,
        /// Print the project as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show or change the hosts beyond the registry that a project's builds may connect to
    Egress {
        /// The project's id
        project: String,
        /// Add a host: `host`, `host:port` or `*.host`; may be given several times
        #[arg(long, value_name = "HOST")]
        allow: Vec<String>,
        /// Take a host away, as the list shows it
        #[arg(long, value_name = "HOST")]
        remove: Vec<String>,
        /// Print the project as JSON
        #[arg(long)]
        json: bool,
    },
}

/// # Errors
/// If the server can't be reached or refuses.
pub async fn run(args: &ProjectsArgs, session: &Session) -> Result<Outcome, CliError> {
    match &args.command {
        ProjectsCommand::List { json } => {
            for project in list(session).await? {
                show(&project, *json);
            }
        }
        ProjectsCommand::Create { name, template, json } => {
            let (org, _) = session.identity()?;
            show(&create(session, org, name, template.as_deref()).await?, *json);
        }
        ProjectsCommand::Egress { project, allow, remove, json } => {
            egress(session, project, allow, remove, *json).await?;
        }
    }
    Ok(Outcome::Done)
}

async fn egress(
    session: &Session,
    id: &str,
    allow: &[String],
    remove: &[String],
    json: bool,
) -> Result<(), CliError> {
    let path = format!("/api/v1/projects/{}", escape(id));
    let mut project: Project = session.json(session.request(Method::GET, &path)).await?.0;
    if !allow.is_empty() || !remove.is_empty() {
        let mut hosts = project.egress_hosts;
        hosts.retain(|host| !remove.contains(host));
        hosts.extend(allow.iter().cloned());
        let body = serde_json::json!({ "egressHosts": hosts });
        project = session.json(session.request(Method::PATCH, &path).json(&body)).await?.0;
    }
    if json {
        show(&project, true);
    } else if project.egress_hosts.is_empty() {
        render::line("builds of this project reach the npm registry and no other host");
    } else {
        project.egress_hosts.iter().for_each(|host| render::line(host));
    }
    Ok(())
}

/// The project of this name; two calls at once may make two, which the next call tells apart by age.
///
/// # Errors
/// If the server can't be reached or refuses.
pub async fn find_or_create(session: &Session, org: &str, name: &str) -> Result<Project, CliError> {
    let found =
        list(session).await?.into_iter().find(|project| project.name == name && project.org_id == org);
    match found {
        Some(project) => Ok(project),
        None => create(session, org, name, None).await,
    }
}

/// The project that an argument names: by id, Worker name or name.
///
/// # Errors
/// If the server can't be reached, or if there is none or more than one of that name.
pub async fn find(session: &Session, text: &str) -> Result<Project, CliError> {
    let mut named = Vec::new();
    for project in list(session).await? {
        if project.id == text || project.worker_name == text {
            return Ok(project);
        }
        if project.name == text {
            named.push(project);
        }
    }
    let several = named.len() > 1;
    match named.pop() {
        Some(_) if several => Err(CliError::Usage(format!(
            "several projects are called '{text}'; say which by its Worker name"
        ))),
        Some(project) => Ok(project),
        None => {
            Err(CliError::Usage(format!("there is no project '{text}'; `libra projects list` shows them")))
        }
    }
}

async fn create(
    session: &Session,
    org: &str,
    name: &str,
    template: Option<&str>,
) -> Result<Project, CliError> {
    let body = serde_json::json!({ "name": name, "orgId": org, "template": template });
    let request = session.request(Method::POST, "/api/v1/projects").json(&body);
    Ok(session.json(request).await?.0)
}

async fn list(session: &Session) -> Result<Vec<Project>, CliError> {
    let mut projects = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let (page, _): (ProjectPage, _) = session.json(page_request(session, cursor.as_deref())).await?;
        projects.extend(page.projects);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(projects)
}

fn page_request(session: &Session, cursor: Option<&str>) -> RequestBuilder {
    let query = cursor.map(|cursor| format!("?cursor={}", escape(cursor))).unwrap_or_default();
    session.request(Method::GET, &format!("/api/v1/projects{query}"))
}

fn show(project: &Project, json: bool) {
    if json {
        render::line(&serde_json::json!(project).to_string());
    } else {
        render::line(&format!("{}  {:<24}  {}", project.id, project.name, project.url));
    }
}
