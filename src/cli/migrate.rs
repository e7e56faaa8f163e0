//! `libra migrate`: the database's schema up, down, or as it stands.

use clap::Subcommand;
use serde_json::json;

use super::admin::AdminError;
use super::render;
use crate::app::AppError;
use crate::config::Settings;
use crate::store::schema::{Change, Reach};
use crate::store::{Store, StoreError};

#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(subcommand)]
    command: Option<MigrateCommand>,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Bring the schema up (what `libra migrate` alone does): all pending changes, or some
    Up {
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Take changes back: the newest, or some. What they added is deleted
    Down {
        #[command(flatten)]
        reach: ReachArgs,
        /// Really do it
        #[arg(long)]
        yes: bool,
    },
    /// List the changes and which of them stand
    Status {
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Default, clap::Args)]
struct ReachArgs {
    /// Until this change stands (up), or is the newest one that does (down)
    #[arg(long, value_name = "NAME", conflicts_with = "steps")]
    to: Option<String>,
    /// So many changes
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ReachArgs {
    fn reach(&self) -> Reach {
        match (&self.to, self.steps) {
            (Some(name), _) => Reach::To(name.clone()),
            (None, Some(steps)) => Reach::Steps(steps),
            (None, None) => Reach::Default,
        }
    }
}

pub async fn run(args: &MigrateArgs, settings: &Settings) -> Result<(), AdminError> {
    let place = crate::app::schema_place(settings)?;
    let database = &settings.database;
    match &args.command {
        None => {
            let done = Store::schema_up(database, &place.file, &place.lock, &Reach::Default).await;
            told("applied", &done.map_err(failed)?, false);
        }
        Some(MigrateCommand::Up { reach }) => {
            let done = Store::schema_up(database, &place.file, &place.lock, &reach.reach()).await;
            told("applied", &done.map_err(failed)?, reach.json);
        }
        Some(MigrateCommand::Down { yes: false, .. }) => {
            return Err(AdminError::Usage(
                "down deletes what the changes added; say --yes if that is meant".into(),
            ));
        }
        Some(MigrateCommand::Down { reach, yes: true }) => {
            let done = Store::schema_down(database, &place.file, &place.lock, &reach.reach()).await;
            told("taken back", &done.map_err(failed)?, reach.json);
        }
        Some(MigrateCommand::Status { json }) => {
            for change in Store::schema_status(database, &place.file).await.map_err(failed)? {
                shown(&change, *json);
            }
        }
    }
    Ok(())
}

fn told(done: &str, changes: &[String], json: bool) {
    if json {
        render::line(&json!({ "done": done, "changes": changes }).to_string());
    } else if changes.is_empty() {
        render::line("nothing to do");
    } else {
        for change in changes {
            render::line(&format!("{done}  {change}"));
        }
    }
}

fn shown(change: &Change, json: bool) {
    let state = match (change.applied, change.known) {
        (true, true) => "applied",
        (true, false) => "applied by a newer release",
        (false, _) => "pending",
    };
    let kind = if change.is_contracting() { "contract" } else { "expand" };
    if json {
        let line = json!({
            "name": change.name,
            "state": state,
            "kind": kind,
            "reversible": change.is_reversible(),
        });
        render::line(&line.to_string());
    } else {
        render::line(&format!("{:<28}  {kind:<8}  {state}", change.name));
    }
}

fn failed(error: StoreError) -> AdminError {
    match error {
        StoreError::UnknownChange(_) => AdminError::Usage(error.to_string()),
        StoreError::Irreversible { .. } => AdminError::Store(error),
        other => AdminError::Open(AppError::Store(other)),
    }
}
