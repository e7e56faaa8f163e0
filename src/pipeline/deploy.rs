//! Step 5: record the version, let the edges install it, fetch it on its own address, switch, fetch
//! it on its live address. Undo: before the switch there is nothing to undo (a preview that nobody
//! links to); the switch itself is undone only by a newer switch.

use std::time::Duration;

use super::build::Built;
use super::faults::Side;
use super::output::manifest_beside;
use super::probe::{Answer, ProbeError, Sample};
use super::step::{Done, StepError, persist};
use super::{Project, Walk};
use crate::domain::status::CancelReason;
use crate::domain::worker_name::{WorkerName, preview_label};
use crate::domain::{Digest, Step, Target, VersionId};
use crate::runtime::{Manifest, PackSource};
use crate::store::journal::{NewVersion, Switched, VersionRecorded};

const STEP: Step = Step::Deploy;
/// Between two looks at an edge that does not serve the version yet.
const PAUSE: Duration = Duration::from_millis(20);

pub async fn run(walk: &Walk<'_>, project: &Project, built: &Built) -> Result<Done<()>, StepError> {
    let store = &walk.control().store;
    let worker = WorkerName::parse_shape(&project.worker_name)
        .map_err(|e| StepError::platform(STEP, "The project's Worker name can't be read.", e))?;
    let label = preview_label(&walk.row.id, &worker);
    let version = version_id(walk, built).await?;
    let manifest = install(walk, built, &version).await?;
    let new = NewVersion {
        id: version.clone(),
        preview_label: label.clone(),
        manifest_digest: built.manifest.to_string(),
        pack_digest: built.pack.to_string(),
        pack_size: i64::try_from(built.pack_size).unwrap_or(i64::MAX),
        file_count: i64::try_from(built.file_count).unwrap_or(i64::MAX),
    };
    let epoch = match persist(STEP, || store.version_record(&walk.hold, &new)).await? {
        VersionRecorded::At { epoch } => epoch,
        VersionRecorded::Superseded => return Err(StepError::Cancelled(CancelReason::Superseded)),
    };
    refresh(walk, epoch).await?;
    let sample =
        Sample::of(&manifest).ok_or_else(|| StepError::platform(STEP, "The version is empty.", "no file"))?;
    let addresses = &walk.control().addresses;
    confirm(walk, &addresses.host(&label), &sample, Expect::Exactly(&version)).await?;

    if walk.cancel.is_cancelled() {
        return Err(super::run::CANCELLED);
    }
    walk.pipeline.faults.reach(walk, STEP, Side::Switch).await?;
    let epoch = match persist(STEP, || store.version_switch(&walk.hold, version.as_str())).await? {
        Switched::Live { epoch } => epoch,
        Switched::Superseded => return Err(StepError::Cancelled(CancelReason::Superseded)),
        Switched::CancelRequested => return Err(super::run::CANCELLED),
    };
    refresh(walk, epoch).await?;
    // Where an operator's origins answer for the Worker, its live address says nothing of what is deployed.
    let serves_deployed = !persist(STEP, || store.upstream_is_active(&project.id)).await?;
    if walk.row.target == Target::Production.as_str() && serves_deployed {
        let expect = Expect::ThisOrNewer(&version, walk.row.seq);
        confirm(walk, &addresses.host(worker.as_str()), &sample, expect).await?;
    }
    others_confirmed(walk, epoch).await?;
    Ok(Done::completed((), "Live"))
}

/// One deployment makes one version, so its id serves for both: recording twice can't make two. One that built
/// something else since, because it was driven anew or because what it had built was lost, makes it under another id:
/// an id always means the same bytes.
async fn version_id(walk: &Walk<'_>, built: &Built) -> Result<VersionId, StepError> {
    let (row, store) = (walk.row, &walk.control().store);
    let unreadable = |e| StepError::platform(STEP, "The deployment's id can't be read.", e);
    if let Some(recorded) = &row.version_id {
        let known = persist(STEP, || store.version_get(recorded)).await?;
        let is_same = known.is_some_and(|known| known.manifest_digest == built.manifest.as_str());
        // What is live stays what it is.
        if is_same || row.switched_at.is_some() {
            return VersionId::parse(recorded).map_err(unreadable);
        }
    } else if row.redrives == 0 {
        return VersionId::parse(&row.id).map_err(unreadable);
    }
    let digest = Digest::of(format!("{}.{}", row.id, built.manifest).as_bytes());
    VersionId::parse(&digest.as_str()[..row.id.len()]).map_err(unreadable)
}

