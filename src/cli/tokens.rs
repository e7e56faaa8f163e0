//! `libra tokens`. A secret is shown once, when it is made.

use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::json;

use super::admin::{AdminError, open, org_of, user_id};
use super::render;
use crate::config::Settings;
use crate::control::bootstrap::TOKEN_NAME;
use crate::control::credentials;
use crate::domain::{Scope, TokenId};
use crate::store::tenants::NewToken;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

#[derive(Debug, clap::Args)]
pub struct TokensArgs {
    #[command(subcommand)]
    command: TokensCommand,
}

#[derive(Debug, Subcommand)]
enum TokensCommand {
    /// Make a token; its secret is shown this once
    Create {
        /// The organization it belongs to
        #[arg(long, value_name = "ORG")]
        of: String,
        /// The user it acts for
        #[arg(long = "as", value_name = "USER")]
        acting: String,
        /// What it is for
        #[arg(long, default_value = "token")]
        name: String,
        /// Platform admin
        #[arg(long)]
        admin: bool,
        /// projects:read, projects:write, deployments:read, deployments:write; all without this
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        /// Days until it expires; never without this
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3650))]
        days: Option<i64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List tokens, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a token at once
    Revoke { id: String },
}

pub async fn run(args: &TokensArgs, settings: &Settings) -> Result<(), AdminError> {
    let store = open(settings).await?;
    match &args.command {
        TokensCommand::Create { of, acting, name, admin, scope, days, json } => {
            let (org, user) = (org_of(&store, "--of", of).await?, user_id(acting)?);
            if !store.membership_exists(&org, &user).await.map_err(AdminError::Store)? {
                return Err(AdminError::Usage("that user is no member of that organization".into()));
            }
            if name == TOKEN_NAME {
                let message =
                    format!("--name: {TOKEN_NAME} is development's first token; choose another name");
                return Err(AdminError::Usage(message));
            }
            let secret = credentials::generate().map_err(AdminError::Secret)?;
            let token = NewToken {
                org,
                user,
                name: name.clone(),
                secret_hash: credentials::hash_secret(&secret),
                scopes: scopes(scope)?,
                admin: *admin,
                lifetime_ms: days.map(|d| d * DAY_MS),
            };
            let id = store.token_create(token).await.map_err(AdminError::of("token"))?;
            if *json {
                let shown = json!({ "tokenId": id.as_str(), "orgId": of, "userId": acting, "token": secret.expose_secret() });
                render::line(&shown.to_string());
            } else {
                render::line(&format!("token {id}\n{}\nIt is not shown again.", secret.expose_secret()));
            }
        }
        TokensCommand::List { json } => {
            for token in store.token_list().await.map_err(AdminError::Store)? {
                if *json {
                    render::line(&json!(token).to_string());
                } else {
                    let state = if token.revoked { "revoked" } else { "valid" };
                    let admin = if token.admin { "  admin" } else { "" };
                    let scopes: Vec<&str> = token.scopes.iter().map(|s| s.as_str()).collect();
                    render::line(&format!(
                        "{}  org {}  user {}  {}  {state}{admin}  {}",
                        token.id,
                        token.org_id,
                        token.user_id,
                        token.name,
                        scopes.join(",")
                    ));
                }
            }
        }
        TokensCommand::Revoke { id } => {
            let id = TokenId::parse(id).map_err(|e| AdminError::Usage(e.to_string()))?;
            if store.token_revoke(&id).await.map_err(AdminError::Store)? {
                render::line(&format!("token {id} revoked"));
            } else {
                return Err(AdminError::Usage("there is no such token, or it is revoked already".into()));
            }
        }
    }
    Ok(())
}

fn scopes(words: &[String]) -> Result<Vec<Scope>, AdminError> {
    if words.is_empty() {
        return Ok(Scope::ALL.to_vec());
    }
    let all: Vec<&str> = Scope::ALL.iter().map(|s| s.as_str()).collect();
    words
        .iter()
        .map(|w| {
            Scope::parse(w)
                .ok_or_else(|| AdminError::Usage(format!("--scope must be one of {}", all.join(", "))))
        })
        .collect()
}
