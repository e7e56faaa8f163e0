//! Certificates of custom domains: what every server serves, what is due, and how each stands.
//! Keys stand here sealed only. A name is ordered for while its domain is proved, by this table's word.

use std::collections::HashMap;

use entity::{certificate, custom_domain};
use sea_orm::sea_query::{Expr, ExprTrait, Query, SelectStatement};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::issuing::{IssuerHold, epoch, next_epoch};
use super::{Store, StoreError};
use crate::domain::certificate::{CertificateState, Waits};
use crate::domain::{ChallengeKind, OrgScope};

pub use entity::certificate::Model as CertificateRow;

/// Statuses of a domain that certificates are ordered for.
const PROVED: [&str; 2] = ["verified", "active"];
/// Statuses in which a name has one owner.
const OWNED: [&str; 3] = ["verified", "active", "quarantined"];

/// A host name whose certificate wants doing, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub hostname: String,
    pub org_id: String,
    /// Failures in a row until now.
    pub failures: i64,
    /// End of the certificate that is there.
    pub not_after: Option<i64>,
}

/// A custom domain and its certificate.
#[derive(Debug, Clone)]
pub struct DomainCertificate {
    pub hostname: String,
    pub project_id: String,
    pub certificate: Option<CertificateRow>,
}

/// What an issuer gave.
#[derive(Debug, Clone)]
pub struct NewCertificate {
    pub issuer: String,
    pub challenge: ChallengeKind,
    pub chain: String,
    pub key_sealed: String,
    pub not_before: i64,
    pub not_after: i64,
    pub renew_at: i64,
}

/// Why there is none, and what next.
#[derive(Debug, Clone)]
pub struct Setback {
    pub issuer: String,
    pub words: String,
    pub waits: Waits,
    /// Failures in a row, this one included.
    pub failures: i64,
    pub next_try_at: i64,
}

pub(super) fn proved_hostnames() -> SelectStatement {
    Query::select()
        .column(custom_domain::Column::Hostname)
        .from(custom_domain::Entity)
        .and_where(custom_domain::Column::Status.is_in(PROVED))
        .to_owned()
}

impl Store {
    /// The number of the last change to certificates or challenges.
    pub async fn certificate_epoch(&self) -> Result<i64, StoreError> {
        epoch(&self.read).await
    }

    /// A page of the certificates that changed after `after` (epoch, host name), in that order; such
    /// as are gone have no chain.
    pub async fn certificate_changes(
        &self,
        after: (i64, &str),
        limit: u64,
    ) -> Result<Vec<CertificateRow>, StoreError> {
        let (epoch, hostname) = after;
        let same = Condition::all()
            .add(certificate::Column::Epoch.eq(epoch))
            .add(certificate::Column::Hostname.gt(hostname));
        let mut query = certificate::Entity::find()
            .filter(Condition::any().add(certificate::Column::Epoch.gt(epoch)).add(same))
            .order_by_asc(certificate::Column::Epoch)
            .order_by_asc(certificate::Column::Hostname)
            .limit(limit);
        if epoch == 0 {
            query = query.filter(certificate::Column::Chain.is_not_null());
        }
        Ok(query.all(&self.read).await?)
    }

