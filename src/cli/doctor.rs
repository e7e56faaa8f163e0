//! `libra doctor`: what is missing or broken on this machine, and how to mend it. Everything is
//! tried for real, and nothing of the server's is made or changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use secrecy::ExposeSecret;
use serde_json::json;

use super::render;
use super::wire::ServerFile;
use crate::app::open_files;
use crate::config::{Environment, Settings};
use crate::domain::cause::chain;
use crate::sandbox::{self, IsolationReport, SandboxPaths};
use crate::store::{Answer, Kind};

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// One thing that was tried.
struct Finding {
    what: &'static str,
    ok: bool,
    said: String,
}

impl Finding {
    fn ok(what: &'static str, said: impl Into<String>) -> Self {
        Self { what, ok: true, said: said.into() }
    }

    /// `said` ends with what to do.
    fn broken(what: &'static str, said: impl Into<String>) -> Self {
        Self { what, ok: false, said: said.into() }
    }
}

/// Less free space than this is worth a word: a build may write as much.
const FREE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

pub async fn run(args: &DoctorArgs, settings: &Settings) -> ExitCode {
    let node = settings.tools_dir.join("node/24");
    let npm = node.join("lib/node_modules/npm/bin/npm-cli.js").display().to_string();
    let mut findings = vec![
        broker(settings),
        program("node for builds", &node.join("bin/node"), &["--version"], INSTALL),
        program("npm for builds", &node.join("bin/node"), &[&npm, "--version"], INSTALL),
        data_dir(settings),
        free_space(settings),
        open_files(settings),
    ];
    findings.push(database(settings).await);
    findings.push(blobs(settings).await);
    findings.push(isolation(settings).await);
    findings.extend(listeners(settings));
    let broken = findings.iter().filter(|f| !f.ok).count();
    for finding in &findings {
        if args.json {
            let shown = json!({ "check": finding.what, "ok": finding.ok, "message": finding.said });
            render::line(&shown.to_string());
        } else {
            let mark = if finding.ok { "ok     " } else { "MISSING" };
            render::line(&format!("{mark}  {:<18}  {}", finding.what, finding.said));
        }
    }
    if !args.json {
        render::line(&match broken {
            0 => "Everything that is needed is here.".to_owned(),
            1 => "One thing is missing or broken: mend it as said above, then run this again.".to_owned(),
            n => format!("{n} things are missing or broken: mend them as said above, then run this again."),
        });
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// What to do where a tool is missing that the installer puts into `tools_dir`.
const INSTALL: &str = "`make install` in Libra's folder puts it there, or set tools_dir to where it is";

fn program(what: &'static str, path: &Path, arguments: &[&str], mend: &str) -> Finding {
    let shown = path.display();
    match std::process::Command::new(path).args(arguments).output() {
        Ok(output) if output.status.success() => {
            Finding::ok(what, String::from_utf8_lossy(&output.stdout).trim())
        }
        Ok(output) => Finding::broken(what, format!("{shown} fails ({}); {mend}", output.status)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Finding::broken(what, format!("{shown} is not there; {mend}"))
        }
        Err(e) => Finding::broken(what, format!("{shown} can't be run ({e}); {mend}")),
    }
}

fn broker(settings: &Settings) -> Finding {
    let what = "nats-server";
    if !settings.nats.is_embedded() {
        return Finding::ok(what, "not needed: nats.url names a broker that runs elsewhere");
    }
    match crate::queue::find_binary(&settings.nats, &settings.tools_dir) {
        Ok(path) => program(what, &path, &["--version"], INSTALL),
        Err(_) if !settings.nats.binary.is_empty() => {
            let said = format!(
                "{} is not there; set nats.binary to a nats-server, or to nothing",
                settings.nats.binary
            );
            Finding::broken(what, said)
        }
        Err(_) => {
            let path = settings.tools_dir.join("nats-server/nats-server");
            Finding::broken(what, format!("{} is not there, nor in PATH; {INSTALL}", path.display()))
        }
    }
}

fn data_dir(settings: &Settings) -> Finding {
    let what = "data_dir";
    let dir = &settings.data_dir;
    // The nearest folder that exists is where the server would make its own.
    let mut nearest = dir.as_path();
    while !nearest.exists() {
        match nearest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => nearest = parent,
            _ => nearest = Path::new("."),
        }
    }
    match rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::ok(what, dir.display().to_string()),
        Err(e) => {
            let said =
                format!("{} can't be written ({e}); mend its rights or set data_dir", nearest.display());
            Finding::broken(what, said)
        }
    }
}

fn free_space(settings: &Settings) -> Finding {
    let what = "free space";
    let dir = if settings.data_dir.exists() { settings.data_dir.as_path() } else { Path::new(".") };
    match rustix::fs::statvfs(dir) {
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let said = format!("{:.1} GiB", free as f64 / f64::from(1 << 30));
            if free >= FREE_BYTES {
                return Finding::ok(what, said);
            }
            Finding::broken(what, format!("{said}; a build may need 4 GiB: free some, or move data_dir"))
        }
        Err(e) => Finding::broken(what, format!("can't be asked ({e}); set data_dir to a local disk")),
    }
}

/// As a server that is started where this runs would find it; a service manager may set another limit.
fn open_files(settings: &Settings) -> Finding {
    let what = "open files";
    let room = open_files::room(open_files::allowed(), settings);
    let all = room.connections.saturating_mul(settings.http.threads());
    match room.lacks(settings) {
        None => Finding::ok(what, format!("{} are allowed", room.files)),
        Some(said) if all < open_files::FEW => Finding::broken(what, said),
        Some(said) => Finding::ok(what, said),
    }
}

