//! Step 4: install, build, collect, pack. Success is the exit code *and* an output that exists; no
//! output text decides whether a build succeeded. The result is in the blob store, so that a new
//! attempt, here or elsewhere, can reuse it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::collect::Collected;
use super::dependencies;
use super::detect::{BuildPlan, Install};
use super::diagnose::{self, Failure, Phase};
use super::log::BuildLog;
use super::manager::{Commands, user_line};
use super::mask::Masker;
use super::sandbox::{Held, Work};
use super::step::{Done, StepError};
use super::sync::Source;
use super::tools::Job;
use super::{Walk, output};
use crate::control::ControlError;
use crate::domain::{Digest, Step};
use crate::sandbox::{ExecEnd, ExecOrder, Sandbox, SandboxError};
use crate::toolchain::Manager;

pub const STEP: Step = Step::Build;
/// Chunks of output waiting to be written; the command is slowed down beyond that.
const OUTPUT_CHUNKS: usize = 64;

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
    let done = built(walk, source, work, held, &mut log, env).await;
    // Also of a build that failed: its log is what tells why.
    log.flush().await.map_err(store)?;
    done
}

async fn built(
    walk: &Walk<'_>,
    source: &Source,
    work: Work,
    held: &mut Held,
    log: &mut BuildLog<'_>,
    env: BTreeMap<String, String>,
) -> Result<Done<Built>, StepError> {
    let (built, line) = match work {
        Work::Reuse(built) => {
            log.say("libra: the output of an earlier attempt is reused");
            (built, "Build reused from an earlier attempt")
        }
        Work::Files { directory, sign } => {
            log.say(&format!("libra: {sign}; the files are the site"));
            let stored = output::pack_tree(walk, &source.tree, &directory).await?;
            (noted(log, stored), "Files collected: nothing to build")
        }
        Work::Build(job) => {
            let Some(sandbox) = held.0.as_mut() else {
                return Err(StepError::platform(STEP, "The sandbox is gone.", "no sandbox is held"));
            };
            // A tenant's variable of the same name comes later and wins.
            let mut all = match job.tools {
                Some(_) => Commands { choice: &job.choice }.environment(),
                // It names places in the sandboxes of this host.
                None => Vec::new(),
            };
            all.extend(env);
            let forget = super::plan::overrides(walk, STEP)?.cache == Some(false);
            let mut bench = Bench { walk, source, sandbox, log, env: all, forget };
            let collected = bench.build(&job).await?;
            let stored = output::pack_folder(walk, collected.folder, collected.files).await?;
            (noted(log, stored), "Build finished")
        }
    };
    let files = format!("libra: {} files, {} bytes packed", built.file_count, built.pack_size);
    log.say(&files);
    let result = built.clone();
    Ok(Done::completed(built, line).with_result(&result))
}

fn noted(log: &mut BuildLog<'_>, stored: output::Stored) -> Built {
    for note in &stored.notes {
        log.say(note);
    }
    stored.built
}

/// One build: the sandbox, its log, and the variables it gets.
pub(super) struct Bench<'a, 'w, 's> {
    pub(super) walk: &'a Walk<'w>,
    pub(super) source: &'a Source,
    pub(super) sandbox: &'a mut Box<dyn Sandbox>,
    pub(super) log: &'a mut BuildLog<'s>,
    pub(super) env: Vec<(String, String)>,
    /// Whether what earlier builds kept is left out.
    pub(super) forget: bool,
}