    /// What wants doing now: renewals first, the one that ends soonest before the others; then names
    /// that were tried before, those that failed least first; then new ones.
    pub async fn certificate_due(&self, limit: u64) -> Result<Vec<Due>, StoreError> {
        let now = self.now().await?;
        let due = || {
            certificate::Entity::find()
                .filter(certificate::Column::NextTryAt.lte(now))
                .filter(certificate::Column::State.ne(CertificateState::Issuing.as_str()))
                .filter(certificate::Column::Hostname.in_subquery(proved_hostnames()))
                .limit(limit)
        };
        let renewals = due()
            .filter(certificate::Column::NotAfter.is_not_null())
            .order_by_asc(certificate::Column::NotAfter)
            .all(&self.read)
            .await?;
        let again = due()
            .filter(certificate::Column::NotAfter.is_null())
            .order_by_asc(certificate::Column::Failures)
            .order_by_asc(certificate::Column::NextTryAt)
            .all(&self.read)
            .await?;
        let known =
            Query::select().column(certificate::Column::Hostname).from(certificate::Entity).to_owned();
        let fresh = custom_domain::Entity::find()
            .filter(custom_domain::Column::Status.is_in(PROVED))
            .filter(custom_domain::Column::Hostname.not_in_subquery(known))
            .order_by_asc(custom_domain::Column::VerifiedAt)
            .limit(limit)
            .all(&self.read)
            .await?;
        let rows: Vec<CertificateRow> = renewals.into_iter().chain(again).collect();
        let owners = self.owners(rows.iter().map(|r| r.hostname.clone()).collect()).await?;
        let tried = rows.into_iter().filter_map(|row| {
            let org_id = owners.get(&row.hostname)?.clone();
            Some(Due { org_id, failures: row.failures, not_after: row.not_after, hostname: row.hostname })
        });
        let fresh = fresh.into_iter().map(|domain| Due {
            hostname: domain.hostname,
            org_id: domain.org_id,
            failures: 0,
            not_after: None,
        });
        Ok(tried.chain(fresh).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    async fn owners(&self, hostnames: Vec<String>) -> Result<HashMap<String, String>, StoreError> {
        let domains = custom_domain::Entity::find()
            .filter(custom_domain::Column::Hostname.is_in(hostnames))
            .filter(custom_domain::Column::Status.is_in(PROVED))
            .all(&self.read)
            .await?;
        Ok(domains.into_iter().map(|d| (d.hostname, d.org_id)).collect())
    }

    /// Writes down that a certificate is being got, and until when nobody else tries if this server
    /// dies meanwhile. Answers false, and nothing may be ordered, if the name is not proved any more.
    pub async fn certificate_begin(
        &self,
        hold: &IssuerHold,
        hostname: &str,
        pause_ms: i64,
    ) -> Result<bool, StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        let proved = custom_domain::Entity::find()
            .filter(custom_domain::Column::Hostname.eq(hostname))
            .filter(custom_domain::Column::Status.is_in(PROVED))
            .one(&tx)
            .await?;
        if proved.is_none() {
            tx.rollback().await?;
            return Ok(false);
        }
        row_of(&tx, hostname, now).await?;
        certificate::Entity::update_many()
            .col_expr(certificate::Column::State, Expr::value(CertificateState::Issuing.as_str()))
            .col_expr(certificate::Column::NextTryAt, Expr::value(now + pause_ms))
            .col_expr(certificate::Column::UpdatedAt, Expr::value(now))
            .filter(certificate::Column::Hostname.eq(hostname))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Stores what the issuer gave, and raises the epoch: every server serves it from then on.
    pub async fn certificate_issued(
        &self,
        hold: &IssuerHold,
        hostname: &str,
        new: &NewCertificate,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        let epoch = next_epoch(&tx).await?;
        let words = Option::<String>::None;
        certificate::Entity::update_many()
            .col_expr(certificate::Column::State, Expr::value(CertificateState::Valid.as_str()))
            .col_expr(certificate::Column::Issuer, Expr::value(&*new.issuer))
            .col_expr(certificate::Column::Challenge, Expr::value(new.challenge.as_str()))
            .col_expr(certificate::Column::Chain, Expr::value(&*new.chain))
            .col_expr(certificate::Column::KeySealed, Expr::value(&*new.key_sealed))
            .col_expr(certificate::Column::NotBefore, Expr::value(new.not_before))
            .col_expr(certificate::Column::NotAfter, Expr::value(new.not_after))
            .col_expr(certificate::Column::Failures, Expr::value(0_i64))
            .col_expr(certificate::Column::LastWords, Expr::value(words))
            .col_expr(certificate::Column::NextTryAt, Expr::value(new.renew_at))
            .col_expr(certificate::Column::InfoAt, Expr::value(Option::<i64>::None))
            .col_expr(certificate::Column::Epoch, Expr::value(epoch))
            .col_expr(certificate::Column::UpdatedAt, Expr::value(now))
            .filter(certificate::Column::Hostname.eq(hostname))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Writes down why there is no (new) certificate; one that is there stays.
    pub async fn certificate_set_back(
        &self,
        hold: &IssuerHold,
        hostname: &str,
        setback: &Setback,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        let row = row_of(&tx, hostname, now).await?;
        let state = CertificateState::after_failure(row.not_after, now, setback.waits);
        let mut change = certificate::Entity::update_many()
            .col_expr(certificate::Column::State, Expr::value(state.as_str()))
            .col_expr(certificate::Column::Failures, Expr::value(setback.failures))
            .col_expr(certificate::Column::LastWords, Expr::value(&*setback.words))
            .col_expr(certificate::Column::NextTryAt, Expr::value(setback.next_try_at))
            .col_expr(certificate::Column::UpdatedAt, Expr::value(now))
            .filter(certificate::Column::Hostname.eq(hostname));
        if row.chain.is_none() {
            change = change.col_expr(certificate::Column::Issuer, Expr::value(&*setback.issuer));
        }
        change.exec(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Takes certificates out of service whose name nobody owns any more. Answers how many.
    pub async fn certificate_retire(&self, hold: &IssuerHold, limit: u64) -> Result<u64, StoreError> {
        let owned = Query::select()
            .column(custom_domain::Column::Hostname)
            .from(custom_domain::Entity)
            .and_where(custom_domain::Column::Status.is_in(OWNED))
            .to_owned();
        let ownerless = || {
            certificate::Column::Hostname
                .not_in_subquery(owned.clone())
                .and(certificate::Column::State.ne(CertificateState::None.as_str()))
        };
        let gone = certificate::Entity::find().filter(ownerless()).limit(limit).all(&self.read).await?;
        if gone.is_empty() {
            return Ok(0);
        }
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        let epoch = next_epoch(&tx).await?;
        let (text, number) = (Option::<String>::None, Option::<i64>::None);
        let done = certificate::Entity::update_many()
            .col_expr(certificate::Column::State, Expr::value(CertificateState::None.as_str()))
            .col_expr(certificate::Column::Chain, Expr::value(text.clone()))
            .col_expr(certificate::Column::KeySealed, Expr::value(text.clone()))
            .col_expr(certificate::Column::NotBefore, Expr::value(number))
            .col_expr(certificate::Column::NotAfter, Expr::value(number))
            .col_expr(certificate::Column::LastWords, Expr::value(text))
            .col_expr(certificate::Column::Failures, Expr::value(0_i64))
            .col_expr(certificate::Column::NextTryAt, Expr::value(now))
            .col_expr(certificate::Column::Epoch, Expr::value(epoch))
            .col_expr(certificate::Column::UpdatedAt, Expr::value(now))
            .filter(certificate::Column::Hostname.is_in(gone.into_iter().map(|r| r.hostname)))
            .filter(ownerless())
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected)
    }

    /// A page of the organization's own domains with their certificates, in order of host name.
    pub async fn certificate_list(
        &self,
        scope: &OrgScope,
        hostname: Option<&str>,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<DomainCertificate>, StoreError> {
        let mut query = custom_domain::Entity::find()
            .filter(custom_domain::Column::OrgId.eq(scope.org().as_str()))
            .filter(custom_domain::Column::Status.is_in(OWNED))
            .order_by_asc(custom_domain::Column::Hostname)
            .limit(limit);
        if let Some(hostname) = hostname {
            query = query.filter(custom_domain::Column::Hostname.eq(hostname));
        }
        if let Some(after) = after {
            query = query.filter(custom_domain::Column::Hostname.gt(after));
        }
        let domains = query.all(&self.read).await?;
        let names = domains.iter().map(|d| d.hostname.clone());
        let mut rows: HashMap<String, CertificateRow> = certificate::Entity::find()
            .filter(certificate::Column::Hostname.is_in(names))
            .all(&self.read)
            .await?
            .into_iter()
            .map(|row| (row.hostname.clone(), row))
            .collect();
        Ok(domains
            .into_iter()
            .map(|d| DomainCertificate {
                certificate: rows.remove(&d.hostname),
                hostname: d.hostname,
                project_id: d.project_id,
            })
            .collect())
    }
}

/// The row of a name, made if it is not there. Only the holder of the lease makes rows.
async fn row_of(tx: &DatabaseTransaction, hostname: &str, now: i64) -> Result<CertificateRow, StoreError> {
    if let Some(row) = certificate::Entity::find_by_id(hostname).one(tx).await? {
        return Ok(row);
    }
    let row = CertificateRow {
        hostname: hostname.to_owned(),
        state: CertificateState::Queued.as_str().to_owned(),
        issuer: None,
        challenge: None,
        chain: None,
        key_sealed: None,
        not_before: None,
        not_after: None,
        failures: 0,
        last_words: None,
        next_try_at: now,
        epoch: 0,
        info_at: None,
        created_at: now,
        updated_at: now,
    };
    let new = certificate::ActiveModel {
        hostname: Set(row.hostname.clone()),
        state: Set(row.state.clone()),
        issuer: Set(None),
        challenge: Set(None),
        chain: Set(None),
        key_sealed: Set(None),
        not_before: Set(None),
        not_after: Set(None),
        failures: Set(0),
        last_words: Set(None),
        next_try_at: Set(now),
        epoch: Set(0),
        info_at: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
    };
    certificate::Entity::insert(new).exec_without_returning(tx).await?;
    Ok(row)
}
