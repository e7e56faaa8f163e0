//! Who may ask the issuers, what they were asked, and the challenges that they will come for.
//!
//! One lease over all servers; every write of its holder names the fence, and an old one changes
//! nothing. Orders are counted before they are placed, so that no crash makes us forget one.

use entity::{acme_account, acme_attempt, acme_challenge, certificate, certificate_lease};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, UpdateMany,
};

use super::{Store, StoreError, clock};
use crate::domain::{Budget, ChallengeKind, id};

pub use entity::acme_challenge::Model as ChallengeRow;

/// The hold on the issuers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerHold {
    pub owner: String,
    pub fence: i64,
}

impl IssuerHold {
    fn update(&self) -> UpdateMany<certificate_lease::Entity> {
        certificate_lease::Entity::update_many()
            .filter(certificate_lease::Column::Id.eq(1))
            .filter(certificate_lease::Column::Fence.eq(self.fence))
            .filter(certificate_lease::Column::Owner.eq(&self.owner))
    }

    /// Keeps everybody else from the lease until the transaction ends. Answers the database's time.
    pub(super) async fn check(&self, tx: &DatabaseTransaction) -> Result<i64, StoreError> {
        let row = lease_row(tx).await?;
        let now = clock::now(tx).await?;
        let held = row.fence == self.fence
            && row.owner.as_deref() == Some(&self.owner)
            && row.lease_until.is_some_and(|until| until >= now);
        if held { Ok(now) } else { Err(StoreError::FenceLost) }
    }
}

async fn lease_row(tx: &DatabaseTransaction) -> Result<certificate_lease::Model, StoreError> {
    certificate_lease::Entity::find_by_id(1)
        .lock_exclusive()
        .one(tx)
        .await?
        .ok_or(StoreError::Corrupt { what: "certificate lease" })
}

/// Raises the number of the last change and answers it. The row is held until the transaction ends,
/// so that changes become visible in order.
pub(super) async fn next_epoch(tx: &DatabaseTransaction) -> Result<i64, StoreError> {
    certificate_lease::Entity::update_many()
        .col_expr(certificate_lease::Column::Epoch, Expr::col(certificate_lease::Column::Epoch).add(1))
        .filter(certificate_lease::Column::Id.eq(1))
        .exec(tx)
        .await?;
    epoch(tx).await
}

pub(super) async fn epoch<C: ConnectionTrait>(connection: &C) -> Result<i64, StoreError> {
    let row = certificate_lease::Entity::find_by_id(1).one(connection).await?;
    row.map(|r| r.epoch).ok_or(StoreError::Corrupt { what: "certificate epoch" })
}

/// What an order would use of the budgets.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    pub directory: String,
    pub org_id: String,
    pub hostname: String,
    pub registrable: String,
}

/// The budgets of one issuer.
#[derive(Debug, Clone, Copy)]
pub struct Budgets {
    pub orders: Budget,
    pub orders_of_org: Budget,
    pub certificates_of_domain: Budget,
    pub certificates_of_host: Budget,
    pub failures_of_host: Budget,
}

/// Which budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedUp {
    Orders,
    OrdersOfOrganization,
    CertificatesOfDomain,
    CertificatesOfHost,
    FailuresOfHost,
}

/// Whether an order may be placed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// The order is counted, under this id.
    Granted(String),
    /// Not before this time.
    Wait { until: i64, budget: UsedUp },
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub may_have_certificate: bool,
    pub may_have_failed: bool,
}

impl Store {
    /// Takes the lease, unless another server's is alive. Orders of whoever held it before are over.
    pub async fn issuer_lease_take(
        &self,
        owner: &str,
        lease_ms: i64,
    ) -> Result<Option<IssuerHold>, StoreError> {
        let tx = self.begin().await?;
        let row = lease_row(&tx).await?;
        let now = clock::now(&tx).await?;
        let alive = row.lease_until.is_some_and(|until| until >= now);
        if alive && row.owner.as_deref() != Some(owner) {
            tx.rollback().await?;
            return Ok(None);
        }
        let hold = IssuerHold { owner: owner.to_owned(), fence: row.fence + 1 };
        certificate_lease::Entity::update_many()
            .col_expr(certificate_lease::Column::Owner, Expr::value(owner))
            .col_expr(certificate_lease::Column::Fence, Expr::value(hold.fence))
            .col_expr(certificate_lease::Column::LeaseUntil, Expr::value(now + lease_ms))
            .filter(certificate_lease::Column::Id.eq(1))
            .exec(&tx)
            .await?;
        for (state, holds) in [("valid", true), ("queued", false)] {
            let chain = certificate::Column::Chain;
            certificate::Entity::update_many()
                .col_expr(certificate::Column::State, Expr::value(state))
                .filter(certificate::Column::State.eq("issuing"))
                .filter(if holds { chain.is_not_null() } else { chain.is_null() })
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Some(hold))
    }

    /// # Errors
    /// [`StoreError::FenceLost`] if somebody else took it or it ran out.
    pub async fn issuer_lease_extend(&self, hold: &IssuerHold, lease_ms: i64) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        hold.update()
            .col_expr(certificate_lease::Column::LeaseUntil, Expr::value(now + lease_ms))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Lets another server take over at once.
    pub async fn issuer_lease_release(&self, hold: &IssuerHold) -> Result<(), StoreError> {
        let none = Expr::value(Option::<i64>::None);
        hold.update().col_expr(certificate_lease::Column::LeaseUntil, none).exec(&self.write).await?;
        Ok(())
    }

