//! Versions on this edge's disk that the record does not name: what a deployment had built before it was driven anew
//! and built something else. Never touches what may be on its way into the record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ActorParts;

/// A version is installed before it is recorded, within the time of one step; this is far longer.
const AGE: Duration = Duration::from_secs(24 * 3_600);

/// Between two looks: rare things, and each look asks the record for every version on the disk.
const PAUSE: Duration = Duration::from_secs(3_600);

/// When was looked last.
#[derive(Debug, Default)]
pub(super) struct Strays(Option<Instant>);

impl Strays {
    /// Removes them, if it is time to look.
    pub(super) async fn sweep(&mut self, parts: &ActorParts) {
        if self.0.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        self.0 = Some(Instant::now());
        if let Err(e) = remove(parts).await {
            tracing::warn!(error = %e, "versions without a record could not be removed");
        }
    }
}

/// Removes them once they are a day old: by then nobody is served from them.
async fn remove(parts: &ActorParts) -> Result<(), String> {
    let versions = Arc::clone(&parts.pipeline.versions);
    let listing = Arc::clone(&versions);
    let old = tokio::task::spawn_blocking(move || listing.list_older_than(AGE)).await;
    let old = old.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let names: Vec<String> = old.iter().map(|id| id.as_str().to_owned()).collect();
    let named = parts.pipeline.control.store.version_named(&names).await.map_err(|e| e.to_string())?;
    for id in old.into_iter().filter(|id| !named.contains(id.as_str())) {
        let versions = Arc::clone(&versions);
        let removed = tokio::task::spawn_blocking(move || versions.remove(&id)).await;
        removed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    }
    Ok(())
}
