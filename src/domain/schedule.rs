//! Who is next: deficit round robin over organizations, and what each waiting deployment waits for.
//! A pure function of what waits, what runs, the slots and the time; it reads no clock and writes nothing.
//!
//! Whoever becomes active goes to the end of the round: an organization's place is the later of the end of
//! its last turn and the time since when its oldest deployment waits. A turn is `weight` deployments. So
//! between the arrival of a lone deployment and its start, each organization that was active when it came
//! has one turn at most, and whoever comes later has none. With equal weights it waits at most
//! `1 + ceil(active organizations / slots)` times the longest service time.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::status::{Target, words};

/// Stamps given out within one millisecond stay behind what came before it.
const STAMPS_PER_MS: i64 = 1_000;

words! {
    /// What a queued deployment waits for: a free slot, its organization's limit, a running deployment of its
    /// project, an older one of its project and target, the time of its next attempt, a server that builds,
    /// or the broker.
    WaitReason {
        SlotsBusy = "slots_busy",
        OrganizationLimit = "organization_limit",
        ProjectBusy = "project_busy",
        OlderFirst = "older_first",
        RetryWait = "retry_wait",
        NoBuilder = "no_builder",
        BrokerAway = "broker_away",
    }
}

/// An organization's share, and where it stands in the round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Deployments of one turn.
    pub weight: u32,
    /// What is left of the turn that it is in.
    pub deficit: u32,
    /// When its last turn ended, as a stamp; its place in the round while it is in one.
    pub turn: i64,
    /// Deployments that may run at once; `None`: as many as there are slots.
    pub running_limit: Option<u32>,
    /// The same of each of its projects.
    pub project_limit: Option<u32>,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, deficit: 0, turn: 0, running_limit: None, project_limit: None }
    }
}

/// How far a queued deployment is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    /// It was granted a slot and its ring was lost: the next slot is its own, and costs it nothing.
    Owed,
    /// It was granted a slot a moment ago, which it holds until it is claimed.
    Granted,
    /// It was rung and nobody came for it so far; it holds no slot.
    Rung,
}

/// A queued deployment.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    pub org: String,
    pub project: String,
    pub target: Target,
    pub seq: i64,
    /// It waits since then, or until then. Milliseconds.
    pub due_at: i64,
    pub stage: Stage,
}

/// A deployment that is being worked on.
#[derive(Debug, Clone)]
pub struct Running {
    pub org: String,
    pub project: String,
    pub target: Target,
    /// Whether it takes one of the slots that are counted; another release's builder is not counted.
    pub holds_slot: bool,
}

/// What is decided from.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub now: i64,
    pub jobs: Vec<Job>,
    pub running: Vec<Running>,
    /// Of organizations that have one of their own.
    pub shares: HashMap<String, Share>,
    /// For those that have none.
    pub share: Share,
    /// Of all builders that live.
    pub slots: u32,
    /// The last stamp that was given out.
    pub stamp: i64,
    /// A preview that waits for this long counts as production.
    pub preview_age_ms: i64,
    /// Nothing can be rung.
    pub broker_away: bool,
}

/// Where a queued deployment stands. `position` is `ahead + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its index in [`Line::jobs`].
    pub job: usize,
    pub ahead: u32,
    /// `None`: nothing; it is about to start.
    pub reason: Option<WaitReason>,
}

#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Indices in [`Line::jobs`], in the order in which they are to be rung.
    pub grants: Vec<usize>,
    /// Every queued deployment, in the order in which they are expected to start.
    pub places: Vec<Place>,
    /// Organizations whose standing changed.
    pub shares: HashMap<String, Share>,
    pub stamp: i64,
    /// Slots that nobody wants.
    pub free: u32,
}

/// Decides who gets the free slots, and in which order the others wait.
#[must_use]
pub fn plan(line: &Line) -> Plan {
    let mut held = Held::of(line);
    let mut plan = Plan { stamp: line.stamp, ..Plan::default() };
    let on_their_way = |stage| (0..line.jobs.len()).filter(move |j| line.jobs[*j].stage == stage);
    plan.places.extend(on_their_way(Stage::Granted).map(|job| Place { job, ahead: 0, reason: None }));
    let mut free = if line.broker_away { 0 } else { line.slots.saturating_sub(held.slots) };
    for job in in_order(line, on_their_way(Stage::Owed).filter(|j| line.jobs[*j].due_at <= line.now)) {
        if free > 0 && held.may_start(line, job).is_none() {
            held.start(&line.jobs[job]);
            plan.grants.push(job);
            free -= 1;
        }
    }
    let granted: HashSet<usize> = plan.grants.iter().copied().collect();
    let mut round = Round::of(line, &granted);
    while free > 0
        && let Some(job) = round.next(|job| held.may_start(line, job).is_none())
    {
        held.start(&line.jobs[job]);
        plan.grants.push(job);
        free -= 1;
    }
    plan.free = free;
    plan.stamp = round.stamp.max(line.stamp + i64::from(!plan.grants.is_empty()));
    plan.shares = round.changed();
    plan.places.extend(plan.grants.iter().map(|job| Place { job: *job, ahead: 0, reason: None }));
    let granted: HashSet<usize> = plan.grants.iter().copied().collect();
    for (job, ahead) in waiting_order(line, &granted, round).into_iter().zip(0_u32..) {
        plan.places.push(Place { job, ahead, reason: Some(held.reason(line, job)) });
    }
    plan
}

