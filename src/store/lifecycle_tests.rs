//! What the record takes of a deployment's life and what it refuses, statement by statement.

use std::collections::HashMap;

use sea_orm::ConnectionTrait;

use super::claims::Claim;
use super::dead_letters::{LetterFilter, LetterScope};
use super::deployments::{DeploymentRow, NewDeployment, Recorded, Supersede};
use super::journal::Hold;
use super::outcome::CancelAsked;
use super::projects::NewProject;
use super::redrives::{NewRedrive, Redriven};
use super::{Store, StoreError};
use crate::domain::{
    Cause, DeploymentId, Fault, OrgScope, Principal, ProjectId, RedriveFrom, Target, TokenId, UserId,
};

pub(super) struct House {
    pub(super) store: Store,
    who: Principal,
    project: ProjectId,
    user: UserId,
    _folder: tempfile::TempDir,
}

pub(super) async fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let settings = crate::config::load(folder.path(), None, &HashMap::new()).unwrap().settings.database;
    let store = Store::open(&settings, &folder.path().join("db"), &folder.path().join("lock")).await.unwrap();
    let org = store.organization_create("life").await.unwrap();
    let user = store.user_create("life", &org).await.unwrap();
    let who = Principal {
        token_id: TokenId::random(),
        org_id: org,
        user_id: user.clone(),
        scopes: Vec::new(),
        admin: false,
    };
    let project = ProjectId::random();
    let new = NewProject {
        id: project.clone(),
        name: "shop".into(),
        worker_name: "shop".into(),
        template: None,
        tree: None,
    };
    store.project_create(&who.scope(), new).await.unwrap();
    House { store, who, project, user, _folder: folder }
}

impl House {
    fn scope(&self) -> OrgScope {
        self.who.scope()
    }

    pub(super) async fn queued(&self) -> DeploymentRow {
        let new = NewDeployment {
            id: DeploymentId::random(),
            project: self.project.clone(),
            user: self.user.clone(),
            target: Target::Production,
            source: "{}".into(),
            build: "{}".into(),
            env_sealed: None,
            custom_domain: None,
            branch: None,
            commit: None,
            message: None,
            supersede: Supersede::Nothing,
            idempotency: None,
            quota_limit: 100,
            waiting_limit: 100,
        };
        match self.store.deployment_create(&self.scope(), new).await.unwrap() {
            Recorded::New(row) => *row,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn claim(&self, row: &DeploymentRow, owner: &str) -> Claim {
        self.store.deployment_claim(&row.id, &row.org_id, row.ring, owner, 60_000).await.unwrap()
    }

    async fn running(&self) -> DeploymentRow {
        let row = self.queued().await;
        match self.claim(&row, "a/0/1").await {
            Claim::Taken(row) => *row,
            other => panic!("{other:?}"),
        }
    }

    async fn row(&self, id: &str) -> DeploymentRow {
        self.store.deployment_by_id(id).await.unwrap().unwrap()
    }

    pub(super) async fn sql(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.store.write.execute_unprepared(sql).await.map(drop)?)
    }

    async fn ask_to_cancel(&self, row: &DeploymentRow) -> CancelAsked {
        let id = DeploymentId::parse(&row.id).unwrap();
        self.store.deployment_cancel(&self.scope(), &id).await.unwrap()
    }

    async fn quota(&self) -> (i64, i64, i64) {
        let sum = "SELECT reserved, settled, released FROM quota_period";
        let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, sum);
        let row = self.store.read.query_one_raw(statement).await.unwrap().unwrap();
        let count = |name: &str| row.try_get::<i64>("", name).unwrap();
        (count("reserved"), count("settled"), count("released"))
    }
}

