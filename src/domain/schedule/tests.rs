//! The rules as properties, and the bound that is promised against a simulation.

mod simulation;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn job(org: &str, project: &str, due_at: i64) -> Job {
    Job {
        id: format!("{project}.{due_at}"),
        org: org.into(),
        project: project.into(),
        target: Target::Production,
        seq: due_at,
        due_at,
        stage: Stage::Waiting,
    }
}

fn line(slots: u32, jobs: Vec<Job>) -> Line {
    Line { now: 1_000, jobs, slots, preview_age_ms: 500, ..Line::default() }
}

fn granted<'a>(line: &'a Line, plan: &Plan) -> Vec<&'a str> {
    plan.grants.iter().map(|j| line.jobs[*j].project.as_str()).collect()
}

/// The places of what waits: project and reason, in order.
fn waits<'a>(line: &'a Line, plan: &Plan) -> Vec<(&'a str, &'static str)> {
    let waiting = plan.places.iter().filter_map(|p| p.reason.map(|r| (p, r)));
    waiting.map(|(p, reason)| (line.jobs[p.job].project.as_str(), reason.as_str())).collect()
}

#[test]
fn a_quiet_organization_comes_before_the_rest_of_a_hogs_line() {
    let mut jobs: Vec<Job> = (0..6).map(|n| job("hog", &format!("h{n}"), 10 + n)).collect();
    jobs.push(job("quiet", "q", 900));
    let line = line(2, jobs);
    let plan = plan(&line);
    assert_eq!(granted(&line, &plan), ["h0", "q"]);
    let shown: Vec<(u32, Option<WaitReason>)> = plan.places.iter().map(|p| (p.ahead, p.reason)).collect();
    let busy = Some(WaitReason::SlotsBusy);
    assert_eq!(shown, [(0, None), (0, None), (0, busy), (1, busy), (2, busy), (3, busy), (4, busy)]);
}

#[test]
fn weights_are_the_length_of_turns() {
    let mut jobs = Vec::new();
    for n in 0..20 {
        jobs.push(job("a", &format!("a{n:02}"), n));
        jobs.push(job("b", &format!("b{n:02}"), n));
    }
    let mut line = line(12, jobs);
    line.shares.insert("b".into(), Share { weight: 3, ..Share::default() });
    let plan = plan(&line);
    let of = |org: char| granted(&line, &plan).iter().filter(|p| p.starts_with(org)).count();
    assert_eq!((of('a'), of('b')), (3, 9));
}

#[test]
fn production_comes_before_previews_until_they_have_aged() {
    let preview = |name: &str, due| Job { target: Target::Preview, ..job("o", name, due) };
    let line = line(
        4,
        vec![preview("young", 600), preview("old", 400), job("o", "live", 700), job("o", "first", 300)],
    );
    assert_eq!(granted(&line, &plan(&line)), ["first", "old", "live", "young"]);
}

