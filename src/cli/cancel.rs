//! `libra cancel`: asks for the end of a deployment.

use reqwest::Method;

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render;

#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// Id of the deployment
    pub id: String,
    /// Print the server's answer
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// If the server can't be reached, or the deployment has ended already.
pub async fn run(args: &CancelArgs, session: &Session) -> Result<Outcome, CliError> {
    let path = format!("/api/v1/deployments/{}/cancel", escape(&args.id));
    let (_, text): (serde_json::Value, _) = session.json(session.request(Method::POST, &path)).await?;
    if args.json {
        render::line(&text);
    } else {
        render::line(&format!("cancel requested; follow it with: libra status {} --watch", args.id));
    }
    Ok(Outcome::Done)
}
