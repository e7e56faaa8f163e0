//! Why a command of a build failed, with the line that proves it. Pure: it is told what happened and
//! decides nothing about success. A wrong diagnosis is worse than none, so what proves nothing is left
//! to the log.

mod rules;
#[cfg(test)]
mod tests;

use rules::{Pattern, Rule};

use crate::domain::{Cause, Fault, Step};
use crate::sandbox::LimitHit;

pub use rules::Phase;

/// Newest lines that are read: a log of empty lines must not keep the server busy.
const READ: usize = 2_000;
/// Lines of evidence, and bytes of one.
const LINES: usize = 3;
const LINE_BYTES: usize = 400;
/// Endings that an import leaves out.
const ENDINGS: &[&str] =
    &[".ts", ".tsx", ".js", ".jsx", ".mjs", ".vue", ".svelte", ".astro", ".css", ".json", ".mts", ".d.ts"];

/// A command that ended with an exit code other than 0.
pub struct Failure<'a, F> {
    pub phase: Phase,
    /// The install was ours to choose: only then may a fault be the platform's.
    pub detected_install: bool,
    /// The newest output of that command, masked.
    pub log: &'a str,
    /// Paths of the project's source.
    pub files: F,
}

/// The cause, if the output proves one.
pub fn diagnose<'f, F>(failure: &Failure<'_, F>) -> Option<Cause>
where
    F: Iterator<Item = &'f str> + Clone,
{
    let (rule, evidence) = decide(failure)?;
    let class = if rule.platform { Fault::Platform } else { Fault::User };
    Some(Cause::new(class, Some(Step::Build), &rule.summary, &rule.hint).with_evidence(evidence))
}

fn decide<'f, F>(failure: &Failure<'_, F>) -> Option<(&'static Rule, String)>
where
    F: Iterator<Item = &'f str> + Clone,
{
    let allowed = |rule: &&Rule| {
        rule.phase.is_none_or(|phase| phase == failure.phase) && (!rule.platform || failure.detected_install)
    };
    let mut lines: Vec<&str> = failure.log.lines().rev().take(READ).collect();
    lines.reverse();
    let of = |patterns: &[Pattern]| {
        let fits = |line: &&&str| patterns.iter().any(|pattern| pattern.fits(line));
        lines.iter().filter(fits).map(|line| line.trim()).collect::<Vec<_>>()
    };
    let (rule, found) = rules::all()
        .iter()
        .filter(allowed)
        .map(|rule| (rule, of(&rule.lines)))
        .find(|(_, found)| !found.is_empty())?;
    if rule.name == "missing-module"
        && let Some((line, file)) = other_case(&found, &failure.files)
        && let Some(rule) = rules::named("case")
    {
        return Some((rule, format!("{}\nthe project has {file}", cut(line))));
    }
    let proof = of(&rule.proof);
    let shown = if proof.is_empty() { found } else { proof };
    Some((rule, shown.into_iter().take(LINES).map(cut).collect::<Vec<_>>().join("\n")))
}

/// A line whose import differs from a file of the project in upper and lower case only.
fn other_case<'l, 'f, F>(lines: &[&'l str], files: &F) -> Option<(&'l str, &'f str)>
where
    F: Iterator<Item = &'f str> + Clone,
{
    lines.iter().take(LINES).find_map(|line| {
        let import =
            quoted(line).find(|q| ["./", "../", "@/", "~/", "/"].iter().any(|p| q.starts_with(p)))?;
        let wanted = import.trim_start_matches(['.', '/', '@', '~']);
        let stem = |path: &'f str| ENDINGS.iter().find_map(|e| path.strip_suffix(e)).unwrap_or(path);
        // The import may begin in any folder, and a folder of the machine may stand before it.
        let same = |path: &str| {
            let (short, long) = if path.len() < wanted.len() { (path, wanted) } else { (wanted, path) };
            let at = long.len() - short.len();
            long.is_char_boundary(at)
                && long[at..].eq_ignore_ascii_case(short)
                && (at == 0 || long.as_bytes()[at - 1] == b'/')
        };
        let exact = |path: &str| wanted.ends_with(path) || path.ends_with(wanted);
        let matches = |path: &'f str| [path, stem(path)].into_iter().find(|p| !p.is_empty() && same(p));
        let mut other = None;
        for path in files.clone() {
            match matches(path) {
                Some(form) if exact(form) => return None,
                Some(_) => other = other.or(Some(path)),
                None => {}
            }
        }
        other.map(|file| (*line, file))
    })
}

/// What stands between quotation marks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    ['\'', '"', '`'].into_iter().flat_map(|mark| line.split(mark).skip(1).step_by(2))
}

fn cut(line: &str) -> String {
    let mut line = line.to_owned();
    if line.len() > LINE_BYTES {
        line.truncate(line.floor_char_boundary(LINE_BYTES));
        line.push_str(" …");
    }
    line
}

/// What to do about a limit that ended a build.
pub fn limit_hint(limit: &LimitHit) -> &'static str {
    match limit {
        LimitHit::Memory { .. } => {
            "Make the build need less memory (fewer workers, no source maps), or ask for a higher limit."
        }
        LimitHit::Processes { .. } => {
            "Make the build need less processes at once, or ask for a higher limit."
        }
        LimitHit::Cpu { .. } | LimitHit::Wall { .. } => {
            "Make the build need less time, or ask for a higher limit. A command that waits for input or serves never ends."
        }
        LimitHit::Disk { .. }
        | LimitHit::DiskEntries { .. }
        | LimitHit::DiskUnmeasurable
        | LimitHit::DiskShare { .. } => {
            "Make the build need less disk: dependencies, caches and output count together. Or ask for a higher limit."
        }
        LimitHit::Output { .. } => "Make the build need less output: print less, or ask for a higher limit.",
    }
}
