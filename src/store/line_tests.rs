//! What a look at the line sees, and what a grant by an old look does.

use super::claims::Claim;
use super::deployments::DeploymentRow;
use super::journal::Hold;
use super::lifecycle_tests::{House, house};
use super::line::{LineRules, Look, Seen};
use crate::domain::Target;
use crate::domain::schedule::{Share, Stage, plan};

fn rules() -> LineRules {
    let share = Share::default();
    LineRules {
        silent_ms: 10_000,
        grant_ms: 5_000,
        preview_age_ms: 60_000,
        jobs: 100,
        share,
        broker_away: false,
    }
}

impl House {
    async fn look(&self) -> Seen {
        self.store.line_read(&rules(), Look::Whole).await.unwrap().unwrap()
    }

    async fn stage(&self) -> Stage {
        self.look().await.line.jobs[0].stage
    }

    /// Grants what there is to grant.
    async fn grant(&self) -> Vec<DeploymentRow> {
        let seen = self.look().await;
        self.store.line_grant(&seen, &plan(&seen.line)).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn of_two_grants_by_one_look_one_is_made() {
    let house = house().await;
    house.store.builder_report("a", 2).await.unwrap();
    let row = house.queued().await;
    let seen = house.look().await;
    let plan = plan(&seen.line);
    let granted = house.store.line_grant(&seen, &plan).await.unwrap().unwrap();
    assert_eq!(granted.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), [row.id.as_str()]);
    assert!(house.store.line_grant(&seen, &plan).await.unwrap().is_none(), "somebody was faster");
}

#[tokio::test]
async fn a_grant_holds_its_slot_until_it_is_claimed_given_back_or_too_old() {
    let house = house().await;
    house.store.builder_report("a", 1).await.unwrap();
    let row = house.queued().await;
    assert_eq!(house.stage().await, Stage::Waiting);
    assert_eq!(house.grant().await.len(), 1);
    assert_eq!(house.stage().await, Stage::Granted);
    house.store.line_give_back(std::slice::from_ref(&row.id)).await.unwrap();
    assert_eq!(house.stage().await, Stage::Owed);
    house.grant().await;
    house.sql("UPDATE queue_grant SET granted_at = granted_at - 5001").await.unwrap();
    assert_eq!(house.stage().await, Stage::Owed, "nobody rang it");
    house.grant().await;
    house.store.ring_rung(&row.id, row.ring, 7).await.unwrap();
    assert_eq!(house.stage().await, Stage::Granted);
    house.sql("UPDATE queue_grant SET granted_at = granted_at - 5001").await.unwrap();
    assert_eq!(house.stage().await, Stage::Rung, "its message may still come");
    house.store.ring_again(&row.id, row.ring).await.unwrap();
    assert_eq!(house.stage().await, Stage::Owed, "its message was lost");
    house.grant().await;
    house.store.ring_rung(&row.id, row.ring + 1, 8).await.unwrap();
    house.store.ring_again(&row.id, row.ring + 1).await.unwrap();
    assert_eq!(house.stage().await, Stage::Owed, "a moment after it was granted, too");
    house.grant().await;
    // Claimed, it holds the slot itself; given back by its server it waits like anybody.
    let rung = DeploymentRow { ring: row.ring + 2, ..row };
    let Claim::Taken(taken) = house.claim(&rung, "a/0/1").await else { panic!("not taken") };
    let line = house.look().await.line;
    assert!(line.jobs.is_empty() && line.running[0].holds_slot);
    assert!(house.store.line_read(&rules(), Look::ToGrant).await.unwrap().is_none(), "nothing to grant");
    house.store.deployment_hand_over(&Hold::of(&taken)).await.unwrap();
    assert_eq!(house.stage().await, Stage::Waiting);
    assert_eq!(house.store.line_forget().await.unwrap(), 0, "it waits");
    house
        .sql("UPDATE deployment SET status = 'cancelled', cancel_reason = 'requested', finished_at = 1")
        .await
        .unwrap();
    assert_eq!(house.store.line_forget().await.unwrap(), 1);
}

#[tokio::test]
async fn what_a_release_without_grants_has_rung_counts_for_as_long_as_a_grant() {
    let house = house().await;
    house.store.builder_report("a", 1).await.unwrap();
    let row = house.queued().await;
    house.store.ring_rung(&row.id, row.ring, 7).await.unwrap();
    assert_eq!(house.stage().await, Stage::Granted);
    house.sql("UPDATE deployment SET rung_at = rung_at - 5001").await.unwrap();
    assert_eq!(house.stage().await, Stage::Rung);
}

#[tokio::test]
async fn slots_are_those_of_builders_that_were_heard_of() {
    let house = house().await;
    assert_eq!(house.look().await.line.slots, 0);
    house.store.builder_report("a", 2).await.unwrap();
    house.store.builder_report("b", 3).await.unwrap();
    house.store.builder_report("a", 4).await.unwrap();
    assert_eq!(house.look().await.line.slots, 7);
    house.sql("UPDATE builder_node SET heartbeat_at = heartbeat_at - 10001 WHERE id = 'b'").await.unwrap();
    assert_eq!(house.look().await.line.slots, 4);
    // What runs on a server that reports no slots takes none.
    let row = house.queued().await;
    assert!(matches!(house.claim(&row, "c/0/1").await, Claim::Taken(_)));
    assert!(!house.look().await.line.running[0].holds_slot);
    house.store.builder_leave("a").await.unwrap();
    assert_eq!(house.look().await.line.slots, 0);
}

#[tokio::test]
async fn what_operators_set_stays_while_turns_are_written_beside_it() {
    let house = house().await;
    house.store.builder_report("a", 1).await.unwrap();
    let row = house.queued().await;
    let org = crate::domain::OrgId::parse(&row.org_id).unwrap();
    let set = super::shares::ShareSet { weight: 3, running_limit: Some(2), project_limit: None };
    house.store.share_set(&org, set).await.unwrap();
    house.grant().await;
    assert_eq!(house.store.share_get(&org).await.unwrap(), set);
    house.store.share_set(&org, super::shares::ShareSet { weight: 5, ..set }).await.unwrap();
    house.queued().await;
    let share = house.look().await.line.shares.remove(&row.org_id).unwrap();
    assert_eq!((share.weight, share.running_limit, share.project_limit), (5, Some(2), None));
    assert!(share.turn > 0, "its turn has ended");
}

#[tokio::test]
async fn how_long_deployments_take_is_learnt_from_those_that_complete() {
    let house = house().await;
    for (at, took) in [100, 200, 300].into_iter().enumerate() {
        let row = house.queued().await;
        let Claim::Taken(taken) = house.claim(&row, &format!("a/0/{at}")).await else { panic!("not taken") };
        house
            .sql(&format!(
                "UPDATE deployment_step SET status = 'completed', started_at = 1000, finished_at = 1000 + {took} \
                 WHERE deployment_id = '{}' AND step IN ('sync', 'build')",
                row.id
            ))
            .await
            .unwrap();
        house.sql("UPDATE deployment SET version_id = 'v'").await.unwrap();
        house.store.deployment_complete(&Hold::of(&taken), None).await.unwrap();
    }
    let project = house.look().await;
    assert!(project.line.jobs.is_empty());
    let id = house.queued().await.project_id;
    let paces = house.store.pace_read(vec![id.clone()]).await.unwrap();
    let own = paces.of(&id, Target::Production).unwrap();
    let rounded = |value: f64| format!("{value:.1}");
    // Two steps of 200 ms on average, each with a variance of 20000 / 3.
    assert_eq!((rounded(own.mean_ms), rounded(own.variance)), ("400.0".into(), "13333.3".into()));
    let everybody = paces.of("another", Target::Production).unwrap();
    assert_eq!((rounded(everybody.mean_ms), rounded(everybody.variance)), ("400.0".into(), "26666.7".into()));
}
