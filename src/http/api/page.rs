//! Pages of a list: a bounded length, and a cursor that says where the page before ended.

use crate::domain::{DeploymentId, DomainId, ProjectId};
use crate::http::fields::Problems;

const DEFAULT_LENGTH: u64 = 20;
const MOST: u64 = 100;
/// Hex digits of a time in a cursor.
const TIME_DIGITS: usize = 16;

/// `limit` as asked, 1 to 100.
pub fn length(limit: Option<&str>, problems: &mut Problems) -> u64 {
    match limit.map(str::parse::<u64>) {
        None => DEFAULT_LENGTH,
        Some(Ok(n)) if (1..=MOST).contains(&n) => n,
        Some(_) => {
            problems.add("limit", format!("must be a whole number from 1 to {MOST}"));
            DEFAULT_LENGTH
        }
    }
}

/// Projects are listed by id.
pub fn after_project(cursor: &str, problems: &mut Problems) -> Option<ProjectId> {
    ProjectId::parse(cursor).map_err(|_| wrong(problems)).ok()
}

/// Domains too.
pub fn after_domain(cursor: &str, problems: &mut Problems) -> Option<DomainId> {
    DomainId::parse(cursor).map_err(|_| wrong(problems)).ok()
}

/// Deployments are listed by time and id: 16 and 32 hex digits.
pub fn deployment_cursor(created_at: i64, id: &str) -> String {
    format!("{created_at:016x}{id}")
}

pub fn before_deployment(cursor: &str, problems: &mut Problems) -> Option<(i64, DeploymentId)> {
    let read = || {
        let (time, id) = cursor.split_at_checked(TIME_DIGITS)?;
        let time = time.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(time)?;
        Some((i64::from_str_radix(time, 16).ok()?, DeploymentId::parse(id).ok()?))
    };
    let read = read();
    if read.is_none() {
        wrong(problems);
    }
    read
}

fn wrong(problems: &mut Problems) {
    problems.add("cursor", "must be the nextCursor of an earlier page");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_anything_else_is_a_problem() {
        let mut problems = Problems::default();
        let id = "0123456789abcdef0123456789abcdef";
        let cursor = deployment_cursor(1_753_180_200_000, id);
        let (at, read) = before_deployment(&cursor, &mut problems).unwrap();
        assert_eq!((at, read.as_str()), (1_753_180_200_000, id));
        assert!(problems.is_empty());
        for bad in
            ["", "x", id, &cursor[1..], &format!("ffffffffffffffff{id}"), &format!("+00000000000000f{id}")]
        {
            let mut problems = Problems::default();
            assert!(before_deployment(bad, &mut problems).is_none(), "{bad}");
            assert_eq!(problems.into_details()[0].field, "cursor");
        }
    }
}
