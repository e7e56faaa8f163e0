//! The local sandbox as one that keeps things: puts snapshots in their place before a command, takes what
//! an install added, and holds on to a snapshot for as long as something may run above it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::harden::{self, Bounds, Links};
use super::name::Name;
use super::shelf::Shelf;
use super::snapshot::{Manifest, Snapshot};
use super::{
    BuildCache, DependencyOrder, FrameworkCaches, FrameworkOrder, Kept, LayerOrder, Method, Restored, copy,
    framework, name, takeout,
};
use crate::sandbox::Sandbox;
use crate::sandbox::cage::Cage;
use crate::sandbox::error::SandboxError;
use crate::sandbox::{tree, workspace};

/// Where overlayfs has its own two folders, within the sandbox's folder and out of the build's sight.
pub(in crate::sandbox) fn layer(snapshot: &Snapshot, sandbox: &Path) -> LayerOrder {
    let beside = sandbox.join("overlay");
    LayerOrder { lower: snapshot.tree(), work: beside.join("work"), merged: beside.join("merged") }
}

#[async_trait::async_trait]
impl BuildCache for Cage {
    async fn restore_dependencies(&mut self, order: &DependencyOrder) -> Result<Restored, SandboxError> {
        let (shelf, name, method) = self.shelf_for(order).await?;
        let miss = Restored::Miss { key: name.short() };
        let (lookup, sought) = (Arc::clone(&shelf), name.clone());
        let found = blocking(move || lookup.find(&sought)).await;
        let snapshot = match found {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(miss),
            Err(error) => {
                tracing::warn!(sandbox.id = %self.id(), error = %error, "the cache could not be read");
                return Ok(miss);
            }
        };
        let found = snapshot.found(method);
        self.lay(snapshot, method).await?;
        Ok(Restored::Hit(found))
    }

    async fn forget_dependencies(&mut self, order: &DependencyOrder) -> Result<(), SandboxError> {
        let (shelf, name, _) = self.shelf_for(order).await?;
        blocking(move || forget(&shelf, &name)).await
    }

    async fn keep_dependencies(&mut self, order: &DependencyOrder) -> Result<Kept, SandboxError> {
        let (shelf, name, method) = self.shelf_for(order).await?;
        let Some(begun) = self.begun() else { return Ok(Kept::No("no command has run".into())) };
        let (top, order) = (self.work_tree()?, order.clone());
        let open_to_all = method == Method::Overlay && self.owner().is_some();
        let taken = blocking(move || take(&shelf, &name, &top, &order, begun, open_to_all)).await?;
        match taken {
            Outcome::Kept(snapshot) => {
                let found = snapshot.found(method);
                self.lay(*snapshot, method).await?;
                Ok(Kept::Yes(found))
            }
            Outcome::Alone(snapshot, why) => {
                self.lay(*snapshot, method).await?;
                Ok(Kept::No(why))
            }
            Outcome::Back(why) => Ok(Kept::No(why)),
        }
    }

    async fn take_framework_caches(
        &mut self,
        order: &FrameworkOrder,
    ) -> Result<FrameworkCaches, SandboxError> {
        let (shelf, top, owner, order) = (self.shelf()?, self.work_tree()?, self.owner(), order.clone());
        blocking(move || framework::take(&shelf, &order, &top, owner)).await
    }

    async fn forget_framework_caches(&mut self, order: &FrameworkOrder) -> Result<(), SandboxError> {
        let shelf = self.shelf()?;
        let name = name::of_framework(&shelf.salt, order)?;
        blocking(move || forget(&shelf, &name)).await
    }

    async fn keep_framework_caches(
        &mut self,
        order: &FrameworkOrder,
    ) -> Result<FrameworkCaches, SandboxError> {
        let (shelf, top, order) = (self.shelf()?, self.work_tree()?, order.clone());
        blocking(move || framework::keep(&shelf, &order, &top)).await
    }
}

impl Cage {
    async fn shelf_for(&self, order: &DependencyOrder) -> Result<(Arc<Shelf>, Name, Method), SandboxError> {
        let shelf = self.shelf()?;
        let tools = name::tools(self.node());
        let name = name::of_dependencies(&shelf.salt, &tools, order)?;
        let method = shelf.method(self.exe()?.as_path()).await;
        Ok((shelf, name, method))
    }

    /// Makes the snapshot part of the work folder, for every command from now on.
    async fn lay(&mut self, snapshot: Snapshot, method: Method) -> Result<(), SandboxError> {
        let (top, owner, sandbox) = (self.work_tree()?, self.owner(), self.folder());
        let snapshot = blocking(move || {
            match method {
                Method::Overlay => {
                    let layer = layer(&snapshot, &sandbox);
                    workspace::private_folder(&layer.work)?;
                    workspace::private_folder(&layer.merged)?;
                }
                Method::Copy => {
                    let from = open(&snapshot.tree())?;
                    copy::copy_into(&from, &top, owner)
                        .map_err(|e| SandboxError::io("copy the kept dependencies into", &sandbox, e))?;
                }
            }
            Ok(snapshot)
        })
        .await?;
        self.hold(snapshot, method == Method::Overlay);
        Ok(())
    }
}

fn forget(shelf: &Shelf, name: &Name) -> Result<(), SandboxError> {
    if let Some(snapshot) = shelf.take(name)? {
        shelf.let_go(snapshot);
    }
    Ok(())
}

enum Outcome {
    Kept(Box<Snapshot>),
    /// For this build only, for this reason.
    Alone(Box<Snapshot>, String),
    /// Everything is where it was, for this reason.
    Back(String),
}

fn take(
    shelf: &Shelf,
    name: &Name,
    top: &OwnedFd,
    order: &DependencyOrder,
    begun: SystemTime,
    open_to_all: bool,
) -> Result<Outcome, SandboxError> {
    let paths = match takeout::added(top, order, begun) {
        Ok(paths) => paths,
        Err(why) => return Ok(Outcome::Back(why.to_string())),
    };
    let mut staged = shelf.stage(name)?;
    let into = open(&staged.tree())?;
    let lost = |e| SandboxError::io("put the dependencies back into", Path::new("."), e);
    let shown: Vec<String> = paths.iter().take(8).map(|p| p.display().to_string()).collect();
    let back = |why: String| {
        if let Some(aside) = &staged.private {
            shelf.remove_staged(aside);
        }
        Ok(Outcome::Back(why))
    };
    let taken = match takeout::take_out(top, &into, paths).map_err(lost)? {
        Ok(taken) => taken,
        Err(why) => return back(why.to_string()),
    };
    let settings = &shelf.settings;
    let bounds = Bounds {
        bytes: settings.snapshot_bytes,
        files: settings.snapshot_files,
        open_to_all,
        links: Links::Keep,
    };
    match harden::harden(&into, bounds) {
        Ok(size) => {
            let put = shelf.put(&mut staged, Manifest::new(size, shown));
            let why = match put {
                Ok(true) => return Ok(Outcome::Kept(Box::new(staged))),
                Ok(false) => "there is no room for it, or another build kept it first".to_owned(),
                Err(error) => {
                    tracing::warn!(error = %error, "a snapshot could not be kept");
                    "the cache could not be written".to_owned()
                }
            };
            Ok(Outcome::Alone(Box::new(staged), why))
        }
        Err(refusal) => {
            taken.put_back(top, &into).map_err(lost)?;
            back(refusal.to_string())
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, SandboxError> {
    tree::open_own_folder(path).map_err(|e| SandboxError::io("open", path, e))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work).await.map_err(SandboxError::Task)?
}
