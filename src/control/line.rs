//! Where queued deployments stand in line, from a look that is at most `queue.look_ms` old: one look serves
//! everybody who asks meanwhile, and recording a deployment never makes one of its own.
//! It tells nothing of other organizations but how many deployments are ahead.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Control, ControlError};
use crate::domain::pace::{Estimate, Paced, start_times};
use crate::domain::schedule::{Line, Place, Plan, Share, WaitReason, plan};
use crate::domain::time::rfc3339;
use crate::domain::{OrgId, Principal, Target};
use crate::store::deployments::DeploymentRow;
use crate::store::line::{LineRules, Look, Seen};
use crate::store::paces::Paces;
use crate::store::shares::ShareSet;

/// When a queued deployment is expected to start, from how long deployments took: most probably between
/// `earliest` and `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QueueEta)]
pub struct Eta {
    pub starts_at: String,
    pub earliest: String,
    pub latest: String,
}

/// Where a queued deployment stands in line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = QueuePlace)]
pub struct QueuePlace {
    /// 1 is next.
    #[schema(minimum = 1)]
    pub position: u32,
    /// Queued deployments that are expected to start before it.
    pub ahead: u32,
    /// What it waits for; absent: nothing, it is about to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<WaitReason>,
    /// Absent while nothing is known of how long deployments take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
}

/// What was seen of the line last.
#[derive(Debug, Default)]
pub struct LineView {
    seen: Mutex<Option<Arc<View>>>,
    looking: tokio::sync::Mutex<()>,
    broker_away: AtomicBool,
}

/// One look, worked out.
#[derive(Debug)]
struct View {
    taken: Instant,
    line: Line,
    places: HashMap<String, (Place, Option<Estimate>)>,
    /// When whoever is the n-th of those that wait starts; the last one stands for the end of the line.
    starts: Vec<Estimate>,
    free: u32,
    waiting: HashMap<String, Waiting>,
    /// How many of each organization run or are about to.
    running: HashMap<String, u32>,
    busy: HashSet<(String, Target)>,
    /// What was recorded since, of each organization.
    since: Mutex<HashMap<String, u32>>,
}

/// What waits of one organization.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    all: u32,
    /// Those that count as production.
    first: u32,
    /// How many are ahead of its next one: its place in the round.
    place: u32,
}

impl Control {
    /// What looks at the line go by.
    #[must_use]
    pub fn line_rules(&self) -> LineRules {
        let queue = &self.settings.queue;
        let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let limit = |set: u32| Some(set).filter(|n| *n > 0);
        LineRules {
            silent_ms: ms(queue.silent_seconds),
            grant_ms: ms(queue.grant_seconds),
            preview_age_ms: ms(queue.preview_age_seconds),
            jobs: queue.line_jobs,
            share: Share {
                running_limit: limit(queue.organization_running),
                project_limit: limit(queue.project_running),
                ..Share::default()
            },
            broker_away: self.line.broker_away.load(Ordering::Relaxed),
        }
    }

    /// Whether rings can be published at all; whoever publishes them knows.
    pub fn line_note_broker(&self, is_away: bool) {
        if !self.line.broker_away.swap(is_away, Ordering::Relaxed) && is_away {
            tracing::warn!("the broker is away: it takes no rings, and what is due waits");
        }
    }

    /// Where a queued deployment stands; nothing for one that does not wait, or while the database is away.
    pub async fn queue_place(&self, row: &DeploymentRow) -> Option<QueuePlace> {
        if row.status != "queued" {
            return None;
        }
        let view = self.line_view().await?;
        let known = view
            .places
            .get(&row.id)
            .map(|(place, estimate)| view.shown(place.ahead, place.reason, *estimate));
        Some(known.unwrap_or_else(|| view.newcomer(&Newcomer::of(row), 0)))
    }

