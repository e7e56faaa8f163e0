//! Which settings a command works with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::{Loaded, Mistakes, load};

#[derive(Debug, Clone, clap::Args)]
pub struct SettingsArgs {
    /// Settings beyond the defaults, as TOML
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl SettingsArgs {
    /// # Errors
    /// Every mistake in the settings.
    pub fn load(&self) -> Result<Loaded, Mistakes> {
        // Names and values that are no UTF-8 can't be settings of ours.
        let variables: HashMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        load(Path::new("."), self.config.as_deref(), &variables)
    }
}
