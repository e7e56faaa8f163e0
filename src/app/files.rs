//! The folders beneath `data_dir`, and the file that says where this server listens.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::AppError;
use crate::config::Settings;

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Files {
    pub data_dir: PathBuf,
    pub tools_dir: PathBuf,
    pub database: PathBuf,
    pub blobs: PathBuf,
    pub edge: PathBuf,
    /// The last table.
    pub routes: PathBuf,
    /// The last certificates.
    pub certificates: PathBuf,
    pub scratch: PathBuf,
    pub sandbox: PathBuf,
    pub mirror: PathBuf,
    /// Where tools for builds may be kept, the best place first.
    pub toolchain: Vec<PathBuf>,
    pub exe: PathBuf,
}

impl Files {
    /// Makes the folders; only this user can look into them.
    ///
    /// # Errors
    /// If one can't be made.
    pub fn prepare(settings: &Settings) -> Result<Self, AppError> {
        let data_dir = settings.data_dir.as_path();
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| AppError::Folder { path: path.to_owned(), source })
        };
        let data_dir = absolute(data_dir)?;
        // The data folder itself may be shared with the tools, which other users must be able to run.
        std::fs::create_dir_all(&data_dir)
            .map_err(|source| AppError::Folder { path: data_dir.clone(), source })?;
        let exe = std::env::current_exe()
            .map_err(|source| AppError::Folder { path: PathBuf::from("/proc/self/exe"), source })?;
        let beneath = |name: &str| -> Result<PathBuf, AppError> {
            let path = data_dir.join(name);
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| AppError::Folder { path: path.clone(), source })?;
            Ok(path)
        };
        Ok(Self {
            database: beneath("database")?.join("libra.db"),
            blobs: beneath("blobs")?,
            edge: beneath("edge")?,
            routes: data_dir.join("edge/routes.jsonl"),
            certificates: data_dir.join("edge/certificates.jsonl"),
            scratch: beneath("scratch")?,
            sandbox: beneath("sandbox")?,
            mirror: match settings.mirror_dir.as_os_str().is_empty() {
                true => beneath("mirror")?,
                false => absolute(&settings.mirror_dir)?,
            },
            toolchain: match settings.toolchain.folder.as_str() {
                "" => vec![absolute(&settings.tools_dir)?.join("toolchain"), data_dir.join("toolchain")],
                set => vec![absolute(Path::new(set))?],
            },
            tools_dir: absolute(&settings.tools_dir)?,
            data_dir,
            exe,
        })
    }
}

/// The addresses that are really listened on.
#[derive(Debug)]
pub struct Places {
    pub front: Vec<String>,
    pub secure: Vec<String>,
    pub operator: String,
}

/// `<data_dir>/server.json`, there while this server runs.
#[derive(Debug)]
pub struct ServerFile {
    path: PathBuf,
    text: String,
}

impl ServerFile {
    /// # Errors
    /// If the file can't be written.
    pub fn write(data_dir: &Path, places: &Places, url: &str) -> Result<Self, AppError> {
        let document = json!({
            "pid": std::process::id(),
            "listen": places.front,
            "tls_listen": places.secure,
            "operator_listen": places.operator,
            "public_url": url,
        });
        let file = Self { path: data_dir.join("server.json"), text: document.to_string() };
        file.put().map_err(|source| AppError::Folder { path: file.path.clone(), source })?;
        Ok(file)
    }

    /// Writes the file again if it is gone: another server on this folder took its place and stopped.
    pub fn keep(&self) {
        if !self.path.exists()
            && let Err(e) = self.put()
        {
            tracing::warn!(error = %e, "server.json could not be written");
        }
    }

    fn put(&self) -> std::io::Result<()> {
        let temporary = self.path.with_extension(format!("json.tmp-{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(self.text.as_bytes())?;
        std::fs::rename(&temporary, &self.path)
    }
}

impl Drop for ServerFile {
    fn drop(&mut self) {
        // Another server on this folder may have written its own meanwhile.
        if std::fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