    /// Where a deployment stands that was recorded a moment ago.
    pub async fn queue_join(&self, row: &DeploymentRow) -> Option<QueuePlace> {
        if row.status != "queued" {
            return None;
        }
        let view = self.line_view().await?;
        if view.places.contains_key(&row.id) {
            return self.queue_place(row).await;
        }
        let mut since = view.since.lock().unwrap_or_else(PoisonError::into_inner);
        let before: u32 = since.values().sum();
        *since.entry(row.org_id.clone()).or_default() += 1;
        drop(since);
        Some(view.newcomer(&Newcomer::of(row), before))
    }

    /// The last look, or a new one. Whoever finds somebody else looking takes the last one.
    async fn line_view(&self) -> Option<Arc<View>> {
        let last = self.line.last();
        let most = Duration::from_millis(self.settings.queue.look_ms);
        if last.as_ref().is_some_and(|view| view.taken.elapsed() < most) {
            return last;
        }
        let _looking = match (self.line.looking.try_lock(), &last) {
            (Ok(looking), _) => looking,
            (Err(_), Some(_)) => return last,
            (Err(_), None) => self.line.looking.lock().await,
        };
        // Somebody else may have looked while this one waited.
        let last = self.line.last();
        if last.as_ref().is_some_and(|view| view.taken.elapsed() < most) {
            return last;
        }
        match self.line_look().await {
            Ok(view) => {
                let view = Arc::new(view);
                *self.line.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&view));
                Some(view)
            }
            Err(e) => {
                tracing::warn!(error = %e, "the line could not be looked at");
                None
            }
        }
    }

    async fn line_look(&self) -> Result<View, ControlError> {
        let taken = Instant::now();
        let seen = self.store.line_read(&self.line_rules(), Look::Whole).await?;
        let seen = seen.ok_or(ControlError::Conflict("The line was not looked at."))?;
        let jobs = seen.line.jobs.iter().map(|j| j.project.as_str());
        let projects: HashSet<&str> =
            jobs.chain(seen.line.running.iter().map(|r| r.project.as_str())).collect();
        let paces = self.store.pace_read(projects.into_iter().map(str::to_owned).collect()).await?;
        let Seen { line, began, .. } = seen;
        Ok(View::of(taken, line, &began, &paces))
    }

    /// An organization's share of the queue; nothing where there is no such organization, or it is none of the
    /// caller's business.
    ///
    /// # Errors
    /// If the caller is no operator.
    pub async fn share_get(&self, who: &Principal, org: &OrgId) -> Result<Option<ShareSet>, ControlError> {
        if !self.may_share(who, org).await? {
            return Ok(None);
        }
        Ok(Some(self.store.share_get(org).await?))
    }

    /// Sets an organization's share; it counts from the next slot on.
    ///
    /// # Errors
    /// As `share_get`.
    pub async fn share_set(
        &self,
        who: &Principal,
        org: &OrgId,
        share: ShareSet,
    ) -> Result<Option<ShareSet>, ControlError> {
        if !self.may_share(who, org).await? {
            return Ok(None);
        }
        self.store.share_set(org, share).await?;
        tracing::info!(org.id = %org, user.id = %who.user_id, ?share, "an organization's share of the queue was set");
        self.doorbell.notify_one();
        Ok(Some(share))
    }

    async fn may_share(&self, who: &Principal, org: &OrgId) -> Result<bool, ControlError> {
        if who.admin {
            return Ok(self.store.organization_exists(org).await?);
        }
        if *org != who.org_id {
            return Ok(false);
        }
        Err(ControlError::Forbidden("Only an operator sets shares; use a token made with --admin."))
    }
}

/// A deployment that was not there at the last look.
struct Newcomer<'a> {
    org: &'a str,
    project: &'a str,
    target: Target,
    due_at: i64,
}

impl<'a> Newcomer<'a> {
    fn of(row: &'a DeploymentRow) -> Self {
        let target = Target::parse(&row.target).unwrap_or(Target::Production);
        Self { org: &row.org_id, project: &row.project_id, target, due_at: row.due_at }
    }
}

