//! `libra doctor`: what is missing or broken on this machine, and how to mend it. Everything is
//! tried for real; nothing is left behind that was not there before.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::render;
use crate::config::Settings;
use crate::sandbox;

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

/// Less free space than this is worth a word: a build may write as much.
const FREE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

pub async fn run(args: &DoctorArgs, settings: &Settings) -> ExitCode {
    let mut findings = vec![
        program(
            "nats-server",
            &settings.tools_dir.join("nats-server/nats-server"),
            &["--version"],
            &settings.nats.binary,
        ),
        program("node for builds", &settings.tools_dir.join("node/24/bin/node"), &["--version"], ""),
        npm(settings),
        data_dir(settings),
        free_space(settings),
    ];
    findings.push(database(settings).await);
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
    if broken == 0 {
        if !args.json {
            render::line("Everything that is needed is here.");
        }
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

fn program(what: &'static str, installed: &Path, arguments: &[&str], setting: &str) -> Finding {
    let path = if setting.is_empty() { installed.to_path_buf() } else { setting.into() };
    let ran = std::process::Command::new(&path).args(arguments).output();
    match ran {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Finding { what, ok: true, said: version }
        }
        Ok(output) => Finding {
            what,
            ok: false,
            said: format!("{} fails ({}); run scripts/install", path.display(), output.status),
        },
        Err(e) => Finding {
            what,
            ok: false,
            said: format!("{} can't be run ({e}); run scripts/install", path.display()),
        },
    }
}

fn npm(settings: &Settings) -> Finding {
    let node = settings.tools_dir.join("node/24");
    let cli = node.join("lib/node_modules/npm/bin/npm-cli.js");
    let path = cli.to_string_lossy().into_owned();
    program("npm for builds", &node.join("bin/node"), &[&path, "--version"], "")
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
        Ok(()) => Finding { what, ok: true, said: dir.display().to_string() },
        Err(e) => Finding {
            what,
            ok: false,
            said: format!("{} can't be written ({e}); set data_dir", nearest.display()),
        },
    }
}

fn free_space(settings: &Settings) -> Finding {
    let what = "free space";
    let dir = if settings.data_dir.exists() { settings.data_dir.as_path() } else { Path::new(".") };
    match rustix::fs::statvfs(dir) {
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let said = format!("{:.1} GiB", free as f64 / f64::from(1 << 30));
            let ok = free >= FREE_BYTES;
            let said = if ok {
                said
            } else {
                format!("{said}; a build may need 4 GiB: free some, or move data_dir")
            };
            Finding { what, ok, said }
        }
        Err(e) => Finding { what, ok: false, said: format!("can't be asked ({e})") },
    }
}

async fn database(settings: &Settings) -> Finding {
    let what = "database";
    let file = settings.data_dir.join("database/libra.db");
    if settings.database.url.is_empty() && !file.exists() {
        return Finding { what, ok: true, said: "none yet; the first start makes it".into() };
    }
    match crate::app::open_store_of(settings).await {
        Ok(store) => match store.probe().await {
            Ok(()) => Finding { what, ok: true, said: "answers".into() },
            Err(e) => Finding { what, ok: false, said: super::admin::chain(&e) },
        },
        Err(e) => Finding { what, ok: false, said: super::admin::chain(&e) },
    }
}

async fn isolation(settings: &Settings) -> Finding {
    let what = "isolation";
    // Without a data folder the trial gets one of its own, so that none appears.
    let mut settings = settings.clone();
    let trial = (!settings.data_dir.exists())
        .then(|| std::env::temp_dir().join(format!("libra-doctor-{}", crate::domain::id::random())));
    if let Some(trial) = &trial {
        settings.data_dir.clone_from(trial);
    }
    let finding = isolation_beneath(what, &settings).await;
    if let Some(trial) = &trial {
        drop(std::fs::remove_dir_all(trial));
    }
    finding
}

async fn isolation_beneath(what: &'static str, settings: &Settings) -> Finding {
    let paths = match crate::app::sandbox_paths_of(settings) {
        Ok(paths) => paths,
        Err(e) => return Finding { what, ok: false, said: super::admin::chain(&e) },
    };
    match sandbox::provider(&settings.sandbox, paths) {
        Ok(provider) => {
            let report = provider.report().await;
            let said = if report.ok {
                format!(
                    "{}, limits by {}, builds run as uid {}",
                    report.provider, report.limiter, report.host_uid
                )
            } else {
                report.missing.join("; ")
            };
            Finding { what, ok: report.ok, said }
        }
        Err(e) => Finding { what, ok: false, said: super::admin::chain(&e) },
    }
}

/// Whether the server of `server.json` lives: a killed one leaves its file behind.
fn server_runs(settings: &Settings) -> bool {
    let name_of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let file = std::fs::read(settings.data_dir.join("server.json")).ok();
    let document = file.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    let pid = document.and_then(|d| d["pid"].as_u64());
    pid.and_then(|pid| name_of(&pid.to_string())).is_some_and(|name| Some(name) == name_of("self"))
}

fn listeners(settings: &Settings) -> Vec<Finding> {
    if server_runs(settings) {
        return vec![Finding { what: "listeners", ok: true, said: "a server runs on this data_dir".into() }];
    }
    settings
        .http
        .listen
        .iter()
        .chain(std::iter::once(&settings.http.operator_listen))
        .map(|address| match std::net::TcpListener::bind(address) {
            Ok(_) => Finding { what: "listener", ok: true, said: format!("{address} is free") },
            Err(e) => Finding {
                what: "listener",
                ok: false,
                said: format!("{address} can't be had ({e}); stop what listens there, or set http.listen"),
            },
        })
        .collect()
}
