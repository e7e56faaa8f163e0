//! Step 4: install, build, collect, pack. Success is the exit code *and* an output that exists; no
//! output text decides whether a build succeeded. The result is in the blob store, so that a new
//! attempt, here or elsewhere, can reuse it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::dependencies::{self, Tools};
use super::detect::{BuildPlan, Install};
use super::log::BuildLog;
use super::mask::Masker;
use super::sandbox::{Held, NODE_MAJOR, Work};
use super::step::{Done, StepError};
use super::sync::Source;
use super::{Walk, output};
use crate::control::ControlError;
use crate::domain::{Digest, Step};
use crate::sandbox::{CollectLimits, ExecEnd, ExecOrder, Sandbox, SandboxError};

pub const STEP: Step = Step::Build;
/// Chunks of output waiting to be written; the command is slowed down beyond that.
const OUTPUT_CHUNKS: usize = 64;
/// npm's own line for «the lockfile does not fit package.json»; what does not fit is listed after it.
const NPM_LOCK_MISFIT: &str = "npm error code EUSAGE";

/// What a build leaves: two blobs of the organization.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Built {
    pub manifest: Digest,
    pub pack: Digest,
    pub pack_size: u64,
    pub file_count: u64,
}

pub async fn run(
    walk: &Walk<'_>,
    source: &Source,
    work: Work,
    held: &mut Held,
) -> Result<Done<Built>, StepError> {
    let settings = &walk.control().settings.pipeline;
    let env = walk.control().open_env(walk.row).map_err(|e| StepError::control(STEP, e))?;
    let masker = Masker::new(env.values().map(String::as_str));
    let mut log = BuildLog::open(&walk.control().store, walk.row, settings, masker).await.map_err(store)?;
    let (built, line) = match work {
        Work::Reuse(built) => {
            log.say("libra: the output of an earlier attempt is reused").await.map_err(store)?;
            (built, "Build reused from an earlier attempt")
        }
        Work::Files { directory, sign } => {
            log.say(&format!("libra: {sign}; the files are the site")).await.map_err(store)?;
            (output::pack_tree(walk, &source.tree, &directory).await?, "Files collected: nothing to build")
        }
        Work::Build(plan) => {
            let Some(sandbox) = held.0.as_mut() else {
                return Err(StepError::platform(STEP, "The sandbox is gone.", "no sandbox is held"));
            };
            let env = env.into_iter().collect();
            let mut bench = Bench { walk, source, sandbox, log: &mut log, env };
            let collected = bench.build(&plan).await?;
            (output::pack_folder(walk, collected.folder, collected.files).await?, "Build finished")
        }
    };
    let files = format!("libra: {} files, {} bytes packed", built.file_count, built.pack_size);
    log.say(&files).await.map_err(store)?;
    let result = built.clone();
    Ok(Done::completed(built, line).with_result(&result))
}

/// Files that left the sandbox.
struct Collected {
    folder: PathBuf,
    files: Vec<String>,
}

/// One build: the sandbox, its log, and the variables it gets.
pub(super) struct Bench<'a, 'w, 's> {
    pub(super) walk: &'a Walk<'w>,
    source: &'a Source,
    pub(super) sandbox: &'a mut Box<dyn Sandbox>,
    log: &'a mut BuildLog<'s>,
    pub(super) env: Vec<(String, String)>,
}