impl LineView {
    fn last(&self) -> Option<Arc<View>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl View {
    fn of(taken: Instant, line: Line, began: &[Option<i64>], paces: &Paces) -> Self {
        let plan = plan(&line);
        let mut view = Self {
            taken,
            places: HashMap::with_capacity(plan.places.len()),
            starts: estimates(&line, began, &plan, paces),
            free: plan.free,
            waiting: HashMap::new(),
            running: HashMap::new(),
            busy: line.running.iter().map(|r| (r.project.clone(), r.target)).collect(),
            since: Mutex::default(),
            line,
        };
        for one in &view.line.running {
            *view.running.entry(one.org.clone()).or_default() += 1;
        }
        for place in plan.places {
            let job = &view.line.jobs[place.job];
            if place.reason.is_some() {
                let aged = view.line.now - job.due_at >= view.line.preview_age_ms;
                let waiting = Waiting { all: 0, first: 0, place: place.ahead };
                let waiting = view.waiting.entry(job.org.clone()).or_insert(waiting);
                waiting.all += 1;
                waiting.first += u32::from(job.target == Target::Production || aged);
            } else {
                *view.running.entry(job.org.clone()).or_default() += 1;
                view.busy.insert((job.project.clone(), job.target));
            }
            let estimate = place.reason.and_then(|_| view.starts.get(place.ahead as usize)).copied();
            view.places.insert(job.id.clone(), (place, estimate));
        }
        view
    }

    /// The place of a deployment that was not there when this was seen, with `before` others since.
    fn newcomer(&self, new: &Newcomer<'_>, before: u32) -> QueuePlace {
        let is_busy = self.busy.contains(&(new.project.to_owned(), new.target));
        let running = self.running.get(new.org).copied().unwrap_or(0);
        let is_full = self.share(new.org).running_limit.is_some_and(|limit| running >= limit);
        let reason = match self.line {
            Line { now, .. } if new.due_at > now.saturating_add(1_000) => WaitReason::RetryWait,
            _ if is_busy => WaitReason::ProjectBusy,
            _ if is_full => WaitReason::OrganizationLimit,
            Line { slots: 0, .. } => WaitReason::NoBuilder,
            Line { broker_away: true, .. } => WaitReason::BrokerAway,
            _ if self.free > before => return self.shown(0, None, None),
            _ => WaitReason::SlotsBusy,
        };
        let ahead = self.ahead_of(new.org, new.target);
        let estimate = self.starts.get(ahead as usize).or(self.starts.last()).copied();
        self.shown(ahead, Some(reason), estimate)
    }

    /// By the round: what its own organization has before it, and as many turns of each other one.
    fn ahead_of(&self, org: &str, target: Target) -> u32 {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |org: &str| since.get(org).copied().unwrap_or(0);
        let own = self.waiting.get(org);
        let there = own.map_or(0, |w| if target == Target::Preview { w.all } else { w.first });
        // The newest of those since is itself, where it was counted.
        let there = there + since(org).saturating_sub(1);
        let turns = (there + 1).div_ceil(self.share(org).weight.max(1));
        let others = self.waiting.iter().filter(|(other, _)| *other != org).map(|(other, waiting)| {
            // Who is behind it in the round has one turn less.
            let is_behind = own.is_some_and(|own| own.place < waiting.place);
            let turns = turns - u32::from(is_behind);
            (waiting.all + since(other)).min(turns.saturating_mul(self.share(other).weight))
        });
        there + others.sum::<u32>()
    }

    fn share(&self, org: &str) -> &Share {
        self.line.shares.get(org).unwrap_or(&self.line.share)
    }

    fn shown(&self, ahead: u32, reason: Option<WaitReason>, estimate: Option<Estimate>) -> QueuePlace {
        let eta = estimate.map(|e| Eta {
            starts_at: rfc3339(self.line.now + e.in_ms),
            earliest: rfc3339(self.line.now + e.earliest_ms),
            latest: rfc3339(self.line.now + e.latest_ms),
        });
        QueuePlace { position: ahead + 1, ahead, reason, eta }
    }
}

/// When each of those that wait starts, in their order, and one more behind them. Empty while nothing is
/// known of how long deployments take.
fn estimates(line: &Line, began: &[Option<i64>], plan: &Plan, paces: &Paces) -> Vec<Estimate> {
    let mut running = Vec::new();
    let mut waiting = Vec::new();
    for (one, began) in line.running.iter().zip(began).filter(|(one, _)| one.holds_slot) {
        let Some(pace) = paces.of(&one.project, one.target) else { return Vec::new() };
        let ms = began.map_or(0, |began| line.now - began);
        running.push(Paced { project: &one.project, target: one.target, pace, ms });
    }
    for place in &plan.places {
        let job = &line.jobs[place.job];
        let Some(pace) = paces.of(&job.project, job.target) else { return Vec::new() };
        let of = |ms| Paced { project: &job.project, target: job.target, pace, ms };
        match place.reason {
            None => running.push(of(0)),
            Some(_) => waiting.push(of((job.due_at - line.now).max(0))),
        }
    }
    let Some(pace) = paces.of("", Target::Production) else { return Vec::new() };
    waiting.push(Paced { project: "", target: Target::Production, pace, ms: 0 });
    start_times(line.slots, &running, &waiting)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::schedule::{Job, Stage};

    fn line(jobs: Vec<(u8, bool, i64)>, turns: Vec<i64>) -> Line {
        let mut line = Line { now: 1_000, slots: 1, preview_age_ms: 400, ..Line::default() };
        line.broker_away = true;
        for (seq, (org, preview, due_at)) in (0..).zip(jobs) {
            let target = if preview { Target::Preview } else { Target::Production };
            let (id, org, project) = (format!("j{seq}"), format!("o{org}"), format!("p{seq}"));
            line.jobs.push(Job { id, org, project, target, seq, due_at, stage: Stage::Waiting });
        }
        for (org, turn) in turns.into_iter().enumerate() {
            line.shares.insert(format!("o{org}"), Share { turn, ..Share::default() });
        }
        line
    }

    fn view(line: Line) -> View {
        View::of(Instant::now(), line, &[], &Paces::default())
    }

    proptest! {
        #[test]
        fn whoever_is_recorded_between_two_looks_is_told_what_the_next_one_shows(
            jobs in proptest::collection::vec((0..5_u8, any::<bool>(), 0..1_000_i64), 0..30),
            turns in proptest::collection::vec(0..900_000_i64, 6),
            org in 0..6_u8,
            preview in any::<bool>(),
        ) {
            let target = if preview { Target::Preview } else { Target::Production };
            let before = view(line(jobs.clone(), turns.clone()));
            let org_id = format!("o{org}");
            let new = Newcomer { org: &org_id, project: "new", target, due_at: 1_000 };
            let told = before.newcomer(&new, 0);
            let next = view(line([jobs, vec![(org, preview, 1_000)]].concat(), turns));
            let (place, _) = next.places[&format!("j{}", next.line.jobs.len() - 1)];
            prop_assert_eq!((told.ahead, told.reason), (place.ahead, place.reason));
        }
    }

    #[test]
    fn those_recorded_since_the_last_look_are_behind_each_other() {
        let view = view(line(vec![(0, false, 1)], Vec::new()));
        let new = Newcomer { org: "o1", project: "new", target: Target::Production, due_at: 1_000 };
        let mut ahead = Vec::new();
        for count in 1..=3 {
            view.since.lock().unwrap().insert("o1".into(), count);
            ahead.push(view.newcomer(&new, count - 1).ahead);
        }
        assert_eq!(ahead, [1, 2, 3]);
    }
}
