//! Makes the parts from the settings; starts nothing that serves.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use sha2::Digest;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::files::Files;
use super::waiting;
use crate::blobs::Blobs;
use crate::config::{Environment, Settings};
use crate::control::bootstrap::{bootstrap, development_secret, refuse_bootstrap};
use crate::control::domains::Addresses;
use crate::control::line::LineView;
use crate::control::live::Routes;
use crate::control::seal::Sealer;
use crate::control::{Control, Running};
use crate::dns::Dns;
use crate::pipeline::Prober;
use crate::queue::{Queue, QueuePaths};
use crate::routing::probe::ProbeKey;
use crate::runtime::VersionStore;
use crate::sandbox::mirror::Mirror;
use crate::sandbox::{self, Providers, SandboxPaths};
use crate::store::Store;
use crate::tls::Tls;
use crate::tls::acme::{Issuer, IssuerClient, Looks};
use crate::toolchain::{Toolchain, ToolchainPaths};

/// Everything that outlives a request or a deployment.
pub struct Parts {
    pub control: Arc<Control>,
    pub queue: Queue,
    pub sandboxes: Arc<Providers>,
    pub toolchain: Arc<Toolchain>,
    pub versions: Arc<VersionStore>,
    pub prober: Arc<Prober>,
    /// This process, as lease owner and edge.
    pub node: String,
}

/// What is made from settings and disk alone; enough to serve the last table.
pub struct Base {
    pub sealer: Sealer,
    pub versions: Arc<VersionStore>,
    pub tls: Arc<Tls>,
    /// Whether Workers are served by the table that an earlier run kept.
    pub last_table: bool,
}

impl Base {
    pub fn make(settings: &Settings, files: &Files) -> Result<Self, AppError> {
        let set = &settings.security.secret_key;
        let secret = match settings.environment {
            Environment::Development if set.expose_secret().is_empty() => {
                development_secret(&files.data_dir)?
            }
            Environment::Production | Environment::Development => set.clone(),
        };
        let versions = Arc::new(VersionStore::open_folder(&files.edge)?);
        let tls = Arc::new(Tls::open(&settings.tls));
        let sealer = Sealer::new(secret);
        tls.challenges.answer_looks(Looks::new(sealer.derive("certificate-look")));
        Ok(Self { sealer, versions, tls, last_table: false })
    }

    pub fn probe_key(&self) -> ProbeKey {
        ProbeKey::new(self.sealer.derive("edge-probe").expose_secret())
    }
}

/// Opens the database of these settings, with its schema up to date.
///
/// # Errors
/// If it can't be opened.
pub async fn open_store(settings: &Settings, files: &Files) -> Result<Store, AppError> {
    let lock = files.data_dir.join("migrate.lock");
    Ok(Store::open(&settings.database, &files.database, &lock).await?)
}

impl Parts {
    pub async fn make(
        settings: Arc<Settings>,
        files: &Files,
        base: Base,
        port: u16,
        stop: CancellationToken,
    ) -> Result<Self, AppError> {
        let probe_key = base.probe_key();
        let Base { sealer, versions, tls, last_table } = base;
        let open = || open_store(&settings, files);
        let store = waiting::database(&settings, &files.database, last_table, open).await?;
        match settings.environment {
            Environment::Development => {
                let _alone = start_lock(files)?;
                bootstrap(&store, &files.data_dir).await?;
            }
            Environment::Production => refuse_bootstrap(&store).await?,
        }
        let addresses = Addresses::new(&settings.domains.base, &settings.domains.public_url, port);
        let blobs = Blobs::open(&settings.blobs, &files.blobs)?;
        waiting::blobs(&settings, last_table, &blobs).await?;
        let paths = QueuePaths {
            data_dir: files.data_dir.clone(),
            tools_dir: files.tools_dir.clone(),
            exe: files.exe.clone(),
        };
        let queue = Queue::start(settings.nats.clone(), paths, stop)?;
        waiting::broker(&settings, &queue, &store).await?;
        let installation = installation(&sealer);
        let sandboxes = Arc::new(Providers::open(&settings.sandbox, sandbox_paths(files), &installation)?);
        let toolchain = Arc::new(toolchain(&settings, files)?);
        let timeout = Duration::from_millis(settings.pipeline.probe_timeout_ms);
        let prober = Prober::new(probe_key, timeout)
            .map_err(|e| AppError::Make { what: "the probe's HTTP client", source: e.into() })?;
        let dns = Dns::new(&settings.domains.dns);
        let issuers = issuers(&settings)?;
        let control = Control {
            settings,
            store,
            blobs,
            sealer,
            tls,
            issuers,
            addresses,
            doorbell: Notify::new(),
            line: LineView::default(),
            dns,
            hosts_changed: Notify::new(),
            running: Running::default(),
            routes: Routes::default(),
        };
        Ok(Self {
            control: Arc::new(control),
            queue,
            sandboxes,
            toolchain,
            versions,
            prober: Arc::new(prober),
            node: crate::domain::id::random(),
        })
    }
}

/// Nobody, where certificates are not to be got.
fn issuers(settings: &Settings) -> Result<Vec<Issuer>, AppError> {
    let acme = &settings.tls.acme;
    if !acme.enabled {
        return Ok(Vec::new());
    }
    let client = IssuerClient::new(acme).map_err(|e| AppError::Settings(e.to_string()))?;
    Ok(Issuer::all(acme, &client))
}

/// With a mirror of its own on the same folder: builds that fetch much must not keep tools waiting.
fn toolchain(settings: &Settings, files: &Files) -> Result<Toolchain, AppError> {
    let mirror = Mirror::open(&settings.sandbox.mirror, &files.mirror, &files.tools_dir)
        .map_err(sandbox::SandboxError::Mirror)?;
    let paths = ToolchainPaths { tools: files.tools_dir.clone(), folders: files.toolchain.clone() };
    Ok(Toolchain::open(&settings.toolchain, paths, mirror)?)
}

/// Names this installation to others: every server with this secret, and nobody else, derives it.
fn installation(sealer: &Sealer) -> String {
    let derived = sealer.derive("installation");
    let digest = sha2::Sha256::digest(derived.expose_secret());
    hex::encode(&digest[..16])
}

pub fn sandbox_paths(files: &Files) -> SandboxPaths {
    SandboxPaths {
        root: files.sandbox.clone(),
        tools: files.tools_dir.clone(),
        mirror: files.mirror.clone(),
        data_dir: files.data_dir.clone(),
        exe: files.exe.clone(),
    }
}

/// Two servers that start on one folder at the same moment make one first credential between them.
fn start_lock(files: &Files) -> Result<nix::fcntl::Flock<std::fs::File>, AppError> {
    let path = files.data_dir.join("start.lock");
    let failed = |source| AppError::Folder { path: path.clone(), source };
    let file =
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))
}