impl Bench<'_, '_, '_> {
    async fn build(&mut self, job: &Job) -> Result<Collected, StepError> {
        let plan = &job.plan;
        self.say(&format!("libra: {}", plan.sign));
        for note in &job.choice.notes {
            self.say(&format!("libra: {note}"));
        }
        self.install(job).await?;
        self.take_framework_caches(plan).await;
        let build = Commands { choice: &job.choice }.build(&plan.build);
        let code = self.managed(job, &plan.directory, &build).await?;
        if code != 0 {
            let summary = format!("The build command failed with exit code {code}.");
            let hint = "Read the build log; run the same command on your machine.";
            return Err(self.diagnosed(Phase::Build, plan, summary, hint));
        }
        let collected = self.collect(plan).await?;
        self.keep_framework_caches(plan).await;
        Ok(collected)
    }

    async fn install(&mut self, job: &Job) -> Result<(), StepError> {
        let choice = &job.choice;
        let (commands, folder, manager) = (Commands { choice }, &choice.workspace, choice.manager);
        let locked = match job.tools {
            Some(_) => commands.install_locked(),
            None => commands.fetched(&commands.install_locked()),
        };
        let installation = dependencies::installation(self.walk, self.source, job, locked, &self.env).await?;
        let code = match &job.plan.install {
            Install::Skipped => {
                self.say("libra: nothing is installed, as the project says");
                return Ok(());
            }
            // Yarn 2 and later runs nothing in a project that it did not install.
            Install::Nothing if manager != Manager::YarnBerry => {
                self.say("libra: no dependencies to install");
                return Ok(());
            }
            _ if let Some(code) = self.restore(folder, &installation).await? => code,
            Install::Command(line) => self.command(&job.plan.directory, &user_line(line)).await?,
            Install::Nothing | Install::Detected if choice.lockfile.is_none() => {
                self.say(&format!("libra: no lockfile: versions are chosen anew by {manager} install"));
                self.managed(job, folder, &commands.install_unlocked()).await?
            }
            Install::Nothing | Install::Detected => {
                self.log.watch_for(commands.misfit());
                let code = self.install_locked(folder, &installation).await?;
                // Which way to install is the manager's to say by its own word; whether it worked is the
                // exit code's.
                if code != 0 && self.log.saw() {
                    self.say(&format!(
                        "libra: the lockfile does not fit package.json; falling back to {manager} install"
                    ));
                    let code = self.managed(job, folder, &commands.install_unlocked()).await?;
                    if code == 0 {
                        self.keep_misfit(&installation).await?;
                    }
                    code
                } else {
                    code
                }
            }
        };
        if code == 0 {
            return Ok(());
        }
        let summary = format!("Installing the dependencies failed with exit code {code}.");
        let hint = "Check package.json and the lockfile; the build log has the package manager's own words.";
        Err(self.diagnosed(Phase::Install, &job.plan, summary, hint))
    }

    /// A command of the package manager, which may have to be fetched first.
    async fn managed(&mut self, job: &Job, directory: &str, argv: &[String]) -> Result<i32, StepError> {
        match job.tools {
            Some(_) => self.command(directory, argv).await,
            None => self.command(directory, &Commands { choice: &job.choice }.fetched(argv)).await,
        }
    }

    /// Runs one command to its end and answers its exit code.
    pub(super) async fn command(&mut self, directory: &str, argv: &[String]) -> Result<i32, StepError> {
        self.log.begin_command();
        self.say(&format!("$ {}", argv.join(" ")));
        let (sender, receiver) = mpsc::channel(OUTPUT_CHUNKS);
        let order = ExecOrder {
            argv: argv.to_vec(),
            env: self.env.clone(),
            directory: directory.to_owned(),
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
        for note in self.sandbox.take_notes() {
            self.say(&format!("libra: {note}"));
        }
        if outcome.process_limit_hits > 0 {
            // The build may live on without them, or fail in words that name anything but the reason.
            let hits = outcome.process_limit_hits;
            self.say(&format!("libra: the process limit refused new processes {hits} times"));
        }
        match outcome.end {
            ExecEnd::Exited(code) => Ok(code),
            ExecEnd::Cancelled => Err(super::run::CANCELLED),
            ExecEnd::Killed(limit) => {
                let summary = limit.to_string();
                self.say(&format!("libra: {summary}"));
                Err(self.failed(summary, diagnose::limit_hint(&limit)))
            }
        }
    }

    /// What the sandbox would not do: the project's fault, or the platform's.
    pub(super) fn refused(&self, error: SandboxError) -> StepError {
        if !error.is_user_fault() {
            return StepError::platform(STEP, "The sandbox failed.", error);
        }
        let evidence = self.log.mask(&crate::domain::cause::chain(&error));
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

    /// Why a command failed, as far as its output proves it; else `summary` and the end of the log.
    fn diagnosed(&self, phase: Phase, plan: &BuildPlan, summary: String, hint: &str) -> StepError {
        let detected_install = plan.install == Install::Detected;
        let files = self.source.tree.files.keys().map(String::as_str);
        let failure = Failure { phase, detected_install, log: self.log.tail(), files };
        match diagnose::diagnose(&failure) {
            Some(cause) => StepError::Failed { cause, source: None },
            None => self.failed(summary, hint),
        }
    }

    fn failed(&self, summary: String, hint: &str) -> StepError {
        StepError::user(STEP, summary, hint).with_evidence(self.log.evidence())
    }

    pub(super) fn say(&mut self, line: &str) {
        self.log.say(line);
    }
}

fn store(error: crate::store::StoreError) -> StepError {
    StepError::control(STEP, ControlError::Store(error))
}
