//! Projects: making one with a Worker name of its own, and its stored files.

use super::sources::SourceFile;
use super::templates::{self, Template};
use super::{Control, ControlError};
use crate::domain::egress::EgressHost;
use crate::domain::source::SourceTree;
use crate::domain::worker_name::{WorkerName, is_reserved, looks_like_preview};
use crate::domain::{Digest, OrgScope, Principal, ProjectId, id};
use crate::store::StoreError;
use crate::store::projects::{NewProject, ProjectRow};

/// A Worker name leaves room for `-` and six random characters.
const SLUG_BYTES: usize = 56;
/// Six random characters collide once in 16 million; more tries than this mean something else is wrong.
const NAME_TRIES: usize = 8;

impl Control {
    /// The files of `template` become the stored tree, and stay beneath what deployments bring.
    ///
    /// # Errors
    /// If the database refuses, or no free name was found.
    pub async fn project_create(
        &self,
        who: &Principal,
        name: &str,
        template: Option<&Template>,
    ) -> Result<ProjectRow, ControlError> {
        let tree = match template {
            Some(template) => Some(self.template_store(&who.org_id, template).await?),
            None => None,
        };
        let remembered = template.zip(tree.as_ref()).map(|(t, tree)| templates::remembered(t.name, tree));
        let slug = slug(name);
        let reserved = &self.settings.domains.reserved;
        for attempt in 0..NAME_TRIES {
            let plain = attempt == 0 && WorkerName::parse(&slug, reserved).is_ok();
            let worker_name = if plain { slug.clone() } else { format!("{slug}-{}", &id::random()[..6]) };
            if is_reserved(&worker_name, reserved) || looks_like_preview(&worker_name) {
                continue;
            }
            let new = NewProject {
                id: ProjectId::random(),
                name: name.to_owned(),
                worker_name,
                template: remembered.clone(),
                tree: tree.clone(),
            };
            match self.store.project_create(&who.scope(), new).await {
                Err(StoreError::Duplicate(_)) => {}
                other => return Ok(other?),
            }
        }
        Err(ControlError::Conflict("No free Worker name was found for this project; try another name."))
    }

    /// # Errors
    /// [`ControlError::ProjectNotFound`] also for another organization's project.
    pub async fn project_get(&self, scope: &OrgScope, id: &ProjectId) -> Result<ProjectRow, ControlError> {
        self.store.project_get(scope, id).await?.ok_or(ControlError::ProjectNotFound)
    }

    /// Replaces the hosts that the project's builds may connect to.
    ///
    /// # Errors
    /// As [`Control::project_get`].
    pub async fn project_egress_set(
        &self,
        scope: &OrgScope,
        id: &ProjectId,
        hosts: &[EgressHost],
    ) -> Result<ProjectRow, ControlError> {
        let lines: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        if !self.store.project_egress_set(scope, id, &lines).await? {
            return Err(ControlError::ProjectNotFound);
        }
        tracing::info!(project.id = %id, hosts = lines.len(), "egress list replaced");
        self.project_get(scope, id).await
    }

    /// The stored tree; an empty one if nothing was ever stored.
    ///
    /// # Errors
    /// As [`Control::project_get`], or that the tree can't be read.
    pub async fn project_files(&self, scope: &OrgScope, id: &ProjectId) -> Result<SourceTree, ControlError> {
        let project = self.project_get(scope, id).await?;
        match stored_tree(&project) {
            Some(digest) => self.tree_load(scope.org(), &digest).await,
            None => Ok(SourceTree::new(std::collections::BTreeMap::new())),
        }
    }

    /// Replaces the stored tree.
    ///
    /// # Errors
    /// As [`Control::project_get`], or that the files can't be stored.
    pub async fn project_files_replace(
        &self,
        scope: &OrgScope,
        id: &ProjectId,
        files: Vec<SourceFile>,
    ) -> Result<SourceTree, ControlError> {
        self.project_get(scope, id).await?;
        let order = self.sources_store(scope.org(), Some(files), Vec::new()).await?;
        let (digest, tree) = self.sources_assemble(scope.org(), &order, None, None).await?;
        if self.store.project_tree_set(scope, id, &digest).await? {
            Ok(tree)
        } else {
            Err(ControlError::ProjectNotFound)
        }
    }
}

/// The digest of the tree a project keeps.
#[must_use]
pub fn stored_tree(project: &ProjectRow) -> Option<Digest> {
    project.tree_digest.as_deref().and_then(|d| Digest::parse(d).ok())
}

/// The hosts that a project's builds may connect to, as they are stored.
#[must_use]
pub fn egress_hosts(project: &ProjectRow) -> Vec<String> {
    // Only this program writes the column.
    serde_json::from_str(&project.egress_hosts).unwrap_or_default()
}

/// A name as a Worker name: lower-case letters, digits and single hyphens.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if slug.len() >= SLUG_BYTES {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "project".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_has_a_slug_that_is_a_worker_name() {
        for (name, expected) in [
            ("My App", "my-app"),
            ("  héllo__wörld!! ", "h-llo-w-rld"),
            ("日本語", "project"),
            ("--", "project"),
            ("A", "a"),
        ] {
            assert_eq!(slug(name), expected);
        }
        let long = slug(&"x".repeat(300));
        assert!(WorkerName::parse(&format!("{long}-abcdef"), &[]).is_ok());
    }
}
