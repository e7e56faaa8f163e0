//! What the dead-letter desk is asked: filters and orders, read field by field. Decides nothing.

use serde_json::{Map, Value, json};

use super::dead_letters::Filter;
use super::{deploy_body, page};
use crate::control::ControlError;
use crate::control::dead_letters::RedriveOrder;
use crate::domain::{DeadLetterClass, DeadLetterState, DeploymentId, Digest, ProjectId, RedriveFrom};
use crate::http::fields::{Fields, Problems};
use crate::http::problem::Problem;
use crate::store::dead_letters::LetterFilter;

/// Deployments a second: a slower group than this would outlive its letters' use, a faster one is none.
const SLOWEST: f64 = 0.01;
const FASTEST: f64 = 100.0;
/// The settings that can be changed begin with this.
const BUILD: &str = "build.";
const WORD: usize = 32;

#[derive(utoipa::ToSchema)]
#[schema(as = RedriveRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `redrive` is its one reader")]
pub struct RedriveBody {
    /// `failed_step` unless it is given.
    from: Option<RedriveFrom>,
    /// Settings of the build that replace the recorded ones: `build.` and a name of `build` of `POST /deploy`.
    #[schema(value_type = Option<Object>, example = json!({ "build.command": "npm run build" }))]
    set: Option<Value>,
}

#[derive(utoipa::ToSchema)]
#[schema(as = GroupRedriveRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `redrive_group` is its one reader")]
pub struct GroupRedriveBody {
    filter: GroupFilter,
    /// Deployments a second.
    #[schema(minimum = 0.01, maximum = 100, example = 2)]
    rate: f64,
    /// `failed_step` unless it is given.
    from: Option<RedriveFrom>,
}

/// At least one of them.
#[derive(utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `redrive_group` is its one reader")]
struct GroupFilter {
    #[schema(pattern = "^[0-9a-f]{64}$")]
    fingerprint: Option<String>,
    class: Option<DeadLetterClass>,
    #[schema(pattern = "^[0-9a-f]{32}$")]
    project_id: Option<String>,
}

/// An order for a group.
pub struct GroupOrder {
    pub filter: LetterFilter,
    pub per_second: f64,
    pub from: RedriveFrom,
}

/// A malformed id is as unknown as a wrong one.
pub fn letter_id(text: &str) -> Result<String, Problem> {
    // Ids of letters are random like all others.
    let id = DeploymentId::parse(text).map_err(|_| ControlError::DeadLetterNotFound)?;
    Ok(id.as_str().to_owned())
}

/// The page that is asked for, and whether groups are.
pub fn filter(asked: Filter) -> Result<(LetterFilter, bool), Problem> {
    let mut problems = Problems::default();
    let limit = page::length(asked.limit.as_deref(), &mut problems);
    let class = asked.class.as_deref().and_then(|text| class(text, "class", &mut problems));
    let state = match asked.state.as_deref() {
        None => Some(DeadLetterState::Open),
        Some("all") => None,
        Some(word) => {
            let state = DeadLetterState::parse(word);
            if state.is_none() {
                problems.add("state", "must be open, redriven, buried or all");
            }
            state
        }
    };
    let project = asked
        .project_id
        .as_deref()
        .and_then(|text| ProjectId::parse(text).map_err(|e| problems.add("projectId", e.to_string())).ok());
    let fingerprint = asked
        .fingerprint
        .as_deref()
        .and_then(|text| Digest::parse(text).map_err(|e| problems.add("fingerprint", e.to_string())).ok());
    let is_grouped = asked.group.is_some();
    if asked.group.is_some_and(|by| by != "fingerprint") {
        problems.add("group", "must be fingerprint");
    }
    let cursor = asked.cursor.as_deref().and_then(|c| page::before_deployment(c, &mut problems));
    let before = cursor.map(|(at, id)| (at, id.to_string()));
    done(problems, (LetterFilter { class, project, fingerprint, state, before, limit }, is_grouped))
}

pub fn redrive(body: Option<Value>) -> Result<RedriveOrder, Problem> {
    let mut problems = Problems::default();
    let mut order = RedriveOrder { from: RedriveFrom::FailedStep, set: Map::new() };
    if let Some(mut fields) = Fields::of(body.unwrap_or_else(|| json!({})), "", &mut problems) {
        order.from = from(&mut fields, &mut problems);
        if let Some(set) = fields.object("set", &mut problems) {
            order.set = settings(set, &mut problems);
        }
        fields.finish(&mut problems);
    }
    done(problems, order)
}

pub fn redrive_group(body: Value) -> Result<GroupOrder, Problem> {
    let mut problems = Problems::default();
    let mut order =
        GroupOrder { filter: LetterFilter::default(), per_second: 1.0, from: RedriveFrom::FailedStep };
    if let Some(mut fields) = Fields::of(body, "", &mut problems) {
        order.from = from(&mut fields, &mut problems);
        order.per_second = rate(&mut fields, &mut problems).unwrap_or(1.0);
        match fields.object("filter", &mut problems) {
            Some(filter) => order.filter = group_filter(filter, &mut problems),
            None => problems.add("filter", "is required"),
        }
        fields.finish(&mut problems);
    }
    done(problems, order)
}