/// Puts the version on this edge's disk before anybody asks for it. Other edges fetch it from the
/// blob store when the table tells them.
async fn install(walk: &Walk<'_>, built: &Built, version: &VersionId) -> Result<Manifest, StepError> {
    let pack = walk.scratch().join("pack").join("pack");
    let beside = manifest_beside(&pack);
    let failed =
        |e: crate::runtime::StoreError| StepError::platform(STEP, "The edge's disk could not be written.", e);
    let bytes = match tokio::fs::read(&beside).await {
        Ok(bytes) => bytes::Bytes::from(bytes),
        // A resumed attempt did not build: its pack comes from the blob store.
        Err(_) => walk
            .control()
            .blobs
            .get(walk.org.as_str(), &built.manifest)
            .await
            .map_err(|e| StepError::blobs(STEP, e))?,
    };
    let manifest = Manifest::parse(&bytes)
        .map_err(|e| StepError::platform(STEP, "The version's manifest can't be read.", e))?;
    let id = crate::runtime::VersionId::parse(version.as_str())
        .map_err(|e| StepError::platform(STEP, "The deployment's id can't be read.", e))?;
    // By content, not by name: whatever else lies under this id must not pass for the new version.
    if walk.pipeline.versions.is_installed(&id, &bytes, manifest.pack_size).map_err(failed)? {
        return Ok(manifest);
    }
    if !tokio::fs::try_exists(&pack).await.unwrap_or(false) {
        tokio::fs::create_dir_all(walk.scratch().join("pack")).await.map_err(super::output::local)?;
        walk.control()
            .blobs
            .get_file(walk.org.as_str(), &built.pack, &pack)
            .await
            .map_err(|e| StepError::blobs(STEP, e))?;
    }
    walk.pipeline.versions.install(&id, bytes, PackSource::Path(pack)).await.map_err(failed)?;
    Ok(manifest)
}

async fn refresh(walk: &Walk<'_>, epoch: i64) -> Result<(), StepError> {
    let refreshed = (walk.pipeline.refresh_routes)(epoch).await;
    refreshed.map(|_| ()).map_err(|e| StepError::platform(STEP, "The routing table could not be renewed.", e))
}

/// Which version must answer.
enum Expect<'a> {
    Exactly(&'a VersionId),
    /// Or what has gone live under a higher number meanwhile: a newer deployment, or an older version by hand.
    ThisOrNewer(&'a VersionId, i64),
}

/// Waits until one live edge serves the version. Bounded by the step's time.
async fn confirm(walk: &Walk<'_>, host: &str, sample: &Sample, expect: Expect<'_>) -> Result<(), StepError> {
    let limit = Duration::from_millis(walk.control().settings.pipeline.probe_timeout_ms);
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let last = match probe_edges(walk, host, sample, &expect).await? {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        if tokio::time::Instant::now() >= deadline {
            let summary = match last {
                ProbeError::NoEdge => "No edge is live to serve the new version.",
                _ => "The new version did not answer through the front door.",
            };
            return Err(StepError::platform(STEP, summary, last));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = walk.cancel.cancelled() => return Err(super::run::CANCELLED),
        }
    }
}

async fn probe_edges(
    walk: &Walk<'_>,
    host: &str,
    sample: &Sample,
    expect: &Expect<'_>,
) -> Result<Result<(), ProbeError>, StepError> {
    let edges = walk.control().store.edge_live().await.map_err(|e| StepError::store(STEP, e))?;
    // This node's own edge first: it is likely to be there already.
    let (own, others): (Vec<_>, Vec<_>) = edges.into_iter().partition(|e| e.id == walk.pipeline.node);
    let mut last = ProbeError::NoEdge;
    for edge in own.into_iter().chain(others) {
        match walk.pipeline.prober.fetch(&edge.address, host, sample).await {
            Ok(answer) => match judge(walk, &edge.address, answer, expect).await? {
                Ok(()) => return Ok(Ok(())),
                Err(e) => last = e,
            },
            Err(e) => last = e,
        }
    }
    Ok(Err(last))
}

async fn judge(
    walk: &Walk<'_>,
    edge: &str,
    answer: Answer,
    expect: &Expect<'_>,
) -> Result<Result<(), ProbeError>, StepError> {
    let (Expect::Exactly(version) | Expect::ThisOrNewer(version, _)) = *expect;
    let edge = edge.to_owned();
    if answer.version == version.as_str() {
        let wrong = ProbeError::WrongBytes { edge, version: answer.version };
        return Ok(if answer.verified { Ok(()) } else { Err(wrong) });
    }
    if let Expect::ThisOrNewer(_, seq) = *expect {
        let live = walk.control().store.live_get(&walk.row.project_id).await;
        let (live_seq, live) = live.map_err(|e| StepError::store(STEP, e))?;
        if live_seq > seq && live.shows(&answer.version) {
            return Ok(Ok(()));
        }
    }
    Ok(Err(ProbeError::OtherVersion { edge, version: answer.version }))
}

/// Waits a while for the other edges to serve the table; laggards show in health.
async fn others_confirmed(walk: &Walk<'_>, epoch: i64) -> Result<(), StepError> {
    let limit = Duration::from_millis(walk.control().settings.pipeline.edge_confirm_ms);
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let edges = walk.control().store.edge_live().await.map_err(|e| StepError::store(STEP, e))?;
        let behind = edges.iter().filter(|e| e.id != walk.pipeline.node && e.epoch < epoch).count();
        if behind == 0 {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!(deployment.id = %walk.row.id, edges = behind, "edges lag behind the table");
            return Ok(());
        }
        tokio::time::sleep(PAUSE * 5).await;
    }
}
