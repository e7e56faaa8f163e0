//! Finds what a build wrote and takes it out: the folder that was named, else the first that looks
//! like a site. Success is an output that exists; no output text is looked at.

use std::path::PathBuf;

use tokio::sync::mpsc;

use super::build::{Bench, STEP};
use super::detect::{self, Advice, BuildPlan, Outputs};
use super::output;
use super::step::StepError;
use crate::sandbox::{CollectLimits, ExecEnd, ExecOrder, SandboxError};

/// Files that left the sandbox.
pub(super) struct Collected {
    pub folder: PathBuf,
    pub files: Vec<String>,
}

/// Listing a build's folders: the time it may take, and the bytes that are read of it.
const LIST_WALL: std::time::Duration = std::time::Duration::from_secs(30);
const LIST_BYTES: usize = 64 * 1024;
const LIST_CHUNKS: usize = 16;
/// Folders that are named to the user.
const NAMED: usize = 5;
/// Every page beneath the work folder; hidden folders are no output unless the table names them.
const LIST: &[&str] = &[
    "find",
    ".",
    "-mindepth",
    "1",
    "-maxdepth",
    "6",
    "(",
    "-name",
    "node_modules",
    "-o",
    "-name",
    ".*",
    ")",
    "-prune",
    "-o",
    "-type",
    "f",
    "-name",
    "index.html",
    "-print",
];

/// Which folder counts as a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accept {
    AnyFile,
    Pages,
    /// Pages, and a file that the source does not have: else nothing was built into it.
    Grown,
}

/// Why a folder was not taken.
enum Refusal {
    Sandbox(SandboxError),
    Step(StepError),
}