/// Those that were rung and not fetched, then those that are due in the order of the round, then the others by
/// their time.
fn waiting_order(line: &Line, granted: &HashSet<usize>, mut round: Round<'_>) -> Vec<usize> {
    let rest = (0..line.jobs.len()).filter(|j| !granted.contains(j));
    let (due, later): (Vec<usize>, Vec<usize>) = rest.partition(|j| line.jobs[*j].due_at <= line.now);
    let with = |stage| due.iter().copied().filter(move |j| line.jobs[*j].stage == stage);
    let mut order = in_order(line, with(Stage::Rung));
    order.extend(in_order(line, with(Stage::Owed)));
    round.again(granted);
    while let Some(job) = round.next(|_| true) {
        order.push(job);
    }
    let mut later: Vec<usize> =
        later.into_iter().filter(|j| !matches!(line.jobs[*j].stage, Stage::Granted)).collect();
    later.sort_by_key(|j| (line.jobs[*j].due_at, line.jobs[*j].seq, *j));
    order.extend(later);
    order
}

/// The order within an organization: production and what has waited for long, then previews, each by time.
fn in_order(line: &Line, jobs: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut jobs: Vec<usize> = jobs.collect();
    jobs.sort_by_key(|j| {
        let job = &line.jobs[*j];
        let aged = line.now - job.due_at >= line.preview_age_ms;
        (job.target == Target::Preview && !aged, job.due_at, job.seq, *j)
    });
    jobs
}

/// What is taken: by running deployments and by granted ones.
struct Held<'a> {
    slots: u32,
    targets: HashSet<(&'a str, Target)>,
    projects: HashMap<&'a str, u32>,
    orgs: HashMap<&'a str, u32>,
    /// The lowest number that waits of each project and target.
    oldest: HashMap<(&'a str, Target), i64>,
}

impl<'a> Held<'a> {
    fn of(line: &'a Line) -> Self {
        let mut held = Self {
            slots: 0,
            targets: HashSet::new(),
            projects: HashMap::new(),
            orgs: HashMap::new(),
            oldest: HashMap::new(),
        };
        for one in &line.running {
            held.take(&one.org, &one.project, one.target, one.holds_slot);
        }
        for job in &line.jobs {
            if job.stage == Stage::Granted {
                held.take(&job.org, &job.project, job.target, true);
            }
            let oldest = held.oldest.entry((&job.project, job.target)).or_insert(job.seq);
            *oldest = job.seq.min(*oldest);
        }
        held
    }

    fn take(&mut self, org: &'a str, project: &'a str, target: Target, holds_slot: bool) {
        self.slots += u32::from(holds_slot);
        self.targets.insert((project, target));
        *self.projects.entry(project).or_default() += 1;
        *self.orgs.entry(org).or_default() += 1;
    }

    fn start(&mut self, job: &'a Job) {
        self.take(&job.org, &job.project, job.target, true);
    }

    /// What stands in a deployment's way, beside the slots.
    fn may_start(&self, line: &Line, job: usize) -> Option<WaitReason> {
        let job = &line.jobs[job];
        let share = line.shares.get(&job.org).unwrap_or(&line.share);
        let reached = |limit: Option<u32>, held: Option<&u32>| {
            limit.is_some_and(|limit| held.copied().unwrap_or(0) >= limit)
        };
        if job.due_at > line.now {
            Some(WaitReason::RetryWait)
        } else if self.targets.contains(&(job.project.as_str(), job.target)) {
            Some(WaitReason::ProjectBusy)
        } else if self.oldest.get(&(job.project.as_str(), job.target)).is_some_and(|seq| *seq < job.seq) {
            Some(WaitReason::OlderFirst)
        } else if reached(share.project_limit, self.projects.get(job.project.as_str())) {
            Some(WaitReason::ProjectBusy)
        } else if reached(share.running_limit, self.orgs.get(job.org.as_str())) {
            Some(WaitReason::OrganizationLimit)
        } else {
            None
        }
    }

    fn reason(&self, line: &Line, job: usize) -> WaitReason {
        let own = if line.jobs[job].stage == Stage::Rung { None } else { self.may_start(line, job) };
        own.unwrap_or(match line {
            Line { slots: 0, .. } => WaitReason::NoBuilder,
            Line { broker_away: true, .. } => WaitReason::BrokerAway,
            _ => WaitReason::SlotsBusy,
        })
    }
}

/// One organization's part of the round.
struct Member<'a> {
    org: &'a str,
    share: Share,
    /// Its deployments that are due, in order; those before `at` were looked at.
    jobs: Vec<usize>,
    at: usize,
    left: usize,
    changed: bool,
}

