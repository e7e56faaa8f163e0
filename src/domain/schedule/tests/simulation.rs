//! 10,000 arrivals: hogs, steady organizations and lone deployments, whose wait must keep the stated bound.

use std::collections::{BTreeMap, HashSet};

use super::super::{Job, Line, Plan, Running, Stage, plan};
use crate::domain::Target;

const LONGEST_MS: i64 = 60_000;

/// A generator whose numbers are the same everywhere (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        i64::try_from((z ^ (z >> 31)) >> 1).unwrap() % sides
    }
}

/// A lone deployment: when it came, and how long it may wait.
struct Lone {
    at: i64,
    bound: i64,
}

#[derive(Default)]
struct Outcome {
    lone: usize,
    /// Those that waited longer than they may.
    late: usize,
    /// The longest wait of a lone one, in percent of its bound.
    worst: i64,
}

/// First come, first served: what the bound is there to exclude.
fn fifo(line: &Line) -> Plan {
    let mut jobs: Vec<usize> = (0..line.jobs.len()).collect();
    jobs.sort_by_key(|j| line.jobs[*j].seq);
    jobs.truncate(line.slots as usize - line.running.len());
    Plan { grants: jobs, ..Plan::default() }
}

/// Arrivals and ends, one after the other; each deployment has a project of its own, so that only slots
/// are waited for.
struct Simulation {
    dice: Dice,
    line: Line,
    /// When what is running ends.
    ends: BTreeMap<(i64, i64), String>,
    watched: BTreeMap<i64, Lone>,
    arrivals: i64,
    arrived: i64,
    next_arrival: i64,
    /// What is left of a hog's burst, and whose it is.
    burst: (i64, i64),
    outcome: Outcome,
}

impl Simulation {
    fn run(seed: u64, slots: u32, arrivals: i64, scheduler: fn(&Line) -> Plan) -> Outcome {
        let mut simulation = Self {
            dice: Dice(seed),
            line: Line { slots, preview_age_ms: 600_000, ..Line::default() },
            ends: BTreeMap::new(),
            watched: BTreeMap::new(),
            arrivals,
            arrived: 0,
            next_arrival: 0,
            burst: (0, 0),
            outcome: Outcome::default(),
        };
        while simulation.arrived < arrivals || !simulation.line.jobs.is_empty() {
            simulation.happen();
            let plan = scheduler(&simulation.line);
            simulation.carry_out(plan);
        }
        simulation.outcome
    }

    /// The next arrival or the next end.
    fn happen(&mut self) {
        let is_over = self.arrived == self.arrivals;
        let next_end = self.ends.first_key_value().map(|((at, _), _)| *at);
        if let Some(end) = next_end.filter(|end| is_over || *end <= self.next_arrival) {
            self.line.now = end;
            let (_, project) = self.ends.pop_first().unwrap();
            self.line.running.retain(|r| r.project != project);
            return;
        }
        self.line.now = self.next_arrival;
        let org = self.whose();
        self.arrive(&format!("org{org:03}"));
        let slots = i64::from(self.line.slots);
        let pace = if self.line.jobs.len() > 60 { 8 } else { 1 };
        let wait = if self.burst.0 > 0 { 20 } else { 2 * 36_000 * pace / slots };
        self.next_arrival += self.dice.roll(wait);
    }

    /// Bursts of a few hogs, steady ones, and many that come rarely.
    fn whose(&mut self) -> i64 {
        if self.burst.0 > 0 {
            self.burst.0 -= 1;
            return self.burst.1;
        }
        match self.dice.roll(10) {
            0 => {
                self.burst = (self.dice.roll(60), self.dice.roll(3));
                self.burst.1
            }
            1..=4 => 3 + self.dice.roll(9),
            _ => 12 + self.dice.roll(400),
        }
    }

    fn arrive(&mut self, org: &str) {
        let (line, seq) = (&mut self.line, self.arrived);
        // Whoever has a second one is not alone any more.
        for job in line.jobs.iter().filter(|j| j.org == org) {
            self.watched.remove(&job.seq);
        }
        let waiting = line.jobs.iter().map(|j| j.org.as_str());
        let active: HashSet<&str> = waiting.chain(line.running.iter().map(|r| r.org.as_str())).collect();
        if !active.contains(org) {
            let rounds = (active.len() + 1).div_ceil(line.slots as usize);
            let bound = (1 + i64::try_from(rounds).unwrap()) * LONGEST_MS;
            self.watched.insert(seq, Lone { at: line.now, bound });
        }
        line.jobs.push(Job {
            id: seq.to_string(),
            org: org.to_owned(),
            project: format!("p{seq}"),
            target: if seq % 3 == 0 { Target::Preview } else { Target::Production },
            seq,
            due_at: line.now,
            stage: Stage::Waiting,
        });
        self.arrived += 1;
    }

    fn carry_out(&mut self, plan: Plan) {
        let granted: HashSet<usize> = plan.grants.into_iter().collect();
        let mut waiting = Vec::new();
        for (index, job) in std::mem::take(&mut self.line.jobs).into_iter().enumerate() {
            if !granted.contains(&index) {
                waiting.push(job);
                continue;
            }
            if let Some(lone) = self.watched.remove(&job.seq) {
                let waited = self.line.now - lone.at;
                self.outcome.lone += 1;
                self.outcome.late += usize::from(waited > lone.bound);
                self.outcome.worst = self.outcome.worst.max(waited * 100 / lone.bound);
            }
            let takes = if self.dice.roll(2) == 0 { LONGEST_MS } else { 1 + self.dice.roll(LONGEST_MS) };
            self.ends.insert((self.line.now + takes, job.seq), job.project.clone());
            let Job { org, project, target, .. } = job;
            self.line.running.push(Running { org, project, target, holds_slot: true });
        }
        self.line.jobs = waiting;
        self.line.shares.extend(plan.shares);
        self.line.stamp = plan.stamp;
    }
}

#[test]
fn a_lone_deployment_waits_no_longer_than_is_promised_over_ten_thousand_arrivals() {
    let mut worst = 0;
    for (seed, slots, arrivals) in [(1, 5, 10_000), (2, 1, 2_000), (3, 16, 2_000)] {
        let outcome = Simulation::run(seed, slots, arrivals, plan);
        assert_eq!(outcome.late, 0, "of {} with {slots} slots", outcome.lone);
        assert!(outcome.lone > 100, "{} are alone", outcome.lone);
        worst = worst.max(outcome.worst);
    }
    // The bound is one that waits come near to.
    assert!(worst > 45, "{worst} % of the bound");
}

#[test]
fn first_come_first_served_does_not_keep_that_promise() {
    assert!(Simulation::run(1, 5, 10_000, fifo).late > 0);
}
