//! `libra status`: where a deployment stands, once or until its end.

use std::time::Duration;

use super::client::Session;
use super::error::{CliError, Outcome};
use super::follow::{self, Format};
use super::render;
use super::wire::{STEPS, StatusDocument};

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Id of the deployment
    pub id: String,
    /// Follow it to its end
    #[arg(long, short)]
    pub watch: bool,
    /// How long to watch; the deployment goes on after it
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub wait_seconds: u64,
    /// Print the status document; with --watch each change of it, one per line
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// If the server can't be reached or knows no such deployment.
pub async fn run(args: &StatusArgs, session: &Session) -> Result<Outcome, CliError> {
    let format = Format::of(args.json);
    if args.watch {
        return follow::follow(session, &args.id, Duration::from_secs(args.wait_seconds), format).await;
    }
    let (document, text) = follow::status(session, &args.id).await?;
    match format {
        Format::Json => render::line(&text),
        Format::Text => render::line(&describe(&document)),
    }
    Ok(follow::outcome(&document))
}

fn describe(document: &StatusDocument) -> String {
    let mut lines = vec![format!("{}  {} %", document.status.replace('_', " "), document.progress)];
    lines.extend(document.queue.as_ref().map(|queue| format!("  {}", queue.words())));
    for name in STEPS {
        if let Some(step) = document.steps.get(name) {
            let error = step.error.as_deref().map(|text| format!("  {text}")).unwrap_or_default();
            lines.push(format!("  {name:<10} {}{error}", step.status.replace('_', " ")));
        }
    }
    if let Some(cause) = &document.cause {
        lines.push(format!("{}\n{}", cause.summary, cause.hint).trim_end().to_owned());
    }
    lines.extend(document.address().map(str::to_owned));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queued_deployment_shows_what_it_waits_for() {
        let document: StatusDocument = serde_json::from_str(
            r#"{"deploymentId":"d1","status":"queued","progress":0,"timestamp":"t","logs":[],"steps":{},
                "queue":{"position":3,"ahead":2,"reason":"slots_busy","eta":{"startsAt":"t2","earliest":"t1","latest":"t3"}}}"#,
        )
        .unwrap();
        assert_eq!(
            describe(&document),
            "queued  0 %\n  2 ahead, every slot is taken; starts at about t2 (t1 to t3)"
        );
    }

    #[test]
    fn a_failed_deployment_shows_step_cause_and_hint() {
        let document: StatusDocument = serde_json::from_str(
            r#"{"deploymentId":"d1","status":"failed","currentStep":"build","progress":60,"timestamp":"t","logs":[],
                "steps":{"validate":{"status":"completed","attempt":1},"build":{"status":"failed","error":"exit code 1"},
                "deploy":{"status":"pending"}},"error":"The build failed",
                "cause":{"class":"user","step":"build","summary":"The build failed","hint":"Read the log"}}"#,
        )
        .unwrap();
        assert_eq!(
            describe(&document),
            "failed  60 %\n  validate   completed\n  build      failed  exit code 1\n  deploy     pending\n\
             The build failed\nRead the log"
        );
        assert_eq!(follow::outcome(&document), Outcome::DeploymentFailed);
    }
}
