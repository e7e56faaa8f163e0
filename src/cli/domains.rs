//! `libra domains`: adds custom domains and prints the records to set, looks for the proof, lists, removes.

use reqwest::Method;

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render;
use super::wire::{CustomDomain, DomainPage, ProjectPage};

/// Pages read at most; a server that never ends its list must not keep us.
const PAGES: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct DomainsArgs {
    #[command(subcommand)]
    pub command: DomainsCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum DomainsCommand {
    /// Add a domain to a project and print the records to set
    Add {
        name: String,
        /// The project, by id or name
        #[arg(long)]
        project: String,
        /// Another domain of the project to send visitors on to
        #[arg(long, value_name = "NAME")]
        redirect_to: Option<String>,
        /// Print the domain as JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for a domain's proof now and say what was seen
    Verify {
        name: String,
        /// The project, by id or name, where several have claimed the domain
        #[arg(long)]
        project: Option<String>,
        /// Print the domain as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the organization's domains
    List {
        /// Only those of this project, by id or name
        #[arg(long)]
        project: Option<String>,
        /// Print each domain as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a domain up
    Remove {
        name: String,
        /// The project, by id or name, where several have claimed the domain
        #[arg(long)]
        project: Option<String>,
        /// Print what was removed as JSON
        #[arg(long)]
        json: bool,
    },
}

/// # Errors
/// If the server can't be reached or refuses, or a name is not found.
pub async fn run(args: &DomainsArgs, session: &Session) -> Result<Outcome, CliError> {
    match &args.command {
        DomainsCommand::Add { name, project, redirect_to, json } => {
            let project = project_id(session, project).await?;
            let body =
                serde_json::json!({ "projectId": project, "hostname": name, "redirectTo": redirect_to });
            let request = session.request(Method::POST, "/api/v1/domains").json(&body);
            let domain: CustomDomain = session.json(request).await?.0;
            show(&domain, *json);
            if is_served(&domain) && !json {
                records(&domain);
            }
        }
        DomainsCommand::Verify { name, project, json } => {
            let domain = find(session, name, project.as_deref()).await?;
            let path = format!("/api/v1/domains/{}/verify", escape(&domain.id));
            show(&session.json(session.request(Method::POST, &path)).await?.0, *json);
        }
        DomainsCommand::List { project, json } => {
            let project = match project {
                Some(project) => Some(project_id(session, project).await?),
                None => None,
            };
            for domain in list(session, project.as_deref(), None).await? {
                if *json { show(&domain, true) } else { render::line(&summary(&domain)) }
            }
        }
        DomainsCommand::Remove { name, project, json } => {
            let domain = find(session, name, project.as_deref()).await?;
            let path = format!("/api/v1/domains/{}", escape(&domain.id));
            session.send(session.request(Method::DELETE, &path)).await?;
            if *json {
                show(&domain, true);
            } else {
                render::line(&format!("{} is removed", domain.hostname));
            }
        }
    }
    Ok(Outcome::Done)
}

/// The project's id: what looks like one is one.
async fn project_id(session: &Session, project: &str) -> Result<String, CliError> {
    if project.len() == 32 && project.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(project.to_owned());
    }
    let path = format!("/api/v1/projects?name={}", escape(project));
    let (page, _): (ProjectPage, _) = session.json(session.request(Method::GET, &path)).await?;
    match page.projects.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(CliError::Usage(format!(
            "there is no project named {project}; libra projects list shows them"
        ))),
        _ => Err(CliError::Usage(format!("several projects are named {project}; name one by its id"))),
    }
}

async fn find(session: &Session, name: &str, project: Option<&str>) -> Result<CustomDomain, CliError> {
    let project = match project {
        Some(project) => Some(project_id(session, project).await?),
        None => None,
    };
    let mut found = list(session, project.as_deref(), Some(name)).await?;
    match (found.pop(), found.is_empty()) {
        (Some(domain), true) => Ok(domain),
        (None, _) => Err(CliError::Usage(format!("{name} was not added; libra domains list shows what was"))),
        (Some(_), false) => {
            Err(CliError::Usage(format!("several projects have claimed {name}; name one with --project")))
        }
    }
}

async fn list(
    session: &Session,
    project: Option<&str>,
    hostname: Option<&str>,
) -> Result<Vec<CustomDomain>, CliError> {
    let mut domains = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let parts = [("projectId", project), ("hostname", hostname), ("cursor", cursor.as_deref())];
        let query: Vec<String> =
            parts.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape((*value)?)))).collect();
        let path = format!("/api/v1/domains?{}", query.join("&"));
        let (page, _): (DomainPage, _) = session.json(session.request(Method::GET, &path)).await?;
        domains.extend(page.domains);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(domains)
}

fn summary(domain: &CustomDomain) -> String {
    let to = domain.redirect_to.as_ref().map(|to| format!(" -> {to}")).unwrap_or_default();
    format!("{}  {:<12}  {}{to}", domain.id, domain.status, domain.hostname)
}

fn show(domain: &CustomDomain, json: bool) {
    if json {
        render::line(&serde_json::json!(domain).to_string());
        return;
    }
    let to = domain.redirect_to.as_ref().map(|to| format!(", redirects to {to}")).unwrap_or_default();
    render::line(&format!("{} is {}{to}", domain.hostname, domain.status));
    if let Some(message) = &domain.message {
        render::line(message);
    }
    if !is_served(domain) {
        records(domain);
        render::line(&format!("then: libra domains verify {}", domain.hostname));
    }
}

fn is_served(domain: &CustomDomain) -> bool {
    matches!(domain.status.as_str(), "verified" | "active")
}

fn records(domain: &CustomDomain) {
    render::line("set these records at the domain's DNS provider:");
    for record in &domain.records {
        render::line(&format!("  {:<5}  {}  {}", record.kind, record.name, record.value));
    }
    if let Some(hint) = &domain.hint {
        render::line(hint);
    }
}
