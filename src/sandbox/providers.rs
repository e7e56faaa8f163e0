//! The providers of this server: the one that the settings name, and those that organizations may be
//! given beside it. All of them are swept and reported; which one makes a sandbox is the caller's choice.

use std::sync::Arc;

use super::daytona::Daytona;
use super::e2b::E2b;
use super::error::SandboxError;
use super::local::Local;
use super::none::Unisolated;
use super::remote::Remote;
use super::report::{IsolationReport, SweepReport};
use super::settings::{SandboxPaths, Settings};
use super::{Provider, Sandbox, SandboxOrder};

/// Names that an organization may be given.
pub const CHOICES: [&str; 3] = ["local", "daytona", "e2b"];

/// Tells by sandbox id what is in use.
pub type Keep<'k> = &'k (dyn for<'name> Fn(&'name str) -> bool + Send + Sync);

pub struct Providers {
    /// The default one first.
    all: Vec<Arc<dyn Provider>>,
}

impl Providers {
    /// Opens what the settings name. `installation` marks remote sandboxes as ours. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// If the default provider can't be opened, or one that has a key.
    pub fn open(settings: &Settings, paths: SandboxPaths, installation: &str) -> Result<Self, SandboxError> {
        let mut all = vec![open(&settings.provider, settings, paths.clone(), installation)?];
        for name in CHOICES {
            if name == settings.provider || !offered(name, settings) {
                continue;
            }
            match open(name, settings, paths.clone(), installation) {
                Ok(provider) => all.push(provider),
                // Nobody asked for it by name.
                Err(e) if name == "local" => {
                    tracing::warn!(error = %e, "organizations can't be given the local sandbox provider");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Self { all })
    }

    /// Makes a sandbox at the provider of that name; `None` is the default one.
    ///
    /// # Errors
    /// A provider that this server does not have, and whatever the provider says.
    pub async fn create(
        &self,
        provider: Option<&str>,
        order: SandboxOrder,
    ) -> Result<Box<dyn Sandbox>, SandboxError> {
        let absent = || SandboxError::ProviderAbsent { name: provider.unwrap_or("default").to_owned() };
        self.chosen(provider).ok_or_else(absent)?.create(order).await
    }

    /// Whether that provider's sandboxes are elsewhere, where nothing of this host can be mounted.
    #[must_use]
    pub fn is_remote(&self, provider: Option<&str>) -> bool {
        self.chosen(provider).is_some_and(|chosen| chosen.is_remote())
    }

    fn chosen(&self, provider: Option<&str>) -> Option<&Arc<dyn Provider>> {
        match provider {
            None => self.all.first(),
            Some(name) => self.all.iter().find(|provider| provider.name() == name),
        }
    }

    /// What each of them can isolate, the default one first.
    pub async fn report(&self) -> Vec<IsolationReport> {
        futures_util::future::join_all(self.all.iter().map(|provider| provider.report())).await
    }

    /// Sweeps all of them. `here` names what this process uses, `anywhere` also what other servers on the
    /// same record do: a host's leftovers are told by its locks, a remote provider's only by the record.
    pub async fn sweep(
        &self,
        here: Keep<'_>,
        anywhere: Keep<'_>,
    ) -> Vec<(&'static str, Result<SweepReport, SandboxError>)> {
        let sweeping = self.all.iter().map(|provider| async move {
            let keep = if provider.is_remote() { anywhere } else { here };
            (provider.name(), provider.sweep(keep).await)
        });
        futures_util::future::join_all(sweeping).await
    }
}

/// Whether organizations may be given this provider: `local` where builds are isolated at all, others
/// where there is a key.
pub fn offered(name: &str, settings: &Settings) -> bool {
    match name {
        "local" => settings.provider != "none",
        "e2b" => settings.e2b.is_configured(),
        "daytona" => settings.daytona.is_configured(),
        _ => false,
    }
}

/// The provider of this name. Must be called within a tokio runtime.
///
/// # Errors
/// An unknown provider, or folders and locks that can't be made.
pub fn open(
    name: &str,
    settings: &Settings,
    paths: SandboxPaths,
    installation: &str,
) -> Result<Arc<dyn Provider>, SandboxError> {
    Ok(match name {
        "local" => Arc::new(Local::open(settings, paths)?),
        "none" => Arc::new(Unisolated::open(settings, paths)?),
        "e2b" => Arc::new(Remote::new(E2b::open(&settings.e2b, &settings.remote, installation)?)),
        "daytona" => Arc::new(Remote::new(Daytona::open(&settings.daytona, &settings.remote, installation)?)),
        other => return Err(SandboxError::ProviderUnknown { name: other.to_owned() }),
    })
}

/// The provider that the settings name, on its own, for looking at it: it sweeps nothing of anybody's.
///
/// # Errors
/// An unknown provider, or folders and locks that can't be made.
pub fn provider(settings: &Settings, paths: SandboxPaths) -> Result<Arc<dyn Provider>, SandboxError> {
    open(&settings.provider, settings, paths, "")
}
