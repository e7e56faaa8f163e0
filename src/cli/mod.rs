//! The command line: one file per command.
//!
//! Client commands talk to a server as its users do, through the public API, with a credential;
//! `orgs`, `users`, `tokens` and `migrate` work on the database; `internal` is not for people.

mod admin;
mod bench_fill;
mod bench_hosts;
pub mod cancel;
pub mod certificates;
pub mod config;
pub mod deploy;
pub mod dlq;
pub mod doctor;
pub mod domains;
pub mod live;
pub mod logs;
pub mod migrate;
pub mod orgs;
pub mod projects;
pub mod routes;
pub mod serve;
mod settings;
pub mod status;
pub mod tokens;
pub mod users;
pub mod workers;

mod client;
mod error;
mod events;
mod follow;
mod internal;
mod render;
mod sources;
mod wire;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use client::{Session, SessionArgs};
pub use error::{CliError, Outcome, finish};
pub use settings::SettingsArgs;

#[derive(Debug, Parser)]
#[command(
    name = "libra",
    version,
    about = "From source to a live address, and the front door that serves it"
)]
struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve,
    /// Deploy a folder and follow it to its live address
    Deploy(Box<deploy::DeployArgs>),
    /// Show where a deployment stands
    Status(status::StatusArgs),
    /// Show a deployment's build log
    Logs(logs::LogsArgs),
    /// Ask for a deployment's end
    Cancel(cancel::CancelArgs),
    /// List the versions of a project that are kept
    Versions(live::VersionsArgs),
    /// Put an earlier version live again, at once
    Rollback(live::RollbackArgs),
    /// Put any kept version live, a preview's too
    Promote(live::PromoteArgs),
    /// Give a part of the clients another version, or end that
    Split(live::SplitArgs),
    /// List Workers, and register the origins of one
    Workers(workers::WorkersArgs),
    /// Say why an address leads where it leads
    Route(routes::RouteArgs),
    /// Make and list projects
    Projects(projects::ProjectsArgs),
    /// Add, prove, list and remove custom domains
    Domains(domains::DomainsArgs),
    /// Show how the custom domains' certificates stand
    Certificates(certificates::CertificatesArgs),
    /// Look at what nobody tries again by itself, drive it anew, or bury it
    Dlq(dlq::DlqArgs),
    /// Make and list organizations (on the database)
    Orgs(orgs::OrgsArgs),
    /// Make and list users (on the database)
    Users(users::UsersArgs),
    /// Make, list and revoke tokens (on the database)
    Tokens(tokens::TokensArgs),
    /// Bring the database's schema up or down, or show how it stands (on the database)
    Migrate(migrate::MigrateArgs),
    /// Check or show the settings
    Config(config::ConfigArgs),
    /// Say what is missing or broken on this machine, and how to mend it
    Doctor(doctor::DoctorArgs),
}

/// Runs the program with these arguments.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    // Before anything else: what runs beside or inside a sandbox must start nothing.
    if arguments.get(1).is_some_and(|a| a == "internal") {
        return internal::main(arguments.into_iter().skip(2).collect());
    }
    // Two TLS providers in one program make rustls ask which; there is one, and this is it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // clap's own exit would skip destructors; nothing is open yet, but the rule has no exceptions.
            drop(e.print());
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let loaded = match cli.settings.load() {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            render::note(&format!("error: {mistakes}"));
            return ExitCode::from(64);
        }
    };
    if let Command::Serve = cli.command {
        return serve::run(loaded);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            render::note(&format!("error: the program can't run here: {e}"));
            return ExitCode::from(70);
        }
    };
    runtime.block_on(Box::pin(run(cli.command, &cli.session, &loaded)))
}

async fn run(command: Command, session: &SessionArgs, loaded: &crate::config::Loaded) -> ExitCode {
    let settings = &loaded.settings;
    let open = || Session::open(session, &settings.data_dir);
    match command {
        Command::Serve => ExitCode::SUCCESS,
        Command::Deploy(args) => {
            finish(with(open(), |s| Box::pin(async move { deploy::run(&args, &s).await })).await)
        }
        Command::Status(args) => {
            finish(with(open(), |s| Box::pin(async move { status::run(&args, &s).await })).await)
        }
        Command::Logs(args) => {
            finish(with(open(), |s| Box::pin(async move { logs::run(&args, &s).await })).await)
        }
        Command::Cancel(args) => {
            finish(with(open(), |s| Box::pin(async move { cancel::run(&args, &s).await })).await)
        }
        Command::Versions(args) => {
            finish(with(open(), |s| Box::pin(async move { live::versions(&args, &s).await })).await)
        }
        Command::Rollback(args) => {
            finish(with(open(), |s| Box::pin(async move { live::rollback(&args, &s).await })).await)
        }
        Command::Promote(args) => {
            finish(with(open(), |s| Box::pin(async move { live::promote(&args, &s).await })).await)
        }
        Command::Split(args) => {
            finish(with(open(), |s| Box::pin(async move { live::split(&args, &s).await })).await)
        }
        Command::Workers(args) => {
            finish(with(open(), |s| Box::pin(async move { workers::run(&args, &s).await })).await)
        }
        Command::Route(args) => {
            finish(with(open(), |s| Box::pin(async move { routes::run(&args, &s).await })).await)
        }
        Command::Projects(args) => {
            finish(with(open(), |s| Box::pin(async move { projects::run(&args, &s).await })).await)
        }
        Command::Domains(args) => {
            finish(with(open(), |s| Box::pin(async move { domains::run(&args, &s).await })).await)
        }
        Command::Certificates(args) => {
            finish(with(open(), |s| Box::pin(async move { certificates::run(&args, &s).await })).await)
        }
        Command::Dlq(args) => {
            finish(with(open(), |s| Box::pin(async move { dlq::run(&args, &s).await })).await)
        }
        Command::Orgs(args) => admin::finish(orgs::run(&args, settings).await),
        Command::Users(args) => admin::finish(users::run(&args, settings).await),
        Command::Tokens(args) => admin::finish(tokens::run(&args, settings).await),
        Command::Migrate(args) => admin::finish(migrate::run(&args, settings).await),
        Command::Config(args) => config::run(&args, loaded),
        Command::Doctor(args) => doctor::run(&args, settings).await,
    }
}

type Running = std::pin::Pin<Box<dyn Future<Output = Result<Outcome, CliError>>>>;

async fn with(
    session: Result<Session, CliError>,
    command: impl FnOnce(Session) -> Running,
) -> Result<Outcome, CliError> {
    command(session?).await
}
