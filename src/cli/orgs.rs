//! `libra orgs`.

use clap::Subcommand;
use serde_json::json;

use super::admin::{AdminError, open, org_of};
use super::render;
use crate::config::Settings;
use crate::sandbox;

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
    Set {
        /// Its id, as `libra orgs list` shows it
        org: String,
        /// Where its builds run: local, daytona or e2b; default: wherever sandbox.provider says
        #[arg(long, value_name = "NAME", value_parser = ["local", "daytona", "e2b", "default"])]
        sandbox_provider: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List organizations
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
        OrgsCommand::Set { org, sandbox_provider, json } => {
            let id = org_of(&store, "ORG", org).await?;
            let chosen = Some(sandbox_provider.as_str()).filter(|name| *name != "default");
            if let Some(name) = chosen.filter(|name| !sandbox::offered(name, &settings.sandbox)) {
                return Err(AdminError::Usage(format!(
                    "--sandbox-provider: {name} is not set up here; set sandbox.{name}.api_key first, for every server"
                )));
            }
            store.organization_give_sandbox_provider(&id, chosen).await.map_err(AdminError::Store)?;
            if *json {
                render::line(&json!({ "orgId": id.as_str(), "sandboxProvider": chosen }).to_string());
            } else {
                render::line(&format!("organization {id}  sandbox provider {sandbox_provider}"));
            }
        }
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
