//! Step 1: everything that can be known without creating anything. Always runs again in a new
//! attempt. It needs no undo: it changes nothing.

use super::step::{Done, StepError};
use super::{Project, Walk};
use crate::control::domains::claimable;
use crate::domain::hostname::Hostname;
use crate::domain::source::SourceOrder;
use crate::domain::{Step, UserId};

const STEP: Step = Step::Validate;

pub async fn run(walk: &Walk<'_>) -> Result<Done<Project>, StepError> {
    let control = walk.control();
    let store = &control.store;
    let mut problems: Vec<(&'static str, &'static str)> = Vec::new();
    let project = store
        .project_of_deployment(&walk.row.org_id, &walk.row.project_id)
        .await
        .map_err(|e| StepError::store(STEP, e))?;
    if project.as_ref().is_some_and(|p| p.status != "active") {
        problems.push(("projectId", "The project is suspended."));
    }
    let member = match UserId::parse(&walk.row.user_id) {
        Ok(user) => store.membership_exists(&walk.org, &user).await.map_err(|e| StepError::store(STEP, e))?,
        Err(_) => false,
    };
    if !member {
        problems.push(("userId", "The user is no longer a member of the organization."));
    }
    if let Some(domain) = &walk.row.custom_domain {
        let domains = &control.settings.domains;
        let may = Hostname::parse(domain)
            .is_ok_and(|h| claimable(&h, &domains.base, &domains.platform_hosts).is_ok());
        if !may {
            problems.push(("customDomain", "The custom domain can't be claimed."));
        } else if store
            .domain_owned_elsewhere(domain, &walk.row.project_id)
            .await
            .map_err(|e| StepError::store(STEP, e))?
        {
            problems.push(("customDomain", "The custom domain is in use by another project."));
        }
    }
    // Reserved when the deployment was recorded; one that is not must not use what it has not got.
    if !store.quota_is_reserved(&walk.row.id).await.map_err(|e| StepError::store(STEP, e))? {
        problems.push(("quota", "The deployment's quota is not reserved."));
    }
    let order: SourceOrder = serde_json::from_str(&walk.row.source)
        .map_err(|e| StepError::platform(STEP, "The recorded source can't be read.", e))?;
    if order == SourceOrder::default() && project.as_ref().is_some_and(|p| p.tree_digest.is_none()) {
        problems.push(("initFiles", "The project has no files."));
    }
    let Some(project) = project else {
        return Err(StepError::user(
            STEP,
            "The project no longer exists.",
            "Create it again and deploy once more.",
        ));
    };
    // What is live already is finished, whatever has changed since: it can't be failed.
    if problems.is_empty() || walk.row.switched_at.is_some() {
        return Ok(Done::completed(project, "Parameters are valid"));
    }
    let summary: Vec<&str> = problems.iter().map(|(_, text)| *text).collect();
    let evidence: Vec<String> = problems.iter().map(|(field, text)| format!("{field}: {text}")).collect();
    Err(StepError::user(STEP, summary.join(" "), "Mend each of these and deploy again.")
        .with_evidence(evidence.join("\n")))
}
