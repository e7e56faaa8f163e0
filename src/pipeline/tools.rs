//! Which Node and which package manager a walk builds with, and having them ready on this host. The
//! decision is the toolchain's; reading the tree for it and naming failures is done here.

use std::collections::BTreeMap;

use super::Walk;
use super::detect::{BuildPlan, Install};
use super::sandbox::read;
use super::step::StepError;
use super::sync::Source;
use crate::domain::Step;
use crate::toolchain::{self, Choice, Mistake, ToolError, Tools, Wishes};

const STEP: Step = Step::Sandbox;

/// A build with all that it runs with; tools of this host stay in place as long as this lives. A provider
/// elsewhere has its own Node, and none of the tools.
pub struct Job {
    pub plan: BuildPlan,
    pub choice: Choice,
    pub tools: Option<Tools>,
}

pub async fn ready(
    walk: &Walk<'_>,
    source: &Source,
    plan: BuildPlan,
    elsewhere: bool,
) -> Result<Job, StepError> {
    let files = &source.tree.files;
    let has = |path: &str| files.contains_key(path);
    let mut contents = BTreeMap::new();
    for path in toolchain::wanted(&plan.directory, &has) {
        let bytes = read(walk, &files[&path].digest).await?;
        contents.insert(path, bytes);
    }
    let wishes = Wishes { node: plan.node.clone(), package_manager: plan.package_manager.clone() };
    let choice = toolchain::choose(&plan.directory, &has, &contents, &wishes).map_err(mistake)?;
    let tools = match elsewhere {
        false => Some(walk.pipeline.toolchain.ready(&choice).await.map_err(failed)?),
        true => None,
    };
    let plan = with_workspace(plan, &choice);
    Ok(Job { plan, choice, tools })
}

/// A member without dependencies of its own may well need those of its workspace.
fn with_workspace(mut plan: BuildPlan, choice: &Choice) -> BuildPlan {
    if plan.install == Install::Nothing && choice.workspace != plan.directory {
        plan.install = Install::Detected;
    }
    plan
}

fn mistake(mistake: Mistake) -> StepError {
    StepError::user(STEP, mistake.summary(), mistake.hint()).with_evidence(mistake.to_string())
}

fn failed(error: ToolError) -> StepError {
    let error = match error {
        ToolError::Mistake(found) => return mistake(found),
        other => other,
    };
    // Its words name a tool and a reason, never a path; the causes behind it stay in the server's log.
    let evidence = error.to_string();
    StepError::platform(STEP, "A tool that builds run with could not be installed.", error)
        .with_evidence(evidence)
}
