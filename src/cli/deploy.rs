//! `libra deploy`: sends a folder, follows the six steps, prints the address.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, header};

use super::client::Session;
use super::error::{CliError, Outcome};
use super::follow::{self, Format};
use super::sources::{self, BODY_LIMIT_BYTES, Sources};
use super::wire::{BuildDocument, DeployAnswer, DeployBody};
use super::{projects, render};

/// A request whose answer got lost is sent again under the same idempotency key, so it can't count twice.
const SENDS: u32 = 3;
const RESEND_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct DeployArgs {
    /// Folder with the source
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Deploy to the project with this id
    #[arg(long, value_name = "ID", conflicts_with = "name")]
    pub project: Option<String>,
    /// Deploy to the project of this name, which is made if there is none [default: the folder's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Build a preview on an address of its own; the live version stays
    #[arg(long)]
    pub preview: bool,
    /// A variable for the build; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Serve the project on this domain too, once it is proved to be yours
    #[arg(long)]
    pub domain: Option<String>,
    /// A line about this deployment, for its list
    #[arg(long, short)]
    pub message: Option<String>,
    #[command(flatten)]
    pub build: BuildArgs,
    /// Do not wait for the end; print the deployment's id
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the end; the deployment goes on after it
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub wait_seconds: u64,
    /// Print status documents, one per line
    #[arg(long)]
    pub json: bool,
}

/// What libra.toml can say too; said here it holds for this deployment.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Build, where it is not to be found out")]
pub struct BuildArgs {
    /// The project's folder within DIR, such as apps/web
    #[arg(long, value_name = "FOLDER")]
    pub root: Option<String>,
    /// A framework of docs/frameworks.md; plain builds nothing
    #[arg(long, value_name = "NAME")]
    pub framework: Option<String>,
    /// Instead of the package manager's own install; "" installs nothing
    #[arg(long, value_name = "COMMAND")]
    pub install_command: Option<String>,
    /// Instead of the build script
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Where the build writes
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<String>,
    /// Node's version, such as 22
    #[arg(long, value_name = "VERSION")]
    pub node: Option<String>,
    /// Such as pnpm@10
    #[arg(long, value_name = "MANAGER")]
    pub package_manager: Option<String>,
    /// Forget what earlier builds kept, and build as if for the first time
    #[arg(long)]
    pub no_cache: bool,
}

impl BuildArgs {
    fn document(&self) -> BuildDocument<'_> {
        BuildDocument {
            root_directory: self.root.as_deref(),
            framework: self.framework.as_deref(),
            install_command: self.install_command.as_deref(),
            command: self.command.as_deref(),
            output_directory: self.output.as_deref(),
            node: self.node.as_deref(),
            package_manager: self.package_manager.as_deref(),
            cache: self.no_cache.then_some(false),
        }
    }
}

/// # Errors
/// If the source can't be read or sent, or the server refuses it.
pub async fn run(args: &DeployArgs, session: &Session) -> Result<Outcome, CliError> {
    let (org, user) = session.identity()?;
    let variables = args.env.iter().map(|text| variable(text)).collect::<Result<_, _>>()?;
    let mut sources = sources::read(&args.dir)?;
    for link in &sources.skipped_links {
        render::note(&format!("left out, because it is no regular file: {link}"));
    }
    let project = match &args.project {
        Some(id) => id.clone(),
        None => projects::find_or_create(session, org, &name(args)?).await?.id,
    };
    let files = std::mem::take(&mut sources.files);
    let count = files.len();
    let body = DeployBody {
        project_id: &project,
        org_id: org,
        user_id: user,
        custom_domain: args.domain.as_deref(),
        message: args.message.as_deref(),
        target: if args.preview { "preview" } else { "production" },
        env: variables,
        build: args.build.document(),
        init_files: files,
    };
    let body = encode(&body, &sources)?;
    let (answer, text) = send(session, body).await?;
    let id = answer.deployment_id;
    if args.no_wait {
        render::line(if args.json { &text } else { &id });
        return Ok(Outcome::Done);
    }
    let format = Format::of(args.json);
    if format == Format::Text {
        let files = if count == 1 { "file" } else { "files" };
        render::note(&format!("deployment {id}: {count} {files} sent"));
    }
    follow::follow(session, &id, Duration::from_secs(args.wait_seconds), format).await
}

