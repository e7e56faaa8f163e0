//! Who asks, and what they may do.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::id::{OrgId, TokenId, UserId};
use super::status::words;

words! {
    /// What a credential may do within its organization.
    Scope {
        ProjectsRead = "projects:read",
        ProjectsWrite = "projects:write",
        DeploymentsRead = "deployments:read",
        DeploymentsWrite = "deployments:write",
    }
}

/// The organization that a query may see. Store functions that serve a tenant take this and not a
/// bare id, so that a query without an organization can't be written by accident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgScope(OrgId);

impl OrgScope {
    #[must_use]
    pub fn org(&self) -> &OrgId {
        &self.0
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Principal {
    pub token_id: TokenId,
    pub org_id: OrgId,
    pub user_id: UserId,
    pub scopes: Vec<Scope>,
    pub admin: bool,
}

impl Principal {
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The credential's own organization: the only way to an [`OrgScope`].
    #[must_use]
    pub fn scope(&self) -> OrgScope {
        OrgScope(self.org_id.clone())
    }
}
