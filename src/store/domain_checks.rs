//! Looking after claims on domains: which one is due, who looks at it, and what was seen.
//!
//! Whoever looks moves `next_check_at` first, by a statement that names the value it saw: of several
//! servers one does. What was seen is written only while nobody has moved it since.

use entity::{custom_domain, project_target};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
};

use super::domains::{DomainRow, HOLDING, SERVED};
use super::hosts::host_changed;
use super::{Store, StoreError, clock};
use crate::domain::proof::Judgement;
use crate::domain::{DomainId, DomainStatus, OrgScope};

use custom_domain::Column;

/// A failed claim is shown for this long, so that its owner learns why; then it is forgotten.
const FAILED_SHOWN_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// More tries than this, each after another claim took the name at the same moment, mean something else.
const RACES: usize = 3;

/// A claim that is being looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub row: DomainRow,
    /// The database's time at which it was taken up.
    pub at: i64,
    /// `next_check_at` as it was set by whoever looks.
    ticket: i64,
}

/// Whether somebody may look now who asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Look(Box<Look>),
    Unknown,
    /// Asked again too early; milliseconds to wait.
    TooSoon {
        wait_ms: i64,
    },
}

/// What became of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    Done(Box<DomainRow>),
    /// Proved, but another project has the name and its proof holds too.
    Taken(Box<DomainRow>),
    /// Another look began meanwhile, or the claim is gone; nothing was written.
    Outdated,
}

impl Store {
    /// Takes up to `limit` claims that are due, for `hold_ms`.
    pub async fn domain_take_due(&self, limit: u64, hold_ms: i64) -> Result<Vec<Look>, StoreError> {
        let now = self.now().await?;
        let due = custom_domain::Entity::find()
            .filter(Column::Status.ne(DomainStatus::Failed.as_str()))
            .filter(Column::NextCheckAt.lte(now))
            .order_by_asc(Column::NextCheckAt)
            .limit(limit)
            .all(&self.read)
            .await?;
        let mut taken = Vec::with_capacity(due.len());
        for row in due {
            let ticket = now + hold_ms;
            let moved = custom_domain::Entity::update_many()
                .col_expr(Column::NextCheckAt, Expr::value(ticket))
                .filter(Column::Id.eq(&row.id))
                .filter(Column::NextCheckAt.eq(row.next_check_at))
                .exec(&self.write)
                .await?;
            if moved.rows_affected == 1 {
                taken.push(Look { row, at: now, ticket });
            }
        }
        Ok(taken)
    }

    /// Takes a claim up because a member asked to, at most once in `pause_ms`. A look that runs is outdated by it.
    pub async fn domain_take_asked(
        &self,
        scope: &OrgScope,
        id: &DomainId,
        pause_ms: i64,
        hold_ms: i64,
    ) -> Result<Asked, StoreError> {
        self.repeating(|_| async move {
            let tx = self.begin().await?;
            let now = clock::now(&tx).await?;
            let found = custom_domain::Entity::find_by_id(id.as_str())
                .filter(Column::OrgId.eq(scope.org().as_str()))
                .lock_exclusive()
                .one(&tx)
                .await?;
            let Some(row) = found else {
                tx.rollback().await?;
                return Ok(Asked::Unknown);
            };
            if let Some(wait_ms) = row.asked_at.map(|at| at + pause_ms - now).filter(|wait| *wait > 0) {
                tx.rollback().await?;
                return Ok(Asked::TooSoon { wait_ms });
            }
            // Grows always, so that no two looks have the same ticket.
            let ticket = (now + hold_ms).max(row.next_check_at + 1);
            custom_domain::Entity::update_many()
                .col_expr(Column::NextCheckAt, Expr::value(ticket))
                .col_expr(Column::AskedAt, Expr::value(now))
                .filter(Column::Id.eq(&row.id))
                .exec(&tx)
                .await?;
            tx.commit().await?;
            Ok(Asked::Look(Box::new(Look { row, at: now, ticket })))
        })
        .await
    }

    /// Writes what a look came to. A claim that is proved takes the name over from a quarantined one in
    /// the same transaction; `taken` is what it is told where another project's proof holds.
    pub async fn domain_write(
        &self,
        look: &Look,
        judgement: &Judgement,
        taken: &str,
    ) -> Result<Written, StoreError> {
        let mut races = 0;
        loop {
            let written = self.repeating(|_| self.write_once(look, judgement, taken)).await;
            match written {
                // Another claim on the same name was proved at the same moment; it is seen next time.
                Err(StoreError::Duplicate(_)) if races < RACES => races += 1,
                written => return written,
            }
        }
    }

