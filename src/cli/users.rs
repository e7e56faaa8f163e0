//! `libra users`.

use clap::Subcommand;
use serde_json::json;

use super::admin::{AdminError, open, org_of};
use super::render;
use crate::config::Settings;

#[derive(Debug, clap::Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    command: UsersCommand,
}

#[derive(Debug, Subcommand)]
enum UsersCommand {
    /// Make a user, a member of an organization
    Create {
        name: String,
        #[arg(long, value_name = "ORG")]
        of: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List users
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(args: &UsersArgs, settings: &Settings) -> Result<(), AdminError> {
    let store = open(settings).await?;
    match &args.command {
        UsersCommand::Create { name, of, json } => {
            let org = org_of(&store, "--of", of).await?;
            let id = store.user_create(name, &org).await.map_err(AdminError::of("user"))?;
            if *json {
                render::line(&json!({ "userId": id.as_str(), "orgId": of, "name": name }).to_string());
            } else {
                render::line(&format!("user {id}  {name}"));
            }
        }
        UsersCommand::List { json } => {
            for (id, name) in store.user_list().await.map_err(AdminError::Store)? {
                if *json {
                    render::line(&json!({ "userId": id, "name": name }).to_string());
                } else {
                    render::line(&format!("{id}  {name}"));
                }
            }
        }
    }
    Ok(())
}
