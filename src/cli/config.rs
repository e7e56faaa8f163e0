//! `libra config`.

use std::process::ExitCode;

use clap::Subcommand;

use super::render;
use crate::config::{Loaded, show};

#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the settings: all mistakes at once, exit code 64
    Check,
    /// Show every setting in force and where it comes from, secrets masked
    Show,
}

/// The settings were loaded, so they have no mistake.
pub fn run(args: &ConfigArgs, loaded: &Loaded) -> ExitCode {
    match args.command {
        ConfigCommand::Check => render::line("the settings are right"),
        ConfigCommand::Show => render::line(&show(loaded)),
    }
    ExitCode::SUCCESS
}