    async fn write_once(
        &self,
        look: &Look,
        judgement: &Judgement,
        taken: &str,
    ) -> Result<Written, StoreError> {
        let tx = self.begin().await?;
        let found = custom_domain::Entity::find_by_id(&look.row.id).lock_exclusive().one(&tx).await?;
        let Some(row) = found.filter(|row| row.next_check_at == look.ticket) else {
            tx.rollback().await?;
            return Ok(Written::Outdated);
        };
        let now = clock::now(&tx).await?;
        let held = HOLDING.contains(&row.status.as_str());
        if judgement.is_proved && !held && !take_over(&tx, &row, now).await? {
            let row = wait_on(&tx, row, judgement, taken, now).await?;
            tx.commit().await?;
            return Ok(Written::Taken(Box::new(row)));
        }
        let was_served = SERVED.contains(&row.status.as_str());
        let row = settle(&tx, row, judgement, now).await?;
        if was_served != SERVED.contains(&row.status.as_str()) {
            host_changed(&tx, &row, Vec::new()).await?;
        }
        tx.commit().await?;
        Ok(Written::Done(Box::new(row)))
    }

    /// Ends what has waited long enough: claims that were not proved, quarantines, failed claims that were
    /// shown for a while. Answers the names that are free now.
    pub async fn domain_end_overdue(&self, limit: u64) -> Result<Vec<String>, StoreError> {
        let now = self.now().await?;
        let overdue = custom_domain::Entity::find()
            .filter(Column::ExpiresAt.lte(now))
            .filter(Column::Status.is_not_in(SERVED))
            .order_by_asc(Column::ExpiresAt)
            .limit(limit)
            .all(&self.read)
            .await?;
        let mut ended = Vec::new();
        for row in overdue {
            let unchanged = |id: &str| {
                sea_orm::Condition::all()
                    .add(Column::Id.eq(id))
                    .add(Column::Status.eq(&row.status))
                    .add(Column::ExpiresAt.eq(row.expires_at))
            };
            let changed = if row.status == DomainStatus::Failed.as_str() {
                custom_domain::Entity::delete_many()
                    .filter(unchanged(&row.id))
                    .exec(&self.write)
                    .await?
                    .rows_affected
            } else {
                let message = if row.status == DomainStatus::Pending.as_str() {
                    "The domain was not proved in time; add it again when its TXT record is set."
                } else {
                    "The proof did not come back in time; add the domain again when its TXT record is set."
                };
                let failed = failed(message, now);
                let update = custom_domain::Entity::update_many().set(failed).filter(unchanged(&row.id));
                update.exec(&self.write).await?.rows_affected
            };
            if changed == 1 {
                ended.push(row.hostname);
            }
        }
        Ok(ended)
    }

    /// Proved domains whose projects have something live by now are `active`. Nothing that is served
    /// changes by it.
    pub async fn domain_activate(&self, limit: u64) -> Result<u64, StoreError> {
        let ids: Vec<String> = custom_domain::Entity::find()
            .select_only()
            .column(Column::Id)
            // Written out, as the index of these few rows is by this very word; a million active ones are not read.
            .filter(Expr::cust("status = 'verified'"))
            .filter(has_live())
            .limit(limit)
            .into_tuple()
            .all(&self.read)
            .await?;
        if ids.is_empty() {
            return Ok(0);
        }
        let changed = custom_domain::Entity::update_many()
            .col_expr(Column::Status, Expr::value(DomainStatus::Active.as_str()))
            .filter(Column::Id.is_in(ids))
            .filter(Column::Status.eq(DomainStatus::Verified.as_str()))
            .exec(&self.write)
            .await?;
        Ok(changed.rows_affected)
    }
}

/// That the domain's project has something live: asked for each of few domains, not for all projects.
fn has_live() -> Expr {
    use sea_orm::sea_query::ExprTrait;
    let project = Expr::col((project_target::Entity, project_target::Column::ProjectId));
    let live = project_target::Entity::find()
        .select_only()
        .column(project_target::Column::ProjectId)
        .filter(project.equals((custom_domain::Entity, Column::ProjectId)))
        .filter(project_target::Column::Target.eq("production"))
        .filter(project_target::Column::LiveVersionId.is_not_null());
    Expr::exists(live.into_query())
}