fn group_filter(mut fields: Fields, problems: &mut Problems) -> LetterFilter {
    let (class_name, digest_name, project_name) =
        (fields.name("class"), fields.name("fingerprint"), fields.name("projectId"));
    let class = fields.text("class", WORD, problems).and_then(|text| class(&text, &class_name, problems));
    let fingerprint = fields
        .text("fingerprint", 64, problems)
        .and_then(|text| Digest::parse(&text).map_err(|e| problems.add(digest_name, e.to_string())).ok());
    let project = fields
        .text("projectId", WORD, problems)
        .and_then(|text| ProjectId::parse(&text).map_err(|e| problems.add(project_name, e.to_string())).ok());
    let filter = LetterFilter { class, fingerprint, project, ..LetterFilter::default() };
    if problems.is_empty()
        && filter.class.is_none()
        && filter.fingerprint.is_none()
        && filter.project.is_none()
    {
        problems.add("filter", "must name a fingerprint, a class or a projectId");
    }
    fields.finish(problems);
    filter
}

/// `build.NAME: VALUE`, read as the `build` of a deployment is.
fn settings(set: Fields, problems: &mut Problems) -> Map<String, Value> {
    let mut build = Map::new();
    for (name, value) in set.into_entries() {
        match name.strip_prefix(BUILD) {
            Some(field) => drop(build.insert(field.to_owned(), value)),
            None => {
                let shown: String = name.chars().take(64).collect();
                problems.add(format!("set.{shown}"), "must be build. and a name of build of POST /deploy");
            }
        }
    }
    let Some(mut fields) = Fields::of(json!({ "build": build }), "set", problems) else { return Map::new() };
    let overrides = deploy_body::build(&mut fields, problems);
    match serde_json::to_value(overrides) {
        Ok(Value::Object(set)) => set,
        _ => Map::new(),
    }
}

fn from(fields: &mut Fields, problems: &mut Problems) -> RedriveFrom {
    let Some(text) = fields.text("from", WORD, problems) else { return RedriveFrom::FailedStep };
    RedriveFrom::parse(&text).unwrap_or_else(|| {
        problems.add("from", "must be start or failed_step");
        RedriveFrom::FailedStep
    })
}

fn rate(fields: &mut Fields, problems: &mut Problems) -> Option<f64> {
    let value = fields.take("rate");
    let rate = value.as_ref().and_then(Value::as_f64).filter(|rate| (SLOWEST..=FASTEST).contains(rate));
    if rate.is_none() {
        let message = if value.is_none() { "is required" } else { "must be a number from 0.01 to 100" };
        problems.add("rate", message);
    }
    rate
}

fn class(text: &str, field: &str, problems: &mut Problems) -> Option<DeadLetterClass> {
    let class = DeadLetterClass::parse(text);
    if class.is_none() {
        problems.add(field, "must be invalid, poison, crashed or exhausted");
    }
    class
}

fn done<T>(problems: Problems, order: T) -> Result<T, Problem> {
    if problems.is_empty() { Ok(order) } else { Err(Problem::validation(problems.into_details())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_build_can_be_changed_and_nothing_else() {
        let order =
            redrive(Some(json!({ "set": { "build.command": "make", "build.cache": false } }))).unwrap();
        assert_eq!(Value::Object(order.set), json!({ "command": "make", "cache": false }));
        assert_eq!(order.from, RedriveFrom::FailedStep);
        for body in [
            json!({ "set": { "env.A": "b" } }),
            json!({ "set": { "command": "make" } }),
            json!({ "set": { "build.rootDirectory": "../.." } }),
            json!({ "set": { "build.unknown": 1 } }),
            json!({ "set": [] }),
            json!({ "from": "build" }),
            json!({ "form": "start" }),
        ] {
            assert!(redrive(Some(body.clone())).is_err(), "{body}");
        }
        for nothing in [None, Some(json!({ "set": {} }))] {
            assert_eq!(redrive(nothing).unwrap().set, Map::new());
        }
    }

    #[test]
    fn a_group_needs_a_filter_and_a_rate() {
        let filter = json!({ "fingerprint": "0".repeat(64) });
        let order = redrive_group(json!({ "filter": filter, "rate": 0.5, "from": "start" })).unwrap();
        assert_eq!((order.per_second, order.from), (0.5, RedriveFrom::Start));
        for body in [
            json!({ "filter": filter }),
            json!({ "rate": 1 }),
            json!({ "filter": {}, "rate": 1 }),
            json!({ "filter": { "class": "odd" }, "rate": 1 }),
            json!({ "filter": filter, "rate": 0 }),
            json!({ "filter": filter, "rate": 1e9 }),
            json!({ "filter": filter, "rate": "1" }),
        ] {
            assert!(redrive_group(body.clone()).is_err(), "{body}");
        }
    }
}
