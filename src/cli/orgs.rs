//! `libra orgs`.

use clap::Subcommand;
use serde_json::json;

use super::admin::{AdminError, open, org_of};
use super::render;
use crate::config::Settings;
use crate::sandbox;
use crate::store::Store;
use crate::store::shares::{MOST_RUNNING, MOST_WEIGHT, ShareSet};

#[derive(Debug, clap::Args)]
pub struct OrgsArgs {
    #[command(subcommand)]
    command: OrgsCommand,
}

#[derive(Debug, Subcommand)]
enum OrgsCommand {
    /// Make an organization
    Create {
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change an organization
    Set(SetArgs),
    /// List organizations
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Its id, as `libra orgs list` shows it
    org: String,
    /// Where its builds run: local, daytona or e2b; default: wherever sandbox.provider says
    #[arg(long, value_name = "NAME", value_parser = ["local", "daytona", "e2b", "default"])]
    sandbox_provider: Option<String>,
    /// Its deployments of one turn in the queue, where others have 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=i64::from(MOST_WEIGHT)))]
    weight: Option<i32>,
    /// Its deployments that may run at once; default: queue.organization_running
    #[arg(long, value_name = "N|default", value_parser = limit)]
    running_limit: Option<Limit>,
    /// The same of each of its projects; default: queue.project_running
    #[arg(long, value_name = "N|default", value_parser = limit)]
    project_limit: Option<Limit>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
struct Limit(Option<i32>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "default" {
        return Ok(Limit(None));
    }
    let number = text.parse().ok().filter(|n| (1..=MOST_RUNNING).contains(n));
    number.map(|n| Limit(Some(n))).ok_or_else(|| format!("1 to {MOST_RUNNING}, or default"))
}

pub async fn run(args: &OrgsArgs, settings: &Settings) -> Result<(), AdminError> {
    let store = open(settings).await?;
    match &args.command {
        OrgsCommand::Create { name, json } => {
            let id = store.organization_create(name).await.map_err(AdminError::of("organization"))?;
            if *json {
                render::line(&json!({ "orgId": id.as_str(), "name": name }).to_string());
            } else {
                render::line(&format!("organization {id}  {name}"));
            }
        }
        OrgsCommand::Set(change) => set(&store, settings, change).await?,
        OrgsCommand::List { json } => {
            for (id, name) in store.organization_list().await.map_err(AdminError::Store)? {
                if *json {
                    render::line(&json!({ "orgId": id, "name": name }).to_string());
                } else {
                    render::line(&format!("{id}  {name}"));
                }
            }
        }
    }
    Ok(())
}

async fn set(store: &Store, settings: &Settings, change: &SetArgs) -> Result<(), AdminError> {
    let id = org_of(store, "ORG", &change.org).await?;
    let mut shown = json!({ "orgId": id.as_str() });
    let mut words = vec![format!("organization {id}")];
    if let Some(provider) = &change.sandbox_provider {
        let chosen = Some(provider.as_str()).filter(|name| *name != "default");
        if let Some(name) = chosen.filter(|name| !sandbox::offered(name, &settings.sandbox)) {
            return Err(AdminError::Usage(format!(
                "--sandbox-provider: {name} is not set up here; set sandbox.{name}.api_key first, for every server"
            )));
        }
        store.organization_give_sandbox_provider(&id, chosen).await.map_err(AdminError::Store)?;
        shown["sandboxProvider"] = json!(chosen);
        words.push(format!("sandbox provider {provider}"));
    }
    if change.weight.is_some() || change.running_limit.is_some() || change.project_limit.is_some() {
        let set = store.share_get(&id).await.map_err(AdminError::Store)?;
        let share = ShareSet {
            weight: change.weight.unwrap_or(set.weight),
            running_limit: change.running_limit.map_or(set.running_limit, |limit| limit.0),
            project_limit: change.project_limit.map_or(set.project_limit, |limit| limit.0),
        };
        store.share_set(&id, share).await.map_err(AdminError::Store)?;
        shown["weight"] = json!(share.weight);
        shown["runningLimit"] = json!(share.running_limit);
        shown["projectLimit"] = json!(share.project_limit);
        let limit = |set: Option<i32>| set.map_or_else(|| "default".to_owned(), |n| n.to_string());
        words.push(format!("weight {}", share.weight));
        words.push(format!("running limit {}", limit(share.running_limit)));
        words.push(format!("project limit {}", limit(share.project_limit)));
    }
    if words.len() == 1 {
        let options = "--sandbox-provider, --weight, --running-limit or --project-limit";
        return Err(AdminError::Usage(format!("nothing to set: name {options}")));
    }
    render::line(&if change.json { shown.to_string() } else { words.join("  ") });
    Ok(())
}