    /// Counts an order, if every budget has room for it. The lease's row is held meanwhile, so no two
    /// servers count at once.
    pub async fn acme_reserve(
        &self,
        hold: &IssuerHold,
        wanted: &NewAttempt,
        budgets: &Budgets,
    ) -> Result<Reserved, StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        let orders =
            || acme_attempt::Entity::find().filter(acme_attempt::Column::Directory.eq(&wanted.directory));
        let host = || orders().filter(acme_attempt::Column::Hostname.eq(&wanted.hostname));
        let certificates = acme_attempt::Column::MayHaveCertificate.eq(true);
        let questions = [
            (UsedUp::Orders, budgets.orders, orders()),
            (
                UsedUp::OrdersOfOrganization,
                budgets.orders_of_org,
                orders().filter(acme_attempt::Column::OrgId.eq(&wanted.org_id)),
            ),
            (
                UsedUp::CertificatesOfDomain,
                budgets.certificates_of_domain,
                orders()
                    .filter(acme_attempt::Column::Registrable.eq(&wanted.registrable))
                    .filter(certificates.clone()),
            ),
            (UsedUp::CertificatesOfHost, budgets.certificates_of_host, host().filter(certificates)),
            (
                UsedUp::FailuresOfHost,
                budgets.failures_of_host,
                host().filter(acme_attempt::Column::MayHaveFailed.eq(true)),
            ),
        ];
        for (what, budget, question) in questions {
            let times: Vec<i64> = question
                .filter(acme_attempt::Column::At.gt(now - budget.window_ms))
                .select_only()
                .column(acme_attempt::Column::At)
                .order_by_desc(acme_attempt::Column::At)
                .limit(Ord::max(budget.most, 1))
                .into_tuple()
                .all(&tx)
                .await?;
            let until = budget.free_at(&times, now);
            if until > now {
                tx.rollback().await?;
                return Ok(Reserved::Wait { until, budget: what });
            }
        }
        let id = id::random();
        acme_attempt::Entity::insert(acme_attempt::ActiveModel {
            id: Set(id.clone()),
            directory: Set(wanted.directory.clone()),
            org_id: Set(wanted.org_id.clone()),
            hostname: Set(wanted.hostname.clone()),
            registrable: Set(wanted.registrable.clone()),
            at: Set(now),
            may_have_certificate: Set(true),
            may_have_failed: Set(true),
        })
        .exec_without_returning(&tx)
        .await?;
        tx.commit().await?;
        Ok(Reserved::Granted(id))
    }

    /// Writes down what came of an order. One that is never settled counts in every way.
    pub async fn acme_settle(&self, attempt: &str, outcome: Outcome) -> Result<(), StoreError> {
        acme_attempt::Entity::update_many()
            .col_expr(acme_attempt::Column::MayHaveCertificate, Expr::value(outcome.may_have_certificate))
            .col_expr(acme_attempt::Column::MayHaveFailed, Expr::value(outcome.may_have_failed))
            .filter(acme_attempt::Column::Id.eq(attempt))
            .exec(&self.write)
            .await?;
        Ok(())
    }

    /// Forgets orders that no budget counts any more, and challenges that nobody comes for.
    pub async fn acme_prune(&self, hold: &IssuerHold, longest_window_ms: i64) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        acme_attempt::Entity::delete_many()
            .filter(acme_attempt::Column::At.lt(now - longest_window_ms))
            .exec(&tx)
            .await?;
        let gone = acme_challenge::Entity::delete_many()
            .filter(acme_challenge::Column::ExpiresAt.lt(now))
            .exec(&tx)
            .await?;
        if gone.rows_affected > 0 {
            next_epoch(&tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub async fn acme_account_get(&self, directory: &str) -> Result<Option<String>, StoreError> {
        let row = acme_account::Entity::find_by_id(directory).one(&self.read).await?;
        Ok(row.map(|r| r.credentials_sealed))
    }

    pub async fn acme_account_set(
        &self,
        hold: &IssuerHold,
        directory: &str,
        credentials_sealed: &str,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        let row = acme_account::ActiveModel {
            directory: Set(directory.into()),
            credentials_sealed: Set(credentials_sealed.into()),
            created_at: Set(now),
        };
        let replace = OnConflict::column(acme_account::Column::Directory)
            .update_columns([acme_account::Column::CredentialsSealed, acme_account::Column::CreatedAt])
            .to_owned();
        acme_account::Entity::insert(row).on_conflict(replace).exec_without_returning(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The issuer knows this account no more.
    pub async fn acme_account_forget(&self, hold: &IssuerHold, directory: &str) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        hold.check(&tx).await?;
        acme_account::Entity::delete_by_id(directory).exec(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Has every server answer this challenge.
    pub async fn acme_challenge_put(
        &self,
        hold: &IssuerHold,
        hostname: &str,
        kind: ChallengeKind,
        (token, key_authorization): (&str, &str),
        lifetime_ms: i64,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = hold.check(&tx).await?;
        next_epoch(&tx).await?;
        let row = acme_challenge::ActiveModel {
            token: Set(token.into()),
            hostname: Set(hostname.into()),
            kind: Set(kind.as_str().into()),
            key_authorization: Set(key_authorization.into()),
            expires_at: Set(now + lifetime_ms),
        };
        acme_challenge::Entity::delete_by_id(token).exec(&tx).await?;
        acme_challenge::Entity::insert(row).exec_without_returning(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Nobody comes for these any more.
    pub async fn acme_challenge_remove(&self, hostname: &str) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        next_epoch(&tx).await?;
        acme_challenge::Entity::delete_many()
            .filter(acme_challenge::Column::Hostname.eq(hostname))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// What issuers may come for now.
    pub async fn acme_challenge_list(&self) -> Result<Vec<ChallengeRow>, StoreError> {
        Ok(acme_challenge::Entity::find().limit(10_000).all(&self.read).await?)
    }
}