impl Member<'_> {
    /// Where it stands in the round; the lowest is next. A turn that was begun goes on.
    fn key(&self, line: &Line) -> i64 {
        if self.share.deficit > 0 || self.share.turn >= line.now.saturating_mul(STAMPS_PER_MS) {
            return self.share.turn;
        }
        let waits_since = self.jobs.iter().map(|j| line.jobs[*j].due_at).min().unwrap_or(line.now);
        self.share.turn.max(waits_since.saturating_mul(STAMPS_PER_MS))
    }
}

/// The round over organizations.
struct Round<'a> {
    line: &'a Line,
    members: Vec<Member<'a>>,
    heap: BinaryHeap<Reverse<(i64, usize)>>,
    stamp: i64,
}

impl<'a> Round<'a> {
    fn of(line: &'a Line, granted: &HashSet<usize>) -> Self {
        let mut jobs: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, job) in line.jobs.iter().enumerate() {
            if job.stage == Stage::Waiting && job.due_at <= line.now && !granted.contains(&index) {
                jobs.entry(&job.org).or_default().push(index);
            }
        }
        let mut orgs: Vec<&str> = jobs.keys().copied().collect();
        orgs.sort_unstable();
        let members: Vec<Member<'a>> = orgs
            .into_iter()
            .map(|org| {
                let jobs = in_order(line, jobs.remove(org).unwrap_or_default().into_iter());
                let share = line.shares.get(org).unwrap_or(&line.share).clone();
                let share = Share { deficit: share.deficit.min(share.weight), ..share };
                Member { org, share, left: jobs.len(), jobs, at: 0, changed: false }
            })
            .collect();
        let heap = members.iter().enumerate().map(|(at, m)| Reverse((m.key(line), at))).collect();
        Self { line, members, heap, stamp: line.stamp.max(line.now.saturating_mul(STAMPS_PER_MS)) }
    }

    /// The next one that `may` start. What may not start now is not asked for again in this round, and its
    /// organization keeps its turn.
    fn next(&mut self, mut may: impl FnMut(usize) -> bool) -> Option<usize> {
        while let Some(Reverse((key, at))) = self.heap.pop() {
            let member = &mut self.members[at];
            let Some(skipped) = member.jobs[member.at..].iter().position(|job| may(*job)) else { continue };
            let job = member.jobs[member.at + skipped];
            // What was skipped stays in its place, before those that were not looked at.
            member.jobs[member.at..=member.at + skipped].rotate_right(1);
            member.at += 1;
            member.left -= 1;
            member.changed = true;
            let share = &mut member.share;
            if share.deficit == 0 {
                (share.deficit, share.turn) = (share.weight.max(1), key);
            }
            share.deficit = if member.left == 0 { 0 } else { share.deficit - 1 };
            if share.deficit == 0 {
                self.stamp += 1;
                share.turn = self.stamp;
            }
            if member.left > 0 {
                self.heap.push(Reverse((share.turn, at)));
            }
            return Some(job);
        }
        None
    }

    /// Starts over with what is left, whatever was skipped before.
    fn again(&mut self, granted: &HashSet<usize>) {
        let line = self.line;
        for member in &mut self.members {
            member.jobs = in_order(line, member.jobs.iter().copied().filter(|j| !granted.contains(j)));
            (member.at, member.left) = (0, member.jobs.len());
        }
        let members = self.members.iter().enumerate().filter(|(_, m)| m.left > 0);
        self.heap = members.map(|(at, m)| Reverse((m.key(line), at))).collect();
    }

    fn changed(&self) -> HashMap<String, Share> {
        let changed = self.members.iter().filter(|m| m.changed);
        changed.map(|m| (m.org.to_owned(), m.share.clone())).collect()
    }
}