fn cause() -> Cause {
    Cause::new(Fault::Platform, None, "away", "wait")
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_stands_when_it_is_asked_for_again() {
    let house = house().await;
    let queued = house.queued().await;
    let Claim::Taken(first) = house.claim(&queued, "a/0/1").await else { panic!() };
    let Claim::Taken(again) = house.claim(&queued, "a/0/1").await else { panic!() };
    assert_eq!((again.attempt, again.fence), (1, first.fence), "it costs no attempt");
    // Another delivery, of this server or of another one.
    for owner in ["a/0/2", "b/0/1"] {
        assert!(matches!(house.claim(&queued, owner).await, Claim::NotNow));
    }
    let expired = format!("UPDATE deployment SET lease_until = 1 WHERE id = '{}'", first.id);
    house.sql(&expired).await.unwrap();
    assert!(
        matches!(house.claim(&queued, "a/0/1").await, Claim::NotNow),
        "a lease that ran out is not its own"
    );
}

#[tokio::test]
async fn a_cancel_that_was_asked_beats_every_end_but_going_live() {
    for way in ["fail", "retry", "hand over"] {
        let house = house().await;
        let row = house.running().await;
        assert!(matches!(house.ask_to_cancel(&row).await, CancelAsked::Requested(_)));
        let hold = Hold::of(&row);
        match way {
            "fail" => house.store.deployment_fail(&hold, &cause()).await.unwrap(),
            "retry" => house.store.deployment_retry(&hold, &cause(), 0).await.unwrap(),
            _ => house.store.deployment_hand_over(&hold).await.unwrap(),
        }
        let row = house.row(&row.id).await;
        assert_eq!(
            (row.status.as_str(), row.cancel_reason.as_deref()),
            ("cancelled", Some("requested")),
            "{way}"
        );
        assert_eq!(house.quota().await, (0, 1, 0), "{way}: what ran is paid for");
    }
}

#[tokio::test]
async fn a_cancelled_one_that_waits_all_the_same_is_claimed_by_nobody() {
    let house = house().await;
    let queued = house.queued().await;
    // As a release before this one could leave it.
    house.sql("UPDATE deployment SET cancel_requested_at = 1").await.unwrap();
    assert!(matches!(house.claim(&queued, "a/0/1").await, Claim::Final));
    let row = house.row(&queued.id).await;
    assert_eq!((row.status.as_str(), row.attempt), ("cancelled", 0));
    assert_eq!(house.quota().await, (0, 0, 1));
}

#[tokio::test]
async fn a_hand_over_costs_no_attempt_and_is_counted() {
    let house = house().await;
    let row = house.running().await;
    house.store.deployment_hand_over(&Hold::of(&row)).await.unwrap();
    let row = house.row(&row.id).await;
    assert_eq!((row.status.as_str(), row.attempt, row.hand_overs), ("queued", 0, 1));
}

#[tokio::test]
async fn an_attempt_that_an_older_release_left_open_is_closed_by_the_next_claim() {
    let house = house().await;
    let row = house.running().await;
    // As a release that knows no attempts gives it back.
    house
        .sql("UPDATE deployment SET status = 'queued', lease_owner = NULL, lease_until = NULL, ring = ring + 1")
        .await
        .unwrap();
    let queued = house.row(&row.id).await;
    let Claim::Taken(second) = house.claim(&queued, "b/0/1").await else { panic!() };
    let attempts = house.store.attempt_list(&row.id, 9).await.unwrap();
    let told: Vec<_> =
        attempts.iter().map(|a| (a.attempt, a.server.as_str(), a.outcome.as_deref())).collect();
    assert_eq!(told, [(1, "a/0/1", Some("crashed")), (2, "b/0/1", None)]);
    // And as it claims: nothing is open, and an end finds nothing to close.
    house.sql("DELETE FROM deployment_attempt").await.unwrap();
    house.store.deployment_retry(&Hold::of(&second), &cause(), 0).await.unwrap();
    assert_eq!(house.row(&row.id).await.status, "queued");
}

#[tokio::test]
async fn a_failure_that_is_a_dead_letter_is_recorded_with_it_or_not_at_all() {
    let house = house().await;
    let row = house.running().await;
    house.sql("ALTER TABLE dead_letter RENAME TO away").await.unwrap();
    assert!(house.store.deployment_fail(&Hold::of(&row), &cause()).await.is_err());
    assert_eq!(house.row(&row.id).await.status, "in_progress");
    assert_eq!(house.quota().await, (1, 0, 0));
    house.sql("ALTER TABLE away RENAME TO dead_letter").await.unwrap();
    house.store.deployment_fail(&Hold::of(&row), &cause()).await.unwrap();
    assert_eq!(house.row(&row.id).await.status, "failed");
    assert_eq!(house.quota().await, (0, 0, 1));
    // A user's failure is none.
    let other = house.running().await;
    let theirs = Cause::new(Fault::User, None, "bad", "mend");
    house.store.deployment_fail(&Hold::of(&other), &theirs).await.unwrap();
    let scope = LetterScope { org: house.who.org_id.to_string(), nobodys: true };
    let filter = LetterFilter { limit: 9, ..LetterFilter::default() };
    let letters = house.store.dead_letter_list(&scope, &filter).await.unwrap();
    assert_eq!(
        letters.iter().map(|l| l.deployment_id.as_deref()).collect::<Vec<_>>(),
        [Some(row.id.as_str())]
    );
}

#[tokio::test]
async fn a_redrive_moves_its_reservation_into_this_months_period() {
    let house = house().await;
    let row = house.running().await;
    house.store.deployment_fail(&Hold::of(&row), &cause()).await.unwrap();
    for moved in [
        "INSERT INTO quota_period (org_id, period, plan, limit_count, reserved, settled, released) \
         SELECT org_id, '2001-01', plan, limit_count, reserved, settled, released FROM quota_period",
        "UPDATE quota_entry SET period = '2001-01'",
        "DELETE FROM quota_period WHERE period > '2001-01'",
    ] {
        house.sql(moved).await.unwrap();
    }
    let scope = LetterScope { org: house.who.org_id.to_string(), nobodys: false };
    let filter = LetterFilter { limit: 9, ..LetterFilter::default() };
    let letter = house.store.dead_letter_list(&scope, &filter).await.unwrap().remove(0);
    let new = NewRedrive {
        from: RedriveFrom::Start,
        set: serde_json::Map::new(),
        delay_ms: 0,
        by: house.user.clone(),
        quota_limit: 1,
    };
    let redriven = house.store.deployment_redrive(&scope, &letter.id, &new).await.unwrap();
    assert!(matches!(redriven, Redriven::Done(_)), "{redriven:?}");
    let sums = "SELECT 1 FROM quota_period WHERE (period = '2001-01' AND reserved + settled + released = 0) \
                OR (period > '2001-01' AND reserved = 1 AND released = 0)";
    let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, sums);
    assert_eq!(house.store.read.query_all_raw(statement).await.unwrap().len(), 2);
    let again = house.store.deployment_redrive(&scope, &letter.id, &new).await.unwrap();
    assert!(matches!(again, Redriven::NotOpen), "{again:?}");
}

