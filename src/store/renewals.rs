//! What issuers say about when they want certificates renewed: whose is asked for next, and what came of it.
//! Only a certificate that is good and not being tried otherwise is moved.

use entity::certificate;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::certificates::{CertificateRow, proved_hostnames};
use super::issuing::IssuerHold;
use super::{Store, StoreError};
use crate::domain::certificate::CertificateState;

impl Store {
    /// Certificates whose issuer may be asked now, the longest unasked first.
    pub async fn renewal_due(&self, limit: u64) -> Result<Vec<CertificateRow>, StoreError> {
        let now = self.now().await?;
        let unasked = certificate::Column::InfoAt.is_null();
        Ok(certificate::Entity::find()
            .filter(Condition::any().add(unasked).add(certificate::Column::InfoAt.lte(now)))
            .filter(certificate::Column::State.eq(CertificateState::Valid.as_str()))
            .filter(certificate::Column::Failures.eq(0))
            .filter(certificate::Column::NextTryAt.gt(now))
            .filter(certificate::Column::Hostname.in_subquery(proved_hostnames()))
            .order_by_asc(certificate::Column::InfoAt)
            .order_by_asc(certificate::Column::Hostname)
            .limit(limit)
            .all(&self.read)
            .await?)
    }

    /// Writes down when this very certificate is renewed (`None`: as it was) and asked about again.
    pub async fn renewal_set(
        &self,
        hold: &IssuerHold,
        row: &CertificateRow,
        renew_at: Option<i64>,
        info_at: i64,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        hold.check(&tx).await?;
        let mut change = certificate::Entity::update_many()
            .col_expr(certificate::Column::InfoAt, Expr::value(info_at))
            .filter(certificate::Column::Hostname.eq(&*row.hostname))
            .filter(certificate::Column::Epoch.eq(row.epoch))
            .filter(certificate::Column::NextTryAt.eq(row.next_try_at));
        if let Some(renew_at) = renew_at {
            change = change.col_expr(certificate::Column::NextTryAt, Expr::value(renew_at));
        }
        change.exec(&tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
