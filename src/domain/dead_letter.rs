//! The words of the dead-letter desk: why something is dead, what became of it, and how an attempt ended.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::status::words;

words! {
    /// Why nobody tries it again by itself: `invalid` was refused before a deployment existed, the same step of
    /// `poison` killed its process twice, the third attempt of `crashed` lost its server, `exhausted` is any other
    /// third failure of the platform.
    DeadLetterClass {
        Invalid = "invalid",
        Poison = "poison",
        Crashed = "crashed",
        Exhausted = "exhausted",
    }
}

words! {
    /// What became of a dead letter. Only an open one can be redriven or buried.
    DeadLetterState {
        Open = "open",
        Redriven = "redriven",
        Buried = "buried",
    }
}

words! {
    /// How one attempt ended.
    AttemptOutcome {
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        Retry = "retry",
        HandedOver = "handed_over",
        Crashed = "crashed",
    }
}

words! {
    /// Where a redriven deployment goes on: `failed_step` reuses what the steps before it left.
    RedriveFrom {
        Start = "start",
        FailedStep = "failed_step",
    }
}
