//! Fault points: places of the walk where a test may hold it or have it fail.
//!
//! Armed only by `testing.hold` and the operator's testing routes, which production refuses.
//! An unarmed point is one look at an empty list; it never changes what a walk does.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Walk;
use super::step::StepError;
use crate::domain::Step;

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its beginning is journaled, its work has not begun.
    Begin,
    /// Of deploy only: the new version has answered, and is not live yet.
    Switch,
    /// Its work is done, its end is not journaled.
    End,
}

/// `<step>.<begin|switch|end>`, with `@<project>` for one project only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    step: Step,
    side: Side,
    project: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be <step>.<begin|switch|end>, with @<project> for one project only")]
pub struct BadPoint;

impl FromStr for Point {
    type Err = BadPoint;

    fn from_str(text: &str) -> Result<Self, BadPoint> {
        let (place, project) = match text.split_once('@') {
            Some((place, project)) => (place, Some(project.to_owned())),
            None => (text, None),
        };
        let (step, side) = place.split_once('.').ok_or(BadPoint)?;
        let side = match side {
            "begin" => Side::Begin,
            "switch" => Side::Switch,
            "end" => Side::End,
            _ => return Err(BadPoint),
        };
        Ok(Self { step: Step::parse(step).ok_or(BadPoint)?, side, project })
    }
}

/// What happens at an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The walk waits until the point is released.
    Hold,
    /// The walk fails for the platform's reasons.
    Fail,
}

/// The armed points of this process.
#[derive(Debug, Default)]
pub struct Faults {
    armed: Mutex<Vec<(Point, Action)>>,
    /// Where each held deployment waits.
    held: Mutex<BTreeMap<String, Step>>,
    changed: Notify,
}

impl Faults {
    /// # Errors
    /// If a point can't be read.
    pub fn holding(points: &[String]) -> Result<Self, BadPoint> {
        let armed = points.iter().map(|p| Ok((p.parse()?, Action::Hold))).collect::<Result<_, _>>()?;
        Ok(Self { armed: Mutex::new(armed), ..Self::default() })
    }

    pub fn arm(&self, point: Point, action: Action) {
        lock(&self.armed).push((point, action));
    }

    /// Whoever waits there goes on.
    pub fn release(&self, point: &Point) {
        lock(&self.armed).retain(|(armed, _)| armed != point);
        self.changed.notify_waiters();
    }

    /// The deployments that are held now, and in which step.
    pub fn held(&self) -> BTreeMap<String, Step> {
        lock(&self.held).clone()
    }

    fn at(&self, step: Step, side: Side, project: &str) -> Option<Action> {
        let here = |point: &Point| {
            point.step == step
                && point.side == side
                && point.project.as_deref().is_none_or(|only| only == project)
        };
        lock(&self.armed).iter().find(|(point, _)| here(point)).map(|(_, action)| *action)
    }

    /// Called by the walk at each point.
    pub(super) async fn reach(&self, walk: &Walk<'_>, step: Step, side: Side) -> Result<(), StepError> {
        let mut waiting = None;
        loop {
            // Made before the look, so that a release between the look and the wait is not missed.
            let changed = self.changed.notified();
            match self.at(step, side, &walk.row.project_id) {
                None => return Ok(()),
                Some(Action::Fail) => {
                    return Err(StepError::platform(step, "A test had this step fail.", "fault injection"));
                }
                Some(Action::Hold) => {
                    waiting.get_or_insert_with(|| Waiting::enter(self, &walk.row.id, step));
                    changed.await;
                }
            }
        }
    }
}

/// An entry in `held`, also removed when the walk is dropped there.
struct Waiting<'f> {
    faults: &'f Faults,
    deployment: String,
}

impl<'f> Waiting<'f> {
    fn enter(faults: &'f Faults, deployment: &str, step: Step) -> Self {
        lock(&faults.held).insert(deployment.to_owned(), step);
        Self { faults, deployment: deployment.to_owned() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.faults.held).remove(&self.deployment);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries go in and out whole, so a panic elsewhere leaves no half entry.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_whole_or_refused() {
        let point: Point = "build.end@p1".parse().unwrap();
        assert_eq!(point, Point { step: Step::Build, side: Side::End, project: Some("p1".into()) });
        for bad in ["", "build", "build.middle", "paint.begin"] {
            assert_eq!(bad.parse::<Point>(), Err(BadPoint), "{bad}");
        }
    }

    #[test]
    fn a_point_of_one_project_leaves_the_others_alone() {
        let faults = Faults::holding(&["sync.begin@p1".to_owned()]).unwrap();
        assert_eq!(faults.at(Step::Sync, Side::Begin, "p1"), Some(Action::Hold));
        assert_eq!(faults.at(Step::Sync, Side::Begin, "p2"), None);
        assert_eq!(faults.at(Step::Sync, Side::End, "p1"), None);
        faults.release(&"sync.begin@p1".parse().unwrap());
        assert_eq!(faults.at(Step::Sync, Side::Begin, "p1"), None);
    }
}