async fn database(settings: &Settings) -> Finding {
    let what = "database";
    let file = settings.data_dir.join("database/libra.db");
    let kind = settings.database.kind();
    if settings.database.url.expose_secret().is_empty() && !file.exists() {
        return Finding::ok(what, "none yet; the first start makes it");
    }
    match crate::store::Store::try_existing(&settings.database, &file).await {
        Ok(answer) => answered(what, settings, &answer),
        Err(e) => {
            let mend = match kind {
                Kind::Sqlite => "look at the file's owner and rights, or set database.url",
                Kind::Postgres => "is the server up, and database.url right?",
            };
            Finding::broken(what, format!("{}; {mend}", chain(&e)))
        }
    }
}

/// A database that answers may still not be one that the server can start with.
fn answered(what: &'static str, settings: &Settings, answer: &Answer) -> Finding {
    let tls = match answer.tls {
        Some(true) => ", encrypted",
        Some(false) => ", NOT encrypted",
        None => "",
    };
    let said = format!("answers ({} {}{tls})", answer.kind.as_str(), answer.version);
    match (answer.pending, settings.database.migrate, answer.may_migrate) {
        (0, ..) => Finding::ok(what, said),
        (n, true, true) => {
            Finding::ok(what, format!("{said}; the next start makes {n} change(s) of its schema"))
        }
        (n, true, false) => Finding::broken(
            what,
            format!(
                "{said}; its schema lacks {n} change(s) and this role may not create tables: let one that may run `libra migrate up`"
            ),
        ),
        (n, false, _) => Finding::broken(
            what,
            format!(
                "{said}; its schema lacks {n} change(s) and database.migrate is false: run `libra migrate up`"
            ),
        ),
    }
}

/// A small blob is written, read and removed, beside those of the organizations.
async fn blobs(settings: &Settings) -> Finding {
    let what = "blob store";
    let shown = settings.blobs.shown();
    if !settings.blobs.is_remote() {
        return Finding::ok(what, shown);
    }
    // A client alone makes no folder.
    let tried = async { crate::blobs::Blobs::open(&settings.blobs, Path::new(""))?.probe().await };
    match tried.await {
        Ok(()) => Finding::ok(what, format!("{shown} takes, gives and removes a blob")),
        Err(e) => Finding::broken(what, format!("{shown}: {}", chain(&e))),
    }
}

/// A sandbox is made and used, in a folder of its own: the server's folder may not exist yet, may be
/// another user's, and a server may be at work in it.
async fn isolation(settings: &Settings) -> Finding {
    let what = "isolation";
    let folder = std::env::temp_dir().join(format!("libra-doctor-{}", uuid::Uuid::new_v4().simple()));
    let found = match (std::path::absolute(&settings.tools_dir), std::env::current_exe()) {
        (Ok(tools), Ok(exe)) => {
            let paths = SandboxPaths {
                root: folder.join("sandbox"),
                tools,
                mirror: folder.join("mirror"),
                data_dir: folder.clone(),
                exe,
            };
            match sandbox::provider(&settings.sandbox, paths) {
                Ok(provider) => Ok(provider.report().await),
                Err(e) => Err(chain(&e)),
            }
        }
        (Err(e), _) | (_, Err(e)) => Err(format!("this program or tools_dir can't be found ({e})")),
    };
    // Made by the trial alone; what is left of it is in nobody's way.
    drop(tokio::fs::remove_dir_all(&folder).await);
    match found {
        Ok(report) if report.ok => limits(what, settings, &report),
        Ok(report) => Finding::broken(what, report.missing.join("; ")),
        Err(said) => Finding::broken(what, said),
    }
}

fn limits(what: &'static str, settings: &Settings, report: &IsolationReport) -> Finding {
    let said = match report.host_uid {
        Some(uid) => format!("{}, limits by {}, builds run as uid {uid}", report.provider, report.limiter),
        None => format!("{} answers; builds run there", report.provider),
    };
    match sandbox::check_limiter_for_production(&settings.sandbox, report.limiter) {
        Ok(()) => Finding::ok(what, said),
        Err(refusal) if settings.environment == Environment::Production => Finding::broken(what, refusal),
        Err(_) => Finding::ok(what, format!("{said} (production asks for writable cgroups)")),
    }
}

fn listeners(settings: &Settings) -> Vec<Finding> {
    if let Some(pid) = running_server(&settings.data_dir) {
        return vec![Finding::ok("listeners", format!("a server runs on this data_dir (process {pid})"))];
    }
    let operator = (&settings.http.operator_listen, "http.operator_listen");
    let front = settings.http.listen.iter().map(|address| (address, "http.listen"));
    let secure = settings.tls.listen.iter().map(|address| (address, "tls.listen"));
    front
        .chain(secure)
        .chain([operator])
        .map(|(address, key)| match std::net::TcpListener::bind(address) {
            Ok(_) => Finding::ok("listener", format!("{address} is free")),
            Err(e) => Finding::broken(
                "listener",
                format!("{address} can't be had ({e}); stop what listens there, or set {key}"),
            ),
        })
        .collect()
}

/// The process that `server.json` names. One that was killed leaves the file, and its number may be
/// another program's by now.
fn running_server(data_dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data_dir.join("server.json")).ok()?;
    let pid = serde_json::from_str::<ServerFile>(&text).ok()?.pid?;
    let name = std::fs::read_to_string(PathBuf::from("/proc").join(pid.to_string()).join("comm")).ok()?;
    (name.trim() == "libra").then_some(pid)
}
