//! `libra internal bench-fill --workers N --domains M`: puts N live Workers of 20 files, and M custom domains that
//! lead to them, into a stopped server's data folder, for the benchmarks of memory and routing.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Parser;

use super::SettingsArgs;
use super::admin::{AdminError, finish};
use crate::app::AppError;
use crate::domain::tree_path::TreePath;
use crate::domain::worker_name::{WorkerName, preview_label};
use crate::domain::{DeploymentId, Principal, ProjectId, Scope, Target, TokenId, VersionId};
use crate::runtime::{PackSource, PackedVersion, Source, VersionStore, pack};
use crate::store::claims::Claim;
use crate::store::deployments::{NewDeployment, Recorded, Supersede};
use crate::store::journal::{Hold, NewVersion};
use crate::store::projects::NewProject;
use crate::store::{Store, StoreError};

const FILES: usize = 20;

#[derive(Debug, Parser)]
#[command(name = "libra internal bench-fill")]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    #[arg(long, default_value_t = 10_000)]
    workers: u32,
    /// Proved domains in all, shared out among the Workers: `www.customer-<n>.example`
    #[arg(long, default_value_t = 0)]
    domains: usize,
}

pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from("bench-fill"));
    let args = match Args::try_parse_from(name.chain(arguments)) {
        Ok(args) => args,
        Err(e) => {
            drop(e.print());
            return ExitCode::from(2);
        }
    };
    let loaded = match args.settings.load() {
        Ok(loaded) => loaded,
        Err(mistakes) => return finish(Err(AdminError::Usage(mistakes.to_string()))),
    };
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::from(70);
    };
    finish(runtime.block_on(fill(&loaded.settings, &args)))
}

async fn fill(settings: &crate::config::Settings, args: &Args) -> Result<(), AdminError> {
    let store = super::admin::open(settings).await?;
    let edge = settings.data_dir.join("edge");
    let versions = VersionStore::open_folder(&edge).map_err(AppError::from)?;
    let folder = settings.data_dir.join("scratch");
    let packed = site(&folder)?;
    let org = store.organization_create("bench").await.map_err(AdminError::Store)?;
    let user = store.user_create("bench", &org).await.map_err(AdminError::Store)?;
    let who = Principal {
        token_id: TokenId::random(),
        org_id: org,
        user_id: user,
        scopes: Scope::ALL.to_vec(),
        admin: false,
    };
    let hosts: Vec<String> = (0..args.domains).map(|n| format!("www.customer-{n}.example")).collect();
    let mut shares = hosts.chunks(args.domains.div_ceil(args.workers.max(1) as usize).max(1));
    for number in 0..args.workers {
        let project = one(&store, &versions, &who, &packed, number).await?;
        let share = shares.next().unwrap_or_default();
        store.bench_domains_fill(who.org_id.as_str(), &project, share).await.map_err(AdminError::Store)?;
    }
    drop(std::fs::remove_file(&packed.pack_path));
    super::render::line(&format!("{} Workers of {FILES} files, {} domains", args.workers, args.domains));
    Ok(())
}

fn site(folder: &Path) -> Result<PackedVersion, AdminError> {
    let files = (0..FILES)
        .map(|n| {
            let path = if n == 0 { "index.html".to_owned() } else { format!("assets/part-{n}.js") };
            let body = format!("/* part {n} */\n{}", "export const word = 'libra';\n".repeat(40));
            let path = TreePath::parse(&path).map_err(|e| AdminError::Usage(e.to_string()))?;
            Ok((path, Source::Bytes(Bytes::from(body))))
        })
        .collect::<Result<Vec<_>, AdminError>>()?;
    let options = pack::Options { compress_file_bytes: 1 << 20, threads: 0 };
    pack::build(files, folder, options).map_err(|e| AdminError::Usage(e.to_string()))
}

async fn one(
    store: &Store,
    versions: &VersionStore,
    who: &Principal,
    packed: &PackedVersion,
    number: u32,
) -> Result<String, AdminError> {
    let done = async {
        let worker = format!("bench-{number}");
        let new = NewProject {
            id: ProjectId::random(),
            name: worker.clone(),
            worker_name: worker.clone(),
            template: None,
            tree: None,
        };
        let project = store.project_create(&who.scope(), new).await?;
        let id = DeploymentId::random();
        let new = NewDeployment {
            id: id.clone(),
            project: ProjectId::parse(&project.id).map_err(|_| StoreError::Corrupt { what: "project" })?,
            user: who.user_id.clone(),
            target: Target::Production,
            source: "{}".into(),
            build: "{}".into(),
            env_sealed: None,
            custom_domain: None,
            branch: None,
            commit: None,
            message: None,
            supersede: Supersede::QueuedOlder,
            idempotency: None,
            quota_limit: i64::from(u32::MAX),
            waiting_limit: u64::MAX,
        };
        let Recorded::New(row) = store.deployment_create(&who.scope(), new).await? else {
            return Err(StoreError::Corrupt { what: "deployment" });
        };
        let Claim::Taken(row) = store.deployment_claim(&row.id, &row.org_id, 1, "bench-fill", 60_000).await?
        else {
            return Err(StoreError::Corrupt { what: "claim" });
        };
        let hold = Hold::of(&row);
        let name =
            WorkerName::parse_shape(&worker).map_err(|_| StoreError::Corrupt { what: "worker name" })?;
        let version = VersionId::parse(id.as_str()).map_err(|_| StoreError::Corrupt { what: "version" })?;
        let new = NewVersion {
            id: version,
            preview_label: preview_label(id.as_str(), &name),
            manifest_digest: hex::encode(packed.digest),
            pack_digest: packed.manifest.pack_digest.clone(),
            pack_size: i64::try_from(packed.manifest.pack_size).unwrap_or(i64::MAX),
            file_count: i64::try_from(packed.manifest.files.len()).unwrap_or(i64::MAX),
        };
        store.version_record(&hold, &new).await?;
        store.version_switch(&hold, id.as_str()).await?;
        store.deployment_complete(&hold, None).await?;
        Ok((id, project.id))
    };
    let (id, project) = Box::pin(done).await.map_err(AdminError::Store)?;
    let id = crate::runtime::VersionId::parse(id.as_str()).map_err(AppError::from)?;
    let source = PackSource::Path(packed.pack_path.clone());
    versions.install(&id, packed.manifest_bytes.clone(), source).await.map_err(AppError::from)?;
    Ok(project)
}
