//! `libra route`: why an address leads where it leads.

use reqwest::Method;
use serde::Deserialize;

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render;

#[derive(Debug, clap::Args)]
pub struct RouteArgs {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RouteCommand {
    /// Say every rule that is tried for an address, in order, and what came out
    Explain {
        /// Such as `https://blog.libra.sh/about`
        #[arg(value_name = "URL")]
        address: String,
        /// Print the server's answer
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    strategy: String,
    steps: Vec<Step>,
    winner: String,
    worker: Option<String>,
    version_id: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Step {
    rule: String,
    matched: bool,
    why: String,
}

/// # Errors
/// If the server can't be reached or refuses.
pub async fn run(args: &RouteArgs, session: &Session) -> Result<Outcome, CliError> {
    let RouteCommand::Explain { address, json } = &args.command;
    let path = format!("/api/v1/routes/explain?url={}", escape(address));
    let (told, text): (Explanation, _) = session.json(session.request(Method::GET, &path)).await?;
    if *json {
        render::line(&text);
        return Ok(Outcome::Done);
    }
    for Step { rule, matched, why } in &told.steps {
        let mark = if *matched { "yes" } else { "no" };
        render::line(&format!("{mark:<3}  {rule:<14}  {}", render::harmless(why)));
    }
    let more = [told.worker, told.version_id, told.refusal].into_iter().flatten();
    let more: String = more.map(|word| format!("  {word}")).collect();
    render::line(&format!("winner: {} ({}){}", told.winner, told.strategy, render::harmless(&more)));
    Ok(Outcome::Done)
}