#[test]
fn each_reason_names_what_stands_in_the_way() {
    let mut jobs = vec![
        job("o", "busy", 1),
        Job { seq: 7, ..job("o", "rung", 2) },
        Job { seq: 8, ..job("o", "rung", 3) },
        job("o", "free", 4),
        job("o", "full", 5),
        job("p", "later", 2_000),
        job("q", "beyond", 6),
    ];
    jobs[1].stage = Stage::Rung;
    let mut line = line(2, jobs);
    let one = |org: &str, project: &str| Running {
        org: org.into(),
        project: project.into(),
        target: Target::Production,
        holds_slot: true,
    };
    line.running = vec![one("o", "busy")];
    line.shares.insert("o".into(), Share { running_limit: Some(2), ..Share::default() });
    let shown = |line: &Line| {
        let plan = plan(line);
        let mut shown: Vec<(String, &str)> =
            waits(line, &plan).into_iter().map(|(p, r)| (p.to_owned(), r)).collect();
        shown.sort_unstable();
        (
            granted(line, &plan).join(" "),
            shown.into_iter().map(|(p, r)| format!("{p} {r}")).collect::<Vec<_>>(),
        )
    };
    let own = ["busy project_busy", "full organization_limit", "later retry_wait", "rung older_first"];
    let with = |more: &[&str]| {
        let mut all: Vec<String> = own.iter().chain(more).map(|s| (*s).to_owned()).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(shown(&line), ("free".to_owned(), with(&["beyond slots_busy", "rung slots_busy"])));
    line.slots = 0;
    let nobody = ["beyond no_builder", "rung no_builder", "free no_builder", "full no_builder"];
    let without =
        |all: Vec<String>| all.into_iter().filter(|s| s != "full organization_limit").collect::<Vec<_>>();
    assert_eq!(shown(&line), (String::new(), without(with(&nobody))));
    (line.slots, line.broker_away) = (9, true);
    let away = ["beyond broker_away", "rung broker_away", "free broker_away", "full broker_away"];
    assert_eq!(shown(&line), (String::new(), without(with(&away))));
}

#[test]
fn a_lost_grant_is_made_good_first_and_costs_nothing() {
    let mut line = line(1, vec![job("a", "a", 1), Job { stage: Stage::Owed, ..job("b", "b", 2) }]);
    let first = plan(&line);
    assert_eq!(granted(&line, &first), ["b"]);
    assert!(first.shares.is_empty() && first.stamp > line.stamp);
    line.jobs[1].stage = Stage::Granted;
    let second = plan(&line);
    assert!(second.grants.is_empty(), "a grant holds its slot");
}

#[test]
fn a_project_may_have_a_limit_of_its_own() {
    let preview = Job { target: Target::Preview, ..job("o", "p", 2) };
    let mut line = line(5, vec![job("o", "p", 1), preview]);
    assert_eq!(granted(&line, &plan(&line)), ["p", "p"]);
    line.share.project_limit = Some(1);
    assert_eq!(granted(&line, &plan(&line)), ["p"]);
    assert_eq!(waits(&line, &plan(&line)), [("p", "project_busy")]);
}

fn any_line() -> impl Strategy<Value = Line> {
    let stage = prop_oneof![8 => Just(Stage::Waiting), 1 => Just(Stage::Owed), 1 => Just(Stage::Granted), 1 => Just(Stage::Rung)];
    let job = (0..6_u8, 0..4_u8, any::<bool>(), 0..1_200_i64, stage);
    let share = (1..4_u32, proptest::option::of(0..4_u32), proptest::option::of(0..2_u32), 0..900_000_i64);
    (
        proptest::collection::vec(job, 0..40),
        proptest::collection::vec((0..6_u8, 0..4_u8, any::<bool>()), 0..4),
        proptest::collection::vec(share, 6),
        0..8_u32,
    )
        .prop_map(|(jobs, running, shares, slots)| {
            let target = |preview| if preview { Target::Preview } else { Target::Production };
            let mut line = line(slots, Vec::new());
            for (seq, (org, project, preview, due_at, stage)) in (0..).zip(jobs) {
                let project = format!("{org}-{project}");
                let id = format!("j{seq}");
                let org = format!("o{org}");
                line.jobs.push(Job { id, org, project, target: target(preview), seq, due_at, stage });
            }
            for (org, project, preview) in running {
                let (org, project) = (format!("o{org}"), format!("{org}-{project}"));
                line.running.push(Running { org, project, target: target(preview), holds_slot: true });
            }
            for (org, (weight, running_limit, project_limit, turn)) in (0..).zip(shares) {
                let share = Share { weight, deficit: 0, turn, running_limit, project_limit };
                line.shares.insert(format!("o{org}"), share);
            }
            line
        })
}

/// What is granted is on its way from then on.
fn carry_out(line: &mut Line, plan: &Plan) {
    for granted in &plan.grants {
        line.jobs[*granted].stage = Stage::Granted;
    }
    line.shares.extend(plan.shares.clone());
    line.stamp = plan.stamp;
}

proptest! {
    #[test]
    fn grants_keep_every_bound_and_leave_no_slot_idle(mut line in any_line()) {
        let before = Held::of(&line).slots;
        let plan = plan(&line);
        let grants = u32::try_from(plan.grants.len()).unwrap();
        prop_assert!(grants <= line.slots.saturating_sub(before));
        prop_assert_eq!(plan.free, line.slots.saturating_sub(before) - grants);
        let mut held = Held::of(&line);
        for granted in &plan.grants {
            prop_assert!(matches!(line.jobs[*granted].stage, Stage::Waiting | Stage::Owed));
            prop_assert_eq!(held.may_start(&line, *granted), None);
            held.start(&line.jobs[*granted]);
        }
        if plan.free > 0 {
            for job in (0..line.jobs.len()).filter(|j| matches!(line.jobs[*j].stage, Stage::Waiting | Stage::Owed)) {
                prop_assert!(held.may_start(&line, job).is_some(), "{:?} could start", line.jobs[job]);
            }
        }
        // Asked again at once, nothing more is granted.
        carry_out(&mut line, &plan);
        prop_assert!(super::plan(&line).grants.is_empty());
    }

    #[test]
    fn everybody_has_one_place_and_whoever_waits_a_reason(line in any_line()) {
        let plan = plan(&line);
        let shown: HashSet<usize> = plan.places.iter().map(|p| p.job).collect();
        prop_assert_eq!((shown.len(), plan.places.len()), (line.jobs.len(), line.jobs.len()));
        let waiting: Vec<u32> = plan.places.iter().filter(|p| p.reason.is_some()).map(|p| p.ahead).collect();
        prop_assert_eq!(&waiting, &(0..u32::try_from(waiting.len()).unwrap()).collect::<Vec<_>>());
        for place in plan.places.iter().filter(|p| p.reason.is_none()) {
            let on_its_way = line.jobs[place.job].stage == Stage::Granted || plan.grants.contains(&place.job);
            prop_assert!(place.ahead == 0 && on_its_way);
        }
    }

    #[test]
    fn what_is_shown_is_what_happens(
        jobs in proptest::collection::vec((0..5_u8, 0..1_000_i64, any::<bool>()), 1..40),
        weights in proptest::collection::vec(1..4_u32, 5),
    ) {
        let mut line = line(1, Vec::new());
        for (n, (org, due, preview)) in (0..).zip(jobs) {
            let target = if preview { Target::Preview } else { Target::Production };
            line.jobs.push(Job { target, ..job(&format!("o{org}"), &format!("p{n:02}"), due) });
        }
        for (org, weight) in (0..).zip(weights) {
            line.shares.insert(format!("o{org}"), Share { weight, ..Share::default() });
        }
        let shown: Vec<String> = plan(&line).places.iter().map(|p| line.jobs[p.job].id.clone()).collect();
        let mut happened = Vec::new();
        while !line.jobs.is_empty() {
            let plan = plan(&line);
            carry_out(&mut line, &plan);
            happened.extend(plan.grants.iter().map(|j| line.jobs[*j].id.clone()));
            line.jobs.retain(|j| j.stage == Stage::Waiting);
        }
        prop_assert_eq!(happened, shown);
    }

    #[test]
    fn backlogged_organizations_get_what_their_weights_say(weights in proptest::collection::vec(1..6_u32, 2..6), slots in 1..7_u32) {
        let mut line = line(slots, Vec::new());
        for (org, weight) in weights.iter().enumerate() {
            line.shares.insert(format!("o{org}"), Share { weight: *weight, ..Share::default() });
            line.jobs.extend((0..120).map(|n| job(&format!("o{org}"), &format!("p{org}-{n}"), n)));
        }
        let mut served: HashMap<String, u32> = HashMap::new();
        let round: u32 = weights.iter().sum();
        let mut left = round * 4;
        while left > 0 {
            line.slots = slots.min(left);
            let plan = plan(&line);
            carry_out(&mut line, &plan);
            left -= u32::try_from(plan.grants.len()).unwrap();
            for granted in &plan.grants {
                *served.entry(line.jobs[*granted].org.clone()).or_default() += 1;
            }
            line.jobs.retain(|j| j.stage == Stage::Waiting);
        }
        for (org, weight) in weights.iter().enumerate() {
            prop_assert_eq!(served[&format!("o{org}")], weight * 4);
        }
    }
}
