//! Owns the one alarm of a connection, set for many waits.
//! Never sets it anew while an earlier one still runs: that costs more than waking once too early.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether `due` has passed. Wakes the task when it does.
    pub fn is_over(&mut self, cx: &mut Context<'_>, due: Instant) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            if sleep.deadline() > due || sleep.is_elapsed() {
                if due <= Instant::now() {
                    return true;
                }
                sleep.as_mut().reset(due);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }
}
