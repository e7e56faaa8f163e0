//! Remembered `Idempotency-Key`s, per organization and credential.

use entity::idempotency_key;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
};

use super::{Store, StoreError};

/// How long a key is remembered (contract §2).
pub const REMEMBERED_MS: i64 = 24 * 60 * 60 * 1_000;

/// What the caller sent along.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub credential_id: String,
    pub key: String,
    pub body_digest: String,
}

/// What a key stands for already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    Nothing,
    /// Of a deployment its id, of a change of what is live that one's.
    SameBody {
        deployment_id: String,
    },
    OtherBody,
}

pub(super) async fn find<C: ConnectionTrait>(
    connection: &C,
    org: &str,
    key: &IdempotencyKey,
    now: i64,
) -> Result<Remembered, StoreError> {
    let primary = (org.to_owned(), key.credential_id.clone(), key.key.clone());
    let found = idempotency_key::Entity::find_by_id(primary).one(connection).await?;
    let Some(row) = found.filter(|r| r.created_at + REMEMBERED_MS > now) else {
        return Ok(Remembered::Nothing);
    };
    Ok(if row.body_digest == key.body_digest {
        Remembered::SameBody { deployment_id: row.deployment_id }
    } else {
        Remembered::OtherBody
    })
}

pub(super) async fn remember(
    tx: &DatabaseTransaction,
    org: &str,
    key: &IdempotencyKey,
    deployment: &str,
    now: i64,
) -> Result<(), StoreError> {
    // One past its day may still stand under this key.
    let primary = (org.to_owned(), key.credential_id.clone(), key.key.clone());
    idempotency_key::Entity::delete_by_id(primary).exec(tx).await?;
    idempotency_key::Entity::insert(idempotency_key::ActiveModel {
        org_id: Set(org.into()),
        credential_id: Set(key.credential_id.clone()),
        key: Set(key.key.clone()),
        body_digest: Set(key.body_digest.clone()),
        deployment_id: Set(deployment.into()),
        created_at: Set(now),
    })
    .exec_without_returning(tx)
    .await?;
    Ok(())
}

impl Store {
    /// Forgets keys past their day. Answers how many.
    pub async fn idempotency_forget(&self) -> Result<u64, StoreError> {
        let now = self.now().await?;
        let gone = idempotency_key::Entity::delete_many()
            .filter(idempotency_key::Column::CreatedAt.lt(now - REMEMBERED_MS))
            .exec(&self.write)
            .await?;
        Ok(gone.rows_affected)
    }
}