/// Makes the name free for `row`, if whoever holds it has lost its proof. Answers whether it is free.
async fn take_over(tx: &DatabaseTransaction, row: &DomainRow, now: i64) -> Result<bool, StoreError> {
    let holder = custom_domain::Entity::find()
        .filter(Column::Hostname.eq(&row.hostname))
        .filter(Column::Status.is_in(HOLDING))
        .filter(Column::Id.ne(&row.id))
        .lock_exclusive()
        .one(tx)
        .await?;
    let Some(holder) = holder else { return Ok(true) };
    if holder.status != DomainStatus::Quarantined.as_str() {
        return Ok(false);
    }
    let message = "The proof was lost, and another project has proved the domain since.";
    // By its status too: its own proof may have come back while we waited for its row.
    let freed = custom_domain::Entity::update_many()
        .set(failed(message, now))
        .filter(Column::Id.eq(&holder.id))
        .filter(Column::Status.eq(DomainStatus::Quarantined.as_str()))
        .exec(tx)
        .await?;
    Ok(freed.rows_affected == 1)
}

fn failed(message: &str, now: i64) -> custom_domain::ActiveModel {
    custom_domain::ActiveModel {
        status: Set(DomainStatus::Failed.as_str().into()),
        message: Set(Some(message.into())),
        expires_at: Set(Some(now + FAILED_SHOWN_MS)),
        quarantined_at: Set(None),
        ..Default::default()
    }
}

/// The proof is there, and the name is not free.
async fn wait_on(
    tx: &DatabaseTransaction,
    row: DomainRow,
    judgement: &Judgement,
    message: &str,
    now: i64,
) -> Result<DomainRow, StoreError> {
    let row = DomainRow {
        checked_at: Some(now),
        next_check_at: now + judgement.pause,
        unanswered: 0,
        message: Some(message.to_owned()),
        ..row
    };
    save(tx, &row).await?;
    Ok(row)
}

async fn settle(
    tx: &DatabaseTransaction,
    row: DomainRow,
    judgement: &Judgement,
    now: i64,
) -> Result<DomainRow, StoreError> {
    let mut next = DomainRow {
        checked_at: Some(now),
        next_check_at: now + judgement.pause,
        lost_since: judgement.lost_since,
        lost_checks: judgement.lost_checks,
        unanswered: judgement.unanswered,
        message: Some(judgement.message.clone()),
        ..row
    };
    let before = DomainStatus::parse(&next.status);
    let mut status = judgement.status;
    if status.is_served() {
        let live = is_live(tx, &next.project_id).await?;
        status = if live { DomainStatus::Active } else { DomainStatus::Verified };
    }
    if judgement.is_proved {
        next.proved_at = Some(now);
        next.quarantined_at = None;
        next.expires_at = None;
        if !before.is_some_and(DomainStatus::is_served) {
            next.verified_at = Some(now);
        }
    }
    if status == DomainStatus::Quarantined && before != Some(status) {
        next.quarantined_at = Some(now);
        next.expires_at = judgement.held_for.map(|held| now + held);
    }
    next.status = status.as_str().into();
    save(tx, &next).await?;
    Ok(next)
}

async fn is_live(tx: &DatabaseTransaction, project: &str) -> Result<bool, StoreError> {
    let live = project_target::Entity::find()
        .filter(project_target::Column::ProjectId.eq(project))
        .filter(project_target::Column::Target.eq("production"))
        .filter(project_target::Column::LiveVersionId.is_not_null())
        .count(tx)
        .await?;
    Ok(live > 0)
}

/// What a look may change; where it redirects to is its owner's.
async fn save(tx: &DatabaseTransaction, row: &DomainRow) -> Result<(), StoreError> {
    let changes = custom_domain::ActiveModel {
        status: Set(row.status.clone()),
        expires_at: Set(row.expires_at),
        verified_at: Set(row.verified_at),
        checked_at: Set(row.checked_at),
        next_check_at: Set(row.next_check_at),
        proved_at: Set(row.proved_at),
        lost_since: Set(row.lost_since),
        lost_checks: Set(row.lost_checks),
        unanswered: Set(row.unanswered),
        message: Set(row.message.clone()),
        quarantined_at: Set(row.quarantined_at),
        ..Default::default()
    };
    custom_domain::Entity::update_many().set(changes).filter(Column::Id.eq(&row.id)).exec(tx).await?;
    Ok(())
}
