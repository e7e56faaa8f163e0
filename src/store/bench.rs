//! Rows by the hundred thousand, for the benchmarks alone: proved domains without a proof.
//! Never called by a server; `libra internal bench-fill` works on one that is stopped.

use entity::custom_domain;
use sea_orm::{ActiveValue::Set, EntityTrait};

use super::{Store, StoreError};
use crate::domain::{id, time};

/// Rows of one statement: SQLite takes 32,766 variables, 11 of them a row.
const ROWS: usize = 1_000;
/// Ten years: nobody has proved these names, so nobody may look.
const UNCHECKED_MS: i64 = 10 * 365 * 24 * 60 * 60 * 1_000;

impl Store {
    /// Records active domains of a project, all in one transaction.
    pub async fn bench_domains_fill(
        &self,
        org: &str,
        project: &str,
        hostnames: &[String],
    ) -> Result<(), StoreError> {
        let now = time::now_ms();
        let tx = self.begin().await?;
        for batch in hostnames.chunks(ROWS) {
            let rows = batch.iter().map(|hostname| custom_domain::ActiveModel {
                id: Set(id::random()),
                org_id: Set(org.into()),
                project_id: Set(project.into()),
                hostname: Set(hostname.clone()),
                status: Set("active".into()),
                token: Set(id::random()),
                created_at: Set(now),
                verified_at: Set(Some(now)),
                proved_at: Set(Some(now)),
                next_check_at: Set(now + UNCHECKED_MS),
                ..Default::default()
            });
            custom_domain::Entity::insert_many(rows).exec_without_returning(&tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
