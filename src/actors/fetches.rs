//! Owns getting versions from the blob store onto this edge's disk: so many at once, and one that fails again after a
//! pause.
//! Never publishes anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::ActorParts;
use crate::domain::Digest;
use crate::runtime::{PackSource, VersionId};
use crate::store::routes::VersionRow;

/// After a failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is being fetched, and what failed.
#[derive(Debug, Default)]
pub struct Fetches {
    running: HashSet<String>,
    failed: HashMap<String, Failed>,
}

#[derive(Debug)]
struct Failed {
    until: Instant,
    pause: Duration,
}

impl Fetches {
    /// Those of `missing` to begin with now, never more than `at_once` together.
    pub fn due<'m>(&mut self, missing: &[&'m str], at_once: usize) -> Vec<&'m str> {
        // What is missed no more is done with.
        self.failed.retain(|id, _| missing.contains(&id.as_str()));
        let now = Instant::now();
        let mut due = Vec::new();
        for id in missing {
            let is_paused = self.failed.get(*id).is_some_and(|failed| failed.until > now);
            if self.running.len() < at_once && !is_paused && self.running.insert((*id).to_owned()) {
                due.push(*id);
            }
        }
        due
    }

    pub fn ended(&mut self, id: &str, ended: Result<(), String>) {
        self.running.remove(id);
        let Err(reason) = ended else {
            self.failed.remove(id);
            return;
        };
        let pause = self.failed.get(id).map_or(FIRST_PAUSE, |failed| (failed.pause * 2).min(LONGEST_PAUSE));
        if pause == FIRST_PAUSE {
            // Said once, not at every try.
            tracing::warn!(version.id = %id, error = %reason, "a version could not be installed; trying on");
        }
        self.failed.insert(id.to_owned(), Failed { until: Instant::now() + pause, pause });
    }
}

/// Tries each of them once.
pub async fn fetch_all(parts: &ActorParts, versions: &[VersionRow]) {
    let missing = versions.iter().filter(|row| row.retired_at.is_none());
    let fetching = futures_util::stream::iter(missing).for_each_concurrent(parts.fetches_at_once, |row| async {
        if let Err(e) = fetch(parts, row).await {
            tracing::warn!(version.id = %row.id, error = %e, "a version could not be installed; trying on");
        }
    });
    fetching.await;
}

/// Brings a version to this disk, if it is not there.
pub async fn fetch(parts: &ActorParts, row: &VersionRow) -> Result<(), String> {
    let id = VersionId::parse(&row.id).map_err(|e| e.to_string())?;
    if parts.pipeline.versions.contains(&id) {
        return Ok(());
    }
    let digest = |text: &str| Digest::parse(text).map_err(|e| e.to_string());
    let blobs = &parts.pipeline.control.blobs;
    let manifest = blobs.get(&row.org_id, &digest(&row.manifest_digest)?).await.map_err(|e| e.to_string())?;
    let folder = &parts.pipeline.scratch;
    tokio::fs::create_dir_all(folder).await.map_err(|e| e.to_string())?;
    let temporary = folder.join(format!("fetch-{}-{}", row.id, crate::domain::id::random()));
    let fetched = async {
        blobs
            .get_file(&row.org_id, &digest(&row.pack_digest)?, &temporary)
            .await
            .map_err(|e| e.to_string())?;
        let source = PackSource::Path(temporary.clone());
        let versions = Arc::clone(&parts.pipeline.versions);
        versions.install(&id, manifest, source).await.map_err(|e| e.to_string())
    }
    .await;
    // Installed or not, the copy has served its purpose.
    drop(tokio::fs::remove_file(&temporary).await);
    fetched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_none_twice() {
        let mut fetches = Fetches::default();
        assert_eq!(fetches.due(&["a", "b", "c"], 2), ["a", "b"]);
        assert!(fetches.due(&["a", "b", "c"], 2).is_empty());
        fetches.ended("a", Ok(()));
        assert_eq!(fetches.due(&["b", "c"], 2), ["c"]);
    }

    #[test]
    fn one_that_failed_waits_and_holds_up_nobody() {
        let mut fetches = Fetches::default();
        assert_eq!(fetches.due(&["a"], 1), ["a"]);
        fetches.ended("a", Err("away".to_owned()));
        assert_eq!(fetches.due(&["a", "b"], 1), ["b"]);
        fetches.ended("b", Ok(()));
        fetches.failed.get_mut("a").unwrap().until = Instant::now();
        assert_eq!(fetches.due(&["a"], 1), ["a"]);
        fetches.ended("a", Err("away".to_owned()));
        assert_eq!(fetches.failed["a"].pause, FIRST_PAUSE * 2);
    }
}
