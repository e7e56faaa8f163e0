//! Organizations, users, memberships and tokens.

use entity::{api_token, app_user, membership, organization};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{Store, StoreError, clock};
use crate::domain::{OrgId, Principal, Scope, TokenId, UserId};

/// A token to be stored: only the hash of its secret is.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub org: OrgId,
    pub user: UserId,
    pub name: String,
    pub secret_hash: String,
    pub scopes: Vec<Scope>,
    pub admin: bool,
    /// Milliseconds from now; `None` never expires.
    pub lifetime_ms: Option<i64>,
}

/// What a list of tokens shows; never the secret.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRow {
    pub id: String,
    pub org_id: String,
    pub user_id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub admin: bool,
    pub expires_at: Option<i64>,
    pub revoked: bool,
}

impl Store {
    pub async fn organization_create(&self, name: &str) -> Result<OrgId, StoreError> {
        let id = OrgId::random();
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        organization::Entity::insert(organization::ActiveModel {
            id: Set(id.to_string()),
            name: Set(name.to_owned()),
            created_at: Set(now),
            sandbox_provider: Set(None),
        })
        .exec_without_returning(&tx)
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Which sandbox provider it was given; none: the one of the settings.
    pub async fn organization_sandbox_provider(&self, id: &OrgId) -> Result<Option<String>, StoreError> {
        let found = organization::Entity::find_by_id(id.as_str()).one(&self.read).await?;
        Ok(found.and_then(|org| org.sandbox_provider))
    }

    /// Gives it another one from its next sandbox on.
    pub async fn organization_give_sandbox_provider(
        &self,
        id: &OrgId,
        provider: Option<&str>,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        organization::Entity::update_many()
            .col_expr(organization::Column::SandboxProvider, Expr::value(provider.map(str::to_owned)))
            .filter(organization::Column::Id.eq(id.as_str()))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn organization_exists(&self, id: &OrgId) -> Result<bool, StoreError> {
        Ok(organization::Entity::find_by_id(id.as_str()).one(&self.read).await?.is_some())
    }

    pub async fn organization_list(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows =
            organization::Entity::find().order_by_asc(organization::Column::Name).all(&self.read).await?;
        Ok(rows.into_iter().map(|o| (o.id, o.name)).collect())
    }

    /// Creates a user and makes it a member of `org`.
    pub async fn user_create(&self, name: &str, org: &OrgId) -> Result<UserId, StoreError> {
        let id = UserId::random();
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        app_user::Entity::insert(app_user::ActiveModel {
            id: Set(id.to_string()),
            name: Set(name.to_owned()),
            created_at: Set(now),
        })
        .exec_without_returning(&tx)
        .await?;
        membership::Entity::insert(membership::ActiveModel {
            org_id: Set(org.to_string()),
            user_id: Set(id.to_string()),
            role: Set("member".into()),
            created_at: Set(now),
        })
        .exec_without_returning(&tx)
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    pub async fn user_list(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = app_user::Entity::find().order_by_asc(app_user::Column::Name).all(&self.read).await?;
        Ok(rows.into_iter().map(|u| (u.id, u.name)).collect())
    }

    pub async fn membership_exists(&self, org: &OrgId, user: &UserId) -> Result<bool, StoreError> {
        let found =
            membership::Entity::find_by_id((org.to_string(), user.to_string())).one(&self.read).await?;
        Ok(found.is_some())
    }

    pub async fn token_create(&self, token: NewToken) -> Result<TokenId, StoreError> {
        let id = TokenId::random();
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let scopes: Vec<&str> = token.scopes.iter().map(|s| s.as_str()).collect();
        api_token::Entity::insert(api_token::ActiveModel {
            id: Set(id.to_string()),
            org_id: Set(token.org.to_string()),
            user_id: Set(token.user.to_string()),
            name: Set(token.name),
            secret_hash: Set(token.secret_hash),
            scopes: Set(scopes.join(" ")),
            admin: Set(token.admin),
            created_at: Set(now),
            expires_at: Set(token.lifetime_ms.map(|ms| now.saturating_add(ms))),
            revoked_at: Set(None),
        })
        .exec_without_returning(&tx)
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    pub async fn token_list(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows = api_token::Entity::find()
            .order_by_asc(api_token::Column::CreatedAt)
            .limit(1_000)
            .all(&self.read)
            .await?;
        Ok(rows
            .into_iter()
            .map(|t| TokenRow {
                scopes: scopes_of(&t.scopes),
                id: t.id,
                org_id: t.org_id,
                user_id: t.user_id,
                name: t.name,
                admin: t.admin,
                expires_at: t.expires_at,
                revoked: t.revoked_at.is_some(),
            })
            .collect())
    }

    /// Tokens of this name that are neither revoked nor expired.
    pub async fn token_valid_named(&self, name: &str) -> Result<Vec<TokenId>, StoreError> {
        let now = self.now().await?;
        let rows = api_token::Entity::find()
            .filter(api_token::Column::Name.eq(name))
            .filter(api_token::Column::RevokedAt.is_null())
            .all(&self.read)
            .await?;
        let valid = rows.into_iter().filter(|t| t.expires_at.is_none_or(|at| at > now));
        valid.map(|t| TokenId::parse(&t.id).map_err(|_| StoreError::Corrupt { what: "token" })).collect()
    }

    /// Ends a token at once. Answers whether there was one that was still valid.
    pub async fn token_revoke(&self, id: &TokenId) -> Result<bool, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let changed = api_token::Entity::update_many()
            .col_expr(api_token::Column::RevokedAt, Expr::value(now))
            .filter(api_token::Column::Id.eq(id.as_str()))
            .filter(api_token::Column::RevokedAt.is_null())
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(changed.rows_affected == 1)
    }

    /// The caller that a secret's hash stands for, if the token is neither revoked nor expired.
    /// The look-up is by a SHA-256, so its timing tells nothing about the secret.
    pub async fn token_principal(&self, secret_hash: &str) -> Result<Option<Principal>, StoreError> {
        let now = self.now().await?;
        let row = api_token::Entity::find()
            .filter(api_token::Column::SecretHash.eq(secret_hash))
            .filter(api_token::Column::RevokedAt.is_null())
            .one(&self.read)
            .await?;
        let Some(row) = row.filter(|t| t.expires_at.is_none_or(|at| at > now)) else { return Ok(None) };
        let corrupt = |_| StoreError::Corrupt { what: "token" };
        Ok(Some(Principal {
            token_id: TokenId::parse(&row.id).map_err(corrupt)?,
            org_id: OrgId::parse(&row.org_id).map_err(corrupt)?,
            user_id: UserId::parse(&row.user_id).map_err(corrupt)?,
            scopes: scopes_of(&row.scopes),
            admin: row.admin,
        }))
    }
}

fn scopes_of(words: &str) -> Vec<Scope> {
    words.split(' ').filter_map(Scope::parse).collect()
}
