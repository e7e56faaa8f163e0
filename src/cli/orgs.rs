//! `libra orgs`.

use clap::Subcommand;
use serde_json::json;

use super::admin::{AdminError, open};
use super::render;
use crate::config::Settings;

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