impl Bench<'_, '_, '_> {
    async fn build(&mut self, plan: &BuildPlan) -> Result<Collected, StepError> {
        self.say(&format!("libra: {}", plan.sign)).await?;
        self.install(plan).await?;
        self.take_framework_caches(plan).await?;
        let code = self.command(plan, &plan.build).await?;
        if code != 0 {
            let summary = format!("The build command failed with exit code {code}.");
            return Err(self.failed(summary, "Read the build log; run the same command on your machine."));
        }
        let collected = self.collect(plan).await?;
        self.keep_framework_caches(plan).await?;
        Ok(collected)
    }

    async fn install(&mut self, plan: &BuildPlan) -> Result<(), StepError> {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let tools = Tools { manager: "npm", node: &NODE_MAJOR.to_string() };
        let locked = words(&["npm", "ci"]);
        let installation =
            dependencies::installation(self.walk, self.source, plan, tools, locked, &self.env).await?;
        let code = match &plan.install {
            Install::Nothing => {
                self.say("libra: no dependencies to install").await?;
                return Ok(());
            }
            _ if let Some(code) = self.restore(plan, &installation).await? => code,
            Install::Command(argv) => self.command(plan, argv).await?,
            Install::Unlocked => {
                self.say("libra: no lockfile: versions are chosen anew by npm install").await?;
                self.command(plan, &words(&["npm", "install"])).await?
            }
            Install::Locked => {
                self.log.watch_for(NPM_LOCK_MISFIT);
                let code = self.install_locked(plan, &installation).await?;
                // Which way to install is npm's to say by its code; whether it worked is the exit code's.
                if code != 0 && self.log.saw() {
                    self.say("libra: the lockfile does not fit package.json; falling back to npm install")
                        .await?;
                    self.command(plan, &words(&["npm", "install"])).await?
                } else {
                    code
                }
            }
        };
        if code == 0 {
            return Ok(());
        }
        let summary = format!("Installing the dependencies failed with exit code {code}.");
        Err(self.failed(summary, "Check package.json and the lockfile; the build log has npm's own words."))
    }

    /// Runs one command to its end and answers its exit code.
    pub(super) async fn command(&mut self, plan: &BuildPlan, argv: &[String]) -> Result<i32, StepError> {
        self.say(&format!("$ {}", argv.join(" "))).await?;
        let (sender, receiver) = mpsc::channel(OUTPUT_CHUNKS);
        let order = ExecOrder {
            argv: argv.to_vec(),
            env: self.env.clone(),
            directory: plan.directory.clone(),
            wall: None,
            network: true,
        };
        let running = self.sandbox.exec(order, sender, self.walk.cancel.clone());
        let (outcome, drained) = tokio::join!(running, self.log.drain(receiver));
        drained.map_err(store)?;
        let outcome = outcome.map_err(|e| self.refused(e))?;
        tracing::info!(
            deployment.id = %self.walk.row.id,
            command = %argv.first().map_or("", String::as_str),
            wall_ms = outcome.wall.as_millis(),
            cpu_ms = outcome.cpu.as_millis(),
            memory_peak_bytes = outcome.memory_peak_bytes,
            "command ended"
        );
        if outcome.process_limit_hits > 0 {
            // The build may live on without them, or fail in words that name anything but the reason.
            let hits = outcome.process_limit_hits;
            self.say(&format!("libra: the process limit refused new processes {hits} times")).await?;
        }
        match outcome.end {
            ExecEnd::Exited(code) => Ok(code),
            ExecEnd::Cancelled => Err(super::run::CANCELLED),
            ExecEnd::Killed(limit) => {
                let summary = limit.to_string();
                self.say(&format!("libra: {summary}")).await?;
                Err(self.failed(summary, "Make the build need less, or ask for a higher limit."))
            }
        }
    }

    async fn collect(&mut self, plan: &BuildPlan) -> Result<Collected, StepError> {
        let settings = &self.walk.control().settings.pipeline;
        let limits = CollectLimits {
            files: settings.output_files,
            total_bytes: settings.output_bytes,
            file_bytes: settings.output_file_bytes,
        };
        let mut unusable = None;
        for candidate in &plan.outputs {
            let directory = match (plan.directory.as_str(), candidate.as_str()) {
                ("", c) => c.to_owned(),
                (d, "") => d.to_owned(),
                (d, c) => format!("{d}/{c}"),
            };
            let folder = self.walk.scratch().join("output");
            tokio::fs::create_dir_all(self.walk.scratch()).await.map_err(output::local)?;
            let files = match self.sandbox.collect(&directory, &folder, limits).await {
                Ok(files) => files,
                Err(SandboxError::NotFound { .. }) => continue,
                // A guessed name may be a script or a link of the project's own; the next may be right.
                Err(e @ SandboxError::NotAFolder { .. }) => {
                    unusable = unusable.or(Some(e));
                    continue;
                }
                Err(e) => return Err(self.refused(e)),
            };
            self.name_skipped().await?;
            if files.is_empty() {
                continue;
            }
            self.say(&format!("libra: output found in {candidate}/")).await?;
            return Ok(Collected { folder, files: files.into_iter().map(|f| f.path).collect() });
        }
        if let Some(error) = unusable {
            return Err(self.refused(error));
        }
        let looked = plan.outputs.join(", ");
        Err(StepError::user(
            STEP,
            "The build produced no output.",
            "Set build.outputDirectory to the folder that the build writes.",
        )
        .with_evidence(format!("looked for: {looked}")))
    }

    /// A site with files missing must not be a riddle.
    async fn name_skipped(&mut self) -> Result<(), StepError> {
        let skipped: Vec<String> = self
            .sandbox
            .skipped()
            .iter()
            .map(|entry| {
                format!("libra: left out, because it is no regular file: {} ({})", entry.path, entry.kind)
            })
            .collect();
        for line in skipped {
            self.say(&line).await?;
        }
        Ok(())
    }

    /// What the sandbox would not do: the project's fault, or the platform's.
    pub(super) fn refused(&self, error: SandboxError) -> StepError {
        if !error.is_user_fault() {
            return StepError::platform(STEP, "The sandbox failed.", error);
        }
        let evidence = self.log.mask(&super::verdict::chain(&error));
        let (summary, hint) = match error {
            SandboxError::DirectoryMissing { .. } => (
                "The folder to build in does not exist.",
                "Set build.rootDirectory to a folder of the project.",
            ),
            _ => (
                "The build's output can't be taken.",
                "Write plain files only, within the limits, into the output folder.",
            ),
        };
        StepError::user(STEP, summary, hint).with_evidence(evidence)
    }

    fn failed(&self, summary: String, hint: &str) -> StepError {
        StepError::user(STEP, summary, hint).with_evidence(self.log.evidence())
    }

    pub(super) async fn say(&mut self, line: &str) -> Result<(), StepError> {
        self.log.say(line).await.map_err(store)
    }
}

fn store(error: crate::store::StoreError) -> StepError {
    StepError::control(STEP, ControlError::Store(error))
}
