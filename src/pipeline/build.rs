//! Step 4: install, build, collect, pack. Success is the exit code *and* an output that exists; no
//! output text decides whether a build succeeded. The result is in the blob store, so that a new
//! attempt, here or elsewhere, can reuse it.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::collect::Collected;
use super::detect::{self, BuildCommand, BuildPlan, Install};
use super::diagnose::{self, Failure, Phase};
use super::log::BuildLog;
use super::mask::Masker;
use super::sandbox::{Held, Work};
use super::step::{Done, StepError};
use super::sync::Source;
use super::{Walk, output};
use crate::control::ControlError;
use crate::domain::source::SourceTree;
use crate::domain::{Digest, Step};
use crate::sandbox::{ExecEnd, ExecOrder, Sandbox, SandboxError};

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
            let mut bench = Bench { walk, tree: &source.tree, sandbox, log: &mut log, env };
            let collected = bench.build(&plan).await?;
            (output::pack_folder(walk, collected.folder, collected.files).await?, "Build finished")
        }
    };
    let files = format!("libra: {} files, {} bytes packed", built.file_count, built.pack_size);
    log.say(&files).await.map_err(store)?;
    let result = built.clone();
    Ok(Done::completed(built, line).with_result(&result))
}

/// One build: the sandbox, its log, and the variables it gets.
pub(super) struct Bench<'a, 'w, 's> {
    pub walk: &'a Walk<'w>,
    pub tree: &'a SourceTree,
    pub sandbox: &'a mut Box<dyn Sandbox>,
    pub log: &'a mut BuildLog<'s>,
    env: Vec<(String, String)>,
}

impl Bench<'_, '_, '_> {
    async fn build(&mut self, plan: &BuildPlan) -> Result<Collected, StepError> {
        self.say(&format!("libra: {}", plan.sign)).await?;
        self.install(plan).await?;
        let code = self.command(&plan.directory, &npm_build(&plan.build)).await?;
        if code != 0 {
            let summary = format!("The build command failed with exit code {code}.");
            let hint = "Read the build log; run the same command on your machine.";
            return Err(self.diagnosed(Phase::Build, plan, summary, hint));
        }
        self.collect(plan).await
    }

    async fn install(&mut self, plan: &BuildPlan) -> Result<(), StepError> {
        let root = plan.root.as_str();
        let code = match &plan.install {
            Install::Nothing => {
                self.say("libra: no dependencies to install").await?;
                return Ok(());
            }
            Install::Command(line) => self.command(root, &words(&["npm", "exec", "--call", line])).await?,
            Install::Detected if !self.npm_lockfile(root) => {
                self.say("libra: no lockfile: versions are chosen anew by npm install").await?;
                self.command(root, &words(&["npm", "install"])).await?
            }
            Install::Detected => {
                self.log.watch_for(NPM_LOCK_MISFIT);
                let code = self.command(root, &words(&["npm", "ci"])).await?;
                // Which way to install is npm's to say by its code; whether it worked is the exit code's.
                if code != 0 && self.log.saw() {
                    self.say("libra: the lockfile does not fit package.json; falling back to npm install")
                        .await?;
                    self.command(root, &words(&["npm", "install"])).await?
                } else {
                    code
                }
            }
        };
        if code == 0 {
            return Ok(());
        }
        let summary = format!("Installing the dependencies failed with exit code {code}.");
        let hint = "Check package.json and the lockfile; the build log has npm's own words.";
        Err(self.diagnosed(Phase::Install, plan, summary, hint))
    }

    fn npm_lockfile(&self, root: &str) -> bool {
        let names = ["package-lock.json", "npm-shrinkwrap.json"];
        names.iter().any(|name| self.tree.files.contains_key(&detect::join(root, name)))
    }

    /// Runs one command to its end and answers its exit code.
    async fn command(&mut self, directory: &str, argv: &[String]) -> Result<i32, StepError> {
        self.log.begin_command();
        self.say(&format!("$ {}", argv.join(" "))).await?;
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
            self.say(&format!("libra: {note}")).await?;
        }
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
                Err(self.failed(summary, diagnose::limit_hint(&limit)))
            }
        }
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

    /// Why a command failed, as far as its output proves it; else `summary` and the end of the log.
    fn diagnosed(&self, phase: Phase, plan: &BuildPlan, summary: String, hint: &str) -> StepError {
        let detected_install = plan.install == Install::Detected;
        let files = self.tree.files.keys().map(String::as_str);
        let failure = Failure { phase, detected_install, log: self.log.tail(), files };
        match diagnose::diagnose(&failure) {
            Some(cause) => StepError::Failed { cause, source: None },
            None => self.failed(summary, hint),
        }
    }

    fn failed(&self, summary: String, hint: &str) -> StepError {
        StepError::user(STEP, summary, hint).with_evidence(self.log.evidence())
    }

    pub(super) async fn say(&mut self, line: &str) -> Result<(), StepError> {
        self.log.say(line).await.map_err(store)
    }
}

/// The build as npm runs it. A user's line is read by npm's own runner inside the sandbox, never by a
/// shell of ours.
fn npm_build(build: &BuildCommand) -> Vec<String> {
    match build {
        BuildCommand::Script(name) => words(&["npm", "run", name]),
        BuildCommand::Tool(argv) => words(&["npm", "exec", "--"]).into_iter().chain(argv.clone()).collect(),
        BuildCommand::Line(line) => words(&["npm", "exec", "--call", line]),
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn store(error: crate::store::StoreError) -> StepError {
    StepError::control(STEP, ControlError::Store(error))
}
