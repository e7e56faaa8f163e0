//! A read-through mirror of an npm registry: the only network that a build has. It speaks GET and HEAD,
//! asks one upstream, keeps what it got on disk, and is written to by nobody but itself.
//!
//! Must never carry a request's body, query or headers upstream, nor a credential inwards.
//! (Architecture exception: this room names `actix_web`. Its listener is a unix socket inside a
//! sandbox's own folder, not a door of the platform, and shares nothing with `http`.)

mod asset;
mod document;
mod serve;
mod store;
mod upstream;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::settings::MirrorSettings;
use asset::{Asset, Form};
use store::{Kept, Store};
use upstream::Upstream;

pub(super) use serve::MirrorSocket;

#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("the registry does not have it")]
    NotFound,
    #[error("the registry answered {status}")]
    Refused { status: u16 },
    #[error("the registry could not be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the registry's answer is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    #[error("the registry's package document is not readable")]
    Document(#[source] serde_json::Error),
    #[error("the tarball does not match the digest in its package document")]
    Integrity,
    #[error("npm does not tell which registry it uses; set sandbox.mirror.registry_url")]
    RegistryUnknown,
    #[error("`{url}` is not an http or https address of a registry")]
    RegistryUrl { url: String },
    #[error("the registry's address holds a user or password, which builds would use; set another one")]
    RegistryCredential,
    #[error("the mirror's HTTP client could not be made")]
    Client(#[source] reqwest::Error),
    #[error("the mirror could not {action}")]
    Disk {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the mirror must be opened within a tokio runtime")]
    NoRuntime(#[source] tokio::runtime::TryCurrentError),
    #[error("a task of the mirror ended early")]
    Task(#[source] tokio::task::JoinError),
}

pub struct Mirror {
    settings: MirrorSettings,
    tools: std::path::PathBuf,
    store: Store,
    upstream: OnceCell<Upstream>,
    /// Fetches run here and not on a listener's own threads: they end with their sandbox, and pooled
    /// connections and fetches that others wait for must not end with them.
    runtime: Handle,
    places: Semaphore,
    /// In KiB: documents are held whole while they are rewritten, in the server's own memory.
    documents_memory: Semaphore,
    flights: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Keys of fetches under way are cleared once so many have gathered.
const FLIGHTS_REMEMBERED: usize = 1024;

impl Mirror {
    /// Must be called within a tokio runtime. Servers, and rooms of one server, may share the folder.
    ///
    /// # Errors
    /// If the folder can't be made.
    pub fn open(settings: &MirrorSettings, folder: &Path, tools: &Path) -> Result<Arc<Self>, MirrorError> {
        Ok(Arc::new(Self {
            store: Store::open(folder, settings.total_bytes)?,
            tools: tools.to_owned(),
            upstream: OnceCell::new(),
            runtime: Handle::try_current().map_err(MirrorError::NoRuntime)?,
            places: Semaphore::new(settings.upstream_requests),
            documents_memory: Semaphore::new(kib(settings.documents_memory_bytes) as usize),
            flights: Mutex::default(),
            settings: settings.clone(),
        }))
    }

    /// Finds out once where the registry is.
    pub(super) async fn upstream(&self) -> Result<&Upstream, MirrorError> {
        self.upstream.get_or_try_init(|| Upstream::find(&self.settings, &self.tools)).await
    }

    /// The asset from disk, or from upstream and then from disk. `place` is one of its sandbox's places:
    /// it is given back when the work is done, also if nobody waits for it any more.
    async fn get(self: &Arc<Self>, asset: Asset, place: OwnedSemaphorePermit) -> Result<Kept, MirrorError> {
        if let Some(kept) = self.store.find(&asset, Some(self.fresh())).await? {
            return Ok(kept);
        }
        let mirror = Arc::clone(self);
        let fetch = async move {
            let _place = place;
            mirror.fetch_once(&asset).await
        };
        self.runtime.spawn(fetch).await.map_err(MirrorError::Task)?
    }

    /// The tarball of a package's exact version, for the server itself: what the registry's own document
    /// vouches for, or nothing.
    ///
    /// # Errors
    /// `NotFound` if the registry has no such version; what keeps it from being fetched.
    pub async fn package(self: &Arc<Self>, name: &str, version: &str) -> Result<std::fs::File, MirrorError> {
        let path = format!("/{name}/-/{}-{version}.tgz", name.rsplit('/').next().unwrap_or(name));
        let Some(asset @ Asset::Tarball { .. }) = Asset::parse(&path, "") else {
            return Err(MirrorError::NotFound);
        };
        if let Some(kept) = self.store.find(&asset, None).await? {
            return Ok(kept.file.into_std().await);
        }
        let mirror = Arc::clone(self);
        let fetch = async move { mirror.fetch_vouched(&asset).await };
        let kept = self.runtime.spawn(fetch).await.map_err(MirrorError::Task)??;
        Ok(kept.file.into_std().await)
    }

    async fn fetch_vouched(&self, asset: &Asset) -> Result<Kept, MirrorError> {
        let Asset::Tarball { name, file } = asset else { return Err(MirrorError::NotFound) };
        self.fetch_once(&Asset::Document { name: name.clone(), form: Form::Abbreviated }).await?;
        let origin = self.store.origin(name, file).await.ok_or(MirrorError::NotFound)?;
        if origin.integrity.is_none() && origin.shasum.is_none() {
            return Err(MirrorError::Integrity);
        }
        self.fetch_once(asset).await
    }

    fn fresh(&self) -> Duration {
        Duration::from_secs(self.settings.document_fresh_seconds)
    }

    /// Those who want the same asset at once wait for one fetch.
    async fn fetch_once(&self, asset: &Asset) -> Result<Kept, MirrorError> {
        let flight = self.flight(&asset.key());
        let _only_one = flight.lock().await;
        if let Some(kept) = self.store.find(asset, Some(self.fresh())).await? {
            return Ok(kept);
        }
        let fetched = match asset {
            Asset::Document { name, form } => self.fetch_document(asset, name, *form).await.map(|()| None),
            Asset::Tarball { name, file } => self.fetch_tarball(asset, name, file).await,
        };
        match fetched {
            Ok(Some(unkept)) => Ok(unkept),
            Ok(None) => self.store.find(asset, None).await?.ok_or(MirrorError::NotFound),
            Err(error @ (MirrorError::NotFound | MirrorError::Integrity)) => Err(error),
            // Old news beats none: installs go on while the registry is away.
            Err(error) => match self.store.find(asset, None).await? {
                Some(stale) => {
                    tracing::warn!(registry.asset = %asset.key(), error = %error, "serving a stale package document");
                    Ok(stale)
                }
                None => Err(error),
            },
        }
    }

    fn flight(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key).and_then(Weak::upgrade) {
            return flight;
        }
        if flights.len() >= FLIGHTS_REMEMBERED {
            flights.retain(|_, flight| flight.strong_count() > 0);
        }
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(key.to_owned(), Arc::downgrade(&flight));
        flight
    }

    async fn fetch_document(&self, asset: &Asset, name: &str, form: Form) -> Result<(), MirrorError> {
        let aside = self.store.temporary().await?;
        let rewritten = self.rewrite_document(name, form, &aside).await;
        drop(tokio::fs::remove_file(&aside).await);
        let (served, origins, _memory) = rewritten?;
        self.store.keep_document(asset, served, origins).await
    }

    async fn rewrite_document(
        &self,
        name: &str,
        form: Form,
        aside: &Path,
    ) -> Result<(Vec<u8>, Vec<u8>, Option<SemaphorePermit<'_>>), MirrorError> {
        let size = {
            let upstream = self.upstream().await?;
            // The semaphores are never closed.
            let _place = self.places.acquire().await.ok();
            upstream.document(name, form, self.settings.document_bytes, aside).await?
        };
        let wanted = kib(size.saturating_mul(document::MEMORY_FACTOR));
        let all = kib(self.settings.documents_memory_bytes);
        // First come, first served: a large document is not passed by small ones for ever.
        let memory = self.documents_memory.acquire_many(wanted.min(all)).await.ok();
        let (name, aside) = (name.to_owned(), aside.to_owned());
        let rewrite = move || {
            let body = std::fs::read(&aside).map_err(store::disk("read a fetched file"))?;
            document::rewrite(&name, &body)
        };
        let (served, origins) = tokio::task::spawn_blocking(rewrite).await.map_err(MirrorError::Task)??;
        Ok((served, origins, memory))
    }

    /// The file itself where nothing vouches for it, so that it must not be kept.
    async fn fetch_tarball(
        &self,
        asset: &Asset,
        name: &str,
        file: &str,
    ) -> Result<Option<Kept>, MirrorError> {
        let mut origin = self.store.origin(name, file).await;
        if origin.is_none() {
            // A lockfile leads straight to the tarball; what it must hash to stands in the document.
            let document = Asset::Document { name: name.to_owned(), form: Form::Abbreviated };
            Box::pin(self.fetch_once(&document)).await?;
            origin = self.store.origin(name, file).await;
        }
        let upstream = self.upstream().await?;
        let _place = self.places.acquire().await.ok();
        let target = self.store.temporary().await?;
        let limit = self.settings.tarball_bytes;
        let fetched = upstream.tarball(name, file, origin.as_ref(), limit, &target).await;
        self.store.keep_tarball(asset, target, fetched).await
    }
}

/// Semaphores count in 32 bits, and bytes don't fit.
fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