impl Bench<'_, '_, '_> {
    pub(super) async fn collect(&mut self, plan: &BuildPlan) -> Result<Collected, StepError> {
        let candidates = match &plan.outputs {
            Outputs::Named(named) => {
                let taken = self.take(plan, named, Accept::AnyFile).await;
                return match taken.map_err(|e| self.why(e))? {
                    Some(collected) => Ok(collected),
                    None => Err(self.nothing_in(plan, named).await?),
                };
            }
            Outputs::Guessed(candidates) => candidates,
        };
        if let Some(advice) = &plan.needs_server {
            for mark in &advice.marks {
                if self.exists(plan, mark).await? {
                    return Err(advised(advice, format!("the build wrote {mark}")));
                }
            }
        }
        // A folder with a start page is more likely the site than one that has pages somewhere.
        let mut ordered = Vec::new();
        for candidate in candidates {
            let page = detect::join(candidate, "index.html");
            let first = self.exists(plan, &page).await?;
            ordered.push((!first, candidate));
        }
        ordered.sort_by_key(|(later, _)| *later);
        let mut unusable = None;
        for (_, candidate) in ordered {
            let accept = if plan.may_be_source(candidate) { Accept::Grown } else { Accept::Pages };
            match self.take(plan, candidate, accept).await {
                Ok(Some(collected)) => return Ok(collected),
                Ok(None) => {}
                // A guessed name may be a script or a link of the project's own; the next may be right.
                Err(Refusal::Sandbox(e @ SandboxError::NotAFolder { .. })) => {
                    unusable = unusable.or(Some(e));
                }
                Err(other) => return Err(self.why(other)),
            }
        }
        self.search(plan, candidates, unusable).await
    }

    /// Nothing where the framework usually writes: its configuration, which is code, may say otherwise.
    async fn search(
        &mut self,
        plan: &BuildPlan,
        candidates: &[String],
        unusable: Option<SandboxError>,
    ) -> Result<Collected, StepError> {
        let written = self.written(plan).await?;
        if let [only] = written.as_slice() {
            let taken = self.take(plan, only, Accept::Pages).await;
            if let Some(collected) = taken.map_err(|e| self.why(e))? {
                return Ok(collected);
            }
        }
        if let Some(advice) = &plan.needs_server {
            let looked = candidates.join(", ");
            return Err(advised(advice, format!("no pages in {looked}")));
        }
        if let Some(error) = unusable {
            return Err(self.refused(error));
        }
        Err(nothing(&candidates.join(", "), &written))
    }

    async fn nothing_in(&mut self, plan: &BuildPlan, named: &str) -> Result<StepError, StepError> {
        let written = self.written(plan).await?;
        Ok(nothing(named, &written))
    }

    /// Copies a folder out, if it is what is looked for.
    async fn take(
        &mut self,
        plan: &BuildPlan,
        candidate: &str,
        accept: Accept,
    ) -> Result<Option<Collected>, Refusal> {
        let settings = &self.walk.control().settings.pipeline;
        let limits = CollectLimits {
            files: settings.output_files,
            total_bytes: settings.output_bytes,
            file_bytes: settings.output_file_bytes,
        };
        let directory = detect::join(&plan.directory, candidate);
        let folder = self.walk.scratch().join("output");
        let local = |e| Refusal::Step(output::local(e));
        tokio::fs::create_dir_all(self.walk.scratch()).await.map_err(local)?;
        let files = match self.sandbox.collect(&directory, &folder, limits).await {
            Ok(files) => files,
            Err(SandboxError::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(Refusal::Sandbox(other)),
        };
        let pages = || files.iter().any(|f| f.path.ends_with(".html"));
        let sources = &self.source.tree.files;
        let grown = || files.iter().any(|f| !sources.contains_key(&detect::join(&directory, &f.path)));
        let fits = match accept {
            Accept::AnyFile => !files.is_empty(),
            Accept::Pages => pages(),
            Accept::Grown => pages() && grown(),
        };
        if !fits {
            // The next folder is copied to the same place.
            tokio::fs::remove_dir_all(&folder).await.map_err(local)?;
            return Ok(None);
        }
        self.name_skipped().await.map_err(Refusal::Step)?;
        let shown = if candidate.is_empty() { "." } else { candidate };
        self.say(&format!("libra: output found in {shown}/"));
        Ok(Some(Collected { folder, files: files.into_iter().map(|f| f.path).collect() }))
    }

    async fn exists(&mut self, plan: &BuildPlan, path: &str) -> Result<bool, StepError> {
        let path = detect::join(&plan.directory, path);
        match self.sandbox.exists(&path).await {
            Ok(there) => Ok(there),
            // A name on the way is a link or a file: what is looked for is not there.
            Err(e) if e.is_user_fault() => Ok(false),
            Err(e) => Err(self.refused(e)),
        }
    }

    /// Folders with a start page that were not in the source, relative to where the build ran. What a
    /// build left may be anything, so it is listed inside the sandbox, and only names come out.
    async fn written(&mut self, plan: &BuildPlan) -> Result<Vec<String>, StepError> {
        let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(LIST_CHUNKS);
        let order = ExecOrder {
            argv: LIST.iter().map(|w| (*w).to_owned()).collect(),
            env: Vec::new(),
            directory: plan.directory.clone(),
            wall: Some(LIST_WALL),
            network: false,
        };
        let reading = async {
            let mut text = Vec::new();
            while let Some(chunk) = receiver.recv().await {
                let room = LIST_BYTES.saturating_sub(text.len());
                text.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            text
        };
        let running = self.sandbox.exec(order, sender, self.walk.cancel.clone());
        let (outcome, text) = tokio::join!(running, reading);
        let outcome = outcome.map_err(|e| self.refused(e))?;
        if outcome.end == ExecEnd::Cancelled {
            return Err(super::run::CANCELLED);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut folders: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("./"))
            .filter(|page| !self.source.tree.files.contains_key(&detect::join(&plan.directory, page)))
            .filter_map(|page| page.strip_suffix("/index.html").map(ToOwned::to_owned))
            .collect();
        folders.sort();
        let inner = |folder: &String| {
            folders.iter().any(|f| folder.strip_prefix(f.as_str()).is_some_and(|rest| rest.starts_with('/')))
        };
        Ok(folders.iter().filter(|f| !inner(f)).take(NAMED).map(|f| self.log.mask(f)).collect())
    }

    fn why(&self, refusal: Refusal) -> StepError {
        match refusal {
            Refusal::Step(error) => error,
            Refusal::Sandbox(error) => self.refused(error),
        }
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
            self.say(&line);
        }
        Ok(())
    }
}

fn advised(advice: &Advice, evidence: String) -> StepError {
    StepError::user(STEP, &advice.summary, &advice.hint).with_evidence(evidence)
}

fn nothing(looked: &str, written: &[String]) -> StepError {
    let looked = if looked.is_empty() { "." } else { looked };
    let (hint, evidence) = if written.is_empty() {
        ("Set build.outputDirectory to the folder that the build writes.", format!("looked for: {looked}"))
    } else {
        (
            "Set build.outputDirectory to the folder that the build writes; the evidence names folders with an index.html.",
            format!("looked for: {looked}; pages were written to: {}", written.join(", ")),
        )
    };
    StepError::user(STEP, "The build produced no output.", hint).with_evidence(evidence)
}