fn name(args: &DeployArgs) -> Result<String, CliError> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let folder =
        args.dir.canonicalize().map_err(|source| CliError::Read { path: args.dir.clone(), source })?;
    let named = folder.file_name().and_then(|name| Path::new(name).to_str()).map(str::to_owned);
    named.ok_or_else(|| CliError::Usage("this folder's name can't name a project; use --name".to_owned()))
}

fn variable(text: &str) -> Result<(&str, &str), CliError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        // The text is not repeated: it may be a secret whose key was forgotten.
        _ => Err(CliError::Usage("--env wants KEY=VALUE".to_owned())),
    }
}

/// The limit counts for what is sent: escaping and base64 make a source larger than its files.
fn encode(body: &DeployBody<'_>, sources: &Sources) -> Result<bytes::Bytes, CliError> {
    let bytes = serde_json::to_vec(body).expect("strings and maps with string keys always become JSON");
    if bytes.len() as u64 > BODY_LIMIT_BYTES {
        return Err(sources.too_large(bytes.len() as u64));
    }
    Ok(bytes.into())
}

async fn send(session: &Session, body: bytes::Bytes) -> Result<(DeployAnswer, String), CliError> {
    let key = uuid::Uuid::new_v4().simple().to_string();
    let mut sends = 0;
    loop {
        sends += 1;
        let request = session
            .request(Method::POST, "/deploy")
            .header("Idempotency-Key", &key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.clone());
        match session.json(request).await {
            Err(CliError::Unreachable { .. }) if sends < SENDS => tokio::time::sleep(RESEND_PAUSE).await,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_split_at_the_first_equals_sign() {
        assert_eq!(variable("A=b=c").unwrap(), ("A", "b=c"));
        assert_eq!(variable("A=").unwrap(), ("A", ""));
        for text in ["hunter2", "=x"] {
            let error = variable(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn what_is_said_of_the_build_reaches_the_request_and_nothing_else_does() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            deploy: DeployArgs,
        }
        let document = |words: &[&str]| {
            let line = <Line as clap::Parser>::parse_from([&["deploy"], words].concat());
            serde_json::to_value(line.deploy.build.document()).unwrap()
        };
        assert_eq!(document(&["."]), serde_json::json!({}));
        let said = ["--root", "apps/web", "--framework", "vite", "--install-command", "", "--no-cache"];
        let more = ["--command", "make", "--output", "out", "--node", "22", "--package-manager", "pnpm@10"];
        assert_eq!(
            document(&[&said[..], &more].concat()),
            serde_json::json!({
                "rootDirectory": "apps/web", "framework": "vite", "installCommand": "", "cache": false,
                "command": "make", "outputDirectory": "out", "node": "22", "packageManager": "pnpm@10"
            })
        );
    }

    #[test]
    fn the_limit_counts_for_what_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        // Each zero byte is one byte in the file and six in JSON.
        std::fs::write(dir.path().join("zeros.txt"), vec![0; 2 * 1024 * 1024]).unwrap();
        let mut sources = sources::read(dir.path()).unwrap();
        let init_files = std::mem::take(&mut sources.files);
        let body = DeployBody {
            project_id: "p",
            org_id: "o",
            user_id: "u",
            custom_domain: None,
            message: None,
            target: "production",
            env: [("A", "b")].into(),
            build: BuildDocument::default(),
            init_files,
        };
        let error = encode(&body, &sources).unwrap_err();
        assert!(error.to_string().contains("12.1 MiB"), "{error}");
    }
}