#[tokio::test]
async fn what_may_not_happen_can_not_be_stored() {
    let house = house().await;
    let row = house.running().await;
    house.sql("UPDATE deployment SET switched_at = 5").await.unwrap();
    for forbidden in [
        "UPDATE deployment SET fence = fence - 1",
        "UPDATE deployment SET switched_at = 6",
        "UPDATE deployment SET switched_at = NULL",
        "UPDATE deployment SET status = 'queued'",
        "UPDATE deployment SET status = 'completed', lease_owner = NULL, lease_until = NULL, finished_at = 1",
        "UPDATE deployment SET status = 'queued', attempt = 3, lease_owner = NULL, lease_until = NULL",
        "UPDATE deployment SET attempt = 4",
        "UPDATE deployment SET redrives = -1",
        "UPDATE deployment SET resume_from = 'elsewhere'",
    ] {
        assert!(house.sql(forbidden).await.is_err(), "{forbidden}");
    }
    house.store.deployment_fail(&Hold::of(&row), &cause()).await.unwrap();
    let again = "UPDATE deployment SET status = 'queued', attempt = 0, finished_at = NULL";
    for forbidden in [
        again.to_owned(),
        "UPDATE deployment SET status = 'cancelled', cancel_reason = 'requested'".to_owned(),
        format!("{again}, redrives = 2"),
    ] {
        assert!(house.sql(&forbidden).await.is_err(), "{forbidden}");
    }
    house.sql(&format!("{again}, redrives = 1")).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_the_next_lease_to_end_is_told_when() {
    let house = house().await;
    assert_eq!(house.store.lease_next_end_ms().await.unwrap(), None);
    let row = house.running().await;
    let next = house.store.lease_next_end_ms().await.unwrap().unwrap();
    assert!((50_000..=60_000).contains(&next), "{next}");
    house.sql(&format!("UPDATE deployment SET lease_until = 1 WHERE id = '{}'", row.id)).await.unwrap();
    assert_eq!(house.store.lease_next_end_ms().await.unwrap(), Some(0));
}
